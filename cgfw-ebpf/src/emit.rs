//! Acts on their way to user space: who did it, read at the time of the act.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user,
};
use cgfw_common::{
    ALLOW, ARGV_LEN, Act, Actor, BLOCK, COMM_LEN, COUNTER_LOST, Deed, Directory, Owner, RING_SIZE,
    SeenKey, UnixAct, UnixName,
};

use crate::maps::{ACTS, COUNTERS, SEEN, config};
use crate::process;
use crate::unix::Words;
use crate::verdict::ANY;

/// Report a deed, unless `owner` did the same before; then count it.
#[inline(always)]
pub(crate) fn report_once(owner: Owner, deed: &Deed) {
    if !was_seen(owner, deed) {
        report(deed);
    }
}

/// Whether `owner` did the same before; counts it in any case.
#[inline(always)]
pub(crate) fn was_seen(owner: Owner, deed: &Deed) -> bool {
    let key = SeenKey { owner, deed: *deed };
    if let Some(count) = SEEN.get_ptr_mut(key) {
        increment(count);
        return true;
    }
    // Without room the act is reported again next time: too often, never too seldom.
    let _ignored = SEEN.insert(key, 1, ANY);
    false
}

/// Note a deed as reported for `owner`, so that another layer does not repeat it.
#[inline(always)]
pub(crate) fn mark_seen(owner: Owner, deed: &Deed) {
    // Without room the other layer reports it a second time.
    let _ignored = SEEN.insert(SeenKey { owner, deed: *deed }, 0, ANY);
}

/// Put an act on the ring.
#[inline(always)]
pub(crate) fn report(deed: &Deed) {
    let Some(mut slot) = ACTS.reserve::<Act>(0) else {
        count(COUNTER_LOST);
        return;
    };
    // SAFETY: a reserved record of the size and alignment of an `Act`, which is integers
    // that may have any value; nobody else has it until it is submitted.
    let act = unsafe { &mut *slot.as_mut_ptr() };
    fill_in(act, deed, current_task);
    slot.submit(urgency(deed.action));
}

/// As [`report`], with the address of a unix socket.
#[inline(always)]
pub(crate) fn report_unix(deed: &Deed, name: &Words) {
    let Some(mut slot) = ACTS.reserve::<UnixAct>(0) else {
        count(COUNTER_LOST);
        return;
    };
    // SAFETY: as above.
    let record = unsafe { &mut *slot.as_mut_ptr() };
    fill_in(&mut record.act, deed, current_task);
    let words: *mut UnixName = &raw mut record.name;
    // SAFETY: as large and as aligned as a `UnixName` (asserted in cgfw-common).
    unsafe { *words.cast() = *name };
    slot.submit(urgency(deed.action));
}

/// As [`report`], of what befell `task`, whoever did it. The command line of another process
/// cannot be read here.
#[inline(always)]
pub(crate) fn report_on(task: u64, deed: &Deed) {
    let Some(mut slot) = ACTS.reserve::<Act>(0) else {
        count(COUNTER_LOST);
        return;
    };
    // SAFETY: as above.
    let act = unsafe { &mut *slot.as_mut_ptr() };
    fill_in(act, deed, || task);
    if task != current_task() {
        // It was read from the memory of somebody else.
        act.actor.argv_len = 0;
    }
    slot.submit(urgency(deed.action));
}

/// Put another record on the ring, for which nobody need be woken.
#[inline(always)]
pub(crate) fn put<T: 'static>(record: T) {
    let Some(mut slot) = ACTS.reserve::<T>(0) else {
        count(COUNTER_LOST);
        return;
    };
    slot.write(record);
    slot.submit(urgency(ALLOW));
}

#[inline(always)]
fn fill_in(act: &mut Act, deed: &Deed, task: impl FnOnce() -> u64) {
    act.time = now();
    act.deed = *deed;
    if can_read_tasks() {
        describe(task(), act);
    } else {
        act.actor = NOBODY;
    }
}

/// A refusal wakes the reader, and so does a ring half full; everything else waits for the
/// reader's timer, because a wake-up costs more than the connect that it reports.
#[inline(always)]
fn urgency(action: u32) -> u64 {
    let flags = if is_half_full() {
        BPF_RB_FORCE_WAKEUP
    } else {
        action
    };
    flags.into()
}

/// The action is the flag, and no branch on it: the verifier would walk everything before
/// it once for each action.
const _: () = assert!(ALLOW == BPF_RB_NO_WAKEUP && BLOCK == BPF_RB_FORCE_WAKEUP);

/// Fill in who `task` is.
#[inline(always)]
fn describe(task: u64, act: &mut Act) {
    let actor = &mut act.actor;
    // tgid follows pid.
    let ids: *mut [u32; 2] = (&raw mut actor.tid).cast();
    read(task, config!(offsets.task_pid), ids);
    let leader = read_word(task, config!(offsets.task_group_leader));
    read(
        leader,
        config!(offsets.task_start_boottime),
        &raw mut actor.started,
    );
    read(task, config!(offsets.task_comm), &raw mut actor.comm);
    let parent = read_word(task, config!(offsets.task_real_parent));
    read(parent, config!(offsets.task_pid) + 4, &raw mut actor.ppid);
    let cred = read_word(task, config!(offsets.task_cred));
    read(cred, config!(offsets.cred_uid), &raw mut actor.uid);
    let mm = read_word(task, config!(offsets.task_mm));
    // arg_end follows arg_start.
    let arguments: *mut [u64; 2] = (&raw mut actor.argv_start).cast();
    read(mm, config!(offsets.mm_arg_start), arguments);
    actor.argv_len = copy_argv([actor.argv_start, actor.argv_end], &mut act.argv);
    actor.reserved = 0;
    let image = config!(offsets.task_self_exec_id);
    read(task, image, &raw mut actor.image);
    process::read_directory(task, &mut actor.directory);
}

const NOBODY: Actor = Actor {
    started: 0,
    argv_start: 0,
    argv_end: 0,
    tid: 0,
    tgid: 0,
    ppid: 0,
    uid: 0,
    argv_len: 0,
    reserved: 0,
    comm: [0; COMM_LEN],
    image: 0,
    directory: Directory {
        mount: 0,
        dentry: 0,
        inode: 0,
        generation: 0,
        device: 0,
    },
};

/// The process that runs this program, as the owner of what it does.
#[inline(always)]
pub(crate) fn current_owner() -> Owner {
    if !can_read_tasks() {
        return Owner {
            stamp: 0,
            tgid: 0,
            reserved: 0,
        };
    }
    let task = current_task();
    let leader = read_word(task, config!(offsets.task_group_leader));
    let stamp = read_word(leader, config!(offsets.task_start_boottime));
    let mut tgid = 0;
    read(task, config!(offsets.task_pid) + 4, &raw mut tgid);
    Owner {
        stamp,
        tgid,
        reserved: 0,
    }
}

/// A constant to the verifier, which drops what is behind it where lockdown forbids the
/// helpers.
#[inline(always)]
pub(crate) fn can_read_tasks() -> bool {
    config!(offsets.task_pid) != 0
}

/// The `struct task_struct` that runs this program.
///
/// bpf_get_current_pid_tgid is missing from cgroup_skb before 6.12, comm and uid before
/// 6.18; reading the task works in every program on every kernel.
#[inline(always)]
pub(crate) fn current_task() -> u64 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { bpf_get_current_task() }
}

/// Copy as much of argv as fits and say how much that was. A page that is not in memory
/// reads as nothing: a program like this cannot wait for it.
#[inline(always)]
fn copy_argv([start, end]: [u64; 2], space: &mut [u8; ARGV_LEN]) -> u32 {
    let length = end.wrapping_sub(start).min(ARGV_LEN as u64 - 1) as u32;
    // The mask is for the verifier, which does not always follow a comparison.
    let length = length & (ARGV_LEN as u32 - 1);
    // SAFETY: `space` has ARGV_LEN octets, more than `length`; the source may be anything.
    let failed =
        unsafe { bpf_probe_read_user(space.as_mut_ptr().cast(), length, start as *const _) };
    if failed == 0 { length } else { 0 }
}

/// Read a member of a kernel structure into `to`; zeroes where that is not possible, as
/// the helper leaves them. No branch on its result: each would double the paths that
/// the verifier walks, and start-up waits for it.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u32, to: *mut T) {
    let member = (base + u64::from(offset)) as *const core::ffi::c_void;
    // SAFETY: `to` is valid for writes of a `T`, which is integers; the helper takes any
    // source and fails on a bad one.
    unsafe { bpf_probe_read_kernel(to.cast(), size_of::<T>() as u32, member) };
}

#[inline(always)]
pub(crate) fn read_word(base: u64, offset: u32) -> u64 {
    let [word] = read_words(base, offset);
    word
}

/// Neighbours that are read at once. Nothing is there before: what differs from path to path,
/// the verifier walks again.
#[inline(always)]
pub(crate) fn read_words<const N: usize>(base: u64, offset: u32) -> [u64; N] {
    let mut words = MaybeUninit::uninit();
    read(base, offset, words.as_mut_ptr());
    // SAFETY: the helper has written all of it.
    unsafe { words.assume_init() }
}

/// The verifier forbids arithmetic on a pointer to a socket, or to a context. What was read
/// from memory is a number.
#[inline(always)]
pub(crate) fn to_number(pointer: *mut core::ffi::c_void) -> u64 {
    let pointer = pointer as u64;
    read_word((&raw const pointer) as u64, 0)
}

/// Fill `space` with zeroes, word by word and volatile: for what is longer than a few words
/// LLVM calls memset, a loop over octets that the verifier walks round by round.
#[inline(always)]
pub(crate) fn zeroed<const N: usize>(space: &mut MaybeUninit<[u32; N]>) -> &mut [u32; N] {
    let first: *mut u32 = space.as_mut_ptr().cast();
    for i in 0..N {
        // SAFETY: inside of the array.
        let word = unsafe { first.add(i) };
        // SAFETY: valid and aligned.
        unsafe { core::ptr::write_volatile(word, 0) };
    }
    // SAFETY: every word has been written.
    unsafe { space.assume_init_mut() }
}

/// Add one to a cell of `COUNTERS`.
#[inline(always)]
pub(crate) fn count(cell: u32) {
    if let Some(count) = COUNTERS.get_ptr_mut(cell) {
        increment(count);
    }
}

#[inline(always)]
pub(crate) fn is_half_full() -> bool {
    ACTS.query(BPF_RB_AVAIL_DATA.into()) > u64::from(RING_SIZE) / 2
}

#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { bpf_ktime_get_ns() }
}

/// Not atomic: the compiler has no atomic addition for this target. Of two increments at
/// the same instant one may be lost, which makes a count smaller and never zero.
#[inline(always)]
fn increment(count: *mut u64) {
    // SAFETY: a map value, aligned to 8 and alive while the program runs.
    unsafe { *count += 1 };
}

/// The fields that are read two at a time are neighbours.
const _: () = assert!(
    offset_of!(Actor, tgid) == offset_of!(Actor, tid) + 4
        && offset_of!(Actor, argv_end) == offset_of!(Actor, argv_start) + 8
);
