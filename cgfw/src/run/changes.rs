//! Changes of the policy's files (`--watch`), on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Builder;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;

use super::policy;
use crate::bpf::{Generation, Generations};
use crate::child::{self, Identity};
use crate::policy::{Domain, Given, Policy};
use crate::sources::{self, Origins, Version};

/// How often the files are looked at. By their names: inotify says nothing of network file
/// systems, and of a symbolic link somewhere on the way that leads elsewhere now.
const INTERVAL: Duration = Duration::from_millis(500);
/// After so many looks a policy that was bad is read again although its files are the same: what
/// it lacks may be a file that it names.
const RETRY: u32 = 10;

/// What the files say now.
pub(super) enum Change {
    Policy(Box<Prepared>),
    /// They say nothing that can be put in force, for this reason.
    Bad(String),
}

/// A policy that can be put in force at once.
pub(super) struct Prepared {
    pub(super) policy: Arc<Policy>,
    pub(super) generation: Generation,
    /// As [`sources::Loaded`] has them.
    pub(super) origins: Origins,
    pub(super) notes: Vec<String>,
}

/// Where changes come from.
pub(super) struct Changes {
    changes: mpsc::Receiver<Change>,
    retired: Sender<Outcome>,
}

/// What became of a policy that was prepared, with the generation that is not in force.
pub(super) struct Outcome {
    pub(super) unused: Generation,
    pub(super) replaced: io::Result<()>,
}

/// What a policy is made from.
pub(super) struct Watched {
    pub(super) given: Given,
    /// The files of the policy in force, as they were read.
    pub(super) files: Vec<(PathBuf, Version)>,
    /// With whose rights they are read, if not cgfw's own.
    pub(super) author: Option<Identity>,
    /// As [`crate::dns::system::System`] has it.
    pub(super) search: Vec<Domain>,
}

impl Changes {
    /// Start the thread, which ends by itself.
    pub(super) fn watch(watched: Watched, generations: Generations) -> anyhow::Result<Self> {
        for (path, _) in &watched.files {
            if !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
                bail!(
                    "--watch has to read {} again, which is no regular file",
                    path.display()
                );
            }
        }
        let (to_run, changes) = mpsc::channel(1);
        let (retired, outcomes) = channel();
        let watcher = Watcher {
            watched,
            generations,
            to_run,
            outcomes,
        };
        Builder::new()
            .name("cgfw-policy".to_owned())
            .spawn(move || watcher.work())
            .context("cannot watch the files of the policy")?;
        Ok(Self { changes, retired })
    }

    /// The next change; never, when nobody watches any more.
    pub(super) async fn next(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            None => std::future::pending().await,
        }
    }

    /// Hand back what is not needed any more.
    pub(super) fn settle(&self, outcome: Outcome) {
        // Without the thread nothing is prepared any more, and the run's end frees it.
        let _gone = self.retired.send(outcome);
    }
}

struct Watcher {
    watched: Watched,
    generations: Generations,
    to_run: mpsc::Sender<Change>,
    outcomes: Receiver<Outcome>,
}

/// Files, and which version of each is there.
type Versions = BTreeMap<PathBuf, Option<Version>>;

/// A policy that could not be put in force.
struct Bad {
    versions: Versions,
    error: String,
    /// How often its files were looked at since.
    looks: u32,
}

impl Watcher {
    fn work(mut self) {
        if let Some(author) = &self.watched.author
            && let Err(error) = child::take_file_rights(author)
        {
            self.tell(Change::Bad(format!(
                "cannot take the rights of the user whose files these are: {error}"
            )));
            return;
        }
        let mut last = Versions::new();
        let mut bad: Option<Bad> = None;
        // The run sends nothing here, and ends by hanging up.
        while matches!(
            self.outcomes.recv_timeout(INTERVAL),
            Err(RecvTimeoutError::Timeout)
        ) {
            let now = self.versions();
            // What is being written is not read until it has been left alone.
            let is_stable = std::mem::replace(&mut last, now.clone()) == now;
            if self.is_in_force(&now) {
                bad = None;
            } else if is_stable && is_due(&mut bad, &now) {
                let done = self.put_in_force();
                if self.versions() == now {
                    bad = done.err().map(|error| self.say(bad, now, &error));
                }
            }
        }
    }

    /// What is there under every name that matters.
    fn versions(&self) -> Versions {
        let named = self.watched.given.paths().map(PathBuf::as_path);
        let read = self.watched.files.iter().map(|(path, _)| path.as_path());
        let paths: BTreeSet<&Path> = named.chain(read).collect();
        paths
            .into_iter()
            .map(|path| (path.to_owned(), Version::at(path)))
            .collect()
    }

    fn is_in_force(&self, now: &Versions) -> bool {
        let mut read = self.watched.files.iter();
        read.all(|(path, version)| now.get(path) == Some(&Some(*version)))
    }

    /// Read the files, have the run put in force what they say, and clear up.
    fn put_in_force(&mut self) -> anyhow::Result<()> {
        let loaded = sources::load(&self.watched.given)?;
        let files = loaded.files.clone();
        if files
            .iter()
            .any(|(path, version)| Version::at(path) != Some(*version))
        {
            // They are being written after all.
            return Ok(());
        }
        let (origins, notes) = (loaded.origins.clone(), loaded.notes.clone());
        let policy = Arc::new(policy(loaded, self.watched.search.clone())?);
        let generation = self.generations.make(&policy.networks())?;
        self.tell(Change::Policy(Box::new(Prepared {
            policy,
            generation,
            origins,
            notes,
        })));
        let Ok(outcome) = self.outcomes.recv() else {
            // The run is over.
            return Ok(());
        };
        self.generations
            .retire(outcome.unused)
            .context("cannot take a policy out of the kernel")?;
        outcome.replaced?;
        self.watched.files = files;
        Ok(())
    }

    /// Say what is wrong, once for each version of the files.
    fn say(&self, before: Option<Bad>, versions: Versions, error: &anyhow::Error) -> Bad {
        let error = format!("{error:#}");
        let is_known = before.is_some_and(|bad| bad.versions == versions && bad.error == error);
        if !is_known {
            self.tell(Change::Bad(error.clone()));
        }
        Bad {
            versions,
            error,
            looks: 0,
        }
    }

    fn tell(&self, change: Change) {
        // When the run is over nobody wants to know.
        let _over = self.to_run.blocking_send(change);
    }
}

/// Whether the files are others than those that were bad, or it is time to try them again.
fn is_due(bad: &mut Option<Bad>, now: &Versions) -> bool {
    let Some(bad) = bad else { return true };
    bad.looks += 1;
    bad.versions != *now || bad.looks % RETRY == 0
}
