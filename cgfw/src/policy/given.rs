//! What a policy is to be made of, before any file is read.

use std::path::PathBuf;

use super::{Action, DirectIp, Rule};

/// What the user gave: rules, and the files that have more of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    pub rules: Vec<Rule>,
    /// Policies in TOML (`--policy`).
    pub files: Vec<PathBuf>,
    /// `--block-file` and `--allow-file`.
    pub lists: Vec<(Action, PathBuf)>,
    /// `None`: what a file says, or else what the rules imply.
    pub default: Option<Action>,
    /// `None`: what a file says, or else what the default implies.
    pub direct_ip: Option<DirectIp>,
}

impl Given {
    /// Every file that is named here, in the order in which they are read.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files
            .iter()
            .chain(self.lists.iter().map(|(_, path)| path))
    }
}
