//! Questions: what a blocked name can be dressed up as. The mark is a label of each name,
//! so that a question that is forwarded by anybody is seen.

use super::{check_in, way};
use crate::support::Lab;

const BLOCK: &[&str] = &["--block", "github.com,b\u{fc}cher.example"];
const ALLOW: &[&str] = &["--allow", "example.com"];

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn blocked_names_do_not_leave_in_any_question() {
    let Some(lab) = Lab::new() else { return };
    lab.sh("echo search corp.example >> /etc/resolv.conf").run();
    let ways = [
        way("A", "ask(question(MARK, b'github', b'com'))"),
        way(
            "every type, ANY and transfers and private ones too",
            "for kind in [*range(1, 300), 32768, 32769, 65280, 65534, 65535]:
    ask(question(MARK, b'github', b'com', kind=kind))",
        ),
        way(
            "every class",
            "for klass in [2, 3, 4, 254, 255, 65280]:
    ask(question(MARK, b'github', b'com', klass=klass))",
        ),
        way(
            "every operation",
            "for operation in range(1, 16):
    ask(question(MARK, b'github', b'com', flags=0x100 | operation << 11))",
        ),
        way(
            "a response",
            "ask(question(MARK, b'github', b'com', flags=0x8180))",
        ),
        way(
            "the second question",
            "ask(question(b'example', b'com', count=2) + question(MARK, b'github', b'com')[12:])",
        ),
        way(
            "a question that is not counted",
            "ask(question(b'example', b'com') + question(MARK, b'github', b'com')[12:])",
        ),
        way(
            "a record beside a permitted question",
            "record = question(MARK, b'github', b'com')[12:] + struct.pack('!IH4s', 60, 4, bytes(4))
for section in range(1, 4):
    packet = bytearray(question(b'example', b'com') + record)
    packet[5 + 2 * section] = 1
    ask(bytes(packet))",
        ),
        way(
            "an option of EDNS",
            "option = struct.pack('!HH', 65001, len(MARK)) + MARK
record = struct.pack('!BHHIH', 0, 41, 1232, 0, len(option)) + option
packet = bytearray(question(b'example', b'com') + record)
packet[11] = 1
ask(bytes(packet))",
        ),
        way(
            "another case",
            "ask(question(MARK, b'GitHub', b'cOM'))",
        ),
        way(
            "a deep name",
            "ask(question(*[b'a'] * 100, MARK, b'github', b'com'))",
        ),
        way(
            "compression within the question",
            "ask(question(MARK, b'github', b'com')[:-4] + struct.pack('!HH', 1, 1))
name = bytes([len(MARK)]) + MARK + b'\\xc0' + bytes([12 + 1 + len(MARK) + 2 + 4])
head = question(b'x', count=2)[:12]
ask(head + name + struct.pack('!HH', 1, 1) + b'\\x06github\\x03com\\x00' + struct.pack('!HH', 1, 1))",
        ),
        way(
            "IDN in ASCII",
            "ask(question(MARK, b'XN--Bcher-KVA', b'example'))",
        ),
        way(
            "IDN by the resolver of the C library",
            "try: socket.getaddrinfo(MARK.decode() + '.b\\u00fccher.example', 80)
except socket.gaierror: pass",
        ),
        way(
            "a search suffix",
            "try: socket.getaddrinfo(MARK.decode() + '.github.com', 80)
except socket.gaierror: pass",
        ),
        way(
            "a final dot",
            "try: socket.getaddrinfo(MARK.decode() + '.github.com.', 80)
except socket.gaierror: pass",
        ),
        way(
            "escapes in dig",
            "subprocess.run(['dig', '+tries=1', '+time=1', MARK.decode() + '.git\\\\104ub.com'],
               stdout=subprocess.DEVNULL)",
        ),
        way(
            "another name server",
            "ask(question(MARK, b'github', b'com'), '203.0.113.99')",
        ),
        way(
            "a v6 name server",
            "ask(question(MARK, b'github', b'com'), '2001:db8:53::53')",
        ),
        way(
            "a name server in v4-mapped form",
            "s = udp(V6)
s.sendto(question(MARK, b'github', b'com'), ('::ffff:198.51.100.53', 53))",
        ),
        way(
            "TCP, the length in two pieces and the second of two messages",
            "s = socket.create_connection(('198.51.100.53', 53))
for message in [question(b'example', b'com'), question(MARK, b'github', b'com')]:
    for piece in [bytes([len(message) >> 8]), bytes([len(message) & 255]), message]:
        s.sendall(piece)
        time.sleep(0.02)
time.sleep(0.2)",
        ),
        way(
            "TCP over v6",
            "message = question(MARK, b'github', b'com')
s = socket.create_connection(('2001:db8:53::53', 53))
s.sendall(struct.pack('!H', len(message)) + message)
time.sleep(0.2)",
        ),
        way(
            "no DNS at all, to port 53",
            "udp().sendto(MARK, ('203.0.113.99', 53))",
        ),
        way(
            "no DNS at all, to port 53, over TCP",
            "s = socket.create_connection(('198.51.100.53', 53))
s.sendall(MARK)
time.sleep(0.2)",
        ),
    ];
    check_in(&lab, &ways, &[BLOCK, ALLOW]);
}

/// With an allow list a name that merely looks permitted is blocked; with a block list it
/// is another name.
#[test]
fn names_that_look_permitted_do_not_leave() {
    let Some(lab) = Lab::new() else { return };
    let ways = [
        way(
            "a label that ends alike",
            "ask(question(MARK + b'example', b'com'))",
        ),
        way(
            "a label that contains a dot",
            "ask(question(MARK + b'.example', b'com'))
ask(question(MARK, b'example.com'))
ask(question(MARK, b'evil', b'test.example', b'com'))",
        ),
        way(
            "an escape",
            "ask(question(MARK, b'ex\\\\097mple', b'com'))
ask(question(MARK + b'\\\\.example', b'com'))",
        ),
        way(
            "a zero octet",
            "ask(question(MARK, b'example', b'com\\0'))
ask(question(MARK, b'example\\0', b'com'))",
        ),
        way(
            "spaces",
            "ask(question(MARK, b'example ', b'com'))
ask(question(MARK, b' example', b'com'))",
        ),
        way(
            "permitted labels in front",
            "ask(question(b'example', b'com', MARK, b'test'))",
        ),
        way("the top alone", "ask(question(MARK, b'com'))"),
        way(
            "the name of an address",
            "ask(question(MARK, b'20', b'113', b'0', b'203', b'in-addr', b'arpa', kind=12))",
        ),
        way(
            "letters of another script",
            "ask(question(MARK, 'ex\\u0430mple'.encode(), b'com'))",
        ),
        way(
            "an octet with the bit of lower case",
            "ask(question(MARK, b'example', b'com'.replace(b'm', b'M\\xad')))",
        ),
    ];
    check_in(&lab, &ways, &[ALLOW]);
    // What is permitted does leave, in any case.
    let sniffer = lab.sniff();
    lab.cgfw()
        .args(ALLOW)
        .child(["dig", "+short", "leaves.EXAMPLE.com"])
        .run();
    assert!(!sniffer.packets_with(b"leaves").is_empty());
}

/// A name that resolves to an address of the host, or to the metadata service, changes
/// nothing about what may be reached there: neither for those who may, nor otherwise.
#[test]
fn rebinding() {
    let Some(lab) = Lab::new() else { return };
    // Neither the proxy nor the child's own listener is blocked with a name that is.
    let script = "
import socket
for host in ['127.0.0.1', '192.0.2.10']:
    listener = socket.create_server((host, 0))
    client = socket.create_connection(listener.getsockname(), 2)
    print(host, 'open')
print(socket.getaddrinfo('example.com', 80, socket.AF_INET)[0][4])
";
    for user in [&[][..], &["--user", "dev"]] {
        for policy in ["--block", "--allow"] {
            let names = if policy == "--block" {
                "rebind.example"
            } else {
                "rebind.example,example.com"
            };
            lab.cgfw()
                .args([policy, names])
                .args(user)
                .sh(&format!(
                    "dig +short rebind.example >/dev/null; python3 -c \"{script}\""
                ))
                .stdout("127.0.0.1 open\n192.0.2.10 open\n('203.0.113.20', 80)\n")
                .run();
        }
    }
    // The name leads nowhere that the address alone would not: the metadata service.
    let sniffer = lab.sniff();
    let fetch = "for i in 1 2; do curl --silent --max-time 1 http://rebind.example/; done; \
                 curl --silent --max-time 1 http://169.254.169.254/";
    lab.sh(fetch).any_status().run();
    assert!(!sniffer.packets_to([169, 254, 169, 254]).is_empty());
    let sniffer = lab.sniff();
    lab.cgfw()
        .args(["--allow", "*.example"])
        .sh(fetch)
        .any_status()
        .run();
    assert!(sniffer.packets_to([169, 254, 169, 254]).is_empty());
}
