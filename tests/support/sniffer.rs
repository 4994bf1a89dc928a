/*!
A packet socket on the internet's end of the wire: the proof that something was, or was
not, sent.
*/

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::internet::DISCARD;
use super::namespace::Namespaces;

/// The internet's end of the wire.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A packet from the client.
#[derive(Clone, Debug)]
pub struct Packet {
    /// IANA protocol number.
    pub protocol: u8,
    pub destination: IpAddr,
    /// From the IP header on.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// Whether it belongs to a TCP connection that other packets have opened.
    pub fn continues_tcp(&self) -> bool {
        const TCP: u8 = 6;
        const FLAGS: usize = 13;
        const SYN: u8 = 2;
        let header = if self.destination.is_ipv4() { 20 } else { 40 };
        let flags = self.bytes.get(header + FLAGS);
        self.protocol == TCP && flags.is_some_and(|flags| flags & SYN == 0)
    }

    pub fn contains(&self, needle: &[u8]) -> bool {
        self.bytes
            .windows(needle.len())
            .any(|bytes| bytes == needle)
    }
}

/// Collects packets until dropped.
pub struct Sniffer {
    /// Sends, from the client, what tells that all before it has arrived.
    marker: UdpSocket,
    packets: Arc<Mutex<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Watch the interface `wire` in `namespace`, to which `client` is joined; only what is
    /// sent to `only`, if that is given, so that a flood of other packets does not matter.
    pub fn start(namespace: &Namespaces, client: &Namespaces, only: Option<Ipv4Addr>) -> Self {
        let marker = client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let (socket, interface) = namespace.run(|| {
            let kind = SockType::Datagram;
            let all = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, kind, SockFlag::SOCK_CLOEXEC, all).unwrap();
            (socket, if_nametoindex("wire").unwrap())
        });
        if let Some(address) = only {
            filter(&socket, [address, ROUTER]);
        }
        setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20)).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000)).unwrap();
        let packets = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (packets, stop) = (Arc::clone(&packets), Arc::clone(&stop));
            move || collect(&socket, interface as usize, &packets, &stop)
        });
        Self {
            marker,
            packets,
            stop,
            thread: Some(thread),
        }
    }

    /// What has come so far.
    #[track_caller]
    pub fn packets(&self) -> Vec<Packet> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("end of what was sent {count}");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.marker
                .send_to(mark.as_bytes(), (ROUTER, DISCARD))
                .unwrap();
            thread::sleep(Duration::from_millis(20));
            let mut packets = self.packets.lock().unwrap().clone();
            if packets
                .iter()
                .any(|packet| packet.contains(mark.as_bytes()))
            {
                packets.retain(|packet| !packet.contains(b"end of what was sent "));
                return packets;
            }
            assert!(Instant::now() < deadline, "the sniffer sees nothing");
        }
    }

    pub fn packets_to(&self, destination: impl Into<IpAddr>) -> Vec<Packet> {
        let destination = destination.into();
        let mut packets = self.packets();
        packets.retain(|packet| packet.destination == destination);
        packets
    }

    /// The packets that contain `needle` anywhere.
    pub fn packets_with(&self, needle: &[u8]) -> Vec<Packet> {
        let mut packets = self.packets();
        packets.retain(|packet| packet.contains(needle));
        packets
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            assert!(
                joined.is_ok() || thread::panicking(),
                "the sniffer panicked"
            );
        }
    }
}

/// Let `socket`, which sees packets from the IP header on, see only IPv4 ones to these
/// addresses. A classic BPF program (bpf(4), linux/filter.h) in the kernel.
fn filter(socket: &OwnedFd, to: [Ipv4Addr; 2]) {
    const LOAD_OCTET: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        instruction(LOAD_OCTET, 0, 0, 0),
        instruction(AND, 0, 0, 0xf0),
        instruction(JUMP_IF_EQUAL, 0, 3, 0x40),
        instruction(LOAD_WORD, 0, 0, 16),
        instruction(JUMP_IF_EQUAL, 2, 0, to[0].to_bits()),
        instruction(JUMP_IF_EQUAL, 1, 0, to[1].to_bits()),
        instruction(RETURN, 0, 0, 0),
        instruction(RETURN, 0, 0, u32::MAX),
    ];
    let program = libc::sock_fprog {
        len: 8,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, whose eight instructions outlive the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            libc::socklen_t::try_from(size_of_val(&program)).unwrap(),
        )
    };
    Errno::result(result).unwrap();
}

fn collect(socket: &OwnedFd, interface: usize, packets: &Mutex<Vec<Packet>>, stop: &AtomicBool) {
    /// `PACKET_OUTGOING` of packet(7). Everything else has come: to us, to all, to a group.
    const FROM_US: u8 = 4;
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((len, Some(from))) => {
                let has_come = from.pkttype() != FROM_US && from.ifindex() == interface;
                if let Some(packet) = parse(&buffer[..len.min(buffer.len())])
                    && has_come
                {
                    packets.lock().unwrap().push(packet);
                }
            }
            Ok((_, None)) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => panic!("cannot sniff: {error}"),
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Packet> {
    let (protocol, destination) = match bytes.first()? >> 4 {
        4 => {
            let address: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
            (bytes[9], Ipv4Addr::from(address).into())
        }
        6 => {
            let address: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
            (bytes[6], Ipv6Addr::from(address).into())
        }
        _ => return None,
    };
    Some(Packet {
        protocol,
        destination,
        bytes: bytes.to_vec(),
    })
}
