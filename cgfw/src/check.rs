/*!
What is wrong with policies, before anything is run with them (`cgfw policy check`).

What is not understood is an error of [`sources`]; what is, and could as well not be there,
is a warning. Why a rule is idle, [`policy`] knows.
*/

use crate::cli::Check;
use crate::escape::Plain;
#[cfg(doc)]
use crate::policy;
use crate::policy::{Action, Because, Idle, Review, Rule};
use crate::sources;

/// Warnings that are shown; more are counted. Published lists have some ten thousand.
const MAX_SHOWN: usize = 100;

/// What was found.
#[derive(Debug)]
pub struct Checked {
    /// A line for each warning, and a summary.
    pub report: String,
    pub warnings: usize,
    /// What else the user should know of the files.
    pub notes: Vec<String>,
}

/// Read what `settings` names, and look at every rule.
///
/// # Errors
///
/// With all errors of all files, if there are any.
pub fn check(settings: &Check) -> anyhow::Result<Checked> {
    let loaded = sources::load_to_review(&settings.policy)?;
    let rules = loaded.rules.len();
    let review = Review::new(loaded.rules, loaded.default, loaded.direct_ip);
    let mut lines = Vec::new();
    let mut warnings = 0;
    for idle in review.idle() {
        warnings += 1;
        if warnings <= MAX_SHOWN {
            lines.push(warning(&idle));
        }
    }
    if warnings > MAX_SHOWN {
        let more = counted(warnings - MAX_SHOWN, "more warning");
        lines.push(format!("and {more}\n"));
    }
    let (rules, counted) = (counted(rules, "rule"), counted(warnings, "warning"));
    lines.push(format!("{rules}, {counted}\n"));
    Ok(Checked {
        report: lines.concat(),
        warnings,
        notes: loaded.notes,
    })
}

/// As compilers have it: `FILE:LINE: warning: ...`.
fn warning(Idle { rule, because }: &Idle) -> String {
    let does = |rule: &Rule| match rule.action {
        Action::Allow => "allows",
        Action::Block => "blocks",
    };
    let why = match because {
        Because::Duplicate(other) => format!("is a duplicate of {}", other.cite()),
        Because::Shadowed(other) => {
            format!("is shadowed by {}, which {} it", other.cite(), does(other))
        }
        Because::Redundant(other) => {
            format!("is redundant: {} {} it as well", other.cite(), does(other))
        }
        Because::Default => "has no effect: what no rule blocks is allowed".to_owned(),
    };
    let source = &rule.source;
    let (file, line) = (&source.place.name, source.line);
    let action = match rule.action {
        Action::Allow => "allow",
        Action::Block => "block",
    };
    let line = format!("{file}:{line}: warning: {action} {rule} {why}");
    format!("{}\n", Plain(line.as_bytes()))
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
