//! What is permitted passes unchanged in meaning.

use std::net::Ipv6Addr;

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, MX, NS, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::lab::{
    Lab, Setup, Upstream, bytes, ede, ip, key, policy, query, raw, record, records, reply,
    with_edns,
};
use crate::dns::wire::Reply;
use crate::event::{QueryKey, Verdict};
use crate::policy::{Action, Ports, Transport};

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// A proxy that permits everything, in front of an upstream that answers with `answer`.
async fn lab(answer: impl Fn(&Message) -> Message + Send + 'static) -> (Upstream, Lab) {
    let upstream = Upstream::scripted(move |query, _| vec![bytes(&answer(query))]).await;
    let lab = Setup::new(policy(&[], &[]), &[&upstream]).start();
    (upstream, lab)
}

#[tokio::test]
async fn records_of_every_type_pass() {
    let soa = SOA::new(name("ns.x.test."), name("h.x.test."), 1, 2, 3, 4, 5);
    let table = [
        RData::A(A::new(192, 0, 2, 1)),
        RData::AAAA(Ipv6Addr::LOCALHOST.into()),
        RData::NS(NS(name("ns.x.test."))),
        RData::MX(MX::new(10, name("mail.x.test."))),
        RData::SRV(SRV::new(1, 2, 3, name("srv.x.test."))),
        RData::SOA(soa),
        raw(RecordType::TXT, b"\x0bv=spf1 -all\x00\x02\xff\x00"),
        raw(RecordType::CAA, b"\x80\x05issueca.test"),
        // hickory would reject this one: the tag is empty.
        raw(RecordType::CAA, b"\x00\x00"),
        raw(RecordType::DNSKEY, b"\x01\x01\x03\x08key"),
        raw(RecordType::RRSIG, b"\x00\x01\x08\x02\x00\x00\x0e\x10"),
        raw(
            RecordType::NAPTR,
            b"\x00\x0a\x00\x0a\x01S\x00\x00\x01x\x04test\x00",
        ),
        raw(RecordType::HINFO, b"\x03PDP\x03TOP"),
        raw(
            RecordType::Unknown(17),
            b"\x01a\x04test\x00\x01B\x04test\x00",
        ),
        raw(RecordType::Unknown(65280), b"\xc0\x0c anything"),
    ];
    for data in table {
        let record_type = data.record_type();
        let answers = vec![Record::from_rdata(name("x.test."), 77, data)];
        let sent = answers.clone();
        let (_upstream, lab) = lab(move |query| reply(query, sent.clone())).await;
        let got = lab.datagram(&bytes(&query("x.test.", record_type))).await;
        let got = Reply::decode(&got.unwrap().1).unwrap();
        assert_eq!(got.answers, answers, "{record_type}");
        // The equality of records leaves the TTL out.
        assert_eq!(got.answers[0].ttl, 77, "{record_type}");
        lab.stop().await;
    }
}

#[tokio::test]
async fn compressed_names_in_old_types_are_written_out() {
    // RP (17) with two names that point at the question: octets that mean nothing elsewhere.
    let upstream = Upstream::scripted(|query, _| {
        let message = reply(query, vec![]);
        let mut bytes = bytes(&message);
        bytes[7] = 1;
        bytes.extend(b"\xc0\x0c\x00\x11\x00\x01\x00\x00\x00\x05\x00\x06\x01h\xc0\x0c\xc0\x0c");
        vec![bytes]
    })
    .await;
    let lab = Setup::new(policy(&[], &[]), &[&upstream]).start();
    let query = query("x.test.", RecordType::Unknown(17));
    let got = lab.udp(&query).await;
    let expected = raw(
        RecordType::Unknown(17),
        b"\x01h\x01x\x04test\x00\x01x\x04test\x00",
    );
    assert_eq!(got.answers[0].data, expected);
    lab.stop().await;
}

#[tokio::test]
async fn header_bits_codes_and_sections_pass() {
    type Change = fn(&mut Message);
    let table: [(&str, Change); 9] = [
        ("AA", |m| m.metadata.authoritative = true),
        ("AD", |m| m.metadata.authentic_data = true),
        ("CD", |m| m.metadata.checking_disabled = true),
        ("no RA", |m| m.metadata.recursion_available = false),
        ("TC", |m| m.metadata.truncation = true),
        ("SERVFAIL", |m| {
            m.metadata.response_code = ResponseCode::ServFail;
        }),
        ("REFUSED", |m| {
            m.metadata.response_code = ResponseCode::Refused;
        }),
        ("NXDOMAIN with SOA", |m| {
            let soa = SOA::new(name("ns.test."), name("h.test."), 1, 2, 3, 4, 5);
            m.metadata.response_code = ResponseCode::NXDomain;
            m.add_authority(Record::from_rdata(name("test."), 9, RData::SOA(soa)));
        }),
        ("all sections", |m| {
            m.add_answer(record("x.test. 1 192.0.2.1"));
            m.add_authority(record("test. 2 192.0.2.2"));
            m.add_additional(record("ns.test. 3 192.0.2.3"));
        }),
    ];
    for (what, change) in table {
        let answer = move |query: &Message| {
            let mut message = reply(query, vec![]);
            change(&mut message);
            message
        };
        let (_upstream, lab) = lab(answer).await;
        let query = query("x.test.", RecordType::A);
        for (transport, got) in [
            ("udp", lab.udp(&query).await),
            ("tcp", lab.tcp(&query).await),
        ] {
            assert_eq!(got, answer(&query), "{what} over {transport}");
        }
        lab.stop().await;
    }
}

#[tokio::test]
async fn the_question_goes_upstream_as_it_came() {
    type Change = fn(&mut Message);
    let table: [(&str, Change); 6] = [
        ("plain", |_| {}),
        ("no RD", |m| m.metadata.recursion_desired = false),
        ("AD", |m| m.metadata.authentic_data = true),
        ("CD", |m| m.metadata.checking_disabled = true),
        ("CH", |m| {
            m.queries[0].set_query_class(DNSClass::CH);
        }),
        ("0x20", |m| {
            m.queries[0].set_name(name("wWw.X.tEsT."));
        }),
    ];
    for (what, change) in table {
        let (upstream, lab) = lab(|query| reply(query, vec![])).await;
        let mut query = query("x.test.", RecordType::TXT);
        change(&mut query);
        for expected in [Transport::Udp, Transport::Tcp] {
            let got = lab.over(expected, &query).await;
            let (transport, seen) = upstream.seen().pop().unwrap();
            assert_eq!(transport, expected, "{what}");
            assert!(seen.metadata.flags() == query.metadata.flags(), "{what}");
            for echoed in [&seen.queries, &got.queries] {
                assert_eq!(*echoed, query.queries, "{what}");
                assert!(echoed[0].name().eq_case(query.queries[0].name()), "{what}");
            }
            assert_eq!(seen.edns, None, "{what}");
        }
        lab.stop().await;
    }
}

#[tokio::test]
async fn ids_upstream_are_fresh() {
    let (upstream, lab) = lab(|query| reply(query, vec![])).await;
    let query = query("x.test.", RecordType::A);
    for _ in 0..8 {
        assert_eq!(lab.udp(&query).await.metadata.id, query.metadata.id);
    }
    let seen = upstream.seen();
    let ids: std::collections::HashSet<u16> = seen
        .iter()
        .map(|(_, message)| message.metadata.id)
        .collect();
    // Eight random ones: two may be equal (1 in 2300), four hardly ever.
    assert!(ids.len() > 5, "{ids:?}");
    lab.stop().await;
}

const EDE: u16 = 15;
const COOKIE: u16 = 10;

#[tokio::test]
async fn edns_is_our_own_on_either_side() {
    let (upstream, lab) = lab(|query| {
        let mut message = reply(query, vec![]);
        let edns = message.edns.as_mut().unwrap();
        edns.set_max_payload(4000);
        edns.options_mut()
            .insert(EdnsOption::Unknown(EDE, b"\x00\x06bogus".to_vec()));
        edns.options_mut()
            .insert(EdnsOption::Unknown(COOKIE, b"server".to_vec()));
        message.metadata.response_code = ResponseCode::BADCOOKIE;
        message
    })
    .await;
    let subnet = EdnsOption::Subnet(ClientSubnet::new(ip("192.0.2.0"), 24, 0));
    let mut asked = with_edns(query("x.test.", RecordType::A), 1400);
    let edns = asked.edns.as_mut().unwrap();
    edns.set_dnssec_ok(true);
    edns.options_mut()
        .insert(EdnsOption::Unknown(COOKIE, b"clientid".to_vec()));
    edns.options_mut().insert(subnet.clone());
    let got = lab.udp(&asked).await;

    // Upstream: size, DO and client subnet; the cookie was for this hop.
    let (_, seen) = upstream.seen().pop().unwrap();
    let mut expected = Edns::new();
    expected.set_max_payload(1400).set_dnssec_ok(true);
    expected.options_mut().insert(subnet);
    assert_eq!(seen.edns, Some(expected));

    // Back: the extended code and error, not the cookie, and the client's own limit.
    assert_eq!(got.metadata.response_code, ResponseCode::BADCOOKIE);
    let edns = got.edns.as_ref().unwrap();
    assert_eq!(edns.max_payload(), 1400);
    assert!(edns.flags().dnssec_ok);
    assert!(edns.option(EdnsCode::Cookie).is_none());
    assert_eq!(ede(&got), Some((6, "bogus".to_owned())));
    lab.stop().await;
}

#[tokio::test]
async fn an_extended_code_that_the_client_cannot_take_is_servfail() {
    let (_upstream, lab) = lab(|query| {
        let mut message = reply(query, vec![]);
        message.set_edns(Edns::new());
        message.metadata.response_code = ResponseCode::BADCOOKIE;
        message
    })
    .await;
    let got = lab.udp(&query("x.test.", RecordType::A)).await;
    assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
    lab.stop().await;
}

#[test]
fn names_in_data_end_where_the_data_ends() {
    let message = query("x.test.", RecordType::A);
    let rp = RecordType::Unknown(17);
    for (data, decodes) in [
        (&b"\x01a\x00\x01b\x00"[..], true),
        (b"\x01a\x00\x01b\x00\x00", false),
        (b"\x01a\x00\x01b", false),
        (b"\x01a\x00", false),
    ] {
        let record = Record::from_rdata(name("x.test."), 5, raw(rp, data));
        let mut bytes = bytes(&reply(&message, vec![record]));
        // So that a name could run on beyond the data.
        bytes.push(0);
        assert_eq!(Reply::decode(&bytes).is_ok(), decodes, "{data:?}");
    }
}

#[tokio::test]
async fn a_version_of_edns_that_nobody_knows_is_badvers() {
    let (upstream, lab) = lab(|query| reply(query, vec![])).await;
    let mut query = with_edns(query("x.test.", RecordType::A), 1232);
    query.edns.as_mut().unwrap().set_version(1);
    let got = lab.udp(&query).await;
    assert_eq!(u16::from(got.metadata.response_code), 16);
    assert_eq!(got.edns.unwrap().version(), 0);
    assert!(upstream.seen().is_empty());
    assert_eq!(lab.queries()[0].rcode, "BADVERS");
    lab.stop().await;
}

#[tokio::test]
async fn an_upstream_without_edns_is_asked_without() {
    for with_question in [true, false] {
        let upstream = Upstream::scripted(move |query, _| {
            let mut message = reply(query, records(&["x.test. 5 192.0.2.1"]));
            message.edns = None;
            if query.edns.is_some() {
                message.answers.clear();
                message.metadata.response_code = ResponseCode::FormErr;
                if !with_question {
                    message.queries.clear();
                }
            }
            vec![bytes(&message)]
        })
        .await;
        let lab = Setup::new(policy(&[], &[]), &[&upstream]).start();
        let got = lab.ask("x.test.", RecordType::A).await;
        assert_eq!(got.metadata.response_code, ResponseCode::NoError);
        assert_eq!(got.answers.len(), 1);
        assert!(got.edns.is_some());
        assert_eq!(upstream.seen().len(), 2);
        lab.stop().await;
    }
}

#[tokio::test]
async fn udp_answers_fit_what_the_client_takes() {
    let (_upstream, lab) = lab(|query| {
        let count = query.queries[0].name().iter().next().unwrap();
        let count: u8 = str::from_utf8(count).unwrap().parse().unwrap();
        let owner = query.queries[0].name().clone();
        let records = (0..count)
            .map(|n| Record::from_rdata(owner.clone(), 5, RData::A(A::new(192, 0, 2, n))));
        let mut message = reply(query, records.collect());
        for n in 0..10 {
            message.add_additional(record(&format!("more.test. 5 192.0.2.{n}")));
        }
        message
    })
    .await;
    for (count, payload, expect_answers, expect_additionals, truncated) in [
        ("5", None, 5, 10, false),
        // The additional section goes first, and nobody need know.
        ("25", None, 25, 0, false),
        ("50", None, 0, 0, true),
        ("50", Some(512), 0, 0, true),
        ("50", Some(100), 0, 0, true),
        ("50", Some(1232), 50, 10, false),
        ("90", Some(1232), 0, 0, true),
        ("90", Some(4096), 90, 10, false),
    ] {
        let mut query = query(&format!("{count}.x.test."), RecordType::A);
        if let Some(payload) = payload {
            query = with_edns(query, payload);
        }
        let case = format!("{count} records for {payload:?}");
        let got = lab.udp(&query).await;
        assert_eq!(got.answers.len(), expect_answers, "{case}");
        assert_eq!(got.additionals.len(), expect_additionals, "{case}");
        assert_eq!(got.metadata.truncation, truncated, "{case}");
        assert_eq!(got.edns.is_some(), payload.is_some(), "{case}");
        assert_eq!(got.queries, query.queries, "{case}");
        // And the way out of it.
        let got = lab.tcp(&query).await;
        assert_eq!(got.answers.len(), count.parse::<usize>().unwrap(), "{case}");
        assert!(!got.metadata.truncation, "{case}");
    }
    lab.stop().await;
}

#[tokio::test]
async fn svcb_and_https_have_no_data() {
    let (upstream, lab) = lab(|query| reply(query, vec![])).await;
    for record_type in [RecordType::SVCB, RecordType::HTTPS] {
        let got = lab.ask("x.test.", record_type).await;
        assert_eq!(got.metadata.response_code, ResponseCode::NoError);
        assert!(got.answers.is_empty());
    }
    assert!(upstream.seen().is_empty());
    lab.stop().await;
}

#[tokio::test]
async fn svcb_and_https_are_taken_out_of_other_answers() {
    let (_upstream, lab) = lab(|query| {
        let hint = |code| Record::from_rdata(name("x.test."), 5, raw(code, b"\x00\x01\x00"));
        let mut message = reply(query, records(&["x.test. 5 192.0.2.1"]));
        message.add_answer(hint(RecordType::HTTPS));
        message.add_additional(hint(RecordType::SVCB));
        message
    })
    .await;
    let got = lab.ask("x.test.", RecordType::ANY).await;
    assert_eq!(got.answers, records(&["x.test. 5 192.0.2.1"]));
    assert!(got.additionals.is_empty());
    lab.stop().await;
}

#[tokio::test]
async fn a_query_is_reported_with_everything_about_it() {
    let upstream = Upstream::with_zone(&[
        "x.test. 5 CNAME y.test.",
        "y.test. 5 192.0.2.1",
        "y.test. 5 192.0.2.2",
    ])
    .await;
    let lab = Setup::new(policy(&["github.com"], &["x.test"]), &[&upstream]).start();
    let query = with_edns(query("X.test.", RecordType::A), 1232);
    let (port, _) = lab.datagram(&bytes(&query)).await.unwrap();
    assert_eq!(
        key(&lab),
        QueryKey {
            transport: Transport::Udp,
            ipv6: false,
            port,
            id: query.metadata.id
        }
    );
    let fact = lab.queries().remove(0);
    assert_eq!(fact.qname.to_string(), "x.test");
    assert_eq!(fact.qtype, "A");
    assert_eq!(fact.verdict, Verdict::Allowed);
    assert_eq!(fact.rule.unwrap().cite(), "--allow x.test");
    assert_eq!(fact.matched, None);
    assert_eq!(fact.cname_chain, [super::lab::domain("y.test")]);
    assert_eq!(fact.rcode, "NOERROR");
    assert_eq!(fact.answers, [ip("192.0.2.1"), ip("192.0.2.2")]);
    assert_eq!(fact.upstream, Some(upstream.address));
    assert!(!fact.latency.is_zero());
    assert_eq!(
        lab.pins(),
        [(
            "x.test".to_owned(),
            vec![ip("192.0.2.1"), ip("192.0.2.2")],
            Ports::all(Action::Allow)
        )]
    );
    lab.stop().await;
}

#[tokio::test]
async fn a_query_over_tcp_is_known_by_its_connection() {
    let (_upstream, lab) = lab(|query| reply(query, vec![])).await;
    lab.tcp(&query("x.test.", RecordType::Unknown(4711))).await;
    let fact = lab.queries().remove(0);
    assert_eq!(fact.qtype, "TYPE4711");
    assert_eq!((fact.key.transport, fact.key.id), (Transport::Tcp, 0));
    assert_ne!(fact.key.port, 0);
    lab.stop().await;
}
