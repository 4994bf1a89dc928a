//! Whether the LSM programs do what they are for: a process inside the cgroup tries.
//!
//! A kernel without "bpf" in its list of LSMs takes them, and never runs them.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    getsockname, listen, recvmsg, sendmsg, sendto, socket, socketpair,
};
use nix::sys::wait::{WaitStatus, waitpid};

use super::clone::{Cloned, clone_into, enter};

/// Prove that a process in this cgroup reaches unix sockets of its own and no others, and is
/// passed no socket from outside. An error says what it found instead.
pub fn prove_isolation(cgroup: BorrowedFd<'_>) -> anyhow::Result<()> {
    let outside = Outside::open().context("cannot make unix sockets to try")?;
    let tried = match clone_into(cgroup, 0).context("cannot start a process to try")? {
        Cloned::Parent(pid, _pidfd) => waitpid(pid, None)?,
        Cloned::Child { in_cgroup } => {
            let entered = if in_cgroup { Ok(()) } else { enter(cgroup) };
            let code = entered.map_or(NEVER_TRIED, |()| outside.first_surprise());
            // SAFETY: ends this process without running anything of the parent's.
            unsafe { libc::_exit(code) }
        }
    };
    let WaitStatus::Exited(_, code) = tried else {
        bail!("the process that tried was killed");
    };
    if code == NO_SURPRISE {
        return Ok(());
    }
    match usize::try_from(code).ok().and_then(|at| ATTEMPTS.get(at)) {
        Some((what, _, Ok(()))) => bail!("a process inside cannot {what}"),
        Some((what, _, Err(_))) => bail!(
            "a process inside can {what}; a kernel runs LSM programs only with bpf in its list \
             of LSMs (/sys/kernel/security/lsm, `lsm=` on its command line)"
        ),
        None => bail!("the process that was to try could not enter the cgroup"),
    }
}

/// Exit codes of the process inside, beside the number of the attempt with a surprise.
const NO_SURPRISE: i32 = 100;
const NEVER_TRIED: i32 = 101;

/// What it tries, and what has to come of that.
type Attempt = (
    &'static str,
    fn(&Outside) -> nix::Result<()>,
    nix::Result<()>,
);
const ATTEMPTS: [Attempt; 5] = [
    ("connect to its own unix socket", connect_to_own, Ok(())),
    ("send to its own unix socket", send_to_own, Ok(())),
    (
        "connect to a unix socket outside",
        |outside| connect_to(&outside.listener.1),
        Err(Errno::EPERM),
    ),
    (
        "send to a unix socket outside",
        |outside| send_to(&outside.receiver.1),
        Err(Errno::EPERM),
    ),
    (
        "receive a socket from outside",
        Outside::receive,
        Err(Errno::EPERM),
    ),
];

/// What cgfw holds outside of the cgroup.
struct Outside {
    listener: (OwnedFd, UnixAddr),
    receiver: (OwnedFd, UnixAddr),
    /// Where a socket waits to be received.
    mail: OwnedFd,
}

impl Outside {
    fn open() -> nix::Result<Self> {
        let listener = listener()?;
        let (mail, sender) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let passed = [listener.0.as_raw_fd()];
        sendmsg::<()>(
            sender.as_raw_fd(),
            &[IoSlice::new(&[0])],
            &[ControlMessage::ScmRights(&passed)],
            MsgFlags::empty(),
            None,
        )?;
        Ok(Self {
            listener,
            receiver: bound(SockType::Datagram)?,
            mail,
        })
    }

    /// Inside: the number of the first attempt that does not come to what it has to. Makes
    /// system calls and allocates nothing.
    fn first_surprise(&self) -> i32 {
        (0..)
            .zip(&ATTEMPTS)
            .find(|(_, (_, attempt, expected))| attempt(self) != *expected)
            .map_or(NO_SURPRISE, |(number, _)| number)
    }

    /// A descriptor that is refused is left out, and the message marked as cut off.
    fn receive(&self) -> nix::Result<()> {
        let mut octet = [0];
        let mut space = [0; 64];
        let mut parts = [IoSliceMut::new(&mut octet)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.mail.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        if message.flags.contains(MsgFlags::MSG_CTRUNC) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }
}

fn connect_to_own(_: &Outside) -> nix::Result<()> {
    connect_to(&listener()?.1)
}

fn send_to_own(_: &Outside) -> nix::Result<()> {
    send_to(&bound(SockType::Datagram)?.1)
}

fn connect_to(address: &UnixAddr) -> nix::Result<()> {
    connect(unix(SockType::Stream)?.as_raw_fd(), address)
}

fn send_to(address: &UnixAddr) -> nix::Result<()> {
    let sender = unix(SockType::Datagram)?;
    sendto(sender.as_raw_fd(), &[0], address, MsgFlags::empty()).map(drop)
}

fn listener() -> nix::Result<(OwnedFd, UnixAddr)> {
    let bound = bound(SockType::Stream)?;
    listen(&bound.0, Backlog::new(1)?)?;
    Ok(bound)
}

/// A socket under an abstract name that the kernel chooses (unix(7), autobind).
fn bound(kind: SockType) -> nix::Result<(OwnedFd, UnixAddr)> {
    let socket = unix(kind)?;
    bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
    let address = getsockname(socket.as_raw_fd())?;
    Ok((socket, address))
}

fn unix(kind: SockType) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)
}
