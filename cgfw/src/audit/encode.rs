//! JSON that is fit for any terminal.

use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use crate::escape::is_visible;

/// One line of JSON, fit for any terminal.
pub fn encode(line: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Visible);
    // Neither a vector nor these types, all of whose keys are strings, can fail.
    let encoded = line.serialize(&mut serializer);
    debug_assert!(encoded.is_ok(), "{encoded:?}");
    text.push(b'\n');
    text
}

/// JSON with everything escaped that is not visible: serde_json itself leaves DEL, the C1
/// controls and bidirectional formatting as they are.
struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: io::Write + ?Sized,
    {
        let mut visible = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| !is_visible(*c)) {
            CompactFormatter.write_string_fragment(writer, &fragment[visible..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            visible = at + c.len_utf8();
        }
        CompactFormatter.write_string_fragment(writer, &fragment[visible..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_visible_is_escaped_and_read_back_as_it_was() {
        for text in [
            "plain grüße 日本",
            "quote \" backslash \\ newline \n escape \u{1b}",
            "del \u{7f} c1 \u{9b} bidi \u{202e} zero \u{200b} tag \u{e0041}",
        ] {
            let json = String::from_utf8(encode(&text)).unwrap();
            let line = json.strip_suffix('\n').unwrap();
            assert!(line.chars().all(is_visible), "{line}");
            assert_eq!(serde_json::from_str::<String>(line).unwrap(), text);
        }
    }
}
