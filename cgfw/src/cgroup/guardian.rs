//! A process that waits for cgfw to die and then kills the cgroup.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::destroy;
use crate::watch;

/// The guardian, from the side of cgfw. When cgfw ends, however that happens, the kernel
/// closes the line; the guardian then kills and removes the cgroup if it is still there.
pub(super) struct Guardian {
    pid: Pid,
    line: UnixStream,
}

impl Guardian {
    /// Fork the guardian of the cgroup at `path`, which need not exist yet, and wait until
    /// it is on guard. To be called while the process has one thread.
    pub(super) fn start(path: &Path) -> anyhow::Result<Self> {
        let (mut line, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
        // SAFETY: this process has one thread (the caller's duty), so that the copy may do
        // everything that the original may.
        match unsafe { fork() }.context("cannot fork the guardian")? {
            ForkResult::Parent { child: pid } => {
                drop(theirs);
                if line.read_exact(&mut [0]).is_err() {
                    let end = waitpid(pid, None).context("cannot wait for the guardian")?;
                    bail!("the guardian of the cgroup does not start: {end:?}");
                }
                Ok(Self { pid, line })
            }
            ForkResult::Child => {
                drop(line);
                let guarded = guard(theirs, path);
                leave(i32::from(guarded.is_err()))
            }
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Wait until the guardian is gone before its time. Needs a tokio runtime.
    pub(super) async fn gone(&self) -> io::Result<()> {
        let line = watch::readable(self.line.as_fd())?;
        // It says nothing more: what can be read is the end.
        line.readable().await?.retain_ready();
        Ok(())
    }

    /// Dismiss the guardian and wait until it is gone.
    pub(super) fn close(self) -> anyhow::Result<()> {
        let Self { pid, line } = self;
        drop(line);
        waitpid(pid, None).context("cannot wait for the guardian")?;
        Ok(())
    }
}

/// What the guardian does.
fn guard(mut line: UnixStream, path: &Path) -> anyhow::Result<()> {
    detach(line.as_fd())?;
    line.write_all(&[0])?;
    // The line ends when cgfw does. Nothing is ever written to it.
    let _end = line.read(&mut [0])?;
    Ok(destroy(path)?)
}

/// Become a process that no signal to cgfw's terminal, group or name reaches, and that
/// keeps nothing of cgfw's alive but the descriptor `keep`.
fn detach(keep: BorrowedFd<'_>) -> anyhow::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    setsid()?;
    chdir("/")?;
    // Neither `pkill cgfw` nor `pkill -f cgfw` must hit both.
    prctl::set_name(c"guardian")?;
    blank_command_line()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    let keep = keep.as_raw_fd().cast_unsigned();
    close_range(3, keep - 1)?;
    close_range(keep + 1, u32::MAX)
}

/// Overwrite the arguments that /proc/PID/cmdline shows. They are this copy's own memory.
fn blank_command_line() -> anyhow::Result<()> {
    let stat = procfs::process::Process::myself()?.stat()?;
    let (Some(start), Some(end)) = (stat.arg_start, stat.arg_end) else {
        return Ok(());
    };
    let (start, length) = (usize::try_from(start)?, usize::try_from(end - start)?);
    let arguments = std::ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel put the arguments there, on the writable stack, for this program to
    // use as it likes; the guardian does not read its arguments.
    unsafe { arguments.write_bytes(0, length) };
    Ok(())
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
