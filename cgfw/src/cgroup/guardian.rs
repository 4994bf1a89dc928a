//! A process that waits for cgfw to die and then kills the cgroup.

use std::fs::File;
use std::io::{Read as _, pipe};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Context as _;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::destroy;

/// The guardian, from the side of cgfw. When cgfw ends, however that happens, the kernel
/// closes the pipe; the guardian then kills and removes the cgroup if it is still there.
pub(super) struct Guardian {
    pid: Pid,
    pipe: OwnedFd,
}

impl Guardian {
    /// Fork the guardian of the cgroup at `path`, which need not exist yet. To be called
    /// while the process has one thread.
    pub(super) fn start(path: &Path) -> anyhow::Result<Self> {
        let (mut reader, writer) = pipe().context("cannot make a pipe")?;
        // SAFETY: this process has one thread (the caller's duty), so that the copy may do
        // everything that the original may.
        match unsafe { fork() }.context("cannot fork the guardian")? {
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                pipe: writer.into(),
            }),
            ForkResult::Child => {
                drop(writer);
                let guarded = detach(reader.as_fd())
                    // The pipe ends when cgfw does. Nothing is ever written to it.
                    .and_then(|()| Ok(reader.read(&mut [0])?))
                    .and_then(|_| Ok(destroy(path)?));
                leave(i32::from(guarded.is_err()))
            }
        }
    }

    /// Dismiss the guardian and wait until it is gone.
    pub(super) fn close(self) -> anyhow::Result<()> {
        let Self { pid, pipe } = self;
        drop(pipe);
        waitpid(pid, None).context("cannot wait for the guardian")?;
        Ok(())
    }
}

/// Become a process that no signal to cgfw's terminal, group or name reaches, and that
/// keeps nothing of cgfw's alive but the descriptor `keep`.
fn detach(keep: BorrowedFd<'_>) -> anyhow::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    setsid()?;
    chdir("/")?;
    // `pkill cgfw` must not hit both.
    prctl::set_name(c"guardian")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    let keep = keep.as_raw_fd().cast_unsigned();
    close_range(3, keep - 1)?;
    close_range(keep + 1, u32::MAX)
}

/// close_range(2), since Linux 5.9.
fn close_range(first: u32, last: u32) -> anyhow::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: closes descriptors of this process that nothing here uses any more.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    nix::errno::Errno::result(result).context("cannot close inherited descriptors")?;
    Ok(())
}

/// End the copy at once, without running what the original is going to run.
fn leave(code: i32) -> ! {
    // SAFETY: ends the process; takes any code.
    unsafe { libc::_exit(code) }
}
