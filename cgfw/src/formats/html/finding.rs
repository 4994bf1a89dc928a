//! What stands in front: what was blocked, and what nobody answered.

use std::cmp::Reverse;

use super::super::text::{Sections, title};
use super::{Room, State, number, plain, wait};
use crate::digest::{Consequence, ProcessKey, Run, Target, Total};
use crate::event::Verdict;

/// Different processes of one finding, each with those above it.
const MAX_CHAINS: usize = 4;
/// Processes below each other.
const MAX_LINKS: usize = 8;

/// A target that somebody has to look at.
pub(super) struct Finding {
    pub(super) name: String,
    pub(super) class: &'static str,
    pub(super) words: &'static str,
    pub(super) count: String,
    /// What became of the command.
    pub(super) consequence: Option<Effect>,
    pub(super) waited: Option<String>,
    pub(super) rule: Option<String>,
    pub(super) matched: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) owner: Option<String>,
    /// Command lines, each below the one that started it.
    pub(super) chains: Vec<Vec<String>>,
    pub(super) more_chains: usize,
}

/// Whether the command came through.
pub(super) struct Effect {
    pub(super) failed: bool,
    /// Whose success it was that nothing came of it.
    pub(super) thanks_to: Option<String>,
}

/// The findings of a run, and how many have no room.
pub(super) fn findings(run: &Run, sections: &Sections<'_>, room: Room) -> (Vec<Finding>, usize) {
    let refused = sections.blocked.iter().chain(&sections.would_block);
    let mut unanswered: Vec<_> = run
        .targets
        .iter()
        .filter(|(_, total)| total.unanswered > 0 && total.verdict == Verdict::Allowed)
        .collect();
    unanswered.sort_by_key(|(target, total)| (Reverse(total.waited), *target));
    let count = sections.blocked.len() + sections.would_block.len() + unanswered.len();
    let shown: Vec<Finding> = refused
        .map(|(name, total)| Finding::refused(run, name, total))
        .chain(
            unanswered
                .into_iter()
                .map(|(target, total)| Finding::unanswered(target, total)),
        )
        .take(room.findings)
        .collect();
    let more = count - shown.len();
    (shown, more)
}

impl Finding {
    fn refused(run: &Run, name: &str, total: &Total) -> Self {
        let state = State::of(total.verdict, Some(total));
        let chains: Vec<_> = if total.refused.is_empty() {
            total
                .commands
                .iter()
                .map(|command| vec![plain(command)])
                .collect()
        } else {
            let mut chains = Vec::new();
            for chain in total.refused.iter().map(|key| chain(run, *key)) {
                // Of a thousand processes that do the same, one is enough.
                if !chains.contains(&chain) {
                    chains.push(chain);
                }
            }
            chains
        };
        Self {
            consequence: total.consequence(run).map(|what| Effect::of(&what, run)),
            rule: Some(match &total.rule {
                Some(rule) => plain(rule),
                None if total.delegated.is_some() => "--strict: not of this run".to_owned(),
                None => "no rule allows it".to_owned(),
            }),
            matched: total.matched.as_ref().map(ToString::to_string),
            reason: total.rule_reason.as_deref().map(plain),
            owner: total.owner.as_deref().map(plain),
            ..Self::new(name.to_owned(), state.class(), state.words(), total)
        }
        .with(chains)
    }

    fn unanswered(target: &Target, total: &Total) -> Self {
        let chains = total.commands.iter().map(|command| vec![plain(command)]);
        Self {
            count: number(total.unanswered, "connection", "connections"),
            ..Self::new(title(target), "unanswered", "not answered", total)
        }
        .with(chains.collect())
    }

    fn new(name: String, class: &'static str, words: &'static str, total: &Total) -> Self {
        Self {
            name,
            class,
            words,
            count: match total.blocked {
                1 => "once".to_owned(),
                count => format!("{count} times"),
            },
            consequence: None,
            waited: wait(total.waited),
            rule: None,
            matched: None,
            reason: None,
            owner: None,
            chains: Vec::new(),
            more_chains: 0,
        }
    }

    fn with(mut self, mut chains: Vec<Vec<String>>) -> Self {
        self.more_chains = chains.len().saturating_sub(MAX_CHAINS);
        chains.truncate(MAX_CHAINS);
        self.chains = chains;
        self
    }
}

impl Effect {
    fn of(consequence: &Consequence, run: &Run) -> Self {
        let command = |key: &ProcessKey| Some(plain(&run.processes.get(*key)?.command));
        match consequence {
            Consequence::Failed => Self {
                failed: true,
                thanks_to: None,
            },
            Consequence::WentOn(swallower) => Self {
                failed: false,
                thanks_to: swallower.as_ref().and_then(command),
            },
        }
    }
}

/// The command lines from the wrapped command down to that process; of many, those at the ends.
fn chain(run: &Run, key: ProcessKey) -> Vec<String> {
    let nodes: Vec<_> = run.processes.chain(key).map(|(_, node)| node).collect();
    let (near, far) = nodes.split_at(nodes.len().min(MAX_LINKS));
    let wrapped = far.last().map(|node| plain(&node.command));
    let gap = (far.len() > 1).then(|| "…".to_owned());
    let near = near.iter().rev().map(|node| plain(&node.command));
    wrapped.into_iter().chain(gap).chain(near).collect()
}
