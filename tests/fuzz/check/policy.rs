//! Any text as rules, from the command line to the verdict.

use std::ffi::OsString;
use std::net::IpAddr;

use cgfw::cli::{self, Invocation};
use cgfw::policy::{
    Action, Domain, ParseRuleError, Pattern, Policy, Rule, Scope, Source, Transport, UnixSocket,
    normal_path,
};

use super::reference::{Labels, longest, matched};

/// Judge an input: a line for each rule, `+` to allow and `-` to block, and for each
/// destination that is asked for, `?`.
pub fn policy(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let mut rules = Vec::new();
    let mut destinations = Vec::new();
    for line in text.lines().take(16) {
        if let Some(pattern) = line.strip_prefix('+') {
            rules.extend(rule(pattern, Action::Allow));
        } else if let Some(pattern) = line.strip_prefix('-') {
            rules.extend(rule(pattern, Action::Block));
        } else if let Some(destination) = line.strip_prefix('?') {
            destinations.push(destination);
        }
    }
    let policy = Policy::new(rules.clone(), None, None, Vec::new());
    for destination in destinations {
        if let Some(socket) = socket(destination) {
            let named = |rule: &Rule| rule.pattern == Pattern::Socket(socket.clone());
            let found = policy.acknowledges_socket(&socket);
            assert_eq!(found.is_some(), rules.iter().any(named), "{socket:?}");
        } else if let Ok(address) = destination.parse() {
            check_address(&policy, &rules, address);
        } else if let Ok(name) = Domain::parse(destination) {
            check_name(&policy, &rules, &name);
        }
    }
    check_arguments(text);
}

/// Parse a rule, and hold it against what it is in other words.
fn rule(text: &str, action: Action) -> Option<Rule> {
    let parsed = parse(text, action);
    let same = |other: &str| {
        let other = parse(other, action);
        assert_eq!(other.is_ok(), parsed.is_ok(), "{text:?} is {parsed:?}");
        if parsed.is_ok() {
            assert_eq!(other, parsed, "{text:?}");
        }
    };
    same(&format!(" {text}\t"));
    // Of all patterns only sockets, which are files, go by case.
    if !matches!(&parsed, Ok(rule) if matches!(rule.pattern, Pattern::Socket(_))) {
        same(&text.to_ascii_lowercase());
        same(&text.to_ascii_uppercase());
    }
    if let Some(labels) = host_name(text) {
        let rule = parsed.as_ref().expect("a host name is a pattern");
        let Pattern::Domain { name, scope } = &rule.pattern else {
            panic!("{text:?} is {rule:?}");
        };
        assert_eq!(*scope, Scope::Subtree);
        assert!(name.labels().eq(labels), "{text:?} is {name}");
        assert_eq!((&rule.ports, rule.transport), (&None, None));
        same(&format!("{text}."));
    }
    match &parsed {
        Ok(rule) => {
            let written = written(rule);
            // Of the spaces around a rule nothing is left.
            if written.trim() == written {
                same(&written);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    parsed.ok()
}

/// What could only be a socket.
fn socket(text: &str) -> Option<UnixSocket> {
    if let Some(name) = text.strip_prefix('@') {
        return Some(UnixSocket::Abstract(name.into()));
    }
    text.starts_with('/')
        .then(|| UnixSocket::Path(normal_path(text.as_bytes())))
}

fn parse(text: &str, action: Action) -> Result<Rule, ParseRuleError> {
    Rule::parse(text, action, Source::default())
}

/// The labels of `text`, if there can be no doubt that it is the name of a host.
fn host_name(text: &str) -> Option<impl Iterator<Item = &[u8]>> {
    let is_plain = |label: &str| {
        let is_letter = |octet: u8| octet.is_ascii_lowercase();
        (1..=63).contains(&label.len())
            && label.bytes().all(|octet| is_letter(octet) || octet == b'-')
            // xn-- and other prefixes that IDNA has kept for itself.
            && label.get(2..4) != Some("--")
    };
    (text.len() <= 253 && text.split('.').all(is_plain)).then(|| text.split('.').map(str::as_bytes))
}

/// The rule in the one way of writing that has a place for everything.
fn written(rule: &Rule) -> String {
    let pattern = match &rule.pattern {
        Pattern::Domain { name, scope } => match scope {
            Scope::Subtree => name.to_string(),
            Scope::Exact => format!("={name}"),
            Scope::Below => format!("*.{name}"),
        },
        Pattern::Network(net) if net.addr().is_ipv6() => format!("[{net}]"),
        Pattern::Network(net) => net.to_string(),
        Pattern::Socket(UnixSocket::Path(path)) => utf8(path),
        Pattern::Socket(UnixSocket::Abstract(name)) => format!("@{}", utf8(name)),
    };
    let ports = rule.ports.as_ref().map_or_else(String::new, |ports| {
        format!(":{}-{}", ports.start(), ports.end())
    });
    let transport = match rule.transport {
        None => "",
        Some(Transport::Tcp) => "/tcp",
        Some(Transport::Udp) => "/udp",
        Some(Transport::Other) => panic!("no text says {rule:?}"),
    };
    format!("{pattern}{ports}{transport}")
}

/// Octets that came from a text.
fn utf8(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).expect("the rule was written in UTF-8")
}

fn check_name(policy: &Policy, rules: &[Rule], name: &Domain) {
    let labels = owned(name);
    let judgement = policy.name(name, &[]);
    for (transport, port) in occasions(rules) {
        let expected = longest(speaking(rules, transport, port).filter_map(|rule| {
            let Pattern::Domain { name, scope } = &rule.pattern else {
                return None;
            };
            Some((matched(&owned(name), *scope, &labels)?, rule.action))
        }));
        let expected = expected.unwrap_or(policy.default_action());
        let found = judgement.ports.at(transport, port);
        assert_eq!(found, expected, "{name} {transport:?} {port}: {rules:?}");
    }
}

fn check_address(policy: &Policy, rules: &[Rule], address: IpAddr) {
    let address = address.to_canonical();
    let judgement = policy.address(address);
    let nat64 = bits(IpAddr::from([0x64, 0xff9b, 0, 0, 0, 0, 0, 0]))[..96].to_vec();
    for (transport, port) in occasions(rules) {
        let expected = longest(speaking(rules, transport, port).filter_map(|rule| {
            let Pattern::Network(net) = &rule.pattern else {
                return None;
            };
            let length = usize::from(net.prefix_len());
            // Through NAT64 (RFC 6052) an IPv4 host is reached by a second address.
            let (bits, skipped) = match (net.addr(), bits(address)) {
                (IpAddr::V4(_), bits) if bits.starts_with(&nat64) => (bits[96..].to_vec(), 96),
                (IpAddr::V4(_), bits) if bits.len() > 32 => return None,
                (IpAddr::V6(_), bits) if bits.len() == 32 => return None,
                (_, bits) => (bits, 0),
            };
            let same = bits.get(..length)? == self::bits(net.addr()).get(..length)?;
            same.then_some((skipped + length, rule.action))
        }));
        let expected = expected.unwrap_or(policy.unresolved(address));
        let found = judgement
            .as_ref()
            .map_or(policy.unresolved(address), |judgement| {
                judgement.ports.at(transport, port)
            });
        assert_eq!(found, expected, "{address} {transport:?} {port}: {rules:?}");
    }
}

/// The rules that decide this port, in the words of the grammar.
fn speaking(rules: &[Rule], transport: Transport, port: u16) -> impl Iterator<Item = &Rule> {
    rules.iter().filter(move |rule| {
        let right_port = match &rule.ports {
            None => true,
            Some(ports) => transport != Transport::Other && ports.contains(&port),
        };
        right_port && rule.transport.is_none_or(|only| only == transport)
    })
}

/// Every port at which the rules could say something else than on the one before.
fn occasions(rules: &[Rule]) -> Vec<(Transport, u16)> {
    let named = rules.iter().filter_map(|rule| rule.ports.as_ref());
    let near = named.flat_map(|ports| {
        let (low, high) = (*ports.start(), *ports.end());
        [low.saturating_sub(1), low, high, high.saturating_add(1)]
    });
    let ports = near.chain([0, u16::MAX]);
    let with_ports = ports.flat_map(|port| [(Transport::Tcp, port), (Transport::Udp, port)]);
    with_ports.chain([(Transport::Other, 0)]).collect()
}

fn owned(name: &Domain) -> Labels {
    name.labels().map(<[u8]>::to_vec).collect()
}

fn bits(address: IpAddr) -> Vec<bool> {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    octets
        .iter()
        .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1))
        .collect()
}

/// As the argument of --block: accepted if every pattern between commas is one.
fn check_arguments(text: &str) {
    let block = OsString::from(format!("--block={text}"));
    let head = ["cgfw", "run"].map(OsString::from);
    let tail = ["--", "true"].map(OsString::from);
    let patterns: Result<Vec<_>, _> = text
        .split(',')
        .map(|pattern| parse(pattern, Action::Block).map(|rule| rule.pattern))
        .collect();
    match cli::parse(head.into_iter().chain([block]).chain(tail)) {
        Ok(Invocation::Run(run)) => {
            let taken: Vec<_> = run
                .policy
                .rules
                .into_iter()
                .map(|rule| rule.pattern)
                .collect();
            assert_eq!(Ok(taken), patterns, "{text:?}");
        }
        Err(stop) => {
            assert!(patterns.is_err(), "{text:?}: {stop}");
            assert!(!stop.to_string().is_empty());
        }
        Ok(other) => panic!("{text:?}: {other:?}"),
    }
}
