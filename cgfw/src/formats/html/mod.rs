/*!
One file for the browser: it asks nobody for anything, and is readable without its script.

Names and command lines come from whatever runs in the cgroup. The templates escape all that
they print, and the policy in the head lets no style and no script run but the two whose hashes
it names, so that text which gets out of its element is still text. Styles are in the sheet
only, positions are attributes of SVG, and nothing is handed to the script but the document.
*/

mod finding;
mod run;
mod table;
mod timeline;
mod tree;

use std::time::{Duration, SystemTime};

use askama::Template;
use data_encoding::BASE64;
use sha2::{Digest as _, Sha256};

use self::run::Report;
use self::tree::Step;
use super::text::Elapsed;
use crate::digest::{Run, Total};
use crate::escape::Plain;
use crate::event::Verdict;

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// Runs that are shown; nobody scrolls through more.
const MAX_RUNS: usize = 50;
/// Characters of one name or command line.
const MAX_TEXT: usize = 400;

/// What a file has room for, so that a browser opens it at once.
#[derive(Clone, Copy)]
struct Room {
    findings: usize,
    lanes: usize,
    /// Parts of a lane; what falls into the same one is drawn as one mark.
    slots: usize,
    moments: usize,
    processes: usize,
    targets: usize,
}

impl Room {
    /// What each of so many runs gets.
    fn of_each(runs: usize) -> Self {
        let share = |all: usize, least: usize| (all / runs.max(1)).max(least);
        let lanes = share(48, 6).min(24);
        Self {
            findings: share(100, 5),
            lanes,
            slots: share(6000, 100) / lanes,
            moments: share(1000, 20),
            processes: share(1500, 20),
            targets: share(3000, 50),
        }
    }
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page {
    /// For the Content-Security-Policy: what may run.
    style_hash: String,
    script_hash: String,
    style: &'static str,
    script: &'static str,
    title: String,
    reports: Vec<Report>,
    more_runs: usize,
}

/// The report on some runs.
pub fn html(runs: &[Run]) -> String {
    let shown = &runs[..runs.len().min(MAX_RUNS)];
    let room = Room::of_each(shown.len());
    let reports: Vec<Report> = shown
        .iter()
        .enumerate()
        .map(|(index, run)| Report::new(index + 1, run, room))
        .collect();
    let title = match &reports[..] {
        [report] => format!("{}: {}", report.command, report.outcome),
        _ => format!("{} runs", runs.len()),
    };
    let page = Page {
        style_hash: hash(STYLE),
        script_hash: hash(SCRIPT),
        style: STYLE,
        script: SCRIPT,
        title,
        reports,
        more_runs: runs.len() - shown.len(),
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _infallible = page.render_into(&mut text);
    text
}

/// A hash source (CSP Level 3, section 2.3.1).
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64.encode(&Sha256::digest(text)))
}

/// Text of others, as much of it as is read.
fn plain(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", Plain(&text.as_bytes()[..end])),
        None => Plain(text.as_bytes()).to_string(),
    }
}

/// What became of a target or an act, in one of the words that the sheet has a colour for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Blocked,
    WouldBlock,
    Unjudged,
    Delegated,
    Allowed,
}

impl State {
    const ALL: [Self; 5] = [
        Self::Blocked,
        Self::WouldBlock,
        Self::Unjudged,
        Self::Delegated,
        Self::Allowed,
    ];

    /// Of an act on such a target.
    fn of(verdict: Verdict, total: Option<&Total>) -> Self {
        match verdict {
            Verdict::Blocked => Self::Blocked,
            Verdict::WouldBlock => Self::WouldBlock,
            Verdict::Allowed if total.is_some_and(|total| total.delegated.is_some()) => {
                Self::Delegated
            }
            Verdict::Allowed if total.is_some_and(|total| total.unjudged) => Self::Unjudged,
            Verdict::Allowed => Self::Allowed,
        }
    }

    /// By which a column is sorted.
    fn rank(self) -> usize {
        Self::ALL.iter().take_while(|state| **state != self).count()
    }

    fn class(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::WouldBlock => "would-block",
            Self::Unjudged => "unjudged",
            Self::Delegated => "delegated",
            Self::Allowed => "allowed",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::WouldBlock => "would be blocked",
            Self::Unjudged => "not judged by name",
            Self::Delegated => "through others",
            Self::Allowed => "allowed",
        }
    }
}

/// `1 lookup`, `2 lookups`
fn number<N>(count: N, one: &str, many: &str) -> String
where
    u64: TryFrom<N>,
{
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let noun = if count == 1 { one } else { many };
    format!("{count} {noun}")
}

/// A time that was lost, `None` if it is none that anybody notices.
fn wait(time: Duration) -> Option<String> {
    (time >= Duration::from_millis(1)).then(|| Elapsed(time).to_string())
}

/// How long after the run's beginning that was.
fn after(run: &Run, time: SystemTime) -> Duration {
    run.began
        .and_then(|began| time.duration_since(began).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
