/*!
What is permitted: rules, and the one matcher that decides, explains and reports.

Pure: no I/O, no clock, no logging. A [`Policy`] is built once from rules and asked
[`Policy::name`] for a name with its alias chain, [`Policy::through_name`] for an
address that a name resolved to, and [`Policy::address`] for an address that is
reached without a name. All answer with a [`Judgement`]: a verdict for every port, and
the rule that says so.

A listener outside of the cgroup is not judged here but acknowledged, or not:
[`Policy::acknowledges_socket`], [`Policy::acknowledges_port`].
*/

mod domain;
mod explain;
mod file;
mod given;
mod idle;
mod list;
mod listed;
mod mistake;
mod networks;
mod ports;
mod rule;
mod socket;
mod source;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::domain::{Domain, DomainError};
pub use self::explain::{Candidate, Standing};
pub use self::file::{ListFile, PolicyFile, SCHEMA};
pub use self::given::Given;
pub use self::idle::{Because, Idle, Review};
pub use self::list::{Entry, LeftOut, ListParser, MAX_LINE};
use self::listed::Listed;
pub use self::listed::{Names, TooManyLines};
pub use self::mistake::Mistake;
use self::networks::Networks;
use self::ports::Opinion;
pub use self::ports::{Ports, Transport};
use self::rule::LOCALHOST;
pub use self::rule::{ParseRuleError, Pattern, Rule, Scope};
pub use self::socket::{UnixSocket, normal_path};
pub use self::source::{Place, Source};

/// What a rule, or the default, says of a destination.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Allow,
    Block,
}

/// How a block looks to the child (`--on-block`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnBlock {
    /// The name does not exist; connects are refused.
    #[default]
    NxDomain,
    /// The name resolves to a synthetic address whose connects fail with ECONNREFUSED.
    Refuse,
    /// The name resolves to a synthetic address and its packets vanish, as in an outage.
    Drop,
}

/// What happens to addresses that no permitted name resolved to (`--direct-ip`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectIp {
    Allow,
    /// Only private ones: RFC 1918, 100.64/10, link-local, ULA and on-link prefixes.
    Private,
    Block,
}

/// The answer of the matcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict, port by port.
    pub ports: Ports,
    /// The rule that decided: a blocking one if no port is allowed, an allowing one
    /// otherwise; `None` where only the default spoke. [`Self::at`] knows it by port.
    pub rule: Option<Arc<Rule>>,
    /// The name that `rule` matched, where that is not the name that was asked for: an
    /// alias of the chain, or the name without the resolver's search suffix.
    pub matched: Option<Domain>,
    matches: Vec<Matching>,
    fallback: Action,
}

/// What a [`Judgement`] says of one port, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'j> {
    pub action: Action,
    /// As [`Judgement::rule`].
    pub rule: Option<&'j Arc<Rule>>,
    /// As [`Judgement::matched`].
    pub matched: Option<&'j Domain>,
}

/// The rules that match one name or address, the most specific first and block before
/// allow. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Matching {
    rules: Vec<Arc<Rule>>,
    /// The name, if it is not the one that was asked for. Such a match can only
    /// block: an allow list names what scripts ask for and not where a CDN hosts it.
    matched: Option<Domain>,
}

impl Matching {
    fn can_block(&self) -> bool {
        self.rules.iter().any(|rule| rule.action == Action::Block)
    }

    /// The rule that speaks for all of them.
    fn first(&self, transport: Transport, port: u16) -> Option<&Arc<Rule>> {
        self.rules
            .iter()
            .find(|rule| rule.speaks_of(transport, port))
    }

    fn at(&self, transport: Transport, port: u16) -> Option<Decision<'_>> {
        let rule = self.first(transport, port)?;
        (rule.action == Action::Block || self.matched.is_none()).then_some(Decision {
            action: rule.action,
            rule: Some(rule),
            matched: self.matched.as_ref(),
        })
    }
}

impl Judgement {
    fn new(matches: Vec<Matching>, fallback: Action) -> Self {
        let mut judgement = Self {
            ports: Ports::by_default(fallback),
            rule: None,
            matched: None,
            matches,
            fallback,
        };
        match &judgement.matches[..] {
            [] => return judgement,
            // What most are, and what a hundred thousand networks should not be tabulated for.
            [
                Matching {
                    rules,
                    matched: None,
                },
            ] if rules[0].speaks_of_all() => {
                judgement.ports = Ports::all(rules[0].action);
                judgement.rule = Some(Arc::clone(&rules[0]));
                return judgement;
            }
            _ => {}
        }
        let changes = judgement.changes();
        judgement.ports = Ports::tabulate(changes.clone(), |transport, port| {
            let decision = judgement.at(transport, port);
            match decision.rule {
                Some(_) => Opinion::Rule(decision.action),
                None => Opinion::Default(decision.action),
            }
        });
        let verdict = judgement.ports.uniform().unwrap_or(Action::Allow);
        let (rule, matched) = [Transport::Tcp, Transport::Udp, Transport::Other]
            .into_iter()
            .flat_map(|transport| changes.iter().map(move |port| (transport, *port)))
            .map(|(transport, port)| judgement.at(transport, port))
            .find(|decision| decision.action == verdict && decision.rule.is_some())
            .map(|decision| (decision.rule.cloned(), decision.matched.cloned()))
            .unwrap_or_default();
        Self {
            rule,
            matched,
            ..judgement
        }
    }

    /// Whether no port at all is allowed, so that a name need not even be forwarded.
    pub fn is_blocked(&self) -> bool {
        self.ports.uniform() == Some(Action::Block)
    }

    /// What decided the name as a whole.
    pub fn decision(&self) -> Decision<'_> {
        Decision {
            action: self.ports.uniform().unwrap_or(Action::Allow),
            rule: self.rule.as_ref(),
            matched: self.matched.as_ref(),
        }
    }

    /// The verdict on one port and what decided it: the first match that blocks,
    /// otherwise the first that allows, otherwise the default.
    pub fn at(&self, transport: Transport, port: u16) -> Decision<'_> {
        let decisions = || {
            self.matches
                .iter()
                .filter_map(|matching| matching.at(transport, port))
        };
        decisions()
            .find(|decision| decision.action == Action::Block)
            .or_else(|| decisions().next())
            .unwrap_or(Decision {
                action: self.fallback,
                rule: None,
                matched: None,
            })
    }

    /// The ports at which the verdict may change, unsorted, and 0.
    fn changes(&self) -> Vec<u16> {
        let ends = self
            .matches
            .iter()
            .flat_map(|matching| &matching.rules)
            .filter_map(|rule| rule.ports.as_ref())
            .flat_map(|ports| [Some(*ports.start()), ports.end().checked_add(1)]);
        ends.flatten().chain([0]).collect()
    }
}

/// What a [`Policy`] is made of.
#[derive(Debug, Default)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// The names of lists, which are too many to be [`Rule`]s.
    pub names: Names,
}

impl From<Vec<Rule>> for Rules {
    fn from(rules: Vec<Rule>) -> Self {
        Self {
            rules,
            names: Names::default(),
        }
    }
}

impl Rules {
    /// Take in what a line of a list says.
    pub fn enter(&mut self, entry: Entry<'_>) -> Result<(), TooManyLines> {
        match entry {
            Entry::Name {
                wire,
                scope,
                action,
                line,
            } => self.names.add(wire, scope, action, line),
            Entry::Rule(rule) => {
                self.rules.push(rule);
                Ok(())
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rules.len() + self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The rules of a run and everything else that decides.
#[derive(Clone, Debug)]
pub struct Policy {
    names: HashMap<Box<[u8]>, Vec<Arc<Rule>>>,
    listed: Listed,
    networks: Networks,
    sockets: HashMap<UnixSocket, Arc<Rule>>,
    default: Action,
    direct_ip: DirectIp,
    /// Suffixes that the resolver appends to names (`search` in resolv.conf).
    search: Vec<Domain>,
    own: HashSet<IpAddr>,
    on_link: Vec<IpNet>,
}

impl Policy {
    /// Index `rules`. `default` and `direct_ip` are what the user said outright, if anything.
    pub fn new(
        rules: impl Into<Rules>,
        default: Option<Action>,
        direct_ip: Option<DirectIp>,
        search: Vec<Domain>,
    ) -> Self {
        let Rules { rules, names } = rules.into();
        let (listed, allowed) = names.index();
        let mut policy = Self {
            names: HashMap::new(),
            listed,
            networks: Networks::default(),
            sockets: HashMap::new(),
            default: Action::Allow,
            direct_ip: DirectIp::Allow,
            search,
            own: HashSet::new(),
            on_link: Vec::new(),
        };
        let rules: Vec<Arc<Rule>> = rules.into_iter().map(Arc::new).collect();
        policy.index(&rules);
        policy.default = default.unwrap_or_else(|| {
            let mut of_lists = allowed.patterns().map(Rule::allowing);
            let is_list = rules.iter().any(|rule| !policy.is_implied(rule))
                || of_lists.any(|rule| !policy.is_implied(&rule));
            if is_list {
                Action::Block
            } else {
                Action::Allow
            }
        });
        policy.direct_ip = direct_ip.unwrap_or(match policy.default {
            Action::Allow => DirectIp::Allow,
            Action::Block => DirectIp::Block,
        });
        policy
    }

    fn index(&mut self, rules: &[Arc<Rule>]) {
        let mut networks = Vec::new();
        for rule in rules {
            match &rule.pattern {
                Pattern::Domain { name, .. } => {
                    let rules = self.names.entry(name.as_wire().into()).or_default();
                    rules.push(Arc::clone(rule));
                }
                Pattern::Network(net) => {
                    networks.push((*net, Arc::clone(rule)));
                }
                Pattern::Socket(socket) => {
                    self.sockets.insert(socket.clone(), Arc::clone(rule));
                }
            }
        }
        // One after the other: what is sorted already is quickly sorted.
        let translated: Vec<(IpNet, Arc<Rule>)> = networks
            .iter()
            .filter_map(|(net, rule)| Some((nat64_network(*net)?, Arc::clone(rule))))
            .collect();
        networks.extend(translated);
        self.networks = Networks::new(networks);
    }

    /// Whether the rule can be there with everything else allowed: it blocks, or it is an
    /// exception to one that does, or it acknowledges a delegation.
    fn is_implied(&self, rule: &Rule) -> bool {
        if rule.action == Action::Block || rule.is_exception_of_list() || rule.only_acknowledges() {
            return true;
        }
        let is_excepted =
            |block: &Arc<Rule>| block.action == Action::Block && block.has_exception(rule);
        match &rule.pattern {
            Pattern::Domain { name, .. } => self.rules_above(name).any(|block| is_excepted(&block)),
            Pattern::Network(net) => self.networks.around(*net).any(is_excepted),
            Pattern::Socket(_) => false,
        }
    }

    /// Say what is near: the host's own addresses, which are allowed where no rule names
    /// them, and its on-link prefixes, which count as private.
    #[must_use]
    pub fn with_host(mut self, own: impl IntoIterator<Item = IpAddr>, on_link: Vec<IpNet>) -> Self {
        self.own = own.into_iter().map(|a| a.to_canonical()).collect();
        self.on_link = on_link;
        self
    }

    /// The verdict where no rule speaks.
    pub fn default_action(&self) -> Action {
        self.default
    }

    /// What happens to addresses that were never resolved.
    pub fn direct_ip(&self) -> DirectIp {
        self.direct_ip
    }

    /// Judge `qname` together with the names it is an alias of, in the order of the chain.
    ///
    /// The asked name is judged by the rules and the default; an alias, and the name
    /// without the resolver's search suffix, only by rules that block.
    pub fn name(&self, qname: &Domain, aliases: &[Domain]) -> Judgement {
        let bare = self.without_search_suffix(qname);
        let others = aliases.iter().cloned().chain(bare).filter_map(|other| {
            Some(Matching {
                rules: self.rules_on(&other)?,
                matched: Some(other),
            })
        });
        let asked = self.rules_on(qname).map(|rules| Matching {
            rules,
            matched: None,
        });
        Judgement::new(asked.into_iter().chain(others).collect(), self.default)
    }

    /// What `name` may have been before the resolver appended one of its search suffixes.
    pub fn without_search_suffix(&self, name: &Domain) -> impl Iterator<Item = Domain> {
        self.search
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
    }

    /// Judge an address that an answer gave for `qname`, whose own judgement is `name`:
    /// the verdict to pin. A rule that blocks the name or the address wins over one that
    /// allows the other.
    ///
    /// Link-local addresses (cloud metadata) of a name that is not allowed by just that name
    /// are blocked where it is, and stay otherwise what they are to those who connect by
    /// address, lest any allowed domain can hand them out: `None` if it is blocked nowhere.
    pub fn through_name(
        &self,
        qname: &Domain,
        name: &Judgement,
        address: IpAddr,
    ) -> Option<Judgement> {
        let address = address.to_canonical();
        let exactly_named = name.rule.as_ref().is_some_and(|rule| rule.names(qname));
        let mut matches = name.matches.clone();
        let mut fallback = name.fallback;
        if is_link_local(address) && !name.is_blocked() && !exactly_named {
            if !matches.iter().any(Matching::can_block) {
                return None;
            }
            for matching in &mut matches {
                matching.matched.get_or_insert_with(|| qname.clone());
            }
            fallback = self.unresolved(address);
        }
        matches.extend(self.matching_on(address));
        Some(Judgement::new(matches, fallback))
    }

    /// Judge an address by the rules that name it or a network it lies in; `None` where
    /// there is no such rule, so that [`Self::direct_ip`] decides.
    pub fn address(&self, address: IpAddr) -> Option<Judgement> {
        let matching = self.matching_on(address.to_canonical())?;
        Some(Judgement::new(vec![matching], self.unresolved(address)))
    }

    /// What the rules alone say of an address, so that it can be merged with what names
    /// that lead there are allowed: `None` where there is no such rule, and the weakest
    /// of all opinions on ports of which they do not speak.
    pub fn address_rules(&self, address: IpAddr) -> Option<Ports> {
        let matching = self.matching_on(address.to_canonical())?;
        Some(Judgement::new(vec![matching], Action::Allow).ports)
    }

    /// The verdict on an address that no rule and no permitted name leads to.
    pub fn unresolved(&self, address: IpAddr) -> Action {
        let allowed = self.is_own(address)
            || match self.direct_ip {
                DirectIp::Allow => true,
                DirectIp::Private => self.is_private(address),
                DirectIp::Block => false,
            };
        if allowed {
            Action::Allow
        } else {
            Action::Block
        }
    }

    /// The rule that acknowledges that the child turns to this socket of another process.
    pub fn acknowledges_socket(&self, socket: &UnixSocket) -> Option<&Arc<Rule>> {
        self.sockets.get(socket)
    }

    /// The rule that acknowledges that the child turns to this port, where another process
    /// listens: one that allows just this address, loopback or `localhost`.
    pub fn acknowledges_port(
        &self,
        address: IpAddr,
        transport: Transport,
        port: u16,
    ) -> Option<&Arc<Rule>> {
        let address = address.to_canonical();
        let meant = match address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V4(_) | IpAddr::V6(_) => address,
        };
        let localhost = self.names.get(LOCALHOST).filter(|_| meant.is_loopback());
        self.networks
            .around(address.into())
            .chain(self.networks.around(meant.into()))
            .chain(localhost.into_iter().flatten())
            .find(|rule| rule.acknowledges(transport, port))
    }

    /// Whether packets to the address stay on this host: loopback, the unspecified
    /// address (which Linux connects to loopback), the host's own.
    pub fn is_own(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || address.is_unspecified() || self.own.contains(&address)
    }

    /// The host's own addresses, but for loopback.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let is_more = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
        self.own.iter().copied().filter(is_more)
    }

    /// Whether the address is private: [`is_private`], or on a prefix that is on-link.
    pub fn is_private(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_private(address) || self.on_link.iter().any(|net| net.contains(&address))
    }

    /// What is known before any name is resolved: the networks of rules, and private ones
    /// and the host's own addresses where unknown addresses are blocked. The verdict of
    /// the longest prefix holds, also where IPv4 addresses are looked up as IPv4-mapped
    /// ones; addresses in none of them are [`Self::unresolved`].
    pub fn networks(&self) -> Vec<(IpNet, Ports)> {
        let near = self.near_networks();
        let mut nets: Vec<IpNet> = self.networks.iter().chain(near.iter().copied()).collect();
        let mapped = IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
        if nets.iter().any(|net| net.contains(&mapped)) {
            // `::/0` does not speak of IPv4.
            nets.push(Ipv4Net::default().into());
        }
        // Loopback needs no entry of its own, unless a larger network would hide it.
        let is_hidden = |net: &IpNet| nets.iter().any(|outer| outer.contains(net));
        let hidden: Vec<IpNet> = loopback_networks().into_iter().filter(is_hidden).collect();
        nets.extend(hidden);
        nets.sort_unstable();
        nets.dedup();
        nets.into_iter()
            .map(|net| (net, self.on_network(net, &near)))
            .collect()
    }

    /// Networks whose unknown addresses are allowed although others are blocked, but for
    /// loopback ones.
    fn near_networks(&self) -> Vec<IpNet> {
        let own = self.own.iter().copied().map(IpNet::from);
        match self.direct_ip {
            DirectIp::Allow => Vec::new(),
            DirectIp::Block => own.collect(),
            DirectIp::Private => own
                .chain(private_networks())
                .chain(self.on_link.iter().copied())
                .collect(),
        }
    }

    /// The verdict on the addresses of a network that are in no longer one.
    fn on_network(&self, net: IpNet, near: &[IpNet]) -> Ports {
        // What most are, and a hundred thousand of them should take no time.
        if let Some(rule) = self.networks.around(net).next()
            && rule.speaks_of_all()
        {
            return Ports::all(rule.action);
        }
        // Not that of its first address, which may be an exception of its own.
        let mut allowed = near.iter().copied().chain(loopback_networks());
        let is_near = allowed.any(|outer| outer.contains(&net));
        let unresolved = match self.direct_ip {
            DirectIp::Allow => Action::Allow,
            DirectIp::Private | DirectIp::Block if is_near => Action::Allow,
            DirectIp::Private | DirectIp::Block => Action::Block,
        };
        let matching = self.matching_around(net);
        Judgement::new(matching.into_iter().collect(), unresolved).ports
    }

    /// The names that rules block which are given one by one, each once: their addresses are
    /// worth knowing. `*.github.com` is not among them, since it does not block `github.com`.
    pub fn blocked_names(&self) -> impl Iterator<Item = &Domain> {
        self.names.values().filter_map(|rules| {
            rules.iter().find_map(|rule| match &rule.pattern {
                Pattern::Domain { name, scope } => (rule.action == Action::Block
                    && *scope != Scope::Below
                    && rule.source.place.list.is_none())
                .then_some(name),
                Pattern::Network(_) | Pattern::Socket(_) => None,
            })
        })
    }

    /// The rules that match `name`, in the order in which they decide; `None` if none.
    fn rules_on(&self, name: &Domain) -> Option<Vec<Arc<Rule>>> {
        let rules = self.rules_above(name);
        let rules: Vec<Arc<Rule>> = rules
            .filter(|rule| rule.pattern.matches_name(name))
            .collect();
        (!rules.is_empty()).then_some(rules)
    }

    /// The rules written for `name` or a name above it, the longest first, block before allow.
    fn rules_above(&self, name: &Domain) -> impl Iterator<Item = Arc<Rule>> {
        name.suffixes().flat_map(|suffix| {
            let given = self.names.get(suffix).into_iter().flatten().cloned();
            let mut rules: Vec<Arc<Rule>> = given.chain(self.listed.rules(suffix)).collect();
            rules.sort_by_key(|rule| Reverse(rule.rank()));
            rules
        })
    }

    fn matching_on(&self, address: IpAddr) -> Option<Matching> {
        self.matching_around(address.into())
    }

    fn matching_around(&self, net: IpNet) -> Option<Matching> {
        let rules: Vec<Arc<Rule>> = self.networks.around(net).cloned().collect();
        (!rules.is_empty()).then_some(Matching {
            rules,
            matched: None,
        })
    }
}

/// RFC 1918, RFC 6598, link-local (RFC 3927, RFC 4291) and unique local (RFC 4193).
fn private_networks() -> [IpNet; 7] {
    let v4 = |a, b, prefix| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), prefix));
    let v6 = |a, prefix| {
        let address = Ipv6Addr::new(a, 0, 0, 0, 0, 0, 0, 0);
        IpNet::from(Ipv6Net::new_assert(address, prefix))
    };
    [
        v4(10, 0, 8),
        v4(172, 16, 12),
        v4(192, 168, 16),
        v4(100, 64, 10),
        v4(169, 254, 16),
        v6(0xfe80, 10),
        v6(0xfc00, 7),
    ]
}

/// Loopback, and the unspecified addresses, which Linux connects to loopback.
fn loopback_networks() -> [IpNet; 4] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED).into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST).into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED).into(),
    ]
}

/// The well-known prefix of NAT64 (RFC 6052 section 2.1): under it an IPv6 address has an
/// IPv4 one in its last 32 bits, and a gateway sends there what it gets.
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
const NAT64_BITS: u8 = 96;

/// The same host for those who reach it through NAT64.
pub fn nat64(address: Ipv4Addr) -> Ipv6Addr {
    (NAT64.to_bits() | u128::from(address.to_bits())).into()
}

fn nat64_network(net: IpNet) -> Option<IpNet> {
    let IpNet::V4(net) = net else { return None };
    let translated = Ipv6Net::new_assert(nat64(net.addr()), NAT64_BITS + net.prefix_len());
    Some(translated.into())
}

/// Whether the address lies in a network that is private everywhere.
pub fn is_private(address: IpAddr) -> bool {
    let address = address.to_canonical();
    private_networks().iter().any(|net| net.contains(&address))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
