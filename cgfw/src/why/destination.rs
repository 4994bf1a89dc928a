//! What people type, or paste, to say where something goes.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, bail, ensure};

use crate::policy::{Domain, Transport};

/// Where something goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// As it was typed.
    pub(super) text: String,
    pub(super) host: Host,
    pub(super) port: Option<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Name(Domain),
    /// In canonical form: IPv4-mapped ones are IPv4.
    Address(IpAddr),
}

/// A port, of TCP where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) transport: Transport,
    /// Whether nobody said which transport.
    pub(super) is_assumed: bool,
    pub(super) number: u16,
}

/// The ports of URLs without one: those of IANA's registry where it has the scheme.
const SCHEMES: &[(&str, u16)] = &[
    ("amqp", 5672),
    ("amqps", 5671),
    ("ftp", 21),
    ("ftps", 990),
    ("git", 9418),
    ("git+http", 80),
    ("git+https", 443),
    ("git+ssh", 22),
    ("http", 80),
    ("https", 443),
    ("imap", 143),
    ("imaps", 993),
    ("ldap", 389),
    ("ldaps", 636),
    ("mongodb", 27017),
    ("mqtt", 1883),
    ("mqtts", 8883),
    ("mysql", 3306),
    ("nats", 4222),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("redis", 6379),
    ("rediss", 6379),
    ("rsync", 873),
    ("sftp", 22),
    ("smtp", 25),
    ("smtps", 465),
    ("ssh", 22),
    ("ssh+git", 22),
    ("svn", 3690),
    ("svn+ssh", 22),
    ("telnet", 23),
    ("ws", 80),
    ("wss", 443),
];

const SSH: Port = Port {
    transport: Transport::Tcp,
    is_assumed: false,
    number: 22,
};

impl Destination {
    /// Parse a name or an address, `NAME:PORT[/tcp|/udp]`, `[V6]:PORT`, a URL, or what git and
    /// scp take for a host and a path: `git@github.com:org/repository.git`.
    ///
    /// # Errors
    ///
    /// If it is none of them; the error does not repeat `text`.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let (host, port) = match text.trim().split_once("://") {
            Some((scheme, rest)) => parse_url(scheme, rest)?,
            None => parse_bare(text.trim())?,
        };
        Ok(Self {
            text: text.to_owned(),
            host,
            port,
        })
    }
}

fn parse_url(scheme: &str, rest: &str) -> anyhow::Result<(Host, Option<Port>)> {
    // RFC 3986 section 3.1.
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || b"+-.".contains(&octet));
    ensure!(is_scheme, "`{scheme}` is not the scheme of a URL");
    // To a browser, and to curl, a backslash is a slash.
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest);
    // The last one: what is before may hold one that somebody forgot to escape.
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    ensure!(!host.is_empty(), "the URL has no host");
    let (host, port) = split_port(host);
    // RFC 3986 section 3.2.3: a colon without a port is none.
    let port = if let Some(port) = port.filter(|port| !port.is_empty()) {
        Some(parse_number(port)?)
    } else {
        let scheme = scheme.to_ascii_lowercase();
        let known = SCHEMES.iter().find(|(name, _)| *name == scheme);
        known.map(|(_, port)| *port)
    };
    let port = port.map(|number| Port {
        transport: Transport::Tcp,
        is_assumed: false,
        number,
    });
    Ok((parse_host(host)?, port))
}

fn parse_bare(text: &str) -> anyhow::Result<(Host, Option<Port>)> {
    if let Some((user, rest)) = text.split_once('@')
        && !user.contains([':', '/'])
    {
        let host = match rest.find("]:") {
            Some(bracket) => &rest[..=bracket],
            None if parse_ipv6(rest).is_some() => rest,
            None => rest.split(':').next().unwrap_or(rest),
        };
        return Ok((parse_host(host)?, Some(SSH)));
    }
    let (host, port) = split_port(text);
    let Some(port) = port else {
        if let Some((host, path)) = host.split_once('/') {
            match path.parse::<u8>() {
                Ok(_) => bail!("a network is no destination; give one of its addresses"),
                Err(_) if !host.is_empty() => {
                    bail!("a path needs a scheme before it: https://{text}")
                }
                Err(_) => bail!("a path is no destination"),
            }
        }
        return Ok((parse_host(host)?, None));
    };
    // As git tells a path on another host from a port of one (git-clone(1), GIT URLS).
    if !port.starts_with(|c: char| c.is_ascii_digit()) && port.contains(['/', '.']) {
        return Ok((parse_host(host)?, Some(SSH)));
    }
    let (number, transport) = match port.split_once('/') {
        None => (port, None),
        Some((number, "tcp")) => (number, Some(Transport::Tcp)),
        Some((number, "udp")) => (number, Some(Transport::Udp)),
        Some((_, other)) => bail!("`{other}` is not a protocol; use /tcp or /udp"),
    };
    let port = Port {
        transport: transport.unwrap_or(Transport::Tcp),
        is_assumed: transport.is_none(),
        number: parse_number(number)?,
    };
    Ok((parse_host(host)?, Some(port)))
}

/// Cut off what follows a colon, unless the colons are those of an IPv6 address.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if text.starts_with('[') {
        return match text.find("]:") {
            Some(bracket) => (&text[..=bracket], Some(&text[bracket + 2..])),
            None => (text, None),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

/// An IPv6 address, whose zone (RFC 4007 section 11) makes no difference to a policy.
fn parse_ipv6(text: &str) -> Option<Ipv6Addr> {
    let (address, _zone) = text.split_once('%').unwrap_or((text, ""));
    address.parse().ok()
}

fn parse_host(text: &str) -> anyhow::Result<Host> {
    if let Some(inside) = text.strip_prefix('[') {
        let address = inside
            .strip_suffix(']')
            .and_then(parse_ipv6)
            .with_context(|| format!("`{text}` is not an IPv6 address in brackets"))?;
        return Ok(Host::Address(IpAddr::from(address).to_canonical()));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Host::Address(address.to_canonical()));
    }
    if let Some(address) = parse_ipv6(text) {
        return Ok(Host::Address(IpAddr::from(address).to_canonical()));
    }
    if text.contains(':') {
        bail!("`{text}` is not an IPv6 address; with a port, one needs brackets: [::1]:443");
    }
    let name = Domain::parse(text)?;
    if name.ends_in_number() {
        bail!("`{text}` is not an address; write one in full: 192.0.2.1");
    }
    Ok(Host::Name(name))
}

fn parse_number(text: &str) -> anyhow::Result<u16> {
    let number = text
        .parse::<u16>()
        .ok()
        .filter(|number| *number != 0 && text.bytes().all(|octet| octet.is_ascii_digit()));
    number.with_context(|| format!("`{text}` is not a port (1-65535)"))
}

/// What is understood: `github.com:443/tcp`, `[2001:db8::1]:53/udp`.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (Host::Address(IpAddr::V6(address)), Some(_)) => write!(f, "[{address}]")?,
            (Host::Address(address), _) => write!(f, "{address}")?,
            (Host::Name(name), _) => write!(f, "{name}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// `443/tcp`
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number;
        match proto(self.transport) {
            Some(proto) => write!(f, "{number}/{proto}"),
            None => write!(f, "{number}"),
        }
    }
}

/// `tcp`; `None` for what has no ports.
pub(super) fn proto(transport: Transport) -> Option<&'static str> {
    match transport {
        Transport::Tcp => Some("tcp"),
        Transport::Udp => Some("udp"),
        Transport::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_people_write_them() {
        for (text, understood) in [
            ("github.com", "github.com"),
            ("GitHub.COM.", "github.com"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            (" github.com ", "github.com"),
            ("localhost", "localhost"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            (r"evil\.github.com", r"evil\.github.com"),
            ("github.com:443", "github.com:443/tcp"),
            ("github.com:443/tcp", "github.com:443/tcp"),
            ("github.com.:53/udp", "github.com:53/udp"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:22", "192.0.2.1:22/tcp"),
            ("192.0.2.1:53/udp", "192.0.2.1:53/udp"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443/tcp"),
            ("[2001:db8::1]:443/udp", "[2001:db8::1]:443/udp"),
            ("::1", "::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:22", "[fe80::1]:22/tcp"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("https://github.com", "github.com:443/tcp"),
            ("HTTPS://GitHub.com/", "github.com:443/tcp"),
            ("http://github.com/a:1/b@c?d=e:2#f", "github.com:80/tcp"),
            ("https://github.com:8443/x", "github.com:8443/tcp"),
            ("https://github.com:/x", "github.com:443/tcp"),
            ("https://github.com?x", "github.com:443/tcp"),
            ("https://github.com#x", "github.com:443/tcp"),
            ("https://user:p@ss@github.com/x", "github.com:443/tcp"),
            // What a browser takes for the host.
            (r"https://github.com\@example.com/", "github.com:443/tcp"),
            ("https://[2001:db8::1]:8443/x", "[2001:db8::1]:8443/tcp"),
            ("https://[2001:db8::1]/x", "[2001:db8::1]:443/tcp"),
            ("http://192.0.2.1/", "192.0.2.1:80/tcp"),
            ("ftp://github.com/x", "github.com:21/tcp"),
            ("ssh://git@github.com/o/r.git", "github.com:22/tcp"),
            ("ssh://git@github.com:2222/o/r", "github.com:2222/tcp"),
            ("git+ssh://git@github.com/o/r", "github.com:22/tcp"),
            ("git://github.com/o/r", "github.com:9418/tcp"),
            ("ws://github.com/x", "github.com:80/tcp"),
            ("wss://b\u{fc}cher.example", "xn--bcher-kva.example:443/tcp"),
            ("never-heard-of://github.com/x", "github.com"),
            ("git@github.com:org/repository.git", "github.com:22/tcp"),
            ("git@github.com:2/repository.git", "github.com:22/tcp"),
            ("git@github.com", "github.com:22/tcp"),
            (
                "git@[2001:db8::1]:org/repository.git",
                "[2001:db8::1]:22/tcp",
            ),
            ("github.com:org/repository.git", "github.com:22/tcp"),
            ("github.com:repository.git", "github.com:22/tcp"),
            ("git@github.com:a:b/c", "github.com:22/tcp"),
        ] {
            let parsed = Destination::parse(text);
            let parsed = parsed.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.to_string(), understood, "{text}");
            assert_eq!(parsed.text, text);
        }
    }

    #[test]
    fn what_is_no_destination_says_what_is_wrong_with_it() {
        for (text, reason) in [
            ("", "at least one label"),
            (".", "at least one label"),
            ("exa mple.com", "not a valid"),
            ("example..com", "at least one label"),
            ("*.example.com", "not a valid"),
            ("=example.com", "not a valid"),
            ("github.com:", "not a port"),
            ("github.com:0", "not a port"),
            ("github.com:99999", "not a port"),
            ("github.com:+443", "not a port"),
            ("github.com:https", "not a port"),
            ("github.com:1-2", "not a port"),
            ("github.com:443/icmp", "not a protocol"),
            ("github.com:443/x/y", "not a protocol"),
            ("github.com/org", "https://github.com/org"),
            ("10.0.0.0/8", "a network"),
            ("2001:db8::/32", "a network"),
            ("/run/docker.sock", "a path"),
            ("192.0.2", "not an address"),
            ("192.0.2.400", "not an address"),
            ("0x7f000001", "not an address"),
            ("2130706433", "not an address"),
            ("http://0x7f.1/", "not an address"),
            ("2001:db8::1::2", "brackets"),
            ("[2001:db8::1", "not an IPv6 address"),
            ("[2001:db8::1]x", "not an IPv6 address"),
            ("[github.com]", "not an IPv6 address"),
            ("[]", "not an IPv6 address"),
            ("https://", "no host"),
            ("https:///path", "no host"),
            ("file:///etc/passwd", "no host"),
            ("://github.com", "scheme"),
            ("1x://github.com", "scheme"),
            ("https://github.com:99999/", "not a port"),
            ("https://exa mple.com/", "not a valid"),
            ("git@", "at least one label"),
        ] {
            let error = Destination::parse(text).expect_err(text);
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }
}
