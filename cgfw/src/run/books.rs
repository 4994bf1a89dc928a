//! What was observed, from where it arrives to the ledger and the report.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::Context as _;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::inquiry::Inquiry;
use crate::bpf::Acts;
use crate::cgroup::Members;
use crate::dns::Emit;
use crate::event::{Event, Fact, Verdict};
use crate::ledger::{Entry, Ledger};
use crate::report::Report;
use crate::watch;

/// Events of the proxy that wait to be entered; more are counted as lost.
const QUEUE: usize = 1 << 14;

/// Records of the kernel that are entered in one go. The proxy answers in between, so that a
/// child which makes records faster than they are entered does not keep it from that.
const BATCH: usize = 64;
/// More batches than the ring has room for.
const LAST_BATCHES: usize = 1 << 10;

/// Reads the kernel's records and the proxy's events, and keeps the ledger.
pub(super) struct Books {
    acts: AsyncFd<Acts>,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    events: mpsc::Receiver<Event>,
    /// Events that found no room in `events`.
    overflow: Arc<AtomicU64>,
    pub(super) ledger: Ledger,
    pub(super) report: Report,
    inquiry: Inquiry,
    /// Whether anything was refused, or would have been.
    pub(super) refused: bool,
    /// Whether the kernel may have more records than were entered.
    behind: bool,
}

impl Books {
    /// Open the books; the closure is where the proxy sends its events. Needs a tokio
    /// runtime.
    pub(super) fn open(
        acts: Acts,
        log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
        ledger: Ledger,
        report: Report,
        members: Members,
    ) -> io::Result<(Self, Emit)> {
        let (sender, events) = mpsc::channel(QUEUE);
        let overflow = Arc::new(AtomicU64::new(0));
        let books = Self {
            acts: watch::readable(acts)?,
            log,
            events,
            overflow: Arc::clone(&overflow),
            ledger,
            report,
            inquiry: Inquiry::new(members)?,
            refused: false,
            behind: false,
        };
        // The proxy must never wait for the books.
        let emit = move |event| {
            if sender.try_send(event).is_err() {
                overflow.fetch_add(1, Ordering::Relaxed);
            }
        };
        Ok((books, Box::new(emit)))
    }

    /// Wait for something that should not wait for the next tick, and enter it.
    pub(super) async fn next(&mut self) -> anyhow::Result<()> {
        if self.behind {
            tokio::task::yield_now().await;
            self.enter(None);
            return Ok(());
        }
        tokio::select! {
            event = self.events.recv() => self.enter(event),
            ready = self.acts.readable() => {
                ready.context("cannot watch the kernel's records")?.clear_ready();
                self.enter(None);
            }
        }
        Ok(())
    }

    /// Enter what waits: first all that the proxy has said, because names explain addresses,
    /// then a batch of what the kernel has.
    pub(super) fn enter(&mut self, first: Option<Event>) {
        let mut event = first.or_else(|| self.events.try_recv().ok());
        while let Some(next) = event {
            self.record(next);
            event = self.events.try_recv().ok();
        }
        self.behind = (0..BATCH).all(|_| {
            let act = self.acts.get_mut().read();
            act.map(|event| self.record(event)).is_some()
        });
        while let Some(event) = self.inquiry.found(&mut self.report) {
            self.record_complete(event);
        }
        self.inquiry.settle(&mut self.report);
        let overflow = self.overflow.swap(0, Ordering::Relaxed);
        if overflow > 0 {
            self.record(Event {
                time: SystemTime::now(),
                fact: Fact::Lost(overflow),
            });
        }
        match self.acts.get_mut().loss() {
            Ok(loss) => loss.into_iter().for_each(|event| self.record(event)),
            Err(error) => self
                .report
                .error(&format!("cannot read what was lost: {error}")),
        }
        // A question may have been asked by who is in a record that was not read yet.
        if !self.behind {
            for entry in self.ledger.settle(SystemTime::now()) {
                self.tell(&entry);
            }
        }
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Processes that leave the cgroup from now on are meant to.
    pub(super) fn release(&mut self) {
        self.enter(None);
        self.inquiry.release();
    }

    /// Enter all that there is by now.
    pub(super) fn enter_all(&mut self) {
        for _ in 0..LAST_BATCHES {
            self.enter(None);
            if !self.behind {
                break;
            }
        }
    }

    /// When nothing runs any more: the last records, the kernel's sums of what was
    /// repeated and of what connections carried, and questions nobody will claim.
    pub(super) fn enter_the_rest(&mut self) {
        self.report.wait_for_the_log();
        self.enter_all();
        for event in self.inquiry.finish(&mut self.report) {
            self.record_complete(event);
        }
        let acts = self.acts.get_ref();
        let sums: Vec<Event> = acts.repeats().chain(acts.ended()).collect();
        for event in sums {
            self.record(event);
        }
        for entry in self.ledger.finish() {
            self.tell(&entry);
        }
    }

    fn record(&mut self, event: Event) {
        if let Some(place) = self.inquiry.place(&event, &self.ledger) {
            self.record_complete(place);
        }
        if let Some(event) = self.inquiry.complete(event, &mut self.report) {
            self.record_complete(event);
        }
    }

    fn record_complete(&mut self, event: Event) {
        for entry in self.ledger.record(event) {
            self.tell(&entry);
        }
    }

    fn tell(&mut self, entry: &Entry) {
        if let Entry::Observed(observation) = entry {
            self.refused |= observation.verdict != Verdict::Allowed;
        }
        self.report.tell(entry);
    }
}
