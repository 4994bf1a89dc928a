//! Unix sockets. The kernel tells what address a process gives, and not who listens there:
//! user space finds that out.

use core::mem::offset_of;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use aya_ebpf::programs::SockAddrContext;
use cgfw_common::{ACT_UNIX, ALLOW, Deed, UNIX_PATH_LEN, UnixName};

use crate::emit::{can_read_tasks, current_owner, read, read_word, report_unix, was_seen};
use crate::maps::config;
use crate::socket::PASS;

/// Words of a [`UnixName`].
const WORDS: usize = size_of::<UnixName>() / size_of::<u64>();

/// connect() and sendto() of a unix socket: say where to, once for each process.
#[inline(always)]
pub(crate) fn approach(ctx: &SockAddrContext) -> i32 {
    if !can_read_tasks() {
        return PASS;
    }
    let name = name(ctx.as_ptr() as u64);
    let [low, high] = digest(&name);
    let deed = Deed {
        destination: [
            low as u32,
            (low >> 32) as u32,
            high as u32,
            (high >> 32) as u32,
        ],
        kind: ACT_UNIX,
        action: ALLOW,
        destination_port: 0,
        protocol: 0,
        source_port: 0,
        id: 0,
    };
    if !was_seen(current_owner(), &deed) {
        report_unix(&deed, &name);
    }
    PASS
}

/// The address in a `struct bpf_sock_addr_kern`, which is what a context really is.
#[inline(always)]
fn name(context: u64) -> [u64; WORDS] {
    let mut words = [const { core::mem::MaybeUninit::<u64>::uninit() }; WORDS];
    for word in &mut words {
        // SAFETY: valid and aligned. Volatile, or LLVM calls memset, a loop over octets.
        unsafe { core::ptr::write_volatile(word.as_mut_ptr(), 0) };
    }
    // SAFETY: every word has just been written.
    let mut words: [u64; WORDS] = unsafe { core::mem::transmute(words) };
    let address = read_word(context, config!(offsets.sock_addr_uaddr));
    let mut length = 0_u32;
    read(
        context,
        config!(offsets.sock_addr_uaddrlen),
        &raw mut length,
    );
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
    words[WORDS - 1] |= u64::from(used) << LENGTH_SHIFT;
    words
}

/// Where the length is in the last word.
const LENGTH_SHIFT: u32 = if cfg!(target_endian = "little") {
    32
} else {
    0
};
const _: () = assert!(offset_of!(UnixName, length) == size_of::<UnixName>() - 4);

/// Tells names apart for [`was_seen`]: two names that collide are one to the report, which
/// nobody gains from.
#[inline(always)]
fn digest(words: &[u64; WORDS]) -> [u64; 2] {
    let mut lanes = [0_u64; 2];
    for (i, word) in words.iter().enumerate() {
        // Multiplication spreads every bit upwards (FNV-1a, here on words), rotation down.
        let mixed = (lanes[i % 2] ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        lanes[i % 2] = mixed.rotate_left(23);
    }
    lanes
}
