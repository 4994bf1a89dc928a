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
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::unistd::Pid;

pub use self::holders::argv;

use self::budget::Budget;
use self::holders::Search;
use self::view::{Identity, View};
use crate::event::{Peer, Process, Service};

/// How long an answer holds: who asks the same again and again is not looked for each time.
const FRESH: Duration = Duration::from_secs(1);
/// How many answers are kept.
const RECENT_MAX: usize = 1024;

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

/// Looks for who is there, and remembers it for a moment.
#[derive(Debug, Default)]
pub struct Peers {
    recent: HashMap<Place, (Instant, Found)>,
    budget: Budget,
    skipped: u64,
}

/// The socket file, or the network namespace, and the address there.
type Place = (Identity, Service);

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
        let now = Instant::now();
        let (target, within) = match service {
            // Every program looks for nscd: that there is nobody must be cheap to find.
            Service::Path(name) => match view.open(name) {
                Ok((file, within)) if view::is_bound(&file)? => (Target::File(file), within),
                Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Found::Nobody),
                Err(_) => return Ok(Found::Outside(None)),
            },
            Service::Abstract(name) => (Target::Abstract(name), view.network()?),
            Service::Port { address, protocol } => {
                (Target::Port(*address, *protocol), view.network()?)
            }
        };
        let place = (within, service.clone());
        if let Some((at, found)) = self.recent.get(&place)
            && now.duration_since(*at) < FRESH
        {
            return Ok(found.clone());
        }
        if !self.budget.allows(now) {
            self.skipped += 1;
            return Ok(Found::Outside(None));
        }
        let found = self.look(&target, &view, inside);
        self.budget.spend(now, now.elapsed());
        let found = found?;
        self.remember(place, now, &found);
        Ok(found)
    }

    /// How often nobody was looked for, or not to the end, because it took too long.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn look(
        &mut self,
        target: &Target<'_>,
        view: &View,
        inside: impl Fn() -> io::Result<Vec<Pid>>,
    ) -> anyhow::Result<Found> {
        let inside = || inside().context("cannot list the processes of the run");
        let sockets = target
            .sockets(view)
            .context("cannot list the sockets of the kernel")?;
        let Some(sockets) = sockets else {
            return Ok(Found::Outside(None));
        };
        if sockets.is_empty() {
            return Ok(Found::Nobody);
        }
        let search = holders::search(&sockets, &inside()?).context("cannot list /proc")?;
        Ok(match search {
            Search::Inside => Found::Inside,
            // A process that was forked meanwhile.
            Search::Outside(pid, _) if inside()?.contains(&pid) => Found::Inside,
            Search::Outside(_, peer) => Found::Outside(Some(peer)),
            Search::Nobody => Found::Outside(None),
            Search::CutShort => {
                self.skipped += 1;
                Found::Outside(None)
            }
        })
    }

    fn remember(&mut self, place: Place, now: Instant, found: &Found) {
        // Somebody can come any moment.
        if *found == Found::Nobody {
            return;
        }
        if self.recent.len() >= RECENT_MAX {
            self.recent.clear();
        }
        self.recent.insert(place, (now, found.clone()));
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
