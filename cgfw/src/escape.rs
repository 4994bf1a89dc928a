//! The one place where untrusted text is made fit for a terminal and for a log.
//!
//! Command lines come from whatever runs in the cgroup. Control characters could drive
//! the terminal, bidirectional and invisible ones could make a line read as another
//! (CVE-2021-42574).

use std::fmt::{self, Write as _};

use crate::event::Process;

/// Text as it is, but for what is not visible and not UTF-8.
pub struct Plain<'t>(pub &'t [u8]);

/// The same as a string in double quotes, whose quotes and backslashes are escaped.
pub struct Quoted<'t>(pub &'t [u8]);

/// The same as a basic string of TOML, which is read back as it was.
pub struct TomlString<'t>(pub &'t str);

impl fmt::Display for TomlString<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                _ if is_visible(c) => f.write_char(c)?,
                _ => write!(f, "\\U{:08x}", u32::from(c))?,
            }
        }
        f.write_char('"')
    }
}

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, "")
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write_escaped(f, self.0, "\"\\")?;
        f.write_char('"')
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &[u8], special: &str) -> fmt::Result {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            if special.contains(c) {
                write!(f, "\\{c}")?;
            } else if is_visible(c) {
                f.write_char(c)?;
            } else {
                write!(f, "{}", c.escape_debug())?;
            }
        }
        for octet in chunk.invalid() {
            write!(f, "\\x{octet:02x}")?;
        }
    }
    Ok(())
}

/// Whether a terminal shows the character as itself: neither a control, format,
/// private, unassigned nor combining character, nor a space other than the ASCII one.
pub fn is_visible(c: char) -> bool {
    // What `escape_debug` escapes, but for the three that it escapes as Rust does.
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

/// The command line as one would type it into a shell, unescaped: bytes, as they were.
/// A name in brackets, as ps(1) has it, if there is none (or it was overwritten).
pub fn command_line(argv: &[impl AsRef<[u8]>], comm: &[u8], truncated: bool) -> Vec<u8> {
    let argv: Vec<&[u8]> = argv.iter().map(AsRef::as_ref).collect();
    if argv.iter().all(|argument| argument.is_empty()) {
        return [b"[", comm, b"]"].concat();
    }
    // Fails for zero octets only, and only where they are not allowed.
    let quoter = shlex::bytes::Quoter::new().allow_nul(true);
    let mut line = quoter
        .join(argv.iter().copied())
        .unwrap_or_else(|_nul| argv.join(&b' '));
    if truncated {
        line.extend_from_slice(b" ...");
    }
    line
}

/// [`command_line`] of a process; a question mark for an unknown one.
pub fn command_of(process: Option<&Process>) -> Vec<u8> {
    process.map_or_else(
        || b"?".to_vec(),
        |process| command_line(&process.argv, &process.comm, process.truncated),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_or_hides_gets_through() {
        for (text, plain) in [
            (&b"curl github.com"[..], "curl github.com"),
            ("grüße 日本 🦀".as_bytes(), "grüße 日本 🦀"),
            (b"it's \"so\" \\ here", "it's \"so\" \\ here"),
            (b"a\nb\rc\td", r"a\nb\rc\td"),
            (b"\x1b[31mred\x07\x7f", r"\u{1b}[31mred\u{7}\u{7f}"),
            ("c1 \u{9b}2J".as_bytes(), r"c1 \u{9b}2J"),
            (b"not utf-8 \x9b\xff", r"not utf-8 \x9b\xff"),
            (
                "\u{202e}moc.buhtig\u{2066}".as_bytes(),
                r"\u{202e}moc.buhtig\u{2066}",
            ),
            (
                "zero\u{200b}width\u{feff}".as_bytes(),
                r"zero\u{200b}width\u{feff}",
            ),
            (
                "line\u{2028}end\u{a0}nbsp".as_bytes(),
                r"line\u{2028}end\u{a0}nbsp",
            ),
            ("tag\u{e0041}".as_bytes(), r"tag\u{e0041}"),
            (b"nul\0", r"nul\0"),
        ] {
            assert_eq!(Plain(text).to_string(), plain);
        }
    }

    #[test]
    fn a_quoted_text_cannot_leave_its_quotes() {
        assert_eq!(
            Quoted(b"a\" firewallMethod=allowlist \\\"\n").to_string(),
            r#""a\" firewallMethod=allowlist \\\"\n""#
        );
    }

    #[test]
    fn a_string_of_toml_is_read_back_as_it_was() {
        for text in [
            "plain grüße",
            "\" \\ \n",
            "\u{1b}[2J\u{7f}\u{202e}\u{e0041}\0",
        ] {
            let written = TomlString(text).to_string();
            assert!(written.chars().all(is_visible), "{written}");
            let read: toml::Table = format!("x = {written}").parse().unwrap();
            assert_eq!(read["x"].as_str(), Some(text));
        }
    }

    #[test]
    fn a_command_line_is_quoted_for_the_shell() {
        for (argv, line) in [
            (&["curl", "github.com"][..], "curl github.com"),
            (&["sh", "-c", "curl a && b"], "sh -c 'curl a && b'"),
            (&["echo", "it's"], r#"echo "it's""#),
            (&["x", ""], "x ''"),
            (&["x", "a\nb"], "x 'a\nb'"),
        ] {
            let argv: Vec<Vec<u8>> = argv.iter().map(|arg| arg.as_bytes().to_vec()).collect();
            let found = command_line(&argv, b"comm", false);
            assert_eq!(String::from_utf8(found).unwrap(), line);
        }
        assert_eq!(command_line(&[""; 0], b"kworker", false), b"[kworker]");
        assert_eq!(command_line(&[Vec::new()], b"sd-pam", false), b"[sd-pam]");
        assert_eq!(command_line(&[b"x".to_vec()], b"", true), b"x ...");
        assert_eq!(command_of(None), b"?");
    }
}
