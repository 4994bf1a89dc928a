//! A verdict for every port of every transport protocol.

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

/// For each transport the ports at which the verdict changes, in canonical form, so
/// that equal verdicts are equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    tcp: Steps,
    udp: Steps,
    other: Action,
}

/// `(first port, verdict)` up to the next step; the first step starts at port 0.
type Steps = Vec<(u16, Action)>;

impl Ports {
    /// The same verdict on everything.
    pub fn all(action: Action) -> Self {
        Self {
            tcp: vec![(0, action)],
            udp: vec![(0, action)],
            other: action,
        }
    }

    /// The first of `rules` that speaks of a port decides it; `fallback` the rest.
    pub(super) fn decide<'r>(
        rules: impl Iterator<Item = &'r Rule> + Clone,
        fallback: Action,
    ) -> Self {
        let verdict = |transport, port| {
            rules
                .clone()
                .find(|rule| rule.speaks_of(transport, port))
                .map_or(fallback, |rule| rule.action)
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
            |transport| canonical(changes.iter().map(|&port| (port, verdict(transport, port))));
        Self {
            tcp: steps(Transport::Tcp),
            udp: steps(Transport::Udp),
            other: verdict(Transport::Other, 0),
        }
    }

    /// The one verdict on all ports, if there is just one.
    pub fn uniform(&self) -> Option<Action> {
        (*self == Self::all(self.other)).then_some(self.other)
    }

    /// The verdict on one port; for [`Transport::Other`] the port does not matter.
    pub fn at(&self, transport: Transport, port: u16) -> Action {
        let steps = match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
            Transport::Other => return self.other,
        };
        let next = steps.partition_point(|(first, _)| *first <= port);
        steps[next - 1].1
    }

    /// Both have to allow: where they differ, block wins.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.merge(other, Action::and)
    }

    /// The ranges of one transport that have the verdict `action`.
    pub fn ranges(
        &self,
        transport: Transport,
        action: Action,
    ) -> Vec<std::ops::RangeInclusive<u16>> {
        let steps: &[(u16, Action)] = match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
            Transport::Other => &[(0, self.other)],
        };
        let ends = steps[1..]
            .iter()
            .map(|(first, _)| first - 1)
            .chain([u16::MAX]);
        steps
            .iter()
            .zip(ends)
            .filter(|((_, verdict), _)| *verdict == action)
            .map(|((first, _), last)| *first..=last)
            .collect()
    }

    fn merge(&self, other: &Self, pick: impl Fn(Action, Action) -> Action) -> Self {
        let steps = |transport, a: &Steps, b: &Steps| {
            let mut changes: Vec<u16> = a.iter().chain(b).map(|(first, _)| *first).collect();
            changes.sort_unstable();
            canonical(changes.into_iter().map(|port| {
                (
                    port,
                    pick(self.at(transport, port), other.at(transport, port)),
                )
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
fn canonical(steps: impl Iterator<Item = (u16, Action)>) -> Steps {
    let mut steps: Steps = steps.collect();
    steps.dedup_by_key(|(_, verdict)| *verdict);
    steps
}
