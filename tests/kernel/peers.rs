//! Who listens at a unix socket or at a port: sockets and processes of all kinds.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cgfw::event::{Process, Service};
use cgfw::peers::{Found, Peers};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::support::Lab;
use crate::support::command::{Running, Test};
use crate::support::lab::WORK;

/// Binds what its arguments say, tells its name, and waits.
const LISTENER: &str = r#"
import os, socket, sys, time
kind, where = sys.argv[1:3]
types = {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM,
         "packets": socket.SOCK_SEQPACKET, "bound": socket.SOCK_STREAM}
if "." in where or ":" in where.replace("/", ""):
    host, port = where.rsplit(":", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    protocol = 262 if kind == "mptcp" else 0
    s = socket.socket(family, types.get(kind, socket.SOCK_STREAM), protocol)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, int(port)))
else:
    s = socket.socket(socket.AF_UNIX, types[kind])
    s.bind(where.replace("@", "\0"))
if kind in ("stream", "packets", "mptcp"):
    s.listen()
print("ready", flush=True)
exec(sys.argv[3]) if len(sys.argv) > 3 else time.sleep(60)
"#;

fn path(name: &str) -> Service {
    Service::Path(name.into())
}

fn port(address: &str, protocol: u8) -> Service {
    let address: SocketAddr = address.parse().unwrap();
    Service::Port { address, protocol }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Start a listener and wait until it is there.
fn listen(test: Test<'_>, kind: &str, name: &str) -> Running {
    listen_and(test, kind, name, "time.sleep(60)")
}

/// As [`listen`], and then do something in Python.
fn listen_and(test: Test<'_>, kind: &str, name: &str, then: &str) -> Running {
    let test = test.args(["-c", LISTENER, kind, name, then]);
    let mut running = test.any_status().spawn();
    running.wait_for_stdout("ready");
    running
}

fn python(lab: &Lab) -> Test<'_> {
    lab.command("python3")
}

/// A process of the lab that does nothing.
fn idle(test: Test<'_>) -> Running {
    let mut running = test
        .args(["sh", "-c", "echo ready; exec sleep 60"])
        .any_status()
        .spawn();
    running.wait_for_stdout("ready");
    running
}

fn asker(pid: u32) -> Process {
    Process {
        pid,
        tid: pid,
        ppid: 0,
        uid: 0,
        started: 0,
        comm: Vec::new(),
        argv: Vec::new(),
        truncated: false,
        ..Process::default()
    }
}

/// A search from within the lab.
struct Search {
    peers: Peers,
    asker: Process,
    inside: Vec<Pid>,
    idle: Running,
}

impl Search {
    fn new(lab: &Lab) -> Self {
        let idle = idle(lab.command("env"));
        Self {
            peers: Peers::default(),
            asker: asker(idle.pid()),
            inside: Vec::new(),
            idle,
        }
    }

    /// Look anew, and again if there was no time: this machine may have much to do.
    fn find(&mut self, service: &Service) -> Found {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            self.peers = Peers::default();
            let found = self.find_once(service);
            if self.peers.skipped() == 0 {
                return found;
            }
            assert!(Instant::now() < deadline, "no time to look for {service:?}");
        }
    }

    fn find_once(&mut self, service: &Service) -> Found {
        let inside = self.inside.clone();
        let list = || Ok(inside.clone());
        self.peers.find(&self.asker, service, list).unwrap()
    }

    /// Expect the process to be found outside.
    #[track_caller]
    fn expect(&mut self, service: &Service, listener: &Running) {
        let found = self.find(service);
        let Found::Outside(Some(peer)) = found else {
            panic!("{service:?} is {found:?}, not {}", listener.pid());
        };
        assert_eq!(peer.pid, listener.pid(), "{service:?}: {peer:?}");
        assert_eq!(peer.argv[0], b"python3", "{peer:?}");
        assert!(peer.comm.starts_with(b"python3"), "{peer:?}");
    }

    #[track_caller]
    fn expect_is(&mut self, service: &Service, found: &Found) {
        assert_eq!(self.find(service), *found, "{service:?}");
    }
}

fn end(running: Running) {
    running.send(Signal::SIGKILL);
    running.finish();
}

#[test]
fn every_kind_of_unix_socket_has_its_listener() {
    let Some(lab) = Lab::new() else { return };
    let mut search = Search::new(&lab);
    for kind in ["stream", "datagram", "packets"] {
        for (name, service) in [
            (
                format!("{WORK}/{kind} socket"),
                path(&format!("{WORK}/{kind} socket")),
            ),
            (
                format!("@{kind} of the lab"),
                Service::Abstract(format!("{kind} of the lab").into()),
            ),
        ] {
            search.expect_is(&service, &Found::Nobody);
            let listener = listen(python(&lab), kind, &name);
            search.expect(&service, &listener);
            search.inside = vec![Pid::from_raw(listener.pid().cast_signed())];
            search.expect_is(&service, &Found::Inside);
            search.inside.clear();
            search.expect(&service, &listener);
            // What is left is a file that nobody is bound to.
            end(listener);
            search.expect_is(&service, &Found::Nobody);
        }
    }
}

#[test]
fn the_processes_of_a_cgroup_are_inside() {
    let Some(lab) = Lab::new() else { return };
    let listener = listen(python(&lab), "stream", "/mnt/work/service");
    let mut search = Search::new(&lab);
    let processes = lab.cgroup().processes();
    assert!(processes.contains(&listener.pid()));
    search.inside = processes
        .into_iter()
        .map(|pid| Pid::from_raw(pid.cast_signed()))
        .collect();
    search.expect_is(&path("/mnt/work/service"), &Found::Inside);
}

#[test]
fn where_nobody_listens_is_nobody() {
    let Some(lab) = Lab::new() else { return };
    lab.write("file", "");
    let bound = listen(python(&lab), "bound", "bound");
    let mut search = Search::new(&lab);
    search.asker.pid = bound.pid();
    for name in [
        "/run/nscd/socket",
        "/etc/passwd/socket",
        "/mnt/work/file",
        "/mnt/work",
        "no-such-file",
        "",
    ] {
        search.expect_is(&path(name), &Found::Nobody);
    }
    search.expect_is(&Service::Abstract(b"nobody".into()), &Found::Nobody);
    // Not listening yet, which it can do a moment later.
    search.expect(&path("/mnt/work/bound"), &bound);
}

#[test]
fn names_are_those_of_the_asker() {
    let Some(lab) = Lab::new() else { return };
    lab.sh(&format!(
        "mkdir run && ln -s {WORK}/run varrun && ln -s ../../.././../mnt/work/run up"
    ))
    .run();
    let listener = listen(python(&lab), "stream", &format!("{WORK}/run/daemon"));
    let mut search = Search::new(&lab);
    for name in [
        "/mnt/work/run/daemon",
        "/mnt/work/varrun/daemon",
        "/mnt/work/up/daemon",
        "/../mnt/work/run/../run//daemon",
        "run/daemon",
        "./up/daemon",
    ] {
        search.expect(&path(name), &listener);
    }
    // None of these names is there for us, who look.
    assert!(!std::path::Path::new("/mnt/work/run/daemon").exists());
    let elsewhere = idle(lab.command("env").dir("/mnt/work/run"));
    search.asker.pid = elsewhere.pid();
    search.expect(&path("daemon"), &listener);
    search.expect_is(&path("run/daemon"), &Found::Nobody);
    // A root of its own.
    let root = idle(lab.command("unshare").args(["--mount", "sh", "-c"]).arg(
        "mount --bind /mnt/work /srv && mount --rbind /usr /srv/usr 2>/dev/null; exec \"$@\"",
    ).arg("sh").arg("env"));
    search.asker.pid = root.pid();
    search.expect(&path("/srv/run/daemon"), &listener);
}

#[test]
fn an_asker_that_is_gone_saw_what_its_parent_sees() {
    let Some(lab) = Lab::new() else { return };
    let listener = listen(python(&lab), "stream", "/mnt/work/daemon");
    let mut search = Search::new(&lab);
    search.asker.ppid = search.idle.pid();
    let gone = idle(lab.command("env"));
    search.asker.pid = gone.pid();
    end(gone);
    search.expect(&path("/mnt/work/daemon"), &listener);
    search.expect_is(&path("/mnt/work/nobody"), &Found::Nobody);
    // But not where it was.
    search.expect_is(&path("daemon"), &Found::Outside(None));
}

#[test]
fn files_of_the_same_number_are_told_apart() {
    let Some(lab) = Lab::new() else { return };
    lab.sh("mkdir a b && mount -t tmpfs a a && mount -t tmpfs b b")
        .run();
    let (a, b) = (
        listen(python(&lab), "stream", "a/socket"),
        listen(python(&lab), "stream", "b/socket"),
    );
    let numbers = lab.sh("stat -c %i a/socket b/socket").run().stdout;
    let (first, second) = numbers.trim().split_once('\n').unwrap();
    assert_eq!(first, second, "two file systems number in the same way");
    let mut search = Search::new(&lab);
    search.expect(&path("a/socket"), &a);
    search.expect(&path("b/socket"), &b);
    // On overlayfs stat(2) names a device that the socket is not on.
    let overlaid = listen(python(&lab), "datagram", "/etc/socket");
    search.expect(&path("/etc/socket"), &overlaid);
    end(a);
    end(b);
    lab.sh("umount a b").run();
}

#[test]
fn of_several_that_share_a_socket_the_first_is_told() {
    let Some(lab) = Lab::new() else { return };
    let fork = "
child = os.fork()
if child == 0:
    time.sleep(60)
print('forked', child, '.', flush=True)
time.sleep(60)";
    let mut listener = listen_and(python(&lab), "stream", "/mnt/work/activated", fork);
    listener.wait_for_stdout(" .");
    let worker: i32 = listener
        .stdout()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let mut search = Search::new(&lab);
    search.expect(&path("/mnt/work/activated"), &listener);
    // The manager outside bound it, the service inside takes what comes.
    search.inside = vec![Pid::from_raw(worker)];
    search.expect_is(&path("/mnt/work/activated"), &Found::Inside);
    search.inside.clear();
    end(listener);
    let found = search.find(&path("/mnt/work/activated"));
    let Found::Outside(Some(peer)) = found else {
        panic!("{found:?}");
    };
    assert_eq!(peer.pid.cast_signed(), worker);
    lab.cgroup().kill();
}

#[test]
fn a_socket_of_another_network_namespace_is_found_from_there() {
    let Some(lab) = Lab::new() else { return };
    let unshare = || lab.command("unshare").args(["--net", "python3"]);
    let file = listen(unshare(), "stream", "/mnt/work/daemon");
    let name = listen(unshare(), "stream", "@daemon");
    let near = listen(python(&lab), "stream", "@near");
    let mut search = Search::new(&lab);
    // Bound, as is easily seen, but not who it is.
    search.expect_is(&path("/mnt/work/daemon"), &Found::Outside(None));
    search.expect_is(&Service::Abstract(b"daemon".into()), &Found::Nobody);
    search.expect(&Service::Abstract(b"near".into()), &near);
    search.asker.pid = file.pid();
    search.expect(&path("/mnt/work/daemon"), &file);
    search.asker.pid = name.pid();
    search.expect(&Service::Abstract(b"daemon".into()), &name);
    search.expect_is(&Service::Abstract(b"near".into()), &Found::Nobody);
}

#[test]
fn ports_have_their_listeners() {
    let Some(lab) = Lab::new() else { return };
    let mut search = Search::new(&lab);
    let cases = [
        ("stream", TCP, "127.0.0.1:80", "127.0.0.1:80"),
        ("stream", TCP, "0.0.0.0:81", "127.0.0.1:81"),
        ("stream", TCP, "0.0.0.0:82", "192.0.2.10:82"),
        ("stream", TCP, ":::83", "127.0.0.1:83"),
        ("stream", TCP, ":::84", "[::1]:84"),
        ("stream", TCP, "::1:85", "[::1]:85"),
        ("stream", TCP, "::ffff:127.0.0.1:86", "127.0.0.1:86"),
        ("stream", TCP, "127.0.0.1:87", "[::ffff:127.0.0.1]:87"),
        ("mptcp", TCP, "127.0.0.1:88", "127.0.0.1:88"),
        ("datagram", UDP, "127.0.0.1:89", "127.0.0.1:89"),
        ("datagram", UDP, ":::90", "127.0.0.1:90"),
    ];
    for (kind, protocol, bound, asked) in cases {
        let service = port(asked, protocol);
        search.expect_is(&service, &Found::Nobody);
        let listener = listen(python(&lab), kind, bound);
        search.expect(&service, &listener);
        let other = if protocol == TCP { UDP } else { TCP };
        search.expect_is(&port(asked, other), &Found::Nobody);
        search.inside = vec![Pid::from_raw(listener.pid().cast_signed())];
        search.expect_is(&service, &Found::Inside);
        search.inside.clear();
        end(listener);
        search.expect_is(&service, &Found::Nobody);
    }
    let v4 = listen(python(&lab), "stream", "0.0.0.0:91");
    search.expect_is(&port("[::1]:91", TCP), &Found::Nobody);
    search.expect(&port("127.0.0.1:91", TCP), &v4);
    let sctp = port("127.0.0.1:91", 132);
    search.expect_is(&sctp, &Found::Outside(None));
}

#[test]
fn the_listener_at_the_very_address_gets_the_connection() {
    let Some(lab) = Lab::new() else { return };
    let mut search = Search::new(&lab);
    let any_v6 = listen(python(&lab), "datagram", ":::53");
    search.expect(&port("127.0.0.1:53", UDP), &any_v6);
    let exact = listen(python(&lab), "datagram", "127.0.0.1:53");
    search.expect(&port("127.0.0.1:53", UDP), &exact);
    search.expect(&port("127.0.0.2:53", UDP), &any_v6);
    // Connected to someone, it gets nothing from others; but that is all there is.
    let connect = "s.connect(('127.0.0.1', 53)); print('connected', flush=True); time.sleep(60)";
    let mut connected = listen_and(python(&lab), "datagram", "127.0.0.1:54", connect);
    connected.wait_for_stdout("connected");
    search.expect(&port("127.0.0.1:54", UDP), &connected);
}

#[test]
fn an_answer_holds_for_a_moment_and_not_when_nobody_is_there() {
    let Some(lab) = Lab::new() else { return };
    let mut search = Search::new(&lab);
    let service = path("/mnt/work/daemon");
    assert_eq!(search.find_once(&service), Found::Nobody);
    let listener = listen(python(&lab), "stream", "/mnt/work/daemon");
    let found = search.find(&service);
    // Who is inside is not asked again.
    search.inside = vec![Pid::from_raw(listener.pid().cast_signed())];
    assert_eq!(search.find_once(&service), found);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(search.find_once(&service), Found::Inside);
    end(listener);
    assert_eq!(search.find_once(&service), Found::Nobody);
}

/// Looking is not touching.
#[test]
fn a_listener_does_not_notice() {
    let Some(lab) = Lab::new() else { return };
    let wait = "
s.settimeout(1)
try:
    print('disturbed by', s.accept() if kind != 'datagram' else s.recvfrom(1))
except TimeoutError:
    print('undisturbed')";
    let mut search = Search::new(&lab);
    for kind in ["stream", "packets", "datagram"] {
        let listener = listen_and(python(&lab), kind, &format!("/mnt/work/{kind}"), wait);
        search.expect(&path(&format!("/mnt/work/{kind}")), &listener);
        assert_eq!(listener.finish().stdout, "ready\nundisturbed\n");
        lab.sh(&format!("rm {kind}")).run();
    }
}

/// A child that asks without end costs a tenth of the time, and what is not looked for is
/// counted; but that nobody is there is still seen.
#[test]
fn a_flood_is_bounded_and_counted() {
    let Some(lab) = Lab::new() else { return };
    let listener = listen(python(&lab), "stream", "/mnt/work/daemon");
    let mut search = Search::new(&lab);
    let started = Instant::now();
    for asked in 0_u32.. {
        // Another one each time, and nobody there: the kernel lists its sockets.
        search.find_once(&Service::Abstract(asked.to_be_bytes().into()));
        if search.peers.skipped() > 0 {
            break;
        }
        let elapsed = started.elapsed();
        assert!(elapsed < Duration::from_secs(20), "{asked} were looked for");
    }
    let daemon = path("/mnt/work/daemon");
    assert_eq!(search.find_once(&daemon), Found::Outside(None));
    assert_eq!(search.peers.skipped(), 2);
    // What needs no list of sockets is found all the same.
    assert_eq!(search.find_once(&path("/run/nscd/socket")), Found::Nobody);
    end(listener);
    assert_eq!(search.find_once(&daemon), Found::Nobody);
    assert_eq!(search.peers.skipped(), 2);
}
