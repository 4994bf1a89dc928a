//! The processes that hold a socket, by their descriptors in /proc.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::event::Peer;

/// How long a search may take; who waits for it does nothing else.
const PATIENCE: Duration = Duration::from_millis(100);
/// The init process.
const INIT: i32 = 1;
/// So much of a command line is read.
const ARGV_MAX: u64 = 4096;

/// A process that holds a socket.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) pid: Pid,
    /// The inode number of the socket.
    pub(super) socket: u32,
    /// `/proc/PID/fd/NUMBER`.
    pub(super) descriptor: PathBuf,
}

/// What was found.
#[derive(Default)]
pub(super) struct Search {
    /// The sockets that are held inside, by whom.
    pub(super) inside: Vec<Holder>,
    /// Who holds one that is not.
    pub(super) outside: Option<(Holder, Peer)>,
    /// Whether there was not enough time.
    pub(super) cut_short: bool,
}

/// Look for those who hold `sockets`, among the processes `inside`, and for those sockets
/// that nobody there holds, one outside.
///
/// Of several outside it is the one with the lowest pid, as a rule the one from which the
/// others were forked; but the init process only if there is no other: it holds the sockets of
/// the services that it starts when they are needed.
pub(super) fn search(sockets: &[u32], inside: &[Pid]) -> io::Result<Search> {
    let deadline = Instant::now() + PATIENCE;
    let mut left = sockets.to_vec();
    let mut found = Search::default();
    for pid in inside {
        if left.is_empty() || Instant::now() > deadline {
            break;
        }
        for holder in held_by(*pid, &left)? {
            left.retain(|socket| *socket != holder.socket);
            found.inside.push(holder);
        }
    }
    if left.is_empty() {
        return Ok(found);
    }
    // In the order of their numbers (proc_pid_readdir in fs/proc/base.c).
    let pids = fs::read_dir("/proc")?.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse().ok()
    });
    for pid in init_last(pids) {
        if Instant::now() > deadline {
            found.cut_short = true;
            break;
        }
        if let Some(holder) = held_by(Pid::from_raw(pid), &left)?.pop() {
            found.outside = Some((holder, peer(pid)));
            break;
        }
    }
    Ok(found)
}

fn init_last(pids: impl Iterator<Item = i32>) -> impl Iterator<Item = i32> {
    let (init, others): (Vec<i32>, Vec<i32>) = pids.partition(|pid| *pid == INIT);
    others.into_iter().chain(init)
}

/// The inode number of the socket that a descriptor is, by its name in /proc.
pub(super) fn socket_at(descriptor: &Path) -> Option<u32> {
    let target = fs::read_link(descriptor).ok()?;
    let target = target.as_os_str().as_bytes();
    let inode = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    str::from_utf8(inode).ok()?.parse().ok()
}

/// Which of `sockets` a process holds: none that is known, if it has ended or if its
/// descriptors are not shown to us.
fn held_by(pid: Pid, sockets: &[u32]) -> io::Result<Vec<Holder>> {
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if is_gone(&error) || error.kind() == ErrorKind::PermissionDenied => {
            return Ok(Vec::new());
        }
        result => result?,
    };
    Ok(entries
        .filter_map(|entry| {
            let descriptor = entry.ok()?.path();
            let socket = socket_at(&descriptor)?;
            sockets.contains(&socket).then_some(Holder {
                pid,
                socket,
                descriptor,
            })
        })
        .collect())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn peer(pid: i32) -> Peer {
    let mut comm = read(pid, "comm");
    comm.pop_if(|last| *last == b'\n');
    Peer {
        pid: pid.unsigned_abs(),
        comm,
        argv: argv(Pid::from_raw(pid)),
    }
}

/// The arguments of a process, argv\[0\] first; of very long ones the beginning. Empty if it
/// has ended.
pub fn argv(pid: Pid) -> Vec<Vec<u8>> {
    let mut line = read(pid.as_raw(), "cmdline");
    line.pop_if(|last| *last == 0);
    if line.is_empty() {
        return Vec::new();
    }
    line.split(|octet| *octet == 0)
        .map(<[u8]>::to_vec)
        .collect()
}

fn read(pid: i32, name: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let file = File::open(format!("/proc/{pid}/{name}"));
    let read = file.and_then(|file| file.take(ARGV_MAX).read_to_end(&mut octets));
    // It has ended meanwhile: so much is known of it.
    read.map_or_else(|_gone| Vec::new(), |_length| octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_process_is_asked_last() {
        let order: Vec<i32> = init_last([1, 2, 11, 300].into_iter()).collect();
        assert_eq!(order, [2, 11, 300, 1]);
    }

    #[test]
    fn this_process_is_found_with_its_arguments() {
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let descriptor = PathBuf::from(format!("/proc/self/fd/{number}"));
        let inode = socket_at(&descriptor).unwrap();
        let own = Pid::this();
        let inside = search(&[inode], &[own]).unwrap();
        assert_eq!(inside.inside.len(), 1);
        assert!(inside.outside.is_none());
        let outside = search(&[inode], &[]).unwrap();
        let (holder, peer) = outside.outside.unwrap();
        assert_eq!(holder.socket, inode);
        assert_eq!(peer.pid, own.as_raw().unsigned_abs());
        let argv: Vec<Vec<u8>> = std::env::args().map(String::into_bytes).collect();
        assert_eq!(peer.argv, argv);
        assert!(!peer.comm.is_empty() && !peer.comm.contains(&b'\n'));
    }
}
