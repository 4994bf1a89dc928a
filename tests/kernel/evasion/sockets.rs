//! Kinds of sockets, calls that send, and headers that a script writes itself.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use super::{Way, check, check_in, root, way};
use crate::support::Lab;
use crate::support::command::Test;
use crate::support::lab::{ip, skip};

#[test]
fn kinds() {
    check(&[
        way("UDP-Lite, connected", "connected(protocol=136).send(MARK)"),
        way("UDP-Lite", "udp(protocol=136).sendto(MARK, (T4, PORT))"),
        way("UDP-Lite over v6", "udp(V6, 136).sendto(MARK, (T6, PORT))"),
        way(
            "ping socket",
            "udp(V4, 1).sendto(bytes([8, 0, 0, 0, 0, 1, 0, 1]) + MARK, (T4, 0))",
        ),
        way(
            "ping socket over v6",
            "udp(V6, 58).sendto(bytes([128, 0, 0, 0, 0, 1, 0, 1]) + MARK, (T6, 0))",
        ),
        root(
            "GRE",
            "socket.socket(V4, socket.SOCK_RAW, 47).sendto(MARK, (T4, 0))",
        ),
        root(
            "a protocol of nobody's",
            "socket.socket(V4, socket.SOCK_RAW, 253).sendto(MARK, (T4, 0))",
        ),
        root(
            "a protocol of nobody's over v6",
            "socket.socket(V6, socket.SOCK_RAW, 253).sendto(MARK, (T6, 0))",
        ),
    ]);
}

/// What few kernels have.
#[test]
fn rare_protocols() {
    const WAYS: [Way; 5] = [
        way("SCTP", "socket.socket(V4, STREAM, 132).connect((T4, PORT))"),
        way(
            "SCTP, one to many",
            "socket.socket(V4, socket.SOCK_SEQPACKET, 132).sendto(MARK, (T4, PORT))",
        ),
        way("DCCP", "socket.socket(V4, 6, 33).connect((T4, PORT))"),
        way(
            "SMC, which falls back to TCP",
            "s = socket.socket(43, STREAM, 0)
s.settimeout(None)
address = sockaddr(T4, 80)
checked(libc.connect(s.fileno(), address, len(address)))",
        ),
        way(
            "RDS, which sends from a thread of the kernel",
            "s = socket.socket(21, socket.SOCK_SEQPACKET, 0)
source = sockaddr('192.0.2.10', 4711)
checked(libc.bind(s.fileno(), source, len(source)))
address = sockaddr(T4, 4711)
checked(libc.sendto(s.fileno(), MARK, len(MARK), 0, address, len(address)))
time.sleep(0.5)",
        ),
    ];
    let Some(lab) = Lab::new() else { return };
    lab.write("ways.py", &super::program(&WAYS));
    let (_, lines) = super::attempt(&lab, &WAYS, lab.command("python3").arg("ways.py"));
    let (present, absent): (Vec<_>, Vec<_>) = WAYS
        .into_iter()
        .zip(&lines)
        .partition(|(_, line)| !line.contains("not supported"));
    if present.is_empty() {
        let proof = absent
            .iter()
            .map(|(way, line)| format!("{}: {line}", way.what));
        skip(&proof.collect::<Vec<_>>().join("; "));
        return;
    }
    let present: Vec<Way> = present.into_iter().map(|(way, _)| way).collect();
    check_in(&lab, &present, &super::POLICIES);
}

#[test]
fn crafted_headers() {
    check(&[
        root(
            "IPPROTO_RAW",
            "raw = socket.socket(V4, socket.SOCK_RAW, socket.IPPROTO_RAW)
raw.sendto(ipv4(17, datagram()), (T4, 0))",
        ),
        root(
            "ping with a header of its own",
            "raw = socket.socket(V4, socket.SOCK_RAW, 1)
raw.setsockopt(IP, socket.IP_HDRINCL, 1)
raw.sendto(ipv4(17, datagram()), (T4, 0))",
        ),
        root(
            "the same to port 53",
            "raw = socket.socket(V4, socket.SOCK_RAW, 1)
raw.setsockopt(IP, socket.IP_HDRINCL, 1)
raw.sendto(ipv4(17, datagram(53)), (T4, 0))",
        ),
        root(
            "a first fragment",
            "raw = socket.socket(V4, socket.SOCK_RAW, 1)
raw.setsockopt(IP, socket.IP_HDRINCL, 1)
raw.sendto(ipv4(17, datagram(), 0x2000), (T4, 0))",
        ),
        root(
            "a later fragment",
            "raw = socket.socket(V4, socket.SOCK_RAW, 1)
raw.setsockopt(IP, socket.IP_HDRINCL, 1)
raw.sendto(ipv4(17, MARK, 0x0001), (T4, 0))",
        ),
        root(
            "a header for elsewhere, sent to here",
            "raw = socket.socket(V4, socket.SOCK_RAW, 1)
raw.setsockopt(IP, socket.IP_HDRINCL, 1)
raw.sendto(ipv4(17, datagram()), ('192.0.2.1', 0))",
        ),
        root(
            "a header with options",
            "raw = socket.socket(V4, socket.SOCK_RAW, 1)
raw.setsockopt(IP, socket.IP_HDRINCL, 1)
raw.sendto(ipv4(17, datagram(), options=b'\\x01' * 40), (T4, 0))",
        ),
        root(
            "a v6 header",
            "raw = socket.socket(V6, socket.SOCK_RAW, socket.IPPROTO_RAW)
header = struct.pack('!IHBB', 6 << 28, len(datagram()), 17, 64)
source = socket.inet_pton(V6, '2001:db8:0:1::10')
raw.sendto(header + source + socket.inet_pton(V6, T6) + datagram(), (T6, 0))",
        ),
        root(
            "a v6 header on a ping socket",
            "raw = socket.socket(V6, socket.SOCK_RAW, 58)
raw.setsockopt(IPV6, 36, 1)
header = struct.pack('!IHBB', 6 << 28, len(datagram()), 17, 64)
source = socket.inet_pton(V6, '2001:db8:0:1::10')
raw.sendto(header + source + socket.inet_pton(V6, T6) + datagram(), (T6, 0))",
        ),
    ]);
}

/// They move the ports out of sight, or the destination out of the header.
#[test]
fn options() {
    check(&[
        way(
            "40 octets of IP options",
            "s = udp()
s.setsockopt(IP, socket.IP_OPTIONS, b'\\x01' * 40)
s.sendto(MARK, (T4, PORT))",
        ),
        way(
            "IP options of one packet",
            "udp().sendmsg([MARK], [(IP, 7, b'\\x01' * 40)], 0, (T4, PORT))",
        ),
        root(
            "loose source route by a permitted host",
            "s = udp()
s.setsockopt(IP, socket.IP_OPTIONS, b'\\x83\\x07\\x04' + socket.inet_aton('203.0.113.20') + b'\\x00')
s.sendto(MARK, (T4, PORT))",
        ),
        way(
            "v6 segment routing by a permitted host",
            "segments = socket.inet_pton(V6, T6) + socket.inet_pton(V6, '2001:db8:200::20')
header = struct.pack('!BBBBBBH', 0, len(segments) // 8, 4, 1, 1, 0, 0) + segments
s = udp(V6)
s.setsockopt(IPV6, socket.IPV6_RTHDR, header)
s.sendto(MARK, (T6, PORT))",
        ),
        root(
            "v6 hop-by-hop options",
            "options = b'\\x00\\x00\\x01\\x04' + bytes(4)
udp(V6).sendmsg([MARK], [(IPV6, socket.IPV6_HOPOPTS, options)], 0, (T6, PORT))",
        ),
        root(
            "v6 destination options",
            "options = b'\\x00\\x00\\x01\\x04' + bytes(4)
udp(V6).sendmsg([MARK], [(IPV6, socket.IPV6_DSTOPTS, options)], 0, (T6, PORT))",
        ),
        way(
            "a datagram that the kernel cuts into fragments",
            "udp().sendto(MARK * 300, (T4, PORT))",
        ),
        way(
            "a v6 datagram that the kernel cuts into fragments",
            "udp(V6).sendto(MARK * 300, (T6, PORT))",
        ),
        way(
            "datagrams that the device cuts (UDP_SEGMENT)",
            "s = udp()
s.setsockopt(socket.IPPROTO_UDP, 103, 100)
s.sendto(MARK * 40, (T4, PORT))",
        ),
    ]);
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn calls() {
    check(&[
        way("sendmsg", "udp().sendmsg([MARK], [], 0, (T4, PORT))"),
        way(
            "sendmmsg",
            "address = sockaddr(T4)
name = ctypes.create_string_buffer(address, len(address))
data = ctypes.create_string_buffer(MARK)
vector = struct.pack('@PN', ctypes.addressof(data), len(MARK))
vector = ctypes.create_string_buffer(vector, len(vector))
header = struct.pack('@PIxxxxPNPNixxxxIxxxx', ctypes.addressof(name), len(address),
                     ctypes.addressof(vector), 1, 0, 0, 0, 0)
header = ctypes.create_string_buffer(header, len(header))
s = udp()
checked(libc.sendmmsg(s.fileno(), header, 1, 0))",
        ),
        way("connect and send", "connected().send(MARK)"),
        way(
            "connect and write",
            "s = connected(); os.write(s.fileno(), MARK)",
        ),
        way(
            "sendto with AF_UNSPEC",
            "address = sockaddr(T4, family=socket.AF_UNSPEC)
s = udp()
checked(libc.sendto(s.fileno(), MARK, len(MARK), 0, address, len(address)))",
        ),
        way(
            "disconnected and connected again",
            "s = udp()
s.connect(('127.0.0.1', 53))
checked(libc.connect(s.fileno(), struct.pack('=H14x', socket.AF_UNSPEC), 16))
s.connect((T4, PORT))
s.send(MARK)",
        ),
        way(
            "elsewhere than connected to",
            "connected('203.0.113.20').sendto(MARK, (T4, PORT))",
        ),
        way(
            "connected after a packet was held back",
            "s = udp()
s.sendto(MARK, socket.MSG_MORE, (T4, PORT))
s.sendto(b'', (T4, PORT))",
        ),
        way(
            "a packet held back for another destination",
            "s = connected()
s.send(MARK, socket.MSG_MORE)
s.connect(('127.0.0.1', PORT))
s.send(MARK)",
        ),
        way(
            "UDP_CORK",
            "s = connected()
s.setsockopt(socket.IPPROTO_UDP, 1, 1)
s.send(MARK)
s.setsockopt(socket.IPPROTO_UDP, 1, 0)",
        ),
        way(
            "MSG_ZEROCOPY",
            "s = connected()
s.setsockopt(SOL_SOCKET, 60, 1)
s.send(MARK, 0x4000000)",
        ),
        way(
            "splice",
            "source, sink = os.pipe()
os.write(sink, MARK)
s = connected()
os.splice(source, s.fileno(), len(MARK))",
        ),
        way(
            "sendfile",
            "file = os.memfd_create('file')
os.write(file, MARK)
s = connected()
os.sendfile(s.fileno(), file, 0, len(MARK))",
        ),
        way(
            "a socket shared with a forked child",
            "s = connected()
if os.fork() == 0:
    s.send(MARK)
    os._exit(0)
os.wait()",
        ),
        way(
            "a socket sent to oneself",
            "left, right = socket.socketpair(socket.AF_UNIX, DGRAM)
s = connected()
socket.send_fds(left, [b'x'], [s.fileno()])
_, [fd], _, _ = socket.recv_fds(right, 9, 1)
os.write(fd, MARK)",
        ),
        way(
            "SO_REUSEPORT",
            "for _ in range(2):
    s = udp()
    s.setsockopt(SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('', 4711))
    s.sendto(MARK, (T4, PORT))",
        ),
        root(
            "source port 53",
            "s = udp()
s.bind(('', 53))
s.sendto(MARK, (T4, PORT))",
        ),
    ]);
}

#[test]
fn streams() {
    check(&[
        way(
            "TCP Fast Open",
            "socket.socket().sendto(MARK, socket.MSG_FASTOPEN, (T4, 80))",
        ),
        way(
            "TCP Fast Open at the first write",
            "s = socket.socket()
s.setsockopt(socket.IPPROTO_TCP, 30, 1)
s.connect((T4, 80))
s.send(MARK)",
        ),
        way("MPTCP", "socket.socket(V4, STREAM, 262).connect((T4, 80))"),
        way(
            "MPTCP over v6",
            "socket.socket(V6, STREAM, 262).connect((T6, 80))",
        ),
        way(
            "MPTCP with Fast Open",
            "socket.socket(V4, STREAM, 262).sendto(MARK, socket.MSG_FASTOPEN, (T4, 80))",
        ),
        way(
            "a connect that does not wait",
            "s = socket.socket()
s.setblocking(False)
s.connect_ex((T4, 80))
time.sleep(0.1)",
        ),
        way(
            "simultaneous open",
            "s = socket.socket()
s.setsockopt(SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', 4712))
s.connect((T4, 4712))",
        ),
        way(
            "connected again after a refusal",
            "s = socket.socket()
for _ in range(3):
    s.connect_ex((T4, 80))
    libc.connect(s.fileno(), struct.pack('=H14x', socket.AF_UNSPEC), 16)
s.connect((T4, 80))",
        ),
        way(
            "connected elsewhere and reconnected",
            "s = socket.socket()
s.connect_ex(('127.0.0.1', 9))
libc.connect(s.fileno(), struct.pack('=H14x', socket.AF_UNSPEC), 16)
s.connect((T4, 80))",
        ),
    ]);
}

/// Neither the call nor, on some kernels, the thread is the script's.
#[test]
fn io_uring() {
    let Some(lab) = Lab::new() else { return };
    let ways = [
        way(
            "udp",
            "ran = subprocess.run(['uring', 'udp', 'inline', T4, '9', MARK], stderr=subprocess.PIPE)
if ran.returncode: raise OSError(ran.stderr.decode())",
        ),
        way(
            "tcp",
            "ran = subprocess.run(['uring', 'tcp', 'inline', T4, '9', MARK], stderr=subprocess.PIPE)
if ran.returncode: raise OSError(ran.stderr.decode())",
        ),
        way(
            "udp, by a worker",
            "ran = subprocess.run(['uring', 'udp', 'async', T4, '9', MARK], stderr=subprocess.PIPE)
if ran.returncode: raise OSError(ran.stderr.decode())",
        ),
        way(
            "tcp, by a worker",
            "ran = subprocess.run(['uring', 'tcp', 'async', T4, '9', MARK], stderr=subprocess.PIPE)
if ran.returncode: raise OSError(ran.stderr.decode())",
        ),
        way(
            "udp, by a polling thread",
            "ran = subprocess.run(['uring', 'udp', 'sqpoll', T4, '9', MARK], stderr=subprocess.PIPE)
if ran.returncode: raise OSError(ran.stderr.decode())",
        ),
    ];
    let [block, _, allow, _] = super::POLICIES;
    let mut lines = check_in(&lab, &ways, &[block, allow]);
    lines.sort_unstable();
    lines.dedup();
    let is_a_refusal = |line: &String| {
        // Of the call itself (a filter on system calls), or of what the ring was to do.
        [
            "Function not implemented",
            "not permitted",
            "refused",
            "timed out",
        ]
        .iter()
        .any(|reason| line.contains(reason))
    };
    assert!(lines.iter().all(is_a_refusal), "{lines:#?}");
}

/// Who cannot connect out can still listen and be connected to.
#[test]
fn connections_from_outside() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import socket
listener = socket.create_server(('192.0.2.10', 4713))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(('192.0.2.10', 4713))
datagrams.settimeout(1)
listener.settimeout(1)
print('listening', flush=True)
try:
    _, client = datagrams.recvfrom(100)
    print('asked', flush=True)
    datagrams.sendto(b'let-me-out', client)
except OSError as error:
    print(error, flush=True)
try:
    connection, _ = listener.accept()
    connection.sendall(b'let-me-out')
    print('connected', flush=True)
except OSError as error:
    print(error, flush=True)
";
    let gets_out = |test: Test<'_>| {
        let sniffer = lab.sniff();
        let mut running = test.spawn();
        running.wait_for_stdout("listening");
        let caller = Ipv4Addr::new(203, 0, 113, 99);
        let (datagrams, connecting) = lab.internet_end().run(|| {
            let datagrams = UdpSocket::bind((caller, 0)).unwrap();
            datagrams.send_to(b"hello?", "192.0.2.10:4713").unwrap();
            (datagrams, connect_from(caller))
        });
        let output = running.finish();
        drop((datagrams, connecting));
        assert!(output.stdout.contains("asked"), "{output}");
        let packets = sniffer.packets_with(b"let-me-out");
        let by = |protocol| packets.iter().filter(|p| p.protocol == protocol).count();
        (by(17), by(6))
    };
    let python = ["python3", "-c", script];
    let (udp, tcp) = gets_out(lab.command(python[0]).args(&python[1..]));
    assert!(udp > 0 && tcp > 0, "{udp} {tcp}");
    for policy in [["--block", "203.0.113.99"], ["--allow", "example.com"]] {
        for user in [&[][..], &["--user", "dev"]] {
            let cgfw = lab.cgfw().args(policy).args(user).arg("-q");
            assert_eq!(gets_out(cgfw.child(python)), (0, 0), "{policy:?} {user:?}");
        }
    }
}

/// A connection attempt that does not wait, from an address that is not on an interface.
fn connect_from(source: Ipv4Addr) -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    bind(
        socket.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(source, 0)),
    )
    .unwrap();
    let to = SockaddrIn::new(192, 0, 2, 10, 4713);
    let connecting = connect(socket.as_raw_fd(), &to);
    assert!(
        matches!(connecting, Ok(()) | Err(Errno::EINPROGRESS)),
        "{connecting:?}"
    );
    socket
}

/// A permitted server of MPTCP tells the kernel of another address, to which the kernel
/// then connects by itself.
#[test]
fn a_second_path_of_multipath_tcp() {
    let Some(lab) = Lab::new() else { return };
    ip(
        lab.client(),
        "mptcp limits set subflows 4 add_addr_accepted 4",
    );
    ip(
        lab.internet_end(),
        "mptcp limits set subflows 4 add_addr_accepted 4
         mptcp endpoint add 203.0.113.98 dev lo signal",
    );
    let server = "
import socket
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('203.0.113.20', 4714))
listener.listen()
print('listening', flush=True)
while True:
    connection, _ = listener.accept()
    while connection.recv(1000):
        pass
";
    let client = "
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.settimeout(3)
s.connect(('203.0.113.20', 4714))
for _ in range(20):
    s.sendall(b'over-some-path')
    time.sleep(0.02)
";
    let cgroup = lab.cgroup().path();
    let server = Test::inside("python3", lab.internet_end(), cgroup, "/").args(["-c", server]);
    let mut server = server.any_status().spawn();
    server.wait_for_stdout("listening");
    let paths = |test: Test<'_>| {
        let sniffer = lab.sniff();
        test.run();
        let to = |last| sniffer.packets_to([203, 0, 113, last]).len();
        (to(20), to(98))
    };
    let python = ["python3", "-c", client];
    let (first, second) = paths(lab.command(python[0]).args(&python[1..]));
    assert!(first > 0 && second > 0, "{first} {second}");
    for policy in [["--block", "203.0.113.98"], ["--allow", "203.0.113.20"]] {
        for user in [&[][..], &["--user", "dev"]] {
            let cgfw = lab.cgfw().args(policy).args(user).arg("-q");
            let (first, second) = paths(cgfw.child(python));
            assert!(first > 0 && second == 0, "{policy:?}: {first} {second}");
        }
    }
    server.send(Signal::SIGKILL);
    server.finish();
}
