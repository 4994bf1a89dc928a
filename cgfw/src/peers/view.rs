//! The machine as a process sees it: names of files, mounts, the network.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::diag::{self, Bound};
use crate::event::Process;

const OWN: &str = "/proc/self";
const NETWORK: &str = "ns/net";

/// Device and inode number, which a file shares with no other one.
pub(super) type Identity = (u64, u64);

/// Sees what a process sees.
pub(super) struct View {
    /// Its directory in /proc.
    process: PathBuf,
    /// Whether that is the process that was asked for, and not another in its place.
    is_exact: bool,
}

impl View {
    /// What `asker` sees; if it is gone what its parent does, which as a rule has the same
    /// root and network; else what we see.
    pub(super) fn of(asker: &Process) -> Self {
        let lives = |pid: u32| {
            let process = PathBuf::from(format!("/proc/{pid}"));
            // The root of a process that has ended leads nowhere.
            (pid != 0 && process.join("root").exists()).then_some(process)
        };
        let process = lives(asker.pid);
        Self {
            is_exact: process.is_some(),
            process: process
                .or_else(|| lives(asker.ppid))
                .unwrap_or_else(|| OWN.into()),
        }
    }

    /// Open the socket file of this name, to look at and not to use. ENOENT if the file is
    /// no socket.
    pub(super) fn open(&self, name: &[u8]) -> nix::Result<(OwnedFd, Identity)> {
        let path = Path::new(std::ffi::OsStr::from_bytes(name));
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let place = |link| open(&self.process.join(link), flags, Mode::empty());
        let file = if path.is_absolute() {
            // Absolute symbolic links start at that root too, not at ours.
            let how = OpenHow::new()
                .flags(flags)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT);
            openat2(place("root")?, path, how)?
        } else if self.is_exact {
            openat(place("cwd")?, path, flags, Mode::empty())?
        } else {
            return Err(Errno::ESRCH);
        };
        let stat = fstat(&file)?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK {
            Ok((file, identity(&stat)))
        } else {
            Err(Errno::ENOENT)
        }
    }

    /// The network namespace of the process.
    pub(super) fn network(&self) -> io::Result<Identity> {
        let there = std::fs::metadata(self.process.join(NETWORK));
        let namespace = there.or_else(|_ended| std::fs::metadata(Path::new(OWN).join(NETWORK)))?;
        Ok((namespace.dev(), namespace.ino()))
    }

    /// The sockets bound to a socket file; `None` if it cannot be told which they are.
    pub(super) fn sockets_of(&self, file: &OwnedFd) -> io::Result<Option<Vec<u32>>> {
        let inode = fstat(file)?.st_ino;
        // Files are found by all network namespaces, and sockets are listed by each.
        let mut bound = self.in_network(|| diag::bound_to(inode))?;
        if bound.is_empty() {
            bound = diag::bound_to(inode)?;
        }
        if bound.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let device = self.device(file.as_fd())?;
        Ok(device.map(|device| {
            let there = |bound: &Bound| (bound.device == device).then_some(bound.socket);
            bound.iter().filter_map(there).collect()
        }))
    }

    /// The device of the file system that a file is on, major and minor number. That of
    /// stat(2) is another one on btrfs and overlayfs.
    fn device(&self, file: BorrowedFd<'_>) -> io::Result<Option<(u32, u32)>> {
        let info = std::fs::read_to_string(format!("{OWN}/fdinfo/{}", file.as_raw_fd()))?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        let mount: Option<i32> = mount.and_then(|id| id.trim().parse().ok());
        let mounts = procfs::process::Process::new_with_root(self.process.clone())
            .and_then(|process| process.mountinfo());
        // Only if it has ended meanwhile can its mounts not be read.
        let Ok(mounts) = mounts else { return Ok(None) };
        let on = mounts.into_iter().find(|entry| Some(entry.mnt_id) == mount);
        Ok(on.and_then(|entry| {
            let (major, minor) = entry.majmin.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        }))
    }

    /// Call `act` in the network namespace of the process.
    pub(super) fn in_network<T: Send>(
        &self,
        act: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let own = File::open(Path::new(OWN).join(NETWORK))?;
        match File::open(self.process.join(NETWORK)) {
            Ok(there) if identity(&fstat(&there)?) != identity(&fstat(&own)?) => {
                let act = || {
                    setns(&there, CloneFlags::CLONE_NEWNET)?;
                    act()
                };
                match thread::scope(|scope| scope.spawn(act).join()) {
                    Ok(done) => done,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            _ => act(),
        }
    }
}

fn identity(stat: &FileStat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Whether a socket is bound to a socket file, and not only was.
///
/// The kernel looks for the socket before it compares the types (`unix_find_bsd` in
/// net/unix/af_unix.c), so that a listener is not disturbed; and a datagram socket is not
/// told who has connected to it.
pub(super) fn is_bound(file: &OwnedFd) -> io::Result<bool> {
    let probe = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let address = UnixAddr::new(format!("{OWN}/fd/{}", file.as_raw_fd()).as_str())?;
    Ok(connect(probe.as_raw_fd(), &address) != Err(Errno::ECONNREFUSED))
}
