//! What logs say that was done. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::commands::{Commands, shown};
use super::line::{Contact, Delegation, Dns, Entry, Event, Line, Reason, RunStart, Verdict};
use crate::escape::Plain;
use crate::policy::{Domain, Transport};

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
            Event::RunStart(RunStart { argv, direct_ip }) => {
                self.runs[run].command = Some(shown(&argv, "", false));
                self.runs[run].blocks_direct_ip = direct_ip == "block";
            }
            Event::Dns(dns) => self.dns(run, dns),
            Event::Connect(contact) | Event::Packet(contact) => {
                self.contact(run, contact, How::Itself);
            }
            Event::Delegation(Delegation::Contact(contact)) => {
                let how = match contact.via {
                    Some(_) => How::Proxy,
                    None => How::Listener,
                };
                self.contact(run, contact, how);
            }
            Event::Delegation(Delegation::Socket { entry, socket }) => {
                if self.is_lesson(&entry, None, &socket) {
                    let commands = self.sockets.entry(socket).or_default();
                    commands.extend(&commands_of(&entry));
                }
            }
            Event::Moved {} => self.runs[run].moved += 1,
            Event::Loss { count } => self.runs[run].lost += count,
            Event::RunEnd { lines_lost } => {
                self.runs[run].lost += lines_lost;
                self.runs[run].has_ended = true;
            }
            Event::Unknown => {}
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
        let Dns {
            entry,
            qname,
            answers,
        } = dns;
        if !self.is_lesson(&entry, Some(&qname), &qname.to_string()) {
            return;
        }
        for address in answers {
            let leads = self.leads.entry((run, address.to_canonical())).or_default();
            leads.entry(qname.clone()).or_default().extend(entry.pid);
        }
        let commands = self.lookups.entry(qname).or_default();
        commands.extend(&commands_of(&entry));
    }

    fn contact(&mut self, run: usize, contact: Contact, how: How) {
        let entry = &contact.entry;
        let target = || match &contact.qname {
            Some(name) => name.to_string(),
            None => format!(
                "{}:{}/{}",
                contact.dst_ip,
                contact.dst_port,
                Plain(contact.proto.as_bytes())
            ),
        };
        if !self.is_lesson(entry, contact.qname.as_ref(), &target()) {
            return;
        }
        let ip = contact.dst_ip.to_canonical();
        // Where a policy blocks addresses by default, nothing but this host is exempt.
        let is_own = self.runs[run].blocks_direct_ip
            && (entry.verdict, entry.reason) == (Verdict::Allowed, Reason::DirectIp);
        if how == How::Itself && contact.qname.is_none() && (is_own || is_loopback(ip)) {
            return;
        }
        let reached = Reached {
            run,
            pid: entry.pid,
            transport: contact.transport(),
            port: contact.dst_port,
            how,
            ip,
            qname: contact.qname.clone(),
        };
        let commands = self.contacts.entry(reached).or_default();
        commands.extend(&commands_of(entry));
    }

    /// Whether the act was permitted, or would have been but for the default. What is not is
    /// noted as left out.
    fn is_lesson(&mut self, entry: &Entry, name: Option<&Domain>, target: &str) -> bool {
        let is_by_default = matches!(entry.reason, Reason::Default | Reason::DirectIp);
        let left_out = match (entry.verdict, is_by_default) {
            (Verdict::Allowed, _) | (Verdict::WouldBlock, true) => return true,
            (Verdict::Blocked, true) => &mut self.by_default,
            (Verdict::Blocked | Verdict::WouldBlock, false) => {
                self.blocked.extend(name.cloned());
                &mut self.by_rule
            }
        };
        let target = Plain(target.as_bytes());
        let what = match &entry.rule {
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

fn commands_of(entry: &Entry) -> Commands {
    match entry.pid {
        Some(_) => Commands::one(shown(&entry.argv, &entry.comm, entry.argv_truncated)),
        None => Commands::one("an unknown process".to_owned()),
    }
}

pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}
