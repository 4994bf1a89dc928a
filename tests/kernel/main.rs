/*!
cgfw end to end, against a real kernel, in a lab of namespaces. Needs root.
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

#[path = "../support/mod.rs"]
mod support;

mod attribution;
mod baseline;
mod break_glass;
mod child;
mod clients;
mod closed;
mod delegation;
mod deploying;
mod dns;
mod evasion;
mod examples;
mod files;
mod github;
mod lab;
mod learn;
mod load;
#[cfg(not(debug_assertions))]
mod measured;
mod moved;
mod otlp;
mod peers;
mod policy;
mod readme;
mod refusals;
mod report;
mod setup;
mod soak;
mod strict;
mod swap;
mod traffic;
mod why;
