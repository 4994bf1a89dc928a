//! What cgfw needs more of than it was given, and the child is not to have.

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Connections of the DNS proxy, to clients and to servers, are descriptors of cgfw.
const DESCRIPTORS: rlim_t = 4096;

/// The limits of open files (`RLIMIT_NOFILE`) that cgfw was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    soft: rlim_t,
    hard: rlim_t,
}

impl OpenFiles {
    /// Let this process have at least 4096, or as many as its hard limit permits.
    pub fn raise() -> anyhow::Result<Self> {
        let (soft, hard) =
            getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
        let wanted = DESCRIPTORS.min(hard);
        if soft < wanted {
            setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
                .context("cannot raise the limit of open files")?;
        }
        Ok(Self { soft, hard })
    }

    /// Give this process the limits that cgfw was started with. Makes one system call and
    /// allocates nothing, and needs no rights: the hard limit never changed.
    pub(super) fn restore(self) -> nix::Result<()> {
        setrlimit(Resource::RLIMIT_NOFILE, self.soft, self.hard)
    }
}
