//! Malformed and hostile messages: an error or nothing, and the proxy lives on.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::lab::{
    Lab, Setup, Upstream, bytes, policy, query, read_framed, records, with_edns, write_framed,
};

const ZONE: [&str; 1] = ["x.test. 5 192.0.2.1"];

async fn lab() -> (Upstream, Lab) {
    let upstream = Upstream::with_zone(&ZONE).await;
    let lab = Setup::new(policy(&[], &[]), &[&upstream]).start();
    (upstream, lab)
}

async fn is_well(lab: &Lab) {
    let query = query("x.test.", RecordType::A);
    assert_eq!(lab.udp(&query).await.answers, records(&ZONE));
    assert_eq!(lab.tcp(&query).await.answers, records(&ZONE));
}

fn changed(change: impl Fn(&mut Message)) -> Vec<u8> {
    let mut message = with_edns(query("x.test.", RecordType::A), 1232);
    change(&mut message);
    bytes(&message)
}

/// Octets of a query that has these in place of its question.
fn with_question(count: u8, question: &[u8]) -> Vec<u8> {
    [
        &[0x12, 0x34, 1, 0, 0, count, 0, 0, 0, 0, 0, 0][..],
        question,
    ]
    .concat()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn messages_that_are_no_proper_query_get_an_error_or_nothing() {
    let (upstream, lab) = lab().await;
    let form_err = Some(ResponseCode::FormErr);
    let not_imp = Some(ResponseCode::NotImp);
    let two = changed(|m| {
        let query = m.queries[0].clone();
        m.add_query(query);
    });
    let table = [
        ("nothing", vec![], None),
        ("one octet", vec![0], None),
        ("half a header", vec![0; 11], None),
        ("no question", with_question(0, b""), form_err),
        ("two questions", two, form_err),
        (
            "a count too high",
            with_question(255, b"\x01x\x00\x00\x01\x00\x01"),
            form_err,
        ),
        (
            "a pointer to itself",
            with_question(1, b"\xc0\x0c\x00\x01\x00\x01"),
            form_err,
        ),
        (
            "a pointer ahead",
            with_question(1, b"\xc0\x20\x00\x01\x00\x01"),
            form_err,
        ),
        (
            "two pointers in a circle",
            with_question(1, b"\x01a\xc0\x0c\x00\x01\x00\x01"),
            form_err,
        ),
        ("a label of 64", with_question(1, &[64; 80]), form_err),
        (
            "a name of 300",
            with_question(1, &[[3, b'a', b'b', b'c']; 75].concat()),
            form_err,
        ),
        (
            "a name without end",
            with_question(1, b"\x3fshort"),
            form_err,
        ),
        (
            "half a question",
            with_question(1, b"\x01x\x00\x00"),
            form_err,
        ),
        ("garbage", vec![0x55; 600], form_err),
        (
            "a response",
            changed(|m| m.metadata.message_type = MessageType::Response),
            None,
        ),
        (
            "STATUS",
            changed(|m| m.metadata.op_code = OpCode::Status),
            not_imp,
        ),
        (
            "NOTIFY",
            changed(|m| m.metadata.op_code = OpCode::Notify),
            not_imp,
        ),
        (
            "opcode 9",
            changed(|m| m.metadata.op_code = OpCode::Unknown(9)),
            not_imp,
        ),
        (
            "AXFR",
            changed(|m| {
                m.queries[0].set_query_type(RecordType::AXFR);
            }),
            not_imp,
        ),
    ];
    for (what, sent, expected) in table {
        let got = lab.datagram(&sent).await;
        let code = got.map(|got| {
            assert_eq!(got[..2], sent[..2], "{what}: the id");
            let message = Message::from_vec(&got).unwrap();
            assert_eq!(
                message.metadata.message_type,
                MessageType::Response,
                "{what}"
            );
            assert!(message.answers.is_empty(), "{what}");
            message.metadata.response_code
        });
        assert_eq!(code, expected, "{what}");
    }
    assert!(upstream.seen().is_empty());
    is_well(&lab).await;
    lab.stop().await;
}

#[tokio::test]
async fn a_tcp_client_that_misbehaves_harms_itself_only() {
    let (_upstream, lab) = lab().await;
    let mut connections = Vec::new();
    for sent in [
        &b""[..],
        b"\x00",
        b"\xff\xff",
        b"\x00\x00",
        b"\x00\x01\x00",
        b"\x00\x0cgarbagegarbage",
    ] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, lab.port))
            .await
            .unwrap();
        stream.write_all(sent).await.unwrap();
        connections.push(stream);
    }
    is_well(&lab).await;
    drop(connections);
    is_well(&lab).await;
    lab.stop().await;
}

#[tokio::test]
async fn one_tcp_connection_takes_many_questions() {
    let (_upstream, lab) = lab().await;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, lab.port))
        .await
        .unwrap();
    let queries: Vec<Message> = (0..20).map(|_| query("x.test.", RecordType::A)).collect();
    for query in &queries {
        write_framed(&mut stream, &bytes(query)).await;
    }
    for query in &queries {
        let got = Message::from_vec(&read_framed(&mut stream).await.unwrap()).unwrap();
        assert_eq!(got.metadata.id, query.metadata.id);
        assert_eq!(got.answers, records(&ZONE));
    }
    lab.stop().await;
}

#[tokio::test]
async fn many_questions_at_once_are_all_answered() {
    let (_upstream, lab) = lab().await;
    let lab = std::sync::Arc::new(lab);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..600 {
        let lab = std::sync::Arc::clone(&lab);
        asking.spawn(async move { lab.udp(&query("x.test.", RecordType::A)).await });
    }
    while let Some(got) = asking.join_next().await {
        assert_eq!(got.unwrap().answers, records(&ZONE));
    }
    assert_eq!(lab.queries().len(), 600);
}
