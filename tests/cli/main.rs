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

#[path = "../support/browser.rs"]
mod browser;
#[path = "../support/command.rs"]
#[expect(dead_code, reason = "the kernel tests use the rest of it")]
mod command;
#[path = "../support/namespace.rs"]
#[expect(dead_code, reason = "the kernel tests use the rest of it")]
mod namespace;

mod baseline;
mod fleet;
mod html;
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

/// A file in a place of its own, gone when dropped.
struct Written(Mark);

impl Written {
    fn new(text: &str) -> Self {
        let mark = Mark::new();
        fs::write(&mark.0, text).unwrap();
        Self(mark)
    }

    fn path(&self) -> &str {
        self.0.0.to_str().unwrap()
    }
}

#[test]
fn a_policy_is_checked_with_the_place_of_what_is_idle() {
    let policy = Written::new(
        "version = 1\n\
         [[rule]]\n\
         block = [\n  \"github.com\",\n  \"*.api.github.com\",\n]\n\
         [[rule]]\n\
         allow = \"github.com\"\n",
    );
    let (path, list) = (policy.path(), Written::new("a.test\na.test\n"));
    let expected = format!(
        "{path}:5: warning: block *.api.github.com is redundant: {path}:4: github.com blocks it \
         as well\n\
         {path}:8: warning: allow github.com is shadowed by {path}:4: github.com, which blocks it\n\
         {list}:2: warning: block a.test is a duplicate of {list}:1: a.test\n\
         5 rules, 3 warnings\n",
        list = list.path()
    );
    let check = || {
        cgfw()
            .args(["policy", "check", path, "--block-file", list.path()])
            .stdout(&*expected)
    };
    let output = check().run();
    assert_eq!(output.stderr, "", "{output}");
    check().arg("--fail-on-warning").status(1).run();
    cgfw()
        .args(["policy", "check", "--fail-on-warning", "-"])
        .stdin("version = 1\n[[rule]]\nblock = \"github.com\"\n")
        .stdout("1 rule, 0 warnings\n")
        .run();
}

#[test]
fn a_policy_that_is_wrong_is_an_error_whatever_else_it_is() {
    let policy =
        Written::new("version = 1\n[[rule]]\nblock = [\"a.test\", \"a.test\", \"a..b\"]\n");
    let list = Written::new("a.test\nb..test\n");
    cgfw()
        .args([
            "policy",
            "check",
            policy.path(),
            "--block-file",
            list.path(),
        ])
        .status(125)
        .stdout("")
        .stderr_has(format!("{}:3:30: ", policy.path()))
        .stderr_has(format!("{}:2:1: ", list.path()))
        .run();
}

#[test]
fn more_warnings_than_anybody_reads_are_counted() {
    let list = Written::new(&"a.test\n".repeat(1001));
    let output = cgfw()
        .args(["policy", "check", "--block-file", list.path()])
        .stdout_has("\nand 900 more warnings\n1001 rules, 1000 warnings\n")
        .run();
    assert_eq!(output.stdout.lines().count(), 102, "{output}");
}

#[test]
fn a_policy_is_learned_from_files_and_from_stdin() {
    let start = r#"{"schema":1,"time":"2026-11-23T00:00:00Z","run":"1","event":"run_start","version":"0.1.0","mode":"enforce","default":"block","direct_ip":"block","rules":[],"policy_digest":"","uid":0,"argv":["x"],"host":"h","kernel":"6.1","cgroup":"/","hooks":[],"sees_sockets":true,"sees_processes":true,"can_be_left":true}"#;
    let dns = r#"{"schema":1,"time":"2026-11-23T00:00:00Z","run":"1","event":"dns","verdict":"would_block","layer":"dns","qname":"a.test","reason":"default","count":1,"qtype":"A","rcode":"NOERROR","latency_us":1,"pid":1,"ppid":1,"uid":0,"comm":"dig","argv":["dig"]}"#;
    let end = r#"{"schema":1,"time":"2026-11-23T00:00:00Z","run":"1","event":"run_end","outcome":"exited","status":0,"exit_code":0,"elapsed_us":1}"#;
    let log = Written::new(&format!("{start}\n{end}\n"));
    let learn = || cgfw().args(["policy", "learn", log.path()]);
    learn()
        .stdout_has("default = \"block\"\n")
        .stderr_has("cgfw: nothing was contacted: the policy allows nothing\n")
        .run();
    learn()
        .arg("-")
        .stdin(&format!("{dns}\n"))
        .stdout_has("\n# dig\n[[rule]]\nallow = \"=a.test\" # only looked up\n")
        .run();
    // Nothing is written that is only half of it.
    for (last, why) in [
        ("no line", "stdin:2: not a line of an audit log"),
        ("{\"schema\":9}", "stdin:2: this is schema 9"),
    ] {
        learn()
            .arg("-")
            .stdin(&format!("{dns}\n{last}\n"))
            .status(125)
            .stdout("")
            .stderr_has(why)
            .run();
    }
    let missing = learn().arg("/missing.jsonl").status(125).stdout("").run();
    assert!(
        missing
            .stderr
            .starts_with("cgfw: cannot open /missing.jsonl: "),
        "{missing}"
    );
}

#[test]
fn the_schema_of_policies_is_printed() {
    let schema = include_str!("../../cgfw/src/policy/schema.json");
    cgfw().args(["policy", "schema"]).stdout(schema).run();
}
