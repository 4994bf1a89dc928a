//! Processes of the run that come and go: forks, execs and ends.
//!
//! The hooks are hit by every process of the host, and leave at once where it is not one of
//! the run. Of paths only what is executed is worth the walk; an act has but the identity of
//! its working directory.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_boot_ns, bpf_probe_read_kernel_str, bpf_probe_read_user,
};
use aya_ebpf::programs::RawTracePointContext;
use cgfw_common::{
    ACT_EXECUTED, ACT_EXITED, ACT_FORKED, COUNTER_LOST, CWD, Directory, EXE, EXEC_ARGV_LEN,
    EXEC_TEXT_LEN, Exec, Exit, Fork, SCRIPT_LEN,
};

use crate::emit::{
    can_read_tasks, count, current_task, is_half_full, now, read, read_word, read_words,
};
use crate::maps::{ACTS, CGROUP, DRAFT, WALK, config};
use crate::moved::DONE;

/// NAME_MAX, include/uapi/linux/limits.h, and a final zero.
const NAME_LEN: usize = 256;
/// SIGNAL_GROUP_EXIT, include/linux/sched/signal.h.
const GROUP_EXIT: u32 = 4;
/// Steps of a path in one program. A program can be followed by 33 others: MAX_TAIL_CALL_CNT,
/// include/linux/bpf.h, 32 before 5.17.
const STEPS: usize = 4;

/// A record of what is executed, with what is left of the way.
#[repr(C)]
pub(crate) struct Draft {
    exec: Exec,
    text: [u8; EXEC_TEXT_LEN + NAME_LEN],
    /// Octets of `text` that are used.
    used: u64,
    /// The `vfsmount` and `dentry` that are next.
    mount: u64,
    dentry: u64,
    /// Where that leads up from: [`EXE`] or [`CWD`].
    from: u32,
    /// Where in `text` the way starts.
    start: u32,
}

/// TRACE_EVENT(sched_process_fork, parent, child), before the child runs; `parent` is the caller.
#[inline(always)]
pub(crate) fn forked(ctx: &RawTracePointContext) -> i32 {
    if !can_read_tasks() || !is_of_the_run() {
        return DONE;
    }
    let (parent, child): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    // pid, and behind it tgid: in a new thread they differ.
    let mut ids = [0_u32; 2];
    read(child, config!(offsets.task_pid), &raw mut ids);
    if ids[0] != ids[1] {
        return DONE;
    }
    let record = Fork {
        time: now(),
        parent_started: started(parent),
        child_started: read_word(child, config!(offsets.task_start_boottime)),
        parent: tgid(parent),
        kind: ACT_FORKED,
        child: ids[1],
        reserved: 0,
    };
    let Some(mut slot) = ACTS.reserve::<Fork>(0) else {
        count(COUNTER_LOST);
        return DONE;
    };
    slot.write(record);
    slot.submit(urgency());
    DONE
}

/// TRACE_EVENT(sched_process_exit, p), which is hit by each thread; `p` is the caller. Its last
/// one finds nobody alive (do_exit in kernel/exit.c).
#[inline(always)]
pub(crate) fn exited() -> i32 {
    if !can_read_tasks() || !is_of_the_run() {
        return DONE;
    }
    let task = current_task();
    let signal = read_word(task, config!(offsets.task_signal));
    let mut live = 0_u32;
    read(signal, config!(offsets.signal_live), &raw mut live);
    if live != 0 {
        return DONE;
    }
    // As wait_task_zombie (kernel/exit.c) chooses.
    let leader = read_word(task, config!(offsets.task_group_leader));
    let mut flags = 0_u32;
    read(signal, config!(offsets.signal_flags), &raw mut flags);
    let mut status = 0_u32;
    if flags & GROUP_EXIT == 0 {
        read(leader, config!(offsets.task_exit_code), &raw mut status);
    } else {
        let group_exit_code = config!(offsets.signal_group_exit_code);
        read(signal, group_exit_code, &raw mut status);
    }
    let started = read_word(leader, config!(offsets.task_start_boottime));
    // SAFETY: takes nothing and cannot fail.
    let age = unsafe { bpf_ktime_get_boot_ns() }.wrapping_sub(started);
    let record = Exit {
        time: now(),
        started,
        age,
        tgid: tgid(task),
        kind: ACT_EXITED,
        status,
        reserved: 0,
    };
    let Some(mut slot) = ACTS.reserve::<Exit>(0) else {
        count(COUNTER_LOST);
        return DONE;
    };
    slot.write(record);
    slot.submit(urgency());
    DONE
}

/// TRACE_EVENT(sched_process_exec, p, old_pid, bprm), before the new program runs (exec_binprm
/// in fs/exec.c); `p` is the caller.
#[inline(always)]
pub(crate) fn executed(ctx: &RawTracePointContext) -> i32 {
    if !can_read_tasks() || !is_of_the_run() {
        return DONE;
    }
    let task = current_task();
    let Some(draft) = draft() else {
        return DONE;
    };
    let mm = read_word(task, config!(offsets.task_mm));
    describe(task, mm, &mut draft.exec);
    draft.used = copy_argv(draft);
    copy_script(ctx.arg(2), draft);
    let file = read_word(mm, config!(offsets.mm_exe_file));
    let path = config!(offsets.file_path);
    set_out(
        draft,
        EXE,
        [read_word(file, path), read_word(file, path + 8)],
    );
    go_on(ctx, draft);
    DONE
}

/// Whether the caller is in the cgroup of the run, or below it: all that the rest of the host
/// is asked.
#[inline(always)]
fn is_of_the_run() -> bool {
    matches!(CGROUP.current_task_under_cgroup(0), Ok(true))
}

/// What is new of a process that executes something. Words are set one by one: they are in
/// a map, where the compiler cannot set many at once.
#[inline(always)]
fn describe(task: u64, mm: u64, exec: &mut Exec) {
    exec.time = now();
    exec.started = started(task);
    exec.image = read_word(task, config!(offsets.task_self_exec_id));
    exec.tgid = tgid(task);
    exec.kind = ACT_EXECUTED;
    exec.ppid = tgid(read_word(task, config!(offsets.task_real_parent)));
    let cred = read_word(task, config!(offsets.task_cred));
    read(cred, config!(offsets.cred_uid), &raw mut exec.uid);
    read(task, config!(offsets.task_comm), &raw mut exec.comm);
    read_directory(task, &mut exec.directory);
    // arg_end follows arg_start.
    let arguments: *mut [u64; 2] = (&raw mut exec.argv_start).cast();
    read(mm, config!(offsets.mm_arg_start), arguments);
    exec.script_len = 0;
    exec.exe_len = 0;
    exec.cwd_len = 0;
    exec.told = 0;
    exec.deleted = 0;
}

/// The arguments come first. How many octets they are.
#[inline(always)]
fn copy_argv(draft: &mut Draft) -> u64 {
    let (start, end) = (draft.exec.argv_start, draft.exec.argv_end);
    let length = end.wrapping_sub(start).min(EXEC_ARGV_LEN as u64 - 1) as u32;
    // The mask is for the verifier, which does not always follow a comparison.
    let length = length & (EXEC_ARGV_LEN as u32 - 1);
    let to = draft.text.as_mut_ptr().cast();
    // SAFETY: `text` is longer than `length`; the source may be anything.
    let failed = unsafe { bpf_probe_read_user(to, length, start as *const _) };
    draft.exec.argv_len = if failed == 0 { length } else { 0 };
    draft.exec.argv_len.into()
}

/// What was executed, if that is not what runs now.
#[inline(always)]
fn copy_script(binprm: u64, draft: &mut Draft) {
    let filename = read_word(binprm, config!(offsets.binprm_filename));
    if filename == read_word(binprm, config!(offsets.binprm_interp)) {
        return;
    }
    let length = copy_string(filename, SCRIPT_LEN, EXEC_ARGV_LEN, draft);
    // A longer one fills the space to the end.
    if length < SCRIPT_LEN as u64 {
        draft.exec.script_len = length as u32;
        draft.used += length;
    }
}

/// Append a string of at most `limit` octets to less than `used`, and say how many octets it
/// has with its final zero; more than that if it cannot be read.
#[inline(always)]
fn copy_string(from: u64, limit: usize, used: usize, draft: &mut Draft) -> u64 {
    // The mask is for the verifier.
    let at = draft.used as usize & (used - 1);
    let to = draft.text.as_mut_ptr().wrapping_add(at).cast();
    // SAFETY: `text` has room for `used` and `limit` octets; the source may be anything.
    unsafe { bpf_probe_read_kernel_str(to, limit as u32, from as *const _) }.cast_unsigned()
}

/// Start on the way up from a `vfsmount` and `dentry`.
#[inline(always)]
fn set_out(draft: &mut Draft, from: u32, [mount, dentry]: [u64; 2]) {
    (draft.mount, draft.dentry) = (mount, dentry);
    draft.from = from;
    draft.start = draft.used as u32;
    let is_hashed = read_word(dentry, config!(offsets.dentry_hashed)) != 0;
    let is_root = dentry == read_word(dentry, config!(offsets.dentry_parent));
    if !is_hashed && !is_root {
        draft.exec.deleted |= from;
    }
}

#[inline(always)]
fn go_on(ctx: &RawTracePointContext, draft: &mut Draft) {
    // SAFETY: the array has one program, of the kind of this one.
    unsafe { WALK.tail_call(ctx, 0) };
    // Still here: the way is longer than programs can go.
    draft.used = draft.start.into();
    submit(draft);
}

/// Go up some steps of the way, from the executable first and then from the working directory,
/// and let the same program do the rest of it, or put the record on the ring.
#[inline(always)]
pub(crate) fn walk(ctx: &RawTracePointContext) -> i32 {
    if !can_read_tasks() {
        return DONE;
    }
    let Some(draft) = draft() else {
        return DONE;
    };
    if is_at_end(draft) {
        let length = draft.used as u32 - draft.start;
        if draft.from == CWD {
            draft.exec.cwd_len = length;
            submit(draft);
            return DONE;
        }
        draft.exec.exe_len = length;
        let directory = draft.exec.directory;
        set_out(draft, CWD, [directory.mount, directory.dentry]);
    }
    go_on(ctx, draft);
    DONE
}

/// Go up some steps; whether there are no more. Of a way that cannot be told nothing is left.
#[inline(always)]
fn is_at_end(draft: &mut Draft) -> bool {
    let (mut mount, mut dentry) = (draft.mount, draft.dentry);
    for _ in 0..STEPS {
        // A vfsmount starts with its root.
        if dentry == read_word(mount, 0) {
            let inner = mount.wrapping_sub(config!(offsets.mount_mnt).into());
            // The mount above, and behind it where this one is mounted there.
            let [above, mountpoint] = read_words(inner, config!(offsets.mount_parent));
            if above == inner {
                draft.exec.told |= draft.from;
                return true;
            }
            mount = above + u64::from(config!(offsets.mount_mnt));
            dentry = mountpoint;
            continue;
        }
        // Behind d_parent is d_name, and in that the name behind its length.
        let [parent, _, name] = read_words(dentry, config!(offsets.dentry_parent));
        let length = copy_string(name, NAME_LEN, EXEC_TEXT_LEN, draft);
        let used = draft.used.wrapping_add(length);
        if used >= EXEC_TEXT_LEN as u64 {
            // No room, or not to be read, which is negative.
            draft.used = draft.start.into();
            return true;
        }
        draft.used = used;
        if parent == dentry {
            // What has no name in any directory, such as a memfd.
            draft.exec.told |= draft.from;
            return true;
        }
        dentry = parent;
    }
    (draft.mount, draft.dentry) = (mount, dentry);
    false
}

#[inline(always)]
fn submit(draft: &mut Draft) {
    // The mask is for the verifier.
    let length = size_of::<Exec>() + (draft.used as usize & (EXEC_TEXT_LEN - 1));
    let first = (&raw const *draft).cast::<u8>();
    // SAFETY: the record and behind it its text, all of which a draft has.
    let record: &[u8] = unsafe { core::slice::from_raw_parts(first, length) };
    if ACTS.output::<[u8]>(record, urgency()).is_err() {
        count(COUNTER_LOST);
    }
}

/// Nobody waits for these; a ring half full wakes the reader.
#[inline(always)]
fn urgency() -> u64 {
    let flags = if is_half_full() {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    flags.into()
}

/// Nothing else that runs on this CPU describes an exec meanwhile: a program that interrupts
/// itself is not run (`bpf_prog.active` in __bpf_trace_run, kernel/trace/bpf_trace.c).
#[inline(always)]
fn draft<'d>() -> Option<&'d mut Draft> {
    // SAFETY: a map value of integers, for this program alone as is said above.
    DRAFT.get_ptr_mut(0).map(|draft| unsafe { &mut *draft })
}

/// Which directory a task works in.
#[inline(always)]
pub(crate) fn read_directory(task: u64, to: &mut Directory) {
    let fs = read_word(task, config!(offsets.task_fs));
    // A struct path: the mount, and behind it the dentry.
    let path: *mut [u64; 2] = (&raw mut to.mount).cast();
    read(fs, config!(offsets.fs_pwd), path);
    let inode = read_word(to.dentry, config!(offsets.dentry_inode));
    read(inode, config!(offsets.inode_ino), &raw mut to.inode);
    let generation = config!(offsets.inode_generation);
    read(inode, generation, &raw mut to.generation);
    let sb = read_word(inode, config!(offsets.inode_sb));
    read(sb, config!(offsets.super_block_dev), &raw mut to.device);
}

/// When the process of a task started.
#[inline(always)]
fn started(task: u64) -> u64 {
    let leader = read_word(task, config!(offsets.task_group_leader));
    read_word(leader, config!(offsets.task_start_boottime))
}

#[inline(always)]
fn tgid(task: u64) -> u32 {
    let mut tgid = 0;
    read(task, config!(offsets.task_pid) + 4, &raw mut tgid);
    tgid
}
