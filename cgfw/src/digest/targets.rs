//! Who was contacted: a row of a report for each name, for each address that no name led to,
//! and for each service of others.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Run;
use super::processes::{ProcessKey, Step};
use crate::audit::{self, Act, Delegation, Dns, Endpoint, Service};
use crate::escape::command_line;
use crate::event::{Reason, Verdict};
use crate::policy::Domain;

/// Names and addresses that are counted one by one.
const MAX_TARGETS: usize = 1 << 16;
/// Different commands, names or listeners that are remembered of one target.
const MAX_DETAILS: usize = 16;

/// The first of the ports that Linux gives out to whoever asks for any (`ip_local_port_range`);
/// by RFC 6335 they begin at 49152.
const DYNAMIC: u16 = 32_768;

/// Whether it is chance that it is this port, and may be another the next time.
pub fn is_dynamic(port: u16) -> bool {
    port >= DYNAMIC
}

/// Who was contacted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Name(Domain),
    /// An address that no name led to.
    Address(Endpoint),
    /// A port or a unix socket of others on this host.
    Service(Service),
}

impl Target {
    /// What `qname` or, without one, the address is counted as.
    pub fn of(qname: Option<&Domain>, to: &Endpoint) -> Self {
        match qname {
            Some(name) => Self::Name(name.clone()),
            None => Self::Address(to.clone()),
        }
    }

    pub(super) fn of_delegation(delegation: &Delegation) -> Self {
        match (&delegation.via, &delegation.to) {
            // A proxy on another host is named as any other.
            (Some(_), Service::Port(to)) => Self::of(delegation.act.qname.as_ref(), to),
            (_, service) => Self::Service(service.clone()),
        }
    }
}

/// As it is written, with nothing escaped: `192.0.2.1:443/tcp`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(to) | Self::Service(Service::Port(to)) => to.fmt(f),
            Self::Service(Service::Socket { socket }) => f.write_str(socket),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, port, proto } = self;
        match port {
            0 => write!(f, "{ip}/{proto}"),
            _ => write!(f, "{}/{proto}", SocketAddr::new(*ip, *port)),
        }
    }
}

/// Everything that was contacted.
#[derive(Debug, Default)]
pub struct Targets {
    totals: HashMap<Target, Total>,
    /// Acts on targets beyond those that there is room for.
    pub uncounted: u64,
}

/// What happened to one target.
#[derive(Clone, Debug)]
pub struct Total {
    /// The severest of all verdicts.
    pub verdict: Verdict,
    /// When it was first contacted.
    pub first: SystemTime,
    /// DNS questions.
    pub lookups: u64,
    /// Connections, and destinations that packets were sent to.
    pub contacts: u64,
    /// How many of both were blocked, or would have been.
    pub blocked: u64,
    /// Whether it passed although no name led there and no rule spoke of it.
    pub unjudged: bool,
    /// What decided the severest verdict first, and the name it matched if another.
    pub rule: Option<String>,
    pub owner: Option<String>,
    pub rule_reason: Option<String>,
    pub reason: Reason,
    pub matched: Option<Domain>,
    /// Where on the host it was contacted: `443/tcp`, `icmp`, and `32768-65535/udp` for all
    /// [dynamic](is_dynamic) ports together. Of many, the first in the order of letters.
    pub ports: BTreeSet<String>,
    /// Other names of the addresses that were contacted.
    pub also: Vec<Domain>,
    /// Different command lines, unescaped, in the order of their first acts.
    pub commands: Vec<Arc<str>>,
    /// Whether there were more than [`Self::commands`] has room for.
    pub more_commands: bool,
    /// Acts of which the process is not known.
    pub unattributed: u64,
    /// The first processes that were refused.
    pub refused: Vec<ProcessKey>,
    /// `None` unless the target does the network for the child.
    pub delegated: Option<Delegated>,
    pub traffic: Traffic,
    /// Connections that were given up without an answer.
    pub unanswered: u64,
    /// Time spent in questions that were refused or failed, and in such connections.
    pub waited: Duration,
}

/// What went over closed TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub connections: u64,
    /// Octets of payload.
    pub sent: u64,
    pub received: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, traffic: &audit::Traffic) {
        self.connections += traffic.connections;
        self.sent += traffic.bytes_sent;
        self.received += traffic.bytes_received;
    }
}

/// How the child had its network done by others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delegated {
    /// Whether it did so without a rule that acknowledges it.
    pub unacknowledged: bool,
    /// Who listens there, each command line once; empty if it could not be found out.
    pub listeners: Vec<Listener>,
    /// Where the target is named as one that does so: `http_proxy`.
    pub via: Option<String>,
}

/// A process outside of the cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub pid: u32,
    pub comm: String,
    /// Unescaped.
    pub command: String,
}

/// What became of the command after something was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// The process that was refused, all above it and the command itself failed.
    Failed,
    /// It made no difference to the command: one in between, or the command itself, succeeded
    /// all the same. Whose success that was, if it is known: a process of the tree.
    WentOn(Option<ProcessKey>),
}

impl Targets {
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &Total)> {
        self.totals.iter()
    }

    pub fn get(&self, target: &Target) -> Option<&Total> {
        self.totals.get(target)
    }

    pub fn len(&self) -> usize {
        self.totals.len()
    }

    pub fn is_empty(&self) -> bool {
        self.totals.is_empty()
    }

    pub(super) fn get_mut(&mut self, target: &Target) -> Option<&mut Total> {
        self.totals.get_mut(target)
    }

    /// Enter what is common to all acts; the total, if there is room for it.
    pub(super) fn act(
        &mut self,
        time: SystemTime,
        target: &Target,
        act: &Act,
        process: Option<&Step>,
    ) -> Option<&mut Total> {
        if self.totals.len() >= MAX_TARGETS && !self.totals.contains_key(target) {
            self.uncounted += act.count;
            return None;
        }
        let total = self
            .totals
            .entry(target.clone())
            .or_insert_with(|| Total::new(time, act));
        total.act(time, act, process);
        Some(total)
    }

    /// Enter other names of the addresses of a target.
    pub(super) fn share(&mut self, target: &Target, also: &[Domain]) {
        let Some(total) = self.totals.get_mut(target) else {
            return;
        };
        for name in also {
            if total.also.len() < MAX_DETAILS && !total.also.contains(name) {
                total.also.push(name.clone());
            }
        }
    }
}

impl Total {
    fn new(time: SystemTime, act: &Act) -> Self {
        Self {
            verdict: act.verdict,
            first: time,
            lookups: 0,
            contacts: 0,
            blocked: 0,
            unjudged: false,
            rule: act.rule.clone(),
            owner: act.owner.clone(),
            rule_reason: act.rule_reason.clone(),
            reason: act.reason,
            matched: act.matched.clone(),
            ports: BTreeSet::new(),
            also: Vec::new(),
            commands: Vec::new(),
            more_commands: false,
            unattributed: 0,
            refused: Vec::new(),
            delegated: None,
            traffic: Traffic::default(),
            unanswered: 0,
            waited: Duration::ZERO,
        }
    }

    /// What became of the command after this was refused; `None` if nothing was, or if it is
    /// not known.
    pub fn consequence(&self, run: &Run) -> Option<Consequence> {
        if self.verdict != Verdict::Blocked {
            return None;
        }
        if !run.failed()? {
            let swallower = self
                .refused
                .first()
                .and_then(|key| first_success(run, *key));
            return Some(Consequence::WentOn(swallower));
        }
        let all_failed = |key: &ProcessKey| {
            let mut chain = run.processes.chain(*key);
            chain.all(|(_, node)| node.ending.is_some_and(|ending| !ending.is_success()))
        };
        if self.refused.iter().any(all_failed) {
            return Some(Consequence::Failed);
        }
        let swallower = self
            .refused
            .iter()
            .find_map(|key| first_success(run, *key))?;
        Some(Consequence::WentOn(Some(swallower)))
    }

    fn act(&mut self, time: SystemTime, act: &Act, process: Option<&Step>) {
        self.first = self.first.min(time);
        // `Allowed` is the least, and the other two do not meet in one run.
        if act.verdict > self.verdict {
            self.verdict = act.verdict;
            self.rule.clone_from(&act.rule);
            self.owner.clone_from(&act.owner);
            self.rule_reason.clone_from(&act.rule_reason);
            self.reason = act.reason;
            self.matched.clone_from(&act.matched);
        }
        if act.verdict != Verdict::Allowed {
            self.blocked += act.count;
        }
        let Some(Step { key, command }) = process else {
            self.unattributed += act.count;
            return;
        };
        if act.verdict == Verdict::Blocked
            && self.refused.len() < MAX_DETAILS
            && !self.refused.contains(key)
        {
            self.refused.push(*key);
        }
        if self.commands.contains(command) {
            return;
        }
        if self.commands.len() < MAX_DETAILS {
            self.commands.push(Arc::clone(command));
        } else {
            self.more_commands = true;
        }
    }

    /// Note where it was contacted.
    pub(super) fn reached(&mut self, to: &Endpoint) {
        let proto = &to.proto;
        self.ports.insert(match to.port {
            0 => proto.clone(),
            port if is_dynamic(port) => format!("{DYNAMIC}-{}/{proto}", u16::MAX),
            port => format!("{port}/{proto}"),
        });
        if self.ports.len() > MAX_DETAILS {
            self.ports.pop_last();
        }
    }

    /// A question that came to nothing is time lost.
    pub(super) fn looked_up(&mut self, dns: &Dns) {
        let is_answer = matches!(&*dns.rcode, "NOERROR" | "NXDOMAIN");
        if dns.act.verdict == Verdict::Blocked || !is_answer {
            self.waited += Duration::from_micros(dns.latency_us);
        }
    }

    pub(super) fn delegate(&mut self, delegation: &Delegation) {
        let delegated = self.delegated.get_or_insert_default();
        delegated.unacknowledged |= delegation.act.reason != Reason::Acknowledged;
        if delegation.via.is_some() {
            delegated.via.clone_from(&delegation.via);
        }
        let Some(peer) = &delegation.peer else {
            return;
        };
        let command = command_line(&peer.argv, peer.comm.as_bytes(), false);
        let listener = Listener {
            pid: peer.pid,
            comm: peer.comm.clone(),
            command: String::from_utf8_lossy(&command).into_owned(),
        };
        let is_known =
            |known: &Listener| known.command == listener.command && known.comm == listener.comm;
        if delegated.listeners.len() < MAX_DETAILS && !delegated.listeners.iter().any(is_known) {
            delegated.listeners.push(listener);
        }
    }
}

/// The first process from here upwards that ended well.
fn first_success(run: &Run, key: ProcessKey) -> Option<ProcessKey> {
    run.processes
        .chain(key)
        .find(|(_, node)| node.ending.is_some_and(|ending| ending.is_success()))
        .map(|(key, _)| key)
}
