/*!
The smoke test on other kernels: Debian's, in an emulator, without touching this machine.

`kernel` fetches an image, `initramfs` puts cgfw, a busybox and the cases of tests/vm
around an init script, `machine` boots them and listens for the script's marker lines.
*/

mod initramfs;
mod kernel;
mod machine;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::test::Tally;
use crate::workspace::Workspace;
use crate::{apt, command};

use self::initramfs::File;
use self::kernel::Image;
use self::machine::Boot;

/// A kernel of one of Debian's suites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    #[value(name = "5.10")]
    V5_10,
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
    Newest,
}

impl Kernel {
    fn suite(self) -> &'static str {
        match self {
            Self::V5_10 => "bullseye",
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::Newest => "sid",
        }
    }
}

/// As it is typed.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        })
    }
}

/// The programs inside are built for it, and so are the kernels.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where the cases lie: one shell script each, whose exit status is the verdict.
const CASES: &str = "tests/vm";

/// `cargo xtask vm`: the smoke test on these kernels, or on all.
pub(crate) fn run(workspace: &Workspace, kernels: &[Kernel]) -> Result<ExitCode> {
    apt::ensure(apt::VM, "the smoke test in an emulator")?;
    let kernels = if kernels.is_empty() {
        Kernel::value_variants()
    } else {
        kernels
    };
    let mut tally = Tally::default();
    for kernel in kernels {
        smoke(workspace, *kernel, &mut tally);
    }
    Ok(tally.close())
}

/// Boot one kernel and count what its cases say, or that they could not be run.
pub(crate) fn smoke(workspace: &Workspace, kernel: Kernel, tally: &mut Tally) {
    match kernel::fetch(workspace, kernel) {
        Ok(image) => {
            if let Err(error) = boot(workspace, kernel, &image, tally) {
                tally.fail(format!("vm {kernel}: {error:#}"));
            }
        }
        Err(error) => tally.skip(format!("vm {kernel}: the kernel cannot be had: {error:#}")),
    }
}

fn boot(workspace: &Workspace, kernel: Kernel, image: &Image, tally: &mut Tally) -> Result<()> {
    let cases = cases(workspace)?;
    let initramfs = directory(workspace).join("initramfs.cpio");
    initramfs::write(&initramfs, &contents(workspace, &cases)?)?;
    println!("vm {kernel}: booting {}", image.package);
    let boot = Boot {
        kernel: &image.path,
        initramfs: &initramfs,
    };
    let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
    boot.run(&format!("vm {kernel}"), &names, tally)
}

/// One script of tests/vm.
struct Case {
    name: String,
    script: Vec<u8>,
}

fn cases(workspace: &Workspace) -> Result<Vec<Case>> {
    let directory = workspace.root.join(CASES);
    let mut cases = Vec::new();
    for entry in fs::read_dir(&directory)
        .with_context(|| format!("failed to list {}", directory.display()))?
    {
        let path = entry
            .with_context(|| format!("failed to list {}", directory.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "sh") {
            let name = path.file_stem().unwrap_or_default();
            cases.push(Case {
                name: name.to_string_lossy().into_owned(),
                script: read(&path)?,
            });
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

fn contents(workspace: &Workspace, cases: &[Case]) -> Result<Vec<File>> {
    let mut files = vec![
        File::program("init", include_bytes!("init.sh").to_vec()),
        File::program("bin/busybox", read("/bin/busybox".as_ref())?),
        File::program("bin/cgfw", read(&build(workspace)?)?),
    ];
    for Case { name, script } in cases {
        files.push(File::program(&format!("cases/{name}"), script.clone()));
    }
    Ok(files)
}

/// Build cgfw so that it needs no library, and return its path.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    if !cfg!(target_arch = "x86_64") {
        bail!(
            "the kernels in the emulator are x86-64 ones, and so has to be the machine that builds cgfw for them"
        );
    }
    let target = directory(workspace).join("build");
    command::run(
        command::cargo()
            .current_dir(&workspace.root)
            .args([
                "build",
                "--quiet",
                "--locked",
                "--release",
                "--package",
                "cgfw",
            ])
            .args(["--target", TARGET, "--target-dir"])
            .arg(&target)
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                "-Ctarget-feature=+crt-static\x1f-Cstrip=symbols",
            ),
    )?;
    Ok(target.join(TARGET).join("release/cgfw"))
}

fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

/// All that the emulator needs lies here.
fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("vm")
}
