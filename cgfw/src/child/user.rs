//! As whom the child runs.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use nix::unistd::{Gid, Uid, User, getgrouplist, getgroups, setfsgid, setfsuid, setgroups};

/// Who the child is to be, where that is not who cgfw is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub name: String,
    pub uid: Uid,
    pub gid: Gid,
    /// Supplementary groups.
    pub groups: Vec<Gid>,
    pub home: PathBuf,
    pub shell: PathBuf,
    /// Why: a sentence for the user, without a final stop.
    pub reason: String,
}

/// Decide who the child is: whom `--user` names, else the user who invoked cgfw through
/// sudo unless `--keep-root`, else (`None`) the caller.
pub fn choose_identity(user: Option<&str>, keep_root: bool) -> anyhow::Result<Option<Identity>> {
    if let Some(name) = user {
        let user = User::from_name(name)
            .with_context(|| format!("cannot look up the user {name}"))?
            .ok_or_else(|| anyhow!("--user {name}: there is no such user"))?;
        return Identity::new(user, format!("--user {name}")).map(Some);
    }
    if keep_root || !Uid::effective().is_root() || !is_run_by_sudo() {
        return Ok(None);
    }
    let Some(uid) = sudo_uid()?.filter(|uid| !uid.is_root()) else {
        return Ok(None);
    };
    let Some(user) = User::from_uid(uid).context("cannot look up the user of SUDO_UID")? else {
        bail!("SUDO_UID={uid}: there is no such user; use --user NAME or --keep-root");
    };
    Identity::new(user, "who invoked sudo; --keep-root keeps root".to_owned()).map(Some)
}

/// Who called cgfw, or called sudo to; and the name, if there is one.
pub fn caller() -> anyhow::Result<(Uid, Option<String>)> {
    let uid = match Uid::current() {
        // Others can set the variable to what they like.
        root if root.is_root() => sudo_uid()?.unwrap_or(root),
        other => other,
    };
    // It is asked in emergencies, in which the directory of users may be down.
    let user = User::from_uid(uid).ok().flatten();
    Ok((uid, user.map(|user| user.name)))
}

fn sudo_uid() -> anyhow::Result<Option<Uid>> {
    let Some(uid) = std::env::var_os("SUDO_UID") else {
        return Ok(None);
    };
    uid.to_str()
        .and_then(|uid| uid.parse().ok())
        .map(|uid| Some(Uid::from_raw(uid)))
        .with_context(|| format!("SUDO_UID={} is not a user id", uid.display()))
}

/// A sentence for the user.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "running as {} (uid {}), {}",
            self.name, self.uid, self.reason
        )
    }
}

impl Identity {
    fn new(user: User, reason: String) -> anyhow::Result<Self> {
        let name = CString::new(user.name.as_bytes())?;
        let groups = getgrouplist(&name, user.gid)
            .with_context(|| format!("cannot look up the groups of {}", user.name))?;
        Ok(Self {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            groups,
            home: user.dir,
            shell: user.shell,
            reason,
        })
    }

    /// The variables that tell programs who they are.
    pub fn environment(&self) -> [(&'static str, &OsStr); 4] {
        [
            ("HOME", self.home.as_os_str()),
            ("USER", OsStr::new(&self.name)),
            ("LOGNAME", OsStr::new(&self.name)),
            ("SHELL", self.shell.as_os_str()),
        ]
    }
}

/// Do something with the file rights of `identity`, so that a file that a user names is
/// opened as if by that user.
pub fn as_user<T>(
    identity: &Identity,
    act: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let groups = getgroups().context("cannot list groups")?;
    setgroups(&identity.groups).context("cannot take the groups of the user")?;
    let (gid, uid) = (setfsgid(identity.gid), setfsuid(identity.uid));
    let result = act();
    setfsuid(uid);
    setfsgid(gid);
    setgroups(&groups).context("cannot take the groups of cgfw back")?;
    result
}

/// Take the file rights of `identity` for good, in this thread and no other.
pub fn take_file_rights(identity: &Identity) -> io::Result<()> {
    let groups: Vec<libc::gid_t> = identity.groups.iter().map(|gid| gid.as_raw()).collect();
    // Not by the C library, which has all threads do it.
    // SAFETY: the pointer is valid for as many groups as are said.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    setfsgid(identity.gid);
    setfsuid(identity.uid);
    Ok(())
}

/// Whether this very command was given to sudo, rather than typed in a shell that sudo
/// started. sudo stays as the parent, or, where it has nothing to do afterwards, becomes
/// the command; then only the environment tells.
fn is_run_by_sudo() -> bool {
    let parent = std::os::unix::process::parent_id();
    let parent_is_sudo =
        std::fs::read(format!("/proc/{parent}/comm")).is_ok_and(|comm| comm == b"sudo\n");
    parent_is_sudo || sudo_was_given(std::env::var_os("SUDO_COMMAND"), std::env::args_os().next())
}

fn sudo_was_given(command: Option<OsString>, argv0: Option<OsString>) -> bool {
    let (Some(command), Some(argv0)) = (command, argv0) else {
        return false;
    };
    let program = command.as_bytes().split(|b| *b == b' ').next();
    program
        .map(OsStr::from_bytes)
        .map(Path::new)
        .and_then(Path::file_name)
        == Path::new(&argv0).file_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_that_sudo_started_is_not_cgfw_run_by_sudo() {
        let given =
            |command: &str, argv0: &str| sudo_was_given(Some(command.into()), Some(argv0.into()));
        assert!(given("/usr/local/bin/cgfw run -- true", "cgfw"));
        assert!(!given("/bin/bash", "cgfw"));
        assert!(!sudo_was_given(None, Some("cgfw".into())));
    }
}
