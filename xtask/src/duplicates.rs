/*!
No crate comes in two versions without a reason.

The reasons are in .deny.toml, in the form of cargo-deny's `bans.skip`; reading that one
list here spares everybody the compilation of cargo-deny.
*/

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

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
    let mut versions = Versions::new();
    for package in &workspace.metadata.packages {
        versions
            .entry(package.name.to_string())
            .or_default()
            .insert(package.version.to_string());
    }
    let findings = findings(&versions, &deny.bans.skip);
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    Ok(())
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

    fn check(versions: &[(&str, &str)], skip: &[(&str, &str)]) -> Vec<String> {
        let mut packages = Versions::new();
        for (name, version) in versions {
            packages
                .entry((*name).to_owned())
                .or_default()
                .insert((*version).to_owned());
        }
        let skip: Vec<Skip> = skip
            .iter()
            .map(|(package, reason)| Skip {
                package: (*package).to_owned(),
                reason: (*reason).to_owned(),
            })
            .collect();
        findings(&packages, &skip)
    }

    #[test]
    fn one_version_is_no_finding() {
        assert!(check(&[("syn", "2.0.0"), ("quote", "1.0.0")], &[]).is_empty());
    }

    #[test]
    fn two_versions_are_found_unless_one_is_excepted() {
        let versions = [("syn", "2.0.0"), ("syn", "3.0.0")];
        assert_eq!(check(&versions, &[]).len(), 1);
        assert!(check(&versions, &[("syn@2.0.0", "aya's macros")]).is_empty());
    }

    #[test]
    fn a_third_version_is_found_beside_an_exception() {
        let versions = [("syn", "1.0.0"), ("syn", "2.0.0"), ("syn", "3.0.0")];
        assert_eq!(check(&versions, &[("syn@2.0.0", "aya's macros")]).len(), 1);
    }

    #[test]
    fn an_exception_needs_a_cause_and_a_reason() {
        assert_eq!(
            check(&[("syn", "3.0.0")], &[("syn@2.0.0", "gone")]).len(),
            1
        );
        let versions = [("syn", "2.0.0"), ("syn", "3.0.0")];
        assert_eq!(check(&versions, &[("syn@2.0.0", " ")]).len(), 1);
    }
}
