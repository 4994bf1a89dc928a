/*!
The state of a run: joins names with processes and addresses with names.

Pure: events go in through [`Ledger::record`], complete [`Entry`]s come out.
Everything that the child can make grow is bounded.

The DNS proxy sends its event before its answer, so a name is known here before anyone
can connect to its addresses, provided that the caller records the events of the proxy
before those of the kernel that are as old.
*/

mod between;
mod leads;
mod processes;
mod recent;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::between::GoBetweens;
use self::leads::{Chain, Lead, Leads};
pub use self::processes::{Ancestors, Exit};
use self::processes::{Processes, Who};
use self::recent::Recent;
use crate::event::{
    self, Contact, Delegation, End, Event, Fact, GoBetween, Layer, Moved, Peer, Process, ProcessId,
    Query, QueryKey, Reason, Repeats, Service, Verdict,
};
use crate::policy::{Action, Decision, Domain, Policy, Rule, Transport, UnixSocket, normal_path};

/// How long a question waits for the process that asked it. More than the interval at
/// which the records of the kernel are read.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// Questions that wait for their askers; more are let go without. As many as the kernel side can
/// have askers on its way here.
const MAX_WAITING: usize = 2048;
/// Messages whose asker is remembered, each for one or, over TCP, more questions.
const ASKERS: usize = 4096;
/// Refusals and contacts that are remembered as seen.
const SEEN: usize = 8192;

/// What the books have to tell, complete.
#[derive(Clone, Debug)]
pub enum Entry {
    Observed(Observation),
    /// A process was moved out of the cgroup; `first` if that is news.
    Moved {
        time: SystemTime,
        moved: Moved,
        first: bool,
    },
    /// So many observations were lost between the kernel and here.
    Lost {
        time: SystemTime,
        count: u64,
    },
    /// A process has ended that acted, or one that it comes from.
    Exited(Exit),
    Ended(Ended),
}

/// TCP connections of one process with one destination that have ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub time: SystemTime,
    /// Who began them; `None` if it could not be found out.
    pub process: Option<Arc<Process>>,
    /// Where that process comes from.
    pub ancestors: Ancestors,
    pub destination: Destination,
    /// The name that led to the address, or that it is blocked for.
    pub name: Option<Domain>,
    pub connections: u64,
    pub end: End,
}

/// A complete fact: who did what, and what became of it for which reason.
#[derive(Clone, Debug)]
pub struct Observation {
    pub time: SystemTime,
    /// `None` if it could not be found out.
    pub process: Option<Arc<Process>>,
    /// Where that process comes from.
    pub ancestors: Ancestors,
    pub layer: Layer,
    pub verdict: Verdict,
    /// What decided. `None` where no rule spoke.
    pub rule: Option<Arc<Rule>>,
    /// The name that `rule` matched, where that is not the name of `act`.
    pub matched: Option<Domain>,
    pub reason: Reason,
    /// Whether it is the first of its process, target and verdict.
    pub first: bool,
    /// Whether it is delegation of which nothing is known to the user yet: not acknowledged,
    /// and the first of its target and verdict, by whatever process.
    pub startling: bool,
    /// How many acts it stands for.
    pub count: u64,
    /// Of a question, the name that it is counted as: without the search suffix that the
    /// resolver added after that was refused.
    pub without_suffix: Option<Domain>,
    pub act: Act,
}

/// What an [`Observation`] is about.
#[derive(Clone, Debug)]
pub enum Act {
    Query(Query),
    Contact(Reached),
    /// The child turned to a process outside of the cgroup.
    Delegation {
        service: Service,
        /// `None` if it is not known who listens.
        peer: Option<Peer>,
    },
}

/// A destination that was contacted, or that was refused.
#[derive(Clone, Debug)]
pub struct Reached {
    pub destination: Destination,
    /// The name that led to the address, or that it is blocked for.
    pub name: Option<Domain>,
    /// Other names that the address belongs to.
    pub also: Vec<Domain>,
    /// Where the destination is named as one that does the network for the child, if
    /// it is: `http_proxy`.
    pub via: Option<Arc<str>>,
    /// Whether it passed although no name led there and no rule speaks of it.
    pub unjudged: bool,
    /// Whether it stays on this host.
    pub internal: bool,
}

impl Act {
    /// The name that was asked for or that led to the address.
    pub fn name(&self) -> Option<&Domain> {
        match self {
            Self::Query(query) => Some(&query.qname),
            Self::Contact(Reached { name, .. }) => name.as_ref(),
            Self::Delegation { .. } => None,
        }
    }
}

/// Where a contact went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// Never IPv4-mapped.
    pub ip: IpAddr,
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// Who was turned to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    Name(Domain),
    Address(Destination),
    Service(Service),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ContactKey {
    process: Option<ProcessId>,
    destination: Destination,
    verdict: Verdict,
}

/// Who sent a DNS message.
#[derive(Debug)]
struct Asker {
    who: Who,
    /// The question that was joined with it. Over UDP the entry is used up then, except
    /// for the same question, which the client repeats with the same key.
    question: Option<(Domain, String)>,
}

/// What was seen of a contact when it was first reported.
#[derive(Debug)]
struct Seen {
    who: Option<Who>,
    layer: Layer,
}

/// Why a contact has its verdict.
struct Explanation {
    name: Option<Domain>,
    rule: Option<Arc<Rule>>,
    matched: Option<Domain>,
    reason: Reason,
}

/// Keeps the books of a run.
#[derive(Debug)]
pub struct Ledger {
    policy: Arc<Policy>,
    askers: Recent<QueryKey, Asker>,
    /// Questions without asker, the oldest first.
    waiting: VecDeque<(SystemTime, Query)>,
    refused: Recent<(Option<ProcessId>, Domain, Verdict), ()>,
    seen: Recent<ContactKey, Seen>,
    /// With who listens.
    delegated: Recent<(Option<ProcessId>, Service, Verdict), Option<Peer>>,
    /// Delegation that the user was told of.
    told: Recent<(Target, Verdict), ()>,
    go_betweens: GoBetweens,
    processes: Processes,
    leads: Leads,
    /// Processes that were moved, with whether they were back when that was told last.
    moved: Recent<ProcessId, bool>,
    lost: u64,
    forgotten: u64,
}

impl Ledger {
    pub fn new(policy: Arc<Policy>) -> Self {
        Self {
            policy,
            askers: Recent::new(ASKERS),
            waiting: VecDeque::new(),
            refused: Recent::new(SEEN),
            seen: Recent::new(SEEN),
            delegated: Recent::new(SEEN),
            told: Recent::new(SEEN),
            go_betweens: GoBetweens::new(Vec::new()),
            processes: Processes::new(),
            leads: Leads::default(),
            moved: Recent::new(SEEN),
            lost: 0,
            forgotten: 0,
        }
    }

    /// Explain what is entered from now on by another policy.
    pub fn replace_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
    }

    /// Say who is known beforehand to do the network for the child.
    pub fn know_go_betweens(&mut self, known: Vec<GoBetween>) {
        self.go_betweens = GoBetweens::new(known);
    }

    /// Enter an event, and return what is complete by now.
    pub fn record(&mut self, event: Event) -> Vec<Entry> {
        let mut entries = self.enter(event);
        entries.extend(self.processes.exits().map(Entry::Exited));
        entries
    }

    fn enter(&mut self, event: Event) -> Vec<Entry> {
        let time = event.time;
        match event.fact {
            Fact::Query(query) => self.query(time, query),
            Fact::Asked { key, process } => self.asked(key, process),
            Fact::Contact(contact) => vec![Entry::Observed(self.contact(time, contact))],
            Fact::Repeats(repeats) => vec![Entry::Observed(self.repeats(time, &repeats))],
            Fact::Ended(ended) => vec![Entry::Ended(self.ended(time, &ended))],
            Fact::Known { name, addresses } => {
                self.lead(&Arc::new((name, Vec::new())), &addresses, None);
                Vec::new()
            }
            Fact::Delegation(delegation) => {
                vec![Entry::Observed(self.delegation(time, delegation))]
            }
            Fact::Moved(moved) => {
                let process = moved.process.id();
                let first = self.moved.get(&process) != Some(&moved.is_back);
                self.moved.insert(process, moved.is_back);
                vec![Entry::Moved { time, moved, first }]
            }
            Fact::Forked { parent, child } => {
                self.processes.forked(parent, child);
                Vec::new()
            }
            Fact::Executed(process) => {
                self.processes.executed(process);
                Vec::new()
            }
            Fact::Exited {
                process,
                status,
                age,
            } => {
                self.processes.exited(process, (time, status, age));
                Vec::new()
            }
            Fact::Found { directory, path } => {
                self.processes.found(directory, &path);
                Vec::new()
            }
            Fact::Lost(count) => {
                self.lost += count;
                vec![Entry::Lost { time, count }]
            }
        }
    }

    /// Let go of questions that have waited for their asker for longer than
    /// [`PATIENCE`]. To be called now and then.
    pub fn settle(&mut self, now: SystemTime) -> Vec<Entry> {
        let is_due = |time: &SystemTime| now.duration_since(*time).is_ok_and(|age| age >= PATIENCE);
        let mut due = Vec::new();
        while let Some((time, query)) = self.waiting.pop_front_if(|(time, _)| is_due(time)) {
            due.push(Entry::Observed(self.answered(time, query, None)));
        }
        due
    }

    /// Let go of all questions that still wait, at the end of the run.
    pub fn finish(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(time, query)| Entry::Observed(self.answered(time, query, None)))
            .collect()
    }

    /// Whether it is known where a process works; else a [`Fact::Found`] can tell it.
    pub fn knows_place_of(&self, process: &Process) -> bool {
        self.processes.working_directory(process).is_some()
    }

    /// Observations that got lost between the kernel and here.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Addresses of names for which there was no room, so that contacts may go without.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn query(&mut self, time: SystemTime, query: Query) -> Vec<Entry> {
        let asker = self.asker_of(&query);
        // Asker or not: a contact may be next.
        self.lead_from_answer(&query, asker.as_ref());
        if asker.is_some() {
            return vec![Entry::Observed(self.answered(time, query, asker))];
        }
        self.waiting.push_back((time, query));
        if self.waiting.len() <= MAX_WAITING {
            return Vec::new();
        }
        let longest = self.waiting.pop_front();
        longest
            .map(|(time, query)| Entry::Observed(self.answered(time, query, None)))
            .into_iter()
            .collect()
    }

    /// The process that sent the message of `query`, if it has been reported.
    fn asker_of(&mut self, query: &Query) -> Option<Who> {
        let asker = self.askers.get_mut(&query.key)?;
        let question = (query.qname.clone(), query.qtype.clone());
        if query.key.transport == Transport::Udp
            && asker
                .question
                .as_ref()
                .is_some_and(|used| *used != question)
        {
            return None;
        }
        asker.question = Some(question);
        Some(asker.who.clone())
    }

    fn asked(&mut self, key: QueryKey, process: Process) -> Vec<Entry> {
        // Without: a retransmission by the kernel's timer, which does not say who asked.
        let Some(who) = self.processes.acted(process) else {
            return Vec::new();
        };
        let asker = Asker {
            who,
            question: None,
        };
        self.askers.insert(key, asker);
        if !self.waiting.iter().any(|(_, query)| query.key == key) {
            return Vec::new();
        }
        let (asked, others) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, query)| query.key == key);
        self.waiting = others;
        let mut joined = Vec::new();
        // Over TCP all are its, over UDP those that ask the same.
        for (time, query) in Vec::from(asked) {
            let asker = self.asker_of(&query);
            if asker.is_none() {
                self.waiting.push_front((time, query));
                continue;
            }
            self.lead_from_answer(&query, asker.as_ref());
            joined.push(Entry::Observed(self.answered(time, query, asker)));
        }
        joined
    }

    /// A question with its asker, or one that waited for it in vain.
    fn answered(&mut self, time: SystemTime, query: Query, who: Option<Who>) -> Observation {
        let asker = id(who.as_ref());
        let target = self.target_of(&query, asker);
        let is_suffixed = target != query.qname;
        let first = self
            .refused
            .insert((asker, target.clone(), query.verdict), ());
        let (process, ancestors) = parts(who);
        Observation {
            time,
            process,
            ancestors,
            layer: Layer::Dns,
            verdict: query.verdict,
            rule: query.rule.clone(),
            matched: query.matched.clone(),
            reason: match (&query.rule, &query.matched) {
                (None, _) => Reason::Default,
                (Some(_), None) => Reason::Rule,
                (Some(_), Some(name)) if query.cname_chain.contains(name) => Reason::Alias,
                (Some(_), Some(_)) => Reason::SearchSuffix,
            },
            first,
            startling: false,
            // The resolver's repetition of what the process was refused is no act of its own.
            count: u64::from(first || !is_suffixed),
            without_suffix: is_suffixed.then_some(target),
            act: Act::Query(query),
        }
    }

    /// The name under which a question is counted. A resolver repeats a name that was
    /// refused with each of its search suffixes: that is no refusal, nor look-up, of its
    /// own.
    fn target_of(&self, query: &Query, asker: Option<ProcessId>) -> Domain {
        let was_refused = |bare: &Domain| {
            query.matched.as_ref() == Some(bare)
                || self
                    .refused
                    .get(&(asker, bare.clone(), query.verdict))
                    .is_some()
        };
        let bare = match query.verdict {
            Verdict::Allowed => None,
            Verdict::Blocked | Verdict::WouldBlock => self
                .policy
                .without_search_suffix(&query.qname)
                .find(was_refused),
        };
        bare.unwrap_or_else(|| query.qname.clone())
    }

    fn contact(&mut self, time: SystemTime, contact: Contact) -> Observation {
        let destination = Destination::new(
            contact.destination.ip(),
            contact.destination.port(),
            contact.protocol,
        );
        let who = self.processes.acted(contact.process);
        let key = ContactKey {
            process: id(who.as_ref()),
            destination,
            verdict: contact.verdict,
        };
        let seen = Seen {
            who: who.clone(),
            layer: contact.layer,
        };
        let first = self.seen.insert(key, seen);
        self.reached(time, key, who, contact.layer, first, 1)
    }

    fn repeats(&mut self, time: SystemTime, repeats: &Repeats) -> Observation {
        let key = ContactKey {
            process: (repeats.pid != 0).then_some(ProcessId {
                pid: repeats.pid,
                started: repeats.started,
            }),
            destination: Destination::new(
                repeats.destination.ip(),
                repeats.destination.port(),
                repeats.protocol,
            ),
            verdict: repeats.verdict,
        };
        let seen = self.seen.get(&key);
        let who = seen.and_then(|seen| seen.who.clone());
        let layer = seen.map_or(Layer::Packet, |seen| seen.layer);
        let service = key.destination.into();
        let delegated = (key.process, service, key.verdict);
        if let Some(peer) = self.delegated.get(&delegated).cloned() {
            let (_, service, verdict) = delegated;
            return self.delegated(time, who, service, peer, verdict, repeats.count);
        }
        self.reached(time, key, who, layer, false, repeats.count)
    }

    fn ended(&self, time: SystemTime, ended: &event::Ended) -> Ended {
        let key = ContactKey {
            process: (ended.process.pid != 0).then_some(ended.process),
            destination: Destination::new(
                ended.destination.ip(),
                ended.destination.port(),
                ended.protocol,
            ),
            verdict: ended.verdict,
        };
        let (process, ancestors) = parts(self.seen.get(&key).and_then(|seen| seen.who.clone()));
        Ended {
            time,
            process,
            ancestors,
            destination: key.destination,
            name: self.explain(key).name,
            connections: ended.connections,
            end: ended.end,
        }
    }

    fn delegation(&mut self, time: SystemTime, delegation: Delegation) -> Observation {
        let who = self.processes.acted(delegation.process);
        let service = canonical(delegation.service);
        self.delegated(time, who, service, delegation.peer, delegation.verdict, 1)
    }

    fn delegated(
        &mut self,
        time: SystemTime,
        who: Option<Who>,
        service: Service,
        peer: Option<Peer>,
        verdict: Verdict,
        count: u64,
    ) -> Observation {
        let rule = self.acknowledgement(&service).cloned();
        let key = (id(who.as_ref()), service.clone(), verdict);
        let first = self.delegated.insert(key, peer.clone());
        let target = Target::Service(service.clone());
        let (process, ancestors) = parts(who);
        Observation {
            time,
            process,
            ancestors,
            layer: Layer::Delegation,
            verdict,
            matched: None,
            reason: match rule {
                Some(_) => Reason::Acknowledged,
                None => Reason::Delegation,
            },
            startling: rule.is_none() && self.told.insert((target.clone(), verdict), ()),
            rule,
            first,
            count,
            without_suffix: None,
            act: Act::Delegation { service, peer },
        }
    }

    fn acknowledgement(&self, service: &Service) -> Option<&Arc<Rule>> {
        match service {
            Service::Port { address, protocol } => {
                let transport = Transport::from_protocol(*protocol);
                self.policy
                    .acknowledges_port(address.ip(), transport, address.port())
            }
            Service::Path(path) => self
                .policy
                .acknowledges_socket(&UnixSocket::Path(path.clone())),
            Service::Abstract(name) => self
                .policy
                .acknowledges_socket(&UnixSocket::Abstract(name.clone())),
        }
    }

    fn reached(
        &mut self,
        time: SystemTime,
        key: ContactKey,
        who: Option<Who>,
        layer: Layer,
        first: bool,
        count: u64,
    ) -> Observation {
        let destination = key.destination;
        let explanation = self.explain(key);
        let is_internal = key.verdict == Verdict::Allowed && self.policy.is_own(destination.ip);
        // One on this host is delegation where the kernel finds that it is outside.
        let via = (key.verdict == Verdict::Allowed && !is_internal)
            .then(|| self.go_between(who.as_ref().map(|who| &*who.process), destination))
            .flatten();
        let is_just_for =
            |rule: &Arc<Rule>| rule.is_just_for(explanation.name.as_ref(), destination.ip);
        let (layer, reason) = match via {
            None => (layer, explanation.reason),
            Some(_) if explanation.rule.as_ref().is_some_and(is_just_for) => {
                (Layer::Delegation, Reason::Acknowledged)
            }
            Some(_) => (Layer::Delegation, Reason::Delegation),
        };
        let also = self
            .leads_to(destination.ip)
            .rev()
            .map(|lead| &lead.name.0)
            .filter(|name| explanation.name.as_ref() != Some(name))
            .cloned()
            .collect();
        // Nothing but the default spoke, and of the address: nobody judged this.
        let unjudged = key.verdict == Verdict::Allowed
            && explanation.reason == Reason::DirectIp
            && self.is_public(destination.ip);
        let target = match &explanation.name {
            Some(name) => Target::Name(name.clone()),
            None => Target::Address(destination),
        };
        let startling =
            reason == Reason::Delegation && self.told.insert((target.clone(), key.verdict), ());
        let (process, ancestors) = parts(who);
        Observation {
            time,
            process,
            ancestors,
            layer,
            verdict: key.verdict,
            rule: explanation.rule,
            matched: explanation.matched,
            reason,
            first,
            startling,
            count,
            without_suffix: None,
            act: Act::Contact(Reached {
                destination,
                name: explanation.name,
                also,
                via,
                unjudged,
                internal: is_internal,
            }),
        }
    }

    /// Where the destination is named as one that does the network for the child.
    fn go_between(&self, process: Option<&Process>, to: Destination) -> Option<Arc<str>> {
        let is_one_of = |name: &Domain, host: &Domain| {
            name == host
                || self
                    .policy
                    .without_search_suffix(name)
                    .any(|bare| bare == *host)
        };
        let leads_there = |host: &Domain| {
            self.leads_to(to.ip)
                .any(|lead| is_one_of(&lead.name.0, host))
        };
        self.go_betweens
            .contacted(process, to, leads_there)
            .cloned()
    }

    fn explain(&self, key: ContactKey) -> Explanation {
        match key.verdict {
            Verdict::Allowed => self.explain_allowed(key),
            Verdict::Blocked | Verdict::WouldBlock => self.explain_blocked(key.destination),
        }
    }

    /// A name that leads there and that a rule blocks on that port, else one that the
    /// default blocks, else the address itself.
    fn explain_blocked(&self, to: Destination) -> Explanation {
        let mut blamed = self
            .leads_to(to.ip)
            .rev()
            .filter_map(|lead| self.explain_by_name(lead, to, Action::Block))
            .collect::<Vec<_>>();
        blamed.sort_by_key(|explanation| explanation.rule.is_none());
        blamed
            .into_iter()
            .next()
            .unwrap_or_else(|| self.explain_by_address(to, Action::Block))
    }

    /// The name that the process itself asked for last, else the last that anyone did,
    /// else a rule on the address. A name that is blocked on that port does not explain
    /// why a contact was allowed: it was not known to lead there yet.
    fn explain_allowed(&self, key: ContactKey) -> Explanation {
        let is_own = |lead: &&Lead| lead.asker.is_some() && lead.asker == key.process;
        let leads = || self.leads_to(key.destination.ip).rev();
        leads()
            .filter(is_own)
            .chain(leads())
            .find_map(|lead| self.explain_by_name(lead, key.destination, Action::Allow))
            .unwrap_or_else(|| self.explain_by_address(key.destination, Action::Allow))
    }

    fn explain_by_name(
        &self,
        lead: &Lead,
        to: Destination,
        verdict: Action,
    ) -> Option<Explanation> {
        let (name, aliases) = &*lead.name;
        let judgement = self.policy.name(name, aliases);
        let judgement = self.policy.through_name(name, &judgement, to.ip)?;
        let decision = judgement.at(to.transport(), to.port);
        (decision.action == verdict).then(|| Explanation {
            name: Some(name.clone()),
            rule: decision.rule.cloned(),
            matched: decision.matched.cloned(),
            reason: match decision {
                Decision { rule: None, .. } => Reason::Default,
                Decision { matched: None, .. } => Reason::Rule,
                Decision {
                    matched: Some(matched),
                    ..
                } if aliases.contains(matched) => Reason::Alias,
                Decision { .. } => Reason::SearchSuffix,
            },
        })
    }

    fn explain_by_address(&self, to: Destination, verdict: Action) -> Explanation {
        let rule = self.policy.address(to.ip).and_then(|judgement| {
            let decision = judgement.at(to.transport(), to.port);
            decision.rule.filter(|rule| rule.action == verdict).cloned()
        });
        Explanation {
            name: None,
            reason: match rule {
                Some(_) => Reason::Rule,
                None => Reason::DirectIp,
            },
            rule,
            matched: None,
        }
    }

    /// Whether the address can be reached through the internet.
    fn is_public(&self, ip: IpAddr) -> bool {
        let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        let is_near = self.policy.is_own(ip) || self.policy.is_private(ip);
        !(is_near || is_broadcast || ip.is_multicast())
    }

    fn leads_to(&self, ip: IpAddr) -> impl DoubleEndedIterator<Item = &Lead> {
        self.leads.to(ip)
    }

    fn lead_from_answer(&mut self, query: &Query, asker: Option<&Who>) {
        if !query.answers.is_empty() {
            let name = Arc::new((query.qname.clone(), query.cname_chain.clone()));
            self.lead(&name, &query.answers, id(asker));
        }
    }

    /// Remember that `name` leads to `addresses`.
    fn lead(&mut self, name: &Chain, addresses: &[IpAddr], asker: Option<ProcessId>) {
        for address in addresses {
            if !self.leads.add(address.to_canonical(), name, asker) {
                self.forgotten += 1;
            }
        }
    }
}

impl From<Destination> for Service {
    fn from(to: Destination) -> Self {
        Self::Port {
            address: SocketAddr::new(to.ip, to.port),
            protocol: to.protocol,
        }
    }
}

/// The service in the one spelling in which it is counted.
fn canonical(service: Service) -> Service {
    match service {
        Service::Port { address, protocol } => {
            Destination::new(address.ip(), address.port(), protocol).into()
        }
        Service::Path(path) => Service::Path(normal_path(&path)),
        Service::Abstract(name) => Service::Abstract(name),
    }
}

impl Destination {
    fn new(ip: IpAddr, port: u16, protocol: u8) -> Self {
        Self {
            ip: ip.to_canonical(),
            port,
            protocol,
        }
    }

    pub fn transport(&self) -> Transport {
        Transport::from_protocol(self.protocol)
    }
}

fn id(who: Option<&Who>) -> Option<ProcessId> {
    who.map(|who| who.process.id())
}

fn parts(who: Option<Who>) -> (Option<Arc<Process>>, Ancestors) {
    match who {
        Some(who) => (Some(who.process), who.ancestors),
        None => (None, Ancestors::default()),
    }
}

#[cfg(test)]
mod tests;
