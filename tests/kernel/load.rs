//! What the filter costs, and that it bears load.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::Lab;

#[test]
fn the_proxy_bears_a_flood_of_unanswered_questions() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import os, socket, time
flood = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(50)]
for n in range(30000):
    name = b'%010d' % n
    flood[n % 50].sendto(bytes.fromhex('%04x' % (n & 0xffff)) + bytes.fromhex(
        '01000001000000000000') + b'\\x0a' + name + b'\\x07example\\x00\\x00\\x01\\x00\\x01',
        ('198.51.100.70', 53))
print('flooded', flush=True)
ask = bytes.fromhex('123401000001000000000000076578616d706c6503636f6d0000010001')
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
answered, deadline = 0, time.time() + 20
# Turned away while too many wait for the silent server, but not for long.
while not answered and time.time() < deadline:
    s.sendto(ask, ('198.51.100.53', 53))
    try:
        answered += len(s.recv(512)) > len(ask)
    except TimeoutError:
        pass
    time.sleep(0.1)
print(answered > 0, flush=True)
while not os.path.exists('go'):
    time.sleep(0.01)
";
    let mut running = lab
        .cgfw()
        .args(["--block", "github.com", "-q"])
        .child(["python3", "-c", script])
        .stdout("flooded\nTrue\n")
        .spawn();
    running.wait_for_stdout("\nTrue");
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    lab.write("go", "");
    running.finish();
    // Ours is about 5 MB at rest; a question that is kept for 30000 clients adds up.
    assert!(peak < 64 * 1024, "{peak} kB");
}

#[test]
fn every_question_of_a_burst_is_answered() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
def question(n):
    name = b'n%05d' % n
    return (struct.pack('!HHHHHH', n, 0x100, 1, 0, 0, 0) + bytes([len(name)]) + name
            + b'\\x04load\\x07example\\x00\\x00\\x01\\x00\\x01')
done, sent = set(), 0
while len(done) < 4000:
    while sent < 4000 and sent - len(done) < 64:
        s.sendto(question(sent), ('198.51.100.53', 53))
        sent += 1
    done.add(s.recv(512)[:2])
print(len(done))
";
    let started = Instant::now();
    lab.cgfw()
        .args(["--block", "github.com", "-q"])
        .child(["python3", "-c", script])
        .stdout("4000\n")
        .run();
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(lab.internet().questions_about("load.example").len(), 4000);
}

#[test]
fn packets_are_not_events() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(["--block", "github.com", "--audit-log", "audit.jsonl"])
        .child(["blast", "203.0.113.99", "9", "0.5"])
        .run();
    // One connection is one event, however many packets it has.
    let lines = lab.read("audit.jsonl");
    let contacts = lines
        .lines()
        .filter(|line| line.contains("\"dst_ip\":\"203.0.113.99\""));
    assert_eq!(contacts.count(), 1, "{lines}");
}

#[test]
fn the_programs_explain_themselves_only_if_asked() {
    let Some(lab) = Lab::new() else { return };
    let run = |option: &str| {
        let output = lab
            .cgfw()
            .args(["--block", "203.0.113.99", option])
            .child(["curl", "--silent", "http://203.0.113.99/"])
            .status(7)
            .run();
        output.stderr.lines().count()
    };
    assert!(run("-vvv") > run("-v"));
}
