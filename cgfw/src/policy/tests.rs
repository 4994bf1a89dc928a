use super::*;

fn rule(text: &str, action: Action) -> Rule {
    let flag = match action {
        Action::Allow => "--allow",
        Action::Block => "--block",
    };
    Rule::parse(text, action, Source::argument(format!("{flag} {text}"))).unwrap()
}

fn rules(block: &[&str], allow: &[&str]) -> Vec<Rule> {
    let block = block.iter().map(|text| rule(text, Action::Block));
    let allow = allow.iter().map(|text| rule(text, Action::Allow));
    block.chain(allow).collect()
}

fn policy(block: &[&str], allow: &[&str]) -> Policy {
    Policy::new(rules(block, allow), None, None, Vec::new())
}

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The verdict on every port of a name, as one word.
fn word(judgement: &Judgement) -> &'static str {
    match judgement.ports.uniform() {
        Some(Action::Allow) => "allow",
        Some(Action::Block) => "block",
        None => "by port",
    }
}

#[track_caller]
fn check_names(policy: &Policy, expected: &[(&str, &str)]) {
    for (name, verdict) in expected {
        let judgement = policy.name(&domain(name), &[]);
        assert_eq!(word(&judgement), *verdict, "{name} under {policy:?}");
    }
}

#[track_caller]
fn check_addresses(policy: &Policy, expected: &[(&str, &str)]) {
    for (address, verdict) in expected {
        let found = policy.address(ip(address));
        let found = found.as_ref().map_or("no rule", word);
        assert_eq!(found, *verdict, "{address}");
    }
}

fn path(path: &[u8]) -> UnixSocket {
    UnixSocket::Path(normal_path(path))
}

fn source(rule: Option<&Arc<Rule>>) -> Option<&str> {
    rule.map(|rule| rule.source.place.name.as_str())
}

#[test]
fn a_domain_is_the_name_and_everything_below_it() {
    check_names(
        &policy(&["github.com"], &[]),
        &[
            ("github.com", "block"),
            ("api.GitHub.com.", "block"),
            ("a.b.c.github.com", "block"),
            ("notgithub.com", "allow"),
            ("github.com.example", "allow"),
            ("github.co", "allow"),
            ("com", "allow"),
            (r"evil\.github.com", "allow"),
            (r"x.\103ithub.com", "block"),
        ],
    );
}

#[test]
fn an_equals_sign_means_that_name_only() {
    check_names(
        &policy(&["=github.com"], &[]),
        &[("github.com", "block"), ("api.github.com", "allow")],
    );
}

#[test]
fn a_star_means_everything_below_and_not_the_name_itself() {
    check_names(
        &policy(&["*.github.com"], &[]),
        &[
            ("github.com", "allow"),
            ("api.github.com", "block"),
            ("a.b.github.com", "block"),
        ],
    );
}

#[test]
fn a_name_that_idna_does_not_know_is_shown_as_the_pattern_that_blocks_it() {
    // No Punycode, Punycode of a capital letter, letters that run in
    // both directions.
    for labels in [
        &[&b"xn--a"[..], b"com"][..],
        &[b"xn---", b"com"],
        &[b"xn--a-kfa", b"com"],
        &[b"xn--4dbcagdahymbxekheh6e0a7fei0b", b"1a"],
    ] {
        let name = Domain::from_labels(labels.iter().copied()).unwrap();
        let shown = name.to_string();
        assert!(shown.starts_with(r"\xn--"), "{shown}");
        check_names(&policy(&[&shown], &[]), &[(&shown, "block")]);
    }
    let known = Domain::parse("bücher.example").unwrap();
    assert_eq!(known.to_string(), "xn--bcher-kva.example");
}

#[test]
fn names_are_compared_after_idna_in_both_spellings() {
    for pattern in [
        "BÜCHER.example",
        "xn--bcher-kva.example",
        "bücher。example.",
    ] {
        check_names(
            &policy(&[pattern], &[]),
            &[
                ("bücher.example", "block"),
                ("XN--BCHER-KVA.example", "block"),
                ("ｂücher.example", "block"),
                ("bucher.example", "allow"),
                // Cyrillic о: a look-alike is another name.
                ("bücher.examplе", "allow"),
            ],
        );
    }
    check_names(&policy(&["github.com"], &[]), &[("githuЬ.com", "allow")]);
}

#[test]
fn names_are_compared_as_wire_labels() {
    let policy = policy(&["github.com", r"a\.b.example", "_dmarc.example"], &[]);
    for (labels, verdict) in [
        (&[&b"GITHUB"[..], b"cOm"][..], "block"),
        (&[b"github.com"], "allow"),
        (&[b"x.github", b"com"], "allow"),
        (&[b"x", b"a.b", b"example"], "block"),
        (&[b"a", b"b", b"example"], "allow"),
        (&[b"_DMARC", b"example"], "block"),
        (&[b"\x00", b"\xff", b"github", b"com"], "block"),
        (&[], "allow"),
    ] {
        let name = Domain::from_labels(labels.iter().copied()).unwrap();
        assert_eq!(word(&policy.name(&name, &[])), verdict, "{name}");
    }
}

#[test]
fn the_longest_match_wins_and_on_a_tie_block() {
    check_names(
        &policy(
            &["github.com", "x.api.github.com", "tie.example"],
            &["api.github.com", "tie.example", "=tie.example"],
        ),
        &[
            ("github.com", "block"),
            ("api.github.com", "allow"),
            ("y.api.github.com", "allow"),
            ("x.api.github.com", "block"),
            ("tie.example", "block"),
            ("a.tie.example", "block"),
        ],
    );
    check_addresses(
        &policy(
            &["10.0.0.0/8", "10.1.2.0/24", "192.0.2.0/24"],
            &["10.1.0.0/16", "192.0.2.0/24"],
        ),
        &[
            ("10.9.9.9", "block"),
            ("10.1.9.9", "allow"),
            ("10.1.2.9", "block"),
            ("192.0.2.1", "block"),
            ("198.51.100.1", "no rule"),
        ],
    );
}

#[test]
fn the_default_is_block_if_an_allow_rule_is_more_than_an_exception() {
    for (block, allow, expected) in [
        (&[][..], &[][..], Action::Allow),
        (&["github.com"], &[], Action::Allow),
        (&[], &["github.com"], Action::Block),
        (&["github.com"], &["api.github.com"], Action::Allow),
        (&["github.com"], &["=github.com"], Action::Allow),
        (&["*.github.com"], &["api.github.com"], Action::Allow),
        (&["*.github.com"], &["github.com"], Action::Block),
        (&["*.github.com"], &["*.github.com"], Action::Allow),
        (&["=github.com"], &["github.com"], Action::Block),
        (&["=github.com"], &["=github.com"], Action::Allow),
        (&["github.com"], &["gitlab.com"], Action::Block),
        (
            &["github.com"],
            &["api.github.com", "gitlab.com"],
            Action::Block,
        ),
        (&["github.com"], &["10.0.0.0/8"], Action::Block),
        (&["10.0.0.0/8"], &["10.1.0.0/16"], Action::Allow),
        (&["10.0.0.0/8"], &["11.0.0.0/16"], Action::Block),
        (&["github.com:22"], &["api.github.com"], Action::Allow),
        (&["github.com:22-80"], &["api.github.com:80"], Action::Allow),
        (&["github.com:22"], &["api.github.com:443"], Action::Block),
        (&["github.com/udp"], &["api.github.com/tcp"], Action::Block),
        // What is allowed anyway can only be acknowledged.
        (&[], &["/run/docker.sock", "@name"], Action::Allow),
        (&[], &["127.0.0.1:8080", "[::1]:8080/tcp"], Action::Allow),
        (&[], &["127.0.0.0/8", "::", "0.0.0.0"], Action::Allow),
        (&[], &["localhost:8080"], Action::Allow),
        (&[], &["my.localhost"], Action::Block),
        (&[], &["126.0.0.0/7"], Action::Block),
        (&[], &["192.0.2.1:8080"], Action::Block),
        (&["github.com"], &["/run/docker.sock"], Action::Allow),
        (&[], &["/run/docker.sock", "github.com"], Action::Block),
    ] {
        let found = policy(block, allow).default_action();
        assert_eq!(found, expected, "block {block:?}, allow {allow:?}");
    }
}

#[test]
fn a_socket_is_acknowledged_in_every_spelling_of_its_path_and_no_other() {
    let policy = policy(&[], &["/var/run//docker.sock", "/srv/./a b.sock/", "@name"]);
    for (socket, rule) in [
        (path(b"/run/docker.sock"), Some("/var/run//docker.sock")),
        (
            path(b"//var/./run/docker.sock"),
            Some("/var/run//docker.sock"),
        ),
        (path(b"/srv/a b.sock"), Some("/srv/./a b.sock/")),
        (UnixSocket::Abstract(b"name".to_vec()), Some("@name")),
        (UnixSocket::Abstract(b"name\0".to_vec()), None),
        (path(b"name"), None),
        (path(b"run/docker.sock"), None),
        (path(b"/run/docker.sock2"), None),
        (path(b"/run/docker.sock/x"), None),
        (path(b"/run"), None),
        (path(b"/srv/var/run/docker.sock"), None),
        (path(b"/srv/../run/docker.sock"), None),
        (path(b"/RUN/docker.sock"), None),
    ] {
        let found = source(policy.acknowledges_socket(&socket));
        let rule = rule.map(|rule| format!("--allow {rule}"));
        assert_eq!(found, rule.as_deref(), "{socket:?}");
    }
}

#[test]
fn a_port_is_acknowledged_by_a_rule_for_just_that_address() {
    for (allow, address, transport, port, acknowledged) in [
        ("127.0.0.1:8080", "127.0.0.1", Transport::Tcp, 8080, true),
        ("127.0.0.1:8080", "127.0.0.1", Transport::Udp, 8080, true),
        (
            "127.0.0.1:8080/tcp",
            "127.0.0.1",
            Transport::Udp,
            8080,
            false,
        ),
        ("127.0.0.1:8080", "127.0.0.1", Transport::Tcp, 8081, false),
        ("127.0.0.1:8080", "127.0.0.2", Transport::Tcp, 8080, false),
        ("127.0.0.1:8080", "::1", Transport::Tcp, 8080, false),
        (
            "127.0.0.1:8080",
            "::ffff:127.0.0.1",
            Transport::Tcp,
            8080,
            true,
        ),
        // connect(2) takes the unspecified address for loopback.
        ("127.0.0.1:8080", "0.0.0.0", Transport::Tcp, 8080, true),
        ("0.0.0.0:8080", "0.0.0.0", Transport::Tcp, 8080, true),
        ("[::1]:8080", "::", Transport::Tcp, 8080, true),
        ("127.0.0.1", "127.0.0.1", Transport::Tcp, 8080, true),
        ("127.0.0.0/8:8080", "127.0.0.9", Transport::Tcp, 8080, true),
        ("localhost:8080", "127.0.0.1", Transport::Tcp, 8080, true),
        ("localhost:8080", "::", Transport::Tcp, 8080, true),
        ("localhost:8080", "192.0.2.1", Transport::Tcp, 8080, false),
        ("192.0.2.1:8080", "192.0.2.1", Transport::Tcp, 8080, true),
        // Whoever allows a network does not think of what listens on this host.
        (
            "192.0.2.0/24:8080",
            "192.0.2.1",
            Transport::Tcp,
            8080,
            false,
        ),
        ("0.0.0.0/0", "127.0.0.1", Transport::Tcp, 8080, false),
        ("/run/docker.sock", "127.0.0.1", Transport::Tcp, 8080, false),
    ] {
        let policy = policy(&[], &[allow]);
        let found = policy.acknowledges_port(ip(address), transport, port);
        let expected = acknowledged.then(|| format!("--allow {allow}"));
        assert_eq!(
            source(found),
            expected.as_deref(),
            "{allow} {address} {port}"
        );
    }
    let blocking = policy(&["127.0.0.1:8080"], &[]);
    let found = blocking.acknowledges_port(ip("127.0.0.1"), Transport::Tcp, 8080);
    assert_eq!(found, None);
}

#[test]
fn a_socket_is_not_blocked_by_a_rule_and_has_a_name() {
    let long = format!("/{}", "a".repeat(108));
    for (text, action, error) in [
        (
            "/run/docker.sock",
            Action::Block,
            ParseRuleError::BlockedSocket,
        ),
        ("@name", Action::Block, ParseRuleError::BlockedSocket),
        ("/run/../x", Action::Allow, ParseRuleError::SocketParent),
        ("/", Action::Allow, ParseRuleError::SocketLength),
        ("//.//", Action::Allow, ParseRuleError::SocketLength),
        ("@", Action::Allow, ParseRuleError::SocketLength),
        (&long, Action::Allow, ParseRuleError::SocketLength),
    ] {
        let found = Rule::parse(text, action, Source::default());
        assert_eq!(found, Err(error), "{text}");
    }
    assert!(Rule::parse(&long[..108], Action::Allow, Source::default()).is_ok());
    let refusal = ParseRuleError::BlockedSocket.to_string();
    assert!(refusal.contains("--strict"), "{refusal}");
}

#[test]
fn a_stated_default_needs_no_inference() {
    let policy = Policy::new(
        rules(&[], &["github.com"]),
        Some(Action::Allow),
        None,
        Vec::new(),
    );
    check_names(&policy, &[("example.com", "allow")]);
    let policy = Policy::new(
        rules(&["github.com"], &[]),
        Some(Action::Block),
        None,
        Vec::new(),
    );
    check_names(&policy, &[("example.com", "block")]);
}

#[test]
fn an_alias_of_a_blocked_name_is_blocked_and_named() {
    let policy = policy(&["github.com"], &["github.com.cdn.example", "my.example"]);
    let chain = ["a.example", "www.github.com", "b.github.com"].map(domain);
    let judgement = policy.name(&domain("my.example"), &chain);
    assert!(judgement.is_blocked());
    assert_eq!(
        source(judgement.rule.as_ref()),
        Some("--block github.com"),
        "the rule of the alias"
    );
    assert_eq!(judgement.matched, Some(domain("www.github.com")));
}

#[test]
fn an_alias_is_not_judged_by_the_default_nor_allowed_by_a_rule() {
    let policy = policy(&[], &["my.example", "cdn.example"]);
    let allowed = policy.name(&domain("my.example"), &[domain("host.provider.example")]);
    assert_eq!(word(&allowed), "allow");
    let blocked = policy.name(&domain("other.example"), &[domain("cdn.example")]);
    assert_eq!(word(&blocked), "block");
    assert_eq!(blocked.rule, None);
}

#[test]
fn the_blocked_question_is_named_before_its_blocked_alias() {
    let policy = policy(&["github.com", "gitlab.com"], &[]);
    let judgement = policy.name(&domain("github.com"), &[domain("gitlab.com")]);
    assert_eq!(source(judgement.rule.as_ref()), Some("--block github.com"));
    assert_eq!(judgement.matched, None);
}

#[test]
fn an_alias_that_an_exception_allows_does_not_block() {
    let policy = policy(&["cdn.example"], &["good.cdn.example"]);
    for (alias, verdict) in [("good.cdn.example", "allow"), ("bad.cdn.example", "block")] {
        let judgement = policy.name(&domain("my.example"), &[domain(alias)]);
        assert_eq!(word(&judgement), verdict, "{alias}");
    }
}

#[test]
fn a_blocked_name_with_a_search_suffix_is_blocked_too() {
    let search = vec![domain("corp.example"), domain("example")];
    let policy = Policy::new(rules(&["github.com"], &[]), None, None, search);
    let judgement = policy.name(&domain("api.github.com.corp.example"), &[]);
    assert!(judgement.is_blocked());
    assert_eq!(judgement.matched, Some(domain("api.github.com")));
    check_names(
        &policy,
        &[
            ("github.com.example", "block"),
            ("github.com.other.example", "allow"),
            ("corp.example", "allow"),
            ("github.comcorp.example", "allow"),
        ],
    );
}

#[test]
fn ports_and_protocols_limit_a_rule() {
    let policy = policy(&["github.com:22-23/tcp", "github.com:53/udp"], &[]);
    let judgement = policy.name(&domain("github.com"), &[]);
    assert!(!judgement.is_blocked());
    for (transport, port, action) in [
        (Transport::Tcp, 21, Action::Allow),
        (Transport::Tcp, 22, Action::Block),
        (Transport::Tcp, 23, Action::Block),
        (Transport::Tcp, 24, Action::Allow),
        (Transport::Udp, 22, Action::Allow),
        (Transport::Udp, 53, Action::Block),
        (Transport::Other, 22, Action::Allow),
    ] {
        let decision = judgement.at(transport, port);
        assert_eq!(decision.action, action, "{transport:?} {port}");
        assert_eq!(judgement.ports.at(transport, port), action);
        assert_eq!(decision.rule.is_some(), action == Action::Block);
    }
    assert_eq!(
        judgement.ports.ranges(Transport::Tcp, Action::Allow),
        [0..=21, 24..=65535]
    );
    assert_eq!(
        judgement.ports.ranges(Transport::Tcp, Action::Block),
        [22..=23]
    );
    assert_eq!(
        judgement.ports.ranges(Transport::Other, Action::Allow),
        [0..=65535]
    );
    assert!(
        judgement
            .ports
            .ranges(Transport::Other, Action::Block)
            .is_empty()
    );
}

#[test]
fn a_rule_without_ports_speaks_of_everything_and_with_a_protocol_of_that_only() {
    let tcp = policy(&["github.com/tcp"], &[]);
    let judgement = tcp.name(&domain("github.com"), &[]);
    assert_eq!(judgement.ports.at(Transport::Tcp, 1), Action::Block);
    assert_eq!(judgement.ports.at(Transport::Udp, 1), Action::Allow);
    assert_eq!(judgement.ports.at(Transport::Other, 0), Action::Allow);
    let all = policy(&["github.com"], &[]);
    let judgement = all.name(&domain("github.com"), &[]);
    assert_eq!(judgement.ports.at(Transport::Other, 0), Action::Block);
}

#[test]
fn the_named_rule_is_one_that_decides() {
    let policy = policy(
        &["github.com:443"],
        &["api.github.com:443", "other.example"],
    );
    let judgement = policy.name(&domain("api.github.com"), &[]);
    assert_eq!(
        source(judgement.rule.as_ref()),
        Some("--allow api.github.com:443"),
        "the block rule is shadowed"
    );
    let decision = judgement.at(Transport::Tcp, 80);
    assert_eq!((decision.action, decision.rule), (Action::Block, None));
}

#[test]
fn direct_addresses_follow_the_default_unless_it_is_said_outright() {
    for (default, direct_ip, public, private) in [
        (Action::Allow, None, Action::Allow, Action::Allow),
        (Action::Block, None, Action::Block, Action::Block),
        (
            Action::Allow,
            Some(DirectIp::Block),
            Action::Block,
            Action::Block,
        ),
        (
            Action::Allow,
            Some(DirectIp::Private),
            Action::Block,
            Action::Allow,
        ),
        (
            Action::Block,
            Some(DirectIp::Allow),
            Action::Allow,
            Action::Allow,
        ),
    ] {
        let policy = Policy::new(Vec::new(), Some(default), direct_ip, Vec::new());
        let said = format!("default {default:?}, direct {direct_ip:?}");
        assert_eq!(policy.unresolved(ip("203.0.113.1")), public, "{said}");
        assert_eq!(policy.unresolved(ip("10.0.0.1")), private, "{said}");
        for own in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "::ffff:127.0.0.1",
        ] {
            assert_eq!(policy.unresolved(ip(own)), Action::Allow, "{own}, {said}");
        }
    }
}

#[test]
fn own_addresses_are_allowed_and_on_link_ones_are_private() {
    let policy = Policy::new(
        Vec::new(),
        Some(Action::Block),
        Some(DirectIp::Private),
        Vec::new(),
    )
    .with_host(
        [ip("203.0.113.7")],
        vec!["203.0.113.64/26".parse().unwrap()],
    );
    for (address, action) in [
        ("203.0.113.7", Action::Allow),
        ("::ffff:203.0.113.7", Action::Allow),
        ("203.0.113.8", Action::Block),
        ("203.0.113.65", Action::Allow),
    ] {
        assert_eq!(policy.unresolved(ip(address)), action, "{address}");
    }
}

#[test]
fn private_is_what_the_design_lists() {
    for (address, private) in [
        ("10.0.0.0", true),
        ("172.15.255.255", false),
        ("172.16.0.0", true),
        ("172.31.255.255", true),
        ("172.32.0.0", false),
        ("192.168.1.1", true),
        ("100.63.255.255", false),
        ("100.64.0.0", true),
        ("100.127.255.255", true),
        ("100.128.0.0", false),
        ("169.254.169.254", true),
        ("fe80::1", true),
        ("fec0::1", false),
        ("fc00::1", true),
        ("fdff::1", true),
        ("fe00::1", false),
        ("::ffff:10.1.1.1", true),
        ("::ffff:8.8.8.8", false),
        ("8.8.8.8", false),
    ] {
        assert_eq!(is_private(ip(address)), private, "{address}");
    }
}

#[test]
fn an_address_is_judged_in_whatever_form_it_arrives() {
    check_addresses(
        &policy(&["198.51.100.0/24"], &[]),
        &[
            ("198.51.100.1", "block"),
            ("::ffff:198.51.100.1", "block"),
            ("::198.51.100.1", "no rule"),
        ],
    );
    check_addresses(
        &policy(&["::ffff:198.51.100.0/120", "::ffff:192.0.2.1"], &[]),
        &[("198.51.100.1", "block"), ("192.0.2.1", "block")],
    );
    check_addresses(
        &policy(&["::/0"], &[]),
        &[("2001:db8::1", "block"), ("192.0.2.1", "no rule")],
    );
}

#[test]
fn an_address_rule_for_one_port_leaves_the_others_to_direct_ip() {
    for (default, elsewhere) in [
        (Action::Allow, Action::Allow),
        (Action::Block, Action::Block),
    ] {
        let rules = rules(&[], &["198.51.100.1:443"]);
        let policy = Policy::new(rules, Some(default), None, Vec::new());
        let judgement = policy.address(ip("198.51.100.1")).unwrap();
        assert_eq!(judgement.ports.at(Transport::Tcp, 443), Action::Allow);
        assert_eq!(judgement.ports.at(Transport::Tcp, 80), elsewhere);
    }
}

#[test]
fn through_a_name_an_address_is_judged_by_both() {
    let both = Policy::new(
        rules(&["198.51.100.0/24"], &["my.example:443", "192.0.2.0/24:22"]),
        Some(Action::Block),
        None,
        Vec::new(),
    );
    let qname = domain("my.example");
    let name = both.name(&qname, &[]);
    for (address, port, action, rule) in [
        (
            "203.0.113.1",
            443,
            Action::Allow,
            Some("--allow my.example:443"),
        ),
        ("203.0.113.1", 22, Action::Block, None),
        (
            "192.0.2.1",
            443,
            Action::Allow,
            Some("--allow my.example:443"),
        ),
        (
            "192.0.2.1",
            22,
            Action::Allow,
            Some("--allow 192.0.2.0/24:22"),
        ),
        ("192.0.2.1", 80, Action::Block, None),
        (
            "198.51.100.1",
            443,
            Action::Block,
            Some("--block 198.51.100.0/24"),
        ),
    ] {
        let judgement = both.through_name(&qname, &name, ip(address)).unwrap();
        let decision = judgement.at(Transport::Tcp, port);
        assert_eq!(
            (decision.action, source(decision.rule)),
            (action, rule),
            "{address}:{port}"
        );
    }
}

#[test]
fn a_link_local_answer_is_pinned_only_for_an_exactly_named_rule() {
    for (allow, pinned) in [
        ("=metadata.internal.example", true),
        ("metadata.internal.example", true),
        ("internal.example", false),
        ("*.internal.example", false),
    ] {
        let policy = policy(&[], &[allow]);
        let qname = domain("metadata.internal.example");
        let name = policy.name(&qname, &[]);
        for address in ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254"] {
            let judgement = policy.through_name(&qname, &name, ip(address));
            assert_eq!(judgement.is_some(), pinned, "{allow} {address}");
        }
        let ordinary = policy.through_name(&qname, &name, ip("10.0.0.1"));
        assert!(ordinary.is_some_and(|judgement| !judgement.is_blocked()));
    }
    let open = policy(&["github.com"], &[]);
    let qname = domain("example.com");
    let name = open.name(&qname, &[]);
    assert_eq!(open.through_name(&qname, &name, ip("169.254.1.1")), None);
}

#[test]
fn networks_and_blocked_names_are_listed_once() {
    let policy = policy(
        &[
            "10.0.0.0/8",
            "10.0.0.0/8:22",
            "github.com:22",
            "github.com",
            "*.below.example",
        ],
        &["10.0.0.0/8", "11.0.0.0/8", "allowed.example"],
    );
    let mut networks: Vec<String> = policy
        .networks()
        .iter()
        .map(|(net, _)| net.to_string())
        .collect();
    networks.sort();
    let nat64 = ["64:ff9b::a00:0/104", "64:ff9b::b00:0/104"];
    assert_eq!(
        networks,
        [&["10.0.0.0/8", "11.0.0.0/8"], &nat64[..]].concat()
    );
    let names: Vec<&Domain> = policy.blocked_names().collect();
    assert_eq!(names, [&domain("github.com")]);
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn patterns_are_parsed_in_every_spelling() {
    let net = |text: &str| Pattern::Network(text.parse().unwrap());
    let name = |text: &str, scope| Pattern::Domain {
        name: domain(text),
        scope,
    };
    for (text, pattern, ports, transport) in [
        ("github.com", name("github.com", Scope::Subtree), None, None),
        (
            " GitHub.com. ",
            name("github.com", Scope::Subtree),
            None,
            None,
        ),
        (
            "=github.com:22",
            name("github.com", Scope::Exact),
            Some(22..=22),
            None,
        ),
        (
            "*.github.com:1-65535/tcp",
            name("github.com", Scope::Below),
            Some(1..=65535),
            Some(Transport::Tcp),
        ),
        (
            "com/udp",
            name("com", Scope::Subtree),
            None,
            Some(Transport::Udp),
        ),
        (
            "com/UDP",
            name("com", Scope::Subtree),
            None,
            Some(Transport::Udp),
        ),
        (
            "1and1.example",
            name("1and1.example", Scope::Subtree),
            None,
            None,
        ),
        (
            "_dmarc.example",
            name("_dmarc.example", Scope::Subtree),
            None,
            None,
        ),
        ("10.0.0.1", net("10.0.0.1/32"), None, None),
        (
            "10.0.0.1:443/tcp",
            net("10.0.0.1/32"),
            Some(443..=443),
            Some(Transport::Tcp),
        ),
        ("10.0.0.0/8", net("10.0.0.0/8"), None, None),
        (
            "10.0.0.0/8/udp",
            net("10.0.0.0/8"),
            None,
            Some(Transport::Udp),
        ),
        ("10.0.0.0/8:22-23", net("10.0.0.0/8"), Some(22..=23), None),
        ("0.0.0.0/0", net("0.0.0.0/0"), None, None),
        ("::1", net("::1/128"), None, None),
        ("::", net("::/128"), None, None),
        ("2001:DB8::/32", net("2001:db8::/32"), None, None),
        (
            "2001:db8::/32/tcp",
            net("2001:db8::/32"),
            None,
            Some(Transport::Tcp),
        ),
        ("[::1]", net("::1/128"), None, None),
        (
            "[::1]:443/tcp",
            net("::1/128"),
            Some(443..=443),
            Some(Transport::Tcp),
        ),
        ("[2001:db8::]/32", net("2001:db8::/32"), None, None),
        (
            "[2001:db8::]/32:443",
            net("2001:db8::/32"),
            Some(443..=443),
            None,
        ),
        ("[2001:db8::/32]", net("2001:db8::/32"), None, None),
        (
            "[2001:db8::/32]:443",
            net("2001:db8::/32"),
            Some(443..=443),
            None,
        ),
        (
            "[2001:db8::/32]/tcp",
            net("2001:db8::/32"),
            None,
            Some(Transport::Tcp),
        ),
        (
            "[2001:db8::]/32:1-2/udp",
            net("2001:db8::/32"),
            Some(1..=2),
            Some(Transport::Udp),
        ),
        ("::ffff:10.0.0.1", net("10.0.0.1/32"), None, None),
        (
            "[::ffff:10.0.0.0/104]:22",
            net("10.0.0.0/8"),
            Some(22..=22),
            None,
        ),
    ] {
        let parsed = rule(text, Action::Block);
        assert_eq!(
            (parsed.pattern, parsed.ports, parsed.transport),
            (pattern, ports, transport),
            "{text}"
        );
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn what_cannot_be_parsed_is_an_error_that_says_why() {
    let long = "a".repeat(64);
    let longest = format!("{}example", "a.".repeat(125));
    let absurd = "ü".repeat(1_000_000);
    for (text, why) in [
        ("", "at least one label"),
        (".", "at least one label"),
        ("=", "at least one label"),
        ("*.", "at least one label"),
        (":443", "at least one label"),
        ("a..b", "at least one label"),
        (".github.com", "at least one label"),
        ("*", "`*` stands for whole labels"),
        ("*github.com", "`*` stands for whole labels"),
        ("api.*.com", "`*` stands for whole labels"),
        ("*.*.com", "`*` stands for whole labels"),
        ("=*.github.com", "`*` stands for whole labels"),
        ("==github.com", "not a valid"),
        ("git hub.com", "not a valid"),
        ("github.com\u{0}", "not a valid"),
        ("github,com", "not a valid"),
        ("user@github.com", "not a valid"),
        ("xn--a.com", "not a valid"),
        ("\u{202e}moc.buhtig", "not a valid"),
        (r"a\256.com", "an escape is"),
        (r"a\1.com", "an escape is"),
        (r"a\", "an escape is"),
        (r"ü\046.com", "not a valid"),
        (&long, "63 octets"),
        (&longest, "255 octets"),
        (&absurd, "255 octets"),
        ("https://github.com/a", "a URL is not a pattern"),
        ("github.com/", "`` is not a protocol"),
        ("github.com/sctp", "`sctp` is not a protocol"),
        ("github.com/443", "not an address or a CIDR"),
        ("github.com:", "`` is not a port"),
        ("github.com:0", "`0` is not a port"),
        ("github.com:65536", "`65536` is not a port"),
        ("github.com:+1", "`+1` is not a port"),
        ("github.com:9-1", "`9-1` is not a port"),
        ("github.com:1-", "`1-` is not a port"),
        ("github.com:-1", "`-1` is not a port"),
        ("github.com:https", "`https` is not a port"),
        ("1.2.3", "`1.2.3` is not an address or a CIDR"),
        ("1.2.3.400", "not an address or a CIDR"),
        ("1.2.3.4.", "not an address or a CIDR"),
        ("１.２.３.４", "not an address or a CIDR"),
        ("0x7f000001", "not an address or a CIDR"),
        ("10.0.0.0/33", "not an address or a CIDR"),
        ("10.0.0.0/8/8", "not an address or a CIDR"),
        ("fe80::1%eth0", "not an address or a CIDR"),
        ("[::1", "`[::1` is not an address or a CIDR"),
        ("[::1]443", "not an address or a CIDR"),
        ("[2001:db8::/32]/32", "not an address or a CIDR"),
        ("[github.com]:443", "not an address or a CIDR"),
        ("[]:443", "not an address or a CIDR"),
        ("10.0.0.1/8", "write 10.0.0.0/8 for the network"),
        ("2001:db8::1/32", "write 2001:db8::/32 for the network"),
    ] {
        let error = Rule::parse(text, Action::Block, Source::default())
            .expect_err(text)
            .to_string();
        assert!(error.contains(why), "{text:.99}: {error}");
    }
}

#[test]
fn the_limits_of_names_are_those_of_rfc_1035() {
    let label = "a".repeat(63);
    assert!(Domain::parse(&format!("{label}.com")).is_ok());
    let text = |last: usize| format!("{label}.{label}.{label}.{}", "b".repeat(last));
    let name = domain(&text(61));
    assert_eq!(name.as_wire().len() + 1, 255);
    assert_eq!(Domain::parse(&text(62)), Err(DomainError::NameTooLong));
}

#[test]
fn a_name_is_displayed_without_anything_a_terminal_obeys() {
    for (labels, text) in [
        (&[&b"github"[..], b"com"][..], "github.com"),
        (&[b"a.b", b"com"], r"a\.b.com"),
        (&[b"\x1b[31m", b"c\\\""], r"\027\09131m.c\\\034"),
        (&[b" \x7f\x9b\xe2\x80\xae"], r"\032\127\155\226\128\174"),
        (&[], "."),
    ] {
        let name = Domain::from_labels(labels.iter().copied()).unwrap();
        assert_eq!(name.to_string(), text);
    }
}

#[test]
fn a_suffix_is_cut_at_labels_only() {
    for (name, suffix, rest) in [
        ("a.corp.example", "corp.example", Some("a")),
        ("corp.example", "corp.example", None),
        ("acorp.example", "corp.example", None),
        ("example", "corp.example", None),
    ] {
        let found = domain(name).strip_suffix(&domain(suffix));
        assert_eq!(found, rest.map(domain), "{name} {suffix}");
    }
    assert!(!domain("a.example").is_within(&domain("xample")));
}

#[test]
fn protocol_numbers_are_those_of_iana() {
    for (number, transport) in [
        (6, Transport::Tcp),
        (17, Transport::Udp),
        (136, Transport::Udp),
        (1, Transport::Other),
        (58, Transport::Other),
        (132, Transport::Other),
    ] {
        assert_eq!(Transport::from_protocol(number), transport, "{number}");
    }
}

#[test]
fn the_longest_network_has_its_verdict_whatever_its_base_address() {
    let policy = policy(&["10.0.0.0/16"], &["10.0.0.0/8"]);
    let verdicts: Vec<_> = policy
        .networks()
        .into_iter()
        .map(|(net, ports)| (net.to_string(), ports.uniform()))
        .collect();
    assert_eq!(
        verdicts,
        [
            ("10.0.0.0/8".to_owned(), Some(Action::Allow)),
            ("10.0.0.0/16".to_owned(), Some(Action::Block)),
            ("64:ff9b::a00:0/104".to_owned(), Some(Action::Allow)),
            ("64:ff9b::a00:0/112".to_owned(), Some(Action::Block)),
        ]
    );
}

#[test]
fn private_networks_are_known_beforehand_where_only_they_are_allowed() {
    let own = "203.0.113.7".parse().unwrap();
    let policy = Policy::new(
        Vec::new(),
        Some(Action::Block),
        Some(DirectIp::Private),
        Vec::new(),
    )
    .with_host([own], vec!["198.51.100.0/24".parse().unwrap()]);
    let networks = policy.networks();
    for net in [
        "10.0.0.0/8",
        "fc00::/7",
        "203.0.113.7/32",
        "198.51.100.0/24",
    ] {
        let net: IpNet = net.parse().unwrap();
        let found = networks.iter().find(|(known, _)| *known == net);
        let verdict = found.and_then(|(_, ports)| ports.uniform());
        assert_eq!(verdict, Some(Action::Allow), "{net}");
    }
}

#[test]
fn a_rule_for_one_port_of_everything_opens_nothing_else() {
    for (allow, v4_port) in [
        ("0.0.0.0/0:443", Action::Allow),
        ("[::/0]:443", Action::Block),
    ] {
        let policy = policy(&[], &[allow]);
        let networks = policy.networks();
        let at = |net: &str, port| {
            let net: IpNet = net.parse().unwrap();
            let (_, ports) = networks.iter().find(|(known, _)| *known == net).unwrap();
            ports.at(Transport::Tcp, port)
        };
        assert_eq!(at("0.0.0.0/0", 443), v4_port, "{allow}");
        assert_eq!(at("0.0.0.0/0", 22), Action::Block, "{allow}");
        assert_eq!(at("127.0.0.0/8", 22), Action::Allow, "{allow}");
    }
}

#[test]
fn a_rule_on_a_v4_network_holds_behind_nat64_too() {
    let policy = policy(&["192.0.2.0/24"], &["192.0.2.7"]);
    let verdict = |address| {
        let judgement = policy.address(ip(address))?;
        Some(judgement.decision().action)
    };
    for (address, expected) in [
        ("192.0.2.1", Some(Action::Block)),
        ("64:ff9b::192.0.2.1", Some(Action::Block)),
        ("64:ff9b::192.0.2.7", Some(Action::Allow)),
        ("64:ff9b::192.0.3.1", None),
        // Not the well-known prefix, and not an embedding at all.
        ("64:ff9b:1::192.0.2.1", None),
        ("::192.0.2.1", None),
        ("2002:c000:201::1", None),
    ] {
        assert_eq!(verdict(address), expected, "{address}");
    }
    let translated = nat64(Ipv4Addr::new(192, 0, 2, 33));
    assert_eq!(ip("64:ff9b::c000:221"), translated, "RFC 6052 section 2.4");
}

fn listed(block: &[&str], allow: &[&str]) -> Names {
    let mut names = Names::default();
    for (list, patterns) in [(Action::Block, block), (Action::Allow, allow)] {
        names.begin(Arc::new(Place {
            name: "list.txt".to_owned(),
            list: Some(list),
            ..Place::default()
        }));
        for (line, pattern) in (1..).zip(patterns) {
            // `!` for an exception that the list makes for itself.
            let (pattern, action) = match (pattern.strip_prefix('!'), list) {
                (None, list) => (*pattern, list),
                (Some(pattern), Action::Block) => (pattern, Action::Allow),
                (Some(pattern), Action::Allow) => (pattern, Action::Block),
            };
            let Pattern::Domain { name, scope } = rule(pattern, action).pattern else {
                panic!("{pattern} is no domain");
            };
            names.add(name.as_wire(), scope, action, line).unwrap();
        }
    }
    names
}

#[test]
fn names_of_lists_are_judged_together_with_rules() {
    let policy = Policy::new(
        Rules {
            rules: rules(&["deep.api.bad.test"], &["ok.bad.test"]),
            names: listed(
                &["bad.test", "=one.test", "*.below.test", "!fine.bad.test"],
                &["api.bad.test"],
            ),
        },
        None,
        None,
        Vec::new(),
    );
    assert_eq!(policy.default_action(), Action::Allow);
    check_names(
        &policy,
        &[
            ("bad.test", "block"),
            ("x.bad.test", "block"),
            ("api.bad.test", "allow"),
            ("x.deep.api.bad.test", "block"),
            ("ok.bad.test", "allow"),
            ("x.fine.bad.test", "allow"),
            ("one.test", "block"),
            ("x.one.test", "allow"),
            ("below.test", "allow"),
            ("x.below.test", "block"),
            ("test", "allow"),
        ],
    );
    let judgement = policy.name(&domain("x.below.test"), &[]);
    assert_eq!(judgement.rule.unwrap().cite(), "list.txt:3: *.below.test");
    // Only what is given one by one is looked up beforehand.
    let blocked: Vec<String> = policy.blocked_names().map(ToString::to_string).collect();
    assert_eq!(blocked, ["deep.api.bad.test"]);
}

#[test]
fn an_allow_list_blocks_the_rest_unless_it_is_one_of_exceptions() {
    use Action::{Allow, Block};
    let default = |block: &[&str], allow: &[&str], names: Names| {
        let rules = rules(block, allow);
        Policy::new(Rules { rules, names }, None, None, Vec::new()).default_action()
    };
    for (block, allow, listed, expected) in [
        (&[][..], &[][..], listed(&["a.test"], &[]), Allow),
        (&[], &[], listed(&["a.test", "!b.test"], &[]), Allow),
        (&[], &[], listed(&[], &["a.test"]), Block),
        (&[], &[], listed(&[], &["!a.test"]), Allow),
        (&["test"], &[], listed(&[], &["a.test"]), Allow),
        (&["test"], &[], listed(&[], &["a.test", "b.example"]), Block),
        (&["a.test:22"], &[], listed(&[], &["a.test"]), Allow),
        (&[], &["x.a.test"], listed(&["a.test"], &[]), Allow),
        (&[], &["x.a.test"], listed(&["=a.test"], &[]), Block),
        (&[], &[], listed(&["*.a.test"], &["a.test"]), Block),
        (&[], &[], listed(&["*.a.test"], &["=x.a.test"]), Allow),
        (&[], &[], listed(&[], &["=localhost"]), Allow),
    ] {
        assert_eq!(
            default(block, allow, listed),
            expected,
            "{block:?} {allow:?}"
        );
    }
}

#[test]
fn of_rules_that_say_the_same_the_one_with_an_owner_is_named() {
    let owned = |text: &str| {
        let mut rule = rule(text, Action::Block);
        let place = Place {
            name: "policy.toml".to_owned(),
            owner: Some("team".to_owned()),
            ..Place::default()
        };
        rule.source.place = Arc::new(place);
        rule
    };
    let plain = ["github.com", "192.0.2.0/24"].map(|text| rule(text, Action::Block));
    let owned = ["github.com", "192.0.2.0/24"].map(owned);
    for rules in [[plain.clone(), owned.clone()], [owned, plain.clone()]] {
        let policy = Policy::new(rules.concat(), None, None, Vec::new());
        let by_name = policy.name(&domain("x.github.com"), &[]).rule;
        let by_address = policy.address(ip("192.0.2.1")).unwrap().rule;
        assert_eq!(source(by_name.as_ref()), Some("policy.toml"));
        assert_eq!(source(by_address.as_ref()), Some("policy.toml"));
    }
    let [first, second] = ["--block a", "--block b"].map(|text| {
        let mut rule = plain[1].clone();
        rule.source = Source::argument(text);
        rule
    });
    let policy = Policy::new(vec![first, second], None, None, Vec::new());
    let named = policy.address(ip("192.0.2.1")).unwrap().rule;
    assert_eq!(source(named.as_ref()), Some("--block a"));
}
