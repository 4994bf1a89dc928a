//! What a client is told, and how much of it fits.

use std::borrow::Cow;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Metadata, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageRequest, MessageResponse, MessageResponseBuilder};

use super::wire::{EDE, Reply};
use crate::policy::{Judgement, Rule};

/// RFC 8914 section 4, the INFO-CODEs in use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Other = 0,
    Blocked = 15,
    NotSupported = 21,
    NetworkError = 23,
}

/// The longest EXTRA-TEXT, in octets: with the longest name the answer still fits in 512.
const MAX_TEXT: usize = 200;
/// The longest name of an owner in it, in octets.
const MAX_OWNER: usize = 64;
/// Without EDNS (RFC 1035 section 4.2.1).
const PLAIN_UDP: u16 = 512;

/// An answer, still without the question section, which is echoed from the request.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    metadata: Metadata,
    /// Present if the client sent one (RFC 6891 section 7).
    edns: Option<Edns>,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Answer {
    /// An empty NOERROR.
    pub(super) fn to(request: &MessageRequest) -> Self {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            // hickory takes the limit for a UDP response from the response's own OPT.
            edns.set_max_payload(asked.max_payload())
                .set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        Self {
            metadata,
            edns,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    /// Empty, with this response code.
    #[must_use]
    pub(super) fn code(mut self, code: ResponseCode) -> Self {
        self.metadata.response_code = code;
        self
    }

    /// With an Extended DNS Error, if the client can take one.
    #[must_use]
    pub(super) fn because(mut self, why: Why, text: &str) -> Self {
        if let Some(edns) = &mut self.edns {
            let text = cut(text, MAX_TEXT);
            let data = [&(why as u16).to_be_bytes()[..], text.as_bytes()].concat();
            edns.options_mut().insert(EdnsOption::Unknown(EDE, data));
        }
        self
    }

    /// With one more record in the answer section.
    #[must_use]
    pub(super) fn record(mut self, record: Record) -> Self {
        self.answers.push(record);
        self
    }

    /// What the server said, under the client's id and with an OPT record of our own.
    #[must_use]
    pub(super) fn deliver(mut self, reply: Reply) -> Self {
        // Twelve bits need an OPT record; a server that was sent none must not use them.
        if self.edns.is_none() && u16::from(reply.metadata.response_code) > 15 {
            return self.code(ResponseCode::ServFail);
        }
        let asked = std::mem::replace(&mut self.metadata, reply.metadata);
        self.metadata.id = asked.id;
        self.metadata.message_type = asked.message_type;
        self.metadata.op_code = asked.op_code;
        self.metadata.recursion_desired = asked.recursion_desired;
        if let (Some(own), Some(theirs)) = (&mut self.edns, &reply.edns) {
            for code in [EdnsCode::Subnet, EdnsCode::Unknown(EDE)] {
                for option in theirs.options().get_all(code) {
                    own.options_mut().insert(option.clone());
                }
            }
        }
        let section = |mut records: Vec<Record>| {
            records.retain(|record| !bypasses_pins(record.record_type()));
            records
        };
        self.answers = section(reply.answers);
        self.authorities = section(reply.authorities);
        self.additionals = section(reply.additionals);
        self
    }

    pub(super) fn response_code(&self) -> ResponseCode {
        self.metadata.response_code
    }

    /// Leave out what does not fit into a datagram: first the additional section, which nobody has to have
    /// (RFC 2181 section 9), then everything but question and OPT, with TC set.
    #[must_use]
    fn fit(mut self, request: &MessageRequest) -> Self {
        let limit = self.edns.as_ref().map_or(PLAIN_UDP, Edns::max_payload);
        let fits = |answer: &Self| {
            answer
                .encode(request)
                .is_ok_and(|bytes| bytes.len() <= usize::from(limit))
        };
        if fits(&self) {
            return self;
        }
        self.additionals.clear();
        if fits(&self) {
            return self;
        }
        self.answers.clear();
        self.authorities.clear();
        self.metadata.truncation = true;
        self
    }

    /// The message in octets, in full.
    pub(super) fn encode(&self, request: &MessageRequest) -> Result<Vec<u8>, ProtoError> {
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_UDP));
        self.message(request)
            .destructive_emit(&mut BinEncoder::new(&mut bytes))?;
        Ok(bytes)
    }

    /// Hand the answer to hickory, which sends it as a datagram.
    pub(super) async fn send(
        self,
        request: &Request,
        mut handle: impl ResponseHandler,
    ) -> Result<ResponseInfo, NetError> {
        let answer = self.fit(request);
        handle.send_response(answer.message(request)).await
    }

    fn message<'a>(
        &'a self,
        request: &'a MessageRequest,
    ) -> MessageResponse<
        'a,
        'a,
        std::slice::Iter<'a, Record>,
        std::slice::Iter<'a, Record>,
        std::slice::Iter<'a, Record>,
        std::slice::Iter<'a, Record>,
    > {
        MessageResponseBuilder::new(&request.queries, self.edns.as_ref()).build(
            self.metadata,
            &self.answers,
            &self.authorities,
            &[],
            &self.additionals,
        )
    }
}

/// SVCB and HTTPS (RFC 9460) carry addresses and ECH keys that nothing here judges.
pub(super) fn bypasses_pins(record_type: RecordType) -> bool {
    matches!(record_type, RecordType::SVCB | RecordType::HTTPS)
}

/// Why a name was refused, for people: the rule and, if it was an alias, which one; why the
/// rule is there, as far as there is room (RFC 8914 section 2 wants it short), and whom to ask.
pub(super) fn explain(judgement: &Judgement) -> String {
    let rule = judgement.rule.as_deref();
    let mut text = rule.map_or("not allowed by any rule".to_owned(), |rule| {
        format!("blocked by {}", rule.cite())
    });
    if let Some(name) = &judgement.matched {
        text = format!("{name} is {text}");
    }
    let mut text = visible(&text);
    let owner = rule
        .and_then(Rule::owner)
        .map_or_else(String::new, |owner| {
            format!(" (owner {})", cut(&visible(owner), MAX_OWNER))
        });
    let room = MAX_TEXT - owner.len();
    if let Some(why) = rule.and_then(Rule::reason) {
        text = format!("{text}: {}", visible(why));
    }
    format!("{}{owner}", cut(&text, room))
}

/// The text in at most so many octets, with an ellipsis where its end is missing.
fn cut(text: &str, octets: usize) -> Cow<'_, str> {
    const ELLIPSIS: char = '…';
    if text.len() <= octets {
        return text.into();
    }
    let kept = octets.saturating_sub(ELLIPSIS.len_utf8());
    format!("{}{ELLIPSIS}", &text[..text.floor_char_boundary(kept)]).into()
}

/// With what a terminal would obey escaped: clients print the text as it comes.
fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            visible.extend(c.escape_debug());
        } else {
            visible.push(c);
        }
    }
    visible
}

/// An address record for `name` as it was asked.
pub(super) fn address_record(
    name: &hickory_proto::rr::Name,
    ttl: u32,
    address: std::net::IpAddr,
) -> Record {
    let data = match address {
        std::net::IpAddr::V4(v4) => RData::A(v4.into()),
        std::net::IpAddr::V6(v6) => RData::AAAA(v6.into()),
    };
    let mut record = Record::from_rdata(name.clone(), ttl, data);
    record.dns_class = DNSClass::IN;
    record
}
