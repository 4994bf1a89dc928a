//! The search for who listens, on a thread of its own.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::cgroup::Members;
use crate::event::{Event, Fact, Process, Service};
use crate::peers::{Found, Peers};

/// Searches that wait for their turn; further ones are not made. Every program looks for nscd,
/// so that a build which starts thousands has many, each soon done.
const QUEUE: usize = 1 << 13;

/// How long the end of a run waits for searches.
const PATIENCE: Duration = Duration::from_millis(500);

/// Completes delegations, in their order.
///
/// The name of a socket may lead to a file system that hangs, as that of a server which is
/// down: it must not take the proxy, the books and the timeout with it.
pub(super) struct Search {
    questions: Sender<(Process, Service)>,
    answers: Receiver<anyhow::Result<Found>>,
    /// What was asked, the oldest first.
    open: VecDeque<Event>,
}

/// A delegation, and who was found.
pub(super) type Completed = (Event, anyhow::Result<Found>);

impl Search {
    /// Start the thread, which ends by itself.
    pub(super) fn start(members: Members) -> io::Result<Self> {
        let (questions, asked) = channel::<(Process, Service)>();
        let (answer, answers) = channel();
        Builder::new()
            .name("cgfw-peers".to_owned())
            .spawn(move || {
                let mut peers = Peers::default();
                for (process, service) in asked {
                    let found = peers.find(&process, &service, || members.processes());
                    if answer.send(found).is_err() {
                        // The run is over.
                        return;
                    }
                }
            })?;
        Ok(Self {
            questions,
            answers,
            open: VecDeque::new(),
        })
    }

    /// Have a delegation completed, unless there are too many: then it comes back.
    pub(super) fn ask(&mut self, event: Event) -> Option<Event> {
        let Fact::Delegation(delegation) = &event.fact else {
            return Some(event);
        };
        let question = (delegation.process.clone(), delegation.service.clone());
        if self.open.len() >= QUEUE || self.questions.send(question).is_err() {
            return Some(event);
        }
        self.open.push_back(event);
        None
    }

    /// The next one that is complete, if there is one by now.
    pub(super) fn next(&mut self) -> Option<Completed> {
        let found = self.answers.try_recv().ok()?;
        Some((self.open.pop_front()?, found))
    }

    /// All that are open, at the end of the run: those that take too long as they are.
    pub(super) fn finish(&mut self) -> Vec<Completed> {
        let deadline = Instant::now() + PATIENCE;
        let complete = |event| {
            let left = deadline.saturating_duration_since(Instant::now());
            let found = self.answers.recv_timeout(left);
            (event, found.unwrap_or(Ok(Found::Outside(None))))
        };
        std::mem::take(&mut self.open)
            .into_iter()
            .map(complete)
            .collect()
    }
}
