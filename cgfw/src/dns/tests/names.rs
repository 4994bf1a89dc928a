//! Judging a reply: the chain, and what may be pinned. No sockets.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;

use super::lab::{domain, ip, pins_of, policy, query, records, reply};
use crate::dns::judge::{Finding, judge};
use crate::dns::wire::{Question, Reply};
use crate::pins::{Lead, Teller};
use crate::policy::{Action, Policy, Ports};

fn finding(policy: &Policy, name: &str, answers: &[&str]) -> Option<Finding> {
    let message = query(name, RecordType::A);
    let question = Question::new(message.queries[0].clone(), message.metadata, None).unwrap();
    let reply = reply(&message, records(answers)).to_vec().unwrap();
    judge(policy, &question, &Reply::decode(&reply).unwrap()).ok()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_chain_is_walked_from_the_question() {
    let policy = policy(&["github.com"], &[]);
    for (what, answers, chain, addresses, blocked) in [
        ("nothing", &[][..], &[][..], &[][..], false),
        (
            "an address",
            &["x.test. 5 192.0.2.1"],
            &[],
            &["192.0.2.1"],
            false,
        ),
        (
            "another case",
            &["X.TEST. 5 192.0.2.1"],
            &[],
            &["192.0.2.1"],
            false,
        ),
        (
            "a chain in any order",
            &[
                "b.test. 5 192.0.2.1",
                "a.test. 5 CNAME b.test.",
                "x.test. 5 CNAME a.test.",
            ],
            &["a.test", "b.test"],
            &["192.0.2.1"],
            false,
        ),
        (
            "a blocked name at the end",
            &["x.test. 5 CNAME www.GitHub.com."],
            &["www.github.com"],
            &[],
            true,
        ),
        (
            "a blocked name on the way",
            &[
                "x.test. 5 CNAME github.com.",
                "github.com. 5 CNAME cdn.test.",
                "cdn.test. 5 192.0.2.1",
            ],
            &["github.com", "cdn.test"],
            &["192.0.2.1"],
            true,
        ),
        (
            "a blocked name besides",
            &["x.test. 5 192.0.2.1", "github.com. 5 192.0.2.2"],
            &[],
            &["192.0.2.1"],
            false,
        ),
        (
            "two aliases",
            &["x.test. 5 CNAME a.test.", "x.test. 5 CNAME github.com."],
            &["a.test", "github.com"],
            &[],
            true,
        ),
        (
            "a loop",
            &["x.test. 5 CNAME a.test.", "a.test. 5 CNAME x.test."],
            &["a.test"],
            &[],
            false,
        ),
        (
            "an alias of itself",
            &["x.test. 5 CNAME x.test.", "x.test. 5 192.0.2.1"],
            &[],
            &["192.0.2.1"],
            false,
        ),
        (
            "a redirected zone",
            &["test. 5 DNAME github.com."],
            &["x.github.com"],
            &[],
            true,
        ),
        (
            "a DNAME of the name itself, which does not move it",
            &["x.test. 5 DNAME github.com."],
            &[],
            &[],
            false,
        ),
        (
            "the same address twice",
            &["x.test. 5 192.0.2.1", "x.test. 5 192.0.2.1"],
            &[],
            &["192.0.2.1"],
            false,
        ),
    ] {
        let finding = finding(&policy, "x.test.", answers).unwrap();
        let names: Vec<_> = chain.iter().map(|name| domain(name)).collect();
        assert_eq!(finding.chain, names, "{what}");
        let expected: Vec<_> = addresses.iter().map(|address| ip(address)).collect();
        assert_eq!(finding.addresses, expected, "{what}");
        assert_eq!(finding.judgement.is_blocked(), blocked, "{what}");
    }
}

#[test]
fn the_root_can_be_redirected() {
    let policy = policy(&["x.test.github.com"], &[]);
    let redirected = finding(&policy, "x.test.", &[". 5 DNAME github.com."]).unwrap();
    assert!(redirected.judgement.is_blocked());
    // What is below the target is below the root, too, up to the longest name.
    assert_eq!(redirected.chain[0], domain("x.test.github.com"));
    assert_eq!(redirected.chain[1], domain("x.test.github.com.github.com"));
}

#[test]
fn a_chain_has_an_end() {
    let policy = policy(&[], &[]);
    // Each step of this one is longer than the last, up to the limit of names.
    let growing = ["test. 5 DNAME a.test."];
    assert_eq!(finding(&policy, "x.test.", &growing), None);
    let long: Vec<String> = (0..100)
        .map(|n| format!("n{n}.test. 5 CNAME n{}.test.", n + 1))
        .collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    assert_eq!(finding(&policy, "n0.test.", &long), None);
    let fits = finding(&policy, "n0.test.", &long[..64]).unwrap();
    assert_eq!(fits.chain.len(), 64);
}

/// What is to be pinned of the answer for x.test.
fn pinned(policy: &Policy, finding: &Finding) -> Vec<(Vec<IpAddr>, Ports)> {
    let lead = Lead {
        name: domain("x.test"),
        aliases: finding.chain.clone(),
        told_by: Teller::Server,
    };
    pins_of(policy, &lead, &finding.judgement, &finding.addresses)
}

#[test]
fn only_addresses_of_other_hosts_are_pinned() {
    let own = [ip("198.51.100.7")];
    let host = |policy: Policy| policy.with_host(own, Vec::new());
    let below = host(policy(&[], &["test"]));
    let exact = host(policy(&[], &["x.test"]));
    let blocked = host(policy(&["test"], &[]));
    for (address, for_any_rule, for_an_exact_rule) in [
        ("192.0.2.1", true, true),
        ("10.0.0.1", true, true),
        ("2001:db8::1", true, true),
        ("127.0.0.1", false, false),
        ("127.9.9.9", false, false),
        ("::1", false, false),
        ("::ffff:127.0.0.1", false, false),
        ("0.0.0.0", false, false),
        ("::", false, false),
        ("198.51.100.7", false, false),
        ("224.0.0.251", false, false),
        ("ff02::fb", false, false),
        ("255.255.255.255", false, false),
        ("169.254.169.254", false, true),
        ("::ffff:169.254.169.254", false, true),
        ("fe80::1", false, true),
    ] {
        for (policy, expected, action) in [
            (&below, for_any_rule, Action::Allow),
            (&exact, for_an_exact_rule, Action::Allow),
            // To block one's own way to the metadata service is nobody's attack.
            (&blocked, for_an_exact_rule, Action::Block),
        ] {
            let answer = format!("x.test. 5 {address}");
            let finding = finding(policy, "x.test.", &[&answer]).unwrap();
            assert_eq!(finding.addresses, [ip(address)]);
            let pins: &[_] = &[(vec![ip(address)], Ports::all(action))];
            let expected = if expected { pins } else { &[] };
            assert_eq!(pinned(policy, &finding), expected, "{address}");
        }
    }
}

#[test]
fn a_rule_on_an_address_holds_whatever_name_leads_there() {
    let policy = policy(&["192.0.2.66"], &[]);
    let answers = [
        "x.test. 5 192.0.2.1",
        "x.test. 5 192.0.2.66",
        "x.test. 5 192.0.2.2",
    ];
    let finding = finding(&policy, "x.test.", &answers).unwrap();
    let allowed = vec![ip("192.0.2.1"), ip("192.0.2.2")];
    assert_eq!(
        pinned(&policy, &finding),
        [
            (allowed, Ports::by_default(Action::Allow)),
            (vec![ip("192.0.2.66")], Ports::all(Action::Block)),
        ]
    );
}

#[test]
fn the_least_ttl_of_the_chain_counts() {
    let policy = policy(&[], &[]);
    let chain = [
        "x.test. 70 CNAME a.test.",
        "a.test. 60 192.0.2.1",
        "b.test. 1 192.0.2.2",
    ];
    let ttl = |answers: &[&str]| finding(&policy, "x.test.", answers).unwrap().ttl;
    assert_eq!(ttl(&chain), Some(60));
    assert_eq!(ttl(&["x.test. 50 CNAME a.test.", chain[1]]), Some(50));
    assert_eq!(ttl(&[]), None);
}

/// Aliases among a few names, of which one is blocked.
fn some_answers() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((0..8u8, 0..8u8), 0..12)
}

proptest! {
    /// Against the definition: what is reachable from the question is judged, in any order.
    #[test]
    fn whatever_is_reachable_is_judged(aliases in some_answers()) {
        let policy = policy(&["=n7.test"], &[]);
        let answers: Vec<String> = aliases
            .iter()
            .map(|(from, to)| format!("n{from}.test. 5 CNAME n{to}.test."))
            .collect();
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        let finding = finding(&policy, "n0.test.", &answers).unwrap();
        let mut reachable = [false; 8];
        reachable[0] = true;
        for _ in 0..8 {
            for (from, to) in &aliases {
                reachable[usize::from(*to)] |= reachable[usize::from(*from)];
            }
        }
        prop_assert_eq!(finding.judgement.is_blocked(), reachable[7]);
        let found = (1..8).filter(|n| reachable[*n]).count();
        prop_assert_eq!(finding.chain.len(), found);
    }

    /// No octets of a reply make decoding panic, and what decodes is encoded again.
    #[test]
    fn any_octets_may_come(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let policy = policy(&["github.com"], &[]);
        let query = query("x.test.", RecordType::A).to_vec().unwrap();
        let answer = crate::dns::replay(&policy, &query, &bytes);
        prop_assert!(answer.is_some());
        crate::dns::replay(&policy, &bytes, &query);
    }

    /// Records survive decoding, whatever their type and data.
    #[test]
    fn unknown_data_is_kept(code in 256..65280u16, data in prop::collection::vec(any::<u8>(), 1..50)) {
        let message = query("x.test.", RecordType::A);
        let record = hickory_proto::rr::Record::from_rdata(
            Name::from_ascii("x.test.").unwrap(),
            5,
            super::lab::raw(RecordType::Unknown(code), &data),
        );
        let bytes = reply(&message, vec![record.clone()]).to_vec().unwrap();
        let decoded = Reply::decode(&bytes).unwrap();
        let known = matches!(RecordType::from(code), RecordType::Unknown(_));
        prop_assume!(known);
        prop_assert_eq!(decoded.answers, vec![record]);
    }
}

#[test]
fn an_allowed_name_below_a_blocked_one_may_have_an_alias_there() {
    let policy = policy(&["github.com"], &["api.github.com"]);
    assert_eq!(policy.default_action(), Action::Allow);
    let answers = ["api.github.com. 5 CNAME lb.github.com."];
    let alias = finding(&policy, "api.github.com.", &answers).unwrap();
    assert!(alias.judgement.is_blocked(), "the alias has no exception");
}
