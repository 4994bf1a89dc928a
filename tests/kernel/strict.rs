//! `--strict`: what leads out of the default mode, for root, leads nowhere. Each way is shown
//! to work without it.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::Lab;
use crate::support::command::{Output, Test};
use crate::support::lab::skip;
use crate::support::terminal::Terminal;

const STRICT: [&str; 3] = ["--block", "203.0.113.99", "--strict"];
const AS_DEV: [&str; 5] = ["--block", "203.0.113.99", "--strict", "--user", "dev"];
const DEFAULT: [&str; 2] = ["--block", "203.0.113.99"];

/// What a packet that got out contains.
const MARK: &[u8] = b"out-of-the-filter";

const PRELUDE: &str = "
import array, ctypes, errno, fcntl, os, signal, socket, struct, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def send(s=None):
    'Reach for a blocked address.'
    try:
        (s or socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).sendto(
            b'out-of-the-filter', ('203.0.113.99', 9))
    except OSError as error:
        print('send:', error)
def call(*arguments):
    'A system call: its result, or the name of its errno.'
    result = libc.syscall(*[a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments])
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]
def name(act):
    'worked, or the name of an errno'
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'worked'
";

fn python<'lab>(test: Test<'lab>, script: &str) -> Test<'lab> {
    test.child(["python3", "-c", &format!("{PRELUDE}\n{script}")])
}

fn bare<'lab>(lab: &'lab Lab, script: &str) -> Test<'lab> {
    lab.command("python3")
        .args(["-c", &format!("{PRELUDE}\n{script}")])
}

/// A way on which a packet gets out in the default mode, as root, and with `--strict` none
/// does. A process that leaves by default may be moved back before it can send; then it is
/// reported. Returns what the script printed with `--strict`, as root.
#[track_caller]
fn check_sent(lab: &Lab, script: &str) -> Output {
    let sent = |options: &[&str]| {
        let sniffer = lab.sniff();
        let output = python(lab.cgfw().args(options), script).any_status().run();
        (sniffer.packets_with(MARK).len(), output)
    };
    let has_left = |output: &Output| output.stderr.contains("WARN MOVED");
    let (count, output) = sent(&DEFAULT);
    assert!(
        count > 0 || has_left(&output),
        "does not work by default either\n{output}"
    );
    let (count, output) = sent(&AS_DEV);
    assert_eq!(count, 0, "an ordinary user got out\n{output}");
    let (count, output) = sent(&STRICT);
    assert_eq!(count, 0, "root got out\n{output}");
    assert!(!has_left(&output), "root left the cgroup\n{output}");
    output
}

/// A way that prints `works` without cgfw, and `strict` with `--strict`, as root; an ordinary
/// user does not get it to work either.
#[track_caller]
fn check_printed(lab: &Lab, script: &str, works: &str, strict: &str) {
    let works = format!("{works}\n");
    bare(lab, script).stdout(works.clone()).run();
    python(lab.cgfw().args(STRICT), script)
        .stdout(format!("{strict}\n"))
        .run();
    let output = python(lab.cgfw().args(AS_DEV), script).any_status().run();
    assert_ne!(output.stdout, works, "works for an ordinary user");
}

#[test]
fn another_cgroup() {
    let Some(lab) = Lab::new() else { return };
    let outside = lab.cgroup().path().display().to_string();
    check_sent(
        &lab,
        &format!(
            "print(name(lambda: open('{outside}/cgroup.procs', 'w').write(str(os.getpid()))))
send()"
        ),
    );
    check_sent(
        &lab,
        &format!(
            "
CLONE_INTO_CGROUP = 0x200000000
directory = os.open('{outside}', os.O_RDONLY | os.O_DIRECTORY)
arguments = struct.pack('11Q', CLONE_INTO_CGROUP, 0, 0, 0, 17, 0, 0, 0, 0, 0, directory)
if call(435, arguments, len(arguments)) == 0:
    send()
    os._exit(0)
os.wait()"
        ),
    );
}

#[test]
fn a_new_mount_of_the_cgroups() {
    let Some(lab) = Lab::new() else { return };
    let outside = lab.cgroup().path();
    let mount = outside
        .ancestors()
        .filter(|path| path.join("cgroup.controllers").exists())
        .last()
        .unwrap();
    let below = outside.strip_prefix(mount).unwrap().display();
    let output = check_sent(
        &lab,
        &format!(
            "
os.makedirs('/mnt/again', exist_ok=True)
print(libc.mount(b'none', b'/mnt/again', b'cgroup2', 0, None), errno.errorcode.get(ctypes.get_errno()))
try:
    open('/mnt/again/{below}/cgroup.procs', 'w').write(str(os.getpid()))
except OSError as error:
    print(error)
libc.umount2(b'/mnt/again', 2)
send()"
        ),
    );
    assert!(output.stdout.starts_with("-1 EPERM\n"), "{output}");
}

/// Every file system that acts on the kernel is hidden, at each of its places.
#[test]
fn what_is_mounted_elsewhere() {
    let Some(lab) = Lab::new() else { return };
    lab.sh(
        "mkdir -p /mnt/p /mnt/c /mnt/s && mount -t proc proc /mnt/p && \
         mount -t cgroup2 none /mnt/c && mount -t sysfs sysfs /mnt/s",
    )
    .run();
    lab.cgfw()
        .args(STRICT)
        .sh(
            "ls /mnt/p /mnt/c /sys/fs/cgroup; touch /mnt/s/x /sys/x /proc/sys/x; \
             grep -c -E ' (cgroup|cgroup2|bpf|debugfs|tracefs) ' /proc/mounts",
        )
        .any_status()
        .stdout_has("/mnt/c:\n\n/mnt/p:\n\n/sys/fs/cgroup:\n")
        .stderr_has("'/mnt/s/x': Read-only file system")
        .stderr_has("'/sys/x': Read-only file system")
        .run();
    // From within one, it could be reached all the same.
    lab.cgfw()
        .args(STRICT)
        .dir("/mnt/c")
        .sh("echo was run")
        .status(125)
        .stdout("")
        .stderr_has("the working directory is in a file system of type cgroup2")
        .run();
    lab.sh("umount /mnt/p /mnt/c /mnt/s").run();
}

#[test]
fn files_that_act_on_the_kernel() {
    let Some(lab) = Lab::new() else { return };
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/power/state",
    ] {
        if !lab.exists(path) {
            continue;
        }
        let script = format!("print(name(lambda: os.open('{path}', os.O_WRONLY)))");
        let works = bare(&lab, &script).run().stdout;
        let strict = python(lab.cgfw().args(STRICT), &script).run().stdout;
        assert_eq!(strict, "EROFS\n", "{path}");
        // Some are not writable on some machines.
        assert!(
            works == "worked\n" || path.starts_with("/sys"),
            "{path}: {works}"
        );
    }
    let agents =
        "find /sys/fs/cgroup -mindepth 2 '(' -name release_agent -o -name cgroup.procs ')'";
    assert_ne!(lab.sh(agents).run().stdout, "");
    lab.cgfw().args(STRICT).sh(agents).stdout("").run();
}

#[test]
fn namespaces() {
    let Some(lab) = Lab::new() else { return };
    for command in ["unshare -m true", "unshare -n true", "unshare -U true"] {
        lab.sh(command).run();
        lab.cgfw()
            .args(STRICT)
            .sh(command)
            .status(1)
            .stderr_has("unshare failed: Operation not permitted")
            .run();
    }
    let enter = "nsenter --mount=/proc/self/ns/mnt true";
    lab.sh(enter).run();
    lab.cgfw().args(STRICT).sh(enter).status(1).run();
    // clone(2) with a flag of a namespace, which glibc's fork never has.
    check_printed(
        &lab,
        "
CLONE_NEWUTS, SIGCHLD = 0x4000000, 17
pid = call(56, CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0)
if pid == 0:
    os._exit(0)
print('worked' if isinstance(pid, int) else pid)",
        "worked",
        "EPERM",
    );
}

/// With arguments that are wrong in every case, so that nothing happens but the refusal.
#[test]
fn system_calls() {
    let Some(lab) = Lab::new() else { return };
    let calls = [
        ("bpf", libc::SYS_bpf, "EPERM"),
        ("mount", libc::SYS_mount, "EPERM"),
        ("umount2", libc::SYS_umount2, "EPERM"),
        ("fsopen", libc::SYS_fsopen, "EPERM"),
        ("open_tree", libc::SYS_open_tree, "EPERM"),
        ("move_mount", libc::SYS_move_mount, "EPERM"),
        ("setns", libc::SYS_setns, "EPERM"),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, "EPERM"),
        ("ptrace", libc::SYS_ptrace, "EPERM"),
        ("process_vm_readv", libc::SYS_process_vm_readv, "EPERM"),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, "EPERM"),
        ("perf_event_open", libc::SYS_perf_event_open, "EPERM"),
        ("userfaultfd", libc::SYS_userfaultfd, "EPERM"),
        ("add_key", libc::SYS_add_key, "EPERM"),
        ("request_key", libc::SYS_request_key, "EPERM"),
        ("keyctl", libc::SYS_keyctl, "EPERM"),
        ("clone3", libc::SYS_clone3, "ENOSYS"),
        ("io_uring_setup", libc::SYS_io_uring_setup, "ENOSYS"),
        ("io_uring_enter", libc::SYS_io_uring_enter, "ENOSYS"),
    ];
    let lines = calls
        .map(|(name, number, _)| format!("print('{name}', call({number}, -1, -1, -1, -1, -1))\n"));
    let script = lines.concat();
    let lines = |test: Test<'_>| -> Vec<String> {
        let output = test.run();
        output.stdout.lines().map(str::to_owned).collect()
    };
    let without = lines(bare(&lab, &script));
    let with = lines(python(lab.cgfw().args(STRICT), &script));
    for ((name, _, refusal), (without, with)) in calls.iter().zip(without.iter().zip(&with)) {
        let refused = format!("{name} {refusal}");
        assert_eq!(*with, refused);
        assert_ne!(*without, refused, "{name} is refused without cgfw, too");
    }
    assert_eq!((without.len(), with.len()), (calls.len(), calls.len()));
}

#[test]
fn sockets() {
    let Some(lab) = Lab::new() else { return };
    // Family, type, protocol, and what becomes of it.
    for (socket, strict) in [
        ("17, 3, 0", "EAFNOSUPPORT"),
        ("16, 3, 12", "EPROTONOSUPPORT"),
        ("16, 3, 4", "EPROTONOSUPPORT"),
        ("16, 3, 15", "EPROTONOSUPPORT"),
        ("2, 3, 255", "EPROTONOSUPPORT"),
        ("1, 1, 0", "EACCES"),
        ("1, 2, 0", "EACCES"),
    ] {
        let script = format!("print(name(lambda: socket.socket({socket})))");
        check_printed(&lab, &script, "worked", strict);
    }
    for socket in ["2, 1, 0", "10, 1, 6", "2, 2, 17", "2, 2, 1", "16, 3, 0"] {
        let script = format!("print(name(lambda: socket.socket({socket})))");
        for options in [&STRICT[..], &AS_DEV] {
            python(lab.cgfw().args(options), &script)
                .stdout("worked\n")
                .run();
        }
    }
    for (kind, strict) in [(1, "worked"), (5, "worked"), (2, "EACCES")] {
        let script = format!("print(name(lambda: socket.socketpair(1, {kind})))");
        bare(&lab, &script).stdout("worked\n").run();
        python(lab.cgfw().args(STRICT), &script)
            .stdout(format!("{strict}\n"))
            .run();
    }
}

/// In the default mode, for root, too.
#[test]
fn sockets_that_leave_the_machine_unseen() {
    let Some(lab) = Lab::new() else { return };
    let packet = "
def frame():
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0800)
    header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + 17, 1, 0, 64, 253, 0,
                         socket.inet_aton('192.0.2.10'), socket.inet_aton('192.0.2.1'))
    s.sendto(header + b'out-of-the-filter', ('eth0', 0x0800, 0, 1, b'\\xff' * 6))
print(name(frame))";
    let sent = |test: Test<'_>, stdout: &str| {
        let sniffer = lab.sniff();
        test.stdout(format!("{stdout}\n")).run();
        sniffer.packets_with(MARK).len()
    };
    let audit = python(lab.cgfw().args(DEFAULT).arg("--audit"), packet);
    assert_eq!(sent(bare(&lab, packet), "worked"), 1);
    assert_eq!(sent(audit, "worked"), 1, "--audit refuses nothing");
    for options in [&DEFAULT[..], &STRICT, &AS_DEV] {
        let test = python(lab.cgfw().args(options), packet);
        assert_eq!(sent(test, "EAFNOSUPPORT"), 0, "{options:?}");
    }
    let uring = format!("print(call({}, 0, 0))", libc::SYS_io_uring_setup);
    bare(&lab, &uring).stdout("EFAULT\n").run();
    let vsock = "print(name(lambda: socket.socket(40, 1)))";
    for options in [&DEFAULT[..], &STRICT] {
        python(lab.cgfw().args(options), &uring)
            .stdout("ENOSYS\n")
            .run();
        python(lab.cgfw().args(options), vsock)
            .stdout("EAFNOSUPPORT\n")
            .run();
    }
    let output = bare(&lab, vsock).run();
    if output.stdout != "worked\n" {
        skip(&format!(
            "this kernel has no AF_VSOCK, and refuses it by itself: {}",
            output.stdout.trim_end()
        ));
    }
}

/// A helper that the kernel starts for a key is outside of the cgroup.
#[test]
fn a_key_with_an_upcall() {
    let Some(lab) = Lab::new() else { return };
    let script = format!(
        "print(call({}, b'user', b'no such key', b'callout', 0))",
        libc::SYS_request_key
    );
    // There is no such key; ENOENT says that there is no helper, but that it was looked for.
    let works = bare(&lab, &script).run().stdout;
    assert!(["ENOKEY\n", "ENOENT\n"].contains(&&*works), "{works}");
    for options in [&DEFAULT[..], &STRICT] {
        python(lab.cgfw().args(options), &script)
            .stdout("EPERM\n")
            .run();
    }
}

#[test]
fn devices_and_routes() {
    let Some(lab) = Lab::new() else { return };
    let link = "ip link add gone type veth peer name away && ip link del gone && echo worked";
    lab.sh(link).stdout("worked\n").run();
    lab.cgfw()
        .args(STRICT)
        .sh(link)
        .status(2)
        .stderr_has("Operation not permitted")
        .run();
    let tun = "
device = os.open('/dev/net/tun', os.O_RDWR)
request = struct.pack('16sH22x', b'gone', 0x1001)
print(name(lambda: fcntl.ioctl(device, 0x400454ca, request)))";
    if std::path::Path::new("/dev/net/tun").exists() {
        check_printed(&lab, tun, "worked", "EPERM");
    } else {
        skip("this machine has no /dev/net/tun");
    }
}

/// A socket that was made outside is not filtered; whoever connects to this one gets it.
#[test]
fn a_socket_that_is_passed() {
    let Some(lab) = Lab::new() else { return };
    let server = "
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def serve(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    if os.fork() == 0:
        while True:
            peer, _ = listener.accept()
            socket.send_fds(peer, [b'x'], [udp.fileno()])
serve('passing')
serve('\\0passing')
os.chmod('passing', 0o777)
print('ready', flush=True)
time.sleep(25)";
    let mut outside = bare(&lab, server).any_status().spawn();
    outside.wait_for_stdout("ready");
    for path in ["passing", "\\0passing"] {
        let output = check_sent(
            &lab,
            &format!(
                "
s = socket.socket(socket.AF_UNIX)
s.connect('{path}')
_, fds, _, _ = socket.recv_fds(s, 9, 1)
send(socket.socket(fileno=fds[0]))"
            ),
        );
        assert!(output.stderr.contains("Permission denied"), "{output}");
    }
    lab.cgroup().kill();
    outside.finish();
}

#[test]
fn descriptors_that_are_inherited() {
    let Some(lab) = Lab::new() else { return };
    let (reader, _writer) = std::io::pipe().unwrap();
    let (stream, _peer) = UnixStream::pair().unwrap();
    lab.cgfw()
        .args(STRICT)
        .fd(reader.into(), 5)
        .fd(stream.into(), 7)
        .sh("ls /proc/self/fd | tr '\\n' ' '")
        .stdout("0 1 2 3 ")
        .stderr_has(" inherited descriptors; --strict passes on stdin, stdout and stderr")
        .run();
    // As services and CI runners have it.
    let (ours, theirs) = UnixStream::pair().unwrap();
    lab.cgfw()
        .args(STRICT)
        .fd(theirs.into(), 1)
        .sh("echo through a socket")
        .stderr_has("stdout is a unix socket: who holds its other end can pass")
        .run();
    let mut text = [0; 17];
    (&ours).read_exact(&mut text).unwrap();
    assert_eq!(&text, b"through a socket\n");
    let datagram: OwnedFd = UnixDatagram::unbound().unwrap().into();
    lab.cgfw()
        .args(STRICT)
        .stdin_fd(datagram)
        .sh("echo was run")
        .status(125)
        .stdout("")
        .stderr_has("stdin is a unix datagram socket")
        .run();
}

/// Machine code of another kind has system calls of other numbers.
#[test]
#[cfg(target_arch = "x86_64")]
fn code_of_32_bits() {
    let Some(lab) = Lab::new() else { return };
    lab.write(
        "i386.c",
        r#"
#include <stdio.h>
#include <stdlib.h>
/* i386's system calls, which any program may make */
int main(int argc, char **argv) {
    unsigned int arguments[6] = {0};
    for (int i = 1; i < argc; i++) arguments[i - 1] = strtoul(argv[i], 0, 0);
    int result;
    __asm__ volatile("int $0x80" : "=a"(result)
        : "a"(arguments[0]), "b"(arguments[1]), "c"(arguments[2]), "d"(arguments[3])
        : "memory", "r8", "r9", "r10", "r11");
    printf("%d\n", result);
    return 0;
}"#,
    );
    lab.sh("gcc -o i386 i386.c").run();
    let result = |test: Test<'_>| -> i32 { test.run().stdout.trim().parse().unwrap() };
    let call = |arguments: &str| format!("./i386 {arguments}");
    let (getuid, tcp, packet, call_packet) = ("24", "359 2 1 0", "359 17 3 0", "102 1 0");
    let uring = "425 0 0";
    // 14 is EFAULT, 38 ENOSYS, 97 EAFNOSUPPORT.
    assert!(result(lab.sh(&call(packet))) > 2);
    assert_eq!(result(lab.sh(&call(call_packet))), -14);
    assert_eq!(result(lab.sh(&call(uring))), -14);
    let by_default = |arguments| result(lab.cgfw().args(DEFAULT).sh(&call(arguments)));
    assert_eq!(by_default(getuid), 0);
    assert!(by_default(tcp) > 2);
    assert_eq!(by_default(packet), -97);
    assert_eq!(by_default(call_packet), -38);
    assert_eq!(by_default(uring), -38);
    // x32, where the kernel has it at all.
    let x32 = format!("print(call(0x40000000 | {}, 17, 3, 0))", libc::SYS_socket);
    let refused = python(lab.cgfw().args(DEFAULT), &x32).run().stdout;
    assert!(
        ["ENOSYS\n", "EAFNOSUPPORT\n"].contains(&&*refused),
        "{refused}"
    );
    python(lab.cgfw().args(STRICT), &x32)
        .stdout("ENOSYS\n")
        .run();
    for arguments in [getuid, tcp] {
        lab.cgfw()
            .args(STRICT)
            .child(["./i386"])
            .arg(arguments.split(' ').next().unwrap())
            .status(128 + Signal::SIGSYS as i32)
            .stdout("")
            .run();
    }
}

/// What types into the terminal is read by the caller's shell when the run is over.
#[test]
fn the_terminal_of_the_caller() {
    let Some(lab) = Lab::new() else { return };
    let script = format!("{PRELUDE}\nprint('typing:', name(lambda: fcntl.ioctl(0, 0x5412, b'x')))");
    let mut without = Terminal::start(&lab.command("python3").args(["-c", &script]));
    without.wait_for("typing: worked");
    without.finish();
    let strict = lab.cgfw().args(STRICT).child(["python3", "-c", &script]);
    let mut strict = Terminal::start(&strict);
    strict.wait_for("typing: EPERM");
    strict.finish();
}

#[test]
fn the_supervisor_and_its_guardian() {
    let Some(lab) = Lab::new() else { return };
    // Everything that can be seen is a process of the command's, and its init cannot be
    // killed, traced or looked into.
    let script = format!(
        "
print([name(lambda: os.kill(pid, signal.SIGKILL)) for pid in [1, os.getppid(), -1]])
print(call({ptrace}, 0x4206, 1, 0, 0), name(lambda: open('/proc/1/mem')),
      {{name(lambda: os.readlink('/proc/1/fd/' + fd)) for fd in os.listdir('/proc/1/fd')}})
seen = [open('/proc/%s/comm' % pid).read().strip() for pid in os.listdir('/proc') if pid.isdigit()]
print(sorted(seen))
print(name(lambda: os.kill({host}, 0)))
send()",
        ptrace = libc::SYS_ptrace,
        host = std::process::id(),
    );
    let sniffer = lab.sniff();
    let output = python(lab.cgfw().args(STRICT), &script).run();
    assert_eq!(
        output.stdout,
        "['worked', 'worked', 'ESRCH']\n\
         EPERM EACCES {'EACCES'}\n\
         ['init', 'python3']\n\
         ESRCH\n\
         send: [Errno 111] Connection refused\n",
        "{output}"
    );
    assert_eq!(output.refusals().len(), 1, "cgfw lives and sees\n{output}");
    assert!(sniffer.packets_with(MARK).is_empty());
    // The same by default ends cgfw, and with it the run.
    python(
        lab.cgfw().args(DEFAULT),
        "os.kill(os.getppid(), signal.SIGKILL)",
    )
    .signal(Signal::SIGKILL)
    .run();
    lab.expect_gone_within(Duration::from_secs(1));
}

#[test]
fn capabilities_and_no_new_privs() {
    let Some(lab) = Lab::new() else { return };
    let status = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
    // Of what this machine lets root have.
    let bounds = lab
        .sh("sed -n 's/^CapBnd:.//p' /proc/self/status")
        .run()
        .stdout;
    let bounds = u64::from_str_radix(bounds.trim(), 16).unwrap();
    let kept = format!("{:016x}", bounds & 0xb184_c7fb);
    assert_ne!(bounds & !0xb184_c7fb, 0, "nothing to drop");
    lab.cgfw()
        .args(STRICT)
        .sh(status)
        .stdout(format!(
            "CapInh:\t{none}\nCapPrm:\t{kept}\nCapEff:\t{kept}\nCapBnd:\t{kept}\n\
             CapAmb:\t{none}\nNoNewPrivs:\t1\n",
            none = "0".repeat(16)
        ))
        .run();
    lab.cgfw()
        .args(AS_DEV)
        .sh(status)
        .stdout(format!(
            "CapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{kept}\n\
             CapAmb:\t{none}\nNoNewPrivs:\t1\n",
            none = "0".repeat(16)
        ))
        .run();
    let without = lab.sh(status).run().stdout;
    assert!(without.contains("NoNewPrivs:\t0"), "{without}");
    lab.cgfw().args(DEFAULT).sh(status).stdout(without).run();
}

#[test]
fn a_run_that_loses_what_it_should_tell_fails() {
    let Some(lab) = Lab::new() else { return };
    let to_full_disk = |options: &[&str], code| {
        lab.cgfw()
            .args(options)
            .args(["--audit-log", "/dev/full"])
            .sh("true")
            .status(code)
            .run()
    };
    to_full_disk(&DEFAULT, 0);
    let output = to_full_disk(&STRICT, 125);
    assert!(
        output
            .stderr
            .contains("lines of the audit log were lost, which fails a run with --strict"),
        "{output}"
    );
    // More contacts than there is room for while cgfw does not read.
    let script = "
import os, time
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.01)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(60000):
    try:
        s.sendto(b'x', ('203.0.113.99', 1 + n))
    except OSError:
        pass
print('flooded', flush=True)";
    for (options, code) in [(&DEFAULT[..], 0), (&STRICT, 125)] {
        lab.sh("rm -f go").run();
        let mut running = python(lab.cgfw().args(options).arg("-q"), script)
            .status(code)
            .spawn();
        running.wait_for_stdout("ready");
        running.send(Signal::SIGSTOP);
        lab.write("go", "");
        running.wait_for_stdout("flooded");
        running.send(Signal::SIGCONT);
        let output = running.finish();
        assert_eq!(
            output
                .stderr
                .contains("observations were lost, which fails a run with --strict"),
            code == 125,
            "{output}"
        );
    }
}
