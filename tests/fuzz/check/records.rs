//! Any octets as records of the kernel, decoded and entered into the books.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cgfw::bpf::decode;
use cgfw::event::{Contact, Event, Fact, Layer, Process, Query, QueryKey, Service, Verdict};
use cgfw::ledger::{Act, Ledger, Observation};
use cgfw::policy::{Domain, Policy, Transport};

/// The size of a record, in octets.
const RECORD: usize = 1128;
const ARGV: usize = 1024;
/// The kind of record that has the address of a unix socket behind it: a path and its length.
const UNIX: u32 = 6;
const UNIX_RECORD: usize = RECORD + PATH + 4;
const PATH: usize = 108;

/// Judge an input: an octet of flags, and records one behind the other.
pub fn records(input: &[u8]) {
    let Some((&flags, records)) = input.split_first() else {
        return;
    };
    let audit = flags & 1 != 0;
    let policy = Arc::new(Policy::new(Vec::new(), None, None, Vec::new()));
    let mut ledger = Ledger::new(Arc::clone(&policy));
    let mut any_blocked = false;
    let mut rest = records;
    while !rest.is_empty() {
        let is_unix = rest.len() >= RECORD && word(rest, 28) == UNIX;
        let length = if is_unix { UNIX_RECORD } else { RECORD };
        let record;
        (record, rest) = rest.split_at(length.min(rest.len()));
        let Some(event) = decode(record, audit) else {
            // All kinds that there are are decoded, but for a socket that asks for a name.
            let is_whole = record.len() == length;
            let is_known = is_whole && (1..=7).contains(&word(record, 28));
            assert!(!is_known || is_unix && word(record, RECORD + PATH) == 0);
            continue;
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(long(record, 0));
        assert_eq!(event.time, time);
        match &event.fact {
            Fact::Contact(contact) => {
                check_contact(contact, record, audit);
                any_blocked |= contact.verdict == Verdict::Blocked;
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
                    let asker = entered[0].process.as_ref();
                    assert_eq!(asker.map(|process| process.pid), Some(pid));
                }
            }
            Fact::Delegation(delegation) => {
                check_process(&delegation.process, record);
                check_service(&delegation.service, record);
                any_blocked |= delegation.verdict == Verdict::Blocked;
                let service = delegation.service.clone();
                let [entered] = &*ledger.record(event) else {
                    panic!("not one observation of {service:?}");
                };
                assert_eq!(entered.layer, Layer::Delegation);
            }
            Fact::Moved(moved) => {
                check_process(&moved.process, record);
                ledger.record(event);
            }
            other => panic!("{other:?} is no fact of a record"),
        }
    }
    ledger.finish();
    assert_eq!(ledger.totals().any_blocked(), any_blocked);
}

fn check_contact(contact: &Contact, record: &[u8], audit: bool) {
    let layer = match word(record, 28) {
        3 => Layer::Packet,
        _ => Layer::Connect,
    };
    let verdict = match (word(record, 32), audit) {
        (2, true) => Verdict::WouldBlock,
        (2, false) => Verdict::Blocked,
        _ => Verdict::Allowed,
    };
    assert_eq!((contact.layer, contact.verdict), (layer, verdict));
    let destination = SocketAddr::new(address(record), short(record, 36));
    assert_eq!(contact.destination, destination);
    // 262 is MPTCP; other numbers beyond an octet do not exist.
    let protocol = match short(record, 38) {
        262 => 6,
        other => u8::try_from(other).unwrap_or(0),
    };
    assert_eq!(contact.protocol, protocol);
    check_process(&contact.process, record);
}

fn check_service(service: &Service, record: &[u8]) {
    if word(record, 28) != UNIX {
        let Service::Port { address: to, .. } = service else {
            panic!("{service:?} of a record without a path");
        };
        assert_eq!(*to, SocketAddr::new(address(record), short(record, 36)));
        return;
    }
    let length = usize::try_from(word(record, RECORD + PATH)).map_or(PATH, |used| used.min(PATH));
    let path = &record[RECORD..RECORD + length];
    match service {
        Service::Abstract(name) => assert_eq!([b"\0", &name[..]].concat(), path),
        Service::Path(name) => {
            assert!(path.starts_with(name) && !name.is_empty() && !name.contains(&0));
            assert!(path.get(name.len()).is_none_or(|octet| *octet == 0));
        }
        Service::Port { .. } => panic!("{service:?} of a record with a path"),
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
fn check_observation(entered: &[Observation], contact: &Contact) {
    let [observation] = entered else {
        panic!("{entered:?} of one contact");
    };
    assert_eq!(observation.verdict, contact.verdict);
    let process = observation.process.as_deref();
    assert_eq!(
        process,
        Some(&contact.process).filter(|process| process.pid != 0)
    );
    let Act::Contact { destination, .. } = &observation.act else {
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
