//! One run.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::processes::{ProcessKey, Processes, Step};
use super::targets::{Target, Targets};
use crate::audit::{
    Act, Actor, Contact, Delegation, Dns, Event, Line, Moved, Outcome, PolicyChange, RunEnd,
    RunStart, Service, Traffic, Unanswered,
};
use crate::event::Verdict;

/// Moments of the timeline; more are counted.
const MAX_MOMENTS: usize = 1 << 14;
/// Different processes that were moved out; more are counted.
const MAX_MOVED: usize = 16;
/// Changes of policy that are kept.
const MAX_CHANGES: usize = 256;

/// A run as far as its lines tell of it.
#[derive(Debug)]
pub struct Run {
    pub id: String,
    /// `None` if the log has lost its beginning.
    pub start: Option<RunStart>,
    /// `None` if the log was cut off, or the run goes on.
    pub end: Option<RunEnd>,
    /// Of the first and the last line.
    pub began: Option<SystemTime>,
    pub ended: Option<SystemTime>,
    pub targets: Targets,
    pub processes: Processes,
    /// What happened, in the order of the lines.
    pub timeline: Vec<Moment>,
    /// Moments beyond those.
    pub more_moments: u64,
    /// Changes of policy, with when.
    pub changes: Vec<(SystemTime, PolicyChange)>,
    /// Processes that were moved out: of each its last move.
    pub moved: Vec<Moved>,
    /// Moves of others.
    pub more_moved: u64,
    /// Questions and contacts, and how many of both were blocked, or would have been.
    pub lookups: u64,
    pub contacts: u64,
    pub blocked: u64,
    /// Observations that were lost on the way to the log.
    pub lost: u64,
}

/// Something that happened at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    pub time: SystemTime,
    pub kind: Kind,
    pub verdict: Verdict,
    pub target: Target,
    /// `None` if it is not known who did it.
    pub process: Option<ProcessKey>,
    /// The command line of that process.
    pub command: Option<Arc<str>>,
    /// How long the process had to wait, if that is known.
    pub took: Option<Duration>,
}

/// What a [`Moment`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Dns,
    Connect,
    Packet,
    Delegation,
    /// A connection was given up that nobody had answered.
    Unanswered,
}

impl Run {
    /// A run of which nothing is known but its id.
    pub fn new(id: String) -> Self {
        Self {
            id,
            start: None,
            end: None,
            began: None,
            ended: None,
            targets: Targets::default(),
            processes: Processes::default(),
            timeline: Vec::new(),
            more_moments: 0,
            changes: Vec::new(),
            moved: Vec::new(),
            more_moved: 0,
            lookups: 0,
            contacts: 0,
            blocked: 0,
            lost: 0,
        }
    }

    /// Enter a line, which is taken to be of this run.
    pub fn add(&mut self, line: &Line) {
        let time = line.time;
        self.began = Some(self.began.map_or(time, |began| began.min(time)));
        self.ended = Some(self.ended.map_or(time, |ended| ended.max(time)));
        match &line.event {
            Event::RunStart(start) => self.start = Some(RunStart::clone(start)),
            Event::Policy(change) => {
                if self.changes.len() < MAX_CHANGES {
                    self.changes.push((time, change.clone()));
                }
            }
            Event::Dns(dns) => self.dns(time, dns),
            Event::Connect(contact) => self.contact(time, contact, Kind::Connect),
            Event::Packet(contact) => self.contact(time, contact, Kind::Packet),
            Event::Delegation(delegation) => self.delegation(time, delegation),
            Event::Moved(moved) => self.moved(time, moved),
            Event::Exit(exit) => {
                self.processes.ended(time, exit);
            }
            Event::Traffic(traffic) => self.traffic(time, traffic),
            Event::Unanswered(unanswered) => self.unanswered(time, unanswered),
            Event::Loss(loss) => self.lost += loss.count,
            Event::RunEnd(end) => self.end = Some(RunEnd::clone(end)),
            Event::Unknown => {}
        }
    }

    /// Whether the command itself, or cgfw on its behalf, ended in failure; `None` if the end
    /// is not known.
    pub fn failed(&self) -> Option<bool> {
        let end = self.end.as_ref()?;
        Some(!(end.outcome == Outcome::Exited && end.status == Some(0)))
    }

    fn dns(&mut self, time: SystemTime, dns: &Dns) {
        self.lookups += dns.act.count;
        self.count_blocked(&dns.act);
        let Some(qname) = &dns.act.qname else {
            return;
        };
        let name = dns.without_suffix.as_ref().unwrap_or(qname);
        let target = Target::Name(name.clone());
        let took = Duration::from_micros(dns.latency_us);
        let process = self.actor(time, dns.process.as_ref(), &target, &dns.act);
        if dns.act.count > 0 {
            let total = self.targets.act(time, &target, &dns.act, process.as_ref());
            if let Some(total) = total {
                total.lookups += dns.act.count;
                total.looked_up(dns);
            }
        }
        self.moment(time, Kind::Dns, &dns.act, target, process, Some(took));
    }

    fn contact(&mut self, time: SystemTime, contact: &Contact, kind: Kind) {
        let act = &contact.act;
        self.contacts += act.count;
        self.count_blocked(act);
        if contact.internal {
            return;
        }
        let target = match &act.qname {
            Some(name) => Target::Name(name.clone()),
            None => Target::Address(contact.to.clone()),
        };
        let process = self.actor(time, contact.process.as_ref(), &target, act);
        if let Some(total) = self.targets.act(time, &target, act, process.as_ref()) {
            total.contacts += act.count;
            total.unjudged |= contact.unjudged;
            total.reached(&contact.to);
        }
        self.targets.share(&target, &contact.also);
        self.moment(time, kind, act, target, process, None);
    }

    fn delegation(&mut self, time: SystemTime, delegation: &Delegation) {
        let act = &delegation.act;
        self.contacts += act.count;
        self.count_blocked(act);
        let target = Target::of_delegation(delegation);
        let process = self.actor(time, delegation.process.as_ref(), &target, act);
        if let Some(total) = self.targets.act(time, &target, act, process.as_ref()) {
            total.contacts += act.count;
            total.unjudged |= delegation.unjudged;
            total.delegate(delegation);
            if let Service::Port(to) = &delegation.to {
                total.reached(to);
            }
        }
        self.targets.share(&target, &delegation.also);
        self.moment(time, Kind::Delegation, act, target, process, None);
    }

    fn traffic(&mut self, time: SystemTime, traffic: &Traffic) {
        let target = Target::of(traffic.qname.as_ref(), &traffic.to);
        if let Some(process) = &traffic.process {
            self.processes.seen(time, process);
        }
        if let Some(total) = self.targets.get_mut(&target) {
            total.traffic.add(traffic);
        }
    }

    fn unanswered(&mut self, time: SystemTime, unanswered: &Unanswered) {
        let target = Target::of(unanswered.qname.as_ref(), &unanswered.to);
        let waited = Duration::from_micros(unanswered.waited_us);
        let process = unanswered
            .process
            .as_ref()
            .map(|process| self.processes.seen(time, process));
        let verdict = match self.targets.get_mut(&target) {
            Some(total) => {
                total.unanswered += unanswered.connections;
                total.waited += waited;
                total.verdict
            }
            None => Verdict::Allowed,
        };
        self.push(Moment {
            time,
            kind: Kind::Unanswered,
            verdict,
            target,
            process: process.as_ref().map(|step| step.key),
            command: process.map(|step| step.command),
            took: Some(waited),
        });
    }

    fn moved(&mut self, time: SystemTime, moved: &Moved) {
        self.processes.seen(time, &moved.process);
        let is_it =
            |known: &&mut Moved| ProcessKey::of(&known.process) == ProcessKey::of(&moved.process);
        if let Some(known) = self.moved.iter_mut().find(is_it) {
            known.clone_from(moved);
        } else if self.moved.len() < MAX_MOVED {
            self.moved.push(moved.clone());
        } else {
            self.more_moved += 1;
        }
    }

    fn count_blocked(&mut self, act: &Act) {
        if act.verdict != Verdict::Allowed {
            self.blocked += act.count;
        }
    }

    /// Enter who acted, and on what.
    fn actor(
        &mut self,
        time: SystemTime,
        process: Option<&Actor>,
        target: &Target,
        act: &Act,
    ) -> Option<Step> {
        let step = self.processes.seen(time, process?);
        self.processes
            .acted(step.key, target, act.verdict, act.count);
        Some(step)
    }

    fn moment(
        &mut self,
        time: SystemTime,
        kind: Kind,
        act: &Act,
        target: Target,
        process: Option<Step>,
        took: Option<Duration>,
    ) {
        self.push(Moment {
            time,
            kind,
            verdict: act.verdict,
            target,
            process: process.as_ref().map(|step| step.key),
            command: process.map(|step| step.command),
            took,
        });
    }

    fn push(&mut self, moment: Moment) {
        if self.timeline.len() < MAX_MOMENTS {
            self.timeline.push(moment);
        } else {
            self.more_moments += 1;
        }
    }
}
