//! The commands that needed something, as they are shown.

use std::collections::BTreeSet;
use std::fmt;

use crate::escape::{Plain, command_line};

/// Commands that are named for one rule; more are only said to be there.
const MAX_NAMED: usize = 3;
/// How much of a command is shown, in characters.
const MAX_LENGTH: usize = 120;

/// Some commands: whichever come first in the order of letters, so that the same runs always
/// give the same text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    named: BTreeSet<String>,
    are_more: bool,
}

impl Commands {
    pub(super) fn one(command: String) -> Self {
        let mut commands = Self::default();
        commands.add(command);
        commands
    }

    fn add(&mut self, command: String) {
        self.named.insert(command);
        if self.named.len() > MAX_NAMED {
            self.named.pop_last();
            self.are_more = true;
        }
    }

    pub(super) fn extend(&mut self, others: &Self) {
        self.are_more |= others.are_more;
        others.named.iter().cloned().for_each(|one| self.add(one));
    }
}

/// One comment a command.
impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for command in &self.named {
            writeln!(f, "# {command}")?;
        }
        if self.are_more {
            writeln!(f, "# and others")?;
        }
        Ok(())
    }
}

/// A command line as a part of one line: escaped, because nobody knows who wrote it, and
/// not too long.
pub(super) fn shown(argv: &[String], comm: &str, truncated: bool) -> String {
    let argv: Vec<Vec<u8>> = argv.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    let line = command_line(&argv, comm.as_bytes(), truncated);
    let line = Plain(&line).to_string();
    match line.char_indices().nth(MAX_LENGTH) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_are_named_in_whatever_order_they_come() {
        let (mut one, mut other) = (Commands::default(), Commands::default());
        for command in ["d", "a", "c", "a", "b"] {
            one.extend(&Commands::one(command.to_owned()));
        }
        for command in ["b", "c", "d", "a"] {
            other.extend(&Commands::one(command.to_owned()));
        }
        assert_eq!(one, other);
        assert_eq!(one.to_string(), "# a\n# b\n# c\n# and others\n");
        assert_eq!(Commands::one("a".to_owned()).to_string(), "# a\n");
    }

    #[test]
    fn a_command_is_one_line_of_bounded_length() {
        let long = "x".repeat(1000);
        for (argv, line) in [
            (&["curl", "a b"][..], "curl 'a b'"),
            (
                &["x", "\n[[rule]]\nallow = \"evil\""],
                r#"x '\n[[rule]]\nallow = "evil"'"#,
            ),
            (
                &["\u{202e}moc", "\u{1b}[2J", "\r"],
                r"'\u{202e}moc' '\u{1b}[2J' '\r'",
            ),
            (&[], "[comm]"),
            (&[&*long], &format!("{} ...", &long[..MAX_LENGTH])),
        ] {
            let argv: Vec<String> = argv.iter().map(|&arg| arg.to_owned()).collect();
            assert_eq!(shown(&argv, "comm", false), line);
        }
    }
}
