//! Signals and abstract unix sockets only among the command's own processes.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Context as _;
use landlock::{ABI, Access as _, Ruleset, RulesetAttr as _, Scope};
use nix::errno::Errno;

use super::Unix;

/// A ruleset with what this kernel has of it; `None` if that is nothing, as before Linux 6.12
/// or where Landlock is switched off.
pub(super) fn scopes(unix: &Unix) -> anyhow::Result<Option<OwnedFd>> {
    let scopes = match unix {
        // Landlock comes before LSM programs, and tells nobody what it refuses.
        Unix::Judged => Scope::Signal.into(),
        Unix::Refused { .. } => Scope::from_all(ABI::V6),
    };
    let ruleset = Ruleset::default()
        .scope(scopes)
        .and_then(Ruleset::create)
        .context("cannot make a Landlock ruleset")?;
    Ok(ruleset.into())
}

/// Restrict this process, and all that it starts. Needs no_new_privs. Makes one system call
/// and allocates nothing.
pub(super) fn restrict(ruleset: &OwnedFd) -> Result<(), Errno> {
    let ruleset = ruleset.as_raw_fd();
    // SAFETY: takes integers; the descriptor is open.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) };
    Errno::result(done).map(drop)
}
