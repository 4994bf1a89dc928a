//! What is blocked, and how that looks.

use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::lab::{Setup, Upstream, domain, ede, ip, policy, query, records};
use crate::event::Verdict;
use crate::policy::{Action, OnBlock, Place, Policy, Ports, Rule, Source, Transport};

const CHAIN: [&str; 4] = [
    "alias.test. 5 CNAME middle.test.",
    "middle.test. 5 CNAME www.github.com.",
    "www.github.com. 5 192.0.2.66",
    "www.github.com. 5 2001:db8::66",
];

#[tokio::test]
async fn a_blocked_name_does_not_exist_in_any_type_and_is_never_forwarded() {
    let upstream = Upstream::with_zone(&CHAIN).await;
    let lab = Setup::new(policy(&["github.com"], &[]), &[&upstream]).start();
    let types = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::TXT,
        RecordType::ANY,
        RecordType::NS,
        RecordType::HTTPS,
        RecordType::AXFR,
        RecordType::Unknown(65280),
    ];
    for record_type in types {
        for name in ["github.com.", "www.GitHub.com."] {
            let got = lab.ask(name, record_type).await;
            assert_eq!(got.metadata.response_code, ResponseCode::NXDomain);
            assert!(got.metadata.recursion_available);
            assert!(got.answers.is_empty());
            let text = "blocked by --block github.com".to_owned();
            assert_eq!(ede(&got), Some((15, text)));
        }
    }
    let got = lab.tcp(&query("github.com.", RecordType::A)).await;
    assert_eq!(got.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(got.edns, None, "a client without EDNS gets none");
    // The background asks for the addresses of the rule's name, and for nothing else.
    for (_, seen) in upstream.seen() {
        let asked = &seen.queries[0];
        assert_eq!(asked.name().to_ascii(), "github.com.");
        assert!(asked.query_type().is_ip_addr(), "{asked}");
    }
    assert!(lab.pins().is_empty());
    let queries = lab.queries();
    assert_eq!(queries.len(), 2 * types.len() + 1);
    for fact in queries {
        assert_eq!(fact.verdict, Verdict::Blocked);
        assert_eq!(fact.rule.unwrap().cite(), "--block github.com");
        assert_eq!(fact.rcode, "NXDOMAIN");
        assert_eq!((fact.upstream, fact.answers.len()), (None, 0));
    }
    lab.stop().await;
}

#[tokio::test]
async fn with_an_allow_list_everything_else_is_blocked() {
    let upstream = Upstream::with_zone(&["ok.test. 5 192.0.2.1"]).await;
    let lab = Setup::new(policy(&[], &["ok.test"]), &[&upstream]).start();
    let got = lab.ask("other.test.", RecordType::A).await;
    assert_eq!(got.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(ede(&got), Some((15, "not allowed by any rule".to_owned())));
    assert!(upstream.seen().is_empty());
    let got = lab.ask("ok.test.", RecordType::A).await;
    assert_eq!(got.answers, records(&["ok.test. 5 192.0.2.1"]));
    lab.stop().await;
}

#[tokio::test]
async fn an_alias_of_a_blocked_name_is_blocked_and_its_addresses_are_known() {
    let upstream = Upstream::with_zone(&CHAIN).await;
    let lab = Setup::new(policy(&["github.com"], &[]), &[&upstream]).start();
    let got = lab.ask("alias.test.", RecordType::AAAA).await;
    assert_eq!(got.metadata.response_code, ResponseCode::NXDomain);
    assert!(got.answers.is_empty());
    let text = "www.github.com is blocked by --block github.com";
    assert_eq!(ede(&got), Some((15, text.to_owned())));
    let pin = (
        "alias.test".to_owned(),
        vec![ip("2001:db8::66")],
        Ports::all(Action::Block),
    );
    assert_eq!(lab.pins(), [pin]);
    let fact = lab.queries().remove(0);
    assert_eq!(fact.verdict, Verdict::Blocked);
    assert_eq!(fact.matched, Some(domain("www.github.com")));
    let chain = [domain("middle.test"), domain("www.github.com")];
    assert_eq!(fact.cname_chain, chain);
    assert_eq!(fact.upstream, Some(upstream.address));
    assert!(fact.answers.is_empty());
    lab.stop().await;
}

#[tokio::test]
async fn audit_forwards_everything_and_says_what_it_would_have_done() {
    let zone = [&CHAIN[..], &["github.com. 5 192.0.2.67"]].concat();
    let upstream = Upstream::with_zone(&zone).await;
    for (name, matched, answers, address) in [
        ("www.github.com.", None, 1, "192.0.2.66"),
        ("alias.test.", Some("www.github.com"), 3, "192.0.2.66"),
    ] {
        let lab = Setup::new(policy(&["*.github.com"], &[]), &[&upstream])
            .audit()
            .start();
        let got = lab.ask(name, RecordType::A).await;
        assert_eq!(got.metadata.response_code, ResponseCode::NoError);
        assert_eq!(got.answers.len(), answers, "{name}");
        assert_eq!(ede(&got), None);
        let fact = lab.queries().remove(0);
        assert_eq!(fact.verdict, Verdict::WouldBlock, "{name}");
        assert_eq!(fact.rule.unwrap().cite(), "--block *.github.com");
        assert_eq!(fact.matched, matched.map(domain));
        assert_eq!(fact.answers, [ip(address)]);
        let pin = (
            name.trim_end_matches('.').to_owned(),
            vec![ip(address)],
            Ports::all(Action::Block),
        );
        assert_eq!(lab.pins(), [pin], "{name}");
        lab.stop().await;
    }
}

#[tokio::test]
async fn refuse_and_drop_give_each_name_an_address_of_its_own() {
    for on_block in [OnBlock::Refuse, OnBlock::Drop] {
        let upstream = Upstream::with_zone(&CHAIN).await;
        let lab = Setup::new(policy(&["*.github.com"], &[]), &[&upstream])
            .on_block(on_block)
            .start();
        let mut pins = Vec::new();
        for (name, record_type, address) in [
            ("a.github.com.", RecordType::A, "198.18.0.1"),
            ("a.github.com.", RecordType::AAAA, "100::1"),
            ("b.github.com.", RecordType::A, "198.18.0.2"),
            ("A.GitHub.com.", RecordType::A, "198.18.0.1"),
        ] {
            let got = lab.ask(name, record_type).await;
            assert_eq!(got.metadata.response_code, ResponseCode::NoError);
            assert_eq!(got.answers, records(&[&format!("{name} 5 {address}")]));
            assert!(got.answers[0].ttl <= 5);
            assert_eq!(ede(&got).unwrap().0, 15);
            let owner = name.trim_end_matches('.').to_lowercase();
            pins.push((owner, vec![ip(address)], Ports::all(Action::Block)));
            assert_eq!(lab.pins(), pins);
            let fact = lab.queries().pop().unwrap();
            assert_eq!(fact.verdict, Verdict::Blocked);
            assert_eq!(fact.answers, [ip(address)]);
        }
        let got = lab.ask("a.github.com.", RecordType::TXT).await;
        assert_eq!(got.metadata.response_code, ResponseCode::NoError);
        assert!(got.answers.is_empty());

        // An alias: the real address is blocked, the child gets another one.
        let got = lab.ask("alias.test.", RecordType::A).await;
        assert_eq!(got.answers, records(&["alias.test. 5 198.18.0.3"]));
        let real = ("alias.test".to_owned(), "192.0.2.66");
        let own = ("alias.test".to_owned(), "198.18.0.3");
        pins.extend(
            [real, own].map(|(name, address)| (name, vec![ip(address)], Ports::all(Action::Block))),
        );
        assert_eq!(lab.pins(), pins);
        lab.stop().await;
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_pinned_does_not_leave() {
    let upstream = Upstream::with_zone(&["x.test. 5 192.0.2.1"]).await;
    for (name, on_block) in [
        ("x.test.", OnBlock::NxDomain),
        ("www.github.com.", OnBlock::Refuse),
    ] {
        let lab = Setup::new(policy(&["*.github.com"], &[]), &[&upstream])
            .on_block(on_block)
            .failing_pins()
            .start();
        let got = lab.ask(name, RecordType::A).await;
        assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
        assert!(got.answers.is_empty());
        let fact = lab.queries().remove(0);
        assert_eq!(fact.rcode, "SERVFAIL");
        assert!(fact.answers.is_empty());
        lab.stop().await;
    }
}

#[tokio::test]
async fn ports_that_differ_are_pinned_and_not_refused() {
    let upstream = Upstream::with_zone(&["x.test. 5 192.0.2.1"]).await;
    let policy = policy(&["*.test:22"], &[]);
    let ports = policy.name(&domain("x.test"), &[]).ports;
    assert_eq!(ports.at(Transport::Tcp, 22), Action::Block);
    assert_eq!(ports.at(Transport::Tcp, 443), Action::Allow);
    let lab = Setup::new(policy, &[&upstream]).start();
    let got = lab.ask("x.test.", RecordType::A).await;
    assert_eq!(got.answers.len(), 1);
    assert_eq!(lab.queries()[0].verdict, Verdict::Allowed);
    let pin = ("x.test".to_owned(), vec![ip("192.0.2.1")], ports);
    assert_eq!(lab.pins(), [pin]);
    lab.stop().await;
}

/// A policy of one rule in a file.
fn written(file: &str, reason: &str, owner: &str) -> Policy {
    let place = Place {
        name: file.to_owned(),
        list: None,
        reason: Some(reason.to_owned()),
        owner: Some(owner.to_owned()),
    };
    let source = Source {
        place: Arc::new(place),
        line: 7,
    };
    let rule = Rule::parse("github.com", Action::Block, source).unwrap();
    Policy::new(vec![rule], None, None, Vec::new())
}

#[tokio::test]
async fn a_client_is_told_why_the_rule_is_there_and_whom_to_ask() {
    let upstream = Upstream::with_zone(&CHAIN).await;
    let long = "because ".repeat(1000);
    let path = "/very/long/path".repeat(100);
    for (file, reason, owner, expected) in [
        (
            "policy.toml",
            "we deploy it",
            "team-git",
            "blocked by policy.toml:7: github.com: we deploy it (owner team-git)".to_owned(),
        ),
        (
            "policy.toml",
            "a\nb\u{1b}[2J",
            "te\0am",
            r"blocked by policy.toml:7: github.com: a\nb\u{1b}[2J (owner te\0am)".to_owned(),
        ),
        (
            "policy.toml",
            &long,
            "team-git",
            format!(
                "blocked by policy.toml:7: github.com: {}… (owner team-git)",
                &long[..142]
            ),
        ),
        (
            &path,
            "we deploy it",
            "team-git",
            format!("blocked by {}… (owner team-git)", &path[..169]),
        ),
        (
            "policy.toml",
            "short",
            &long,
            format!(
                "blocked by policy.toml:7: github.com: short (owner {}…)",
                &long[..61]
            ),
        ),
    ] {
        let lab = Setup::new(written(file, reason, owner), &[&upstream]).start();
        let got = lab.ask("github.com.", RecordType::A).await;
        let (code, text) = ede(&got).unwrap();
        assert_eq!((code, &*text), (15, &*expected));
        assert!(text.len() <= 200, "{} octets", text.len());
        lab.stop().await;
    }
}

#[tokio::test]
async fn the_longest_text_fits_with_the_longest_name() {
    let upstream = Upstream::with_zone(&CHAIN).await;
    let reason = "日本".repeat(1000);
    let lab = Setup::new(written("policy.toml", &reason, "team-git"), &[&upstream]).start();
    let label = "a".repeat(63);
    let name = format!("{label}.{label}.{label}.{}.github.com.", "b".repeat(50));
    assert_eq!(name.len(), 254);
    let got = lab.ask(&name, RecordType::A).await;
    assert!(!got.metadata.truncation);
    let (_, text) = ede(&got).unwrap();
    assert!(text.ends_with("… (owner team-git)"), "{text}");
    assert!((198..=200).contains(&text.len()), "{} octets", text.len());
    assert!(got.to_vec().unwrap().len() <= 512);
    lab.stop().await;
}
