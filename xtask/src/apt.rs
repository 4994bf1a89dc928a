//! Debian packages: which are needed for what, and how they come onto the machine.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command;

/// The toolchain of the eBPF crate: rustc with a core for it, and the LLVM it uses.
pub(crate) const EBPF: &[&str] = &[
    "cargo-web",
    "g++",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "rust-web-clippy",
    "rustc-web",
    "zlib1g-dev",
];

/// The clients, servers and tools of tests/cli and tests/kernel.
pub(crate) const TESTS: &[&str] = &[
    "bind9-dnsutils",
    "busybox-static",
    "ca-certificates",
    "cmark-gfm",
    "curl",
    "gcc",
    "git",
    "golang-go",
    "iproute2",
    "iputils-ping",
    "libc-ares-dev",
    "libc6-dev",
    "libxml2-utils",
    "make",
    "mount",
    "musl-tools",
    "netcat-openbsd",
    "nodejs",
    "procps",
    "python3",
    "python3-venv",
    "sudo",
    "systemd",
    "util-linux",
    "wget",
];

/// A browser for the reports, and the fonts that make its pictures the same everywhere. Not
/// every system has them; what needs them says so.
pub(crate) const BROWSER: &[&str] = &["chromium", "fonts-inter", "fonts-jetbrains-mono"];

/// The emulator, and the userland inside it.
pub(crate) const VM: &[&str] = &["busybox-static", "gcc", "libc6-dev", "qemu-system-x86"];

/// Have `packages` installed when this returns. Root installs what is missing; anybody
/// else is told what to type.
pub(crate) fn ensure(packages: &[&str], purpose: &str) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !nix::unistd::geteuid().is_root() {
        bail!("{purpose} needs packages that are not installed; run `sudo apt-get install {list}`");
    }
    println!("installing for {purpose}: {list}");
    command::run(Command::new("apt-get").args(["--quiet", "--quiet", "update"]))
        .and_then(|()| {
            command::run(
                Command::new("apt-get")
                    .args([
                        "--quiet",
                        "--quiet",
                        "--yes",
                        "--no-install-recommends",
                        "install",
                    ])
                    .args(&missing)
                    .env("DEBIAN_FRONTEND", "noninteractive"),
            )
        })
        .with_context(|| format!("{purpose} needs the packages {list}"))
}

/// Those of `packages` that are not installed.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query fails if it does not know one of them, and lists the others all the same.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context(
            "failed to run dpkg-query; only Debian and its like are installed by themselves, \
             elsewhere install what the list in xtask/src/apt.rs names",
        )?;
    let installed = String::from_utf8_lossy(&output.stdout);
    Ok(packages
        .iter()
        .copied()
        .filter(|package| {
            !installed
                .lines()
                .any(|line| line.split_once(' ') == Some((package, "installed")))
        })
        .collect())
}
