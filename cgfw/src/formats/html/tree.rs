//! Who started whom, what each did, and how it ended.

use std::collections::{BTreeMap, BTreeSet};

use super::super::text::{Elapsed, signal_name, title};
use super::{Room, State, plain};
use crate::digest::{Ending, Node, ProcessKey, Run};

/// Processes below each other; a browser gives up at some depth, and a reader long before.
const MAX_DEPTH: usize = 40;
/// Deeds that are shown of one process.
const MAX_DEEDS: usize = 12;

/// The tree, as it is written from top to bottom.
pub(super) struct Tree {
    pub(super) steps: Vec<Step>,
    count: u64,
    pub(super) more: u64,
}

pub(super) enum Step {
    /// A process, and then those that it started.
    Open(Process),
    /// A process that started none.
    Leaf(Process),
    /// That were all.
    Close,
}

pub(super) struct Process {
    pub(super) command: String,
    pub(super) pid: u32,
    pub(super) script: Option<String>,
    pub(super) exe: Option<String>,
    pub(super) cwd: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) ending: Option<Fate>,
    pub(super) deeds: Vec<Deed>,
    pub(super) more_deeds: u64,
}

pub(super) struct Fate {
    pub(super) words: String,
    pub(super) failed: bool,
    pub(super) lived: String,
}

pub(super) struct Deed {
    pub(super) name: String,
    pub(super) state: State,
    pub(super) count: u64,
}

impl Tree {
    pub(super) fn new(run: &Run, room: Room) -> Self {
        let chosen = choose(run, room);
        let mut children: BTreeMap<Option<ProcessKey>, Vec<ProcessKey>> = BTreeMap::new();
        for (key, node) in run.processes.iter() {
            if chosen.contains(&key) {
                // One that is said to be younger than its child would be in no tree.
                let parent = node
                    .parent
                    .filter(|parent| *parent < key && chosen.contains(parent));
                children.entry(parent).or_default().push(key);
            }
        }
        let mut tree = Self {
            steps: Vec::new(),
            count: 0,
            more: 0,
        };
        for root in children.get(&None).into_iter().flatten() {
            tree.grow(run, &children, *root);
        }
        tree.more = run.processes.len().saturating_sub(tree.count);
        tree
    }

    fn grow(
        &mut self,
        run: &Run,
        children: &BTreeMap<Option<ProcessKey>, Vec<ProcessKey>>,
        root: ProcessKey,
    ) {
        let below = |key| children.get(&Some(key)).map_or(&[][..], Vec::as_slice);
        // The siblings that are still to come, level by level.
        let mut levels = vec![vec![root].into_iter()];
        while let Some(level) = levels.last_mut() {
            let Some(key) = level.next() else {
                levels.pop();
                if !levels.is_empty() {
                    self.steps.push(Step::Close);
                }
                continue;
            };
            let Some(node) = run.processes.get(key) else {
                continue;
            };
            self.count += 1;
            let process = Process::new(run, key, node);
            if below(key).is_empty() || levels.len() >= MAX_DEPTH {
                self.steps.push(Step::Leaf(process));
            } else {
                self.steps.push(Step::Open(process));
                levels.push(below(key).to_vec().into_iter());
            }
        }
    }
}

/// As many as there is room for: those that were refused first, each with all above it, then
/// the oldest.
fn choose(run: &Run, room: Room) -> BTreeSet<ProcessKey> {
    let was_refused = |node: &Node| {
        let mut deeds = node.deeds.iter();
        deeds.any(|deed| State::of(deed.verdict, None) < State::Allowed)
    };
    let refused = run.processes.iter().filter(|(_, node)| was_refused(node));
    let mut chosen = BTreeSet::new();
    for (key, _) in refused.chain(run.processes.iter()) {
        if chosen.len() >= room.processes {
            break;
        }
        chosen.extend(run.processes.chain(key).map(|(key, _)| key));
    }
    chosen
}

impl Process {
    fn new(run: &Run, key: ProcessKey, node: &Node) -> Self {
        let shown = node.deeds.iter().take(MAX_DEEDS);
        let hidden = node.deeds.iter().skip(MAX_DEEDS).map(|deed| deed.count);
        Self {
            command: plain(&node.command),
            pid: key.pid,
            script: node.script.as_deref().map(plain),
            exe: node.exe.as_deref().map(plain),
            cwd: node.cwd.as_deref().map(plain),
            uid: node.uid,
            ending: node.ending.as_ref().map(Fate::of),
            more_deeds: node.more_deeds + hidden.sum::<u64>(),
            deeds: shown
                .map(|deed| Deed {
                    name: title(&deed.target),
                    state: State::of(deed.verdict, run.targets.get(&deed.target)),
                    count: deed.count,
                })
                .collect(),
        }
    }
}

impl Fate {
    fn of(ending: &Ending) -> Self {
        Self {
            words: match (ending.status, ending.signal) {
                (Some(0), _) => "succeeded".to_owned(),
                (Some(status), _) => format!("exited with status {status}"),
                (None, Some(signal)) => format!("ended by {}", signal_name(signal)),
                (None, None) => "ended".to_owned(),
            },
            failed: !ending.is_success(),
            lived: Elapsed(ending.lived).to_string(),
        }
    }
}
