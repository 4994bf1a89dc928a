//! A second matcher, slow and obvious: it compares lists of labels.

use cgfw::policy::{Action, Scope};

/// The labels of a name, leftmost first, in lower case.
pub(super) type Labels = Vec<Vec<u8>>;

/// How many labels of `name` a pattern matches.
pub(super) fn matched(own: &Labels, scope: Scope, name: &Labels) -> Option<usize> {
    let matches = match scope {
        Scope::Exact => name == own,
        Scope::Subtree => name.ends_with(own),
        Scope::Below => name.len() > own.len() && name.ends_with(own),
    };
    matches.then_some(own.len())
}

/// What the longest of the matches says, block winning ties.
pub(super) fn longest(matches: impl Iterator<Item = (usize, Action)>) -> Option<Action> {
    // Block is the greater action.
    matches.max().map(|(_, action)| action)
}
