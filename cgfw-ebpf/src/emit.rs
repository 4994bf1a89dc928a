//! Acts on their way to user space: who did it, read at the time of the act.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_user};
use cgfw_common::{ARGV_LEN, Act, ActHead, BLOCK, COUNTER_LOST, Owner, RING_SIZE, SeenKey};

use crate::maps::{ACTS, COUNTERS, SEEN, config};
use crate::verdict::{ANY, Destination};

/// What an act was, without who did it.
#[derive(Clone, Copy)]
pub(crate) struct What {
    /// `ACT_QUERY` and its kin.
    pub(crate) kind: u32,
    pub(crate) action: u32,
    pub(crate) destination: Destination,
    pub(crate) source_port: u16,
    pub(crate) id: u16,
    pub(crate) ipv6: u32,
}

/// Report `what`, unless `owner` did the same before; then count it.
#[inline(always)]
pub(crate) fn report_once(owner: Owner, what: &What) {
    let key = SeenKey {
        owner,
        address: what.destination.address,
        port: what.destination.port,
        protocol: what.destination.protocol,
        action: what.action,
    };
    if let Some(count) = SEEN.get_ptr_mut(key) {
        increment(count);
        return;
    }
    // Without room the act is reported again next time: too often, never too seldom.
    let _ignored = SEEN.insert(key, 1, ANY);
    report(what);
}

/// Note an act as reported for `owner`, so that another layer does not repeat it.
#[inline(always)]
pub(crate) fn mark_seen(owner: Owner, destination: &Destination, action: u32) {
    let key = SeenKey {
        owner,
        address: destination.address,
        port: destination.port,
        protocol: destination.protocol,
        action,
    };
    // Without room the other layer reports it a second time.
    let _ignored = SEEN.insert(key, 0, ANY);
}

/// Put an act on the ring. A refusal wakes the reader, and so does a ring half full;
/// everything else waits for the reader's timer, because a wake-up costs more than
/// the connect that it reports.
#[inline(always)]
pub(crate) fn report(what: &What) {
    let Some(mut slot) = ACTS.reserve::<Act>(0) else {
        if let Some(lost) = COUNTERS.get_ptr_mut(COUNTER_LOST) {
            increment(lost);
        }
        return;
    };
    let task = Current::task();
    let argv = task.argv();
    let act = slot.as_mut_ptr();
    // SAFETY: `act` is a reserved record of its size and alignment; this is a projection.
    let head = unsafe { &raw mut (*act).head };
    // SAFETY: as above.
    let argv_space = unsafe { &raw mut (*act).argv };
    let written = ActHead {
        time: now(),
        started: task.started(),
        kind: what.kind,
        action: what.action,
        tgid: task.tgid(),
        tid: task.field(config!(offsets.task_pid)),
        ppid: task.parent(),
        uid: task.uid(),
        destination: what.destination.address,
        destination_port: what.destination.port,
        source_port: what.source_port,
        id: what.id,
        protocol: what.destination.protocol,
        ipv6: what.ipv6,
        argv_len: argv.copy_to(argv_space.cast()),
        argv_total: argv.length,
        reserved: 0,
        comm: task.field(config!(offsets.task_comm)),
    };
    // SAFETY: `head` is valid for writes and aligned to 8, as ring records are.
    unsafe { head.write(written) };
    let wake = what.action == BLOCK || ACTS.query(BPF_RB_AVAIL_DATA.into()) > RING_SIZE as u64 / 2;
    slot.submit(if wake {
        BPF_RB_FORCE_WAKEUP.into()
    } else {
        BPF_RB_NO_WAKEUP.into()
    });
}

/// The process that runs this program; all zeroes where kernel memory cannot be read.
///
/// bpf_get_current_pid_tgid is missing from cgroup_skb before 6.12, comm and uid before
/// 6.18; reading the task works in every program on every kernel.
#[derive(Clone, Copy)]
pub(crate) struct Current {
    task: u64,
}

impl Current {
    #[inline(always)]
    pub(crate) fn task() -> Self {
        if config!(offsets.task_tgid) == 0 {
            return Self { task: 0 };
        }
        Self {
            // SAFETY: takes nothing and cannot fail.
            task: unsafe { bpf_get_current_task() },
        }
    }

    /// The process as the owner of what it does.
    #[inline(always)]
    pub(crate) fn owner(self) -> Owner {
        Owner {
            stamp: self.started(),
            tgid: self.tgid(),
            reserved: 0,
        }
    }

    #[inline(always)]
    fn tgid(self) -> u32 {
        self.field(config!(offsets.task_tgid))
    }

    #[inline(always)]
    fn started(self) -> u64 {
        self.field(config!(offsets.task_start_boottime))
    }

    #[inline(always)]
    fn parent(self) -> u32 {
        let parent: u64 = self.field(config!(offsets.task_real_parent));
        Self { task: parent }.tgid()
    }

    #[inline(always)]
    fn uid(self) -> u32 {
        let cred: u64 = self.field(config!(offsets.task_cred));
        read(cred, config!(offsets.cred_uid))
    }

    #[inline(always)]
    fn argv(self) -> Argv {
        let mm: u64 = self.field(config!(offsets.task_mm));
        let start: u64 = read(mm, config!(offsets.mm_arg_start));
        let end: u64 = read(mm, config!(offsets.mm_arg_end));
        Argv {
            start,
            length: end.saturating_sub(start) as u32,
        }
    }

    #[inline(always)]
    fn field<T: Default>(self, offset: u32) -> T {
        read(self.task, offset)
    }
}

/// Where a process has its arguments.
struct Argv {
    start: u64,
    length: u32,
}

impl Argv {
    /// Copy what fits and say how much that was. A page that is not in memory reads as
    /// nothing: a program like this cannot wait for it.
    #[inline(always)]
    fn copy_to(&self, space: *mut u8) -> u32 {
        // The mask is for the verifier, which does not always follow a comparison.
        let length = self.length.min(ARGV_LEN as u32 - 1) & (ARGV_LEN as u32 - 1);
        if length == 0 {
            return 0;
        }
        // SAFETY: `space` has ARGV_LEN octets, more than `length`; the source may be anything.
        let failed = unsafe { bpf_probe_read_user(space.cast(), length, self.start as *const _) };
        if failed == 0 { length } else { 0 }
    }
}

/// Read a member of a kernel structure; the default where that is not possible.
#[inline(always)]
fn read<T: Default>(base: u64, offset: u32) -> T {
    // The first test lets the verifier drop the read, where lockdown forbids the helper.
    if config!(offsets.task_tgid) == 0 || base == 0 {
        return T::default();
    }
    let member = (base + u64::from(offset)) as *const T;
    // SAFETY: the helper takes any address and fails on a bad one; `T` is plain integers.
    unsafe { bpf_probe_read_kernel(member) }.unwrap_or_default()
}

#[inline(always)]
fn now() -> u64 {
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
