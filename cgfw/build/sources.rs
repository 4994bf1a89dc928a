/*!
What the committed eBPF objects were built from, as hashes of files and crates.

Shared by the build script, which refuses to build from sources that the objects do not
belong to, and by `cargo xtask ebpf`, which builds the objects and records the hashes.
*/

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Where the objects and the record lie, from the workspace's root.
pub(crate) const OBJECTS: [&str; 2] = ["cgfw/src/bpf/cgfw.bpfel.o", "cgfw/src/bpf/cgfw.bpfeb.o"];
pub(crate) const RECORD: &str = "cgfw/src/bpf/sources.sha256";
/// What is watched and hashed file by file.
pub(crate) const CRATES: [&str; 2] = ["cgfw-ebpf", "cgfw-common"];

const LOCKFILE: &str = "Cargo.lock";

/// SHA-256 in hexadecimal of each file (by its path from the root) and each registry
/// crate (`NAME VERSION`) that has a part in the objects, and of the objects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sources(BTreeMap<String, String>);

impl Sources {
    /// Hash what lies in the workspace at `root` now. Fails if an object is missing.
    pub(crate) fn hash(root: &Path) -> io::Result<Self> {
        let mut files: Vec<PathBuf> = OBJECTS.iter().map(|object| root.join(object)).collect();
        for directory in CRATES {
            files.extend(files_below(&root.join(directory))?);
        }
        let lock = read(&root.join(LOCKFILE), fs::read_to_string)?;
        let mut hashes = locked_crates(&lock);
        for file in files {
            let name = file.strip_prefix(root).unwrap_or(&file).display();
            let digest = Sha256::digest(read(&file, fs::read)?);
            hashes.insert(name.to_string(), hex(&digest));
        }
        Ok(Self(hashes))
    }

    /// Read a record back. Comments and lines that are no `HASH  NAME` are passed over:
    /// what they should have said is then reported as changed.
    pub(crate) fn parse(record: &str) -> Self {
        Self(
            record
                .lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| line.split_once("  "))
                .map(|(hash, name)| (name.to_owned(), hash.to_owned()))
                .collect(),
        )
    }

    /// The names that are not in both with the same hash.
    pub(crate) fn differences<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a str> {
        let differing = |a: &'a Self, b: &'a Self| {
            a.0.iter()
                .filter(|(name, hash)| b.0.get(*name) != Some(hash))
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>()
        };
        differing(self, other)
            .into_iter()
            .chain(differing(other, self))
            .collect()
    }
}

/// One `HASH  NAME` a line, as sha256sum writes it.
impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, hash)| writeln!(f, "{hash}  {name}"))
    }
}

/// All files below `directory`, in no particular order.
pub(crate) fn files_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in read(&directory, fs::read_dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// The crates of a Cargo.lock whose code is in the objects, with their checksums. Those
/// that only generate code are left to `cargo xtask ebpf --check`: every other update
/// touches one of them.
fn locked_crates(lock: &str) -> BTreeMap<String, String> {
    lock.split("[[package]]")
        .filter_map(|package| {
            // cargo writes one item a line.
            let item = |name| {
                package
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
                    .map(|value| value.trim_matches('"'))
            };
            let name = item("name")?;
            let linked = name.starts_with("aya-ebpf") || name.starts_with("aya-log-");
            linked.then_some(())?;
            Some((
                format!("{name} {}", item("version")?),
                item("checksum")?.to_owned(),
            ))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Put the path into the error, which the standard library leaves out.
fn read<'a, T>(path: &'a Path, operation: impl Fn(&'a Path) -> io::Result<T>) -> io::Result<T> {
    operation(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"version = 4

[[package]]
name = "aya"
version = "0.14.0"
checksum = "aa"

[[package]]
name = "aya-ebpf"
version = "0.2.1"
source = "registry+https://registry.test"
checksum = "ae"
dependencies = [
 "syn 2.0.0",
]

[[package]]
name = "cgfw-ebpf"
version = "0.1.0"
dependencies = [
 "aya-ebpf",
]
"#;

    #[test]
    fn the_crates_in_the_objects_are_taken_from_the_lock_file_and_no_others() {
        let crates = locked_crates(LOCK);
        let crates: Vec<_> = crates
            .iter()
            .map(|(name, hash)| (name.as_str(), hash.as_str()))
            .collect();
        assert_eq!(crates, [("aya-ebpf 0.2.1", "ae")]);
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let sources = Sources(locked_crates(LOCK));
        let record = format!("# rustc 1.96.0\n{sources}");
        assert_eq!(Sources::parse(&record), sources);
    }

    #[test]
    fn changed_new_and_removed_files_are_differences() {
        let recorded = Sources::parse("aa  changed\nbb  removed\ncc  same\n");
        let now = Sources::parse("ab  changed\ndd  new\ncc  same\n");
        let differences: Vec<_> = now.differences(&recorded).into_iter().collect();
        assert_eq!(differences, ["changed", "new", "removed"]);
    }
}
