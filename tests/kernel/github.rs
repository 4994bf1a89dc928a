//! Runs in a step of GitHub Actions: annotations of the job, and the summary of the step.

use crate::support::Lab;
use crate::support::command::Test;

const SUMMARY: &str = "/mnt/work/summary.md";

/// cgfw in a step that has a summary.
fn step(lab: &Lab) -> Test<'_> {
    lab.cgfw()
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_STEP_SUMMARY", SUMMARY)
        .args(["--block", "github.com"])
}

fn annotations(stderr: &str) -> Vec<&str> {
    let is_command = |line: &&str| line.starts_with("::");
    stderr.lines().filter(is_command).collect()
}

#[test]
fn a_step_is_annotated_and_summed_up() {
    let Some(lab) = Lab::new() else { return };
    lab.write("summary.md", "of the same step");
    let output = step(&lab)
        .sh("curl --silent github.com; curl --silent 203.0.113.99; exit 3")
        .status(3)
        .run();
    let found = annotations(&output.stderr);
    assert_eq!(found.len(), 2, "{output}");
    assert!(
        found[0].starts_with(
            "::error title=cgfw%3A github.com was blocked::rule: --block github.com%0A"
        ),
        "{output}"
    );
    assert!(
        found[1]
            .starts_with("::warning title=cgfw%3A 203.0.113.99%3A80/tcp was not judged by name::"),
        "{output}"
    );
    let summary = lab.read("summary.md");
    for part in [
        "of the same step\n\n### <code>cgfw&#58; sh -c ",
        "\n| <code>github.com</code> **blocked** | <code>--block github.com</code> | ",
        "\n```mermaid\nflowchart LR\n",
        "\n<summary>All that was contacted (2)</summary>\n",
    ] {
        assert!(summary.contains(part), "{part:?} in {summary}");
    }
}

#[test]
fn annotations_are_for_the_service_and_not_for_who_wants_quiet() {
    let Some(lab) = Lab::new() else { return };
    let output = step(&lab)
        .arg("--quiet")
        .sh("curl --silent github.com; true")
        .run();
    let lines: Vec<_> = output.stderr.lines().collect();
    assert_eq!(annotations(&output.stderr), lines, "{output}");
    assert_eq!(lines.len(), 1, "{output}");
}

#[test]
fn nothing_is_annotated_elsewhere() {
    let Some(lab) = Lab::new() else { return };
    lab.write("summary.md", "");
    let output = step(&lab)
        .env("GITHUB_ACTIONS", "false")
        .sh("curl --silent github.com; true")
        .run();
    assert_eq!(annotations(&output.stderr), [""; 0], "{output}");
    assert_eq!(lab.read("summary.md"), "");
}

#[test]
fn a_summary_that_cannot_be_written_is_said_and_fails_nothing() {
    let Some(lab) = Lab::new() else { return };
    for (path, says) in [
        (
            "/no/such/file",
            "cgfw: cannot open the step summary /no/such/file: No such file or directory",
        ),
        (
            "/dev/full",
            "cgfw: cannot write the report /dev/full: No space left on device",
        ),
    ] {
        step(&lab)
            .env("GITHUB_STEP_SUMMARY", path)
            .sh("exit 3")
            .status(3)
            .stderr_has(says)
            .run();
    }
    // GitHub shows none that is longer.
    lab.write("summary.md", &"x".repeat((1 << 20) - 100));
    step(&lab)
        .sh("exit 3")
        .status(3)
        .stderr_has("cgfw: the step summary /mnt/work/summary.md has no room left")
        .run();
    assert_eq!(lab.read("summary.md").len(), (1 << 20) - 100);
}
