//! A verdict for every port of every transport protocol.

use std::ops::RangeInclusive;

use super::Action;

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

/// A verdict for every port, in canonical form, so that equal verdicts are equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    tcp: Steps,
    udp: Steps,
    other: Action,
}

/// The verdicts on the ports of one transport.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Steps {
    /// The verdict on port 0.
    first: Action,
    /// The ports, ascending, from which on it is the other verdict than before. Empty,
    /// and so without an allocation, where all ports are alike.
    changes: Vec<u16>,
}

impl Ports {
    /// The same verdict on everything.
    pub fn all(action: Action) -> Self {
        let steps = Steps {
            first: action,
            changes: Vec::new(),
        };
        Self {
            tcp: steps.clone(),
            udp: steps,
            other: action,
        }
    }

    /// Tabulate `verdict`, which may change at the ports `changes` and nowhere else.
    pub(super) fn tabulate(
        mut changes: Vec<u16>,
        verdict: impl Fn(Transport, u16) -> Action,
    ) -> Self {
        changes.sort_unstable();
        let steps = |transport| Steps::tabulate(&changes, |port| verdict(transport, port));
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
        match transport {
            Transport::Tcp => self.tcp.at(port),
            Transport::Udp => self.udp.at(port),
            Transport::Other => self.other,
        }
    }

    /// Both have to allow: where they differ, block wins.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let changes = [&self.tcp, &self.udp, &other.tcp, &other.udp]
            .into_iter()
            .flat_map(|steps| steps.changes.iter().copied())
            .collect();
        Self::tabulate(changes, |transport, port| {
            self.at(transport, port).and(other.at(transport, port))
        })
    }

    /// The ranges of one transport that have the verdict `action`, ascending; all ports
    /// or none for [`Transport::Other`].
    pub fn ranges(&self, transport: Transport, action: Action) -> Vec<RangeInclusive<u16>> {
        match transport {
            Transport::Tcp => self.tcp.ranges(action),
            Transport::Udp => self.udp.ranges(action),
            Transport::Other if self.other == action => vec![0..=u16::MAX],
            Transport::Other => Vec::new(),
        }
    }
}

impl Steps {
    /// `changes` are ascending and may repeat.
    fn tabulate(changes: &[u16], verdict: impl Fn(u16) -> Action) -> Self {
        let first = verdict(0);
        let mut last = first;
        let changes = changes
            .iter()
            .copied()
            .filter(|&port| std::mem::replace(&mut last, verdict(port)) != last)
            .collect();
        Self { first, changes }
    }

    fn at(&self, port: u16) -> Action {
        self.after(self.changes.partition_point(|change| *change <= port))
    }

    /// The verdict after so many changes.
    fn after(&self, changes: usize) -> Action {
        if changes.is_multiple_of(2) {
            self.first
        } else {
            self.first.opposite()
        }
    }

    fn ranges(&self, action: Action) -> Vec<RangeInclusive<u16>> {
        let starts = std::iter::once(0).chain(self.changes.iter().copied());
        let ends = self.changes.iter().map(|change| change - 1);
        starts
            .zip(ends.chain([u16::MAX]))
            .enumerate()
            .filter(|(passed, _)| self.after(*passed) == action)
            .map(|(_, (start, end))| start..=end)
            .collect()
    }
}
