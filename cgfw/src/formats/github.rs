//! Workflow commands of GitHub Actions: annotations of the job.
//!
//! Values are escaped as the toolkit does it (actions/toolkit, packages/core/src/command.ts).

use super::Losses;
use super::finding::{Class, Finding, findings};
use super::text::{Sections, gaps};
use crate::digest::Run;

/// Annotations of a level that GitHub shows of one step; it drops the rest unsaid.
const MAX_SHOWN: usize = 10;

/// The annotations of some runs, a line each.
pub fn github(runs: &[Run]) -> String {
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    for run in runs {
        let sections = Sections::of(run);
        // First, as the one that says how far to trust the others.
        let gaps = gaps(run, Losses::of(run));
        if !gaps.is_empty() {
            warnings.push((
                "cgfw: the report is not complete".to_owned(),
                gaps.join(", "),
            ));
        }
        for finding in findings(run, &sections) {
            match finding.class {
                Class::Blocked => errors.push(annotation(&finding)),
                Class::WouldBlock | Class::Delegated | Class::Unjudged => {
                    warnings.push(annotation(&finding));
                }
                Class::Allowed => {}
            }
        }
    }
    lines("error", errors) + &lines("warning", warnings)
}

/// Its title, and what it says.
type Annotation = (String, String);

fn annotation(finding: &Finding<'_>) -> Annotation {
    let title = format!("cgfw: {}", finding.headline());
    let lines = finding.lines();
    (title, lines[1..].join("\n"))
}

fn lines(level: &str, mut annotations: Vec<Annotation>) -> String {
    let count = annotations.len();
    if count > MAX_SHOWN {
        annotations.truncate(MAX_SHOWN - 1);
        let rest = count - annotations.len();
        let text = "the summary of the run has them all".to_owned();
        annotations.push((format!("cgfw: and {rest} more"), text));
    }
    let line = |(title, text): &Annotation| {
        format!("::{level} title={}::{}\n", property(title), data(text))
    };
    annotations.iter().map(line).collect()
}

/// What stands behind the second `::`.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// The value of a property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{SAMPLE, digest};
    use super::*;

    #[test]
    fn what_was_blocked_is_an_error_and_what_is_not_known_a_warning() {
        let text = github(digest(SAMPLE).runs());
        let expected = include_str!("sample.github");
        assert!(text == expected, "found:\n{text}\nexpected:\n{expected}");
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted() {
        let blocked = SAMPLE.lines().nth(3).unwrap();
        let log: String = (0..15)
            .map(|n| blocked.replace("\"github.com\"", &format!("\"h{n}.example\"")) + "\n")
            .collect();
        let text = github(digest(&log).runs());
        let errors: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("::error "))
            .collect();
        assert_eq!(errors.len(), 10);
        assert_eq!(
            errors[9],
            "::error title=cgfw%3A and 6 more::the summary of the run has them all"
        );
    }

    #[test]
    fn a_clean_run_has_none() {
        let lines: Vec<_> = SAMPLE.lines().collect();
        let clean = [lines[0], lines[1], lines[lines.len() - 1]].join("\n");
        let caveats = r#""caveats": ["http_proxy is set: names behind it cannot be seen"], "#;
        assert_eq!(github(digest(&clean.replace(caveats, "")).runs()), "");
    }

    /// As the runner reads it (actions/runner, src/Runner.Common/ActionCommand.cs).
    fn read(line: &str) -> (&str, String, String) {
        let (command, data) = line.strip_prefix("::").unwrap().split_once("::").unwrap();
        let (level, title) = command.split_once(" title=").unwrap();
        let unescape = |text: &str| {
            let text = text.replace("%3A", ":").replace("%2C", ",");
            let text = text.replace("%0D", "\r").replace("%0A", "\n");
            text.replace("%25", "%")
        };
        assert!(!title.contains([',', ':', '\n', '\r']), "{title}");
        (level, unescape(title), unescape(data))
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_place(title in ".*", text in "(?s).*", hostile in "[:%,\r\n=]*") {
            let title = format!("{title}{hostile}{title}");
            let text = format!("{text}{hostile}::error::{text}");
            let line = lines("error", vec![(title.clone(), text.clone())]);
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(!line.contains('\r'));
            let (level, read_title, read_text) = read(line.trim_end_matches('\n'));
            prop_assert_eq!(level, "error");
            prop_assert_eq!(read_title, title);
            prop_assert_eq!(read_text, text);
        }
    }
}
