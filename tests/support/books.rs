//! What an audit log adds up to.

use std::io::BufRead;

use serde::Deserialize;

/// The sums of a run.
#[derive(Debug, Default)]
pub struct Books {
    pub allowed: u64,
    pub blocked: u64,
    /// Acts without a process, or with one whose arguments are not known.
    pub unattributed: u64,
    pub lost: u64,
    pub lines_lost: u64,
    /// What the lines say that tell of losses as they happen.
    losses: u64,
}

#[derive(Deserialize)]
struct Line<'l> {
    event: &'l str,
    verdict: Option<&'l str>,
    #[serde(default)]
    count: u64,
    argv: Option<Vec<String>>,
    #[serde(default)]
    lost: u64,
    #[serde(default)]
    lines_lost: u64,
}

impl Books {
    pub fn of(log: impl BufRead) -> Self {
        let mut books = Self::default();
        for line in log.lines() {
            let line = line.unwrap();
            books.enter(&serde_json::from_str(&line).expect(&line));
        }
        assert!(
            books.losses == books.lost || books.lines_lost > 0,
            "{books:?}"
        );
        books
    }

    fn enter(&mut self, line: &Line<'_>) {
        match (line.event, line.verdict) {
            ("loss", _) => self.losses += line.count,
            ("run_end", _) => (self.lost, self.lines_lost) = (line.lost, line.lines_lost),
            (_, None) => {}
            (_, Some(verdict)) => {
                match verdict {
                    "allowed" => self.allowed += line.count,
                    _ => self.blocked += line.count,
                }
                self.unattributed += u64::from(line.argv.as_ref().is_none_or(Vec::is_empty));
            }
        }
    }

    /// The verdict of the summary owns up to what is not in the books.
    #[track_caller]
    pub fn expect_losses_shown(&self, stderr: &str) {
        let verdict = stderr.lines().last().unwrap_or_default();
        for (count, what) in [(self.lost, "observation"), (self.lines_lost, "line")] {
            let is_shown = verdict.contains(&format!(" {count} {what}"));
            assert!(count == 0 || is_shown, "{self:?}: {verdict}");
        }
    }
}
