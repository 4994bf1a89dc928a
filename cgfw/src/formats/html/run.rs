//! One run as the template shows it.

use std::time::Duration;

use super::super::Losses;
use super::super::text::{Elapsed, Octets, Sections, ending, faults, glass};
use super::finding::{Finding, findings};
use super::table::Table;
use super::timeline::Timeline;
use super::tree::Tree;
use super::{Room, after, number, plain};
use crate::audit::{Fate, Mode, Moved, PolicyChange, RunEnd, RunStart, Survivor};
use crate::digest::Run;
use crate::escape::command_line;
use crate::policy::{Action, DirectIp};

/// Processes that are listed one by one beside the tree, and rules.
const MAX_LISTED: usize = 50;

pub(super) struct Report {
    /// Its place in the file, from 1.
    pub(super) number: usize,
    pub(super) command: String,
    /// `exited with status 1`
    pub(super) outcome: String,
    pub(super) succeeded: bool,
    pub(super) elapsed: Option<String>,
    pub(super) host: Option<String>,
    /// RFC 3339, and as people write it.
    pub(super) began: Option<(String, String)>,
    /// Why it is not clean; it is, if there is none.
    pub(super) faults: Vec<String>,
    /// Why nothing was refused.
    pub(super) glass: Option<String>,
    /// The numbers in front.
    pub(super) figures: Vec<Figure>,
    pub(super) findings: Vec<Finding>,
    pub(super) more_findings: usize,
    pub(super) notes: Vec<Note>,
    pub(super) timeline: Timeline,
    pub(super) tree: Tree,
    pub(super) table: Table,
    pub(super) facts: Vec<Fact>,
    pub(super) rules: Vec<String>,
}

pub(super) struct Figure {
    pub(super) number: String,
    pub(super) what: &'static str,
    pub(super) class: &'static str,
}

/// Something else that one has to know, with whom it is about.
pub(super) struct Note {
    pub(super) title: String,
    pub(super) rows: Vec<String>,
}

pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) value: String,
}

impl Report {
    pub(super) fn new(number: usize, run: &Run, room: Room) -> Self {
        let sections = Sections::of(run);
        let (findings, more_findings) = findings(run, &sections, room);
        let start = run.start.as_ref();
        let table = Table::new(run, room);
        Self {
            number,
            command: match start {
                Some(start) => command(&start.argv, ""),
                None => format!("run {}", plain(&run.id)),
            },
            outcome: run.end.as_ref().map_or("end not known".to_owned(), ending),
            succeeded: run.failed() == Some(false),
            elapsed: run.end.as_ref().map(elapsed),
            host: start.map(|start| plain(&start.host)),
            began: run.began.map(|began| {
                let began = humantime::format_rfc3339_seconds(began).to_string();
                let said = began.replace('T', " ").replace('Z', " UTC");
                (began, said)
            }),
            faults: faults(run, &sections, Losses::of(run)),
            glass: glass(run).map(|glass| {
                let user = glass.user.as_deref().map(plain);
                let user = user.map_or_else(String::new, |user| format!("{user}, "));
                format!("{} ({user}uid {})", plain(&glass.reason), glass.uid)
            }),
            figures: figures(run, &sections),
            findings,
            more_findings,
            notes: notes(run),
            timeline: Timeline::new(run, room),
            tree: Tree::new(run, room),
            table,
            facts: facts(run),
            rules: start.map_or_else(Vec::new, |start| {
                let rules = start.rules.iter().map(|rule| plain(rule));
                rules.take(MAX_LISTED).collect()
            }),
        }
    }
}

fn command(argv: &[String], comm: &str) -> String {
    let line = command_line(argv, comm.as_bytes(), false);
    plain(&String::from_utf8_lossy(&line))
}

fn elapsed(end: &RunEnd) -> String {
    Elapsed(Duration::from_micros(end.elapsed_us)).to_string()
}

fn figures(run: &Run, sections: &Sections<'_>) -> Vec<Figure> {
    let traffic = |total: fn(&crate::digest::Traffic) -> u64| {
        let totals = run.targets.iter().map(|(_, target)| total(&target.traffic));
        totals.fold(0, u64::saturating_add)
    };
    let (sent, received) = (traffic(|total| total.sent), traffic(|total| total.received));
    let figure = |number: String, what, class| Figure {
        number,
        what,
        class,
    };
    let some =
        |count: usize, what, class| (count > 0).then(|| figure(count.to_string(), what, class));
    let always = |count: usize, what, class| Some(figure(count.to_string(), what, class));
    [
        if sections.would_block.is_empty() {
            always(sections.blocked.len(), "blocked", "blocked")
        } else {
            some(sections.blocked.len(), "blocked", "blocked")
        },
        some(
            sections.would_block.len(),
            "would be blocked",
            "would-block",
        ),
        some(sections.unjudged.len(), "not judged", "unjudged"),
        some(sections.delegated.len(), "through others", "delegated"),
        always(sections.allowed.len(), "allowed", "allowed"),
        Some(figure(run.lookups.to_string(), "lookups", "")),
        Some(figure(run.contacts.to_string(), "contacts", "")),
        (sent > 0).then(|| figure(Octets(sent).to_string(), "sent", "")),
        (received > 0).then(|| figure(Octets(received).to_string(), "received", "")),
    ]
    .into_iter()
    .flatten()
    // A figure that is 0 is no alarm.
    .map(|figure| Figure {
        class: if figure.number == "0" {
            ""
        } else {
            figure.class
        },
        ..figure
    })
    .collect()
}

/// What else happened to the run's processes and its policy.
fn notes(run: &Run) -> Vec<Note> {
    let end = run.end.as_ref();
    let survivors = end.filter(|end| !end.survivors.is_empty()).map(|end| {
        let fate = match end.fate {
            None => "",
            Some(Fate::Ended) => " and were ended",
            Some(Fate::Awaited) => " and were waited for",
            Some(Fate::Released) => " and go on unfiltered",
        };
        Note::new(
            format!("Outlived the command{fate}"),
            end.survivors
                .iter()
                .map(|Survivor { pid, comm, argv }| format!("{} (pid {pid})", command(argv, comm))),
        )
    });
    let moved = (!run.moved.is_empty()).then(|| {
        let title = "Moved out of the cgroup".to_owned();
        let mut note = Note::new(title, run.moved.iter().map(moved));
        if run.more_moved > 0 {
            note.rows
                .push(number(run.more_moved, "more move", "more moves"));
        }
        note
    });
    let changes = (!run.changes.is_empty()).then(|| {
        let changes = run
            .changes
            .iter()
            .map(|(time, change)| format!("+{}: {}", Elapsed(after(run, *time)), changed(change)));
        Note::new("Policy changed".to_owned(), changes)
    });
    [survivors, moved, changes].into_iter().flatten().collect()
}

impl Note {
    fn new(title: String, rows: impl ExactSizeIterator<Item = String>) -> Self {
        let count = rows.len();
        let mut rows: Vec<String> = rows.take(MAX_LISTED).collect();
        if let Some(more) = count.checked_sub(MAX_LISTED).filter(|more| *more > 0) {
            rows.push(format!("and {more} more"));
        }
        Self { title, rows }
    }
}

fn moved(moved: &Moved) -> String {
    let process = &moved.process;
    let fate = match (moved.is_back, &moved.cgroup) {
        (true, _) => "back inside",
        (false, None) => "unfiltered until it ended",
        (false, Some(_)) => "unfiltered since",
    };
    let line = command(&process.argv, &process.comm);
    let to = moved.cgroup.as_deref().map(plain);
    let to = to.map_or_else(String::new, |cgroup| format!(", {cgroup}"));
    format!("{line} (pid {}): {fate}{to}", process.pid)
}

fn changed(change: &PolicyChange) -> String {
    match (&change.error, &change.rules) {
        (Some(error), _) => format!("the former one stays: {}", plain(error)),
        (None, Some(rules)) => {
            let rules: Vec<String> = rules
                .iter()
                .take(MAX_LISTED)
                .map(|rule| plain(rule))
                .collect();
            rules.join(" ")
        }
        (None, None) => "in force".to_owned(),
    }
}

/// What one looks up: where it ran, as whom, under which policy.
fn facts(run: &Run) -> Vec<Fact> {
    let start = run.start.as_ref();
    let of = |value: fn(&RunStart) -> Option<String>| start.and_then(value);
    let end = run.end.as_ref();
    let cpu = |end: &RunEnd| Duration::from_micros(end.user_us.saturating_add(end.system_us));
    [
        ("Host", of(|start| Some(plain(&start.host)))),
        ("Kernel", of(|start| Some(plain(&start.kernel)))),
        ("User", of(|start| Some(format!("uid {}", start.uid)))),
        ("Directory", of(|start| start.cwd.as_deref().map(plain))),
        ("Mode", of(|start| Some(mode(start.mode).to_owned()))),
        (
            "Default",
            of(|start| Some(action(start.default).to_owned())),
        ),
        (
            "Direct addresses",
            of(|start| Some(direct_ip(start.direct_ip).to_owned())),
        ),
        (
            "Strict",
            of(|start| start.strict.as_ref().map(|what| plain(&what.join(", ")))),
        ),
        (
            "Processor time",
            end.map(|end| Elapsed(cpu(end)).to_string()),
        ),
        (
            "Memory",
            end.filter(|end| end.max_rss > 0)
                .map(|end| Octets(end.max_rss).to_string()),
        ),
        ("cgfw", of(|start| Some(plain(&start.version)))),
        ("Run", Some(plain(&run.id))),
        (
            "Policy digest",
            of(|start| Some(plain(&start.policy_digest))),
        ),
    ]
    .into_iter()
    .filter_map(|(name, value)| {
        Some(Fact {
            name,
            value: value?,
        })
    })
    .collect()
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforced",
        Mode::Audit => "audit: nothing refused",
        Mode::BreakGlass => "break-glass: nothing refused",
    }
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Block => "block",
    }
}

fn direct_ip(direct_ip: DirectIp) -> &'static str {
    match direct_ip {
        DirectIp::Allow => "allow",
        DirectIp::Private => "private only",
        DirectIp::Block => "block",
    }
}
