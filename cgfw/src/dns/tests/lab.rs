//! One helper for all tests: an upstream that answers by a script, a proxy in front of it,
//! and a client.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::dns::tcp::{read_message, write_message};
use crate::dns::{Proxy, Sockets, serve};
use crate::event::{self, Event, Fact, QueryKey};
use crate::pins::Lead;
use crate::policy::{Action, Domain, Judgement, OnBlock, Policy, Ports, Rule, Source, Transport};

/// As long as one waits for nothing to happen.
pub(super) const SOON: Duration = Duration::from_millis(300);
/// As long as clients wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Wait until something is so.
pub(super) async fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never was");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn policy(block: &[&str], allow: &[&str]) -> Policy {
    let rule = |text: &str, action, option: &str| {
        Rule::parse(text, action, Source::argument(format!("{option} {text}"))).unwrap()
    };
    let rules: Vec<Rule> = block
        .iter()
        .map(|text| rule(text, Action::Block, "--block"))
        .chain(
            allow
                .iter()
                .map(|text| rule(text, Action::Allow, "--allow")),
        )
        .collect();
    Policy::new(rules, None, None, Vec::new())
}

pub(super) fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `owner TTL DATA`, where the data is an address or `CNAME target`.
pub(super) fn record(text: &str) -> Record {
    let mut words = text.split_whitespace();
    let mut word = || words.next().unwrap();
    let (owner, ttl, data) = (word(), word(), word());
    let data = match data {
        "CNAME" => RData::CNAME(rdata::CNAME(Name::from_ascii(word()).unwrap())),
        "DNAME" => {
            let target = domain(word());
            let wire = [target.as_wire(), &[0]].concat();
            raw(RecordType::DNAME, &wire)
        }
        address => match address.parse().unwrap() {
            IpAddr::V4(v4) => RData::A(v4.into()),
            IpAddr::V6(v6) => RData::AAAA(v6.into()),
        },
    };
    Record::from_rdata(Name::from_ascii(owner).unwrap(), ttl.parse().unwrap(), data)
}

pub(super) fn records(texts: &[&str]) -> Vec<Record> {
    texts.iter().map(|text| record(text)).collect()
}

pub(super) fn raw(code: RecordType, data: &[u8]) -> RData {
    let rdata = rdata::NULL::with(data.to_vec());
    RData::Unknown { code, rdata }
}

pub(super) fn query(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

pub(super) fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

/// An answer to `query` with these records in the answer section.
pub(super) fn reply(query: &Message, answers: Vec<Record>) -> Message {
    let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_desired = query.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_queries(query.queries.clone());
    message.add_answers(answers);
    if query.edns.is_some() {
        message.set_edns(Edns::new());
    }
    message
}

pub(super) fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

/// INFO-CODE and EXTRA-TEXT of the Extended DNS Error, if there is one.
pub(super) fn ede(message: &Message) -> Option<(u16, String)> {
    let option = message.edns.as_ref()?.option(EdnsCode::Unknown(15))?;
    let EdnsOption::Unknown(_, data) = option else {
        panic!("not an Extended DNS Error: {option:?}");
    };
    let code = u16::from_be_bytes([data[0], data[1]]);
    Some((code, String::from_utf8(data[2..].to_vec()).unwrap()))
}

/// What an upstream does with a query: the datagrams or messages that it sends back.
type Script = dyn FnMut(&Message, Transport) -> Vec<Vec<u8>> + Send;

/// A name server on loopback, UDP and TCP.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<(Transport, Message)>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Upstream {
    pub(super) async fn scripted(
        script: impl FnMut(&Message, Transport) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Box<Script>>> = Arc::new(Mutex::new(Box::new(script)));
        let answers = {
            let seen = Arc::clone(&seen);
            move |bytes: &[u8], transport| {
                let message = Message::from_vec(bytes).unwrap();
                let replies = script.lock().unwrap()(&message, transport);
                seen.lock().unwrap().push((transport, message));
                replies
            }
        };
        let over_tcp = answers.clone();
        let tasks = vec![
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                loop {
                    let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                    for reply in answers(&buffer[..length], Transport::Udp) {
                        udp.send_to(&reply, client).await.unwrap();
                    }
                }
            }),
            tokio::spawn(async move {
                loop {
                    let (mut stream, _) = tcp.accept().await.unwrap();
                    let query = read_message(&mut stream).await.unwrap();
                    for reply in over_tcp(&query, Transport::Tcp) {
                        write_message(&mut stream, &reply).await.unwrap();
                    }
                }
            }),
        ];
        Self {
            address,
            seen,
            tasks,
        }
    }

    /// Answers each question with those of `zone` that it asks for, or with NXDOMAIN.
    pub(super) async fn with_zone(zone: &[&str]) -> Self {
        let zone = records(zone);
        Self::scripted(move |query, _| vec![bytes(&lookup(&zone, query))]).await
    }

    /// Receives and says nothing.
    pub(super) async fn silent() -> Self {
        Self::scripted(|_, _| Vec::new()).await
    }

    pub(super) fn seen(&self) -> Vec<(Transport, Message)> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What a resolver would say: the chain of aliases and what is at its end.
fn lookup(zone: &[Record], query: &Message) -> Message {
    let asked = &query.queries[0];
    let mut names = vec![asked.name().clone()];
    let mut answers: Vec<Record> = Vec::new();
    while let Some(name) = names.pop() {
        for record in zone.iter().filter(|record| record.name == name) {
            if let RData::CNAME(target) = &record.data {
                names.push(target.0.clone());
                answers.push(record.clone());
            } else if record.record_type() == asked.query_type() {
                answers.push(record.clone());
            }
        }
    }
    let known = zone.iter().any(|record| record.name == *asked.name());
    let mut message = reply(query, answers);
    if !known {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    message
}

pub(super) type Pinned = (String, Vec<IpAddr>, Ports);

/// A proxy to be.
#[must_use]
pub(super) struct Setup {
    policy: Policy,
    audit: bool,
    on_block: OnBlock,
    upstreams: Vec<SocketAddr>,
    origin: Option<SocketAddr>,
    pins_fail: bool,
    watched: Option<watch::Receiver<Arc<Policy>>>,
}

impl Setup {
    pub(super) fn new(policy: Policy, upstreams: &[&Upstream]) -> Self {
        Self {
            policy,
            audit: false,
            on_block: OnBlock::NxDomain,
            upstreams: upstreams.iter().map(|upstream| upstream.address).collect(),
            origin: None,
            pins_fail: false,
            watched: None,
        }
    }

    pub(super) fn audit(mut self) -> Self {
        self.audit = true;
        self
    }

    pub(super) fn on_block(mut self, on_block: OnBlock) -> Self {
        self.on_block = on_block;
        self
    }

    /// The child had asked this server; with port 0 the proxy itself.
    pub(super) fn follow(mut self, origin: SocketAddr) -> Self {
        self.origin = Some(origin);
        self
    }

    pub(super) fn upstream(mut self, address: SocketAddr) -> Self {
        self.upstreams.push(address);
        self
    }

    /// Has its policy from there, in the place of its own.
    pub(super) fn watching(mut self, policy: watch::Receiver<Arc<Policy>>) -> Self {
        self.watched = Some(policy);
        self
    }

    pub(super) fn failing_pins(mut self) -> Self {
        self.pins_fail = true;
        self
    }

    /// The proxy, and where its pins and events go.
    pub(super) fn proxy(self) -> (Proxy, Pins, Events) {
        let pins = Pins::default();
        let events = Events::default();
        let (pin, emit) = (Arc::clone(&pins), Arc::clone(&events));
        let proxy = Proxy {
            policy: self
                .watched
                .unwrap_or_else(|| watch::channel(Arc::new(self.policy)).1),
            audit: self.audit,
            on_block: self.on_block,
            upstreams: self.upstreams,
            follow: self.origin.is_some(),
            pin: Box::new(move |policy, lead, judgement, addresses| {
                if self.pins_fail {
                    return Err(std::io::Error::other("the map is full"));
                }
                let pins = pins_of(policy, lead, judgement, addresses);
                let pins = pins
                    .into_iter()
                    .map(|(addresses, ports)| (lead.name.to_string(), addresses, ports));
                pin.lock().unwrap().extend(pins);
                Ok(())
            }),
            origin: Box::new(move |_| self.origin),
            emit: Box::new(move |event| emit.lock().unwrap().push(event)),
        };
        (proxy, pins, events)
    }

    pub(super) fn start(mut self) -> Lab {
        let sockets = Sockets::bind().unwrap();
        let port = sockets.port();
        if let Some(origin) = &mut self.origin
            && origin.port() == 0
        {
            origin.set_port(port);
        }
        let (proxy, pins, events) = self.proxy();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(sockets, proxy, async move {
            // Ready when `stop` is dropped, too.
            drop(stopped.await);
        }));
        Lab {
            port,
            pins,
            events,
            stop,
            task,
        }
    }
}

/// What is to be pinned, addresses with the same verdict together.
pub(super) fn pins_of(
    policy: &Policy,
    lead: &Lead,
    judgement: &Judgement,
    addresses: &[IpAddr],
) -> Vec<(Vec<IpAddr>, Ports)> {
    let mut pins: Vec<(Vec<IpAddr>, Ports)> = Vec::new();
    for &address in addresses {
        let Some(ports) = lead.verdict(policy, judgement, address) else {
            continue;
        };
        match pins.iter_mut().find(|(_, known)| *known == ports) {
            Some((addresses, _)) => addresses.push(address),
            None => pins.push((vec![address], ports)),
        }
    }
    pins
}

pub(super) type Pins = Arc<Mutex<Vec<Pinned>>>;
pub(super) type Events = Arc<Mutex<Vec<Event>>>;

/// A running proxy.
pub(super) struct Lab {
    pub(super) port: u16,
    pins: Pins,
    events: Events,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Lab {
    /// Send a datagram, and give the client's port with what comes back, if anything does
    /// in as much time as clients have.
    pub(super) async fn datagram(&self, bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
        self.datagram_within(bytes, PATIENCE).await
    }

    async fn datagram_within(&self, bytes: &[u8], patience: Duration) -> Option<(u16, Vec<u8>)> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket
            .connect((Ipv4Addr::LOCALHOST, self.port))
            .await
            .unwrap();
        socket.send(bytes).await.unwrap();
        let mut buffer = vec![0; 65535];
        let length = timeout(patience, socket.recv(&mut buffer)).await.ok()?;
        buffer.truncate(length.unwrap());
        Some((socket.local_addr().unwrap().port(), buffer))
    }

    /// Whether nothing comes back.
    pub(super) async fn ignores(&self, bytes: &[u8]) -> bool {
        self.datagram_within(bytes, SOON).await.is_none()
    }

    /// Ask over UDP.
    pub(super) async fn udp(&self, query: &Message) -> Message {
        let (_, reply) = self
            .datagram(&bytes(query))
            .await
            .expect("an answer before the client gives up");
        Message::from_vec(&reply).unwrap()
    }

    pub(super) async fn tcp(&self, query: &Message) -> Message {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .await
            .unwrap();
        write_message(&mut stream, &bytes(query)).await.unwrap();
        Message::from_vec(&read_message(&mut stream).await.unwrap()).unwrap()
    }

    pub(super) async fn over(&self, transport: Transport, query: &Message) -> Message {
        if transport == Transport::Tcp {
            self.tcp(query).await
        } else {
            self.udp(query).await
        }
    }

    /// Ask over UDP, with EDNS.
    pub(super) async fn ask(&self, name: &str, record_type: RecordType) -> Message {
        self.udp(&with_edns(query(name, record_type), 1232)).await
    }

    /// What was pinned so far.
    pub(super) fn pins(&self) -> Vec<Pinned> {
        self.pins.lock().unwrap().clone()
    }

    /// The judged questions so far.
    pub(super) fn queries(&self) -> Vec<event::Query> {
        let mut queries = Vec::new();
        for event in &*self.events.lock().unwrap() {
            if let Fact::Query(query) = &event.fact {
                queries.push(query.clone());
            }
        }
        queries
    }

    /// The names and addresses learnt so far.
    pub(super) fn known(&self) -> Vec<(String, Vec<IpAddr>)> {
        let mut known = Vec::new();
        for event in &*self.events.lock().unwrap() {
            if let Fact::Known { name, addresses } = &event.fact {
                known.push((name.to_string(), addresses.clone()));
            }
        }
        known
    }

    /// End the proxy; it must have been well.
    pub(super) async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap().unwrap();
    }
}

/// The key of the only query so far.
pub(super) fn key(lab: &Lab) -> QueryKey {
    let [query] = &lab.queries()[..] else {
        panic!("not one query: {:?}", lab.queries());
    };
    query.key
}
