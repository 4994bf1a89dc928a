//! Audit logs, read back line by line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;

use crate::audit::{Line, SCHEMA};
use crate::escape::Plain;

/// No line of a log is as long, in octets: the longest has some thousand addresses.
const MAX_LINE: u64 = 1 << 24;

/// What every line of an audit log has.
#[derive(Deserialize)]
struct Head {
    schema: u32,
}

/// Read all of `logs`, of which `-` is stdin, and hand each line on. Returns what the user
/// should know of them.
///
/// # Errors
///
/// If a log cannot be read, is empty, or has a line that is none of an audit log: with its
/// name and the number of the line.
pub fn read(logs: &[impl AsRef<Path>], mut enter: impl FnMut(Line)) -> anyhow::Result<Vec<String>> {
    let mut notes = Vec::new();
    for path in logs.iter().map(AsRef::as_ref) {
        let name = match path.as_os_str().as_encoded_bytes() {
            b"-" => "stdin".to_owned(),
            name => Plain(name).to_string(),
        };
        let log = open(path).with_context(|| format!("cannot open {name}"))?;
        notes.extend(read_one(log, &name, &mut enter)?);
    }
    Ok(notes)
}

/// Open a log. `-` is stdin.
fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(BufReader::with_capacity(
        1 << 18,
        File::open(path)?,
    )))
}

/// Read a log that is called `name`; what is to be said of its end.
///
/// # Errors
///
/// As [`read`].
pub fn read_one(
    mut log: impl BufRead,
    name: &str,
    mut enter: impl FnMut(Line),
) -> anyhow::Result<Option<String>> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let length = log
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .with_context(|| format!("cannot read {name}"))?;
        if length == 0 && number == 1 {
            bail!("{name} is empty; an audit log has a line for the start of the run at least");
        }
        if length == 0 {
            break;
        }
        // Where cgfw was killed, or the disk is full, the last line has no end.
        let is_cut = !line.ends_with(b"\n") && (length as u64) < MAX_LINE && number > 1;
        match parse(&line) {
            Ok(line) => enter(line),
            Err(_) if is_cut => {
                return Ok(Some(format!(
                    "{name}:{number}: the last line is not complete and was left out; the run \
                     may have done more than its log says"
                )));
            }
            Err(error) => return Err(error).with_context(|| format!("{name}:{number}")),
        }
    }
    Ok(None)
}

fn parse(line: &[u8]) -> anyhow::Result<Line> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let Head { schema } = serde_json::from_slice(line).map_err(no_line)?;
    if schema != SCHEMA {
        bail!(
            "this is schema {schema} of audit logs, and this cgfw reads {SCHEMA}; read it \
             with the version of cgfw that wrote it"
        );
    }
    serde_json::from_slice(line).map_err(no_line)
}

/// Without the place, which is that within the line.
fn no_line(error: serde_json::Error) -> anyhow::Error {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    anyhow!("not a line of an audit log: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str =
        r#"{"schema":1,"time":"2026-11-23T00:00:00Z","run":"1","event":"loss","count":1}"#;
    const DNS: &str = r#"{"schema":1,"time":"2026-11-23T00:00:00Z","run":"1","event":"dns","verdict":"allowed","layer":"dns","qname":"a.test","reason":"rule","count":1,"qtype":"A","rcode":"NOERROR","latency_us":1}"#;

    /// What is said of a log: an error, or the notes on it.
    fn said(log: &str) -> String {
        match read_one(log.as_bytes(), "log", |_| ()) {
            Ok(note) => note.unwrap_or_default(),
            Err(error) => format!("error: {error:#}"),
        }
    }

    #[test]
    fn a_line_that_is_none_is_an_error_with_its_number() {
        for (log, says) in [
            (format!("{START}\n{DNS}\n"), ""),
            (format!("{START}\n{DNS}"), ""),
            (
                format!("{START}\n{}", &DNS[..40]),
                "log:2: the last line is not complete and was left out; the run may have done \
                 more than its log says",
            ),
            (
                format!("{START}\n{}\n{DNS}\n", &DNS[..40]),
                "error: log:2: not a line of an audit log: EOF while parsing",
            ),
            (String::new(), "error: log is empty"),
            (
                "no log".to_owned(),
                "error: log:1: not a line of an audit log: expected",
            ),
            (
                "\n".to_owned(),
                "error: log:1: not a line of an audit log: EOF",
            ),
            (
                format!("{START}\n{{\"schema\":2,\"event\":7}}\n"),
                "error: log:2: this is schema 2 of audit logs, and this cgfw reads 1; read it with \
                 the version of cgfw that wrote it",
            ),
            (
                format!("{START}\n{{\"event\":\"dns\"}}\n"),
                "error: log:2: not a line of an audit log: missing field `schema`",
            ),
            (
                format!("{}\n", DNS.replace("a.test", "a..test")),
                "error: log:1: not a line of an audit log: a domain name has at least one label, \
                 and no empty ones",
            ),
            (
                format!("{}\n", DNS.replace("allowed", "permitted")),
                "error: log:1: not a line of an audit log: unknown variant `permitted`",
            ),
            (
                format!(
                    "{START}\n{}\n",
                    r#"{"schema":1,"time":"2026-11-23T00:00:00Z","run":"1","event":"new","x":[]}"#
                ),
                "",
            ),
        ] {
            let said = said(&log);
            assert!(said.starts_with(says), "{log}\n{said}");
            assert_eq!(said.is_empty(), says.is_empty(), "{log}\n{said}");
        }
    }

    #[test]
    fn a_line_without_end_is_not_read_to_the_end_of_memory() {
        let endless = BufReader::new(io::repeat(b'x'));
        let error = read_one(endless, "log", |_| ()).unwrap_err();
        assert!(format!("{error:#}").starts_with("log:1: not a line of an audit log"));
        let start = format!("{START}\n");
        let endless = start.as_bytes().chain(BufReader::new(io::repeat(b'x')));
        let error = read_one(endless, "log", |_| ()).unwrap_err();
        assert!(format!("{error:#}").starts_with("log:2: not a line of an audit log"));
    }
}
