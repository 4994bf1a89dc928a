//! What leads out of the run without a packet: unix sockets of others, and sockets that
//! others made and pass on. Refused under `--strict`, where the kernel runs LSM programs.
//!
//! A hook that is about a socket runs the programs of the cgroup in which that was made, any
//! other those of the process (kernel/bpf/bpf_lsm.c, bpf_lsm_find_cgroup_shim).

use aya_ebpf::programs::LsmContext;
use cgfw_common::{ACT_SOCKET, BLOCK, Deed};

use crate::cgroup;
use crate::emit::{current_owner, read, read_word, report_once};
use crate::maps::config;
use crate::unix;

const PASS: i32 = 1;
/// The call fails with EPERM.
const REFUSE: i32 = 0;

/// security_unix_stream_connect(sock, other, newsk): connect() of what has connections.
#[inline(always)]
pub(crate) fn connect(ctx: &LsmContext) -> i32 {
    approach(ctx.arg(1))
}

/// security_unix_may_send(sock, other), with a `struct socket` each: connect() and every
/// send of datagrams.
#[inline(always)]
pub(crate) fn send(ctx: &LsmContext) -> i32 {
    approach(unix::sock(ctx.arg(1)))
}

/// security_file_receive(file): a descriptor comes over a unix socket, or is taken from
/// another process (pidfd_getfd). A socket is filtered by the cgroup in which it was made.
#[inline(always)]
pub(crate) fn receive(ctx: &LsmContext) -> i32 {
    let file: u64 = ctx.arg(0);
    let inode = read_word(file, config!(offsets.file_inode));
    let file_system = read_word(inode, config!(offsets.inode_sb));
    if read_word(file_system, config!(offsets.super_block_magic)) != SOCKFS {
        return PASS;
    }
    let socket = unix::sock(read_word(file, config!(offsets.file_private)));
    if cgroup::is_ours(cgroup::of_socket(socket)) {
        return PASS;
    }
    let mut protocol = 0;
    read(socket, config!(offsets.sock_protocol), &raw mut protocol);
    let deed = Deed {
        destination: [0; 4],
        source_port: 0,
        id: 0,
        kind: ACT_SOCKET,
        action: BLOCK,
        destination_port: 0,
        protocol,
    };
    report_once(current_owner(), &deed);
    REFUSE
}

/// SOCKFS_MAGIC, include/uapi/linux/magic.h, in the width of `super_block.s_magic`.
const SOCKFS: u64 = 0x534f_434b;

/// A `struct sock` of another process is turned to.
#[inline(always)]
fn approach(socket: u64) -> i32 {
    if cgroup::is_ours(cgroup::of_socket(socket)) {
        return PASS;
    }
    unix::note_bound(socket, BLOCK);
    REFUSE
}
