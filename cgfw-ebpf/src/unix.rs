//! Unix sockets. Where the kernel has hooks for them, it tells what address a process gives,
//! and not who listens there: user space finds that out.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use aya_ebpf::programs::SockAddrContext;
use cgfw_common::{ACT_UNIX, ALLOW, Deed, UNIX_PATH_LEN, UnixName};

use crate::cgroup;
use crate::emit::{
    can_read_tasks, current_owner, current_task, read, read_word, report_unix, was_seen, zeroed,
};
use crate::maps::config;
use crate::socket::PASS;

/// A [`UnixName`], word by word; the last is the length.
pub(crate) type Words = [u32; size_of::<UnixName>() / size_of::<u32>()];

/// connect() and sendto() of a unix socket: say where to, once for each process.
#[inline(always)]
pub(crate) fn approach(ctx: &SockAddrContext) -> i32 {
    if !can_read_tasks() {
        return PASS;
    }
    // What a context really is: a `struct bpf_sock_addr_kern`.
    let context = ctx.as_ptr() as u64;
    let address = read_word(context, config!(offsets.sock_addr_uaddr));
    let mut length = 0;
    read(
        context,
        config!(offsets.sock_addr_uaddrlen),
        &raw mut length,
    );
    note(address, length, ALLOW);
    PASS
}

/// The `struct sock` of a `struct socket`.
#[inline(always)]
pub(crate) fn sock(socket: u64) -> u64 {
    read_word(socket, config!(offsets.socket_sk))
}

/// Before 6.7, which has no such hooks: any process of the host turns to this `struct sock`.
#[inline(always)]
pub(crate) fn watch(socket: u64) {
    let is_of_the_run = cgroup::is_ours(cgroup::of_task(current_task()));
    if is_of_the_run && !cgroup::is_ours(cgroup::of_socket(socket)) {
        note_bound(socket, ALLOW);
    }
}

/// Report a unix socket, a `struct sock`, by the address that it is bound to.
#[inline(always)]
pub(crate) fn note_bound(socket: u64, action: u32) {
    // A unix_sock starts with its sock.
    let bound = read_word(socket, config!(offsets.unix_addr));
    let mut length = 0;
    read(bound, config!(offsets.unix_address_len), &raw mut length);
    let address = bound + u64::from(config!(offsets.unix_address_name));
    note(address, length, action);
}

/// Report a unix socket that is turned to, by its `struct sockaddr_un` of so many octets.
#[inline(always)]
fn note(address: u64, length: u32, action: u32) {
    let mut space = MaybeUninit::uninit();
    let name = name(address, length, &mut space);
    let deed = Deed {
        destination: digest(name),
        kind: ACT_UNIX,
        action,
        destination_port: 0,
        protocol: 0,
        source_port: 0,
        id: 0,
    };
    if !was_seen(current_owner(), &deed) {
        report_unix(&deed, name);
    }
}

#[inline(always)]
fn name(address: u64, length: u32, space: &mut MaybeUninit<Words>) -> &Words {
    let words = zeroed(space);
    // The family comes first.
    let path = (address + size_of::<u16>() as u64) as *const core::ffi::c_void;
    let length = length
        .wrapping_sub(size_of::<u16>() as u32)
        .min(UNIX_PATH_LEN as u32);
    let mut first = 0_u8;
    read(path as u64, 0, &raw mut first);
    let used = if first == 0 {
        // SAFETY: `words` has more octets than `length`; the source may be anything.
        unsafe { bpf_probe_read_kernel(words.as_mut_ptr().cast(), length, path) };
        length
    } else {
        // What is behind the end of a path is rubbish, and so would be the digest.
        // SAFETY: `words` has room for the zero octet, too; the source may be anything.
        let copied =
            unsafe { bpf_probe_read_kernel_str(words.as_mut_ptr().cast(), length + 1, path) };
        copied.cast_unsigned() as u32
    };
    words[LENGTH] = used;
    words
}

/// Where the length is.
const LENGTH: usize = offset_of!(UnixName, length) / size_of::<u32>();

/// Tells names apart for [`was_seen`]: two names that collide are one to the report, which
/// nobody gains from.
#[inline(always)]
fn digest(words: &Words) -> [u32; 4] {
    let mut lanes = [0_u32; 4];
    for (i, word) in words.iter().enumerate() {
        // Multiplication spreads every bit upwards (FNV-1a, here on words), rotation down.
        let mixed = (lanes[i % 4] ^ word).wrapping_mul(0x0100_0193);
        lanes[i % 4] = mixed.rotate_left(13);
    }
    lanes
}
