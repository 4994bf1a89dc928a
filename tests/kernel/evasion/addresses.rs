//! Destinations: every spelling of an address, every device, and those that are many hosts.

use std::net::IpAddr;

use super::{ALLOW_LISTS, Way, check, check_in, root, way};
use crate::support::Lab;
use crate::support::lab::ip;

#[test]
fn spellings() {
    let ways = [
        way("tcp to a v4 literal", "tcp(T4)"),
        way("tcp to a v6 literal", "tcp(T6)"),
        way("udp to a v4 literal", "udp().sendto(MARK, (T4, PORT))"),
        way("udp to a v6 literal", "udp(V6).sendto(MARK, (T6, PORT))"),
        way("tcp to a v4-mapped address", "tcp('::ffff:' + T4)"),
        way(
            "udp to a v4-mapped address",
            "udp(V6).sendto(MARK, ('::ffff:' + T4, PORT))",
        ),
        way(
            "connected udp to a v4-mapped address",
            "connected('::ffff:' + T4, V6).send(MARK)",
        ),
        way(
            "one decimal number",
            "tcp(str(int.from_bytes(socket.inet_aton(T4), 'big')))",
        ),
        way(
            "hexadecimal",
            "tcp(hex(int.from_bytes(socket.inet_aton(T4), 'big')))",
        ),
        way(
            "octal parts",
            "tcp('.'.join('0%o' % part for part in socket.inet_aton(T4)))",
        ),
        way("two parts", "tcp('203.%d' % (113 << 8 | int(T4[10:])))"),
        way(
            "a decimal number in curl",
            "number = int.from_bytes(socket.inet_aton(T4), 'big')
subprocess.run(['curl', '--silent', '--max-time', '1', f'http://{number}/'])",
        ),
        way("tcp to port 0", "tcp(T4, 0)"),
        way(
            "DNS over TLS, to an address",
            "socket.create_connection((T4, 853))",
        ),
    ];
    check(&ways);
}

/// Where a program reads the destination of a v4 header, a v6 header has octets 8 to 11 of
/// its source.
#[test]
fn a_v6_source_that_looks_like_v4_loopback() {
    let Some(lab) = Lab::new() else { return };
    ip(
        lab.client(),
        "addr add 2001:db8:0:1:7f00:1:7f00:1/64 dev eth0 nodad",
    );
    let ways = [
        way(
            "bound to it",
            "s = udp(V6)
s.bind(('2001:db8:0:1:7f00:1:7f00:1', 0))
s.sendto(MARK, (T6, PORT))",
        ),
        way(
            "tcp",
            "socket.create_connection((T6, 80), source_address=('2001:db8:0:1:7f00:1:7f00:1', 0))",
        ),
        way(
            "IPV6_PKTINFO",
            "source = socket.inet_pton(V6, '2001:db8:0:1:7f00:1:7f00:1')
udp(V6).sendmsg([MARK], [(IPV6, socket.IPV6_PKTINFO, source + bytes(4))], 0, (T6, PORT))",
        ),
    ];
    check_in(&lab, &ways, &super::POLICIES);
}

/// IPv6 addresses in which a gateway finds an IPv4 one. Only the well-known prefix of
/// NAT64 has one meaning everywhere; who uses the others is an address of its own to a
/// block list.
#[test]
fn v4_addresses_in_v6_ones() {
    let Some(lab) = Lab::new() else { return };
    let nat64 = [
        way("NAT64 over tcp", "tcp('64:ff9b::' + T4)"),
        way(
            "NAT64 over udp",
            "udp(V6).sendto(MARK, ('64:ff9b::' + T4, PORT))",
        ),
    ];
    check_in(&lab, &nat64, &super::POLICIES);
    // The address of a blocked name, here by way of its alias, is known in this form too.
    let fetch = "dig cdn.example >/dev/null
        curl --silent --max-time 2 http://[64:ff9b::198.51.100.10]/";
    lab.sh(fetch)
        .stdout("hello from [64:ff9b::c633:640a]\n")
        .run();
    lab.cgfw()
        .args(["--block", "github.com"])
        .sh(fetch)
        .status(7)
        .run();
    let others = [
        way("IPv4-compatible", "udp(V6).sendto(MARK, ('::' + T4, PORT))"),
        way(
            "6to4",
            "udp(V6).sendto(MARK, ('2002:%02x%02x:%02x%02x::1' % tuple(socket.inet_aton(T4)), PORT))",
        ),
        way(
            "Teredo",
            "udp(V6).sendto(MARK, ('2001:0:%02x%02x:%02x%02x::1' % tuple(socket.inet_aton(T4)), PORT))",
        ),
        way(
            "ISATAP",
            "udp(V6).sendto(MARK, ('2001:db8:300::5efe:' + T4, PORT))",
        ),
        way(
            "NAT64 under a prefix of one's own",
            "udp(V6).sendto(MARK, ('2001:db8:301::' + T4, PORT))",
        ),
    ];
    check_in(&lab, &others, &ALLOW_LISTS);
}

#[test]
fn devices() {
    const WAYS: [Way; 8] = [
        way(
            "SO_BINDTODEVICE",
            "s = udp()
s.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
s.sendto(MARK, (T4, PORT))",
        ),
        way(
            "SO_BINDTODEVICE, tcp",
            "s = socket.socket()
s.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
s.connect((T4, 80))",
        ),
        way(
            "IP_UNICAST_IF",
            "s = udp()
s.setsockopt(IP, 50, struct.pack('!I', socket.if_nametoindex('eth0')))
s.sendto(MARK, (T4, PORT))",
        ),
        way(
            "IPV6_UNICAST_IF",
            "s = udp(V6)
s.setsockopt(IPV6, 76, struct.pack('!I', socket.if_nametoindex('eth0')))
s.sendto(MARK, (T6, PORT))",
        ),
        way(
            "IP_PKTINFO",
            "info = struct.pack('=i4s4s', socket.if_nametoindex('eth0'), bytes(4), bytes(4))
udp().sendmsg([MARK], [(IP, 8, info)], 0, (T4, PORT))",
        ),
        way(
            "SO_DONTROUTE to the link",
            "s = udp(V6)
s.setsockopt(SOL_SOCKET, socket.SO_DONTROUTE, 1)
s.sendto(MARK, ('fe80::77%eth0', PORT))",
        ),
        root(
            "SO_MARK",
            "s = udp()
s.setsockopt(SOL_SOCKET, socket.SO_MARK, 4711)
s.sendto(MARK, (T4, PORT))",
        ),
        root(
            "IP_TRANSPARENT with the address of another host",
            "s = udp()
s.setsockopt(IP, 19, 1)
s.bind(('198.51.100.99', 0))
s.sendto(MARK, (T4, PORT))",
        ),
    ];
    let Some(lab) = Lab::new() else { return };
    // Somebody has to answer for the link-local address before a packet goes out to it.
    ip(
        lab.client(),
        "neigh add fe80::77 lladdr 02:00:00:00:00:77 dev eth0",
    );
    check_in(&lab, &WAYS, &super::POLICIES);
}

/// 127.0.0.1 is an address of this host, and what is for port 53 is redirected there.
#[test]
fn loopback_addresses_on_the_wire() {
    check(&[
        way(
            "127.0.0.99",
            "s = udp()
s.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
s.sendto(MARK, ('127.0.0.99', PORT))",
        ),
        way(
            "127.0.0.1",
            "s = udp()
s.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
s.sendto(MARK, ('127.0.0.1', PORT))",
        ),
        way(
            "127.0.0.1 by IP_UNICAST_IF",
            "s = udp()
s.setsockopt(IP, 50, struct.pack('!I', socket.if_nametoindex('eth0')))
s.bind(('192.0.2.10', 0))
s.sendto(MARK, (T4, PORT))",
        ),
        way(
            "port 53 of another host",
            "s = udp()
s.setsockopt(SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
s.sendto(MARK, (T4, 53))",
        ),
    ]);
}

#[test]
fn many_at_once() {
    check(&[
        way(
            "limited broadcast",
            "s = udp()
s.setsockopt(SOL_SOCKET, socket.SO_BROADCAST, 1)
s.sendto(MARK, ('255.255.255.255', PORT))",
        ),
        way(
            "broadcast on the subnet",
            "s = udp()
s.setsockopt(SOL_SOCKET, socket.SO_BROADCAST, 1)
s.sendto(MARK, ('192.0.2.255', PORT))",
        ),
        way("multicast", "udp().sendto(MARK, ('239.1.2.3', PORT))"),
        way("mDNS", "udp().sendto(MARK, ('224.0.0.251', 5353))"),
        way(
            "mDNS over v6",
            "udp(V6).sendto(MARK, ('ff02::fb%eth0', 5353))",
        ),
        way("LLMNR", "udp().sendto(MARK, ('224.0.0.252', 5355))"),
        way(
            "LLMNR over v6",
            "udp(V6).sendto(MARK, ('ff02::1:3%eth0', 5355))",
        ),
        way("SSDP", "udp().sendto(MARK, ('239.255.255.250', 1900))"),
        way(
            "all routers",
            "udp(V6).sendto(MARK, ('ff02::2%eth0', PORT))",
        ),
        way(
            "multicast with a device chosen by IP_MULTICAST_IF",
            "s = udp()
s.setsockopt(IP, socket.IP_MULTICAST_IF, socket.inet_aton('192.0.2.10'))
s.sendto(MARK, ('239.1.2.4', PORT))",
        ),
    ]);
}

/// Joining a group makes the kernel itself say so (IGMP, MLD), from no socket that could
/// be filtered: to the link and no farther (RFC 3376 section 4, RFC 3810 section 5).
/// What the socket then sends is filtered.
#[test]
fn group_membership_stays_on_the_link() {
    let Some(lab) = Lab::new() else { return };
    let ways = [
        way(
            "a member of a group",
            "s = udp()
group = socket.inet_aton('239.1.2.5')
s.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton('192.0.2.10'))
s.sendto(MARK, ('239.1.2.5', PORT))",
        ),
        way(
            "a member of a group of v6",
            "s = udp(V6)
group = socket.inet_pton(V6, 'ff05::1:3')
s.setsockopt(IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack('=I', socket.if_nametoindex('eth0')))
s.sendto(MARK, ('ff05::1:3', PORT, 0, socket.if_nametoindex('eth0')))",
        ),
    ];
    check_in(&lab, &ways, &super::POLICIES);
    let sniffer = lab.sniff();
    lab.cgfw()
        .args(["--allow", "example.com", "-q"])
        .child(["python3", "ways.py"])
        .run();
    for packet in sniffer.packets() {
        let (hops, is_link_scope) = match packet.destination {
            IpAddr::V4(to) => (packet.bytes[8], to.octets()[..3] == [224, 0, 0]),
            IpAddr::V6(to) => (packet.bytes[7], to.segments()[0] == 0xff02),
        };
        // Neighbour discovery is for the link too, and says so with 255 (RFC 4861).
        let is_for_the_link = hops == 1 && is_link_scope || hops == 255;
        assert!(is_for_the_link, "{packet:?}");
    }
}
