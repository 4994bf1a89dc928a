//! Whether sudo(8) asks a user for a password, as far as its configuration says so plainly.

use std::fs;
use std::path::{Path, PathBuf};

const SUDOERS: &str = "/etc/sudoers";
/// What most systems include, in whatever words.
const DIRECTORY: &str = "/etc/sudoers.d";

/// Who might use sudo.
#[derive(Clone, Copy, Debug)]
pub struct SudoUser<'u> {
    pub name: &'u str,
    pub uid: u32,
    /// The names of the user's groups.
    pub groups: &'u [String],
}

/// The file that lets the user run something as another user without a password; `None`
/// if there is none, or if it cannot be read, which takes root.
///
/// Plain entries are understood, with users, groups and `User_Alias`. What LDAP or SSSD say
/// is not looked at, nor hosts and commands: an entry for one command may lead to more.
pub fn sudo_without_password(user: SudoUser<'_>) -> Option<PathBuf> {
    let mut files = vec![PathBuf::from(SUDOERS)];
    let mut included: Vec<PathBuf> = fs::read_dir(DIRECTORY)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_read(path))
        .collect();
    included.sort();
    files.append(&mut included);
    files
        .into_iter()
        .find(|file| fs::read_to_string(file).is_ok_and(|text| asks_no_password(&text, user)))
}

/// Files with a dot or a final tilde are passed over (sudoers(5), includedir).
fn is_read(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| !name.contains('.') && !name.ends_with('~'))
}

fn asks_no_password(text: &str, user: SudoUser<'_>) -> bool {
    let text = text.replace("\\\n", " ");
    let lines = || text.lines().map(str::trim).filter(|line| !is_comment(line));
    let alias = |name: &str| {
        lines()
            .filter_map(|line| line.strip_prefix("User_Alias"))
            .flat_map(|aliases| aliases.split(':'))
            .filter_map(|alias| alias.split_once('='))
            .any(|(found, members)| found.trim() == name && names(members, user, |_| false))
    };
    lines().any(|line| match line.strip_prefix("Defaults") {
        Some(defaults) => {
            let scope = defaults.split_whitespace().next().unwrap_or_default();
            let is_for = match defaults.strip_prefix(':') {
                Some(_) => names(scope.trim_start_matches(':'), user, alias),
                None => defaults.starts_with(char::is_whitespace),
            };
            is_for && defaults.contains("!authenticate")
        }
        None => line.split_once('=').is_some_and(|(who, what)| {
            // What stands before the hosts, which are the last word.
            let users = who.trim_end().rsplit_once(char::is_whitespace);
            what.contains("NOPASSWD") && users.is_some_and(|(users, _)| names(users, user, alias))
        }),
    })
}

/// `#1000` is a user id, every other `#` starts a comment.
fn is_comment(line: &str) -> bool {
    line.strip_prefix('#')
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether a list of users, groups and aliases has the user in it.
fn names(list: &str, user: SudoUser<'_>, alias: impl Fn(&str) -> bool) -> bool {
    list.split(',').map(str::trim).any(|item| {
        item == "ALL"
            || item == user.name
            || item == format!("#{}", user.uid)
            || item
                .strip_prefix('%')
                .is_some_and(|group| user.groups.iter().any(|known| known == group))
            || alias(item)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_a_password_is_found() {
        let groups = ["dev".to_owned(), "deployers".to_owned()];
        let user = SudoUser {
            name: "dev",
            uid: 4242,
            groups: &groups,
        };
        for (text, found) in [
            ("dev ALL=(ALL:ALL) NOPASSWD:SETENV: ALL", true),
            ("dev ALL=(ALL:ALL) NOPASSWD: /usr/bin/systemctl", true),
            ("dev ALL = NOPASSWD: ALL", true),
            ("a, dev, b ALL=NOPASSWD: ALL", true),
            ("%deployers ALL=NOPASSWD: ALL", true),
            ("#4242 ALL=NOPASSWD: ALL", true),
            ("ALL ALL=NOPASSWD: ALL", true),
            ("dev ALL=\\\n NOPASSWD: ALL", true),
            ("User_Alias OPS = a, dev\nOPS ALL=NOPASSWD: ALL", true),
            ("User_Alias X = a : OPS = dev\nOPS ALL=NOPASSWD: ALL", true),
            ("Defaults !authenticate", true),
            ("Defaults:dev !authenticate", true),
            ("dev ALL=(ALL) ALL", false),
            ("# dev ALL=NOPASSWD: ALL", false),
            ("devel ALL=NOPASSWD: ALL", false),
            ("%wheel ALL=NOPASSWD: ALL", false),
            ("#4243 ALL=NOPASSWD: ALL", false),
            ("User_Alias OPS = a\nOPS ALL=NOPASSWD: ALL", false),
            ("Defaults:root !authenticate", false),
            ("Defaults!/bin/ls !authenticate", false),
            ("Defaults env_reset", false),
            ("", false),
        ] {
            assert_eq!(asks_no_password(text, user), found, "{text}");
        }
    }

    #[test]
    fn backups_and_packages_leftovers_are_passed_over() {
        for (name, read) in [("lab", true), ("lab~", false), ("lab.dpkg-old", false)] {
            assert_eq!(is_read(&Path::new(DIRECTORY).join(name)), read, "{name}");
        }
    }
}
