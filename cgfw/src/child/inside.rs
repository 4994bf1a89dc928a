//! What the new process does to become the command: system calls only.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid};

use super::Command;
use super::clone::enter;
use super::confinement::Kind;
use super::steps::{Act, Failure, Step, take};
use super::strict::{Strict, init};

/// Everything the new process needs, allocated before it exists.
pub(super) struct Prepared<'c> {
    pub(super) argv: Vec<*const libc::c_char>,
    pub(super) environment: Vec<*const libc::c_char>,
    pub(super) masks: Vec<(CString, CString)>,
    pub(super) groups: Option<&'c [Gid]>,
    pub(super) command: &'c Command<'c>,
    pub(super) parent: Pid,
}

impl Prepared<'_> {
    /// In the new process: become the command. Returns only when a step has failed.
    pub(super) fn become_command(&self, in_cgroup: bool) -> Failure {
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
    pub(super) fn become_init(
        &self,
        in_cgroup: bool,
        strict: &Strict,
        line: BorrowedFd<'_>,
    ) -> Failure {
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

fn mount(source: Option<&CStr>, target: &CString, flags: libc::c_ulong) -> Result<(), Errno> {
    let source = source.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: C strings or null, as mount(2) takes them.
    let result = unsafe { libc::mount(source, target.as_ptr(), ptr::null(), flags, ptr::null()) };
    Errno::result(result).map(drop)
}
