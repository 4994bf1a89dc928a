//! What root may still do.

use std::ffi::{c_int, c_ulong};

use caps::Capability;
use nix::errno::Errno;

/// What installing, building and deploying takes. Everything else is gone for good, most of
/// all what leads out: NET_ADMIN and NET_RAW, SYS_ADMIN, BPF and PERFMON, SYS_PTRACE,
/// SYS_MODULE and SYS_RAWIO, MKNOD, and DAC_READ_SEARCH, with which file handles are opened.
const KEPT: [Capability; 18] = [
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_IPC_OWNER,
    Capability::CAP_KILL,
    Capability::CAP_LEASE,
    Capability::CAP_LINUX_IMMUTABLE,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SYS_NICE,
    Capability::CAP_SYS_RESOURCE,
];

/// include/uapi/linux/prctl.h
const PR_CAP_AMBIENT_CLEAR_ALL: c_ulong = 4;

/// Bits of all capabilities that are kept.
fn kept() -> u64 {
    KEPT.iter()
        .fold(0, |bits, capability| bits | capability.bitmask())
}

/// Drop everything else from all sets of this process. Nothing that it starts gets it back.
/// Makes system calls and allocates nothing.
pub(super) fn drop_the_rest() -> Result<(), Errno> {
    let kept = kept();
    for number in 0..u64::BITS {
        // Beyond the last one that this kernel knows it is an error to ask.
        let held = prctl(libc::PR_CAPBSET_READ, number.into()) == Ok(1);
        if held && kept >> number & 1 == 0 {
            prctl(libc::PR_CAPBSET_DROP, number.into())?;
        }
    }
    prctl(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)?;
    let mut sets = get()?;
    for (set, kept) in sets.iter_mut().zip(halves(kept)) {
        set.effective &= kept;
        set.permitted &= kept;
        set.inheritable = 0;
    }
    set(&sets)
}

fn prctl(act: c_int, argument: c_ulong) -> Result<c_int, Errno> {
    const NONE: c_ulong = 0;
    // SAFETY: of these, none takes a pointer.
    Errno::result(unsafe { libc::prctl(act, argument, NONE, NONE, NONE) })
}

/// The lower 32 capabilities, then the higher ones.
fn halves(bits: u64) -> [u32; 2] {
    let [a, b, c, d, high @ ..] = bits.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(high)]
}

/// `struct __user_cap_header_struct`, include/uapi/linux/capability.h
#[repr(C)]
struct Header {
    version: u32,
    /// 0 is the caller.
    pid: i32,
}

/// `struct __user_cap_data_struct`; there are two of them, for 32 capabilities each.
#[repr(C)]
#[derive(Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

fn get() -> Result<[Sets; 2], Errno> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut sets = <[Sets; 2]>::default();
    // SAFETY: the kernel reads the header and writes two of `Sets` for this version.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    Errno::result(got).map(|_| sets)
}

fn set(sets: &[Sets; 2]) -> Result<(), Errno> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    // SAFETY: the kernel reads the header and two of `Sets` for this version.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    Errno::result(done).map(drop)
}
