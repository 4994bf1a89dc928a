//! Any query with any reply.

use cgfw::dns::replay;
use cgfw::policy::{Action, Domain, Policy, Rule, Source};
use hickory_proto::op::{Header, MessageType};
use hickory_proto::serialize::binary::BinDecodable as _;

/// Judge an input: the length of the query in two octets, the query, the reply.
pub fn dns(input: &[u8]) {
    let Some((length, messages)) = input.split_at_checked(2) else {
        return;
    };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let (query, reply) = messages.split_at(length.min(messages.len()));
    let policy = policy();
    let Some(answer) = replay(&policy, query, reply) else {
        return;
    };
    let header = Header::from_bytes(&answer).expect("an answer has a header");
    assert_eq!(header.message_type, MessageType::Response);
    assert_eq!(answer[..2], query[..2], "the id is the client's");
    // An answer that was given once passes: nothing in it is refused, nothing changes.
    let again = replay(&policy, query, &answer).expect("the same query, decoded again");
    assert_eq!(again, answer);
}

/// With a rule of every kind that names have.
fn policy() -> Policy {
    let rules = [
        ("github.com", Action::Block),
        ("=exact.test", Action::Block),
        ("*.below.test", Action::Block),
        ("port.test:22", Action::Block),
        ("api.github.com", Action::Allow),
    ];
    let rules = rules.map(|(text, action)| {
        Rule::parse(text, action, Source::argument(text)).expect("the rules are well-formed")
    });
    let search = Domain::parse("corp.test").expect("the suffix is well-formed");
    Policy::new(Vec::from(rules), None, None, vec![search])
}
