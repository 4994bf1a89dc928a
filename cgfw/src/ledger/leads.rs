//! The names that lead to each address, as far as there is room for them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::ProcessId;
use crate::policy::Domain;

/// Addresses whose names are remembered: as many as the kernel side can pin.
const MAX_ADDRESSES: usize = 1 << 17;
/// Names that are remembered for one address.
pub(super) const MAX_NAMES: usize = 16;
/// What all names may take, in octets. A name takes some hundred of them, unless a server
/// of the child's choosing makes up long chains of aliases.
const MAX_OCTETS: usize = 64 << 20;
/// What a domain takes besides its octets: the pointer to them and the allocator's share.
const DOMAIN: usize = 32;

/// A name, with the names that it is an alias of; shared by all addresses of an answer.
pub(super) type Chain = Arc<(Domain, Vec<Domain>)>;

/// A name that an address belongs to.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) name: Chain,
    /// The last process that asked for it.
    pub(super) asker: Option<ProcessId>,
}

/// The names of each address, the latest last.
#[derive(Debug, Default)]
pub(super) struct Leads {
    addresses: HashMap<IpAddr, Vec<Lead>>,
    octets: usize,
}

impl Leads {
    /// The names of `ip`, the latest last.
    pub(super) fn to(&self, ip: IpAddr) -> impl DoubleEndedIterator<Item = &Lead> {
        self.addresses.get(&ip).into_iter().flatten()
    }

    /// Remember that `name` leads to `ip`; whether there was room for that.
    pub(super) fn add(&mut self, ip: IpAddr, name: &Chain, asker: Option<ProcessId>) -> bool {
        let leads = self.addresses.get(&ip).map_or(&[][..], Vec::as_slice);
        let known = leads.iter().position(|lead| lead.name.0 == name.0);
        let replaced = known.or((leads.len() >= MAX_NAMES).then_some(0));
        let freed = replaced.map_or(0, |at| octets(&leads[at].name));
        let needed = self.octets - freed + octets(name);
        let is_new = leads.is_empty();
        if needed > MAX_OCTETS || (is_new && self.addresses.len() >= MAX_ADDRESSES) {
            return false;
        }
        self.octets = needed;
        let leads = self.addresses.entry(ip).or_default();
        let asked_before = known.and_then(|at| leads[at].asker);
        if let Some(at) = replaced {
            leads.remove(at);
        }
        leads.push(Lead {
            name: Arc::clone(name),
            asker: asker.or(asked_before),
        });
        true
    }
}

/// What a lead takes, as if nobody shared its name.
fn octets(name: &Chain) -> usize {
    let (name, aliases) = &**name;
    let names = std::iter::once(name).chain(aliases);
    let names: usize = names.map(|name| DOMAIN + name.as_wire().len()).sum();
    size_of::<Lead>() + names
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn chain(name: &str, aliases: usize) -> Chain {
        let long = |n: usize| Domain::parse(&format!("{n}.{}", "a.".repeat(120))).unwrap();
        Arc::new((
            Domain::parse(name).unwrap(),
            (0..aliases).map(long).collect(),
        ))
    }

    fn address(n: u128) -> IpAddr {
        Ipv6Addr::from_bits(n).into()
    }

    #[test]
    fn an_address_keeps_its_latest_names_and_who_asked_for_them() {
        let mut leads = Leads::default();
        let asker = ProcessId {
            pid: 7,
            started: 70,
        };
        let names: Vec<_> = (0..20).map(|n| chain(&format!("n{n}.test"), 0)).collect();
        for name in &names {
            assert!(leads.add(address(1), name, None));
        }
        assert!(leads.add(address(1), &names[10], Some(asker)));
        assert!(leads.add(address(1), &names[10], None));
        let kept: Vec<_> = leads.to(address(1)).collect();
        assert_eq!(kept.len(), MAX_NAMES);
        assert_eq!(kept.last().unwrap().asker, Some(asker));
        assert_eq!(kept.last().unwrap().name, names[10]);
        assert!(kept.iter().all(|lead| lead.name != names[3]));
        let held: usize = kept.iter().map(|lead| octets(&lead.name)).sum();
        assert_eq!(leads.octets, held);
    }

    #[test]
    fn long_chains_for_many_addresses_do_not_fill_the_memory() {
        let mut leads = Leads::default();
        let hostile = chain("hostile.test", 64);
        let added = (0..100_000)
            .filter(|n| leads.add(address(*n), &hostile, None))
            .count();
        assert!((1000..50_000).contains(&added), "{added}");
        assert!(leads.octets <= MAX_OCTETS);
        // What is known stays.
        assert_eq!(leads.to(address(0)).count(), 1);
    }
}
