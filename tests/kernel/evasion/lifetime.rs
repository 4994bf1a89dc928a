//! Processes that outlive the script, that leave its cgroup, or that turn on cgfw.

use std::thread;
use std::time::Duration;

use crate::support::Lab;
use crate::support::lab::DEV;

/// In a session of its own, its parent gone, deaf to what can be ignored.
const DAEMON: &str = "
import os, signal, socket, time
if os.fork():
    while not os.path.exists('up'):
        time.sleep(0.01)
    os.unlink('up')
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
for number in range(1, 64):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.monotonic() + 10
while time.monotonic() < end:
    s.sendto(b'still-alive', ('203.0.113.20', 9))
    if not os.path.exists('was-up'):
        open('was-up', 'w').close()
        open('up', 'w').close()
    time.sleep(0.01)
";

#[test]
fn a_daemon_that_outlives_the_script() {
    let python = ["python3", "-c", DAEMON];
    let cgfw = ["cgfw", "run", "--block", "github.com"];
    for (before, as_user) in [
        (&cgfw[..], false),
        (&[&cgfw[..], &["--user", "dev"]].concat(), false),
        (&[&["sudo", "/mnt/bin/cgfw"], &cgfw[1..]].concat(), true),
    ] {
        let Some(lab) = Lab::new() else { return };
        let sends_afterwards = |argv: &[&str], as_user: bool| {
            lab.sh("rm -f up was-up").run();
            let test = lab.command(argv[0]).args(&argv[1..]);
            if as_user { test.user(&DEV) } else { test }.run();
            let sniffer = lab.sniff();
            thread::sleep(Duration::from_millis(200));
            !sniffer.packets_with(b"still-alive").is_empty()
        };
        let filtered = [before, &["--"], &python[..]].concat();
        assert!(!sends_afterwards(&filtered, as_user), "{before:?}");
        lab.expect_gone_within(Duration::from_millis(500));
        assert!(sends_afterwards(&python, as_user));
        lab.cgroup().kill();
    }
}

/// As the user whose script it is.
#[test]
fn the_supervisor_is_out_of_reach() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import ctypes, os, signal, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def attempt(call):
    ctypes.set_errno(0)
    try:
        if call() == -1:
            return os.strerror(ctypes.get_errno())
    except OSError as error:
        return error.strerror
    return 'done'
cgfw = os.getppid()
own = os.getpid()
found = subprocess.run(['pgrep', '-P', str(cgfw)], stdout=subprocess.PIPE).stdout.split()
others = [int(pid) for pid in found if int(pid) != own]
assert others, 'where is the guardian?'
results = set()
for pid in [cgfw, *others]:
    for number in [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP]:
        results.add(attempt(lambda: os.kill(pid, number)))
        results.add(attempt(lambda: signal.pidfd_send_signal(os.pidfd_open(pid), number)))
    results.add(attempt(lambda: libc.ptrace(16, pid, 0, 0)))
    results.add(attempt(lambda: libc.syscall(438, os.pidfd_open(pid), 3, 0)))
    results.add(attempt(lambda: os.close(os.open(f'/proc/{pid}/mem', os.O_RDWR))))
    results.add(attempt(lambda: os.listdir(f'/proc/{pid}/fd')))
    results.add(attempt(lambda: os.sched_setaffinity(pid, [0])))
print(sorted(results), flush=True)
print('curl', subprocess.run(['curl', '--silent', 'http://github.com/']).returncode)
";
    let expected = "['Operation not permitted', 'Permission denied']\ncurl 6\n";
    lab.cgfw()
        .args(["--block", "github.com", "--user", "dev"])
        .child(["python3", "-c", script])
        .stdout(expected)
        .run();
    lab.command("sudo")
        .args(["/mnt/bin/cgfw", "run", "--block", "github.com"])
        .user(&DEV)
        .child(["python3", "-c", script])
        .stdout(expected)
        .run();
    // These are the processes to attack: root ends the run, and what it started with it.
    let sniffer = lab.sniff();
    let kill = "kill -KILL $PPID; sleep 5; curl --silent http://198.51.100.10/";
    lab.cgfw()
        .args(["--block", "198.51.100.10"])
        .sh(kill)
        .signal(nix::sys::signal::Signal::SIGKILL)
        .run();
    lab.expect_gone_within(Duration::from_secs(1));
    assert!(sniffer.packets_to([198, 51, 100, 10]).is_empty());
}

/// Every way into the delegated cgroup DIR, what is below and what is above it.
const MOVES: &str = "
import ctypes, os, socket, struct, sys, threading
DIR = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
def own():
    return next(l for l in open('/proc/thread-self/cgroup') if l.startswith('0::')).strip()
start = own()
def send():
    if own() != start:
        print('moved', flush=True)
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.sendto(b'from-another-cgroup', ('203.0.113.99', 9))
def write(file):
    try:
        with open(file, 'w') as procs:
            procs.write('0')
    except OSError as error:
        print(error.strerror, flush=True)
    send()
def child(act):
    if os.fork() == 0:
        act()
        os._exit(0)
    os.wait()
outside = [DIR, DIR + '/inner', DIR + '/other', os.path.dirname(DIR)]
for target in outside:
    child(lambda: write(target + '/cgroup.procs'))
    child(lambda: write(target + '/cgroup.threads'))
    thread = threading.Thread(target=write, args=[target + '/cgroup.threads'])
    thread.start()
    thread.join()
    flags = 0x200000000
    args = struct.pack('=11Q', flags, 0, 0, 0, 17, 0, 0, 0, 0, 0, os.open(target, os.O_RDONLY))
    pid = libc.syscall(435, args, len(args))
    if pid == 0:
        send()
        os._exit(0)
    if pid < 0:
        print(os.strerror(ctypes.get_errno()), flush=True)
    else:
        os.waitpid(pid, 0)
try:
    os.mkdir('/sys/fs/cgroup/unified' + start[3:] + '/below')
    print('made', flush=True)
except OSError as error:
    print(error.strerror, flush=True)
";

/// cgfw is started in a cgroup that was delegated to the user, as systemd does for
/// sessions, and the script tries to go back there.
#[test]
fn moves_between_cgroups() {
    let Some(lab) = Lab::new() else { return };
    let delegated = lab.cgroup().path().join("delegated");
    let dir = delegated.display();
    lab.sh(&format!(
        "mkdir -p {dir}/inner {dir}/other && chown -R dev {dir}"
    ))
    .run();
    lab.write("moves.py", MOVES);
    let enter = format!("echo $$ > {dir}/inner/cgroup.procs");
    let sniffer = lab.sniff();
    let bare = lab
        .sh(&format!(
            "{enter}; exec setpriv --reuid dev --regid dev --init-groups python3 moves.py {dir}"
        ))
        .stdout_has("moved")
        .stdout_has("made")
        .run();
    let out = sniffer.packets_with(b"from-another-cgroup").len();
    assert!(out >= 4, "{out} moves without cgfw\n{bare}");
    let sniffer = lab.sniff();
    let output = lab
        .sh(&format!(
            "{enter}; exec cgfw run --block 203.0.113.99 --user dev -- python3 moves.py {dir}"
        ))
        .run();
    assert!(!output.stdout.contains("moved"), "{output}");
    assert!(output.stdout.contains("Permission denied"), "{output}");
    assert!(!output.stdout.contains("made"), "{output}");
    assert!(sniffer.packets_with(b"from-another-cgroup").is_empty());
    // The guardian, which was started there too, may take a moment to end.
    lab.sh(&format!(
        "for _ in $(seq 100); do
             rmdir {dir}/inner/below {dir}/inner {dir}/other {dir} 2>/dev/null
             [ -d {dir} ] || exit 0
             sleep 0.02
         done
         exit 1"
    ))
    .run();
}
