/*!
The limit of locked memory (`RLIMIT_MEMLOCK`).

Before Linux 5.11 the kernel counts eBPF maps and programs in it when they are made, and
by default root may have 64 KiB, which is less than our ring buffer alone. aya lifts the
limit when a map meets it and leaves it lifted, for the child to inherit.
*/

use anyhow::Context as _;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Do `work` without the limit, where this process may lift it, and set it again.
pub(super) fn lifted<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let limit = Resource::RLIMIT_MEMLOCK;
    let (soft, hard) = getrlimit(limit).context("cannot read the limit of locked memory")?;
    if let Err(error) = setrlimit(limit, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!("cannot lift the limit of locked memory ({soft} octets): {error}");
        return work();
    }
    let result = work();
    setrlimit(limit, soft, hard).context("cannot restore the limit of locked memory")?;
    result
}
