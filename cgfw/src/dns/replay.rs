//! The path of a message without its I/O, for the fuzz target and its corpus.

use std::net::{Ipv4Addr, SocketAddr};

use hickory_proto::op::ResponseCode;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use super::answer::{Answer, Why, explain};
use super::handler::read_question;
use super::judge::judge;
use super::wire::Reply;
use crate::policy::Policy;

/// What a client would be told that sends `query` where the upstream answers `reply`:
/// decode, judge the question, judge the reply, encode.
///
/// `None` if the query is so broken that hickory answers or drops it by itself. Ids and
/// questions are not compared, so that a fuzzer need not guess them.
pub fn replay(policy: &Policy, query: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
    let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
    let request = Request::from_bytes(query.to_vec(), client, Protocol::Udp).ok()?;
    let answer = Answer::to(&request);
    let answer = match read_question(&request) {
        Err(code) => answer.code(code),
        Ok(question) => {
            let judgement = policy.name(&question.name, &[]);
            if judgement.is_blocked() {
                answer
                    .code(ResponseCode::NXDomain)
                    .because(Why::Blocked, &explain(judgement.decision()))
            } else {
                // The question goes upstream, so it has to be encodable.
                question.encode().ok()?;
                match Reply::decode(reply).ok().map(|reply| {
                    let finding = judge(policy, &question, &reply);
                    (reply, finding)
                }) {
                    None | Some((_, Err(_))) => answer.code(ResponseCode::ServFail),
                    Some((_, Ok(finding))) if finding.judgement.is_blocked() => answer
                        .code(ResponseCode::NXDomain)
                        .because(Why::Blocked, &explain(finding.judgement.decision())),
                    Some((reply, Ok(_))) => answer.deliver(reply),
                }
            }
        }
    };
    answer.encode(&request).ok()
}
