//! What is refused under `--strict`, where the command is root and wants out.

use std::ffi::{c_int, c_long};
use std::io;

use super::abi::{ABIS, X32};
use super::compile::{self, Machine};
use super::{Condition, Filter, Refusal};
use crate::child::Unix;

/// What fails with EPERM, whatever the arguments.
const FORBIDDEN: &[c_long] = &[
    // Programs and maps of ours can be detached and written with it.
    libc::SYS_bpf,
    // Mounts bring back the file systems that are hidden.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    // A file handle opens what is hidden.
    libc::SYS_open_by_handle_at,
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // A key that is missing is looked for by a helper outside of the cgroup; of the type
    // dns_resolver, in the DNS.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine.
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
];

/// Since Linux 6.15, arch/*/entry/syscalls; the same number everywhere.
const OPEN_TREE_ATTR: c_long = 467;

/// What does not exist, so that programs do without: sockets and connects without socket(2)
/// and connect(2), and a clone whose flags are in memory, which a filter cannot read. libc
/// falls back on clone(2).
const MISSING: &[c_long] = &[
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_clone3,
];

/// A namespace of its own makes a process root in it.
const NAMESPACES: [c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// clone(2) has a part of the exit signal in this bit, unshare(2) time namespaces.
const CLONE_NEWTIME: c_int = 0x80;

/// They type into the terminal, where the caller's shell reads it after the run
/// (CVE-2017-5226).
const TIOCSTI: c_int = 0x5412;
const TIOCLINUX: c_int = 0x541c;

/// The families of socket(2) that exist.
const FAMILIES: [c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];
/// The protocols of AF_INET and AF_INET6 that exist; 0 is the usual one of the type.
const PROTOCOLS: [c_int; 6] = [
    0,
    libc::IPPROTO_TCP,
    libc::IPPROTO_UDP,
    libc::IPPROTO_ICMP,
    libc::IPPROTO_ICMPV6,
    libc::IPPROTO_MPTCP,
];

/// The filter of `--strict`, for this program's kind of machine code; a process that uses
/// another is killed.
pub(in crate::child) fn strict(unix: &Unix) -> io::Result<Filter> {
    let machines: Vec<_> = ABIS
        .iter()
        .take(1)
        .map(|abi| Machine {
            arch: abi.arch,
            end: X32,
            refusals: refusals(unix),
        })
        .collect();
    compile::compile(&machines)
}

fn refusals(unix: &Unix) -> Vec<Refusal> {
    let always = |errno| move |&call: &c_long| Refusal::new(call, errno, &[]);
    let mut refusals: Vec<Refusal> = FORBIDDEN
        .iter()
        .map(always(libc::EPERM))
        .chain(MISSING.iter().map(always(libc::ENOSYS)))
        .collect();
    let mut refuse = |call, errno, conditions: &[Condition]| {
        refusals.push(Refusal::new(call, errno, conditions));
    };
    for flag in NAMESPACES {
        refuse(libc::SYS_clone, libc::EPERM, &[Condition::Has(0, flag)]);
        refuse(libc::SYS_unshare, libc::EPERM, &[Condition::Has(0, flag)]);
    }
    refuse(
        libc::SYS_unshare,
        libc::EPERM,
        &[Condition::Has(0, CLONE_NEWTIME)],
    );
    for request in [TIOCSTI, TIOCLINUX] {
        refuse(libc::SYS_ioctl, libc::EPERM, &[Condition::Is(1, request)]);
    }
    refuse(
        libc::SYS_socket,
        libc::EAFNOSUPPORT,
        &FAMILIES.map(|family| Condition::IsNot(0, family)),
    );
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut others = vec![Condition::Is(0, family)];
        others.extend(PROTOCOLS.map(|protocol| Condition::IsNot(2, protocol)));
        refuse(libc::SYS_socket, libc::EPROTONOSUPPORT, &others);
    }
    refuse(
        libc::SYS_socket,
        libc::EPROTONOSUPPORT,
        &[
            Condition::Is(0, libc::AF_NETLINK),
            Condition::IsNot(2, libc::NETLINK_ROUTE),
        ],
    );
    if *unix != Unix::Judged {
        let is_unix = Condition::Is(0, libc::AF_UNIX);
        refuse(libc::SYS_socket, libc::EACCES, &[is_unix]);
        // One of a pair of datagram sockets can send to any other; SOCK_RAW is a synonym.
        for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW] {
            refuse(
                libc::SYS_socketpair,
                libc::EACCES,
                &[is_unix, Condition::IsKind(1, kind)],
            );
        }
    }
    refuse(
        libc::SYS_socketpair,
        libc::EAFNOSUPPORT,
        &[Condition::IsNot(0, libc::AF_UNIX)],
    );
    refusals
}
