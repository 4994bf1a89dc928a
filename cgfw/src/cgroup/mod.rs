/*!
The cgroup of a run: made, killed, removed.

It lies under the nearest ancestor of the caller's cgroup that only root can write, so
that the host's limits still hold and a child that is an ordinary user cannot move itself
out through a parent that was delegated to it. Whoever owns a cgroup holds a lock on its
directory; a directory that nobody has locked is a leftover.
*/

mod guardian;
mod members;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read as _, Seek as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use tokio::io::Interest;

pub use self::members::{Fate, Members, Place};

use self::guardian::Guardian;
use crate::watch;

/// The names of our cgroups are this and the id of the run.
const PREFIX: &str = "cgfw-";
/// Digits of an id.
const ID_LENGTH: usize = 16;
/// How long killed processes may take to be gone. A process that is stuck in the kernel
/// (state D) takes longer than any patience.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// A killed process is not gone at once: it has memory and files to give back.
const RETRY: Duration = Duration::from_millis(2);
/// How often something that others disturb is tried before giving up.
const ATTEMPTS: usize = 100;

/// A cgroup of ours. Dropping it kills what is inside and removes it, and if this process
/// does not live to do that, its guardian does.
pub struct Cgroup {
    path: PathBuf,
    /// As /proc/PID/cgroup names it: the path within the hierarchy.
    name: PathBuf,
    /// The directory, locked for as long as the run lives.
    directory: Flock<File>,
    /// Gone when the cgroup has been closed.
    guardian: Option<Guardian>,
}

impl Cgroup {
    /// Make the cgroup of the run `id`, 16 hexadecimal digits, after removing what killed
    /// runs have left beside it. Forks, so the process must have one thread.
    pub fn create(id: &str) -> anyhow::Result<Self> {
        let mount = mount_point()?;
        let parent = root_owned_ancestor(&own_path(&mount)?)?;
        collect_leftovers(&parent)?;
        let path = parent.join(format!("{PREFIX}{id}"));
        let name = Path::new("/").join(path.strip_prefix(&mount)?);
        // First the guardian: there is no moment without it.
        let guardian = Guardian::start(&path)?;
        let directory = make_locked(&path)?;
        Ok(Self {
            path,
            name,
            directory,
            guardian: Some(guardian),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id by which the kernel knows it: the inode number of its directory
    /// (fs/kernfs/inode.c).
    pub fn id(&self) -> io::Result<u64> {
        self.directory.metadata().map(|metadata| metadata.ino())
    }

    /// The processes inside, also in cgroups that they made below.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        processes(&self.path)
    }

    /// Send a signal to every process inside. Processes that end meanwhile are no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        for pid in self.processes()? {
            signal_one(pid, signal)?;
        }
        Ok(())
    }

    /// Wait until no process is inside. Needs a tokio runtime.
    pub async fn emptied(&self) -> io::Result<()> {
        let events = watch::exceptional(open_events(&self.path)?)?;
        while read_populated(events.get_ref())? {
            events.ready(Interest::PRIORITY).await?.clear_ready();
        }
        Ok(())
    }

    /// Wait until the guardian is gone before its time: then a kill of this process too
    /// would leave the cgroup, filtered, to the next run. Needs a tokio runtime.
    pub async fn unguarded(&self) -> io::Result<()> {
        match &self.guardian {
            Some(guardian) => guardian.gone().await,
            None => std::future::pending().await,
        }
    }

    /// A way to look after the processes for those who do not own the cgroup.
    pub fn members(&self) -> Members {
        Members::new(self.path.clone(), self.name.clone(), self.guardian())
    }

    /// The process that kills what is inside when this one dies, while there is one.
    pub fn guardian(&self) -> Option<Pid> {
        self.guardian.as_ref().map(Guardian::pid)
    }

    /// Move every process to the parent cgroup, where nothing of ours is attached.
    pub fn release(&self) -> io::Result<()> {
        let parent = self.path.parent().unwrap_or(&self.path);
        let outside = parent.join("cgroup.procs");
        // What a process forks while it is being moved is inside once more.
        for _ in 0..ATTEMPTS {
            let inside = self.processes()?;
            if inside.is_empty() {
                return Ok(());
            }
            for pid in inside {
                match fs::write(&outside, pid.to_string()) {
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    result => result?,
                }
            }
        }
        Err(io::Error::new(
            ErrorKind::ResourceBusy,
            "processes are born faster than they can be moved",
        ))
    }

    /// Kill what is inside and remove the cgroup.
    pub fn close(mut self) -> anyhow::Result<()> {
        let guardian = self.guardian.take();
        destroy(&self.path)
            .with_context(|| format!("cannot remove the cgroup {}", self.path.display()))?;
        guardian.map_or(Ok(()), Guardian::close)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.guardian.is_some()
            && let Err(error) = destroy(&self.path)
        {
            tracing::error!("cannot remove the cgroup {}: {error}", self.path.display());
        }
    }
}

/// Where the unified hierarchy is mounted.
fn mount_point() -> anyhow::Result<PathBuf> {
    let mount = procfs::process::Process::myself()
        .and_then(|this| this.mountinfo())
        .context("cannot read /proc/self/mountinfo")?
        .into_iter()
        .filter(|mount| mount.fs_type == "cgroup2")
        .find(|mount| mount.root == "/")
        .context(
            "no cgroup2 file system is mounted (/proc/self/mountinfo lists none); \
             mount one: mount -t cgroup2 none /sys/fs/cgroup",
        )?;
    Ok(mount.mount_point)
}

/// The directory of this process's cgroup in the unified hierarchy.
fn own_path(mount_point: &Path) -> anyhow::Result<PathBuf> {
    let this = procfs::process::Process::myself().context("cannot read /proc/self")?;
    let own = this
        .cgroups()
        .context("cannot read /proc/self/cgroup")?
        .into_iter()
        .find(|group| group.hierarchy == 0)
        .context("this process is in no cgroup2 (/proc/self/cgroup has no line `0::`)")?;
    let relative = own.pathname.trim_start_matches('/').to_owned();
    if relative.split('/').any(|part| part == "..") {
        bail!(
            "this process's cgroup {} lies outside the cgroup namespace of {}",
            own.pathname,
            mount_point.display()
        );
    }
    Ok(mount_point.join(relative))
}

/// The nearest ancestor of `path`, itself included, that only root can write.
fn root_owned_ancestor(path: &Path) -> anyhow::Result<PathBuf> {
    let only_root = |metadata: Metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0;
    for ancestor in path.ancestors() {
        let procs = ancestor.join("cgroup.procs");
        let metadata = match fs::metadata(&procs) {
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            result => result.with_context(|| format!("cannot look at {}", procs.display()))?,
        };
        if only_root(metadata) && fs::metadata(ancestor).is_ok_and(only_root) {
            return Ok(ancestor.to_owned());
        }
    }
    Err(anyhow!(
        "every cgroup above {} can be written by others than root, so that a child could \
         move itself out; run cgfw in a cgroup below one that only root can write",
        path.display()
    ))
}

/// Kill and remove the cgroups of runs whose cgfw and guardian are both gone. One that
/// cannot be removed, for a process that is stuck in the kernel, is no reason not to run.
fn collect_leftovers(parent: &Path) -> anyhow::Result<()> {
    let entries =
        fs::read_dir(parent).with_context(|| format!("cannot list {}", parent.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", parent.display()))?;
        if !is_name_of_run(&entry.file_name()) {
            continue;
        }
        // Locked: its run lives. Gone: somebody else was faster.
        let path = entry.path();
        let Ok(Some(_lock)) = lock(&path) else {
            continue;
        };
        match destroy(&path) {
            Ok(()) => tracing::info!("removed {}, left by a killed run", path.display()),
            Err(error) => tracing::warn!(
                "cannot remove {}, left by a killed run: {error}",
                path.display()
            ),
        }
    }
    Ok(())
}

/// Whether a cgroup of this name is the work of cgfw: `cgfw-proxy.slice` is not.
fn is_name_of_run(name: &OsStr) -> bool {
    name.as_encoded_bytes()
        .strip_prefix(PREFIX.as_bytes())
        .is_some_and(|id| id.len() == ID_LENGTH && id.iter().all(u8::is_ascii_hexdigit))
}

/// Make a cgroup and lock its directory. Another run that looks for leftovers may find it
/// in between, take it for one and remove it; then once more.
fn make_locked(path: &Path) -> anyhow::Result<Flock<File>> {
    let is_there = |directory: &File| {
        let (there, here) = (fs::metadata(path), directory.metadata());
        matches!((there, here), (Ok(there), Ok(here)) if there.ino() == here.ino())
    };
    for _ in 0..ATTEMPTS {
        match fs::create_dir(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot make the cgroup {}; cgfw needs write access to it, as root has",
                        path.display()
                    )
                });
            }
            _ => {}
        }
        match lock(path) {
            Ok(Some(directory)) if is_there(&directory) => return Ok(directory),
            Err(error) if path.exists() => return Err(error),
            _ => {}
        }
        std::thread::sleep(RETRY);
    }
    bail!(
        "other runs of cgfw removed the cgroup {} again and again",
        path.display()
    )
}

/// Lock a cgroup's directory; `None` if somebody else has the lock.
fn lock(path: &Path) -> anyhow::Result<Option<Flock<File>>> {
    let directory = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Kill every process below `path` and remove the directories, deepest first.
fn destroy(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + KILL_PATIENCE;
    loop {
        let result = kill_all(path)
            .and_then(|()| wait_empty(path, deadline))
            .and_then(|()| remove_tree(path));
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // A process was not quite gone, or one more was born.
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(RETRY);
            }
            result => return result,
        }
    }
}

/// SIGKILL to everything below `path`, such that nothing can fork its way out.
fn kill_all(path: &Path) -> io::Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        // Kernels before 5.14 have no cgroup.kill: nothing forks while it is frozen.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ) =>
        {
            fs::write(path.join("cgroup.freeze"), "1")?;
            for pid in processes(path)? {
                signal_one(pid, Signal::SIGKILL)?;
            }
            fs::write(path.join("cgroup.freeze"), "0")
        }
        result => result,
    }
}

fn signal_one(pid: Pid, signal: Signal) -> io::Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn wait_empty(path: &Path, deadline: Instant) -> io::Result<()> {
    let events = open_events(path)?;
    while read_populated(&events)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                ErrorKind::TimedOut,
                "killed processes are still there",
            ));
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(
            &mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)],
            timeout,
        )?;
    }
    Ok(())
}

/// The file that polls as exceptional (`POLLPRI`) when it says something else than when
/// it was read last through this very descriptor (fs/kernfs/file.c).
fn open_events(path: &Path) -> io::Result<File> {
    File::open(path.join("cgroup.events"))
}

fn read_populated(mut events: &File) -> io::Result<bool> {
    let mut text = String::new();
    events.rewind()?;
    events.read_to_string(&mut text)?;
    Ok(text.lines().any(|line| line == "populated 1"))
}

fn processes(path: &Path) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for directory in tree(path)? {
        let list = match fs::read_to_string(directory.join("cgroup.procs")) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            // A threaded cgroup: its processes are listed above it.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
            result => result?,
        };
        found.extend(
            list.lines()
                .filter_map(|pid| pid.parse().ok())
                .map(Pid::from_raw),
        );
    }
    Ok(found)
}

/// rmdir, deepest first. Files in a cgroup are not removed, they vanish with it.
fn remove_tree(path: &Path) -> io::Result<()> {
    for directory in tree(path)?.iter().rev() {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

/// `path` and every directory below it, parents first.
fn tree(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next) {
        let entries = match fs::read_dir(directory) {
            Err(error) if next > 0 && error.kind() == ErrorKind::NotFound => {
                next += 1;
                continue;
            }
            result => result?,
        };
        let names = entries
            .filter_map(|entry| match entry {
                Ok(entry) => match entry.file_type() {
                    Ok(kind) => kind.is_dir().then(|| Ok(entry.file_name())),
                    Err(error) => Some(Err(error)),
                },
                Err(error) => Some(Err(error)),
            })
            .collect::<io::Result<Vec<OsString>>>()?;
        let below: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
        found.extend(below);
        next += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_like_a_run_is_a_leftover() {
        assert!(is_name_of_run("cgfw-0123456789abcdef".as_ref()));
        for other in [
            "cgfw-proxy.slice",
            "cgfw-",
            "cgfw-0123456789abcdef0",
            "cgfw-0123456789abcdeg",
            "lab-0123456789abcdef",
        ] {
            assert!(!is_name_of_run(other.as_ref()), "{other}");
        }
    }
}
