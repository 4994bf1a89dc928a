//! A policy as people read it: in TOML, one rule a table, so that each has its own lines in a
//! review, and room for a reason and an owner. Pure.

use std::fmt;

use super::needs::{Need, Needs, Purpose};
use super::seen::Seen;
use crate::escape::TomlString;

/// Runs that are named; more are only counted.
const MAX_RUNS: usize = 20;

/// A whole policy.
pub(super) struct Text<'s> {
    pub(super) seen: &'s Seen,
    pub(super) needs: &'s Needs,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Learned by cgfw {} from:", env!("CARGO_PKG_VERSION"))?;
        let runs = self.seen.runs();
        let more = runs.len().saturating_sub(MAX_RUNS);
        for (id, command) in runs.take(MAX_RUNS) {
            writeln!(f, "#   run {id}: {command}")?;
        }
        if more > 0 {
            writeln!(f, "#   and {more} more")?;
        }
        writeln!(f, "version = 1\ndefault = \"block\"")?;
        self.needs.rules.iter().try_for_each(|need| table(f, need))
    }
}

fn table(f: &mut fmt::Formatter<'_>, need: &Need) -> fmt::Result {
    let pattern = need.rule.to_string();
    let purpose = match need.purpose {
        Purpose::Contact => "",
        Purpose::Lookup => " # only looked up",
        Purpose::Delegation => " # others do the network there",
    };
    write!(f, "\n{}[[rule]]\n", need.commands)?;
    writeln!(f, "allow = {}{purpose}", TomlString(&pattern))
}
