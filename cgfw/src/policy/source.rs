//! Where a rule was written, and what its author says of it.

use std::sync::Arc;

use super::Action;

/// Where rules were written, and what their author says of them: an argument, one table of
/// a policy file, or a whole list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// `--block github.com`, `CGFW_BLOCK=github.com`, or the path of a file as it was named.
    pub name: String,
    /// What a list is for; `None` where rules are given one by one. A rule with the opposite
    /// action is an exception of the list, and never says what the policy is by default.
    pub list: Option<Action>,
    /// Why the rules are there.
    pub reason: Option<String>,
    /// The team to turn to.
    pub owner: Option<String>,
}

/// Where one rule was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub place: Arc<Place>,
    /// From 1; 0 where the place is no file.
    pub line: u32,
}

impl Source {
    /// An argument or a variable, with its value.
    pub fn argument(text: impl Into<String>) -> Self {
        let name = text.into();
        Self {
            place: Arc::new(Place {
                name,
                ..Place::default()
            }),
            line: 0,
        }
    }
}
