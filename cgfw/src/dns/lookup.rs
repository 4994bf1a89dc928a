//! One name, looked up and judged as the proxy would, for those who explain.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use tokio::task::JoinSet;

use super::judge::judge;
use super::known::AT_ONCE;
use super::upstream::{Upstreams, ask_whole};
use super::wire::{Question, rcode_mnemonic};
use crate::policy::{Domain, Judgement, Policy};

/// What servers said of a name, and the policy of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The server that answered.
    pub upstream: SocketAddr,
    /// As its mnemonic: `NOERROR`, `NXDOMAIN`.
    pub rcode: String,
    /// On the name with all of its aliases.
    pub judgement: Judgement,
    /// The aliases from the name on, in order.
    pub chain: Vec<Domain>,
    /// The addresses of the name and its aliases.
    pub addresses: Vec<IpAddr>,
}

/// Asks servers for addresses.
#[derive(Debug)]
pub struct Resolver {
    upstreams: Upstreams,
}

impl Resolver {
    /// `servers` in the order of preference.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            upstreams: Upstreams::new(servers),
        }
    }

    /// Look up the IPv6 or else the IPv4 addresses of `name`.
    ///
    /// # Errors
    ///
    /// If no server answers in time, or what one answers cannot be judged.
    pub async fn look_up(
        &self,
        policy: &Policy,
        name: &Domain,
        ipv6: bool,
    ) -> anyhow::Result<Found> {
        let record_type = if ipv6 {
            RecordType::AAAA
        } else {
            RecordType::A
        };
        let question = Question::own(name, record_type)?;
        let (upstream, reply) = ask_whole(&self.upstreams, &question).await?;
        let finding = judge(policy, &question, &reply)?;
        Ok(Found {
            upstream,
            rcode: rcode_mnemonic(reply.metadata.response_code),
            judgement: finding.judgement,
            chain: finding.chain,
            addresses: finding.addresses,
        })
    }
}

impl Resolver {
    /// Look up the names that a run keeps known because they are blocked.
    pub async fn blocked_names(
        self: Arc<Self>,
        policy: Arc<Policy>,
    ) -> Vec<(Domain, anyhow::Result<Found>)> {
        let names: BTreeSet<Domain> = policy.blocked_names().cloned().collect();
        let mut questions = names
            .into_iter()
            .flat_map(|name| [(name.clone(), true), (name, false)]);
        let mut tasks = JoinSet::new();
        let mut found = Vec::new();
        loop {
            while tasks.len() < AT_ONCE
                && let Some((name, ipv6)) = questions.next()
            {
                let (resolver, policy) = (Arc::clone(&self), Arc::clone(&policy));
                tasks.spawn(async move {
                    let found = resolver.look_up(&policy, &name, ipv6).await;
                    (name, found)
                });
            }
            match tasks.join_next().await {
                Some(Ok(answer)) => found.push(answer),
                // Nobody cancels them, so that it is a panic, which the caller is to have.
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => return found,
            }
        }
    }
}
