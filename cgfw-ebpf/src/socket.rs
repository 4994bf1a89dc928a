//! Hooks on addresses that a process gives or gets: connect, sendmsg, recvmsg, getpeername.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use aya_log_ebpf::debug;
use cgfw_common::{
    ACT_CONNECT, ACT_DELEGATION, ACT_PACKET, ACT_SOCKET, ALLOW, Address, BLOCK, Endpoint,
    OriginalKey, Owner, protocol,
};

use crate::emit::{current_owner, mark_seen, report_once};
use crate::maps::{ORIGINALS, config};
use crate::peer::connect_is_outside;
use crate::traffic;
use crate::verdict::{
    ANY, DNS_PORT, Destination, LOOPBACK4, LOOPBACK6, is_loopback, is_mapped, is_own, mapped,
};

/// What a program returns: the call goes on.
pub(crate) const PASS: i32 = 1;
/// The call fails, with EPERM or what bpf_set_retval said.
pub(crate) const REFUSE: i32 = 0;

/// include/linux/net.h; aya's bindings lack them.
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;

/// Port 1 of 127.0.0.1, where nobody listens: on kernels without bpf_set_retval a TCP
/// connect that is sent there fails at once with ECONNREFUSED.
const NOBODY: u16 = 1;

/// The address of a `bpf_sock_addr`, of which the attach point decides which half is
/// meant. Never `user_family`, which the caller chooses: sendto() with AF_UNSPEC.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// connect(): redirect DNS, refuse TCP at once. A UDP connect is no contact (libc sorts
/// addresses with it); egress judges its first packet.
#[inline(always)]
pub(crate) fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let destination = destination(ctx, family);
    if destination.port == DNS_PORT {
        return redirect(ctx, family, &destination);
    }
    let is_tcp = matches!(destination.protocol, protocol::TCP | protocol::MPTCP);
    if !is_tcp {
        return PASS;
    }
    judge(ctx, family, ACT_CONNECT, &destination)
}

/// sendto() and sendmsg() that name a destination. A connected v4-mapped socket comes
/// by with the address that was redirected at its connect.
#[inline(always)]
pub(crate) fn sendmsg(ctx: &SockAddrContext, family: Family) -> i32 {
    let destination = destination(ctx, family);
    if destination.port == DNS_PORT {
        return redirect(ctx, family, &destination);
    }
    if is_proxy(&destination) {
        return PASS;
    }
    judge(ctx, family, ACT_PACKET, &destination)
}

/// recvmsg() and getpeername(): the proxy looks like the server that was meant. musl
/// and c-ares discard an answer from any other address.
#[inline(always)]
pub(crate) fn restore(ctx: &SockAddrContext, family: Family) -> i32 {
    let peer = destination(ctx, family);
    if !is_proxy(&peer) {
        return PASS;
    }
    let key = original_key(ctx, &peer.address);
    // SAFETY: an LRU value may be reused while it is read; the worst is another server's
    // address in one getpeername, and the client then drops one answer.
    let Some(original) = (unsafe { ORIGINALS.get(key) }).copied() else {
        return PASS;
    };
    write(ctx, family, &original.address, original.port as u16);
    PASS
}

/// socket(): TCP, UDP and ping. Anything else would pass the connect hooks by. A raw
/// ICMP socket is what ping uses where ping sockets are not enabled; what it sends is
/// judged by egress like everything else.
#[inline(always)]
pub(crate) fn create(ctx: &SockContext) -> i32 {
    // SAFETY: the kernel hands a valid bpf_sock to the program.
    let sock = unsafe { &*ctx.sock };
    let kind = load(&sock.type_);
    let number = load(&sock.protocol) as u16;
    match (kind, number) {
        (SOCK_STREAM, protocol::TCP | protocol::MPTCP)
        | (SOCK_DGRAM, protocol::UDP | protocol::ICMP | protocol::ICMPV6)
        | (SOCK_RAW, protocol::ICMP | protocol::ICMPV6) => return PASS,
        _ => {}
    }
    let destination = Destination {
        address: [0; 4],
        port: 0,
        protocol: number,
    };
    report_once(current_owner(), &destination.deed(ACT_SOCKET, BLOCK));
    if config!(audit) == 0 { REFUSE } else { PASS }
}

/// A socket is gone, and with it what was remembered of it.
#[inline(always)]
pub(crate) fn release(ctx: &SockContext) -> i32 {
    let cookie = cookie(ctx.as_ptr());
    // One that began a connection elsewhere was not redirected, and every look-up takes time.
    if traffic::end(ctx, cookie) {
        return PASS;
    }
    for ipv6 in [0, 1] {
        // Most sockets were never redirected: nothing to remove.
        let _ignored = ORIGINALS.remove(OriginalKey {
            cookie,
            ipv6,
            reserved: 0,
        });
    }
    PASS
}

/// Ask the maps, and do and report what they say.
#[inline(always)]
fn judge(ctx: &SockAddrContext, family: Family, kind: u32, destination: &Destination) -> i32 {
    let mut kind = kind;
    let mut action = destination.action(|unresolved| {
        if is_loopback(&destination.address) {
            ALLOW
        } else {
            unresolved
        }
    });
    // Egress sees who listens on this host. But a SYN that it drops is sent again and again.
    if config!(strict) != 0
        && kind == ACT_CONNECT
        && action == ALLOW
        && is_own(&destination.address)
        && connect_is_outside(ctx, destination)
    {
        (kind, action) = (ACT_DELEGATION, BLOCK);
    }
    debug!(
        ctx,
        "port {} protocol {} action {}", destination.port, destination.protocol, action
    );
    let enforced = config!(audit) == 0;
    // What egress reports is not reported here: datagrams that are allowed, because it
    // sees those of connected sockets too, and everything that vanishes. Loopback is no
    // contact of its own.
    if action == ALLOW && (kind == ACT_PACKET || is_loopback(&destination.address)) {
        return PASS;
    }
    let owner = current_owner();
    let vanishes = action != ALLOW && config!(vanish) != 0 && enforced;
    if !vanishes {
        report_once(owner, &destination.deed(kind, action));
        if action != ALLOW && enforced {
            return refuse(ctx, family, kind);
        }
    }
    if kind == ACT_CONNECT {
        traffic::begin(cookie(ctx.as_ptr()), owner, destination, action);
    }
    if action != ALLOW && !vanishes {
        let packet = destination.deed(ACT_PACKET, action);
        mark_seen(socket_owner(cookie(ctx.as_ptr())), &packet);
    }
    PASS
}

/// Packets of TCP belong to the socket: what the connect reported, egress does not
/// repeat, and a retransmission, which runs under whatever process it interrupts, is
/// attributed to nobody.
#[inline(always)]
pub(crate) fn socket_owner(cookie: u64) -> Owner {
    Owner {
        stamp: cookie,
        tgid: 0,
        reserved: 0,
    }
}

/// Fail the call at once, with the chosen errno where the kernel can.
#[inline(always)]
fn refuse(ctx: &SockAddrContext, family: Family, kind: u32) -> i32 {
    if config!(set_retval) != 0 {
        // 7.3 wants the argument provably within [-4095, 0].
        let error = -(config!(errno) & 0xfff).cast_signed();
        // SAFETY: any value is taken; the helper exists, or this branch is pruned.
        unsafe { bpf_set_retval(error) };
        return REFUSE;
    }
    if kind == ACT_PACKET {
        return REFUSE;
    }
    let nobody = loopback_like(&destination(ctx, family).address);
    write(ctx, family, &nobody, NOBODY);
    PASS
}

/// Send DNS to the proxy, and remember where it was meant to go.
#[inline(always)]
fn redirect(ctx: &SockAddrContext, family: Family, destination: &Destination) -> i32 {
    let key = original_key(ctx, &destination.address);
    let original = Endpoint {
        address: destination.address,
        port: u32::from(destination.port),
        reserved: 0,
    };
    // Without room the client would not recognise the answer: it fails, closed.
    let _ignored = ORIGINALS.insert(key, original, ANY);
    let proxy = loopback_like(&destination.address);
    write(ctx, family, &proxy, config!(proxy_port) as u16);
    PASS
}

/// The loopback address that a socket talking to `address` can reach: a v4-mapped
/// destination needs ::ffff:127.0.0.1, because the packet is IPv4.
#[inline(always)]
fn loopback_like(address: &Address) -> Address {
    if is_mapped(address) {
        mapped(LOOPBACK4)
    } else {
        LOOPBACK6
    }
}

#[inline(always)]
fn is_proxy(destination: &Destination) -> bool {
    u32::from(destination.port) == config!(proxy_port)
        && destination.address == loopback_like(&destination.address)
}

#[inline(always)]
fn original_key(ctx: &SockAddrContext, address: &Address) -> OriginalKey {
    OriginalKey {
        cookie: cookie(ctx.as_ptr()),
        ipv6: u32::from(!is_mapped(address)),
        reserved: 0,
    }
}

#[inline(always)]
fn cookie(ctx: *mut core::ffi::c_void) -> u64 {
    // SAFETY: the context of the running program.
    unsafe { bpf_get_socket_cookie(ctx) }
}

#[inline(always)]
fn destination(ctx: &SockAddrContext, family: Family) -> Destination {
    // SAFETY: the kernel hands a valid context to the program, which alone uses it.
    let sock_addr = unsafe { &*ctx.sock_addr };
    let address = match family {
        Family::V4 => mapped(load(&sock_addr.user_ip4)),
        Family::V6 => {
            let [a, b, c, d] = &sock_addr.user_ip6;
            [load(a), load(b), load(c), load(d)]
        }
    };
    Destination {
        address,
        port: u16::from_be(load(&sock_addr.user_port) as u16),
        protocol: load(&sock_addr.protocol) as u16,
    }
}

#[inline(always)]
fn write(ctx: &SockAddrContext, family: Family, address: &Address, port: u16) {
    // SAFETY: the kernel hands a valid context to the program, which alone uses it.
    let sock_addr = unsafe { &mut *ctx.sock_addr };
    match family {
        Family::V4 => store(&mut sock_addr.user_ip4, address[3]),
        Family::V6 => {
            let [a, b, c, d] = &mut sock_addr.user_ip6;
            store(a, address[0]);
            store(b, address[1]);
            store(c, address[2]);
            store(d, address[3]);
        }
    }
    store(&mut sock_addr.user_port, u32::from(port.to_be()));
}

/// Word by word and volatile, or the compiler joins neighbours and the verifier says
/// "invalid bpf_context access off=8 size=8".
#[inline(always)]
fn load(field: &u32) -> u32 {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(field) }
}

/// As [`load`].
#[inline(always)]
fn store(field: &mut u32, value: u32) {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::write_volatile(field, value) }
}
