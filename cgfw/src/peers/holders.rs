//! The processes that hold a socket, by their descriptors in /proc.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::event::Peer;

/// How long a search may take; who waits for it does nothing else.
const PATIENCE: Duration = Duration::from_millis(100);
/// The init process.
const INIT: Pid = Pid::from_raw(1);
/// So much of a command line is read.
const ARGV_MAX: u64 = 4096;

/// What was found.
#[derive(Debug)]
pub(super) enum Search {
    /// Every socket is held inside.
    Inside,
    /// This process holds one that is not.
    Outside(Pid, Peer),
    /// Nobody who can be seen holds one that is not.
    Nobody,
    /// There was not enough time.
    CutShort,
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
    for pid in inside {
        if Instant::now() > deadline {
            return Ok(Search::CutShort);
        }
        let held = held_by(*pid, &left)?;
        left.retain(|socket| !held.contains(socket));
        if left.is_empty() {
            return Ok(Search::Inside);
        }
    }
    // In the order of their numbers (proc_pid_readdir in fs/proc/base.c).
    let pids = fs::read_dir("/proc")?.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse().ok().map(Pid::from_raw)
    });
    for pid in init_last(pids) {
        if Instant::now() > deadline {
            return Ok(Search::CutShort);
        }
        if !held_by(pid, &left)?.is_empty() {
            return Ok(Search::Outside(pid, peer(pid)));
        }
    }
    Ok(Search::Nobody)
}

fn init_last(pids: impl Iterator<Item = Pid>) -> impl Iterator<Item = Pid> {
    let (init, others): (Vec<Pid>, Vec<Pid>) = pids.partition(|pid| *pid == INIT);
    others.into_iter().chain(init)
}

/// Which of `sockets` a process holds: none that is known, if it has ended or if its
/// descriptors are not shown to us.
fn held_by(pid: Pid, sockets: &[u32]) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if is_gone(&error) || error.kind() == ErrorKind::PermissionDenied => {
            return Ok(Vec::new());
        }
        result => result?,
    };
    let held = entries.filter_map(|entry| socket_at(&entry.ok()?.path()));
    Ok(held.filter(|socket| sockets.contains(socket)).collect())
}

/// The inode number of the socket that a descriptor is, by its name in /proc.
fn socket_at(descriptor: &Path) -> Option<u32> {
    let target = fs::read_link(descriptor).ok()?;
    let target = target.as_os_str().as_bytes();
    let inode = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    str::from_utf8(inode).ok()?.parse().ok()
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn peer(pid: Pid) -> Peer {
    let mut comm = read(pid, "comm");
    comm.pop_if(|last| *last == b'\n');
    Peer {
        pid: pid.as_raw().unsigned_abs(),
        comm,
        argv: argv(pid),
    }
}

/// The arguments of a process, argv\[0\] first; of very long ones the beginning. Empty if it
/// has ended.
pub fn argv(pid: Pid) -> Vec<Vec<u8>> {
    let mut line = read(pid, "cmdline");
    line.pop_if(|last| *last == 0);
    if line.is_empty() {
        return Vec::new();
    }
    line.split(|octet| *octet == 0)
        .map(<[u8]>::to_vec)
        .collect()
}

fn read(pid: Pid, name: &str) -> Vec<u8> {
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
        let order = init_last([1, 2, 11, 300].map(Pid::from_raw).into_iter());
        assert!(order.eq([2, 11, 300, 1].map(Pid::from_raw)));
    }

    #[test]
    fn this_process_is_found_with_its_arguments() {
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let inode = socket_at(Path::new(&format!("/proc/self/fd/{number}"))).unwrap();
        let own = Pid::this();
        let search_among = |inside: &[Pid]| search(&[inode], inside).unwrap();
        assert!(matches!(search_among(&[own]), Search::Inside));
        let Search::Outside(pid, peer) = search_among(&[]) else {
            panic!("not found");
        };
        assert_eq!((pid, peer.pid), (own, own.as_raw().unsigned_abs()));
        let argv: Vec<Vec<u8>> = std::env::args().map(String::into_bytes).collect();
        assert_eq!(peer.argv, argv);
        assert!(!peer.comm.is_empty() && !peer.comm.contains(&b'\n'));
    }

    #[test]
    fn a_socket_that_nobody_holds_is_not_found() {
        // No socket has this number (get_next_ino in fs/inode.c).
        assert!(matches!(search(&[0], &[]).unwrap(), Search::Nobody));
    }
}
