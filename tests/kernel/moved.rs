/*!
Processes that are taken out of the cgroup while the run goes on: seen, moved back,
reported. What they do in between is not filtered, and a run with them is not clean.
*/

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::Lab;
use crate::support::command::{Output, Running, Test};
use crate::support::lab::WORK;

/// Another cgroup, with somebody who moves processes there: a stand-in for logind and
/// systemd, which are asked by pam_systemd, systemd-run and podman.
struct Logind {
    /// Ends before the cgroup does.
    running: Option<Running>,
    cgroup: PathBuf,
}

impl Logind {
    fn start(lab: &Lab) -> Self {
        let cgroup = lab.cgroup().path().join("user.slice");
        fs::create_dir(&cgroup).unwrap();
        let serve = "mkfifo ask answer && chmod 666 ask answer && echo ready && \
                     while read pid < ask; do echo $pid > $OUT; echo done > answer; done";
        let out = cgroup.join("cgroup.procs");
        let mut running = lab.sh(serve).env("OUT", &out).any_status().spawn();
        running.wait_for_stdout("ready");
        lab.script(
            "move",
            &format!("#!/bin/sh\necho $1 > {WORK}/ask && read done < {WORK}/answer\n"),
        );
        Self {
            running: Some(running),
            cgroup,
        }
    }

    /// A run that may reach nothing but names nobody asks for. Its script finds in `$OUT`
    /// where to write pids.
    fn cgfw<'lab>(&self, lab: &'lab Lab) -> Test<'lab> {
        lab.cgfw()
            .args(["--default", "block"])
            .env("OUT", self.cgroup.join("cgroup.procs"))
    }

    fn processes(&self) -> String {
        fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap()
    }
}

impl Drop for Logind {
    fn drop(&mut self) {
        drop(self.running.take());
        // Fails if somebody is still there, which the lab tells in more words.
        fs::remove_dir(&self.cgroup).ok();
    }
}

/// Where it is, and a packet to an address that is not allowed.
const MARKER: &str = r#"python3 -c "
import socket
print(open('/proc/self/cgroup').read().split('0::')[1].strip(), flush=True)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'was-moved', ('203.0.113.20', 9))
""#;

/// Run `script`, which leaves the cgroup and a moment later executes `$MARKER`, behind cgfw:
/// by then it is inside again. Bare, what it sends arrives.
#[track_caller]
fn check(lab: &Lab, logind: &Logind, script: &str, moved: &str) -> Output {
    let sent = |test: Test<'_>| {
        let sniffer = lab.sniff();
        let output = test.env("MARKER", MARKER).any_status().run();
        let arrived = !sniffer.packets_with(b"was-moved").is_empty();
        (output, arrived)
    };
    let out = logind.cgroup.join("cgroup.procs");
    let (bare, arrived) = sent(lab.sh(script).env("OUT", &out));
    assert!(arrived, "{bare}");
    assert!(bare.stdout.contains("/user.slice\n"), "{bare}");

    let (output, arrived) = sent(logind.cgfw(lab).sh(script));
    assert!(!arrived, "{output}");
    let place = output.stdout.lines().last().unwrap_or_default();
    assert!(place.contains("/cgfw-"), "{output}");
    assert!(!place.contains("user.slice"), "{output}");
    let told = output
        .stderr
        .lines()
        .find(|line| line.starts_with("WARN MOVED BACK "));
    let told = told.unwrap_or_else(|| panic!("no word of a move\n{output}"));
    assert!(told.contains(moved), "{told}\n{output}");
    assert!(told.contains("/user.slice\""), "{told}\n{output}");
    assert!(
        output.stderr.contains("moved out of the cgroup ("),
        "{output}"
    );
    assert!(output.stderr.contains("\nnot clean: "), "{output}");
    assert_eq!(logind.processes(), "", "{output}");
    output
}

#[test]
fn root_that_moves_itself() {
    let Some(lab) = Lab::new() else { return };
    let logind = Logind::start(&lab);
    let output = check(
        &lab,
        &logind,
        r#"echo $$ > $OUT && sleep 0.5 && eval "$MARKER""#,
        "cmd=\"sh -c",
    );
    assert!(
        output
            .stderr
            .contains("1 process was moved out of the cgroup"),
        "{output}"
    );
}

/// PAM with a module that has the session moved, as pam_systemd has logind do.
fn furnish_pam(lab: &Lab) {
    let session =
        format!("#!/bin/sh\n[ $PAM_TYPE = open_session ] || exit 0\nexec {WORK}/move $PPID\n");
    lab.script("session", &session);
    let stack = format!(
        "auth sufficient pam_permit.so\naccount required pam_permit.so\n\
         session required pam_exec.so {WORK}/session\n"
    );
    for service in ["su", "sudo"] {
        lab.write(&format!("/etc/pam.d/{service}"), &stack);
    }
}

#[test]
fn su_and_sudo_with_a_session_of_their_own() {
    let Some(lab) = Lab::new() else { return };
    furnish_pam(&lab);
    let logind = Logind::start(&lab);
    lab.script("act", &format!("#!/bin/sh\nsleep 0.5\n{MARKER}\n"));
    check(&lab, &logind, "su dev -c ./act", "cmd=\"su dev -c ./act\"");
    check(
        &lab,
        &logind,
        "sudo -u dev ./act",
        "cmd=\"sudo -u dev ./act\"",
    );
}

/// As conmon behind rootless podman: a daemon, moved once its parents are gone; or moved
/// before, by a parent that is gone when cgfw hears of it.
#[test]
fn a_daemon_that_is_moved() {
    let Some(lab) = Lab::new() else { return };
    let logind = Logind::start(&lab);
    for who in ["daemon", "parent"] {
        let script = format!(
            "cat > conmon <<'EOF'
import os, subprocess, sys, time
move = lambda: subprocess.run(['{WORK}/move', str(os.getpid())], check=True)
if os.fork():
    os._exit(0)
os.setsid()
'{who}' == 'parent' and move()
if os.fork():
    os._exit(0)
while os.getppid() == os.getsid(0):
    time.sleep(0.001)
'{who}' == 'daemon' and move()
time.sleep(0.5)
subprocess.run(os.environ['MARKER'], shell=True)
open('done', 'w')
EOF
rm -f done; python3 conmon; while [ ! -e done ]; do sleep 0.01; done"
        );
        // A parent that has ended by the time it is looked at has no command line any more.
        check(&lab, &logind, &script, "python3");
    }
}

/// As crun and runc make a container: nobody is moved, it is born elsewhere.
#[test]
fn root_that_is_born_elsewhere() {
    let Some(lab) = Lab::new() else { return };
    let logind = Logind::start(&lab);
    let script = "exec python3 -c \"
import ctypes, os, struct, subprocess, time
CLONE3, CLONE_INTO_CGROUP, SIGCHLD = 435, 1 << 33, 17
cgroup = os.open(os.path.dirname(os.environ['OUT']), os.O_RDONLY)
args = struct.pack('=11Q', CLONE_INTO_CGROUP, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, cgroup)
pid = ctypes.CDLL(None).syscall(CLONE3, args, len(args))
assert pid >= 0
if pid:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
time.sleep(0.5)
subprocess.run(os.environ['MARKER'], shell=True)
\"";
    check(&lab, &logind, script, "python3 -c");
}

/// Moves faster than they are heard of, each with a child that is born outside.
#[test]
fn many_moves() {
    let Some(lab) = Lab::new() else { return };
    let logind = Logind::start(&lab);
    let script = "python3 -c \"
import os, time
moves = 0
end = time.monotonic() + 1
while time.monotonic() < end:
    with open(os.environ['OUT'], 'w') as out:
        out.write(str(os.getpid()))
    moves += 1
    if moves % 20 == 0 and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
time.sleep(1)
print(moves, 'moves;', open(os.environ['OUT']).read().split(), 'outside')
\"";
    let output = logind.cgfw(&lab).sh(script).run();
    let (moves, rest) = output.stdout.split_once(' ').unwrap();
    assert!(moves.parse::<u32>().unwrap() > 100, "{output}");
    assert_eq!(rest, "moves; [] outside\n", "{output}");
    assert!(output.stderr.contains("WARN MOVED BACK "), "{output}");
    assert!(output.stderr.contains("\nnot clean: "), "{output}");
    assert_eq!(logind.processes(), "");
}

/// A cgroup of its own below that of the run is no way out, and nobody else's business.
#[test]
fn a_cgroup_below_is_inside() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(["--block", "github.com"])
        .sh(
            "own=$(findmnt -nt cgroup2 -o TARGET | head -1)$(sed -n s/^0:://p /proc/self/cgroup)
             mkdir $own/a && echo $$ > $own/a/cgroup.procs && sleep 0.2
             sed -n s/^0:://p /proc/self/cgroup",
        )
        .run();
    assert!(output.stdout.ends_with("/a\n"), "{output}");
    assert!(!output.stderr.contains("MOVED"), "{output}");
}

/// Processes of others are moved as their owners like.
#[test]
fn who_is_not_of_the_run_is_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let logind = Logind::start(&lab);
    let mut run = logind.cgfw(&lab).sh("echo ready; sleep 1").spawn();
    run.wait_for_stdout("ready");
    let other = lab
        .sh("echo $$ > $OUT && sleep 0.3 && sed -n s/^0:://p /proc/self/cgroup")
        .env("OUT", logind.cgroup.join("cgroup.procs"))
        .run();
    assert!(other.stdout.ends_with("/user.slice\n"), "{other}");
    let output = run.finish();
    assert!(!output.stderr.contains("MOVED"), "{output}");
}

#[test]
fn processes_that_are_let_go_are_not_taken_back() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(["--block", "github.com", "--survivors", "release"])
        .sh("(sleep 0.5; sed -n s/^0:://p /proc/self/cgroup > where; exec sleep 60) > /dev/null 2>&1 &")
        .run();
    assert!(!output.stderr.contains("moved out"), "{output}");
    assert!(!output.stderr.contains("MOVED"), "{output}");
    std::thread::sleep(Duration::from_millis(700));
    assert!(
        !lab.read("where").contains("/cgfw-"),
        "{}",
        lab.read("where")
    );
    lab.cgroup().kill();
}
