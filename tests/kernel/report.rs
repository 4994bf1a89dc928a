//! Reports: of a run as it ends, and of what its audit log says later.

use nix::sys::signal::Signal;

use crate::support::Lab;
use crate::support::command::{Output, Test};
use crate::support::lab::DEV;

/// Reports on `logs`.
fn report<'l>(lab: &'l Lab, logs: &[&str]) -> Test<'l> {
    lab.command("cgfw").arg("report").args(logs)
}

/// A run that has all of the sections that one can have without others.
fn run(lab: &Lab) -> Test<'_> {
    lab.cgfw()
        .args(["--block", "github.com", "--audit-log", "audit.jsonl"])
        .args(["--report", "text=report.txt"])
}

#[test]
fn a_log_says_what_the_run_said() {
    let Some(lab) = Lab::new() else { return };
    let output = run(&lab)
        .sh(
            "curl --silent github.com; curl --silent example.com; curl --silent 203.0.113.99; \
             exit 3",
        )
        .status(3)
        .run();
    let written = lab.read("report.txt");
    report(&lab, &["audit.jsonl"]).stdout(&*written).run();
    // The same account, of which the report has more.
    let told: Vec<&str> = output.stderr.lines().rev().collect();
    let reported: Vec<&str> = written.lines().rev().collect();
    assert_eq!(told[0], reported[0], "{output}\n{written}");
    assert!(told[0].starts_with("not clean: 1 target was blocked, 1 contact was not judged"));
    for part in [
        "  blocked (1)\n",
        "github.com  2 lookups  curl --silent github.com\n",
        "  processes (",
        "\n  used ",
    ] {
        assert!(written.contains(part), "{part:?} in {written}");
    }
    assert!(!output.stderr.contains("  processes ("), "{output}");
}

#[test]
fn a_refusal_that_is_swallowed_is_told_from_one_that_is_not() {
    let Some(lab) = Lab::new() else { return };
    let told = |script: &str, status| -> Output {
        lab.cgfw()
            .args(["--block", "github.com"])
            .sh(script)
            .status(status)
            .run()
    };
    let went_on = told("curl --silent github.com; true", 0);
    let title = "\n  blocked (1), and the command went on\n";
    assert!(went_on.stderr.contains(title), "{went_on}");
    let failed = told("curl --silent github.com || exit 7", 7);
    let line = "(the command then failed)\n";
    assert!(failed.stderr.contains(line), "{failed}");
    assert!(!failed.stderr.contains("went on"), "{failed}");
    // Something else made this one fail.
    let other = told("sh -c 'curl --silent github.com || true'; exit 7", 7);
    assert!(!other.stderr.contains(line), "{other}");
    let line = "(sh -c 'curl --silent github.com || true' succeeded all the same)\n";
    assert!(other.stderr.contains(line), "{other}");
}

#[test]
fn logs_of_several_runs_are_reported_one_by_one() {
    let Some(lab) = Lab::new() else { return };
    run(&lab).sh("curl --silent example.com").run();
    run(&lab).sh("curl --silent github.com; true").run();
    lab.sh("cp audit.jsonl copy.jsonl; grep -v example.com audit.jsonl > other.jsonl")
        .run();
    let output = report(&lab, &["audit.jsonl"]).run();
    assert_eq!(output.stdout.matches("cgfw: sh -c ").count(), 2, "{output}");
    let first = output.stdout.find("\nclean: ").expect("the first is");
    let second = output
        .stdout
        .find("\nnot clean: ")
        .expect("the second is not");
    assert!(first < second, "{output}");
    lab.command("cgfw")
        .args(["report", "-"])
        .stdin(&lab.read("audit.jsonl"))
        .stdout(output.stdout)
        .run();
}

#[test]
fn a_log_that_was_cut_off_is_not_taken_for_a_whole_one() {
    let Some(lab) = Lab::new() else { return };
    let mut running = run(&lab)
        .sh("curl --silent example.com; curl --silent github.com; echo done; sleep 60")
        .signal(Signal::SIGKILL)
        .spawn();
    running.wait_for_stdout("done");
    // Written by a thread of its own, as soon as it gets to run.
    running.wait_until("the refusal is told and written", |running| {
        let is_written = || lab.read("audit.jsonl").contains(r#""verdict":"blocked""#);
        running.stderr().contains("WARN DNS BLOCKED") && is_written()
    });
    running.send(Signal::SIGKILL);
    running.finish();
    let log = lab.read("audit.jsonl");
    assert!(log.ends_with('\n'), "a line is cut: {log}");
    assert!(log.contains(r#""verdict":"blocked""#), "{log}");
    assert!(!log.contains("run_end"), "{log}");
    report(&lab, &["audit.jsonl"])
        .stdout_has("the log has no end of this run: what it did afterwards is not known")
        .stdout_has("not clean: 1 target was blocked, ")
        .run();
    // As if the disk had become full within a line.
    let cut = &log[..log.len() - 10];
    lab.write("audit.jsonl", cut);
    let lines = cut.lines().count();
    report(&lab, &["audit.jsonl"])
        .stderr_has(format!(
            "cgfw: audit.jsonl:{lines}: the last line is not complete and was left out"
        ))
        .run();
}

#[test]
fn bad_logs_and_reports_are_named() {
    let Some(lab) = Lab::new() else { return };
    lab.write("bad.jsonl", "{\"schema\":1}\n");
    report(&lab, &["bad.jsonl"])
        .status(125)
        .stdout("")
        .stderr_has("cgfw: bad.jsonl:1: not a line of an audit log: ")
        .run();
    report(&lab, &["missing.jsonl"])
        .status(125)
        .stderr_has("cgfw: cannot open missing.jsonl: No such file or directory")
        .run();
    for (argument, says) in [
        ("text", "it is FORMAT=FILE, FORMAT one of text, "),
        ("text=", "there is no file behind `=`"),
        ("tex=x", "`tex` is no format; there are text, "),
    ] {
        lab.cgfw()
            .args(["--block", "github.com", "--report", argument])
            .sh("touch was-run")
            .status(125)
            .stderr_has(says)
            .run();
    }
    lab.cgfw()
        .args(["--block", "github.com", "--report", "text=/no/such/file"])
        .sh("touch was-run")
        .status(125)
        .stderr_has("cannot open the report /no/such/file: No such file or directory")
        .run();
    assert!(!lab.exists("was-run"));
    // Found out too late to keep a deploy from going on.
    lab.cgfw()
        .args(["--block", "github.com", "--report", "text=/dev/full"])
        .sh("exit 3")
        .status(3)
        .stderr_has("cannot write the report /dev/full: No space left on device")
        .run();
}

#[test]
fn reports_belong_to_the_user_and_are_for_nobody_else() {
    let Some(lab) = Lab::new() else { return };
    lab.write("report.txt", "of another run\n");
    lab.sh("chown dev report.txt; chmod 600 report.txt").run();
    lab.command("sudo")
        .args(["/mnt/bin/cgfw", "run", "--block", "github.com"])
        .args(["--report", "text=report.txt", "--report", "text=new.txt"])
        .args(["--report", "text=/dev/fd/2"])
        .user(&DEV)
        .child(["true"])
        .stderr_has("  nothing was contacted\n  used ")
        .run();
    let expected = "dev 600\n".repeat(2);
    lab.sh("stat -c '%U %a' report.txt new.txt")
        .stdout(expected)
        .run();
    assert_eq!(lab.read("report.txt"), lab.read("new.txt"));
    assert!(lab.read("new.txt").starts_with("cgfw: true succeeded"));
}

#[test]
fn what_the_child_calls_itself_does_no_harm_in_a_report() {
    let Some(lab) = Lab::new() else { return };
    let hostile = "\u{1b}]0;pwned\u{7}\u{202e}\r\nclean: nothing";
    run(&lab)
        .child(["curl", "--silent", "--user-agent", hostile, "github.com"])
        .status(6)
        .run();
    let log = lab.read("audit.jsonl");
    let output = report(&lab, &["audit.jsonl"]).run();
    for text in [&log, &output.stdout, &output.stderr] {
        let is_plain = |c: char| c == '\n' || (' '..='~').contains(&c);
        assert!(text.chars().all(is_plain), "{text:?}");
        assert!(!text.contains("\nclean"), "{text}");
    }
}
