//! What logs say that was done. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::commands::{Commands, shown};
use crate::audit::{Act, Actor, Delegation, Dns, Endpoint, Event, Line, Service};
use crate::escape::Plain;
use crate::event::{Reason, Verdict};
use crate::policy::{DirectIp, Domain, Transport};

/// Things that one note names; more are counted.
const MAX_NAMED: usize = 10;

/// All that the logs say.
#[derive(Debug, Default)]
pub(super) struct Seen {
    runs: Vec<Run>,
    numbers: HashMap<String, usize>,
    /// Names that were asked for.
    pub(super) lookups: BTreeMap<Domain, Commands>,
    /// Who asked for the names that led to an address.
    leads: HashMap<(usize, IpAddr), BTreeMap<Domain, BTreeSet<u32>>>,
    pub(super) contacts: BTreeMap<Reached, Commands>,
    /// Unix sockets of others.
    pub(super) sockets: BTreeMap<String, Commands>,
    /// Names that a rule blocks.
    pub(super) blocked: BTreeSet<Domain>,
    /// What is left out because a rule blocks it, and because it was blocked by default.
    by_rule: BTreeMap<String, u64>,
    by_default: BTreeMap<String, u64>,
}

/// A run that is in the logs.
#[derive(Debug, Default)]
struct Run {
    id: String,
    /// The command, if the log has the start of the run.
    command: Option<String>,
    /// Whether addresses that no name led to were to be blocked.
    blocks_direct_ip: bool,
    has_ended: bool,
    lost: u64,
    moved: u64,
}

/// A destination that was reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reached {
    run: usize,
    pid: Option<u32>,
    /// The name that led there, by the account of the log.
    qname: Option<Domain>,
    pub(super) ip: IpAddr,
    pub(super) transport: Transport,
    pub(super) port: u16,
    pub(super) how: How,
}

/// Who does the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    /// The command.
    Itself,
    /// A proxy on another host.
    Proxy,
    /// Another process on this host.
    Listener,
}

impl Seen {
    pub(super) fn add(&mut self, line: Line) {
        let run = self.number(&line.run);
        match line.event {
            Event::RunStart(start) => {
                self.runs[run].command = Some(shown(&start.argv, "", false));
                self.runs[run].blocks_direct_ip = start.direct_ip == DirectIp::Block;
            }
            Event::Dns(dns) => self.dns(run, dns),
            Event::Connect(contact) | Event::Packet(contact) => {
                let process = contact.process.as_ref();
                self.contact(run, &contact.act, contact.to, process, How::Itself);
            }
            Event::Delegation(delegation) => self.delegation(run, delegation),
            Event::Moved(_) => self.runs[run].moved += 1,
            Event::Loss(loss) => self.runs[run].lost += loss.count,
            Event::RunEnd(end) => {
                self.runs[run].lost += end.lines_lost;
                self.runs[run].has_ended = true;
            }
            Event::Policy(_)
            | Event::Exit(_)
            | Event::Traffic(_)
            | Event::Unanswered(_)
            | Event::Unknown => {}
        }
    }

    fn number(&mut self, id: &str) -> usize {
        if let Some(number) = self.numbers.get(id) {
            return *number;
        }
        let number = self.runs.len();
        self.runs.push(Run {
            id: Plain(id.as_bytes()).to_string(),
            ..Run::default()
        });
        self.numbers.insert(id.to_owned(), number);
        number
    }

    fn dns(&mut self, run: usize, dns: Dns) {
        let Some(qname) = dns.act.qname.clone() else {
            return;
        };
        if !self.is_lesson(&dns.act, &qname.to_string()) {
            return;
        }
        let process = dns.process.as_ref();
        for address in dns.answers {
            let leads = self.leads.entry((run, address.to_canonical())).or_default();
            let askers = leads.entry(qname.clone()).or_default();
            askers.extend(process.map(|process| process.pid));
        }
        let commands = self.lookups.entry(qname).or_default();
        commands.extend(&commands_of(process));
    }

    fn delegation(&mut self, run: usize, delegation: Delegation) {
        let process = delegation.process.as_ref();
        let how = match delegation.via {
            Some(_) => How::Proxy,
            None => How::Listener,
        };
        match delegation.to {
            Service::Port(to) => self.contact(run, &delegation.act, to, process, how),
            Service::Socket { socket } => {
                if self.is_lesson(&delegation.act, &socket) {
                    let commands = self.sockets.entry(socket).or_default();
                    commands.extend(&commands_of(process));
                }
            }
        }
    }

    fn contact(&mut self, run: usize, act: &Act, to: Endpoint, process: Option<&Actor>, how: How) {
        let target = act
            .qname
            .as_ref()
            .map_or_else(|| to.to_string(), ToString::to_string);
        if !self.is_lesson(act, &target) {
            return;
        }
        let ip = to.ip.to_canonical();
        // Where a policy blocks addresses by default, nothing but this host is exempt.
        let is_own = self.runs[run].blocks_direct_ip
            && (act.verdict, act.reason) == (Verdict::Allowed, Reason::DirectIp);
        if how == How::Itself && act.qname.is_none() && (is_own || is_loopback(ip)) {
            return;
        }
        let reached = Reached {
            run,
            pid: process.map(|process| process.pid),
            transport: transport(&to.proto),
            port: to.port,
            how,
            ip,
            qname: act.qname.clone(),
        };
        let commands = self.contacts.entry(reached).or_default();
        commands.extend(&commands_of(process));
    }

    /// Whether the act was permitted, or would have been but for the default. What is not is
    /// noted as left out.
    fn is_lesson(&mut self, act: &Act, target: &str) -> bool {
        let is_by_default = matches!(act.reason, Reason::Default | Reason::DirectIp);
        let left_out = match (act.verdict, is_by_default) {
            (Verdict::Allowed, _) | (Verdict::WouldBlock, true) => return true,
            (Verdict::Blocked, true) => &mut self.by_default,
            (Verdict::Blocked | Verdict::WouldBlock, false) => {
                self.blocked.extend(act.qname.clone());
                &mut self.by_rule
            }
        };
        let target = Plain(target.as_bytes());
        let what = match &act.rule {
            Some(rule) => format!("{target} ({})", Plain(rule.as_bytes())),
            None => target.to_string(),
        };
        *left_out.entry(what).or_default() += 1;
        false
    }

    /// The names that led to a destination: the one that the log blames, and those that its
    /// process asked for; none if no answer of a server led there.
    ///
    /// Where names share an address, the log blames the one that was asked for last, which
    /// may be another one when the same is done again.
    pub(super) fn names_of(&self, reached: &Reached) -> Vec<&Domain> {
        let leads = self.leads.get(&(reached.run, reached.ip));
        let (Some(qname), Some(leads)) = (&reached.qname, leads) else {
            return Vec::new();
        };
        let is_own = |askers: &BTreeSet<u32>| reached.pid.is_some_and(|pid| askers.contains(&pid));
        let led = leads
            .iter()
            .filter(|(name, askers)| *name == qname || is_own(askers));
        led.map(|(name, _)| name).collect()
    }

    /// Each run with its command.
    pub(super) fn runs(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.runs.iter().map(|run| {
            let command = run
                .command
                .as_deref()
                .unwrap_or("(the log has no start of this run)");
            (&*run.id, command)
        })
    }

    /// What the user should know of the logs.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for run in &self.runs {
            let id = &run.id;
            if run.lost > 0 {
                notes.push(format!(
                    "run {id} lost {} observations: what it needs may be missing",
                    run.lost
                ));
            }
            if run.moved > 0 {
                notes.push(format!(
                    "run {id} had processes moved out of its cgroup: what they did there is not \
                     known"
                ));
            }
            if !run.has_ended {
                notes.push(format!(
                    "run {id} has no end in the log: what it did afterwards is not known"
                ));
            }
        }
        notes.extend(left_out(&self.by_rule, "that a rule blocks"));
        notes.extend(
            left_out(&self.by_default, "blocked by default").map(|note| {
                format!("{note}; learn from a run with --audit, which refuses nothing")
            }),
        );
        notes
    }
}

fn left_out(acts: &BTreeMap<String, u64>, why: &str) -> Option<String> {
    let times: u64 = acts.values().sum();
    let named: Vec<&str> = acts.keys().take(MAX_NAMED).map(String::as_str).collect();
    let more = match acts.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (times > 0).then(|| {
        let acts = if times == 1 { "act" } else { "acts" };
        format!("left out {times} {acts} {why}: {}{more}", named.join(", "))
    })
}

fn commands_of(process: Option<&Actor>) -> Commands {
    match process {
        Some(process) => Commands::one(shown(&process.argv, &process.comm, process.argv_truncated)),
        None => Commands::one("an unknown process".to_owned()),
    }
}

fn transport(proto: &str) -> Transport {
    match proto {
        "tcp" => Transport::Tcp,
        "udp" | "udplite" => Transport::Udp,
        _ => Transport::Other,
    }
}

pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}
