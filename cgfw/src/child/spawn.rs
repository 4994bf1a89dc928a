//! From an argument list to a process inside the cgroup.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io::{self, PipeReader, Read as _, pipe};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

use super::{Identity, Inherited, OpenFiles};
use crate::watch;

/// What to start, and how.
pub struct Command<'c> {
    pub argv: &'c [OsString],
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
    /// prctl(PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
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
    Setup {
        step: &'static str,
        error: io::Error,
    },
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
pub struct Child {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

/// The steps between clone and execve, in their order, as the pipe to the parent names them.
const STEPS: [&str; 8] = [
    "enter the cgroup",
    "mask the sockets of name service daemons (CAP_SYS_ADMIN is needed)",
    "become the user of the child",
    "set no_new_privs",
    "tie the child to cgfw",
    "restore the limit of open files",
    "restore signals",
    "execute the command",
];
const EXECUTE: u8 = 7;

impl Command<'_> {
    /// Start the command. When this returns, it is executing inside the cgroup. Needs a
    /// tokio runtime.
    pub fn spawn(&self) -> Result<Child, SpawnError> {
        let setup = |step| move |error| SpawnError::Setup { step, error };
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
        let (reader, writer) = pipe().map_err(setup("make a pipe"))?;
        let (pid, pidfd) = match clone_into(self.cgroup).map_err(setup("start a process"))? {
            Cloned::Parent(pid, pidfd) => (pid, pidfd),
            Cloned::Child { in_cgroup } => {
                drop(reader);
                prepared.become_command(in_cgroup, writer.as_raw_fd())
            }
        };
        drop(writer);
        if let Some(error) = failure(reader).map_err(setup("hear from the child"))? {
            waitpid(pid, None).map_err(|error| SpawnError::Setup {
                step: "reap the child",
                error: error.into(),
            })?;
            return Err(error);
        }
        let pidfd = watch::readable(pidfd).map_err(setup("watch the child"))?;
        Ok(Child { pid, pidfd })
    }

    fn environment(&self) -> Result<Vec<CString>, SpawnError> {
        let own: &[(&str, &OsStr)] = match self.identity {
            Some(identity) => &identity.environment(),
            None => &[],
        };
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
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Send a signal, or with `None` only look. Returns whether there was anybody to get it:
    /// a command that has been waited for is gone, and its pid may be somebody else's.
    pub fn send(&self, signal: Option<Signal>) -> io::Result<bool> {
        let number = signal.map_or(0, |signal| signal as libc::c_int);
        // SAFETY: takes integers, and null for the default siginfo.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
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
            let mut guard = self.pidfd.readable().await?;
            let status = waitpid(self.pid, Some(WaitPidFlag::WNOHANG))?;
            if let WaitStatus::Exited(_, code) = status {
                return Ok(Ended::Exited(code));
            }
            if let WaitStatus::Signaled(_, signal, _) = status {
                return Ok(Ended::Killed(signal));
            }
            guard.clear_ready();
        }
    }
}

/// Everything the new process needs, allocated before it exists.
struct Prepared<'c> {
    argv: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    masks: Vec<(CString, CString)>,
    groups: Option<&'c [nix::unistd::Gid]>,
    command: &'c Command<'c>,
    parent: Pid,
}

impl Prepared<'_> {
    /// In the new process: take every step, or tell the parent which one failed.
    fn become_command(&self, in_cgroup: bool, report: RawFd) -> ! {
        let (step, error) = self.steps(in_cgroup);
        let [a, b, c, d] = (error as i32).to_ne_bytes();
        let message = [step, a, b, c, d];
        // SAFETY: the message is valid for as many octets as are written. If the parent is
        // gone, there is nobody to tell.
        unsafe { libc::write(report, message.as_ptr().cast(), message.len()) };
        // SAFETY: ends this process without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }

    /// Returns only when a step has failed.
    fn steps(&self, in_cgroup: bool) -> (u8, Errno) {
        let steps: [&dyn Fn() -> Result<(), Errno>; EXECUTE as usize] = [
            &|| {
                if in_cgroup {
                    Ok(())
                } else {
                    enter(self.command.cgroup)
                }
            },
            &|| self.mask(),
            &|| self.change_user(),
            &|| self.give_up_privileges(),
            &|| self.die_with_parent(),
            &|| self.command.open_files.restore(),
            &|| self.restore_signals(),
        ];
        for (step, number) in steps.iter().zip(0..) {
            if let Err(error) = step() {
                return (number, error);
            }
        }
        // SAFETY: both are arrays of C strings that end with a null pointer.
        unsafe { libc::execvpe(self.argv[0], self.argv.as_ptr(), self.environment.as_ptr()) };
        (EXECUTE, Errno::last())
    }

    /// Hide the sockets of daemons that would resolve names outside the proxy. Only the
    /// mounts that hold them stop sending mounts to the host; all others propagate.
    fn mask(&self) -> Result<(), Errno> {
        if self.masks.is_empty() {
            return Ok(());
        }
        // SAFETY: changes this process only.
        Errno::result(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        for (mount_point, path) in &self.masks {
            mount(None, mount_point, libc::MS_SLAVE)?;
            mount(Some(c"/dev/null"), path, libc::MS_BIND)?;
        }
        Ok(())
    }

    fn change_user(&self) -> Result<(), Errno> {
        let (Some(identity), Some(groups)) = (self.command.identity, self.groups) else {
            return Ok(());
        };
        // The system calls themselves: libc's functions tell all threads of the process
        // that it was copied from, which this copy does not have.
        let (gid, uid) = (identity.gid.as_raw(), identity.uid.as_raw());
        // SAFETY: `Gid` is a transparent gid_t, and as many are valid as are said.
        let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        Errno::result(done)?;
        // SAFETY: takes integers.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
        // SAFETY: takes integers.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
    }

    fn give_up_privileges(&self) -> Result<(), Errno> {
        if self.command.no_new_privs {
            nix::sys::prctl::set_no_new_privs()?;
        }
        Ok(())
    }

    /// The guardian kills the whole tree; this is for the case that it was killed too. A
    /// change of user would clear it, so it comes after that.
    fn die_with_parent(&self) -> Result<(), Errno> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the signal was asked for.
        if nix::unistd::getppid() == self.parent {
            Ok(())
        } else {
            Err(Errno::ESRCH)
        }
    }

    /// Dispositions that Rust's runtime or cgfw has changed, and the mask.
    fn restore_signals(&self) -> Result<(), Errno> {
        let inherited = &self.command.signals;
        for (signal, ignored) in [
            (libc::SIGPIPE, inherited.ignores_pipe),
            (libc::SIGCHLD, inherited.ignores_child),
        ] {
            let handler = if ignored {
                libc::SIG_IGN
            } else {
                libc::SIG_DFL
            };
            // SAFETY: neither handler runs any code of ours.
            let previous = unsafe { libc::signal(signal, handler) };
            if previous == libc::SIG_ERR {
                return Err(Errno::last());
            }
        }
        inherited.mask.thread_set_mask()
    }
}

/// Both sides of a clone.
enum Cloned {
    Parent(Pid, OwnedFd),
    Child { in_cgroup: bool },
}

/// Clone this process into a cgroup. The copy has the calling thread only, and libc does
/// not know it: it may make system calls and nothing that takes a lock.
///
/// Where clone3 is forbidden, as in containers whose seccomp filter is older than it, fork; then the child enters the cgroup by itself.
fn clone_into(cgroup: BorrowedFd<'_>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: integers only, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP | CLONE_PIDFD;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup.as_raw_fd().cast_unsigned().into();
    // SAFETY: like fork: no memory is shared, the stack is the copy of ours, and the copy
    // keeps to what is said above. `args` is as large as is said.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match Errno::result(result) {
        Ok(0) => Ok(Cloned::Child { in_cgroup: true }),
        Ok(pid) => {
            let pid = Pid::from_raw(libc::pid_t::try_from(pid).map_err(io::Error::other)?);
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(Cloned::Parent(pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
        Err(Errno::ENOSYS | Errno::EPERM) => fork_beside(),
        Err(error) => Err(error.into()),
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_PIDFD: u64 = 0x1000;

fn fork_beside() -> io::Result<Cloned> {
    // SAFETY: the copy makes system calls only.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(Cloned::Child { in_cgroup: false }),
        nix::unistd::ForkResult::Parent { child } => {
            // SAFETY: takes integers; the child is not reaped yet, so the pid is its own.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0) };
            let fd = RawFd::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(Cloned::Parent(child, unsafe { OwnedFd::from_raw_fd(fd) }))
        }
    }
}

/// Move this process into a cgroup: 0 is whoever writes.
fn enter(cgroup: BorrowedFd<'_>) -> Result<(), Errno> {
    let procs = nix::fcntl::openat(
        cgroup,
        c"cgroup.procs",
        nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    nix::unistd::write(procs.as_fd(), b"0").map(drop)
}

fn mount(
    source: Option<&std::ffi::CStr>,
    target: &CString,
    flags: libc::c_ulong,
) -> Result<(), Errno> {
    let source = source.map_or(ptr::null(), std::ffi::CStr::as_ptr);
    // SAFETY: C strings or null, as mount(2) takes them.
    let result = unsafe { libc::mount(source, target.as_ptr(), ptr::null(), flags, ptr::null()) };
    Errno::result(result).map(drop)
}

/// What the child says before it executes the command; nothing if it got that far,
/// because execve closes the pipe.
fn failure(mut reader: PipeReader) -> io::Result<Option<SpawnError>> {
    let mut message = Vec::with_capacity(5);
    reader.read_to_end(&mut message)?;
    let Some((&step, error)) = message.split_first() else {
        return Ok(None);
    };
    let number = error.try_into().map_err(io::Error::other)?;
    let error = io::Error::from_raw_os_error(i32::from_ne_bytes(number));
    Ok(Some(match (step, error.kind()) {
        (EXECUTE, io::ErrorKind::NotFound) => SpawnError::NotFound(error),
        (EXECUTE, _) => SpawnError::CannotExecute(error),
        (step, _) => SpawnError::Setup {
            step: STEPS
                .get(usize::from(step))
                .copied()
                .unwrap_or("prepare the child"),
            error,
        },
    }))
}

fn c_string(text: &OsStr) -> Result<CString, SpawnError> {
    CString::new(text.as_bytes()).map_err(|error| SpawnError::Setup {
        step: "pass an argument or variable with a zero octet",
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
