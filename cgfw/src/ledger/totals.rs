//! What a run adds up to: a line of the summary for each name, for each address that no
//! name led to, and for each service of others on this host.

use std::collections::HashMap;
use std::sync::Arc;

use super::processes::octets;
use super::{Act, Destination, Observation, Reason};
use crate::event::{Moved, Peer, Process, Service, Verdict};
use crate::policy::{Domain, Rule};

/// Names and addresses that are counted one by one.
const MAX_TARGETS: usize = 1 << 16;
/// Different command lines that are remembered of those who needed a target, or who
/// were moved out.
const MAX_COMMANDS: usize = 16;
/// What all of those and the other names of targets may take, in octets.
const MAX_DETAILS: usize = 64 << 20;
/// What an argument or a name takes besides its octets.
const DETAIL: usize = 32;

/// The sums of a run.
#[derive(Debug, Default)]
pub struct Totals {
    pub(super) targets: HashMap<Target, Total>,
    pub(super) lost: u64,
    pub(super) forgotten: u64,
    /// Acts on targets beyond [`MAX_TARGETS`].
    uncounted: u64,
    moved: Vec<Moved>,
    /// Moves beyond those.
    more_moved: u64,
    /// Octets of commands and other names so far, at the most [`MAX_DETAILS`].
    details: usize,
}

/// Who was contacted: a name, an address that no name led to, or a process on this host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Name(Domain),
    Address(Destination),
    Service(Service),
}

/// What happened to one target.
#[derive(Clone, Debug)]
pub struct Total {
    /// The severest of all verdicts.
    pub verdict: Verdict,
    /// DNS questions.
    pub lookups: u64,
    /// Connections, and destinations that packets were sent to.
    pub contacts: u64,
    /// How many of both were blocked, or would have been.
    pub blocked: u64,
    /// Whether it passed although no name led there and no rule spoke of it.
    pub unjudged: bool,
    /// What decided the severest verdict first, and the name it matched if another.
    pub rule: Option<Arc<Rule>>,
    pub matched: Option<Domain>,
    /// Other names of the addresses that were contacted.
    pub also: Vec<Domain>,
    /// Processes with different command lines, in the order of their first acts.
    pub processes: Vec<Arc<Process>>,
    /// Whether there were more than [`Self::processes`] has room for.
    pub more_processes: bool,
    /// Acts of which the process is not known.
    pub unattributed: u64,
    /// `None` unless the target does the network for the child.
    pub delegated: Option<Delegated>,
}

/// How the child had its network done by others.
#[derive(Clone, Debug, Default)]
pub struct Delegated {
    /// Whether it did so without a rule that acknowledges it.
    pub unacknowledged: bool,
    /// Who listens there, each command line once; empty if it could not be found out.
    pub peers: Vec<Peer>,
    /// Where the target is named as one that does so: `http_proxy`.
    pub via: Option<Arc<str>>,
}

impl Delegated {
    fn add_peer(&mut self, peer: &Peer) {
        let is_known = |known: &Peer| known.argv == peer.argv && known.comm == peer.comm;
        if self.peers.len() < MAX_COMMANDS && !self.peers.iter().any(is_known) {
            self.peers.push(peer.clone());
        }
    }
}

impl Totals {
    /// Everything that was contacted, in no particular order.
    pub fn targets(&self) -> impl Iterator<Item = (&Target, &Total)> {
        self.targets.iter()
    }

    /// Observations that got lost between the kernel and the ledger.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Acts and addresses for which there was no room in the books: more targets, or
    /// more addresses of names, than any sensible run has.
    pub fn overflowed(&self) -> u64 {
        self.uncounted + self.forgotten
    }

    /// Whether anything was refused.
    pub fn any_blocked(&self) -> bool {
        self.targets
            .values()
            .any(|total| total.verdict == Verdict::Blocked)
    }

    /// The processes that were moved out, as far as there is room for them.
    pub fn moved(&self) -> &[Moved] {
        &self.moved
    }

    /// How often processes were moved out beyond [`Self::moved`].
    pub fn more_moved(&self) -> u64 {
        self.more_moved
    }

    /// Whether it is known already that this process was moved out, or is back.
    pub fn knows_moved(&self, moved: &Moved) -> bool {
        let is_it = |known: &Moved| is_same(known, moved) && known.is_back == moved.is_back;
        self.moved.iter().any(is_it)
    }

    /// Of a process that is moved again, the last move counts.
    pub(super) fn add_moved(&mut self, moved: Moved) {
        if let Some(known) = self.moved.iter_mut().find(|known| is_same(known, &moved)) {
            *known = moved;
        } else if self.moved.len() < MAX_COMMANDS {
            self.moved.push(moved);
        } else {
            self.more_moved += 1;
        }
    }

    pub(super) fn add(&mut self, target: Target, observation: &Observation, unjudged: bool) {
        if self.targets.len() >= MAX_TARGETS && !self.targets.contains_key(&target) {
            self.uncounted += observation.count;
            return;
        }
        let total = self
            .targets
            .entry(target)
            .or_insert_with(|| Total::new(observation));
        total.add(observation, &mut self.details);
        total.unjudged |= unjudged;
    }
}

impl Total {
    fn new(observation: &Observation) -> Self {
        Self {
            verdict: observation.verdict,
            lookups: 0,
            contacts: 0,
            blocked: 0,
            unjudged: false,
            rule: observation.rule.clone(),
            matched: observation.matched.clone(),
            also: Vec::new(),
            processes: Vec::new(),
            more_processes: false,
            unattributed: 0,
            delegated: None,
        }
    }

    fn delegate(&mut self, reason: Reason) -> &mut Delegated {
        let delegated = self.delegated.get_or_insert_default();
        delegated.unacknowledged |= reason != Reason::Acknowledged;
        delegated
    }

    fn add(&mut self, observation: &Observation, details: &mut usize) {
        let mut has_room = |octets: usize| {
            let is_free = *details + octets <= MAX_DETAILS;
            *details += if is_free { octets } else { 0 };
            is_free
        };
        let count = observation.count;
        match &observation.act {
            Act::Query(_) => self.lookups += count,
            Act::Contact { also, via, .. } => {
                self.contacts += count;
                for name in also {
                    if self.also.len() < MAX_COMMANDS
                        && !self.also.contains(name)
                        && has_room(DETAIL + name.as_wire().len())
                    {
                        self.also.push(name.clone());
                    }
                }
                if via.is_some() {
                    self.delegate(observation.reason).via.clone_from(via);
                }
            }
            Act::Delegation { peer, .. } => {
                self.contacts += count;
                let delegated = self.delegate(observation.reason);
                if let Some(peer) = peer {
                    delegated.add_peer(peer);
                }
            }
        }
        if observation.verdict != Verdict::Allowed {
            self.blocked += count;
        }
        // `Allowed` is the least, and the other two do not meet in one run.
        if observation.verdict > self.verdict {
            self.verdict = observation.verdict;
            self.rule.clone_from(&observation.rule);
            self.matched.clone_from(&observation.matched);
        }
        let Some(process) = &observation.process else {
            self.unattributed += count;
            return;
        };
        let is_known =
            |known: &Arc<Process>| known.argv == process.argv && known.comm == process.comm;
        if self.processes.iter().any(is_known) {
            return;
        }
        if self.processes.len() < MAX_COMMANDS && has_room(octets(process)) {
            self.processes.push(Arc::clone(process));
        } else {
            self.more_processes = true;
        }
    }
}

fn is_same(one: &Moved, other: &Moved) -> bool {
    one.process.id() == other.process.id()
}
