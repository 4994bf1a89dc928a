//! Everything that can be read off the sources without running them.

use std::ffi::OsStr;
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::tools::Tool;
use crate::workspace::{EBPF_CRATE, Workspace};
use crate::{command, duplicates, ebpf, layers};

type Check = fn(&Workspace) -> Result<()>;

/// The checks, in the order of what they cost.
const CHECKS: [(&str, Check); 7] = [
    ("top level", top_level),
    ("layers", layers::check),
    ("duplicate dependencies", duplicates::check),
    ("format", format),
    ("clippy", clippy),
    ("clippy of the eBPF crate", ebpf::clippy),
    ("unused dependencies", unused),
];

/// What the workspace's owner permits at its top, beside dotfiles and licences.
const TOP_LEVEL: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "cgfw",
    "cgfw-common",
    "cgfw-ebpf",
    "examples",
    "tests",
    "xtask",
];

/// Run all checks, the later ones too when an earlier one fails.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        println!("lint: {name}");
        if let Err(error) = check(workspace) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint found something in: {}", failed.join(", "));
    }
    println!("lint: {} checks passed", CHECKS.len());
    Ok(())
}

fn top_level(workspace: &Workspace) -> Result<()> {
    let mut strangers = Vec::new();
    for entry in fs::read_dir(&workspace.root).context("failed to list the workspace")? {
        let name = entry.context("failed to list the workspace")?.file_name();
        if !belongs_at_top(&name) {
            strangers.push(name.display().to_string());
        }
    }
    if !strangers.is_empty() {
        bail!(
            "these do not belong at the top of the workspace: {}; move them into a crate, tests or examples",
            strangers.join(", ")
        );
    }
    Ok(())
}

fn belongs_at_top(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        TOP_LEVEL.contains(&name)
            || name.starts_with('.')
            || name.starts_with("LICENSE")
            // What cargo makes, and git ignores.
            || name == "target"
    })
}

fn format(workspace: &Workspace) -> Result<()> {
    command::run(
        command::cargo()
            .current_dir(&workspace.root)
            .args(["fmt", "--all", "--check"]),
    )
    .context("run `cargo fmt --all` (needs `rustup component add rustfmt`)")
}

fn clippy(workspace: &Workspace) -> Result<()> {
    command::run(
        command::cargo()
            .current_dir(&workspace.root)
            .args([
                "clippy",
                "--quiet",
                "--locked",
                "--workspace",
                "--all-targets",
            ])
            .args(["--exclude", EBPF_CRATE])
            .args(["--", "--deny", "warnings"]),
    )
    .context("mend what clippy names (needs `rustup component add clippy`)")
}

fn unused(workspace: &Workspace) -> Result<()> {
    let machete = Tool {
        name: "cargo-machete",
        version: "0.9.2",
        arguments: &[],
        environment: &[],
    }
    .install(workspace, &mut command::cargo())?;
    // The members by name: the fuzz target is a workspace of its own, in a layout of its own.
    let members = workspace.metadata.workspace_packages();
    let directories = members
        .iter()
        .filter_map(|member| member.manifest_path.parent());
    command::run(std::process::Command::new(machete).args(directories))
        .context("remove the dependencies that are not used")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_level_is_what_its_owner_permits() {
        for (name, expected) in [
            ("Cargo.toml", true),
            (".clippy.toml", true),
            ("LICENSE-MIT", true),
            ("target", true),
            ("docs", false),
            ("README", false),
            ("Makefile", false),
        ] {
            assert_eq!(belongs_at_top(OsStr::new(name)), expected, "{name}");
        }
    }
}
