//! Everything that was contacted, a row each.

use super::super::text::{Elapsed, Octets, title};
use super::{Room, State, after, plain, wait};
use crate::audit::microseconds;
use crate::digest::{Run, Target, Total};

/// Command lines that are shown of one target.
const MAX_COMMANDS: usize = 8;

/// The rows of a run, the severest first.
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    pub(super) more: usize,
    /// How many rows each verdict has, where it has any.
    pub(super) states: Vec<(State, usize)>,
    pub(super) has_traffic: bool,
    pub(super) has_waits: bool,
}

pub(super) struct Row {
    pub(super) name: String,
    pub(super) state: State,
    pub(super) lookups: u64,
    pub(super) contacts: u64,
    pub(super) refused: u64,
    /// Octets sent and received.
    pub(super) traffic: u64,
    pub(super) sent: String,
    pub(super) received: String,
    /// Microseconds after the beginning.
    pub(super) first: u64,
    pub(super) first_text: String,
    /// Microseconds.
    pub(super) waited: u64,
    pub(super) waited_text: String,
    /// What else there is to say of it.
    pub(super) notes: Vec<String>,
    pub(super) commands: Vec<String>,
    /// Whether there were more of them.
    pub(super) others: bool,
    pub(super) unattributed: bool,
}

impl Table {
    pub(super) fn new(run: &Run, room: Room) -> Self {
        let mut targets: Vec<(State, &Target, &Total)> = run
            .targets
            .iter()
            .map(|(target, total)| (State::of(total.verdict, Some(total)), target, total))
            .collect();
        targets.sort_by_key(|(state, target, total)| (*state, total.first, *target));
        let counts = State::ALL.map(|state| {
            let count = targets.iter().filter(|(of, _, _)| *of == state).count();
            (state, count)
        });
        let shown = &targets[..targets.len().min(room.targets)];
        let has = |what: fn(&Total) -> bool| shown.iter().any(|(_, _, total)| what(total));
        Self {
            rows: shown
                .iter()
                .map(|(state, target, total)| Row::new(run, *state, target, total))
                .collect(),
            more: targets.len() - shown.len(),
            states: counts.into_iter().filter(|(_, count)| *count > 0).collect(),
            has_traffic: has(|total| total.traffic.connections > 0),
            has_waits: has(|total| wait(total.waited).is_some()),
        }
    }
}

impl Row {
    fn new(run: &Run, state: State, target: &Target, total: &Total) -> Self {
        let first = after(run, total.first);
        let traffic = &total.traffic;
        let commands = total.commands.iter().take(MAX_COMMANDS);
        Self {
            name: title(target),
            state,
            lookups: total.lookups,
            contacts: total.contacts,
            refused: total.blocked,
            traffic: traffic.sent.saturating_add(traffic.received),
            sent: Octets(traffic.sent).to_string(),
            received: Octets(traffic.received).to_string(),
            first: microseconds(first),
            first_text: Elapsed(first).to_string(),
            waited: microseconds(total.waited),
            waited_text: wait(total.waited).unwrap_or_default(),
            notes: notes(total),
            commands: commands.map(|command| plain(command)).collect(),
            others: total.more_commands || total.commands.len() > MAX_COMMANDS,
            unattributed: total.unattributed > 0,
        }
    }
}

fn notes(total: &Total) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(delegated) = &total.delegated {
        notes.extend(delegated.via.as_deref().map(plain));
        let listeners = delegated.listeners.iter();
        notes.extend(listeners.map(|peer| format!("{} (pid {})", plain(&peer.command), peer.pid)));
    }
    if !total.also.is_empty() {
        let also: Vec<String> = total.also.iter().map(ToString::to_string).collect();
        notes.push(format!("shares an address with {}", also.join(", ")));
    }
    notes
}
