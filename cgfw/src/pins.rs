/*!
What each address is allowed, where several names and rules lead to it.

Pure: the kernel side is told by whoever asks. An address that is shared by names with
different verdicts is blocked: block wins.
*/

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use crate::policy::{Action, Policy, Ports, nat64};

/// The verdict on every address that differs from the verdict on unknown ones. Entries
/// are never taken back within a run: a flow that is open must not end with a TTL.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    addresses: HashMap<IpAddr, Ports>,
}

impl Pins {
    /// Note that a name with the verdict `ports` led to `address`. Returns the verdict
    /// that the kernel must be told now, if that is news to it.
    pub fn add(&mut self, policy: &Policy, address: IpAddr, ports: &Ports) -> Option<Ports> {
        let address = address.to_canonical();
        match self.addresses.entry(address) {
            Entry::Occupied(mut known) => {
                let merged = known.get().merge(ports);
                if merged == *known.get() {
                    return None;
                }
                Some(known.insert(merged.clone())).map(|_previous| merged)
            }
            Entry::Vacant(unknown) => {
                // Not by `--direct-ip`: a name led here.
                let by_rules = policy.address_rules(address);
                let merged = match &by_rules {
                    Some(rules) => rules.merge(ports),
                    None => ports.clone(),
                };
                // Not if a rule allows it: that has to prevail over what else leads there.
                let as_unknown = by_rules.is_none()
                    && policy.unresolved(address) == Action::Allow
                    && merged == Ports::by_default(Action::Allow);
                if as_unknown {
                    return None;
                }
                Some(unknown.insert(merged).clone())
            }
        }
    }

    /// The verdict on an address, if it differs from the one on unknown ones.
    pub fn get(&self, address: IpAddr) -> Option<&Ports> {
        self.addresses.get(&address.to_canonical())
    }

    /// Forget an address that the kernel had no room for.
    pub fn forget(&mut self, address: IpAddr) {
        self.addresses.remove(&address.to_canonical());
    }
}

/// An address, and the same host by way of NAT64 where nothing else blocks that.
pub fn spellings(policy: &Policy, address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let translated = match address.to_canonical() {
        IpAddr::V4(address) => Some(IpAddr::from(nat64(address))),
        IpAddr::V6(_) => None,
    };
    let translated = translated.filter(|address| policy.unresolved(*address) == Action::Allow);
    std::iter::once(address).chain(translated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{DirectIp, Rule, Source, Transport};

    fn policy(block: &[&str], allow: &[&str]) -> Policy {
        let parse =
            |text: &&str, action| Rule::parse(text, action, Source::argument(*text)).unwrap();
        let blocks = block.iter().map(|text| parse(text, Action::Block));
        let allows = allow.iter().map(|text| parse(text, Action::Allow));
        Policy::new(
            blocks.chain(allows).collect::<Vec<_>>(),
            None,
            None,
            Vec::new(),
        )
    }

    fn name(policy: &Policy, name: &str) -> Ports {
        let name = crate::policy::Domain::parse(name).unwrap();
        policy.name(&name, &[]).ports
    }

    fn address() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    #[test]
    fn block_wins_on_a_shared_address_in_either_order() {
        let policy = policy(&["bad.example"], &["good.example"]);
        let (good, bad) = (name(&policy, "good.example"), name(&policy, "bad.example"));
        for (first, second) in [(&good, &bad), (&bad, &good)] {
            let mut pins = Pins::default();
            pins.add(&policy, address(), first);
            let told = pins.add(&policy, address(), second);
            let last = told.unwrap_or_else(|| first.clone());
            assert_eq!(last.uniform(), Some(Action::Block));
        }
    }

    #[test]
    fn two_names_with_different_ports_share_an_address() {
        let policy = policy(&[], &["a.example:443", "b.example:80"]);
        let mut pins = Pins::default();
        pins.add(&policy, address(), &name(&policy, "a.example"));
        let both = pins
            .add(&policy, address(), &name(&policy, "b.example"))
            .unwrap();
        for (port, expected) in [
            (443, Action::Allow),
            (80, Action::Allow),
            (22, Action::Block),
        ] {
            assert_eq!(both.at(Transport::Tcp, port), expected, "port {port}");
        }
    }

    #[test]
    fn what_is_allowed_anyway_is_not_written() {
        let policy = policy(&["github.com"], &[]);
        let mut pins = Pins::default();
        assert_eq!(
            pins.add(&policy, address(), &name(&policy, "example.com")),
            None
        );
        let blocked = pins.add(&policy, address(), &name(&policy, "github.com"));
        assert_eq!(blocked.unwrap().uniform(), Some(Action::Block));
        assert_eq!(
            pins.add(&policy, address(), &name(&policy, "github.com")),
            None
        );
    }

    #[test]
    fn what_a_rule_allows_on_this_host_stays_allowed_when_another_name_leads_there() {
        let policy = policy(&[], &["a.example", "b.example:80"]);
        let loopback = "127.0.0.1".parse().unwrap();
        for names in [["a.example", "b.example"], ["b.example", "a.example"]] {
            let mut pins = Pins::default();
            let told = names.map(|one| pins.add(&policy, loopback, &name(&policy, one)));
            let last = told.into_iter().flatten().last().unwrap();
            assert_eq!(last.at(Transport::Tcp, 443), Action::Allow, "{names:?}");
        }
    }

    #[test]
    fn rules_for_addresses_hold_for_names_too() {
        let policy = policy(&["192.0.2.0/24:22"], &["good.example", "192.0.2.1:8080"]);
        let mut pins = Pins::default();
        let told = pins
            .add(&policy, address(), &name(&policy, "good.example"))
            .unwrap();
        for (port, expected) in [
            (22, Action::Block),
            (443, Action::Allow),
            (8080, Action::Allow),
        ] {
            assert_eq!(told.at(Transport::Tcp, port), expected, "port {port}");
        }
    }

    #[test]
    fn a_rule_for_one_port_leaves_the_others_to_the_name_and_not_to_direct_ip() {
        let rules = vec![Rule::parse("192.0.2.1:22", Action::Allow, Source::default()).unwrap()];
        let (default, direct_ip) = (Some(Action::Allow), Some(DirectIp::Block));
        let policy = Policy::new(rules, default, direct_ip, Vec::new());
        let told = Pins::default()
            .add(&policy, address(), &name(&policy, "any.example"))
            .unwrap();
        assert_eq!(told.at(Transport::Tcp, 443), Action::Allow);
    }
}
