//! Policies and lists from files, seen from the child.

use crate::support::Lab;
use crate::support::lab::DEV;

const ADBLOCK: &str = "\
[Adblock Plus 2.0]
! Title: a list as it is published
||github.com^$important
@@||api.github.com^
##.banner
";

const HOSTS: &str = "\
# a hosts file as it is published
127.0.0.1 localhost
::1 ip6-localhost
0.0.0.0 github.com example.com # two
";

const DNSMASQ: &str = "\
address=/github.com/0.0.0.0
local=/example.com/
";

const PATTERNS: &str = "\
github.com          # the name and everything below
=example.com
203.0.113.99:80/tcp
";

const POLICY: &str = r#"
version = 1

[[rule]]
block = ["github.com", "203.0.113.99"]
reason = "we deploy it"
owner = "team-git"

[[rule]]
allow = "api.github.com"
"#;

/// Where a file is given, what is in it, a host, and whether it is let through.
const CASES: &[(&str, &str, &str, bool)] = &[
    ("--block-file", ADBLOCK, "github.com", false),
    ("--block-file", ADBLOCK, "www.github.com", false),
    ("--block-file", ADBLOCK, "api.github.com", true),
    ("--block-file", ADBLOCK, "example.com", true),
    ("--block-file", HOSTS, "github.com", false),
    ("--block-file", HOSTS, "example.com", false),
    ("--block-file", HOSTS, "api.github.com", true),
    ("--block-file", DNSMASQ, "api.github.com", false),
    ("--block-file", DNSMASQ, "example.com", false),
    ("--block-file", PATTERNS, "api.github.com", false),
    ("--block-file", PATTERNS, "example.com", false),
    ("--block-file", PATTERNS, "203.0.113.99", false),
    ("--block-file", PATTERNS, "notgithub.com", true),
    ("--allow-file", PATTERNS, "api.github.com", true),
    ("--allow-file", PATTERNS, "203.0.113.99", true),
    ("--allow-file", PATTERNS, "notgithub.com", false),
    ("--policy", POLICY, "github.com", false),
    ("--policy", POLICY, "api.github.com", true),
    ("--policy", POLICY, "203.0.113.99", false),
    ("--policy", POLICY, "example.com", true),
];

fn fetch(host: &str) -> [String; 3] {
    let url = format!("http://{host}/");
    ["curl".to_owned(), "--silent".to_owned(), url]
}

#[track_caller]
fn check(lab: &Lab, options: &[&str], host: &str, allowed: bool) {
    let test = lab.cgfw().args(options).child(fetch(host)).any_status();
    let output = test.run();
    let arrived = output.stdout.starts_with("hello from");
    assert_eq!(arrived, allowed, "{options:?} {host}\n{output}");
    assert_eq!(
        output.refusals().is_empty(),
        allowed,
        "{options:?} {host}\n{output}"
    );
}

#[test]
fn every_format_is_enforced() {
    let Some(lab) = Lab::new() else { return };
    for (option, content, host, allowed) in CASES {
        lab.write("file", content);
        check(&lab, &[option, "file"], host, *allowed);
    }
}

#[test]
fn files_and_arguments_hold_together() {
    let Some(lab) = Lab::new() else { return };
    lab.write("policy.toml", POLICY);
    lab.write("list", "com\n");
    lab.write("exceptions", "notgithub.com\n");
    let files = [
        "--policy",
        "policy.toml",
        "--block-file",
        "list",
        "--allow-file",
        "exceptions",
    ];
    for (host, allowed) in [
        ("github.com", false),
        ("api.github.com", true),
        ("example.com", false),
        ("notgithub.com", true),
    ] {
        check(&lab, &files, host, allowed);
    }
    let with_argument = [&files[..], &["--block", "api.github.com"]].concat();
    check(&lab, &with_argument, "api.github.com", false);
    let with_default = [&files[..], &["--default", "block"]].concat();
    check(&lab, &files, "203.0.113.21", true);
    check(&lab, &with_default, "203.0.113.21", false);
}

#[test]
fn files_come_from_the_environment_too() {
    let Some(lab) = Lab::new() else { return };
    lab.write("policy.toml", POLICY);
    lab.write("list", "example.com\n");
    for (variable, value, host) in [
        ("CGFW_POLICY", "policy.toml", "github.com"),
        ("CGFW_BLOCK_FILE", "list", "example.com"),
        ("CGFW_ALLOW_FILE", "list", "github.com"),
    ] {
        lab.cgfw()
            .env(variable, value)
            .child(fetch(host))
            .status(6)
            .run();
    }
}

/// A script must not be able to weaken its own policy.
#[test]
fn a_policy_that_is_not_named_is_not_read() {
    let Some(lab) = Lab::new() else { return };
    lab.write(
        "cgfw.toml",
        "version = 1\n[[rule]]\nallow = \"github.com\"\n",
    );
    check(&lab, &["--block", "github.com"], "github.com", false);
    check(&lab, &["--block", "github.com"], "example.com", true);
    lab.write("cgfw.toml", "this is no policy\n");
    check(&lab, &["--block", "github.com"], "example.com", true);
    let named = lab.cgfw().args(["--policy", "cgfw.toml"]).child(["true"]);
    named.status(125).stderr_has("cgfw.toml:1:").run();
}

#[test]
fn a_refusal_cites_the_line_of_the_file() {
    let Some(lab) = Lab::new() else { return };
    lab.write("list", "# two lines\nexample.com\n");
    let output = lab
        .cgfw()
        .args(["--block-file", "list"])
        .child(fetch("www.example.com"))
        .any_status()
        .run();
    assert_eq!(output.refusal()["rule"], "list:2: example.com", "{output}");
    assert!(output.stderr.contains("(list:2: example.com)"), "{output}");
}

#[test]
fn everybody_is_told_the_reason_and_the_owner() {
    let Some(lab) = Lab::new() else { return };
    lab.write("policy.toml", POLICY);
    let output = lab
        .cgfw()
        .args(["--policy", "policy.toml", "--audit-log", "audit.jsonl"])
        .args(["--block", "example.com"])
        .sh(
            "dig github.com | grep EDE; curl --silent http://203.0.113.99/; \
             curl --silent http://example.com/; true",
        )
        .run();
    // To the child.
    let answer = "policy.toml:5: github.com: we deploy it (owner team-git)";
    assert!(output.stdout.contains(answer), "{output}");
    // To whoever watches.
    for (key, value) in [("domain", "github.com."), ("ip", "203.0.113.99")] {
        let refusals = output.refusals();
        let refusal = refusals
            .iter()
            .find(|refusal| refusal.get(key).is_some_and(|found| found == value))
            .unwrap_or_else(|| panic!("{value} was not refused\n{output}"));
        assert_eq!(refusal["owner"], "team-git", "{output}");
        assert_eq!(refusal["why"], "we deploy it", "{output}");
    }
    // To whoever reads the summary.
    for part in [
        "\n  blocked (3), and the command went on\n    owner: team-git (2)\n      github.com",
        "(policy.toml:5: github.com: we deploy it)\n",
        "\n    no owner (1)\n      example.com",
        "\nnot clean: 3 targets were blocked (ask team-git)\n",
    ] {
        assert!(output.stderr.contains(part), "no {part:?}\n{output}");
    }
    // To programs.
    let log = lab.read("audit.jsonl");
    let line = log
        .lines()
        .find(|line| line.contains("\"qname\":\"github.com\""));
    let entry: serde_json::Value = serde_json::from_str(line.unwrap()).unwrap();
    assert_eq!(entry["rule"], "policy.toml:5: github.com", "{log}");
    assert_eq!(entry["owner"], "team-git", "{log}");
    assert_eq!(entry["rule_reason"], "we deploy it", "{log}");
}

#[test]
fn the_record_of_a_run_has_files_by_name_and_not_their_lines() {
    use std::fmt::Write as _;

    let Some(lab) = Lab::new() else { return };
    let mut list = String::new();
    for number in 0..10_000 {
        writeln!(list, "n{number}.example").unwrap();
    }
    lab.write("list", &list);
    lab.write("policy.toml", POLICY);
    lab.cgfw()
        .args(["--block", "example.com", "--block-file", "list"])
        .args(["--policy", "policy.toml", "--audit-log", "audit.jsonl"])
        .child(["true"])
        .run();
    let log = lab.read("audit.jsonl");
    let start: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let rules = serde_json::json!([
        "--block example.com",
        "--policy policy.toml (3 rules)",
        "--block-file list (10000 patterns)",
    ]);
    assert_eq!(start["rules"], rules);
}

#[test]
fn nothing_runs_if_a_file_is_wrong() {
    let Some(lab) = Lab::new() else { return };
    for (option, content, says) in [
        ("--policy", "version = 2\n", "file:1:"),
        (
            "--policy",
            "version = 1\n[[rule]]\nblok = \"x.test\"\n",
            "file:3:1: ",
        ),
        ("--policy", "version = 1\n[[rule]]\nallow = []\n", "file:3:"),
        ("--block-file", "fine.test\n10.0.0.1/8\n", "file:2:1: "),
        ("--block-file", "\u{0}\u{1}\u{2}\n", "file:1:"),
        (
            "--allow-file",
            "# nothing\n",
            "file: the list is empty and would allow nothing",
        ),
    ] {
        lab.write("file", content);
        let run = lab.cgfw().args([option, "file"]).sh("touch was-run");
        run.status(125)
            .stderr_has(says)
            .stderr_lacks("panicked")
            .run();
    }
    let missing = lab
        .cgfw()
        .args(["--policy", "gone.toml"])
        .sh("touch was-run");
    missing
        .status(125)
        .stderr_has("cannot open gone.toml: No such file or directory")
        .run();
    assert!(!lab.exists("was-run"), "the command ran");
}

#[test]
fn files_are_read_as_the_user_who_names_them() {
    let Some(lab) = Lab::new() else { return };
    lab.sh("echo 'secret of root' > /etc/secret; chmod 600 /etc/secret")
        .run();
    lab.write("list", "example.com\n");
    let sudo = |options: &[&str]| {
        let cgfw = ["/mnt/bin/cgfw", "run"].iter().chain(options);
        lab.command("sudo").args(cgfw).user(&DEV)
    };
    for option in ["--policy", "--block-file"] {
        sudo(&[option, "/etc/secret"])
            .sh("touch was-run")
            .status(125)
            .stderr_has("cannot open /etc/secret: Permission denied")
            .stderr_lacks("secret of root")
            .run();
    }
    sudo(&["--block-file", "list"])
        .child(fetch("example.com"))
        .status(6)
        .run();
    // Whom the command runs as does not matter.
    lab.sh("chmod 600 list").run();
    let as_dev = lab.cgfw().args(["--user", "dev", "--block-file", "list"]);
    as_dev.child(fetch("example.com")).status(6).run();
    assert!(!lab.exists("was-run"), "the command ran");
}

/// A hundred thousand networks take their place in the kernel, and as many names theirs in the
/// proxy; the last ones hold like the first. (Of a million names see `measured`.)
#[test]
fn long_lists_are_enforced_to_their_last_line() {
    let Some(lab) = Lab::new() else { return };
    lab.sh(
        "awk 'BEGIN { for (i = 0; i < 100000; i++) printf \"0.0.0.0 host%d.sub%d.list.test\\n\", i, i % 7;
                      print \"||github.com^\" }' > names
         awk 'BEGIN { for (i = 0; i < 99999; i++) printf \"11.%d.%d.%d/26\\n\", i / 1024, i / 4 % 256, i % 4 * 64;
                      print \"203.0.113.99\" }' > networks",
    )
    .run();
    let options = ["--block-file", "names", "--block-file", "networks"];
    for (host, allowed) in [
        ("example.com", true),
        ("api.github.com", false),
        ("203.0.113.99", false),
        ("203.0.113.21", true),
    ] {
        check(&lab, &options, host, allowed);
    }
}
