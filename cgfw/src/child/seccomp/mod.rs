/*!
System calls that the command does not get, because what they do leaves the machine, or the
cgroup, where no eBPF program of ours sees it.

The tables say what is refused. A program is made of them before there is a child, and the
child installs it.
*/

mod abi;
mod compile;
mod ordinary;
#[cfg(target_endian = "little")]
mod rules;
mod strict;
#[cfg(test)]
mod tests;

use std::ffi::c_int;

use nix::errno::Errno;

pub(super) use self::ordinary::ordinary;
pub(super) use self::strict::strict;

/// A filter that is ready to be installed.
#[derive(Clone, Debug)]
pub(super) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// Filter this process, and all that it starts, from now on. Needs CAP_SYS_ADMIN or
    /// no_new_privs. Makes one system call and allocates nothing.
    pub(super) fn install(&self) -> Result<(), Errno> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).unwrap_or(u16::MAX),
            filter: self.0.as_ptr().cast_mut(),
        };
        // With SPEC_ALLOW nobody gets slower for a mitigation that is of use to those who
        // run others' code in their own process.
        // SAFETY: the program is valid for as many instructions as are said, or the kernel
        // refuses the number; it only reads them.
        let done = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                &raw const program,
            )
        };
        Errno::result(done).map(drop)
    }
}

/// A system call that fails with `errno` if all conditions hold.
#[derive(Clone, Debug)]
struct Refusal {
    call: i64,
    errno: c_int,
    conditions: Vec<Condition>,
}

impl Refusal {
    fn new(call: i64, errno: c_int, conditions: &[Condition]) -> Self {
        Self {
            call,
            errno,
            conditions: conditions.to_vec(),
        }
    }
}

/// Something about an argument; the first is 0. Of all but pointers the kernel takes the
/// lower 32 bits.
#[derive(Clone, Copy, Debug)]
enum Condition {
    Is(u8, c_int),
    IsNot(u8, c_int),
    /// A bit is set.
    Has(u8, c_int),
    /// The type of a socket, which shares its argument with flags.
    IsKind(u8, c_int),
    /// A pointer is not null.
    IsGiven(u8),
}

/// seccompiler is for little-endian machines.
#[cfg(target_endian = "big")]
mod rules {
    use std::ffi::c_int;
    use std::io;

    use super::{Refusal, compile};

    pub(super) fn part(_: c_int, _: &[&Refusal]) -> io::Result<Vec<libc::sock_filter>> {
        Err(compile::unsupported())
    }
}
