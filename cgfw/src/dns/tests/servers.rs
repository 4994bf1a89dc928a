//! Which servers are asked, and what is believed of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::lab::{
    PATIENCE, SOON, Setup, Upstream, bytes, ede, eventually, ip, policy, query, record, records,
    reply,
};
use crate::dns::handler::Shared;
use crate::dns::known::refresh;
use crate::dns::system::parse_hosts;
use crate::dns::upstream::TRY;
use crate::event::Verdict;
use crate::policy::{Action, Ports, Transport};

const ZONE: [&str; 1] = ["x.test. 5 192.0.2.1"];

/// An address where nobody listens.
async fn closed() -> SocketAddr {
    Upstream::silent().await.address
}

/// In this very case: parsing text as a `Name` lowers it.
fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn open() -> crate::policy::Policy {
    policy(&[], &[])
}

#[tokio::test]
async fn a_server_that_refuses_is_passed_over_at_once() {
    let upstream = Upstream::with_zone(&ZONE).await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let lab = Setup::new(open(), &[])
            .upstream(closed().await)
            .upstream(upstream.address)
            .start();
        let start = Instant::now();
        let query = query("x.test.", RecordType::A);
        let got = lab.over(transport, &query).await;
        assert_eq!(got.answers, records(&ZONE));
        assert!(start.elapsed() < TRY, "{:?}", start.elapsed());
        assert_eq!(lab.queries()[0].upstream, Some(upstream.address));
        lab.stop().await;
    }
}

#[tokio::test]
async fn a_silent_server_is_passed_over_and_then_comes_last() {
    let (silent, upstream) = (Upstream::silent().await, Upstream::with_zone(&ZONE).await);
    let lab = Setup::new(open(), &[&silent, &upstream]).start();
    let got = lab.ask("x.test.", RecordType::A).await;
    assert_eq!(got.answers, records(&ZONE));
    let start = Instant::now();
    lab.ask("x.test.", RecordType::A).await;
    assert!(start.elapsed() < TRY, "{:?}", start.elapsed());
    assert_eq!(silent.seen().len(), 1);
    lab.stop().await;
}

#[tokio::test]
async fn a_server_with_a_failure_of_its_own_gives_the_next_a_chance() {
    for code in [
        ResponseCode::ServFail,
        ResponseCode::Refused,
        ResponseCode::NotImp,
    ] {
        let failing = Upstream::scripted(move |query, _| {
            let mut message = reply(query, vec![]);
            message.metadata.response_code = code;
            vec![bytes(&message)]
        })
        .await;
        let upstream = Upstream::with_zone(&ZONE).await;
        let lab = Setup::new(open(), &[&failing, &upstream]).start();
        let got = lab.ask("x.test.", RecordType::A).await;
        assert_eq!(got.answers, records(&ZONE), "{code}");
        lab.stop().await;
        // And if none does better, its answer stands.
        let lab = Setup::new(open(), &[&failing])
            .upstream(closed().await)
            .start();
        let got = lab.ask("x.test.", RecordType::A).await;
        assert_eq!(got.metadata.response_code, code);
        lab.stop().await;
    }
}

#[tokio::test]
async fn without_an_answer_there_is_a_servfail_before_the_client_gives_up() {
    let silent = Upstream::silent().await;
    for (setup, at_least, text) in [
        (
            Setup::new(open(), &[&silent]),
            Duration::from_secs(4),
            format!("no answer from {}: timed out", silent.address),
        ),
        (
            Setup::new(open(), &[&silent, &silent, &silent]),
            Duration::from_secs(4),
            format!("no answer from {}: timed out", silent.address),
        ),
        (
            Setup::new(open(), &[]),
            Duration::ZERO,
            "there is no server to ask".to_owned(),
        ),
    ] {
        let lab = setup.start();
        let start = Instant::now();
        let got = lab.ask("x.test.", RecordType::A).await;
        assert!(start.elapsed() >= at_least, "{:?}", start.elapsed());
        assert!(start.elapsed() < PATIENCE);
        assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(ede(&got), Some((23, text)));
        let fact = lab.queries().remove(0);
        assert_eq!(fact.verdict, Verdict::Allowed);
        assert_eq!((fact.rcode.as_str(), fact.upstream), ("SERVFAIL", None));
        lab.stop().await;
    }
}

#[tokio::test]
async fn a_datagram_that_was_lost_is_sent_again() {
    let mut first = true;
    let upstream = Upstream::scripted(move |query, _| {
        if std::mem::take(&mut first) {
            return vec![];
        }
        vec![bytes(&reply(query, records(&ZONE)))]
    })
    .await;
    let lab = Setup::new(open(), &[&upstream]).start();
    let got = lab.ask("x.test.", RecordType::A).await;
    assert_eq!(got.answers, records(&ZONE));
    lab.stop().await;
}

#[tokio::test]
async fn wrong_replies_are_not_believed_and_the_right_one_is() {
    type Forge = fn(&mut Message);
    let table: [(&str, Forge); 7] = [
        ("another id", |m| m.metadata.id ^= 1),
        ("another name", |m| {
            m.queries[0].set_name(name("y.test."));
        }),
        ("another case", |m| {
            m.queries[0].set_name(name("X.test."));
        }),
        ("another type", |m| {
            m.queries[0].set_query_type(RecordType::AAAA);
        }),
        ("no question", |m| m.queries.clear()),
        ("two questions", |m| {
            let query = m.queries[0].clone();
            m.add_query(query);
        }),
        ("a query", |m| {
            m.metadata.message_type = hickory_proto::op::MessageType::Query;
        }),
    ];
    for (what, forge) in table {
        for transport in [Transport::Udp, Transport::Tcp] {
            let upstream = Upstream::scripted(move |query, _| {
                let right = reply(query, records(&ZONE));
                let mut wrong = reply(query, vec![record("x.test. 5 192.0.2.66")]);
                forge(&mut wrong);
                vec![
                    bytes(&wrong),
                    b"\x00".to_vec(),
                    bytes(&right),
                    bytes(&right),
                ]
            })
            .await;
            let lab = Setup::new(open(), &[&upstream]).start();
            let query = query("x.test.", RecordType::A);
            let got = lab.over(transport, &query).await;
            assert_eq!(got.answers, records(&ZONE), "{what}");
            assert_eq!(lab.queries().len(), 1, "{what}");
            lab.stop().await;
        }
    }
}

#[tokio::test]
async fn a_reply_that_does_not_decode_counts_as_none() {
    // The right header and question, then a record that ends early.
    let broken = Upstream::scripted(|query, _| {
        let mut bytes = bytes(&reply(query, records(&ZONE)));
        bytes.truncate(bytes.len() - 1);
        vec![bytes]
    })
    .await;
    let upstream = Upstream::with_zone(&ZONE).await;
    let lab = Setup::new(open(), &[&broken, &upstream]).start();
    let got = lab.udp(&query("x.test.", RecordType::A)).await;
    assert_eq!(got.answers, records(&ZONE));
    lab.stop().await;
}

#[tokio::test]
async fn the_server_that_the_child_chose_is_asked_if_it_is_to_be_followed() {
    let (chosen, system) = (
        Upstream::with_zone(&["x.test. 5 192.0.2.2"]).await,
        Upstream::with_zone(&ZONE).await,
    );
    let lab = Setup::new(open(), &[&system])
        .follow(chosen.address)
        .start();
    for got in [
        lab.ask("x.test.", RecordType::A).await,
        lab.tcp(&query("x.test.", RecordType::A)).await,
    ] {
        assert_eq!(got.answers, records(&["x.test. 5 192.0.2.2"]));
    }
    assert!(system.seen().is_empty());
    assert_eq!(lab.queries()[0].upstream, Some(chosen.address));
    lab.stop().await;

    // If it is down, it is down: nobody else is asked in its place.
    let lab = Setup::new(open(), &[&system])
        .follow(closed().await)
        .start();
    let got = lab.ask("x.test.", RecordType::A).await;
    assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
    assert!(system.seen().is_empty());
    lab.stop().await;
}

#[tokio::test]
async fn a_child_that_asks_the_proxy_outright_does_not_make_it_ask_itself() {
    let upstream = Upstream::with_zone(&ZONE).await;
    for itself in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        let lab = Setup::new(open(), &[&upstream])
            .follow(itself.parse().unwrap())
            .start();
        let got = lab.ask("x.test.", RecordType::A).await;
        assert_eq!(got.answers, records(&ZONE), "{itself}");
        assert_eq!(lab.queries().len(), 1, "{itself}");
        lab.stop().await;
    }
}

#[tokio::test]
async fn a_blocked_server_is_not_asked() {
    let chosen = Upstream::with_zone(&ZONE).await;
    let rule = format!("127.0.0.1:{}/udp", chosen.address.port());
    let setup = || Setup::new(policy(&[&rule], &[]), &[]).follow(chosen.address);
    let lab = setup().start();
    let got = lab.ask("x.test.", RecordType::A).await;
    assert_eq!(got.metadata.response_code, ResponseCode::Refused);
    let text = format!("this name server is blocked by --block {rule}");
    assert_eq!(ede(&got), Some((15, text)));
    assert!(chosen.seen().is_empty());
    let fact = lab.queries().remove(0);
    assert_eq!(fact.verdict, Verdict::Blocked);
    assert_eq!(fact.rule.unwrap().cite(), format!("--block {rule}"));
    // The rule speaks of UDP only.
    let got = lab.tcp(&query("x.test.", RecordType::A)).await;
    assert_eq!(got.answers, records(&ZONE));
    lab.stop().await;

    let lab = setup().audit().start();
    let got = lab.ask("x.test.", RecordType::A).await;
    assert_eq!(got.answers, records(&ZONE));
    assert_eq!(lab.queries()[0].verdict, Verdict::WouldBlock);
    lab.stop().await;
}

#[tokio::test]
async fn the_names_of_block_rules_are_resolved_in_the_background() {
    let upstream = Upstream::with_zone(&[
        "github.com. 5 192.0.2.66",
        "github.com. 5 2001:db8::66",
        "alias.example. 5 CNAME cdn.example.",
        "cdn.example. 5 192.0.2.67",
        "below.example. 5 192.0.2.68",
        "local.example. 5 127.0.0.1",
    ])
    .await;
    let block = [
        "github.com",
        "=alias.example",
        "*.below.example",
        "local.example",
        "192.0.2.99",
    ];
    let lab = Setup::new(policy(&block, &[]), &[&upstream]).start();
    let expected = [
        ("alias.example", "192.0.2.67"),
        ("github.com", "192.0.2.66"),
        ("github.com", "2001:db8::66"),
    ];
    // A and AAAA of three names; the others are not blocked themselves.
    eventually(|| lab.known().len() == expected.len() && upstream.seen().len() == 6).await;
    tokio::time::sleep(SOON).await;
    let mut pins = lab.pins();
    pins.sort_by_key(|(name, addresses, _)| (name.clone(), addresses.clone()));
    assert_eq!(
        pins,
        expected.map(|(name, address)| {
            (
                name.to_owned(),
                vec![ip(address)],
                Ports::all(Action::Block),
            )
        })
    );
    let mut known = lab.known();
    known.sort();
    assert_eq!(
        known,
        expected.map(|(name, address)| (name.to_owned(), vec![ip(address)]))
    );
    assert!(lab.queries().is_empty(), "the child asked for none of this");
    lab.stop().await;
}

#[tokio::test]
async fn the_background_asks_over_tcp_for_what_does_not_fit() {
    let upstream = Upstream::scripted(|query, transport| {
        let mut message = reply(query, vec![]);
        message.metadata.truncation = transport == Transport::Udp;
        if transport == Transport::Tcp && query.queries[0].query_type() == RecordType::A {
            message.add_answer(record("github.com. 5 192.0.2.66"));
        }
        vec![bytes(&message)]
    })
    .await;
    let lab = Setup::new(policy(&["github.com"], &[]), &[&upstream]).start();
    eventually(|| !lab.known().is_empty()).await;
    let known = ("github.com".to_owned(), vec![ip("192.0.2.66")]);
    assert_eq!(lab.known(), [known]);
    lab.stop().await;
}

#[tokio::test]
async fn known_names_are_resolved_again_as_their_ttl_runs_out() {
    let mut turn = 0;
    let upstream = Upstream::scripted(move |query, _| {
        let mut answers = vec![record("github.com. 0 2001:db8::1")];
        if query.queries[0].query_type() == RecordType::A {
            turn += 1;
            answers = vec![record(&format!("github.com. 0 192.0.2.{turn}"))];
        }
        vec![bytes(&reply(query, answers))]
    })
    .await;
    let (proxy, pins, _events) = Setup::new(policy(&["github.com"], &[]), &[&upstream]).proxy();
    let shared = Arc::new(Shared::new(proxy, 0));
    let pause = Duration::from_millis(20);
    let start = Instant::now();
    let refresh = tokio::spawn(refresh(shared, pause));
    eventually(|| pins.lock().unwrap().len() > 5).await;
    refresh.abort();
    let elapsed = start.elapsed();
    let addresses: Vec<_> = pins
        .lock()
        .unwrap()
        .iter()
        .flat_map(|(_, addresses, _)| addresses.clone())
        .collect();
    // A new one in each round is pinned, what is known already is not pinned again.
    assert_eq!(addresses[..2], [ip("192.0.2.1"), ip("2001:db8::1")]);
    assert_eq!(addresses[2..4], [ip("192.0.2.2"), ip("192.0.2.3")]);
    // Five rounds, and no faster than they may be.
    assert!(elapsed >= 4 * pause, "{elapsed:?}");
}

#[test]
fn hosts_that_differ_from_the_default_are_pinned() {
    let hosts = parse_hosts(
        "192.0.2.1 github.com www.github.com\n\
         127.0.0.1 local.github.com\n\
         192.0.2.2 ok.test\n\
         192.0.2.3 other.test",
    );
    for (policy, expected) in [
        (
            policy(&["github.com"], &[]),
            &[
                ("github.com", "192.0.2.1", Action::Block),
                ("www.github.com", "192.0.2.1", Action::Block),
            ][..],
        ),
        (
            policy(&["github.com"], &["ok.test"]),
            &[("ok.test", "192.0.2.2", Action::Allow)],
        ),
    ] {
        let (proxy, pins, events) = Setup::new(policy, &[]).proxy();
        proxy.pin_hosts(&hosts).unwrap();
        let mut pins = pins.lock().unwrap().clone();
        pins.sort_by_key(|(name, ..)| name.clone());
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, address, action)| {
                ((*name).to_owned(), vec![ip(address)], Ports::all(*action))
            })
            .collect();
        assert_eq!(pins, expected);
        assert_eq!(events.lock().unwrap().len(), expected.len());
    }
    let setup = Setup::new(policy(&["github.com"], &[]), &[]).failing_pins();
    let error = setup.proxy().0.pin_hosts(&hosts).unwrap_err();
    assert_eq!(error.to_string(), "the map is full");
}
