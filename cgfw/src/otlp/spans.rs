//! A run as spans: the run itself, in it the processes that did something, one in the other as
//! they started each other, and in those the questions and the waits.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use super::books::Books;
use super::context::Trace;
use crate::audit::{Actor, Ancestor, Dns, Event, Exit, Line, RunEnd, RunStart, Unanswered};
use crate::event::Verdict;

/// Processes that have spans of their own; what more of them do is the run's.
const PROCESSES: usize = 1 << 16;

/// A process for good: its id and when it started.
type Key = (u32, u64);

pub(super) struct Spans {
    tracer: SdkTracer,
    books: Arc<Books>,
    run: Span,
    /// With those that have ended: what they did may be told afterwards.
    processes: HashMap<Key, Span>,
    /// When this host was booted, by its clock now.
    boot: SystemTime,
}

impl Spans {
    /// Start with that of the run, a part of `parent`.
    pub(super) fn start(tracer: SdkTracer, books: Arc<Books>, parent: &Trace) -> nix::Result<Self> {
        let uptime = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
        let now = SystemTime::now();
        let run = tracer.build_with_context(
            SpanBuilder::from_name("cgfw run").with_start_time(now),
            &parent.context(),
        );
        let spans = Self {
            tracer,
            books,
            run,
            processes: HashMap::new(),
            boot: now.checked_sub(uptime).unwrap_or(now),
        };
        spans.count(&spans.run);
        Ok(spans)
    }

    /// That of the run.
    pub(super) fn trace(&self) -> Trace {
        Trace(self.run.span_context().clone())
    }

    /// Enter what `line` tells. Returns the span that it is a part of.
    pub(super) fn follow(&mut self, line: &Line) -> SpanContext {
        match &line.event {
            Event::RunStart(start) => self.run.set_attributes(described(&line.run, start)),
            Event::RunEnd(end) => self.end(line.time, end),
            Event::Dns(dns) => return self.lookup(line.time, dns),
            Event::Unanswered(unanswered) => return self.wait(line.time, unanswered),
            Event::Connect(contact) | Event::Packet(contact) => {
                return self.of(contact.process.as_ref());
            }
            Event::Delegation(delegation) => return self.of(delegation.process.as_ref()),
            Event::Traffic(traffic) => return self.of(traffic.process.as_ref()),
            Event::Moved(moved) => return self.of(Some(&moved.process)),
            Event::Exit(exit) => return self.exit(line.time, exit),
            Event::Policy(_) | Event::Loss(_) | Event::Unknown => {}
        }
        self.run.span_context().clone()
    }

    /// The span of a process, made together with those of its ancestors if need be.
    fn of(&mut self, actor: Option<&Actor>) -> SpanContext {
        let mut context = self.run.span_context().clone();
        let Some(actor) = actor else {
            return context;
        };
        for ancestor in &actor.ancestors {
            context = self.process(&Process::from(ancestor), &context);
        }
        self.process(&Process::from(actor), &context)
    }

    fn process(&mut self, process: &Process<'_>, parent: &SpanContext) -> SpanContext {
        if let Some(span) = self.processes.get(&process.key) {
            return span.span_context().clone();
        }
        if process.key.1 == 0 || self.processes.len() >= PROCESSES {
            return parent.clone();
        }
        let started = self.boot + Duration::from_nanos(process.key.1);
        let builder = SpanBuilder::from_name(process.name())
            .with_start_time(started)
            .with_attributes(process.attributes());
        let span = self.make(builder, parent);
        let context = span.span_context().clone();
        self.processes.insert(process.key, span);
        context
    }

    fn exit(&mut self, time: SystemTime, exit: &Exit) -> SpanContext {
        let context = self.of(Some(&exit.process));
        let process = Process::from(&exit.process);
        let Some(span) = self.processes.get_mut(&process.key) else {
            return context;
        };
        // It may have executed something else since it was seen first.
        span.update_name(process.name());
        span.set_attributes(process.attributes());
        if let Some(status) = exit.status {
            span.set_attribute(KeyValue::new("process.exit.code", i64::from(status)));
        }
        let error = match (exit.status, exit.signal) {
            (Some(0), _) | (None, None) => None,
            (Some(status), _) => Some(status.to_string()),
            (None, Some(signal)) => Some(signal_name(signal)),
        };
        if let Some(error) = error {
            span.set_attribute(KeyValue::new("error.type", error));
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(time);
        context
    }

    /// `time` is when it was asked.
    fn lookup(&mut self, time: SystemTime, dns: &Dns) -> SpanContext {
        let parent = self.of(dns.process.as_ref());
        let name = dns.act.qname.as_ref().map(ToString::to_string);
        let name = name.unwrap_or_default();
        let answers = dns.answers.iter().map(ToString::to_string);
        let mut attributes = vec![
            KeyValue::new("dns.question.name", name.clone()),
            KeyValue::new("dns.answers", strings(answers)),
            KeyValue::new("cgfw.qtype", dns.qtype.clone()),
            KeyValue::new("cgfw.rcode", dns.rcode.clone()),
            KeyValue::new("cgfw.verdict", word(dns.act.verdict)),
        ];
        let is_blocked = dns.act.verdict == Verdict::Blocked;
        if is_blocked || dns.rcode != "NOERROR" {
            let error = if is_blocked { "blocked" } else { &dns.rcode };
            attributes.push(KeyValue::new("error.type", error.to_owned()));
        }
        let builder = SpanBuilder::from_name(format!("DNS lookup {name}"))
            .with_kind(SpanKind::Client)
            .with_start_time(time)
            .with_attributes(attributes);
        let mut span = self.make(builder, &parent);
        if is_blocked {
            let rule = dns.act.rule.clone();
            span.set_status(Status::error(rule.unwrap_or_else(|| "blocked".to_owned())));
        }
        span.end_with_timestamp(time + Duration::from_micros(dns.latency_us));
        span.span_context().clone()
    }

    /// `time` is when it was given up.
    fn wait(&mut self, time: SystemTime, unanswered: &Unanswered) -> SpanContext {
        let parent = self.of(unanswered.process.as_ref());
        let to = &unanswered.to;
        let waited = Duration::from_micros(unanswered.waited_us);
        let name = unanswered.qname.as_ref();
        let attributes = [
            KeyValue::new("network.peer.address", to.ip.to_string()),
            KeyValue::new("network.peer.port", i64::from(to.port)),
            KeyValue::new("network.transport", to.proto.clone()),
            KeyValue::new("error.type", "unanswered"),
        ];
        let name = name.map(|name| KeyValue::new("server.address", name.to_string()));
        let builder = SpanBuilder::from_name("socket connect")
            .with_kind(SpanKind::Client)
            .with_start_time(time.checked_sub(waited).unwrap_or(time))
            .with_attributes(attributes.into_iter().chain(name));
        let mut span = self.make(builder, &parent);
        span.set_status(Status::error("nobody answered"));
        span.end_with_timestamp(time);
        span.span_context().clone()
    }

    fn end(&mut self, time: SystemTime, end: &RunEnd) {
        for (_, mut span) in self.processes.drain() {
            // What has no line of its end was killed with the cgroup, or let go.
            span.end_with_timestamp(time);
        }
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.run.set_attributes([
            KeyValue::new("process.exit.code", i64::from(end.exit_code)),
            KeyValue::new("cgfw.lookups", number(end.lookups)),
            KeyValue::new("cgfw.contacts", number(end.contacts)),
            KeyValue::new("cgfw.blocked", number(end.blocked)),
            KeyValue::new("cgfw.lost", number(end.lost)),
            KeyValue::new("cgfw.max_rss", number(end.max_rss)),
        ]);
        if end.exit_code != 0 {
            let code = end.exit_code.to_string();
            self.run.set_attribute(KeyValue::new("error.type", code));
        }
        if end.blocked > 0 {
            let count = end.blocked;
            self.run
                .set_status(Status::error(format!("{count} blocked")));
        } else if end.exit_code != 0 {
            let code = end.exit_code;
            self.run
                .set_status(Status::error(format!("exit code {code}")));
        }
        self.run.end_with_timestamp(time);
    }

    fn make(&self, builder: SpanBuilder, parent: &SpanContext) -> Span {
        let context = Context::new().with_remote_span_context(parent.clone());
        let span = self.tracer.build_with_context(builder, &context);
        self.count(&span);
        span
    }

    /// What the sampler leaves out is not missed.
    fn count(&self, span: &Span) {
        if span.is_recording() {
            self.books.spans.make();
        }
    }
}

fn described(run: &str, start: &RunStart) -> Vec<KeyValue> {
    let mode = match start.mode {
        crate::audit::Mode::Enforce => "enforce",
        crate::audit::Mode::Audit => "audit",
        crate::audit::Mode::BreakGlass => "break_glass",
    };
    vec![
        KeyValue::new("process.command_args", strings(start.argv.iter().cloned())),
        KeyValue::new("process.real_user.id", i64::from(start.uid)),
        KeyValue::new("cgfw.run", run.to_owned()),
        KeyValue::new("cgfw.mode", mode),
        KeyValue::new("cgfw.policy_digest", start.policy_digest.clone()),
        KeyValue::new("cgfw.rules", strings(start.rules.iter().cloned())),
        KeyValue::new("cgfw.kernel", start.kernel.clone()),
    ]
}

/// What is told of a process, whether it acted or only started who did.
struct Process<'l> {
    key: Key,
    comm: &'l str,
    exe: Option<&'l str>,
    script: Option<&'l str>,
    argv: &'l [String],
}

impl<'l> From<&'l Actor> for Process<'l> {
    fn from(actor: &'l Actor) -> Self {
        Self {
            key: (actor.pid, actor.started),
            comm: &actor.comm,
            exe: actor.exe.as_deref(),
            script: actor.script.as_deref(),
            argv: &actor.argv,
        }
    }
}

impl<'l> From<&'l Ancestor> for Process<'l> {
    fn from(ancestor: &'l Ancestor) -> Self {
        Self {
            key: (ancestor.pid, ancestor.started),
            comm: &ancestor.comm,
            exe: ancestor.exe.as_deref(),
            script: ancestor.script.as_deref(),
            argv: &ancestor.argv,
        }
    }
}

impl Process<'_> {
    /// That of the script or the executable, as the conventions for CLI programs have it.
    fn name(&self) -> String {
        let path = self.script.or(self.exe);
        let name = path.and_then(|path| Path::new(path).file_name()?.to_str());
        name.unwrap_or(self.comm).to_owned()
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("process.pid", i64::from(self.key.0)),
            KeyValue::new("process.executable.name", self.name()),
            KeyValue::new("process.command_args", strings(self.argv.iter().cloned())),
        ];
        if let Some(exe) = self.exe {
            attributes.push(KeyValue::new("process.executable.path", exe.to_owned()));
        }
        attributes
    }
}

fn strings(texts: impl Iterator<Item = String>) -> Value {
    Value::Array(texts.map(StringValue::from).collect::<Vec<_>>().into())
}

fn signal_name(signal: u8) -> String {
    let known = Signal::try_from(i32::from(signal));
    known.map_or_else(
        |_unknown| format!("signal {signal}"),
        |known| known.to_string(),
    )
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Blocked => "blocked",
        Verdict::WouldBlock => "would_block",
    }
}
