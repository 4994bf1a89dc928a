//! Daemons that resolve names for a process, outside of its cgroup.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::MaskedFile;

/// Where nss-resolve and nscd listen. With these hidden, libc asks the DNS instead,
/// which is redirected to the proxy.
const SOCKETS: [&str; 3] = [
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
];

/// The sockets of name service daemons on this host, each with the mount it is on.
pub fn name_service_sockets() -> anyhow::Result<Vec<MaskedFile>> {
    let mut paths: Vec<PathBuf> = SOCKETS
        .iter()
        .filter(|path| fs::metadata(path).is_ok_and(|file| file.file_type().is_socket()))
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let mounts: Vec<PathBuf> = procfs::process::Process::myself()
        .and_then(|this| this.mountinfo())
        .context("cannot read /proc/self/mountinfo")?
        .into_iter()
        .map(|mount| mount.mount_point)
        .collect();
    Ok(paths
        .into_iter()
        .map(|path| MaskedFile {
            mount_point: mount_of(&path, &mounts),
            path,
        })
        .collect())
}

/// The longest mount point that `path` is below.
fn mount_of(path: &Path, mounts: &[PathBuf]) -> PathBuf {
    mounts
        .iter()
        .filter(|mount| path.starts_with(mount))
        .max_by_key(|mount| mount.components().count())
        .map_or_else(|| PathBuf::from("/"), Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_on_the_longest_mount_above_it() {
        let mounts = ["/", "/run", "/run/user/0", "/r"].map(PathBuf::from);
        let on = |path: &str| mount_of(Path::new(path), &mounts);
        assert_eq!(on("/run/nscd/socket"), Path::new("/run"));
        assert_eq!(on("/running/nscd/socket"), Path::new("/"));
        assert_eq!(on("/run/user/0/socket"), Path::new("/run/user/0"));
    }
}
