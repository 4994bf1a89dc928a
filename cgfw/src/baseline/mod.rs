/*!
What runs depend on, as it is committed to a repository, and what has changed since
(`cgfw baseline`, `cgfw diff`, `--baseline`).

A dependency is known by its name; by its address where no name led there; or by the port or
socket of another process on this host. The addresses of a name and the arguments of commands
differ from run to run, and make nothing new.

[`dependencies`] says what there is, [`file`] how it is written, [`changes`] what is different;
all are pure. Here files are read.
*/

mod changes;
mod dependencies;
mod file;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};

pub use self::changes::{Change, Changes, Format};
pub use self::dependencies::{Dependencies, Dependency};
use crate::cli;
use crate::digest::Digest;
use crate::escape::Plain;
use crate::logs;

/// No baseline is as long, in octets.
const MAX_FILE: u64 = 16 << 20;

/// What a log or a baseline says.
#[derive(Debug, Default)]
pub struct Loaded {
    pub dependencies: Dependencies,
    /// Why there may be more than it says, each with its name.
    pub caveats: Vec<String>,
}

/// Write a baseline from logs: its text, and what the user should know of it.
///
/// # Errors
///
/// If a log cannot be read.
pub fn baseline(settings: &cli::Baseline) -> anyhow::Result<(String, Vec<String>)> {
    let mut digest = Digest::default();
    let mut notes = logs::read(&settings.logs, |line| digest.add(&line))?;
    let dependencies = Dependencies::of(digest.runs()).kept();
    notes.extend(dependencies::caveats(digest.runs()));
    Ok((dependencies.to_string(), notes))
}

/// What is different in `settings.new`.
///
/// # Errors
///
/// If one of the two cannot be read, or is neither a log nor a baseline.
pub fn diff(settings: &cli::Diff) -> anyhow::Result<Changes> {
    let (old, new) = (load(&settings.old)?, load(&settings.new)?);
    let mut changes = Changes::between(&old.dependencies, &new.dependencies);
    for (caveats, doubt) in [
        (old.caveats, "what is new may not be"),
        (
            new.caveats,
            "there may be more that is new, and what is gone may not be",
        ),
    ] {
        let doubts = caveats.iter();
        let doubts = doubts.map(|caveat| format!("{caveat}: {doubt}"));
        changes.doubts.extend(doubts);
    }
    Ok(changes)
}

/// Read a log or a baseline, whichever it is; `-` is stdin.
///
/// # Errors
///
/// If it cannot be read, or is neither.
pub fn load(path: &Path) -> anyhow::Result<Loaded> {
    let name = shown(path);
    let mut text: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        Box::new(BufReader::with_capacity(1 << 18, file))
    };
    let start = text
        .fill_buf()
        .with_context(|| format!("cannot read {name}"))?;
    match start.first() {
        None => bail!("{name} is empty: neither an audit log nor a baseline"),
        Some(b'{') => {
            let mut digest = Digest::default();
            let note = logs::read_one(text, &name, |line| digest.add(&line))?;
            let caveats = dependencies::caveats(digest.runs()).into_iter();
            let caveats = caveats.map(|caveat| format!("{name}: {caveat}"));
            Ok(Loaded {
                dependencies: Dependencies::of(digest.runs()),
                caveats: note.into_iter().chain(caveats).collect(),
            })
        }
        Some(_) => {
            let mut content = String::new();
            text.take(MAX_FILE + 1)
                .read_to_string(&mut content)
                .with_context(|| format!("cannot read {name}"))?;
            if content.len() as u64 > MAX_FILE {
                bail!("{name} is longer than {} MiB: no baseline", MAX_FILE >> 20);
            }
            Ok(Loaded {
                dependencies: Dependencies::parse(&name, &content)?,
                caveats: Vec::new(),
            })
        }
    }
}

fn shown(path: &Path) -> String {
    match path.as_os_str().as_encoded_bytes() {
        b"-" => "stdin".to_owned(),
        name => Plain(name).to_string(),
    }
}

#[cfg(test)]
mod tests;
