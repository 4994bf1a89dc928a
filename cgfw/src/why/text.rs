//! An answer for people: the verdict first, and then what led to it.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Said;
use super::destination::{Destination, Host};
use super::judge::{Answer, Ground, Known, Matched, Resolution, Source};
use crate::dns::Found;
use crate::escape::Plain;
use crate::formats::{Paint, Style};
use crate::policy::{
    Action, Candidate, DirectIp, Domain, Judgement, Ports, Rule, Standing, Transport,
};

/// The answer, as whole lines.
pub(super) fn of(
    destination: &Destination,
    answer: &Answer,
    known: &Known,
    said: Said,
    style: Style,
) -> String {
    let mut page = Page {
        text: String::new(),
        known,
        said,
        style,
    };
    let is_partial = destination.port.is_none() && answer.ports.uniform().is_none();
    let verdict = page.verdict(answer, None, is_partial);
    page.text = format!("{destination}: {verdict}\n");
    page.details(destination, answer);
    if is_partial {
        for action in [Action::Allow, Action::Block] {
            let ports = ranges(&answer.ports, action).join(", ");
            page.line(&format!("{}: {ports}", word(action)));
        }
    }
    page.other_transport(destination, answer);
    page.candidates(destination, answer);
    if let Some(resolution) = &answer.resolution {
        page.resolution(destination, resolution);
    }
    page.text
}

struct Page<'p> {
    text: String,
    known: &'p Known,
    said: Said,
    style: Style,
}

impl Page<'_> {
    fn line(&mut self, line: &str) {
        // Writing to a string cannot fail.
        let _infallible = writeln!(self.text, "    {line}");
    }

    /// `blocked by --block github.com`; `name` is the one whose addresses are told.
    fn verdict(&self, answer: &Answer, name: Option<&Domain>, is_partial: bool) -> String {
        let (word, paint) = match (answer.verdict, is_partial) {
            (Action::Block, _) => ("blocked", Paint::Red),
            (Action::Allow, true) => ("allowed on some ports", Paint::Yellow),
            (Action::Allow, false) => ("allowed", Paint::Green),
        };
        let word = self.style.paint(paint, word);
        format!("{word} {}", self.ground(answer, name))
    }

    fn ground(&self, answer: &Answer, name: Option<&Domain>) -> String {
        let leads = |lead: &Domain| match name {
            Some(name) if name == lead => String::new(),
            _ => format!(", as an address of {lead}"),
        };
        match &answer.ground {
            Ground::Rule { rule, matched } => {
                let rule = cite(rule);
                match matched {
                    Matched::Itself => format!("by {rule}"),
                    Matched::Alias(alias) => format!("by {rule}, as an alias of {alias}"),
                    Matched::Bare(bare) => {
                        format!("by {rule}, as {bare} behind which the resolver puts a suffix")
                    }
                    Matched::Name(lead) => format!("by {rule}{}", leads(lead)),
                }
            }
            Ground::Default(None) => "by default".to_owned(),
            Ground::Default(Some(lead)) => format!("by default{}", leads(lead)),
            Ground::DirectIp => format!("by {}", self.direct_ip()),
            Ground::Own => "as an address of this host".to_owned(),
            Ground::Addresses => match answer.verdict {
                Action::Allow => "as one of its addresses is".to_owned(),
                Action::Block => "as all of its addresses are".to_owned(),
            },
        }
    }

    fn direct_ip(&self) -> &'static str {
        match self.known.policy.direct_ip() {
            DirectIp::Allow => "--direct-ip allow",
            DirectIp::Private => "--direct-ip private",
            DirectIp::Block => "--direct-ip block",
        }
    }

    /// What there is to be said of what decided.
    fn details(&mut self, destination: &Destination, answer: &Answer) {
        let is_matched = answer
            .judgement
            .as_ref()
            .is_some_and(|judgement| !judgement.candidates(None).is_empty());
        let nothing = if is_matched && destination.port.is_some() {
            "no rule speaks of this port"
        } else {
            "no rule matches"
        };
        match &answer.ground {
            Ground::Rule { rule, .. } => {
                for (what, text) in [("reason", rule.reason()), ("owner", rule.owner())] {
                    if let Some(text) = text {
                        self.line(&format!("{what}: {}", Plain(text.as_bytes())));
                    }
                }
            }
            Ground::Default(_) => {
                let why = match (self.said.default, self.known.policy.default_action()) {
                    (true, Action::Allow) => "--default allow is given",
                    (true, Action::Block) => "--default block is given",
                    (false, Action::Allow) => "--default allow is implied by the rules",
                    (false, Action::Block) => "--default block is implied by the rules",
                };
                self.line(&format!("{nothing}; {why}"));
            }
            Ground::DirectIp => {
                let direct_ip = self.direct_ip();
                let why = if self.said.direct_ip {
                    "given"
                } else {
                    "implied by the default"
                };
                self.line(&format!("{nothing}; {direct_ip} is {why}"));
                let policy = &self.known.policy;
                if answer.verdict == Action::Allow
                    && self.known.resolver.is_none()
                    && policy.blocked_names().next().is_some()
                {
                    self.line("a run refuses it where a blocked name has it; --resolve looks");
                }
            }
            Ground::Own | Ground::Addresses => {}
        }
    }

    /// Where nobody said which transport, the other one may be judged differently.
    fn other_transport(&mut self, destination: &Destination, answer: &Answer) {
        let Some(port) = destination.port.filter(|port| port.is_assumed) else {
            return;
        };
        let over_udp = answer.ports.at(Transport::Udp, port.number);
        if over_udp != answer.ports.at(port.transport, port.number) {
            self.line(&format!("{}/udp: {}", port.number, word(over_udp)));
        }
    }

    /// The rules that match and did not decide.
    fn candidates(&mut self, destination: &Destination, answer: &Answer) {
        let Some(judgement) = &answer.judgement else {
            return;
        };
        let decisive = match &answer.ground {
            Ground::Rule { rule, .. } => Some(rule),
            Ground::Default(_) | Ground::DirectIp | Ground::Own | Ground::Addresses => None,
        };
        let asked = destination.port.map(|port| (port.transport, port.number));
        for candidate in judgement.candidates(asked) {
            if !decisive.is_some_and(|decisive| Arc::ptr_eq(decisive, candidate.rule)) {
                self.line(&standing(&candidate));
            }
        }
    }

    fn resolution(&mut self, destination: &Destination, resolution: &Resolution) {
        match &resolution.source {
            Source::Hosts => self.line("/etc/hosts has it, so that no server is asked"),
            Source::Nobody => self.line("not looked up: a run does not ask for a blocked name"),
            Source::Servers(found) => {
                let mut lines: Vec<String> = found.iter().map(looked_up).collect();
                lines.dedup();
                for line in lines {
                    self.line(&line);
                }
            }
        }
        for (alias, judgement) in &resolution.chain {
            let verdict = self.alias(judgement);
            self.line(&format!("-> {alias}: {verdict}"));
        }
        let name = match &destination.host {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        };
        for (address, answer) in &resolution.addresses {
            let is_partial = destination.port.is_none() && answer.ports.uniform().is_none();
            let verdict = self.verdict(answer, name, is_partial);
            self.line(&format!("{address}: {verdict}"));
        }
    }

    /// An alias by itself, of which only rules that block say anything.
    fn alias(&self, judgement: &Judgement) -> String {
        let blocks = judgement.candidates(None).into_iter().find(|candidate| {
            candidate.standing == Standing::Decides && candidate.rule.action == Action::Block
        });
        match blocks {
            Some(candidate) => {
                let word = self.style.paint(Paint::Red, "blocked");
                format!("{word} by {}", cite(candidate.rule))
            }
            None => self.style.paint(Paint::Green, "not blocked"),
        }
    }
}

/// What a server said.
fn looked_up(found: &anyhow::Result<Found>) -> String {
    match found {
        Ok(found) if found.rcode == "NOERROR" => format!("looked up at {}", found.upstream),
        Ok(found) => format!("does not resolve: {} says {}", found.upstream, found.rcode),
        Err(error) => format!("cannot be looked up: {error:#}"),
    }
}

/// `--block com: shadowed by --allow github.com, a longer match`
fn standing(candidate: &Candidate<'_>) -> String {
    let by = candidate.by.map_or(String::new(), |by| cite(by));
    let standing = match candidate.standing {
        Standing::Decides => "decides on its ports".to_owned(),
        Standing::Agrees => format!("says the same as {by}"),
        Standing::LostTie => format!("loses the tie with {by}: block wins"),
        Standing::Shadowed => format!("shadowed by {by}, a longer match"),
        Standing::Overruled => format!("overruled by {by}"),
        Standing::NoSay => "allows the alias, not what is asked for".to_owned(),
        Standing::OtherPorts => "speaks of other ports".to_owned(),
    };
    let rule = cite(candidate.rule);
    match candidate.matched {
        Some(matched) => format!("{rule}, for {matched}: {standing}"),
        None => format!("{rule}: {standing}"),
    }
}

/// Where a rule was written is as untrusted as any text.
fn cite(rule: &Rule) -> String {
    Plain(rule.cite().as_bytes()).to_string()
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allowed",
        Action::Block => "blocked",
    }
}

/// The ports with that verdict, `443/tcp`, or `443` if it is so for TCP and UDP.
pub(super) fn ranges(ports: &Ports, action: Action) -> Vec<String> {
    let of = |transport| -> Vec<String> {
        let ranges = ports.ranges(transport, action);
        ranges
            .into_iter()
            // There is no port 0.
            .map(|range| ((*range.start()).max(1), *range.end()))
            .filter(|(first, last)| first <= last)
            .map(|(first, last)| match (first, last) {
                (1, u16::MAX) => "all".to_owned(),
                _ if first == last => first.to_string(),
                _ => format!("{first}-{last}"),
            })
            .collect()
    };
    let (tcp, udp) = (of(Transport::Tcp), of(Transport::Udp));
    let mut all = if tcp == udp {
        tcp
    } else {
        let tcp = tcp.iter().map(|range| format!("{range}/tcp"));
        let udp = udp.iter().map(|range| format!("{range}/udp"));
        tcp.chain(udp).collect()
    };
    if !ports.ranges(Transport::Other, action).is_empty() {
        all.push("other protocols".to_owned());
    }
    all
}
