/*!
What the command line accepts and refuses: no root, no network, seconds.
*/

#![expect(
    unreachable_pub,
    reason = "one `pub` serves both test crates, which share their support"
)]
#![expect(
    clippy::panic,
    clippy::unused_result_ok,
    clippy::unwrap_used,
    reason = "tests panic, and a fallback that fails leaves the failure to its check"
)]

#[path = "../support/command.rs"]
#[expect(dead_code, reason = "the kernel tests use the rest of it")]
mod command;
#[path = "../support/namespace.rs"]
#[expect(dead_code, reason = "the kernel tests use the rest of it")]
mod namespace;
