//! The processes that acted, and those that they descend from.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::targets::Target;
use crate::audit::{Actor, Ancestor, Exit};
use crate::escape::command_line;
use crate::event::Verdict;

/// Processes that are kept one by one; more are counted.
const MAX_PROCESSES: usize = 1 << 14;
/// Deeds that are kept of one process.
const MAX_DEEDS: usize = 64;
/// Octets of all command lines, at the most.
const MAX_COMMANDS: usize = 32 << 20;

/// Identifies a process for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Nanoseconds since boot, so that a sorted map is in the order of births.
    pub started: u64,
    pub pid: u32,
}

impl ProcessKey {
    pub(super) fn of(process: &Actor) -> Self {
        Self {
            started: process.started,
            pid: process.pid,
        }
    }
}

/// The process tree of a run.
#[derive(Debug, Default)]
pub struct Processes {
    nodes: BTreeMap<ProcessKey, Node>,
    /// Command lines, each once.
    commands: HashSet<Arc<str>>,
    octets: usize,
    /// Processes for which there was no room.
    pub more: u64,
}

/// A process.
#[derive(Clone, Debug)]
pub struct Node {
    pub parent: Option<ProcessKey>,
    /// As one would type it into a shell, unescaped. The last one, if it executed others.
    pub command: Arc<str>,
    pub exe: Option<String>,
    pub script: Option<String>,
    pub cwd: Option<String>,
    pub uid: Option<u32>,
    /// When it was first seen to act; `None` for one that only others descend from.
    pub acted: Option<SystemTime>,
    pub ending: Option<Ending>,
    /// What it did, each target and verdict once.
    pub deeds: Vec<Deed>,
    /// Acts beyond those.
    pub more_deeds: u64,
}

/// What a process did to a target, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    pub target: Target,
    pub verdict: Verdict,
    pub count: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub time: SystemTime,
    /// What it returned; `None` if a signal ended it.
    pub status: Option<u8>,
    pub signal: Option<u8>,
    pub lived: Duration,
}

impl Ending {
    pub fn is_success(&self) -> bool {
        self.status == Some(0)
    }
}

/// A process with the command that it was at the time.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) key: ProcessKey,
    pub(super) command: Arc<str>,
}

impl Processes {
    pub fn get(&self, key: ProcessKey) -> Option<&Node> {
        self.nodes.get(&key)
    }

    /// How many there are, those without room included.
    pub fn len(&self) -> u64 {
        u64::try_from(self.nodes.len()).unwrap_or(u64::MAX) + self.more
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, parents before their children.
    pub fn iter(&self) -> impl Iterator<Item = (ProcessKey, &Node)> {
        self.nodes.iter().map(|(key, node)| (*key, node))
    }

    /// Those without a parent in the tree.
    pub fn roots(&self) -> impl Iterator<Item = (ProcessKey, &Node)> {
        self.iter().filter(|(_, node)| {
            node.parent
                .is_none_or(|parent| !self.nodes.contains_key(&parent))
        })
    }

    pub fn children(&self, parent: ProcessKey) -> impl Iterator<Item = (ProcessKey, &Node)> {
        self.iter()
            .filter(move |(_, node)| node.parent == Some(parent))
    }

    /// The process and those above it, upwards.
    pub fn chain(&self, key: ProcessKey) -> impl Iterator<Item = (ProcessKey, &Node)> {
        // Births go up, so that no loop is without end, whatever a log says.
        std::iter::successors(Some(key), |key| {
            let parent = self.nodes.get(key)?.parent?;
            (parent < *key).then_some(parent)
        })
        .filter_map(|key| Some((key, self.nodes.get(&key)?)))
    }

    /// Enter a process and those above it.
    pub(super) fn seen(&mut self, time: SystemTime, process: &Actor) -> Step {
        let mut parent = None;
        for ancestor in &process.ancestors {
            parent = Some(self.ancestor(ancestor, parent));
        }
        let key = ProcessKey::of(process);
        let command = self.command(&process.argv, &process.comm, process.argv_truncated);
        if let Some(node) = self.node(key, parent, &command) {
            node.command.clone_from(&command);
            node.exe.clone_from(&process.exe);
            node.script.clone_from(&process.script);
            node.cwd.clone_from(&process.cwd);
            node.uid = Some(process.uid);
            node.acted.get_or_insert(time);
        }
        Step { key, command }
    }

    pub(super) fn acted(&mut self, key: ProcessKey, to: &Target, verdict: Verdict, count: u64) {
        let Some(node) = self.nodes.get_mut(&key) else {
            return;
        };
        let is_it = |deed: &&mut Deed| deed.target == *to && deed.verdict == verdict;
        if let Some(deed) = node.deeds.iter_mut().find(is_it) {
            deed.count += count;
        } else if node.deeds.len() < MAX_DEEDS {
            node.deeds.push(Deed {
                target: to.clone(),
                verdict,
                count,
            });
        } else {
            node.more_deeds += count;
        }
    }

    pub(super) fn ended(&mut self, time: SystemTime, exit: &Exit) {
        let mut parent = None;
        for ancestor in &exit.process.ancestors {
            parent = Some(self.ancestor(ancestor, parent));
        }
        let process = &exit.process;
        let command = self.command(&process.argv, &process.comm, process.argv_truncated);
        if let Some(node) = self.node(ProcessKey::of(process), parent, &command) {
            node.ending = Some(Ending {
                time,
                status: exit.status,
                signal: exit.signal,
                lived: Duration::from_micros(exit.lived_us),
            });
        }
    }

    fn ancestor(&mut self, ancestor: &Ancestor, parent: Option<ProcessKey>) -> ProcessKey {
        let key = ProcessKey {
            started: ancestor.started,
            pid: ancestor.pid,
        };
        let command = self.command(&ancestor.argv, &ancestor.comm, false);
        if let Some(node) = self.node(key, parent, &command)
            && node.acted.is_none()
        {
            node.command = command;
            node.exe.clone_from(&ancestor.exe);
            node.script.clone_from(&ancestor.script);
        }
        key
    }

    /// The node of a process, made if there is room.
    fn node(
        &mut self,
        key: ProcessKey,
        parent: Option<ProcessKey>,
        command: &Arc<str>,
    ) -> Option<&mut Node> {
        if self.nodes.len() >= MAX_PROCESSES && !self.nodes.contains_key(&key) {
            self.more += 1;
            return None;
        }
        let node = self.nodes.entry(key).or_insert_with(|| Node {
            parent,
            command: Arc::clone(command),
            exe: None,
            script: None,
            cwd: None,
            uid: None,
            acted: None,
            ending: None,
            deeds: Vec::new(),
            more_deeds: 0,
        });
        node.parent = node.parent.or(parent);
        Some(node)
    }

    /// A command line, shared with whoever has the same.
    fn command(&mut self, argv: &[String], comm: &str, truncated: bool) -> Arc<str> {
        let line = command_line(argv, comm.as_bytes(), truncated);
        let line = String::from_utf8_lossy(&line);
        if let Some(known) = self.commands.get(&*line) {
            return Arc::clone(known);
        }
        if self.octets + line.len() > MAX_COMMANDS {
            // Said by its short name rather than not at all.
            return Arc::from(format!("[{comm}]"));
        }
        self.octets += line.len();
        let line: Arc<str> = Arc::from(line);
        self.commands.insert(Arc::clone(&line));
        line
    }
}
