//! An answer for programs: one JSON object in a line, in the words of the audit log.

use std::net::IpAddr;

use serde::Serialize;

use super::destination::{Destination, Host, proto};
use super::judge::{Answer, Ground, Known, Matched, Source};
use super::text::ranges;
use crate::audit::{SCHEMA, encode};
use crate::policy::{Action, Candidate, DirectIp, Domain, Standing};

#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    destination: &'a str,
    #[serde(flatten)]
    judged: Judged,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proto: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    default: &'static str,
    direct_ip: &'static str,
    /// Where no port was asked for and not all have the same verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Ports>,
    candidates: Vec<Entry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lookups: Vec<LookUp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cname_chain: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    answers: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<Judged>,
}

/// Of the destination, or of one of its addresses.
#[derive(Serialize)]
struct Judged {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    qname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    matched: Option<String>,
}

#[derive(Serialize)]
struct Ports {
    allowed: Vec<String>,
    blocked: Vec<String>,
}

#[derive(Serialize)]
struct Entry {
    rule: String,
    action: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matched: Option<String>,
}

#[derive(Serialize)]
struct LookUp {
    qtype: &'static str,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Answered { rcode: String, upstream: String },
    Failed { error: String },
}

/// The answer, as a line.
pub(super) fn of(destination: &Destination, answer: &Answer, known: &Known) -> Vec<u8> {
    let port = destination.port;
    let asked = port.map(|port| (port.transport, port.number));
    let rule = match &answer.ground {
        Ground::Rule { rule, .. } => Some(rule),
        Ground::Default(_) | Ground::DirectIp | Ground::Own | Ground::Addresses => None,
    };
    let is_partial = port.is_none() && answer.ports.uniform().is_none();
    let resolution = answer.resolution.as_ref();
    let (qname, dst_ip) = match &destination.host {
        Host::Name(name) => (Some(name), None),
        Host::Address(address) => (None, Some(*address)),
    };
    let addresses = resolution.map_or(&[][..], |resolution| &resolution.addresses);
    encode(&Line {
        schema: SCHEMA,
        destination: &destination.text,
        judged: judged(answer, qname, dst_ip),
        dst_port: port.map(|port| port.number),
        proto: port.and_then(|port| proto(port.transport)),
        rule_reason: rule.and_then(|rule| rule.reason()),
        owner: rule.and_then(|rule| rule.owner()),
        default: action(known.policy.default_action()),
        direct_ip: match known.policy.direct_ip() {
            DirectIp::Allow => "allow",
            DirectIp::Private => "private",
            DirectIp::Block => "block",
        },
        ports: is_partial.then(|| Ports {
            allowed: ranges(&answer.ports, Action::Allow),
            blocked: ranges(&answer.ports, Action::Block),
        }),
        candidates: answer.judgement.as_ref().map_or(Vec::new(), |judgement| {
            judgement.candidates(asked).iter().map(entry).collect()
        }),
        lookups: resolution.map_or(Vec::new(), |resolution| lookups(&resolution.source)),
        cname_chain: resolution.map_or(Vec::new(), |resolution| {
            let aliases = resolution.chain.iter();
            aliases.map(|(alias, _)| alias.to_string()).collect()
        }),
        answers: addresses.iter().map(|(address, _)| *address).collect(),
        addresses: addresses
            .iter()
            .map(|(address, answer)| judged(answer, None, Some(*address)))
            .collect(),
    })
}

fn judged(answer: &Answer, qname: Option<&Domain>, dst_ip: Option<IpAddr>) -> Judged {
    let mut judged = Judged {
        verdict: match answer.verdict {
            Action::Allow => "allowed",
            Action::Block => "blocked",
        },
        qname: qname.map(ToString::to_string),
        dst_ip,
        rule: None,
        reason: "rule",
        matched: None,
    };
    match &answer.ground {
        Ground::Rule { rule, matched } => {
            judged.rule = Some(rule.cite());
            match matched {
                Matched::Itself => {}
                Matched::Alias(name) => {
                    judged.reason = "alias";
                    judged.matched = Some(name.to_string());
                }
                Matched::Bare(name) => {
                    judged.reason = "search_suffix";
                    judged.matched = Some(name.to_string());
                }
                Matched::Name(name) => judged.qname = Some(name.to_string()),
            }
        }
        Ground::Default(name) => {
            judged.reason = "default";
            judged.qname = judged.qname.or(name.as_ref().map(ToString::to_string));
        }
        Ground::DirectIp => judged.reason = "direct_ip",
        Ground::Own => judged.reason = "own",
        Ground::Addresses => judged.reason = "addresses",
    }
    judged
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Block => "block",
    }
}

fn entry(candidate: &Candidate<'_>) -> Entry {
    Entry {
        rule: candidate.rule.cite(),
        action: action(candidate.rule.action),
        outcome: match candidate.standing {
            Standing::Decides => "decides",
            Standing::Agrees => "agrees",
            Standing::LostTie => "lost_tie",
            Standing::Shadowed => "shadowed",
            Standing::Overruled => "overruled",
            Standing::NoSay => "no_say",
            Standing::OtherPorts => "other_ports",
        },
        by: candidate.by.map(|by| by.cite()),
        matched: candidate.matched.map(ToString::to_string),
    }
}

fn lookups(source: &Source) -> Vec<LookUp> {
    let Source::Servers(found) = source else {
        return Vec::new();
    };
    ["AAAA", "A"]
        .into_iter()
        .zip(found)
        .map(|(qtype, found)| LookUp {
            qtype,
            outcome: match found {
                Ok(found) => Outcome::Answered {
                    rcode: found.rcode.clone(),
                    upstream: found.upstream.to_string(),
                },
                Err(error) => Outcome::Failed {
                    error: format!("{error:#}"),
                },
            },
        })
        .collect()
}
