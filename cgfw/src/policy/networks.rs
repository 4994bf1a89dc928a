//! Networks of rules, in an order in which the ones around an address are a short walk apart.

use std::sync::Arc;

use ipnet::IpNet;

use super::Rule;

/// Rules by network. A look-up is a binary search and a walk outwards, however many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks {
    /// By network, inner ones behind those around them; where networks are the same, by rank.
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    net: IpNet,
    rule: Arc<Rule>,
    /// The index of the next entry outwards, of the same or a larger network.
    outer: Option<u32>,
}

impl Networks {
    pub(super) fn new(rules: impl IntoIterator<Item = (IpNet, Arc<Rule>)>) -> Self {
        let mut entries: Vec<Entry> = rules
            .into_iter()
            .map(|(net, rule)| Entry {
                net,
                rule,
                outer: None,
            })
            .collect();
        // The order of IpNet is: version, first address, prefix length. The last is asked first,
        // so that of equals the one that was written first decides.
        entries.reverse();
        let rank = |entry: &Entry| entry.rule.rank();
        entries.sort_by(|one, other| {
            let by_rank = || rank(one).cmp(&rank(other));
            one.net.cmp(&other.net).then_with(by_rank)
        });
        let mut around: Vec<u32> = Vec::new();
        for at in 0..entries.len() {
            let net = entries[at].net;
            while around
                .pop_if(|outer| !entries[*outer as usize].net.contains(&net))
                .is_some()
            {}
            entries[at].outer = around.last().copied();
            around.extend(u32::try_from(at));
        }
        Self { entries }
    }

    /// The networks, ascending; each as often as there are rules.
    pub(super) fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.entries.iter().map(|entry| entry.net)
    }

    /// The rules on networks that contain `net`, itself included: the longest first, block
    /// before allow.
    pub(super) fn around(&self, net: IpNet) -> impl Iterator<Item = &Arc<Rule>> {
        let last = self
            .entries
            .partition_point(|entry| entry.net <= net)
            .checked_sub(1);
        let first = last.map(|last| &self.entries[last]);
        std::iter::successors(first, |entry| {
            entry.outer.map(|outer| &self.entries[outer as usize])
        })
        .filter(move |entry| entry.net.contains(&net))
        .map(|entry| &entry.rule)
    }
}
