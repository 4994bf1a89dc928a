//! Runs sent to a collector of OpenTelemetry, which decodes what it gets.

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::Value;

use crate::load::names;
use crate::support::Lab;
use crate::support::collector::{Collector, Manner, text};
use crate::support::command::Test;

const TAKES: Manner = Manner::Takes(Duration::ZERO);

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// As much as the end of a run waits for a collector, and time for the rest.
const SOON: Duration = Duration::from_secs(12);

/// A run that is refused something, and returns 3.
fn refused<'l>(lab: &'l Lab, endpoint: &str) -> Test<'l> {
    lab.cgfw()
        .args(["--block", "github.com", "--audit-log", "audit.jsonl"])
        .args(["--otlp-endpoint", endpoint])
        .sh("curl --silent example.com; sh -c 'curl --silent github.com; true'; exit 3")
        .status(3)
}

fn log(lab: &Lab) -> Vec<Value> {
    let log = lab.read("audit.jsonl");
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn hex(id: &[u8]) -> String {
    let octets: Vec<String> = id.iter().map(|octet| format!("{octet:02x}")).collect();
    octets.concat()
}

#[test]
fn a_run_is_a_trace() {
    let Some(lab) = Lab::new() else { return };
    let collector = Collector::start(lab.client(), TAKES);
    refused(&lab, &collector.url())
        .stderr_lacks("did not get to")
        .run();
    let got = collector.got();
    let run = got.span("cgfw run");
    assert!(run.parent_span_id.is_empty());
    let log = log(&lab);
    assert_eq!(log[0]["trace_id"], hex(&run.trace_id));
    assert_eq!(text(&run.attributes, "process.exit.code").unwrap(), "3");
    let blocked: i64 = text(&run.attributes, "cgfw.blocked")
        .unwrap()
        .parse()
        .unwrap();
    assert!(blocked > 0, "{run:?}");
    assert_eq!(run.status.as_ref().unwrap().code(), StatusCode::Error);
    assert_eq!(
        text(&run.attributes, "cgfw.policy_digest").unwrap(),
        log[0]["policy_digest"].as_str().unwrap()
    );
    let lookups = got
        .spans
        .iter()
        .filter(|span| span.name == "DNS lookup github.com");
    let lookups: Vec<_> = lookups.collect();
    assert!(!lookups.is_empty());
    for lookup in lookups {
        assert_eq!(text(&lookup.attributes, "error.type").unwrap(), "blocked");
        assert_eq!(lookup.status.as_ref().unwrap().code(), StatusCode::Error);
    }
    for span in &got.spans {
        assert_eq!(span.trace_id, run.trace_id, "{span:?}");
    }
}

#[test]
fn processes_are_spans_one_in_the_other_as_they_started_each_other() {
    let Some(lab) = Lab::new() else { return };
    let collector = Collector::start(lab.client(), TAKES);
    refused(&lab, &collector.url()).run();
    let got = collector.got();
    let run = got.span("cgfw run");
    let curls: Vec<_> = got
        .spans
        .iter()
        .filter(|span| span.name == "curl")
        .collect();
    assert_eq!(curls.len(), 2);
    for curl in curls {
        let args = text(&curl.attributes, "process.command_args").unwrap();
        let depth = if args.contains("github.com") { 2 } else { 1 };
        let mut span = curl;
        for _ in 0..depth {
            let parent = |other: &&Span| other.span_id == span.parent_span_id;
            span = got.spans.iter().find(parent).unwrap();
            assert_eq!(
                text(&span.attributes, "process.executable.name").unwrap(),
                span.name
            );
        }
        assert_eq!(span.parent_span_id, run.span_id);
        assert!(run.start_time_unix_nano < curl.start_time_unix_nano);
        assert!(curl.start_time_unix_nano < curl.end_time_unix_nano);
        assert!(curl.end_time_unix_nano < run.end_time_unix_nano);
        let code = text(&curl.attributes, "process.exit.code").unwrap();
        assert_eq!(code, if depth == 2 { "6" } else { "0" });
    }
}

#[test]
fn the_lines_of_the_log_are_its_records() {
    let Some(lab) = Lab::new() else { return };
    let collector = Collector::start(lab.client(), TAKES);
    refused(&lab, &collector.url()).run();
    let got = collector.got();
    let log = log(&lab);
    assert_eq!(got.records.len(), log.len());
    for (record, line) in got.records.iter().zip(&log) {
        let event = line["event"].as_str().unwrap();
        assert_eq!(record.event_name, format!("cgfw.{event}"));
        let time = Duration::from_nanos(record.time_unix_nano);
        let time = humantime::format_rfc3339_nanos(std::time::UNIX_EPOCH + time).to_string();
        assert_eq!(line["time"], time);
        let told = record.attributes.len();
        assert_eq!(
            told,
            line.as_object().unwrap().len() - 3,
            "{record:?}\n{line}"
        );
        let is_blocked = line["verdict"] == "blocked";
        assert_eq!(record.severity_text == "WARN", is_blocked, "{record:?}");
        let span = got.spans.iter().find(|span| span.span_id == record.span_id);
        assert_eq!(span.unwrap().trace_id, record.trace_id);
    }
    let lookup = got.records("cgfw.dns");
    let lookup = lookup
        .iter()
        .find(|record| text(&record.attributes, "dns.question.name").unwrap() == "github.com");
    let attributes = &lookup.unwrap().attributes;
    assert_eq!(text(attributes, "cgfw.verdict").unwrap(), "blocked");
    let args = text(attributes, "process.command_args").unwrap();
    assert_eq!(args, "curl --silent github.com");
    let connect = got.records("cgfw.connect")[0];
    assert_eq!(
        text(&connect.attributes, "server.address").unwrap(),
        "example.com"
    );
    assert_eq!(
        text(&connect.attributes, "network.transport").unwrap(),
        "tcp"
    );
    for resource in &got.resources {
        let host = log[0]["host"].as_str().unwrap();
        assert_eq!(text(&resource.attributes, "host.name").unwrap(), host);
        assert_eq!(text(&resource.attributes, "service.name").unwrap(), "cgfw");
    }
}

#[test]
fn the_variables_of_opentelemetry_hold() {
    let Some(lab) = Lab::new() else { return };
    let collector = Collector::start(lab.client(), TAKES);
    let run = || {
        lab.cgfw()
            .args(["--block", "github.com"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
    };
    run()
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc")
        .env("OTEL_SERVICE_NAME", "deploys")
        .env("OTEL_RESOURCE_ATTRIBUTES", "team=infra,host.name=db7")
        .child(["true"])
        .run();
    let got = collector.got();
    assert!(!got.headers.is_empty());
    for headers in &got.headers {
        assert_eq!(headers["authorization"], "Basic abc");
    }
    for resource in &got.resources {
        for (key, value) in [
            ("service.name", "deploys"),
            ("team", "infra"),
            ("host.name", "db7"),
        ] {
            assert_eq!(text(&resource.attributes, key).unwrap(), value);
        }
    }
    run().env("OTEL_SDK_DISABLED", "true").child(["true"]).run();
    assert_eq!(collector.got().headers.len(), got.headers.len());
    run()
        .env("OTEL_TRACES_EXPORTER", "none")
        .child(["true"])
        .run();
    let after = collector.got();
    assert_eq!(after.spans.len(), got.spans.len());
    assert!(after.records.len() > got.records.len());
}

#[test]
fn a_trace_is_continued_and_passed_on() {
    let Some(lab) = Lab::new() else { return };
    let collector = Collector::start(lab.client(), TAKES);
    let run = || {
        lab.cgfw()
            .args(["--block", "github.com", "--audit-log", "audit.jsonl"])
            .env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01"))
            .env("TRACESTATE", "vendor=1")
    };
    let echo = "echo $TRACEPARENT $TRACESTATE";
    let output = run()
        .args(["--otlp-endpoint", &collector.url()])
        .sh(echo)
        .run();
    let got = collector.got();
    let span = got.span("cgfw run");
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), PARENT);
    let id = hex(&span.span_id);
    assert_eq!(output.stdout, format!("00-{TRACE}-{id}-01 vendor=1\n"));
    assert_eq!(log(&lab)[0]["trace_id"], TRACE);
    // Nothing is made up where nobody collects.
    lab.sh("rm audit.jsonl").run();
    run()
        .sh(echo)
        .stdout(format!("00-{TRACE}-{PARENT}-01 vendor=1\n"))
        .run();
    assert_eq!(log(&lab)[0]["trace_id"], TRACE);
    lab.sh("rm audit.jsonl").run();
    run()
        .env("TRACEPARENT", "nonsense")
        .sh(echo)
        .stdout("nonsense vendor=1\n")
        .run();
    assert_eq!(log(&lab)[0].get("trace_id"), None);
    // Who is not sampled has no spans, and its records all the same.
    let before = collector.got();
    run()
        .args(["--otlp-endpoint", &collector.url()])
        .env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-00"))
        .child(["true"])
        .stderr_lacks("did not get to")
        .run();
    let after = collector.got();
    assert_eq!(after.spans.len(), before.spans.len());
    assert!(after.records.len() > before.records.len());
}

#[test]
fn a_collector_that_is_slow_or_dead_costs_what_it_would_have_got() {
    let Some(lab) = Lab::new() else { return };
    let slow = Duration::from_secs(1);
    let collector = Collector::start(lab.client(), Manner::Takes(slow));
    refused(&lab, &collector.url())
        .stderr_lacks("did not get to")
        .within(SOON)
        .run();
    assert!(!collector.got().spans.is_empty());
    for (manner, reason) in [
        (Manner::Answers(500), "it answers 500"),
        (Manner::Answers(429), "it answers 429"),
        (Manner::Hangs, "it is too slow"),
    ] {
        let collector = Collector::start(lab.client(), manner);
        check_lost(&lab, &collector.url(), reason);
    }
    check_lost(&lab, "http://127.0.0.1:9", "Connection refused");
    check_lost(&lab, "http://no-such-name.example", "");
}

/// The run goes as ever, and all that was not sent is said.
#[track_caller]
fn check_lost(lab: &Lab, endpoint: &str, reason: &str) {
    lab.sh("rm -f audit.jsonl").run();
    let output = refused(lab, endpoint).within(SOON).run();
    let lines = log(lab).len();
    let lost = output
        .stderr
        .lines()
        .find(|line| line.contains(" spans and log records did not get to "));
    let lost = lost.unwrap_or_else(|| panic!("the loss is not said\n{output}"));
    assert!(lost.contains(endpoint) && lost.contains(reason), "{lost}");
    let (count, rest) = lost
        .strip_prefix("cgfw: ")
        .unwrap()
        .split_once(" of ")
        .unwrap();
    let (made, _) = rest.split_once(' ').unwrap();
    assert_eq!(count, made, "{lost}");
    assert!(made.parse::<usize>().unwrap() > lines, "{lost}");
}

#[test]
fn a_flood_arrives() {
    let Some(lab) = Lab::new() else { return };
    let collector = Collector::start(lab.client(), TAKES);
    lab.write("names", &names(5000));
    lab.cgfw()
        .args(["--block", "github.com", "--audit-log", "audit.jsonl"])
        .args(["--otlp-endpoint", &collector.url()])
        .sh("asks udp 198.51.100.53 200 < names")
        .stderr_lacks("did not get to")
        .run();
    let (got, lines) = (collector.got(), log(&lab).len());
    assert!(lines > 5000, "{lines}");
    assert_eq!(got.records.len(), lines);
    assert!(got.spans.len() > 5000);
}

#[test]
fn the_command_does_not_wait_for_a_collector() {
    let Some(lab) = Lab::new() else { return };
    let collector = Collector::start(lab.client(), Manner::Hangs);
    let script = "start=$(date +%s%N); for i in 1 2 3 4 5; do curl --silent example.com; done; \
                  echo $((($(date +%s%N) - start) / 1000000))";
    let output = lab
        .cgfw()
        .args(["--block", "github.com", "--otlp-endpoint", &collector.url()])
        .sh(script)
        .run();
    let took: u64 = output.stdout.lines().last().unwrap().parse().unwrap();
    // Far less than a single request would have hung.
    assert!(took < 5000, "{output}");
}

#[test]
fn certificates_are_judged_by_what_the_host_trusts() {
    let Some(lab) = Lab::new() else { return };
    let run = || {
        lab.cgfw()
            .args(["--block", "github.com"])
            .args(["--otlp-endpoint", "https://allowed.example/otlp/"])
            .child(["true"])
    };
    run().stderr_lacks("did not get to").run();
    let requests = lab.internet().requests();
    for path in ["/otlp/v1/traces", "/otlp/v1/logs"] {
        assert!(requests.iter().any(|request| request.path == path));
    }
    lab.write("/etc/lab-ca.pem", "");
    run()
        .stderr_has("did not get to https://allowed.example/otlp/v1/traces: ")
        .run();
}

#[test]
fn what_cannot_be_sent_to_is_an_error_before_anything_runs() {
    let Some(lab) = Lab::new() else { return };
    let check = |variables: &[(&str, &str)], says: &str| {
        let run = lab.cgfw().args(["--block", "github.com"]);
        let run = variables
            .iter()
            .fold(run, |run, (name, value)| run.env(name, value));
        run.sh("touch was-run").status(125).stderr_has(says).run();
        assert!(!lab.exists("was-run"));
    };
    let general = "OTEL_EXPORTER_OTLP_ENDPOINT";
    for url in [
        "collector.example:4317",
        "ftp://x.example",
        "/v1",
        "http://",
    ] {
        check(&[("CGFW_OTLP_ENDPOINT", url)], "cgfw: --otlp-endpoint: ");
        check(&[(general, url)], "cgfw: OTEL_EXPORTER_OTLP_ENDPOINT: ");
    }
    let url = (general, "http://collector.example:4318");
    check(
        &[url, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
        "cgfw: OTEL_EXPORTER_OTLP_PROTOCOL=grpc: cgfw speaks http/protobuf alone; set ",
    );
    check(
        &[url, ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")],
        "cgfw: OTEL_EXPORTER_OTLP_TIMEOUT=soon: not milliseconds",
    );
}
