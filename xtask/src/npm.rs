//! Packages for Node.js that tests need.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::command;
use crate::workspace::Workspace;

/// Mermaid's own parser.
const MERMAID: &str = "tests/mermaid";

/// Have the packages installed when this returns, each as its lock file has it. Where there is
/// no npm, the tests that need them say so and are skipped.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    let directory = workspace.root.join(MERMAID);
    let installed = directory.join("node_modules/.package-lock.json");
    let lock = directory.join("package-lock.json");
    let modified = |path| std::fs::metadata(path).and_then(|metadata| metadata.modified());
    if let (Ok(installed), Ok(lock)) = (modified(installed), modified(lock))
        && installed >= lock
    {
        return Ok(());
    }
    let version = Command::new("npm")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if version.is_err() {
        return Ok(());
    }
    println!("installing for the tests: {MERMAID}");
    command::run(
        Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&directory),
    )
    .with_context(|| format!("the tests need the packages of {MERMAID}"))
}
