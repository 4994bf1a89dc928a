/*!
The judging DNS proxy.

The kernel side redirects what the child sends to port 53 to the sockets made here.
Each question is judged, asked upstream, judged again with everything that the answer
says it is an alias of, and answered; addresses are pinned before the answer leaves.

Knows no maps, no processes and no kernel: what it finds goes out through the closures
of [`Proxy`]. `judge`, `wire` and `answer` are pure, `upstream` and `handler` talk.
*/

mod answer;
mod handler;
mod judge;
mod known;
mod lookup;
mod replay;
mod synthetic;
pub mod system;
mod tcp;
mod upstream;
mod wire;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use hickory_server::Server;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::handler::{Handler, Shared};
pub use self::known::known_hosts;
pub use self::lookup::{Found, Resolver};
pub use self::replay::replay;
use crate::event::{Event, QueryKey};
use crate::pins::Lead;
use crate::policy::{Judgement, OnBlock, Policy};

/// What the kernel may keep of questions that were not read yet, in octets. The default
/// holds some 270 datagrams: a build that resolves a thousand names at once lost most.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How many ports are tried before giving up: one that is free for UDP need not be free
/// for TCP (5 of 63 starts, measured).
const PORT_ATTEMPTS: usize = 64;

/// The sockets of the proxy, all on one port of 127.0.0.1 and, where IPv6 is on, `::1`.
#[derive(Debug)]
pub struct Sockets {
    port: u16,
    v4: (UdpSocket, TcpListener),
    v6: Option<(UdpSocket, TcpListener)>,
}

impl Sockets {
    /// Bind a port that is free for all of them.
    pub fn bind() -> io::Result<Self> {
        let mut attempt = Self::bind_once();
        for _ in 1..PORT_ATTEMPTS {
            match attempt {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    attempt = Self::bind_once();
                }
                settled => return settled,
            }
        }
        attempt
    }

    fn bind_once() -> io::Result<Self> {
        let v4 = bind_pair(Ipv4Addr::LOCALHOST.into(), 0)?;
        let port = v4.0.local_addr()?.port();
        let v6 = match bind_pair(Ipv6Addr::LOCALHOST.into(), port) {
            Ok(pair) => Some(pair),
            Err(error) if has_no_ipv6(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { port, v4, v6 })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether `::1` is served, too.
    pub fn has_ipv6(&self) -> bool {
        self.v6.is_some()
    }
}

fn bind_pair(address: IpAddr, port: u16) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind((address, port))?;
    let tcp = TcpListener::bind(udp.local_addr()?)?;
    // Beyond the system's limit only as root, which the proxy is wherever it matters.
    if setsockopt(&udp, RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&udp, RcvBuf, &RECEIVE_BUFFER)?;
    }
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

/// Without the protocol (`ipv6.disable=1`), or without addresses (`disable_ipv6`).
fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

/// Writes down the verdicts on the addresses that a name with this judgement leads to.
pub type Pin = Box<dyn Fn(&Policy, &Lead, &Judgement, &[IpAddr]) -> io::Result<()> + Send + Sync>;
/// The server that the child had sent a message to, before it was redirected.
pub type Origin = Box<dyn Fn(&QueryKey) -> Option<SocketAddr> + Send + Sync>;
/// Takes what was observed.
pub type Emit = Box<dyn Fn(Event) + Send + Sync>;

/// What the proxy needs to know, and whom it tells.
pub struct Proxy {
    /// The policy in force. It is looked at when there is something to judge, and not before
    /// something else is waited for.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// Refuse nothing; say what would have been refused.
    pub audit: bool,
    pub on_block: OnBlock,
    /// The servers to ask, in order of preference.
    pub upstreams: Vec<SocketAddr>,
    /// Ask the server that the child had chosen, where `origin` knows it, unless the default
    /// verdict is to block: then such a server could pin addresses.
    pub follow: bool,
    /// Called before the answer with these addresses leaves; if it fails, the answer does
    /// not leave.
    pub pin: Pin,
    pub origin: Origin,
    /// Called once for each question, just before it is answered.
    pub emit: Emit,
}

impl Proxy {
    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.borrow())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("audit", &self.audit)
            .field("on_block", &self.on_block)
            .field("upstreams", &self.upstreams)
            .field("follow", &self.follow)
            .finish_non_exhaustive()
    }
}

/// Answer questions until `shutdown` is ready.
///
/// # Errors
///
/// If a socket cannot be used any more. Whoever called has to end the run then: its
/// questions go nowhere.
pub async fn serve(
    sockets: Sockets,
    proxy: Proxy,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let shared = Arc::new(Shared::new(proxy, sockets.port));
    let mut tasks: JoinSet<io::Result<Infallible>> = JoinSet::new();
    for (udp, tcp) in [Some(sockets.v4), sockets.v6].into_iter().flatten() {
        // One each: hickory's server waits for all of its sockets to fail before it says so.
        let mut server = Server::new(Handler(Arc::clone(&shared)));
        server.register_socket(tokio::net::UdpSocket::from_std(udp)?);
        tasks.spawn(run(server));
        let listener = tokio::net::TcpListener::from_std(tcp)?;
        let shared = Arc::clone(&shared);
        tasks.spawn(async { Ok(tcp::serve(listener, shared, tcp::IDLE).await) });
    }
    tasks.spawn(async move { Ok(known::refresh(shared, known::FLOOR).await) });
    tokio::select! {
        () = shutdown => Ok(()),
        Some(ended) = tasks.join_next() => match ended? {
            Err(error) => Err(error),
            Ok(never) => match never {},
        },
    }
}

async fn run(mut server: Server<Handler>) -> io::Result<Infallible> {
    server.block_until_done().await.map_err(io::Error::other)?;
    Err(io::Error::other("the DNS socket has closed"))
}

#[cfg(test)]
mod tests;
