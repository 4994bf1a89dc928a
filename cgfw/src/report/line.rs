//! Lines as things happen, of keys and values.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::BreakGlass;
use crate::audit::{abstract_name, proto};
use crate::escape::{Plain, Quoted, command_line, command_of};
use crate::event::{Layer, Moved, Peer, Service, Verdict};
use crate::formats::{Paint, Style};
use crate::ledger::{Act, Observation, Reached};
use crate::policy::{Action, Domain};

/// The line for one refusal (or, where they are wanted, permission).
///
/// Its first keys, up to `firewallMethod`, and their order are fixed.
pub(super) fn of(observation: &Observation, default: Action, style: Style) -> String {
    let (level, verdict, paint) = match observation.verdict {
        Verdict::Allowed if observation.startling => ("WARN", "ALLOWED", Paint::Yellow),
        Verdict::Allowed => ("INFO", "ALLOWED", Paint::Green),
        Verdict::Blocked => ("WARN", "BLOCKED", Paint::Red),
        Verdict::WouldBlock => ("WARN", "WOULD-BLOCK", Paint::Yellow),
    };
    let (layer, reason, place) = match observation.layer {
        Layer::Dns => ("DNS", "FromDNSRequest", "dns"),
        Layer::Connect => ("CONNECT", "FromConnect", "connect"),
        Layer::Packet => ("PACKET", "FromPacket", "packet"),
        Layer::Delegation => ("DELEGATION", "FromDelegation", "delegation"),
    };
    let mut line = Line(format!("{level} {layer} {}", style.paint(paint, verdict)));
    line.key("reason", &reason);
    line.key("blocked", &(observation.verdict == Verdict::Blocked));
    line.key("blockedAt", &place);
    if let Some(name) = observation.act.name() {
        line.key("domain", &Rooted(name));
    }
    match &observation.process {
        Some(process) => line.key("pid", &process.pid),
        None => line.key("pid", &"?"),
    }
    let command = command_of(observation.process.as_deref());
    line.key("cmd", &Quoted(&command));
    let method = match default {
        Action::Allow => "blocklist",
        Action::Block => "allowlist",
    };
    line.key("firewallMethod", &method);
    if let Some(rule) = &observation.rule {
        line.key("rule", &Quoted(rule.cite().as_bytes()));
        if let Some(owner) = rule.owner() {
            line.key("owner", &Quoted(owner.as_bytes()));
        }
        // `reason` is taken: it says what was refused.
        if let Some(why) = rule.reason() {
            line.key("why", &Quoted(why.as_bytes()));
        }
    }
    if let Some(matched) = &observation.matched {
        line.key("matched", &Rooted(matched));
    }
    line.act(&observation.act);
    line.end()
}

/// The line for a process that was moved out of the cgroup.
pub(super) fn moved(moved: &Moved, style: Style) -> String {
    let (word, paint) = if moved.is_back {
        ("BACK", Paint::Yellow)
    } else {
        ("OUT", Paint::Red)
    };
    let mut line = Line(format!("WARN MOVED {}", style.paint(paint, word)));
    line.key("pid", &moved.process.pid);
    line.key("cmd", &Quoted(&command_of(Some(&moved.process))));
    if !moved.to.is_empty() {
        line.key("cgroup", &Quoted(&moved.to));
    }
    line.end()
}

/// The line for a run that refuses nothing although it should.
pub(super) fn break_glass(glass: &BreakGlass, style: Style) -> String {
    let verdict = style.paint(Paint::Red, "NOTHING IS REFUSED");
    let mut line = Line(format!("WARN BREAK-GLASS {verdict}"));
    if let Some(user) = &glass.user {
        line.key("user", &Quoted(user.as_bytes()));
    }
    line.key("uid", &glass.uid);
    line.key("why", &Quoted(glass.reason.as_bytes()));
    line.end()
}

/// A line of keys and values, as it is being written.
struct Line(String);

impl Line {
    fn key(&mut self, key: &str, value: &dyn fmt::Display) {
        // Writing to a string cannot fail.
        let _infallible = write!(self.0, " {key}={value}");
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Query(query) => self.key("qtype", &Plain(query.qtype.as_bytes())),
            Act::Contact(Reached {
                destination: to,
                also,
                via,
                ..
            }) => {
                self.destination(to.ip, to.port, to.protocol);
                for name in also {
                    self.key("also", &Rooted(name));
                }
                if let Some(via) = via {
                    self.key("via", &Quoted(via.as_bytes()));
                }
            }
            Act::Delegation { service, peer } => {
                match service {
                    Service::Port {
                        address: to,
                        protocol,
                    } => self.destination(to.ip(), to.port(), *protocol),
                    Service::Path(path) => self.key("socket", &Quoted(path)),
                    Service::Abstract(name) => self.key("socket", &Quoted(&abstract_name(name))),
                }
                self.peer(peer.as_ref());
            }
        }
    }

    fn destination(&mut self, ip: IpAddr, port: u16, protocol: u8) {
        self.key("ip", &ip);
        self.key("port", &port);
        self.key("proto", &proto(protocol));
    }

    fn peer(&mut self, peer: Option<&Peer>) {
        let Some(Peer { pid, comm, argv }) = peer else {
            self.key("peerPid", &"?");
            self.key("peer", &Quoted(b"?"));
            return;
        };
        self.key("peerPid", pid);
        self.key("peer", &Quoted(&command_line(argv, comm, false)));
    }

    fn end(mut self) -> String {
        self.0.push('\n');
        self.0
    }
}

/// A name with its final dot.
struct Rooted<'d>(&'d Domain);

impl fmt::Display for Rooted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        // The root is displayed as its dot.
        if self.0.as_wire().is_empty() {
            return Ok(());
        }
        f.write_char('.')
    }
}
