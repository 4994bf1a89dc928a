/*!
The eBPF programs of cgfw: one object for every kernel from 5.10.

`socket` redirects DNS and refuses at once, `egress` has the last word on every packet,
`traffic` counts what connections carried,
`peer` and `unix` see who
else on this host is asked, `moved` who is taken away, `process` who comes and goes; `verdict` asks the maps, `emit`
tells user space. What a kernel lacks is switched off
by `maps::CONFIG`, which the verifier knows as constants.
*/
#![no_std]
#![no_main]
#![expect(
    clippy::inline_always,
    reason = "a call is a frame on a 512 octet stack, and paths that the verifier walks again"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "ports are in fields of 32 bits here; a checked conversion is a branch to verify"
)]

mod cgroup;
mod egress;
mod emit;
mod lsm;
mod maps;
mod moved;
mod packet;
mod peer;
mod process;
mod socket;
mod traffic;
mod unix;
mod verdict;

use aya_ebpf::macros::{
    cgroup_skb, cgroup_sock, cgroup_sock_addr, fentry, lsm_cgroup, raw_tracepoint,
};
use aya_ebpf::programs::{
    FEntryContext, LsmContext, RawTracePointContext, SkBuffContext, SockAddrContext, SockContext,
};

use crate::socket::Family;

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    socket::connect(&ctx, Family::V4)
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    socket::connect(&ctx, Family::V6)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::sendmsg(&ctx, Family::V4)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::sendmsg(&ctx, Family::V6)
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::restore(&ctx, Family::V4)
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::restore(&ctx, Family::V6)
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    socket::restore(&ctx, Family::V4)
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    socket::restore(&ctx, Family::V6)
}

// aya knows no section for unix sockets; the loader goes by the names of these two.

#[cgroup_sock_addr(connect4)]
fn connect_unix(ctx: SockAddrContext) -> i32 {
    unix::approach(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg_unix(ctx: SockAddrContext) -> i32 {
    unix::approach(&ctx)
}

#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    socket::create(&ctx)
}

#[cgroup_sock(sock_release)]
fn sock_release(ctx: SockContext) -> i32 {
    socket::release(&ctx)
}

#[cgroup_skb(egress)]
fn egress(ctx: SkBuffContext) -> i32 {
    egress::egress(&ctx)
}

#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
fn cgroup_attach_task(ctx: RawTracePointContext) -> i32 {
    moved::attach_task(&ctx)
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
    moved::fork(&ctx);
    process::forked(&ctx)
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn sched_process_exec(ctx: RawTracePointContext) -> i32 {
    process::executed(&ctx)
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn sched_process_exit(_ctx: RawTracePointContext) -> i32 {
    process::exited()
}

/// What [`sched_process_exec`] goes on with.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn walk(ctx: RawTracePointContext) -> i32 {
    process::walk(&ctx)
}

// Observers of kernel functions, called like those.

#[fentry(function = "security_unix_stream_connect")]
fn security_unix_stream_connect(ctx: FEntryContext) {
    unix::watch(ctx.arg(1));
}

#[fentry(function = "security_unix_may_send")]
fn security_unix_may_send(ctx: FEntryContext) {
    unix::watch(unix::sock(ctx.arg(1)));
}

// LSM programs, called like their hooks.

#[lsm_cgroup(hook = "unix_stream_connect")]
fn unix_stream_connect(ctx: LsmContext) -> i32 {
    lsm::connect(&ctx)
}

#[lsm_cgroup(hook = "unix_may_send")]
fn unix_may_send(ctx: LsmContext) -> i32 {
    lsm::send(&ctx)
}

#[lsm_cgroup(hook = "file_receive")]
fn file_receive(ctx: LsmContext) -> i32 {
    lsm::receive(&ctx)
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier would refuse a program that could.
    loop {}
}

/// bpf_probe_read_kernel and bpf_set_retval are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
