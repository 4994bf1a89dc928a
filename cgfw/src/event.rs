/*!
What was observed, as plain data: the one type that flows from the stages to the ledger.

The DNS proxy knows names and no processes, the kernel knows processes and no names.
Both emit events that carry a [`QueryKey`], and the ledger joins them.
*/

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::policy::{Domain, Rule, Transport};

/// One observation. Its time is that of the act, not of its being read.
#[derive(Clone, Debug)]
pub struct Event {
    pub time: SystemTime,
    pub fact: Fact,
}

/// What was observed.
#[derive(Clone, Debug)]
pub enum Fact {
    /// The DNS proxy judged a question. Its asker arrives as [`Fact::Asked`].
    Query(Query),
    /// The kernel saw this process send the DNS message with that key.
    Asked { key: QueryKey, process: Process },
    /// A process connected, or sent a first packet, to a destination. Later ones like it
    /// arrive, counted, as [`Fact::Repeats`].
    Contact(Contact),
    /// How often a contact that was reported before has been repeated since.
    Repeats(Repeats),
    /// TCP connections have ended that were begun by a [`Contact`].
    Ended(Ended),
    /// A name that was not asked for by the child is known to have these addresses:
    /// from /etc/hosts, or because cgfw resolved a name of a block rule.
    Known {
        name: Domain,
        addresses: Vec<IpAddr>,
    },
    /// A process turned to a listener outside of the cgroup.
    Delegation(Delegation),
    /// A process was taken out of the cgroup.
    Moved(Moved),
    /// A process of the run made another one, which goes on as a copy of it.
    Forked { parent: ProcessId, child: ProcessId },
    /// A process executed a program, and is what it says from now on.
    Executed(Process),
    /// A process has ended, with its last thread.
    Exited {
        process: ProcessId,
        status: Status,
        /// How long it existed.
        age: Duration,
    },
    /// A directory was found to have this path, other than by [`Fact::Executed`].
    Found { directory: Directory, path: Vec<u8> },
    /// So many observations were lost between the kernel and here.
    Lost(u64),
}

impl Fact {
    /// Who acted, as far as the kernel side says it.
    pub fn actor(&self) -> Option<&Process> {
        match self {
            Self::Asked { process, .. } => Some(process),
            Self::Contact(contact) => Some(&contact.process),
            Self::Delegation(delegation) => Some(&delegation.process),
            Self::Moved(moved) => Some(&moved.process),
            Self::Query(_)
            | Self::Repeats(_)
            | Self::Ended(_)
            | Self::Known { .. }
            | Self::Forked { .. }
            | Self::Executed(_)
            | Self::Exited { .. }
            | Self::Found { .. }
            | Self::Lost(_) => None,
        }
    }
}

/// What became of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Allowed,
    Blocked,
    /// Would have been blocked, but for `--audit`.
    WouldBlock,
}

/// Where a verdict fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    Dns,
    Connect,
    Packet,
    /// Where others do the network for the child.
    Delegation,
}

/// On what grounds a verdict fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A rule speaks of the name or address.
    Rule,
    /// A rule blocks a name that this one is an alias of.
    Alias,
    /// A rule blocks what is left without the resolver's search suffix.
    SearchSuffix,
    /// No rule speaks of the name, so the default does.
    Default,
    /// Neither a rule nor a name leads to the address, so `--direct-ip` decides.
    DirectIp,
    /// What is done for the child elsewhere is not seen.
    Delegation,
    /// The same, and a rule says that the user knows.
    Acknowledged,
}

/// Identifies a DNS message on its way from a process of the child to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryKey {
    pub transport: Transport,
    pub ipv6: bool,
    /// The client's source port.
    pub port: u16,
    /// The message id (RFC 1035 section 4.1.1) over UDP; 0 over TCP, where the
    /// connection identifies the client.
    pub id: u16,
}

/// One judged DNS question.
#[derive(Clone, Debug)]
pub struct Query {
    pub key: QueryKey,
    pub qname: Domain,
    /// As its mnemonic: `AAAA`, `TYPE4711`.
    pub qtype: String,
    pub verdict: Verdict,
    /// The rule that decided, and the name it matched where that is not `qname`.
    pub rule: Option<Arc<Rule>>,
    pub matched: Option<Domain>,
    /// The aliases that were walked, from the question on.
    pub cname_chain: Vec<Domain>,
    /// As its mnemonic: `NOERROR`, `NXDOMAIN`.
    pub rcode: String,
    /// The addresses that the answer gave to the question or its aliases.
    pub answers: Vec<IpAddr>,
    /// The server that answered; `None` if none was asked.
    pub upstream: Option<SocketAddr>,
    pub latency: Duration,
}

/// One contact that the kernel saw.
#[derive(Clone, Debug)]
pub struct Contact {
    pub process: Process,
    pub layer: Layer,
    pub destination: SocketAddr,
    /// IANA protocol number.
    pub protocol: u8,
    pub verdict: Verdict,
}

/// Further acts that are like an earlier [`Contact`] in all these respects.
#[derive(Clone, Copy, Debug)]
pub struct Repeats {
    /// 0 if it is not known whose acts they were.
    pub pid: u32,
    /// As [`Process::started`].
    pub started: u64,
    pub destination: SocketAddr,
    /// IANA protocol number.
    pub protocol: u8,
    pub verdict: Verdict,
    /// Without the act that was reported.
    pub count: u64,
}

/// TCP connections of one process with one destination that have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Who began them, whoever closed the sockets. Zeroes if it is not known.
    pub process: ProcessId,
    pub destination: SocketAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Of the contacts.
    pub verdict: Verdict,
    pub connections: u64,
    pub end: End,
}

/// What became of TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// They were established and carried so many octets of payload, each counted once however
    /// often it was transmitted.
    Established { sent: u64, received: u64 },
    /// They were not established: nobody answered, or they were turned away. It took so long,
    /// all together, to find that out, or to give up.
    Unanswered { waited: Duration },
}

/// A process turned to another one, outside of the cgroup, which may do the network for it:
/// what that does is neither filtered nor seen.
#[derive(Clone, Debug)]
pub struct Delegation {
    pub process: Process,
    pub service: Service,
    /// Who listens there; `None` if it could not be found out.
    pub peer: Option<Peer>,
    pub verdict: Verdict,
}

/// Where a process outside of the cgroup listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// A port of loopback, or of an address of this host.
    Port {
        address: SocketAddr,
        /// IANA protocol number.
        protocol: u8,
    },
    /// A unix socket with a path name (unix(7)), as it was given to connect or send.
    Path(Vec<u8>),
    /// A unix socket in the abstract namespace, without the leading zero octet.
    Abstract(Vec<u8>),
}

/// A process outside of the cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: u32,
    pub comm: Vec<u8>,
    /// argv\[0\] first. Empty if it could not be read.
    pub argv: Vec<Vec<u8>>,
}

/// Who is known beforehand to do the network for those who turn to it, on another host: a
/// proxy. What names and addresses it contacts cannot be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoBetween {
    pub sign: Sign,
    /// Where it is named: `http_proxy`, `ProxyCommand in /etc/ssh/ssh_config`.
    pub source: String,
}

/// How a contact with a [`GoBetween`] is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It goes to this host, and this port if there is one.
    Host { host: Host, port: Option<u16> },
    /// It is made by a command with these arguments; `None` stands for any one.
    Command(Vec<Option<Vec<u8>>>),
}

/// A host as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Name(Domain),
    Address(IpAddr),
}

/// A process left the cgroup while the run went on: moved by a service manager behind su,
/// sudo or a container engine, or by itself.
#[derive(Clone, Debug)]
pub struct Moved {
    pub process: Process,
    /// The cgroup that it was moved to, as in /proc/PID/cgroup; empty if it is not known.
    pub to: Vec<u8>,
    /// Whether it is inside again. What it did in between was not filtered.
    pub is_back: bool,
}

/// A process for good: no other one ever has both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// As cgfw sees it, whatever PID namespace the process is in.
    pub pid: u32,
    /// Nanoseconds since boot.
    pub started: u64,
}

/// A process at the moment of its act, as the kernel saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// 0 if the process is unknown, and all else with it.
    pub pid: u32,
    pub tid: u32,
    pub ppid: u32,
    pub uid: u32,
    /// Nanoseconds since boot; with `pid` it identifies a process for good. 0 if unknown.
    pub started: u64,
    pub comm: Vec<u8>,
    /// The arguments, argv[0] first. Empty if they could not be read.
    pub argv: Vec<Vec<u8>>,
    /// Whether `argv` was longer than what the kernel side captures.
    pub truncated: bool,
    /// The path of the executable, from the root of its mount namespace. Empty if unknown.
    pub exe: Vec<u8>,
    /// What was executed, where that is a script which `exe` interprets; else empty. Absolute,
    /// unless the working directory of that moment is not known.
    pub script: Vec<u8>,
    /// The path of the working directory, as `exe`. Empty if unknown.
    pub cwd: Vec<u8>,
    /// What `cwd` is the path of. Zeroes if unknown.
    pub directory: Directory,
    /// How often the process has executed something, and those before it from which it was
    /// forked: another number is another program. 0 if unknown.
    pub image: u64,
}

impl Process {
    pub fn id(&self) -> ProcessId {
        ProcessId {
            pid: self.pid,
            started: self.started,
        }
    }
}

/// A directory as the kernel tells it from others, for as long as somebody is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Directory {
    /// Addresses of the kernel's: where it is mounted, and its entry in the directory above.
    pub mount: u64,
    pub dentry: u64,
    pub inode: u64,
    /// Of an inode number that is used again, another one.
    pub generation: u32,
    /// As the kernel has it: the minor number in the lower 20 bits, the major number above.
    pub device: u32,
}

/// How a process ended, as wait(2) tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Code(u8),
    Signal(u8),
}

/// How the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command exited with this status.
    Exited(u8),
    /// A signal of this number ended the command, or cgfw on its behalf.
    Killed(u8),
    /// The command ran into `--timeout`.
    TimedOut,
    /// The command could not be found.
    NotFound,
    /// The command was found and could not be executed.
    CannotExecute,
    /// cgfw failed: nothing was run, or the run was ended.
    Failed,
}
