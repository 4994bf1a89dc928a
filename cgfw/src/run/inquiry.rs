//! What the kernel side could not know of an event, found out as it is entered.

use nix::unistd::Pid;

use crate::cgroup::Members;
use crate::event::{Delegation, Event, Fact, Moved, Service};
use crate::peers::{self, Found, Peers};
use crate::report::Report;

/// Looks for who listens, and brings back who was taken out.
pub(super) struct Inquiry {
    peers: Peers,
    members: Members,
    said_that_peers_are_unknown: bool,
    /// Whether a process was taken out, which may have had children there.
    strays: bool,
    /// Whether processes that leave are meant to.
    released: bool,
}

impl Inquiry {
    pub(super) fn new(members: Members) -> Self {
        Self {
            peers: Peers::default(),
            members,
            said_that_peers_are_unknown: false,
            strays: false,
            released: false,
        }
    }

    /// Find out what is missing; `None` if that makes the event moot.
    pub(super) fn complete(&mut self, mut event: Event, report: &mut Report) -> Option<Event> {
        let is_moot = match &mut event.fact {
            Fact::Delegation(delegation) => self.is_to_the_child(delegation, report),
            Fact::Moved(_) if self.released => true,
            Fact::Moved(moved) => {
                self.take_back(moved, report);
                false
            }
            Fact::Query(_)
            | Fact::Asked { .. }
            | Fact::Contact(_)
            | Fact::Repeats(_)
            | Fact::Known { .. }
            | Fact::Lost(_) => false,
        };
        (!is_moot).then_some(event)
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

    /// Find out who listens; whether nobody does, or the child itself.
    fn is_to_the_child(&mut self, delegation: &mut Delegation, report: &mut Report) -> bool {
        let members = &self.members;
        let found = self
            .peers
            .find(&delegation.process, &delegation.service, || {
                members.processes()
            });
        let found = found.unwrap_or_else(|error| {
            if !std::mem::replace(&mut self.said_that_peers_are_unknown, true) {
                let error = format!("cannot find out who listens on this host: {error:#}");
                report.error(&error);
            }
            Found::Outside(None)
        });
        // Of ports the kernel side has looked itself, at the moment of the act.
        let is_port = matches!(delegation.service, Service::Port { .. });
        match found {
            Found::Outside(peer) => {
                delegation.peer = peer;
                false
            }
            Found::Inside | Found::Nobody => !is_port,
        }
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
