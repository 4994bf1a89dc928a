//! Who listens on this host: the child itself, or somebody outside, who may do the network
//! for it.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use cgfw_common::protocol;

use crate::cgroup;
use crate::emit::{can_read_tasks, read_word};
use crate::packet::Packet;
use crate::verdict::{Destination, LOOPBACK4, LOOPBACK6, is_mapped};

/// Addresses and ports of IPv4, as `bpf_sock_tuple` has them: source before destination,
/// all in network order. They lie side by side in a packet, too.
type Tuple4 = [u32; 3];
/// The same of IPv6.
type Tuple6 = [u32; 9];

/// Where source and destination start in the headers.
const ADDRESSES4: usize = 12;
const ADDRESSES6: usize = 8;

/// Whether a TCP connect to this address of the host meets a listener outside.
#[inline(always)]
pub(crate) fn connect_is_outside(ctx: &SockAddrContext, to: &Destination) -> bool {
    if !can_read_tasks() {
        return false;
    }
    // The unspecified address is loopback to connect(), and to a listener none.
    let [a, b, c, mut d] = to.address;
    if d == 0 {
        d = if is_mapped(&to.address) {
            LOOPBACK4
        } else {
            LOOPBACK6[3]
        };
    }
    // The source does not matter to a listener; its port is not chosen yet.
    let ports = u32::from(to.port.to_be())
        << if cfg!(target_endian = "little") {
            16
        } else {
            0
        };
    let socket = if is_mapped(&to.address) {
        let tuple: Tuple4 = [0, d, ports];
        look_up(ctx.as_ptr(), &tuple, true)
    } else {
        let tuple: Tuple6 = [0, 0, 0, 0, a, b, c, d, ports];
        look_up(ctx.as_ptr(), &tuple, true)
    };
    is_outside(socket)
}

/// Whether a packet on loopback is for a socket outside. Nobody is not outside.
#[inline(always)]
pub(crate) fn packet_is_outside(ctx: &SkBuffContext, packet: &Packet) -> bool {
    if !can_read_tasks() {
        return false;
    }
    let is_tcp = packet.is(protocol::TCP);
    let socket = if packet.ipv6 {
        match ctx.load::<Tuple6>(ADDRESSES6) {
            Ok(tuple) => look_up(ctx.as_ptr(), &tuple, is_tcp),
            Err(_) => return true,
        }
    } else {
        match ctx.load::<Tuple4>(ADDRESSES4) {
            Ok(tuple) => look_up(ctx.as_ptr(), &tuple, is_tcp),
            Err(_) => return true,
        }
    };
    is_outside(socket)
}

/// The socket that would receive, with a reference held; null if there is none.
#[inline(always)]
fn look_up<T>(ctx: *mut core::ffi::c_void, tuple: &T, is_tcp: bool) -> *mut core::ffi::c_void {
    let tuple = (&raw const *tuple).cast_mut().cast::<bpf_sock_tuple>();
    let size = size_of::<T>() as u32;
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

/// The verifier forbids arithmetic on a pointer to a socket. What was read from memory is a
/// number.
#[inline(always)]
fn to_number(socket: *mut core::ffi::c_void) -> u64 {
    let pointer = socket as u64;
    read_word((&raw const pointer) as u64, 0)
}
