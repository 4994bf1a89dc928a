//! What went over connections, and how long somebody waited for those that came to nothing.

use std::collections::HashMap;

use serde_json::Value;

use crate::support::Lab;
use crate::support::books::Books;
use crate::support::command::Test;

/// Octets of a file, an upload and the like.
const SIZE: u64 = 1_000_000;
/// What a request or a response has besides, at most.
const HEAD: u64 = 400;

/// What a run told of its connections.
struct Told(Vec<Value>);

impl Told {
    fn of(lab: &Lab) -> Self {
        let log = lab.read("audit.jsonl");
        let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
        let is_of_connections =
            |line: &Value| ["traffic", "unanswered"].contains(&line["event"].as_str().unwrap());
        Self(lines.filter(is_of_connections).collect())
    }

    /// The one line of this kind on this name.
    #[track_caller]
    fn one(&self, event: &str, name: &str) -> &Value {
        let is_it = |line: &&Value| line["event"] == event && line["qname"] == name;
        let mut lines = self.0.iter().filter(is_it);
        match (lines.next(), lines.next()) {
            (Some(line), None) => line,
            _ => panic!("not one {event} of {name}: {:#?}", self.0),
        }
    }
}

fn run(lab: &Lab) -> Test<'_> {
    lab.cgfw()
        .args(["--block", "github.com", "-q", "--audit-log", "audit.jsonl"])
}

#[track_caller]
fn expect_within(line: &Value, field: &str, low: u64, high: u64) {
    let value = line[field].as_u64();
    assert!(
        value.is_some_and(|value| (low..=high).contains(&value)),
        "{field} is not within {low} and {high}: {line:#}"
    );
}

#[test]
fn octets_are_told_by_name_process_and_direction() {
    let Some(lab) = Lab::new() else { return };
    let file = vec![b'x'; usize::try_from(SIZE).unwrap()];
    lab.internet()
        .publish(HashMap::from([("/file".to_owned(), file)]));
    lab.sh(&format!("head -c {SIZE} /dev/zero > file")).run();
    run(&lab)
        .sh("curl -4 -s -o /dev/null http://allowed.example/file
             curl -4 -s -o /dev/null http://alias.example/file http://alias.example/file
             curl -4 -s -T file -H Expect: --max-time 1 http://example.com:9/
             curl -6 -s -o /dev/null https://update.example/file")
        .run();
    let told = Told::of(&lab);
    // Two names of one address.
    for (name, connections) in [("allowed.example", 1), ("alias.example", 2)] {
        let line = told.one("traffic", name);
        assert_eq!(line["connections"], connections, "{line:#}");
        assert_eq!(line["dst_ip"], "203.0.113.21", "{line:#}");
        assert_eq!(line["argv"][5], format!("http://{name}/file"), "{line:#}");
        let most = connections * (SIZE + HEAD);
        expect_within(line, "bytes_received", connections * SIZE, most);
        expect_within(line, "bytes_sent", 1, connections * HEAD);
    }
    let upload = told.one("traffic", "example.com");
    expect_within(upload, "bytes_sent", SIZE, SIZE + HEAD);
    expect_within(upload, "bytes_received", 0, 0);
    let encrypted = told.one("traffic", "update.example");
    assert_eq!(encrypted["dst_port"], 443, "{encrypted:#}");
    expect_within(encrypted, "bytes_received", SIZE, SIZE + SIZE / 50);
    assert_eq!(told.0.len(), 4, "{:#?}", told.0);
}

/// However a socket is closed and by whomever: what was sent is exact, and told of the process
/// that connected.
#[test]
fn what_was_sent_is_told_of_who_connected_whoever_closes() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import os, signal, socket, sys, time
how, name = sys.argv[1:]
s = socket.create_connection((name, 9))
print(name, os.getpid(), flush=True)
if how == 'child':
    if os.fork() == 0:
        time.sleep(0.3)
        s.sendall(b'x' * 3000000)
        os._exit(0)
else:
    s.sendall(b'x' * 3000000)
if how == 'killed':
    os.kill(os.getpid(), signal.SIGKILL)
# What waits to be sent still is.
s.close()
";
    lab.write("send.py", script);
    let output = run(&lab)
        .sh(
            "python3 send.py at-once allowed.example; python3 send.py child example.com; sleep 1
             python3 send.py killed update.example; true",
        )
        .run();
    let told = Told::of(&lab);
    for line in output.stdout.lines() {
        let (name, pid) = line.split_once(' ').unwrap();
        let traffic = told.one("traffic", name);
        assert_eq!(traffic["pid"].to_string(), pid, "{traffic:#}");
        assert_eq!(traffic["bytes_sent"], 3_000_000, "{traffic:#}");
        assert_eq!(traffic["bytes_received"], 0, "{traffic:#}");
    }
    assert_eq!(told.0.len(), 3, "{:#?}", told.0);
}

#[test]
fn waiting_in_vain_is_told_at_once_with_the_name() {
    let Some(lab) = Lab::new() else { return };
    run(&lab)
        .args(["--on-block", "drop"])
        .sh("curl -4 -s --connect-timeout 1 http://void.example/
             curl -4 -s --connect-timeout 1 http://api.github.com/; true")
        .run();
    let told = Told::of(&lab);
    // Nobody is there; and what is blocked is as if nobody were.
    for name in ["void.example", "api.github.com"] {
        let line = told.one("unanswered", name);
        assert_eq!(line["connections"], 1, "{line:#}");
        assert_eq!(line["argv"][0], "curl", "{line:#}");
        expect_within(line, "waited_us", 900_000, 3_000_000);
    }
}

/// Who is turned away has not waited, however long the socket is kept.
#[test]
fn a_refusal_by_the_other_end_takes_no_time() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import socket, time
kept = []
for _ in range(5):
    s = socket.socket()
    kept.append((s, s.connect_ex((socket.gethostbyname('example.com'), 12345))))
time.sleep(1.5)
";
    run(&lab).child(["python3", "-c", script]).run();
    let told = Told::of(&lab);
    let line = told.one("unanswered", "example.com");
    assert_eq!(line["connections"], 5, "{line:#}");
    expect_within(line, "waited_us", 0, 500_000);
}

#[test]
fn what_stays_on_this_host_or_is_accepted_is_not_told() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import socket
for address in ['127.0.0.1', '::1']:
    listener = socket.create_server((address, 0), family=socket.AF_INET6 if ':' in address else socket.AF_INET)
    client = socket.create_connection(listener.getsockname()[:2])
    server, _ = listener.accept()
    client.sendall(b'x' * 1000)
    print(len(server.recv(1000)))
";
    run(&lab)
        .child(["python3", "-c", script])
        .stdout("1000\n1000\n")
        .run();
    let told = Told::of(&lab);
    assert!(told.0.is_empty(), "{:#?}", told.0);
}

/// More destinations than there are sums. Each is a contact, too, so that the ring may be full.
#[test]
fn no_connection_of_many_is_left_out_in_silence() {
    const MANY: u64 = 10_000;
    let Some(lab) = Lab::new() else { return };
    let script = format!(
        "
import socket, time
for n in range({MANY}):
    s = socket.socket()
    s.connect_ex(('203.0.113.99', 20000 + n))
    s.close()
    if n % 100 == 0:
        time.sleep(0.05)
"
    );
    run(&lab).child(["python3", "-c", &script]).run();
    let books = Books::of(lab.read("audit.jsonl").as_bytes());
    let lost = books.lost + books.lines_lost;
    let told = Told::of(&lab).0;
    let told: u64 = told
        .iter()
        .filter_map(|line| line["connections"].as_u64())
        .sum();
    assert!(
        (MANY - lost.min(MANY)..=MANY).contains(&told),
        "{told} told, {lost} lost"
    );
    println!("of {MANY} connections {told} were told, {lost} observations and lines lost");
}

#[test]
fn what_would_have_been_blocked_is_told_with_its_name() {
    let Some(lab) = Lab::new() else { return };
    run(&lab)
        .arg("--audit")
        .child(["curl", "-4", "-s", "http://github.com/"])
        .run();
    let told = Told::of(&lab);
    expect_within(told.one("traffic", "github.com"), "bytes_received", 1, HEAD);
}
