//! One rule, `PATTERN[:PORT[-PORT]][/tcp|/udp]` or the name of a unix socket, and its parser.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};

use super::{
    Action, Domain, DomainError, Source, Transport, UnixSocket, loopback_networks, socket,
};

/// Always loopback (RFC 6761 section 6.3), on the wire.
pub(super) const LOCALHOST: &[u8] = b"\x09localhost";

/// A pattern with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub pattern: Pattern,
    /// `None`: every port, and protocols without ports.
    pub ports: Option<RangeInclusive<u16>>,
    /// `None`: TCP and UDP, and where there are no `ports` everything else too.
    pub transport: Option<Transport>,
    pub action: Action,
    pub source: Source,
}

/// What a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Domain {
        name: Domain,
        scope: Scope,
    },
    Network(IpNet),
    /// `/run/docker.sock`, `@abstract`: acknowledges that the child turns to this socket.
    Socket(UnixSocket),
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
    /// A URL where a pattern was wanted.
    Url,
    /// A socket in a rule that blocks.
    BlockedSocket,
    /// The path of a socket with `..` in it.
    SocketParent,
    /// The name of a socket that is longer than any can be, or empty.
    SocketLength,
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
            Self::Url => f.write_str("a URL is not a pattern; write its host: example.com:443"),
            Self::BlockedSocket => f.write_str(
                "a socket cannot be blocked by a rule, only its use be acknowledged by --allow; \
                 --strict refuses all sockets outside of the run",
            ),
            Self::SocketParent => f.write_str("write the path of a socket without `..`"),
            Self::SocketLength => write!(
                f,
                "the name of a socket has 1 to {} octets behind the first",
                socket::MAX_LENGTH - 1
            ),
        }
    }
}

impl std::error::Error for ParseRuleError {}

impl Rule {
    /// Parse `PATTERN[:PORT[-PORT]][/tcp|/udp]`, the absolute path of a unix socket, or
    /// `@` and the name of an abstract one; `source` says where it was written.
    pub fn parse(text: &str, action: Action, source: Source) -> Result<Self, ParseRuleError> {
        let text = text.trim();
        if let Some(socket) = parse_socket(text)? {
            if action == Action::Block {
                return Err(ParseRuleError::BlockedSocket);
            }
            return Ok(Self {
                pattern: Pattern::Socket(socket),
                ports: None,
                transport: None,
                action,
                source,
            });
        }
        if text.contains("://") {
            return Err(ParseRuleError::Url);
        }
        let (rest, transport) = split_transport(text)?;
        let (pattern, ports) = if let Some(inner) = rest.strip_prefix('[') {
            parse_bracketed(inner)?
        } else {
            let (pattern, ports) = split_ports(rest);
            (Pattern::parse(pattern)?, ports)
        };
        Ok(Self {
            pattern,
            ports: ports.map(parse_ports).transpose()?,
            transport,
            action,
            source,
        })
    }

    /// A rule of which nothing is known but what it allows.
    pub(super) fn allowing(pattern: Pattern) -> Self {
        Self {
            pattern,
            ports: None,
            transport: None,
            action: Action::Allow,
            source: Source::default(),
        }
    }

    /// The rule as people find it again: `--block github.com`, `ads.txt:12: github.com`.
    pub fn cite(&self) -> String {
        let Source { place, line } = &self.source;
        match line {
            0 => place.name.clone(),
            _ => format!("{}:{line}: {self}", place.name),
        }
    }

    /// Why the rule is there, in its author's words.
    pub fn reason(&self) -> Option<&str> {
        self.source.place.reason.as_deref()
    }

    /// The team to turn to.
    pub fn owner(&self) -> Option<&str> {
        self.source.place.owner.as_deref()
    }

    /// Which of two rules on the same name or network decides: the one of higher rank. One
    /// that blocks, and then one whose owner can be told.
    pub(super) fn rank(&self) -> (Action, bool) {
        (self.action, self.owner().is_some())
    }

    /// Whether the rule is an exception that a list makes for itself.
    pub(super) fn is_exception_of_list(&self) -> bool {
        let list = self.source.place.list;
        list.is_some_and(|list| list != self.action)
    }

    /// Whether the rule, its pattern matching, decides this port.
    pub(super) fn speaks_of(&self, transport: Transport, port: u16) -> bool {
        self.transport.is_none_or(|only| only == transport)
            && self
                .ports
                .as_ref()
                .is_none_or(|ports| transport != Transport::Other && ports.contains(&port))
    }

    /// Whether it decides every port of every transport.
    pub(super) fn speaks_of_all(&self) -> bool {
        self.ports.is_none() && self.transport.is_none()
    }

    /// Whether `allow` makes an exception to this rule: everything that its pattern
    /// matches is matched here too, and both speak of some common port.
    pub(super) fn has_exception(&self, allow: &Self) -> bool {
        let transports_meet = match (self.transport, allow.transport) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        let ports_meet = match (&self.ports, &allow.ports) {
            (Some(one), Some(other)) => one.start() <= other.end() && other.start() <= one.end(),
            _ => true,
        };
        transports_meet && ports_meet && self.pattern.covers(&allow.pattern)
    }

    /// Whether the rule can have no other meaning than to acknowledge delegations: what it
    /// allows is allowed by every policy that does not block it by name.
    pub(super) fn only_acknowledges(&self) -> bool {
        self.action == Action::Allow
            && match &self.pattern {
                Pattern::Domain { .. } => self.pattern.is_localhost(),
                Pattern::Network(net) => is_loopback(net),
                Pattern::Socket(_) => true,
            }
    }

    /// Whether the rule, its pattern matching, allows just this address, loopback or
    /// localhost, and not a network that the host happens to be in.
    pub(super) fn acknowledges(&self, transport: Transport, port: u16) -> bool {
        let is_named = match &self.pattern {
            Pattern::Domain { .. } => self.pattern.is_localhost(),
            Pattern::Network(net) => net.prefix_len() == net.max_prefix_len() || is_loopback(net),
            Pattern::Socket(_) => false,
        };
        self.action == Action::Allow && is_named && self.speaks_of(transport, port)
    }

    /// Whether the rule speaks of just this name or address, and not of more.
    pub fn is_just_for(&self, name: Option<&Domain>, address: IpAddr) -> bool {
        match &self.pattern {
            Pattern::Domain { .. } => name.is_some_and(|name| self.names(name)),
            Pattern::Network(net) => *net == IpNet::from(address),
            Pattern::Socket(_) => false,
        }
    }

    /// Whether the rule speaks of just this name, and not by way of one above it.
    pub(super) fn names(&self, name: &Domain) -> bool {
        matches!(
            &self.pattern,
            Pattern::Domain { name: own, scope: Scope::Exact | Scope::Subtree } if own == name
        )
    }
}

/// The text that is parsed as this rule.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ports.is_some() && matches!(self.pattern, Pattern::Network(IpNet::V6(_))) {
            write!(f, "[{}]", self.pattern)?;
        } else {
            write!(f, "{}", self.pattern)?;
        }
        if let Some(ports) = &self.ports {
            write!(f, ":{}", ports.start())?;
            if ports.start() != ports.end() {
                write!(f, "-{}", ports.end())?;
            }
        }
        match self.transport {
            Some(Transport::Tcp) => f.write_str("/tcp"),
            Some(Transport::Udp) => f.write_str("/udp"),
            Some(Transport::Other) | None => Ok(()),
        }
    }
}

/// The text that is parsed as this pattern.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain { name, scope } => match scope {
                Scope::Subtree => write!(f, "{name}"),
                Scope::Exact => write!(f, "={name}"),
                Scope::Below => write!(f, "*.{name}"),
            },
            Self::Network(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "{}", net.addr())
            }
            Self::Network(net) => write!(f, "{net}"),
            Self::Socket(UnixSocket::Path(path)) => f.write_str(&String::from_utf8_lossy(path)),
            Self::Socket(UnixSocket::Abstract(name)) => {
                write!(f, "@{}", String::from_utf8_lossy(name))
            }
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, ParseRuleError> {
        if text.contains('/') || text.contains(':') || text.parse::<IpAddr>().is_ok() {
            return parse_network(text).map(Self::Network);
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
        let name = Domain::parse(name).map_err(ParseRuleError::Domain)?;
        if name.ends_in_number() {
            return Err(ParseRuleError::Network(text.to_owned()));
        }
        Ok(Self::Domain { name, scope })
    }

    /// Whether the pattern is one of domains and matches `name`.
    pub(super) fn matches_name(&self, name: &Domain) -> bool {
        match self {
            Self::Domain { name: own, scope } => match scope {
                Scope::Subtree => name.is_within(own),
                Scope::Exact => name == own,
                Scope::Below => name != own && name.is_within(own),
            },
            Self::Network(_) | Self::Socket(_) => false,
        }
    }

    fn is_localhost(&self) -> bool {
        match self {
            Self::Domain { name, .. } => name.as_wire() == LOCALHOST,
            Self::Network(_) | Self::Socket(_) => false,
        }
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

fn is_loopback(net: &IpNet) -> bool {
    loopback_networks().iter().any(|outer| outer.contains(net))
}

/// The unix socket that the text names, if it begins as one does.
fn parse_socket(text: &str) -> Result<Option<UnixSocket>, ParseRuleError> {
    let (socket, length) = if let Some(name) = text.strip_prefix('@') {
        (UnixSocket::Abstract(name.into()), name.len())
    } else if text.starts_with('/') {
        if text.split('/').any(|part| part == "..") {
            return Err(ParseRuleError::SocketParent);
        }
        let path = socket::normal_path(text.as_bytes());
        let length = path.len() - 1;
        (UnixSocket::Path(path), length)
    } else {
        return Ok(None);
    };
    if (1..socket::MAX_LENGTH).contains(&length) {
        Ok(Some(socket))
    } else {
        Err(ParseRuleError::SocketLength)
    }
}

/// Cut a final `/tcp` or `/udp` off.
fn split_transport(text: &str) -> Result<(&str, Option<Transport>), ParseRuleError> {
    let Some((rest, last)) = text.rsplit_once('/') else {
        return Ok((text, None));
    };
    if last.eq_ignore_ascii_case("tcp") {
        return Ok((rest, Some(Transport::Tcp)));
    }
    if last.eq_ignore_ascii_case("udp") {
        return Ok((rest, Some(Transport::Udp)));
    }
    // A prefix length, perhaps with a port behind it: `10.0.0.0/8:22`.
    if last.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok((text, None));
    }
    Err(ParseRuleError::Protocol(last.to_owned()))
}

/// Cut the ports off. With more colons than one, all belong to an IPv6 address.
fn split_ports(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((pattern, ports)) if !ports.contains(':') => (pattern, Some(ports)),
        _ => (text, None),
    }
}

/// What follows an opening bracket: `::1]`, `2001:db8::/32]:443`, `2001:db8::]/32:443`.
fn parse_bracketed(text: &str) -> Result<(Pattern, Option<&str>), ParseRuleError> {
    let wrong = || ParseRuleError::Network(format!("[{text}"));
    let (inside, after) = text.split_once(']').ok_or_else(wrong)?;
    let (length, ports) = match after.split_once(':') {
        Some((length, ports)) => (length, Some(ports)),
        None => (after, None),
    };
    let network = match length {
        "" => parse_network(inside)?,
        _ if length.starts_with('/') && !inside.contains('/') => {
            parse_network(&format!("{inside}{length}"))?
        }
        _ => return Err(wrong()),
    };
    Ok((Pattern::Network(network), ports))
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, ParseRuleError> {
    let wrong = || ParseRuleError::Port(text.to_owned());
    let port = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port != 0 && text.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(wrong)
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (port(low)?, port(high)?);
    if low > high {
        return Err(wrong());
    }
    Ok(low..=high)
}

/// An address or a CIDR. IPv4-mapped ones (RFC 4291 section 2.5.5.2) become the IPv4
/// ones that they stand for, as the addresses do that they are compared with.
fn parse_network(text: &str) -> Result<IpNet, ParseRuleError> {
    let wrong = || ParseRuleError::Network(text.to_owned());
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let net: IpNet = text.parse().map_err(|_opaque| wrong())?;
    if net.trunc() != net {
        return Err(ParseRuleError::HostBits(net));
    }
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(length)) if matches!(net, IpNet::V6(_)) => Ok(IpNet::V4(
            Ipv4Net::new(address, length).map_err(|_opaque| wrong())?,
        )),
        _ => Ok(net),
    }
}

/// Whether `inet_aton` might read the label as a number.
pub(super) fn is_numeric(label: &[u8]) -> bool {
    match label.strip_prefix(b"0x") {
        Some(digits) => digits.iter().all(u8::is_ascii_hexdigit),
        None => label.iter().all(u8::is_ascii_digit),
    }
}
