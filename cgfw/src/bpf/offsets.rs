/*!
The [`Layout`] of the running kernel, from a cache if there is one.

sysfs hands the kernel's BTF out in pages, 1,300 reads for a few numbers that do not
change until the next boot. So they are kept in /run, where only root can write.
*/

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use cgfw_common::Offsets;
use nix::unistd::geteuid;

use super::btf::{self, Functions, Layout};

/// The kernel's own description of its types.
pub(super) const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";
const CACHE_DIRECTORY: &str = "/run/cgfw";
const CACHE: &str = "/run/cgfw/offsets";
/// Different after each boot, and so for each kernel that runs.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The layout, or `None` where the kernel does not describe itself.
pub(super) fn read() -> Option<Layout> {
    let boot = fs::read_to_string(BOOT_ID).ok()?;
    if let Some(layout) = read_cache(Path::new(CACHE), boot.trim()) {
        return Some(layout);
    }
    let layout = btf::layout(&fs::read(VMLINUX_BTF).ok()?)?;
    if let Err(error) = write_cache(&render(boot.trim(), &layout)) {
        tracing::debug!("cannot write {CACHE}, so that every start reads {VMLINUX_BTF}: {error}");
    }
    Some(layout)
}

/// A cache that anyone else could have written is not believed.
fn read_cache(path: &Path, boot: &str) -> Option<Layout> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let is_ours = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
    if !metadata.is_file() || !is_ours || metadata.mode() & 0o022 != 0 {
        return None;
    }
    parse(&fs::read_to_string(path).ok()?, boot)
}

/// Written beside and renamed: a reader sees all or nothing.
fn write_cache(text: &str) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(CACHE_DIRECTORY) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let beside = format!("{CACHE}.{}", std::process::id());
    let mut file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&beside)?;
    let written =
        io::Write::write_all(&mut file, text.as_bytes()).and_then(|()| fs::rename(&beside, CACHE));
    if written.is_err() {
        fs::remove_file(&beside)?;
    }
    written
}

fn render(boot: &str, layout: &Layout) -> String {
    let offsets = layout.offsets.to_array();
    let numbers: Vec<_> = offsets
        .iter()
        .chain(&layout.functions.0)
        .map(u32::to_string)
        .collect();
    format!("{boot} {}\n", numbers.join(" "))
}

fn parse(text: &str, boot: &str) -> Option<Layout> {
    let mut words = text.split_ascii_whitespace();
    if words.next()? != boot {
        return None;
    }
    let numbers: Vec<u32> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
    let (offsets, functions) = numbers.split_first_chunk()?;
    Some(Layout {
        offsets: Offsets::from_array(*offsets),
        functions: Functions(functions.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout {
            offsets: Offsets::from_array(std::array::from_fn(|i| u32::try_from(i).unwrap() + 1)),
            functions: Functions([1001, 1002, 1003, 1004, 1005]),
        }
    }

    #[test]
    fn a_cache_is_read_as_it_was_written() {
        assert_eq!(parse(&render("boot", &layout()), "boot"), Some(layout()));
    }

    #[test]
    fn another_boot_or_a_damaged_cache_counts_for_nothing() {
        let text = render("boot", &layout());
        assert_eq!(parse(&text, "later"), None);
        assert_eq!(
            parse(text.trim_end().trim_end_matches("1005"), "boot"),
            None
        );
        assert_eq!(parse(&format!("{text} 9"), "boot"), None);
        assert_eq!(parse("", "boot"), None);
    }
}
