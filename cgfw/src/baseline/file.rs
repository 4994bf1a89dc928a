//! How a baseline is written: TOML, sorted, so that a change of it can be reviewed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use toml::Spanned;

use super::dependencies::{Dependencies, Dependency};
use crate::audit::{Endpoint, Service};
use crate::digest::Target;
use crate::escape::{Plain, TomlString};
use crate::event::Verdict;
use crate::policy::Domain;

/// Raised when a key changes its meaning or vanishes.
const VERSION: u32 = 1;

const HEADER: &str = "\
# What runs depend on, as `cgfw baseline` wrote it. Whatever is not in here is new to
# `cgfw run --baseline` and to `cgfw diff`. To update it from the audit logs of good runs:
#   cgfw baseline AUDIT.jsonl... > THIS_FILE
";

/// What every version of the format has.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Baseline {
    #[expect(dead_code, reason = "was looked at before all else")]
    version: u32,
    #[serde(default)]
    dependency: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<Domain>,
    /// `192.0.2.1:443/tcp`
    address: Option<String>,
    /// The same of another process on this host.
    listener: Option<String>,
    /// A path, or `@` and an abstract name.
    socket: Option<String>,
    verdict: Verdict,
    #[serde(default)]
    ports: BTreeSet<String>,
    #[serde(default)]
    commands: BTreeSet<String>,
}

/// As a baseline is written.
impl fmt::Display for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}version = {VERSION}")?;
        for (target, dependency) in self.iter() {
            let (key, value) = match target {
                Target::Name(name) => ("name", name.to_string()),
                Target::Address(to) => ("address", to.to_string()),
                Target::Service(Service::Port(to)) => ("listener", to.to_string()),
                Target::Service(Service::Socket { socket }) => ("socket", socket.clone()),
            };
            let verdict = match dependency.verdict {
                Verdict::Allowed => "allowed",
                Verdict::Blocked => "blocked",
                Verdict::WouldBlock => "would_block",
            };
            writeln!(f, "\n[[dependency]]\n{key} = {}", TomlString(&value))?;
            writeln!(f, "verdict = \"{verdict}\"")?;
            list(f, "ports", &dependency.ports)?;
            list(f, "commands", &dependency.commands)?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, key: &str, values: &BTreeSet<String>) -> fmt::Result {
    if values.is_empty() {
        return Ok(());
    }
    let values = values.iter().map(|value| TomlString(value).to_string());
    let values: Vec<String> = values.collect();
    writeln!(f, "{key} = [{}]", values.join(", "))
}

impl Dependencies {
    /// What the text of a baseline says, which is called `name`.
    ///
    /// # Errors
    ///
    /// With the line of what is not understood.
    pub fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let at = |span: Range<usize>| {
            let before = text.get(..span.start).unwrap_or_default();
            format!("{name}:{}", 1 + before.matches('\n').count())
        };
        let no_baseline = |error: toml::de::Error| {
            let place = at(error.span().unwrap_or_default());
            let message = error.message().trim().replace('\n', "; ");
            anyhow!("{place}: not a baseline: {}", Plain(message.as_bytes()))
        };
        // First of all, since another version may have other keys.
        let Head { version } = toml::from_str(text).map_err(no_baseline)?;
        if version != VERSION {
            bail!(
                "{name}: this is version {version} of baselines, and this cgfw reads {VERSION}; \
                 write it again with `cgfw baseline`"
            );
        }
        let baseline: Baseline = toml::from_str(text).map_err(no_baseline)?;
        let mut all = BTreeMap::new();
        for entry in baseline.dependency {
            let place = at(entry.span());
            let entry = entry.into_inner();
            let target = entry.target().with_context(|| place.clone())?;
            let dependency = Dependency {
                verdict: entry.verdict,
                ports: entry.ports,
                commands: entry.commands,
            };
            let title = target.to_string();
            if all.insert(target, dependency).is_some() {
                bail!("{place}: {} is there twice", Plain(title.as_bytes()));
            }
        }
        Ok(Self(all))
    }
}

impl Entry {
    fn target(&self) -> anyhow::Result<Target> {
        match (&self.name, &self.address, &self.listener, &self.socket) {
            (Some(name), None, None, None) => Ok(Target::Name(name.clone())),
            (None, Some(to), None, None) => Ok(Target::Address(endpoint(to)?)),
            (None, None, Some(to), None) => Ok(Target::Service(Service::Port(endpoint(to)?))),
            (None, None, None, Some(socket)) => Ok(Target::Service(Service::Socket {
                socket: socket.clone(),
            })),
            _ => bail!("a dependency has one of name, address, listener and socket"),
        }
    }
}

/// `192.0.2.1:443/tcp`, or `192.0.2.1/icmp`.
fn endpoint(text: &str) -> anyhow::Result<Endpoint> {
    let wrong = || {
        format!(
            "`{}` is not ADDRESS[:PORT]/PROTOCOL",
            Plain(text.as_bytes())
        )
    };
    let (address, proto) = text.rsplit_once('/').with_context(wrong)?;
    let to = address.parse::<SocketAddr>();
    let (ip, port) = match to {
        Ok(to) => (to.ip(), to.port()),
        Err(_portless) => (address.parse::<IpAddr>().with_context(wrong)?, 0),
    };
    Ok(Endpoint {
        ip,
        port,
        proto: proto.to_owned(),
    })
}
