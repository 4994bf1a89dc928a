//! Malformed and hostile messages: an error or nothing, and the proxy lives on.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::lab::{
    Lab, PATIENCE, SOON, Setup, Upstream, bytes, ede, policy, query, records, with_edns,
};
use crate::dns::handler::Shared;
use crate::dns::tcp::{self, MAX_CONNECTIONS, read_message, write_message};
use crate::policy::Transport;

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
            "a pointer into the header",
            with_question(1, b"\xc0\x04\x00\x01\x00\x01"),
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
        let Some(expected) = expected else {
            assert!(lab.ignores(&sent).await, "{what}");
            continue;
        };
        let (_, got) = lab.datagram(&sent).await.expect(what);
        assert_eq!(got[..2], sent[..2], "{what}: the id");
        let got = Message::from_vec(&got).unwrap();
        assert_eq!(got.metadata.message_type, MessageType::Response, "{what}");
        assert!(got.answers.is_empty(), "{what}");
        assert_eq!(got.metadata.response_code, expected, "{what}");
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
async fn responses_and_garbage_over_tcp_are_passed_over() {
    let (_upstream, lab) = lab().await;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, lab.port))
        .await
        .unwrap();
    let response = changed(|m| m.metadata.message_type = MessageType::Response);
    let broken = with_question(1, b"\xc0\x0c\x00\x01\x00\x01");
    let query = bytes(&query("x.test.", RecordType::A));
    for message in [&response[..], b"", b"short", &broken, &query] {
        write_message(&mut stream, message).await.unwrap();
    }
    let mut codes = Vec::new();
    for _ in 0..2 {
        let got = read_message(&mut stream).await.unwrap();
        codes.push(Message::from_vec(&got).unwrap().metadata.response_code);
    }
    assert_eq!(codes, [ResponseCode::FormErr, ResponseCode::NoError]);
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
        write_message(&mut stream, &bytes(query)).await.unwrap();
    }
    for query in &queries {
        let got = Message::from_vec(&read_message(&mut stream).await.unwrap()).unwrap();
        assert_eq!(got.metadata.id, query.metadata.id);
        assert_eq!(got.answers, records(&ZONE));
    }
    lab.stop().await;
}

#[tokio::test]
async fn many_questions_at_once_are_all_answered() {
    let (_upstream, lab) = lab().await;
    let lab = Arc::new(lab);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..600 {
        let lab = Arc::clone(&lab);
        asking.spawn(async move { lab.udp(&query("x.test.", RecordType::A)).await });
    }
    while let Some(got) = asking.join_next().await {
        assert_eq!(got.unwrap().answers, records(&ZONE));
    }
    assert_eq!(lab.queries().len(), 600);
}

/// Both ends of each connection are here.
fn raise_open_files() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(8192)), hard).unwrap();
}

#[tokio::test]
async fn a_tcp_client_beyond_the_bound_waits_for_those_that_are_being_answered() {
    raise_open_files();
    let upstream = Upstream::silent().await;
    let lab = Setup::new(policy(&[], &[]), &[&upstream]).start();
    let message = bytes(&query("x.test.", RecordType::A));
    let mut asking = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 10 {
        let address = (Ipv4Addr::LOCALHOST, lab.port);
        let mut stream = TcpStream::connect(address).await.unwrap();
        write_message(&mut stream, &message).await.unwrap();
        asking.push(stream);
    }
    for stream in &mut asking {
        let reply = timeout(2 * PATIENCE, read_message(stream)).await.unwrap();
        let reply = Message::from_vec(&reply.unwrap()).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }
    lab.stop().await;
}

#[tokio::test]
async fn a_tcp_client_beyond_the_bound_ends_the_oldest() {
    raise_open_files();
    let (_upstream, lab) = lab().await;
    let address = (Ipv4Addr::LOCALHOST, lab.port);
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let query = query("x.test.", RecordType::A);
    assert_eq!(lab.tcp(&query).await.answers, records(&ZONE));
    let read = timeout(PATIENCE, idle[0].read_u8()).await.unwrap();
    assert!(read.is_err(), "the oldest is still connected");
    timeout(SOON, idle[1].read_u8()).await.unwrap_err();
    // UDP does not suffer.
    assert_eq!(lab.udp(&query).await.answers, records(&ZONE));
    lab.stop().await;
}

#[tokio::test]
async fn an_idle_tcp_client_is_disconnected() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (proxy, ..) = Setup::new(policy(&[], &[]), &[]).proxy();
    let shared = Arc::new(Shared::new(proxy, 0));
    let serving = tokio::spawn(tcp::serve(listener, shared, Duration::from_millis(50)));
    for sent in [&b""[..], b"\x00", b"\x00\x20incomplete"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let read = timeout(PATIENCE, stream.read_u8()).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    }
    serving.abort();
}

#[tokio::test]
async fn too_many_questions_are_turned_away_or_wait() {
    let upstream = Upstream::with_zone(&ZONE).await;
    let (proxy, _, events) = Setup::new(policy(&[], &[]), &[&upstream]).proxy();
    let shared = Arc::new(Shared::new(proxy, 0));
    let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 4711));
    let query = with_edns(query("x.test.", RecordType::A), 1232);
    let request = Request::from_bytes(bytes(&query), client, Protocol::Udp).unwrap();
    let ask = async || {
        let answer = shared.answer(&request, Transport::Udp).await;
        Message::from_vec(&answer.encode(&request).unwrap()).unwrap()
    };

    // Too many altogether: an answer at once, and it is reported like any other.
    let questions = shared.questions.available_permits();
    let taken = shared.questions.acquire_many(questions.try_into().unwrap());
    let taken = taken.await.unwrap();
    let got = timeout(PATIENCE, ask()).await.unwrap();
    assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(
        ede(&got),
        Some((0, "more than 4096 questions at once".to_owned()))
    );
    assert_eq!(events.lock().unwrap().len(), 1);
    drop(taken);

    // Too many upstream: they wait, but not for ever.
    let sockets = shared.sockets.available_permits();
    let taken = shared.sockets.acquire_many(sockets.try_into().unwrap());
    let taken = taken.await.unwrap();
    let mut asking = Box::pin(ask());
    timeout(SOON, &mut asking).await.unwrap_err();
    drop(taken);
    assert_eq!(asking.await.answers, records(&ZONE));
    let _taken = shared
        .sockets
        .acquire_many(sockets.try_into().unwrap())
        .await;
    let got = timeout(PATIENCE, ask()).await.unwrap();
    assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
}
