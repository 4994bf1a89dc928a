//! DNS over TCP (RFC 7766), with a bound on connections, which hickory's server has not.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::op::{Header, MessageType, ResponseCode};
use hickory_proto::serialize::binary::BinDecodable as _;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::handler::Shared;
use super::wire::error_message;
use crate::policy::Transport;

/// How many connections may be open at once. A further one ends the oldest that waits for its
/// client; if all of them wait for an answer, it waits for one of those, too.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take to send a message or to read one (RFC 7766 section 6.2.3).
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// How long to wait after `accept` has failed, as it does while there are no descriptors.
const PAUSE: Duration = Duration::from_millis(200);
/// How often to look whether one of too many connections is done.
const GLANCE: Duration = Duration::from_millis(20);

/// A connection that was accepted.
struct Connection {
    task: AbortHandle,
    is_asking: Arc<AtomicBool>,
}

/// Accept connections and answer what is asked on them, for as long as the run lasts.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    idle: Duration,
) -> Infallible {
    let mut tasks = JoinSet::new();
    let mut oldest_first = VecDeque::with_capacity(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                while tasks.try_join_next().is_some() {}
                make_room(&mut oldest_first).await;
                let is_asking = Arc::new(AtomicBool::new(false));
                let (shared, asking) = (Arc::clone(&shared), Arc::clone(&is_asking));
                let task = tasks.spawn(async move {
                    if let Err(error) = converse(stream, client, &shared, idle, &asking).await {
                        tracing::debug!(%error, %client, "a DNS client over TCP went away");
                    }
                });
                oldest_first.push_back(Connection { task, is_asking });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a DNS client over TCP");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Wait until one more connection is not too many.
async fn make_room(oldest_first: &mut VecDeque<Connection>) {
    let waits_for_client = |connection: &Connection| !connection.is_asking.load(Ordering::Relaxed);
    loop {
        oldest_first.retain(|connection| !connection.task.is_finished());
        if oldest_first.len() < MAX_CONNECTIONS {
            return;
        }
        let oldest = oldest_first.iter().position(waits_for_client);
        if let Some(oldest) = oldest.and_then(|at| oldest_first.remove(at)) {
            oldest.task.abort();
            return;
        }
        sleep(GLANCE).await;
    }
}

/// Answer one message after the other, until the client has no more.
async fn converse(
    mut stream: TcpStream,
    client: SocketAddr,
    shared: &Shared,
    idle: Duration,
    is_asking: &AtomicBool,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let message = timeout(idle, read_message(&mut stream)).await??;
        is_asking.store(true, Ordering::Relaxed);
        if let Some(reply) = answer(message, client, shared).await {
            timeout(idle, write_message(&mut stream, &reply)).await??;
        }
        is_asking.store(false, Ordering::Relaxed);
    }
}

/// The reply to a message in octets; `None` if it deserves none.
async fn answer(message: Vec<u8>, client: SocketAddr, shared: &Shared) -> Option<Vec<u8>> {
    let header = Header::from_bytes(&message).ok()?;
    // To answer an answer is to be played off against another server.
    if header.message_type == MessageType::Response {
        return None;
    }
    let Ok(request) = Request::from_bytes(message, client, Protocol::Tcp) else {
        return error_message(&header, ResponseCode::FormErr);
    };
    let answer = shared.answer(&request, Transport::Tcp).await;
    match answer.encode(&request) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::error!(%error, "cannot encode a DNS answer");
            error_message(&header, ResponseCode::ServFail)
        }
    }
}

/// Each message is behind its length (RFC 1035 section 4.2.2).
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// In one write, as RFC 7766 section 8 asks for.
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}
