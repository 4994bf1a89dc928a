//! `cgfw why`: no root, no network.

use std::fs;
use std::path::PathBuf;

use crate::command::Test;
use crate::{NOBODY, cgfw, readable_by_all};

fn why(args: &[&str]) -> Test<'static> {
    cgfw().arg("why").args(args)
}

/// A file of this test, gone with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("{name}.{}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

#[test]
fn the_verdict_comes_first_with_the_rule_that_decides() {
    why(&["--block", "github.com", "https://github.com/org"])
        .status(1)
        .stdout("github.com:443/tcp: blocked by --block github.com\n")
        .run();
    why(&[
        "--block",
        "github.com",
        "--allow",
        "api.github.com",
        "api.github.com",
    ])
    .stdout(
        "api.github.com: allowed by --allow api.github.com\n    \
             --block github.com: shadowed by --allow api.github.com, a longer match\n",
    )
    .run();
    why(&[
        "--block",
        "github.com",
        "--allow",
        "github.com",
        "GitHub.com.",
    ])
    .status(1)
    .stdout(
        "github.com: blocked by --block github.com\n    \
             --allow github.com: loses the tie with --block github.com: block wins\n",
    )
    .run();
}

#[test]
fn the_default_says_where_it_comes_from() {
    for (args, verdict, why_so) in [
        (
            &["--block", "github.com"][..],
            0,
            "--default allow is implied",
        ),
        (&["--allow", "github.com"], 1, "--default block is implied"),
        (&["--default", "block"], 1, "--default block is given"),
        (
            &["--allow", "github.com", "--default", "allow"],
            0,
            "--default allow is given",
        ),
    ] {
        why(args)
            .arg("example.com")
            .status(verdict)
            .stdout_has(why_so)
            .run();
    }
    why(&["--allow", "github.com", "203.0.113.9"])
        .status(1)
        .stdout_has("blocked by --direct-ip block")
        .run();
    why(&["--allow", "github.com", "127.0.0.1:8080"])
        .stdout("127.0.0.1:8080/tcp: allowed as an address of this host\n")
        .run();
}

#[test]
fn ports_that_differ_are_listed() {
    why(&["--allow", "example.com:443/tcp", "example.com"])
        .stdout(
            "example.com: allowed on some ports by --allow example.com:443/tcp\n    \
             allowed: 443/tcp\n    \
             blocked: 1-442/tcp, 444-65535/tcp, all/udp, other protocols\n",
        )
        .run();
    why(&["--allow", "example.com:443/tcp", "example.com:443"])
        .stdout(
            "example.com:443/tcp: allowed by --allow example.com:443/tcp\n    \
             443/udp: blocked\n",
        )
        .run();
    why(&["--allow", "example.com:443/tcp", "example.com:80"])
        .status(1)
        .stdout_has("no rule speaks of this port")
        .stdout_has("--allow example.com:443/tcp: speaks of other ports")
        .run();
}

#[test]
fn lists_are_cited_by_file_and_line() {
    let list = File::new("list", "# ads\n\ngithub.com\n");
    let cited = format!("github.com: blocked by {}:3: github.com\n", list.path());
    why(&["--block-file", list.path(), "github.com"])
        .status(1)
        .stdout(cited)
        .run();
    // Here stdin is nobody else's.
    why(&["--block-file", "-", "github.com"])
        .stdin("example.com\ngithub.com\n")
        .status(1)
        .stdout_has(":2: github.com")
        .run();
}

#[test]
fn json_is_one_object_for_each_destination() {
    let output = why(&["--format", "json", "--block", "github.com"])
        .args(["https://github.com/", "192.0.2.1:53/udp"])
        .status(1)
        .run();
    let lines: Vec<serde_json::Value> = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{output}");
    for (line, field, value) in [
        (0, "schema", serde_json::Value::from(1)),
        (0, "destination", "https://github.com/".into()),
        (0, "verdict", "blocked".into()),
        (0, "qname", "github.com".into()),
        (0, "dst_port", 443.into()),
        (0, "proto", "tcp".into()),
        (0, "rule", "--block github.com".into()),
        (0, "reason", "rule".into()),
        (1, "verdict", "allowed".into()),
        (1, "dst_ip", "192.0.2.1".into()),
        (1, "proto", "udp".into()),
        (1, "reason", "direct_ip".into()),
    ] {
        let line: &serde_json::Value = &lines[line];
        assert_eq!(line[field], value, "{field}\n{output}");
    }
    assert_eq!(lines[0]["candidates"][0]["outcome"], "decides", "{output}");
}

#[test]
fn one_blocked_destination_of_many_is_enough() {
    let many = ["example.com", "github.com", "example.org"];
    let output = why(&["--block", "github.com"]).args(many).status(1).run();
    let verdicts: Vec<&str> = output
        .stdout
        .lines()
        .filter(|line| !line.starts_with(' '))
        .collect();
    assert_eq!(verdicts.len(), 3, "{output}");
    why(&["--block", "github.com"])
        .args(["example.com", "example.org"])
        .run();
}

#[test]
fn a_bad_destination_is_named_before_anything_is_said() {
    for destination in [
        "10.0.0.0/8",
        "exa mple.com",
        "github.com:99999",
        "github.com/org",
        "2001:db8::1::2",
        "https://",
        "192.0.2.400",
    ] {
        why(&["--block", "github.com", "example.com", destination])
            .status(125)
            .stdout("")
            .stderr_has(destination)
            .run();
    }
    why(&["--block", "github.com"])
        .status(125)
        .stderr_has("DESTINATION")
        .run();
    why(&["--block-file", "/no/such/list", "github.com"])
        .status(125)
        .stdout("")
        .stderr_has("/no/such/list")
        .run();
}

#[test]
fn nothing_in_an_answer_reaches_the_terminal_raw() {
    let list = File::new("list\u{1b}[2J", "github.com\n");
    let output = why(&["--block-file", list.path(), "github.com"])
        .status(1)
        .run();
    assert!(!output.stdout.contains('\u{1b}'), "{output}");
    why(&["--color", "always", "--block", "github.com", "github.com"])
        .status(1)
        .stdout_has("\u{1b}[31mblocked\u{1b}[0m")
        .run();
}

#[test]
fn no_rights_are_needed() {
    let mut test = why(&["--block", "github.com", "github.com"]);
    let binary = env!("CARGO_BIN_EXE_cgfw");
    if nix::unistd::geteuid().is_root() {
        if !readable_by_all(binary.as_ref()) {
            println!("SKIP no_rights_are_needed: {binary} is not executable by others");
            return;
        }
        test = test.user(&NOBODY);
    }
    test.status(1).run();
}
