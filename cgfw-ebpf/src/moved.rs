//! Processes that are moved to another cgroup: by a service manager behind su or sudo, by a
//! container engine, or, as root, by themselves; and those that are born in another one.

use aya_ebpf::programs::RawTracePointContext;
use cgfw_common::{ACT_MOVED, BLOCK, Deed};

use crate::cgroup;
use crate::emit::{can_read_tasks, report_on};

/// What a tracepoint returns is not looked at.
pub(crate) const DONE: i32 = 0;

/// TRACE_EVENT(cgroup_attach_task, dst_cgrp, path, task, threadgroup), which is hit after
/// the move (include/trace/events/cgroup.h, kernel/cgroup/cgroup.c), in every hierarchy.
#[inline(always)]
pub(crate) fn attach_task(ctx: &RawTracePointContext) -> i32 {
    if !can_read_tasks() {
        return DONE;
    }
    let (to, task): (u64, u64) = (ctx.arg(0), ctx.arg(2));
    // A process that is about to end is not moved any more, and this is hit all the same.
    if cgroup::is_ours(to) {
        return DONE;
    }
    // A move in a v1 hierarchy leaves the process where it is.
    report_if_outside(task);
    DONE
}

/// TRACE_EVENT(sched_process_fork, parent, child), which is hit before the child runs
/// (kernel_clone in kernel/fork.c): clone3(CLONE_INTO_CGROUP), as container engines use it,
/// makes a process elsewhere without moving it.
#[inline(always)]
pub(crate) fn fork(ctx: &RawTracePointContext) {
    if !can_read_tasks() {
        return;
    }
    let (parent, child): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    // As all but few: this is hit by every fork on the host.
    if cgroup::of_task(parent) != cgroup::of_task(child) {
        report_if_outside(child);
    }
}

/// Report a process that cgfw is above, if it is not in the cgroup of the run.
#[inline(always)]
fn report_if_outside(task: u64) {
    if !cgroup::is_descendant(task) || cgroup::is_ours(cgroup::of_task(task)) {
        return;
    }
    let deed = Deed {
        destination: [0; 4],
        source_port: 0,
        id: 0,
        kind: ACT_MOVED,
        // Nobody was refused anything: it wakes the reader.
        action: BLOCK,
        destination_port: 0,
        protocol: 0,
    };
    report_on(task, &deed);
}
