/*!
The lab's name servers: one zone, a few servers with a temper, and a log of every
question that reached them.

Written out by hand, because an oracle that shared cgfw's DNS library would share its
mistakes. RFC 1035 section 4 has the format.
*/

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::internet::Log;

pub const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const MX: u16 = 15;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
const SRV: u16 = 33;
const OPT: u16 = 41;
const HTTPS: u16 = 65;
/// Unassigned (RFC 6895 section 3.1): any server must pass it on as opaque data.
const TYPE4711: u16 = 4711;

/// What exists. Names that are not here do not exist, but for those below
/// `load.example` and `many.example`, of which all do, `moody.example`, which
/// [`Question::moody`] has, and `why.example`, which [`Question::why`] has.
const ZONE: &str = "
github.com          A      198.51.100.10
github.com          AAAA   2001:db8:100::10
github.com          MX     mail.github.com
github.com          HTTPS  198.51.100.10
mail.github.com     A      198.51.100.12
api.github.com      A      198.51.100.11
api.github.com      AAAA   2001:db8:100::11
notgithub.com       A      203.0.113.22
example.com         A      203.0.113.20
example.com         AAAA   2001:db8:200::20
example.com         MX     mail.example.com
example.com         TXT    hello-from-the-lab
example.com         HTTPS  203.0.113.20
example.com         TYPE4711 opaque
_http._tcp.example.com SRV example.com
mail.example.com    A      203.0.113.25
allowed.example     A      203.0.113.21
allowed.example     AAAA   2001:db8:200::21
v6only.example      AAAA   2001:db8:200::66
alias.example       CNAME  allowed.example
cdn.example         CNAME  github.com
chain.example       CNAME  cdn.example
shared.example      A      198.51.100.10
metadata.example    A      169.254.169.254
slow.example        A      203.0.113.23
forged.example      A      203.0.113.24
stuffed.example     A      203.0.113.26
rebind.example      A      127.0.0.1
rebind.example      A      0.0.0.0
rebind.example      A      192.0.2.10
rebind.example      A      169.254.169.254
void.example        A      198.51.100.200
update.example      A      203.0.113.27
update.example      AAAA   2001:db8:200::27
";

/// How many addresses each name below `many.example` has, all its own: nearly
/// as many as a message can hold whose names are not compressed.
const MANY: u16 = 2000;

/// An address that only a forged or an unrelated record ever names.
pub const POISON: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);

/// What names below `moody.example` resolve to, if they do.
pub const MOODY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 40);

/// How a server answers whatever it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    Honest,
    /// Every answer is SERVFAIL.
    Failing,
    /// Reads and never answers.
    Silent,
}

/// A question as a server saw it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The server's own address.
    pub server: SocketAddr,
    pub client: SocketAddr,
    pub tcp: bool,
    pub id: u16,
    /// In the case it was sent in, without the final dot.
    pub name: String,
    pub qtype: u16,
    /// The UDP payload size of its OPT record (RFC 6891), if it has one.
    pub payload: Option<u16>,
    /// The question section, to be repeated in the answer bit by bit.
    section: Vec<u8>,
}

struct Record {
    /// The owner's name; `None` for the name in the question, as a compression pointer.
    owner: Option<String>,
    rtype: u16,
    data: Vec<u8>,
}

#[derive(Default)]
struct Answer {
    rcode: u8,
    records: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
}

/// Answer UDP questions until the runtime ends.
pub async fn serve_udp(socket: UdpSocket, temper: Temper, log: Arc<Log>) {
    let socket = Arc::new(socket);
    let server = socket.local_addr().unwrap();
    let mut buffer = [0; 4096];
    loop {
        // An ICMP error of an earlier reply surfaces here; the next question is unharmed.
        let Ok((len, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Some(question) = Question::parse(&buffer[..len], server, client, false) else {
            continue;
        };
        log.question(question.clone());
        let socket = Arc::clone(&socket);
        tokio::spawn(async move {
            if question.name.eq_ignore_ascii_case("forged.example") {
                for forged in question.forgeries() {
                    socket.send_to(&forged, client).await.ok();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            for reply in question.replies(temper).await {
                socket.send_to(&reply, client).await.ok();
            }
        });
    }
}

/// Answer questions over TCP (RFC 7766) until the runtime ends.
pub async fn serve_tcp(listener: TcpListener, temper: Temper, log: Arc<Log>) {
    let server = listener.local_addr().unwrap();
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            continue;
        };
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            // A client that hangs up in the middle is its own business.
            converse(stream, server, client, temper, &log).await.ok();
        });
    }
}

async fn converse(
    mut stream: TcpStream,
    server: SocketAddr,
    client: SocketAddr,
    temper: Temper,
    log: &Log,
) -> std::io::Result<()> {
    loop {
        let len = stream.read_u16().await?;
        let mut message = vec![0; len.into()];
        stream.read_exact(&mut message).await?;
        let Some(question) = Question::parse(&message, server, client, true) else {
            return Ok(());
        };
        log.question(question.clone());
        for reply in question.replies(temper).await {
            let len = u16::try_from(reply.len()).unwrap();
            stream.write_all(&len.to_be_bytes()).await?;
            stream.write_all(&reply).await?;
        }
    }
}

impl Question {
    fn parse(message: &[u8], server: SocketAddr, client: SocketAddr, tcp: bool) -> Option<Self> {
        let header = message.first_chunk::<12>()?;
        let id = u16::from_be_bytes([header[0], header[1]]);
        let is_response = header[2] & 0x80 != 0;
        if is_response || header[4..6] != [0, 1] {
            return None;
        }
        let mut rest = &message[12..];
        let mut labels = Vec::new();
        loop {
            let (&len, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at_checked(len.into())?;
            rest = tail;
            if len == 0 {
                break;
            }
            labels.push(label.escape_ascii().to_string());
        }
        let (fixed, rest) = rest.split_first_chunk::<4>()?;
        let section = message[12..message.len() - rest.len()].to_vec();
        // The OPT record starts with the root name and its type; its class is the size.
        let payload = match rest {
            [0, high, low, size @ ..] if u16::from_be_bytes([*high, *low]) == OPT => {
                size.first_chunk().map(|size| u16::from_be_bytes(*size))
            }
            _ => None,
        };
        Some(Self {
            server,
            client,
            tcp,
            id,
            name: labels.join("."),
            qtype: u16::from_be_bytes([fixed[0], fixed[1]]),
            payload,
            section,
        })
    }

    /// The messages to send back, in this order.
    async fn replies(&self, temper: Temper) -> Vec<Vec<u8>> {
        let name = self.name.to_ascii_lowercase();
        match name.strip_suffix(".moody.example") {
            Some(moody) => self.moody(moody.rsplit('.').next().unwrap_or(moody)).await,
            None => self.reply(temper).await.into_iter().collect(),
        }
    }

    /// What a server sends that is slow, broken or hostile. Where it means well, the answer
    /// is [`MOODY`]; otherwise there is none, or [`POISON`].
    async fn moody(&self, mood: &str) -> Vec<Vec<u8>> {
        let answer = |address: Ipv4Addr| match self.qtype {
            A => Answer::of(A, [address.octets().to_vec()]),
            _ => Answer::default(),
        };
        let right = self.encode(self.id, &answer(MOODY));
        let [wrong_id, wrong_question] = self.forgeries();
        match mood {
            "late" => {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                vec![right]
            }
            "never" => Vec::new(),
            "id" => vec![wrong_id],
            "question" => vec![wrong_question],
            "twice" => vec![right, self.encode(self.id, &answer(POISON))],
            "oversized" => {
                let mut answer = answer(MOODY);
                let padding = || Record {
                    owner: None,
                    rtype: TXT,
                    data: text(&"x".repeat(250)),
                };
                answer
                    .additional
                    .extend(std::iter::repeat_with(padding).take(30));
                vec![self.encode(self.id, &answer)]
            }
            "truncated" => {
                let mut reply = self.encode(self.id, &Answer::default());
                reply[2] |= 0x02;
                vec![reply]
            }
            "garbage" => {
                let mut reply = self.encode(self.id, &answer(POISON));
                // The first record, behind the question, ends nowhere.
                let record = 12 + self.section.len();
                reply.truncate(record);
                reply.extend([0xff; 40]);
                vec![reply]
            }
            "noise" => {
                let mut reply = vec![0xaa; 64];
                reply[..2].copy_from_slice(&self.id.to_be_bytes());
                vec![reply]
            }
            other => unreachable!("no server of the lab is {other}"),
        }
    }

    /// The message to send back; `None` for silence.
    async fn reply(&self, temper: Temper) -> Option<Vec<u8>> {
        match temper {
            Temper::Silent => return None,
            Temper::Failing => return Some(self.encode(self.id, &Answer::failure(2))),
            Temper::Honest => {}
        }
        match self.name.to_ascii_lowercase().as_str() {
            "silent.example" => return None,
            "slow.example" => tokio::time::sleep(Duration::from_millis(1500)).await,
            _ => {}
        }
        let reply = self.encode(self.id, &self.answer());
        // Servers answer in at most 1232 bytes whatever the client offers (RFC 9715).
        let limit = usize::from(self.payload.unwrap_or(512).clamp(512, 1232));
        if self.tcp || reply.len() <= limit {
            return Some(reply);
        }
        let mut truncated = self.encode(self.id, &Answer::default());
        truncated[2] |= 0x02;
        Some(truncated)
    }

    fn answer(&self) -> Answer {
        let name = self.name.to_ascii_lowercase();
        match name.as_str() {
            "servfail.example" => Answer::failure(2),
            "refused.example" => Answer::failure(5),
            "whoami.example" if self.qtype == TXT => {
                Answer::of(TXT, [text(&self.server.ip().to_string())])
            }
            "big.example" if self.qtype == A => {
                Answer::of(A, (1..=250).map(|last| vec![203, 0, 113, last]))
            }
            "big.example" if self.qtype == TXT => {
                Answer::of(TXT, std::iter::repeat_n(text(&"x".repeat(250)), 20))
            }
            "big.example" | "whoami.example" => Answer::default(),
            _ if name.ends_with(".load.example") && self.qtype == A => {
                Answer::of(A, [vec![203, 0, 113, 30]])
            }
            _ if name.ends_with(".load.example") => Answer::default(),
            _ if name.ends_with(".many.example") && self.qtype == A => {
                let block: u8 = name.trim_end_matches(".many.example").parse().unwrap_or(0);
                let address = |n: u16| [[44, block], n.to_be_bytes()].concat();
                Answer::of(A, (0..MANY).map(address))
            }
            _ if ["why.example", "target.example", "corp.example"]
                .iter()
                .any(|tree| name.ends_with(tree)) =>
            {
                self.why(name)
            }
            _ => self.look_up(name),
        }
    }

    /// Every name has an address of its own, but for those below `why.example` that begin
    /// with `alias`: they are aliases of one below `target.example`.
    fn why(&self, mut name: String) -> Answer {
        let mut answer = Answer::default();
        let mut owner = None;
        if let Some(alias) = name.strip_prefix("alias.")
            && let Some(place) = alias.strip_suffix("why.example")
        {
            name = format!("{place}target.example");
            answer.push(None, CNAME, encode_name(&name));
            owner = Some(name.clone());
        }
        if self.qtype == AAAA {
            answer.push(owner, AAAA, address_of(&name).octets().to_vec());
        }
        answer
    }

    /// What the zone has, aliases followed.
    fn look_up(&self, mut name: String) -> Answer {
        let mut answer = Answer::default();
        let mut owner = None;
        loop {
            let here: Vec<[&str; 3]> = entries().filter(|[owner, ..]| *owner == name).collect();
            if here.is_empty() {
                answer.rcode = 3;
            }
            for [_, rtype, value] in &here {
                let (rtype, data) = encode_data(rtype, value);
                if rtype == self.qtype || rtype == CNAME {
                    answer.push(owner.clone(), rtype, data);
                }
            }
            let Some([_, _, target]) = here.iter().find(|[_, rtype, _]| *rtype == "CNAME") else {
                break;
            };
            name = (*target).to_owned();
            owner = Some(name.clone());
        }
        if name == "stuffed.example" && self.qtype == A {
            let poison = || Record {
                owner: Some("unrelated.example".to_owned()),
                rtype: A,
                data: POISON.octets().to_vec(),
            };
            answer.records.push(poison());
            answer.additional.push(poison());
        }
        if answer.records.is_empty() {
            answer.authority.push(start_of_authority());
        }
        answer
    }

    /// What an attacker off the path could send: right port, wrong id or wrong question.
    fn forgeries(&self) -> [Vec<u8>; 2] {
        let answer = Answer::of(A, [POISON.octets().to_vec()]);
        let mut other = self.clone();
        other.section[1] ^= 0x01;
        [
            self.encode(self.id.wrapping_add(1), &answer),
            other.encode(self.id, &answer),
        ]
    }

    fn encode(&self, id: u16, answer: &Answer) -> Vec<u8> {
        let mut message = Vec::new();
        message.extend(id.to_be_bytes());
        // QR, RD and RA; the rcode.
        message.extend([0x81, 0x80 | answer.rcode]);
        let additional = answer.additional.len() + usize::from(self.payload.is_some());
        for count in [1, answer.records.len(), answer.authority.len(), additional] {
            message.extend(u16::try_from(count).unwrap().to_be_bytes());
        }
        message.extend(&self.section);
        for record in answer
            .records
            .iter()
            .chain(&answer.authority)
            .chain(&answer.additional)
        {
            match &record.owner {
                Some(owner) => message.extend(encode_name(owner)),
                None => message.extend([0xc0, 12]),
            }
            message.extend(record.rtype.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60]);
            message.extend(u16::try_from(record.data.len()).unwrap().to_be_bytes());
            message.extend(&record.data);
        }
        if self.payload.is_some() {
            message.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
        }
        message
    }
}

impl Answer {
    fn failure(rcode: u8) -> Self {
        Self {
            rcode,
            ..Self::default()
        }
    }

    /// These, owned by the name that was asked for.
    fn of(rtype: u16, data: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut answer = Self::default();
        for data in data {
            answer.push(None, rtype, data);
        }
        answer
    }

    fn push(&mut self, owner: Option<String>, rtype: u16, data: Vec<u8>) {
        self.records.push(Record { owner, rtype, data });
    }
}

/// The address of a name that has one of its own: its FNV-1a hash in 2001:db8:200::/64.
pub fn address_of(name: &str) -> Ipv6Addr {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    });
    let network = Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 0);
    (network.to_bits() | u128::from(hash)).into()
}

fn entries() -> impl Iterator<Item = [&'static str; 3]> {
    ZONE.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some([words.next()?, words.next()?, words.next()?])
    })
}

fn encode_data(rtype: &str, value: &str) -> (u16, Vec<u8>) {
    let address = || value.parse::<IpAddr>().unwrap();
    match rtype {
        "A" | "AAAA" => match address() {
            IpAddr::V4(v4) => (A, v4.octets().to_vec()),
            IpAddr::V6(v6) => (AAAA, v6.octets().to_vec()),
        },
        "CNAME" => (CNAME, encode_name(value)),
        "MX" => (MX, [&[0, 10], &*encode_name(value)].concat()),
        "TXT" => (TXT, text(value)),
        "SRV" => (SRV, [&[0, 1, 0, 2, 0, 80], &*encode_name(value)].concat()),
        // Priority 1, target ".", and an ipv4hint (RFC 9460 section 7.3).
        "HTTPS" => match address() {
            IpAddr::V4(hint) => (HTTPS, [&[0, 1, 0, 0, 4, 0, 4], &hint.octets()[..]].concat()),
            IpAddr::V6(_) => unreachable!("the zone has v4 hints only"),
        },
        "TYPE4711" => (TYPE4711, value.as_bytes().to_vec()),
        other => unreachable!("no such type in the lab: {other}"),
    }
}

fn encode_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}

fn text(value: &str) -> Vec<u8> {
    [&[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

/// Tells a client for how long the absence may be believed (RFC 2308).
fn start_of_authority() -> Record {
    let mut data = encode_name("ns.example");
    data.extend(encode_name("root.example"));
    for number in [1_u32, 3600, 600, 86400, 30] {
        data.extend(number.to_be_bytes());
    }
    Record {
        owner: Some("example".to_owned()),
        rtype: SOA,
        data,
    }
}

/// The address of an honest server, the system's resolver.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
pub const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53);
/// A second honest server, which no resolv.conf of the lab names unless a test says so.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 54);
pub const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x54);
pub const FAILING: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 69);
pub const SILENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 70);
/// Nobody listens here, and the kernel says so with an ICMP message.
pub const REFUSING: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 67);
/// No host has this address.
pub const DEAD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);

/// The servers that run.
pub fn servers() -> [(IpAddr, Temper); 6] {
    [
        (RESOLVER.into(), Temper::Honest),
        (RESOLVER_V6.into(), Temper::Honest),
        (OTHER.into(), Temper::Honest),
        (OTHER_V6.into(), Temper::Honest),
        (FAILING.into(), Temper::Failing),
        (SILENT.into(), Temper::Silent),
    ]
}
