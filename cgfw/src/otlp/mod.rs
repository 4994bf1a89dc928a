/*!
The run for OpenTelemetry: a trace, and the lines of the audit log as its log records.

Lines are handed to a thread, which makes spans and records of them; the SDK's own threads send
those in batches. Nobody waits for any of them but the end of the run, and that not for long.
What does not arrive is counted.
*/

mod books;
mod context;
mod endpoint;
mod http;
mod records;
mod spans;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, scope};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::logs::{Logger as _, LoggerProvider as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    LogExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{self, BatchLogProcessor, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::trace::{self, BatchSpanProcessor, SdkTracerProvider};

use self::books::{Books, Counted};
pub use self::context::Trace;
use self::endpoint::Signal;
use self::http::Http;
use self::spans::Spans;
use crate::audit::{Follower, Line};

/// Lines that wait for the thread, and of what it makes of them so many of each kind for the
/// collector, unless a variable says otherwise; more are lost. The SDK's 2048 are less than what
/// a script does in the second until they are sent.
const QUEUE: usize = 1 << 14;

/// How long the end of a run waits for what is on its way.
const GRACE: Duration = Duration::from_secs(3);

/// Where the run is sent to, before it starts.
#[derive(Debug)]
pub struct Exporter {
    endpoint: String,
    traces: SdkTracerProvider,
    logs: SdkLoggerProvider,
    books: Arc<Books>,
}

/// Takes the lines of a run.
struct Telemetry {
    endpoint: String,
    lines: SyncSender<Line>,
    /// Closed by the thread when it is done.
    done: Receiver<()>,
    books: Arc<Books>,
}

/// Open what `--otlp-endpoint` or the variables of OpenTelemetry ask for; `None` if that is
/// nothing.
///
/// # Errors
///
/// If they ask for what cannot be done.
pub fn open(option: Option<&str>, host: &str) -> anyhow::Result<Option<Exporter>> {
    let traces = Signal::Traces.endpoint(option)?;
    let logs = Signal::Logs.endpoint(option)?;
    let Some(endpoint) = traces.clone().or_else(|| logs.clone()) else {
        return Ok(None);
    };
    if endpoint::is_disabled()? {
        return Ok(None);
    }
    let resource = resource(host);
    let books = Arc::new(Books::default());
    Ok(Some(Exporter {
        endpoint,
        traces: tracer_provider(traces, resource.clone(), &books)?,
        logs: logger_provider(logs, resource, &books)?,
        books,
    }))
}

/// Who is speaking, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say it.
fn resource(host: &str) -> Resource {
    let own = |key: &'static str, value: &str| {
        let said = Resource::builder().build().get(&key.into());
        let said = said.filter(|value| !value.as_str().starts_with("unknown_service"));
        KeyValue::new(key, said.unwrap_or_else(|| value.to_owned().into()))
    };
    Resource::builder()
        .with_attributes([
            own("service.name", "cgfw"),
            own("service.version", env!("CARGO_PKG_VERSION")),
            own("host.name", host),
        ])
        .build()
}

fn tracer_provider(
    endpoint: Option<String>,
    resource: Resource,
    books: &Arc<Books>,
) -> anyhow::Result<SdkTracerProvider> {
    let provider = SdkTracerProvider::builder().with_resource(resource);
    let Some(endpoint) = endpoint else {
        return Ok(provider.build());
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Http::new(Signal::Traces.timeout()?, Arc::clone(books)))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .build()
        .context("cannot send traces")?;
    let books = Arc::clone(books);
    let exporter = Counted { exporter, books };
    let mut batches = trace::BatchConfigBuilder::default();
    if !Signal::Traces.has_queue_size()? {
        batches = batches.with_max_queue_size(QUEUE);
    }
    let processor = BatchSpanProcessor::builder(exporter);
    let processor = processor.with_batch_config(batches.build()).build();
    Ok(provider.with_span_processor(processor).build())
}

fn logger_provider(
    endpoint: Option<String>,
    resource: Resource,
    books: &Arc<Books>,
) -> anyhow::Result<SdkLoggerProvider> {
    let provider = SdkLoggerProvider::builder().with_resource(resource);
    let Some(endpoint) = endpoint else {
        return Ok(provider.build());
    };
    let exporter = LogExporter::builder()
        .with_http()
        .with_http_client(Http::new(Signal::Logs.timeout()?, Arc::clone(books)))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .build()
        .context("cannot send logs")?;
    let books = Arc::clone(books);
    let exporter = Counted { exporter, books };
    let mut batches = logs::BatchConfigBuilder::default();
    if !Signal::Logs.has_queue_size()? {
        batches = batches.with_max_queue_size(QUEUE);
    }
    let processor = BatchLogProcessor::builder(exporter);
    let processor = processor.with_batch_config(batches.build()).build();
    Ok(provider.with_log_processor(processor).build())
}

impl Exporter {
    /// Start the span of the run, as a part of `parent`, and the thread that follows the run.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started, or the clock cannot be read.
    pub fn start(self, parent: &Trace) -> io::Result<(Trace, Box<dyn Follower>)> {
        let tracer = self.traces.tracer("cgfw");
        let spans = Spans::start(tracer, Arc::clone(&self.books), parent)?;
        let trace = spans.trace();
        let (sender, lines) = sync_channel(QUEUE);
        let (closing, done) = sync_channel(0);
        Builder::new().name("cgfw-otlp".to_owned()).spawn({
            let (traces, logs) = (self.traces, self.logs);
            move || {
                make(&lines, spans, &logs.logger("cgfw"));
                deliver(&traces, &logs);
                drop(closing);
            }
        })?;
        let telemetry = Telemetry {
            endpoint: self.endpoint,
            lines: sender,
            done,
            books: self.books,
        };
        Ok((trace, Box::new(telemetry)))
    }
}

/// Make spans and records of all lines.
fn make(lines: &Receiver<Line>, mut spans: Spans, logger: &SdkLogger) {
    for line in lines {
        let span = spans.follow(&line);
        let mut record = logger.create_log_record();
        records::fill(&mut record, &line, &span);
        logger.emit(record);
    }
}

/// Send what is left, both kinds at once.
fn deliver(traces: &SdkTracerProvider, logs: &SdkLoggerProvider) {
    // What did not arrive is in the books.
    scope(|scope| {
        scope.spawn(|| traces.shutdown_with_timeout(GRACE));
        let _counted = logs.shutdown_with_timeout(GRACE);
    });
}

impl Follower for Telemetry {
    fn follow(&mut self, line: Line) {
        self.books.records.make();
        // What finds no room is made and does not arrive.
        let _counted = self.lines.try_send(line);
    }

    fn finish(self: Box<Self>) -> Option<String> {
        let Self {
            endpoint,
            lines,
            done,
            books,
        } = *self;
        drop(lines);
        // Either way the books say what became of it.
        let _counted = done.recv_timeout(GRACE);
        let lost = books.records.lost() + books.spans.lost();
        let made = books.records.made() + books.spans.made();
        let reason = books.failure();
        let reason = reason.unwrap_or_else(|| "it is too slow".to_owned());
        (lost > 0).then(|| {
            format!("{lost} of {made} spans and log records did not get to {endpoint}: {reason}")
        })
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
