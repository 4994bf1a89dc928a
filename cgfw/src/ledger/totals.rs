//! What a run adds up to: a line of the summary for each name, and for each address
//! that no name led to.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Act, Destination, Observation};
use crate::event::{Process, Verdict};
use crate::policy::{Domain, Rule};

/// Names and addresses that are counted one by one.
const MAX_TARGETS: usize = 1 << 16;
/// Different command lines that are remembered of those who needed a target.
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
    /// Octets of commands and other names so far, at the most [`MAX_DETAILS`].
    details: usize,
}

/// Who was contacted: a name, or an address that no name led to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Name(Domain),
    Address(Destination),
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
        }
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
            Act::Contact { also, .. } => {
                self.contacts += count;
                for name in also {
                    if self.also.len() < MAX_COMMANDS
                        && !self.also.contains(name)
                        && has_room(DETAIL + name.as_wire().len())
                    {
                        self.also.push(name.clone());
                    }
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

fn octets(process: &Process) -> usize {
    let arguments = process.argv.iter();
    let arguments: usize = arguments.map(|argument| DETAIL + argument.len()).sum();
    size_of::<Process>() + process.comm.len() + arguments
}
