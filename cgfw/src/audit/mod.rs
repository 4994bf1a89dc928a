/*!
The audit log: the events of a run as JSON lines.

The types below are the format. What writes a log and what reads one share them, and
`schema.json` is generated from them. A field is there where it applies and has a value. Text
that is not UTF-8 has U+FFFD in its place; characters that are not visible are escaped, so
that a log can be looked at with cat(1).
*/

mod convert;
mod encode;
mod time;

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use self::convert::{abstract_name, proto, strings};
pub use self::encode::encode;
pub use self::time::{microseconds, rfc3339};
use crate::event::{Layer, Reason, Verdict};
use crate::policy::{Action, DirectIp, Domain};

/// Raised when a field changes its meaning or vanishes, not when one is added.
pub const SCHEMA: u32 = 1;

/// The JSON Schema (draft 2020-12) of a line.
pub const JSON_SCHEMA: &str = include_str!("schema.json");

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(title = "a line of cgfw's audit log", extend("$id" = "urn:cgfw:audit:1")))]
pub struct Line {
    /// The version of the format.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    pub schema: u32,
    /// When it happened (RFC 3339, UTC, nanoseconds).
    #[serde(with = "time")]
    #[cfg_attr(test, schemars(with = "String", extend("format" = "date-time")))]
    pub time: SystemTime,
    /// The id of the run, different for every run on every host.
    pub run: String,
    #[serde(flatten)]
    pub event: Event,
}

/// What a line tells of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    RunStart(Box<RunStart>),
    Policy(PolicyChange),
    Dns(Dns),
    Connect(Contact),
    Packet(Contact),
    Delegation(Delegation),
    Moved(Moved),
    Exit(Exit),
    Traffic(Traffic),
    Unanswered(Unanswered),
    Loss(Loss),
    RunEnd(Box<RunEnd>),
    /// What a later cgfw tells as well.
    #[serde(other)]
    Unknown,
}

/// The first line of a run: what is enforced, and on whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunStart {
    /// Of cgfw.
    pub version: String,
    /// The trace that the run is a part of (W3C Trace Context), in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    pub mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<Glass>,
    /// What happens to names that no rule speaks of (`--default`, or as implied).
    #[cfg_attr(test, schemars(with = "String"))]
    pub default: Action,
    /// What happens to addresses that no permitted name led to (`--direct-ip`, or as implied).
    #[cfg_attr(test, schemars(with = "String"))]
    pub direct_ip: DirectIp,
    /// Arguments as they were written; of a file, its name and how many rules it has.
    pub rules: Vec<String>,
    /// SHA-256 of all rules in their order and of both defaults, in hexadecimal.
    pub policy_digest: String,
    /// The user that the command runs as.
    pub uid: u32,
    /// The command.
    pub argv: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The name of the host, as uname(2) has it.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// The directory of the run's cgroup.
    pub cgroup: String,
    /// Where programs are attached.
    pub hooks: Vec<String>,
    /// Whether delegation to unix sockets is seen.
    pub sees_sockets: bool,
    /// Whether delegation to ports of this host is seen, and processes that are moved.
    pub sees_processes: bool,
    /// What `--strict` has put in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<Vec<String>>,
    /// Whether the command can leave the cgroup, because it is root or can become root.
    pub can_be_left: bool,
}

/// What becomes of what the policy forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is refused.
    Enforce,
    /// It passes and is reported (`--audit`).
    Audit,
    /// The same, because of an emergency (`--break-glass`).
    BreakGlass,
}

/// Why nothing is refused, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Glass {
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub uid: u32,
}

/// What became of changed policy files (`--watch`): the policy that is in force from now on,
/// or why the former one stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PolicyChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub default: Option<Action>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub direct_ip: Option<DirectIp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is told of every act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Act {
    pub verdict: Verdict,
    pub layer: Layer,
    /// The name that was asked for, or that led to the address: lower case, without a final
    /// dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub qname: Option<Domain>,
    /// On what grounds the verdict fell.
    pub reason: Reason,
    /// The rule that decided, as it was written, with where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Whom to ask about that rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Why the rule is there; `reason` is why it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_reason: Option<String>,
    /// The name that the rule matched, if it is another: an alias, or without a search suffix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub matched: Option<Domain>,
    /// How many acts this line stands for: 0 if it only repeats a refusal with a search suffix.
    pub count: u64,
}

/// A process at the moment of its act.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Actor {
    pub pid: u32,
    /// The thread; the first one has the id of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    pub ppid: u32,
    pub uid: u32,
    /// When the process started, in nanoseconds since boot: with `pid`, its identity for good.
    #[serde(default)]
    pub started: u64,
    /// The short name of the thread.
    pub comm: String,
    /// The path of the executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// What was executed, where that is not `exe` itself: a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The arguments, `argv[0]` first.
    pub argv: Vec<String>,
    /// Whether there were more of them than are captured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub argv_truncated: bool,
    /// The working directory at the time of the act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Those who started it, from the wrapped command down to its parent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
}

/// A process that started others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Ancestor {
    pub pid: u32,
    /// As that of the process.
    #[serde(default)]
    pub started: u64,
    pub comm: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    pub argv: Vec<String>,
}

/// A question to the DNS, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Dns {
    #[serde(flatten)]
    pub act: Act,
    /// As its mnemonic: `AAAA`, `TYPE4711`.
    pub qtype: String,
    /// The name without the search suffix that the resolver added after it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub without_suffix: Option<Domain>,
    /// The aliases that were walked, from the question on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub cname_chain: Vec<Domain>,
    /// As its mnemonic: `NOERROR`, `NXDOMAIN`.
    pub rcode: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<IpAddr>,
    /// The server that was asked, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// How long the child waited, in microseconds.
    pub latency_us: u64,
    /// Who did it; absent if that could not be found out.
    #[serde(flatten)]
    pub process: Option<Actor>,
}

/// An address, and a port where the protocol has them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Endpoint {
    #[serde(rename = "dst_ip")]
    pub ip: IpAddr,
    /// 0 where the protocol has none.
    #[serde(rename = "dst_port")]
    pub port: u16,
    /// The name of the IANA protocol number, or the number.
    pub proto: String,
}

/// A connection, or a first packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Contact {
    #[serde(flatten)]
    pub act: Act,
    #[serde(flatten)]
    pub to: Endpoint,
    /// Other names of the address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub also: Vec<Domain>,
    /// Whether it passed although no name led there and no rule speaks of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unjudged: bool,
    /// Whether it stays on this host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// Who did it; absent if that could not be found out.
    #[serde(flatten)]
    pub process: Option<Actor>,
}

/// The child turned to others who do the network for it: outside of the cgroup, or, with
/// `via`, on another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Delegation {
    #[serde(flatten)]
    pub act: Act,
    #[serde(flatten)]
    pub to: Service,
    /// Other names of the address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub also: Vec<Domain>,
    /// Where a proxy is named: `http_proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Who listens, if that could be found out.
    #[serde(flatten)]
    pub peer: Option<Listener>,
    /// As in [`Contact`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unjudged: bool,
    /// Who did it; absent if that could not be found out.
    #[serde(flatten)]
    pub process: Option<Actor>,
}

/// Where others listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Service {
    Port(Endpoint),
    /// A unix socket: its path, or `@` and its abstract name.
    Socket {
        socket: String,
    },
}

/// A process outside of the cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Listener {
    #[serde(rename = "peer_pid")]
    pub pid: u32,
    #[serde(rename = "peer_comm")]
    pub comm: String,
    #[serde(rename = "peer_argv")]
    pub argv: Vec<String>,
}

/// A process was moved out of the cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Moved {
    /// Where it was moved to, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Whether it is inside again.
    pub is_back: bool,
    #[serde(flatten)]
    pub process: Actor,
}

/// A process ended that acted, or that an acting one descends from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Exit {
    /// What it returned; absent if a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// How long it lived, in microseconds.
    pub lived_us: u64,
    #[serde(flatten)]
    pub process: Actor,
}

/// What went over TCP connections that have been closed since the last such line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Traffic {
    /// The name that led there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub qname: Option<Domain>,
    #[serde(flatten)]
    pub to: Endpoint,
    pub connections: u64,
    /// Octets of payload, without retransmissions.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Who did it; absent if that could not be found out.
    #[serde(flatten)]
    pub process: Option<Actor>,
}

/// TCP connections that nobody answered, or that were turned away, have been given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Unanswered {
    /// The name that led there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub qname: Option<Domain>,
    #[serde(flatten)]
    pub to: Endpoint,
    pub connections: u64,
    /// From connect(2) until they were turned away or closed, together, in microseconds.
    pub waited_us: u64,
    /// Who did it; absent if that could not be found out.
    #[serde(flatten)]
    pub process: Option<Actor>,
}

/// Observations were lost between the kernel and this log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Loss {
    pub count: u64,
}

/// The last line of a run. A log without it was cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunEnd {
    pub outcome: Outcome,
    /// What the command returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u8>,
    /// What ended the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// That of cgfw.
    pub exit_code: u8,
    pub elapsed_us: u64,
    /// Questions and contacts, and how many of both were blocked, or would have been.
    #[serde(default)]
    pub lookups: u64,
    #[serde(default)]
    pub contacts: u64,
    #[serde(default)]
    pub blocked: u64,
    /// Processor time of the command and of all that it waited for, in microseconds.
    #[serde(default)]
    pub user_us: u64,
    #[serde(default)]
    pub system_us: u64,
    /// The most memory that one process had, in octets.
    #[serde(default)]
    pub max_rss: u64,
    /// Processes that outlived the command.
    #[serde(default)]
    pub survivors: Vec<Survivor>,
    /// What became of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fate: Option<Fate>,
    /// What else keeps the report from being complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caveats: Vec<String>,
    /// What the run depends on that is not in its `--baseline`; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Vec<String>>,
    /// Observations that were lost on the way here.
    #[serde(default)]
    pub lost: u64,
    /// Addresses of names for which there was no room, so that contacts may go without.
    #[serde(default)]
    pub forgotten: u64,
    /// Lines of this log that were lost so far.
    #[serde(default)]
    pub lines_lost: u64,
}

/// How the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command returned `status`.
    Exited,
    /// `signal` ended it.
    Killed,
    TimedOut,
    NotFound,
    CannotExecute,
    /// cgfw failed: nothing was run, or the run was ended.
    Failed,
}

/// A process that outlived the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Survivor {
    pub pid: u32,
    pub comm: String,
    pub argv: Vec<String>,
}

/// What became of the processes that outlived the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// They were asked to end, and made to.
    Ended,
    /// They were waited for.
    Awaited,
    /// They were let go, unfiltered.
    Released,
}

/// Who is told the lines of a run beside the log.
pub trait Follower: fmt::Debug {
    /// Takes a line, and neither waits nor fails.
    fn follow(&mut self, line: Line);

    /// The run has ended. Waits for what is on its way, but not for long; returns what is to
    /// be said of what did not arrive.
    fn finish(self: Box<Self>) -> Option<String>;
}

impl Line {
    pub fn new(run: &str, time: SystemTime, event: Event) -> Self {
        Self {
            schema: SCHEMA,
            time,
            run: run.to_owned(),
            event,
        }
    }
}

#[cfg(test)]
mod tests;
