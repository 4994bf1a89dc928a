//! Processes that are moved to another cgroup: by a service manager behind su or sudo, by a
//! container engine, or, as root, by themselves.

use aya_ebpf::programs::RawTracePointContext;
use cgfw_common::{ACT_MOVED, BLOCK, Deed};

use crate::cgroup;
use crate::emit::{can_read_tasks, report_on};

/// What a tracepoint returns is not looked at.
const DONE: i32 = 0;

/// TRACE_EVENT(cgroup_attach_task, dst_cgrp, path, task, threadgroup), which is hit after
/// the move (include/trace/events/cgroup.h, kernel/cgroup/cgroup.c), in every hierarchy.
#[inline(always)]
pub(crate) fn attach_task(ctx: &RawTracePointContext) -> i32 {
    if !can_read_tasks() {
        return DONE;
    }
    let task: u64 = ctx.arg(2);
    // A move in a v1 hierarchy leaves the process where it is.
    if !cgroup::is_descendant(task) || cgroup::is_ours(cgroup::of_task(task)) {
        return DONE;
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
    DONE
}
