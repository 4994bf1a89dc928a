//! How machine code numbers the system calls of the default mode.

/// One kind of machine code.
pub(super) struct Abi {
    /// AUDIT_ARCH_*, include/uapi/linux/audit.h
    pub(super) arch: u32,
    /// More than one where the kernel has synonyms.
    pub(super) socket: &'static [i64],
    pub(super) socketpair: &'static [i64],
    pub(super) io_uring_setup: &'static [i64],
    pub(super) request_key: &'static [i64],
    /// One call for both of the former.
    pub(super) socketcall: Option<i64>,
}

/// The calls of the x32 ABI have the architecture of x86-64 and this bit in their number.
pub(super) const X32: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0x4000_0000)
} else {
    None
};

/// The same call in the x32 ABI.
#[cfg(target_arch = "x86_64")]
const fn x32(call: i64) -> i64 {
    call | 0x4000_0000
}

/// That of this program first, then what else its kernel may run. Empty where there is no
/// filter for this architecture.
#[cfg(target_arch = "x86_64")]
pub(super) const ABIS: &[Abi] = &[
    Abi {
        arch: 0xc000_003e,
        socket: &[libc::SYS_socket, x32(libc::SYS_socket)],
        socketpair: &[libc::SYS_socketpair, x32(libc::SYS_socketpair)],
        io_uring_setup: &[libc::SYS_io_uring_setup, x32(libc::SYS_io_uring_setup)],
        request_key: &[libc::SYS_request_key, x32(libc::SYS_request_key)],
        socketcall: None,
    },
    // arch/x86/entry/syscalls/syscall_32.tbl
    Abi {
        arch: 0x4000_0003,
        socket: &[359],
        socketpair: &[360],
        io_uring_setup: &[425],
        request_key: &[287],
        socketcall: Some(102),
    },
];

#[cfg(target_arch = "aarch64")]
pub(super) const ABIS: &[Abi] = &[
    native(0xc000_00b7),
    // arch/arm64/tools/syscall_32.tbl
    Abi {
        arch: 0x4000_0028,
        socket: &[281],
        socketpair: &[288],
        io_uring_setup: &[425],
        request_key: &[310],
        socketcall: None,
    },
];

/// 32 and 64 bits have the same numbers.
#[cfg(target_arch = "riscv64")]
pub(super) const ABIS: &[Abi] = &[native(0xc000_00f3), native(0x4000_00f3)];

#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
const fn native(arch: u32) -> Abi {
    Abi {
        arch,
        socket: &[libc::SYS_socket],
        socketpair: &[libc::SYS_socketpair],
        io_uring_setup: &[libc::SYS_io_uring_setup],
        request_key: &[libc::SYS_request_key],
        socketcall: None,
    }
}

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
pub(super) const ABIS: &[Abi] = &[];
