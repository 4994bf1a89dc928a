//! Where things lie, as cargo says.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cargo_metadata::{Metadata, MetadataCommand};

/// The crate of the eBPF programs, which no host can build or test.
pub(crate) const EBPF_CRATE: &str = "cgfw-ebpf";

/// The workspace that the caller's directory belongs to.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// `target`, or wherever `CARGO_TARGET_DIR` points to. What xtask makes lies below it.
    pub(crate) target: PathBuf,
    /// All packages of the lock file that matter on this host.
    pub(crate) metadata: Metadata,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let metadata = MetadataCommand::new()
            .other_options(["--locked".to_owned(), "--filter-platform".to_owned(), host])
            .exec()
            .context("failed to ask cargo for the workspace")?;
        Ok(Self {
            root: metadata.workspace_root.clone().into(),
            target: metadata.target_directory.clone().into(),
            metadata,
        })
    }
}
