/*!
Ways round a filter on a cgroup, each proven to work without cgfw and not to work behind
it, as root and as an ordinary user. The judge is a packet socket at the far end of the
wire.

THREATS, row by row, and where its tests are:

| way round | test |
| --- | --- |
| egress program that takes v6 for v4 | `addresses::spellings` |
| `SO_BINDTODEVICE`, `IP_UNICAST_IF`, 127.0.0.1 on the wire | `addresses::devices`, `addresses::loopback_addresses_on_the_wire` |
| UDP-Lite, raw, HDRINCL, GRE | `sockets::kinds`, `sockets::crafted_headers` |
| sendto with `AF_UNSPEC` | `sockets::calls` |
| unconnected UDP, sendmmsg, cork, v4-mapped, MPTCP, TFO, io_uring, source port 53 | `sockets::calls`, `sockets::streams`, `sockets::io_uring`, `addresses::spellings` |
| IP options, routing headers, fragments | `sockets::options` |
| broadcast, multicast, mDNS, LLMNR, ping sockets | `addresses::many_at_once`, `addresses::group_membership_stays_on_the_link`, `sockets::kinds` |
| `AF_PACKET`, VSOCK, XDP, TUN, nft, netlink as root | `--strict` |
| inherited descriptors, `SCM_RIGHTS`, `pidfd_getfd`, ptrace | `descriptors` |
| cgroup.procs, delegated parent, `CLONE_INTO_CGROUP` | `lifetime::moves_between_cgroups` |
| `core_pattern`, modprobe, BPF as root, cgroup2 mounted anew | `--strict` |
| supervisor killed or traced | `lifetime::the_supervisor_is_out_of_reach`, `closed` |
| daemon that outlives the script | `lifetime::a_daemon_that_outlives_the_script` |
| loopback relay, unix sockets, moved processes | delegation and moves, in modules of their own |
| same address, other name | not seen by address: DESIGN |
| CNAME, look-alikes, labels, escapes, records, hints, rebinding, types, TCP, case, IDN | `names`, `super::dns`, `cgfw/src/dns/tests` |
| raw addresses, literals, NAT64, /etc/hosts, DoT | `addresses::spellings`, `super::policy` |
| environment proxies | `super::refusals` |
| address expires while a flow is open | pins only grow: `cgfw/src/pins.rs` |
| ring flooded, map full, LRU maps thrashed | `exhaustion` |
| process gone before /proc is read | `super::refusals` |
| cgfw under sudo | `super::child`, `super::policy` |
| reached from outside | `sockets::connections_from_outside` |
*/

mod addresses;
mod descriptors;
mod exhaustion;
mod lifetime;
mod names;
mod sockets;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::support::Lab;
use crate::support::command::Test;
use crate::support::lab::DEV;
use crate::support::sniffer::{Packet, Sniffer};

/// An attempt to send [`Way::mark`] somewhere, as Python.
#[derive(Clone, Copy, Debug)]
struct Way {
    what: &'static str,
    by: By,
    script: &'static str,
}

/// Who can do it without cgfw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Everybody,
    Root,
}

const fn way(what: &'static str, script: &'static str) -> Way {
    let by = By::Everybody;
    Way { what, by, script }
}

const fn root(what: &'static str, script: &'static str) -> Way {
    let by = By::Root;
    Way { what, by, script }
}

/// Everything that an attempt may be directed at, as rules.
const TARGETS: &str = "203.0.113.128/25,2001:db8:200:0:1::/80,192.0.2.255,255.255.255.255,\
                       224.0.0.0/4,ff00::/8,fe80::/10";
const POLICIES: [&[&str]; 4] = [
    &["--block", TARGETS],
    &["--block", TARGETS, "--on-block", "drop"],
    &["--allow", "example.com"],
    &["--allow", "example.com", "--on-block", "drop"],
];
const ALLOW_LISTS: [&[&str]; 2] = [POLICIES[2], POLICIES[3]];

/// The targets of one attempt, and what all its packets carry that carry anything.
struct Target {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    /// The v4 one as NAT64 gateways take it.
    nat64: Ipv6Addr,
    mark: String,
}

impl Target {
    fn new(number: usize) -> Self {
        let last = 128 + u8::try_from(number).unwrap();
        Self {
            v4: Ipv4Addr::new(203, 0, 113, last),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 1, 0, 0, last.into()),
            nat64: Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7100 | u16::from(last)),
            mark: format!("way-round-{number:03}"),
        }
    }

    fn is_met_by(&self, packet: &Packet) -> bool {
        let to = [self.v4.into(), self.v6.into(), IpAddr::from(self.nat64)];
        // The end of a connection of the attempt before may come late.
        to.contains(&packet.destination) && !packet.continues_tcp()
            || packet.contains(self.mark.as_bytes())
    }
}

/// Every way gets a packet out without cgfw, as all who can do it, and none behind it
/// under every policy.
#[track_caller]
fn check(ways: &[Way]) {
    let Some(lab) = Lab::new() else { return };
    check_in(&lab, ways, &POLICIES);
}

/// What each way printed, in the order of the policies, as root and as the user.
#[track_caller]
fn check_in(lab: &Lab, ways: &[Way], policies: &[&[&str]]) -> Vec<String> {
    lab.write("ways.py", &program(ways));
    let python = ["python3", "ways.py"];
    for as_root in [true, false] {
        let bare = lab.command(python[0]).arg(python[1]);
        let bare = if as_root { bare } else { bare.user(&DEV) };
        let (out, lines) = attempt(lab, ways, bare);
        let wrong: Vec<_> = ways
            .iter()
            .zip(lines)
            .filter(|(way, _)| {
                let can = as_root || way.by == By::Everybody;
                can != out.contains_key(way.what)
            })
            .collect();
        assert!(
            wrong.is_empty(),
            "without cgfw, root: {as_root}: {wrong:#?}"
        );
    }
    let mut reports = Vec::new();
    for policy in policies {
        for user in [&[][..], &["--user", "dev"]] {
            let cgfw = lab.cgfw().args(*policy).args(user).arg("-q").child(python);
            let (out, lines) = attempt(lab, ways, cgfw);
            assert!(out.is_empty(), "{policy:?} {user:?}: {out:?} {lines:#?}");
            reports.extend(lines);
        }
    }
    reports
}

/// Let every way be tried, at once; returns how many packets of each way were seen, and
/// the line that each printed.
#[track_caller]
fn attempt(
    lab: &Lab,
    ways: &[Way],
    command: Test<'_>,
) -> (BTreeMap<&'static str, usize>, Vec<String>) {
    let sniffer = lab.sniff();
    let output = command.run();
    let lines = ways.iter().enumerate().map(|(number, way)| {
        let prefix = format!("{number}: ");
        let line = output
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("{} was not tried\n{output}", way.what))
            .to_owned()
    });
    let lines = lines.collect();
    (seen(&sniffer, ways), lines)
}

fn seen(sniffer: &Sniffer, ways: &[Way]) -> BTreeMap<&'static str, usize> {
    let packets = sniffer.packets();
    let count = |number| {
        let target = Target::new(number);
        packets
            .iter()
            .filter(|packet| target.is_met_by(packet))
            .count()
    };
    let counts = ways
        .iter()
        .enumerate()
        .map(|(number, way)| (way.what, count(number)));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// One process for each way; each prints its number and what became of it.
fn program(ways: &[Way]) -> String {
    let mut program = PRELUDE.to_owned();
    for (number, way) in ways.iter().enumerate() {
        let Target { v4, v6, mark, .. } = Target::new(number);
        let script = way.script;
        writeln!(
            program,
            "way({number}, '{v4}', '{v6}', b'{mark}', r'''{script}\n''')"
        )
        .unwrap();
    }
    program + "for _ in range(tries):\n    os.wait()\n"
}

const PRELUDE: &str = "
import ctypes, os, signal, socket, struct, subprocess, time, traceback
from socket import AF_INET as V4, AF_INET6 as V6, SOCK_DGRAM as DGRAM, SOCK_STREAM as STREAM
from socket import IPPROTO_IP as IP, IPPROTO_IPV6 as IPV6, SOL_SOCKET
libc = ctypes.CDLL(None, use_errno=True)
socket.setdefaulttimeout(0.5)
PORT, tries = 9, 0

def expire(*_):
    raise TimeoutError('timed out')

def way(number, v4, v6, mark, script):
    global tries, T4, T6, MARK
    tries += 1
    if os.fork():
        return
    signal.signal(signal.SIGALRM, expire)
    signal.alarm(2)
    T4, T6, MARK, result = v4, v6, mark, 'done'
    try:
        exec(script, globals())
    except OSError as error:
        result = str(error)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os.write(1, f'{number}: {result}\\n'.encode())
    os._exit(0)

def udp(family=V4, protocol=0):
    return socket.socket(family, DGRAM, protocol)

def connected(address=None, family=V4, protocol=0):
    s = udp(family, protocol)
    s.connect((address or T4, PORT))
    return s

def tcp(address, port=80):
    socket.create_connection((address, port)).sendall(MARK)

def sockaddr(address, port=PORT, family=V4):
    return struct.pack('=HH4s8x', family, socket.htons(port), socket.inet_aton(address))

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def ipv4(protocol, payload, fragment=0, options=b''):
    return struct.pack('!BBHHHBBH4s4s', 0x45 + len(options) // 4, 0,
                       20 + len(options) + len(payload), 1, fragment, 64, protocol, 0,
                       socket.inet_aton('192.0.2.10'), socket.inet_aton(T4)) + options + payload

def question(*labels, kind=1, klass=1, flags=0x100, count=1):
    name = b''.join(bytes([len(label)]) + label for label in labels)
    return (struct.pack('!6H', 4711, flags, count, 0, 0, 0) + name + bytes(1)
            + struct.pack('!2H', kind, klass))

def ask(packet, server='198.51.100.53'):
    udp(V6 if ':' in server else V4).sendto(packet, (server, 53))

def datagram(port=PORT):
    return struct.pack('!HHHH', 9, port, 8 + len(MARK), 0) + MARK
";
