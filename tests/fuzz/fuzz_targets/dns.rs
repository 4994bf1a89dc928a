//! Any query with any reply, judged. The corpus is replayed by `cargo test` as well.

#![no_main]

#[path = "../check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|input: &[u8]| check::check(input));
