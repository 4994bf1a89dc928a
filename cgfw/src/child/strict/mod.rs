/*!
`--strict`: a command that is root and wants out stays in.

Everything is planned before there is a child. The child is then the init of namespaces of
its own: it mounts what is planned, gives up what leads out, for good and for all that it
starts, and starts the command.
*/

mod capabilities;
pub(super) mod init;
mod landlock;
mod mounts;

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context as _;
use nix::errno::Errno;

use self::mounts::Mounts;
use super::seccomp::{self, Filter};

/// What becomes of unix sockets under `--strict`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unix {
    /// There are none, but for pairs: LSM programs, which could judge what is behind a path,
    /// do not work here, for this reason.
    Refused { reason: String },
    /// LSM programs, which are proven to work, let them connect to the command's own processes
    /// only.
    Judged,
}

/// What is to be done in the child.
pub(super) struct Strict {
    mounts: Mounts,
    landlock: Option<OwnedFd>,
    filter: Filter,
    unix: Unix,
}

impl Strict {
    /// Look at this machine and prepare. To be called when nothing will be mounted any more.
    pub(super) fn plan(unix: Unix) -> anyhow::Result<Self> {
        Ok(Self {
            mounts: Mounts::plan().context("cannot plan the mounts of --strict")?,
            landlock: landlock::scopes(&unix)?,
            filter: seccomp::strict(&unix).context("cannot do what --strict promises")?,
            unix,
        })
    }

    /// In the child: hide and protect file systems. An error comes with its place in the plan.
    pub(super) fn mount(&self) -> Result<(), (usize, Errno)> {
        self.mounts.make()
    }

    /// The path of the mount at this place in the plan.
    pub(super) fn mount_point(&self, place: usize) -> Option<&Path> {
        self.mounts.target(place)
    }

    pub(super) fn drop_capabilities() -> Result<(), Errno> {
        capabilities::drop_the_rest()
    }

    pub(super) fn restrict_scopes(&self) -> Result<(), Errno> {
        self.landlock.as_ref().map_or(Ok(()), landlock::restrict)
    }

    pub(super) fn install_filter(&self) -> Result<(), Errno> {
        self.filter.install()
    }

    /// What is enforced, each in a few words.
    pub(super) fn measures(&self) -> Vec<String> {
        let scopes = match self.landlock {
            Some(_) => "Landlock scopes",
            None => "no Landlock scopes, which this kernel does not have",
        };
        let unix = match &self.unix {
            Unix::Refused { reason } => {
                format!("no unix sockets, because no LSM program can judge them here ({reason})")
            }
            Unix::Judged => "unix sockets to its own processes only, by LSM programs".to_owned(),
        };
        [
            "namespaces",
            "mounts",
            "capabilities",
            "no_new_privs",
            "seccomp",
            scopes,
            &unix,
        ]
        .map(str::to_owned)
        .to_vec()
    }
}
