//! The one table of exit codes.

use std::io::{self, Write as _};

use crate::event::Outcome;

/// The answer is no: `why` was asked for something that is blocked, or `policy check
/// --fail-on-warning` has something to warn of, or `diff` finds something new.
pub const NO: u8 = 1;
/// The run ran into `--timeout`.
pub const TIMED_OUT: u8 = 124;
/// cgfw itself failed, usage errors included.
pub const FAILED: u8 = 125;
/// The command was found and could not be executed.
pub const CANNOT_EXECUTE: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;
/// The command succeeded and something was blocked, under `--fail-on-block`.
pub const BLOCKED: u8 = 120;

/// The command succeeded and depends on something that is not in the `--baseline`.
pub const NEW: u8 = 121;

/// The exit code of a run. `instead` is what replaces the success of the command, and nothing
/// else: what `--fail-on-block` demands if anything was blocked, [`NEW`], or [`FAILED`] if
/// something was lost under `--strict`.
pub fn code(outcome: Outcome, instead: Option<u8>) -> u8 {
    match outcome {
        Outcome::Exited(0) => instead.unwrap_or(0),
        Outcome::Exited(status) => status,
        Outcome::Killed(signal) => 128_u8.saturating_add(signal),
        Outcome::TimedOut => TIMED_OUT,
        Outcome::Failed => FAILED,
        Outcome::CannotExecute => CANNOT_EXECUTE,
        Outcome::NotFound => NOT_FOUND,
    }
}

/// The only place that prints an error of cgfw itself. A closed stderr changes nothing.
pub fn complain(message: &str) {
    let _nobody_to_tell = writeln!(io::stderr(), "cgfw: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_design() {
        for (outcome, plain, failing_on_block) in [
            (Outcome::Exited(0), 0, 99),
            (Outcome::Exited(1), 1, 1),
            (Outcome::Exited(255), 255, 255),
            (Outcome::Killed(9), 137, 137),
            (Outcome::Killed(15), 143, 143),
            (Outcome::Killed(64), 192, 192),
            (Outcome::TimedOut, 124, 124),
            (Outcome::Failed, 125, 125),
            (Outcome::CannotExecute, 126, 126),
            (Outcome::NotFound, 127, 127),
        ] {
            assert_eq!(code(outcome, None), plain, "{outcome:?}");
            assert_eq!(code(outcome, Some(99)), failing_on_block, "{outcome:?}");
        }
    }
}
