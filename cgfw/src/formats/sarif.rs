//! What was blocked as code scanning services take findings: SARIF 2.1.0.
//!
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>; the sections below are
//! its. No more of it is here than is written.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Losses;
use super::finding::{Class, Finding, findings};
use super::text::{Sections, gaps};
use crate::audit::{Outcome, encode, microseconds, rfc3339};
use crate::digest::Run;

const VERSION: &str = "2.1.0";
const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
/// Raised when other things go into a fingerprint.
const FINGERPRINT: &str = "cgfwDependency/v1";
/// What relative paths start from: where the command was started.
const ROOT: &str = "SRCROOT";

/// The document on some runs, as one line.
pub fn sarif(runs: &[Run]) -> String {
    let log = Log {
        schema: SCHEMA,
        version: VERSION,
        runs: runs.iter().map(Analysis::of).collect(),
    };
    String::from_utf8_lossy(&encode(&log)).into_owned()
}

/// Section 3.13.
#[derive(Serialize)]
struct Log {
    #[serde(rename = "$schema")]
    schema: &'static str,
    version: &'static str,
    runs: Vec<Analysis>,
}

/// A run, section 3.14.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Analysis {
    tool: Tool,
    automation_details: Automation,
    invocations: [Invocation; 1],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    original_uri_base_ids: BTreeMap<&'static str, Artifact>,
    results: Vec<Contact>,
}

#[derive(Serialize)]
struct Tool {
    driver: Driver,
}

/// Section 3.19.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Driver {
    name: &'static str,
    semantic_version: String,
    rules: Vec<Rule>,
}

/// Section 3.49.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    id: String,
    short_description: Message,
    #[serde(skip_serializing_if = "Option::is_none")]
    full_description: Option<Message>,
    default_configuration: Configuration,
}

#[derive(Clone, Serialize)]
struct Configuration {
    level: Level,
}

/// Section 3.27.10.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Error,
    Warning,
    Note,
}

#[derive(Clone, Serialize)]
struct Message {
    text: String,
}

/// Section 3.17. Services take what is before the last slash for a category.
#[derive(Serialize)]
struct Automation {
    id: String,
}

/// Section 3.20.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    execution_successful: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    arguments: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time_utc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time_utc: Option<String>,
    tool_execution_notifications: Vec<Notification>,
}

/// Section 3.58.
#[derive(Serialize)]
struct Notification {
    level: Level,
    message: Message,
}

/// A result, section 3.27.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Contact {
    rule_id: String,
    rule_index: usize,
    level: Level,
    message: Message,
    locations: [Location; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    related_locations: Vec<Location>,
    partial_fingerprints: BTreeMap<&'static str, String>,
    properties: Properties,
}

/// Section 3.28.
#[derive(Serialize)]
struct Location {
    #[serde(rename = "physicalLocation", skip_serializing_if = "Option::is_none")]
    physical: Option<Physical>,
    #[serde(rename = "logicalLocations", skip_serializing_if = "Vec::is_empty")]
    logical: Vec<Logical>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
}

/// Section 3.29.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Physical {
    artifact_location: Artifact,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
}

/// Section 3.4.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    uri: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri_base_id: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: u32,
}

/// Section 3.33.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Logical {
    fully_qualified_name: String,
    kind: &'static str,
}

/// What SARIF has no place for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    target: String,
    /// From the wrapped command down to the one that acted.
    chain: Vec<String>,
    /// All that turned there.
    commands: Vec<String>,
    lookups: u64,
    contacts: u64,
    waited_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    consequence: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Analysis {
    fn of(run: &Run) -> Self {
        let sections = Sections::of(run);
        let mut rules: Vec<Rule> = Vec::new();
        let mut results = Vec::new();
        for finding in findings(run, &sections) {
            let Some((rule, level)) = Rule::of(&finding) else {
                continue;
            };
            let known = rules.iter().position(|known| known.id == rule.id);
            let rule_index = known.unwrap_or(rules.len());
            results.push(Contact::of(&finding, &rule.id, rule_index, level));
            if known.is_none() {
                rules.push(rule);
            }
        }
        let version = run.start.as_ref().map(|start| start.version.clone());
        let root = root(run).map(|root| Artifact {
            uri: file(&format!("{}/", root.trim_end_matches('/'))),
            uri_base_id: None,
        });
        Self {
            tool: Tool {
                driver: Driver {
                    name: "cgfw",
                    semantic_version: version
                        .unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
                    rules,
                },
            },
            automation_details: Automation {
                id: format!("cgfw/{}", run.id),
            },
            invocations: [Invocation::of(run)],
            original_uri_base_ids: root.map(|root| (ROOT, root)).into_iter().collect(),
            results,
        }
    }
}

impl Rule {
    /// What a finding is an instance of, and how bad that is; `None` if it is none.
    fn of(finding: &Finding<'_>) -> Option<(Self, Level)> {
        let level = match finding.class {
            Class::Blocked => Level::Error,
            Class::WouldBlock => Level::Warning,
            Class::Delegated | Class::Unjudged => Level::Note,
            Class::Allowed => return None,
        };
        let id = match (finding.class, finding.ground()) {
            // A rule stays the same one when a line is put in above it.
            (_, Some(ground)) => match written_in(&ground) {
                Some((file, _, pattern)) => format!("{file}: {pattern}"),
                None => ground,
            },
            (Class::Delegated, None) => "delegation".to_owned(),
            (_, None) => "not judged by name".to_owned(),
        };
        let text = match finding.class {
            Class::Delegated => "What others do for the command is not seen".to_owned(),
            Class::Unjudged => "No name led there, and no rule speaks of it".to_owned(),
            Class::Blocked | Class::WouldBlock | Class::Allowed => {
                format!("Refused by the policy: {id}")
            }
        };
        let rule = Self {
            id,
            short_description: Message { text },
            full_description: finding.reason().map(|text| Message { text }),
            default_configuration: Configuration { level },
        };
        Some((rule, level))
    }
}

impl Contact {
    fn of(finding: &Finding<'_>, rule: &str, rule_index: usize, level: Level) -> Self {
        let run = finding.run;
        let ground = finding.ground();
        let line = ground.as_deref().and_then(written_in);
        let policy = line.map(|(file, line, _)| Physical::new(run, file, Some(line)));
        let script = script(finding).map(|path| Physical::new(run, path, None));
        let (first, second) = match policy {
            Some(policy) => (Some(policy), script),
            None => (script, None),
        };
        let target = finding.name.to_owned();
        let logical = Logical {
            fully_qualified_name: target.clone(),
            kind: "resource",
        };
        let related = second.map(|script| Location {
            physical: Some(script),
            logical: Vec::new(),
            message: Some(Message {
                text: "the script that needs it".to_owned(),
            }),
        });
        Self {
            rule_id: rule.to_owned(),
            rule_index,
            level,
            message: Message {
                text: finding.lines().join("; "),
            },
            locations: [Location {
                physical: first,
                logical: vec![logical],
                message: None,
            }],
            related_locations: related.into_iter().collect(),
            partial_fingerprints: [(FINGERPRINT, fingerprint(rule, &target))].into(),
            properties: Properties {
                target,
                chain: finding.commands(),
                commands: finding.all_commands(),
                lookups: finding.total.lookups,
                contacts: finding.total.contacts,
                waited_us: microseconds(finding.total.waited),
                consequence: finding.outcome(),
                owner: finding.owner(),
                reason: finding.reason(),
            },
        }
    }
}

impl Invocation {
    fn of(run: &Run) -> Self {
        let end = run.end.as_ref();
        let notification = |text| Notification {
            level: Level::Error,
            message: Message { text },
        };
        let gaps = gaps(run, Losses::of(run)).into_iter();
        Self {
            execution_successful: end.is_some_and(|end| end.outcome != Outcome::Failed),
            arguments: run
                .start
                .as_ref()
                .map_or_else(Vec::new, |start| start.argv.clone()),
            exit_code: end.map(|end| end.exit_code),
            start_time_utc: run.began.map(|time| rfc3339(time).to_string()),
            end_time_utc: run.ended.map(|time| rfc3339(time).to_string()),
            tool_execution_notifications: gaps.map(notification).collect(),
        }
    }
}

impl Physical {
    fn new(run: &Run, path: &str, line: Option<u32>) -> Self {
        let below = root(run).and_then(|root| path.strip_prefix(root)?.strip_prefix('/'));
        let is_relative = below.is_some() || !path.starts_with('/');
        let artifact_location = if is_relative {
            let path = below.unwrap_or(path);
            Artifact {
                uri: percent_encoded(path.strip_prefix("./").unwrap_or(path)),
                uri_base_id: root(run).map(|_| ROOT),
            }
        } else {
            Artifact {
                uri: file(path),
                uri_base_id: None,
            }
        };
        Self {
            artifact_location,
            region: line.map(|start_line| Region { start_line }),
        }
    }
}

/// Where the command was started.
fn root(run: &Run) -> Option<&str> {
    run.start.as_ref()?.cwd.as_deref()
}

/// The script nearest to the process that was refused, or that of the run.
fn script<'r>(finding: &Finding<'r>) -> Option<&'r str> {
    let chain = finding.chain();
    let nearest = chain.iter().rev().find_map(|node| node.script.as_deref());
    let processes = &finding.run.processes;
    nearest.or_else(|| {
        processes
            .roots()
            .find_map(|(_, node)| node.script.as_deref())
    })
}

/// Of a rule that is cited as `policy.toml:7: github.com`, the three parts.
fn written_in(rule: &str) -> Option<(&str, u32, &str)> {
    let (place, pattern) = rule.split_once(": ")?;
    let (file, line) = place.rsplit_once(':')?;
    Some((file, line.parse().ok().filter(|line| *line > 0)?, pattern))
}

/// The same for the same rule and target in every run.
fn fingerprint(rule: &str, target: &str) -> String {
    let digest = Sha256::digest([rule, "\0", target].concat());
    let mut text = String::new();
    for octet in digest {
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{octet:02x}");
    }
    text
}

fn file(path: &str) -> String {
    format!("file://{}", percent_encoded(path))
}

/// A path as a URI has it (RFC 3986 section 3.3).
fn percent_encoded(path: &str) -> String {
    let mut uri = String::new();
    for octet in path.bytes() {
        if octet.is_ascii_alphanumeric() || b"/-._~".contains(&octet) {
            uri.push(char::from(octet));
        } else {
            // Writing to a string cannot fail.
            let _infallible = write!(uri, "%{octet:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use boon::{Compiler, Schemas};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::tests::{SAMPLE, digest, hostile};
    use super::*;

    /// The document, which is valid.
    fn valid(log: &str) -> Value {
        let text = sarif(digest(log).runs());
        let report: Value = serde_json::from_str(&text).expect(&text);
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.enable_format_assertions();
        let schema = include_str!("../../../tests/schemas/sarif-2.1.0.json");
        let schema = serde_json::from_str(schema).unwrap();
        compiler.add_resource("urn:sarif", schema).unwrap();
        let schema = compiler.compile("urn:sarif", &mut schemas).unwrap();
        if let Err(error) = schemas.validate(&report, schema) {
            panic!("{text}\n{error:#}");
        }
        let mut broken = report.clone();
        broken["runs"][0]["results"] = json!([{ "message": 1 }]);
        assert!(schemas.validate(&broken, schema).is_err());
        report
    }

    #[test]
    fn what_was_refused_is_an_error_with_its_rule_and_where_that_is_written() {
        let report = valid(SAMPLE);
        let run = &report["runs"][0];
        let results = run["results"].as_array().unwrap();
        let of = |name: &str| {
            let is_it = |result: &&Value| result["properties"]["target"] == name;
            results.iter().find(is_it).expect(name)
        };
        assert_eq!(results.len(), 4);
        let github = of("github.com");
        assert_eq!(github["ruleId"], "--block github.com");
        assert_eq!(github["level"], "error");
        assert_eq!(
            github["properties"]["chain"],
            json!(["./deploy.sh --fast", "make release", "git fetch origin"])
        );
        assert_eq!(github["properties"]["owner"], "team-git");
        let script = json!({ "artifactLocation": { "uri": "deploy.sh", "uriBaseId": "SRCROOT" } });
        assert_eq!(github["locations"][0]["physicalLocation"], script);
        let tool = of("updates.tool.example");
        assert_eq!(tool["ruleId"], "policy.toml: updates.tool.example");
        assert_eq!(
            tool["locations"][0]["physicalLocation"],
            json!({
                "artifactLocation": { "uri": "policy.toml", "uriBaseId": "SRCROOT" },
                "region": { "startLine": 7 }
            })
        );
        assert_eq!(tool["relatedLocations"][0]["physicalLocation"], script);
        assert_eq!(of("/run/docker.sock")["level"], "note");
        assert_eq!(of("203.0.113.7:443/tcp")["level"], "note");
        for result in results {
            let rule = &run["tool"]["driver"]["rules"]
                [usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
            assert_eq!(rule["id"], result["ruleId"]);
        }
        assert_eq!(
            run["originalUriBaseIds"]["SRCROOT"]["uri"],
            "file:///srv/app/"
        );
    }

    #[test]
    fn fingerprints_tell_dependencies_apart_and_outlive_lines_and_runs() {
        let fingerprints = |log: &str| -> Vec<Value> {
            let report = valid(log);
            let results = report["runs"][0]["results"].as_array().unwrap();
            let fingerprints = results.iter().map(|result| &result["partialFingerprints"]);
            fingerprints.cloned().collect()
        };
        let first = fingerprints(SAMPLE);
        let later = SAMPLE
            .replace("policy.toml:7:", "policy.toml:70:")
            .replace("5f3a9c0d1e2b4a67", "0000000000000001")
            .replace("2026-11-23", "2026-11-24");
        assert_eq!(first, fingerprints(&later));
        for (n, one) in first.iter().enumerate() {
            assert!(!first[..n].contains(one), "{one}");
        }
    }

    #[test]
    fn what_is_not_known_is_a_notification() {
        let report = valid(SAMPLE);
        let invocation = &report["runs"][0]["invocations"][0];
        assert_eq!(invocation["executionSuccessful"], true);
        assert_eq!(invocation["exitCode"], 1);
        let notifications = &invocation["toolExecutionNotifications"];
        assert_eq!(
            notifications[0]["message"]["text"],
            "2 observations were lost"
        );
        // A log that has lost both of its ends.
        let cut: Vec<_> = SAMPLE.lines().skip(1).take(5).collect();
        let report = valid(&cut.join("\n"));
        let invocation = &report["runs"][0]["invocations"][0];
        assert_eq!(invocation["executionSuccessful"], false);
    }

    #[test]
    fn paths_are_uris() {
        assert_eq!(
            percent_encoded("a b/%ü#?:.sh"),
            "a%20b/%25%C3%BC%23%3F%3A.sh"
        );
        assert_eq!(file("/srv/x"), "file:///srv/x");
        assert_eq!(
            written_in("a:b.toml:12: x.y"),
            Some(("a:b.toml", 12, "x.y"))
        );
        for rule in ["--block a.b", "no rule allows it", "x:0: y", "x: y"] {
            assert_eq!(written_in(rule), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn whatever_the_child_calls_itself_the_document_is_valid(text in ".*") {
            valid(&hostile(&text));
        }
    }
}
