//! One JSON document, for other programs.

use std::cmp::Reverse;
use std::time::SystemTime;

use serde::Serialize;

use super::Losses;
use super::text::{Sections, faults};
use crate::audit::{Moved, PolicyChange, RunEnd, RunStart, encode, microseconds, rfc3339};
use crate::digest::{self, Consequence, Deed, Node, ProcessKey, Run, Target, Total};
use crate::event::{Reason, Verdict};

/// Raised when a field changes its meaning or vanishes, not when one is added.
const SCHEMA: u32 = 1;

/// The document on some runs: one line, in which everything that is not visible is escaped.
pub fn json(runs: &[Run]) -> String {
    let report = Report {
        schema: SCHEMA,
        runs: runs.iter().map(OneRun::of).collect(),
    };
    String::from_utf8_lossy(&encode(&report)).into_owned()
}

/// A report of cgfw.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(title = "a report of cgfw", extend("$id" = "urn:cgfw:report:1")))]
struct Report<'r> {
    /// The version of the format.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    schema: u32,
    /// In the order in which they began.
    runs: Vec<OneRun<'r>>,
}

/// What is known of a run.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OneRun<'r> {
    /// The id of the run, different for every run on every host.
    run: &'r str,
    /// Whether nothing was blocked, every contact was judged, and all of this is known.
    clean: bool,
    /// Why it is not clean, in words.
    faults: Vec<String>,
    /// What was enforced, and on whom; absent if the log has lost its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<&'r RunStart>,
    /// How it ended; absent if the log was cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'r RunEnd>,
    /// When the first and the last line of the log were written (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    began: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Time>,
    /// Questions and contacts, and how many of both were blocked, or would have been.
    lookups: u64,
    contacts: u64,
    blocked: u64,
    /// Observations that were lost.
    lost: u64,
    /// Whom the command turned to: what was blocked first, names before addresses before
    /// services, each in their order.
    targets: Vec<OneTarget<'r>>,
    /// Acts on targets for which there was no room.
    uncounted: u64,
    /// Processes that acted, or that one of those descends from, parents before their
    /// children.
    processes: Vec<OneProcess<'r>>,
    /// Processes for which there was no room.
    more_processes: u64,
    /// Processes that were moved out of the cgroup.
    moved: &'r [Moved],
    /// Moves of others.
    more_moved: u64,
    /// Changes of policy (`--watch`).
    changes: Vec<Change<'r>>,
}

/// What happened to a name, an address or a service.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OneTarget<'r> {
    /// `github.com`, `192.0.2.1:443/tcp`, `/run/docker.sock`.
    target: String,
    kind: Kind,
    /// The severest of all verdicts.
    verdict: Verdict,
    /// On what grounds that verdict fell.
    reason: Reason,
    /// The rule that decided, as it was written, with where.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'r str>,
    /// Whom to ask about that rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'r str>,
    /// Why the rule is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_reason: Option<&'r str>,
    /// The name that the rule matched, if it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    matched: Option<String>,
    /// Whether it passed although no name led there and no rule speaks of it.
    unjudged: bool,
    /// When it was first contacted (RFC 3339).
    first: Time,
    /// DNS questions; connections and destinations of packets; and how many of both were
    /// blocked, or would have been.
    lookups: u64,
    contacts: u64,
    blocked: u64,
    /// Closed TCP connections, and octets of payload that went over them.
    connections: u64,
    bytes_sent: u64,
    bytes_received: u64,
    /// Connections that were given up without an answer.
    unanswered: u64,
    /// Time spent in questions that were refused or failed, and in such connections.
    waited_us: u64,
    /// Other names of the addresses that were contacted.
    also: Vec<String>,
    /// Different command lines, as one would type them, in the order of their first acts.
    commands: Vec<&'r str>,
    /// Whether there were more of those.
    more_commands: bool,
    /// Acts of which the process is not known.
    unattributed: u64,
    /// The first processes that were refused.
    refused: Vec<Key>,
    /// What became of the command after something was refused, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    consequence: Option<Effect>,
    /// Who did the network for the command there.
    #[serde(skip_serializing_if = "Option::is_none")]
    delegation: Option<Delegation<'r>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum Kind {
    Name,
    /// An address that no name led to.
    Address,
    /// A port or a unix socket of others on this host.
    Service,
}

/// What became of the command.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Effect {
    /// The process that was refused, all above it and the command itself failed.
    Failed,
    /// It made no difference to the command.
    WentOn {
        /// The process that succeeded all the same, if it is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        process: Option<Key>,
    },
}

/// How the command had its network done by others.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Delegation<'r> {
    /// Whether it did so without a rule that acknowledges it.
    unacknowledged: bool,
    /// Where a proxy is named: `http_proxy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'r str>,
    /// Who listens there, as far as that could be found out.
    listeners: Vec<Listener<'r>>,
}

/// A process outside of the cgroup.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Listener<'r> {
    pid: u32,
    comm: &'r str,
    command: &'r str,
}

/// Identifies a process for good.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Key {
    pid: u32,
    /// When it started, in nanoseconds since boot.
    started: u64,
}

/// A process.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OneProcess<'r> {
    #[serde(flatten)]
    key: Key,
    /// Absent of one that nobody in the run has started.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Key>,
    /// The command line, as one would type it.
    command: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    /// When it was first seen to act (RFC 3339); absent of one that others descend from.
    #[serde(skip_serializing_if = "Option::is_none")]
    acted: Option<Time>,
    /// How it ended, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    ending: Option<Ending>,
    /// What it did, each target and verdict once.
    deeds: Vec<OneDeed>,
    /// Acts beyond those.
    more_deeds: u64,
}

/// How a process ended.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Ending {
    time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    /// How long it lived.
    lived_us: u64,
}

/// What a process did, counted.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OneDeed {
    target: String,
    verdict: Verdict,
    count: u64,
}

/// A change of policy.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Change<'r> {
    time: Time,
    #[serde(flatten)]
    change: &'r PolicyChange,
}

/// RFC 3339, UTC, nanoseconds.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Time(#[cfg_attr(test, schemars(extend("format" = "date-time")))] String);

impl<'r> OneRun<'r> {
    fn of(run: &'r Run) -> Self {
        let faults = faults(run, &Sections::of(run), Losses::of(run));
        let mut targets: Vec<_> = run.targets.iter().collect();
        targets.sort_by_cached_key(|(target, total)| {
            (Reverse(total.verdict), Kind::of(target), target.to_string())
        });
        let targets = targets.into_iter();
        let processes = run.processes.iter();
        let changes = run.changes.iter();
        Self {
            run: &run.id,
            clean: faults.is_empty(),
            faults,
            start: run.start.as_ref(),
            end: run.end.as_ref(),
            began: run.began.map(Time::of),
            ended: run.ended.map(Time::of),
            lookups: run.lookups,
            contacts: run.contacts,
            blocked: run.blocked,
            lost: run.lost,
            targets: targets
                .map(|(target, total)| OneTarget::of(run, target, total))
                .collect(),
            uncounted: run.targets.uncounted,
            processes: processes
                .map(|(key, node)| OneProcess::of(key, node))
                .collect(),
            more_processes: run.processes.more,
            moved: &run.moved,
            more_moved: run.more_moved,
            changes: changes
                .map(|(time, change)| Change {
                    time: Time::of(*time),
                    change,
                })
                .collect(),
        }
    }
}

impl<'r> OneTarget<'r> {
    fn of(run: &Run, target: &Target, total: &'r Total) -> Self {
        Self {
            target: target.to_string(),
            kind: Kind::of(target),
            verdict: total.verdict,
            reason: total.reason,
            rule: total.rule.as_deref(),
            owner: total.owner.as_deref(),
            rule_reason: total.rule_reason.as_deref(),
            matched: total.matched.as_ref().map(ToString::to_string),
            unjudged: total.unjudged,
            first: Time::of(total.first),
            lookups: total.lookups,
            contacts: total.contacts,
            blocked: total.blocked,
            connections: total.traffic.connections,
            bytes_sent: total.traffic.sent,
            bytes_received: total.traffic.received,
            unanswered: total.unanswered,
            waited_us: microseconds(total.waited),
            also: total.also.iter().map(ToString::to_string).collect(),
            commands: total.commands.iter().map(AsRef::as_ref).collect(),
            more_commands: total.more_commands,
            unattributed: total.unattributed,
            refused: total.refused.iter().copied().map(Key::of).collect(),
            consequence: total.consequence(run).map(Effect::of),
            delegation: total.delegated.as_ref().map(Delegation::of),
        }
    }
}

impl Kind {
    fn of(target: &Target) -> Self {
        match target {
            Target::Name(_) => Self::Name,
            Target::Address(_) => Self::Address,
            Target::Service(_) => Self::Service,
        }
    }
}

impl Effect {
    fn of(consequence: Consequence) -> Self {
        match consequence {
            Consequence::Failed => Self::Failed,
            Consequence::WentOn(process) => Self::WentOn {
                process: process.map(Key::of),
            },
        }
    }
}

impl<'r> Delegation<'r> {
    fn of(delegated: &'r digest::Delegated) -> Self {
        let listeners = delegated.listeners.iter();
        Self {
            unacknowledged: delegated.unacknowledged,
            via: delegated.via.as_deref(),
            listeners: listeners
                .map(|listener| Listener {
                    pid: listener.pid,
                    comm: &listener.comm,
                    command: &listener.command,
                })
                .collect(),
        }
    }
}

impl<'r> OneProcess<'r> {
    fn of(key: ProcessKey, node: &'r Node) -> Self {
        let deed = |deed: &Deed| OneDeed {
            target: deed.target.to_string(),
            verdict: deed.verdict,
            count: deed.count,
        };
        Self {
            key: Key::of(key),
            parent: node.parent.map(Key::of),
            command: &node.command,
            exe: node.exe.as_deref(),
            script: node.script.as_deref(),
            cwd: node.cwd.as_deref(),
            uid: node.uid,
            acted: node.acted.map(Time::of),
            ending: node.ending.map(Ending::of),
            deeds: node.deeds.iter().map(deed).collect(),
            more_deeds: node.more_deeds,
        }
    }
}

impl Ending {
    fn of(ending: digest::Ending) -> Self {
        Self {
            time: Time::of(ending.time),
            status: ending.status,
            signal: ending.signal,
            lived_us: microseconds(ending.lived),
        }
    }
}

impl Key {
    fn of(key: ProcessKey) -> Self {
        Self {
            pid: key.pid,
            started: key.started,
        }
    }
}

impl Time {
    fn of(time: SystemTime) -> Self {
        Self(rfc3339(time).to_string())
    }
}

#[cfg(test)]
mod tests {
    use boon::{Compiler, Schemas};
    use serde_json::Value;

    use super::super::tests::{SAMPLE, digest};
    use super::*;

    fn report(log: &str) -> Value {
        let text = json(digest(log).runs());
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
        serde_json::from_str(&text).expect(&text)
    }

    #[test]
    fn what_was_blocked_comes_first() {
        let report = report(SAMPLE);
        let targets = report["runs"][0]["targets"].as_array().unwrap();
        let names: Vec<_> = targets.iter().map(|target| &target["target"]).collect();
        assert_eq!(
            names,
            [
                "github.com",
                "updates.tool.example",
                "artifacts.example",
                "slow.example",
                "203.0.113.7:443/tcp",
                "/run/docker.sock",
            ]
        );
        let github = &targets[0];
        for (field, value) in [
            ("verdict", "blocked".into()),
            ("kind", "name".into()),
            ("rule", "--block github.com".into()),
            ("owner", "team-git".into()),
            ("rule_reason", "we deploy it".into()),
            ("first", "2026-11-23T00:00:00.900000000Z".into()),
            ("lookups", 1.into()),
            ("commands", serde_json::json!(["git fetch origin"])),
            ("consequence", serde_json::json!({ "kind": "failed" })),
            (
                "refused",
                serde_json::json!([{ "pid": 102, "started": 1_200_000_000 }]),
            ),
        ] {
            assert_eq!(github[field], value, "{field}");
        }
        let swallower = serde_json::json!({ "pid": 103, "started": 1_300_000_000 });
        let went_on = serde_json::json!({ "kind": "went_on", "process": swallower });
        assert_eq!(targets[1]["consequence"], went_on);
        assert_eq!(targets[2]["bytes_received"], 10_485_760);
        assert_eq!(targets[3]["waited_us"], 30_000_000);
        assert_eq!(targets[5]["delegation"]["listeners"][0]["comm"], "dockerd");
    }

    #[test]
    fn a_run_says_whether_it_is_clean_and_why_not() {
        let sample = report(SAMPLE);
        let run = &sample["runs"][0];
        assert_eq!(run["clean"], false);
        assert_eq!(run["faults"][0], "2 targets were blocked (ask team-git)");
        assert_eq!(run["lost"], 2);
        let lines: Vec<_> = SAMPLE.lines().collect();
        let clean = [lines[0], lines[1], lines[lines.len() - 1]].join("\n");
        let clean = clean.replace(
            r#""caveats": ["http_proxy is set: names behind it cannot be seen"], "#,
            "",
        );
        let report = report(&clean);
        assert_eq!(report["runs"][0]["clean"], true, "{report}");
        assert_eq!(report["runs"][0]["faults"], serde_json::json!([]));
    }

    #[test]
    fn processes_name_their_parents_and_what_they_did() {
        let report = report(SAMPLE);
        let processes = report["runs"][0]["processes"].as_array().unwrap();
        assert_eq!(processes[0]["command"], "./deploy.sh --fast");
        assert_eq!(processes[0]["script"], "/srv/app/deploy.sh");
        assert!(processes[0].get("parent").is_none());
        let git = processes
            .iter()
            .find(|process| process["pid"] == 102)
            .unwrap();
        assert_eq!(git["parent"]["pid"], 101);
        assert_eq!(git["ending"]["status"], 128);
        let deed =
            serde_json::json!([{ "target": "github.com", "verdict": "blocked", "count": 1 }]);
        assert_eq!(git["deeds"], deed);
    }

    #[test]
    fn nothing_that_is_not_visible_is_in_the_text_and_all_of_it_is_in_the_values() {
        let text = json(digest(SAMPLE).runs());
        let is_visible = |c| c == '\n' || crate::escape::is_visible(c);
        assert!(text.chars().all(is_visible), "{text}");
        let report = report(SAMPLE);
        let command = &report["runs"][0]["targets"][4]["commands"][0];
        assert!(command.as_str().unwrap().contains("\u{1b}]0;pwned\u{7}"));
    }

    #[test]
    fn the_same_runs_give_the_same_text() {
        assert_eq!(json(digest(SAMPLE).runs()), json(digest(SAMPLE).runs()));
    }

    #[test]
    fn the_schema_is_that_of_the_types_and_reports_are_valid() {
        let generated = schemars::schema_for!(Report<'static>);
        let generated = serde_json::to_string_pretty(&generated).unwrap() + "\n";
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/formats/report.schema.json"
        );
        if std::env::var_os("CGFW_WRITE_SCHEMA").is_some() {
            std::fs::write(path, &generated).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert!(
            written == generated,
            "run this test with CGFW_WRITE_SCHEMA=1 to write {path:?}"
        );
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        let schema = serde_json::from_str(&written).unwrap();
        compiler.add_resource("urn:cgfw:report:1", schema).unwrap();
        let schema = compiler.compile("urn:cgfw:report:1", &mut schemas).unwrap();
        for log in [SAMPLE, SAMPLE.lines().nth(3).unwrap(), ""] {
            let mut report = report(log);
            if let Err(error) = schemas.validate(&report, schema) {
                panic!("{report}\n{error:#}");
            }
            report["schema"] = 2.into();
            assert!(schemas.validate(&report, schema).is_err());
        }
    }
}
