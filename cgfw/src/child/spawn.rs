//! From an argument list to a process inside the cgroup.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io::{self, PipeReader, pipe};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

use super::clone::{Cloned, clone_into, pidfd_open};
use super::inside::Prepared;
use super::steps::{Failure, Step};
use super::strict::{Strict, init};
use super::{Confinement, Identity, Inherited, OpenFiles};
use crate::watch;

/// What to start, and how.
pub struct Command<'c> {
    pub argv: &'c [OsString],
    /// What the child has in its environment beside what cgfw has, and instead of it.
    pub variables: &'c [(&'static str, String)],
    /// The directory of the cgroup.
    pub cgroup: BorrowedFd<'c>,
    /// Who the child is to be; `None`: who cgfw is.
    pub identity: Option<&'c Identity>,
    /// The signal mask and dispositions that cgfw was started with.
    pub signals: Inherited,
    /// The limits of open files that cgfw was started with.
    pub open_files: OpenFiles,
    /// Sockets and other files that the child must not reach: each is hidden behind
    /// /dev/null in a mount namespace of the child's own.
    pub masked: &'c [MaskedFile],
    /// prctl(PR_SET_NO_NEW_PRIVS), which `--strict` implies.
    pub no_new_privs: bool,
    pub confinement: &'c Confinement,
}

/// A file to hide, and the mount that it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedFile {
    pub path: PathBuf,
    pub mount_point: PathBuf,
}

/// Why there is no child.
#[derive(Debug)]
pub enum SpawnError {
    /// The command does not exist.
    NotFound(io::Error),
    /// The command cannot be executed.
    CannotExecute(io::Error),
    /// The child could not be prepared; nothing was executed.
    Setup { step: String, error: io::Error },
}

impl SpawnError {
    /// Of something that this process could not do.
    fn setup<E: Into<io::Error>>(step: &str) -> impl FnOnce(E) -> Self {
        let step = step.to_owned();
        move |error| Self::Setup {
            step,
            error: error.into(),
        }
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(error) | Self::CannotExecute(error) => write!(f, "{error}"),
            Self::Setup { step, error } => write!(f, "cannot {step}: {error}"),
        }
    }
}

impl std::error::Error for SpawnError {}

/// How the child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Killed(Signal),
}

/// The running command.
pub struct Child(Place);

/// Where the command is among processes.
enum Place {
    /// A child of this process.
    Direct { pid: Pid, pidfd: AsyncFd<OwnedFd> },
    /// A child of an init, which tells how it ended.
    BelowInit {
        init: Pid,
        pidfd: OwnedFd,
        line: AsyncFd<init::Line>,
    },
}

impl Command<'_> {
    /// Start the command. When this returns, it is executing inside the cgroup. Needs a
    /// tokio runtime.
    pub fn spawn(&self) -> Result<Child, SpawnError> {
        // Everything that allocates happens before there are two processes.
        let argv = self
            .argv
            .iter()
            .map(|arg| c_string(arg))
            .collect::<Result<Vec<_>, _>>()?;
        let environment = self.environment()?;
        let masks = self.masks()?;
        let prepared = Prepared {
            argv: pointers(&argv),
            environment: pointers(&environment),
            masks,
            groups: self.identity.map(|identity| &*identity.groups),
            command: self,
            parent: nix::unistd::getpid(),
        };
        match self.confinement.as_strict() {
            None => self.spawn_direct(&prepared),
            Some(strict) => self.spawn_below_init(&prepared, strict),
        }
    }

    fn spawn_direct(&self, prepared: &Prepared<'_>) -> Result<Child, SpawnError> {
        let (reader, writer) = pipe().map_err(SpawnError::setup("make a pipe"))?;
        let cloned = clone_into(self.cgroup, 0).map_err(SpawnError::setup("start a process"))?;
        let (pid, pidfd) = match cloned {
            Cloned::Parent(pid, pidfd) => (pid, pidfd),
            Cloned::Child { in_cgroup } => {
                drop(reader);
                prepared
                    .become_command(in_cgroup)
                    .report(writer.as_raw_fd())
            }
        };
        drop(writer);
        self.expect_success(pid, reader)?;
        let pidfd = watch::readable(pidfd).map_err(SpawnError::setup("watch the child"))?;
        Ok(Child(Place::Direct { pid, pidfd }))
    }

    fn spawn_below_init(
        &self,
        prepared: &Prepared<'_>,
        strict: &Strict,
    ) -> Result<Child, SpawnError> {
        let (reader, writer) = pipe().map_err(SpawnError::setup("make a pipe"))?;
        let (line, theirs) = init::Line::new().map_err(SpawnError::setup("make a socket pair"))?;
        let namespaces = init::NAMESPACES.cast_unsigned().into();
        let cloned = clone_into(self.cgroup, namespaces).map_err(SpawnError::setup(
            "start a process in namespaces of its own",
        ))?;
        let init = match cloned {
            Cloned::Parent(init, _pidfd) => init,
            Cloned::Child { in_cgroup } => {
                drop((reader, line));
                prepared
                    .become_init(in_cgroup, strict, theirs.as_fd())
                    .report(writer.as_raw_fd())
            }
        };
        drop((writer, theirs));
        let pidfd = line
            .meet()
            .and_then(|command| {
                let pidfd = pidfd_open(command)?;
                line.go().map(|()| pidfd)
            })
            .map_err(SpawnError::setup("start the command below its init"));
        self.expect_success(init, reader)?;
        Ok(Child(Place::BelowInit {
            init,
            pidfd: pidfd?,
            line: watch::readable(line).map_err(SpawnError::setup("watch the child"))?,
        }))
    }

    /// Wait until the command is being executed. If it is not, reap the child and say why.
    fn expect_success(&self, child: Pid, reader: PipeReader) -> Result<(), SpawnError> {
        let failure = Failure::receive(reader).map_err(SpawnError::setup("hear from the child"))?;
        let Some(failure) = failure else {
            return Ok(());
        };
        waitpid(child, None).map_err(SpawnError::setup("reap the child"))?;
        let error = io::Error::from(failure.error);
        Err(match (failure.step, error.kind()) {
            (Step::Execute, io::ErrorKind::NotFound) => SpawnError::NotFound(error),
            (Step::Execute, _) => SpawnError::CannotExecute(error),
            _ => SpawnError::setup(&self.describe(&failure))(error),
        })
    }

    fn describe(&self, failure: &Failure) -> String {
        let name = failure.step.name();
        let strict = self.confinement.as_strict();
        let mount = strict
            .filter(|_| failure.step == Step::Mount)
            .and_then(|strict| strict.mount_point(usize::try_from(failure.place).ok()?));
        mount.map_or_else(
            || name.to_owned(),
            |path| format!("{name} {}", path.display()),
        )
    }

    fn environment(&self) -> Result<Vec<CString>, SpawnError> {
        let own: &[(&str, &OsStr)] = match self.identity {
            Some(identity) => &identity.environment(),
            None => &[],
        };
        let given = self.variables.iter();
        let own: Vec<(&str, &OsStr)> = own
            .iter()
            .copied()
            .chain(given.map(|(name, value)| (*name, value.as_ref())))
            .collect();
        let inherited =
            std::env::vars_os().filter(|(name, _)| own.iter().all(|(own, _)| name != own));
        inherited
            .chain(own.iter().map(|(name, value)| (name.into(), value.into())))
            .map(|(name, value)| {
                let mut variable = name;
                variable.push("=");
                variable.push(value);
                c_string(&variable)
            })
            .collect()
    }

    fn masks(&self) -> Result<Vec<(CString, CString)>, SpawnError> {
        self.masked
            .iter()
            .map(|file| {
                Ok((
                    c_string(file.mount_point.as_os_str())?,
                    c_string(file.path.as_os_str())?,
                ))
            })
            .collect()
    }
}

impl Child {
    /// That of the command, or of its init: a child of this process, which waits for it.
    pub fn pid(&self) -> Pid {
        match &self.0 {
            Place::Direct { pid, .. } => *pid,
            Place::BelowInit { init, .. } => *init,
        }
    }

    /// Its init, a process in the cgroup that is not the command's own.
    pub fn init(&self) -> Option<Pid> {
        match &self.0 {
            Place::Direct { .. } => None,
            Place::BelowInit { init, .. } => Some(*init),
        }
    }

    /// Send a signal, or with `None` only look. Returns whether there was anybody to get it:
    /// a command that has been waited for is gone, and its pid may be somebody else's.
    pub fn send(&self, signal: Option<Signal>) -> io::Result<bool> {
        let number = signal.map_or(0, |signal| signal as libc::c_int);
        let pidfd = match &self.0 {
            Place::Direct { pidfd, .. } => pidfd.as_raw_fd(),
            Place::BelowInit { pidfd, .. } => pidfd.as_raw_fd(),
        };
        // SAFETY: takes integers, and null for the default siginfo.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd,
                number,
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(result) {
            Ok(_) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Wait for the command itself, not for what it started.
    pub async fn wait(&self) -> io::Result<Ended> {
        loop {
            let status = match &self.0 {
                Place::Direct { pid, pidfd } => {
                    let mut guard = pidfd.readable().await?;
                    guard.clear_ready();
                    waitpid(*pid, Some(WaitPidFlag::WNOHANG))?
                }
                Place::BelowInit { init, line, .. } => {
                    let mut guard = line.readable().await?;
                    guard.clear_ready();
                    match line.get_ref().status()? {
                        Some(status) => WaitStatus::from_raw(*init, status)?,
                        None => WaitStatus::StillAlive,
                    }
                }
            };
            if let WaitStatus::Exited(_, code) = status {
                return Ok(Ended::Exited(code));
            }
            if let WaitStatus::Signaled(_, signal, _) = status {
                return Ok(Ended::Killed(signal));
            }
        }
    }
}

fn c_string(text: &OsStr) -> Result<CString, SpawnError> {
    CString::new(text.as_bytes()).map_err(|error| SpawnError::Setup {
        step: "pass an argument or variable with a zero octet".to_owned(),
        error: error.into(),
    })
}

/// As execve(2) takes them: pointers, the last one null.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}
