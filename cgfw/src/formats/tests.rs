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

/// The same log of a child that calls itself, what it runs and whom it contacts so; who wrote
/// the policy and the host do no better.
pub(super) fn hostile(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap();
    let lines = SAMPLE.lines().map(|line| {
        let mut line = line.to_owned();
        for original in [
            "./deploy.sh",
            "git",
            "tool update || true",
            "/srv/app",
            "/srv/app/deploy.sh",
            "/run/docker.sock",
            "/usr/bin/dockerd",
            "dockerd",
            "db1",
            "team-git",
            "we deploy it",
            "--block github.com",
            "policy.toml:7: updates.tool.example",
            "http_proxy is set: names behind it cannot be seen",
        ] {
            line = line.replace(&format!("\"{original}\""), &quoted);
        }
        line
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What is meant to break out of tables, code, elements, quotes and graphs.
pub(super) const HOSTILE: &[&str] = &[
    "a|b||c\\|d",
    "`code` ``` ~~~",
    "line\nbreak\r\n\n# heading\n- list",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</code></details></td></table>",
    "<!-- comment",
    "]]> ]] ]) )) }} >",
    "\"quoted\" 'single' \\\"",
    "%% comment %%{init: {}}%%",
    "end subgraph graph flowchart click style classDef",
    "click c0 href \"javascript:alert(1)\"",
    "\"]; c9[\"x",
    "[link](https://evil.example) ![i](https://evil.example/i.png)",
    "https://evil.example www.evil.example user@evil.example @everyone #1 :tada:",
    "**bold** _it_ ~~no~~ *x*",
    "&lt;script&gt; &#60; #lt; #35;quot;",
    "::error title=x::y ##[error]z %0A::stop-commands::x",
    "\u{1b}[31m\u{202e}\u{feff}\u{0}",
    "---",
    "",
];

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
