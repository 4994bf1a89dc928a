//! What is refused in every run that enforces.

use std::ffi::c_int;
use std::io;

use super::abi::{ABIS, Abi};
use super::compile::{self, Machine};
use super::{Condition, Filter, Refusal};

/// socket(2) and socketpair(2) for other families than these. AF_VSOCK reaches the
/// hypervisor, AF_PACKET and AF_XDP the wire; AF_TIPC, AF_SMC, AF_RDS, AF_BLUETOOTH and their
/// kin reach other machines; no program of ours sees any of them. AF_ALG is for ciphers.
const FAMILIES: [c_int; 5] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
    libc::AF_ALG,
];

/// The first argument of socketcall(2), include/uapi/linux/net.h.
const SYS_SOCKET: c_int = 1;
const SYS_SOCKETPAIR: c_int = 8;

/// The filter of the default mode, for every kind of machine code that this kernel may run.
pub(in crate::child) fn ordinary() -> io::Result<Filter> {
    let machines: Vec<_> = ABIS
        .iter()
        .map(|abi| Machine {
            arch: abi.arch,
            end: None,
            refusals: refusals(abi),
        })
        .collect();
    compile::compile(&machines)
}

fn refusals(abi: &Abi) -> Vec<Refusal> {
    let strange = FAMILIES.map(|family| Condition::IsNot(0, family));
    let mut refusals = Vec::new();
    for &call in abi.socket.iter().chain(abi.socketpair) {
        refusals.push(Refusal::new(call, libc::EAFNOSUPPORT, &strange));
    }
    // It makes sockets without socket(2). Programs that use it do without where it is missing.
    for &call in abi.io_uring_setup {
        refusals.push(Refusal::new(call, libc::ENOSYS, &[]));
    }
    // With an upcall, for which the kernel starts a helper outside of the cgroup.
    for &call in abi.request_key {
        refusals.push(Refusal::new(call, libc::EPERM, &[Condition::IsGiven(2)]));
    }
    // Its arguments are in memory, which a filter cannot read. Since Linux 4.3 libc needs it
    // no more.
    if let Some(call) = abi.socketcall {
        for act in [SYS_SOCKET, SYS_SOCKETPAIR] {
            refusals.push(Refusal::new(call, libc::ENOSYS, &[Condition::Is(0, act)]));
        }
    }
    refusals
}
