//! A verdict for every port of every transport protocol.

use std::ops::RangeInclusive;

use super::{Action, Rule};

/// What a port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    Udp,
    /// Anything without ports, such as ICMP echo.
    Other,
}

impl Transport {
    /// From the IANA protocol number.
    pub fn from_protocol(number: u8) -> Self {
        match i32::from(number) {
            libc::IPPROTO_TCP => Self::Tcp,
            libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE => Self::Udp,
            _ => Self::Other,
        }
    }
}

/// For each transport the ports at which the opinion changes, in canonical form, so
/// that equal opinions are equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    tcp: Steps,
    udp: Steps,
    other: Opinion,
}

/// A verdict, and whether a rule or only the default is behind it. In the order in which
/// one prevails over another: a rule over a default, and block over allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Opinion {
    Default(Action),
    Rule(Action),
}

impl Opinion {
    fn action(self) -> Action {
        let (Self::Default(action) | Self::Rule(action)) = self;
        action
    }
}

/// `(first port, opinion)` up to the next step; the first step starts at port 0.
type Steps = Vec<(u16, Opinion)>;

impl Ports {
    /// The same verdict of a rule on everything.
    pub fn all(action: Action) -> Self {
        Self::uniformly(Opinion::Rule(action))
    }

    /// The same verdict on everything, for want of a rule.
    pub fn by_default(action: Action) -> Self {
        Self::uniformly(Opinion::Default(action))
    }

    /// The first of `rules` that speaks of a port decides it; `fallback` the rest.
    pub(super) fn decide<'r>(
        rules: impl Iterator<Item = &'r Rule> + Clone,
        fallback: Action,
    ) -> Self {
        let opinion = |transport, port| {
            rules
                .clone()
                .find(|rule| rule.speaks_of(transport, port))
                .map_or(Opinion::Default(fallback), |rule| {
                    Opinion::Rule(rule.action)
                })
        };
        let mut changes: Vec<u16> = rules
            .clone()
            .filter_map(|rule| rule.ports.as_ref())
            .flat_map(|ports| [Some(*ports.start()), ports.end().checked_add(1)])
            .flatten()
            .chain([0])
            .collect();
        changes.sort_unstable();
        let steps =
            |transport| canonical(changes.iter().map(|&port| (port, opinion(transport, port))));
        Self {
            tcp: steps(Transport::Tcp),
            udp: steps(Transport::Udp),
            other: opinion(Transport::Other, 0),
        }
    }

    /// The one verdict on all ports, if there is just one.
    pub fn uniform(&self) -> Option<Action> {
        let action = self.other.action();
        let mut steps = self.tcp.iter().chain(&self.udp);
        steps
            .all(|(_, opinion)| opinion.action() == action)
            .then_some(action)
    }

    /// The verdict on one port; for [`Transport::Other`] the port does not matter.
    pub fn at(&self, transport: Transport, port: u16) -> Action {
        self.opinion(transport, port).action()
    }

    /// Two names that lead to one address: a rule of either prevails over a default, and
    /// where rules differ, block wins.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        self.combine(other, Opinion::max)
    }

    /// A name and its alias: what rules block for the alias is blocked for the name.
    #[must_use]
    pub fn blocked_by(&self, alias: &Self) -> Self {
        self.combine(alias, |own, alias| match alias {
            Opinion::Rule(Action::Block) => alias,
            Opinion::Rule(Action::Allow) | Opinion::Default(_) => own,
        })
    }

    /// The ranges of one transport that have the verdict `action`; of
    /// [`Transport::Other`] it is all or nothing.
    pub fn ranges(&self, transport: Transport, action: Action) -> Vec<RangeInclusive<u16>> {
        let steps = match transport {
            Transport::Tcp => &self.tcp[..],
            Transport::Udp => &self.udp,
            Transport::Other => &[(0, self.other)],
        };
        let ends = steps[1..].iter().map(|(first, _)| first - 1);
        steps
            .iter()
            .zip(ends.chain([u16::MAX]))
            .filter(|((_, opinion), _)| opinion.action() == action)
            .map(|((first, _), last)| *first..=last)
            .collect()
    }

    fn uniformly(opinion: Opinion) -> Self {
        Self {
            tcp: vec![(0, opinion)],
            udp: vec![(0, opinion)],
            other: opinion,
        }
    }

    fn opinion(&self, transport: Transport, port: u16) -> Opinion {
        let steps = match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
            Transport::Other => return self.other,
        };
        let next = steps.partition_point(|(first, _)| *first <= port);
        steps[next - 1].1
    }

    fn combine(&self, other: &Self, pick: impl Fn(Opinion, Opinion) -> Opinion) -> Self {
        let steps = |transport, a: &Steps, b: &Steps| {
            let mut changes: Vec<u16> = a.iter().chain(b).map(|(first, _)| *first).collect();
            changes.sort_unstable();
            canonical(changes.into_iter().map(|port| {
                let opinion = pick(
                    self.opinion(transport, port),
                    other.opinion(transport, port),
                );
                (port, opinion)
            }))
        };
        Self {
            tcp: steps(Transport::Tcp, &self.tcp, &other.tcp),
            udp: steps(Transport::Udp, &self.udp, &other.udp),
            other: pick(self.other, other.other),
        }
    }
}

/// Drop steps that change nothing.
fn canonical(steps: impl Iterator<Item = (u16, Opinion)>) -> Steps {
    let mut steps: Steps = steps.collect();
    steps.dedup_by_key(|(_, opinion)| *opinion);
    steps
}
