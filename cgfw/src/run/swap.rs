//! One policy in the place of another, between two events.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::Run;
use super::changes::{Change, Outcome, Prepared};
use super::prepare::unresolved;
use crate::bpf::{Generation, Verdicts};
use crate::dns::{self, known_hosts};
use crate::event::{Event, Fact};
use crate::pins::{Lead, Pins};
use crate::policy::{Judgement, Policy};
use crate::report::{NewPolicy, PolicyChange};

/// What is known of addresses, and what the kernel was told of it.
#[derive(Clone)]
pub(super) struct Addresses(Arc<Mutex<(Pins, Verdicts)>>);

impl Addresses {
    pub(super) fn new(pins: Pins, verdicts: Verdicts) -> Self {
        Self(Arc::new(Mutex::new((pins, verdicts))))
    }

    /// What the proxy calls before it answers: merge, and tell the kernel what is news to it.
    pub(super) fn pinner(&self) -> dns::Pin {
        let this = self.clone();
        Box::new(
            move |policy: &Policy, lead: &Lead, judgement: &Judgement, addresses: &[IpAddr]| {
                let (pins, verdicts) = &mut *this.lock();
                let news = pins
                    .learn(policy, lead, judgement, addresses)
                    .map_err(|error| io::Error::new(io::ErrorKind::StorageFull, error))?;
                for (at, (address, ports)) in news.iter().enumerate() {
                    if let Err(error) = verdicts.set_address(*address, ports) {
                        for (address, _) in &news[at..] {
                            pins.forget(*address);
                        }
                        return Err(error);
                    }
                }
                Ok(())
            },
        )
    }

    /// Put `next` in force, with what is known of addresses as `policy` judges it. Returns the
    /// generation that is not in force then.
    fn replace(&self, policy: &Policy, next: Generation) -> (Generation, io::Result<()>) {
        let (pins, verdicts) = &mut *self.lock();
        for address in policy.own_addresses() {
            if let Err(error) = verdicts.set_own(address) {
                return (next, Err(error));
            }
        }
        let judged = pins.under(policy);
        let addresses = judged.iter().map(|(address, ports)| (*address, ports));
        let (unused, done) = verdicts.replace(next, addresses, unresolved(policy));
        if done.is_ok() {
            pins.set(judged);
        }
        (unused, done)
    }

    fn lock(&self) -> MutexGuard<'_, (Pins, Verdicts)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run<'_> {
    /// Put a policy in force, or say why not, in which case the former one stays.
    pub(super) fn follow(&mut self, change: Change) {
        match change {
            Change::Policy(prepared) => self.replace_policy(*prepared),
            Change::Bad(error) => self.books.report.policy(&PolicyChange {
                time: SystemTime::now(),
                outcome: Err(&error),
            }),
        }
    }

    /// Nothing is waited for here, so that neither an answer nor an event comes in between.
    fn replace_policy(&mut self, prepared: Prepared) {
        let Prepared {
            policy,
            generation,
            origins,
            notes,
        } = prepared;
        // What the kernel has seen was judged by the former policy.
        self.books.enter_all();
        let (unused, replaced) = self.addresses.replace(&policy, generation);
        if replaced.is_ok() {
            let time = SystemTime::now();
            self.policy.send_replace(Arc::clone(&policy));
            self.books.ledger.replace_policy(Arc::clone(&policy));
            for (name, addresses) in known_hosts(&policy, &self.hosts) {
                let fact = Fact::Known { name, addresses };
                self.books.ledger.record(Event { time, fact });
            }
            self.books.report.policy(&PolicyChange {
                time,
                outcome: Ok(NewPolicy {
                    policy: &policy,
                    rules: &origins.rules,
                    digest: &origins.digest(),
                }),
            });
            for note in &notes {
                self.books.report.warn(note);
            }
        }
        if let Some(changes) = &self.changes {
            changes.settle(Outcome { unused, replaced });
        }
    }
}
