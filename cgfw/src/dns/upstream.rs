//! Asking other servers: fresh sockets, random ids and ports, timeouts and failover.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::tcp::{read_message, write_message};
use super::wire::{MAX_UDP, Question, Reply, Sent};
use crate::policy::Transport;

/// How long a client waits at the most. glibc asks again after 5 s (resolv.conf(5)).
pub(super) const OVERALL: Duration = Duration::from_millis(4500);
/// How long one server gets, unless there are so many that each has to get less.
pub(super) const TRY: Duration = Duration::from_secs(2);
/// How often each server is asked: a datagram may just have been lost.
const ROUNDS: usize = 2;

/// Servers in the order of preference: the one that answered last, then the others.
#[derive(Debug)]
pub(super) struct Upstreams {
    servers: Vec<SocketAddr>,
    preferred: AtomicUsize,
}

impl Upstreams {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            preferred: AtomicUsize::new(0),
        }
    }

    /// Ask the servers, one after the other, until one answers.
    pub(super) async fn ask(
        &self,
        question: &Question,
        transport: Transport,
    ) -> Result<(SocketAddr, Reply), Failure> {
        let mut servers = self.servers.clone();
        if !servers.is_empty() {
            servers.rotate_left(self.preferred.load(Ordering::Relaxed));
        }
        let answered = ask(&servers, question, transport).await?;
        if let Some(index) = self.servers.iter().position(|server| *server == answered.0) {
            self.preferred.store(index, Ordering::Relaxed);
        }
        Ok(answered)
    }
}

/// Why there is no reply.
#[derive(Debug)]
pub(super) struct Failure(Option<(SocketAddr, io::Error)>);

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((server, error)) => write!(f, "no answer from {server}: {error}"),
            None => f.write_str("there is no server to ask"),
        }
    }
}

/// Ask `servers` in order, within [`OVERALL`].
///
/// As glibc does, one that answers with a failure of its own (SERVFAIL, NOTIMP, REFUSED)
/// gives the others a chance; if none does better, its reply stands.
pub(super) async fn ask(
    servers: &[SocketAddr],
    question: &Question,
    transport: Transport,
) -> Result<(SocketAddr, Reply), Failure> {
    let deadline = Instant::now() + OVERALL;
    let patience = servers
        .len()
        .try_into()
        .map_or(TRY, |servers: u32| TRY.min(OVERALL / servers.max(1)));
    let mut failure = Failure(None);
    for _ in 0..ROUNDS {
        let mut unwilling = None;
        for server in servers {
            let until = deadline.min(Instant::now() + patience);
            let attempt = timeout_at(until, exchange(*server, question, transport)).await;
            match attempt.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
                Ok(reply) if is_unwilling(&reply) => {
                    unwilling.get_or_insert((*server, reply));
                }
                Ok(reply) => return Ok((*server, reply)),
                Err(error) => failure = Failure(Some((*server, error))),
            }
        }
        if let Some(reply) = unwilling {
            return Ok(reply);
        }
    }
    Err(failure)
}

fn is_unwilling(reply: &Reply) -> bool {
    matches!(
        reply.metadata.response_code,
        ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused
    )
}

/// Ask one server, again without EDNS if it does not know that.
async fn exchange(
    server: SocketAddr,
    question: &Question,
    transport: Transport,
) -> io::Result<Reply> {
    let reply = exchange_once(server, question, transport).await?;
    if question.has_edns() && reply.rejects_edns() {
        return exchange_once(server, &question.without_edns(), transport).await;
    }
    Ok(reply)
}

async fn exchange_once(
    server: SocketAddr,
    question: &Question,
    transport: Transport,
) -> io::Result<Reply> {
    let sent = question.encode().map_err(io::Error::other)?;
    let bytes = match transport {
        Transport::Tcp => over_tcp(server, &sent).await?,
        Transport::Udp | Transport::Other => over_udp(server, &sent).await?,
    };
    Reply::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// One connected socket per message: the kernel draws a random port, delivers only what
/// comes from `server`, and turns ICMP errors into errors.
async fn over_udp(server: SocketAddr, sent: &Sent) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&sent.message).await?;
    let mut buffer = vec![0; usize::from(MAX_UDP)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything else is late, twice or forged: the right reply may still come.
        if sent.is_answered_by(&buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

/// One connection per message.
async fn over_tcp(server: SocketAddr, sent: &Sent) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    write_message(&mut stream, &sent.message).await?;
    loop {
        let bytes = read_message(&mut stream).await?;
        if sent.is_answered_by(&bytes) {
            return Ok(bytes);
        }
    }
}

/// Ask over UDP, and over TCP if the reply did not fit.
pub(super) async fn ask_whole(
    upstreams: &Upstreams,
    question: &Question,
) -> Result<(SocketAddr, Reply), Failure> {
    let (server, reply) = upstreams.ask(question, Transport::Udp).await?;
    if !reply.metadata.truncation {
        return Ok((server, reply));
    }
    ask(&[server], question, Transport::Tcp).await
}
