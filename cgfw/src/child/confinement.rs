//! What holds for the child beside the eBPF programs.

use anyhow::Context as _;

use super::rights;
use super::seccomp::{self, Filter};
use super::strict::{Strict, Unix};

/// What the child cannot do, with everything that it starts.
pub struct Confinement(pub(super) Kind);

pub(super) enum Kind {
    None,
    /// No sockets that no eBPF program sees.
    Sockets(Filter),
    /// `--strict`
    Strict(Box<Strict>),
}

impl Confinement {
    /// Nothing is refused (`--audit`).
    pub const NONE: Self = Self(Kind::None);

    /// That of the default mode, and what it lacks where it cannot be had: a clause.
    pub fn ordinary(no_new_privs: bool) -> anyhow::Result<(Self, Option<String>)> {
        const LOST: &str = "AF_PACKET, AF_VSOCK and io_uring pass by the filter";
        if !no_new_privs && !rights::has_sys_admin()? {
            let reason = format!("without CAP_SYS_ADMIN or --no-new-privs, {LOST}");
            return Ok((Self::NONE, Some(reason)));
        }
        Ok(match seccomp::ordinary() {
            Ok(filter) => (Self(Kind::Sockets(filter)), None),
            Err(error) => (Self::NONE, Some(format!("{error}: {LOST}"))),
        })
    }

    /// That of `--strict`. To be called last before the child is started, because what is
    /// mounted later is not looked at.
    pub fn strict(unix: Unix) -> anyhow::Result<Self> {
        let plan = Strict::plan(unix).context("--strict")?;
        Ok(Self(Kind::Strict(Box::new(plan))))
    }

    /// What `--strict` has put in place, each in a few words; `None` without it.
    pub fn measures(&self) -> Option<Vec<String>> {
        self.as_strict().map(Strict::measures)
    }

    pub(super) fn as_strict(&self) -> Option<&Strict> {
        match &self.0 {
            Kind::None | Kind::Sockets(_) => None,
            Kind::Strict(strict) => Some(strict),
        }
    }
}
