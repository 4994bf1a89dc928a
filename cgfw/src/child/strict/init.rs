//! The first process of the command's PID namespace, and the line between it and cgfw.
//!
//! It makes what the command needs, starts it, and then does nothing but reap, until nobody
//! is left. cgfw signals the command itself, and not its init, which no signal reaches but
//! SIGKILL from outside.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recv,
    recvmsg, setsockopt, socketpair, sockopt,
};
use nix::unistd::{Pid, read, write};

/// The namespaces that the init is cloned into. One for cgroups would hide their names and
/// nothing else, now that no cgroup file system can be seen.
pub(in crate::child) const NAMESPACES: libc::c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;

/// The end that cgfw keeps. The command says that it is there, and waits; later its init says
/// how it ended.
pub(in crate::child) struct Line(OwnedFd);

impl Line {
    /// Both ends.
    pub(in crate::child) fn new() -> nix::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        // The kernel says who has written, as this process knows it.
        setsockopt(&ours, sockopt::PassCred, &true)?;
        Ok((Self(ours), theirs))
    }

    /// Wait for the command, and find out its pid. ECHILD: there will be none.
    pub(in crate::child) fn meet(&self) -> nix::Result<Pid> {
        let mut octet = [0];
        let mut parts = [IoSliceMut::new(&mut octet)];
        let mut space = nix::cmsg_space!(UnixCredentials);
        let (line, flags) = (self.0.as_raw_fd(), MsgFlags::empty());
        let message = recvmsg::<()>(line, &mut parts, Some(&mut space), flags)?;
        if message.bytes == 0 {
            return Err(Errno::ECHILD);
        }
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmCredentials(sender) = control {
                return Ok(Pid::from_raw(sender.pid()));
            }
        }
        Err(Errno::EBADMSG)
    }

    /// Let the command go on.
    pub(in crate::child) fn go(&self) -> nix::Result<()> {
        write(&self.0, &[0]).map(drop)
    }

    /// How the command has ended, as wait(2) says it; `None` if it has not.
    pub(in crate::child) fn status(&self) -> io::Result<Option<i32>> {
        let mut status = [0; size_of::<i32>()];
        match recv(self.0.as_raw_fd(), &mut status, MsgFlags::MSG_DONTWAIT) {
            Ok(length) if length == status.len() => Ok(Some(i32::from_ne_bytes(status))),
            Ok(_) => Err(io::Error::other("the init of its namespace was killed")),
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Line {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

// From here on, what happens in the new processes: system calls only.

/// Make this process one that ends with cgfw, and that the command cannot look into.
pub(in crate::child) fn begin() -> Result<(), Errno> {
    // Should cgfw be dead by now, the command will find nobody at the other end of the line.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    prctl::set_dumpable(false)?;
    // `pkill cgfw` must not hit both.
    prctl::set_name(c"init")
}

/// Copy this process, whose only thread is the caller. Returns what fork(2) does.
pub(in crate::child) fn fork() -> Result<Option<Pid>, Errno> {
    // libc's own would take locks that a thread of cgfw may have held when this process was
    // cloned from it.
    // SAFETY: no memory is shared, and the stack is a copy of ours.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    let pid = libc::pid_t::try_from(Errno::result(pid)?).map_err(|_too_large| Errno::ERANGE)?;
    Ok((pid > 0).then(|| Pid::from_raw(pid)))
}

/// The command, before it is executed: tell cgfw, and wait until it knows.
pub(in crate::child) fn wait_to_be_known(line: BorrowedFd<'_>) -> Result<(), Errno> {
    write(line, &[0])?;
    match read(line, &mut [0])? {
        // cgfw is dead.
        0 => Err(Errno::ESRCH),
        _ => Ok(()),
    }
}

/// The init, once it has started the command: reap everything, tell cgfw how the command
/// ended, and leave when no process is left.
pub(in crate::child) fn reap(command: Pid, line: BorrowedFd<'_>) -> ! {
    // What it keeps open, a pipe for instance, would not end for others.
    let line_number = line.as_raw_fd().cast_unsigned();
    close_range(0, line_number - 1);
    close_range(line_number + 1, u32::MAX);
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        match Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) }) {
            Ok(pid) if pid == command.as_raw() => {
                // Where nobody listens, nobody needs to know.
                let _told = write(line, &status.to_ne_bytes());
            }
            Ok(_) | Err(Errno::EINTR) => {}
            // ECHILD: the last one is gone.
            // SAFETY: ends this process without running anything of cgfw's.
            Err(_) => unsafe { libc::_exit(0) },
        }
    }
}

/// close_range(2), since Linux 5.9. It cannot fail for a range that is none of ours.
fn close_range(first: u32, last: u32) {
    // SAFETY: closes descriptors that nothing uses in this process any more.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}
