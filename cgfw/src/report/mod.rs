/*!
What is told: a line for each refusal and a summary on stderr, and the audit log.

Writing never blocks the run and never fails it: what cannot be written is counted, said
once, and counted in the summary.
*/

mod audit;
mod escape;
mod line;
mod outlet;
mod protection;
mod text;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use self::audit::{SCHEMA, encode};
pub use self::escape::Plain;
pub(crate) use self::escape::{command_line, is_visible};
use self::outlet::Outlet;
pub use self::protection::{Privileges, Protection};
pub use self::text::Paint;
use crate::event::{Moved, Outcome, Verdict};
use crate::ledger::{Exit, Observation, Totals};
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

/// How text looks on stderr.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    pub color: bool,
    /// Columns that the summary is cut to; `None` if it is not a terminal.
    pub width: Option<usize>,
}

/// What is known when a run starts.
#[derive(Clone, Copy, Debug)]
pub struct Start<'r> {
    pub time: SystemTime,
    pub policy: &'r Policy,
    /// The rules as they were written, with where.
    pub rules: &'r [String],
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
    /// The policy that is in force from now on and where its rules come from; or why the former
    /// one stays.
    pub outcome: Result<(&'r Policy, &'r [String]), &'r str>,
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
pub struct End<'r> {
    pub time: SystemTime,
    pub command: &'r [Vec<u8>],
    pub outcome: Outcome,
    pub exit_code: u8,
    pub elapsed: Duration,
    /// Processes that outlived the command.
    pub survivors: Vec<Survivor>,
    pub fate: Fate,
    /// What else keeps the report from being complete, each a clause such as `http_proxy
    /// is set: names behind it cannot be seen`.
    pub caveats: Vec<String>,
}

/// What became of the processes that outlived the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They were asked to end, and made to.
    Ended,
    /// They were waited for.
    Awaited,
    /// They were let go, unfiltered.
    Released,
}

/// A process that outlived the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    pub pid: u32,
    pub comm: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
}

/// Lines that could not be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    pub stderr: u64,
    pub audit_log: u64,
}

#[derive(Debug)]
struct AuditLog {
    path: PathBuf,
    outlet: Outlet,
}

/// Tells of a run.
#[derive(Debug)]
pub struct Report {
    run: String,
    default: Action,
    verbosity: Verbosity,
    style: Style,
    stderr: Outlet,
    audit_log: Option<AuditLog>,
    break_glass: Option<BreakGlass>,
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
            run,
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
            break_glass: None,
            said_that_lines_are_lost: false,
            said_that_observations_are_lost: false,
        })
    }

    /// The run starts: the first line of the audit log, and what is enforced. That nothing
    /// is, because of an emergency, is said however little is wanted.
    pub fn start(&mut self, start: &Start<'_>) {
        self.audit(|run| audit::run_start(run, start));
        if let Some(glass) = start.break_glass {
            let line = line::break_glass(glass, self.style);
            self.stderr.write(line.into_bytes());
            if self.audit_log.is_none() {
                self.say(
                    "there is no record of this but here; --audit-log FILE keeps one of \
                     --break-glass",
                );
            }
            self.break_glass = Some(glass.clone());
        }
        if self.verbosity >= Verbosity::Verbose {
            self.say(&start.protection.to_string());
        }
    }

    /// The files of the policy have changed.
    pub fn policy(&mut self, change: &PolicyChange<'_>) {
        self.audit(|run| audit::policy(run, change));
        match change.outcome {
            Ok((policy, rules)) => {
                self.default = policy.default_action();
                self.warn(&format!("the policy has changed: {}", rules.join(", ")));
            }
            Err(error) => self.error(&format!(
                "the policy cannot be changed, the former one stays in force: {error}"
            )),
        }
    }

    /// Tell of an observation, if it is news and wanted.
    pub fn observe(&mut self, observation: &Observation) {
        self.audit(|run| audit::entry(run, observation));
        let from = match observation.verdict {
            Verdict::Allowed if !observation.startling => Verbosity::Verbose,
            Verdict::Allowed | Verdict::Blocked | Verdict::WouldBlock => Verbosity::Normal,
        };
        if observation.first && self.verbosity >= from {
            let line = line::of(observation, self.default, self.style);
            self.stderr.write(line.into_bytes());
        }
    }

    /// A process has ended that acted, or one that it comes from.
    pub fn exited(&mut self, _exit: &Exit) {}

    /// A process was moved out of the cgroup; `first` if that is news.
    pub fn moved(&mut self, time: SystemTime, moved: &Moved, first: bool) {
        self.audit(|run| audit::moved(run, time, moved));
        if first && self.verbosity >= Verbosity::Normal {
            let line = line::moved(moved, self.style);
            self.stderr.write(line.into_bytes());
        }
    }

    /// So many observations were lost between the kernel and the ledger.
    pub fn lost(&mut self, time: SystemTime, count: u64) {
        self.audit(|run| audit::loss(run, time, count));
        // A flood loses some many times a second.
        if !std::mem::replace(&mut self.said_that_observations_are_lost, true) {
            self.warn(
                "observations are being lost; enforcement is not affected, the report is \
                 incomplete, and the summary will say by how many",
            );
        }
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
    pub fn end(mut self, end: &End<'_>, totals: &Totals) -> Losses {
        let mut losses = Losses::default();
        if let Some(log) = self.audit_log.take() {
            let line = audit::run_end(&self.run, end, totals, log.outlet.lost());
            log.outlet.write_last(line, GRACE);
            let closed = log.outlet.close(GRACE);
            losses.audit_log = closed.lost;
            if closed.lost > 0 {
                self.say_that_lines_are_lost(&log.path, closed.error);
            }
        }
        if self.verbosity >= Verbosity::Normal {
            losses.stderr = self.stderr.lost();
            let glass = self.break_glass.as_ref();
            let summary = text::summary(end, glass, totals, losses, self.style);
            self.stderr.write_last(summary.into_bytes(), GRACE);
        }
        losses.stderr = self.stderr.close(GRACE).lost;
        losses
    }

    fn audit(&mut self, line: impl FnOnce(&str) -> Vec<u8>) {
        let Some(log) = &self.audit_log else {
            return;
        };
        log.outlet.write(line(&self.run));
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

/// An abstract name as rules, ss(8) and /proc/net/unix have it.
fn abstract_name(name: &[u8]) -> Vec<u8> {
    [b"@", name].concat()
}

/// The name of an IANA protocol number, or the number.
fn proto(number: u8) -> String {
    let name = match i32::from(number) {
        libc::IPPROTO_TCP => "tcp",
        libc::IPPROTO_UDP => "udp",
        libc::IPPROTO_ICMP => "icmp",
        libc::IPPROTO_ICMPV6 => "icmpv6",
        libc::IPPROTO_UDPLITE => "udplite",
        libc::IPPROTO_SCTP => "sctp",
        _ => return number.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests;
