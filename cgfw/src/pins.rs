/*!
What each address is allowed, where several names and rules lead to it.

Pure: the kernel side is told by whoever asks. An address that is shared by names with
different verdicts is blocked: block wins.

If the policy can change, the names are remembered that led to each address, so that all of
them can be judged again. What is remembered is bounded, because the child decides how much
there is. Where there is no room for the name of a permitted address, the address is not
permitted: the name fails, as it does when the kernel's map is full. A blocked address whose
name finds no room stays blocked whatever policies come. So a flood of names never leaves an
address allowed that a policy blocks by name, and never keeps a policy from being changed.
*/

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::policy::{Action, Domain, Judgement, Policy, Ports, nat64};

/// What the memory of names may take, in octets. A name takes some hundred of them, unless a
/// server of the child's choosing makes up long chains of aliases; and all of them are judged
/// while everything else waits.
const MAX_OCTETS: usize = 16 << 20;
/// What a domain takes besides its octets: the pointer to them and the allocator's share.
const DOMAIN: usize = 32;
/// What it takes that one name led to one address, with the table's share.
const LED: usize = 48;
/// As many addresses as the kernel can be told of.
const MAX_BLOCKED: usize = 1 << 17;

/// A name that led to addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lead {
    pub name: Domain,
    /// What it is an alias of.
    pub aliases: Vec<Domain>,
    pub told_by: Teller,
}

/// Who says that a name leads to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Teller {
    /// A name server that the run asks whatever its policy is.
    Server,
    /// A name server that the child chose.
    OtherServer,
    /// /etc/hosts
    Hosts,
    /// cgfw itself, which made up the address to stand for a blocked name.
    Synthetic,
}

impl Lead {
    /// A name of /etc/hosts.
    pub fn of_host(name: Domain) -> Self {
        Self {
            name,
            aliases: Vec::new(),
            told_by: Teller::Hosts,
        }
    }

    /// What is to be pinned of addresses that the name leads to, `judgement` being that of the
    /// name; and of the same hosts by way of NAT64, where nothing else blocks that.
    pub fn pins(
        &self,
        policy: &Policy,
        judgement: &Judgement,
        addresses: &[IpAddr],
    ) -> impl Iterator<Item = (IpAddr, Ports)> {
        addresses
            .iter()
            .filter_map(|address| Some((*address, self.verdict(policy, judgement, *address)?)))
            .flat_map(|(address, ports)| {
                spellings(policy, address).map(move |address| (address, ports.clone()))
            })
    }

    /// The verdict to pin on one address as it was told; `None` if the address stays what it
    /// is to those who connect by address.
    ///
    /// That is what stays on this host, or goes to many: a name that resolves to loopback is
    /// how DNS rebinding works, and must not change what loopback is allowed.
    pub fn verdict(
        &self,
        policy: &Policy,
        judgement: &Judgement,
        address: IpAddr,
    ) -> Option<Ports> {
        if !is_one_other_host(policy, address) {
            return None;
        }
        match self.told_by {
            // It cannot permit what is blocked to all others.
            Teller::OtherServer => {
                let is_closed = policy.default_action() == Action::Block
                    && policy.unresolved(address) == Action::Block;
                if is_closed && !judgement.is_blocked() {
                    return None;
                }
            }
            // The child never asks for them, so that only a rule makes a difference.
            Teller::Hosts if judgement.ports.uniform() == Some(policy.default_action()) => {
                return None;
            }
            Teller::Server | Teller::Hosts => {}
            Teller::Synthetic => return Some(Ports::all(Action::Block)),
        }
        let through = policy.through_name(&self.name, judgement, address)?;
        Some(through.ports)
    }

    fn octets(&self) -> usize {
        let names = std::iter::once(&self.name).chain(&self.aliases);
        let names: usize = names.map(|name| DOMAIN + name.as_wire().len()).sum();
        2 * size_of::<Self>() + names
    }
}

fn is_one_other_host(policy: &Policy, address: IpAddr) -> bool {
    let address = address.to_canonical();
    !policy.is_own(address) && !address.is_multicast() && address != Ipv4Addr::BROADCAST
}

/// There is no room for more names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl std::error::Error for NoRoom {}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the names that --watch has to remember take {} MiB; new names fail until the run ends",
            MAX_OCTETS >> 20
        )
    }
}

/// Verdicts on addresses, each once.
pub type Verdicts = HashMap<IpAddr, Ports>;

/// The verdict on every address that differs from the verdict on unknown ones. Entries
/// are never taken back under one policy: a flow that is open must not end with a TTL.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    addresses: Verdicts,
    /// If the policy can change.
    memory: Option<Memory>,
}

impl Pins {
    /// For a run whose policy can change.
    pub fn remembering() -> Self {
        Self {
            addresses: HashMap::new(),
            memory: Some(Memory::default()),
        }
    }

    /// Note that a name with this judgement led to `addresses`. Returns the verdicts that the
    /// kernel must be told now, because they are news to it.
    pub fn learn(
        &mut self,
        policy: &Policy,
        lead: &Lead,
        judgement: &Judgement,
        addresses: &[IpAddr],
    ) -> Result<Vec<(IpAddr, Ports)>, NoRoom> {
        if let Some(memory) = &mut self.memory {
            let others = addresses
                .iter()
                .map(IpAddr::to_canonical)
                .filter(|address| is_one_other_host(policy, *address));
            let is_blocked = judgement.is_blocked() || lead.told_by == Teller::Synthetic;
            memory.enter(lead, is_blocked, others)?;
        }
        let pins = lead.pins(policy, judgement, addresses);
        Ok(pins
            .filter_map(|(address, ports)| Some((address, self.add(policy, address, &ports)?)))
            .collect())
    }

    /// Forget an address that the kernel had no room for.
    pub fn forget(&mut self, address: IpAddr) {
        self.addresses.remove(&address.to_canonical());
    }

    /// What all that was learned comes to under another policy, in whatever order it was.
    pub fn under(&self, policy: &Policy) -> Verdicts {
        let mut by_name = Verdicts::new();
        let mut learn = |address: IpAddr, ports: &Ports| {
            for address in spellings(policy, address) {
                by_name
                    .entry(address)
                    .and_modify(|known| *known = known.merge(ports))
                    .or_insert_with(|| ports.clone());
            }
        };
        if let Some(memory) = &self.memory {
            let judged: HashMap<u32, (&Lead, Judgement)> = memory
                .leads
                .iter()
                .map(|(lead, number)| (*number, (lead, policy.name(&lead.name, &lead.aliases))))
                .collect();
            for (address, number) in &memory.led {
                let verdict = judged
                    .get(number)
                    .and_then(|(lead, judgement)| lead.verdict(policy, judgement, *address));
                if let Some(ports) = verdict {
                    learn(*address, &ports);
                }
            }
            for address in &memory.blocked {
                learn(*address, &Ports::all(Action::Block));
            }
        }
        let mut pins = Self::default();
        for (address, ports) in &by_name {
            pins.add(policy, *address, ports);
        }
        pins.addresses
    }

    /// Go on with these, which the kernel knows by now.
    pub fn set(&mut self, verdicts: Verdicts) {
        self.addresses = verdicts;
    }

    /// The verdict on an address, if it differs from the one on unknown ones.
    pub fn get(&self, address: IpAddr) -> Option<&Ports> {
        self.addresses.get(&address.to_canonical())
    }

    /// Merge what [`Lead::pins`] says into what is known of an address. Returns the verdict if
    /// that is news.
    pub fn add(&mut self, policy: &Policy, address: IpAddr, ports: &Ports) -> Option<Ports> {
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
}

/// An address, and the same host by way of NAT64 where nothing else blocks that.
fn spellings(policy: &Policy, address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let address = address.to_canonical();
    let translated = match address {
        IpAddr::V4(address) => Some(IpAddr::from(nat64(address))),
        IpAddr::V6(_) => None,
    };
    let translated = translated.filter(|address| policy.unresolved(*address) == Action::Allow);
    std::iter::once(address).chain(translated)
}

/// The names that led to addresses.
#[derive(Clone, Debug, Default)]
struct Memory {
    /// Each with its number.
    leads: HashMap<Lead, u32>,
    led: HashSet<(IpAddr, u32)>,
    /// Blocked under every policy: what stands for a blocked name, and what there was no room
    /// for.
    blocked: HashSet<IpAddr>,
    octets: usize,
}

impl Memory {
    fn enter(
        &mut self,
        lead: &Lead,
        is_blocked: bool,
        addresses: impl Iterator<Item = IpAddr> + Clone,
    ) -> Result<(), NoRoom> {
        if lead.told_by != Teller::Synthetic && self.remember(lead, addresses.clone()).is_ok() {
            return Ok(());
        }
        if !is_blocked {
            return Err(NoRoom);
        }
        for address in addresses {
            // Beside the names: these have room of their own.
            if !self.blocked.contains(&address) && self.blocked.len() >= MAX_BLOCKED {
                return Err(NoRoom);
            }
            self.blocked.insert(address);
        }
        Ok(())
    }

    /// All of it or nothing.
    fn remember(
        &mut self,
        lead: &Lead,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Result<(), NoRoom> {
        let number = match self.leads.get(lead) {
            Some(number) => *number,
            None => u32::try_from(self.leads.len()).map_err(|_too_many| NoRoom)?,
        };
        let is_new = !self.leads.contains_key(lead);
        let news: Vec<(IpAddr, u32)> = addresses
            .map(|address| (address, number))
            .filter(|led| !self.led.contains(led))
            .collect();
        let octets = news.len() * LED + if is_new { lead.octets() } else { 0 };
        if news.is_empty() {
            return Ok(());
        }
        if self.octets + octets > MAX_OCTETS {
            return Err(NoRoom);
        }
        self.octets += octets;
        self.led.extend(news);
        if is_new {
            self.leads.insert(lead.clone(), number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

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

    fn lead(name: &str, aliases: &[&str]) -> Lead {
        let domain = |name: &&str| Domain::parse(name).unwrap();
        Lead {
            name: domain(&name),
            aliases: aliases.iter().map(domain).collect(),
            told_by: Teller::Server,
        }
    }

    /// What is told of [`address`] when a name leads there.
    fn learn(pins: &mut Pins, policy: &Policy, name: &str) -> Option<Ports> {
        let lead = lead(name, &[]);
        let judgement = policy.name(&lead.name, &[]);
        let news = pins.learn(policy, &lead, &judgement, &[address()]).unwrap();
        let told = news.into_iter().find(|(told, _)| *told == address());
        told.map(|(_, ports)| ports)
    }

    fn address() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    #[test]
    fn block_wins_on_a_shared_address_in_either_order() {
        let policy = policy(&["bad.example"], &["good.example"]);
        let (good, bad) = ("good.example", "bad.example");
        for (first, second) in [(good, bad), (bad, good)] {
            let mut pins = Pins::default();
            let told = learn(&mut pins, &policy, first);
            let last = learn(&mut pins, &policy, second).or(told);
            assert_eq!(last.unwrap().uniform(), Some(Action::Block));
        }
    }

    #[test]
    fn two_names_with_different_ports_share_an_address() {
        let policy = policy(&[], &["a.example:443", "b.example:80"]);
        let mut pins = Pins::default();
        learn(&mut pins, &policy, "a.example");
        let both = learn(&mut pins, &policy, "b.example").unwrap();
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
        assert_eq!(learn(&mut pins, &policy, "example.com"), None);
        let blocked = learn(&mut pins, &policy, "github.com");
        assert_eq!(blocked.unwrap().uniform(), Some(Action::Block));
        assert_eq!(learn(&mut pins, &policy, "github.com"), None);
    }

    #[test]
    fn what_a_rule_allows_on_this_host_stays_allowed_when_another_name_leads_there() {
        let policy = policy(&[], &["a.example", "b.example:80"]);
        let loopback = "127.0.0.1".parse().unwrap();
        for names in [["a.example", "b.example"], ["b.example", "a.example"]] {
            let mut pins = Pins::default();
            let told = names.map(|name| {
                let judgement = policy.name(&Domain::parse(name).unwrap(), &[]);
                pins.add(&policy, loopback, &judgement.ports)
            });
            let last = told.into_iter().flatten().last().unwrap();
            assert_eq!(last.at(Transport::Tcp, 443), Action::Allow, "{names:?}");
        }
    }

    #[test]
    fn rules_for_addresses_hold_for_names_too() {
        let policy = policy(&["192.0.2.0/24:22"], &["good.example", "192.0.2.1:8080"]);
        let mut pins = Pins::default();
        let told = learn(&mut pins, &policy, "good.example").unwrap();
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
        let told = learn(&mut Pins::default(), &policy, "any.example").unwrap();
        assert_eq!(told.at(Transport::Tcp, 443), Action::Allow);
    }

    fn remember(pins: &mut Pins, policy: &Policy, lead: &Lead, address: IpAddr) -> bool {
        let judgement = policy.name(&lead.name, &lead.aliases);
        pins.learn(policy, lead, &judgement, &[address]).is_ok()
    }

    fn v6(n: usize) -> IpAddr {
        std::net::Ipv6Addr::from_bits((0x2001_0db8 << 96) + n as u128).into()
    }

    #[test]
    fn a_flood_of_names_fails_and_leaves_no_blocked_address_allowed() {
        let mut pins = Pins::remembering();
        let before = policy(&["bad.example"], &[]);
        let aliases: Vec<String> = (0..40)
            .map(|n| format!("{n}.{}", format!("{}.", "a".repeat(60)).repeat(3)))
            .collect();
        let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
        let blocked = [&aliases[..], &["bad.example"]].concat();
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for n in 0..10_000 {
            let name = format!("n{n}.example");
            let is_known = remember(&mut pins, &before, &lead(&name, &aliases), v6(n));
            if is_known { &mut known } else { &mut unknown }.push(n);
        }
        assert!(known.len() > 1000 && unknown.len() > 1000);
        let octets = pins.memory.as_ref().unwrap().octets;
        assert!(octets <= MAX_OCTETS, "{octets}");
        // A blocked one finds no room, and is blocked from now on.
        assert!(remember(
            &mut pins,
            &before,
            &lead("bad.test", &blocked),
            v6(20_000)
        ));
        let after = policy(&["n0.example"], &[]);
        let verdicts = pins.under(&after);
        assert_eq!(verdicts.len(), 2);
        for n in [0, 20_000] {
            assert_eq!(verdicts[&v6(n)].uniform(), Some(Action::Block));
        }
        // What is known can be learned again, and one name has many addresses.
        assert!(remember(
            &mut pins,
            &after,
            &lead("n0.example", &aliases),
            v6(0)
        ));
    }

    #[test]
    fn the_memory_of_blocked_addresses_is_bounded_too() {
        let mut pins = Pins::remembering();
        let policy = policy(&["bad.example"], &[]);
        let synthetic = Lead {
            told_by: Teller::Synthetic,
            ..lead("bad.example", &[])
        };
        let kept = (0..MAX_BLOCKED + 10)
            .filter(|n| remember(&mut pins, &policy, &synthetic, v6(*n)))
            .count();
        assert_eq!(kept, MAX_BLOCKED);
    }

    #[test]
    fn what_stands_for_a_blocked_name_is_never_permitted() {
        let mut pins = Pins::remembering();
        let synthetic = Lead {
            told_by: Teller::Synthetic,
            ..lead("bad.example", &[])
        };
        let before = policy(&["bad.example"], &[]);
        remember(&mut pins, &before, &synthetic, address());
        let after = pins.under(&policy(&[], &["bad.example"]));
        assert_eq!(after[&address()].uniform(), Some(Action::Block));
    }

    #[test]
    fn a_server_of_the_childs_choosing_permits_nothing_once_others_are_blocked() {
        let mut pins = Pins::remembering();
        let chosen = Lead {
            told_by: Teller::OtherServer,
            ..lead("good.example", &[])
        };
        remember(&mut pins, &policy(&[], &[]), &chosen, address());
        let closed = policy(&[], &["good.example"]);
        assert_eq!(pins.under(&closed), Verdicts::new());
        // What it says of a blocked name counts.
        let blocking = pins.under(&policy(&["good.example"], &[]));
        assert_eq!(blocking[&address()].uniform(), Some(Action::Block));
        remember(&mut pins, &closed, &lead("good.example", &[]), address());
        let permitted = pins.under(&closed);
        assert_eq!(permitted[&address()].uniform(), Some(Action::Allow));
    }

    const NAMES: [&str; 6] = [
        "a.test",
        "b.a.test",
        "c.test",
        "d.example",
        "e.example",
        "f.d.example",
    ];
    const PATTERNS: [&str; 10] = [
        "test",
        "=a.test",
        "*.a.test",
        "c.test:443",
        "example",
        "e.example:80-90",
        "192.0.2.0/30",
        "192.0.2.1",
        "192.0.2.2:22",
        "2001:db8::/64",
    ];

    fn any_policy() -> impl Strategy<Value = Policy> {
        let patterns = || vec(select(&PATTERNS[..]), 0..5);
        (patterns(), patterns()).prop_map(|(block, allow)| policy(&block, &allow))
    }

    fn any_lead() -> impl Strategy<Value = (Lead, IpAddr)> {
        let tellers = [
            Teller::Server,
            Teller::Server,
            Teller::OtherServer,
            Teller::Hosts,
            Teller::Synthetic,
        ];
        let addresses = [
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.9",
            "2001:db8::1",
            "127.0.0.1",
        ];
        (
            select(&NAMES[..]),
            vec(select(&NAMES[..]), 0..3),
            select(tellers.to_vec()),
            select(addresses.to_vec()),
        )
            .prop_map(|(name, aliases, told_by, address)| {
                let lead = Lead {
                    told_by,
                    ..lead(name, &aliases)
                };
                (lead, address.parse().unwrap())
            })
    }

    proptest! {
        /// Learned under one policy and judged by another is as good as learned under that one,
        /// in whatever order.
        #[test]
        fn another_policy_finds_everything_as_if_it_had_always_been_there(
            before in any_policy(),
            after in any_policy(),
            leads in vec(any_lead(), 0..12),
        ) {
            let mut pins = Pins::remembering();
            for (lead, address) in &leads {
                prop_assert!(remember(&mut pins, &before, lead, *address));
            }
            let mut fresh = Pins::default();
            for (lead, address) in leads.iter().rev() {
                remember(&mut fresh, &after, lead, *address);
            }
            prop_assert_eq!(pins.under(&after), fresh.addresses);
            // And back again.
            let mut fresh = Pins::default();
            for (lead, address) in &leads {
                remember(&mut fresh, &before, lead, *address);
            }
            prop_assert_eq!(&pins.under(&before), &pins.addresses);
            prop_assert_eq!(fresh.addresses, pins.addresses);
        }
    }
}
