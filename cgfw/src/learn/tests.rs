//! From logs to rules, and from rules back to what the logs say was done.

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::needs::Needs;
use super::seen::Seen;
use super::text::Text;
use crate::pins::Pins;
use crate::policy::{
    Action, Domain, Policy, PolicyFile, Ports, Rule, Source, Transport, UnixSocket,
};

fn seen(lines: &[Value]) -> Seen {
    let mut seen = Seen::default();
    for line in lines {
        // What does not matter here.
        let mut whole = json!({
            "time": "2026-11-23T00:00:00Z", "count": 1, "rcode": "NOERROR", "latency_us": 1,
            "ppid": 1, "uid": 1000, "comm": "", "version": "0.1.0", "rules": [],
            "policy_digest": "", "host": "", "kernel": "", "cgroup": "", "hooks": [],
            "sees_sockets": true, "sees_processes": true, "can_be_left": false, "exit_code": 0,
            "elapsed_us": 1, "is_back": true,
        });
        for (key, value) in line.as_object().unwrap() {
            whole[key] = value.clone();
        }
        seen.add(serde_json::from_value(whole).unwrap());
    }
    seen
}

fn rules(lines: &[Value], generalise: bool) -> Vec<String> {
    let needs = Needs::of(&seen(lines), generalise);
    needs
        .rules
        .iter()
        .map(|need| need.rule.to_string())
        .collect()
}

fn start(id: &str, argv: &[&str]) -> Value {
    json!({
        "schema": 1, "run": id, "event": "run_start", "mode": "audit", "default": "block",
        "direct_ip": "block", "argv": argv,
    })
}

fn end(id: &str) -> Value {
    json!({"schema": 1, "run": id, "event": "run_end", "outcome": "exited", "lines_lost": 0})
}

/// A name that `argv` with the pid 7 asked for.
fn dns(qname: &str, answers: &[&str]) -> Value {
    json!({
        "schema": 1, "run": "1", "event": "dns", "layer": "dns", "verdict": "would_block",
        "reason": "default", "qname": qname, "qtype": "A", "answers": answers,
        "pid": 7, "argv": ["dig", qname],
    })
}

/// A contact of the same process.
fn contact(qname: Option<&str>, to: &str, proto: &str) -> Value {
    let (ip, port) = to.rsplit_once(' ').unwrap();
    let mut line = json!({
        "schema": 1, "run": "1", "event": "connect", "layer": "connect",
        "verdict": "would_block", "reason": if qname.is_some() { "default" } else { "direct_ip" },
        "dst_ip": ip, "dst_port": port.parse::<u16>().unwrap(), "proto": proto,
        "pid": 7, "argv": ["curl", ip],
    });
    if let Some(qname) = qname {
        line["qname"] = qname.into();
    }
    line
}

fn with(mut line: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        line[key] = value.clone();
    }
    line
}

/// Something that another process does, seen where `line` says.
fn delegated(line: Value) -> Value {
    let changes = json!({"event": "delegation", "verdict": "allowed", "reason": "delegation"});
    with(line, changes)
}

fn socket(socket: &str) -> Value {
    with(
        delegated(dns("unused.test", &[])),
        json!({"socket": socket}),
    )
}

#[test]
fn a_name_needs_the_ports_that_it_was_used_with() {
    let looked_up = || dns("a.test", &["192.0.2.1", "2001:db8::1"]);
    let to = |to, proto| contact(Some("a.test"), to, proto);
    for (contacts, expected) in [
        (vec![], "=a.test"),
        (vec![to("192.0.2.1 443", "tcp")], "=a.test:443/tcp"),
        (
            vec![to("192.0.2.1 80", "tcp"), to("2001:db8::1 80", "tcp")],
            "=a.test:80/tcp",
        ),
        (
            vec![to("192.0.2.1 443", "udp"), to("192.0.2.1 443", "tcp")],
            "=a.test:443",
        ),
        (
            vec![to("192.0.2.1 81", "tcp"), to("192.0.2.1 80", "tcp")],
            "=a.test:80-81/tcp",
        ),
        (
            vec![to("192.0.2.1 9", "udp"), to("192.0.2.1 80", "tcp")],
            "=a.test:80/tcp =a.test:9/udp",
        ),
        // Protocols without ports leave nothing to be limited.
        (
            vec![to("192.0.2.1 0", "icmp"), to("192.0.2.1 80", "tcp")],
            "=a.test",
        ),
        (vec![to("192.0.2.1 0", "udp")], "=a.test/udp"),
        (vec![to("192.0.2.1 7", "udplite")], "=a.test:7/udp"),
        (
            vec![delegated(with(
                to("192.0.2.1 3128", "tcp"),
                json!({"via": "http_proxy"}),
            ))],
            "=a.test:3128/tcp",
        ),
        // No answer led there, whatever the log says.
        (
            vec![to("192.0.2.9 443", "tcp")],
            "=a.test 192.0.2.9:443/tcp",
        ),
    ] {
        let lines: Vec<Value> = contacts.into_iter().chain([looked_up()]).collect();
        assert_eq!(rules(&lines, false).join(" "), expected);
    }
}

#[test]
fn an_address_without_a_name_needs_a_rule_unless_it_is_this_host() {
    let at = |to| contact(None, to, "tcp");
    let allowed = |line| with(line, json!({"verdict": "allowed"}));
    let private = || with(start("1", &["x"]), json!({"direct_ip": "private"}));
    for (lines, expected) in [
        (vec![at("2001:db8::9 22")], "[2001:db8::9]:22/tcp"),
        (vec![at("::ffff:192.0.2.1 22")], "192.0.2.1:22/tcp"),
        (vec![contact(None, "192.0.2.1 0", "icmp")], "192.0.2.1"),
        (vec![at("127.0.0.1 80"), at("::1 1"), at("0.0.0.0 1")], ""),
        // What is allowed although everything unknown is blocked is the host's own.
        (vec![start("1", &["x"]), allowed(at("192.0.2.10 22"))], ""),
        (
            vec![private(), allowed(at("10.0.0.1 22"))],
            "10.0.0.1:22/tcp",
        ),
        // What others do there is acknowledged.
        (vec![delegated(at("127.0.0.1 80"))], "127.0.0.1:80/tcp"),
        (vec![delegated(at("0.0.0.0 80"))], "127.0.0.1:80/tcp"),
        (
            vec![socket("/run/a"), socket("@b"), socket("@b")],
            "/run/a @b",
        ),
    ] {
        assert_eq!(rules(&lines, false).join(" "), expected);
    }
}

#[test]
fn rules_are_in_the_order_of_domains_addresses_and_sockets() {
    let lines = [
        socket("/a"),
        contact(None, "192.0.2.9 22", "tcp"),
        dns("z.a.test", &[]),
        dns("b.test", &[]),
        dns("a.test", &[]),
        dns(r"a\.b.test", &[]),
        dns("xn--bcher-kva.test", &[]),
        dns("a.example", &[]),
    ];
    assert_eq!(
        rules(&lines, false).join(" "),
        r"=a.example =a.test =z.a.test =a\.b.test =b.test =xn--bcher-kva.test 192.0.2.9:22/tcp /a"
    );
}

#[test]
fn an_address_that_names_share_is_laid_to_those_that_its_process_asked_for() {
    let ask = |name, pid| with(dns(name, &["192.0.2.1"]), json!({"pid": pid}));
    let reach = |name, pid| {
        with(
            contact(Some(name), "192.0.2.1 443", "tcp"),
            json!({"pid": pid}),
        )
    };
    // Both were asked for before the first contact, which the log lays to the later one.
    assert_eq!(
        rules(
            &[
                ask("a.test", 7),
                ask("b.test", 8),
                reach("b.test", 7),
                reach("b.test", 8)
            ],
            false
        ),
        ["=a.test:443/tcp", "=b.test:443/tcp"]
    );
    // Whoever asked for nothing had the address from another process.
    assert_eq!(
        rules(
            &[ask("a.test", 7), ask("b.test", 8), reach("b.test", 9)],
            false
        ),
        ["=a.test", "=b.test:443/tcp"]
    );
    // Of another run there is nothing to be known.
    assert_eq!(
        rules(
            &[
                with(ask("a.test", 7), json!({"run": "2"})),
                reach("a.test", 7)
            ],
            false
        ),
        ["=a.test", "192.0.2.1:443/tcp"]
    );
}

#[test]
fn domains_are_generalised_up_to_the_public_suffix_and_only_when_asked() {
    let lines = [
        dns("www.example.co.uk", &["192.0.2.1"]),
        contact(Some("www.example.co.uk"), "192.0.2.1 443", "tcp"),
        dns("api.example.co.uk", &["192.0.2.2"]),
        contact(Some("api.example.co.uk"), "192.0.2.2 8443", "tcp"),
        // A port of the domain suffices for this one to resolve.
        dns("cdn.example.co.uk", &[]),
        dns("one.github.io", &[]),
        dns("co.uk", &[]),
        dns("localhost", &[]),
        dns("1.2.0.192.in-addr.arpa", &[]),
        dns(r"a\.b.example.com", &[]),
        dns("x.blocked.com", &[]),
        with(
            dns("y.blocked.com", &[]),
            json!({"reason": "rule", "rule": "--block y.blocked.com"}),
        ),
        // What leads to link-local addresses has to be named.
        dns("metadata.cloud.com", &["169.254.169.254"]),
        contact(Some("metadata.cloud.com"), "169.254.169.254 80", "tcp"),
        dns("www.cloud.com", &["192.0.2.3"]),
        contact(Some("www.cloud.com"), "192.0.2.3 443", "tcp"),
    ];
    assert_eq!(
        rules(&lines, true),
        [
            "=1.2.0.192.in-addr.arpa",
            "=x.blocked.com",
            "=metadata.cloud.com:80/tcp",
            "=www.cloud.com:443/tcp",
            r"=a\.b.example.com",
            "one.github.io",
            "=localhost",
            "=co.uk",
            "example.co.uk:443/tcp",
            "example.co.uk:8443/tcp",
        ]
    );
    assert!(
        rules(&lines, false)
            .iter()
            .all(|rule| rule.starts_with('='))
    );
}

#[test]
fn the_policy_names_runs_and_commands() {
    let lines = [
        start("1a2b", &["./deploy.sh", "--fast"]),
        with(
            dns("a.test", &["192.0.2.1"]),
            json!({"argv": ["curl", "a\n[[rule]]\nallow = \"x\""]}),
        ),
        contact(Some("a.test"), "192.0.2.1 443", "tcp"),
        dns("only.test", &[]),
        with(
            contact(None, "127.0.0.1 80", "tcp"),
            json!({"event": "delegation", "verdict": "allowed", "reason": "delegation"}),
        ),
        with(dns("b.test", &[]), json!({"pid": null, "argv": null})),
    ];
    let mut lines = lines.to_vec();
    let nobodys = lines.last_mut().unwrap().as_object_mut().unwrap();
    nobodys.remove("pid");
    nobodys.remove("argv");
    let seen = seen(&lines);
    let needs = Needs::of(&seen, false);
    let text = Text {
        seen: &seen,
        needs: &needs,
    }
    .to_string();
    let expected = format!(
        r#"# Learned by cgfw {} from:
#   run 1a2b: ./deploy.sh --fast
#   run 1: (the log has no start of this run)
version = 1
default = "block"

# curl 192.0.2.1
[[rule]]
allow = "=a.test:443/tcp"

# an unknown process
[[rule]]
allow = "=b.test" # only looked up

# dig only.test
[[rule]]
allow = "=only.test" # only looked up

# curl 127.0.0.1
[[rule]]
allow = "127.0.0.1:80/tcp" # others do the network there
"#,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(text, expected);
}

#[test]
fn the_policy_is_read_as_what_was_learned() {
    let lines = [
        start("1", &["x\n\"", "\u{85}\u{2028}\0"]),
        dns(r"a\.b\000.test", &["192.0.2.1"]),
        contact(Some(r"a\.b\000.test"), "192.0.2.1 443", "tcp"),
        contact(None, "2001:db8::1 53", "udp"),
        socket("/run/it's \"quoted\" \\ \u{7f}\u{202e}\n x"),
        socket("@\0\t\u{1b}"),
    ];
    let seen = seen(&lines);
    let needs = Needs::of(&seen, false);
    let text = Text {
        seen: &seen,
        needs: &needs,
    }
    .to_string();
    let file = PolicyFile::parse("learned", text.as_bytes()).unwrap();
    assert_eq!(file.default, Some(Action::Block));
    let texts = |rules: &mut dyn Iterator<Item = &Rule>| -> Vec<String> {
        rules.map(Rule::to_string).collect()
    };
    assert_eq!(
        texts(&mut file.rules.iter()),
        texts(&mut needs.rules.iter().map(|need| &need.rule))
    );
    assert_eq!(file.rules.len(), 4);
}

#[test]
fn what_was_blocked_is_left_out_and_said() {
    let blocked = |line, verdict, reason, rule: Option<&str>| {
        let line = with(line, json!({"verdict": verdict, "reason": reason}));
        match rule {
            Some(rule) => with(line, json!({"rule": rule})),
            None => line,
        }
    };
    let lines = [
        start("1", &["x"]),
        blocked(
            dns("a.test", &[]),
            "would_block",
            "rule",
            Some("--block a.test"),
        ),
        blocked(
            dns("a.test", &[]),
            "would_block",
            "rule",
            Some("--block a.test"),
        ),
        blocked(
            dns("c.test", &["192.0.2.1"]),
            "blocked",
            "alias",
            Some("bad\u{1b}.txt:3: a.test"),
        ),
        blocked(dns("d.test", &[]), "blocked", "default", None),
        blocked(
            contact(None, "192.0.2.1 443", "tcp"),
            "blocked",
            "direct_ip",
            None,
        ),
        end("1"),
    ];
    let seen = seen(&lines);
    let needs = Needs::of(&seen, true);
    assert_eq!(needs.rules, []);
    let notes = [seen.notes(), needs.notes()].concat();
    assert_eq!(
        notes,
        [
            r"left out 3 acts that a rule blocks: a.test (--block a.test), c.test (bad\u{1b}.txt:3: a.test)",
            "left out 2 acts blocked by default: 192.0.2.1:443/tcp, d.test; learn from \
             a run with --audit, which refuses nothing",
            "nothing was contacted: the policy allows nothing",
        ]
    );
}

#[test]
fn what_logs_lack_and_rules_cannot_say_is_said() {
    let lines = [
        start("1", &["x"]),
        json!({"schema": 1, "run": "1", "event": "loss", "count": 3}),
        json!({"schema": 1, "run": "1", "event": "moved", "is_back": true, "pid": 1, "argv": []}),
        start("2", &["x"]),
        with(end("2"), json!({"lines_lost": 4})),
        dns(".", &[]),
        dns("1.2.3.4", &[]),
        with(
            dns("unused.test", &[]),
            json!({"event": "delegation", "verdict": "allowed", "reason": "delegation", "socket": "/x\u{fffd}"}),
        ),
        dns("a.test", &[]),
    ];
    let seen = seen(&lines);
    let needs = Needs::of(&seen, false);
    assert_eq!(
        [seen.notes(), needs.notes()].concat(),
        [
            "run 1 lost 3 observations: what it needs may be missing",
            "run 1 had processes moved out of its cgroup: what they did there is not known",
            "run 1 has no end in the log: what it did afterwards is not known",
            "run 2 lost 4 observations: what it needs may be missing",
            "left out =.: no rule can be written for it",
            "left out =1.2.3.4: no rule can be written for it",
            "left out /x\u{fffd}: no rule can be written for it",
        ]
    );
    assert_eq!(needs.rules.len(), 1);
}

/// What a process does.
#[derive(Clone, Debug)]
enum Act {
    Ask {
        pid: u32,
        name: usize,
    },
    Reach {
        pid: u32,
        address: usize,
        transport: Transport,
        port: u16,
    },
    Socket(u8),
    Listener(u16),
}

fn act() -> impl Strategy<Value = Act> {
    let pid = || 1..4_u32;
    let port = prop::sample::select(&[0, 80, 81, 443][..]);
    let transport = prop_oneof![
        4 => Just(Transport::Tcp), 2 => Just(Transport::Udp), 1 => Just(Transport::Other)
    ];
    prop_oneof![
        3 => (pid(), 0..6_usize).prop_map(|(pid, name)| Act::Ask { pid, name }),
        4 => (pid(), 0..8_usize, transport, port).prop_map(|(pid, address, transport, port)| {
            Act::Reach { pid, address, transport, port }
        }),
        1 => (0..2_u8).prop_map(Act::Socket),
        1 => (8080..8083_u16).prop_map(Act::Listener),
    ]
}

/// The addresses there are. The last ones have no name.
const ADDRESSES: [&str; 8] = [
    "192.0.2.1",
    "2001:db8::1",
    "169.254.169.254",
    "127.0.0.1",
    "192.0.2.5",
    "192.0.2.6",
    "192.0.2.7",
    "10.0.0.1",
];

fn name(number: usize) -> Domain {
    Domain::parse(&format!("{}.{}.test", number / 2, number % 2)).unwrap()
}

/// The addresses that a name leads to, by number: its own one, and where names share
/// addresses that of the next name as well.
fn answers(name: usize, shared: bool) -> Vec<usize> {
    if shared {
        vec![name, (name + 1) % 6]
    } else {
        vec![name]
    }
}

fn address(number: usize) -> IpAddr {
    ADDRESSES[number].parse().unwrap()
}

/// The log of a run in which nothing is refused and everything would be.
fn log(acts: &[Act], shared: bool) -> Vec<Value> {
    let mut lines = vec![start("1", &["x"])];
    // Who asked for which name, the latest last.
    let mut asked: Vec<(u32, usize)> = Vec::new();
    for act in acts {
        lines.push(match *act {
            Act::Ask { pid, name: number } => {
                asked.push((pid, number));
                let found = answers(number, shared);
                let found: Vec<&str> = found.into_iter().map(|number| ADDRESSES[number]).collect();
                with(dns(&name(number).to_string(), &found), json!({"pid": pid}))
            }
            Act::Reach {
                pid,
                address: number,
                transport,
                port,
            } => {
                let proto = match transport {
                    Transport::Tcp => "tcp",
                    Transport::Udp => "udp",
                    Transport::Other => "icmp",
                };
                let to = format!("{} {port}", ADDRESSES[number]);
                let leads = asked
                    .iter()
                    .rev()
                    .filter(|(_, name)| answers(*name, shared).contains(&number));
                let last = leads.map(|(_, number)| name(*number).to_string()).next();
                let verdict = match last {
                    None if address(number).is_loopback() => "allowed",
                    _ => "would_block",
                };
                with(
                    contact(last.as_deref(), &to, proto),
                    json!({"pid": pid, "verdict": verdict}),
                )
            }
            Act::Socket(number) => with(
                dns("unused.test", &[]),
                json!({
                    "event": "delegation", "verdict": "allowed", "reason": "delegation",
                    "socket": format!("/run/{number}"),
                }),
            ),
            Act::Listener(port) => with(
                contact(None, &format!("127.0.0.1 {port}"), "tcp"),
                json!({"event": "delegation", "verdict": "allowed", "reason": "delegation"}),
            ),
        });
    }
    lines
}

/// The first act that a policy of just these rules refuses, or does not know of.
fn refused<'a>(rules: &[String], acts: &'a [Act], shared: bool) -> Option<&'a Act> {
    let parse = |text: &String| Rule::parse(text, Action::Allow, Source::default()).unwrap();
    let rules: Vec<Rule> = rules.iter().map(parse).collect();
    let policy = Policy::new(rules, Some(Action::Block), None, Vec::new());
    let mut pins = Pins::default();
    let mut told: HashMap<IpAddr, Ports> = HashMap::new();
    acts.iter().find(|act| match **act {
        Act::Ask { name: number, .. } => {
            let name = name(number);
            let judgement = policy.name(&name, &[]);
            for address in answers(number, shared).into_iter().map(address) {
                let Some(through) = policy.through_name(&name, &judgement, address) else {
                    continue;
                };
                if let Some(news) = pins.add(&policy, address, &through.ports) {
                    told.insert(address, news);
                }
            }
            judgement.is_blocked()
        }
        Act::Reach {
            address: number,
            transport,
            port,
            ..
        } => {
            let address = address(number);
            let verdict = match (told.get(&address), policy.address(address)) {
                (Some(ports), _) => ports.at(transport, port),
                (None, Some(judgement)) => judgement.ports.at(transport, port),
                (None, None) => policy.unresolved(address),
            };
            verdict == Action::Block
        }
        Act::Socket(number) => {
            let socket = UnixSocket::Path(format!("/run/{number}").into());
            policy.acknowledges_socket(&socket).is_none()
        }
        Act::Listener(port) => policy
            .acknowledges_port(address(3), Transport::Tcp, port)
            .is_none(),
    })
}

fn without_contacts_before_their_names(acts: Vec<Act>) -> Vec<Act> {
    let is_late = |(at, act): &(usize, Act)| match *act {
        Act::Reach { address, .. } => {
            let later = &acts[*at..];
            !later
                .iter()
                .any(|act| matches!(act, Act::Ask { name, .. } if *name == address))
        }
        Act::Ask { .. } | Act::Socket(_) | Act::Listener(_) => true,
    };
    let all = acts.iter().cloned().enumerate();
    all.filter(is_late).map(|(_, act)| act).collect()
}

proptest! {
    #[test]
    fn what_was_learned_permits_all_that_was_seen(
        acts in prop::collection::vec(act(), 0..20),
        shared in any::<bool>(),
        generalise in any::<bool>(),
    ) {
        let rules = rules(&log(&acts, shared), generalise);
        let refused = refused(&rules, &acts, shared);
        prop_assert!(refused.is_none(), "{rules:?} refuse {refused:?}");
    }

    #[test]
    fn no_rule_can_be_left_out(acts in prop::collection::vec(act(), 0..20)) {
        // Where an address has a rule of its own and a name's, either may suffice.
        let acts = without_contacts_before_their_names(acts);
        let rules = rules(&log(&acts, false), false);
        for left_out in 0..rules.len() {
            let mut others = rules.clone();
            let rule = others.remove(left_out);
            prop_assert!(refused(&others, &acts, false).is_some(), "{rule} of {rules:?}");
        }
    }
}
