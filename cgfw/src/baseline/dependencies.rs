//! What runs depend on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::{Run, Target, Total};
use crate::event::Verdict;

/// What some runs depend on, in the order of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependencies(pub(super) BTreeMap<Target, Dependency>);

/// How something is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The severest that there was.
    pub verdict: Verdict,
    /// Where it was contacted: `443/tcp`. Empty for a name that was only looked up.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<String>,
    /// By what: names of programs in a baseline, whole command lines of a run, unescaped.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub commands: BTreeSet<String>,
}

impl Dependencies {
    /// Of some runs together.
    pub fn of(runs: &[Run]) -> Self {
        let mut all: BTreeMap<Target, Dependency> = BTreeMap::new();
        for (target, total) in runs.iter().flat_map(|run| run.targets.iter()) {
            let dependency = all.entry(target.clone()).or_insert_with(|| Dependency {
                verdict: total.verdict,
                ports: BTreeSet::new(),
                commands: BTreeSet::new(),
            });
            dependency.add(total);
        }
        Self(all)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Target, &Dependency)> {
        self.0.iter()
    }

    /// The targets of `run` that are not among these, in their order.
    pub fn lacking(&self, run: &Run) -> Vec<String> {
        let targets = run.targets.iter().map(|(target, _)| target);
        let new: BTreeSet<&Target> = targets
            .filter(|target| !self.0.contains_key(target))
            .collect();
        new.into_iter().map(ToString::to_string).collect()
    }
}

impl Dependency {
    fn add(&mut self, total: &Total) {
        self.verdict = self.verdict.max(total.verdict);
        self.ports.extend(total.ports.iter().cloned());
        let commands = total.commands.iter().map(ToString::to_string);
        self.commands.extend(commands);
    }

    /// The programs that need it, without what differs from run to run.
    pub(super) fn programs(&self) -> BTreeSet<String> {
        self.commands
            .iter()
            .map(|command| program(command))
            .collect()
    }
}

/// The name of the program in a command line.
fn program(command: &str) -> String {
    let first = shlex::Shlex::new(command).next();
    let first = first.as_deref().unwrap_or(command);
    first.rsplit('/').next().unwrap_or(first).to_owned()
}

/// Why runs may depend on more than their logs say.
pub(super) fn caveats(runs: &[Run]) -> Vec<String> {
    let mut caveats = Vec::new();
    for run in runs {
        let id = &run.id;
        if run.lost > 0 {
            caveats.push(format!("run {id} lost {} observations", run.lost));
        }
        if let Some(end) = run.end.as_ref().filter(|end| end.lines_lost > 0) {
            caveats.push(format!("run {id} lost {} lines of its log", end.lines_lost));
        }
        if run.targets.uncounted > 0 {
            caveats.push(format!("run {id} had more targets than are counted"));
        }
        if run.start.is_none() || run.end.is_none() {
            caveats.push(format!("the log of run {id} is not complete"));
        }
    }
    caveats
}
