//! Kernel images from Debian's suites, by an apt with a configuration of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Kernel, directory};
use crate::command;
use crate::sources::files_below;
use crate::workspace::Workspace;

/// Depends on the newest cloud kernel of each suite: small, with a serial console.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// The packages that lead from [`PACKAGE`] to the image. Debian 14 splits the second.
const CHAIN: [&str; 2] = ["linux-image-", "linux-binary-"];

/// What a mirror calls the suites that a machine may be configured for.
const SUITES: [&str; 9] = [
    "bookworm",
    "bullseye",
    "forky",
    "oldstable",
    "sid",
    "stable",
    "testing",
    "trixie",
    "unstable",
];

/// A kernel that was fetched.
pub(super) struct Image {
    /// The file name of the package that it comes from.
    pub(super) package: String,
    pub(super) path: PathBuf,
}

/// The image of a kernel, fetched if it was not before.
pub(super) fn fetch(workspace: &Workspace, kernel: Kernel) -> Result<Image> {
    let directory = directory(workspace)
        .join("kernels")
        .join(kernel.to_string());
    if let Some(image) = find(&directory)? {
        return Ok(image);
    }
    println!("vm {kernel}: fetching Debian {}'s kernel", kernel.suite());
    let apt = Apt::configure(&directory, kernel.suite())?;
    command::run(apt.command("apt-get").arg("--quiet=2").arg("update"))?;
    let mut package_name = PACKAGE.to_owned();
    while let Some(next) = next(&command::read(
        apt.command("apt-cache").args(["depends", &package_name]),
    )?) {
        next.clone_into(&mut package_name);
    }
    command::run(apt.command("apt-get").current_dir(&directory).args([
        "--quiet=2",
        "download",
        &package_name,
    ]))?;
    let deb = package(&directory)?
        .with_context(|| format!("apt-get download {package_name} left no package"))?;
    command::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&deb)
            .arg(&directory),
    )?;
    find(&directory)?.with_context(|| format!("{} holds no vmlinuz", deb.display()))
}

/// The package and the image in it, if they are here.
fn find(directory: &Path) -> Result<Option<Image>> {
    let Some(package) = package(directory)? else {
        return Ok(None);
    };
    // boot/vmlinuz-RELEASE, and from Debian 14 on usr/lib/modules/RELEASE/vmlinuz.
    let image = files_below(directory)
        .with_context(|| format!("failed to list {}", directory.display()))?
        .into_iter()
        .find(|path| name(path).starts_with("vmlinuz"));
    Ok(image.map(|path| Image {
        package: name(&package),
        path,
    }))
}

/// The package that was downloaded into `directory`, which need not exist.
fn package(directory: &Path) -> Result<Option<PathBuf>> {
    if !directory.exists() {
        return Ok(None);
    }
    let files = files_below(directory)
        .with_context(|| format!("failed to list {}", directory.display()))?;
    Ok(files
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "deb")))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}

/// An apt that knows one suite and keeps all its state in one directory.
struct Apt {
    configuration: PathBuf,
}

impl Apt {
    fn configure(directory: &Path, suite: &str) -> Result<Self> {
        let mirror = command::read(Command::new("apt-get").args(["--print-uris", "update"]))?;
        let mirror = mirror_of(&mirror)
            .context("apt on this machine is not configured for a mirror of Debian")?;
        let apt = directory.join("apt");
        let configuration = apt.join("apt.conf");
        let write = |path: &Path, text: String| {
            fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
        };
        for below in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.join(below))
                .with_context(|| format!("failed to make {}", apt.display()))?;
        }
        write(
            &apt.join("sources.list"),
            format!("deb {mirror} {suite} main\n"),
        )?;
        write(&configuration, settings(&apt))?;
        Ok(Self { configuration })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration);
        command
    }
}

fn settings(apt: &Path) -> String {
    let apt = apt.display();
    format!(
        r#"APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Dir::Cache "{apt}/cache";
Dir::Etc::SourceList "{apt}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "{apt}/state";
Dir::State::status "/dev/null";
"#
    )
}

/// The mirror in what `apt-get --print-uris update` prints: `'MIRROR/dists/SUITE/InRelease' ...`.
fn mirror_of(uris: &str) -> Option<&str> {
    uris.lines().find_map(|line| {
        let (mirror, rest) = line.strip_prefix('\'')?.split_once("/dists/")?;
        let (suite, _) = rest.split_once('/')?;
        SUITES.contains(&suite).then_some(mirror)
    })
}

/// The next package of the [`CHAIN`] in what `apt-cache depends` prints.
fn next(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("Depends: "))
        .find(|package| CHAIN.iter().any(|prefix| package.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_a_suite_and_not_of_its_updates() {
        let uris = "'http://vendor.test/dists/nodistro/InRelease' vendor 0\n\
                    'http://security.test/debian-security/dists/bookworm-security/InRelease' s 0\n\
                    'http://mirror.test/debian/dists/bookworm/InRelease' mirror 0\n";
        assert_eq!(mirror_of(uris), Some("http://mirror.test/debian"));
        assert_eq!(
            mirror_of("'http://archive.test/ubuntu/dists/noble/InRelease' u 0\n"),
            None
        );
    }

    #[test]
    fn the_chain_ends_at_the_package_with_the_image() {
        assert_eq!(
            next(
                "linux-image-cloud-amd64\n  Depends: linux-base\n  Depends: linux-image-7.2-cloud-amd64\n"
            ),
            Some("linux-image-7.2-cloud-amd64")
        );
        assert_eq!(
            next(
                "linux-image-7.2-cloud-amd64\n |Depends: dracut\n  Depends: linux-binary-7.2-cloud-amd64\n"
            ),
            Some("linux-binary-7.2-cloud-amd64")
        );
        assert_eq!(
            next("linux-image-6.1-cloud-amd64\n  Depends: kmod\n  Breaks: linux-image-5\n"),
            None
        );
    }
}
