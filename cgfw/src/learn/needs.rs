//! What has to be allowed, and the rules that allow just that. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use public_suffix::{DEFAULT_PROVIDER, EffectiveTLDProvider as _};

use super::commands::Commands;
use super::seen::{How, Reached, Seen, is_loopback};
use crate::escape::Plain;
use crate::policy::{Action, Domain, Pattern, Rule, Scope, Source, Transport};

/// The rules that a policy needs, each with the commands that need it.
#[derive(Debug)]
pub(super) struct Needs {
    /// In the order in which they are written.
    pub(super) rules: Vec<Need>,
    /// What no rule can speak of.
    unwritable: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) rule: Rule,
    pub(super) commands: Commands,
    pub(super) purpose: Purpose,
}

/// What a rule is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Contact,
    /// Nobody connected to where the name leads.
    Lookup,
    /// To acknowledge that others do the network.
    Delegation,
}

/// What rules are about, in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Name {
        /// From the right to the left, so that what is below a domain is next to it.
        labels: Vec<Vec<u8>>,
        scope: Scope,
    },
    Address(IpAddr),
    Socket(String),
}

/// What is done with a target.
#[derive(Debug, Default)]
struct Uses {
    lookup: Option<Commands>,
    ports: BTreeMap<(Transport, u16), Use>,
    /// Whether the name has to be named.
    is_exact: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Use {
    commands: Commands,
    is_delegated: bool,
}

/// The ports of a rule and its transport, as in [`Rule`].
type Limit = (Option<RangeInclusive<u16>>, Option<Transport>);

impl Needs {
    /// What it takes to do again what was seen. To `generalise` is to allow the domains of
    /// names instead of just the names, but for domains in which a rule blocks a name or a
    /// name has to be named.
    pub(super) fn of(seen: &Seen, generalise: bool) -> Self {
        let mut names: BTreeMap<&Domain, Uses> = BTreeMap::new();
        let mut targets: BTreeMap<Target, Uses> = BTreeMap::new();
        for (name, commands) in &seen.lookups {
            names.entry(name).or_default().look_up(commands);
        }
        for (reached, commands) in &seen.contacts {
            let leads = seen.names_of(reached);
            if leads.is_empty() && (reached.how != How::Itself || !is_loopback(reached.ip)) {
                let target = Target::Address(connected(reached.ip));
                targets.entry(target).or_default().reach(reached, commands);
            }
            for name in leads {
                names.entry(name).or_default().reach(reached, commands);
            }
        }
        let exact = names.iter().filter(|(_, uses)| uses.is_exact);
        let kept: BTreeSet<Domain> = exact
            .map(|(name, _)| *name)
            .chain(&seen.blocked)
            .filter_map(registrable)
            .collect();
        for (name, uses) in names {
            let domain = generalise.then(|| registrable(name)).flatten();
            let target = match domain.filter(|domain| !kept.contains(domain)) {
                Some(domain) => Target::name(&domain, Scope::Subtree),
                None => Target::name(name, Scope::Exact),
            };
            targets.entry(target).or_default().merge(uses);
        }
        for (socket, commands) in &seen.sockets {
            let target = Target::Socket(socket.clone());
            targets.entry(target).or_default().look_up(commands);
        }
        let mut needs = Self {
            rules: Vec::new(),
            unwritable: Vec::new(),
        };
        for (target, uses) in targets {
            needs.add(&target, &uses);
        }
        needs
    }

    fn add(&mut self, target: &Target, uses: &Uses) {
        for (
            (ports, transport),
            Use {
                commands,
                is_delegated,
            },
        ) in uses.limits()
        {
            let purpose = if is_delegated || matches!(target, Target::Socket(_)) {
                Purpose::Delegation
            } else if uses.ports.is_empty() {
                Purpose::Lookup
            } else {
                Purpose::Contact
            };
            let rule = target.pattern().map(|pattern| Rule {
                pattern,
                ports,
                transport,
                action: Action::Allow,
                source: Source::default(),
            });
            match rule.filter(is_parsed_back) {
                Some(rule) => self.rules.push(Need {
                    rule,
                    commands,
                    purpose,
                }),
                None => self.unwritable.push(target.to_string()),
            }
        }
    }

    /// What the user should know of the rules.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.rules.is_empty() {
            notes.push("nothing was contacted: the policy allows nothing".to_owned());
        }
        for target in &self.unwritable {
            notes.push(format!("left out {target}: no rule can be written for it"));
        }
        notes
    }
}

impl Target {
    fn name(name: &Domain, scope: Scope) -> Self {
        let mut labels: Vec<Vec<u8>> = name.labels().map(<[u8]>::to_vec).collect();
        labels.reverse();
        Self::Name { labels, scope }
    }

    /// `None` if the text of a socket is none that a rule can have.
    fn pattern(&self) -> Option<Pattern> {
        match self {
            Self::Name { labels, scope } => {
                let labels = labels.iter().rev().map(Vec::as_slice);
                let name = Domain::from_labels(labels).ok()?;
                Some(Pattern::Domain {
                    name,
                    scope: *scope,
                })
            }
            Self::Address(ip) => Some(Pattern::Network((*ip).into())),
            Self::Socket(text) => {
                let rule = Rule::parse(text, Action::Allow, Source::default()).ok()?;
                // The log has U+FFFD for what is not UTF-8.
                let is_meant = !text.contains('\u{fffd}') && rule.to_string() == *text;
                is_meant.then_some(rule.pattern)
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.pattern()) {
            (Self::Name { .. } | Self::Address(_), Some(pattern)) => write!(f, "{pattern}"),
            (Self::Socket(text), _) => write!(f, "{}", Plain(text.as_bytes())),
            (_, None) => f.write_str("?"),
        }
    }
}

impl Uses {
    fn look_up(&mut self, commands: &Commands) {
        self.lookup.get_or_insert_default().extend(commands);
    }

    fn reach(&mut self, reached: &Reached, commands: &Commands) {
        // No rule limits the ports of a protocol that has none.
        let port = match reached.transport {
            Transport::Tcp | Transport::Udp => reached.port,
            Transport::Other => 0,
        };
        let is_delegated = reached.how != How::Itself;
        let is_link_local = match reached.ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        // Only a name that is named may lead to link-local addresses, and only a rule for just
        // this destination acknowledges.
        self.is_exact |= is_delegated || is_link_local;
        let used = self.ports.entry((reached.transport, port)).or_default();
        used.commands.extend(commands);
        used.is_delegated |= is_delegated;
    }

    fn merge(&mut self, other: Self) {
        if let Some(commands) = other.lookup {
            self.look_up(&commands);
        }
        for (port, used) in other.ports {
            self.ports.entry(port).or_default().merge(&used);
        }
    }

    /// The fewest limits that permit all uses. A name resolves if it is allowed any port.
    fn limits(&self) -> Vec<(Limit, Use)> {
        let is_unlimited = |(transport, _): &(Transport, u16)| *transport == Transport::Other;
        if self.ports.keys().any(is_unlimited) {
            let mut all = Use::default();
            for used in self.ports.values() {
                all.merge(used);
            }
            return vec![((None, None), all)];
        }
        if self.ports.is_empty() {
            let lookup = self.lookup.iter().map(|commands| Use {
                commands: commands.clone(),
                is_delegated: false,
            });
            return lookup.map(|used| ((None, None), used)).collect();
        }
        let mut udp = self.ranges(Transport::Udp);
        let mut limits = Vec::new();
        for (range, mut used) in self.ranges(Transport::Tcp) {
            let is_same = |(other, _): &Range| range.is_some() && *other == range;
            let transport = match udp.iter().position(is_same) {
                Some(at) => {
                    used.merge(&udp.remove(at).1);
                    None
                }
                None => Some(Transport::Tcp),
            };
            limits.push(((range, transport), used));
        }
        let udp = udp.into_iter();
        limits.extend(udp.map(|(range, used)| ((range, Some(Transport::Udp)), used)));
        limits
    }

    /// The ports of one transport, those that follow each other as one.
    fn ranges(&self, transport: Transport) -> Vec<Range> {
        let ports = self.ports.range((transport, 0)..=(transport, u16::MAX));
        let mut ranges: Vec<(RangeInclusive<u16>, Use)> = Vec::new();
        for ((_, port), used) in ports {
            match ranges.last_mut() {
                Some((range, others)) if range.end().checked_add(1) == Some(*port) => {
                    *range = *range.start()..=*port;
                    others.merge(used);
                }
                _ => ranges.push((*port..=*port, used.clone())),
            }
        }
        if ranges.first().is_some_and(|(range, _)| range.contains(&0)) {
            // Port 0 has no name in rules, but one without ports includes it.
            let mut all = Use::default();
            for (_, used) in &ranges {
                all.merge(used);
            }
            return vec![(None, all)];
        }
        let some = |(range, used)| (Some(range), used);
        ranges.into_iter().map(some).collect()
    }
}

/// Ports of one transport, and what is done with them.
type Range = (Option<RangeInclusive<u16>>, Use);

impl Use {
    fn merge(&mut self, other: &Self) {
        self.commands.extend(&other.commands);
        self.is_delegated |= other.is_delegated;
    }
}

/// Whether the rule is what its text is read as: there are names that cannot be patterns.
fn is_parsed_back(rule: &Rule) -> bool {
    let parsed = Rule::parse(&rule.to_string(), rule.action, rule.source.clone());
    parsed.is_ok_and(|parsed| parsed == *rule)
}

/// Where a connection to the address goes: Linux takes the unspecified ones for loopback.
fn connected(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => ip,
    }
}

/// The domain that somebody registered: one label below a public suffix, such as `co.uk`
/// or `github.io`. `None` for a name that is in none, or is no host's: `arpa` has addresses.
fn registrable(name: &Domain) -> Option<Domain> {
    let text = name.to_string();
    let is_reverse = name.labels().last() == Some(b"arpa");
    if text.contains('\\') || is_reverse {
        return None;
    }
    let domain = DEFAULT_PROVIDER.effective_tld_plus_one(&text).ok()?;
    Domain::parse(domain).ok()
}
