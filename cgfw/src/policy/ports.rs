//! A verdict for every port of every transport protocol.

use std::ops::RangeInclusive;

use super::Action;

/// What a port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// A verdict for every port, in canonical form, so that equal verdicts are equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    tcp: Steps,
    udp: Steps,
    other: Opinion,
}

/// A verdict, and whether a rule or only the default is behind it. In the order in which
/// one prevails over another: a rule over a default, and block over allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Opinion {
    Default(Action),
    Rule(Action),
}

impl Opinion {
    fn action(self) -> Action {
        let (Self::Default(action) | Self::Rule(action)) = self;
        action
    }
}

/// The opinions on the ports of one transport.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Steps {
    /// The opinion on port 0.
    first: Opinion,
    /// The ports, ascending, from which on it is another than before. Empty, and so
    /// without an allocation, where all ports are alike.
    changes: Vec<(u16, Opinion)>,
}

impl Ports {
    /// The same verdict of a rule on everything.
    pub fn all(action: Action) -> Self {
        Self::uniformly(Opinion::Rule(action))
    }

    /// The same verdict on everything, for want of a rule.
    pub fn by_default(action: Action) -> Self {
        Self::uniformly(Opinion::Default(action))
    }

    fn uniformly(opinion: Opinion) -> Self {
        let steps = Steps {
            first: opinion,
            changes: Vec::new(),
        };
        Self {
            tcp: steps.clone(),
            udp: steps,
            other: opinion,
        }
    }

    /// Tabulate `opinion`, which may change at the ports `changes` and nowhere else.
    pub(super) fn tabulate(
        mut changes: Vec<u16>,
        opinion: impl Fn(Transport, u16) -> Opinion,
    ) -> Self {
        changes.sort_unstable();
        let steps = |transport| Steps::tabulate(&changes, |port| opinion(transport, port));
        Self {
            tcp: steps(Transport::Tcp),
            udp: steps(Transport::Udp),
            other: opinion(Transport::Other, 0),
        }
    }

    /// The one verdict on all ports, if there is just one.
    pub fn uniform(&self) -> Option<Action> {
        let action = self.other.action();
        [&self.tcp, &self.udp]
            .into_iter()
            .flat_map(Steps::iter)
            .all(|(_, opinion)| opinion.action() == action)
            .then_some(action)
    }

    /// The verdict on one port; for [`Transport::Other`] the port does not matter.
    pub fn at(&self, transport: Transport, port: u16) -> Action {
        self.opinion(transport, port).action()
    }

    /// Two names that lead to one address, or a name and its address: a rule on either
    /// prevails over a default, and where rules differ, block wins.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let changes = [&self.tcp, &self.udp, &other.tcp, &other.udp]
            .into_iter()
            .flat_map(|steps| steps.changes.iter().map(|(port, _)| *port))
            .collect();
        Self::tabulate(changes, |transport, port| {
            self.opinion(transport, port)
                .max(other.opinion(transport, port))
        })
    }

    /// The ranges of one transport that have the verdict `action`, ascending; of
    /// [`Transport::Other`] it is all or nothing.
    pub fn ranges(&self, transport: Transport, action: Action) -> Vec<RangeInclusive<u16>> {
        match transport {
            Transport::Tcp => self.tcp.ranges(action),
            Transport::Udp => self.udp.ranges(action),
            Transport::Other if self.other.action() == action => vec![0..=u16::MAX],
            Transport::Other => Vec::new(),
        }
    }

    fn opinion(&self, transport: Transport, port: u16) -> Opinion {
        match transport {
            Transport::Tcp => self.tcp.at(port),
            Transport::Udp => self.udp.at(port),
            Transport::Other => self.other,
        }
    }
}

impl Steps {
    /// `changes` are ascending and may repeat.
    fn tabulate(changes: &[u16], opinion: impl Fn(u16) -> Opinion) -> Self {
        let first = opinion(0);
        let mut last = first;
        let changes = changes
            .iter()
            .map(|&port| (port, opinion(port)))
            .filter(|(_, opinion)| std::mem::replace(&mut last, *opinion) != *opinion)
            .collect();
        Self { first, changes }
    }

    fn at(&self, port: u16) -> Opinion {
        let passed = self.changes.partition_point(|(change, _)| *change <= port);
        match self.changes[..passed].last() {
            Some((_, opinion)) => *opinion,
            None => self.first,
        }
    }

    /// `(first port, opinion)` up to the next step.
    fn iter(&self) -> impl Iterator<Item = (u16, Opinion)> {
        std::iter::once((0, self.first)).chain(self.changes.iter().copied())
    }

    fn ranges(&self, action: Action) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        let ends = self.changes.iter().map(|(port, _)| port - 1);
        for ((start, opinion), end) in self.iter().zip(ends.chain([u16::MAX])) {
            if opinion.action() != action {
                continue;
            }
            match ranges.last_mut() {
                // The verdict is the same, only what is behind it changes.
                Some(last) if last.end().checked_add(1) == Some(start) => {
                    *last = *last.start()..=end;
                }
                _ => ranges.push(start..=end),
            }
        }
        ranges
    }
}
