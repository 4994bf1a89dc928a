/*!
Who listens at a unix socket or at a port of this host, and whether that is a process of
the run.

The kernel side sees where a process turns to, and this looks for who is there, a moment
later: what has changed meanwhile is seen as it is now. A child that wants to can make
use of that, so what is found here explains, and never permits. What cannot be found out is
[`Found::Outside`] without a peer, so that it is told rather than forgotten.
*/

mod budget;
mod diag;
mod holders;
mod view;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::unistd::Pid;

pub use self::holders::argv;

use self::budget::Budget;
use self::holders::Holder;
use self::view::View;
use crate::event::{Peer, Process, Service};

/// How many sockets are remembered with who holds them.
const KNOWN_MAX: usize = 1024;

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A process of the run.
    Inside,
    /// A process outside of it, if it is known which.
    Outside(Option<Peer>),
    /// Nobody: to turn there fails.
    Nobody,
}

/// Looks for who is there, and remembers it for as long as it is true.
#[derive(Debug, Default)]
pub struct Peers {
    /// By the inode number of the socket.
    known: HashMap<u32, Known>,
    budget: Budget,
    skipped: u64,
}

/// One who holds a socket.
#[derive(Debug)]
struct Known {
    holder: Holder,
    /// `None` for a process of the run.
    outside: Option<Peer>,
}

impl Peers {
    /// Look for who is at `service`, to which `asker` turned. `inside` lists the processes
    /// of the run.
    ///
    /// A socket that a process of the run holds is [`Found::Inside`], whoever else holds
    /// it. If several sockets have the address, as one for each type can have the same
    /// abstract name, one outside is what is told.
    ///
    /// May take some milliseconds on a machine with many processes, but altogether no more
    /// than a tenth of the time; what would take longer is not looked for, and counted.
    ///
    /// Fails where the kernel does not list its sockets: sock_diag(7), with
    /// CONFIG_UNIX_DIAG, CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG.
    pub fn find(
        &mut self,
        asker: &Process,
        service: &Service,
        inside: impl Fn() -> io::Result<Vec<Pid>>,
    ) -> anyhow::Result<Found> {
        let view = View::of(asker);
        // Every program looks for nscd: that there is nobody must be cheap to find.
        let target = match service {
            Service::Path(name) => match view.open(name) {
                Ok(file) if view::is_bound(&file)? => Target::File(file),
                Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Found::Nobody),
                Err(_) => return Ok(Found::Outside(None)),
            },
            Service::Abstract(name) => Target::Abstract(name),
            Service::Port { address, protocol } => Target::Port(*address, *protocol),
        };
        let started = Instant::now();
        if !self.budget.allows(started) {
            self.skipped += 1;
            return Ok(Found::Outside(None));
        }
        let found = match target.sockets(&view) {
            Ok(Some(sockets)) => self.held(sockets, inside),
            Ok(None) => Ok(Found::Outside(None)),
            Err(error) => Err(error).context("cannot list the kernel's sockets"),
        };
        self.budget.spend(started, started.elapsed());
        found
    }

    /// How often nobody was looked for, or not to the end, because it took too long.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Who holds `sockets`.
    fn held(
        &mut self,
        mut sockets: Vec<u32>,
        inside: impl Fn() -> io::Result<Vec<Pid>>,
    ) -> anyhow::Result<Found> {
        if sockets.is_empty() {
            return Ok(Found::Nobody);
        }
        let list = || inside().context("cannot list the processes of the run");
        let before = list()?;
        let mut outside = None;
        sockets.retain(|socket| match self.known(*socket, &before) {
            Some(None) => false,
            Some(Some(peer)) => {
                outside = Some(peer.clone());
                false
            }
            None => true,
        });
        if outside.is_some() || sockets.is_empty() {
            return Ok(outside.map_or(Found::Inside, |peer| Found::Outside(Some(peer))));
        }
        let search = holders::search(&sockets, &before).context("cannot list /proc")?;
        self.skipped += u64::from(search.cut_short);
        let all_inside = search.inside.len() == sockets.len();
        for holder in search.inside {
            self.remember(holder, None);
        }
        match search.outside {
            // A process that was forked meanwhile.
            Some((holder, _)) if list()?.contains(&holder.pid) => Ok(Found::Inside),
            Some((holder, peer)) => {
                self.remember(holder, Some(peer.clone()));
                Ok(Found::Outside(Some(peer)))
            }
            None if all_inside => Ok(Found::Inside),
            None => Ok(Found::Outside(None)),
        }
    }

    fn remember(&mut self, holder: Holder, outside: Option<Peer>) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let known = Known { holder, outside };
        self.known.insert(known.holder.socket, known);
    }

    /// Who was found to hold `socket`, `None` for a process of the run, if that still holds.
    fn known(&self, socket: u32, inside: &[Pid]) -> Option<&Option<Peer>> {
        let known = self.known.get(&socket)?;
        let is_true = holders::socket_at(&known.holder.descriptor) == Some(socket)
            && inside.contains(&known.holder.pid) == known.outside.is_none();
        is_true.then_some(&known.outside)
    }
}

/// What to look for in the kernel's tables.
enum Target<'a> {
    File(OwnedFd),
    Abstract(&'a [u8]),
    Port(SocketAddr, u8),
}

impl Target<'_> {
    /// The inode numbers of the sockets there; `None` if that cannot be known.
    fn sockets(&self, view: &View) -> io::Result<Option<Vec<u32>>> {
        match self {
            Self::File(file) => {
                let sockets = view.sockets_of(file)?;
                // Somebody is bound to it. In a network namespace that is neither ours nor
                // the asker's, as that of a container, it is not seen.
                Ok(sockets.filter(|sockets| !sockets.is_empty()))
            }
            Self::Abstract(name) => view.in_network(|| diag::abstract_name(name)).map(Some),
            Self::Port(address, protocol) => {
                view.in_network(|| diag::listeners(*address, *protocol))
            }
        }
    }
}
