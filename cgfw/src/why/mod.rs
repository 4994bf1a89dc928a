/*!
`cgfw why`: what the policy says of destinations, and why.

A wiring of its own beside [`crate::run`]: it reads what a run reads and asks the matcher that
a run asks, as the caller, without rights and without making anything.
*/

mod destination;
mod json;
mod judge;
mod text;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;

use anyhow::Context as _;

use self::destination::Destination;
use self::judge::{Addresses, Known};
use crate::cli::{Format, Why};
use crate::dns::{self, Resolver, system};
use crate::formats::Style;
use crate::policy::Action;
use crate::{exit, host, sources};

/// Answer, and return the exit code.
///
/// # Errors
///
/// If a destination or the policy cannot be understood, or the answer cannot be written.
pub fn why(why: &Why) -> anyhow::Result<u8> {
    let destinations = parse(why)?;
    let system = system::read()?;
    let loaded = sources::load(&why.policy)?;
    for note in &loaded.notes {
        exit::complain(note);
    }
    let said = Said {
        default: loaded.default.is_some(),
        direct_ip: loaded.direct_ip.is_some(),
    };
    let (own, on_link) = host::addresses().context("cannot list the addresses of this host")?;
    let policy = loaded.into_policy(system.search).with_host(own, on_link);
    let mut known = Known {
        addresses: Addresses::default(),
        hosts: system.hosts,
        resolver: why.resolve.then(|| {
            Arc::new(Resolver::new(if why.upstreams.is_empty() {
                system.servers
            } else {
                why.upstreams.clone()
            }))
        }),
        policy: Arc::new(policy),
    };
    let style = Style {
        color: why
            .color
            .is_on(io::stdout().is_terminal(), host::no_color()),
        width: None,
    };
    let events = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    events.block_on(async {
        known.look_around().await;
        let mut code = 0;
        for destination in &destinations {
            let answer = known.answer(destination).await;
            if answer.verdict == Action::Block {
                code = exit::NO;
            }
            let told = match why.format {
                Format::Text => text::of(destination, &answer, &known, said, style).into_bytes(),
                Format::Json => json::of(destination, &answer, &known),
            };
            io::stdout()
                .write_all(&told)
                .context("cannot write the answer")?;
        }
        Ok(code)
    })
}

/// Which options were given outright, as argument or in a file.
#[derive(Clone, Copy, Debug)]
struct Said {
    default: bool,
    direct_ip: bool,
}

fn parse(why: &Why) -> anyhow::Result<Vec<Destination>> {
    why.destinations
        .iter()
        .map(|typed| {
            let text = typed
                .to_str()
                .context("not UTF-8; write other octets of a name as \\DDD");
            text.and_then(Destination::parse)
                .with_context(|| format!("`{}` is no destination", typed.to_string_lossy()))
        })
        .collect()
}

impl Known {
    /// Learn what a run knows before anybody asks for anything: the addresses in /etc/hosts
    /// and, if names may be looked up, those of blocked names.
    async fn look_around(&mut self) {
        for (name, addresses) in dns::known_hosts(&self.policy, &self.hosts) {
            self.addresses.add_host(&self.policy, name, &addresses);
        }
        let Some(resolver) = &self.resolver else {
            return;
        };
        for (name, found) in Arc::clone(resolver)
            .blocked_names(Arc::clone(&self.policy))
            .await
        {
            match found {
                Ok(found) => self.addresses.add_found(&self.policy, &name, &found),
                Err(error) => exit::complain(&format!(
                    "cannot look up the blocked name {name}, so that its addresses are not known \
                     here: {error:#}"
                )),
            }
        }
    }
}
