//! The file systems of the command, without those through which root acts on the kernel.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, c_ulong};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::ptr;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use procfs::process::{MountInfo, Process};

const PROC: &str = "/proc";

/// Types that are hidden wherever they are mounted. Read-only would not do: a directory of
/// cgroup2 is enough to start a process in it, and one of proc to get at processes outside.
const HIDDEN: [&str; 9] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "proc",
    "securityfs",
    "tracefs",
];

/// Of what has no programs and no devices.
const PLAIN: c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// What is to be mounted in a new mount namespace, in this order.
pub(super) struct Mounts(Vec<Mount>);

/// The arguments of mount(2).
struct Mount {
    source: CString,
    target: CString,
    kind: Option<&'static CStr>,
    flags: c_ulong,
}

impl Mounts {
    /// Look at what is mounted now.
    pub(super) fn plan() -> anyhow::Result<Self> {
        let mounts = Process::myself()
            .and_then(|this| this.mountinfo())
            .context("cannot read /proc/self/mountinfo")?
            .0;
        refuse_hidden_working_directory(&mounts)?;
        // Nothing that is mounted from here on comes in or gets out.
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let mut plan = Self(vec![Mount::new("none", "/", None, private)?]);
        plan.renew_proc()?;
        let reachable: Vec<&MountInfo> = mounts
            .iter()
            .filter(|mount| !mount.mount_point.starts_with(PROC) && is_reachable(mount))
            .collect();
        let hidden: BTreeSet<&Path> = reachable
            .iter()
            .filter(|mount| is_hidden(mount))
            .map(|mount| &*mount.mount_point)
            .collect();
        let is_covered = |path: &Path| path.ancestors().any(|above| hidden.contains(above));
        for path in &hidden {
            if !path.parent().is_some_and(is_covered) {
                plan.hide(path)?;
            }
        }
        for mount in reachable {
            let path = &*mount.mount_point;
            let acts_on_the_kernel = mount.fs_type == "sysfs" || path.starts_with("/sys");
            if acts_on_the_kernel && !is_covered(path) {
                plan.make_read_only(path)?;
            }
        }
        Ok(plan)
    }

    /// Mount it all, or say how many were made before one failed. Makes system calls and
    /// allocates nothing.
    pub(super) fn make(&self) -> Result<(), (usize, Errno)> {
        for (index, mount) in self.0.iter().enumerate() {
            mount.make().map_err(|error| (index, error))?;
        }
        Ok(())
    }

    /// Where the mount with this index goes.
    pub(super) fn target(&self, index: usize) -> Option<&Path> {
        let mount = self.0.get(index)?;
        Some(Path::new(OsStr::from_bytes(mount.target.as_bytes())))
    }

    /// A file system of the new PID namespace, in which the command may write to what belongs
    /// to processes and to nothing else.
    fn renew_proc(&mut self) -> anyhow::Result<()> {
        self.0.push(Mount::new("proc", PROC, Some(c"proc"), PLAIN)?);
        for entry in fs::read_dir(PROC).context("cannot list /proc")? {
            let entry = entry.context("cannot list /proc")?;
            if entry.file_name().as_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            let path = entry.path();
            let metadata = entry
                .metadata()
                .with_context(|| format!("cannot look at {}", path.display()))?;
            let is_writable = metadata.permissions().mode() & 0o222 != 0;
            if metadata.is_dir() || metadata.is_file() && is_writable {
                self.0.push(Mount::new(&path, &path, None, libc::MS_BIND)?);
                self.make_read_only(&path)?;
            }
        }
        Ok(())
    }

    /// Put something empty over a file or directory.
    fn hide(&mut self, path: &Path) -> anyhow::Result<()> {
        self.0.push(if path.is_dir() {
            Mount::new("tmpfs", path, Some(c"tmpfs"), PLAIN | libc::MS_RDONLY)?
        } else {
            Mount::new("/dev/null", path, None, libc::MS_BIND)?
        });
        Ok(())
    }

    fn make_read_only(&mut self, path: &Path) -> anyhow::Result<()> {
        let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | PLAIN;
        self.0.push(Mount::new("none", path, None, flags)?);
        Ok(())
    }
}

impl Mount {
    fn new(
        source: impl AsRef<OsStr>,
        target: impl AsRef<OsStr>,
        kind: Option<&'static CStr>,
        flags: c_ulong,
    ) -> anyhow::Result<Self> {
        let c_string = |text: &OsStr| {
            CString::new(text.as_bytes())
                .with_context(|| format!("cannot mount {}", text.display()))
        };
        Ok(Self {
            source: c_string(source.as_ref())?,
            target: c_string(target.as_ref())?,
            kind,
            flags,
        })
    }

    fn make(&self) -> Result<(), Errno> {
        // SAFETY: C strings or null, as mount(2) takes them.
        let made = unsafe {
            libc::mount(
                self.source.as_ptr(),
                self.target.as_ptr(),
                self.kind.map_or(ptr::null(), CStr::as_ptr),
                self.flags,
                ptr::null(),
            )
        };
        Errno::result(made).map(drop)
    }
}

/// The working directory is not mounted anew: from within a file system that is hidden
/// everything in it could still be reached.
fn refuse_hidden_working_directory(mounts: &[MountInfo]) -> anyhow::Result<()> {
    let here = fs::metadata(".").context("cannot look at the working directory")?;
    let here = device(&here);
    if let Some(mount) = mounts
        .iter()
        .find(|mount| is_hidden(mount) && mount.majmin == here)
    {
        bail!(
            "the working directory is in a file system of type {}, which --strict hides; \
             change to another directory",
            mount.fs_type
        );
    }
    Ok(())
}

fn is_hidden(mount: &MountInfo) -> bool {
    HIDDEN.contains(&&*mount.fs_type)
}

/// Whether its path leads to this mount, and not to one that covers it.
fn is_reachable(mount: &MountInfo) -> bool {
    fs::symlink_metadata(&mount.mount_point).is_ok_and(|found| device(&found) == mount.majmin)
}

/// As /proc/self/mountinfo has it.
fn device(file: &Metadata) -> String {
    let device = file.dev();
    format!("{}:{}", libc::major(device), libc::minor(device))
}
