//! What is said of one target where there is a sentence for it: in an annotation, in the
//! result of a test.

use std::time::Duration;

use super::text::{Elapsed, Sections, commands};
use crate::digest::{Consequence, Delegated, Node, Run, Total};
use crate::escape::Plain;
use crate::event::Verdict;

/// Less time than this is not lost.
const NOTABLE: Duration = Duration::from_secs(1);

/// What became of a target, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Blocked,
    WouldBlock,
    /// Others did it, unseen, and no rule says that this is known.
    Delegated,
    /// No name led there and no rule speaks of it.
    Unjudged,
    Allowed,
}

/// A target of a run. All text of it is [`Plain`].
#[derive(Clone, Copy)]
pub(super) struct Finding<'r> {
    pub(super) run: &'r Run,
    pub(super) class: Class,
    pub(super) name: &'r str,
    pub(super) total: &'r Total,
}

impl Class {
    /// What goes behind `github.com was`.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::WouldBlock => "not blocked, but would be",
            Self::Delegated => "reached through others, unseen",
            Self::Unjudged => "not judged by name",
            Self::Allowed => "allowed",
        }
    }
}

/// All targets of a run, the worst first.
pub(super) fn findings<'r>(run: &'r Run, sections: &'r Sections<'_>) -> Vec<Finding<'r>> {
    let Sections {
        blocked,
        would_block,
        allowed,
        unjudged,
        delegated,
    } = sections;
    let all = [blocked, would_block, delegated, unjudged, allowed];
    let rows = all.into_iter().flatten();
    let mut findings: Vec<_> = rows
        .map(|(name, total)| Finding::new(run, name, total))
        .collect();
    // Delegation that is known of is as good as allowed.
    findings.sort_by_key(|finding| finding.class);
    findings
}

impl<'r> Finding<'r> {
    fn new(run: &'r Run, name: &'r str, total: &'r Total) -> Self {
        let is_unknown = |delegated: &Delegated| delegated.unacknowledged;
        let class = match total.verdict {
            Verdict::Blocked => Class::Blocked,
            Verdict::WouldBlock => Class::WouldBlock,
            Verdict::Allowed if total.delegated.as_ref().is_some_and(is_unknown) => {
                Class::Delegated
            }
            Verdict::Allowed if total.unjudged => Class::Unjudged,
            Verdict::Allowed => Class::Allowed,
        };
        Self {
            run,
            class,
            name,
            total,
        }
    }

    /// The rule that refused it, or what did; nothing if nothing did.
    pub(super) fn ground(&self) -> Option<String> {
        if !matches!(self.class, Class::Blocked | Class::WouldBlock) {
            return None;
        }
        Some(match (&self.total.delegated, &self.total.rule) {
            (Some(Delegated { via: None, .. }), _) => "--strict: not of this run".to_owned(),
            (_, Some(rule)) => Plain(rule.as_bytes()).to_string(),
            (_, None) => "no rule allows it".to_owned(),
        })
    }

    /// Whom to ask about that rule.
    pub(super) fn owner(&self) -> Option<String> {
        self.of_rule(self.total.owner.as_deref())
    }

    /// Why there is that rule.
    pub(super) fn reason(&self) -> Option<String> {
        self.of_rule(self.total.rule_reason.as_deref())
    }

    fn of_rule(&self, text: Option<&str>) -> Option<String> {
        self.ground()?;
        text.map(|text| Plain(text.as_bytes()).to_string())
    }

    /// The first process that was refused and those above it, the wrapped command first.
    pub(super) fn chain(&self) -> Vec<&'r Node> {
        let Some(key) = self.total.refused.first() else {
            return Vec::new();
        };
        let upwards = self.run.processes.chain(*key).map(|(_, node)| node);
        let mut chain: Vec<_> = upwards.collect();
        chain.reverse();
        chain
    }

    /// The same as command lines; of what was not refused, the first command alone.
    pub(super) fn commands(&self) -> Vec<String> {
        let chain = self.chain();
        if chain.is_empty() {
            return commands(self.total).into_iter().take(1).collect();
        }
        let plain = |node: &Node| Plain(node.command.as_bytes()).to_string();
        chain.into_iter().map(plain).collect()
    }

    /// All that turned there.
    pub(super) fn all_commands(&self) -> Vec<String> {
        commands(self.total)
    }

    /// What the refusal meant to the command.
    pub(super) fn outcome(&self) -> Option<String> {
        match self.total.consequence(self.run)? {
            Consequence::Failed => Some("the command then failed".to_owned()),
            Consequence::WentOn(swallower) => {
                let node = swallower.and_then(|key| self.run.processes.get(key));
                // That of the command itself is the run's.
                let swallower = node.filter(|node| node.parent.is_some());
                Some(swallower.map_or_else(
                    || "the command went on".to_owned(),
                    |node| format!("{} succeeded all the same", Plain(node.command.as_bytes())),
                ))
            }
        }
    }

    /// The time that was lost there, if it is worth a word.
    pub(super) fn waited(&self) -> Option<String> {
        let waited = self.total.waited;
        (waited >= NOTABLE).then(|| Elapsed(waited).to_string())
    }

    /// `github.com was blocked`
    pub(super) fn headline(&self) -> String {
        format!("{} was {}", self.name, self.class.words())
    }

    /// All of it, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.headline()];
        let labelled = [
            ("rule", self.ground()),
            ("reason", self.reason()),
            ("owner", self.owner()),
            ("command", Some(self.commands().join(" -> "))),
            ("then", self.outcome()),
            ("waited", self.waited()),
        ];
        let labelled = labelled
            .into_iter()
            .filter_map(|(label, text)| text.map(|text| format!("{label}: {text}")));
        lines.extend(labelled);
        lines
    }
}
