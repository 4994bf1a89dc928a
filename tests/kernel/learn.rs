//! A policy that was learned from a run permits the same run, and nothing else.

use crate::delegation::outside;
use crate::support::Lab;
use crate::support::command::{Test, User};
use crate::support::lab::DEV;

/// Clients of all kinds: names with both families, aliases, names that share an address,
/// lead to this host or do not exist, addresses, protocols without ports, and others on this
/// host that do the network.
const SCRIPT: &str = "
set -e
curl --silent http://example.com/
curl --silent -6 https://allowed.example/
curl --silent http://alias.example/
curl --silent http://203.0.113.99/
curl --silent 'http://[2001:db8:200::99]/'
curl --silent http://mail.example.com/ http://notgithub.com/
curl --silent http://github.com/ & curl --silent http://shared.example/; wait
! curl --silent http://nowhere.example/
! curl --silent --max-time 1 http://metadata.example/
! curl --silent --max-time 1 http://rebind.example/
curl --silent http://127.0.0.1:8099/
curl --silent --unix-socket /mnt/work/service.sock http://x/
dig +short MX example.com
dig +short +tcp TXT example.com
dig +short SRV _http._tcp.example.com
dig +short -x 203.0.113.20
python3 -c 'import urllib.request as u; print(u.urlopen(\"https://example.com/\").read().decode())'
python3 -c 'import socket as s
u = s.socket(s.AF_INET, s.SOCK_DGRAM); u.sendto(b\"x\", (\"203.0.113.21\", 4242))'
ping -q -c1 -W2 update.example > ping.log
rm -rf clone; git clone --quiet https://allowed.example/repository.git clone; cat clone/file
musl v6only.example 80
golang http://api.github.com/
";

fn as_user<'l>(test: Test<'l>, user: Option<&'static User>) -> Test<'l> {
    match user {
        Some(user) => test.args(["--user", user.name]),
        None => test,
    }
}

/// The policy that is learned from the log of a run.
fn learn(lab: &Lab, options: &[&str]) -> String {
    let learned = lab
        .command("cgfw")
        .args(["policy", "learn"])
        .args(options)
        .arg("audit.jsonl")
        .run();
    assert_eq!(learned.stderr, "", "{learned}");
    lab.write("learned.toml", &learned.stdout);
    lab.command("cgfw")
        .args(["policy", "check", "--fail-on-warning", "learned.toml"])
        .stdout_has(" rules, 0 warnings\n")
        .run();
    learned.stdout
}

#[track_caller]
fn check(user: Option<&'static User>, options: &[&str]) {
    let Some(lab) = Lab::new() else { return };
    lab.publish_repository();
    let _service = outside(&lab);
    let seen = as_user(lab.cgfw(), user)
        .args(["--audit", "--default", "block"])
        .args(["--audit-log", "audit.jsonl"])
        .sh(SCRIPT)
        .stdout_has("hello from api.github.com")
        .run();
    let policy = learn(&lab, options);
    let enforcing =
        || as_user(lab.cgfw(), user).args(["--policy", "learned.toml", "--fail-on-block"]);
    let again = enforcing().sh(SCRIPT).run();
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(
        sorted(&again.stdout),
        sorted(&seen.stdout),
        "{policy}\n{again}"
    );
    assert!(again.refusals().is_empty(), "{policy}\n{again}");
    let last = again.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("clean: "), "{policy}\n{again}");

    // Another name, another port, another address, and another service.
    for unseen in [
        "curl --silent --max-time 2 http://cdn.example/",
        "curl --silent --max-time 2 http://example.com:8080/",
        "curl --silent --max-time 2 http://203.0.113.98/",
        "curl --silent --max-time 2 http://203.0.113.99:8080/",
    ] {
        lab.sh(unseen).stdout_has("hello from").run();
        enforcing()
            .sh(&format!("{unseen} || true"))
            .status(120)
            .stdout("")
            .run();
    }
}

#[test]
fn a_learned_policy_permits_the_same_run_and_no_other() {
    check(None, &[]);
}

#[test]
fn so_it_does_for_an_ordinary_user() {
    check(Some(&DEV), &[]);
}

#[test]
fn so_does_a_generalised_one() {
    check(None, &["--generalise"]);
}
