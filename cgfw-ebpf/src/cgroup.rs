//! Whose a cgroup is: that of the run, one below it, or somebody else's.

use crate::emit::{read, read_word};
use crate::maps::config;

/// How many levels below the cgroup of the run the child may make cgroups of its own and
/// still be recognised. What lies deeper counts as outside.
const LEVELS: usize = 5;

/// Whether the `struct cgroup` at this address is the cgroup of the run, or below it.
#[inline(always)]
pub(crate) fn is_ours(cgroup: u64) -> bool {
    let mut cgroup = cgroup;
    // All first and then compared: a loop that ends early is walked anew for each end.
    let ids: [u64; LEVELS] = core::array::from_fn(|_| {
        let node = read_word(cgroup, config!(offsets.cgroup_kn));
        cgroup = read_word(cgroup, config!(offsets.cgroup_parent));
        read_word(node, config!(offsets.kernfs_id))
    });
    ids.contains(&config!(cgroup))
}

/// The cgroup of a `task_struct`.
#[inline(always)]
pub(crate) fn of_task(task: u64) -> u64 {
    let set = read_word(task, config!(offsets.task_cgroups));
    read_word(set, config!(offsets.css_set_cgroup))
}

/// The cgroup in which a `struct sock` was made.
///
/// Before 5.15 the two lowest bits are flags; with the lowest set there is no cgroup but
/// what v1 controllers keep there, which happens to sockets of others only.
#[inline(always)]
pub(crate) fn of_socket(socket: u64) -> u64 {
    let data = read_word(socket, config!(offsets.sock_cgroup));
    if data & 1 == 0 { data & !2 } else { 0 }
}

/// How many generations a process and cgfw may be apart.
const GENERATIONS: usize = 16;

/// Whether cgfw started the process, or one above it did. cgfw is the parent of those who
/// lost theirs (PR_SET_CHILD_SUBREAPER).
#[inline(always)]
pub(crate) fn is_descendant(task: u64) -> bool {
    let mut task = task;
    for _ in 0..GENERATIONS {
        task = read_word(task, config!(offsets.task_real_parent));
        let mut id = 0_u32;
        read(task, config!(offsets.task_pid) + 4, &raw mut id);
        if id == config!(supervisor) {
            return true;
        }
        // The ancestor of all.
        if id <= 1 {
            return false;
        }
    }
    false
}
