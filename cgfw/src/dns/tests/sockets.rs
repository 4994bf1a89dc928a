//! Binding, both families, and the end.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_server::Server;
use tokio::net::{TcpStream, UdpSocket};

use super::lab::{Setup, Upstream, bytes, policy, query, records};
use crate::dns::handler::{Handler, Shared};
use crate::dns::tcp::{read_message, write_message};
use crate::dns::{Sockets, run};

const ZONE: [&str; 1] = ["x.test. 5 192.0.2.1"];

/// `::1`, as the kernel writes it: whether there is one is not for the proxy to say.
fn loopback_has_ipv6() -> bool {
    fs::read_to_string("/proc/net/if_inet6")
        .is_ok_and(|addresses| addresses.contains("00000000000000000000000000000001 "))
}

#[test]
fn all_sockets_have_one_port_and_each_run_its_own() {
    let runs: Vec<Sockets> = (0..20).map(|_| Sockets::bind().unwrap()).collect();
    let mut ports: Vec<u16> = runs.iter().map(Sockets::port).collect();
    for sockets in &runs {
        assert_eq!(sockets.has_ipv6(), loopback_has_ipv6());
        for (udp, tcp) in [Some(&sockets.v4), sockets.v6.as_ref()]
            .into_iter()
            .flatten()
        {
            assert!(udp.local_addr().unwrap().ip().is_loopback());
            assert_eq!(udp.local_addr().unwrap().port(), sockets.port());
            assert_eq!(udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        }
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), runs.len());
}

#[tokio::test]
async fn ipv6_is_served_where_it_is_on() {
    let upstream = Upstream::with_zone(&ZONE).await;
    let lab = Setup::new(policy(&[], &[]), &[&upstream]).start();
    if !loopback_has_ipv6() {
        return;
    }
    let query = query("x.test.", RecordType::A);
    let address = (Ipv6Addr::LOCALHOST, lab.port);
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(address).await.unwrap();
    socket.send(&bytes(&query)).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    let got = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(got.answers, records(&ZONE));

    let mut stream = TcpStream::connect(address).await.unwrap();
    write_message(&mut stream, &bytes(&query)).await.unwrap();
    let got = read_message(&mut stream).await.unwrap();
    assert_eq!(Message::from_vec(&got).unwrap().answers, records(&ZONE));

    for (fact, port) in lab.queries().iter().zip([
        socket.local_addr().unwrap().port(),
        stream.local_addr().unwrap().port(),
    ]) {
        assert!(fact.key.ipv6);
        assert_eq!(fact.key.port, port);
    }
    lab.stop().await;
}

#[tokio::test]
async fn after_the_end_the_port_is_free() {
    let upstream = Upstream::silent().await;
    let lab = Setup::new(policy(&["github.com"], &[]), &[&upstream]).start();
    let port = lab.port;
    // With a question that is never answered on its way.
    lab.datagram(&bytes(&query("x.test.", RecordType::A))).await;
    lab.stop().await;
    tokio::task::yield_now().await;
    UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
}

#[tokio::test]
async fn a_socket_that_closes_is_an_error() {
    let (proxy, ..) = Setup::new(policy(&[], &[]), &[]).proxy();
    let handler = Handler(std::sync::Arc::new(Shared::new(proxy, 0)));
    let error = run(Server::new(handler)).await.unwrap_err();
    assert_eq!(error.to_string(), "the DNS socket has closed");
}
