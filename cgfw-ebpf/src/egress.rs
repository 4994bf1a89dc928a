//! The last word: every packet of every protocol that a socket of the cgroup sends.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::SkBuffContext;
use cgfw_common::{
    ACT_DELEGATION, ACT_PACKET, ACT_QUERY, ALLOW, BLOCK, COUNTER_UNPARSED, Deed, OriginalKey,
    QueryKey, protocol,
};

use crate::emit::{count, current_owner, report, was_seen};
use crate::maps::{ORIGINALS, QUERIES, config};
use crate::packet::Packet;
use crate::peer::packet_is_outside;
use crate::socket::socket_owner;
use crate::verdict::{ANY, DNS_PORT, is_loopback};

const PASS: i32 = 1;
/// Drop; a UDP sender gets EPERM.
const REFUSE: i32 = 0;
/// Drop; a UDP sender is told of success. include/linux/bpf.h, BPF_RET_SET_CN.
const VANISH: i32 = 2;

/// LOOPBACK_IFINDEX, include/net/flow.h. An address proves nothing here: a socket that
/// is bound to a device sends "127.0.0.1" out of that device.
const LOOPBACK: u32 = 1;

#[inline(always)]
pub(crate) fn egress(ctx: &SkBuffContext) -> i32 {
    // SAFETY: the kernel hands a valid context to the program.
    let on_loopback = unsafe { (*ctx.skb.skb).ifindex } == LOOPBACK;
    let Some(packet) = Packet::parse(ctx) else {
        return refuse_unparsed();
    };
    let destination = &packet.destination;
    let is_tcp = packet.is(protocol::TCP);
    let owner;
    let deed;
    if on_loopback && u32::from(destination.port) == config!(proxy_port) {
        if is_tcp && !packet.is_syn(ctx) {
            return PASS;
        }
        owner = None;
        deed = query(ctx, &packet);
    } else {
        let (mut kind, mut action) = (ACT_PACKET, judge(&packet, on_loopback));
        if action == ALLOW && on_loopback {
            let may_be_outside = if is_tcp {
                packet.is_syn(ctx)
            } else {
                packet.has_ports()
            };
            if !may_be_outside || !packet_is_outside(ctx, &packet) {
                return PASS;
            }
            kind = ACT_DELEGATION;
            if config!(strict) != 0 {
                action = BLOCK;
            }
        } else if action == ALLOW && is_tcp {
            return PASS;
        }
        owner = Some(if is_tcp && kind == ACT_PACKET {
            socket_owner(cookie(ctx))
        } else {
            current_owner()
        });
        deed = destination.deed(kind, action);
    }
    // The one place that reports: the verifier walks it again for every way that leads
    // here, and start-up waits for the verifier.
    if !owner.is_some_and(|owner| was_seen(owner, &deed)) {
        report(&deed);
    }
    if deed.action == ALLOW {
        return PASS;
    }
    refusal()
}

#[inline(always)]
fn judge(packet: &Packet, on_loopback: bool) -> u32 {
    let destination = &packet.destination;
    // A socket that is bound to a device sends what is for this host out of that device,
    // questions that were redirected to the proxy included. And what is for port 53 there was
    // not redirected: a crafted packet.
    let is_astray = is_loopback(&destination.address)
        || destination.port == DNS_PORT && !packet.is(protocol::ICMP);
    if is_astray && !on_loopback {
        return BLOCK;
    }
    destination.action(|unresolved| if on_loopback { ALLOW } else { unresolved })
}

/// A DNS message for the proxy: say who sends it, and note to whom it was addressed,
/// before the proxy can have received it.
#[inline(always)]
fn query(ctx: &SkBuffContext, packet: &Packet) -> Deed {
    let id = if packet.is(protocol::UDP) {
        packet.dns_id(ctx)
    } else {
        0
    };
    let ipv6 = packet.ipv6;
    let key = OriginalKey {
        cookie: cookie(ctx),
        ipv6: u32::from(ipv6),
        reserved: 0,
    };
    // SAFETY: an LRU value may be reused while it is read; then the proxy asks another
    // server that this child named.
    if let Some(original) = unsafe { ORIGINALS.get(key) } {
        let query = QueryKey {
            protocol: packet.destination.protocol as u8,
            ipv6: u8::from(ipv6),
            port: packet.source_port,
            id,
            reserved: 0,
        };
        // Without room the proxy asks the system's resolver.
        let _ignored = QUERIES.insert(query, original, ANY);
    }
    Deed {
        source_port: packet.source_port,
        id,
        ..packet.destination.deed(ACT_QUERY, ALLOW)
    }
}

/// A packet that is not understood is counted and not described: it has no destination.
#[inline(always)]
fn refuse_unparsed() -> i32 {
    count(COUNTER_UNPARSED);
    refusal()
}

#[inline(always)]
fn refusal() -> i32 {
    if config!(audit) != 0 {
        PASS
    } else if config!(vanish) != 0 {
        VANISH
    } else {
        REFUSE
    }
}

#[inline(always)]
fn cookie(ctx: &SkBuffContext) -> u64 {
    // SAFETY: the context of the running program.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}
