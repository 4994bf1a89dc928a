//! Signals to cgfw that are meant for the child.

use std::io;

use anyhow::Context as _;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
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
    /// Block the signals that are forwarded, from here on, and make sure that children can be
    /// waited for.
    pub fn block() -> anyhow::Result<Self> {
        let mut set = SigSet::empty();
        for forwarded in FORWARDED {
            set.add(forwarded);
        }
        // Where the parent ignores SIGCHLD, as daemons do, children are reaped by nobody
        // and cannot be waited for (wait(2)).
        // SAFETY: the default disposition runs no code of ours.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.context("cannot set up SIGCHLD")?;
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

/// Signals that were sent to cgfw.
pub struct Listener(AsyncFd<SignalFd>);

/// A signal, and whether the child has had it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub signal: Signal,
    /// The terminal sends its signals to the whole foreground group, in which the child
    /// is too.
    pub from_terminal: bool,
}

impl Listener {
    /// The next signal.
    pub async fn next(&self) -> io::Result<Received> {
        loop {
            let mut guard = self.0.readable().await?;
            let Some(info) = guard.get_inner().read_signal()? else {
                guard.clear_ready();
                continue;
            };
            let number = i32::try_from(info.ssi_signo).map_err(io::Error::other)?;
            return Ok(Received {
                signal: Signal::try_from(number)?,
                // A process has an si_code of zero or less, the terminal SI_KERNEL (0x80).
                from_terminal: info.ssi_code > 0,
            });
        }
    }
}
