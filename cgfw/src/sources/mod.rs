/*!
The files that policies come from: read, bounded, and put together with what was given as
arguments.

[`crate::policy`] knows the formats; this stage knows files.
*/

use std::fmt::Write as _;
use std::fs::{File, Metadata};
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use sha2::{Digest as _, Sha256};

use crate::policy::{
    Action, DirectIp, Domain, Given, ListFile, ListParser, MAX_LINE, Names, Place, Policy,
    PolicyFile, Rule, Rules,
};

/// No list may have more octets: some ten million names.
const MAX_LIST: u64 = 256 << 20;
/// No policy may have more octets: it is kept whole while it is read.
const MAX_POLICY: u64 = 16 << 20;
const TOO_LONG: &str = "leave out what no run needs";
/// Lists are read in pieces of so many octets.
const PIECE: usize = 1 << 18;
/// So many mistakes of a file are told of; the rest is counted.
const MISTAKES: usize = 10;

/// What was given, with all that its files say.
#[derive(Debug, Default)]
pub struct Loaded {
    pub rules: Rules,
    pub default: Option<Action>,
    pub direct_ip: Option<DirectIp>,
    pub origins: Origins,
    /// What the user should know of the files.
    pub notes: Vec<String>,
    /// Every file that was read, in the order in which it was, and which version of it.
    pub files: Vec<(PathBuf, Version)>,
}

/// Where the rules come from, for the record.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// Each argument as it was written; of a file, its name and how many rules it has.
    pub rules: Vec<String>,
    digest: Sha256,
}

impl Origins {
    /// SHA-256 of the arguments and of the content of the files, in their order: whether two
    /// runs had the same policy, whatever its files are called. In hexadecimal.
    pub fn digest(&self) -> String {
        let digest = self.digest.clone().finalize();
        digest.iter().fold(String::new(), |mut text, octet| {
            // Writing to a string cannot fail.
            let _infallible = write!(text, "{octet:02x}");
            text
        })
    }

    fn argument(&mut self, rule: &Rule) {
        let cited = rule.cite();
        self.digest.update(&cited);
        self.digest.update([0]);
        self.rules.push(cited);
    }
}

/// Reads on, and notes what it reads.
struct Digested<'d, R> {
    from: R,
    digest: &'d mut Sha256,
}

impl<R: Read> Read for Digested<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(to)?;
        self.digest.update(&to[..length]);
        Ok(length)
    }
}

impl Loaded {
    /// The policy, told what suffixes the resolver appends to names.
    pub fn into_policy(self, search: Vec<Domain>) -> Policy {
        Policy::new(self.rules, self.default, self.direct_ip, search)
    }
}

/// What tells one version of a file from another: which file it is, its size, and when its
/// content and its attributes were changed, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version([u64; 3], [i64; 4]);

impl Version {
    /// Of the file at this path as it is now, wherever links lead; `None` if there is none, or
    /// none that this thread may look at.
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::of)
    }

    fn of(metadata: &Metadata) -> Self {
        let (mtime, ctime) = (metadata.mtime(), metadata.ctime());
        Self(
            [metadata.dev(), metadata.ino(), metadata.size()],
            [mtime, metadata.mtime_nsec(), ctime, metadata.ctime_nsec()],
        )
    }
}

/// Read every file that `given` names, and those that they name. `-` is stdin.
///
/// # Errors
///
/// With all that is wrong: files that cannot be read, lines that are not understood, a list
/// that is to allow something and is empty, policies that contradict each other.
pub fn load(given: &Given) -> anyhow::Result<Loaded> {
    load_into(Names::default(), given)
}

/// [`load`], for a review: with the names of lists, one by one.
///
/// # Errors
///
/// As [`load`].
pub fn load_to_review(given: &Given) -> anyhow::Result<Loaded> {
    load_into(Names::remembering(), given)
}

fn load_into(names: Names, given: &Given) -> anyhow::Result<Loaded> {
    let mut loaded = Loaded {
        rules: Rules {
            rules: Vec::new(),
            names,
        },
        ..Loaded::default()
    };
    for rule in &given.rules {
        loaded.origins.argument(rule);
    }
    loaded.rules.rules.clone_from(&given.rules);
    let mut wrong = Vec::new();
    let mut files = Vec::new();
    for path in &given.files {
        match loaded.policy(path, &mut wrong) {
            Ok(file) => files.push((path, file)),
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    for (action, path) in &given.lists {
        let (flag, name) = (list_option(*action), path.display());
        let place = Place {
            name: name.to_string(),
            list: Some(*action),
            ..Place::default()
        };
        if let Err(error) = loaded.list(path, *action, place, &format!("{flag} {name}"), &mut wrong)
        {
            wrong.push(format!("{error:#}"));
        }
    }
    let defaults = files.iter().map(|(path, file)| (*path, file.default));
    let direct_ips = files.iter().map(|(path, file)| (*path, file.direct_ip));
    let mut settle = |error: anyhow::Error| wrong.push(error.to_string());
    loaded.default = agreed(given.default, defaults, "default")
        .map_err(&mut settle)
        .unwrap_or_default();
    loaded.direct_ip = agreed(given.direct_ip, direct_ips, "direct_ip")
        .map_err(&mut settle)
        .unwrap_or_default();
    let defaults = format!("{:?} {:?}", loaded.default, loaded.direct_ip);
    loaded.origins.digest.update(defaults);
    if wrong.is_empty() {
        Ok(loaded)
    } else {
        Err(anyhow!(wrong.join("\n")))
    }
}

/// Whether the user `uid`, with whose file rights this thread runs, could change what is read
/// under `path`: write it, or put something else in its place.
pub fn is_changeable(path: &Path, uid: u32) -> bool {
    let is_owner = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.uid() == uid);
    let may_write =
        |path: &Path| faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok();
    // In a sticky directory, such as /tmp, only the owner may.
    let may_replace_in = |directory: &Path| {
        let is_sticky = directory
            .metadata()
            .is_ok_and(|metadata| metadata.mode() & libc::S_ISVTX != 0);
        may_write(directory) && (!is_sticky || is_owner(directory))
    };
    [absolute(path), path.canonicalize()]
        .into_iter()
        .flatten()
        .any(|path| {
            is_owner(&path) || may_write(&path) || path.ancestors().skip(1).any(may_replace_in)
        })
}

/// What an argument says, or else what all the files say that say anything.
fn agreed<'f, T: Copy + PartialEq>(
    argument: Option<T>,
    files: impl Iterator<Item = (&'f PathBuf, Option<T>)>,
    key: &str,
) -> anyhow::Result<Option<T>> {
    if argument.is_some() {
        return Ok(argument);
    }
    let mut said = files.filter_map(|(path, value)| Some((path, value?)));
    let Some((first, value)) = said.next() else {
        return Ok(None);
    };
    match said.find(|(_, other)| *other != value) {
        None => Ok(Some(value)),
        Some((other, _)) => bail!(
            "{} and {} have different values of `{key}`; --{} decides",
            first.display(),
            other.display(),
            key.replace('_', "-")
        ),
    }
}

fn list_option(action: Action) -> &'static str {
    match action {
        Action::Allow => "--allow-file",
        Action::Block => "--block-file",
    }
}

impl Loaded {
    /// Read a policy file and the lists that it refers to.
    fn policy(&mut self, path: &Path, wrong: &mut Vec<String>) -> anyhow::Result<PolicyFile> {
        let name = path.display().to_string();
        let mut content = Vec::new();
        let (file, _size) = self.open(path)?;
        file.take(MAX_POLICY + 1)
            .read_to_end(&mut content)
            .with_context(|| format!("cannot read {name}"))?;
        let remedy = "put long lists into files of their own";
        ensure_size(&name, content.len() as u64, MAX_POLICY, remedy)?;
        self.origins.digest.update(&content);
        let mut file = PolicyFile::parse(&name, &content)?;
        self.origins.rules.push(format!(
            "--policy {name} ({})",
            counted(file.rules.len(), "rule")
        ));
        self.rules.rules.append(&mut file.rules);
        let around = path.parent().unwrap_or(Path::new(""));
        for list in std::mem::take(&mut file.lists) {
            let ListFile {
                path,
                action,
                reason,
                owner,
                line,
            } = list;
            // Only an argument stands for stdin.
            let path = match around.join(path) {
                path if path.as_os_str() == "-" => PathBuf::from("./-"),
                path => path,
            };
            let place = Place {
                name: path.display().to_string(),
                list: Some(action),
                reason,
                owner,
            };
            let origin = format!("{name}:{line}: {}", place.name);
            if let Err(error) = self.list(&path, action, place, &origin, wrong) {
                wrong.push(format!("{name}:{line}: {error:#}"));
            }
        }
        Ok(file)
    }

    /// Read a list, for `origin`.
    fn list(
        &mut self,
        path: &Path,
        action: Action,
        place: Place,
        origin: &str,
        wrong: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let place = Arc::new(place);
        let name = &place.name;
        let (before, mistakes) = (self.rules.len(), wrong.len());
        self.rules.names.begin(Arc::clone(&place));
        let mut parser = ListParser::new(Arc::clone(&place), action);
        self.lines(path, name, &mut parser, wrong)?;
        if let Some(left_out) = parser.left_out() {
            self.notes.push(format!(
                "{name}: left out {}, not about whole hosts; the first is line {}: {}",
                counted(left_out.count as usize, "line"),
                left_out.line,
                left_out.text
            ));
        }
        let count = self.rules.len() - before;
        let is_empty = count == 0 && wrong.len() == mistakes;
        let remedy = "leave it out if that is meant";
        match action {
            Action::Allow if is_empty => {
                bail!("{name}: the list is empty and would allow nothing; {remedy}")
            }
            Action::Block if is_empty => self.notes.push(format!(
                "{name}: the list is empty and blocks nothing; {remedy}"
            )),
            Action::Allow | Action::Block => {}
        }
        self.origins
            .rules
            .push(format!("{origin} ({})", counted(count, "pattern")));
        Ok(())
    }

    /// Enter what the lines of a list say.
    fn lines(
        &mut self,
        path: &Path,
        name: &str,
        parser: &mut ListParser,
        wrong: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let (file, size) = self.open(path)?;
        // Not read in vain. A pipe has no size, and shows when it is too long.
        ensure_size(name, size, MAX_LIST, TOO_LONG)?;
        let Self { rules, origins, .. } = self;
        let content = Digested {
            from: file.take(MAX_LIST + 1),
            digest: &mut origins.digest,
        };
        let mut reader = BufReader::with_capacity(PIECE, content);
        let (mut octets, mut mistakes) = (0, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            // One octet more than a line can have, so that the parser sees that it is too long.
            let length = (&mut reader)
                .take(MAX_LINE as u64 + 1)
                .read_until(b'\n', &mut line)
                .with_context(|| format!("cannot read {name}"))?;
            octets += length as u64;
            ensure_size(name, octets, MAX_LIST, TOO_LONG)?;
            if length == 0 {
                break;
            }
            let entered = parser.line(&line, |entry| Ok::<_, anyhow::Error>(rules.enter(entry)?));
            if let Err(error) = entered {
                mistakes += 1;
                if mistakes <= MISTAKES {
                    wrong.push(format!("{error:#}"));
                }
                // What is no list at all need not be read to its end.
                if length > MAX_LINE || line.contains(&0) {
                    break;
                }
            }
        }
        if mistakes > MISTAKES {
            let more = counted(mistakes - MISTAKES, "more mistake");
            wrong.push(format!("{name}: and {more}"));
        }
        Ok(())
    }

    /// Open a file, which has so many octets if it is a regular one.
    fn open(&mut self, path: &Path) -> anyhow::Result<(Box<dyn Read>, u64)> {
        if path.as_os_str() == "-" {
            return Ok((Box::new(io::stdin()), 0));
        }
        let cannot_open = || format!("cannot open {}", path.display());
        let file = File::open(path).with_context(cannot_open)?;
        let metadata = file.metadata().with_context(cannot_open)?;
        self.files.push((path.to_owned(), Version::of(&metadata)));
        Ok((Box::new(file), metadata.len()))
    }
}

fn ensure_size(name: &str, size: u64, most: u64, remedy: &str) -> anyhow::Result<()> {
    let most_mib = most >> 20;
    ensure!(size <= most, "{name}: longer than {most_mib} MiB; {remedy}");
    Ok(())
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
