/*!
The files that policies come from: read, bounded, and put together with what was given as
arguments.

[`crate::policy`] knows the formats; this stage knows files.
*/

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::policy::{Action, DirectIp, Domain, Given, Place, Policy, Rule, Rules, Source};

/// No file may have more octets: some ten million names.
const MAX_FILE: u64 = 256 << 20;

/// What was given, with all that its files say.
#[derive(Debug, Default)]
pub struct Loaded {
    pub rules: Rules,
    default: Option<Action>,
    direct_ip: Option<DirectIp>,
    /// Where the rules come from, for the record: each argument, and each file.
    pub origins: Vec<String>,
    /// What the user should know of the files.
    pub notes: Vec<String>,
    /// Every file that was read, in the order in which it was.
    pub files: Vec<PathBuf>,
}

impl Loaded {
    /// Whether `--default` was given, as argument or in a file.
    pub fn says_default(&self) -> bool {
        self.default.is_some()
    }

    /// The same for `--direct-ip`.
    pub fn says_direct_ip(&self) -> bool {
        self.direct_ip.is_some()
    }

    /// The policy, told what suffixes the resolver appends to names.
    pub fn into_policy(self, search: Vec<Domain>) -> Policy {
        Policy::new(self.rules, self.default, self.direct_ip, search)
    }
}

/// Read every file that `given` names, and those that they name.
///
/// # Errors
///
/// If a file cannot be read or understood, if a list is empty that is to allow something, or
/// if two policies say different things by default.
pub fn load(given: &Given) -> anyhow::Result<Loaded> {
    let mut loaded = Loaded {
        origins: given.rules.iter().map(Rule::cite).collect(),
        default: given.default,
        direct_ip: given.direct_ip,
        ..Loaded::default()
    };
    loaded.rules.rules.clone_from(&given.rules);
    for (action, path) in &given.lists {
        let place = Place {
            name: path.display().to_string(),
            list: Some(*action),
            reason: None,
            owner: None,
        };
        loaded.list(path, *action, Arc::new(place))?;
    }
    Ok(loaded)
}

impl Loaded {
    fn list(&mut self, path: &Path, action: Action, place: Arc<Place>) -> anyhow::Result<()> {
        let before = self.rules.len();
        self.rules.names.begin(Arc::clone(&place));
        let mut reader = open(path)?;
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.split('#').next().unwrap_or("").trim();
            if text.is_empty() {
                continue;
            }
            let source = Source {
                place: Arc::clone(&place),
                line: number,
            };
            let rule = Rule::parse(text, action, source)
                .with_context(|| format!("{}:{number}", path.display()))?;
            self.rules.rules.push(rule);
        }
        let count = self.rules.len() - before;
        if count == 0 && action == Action::Allow {
            bail!(
                "{}: the list allows nothing; name what is to be allowed, or leave the file out",
                path.display()
            );
        }
        let (flag, path) = (
            match action {
                Action::Allow => "--allow-file",
                Action::Block => "--block-file",
            },
            path.display(),
        );
        self.origins
            .push(format!("{flag} {path} ({count} patterns)"));
        Ok(())
    }
}

/// Open a file that can be read to its end. `-` is stdin.
fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(io::stdin().take(MAX_FILE))));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Box::new(BufReader::with_capacity(
        1 << 18,
        file.take(MAX_FILE),
    )))
}
