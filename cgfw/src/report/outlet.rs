/*!
Where lines go: a thread of its own for each, so that a full pipe or a slow disk holds
up neither the DNS proxy nor the child. What cannot be written is counted.
*/

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::audit::{Line, encode};

/// Texts that wait for the thread; more are lost. Some megabytes at most.
const QUEUE: usize = 4096;
/// More than any line, so that none is written in part when the disk is full.
const BUFFER: usize = 64 << 10;

/// How long to wait before it is tried again to find room in the queue.
const PAUSE: Duration = Duration::from_millis(1);

/// What an outlet takes.
pub(super) trait Text: Send + 'static {
    /// How many lines it is.
    fn lines(&self) -> u64;

    /// The lines, each with its end. Called by the thread, which has time.
    fn into_octets(self) -> Vec<u8>;
}

impl Text for Vec<u8> {
    fn lines(&self) -> u64 {
        count_lines(self)
    }

    fn into_octets(self) -> Vec<u8> {
        self
    }
}

impl Text for Line {
    fn lines(&self) -> u64 {
        1
    }

    fn into_octets(self) -> Vec<u8> {
        encode(&self)
    }
}

/// A sink for whole lines, which never blocks and never fails.
#[derive(Debug)]
pub(super) struct Outlet<T = Vec<u8>> {
    sender: SyncSender<T>,
    thread: JoinHandle<()>,
    /// Closed by the thread when it is done.
    done: Receiver<()>,
    books: Arc<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// Lines that were accepted and have not been written, nor lost, yet.
    pending: AtomicU64,
    lost: AtomicU64,
    error: Mutex<Option<io::Error>>,
}

/// What became of everything.
#[derive(Debug)]
pub(super) struct Closed {
    /// Lines that were not written.
    pub(super) lost: u64,
    /// The first error, unless it was taken before.
    pub(super) error: Option<io::Error>,
}

impl<T: Text> Outlet<T> {
    /// Start the thread that writes to `sink`. `name` is that of the thread.
    pub(super) fn new(name: &str, sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, texts) = sync_channel(QUEUE);
        let (closing, done) = sync_channel(0);
        let books = Arc::new(Books::default());
        let shared = Arc::clone(&books);
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            pump(&texts, sink, &shared);
            drop(closing);
        })?;
        Ok(Self {
            sender,
            thread,
            done,
            books,
        })
    }

    /// Have `text` written soon.
    pub(super) fn write(&self, text: T) {
        let lines = text.lines();
        self.books.pending.fetch_add(lines, Ordering::Relaxed);
        if self.sender.try_send(text).is_err() {
            self.books.lose(lines);
        }
    }

    /// Have `text` written, if need be after a wait for what is before it: what a flood of
    /// other lines must not cost.
    pub(super) fn write_last(&self, text: T, grace: Duration) {
        let lines = text.lines();
        self.books.pending.fetch_add(lines, Ordering::Relaxed);
        let deadline = Instant::now() + grace;
        let mut unsent = self.sender.try_send(text);
        while let Err(TrySendError::Full(text)) = unsent {
            if Instant::now() >= deadline {
                return self.books.lose(lines);
            }
            sleep(PAUSE);
            unsent = self.sender.try_send(text);
        }
        if unsent.is_err() {
            self.books.lose(lines);
        }
    }

    /// Lines that were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.books.lost.load(Ordering::Relaxed)
    }

    /// The first error, once.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        self.books.take_error()
    }

    /// Write what is left, but do not wait for longer than `grace`.
    pub(super) fn close(self, grace: Duration) -> Closed {
        drop(self.sender);
        let lost = match self.done.recv_timeout(grace) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => match self.thread.join() {
                Ok(()) => 0,
                Err(_panic) => self.books.pending.load(Ordering::Relaxed),
            },
            // The sink hangs; the thread ends with the process.
            Err(RecvTimeoutError::Timeout) => self.books.pending.load(Ordering::Relaxed),
        };
        Closed {
            lost: lost + self.books.lost.load(Ordering::Relaxed),
            error: self.books.take_error(),
        }
    }
}

impl Books {
    fn lose(&self, lines: u64) {
        self.pending.fetch_sub(lines, Ordering::Relaxed);
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    fn fail(&self, error: io::Error) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
    }

    fn take_error(&self) -> Option<io::Error> {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Write all texts, and flush whenever there is no other text to write.
fn pump<T: Text>(texts: &Receiver<T>, sink: impl Write, books: &Books) {
    let mut out = BufWriter::with_capacity(BUFFER, sink);
    let mut buffered = 0;
    while let Ok(text) = texts.recv() {
        let mut next = Some(text);
        while let Some(text) = next {
            let count = text.lines();
            match out.write_all(&text.into_octets()) {
                Ok(()) => buffered += count,
                Err(error) => {
                    books.fail(error);
                    books.lose(count);
                }
            }
            next = texts.try_recv().ok();
        }
        if let Err(error) = out.flush() {
            books.fail(error);
        }
        // After an error the rest stays in the buffer, for the next attempt.
        let left = count_lines(out.buffer());
        books.pending.fetch_sub(buffered - left, Ordering::Relaxed);
        buffered = left;
    }
    books.lose(buffered);
    // Without another attempt.
    drop(out.into_parts());
}

fn count_lines(text: &[u8]) -> u64 {
    text.iter().map(|octet| u64::from(*octet == b'\n')).sum()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::MutexGuard;

    use super::*;

    const GRACE: Duration = Duration::from_secs(20);

    /// A sink that can be looked into, and that can be made to fail.
    #[derive(Clone, Default)]
    pub(in crate::report) struct Shared(Arc<Mutex<Inner>>);

    #[derive(Default)]
    struct Inner {
        text: Vec<u8>,
        room: Option<usize>,
    }

    impl Shared {
        /// Has room for so many octets, as a disk that is about to be full.
        pub(in crate::report) fn with_room(room: usize) -> Self {
            let shared = Self::default();
            shared.inner().room = Some(room);
            shared
        }

        pub(in crate::report) fn text(&self) -> String {
            String::from_utf8(self.inner().text.clone()).unwrap()
        }

        fn inner(&self) -> MutexGuard<'_, Inner> {
            self.0.lock().unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let mut inner = self.inner();
            let room = inner.room.unwrap_or(usize::MAX) - inner.text.len();
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let text = &text[..text.len().min(room)];
            inner.text.extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A pipe that nobody reads.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _ended = self.0.recv();
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_is_written_in_order() {
        let sink = Shared::default();
        let outlet = Outlet::<Vec<u8>>::new("test", sink.clone()).unwrap();
        let mut expected = String::new();
        for n in 0..1000 {
            let line = format!("line {n}\n");
            expected.push_str(&line);
            outlet.write(line.into());
        }
        let closed = outlet.close(GRACE);
        assert_eq!((closed.lost, closed.error.is_none()), (0, true));
        assert_eq!(sink.text(), expected);
    }

    #[test]
    fn a_line_is_written_without_waiting_for_the_end() {
        let sink = Shared::default();
        let outlet = Outlet::<Vec<u8>>::new("test", sink.clone()).unwrap();
        outlet.write(b"now\n".to_vec());
        let patience = Instant::now();
        while sink.text() != "now\n" {
            assert!(patience.elapsed() < GRACE, "it was not flushed");
            std::thread::yield_now();
        }
        assert_eq!(outlet.close(GRACE).lost, 0);
    }

    #[test]
    fn a_full_disk_costs_the_lines_that_did_not_fit_and_no_others() {
        let sink = Shared::with_room(12);
        let outlet = Outlet::<Vec<u8>>::new("test", sink.clone()).unwrap();
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            outlet.write(line.into());
        }
        let closed = outlet.close(GRACE);
        assert_eq!(sink.text(), "one\ntwo\nthre");
        assert_eq!(closed.lost, 2);
        assert_eq!(closed.error.unwrap().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_sink_that_hangs_holds_nobody_up() {
        let (release, hold) = sync_channel(0);
        let outlet = Outlet::new("test", Stuck(hold)).unwrap();
        // What fits into the buffer and the queue, and more.
        let texts = u64::try_from(BUFFER / b"line\n".len() + QUEUE + 100).unwrap();
        for _ in 0..texts {
            outlet.write(b"line\n".to_vec());
        }
        assert!(outlet.lost() > 0, "the queue is bounded");
        let closed = outlet.close(Duration::from_millis(10));
        assert_eq!(closed.lost, texts, "none was written");
        drop(release);
    }

    #[test]
    fn the_last_text_waits_for_room_and_not_for_ever() {
        let (release, hold) = sync_channel(0);
        let outlet = Outlet::new("test", Stuck(hold)).unwrap();
        let patience = Instant::now();
        let lost = loop {
            // The thread may still be making room, until it is stuck.
            let before = outlet.lost();
            while outlet.lost() == before {
                outlet.write(b"line\n".to_vec());
            }
            let lost = outlet.lost();
            outlet.write_last(b"in vain\n".to_vec(), Duration::from_millis(10));
            if outlet.lost() == lost + 1 {
                break outlet.lost();
            }
            assert!(patience.elapsed() < GRACE, "there always is room");
        };
        drop(release);
        outlet.write_last(b"last\n".to_vec(), GRACE);
        assert_eq!(outlet.close(GRACE).lost, lost);
    }

    #[test]
    fn an_error_is_reported_once() {
        let outlet = Outlet::new("test", Shared::with_room(0)).unwrap();
        outlet.write(b"line\n".to_vec());
        let patience = Instant::now();
        let error = loop {
            if let Some(error) = outlet.take_error() {
                break error;
            }
            assert!(patience.elapsed() < GRACE, "no error arrived");
            std::thread::yield_now();
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let closed = outlet.close(GRACE);
        assert_eq!(closed.lost, 1);
    }
}
