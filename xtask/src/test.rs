//! All tests with one command, and one line at the end that counts them.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::vm::{self, Kernel};
use crate::workspace::{EBPF_CRATE, Workspace};
use crate::{apt, command, npm};

/// What a filter calls the smoke test in the emulator.
const VM: &str = "vm";

/// The tests that only a release build has.
const MEASURED: &str = "measured::";

/// The kernel of the smoke test: the one that lacks most of what we use.
const VM_KERNEL: Kernel = Kernel::V5_10;

/// Run the tests with one of `filters` in their name; all if there are none.
pub(crate) fn run(workspace: &Workspace, filters: &[String]) -> Result<ExitCode> {
    apt::ensure(&[apt::TESTS, apt::VM].concat(), "the tests")?;
    npm::ensure(workspace)?;
    if let Err(error) = apt::ensure(apt::BROWSER, "the tests of reports for the browser") {
        println!("they are skipped: {error:#}");
    }
    let (vm, filters): (Vec<_>, Vec<_>) = filters.iter().partition(|filter| *filter == VM);
    let mut tally = Tally::default();
    if vm.is_empty() || !filters.is_empty() {
        let all = ["--workspace", "--exclude", EBPF_CRATE, "--no-fail-fast"];
        cargo_test(workspace, &all, &filters, &mut tally)?;
    }
    if filters.is_empty() && vm.is_empty() {
        // What is measured is the build that people use.
        let release = ["--release", "--package", "cgfw", "--test", "kernel"];
        let one_by_one = [MEASURED, "--test-threads=1"].map(str::to_owned);
        cargo_test(workspace, &release, &one_by_one.each_ref(), &mut tally)?;
    }
    if filters.is_empty() || !vm.is_empty() {
        vm::smoke(workspace, VM_KERNEL, &mut tally);
    }
    Ok(tally.close())
}

/// `cargo test` on these targets, its output passed on as it comes.
fn cargo_test(
    workspace: &Workspace,
    targets: &[&str],
    filters: &[&String],
    tally: &mut Tally,
) -> Result<()> {
    let mut child = command::cargo()
        .current_dir(&workspace.root)
        .args(["test", "--locked"])
        .args(targets)
        .arg("--")
        // The output of tests that pass holds the reasons of those that were skipped.
        .arg("--show-output")
        .args(filters)
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to run cargo test")?;
    let stdout = child.stdout.take().context("the pipe was asked for")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("failed to read the output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.read(&line);
    }
    let status = child.wait().context("failed to wait for cargo test")?;
    if !status.success() && tally.failed == 0 {
        // It did not compile, or a test binary died before it could count.
        tally.fail(format!("cargo test: {status}"));
    }
    Ok(())
}

/// How many tests passed, failed and were skipped, with the names of the latter two.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    /// Tests that skipped themselves, which are among `passed` too.
    skipped_themselves: usize,
    skipped: Vec<String>,
    failures: Vec<String>,
}

impl Tally {
    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.failed += 1;
        self.failures.push(what);
    }

    pub(crate) fn skip(&mut self, what: String) {
        self.skipped.push(what);
    }

    /// Count by one line of libtest's output. A test that skips itself prints a line
    /// `SKIP REASON` and returns, which libtest counts as passed.
    fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            for (count, kind) in counts.split([';', '.']).filter_map(count) {
                match kind {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    "ignored" => self
                        .skipped
                        .extend((0..count).map(|_| "a test marked #[ignore]".to_owned())),
                    _ => {}
                }
            }
        } else if let Some(reason) = line.strip_prefix("SKIP ") {
            self.skip(reason.to_owned());
            self.skipped_themselves += 1;
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }

    fn passed(&self) -> usize {
        self.passed.saturating_sub(self.skipped_themselves)
    }

    /// Print what was skipped and what failed, and the counts as the last line. Fails if a
    /// test failed, or if none passed, which is what a misspelt filter looks like.
    pub(crate) fn close(&self) -> ExitCode {
        for reason in &self.skipped {
            println!("SKIPPED {reason}");
        }
        for name in &self.failures {
            println!("FAILED {name}");
        }
        println!("{self}");
        if self.succeeded() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn succeeded(&self) -> bool {
        self.failed == 0 && self.passed() > 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, failed, skipped) = (self.passed(), self.failed, self.skipped.len());
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// ` 12 passed` as its number and word.
fn count(text: &str) -> Option<(usize, &str)> {
    let (count, kind) = text.trim().split_once(' ')?;
    Some((count.parse().ok()?, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(output: &str, expected: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read(line));
        assert_eq!(tally.to_string(), expected);
        tally
    }

    #[test]
    fn the_results_of_several_binaries_are_summed() {
        let tally = check(
            "running 2 tests\n\
             test a ... ok\n\
             test b ... FAILED\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.10s\n\
             \n\
             test result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.25s\n",
            "41 passed, 1 failed, 2 skipped",
        );
        assert_eq!(tally.failures, ["b"]);
        assert!(!tally.succeeded());
    }

    #[test]
    fn a_test_that_skips_itself_did_not_pass() {
        let tally = check(
            "test ipv6 ... ok\n\
             successes:\n\
             \n\
             ---- ipv6 stdout ----\n\
             SKIP no IPv6 on this machine\n\
             \n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
            "2 passed, 0 failed, 1 skipped",
        );
        assert_eq!(tally.skipped, ["no IPv6 on this machine"]);
        assert!(tally.succeeded());
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert!(!check("", "0 passed, 0 failed, 0 skipped").succeeded());
    }

    #[test]
    fn the_readme_shows_the_last_line() {
        let readme = include_str!("../../README.md");
        let (_, output) = readme.split_once("\n# cargo xtask test\n").unwrap();
        let (shown, _) = output.split_once('\n').unwrap();
        // The numbers grow with the tests.
        let words = |line: &str| line.replace(|c: char| c.is_ascii_digit(), "");
        assert_eq!(words(shown), words(&Tally::default().to_string()));
        assert!(shown.contains(" 0 failed"), "{shown}");
    }

    #[test]
    fn what_tests_print_is_not_taken_for_results() {
        check(
            "the test result: ok. 9 passed; 0 failed\nSKIPPING breakfast\n",
            "0 passed, 0 failed, 0 skipped",
        );
    }
}
