//! Signals to cgfw that are meant for the child.

use std::io;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

use crate::watch;

/// What is forwarded. SIGTSTP and its kin keep their meaning, so that job control stops
/// cgfw together with the child.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// The signals, blocked and waiting to be read.
pub struct Signals {
    fd: SignalFd,
    /// What was blocked before, for the child.
    before: SigSet,
}

impl Signals {
    /// Block the signals that are forwarded, from here on.
    pub fn block() -> anyhow::Result<Self> {
        let mut set = SigSet::empty();
        for signal in FORWARDED {
            set.add(signal);
        }
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))
            .context("cannot block signals")?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("cannot make a signalfd")?;
        Ok(Self { fd, before })
    }

    /// The mask that the child is to have.
    pub fn inherited_mask(&self) -> SigSet {
        self.before
    }

    /// Turn into something that can be awaited inside a tokio runtime.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(Listener(watch::readable(self.fd)?))
    }
}

/// Signals that a process sent to cgfw.
pub struct Listener(AsyncFd<SignalFd>);

impl Listener {
    /// The next signal that some process sent to cgfw alone.
    ///
    /// The terminal sends its signals to the whole foreground group, in which the child
    /// is too; those have a positive `si_code` (SI_KERNEL, 0x80) and would arrive twice.
    pub async fn next(&self) -> io::Result<Signal> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.try_io(|fd| Ok(fd.get_ref().read_signal()?)) {
                Ok(Ok(Some(info))) if info.ssi_code <= 0 => {
                    let number = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
                    return Ok(Signal::try_from(number)?);
                }
                Ok(Ok(_)) => {
                    // From the terminal, or nothing there: `try_io` only notices an error.
                    guard.clear_ready();
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

/// Send `signal` to the child; one that has just ended needs it no more.
pub fn forward(child: Pid, signal: Signal) -> io::Result<()> {
    match kill(child, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
