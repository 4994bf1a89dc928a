//! Lines of the audit log as log records.

use opentelemetry::Key;
use opentelemetry::logs::{AnyValue, LogRecord, Severity};
use opentelemetry::trace::SpanContext;
use serde_json::Value;

use crate::audit::{Act, Contact, Endpoint, Event, Line, Outcome, Service};
use crate::event::Verdict;

/// Fields that the semantic conventions have a name for. All others are called as in the
/// audit log, below `cgfw.`.
const CONVENTIONS: [(&str, &str); 15] = [
    ("answers", "dns.answers"),
    ("argv", "process.command_args"),
    ("comm", "thread.name"),
    ("cwd", "process.working_directory"),
    ("dst_ip", "network.peer.address"),
    ("dst_port", "network.peer.port"),
    ("exe", "process.executable.path"),
    ("host", "host.name"),
    ("pid", "process.pid"),
    ("ppid", "process.parent_pid"),
    ("proto", "network.transport"),
    ("status", "process.exit.code"),
    ("tid", "thread.id"),
    ("uid", "process.real_user.id"),
    ("user", "process.real_user.name"),
];

/// Fields of every line that a record has a place for.
const HEAD: [&str; 3] = ["event", "schema", "time"];

/// Fill in `record` what `line` tells, as part of `span`.
pub(super) fn fill(record: &mut impl LogRecord, line: &Line, span: &SpanContext) {
    let severity = severity(&line.event);
    record.set_event_name(name(&line.event));
    record.set_timestamp(line.time);
    record.set_severity_number(severity);
    record.set_severity_text(severity.name());
    record.set_body(body(&line.event).into());
    record.set_trace_context(span.trace_id(), span.span_id(), Some(span.trace_flags()));
    // Types with string keys only, which cannot fail.
    let Ok(Value::Object(fields)) = serde_json::to_value(line) else {
        return;
    };
    let fields = fields
        .into_iter()
        .filter(|(field, _)| !HEAD.contains(&&**field));
    record.add_attributes(fields.map(|(field, value)| (attribute(&field, line), any(value))));
}

fn attribute(field: &str, line: &Line) -> Key {
    let is_question = matches!(line.event, Event::Dns(_));
    match CONVENTIONS.iter().find(|(own, _)| *own == field) {
        Some((_, name)) => Key::from_static_str(name),
        None if field == "qname" && is_question => "dns.question.name".into(),
        None if field == "qname" => "server.address".into(),
        None => format!("cgfw.{field}").into(),
    }
}

fn any(value: Value) -> AnyValue {
    match value {
        Value::Null => "".into(),
        Value::Bool(value) => value.into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.to_string().into(),
        },
        Value::String(text) => text.into(),
        Value::Array(values) => values.into_iter().map(any).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(field, value)| (field, any(value)))
            .collect(),
    }
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::RunStart(_) => "cgfw.run_start",
        Event::Policy(_) => "cgfw.policy",
        Event::Dns(_) => "cgfw.dns",
        Event::Connect(_) => "cgfw.connect",
        Event::Packet(_) => "cgfw.packet",
        Event::Delegation(_) => "cgfw.delegation",
        Event::Moved(_) => "cgfw.moved",
        Event::Exit(_) => "cgfw.exit",
        Event::Traffic(_) => "cgfw.traffic",
        Event::Unanswered(_) => "cgfw.unanswered",
        Event::Loss(_) => "cgfw.loss",
        Event::RunEnd(_) => "cgfw.run_end",
        Event::Unknown => "cgfw.unknown",
    }
}

fn severity(event: &Event) -> Severity {
    let is_bad = match event {
        Event::Policy(change) if change.error.is_some() => return Severity::Error,
        Event::RunEnd(end) if end.outcome == Outcome::Failed => return Severity::Error,
        Event::Moved(_) | Event::Loss(_) | Event::Unanswered(_) => true,
        Event::RunStart(start) => start.break_glass.is_some(),
        Event::Dns(dns) => dns.act.verdict != Verdict::Allowed,
        Event::Connect(contact) | Event::Packet(contact) => contact.act.verdict != Verdict::Allowed,
        Event::Delegation(delegation) => delegation.act.verdict != Verdict::Allowed,
        Event::Policy(_)
        | Event::Exit(_)
        | Event::Traffic(_)
        | Event::RunEnd(_)
        | Event::Unknown => false,
    };
    if is_bad {
        Severity::Warn
    } else {
        Severity::Info
    }
}

/// What happened, for people who skim.
fn body(event: &Event) -> String {
    match event {
        Event::RunStart(start) => format!("run of {}", start.argv.join(" ")),
        Event::Policy(change) => match &change.error {
            None => "the policy has changed".to_owned(),
            Some(error) => format!("the policy cannot be changed: {error}"),
        },
        Event::Dns(dns) => {
            let name = dns.act.qname.as_ref().map(ToString::to_string);
            let name = name.unwrap_or_default();
            format!("dns {} {name} {}", word(&dns.act), dns.qtype)
        }
        Event::Connect(contact) => format!("connect {}", contacted(contact)),
        Event::Packet(contact) => format!("packet {}", contacted(contact)),
        Event::Delegation(delegation) => {
            let to = match &delegation.to {
                Service::Port(to) => place(to),
                Service::Socket { socket } => socket.clone(),
            };
            format!("delegation {} {to}", word(&delegation.act))
        }
        Event::Moved(moved) => format!("{} was moved out of the cgroup", moved.process.comm),
        Event::Exit(exit) => match (exit.status, exit.signal) {
            (Some(status), _) => format!("{} exited with {status}", exit.process.comm),
            (None, Some(signal)) => format!("{} ended by signal {signal}", exit.process.comm),
            (None, None) => format!("{} ended", exit.process.comm),
        },
        Event::Traffic(traffic) => format!(
            "{}: {} octets sent, {} received",
            place(&traffic.to),
            traffic.bytes_sent,
            traffic.bytes_received
        ),
        Event::Unanswered(unanswered) => format!(
            "{} did not answer for {} us",
            place(&unanswered.to),
            unanswered.waited_us
        ),
        Event::Loss(loss) => format!("{} observations were lost", loss.count),
        Event::RunEnd(end) => format!(
            "run ended with {}: {} lookups, {} contacts, {} blocked",
            end.exit_code, end.lookups, end.contacts, end.blocked
        ),
        Event::Unknown => String::new(),
    }
}

fn word(act: &Act) -> &'static str {
    match act.verdict {
        Verdict::Allowed => "allowed",
        Verdict::Blocked => "blocked",
        Verdict::WouldBlock => "would be blocked",
    }
}

fn contacted(contact: &Contact) -> String {
    let name = contact.act.qname.as_ref();
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    format!("{} {}{name}", word(&contact.act), place(&contact.to))
}

fn place(to: &Endpoint) -> String {
    match to.ip {
        ip if to.port == 0 => format!("{ip} {}", to.proto),
        std::net::IpAddr::V4(ip) => format!("{ip}:{}/{}", to.port, to.proto),
        std::net::IpAddr::V6(ip) => format!("[{ip}]:{}/{}", to.port, to.proto),
    }
}
