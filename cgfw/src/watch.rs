//! Descriptors that tokio waits for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watch `inner` until it is readable. To be called inside a tokio runtime.
pub(crate) fn readable<T: AsFd + AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    watch(inner, Interest::READABLE)
}

/// Watch `inner` for an exceptional condition, as files of cgroupfs signal a change.
pub(crate) fn exceptional<T: AsFd + AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    watch(inner, Interest::PRIORITY)
}

fn watch<T: AsFd + AsRawFd>(inner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor must be open and the same for as long as `inner` lives, which
    // is what `AsFd` promises.
    let watched = unsafe { AsyncFd::register_with_interest(inner, interest) };
    watched.map_err(io::Error::from)
}
