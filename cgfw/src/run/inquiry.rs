//! What the kernel side could not know of an event, found out as it is entered.

use std::io;

use nix::unistd::Pid;

use super::search::{Completed, Search};
use crate::cgroup::Members;
use crate::event::{Directory, Event, Fact, Moved, Service};
use crate::ledger::Ledger;
use crate::peers::{self, Found};
use crate::report::Report;

/// Looks for who listens, and brings back who was taken out.
pub(super) struct Inquiry {
    search: Search,
    members: Members,
    said_that_peers_are_unknown: bool,
    /// Whether a process was taken out, which may have had children there.
    strays: bool,
    /// Whether processes that leave are meant to.
    released: bool,
}

impl Inquiry {
    pub(super) fn new(members: Members) -> io::Result<Self> {
        Ok(Self {
            search: Search::start(members.clone())?,
            members,
            said_that_peers_are_unknown: false,
            strays: false,
            released: false,
        })
    }

    /// Find out what is missing; `None` if that makes the event moot, or takes its time:
    /// then it comes back from [`Self::found`].
    pub(super) fn complete(&mut self, mut event: Event, report: &mut Report) -> Option<Event> {
        match &mut event.fact {
            // What cannot be looked for is told as it is.
            Fact::Delegation(_) => return self.search.ask(event),
            Fact::Moved(_) if self.released => return None,
            Fact::Moved(moved) => self.take_back(moved, report),
            Fact::Query(_)
            | Fact::Asked { .. }
            | Fact::Contact(_)
            | Fact::Repeats(_)
            | Fact::Ended(_)
            | Fact::Known { .. }
            | Fact::Forked { .. }
            | Fact::Executed(_)
            | Fact::Exited { .. }
            | Fact::Found { .. }
            | Fact::Lost(_) => {}
        }
        Some(event)
    }

    /// Where somebody works who acted and changed directories without executing anything there,
    /// if that can still be found out.
    pub(super) fn place(&self, event: &Event, ledger: &Ledger) -> Option<Event> {
        let process = event.fact.actor()?;
        let directory = process.directory;
        if directory == Directory::default() || ledger.knows_place_of(process) {
            return None;
        }
        let pid = Pid::from_raw(process.pid.cast_signed());
        let place = self.members.working_directory(pid, process.started)?;
        let is_it = (place.device, place.inode) == (directory.device, directory.inode);
        is_it.then_some(Event {
            time: event.time,
            fact: Fact::Found {
                directory,
                path: place.path,
            },
        })
    }

    /// The next event that took its time, if it is complete and not moot.
    pub(super) fn found(&mut self, report: &mut Report) -> Option<Event> {
        while let Some(completed) = self.search.next() {
            let event = self.settled(completed, report);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// All others, at the end of the run.
    pub(super) fn finish(&mut self, report: &mut Report) -> Vec<Event> {
        let rest = self.search.finish();
        rest.into_iter()
            .filter_map(|completed| self.settled(completed, report))
            .collect()
    }

    /// When some events have been completed: bring back whom those left behind that were
    /// taken out.
    pub(super) fn settle(&mut self, report: &mut Report) {
        if std::mem::take(&mut self.strays)
            && let Err(error) = self.members.take_back_descendants()
        {
            report.error(&format!(
                "cannot move all processes back that were moved out of the cgroup: {error}"
            ));
        }
    }

    /// From now on processes that leave are meant to.
    pub(super) fn release(&mut self) {
        self.released = true;
    }

    /// The delegation with its peer; `None` if nobody listens, or the child itself.
    fn settled(&mut self, (mut event, found): Completed, report: &mut Report) -> Option<Event> {
        let found = found.unwrap_or_else(|error| {
            if !std::mem::replace(&mut self.said_that_peers_are_unknown, true) {
                let error = format!("cannot find out who listens on this host: {error:#}");
                report.error(&error);
            }
            Found::Outside(None)
        });
        if let Fact::Delegation(delegation) = &mut event.fact {
            // Of ports the kernel side has looked itself, at the moment of the act.
            let is_port = matches!(delegation.service, Service::Port { .. });
            match found {
                Found::Outside(peer) => delegation.peer = peer,
                Found::Inside | Found::Nobody if is_port => {}
                Found::Inside | Found::Nobody => return None,
            }
        }
        Some(event)
    }

    fn take_back(&mut self, moved: &mut Moved, report: &mut Report) {
        let pid = Pid::from_raw(moved.process.pid.cast_signed());
        let fate = self.members.take_back(pid, moved.process.started);
        moved.is_back = fate.is_back.unwrap_or_else(|error| {
            let error = format!("cannot move process {pid} back into the cgroup: {error}");
            report.error(&error);
            false
        });
        if !fate.found_in.is_empty() {
            // The kernel side can read the arguments of who acts, which was somebody else.
            moved.process.argv = peers::argv(pid);
            moved.process.truncated = false;
        }
        moved.to = fate.found_in;
        self.strays = true;
    }
}
