//! From an argument list to a process inside the cgroup.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io::{self, PipeReader, Read as _, Write as _, pipe};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

use super::confinement::Kind;
use super::strict::{Strict, init};
use super::{Confinement, Identity, Inherited, OpenFiles};
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

/// What happens in the new processes between clone and execve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    EnterCgroup,
    BeginInit,
    Mount,
    Mask,
    NoNewPrivs,
    Capabilities,
    Scopes,
    Filter,
    Fork,
    BeKnown,
    ChangeUser,
    Tie,
    OpenFiles,
    Signals,
    Execute,
}

impl Step {
    const ALL: [(Self, &'static str); 15] = [
        (Self::EnterCgroup, "enter the cgroup"),
        (Self::BeginInit, "become the init of a PID namespace"),
        (Self::Mount, "mount, hide or protect"),
        (
            Self::Mask,
            "mask the sockets of name service daemons (CAP_SYS_ADMIN is needed)",
        ),
        (Self::NoNewPrivs, "set no_new_privs"),
        (Self::Capabilities, "drop capabilities"),
        (Self::Scopes, "enter a Landlock domain"),
        (Self::Filter, "install a seccomp filter"),
        (Self::Fork, "start a process below the init"),
        (Self::BeKnown, "tell cgfw of the command"),
        (Self::ChangeUser, "become the user of the child"),
        (Self::Tie, "tie the child to cgfw"),
        (Self::OpenFiles, "restore the limit of open files"),
        (Self::Signals, "restore signals"),
        (Self::Execute, "execute the command"),
    ];
}

/// A step that failed, as it goes through the pipe to cgfw.
struct Failure {
    step: Step,
    /// Which of the mounts.
    place: u32,
    error: Errno,
}

impl Failure {
    const SIZE: usize = 9;

    fn to_octets(&self) -> [u8; Self::SIZE] {
        let mut octets = [self.step as u8; Self::SIZE];
        octets[1..5].copy_from_slice(&self.place.to_ne_bytes());
        octets[5..].copy_from_slice(&(self.error as i32).to_ne_bytes());
        octets
    }

    /// In the new process: tell cgfw, and end.
    fn report(&self, pipe: RawFd) -> ! {
        let message = self.to_octets();
        // SAFETY: the message is valid for as many octets as are written. If the parent is
        // gone, there is nobody to tell.
        unsafe { libc::write(pipe, message.as_ptr().cast(), message.len()) };
        // SAFETY: ends this process without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }
}

/// A step, and what it does.
type Act<'a> = (Step, &'a dyn Fn() -> Result<(), Errno>);

/// Take every step, up to the first that fails.
fn take(steps: &[Act<'_>]) -> Result<(), Failure> {
    for (step, act) in steps {
        act().map_err(|error| Failure {
            step: *step,
            place: 0,
            error,
        })?;
    }
    Ok(())
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
                let pidfd = command.map(pidfd_open).transpose()?;
                line.go().map(|()| pidfd)
            })
            .map_err(SpawnError::setup("hear from the command"));
        self.expect_success(init, reader)?;
        let pidfd = pidfd?.ok_or(Errno::ECHILD);
        Ok(Child(Place::BelowInit {
            init,
            pidfd: pidfd.map_err(SpawnError::setup("start the command below its init"))?,
            line: watch::readable(line).map_err(SpawnError::setup("watch the child"))?,
        }))
    }

    /// Wait until the command is being executed. If it is not, reap the child and say why.
    fn expect_success(&self, child: Pid, reader: PipeReader) -> Result<(), SpawnError> {
        let failure = self
            .failure(reader)
            .map_err(SpawnError::setup("hear from the child"))?;
        let Some(error) = failure else {
            return Ok(());
        };
        waitpid(child, None).map_err(SpawnError::setup("reap the child"))?;
        Err(error)
    }

    /// What the child says before it executes the command; nothing if it got that far,
    /// because execve closes the pipe.
    fn failure(&self, mut reader: PipeReader) -> io::Result<Option<SpawnError>> {
        let mut message = Vec::with_capacity(Failure::SIZE);
        reader.read_to_end(&mut message)?;
        let Some((&step, rest)) = message.split_first() else {
            return Ok(None);
        };
        let (place, error) = rest.split_at_checked(4).unwrap_or_default();
        let place = u32::from_ne_bytes(place.try_into().map_err(io::Error::other)?);
        let error = i32::from_ne_bytes(error.try_into().map_err(io::Error::other)?);
        let error = io::Error::from_raw_os_error(error);
        let (step, name) = Step::ALL
            .into_iter()
            .find(|(known, _)| *known as u8 == step)
            .ok_or_else(|| io::Error::other("the child speaks in riddles"))?;
        Ok(Some(match (step, error.kind()) {
            (Step::Execute, io::ErrorKind::NotFound) => SpawnError::NotFound(error),
            (Step::Execute, _) => SpawnError::CannotExecute(error),
            _ => SpawnError::Setup {
                step: self.mount_point(step, place).map_or_else(
                    || name.to_owned(),
                    |path| format!("{name} {}", path.display()),
                ),
                error,
            },
        }))
    }

    /// Which mount the failed step was at.
    fn mount_point(&self, step: Step, place: u32) -> Option<&Path> {
        let strict = self.confinement.as_strict();
        let strict = strict.filter(|_| step == Step::Mount)?;
        strict.mount_point(usize::try_from(place).ok()?)
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
    /// In the new process: become the command. Returns only when a step has failed.
    fn become_command(&self, in_cgroup: bool) -> Failure {
        let steps: [Act<'_>; 8] = [
            (Step::EnterCgroup, &|| self.enter_cgroup(in_cgroup)),
            (Step::Mask, &|| self.mask()),
            (Step::NoNewPrivs, &|| self.give_up_privileges()),
            // While still root: it must not take no_new_privs, which ends sudo.
            (Step::Filter, &|| self.install_filter()),
            (Step::ChangeUser, &|| self.change_user()),
            (Step::Tie, &|| self.die_with_parent()),
            (Step::OpenFiles, &|| self.command.open_files.restore()),
            (Step::Signals, &|| self.restore_signals()),
        ];
        take(&steps).err().unwrap_or_else(|| self.execute())
    }

    /// In the new process: become the init of the namespaces that it was cloned into, and
    /// start the command. Returns only when a step has failed, in one or the other.
    fn become_init(&self, in_cgroup: bool, strict: &Strict, line: BorrowedFd<'_>) -> Failure {
        let prepare = || {
            take(&[
                (Step::EnterCgroup, &|| self.enter_cgroup(in_cgroup)),
                (Step::BeginInit, &init::begin),
            ])?;
            strict.mount().map_err(|(place, error)| Failure {
                step: Step::Mount,
                place: u32::try_from(place).unwrap_or(u32::MAX),
                error,
            })?;
            take(&[
                (Step::Mask, &|| self.hide_masked()),
                (Step::Capabilities, &Strict::drop_capabilities),
                (Step::NoNewPrivs, &nix::sys::prctl::set_no_new_privs),
                (Step::Scopes, &|| strict.restrict_scopes()),
                (Step::Filter, &|| strict.install_filter()),
            ])?;
            init::fork().map_err(|error| Failure {
                step: Step::Fork,
                place: 0,
                error,
            })
        };
        match prepare() {
            Err(failure) => return failure,
            Ok(Some(command)) => init::reap(command, line),
            Ok(None) => {}
        }
        let steps: [Act<'_>; 4] = [
            (Step::BeKnown, &|| init::wait_to_be_known(line)),
            (Step::ChangeUser, &|| self.change_user()),
            (Step::OpenFiles, &|| self.command.open_files.restore()),
            (Step::Signals, &|| self.restore_signals()),
        ];
        take(&steps).err().unwrap_or_else(|| self.execute())
    }

    /// Enter the cgroup, unless the process was made in it.
    fn enter_cgroup(&self, is_there: bool) -> Result<(), Errno> {
        if is_there {
            Ok(())
        } else {
            enter(self.command.cgroup)
        }
    }

    fn execute(&self) -> Failure {
        // SAFETY: both are arrays of C strings that end with a null pointer.
        unsafe { libc::execvpe(self.argv[0], self.argv.as_ptr(), self.environment.as_ptr()) };
        Failure {
            step: Step::Execute,
            place: 0,
            error: Errno::last(),
        }
    }

    fn install_filter(&self) -> Result<(), Errno> {
        match &self.command.confinement.0 {
            Kind::Sockets(filter) => filter.install(),
            Kind::None | Kind::Strict(_) => Ok(()),
        }
    }

    /// Hide the sockets of daemons that would resolve names outside the proxy. Only the
    /// mounts that hold them stop sending mounts to the host; all others propagate.
    fn mask(&self) -> Result<(), Errno> {
        if self.masks.is_empty() {
            return Ok(());
        }
        // SAFETY: changes this process only.
        Errno::result(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        for (mount_point, _) in &self.masks {
            mount(None, mount_point, libc::MS_SLAVE)?;
        }
        self.hide_masked()
    }

    fn hide_masked(&self) -> Result<(), Errno> {
        for (_, path) in &self.masks {
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

fn pidfd_open(process: Pid) -> Result<OwnedFd, Errno> {
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
