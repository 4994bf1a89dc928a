//! The matcher against a slow and obvious one, on names, addresses and ports that are
//! drawn from few values, so that they meet.

use proptest::prelude::*;

use super::*;

const PORTS: [u16; 6] = [1, 22, 23, 443, 444, 65535];

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        Just(Transport::Tcp),
        Just(Transport::Udp),
        Just(Transport::Other)
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Allow), Just(Action::Block)]
}

fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(&PORTS[..])
}

/// `www` and `w.ww` differ only in where a label ends.
fn labels() -> impl Strategy<Value = Vec<String>> {
    let label = prop::sample::select(&["a", "b", "w", "ww", "A", "a.b"][..]);
    prop::collection::vec(label.prop_map(str::to_owned), 1..5)
}

fn domain(labels: &[String]) -> Domain {
    Domain::from_labels(labels.iter().map(String::as_bytes)).unwrap()
}

fn network() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0..=32_u8).prop_map(|(bits, length)| IpNet::new(
            (near(bits)).into(),
            length
        )
        .unwrap()
        .trunc()),
        (any::<u128>(), 0..=128_u8).prop_map(|(bits, length)| {
            IpNet::new(IpAddr::from((bits & 0x0303).to_be_bytes()), length)
                .unwrap()
                .trunc()
        }),
    ]
}

fn near(bits: u32) -> [u8; 4] {
    (0xc633_6400 | (bits & 0x0303)).to_be_bytes()
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| near(bits).into()),
        any::<u128>().prop_map(|bits| IpAddr::from((bits & 0x0303).to_be_bytes())),
    ]
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let scope = prop_oneof![Just(Scope::Subtree), Just(Scope::Exact), Just(Scope::Below)];
    prop_oneof![
        3 => (labels(), scope).prop_map(|(labels, scope)| Pattern::Domain {
            name: domain(&labels),
            scope,
        }),
        1 => network().prop_map(Pattern::Network),
    ]
}

fn socket() -> impl Strategy<Value = Rule> {
    let name = prop::sample::select(&["a", "b"][..]);
    (name, any::<bool>()).prop_map(|(name, is_path)| Rule {
        pattern: Pattern::Socket(if is_path {
            UnixSocket::Path(format!("/{name}").into())
        } else {
            UnixSocket::Abstract(name.into())
        }),
        ports: None,
        transport: None,
        action: Action::Allow,
        source: Source::default(),
    })
}

prop_compose! {
    fn judging_rule()(
        pattern in pattern(),
        action in action(),
        ports in prop::option::of((port(), port())),
        transport in prop::option::of(prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)]),
    ) -> Rule {
        let ports = ports.map(|(one, other)| one.min(other)..=one.max(other));
        Rule { pattern, ports, transport, action, source: Source::default() }
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    prop_oneof![9 => judging_rule(), 1 => socket()]
}

/// The rules, and those of them in a list that can be: names for all ports, where `listed`
/// says so.
fn with_lists(rules: &[Rule], listed: u8) -> Rules {
    let (numbered, mut made) = ((1_u32..).zip(rules), Rules::default());
    let is_listed = |number: u32, rule: &Rule| {
        listed >> (number - 1) & 1 == 1 && rule.ports.is_none() && rule.transport.is_none()
    };
    for action in [Action::Allow, Action::Block] {
        made.names.begin(Arc::new(Place {
            list: Some(action),
            ..Place::default()
        }));
        for (number, rule) in numbered.clone().filter(|(_, rule)| rule.action == action) {
            if let Pattern::Domain { name, scope } = &rule.pattern
                && is_listed(number, rule)
            {
                let names = &mut made.names;
                names.add(name.as_wire(), *scope, action, number).unwrap();
            } else {
                made.rules.push(rule.clone());
            }
        }
    }
    made
}

/// Whether the rule decides this port, in the words of the grammar.
fn speaks_of(rule: &Rule, transport: Transport, port: u16) -> bool {
    let right_port = match &rule.ports {
        None => true,
        Some(range) => transport != Transport::Other && range.contains(&port),
    };
    right_port && (rule.transport.is_none() || rule.transport == Some(transport))
}

/// How long the match of a pattern on a name is, in labels.
fn name_match(pattern: &Pattern, name: &[String]) -> Option<usize> {
    let Pattern::Domain { name: own, scope } = pattern else {
        return None;
    };
    let own: Vec<Vec<u8>> = own.labels().map(<[u8]>::to_vec).collect();
    let name: Vec<Vec<u8>> = name
        .iter()
        .map(|label| label.to_ascii_lowercase().into_bytes())
        .collect();
    let matches = match scope {
        Scope::Exact => name == own,
        Scope::Subtree => name.ends_with(&own),
        Scope::Below => name.len() > own.len() && name.ends_with(&own),
    };
    matches.then_some(own.len())
}

/// How long the match of a pattern on an address is, in bits.
fn address_match(pattern: &Pattern, address: IpAddr) -> Option<usize> {
    let Pattern::Network(net) = pattern else {
        return None;
    };
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        octets
            .iter()
            .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1))
            .collect()
    };
    let length = usize::from(net.prefix_len());
    let (net_bits, bits) = (bits(net.addr()), bits(address));
    (net_bits.len() == bits.len() && net_bits[..length] == bits[..length]).then_some(length)
}

/// What the rules with the longest match say, block winning ties.
fn longest(
    rules: &[Rule],
    transport: Transport,
    port: u16,
    length: impl Fn(&Pattern) -> Option<usize>,
) -> Option<Action> {
    let matching: Vec<(usize, Action)> = rules
        .iter()
        .filter(|rule| speaks_of(rule, transport, port))
        .filter_map(|rule| Some((length(&rule.pattern)?, rule.action)))
        .collect();
    let best = matching.iter().map(|(length, _)| *length).max()?;
    let blocked = matching.contains(&(best, Action::Block));
    Some(if blocked {
        Action::Block
    } else {
        Action::Allow
    })
}

fn same_pattern_kind(one: &Pattern, other: &Pattern) -> bool {
    matches!(
        (one, other),
        (Pattern::Network(_), Pattern::Network(_))
            | (Pattern::Domain { .. }, Pattern::Domain { .. })
    )
}

proptest! {
    #[test]
    fn names_are_judged_as_by_the_reference(
        rules in prop::collection::vec(rule(), 0..8),
        listed in any::<u8>(),
        default in action(),
        name in labels(),
        aliases in prop::collection::vec(labels(), 0..3),
        suffix in labels(),
        transport in transport(),
        port in port(),
    ) {
        let by_name = |name: &[String]| longest(&rules, transport, port, |p| name_match(p, name));
        let mut expected = by_name(&name).unwrap_or(default);
        let lower = |labels: &[String]| -> Vec<String> {
            labels.iter().map(|label| label.to_ascii_lowercase()).collect()
        };
        let bare = lower(&name)
            .strip_suffix(lower(&suffix).as_slice())
            .filter(|bare| !bare.is_empty())
            .map(<[String]>::to_vec);
        for other in aliases.iter().chain(&bare) {
            if by_name(other) == Some(Action::Block) {
                expected = Action::Block;
            }
        }

        let made = with_lists(&rules, listed);
        let policy = Policy::new(made, Some(default), None, vec![domain(&suffix)]);
        let aliases: Vec<Domain> = aliases.iter().map(|alias| domain(alias)).collect();
        let judgement = policy.name(&domain(&name), &aliases);
        prop_assert_eq!(judgement.ports.at(transport, port), expected);
        prop_assert_eq!(judgement.at(transport, port).action, expected);
    }

    #[test]
    fn addresses_are_judged_as_by_the_reference(
        rules in prop::collection::vec(rule(), 0..8),
        direct_ip in prop_oneof![Just(DirectIp::Allow), Just(DirectIp::Block)],
        address in address(),
        transport in transport(),
        port in port(),
    ) {
        let policy = Policy::new(rules.clone(), Some(Action::Allow), Some(direct_ip), Vec::new());
        let matching = rules.iter().any(|r| address_match(&r.pattern, address.to_canonical()).is_some());
        let expected = matching.then(|| {
            longest(&rules, transport, port, |p| address_match(p, address.to_canonical()))
                .unwrap_or(policy.unresolved(address))
        });
        let found = policy.address(address);
        prop_assert_eq!(found.map(|judgement| judgement.ports.at(transport, port)), expected);
    }

    #[test]
    fn through_a_name_both_are_judged_as_by_the_reference(
        rules in prop::collection::vec(rule(), 0..8),
        default in action(),
        name in labels(),
        address in address(),
        transport in transport(),
        port in port(),
    ) {
        let opinions = [
            longest(&rules, transport, port, |p| name_match(p, &name)),
            longest(&rules, transport, port, |p| address_match(p, address.to_canonical())),
        ];
        let expected = opinions.into_iter().flatten().max().unwrap_or(default);
        let policy = Policy::new(rules, Some(default), None, Vec::new());
        let qname = domain(&name);
        let judgement = policy.through_name(&qname, &policy.name(&qname, &[]), address);
        prop_assert_eq!(judgement.map(|j| j.ports.at(transport, port)), Some(expected));
    }

    #[test]
    fn networks_say_beforehand_what_is_said_of_each_address(
        rules in prop::collection::vec(rule(), 0..6),
        direct_ip in prop_oneof![
            Just(DirectIp::Allow), Just(DirectIp::Private), Just(DirectIp::Block)
        ],
        own in prop::collection::vec(address(), 0..2),
        on_link in prop::collection::vec(network(), 0..2),
        address in prop_oneof![
            3 => address(),
            1 => prop::sample::select(&["127.0.0.1", "::1", "0.0.0.0", "10.0.0.1", "11.0.0.1"][..])
                .prop_map(|text| text.parse().unwrap()),
        ],
        transport in transport(),
        port in port(),
    ) {
        let policy = Policy::new(rules, Some(Action::Allow), Some(direct_ip), Vec::new())
            .with_host(own, on_link);
        let expected = policy
            .address(address)
            .map_or(policy.unresolved(address), |judgement| judgement.ports.at(transport, port));
        // As the kernel looks it up: by the longest prefix of the IPv4-mapped form.
        let mapped = |address: IpAddr| match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), 96),
            IpAddr::V6(address) => (address, 0),
        };
        let found = policy
            .networks()
            .into_iter()
            .filter(|(net, _)| {
                let ((base, offset), (own, _)) = (mapped(net.network()), mapped(address));
                let length = net.prefix_len() + offset;
                Ipv6Net::new(base, length).unwrap().contains(&own)
            })
            .max_by_key(|(net, _)| net.prefix_len() + mapped(net.network()).1);
        let found = found.map_or(policy.unresolved(address), |(_, ports)| ports.at(transport, port));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_judgement_names_a_rule_that_has_its_verdict(
        rules in prop::collection::vec(rule(), 0..8),
        default in action(),
        name in labels(),
    ) {
        let policy = Policy::new(rules, Some(default), None, Vec::new());
        let judgement = policy.name(&domain(&name), &[]);
        if let Some(rule) = &judgement.rule {
            prop_assert_eq!(rule.action == Action::Block, judgement.is_blocked());
        }
    }

    #[test]
    fn the_default_is_inferred_from_what_exceptions_change(
        rules in prop::collection::vec(rule(), 0..5),
        listed in any::<u8>(),
    ) {
        // An exception is an allow rule that some block rule would cover in its place.
        let is_exception = |allow: &Rule| rules.iter().any(|block| {
            block.action == Action::Block
                && same_pattern_kind(&block.pattern, &allow.pattern)
                && block.pattern.covers(&allow.pattern)
                && [Transport::Tcp, Transport::Udp, Transport::Other].iter().any(|transport| {
                    PORTS.iter().any(|port| {
                        speaks_of(block, *transport, *port) && speaks_of(allow, *transport, *port)
                    })
                })
        });
        // Of the networks drawn here, only `::1` and `::` are loopback.
        let only_acknowledges = |rule: &Rule| match &rule.pattern {
            Pattern::Domain { .. } | Pattern::Network(IpNet::V4(_)) => false,
            Pattern::Network(IpNet::V6(net)) => net.prefix_len() == 128 && u128::from(net.addr()) < 2,
            Pattern::Socket(_) => true,
        };
        let expected = rules
            .iter()
            .all(|r| r.action == Action::Block || only_acknowledges(r) || is_exception(r));
        let made = with_lists(&rules, listed);
        let default = Policy::new(made, None, None, Vec::new()).default_action();
        prop_assert_eq!(default == Action::Allow, expected);
    }

    #[test]
    fn a_pattern_covers_another_if_it_matches_all_that_it_matches(
        outer in pattern(),
        inner in pattern(),
        name in labels(),
        address in address(),
    ) {
        let escapes = |pattern_match: &dyn Fn(&Pattern) -> Option<usize>| {
            pattern_match(&inner).is_some() && pattern_match(&outer).is_none()
        };
        if escapes(&|p| name_match(p, &name))
            || escapes(&|p| address_match(p, address.to_canonical()))
        {
            prop_assert!(!outer.covers(&inner));
        }
        prop_assert!(inner.covers(&inner));
    }

    #[test]
    fn ports_merge_port_by_port_and_their_ranges_cover_all(
        rules in prop::collection::vec(rule(), 2..6),
        default in action(),
        name in labels(),
        transport in transport(),
        port in port(),
    ) {
        let (ours, theirs) = rules.split_at(rules.len() / 2);
        let judge = |rules: &[Rule]| {
            Policy::new(rules.to_vec(), Some(default), None, Vec::new()).name(&domain(&name), &[]).ports
        };
        let (one, other) = (judge(ours), judge(theirs));
        let both = one.merge(&other);
        let spoken = |rules: &[Rule]| longest(rules, transport, port, |p| name_match(p, &name));
        let expected = [spoken(ours), spoken(theirs)].into_iter().flatten().max().unwrap_or(default);
        prop_assert_eq!(both.at(transport, port), expected);
        prop_assert_eq!(&one.merge(&one), &one);
        prop_assert_eq!(&other.merge(&one), &both);
        let mut ranges = both.ranges(transport, Action::Allow);
        prop_assert_eq!(
            ranges.iter().any(|range| range.contains(&port)),
            both.at(transport, port) == Action::Allow
        );
        ranges.extend(both.ranges(transport, Action::Block));
        let total: u32 = ranges.iter().map(|range| range.clone().map(|_| 1).sum::<u32>()).sum();
        prop_assert_eq!(total, 65536);
    }

    #[test]
    fn a_displayed_name_is_parsed_back(labels in prop::collection::vec(
        prop_oneof![
            prop::collection::vec(any::<u8>(), 1..20),
            "(xn--)?[a-z0-9-]{1,12}".prop_map(String::into_bytes),
        ],
        1..8,
    )) {
        let name = Domain::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
        let text = name.to_string();
        prop_assert!(text.bytes().all(|octet| matches!(octet, 0x21..=0x7e)));
        prop_assert_eq!(Domain::parse(&text), Ok(name));
    }

    #[test]
    fn any_text_is_an_error_or_a_pattern_that_is_parsed_back(
        text in "\\PC{0,40}|[]\\[*.:/=@a0-9\\\\-]{0,30}",
        action in action(),
    ) {
        let parse = |text: &str| Rule::parse(text, action, Source::default());
        if let Ok(rule) = parse(&text) {
            let again = match &rule.pattern {
                Pattern::Domain { name, scope: Scope::Subtree } => parse(&name.to_string()),
                Pattern::Domain { name, scope: Scope::Exact } => parse(&format!("={name}")),
                Pattern::Domain { name, scope: Scope::Below } => parse(&format!("*.{name}")),
                Pattern::Network(net) => parse(&net.to_string()),
                Pattern::Socket(UnixSocket::Path(path)) => parse(str::from_utf8(path).unwrap()),
                Pattern::Socket(UnixSocket::Abstract(name)) => {
                    parse(&format!("@{}", str::from_utf8(name).unwrap()))
                }
            };
            prop_assert_eq!(again.map(|again| again.pattern), Ok(rule.pattern));
        }
    }
}
