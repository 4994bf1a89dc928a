//! Which trace this run is part of: W3C Trace Context in environment variables, as
//! OpenTelemetry has it ("Environment Variables as Context Propagation Carriers").

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// What is passed on, in HTTP's spelling, and the variable that it is passed in.
const CARRIER: [(&str, &str); 2] = [("traceparent", "TRACEPARENT"), ("tracestate", "TRACESTATE")];

/// A span of a trace, if there is one.
#[derive(Clone, Debug)]
pub struct Trace(pub(super) SpanContext);

impl Trace {
    /// What the environment says; nothing if it is not valid.
    pub fn from_environment() -> Self {
        let carried: HashMap<String, String> = CARRIER
            .into_iter()
            .filter_map(|(key, name)| Some((key.to_owned(), std::env::var(name).ok()?)))
            .collect();
        let none = Context::new();
        let context = TraceContextPropagator::new().extract_with_context(&none, &carried);
        Self(context.span().span_context().clone())
    }

    /// The id of the trace, in hexadecimal.
    pub fn id(&self) -> Option<String> {
        self.0.is_valid().then(|| self.0.trace_id().to_string())
    }

    /// What those who are part of it have in their environment.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut carried = HashMap::new();
        TraceContextPropagator::new().inject_context(&self.context(), &mut carried);
        CARRIER
            .into_iter()
            .filter_map(|(key, name)| Some((name, carried.remove(key)?)))
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    /// As the parent of another span.
    pub(super) fn context(&self) -> Context {
        let none = Context::new();
        // What samplers take for a parent that is not sampled.
        if !self.0.is_valid() {
            return none;
        }
        none.with_remote_span_context(self.0.clone())
    }
}
