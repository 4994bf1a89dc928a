//! What was made, what arrived, and why the rest did not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) records: Count,
    pub(super) spans: Count,
    /// The last failure.
    failure: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
pub(super) struct Count {
    made: AtomicU64,
    arrived: AtomicU64,
}

impl Books {
    pub(super) fn fail(&self, reason: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Count {
    pub(super) fn make(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    pub(super) fn lost(&self) -> u64 {
        let arrived = self.arrived.load(Ordering::Relaxed);
        self.made().saturating_sub(arrived)
    }

    fn enter(&self, exported: &OTelSdkResult, count: usize) {
        if exported.is_ok() {
            self.arrived.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

/// An exporter, with what it delivers entered in the books.
#[derive(Debug)]
pub(super) struct Counted<E> {
    pub(super) exporter: E,
    pub(super) books: Arc<Books>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let exported = self.exporter.export(batch).await;
        self.books.spans.enter(&exported, count);
        exported
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let count = batch.iter().count();
        let exported = self.exporter.export(batch).await;
        self.books.records.enter(&exported, count);
        exported
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
