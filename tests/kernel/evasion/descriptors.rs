//! Sockets that were made outside, where the filter is not: inherited, passed, taken.
//!
//! A socket belongs to the cgroup in which it was made. Those that are inherited are
//! closed or refused (`child`). One that a process outside passes over a unix socket is
//! used with that process's consent, which makes it delegation, as if the process sent
//! the data itself: only a look at the unix socket tells of it.

use std::io::IoSlice;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::support::Lab;
use crate::support::command::Test;
use crate::support::lab::DEV;

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

/// A user cannot reach into a process of root's; without cgfw root can.
#[test]
fn sockets_of_other_processes_are_out_of_reach_for_a_user() {
    let Some(lab) = Lab::new() else { return };
    let holder = lab.command("sleep").arg("20").fd(connected(&lab), 3);
    let holder = holder.any_status().spawn();
    let script = format!(
        "
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
pid, fd = {pid}, 3
def why(result):
    return 'done' if result >= 0 else os.strerror(ctypes.get_errno())
holder = os.pidfd_open(pid)
taken = libc.syscall(438, holder, fd, 0)
print('pidfd_getfd:', why(taken))
if taken >= 0:
    os.write(taken, b'{MARK}')
print('ptrace:', why(libc.ptrace(16, pid, 0, 0)))
try:
    open(f'/proc/{{pid}}/mem', 'r+b')
except OSError as error:
    print('mem:', error.strerror)
",
        pid = holder.pid()
    );
    assert!(gets_out(&lab, lab.command("python3").args(["-c", &script])));
    let denied = "pidfd_getfd: Operation not permitted\nptrace: Operation not permitted\n\
                  mem: Permission denied\n";
    let bare = lab.command("python3").args(["-c", &script]).user(&DEV);
    assert!(!gets_out(&lab, bare.stdout(denied)));
    let cgfw = lab.cgfw().args(["--block", "github.com", "--user", "dev"]);
    let cgfw = cgfw.child(["python3", "-c", &script]).stdout(denied);
    assert!(!gets_out(&lab, cgfw));
    holder.send(Signal::SIGKILL);
    holder.finish();
}
