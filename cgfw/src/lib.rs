/*!
cgfw runs a command in a filtered cgroup.

Vocabulary, pure: [`policy`], [`event`], [`ledger`]. Stages, which touch the world and
never import each other: `cgroup`, `bpf`, `dns`, `child`, [`report`]. `run` alone knows
the order.
*/

pub mod bpf;
pub mod cgroup;
pub mod child;
pub mod cli;
pub mod dns;
pub mod event;
pub mod exit;
pub mod ledger;
pub mod pins;
pub mod policy;
pub mod report;
mod watch;
