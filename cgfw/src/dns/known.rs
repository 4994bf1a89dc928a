//! Addresses of names that the child did not ask for: those of block rules, resolved in
//! the background, and those in /etc/hosts.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use hickory_proto::rr::RecordType;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Proxy;
use super::handler::Shared;
use super::judge::judge;
use super::upstream::ask_whole;
use super::wire::Question;
use crate::event::{Event, Fact};
use crate::pins::{Lead, Teller};
use crate::policy::{Domain, Policy};

/// How many names are resolved at once, so that a long list does not flood the upstream.
pub(super) const AT_ONCE: usize = 8;
/// No name is asked for more often, however short its TTL; nor after a failure.
pub(super) const FLOOR: Duration = Duration::from_secs(30);
/// How long it is taken to have no address, where the answer says no TTL.
const NEGATIVE: Duration = Duration::from_mins(5);
/// Nor less often, so that an address that is new before its time is found.
const CEILING: Duration = Duration::from_hours(1);

impl Proxy {
    /// Pin the names of /etc/hosts, because the child's resolver takes them from there and
    /// never asks.
    pub fn pin_hosts(&self, hosts: &[(Domain, Vec<IpAddr>)]) -> io::Result<()> {
        let policy = self.policy();
        for (name, addresses) in hosts {
            let (lead, judgement) = (Lead::of_host(name.clone()), policy.name(name, &[]));
            (self.pin)(&policy, &lead, &judgement, addresses)?;
        }
        for (name, addresses) in known_hosts(&policy, hosts) {
            self.emit_known(name, addresses);
        }
        Ok(())
    }

    fn emit_known(&self, name: Domain, addresses: Vec<IpAddr>) {
        (self.emit)(Event {
            time: SystemTime::now(),
            fact: Fact::Known { name, addresses },
        });
    }
}

/// The names of /etc/hosts that are judged differently from what the default says, with the
/// addresses that are pinned for that.
pub fn known_hosts(
    policy: &Policy,
    hosts: &[(Domain, Vec<IpAddr>)],
) -> impl Iterator<Item = (Domain, Vec<IpAddr>)> {
    hosts.iter().filter_map(|(name, addresses)| {
        let (lead, judgement) = (Lead::of_host(name.clone()), policy.name(name, &[]));
        let pinned = |address: &&IpAddr| lead.verdict(policy, &judgement, **address).is_some();
        let addresses: Vec<IpAddr> = addresses.iter().filter(pinned).copied().collect();
        (!addresses.is_empty()).then(|| (name.clone(), addresses))
    })
}

/// A name of a block rule, and what is known of it already.
#[derive(Debug)]
struct Watched {
    name: Domain,
    addresses: BTreeSet<IpAddr>,
}

/// Keep the addresses of blocked names known, for as long as the run lasts; `floor` is how
/// often one name may be asked for.
pub(super) async fn refresh(shared: Arc<Shared>, floor: Duration) -> Infallible {
    let mut policy = shared.proxy.policy.clone();
    let mut names: BTreeSet<Domain> = BTreeSet::new();
    let mut queue: BinaryHeap<Reverse<Due>> = BinaryHeap::new();
    let mut tasks: JoinSet<Due> = JoinSet::new();
    let mut changes = true;
    policy.mark_changed();
    loop {
        let next = queue.peek().map(|Reverse(due)| due.at);
        tokio::select! {
            changed = policy.changed(), if changes => {
                // Nobody is left who could change it.
                changes = changed.is_ok();
                let blocked = policy.borrow_and_update().blocked_names().cloned().collect();
                let before = std::mem::replace(&mut names, blocked);
                queue.retain(|Reverse(due)| names.contains(&due.watched.name));
                queue.extend(names.difference(&before).cloned().map(Due::now).map(Reverse));
            }
            () = wait_until(next), if tasks.len() < AT_ONCE => {
                if let Some(Reverse(due)) = queue.pop() {
                    tasks.spawn(resolve(Arc::clone(&shared), due.watched, floor));
                }
            }
            Some(done) = tasks.join_next() => match done {
                // Or it is not blocked any more, or again, and waits already.
                Ok(due) if names.contains(&due.watched.name)
                    && !queue.iter().any(|Reverse(other)| other.watched.name == due.watched.name) =>
                {
                    queue.push(Reverse(due));
                }
                Ok(_not_watched) => {}
                Err(error) => tracing::error!(%error, "a blocked name is not watched any more"),
            },
        }
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Resolve a name once and say when it is due again.
async fn resolve(shared: Arc<Shared>, mut watched: Watched, floor: Duration) -> Due {
    let mut pause = CEILING;
    for record_type in [RecordType::A, RecordType::AAAA] {
        pause = pause.min(
            learn(&shared, &mut watched, record_type)
                .await
                .unwrap_or_else(|error| {
                    let name = &watched.name;
                    tracing::debug!(error = format!("{error:#}"), %name, "cannot learn the addresses of a blocked name");
                    floor
                }),
        );
    }
    Due {
        at: Instant::now() + pause.max(floor),
        watched,
    }
}

/// Pin what is new, and say for how long it holds.
async fn learn(
    shared: &Shared,
    watched: &mut Watched,
    record_type: RecordType,
) -> anyhow::Result<Duration> {
    let question = Question::own(&watched.name, record_type)?;
    let (_, reply) = ask_whole(&shared.upstreams, &question).await?;
    let proxy = &shared.proxy;
    let policy = proxy.policy();
    let finding = judge(&policy, &question, &reply)?;
    let lead = finding.lead(&question, Teller::Server);
    let mut addresses = finding.addresses;
    addresses.retain(|address| !watched.addresses.contains(address));
    if !addresses.is_empty() {
        (proxy.pin)(&policy, &lead, &finding.judgement, &addresses)
            .context("cannot pin its addresses")?;
        watched.addresses.extend(&addresses);
        addresses.retain(|address| {
            lead.verdict(&policy, &finding.judgement, *address)
                .is_some()
        });
        if !addresses.is_empty() {
            proxy.emit_known(watched.name.clone(), addresses);
        }
    }
    let ttl = finding.ttl.map(|ttl| Duration::from_secs(ttl.into()));
    Ok(ttl.unwrap_or(NEGATIVE))
}

/// Ordered by time alone.
#[derive(Debug)]
struct Due {
    at: Instant,
    watched: Watched,
}

impl Due {
    fn now(name: Domain) -> Self {
        Self {
            at: Instant::now(),
            watched: Watched {
                name,
                addresses: BTreeSet::new(),
            },
        }
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}
