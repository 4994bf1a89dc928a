//! Any octets as records of the kernel, decoded and entered into the books.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cgfw::bpf::decode;
use cgfw::event::{
    Contact, Delegation, End, Ended, Event, Fact, Layer, Moved, Process, ProcessId, Query,
    QueryKey, Service, Status, Verdict,
};
use cgfw::ledger::{Act, Entry, Ledger, Reached};
use cgfw::policy::{Domain, Policy, Transport};

/// The size of a record, in octets.
const RECORD: usize = 1168;
/// Of one about a unix socket, which has a name behind it.
const UNIX_RECORD: usize = RECORD + PATH + 4;
/// Of one about a connection that has ended.
const ENDED_RECORD: usize = 96;
const ARGV: usize = 1024;
const PATH: usize = 108;
/// Of a fork, and of an end.
const LIFE_RECORD: usize = 40;
/// Of an exec, without its text.
const EXEC_RECORD: usize = 128;

// The kinds.
const QUERY: u32 = 1;
const CONNECT: u32 = 2;
const PACKET: u32 = 3;
const SOCKET: u32 = 4;
const DELEGATION: u32 = 5;
const UNIX: u32 = 6;
const MOVED: u32 = 7;
const FORKED: u32 = 8;
const EXECUTED: u32 = 9;
const EXITED: u32 = 10;
const ENDED: u32 = 11;

/// Judge an input: an octet of flags, and records one behind the other.
pub fn records(input: &[u8]) {
    let Some((&flags, mut records)) = input.split_first() else {
        return;
    };
    let audit = flags & 1 != 0;
    let policy = Arc::new(Policy::new(Vec::new(), None, None, Vec::new()));
    let mut ledger = Ledger::new(Arc::clone(&policy));
    while !records.is_empty() {
        let record = next(&mut records);
        let Some(event) = decode(record, audit) else {
            assert!(!is_whole(record), "{record:?}");
            continue;
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(long(record, 0));
        assert_eq!(event.time, time);
        enter(&mut ledger, event, record, audit);
    }
    ledger.finish();
}

/// Judge an event by its record, and what becomes of it in the books.
fn enter(ledger: &mut Ledger, event: Event, record: &[u8], audit: bool) {
    match &event.fact {
        Fact::Contact(contact) => {
            check_contact(contact, record, audit);
            let contact = contact.clone();
            check_observation(&ledger.record(event), &contact);
        }
        Fact::Asked { key, process } => {
            check_key(*key, record);
            check_process(process, record);
            let (question, pid) = (question(*key, event.time), process.pid);
            ledger.record(event);
            check_asker(&ledger.record(question), pid);
        }
        Fact::Delegation(delegation) => {
            check_delegation(delegation, record, audit);
            let entered = ledger.record(event);
            assert!(matches!(entered.first(), Some(Entry::Observed(_))));
        }
        Fact::Ended(ended) => {
            check_ended(ended, record, audit);
            let entered = ledger.record(event);
            assert!(matches!(entered[..], [Entry::Ended(_)]), "{entered:?}");
        }
        Fact::Moved(Moved { process, .. }) => {
            assert_eq!(word(record, 28), MOVED);
            check_process(process, record);
            let entered = ledger.record(event);
            assert!(matches!(entered[..], [Entry::Moved { .. }]), "{entered:?}");
        }
        Fact::Forked { parent, child } => {
            let ids = (id(record, 24, 8), id(record, 32, 16));
            assert_eq!((*parent, *child), ids);
            assert_eq!(ledger.record(event).len(), 0);
        }
        Fact::Executed(process) => {
            check_executed(process, record);
            assert_eq!(ledger.record(event).len(), 0);
        }
        Fact::Exited {
            process,
            status,
            age,
        } => {
            let expected = (id(record, 24, 8), Duration::from_nanos(long(record, 16)));
            assert_eq!((*process, *age), expected);
            check_status(*status, word(record, 32));
            let entered = ledger.record(event);
            assert!(
                matches!(entered[..], [] | [Entry::Exited(_)]),
                "{entered:?}"
            );
        }
        Fact::Query(_)
        | Fact::Repeats(_)
        | Fact::Known { .. }
        | Fact::Found { .. }
        | Fact::Lost(_) => {
            panic!("{event:?} is no event of a record")
        }
    }
}

/// Cut the next record off, or what there is of it.
fn next<'r>(records: &mut &'r [u8]) -> &'r [u8] {
    let size = match records.get(28..32) {
        Some(_) => match word(records, 28) {
            UNIX => UNIX_RECORD,
            ENDED => ENDED_RECORD,
            FORKED | EXITED => LIFE_RECORD,
            EXECUTED => EXEC_RECORD.saturating_add(texts(records).iter().sum()),
            _ => RECORD,
        },
        None => RECORD,
    };
    let (record, rest) = records.split_at(size.min(records.len()));
    *records = rest;
    record
}

/// How long the parts of the text behind an exec are said to be.
fn texts(record: &[u8]) -> [usize; 4] {
    [104, 108, 112, 116].map(|at| match record.get(at..at + 4) {
        Some(_) => usize::try_from(word(record, at)).expect("a 64-bit machine"),
        None => 0,
    })
}

/// Whether it has to be decoded.
fn is_whole(record: &[u8]) -> bool {
    let kind = record.get(28..32).map(|_| word(record, 28));
    if kind == Some(EXECUTED) {
        return record.len() >= EXEC_RECORD
            && record.len() - EXEC_RECORD == texts(record).iter().sum::<usize>();
    }
    if let Some(FORKED | EXITED) = kind {
        return record.len() == LIFE_RECORD;
    }
    if record.len() == ENDED_RECORD && word(record, 28) == ENDED {
        // Else it tells of no connection.
        return long(record, 56) != 0 || long(record, 80) != 0;
    }
    if record.len() < RECORD {
        return false;
    }
    match word(record, 28) {
        // Without a name it asks for one (autobind).
        UNIX => record.len() == UNIX_RECORD && word(record, RECORD + PATH) != 0,
        kind => [QUERY, CONNECT, PACKET, SOCKET, DELEGATION, MOVED].contains(&kind),
    }
}

fn check_delegation(delegation: &Delegation, record: &[u8], audit: bool) {
    check_process(&delegation.process, record);
    let (service, verdict) = if word(record, 28) == UNIX {
        let used = usize::try_from(word(record, RECORD + PATH)).map_or(PATH, |n| n.min(PATH));
        let name = &record[RECORD..RECORD + used];
        let service = if let Some((0, name)) = name.split_first() {
            Service::Abstract(name.to_vec())
        } else {
            let end = name.iter().position(|octet| *octet == 0);
            Service::Path(name[..end.unwrap_or(used)].to_vec())
        };
        (service, Verdict::Allowed)
    } else {
        let address = SocketAddr::new(address(record), short(record, 36));
        let protocol = protocol(record);
        (Service::Port { address, protocol }, verdict(record, audit))
    };
    assert_eq!(
        (&delegation.service, delegation.verdict),
        (&service, verdict)
    );
}

fn check_ended(ended: &Ended, record: &[u8], audit: bool) {
    assert_eq!(word(record, 28), ENDED);
    assert_eq!(ended.process.started, long(record, 40));
    assert_eq!(ended.process.pid, word(record, 48));
    let destination = SocketAddr::new(address(record), short(record, 36));
    assert_eq!(ended.destination, destination);
    assert_eq!(ended.protocol, protocol(record));
    assert_eq!(ended.verdict, verdict(record, audit));
    let [established, sent, received, unanswered, waited] =
        [56, 64, 72, 80, 88].map(|at| long(record, at));
    let expected = if established > 0 {
        (established, End::Established { sent, received })
    } else {
        let waited = Duration::from_nanos(waited);
        (unanswered, End::Unanswered { waited })
    };
    assert_eq!((ended.connections, ended.end), expected);
}

fn check_contact(contact: &Contact, record: &[u8], audit: bool) {
    let layer = match word(record, 28) {
        PACKET => Layer::Packet,
        _ => Layer::Connect,
    };
    assert_eq!(contact.layer, layer);
    assert_eq!(contact.verdict, verdict(record, audit));
    let destination = SocketAddr::new(address(record), short(record, 36));
    assert_eq!(contact.destination, destination);
    assert_eq!(contact.protocol, protocol(record));
    check_process(&contact.process, record);
}

fn verdict(record: &[u8], audit: bool) -> Verdict {
    match (word(record, 32), audit) {
        (2, true) => Verdict::WouldBlock,
        (2, false) => Verdict::Blocked,
        _ => Verdict::Allowed,
    }
}

fn protocol(record: &[u8]) -> u8 {
    match short(record, 38) {
        // MPTCP is TCP on the wire; other numbers beyond an octet do not exist.
        262 => 6,
        other => u8::try_from(other).unwrap_or(0),
    }
}

fn check_key(key: QueryKey, record: &[u8]) {
    let transport = match short(record, 38) {
        6 => Transport::Tcp,
        _ => Transport::Udp,
    };
    let expected = QueryKey {
        transport,
        ipv6: address(record).is_ipv6(),
        port: short(record, 24),
        id: short(record, 26),
    };
    assert_eq!(key, expected);
}

fn check_process(process: &Process, record: &[u8]) {
    assert_eq!(process.started, long(record, 40));
    let ids = [process.tid, process.pid, process.ppid, process.uid];
    assert_eq!(ids, [64, 68, 72, 76].map(|at| word(record, at)));
    check_comm(process, &record[88..104]);
    let length = usize::try_from(word(record, 80)).map_or(ARGV, |length| length.min(ARGV));
    check_argv(process, &record[144..144 + length]);
    assert_eq!(process.image, long(record, 104));
    check_directory(process, &record[112..144]);
    // An act does not say of these.
    let paths = [&process.exe, &process.script, &process.cwd];
    assert!(paths.iter().all(|path| path.is_empty()));
    let in_memory = long(record, 56).wrapping_sub(long(record, 48));
    assert_eq!(process.truncated, in_memory > word(record, 80).into());
}

fn check_comm(process: &Process, comm: &[u8]) {
    let end = comm.iter().position(|octet| *octet == 0).unwrap_or(16);
    assert_eq!(process.comm, comm[..end]);
}

/// Nothing is left out, and nothing is made up.
fn check_argv(process: &Process, raw: &[u8]) {
    let joined = process.argv.join(&0);
    assert_eq!(joined, raw.strip_suffix(b"\0").unwrap_or(raw));
    assert_eq!(process.argv.is_empty(), raw.is_empty());
}

fn check_directory(process: &Process, raw: &[u8]) {
    let directory = process.directory;
    let words = [directory.mount, directory.dentry, directory.inode];
    assert_eq!(words, [0, 8, 16].map(|at| long(raw, at)));
    let rest = [directory.generation, directory.device];
    assert_eq!(rest, [24, 28].map(|at| word(raw, at)));
}

fn id(record: &[u8], pid: usize, started: usize) -> ProcessId {
    ProcessId {
        pid: word(record, pid),
        started: long(record, started),
    }
}

/// As wait(2) has it.
fn check_status(status: Status, raw: u32) {
    let expected = match u8::try_from(raw & 0x7f).expect("7 bits") {
        0 => Status::Code(u8::try_from(raw >> 8 & 0xff).expect("8 bits")),
        signal => Status::Signal(signal),
    };
    assert_eq!(status, expected);
}

fn check_executed(process: &Process, record: &[u8]) {
    assert_eq!(
        (process.started, process.image),
        (long(record, 8), long(record, 16))
    );
    let ids = [process.pid, process.tid, process.ppid, process.uid];
    assert_eq!(ids, [24, 24, 32, 36].map(|at| word(record, at)));
    check_comm(process, &record[40..56]);
    check_directory(process, &record[56..88]);
    let in_memory = long(record, 96).wrapping_sub(long(record, 88));
    assert_eq!(process.truncated, in_memory > word(record, 104).into());
    let mut text = &record[EXEC_RECORD..];
    let [argv, script, exe, cwd] = texts(record).map(|length| {
        let (part, rest) = text.split_at(length);
        text = rest;
        part
    });
    check_argv(process, argv);
    let (told, deleted) = (word(record, 120), word(record, 124));
    check_path(&process.exe, exe, told & 1 != 0, deleted & 1 != 0);
    check_path(&process.cwd, cwd, told & 2 != 0, deleted & 2 != 0);
    // The name that was given is where a path to it ends.
    let end = script.iter().position(|octet| *octet == 0);
    let name = &script[..end.unwrap_or(script.len())];
    assert!(
        process
            .script
            .ends_with(name.strip_prefix(b"./").unwrap_or(name))
    );
    assert_eq!(process.script.is_empty(), name.is_empty());
}

/// Each name has its slash before it; the last comes first.
fn check_path(path: &[u8], names: &[u8], is_told: bool, is_deleted: bool) {
    if !is_told {
        assert_eq!(path, b"");
        return;
    }
    let mark: &[u8] = if is_deleted { b" (deleted)" } else { b"" };
    let mut rest = path.strip_suffix(mark).expect("what was deleted says so");
    let names = names.strip_suffix(b"\0").unwrap_or(names);
    for name in names.split(|octet| *octet == 0) {
        rest = rest.strip_suffix(name).expect("all names are there");
        rest = rest.strip_suffix(b"/").expect("a name has a slash");
    }
    assert_eq!(rest, b"");
}

/// A question has its asker, unless the kernel itself repeated it.
fn check_asker(entered: &[Entry], pid: u32) {
    if pid == 0 {
        return;
    }
    let [Entry::Observed(observation)] = entered else {
        panic!("{entered:?} of one question");
    };
    let asker = observation.process.as_ref();
    assert_eq!(asker.map(|process| process.pid), Some(pid));
}

/// A contact is complete at once, and is who and where it was.
fn check_observation(entered: &[Entry], contact: &Contact) {
    let [Entry::Observed(observation), ends @ ..] = entered else {
        panic!("{entered:?} of one contact");
    };
    // Of who had ended by then.
    assert!(ends.iter().all(|end| matches!(end, Entry::Exited(_))));
    assert_eq!(observation.verdict, contact.verdict);
    let process = observation.process.as_deref();
    // What else is known of it by now is known from elsewhere.
    let same = |process: &Process| {
        let acted = &contact.process;
        (process.id(), process.tid, process.image, process.directory)
            == (acted.id(), acted.tid, acted.image, acted.directory)
    };
    assert_eq!(process.is_some(), contact.process.pid != 0);
    assert!(process.is_none_or(same), "{process:?}");
    let Act::Contact(Reached { destination, .. }) = &observation.act else {
        panic!("{observation:?} of a contact");
    };
    let address = SocketAddr::new(destination.ip, destination.port);
    assert_eq!(
        (address, destination.protocol),
        (contact.destination, contact.protocol)
    );
}

fn question(key: QueryKey, time: SystemTime) -> Event {
    Event {
        time,
        fact: Fact::Query(Query {
            key,
            qname: Domain::parse("example.com").expect("a name"),
            qtype: "A".to_owned(),
            verdict: Verdict::Allowed,
            rule: None,
            matched: None,
            cname_chain: Vec::new(),
            rcode: "NOERROR".to_owned(),
            answers: Vec::new(),
            upstream: None,
            latency: Duration::ZERO,
        }),
    }
}

fn address(record: &[u8]) -> IpAddr {
    let octets: [u8; 16] = record[8..24].try_into().expect("16 octets");
    match octets {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => Ipv6Addr::from(octets).into(),
    }
}

fn short(record: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(record[at..at + 2].try_into().expect("2 octets"))
}

fn word(record: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(record[at..at + 4].try_into().expect("4 octets"))
}

fn long(record: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(record[at..at + 8].try_into().expect("8 octets"))
}
