//! `--break-glass`: nothing is refused, and that is on record.

use serde_json::{Value, json};

use crate::support::Lab;
use crate::support::command::Test;

const REASON: &str = "the registry\u{1b}[2J is down";

/// How the line at the start begins.
const LOUD: &str = "WARN BREAK-GLASS NOTHING IS REFUSED";

/// What the policy forbids, and what comes of it if nothing is refused.
const SCRIPT: &str = "curl --silent http://github.com/; curl --silent http://203.0.113.99/";
const PASSED: &str = "hello from github.com\nhello from 203.0.113.99\n";

fn forbidding(lab: &Lab) -> Test<'_> {
    lab.cgfw().args(["--block", "github.com,203.0.113.99"])
}

/// What the only run in `audit.jsonl` says of itself.
#[track_caller]
fn run_start(lab: &Lab) -> Value {
    let log = lab.read("audit.jsonl");
    let first = log.lines().next().unwrap();
    let start: Value = serde_json::from_str(first).unwrap();
    assert_eq!(start["event"], "run_start", "{log}");
    start
}

#[test]
fn nothing_is_refused_and_everything_is_on_record() {
    let Some(lab) = Lab::new() else { return };
    forbidding(&lab).sh(SCRIPT).status(7).stdout("").run();
    let output = forbidding(&lab)
        .args(["--break-glass", REASON, "--audit-log", "audit.jsonl"])
        // As in a shell that dev has opened with sudo.
        .env("SUDO_UID", "4242")
        .sh(SCRIPT)
        .stdout(PASSED)
        .stderr_has("\nnot clean: --break-glass refused nothing, 2 targets would be blocked\n")
        .run();
    let why = r"the registry\u{1b}[2J is down";
    let loud = format!("{LOUD} user=\"dev\" uid=4242 why=\"{why}\"\n");
    assert!(output.stderr.starts_with(&loud), "{output}");
    let summary = format!("\n  BREAK-GLASS, nothing was refused: {why} (dev, uid 4242)\n");
    assert!(output.stderr.contains(&summary), "{output}");
    assert!(output.stderr.contains("WARN DNS WOULD-BLOCK "), "{output}");
    let start = run_start(&lab);
    assert_eq!(start["mode"], "break_glass");
    let glass = json!({ "reason": REASON, "user": "dev", "uid": 4242 });
    assert_eq!(start["break_glass"], glass);
    assert!(start["time"].as_str().unwrap().ends_with('Z'), "{start}");
    // As whom the command ran is another matter.
    assert_eq!(start["uid"], 0);
    let log = lab.read("audit.jsonl");
    assert!(log.contains("\"verdict\":\"would_block\""), "{log}");
    assert!(!log.contains("\"verdict\":\"blocked\""), "{log}");
}

#[test]
fn quiet_does_not_silence_it() {
    let Some(lab) = Lab::new() else { return };
    let quiet = || forbidding(&lab).args(["--quiet", "--break-glass", "outage"]);
    let output = quiet()
        .args(["--audit-log", "audit.jsonl"])
        .sh(SCRIPT)
        .stdout(PASSED)
        .run();
    let loud = format!("{LOUD} user=\"root\" uid=0 why=\"outage\"\n");
    assert_eq!(output.stderr, loud, "{output}");
    let output = quiet().sh(SCRIPT).stdout(PASSED).run();
    let hint = "cgfw: there is no record of this but here; --audit-log FILE keeps one of \
                --break-glass\n";
    assert_eq!(output.stderr, loud + hint, "{output}");
}

#[test]
fn the_variable_does_it_and_what_would_be_blocked_counts() {
    let Some(lab) = Lab::new() else { return };
    forbidding(&lab)
        .arg("--fail-on-block")
        .env("CGFW_BREAK_GLASS", "outage")
        .sh(SCRIPT)
        .stdout(PASSED)
        .stderr_has(format!("{LOUD} user=\"root\" uid=0 why=\"outage\"\n"))
        .status(120)
        .run();
}

#[test]
fn a_reason_of_no_words_runs_nothing() {
    let Some(lab) = Lab::new() else { return };
    for blank in ["", " ", "\t\n"] {
        forbidding(&lab)
            .args(["--break-glass", blank])
            .sh("touch was-run")
            .stderr_has("--break-glass")
            .stderr_has("say what the emergency is")
            .status(125)
            .run();
    }
    assert!(!lab.exists("was-run"), "the command ran");
}

/// Who is root only in effect could blame another.
#[test]
fn others_than_root_are_who_they_are_and_not_who_they_say() {
    let Some(lab) = Lab::new() else { return };
    lab.command("setpriv")
        .args(["--ruid=4242", "--keep-groups", "cgfw", "run"])
        .args(["--break-glass", "outage", "--audit-log", "audit.jsonl"])
        .env("SUDO_UID", "0")
        .child(["true"])
        .run();
    let glass = json!({ "reason": "outage", "user": "dev", "uid": 4242 });
    assert_eq!(run_start(&lab)["break_glass"], glass);
}
