//! Lines from what the books tell.

use std::sync::Arc;
use std::time::SystemTime;

use super::{
    Act, Actor, Ancestor, Contact, Delegation, Dns, Endpoint, Event, Exit, Line, Listener, Moved,
    Service, Traffic, Unanswered, microseconds,
};
use crate::event::{self, End, Layer, Process, Status};
use crate::ledger::{self, Observation};
use crate::policy::Rule;

impl Line {
    /// The line of an observation.
    pub fn observed(run: &str, observation: &Observation) -> Self {
        let act = act(observation);
        let process = observation.process.as_deref();
        let process = process.map(|process| actor(process, &observation.ancestors));
        let event = match &observation.act {
            ledger::Act::Query(query) => Event::Dns(Dns {
                act,
                qtype: query.qtype.clone(),
                without_suffix: observation.without_suffix.clone(),
                cname_chain: query.cname_chain.clone(),
                rcode: query.rcode.clone(),
                answers: query.answers.clone(),
                upstream: query.upstream.map(|server| server.to_string()),
                latency_us: microseconds(query.latency),
                process,
            }),
            ledger::Act::Contact(contact) if observation.layer == Layer::Delegation => {
                Event::Delegation(Delegation {
                    act,
                    to: Service::Port(endpoint(contact.destination)),
                    also: contact.also.clone(),
                    via: contact.via.as_deref().map(str::to_owned),
                    peer: None,
                    unjudged: contact.unjudged,
                    process,
                })
            }
            ledger::Act::Contact(contact) => {
                let contact = Contact {
                    act,
                    to: endpoint(contact.destination),
                    also: contact.also.clone(),
                    unjudged: contact.unjudged,
                    internal: contact.internal,
                    process,
                };
                match observation.layer {
                    Layer::Packet => Event::Packet(contact),
                    Layer::Dns | Layer::Connect | Layer::Delegation => Event::Connect(contact),
                }
            }
            ledger::Act::Delegation { service, peer } => Event::Delegation(Delegation {
                act,
                to: to(service),
                also: Vec::new(),
                via: None,
                peer: peer.as_ref().map(listener),
                unjudged: false,
                process,
            }),
        };
        Self::new(run, observation.time, event)
    }

    /// The line of a process that has ended.
    pub fn exited(run: &str, exit: &ledger::Exit) -> Self {
        let (status, signal) = match exit.status {
            Status::Code(code) => (Some(code), None),
            Status::Signal(signal) => (None, Some(signal)),
        };
        let event = Event::Exit(Exit {
            status,
            signal,
            lived_us: microseconds(exit.age),
            process: actor(&exit.process, &[]),
        });
        Self::new(run, exit.time, event)
    }

    /// The line of connections that have ended.
    pub fn ended(run: &str, ended: &ledger::Ended) -> Self {
        let process = ended.process.as_deref();
        let process = process.map(|process| actor(process, &ended.ancestors));
        let (qname, to) = (ended.name.clone(), endpoint(ended.destination));
        let connections = ended.connections;
        let event = match ended.end {
            End::Established { sent, received } => Event::Traffic(Traffic {
                qname,
                to,
                connections,
                bytes_sent: sent,
                bytes_received: received,
                process,
            }),
            End::Unanswered { waited } => Event::Unanswered(Unanswered {
                qname,
                to,
                connections,
                waited_us: microseconds(waited),
                process,
            }),
        };
        Self::new(run, ended.time, event)
    }

    /// The line of a process that was moved out of the cgroup.
    pub fn moved(run: &str, time: SystemTime, moved: &event::Moved) -> Self {
        let event = Event::Moved(Moved {
            cgroup: (!moved.to.is_empty()).then(|| lossy(&moved.to)),
            is_back: moved.is_back,
            process: actor(&moved.process, &[]),
        });
        Self::new(run, time, event)
    }
}

fn act(observation: &Observation) -> Act {
    let rule = observation.rule.as_deref();
    Act {
        verdict: observation.verdict,
        layer: observation.layer,
        qname: observation.act.name().cloned(),
        reason: observation.reason,
        rule: rule.map(Rule::cite),
        owner: rule.and_then(Rule::owner).map(str::to_owned),
        rule_reason: rule.and_then(Rule::reason).map(str::to_owned),
        matched: observation.matched.clone(),
        count: observation.count,
    }
}

fn actor(process: &Process, ancestors: &[Arc<Process>]) -> Actor {
    Actor {
        pid: process.pid,
        tid: Some(process.tid),
        ppid: process.ppid,
        uid: process.uid,
        started: process.started,
        comm: lossy(&process.comm),
        exe: known(&process.exe),
        script: known(&process.script),
        argv: strings(&process.argv),
        argv_truncated: process.truncated,
        cwd: known(&process.cwd),
        ancestors: ancestors.iter().map(|process| ancestor(process)).collect(),
    }
}

fn ancestor(process: &Process) -> Ancestor {
    Ancestor {
        pid: process.pid,
        started: process.started,
        comm: lossy(&process.comm),
        exe: known(&process.exe),
        script: known(&process.script),
        argv: strings(&process.argv),
    }
}

fn known(path: &[u8]) -> Option<String> {
    (!path.is_empty()).then(|| lossy(path))
}

fn endpoint(to: ledger::Destination) -> Endpoint {
    Endpoint {
        ip: to.ip,
        port: to.port,
        proto: proto(to.protocol),
    }
}

fn to(service: &event::Service) -> Service {
    match service {
        event::Service::Port { address, protocol } => Service::Port(Endpoint {
            ip: address.ip(),
            port: address.port(),
            proto: proto(*protocol),
        }),
        event::Service::Path(path) => Service::Socket {
            socket: lossy(path),
        },
        event::Service::Abstract(name) => Service::Socket {
            socket: lossy(&abstract_name(name)),
        },
    }
}

fn listener(peer: &event::Peer) -> Listener {
    Listener {
        pid: peer.pid,
        comm: lossy(&peer.comm),
        argv: strings(&peer.argv),
    }
}

/// An abstract name as rules, ss(8) and /proc/net/unix have it.
pub fn abstract_name(name: &[u8]) -> Vec<u8> {
    [b"@", name].concat()
}

/// The name of an IANA protocol number, or the number.
pub fn proto(number: u8) -> String {
    let name = match i32::from(number) {
        libc::IPPROTO_TCP => "tcp",
        libc::IPPROTO_UDP => "udp",
        libc::IPPROTO_ICMP => "icmp",
        libc::IPPROTO_ICMPV6 => "icmpv6",
        libc::IPPROTO_UDPLITE => "udplite",
        libc::IPPROTO_SCTP => "sctp",
        _ => return number.to_string(),
    };
    name.to_owned()
}

/// Arguments, with U+FFFD for what is not UTF-8.
pub fn strings(argv: &[Vec<u8>]) -> Vec<String> {
    argv.iter().map(|arg| lossy(arg)).collect()
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
