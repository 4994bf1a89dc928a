/*!
From what runs did to the smallest policy that permits it (`cgfw policy learn`).

[`seen`] collects what audit logs say, [`needs`] finds which names, addresses and sockets have to
be allowed for that on which ports, and [`text`] writes it as a policy.

What a rule has blocked, or would have, is left out: to allow that is a decision and not a
lesson. The same holds for what was blocked by default, for which a run with `--audit` is
needed: where a command was refused something, nobody knows what it would have done next.
*/

mod commands;
mod needs;
mod seen;
mod text;

use crate::cli::Learn;
use crate::logs;

/// What was learned.
#[derive(Debug)]
pub struct Learned {
    /// A policy in TOML.
    pub policy: String,
    /// What the user should know of it.
    pub notes: Vec<String>,
}

/// Learn from the logs that `settings` names.
///
/// # Errors
///
/// If a log cannot be read, or has a line that is none of an audit log.
pub fn learn(settings: &Learn) -> anyhow::Result<Learned> {
    let mut seen = seen::Seen::default();
    let mut notes = logs::read(&settings.logs, |line| seen.add(line))?;
    let needs = needs::Needs::of(&seen, settings.generalise);
    notes.extend(seen.notes());
    notes.extend(needs.notes());
    Ok(Learned {
        policy: text::Text {
            seen: &seen,
            needs: &needs,
        }
        .to_string(),
        notes,
    })
}

#[cfg(test)]
mod tests;
