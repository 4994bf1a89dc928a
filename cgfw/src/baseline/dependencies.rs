//! What runs depend on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::audit::{Endpoint, Outcome, Service};
use crate::digest::{Run, Target, Total, is_dynamic};
use crate::escape::Plain;
use crate::event::Verdict;
use crate::policy::Domain;

/// Where temporary files are, in directories whose names are made up anew each time.
const TEMPORARY: [&str; 2] = ["/tmp/", "/var/tmp/"];
/// Zones of names that are made of addresses (RFC 1035 section 3.5, RFC 3596 section 2.5).
const REVERSE: [&str; 2] = ["in-addr.arpa", "ip6.arpa"];

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
            let Some(target) = lasting(target) else {
                continue;
            };
            let dependency = all.entry(target).or_insert_with(|| Dependency {
                verdict: total.verdict,
                ports: BTreeSet::new(),
                commands: BTreeSet::new(),
            });
            dependency.add(total);
        }
        Self(all)
    }

    /// What of them is kept in a file: no commands, but the programs that these are.
    #[must_use]
    pub fn kept(mut self) -> Self {
        for dependency in self.0.values_mut() {
            let commands = dependency.commands.iter();
            dependency.commands = commands.map(|command| program(command)).collect();
        }
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Target, &Dependency)> {
        self.0.iter()
    }

    /// The targets of `run` that are not among these, in their order.
    pub fn lacking(&self, run: &Run) -> Vec<String> {
        let targets = run.targets.iter().map(|(target, _)| target);
        let new: BTreeSet<Target> = targets
            .filter_map(lasting)
            .filter(|target| !self.0.contains_key(target))
            .collect();
        new.iter().map(ToString::to_string).collect()
    }
}

/// The target as it is the next time, too; `None` if it is this host itself, which nobody
/// depends on.
///
/// Which address is asked for its name is as little of a dependency as the address of a name
/// is; and no port or path that is made up anew each time is one.
fn lasting(target: &Target) -> Option<Target> {
    let endpoint = |to: &Endpoint| Endpoint {
        ip: to.ip.to_canonical(),
        port: if is_dynamic(to.port) { 0 } else { to.port },
        proto: to.proto.clone(),
    };
    match target {
        Target::Name(name) => {
            let zone = |zone: &str| Domain::parse(zone).ok().filter(|zone| name.is_within(zone));
            if zone("localhost").is_some() {
                return None;
            }
            let reverse = REVERSE.into_iter().find_map(zone);
            Some(Target::Name(reverse.unwrap_or_else(|| name.clone())))
        }
        Target::Address(to) => {
            let to = endpoint(to);
            let is_here = to.ip.is_loopback() || to.ip.is_unspecified();
            (!is_here).then_some(Target::Address(to))
        }
        Target::Service(service) => Some(Target::Service(match service {
            Service::Port(to) => Service::Port(endpoint(to)),
            Service::Socket { socket } => Service::Socket {
                socket: lasting_path(socket),
            },
        })),
    }
}

/// The name of a unix socket; of a temporary one without its directories and without digits:
/// `/tmp/*/agent.*` for `/tmp/ssh-Xd3ff/agent.4711`.
fn lasting_path(socket: &str) -> String {
    let temporary = TEMPORARY.into_iter().find_map(|directory| {
        let below = socket.strip_prefix(directory)?;
        Some((directory, below))
    });
    let Some((directory, below)) = temporary else {
        return socket.to_owned();
    };
    let (between, name) = match below.rsplit_once('/') {
        Some((_, name)) => ("*/", name),
        None => ("", below),
    };
    let mut lasting = format!("{directory}{between}");
    let mut was_digit = false;
    for c in name.chars() {
        let is_digit = c.is_ascii_digit();
        match (is_digit, was_digit) {
            (false, _) => lasting.push(c),
            (true, false) => lasting.push('*'),
            (true, true) => {}
        }
        was_digit = is_digit;
    }
    lasting
}

impl Dependency {
    /// Whether it is the same but for who needs it. What would be blocked is as forbidden as
    /// what is.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let is_allowed = |one: &Self| one.verdict == Verdict::Allowed;
        is_allowed(self) == is_allowed(other) && self.ports == other.ports
    }

    fn add(&mut self, total: &Total) {
        self.verdict = self.verdict.max(total.verdict);
        self.ports.extend(total.ports.iter().cloned());
        let commands = total.commands.iter().map(ToString::to_string);
        self.commands.extend(commands);
    }
}

/// The name of the program in a command line.
fn program(command: &str) -> String {
    let first = shlex::Shlex::new(command).next();
    let first = first.as_deref().unwrap_or(command);
    // Of a process that has overwritten its arguments: `sshd: dev@pts/3`.
    let (first, _) = first.split_once(": ").unwrap_or((first, ""));
    first.rsplit('/').next().unwrap_or(first).to_owned()
}

/// Why runs may depend on more than their logs say.
pub(super) fn caveats(runs: &[Run]) -> Vec<String> {
    let mut caveats = Vec::new();
    for run in runs {
        let id = Plain(run.id.as_bytes());
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
        let outcome = run.end.as_ref().map(|end| end.outcome);
        if !matches!(outcome, None | Some(Outcome::Exited | Outcome::Killed)) {
            caveats.push(format!("the command of run {id} did not come to its end"));
        }
        if !run.moved.is_empty() {
            caveats.push(format!("run {id} had processes moved out of its cgroup"));
        }
    }
    caveats
}
