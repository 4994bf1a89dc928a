//! The processes of a cgroup, and those that were taken out of it.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use procfs::process::{ProcState, Stat};

use super::processes;

/// How often all are looked at. Who was born outside meanwhile is found the next time.
const ROUNDS: usize = 10;
const NANOSECONDS: u64 = 1_000_000_000;

/// Looks after the processes of a cgroup, for as long as it is there.
#[derive(Clone, Debug)]
pub struct Members {
    path: PathBuf,
    /// The cgroup as /proc/PID/cgroup names it.
    name: PathBuf,
    /// A process that descends from this one and stays outside.
    guardian: Option<Pid>,
}

/// What became of a process that was taken out.
#[derive(Debug)]
pub struct Fate {
    /// The cgroup that it was found in, as in /proc/PID/cgroup; empty if it had ended.
    pub found_in: Vec<u8>,
    /// Whether it is inside again; an error if it could not be moved.
    pub is_back: io::Result<bool>,
}

/// Where a process works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: Vec<u8>,
    pub inode: u64,
    /// As the kernel has it: the minor number in the lower 20 bits, the major number above.
    pub device: u32,
}

impl Members {
    pub(super) fn new(path: PathBuf, name: PathBuf, guardian: Option<Pid>) -> Self {
        Self {
            path,
            name,
            guardian,
        }
    }

    /// As [`super::Cgroup::processes`]; none when the cgroup is gone.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        match processes(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            result => result,
        }
    }

    /// Where a process works right now; it is the one that `started` so many nanoseconds after
    /// the boot. `None` if it has ended.
    pub fn working_directory(&self, pid: Pid, started: u64) -> Option<Place> {
        let link = format!("/proc/{pid}/cwd");
        let path = fs::read_link(&link).ok()?.into_os_string().into_vec();
        let (inode, device) = inode(&CString::new(link).ok()?)?;
        let is_it = stat(pid).is_some_and(|stat| is_start(stat.starttime, started));
        is_it.then_some(Place {
            path,
            inode,
            device,
        })
    }

    /// Move a process back inside. It is the one that `started` so many nanoseconds after
    /// the boot; a later one of the same pid is left alone.
    pub fn take_back(&self, pid: Pid, started: u64) -> Fate {
        let is_it = stat(pid).is_some_and(|stat| is_start(stat.starttime, started));
        let found_in = is_it.then(|| cgroup_of(pid)).flatten().unwrap_or_default();
        // Who is inside stays where he is: it may have made a cgroup of its own.
        let is_back = if found_in.is_empty() || self.is_inside(&found_in) {
            Ok(!found_in.is_empty())
        } else {
            self.enter(pid)
        };
        Fate { found_in, is_back }
    }

    /// Move every process inside that descends from this one, as all those of the run do:
    /// one that was taken out may have had children before it was back.
    pub fn take_back_descendants(&self) -> io::Result<()> {
        for _ in 0..ROUNDS {
            let outside = self.descendants_outside()?;
            if outside.is_empty() {
                return Ok(());
            }
            for pid in outside {
                self.enter(pid)?;
            }
        }
        Err(io::Error::new(
            ErrorKind::ResourceBusy,
            "processes are born outside of the cgroup faster than they can be moved back",
        ))
    }

    /// Write a process into the cgroup; `false` if it has ended.
    fn enter(&self, pid: Pid) -> io::Result<bool> {
        match fs::write(self.path.join("cgroup.procs"), pid.to_string()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn descendants_outside(&self) -> io::Result<Vec<Pid>> {
        let all = procfs::process::all_processes().map_err(io::Error::other)?;
        let parents: HashMap<Pid, Pid> = all
            // One that has ended meanwhile is nowhere.
            .filter_map(|process| living(process.ok()?.stat().ok()?))
            .map(|stat| (Pid::from_raw(stat.pid), Pid::from_raw(stat.ppid)))
            .collect();
        let this = Pid::this();
        let descends = |pid: Pid| {
            let ancestors = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
            // A chain cannot be longer; pids that were reused meanwhile can make it a ring.
            let mut ancestors = ancestors.skip(1).take(parents.len());
            ancestors.any(|ancestor| ancestor == this)
        };
        let is_stray = |pid: &Pid| {
            Some(*pid) != self.guardian
                && descends(*pid)
                && cgroup_of(*pid).is_some_and(|cgroup| !self.is_inside(&cgroup))
        };
        Ok(parents.keys().copied().filter(is_stray).collect())
    }

    fn is_inside(&self, cgroup: &[u8]) -> bool {
        let cgroup: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(cgroup);
        Path::new(cgroup).starts_with(&self.name)
    }
}

/// What /proc says of a process that has not ended.
fn stat(pid: Pid) -> Option<Stat> {
    let process = procfs::process::Process::new(pid.as_raw()).ok()?;
    living(process.stat().ok()?)
}

/// What has ended and waits for its parent cannot be moved any more.
fn living(stat: Stat) -> Option<Stat> {
    let is_dead = matches!(stat.state(), Ok(ProcState::Zombie | ProcState::Dead));
    (!is_dead).then_some(stat)
}

/// Whether a process that started at this clock tick started that many nanoseconds after
/// the boot (field 22 of proc_pid_stat(5)).
fn is_start(tick: u64, nanoseconds: u64) -> bool {
    let expected = nanoseconds / (NANOSECONDS / procfs::ticks_per_second());
    tick.abs_diff(expected) <= 1
}

/// The number of the inode behind a path, and of its device. What is known of it is enough: no
/// server is asked, which may be down.
fn inode(path: &CStr) -> Option<(u64, u32)> {
    // SAFETY: integers only, for which zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let (flags, wanted) = (libc::AT_STATX_DONT_SYNC, libc::STATX_INO);
    // SAFETY: `path` ends with a zero octet, and `found` is valid for writes.
    let result =
        unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, wanted, &raw mut found) };
    let device = found.stx_dev_major << 20 | found.stx_dev_minor;
    (result == 0).then_some((found.stx_ino, device))
}

/// Where a process is in the unified hierarchy, while it is.
fn cgroup_of(pid: Pid) -> Option<Vec<u8>> {
    let lists = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    let mut lines = lists.split(|octet| *octet == b'\n');
    lines.find_map(|line| line.strip_prefix(b"0::").map(<[u8]>::to_vec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Members {
        Members::new("/nowhere".into(), "/a/cgfw-1".into(), None)
    }

    #[test]
    fn inside_is_the_cgroup_and_what_is_below_it() {
        for (cgroup, inside) in [
            ("/a/cgfw-1", true),
            ("/a/cgfw-1/own/deeper", true),
            ("/a/cgfw-12", false),
            ("/a", false),
            ("/", false),
            ("/../a/cgfw-1", false),
            ("/b/a/cgfw-1", false),
        ] {
            assert_eq!(members().is_inside(cgroup.as_bytes()), inside, "{cgroup}");
        }
    }

    #[test]
    fn a_start_is_compared_by_ticks() {
        let tick = NANOSECONDS / procfs::ticks_per_second();
        assert!(is_start(700, 700 * tick));
        assert!(is_start(700, 701 * tick));
        assert!(!is_start(700, 702 * tick));
        assert!(!is_start(700, 0));
    }

    #[test]
    fn a_process_that_is_not_the_one_is_left_alone() {
        let own = Pid::this();
        let fate = members().take_back(own, 0);
        assert!(fate.found_in.is_empty());
        assert!(matches!(fate.is_back, Ok(false)));
        // The very one would be moved: there is no such cgroup.
        let started = stat(own).unwrap().starttime * NANOSECONDS / procfs::ticks_per_second();
        let fate = members().take_back(own, started);
        assert_eq!(Some(fate.found_in), cgroup_of(own));
        assert!(fate.is_back.is_err());
    }
}
