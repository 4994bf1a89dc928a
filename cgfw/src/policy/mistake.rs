//! A place in a file that is not understood, as it is shown to whoever wrote it.

use std::fmt;
use std::ops::Range;

/// What is shown of the line: so many characters before the text in question, of it, and
/// behind it.
const BEFORE: usize = 40;
const MARKED: usize = 60;
const AFTER: usize = 30;
/// A reason may quote the text, too.
const REASON: usize = 240;

/// Why a line of a file is not understood: the file, the line, the column (both from 1), the
/// reason, and below that the line with a mark under the text in question. Whatever the file
/// holds, what is displayed of it is fit for a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    file: String,
    line: u32,
    column: usize,
    reason: String,
    excerpt: String,
    /// Where the text in question lies in `excerpt`, in characters.
    mark: Range<usize>,
}

impl std::error::Error for Mistake {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            reason,
            excerpt,
            mark,
        } = self;
        let margin = " ".repeat(line.to_string().len());
        let (indent, carets) = (" ".repeat(mark.start), "^".repeat(mark.len().max(1)));
        writeln!(f, "{file}:{line}:{column}: {reason}")?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{line} | {excerpt}")?;
        write!(f, "{margin} | {indent}{carets}")
    }
}

impl Mistake {
    /// Octets `wrong` of line `line`, whose text is `text`, are a mistake.
    pub(super) fn new(
        file: &str,
        line: u32,
        text: &[u8],
        wrong: Range<usize>,
        reason: impl Into<String>,
    ) -> Self {
        let start = wrong.start.min(text.len());
        let end = wrong.end.clamp(start, text.len());
        let [before, marked, after] =
            [&text[..start], &text[start..end], &text[end..]].map(String::from_utf8_lossy);
        let column = before.chars().count() + 1;
        let hidden = column.saturating_sub(1 + BEFORE);
        let ellipsis = if hidden > 0 { "…" } else { "" };
        let before = format!("{ellipsis}{}", fit(before.chars().skip(hidden)));
        let marked = shorten(&marked, MARKED);
        let start = before.chars().count();
        Self {
            file: fit(file.chars()),
            line,
            column,
            reason: shorten(&reason.into(), REASON),
            mark: start..start + marked.chars().count(),
            excerpt: format!("{before}{marked}{}", shorten(&after, AFTER))
                .trim_end()
                .to_owned(),
        }
    }

    /// Octets `wrong` of a whole file are a mistake.
    pub(super) fn within(
        file: &str,
        text: &str,
        wrong: Range<usize>,
        reason: impl Into<String>,
    ) -> Self {
        let text = text.as_bytes();
        let start = wrong.start.min(text.len());
        let line = text[..start].split(|octet| *octet == b'\n').count();
        let from = text[..start].iter().rposition(|octet| *octet == b'\n');
        let from = from.map_or(0, |newline| newline + 1);
        let length = text[from..].iter().position(|octet| *octet == b'\n');
        let to = length.map_or(text.len(), |length| from + length);
        let wrong = start - from..wrong.end.saturating_sub(from);
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        Self::new(file, line, &text[from..to], wrong, reason)
    }
}

/// The first `length` characters, fit for a terminal.
pub(super) fn shorten(text: &str, length: usize) -> String {
    let ellipsis = if text.chars().nth(length).is_some() {
        "…"
    } else {
        ""
    };
    format!("{}{ellipsis}", fit(text.chars().take(length)))
}

/// Without what a terminal would act on, or would not show.
fn fit(text: impl Iterator<Item = char>) -> String {
    let mut fit = String::new();
    for character in text {
        match character {
            '\t' | '\r' => fit.push(' '),
            ' '..='~' => fit.push(character),
            _ => fit.extend(character.escape_debug()),
        }
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_named_and_the_text_in_question_marked() {
        let mistake = Mistake::new("a.txt", 12, b"0.0.0.0 a..b", 8..12, "no");
        let expected = "a.txt:12:9: no\n   |\n12 | 0.0.0.0 a..b\n   |         ^^^^";
        assert_eq!(mistake.to_string(), expected);
    }

    #[test]
    fn columns_are_characters_and_lines_are_counted() {
        let text = "one\nzwei\n\tä = é é\n";
        let at = text.find("é é").unwrap();
        let mistake = Mistake::within("f", text, at..at + 5, "no");
        assert_eq!(
            mistake.to_string(),
            "f:3:6: no\n  |\n3 |  ä = é é\n  |      ^^^"
        );
        let end = Mistake::within("f", text, text.len()..text.len(), "no");
        assert_eq!(end.to_string(), "f:4:1: no\n  |\n4 | \n  | ^");
    }

    #[test]
    fn no_more_is_shown_than_fits_a_line() {
        let text = "x".repeat(1000);
        let shown = Mistake::new("f", 1, text.as_bytes(), 500..900, "no").to_string();
        assert!(shown.starts_with("f:1:501: no\n"), "{shown}");
        assert!(
            shown.lines().all(|line| line.chars().count() < 140),
            "{shown}"
        );
        let marked = format!("{}{}", " ".repeat(BEFORE + 1), "^".repeat(MARKED + 1));
        assert!(shown.ends_with(&format!(" | {marked}")), "{shown}");
    }

    #[test]
    fn what_a_terminal_would_act_on_is_escaped() {
        let text = b"a\x1b[2J\xff\xe2\x80\xae\x07";
        let shown = Mistake::new("f\x1b", 1, text, 0..1, "`\t\x1b`").to_string();
        let is_fit = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
        assert!(shown.chars().all(is_fit), "{shown:?}");
        assert!(shown.contains(r"a\u{1b}[2J"), "{shown}");
    }
}
