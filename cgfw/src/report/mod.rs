/*!
What is told: a line for each refusal and a summary on stderr, and the audit log.

Writing never blocks the run and never fails it: what cannot be written is counted, said
once, and counted in the summary.
*/

mod audit;
mod line;
mod outlet;
mod protection;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use self::outlet::Outlet;
pub use self::protection::{Privileges, Protection};
use crate::audit::{Fate, Follower, Line, Survivor};
use crate::digest::Run;
use crate::escape::Plain;
use crate::event::{Moved, Outcome, Verdict};
use crate::formats::{self, Detail, Format, Losses, Style};
use crate::ledger::{Ended, Entry, Exit, Observation};
use crate::policy::{Action, Policy};

/// How long the end of a run waits for a disk or a reader that is slow.
const GRACE: Duration = Duration::from_secs(2);

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors of cgfw itself.
    Quiet,
    /// Refusals and the summary as well.
    Normal,
    /// What is allowed as well.
    Verbose,
}

/// What is known when a run starts.
#[derive(Clone, Copy, Debug)]
pub struct Start<'r> {
    pub time: SystemTime,
    pub policy: &'r Policy,
    /// The rules as they were written, with where.
    pub rules: &'r [String],
    /// Identifies the policy, whatever its files are called.
    pub policy_digest: &'r str,
    /// The name of the host.
    pub host: &'r str,
    /// The trace that the run is a part of.
    pub trace_id: Option<&'r str>,
    /// Nothing is refused (`--audit`).
    pub audit: bool,
    /// Nothing is refused because of an emergency.
    pub break_glass: Option<&'r BreakGlass>,
    /// The user that the command runs as.
    pub uid: u32,
    pub command: &'r [Vec<u8>],
    pub cwd: Option<&'r Path>,
    pub protection: &'r Protection,
}

/// What became of changed policy files (`--watch`).
#[derive(Clone, Debug)]
pub struct PolicyChange<'r> {
    pub time: SystemTime,
    /// What is in force from now on, or why the former policy stays.
    pub outcome: Result<NewPolicy<'r>, &'r str>,
}

/// A policy, with where its rules come from.
#[derive(Clone, Copy, Debug)]
pub struct NewPolicy<'r> {
    pub policy: &'r Policy,
    pub rules: &'r [String],
    pub digest: &'r str,
}

/// Why a run refuses nothing, and who says so (`--break-glass`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakGlass {
    pub reason: String,
    /// Who called cgfw, or called sudo to; `None` if there is no such user (any more).
    pub user: Option<String>,
    pub uid: u32,
}

/// What is known when a run has ended.
#[derive(Clone, Debug)]
pub struct End {
    pub time: SystemTime,
    pub outcome: Outcome,
    pub exit_code: u8,
    pub elapsed: Duration,
    pub usage: Usage,
    /// Processes that outlived the command.
    pub survivors: Vec<Survivor>,
    pub fate: Fate,
    /// What else keeps the report from being complete, each a clause such as `http_proxy
    /// is set: names behind it cannot be seen`.
    pub caveats: Vec<String>,
    /// What is not in the baseline, if there is one.
    pub new: Option<Vec<String>>,
    /// Addresses of names that were forgotten for want of room.
    pub forgotten: u64,
}

/// What the command and all that it waited for have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub user: Duration,
    pub system: Duration,
    /// The most memory that one process had, in octets.
    pub max_rss: u64,
}

#[derive(Debug)]
struct AuditLog {
    path: PathBuf,
    outlet: Outlet<Line>,
}

/// A report that is written to a file when the run has ended.
#[derive(Debug)]
struct Left {
    form: Form,
    path: PathBuf,
    outlet: Outlet,
}

/// What is written there.
#[derive(Clone, Copy, Debug)]
enum Form {
    Report(Format),
    /// Markdown below what others have written, in so many octets.
    StepSummary {
        room: usize,
    },
}

/// Tells of a run.
#[derive(Debug)]
pub struct Report {
    run: Run,
    default: Action,
    verbosity: Verbosity,
    style: Style,
    stderr: Outlet,
    audit_log: Option<AuditLog>,
    left: Vec<Left>,
    /// Until when the log may be waited for; `None` while the command runs.
    deadline: Option<Instant>,
    follower: Option<Box<dyn Follower>>,
    annotates: bool,
    said_that_lines_are_lost: bool,
    said_that_observations_are_lost: bool,
}

impl Report {
    /// `run` identifies the run in the audit log, `default` is the verdict where no rule
    /// speaks. The audit log comes with the path that it was opened by.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub fn new(
        run: String,
        default: Action,
        verbosity: Verbosity,
        style: Style,
        stderr: impl Write + Send + 'static,
        audit_log: Option<(PathBuf, impl Write + Send + 'static)>,
    ) -> io::Result<Self> {
        Ok(Self {
            run: Run::new(run),
            default,
            verbosity,
            style,
            stderr: Outlet::new("cgfw-stderr", stderr)?,
            audit_log: audit_log
                .map(|(path, file)| {
                    let outlet = Outlet::new("cgfw-audit", file)?;
                    Ok::<_, io::Error>(AuditLog { path, outlet })
                })
                .transpose()?,
            left: Vec::new(),
            deadline: None,
            follower: None,
            annotates: false,
            said_that_lines_are_lost: false,
            said_that_observations_are_lost: false,
        })
    }

    /// Write a report to `file`, of that path, when the run has ended.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub fn leave(
        &mut self,
        format: Format,
        path: PathBuf,
        file: impl Write + Send + 'static,
    ) -> io::Result<()> {
        self.leave_as(Form::Report(format), path, file)
    }

    /// Annotate the step of GitHub Actions when the run has ended, however little is wanted on
    /// stderr: it is the service that reads them.
    pub fn annotate(&mut self) {
        self.annotates = true;
    }

    /// Append to the step summary of GitHub Actions, which has room for so many octets more.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub fn leave_step_summary(
        &mut self,
        path: PathBuf,
        file: impl Write + Send + 'static,
        room: usize,
    ) -> io::Result<()> {
        self.leave_as(Form::StepSummary { room }, path, file)
    }

    fn leave_as(
        &mut self,
        form: Form,
        path: PathBuf,
        file: impl Write + Send + 'static,
    ) -> io::Result<()> {
        let outlet = Outlet::new("cgfw-report", file)?;
        self.left.push(Left { form, path, outlet });
        Ok(())
    }

    /// Tell `follower`, too.
    pub fn tell_also(&mut self, follower: Box<dyn Follower>) {
        self.follower = Some(follower);
    }

    /// The run starts: the first line of the audit log, and what is enforced. That nothing
    /// is, because of an emergency, is said however little is wanted.
    pub fn start(&mut self, start: &Start<'_>) {
        self.enter(audit::run_start(&self.run.id, start));
        if let Some(glass) = start.break_glass {
            let line = line::break_glass(glass, self.style);
            self.stderr.write(line.into_bytes());
            if self.audit_log.is_none() {
                self.say(
                    "there is no record of this but here; --audit-log FILE keeps one of \
                     --break-glass",
                );
            }
        }
        if self.verbosity >= Verbosity::Verbose {
            self.say(&start.protection.to_string());
        }
    }

    /// The files of the policy have changed.
    pub fn policy(&mut self, change: &PolicyChange<'_>) {
        self.enter(audit::policy(&self.run.id, change));
        match change.outcome {
            Ok(new) => {
                self.default = new.policy.default_action();
                self.warn(&format!("the policy has changed: {}", new.rules.join(", ")));
            }
            Err(error) => self.error(&format!(
                "the policy cannot be changed, the former one stays in force: {error}"
            )),
        }
    }

    /// Tell what the books have to tell: all of it to the log, to people what is news and
    /// wanted.
    pub fn tell(&mut self, entry: &Entry) {
        match entry {
            Entry::Observed(observation) => self.observe(observation),
            Entry::Exited(exit) => self.exited(exit),
            Entry::Ended(ended) => self.ended(ended),
            Entry::Moved { time, moved, first } => self.moved(*time, moved, *first),
            Entry::Lost { time, count } => self.lost(*time, *count),
        }
    }

    fn observe(&mut self, observation: &Observation) {
        self.enter(Line::observed(&self.run.id, observation));
        let from = match observation.verdict {
            Verdict::Allowed if !observation.startling => Verbosity::Verbose,
            Verdict::Allowed | Verdict::Blocked | Verdict::WouldBlock => Verbosity::Normal,
        };
        if observation.first && self.verbosity >= from {
            let line = line::of(observation, self.default, self.style);
            self.stderr.write(line.into_bytes());
        }
    }

    fn exited(&mut self, exit: &Exit) {
        self.enter(Line::exited(&self.run.id, exit));
    }

    fn ended(&mut self, ended: &Ended) {
        self.enter(Line::ended(&self.run.id, ended));
    }

    fn moved(&mut self, time: SystemTime, moved: &Moved, first: bool) {
        self.enter(Line::moved(&self.run.id, time, moved));
        if first && self.verbosity >= Verbosity::Normal {
            let line = line::moved(moved, self.style);
            self.stderr.write(line.into_bytes());
        }
    }

    fn lost(&mut self, time: SystemTime, count: u64) {
        self.enter(audit::loss(&self.run.id, time, count));
        // A flood loses some many times a second.
        if !std::mem::replace(&mut self.said_that_observations_are_lost, true) {
            self.warn(
                "observations are being lost; enforcement is not affected, the report is \
                 incomplete, and the summary will say by how many",
            );
        }
    }

    /// The command has ended: from now on what is told may wait, though not for ever, for its
    /// place in the log. All sums are told at once.
    pub fn wait_for_the_log(&mut self) {
        self.deadline = Some(Instant::now() + GRACE);
    }

    /// What was told so far.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Say something that is not an error, unless that is not wanted.
    pub fn warn(&mut self, message: &str) {
        if self.verbosity >= Verbosity::Normal {
            self.say(message);
        }
    }

    /// Say something however little is wanted.
    pub fn error(&mut self, message: &str) {
        self.say(message);
    }

    /// The run has ended: the last line of the audit log and the summary. Waits for both
    /// to be written, but not for ever.
    pub fn end(mut self, end: End) -> Losses {
        let mut losses = Losses::default();
        let log = self.audit_log.take();
        let lines_lost = log.as_ref().map_or(0, |log| log.outlet.lost());
        let line = audit::run_end(&self.run, end, lines_lost);
        self.run.add(&line);
        if let Some(follower) = &mut self.follower {
            follower.follow(line.clone());
        }
        if let Some(log) = log {
            log.outlet.write_last(line, GRACE);
            let closed = log.outlet.close(GRACE);
            losses.audit_log = closed.lost;
            if closed.lost > 0 {
                self.say_that_lines_are_lost(&log.path, closed.error);
            }
        }
        self.write_reports();
        if let Some(complaint) = self.follower.take().and_then(Follower::finish) {
            self.error(&complaint);
        }
        if self.annotates {
            let annotations = formats::github(std::slice::from_ref(&self.run));
            self.stderr.write_last(annotations.into_bytes(), GRACE);
        }
        if self.verbosity >= Verbosity::Normal {
            losses.stderr = self.stderr.lost();
            let summary = formats::text(&self.run, Detail::Summary, losses, self.style);
            self.stderr.write_last(summary.into_bytes(), GRACE);
        }
        losses.stderr = self.stderr.close(GRACE).lost;
        losses
    }

    /// The reports that were asked for. One that cannot be written is said, and no reason to
    /// call the command failed.
    fn write_reports(&mut self) {
        let runs = std::slice::from_ref(&self.run);
        let mut complaints = Vec::new();
        for Left { form, path, outlet } in self.left.drain(..) {
            let Some(text) = form.text(runs) else {
                let path = path.display();
                complaints.push(format!("the step summary {path} has no room left"));
                continue;
            };
            outlet.write_last(text.into_bytes(), GRACE);
            let closed = outlet.close(GRACE);
            if closed.lost > 0 || closed.error.is_some() {
                let reason = closed
                    .error
                    .map_or("it takes too long".to_owned(), |error| error.to_string());
                complaints.push(format!(
                    "cannot write the report {}: {reason}",
                    path.display()
                ));
            }
        }
        for complaint in complaints {
            self.error(&complaint);
        }
    }

    /// Enter a line into the account of the run, and into the log.
    fn enter(&mut self, line: Line) {
        self.run.add(&line);
        if let Some(follower) = &mut self.follower {
            follower.follow(line.clone());
        }
        let Some(log) = &self.audit_log else {
            return;
        };
        match self.deadline {
            None => log.outlet.write(line),
            Some(deadline) => {
                let grace = deadline.saturating_duration_since(Instant::now());
                log.outlet.write_last(line, grace);
            }
        }
        let error = log.outlet.take_error();
        if error.is_some() || log.outlet.lost() > 0 {
            let path = log.path.clone();
            self.say_that_lines_are_lost(&path, error);
        }
    }

    fn say_that_lines_are_lost(&mut self, path: &Path, error: Option<io::Error>) {
        if std::mem::replace(&mut self.said_that_lines_are_lost, true) {
            return;
        }
        let reason = error.map_or("it is too slow".to_owned(), |error| error.to_string());
        self.say(&format!(
            "cannot write to the audit log {}: {reason}; the run goes on, lost lines are counted",
            path.display()
        ));
    }

    fn say(&mut self, message: &str) {
        let line = format!("cgfw: {}\n", Plain(message.as_bytes()));
        self.stderr.write(line.into_bytes());
    }
}

impl Form {
    /// The text on some runs; `None` if there is no room for it.
    fn text(self, runs: &[Run]) -> Option<String> {
        match self {
            Self::Report(format) => Some(formats::render(format, runs, Style::default())),
            Self::StepSummary { room } => {
                // Set apart from what is there, which may be in the middle of a line.
                let text = formats::markdown_within(runs, room.checked_sub(2)?)?;
                Some(format!("\n\n{text}"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
