//! Everything that the fuzzers have found worth keeping, checked once more.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests panic, and say which input they were at"
)]
#![expect(
    unreachable_pub,
    reason = "the checks are a library to the fuzz targets"
)]

mod check;

use std::fs;
use std::path::Path;

#[test]
fn the_corpus_of_the_baseline_fuzzer_holds() {
    replay("baseline", check::baseline);
}

#[test]
fn the_corpus_of_the_dns_fuzzer_holds() {
    replay("dns", check::dns);
}

#[test]
fn the_corpus_of_the_files_fuzzer_holds() {
    replay("files", check::files);
}

#[test]
fn the_corpus_of_the_labels_fuzzer_holds() {
    replay("labels", check::labels);
}

#[test]
fn the_corpus_of_the_policy_fuzzer_holds() {
    replay("policy", check::policy);
}

#[test]
fn the_corpus_of_the_records_fuzzer_holds() {
    replay("records", check::records);
}

fn replay(target: &str, check: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    let mut count = 0;
    for entry in fs::read_dir(corpus.join(target)).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 20, "only {count} inputs: is the corpus complete?");
}
