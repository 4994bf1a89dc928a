//! The lines of the audit log that tell of the run as a whole.

use std::time::SystemTime;

use super::{End, PolicyChange, Start};
use crate::audit::{
    self, Event, Glass, Line, Loss, Mode, Outcome, RunEnd, RunStart, microseconds, strings,
};
use crate::digest::Run;
use crate::event;

/// The first line of a run.
pub(super) fn run_start(run: &str, start: &Start<'_>) -> Line {
    let protection = start.protection;
    let event = Event::RunStart(Box::new(RunStart {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trace_id: start.trace_id.map(str::to_owned),
        mode: match (start.break_glass, start.audit) {
            (Some(_), _) => Mode::BreakGlass,
            (None, true) => Mode::Audit,
            (None, false) => Mode::Enforce,
        },
        break_glass: start.break_glass.map(|glass| Glass {
            reason: glass.reason.clone(),
            user: glass.user.clone(),
            uid: glass.uid,
        }),
        default: start.policy.default_action(),
        direct_ip: start.policy.direct_ip(),
        rules: start.rules.to_vec(),
        policy_digest: start.policy_digest.to_owned(),
        uid: start.uid,
        argv: strings(start.command),
        cwd: start.cwd.map(|cwd| cwd.to_string_lossy().into_owned()),
        host: start.host.to_owned(),
        kernel: protection.kernel.clone(),
        cgroup: protection.cgroup.to_string_lossy().into_owned(),
        hooks: protection.hooks.clone(),
        sees_sockets: protection.sees_sockets,
        sees_processes: protection.sees_processes,
        strict: protection.strict.clone(),
        can_be_left: protection.can_be_left(),
    }));
    Line::new(run, start.time, event)
}

/// The line of a change of policy, or of one that failed.
pub(super) fn policy(run: &str, change: &PolicyChange<'_>) -> Line {
    let new = change.outcome.ok();
    let event = Event::Policy(audit::PolicyChange {
        default: new.map(|new| new.policy.default_action()),
        direct_ip: new.map(|new| new.policy.direct_ip()),
        rules: new.map(|new| new.rules.to_vec()),
        policy_digest: new.map(|new| new.digest.to_owned()),
        error: change.outcome.err().map(str::to_owned),
    });
    Line::new(run, change.time, event)
}

/// The line that says that observations were lost.
pub(super) fn loss(run: &str, time: SystemTime, count: u64) -> Line {
    Line::new(run, time, Event::Loss(Loss { count }))
}

/// The last line of a run, with the sums of those before it.
pub(super) fn run_end(run: &Run, end: End, lines_lost: u64) -> Line {
    let (outcome, status, signal) = match end.outcome {
        event::Outcome::Exited(status) => (Outcome::Exited, Some(status), None),
        event::Outcome::Killed(signal) => (Outcome::Killed, None, Some(signal)),
        event::Outcome::TimedOut => (Outcome::TimedOut, None, None),
        event::Outcome::NotFound => (Outcome::NotFound, None, None),
        event::Outcome::CannotExecute => (Outcome::CannotExecute, None, None),
        event::Outcome::Failed => (Outcome::Failed, None, None),
    };
    let event = Event::RunEnd(Box::new(RunEnd {
        outcome,
        status,
        signal,
        exit_code: end.exit_code,
        elapsed_us: microseconds(end.elapsed),
        lookups: run.lookups,
        contacts: run.contacts,
        blocked: run.blocked,
        user_us: microseconds(end.usage.user),
        system_us: microseconds(end.usage.system),
        max_rss: end.usage.max_rss,
        fate: (!end.survivors.is_empty()).then_some(end.fate),
        survivors: end.survivors,
        caveats: end.caveats,
        new: end.new,
        lost: run.lost,
        forgotten: end.forgotten,
        lines_lost,
    }));
    Line::new(&run.id, end.time, event)
}
