/*!
A packet socket on the internet's end of the wire: the proof that something was, or was
not, sent.
*/

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::namespace::Namespaces;

/// A packet from the client.
#[derive(Clone, Debug)]
pub struct Packet {
    /// IANA protocol number.
    pub protocol: u8,
    pub destination: IpAddr,
    /// From the IP header on.
    pub bytes: Vec<u8>,
}

/// Collects packets until dropped.
pub struct Sniffer {
    packets: Arc<Mutex<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Watch the interface `wire` in `namespace`.
    pub fn start(namespace: &Namespaces) -> Self {
        let (socket, interface) = namespace.run(|| {
            let kind = SockType::Datagram;
            let all = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, kind, SockFlag::SOCK_CLOEXEC, all).unwrap();
            (socket, if_nametoindex("wire").unwrap())
        });
        setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20)).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000)).unwrap();
        let packets = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (packets, stop) = (Arc::clone(&packets), Arc::clone(&stop));
            move || collect(&socket, interface as usize, &packets, &stop)
        });
        Self {
            packets,
            stop,
            thread: Some(thread),
        }
    }

    /// What came so far. The wire has no delay, so that this is all that was sent.
    pub fn packets(&self) -> Vec<Packet> {
        thread::sleep(Duration::from_millis(50));
        self.packets.lock().unwrap().clone()
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
        packets.retain(|packet| {
            packet
                .bytes
                .windows(needle.len())
                .any(|bytes| bytes == needle)
        });
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

fn collect(socket: &OwnedFd, interface: usize, packets: &Mutex<Vec<Packet>>, stop: &AtomicBool) {
    /// `PACKET_HOST` of packet(7): to us, neither from us nor for somebody else.
    const TO_US: u8 = 0;
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((len, Some(from))) => {
                let to_us = from.pkttype() == TO_US && from.ifindex() == interface;
                if let Some(packet) = parse(&buffer[..len.min(buffer.len())])
                    && to_us
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
