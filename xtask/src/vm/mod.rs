/*!
The smoke test on other kernels: Debian's, in an emulator, without touching this machine.

`kernel` fetches an image, `case` reads the cases of tests/vm, `initramfs` puts them, cgfw
and a busybox around an init script, `machine` boots them and listens for the script's
marker lines. Cases that want another kernel command line get a boot of their own.
*/

mod case;
mod initramfs;
mod kernel;
mod machine;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::test::Tally;
use crate::workspace::Workspace;
use crate::{apt, command};

use self::case::Case;
use self::initramfs::File;
use self::kernel::Image;
use self::machine::Boot;

/// A kernel of one of Debian's suites, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
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
    let mut boots = BTreeMap::<String, Vec<Case>>::new();
    for case in case::read_all(&workspace.root)? {
        if case.since.is_none_or(|since| since <= kernel) {
            boots.entry(case.parameters.clone()).or_default().push(case);
        }
    }
    let programs = [
        ("busybox", PathBuf::from("/bin/busybox")),
        ("cgfw", build(workspace)?),
        ("sockets", compile(workspace, "sockets.c")?),
    ];
    let initramfs = directory(workspace).join("initramfs.cpio");
    for (parameters, cases) in boots {
        initramfs::write(&initramfs, &contents(&programs, &cases)?)?;
        println!("vm {kernel}: booting {} {parameters}", image.package);
        let boot = Boot {
            kernel: &image.path,
            initramfs: &initramfs,
            parameters: &parameters,
        };
        let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
        boot.run(&format!("vm {kernel}"), &names, tally)?;
    }
    Ok(())
}

fn contents(programs: &[(&str, PathBuf)], cases: &[Case]) -> Result<Vec<File>> {
    let init = include_bytes!("init.sh").to_vec();
    let mut files = vec![File::program("init", init)];
    for (name, path) in programs {
        files.push(File::program(&format!("bin/{name}"), read(path)?));
    }
    for Case { name, script, .. } in cases {
        files.push(File::program(
            &format!("cases/{name}"),
            script.clone().into_bytes(),
        ));
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

/// Compile a program that cases use so that it needs no library, and return its path.
fn compile(workspace: &Workspace, source: &str) -> Result<PathBuf> {
    let program = directory(workspace).join(source).with_extension("");
    command::run(
        Command::new("gcc")
            .args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&program)
            .arg(workspace.root.join(case::DIRECTORY).join(source)),
    )?;
    Ok(program)
}

fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

/// All that the emulator needs lies here.
fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("vm")
}
