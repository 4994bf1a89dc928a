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
    file::parse("base.toml", text).map_err(|error| format!("{error:#}"))
}

/// The commands of a run, and no more than is kept of them.
fn as_written(dependencies: &Dependencies) -> Dependencies {
    let mut all = dependencies.clone();
    for dependency in all.0.values_mut() {
        dependency.commands = dependency.programs();
    }
    all
}

#[test]
fn a_baseline_has_what_stays_and_nothing_else() {
    let text = file::print(&sample());
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
    assert_eq!(parsed(&text), Ok(as_written(&sample())));
}

#[test]
fn what_is_new_gone_and_changed_is_told_apart() {
    let log = SAMPLE.replace("slow.example", "quick.example").replace(
        r#""dst_port": 443, "proto": "tcp", "also""#,
        r#""dst_port": 444, "proto": "tcp", "also""#,
    );
    let changes = Changes::between(&as_written(&sample()), &Dependencies::of(&[run(&log)]));
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

#[test]
fn what_is_no_baseline_is_said_with_its_line() {
    for (text, says) in [
        ("version = 2", "base.toml: this is version 2 of baselines"),
        ("", "base.toml:1: not a baseline: missing field `version`"),
        (
            "version = 1\nx = 1",
            "base.toml:2: not a baseline: unknown field `x`",
        ),
        (
            "version = 1\n[[dependency]]\n",
            "base.toml: dependency 1: it needs one of name",
        ),
        (
            "version = 1\n[[dependency]]\nname = \"a..b\"\nverdict = \"allowed\"",
            "base.toml:3: not a baseline: a domain name has",
        ),
        (
            "version = 1\n[[dependency]]\nname = \"a\"",
            "base.toml: dependency 1: it has no verdict",
        ),
        (
            "version = 1\n[[dependency]]\naddress = \"a\"\nverdict = \"allowed\"",
            "base.toml: dependency 1: `a` is not ADDRESS[:PORT]/PROTOCOL",
        ),
        (
            "version = 1\n[[dependency]]\nname = \"a\"\nverdict = \"allowed\"\n\
             [[dependency]]\nname = \"A.\"\nverdict = \"blocked\"",
            "base.toml: dependency 2: a is there twice",
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
            "the log of run r1 is not complete"
        ]
    );
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

proptest! {
    /// Whatever runs do, a baseline is read back as it was written, and nothing in it is new.
    #[test]
    fn a_baseline_is_read_back(
        all in proptest::collection::btree_map(target(), dependency(), 0..9),
    ) {
        let all = Dependencies(all);
        let text = file::print(&all);
        let back = parsed(&text).unwrap();
        prop_assert_eq!(&back, &as_written(&all));
        prop_assert_eq!(Changes::between(&back, &all).iter().count(), 0);
        // And once more, to the octet.
        prop_assert_eq!(file::print(&back), file::print(&as_written(&back)));
    }
}
