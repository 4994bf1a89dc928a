//! Policies that are changed while they are in force (`--watch`).

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use crate::load::{ALLOWED, BLOCKED, CLOSED};
use crate::support::Lab;
use crate::support::command::{Running, Test};
use crate::support::lab::WORK;

const CHANGED: &str = "the policy has changed";
const KEPT: &str = "the former one stays in force";
/// More than it takes until a change of a file is noticed and not acted on: two looks.
const UNNOTICED: Duration = Duration::from_millis(1600);

/// How often a policy is replaced below a child that acts without pause.
const SWAPS: usize = 24;

/// A policy file that blocks, or allows, what is in `patterns`.
fn policy(default: &str, action: &str, patterns: &str) -> String {
    let rules = match patterns {
        "" => String::new(),
        _ => {
            let patterns: Vec<String> = patterns.split(' ').map(|p| format!("{p:?}")).collect();
            format!("[[rule]]\n{action} = [{}]\n", patterns.join(", "))
        }
    };
    format!("version = 1\ndefault = \"{default}\"\n{rules}")
}

fn watched(lab: &Lab) -> Test<'_> {
    lab.cgfw()
        .args(["--watch", "--policy", "policy.toml"])
        .limit(Duration::from_secs(120))
}

fn count(running: &Running, what: &str) -> usize {
    running.stderr().matches(what).count()
}

/// Have `act` change files, and wait until cgfw has said so, `what` once more than before.
#[track_caller]
fn until_said(running: &mut Running, what: &str, act: impl FnOnce()) {
    let before = count(running, what);
    act();
    running.wait_until(what, |running| count(running, what) == before + 1);
}

#[track_caller]
fn change(lab: &Lab, running: &mut Running, policy: impl fmt::Display) {
    until_said(running, CHANGED, || {
        lab.write("policy.toml", &policy.to_string());
    });
}

/// Both policies let the one through and refuse the other, each for another reason: one mix of
/// the two in a verdict would be a wrong one.
#[test]
fn no_verdict_is_made_of_two_policies() {
    let Some(lab) = Lab::new() else { return };
    let policies = [
        policy("block", "allow", &format!("{ALLOWED} github.com")),
        policy("allow", "block", "198.51.100.0/24"),
        policy("block", "allow", "203.0.113.64/26:12345"),
        policy("allow", "block", &format!("{BLOCKED} example.com")),
    ];
    let connects = format!("connects 0.2 4 {ALLOWED} {CLOSED} {BLOCKED} {CLOSED}");
    lab.write("policy.toml", &policies[0]);
    let sniffer = lab.sniff_to(BLOCKED);
    let mut running = watched(&lab)
        .args(["--audit-log", "audit.jsonl"])
        .sh(&format!("until [ -e done ]; do {connects}; done"))
        .spawn();
    running.wait_for_stdout("\n");
    for n in 1..=SWAPS {
        change(&lab, &mut running, &policies[n % policies.len()]);
    }
    lab.write("done", "");
    let run = running.finish();
    let mut total = 0;
    for line in run.stdout.lines() {
        let numbers: Vec<u64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        let [allowed, blocked, wrong, unanswered] = numbers[..] else {
            panic!("{line}");
        };
        assert_eq!((wrong, unanswered), (0, 0), "{run}");
        total += allowed + blocked;
    }
    assert_eq!(sniffer.packets_to(BLOCKED).len(), 0);
    println!("{total} connects and {SWAPS} policies without a wrong verdict");
    let log = lab.read("audit.jsonl");
    let changes = log
        .lines()
        .filter(|line| line.contains("\"event\":\"policy\""));
    assert_eq!(changes.count(), SWAPS);
    // Nobody was there to catch it if it had left.
    lab.sh(&connects).run();
    assert!(!sniffer.packets_to(BLOCKED).is_empty());
}

/// What the child does at each step, and whether it succeeds.
#[test]
fn what_was_resolved_before_is_judged_by_the_new_policy() {
    let Some(lab) = Lab::new() else { return };
    lab.write(
        "/etc/hosts",
        "127.0.0.1 localhost\n203.0.113.44 hosts.example\n",
    );
    // By name, and by the address that the name had at the first step.
    let acts = [
        "http://example.com/",
        "http://alias.example/",
        "http://203.0.113.20/",
        "http://203.0.113.21/",
        "http://hosts.example/",
        "http://198.51.100.10/",
        "http://203.0.113.99/",
    ];
    let steps = [
        (policy("allow", "block", "unrelated.example"), "yyyyyyy"),
        (policy("allow", "block", "example.com"), "nynyyyy"),
        // The address of an alias.
        (policy("allow", "block", "allowed.example"), "ynynyyy"),
        (policy("allow", "block", "hosts.example"), "yyyynyy"),
        // Nobody has asked for it: cgfw resolves it itself.
        (policy("allow", "block", "github.com"), "yyyyyny"),
        // Both are known by name, the other addresses are not.
        (
            policy("block", "allow", "example.com alias.example"),
            "yyyynnn",
        ),
        (
            policy("block", "allow", "203.0.113.64/26 hosts.example"),
            "nnnnyny",
        ),
        (
            policy("allow", "block", "203.0.113.20/31 203.0.113.99:80"),
            "nnnnyyn",
        ),
        (policy("allow", "block", "unrelated.example"), "yyyyyyy"),
    ];
    let script = format!(
        "n=0; while [ $n -lt {} ]; do
           until [ -e step$n ]; do sleep 0.02; done
           for url in {}; do
             if curl --ipv4 --silent --max-time 3 $url | grep -q hello; then printf y; else printf n; fi
           done
           echo; n=$((n+1))
         done",
        steps.len(),
        acts.join(" ")
    );
    lab.write("policy.toml", &steps[0].0);
    let mut running = watched(&lab).sh(&script).spawn();
    for (n, (policy, verdicts)) in steps.iter().enumerate() {
        if n > 0 {
            change(&lab, &mut running, policy);
            // The background asks for its names at once, and the lab answers at once.
            thread::sleep(Duration::from_millis(300));
        }
        lab.write(&format!("step{n}"), "");
        running.wait_until("the step is done", |running| {
            running.stdout().matches('\n').count() > n
        });
        let shown = running.stdout().lines().nth(n).unwrap().to_owned();
        assert_eq!(
            &shown,
            verdicts,
            "{policy}\nof {acts:?}\n{}",
            running.stderr()
        );
    }
    running.finish();
}

#[test]
fn an_open_connection_goes_on_under_a_policy_that_allows_its_name_and_under_no_other() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import os, socket, time
request = b'GET / HTTP/1.1\\r\\nHost: example.com\\r\\n\\r\\n'
connections = [socket.create_connection(('example.com', 80), 5) for _ in range(3)]
for connection in connections:
    connection.settimeout(2)
    connection.sendall(request[:9])
for n, connection in enumerate(connections):
    while not os.path.exists('step%d' % n):
        time.sleep(0.02)
    connection.sendall(request[9:])
    try:
        print('answer' if connection.recv(4096) else 'end', flush=True)
    except TimeoutError:
        print('silence', flush=True)
";
    lab.write(
        "policy.toml",
        &policy("block", "allow", "example.com github.com"),
    );
    let mut running = watched(&lab).child(["python3", "-c", &script]).spawn();
    lab.write("step0", "");
    running.wait_for_stdout("answer\n");
    change(&lab, &mut running, policy("block", "allow", "*.com"));
    lab.write("step1", "");
    running.wait_for_stdout("answer\nanswer\n");
    change(&lab, &mut running, policy("allow", "block", "example.com"));
    lab.write("step2", "");
    let output = running.finish();
    assert_eq!(output.stdout, "answer\nanswer\nsilence\n");
}

#[test]
fn what_stands_for_a_blocked_name_stays_blocked() {
    let Some(lab) = Lab::new() else { return };
    lab.write("policy.toml", &policy("allow", "block", "github.com"));
    let mut running = watched(&lab)
        .args(["--on-block", "refuse"])
        .sh("getent ahostsv4 github.com | head -1
             until [ -e go ]; do sleep 0.02; done
             curl --silent --show-error --max-time 3 http://198.18.0.1/ 2>&1
             curl --silent http://github.com/")
        .spawn();
    running.wait_for_stdout("198.18.0.1");
    change(&lab, &mut running, policy("allow", "block", "example.com"));
    lab.write("go", "");
    let output = running.finish();
    assert!(
        output.stdout.contains("(7)") || output.stdout.contains("refused"),
        "{output}"
    );
    assert!(output.stdout.contains("hello from github.com"), "{output}");
}

#[test]
fn a_bad_file_keeps_the_policy_and_is_said_once() {
    let Some(lab) = Lab::new() else { return };
    let path = |name: &str| format!("{WORK}/{name}");
    let good = policy("allow", "block", "203.0.113.99");
    lab.write("policy.toml", &good);
    let probe = "if curl --silent --max-time 2 http://203.0.113.99/; then :; else echo refused; fi";
    let mut running = watched(&lab)
        .sh(&format!(
            "n=0; until [ -e done ]; do
               if [ -e step$n ]; then {probe}; n=$((n+1)); fi; sleep 0.02
             done"
        ))
        .spawn();
    let mut steps = 0;
    let mut expect = |lab: &Lab, running: &mut Running, refused: bool| {
        lab.write(&format!("step{steps}"), "");
        steps += 1;
        let lines = |running: &Running| {
            let text = running.stdout();
            text.matches("refused").count() + text.matches("hello").count()
        };
        running.wait_until("the step is done", |running| lines(running) == steps);
        let last = running
            .stdout()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned();
        assert_eq!(
            last == "refused",
            refused,
            "step {steps}: {last}\n{}",
            running.stderr()
        );
    };
    expect(&lab, &mut running, true);

    // Garbage, twice as long as cgfw takes to notice, then other garbage.
    for garbage in ["garbage", "more garbage"] {
        until_said(&mut running, KEPT, || lab.write("policy.toml", garbage));
        let said = count(&running, KEPT);
        thread::sleep(UNNOTICED);
        assert_eq!(count(&running, KEPT), said, "{}", running.stderr());
        expect(&lab, &mut running, true);
    }

    // Gone, and back with the same content.
    until_said(&mut running, KEPT, || {
        lab.client()
            .run(|| fs::remove_file(path("policy.toml")))
            .unwrap();
    });
    expect(&lab, &mut running, true);
    change(&lab, &mut running, &good);
    expect(&lab, &mut running, true);

    // Another one renamed over it, as editors do.
    until_said(&mut running, CHANGED, || {
        lab.write("new.toml", &policy("allow", "block", "192.0.2.1"));
        let rename = || fs::rename(path("new.toml"), path("policy.toml"));
        lab.client().run(rename).unwrap();
    });
    expect(&lab, &mut running, false);

    // Written piece by piece: what is there in between is a policy, too, but nobody's.
    let changes = count(&running, CHANGED);
    let whole = policy("allow", "block", "192.0.2.1 203.0.113.99");
    for end in (20..whole.len())
        .step_by(whole.len() / 6)
        .chain([whole.len()])
    {
        lab.write("policy.toml", &whole[..end]);
        thread::sleep(Duration::from_millis(250));
    }
    let kept = count(&running, KEPT);
    running.wait_until(CHANGED, |running| count(running, CHANGED) == changes + 1);
    assert_eq!(count(&running, KEPT), kept);
    expect(&lab, &mut running, true);

    // A symbolic link on the way leads elsewhere, as in a volume of a ConfigMap.
    until_said(&mut running, CHANGED, || {
        let swap = || {
            fs::create_dir(path("one"))?;
            fs::write(
                path("one/policy.toml"),
                policy("allow", "block", "192.0.2.2"),
            )?;
            symlink("one", path("data"))?;
            symlink("data/policy.toml", path("link"))?;
            fs::rename(path("link"), path("policy.toml"))
        };
        lab.client().run(swap).unwrap();
    });
    expect(&lab, &mut running, false);
    until_said(&mut running, CHANGED, || {
        let swap = || {
            fs::create_dir(path("two"))?;
            fs::write(
                path("two/policy.toml"),
                policy("allow", "block", "203.0.113.99"),
            )?;
            symlink("two", path("data.new"))?;
            fs::rename(path("data.new"), path("data"))
        };
        lab.client().run(swap).unwrap();
    });
    expect(&lab, &mut running, true);
    lab.write("done", "");
    running.finish();
}

#[test]
fn lists_that_a_policy_names_are_watched_too_and_as_they_appear() {
    let Some(lab) = Lab::new() else { return };
    lab.write("list.txt", "github.com\n");
    lab.write(
        "policy.toml",
        "version = 1\n[[rule]]\nblock_file = \"list.txt\"\n",
    );
    let mut running = watched(&lab)
        .sh("echo here; until [ -e go ]; do sleep 0.02; done
             curl --silent http://example.com/ || echo no")
        .spawn();
    running.wait_for_stdout("here\n");
    until_said(&mut running, CHANGED, || {
        lab.write("list.txt", "=example.org\n")
    });
    // A policy that names a list which comes later.
    until_said(&mut running, KEPT, || {
        lab.write(
            "policy.toml",
            "version = 1\n[[rule]]\nblock_file = \"later.txt\"\n",
        );
    });
    until_said(&mut running, CHANGED, || {
        lab.write("later.txt", "example.com\n")
    });
    lab.write("go", "");
    assert_eq!(running.finish().stdout, "here\nno\n");
}

#[test]
fn what_cannot_be_read_again_cannot_be_watched() {
    let Some(lab) = Lab::new() else { return };
    lab.write("policy.toml", "version = 1\n");
    lab.sh("cgfw run --watch --policy /dev/fd/3 -- echo ran 3<policy.toml")
        .stdout("ran\n")
        .run();
    lab.sh("cat policy.toml | cgfw run --watch --policy /dev/fd/3 -- echo ran 3<&0")
        .status(125)
        .stdout("")
        .stderr_has("--watch has to read /dev/fd/3 again")
        .run();
}
