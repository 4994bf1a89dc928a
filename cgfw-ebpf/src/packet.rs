//! What a packet says of itself. Data starts at the IP header.

use aya_ebpf::programs::SkBuffContext;
use cgfw_common::protocol;

use crate::verdict::{Destination, mapped};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Offset and more-fragments flag of an IPv4 header, RFC 791.
const FRAGMENT: u32 = 0x3fff;
const TCP_FLAGS: usize = 13;
const TCP_SYN_ACK: u8 = 0x12;
const TCP_SYN: u8 = 0x02;
const UDP_HEADER: usize = 8;

/// As much of a packet as a verdict needs.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) destination: Destination,
    pub(crate) source_port: u16,
    pub(crate) ipv6: bool,
}

impl Packet {
    /// `None` for what is not understood to the last field, which is then dropped: IPv4
    /// options and IPv6 extension headers move the ports out of sight, fragments leave
    /// them out. The kernel's own fragments are made after this hook, and a header
    /// that a script crafted is not owed a parser.
    ///
    /// The version is read from the packet. Taking a v6 packet for v4 would find bytes
    /// of its source address where a v4 destination is.
    ///
    /// Every load is a call. Six words hold an IPv4 header (RFC 791 section 3.1) and the
    /// ports; no packet of a protocol that passes is shorter.
    #[inline(always)]
    pub(crate) fn parse(ctx: &SkBuffContext) -> Option<Self> {
        let head: [u32; 6] = ctx.load(0).ok()?;
        let first = u32::from_be(head[0]);
        let second = u32::from_be(head[1]);
        match first >> 28 {
            4 if first >> 24 & 15 == 5 && second & FRAGMENT == 0 => Self::with_ports(
                u32::from_be(head[2]) >> 16,
                mapped(head[4]),
                u32::from_be(head[5]),
                false,
            ),
            6 => {
                // The destination, RFC 8200 section 3, and the ports behind it.
                let [a, b, c, d, ports] = ctx.load(IPV6_HEADER - 16).ok()?;
                Self::with_ports(second >> 8, [a, b, c, d], u32::from_be(ports), true)
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn with_ports(number: u32, address: [u32; 4], ports: u32, ipv6: bool) -> Option<Self> {
        let number = number as u16 & 0xff;
        let (source_port, port) = match number {
            protocol::TCP | protocol::UDP | protocol::UDPLITE => {
                ((ports >> 16) as u16, ports as u16)
            }
            protocol::ICMP | protocol::ICMPV6 => (0, 0),
            _ => return None,
        };
        Some(Self {
            destination: Destination {
                address,
                port,
                protocol: number,
            },
            source_port,
            ipv6,
        })
    }

    #[inline(always)]
    pub(crate) fn is(&self, protocol: u16) -> bool {
        self.destination.protocol == protocol
    }

    /// Whether the protocol has ports, so that there is a socket to receive it.
    #[inline(always)]
    pub(crate) fn has_ports(&self) -> bool {
        !self.is(protocol::ICMP) && !self.is(protocol::ICMPV6)
    }

    /// Where the transport header starts: options and extensions are not parsed.
    #[inline(always)]
    fn transport(&self) -> usize {
        if self.ipv6 { IPV6_HEADER } else { IPV4_HEADER }
    }

    /// Whether this opens a TCP connection.
    #[inline(always)]
    pub(crate) fn is_syn(&self, ctx: &SkBuffContext) -> bool {
        ctx.load::<u8>(self.transport() + TCP_FLAGS)
            .is_ok_and(|flags| flags & TCP_SYN_ACK == TCP_SYN)
    }

    /// The id of the DNS message in a UDP datagram; 0 if it is too short to have one.
    #[inline(always)]
    pub(crate) fn dns_id(&self, ctx: &SkBuffContext) -> u16 {
        ctx.load(self.transport() + UDP_HEADER)
            .map_or(0, u16::from_be)
    }
}
