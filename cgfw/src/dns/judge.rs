//! What the policy says of a reply. Pure: no I/O, no clock.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use hickory_proto::rr::{RData, Record};

use super::wire::{self, Question, Reply};
use crate::pins::{Lead, Teller};
use crate::policy::{Domain, Judgement, Policy};

/// How many names one chain may have. Resolvers give up well before (unbound after 11,
/// BIND after 16), so that a longer one is no use to a client either.
const MAX_CHAIN: usize = 64;

/// A reply, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) judgement: Judgement,
    /// The aliases from the question on, in order.
    pub(super) chain: Vec<Domain>,
    /// The addresses of the question and its aliases.
    pub(super) addresses: Vec<IpAddr>,
    /// The least TTL on the chain, in seconds; `None` if there is nothing on it.
    pub(super) ttl: Option<u32>,
}

impl Finding {
    /// The question with its aliases, as it is told by one of these.
    pub(super) fn lead(&self, question: &Question, told_by: Teller) -> Lead {
        Lead {
            name: question.name.clone(),
            aliases: self.chain.clone(),
            told_by,
        }
    }

    /// The name that stands for `pins`: what was asked, or the alias that is blocked.
    pub(super) fn subject<'a>(&'a self, question: &'a Question) -> &'a Domain {
        match &self.judgement.matched {
            Some(matched) if self.judgement.is_blocked() => matched,
            _ => &question.name,
        }
    }
}

/// Why a reply cannot be judged, and is not delivered therefore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChainTooLong;

impl std::error::Error for ChainTooLong {}

impl fmt::Display for ChainTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {MAX_CHAIN} aliases in one answer")
    }
}

/// Judge the question with everything that the reply says it is an alias of.
///
/// Only the answer section counts, and of it only what can be reached from the question.
pub(super) fn judge(
    policy: &Policy,
    question: &Question,
    reply: &Reply,
) -> Result<Finding, ChainTooLong> {
    let section = Section::new(&reply.answers);
    let (chain, ttl) = section.walk(&question.name)?;
    let mut finding = Finding {
        judgement: policy.name(&question.name, &chain),
        addresses: Vec::new(),
        ttl,
        chain,
    };
    for name in std::iter::once(&question.name).chain(&finding.chain) {
        for (address, ttl) in section.addresses.get(name).into_iter().flatten() {
            if !finding.addresses.contains(address) {
                finding.addresses.push(*address);
            }
            finding.ttl = Some(finding.ttl.map_or(*ttl, |least| least.min(*ttl)));
        }
    }
    Ok(finding)
}

/// An answer section, by owner.
struct Section {
    aliases: HashMap<Domain, Vec<(Domain, u32)>>,
    /// DNAME: everything below the owner is at the same place below the target.
    redirections: Vec<(Domain, Domain, u32)>,
    addresses: HashMap<Domain, Vec<(IpAddr, u32)>>,
}

impl Section {
    fn new(answers: &[Record]) -> Self {
        let mut section = Self {
            aliases: HashMap::new(),
            redirections: Vec::new(),
            addresses: HashMap::new(),
        };
        for record in answers {
            section.add(record);
        }
        section
    }

    fn add(&mut self, record: &Record) {
        // A wire name is always a domain; were it not, no client could follow it either.
        let Ok(owner) = wire::domain(&record.name) else {
            return;
        };
        let ttl = record.ttl;
        if let Some(address) = record.data.ip_addr() {
            let addresses = self.addresses.entry(owner).or_default();
            addresses.push((address, ttl));
        } else if let RData::CNAME(target) = &record.data {
            if let Ok(target) = wire::domain(target) {
                self.aliases.entry(owner).or_default().push((target, ttl));
            }
        } else if let Some(target) = wire::dname_target(record)
            && let Ok(target) = wire::domain(&target)
        {
            self.redirections.push((owner, target, ttl));
        }
    }

    /// Every name that `start` leads to, in order, and the least TTL on the way.
    ///
    /// A zone must not have two aliases for one name, but a hostile one can: all count.
    fn walk(&self, start: &Domain) -> Result<(Vec<Domain>, Option<u32>), ChainTooLong> {
        let mut chain: Vec<Domain> = Vec::new();
        let mut least: Option<u32> = None;
        let mut next = 0;
        let mut current = start.clone();
        loop {
            for (target, ttl) in self.targets(&current) {
                least = Some(least.map_or(ttl, |least| least.min(ttl)));
                if target != *start && !chain.contains(&target) {
                    if chain.len() == MAX_CHAIN {
                        return Err(ChainTooLong);
                    }
                    chain.push(target);
                }
            }
            let Some(name) = chain.get(next) else {
                return Ok((chain, least));
            };
            current = name.clone();
            next += 1;
        }
    }

    fn targets(&self, name: &Domain) -> impl Iterator<Item = (Domain, u32)> {
        let aliases = self.aliases.get(name).into_iter().flatten().cloned();
        let redirected = self
            .redirections
            .iter()
            .filter_map(move |(owner, target, ttl)| {
                let labels = if owner.as_wire().is_empty() {
                    name.clone()
                } else {
                    name.strip_suffix(owner)?
                };
                // Too long is YXDOMAIN (RFC 6672 section 2.2): it leads nowhere.
                let moved = Domain::from_labels(labels.labels().chain(target.labels())).ok()?;
                Some((moved, *ttl))
            });
        aliases.chain(redirected)
    }
}
