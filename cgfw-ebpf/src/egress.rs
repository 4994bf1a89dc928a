//! The last word: every packet of every protocol that a socket of the cgroup sends.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::SkBuffContext;
use cgfw_common::{ACT_PACKET, ACT_QUERY, ALLOW, BLOCK, Endpoint, OriginalKey, QueryKey, protocol};

use crate::emit::{Current, What, report, report_once};
use crate::maps::{ORIGINALS, QUERIES, config};
use crate::packet::Packet;
use crate::socket::socket_owner;
use crate::verdict::{ANY, DNS_PORT, Destination};

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
    let Some(packet) = Packet::parse(ctx) else {
        return refuse_unparsed();
    };
    // SAFETY: the kernel hands a valid context to the program.
    let on_loopback = unsafe { (*ctx.skb.skb).ifindex } == LOOPBACK;
    let is_tcp = packet.is(protocol::TCP);
    let action = if on_loopback {
        if u32::from(packet.destination.port) == config!(proxy_port) {
            return to_proxy(ctx, &packet);
        }
        packet.destination.action(ALLOW)
    } else if packet.destination.port == DNS_PORT && (is_tcp || packet.is(protocol::UDP)) {
        // What got here was not redirected: a crafted packet.
        BLOCK
    } else {
        packet.destination.action(config!(unresolved))
    };
    if action == ALLOW {
        // A connect reported TCP, and nobody needs to hear of loopback.
        if !is_tcp && !on_loopback {
            report_once(Current::task().owner(), &what(action, &packet));
        }
        return PASS;
    }
    let owner = if is_tcp {
        socket_owner(cookie(ctx))
    } else {
        Current::task().owner()
    };
    report_once(owner, &what(action, &packet));
    refusal()
}

/// A DNS message for the proxy: say who sends it and to whom it was addressed, before
/// the proxy can have received it.
#[inline(always)]
fn to_proxy(ctx: &SkBuffContext, packet: &Packet) -> i32 {
    let is_udp = packet.is(protocol::UDP);
    if !is_udp && !packet.is_syn(ctx) {
        return PASS;
    }
    let id = if is_udp { packet.dns_id(ctx) } else { 0 };
    let key = OriginalKey {
        cookie: cookie(ctx),
        ipv6: u32::from(packet.ipv6),
        reserved: 0,
    };
    // SAFETY: an LRU value may be reused while it is read; then the proxy asks another
    // server that this child named.
    if let Some(original) = unsafe { ORIGINALS.get(key) } {
        let query = QueryKey {
            protocol: packet.destination.protocol as u8,
            ipv6: u8::from(packet.ipv6),
            port: packet.source_port,
            id,
            reserved: 0,
        };
        // Without room the proxy asks the system's resolver.
        let _ignored = QUERIES.insert(query, Endpoint { ..*original }, ANY);
    }
    report(&What {
        kind: ACT_QUERY,
        action: ALLOW,
        destination: packet.destination,
        source_port: packet.source_port,
        id,
        ipv6: u32::from(packet.ipv6),
    });
    PASS
}

#[inline(always)]
fn what(action: u32, packet: &Packet) -> What {
    What {
        kind: ACT_PACKET,
        action,
        destination: packet.destination,
        source_port: packet.source_port,
        id: 0,
        ipv6: u32::from(packet.ipv6),
    }
}

/// What cannot be parsed is dropped and reported under protocol 0.
#[inline(always)]
fn refuse_unparsed() -> i32 {
    let what = What {
        kind: ACT_PACKET,
        action: BLOCK,
        destination: Destination {
            address: [0; 4],
            port: 0,
            protocol: 0,
        },
        source_port: 0,
        id: 0,
        ipv6: 0,
    };
    report_once(Current::task().owner(), &what);
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
