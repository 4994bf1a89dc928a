//! Sockets that were made outside, where the filter is not: inherited, passed, taken.
//!
//! A socket belongs to the cgroup in which it was made. Those that are inherited are
//! closed or refused (`child`). One that a process outside passes over a unix socket is
//! used with that process's consent, which makes it delegation, as if the process sent
//! the data itself: only a look at the unix socket tells of it.

use std::fs;
use std::io::IoSlice;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::support::Lab;
use crate::support::command::Test;
use crate::support::lab::{DEV, skip};

const MARK: &str = "through-a-foreign-socket";

/// The marker was seen once `test` had run.
fn gets_out(lab: &Lab, test: Test<'_>) -> bool {
    let sniffer = lab.sniff();
    test.any_status().run();
    !sniffer.packets_with(MARK.as_bytes()).is_empty()
}

fn connected(lab: &Lab) -> OwnedFd {
    let connect = || TcpStream::connect("203.0.113.99:9").unwrap();
    lab.client().run(connect).into()
}

#[test]
fn inherited_sockets_are_closed() {
    let Some(lab) = Lab::new() else { return };
    let script = format!(
        "
import os
for fd in range(3, 64):
    try:
        os.write(fd, b'{MARK}')
    except OSError:
        pass
"
    );
    let udp = || -> OwnedFd {
        let socket = lab.client().run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.connect("203.0.113.99:9").unwrap();
        socket.into()
    };
    let python = ["-c", &script];
    for make in [&(|| connected(&lab)) as &dyn Fn() -> OwnedFd, &udp] {
        for number in [3, 9, 63] {
            let bare = || lab.command("python3").args(python).fd(make(), number);
            assert!(gets_out(&lab, bare()));
            assert!(gets_out(&lab, bare().user(&DEV)));
            for user in [&[][..], &["--user", "dev"]] {
                let cgfw = lab.cgfw().args(["--block", "github.com"]).args(user);
                let cgfw = cgfw
                    .fd(make(), number)
                    .stderr_has("closed inherited descriptor");
                assert!(!gets_out(&lab, cgfw.child(["python3", "-c", &script])));
            }
        }
    }
}

/// What is true today, so that whoever changes it knows.
#[test]
fn a_socket_that_is_passed_by_a_process_outside_is_not_filtered() {
    let Some(lab) = Lab::new() else { return };
    let script = format!(
        "
import os, socket
channel = socket.socket(fileno=3)
_, [fd], _, _ = socket.recv_fds(channel, 9, 1)
os.write(fd, b'{MARK}')
"
    );
    let (ours, theirs) = UnixStream::pair().unwrap();
    for user in [&[][..], &["--user", "dev"]] {
        let socket = connected(&lab);
        let fds = [socket.as_raw_fd()];
        let passed = [ControlMessage::ScmRights(&fds)];
        let data = [IoSlice::new(b"x")];
        sendmsg::<()>(ours.as_raw_fd(), &data, &passed, MsgFlags::empty(), None).unwrap();
        let cgfw = lab.cgfw().args(["--allow", "example.com"]).args(user);
        let cgfw = cgfw.fd(theirs.try_clone().unwrap().into(), 3);
        assert!(gets_out(&lab, cgfw.child(["python3", "-c", &script])));
    }
}

/// Takes descriptor 3 of the process PID and writes to it, and says how that went.
const TAKE: &str = "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
pid, mark = int(sys.argv[1]), sys.argv[2].encode()
def why(result):
    return 'done' if result >= 0 else os.strerror(ctypes.get_errno())
taken = libc.syscall(438, os.pidfd_open(pid), 3, 0)
print('pidfd_getfd:', why(taken))
if taken >= 0:
    os.write(taken, mark)
attached = libc.ptrace(16, pid, 0, 0)
print('ptrace:', why(attached))
try:
    open(f'/proc/{pid}/mem', 'r+b')
    print('mem: done')
except OSError as error:
    print('mem:', error.strerror)
";
const DONE: &str = "pidfd_getfd: done\nptrace: done\nmem: done\n";
const DENIED: &str = "pidfd_getfd: Operation not permitted\n\
                      ptrace: Operation not permitted\nmem: Permission denied\n";

/// A user cannot reach into a process of root's; without cgfw root can.
#[test]
fn sockets_of_other_processes_are_out_of_reach_for_a_user() {
    let Some(lab) = Lab::new() else { return };
    let sleep = lab.command("sleep").arg("20").any_status();
    let holder = sleep.fd(connected(&lab), 3).spawn();
    let pid = holder.pid().to_string();
    let python = ["python3", "-c", TAKE, &pid, MARK];
    let bare = || lab.command(python[0]).args(&python[1..]);
    assert!(gets_out(&lab, bare().stdout(DONE)));
    assert!(!gets_out(&lab, bare().user(&DEV).stdout(DENIED)));
    let cgfw = lab.cgfw().args(["--block", "github.com", "--user", "dev"]);
    assert!(!gets_out(&lab, cgfw.child(python).stdout(DENIED)));
    holder.send(Signal::SIGKILL);
    holder.finish();
}

/// What is true today: a user's processes outside are at the user's mercy, as their files
/// are. It takes `--strict`, or a system that forbids it to everybody (Yama).
#[test]
fn sockets_of_the_users_own_processes_are_within_reach() {
    let Some(lab) = Lab::new() else { return };
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if !matches!(yama.trim_end(), "" | "0") {
        skip(&format!("kernel.yama.ptrace_scope is {yama}"));
        return;
    }
    let sleep = lab.command("sleep").arg("20").any_status().user(&DEV);
    let holder = sleep.fd(connected(&lab), 3).spawn();
    let pid = holder.pid().to_string();
    let cgfw = lab
        .cgfw()
        .args(["--block", "203.0.113.99", "--user", "dev"]);
    let take = cgfw.child(["python3", "-c", TAKE, &pid, MARK]);
    assert!(gets_out(&lab, take.stdout(DONE)));
    holder.send(Signal::SIGKILL);
    holder.finish();
}
