//! The proxy: what it refuses, and that everything else passes unchanged in meaning.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::support::{Lab, dns};

const BLOCK: [&str; 2] = ["--block", "github.com"];

/// Run dig(1) behind the filter and compare its short answer with the one without filter.
#[track_caller]
fn check_same(lab: &Lab, dig: &str) {
    let bare = lab.sh(dig).run();
    assert!(
        !bare.stdout.is_empty(),
        "{dig} shows nothing even unfiltered"
    );
    lab.cgfw().args(BLOCK).sh(dig).stdout(bare.stdout).run();
}

#[test]
fn every_record_type_passes_unchanged() {
    let Some(lab) = Lab::new() else { return };
    for question in [
        "example.com A",
        "example.com AAAA",
        "example.com MX",
        "example.com TXT",
        "example.com TYPE4711",
        "_http._tcp.example.com SRV",
        "alias.example A",
        "allowed.example AAAA",
    ] {
        check_same(&lab, &format!("dig +short {question}"));
        check_same(&lab, &format!("dig +short +tcp {question}"));
        check_same(&lab, &format!("dig +short +noedns {question}"));
    }
    check_same(
        &lab,
        "dig +noall +comments +authority nxdomain.example | grep -v id:",
    );
    check_same(&lab, "dig servfail.example | grep -o status:.*,");
    check_same(&lab, "dig refused.example | grep -o status:.*,");
    check_same(&lab, "dig example.com SOA | grep -o 'ANSWER: 0'");
}

#[test]
fn service_bindings_are_withheld() {
    let Some(lab) = Lab::new() else { return };
    // Their hints and ECH keys would lead past the pins.
    for kind in ["TYPE65", "TYPE64"] {
        lab.cgfw()
            .args(BLOCK)
            .sh(&format!("dig example.com {kind}"))
            .stdout_has("status: NOERROR")
            .stdout_has("ANSWER: 0")
            .run();
    }
}

#[test]
fn a_truncated_answer_is_retried_over_tcp() {
    let Some(lab) = Lab::new() else { return };
    let cgfw = || lab.cgfw().args(BLOCK);
    cgfw()
        .sh("dig +ignore +bufsize=512 big.example TXT")
        .stdout_has("flags: qr tc")
        .run();
    cgfw()
        .sh("dig +short big.example TXT | wc -lc")
        .stdout_has("20")
        .stdout_has("5060")
        .run();
    // Every client gets there, and may connect to any of the 250 addresses.
    for client in ["curl --silent", "busybox wget -q -O -", "golang"] {
        cgfw()
            .sh(&format!("{client} http://big.example/"))
            .stdout_has("hello from big.example")
            .run();
    }
    cgfw()
        .args(["--allow", "big.example", "--default", "block"])
        .sh("getent ahostsv4 big.example >/dev/null; curl --silent http://203.0.113.250/")
        .stdout("hello from 203.0.113.250\n")
        .run();
}

#[test]
fn non_edns_clients_get_no_edns_and_no_more_than_512_bytes() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(BLOCK)
        .sh("dig +noedns +ignore big.example A; dig +noedns github.com")
        .stdout_has("flags: qr tc")
        .stdout_has("status: NXDOMAIN")
        .run();
    assert!(!output.stdout.contains("OPT PSEUDOSECTION"), "{output}");
}

#[test]
fn the_proxy_speaks_edns_for_itself() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(BLOCK)
        .sh("dig +bufsize=65000 +cookie=0123456789abcdef +subnet=192.0.2.0/24 example.com")
        .stdout_has("EDNS: version: 0")
        .run();
    // RFC 6891 section 6.1.3: an unknown version is answered with BADVERS, not served.
    lab.cgfw()
        .args(BLOCK)
        .sh("dig +edns=1 +noednsnegotiation example.com")
        .stdout_has("status: BADVERS")
        .run();
    let questions = lab.internet().questions_about("example.com");
    assert!(
        questions
            .iter()
            .all(|question| question.payload != Some(65000))
    );
}

#[test]
fn the_case_of_a_name_is_kept() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(BLOCK)
        .sh("dig ExAmPlE.cOm; dig GitHUB.com")
        .stdout_has(";ExAmPlE.cOm.")
        .stdout_has("ExAmPlE.cOm.\t")
        .stdout_has(";GitHUB.com.")
        .stdout_has("status: NXDOMAIN")
        .stderr_has("domain=github.com.")
        .run();
}

#[test]
fn a_refusal_explains_itself() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(BLOCK)
        .child(["dig", "api.github.com"])
        .stdout_has("status: NXDOMAIN")
        .stdout_has("EDE: 15 (Blocked)")
        .run();
    let extended = output
        .stdout
        .lines()
        .find(|line| line.contains("EDE:"))
        .unwrap();
    assert!(
        extended.contains("github.com"),
        "the rule is not named\n{output}"
    );
}

#[test]
fn a_name_behind_an_alias_is_judged() {
    let Some(lab) = Lab::new() else { return };
    for alias in ["cdn.example", "chain.example"] {
        let output = lab
            .cgfw()
            .args(BLOCK)
            .child(["dig", alias])
            .stdout_has("status: NXDOMAIN")
            .run();
        assert!(!output.stdout.contains("198.51.100.10"), "{output}");
        assert_eq!(output.refusal()["domain"], format!("{alias}."), "{output}");
        lab.cgfw()
            .args(BLOCK)
            .child(["curl", "--silent", &format!("http://{alias}/")])
            .status(6)
            .run();
    }
    lab.cgfw()
        .args(BLOCK)
        .child(["curl", "--silent", "http://alias.example/"])
        .stdout("hello from alias.example\n")
        .run();
}

#[test]
fn only_the_chain_from_the_question_is_pinned() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(["--allow", "stuffed.example"])
        .sh("curl --silent http://stuffed.example/; curl --silent http://203.0.113.66/")
        .stdout("hello from stuffed.example\n")
        .status(7)
        .run();
    assert_eq!(output.refusal()["blockedAt"], "connect", "{output}");
}

#[test]
fn forged_answers_are_not_believed() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(BLOCK)
        .child(["dig", "+short", "forged.example"])
        .stdout("203.0.113.24\n")
        .run();
}

#[test]
fn upstream_ids_and_ports_are_random() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(BLOCK)
        .sh("for i in $(seq 40); do echo n$i.load.example; done | xargs -n 1 dig +short")
        .run();
    let questions = lab.internet().questions_about("load.example");
    let ids: HashSet<u16> = questions.iter().map(|question| question.id).collect();
    let ports: HashSet<u16> = questions
        .iter()
        .map(|question| question.client.port())
        .collect();
    assert!(questions.len() >= 40);
    assert!(ids.len() > 30, "ids repeat: {ids:?}");
    assert!(ports.len() > 4, "ports repeat: {ports:?}");
    let mut in_order: Vec<u16> = questions.iter().map(|question| question.id).collect();
    in_order.dedup();
    assert!(!in_order.is_sorted(), "ids are counted up");
}

#[test]
fn the_next_server_is_asked_when_one_is_dead() {
    let Some(lab) = Lab::new() else { return };
    for first in [dns::DEAD, dns::REFUSING, dns::FAILING, dns::SILENT] {
        // With a default of block the proxy asks on its own behalf, and fails over.
        lab.cgfw()
            .args(["--allow", "example.com"])
            .args(["--upstream-dns", &first.to_string()])
            .args(["--upstream-dns", &dns::OTHER.to_string()])
            .child(["dig", "+short", "+tries=1", "+timeout=9", "example.com"])
            .stdout("203.0.113.20\n")
            .run();
        // With a default of allow the client's own failover works as without cgfw.
        lab.nameservers(&[&first.to_string(), &dns::OTHER.to_string()], 1);
        lab.cgfw()
            .args(BLOCK)
            .child(["curl", "--silent", "http://example.com/"])
            .stdout("hello from example.com\n")
            .run();
    }
}

#[test]
fn a_dead_upstream_is_a_failure_in_bounded_time() {
    let Some(lab) = Lab::new() else { return };
    for server in [dns::DEAD, dns::SILENT, dns::REFUSING] {
        for transport in ["+notcp", "+tcp"] {
            let started = Instant::now();
            lab.cgfw()
                .args([
                    "--allow",
                    "example.com",
                    "--upstream-dns",
                    &server.to_string(),
                ])
                .child(["dig", transport, "+tries=1", "+timeout=20", "example.com"])
                .stdout_has("status: SERVFAIL")
                .run();
            let elapsed = started.elapsed();
            assert!(
                elapsed < Duration::from_secs(12),
                "{server} took {elapsed:?}"
            );
        }
    }
}

#[test]
fn a_slow_answer_arrives_and_holds_nobody_up() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(BLOCK)
        .sh("dig +short slow.example > slow & sleep 0.1; \
             dig +short +tries=1 +timeout=1 example.com; wait; cat slow")
        .stdout("203.0.113.20\n203.0.113.23\n")
        .run();
}

#[test]
fn the_server_that_was_asked_answers() {
    let Some(lab) = Lab::new() else { return };
    let whoami = |server: &str| format!("dig +short {server} whoami.example TXT");
    // With default allow: the one the child chose, over either transport.
    let cgfw = || lab.cgfw().args(BLOCK);
    cgfw().sh(&whoami("")).stdout("\"198.51.100.53\"\n").run();
    cgfw()
        .sh(&whoami("@198.51.100.54"))
        .stdout("\"198.51.100.54\"\n")
        .run();
    cgfw()
        .sh(&whoami("@198.51.100.54 +tcp"))
        .stdout("\"198.51.100.54\"\n")
        .run();
    cgfw()
        .sh(&whoami("@2001:db8:53::54"))
        .stdout("\"2001:db8:53::54\"\n")
        .run();
    cgfw()
        .sh(&format!("{}; {}", whoami("@198.51.100.54"), whoami("")))
        .stdout("\"198.51.100.54\"\n\"198.51.100.53\"\n")
        .run();
    // With default block: the system's, so that a server of the child's cannot pin.
    let cgfw = || lab.cgfw().args(["--allow", "whoami.example"]);
    cgfw()
        .sh(&whoami("@198.51.100.54"))
        .stdout("\"198.51.100.53\"\n")
        .run();
    cgfw()
        .args(["--upstream-dns", "2001:db8:53::54"])
        .sh(&whoami(""))
        .stdout("\"2001:db8:53::54\"\n")
        .run();
    cgfw()
        .args(["--upstream-dns", "198.51.100.54:53"])
        .sh(&whoami(""))
        .stdout("\"198.51.100.54\"\n")
        .run();
}

#[test]
fn the_redirect_is_invisible() {
    let Some(lab) = Lab::new() else { return };
    // dig names the server that answered; python asks for its peer and its sender.
    lab.cgfw()
        .args(BLOCK)
        .child(["dig", "example.com"])
        .stdout_has("SERVER: 198.51.100.53#53")
        .run();
    let script = "
import socket
question = bytes.fromhex('123401000001000000000000076578616d706c6503636f6d0000010001')
for family, server in [(socket.AF_INET, '198.51.100.53'), (socket.AF_INET6, '2001:db8:53::53'),
                       (socket.AF_INET6, '::ffff:198.51.100.53')]:
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.sendto(question, (server, 53))
    print(s.recvfrom(512)[1][0])
    s.connect((server, 53))
    print(s.getpeername()[0])
    s.send(question)
    print(s.recvfrom(512)[1][0])
    t = socket.create_connection((server, 53), 5)
    print(t.getpeername()[0])
";
    let four = "198.51.100.53\n".repeat(4);
    let six = "2001:db8:53::53\n".repeat(4);
    let mapped = "::ffff:198.51.100.53\n".repeat(4);
    lab.command("python3")
        .args(["-c", script])
        .stdout(format!("{four}{six}{mapped}"))
        .run();
    lab.cgfw()
        .args(BLOCK)
        .child(["python3", "-c", script])
        .stdout(format!("{four}{six}{mapped}"))
        .run();
}

#[test]
fn hostile_packets_do_not_end_the_proxy() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import os, random, socket, struct
random.seed(4711)
good = bytes.fromhex('123401000001000000000000076578616d706c6503636f6d0000010001')
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server = ('198.51.100.53', 53)
for n in range(3000):
    packet = bytearray(random.choice([good, os.urandom(random.randrange(1, 600))]))
    for _ in range(random.randrange(0, 6)):
        packet[random.randrange(len(packet))] = random.randrange(256)
    udp.sendto(bytes(packet[:random.randrange(1, len(packet) + 1)]), server)
loop = good[:12] + b'\\xc0\\x0c\\x00\\x01\\x00\\x01'
udp.sendto(loop, server)
held = []
for n in range(100):
    tcp = socket.create_connection(server, 5)
    tcp.sendall(random.choice([b'\\xff\\xff', b'\\x00', struct.pack('!H', 9) + b'garbage!!']))
    held.append(tcp)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(5)
udp.sendto(good, server)
print(len(udp.recv(512)) > len(good))
tcp = socket.create_connection(server, 5)
tcp.settimeout(5)
tcp.sendall(struct.pack('!H', len(good)) + good)
print(len(tcp.recv(512)) > len(good))
";
    lab.cgfw()
        .args(BLOCK)
        .child(["python3", "-c", script])
        .stdout("True\nTrue\n")
        .run();
}

#[test]
fn malformed_questions_get_a_format_error_or_nothing() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import socket
def ask(packet):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(1)
    udp.sendto(packet, ('198.51.100.53', 53))
    try:
        reply = udp.recv(512)
        return reply[:2] == packet[:2] and reply[3] & 15
    except TimeoutError:
        return 1
header = bytes.fromhex('12340100000100000000')
print(ask(header + bytes.fromhex('0000076578616d706c65')))
print(ask(bytes.fromhex('123401000002000000000000000001000100000100')))
print(ask(bytes.fromhex('1234')))
";
    lab.cgfw()
        .args(BLOCK)
        .child(["python3", "-c", script])
        .stdout("1\n1\n1\n")
        .run();
}

#[test]
fn search_suffixes_do_not_help() {
    let Some(lab) = Lab::new() else { return };
    lab.sh("echo search corp.example >> /etc/resolv.conf").run();
    lab.cgfw()
        .args(BLOCK)
        .sh("getent ahosts github.com; dig +search +ndots=3 api.github.com")
        .stdout_has("status: NXDOMAIN")
        .run();
    assert!(
        lab.internet()
            .questions_about("corp.example")
            .iter()
            .all(|question| !question.name.contains("github")),
        "the blocked name went out with a suffix"
    );
}

#[test]
fn local_resolver_services_are_masked() {
    let Some(lab) = Lab::new() else { return };
    // glibc asks nscd before it asks DNS, over a unix socket that no filter sees.
    lab.sh("mkdir -p /run/nscd /run/systemd/resolve").run();
    let nscd = lab
        .command("python3")
        .args([
            "-c",
            "
import socket
listener = socket.socket(socket.AF_UNIX)
listener.bind('/run/nscd/socket')
listener.listen()
varlink = socket.socket(socket.AF_UNIX)
varlink.bind('/run/systemd/resolve/io.systemd.Resolve')
varlink.listen()
print('listening', flush=True)
while True:
    listener.accept()[0].close()
    print('asked', flush=True)
",
        ])
        .spawn();
    let mut nscd = nscd;
    nscd.wait_for_stdout("listening");
    lab.sh("getent ahosts example.com").run();
    nscd.wait_for_stdout("asked");
    let asked = nscd.stdout();
    lab.cgfw()
        .args(BLOCK)
        .sh("getent ahosts example.com; nc -U /run/systemd/resolve/io.systemd.Resolve </dev/null")
        .stdout_has("203.0.113.20")
        .status(1)
        .run();
    assert_eq!(
        nscd.stdout(),
        asked,
        "nscd was asked from behind the filter"
    );
    drop(nscd);
    lab.sh("rm -r /run/nscd /run/systemd").run();
}

#[test]
fn other_mounts_still_propagate() {
    let Some(lab) = Lab::new() else { return };
    lab.sh("mkdir mounted").run();
    lab.cgfw()
        .args(BLOCK)
        .sh("mount -t tmpfs lab mounted && echo inside > mounted/file")
        .run();
    lab.sh("cat mounted/file && umount mounted && rmdir mounted")
        .stdout("inside\n")
        .run();
    let mut running = lab
        .cgfw()
        .args(BLOCK)
        .sh("mkdir later; echo ready; while ! [ -e later/file ]; do sleep 0.01; done; cat later/file")
        .spawn();
    running.wait_for_stdout("ready");
    lab.sh("mount -t tmpfs lab later && echo outside > later/file")
        .run();
    let output = running.finish();
    assert_eq!(output.stdout, "ready\noutside\n");
    lab.sh("umount later").run();
}

#[test]
fn a_stub_resolver_on_loopback_is_asked() {
    let Some(lab) = Lab::new() else { return };
    // As systemd-resolved or dnsmasq have it; it is outside the filter, and cgfw asks it.
    lab.nameservers(&["127.0.0.53"], 5);
    let stub = "
import socket
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(('127.0.0.53', 53))
print('listening', flush=True)
while True:
    question, client = listener.recvfrom(512)
    upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    upstream.settimeout(2)
    upstream.sendto(question, ('198.51.100.53', 53))
    listener.sendto(upstream.recv(4096), client)
";
    let mut stub = lab.command("python3").args(["-c", stub]).spawn();
    stub.wait_for_stdout("listening");
    for options in [BLOCK, ["--allow", "example.com"]] {
        for client in ["curl --silent", "golang", "busybox wget -q -O -"] {
            lab.cgfw()
                .args(options)
                .sh(&format!(
                    "{client} http://example.com/; {client} http://github.com/ && exit 9; true"
                ))
                .stdout("hello from example.com\n")
                .run();
        }
    }
}

#[test]
fn everything_works_without_ipv6() {
    let Some(lab) = Lab::new() else { return };
    lab.client().run(|| {
        for interface in ["all", "default", "lo"] {
            let file = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            std::fs::write(file, "1").unwrap();
        }
    });
    for client in [
        "curl --silent http://HOST/",
        "musl HOST 80",
        "golang http://HOST/",
    ] {
        let output = lab
            .cgfw()
            .args(BLOCK)
            .sh(&format!(
                "{}; {} && exit 9; true",
                client.replace("HOST", "example.com"),
                client.replace("HOST", "github.com")
            ))
            .stdout_has("hello from example.com")
            .run();
        assert_eq!(output.refusal()["domain"], "github.com.", "{output}");
    }
}
