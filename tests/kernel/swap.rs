//! Policies that are changed while they are in force (`--watch`).

use std::fmt;
use std::fs;
use std::io;
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
    let patterns: Vec<String> = patterns.split(' ').map(|p| format!("{p:?}")).collect();
    let patterns = patterns.join(", ");
    format!("version = 1\ndefault = {default:?}\n[[rule]]\n{action} = [{patterns}]\n")
}

fn watched(lab: &Lab) -> Test<'_> {
    lab.cgfw()
        .args(["--watch", "--policy", "policy.toml"])
        .limit(Duration::from_mins(2))
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

/// What the child tries at each step: by name, and by the addresses of those names.
const ACTS: [&str; 7] = [
    "example.com",
    "alias.example",
    "203.0.113.20",
    "203.0.113.21",
    "hosts.example",
    "198.51.100.10",
    "203.0.113.99",
];

/// The default, a rule, and which of [`ACTS`] succeed.
const STEPS: [(&str, &str, &str, &str); 9] = [
    ("allow", "block", "unrelated.example", "yyyyyyy"),
    ("allow", "block", "example.com", "nynyyyy"),
    // The address of an alias.
    ("allow", "block", "allowed.example", "ynynyyy"),
    ("allow", "block", "hosts.example", "yyyynyy"),
    // Nobody has asked for it: cgfw resolves it itself.
    ("allow", "block", "github.com", "yyyyyny"),
    // Two are known by name, the other addresses are not.
    ("block", "allow", "example.com alias.example", "yyyynnn"),
    ("block", "allow", "203.0.113.64/26 hosts.example", "nnnnyny"),
    (
        "allow",
        "block",
        "203.0.113.20/31 203.0.113.99:80",
        "nnnnyyn",
    ),
    ("allow", "block", "unrelated.example", "yyyyyyy"),
];

#[test]
fn what_was_resolved_before_is_judged_by_the_new_policy() {
    let Some(lab) = Lab::new() else { return };
    lab.write(
        "/etc/hosts",
        "127.0.0.1 localhost\n203.0.113.44 hosts.example\n",
    );
    let script = format!(
        "n=0; while [ $n -lt {} ]; do
           until [ -e step$n ]; do sleep 0.02; done
           for host in {}; do
             if curl --ipv4 --silent --max-time 3 http://$host/ | grep -q hello
             then printf y; else printf n; fi
           done
           echo; n=$((n+1))
         done",
        STEPS.len(),
        ACTS.join(" ")
    );
    let policies = STEPS.map(|(default, action, patterns, _)| policy(default, action, patterns));
    lab.write("policy.toml", &policies[0]);
    let mut running = watched(&lab).sh(&script).spawn();
    for (n, (_, _, patterns, verdicts)) in STEPS.iter().enumerate() {
        if n > 0 {
            change(&lab, &mut running, &policies[n]);
            // The background asks for its names at once, and the lab answers at once.
            thread::sleep(Duration::from_millis(300));
        }
        lab.write(&format!("step{n}"), "");
        running.wait_until("the step is done", |running| {
            running.stdout().matches('\n').count() > n
        });
        let shown = running.stdout().lines().nth(n).unwrap().to_owned();
        let stderr = running.stderr();
        assert_eq!(&shown, verdicts, "{patterns}\nof {ACTS:?}\n{stderr}");
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
    let mut running = watched(&lab).child(["python3", "-c", script]).spawn();
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

/// A child that says of an address, whenever it is asked, whether it is refused.
struct Probe<'l> {
    lab: &'l Lab,
    running: Running,
    asked: usize,
}

impl<'l> Probe<'l> {
    fn start(lab: &'l Lab) -> Self {
        lab.write("policy.toml", &policy("allow", "block", PROBED));
        let script = format!(
            "n=0; until [ -e done ]; do
               if [ -e ask$n ]; then
                 n=$((n+1))
                 if curl --silent --max-time 2 --output page http://{PROBED}/
                 then echo let through; else echo refused; fi
               fi
               sleep 0.02
             done"
        );
        let running = watched(lab).sh(&script).spawn();
        let mut probe = Self {
            lab,
            running,
            asked: 0,
        };
        probe.expect("refused");
        probe
    }

    #[track_caller]
    fn expect(&mut self, answer: &str) {
        self.lab.write(&format!("ask{}", self.asked), "");
        self.asked += 1;
        let asked = self.asked;
        let is_answered = move |running: &Running| running.stdout().matches('\n').count() == asked;
        self.running.wait_until("it is answered", is_answered);
        let (stdout, stderr) = (self.running.stdout(), self.running.stderr());
        assert_eq!(stdout.lines().last(), Some(answer), "{stderr}");
    }

    /// Change files so that something is said, and something is answered.
    #[track_caller]
    fn check(&mut self, said: &str, answer: &str, change: impl FnOnce() -> io::Result<()> + Send) {
        let client = self.lab.client();
        until_said(&mut self.running, said, || client.run(change).unwrap());
        self.expect(answer);
    }

    fn end(self) {
        self.lab.write("done", "");
        self.running.finish();
    }
}

const PROBED: &str = "203.0.113.99";

fn path(name: &str) -> String {
    format!("{WORK}/{name}")
}

#[test]
fn a_bad_file_keeps_the_policy_and_is_said_once() {
    let Some(lab) = Lab::new() else { return };
    let mut probe = Probe::start(&lab);
    for garbage in ["garbage", "more garbage"] {
        probe.check(KEPT, "refused", || fs::write(path("policy.toml"), garbage));
        let said = count(&probe.running, KEPT);
        thread::sleep(UNNOTICED);
        assert_eq!(count(&probe.running, KEPT), said);
    }
    probe.check(KEPT, "refused", || fs::remove_file(path("policy.toml")));
    // Gone, and back.
    let open = policy("allow", "block", "192.0.2.1");
    probe.check(CHANGED, "let through", || {
        fs::write(path("policy.toml"), &open)
    });
    probe.end();
}

#[test]
fn what_is_written_piece_by_piece_is_put_in_force_when_it_is_complete() {
    let Some(lab) = Lab::new() else { return };
    let mut probe = Probe::start(&lab);
    let whole = policy("allow", "block", "192.0.2.1");
    // Some of the pieces are policies, too, but nobody's.
    for end in (20..whole.len()).step_by(whole.len() / 6) {
        lab.write("policy.toml", &whole[..end]);
        thread::sleep(Duration::from_millis(250));
    }
    probe.check(CHANGED, "let through", || {
        fs::write(path("policy.toml"), &whole)
    });
    assert_eq!(count(&probe.running, CHANGED), 1);
    assert_eq!(count(&probe.running, KEPT), 0);
    probe.end();
}

#[test]
fn another_file_of_the_same_name_is_noticed() {
    let Some(lab) = Lab::new() else { return };
    let mut probe = Probe::start(&lab);
    let open = policy("allow", "block", "192.0.2.1");
    let closed = policy("allow", "block", PROBED);
    // As editors do.
    probe.check(CHANGED, "let through", || {
        fs::write(path("new.toml"), &open)?;
        fs::rename(path("new.toml"), path("policy.toml"))
    });
    probe.check(CHANGED, "refused", || {
        fs::create_dir(path("one"))?;
        fs::write(path("one/policy.toml"), &closed)?;
        symlink("one", path("data"))?;
        symlink("data/policy.toml", path("link"))?;
        fs::rename(path("link"), path("policy.toml"))
    });
    // A link on the way leads elsewhere, as in a volume of a ConfigMap.
    probe.check(CHANGED, "let through", || {
        fs::create_dir(path("two"))?;
        fs::write(path("two/policy.toml"), &open)?;
        symlink("two", path("data.new"))?;
        fs::rename(path("data.new"), path("data"))
    });
    probe.end();
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
        lab.write("list.txt", "=example.org\n");
    });
    // A policy that names a list which comes later.
    until_said(&mut running, KEPT, || {
        lab.write(
            "policy.toml",
            "version = 1\n[[rule]]\nblock_file = \"later.txt\"\n",
        );
    });
    until_said(&mut running, CHANGED, || {
        lab.write("later.txt", "example.com\n");
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

/// A script must not be able to weaken its own policy without anybody noticing.
#[test]
fn a_command_that_can_change_its_policy_is_told_of_and_not_held() {
    const SAYS: &str = "the command can change";
    let Some(lab) = Lab::new() else { return };
    let text = policy("allow", "block", "github.com");
    lab.write("policy.toml", &text);
    lab.write("/etc/policy.toml", &text);
    let run = |options: &[&str]| lab.cgfw().arg("--watch").args(options).child(["true"]);
    let out_of_reach = ["--policy", "/etc/policy.toml", "--user", "dev"];
    let in_reach = [
        ["--policy", "policy.toml", "--user", "dev"],
        ["--policy", "/etc/policy.toml", "--user", "root"],
    ];
    run(&out_of_reach).stderr_lacks(SAYS).run();
    run(&[&out_of_reach[..], &["--strict"]].concat())
        .stderr_lacks(SAYS)
        .run();
    for options in in_reach {
        run(&options).stderr_has(SAYS).run();
        run(&[&options[..], &["--strict"]].concat())
            .status(125)
            .stderr_has(SAYS)
            .stderr_has("leave --watch out")
            .run();
    }
    // By the directory alone, by a link on the way, and by being the owner.
    lab.sh("chown dev /etc/policy.toml; chmod 400 /etc/policy.toml")
        .run();
    run(&out_of_reach).stderr_has(SAYS).run();
    lab.sh("chown root /etc/policy.toml; chmod 644 /etc/policy.toml; ln -s /etc/policy.toml link")
        .run();
    run(&["--policy", "link", "--user", "dev"])
        .stderr_has(SAYS)
        .run();
    lab.sh("mkdir -m 1777 /mnt/work/sticky; cp /etc/policy.toml sticky")
        .run();
    lab.sh("chmod 755 /mnt/work").run();
    run(&["--policy", "sticky/policy.toml", "--user", "dev"])
        .stderr_lacks(SAYS)
        .run();
}
