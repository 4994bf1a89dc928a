/*!
The eBPF objects: built here, committed in the crate, embedded by every ordinary build.

rustc needs a `core` for the bpf targets and a linker for LLVM bitcode. Debian has both in
packages; elsewhere a nightly of rustup builds `core` from its source. The bytes depend on
the compiler and on nothing else: not on the directory, the user or the host.
*/

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::sources::{OBJECTS, RECORD, Sources};
use crate::tools::Tool;
use crate::workspace::{EBPF_CRATE, Workspace};
use crate::{apt, command};

const BPF_LINKER: &str = "0.13.0";

/// Of the days when nightly used LLVM 22, for which bpf-linker can be built on Debian. A
/// dated toolchain stands beside the user's own nightly and gives the same bytes next year.
const NIGHTLY: &str = "nightly-2026-05-20";

/// The bpf target of each of [`OBJECTS`], and the kind of host that aya's bindings are
/// taken from. It is named so that the host of the build has no part in the object; the
/// programs use no struct that differs between hosts of one byte order.
const TARGETS: [(&str, &str); 2] = [
    ("bpfel-unknown-none", "x86_64"),
    ("bpfeb-unknown-none", "s390x"),
];

/// Build the objects into the cgfw crate and record what they were built from.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::find(workspace)?;
    for (path, object) in toolchain.objects(workspace)? {
        let path = workspace.root.join(path);
        let directory = path.parent().context("an object lies in a directory")?;
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(&path, &object))
            .with_context(|| format!("failed to write {}", path.display()))?;
        println!("{}: {} bytes", path.display(), object.len());
    }
    let sources = Sources::hash(&workspace.root).context("failed to hash the eBPF sources")?;
    let record = workspace.root.join(RECORD);
    fs::write(&record, format!("# {}\n{sources}", toolchain.name))
        .with_context(|| format!("failed to write {}", record.display()))?;
    println!("{}: built by {}", record.display(), toolchain.name);
    Ok(())
}

/// Fail unless a rebuild gives the bytes that are committed.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::find(workspace)?;
    let mut stale = String::new();
    for (path, object) in toolchain.objects(workspace)? {
        let committed = fs::read(workspace.root.join(path))
            .with_context(|| format!("failed to read {path}; run `cargo xtask ebpf`"))?;
        match committed.iter().zip(&object).position(|(a, b)| a != b) {
            None if committed.len() == object.len() => println!("{path}: a rebuild is identical"),
            difference => writeln!(
                stale,
                "{path}: {} bytes, a rebuild gives {} that differ from offset {}",
                committed.len(),
                object.len(),
                difference.unwrap_or(committed.len().min(object.len()))
            )?,
        }
    }
    let record = fs::read_to_string(workspace.root.join(RECORD))
        .with_context(|| format!("failed to read {RECORD}; run `cargo xtask ebpf`"))?;
    let now = Sources::hash(&workspace.root).context("failed to hash the eBPF sources")?;
    for changed in now.differences(&Sources::parse(&record)) {
        writeln!(stale, "{RECORD}: {changed} is not as recorded")?;
    }
    if stale.is_empty() {
        return Ok(());
    }
    let built_by = record
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ");
    if built_by != toolchain.name {
        writeln!(
            stale,
            "the committed objects were built by {built_by}, this rebuild by {}, which may be all there is to it",
            toolchain.name
        )?;
    }
    bail!(
        "the committed eBPF objects are stale; run `cargo xtask ebpf` and commit what it writes\n{stale}"
    );
}

/// Run clippy on the eBPF crate, for the target that it is written for.
pub(crate) fn clippy(workspace: &Workspace) -> Result<()> {
    let toolchain = Toolchain::find(workspace)?;
    let (target, arch) = TARGETS[0];
    command::run(
        toolchain
            .cargo(workspace, "clippy", target, arch)
            .args(["--", "--deny", "warnings"]),
    )
}

/// A compiler for the bpf targets, with what belongs to it.
struct Toolchain {
    recipe: Recipe,
    /// The programs that have a part in the bytes, for the record.
    name: String,
    linker: PathBuf,
    objcopy: PathBuf,
    /// Where rustc's own sources seem to lie.
    sysroot: PathBuf,
}

#[derive(Clone, Copy)]
enum Recipe {
    /// Debian's rustc-web, with a precompiled core in libstd-rust-web-dev-bpf.
    Debian,
    /// rustup's [`NIGHTLY`], which compiles core from the component rust-src.
    Nightly,
}

impl Toolchain {
    /// Find a toolchain, or install one.
    fn find(workspace: &Workspace) -> Result<Self> {
        let debian = match Self::debian(workspace) {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => error,
        };
        Self::nightly(workspace).map_err(|nightly| {
            anyhow!(
                "no toolchain for the eBPF crate.\n\
                 With Debian's packages: {debian:#}\n\
                 With rustup: {nightly:#}"
            )
        })
    }

    fn debian(workspace: &Workspace) -> Result<Self> {
        apt::ensure(apt::EBPF, "the eBPF toolchain")?;
        Self::of(workspace, Recipe::Debian, |llvm| {
            llvm.join("bin/llvm-objcopy")
        })
    }

    fn nightly(workspace: &Workspace) -> Result<Self> {
        command::run(Command::new("rustup").args([
            "toolchain",
            "install",
            NIGHTLY,
            "--no-self-update",
            "--profile=minimal",
            "--component=clippy,llvm-tools,rust-src",
        ]))
        .context("rustup has to install a nightly with rust-src, llvm-tools and clippy")?;
        let recipe = Recipe::Nightly;
        let libraries = command::read(recipe.rustc().args(["--print", "target-libdir"]))?;
        let objcopy = Path::new(libraries.trim()).with_file_name("bin/llvm-objcopy");
        Self::of(workspace, recipe, |_| objcopy)
    }

    fn of(
        workspace: &Workspace,
        recipe: Recipe,
        objcopy: impl FnOnce(&Path) -> PathBuf,
    ) -> Result<Self> {
        let version = command::read(recipe.rustc().arg("-vV"))?;
        let rustc = version.lines().next().context("rustc -vV says nothing")?;
        let llvm = version
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .context("rustc -vV does not say which LLVM it uses")?;
        let major = llvm.split('.').next().unwrap_or(llvm);
        let prefix = llvm_prefix(major)?;
        // The linker reads the bitcode that rustc writes: both have to use one LLVM.
        let linker = Tool {
            name: "bpf-linker",
            version: BPF_LINKER,
            arguments: &[
                "--no-default-features",
                "--features",
                &format!("llvm-{major}"),
            ],
            environment: &[("LLVM_PREFIX", &prefix.to_string_lossy())],
        }
        .install(workspace, &mut command::cargo())?;
        Ok(Self {
            recipe,
            name: format!("{rustc}, LLVM {llvm}, bpf-linker {BPF_LINKER}"),
            linker,
            objcopy: objcopy(&prefix),
            sysroot: command::read(recipe.rustc().args(["--print", "sysroot"]))?
                .trim()
                .into(),
        })
    }

    /// Build and strip each of [`OBJECTS`].
    fn objects(&self, workspace: &Workspace) -> Result<Vec<(&'static str, Vec<u8>)>> {
        OBJECTS
            .into_iter()
            .zip(TARGETS)
            .map(|(path, (target, arch))| Ok((path, self.object(workspace, target, arch)?)))
            .collect()
    }

    fn object(&self, workspace: &Workspace, target: &str, arch: &str) -> Result<Vec<u8>> {
        command::run(self.cargo(workspace, "build", target, arch).arg("--quiet"))?;
        let built = target_directory(workspace)
            .join(target)
            .join("release")
            .join(EBPF_CRATE);
        // DWARF makes up three quarters; BTF, which the kernel reads, is no debug section.
        let stripped = built.with_extension("stripped");
        command::run(
            Command::new(&self.objcopy)
                .arg("--strip-debug")
                .args([&built, &stripped]),
        )?;
        fs::read(&stripped).with_context(|| format!("failed to read {}", stripped.display()))
    }

    /// `cargo SUBCOMMAND` on the eBPF crate for one target.
    fn cargo(&self, workspace: &Workspace, subcommand: &str, target: &str, arch: &str) -> Command {
        let mut command = self.recipe.cargo(subcommand);
        let linker = self.linker.parent().map(Path::to_owned);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = linker.into_iter().chain(std::env::split_paths(&path));
        command
            .current_dir(&workspace.root)
            .args([
                "--locked",
                "--release",
                "--package",
                EBPF_CRATE,
                "--target",
                target,
            ])
            .arg("--target-dir")
            .arg(target_directory(workspace))
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags(workspace, arch));
        // Not `-C linker=`: cargo mixes flags into symbol names, and this path varies.
        if let Ok(path) = std::env::join_paths(path) {
            command.env("PATH", path);
        }
        command
    }

    fn rustflags(&self, workspace: &Workspace, arch: &str) -> OsString {
        let mut flags = OsString::from(format!(
            "--cfg=bpf_target_arch=\"{arch}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf"
        ));
        for (from, to) in self.remapped(workspace) {
            flags.push("\x1f--remap-path-prefix=");
            flags.push(from);
            flags.push(format!("={to}"));
        }
        flags
    }

    /// The directories whose place may vary, and what the object calls them. Where two
    /// match, rustc takes the later one.
    fn remapped(&self, workspace: &Workspace) -> Vec<(PathBuf, &'static str)> {
        let mut directories = vec![
            (self.sysroot.clone(), "/rustc"),
            (workspace.root.clone(), "/cgfw"),
            (workspace.target.clone(), "/target"),
        ];
        for package in &workspace.metadata.packages {
            let registry = package
                .manifest_path
                .parent()
                .and_then(|path| path.parent());
            if let (Some(_), Some(registry)) = (&package.source, registry) {
                directories.push((registry.into(), "/registry"));
            }
        }
        directories.dedup();
        directories
    }
}

impl Recipe {
    fn rustc(self) -> Command {
        let mut command = match self {
            Self::Debian => Command::new("/usr/bin/rustc"),
            Self::Nightly => rustup_run("rustc"),
        };
        command::clean_toolchain(&mut command);
        command
    }

    fn cargo(self, subcommand: &str) -> Command {
        let mut command = match (self, subcommand) {
            // cargo itself would prefer the clippy in ~/.cargo/bin, which is rustup's.
            (Self::Debian, "clippy") => Command::new("/usr/bin/cargo-clippy"),
            (Self::Debian, _) => Command::new("/usr/bin/cargo"),
            (Self::Nightly, _) => rustup_run("cargo"),
        };
        command::clean_toolchain(&mut command).arg(subcommand);
        match self {
            // aya-ebpf uses features that are not stable; no other crate may.
            Self::Debian => command
                .env("CARGO", "/usr/bin/cargo")
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "aya_ebpf"),
            Self::Nightly => command.args(["-Z", "build-std=core"]),
        };
        command
    }
}

fn rustup_run(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", NIGHTLY, program]);
    command
}

/// Where LLVM's development files of this major version lie.
fn llvm_prefix(major: &str) -> Result<PathBuf> {
    let prefix = std::env::var_os("LLVM_PREFIX").map_or_else(
        || PathBuf::from(format!("/usr/lib/llvm-{major}")),
        PathBuf::from,
    );
    let config = prefix.join("bin/llvm-config");
    if !config.exists() {
        bail!(
            "bpf-linker has to be built with LLVM {major}, as this rustc is, and {} does not exist; \
             install LLVM {major} with its headers (Debian: llvm-{major}-dev) and set LLVM_PREFIX \
             if it lies elsewhere",
            config.display()
        );
    }
    Ok(prefix)
}

/// A target directory of its own: other flags must not rebuild what the host uses.
fn target_directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("ebpf")
}
