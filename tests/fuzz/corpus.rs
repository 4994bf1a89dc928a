//! Everything that the fuzzer has found worth keeping, checked once more.

#[path = "check.rs"]
mod check;

use std::fs;
use std::path::Path;

#[test]
fn the_corpus_of_the_dns_fuzzer_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/dns");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check::check(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 20, "only {count} inputs: is the corpus complete?");
}
