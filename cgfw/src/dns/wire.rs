//! Messages on their way upstream and back (RFC 1035 section 4, RFC 6891). Pure.

use hickory_proto::ProtoError;
use hickory_proto::op::{
    Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
};
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::rr::rdata::{NULL, OPT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{
    BinDecodable as _, BinDecoder, BinEncodable as _, DecodeError,
};

use crate::policy::{Domain, DomainError};

/// The largest UDP reply that is asked for, in octets; what hickory accepts of a query, too.
pub(super) const MAX_UDP: u16 = 4096;
/// Extended DNS Errors, RFC 8914 section 2.
pub(super) const EDE: u16 = 15;
/// The size of a header, in octets (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// What a client asked, as far as it concerns the next server too.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) query: Query,
    pub(super) name: Domain,
    /// The client's header; only RD, AD and CD go upstream.
    pub(super) metadata: Metadata,
    /// The OPT record that goes upstream, if the client sent one.
    edns: Option<Edns>,
}

impl Question {
    /// `query` with the header and the OPT record that it came with.
    pub(super) fn new(
        query: Query,
        metadata: Metadata,
        edns: Option<&Edns>,
    ) -> Result<Self, DomainError> {
        Ok(Self {
            name: domain(query.name())?,
            query,
            metadata,
            edns: edns.map(next_hop),
        })
    }

    /// A question of our own.
    pub(super) fn own(name: &Domain, record_type: RecordType) -> Result<Self, ProtoError> {
        let query = Query::query(Name::from_labels(name.labels())?, record_type);
        let mut metadata = Metadata::new(0, MessageType::Query, OpCode::Query);
        metadata.recursion_desired = true;
        Ok(Self {
            query,
            name: name.clone(),
            metadata,
            edns: None,
        })
    }

    pub(super) fn has_edns(&self) -> bool {
        self.edns.is_some()
    }

    /// The same question without an OPT record, for servers that do not know EDNS.
    pub(super) fn without_edns(&self) -> Self {
        Self {
            edns: None,
            ..self.clone()
        }
    }

    /// The message for the next server, under a fresh id.
    pub(super) fn encode(&self) -> Result<Sent, ProtoError> {
        // The id comes from `rand`'s thread-local generator, which is a CSPRNG.
        let mut message = Message::query();
        let id = message.metadata.id;
        message.metadata.recursion_desired = self.metadata.recursion_desired;
        message.metadata.authentic_data = self.metadata.authentic_data;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.add_query(self.query.clone());
        message.edns.clone_from(&self.edns);
        Ok(Sent {
            id,
            message: message.to_vec()?,
            section: self.query.to_bytes()?,
        })
    }
}

/// A name as the policy compares it.
pub(super) fn domain(name: &Name) -> Result<Domain, DomainError> {
    Domain::from_labels(name.iter())
}

/// What of `edns` holds beyond one hop: DO and the client subnet (RFC 7871). The rest is
/// between neighbours (RFC 6891 section 6.1.1) and our own.
fn next_hop(edns: &Edns) -> Edns {
    let mut own = Edns::new();
    own.set_max_payload(edns.max_payload().min(MAX_UDP));
    own.set_dnssec_ok(edns.flags().dnssec_ok);
    for option in edns.options().get_all(EdnsCode::Subnet) {
        own.options_mut().insert(option.clone());
    }
    own
}

/// A message that was sent upstream, and what its reply has to repeat.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) message: Vec<u8>,
    id: u16,
    /// The question section in octets, so that its case is compared, too.
    section: Vec<u8>,
}

impl Sent {
    /// Whether `bytes` is a reply to this message, and not a late or a forged one.
    ///
    /// A server that cannot make sense of a question may leave it out of its error
    /// (RFC 6891 section 7 counts on that to tell servers without EDNS).
    pub(super) fn is_answered_by(&self, bytes: &[u8]) -> bool {
        let Ok(header) = Header::from_bytes(bytes) else {
            return false;
        };
        if header.id != self.id || header.message_type != MessageType::Response {
            return false;
        }
        match header.counts.queries {
            1 => bytes[HEADER..].starts_with(&self.section),
            0 => matches!(
                header.response_code,
                ResponseCode::FormErr | ResponseCode::NotImp
            ),
            _ => false,
        }
    }
}

/// The reply of a server.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) metadata: Metadata,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
    /// The OPT record, which is not among `additionals`.
    pub(super) edns: Option<Edns>,
}

impl Reply {
    /// Decode a message.
    ///
    /// The data of a record stays the octets it came in, so that types that nobody here
    /// has heard of pass unchanged (RFC 3597 section 3). Only where names in the data may
    /// be compressed (RFC 3597 section 4) it has to be parsed.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder)?;
        for _ in 0..header.counts.queries {
            Query::read(&mut decoder)?;
        }
        let mut edns = None;
        let mut section = |count| -> Result<Vec<Record>, DecodeError> {
            let mut records = Vec::new();
            for _ in 0..count {
                records.extend(read_record(&mut decoder, &mut edns)?);
            }
            Ok(records)
        };
        let answers = section(header.counts.answers)?;
        let authorities = section(header.counts.authorities)?;
        let additionals = section(header.counts.additionals)?;
        let mut metadata = header.metadata;
        if let Some(edns) = &edns {
            metadata.response_code =
                ResponseCode::from(edns.rcode_high(), metadata.response_code.low());
        }
        Ok(Self {
            metadata,
            answers,
            authorities,
            additionals,
            edns,
        })
    }

    /// Whether the server seems not to know EDNS (RFC 6891 section 7).
    pub(super) fn rejects_edns(&self) -> bool {
        self.edns.is_none()
            && matches!(
                self.metadata.response_code,
                ResponseCode::FormErr | ResponseCode::NotImp
            )
    }
}

/// The next record; an OPT record goes to `edns` instead.
fn read_record(
    decoder: &mut BinDecoder<'_>,
    edns: &mut Option<Edns>,
) -> Result<Option<Record>, DecodeError> {
    let name = Name::read(decoder)?;
    let record_type = RecordType::read(decoder)?;
    let class = decoder.read_u16()?.unverified(/* any class is valid */);
    let ttl = decoder.read_u32()?.unverified(/* any TTL is valid */);
    let length = decoder.read_u16()?;
    let mut inner = decoder.clone(position(decoder)?);
    let data = decoder
        .read_slice(usize::from(length.unverified(/* checked by read_slice */)))?
        .unverified(/* passed on as it is */);
    if record_type == RecordType::OPT {
        let options = match RData::read(&mut inner, record_type, length) {
            Ok(RData::OPT(options)) => options,
            // An option that does not parse concerns nobody beyond this hop.
            _ => OPT::default(),
        };
        return match edns.replace(read_edns(class, ttl, options)) {
            Some(_) => Err(DecodeError::DuplicateEdns),
            None => Ok(None),
        };
    }
    let class = DNSClass::from(class);
    let data = match layout(record_type, class) {
        Layout::Parsed => RData::read(&mut inner, record_type, length)?,
        Layout::Names { before, names } => {
            let data = decompress(&mut inner, before, names)?;
            if inner.index() != decoder.index() {
                return Err(DecodeError::InsufficientBytes);
            }
            unknown(record_type, data)
        }
        Layout::Opaque => unknown(record_type, data.to_vec()),
    };
    let mut record = Record::from_rdata(name, ttl, data);
    record.dns_class = class;
    Ok(Some(record))
}

enum Layout {
    /// hickory knows it, and compresses its names again.
    Parsed,
    /// So many octets, then so many names, which may be compressed; nothing behind them.
    Names {
        before: usize,
        names: usize,
    },
    Opaque,
}

/// RFC 3597 section 4 lists the types whose names a receiver has to decompress.
fn layout(record_type: RecordType, class: DNSClass) -> Layout {
    let (before, names) = match u16::from(record_type) {
        // A, AAAA: in class CH an A record is something else.
        1 | 28 if class == DNSClass::IN => return Layout::Parsed,
        // NS, CNAME, SOA, PTR, MX, SRV.
        2 | 5 | 6 | 12 | 15 | 33 => return Layout::Parsed,
        // MD, MF, MB, MG, MR, DNAME.
        3 | 4 | 7 | 8 | 9 | 39 => (0, 1),
        // MINFO, RP.
        14 | 17 => (0, 2),
        // AFSDB, RT, KX.
        18 | 21 | 36 => (2, 1),
        // PX.
        26 => (2, 2),
        _ => return Layout::Opaque,
    };
    Layout::Names { before, names }
}

fn decompress(
    decoder: &mut BinDecoder<'_>,
    before: usize,
    names: usize,
) -> Result<Vec<u8>, DecodeError> {
    let mut data = decoder
        .read_slice(before)?
        .unverified(/* passed on as it is */)
        .to_vec();
    for _ in 0..names {
        for label in &Name::read(decoder)? {
            // A label has at most 63 octets, or it had not been read.
            data.extend(u8::try_from(label.len()).iter().chain(label));
        }
        data.push(0);
    }
    Ok(data)
}

fn unknown(code: RecordType, data: Vec<u8>) -> RData {
    let rdata = if data.is_empty() {
        NULL::new()
    } else {
        NULL::with(data)
    };
    RData::Unknown { code, rdata }
}

/// RFC 6891 section 6.1.3: what the fields of an OPT record mean.
fn read_edns(class: u16, ttl: u32, options: OPT) -> Edns {
    let [rcode_high, version, flags, _] = ttl.to_be_bytes();
    let mut edns = Edns::new();
    edns.set_rcode_high(rcode_high)
        .set_version(version)
        .set_dnssec_ok(flags & 0x80 != 0)
        .set_max_payload(class);
    *edns.options_mut() = options;
    edns
}

/// The target of a DNAME record (RFC 6672 section 2.1), which hickory leaves unparsed.
pub(super) fn dname_target(record: &Record) -> Option<Name> {
    let RData::Unknown {
        code: RecordType::DNAME,
        rdata,
    } = &record.data
    else {
        return None;
    };
    Name::from_bytes(&rdata.anything).ok()
}

/// An answer without a question, for a message of which only the header makes sense.
pub(super) fn error_message(header: &Header, code: ResponseCode) -> Option<Vec<u8>> {
    Message::error_msg(header.id, header.op_code, code)
        .to_vec()
        .ok()
}

/// The mnemonic of a type, RFC 3597 section 5 for those without.
pub(super) fn type_mnemonic(record_type: RecordType) -> String {
    let code = u16::from(record_type);
    // hickory has no mnemonic for the first two, and a code of its own for the third.
    if matches!(
        record_type,
        RecordType::Unknown(_) | RecordType::ZERO | RecordType::ANAME
    ) {
        return format!("TYPE{code}");
    }
    <&str>::from(record_type).to_owned()
}

/// The mnemonic of a response code, from IANA's registry of DNS RCODEs.
pub(super) fn rcode_mnemonic(code: ResponseCode) -> String {
    let known = match u16::from(code) {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        16 => "BADVERS",
        23 => "BADCOOKIE",
        other => return format!("RCODE{other}"),
    };
    known.to_owned()
}

fn position(decoder: &BinDecoder<'_>) -> Result<u16, DecodeError> {
    u16::try_from(decoder.index()).map_err(|_too_long| DecodeError::InsufficientBytes)
}
