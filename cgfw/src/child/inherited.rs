//! Network sockets that cgfw was started with.
//!
//! The kernel filters a socket by the cgroup in which it was made, so that one that is
//! inherited is not filtered at all. Other descriptors are kept: process substitution,
//! make's jobserver and flock need them.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use nix::errno::Errno;

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
    for fd in descriptors()? {
        if let Some(family) = option(fd, libc::SO_DOMAIN)
            && !matches!(family, libc::AF_UNIX | libc::AF_NETLINK)
        {
            found.push(ForeignSocket { fd, family });
        }
    }
    Ok(found)
}

/// Which of stdin, stdout and stderr are unix sockets, and whether each is one that can send
/// to any other.
pub fn unix_standard_descriptors() -> Vec<(RawFd, bool)> {
    (0..=2)
        .filter(|&fd| option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX))
        .map(|fd| (fd, option(fd, libc::SO_TYPE) == Some(libc::SOCK_DGRAM)))
        .collect()
}

/// The unix sockets beyond stderr, over which whoever holds the other end can pass sockets
/// that are not filtered (SCM_RIGHTS, unix(7)).
pub fn unix_descriptors() -> io::Result<Vec<RawFd>> {
    let mut found = descriptors()?;
    found.retain(|&fd| fd > 2 && option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX));
    Ok(found)
}

/// Close everything beyond stderr, and count it. To be called before any other descriptor is
/// opened.
pub fn close_beyond_stderr() -> io::Result<usize> {
    let mut closed = 0;
    for fd in descriptors()?.into_iter().filter(|fd| *fd > 2) {
        match nix::unistd::close(fd) {
            Ok(()) => closed += 1,
            // The one through which they were listed.
            Err(Errno::EBADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(closed)
}

/// The open descriptors, and one that is closed by now.
fn descriptors() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
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

/// An option of a descriptor that is a socket.
fn option(fd: RawFd, name: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = SIZE;
    // SAFETY: `value` and `length` are valid for writes and of the size that is said; a
    // descriptor that is closed or no socket makes the call fail.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(value)
}
