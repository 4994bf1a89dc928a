//! What a packet says of itself. Data starts at the IP header.

use aya_ebpf::programs::SkBuffContext;
use cgfw_common::protocol;

use crate::verdict::{Destination, mapped};

/// RFC 791 section 3.1.
#[repr(C)]
struct Ipv4Header {
    version_ihl: u8,
    tos: u8,
    length: u16,
    id: u16,
    fragment_be: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

/// RFC 8200 section 3.
#[repr(C)]
struct Ipv6Header {
    version_flow: u32,
    length: u16,
    next: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

const IPV4_HEADER: usize = size_of::<Ipv4Header>();
const IPV6_HEADER: usize = size_of::<Ipv6Header>();
/// Offset and more-fragments flag of an IPv4 header, RFC 791.
const FRAGMENT: u16 = 0x3fff;
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
    #[inline(always)]
    pub(crate) fn parse(ctx: &SkBuffContext) -> Option<Self> {
        let version: u8 = ctx.load(0).ok()?;
        match version >> 4 {
            4 if version & 15 == 5 => {
                let header: Ipv4Header = ctx.load(0).ok()?;
                if u16::from_be(header.fragment_be) & FRAGMENT != 0 {
                    return None;
                }
                let address = mapped(header.destination);
                Self::with_ports(ctx, IPV4_HEADER, header.protocol, address, false)
            }
            6 => {
                let header: Ipv6Header = ctx.load(0).ok()?;
                Self::with_ports(ctx, IPV6_HEADER, header.next, header.destination, true)
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn with_ports(
        ctx: &SkBuffContext,
        transport: usize,
        number: u8,
        address: [u32; 4],
        ipv6: bool,
    ) -> Option<Self> {
        let (source_port, port) = match u16::from(number) {
            protocol::TCP | protocol::UDP | protocol::UDPLITE => {
                let [source_be, destination_be]: [u16; 2] = ctx.load(transport).ok()?;
                (u16::from_be(source_be), u16::from_be(destination_be))
            }
            protocol::ICMP | protocol::ICMPV6 => (0, 0),
            _ => return None,
        };
        Some(Self {
            destination: Destination {
                address,
                port,
                protocol: u16::from(number),
            },
            source_port,
            ipv6,
        })
    }

    #[inline(always)]
    pub(crate) fn is(&self, protocol: u16) -> bool {
        self.destination.protocol == protocol
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
