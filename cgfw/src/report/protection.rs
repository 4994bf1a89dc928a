//! What is enforced in a run and how, in one line: what its report is worth.

use std::fmt;
use std::path::PathBuf;

use crate::escape::Plain;

/// What is enforced, and on whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// The kernel's release, as uname(2) has it.
    pub kernel: String,
    pub cgroup: PathBuf,
    /// The attached programs by their hooks: `connect4`.
    pub hooks: Vec<String>,
    /// Whether it is seen what the child asks of others over unix sockets.
    pub sees_sockets: bool,
    /// Whether it is seen who listens on ports of this host, and who leaves the cgroup.
    pub sees_processes: bool,
    /// What `--strict` has put in place; `None` without it.
    pub strict: Option<Vec<String>>,
    pub privileges: Privileges,
}

/// What the child could do about it on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// It is root.
    Root,
    /// It can become root without a password, as this file says.
    Sudo(PathBuf),
    /// It is an ordinary user, without a way to become root that is known.
    Ordinary,
}

impl Protection {
    /// Whether the child can leave the cgroup if it wants to.
    pub fn can_be_left(&self) -> bool {
        self.strict.is_none() && self.privileges != Privileges::Ordinary
    }

    fn seen(&self, seen: bool) -> Vec<&'static str> {
        let sights = [
            (self.sees_sockets, "unix sockets"),
            (self.sees_processes, "ports of this host"),
            (self.sees_processes, "processes that leave the cgroup"),
        ];
        let sights = sights.into_iter().filter(|(is_seen, _)| *is_seen == seen);
        sights.map(|(_, what)| what).collect()
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cgroup = self.cgroup.as_os_str().as_encoded_bytes();
        write!(
            f,
            "filter: {} on {}, kernel {}",
            abridged(&self.hooks).join(" "),
            Plain(cgroup),
            self.kernel
        )?;
        for (seen, word) in [(true, "seen"), (false, "NOT seen")] {
            let what = self.seen(seen);
            if !what.is_empty() {
                write!(f, "; {word}: {}", what.join(", "))?;
            }
        }
        match &self.strict {
            Some(measures) => write!(f, "; strict: {}", measures.join(", "))?,
            None => f.write_str("; strict: no")?,
        }
        if !self.can_be_left() {
            return Ok(());
        }
        match &self.privileges {
            Privileges::Root => f.write_str("; the child is root: it")?,
            Privileges::Sudo(file) => {
                let file = file.as_os_str().as_encoded_bytes();
                write!(
                    f,
                    "; the child can become root without a password ({}): then it",
                    Plain(file)
                )?;
            }
            Privileges::Ordinary => {}
        }
        f.write_str(" can leave the cgroup on purpose (--strict prevents that)")
    }
}

/// `connect4` and `connect6` as `connect4/6`, everything in the order of the names.
fn abridged(hooks: &[String]) -> Vec<String> {
    let mut hooks = hooks.to_vec();
    hooks.sort();
    let mut short: Vec<String> = Vec::new();
    for hook in hooks {
        let is_pair = |last: &String| hook.strip_suffix('6') == last.strip_suffix('4');
        match short.last_mut() {
            Some(last) if hook.ends_with('6') && is_pair(last) => last.push_str("/6"),
            _ => short.push(hook),
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protection() -> Protection {
        Protection {
            kernel: "6.18.44".to_owned(),
            cgroup: "/sys/fs/cgroup/cgfw-1".into(),
            hooks: ["connect6", "egress", "connect4", "sendmsg6", "connect_unix"]
                .map(str::to_owned)
                .into(),
            sees_sockets: true,
            sees_processes: true,
            strict: None,
            privileges: Privileges::Ordinary,
        }
    }

    #[test]
    fn one_line_says_what_is_enforced() {
        let filter = "filter: connect4/6 connect_unix egress sendmsg6 on /sys/fs/cgroup/cgfw-1, \
                      kernel 6.18.44";
        let sight = "seen: unix sockets, ports of this host, processes that leave the cgroup";
        let leave = "can leave the cgroup on purpose (--strict prevents that)";
        let plain = protection();
        let root = Protection {
            privileges: Privileges::Root,
            ..plain.clone()
        };
        let sudo = Protection {
            privileges: Privileges::Sudo("/etc/sudoers.d/x".into()),
            ..plain.clone()
        };
        let strict = Protection {
            strict: Some(vec!["seccomp".to_owned(), "landlock".to_owned()]),
            ..root.clone()
        };
        let blind = Protection {
            sees_sockets: false,
            ..plain.clone()
        };
        let blinder = Protection {
            sees_processes: false,
            ..blind.clone()
        };
        for (protection, rest) in [
            (&plain, format!("{sight}; strict: no")),
            (
                &root,
                format!("{sight}; strict: no; the child is root: it {leave}"),
            ),
            (
                &sudo,
                format!(
                    "{sight}; strict: no; the child can become root without a password \
                     (/etc/sudoers.d/x): then it {leave}"
                ),
            ),
            (&strict, format!("{sight}; strict: seccomp, landlock")),
            (
                &blind,
                "seen: ports of this host, processes that leave the cgroup; \
                 NOT seen: unix sockets; strict: no"
                    .to_owned(),
            ),
            (&blinder, format!("NOT {sight}; strict: no")),
        ] {
            assert_eq!(protection.to_string(), format!("{filter}; {rest}"));
        }
    }
}
