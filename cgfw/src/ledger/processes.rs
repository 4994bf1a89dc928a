//! Who is who: what each process has executed, from whom it comes, and how it ended.
//!
//! What the kernel side says of forks, execs and ends is in the order in which they happened,
//! and so are the acts between them. What was lost of it leaves gaps, and nothing is put into
//! them.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use super::recent::Recent;
use crate::event::{Directory, Process, ProcessId, Status};

/// Processes that are there at the same time.
const LIVING: usize = 1 << 14;
/// Processes that have ended, for acts which took their time to be completed.
const ENDED: usize = 1 << 12;
/// Directories whose paths are remembered.
const DIRECTORIES: usize = 1 << 10;
/// Processes that are remembered as they were at their last act.
const SEEN: usize = 1024;
/// In the chain of a process. Of a longer one the first is left, and those that are nearest.
const MAX_ANCESTORS: usize = 64;
/// What all that was executed may take, in octets. What there is no room for is unknown.
const MAX_OCTETS: usize = 32 << 20;

/// The processes that led to one, the wrapped command first and the one that forked it last;
/// each as it was when it forked the next one. Empty for the wrapped command itself, and where
/// they are not known.
pub type Ancestors = Arc<[Arc<Process>]>;

/// A process that acted.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) process: Arc<Process>,
    pub(super) ancestors: Ancestors,
}

/// The end of a process.
#[derive(Clone, Debug)]
pub struct Exit {
    pub time: SystemTime,
    /// As it was at its end.
    pub process: Arc<Process>,
    pub status: Status,
    /// How long it existed.
    pub age: Duration,
}

#[derive(Clone, Copy, Debug)]
struct End {
    time: SystemTime,
    status: Status,
    age: Duration,
}

/// What is known of a process.
#[derive(Debug, Default)]
struct Known {
    /// What it executed last, or who it is a copy of.
    image: Option<Arc<Process>>,
    ancestors: Option<Ancestors>,
    /// What its children have for ancestors, as long as it executes nothing else.
    heritage: Option<Ancestors>,
    /// Whether it acted, or one that comes from it.
    acted: bool,
    end: Option<End>,
}

/// All processes of a run.
#[derive(Debug)]
pub(super) struct Processes {
    living: Recent<ProcessId, Known>,
    ended: Recent<ProcessId, Known>,
    directories: Recent<Directory, Arc<[u8]>>,
    seen: Recent<ProcessId, Arc<Process>>,
    room: Room,
    /// Whether the wrapped command has been executed.
    begun: bool,
    /// Ends that are to be told.
    exits: Vec<Exit>,
}

impl Processes {
    pub(super) fn new() -> Self {
        Self {
            living: Recent::new(LIVING),
            ended: Recent::new(ENDED),
            directories: Recent::new(DIRECTORIES),
            seen: Recent::new(SEEN),
            room: Room::default(),
            begun: false,
            exits: Vec::new(),
        }
    }

    pub(super) fn forked(&mut self, parent: ProcessId, child: ProcessId) {
        let known = match self.living.get_mut(&parent) {
            Some(known) => Known {
                image: known.image.clone(),
                ancestors: known.heritage(parent, &mut self.room),
                ..Known::default()
            },
            // cgfw itself, or a gap.
            None => Known::default(),
        };
        self.living.insert(child, known);
    }

    pub(super) fn executed(&mut self, process: Process) {
        self.found(process.directory, &process.cwd);
        let id = process.id();
        let mut known = self.living.remove(&id).unwrap_or_default();
        // Nothing else is executed before the command is.
        if !std::mem::replace(&mut self.begun, true) {
            known.ancestors = Some(Ancestors::default());
        }
        known.image = self.room.take(process);
        known.heritage = None;
        self.living.insert(id, known);
    }

    pub(super) fn exited(&mut self, id: ProcessId, end: (SystemTime, Status, Duration)) {
        // Two threads that end at the same time are both the last one, before 6.16.
        let Some(mut known) = self.living.remove(&id) else {
            return;
        };
        let (time, status, age) = end;
        known.end = Some(End { time, status, age });
        if known.acted {
            let process = known.itself(id, &mut self.room);
            self.tell(id, process, &known);
        }
        self.ended.insert(id, known);
    }

    /// A directory has this path.
    pub(super) fn found(&mut self, directory: Directory, path: &[u8]) {
        if directory != Directory::default() && !path.is_empty() {
            self.directories.insert(directory, path.into());
        }
    }

    /// Whether the path of a directory is known.
    pub(super) fn knows(&self, directory: &Directory) -> bool {
        self.directories.get(directory).is_some()
    }

    /// The process with all that is known of it, and where it comes from; `None` if it is
    /// not known who acted.
    pub(super) fn acted(&mut self, mut process: Process) -> Option<Who> {
        let id = process.id();
        if id.pid == 0 {
            return None;
        }
        let known = self.living.get(&id).or_else(|| self.ended.get(&id));
        if let Some(image) = known.and_then(|known| known.image.as_deref()) {
            complete(&mut process, image);
        }
        if let Some(path) = self.directories.get(&process.directory) {
            process.cwd = path.to_vec();
        }
        let ancestors = known.and_then(|known| known.ancestors.clone());
        let ancestors = ancestors.unwrap_or_default();
        let process = self.shared(process);
        self.mark(id, &ancestors);
        Some(Who { process, ancestors })
    }

    /// The ends that have become of interest since the last call: of processes that acted, and
    /// of those that they come from.
    pub(super) fn exits(&mut self) -> impl Iterator<Item = Exit> {
        self.exits.drain(..)
    }

    /// The process as it was seen before, if nothing about it has changed.
    fn shared(&mut self, process: Process) -> Arc<Process> {
        let id = process.id();
        if let Some(known) = self.seen.get(&id)
            && **known == process
        {
            return Arc::clone(known);
        }
        let process = Arc::new(process);
        self.seen.insert(id, Arc::clone(&process));
        process
    }

    /// Note that a process acted, and so whose ends are of interest.
    fn mark(&mut self, actor: ProcessId, ancestors: &Ancestors) {
        let above = ancestors.iter().rev().map(|process| process.id());
        for id in std::iter::once(actor).chain(above) {
            if let Some(known) = self.living.get_mut(&id) {
                if std::mem::replace(&mut known.acted, true) {
                    // Nor are there any news above it.
                    return;
                }
            } else if let Some(known) = self.ended.get_mut(&id)
                && !std::mem::replace(&mut known.acted, true)
            {
                let (process, known) = (known.itself(id, &mut self.room), std::mem::take(known));
                self.tell(id, process, &known);
                self.ended.insert(id, known);
            }
        }
    }

    fn tell(&mut self, id: ProcessId, process: Option<Arc<Process>>, known: &Known) {
        let process = process.or_else(|| self.seen.get(&id).cloned());
        if let (Some(process), Some(end)) = (process, known.end) {
            self.exits.push(Exit {
                time: end.time,
                process,
                status: end.status,
                age: end.age,
            });
        }
    }
}

impl Known {
    /// The process as it is outside of its acts.
    fn itself(&self, id: ProcessId, room: &mut Room) -> Option<Arc<Process>> {
        let image = self.image.as_ref()?;
        if image.id() == id {
            return Some(Arc::clone(image));
        }
        let parent = self.ancestors.as_ref().and_then(|all| all.last());
        room.take(Process {
            pid: id.pid,
            tid: id.pid,
            started: id.started,
            ppid: parent.map_or(0, |parent| parent.pid),
            ..Process::clone(image)
        })
    }

    /// The ancestors of its children.
    fn heritage(&mut self, id: ProcessId, room: &mut Room) -> Option<Ancestors> {
        if self.heritage.is_none() {
            let above = self.ancestors.as_ref()?;
            let itself = self.itself(id, room)?;
            let excess = (above.len() + 1).saturating_sub(MAX_ANCESTORS);
            let first = above.iter().take(1);
            let nearest = above.iter().skip(1 + excess);
            let all = first.chain(nearest).cloned().chain([itself]);
            self.heritage = Some(all.collect());
        }
        self.heritage.clone()
    }
}

/// Add to a process, as it was seen at its act, what is known of what it executed.
fn complete(process: &mut Process, image: &Process) {
    if process.image == 0 || process.image != image.image {
        return;
    }
    process.exe.clone_from(&image.exe);
    process.script.clone_from(&image.script);
    if process.directory == image.directory {
        process.cwd.clone_from(&image.cwd);
    }
    let is_start = image.argv.join(&0).starts_with(&process.argv.join(&0));
    // A process may have written something else there since.
    if process.argv.is_empty() || process.truncated && is_start {
        process.argv.clone_from(&image.argv);
        process.truncated = image.truncated;
    }
}

/// Bounds what processes take that are kept in many places.
#[derive(Debug, Default)]
struct Room {
    kept: Vec<Weak<Process>>,
    octets: usize,
    /// Processes that were added since it was last seen who is left.
    added: usize,
}

impl Room {
    /// Between two looks at who is left.
    const INTERVAL: usize = 1024;

    /// Keep a process, if there is room for it.
    fn take(&mut self, process: Process) -> Option<Arc<Process>> {
        self.added += 1;
        let octets = octets(&process);
        if self.octets + octets > MAX_OCTETS && self.added >= Self::INTERVAL {
            self.kept.retain(|process| process.strong_count() > 0);
            self.octets = self
                .kept
                .iter()
                .filter_map(Weak::upgrade)
                .map(|process| self::octets(&process))
                .sum();
            self.added = 0;
        }
        if self.octets + octets > MAX_OCTETS {
            return None;
        }
        let process = Arc::new(process);
        self.kept.push(Arc::downgrade(&process));
        self.octets += octets;
        Some(process)
    }
}

/// What a process takes.
pub(super) fn octets(process: &Process) -> usize {
    /// What an argument takes besides its octets.
    const ARGUMENT: usize = 32;
    let arguments = process.argv.iter();
    let arguments: usize = arguments.map(|argument| ARGUMENT + argument.len()).sum();
    let names = [&process.comm, &process.exe, &process.script, &process.cwd];
    size_of::<Process>() + names.map(Vec::len).iter().sum::<usize>() + arguments
}
