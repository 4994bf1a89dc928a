//! A copy of this process, inside a cgroup.

use std::io::{self, Read as _, Write as _, pipe};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Both sides of a clone.
pub(super) enum Cloned {
    Parent(Pid, OwnedFd),
    Child { in_cgroup: bool },
}

/// Clone this process into a cgroup, and into new namespaces (CLONE_NEW*) if there are any.
/// The copy has the calling thread only, and libc does not know it: it may make system calls
/// and nothing that takes a lock.
///
/// Where clone3 is forbidden, as in containers whose seccomp filter is older than it, fork;
/// then the child enters the cgroup by itself. So it does where the kernel kills what it has
/// just cloned: it compares how often the cgroup that the child goes to was killed
/// (cgroup.kill) with how often the one was that its parent is in (cgroup_post_fork,
/// kernel/cgroup/cgroup.c).
pub(super) fn clone_into(cgroup: BorrowedFd<'_>, namespaces: u64) -> io::Result<Cloned> {
    let (mut reader, mut writer) = pipe()?;
    let cloned = match clone3(Some(cgroup), namespaces) {
        Err(Errno::ENOSYS | Errno::EPERM) if namespaces == 0 => return fork_beside(),
        result => result?,
    };
    let Cloned::Parent(pid, _) = cloned else {
        drop(reader);
        // Whoever reads this finds out in another way if it does not arrive.
        let _alive = writer.write(&[1]);
        return Ok(cloned);
    };
    drop(writer);
    if reader.read(&mut [0])? == 1 {
        return Ok(cloned);
    }
    waitpid(pid, None)?;
    Ok(clone3(None, namespaces)?)
}

/// As [`clone_into`], with nothing to fall back on.
fn clone3(cgroup: Option<BorrowedFd<'_>>, namespaces: u64) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: integers only, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_PIDFD | namespaces;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd().cast_unsigned().into();
    }
    // SAFETY: like fork: no memory is shared, the stack is the copy of ours, and the copy
    // keeps to what is said above. `args` is as large as is said.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    let pid = libc::pid_t::try_from(Errno::result(result)?).map_err(|_too_large| Errno::ERANGE)?;
    if pid == 0 {
        let in_cgroup = cgroup.is_some();
        return Ok(Cloned::Child { in_cgroup });
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent(Pid::from_raw(pid), pidfd))
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_PIDFD: u64 = 0x1000;

fn fork_beside() -> io::Result<Cloned> {
    // SAFETY: the copy makes system calls only.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(Cloned::Child { in_cgroup: false }),
        // The child is not reaped yet, so the pid is its own.
        nix::unistd::ForkResult::Parent { child } => Ok(Cloned::Parent(child, pidfd_open(child)?)),
    }
}

pub(super) fn pidfd_open(process: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_too_large| Errno::EMFILE)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Move this process into a cgroup: 0 is whoever writes.
pub(super) fn enter(cgroup: BorrowedFd<'_>) -> Result<(), Errno> {
    let procs = nix::fcntl::openat(
        cgroup,
        c"cgroup.procs",
        nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    nix::unistd::write(procs.as_fd(), b"0").map(drop)
}
