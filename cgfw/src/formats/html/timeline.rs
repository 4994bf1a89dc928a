//! When what happened: a lane for each target, and the same as a table.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::text::{Elapsed, title};
use super::{Room, State, after, number, plain, wait};
use crate::digest::{Kind, Moment, Run, Target};

/// Distances of the lines across, in milliseconds; a longer run gets sixths of its time.
const STEPS: [u64; 24] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000,
    120_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 86_400_000,
];
/// Lines across.
const MAX_TICKS: u64 = 6;

/// The chart. Places are in percent of its width.
pub(super) struct Timeline {
    pub(super) ticks: Vec<Tick>,
    pub(super) lanes: Vec<Lane>,
    pub(super) moments: Vec<Row>,
    pub(super) more_moments: u64,
}

pub(super) struct Tick {
    pub(super) x: String,
    pub(super) label: String,
}

/// What happened to one target, or to all that have no lane of their own.
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) class: &'static str,
    pub(super) waits: Vec<Wait>,
    pub(super) marks: Vec<Mark>,
}

/// A time in which nobody answered.
pub(super) struct Wait {
    pub(super) x: String,
    pub(super) width: String,
}

/// Something that happened, or several such in the same slot.
pub(super) struct Mark {
    pub(super) x: String,
    pub(super) class: &'static str,
    pub(super) label: String,
}

/// A moment as a row.
pub(super) struct Row {
    pub(super) after: String,
    pub(super) what: &'static str,
    pub(super) state: State,
    pub(super) name: String,
    pub(super) command: String,
    pub(super) took: String,
}

impl Timeline {
    pub(super) fn new(run: &Run, room: Room) -> Self {
        let scale = Scale {
            length: match (run.began, run.ended) {
                (Some(_), Some(ended)) => after(run, ended),
                _ => Duration::ZERO,
            },
            slots: room.slots,
        };
        let left_out = run.timeline.len().saturating_sub(room.moments);
        Self {
            ticks: scale.ticks(),
            lanes: lanes(run, scale, room),
            moments: run
                .timeline
                .iter()
                .take(room.moments)
                .map(|moment| Row::new(run, moment))
                .collect(),
            more_moments: run.more_moments + u64::try_from(left_out).unwrap_or(u64::MAX),
        }
    }
}

/// The severest targets first, then in the order of their first moments; the last lane is that
/// of all others.
fn lanes(run: &Run, scale: Scale, room: Room) -> Vec<Lane> {
    let mut by_target: BTreeMap<&Target, Vec<&Moment>> = BTreeMap::new();
    for moment in &run.timeline {
        by_target.entry(&moment.target).or_default().push(moment);
    }
    let mut targets: Vec<(State, &Target, Vec<&Moment>)> = by_target
        .into_iter()
        .map(|(target, moments)| {
            let states = moments.iter().map(|moment| state(run, moment));
            (states.min().unwrap_or(State::Allowed), target, moments)
        })
        .collect();
    targets.sort_by_key(|(state, _, moments)| (*state, moments[0].time));
    let rest = if targets.len() > room.lanes {
        targets.split_off(room.lanes - 1)
    } else {
        Vec::new()
    };
    let own = targets
        .iter()
        .map(|(state, target, moments)| scale.lane(run, title(target), *state, moments));
    let others = (!rest.is_empty()).then(|| {
        let name = number(rest.len(), "other", "others");
        let state = rest[0].0;
        let mut moments: Vec<&Moment> = rest.into_iter().flat_map(|(_, _, of)| of).collect();
        moments.sort_by_key(|moment| moment.time);
        scale.lane(run, name, state, &moments)
    });
    own.chain(others).collect()
}

fn state(run: &Run, moment: &Moment) -> State {
    State::of(moment.verdict, run.targets.get(&moment.target))
}

/// What the sheet calls a mark.
fn class(run: &Run, moment: &Moment) -> &'static str {
    match moment.kind {
        Kind::Unanswered => "unanswered",
        Kind::Dns | Kind::Connect | Kind::Packet | Kind::Delegation => state(run, moment).class(),
    }
}

fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::Dns => "lookup",
        Kind::Connect => "connection",
        Kind::Packet => "packet",
        Kind::Delegation => "through others",
        Kind::Unanswered => "no answer",
    }
}

/// How time becomes place.
#[derive(Clone, Copy)]
struct Scale {
    length: Duration,
    slots: usize,
}

impl Scale {
    /// The part of the run, from 0 to 1.
    fn part(self, time: Duration) -> f64 {
        if self.length.is_zero() {
            return 0.0;
        }
        time.div_duration_f64(self.length).min(1.0)
    }

    fn ticks(self) -> Vec<Tick> {
        let length = u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX);
        let step = STEPS
            .into_iter()
            .find(|step| length / step < MAX_TICKS)
            .unwrap_or(length / MAX_TICKS);
        let times = (0..MAX_TICKS).map(|tick| tick * step);
        times
            .take_while(|time| *time <= length)
            .map(Duration::from_millis)
            .map(|time| Tick {
                x: percent(self.part(time)),
                label: match time.as_millis() {
                    0 => "0".to_owned(),
                    _ => Elapsed(time).to_string().replace(".0 s", " s"),
                },
            })
            .collect()
    }

    fn lane(self, run: &Run, name: String, state: State, moments: &[&Moment]) -> Lane {
        let mut slots: BTreeMap<(usize, &str), Vec<&Moment>> = BTreeMap::new();
        let mut waits: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for moment in moments {
            let end = after(run, moment.time);
            let slot = self.slot(self.part(end));
            slots
                .entry((slot, class(run, moment)))
                .or_default()
                .push(moment);
            if let Some(took) = moment.took {
                let (start, end) = (self.part(end.saturating_sub(took)), self.part(end));
                let (first, last) = waits.entry(slot).or_insert((start, end));
                (*first, *last) = (first.min(start), last.max(end));
            }
        }
        Lane {
            name,
            class: state.class(),
            waits: waits
                .into_values()
                .filter(|(start, end)| self.slot(*start) < self.slot(*end))
                .map(|(start, end)| Wait {
                    x: percent(start),
                    width: percent(end - start),
                })
                .collect(),
            marks: slots
                .into_iter()
                .map(|((_, class), moments)| Mark {
                    x: percent(self.part(after(run, moments[0].time))),
                    class,
                    label: label(run, &moments),
                })
                .collect(),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a part between 0 and 1 of a small number"
    )]
    fn slot(self, part: f64) -> usize {
        (part * self.slots as f64) as usize
    }
}

fn percent(part: f64) -> String {
    format!("{:.2}%", part * 100.0)
}

/// `+900 ms: lookup of github.com, blocked: git fetch origin`
fn label(run: &Run, moments: &[&Moment]) -> String {
    let row = Row::new(run, moments[0]);
    let took = match &*row.took {
        "" => String::new(),
        took => format!(" after {took}"),
    };
    let others = moments.len() - 1;
    let others = match moments.last() {
        Some(last) if others > 0 => {
            let until = Elapsed(after(run, last.time));
            format!(" (and {others} more until +{until})")
        }
        _ => String::new(),
    };
    let Row {
        after,
        what,
        state,
        name,
        command,
        ..
    } = row;
    let verdict = state.words();
    format!("+{after}: {what} {name} {verdict}{took}, by {command}{others}")
}

impl Row {
    fn new(run: &Run, moment: &Moment) -> Self {
        Self {
            after: Elapsed(after(run, moment.time)).to_string(),
            what: what(moment.kind),
            state: state(run, moment),
            name: title(&moment.target),
            command: moment
                .command
                .as_deref()
                .map_or_else(|| "an unknown process".to_owned(), plain),
            took: moment.took.and_then(wait).unwrap_or_default(),
        }
    }
}
