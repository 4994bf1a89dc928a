//! One rule, `PATTERN[:PORT[-PORT]][/tcp|/udp]`, and its parser.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{Action, Domain, DomainError, Transport};

/// A pattern with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub pattern: Pattern,
    /// `None`: every port, and protocols without ports.
    pub ports: Option<RangeInclusive<u16>>,
    /// `None`: TCP and UDP, and where there are no `ports` everything else too.
    pub transport: Option<Transport>,
    pub action: Action,
    /// The rule as it was written, with where: `--block github.com`.
    pub source: String,
}

/// What a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Domain { name: Domain, scope: Scope },
    Network(IpNet),
}

/// How far the pattern of a domain reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `github.com`: the name and everything below it.
    Subtree,
    /// `=github.com`: that name only.
    Exact,
    /// `*.github.com`: everything below the name, not the name itself.
    Below,
}

/// Why a text is not a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseRuleError {
    Domain(DomainError),
    /// The text after the colon is not `PORT` or `PORT-PORT`.
    Port(String),
    /// The text after the last slash is neither a prefix length nor `tcp` or `udp`.
    Protocol(String),
    /// A prefix length or address that does not parse.
    Network(String),
    /// The address has bits set beyond the prefix; the network that was probably meant.
    HostBits(IpNet),
    /// `*` elsewhere than as the whole first label.
    Wildcard,
}

impl fmt::Display for ParseRuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(error) => write!(f, "{error}"),
            Self::Port(text) => write!(
                f,
                "`{text}` is not a port (1-65535) or a range of ports (LOW-HIGH)"
            ),
            Self::Protocol(text) => write!(f, "`{text}` is not a protocol; use /tcp or /udp"),
            Self::Network(text) => write!(f, "`{text}` is not an address or a CIDR"),
            Self::HostBits(net) => write!(
                f,
                "the address has bits set beyond its prefix; write {} for the network",
                net.trunc()
            ),
            Self::Wildcard => {
                f.write_str("`*` stands for whole labels at the start only: *.example.com")
            }
        }
    }
}

impl std::error::Error for ParseRuleError {}

impl Rule {
    /// Parse `PATTERN[:PORT[-PORT]][/tcp|/udp]`; `source` says where it was written.
    pub fn parse(text: &str, action: Action, source: String) -> Result<Self, ParseRuleError> {
        let text = text.trim();
        let (rest, transport) = split_transport(text)?;
        let (pattern, ports) = split_ports(rest)?;
        Ok(Self {
            pattern: Pattern::parse(pattern)?,
            ports: ports.map(parse_ports).transpose()?,
            transport,
            action,
            source,
        })
    }

    /// Whether the rule, its pattern matching, decides this port.
    pub(super) fn speaks_of(&self, transport: Transport, port: u16) -> bool {
        self.transport.is_none_or(|only| only == transport)
            && self
                .ports
                .as_ref()
                .is_none_or(|ports| transport != Transport::Other && ports.contains(&port))
    }

    pub(super) fn pattern_scope(&self) -> Option<Scope> {
        match self.pattern {
            Pattern::Domain { scope, .. } => Some(scope),
            Pattern::Network(_) => None,
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, ParseRuleError> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if bare.contains('/') || bare.contains(':') || bare.parse::<IpAddr>().is_ok() {
            return parse_network(bare).map(Self::Network);
        }
        let (name, scope) = if let Some(name) = text.strip_prefix('=') {
            (name, Scope::Exact)
        } else if let Some(name) = text.strip_prefix("*.") {
            (name, Scope::Below)
        } else {
            (text, Scope::Subtree)
        };
        if name.contains('*') {
            return Err(ParseRuleError::Wildcard);
        }
        // `1.2.3` and `1.2.3.400` are mistyped addresses: no top-level domain is a number.
        if name
            .rsplit('.')
            .find(|label| !label.is_empty())
            .is_some_and(is_number)
        {
            return Err(ParseRuleError::Network(text.to_owned()));
        }
        let name = Domain::parse(name).map_err(ParseRuleError::Domain)?;
        Ok(Self::Domain { name, scope })
    }

    /// Whether everything that `other` matches is matched by this pattern too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Domain { name, scope },
                Self::Domain {
                    name: inner,
                    scope: inner_scope,
                },
            ) => match scope {
                Scope::Subtree => inner.is_within(name),
                Scope::Exact => inner == name && *inner_scope == Scope::Exact,
                Scope::Below => {
                    inner.is_within(name) && (inner != name || *inner_scope == Scope::Below)
                }
            },
            (Self::Network(net), Self::Network(inner)) => net.contains(inner),
            _ => false,
        }
    }
}

/// Cut a final `/tcp` or `/udp` off.
fn split_transport(text: &str) -> Result<(&str, Option<Transport>), ParseRuleError> {
    let Some((rest, last)) = text.rsplit_once('/') else {
        return Ok((text, None));
    };
    match last {
        "tcp" => Ok((rest, Some(Transport::Tcp))),
        "udp" => Ok((rest, Some(Transport::Udp))),
        // A prefix length, perhaps with a port behind it: `10.0.0.0/8:22`.
        _ if last.starts_with(|c: char| c.is_ascii_digit()) => Ok((text, None)),
        _ => Err(ParseRuleError::Protocol(last.to_owned())),
    }
}

/// Cut the ports off. A colon belongs to an IPv6 address unless brackets say otherwise.
fn split_ports(text: &str) -> Result<(&str, Option<&str>), ParseRuleError> {
    if let Some(rest) = text.strip_prefix('[') {
        let close = rest
            .find(']')
            .ok_or_else(|| ParseRuleError::Network(text.to_owned()))?;
        // `[2001:db8::]/32:443` and `[2001:db8::/32]:443` are both written.
        return match rest[close + 1..].split_once(':') {
            None if close + 1 == rest.len() => Ok((text, None)),
            Some(("", ports)) => Ok((&text[..close + 2], Some(ports))),
            _ => Err(ParseRuleError::Network(text.to_owned())),
        };
    }
    match text.split_once(':') {
        Some((pattern, ports)) if !ports.contains(':') => Ok((pattern, Some(ports))),
        _ => Ok((text, None)),
    }
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, ParseRuleError> {
    let wrong = || ParseRuleError::Port(text.to_owned());
    let port = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port != 0 && is_number(text))
            .ok_or_else(wrong)
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (port(low)?, port(high)?);
    if low > high {
        return Err(wrong());
    }
    Ok(low..=high)
}

fn parse_network(text: &str) -> Result<IpNet, ParseRuleError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let net: IpNet = text
        .parse()
        .map_err(|_ignored| ParseRuleError::Network(text.to_owned()))?;
    if net.trunc() != net {
        return Err(ParseRuleError::HostBits(net));
    }
    Ok(net)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}
