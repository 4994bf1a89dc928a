//! Network sockets that cgfw was started with.
//!
//! The kernel filters a socket by the cgroup in which it was made, so that one that is
//! inherited is not filtered at all. Other descriptors are kept: process substitution,
//! make's jobserver and flock need them.

use std::fs;
use std::io;
use std::os::fd::RawFd;

/// A socket that is not filtered, whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignSocket {
    pub fd: RawFd,
    /// AF_INET and its kin.
    pub family: libc::c_int,
}

/// The inherited sockets of families that reach other machines.
pub fn network_sockets() -> io::Result<Vec<ForeignSocket>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Some(family) = family(fd)
            && !matches!(family, libc::AF_UNIX | libc::AF_NETLINK)
        {
            found.push(ForeignSocket { fd, family });
        }
    }
    Ok(found)
}

/// Close the sockets beyond stderr. To be called before any other descriptor is opened.
pub fn close_network_sockets(sockets: &[ForeignSocket]) -> io::Result<()> {
    for socket in sockets.iter().filter(|socket| socket.fd > 2) {
        nix::unistd::close(socket.fd)?;
    }
    Ok(())
}

/// Of an int, as sockets measure it.
const SIZE: libc::socklen_t = 4;

/// The family of a descriptor that is a socket.
fn family(fd: RawFd) -> Option<libc::c_int> {
    let mut family: libc::c_int = 0;
    let mut length = SIZE;
    // SAFETY: `family` and `length` are valid for writes and of the size that is said; a
    // descriptor that is closed or no socket makes the call fail.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut family).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(family)
}
