/*!
What is permitted: rules, and the one matcher that decides, explains and reports.

Pure: no I/O, no clock, no logging. A [`Policy`] is built once from rules and asked
two questions, [`Policy::name`] for a name with its alias chain and
[`Policy::address`] for an address that is reached without a name. Both answer with
a [`Judgement`]: a verdict for every port, and the rule that says so.
*/

mod domain;
mod ports;
mod rule;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use self::domain::{Domain, DomainError};
pub use self::ports::{Ports, Transport};
pub use self::rule::{ParseRuleError, Pattern, Rule, Scope};

/// What a rule, or the default, says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectIp {
    Allow,
    /// Only private ones: RFC 1918, 100.64/10, link-local, ULA.
    Private,
    Block,
}

/// The answer of the matcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict, port by port.
    pub ports: Ports,
    /// The rule that decided: the blocking one if any port is blocked, otherwise the
    /// most specific allowing one; `None` where only the default spoke.
    pub rule: Option<Arc<Rule>>,
    /// The name that `rule` matched, where that is not the name that was asked for: an
    /// alias of the chain, or the name without the resolver's search suffix.
    pub matched: Option<Domain>,
}

impl Judgement {
    /// Whether no port at all is allowed, so that a name need not even be forwarded.
    pub fn is_blocked(&self) -> bool {
        self.ports.uniform() == Some(Action::Block)
    }
}

/// The rules of a run and everything else that decides.
#[derive(Clone, Debug)]
pub struct Policy {
    names: HashMap<Box<[u8]>, Vec<Arc<Rule>>>,
    networks: Vec<(IpNet, Arc<Rule>)>,
    default: Action,
    direct_ip: DirectIp,
    /// Suffixes that the resolver appends to names (`search` in resolv.conf).
    search: Vec<Domain>,
}

impl Policy {
    /// Index `rules`. `default` and `direct_ip` are what the user said outright, if anything.
    pub fn new(
        rules: Vec<Rule>,
        default: Option<Action>,
        direct_ip: Option<DirectIp>,
        search: Vec<Domain>,
    ) -> Self {
        let default = default.unwrap_or_else(|| implied_default(&rules));
        let direct_ip = direct_ip.unwrap_or(match default {
            Action::Allow => DirectIp::Allow,
            Action::Block => DirectIp::Block,
        });
        let mut names: HashMap<Box<[u8]>, Vec<Arc<Rule>>> = HashMap::new();
        let mut networks = Vec::new();
        for rule in rules {
            let rule = Arc::new(rule);
            match &rule.pattern {
                Pattern::Domain { name, .. } => {
                    names.entry(name.as_wire().into()).or_default().push(rule);
                }
                Pattern::Network(net) => networks.push((*net, rule)),
            }
        }
        // The longest prefix first, block before allow: the order in which they decide.
        networks.sort_by_key(|(net, rule)| std::cmp::Reverse((net.prefix_len(), rule.action)));
        for rules in names.values_mut() {
            rules.sort_by_key(|rule| std::cmp::Reverse(rule.action));
        }
        Self {
            names,
            networks,
            default,
            direct_ip,
            search,
        }
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
    /// without the resolver's search suffix, only by rules that block, because an
    /// allow list names what scripts ask for and not where a CDN happens to host it.
    pub fn name(&self, qname: &Domain, aliases: &[Domain]) -> Judgement {
        let mut verdict = self.judge_name(qname, self.default);
        let bare = self
            .search
            .iter()
            .filter_map(|suffix| qname.strip_suffix(suffix));
        for other in aliases.iter().cloned().chain(bare) {
            let alias = self.judge_name(&other, Action::Allow);
            if alias.ports.uniform() != Some(Action::Allow) {
                verdict = Judgement {
                    ports: verdict.ports.blocked_by(&alias.ports),
                    rule: alias.rule,
                    matched: Some(other),
                };
            }
        }
        verdict
    }

    /// Judge an address by the rules that name it or a network it lies in; `None` where
    /// there is no such rule, so that [`Self::direct_ip`] decides.
    pub fn address(&self, address: IpAddr) -> Option<Judgement> {
        let address = address.to_canonical();
        let rules: Vec<&Arc<Rule>> = self
            .networks
            .iter()
            .filter(|(net, _)| net.contains(&address))
            .map(|(_, rule)| rule)
            .collect();
        if rules.is_empty() {
            return None;
        }
        Some(judge(&rules, self.unresolved(address)))
    }

    /// The verdict on an address that no rule and no permitted name leads to.
    pub fn unresolved(&self, address: IpAddr) -> Action {
        match self.direct_ip {
            DirectIp::Allow => Action::Allow,
            DirectIp::Block => Action::Block,
            DirectIp::Private if is_private(address) => Action::Allow,
            DirectIp::Private => Action::Block,
        }
    }

    /// The networks that rules name, each once.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        let mut nets: Vec<IpNet> = self.networks.iter().map(|(net, _)| *net).collect();
        nets.dedup();
        nets.into_iter()
    }

    /// The names of rules that block, whose addresses are worth knowing.
    pub fn blocked_names(&self) -> impl Iterator<Item = &Domain> {
        self.names
            .values()
            .flatten()
            .filter(|rule| rule.action == Action::Block)
            .filter_map(|rule| match &rule.pattern {
                Pattern::Domain { name, .. } => Some(name),
                Pattern::Network(_) => None,
            })
    }

    fn judge_name(&self, name: &Domain, fallback: Action) -> Judgement {
        let whole = name.as_wire().len();
        let rules: Vec<&Arc<Rule>> = name
            .suffixes()
            .filter_map(|suffix| Some((suffix, self.names.get(suffix)?)))
            .flat_map(|(suffix, rules)| {
                rules.iter().filter(move |rule| {
                    rule.pattern_scope().is_some_and(|scope| match scope {
                        Scope::Subtree => true,
                        Scope::Exact => suffix.len() == whole,
                        Scope::Below => suffix.len() < whole,
                    })
                })
            })
            .collect();
        judge(&rules, fallback)
    }
}

/// Let `rules`, the most specific first and block before allow, decide every port.
fn judge(rules: &[&Arc<Rule>], fallback: Action) -> Judgement {
    let ports = Ports::decide(rules.iter().map(AsRef::as_ref), fallback);
    let blocks = ports.uniform() != Some(Action::Allow);
    let rule = rules
        .iter()
        .find(|rule| !blocks || rule.action == Action::Block)
        .map(|rule| Arc::clone(rule));
    Judgement {
        ports,
        rule,
        matched: None,
    }
}

/// Block if there is an allow rule that is not merely an exception below a block rule.
fn implied_default(rules: &[Rule]) -> Action {
    let (blocks, allows): (Vec<&Rule>, Vec<&Rule>) =
        rules.iter().partition(|rule| rule.action == Action::Block);
    let is_exception = |allow: &&Rule| {
        blocks
            .iter()
            .any(|block| block.pattern.covers(&allow.pattern))
    };
    if allows.iter().all(is_exception) {
        Action::Allow
    } else {
        Action::Block
    }
}

/// RFC 1918, RFC 6598, link-local (RFC 3927, RFC 4291) and unique local (RFC 4193).
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(a) => {
            let [first, second, ..] = a.octets();
            a.is_private() || a.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(a) => a.is_unique_local() || a.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
