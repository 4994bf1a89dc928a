//! A line of an audit log, as far as it matters here. Pure.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};

use crate::policy::{Domain, Transport};

#[derive(Debug, Deserialize)]
pub(super) struct Line {
    pub(super) run: String,
    #[serde(flatten)]
    pub(super) event: Event,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    RunStart(RunStart),
    Dns(Dns),
    Connect(Contact),
    Packet(Contact),
    Delegation(Delegation),
    Moved {},
    Loss {
        count: u64,
    },
    RunEnd {
        #[serde(default)]
        lines_lost: u64,
    },
    /// What a later cgfw tells as well.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Deserialize)]
pub(super) struct RunStart {
    pub(super) argv: Vec<String>,
    pub(super) direct_ip: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Dns {
    #[serde(flatten)]
    pub(super) entry: Entry,
    #[serde(deserialize_with = "domain")]
    pub(super) qname: Domain,
    #[serde(default)]
    pub(super) answers: Vec<IpAddr>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Contact {
    #[serde(flatten)]
    pub(super) entry: Entry,
    /// The name that led there.
    #[serde(default, deserialize_with = "some_domain")]
    pub(super) qname: Option<Domain>,
    pub(super) dst_ip: IpAddr,
    /// 0 where the protocol has none.
    pub(super) dst_port: u16,
    pub(super) proto: String,
    /// Where the destination is named as one that does the network for the command.
    pub(super) via: Option<String>,
}

impl Contact {
    pub(super) fn transport(&self) -> Transport {
        match &*self.proto {
            "tcp" => Transport::Tcp,
            "udp" | "udplite" => Transport::Udp,
            _ => Transport::Other,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Delegation {
    Socket {
        #[serde(flatten)]
        entry: Entry,
        socket: String,
    },
    /// A port of this host, or a proxy.
    Contact(Contact),
}

/// What is told of every act.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) verdict: Verdict,
    pub(super) reason: Reason,
    pub(super) rule: Option<String>,
    pub(super) pid: Option<u32>,
    #[serde(default)]
    pub(super) comm: String,
    #[serde(default)]
    pub(super) argv: Vec<String>,
    #[serde(default)]
    pub(super) argv_truncated: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Allowed,
    Blocked,
    WouldBlock,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    Default,
    DirectIp,
    /// A rule, on this name or one behind it; or what is done elsewhere.
    #[serde(other)]
    Other,
}

fn domain<'de, D: Deserializer<'de>>(from: D) -> Result<Domain, D::Error> {
    let text = String::deserialize(from)?;
    let name = match &*text {
        // The root, which `dig . NS` asks for.
        "." => Domain::from_labels([]),
        _ => Domain::parse(&text),
    };
    name.map_err(serde::de::Error::custom)
}

fn some_domain<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Domain>, D::Error> {
    domain(from).map(Some)
}
