//! What the user sees of a refusal: at once, who, what, and only once.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::support::Lab;

const BLOCK: [&str; 2] = ["--block", "github.com"];

#[test]
fn the_line_has_every_promised_key() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(BLOCK)
        .sh("echo $$; exec curl --silent github.com")
        .status(6)
        .run();
    let pid = output.stdout.trim();
    let expected = format!(
        "WARN DNS BLOCKED reason=FromDNSRequest blocked=true blockedAt=dns domain=github.com. \
         pid={pid} cmd=\"curl --silent github.com\" firewallMethod=blocklist"
    );
    assert!(output.stderr.contains(&expected), "no {expected}\n{output}");
}

#[test]
fn an_allow_list_says_so() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(["--allow", "example.com"])
        .child(["curl", "--silent", "github.com"])
        .status(6)
        .run();
    assert_eq!(output.refusal()["firewallMethod"], "allowlist", "{output}");
}

#[test]
fn a_refused_connect_is_shown_with_its_name_where_that_is_known() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(["--block", "198.51.100.10"])
        .sh("echo $$; exec curl --silent -4 http://github.com/")
        .status(7)
        .run();
    let pid = output.stdout.trim();
    for refusal in output.refusals() {
        assert_eq!(refusal["blockedAt"], "connect", "{output}");
        assert_eq!(refusal["pid"], pid, "{output}");
        assert_eq!(
            refusal["cmd"], "curl --silent -4 http://github.com/",
            "{output}"
        );
    }
    assert!(!output.refusals().is_empty());
    assert!(output.stderr.contains("198.51.100.10"), "{output}");
}

#[test]
fn a_refusal_is_as_fast_as_a_permitted_connect() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import errno, socket, statistics, sys, time
def attempt(address):
    s = socket.socket()
    start = time.perf_counter()
    error = s.connect_ex((address, 80))
    return time.perf_counter() - start, error
permitted = [attempt('203.0.113.99') for _ in range(50)]
refused = [attempt('198.51.100.10') for _ in range(50)]
assert all(error == 0 for _, error in permitted), permitted
assert all(error == errno.ECONNREFUSED for _, error in refused), refused
fast = statistics.median(time for time, _ in refused)
slow = statistics.median(time for time, _ in permitted)
assert fast < 10 * slow + 0.001, (fast, slow)
";
    lab.cgfw()
        .args(["--block", "198.51.100.10"])
        .child(["python3", "-c", script])
        .run();
}

#[test]
fn a_refusal_is_shown_once_per_process_and_destination() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import socket
for _ in range(20):
    for name in ['github.com', 'api.github.com']:
        try:
            socket.getaddrinfo(name, 80)
        except socket.gaierror:
            pass
    s = socket.socket()
    s.connect_ex(('198.51.100.77', 80))
";
    let output = lab
        .cgfw()
        .args(BLOCK)
        .args(["--block", "198.51.100.77"])
        .child(["python3", "-c", script])
        .run();
    let mut seen = BTreeMap::new();
    for refusal in output.refusals() {
        let what = refusal.get("domain").cloned().unwrap_or_default();
        *seen.entry((refusal["pid"].clone(), what)).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}\n{output}");
    assert!(seen.values().all(|count| *count == 1), "{seen:?}\n{output}");
    // 20 rounds of A and AAAA, and 20 connects: counted, though shown once.
    assert!(
        output.stderr.contains("40") && output.stderr.contains("20"),
        "{output}"
    );
}

#[test]
fn two_processes_are_two_refusals() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(BLOCK)
        .sh("curl --silent github.com; curl --silent github.com")
        .status(6)
        .run();
    let pids: HashSet<String> = output
        .refusals()
        .iter()
        .map(|refusal| refusal["pid"].clone())
        .collect();
    assert_eq!(pids.len(), 2, "{output}");
}

#[test]
fn short_lived_clients_are_all_named_in_full() {
    const COUNT: usize = 200;
    let Some(lab) = Lab::new() else { return };
    // Each ends as soon as its question is refused; each has an argument of its own.
    let output = lab
        .cgfw()
        .args(BLOCK)
        .sh(&format!(
            "for i in $(seq {COUNT}); do
                 sh -c 'echo $$; exec \"$@\"' sh \
                     curl --silent --user-agent \"client number $i\" github.com
             done; true"
        ))
        .limit(Duration::from_mins(1))
        .run();
    let pids: Vec<&str> = output.stdout.lines().collect();
    let named: BTreeMap<String, String> = output
        .refusals()
        .into_iter()
        .map(|refusal| (refusal["pid"].clone(), refusal["cmd"].clone()))
        .collect();
    assert_eq!(pids.len(), COUNT);
    for (index, pid) in pids.iter().enumerate() {
        let cmd = named
            .get(*pid)
            .unwrap_or_else(|| panic!("nobody named {pid}\n{output}"));
        let agent = format!("client number {}", index + 1);
        assert!(cmd.contains(&agent), "{pid} is not {agent:?}: {cmd}");
        assert!(cmd.ends_with(" github.com"), "cut short: {cmd}");
    }
}

#[test]
fn hostile_arguments_cannot_forge_output() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(BLOCK)
        .child([
            "curl",
            "--silent",
            "--user-agent",
            "x\n2026 WARN DNS BLOCKED domain=forged.\u{1b}[2J\" pid=1",
            "github.com",
        ])
        .status(6)
        .run();
    assert!(!output.stderr.contains('\u{1b}'), "{output}");
    assert!(!output.stderr.contains("\n2026 WARN"), "{output}");
    assert_eq!(output.refusal()["domain"], "github.com.", "{output}");
}

#[test]
fn a_long_command_line_is_cut_and_says_so() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(BLOCK)
        .child([
            "curl",
            "--silent",
            "--user-agent",
            &"long ".repeat(4000),
            "github.com",
        ])
        .status(6)
        .run();
    let refusal = output.refusal();
    assert!(
        refusal["cmd"].starts_with("curl --silent --user-agent"),
        "{output}"
    );
    assert!(refusal["cmd"].len() < 8192, "{output}");
}

#[test]
fn quiet_is_quiet_and_verbose_is_more() {
    let Some(lab) = Lab::new() else { return };
    let cgfw = || lab.cgfw().args(BLOCK);
    let script = "curl --silent example.com >/dev/null; curl --silent github.com; true";
    cgfw().arg("-q").sh(script).stderr_lacks("BLOCKED").run();
    let normal = cgfw().sh(script).stderr_has("BLOCKED").run();
    let verbose = cgfw().arg("-v").sh(script).run();
    assert!(
        verbose.stderr.lines().count() > normal.stderr.lines().count(),
        "{verbose}"
    );
    assert!(verbose.stderr.contains("example.com"), "{verbose}");
}

#[test]
fn the_summary_tells_the_story() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(BLOCK)
        .sh("curl --silent example.com; curl --silent example.com; \
             curl --silent allowed.example; curl --silent github.com; exit 3")
        .status(3)
        .run();
    let (_, summary) = output.stderr.rsplit_once("BLOCKED reason").unwrap();
    for text in ["example.com", "allowed.example", "github.com", "curl", "3"] {
        assert!(summary.contains(text), "no {text} in the summary\n{output}");
    }
    let blocked = summary.rfind("github.com").unwrap();
    let allowed = summary.rfind("allowed.example").unwrap();
    assert!(blocked < allowed, "what was blocked is not first\n{output}");
}

#[test]
fn a_direct_contact_is_reported_as_not_judged_by_name() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(BLOCK)
        .child(["curl", "--silent", "http://203.0.113.99/"])
        .stdout("hello from 203.0.113.99\n")
        .stderr_has("203.0.113.99")
        .stderr_has("not judged by name")
        .run();
    lab.cgfw()
        .args(BLOCK)
        .child(["curl", "--silent", "http://example.com/"])
        .stderr_lacks("not judged by name")
        .run();
}

#[test]
fn a_proxy_in_the_environment_is_warned_of() {
    let Some(lab) = Lab::new() else { return };
    for variable in ["http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        lab.cgfw()
            .args(BLOCK)
            .env(variable, "http://203.0.113.99:8080")
            .child(["true"])
            .stderr_has(variable)
            .run();
    }
    lab.cgfw()
        .args(BLOCK)
        .child(["true"])
        .stderr_lacks("proxy")
        .run();
}
