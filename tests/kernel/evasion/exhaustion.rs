//! Maps that are full and a ring that is: what is enforced stays enforced, and what is
//! lost is said.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::Lab;

/// 33 answers of 2000 addresses are more than `MAX_ADDRESSES`.
#[test]
fn a_full_map_fails_closed_for_new_names() {
    let Some(lab) = Lab::new() else { return };
    let script = "
curl --silent --max-time 5 http://allowed.example/
for n in $(seq 33); do
    dig +tcp +tries=1 +timeout=20 $n.many.example | grep -c '^[0-9]*.many.example.*IN.A'
done | sort -n | uniq -c
dig +tries=1 example.com | grep -o -e status:.*, -e 'EDE:.*'
curl --silent --max-time 5 http://example.com/ || echo no name
curl --silent --max-time 5 http://203.0.113.20/ || echo no address
curl --silent --max-time 5 http://allowed.example/
";
    let allow = ["--allow", "*.many.example,example.com,allowed.example"];
    let sniffer = lab.sniff();
    let output = lab
        .cgfw()
        .args(allow)
        .args(["--user", "dev"])
        .sh(script)
        .limit(Duration::from_mins(1))
        .stderr_has("the kernel map of judged addresses is full")
        .run();
    let expected = "status: SERVFAIL,\nEDE: 0 (Other): (cannot permit the addresses: \
                    the kernel map of judged addresses is full; new names fail until the \
                    run ends)\nno name\nno address\nhello from allowed.example\n";
    assert!(
        output.stdout.starts_with("hello from allowed.example\n"),
        "{output}"
    );
    assert!(output.stdout.contains("32 2000\n"), "{output}");
    assert!(output.stdout.ends_with(expected), "{output}");
    assert!(sniffer.packets_to([203, 0, 113, 20]).is_empty());
}

/// cgfw is stopped while the script floods the ring: nobody reads it.
#[test]
fn a_full_ring_loses_reports_and_no_refusals() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import os, socket, time
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.01)
for n in range(20000):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(('203.0.113.%d' % (n % 100 + 100), 1000 + n // 100))
    s.close()
print('flooded', flush=True)
";
    for user in [&[][..], &["--user", "dev"]] {
        lab.sh("rm -f go").run();
        let sniffer = lab.sniff();
        let mut running = lab
            .cgfw()
            .args(["--block", "203.0.113.0/24"])
            .args(user)
            .child(["python3", "-c", script])
            .stderr_has("observations were lost")
            .stderr_lacks("clean: nothing was blocked")
            .stderr_has("not clean")
            .spawn();
        running.wait_for_stdout("ready");
        running.send(Signal::SIGSTOP);
        lab.write("go", "");
        running.wait_for_stdout("flooded");
        running.send(Signal::SIGCONT);
        running.finish();
        assert!(sniffer.packets().iter().all(|packet| packet.protocol != 6));
    }
}

/// More sockets ask than are remembered (4096): one that was forgotten gets an answer that
/// it cannot take for its own, or none, and nothing goes out past the proxy.
#[test]
fn more_sockets_than_are_remembered() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import os, resource, select, socket, struct
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
count = 6000
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
def question(n, name):
    return struct.pack('!6H', n, 0x100, 1, 0, 0, 0) + name + bytes(1) + struct.pack('!HH', 1, 1)
blocked, permitted = b'\\x06thrash\\x06github\\x03com', b'\\x06thrash\\x04load\\x07example'
sockets = []
for n in range(count):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setblocking(False)
    s.connect(('198.51.100.54', 53))
    sockets.append(s)
answered = 0
for n, s in enumerate(sockets):
    name = blocked if n % 2 else permitted
    s.send(question(n, name))
    ready = select.poll()
    ready.register(s, select.POLLIN)
    if ready.poll(2000):
        answer = s.recv(512)
        assert answer[:2] == struct.pack('!H', n)
        assert (answer[3] & 15 == 3) == (name == blocked), answer
        answered += 1
print(answered)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(question(1, permitted), ('198.51.100.54', 53))
print(s.recv(512)[3] & 15, s.getsockname()[0])
";
    let sniffer = lab.sniff();
    let output = lab
        .cgfw()
        .args(["--block", "github.com", "--user", "dev", "-q"])
        .child(["python3", "-c", script])
        .run();
    let (answered, last) = output.stdout.split_once('\n').unwrap();
    assert!(answered.parse::<u32>().unwrap() >= 4096, "{output}");
    assert!(last.starts_with("0 "), "{output}");
    assert!(sniffer.packets_with(b"thrash\x06github").is_empty());
}

/// The last rule of a thousand holds as the first does.
#[test]
fn a_great_many_networks() {
    let Some(lab) = Lab::new() else { return };
    let networks = (0..1000).map(|n| format!("10.1.{}.{}/31", n >> 7, n << 1 & 255));
    let networks: Vec<String> = networks.collect();
    let first = ["10.1.0.1", "203.0.113.99"];
    for order in [true, false] {
        let mut rules = networks.clone();
        rules.insert(
            if order { 0 } else { rules.len() },
            "203.0.113.98/31".to_owned(),
        );
        let sniffer = lab.sniff();
        let script = first.map(|host| format!("curl --silent --max-time 2 http://{host}/;"));
        lab.cgfw()
            .args(["--block", &rules.join(",")])
            .sh(&(script.concat() + "curl --silent http://203.0.113.20/"))
            .stdout("hello from 203.0.113.20\n")
            .run();
        for host in [[10, 1, 0, 1], [203, 0, 113, 99]] {
            assert!(sniffer.packets_to(host).is_empty());
        }
    }
}
