use proptest::prelude::*;

use super::*;
use crate::audit::{Endpoint, Line, Service};
use crate::digest::{Run, Target};
use crate::event::Verdict;
use crate::formats::Style;
use crate::policy::Domain;

/// A run in which everything happens.
const SAMPLE: &str = include_str!("../formats/sample.jsonl");

fn run(log: &str) -> Run {
    let mut run = Run::new("r1".to_owned());
    for line in log.lines() {
        run.add(&serde_json::from_str::<Line>(line).expect(line));
    }
    run
}

fn sample() -> Dependencies {
    Dependencies::of(&[run(SAMPLE)])
}

fn parsed(text: &str) -> Result<Dependencies, String> {
    Dependencies::parse("base.toml", text).map_err(|error| format!("{error:#}"))
}

#[test]
fn a_baseline_has_what_stays_and_nothing_else() {
    let text = sample().kept().to_string();
    for part in [
        "version = 1\n",
        "\n[[dependency]]\nname = \"artifacts.example\"\nverdict = \"allowed\"\n\
         ports = [\"443/tcp\"]\ncommands = [\"curl\"]\n",
        "name = \"github.com\"\nverdict = \"blocked\"\ncommands = [\"git\"]\n",
        "address = \"203.0.113.7:443/tcp\"\n",
        "socket = \"/run/docker.sock\"\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let is_plain = |c: char| c == '\n' || (' '..='~').contains(&c);
    assert!(text.chars().all(is_plain), "{text}");
    assert_eq!(parsed(&text), Ok(sample().kept()));
}

#[test]
fn what_is_new_gone_and_changed_is_told_apart() {
    let log = SAMPLE.replace("slow.example", "quick.example").replace(
        r#""dst_port": 443, "proto": "tcp", "also""#,
        r#""dst_port": 444, "proto": "tcp", "also""#,
    );
    let changes = Changes::between(&sample().kept(), &Dependencies::of(&[run(&log)]));
    let text = changes.render(Format::Text, Style::default());
    assert_eq!(
        text,
        "\
+ quick.example  allowed, 8080/tcp
    curl -sSf https://artifacts.example/app.tar.gz
- slow.example  allowed, 8080/tcp
    curl
~ artifacts.example  allowed, 444/tcp (was allowed, 443/tcp)
    curl -sSf https://artifacts.example/app.tar.gz
1 new, 1 gone, 1 changed
"
    );
    assert!(changes.any_new());
    let json: serde_json::Value =
        serde_json::from_str(&changes.render(Format::Json, Style::default())).unwrap();
    assert_eq!(json["changes"][0]["change"], "new");
    assert_eq!(json["changes"][0]["target"], "quick.example");
    assert_eq!(json["changes"][1]["change"], "gone");
    assert_eq!(json["changes"][2]["old"]["ports"][0], "443/tcp");
    let gone = Changes::between(&sample(), &Dependencies::default());
    assert!(!gone.any_new());
}

#[test]
fn other_addresses_and_arguments_make_nothing_new() {
    let log = SAMPLE
        .replace("192.0.2.10", "192.0.2.99")
        .replace("app.tar.gz", "app-2.tar.gz")
        .replace("\"pid\": 105", "\"pid\": 999");
    let changes = Changes::between(&sample(), &Dependencies::of(&[run(&log)]));
    assert_eq!(changes.iter().count(), 0);
    assert!(sample().lacking(&run(&log)).is_empty());
}

/// A log of one act for each text: a name that is looked up, `ADDRESS PORT PROTOCOL` of a
/// contact or, behind `of`, of a listener, or the path of a socket.
fn log_of(run: &str, verdict: &str, acts: &[&str]) -> String {
    let line = |act: &&str| {
        let mut line = serde_json::json!({
            "schema": 1, "time": "2026-11-23T00:00:00Z", "run": run, "event": "connect",
            "verdict": verdict, "layer": "connect", "reason": "default", "count": 1,
            "pid": 1, "ppid": 1, "uid": 0, "comm": "x", "argv": [format!("/usr/bin/x{run}")],
        });
        let of = act.strip_prefix("of ");
        let is_socket = act.starts_with(['/', '@']);
        let words: Vec<&str> = of.unwrap_or(act).split(' ').collect();
        match words[..] {
            _ if is_socket => line["socket"] = (*act).into(),
            [ip, port, proto] => {
                line["dst_ip"] = ip.into();
                line["dst_port"] = port.parse::<u16>().unwrap().into();
                line["proto"] = proto.into();
            }
            _ => {
                line["event"] = "dns".into();
                for (key, value) in [("qname", *act), ("qtype", "A"), ("rcode", "NOERROR")] {
                    line[key] = value.into();
                }
                line["latency_us"] = 1.into();
            }
        }
        if of.is_some() || is_socket {
            line["event"] = "delegation".into();
        }
        format!("{line}\n")
    };
    acts.iter().map(line).collect()
}

#[test]
fn what_is_made_up_anew_each_time_makes_nothing_new() {
    for (one, other, lasting) in [
        ("a.test", "a.test", "a.test"),
        (
            "192.0.2.1 443 tcp",
            "::ffff:192.0.2.1 443 tcp",
            "192.0.2.1:443/tcp",
        ),
        (
            "192.0.2.1 40000 udp",
            "192.0.2.1 60000 udp",
            "192.0.2.1/udp",
        ),
        ("192.0.2.1 0 icmp", "192.0.2.1 0 icmp", "192.0.2.1/icmp"),
        (
            "of 127.0.0.1 40000 tcp",
            "of 127.0.0.1 50000 tcp",
            "127.0.0.1/tcp",
        ),
        (
            "of 127.0.0.1 5432 tcp",
            "of 127.0.0.1 5432 tcp",
            "127.0.0.1:5432/tcp",
        ),
        (
            "7.2.0.192.in-addr.arpa",
            "8.2.0.192.in-addr.arpa",
            "in-addr.arpa",
        ),
        ("1.0.0.0.ip6.arpa", "2.0.0.0.ip6.arpa", "ip6.arpa"),
        ("/run/docker.sock", "/run/docker.sock", "/run/docker.sock"),
        (
            "/run/user/1000/bus",
            "/run/user/1000/bus",
            "/run/user/1000/bus",
        ),
        ("/tmp/mysql.sock", "/tmp/mysql.sock", "/tmp/mysql.sock"),
        (
            "/tmp/ssh-Xd3ff/agent.4711",
            "/tmp/ssh-aBcDe/agent.9",
            "/tmp/*/agent.*",
        ),
        ("/var/tmp/a/b/s1-2", "/var/tmp/c/s34-5", "/var/tmp/*/s*-*"),
        ("@/tmp/dbus-x1", "@/tmp/dbus-x1", "@/tmp/dbus-x1"),
    ] {
        let [one, other] = [one, other].map(|act| run(&log_of("r1", "allowed", &[act])));
        let known = Dependencies::of(std::slice::from_ref(&one));
        let targets: Vec<String> = known.iter().map(|(target, _)| target.to_string()).collect();
        assert_eq!(targets, [lasting]);
        assert!(known.lacking(&other).is_empty(), "{lasting}");
        let changes = Changes::between(&known, &Dependencies::of(&[other]));
        assert_eq!(changes.iter().count(), 0, "{lasting}");
        assert_eq!(
            parsed(&known.clone().kept().to_string()),
            Ok(known.clone().kept())
        );
    }
    // Nobody depends on himself.
    let own = [
        "localhost",
        "a.localhost",
        "127.0.0.1 80 tcp",
        "::1 80 tcp",
        "0.0.0.0 80 tcp",
    ];
    let own = run(&log_of("r1", "allowed", &own));
    assert_eq!(
        Dependencies::of(std::slice::from_ref(&own)),
        Dependencies::default()
    );
    assert!(Dependencies::default().lacking(&own).is_empty());
}

#[test]
fn what_would_be_blocked_is_as_forbidden_as_what_is() {
    let [allowed, blocked, would_block] = ["allowed", "blocked", "would_block"]
        .map(|verdict| Dependencies::of(&[run(&log_of("r1", verdict, &["a.test"]))]));
    assert_eq!(Changes::between(&blocked, &would_block).iter().count(), 0);
    for forbidden in [blocked, would_block] {
        let changes = Changes::between(&allowed, &forbidden);
        assert_eq!((changes.iter().count(), changes.any_new()), (1, false));
    }
}

#[test]
fn many_ports_are_the_same_in_whatever_order() {
    let ports = |ports: &mut dyn Iterator<Item = u16>| {
        let acts: Vec<String> = ports.map(|port| format!("192.0.2.1 {port} tcp")).collect();
        let acts: Vec<&str> = acts.iter().map(String::as_str).collect();
        let log = log_of("r1", "allowed", &acts);
        let log = log.replace(
            "\"event\":\"connect\"",
            "\"event\":\"connect\",\"qname\":\"a.test\"",
        );
        Dependencies::of(&[run(&log)])
    };
    let (up, down) = (ports(&mut (1..100)), ports(&mut (1..100).rev()));
    assert_eq!(up, down);
    let [name] = &up.iter().collect::<Vec<_>>()[..] else {
        panic!("{up:?}")
    };
    assert_eq!(name.1.ports.len(), 16);
    let dynamic = ports(&mut (40_000..40_100).chain([443]));
    let expected = ["32768-65535/tcp", "443/tcp"].map(str::to_owned);
    assert_eq!(dynamic.0.values().next().unwrap().ports, expected.into());
}

#[test]
fn a_difference_is_fit_for_a_comment() {
    let hostile = "/srv/a|b`c`<script>\u{1b}[2J\n| x |";
    let new = Dependencies::of(&[run(&log_of("r1", "allowed", &["a.test", hostile]))]);
    let mut changes = Changes::between(&Dependencies::default(), &new);
    changes.doubts.push("<b>a.jsonl</b>: cut".to_owned());
    let text = changes.render(Format::Markdown, Style::default());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "## Dependencies: 2 new, 0 gone, 0 changed");
    let row =
        "| **new** | <code>a.test</code> | <code>allowed</code> | <code>/usr/bin/xr1</code> |";
    assert_eq!(lines[4], row);
    assert!(lines[5].starts_with("| **new** | <code>/srv/a&#124;b&#96;c&#96;&#60;script"));
    assert_eq!(lines[5].matches('|').count(), 5, "{text}");
    assert_eq!(
        lines[7],
        "> **Not known:** <code>&#60;b&#62;a.jsonl&#60;/b&#62;&#58; cut</code>"
    );
    assert_eq!(lines.len(), 8, "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let json: serde_json::Value =
        serde_json::from_str(&changes.render(Format::Json, Style::default())).unwrap();
    assert_eq!(json["doubts"][0], "<b>a.jsonl</b>: cut");
}

#[test]
fn what_is_no_baseline_is_said_with_its_line() {
    for (text, says) in [
        (
            "version = 2\nnew = 1",
            "base.toml: this is version 2 of baselines",
        ),
        ("", "base.toml:1: not a baseline: missing field `version`"),
        (
            "version = 1\n\"\\u001b[2J\" = 1",
            "base.toml:2: not a baseline: unknown field `\\u{1b}[2J`",
        ),
        (
            "version = 1\nx = 1",
            "base.toml:2: not a baseline: unknown field `x`",
        ),
        (
            "version = 1\n[[dependency]]\n",
            "base.toml:2: not a baseline: missing field `verdict`",
        ),
        (
            "version = 1\n[[dependency]]\nname = \"a..b\"\nverdict = \"allowed\"",
            "base.toml:3: not a baseline: a domain name has",
        ),
        (
            "version = 1\n[[dependency]]\nverdict = \"allowed\"",
            "base.toml:2: a dependency has one of name, address, listener and socket",
        ),
        (
            "version = 1\n[[dependency]]\nname = \"a\"\naddress = \"192.0.2.1/udp\"\n\
             verdict = \"allowed\"",
            "base.toml:2: a dependency has one of name, address, listener and socket",
        ),
        (
            "version = 1\n[[dependency]]\nname = \"a\"\nverdict = \"alowed\"",
            "base.toml:4: not a baseline: unknown variant `alowed`",
        ),
        (
            "version = 1\n[[dependency]]\nname = \"a\"\nverdict = \"allowed\"\nport = []",
            "base.toml:5: not a baseline: unknown field `port`",
        ),
        (
            "version = 1\n[[dependency]]\nname = \"a\"",
            "base.toml:2: not a baseline: missing field `verdict`",
        ),
        (
            "version = 1\n[[dependency]]\naddress = \"a\"\nverdict = \"allowed\"",
            "base.toml:2: `a` is not ADDRESS[:PORT]/PROTOCOL",
        ),
        (
            "version = 1\n[[dependency]]\nname = \"a\"\nverdict = \"allowed\"\n\
             [[dependency]]\nname = \"A.\"\nverdict = \"blocked\"",
            "base.toml:5: a is there twice",
        ),
    ] {
        let said = parsed(text).unwrap_err();
        assert!(said.starts_with(says), "{text}\n{said}");
    }
}

#[test]
fn what_a_log_may_lack_is_said() {
    let cut: Vec<&str> = SAMPLE.lines().collect();
    let cut = cut[..cut.len() - 1].join("\n");
    let caveats = dependencies::caveats(&[run(&cut)]);
    assert_eq!(
        caveats,
        [
            "run r1 lost 2 observations",
            "the log of run r1 is not complete",
            "run r1 had processes moved out of its cgroup",
        ]
    );
    let ended = SAMPLE.replace(r#""outcome": "exited""#, r#""outcome": "timed_out""#);
    let caveats = dependencies::caveats(&[run(&ended)]);
    assert!(caveats.contains(&"the command of run r1 did not come to its end".to_owned()));
}

fn target() -> impl Strategy<Value = Target> {
    let endpoint = || {
        let ip = any::<std::net::IpAddr>();
        (ip, any::<u16>(), "[a-z]{1,5}").prop_map(|(ip, port, proto)| Endpoint { ip, port, proto })
    };
    prop_oneof![
        "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}"
            .prop_map(|name| Target::Name(Domain::parse(&name).unwrap())),
        endpoint().prop_map(Target::Address),
        endpoint().prop_map(|to| Target::Service(Service::Port(to))),
        any::<String>().prop_map(|socket| Target::Service(Service::Socket { socket })),
    ]
}

fn dependency() -> impl Strategy<Value = Dependency> {
    let verdict = prop_oneof![
        Just(Verdict::Allowed),
        Just(Verdict::Blocked),
        Just(Verdict::WouldBlock)
    ];
    let texts = || proptest::collection::btree_set("\\PC{0,9}|[\"\\\\\n\u{1b}]", 0..4);
    (verdict, texts(), texts()).prop_map(|(verdict, ports, commands)| Dependency {
        verdict,
        ports,
        commands,
    })
}

/// Any acts of a run.
fn acts() -> impl Strategy<Value = Vec<String>> {
    let act = prop_oneof![
        "[a-c](\\.[a-c]){0,2}",
        "192\\.0\\.2\\.[1-3] (0|22|443|40000|50000) (tcp|udp)",
        "of 127\\.0\\.0\\.[1-3] (22|443|40000|50000) tcp",
        "/(run|tmp|tmp/[a-z]{3})/[a-z0-9\"\\\\\\PC]{1,5}",
    ];
    proptest::collection::vec(act, 0..20)
}

proptest! {
    /// Whatever runs did, their baseline has it all, and is the same in whatever order.
    #[test]
    fn nothing_is_new_since_the_baseline_of_the_same_runs(
        one in acts(),
        other in acts(),
        verdicts in [0_usize..3, 0..3],
    ) {
        let names = ["allowed", "blocked", "would_block"];
        let run_of = |id: &str, verdict: usize, acts: &[String]| {
            let acts: Vec<&str> = acts.iter().map(String::as_str).collect();
            run(&log_of(id, names[verdict], &acts))
        };
        let runs = || [run_of("1", verdicts[0], &one), run_of("2", verdicts[1], &other)];
        let mut reversed = runs();
        reversed.reverse();
        let (all, text) = (Dependencies::of(&runs()), Dependencies::of(&runs()).kept().to_string());
        prop_assert_eq!(&text, &Dependencies::of(&reversed).kept().to_string());
        let baseline = parsed(&text).unwrap();
        prop_assert_eq!(Changes::between(&baseline, &all).iter().count(), 0);
        for run in &runs() {
            prop_assert!(baseline.lacking(run).is_empty());
        }
    }

    /// Whatever runs do, a baseline is read back as it was written, and nothing in it is new.
    #[test]
    fn a_baseline_is_read_back(
        all in proptest::collection::btree_map(target(), dependency(), 0..9),
    ) {
        let all = Dependencies(all);
        let text = all.to_string();
        let back = parsed(&text).unwrap();
        prop_assert_eq!(&back, &all);
        prop_assert_eq!(Changes::between(&back, &all).iter().count(), 0);
        prop_assert_eq!(back.to_string(), text);
    }
}
