//! The root file system of the virtual machine, as a newc archive that the kernel unpacks.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufWriter, Cursor};
use std::path::Path;

use anyhow::{Context as _, Result};
use cpio::{NewcBuilder, write_cpio};

/// A file in the archive.
pub(super) struct File {
    path: String,
    contents: Vec<u8>,
}

impl File {
    /// A file that can be executed; `path` is relative to the root.
    pub(super) fn program(path: &str, contents: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            contents,
        }
    }
}

/// Directories that `init` mounts on, or expects.
const DIRECTORIES: [&str; 6] = ["dev", "etc", "proc", "run", "sys", "tmp"];

// Types and permissions as in inode(7).
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Write an archive of these files, and of the directories they lie in, to `path`.
pub(super) fn write(path: &Path, files: &[File]) -> Result<()> {
    let directories: BTreeSet<_> = DIRECTORIES
        .into_iter()
        .chain(
            files
                .iter()
                .filter_map(|file| Some(file.path.rsplit_once('/')?.0)),
        )
        .collect();
    let directories = directories
        .into_iter()
        .map(|path| (NewcBuilder::new(path).mode(DIRECTORY), Cursor::new(&[][..])));
    // The kernel opens the console for init before init can mount /dev (`console_on_rootfs`).
    let console = NewcBuilder::new("dev/console")
        .mode(CHARACTER_DEVICE)
        .rdev_major(5)
        .rdev_minor(1);
    let files = files.iter().map(|file| {
        let builder = NewcBuilder::new(&file.path).mode(PROGRAM);
        (builder, Cursor::new(file.contents.as_slice()))
    });
    fs::File::create(path)
        .and_then(|file| {
            let entries = directories
                .chain([(console, Cursor::new(&[][..]))])
                .chain(files);
            write_cpio(entries, BufWriter::new(file))?
                .into_inner()?
                .sync_all()
        })
        .with_context(|| format!("failed to write {}", path.display()))
}
