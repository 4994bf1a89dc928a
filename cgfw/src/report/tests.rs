//! Golden lines: what is told of a small run, to the letter.

use std::sync::Arc;

use super::outlet::tests::Shared;
use super::*;
use crate::audit::strings;
use crate::event::{
    Contact, Delegation, Event, Fact, GoBetween, Host, Layer, Moved, Peer, Process, Query,
    QueryKey, Service, Sign,
};
use crate::ledger::{Entry, Ledger};
use crate::policy::{Domain, Place, Rule, Source, Transport};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(1_790_000_000 + seconds, 123_456_789)
}

fn rule(flag: &str, pattern: &str) -> Rule {
    let action = match flag {
        "--block" => Action::Block,
        _ => Action::Allow,
    };
    Rule::parse(
        pattern,
        action,
        Source::argument(format!("{flag} {pattern}")),
    )
    .unwrap()
}

fn policy(rules: &[(&str, &str)]) -> Arc<Policy> {
    let rules = rules.iter().map(|(flag, pattern)| rule(flag, pattern));
    policy_of(rules.collect())
}

fn policy_of(rules: Vec<Rule>) -> Arc<Policy> {
    Arc::new(Policy::new(rules, None, None, Vec::new()))
}

/// A rule of the file `policy.toml`.
fn written(line: u32, pattern: &str, reason: &str, owner: &str) -> Rule {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let place = Place {
        name: "policy.toml".to_owned(),
        list: None,
        reason: text(reason),
        owner: text(owner),
    };
    let source = Source {
        place: Arc::new(place),
        line,
    };
    Rule::parse(pattern, Action::Block, source).unwrap()
}

fn alice() -> BreakGlass {
    BreakGlass {
        reason: "the registry is \u{1b}[2J down".to_owned(),
        user: Some("alice".to_owned()),
        uid: 1000,
    }
}

fn protection() -> Protection {
    Protection {
        kernel: "6.18.44".to_owned(),
        cgroup: "/cg".into(),
        hooks: vec!["connect4".to_owned()],
        sees_sockets: true,
        sees_processes: false,
        strict: None,
        privileges: Privileges::Root,
    }
}

fn words(command: &str) -> Vec<Vec<u8>> {
    command.split(' ').map(Into::into).collect()
}

fn process(pid: u32, command: &str) -> Process {
    Process {
        pid,
        tid: pid,
        ppid: 1,
        uid: 1000,
        started: 1,
        comm: b"comm".to_vec(),
        argv: words(command),
        truncated: false,
        ..Process::default()
    }
}

fn listener(pid: u32, command: &str) -> Peer {
    let argv = words(command);
    Peer {
        pid,
        comm: argv[0].clone(),
        argv,
    }
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

/// The start of a run that enforces a policy of no written rules.
fn start<'r>(policy: &'r Policy, command: &'r [Vec<u8>], protection: &'r Protection) -> Start<'r> {
    Start {
        time: at(0),
        policy,
        rules: &[],
        policy_digest: "5eed",
        trace_id: None,
        host: "db1",
        audit: false,
        break_glass: None,
        uid: 1000,
        command,
        cwd: None,
        protection,
    }
}

/// The end of a run of which nothing else is to be told.
fn success() -> End {
    End {
        time: at(2),
        outcome: Outcome::Exited(0),
        exit_code: 0,
        elapsed: Duration::ZERO,
        usage: Usage::default(),
        survivors: Vec::new(),
        fate: Fate::Ended,
        caveats: Vec::new(),
        new: None,
        forgotten: 0,
    }
}

/// A run that is observed, and what is told of it.
struct Observed {
    policy: Arc<Policy>,
    ledger: Ledger,
    report: Report,
    stderr: Shared,
    audit_log: Shared,
    audit: bool,
    next_id: u16,
}

impl Observed {
    fn new(policy: &Arc<Policy>, verbosity: Verbosity, style: Style) -> Self {
        Self::with_sinks(
            policy,
            verbosity,
            style,
            Shared::default(),
            Shared::default(),
        )
    }

    fn plain(policy: &Arc<Policy>) -> Self {
        Self::new(policy, Verbosity::Normal, Style::default())
    }

    fn with_sinks(
        policy: &Arc<Policy>,
        verbosity: Verbosity,
        style: Style,
        stderr: Shared,
        audit_log: Shared,
    ) -> Self {
        let report = Report::new(
            "r1".to_owned(),
            policy.default_action(),
            verbosity,
            style,
            stderr.clone(),
            Some((PathBuf::from("/var/log/cgfw.jsonl"), audit_log.clone())),
        );
        let mut report = report.unwrap();
        let command = words("./deploy.sh --fast");
        // Known without being told.
        let line = audit::run_start("r1", &start(policy, &command, &protection()));
        report.run.add(&line);
        Self {
            policy: Arc::clone(policy),
            ledger: Ledger::new(Arc::clone(policy)),
            report,
            stderr,
            audit_log,
            audit: false,
            next_id: 0,
        }
    }

    fn record(&mut self, fact: Fact) {
        let entries = self.ledger.record(Event { time: at(1), fact });
        self.tell(entries);
    }

    fn tell(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.report.tell(&entry);
        }
    }

    fn verdict(&self, blocked: bool) -> Verdict {
        match (blocked, self.audit) {
            (false, _) => Verdict::Allowed,
            (true, false) => Verdict::Blocked,
            (true, true) => Verdict::WouldBlock,
        }
    }

    fn look_up(&mut self, asker: Option<Process>, name: &str, aliases: &[&str], answers: &[&str]) {
        let parse = |name: &&str| Domain::parse(name).unwrap();
        self.next_id += 1;
        let key = QueryKey {
            transport: Transport::Udp,
            ipv6: false,
            port: 40000,
            id: self.next_id,
        };
        let chain: Vec<Domain> = aliases.iter().map(parse).collect();
        let judgement = self.policy.name(&parse(&name), &chain);
        let blocked = judgement.is_blocked();
        if let Some(process) = asker {
            self.record(Fact::Asked { key, process });
        }
        self.record(Fact::Query(Query {
            key,
            qname: parse(&name),
            qtype: "A".to_owned(),
            verdict: self.verdict(blocked),
            rule: judgement.rule,
            matched: judgement.matched,
            cname_chain: chain,
            rcode: if blocked { "NXDOMAIN" } else { "NOERROR" }.to_owned(),
            answers: answers.iter().map(|a| a.parse().unwrap()).collect(),
            upstream: (!blocked).then(|| "192.0.2.53:53".parse().unwrap()),
            latency: Duration::from_micros(1234),
        }));
    }

    fn connect(&mut self, process: Process, layer: Layer, to: &str, protocol: u8, blocked: bool) {
        let verdict = self.verdict(blocked);
        self.record(Fact::Contact(Contact {
            process,
            layer,
            destination: to.parse().unwrap(),
            protocol,
            verdict,
        }));
    }

    fn delegate(&mut self, process: Process, service: Service, peer: Option<(u32, &str)>) {
        let verdict = self.verdict(false);
        self.record(Fact::Delegation(Delegation {
            process,
            service,
            peer: peer.map(|(pid, command)| listener(pid, command)),
            verdict,
        }));
    }

    /// End the run; what was written to stderr and to the audit log.
    fn end(mut self, change: impl FnOnce(&mut End)) -> (String, String, Losses) {
        let entries = self.ledger.finish();
        self.tell(entries);
        let mut end = End {
            elapsed: Duration::from_millis(2499),
            ..success()
        };
        change(&mut end);
        let losses = self.report.end(end);
        (self.stderr.text(), self.audit_log.text(), losses)
    }
}

#[track_caller]
fn check(found: &str, expected: &str) {
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

#[test]
fn a_refused_question_is_told_as_the_design_says() {
    let mut run = Observed::plain(&policy(&[("--block", "github.com")]));
    run.look_up(
        Some(process(266_767, "curl github.com")),
        "github.com",
        &[],
        &[],
    );
    let (stderr, ..) = run.end(|_| ());
    let line = stderr.lines().next().unwrap();
    assert_eq!(
        line,
        "WARN DNS BLOCKED reason=FromDNSRequest blocked=true blockedAt=dns domain=github.com. \
         pid=266767 cmd=\"curl github.com\" firewallMethod=blocklist \
         rule=\"--block github.com\" qtype=A"
    );
}

#[test]
fn a_refused_contact_is_told_with_its_name_and_address() {
    let mut run = Observed::plain(&policy(&[
        ("--block", "github.com:22"),
        ("--block", "10.0.0.0/8"),
    ]));
    let git = || process(5, "git fetch");
    run.look_up(
        Some(git()),
        "github.com",
        &[],
        &["192.0.2.1", "2001:db8::1"],
    );
    run.look_up(Some(git()), "mirror.example", &[], &["192.0.2.1"]);
    run.connect(git(), Layer::Connect, "192.0.2.1:22", 6, true);
    run.connect(git(), Layer::Packet, "[2001:db8::1]:22", 17, true);
    run.connect(process(0, "?"), Layer::Packet, "10.1.1.1:0", 1, true);
    let (stderr, ..) = run.end(|_| ());
    let lines: Vec<&str> = stderr.lines().take(3).collect();
    assert_eq!(
        lines,
        [
            "WARN CONNECT BLOCKED reason=FromConnect blocked=true blockedAt=connect \
             domain=github.com. pid=5 cmd=\"git fetch\" firewallMethod=blocklist \
             rule=\"--block github.com:22\" ip=192.0.2.1 port=22 proto=tcp \
             also=mirror.example.",
            "WARN PACKET BLOCKED reason=FromPacket blocked=true blockedAt=packet \
             domain=github.com. pid=5 cmd=\"git fetch\" firewallMethod=blocklist \
             rule=\"--block github.com:22\" ip=2001:db8::1 port=22 proto=udp",
            "WARN PACKET BLOCKED reason=FromPacket blocked=true blockedAt=packet \
             pid=? cmd=\"?\" firewallMethod=blocklist \
             rule=\"--block 10.0.0.0/8\" ip=10.1.1.1 port=0 proto=icmp",
        ]
    );
}

#[test]
fn an_allow_list_is_named_and_an_alias_explained() {
    let rules = policy(&[("--allow", "my.example"), ("--block", "cdn.example")]);
    let mut run = Observed::plain(&rules);
    run.look_up(Some(process(5, "x")), "my.example", &["a.cdn.example"], &[]);
    run.look_up(Some(process(5, "x")), "other.example", &[], &[]);
    let (stderr, ..) = run.end(|_| ());
    let lines: Vec<&str> = stderr.lines().take(2).collect();
    assert_eq!(
        lines,
        [
            "WARN DNS BLOCKED reason=FromDNSRequest blocked=true blockedAt=dns \
             domain=my.example. pid=5 cmd=\"x\" firewallMethod=allowlist \
             rule=\"--block cdn.example\" matched=a.cdn.example. qtype=A",
            "WARN DNS BLOCKED reason=FromDNSRequest blocked=true blockedAt=dns \
             domain=other.example. pid=5 cmd=\"x\" firewallMethod=allowlist qtype=A",
        ]
    );
}

#[test]
fn in_audit_mode_a_line_says_what_would_have_been() {
    let mut run = Observed::plain(&policy(&[("--block", "github.com")]));
    run.audit = true;
    run.look_up(Some(process(5, "curl")), "github.com", &[], &[]);
    let (stderr, audit_log, _) = run.end(|_| ());
    let line = stderr.lines().next().unwrap();
    assert!(
        line.starts_with("WARN DNS WOULD-BLOCK reason=FromDNSRequest blocked=false blockedAt=dns"),
        "{line}"
    );
    assert!(audit_log.contains(r#""verdict":"would_block""#));
    assert!(stderr.contains("not clean: 1 target would be blocked\n"));
}

#[test]
fn a_refusal_is_told_once_and_logged_each_time() {
    let mut run = Observed::plain(&policy(&[("--block", "github.com")]));
    for _ in 0..3 {
        run.look_up(Some(process(5, "curl")), "github.com", &[], &[]);
    }
    let (stderr, audit_log, _) = run.end(|_| ());
    assert_eq!(stderr.matches("WARN DNS BLOCKED").count(), 1);
    assert_eq!(audit_log.matches(r#""event":"dns""#).count(), 3);
}

#[test]
fn how_much_is_told_is_up_to_the_user() {
    for (verbosity, lines, summaries) in [
        (Verbosity::Quiet, 0, 0),
        (Verbosity::Normal, 1, 1),
        (Verbosity::Verbose, 2, 1),
    ] {
        let policy = policy(&[("--block", "github.com")]);
        let mut run = Observed::new(&policy, verbosity, Style::default());
        run.look_up(Some(process(5, "curl")), "github.com", &[], &[]);
        run.look_up(Some(process(5, "curl")), "a.example", &[], &[]);
        run.report.warn("some warning");
        run.report.error("some error");
        let (stderr, audit_log, _) = run.end(|_| ());
        assert_eq!(stderr.matches(" DNS ").count(), lines, "{verbosity:?}");
        assert_eq!(stderr.matches("not clean").count(), summaries);
        assert_eq!(stderr.matches("cgfw: some warning\n").count(), summaries);
        assert_eq!(stderr.matches("cgfw: some error\n").count(), 1);
        assert_eq!(audit_log.lines().count(), 3, "the log is complete");
        if verbosity == Verbosity::Verbose {
            assert!(stderr.contains(
                "INFO DNS ALLOWED reason=FromDNSRequest blocked=false blockedAt=dns \
                 domain=a.example. pid=5"
            ));
        }
    }
}

#[test]
fn hostile_command_lines_and_names_stay_on_their_line() {
    let mut run = Observed::plain(&policy(&[("--block", "github.com")]));
    let hostile = process(5, "sh\u{202e} \"\n\x1b]0;x\x07WARN");
    let name = r"a\010\027b.github.com";
    run.look_up(Some(hostile), name, &[], &[]);
    let (stderr, audit_log, _) = run.end(|_| ());
    let is_plain = |c: char| c == '\n' || (' '..='~').contains(&c);
    assert!(stderr.chars().all(is_plain), "{stderr}");
    assert!(audit_log.chars().all(is_plain), "{audit_log}");
    let line = stderr.lines().next().unwrap();
    let cmd = r#"cmd="'sh\u{202e}' '\"\n\u{1b}]0;x\u{7}WARN'" firewallMethod"#;
    assert!(line.contains(cmd), "{line}");
    assert!(line.contains(r"domain=a\010\027b.github.com. "), "{line}");
}

#[expect(clippy::too_many_lines, reason = "one golden text")]
#[test]
fn the_summary_puts_survivors_first_then_what_was_blocked() {
    let rules = [("--block", "github.com"), ("--block", "cdn.example")];
    let mut run = Observed::plain(&policy(&rules));
    let curl = || process(5, "curl -sSf https://github.com/install");
    run.look_up(Some(curl()), "github.com", &[], &[]);
    run.look_up(Some(curl()), "github.com", &[], &[]);
    run.look_up(Some(process(6, "git fetch")), "github.com", &[], &[]);
    run.look_up(Some(curl()), "my.example", &["a.cdn.example"], &[]);
    let apt = || process(7, "apt-get update");
    run.look_up(Some(apt()), "deb.example", &[], &["192.0.2.1"]);
    run.connect(apt(), Layer::Connect, "192.0.2.1:80", 6, false);
    run.look_up(None, "late.example", &[], &[]);
    run.connect(
        process(8, "./tool"),
        Layer::Connect,
        "203.0.113.7:443",
        6,
        false,
    );
    run.connect(
        process(8, "psql"),
        Layer::Connect,
        "10.0.0.5:5432",
        6,
        false,
    );
    run.connect(
        process(8, "psql"),
        Layer::Connect,
        "127.0.0.1:5432",
        6,
        false,
    );
    run.record(Fact::Lost(3));
    let survivors = vec![Survivor {
        pid: 4711,
        comm: "sleep".to_owned(),
        argv: strings(&words("sleep 1000")),
    }];
    let caveats = vec!["http_proxy is set: names behind it cannot be seen".to_owned()];
    let (stderr, ..) = run.end(|end| {
        end.outcome = Outcome::Exited(1);
        end.survivors = survivors;
        end.caveats = caveats;
    });
    let summary = &stderr[stderr.find("cgfw: ./deploy.sh").unwrap()..];
    check(
        summary,
        "\
cgfw: ./deploy.sh --fast exited with status 1 after 2.4 s
  outlived the command and were ended (1)
    4711  sleep 1000
  blocked (2)
    github.com  3 lookups  curl -sSf https://github.com/install
                           git fetch
                           (--block github.com)
    my.example  1 lookup   curl -sSf https://github.com/install
                           (--block cdn.example, because of a.cdn.example)
  allowed (3)
    deb.example        1 lookup, 1 contact  apt-get update
    late.example       1 lookup             unknown process
    10.0.0.5:5432/tcp  1 contact            psql
  not judged by name (1)
    203.0.113.7:443/tcp  1 contact  ./tool
not clean: 2 targets were blocked, 1 contact was not judged by name, \
3 observations were lost, http_proxy is set: names behind it cannot be seen
",
    );
}

#[test]
fn a_section_has_at_most_a_hundred_rows_and_says_how_many_more_there_are() {
    let mut run = Observed::plain(&policy(&[("--block", "github.com")]));
    for n in 0..150 {
        let name = format!("n{n:03}.github.com");
        run.look_up(Some(process(7, "make")), &name, &[], &[]);
    }
    let (stderr, ..) = run.end(|end| {
        end.survivors = (1..=101)
            .map(|pid| Survivor {
                pid,
                comm: "sleep".to_owned(),
                argv: Vec::new(),
            })
            .collect();
    });
    let summary = &stderr[stderr.find("cgfw: ").unwrap()..];
    assert!(summary.contains("  blocked (150), and the command went on\n    n000.github.com"));
    let end = "    and 50 more (--audit-log has them all)\nnot clean: 150 targets were blocked\n";
    assert!(summary.ends_with(end), "{summary}");
    assert!(summary.contains("    100  [sleep]\n    and 1 more"));
    // Heading, three titles with their rows (a rule is a row of its own), two rests, verdict.
    assert_eq!(summary.lines().count(), 1 + 101 + 1 + 201 + 1 + 1);
}

#[test]
fn losses_are_said_once_as_they_happen_and_counted_at_the_end() {
    let mut run = Observed::plain(&policy(&[]));
    for _ in 0..3 {
        run.record(Fact::Lost(5));
    }
    let (stderr, audit_log, _) = run.end(|_| ());
    assert_eq!(stderr.matches("observations are being lost").count(), 1);
    assert_eq!(audit_log.matches(r#""event":"loss","count":5"#).count(), 3);
    assert!(stderr.ends_with("not clean: 15 observations were lost\n"));
}

#[test]
fn a_clean_run_is_called_clean() {
    let mut run = Observed::plain(&policy(&[("--block", "github.com")]));
    run.look_up(Some(process(7, "apt-get update")), "deb.example", &[], &[]);
    let (stderr, _, losses) = run.end(|end| end.elapsed = Duration::from_secs(62));
    check(
        &stderr,
        "\
cgfw: ./deploy.sh --fast succeeded after 1 min 02 s
  allowed (1)
    deb.example  1 lookup  apt-get update
clean: nothing was blocked, and every contact was judged
",
    );
    assert_eq!(losses, Losses::default());
}

#[test]
fn the_summary_says_in_words_how_the_run_ended() {
    for (outcome, seconds, words) in [
        (Outcome::Killed(9), 0, "was ended by SIGKILL after 0 ms"),
        (
            Outcome::Killed(64),
            59,
            "was ended by signal 64 after 59.0 s",
        ),
        (
            Outcome::TimedOut,
            3600,
            "ran into its timeout after 1 h 00 min",
        ),
        (
            Outcome::Failed,
            1,
            "was ended because cgfw failed after 1.0 s",
        ),
    ] {
        let run = Observed::plain(&policy(&[]));
        let verdict = if outcome == Outcome::Failed {
            "not clean: cgfw ended the run"
        } else {
            "clean: nothing was blocked, and every contact was judged"
        };
        let (stderr, ..) = run.end(|end| {
            end.outcome = outcome;
            end.elapsed = Duration::from_secs(seconds);
        });
        check(
            &stderr,
            &format!("cgfw: ./deploy.sh --fast {words}\n  nothing was contacted\n{verdict}\n"),
        );
    }
}

#[test]
fn processes_that_were_waited_for_are_no_fault() {
    let survivors = vec![Survivor {
        pid: 4711,
        comm: "sleep".to_owned(),
        argv: strings(&words("sleep 1")),
    }];
    let (stderr, ..) = Observed::plain(&policy(&[])).end(|end| {
        end.survivors = survivors;
        end.fate = Fate::Awaited;
    });
    assert!(stderr.contains("  outlived the command and were waited for (1)\n    4711  sleep 1\n"));
    assert!(stderr.ends_with("clean: nothing was blocked, and every contact was judged\n"));
}

#[test]
fn processes_that_were_released_are_a_loud_part_of_the_verdict() {
    let survivors = vec![Survivor {
        pid: 4711,
        comm: "sleep".to_owned(),
        argv: Vec::new(),
    }];
    let (stderr, ..) = Observed::plain(&policy(&[])).end(|end| {
        end.survivors = survivors;
        end.fate = Fate::Released;
    });
    assert!(
        stderr.contains("  outlived the command and go on UNFILTERED (1)\n    4711  [sleep]\n")
    );
    assert!(stderr.ends_with("not clean: 1 process goes on unfiltered\n"));
}

#[test]
fn rows_fit_the_terminal_and_are_coloured_there_only() {
    let policy = policy(&[("--block", "github.com")]);
    let style = Style {
        color: true,
        width: Some(40),
    };
    let mut run = Observed::new(&policy, Verbosity::Normal, style);
    let command = "curl https://github.com/some/long/path";
    run.look_up(Some(process(5, command)), "github.com", &[], &[]);
    let (stderr, audit_log, _) = run.end(|_| ());
    assert!(stderr.starts_with("WARN DNS \x1b[31mBLOCKED\x1b[0m reason="));
    assert!(stderr.contains("\n    github.com  1 lookup  curl https://…\n"));
    assert!(!audit_log.contains('\x1b'));
}

#[expect(clippy::too_many_lines, reason = "one golden text")]
#[test]
fn the_audit_log_has_the_fields_of_the_design() {
    let rules = [("--block", "github.com:22"), ("--block", "cdn.example")];
    let policy = policy(&rules);
    let mut run = Observed::plain(&policy);
    let written: Vec<String> = rules.iter().map(|(a, b)| format!("{a} {b}")).collect();
    run.report.start(&Start {
        rules: &written,
        cwd: Some(Path::new("/srv")),
        ..start(&policy, &words("./deploy.sh --fast"), &protection())
    });
    run.look_up(
        Some(process(5, "git fetch")),
        "github.com",
        &["lb.example"],
        &["192.0.2.1"],
    );
    run.look_up(None, "my.example", &["a.cdn.example"], &[]);
    run.connect(
        process(5, "git fetch"),
        Layer::Connect,
        "192.0.2.1:22",
        6,
        true,
    );
    let git = || process(5, "git fetch");
    run.delegate(git(), path("/run/a"), Some((9, "agent -D")));
    run.delegate(git(), port("[::1]:80"), None);
    run.record(Fact::Lost(3));
    let (_, audit_log, _) = run.end(|end| {
        end.outcome = Outcome::Killed(15);
        end.exit_code = 143;
    });
    let head = r#"{"schema":1,"time":"2026-09-21T14:13:2"#;
    let process =
        r#""pid":5,"tid":5,"ppid":1,"uid":1000,"started":1,"comm":"comm","argv":["git","fetch"]"#;
    let expected = [
        format!(
            r#"{head}0.123456789Z","run":"r1","event":"run_start","version":"0.1.0","mode":"enforce","default":"allow","direct_ip":"allow","rules":["--block github.com:22","--block cdn.example"],"policy_digest":"5eed","uid":1000,"argv":["./deploy.sh","--fast"],"cwd":"/srv","host":"db1","kernel":"6.18.44","cgroup":"/cg","hooks":["connect4"],"sees_sockets":true,"sees_processes":false,"can_be_left":true}}"#
        ),
        format!(
            r#"{head}1.123456789Z","run":"r1","event":"dns","verdict":"allowed","layer":"dns","qname":"github.com","reason":"default","count":1,"qtype":"A","cname_chain":["lb.example"],"rcode":"NOERROR","answers":["192.0.2.1"],"upstream":"192.0.2.53:53","latency_us":1234,{process}}}"#
        ),
        format!(
            r#"{head}1.123456789Z","run":"r1","event":"connect","verdict":"blocked","layer":"connect","qname":"github.com","reason":"rule","rule":"--block github.com:22","count":1,"dst_ip":"192.0.2.1","dst_port":22,"proto":"tcp",{process}}}"#
        ),
        format!(
            r#"{head}1.123456789Z","run":"r1","event":"delegation","verdict":"allowed","layer":"delegation","reason":"delegation","count":1,"socket":"/run/a","peer_pid":9,"peer_comm":"agent","peer_argv":["agent","-D"],{process}}}"#
        ),
        format!(
            r#"{head}1.123456789Z","run":"r1","event":"delegation","verdict":"allowed","layer":"delegation","reason":"delegation","count":1,"dst_ip":"::1","dst_port":80,"proto":"tcp",{process}}}"#
        ),
        format!(r#"{head}1.123456789Z","run":"r1","event":"loss","count":3}}"#),
        format!(
            r#"{head}1.123456789Z","run":"r1","event":"dns","verdict":"blocked","layer":"dns","qname":"my.example","reason":"alias","rule":"--block cdn.example","matched":"a.cdn.example","count":1,"qtype":"A","cname_chain":["a.cdn.example"],"rcode":"NXDOMAIN","latency_us":1234}}"#
        ),
        format!(
            r#"{head}2.123456789Z","run":"r1","event":"run_end","outcome":"killed","signal":15,"exit_code":143,"elapsed_us":2499000,"lookups":2,"contacts":3,"blocked":2,"user_us":0,"system_us":0,"max_rss":0,"survivors":[],"lost":3,"forgotten":0,"lines_lost":0}}"#
        ),
    ];
    check(&audit_log, &(expected.join("\n") + "\n"));
    for line in audit_log.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect(line);
    }
}

#[test]
fn a_full_disk_is_said_once_and_counted_and_stops_nothing() {
    let policy = policy(&[("--block", "github.com")]);
    let (stderr, audit_log) = (Shared::default(), Shared::with_room(100));
    let mut run = Observed::with_sinks(
        &policy,
        Verbosity::Normal,
        Style::default(),
        stderr,
        audit_log,
    );
    for pid in 0..10 {
        run.look_up(Some(process(10 + pid, "curl")), "github.com", &[], &[]);
    }
    let (stderr, _, losses) = run.end(|_| ());
    assert_eq!(stderr.matches("WARN DNS BLOCKED").count(), 10);
    assert_eq!(
        stderr
            .matches("cannot write to the audit log /var/log/cgfw.jsonl: no storage space")
            .count(),
        1
    );
    assert_eq!((losses.audit_log, losses.stderr), (11, 0));
    assert!(
        stderr.ends_with("1 target was blocked, 11 lines of the audit log were lost\n"),
        "{stderr}"
    );
}

#[test]
fn a_closed_stderr_stops_nothing_and_costs_the_log_nothing() {
    let policy = policy(&[("--block", "github.com")]);
    let (stderr, audit_log) = (Shared::with_room(0), Shared::default());
    let mut run = Observed::with_sinks(
        &policy,
        Verbosity::Normal,
        Style::default(),
        stderr,
        audit_log,
    );
    run.look_up(Some(process(5, "curl")), "github.com", &[], &[]);
    let (stderr, audit_log, losses) = run.end(|_| ());
    assert_eq!(stderr, "");
    assert_eq!(audit_log.lines().count(), 2);
    assert_eq!(losses.audit_log, 0);
    // The refusal and the five lines of the summary.
    assert_eq!(losses.stderr, 6);
}

#[test]
fn a_delegation_is_told_with_who_listens() {
    let policy = policy(&[("--allow", "@bus")]);
    let mut run = Observed::new(&policy, Verbosity::Verbose, Style::default());
    let docker = |pid| process(pid, "docker pull app");
    run.delegate(
        docker(5),
        path("/run/docker.sock"),
        Some((812, "dockerd -H fd://")),
    );
    run.delegate(
        docker(5),
        path("/run/docker.sock"),
        Some((812, "dockerd -H fd://")),
    );
    run.delegate(docker(6), path("/run/docker.sock"), None);
    run.delegate(docker(7), port("[::1]:8080"), Some((9, "python3")));
    run.delegate(docker(7), Service::Abstract(b"bus".into()), None);
    let (stderr, ..) = run.end(|_| ());
    let lines: Vec<&str> = stderr.lines().take(4).collect();
    let head = "DELEGATION ALLOWED reason=FromDelegation blocked=false blockedAt=delegation";
    let cmd = "cmd=\"docker pull app\" firewallMethod=blocklist";
    assert_eq!(
        lines,
        [
            format!(
                "WARN {head} pid=5 {cmd} socket=\"/run/docker.sock\" \
                 peerPid=812 peer=\"dockerd -H fd://\""
            ),
            format!("INFO {head} pid=6 {cmd} socket=\"/run/docker.sock\" peerPid=? peer=\"?\""),
            format!(
                "WARN {head} pid=7 {cmd} ip=::1 port=8080 proto=tcp peerPid=9 peer=\"python3\""
            ),
            format!(
                "INFO {head} pid=7 {cmd} rule=\"--allow @bus\" socket=\"@bus\" peerPid=? peer=\"?\""
            ),
        ]
    );
}

#[test]
fn a_delegation_that_nobody_acknowledges_is_told_unless_one_wants_quiet() {
    for (verbosity, told) in [(Verbosity::Quiet, 0), (Verbosity::Normal, 1)] {
        let policy = policy(&[("--allow", "/run/known.sock")]);
        let mut run = Observed::new(&policy, verbosity, Style::default());
        for pid in 1..4 {
            run.delegate(process(pid, "x"), path("/run/known.sock"), None);
            run.delegate(process(pid, "x"), path("/run/docker.sock"), None);
        }
        let (stderr, audit_log, _) = run.end(|_| ());
        assert_eq!(stderr.matches(" DELEGATION ").count(), told, "{stderr}");
        assert_eq!(audit_log.matches(r#""event":"delegation""#).count(), 6);
    }
}

#[test]
fn what_is_done_by_others_has_its_section_and_is_not_clean() {
    let policy = policy(&[("--allow", "127.0.0.1:5432")]);
    let mut run = Observed::plain(&policy);
    let docker = || process(5, "docker pull app");
    for _ in 0..2 {
        run.delegate(
            docker(),
            path("/run/docker.sock"),
            Some((812, "dockerd -H fd://")),
        );
    }
    run.delegate(
        process(6, "psql"),
        port("127.0.0.1:5432"),
        Some((77, "postgres")),
    );
    run.delegate(
        process(7, "curl"),
        port("127.0.0.1:8080"),
        Some((9, "python3")),
    );
    run.delegate(process(8, "x"), Service::Abstract(b"\x1b".into()), None);
    run.look_up(Some(docker()), "a.example", &[], &[]);
    let (stderr, ..) = run.end(|_| ());
    check(
        &stderr[stderr.find("cgfw: ").unwrap()..],
        "\
cgfw: ./deploy.sh --fast succeeded after 2.4 s
  allowed (1)
    a.example  1 lookup  docker pull app
  through others (4)
    /run/docker.sock    2 contacts  docker pull app
                                    (dockerd -H fd://, pid 812)
    127.0.0.1:5432/tcp  1 contact   psql
                                    (postgres, pid 77)
                                    (--allow 127.0.0.1:5432)
    127.0.0.1:8080/tcp  1 contact   curl
                                    (python3, pid 9)
    @\\u{1b}             1 contact   x
                                    (who listens there is not known)
not clean: 3 delegations: what dockerd, python3 and others do is not seen
",
    );
}

#[test]
fn acknowledged_delegation_is_clean() {
    let mut run = Observed::plain(&policy(&[("--allow", "/run/docker.sock")]));
    run.delegate(process(5, "docker"), path("/var/run/docker.sock"), None);
    let (stderr, ..) = run.end(|_| ());
    check(
        &stderr,
        "\
cgfw: ./deploy.sh --fast succeeded after 2.4 s
  through others (1)
    /run/docker.sock  1 contact  docker
                                 (who listens there is not known)
                                 (--allow /run/docker.sock)
clean: nothing was blocked, and every contact was judged
",
    );
}

#[test]
fn the_clause_on_delegation_stays_short() {
    for (doers, clause) in [
        (&["a"][..], "1 delegation: what a does is not seen"),
        (&["a", "a"], "2 delegations: what a does is not seen"),
        (
            &["a", "b", "c"],
            "3 delegations: what a, b and c do is not seen",
        ),
        (
            &["a", "b", "c", "d"],
            "4 delegations: what a, b and others do is not seen",
        ),
        (&[""], "1 delegation: what others do is not seen"),
    ] {
        let mut run = Observed::plain(&policy(&[]));
        for (n, doer) in doers.iter().enumerate() {
            let peer = (!doer.is_empty()).then_some((1, *doer));
            run.delegate(process(5, "x"), path(&format!("/run/{n}")), peer);
        }
        let (stderr, ..) = run.end(|_| ());
        assert_eq!(
            stderr.lines().last(),
            Some(&*format!("not clean: {clause}"))
        );
    }
}

#[test]
fn a_refused_delegation_is_among_what_was_blocked() {
    let mut run = Observed::plain(&policy(&[("--block", "github.com")]));
    run.record(Fact::Delegation(Delegation {
        process: process(5, "docker ps"),
        service: path("/run/docker.sock"),
        peer: Some(listener(812, "dockerd")),
        verdict: Verdict::Blocked,
    }));
    let (stderr, ..) = run.end(|_| ());
    check(
        &stderr,
        "\
WARN DELEGATION BLOCKED reason=FromDelegation blocked=true blockedAt=delegation pid=5 \
cmd=\"docker ps\" firewallMethod=blocklist socket=\"/run/docker.sock\" peerPid=812 peer=\"dockerd\"
cgfw: ./deploy.sh --fast succeeded after 2.4 s
  blocked (1), and the command went on
    /run/docker.sock  1 contact  docker ps
                                 (dockerd, pid 812)
                                 (--strict: not of this run)
not clean: 1 target was blocked
",
    );
}

#[test]
fn a_contact_with_a_proxy_says_where_the_proxy_is_named() {
    let policy = policy(&[]);
    let mut run = Observed::plain(&policy);
    run.ledger.know_go_betweens(vec![GoBetween {
        sign: Sign::Host {
            host: Host::Name(Domain::parse("proxy.example").unwrap()),
            port: None,
        },
        source: "http_proxy".to_owned(),
    }]);
    let curl = || process(5, "curl github.com");
    run.look_up(Some(curl()), "proxy.example", &[], &["192.0.2.1"]);
    run.connect(curl(), Layer::Connect, "192.0.2.1:3128", 6, false);
    let (stderr, audit_log, _) = run.end(|_| ());
    check(
        &stderr,
        "\
WARN DELEGATION ALLOWED reason=FromDelegation blocked=false blockedAt=delegation \
domain=proxy.example. pid=5 cmd=\"curl github.com\" firewallMethod=blocklist ip=192.0.2.1 \
port=3128 proto=tcp via=\"http_proxy\"
cgfw: ./deploy.sh --fast succeeded after 2.4 s
  through others (1)
    proxy.example  1 lookup, 1 contact  curl github.com
                                        (http_proxy: what is reached through it is not seen)
not clean: 1 delegation: what proxy.example does is not seen
",
    );
    let line = audit_log.lines().nth(1).unwrap();
    assert!(
        line.contains(
            r#""event":"delegation","verdict":"allowed","layer":"delegation","qname":"proxy.example","reason":"delegation","count":1,"dst_ip":"192.0.2.1","dst_port":3128,"proto":"tcp","via":"http_proxy","pid":5,"#
        ),
        "{line}"
    );
}

#[test]
fn a_process_that_was_moved_out_is_told_and_not_clean() {
    let mut run = Observed::plain(&policy(&[]));
    for (pid, is_back) in [(5, true), (6, false), (6, false)] {
        let moved = Moved {
            process: process(pid, "su - deploy"),
            to: b"/user.slice/\x1b".to_vec(),
            is_back,
        };
        run.record(Fact::Moved(moved));
    }
    let (stderr, audit_log, _) = run.end(|_| ());
    check(
        &stderr,
        "\
WARN MOVED BACK pid=5 cmd=\"su - deploy\" cgroup=\"/user.slice/\\u{1b}\"
WARN MOVED OUT pid=6 cmd=\"su - deploy\" cgroup=\"/user.slice/\\u{1b}\"
cgfw: ./deploy.sh --fast succeeded after 2.4 s
  moved out of the cgroup (2)
    5  su - deploy  (back inside, /user.slice/\\u{1b})
    6  su - deploy  (UNFILTERED since, /user.slice/\\u{1b})
  nothing was contacted
not clean: 2 processes were moved out of the cgroup
",
    );
    assert_eq!(audit_log.matches(r#""event":"moved""#).count(), 3);
    let line = audit_log.lines().next().unwrap();
    assert!(
        line.contains(r#""cgroup":"/user.slice/\u001b","is_back":true,"pid":5,"#),
        "{line}"
    );
}

#[test]
fn a_refusal_says_why_the_rule_is_there_and_whom_to_ask() {
    let reason = "we deploy \"it\"\nowner=\"nobody\"";
    let rules = vec![
        written(7, "github.com", reason, "team-git"),
        written(9, "cdn.example", "", "team-cdn"),
    ];
    let mut run = Observed::plain(&policy_of(rules));
    run.look_up(Some(process(5, "curl")), "github.com", &[], &[]);
    run.look_up(
        Some(process(5, "curl")),
        "my.example",
        &["a.cdn.example"],
        &[],
    );
    let (stderr, audit_log, _) = run.end(|_| ());
    let lines: Vec<&str> = stderr.lines().take(2).collect();
    assert_eq!(
        lines,
        [
            "WARN DNS BLOCKED reason=FromDNSRequest blocked=true blockedAt=dns \
             domain=github.com. pid=5 cmd=\"curl\" firewallMethod=blocklist \
             rule=\"policy.toml:7: github.com\" owner=\"team-git\" \
             why=\"we deploy \\\"it\\\"\\nowner=\\\"nobody\\\"\" qtype=A",
            "WARN DNS BLOCKED reason=FromDNSRequest blocked=true blockedAt=dns \
             domain=my.example. pid=5 cmd=\"curl\" firewallMethod=blocklist \
             rule=\"policy.toml:9: cdn.example\" owner=\"team-cdn\" \
             matched=a.cdn.example. qtype=A",
        ]
    );
    let entries: Vec<serde_json::Value> = audit_log
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    assert_eq!(entries[0]["rule"], "policy.toml:7: github.com");
    assert_eq!(entries[0]["owner"], "team-git");
    assert_eq!(entries[0]["rule_reason"], reason);
    assert_eq!(entries[0]["reason"], "rule");
    assert_eq!(entries[1]["owner"], "team-cdn");
    assert_eq!(entries[1].get("rule_reason"), None);
}

#[test]
fn what_was_blocked_is_grouped_by_the_owner_to_ask() {
    for (audit, title, verdict) in [
        (
            false,
            "blocked (4), and the command went on",
            "4 targets were blocked",
        ),
        (true, "would be blocked (4)", "4 targets would be blocked"),
    ] {
        let rules = vec![
            written(3, "ads.example", "", ""),
            written(7, "github.com", "we deploy github.com", "team-git"),
            written(11, "db.example", "", "team-db"),
        ];
        let mut run = Observed::plain(&policy_of(rules));
        run.audit = audit;
        let curl = || Some(process(5, "curl -O"));
        run.look_up(curl(), "ads.example", &[], &[]);
        run.look_up(curl(), "github.com", &[], &[]);
        run.look_up(curl(), "a.example", &["www.github.com"], &[]);
        run.look_up(curl(), "a.db.example", &[], &[]);
        run.look_up(curl(), "a.db.example", &[], &[]);
        let (stderr, ..) = run.end(|_| ());
        let summary = &stderr[stderr.find("cgfw: ").unwrap()..];
        check(
            summary,
            &format!(
                "\
cgfw: ./deploy.sh --fast succeeded after 2.4 s
  {title}
    owner: team-db (1)
      a.db.example  2 lookups  curl -O
                               (policy.toml:11: db.example)
    owner: team-git (2)
      a.example     1 lookup   curl -O
                               (policy.toml:7: github.com, because of www.github.com: we deploy github.com)
      github.com    1 lookup   curl -O
                               (policy.toml:7: github.com: we deploy github.com)
    no owner (1)
      ads.example   1 lookup   curl -O
                               (policy.toml:3: ads.example)
not clean: {verdict} (ask team-db and team-git)
"
            ),
        );
    }
}

#[test]
fn owners_do_not_make_a_summary_long() {
    let rules = (0..150_u32).map(|n| {
        let owner = format!("team-{:03}", n / 2);
        written(n, &format!("n{n:03}.example"), "", &owner)
    });
    let mut run = Observed::plain(&policy_of(rules.collect()));
    for n in 0..150 {
        let name = format!("n{n:03}.example");
        run.look_up(Some(process(7, "make")), &name, &[], &[]);
    }
    let (stderr, ..) = run.end(|_| ());
    let summary = &stderr[stderr.find("cgfw: ").unwrap()..];
    // A target is two lines, its command and its rule; two of them have one owner.
    assert_eq!(summary.lines().count(), 1 + 1 + 100 * 2 + 50 + 1 + 1);
    assert!(summary.contains("\n    owner: team-049 (2)\n"), "{summary}");
    let end = "\n    and 50 more (--audit-log has them all)\nnot clean: 150 targets were blocked \
               (ask team-000, team-001 and others)\n";
    assert!(summary.ends_with(end), "{summary}");
}

/// Start a run that refuses nothing because of an emergency, and end it.
fn break_the_glass(verbosity: Verbosity) -> (String, String) {
    let policy = policy(&[]);
    let mut run = Observed::new(&policy, verbosity, Style::default());
    run.report.start(&Start {
        audit: true,
        break_glass: Some(&alice()),
        ..start(&policy, &words("./deploy.sh --fast"), &protection())
    });
    let (stderr, audit_log, _) = run.end(|_| ());
    (stderr, audit_log)
}

#[test]
fn broken_glass_is_told_first_and_last_and_logged() {
    let loud = "WARN BREAK-GLASS NOTHING IS REFUSED user=\"alice\" uid=1000 \
                why=\"the registry is \\u{1b}[2J down\"\n";
    let (stderr, audit_log) = break_the_glass(Verbosity::Normal);
    check(
        &stderr,
        &format!(
            "\
{loud}cgfw: ./deploy.sh --fast succeeded after 2.4 s
  BREAK-GLASS, nothing was refused: the registry is \\u{{1b}}[2J down (alice, uid 1000)
  nothing was contacted
not clean: --break-glass refused nothing
"
        ),
    );
    let (first, _) = audit_log.split_once('\n').unwrap();
    let first: serde_json::Value = serde_json::from_str(first).unwrap();
    assert_eq!(first["mode"], "break_glass");
    let glass = serde_json::json!({
        "reason": "the registry is \u{1b}[2J down", "user": "alice", "uid": 1000
    });
    assert_eq!(first["break_glass"], glass);
    assert!(!audit_log.contains('\u{1b}'), "{audit_log}");
    // It is the record of an emergency, however little is wanted.
    let (stderr, _) = break_the_glass(Verbosity::Quiet);
    check(&stderr, loud);
}

#[test]
fn broken_glass_without_an_audit_log_says_that_stderr_is_the_record() {
    let stderr = Shared::default();
    let mut report = Report::new(
        "r1".to_owned(),
        Action::Allow,
        Verbosity::Quiet,
        Style::default(),
        stderr.clone(),
        None::<(PathBuf, io::Sink)>,
    )
    .unwrap();
    let nobody = BreakGlass {
        user: None,
        uid: 4711,
        ..alice()
    };
    report.start(&Start {
        audit: true,
        break_glass: Some(&nobody),
        ..start(&policy(&[]), &words("./deploy.sh"), &protection())
    });
    report.end(success());
    check(
        &stderr.text(),
        "WARN BREAK-GLASS NOTHING IS REFUSED uid=4711 why=\"the registry is \\u{1b}[2J down\"\n\
         cgfw: there is no record of this but here; --audit-log FILE keeps one of --break-glass\n",
    );
}
