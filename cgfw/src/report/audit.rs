/*!
The audit log: the events of a run as JSON lines.

Schema 1. A field is there where it applies and has a value. Text that is not UTF-8 has
U+FFFD in its place; characters that are not visible are escaped, so that a log can be
looked at with cat(1).
*/

use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::escape::is_visible;
use super::{End, PolicyChange, Start, abstract_name, proto};
use crate::event::{Layer, Moved, Outcome, Peer, Process, Service, Verdict};
use crate::ledger::{Act, Observation, Reason, Totals};
use crate::policy::{Action, DirectIp, Domain, Policy, Rule};

/// Raised when a field changes its meaning or vanishes, not when one is added.
pub const SCHEMA: u32 = 1;
/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// What every line begins with.
#[derive(Serialize)]
struct Head<'l> {
    schema: u32,
    time: String,
    run: &'l str,
    event: &'static str,
}

#[derive(Serialize)]
struct RunStart<'l> {
    #[serde(flatten)]
    head: Head<'l>,
    version: &'static str,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    break_glass: Option<Glass<'l>>,
    default: &'static str,
    direct_ip: &'static str,
    rules: &'l [String],
    uid: u32,
    argv: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    kernel: &'l str,
    cgroup: String,
    hooks: &'l [String],
    sees_sockets: bool,
    sees_processes: bool,
    /// What `--strict` has put in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<&'l [String]>,
    can_be_left: bool,
}

/// Why nothing is refused, and who says so.
#[derive(Serialize)]
struct Glass<'l> {
    reason: &'l str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'l str>,
    uid: u32,
}

#[derive(Serialize)]
struct Changed<'l> {
    #[serde(flatten)]
    head: Head<'l>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direct_ip: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<&'l [String]>,
    /// Why the former policy stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'l str>,
}

#[derive(Serialize)]
struct Entry<'l> {
    #[serde(flatten)]
    head: Head<'l>,
    verdict: &'static str,
    layer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    qname: Option<String>,
    #[serde(flatten)]
    act: Details<'l>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'l str>,
    /// Why the rule is there; `reason` is why it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_reason: Option<&'l str>,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    matched: Option<String>,
    #[serde(flatten)]
    process: Option<Actor>,
    count: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Details<'l> {
    Dns(Dns<'l>),
    Contact(Contact<'l>),
    Delegation {
        #[serde(flatten)]
        to: To,
        #[serde(flatten)]
        peer: Option<Listener>,
    },
}

#[derive(Serialize)]
struct Dns<'l> {
    qtype: &'l str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cname_chain: Vec<String>,
    rcode: &'l str,
    #[serde(skip_serializing_if = "<[IpAddr]>::is_empty")]
    answers: &'l [IpAddr],
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    latency_us: u64,
}

#[derive(Serialize)]
struct Contact<'l> {
    #[serde(flatten)]
    to: Address,
    /// Other names of the address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'l str>,
}

#[derive(Serialize)]
struct Address {
    dst_ip: IpAddr,
    dst_port: u16,
    proto: String,
}

/// Where somebody else listens.
#[derive(Serialize)]
#[serde(untagged)]
enum To {
    Port(Address),
    Socket { socket: String },
}

#[derive(Serialize)]
struct Listener {
    #[serde(rename = "peer_pid")]
    pid: u32,
    #[serde(rename = "peer_comm")]
    comm: String,
    #[serde(rename = "peer_argv")]
    argv: Vec<String>,
}

#[derive(Serialize)]
struct Actor {
    pid: u32,
    ppid: u32,
    uid: u32,
    comm: String,
    argv: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    argv_truncated: bool,
}

#[derive(Serialize)]
struct Move<'l> {
    #[serde(flatten)]
    head: Head<'l>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
    is_back: bool,
    #[serde(flatten)]
    process: Actor,
}

#[derive(Serialize)]
struct Loss<'l> {
    #[serde(flatten)]
    head: Head<'l>,
    count: u64,
}

#[derive(Serialize)]
struct RunEnd<'l> {
    #[serde(flatten)]
    head: Head<'l>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    exit_code: u8,
    elapsed_us: u64,
    survivors: usize,
    /// Observations that were lost, and lines of this log so far.
    lost: u64,
    lines_lost: u64,
}

/// The first line of a run.
pub(super) fn run_start(run: &str, start: &Start<'_>) -> Vec<u8> {
    let protection = start.protection;
    encode(&RunStart {
        head: head(start.time, run, "run_start"),
        version: env!("CARGO_PKG_VERSION"),
        mode: match (start.break_glass, start.audit) {
            (Some(_), _) => "break_glass",
            (None, true) => "audit",
            (None, false) => "enforce",
        },
        break_glass: start.break_glass.map(|glass| Glass {
            reason: &glass.reason,
            user: glass.user.as_deref(),
            uid: glass.uid,
        }),
        default: default(start.policy),
        direct_ip: direct_ip(start.policy),
        rules: start.rules,
        uid: start.uid,
        argv: strings(start.command),
        cwd: start.cwd.map(|cwd| cwd.to_string_lossy().into_owned()),
        kernel: &protection.kernel,
        cgroup: protection.cgroup.to_string_lossy().into_owned(),
        hooks: &protection.hooks,
        sees_sockets: protection.sees_sockets,
        sees_processes: protection.sees_processes,
        strict: protection.strict.as_deref(),
        can_be_left: protection.can_be_left(),
    })
}

/// The line of a change of policy, or of one that failed.
pub(super) fn policy(run: &str, change: &PolicyChange<'_>) -> Vec<u8> {
    let head = head(change.time, run, "policy");
    encode(&match change.outcome {
        Ok((policy, rules)) => Changed {
            head,
            default: Some(default(policy)),
            direct_ip: Some(direct_ip(policy)),
            rules: Some(rules),
            error: None,
        },
        Err(error) => Changed {
            head,
            default: None,
            direct_ip: None,
            rules: None,
            error: Some(error),
        },
    })
}

fn default(policy: &Policy) -> &'static str {
    match policy.default_action() {
        Action::Allow => "allow",
        Action::Block => "block",
    }
}

fn direct_ip(policy: &Policy) -> &'static str {
    match policy.direct_ip() {
        DirectIp::Allow => "allow",
        DirectIp::Private => "private",
        DirectIp::Block => "block",
    }
}

/// The line of an observation.
pub(super) fn entry(run: &str, observation: &Observation) -> Vec<u8> {
    let layer = match observation.layer {
        Layer::Dns => "dns",
        Layer::Connect => "connect",
        Layer::Packet => "packet",
        Layer::Delegation => "delegation",
    };
    let rule = observation.rule.as_deref();
    encode(&Entry {
        head: head(observation.time, run, layer),
        verdict: match observation.verdict {
            Verdict::Allowed => "allowed",
            Verdict::Blocked => "blocked",
            Verdict::WouldBlock => "would_block",
        },
        layer,
        qname: observation.act.name().map(ToString::to_string),
        act: details(&observation.act),
        rule: rule.map(Rule::cite),
        owner: rule.and_then(Rule::owner),
        rule_reason: rule.and_then(Rule::reason),
        reason: match observation.reason {
            Reason::Rule => "rule",
            Reason::Alias => "alias",
            Reason::SearchSuffix => "search_suffix",
            Reason::Default => "default",
            Reason::DirectIp => "direct_ip",
            Reason::Delegation => "delegation",
            Reason::Acknowledged => "acknowledged",
        },
        matched: observation.matched.as_ref().map(ToString::to_string),
        process: observation.process.as_deref().map(actor),
        count: observation.count,
    })
}

fn details(act: &Act) -> Details<'_> {
    match act {
        Act::Query(query) => Details::Dns(Dns {
            qtype: &query.qtype,
            cname_chain: names(&query.cname_chain),
            rcode: &query.rcode,
            answers: &query.answers,
            upstream: query.upstream.map(|server| server.to_string()),
            latency_us: microseconds(query.latency),
        }),
        Act::Contact {
            destination,
            also,
            via,
            ..
        } => Details::Contact(Contact {
            to: Address {
                dst_ip: destination.ip,
                dst_port: destination.port,
                proto: proto(destination.protocol),
            },
            also: names(also),
            via: via.as_deref(),
        }),
        Act::Delegation { service, peer } => {
            let to = match service {
                Service::Port { address, protocol } => To::Port(Address {
                    dst_ip: address.ip(),
                    dst_port: address.port(),
                    proto: proto(*protocol),
                }),
                Service::Path(path) => To::Socket {
                    socket: lossy(path),
                },
                Service::Abstract(name) => To::Socket {
                    socket: lossy(&abstract_name(name)),
                },
            };
            Details::Delegation {
                to,
                peer: peer.as_ref().map(listener),
            }
        }
    }
}

/// The line of a process that was moved out of the cgroup.
pub(super) fn moved(run: &str, time: SystemTime, moved: &Moved) -> Vec<u8> {
    encode(&Move {
        head: head(time, run, "moved"),
        cgroup: (!moved.to.is_empty()).then(|| lossy(&moved.to)),
        is_back: moved.is_back,
        process: actor(&moved.process),
    })
}

/// The line that says that observations were lost.
pub(super) fn loss(run: &str, time: SystemTime, count: u64) -> Vec<u8> {
    encode(&Loss {
        head: head(time, run, "loss"),
        count,
    })
}

/// The last line of a run.
pub(super) fn run_end(run: &str, end: &End<'_>, totals: &Totals, lines_lost: u64) -> Vec<u8> {
    let (outcome, status, signal) = match end.outcome {
        Outcome::Exited(status) => ("exited", Some(status), None),
        Outcome::Killed(signal) => ("killed", None, Some(signal)),
        Outcome::TimedOut => ("timed_out", None, None),
        Outcome::NotFound => ("not_found", None, None),
        Outcome::CannotExecute => ("cannot_execute", None, None),
        Outcome::Failed => ("failed", None, None),
    };
    encode(&RunEnd {
        head: head(end.time, run, "run_end"),
        outcome,
        status,
        signal,
        exit_code: end.exit_code,
        elapsed_us: microseconds(end.elapsed),
        survivors: end.survivors.len(),
        lost: totals.lost(),
        lines_lost,
    })
}

fn head<'l>(time: SystemTime, run: &'l str, event: &'static str) -> Head<'l> {
    // A clock that is set to before 1970 or after 9999 must not end a run.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    let time = time.clamp(SystemTime::UNIX_EPOCH, last);
    Head {
        schema: SCHEMA,
        time: humantime::format_rfc3339_nanos(time).to_string(),
        run,
        event,
    }
}

fn listener(peer: &Peer) -> Listener {
    Listener {
        pid: peer.pid,
        comm: lossy(&peer.comm),
        argv: strings(&peer.argv),
    }
}

fn actor(process: &Process) -> Actor {
    Actor {
        pid: process.pid,
        ppid: process.ppid,
        uid: process.uid,
        comm: lossy(&process.comm),
        argv: strings(&process.argv),
        argv_truncated: process.truncated,
    }
}

fn strings(argv: &[Vec<u8>]) -> Vec<String> {
    argv.iter().map(|arg| lossy(arg)).collect()
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn names(names: &[Domain]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// One line of JSON, fit for any terminal.
pub fn encode(line: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, Visible);
    // Neither a vector nor these types, all of whose keys are strings, can fail.
    let encoded = line.serialize(&mut serializer);
    debug_assert!(encoded.is_ok(), "{encoded:?}");
    text.push(b'\n');
    text
}

/// JSON with everything escaped that is not visible: serde_json itself leaves DEL, the C1
/// controls and bidirectional formatting as they are.
struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: io::Write + ?Sized,
    {
        let mut visible = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| !is_visible(*c)) {
            CompactFormatter.write_string_fragment(writer, &fragment[visible..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            visible = at + c.len_utf8();
        }
        CompactFormatter.write_string_fragment(writer, &fragment[visible..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_visible_is_escaped_and_read_back_as_it_was() {
        for text in [
            "plain grüße 日本",
            "quote \" backslash \\ newline \n escape \u{1b}",
            "del \u{7f} c1 \u{9b} bidi \u{202e} zero \u{200b} tag \u{e0041}",
        ] {
            let json = String::from_utf8(encode(&text)).unwrap();
            let line = json.strip_suffix('\n').unwrap();
            assert!(line.chars().all(is_visible), "{line}");
            assert_eq!(serde_json::from_str::<String>(line).unwrap(), text);
        }
    }

    #[test]
    fn any_clock_is_written() {
        let second = Duration::from_secs(1);
        for (time, text) in [
            (
                SystemTime::UNIX_EPOCH - second,
                "1970-01-01T00:00:00.000000000Z",
            ),
            (
                SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_000_000_000_000_001),
                "2017-07-14T02:40:00.000000001Z",
            ),
            (
                SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND) + second,
                "9999-12-31T23:59:59.000000000Z",
            ),
        ] {
            assert_eq!(head(time, "", "").time, text);
        }
    }
}
