//! A run in which everything happens that a report can tell of.

use super::*;
use crate::audit::Line;
use crate::digest::Digest;

/// Its log.
pub(super) const SAMPLE: &str = include_str!("sample.jsonl");

/// What the lines of a log add up to.
pub(super) fn digest(log: &str) -> Digest {
    let mut digest = Digest::default();
    for line in log.lines() {
        let line: Line = serde_json::from_str(line).expect(line);
        digest.add(&line);
    }
    digest
}

#[test]
fn the_sample_is_read_back_as_it_was_written() {
    for text in SAMPLE.lines() {
        let line: Line = serde_json::from_str(text).expect(text);
        let written: serde_json::Value = serde_json::to_value(&line).unwrap();
        let expected: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(written, expected);
    }
}

#[test]
fn the_text_tells_of_everything() {
    let text = render(Format::Text, digest(SAMPLE).runs(), Style::default());
    let expected = include_str!("sample.txt");
    assert!(text == expected, "found:\n{text}\nexpected:\n{expected}");
}

#[test]
fn the_text_has_a_summary_for_each_run() {
    let twice = format!("{SAMPLE}{}", SAMPLE.replace("5f3a9c0d1e2b4a67", "2"));
    let text = render(Format::Text, digest(&twice).runs(), Style::default());
    assert_eq!(
        text.matches("cgfw: ./deploy.sh --fast exited with status 1")
            .count(),
        2
    );
    assert!(!text.contains('\u{1b}'), "{text}");
}
