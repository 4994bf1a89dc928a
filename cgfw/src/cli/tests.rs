use std::ffi::OsStr;
use std::process::Command;

use super::*;
use crate::policy::{DirectIp, Domain, Policy};

fn words(line: &str) -> Vec<OsString> {
    std::iter::once("cgfw")
        .chain(line.split_whitespace())
        .map(OsString::from)
        .collect()
}

#[track_caller]
fn parsed(line: &str) -> Run {
    match parse(words(line)) {
        Ok(Invocation::Run(run)) => *run,
        other => panic!("{line}: {other:?}"),
    }
}

#[track_caller]
fn refused(args: Vec<OsString>) -> String {
    match parse(args) {
        Err(Stop::Usage(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn sources(run: &Run) -> Vec<&str> {
    run.policy
        .rules
        .iter()
        .map(|rule| rule.source.place.name.as_str())
        .collect()
}

#[test]
fn a_plain_run_has_the_defaults_of_the_design() {
    let run = parsed("run -- ./deploy.sh --block -- x");
    assert_eq!(run.command, ["./deploy.sh", "--block", "--", "x"]);
    assert!(run.policy == Given::default() && run.upstreams.is_empty());
    assert_eq!((run.watch, &run.break_glass), (false, &None));
    assert_eq!(run.on_block, OnBlock::NxDomain);
    assert_eq!(run.survivors, Survivors::Kill);
    assert_eq!(run.color, Color::Auto);
    assert_eq!((run.fail_on_block, run.timeout), (None, None));
    assert_eq!((&run.audit_log, &run.user), (&None, &None));
    assert!(!(run.audit || run.keep_root || run.no_new_privs || run.strict || run.quiet));
    assert_eq!(run.verbose, 0);
}

#[test]
fn patterns_come_repeated_in_lists_and_under_other_names() {
    let run = parsed(
        "run --block github.com,gitlab.com --allow api.github.com --block-list [::1]:443/tcp \
         --allow-list=10.0.0.0/8 --block x.example -- true",
    );
    assert_eq!(
        sources(&run),
        [
            "--block github.com",
            "--block gitlab.com",
            "--block [::1]:443/tcp",
            "--block x.example",
            "--allow api.github.com",
            "--allow 10.0.0.0/8",
        ]
    );
    let search = vec![Domain::parse("corp.example").unwrap()];
    let policy = Policy::new(run.policy.rules, None, None, search);
    let verdict = |name: &str| policy.name(&Domain::parse(name).unwrap(), &[]).is_blocked();
    assert!(verdict("github.com") && verdict("github.com.corp.example"));
    assert!(!verdict("api.github.com"));
    assert_eq!(
        policy.default_action(),
        Action::Block,
        "10.0.0.0/8 is no exception"
    );
}

#[test]
fn every_option_reaches_its_field() {
    let run = parsed(
        "run --default block --direct-ip private --audit --on-block drop \
         --upstream-dns 192.0.2.1,192.0.2.2:5353 --upstream-dns ::1 --upstream-dns [::2] \
         --upstream-dns [::3]:53 --fail-on-block --log-file /tmp/x.jsonl --user deploy \
         --no-new-privs --timeout 5m --survivors release --color never -vv -- true",
    );
    assert_eq!(run.policy.default, Some(Action::Block));
    assert_eq!(run.policy.direct_ip, Some(DirectIp::Private));
    assert!(run.audit && run.no_new_privs);
    assert_eq!(run.on_block, OnBlock::Drop);
    let servers: Vec<String> = run.upstreams.iter().map(ToString::to_string).collect();
    let expected = [
        "192.0.2.1:53",
        "192.0.2.2:5353",
        "[::1]:53",
        "[::2]:53",
        "[::3]:53",
    ];
    assert_eq!(servers, expected);
    assert_eq!(run.fail_on_block, Some(120));
    assert_eq!(run.audit_log, Some(PathBuf::from("/tmp/x.jsonl")));
    assert_eq!(run.user.as_deref(), Some("deploy"));
    assert_eq!(run.timeout, Some(Duration::from_mins(5)));
    assert_eq!(run.survivors, Survivors::Release);
    assert_eq!(run.color, Color::Never);
    assert_eq!(run.verbose, 2);
    let run =
        parsed("run -q --keep-root --fail-on-block=7 --on-block refuse --default allow -- true");
    assert!(run.quiet && run.keep_root);
    assert_eq!(run.fail_on_block, Some(7));
    assert_eq!(run.on_block, OnBlock::Refuse);
    assert_eq!(run.policy.default, Some(Action::Allow));
    let run = parsed("run --strict --survivors wait -- true");
    assert!(run.strict && run.no_new_privs);
    for (text, direct_ip) in [("allow", DirectIp::Allow), ("block", DirectIp::Block)] {
        let run = parsed(&format!("run --direct-ip {text} -- true"));
        assert_eq!(run.policy.direct_ip, Some(direct_ip));
    }
}

#[test]
fn breaking_the_glass_takes_a_reason_and_refuses_nothing() {
    let command = |reason| ["cgfw", "run", "--break-glass", reason, "--", "true"];
    let parsed = |reason| match parse(command(reason).map(OsString::from)) {
        Ok(Invocation::Run(run)) => Ok(run),
        Ok(other) => panic!("{other:?}"),
        Err(stop) => Err(stop.to_string()),
    };
    let run = parsed(" the registry is down\n").unwrap();
    assert_eq!(run.break_glass.as_deref(), Some("the registry is down"));
    assert!(run.audit);
    for blank in ["", " ", "\t\n"] {
        let error = parsed(blank).unwrap_err();
        assert!(error.contains("--break-glass <REASON>"), "{error}");
        assert!(error.contains("say what the emergency is"), "{error}");
    }
}

#[test]
fn times_are_written_as_people_write_them() {
    for (text, milliseconds) in [
        ("30", 30_000),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("250ms", 250),
    ] {
        let run = parsed(&format!("run --timeout {text} -- true"));
        assert_eq!(
            run.timeout,
            Some(Duration::from_millis(milliseconds)),
            "{text}"
        );
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn wrong_usage_is_one_message_that_names_the_argument() {
    for (line, says) in [
        ("", "requires a subcommand"),
        ("fly", "unrecognized subcommand 'fly'"),
        ("run", "COMMAND"),
        ("run --block github.com", "COMMAND"),
        ("run --block github.com --", "COMMAND"),
        ("run true", "unexpected argument 'true'"),
        (
            "run --strict --audit -- true",
            "--strict and --audit exclude each other: --audit refuses nothing; give one of them",
        ),
        (
            "run --strict --survivors release -- true",
            "--strict and --survivors release exclude each other: what is released is not held; \
             use --survivors kill or wait",
        ),
        (
            "run --block a.example, b.example -- true",
            "unexpected argument 'b.example'",
        ),
        ("run --blok github.com -- true", "'--blok'"),
        ("run --block -- true", "'--block <PATTERN>'"),
        ("run --block= -- true", "--block: a pattern is empty"),
        ("run --allow= -- true", "--allow: a pattern is empty"),
        (
            "run --allow a.example, -- true",
            "--allow: a pattern is empty",
        ),
        (
            "run --block 1.2.3 -- true",
            "--block 1.2.3: `1.2.3` is not an address or a CIDR",
        ),
        (
            "run --allow x.example:0 -- true",
            "--allow x.example:0: `0` is not a port (1-65535)",
        ),
        (
            "run --block 10.0.0.1/8 -- true",
            "--block 10.0.0.1/8: the address has bits set",
        ),
        (
            "run --default maybe -- true",
            "'maybe' for '--default <VERDICT>'",
        ),
        (
            "run --direct-ip maybe -- true",
            "'maybe' for '--direct-ip <VERDICT>'",
        ),
        (
            "run --on-block maybe -- true",
            "'maybe' for '--on-block <HOW>'",
        ),
        (
            "run --survivors maybe -- true",
            "'maybe' for '--survivors <FATE>'",
        ),
        ("run --color maybe -- true", "'maybe' for '--color <WHEN>'"),
        (
            "run --timeout soon -- true",
            "'soon' for '--timeout <TIME>': not a time; write 30s",
        ),
        (
            "run --timeout 0 -- true",
            "'0' for '--timeout <TIME>': not a time",
        ),
        (
            "run --timeout -1 -- true",
            "'-1' for '--timeout <TIME>': not a time",
        ),
        (
            "run --fail-on-block=0 -- true",
            "'0' for '--fail-on-block[=<CODE>]'",
        ),
        (
            "run --fail-on-block=256 -- true",
            "'256' for '--fail-on-block[=<CODE>]'",
        ),
        ("run --fail-on-block 7 -- true", "unexpected argument '7'"),
        (
            "run --upstream-dns dns.example -- true",
            "'dns.example' for '--upstream-dns <IP[:PORT]>'",
        ),
        (
            "run --upstream-dns 192.0.2.1:0 -- true",
            "'192.0.2.1:0' for '--upstream-dns",
        ),
        ("run --user= -- true", "'--user <NAME>'"),
        ("run --audit-log= -- true", "'--audit-log <FILE>'"),
        (
            "run --audit --audit -- true",
            "'--audit' cannot be used multiple times",
        ),
        (
            "run -q -v -- true",
            "--quiet and --verbose exclude each other",
        ),
        (
            "run --user x --keep-root -- true",
            "--keep-root and --user exclude each other",
        ),
    ] {
        let text = refused(words(line));
        assert!(text.contains(says), "{line}: {text}");
        assert!(
            !text.starts_with("error") && !text.contains("For more information"),
            "{text}"
        );
    }
}

#[test]
fn a_pattern_that_is_not_utf_8_is_named() {
    use std::os::unix::ffi::OsStringExt as _;
    let mut args = words("run --block");
    args.push(OsString::from_vec(b"\xff.example".to_vec()));
    args.extend(["--".into(), "true".into()]);
    assert_eq!(
        refused(args),
        "--block \u{fffd}.example: not UTF-8; write other octets of a name as \\DDD"
    );
}

#[test]
fn a_command_need_not_be_utf_8() {
    use std::os::unix::ffi::OsStringExt as _;
    let argument = OsString::from_vec(b"\xff".to_vec());
    let mut args = words("run -- true");
    args.push(argument.clone());
    let Ok(Invocation::Run(run)) = parse(args) else {
        panic!("it is a valid run");
    };
    assert_eq!(run.command, ["true".into(), argument]);
}

#[test]
fn help_and_version_are_told_and_no_failure() {
    for (line, says) in [
        ("--version", "cgfw 0.1.0"),
        ("--help", "Usage: cgfw <COMMAND>"),
        (
            "run --help",
            "Usage: cgfw run [OPTIONS] -- COMMAND [ARG]...",
        ),
        ("run -h", "Usage: cgfw run [OPTIONS] -- COMMAND [ARG]..."),
        (
            "help run",
            "[2001:db8::/32]:443    an IPv6 network needs brackets",
        ),
    ] {
        match parse(words(line)) {
            Err(Stop::Told(text)) => assert!(text.contains(says), "{line}: {text}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn every_option_has_its_variable_and_its_help() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let options: Vec<_> = run.get_opts().collect();
    assert!(options.len() >= 15);
    for option in options {
        let long = option.get_long().unwrap();
        let variable = format!("CGFW_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(option.get_env(), Some(OsStr::new(&variable)), "--{long}");
        let help = option.get_help().unwrap().to_string();
        assert!(help.len() < 72 && !help.ends_with('.'), "--{long}: {help}");
    }
}

#[test]
fn short_help_fits_on_one_screen() {
    let Err(Stop::Told(text)) = parse(words("run -h")) else {
        panic!("help is told");
    };
    assert!(text.lines().count() <= 50, "{text}");
}

/// The environment cannot be changed from within a test: it runs itself with another.
#[test]
fn variables_are_read_and_arguments_prevail() {
    const INSIDE: &str = "CGFW_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        let run = parsed("run -- true");
        assert_eq!(
            sources(&run),
            [
                "CGFW_BLOCK=github.com",
                "CGFW_BLOCK=10.0.0.0/8",
                "CGFW_ALLOW=api.github.com"
            ]
        );
        assert!(run.audit && !run.keep_root && run.quiet);
        assert_eq!((run.fail_on_block, run.verbose), (Some(9), 0));
        assert_eq!(run.timeout, Some(Duration::from_secs(30)));
        let run = parsed("run --block gitlab.com --timeout 1 -- true");
        assert_eq!(
            sources(&run),
            ["--block gitlab.com", "CGFW_ALLOW=api.github.com"]
        );
        assert_eq!(run.timeout, Some(Duration::from_secs(1)));
        return;
    }
    let inside = |variables: &[(&str, &str)]| {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "cli::tests::variables_are_read_and_arguments_prevail",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(INSIDE, "1")
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    };
    let variables = [
        ("CGFW_BLOCK", "github.com,10.0.0.0/8"),
        ("CGFW_ALLOW", "api.github.com"),
        ("CGFW_AUDIT", "yes"),
        ("CGFW_KEEP_ROOT", "0"),
        ("CGFW_QUIET", "true"),
        ("CGFW_VERBOSE", "0"),
        ("CGFW_FAIL_ON_BLOCK", "9"),
        ("CGFW_TIMEOUT", "30"),
    ];
    let output = inside(&variables);
    assert!(output.status.success(), "{output:?}");
    let empty = inside(&[("CGFW_ALLOW", "")]);
    let text = String::from_utf8_lossy(&empty.stderr);
    assert!(text.contains("CGFW_ALLOW=: a pattern is empty"), "{text}");
}

#[test]
fn colour_is_for_terminals_unless_it_is_said_outright() {
    for (color, terminal, no_color, on) in [
        (Color::Auto, true, false, true),
        (Color::Auto, true, true, false),
        (Color::Auto, false, false, false),
        (Color::Always, false, true, true),
        (Color::Never, true, false, false),
    ] {
        assert_eq!(color.is_on(terminal, no_color), on, "{color:?}");
    }
}
