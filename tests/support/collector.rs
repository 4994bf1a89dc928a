/*!
A collector of OpenTelemetry, which keeps what it gets: OTLP over HTTP, as protobuf.
*/

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::namespace::Namespaces;

/// What the collector does with a request.
#[derive(Clone, Copy)]
pub enum Manner {
    /// Takes it, after a while.
    Takes(Duration),
    /// Answers with this status.
    Answers(u16),
    /// Never answers.
    Hangs,
}

/// Listens on the loopback of a client machine. Its threads end with the test process.
pub struct Collector {
    address: SocketAddr,
    got: Arc<Mutex<Got>>,
}

/// What arrived.
#[derive(Clone, Default)]
pub struct Got {
    pub spans: Vec<Span>,
    pub records: Vec<LogRecord>,
    pub resources: Vec<Resource>,
    /// The headers of each request, with their names in lower case.
    pub headers: Vec<BTreeMap<String, String>>,
}

impl Collector {
    pub fn start(client: &Namespaces, manner: Manner) -> Self {
        let listener = client.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(Got::default()));
        let shared = Arc::clone(&got);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, got) = (stream.unwrap(), Arc::clone(&shared));
                // A client may hang up at any time.
                thread::spawn(move || serve(stream, manner, &got));
            }
        });
        Self { address, got }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn got(&self) -> Got {
        self.got.lock().unwrap().clone()
    }
}

impl Got {
    /// The one span of that name.
    #[track_caller]
    pub fn span(&self, name: &str) -> &Span {
        let mut found = self.spans.iter().filter(|span| span.name == name);
        let names: Vec<&str> = self.spans.iter().map(|span| &*span.name).collect();
        let span = found.next();
        let span = span.unwrap_or_else(|| panic!("{name} is not in {names:?}"));
        assert!(found.next().is_none(), "{name} is there twice: {names:?}");
        span
    }

    /// The records of that event.
    pub fn records(&self, event: &str) -> Vec<&LogRecord> {
        let records = self.records.iter();
        records
            .filter(|record| record.event_name == event)
            .collect()
    }
}

/// An attribute as text.
pub fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(shown(attribute.value.as_ref()?))
}

fn shown(value: &AnyValue) -> String {
    match value.value.as_ref() {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::ArrayValue(values)) => {
            let values: Vec<String> = values.values.iter().map(shown).collect();
            values.join(" ")
        }
        other => format!("{other:?}"),
    }
}

fn serve(stream: TcpStream, manner: Manner, got: &Mutex<Got>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let headers = headers(&mut reader)?;
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        reader.read_exact(&mut body)?;
        let status = match manner {
            Manner::Takes(while_) => {
                thread::sleep(while_);
                keep(&path, headers, &body, &mut got.lock().unwrap());
                200
            }
            Manner::Answers(status) => status,
            Manner::Hangs => loop {
                thread::park();
            },
        };
        let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n");
        reader.get_mut().write_all(answer.as_bytes())?;
    }
}

fn headers(reader: &mut BufReader<TcpStream>) -> io::Result<BTreeMap<String, String>> {
    let mut headers = BTreeMap::new();
    for line in reader.lines() {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(headers)
}

fn keep(path: &str, headers: BTreeMap<String, String>, body: &[u8], got: &mut Got) {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    got.headers.push(headers);
    match path {
        "/v1/traces" => {
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            for of_resource in request.resource_spans {
                got.resources.extend(of_resource.resource);
                let scopes = of_resource.scope_spans.into_iter();
                got.spans.extend(scopes.flat_map(|scope| scope.spans));
            }
        }
        "/v1/logs" => {
            let request = ExportLogsServiceRequest::decode(body).unwrap();
            for of_resource in request.resource_logs {
                got.resources.extend(of_resource.resource);
                let scopes = of_resource.scope_logs.into_iter();
                got.records
                    .extend(scopes.flat_map(|scope| scope.log_records));
            }
        }
        other => panic!("nothing is collected at {other}"),
    }
}
