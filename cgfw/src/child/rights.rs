//! What cgfw must be allowed to do, and what to type when it is not.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Context as _, anyhow};

/// include/uapi/linux/capability.h
const SETPCAP: (u32, &str) = (8, "CAP_SETPCAP");
const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const SYS_ADMIN: (u32, &str) = (21, "CAP_SYS_ADMIN");
const PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const BPF: (u32, &str) = (39, "CAP_BPF");

/// The capabilities that cgfw needs, for `--strict` or without, and does not have.
/// CAP_SYS_ADMIN includes those that were split off from it.
pub fn missing_capabilities(strict: bool) -> anyhow::Result<Vec<&'static str>> {
    let held = held()?;
    let has = |(bit, _): (u32, &str)| held >> bit & 1 == 1;
    let mut needed = vec![NET_ADMIN];
    if strict {
        needed.extend([SYS_ADMIN, SETPCAP]);
    } else if !has(SYS_ADMIN) {
        needed.extend([BPF, PERFMON]);
    }
    needed.retain(|capability| !has(*capability));
    Ok(needed.into_iter().map(|(_, name)| name).collect())
}

/// Whether this process has CAP_SYS_ADMIN.
pub(super) fn has_sys_admin() -> anyhow::Result<bool> {
    Ok(held()? >> SYS_ADMIN.0 & 1 == 1)
}

/// The bits of the capabilities that this process has.
fn held() -> anyhow::Result<u64> {
    let status = procfs::process::Process::myself()
        .and_then(|this| this.status())
        .context("cannot read /proc/self/status")?;
    Ok(status.capeff)
}

/// The command that runs this one again as root, with the environment and PATH of now.
pub fn sudo_command() -> anyhow::Result<String> {
    let program = std::env::current_exe().context("cannot find out where cgfw is")?;
    let mut path = OsString::from("PATH=");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let words = ["sudo", "--preserve-env", "env"]
        .map(OsString::from)
        .into_iter()
        .chain([path, program.into_os_string()])
        .chain(std::env::args_os().skip(1));
    let quoted = words
        .map(|word| {
            let quoted = shlex::bytes::try_quote(word.as_bytes())
                .map_err(|error| anyhow!("cannot quote {}: {error}", word.display()))?;
            Ok(String::from_utf8_lossy(&quoted).into_owned())
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(quoted.join(" "))
}
