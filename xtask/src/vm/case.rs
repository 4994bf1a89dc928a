//! The cases: scripts in tests/vm whose exit status is the verdict.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum as _;

use super::{Kernel, read};

/// Where the cases lie.
pub(super) const DIRECTORY: &str = "tests/vm";

/// What starts a line that asks for something: `#: since KERNEL` leaves older kernels out,
/// `#: boot PARAMETERS` wants these on the kernel's command line.
const REQUEST: &str = "#: ";

/// One script.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) script: String,
    /// The oldest kernel that it is for.
    pub(super) since: Option<Kernel>,
    /// What has to be on the kernel's command line.
    pub(super) parameters: String,
}

/// Every case below the workspace's root, by name.
pub(super) fn read_all(root: &Path) -> Result<Vec<Case>> {
    let directory = root.join(DIRECTORY);
    let mut cases = Vec::new();
    for entry in fs::read_dir(&directory)
        .with_context(|| format!("failed to list {}", directory.display()))?
    {
        let path = entry
            .with_context(|| format!("failed to list {}", directory.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "sh") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let script = String::from_utf8(read(&path)?)
                .with_context(|| format!("{} is not text", path.display()))?;
            let case = Case::parse(name.into_owned(), script)
                .with_context(|| format!("{} asks for something unknown", path.display()))?;
            cases.push(case);
        }
    }
    if cases.is_empty() {
        bail!(
            "{} has no case; a smoke test without one would prove nothing",
            directory.display()
        );
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

impl Case {
    fn parse(name: String, script: String) -> Result<Self> {
        let (mut since, mut parameters) = (None, String::new());
        for request in script.lines().filter_map(|line| line.strip_prefix(REQUEST)) {
            match request.split_once(' ') {
                Some(("since", kernel)) => {
                    let kernel = Kernel::from_str(kernel, false);
                    since = Some(kernel.map_err(|error| anyhow!("{request}: {error}"))?);
                }
                Some(("boot", wanted)) => wanted.clone_into(&mut parameters),
                _ => bail!("{request}: neither `since KERNEL` nor `boot PARAMETERS`"),
            }
        }
        Ok(Self {
            name,
            script,
            since,
            parameters,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_can_ask_for_a_kernel_and_its_command_line() {
        let parse = |script: &str| Case::parse("case".to_owned(), script.to_owned());
        let case = parse("# Says why.\n#: since 6.1\n#: boot lsm=yama quiet\ntrue\n").unwrap();
        assert_eq!(case.since, Some(Kernel::V6_1));
        assert_eq!(case.parameters, "lsm=yama quiet");
        let case = parse("# Says why.\ntrue #: nothing\n").unwrap();
        assert_eq!((case.since, &*case.parameters), (None, ""));
        assert!(parse("#: since 4.4\n").is_err());
        assert!(parse("#: lsm=yama\n").is_err());
    }

    #[test]
    fn kernels_are_ordered_by_age() {
        let kernels = Kernel::value_variants();
        assert!(kernels.is_sorted() && kernels[0] < kernels[1]);
    }
}
