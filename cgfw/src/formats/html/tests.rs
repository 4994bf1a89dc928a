use super::super::tests::{SAMPLE, digest};
use super::*;

#[test]
fn x() {
    std::fs::write("/tmp/w/html-sample.html", html(digest(SAMPLE).runs())).unwrap();
}
