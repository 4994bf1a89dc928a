//! Refuse to build with eBPF objects that do not belong to the sources beside them.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

#[path = "build/sources.rs"]
mod sources;

use sources::Sources;

fn main() -> ExitCode {
    // A packaged crate has the objects but not what they were built from.
    let root = Path::new("..");
    if !root.join(sources::CRATES[0]).join("Cargo.toml").exists() {
        println!("cargo::rerun-if-changed=build.rs");
        return ExitCode::SUCCESS;
    }
    for watched in sources::OBJECTS
        .iter()
        .chain(&sources::CRATES)
        .chain(&[sources::RECORD, "Cargo.lock"])
    {
        println!("cargo::rerun-if-changed=../{watched}");
    }
    match check(root) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error={reason}; run `cargo xtask ebpf` and commit what it writes");
            ExitCode::FAILURE
        }
    }
}

fn check(root: &Path) -> Result<(), String> {
    let now = Sources::hash(root).map_err(|error| {
        format!("the eBPF objects cannot be compared with their sources: {error}")
    })?;
    let record = fs::read_to_string(root.join(sources::RECORD))
        .map_err(|error| format!("{}: {error}", sources::RECORD))?;
    let recorded = Sources::parse(&record);
    let changed = now.differences(&recorded);
    if changed.is_empty() {
        return Ok(());
    }
    let changed = changed.into_iter().collect::<Vec<_>>().join(", ");
    Err(format!(
        "the eBPF objects are stale: since they were built, these changed: {changed}"
    ))
}
