//! Processes of the child that lost their parent.

use std::io;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// Become the parent of every process of the child that loses its own, instead of init:
/// then all that the child starts stays below cgfw, wherever it is moved.
pub fn adopt_orphans() -> anyhow::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("cannot become a subreaper")
}

/// Reap the orphans that have ended. `own` are the processes that somebody waits for.
pub fn reap_orphans(own: &[Pid]) -> io::Result<()> {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        let pid = match waitid(Id::All, look) {
            Err(Errno::ECHILD) | Ok(WaitStatus::StillAlive) => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok(status) => status.pid(),
        };
        match pid {
            // It hides those behind it until whoever waits for it has seen it.
            Some(pid) if own.contains(&pid) => return Ok(()),
            Some(pid) => waitpid(pid, None)?,
            None => return Ok(()),
        };
    }
}
