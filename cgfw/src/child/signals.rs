//! Signals to cgfw that are meant for the child.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use nix::errno::Errno;
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

/// What cgfw was started with, and the child is to be started with.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    pub(super) mask: SigSet,
    pub(super) ignores_child: bool,
    pub(super) ignores_pipe: bool,
}

/// The signals, blocked and waiting to be read.
pub struct Signals {
    fd: SignalFd,
    inherited: Inherited,
}

impl Signals {
    /// Block the signals that are forwarded, from here on, and make sure that children can be
    /// waited for.
    pub fn block() -> anyhow::Result<Self> {
        let mut set = SigSet::empty();
        for forwarded in FORWARDED {
            // What was ignored, as nohup does with SIGHUP, stays so: blocked, it would be kept
            // and read.
            if !is_ignored(forwarded)? {
                set.add(forwarded);
            }
        }
        let ignores_child = is_ignored(Signal::SIGCHLD)?;
        // Where the parent ignores SIGCHLD, as daemons do, children are reaped by nobody
        // and cannot be waited for (wait(2)).
        // SAFETY: the default disposition runs no code of ours.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.context("cannot set up SIGCHLD")?;
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut mask))
            .context("cannot block signals")?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("cannot make a signalfd")?;
        Ok(Self {
            fd,
            inherited: Inherited {
                mask,
                ignores_child,
                ignores_pipe: IGNORED_PIPE.load(Ordering::Relaxed),
            },
        })
    }

    /// What the child is to be started with.
    pub fn inherited(&self) -> Inherited {
        self.inherited
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

/// Whether SIGPIPE was ignored when cgfw was started.
static IGNORED_PIPE: AtomicBool = AtomicBool::new(false);

/// Called before Rust's runtime, which ignores SIGPIPE before `main` can ask.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn look_at_sigpipe() {
        if let Ok(true) = is_ignored(Signal::SIGPIPE) {
            IGNORED_PIPE.store(true, Ordering::Relaxed);
        }
    }
    look_at_sigpipe
};

fn is_ignored(signal: Signal) -> nix::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks without changing anything; `action` is valid for writes.
    let result = unsafe { libc::sigaction(signal as i32, ptr::null(), action.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: the call has succeeded and filled it in.
    let action = unsafe { action.assume_init() };
    Ok(action.sa_sigaction == libc::SIG_IGN)
}
