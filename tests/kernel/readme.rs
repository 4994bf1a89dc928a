//! The README is true: the sessions it shows are held here, and its tables are compared
//! with the program.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use cgfw::exit;
use serde_json::Value;

use crate::delegation::outside;
use crate::support::Lab;
use crate::support::command::Test;
use crate::support::dns::RESOLVER;

const README: &str = include_str!("../../README.md");

/// What runs these tests, and is not run by them. What it prints is compared in xtask.
const OURSELVES: &str = "cargo xtask test";

/// A fenced block.
struct Block {
    kind: &'static str,
    /// Of its first line, from 1.
    line: usize,
    text: String,
}

fn blocks() -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (index, line) in README.lines().enumerate() {
        if let Some(kind) = line.strip_prefix("```") {
            is_open = !is_open;
            if is_open {
                blocks.push(Block {
                    kind,
                    line: index + 2,
                    text: String::new(),
                });
            }
        } else if is_open && let Some(block) = blocks.last_mut() {
            block.text += line;
            block.text.push('\n');
        }
    }
    assert!(!is_open, "the last block is not closed");
    blocks
}

#[test]
fn every_block_is_a_session_or_a_diagram() {
    for Block { kind, line, text } in blocks() {
        match kind {
            "console" => assert!(text.starts_with("# "), "line {line} is no command of root"),
            "text" => assert!(
                !text.contains("\n# "),
                "a session in line {line} is not held"
            ),
            other => panic!("line {line}: nothing checks a block of {other:?}"),
        }
    }
}

/// A command and what it printed.
type Exchange = (String, String);

/// Split a session at its prompts, which are root's: `# `.
fn exchanges(session: &str) -> Vec<Exchange> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for line in session.lines() {
        if let Some(command) = line.strip_prefix("# ") {
            exchanges.push((command.to_owned(), String::new()));
        } else if let Some((_, output)) = exchanges.last_mut() {
            writeln!(output, "{line}").unwrap();
        }
    }
    exchanges
}

#[test]
fn every_session_goes_as_shown() {
    for block in blocks() {
        let shown = exchanges(&block.text);
        if block.kind != "console" || shown[0].0 == OURSELVES {
            continue;
        }
        let Some(lab) = Lab::new() else { return };
        let held = hold(&lab, &shown);
        assert_eq!(held.len(), shown.len(), "line {}", block.line);
        for ((command, expected), found) in shown.iter().zip(&held) {
            assert!(
                Voices::of(expected) == Voices::of(found),
                "line {}\n# {command}\n--- in the README\n{expected}--- here\n{found}---",
                block.line
            );
        }
    }
}

/// Type every command into one shell, in a directory that has the repository's examples,
/// and return what each printed. Cargo's part in `cargo run` is played by the test.
fn hold(lab: &Lab, session: &[Exchange]) -> Vec<String> {
    const MARK: char = '\u{1e}';
    let mut script = "exec 2>&1\n\
                      mark() { status=$?; printf '\\036'; return $status; }\n"
        .to_owned();
    for (command, _) in session {
        let command = command.replace("cargo run --release --", "cgfw");
        writeln!(script, "mark\n{command}").unwrap();
    }
    // As on a machine that is in no domain: the resolver has no suffix to try.
    lab.write("/etc/resolv.conf", &format!("nameserver {RESOLVER}\n"));
    let output = lab.sh(&script).dir("/mnt").any_status().run();
    let (before, rest) = output.stdout.split_once(MARK).unwrap();
    assert_eq!((before, &*output.stderr), ("", ""), "{output}");
    rest.split(MARK).map(str::to_owned).collect()
}

/// What is printed, by who prints it: each part is in order, but nobody promises how the
/// first two mix. What has to differ from one run to the next is masked.
#[derive(Default, PartialEq)]
struct Voices {
    command: Vec<String>,
    refusals: Vec<String>,
    summary: Vec<String>,
}

impl Voices {
    fn of(output: &str) -> Self {
        let mut voices = Self::default();
        let mut in_summary = false;
        for line in uninterrupted(output).lines() {
            in_summary |= line.starts_with("cgfw: ");
            let voice = if in_summary {
                &mut voices.summary
            } else if line.starts_with("WARN ") || line.starts_with("INFO ") {
                &mut voices.refusals
            } else {
                &mut voices.command
            };
            voice.push(masked(line));
            in_summary &= !line.starts_with("clean: ") && !line.starts_with("not clean: ");
        }
        voices
    }
}

/// The output with every refusal on a line of its own: a command that writes a line in
/// pieces, as curl does, may be interrupted by one.
fn uninterrupted(output: &str) -> String {
    let mut whole = String::new();
    let mut rest = output;
    while let Some(at) = rest.find("WARN DNS BLOCKED reason=") {
        let (before, refusal) = rest.split_at(at);
        let (refusal, after) = refusal.split_once('\n').unwrap_or((refusal, ""));
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let (lines, piece) = before.split_at(line_start);
        let (tail, after) = match after.split_once('\n') {
            Some(split) if !piece.is_empty() => split,
            _ => ("", after),
        };
        writeln!(whole, "{lines}{refusal}").unwrap();
        if !piece.is_empty() {
            writeln!(whole, "{piece}{tail}").unwrap();
        }
        rest = after;
    }
    whole + rest
}

/// The line without process ids, times and the id of the run.
fn masked(line: &str) -> String {
    let is_digit = |c: char| c.is_ascii_digit();
    let mut line = line.to_owned();
    for key in [
        " pid=",
        " peerPid=",
        ", pid ",
        "\"pid\":",
        "\"ppid\":",
        "\"latency_us\":",
    ] {
        line = mask(&line, key, is_digit);
    }
    for key in ["\"time\":\"", "\"run\":\""] {
        line = mask(&line, key, |c| c != '"');
    }
    // The run that a policy was learned from.
    line = mask(&line, "#   run ", |c| c != ':');
    if line.starts_with("cgfw: ") {
        line = mask(&line, " after ", |c| is_digit(c) || " .ms".contains(c));
    }
    line
}

/// Replace what follows `key`, as far as it `varies`.
fn mask(line: &str, key: &str, varies: impl Fn(char) -> bool) -> String {
    let mut parts = line.split(key);
    let mut masked = parts.next().unwrap().to_owned();
    for part in parts {
        masked += key;
        masked += "...";
        masked += part.trim_start_matches(&varies);
    }
    masked
}

#[test]
fn only_what_has_to_differ_is_masked() {
    for (one, other, same) in [
        (
            "WARN domain=a. pid=1 cmd=\"x\"",
            "WARN domain=a. pid=23 cmd=\"x\"",
            true,
        ),
        ("WARN domain=a. pid=1", "WARN domain=b. pid=1", false),
        ("WARN a pid=1", "WARN a pid=?", false),
        (
            "cgfw: x failed after 9 ms",
            "cgfw: x failed after 1.2 s",
            true,
        ),
        (
            "cgfw: x failed after 9 ms",
            "cgfw: y failed after 9 ms",
            false,
        ),
        ("wait after 9 ms", "wait after 8 ms", false),
        ("WARN b\nWARN c", "WARN c\nWARN b", false),
        ("WARN b\nhello", "hello\nWARN b", true),
        (
            "heWARN DNS BLOCKED reason=x\nllo\nyou",
            "hello\nWARN DNS BLOCKED reason=x\nyou",
            true,
        ),
    ] {
        assert_eq!(Voices::of(one) == Voices::of(other), same, "{one}\n{other}");
    }
}

/// The rows of the table below a heading, each a list of cells.
#[track_caller]
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = README
        .split_once(&format!("\n### {heading}\n"))
        .unwrap_or_else(|| panic!("there is no section {heading}"));
    let rows: Vec<Vec<&str>> = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2) // its head
        .map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "{heading} has no table");
    rows
}

/// What stands in backquotes.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// An option as the help and the README have it.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Flag {
    /// `--block PATTERN`, `--block-list`
    names: Vec<String>,
    variable: Option<String>,
    default: Option<String>,
}

/// The options that `cgfw run --help` lists, with their possible values.
fn flags_in_help() -> Vec<(Flag, Vec<String>)> {
    let help = Test::new(env!("CARGO_BIN_EXE_cgfw"))
        .args(["run", "--help"])
        .run()
        .stdout;
    let (_, options) = help.split_once("\nOptions:\n").unwrap();
    let mut flags: Vec<(Flag, Vec<String>)> = Vec::new();
    for line in options.lines() {
        // What is said of an option stands further to the right.
        let is_option = line.find('-').is_some_and(|indent| indent <= 6);
        let line = line.trim();
        let bracketed = |key: &str| Some(line.strip_prefix(key)?.strip_suffix(']')?.to_owned());
        if is_option {
            let names = line.trim_end_matches("...").replace(['<', '>'], "");
            let names = names.split(", ").map(str::to_owned).collect();
            let flag = Flag {
                names,
                ..Flag::default()
            };
            flags.push((flag, Vec::new()));
            continue;
        }
        let Some((flag, values)) = flags.last_mut() else {
            continue;
        };
        if let Some(variable) = bracketed("[env: ") {
            flag.variable = Some(variable.trim_end_matches('=').to_owned());
        } else if let Some(alias) = bracketed("[alias: ") {
            flag.names.push(alias);
        } else if let Some(default) = bracketed("[default: ") {
            flag.default = Some(default);
        } else if let Some(list) = bracketed("[possible values: ") {
            values.extend(list.split(", ").map(str::to_owned));
        } else if let Some(value) = line.strip_prefix("- ") {
            values.push(value.split(':').next().unwrap().to_owned());
        }
    }
    flags
}

#[test]
fn the_options_are_those_of_the_help() {
    let rows = table("Options");
    let mut documented: Vec<Flag> = Vec::new();
    for row in &rows {
        let [names, variable, default, _meaning] = row[..] else {
            panic!("{row:?}")
        };
        documented.push(Flag {
            names: code(names).map(str::to_owned).collect(),
            variable: code(variable).next().map(str::to_owned),
            default: code(default).next().map(str::to_owned),
        });
    }
    let help = flags_in_help();
    for (flag, values) in &help {
        let at = documented.iter().position(|known| known == flag);
        let at = at.unwrap_or_else(|| panic!("not as in the help: {flag:?}\n{documented:#?}"));
        let meaning: Vec<&str> = code(rows[at][3]).collect();
        for value in values {
            assert!(
                meaning.contains(&&**value) || flag.default.as_ref() == Some(value),
                "{flag:?} can be {value}"
            );
        }
    }
    assert_eq!(documented.len(), help.len(), "an option is invented");
}

#[test]
fn the_exit_codes_are_those_of_the_program() {
    let documented: BTreeSet<u8> = table("Exit codes")
        .iter()
        .filter_map(|row| code(row[0]).next()?.parse().ok())
        .collect();
    let codes = [
        exit::NO,
        exit::BLOCKED,
        exit::NEW,
        exit::TIMED_OUT,
        exit::FAILED,
        exit::CANNOT_EXECUTE,
        exit::NOT_FOUND,
    ];
    assert_eq!(documented, BTreeSet::from(codes));
}

/// Reaches, in this order, a blocked name, an alias of one, an address shared with one,
/// and a blocked address.
const REFUSED: &str = "curl --silent github.com; curl --silent chain.example; \
                       curl --silent shared.example; curl --silent 203.0.113.99; true";

/// Turns to the service outside in two ways, and to a proxy.
const DELEGATED: &str = "curl --silent --unix-socket /mnt/work/service.sock http://x/; \
                         curl --silent --noproxy '*' http://127.0.0.1:8099/; \
                         curl --silent http://example.com/";

#[test]
fn the_keys_of_a_refusal_are_all_told_in_their_order() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(["--policy", "/mnt/examples/policy.toml"])
        .args(["--block", "203.0.113.99"])
        .sh(REFUSED)
        .run();
    let rows = table("Refusals");
    let documented: Vec<&str> = rows.iter().flat_map(|row| code(row[0])).collect();
    let mut found = BTreeSet::new();
    for refusal in output.refusals() {
        found.extend(refusal.into_keys());
    }
    let expected = documented.iter().map(|key| (*key).to_owned()).collect();
    assert_eq!(found, expected, "{output}");
    for line in output
        .stderr
        .lines()
        .filter(|line| line.contains(" BLOCKED "))
    {
        let places: Vec<usize> = documented
            .iter()
            .filter_map(|key| line.find(&format!(" {key}=")))
            .collect();
        assert!(
            places.is_sorted(),
            "another order than the README's: {line}"
        );
    }
}

#[test]
fn the_keys_of_a_delegation_are_all_told_in_their_order() {
    let Some(lab) = Lab::new() else { return };
    let _service = outside(&lab);
    let output = lab
        .cgfw()
        .args(["--block", "github.com"])
        .env("all_proxy", "203.0.113.98:80")
        .sh(DELEGATED)
        .run();
    let rows = table("Delegation");
    let documented: Vec<&str> = rows.iter().flat_map(|row| code(row[0])).collect();
    let mut found = BTreeSet::new();
    for line in output.stderr.lines() {
        let Some((_, line)) = line.split_once(" DELEGATION ALLOWED ") else {
            continue;
        };
        let (_, own) = line.split_once(" firewallMethod=blocklist ").unwrap();
        let keys: Vec<&str> = documented
            .iter()
            .copied()
            .filter(|key| format!(" {own}").contains(&format!(" {key}=")))
            .collect();
        let mut ordered = keys.clone();
        ordered.sort_by_key(|key| own.find(&format!("{key}=")));
        assert_eq!(keys, ordered, "another order than the README's: {line}");
        assert_eq!(keys.len(), own.matches('=').count(), "undocumented: {line}");
        found.extend(keys);
    }
    assert_eq!(found, BTreeSet::from_iter(documented), "{output}");
}

#[test]
fn the_fields_of_the_audit_log_are_all_told() {
    let Some(lab) = Lab::new() else { return };
    let _service = outside(&lab);
    let cgfw = || {
        lab.cgfw()
            .args(["--block", "github.com,203.0.113.99"])
            .args(["--audit-log", "audit.jsonl"])
    };
    cgfw().sh(REFUSED).run();
    cgfw().sh("curl --silent http://alias.example/").run();
    cgfw().sh("kill -9 $$").status(137).run();
    let long = "long ".repeat(1000);
    let argv = ["curl", "--silent", "--user-agent", &*long, "github.com"];
    cgfw().child(argv).status(6).run();
    cgfw()
        .env("all_proxy", "203.0.113.98:80")
        .sh(DELEGATED)
        .run();
    cgfw().arg("--strict").child(["true"]).run();
    lab.cgfw()
        .args(["--policy", "/mnt/examples/policy.toml"])
        .args(["--break-glass", "test", "--audit-log", "audit.jsonl"])
        .sh(REFUSED)
        .run();
    lab.write("policy.toml", "version = 1\n");
    lab.cgfw()
        .args(["--watch", "--policy", "policy.toml"])
        .args(["--audit-log", "audit.jsonl"])
        .sh("echo no > policy.toml; until grep -q 'event\":\"policy' audit.jsonl; do sleep 0.1; done")
        .run();
    let way_out = lab.cgroup().path().join("cgroup.procs");
    cgfw().sh(&format!("echo $$ > {}", way_out.display())).run();
    let mut found = BTreeSet::new();
    for line in lab.read("audit.jsonl").lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        found.extend(line.as_object().unwrap().keys().cloned());
    }
    let rows = table("Audit log");
    let documented: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| code(row[0]))
        .map(str::to_owned)
        .collect();
    let unknown: Vec<_> = found.difference(&documented).collect();
    assert!(unknown.is_empty(), "not told of: {unknown:?}");
    assert_eq!(documented, fields_of_the_schema());
}

/// What a line of an audit log can have, by its schema.
fn fields_of_the_schema() -> BTreeSet<String> {
    let schema: Value = serde_json::from_str(cgfw::audit::JSON_SCHEMA).unwrap();
    let nested = ["Ancestor", "Glass", "Survivor"];
    let definitions = schema["$defs"].as_object().unwrap().iter();
    let lines = definitions.filter(|(name, _)| !nested.contains(&name.as_str()));
    lines
        .map(|(_, definition)| definition)
        .chain([&schema])
        .flat_map(properties)
        .chain(["event".to_owned()])
        .collect()
}

/// The properties of a schema and of its alternatives.
fn properties(schema: &Value) -> Vec<String> {
    let own = schema["properties"].as_object().into_iter().flatten();
    let parts = ["anyOf", "oneOf", "allOf"].into_iter();
    let parts = parts.filter_map(|key| schema[key].as_array()).flatten();
    own.map(|(name, _)| name.clone())
        .chain(parts.flat_map(properties))
        .collect()
}

#[test]
fn the_fields_of_why_are_all_told() {
    let Some(lab) = Lab::new() else { return };
    lab.write(
        "/etc/resolv.conf",
        &format!("search corp.example\nnameserver {RESOLVER}\n"),
    );
    let policy = "version = 1\n[[rule]]\nblock = \"github.com\"\nreason = \"r\"\nowner = \"o\"\n\
                  [[rule]]\nallow = [\"chain.example\", \"github.com\", \"cdn.example\"]\n\
                  [[rule]]\nblock = [\"com\", \"=api.github.com\", \"api.github.com\", \"203.0.113.0/24\"]\n\
                  [[rule]]\nallow = \"allowed.example:443\"\n";
    lab.write("policy.toml", policy);
    let output = lab
        .command("cgfw")
        .args([
            "why",
            "--resolve",
            "--format",
            "json",
            "--policy",
            "policy.toml",
        ])
        .args(["chain.example", "api.github.com", "github.com.corp.example"])
        .args(["allowed.example", "allowed.example:443", "servfail.example"])
        .args([
            "203.0.113.99:80",
            "198.51.100.99",
            "127.0.0.1",
            "allowed.example:80",
        ])
        .status(1)
        .run();
    let section = README.split("\n### Why\n").nth(1).unwrap();
    let (fields, outcomes) = section.split_once("| Outcome of a rule |").unwrap();
    let (prose, fields) = fields
        .split_once("With `--format json`")
        .unwrap()
        .1
        .split_once("\n\n")
        .unwrap();
    let named = |table: &'static str| {
        let rows = table.lines().skip_while(|line| !line.starts_with("| `"));
        rows.take_while(|line| line.starts_with('|'))
            .flat_map(|row| code(row.split('|').nth(1).unwrap()))
            .map(str::to_owned)
    };
    let mut documented: BTreeSet<String> = named(fields).collect();
    documented.extend(code(prose).map(str::to_owned));
    for value in ["allowed", "blocked"] {
        assert!(documented.remove(value), "{value}");
    }
    let (mut found, mut found_outcomes) = (BTreeSet::new(), BTreeSet::new());
    for line in output.stdout.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        found.extend(line.as_object().unwrap().keys().cloned());
        for candidate in line["candidates"].as_array().unwrap() {
            found_outcomes.insert(candidate["outcome"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(found, documented, "{output}");
    assert_eq!(found_outcomes, named(outcomes).collect(), "{output}");
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for target in README.split("](").skip(1) {
        let target = target.split(')').next().unwrap();
        let exists = match target.strip_prefix('#') {
            Some(anchor) => README.lines().any(|line| {
                line.starts_with('#')
                    && line
                        .trim_start_matches(['#', ' '])
                        .to_lowercase()
                        .replace(' ', "-")
                        == anchor
            }),
            None => root.join(target).exists(),
        };
        assert!(exists, "{target} does not exist");
    }
}
