//! Who listens on this host: the child itself, or somebody outside, who may do the network
//! for it.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_skb_load_bytes,
};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use cgfw_common::protocol;

use crate::cgroup;
use crate::emit::{can_read_tasks, to_number, zeroed};
use crate::packet::Packet;
use crate::verdict::{Destination, LOOPBACK4, LOOPBACK6, is_mapped};

/// Source and destination as a `bpf_sock_tuple` has them, and packets, too: addresses, then
/// ports, in network order. Three words for IPv4, nine for IPv6.
type Tuple = [u32; 9];

/// Octets of a [`Tuple`].
const SIZE4: u32 = 12;
const SIZE6: u32 = 36;
/// Where it starts in a packet.
const OFFSET4: u32 = 12;
const OFFSET6: u32 = 8;

/// Whether a TCP connect to this address of the host meets a listener outside.
#[inline(always)]
pub(crate) fn connect_is_outside(ctx: &SockAddrContext, to: &Destination) -> bool {
    if !can_read_tasks() {
        return false;
    }
    // The unspecified address is loopback to connect(), and to a listener none.
    let [a, b, c, mut d] = to.address;
    let is_ipv4 = is_mapped(&to.address);
    if d == 0 {
        d = if is_ipv4 { LOOPBACK4 } else { LOOPBACK6[3] };
    }
    // The source does not matter to a listener; its port is not chosen yet.
    let ports = u32::from(to.port.to_be())
        << if cfg!(target_endian = "little") {
            16
        } else {
            0
        };
    let mut space = MaybeUninit::uninit();
    let tuple: &mut Tuple = zeroed(&mut space);
    let size = if is_ipv4 {
        (tuple[1], tuple[2]) = (d, ports);
        SIZE4
    } else {
        (tuple[4], tuple[5], tuple[6], tuple[7], tuple[8]) = (a, b, c, d, ports);
        SIZE6
    };
    is_outside(look_up(ctx.as_ptr(), tuple, size, true))
}

/// Whether a packet on loopback is for a socket outside. Nobody is not outside.
#[inline(always)]
pub(crate) fn packet_is_outside(ctx: &SkBuffContext, packet: &Packet) -> bool {
    if !can_read_tasks() {
        return false;
    }
    let (offset, size) = if packet.ipv6 {
        (OFFSET6, SIZE6)
    } else {
        (OFFSET4, SIZE4)
    };
    let mut space = MaybeUninit::uninit();
    let tuple: &mut Tuple = zeroed(&mut space);
    // SAFETY: the context of the running program, and room for what is said.
    let failed = unsafe {
        bpf_skb_load_bytes(
            ctx.as_ptr().cast_const(),
            offset,
            tuple.as_mut_ptr().cast(),
            size,
        )
    };
    failed != 0 || is_outside(look_up(ctx.as_ptr(), tuple, size, packet.is(protocol::TCP)))
}

/// The socket that would receive, with a reference held; null if there is none.
#[inline(always)]
fn look_up(
    ctx: *mut core::ffi::c_void,
    tuple: &Tuple,
    size: u32,
    is_tcp: bool,
) -> *mut core::ffi::c_void {
    let tuple = (&raw const *tuple).cast_mut().cast::<bpf_sock_tuple>();
    let netns = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
    let socket = if is_tcp {
        // SAFETY: the context of the running program, and a tuple of the size that is said.
        unsafe { bpf_sk_lookup_tcp(ctx, tuple, size, netns, 0) }
    } else {
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_udp(ctx, tuple, size, netns, 0) }
    };
    socket.cast()
}

#[inline(always)]
fn is_outside(socket: *mut core::ffi::c_void) -> bool {
    if socket.is_null() {
        return false;
    }
    let cgroup = cgroup::of_socket(to_number(socket));
    // SAFETY: the look-up returned it with a reference, which ends here.
    unsafe { bpf_sk_release(socket) };
    !cgroup::is_ours(cgroup)
}
