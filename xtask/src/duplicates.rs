/*!
No crate comes in two versions without a reason.

The reasons are in .deny.toml, in the form of cargo-deny's `bans.skip`; reading that one
list here spares everybody the compilation of cargo-deny.
*/

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::command;
use crate::workspace::Workspace;

const EXCEPTIONS: &str = ".deny.toml";

#[derive(Deserialize)]
struct Deny {
    bans: Bans,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skip>,
}

/// A version that may be there beside another one.
#[derive(Deserialize)]
struct Skip {
    /// `NAME@VERSION`.
    #[serde(rename = "crate")]
    package: String,
    reason: String,
}

type Versions = BTreeMap<String, BTreeSet<String>>;

pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join(EXCEPTIONS);
    let text =
        fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let deny: Deny =
        toml::from_str(&text).with_context(|| format!("failed to parse {}", path.display()))?;
    let tree = command::read(
        command::cargo()
            .current_dir(&workspace.root)
            .args(["tree", "--locked", "--workspace", "--duplicates"])
            .args(["--depth", "0", "--prefix", "none", "--format", "{p}"]),
    )?;
    let findings = findings(&parse(&tree), &deny.bans.skip);
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    Ok(())
}

/// Read lines of `NAME vVERSION`. A crate that is there twice in one version, with other
/// features for build scripts than for the rest, has one version.
fn parse(tree: &str) -> Versions {
    let mut versions = Versions::new();
    for line in tree.lines() {
        let mut words = line.split(' ');
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            let version = version.trim_start_matches('v').to_owned();
            versions.entry(name.to_owned()).or_default().insert(version);
        }
    }
    versions
}

/// What is there twice and not excepted, and what is excepted and not there.
fn findings(versions: &Versions, skip: &[Skip]) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, versions) in versions {
        let unexcused: Vec<_> = versions
            .iter()
            .filter(|version| {
                !skip
                    .iter()
                    .any(|skip| skip.package == format!("{name}@{version}"))
            })
            .map(String::as_str)
            .collect();
        if unexcused.len() > 1 {
            findings.push(format!(
                "{name} comes in the versions {}; unify them, or give the reason in {EXCEPTIONS}",
                unexcused.join(", ")
            ));
        }
    }
    for Skip { package, reason } in skip {
        let needed = package
            .split_once('@')
            .and_then(|(name, version)| Some((versions.get(name)?, version)))
            .is_some_and(|(versions, version)| versions.len() > 1 && versions.contains(version));
        if !needed {
            findings.push(format!(
                "{EXCEPTIONS} excepts {package}, which is not there beside another version; remove it"
            ));
        }
        if reason.trim().is_empty() {
            findings.push(format!("{EXCEPTIONS} excepts {package} without a reason"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tree: &str, skip: &[(&str, &str)]) -> Vec<String> {
        let skip: Vec<Skip> = skip
            .iter()
            .map(|(package, reason)| Skip {
                package: (*package).to_owned(),
                reason: (*reason).to_owned(),
            })
            .collect();
        findings(&parse(tree), &skip)
    }

    #[test]
    fn one_version_is_no_finding_however_often_it_is_there() {
        assert!(check("libc v0.2.1\nlibc v0.2.1\ncgfw v0.1.0 (/cgfw)\n", &[]).is_empty());
    }

    #[test]
    fn two_versions_are_found_unless_one_is_excepted() {
        let tree = "syn v2.0.0\nsyn v3.0.0\n";
        assert_eq!(check(tree, &[]).len(), 1);
        assert!(check(tree, &[("syn@2.0.0", "aya's macros")]).is_empty());
    }

    #[test]
    fn a_third_version_is_found_beside_an_exception() {
        let tree = "syn v1.0.0\nsyn v2.0.0\nsyn v3.0.0\n";
        assert_eq!(check(tree, &[("syn@2.0.0", "aya's macros")]).len(), 1);
    }

    #[test]
    fn an_exception_needs_a_cause_and_a_reason() {
        assert_eq!(check("", &[("syn@2.0.0", "gone")]).len(), 1);
        let tree = "syn v2.0.0\nsyn v3.0.0\n";
        assert_eq!(check(tree, &[("syn@2.0.0", " ")]).len(), 1);
    }
}
