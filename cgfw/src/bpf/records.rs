//! Records of the kernel, decoded by pure functions.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use cgfw_common::{
    ACT_CONNECT, ACT_DELEGATION, ACT_ENDED, ACT_EXECUTED, ACT_EXITED, ACT_FORKED, ACT_MOVED,
    ACT_PACKET, ACT_QUERY, ACT_SOCKET, ACT_UNIX, Act, Address, BLOCK, CWD, Deed, EXE, Exec, Exit,
    Fork, KIND_OFFSET, SeenKey, Traffic, UnixAct, UnixName, protocol,
};

use crate::event::{
    Contact, Delegation, Directory, End, Ended, Event, Fact, Layer, Moved, Process, ProcessId,
    QueryKey, Repeats, Service, Status, Verdict,
};
use crate::policy::Transport;

/// The event that a record of the ring stands for, of a run that began with the epoch:
/// for the fuzz target and its corpus.
pub fn decode(record: &[u8], audit: bool) -> Option<Event> {
    let epoch = SystemTime::UNIX_EPOCH;
    Decoder { epoch, audit }.decode(record)
}

/// What a record needs to become an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder {
    /// The time of day at which CLOCK_MONOTONIC was 0.
    pub(super) epoch: SystemTime,
    /// Nothing was refused, whatever the verdict.
    pub(super) audit: bool,
}

impl Decoder {
    /// Decode a record from the ring; `None` if it is not an act of a known kind.
    pub(super) fn decode(self, record: &[u8]) -> Option<Event> {
        let kind = record.get(KIND_OFFSET..)?.first_chunk()?;
        let (time, fact) = match u32::from_ne_bytes(*kind) {
            ACT_FORKED => forked(read_all(record)?),
            ACT_EXECUTED => executed(record)?,
            ACT_EXITED => exited(read_all(record)?),
            ACT_ENDED => self.ended(record)?,
            _ => self.act(record)?,
        };
        Some(Event {
            time: self.epoch + Duration::from_nanos(time),
            fact,
        })
    }

    fn act(self, record: &[u8]) -> Option<(u64, Fact)> {
        let act: Act = read(record)?;
        let fact = match act.deed.kind {
            ACT_UNIX => {
                let UnixAct { name, .. } = read(record)?;
                Fact::Delegation(Delegation {
                    process: process(&act),
                    service: unix_service(&name)?,
                    peer: None,
                    verdict: self.verdict(&act.deed),
                })
            }
            _ if record.len() != size_of::<Act>() => return None,
            ACT_QUERY => Fact::Asked {
                key: query_key(&act.deed),
                process: process(&act),
            },
            // A socket that was refused is a contact with nobody.
            ACT_CONNECT | ACT_SOCKET => Fact::Contact(self.contact(&act, Layer::Connect)),
            ACT_PACKET => Fact::Contact(self.contact(&act, Layer::Packet)),
            ACT_DELEGATION => Fact::Delegation(Delegation {
                process: process(&act),
                service: Service::Port {
                    address: destination(&act.deed),
                    protocol: wire_protocol(&act.deed),
                },
                peer: None,
                verdict: self.verdict(&act.deed),
            }),
            ACT_MOVED => Fact::Moved(Moved {
                process: process(&act),
                to: Vec::new(),
                is_back: false,
            }),
            _ => return None,
        };
        Some((act.time, fact))
    }

    fn ended(self, record: &[u8]) -> Option<(u64, Fact)> {
        let ended: cgfw_common::Ended = read(record)?;
        if record.len() != size_of_val(&ended) {
            return None;
        }
        let key = SeenKey {
            owner: ended.owner,
            deed: ended.deed,
        };
        let fact = self.traffic(&key, ended.traffic).next()?;
        Some((ended.time, fact))
    }

    /// Decode an entry of `TRAFFIC`, or what a record has of the kind.
    pub(super) fn traffic(self, key: &SeenKey, traffic: Traffic) -> impl Iterator<Item = Fact> {
        let established = End::Established {
            sent: traffic.sent,
            received: traffic.received,
        };
        let unanswered = End::Unanswered {
            waited: Duration::from_nanos(traffic.waited),
        };
        let ended = move |(connections, end)| {
            Fact::Ended(Ended {
                process: ProcessId {
                    pid: key.owner.tgid,
                    started: key.owner.stamp,
                },
                destination: destination(&key.deed),
                protocol: wire_protocol(&key.deed),
                verdict: self.verdict(&key.deed),
                connections,
                end,
            })
        };
        [
            (traffic.established, established),
            (traffic.unanswered, unanswered),
        ]
        .into_iter()
        .filter(|(connections, _)| *connections > 0)
        .map(ended)
    }

    /// Decode an entry of `SEEN`; `None` if there is nothing to add to its report.
    pub(super) fn repeats(self, key: &SeenKey, count: u64) -> Option<Fact> {
        // A socket's packets repeat nothing that a person did; of the name of a unix socket
        // only a digest is left.
        if key.owner.tgid == 0 || count < 2 || key.deed.kind == ACT_UNIX {
            return None;
        }
        Some(Fact::Repeats(Repeats {
            pid: key.owner.tgid,
            started: key.owner.stamp,
            destination: destination(&key.deed),
            protocol: wire_protocol(&key.deed),
            verdict: self.verdict(&key.deed),
            count: count - 1,
        }))
    }

    fn contact(self, act: &Act, layer: Layer) -> Contact {
        Contact {
            process: process(act),
            layer,
            destination: destination(&act.deed),
            protocol: wire_protocol(&act.deed),
            verdict: self.verdict(&act.deed),
        }
    }

    fn verdict(self, deed: &Deed) -> Verdict {
        match (deed.action, self.audit) {
            (BLOCK, true) => Verdict::WouldBlock,
            (BLOCK, false) => Verdict::Blocked,
            _ => Verdict::Allowed,
        }
    }
}

/// The structure that a record starts with, if it is long enough.
fn read<T: Record>(record: &[u8]) -> Option<T> {
    if record.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: as many octets as a `T` has, which is integers only.
    Some(unsafe { std::ptr::read_unaligned(record.as_ptr().cast()) })
}

/// The structure that a record is.
fn read_all<T: Record>(record: &[u8]) -> Option<T> {
    (record.len() == size_of::<T>())
        .then(|| read(record))
        .flatten()
}

/// What is on the ring: integers, of which any octets are a value.
trait Record: Copy {}
impl Record for Act {}
impl Record for UnixAct {}
impl Record for Fork {}
impl Record for Exit {}
impl Record for Exec {}
impl Record for cgfw_common::Ended {}

/// The address of a unix socket (unix(7)); `None` for one that asks for a name (autobind).
fn unix_service(name: &UnixName) -> Option<Service> {
    let length = usize::try_from(name.length).ok()?.min(name.path.len());
    match &name.path[..length] {
        [] => None,
        [0, name @ ..] => Some(Service::Abstract(name.to_vec())),
        path => Some(Service::Path(until_nul(path).to_vec())),
    }
}

fn destination(deed: &Deed) -> SocketAddr {
    SocketAddr::new(address(deed.destination), deed.destination_port)
}

/// MPTCP is TCP on the wire.
fn wire_protocol(deed: &Deed) -> u8 {
    let number = match deed.protocol {
        protocol::MPTCP => protocol::TCP,
        other => other,
    };
    u8::try_from(number).unwrap_or(0)
}

fn query_key(deed: &Deed) -> QueryKey {
    QueryKey {
        transport: match deed.protocol {
            protocol::TCP => Transport::Tcp,
            _ => Transport::Udp,
        },
        ipv6: address(deed.destination).is_ipv6(),
        port: deed.source_port,
        id: deed.id,
    }
}

fn forked(fork: Fork) -> (u64, Fact) {
    let fact = Fact::Forked {
        parent: ProcessId {
            pid: fork.parent,
            started: fork.parent_started,
        },
        child: ProcessId {
            pid: fork.child,
            started: fork.child_started,
        },
    };
    (fork.time, fact)
}

fn exited(exit: Exit) -> (u64, Fact) {
    let [signal, code, ..] = exit.status.to_le_bytes();
    // The highest bit says that memory was dumped (wait(2)).
    let status = match signal & 0x7f {
        0 => Status::Code(code),
        signal => Status::Signal(signal),
    };
    let fact = Fact::Exited {
        process: ProcessId {
            pid: exit.tgid,
            started: exit.started,
        },
        status,
        age: Duration::from_nanos(exit.age),
    };
    (exit.time, fact)
}

/// `None` if it is not as long as it says.
fn executed(record: &[u8]) -> Option<(u64, Fact)> {
    let exec: Exec = read(record)?;
    let mut text = &record[size_of::<Exec>()..];
    let mut take = |length: u32| {
        let (taken, rest) = text.split_at_checked(usize::try_from(length).ok()?)?;
        text = rest;
        Some(taken)
    };
    let argv = split_argv(take(exec.argv_len)?);
    let script = until_nul(take(exec.script_len)?);
    let (exe, cwd) = (take(exec.exe_len)?, take(exec.cwd_len)?);
    let path = |names, which| {
        let path = (exec.told & which != 0).then(|| path(names, exec.deleted & which != 0));
        path.unwrap_or_default()
    };
    let cwd = path(cwd, CWD);
    let process = Process {
        pid: exec.tgid,
        tid: exec.tgid,
        ppid: exec.ppid,
        uid: exec.uid,
        started: exec.started,
        comm: until_nul(&exec.comm).to_vec(),
        argv,
        truncated: exec.argv_end.wrapping_sub(exec.argv_start) > u64::from(exec.argv_len),
        exe: path(exe, EXE),
        script: absolute(script, &cwd),
        cwd,
        directory: directory(exec.directory),
        image: exec.image,
    };
    text.is_empty()
        .then_some((exec.time, Fact::Executed(process)))
}

/// A path of the names on the way up, as /proc shows it.
fn path(names: &[u8], is_deleted: bool) -> Vec<u8> {
    let names = names.strip_suffix(b"\0").unwrap_or(names);
    let mut path = Vec::with_capacity(names.len() + 1);
    for name in names.rsplit(|octet| *octet == 0) {
        path.push(b'/');
        path.extend(name);
    }
    if is_deleted {
        path.extend(b" (deleted)");
    }
    path
}

/// What was executed, from the root on, if it is known where it was.
fn absolute(path: &[u8], cwd: &[u8]) -> Vec<u8> {
    if path.is_empty() || path.starts_with(b"/") || cwd.is_empty() {
        return path.to_vec();
    }
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let cwd = cwd.strip_suffix(b"/").unwrap_or(cwd);
    [cwd, b"/", path].concat()
}

fn directory(directory: cgfw_common::Directory) -> Directory {
    Directory {
        mount: directory.mount,
        dentry: directory.dentry,
        inode: directory.inode,
        generation: directory.generation,
        device: directory.device,
    }
}

fn process(act: &Act) -> Process {
    let actor = &act.actor;
    let length = usize::try_from(actor.argv_len).map_or(0, |length| length.min(act.argv.len()));
    Process {
        pid: actor.tgid,
        tid: actor.tid,
        ppid: actor.ppid,
        uid: actor.uid,
        started: actor.started,
        comm: until_nul(&actor.comm).to_vec(),
        argv: split_argv(&act.argv[..length]),
        truncated: actor.argv_end.wrapping_sub(actor.argv_start) > u64::from(actor.argv_len),
        directory: directory(actor.directory),
        image: actor.image,
        ..Process::default()
    }
}

/// Arguments as the kernel has them, a zero octet behind each; the last may be cut off.
fn split_argv(raw: &[u8]) -> Vec<Vec<u8>> {
    let whole = raw.strip_suffix(b"\0").unwrap_or(raw);
    if raw.is_empty() {
        return Vec::new();
    }
    whole
        .split(|octet| *octet == 0)
        .map(<[u8]>::to_vec)
        .collect()
}

fn until_nul(raw: &[u8]) -> &[u8] {
    raw.split(|octet| *octet == 0).next().unwrap_or_default()
}

/// The address as people write it: v4-mapped ones as IPv4.
pub(super) fn address(words: Address) -> IpAddr {
    let mut octets = [0; 16];
    for (to, from) in octets.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;
    use crate::bpf::verdicts::octets;
    use cgfw_common::{ALLOW, ARGV_LEN, Actor, COMM_LEN, Owner, UNIX_PATH_LEN};

    fn act() -> Act {
        let mut argv = [0xee; ARGV_LEN];
        argv[..17].copy_from_slice(b"curl\0-s\0\0example\0");
        let mut comm = [0; COMM_LEN];
        comm[..4].copy_from_slice(b"curl");
        Act {
            time: 1_500_000_000,
            deed: Deed {
                destination: octets("192.0.2.1".parse().unwrap()),
                kind: ACT_CONNECT,
                action: BLOCK,
                destination_port: 443,
                protocol: protocol::TCP,
                source_port: 5555,
                id: 0xbeef,
            },
            actor: Actor {
                started: 77,
                argv_start: 0x1000,
                argv_end: 0x1000 + 17,
                tid: 12,
                tgid: 11,
                ppid: 13,
                uid: 14,
                argv_len: 17,
                reserved: 0,
                comm,
                image: 3,
                directory: cgfw_common::Directory {
                    mount: 21,
                    dentry: 22,
                    inode: 23,
                    generation: 24,
                    device: 25,
                },
            },
            argv,
        }
    }

    fn decode(act: &Act, audit: bool) -> Option<Event> {
        // SAFETY: `Act` is integers without padding.
        let raw =
            unsafe { std::slice::from_raw_parts((&raw const *act).cast::<u8>(), size_of::<Act>()) };
        let epoch = SystemTime::UNIX_EPOCH;
        Decoder { epoch, audit }.decode(raw)
    }

    fn contact(act: &Act, audit: bool) -> Contact {
        let Fact::Contact(contact) = decode(act, audit).unwrap().fact else {
            panic!("{act:?} is no contact");
        };
        contact
    }

    #[test]
    fn every_field_of_a_contact_arrives() {
        let event = decode(&act(), false).unwrap();
        assert_eq!(
            event.time,
            SystemTime::UNIX_EPOCH + Duration::from_millis(1500)
        );
        let contact = contact(&act(), false);
        assert_eq!(contact.layer, Layer::Connect);
        assert_eq!(contact.destination, "192.0.2.1:443".parse().unwrap());
        assert_eq!(contact.protocol, 6);
        assert_eq!(contact.verdict, Verdict::Blocked);
        assert_eq!(
            contact.process,
            Process {
                pid: 11,
                tid: 12,
                ppid: 13,
                uid: 14,
                started: 77,
                comm: b"curl".to_vec(),
                argv: [&b"curl"[..], b"-s", b"", b"example"]
                    .map(<[u8]>::to_vec)
                    .to_vec(),
                truncated: false,
                directory: Directory {
                    mount: 21,
                    dentry: 22,
                    inode: 23,
                    generation: 24,
                    device: 25,
                },
                image: 3,
                ..Process::default()
            }
        );
    }

    #[test]
    fn verdicts_depend_on_the_action_and_the_mode() {
        let mut act = act();
        assert_eq!(contact(&act, true).verdict, Verdict::WouldBlock);
        act.deed.action = ALLOW;
        assert_eq!(contact(&act, true).verdict, Verdict::Allowed);
        assert_eq!(contact(&act, false).verdict, Verdict::Allowed);
    }

    #[test]
    fn a_query_carries_its_key() {
        let mut act = act();
        act.deed.kind = ACT_QUERY;
        act.deed.protocol = protocol::UDP;
        act.deed.destination = octets("::1".parse().unwrap());
        let Fact::Asked { key, .. } = decode(&act, false).unwrap().fact else {
            panic!("{act:?} is no question");
        };
        assert_eq!(
            key,
            QueryKey {
                transport: Transport::Udp,
                ipv6: true,
                port: 5555,
                id: 0xbeef
            }
        );
    }

    fn unix(path: &[u8], length: u32) -> Option<Service> {
        let mut octets = [0; UNIX_PATH_LEN];
        octets[..path.len()].copy_from_slice(path);
        let mut act = act();
        act.deed.kind = ACT_UNIX;
        let name = UnixName {
            path: octets,
            length,
        };
        let record = UnixAct { act, name };
        // SAFETY: `UnixAct` is integers without padding.
        let raw = unsafe {
            std::slice::from_raw_parts((&raw const record).cast::<u8>(), size_of::<UnixAct>())
        };
        let epoch = SystemTime::UNIX_EPOCH;
        let decoder = Decoder {
            epoch,
            audit: false,
        };
        let Fact::Delegation(delegation) = decoder.decode(raw)?.fact else {
            panic!("{name:?} is no delegation");
        };
        Some(delegation.service)
    }

    #[test]
    fn unix_sockets_have_paths_or_abstract_names() {
        let path = |path: &[u8]| Some(Service::Path(path.to_vec()));
        assert_eq!(unix(b"/run/a\0", 7), path(b"/run/a"));
        assert_eq!(unix(b"/run/a", 6), path(b"/run/a"));
        assert_eq!(unix(&[b'x'; 108], 108), path(&[b'x'; 108]));
        assert_eq!(unix(&[b'x'; 108], u32::MAX), path(&[b'x'; 108]));
        let name = Some(Service::Abstract(b"a\0b".to_vec()));
        assert_eq!(unix(b"\0a\0b", 4), name);
        assert_eq!(unix(b"", 0), None);
    }

    #[test]
    fn what_was_seen_once_is_no_repetition() {
        let epoch = SystemTime::UNIX_EPOCH;
        let decoder = Decoder {
            epoch,
            audit: false,
        };
        let mut key = SeenKey {
            owner: Owner {
                stamp: 77,
                tgid: 11,
                reserved: 0,
            },
            deed: act().deed,
        };
        assert!(decoder.repeats(&key, 1).is_none());
        match decoder.repeats(&key, 5) {
            Some(Fact::Repeats(repeats)) => {
                assert_eq!((repeats.pid, repeats.started, repeats.count), (11, 77, 4));
                assert_eq!(repeats.destination, "192.0.2.1:443".parse().unwrap());
                assert_eq!((repeats.protocol, repeats.verdict), (6, Verdict::Blocked));
            }
            other => panic!("{other:?}"),
        }
        key.owner.tgid = 0;
        assert!(decoder.repeats(&key, 5).is_none());
    }

    fn told_of_curl(fact: Fact) -> (u64, End) {
        let Fact::Ended(ended) = fact else {
            panic!("{fact:?} is no end of connections");
        };
        let (pid, started) = (ended.process.pid, ended.process.started);
        assert_eq!((pid, started), (11, 77));
        assert_eq!(ended.destination, "192.0.2.1:443".parse().unwrap());
        assert_eq!((ended.protocol, ended.verdict), (6, Verdict::Allowed));
        (ended.connections, ended.end)
    }

    #[test]
    fn what_connections_carried_and_what_was_waited_for_are_told_apart() {
        let key = SeenKey {
            owner: Owner {
                stamp: 77,
                tgid: 11,
                reserved: 0,
            },
            deed: Deed {
                kind: ACT_ENDED,
                action: ALLOW,
                ..act().deed
            },
        };
        let both = Traffic {
            established: 2,
            sent: 30,
            received: 400,
            unanswered: 3,
            waited: 5_000_000_001,
        };
        let told = |traffic| -> Vec<_> {
            let epoch = SystemTime::UNIX_EPOCH;
            let audit = false;
            let facts = Decoder { epoch, audit }.traffic(&key, traffic);
            facts.map(told_of_curl).collect()
        };
        let carried = End::Established {
            sent: 30,
            received: 400,
        };
        let waited = Duration::from_nanos(5_000_000_001);
        let waited = End::Unanswered { waited };
        assert_eq!(told(both), [(2, carried), (3, waited)]);
        assert_eq!(told(Traffic::default()), []);
        let epoch = SystemTime::UNIX_EPOCH;
        let record = cgfw_common::Ended {
            time: 1_500_000_000,
            deed: key.deed,
            owner: key.owner,
            traffic: Traffic {
                established: 0,
                ..both
            },
        };
        // SAFETY: `Ended` is integers without padding.
        let raw = unsafe {
            std::slice::from_raw_parts((&raw const record).cast::<u8>(), size_of_val(&record))
        };
        let audit = false;
        let event = Decoder { epoch, audit }.decode(raw).unwrap();
        assert_eq!(event.time, epoch + Duration::from_millis(1500));
        assert!(matches!(event.fact, Fact::Ended(Ended { end, .. }) if end == waited));
        assert!(Decoder { epoch, audit }.decode(&raw[1..]).is_none());
    }

    #[test]
    fn long_arguments_are_marked_as_cut() {
        let mut act = act();
        act.actor.argv_end += 4000;
        assert!(contact(&act, false).process.truncated);
        act.actor.argv_len = 0;
        assert_eq!(contact(&act, false).process.argv, Vec::<Vec<u8>>::new());
    }

    /// A record and what is behind it.
    fn decode_all<T: Record>(record: &T, text: &[u8]) -> Option<Event> {
        let first = std::ptr::from_ref(record).cast::<u8>();
        // SAFETY: what is on the ring is integers without padding.
        let raw = unsafe { std::slice::from_raw_parts(first, size_of::<T>()) };
        let epoch = SystemTime::UNIX_EPOCH;
        let audit = false;
        Decoder { epoch, audit }.decode(&[raw, text].concat())
    }

    fn exec(text: [&[u8]; 4]) -> Exec {
        let [argv_len, script_len, exe_len, cwd_len] =
            text.map(|part| u32::try_from(part.len()).unwrap());
        Exec {
            time: 1_500_000_000,
            started: 77,
            image: 3,
            tgid: 11,
            kind: ACT_EXECUTED,
            ppid: 13,
            uid: 14,
            comm: *b"deploy.sh\0\0\0\0\0\0\0",
            directory: act().actor.directory,
            argv_start: 0x1000,
            argv_end: 0x1000 + u64::from(argv_len),
            argv_len,
            script_len,
            exe_len,
            cwd_len,
            told: EXE | CWD,
            deleted: 0,
        }
    }

    fn executed(exec: &Exec, text: [&[u8]; 4]) -> Process {
        let Fact::Executed(process) = decode_all(exec, &text.concat()).unwrap().fact else {
            panic!("{exec:?} is no exec");
        };
        process
    }

    #[test]
    fn every_field_of_an_exec_arrives() {
        let text: [&[u8]; 4] = [
            b"/bin/sh\0./deploy.sh\0",
            b"./deploy.sh\0",
            b"dash\0bin\0usr\0",
            b"work\0srv\0",
        ];
        let Directory { mount, .. } = executed(&exec(text), text).directory;
        assert_eq!(mount, 21);
        assert_eq!(
            executed(&exec(text), text),
            Process {
                pid: 11,
                tid: 11,
                ppid: 13,
                uid: 14,
                started: 77,
                comm: b"deploy.sh".to_vec(),
                argv: [&b"/bin/sh"[..], b"./deploy.sh"]
                    .map(<[u8]>::to_vec)
                    .to_vec(),
                truncated: false,
                exe: b"/usr/bin/dash".to_vec(),
                script: b"/srv/work/deploy.sh".to_vec(),
                cwd: b"/srv/work".to_vec(),
                directory: contact(&act(), false).process.directory,
                image: 3,
            }
        );
    }

    #[test]
    fn paths_are_those_that_proc_shows_or_none() {
        let text: [&[u8]; 4] = [b"x\0", b"", b"memfd:x\0", b""];
        let mut exec = exec(text);
        exec.deleted = EXE;
        let process = executed(&exec, text);
        assert_eq!(process.exe, b"/memfd:x (deleted)");
        assert_eq!(process.cwd, b"/");
        assert_eq!(process.script, b"");
        exec.told = 0;
        let process = executed(&exec, text);
        assert_eq!((process.exe, process.cwd), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_script_is_where_it_was_executed_if_that_is_known() {
        let script = |script: &[u8], cwd: &[u8]| {
            let text = [b"x\0", script, b"sh\0", cwd];
            String::from_utf8(executed(&exec(text), text).script).unwrap()
        };
        assert_eq!(script(b"./a\0", b""), "/a");
        assert_eq!(script(b"../a\0", b"tmp\0"), "/tmp/../a");
        assert_eq!(script(b"/opt/a\0", b"tmp\0"), "/opt/a");
        let text: [&[u8]; 4] = [b"x\0", b"./a\0", b"sh\0", b""];
        let mut exec = exec(text);
        exec.told = EXE;
        assert_eq!(executed(&exec, text).script, b"./a");
    }

    #[test]
    fn an_exec_that_is_not_as_long_as_it_says_is_none() {
        let text: [&[u8]; 4] = [b"x\0", b"", b"x\0", b"y\0"];
        assert!(decode_all(&exec(text), b"x\0x\0y\0").is_some());
        assert!(decode_all(&exec(text), b"x\0x\0y").is_none());
        assert!(decode_all(&exec(text), b"x\0x\0y\0\0").is_none());
        let mut exec = exec(text);
        exec.exe_len = u32::MAX;
        assert!(decode_all(&exec, b"x\0x\0y\0").is_none());
    }

    #[test]
    fn forks_and_ends_say_who_and_how() {
        let fork = Fork {
            time: 1,
            parent_started: 100,
            child_started: 110,
            parent: 10,
            kind: ACT_FORKED,
            child: 11,
            reserved: 0,
        };
        let id = |pid, started| ProcessId { pid, started };
        let Fact::Forked { parent, child } = decode_all(&fork, b"").unwrap().fact else {
            panic!("{fork:?} is no fork");
        };
        assert_eq!((parent, child), (id(10, 100), id(11, 110)));
        let end = |status| {
            let exit = Exit {
                time: 1,
                started: 110,
                age: 5_000_000,
                tgid: 11,
                kind: ACT_EXITED,
                status,
                reserved: 0,
            };
            let Fact::Exited {
                process,
                status,
                age,
            } = decode_all(&exit, b"").unwrap().fact
            else {
                panic!("{exit:?} is no end");
            };
            assert_eq!((process, age), (id(11, 110), Duration::from_millis(5)));
            status
        };
        assert_eq!(end(0), Status::Code(0));
        assert_eq!(end(0x300), Status::Code(3));
        assert_eq!(end(9), Status::Signal(9));
        // With a core dump.
        assert_eq!(end(0x8b), Status::Signal(11));
        assert!(decode_all(&fork, b"x").is_none());
    }

    #[test]
    fn what_is_no_act_is_no_event() {
        let mut act = act();
        act.deed.kind = 99;
        assert!(decode(&act, false).is_none());
        let epoch = SystemTime::UNIX_EPOCH;
        assert!(
            Decoder {
                epoch,
                audit: false
            }
            .decode(&[0; 7])
            .is_none()
        );
    }

    proptest! {
        /// Whatever is in the ring, decoding does not fail, and nothing is made up.
        #[test]
        fn any_octets_of_a_record_decode_or_are_turned_away(
            mut raw in proptest::collection::vec(any::<u8>(), size_of::<Act>()),
            kind in (0_u32..9).prop_filter("an act", |kind| *kind != ACT_FORKED),
            audit in any::<bool>(),
        ) {
            let at = offset_of!(Act, deed) + offset_of!(Deed, kind);
            raw[at..at + 4].copy_from_slice(&kind.to_ne_bytes());
            let epoch = SystemTime::UNIX_EPOCH;
            let event = Decoder { epoch, audit }.decode(&raw);
            // A unix socket has its address behind it.
            let is_whole = (ACT_QUERY..=ACT_MOVED).contains(&kind) && kind != ACT_UNIX;
            prop_assert_eq!(event.is_some(), is_whole);
            let process = match event.map(|event| event.fact) {
                Some(Fact::Contact(contact)) => {
                    prop_assert!(!audit || contact.verdict != Verdict::Blocked);
                    contact.process
                }
                Some(Fact::Asked { process, .. }) => process,
                Some(Fact::Delegation(delegation)) => delegation.process,
                Some(Fact::Moved(moved)) => moved.process,
                _ => return Ok(()),
            };
            let octets: usize = process.argv.iter().map(Vec::len).sum();
            prop_assert!(octets <= ARGV_LEN && process.comm.len() <= COMM_LEN);
        }
    }
}
