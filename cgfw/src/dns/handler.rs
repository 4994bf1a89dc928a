//! One question: judged, asked upstream, judged again, answered and reported.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Header, HeaderCounts, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::BinEncodable as _;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::Proxy;
use super::answer::{Answer, Why, address_record, bypasses_pins, explain};
use super::judge::judge;
use super::synthetic::Synthetic;
#[cfg(doc)]
use super::tcp;
use super::upstream::{self, OVERALL, Upstreams};
use super::wire::{Question, Reply, rcode_mnemonic, type_mnemonic};
use crate::event::{Event, Fact, Query, QueryKey, Verdict};
use crate::pins::{Lead, Teller};
use crate::policy::{Action, Domain, Judgement, OnBlock, Policy, Rule, Transport};

/// How many questions may be on their way at once. The clients of one run have a handful;
/// more than this is a loop or an attack, and is answered with SERVFAIL at once.
const MAX_QUESTIONS: usize = 4096;
/// How many upstream sockets may be open at once; with [`super::tcp::MAX_CONNECTIONS`] well below
/// the limit of open files that cgfw gives itself. Further questions wait for their turn.
const MAX_SOCKETS: usize = 1024;
/// Synthetic addresses last the whole run, yet nobody should remember them for longer.
const SYNTHETIC_TTL: u32 = 5;

/// Everything that answering needs; shared by all sockets.
pub(super) struct Shared {
    pub(super) proxy: Proxy,
    pub(super) upstreams: Upstreams,
    /// The port that the proxy itself listens on.
    port: u16,
    synthetic: Synthetic,
    pub(super) questions: Semaphore,
    pub(super) sockets: Semaphore,
    said_cannot_pin: AtomicBool,
}

impl Shared {
    pub(super) fn new(proxy: Proxy, port: u16) -> Self {
        Self {
            upstreams: Upstreams::new(proxy.upstreams.clone()),
            proxy,
            port,
            synthetic: Synthetic::default(),
            questions: Semaphore::new(MAX_QUESTIONS),
            sockets: Semaphore::new(MAX_SOCKETS),
            said_cannot_pin: AtomicBool::new(false),
        }
    }
}

/// What hickory calls for each datagram.
#[derive(Clone)]
pub(super) struct Handler(pub(super) Arc<Shared>);

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        response: R,
    ) -> ResponseInfo {
        let answer = self.0.answer(request, Transport::Udp).await;
        answer
            .send(request, response)
            .await
            .unwrap_or_else(|error| {
                // The client has gone: nobody is left who could be told.
                tracing::debug!(%error, client = %request.src(), "cannot send a DNS answer");
                Header {
                    metadata: request.metadata,
                    counts: HeaderCounts::default(),
                }
                .into()
            })
    }
}

impl Shared {
    /// The answer to a message, which has been reported once this returns.
    pub(super) async fn answer(&self, request: &Request, transport: Transport) -> Answer {
        let time = SystemTime::now();
        let start = Instant::now();
        let question = match read_question(request) {
            Ok(question) => question,
            Err(code) => return Answer::to(request).code(code),
        };
        let mut fact = Query {
            key: QueryKey {
                transport,
                ipv6: request.src().is_ipv6(),
                port: request.src().port(),
                id: match transport {
                    Transport::Tcp => 0,
                    Transport::Udp | Transport::Other => request.metadata.id,
                },
            },
            qname: question.name.clone(),
            qtype: type_mnemonic(question.query.query_type()),
            verdict: Verdict::Allowed,
            rule: None,
            matched: None,
            cname_chain: Vec::new(),
            rcode: String::new(),
            answers: Vec::new(),
            upstream: None,
            latency: Duration::ZERO,
        };
        let answer = self.decide(request, &question, &mut fact).await;
        fact.rcode = rcode_mnemonic(answer.response_code());
        fact.latency = start.elapsed();
        (self.proxy.emit)(Event {
            time,
            fact: Fact::Query(fact),
        });
        answer
    }

    /// Judge the question and, unless that settles it, what the upstream says.
    async fn decide(&self, request: &Request, question: &Question, fact: &mut Query) -> Answer {
        let policy = self.proxy.policy();
        let judgement = policy.name(&question.name, &[]);
        let blocked = judgement.is_blocked();
        self.note(fact, &judgement);
        if blocked && !self.proxy.audit {
            return self.refuse(&policy, request, question, &judgement, fact);
        }
        if let Some(answer) = settle(request, question) {
            return answer;
        }
        let origin = match self.origin(&policy, fact) {
            Ok(origin) => origin,
            Err(rule) => {
                let text = format!("this name server is blocked by {}", rule.cite());
                return Answer::to(request)
                    .code(ResponseCode::Refused)
                    .because(Why::Blocked, &text);
            }
        };
        match self.ask(origin, question, fact).await {
            Ok(reply) => self.judge_reply(request, question, reply, (&policy, origin), fact),
            Err((why, text)) => servfail(request, why, &text),
        }
    }

    fn note(&self, fact: &mut Query, judgement: &Judgement) {
        if judgement.is_blocked() {
            fact.verdict = self.blocked();
        }
        fact.rule.clone_from(&judgement.rule);
        fact.matched.clone_from(&judgement.matched);
    }

    fn blocked(&self) -> Verdict {
        if self.proxy.audit {
            Verdict::WouldBlock
        } else {
            Verdict::Blocked
        }
    }

    /// The server that the child had chosen, if that one is to be asked; or the rule that
    /// forbids it.
    fn origin(&self, policy: &Policy, fact: &mut Query) -> Result<Option<SocketAddr>, Arc<Rule>> {
        if !self.proxy.follow || policy.default_action() == Action::Block {
            return Ok(None);
        }
        let Some(server) = (self.proxy.origin)(&fact.key) else {
            return Ok(None);
        };
        // A client that asked the proxy outright must not make it ask itself.
        if server.ip().to_canonical().is_loopback() && server.port() == self.port {
            return Ok(None);
        }
        let Some(judgement) = policy.address(server.ip()) else {
            return Ok(Some(server));
        };
        let decision = judgement.at(fact.key.transport, server.port());
        // Without a rule on this very port it is a name server like any other.
        let (Action::Block, Some(rule)) = (decision.action, decision.rule) else {
            return Ok(Some(server));
        };
        fact.verdict = self.blocked();
        fact.rule = Some(Arc::clone(rule));
        if self.proxy.audit {
            return Ok(Some(server));
        }
        Err(Arc::clone(rule))
    }

    async fn ask(
        &self,
        origin: Option<SocketAddr>,
        question: &Question,
        fact: &mut Query,
    ) -> Result<Reply, (Why, String)> {
        let Ok(_slot) = self.questions.try_acquire() else {
            return Err((
                Why::Other,
                format!("more than {MAX_QUESTIONS} questions at once"),
            ));
        };
        let transport = fact.key.transport;
        let asking = async {
            // Never closed, so that acquiring cannot fail.
            let _socket = self.sockets.acquire().await;
            match origin {
                Some(server) => upstream::ask(&[server], question, transport).await,
                None => self.upstreams.ask(question, transport).await,
            }
        };
        // A little longer than `ask` may take: this bounds the waiting before it.
        let patience = OVERALL + Duration::from_millis(250);
        match timeout(patience, asking).await {
            Ok(Ok((server, reply))) => {
                fact.upstream = Some(server);
                Ok(reply)
            }
            Ok(Err(failure)) => Err((Why::NetworkError, failure.to_string())),
            Err(_elapsed) => Err((
                Why::Other,
                format!("more than {MAX_SOCKETS} questions are waiting for an answer"),
            )),
        }
    }

    /// Pin what the reply says, then deliver or refuse it. It was asked for under a policy that
    /// may have been replaced since, and then the new one decides everything.
    fn judge_reply(
        &self,
        request: &Request,
        question: &Question,
        reply: Reply,
        (asked_under, origin): (&Arc<Policy>, Option<SocketAddr>),
        fact: &mut Query,
    ) -> Answer {
        let policy = self.proxy.policy();
        let chosen = origin.filter(|server| !self.proxy.upstreams.contains(server));
        if !Arc::ptr_eq(&policy, asked_under) {
            (fact.verdict, fact.rule, fact.matched) = (Verdict::Allowed, None, None);
            if chosen.is_some() && policy.default_action() == Action::Block {
                let text = "the policy has changed, and with it the name servers; ask again";
                return servfail(request, Why::Other, text);
            }
        }
        let finding = match judge(&policy, question, &reply) {
            Ok(finding) => finding,
            Err(error) => return servfail(request, Why::Other, &error.to_string()),
        };
        let told_by = match chosen {
            Some(_) => Teller::OtherServer,
            None => Teller::Server,
        };
        fact.cname_chain.clone_from(&finding.chain);
        let blocked = finding.judgement.is_blocked();
        if fact.verdict == Verdict::Allowed {
            self.note(fact, &finding.judgement);
        }
        let lead = finding.lead(question, told_by);
        let pinned = (self.proxy.pin)(&policy, &lead, &finding.judgement, &finding.addresses);
        if blocked && !self.proxy.audit {
            if let Err(error) = pinned {
                self.cannot_pin(&error, finding.subject(question));
            }
            // Whoever connects to these addresses all the same is refused by this name.
            (self.proxy.emit)(Event {
                time: SystemTime::now(),
                fact: Fact::Known {
                    name: finding.subject(question).clone(),
                    addresses: finding.addresses,
                },
            });
            return self.refuse(&policy, request, question, &finding.judgement, fact);
        }
        if let Err(error) = pinned {
            self.cannot_pin(&error, &question.name);
            return servfail(
                request,
                Why::Other,
                &format!("cannot permit the addresses: {error}"),
            );
        }
        fact.answers = finding.addresses;
        Answer::to(request).deliver(reply)
    }

    /// Say so once: when the kernel's map is full, every new name is such a failure.
    fn cannot_pin(&self, error: &std::io::Error, name: &Domain) {
        if self.said_cannot_pin.swap(true, Ordering::Relaxed) {
            tracing::debug!(%error, %name, "cannot pin");
        } else {
            tracing::error!(%error, %name, "cannot pin the addresses of a name");
        }
    }

    /// Make a blocked name look as `--on-block` says.
    fn refuse(
        &self,
        policy: &Policy,
        request: &Request,
        question: &Question,
        judgement: &Judgement,
        fact: &mut Query,
    ) -> Answer {
        let answer = Answer::to(request).because(Why::Blocked, &explain(judgement));
        if self.proxy.on_block == OnBlock::NxDomain {
            return answer.code(ResponseCode::NXDomain);
        }
        let query = &question.query;
        if !query.query_type().is_ip_addr() || query.query_class() != DNSClass::IN {
            return answer;
        }
        let ipv6 = query.query_type() == RecordType::AAAA;
        let Some(address) = self.synthetic.address(&question.name, ipv6) else {
            return answer.code(ResponseCode::NXDomain);
        };
        let lead = Lead {
            name: question.name.clone(),
            aliases: Vec::new(),
            told_by: Teller::Synthetic,
        };
        if let Err(error) = (self.proxy.pin)(policy, &lead, judgement, &[address]) {
            self.cannot_pin(&error, &question.name);
            return answer.code(ResponseCode::ServFail);
        }
        fact.answers = vec![address];
        answer.record(address_record(
            question.query.name(),
            SYNTHETIC_TTL,
            address,
        ))
    }
}

/// The one question of a message, or the response code that it deserves.
pub(super) fn read_question(request: &Request) -> Result<Question, ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    // RFC 9619: a QUERY has exactly one question.
    let [query] = request.queries.queries() else {
        return Err(ResponseCode::FormErr);
    };
    // Before the first name there is nothing but the header that one could point to, and
    // in the answer, which repeats the octets of the question, the header is another one.
    let is_compressed =
        query.original().to_bytes().ok().as_deref() != Some(request.queries.as_bytes());
    if is_compressed {
        return Err(ResponseCode::FormErr);
    }
    Question::new(
        query.original().clone(),
        request.metadata,
        request.edns.as_ref(),
    )
    .map_err(|_not_a_domain| ResponseCode::FormErr)
}

/// Answer what is not asked upstream, even where the name is permitted.
fn settle(request: &Request, question: &Question) -> Option<Answer> {
    let answer = Answer::to(request);
    // RFC 6891 section 6.1.3; the OPT record of the answer says which version is known.
    if request.version() > 0 {
        return Some(answer.code(ResponseCode::BADVERS));
    }
    let query_type = question.query.query_type();
    if bypasses_pins(query_type) {
        return Some(answer);
    }
    if matches!(query_type, RecordType::AXFR | RecordType::IXFR) {
        // Their answer may be many messages, of which only the first would be passed on.
        let text = "zone transfers do not pass the proxy";
        return Some(
            answer
                .code(ResponseCode::NotImp)
                .because(Why::NotSupported, text),
        );
    }
    None
}

fn servfail(request: &Request, why: Why, text: &str) -> Answer {
    Answer::to(request)
        .code(ResponseCode::ServFail)
        .because(why, text)
}
