/*!
What is to be told of a destination, before it is written as text or JSON.

Nothing is decided here: names go to [`Policy::name`], answers of servers through the
proxy's own judgement of them, and addresses to what a run would tell the kernel.
*/

use std::net::IpAddr;
use std::sync::Arc;

use super::destination::{Destination, Host, Port};
use crate::dns::{Found, Resolver};
use crate::pins::{self, Pins, Teller};
use crate::policy::{Action, Decision, Domain, Judgement, Pattern, Policy, Ports, Rule};

/// What is known before any destination is looked at.
pub(super) struct Known {
    pub(super) policy: Arc<Policy>,
    /// The names of /etc/hosts.
    pub(super) hosts: Vec<(Domain, Vec<IpAddr>)>,
    /// Those of /etc/hosts and of blocked names.
    pub(super) addresses: Addresses,
    /// With `--resolve`.
    pub(super) resolver: Option<Arc<Resolver>>,
}

/// Addresses to which names lead, and that are judged by them therefore.
#[derive(Clone, Default)]
pub(super) struct Addresses {
    pins: Pins,
    leads: Vec<Lead>,
}

#[derive(Clone)]
struct Lead {
    name: Domain,
    judgement: Judgement,
    address: IpAddr,
}

/// What is to be told of a destination, or of one of its addresses.
pub(super) struct Answer {
    pub(super) verdict: Action,
    pub(super) ground: Ground,
    /// The verdict on every port.
    pub(super) ports: Ports,
    /// Knows the rules that match; `None` if there are none.
    pub(super) judgement: Option<Judgement>,
    /// Where the name leads, if that is known or was asked.
    pub(super) resolution: Option<Resolution>,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    Rule {
        rule: Arc<Rule>,
        matched: Matched,
    },
    /// No rule speaks of the name. Of an address: of this name, which leads to it.
    Default(Option<Domain>),
    /// No rule and no name speaks of the address.
    DirectIp,
    /// It is an address of this host, and no rule says anything else.
    Own,
    /// Not the name, but all the addresses it has.
    Addresses,
}

/// What a rule has matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matched {
    Itself,
    Alias(Domain),
    /// The name without a search suffix.
    Bare(Domain),
    /// A name that leads to the address.
    Name(Domain),
}

/// Where a name leads.
pub(super) struct Resolution {
    pub(super) source: Source,
    /// The aliases from the name on, each judged by itself.
    pub(super) chain: Vec<(Domain, Judgement)>,
    pub(super) addresses: Vec<(IpAddr, Answer)>,
}

/// From where it is known to where a name leads.
pub(super) enum Source {
    /// /etc/hosts has the name, so that nobody is asked.
    Hosts,
    /// A run does not ask anybody either for a name that is blocked.
    Nobody,
    /// What came of the questions for AAAA and A.
    Servers(Vec<anyhow::Result<Found>>),
}

impl Known {
    pub(super) async fn answer(&self, destination: &Destination) -> Answer {
        let port = destination.port;
        let name = match &destination.host {
            Host::Address(address) => return self.address(&self.addresses, *address, port),
            Host::Name(name) => name,
        };
        let judgement = self.policy.name(name, &[]);
        if let Some((_, addresses)) = self.hosts.iter().find(|(known, _)| known == name) {
            let addresses = self.each(&self.addresses, addresses, port);
            let resolution = Resolution {
                source: Source::Hosts,
                chain: Vec::new(),
                addresses,
            };
            return of_name(judgement, &[], port, Some(resolution));
        }
        let Some(resolver) = &self.resolver else {
            return of_name(judgement, &[], port, None);
        };
        if judgement.is_blocked() {
            let resolution = Resolution {
                source: Source::Nobody,
                chain: Vec::new(),
                addresses: Vec::new(),
            };
            return of_name(judgement, &[], port, Some(resolution));
        }
        let found = [
            resolver.look_up(&self.policy, name, true).await,
            resolver.look_up(&self.policy, name, false).await,
        ];
        self.resolved(name, judgement, port, found.into())
    }

    fn resolved(
        &self,
        name: &Domain,
        judgement: Judgement,
        port: Option<Port>,
        found: Vec<anyhow::Result<Found>>,
    ) -> Answer {
        let mut known = self.addresses.clone();
        let mut chain: Vec<Domain> = Vec::new();
        let mut addresses: Vec<IpAddr> = Vec::new();
        for found in found.iter().flatten() {
            known.add_found(&self.policy, name, found);
            let news = found.chain.iter().filter(|alias| !chain.contains(alias));
            let news: Vec<Domain> = news.cloned().collect();
            chain.extend(news);
            addresses.extend(&found.addresses);
        }
        // Each question has its verdict; where they differ, that which blocks is the one to
        // know of.
        let judgements = || found.iter().flatten().map(|found| &found.judgement);
        let judgement = judgements()
            .find(|judgement| decision(judgement, port).action == Action::Block)
            .or_else(|| judgements().next())
            .cloned()
            .unwrap_or(judgement);
        let resolution = Resolution {
            addresses: self.each(&known, &addresses, port),
            source: Source::Servers(found),
            chain: chain
                .iter()
                .map(|alias| (alias.clone(), self.policy.name(alias, &[])))
                .collect(),
        };
        of_name(judgement, &chain, port, Some(resolution))
    }

    fn each(
        &self,
        known: &Addresses,
        addresses: &[IpAddr],
        port: Option<Port>,
    ) -> Vec<(IpAddr, Answer)> {
        addresses
            .iter()
            .map(|address| (*address, self.address(known, *address, port)))
            .collect()
    }

    /// An address, where `known` names may lead to it.
    fn address(&self, known: &Addresses, address: IpAddr, port: Option<Port>) -> Answer {
        let policy = &self.policy;
        let by_rules = policy.address(address);
        let ports = known
            .pins
            .get(address)
            .or(by_rules.as_ref().map(|judgement| &judgement.ports))
            .cloned()
            .unwrap_or_else(|| Ports::by_default(policy.unresolved(address)));
        let verdict = verdict(&ports, port);
        let by_names = known.leads.iter().filter_map(|lead| {
            let is_it = lead.address == address;
            let judgement =
                is_it.then(|| policy.through_name(&lead.name, &lead.judgement, address));
            Some((Some(&lead.name), judgement.flatten()?))
        });
        let says_so = |(_, judgement): &(Option<&Domain>, Judgement)| {
            decision(judgement, port).action == verdict
        };
        let mut views: Vec<_> = by_names
            .chain(by_rules.map(|judgement| (None, judgement)))
            .filter(says_so)
            .collect();
        // A rule tells more than a default.
        views.sort_by_key(|(_, judgement)| decision(judgement, port).rule.is_none());
        let view = views.into_iter().next();
        let ground = match &view {
            Some((name, judgement)) => self.ground(*name, decision(judgement, port), address),
            None => self.unresolved(address),
        };
        Answer {
            verdict,
            ground,
            ports,
            judgement: view.map(|(_, judgement)| judgement),
            resolution: None,
        }
    }

    fn ground(&self, name: Option<&Domain>, decision: Decision<'_>, address: IpAddr) -> Ground {
        match (decision.rule, name) {
            (Some(rule), name) => Ground::Rule {
                rule: Arc::clone(rule),
                matched: match (&rule.pattern, name) {
                    (Pattern::Domain { .. }, Some(name)) => Matched::Name(name.clone()),
                    _ => Matched::Itself,
                },
            },
            (None, Some(name)) => Ground::Default(Some(name.clone())),
            (None, None) => self.unresolved(address),
        }
    }

    fn unresolved(&self, address: IpAddr) -> Ground {
        if self.policy.is_own(address) {
            Ground::Own
        } else {
            Ground::DirectIp
        }
    }
}

/// A name with its aliases, and the addresses that it is known to have.
fn of_name(
    judgement: Judgement,
    aliases: &[Domain],
    port: Option<Port>,
    resolution: Option<Resolution>,
) -> Answer {
    let decision = decision(&judgement, port);
    let ground = match (decision.rule, decision.matched) {
        (None, _) => Ground::Default(None),
        (Some(rule), matched) => Ground::Rule {
            rule: Arc::clone(rule),
            matched: match matched {
                None => Matched::Itself,
                Some(name) if aliases.contains(name) => Matched::Alias(name.clone()),
                Some(name) => Matched::Bare(name.clone()),
            },
        },
    };
    let by_addresses = resolution
        .as_ref()
        .and_then(|resolution| resolution.verdict(&judgement));
    let (verdict, ground) = match by_addresses {
        Some(verdict) if verdict != decision.action => (verdict, Ground::Addresses),
        _ => (decision.action, ground),
    };
    Answer {
        verdict,
        ground,
        ports: judgement.ports.clone(),
        judgement: Some(judgement),
        resolution,
    }
}

impl Resolution {
    /// What the addresses make of a name; `None` where it has none, or where a run would not
    /// tell it any, because no port of the name is allowed.
    fn verdict(&self, name: &Judgement) -> Option<Action> {
        let is_told = match self.source {
            Source::Hosts => true,
            Source::Nobody => false,
            Source::Servers(_) => !name.is_blocked(),
        };
        let verdicts = self.addresses.iter().map(|(_, answer)| answer.verdict);
        // Allow is the lesser: clients try one address after the other.
        verdicts.min().filter(|_| is_told)
    }
}

impl Addresses {
    /// Note that these are the addresses of a name in /etc/hosts.
    pub(super) fn add_host(&mut self, policy: &Policy, name: Domain, addresses: &[IpAddr]) {
        let judgement = policy.name(&name, &[]);
        self.add(policy, &pins::Lead::of_host(name), &judgement, addresses);
    }

    /// Note what servers said of `name`.
    pub(super) fn add_found(&mut self, policy: &Policy, name: &Domain, found: &Found) {
        let lead = pins::Lead {
            name: name.clone(),
            aliases: found.chain.clone(),
            told_by: Teller::Server,
        };
        self.add(policy, &lead, &found.judgement, &found.addresses);
    }

    fn add(
        &mut self,
        policy: &Policy,
        lead: &pins::Lead,
        judgement: &Judgement,
        addresses: &[IpAddr],
    ) {
        for (address, ports) in lead.pins(policy, judgement, addresses) {
            // It is in the pins from now on; whether that is news concerns the kernel.
            let _news = self.pins.add(policy, address, &ports);
            // What was asked for comes before what was known already.
            self.leads.insert(
                0,
                Lead {
                    name: lead.name.clone(),
                    judgement: judgement.clone(),
                    address,
                },
            );
        }
    }
}

/// The verdict on one port; without one, a thing is blocked if all of its ports are.
fn verdict(ports: &Ports, port: Option<Port>) -> Action {
    match port {
        Some(port) => ports.at(port.transport, port.number),
        None => ports.uniform().unwrap_or(Action::Allow),
    }
}

/// The same, and what decided.
fn decision(judgement: &Judgement, port: Option<Port>) -> Decision<'_> {
    match port {
        Some(port) => judgement.at(port.transport, port.number),
        None => judgement.decision(),
    }
}
