//! Any octets as records of the kernel, decoded and entered into the books.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cgfw::bpf::decode;
use cgfw::event::{
    Contact, Delegation, End, Ended, Event, Fact, Layer, Moved, Process, Query, QueryKey, Service,
    Verdict,
};
use cgfw::ledger::{Act, Entry, Ledger, Reached};
use cgfw::policy::{Domain, Policy, Transport};

/// The size of a record, in octets.
const RECORD: usize = 1128;
/// Of one about a unix socket, which has a name behind it.
const UNIX_RECORD: usize = RECORD + PATH + 4;
/// Of one about a connection that has ended.
const ENDED_RECORD: usize = 96;
const ARGV: usize = 1024;
const PATH: usize = 108;

// The kinds.
const QUERY: u32 = 1;
const CONNECT: u32 = 2;
const PACKET: u32 = 3;
const SOCKET: u32 = 4;
const DELEGATION: u32 = 5;
const UNIX: u32 = 6;
const MOVED: u32 = 7;
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
        match &event.fact {
            Fact::Contact(contact) => {
                check_contact(contact, record, audit);
                let contact = contact.clone();
                let entered = ledger.record(event);
                check_observation(&entered, &contact);
            }
            Fact::Asked { key, process } => {
                check_key(*key, record);
                check_process(process, record);
                let (key, pid) = (*key, process.pid);
                ledger.record(event);
                let entered = ledger.record(question(key, time));
                // The kernel's own retransmissions have no process.
                if pid != 0 {
                    let [Entry::Observed(observation)] = &entered[..] else {
                        panic!("{entered:?} of one question");
                    };
                    let asker = observation.process.as_ref();
                    assert_eq!(asker.map(|process| process.pid), Some(pid));
                }
            }
            Fact::Delegation(delegation) => {
                check_delegation(delegation, record, audit);
                assert_eq!(ledger.record(event).len(), 1);
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
            Fact::Forked { .. } | Fact::Executed(_) | Fact::Exited { .. } => {
                ledger.record(event);
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
    ledger.finish();
}

/// Cut the next record off, or what there is of it.
fn next<'r>(records: &mut &'r [u8]) -> &'r [u8] {
    let size = match records.get(28..32) {
        Some(_) if word(records, 28) == UNIX => UNIX_RECORD,
        Some(_) if word(records, 28) == ENDED => ENDED_RECORD,
        _ => RECORD,
    };
    let (record, rest) = records.split_at(size.min(records.len()));
    *records = rest;
    record
}

/// Whether it has to be decoded.
fn is_whole(record: &[u8]) -> bool {
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
    let comm = &record[88..104];
    let end = comm.iter().position(|octet| *octet == 0).unwrap_or(16);
    assert_eq!(process.comm, comm[..end]);
    let length = usize::try_from(word(record, 80)).map_or(ARGV, |length| length.min(ARGV));
    // Nothing is left out, and nothing is made up.
    let raw = &record[104..104 + length];
    let joined = process.argv.join(&0);
    assert_eq!(joined, raw.strip_suffix(b"\0").unwrap_or(raw));
    assert_eq!(process.argv.is_empty(), raw.is_empty());
    let in_memory = long(record, 56).wrapping_sub(long(record, 48));
    assert_eq!(process.truncated, in_memory > word(record, 80).into());
}

/// A contact is complete at once, and is who and where it was.
fn check_observation(entered: &[Entry], contact: &Contact) {
    let [Entry::Observed(observation)] = entered else {
        panic!("{entered:?} of one contact");
    };
    assert_eq!(observation.verdict, contact.verdict);
    let process = observation.process.as_deref();
    assert_eq!(
        process,
        Some(&contact.process).filter(|process| process.pid != 0)
    );
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
