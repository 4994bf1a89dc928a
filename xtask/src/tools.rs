//! Programs from the crate registry, at pinned versions, below the target directory.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;
use crate::workspace::Workspace;

/// A program that `cargo install` builds. Its version is its directory, so that another
/// version is another installation.
pub(crate) struct Tool<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// Further arguments of `cargo install`.
    pub(crate) arguments: &'a [&'a str],
    pub(crate) environment: &'a [(&'a str, &'a str)],
}

impl Tool<'_> {
    /// The path of the program, built with this `cargo` if it is not there yet.
    pub(crate) fn install(&self, workspace: &Workspace, cargo: &mut Command) -> Result<PathBuf> {
        let Self { name, version, .. } = self;
        let root = workspace
            .target
            .join("tools")
            .join(format!("{name}-{version}"));
        let program = root.join("bin").join(name);
        if !program.exists() {
            println!("installing {name} {version} into {}", root.display());
            command::run(
                cargo
                    .args([
                        "install",
                        "--quiet",
                        "--locked",
                        "--version",
                        version,
                        "--root",
                    ])
                    .arg(&root)
                    .args(self.arguments)
                    .arg(name)
                    .envs(self.environment.iter().copied())
                    .env("CARGO_TARGET_DIR", root.join("build")),
            )
            .with_context(|| format!("failed to install {name} {version}"))?;
        }
        Ok(program)
    }
}
