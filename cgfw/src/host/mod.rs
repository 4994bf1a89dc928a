//! What cgfw finds around it: addresses, proxies, who may become root, the terminal.

mod proxies;
mod ssh;
mod sudoers;

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use ipnet::IpNet;

pub use self::proxies::{ProxyVariable, proxies_in_environment};
pub use self::ssh::proxy_commands;
pub use self::sudoers::{SudoUser, sudo_without_password};

/// The host's own addresses, and the prefixes that are on-link.
pub fn addresses() -> nix::Result<(HashSet<IpAddr>, Vec<IpNet>)> {
    let mut own = HashSet::new();
    let mut on_link = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address.as_ref().and_then(ip) else {
            continue;
        };
        own.insert(address);
        if let Some(mask) = interface.netmask.as_ref().and_then(ip)
            && let Ok(net) = IpNet::with_netmask(address, mask)
            && !address.is_loopback()
        {
            on_link.push(net.trunc());
        }
    }
    Ok((own, on_link))
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
}

/// Whether the user wants no colours anywhere (no-color.org).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether this is a step of GitHub Actions, which reads workflow commands from both outputs.
pub fn is_github_action() -> bool {
    std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// The file whose Markdown GitHub shows as the summary of this step.
pub fn step_summary() -> Option<PathBuf> {
    let path = std::env::var_os("GITHUB_STEP_SUMMARY")?;
    (!path.is_empty()).then(|| path.into())
}

/// Columns of a terminal, if it is one.
pub fn terminal_width(terminal: &impl AsRawFd) -> Option<usize> {
    // SAFETY: integers, for which zero is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: `size` is valid for writes; anything but a terminal makes the call fail.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}
