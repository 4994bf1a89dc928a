/*!
What the command line accepts and refuses: no root, no network, seconds.
*/

#![expect(
    unreachable_pub,
    reason = "one `pub` serves both test crates, which share their support"
)]
#![expect(
    clippy::panic,
    clippy::unused_result_ok,
    clippy::unwrap_used,
    reason = "tests panic, and a fallback that fails leaves the failure to its check"
)]

#[path = "../support/command.rs"]
#[expect(dead_code, reason = "the kernel tests use the rest of it")]
mod command;
#[path = "../support/namespace.rs"]
#[expect(dead_code, reason = "the kernel tests use the rest of it")]
mod namespace;

mod why;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::command::{Output, Test, User};

/// The user that nobody is.
const NOBODY: User = User {
    name: "nobody",
    uid: 65534,
    gid: 65534,
    groups: &[],
    home: "/",
};

fn cgfw() -> Test<'static> {
    Test::new(env!("CARGO_BIN_EXE_cgfw"))
}

/// A file that exists if and only if the command ran.
struct Mark(PathBuf);

impl Mark {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("was-run.{}.{count}", std::process::id());
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// `cgfw run OPTIONS -- touch FILE` must refuse, name every one of `words`, and not run.
#[track_caller]
fn check_refused(options: &[&str], words: &[&str]) -> Output {
    let mark = Mark::new();
    let output = cgfw()
        .arg("run")
        .args(options)
        .child(["touch".as_ref(), mark.0.as_os_str()])
        .status(125)
        .stdout("")
        .run();
    for word in words {
        assert!(output.stderr.contains(word), "no {word:?}\n{output}");
    }
    assert!(!mark.0.exists(), "the command ran\n{output}");
    output
}

#[test]
fn patterns_that_cannot_be_parsed_are_named() {
    for pattern in [
        "exa mple.com",
        "example..com",
        "github.com:99999",
        "github.com:2-1",
        "github.com:x",
        "github.com/icmp",
        "198.51.100.0/33",
        "[2001:db8::1",
        "[2001:db8::1]:",
        "2001:db8::/129",
        "*.*.com",
        "https://github.com/",
        "=",
        "*.",
    ] {
        check_refused(&["--block", pattern], &["--block", pattern]);
        check_refused(&["--allow", pattern], &["--allow", pattern]);
    }
    for socket in ["/run/docker.sock", "@name"] {
        check_refused(&["--block", socket], &["--block", socket, "--strict"]);
    }
    check_refused(&["--allow", "/run/../x"], &["/run/../x", "`..`"]);
    let label = format!("{}.com", "x".repeat(64));
    check_refused(&["--block", &label], &[&label]);
    // Of several, the one that is wrong is named.
    check_refused(&["--block", "github.com,exa mple.com"], &["exa mple.com"]);
}

#[test]
fn an_empty_pattern_is_not_an_empty_list() {
    check_refused(&["--block", ""], &["--block"]);
    check_refused(&["--allow", ""], &["--allow"]);
}

#[test]
fn option_values_that_cannot_be_parsed_are_named() {
    for (option, value) in [
        ("--default", "maybe"),
        ("--on-block", "explode"),
        ("--direct-ip", "sometimes"),
        ("--timeout", "soon"),
        ("--timeout", "0"),
        ("--upstream-dns", "dns.example"),
        ("--upstream-dns", "198.51.100.53:99999"),
        ("--survivors", "promote"),
        ("--user", "no-such-user"),
    ] {
        check_refused(&["--block", "github.com", option, value], &[option, value]);
    }
    for code in ["256", "-1", "x"] {
        let option = format!("--fail-on-block={code}");
        check_refused(
            &["--block", "github.com", &option],
            &["--fail-on-block", code],
        );
    }
}

#[test]
fn unknown_options_are_named_with_what_was_meant() {
    check_refused(&["--blok", "github.com"], &["--blok", "--block"]);
}

#[test]
fn a_missing_command_is_said() {
    for args in [
        &["run"][..],
        &["run", "--"],
        &["run", "--block", "github.com"],
    ] {
        cgfw()
            .args(args)
            .status(125)
            .stdout("")
            .stderr_has("COMMAND")
            .run();
    }
}

#[test]
fn an_unknown_subcommand_is_named() {
    cgfw()
        .arg("rum")
        .status(125)
        .stderr_has("rum")
        .stderr_has("run")
        .run();
    cgfw().status(125).stderr_has("Usage").run();
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let missing = "/no/such/directory/audit.jsonl";
    check_refused(
        &["--block", "github.com", "--audit-log", missing],
        &[missing, "No such file or directory"],
    );
    check_refused(
        &["--block", "github.com", "--audit-log", "/"],
        &["/", "directory"],
    );
}

#[test]
fn help_and_version_are_not_failures() {
    cgfw().arg("--help").stdout_has("run").run();
    cgfw()
        .args(["run", "--help"])
        .stdout_has("--block")
        .stdout_has("--fail-on-block")
        .run();
    let short = cgfw().args(["run", "-h"]).stdout_has("--block").run();
    assert!(
        short.stdout.lines().all(|line| line.len() <= 120),
        "{short}"
    );
    cgfw()
        .arg("--version")
        .stdout_has(env!("CARGO_PKG_VERSION"))
        .run();
}

#[test]
fn without_rights_the_sudo_command_is_shown_quoted() {
    let mark = Mark::new();
    let path = mark.0.to_str().unwrap();
    let mut test = cgfw()
        .args(["run", "--block", "github.com"])
        .child(["touch", "a b", path]);
    if nix::unistd::geteuid().is_root() {
        // The build directory of root may be closed to others; the message is the same.
        test = test.user(&NOBODY);
        let binary = env!("CARGO_BIN_EXE_cgfw");
        if !readable_by_all(Path::new(binary)) {
            println!(
                "SKIP without_rights_the_sudo_command_is_shown_quoted: {binary} is not executable by others"
            );
            return;
        }
    }
    let output = test.status(125).stderr_has("sudo ").run();
    assert!(
        output.stderr.contains("'a b'") || output.stderr.contains("\"a b\""),
        "{output}"
    );
    assert!(!mark.0.exists(), "the command ran");
}

/// Whether every directory up to `path` may be searched by anybody.
fn readable_by_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.ancestors()
        .all(|part| fs::metadata(part).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
}
