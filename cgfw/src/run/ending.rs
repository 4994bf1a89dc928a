//! The end of a run, in the reverse order of its making.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::Pid;
use tokio::time::timeout;

use super::Run;
use super::supervise::Finish;
use crate::audit::{Fate, Survivor};
use crate::bpf::Filter;
use crate::cgroup::Cgroup;
use crate::child::{Ended, SpawnError};
use crate::cli::Survivors;
use crate::event::Outcome;
use crate::exit;
use crate::report::{End, Usage};

/// What a process that outlives the command has to end by itself: the reader at the end of a
/// pipe needs a moment to see that end.
const BREATH: Duration = Duration::from_millis(250);
/// What processes have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

impl Run<'_> {
    /// End what is left of the run, in the reverse order of its making.
    pub(super) async fn close(mut self, finish: Finish, cgroup: Cgroup, filter: Filter) -> u8 {
        let elapsed = self.started.elapsed();
        let left = self.end_processes(&finish, &cgroup).await;
        let (survivors, mut failure) = match left {
            Ok(survivors) => (survivors, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        if self.settings.survivors == Survivors::Release && !survivors.is_empty() {
            failure = failure.or(self.release(&cgroup, &filter).err());
        }
        failure = failure.or(cgroup.close().err());
        self.books.enter_the_rest();
        let outcome = self.outcome(finish, failure);
        self.tell_the_end(outcome, elapsed, survivors)
    }

    /// Wait for, or ask to end, what outlived the command. The cgroup's end kills the rest.
    async fn end_processes(
        &mut self,
        finish: &Finish,
        cgroup: &Cgroup,
    ) -> anyhow::Result<Vec<Survivor>> {
        if matches!(finish, Finish::Child(_))
            && self
                .pump_until(timeout(BREATH, cgroup.emptied()))
                .await?
                .is_ok()
        {
            return Ok(Vec::new());
        }
        let survivors = survivors(cgroup, self.init)?;
        let release = self.settings.survivors == Survivors::Release;
        if release && matches!(finish, Finish::Child(_)) {
            return Ok(survivors);
        }
        cgroup.signal(Signal::SIGTERM)?;
        // Past the grace the cgroup is killed; ended or not makes no difference here.
        if let Ok(emptied) = self.pump_until(timeout(GRACE, cgroup.emptied())).await? {
            emptied?;
        }
        // What a timeout or a failure ends is the command itself, and no survivor.
        Ok(if matches!(finish, Finish::Child(_)) {
            survivors
        } else {
            Vec::new()
        })
    }

    fn release(&mut self, cgroup: &Cgroup, filter: &Filter) -> anyhow::Result<()> {
        filter
            .detach(cgroup.as_fd())
            .context("cannot detach the filter")?;
        self.books.release();
        cgroup
            .release()
            .context("cannot move processes out of the cgroup")?;
        self.books
            .report
            .warn("processes that outlive the command go on UNFILTERED (--survivors release)");
        Ok(())
    }

    fn outcome(&mut self, finish: Finish, failure: Option<anyhow::Error>) -> Outcome {
        let outcome = match finish {
            Finish::Child(Ended::Exited(code)) => {
                Outcome::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
            }
            Finish::Child(Ended::Killed(signal)) => {
                Outcome::Killed(u8::try_from(signal as i32).unwrap_or(u8::MAX))
            }
            Finish::TimedOut => Outcome::TimedOut,
            Finish::NotStarted(error) => self.not_started(&error),
            Finish::Failed(error) => {
                self.books
                    .report
                    .error(&format!("{error:#}; the run was ended"));
                Outcome::Failed
            }
        };
        let Some(failure) = failure else {
            return outcome;
        };
        self.books.report.error(&format!("{failure:#}"));
        Outcome::Failed
    }

    fn not_started(&mut self, error: &SpawnError) -> Outcome {
        let command = self.settings.command[0].display();
        match error {
            SpawnError::NotFound(_) => {
                self.books
                    .report
                    .error(&format!("{command}: command not found"));
                Outcome::NotFound
            }
            SpawnError::CannotExecute(error) => {
                self.books
                    .report
                    .error(&format!("{command}: cannot execute: {error}"));
                Outcome::CannotExecute
            }
            SpawnError::Setup { .. } => {
                self.books
                    .report
                    .error(&format!("{error}; nothing was run"));
                Outcome::Failed
            }
        }
    }

    /// What the run depends on that its baseline does not have; `None` without a baseline.
    fn news(&mut self) -> Option<Vec<String>> {
        let baseline = self.baseline.as_ref()?;
        let news = baseline.lacking(self.books.report.run());
        if self.has_overlooked() {
            self.books.report.error(
                "observations were lost: nobody knows whether there is anything that is not in \
                 the baseline",
            );
        }
        Some(news)
    }

    /// Whether the run may have contacted what its account does not have.
    fn has_overlooked(&self) -> bool {
        self.books.ledger.lost() > 0 || self.books.report.run().targets.uncounted > 0
    }

    fn tell_the_end(mut self, outcome: Outcome, elapsed: Duration, survivors: Vec<Survivor>) -> u8 {
        let blocked = self.settings.fail_on_block.filter(|_| self.books.refused);
        let lost = self.settings.strict && self.books.ledger.lost() > 0;
        let new = self.news();
        let is_new = new.as_ref().is_some_and(|new| !new.is_empty());
        // Who cannot tell must not say that there is nothing.
        let is_unknown = new.is_some() && self.has_overlooked();
        let new_code = (is_new || is_unknown).then_some(exit::NEW);
        let instead = lost.then_some(exit::FAILED).or(blocked).or(new_code);
        let exit_code = exit::code(outcome, instead);
        let usage = usage().unwrap_or_else(|error| {
            self.books
                .report
                .error(&format!("cannot tell what the command has used: {error}"));
            Usage::default()
        });
        let end = End {
            time: SystemTime::now(),
            outcome,
            exit_code,
            elapsed,
            usage,
            survivors,
            fate: match self.settings.survivors {
                Survivors::Kill => Fate::Ended,
                Survivors::Wait => Fate::Awaited,
                Survivors::Release => Fate::Released,
            },
            caveats: self.caveats,
            new,
            forgotten: self.books.ledger.forgotten(),
        };
        if lost {
            self.books
                .report
                .error("observations were lost, which fails a run with --strict");
        }
        // Said in the summary, as far as that could be written.
        let losses = self.books.report.end(end);
        if self.settings.strict && losses.audit_log > 0 {
            exit::complain("lines of the audit log were lost, which fails a run with --strict");
            return exit::code(outcome, Some(exit::FAILED));
        }
        exit_code
    }
}

/// What the command and all whom it waited for have used.
fn usage() -> nix::Result<Usage> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    Ok(Usage {
        user: time(usage.user_time()),
        system: time(usage.system_time()),
        // In KiB, getrusage(2).
        max_rss: usage.max_rss().unsigned_abs() << 10,
    })
}

/// The processes in the cgroup but for the init, as /proc describes them now.
fn survivors(cgroup: &Cgroup, init: Option<Pid>) -> io::Result<Vec<Survivor>> {
    let describe = |pid: Pid| {
        let read = |file| std::fs::read(format!("/proc/{pid}/{file}"));
        // One that has ended meanwhile did not survive.
        let comm = read("comm").ok()?;
        let argv = read("cmdline").ok()?;
        let argv = argv.strip_suffix(b"\0").unwrap_or(&argv);
        Some(Survivor {
            pid: pid.as_raw().cast_unsigned(),
            comm: String::from_utf8_lossy(comm.trim_ascii_end()).into_owned(),
            argv: argv
                .split(|b| *b == 0)
                .map(|argument| String::from_utf8_lossy(argument).into_owned())
                .collect(),
        })
    };
    Ok(cgroup
        .processes()?
        .into_iter()
        .filter(|pid| Some(*pid) != init)
        .filter_map(describe)
        .collect())
}
