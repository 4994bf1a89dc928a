use std::net::SocketAddr;

use std::ops::{Deref, DerefMut};

use super::*;
use crate::audit::Line;
use crate::digest::{Run, Target, Total};
use crate::event::{Host, Sign};
use crate::policy::{DirectIp, Source};

const START: Duration = Duration::from_secs(1_000_000);

fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + START + Duration::from_millis(milliseconds)
}

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn policy(block: &[&str], allow: &[&str]) -> Policy {
    let parse = |text: &&str, action| Rule::parse(text, action, Source::argument(*text)).unwrap();
    let block = block.iter().map(|text| parse(text, Action::Block));
    let allow = allow.iter().map(|text| parse(text, Action::Allow));
    Policy::new(
        block.chain(allow).collect::<Vec<_>>(),
        None,
        None,
        Vec::new(),
    )
}

fn ledger(block: &[&str], allow: &[&str]) -> Books {
    Books::new(policy(block, allow))
}

fn process(pid: u32, command: &str) -> Process {
    let argv: Vec<Vec<u8>> = command.split(' ').map(Into::into).collect();
    Process {
        pid,
        tid: pid,
        ppid: 1,
        uid: 1000,
        started: u64::from(pid) * 1000,
        comm: argv[0].clone(),
        argv,
        truncated: false,
        ..Process::default()
    }
}

fn udp(port: u16, id: u16) -> QueryKey {
    QueryKey {
        transport: Transport::Udp,
        ipv6: false,
        port,
        id,
    }
}

fn tcp(port: u16) -> QueryKey {
    QueryKey {
        transport: Transport::Tcp,
        ipv6: false,
        port,
        id: 0,
    }
}

/// A question for the addresses of `name`, judged as `policy` does.
fn question(ledger: &Books, key: QueryKey, name: &str, answers: &[&str]) -> Fact {
    let qname = domain(name);
    let judgement = ledger.policy.name(&qname, &[]);
    let verdict = if judgement.is_blocked() {
        Verdict::Blocked
    } else {
        Verdict::Allowed
    };
    Fact::Query(Query {
        key,
        qname,
        qtype: "A".into(),
        verdict,
        rule: judgement.rule,
        matched: judgement.matched,
        cname_chain: Vec::new(),
        rcode: "NOERROR".into(),
        answers: answers.iter().map(|a| a.parse().unwrap()).collect(),
        upstream: None,
        latency: Duration::ZERO,
    })
}

fn asked(key: QueryKey, process: Process) -> Fact {
    Fact::Asked { key, process }
}

fn contact(process: Process, destination: &str, verdict: Verdict) -> Fact {
    Fact::Contact(Contact {
        process,
        layer: Layer::Connect,
        destination: destination.parse().unwrap(),
        protocol: 6,
        verdict,
    })
}

/// A ledger, and what its entries add up to.
struct Books {
    ledger: Ledger,
    run: Run,
}

impl Books {
    fn new(policy: Policy) -> Self {
        Self {
            ledger: Ledger::new(Arc::new(policy)),
            run: Run::new("r1".to_owned()),
        }
    }

    /// The observations among the entries, all of which are added up.
    fn enter(&mut self, entries: Vec<Entry>) -> Vec<Observation> {
        let mut observations = Vec::new();
        for entry in entries {
            match entry {
                Entry::Observed(observation) => {
                    self.run.add(&Line::observed("r1", &observation));
                    observations.push(observation);
                }
                Entry::Moved { time, moved, .. } => {
                    self.run.add(&Line::moved("r1", time, &moved));
                }
                Entry::Ended(ended) => self.run.add(&Line::ended("r1", &ended)),
                Entry::Exited(_) | Entry::Lost { .. } => {}
            }
        }
        observations
    }

    fn settle(&mut self, now: SystemTime) -> Vec<Observation> {
        let entries = self.ledger.settle(now);
        self.enter(entries)
    }

    fn finish(&mut self) -> Vec<Observation> {
        let entries = self.ledger.finish();
        self.enter(entries)
    }
}

impl Deref for Books {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.ledger
    }
}

impl DerefMut for Books {
    fn deref_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}

fn record(ledger: &mut Books, fact: Fact) -> Vec<Observation> {
    let entries = ledger.record(Event { time: at(0), fact });
    ledger.enter(entries)
}

/// Record a fact from which just one observation comes.
#[track_caller]
fn observe(ledger: &mut Books, fact: Fact) -> Observation {
    let mut found = record(ledger, fact);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Let `process` resolve `name`.
fn resolve(ledger: &mut Books, process: Process, name: &str, answers: &[&str]) -> Observation {
    let key = udp(40000, u16::try_from(process.pid).unwrap());
    assert!(record(ledger, asked(key, process)).is_empty());
    let fact = question(ledger, key, name, answers);
    observe(ledger, fact)
}

fn pid(observation: &Observation) -> Option<u32> {
    observation.process.as_ref().map(|process| process.pid)
}

fn name(observation: &Observation) -> Option<String> {
    observation.act.name().map(ToString::to_string)
}

fn total<'l>(ledger: &'l Books, target: &str) -> &'l Total {
    let is_it = |found: &Target| match found {
        Target::Name(name) => name.to_string() == target,
        Target::Address(to) => SocketAddr::new(to.ip, to.port).to_string() == target,
        Target::Service(_) => false,
    };
    let mut found = ledger.run.targets.iter().filter(|(found, _)| is_it(found));
    found.next().expect(target).1
}

#[test]
fn a_question_is_joined_with_its_asker_in_either_order() {
    for order in ["asker first", "asker last"] {
        let mut ledger = ledger(&["github.com"], &[]);
        let key = udp(40000, 7);
        let fact = question(&ledger, key, "github.com", &[]);
        let asker = asked(key, process(5, "curl github.com"));
        let (first, second) = match order {
            "asker first" => (asker, fact),
            _ => (fact, asker),
        };
        assert!(record(&mut ledger, first).is_empty(), "{order}");
        let observation = observe(&mut ledger, second);
        assert_eq!(pid(&observation), Some(5), "{order}");
        assert_eq!(observation.verdict, Verdict::Blocked);
        assert_eq!(observation.layer, Layer::Dns);
        assert_eq!(observation.reason, Reason::Rule);
    }
}

#[test]
fn a_reused_key_is_not_joined_with_the_process_that_used_it_before() {
    let mut ledger = ledger(&[], &[]);
    resolve(&mut ledger, process(5, "curl a"), "a.example", &[]);
    let fact = question(&ledger, udp(40000, 5), "b.example", &[]);
    assert!(record(&mut ledger, fact).is_empty(), "it waits");
    let observation = observe(&mut ledger, asked(udp(40000, 5), process(6, "curl b")));
    assert_eq!(
        (pid(&observation), name(&observation)),
        (Some(6), Some("b.example".into()))
    );
}

#[test]
fn a_client_that_repeats_its_message_is_known_each_time() {
    let mut ledger = ledger(&[], &[]);
    let key = udp(40000, 5);
    for _sent in 0..2 {
        record(&mut ledger, asked(key, process(5, "dig a")));
    }
    for _answered in 0..2 {
        let fact = question(&ledger, key, "a.example", &[]);
        assert_eq!(pid(&observe(&mut ledger, fact)), Some(5));
    }
}

#[test]
fn a_tcp_connection_names_the_asker_of_all_its_questions() {
    let mut ledger = ledger(&[], &[]);
    for early in ["a.example", "b.example"] {
        let fact = question(&ledger, tcp(5000), early, &[]);
        assert!(record(&mut ledger, fact).is_empty());
    }
    let joined = record(&mut ledger, asked(tcp(5000), process(5, "dig +tcp")));
    assert_eq!(joined.iter().map(pid).collect::<Vec<_>>(), [Some(5); 2]);
    let fact = question(&ledger, tcp(5000), "c.example", &[]);
    assert_eq!(pid(&observe(&mut ledger, fact)), Some(5));
    let fact = question(&ledger, tcp(5001), "c.example", &[]);
    assert!(record(&mut ledger, fact).is_empty(), "another connection");
}

#[test]
fn keys_of_other_families_ports_and_ids_are_others() {
    let mut ledger = ledger(&[], &[]);
    let key = udp(40000, 7);
    record(&mut ledger, asked(key, process(5, "dig")));
    for other in [
        QueryKey { ipv6: true, ..key },
        QueryKey { port: 1, ..key },
        QueryKey { id: 8, ..key },
        QueryKey {
            transport: Transport::Tcp,
            ..key
        },
    ] {
        let fact = question(&ledger, other, "a.example", &[]);
        assert!(record(&mut ledger, fact).is_empty(), "{other:?}");
    }
}

#[test]
fn an_unknown_process_does_not_overwrite_a_known_one() {
    let mut ledger = ledger(&[], &[]);
    record(&mut ledger, asked(tcp(5000), process(5, "dig")));
    record(&mut ledger, asked(tcp(5000), process(0, "swapper")));
    let fact = question(&ledger, tcp(5000), "a.example", &[]);
    assert_eq!(pid(&observe(&mut ledger, fact)), Some(5));
}

#[test]
fn a_question_waits_for_its_asker_with_patience_and_not_for_ever() {
    let mut ledger = ledger(&["github.com"], &[]);
    let fact = question(&ledger, udp(40000, 7), "github.com", &[]);
    record(&mut ledger, fact);
    assert!(ledger.settle(at(0)).is_empty());
    assert!(ledger.settle(at(499)).is_empty());
    let late = ledger.settle(at(500));
    assert_eq!(late.len(), 1);
    assert_eq!((pid(&late[0]), late[0].verdict), (None, Verdict::Blocked));
    assert!(ledger.settle(at(9000)).is_empty());
    assert_eq!(total(&ledger, "github.com").unattributed, 1);

    let fact = question(&ledger, udp(40000, 8), "github.com", &[]);
    record(&mut ledger, fact);
    assert_eq!(ledger.finish().len(), 1);
    assert!(ledger.finish().is_empty());
}

#[test]
fn one_process_is_kept_once_however_much_it_does() {
    let mut ledger = ledger(&[], &[]);
    for n in 0..3 {
        resolve(&mut ledger, process(5, "x"), &format!("n{n}.example"), &[]);
    }
    let totals: Vec<_> = ledger.run.targets.iter().map(|(_, total)| total).collect();
    let [one, others @ ..] = &totals[..] else {
        panic!("nothing was counted");
    };
    let is_same = |total: &&Total| Arc::ptr_eq(&total.commands[0], &one.commands[0]);
    assert!(others.len() == 2 && others.iter().all(is_same));
}

#[test]
fn command_lines_beyond_all_measure_are_left_out_and_said_to_be() {
    let mut ledger = ledger(&[], &[]);
    let arguments = "x ".repeat(500);
    for n in 1..=40_000 {
        let asker = process(n, &format!("{n} {arguments}"));
        resolve(&mut ledger, asker, &format!("n{n}.example"), &[]);
    }
    let commands = ledger
        .run
        .targets
        .iter()
        .map(|(_, total)| &total.commands[0]);
    let (whole, short): (Vec<_>, Vec<_>) = commands.partition(|command| command.len() > 1000);
    assert!(!whole.is_empty() && !short.is_empty(), "{}", whole.len());
    assert!(short.iter().all(|command| command.starts_with('[')));
}

#[test]
fn no_flood_of_questions_or_askers_or_names_fills_the_memory() {
    let mut ledger = ledger(&[], &[]);
    let mut observed = 0;
    for n in 0..=u16::MAX {
        let fact = question(&ledger, udp(1, n), &format!("n{n}.example"), &["192.0.2.1"]);
        observed += record(&mut ledger, fact).len();
        record(&mut ledger, asked(udp(2, n), process(5, "x")));
    }
    assert_eq!(ledger.waiting.len(), MAX_WAITING);
    observed += ledger.finish().len();
    assert_eq!(observed, 1 << 16, "none is lost");
    let names = ledger.leads_to("192.0.2.1".parse().unwrap()).count();
    assert_eq!(names, leads::MAX_NAMES);
    resolve(&mut ledger, process(5, "x"), "one-too-many.example", &[]);
    assert_eq!(ledger.run.targets.len(), 1 << 16);
    assert_eq!(ledger.run.targets.uncounted + ledger.forgotten(), 1);
}

#[test]
fn a_refused_contact_by_address_names_the_domain() {
    let mut ledger = ledger(&["github.com"], &[]);
    record(
        &mut ledger,
        Fact::Known {
            name: domain("github.com"),
            addresses: vec!["192.0.2.1".parse().unwrap()],
        },
    );
    resolve(
        &mut ledger,
        process(4, "wget"),
        "cdn.example",
        &["192.0.2.1"],
    );
    let fact = contact(process(5, "curl"), "192.0.2.1:443", Verdict::Blocked);
    let observation = observe(&mut ledger, fact);
    assert_eq!(name(&observation), Some("github.com".into()));
    assert_eq!(observation.rule.as_ref().unwrap().cite(), "github.com");
    assert_eq!(observation.reason, Reason::Rule);
    let Act::Contact(Reached { also, .. }) = observation.act else {
        panic!("{observation:?}");
    };
    assert_eq!(also, [domain("cdn.example")], "both names are reported");
    assert_eq!(total(&ledger, "github.com").also, [domain("cdn.example")]);
}

#[test]
fn the_name_of_a_blocked_question_leads_to_the_addresses_of_its_answer() {
    // As under --audit, and as a synthetic address does.
    let mut ledger = ledger(&["github.com"], &[]);
    resolve(
        &mut ledger,
        process(5, "curl"),
        "github.com",
        &["198.18.0.1"],
    );
    let fact = contact(process(5, "curl"), "198.18.0.1:443", Verdict::WouldBlock);
    assert_eq!(name(&observe(&mut ledger, fact)), Some("github.com".into()));
}

#[test]
fn a_contact_is_refused_for_the_port_that_a_rule_blocks() {
    let mut ledger = ledger(&["github.com:22"], &[]);
    resolve(&mut ledger, process(5, "git"), "github.com", &["192.0.2.1"]);
    for (to, verdict, rule) in [
        ("192.0.2.1:22", Verdict::Blocked, Some("github.com:22")),
        ("192.0.2.1:443", Verdict::Allowed, None),
    ] {
        let observation = observe(&mut ledger, contact(process(5, "git"), to, verdict));
        assert_eq!(name(&observation), Some("github.com".into()), "{to}");
        let rule_found = observation
            .rule
            .as_ref()
            .map(|rule| rule.source.place.name.as_str());
        assert_eq!(rule_found, rule, "{to}");
    }
    let total = total(&ledger, "github.com");
    assert_eq!((total.lookups, total.contacts, total.blocked), (1, 2, 1));
    assert_eq!(total.verdict, Verdict::Blocked);
    assert_eq!(total.rule.as_ref().unwrap(), "github.com:22");
    assert!(!total.unjudged);
}

#[test]
fn an_allowed_contact_is_counted_under_the_name_that_its_process_asked_for() {
    let mut ledger = ledger(&[], &[]);
    resolve(
        &mut ledger,
        process(5, "curl a"),
        "a.example",
        &["192.0.2.1"],
    );
    resolve(
        &mut ledger,
        process(6, "curl b"),
        "b.example",
        &["192.0.2.1"],
    );
    for (pid, expected) in [(5, "a.example"), (6, "b.example"), (7, "b.example")] {
        let fact = contact(process(pid, "curl"), "192.0.2.1:443", Verdict::Allowed);
        assert_eq!(
            name(&observe(&mut ledger, fact)),
            Some(expected.into()),
            "{pid}"
        );
    }
}

#[test]
fn the_v4_mapped_form_of_an_address_is_the_same_address() {
    let mut ledger = ledger(&[], &[]);
    resolve(&mut ledger, process(5, "x"), "a.example", &["192.0.2.1"]);
    let fact = contact(process(5, "x"), "[::ffff:192.0.2.1]:443", Verdict::Allowed);
    assert_eq!(name(&observe(&mut ledger, fact)), Some("a.example".into()));
}

#[test]
fn what_is_public_and_no_name_led_to_was_not_judged() {
    let policy = policy(&["github.com"], &[]).with_host(
        ["203.0.113.9".parse().unwrap()],
        vec!["203.0.113.64/26".parse().unwrap()],
    );
    let mut ledger = Books::new(policy);
    let to = [
        "8.8.8.8:53",
        "[2001:db8::1]:443",
        "10.0.0.1:5432",
        "203.0.113.65:80",
    ];
    let unlisted = ["127.0.0.1:80", "[::1]:80", "203.0.113.9:80"];
    for destination in to.into_iter().chain(unlisted) {
        let fact = contact(process(5, "x"), destination, Verdict::Allowed);
        assert_eq!(observe(&mut ledger, fact).reason, Reason::DirectIp);
    }
    let unjudged: Vec<bool> = to.iter().map(|to| total(&ledger, to).unjudged).collect();
    assert_eq!(unjudged, [true, true, false, false]);
    assert_eq!(ledger.run.targets.len(), to.len());
}

#[test]
fn an_address_that_a_rule_names_was_judged() {
    let mut ledger = Books::new(policy(&["8.8.8.8:53"], &["8.8.4.4"]));
    for (to, verdict, unjudged) in [
        ("8.8.8.8:53", Verdict::Blocked, false),
        ("8.8.8.8:443", Verdict::Allowed, true),
        ("8.8.4.4:443", Verdict::Allowed, false),
        ("9.9.9.9:443", Verdict::Blocked, false),
    ] {
        observe(&mut ledger, contact(process(5, "x"), to, verdict));
        assert_eq!(total(&ledger, to).unjudged, unjudged, "{to}");
    }
}

#[test]
fn a_contact_that_passed_before_its_name_was_known_to_be_blocked_was_not_judged() {
    let mut ledger = ledger(&["github.com"], &[]);
    let known = Fact::Known {
        name: domain("github.com"),
        addresses: vec!["192.0.2.1".parse().unwrap()],
    };
    record(&mut ledger, known);
    let fact = contact(process(5, "x"), "192.0.2.1:443", Verdict::Allowed);
    assert_eq!(name(&observe(&mut ledger, fact)), None);
    let total = total(&ledger, "192.0.2.1:443");
    assert!(total.unjudged);
    assert_eq!(total.also, [domain("github.com")]);
}

#[test]
fn an_address_that_etc_hosts_gives_a_permitted_name_was_judged_by_it() {
    let mut ledger = ledger(&["github.com"], &[]);
    let known = Fact::Known {
        name: domain("mirror.example"),
        addresses: vec!["192.0.2.1".parse().unwrap()],
    };
    record(&mut ledger, known);
    let fact = contact(process(5, "x"), "192.0.2.1:443", Verdict::Allowed);
    assert_eq!(
        name(&observe(&mut ledger, fact)),
        Some("mirror.example".into())
    );
    assert!(!total(&ledger, "mirror.example").unjudged);
}

#[test]
fn a_refusal_is_the_first_of_its_process_target_and_verdict_once() {
    let mut ledger = ledger(&["github.com"], &[]);
    for (pid, asked_name, first) in [
        (5, "github.com", true),
        (5, "github.com", false),
        (5, "api.github.com", true),
        (6, "github.com", true),
        (6, "github.com", false),
    ] {
        let observation = resolve(&mut ledger, process(pid, "curl"), asked_name, &[]);
        assert_eq!(observation.first, first, "{pid} {asked_name}");
    }
    let mut reborn = process(5, "curl");
    reborn.started += 1;
    assert!(resolve(&mut ledger, reborn, "github.com", &[]).first);
    for (pid, to, verdict, first) in [
        (5, "192.0.2.1:22", Verdict::Blocked, true),
        (5, "192.0.2.1:22", Verdict::Blocked, false),
        (5, "192.0.2.1:23", Verdict::Blocked, true),
        (5, "192.0.2.1:22", Verdict::Allowed, true),
        (6, "192.0.2.1:22", Verdict::Blocked, true),
    ] {
        let observation = observe(&mut ledger, contact(process(pid, "x"), to, verdict));
        assert_eq!(observation.first, first, "{pid} {to}");
    }
}

#[test]
fn repeats_are_counted_for_the_contact_they_repeat() {
    let mut ledger = ledger(&["github.com"], &[]);
    resolve(
        &mut ledger,
        process(5, "curl a"),
        "a.example",
        &["192.0.2.1"],
    );
    let fact = contact(process(5, "curl a"), "192.0.2.1:443", Verdict::Allowed);
    observe(&mut ledger, fact);
    let repeats = Repeats {
        pid: 5,
        started: 5000,
        destination: "192.0.2.1:443".parse().unwrap(),
        protocol: 6,
        verdict: Verdict::Allowed,
        count: 41,
    };
    let observation = observe(&mut ledger, Fact::Repeats(repeats));
    assert_eq!((observation.first, observation.count), (false, 41));
    assert_eq!(
        (pid(&observation), observation.layer),
        (Some(5), Layer::Connect)
    );
    observe(&mut ledger, Fact::Repeats(Repeats { pid: 0, ..repeats }));
    let total = total(&ledger, "a.example");
    assert_eq!((total.contacts, total.unattributed), (83, 41));
    assert_eq!(total.commands.len(), 1);
}

#[test]
fn commands_are_listed_once_and_no_more_than_fit() {
    let mut ledger = ledger(&[], &[]);
    for pid in 1..=16 {
        for command in ["curl same".to_owned(), format!("curl {pid}")] {
            resolve(&mut ledger, process(pid, &command), "a.example", &[]);
        }
    }
    let total = total(&ledger, "a.example");
    let commands: Vec<String> = total.commands.iter().map(ToString::to_string).collect();
    assert_eq!(commands.len(), 16);
    assert_eq!(commands[..3], ["curl same", "curl 1", "curl 2"]);
    assert!(total.more_commands);
    assert_eq!(total.lookups, 32);
}

#[test]
fn aliases_and_search_suffixes_are_the_reason_they_are() {
    let rules =
        vec![Rule::parse("github.com", Action::Block, Source::argument("github.com")).unwrap()];
    let search = vec![domain("corp.example")];
    let policy = Policy::new(rules, None, Some(DirectIp::Allow), search);
    let mut ledger = Books::new(policy);
    let observation = resolve(&mut ledger, process(5, "x"), "github.com.corp.example", &[]);
    assert_eq!(observation.reason, Reason::SearchSuffix);
    assert_eq!(observation.matched, Some(domain("github.com")));

    let chain = vec![domain("cdn.example"), domain("www.github.com")];
    let judgement = ledger.policy.name(&domain("my.example"), &chain);
    let Fact::Query(plain) = question(&ledger, udp(9, 9), "my.example", &["192.0.2.1"]) else {
        panic!("a question is a query");
    };
    let query = Query {
        verdict: Verdict::Blocked,
        rule: judgement.rule,
        matched: judgement.matched,
        cname_chain: chain,
        ..plain
    };
    record(&mut ledger, asked(udp(9, 9), process(5, "x")));
    let observation = observe(&mut ledger, Fact::Query(query));
    assert_eq!(observation.reason, Reason::Alias);
    assert_eq!(observation.matched, Some(domain("www.github.com")));
    let fact = contact(process(5, "x"), "192.0.2.1:443", Verdict::Blocked);
    let observation = observe(&mut ledger, fact);
    assert_eq!(observation.reason, Reason::Alias);
    assert_eq!(name(&observation), Some("my.example".into()));
}

#[test]
fn a_refused_name_that_is_repeated_with_a_search_suffix_is_one_refusal() {
    let search = || vec![domain("corp.example"), domain("example")];
    let blocks = vec![Rule::parse("github.com", Action::Block, Source::default()).unwrap()];
    let allows = vec![Rule::parse("a.test", Action::Allow, Source::default()).unwrap()];
    for rules in [blocks, allows] {
        let policy = Policy::new(rules, None, None, search());
        let mut ledger = Books::new(policy);
        let firsts: Vec<bool> = [
            "github.com",
            "github.com.corp.example",
            "github.com.example",
        ]
        .iter()
        .map(|asked| resolve(&mut ledger, process(5, "curl"), asked, &[]).first)
        .collect();
        assert_eq!(firsts, [true, false, false]);
        assert_eq!(total(&ledger, "github.com").lookups, 1);
        assert_eq!(ledger.run.targets.len(), 1);
        let other = process(6, "curl");
        assert!(resolve(&mut ledger, other, "github.com", &[]).first);
    }
}

#[test]
fn an_allowed_name_is_counted_as_it_was_asked() {
    let policy = Policy::new(Vec::new(), None, None, vec![domain("corp.example")]);
    let mut ledger = Books::new(policy);
    for asked in ["db", "db.corp.example"] {
        resolve(&mut ledger, process(5, "psql"), asked, &[]);
        assert_eq!(total(&ledger, asked).lookups, 1);
    }
}

#[test]
fn losses_add_up() {
    let mut ledger = ledger(&[], &[]);
    for count in [2, 40] {
        assert!(record(&mut ledger, Fact::Lost(count)).is_empty());
    }
    assert_eq!(ledger.lost(), 42);
}

fn path(path: &str) -> Service {
    Service::Path(path.into())
}

fn port(address: &str) -> Service {
    Service::Port {
        address: address.parse().unwrap(),
        protocol: 6,
    }
}

fn peer(pid: u32, command: &str) -> Peer {
    let Process { comm, argv, .. } = process(pid, command);
    Peer { pid, comm, argv }
}

fn delegation(process: Process, service: Service, peer: Option<Peer>) -> Fact {
    Fact::Delegation(Delegation {
        process,
        service,
        peer,
        verdict: Verdict::Allowed,
    })
}

#[track_caller]
fn service_total<'l>(ledger: &'l Books, service: &str) -> &'l Total {
    let is_it =
        |known: &Target| matches!(known, Target::Service(_)) && known.to_string() == service;
    let found = ledger.run.targets.iter().find(|(known, _)| is_it(known));
    found
        .unwrap_or_else(|| panic!("{service} is not counted"))
        .1
}

#[test]
fn a_delegation_is_counted_for_its_service_whoever_listens() {
    let mut ledger = ledger(&[], &[]);
    let docker = || process(5, "docker pull app");
    for (service, peer) in [
        (
            path("/run/docker.sock"),
            Some(peer(812, "dockerd -H fd://")),
        ),
        (path("/var/run//docker.sock"), None),
        (
            path("/run/docker.sock"),
            Some(peer(900, "dockerd -H fd://")),
        ),
        (path("/run/docker.sock"), Some(peer(901, "socat"))),
    ] {
        let observation = observe(&mut ledger, delegation(docker(), service, peer));
        assert_eq!(observation.layer, Layer::Delegation);
        assert_eq!(observation.reason, Reason::Delegation);
        assert_eq!(pid(&observation), Some(5));
    }
    let total = service_total(&ledger, "/run/docker.sock");
    assert_eq!(
        (total.contacts, total.lookups, total.unattributed),
        (4, 0, 0)
    );
    let delegated = total.delegated.as_ref().unwrap();
    assert!(delegated.unacknowledged);
    let pids: Vec<u32> = delegated.listeners.iter().map(|peer| peer.pid).collect();
    assert_eq!(pids, [812, 901], "one for each command line");
    assert_eq!(ledger.run.targets.len(), 1);
}

#[test]
fn a_delegation_is_acknowledged_by_its_rule() {
    let allow = ["/run/docker.sock", "@bus", "127.0.0.1:8080"];
    let mut ledger = ledger(&[], &allow);
    assert_eq!(ledger.policy.default_action(), Action::Allow);
    for (service, rule) in [
        (path("/run/docker.sock"), Some("/run/docker.sock")),
        (path("/var/run/docker.sock"), Some("/run/docker.sock")),
        (Service::Abstract(b"bus".into()), Some("@bus")),
        (port("127.0.0.1:8080"), Some("127.0.0.1:8080")),
        (port("0.0.0.0:8080"), Some("127.0.0.1:8080")),
        (port("[::ffff:127.0.0.1]:8080"), Some("127.0.0.1:8080")),
        (path("@bus"), None),
        (port("127.0.0.1:8081"), None),
        (Service::Abstract(b"run/docker.sock".into()), None),
    ] {
        let fact = delegation(process(5, "x"), service.clone(), None);
        let observation = observe(&mut ledger, fact);
        let found = observation
            .rule
            .as_ref()
            .map(|rule| rule.source.place.name.as_str());
        assert_eq!(found, rule, "{service:?}");
        let acknowledged = observation.reason == Reason::Acknowledged;
        assert_eq!(acknowledged, rule.is_some(), "{service:?}");
        assert_eq!(observation.startling, rule.is_none(), "{service:?}");
    }
    let docker = service_total(&ledger, "/run/docker.sock");
    assert_eq!(docker.contacts, 2);
    assert!(!docker.delegated.as_ref().unwrap().unacknowledged);
}

#[test]
fn a_delegation_startles_once_and_is_the_first_of_each_process() {
    let mut ledger = ledger(&[], &[]);
    for (pid, service, first, startling) in [
        (5, path("/run/a"), true, true),
        (5, path("/run/a"), false, false),
        (6, path("/run/a"), true, false),
        (5, path("/run/b"), true, true),
        (5, port("127.0.0.1:80"), true, true),
        (0, port("127.0.0.1:80"), true, false),
    ] {
        let fact = delegation(process(pid, "x"), service.clone(), None);
        let observation = observe(&mut ledger, fact);
        let found = (observation.first, observation.startling);
        assert_eq!(found, (first, startling), "{pid} {service:?}");
    }
}

#[test]
fn a_delegation_that_was_refused_is_a_blocked_target() {
    let mut ledger = ledger(&[], &["@bus"]);
    let fact = Fact::Delegation(Delegation {
        process: process(5, "x"),
        service: path("/run/docker.sock"),
        peer: None,
        verdict: Verdict::Blocked,
    });
    assert_eq!(observe(&mut ledger, fact).verdict, Verdict::Blocked);
    let total = service_total(&ledger, "/run/docker.sock");
    assert_eq!((total.verdict, total.blocked), (Verdict::Blocked, 1));
    assert!(ledger.run.blocked > 0);
}

#[test]
fn a_repeated_contact_with_a_service_is_delegation_again() {
    let mut ledger = ledger(&[], &[]);
    let curl = || process(5, "curl");
    let fact = contact(curl(), "127.0.0.1:80", Verdict::Allowed);
    assert_eq!(observe(&mut ledger, fact).layer, Layer::Connect);
    let fact = delegation(curl(), port("127.0.0.1:80"), Some(peer(9, "nginx")));
    observe(&mut ledger, fact);
    let repeats = |pid: u32, to: &str| {
        Fact::Repeats(Repeats {
            pid,
            started: u64::from(pid) * 1000,
            destination: to.parse().unwrap(),
            protocol: 6,
            verdict: Verdict::Allowed,
            count: 3,
        })
    };
    let again = observe(&mut ledger, repeats(5, "127.0.0.1:80"));
    assert_eq!((again.layer, again.count), (Layer::Delegation, 3));
    assert!(!again.first && !again.startling);
    // Its own listener, and another process.
    for fact in [repeats(5, "127.0.0.1:81"), repeats(6, "127.0.0.1:80")] {
        assert_ne!(observe(&mut ledger, fact).layer, Layer::Delegation);
    }
    let total = service_total(&ledger, "127.0.0.1:80/tcp");
    assert_eq!(total.contacts, 4);
    let listeners = &total.delegated.as_ref().unwrap().listeners;
    assert!(matches!(&listeners[..], [one] if one.pid == 9 && one.command == "nginx"));
    assert_eq!(ledger.run.targets.len(), 1);
}

fn host(host: Host, port: Option<u16>) -> GoBetween {
    GoBetween {
        sign: Sign::Host { host, port },
        source: "http_proxy".to_owned(),
    }
}

#[test]
fn a_contact_with_a_known_proxy_is_delegation() {
    let search = vec![domain("corp.example")];
    let policy = Policy::new(Vec::new(), None, None, search);
    let address = "192.0.2.9".parse().unwrap();
    let mut ledger = Books::new(policy);
    ledger.know_go_betweens(vec![
        host(Host::Name(domain("proxy")), Some(3128)),
        host(Host::Address(address), None),
        GoBetween {
            sign: Sign::Command(vec![Some(b"nc".into()), None, Some(b"22".into())]),
            source: "ProxyCommand".to_owned(),
        },
    ]);
    resolve(
        &mut ledger,
        process(1, "x"),
        "proxy.corp.example",
        &["192.0.2.1"],
    );
    resolve(
        &mut ledger,
        process(1, "x"),
        "proxy.example",
        &["192.0.2.2"],
    );
    for (command, to, via) in [
        ("curl", "192.0.2.1:3128", Some("http_proxy")),
        ("curl", "192.0.2.1:22", None),
        ("curl", "192.0.2.2:3128", None),
        ("curl", "192.0.2.9:22", Some("http_proxy")),
        ("curl", "[::ffff:192.0.2.9]:80", Some("http_proxy")),
        ("nc host 22", "192.0.2.2:22", Some("ProxyCommand")),
        ("nc host 23", "192.0.2.2:22", None),
        ("nc -v host 22", "192.0.2.2:22", None),
        ("ssh -W a:22 b", "192.0.2.2:22", Some("ssh -W")),
        ("ssh b", "192.0.2.2:22", None),
    ] {
        let fact = contact(process(5, command), to, Verdict::Allowed);
        let observation = observe(&mut ledger, fact);
        let Act::Contact(Reached { via: found, .. }) = &observation.act else {
            panic!("{observation:?}");
        };
        assert_eq!(found.as_deref(), via, "{command} {to}");
        let is_delegation = observation.layer == Layer::Delegation;
        assert_eq!(is_delegation, via.is_some(), "{command} {to}");
    }
    let delegated = total(&ledger, "proxy.corp.example").delegated.as_ref();
    assert!(delegated.is_some_and(|delegated| delegated.unacknowledged));
    assert_eq!(delegated.unwrap().via.as_deref(), Some("http_proxy"));
}

#[test]
fn a_proxy_that_is_refused_or_on_this_host_is_no_delegation_by_its_name() {
    let mut ledger = ledger(&[], &[]);
    ledger.know_go_betweens(vec![host(Host::Name(domain("localhost")), None)]);
    let name = domain("localhost");
    let addresses = vec!["127.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
    record(&mut ledger, Fact::Known { name, addresses });
    for (to, verdict) in [
        ("127.0.0.1:80", Verdict::Allowed),
        ("192.0.2.1:80", Verdict::Blocked),
    ] {
        let observation = observe(&mut ledger, contact(process(5, "x"), to, verdict));
        assert_eq!(observation.layer, Layer::Connect, "{to}");
    }
}

#[test]
fn a_proxy_is_acknowledged_by_a_rule_for_just_that_host() {
    for (allow, acknowledged) in [
        ("proxy.example:3128", true),
        ("=proxy.example", true),
        ("192.0.2.1:3128", true),
        ("example", false),
        ("192.0.2.0/24", false),
    ] {
        let known = vec![host(Host::Name(domain("proxy.example")), Some(3128))];
        let mut ledger = ledger(&[], &[allow]);
        ledger.know_go_betweens(known);
        resolve(
            &mut ledger,
            process(5, "x"),
            "proxy.example",
            &["192.0.2.1"],
        );
        let fact = contact(process(5, "x"), "192.0.2.1:3128", Verdict::Allowed);
        let observation = observe(&mut ledger, fact);
        let expected = if acknowledged {
            Reason::Acknowledged
        } else {
            Reason::Delegation
        };
        assert_eq!(observation.reason, expected, "{allow}");
        assert_eq!(observation.startling, !acknowledged, "{allow}");
    }
}

#[test]
fn who_was_moved_out_is_remembered_with_its_last_fate() {
    let mut ledger = ledger(&[], &[]);
    let moved = |pid, is_back| Moved {
        process: process(pid, "su - deploy"),
        to: b"/user.slice".to_vec(),
        is_back,
    };
    for (pid, is_back, is_news) in [
        (5, false, true),
        (5, false, false),
        (5, true, true),
        (6, true, true),
        (5, false, true),
        (5, true, true),
    ] {
        let fact = Fact::Moved(moved(pid, is_back));
        let entries = ledger.record(Event { time: at(0), fact });
        let [Entry::Moved { first, .. }] = &entries[..] else {
            panic!("{entries:?} of one move");
        };
        assert_eq!(*first, is_news, "{pid} {is_back}");
        ledger.enter(entries);
    }
    let moved_so_far = ledger.run.moved.iter();
    let found: Vec<(u32, bool)> = moved_so_far
        .map(|moved| (moved.process.pid, moved.is_back))
        .collect();
    assert_eq!(found, [(5, true), (6, true)]);
    for pid in 100..200 {
        record(&mut ledger, Fact::Moved(moved(pid, false)));
    }
    assert_eq!((ledger.run.moved.len(), ledger.run.more_moved), (16, 86));
}

#[test]
fn no_flood_of_delegation_fills_the_memory() {
    let mut ledger = ledger(&[], &[]);
    for n in 0..=(1_u32 << 16) {
        let service = Service::Abstract(n.to_string().into_bytes());
        record(&mut ledger, delegation(process(5, "x"), service, None));
        let listener = Some(peer(n, &format!("listener {n}")));
        let fact = delegation(process(5, "x"), path("/run/same"), listener);
        record(&mut ledger, fact);
    }
    let total = service_total(&ledger, "/run/same");
    assert_eq!(total.delegated.as_ref().unwrap().listeners.len(), 16);
    assert_eq!(ledger.run.targets.len(), 1 << 16);
    assert_eq!(ledger.run.targets.uncounted + ledger.forgotten(), 2);
}

#[test]
fn connections_are_told_with_who_began_them_and_the_name_that_led_there() {
    let mut ledger = ledger(&["github.com"], &[]);
    let (curl, wget) = (process(7, "curl a.test"), process(8, "wget b.test"));
    for (process, name, id) in [(&curl, "a.test", 1), (&wget, "b.test", 2)] {
        let key = udp(40000, id);
        let question = question(&ledger, key, name, &["203.0.113.7"]);
        record(&mut ledger, question);
        record(&mut ledger, asked(key, process.clone()));
        let contact = contact(process.clone(), "203.0.113.7:443", Verdict::Allowed);
        record(&mut ledger, contact);
    }
    let mut ended = |process: &Process, destination: &str| {
        let fact = Fact::Ended(event::Ended {
            process: process.id(),
            destination: destination.parse().unwrap(),
            protocol: 6,
            verdict: Verdict::Allowed,
            connections: 2,
            end: End::Unanswered {
                waited: Duration::from_secs(3),
            },
        });
        let time = at(9);
        let entries = ledger.ledger.record(Event { time, fact });
        let [Entry::Ended(ended)] = &entries[..] else {
            panic!("{entries:?} of connections that have ended");
        };
        ended.clone()
    };
    for (process, name) in [(&curl, "a.test"), (&wget, "b.test")] {
        let ended = ended(process, "203.0.113.7:443");
        assert_eq!(ended.name, Some(domain(name)));
        assert_eq!(ended.process.as_deref(), Some(process));
        assert_eq!((ended.time, ended.connections), (at(9), 2));
    }
    // What nothing is known of stays so.
    let unknown = ended(&Process::default(), "203.0.113.8:443");
    assert_eq!((unknown.process, unknown.name), (None, None));
}
