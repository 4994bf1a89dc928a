/*!
What is done to this repository beside cargo's own commands, as `cargo xtask COMMAND`.

`ebpf` builds the committed eBPF objects, `lint` checks what can be read off the sources,
`test` and `vm` run the tests, on this kernel and on others in an emulator. Each finds or
installs the tools it needs, by `apt` and `tools`.
*/
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to the terminal is what these commands are for"
)]

mod apt;
mod command;
mod duplicates;
mod ebpf;
mod layers;
mod lint;
mod npm;
#[path = "../../cgfw/build/sources.rs"]
mod sources;
mod test;
mod tools;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::vm::Kernel;
use crate::workspace::Workspace;

/// Build, check and test cgfw
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the eBPF objects that are committed in cgfw/src/bpf
    Ebpf {
        /// Write nothing; fail unless a rebuild gives the committed bytes
        #[arg(long)]
        check: bool,
    },
    /// Check format, clippy, layering, dependencies and the top level
    Lint,
    /// Run all tests, installing the packages they need where that can be
    ///
    /// Unit tests, tests/cli, tests/kernel (as root, on this kernel) and the smoke test on
    /// one other kernel in an emulator. The last line counts what passed, failed and was
    /// skipped.
    Test {
        /// Run only the tests with one of these in their name; `vm` is the smoke test
        filter: Vec<String>,
    },
    /// Run the smoke test on Debian's kernels in an emulator
    Vm {
        /// The kernels to boot [default: all]
        #[arg(value_enum)]
        kernels: Vec<Kernel>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match task {
        Task::Ebpf { check: false } => ebpf::build(&workspace)?,
        Task::Ebpf { check: true } => ebpf::check(&workspace)?,
        Task::Lint => lint::run(&workspace)?,
        Task::Test { filter } => return test::run(&workspace, &filter),
        Task::Vm { kernels } => return vm::run(&workspace, &kernels),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    const README: &str = include_str!("../../README.md");

    #[test]
    fn the_readme_has_every_command_and_no_other() {
        let mut shown = Vec::new();
        for rest in README.split("cargo xtask ").skip(1) {
            let end = rest.find(['`', '\n']).unwrap_or(rest.len());
            let words: Vec<&str> = rest[..end].split_whitespace().collect();
            if let Err(error) = Cli::try_parse_from([&["cargo xtask"], &*words].concat()) {
                panic!("cargo xtask {}: {error}", words.join(" "));
            }
            shown.extend(words.first().copied());
        }
        for command in Cli::command().get_subcommands() {
            assert!(shown.contains(&command.get_name()), "{command} is missing");
        }
    }
}
