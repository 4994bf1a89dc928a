//! How a baseline is written: TOML, sorted, so that a change of it can be reviewed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::dependencies::{Dependencies, Dependency};
use crate::audit::{Endpoint, Service};
use crate::digest::Target;
use crate::escape::is_visible;
use crate::event::Verdict;
use crate::policy::Domain;

/// Raised when a key changes its meaning or vanishes.
const VERSION: u32 = 1;

const HEADER: &str = "\
# What runs depend on, as `cgfw baseline` wrote it. Whatever is not in here is new to
# `cgfw run --baseline` and to `cgfw diff`. To update it from the audit logs of good runs:
#   cgfw baseline AUDIT.jsonl... > THIS_FILE
";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Baseline {
    version: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dependency: Vec<Entry>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Entry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Domain>,
    /// `192.0.2.1:443/tcp`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The same of another process on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    /// A path, or `@` and an abstract name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    socket: Option<String>,
    #[serde(flatten)]
    dependency: Option<Dependency>,
}

/// The text of a baseline.
pub(super) fn print(dependencies: &Dependencies) -> String {
    let mut text = format!("{HEADER}version = {VERSION}\n");
    for (target, dependency) in dependencies.iter() {
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
        text.push_str("\n[[dependency]]\n");
        line(&mut text, key, &quoted(&value));
        line(&mut text, "verdict", &quoted(verdict));
        list(&mut text, "ports", &dependency.ports);
        list(&mut text, "commands", &dependency.programs());
    }
    text
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a string cannot fail.
    let _infallible = writeln!(text, "{key} = {value}");
}

fn list(text: &mut String, key: &str, values: &BTreeSet<String>) {
    if !values.is_empty() {
        let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        line(text, key, &format!("[{}]", values.join(", ")));
    }
}

/// A basic string of TOML, in which nothing is that a terminal does not show.
fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                text.push('\\');
                text.push(c);
            }
            c if is_visible(c) => text.push(c),
            c => {
                let _infallible = write!(text, "\\U{:08X}", u32::from(c));
            }
        }
    }
    text.push('"');
    text
}

/// What the text of a baseline says.
pub(super) fn parse(name: &str, text: &str) -> anyhow::Result<Dependencies> {
    let no_baseline = |error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        anyhow!(
            "{name}:{line}: not a baseline: {}",
            error.message().trim_end()
        )
    };
    let baseline: Baseline = toml::from_str(text).map_err(no_baseline)?;
    if baseline.version != VERSION {
        bail!(
            "{name}: this is version {} of baselines, and this cgfw reads {VERSION}; write it \
             again with `cgfw baseline`",
            baseline.version
        );
    }
    let mut all = BTreeMap::new();
    for (number, entry) in (1..).zip(baseline.dependency) {
        let wrong = || format!("{name}: dependency {number}");
        let target = entry.target().with_context(wrong)?;
        let dependency = entry
            .dependency
            .context("it has no verdict")
            .with_context(wrong)?;
        if all.insert(target.clone(), dependency).is_some() {
            bail!("{name}: dependency {number}: {target} is there twice");
        }
    }
    Ok(Dependencies(all))
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
            _ => bail!("it needs one of name, address, listener and socket"),
        }
    }
}

/// `192.0.2.1:443/tcp`, or `192.0.2.1/icmp`.
fn endpoint(text: &str) -> anyhow::Result<Endpoint> {
    let wrong = || format!("`{text}` is not ADDRESS[:PORT]/PROTOCOL");
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
