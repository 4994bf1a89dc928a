//! What ssh(1) is configured to run instead of connecting by itself.
//!
//! A ProxyJump needs no look: for it ssh runs another ssh, whose arguments say so.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::event::{GoBetween, Sign};

const SYSTEM: &str = "/etc/ssh/ssh_config";
/// As much of a file as is looked at.
const MAX_LENGTH: u64 = 1 << 20;

/// The proxy commands in the configuration of the system and of the user with that home
/// directory, to whatever hosts they apply. To be called with the user's rights; what the
/// user cannot read ssh cannot either.
pub fn proxy_commands(home: &Path) -> Vec<GoBetween> {
    let user = home.join(".ssh");
    let files = [
        (user.join("config"), user.as_path()),
        (PathBuf::from(SYSTEM), Path::new("/etc/ssh")),
    ];
    let mut found = Vec::new();
    for (file, directory) in files {
        let Some(text) = read(&file) else { continue };
        for include in includes(&text, directory, home) {
            if let Some(text) = read(&include) {
                found.extend(commands(&text, &include));
            }
        }
        found.extend(commands(&text, &file));
    }
    found
}

fn read(path: &Path) -> Option<String> {
    read_start(path)
        .inspect_err(|error| tracing::debug!("cannot read {}: {error}", path.display()))
        .ok()
}

fn read_start(path: &Path) -> io::Result<String> {
    // Not a pipe that nobody writes to.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let mut octets = Vec::new();
    file.take(MAX_LENGTH).read_to_end(&mut octets)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

/// The files that `Include` names (ssh_config(5)); not what those include in turn.
fn includes(text: &str, directory: &Path, home: &Path) -> Vec<PathBuf> {
    settings(text, "include")
        .flat_map(|value| shlex::split(value).unwrap_or_default())
        .flat_map(|pattern| {
            let pattern = match pattern.strip_prefix("~/") {
                Some(below) => home.join(below),
                None => directory.join(pattern),
            };
            glob::glob(&pattern.to_string_lossy()).into_iter().flatten()
        })
        .filter_map(Result::ok)
        .collect()
}

fn commands(text: &str, file: &Path) -> Vec<GoBetween> {
    settings(text, "proxycommand")
        .filter(|value| !value.eq_ignore_ascii_case("none"))
        .filter_map(|value| {
            Some(GoBetween {
                sign: Sign::Command(words(value)?),
                source: format!("ProxyCommand in {}", file.display()),
            })
        })
        .collect()
}

/// The arguments that the shell makes of a command, `None` for one that is different each
/// time. `None` for a command that says nothing by its arguments.
fn words(command: &str) -> Option<Vec<Option<Vec<u8>>>> {
    let words = shlex::split(command)?;
    let words = match words.split_first() {
        Some((first, rest)) if first == "exec" => rest,
        _ => &words,
    };
    let words: Vec<Option<Vec<u8>>> = words
        .iter()
        .map(|word| (!word.contains(['%', '$', '~'])).then(|| word.as_bytes().to_vec()))
        .collect();
    words.first()?.is_some().then_some(words)
}

/// The values of a keyword, which is written in any case, with `=` or without.
fn settings<'t>(text: &'t str, keyword: &str) -> impl Iterator<Item = &'t str> {
    text.lines().filter_map(move |line| {
        let line = line.trim();
        let (found, value) = line.split_once(|c: char| c.is_whitespace() || c == '=')?;
        let value = value.trim_start();
        let value = value.strip_prefix('=').unwrap_or(value).trim();
        found.eq_ignore_ascii_case(keyword).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let word = |word: &Option<Vec<u8>>| match word {
            Some(word) => String::from_utf8_lossy(word).into_owned(),
            None => "*".to_owned(),
        };
        commands(text, Path::new("config"))
            .into_iter()
            .map(|found| {
                assert_eq!(found.source, "ProxyCommand in config");
                let Sign::Command(words) = found.sign else {
                    panic!("{found:?}")
                };
                words.iter().map(word).collect::<Vec<_>>().join(" ")
            })
            .collect()
    }

    #[test]
    fn proxy_commands_are_found_wherever_they_apply() {
        let config = "\
# ProxyCommand commented out
Host *.corp
    ProxyCommand nc -X connect -x proxy:3128 %h %p
Host b
    proxycommand = exec cloudflared access ssh --hostname %h
    PROXYCOMMAND=\"/opt/my tools/connect\" -S proxy:1080 '%h' $PORT
    ProxyCommand none
    ProxyCommandX nc
    ProxyJump bastion
    ProxyCommand %h
";
        assert_eq!(
            shown(config),
            [
                "nc -X connect -x proxy:3128 * *",
                "cloudflared access ssh --hostname *",
                "/opt/my tools/connect -S proxy:1080 * *",
            ]
        );
    }

    #[test]
    fn files_are_included_by_pattern_from_both_places() {
        let home = std::env::temp_dir().join(format!("cgfw-ssh-{}", std::process::id()));
        let ssh = home.join(".ssh/conf.d");
        std::fs::create_dir_all(&ssh).unwrap();
        let main = "Include conf.d/*.conf ~/more\nProxyCommand main %h\n";
        std::fs::write(home.join(".ssh/config"), main).unwrap();
        std::fs::write(ssh.join("a.conf"), "ProxyCommand a %h\n").unwrap();
        std::fs::write(ssh.join("b.other"), "ProxyCommand b %h\n").unwrap();
        std::fs::write(home.join("more"), "ProxyCommand more %h\n").unwrap();
        let found: Vec<String> = proxy_commands(&home)
            .into_iter()
            .filter_map(|found| {
                let file = found.source.strip_prefix("ProxyCommand in ")?.to_owned();
                Path::new(&file).strip_prefix(&home).ok()?;
                let Sign::Command(words) = found.sign else {
                    panic!("{file}")
                };
                words[0]
                    .clone()
                    .map(|word| String::from_utf8(word).unwrap())
            })
            .collect();
        for file in [
            ".ssh/conf.d/a.conf",
            ".ssh/conf.d/b.other",
            ".ssh/config",
            "more",
        ] {
            std::fs::remove_file(home.join(file)).unwrap();
        }
        for directory in [".ssh/conf.d", ".ssh", ""] {
            std::fs::remove_dir(home.join(directory)).unwrap();
        }
        assert_eq!(found, ["a", "more", "main"]);
    }
}
