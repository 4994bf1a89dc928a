/*!
The kernel side, seen from user space: load, attach, tell it verdicts, read its records.

It knows addresses and no names. [`Filter`] is the attachment, [`Verdicts`] what is
written, [`Acts`] what is read, [`Origins`] where redirected queries were going.
*/

mod btf;
mod load;
mod memlock;
mod offsets;
mod records;
mod syscall;
mod verdicts;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use aya::maps::{CgroupArray, Map, MapData, PerCpuArray, PerCpuHashMap, RingBuf};
use cgfw_common::{ALLOW, BLOCK, COUNTER_LOST, Config, Endpoint, Offsets, SeenKey, Traffic};
use nix::time::{ClockId, clock_gettime};

use self::load::LoadedProgram;
use self::records::Decoder;
pub use self::records::decode;
use self::verdicts::Profiles;
pub use self::verdicts::{Generation, Generations, Verdicts};
use crate::event::{Event, Fact, QueryKey};
use crate::policy::{Action, Transport};

/// What the programs are told when they are loaded.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one switch of the programs"
)]
pub struct Settings {
    /// Where the DNS proxy listens, on 127.0.0.1 and ::1.
    pub proxy_port: u16,
    /// The verdict on addresses of which the maps say nothing.
    pub unresolved: Action,
    /// How many networks will be set.
    pub networks: usize,
    /// Whether the policy can change while the programs run.
    pub live: bool,
    pub audit: bool,
    /// Refused packets vanish instead of failing.
    pub vanish: bool,
    /// Listeners of others on this host are refused.
    pub strict: bool,
    /// The id of the cgroup that the programs are going to be attached to.
    pub cgroup: u64,
    /// Have the programs say what they do.
    pub debug: bool,
}

/// The programs, attached to one cgroup until the cgroup or [`Filter::detach`] ends it.
pub struct Filter {
    programs: Vec<LoadedProgram>,
    /// What observes the whole host, as long as it is held.
    tracepoints: Vec<OwnedFd>,
    /// The LSM programs of `--strict`, until they are attached.
    guards: anyhow::Result<Vec<LoadedProgram>>,
    /// What observes unix sockets before 6.7, likewise.
    watchers: anyhow::Result<Vec<LoadedProgram>>,
    /// Tells the programs which cgroup is that of the run.
    cgroup: CgroupArray<MapData>,
    /// Emptied by the kernel when nobody holds it any more.
    _tail_calls: MapData,
    /// What this kernel cannot tell, if anything: a sentence for the user.
    pub limitation: Option<String>,
}

/// What the loaded programs share with user space.
pub struct Channels {
    pub verdicts: Verdicts,
    /// If [`Settings::live`].
    pub generations: Option<Generations>,
    pub acts: Acts,
    pub origins: Origins,
    /// The programs' own debug lines, if [`Settings::debug`].
    pub log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

/// Load the programs with everything that this kernel supports.
pub fn load(settings: Settings) -> anyhow::Result<(Filter, Channels)> {
    let layout = offsets::read();
    let functions = layout.map(|layout| layout.functions).unwrap_or_default();
    let level = if settings.debug { u8::MAX } else { 0 };
    let networks = u32::try_from(settings.networks).context("too many networks")?;
    let mut first_failure = None;
    for (set_retval, offsets) in attempts(layout.map(|layout| layout.offsets)) {
        let config = config(settings, set_retval, offsets);
        match memlock::lifted(|| load::load(&config, networks, &functions, level)) {
            Ok(mut loaded) => {
                let tail_calls = take(&mut loaded.maps, "WALK")?;
                let cgroup = Map::CgroupArray(take(&mut loaded.maps, "CGROUP")?).try_into()?;
                let channels = channels(loaded.maps, settings, &loaded.programs)?;
                let filter = Filter {
                    programs: loaded.programs,
                    tracepoints: Vec::new(),
                    guards: loaded.guards,
                    watchers: loaded.watchers,
                    cgroup,
                    _tail_calls: tail_calls,
                    limitation: limitation(offsets, first_failure),
                };
                return Ok((filter, channels));
            }
            Err(error) if !is_refusal(&error) => return Err(error),
            Err(error) => {
                tracing::debug!("{error:#}");
                first_failure = first_failure.or(Some(error));
            }
        }
    }
    Err(first_failure.unwrap_or_else(|| anyhow!("no way to load the eBPF programs was tried")))
}

impl Filter {
    /// Attach every program. From here on, what is in the cgroup is filtered.
    pub fn attach(&mut self, cgroup: BorrowedFd<'_>) -> anyhow::Result<()> {
        self.cgroup
            .set(0, cgroup, 0)
            .context("cannot tell the eBPF programs their cgroup")?;
        for program in &self.programs {
            self.tracepoints.extend(program.attach(cgroup)?);
        }
        // The start line says whether unix sockets are seen.
        if let Err(error) = self.watch(cgroup) {
            tracing::debug!("cannot watch unix sockets: {error:#}");
        }
        Ok(())
    }

    fn watch(&mut self, cgroup: BorrowedFd<'_>) -> anyhow::Result<()> {
        let watchers = std::mem::replace(&mut self.watchers, Ok(Vec::new()))?;
        let mut held = Vec::new();
        for watcher in &watchers {
            held.extend(watcher.attach(cgroup)?);
        }
        self.tracepoints.extend(held);
        self.programs.extend(watchers);
        Ok(())
    }

    /// Attach the LSM programs, too, which refuse unix sockets of others and sockets that
    /// others pass on, and keep them if they pass the trial: that a kernel takes them does
    /// not mean that it runs them. An error is the reason why there are none.
    pub fn guard(
        &mut self,
        cgroup: BorrowedFd<'_>,
        trial: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let guards = std::mem::replace(&mut self.guards, Ok(Vec::new()))
            .inspect_err(|error| tracing::debug!("{error:#}"))
            .map_err(|error| anyhow!("the kernel does not take them: {}", error.root_cause()))?;
        let mut attached = Vec::new();
        let passed = guards
            .into_iter()
            .try_for_each(|guard| {
                guard.attach(cgroup)?;
                attached.push(guard);
                Ok(())
            })
            .and_then(|()| trial());
        if passed.is_ok() {
            self.programs.extend(attached);
        } else {
            for guard in &attached {
                guard.detach(cgroup).context("cannot detach it again")?;
            }
        }
        passed
    }

    /// The programs by their hooks.
    pub fn hooks(&self) -> impl Iterator<Item = &str> {
        self.programs.iter().filter_map(LoadedProgram::hook)
    }

    /// Whether what is asked of unix sockets is seen.
    pub fn sees_unix_sockets(&self) -> bool {
        self.programs.iter().any(LoadedProgram::is_on_unix_sockets)
    }

    /// Detach every program, after which nothing is filtered.
    pub fn detach(&self, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        self.programs
            .iter()
            .try_for_each(|program| program.detach(cgroup))
    }
}

/// The ways to load, the best first: without bpf_set_retval (before 6.1), without
/// reading kernel memory (lockdown), without both.
fn attempts(offsets: Option<Offsets>) -> impl Iterator<Item = (bool, Option<Offsets>)> {
    let without = offsets.is_some().then_some(None);
    [Some(offsets), without]
        .into_iter()
        .flatten()
        .flat_map(|offsets| [(true, offsets), (false, offsets)])
}

/// Whether the verifier said no, so that programs that ask for less may be let in. Other
/// errors, such as too many open files, say nothing about the kernel.
fn is_refusal(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    let number = error.and_then(io::Error::raw_os_error);
    matches!(number, Some(libc::EINVAL | libc::EACCES))
}

fn config(settings: Settings, set_retval: bool, offsets: Option<Offsets>) -> Config {
    Config {
        proxy_port: settings.proxy_port.into(),
        unresolved: match settings.unresolved {
            Action::Allow => ALLOW,
            Action::Block => BLOCK,
        },
        networks: (settings.live || settings.networks > 0).into(),
        audit: settings.audit.into(),
        vanish: settings.vanish.into(),
        set_retval: set_retval.into(),
        errno: libc::ECONNREFUSED.cast_unsigned(),
        strict: settings.strict.into(),
        supervisor: std::process::id(),
        live: settings.live.into(),
        offsets: offsets.unwrap_or_default(),
        cgroup: settings.cgroup,
    }
}

fn limitation(offsets: Option<Offsets>, failure: Option<anyhow::Error>) -> Option<String> {
    if offsets.is_some() {
        return None;
    }
    let reason = match failure {
        Some(failure) => format!("the kernel does not let eBPF read its memory ({failure:#})"),
        None => format!("{} cannot be used", offsets::VMLINUX_BTF),
    };
    Some(format!(
        "processes cannot be named: {reason}; the filter itself is complete"
    ))
}

/// A program that explains what it does, at `-vvv`.
const TALKER: &str = "connect4";

fn channels(
    mut maps: HashMap<String, MapData>,
    settings: Settings,
    programs: &[LoadedProgram],
) -> anyhow::Result<Channels> {
    let mut take = |name| take(&mut maps, name);
    let monotonic = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    let log = settings
        .debug
        .then(|| {
            // Any that writes such lines has their map.
            let mut programs = programs.iter();
            let talker = programs.find(|program| program.hook() == Some(TALKER));
            talker.with_context(|| format!("{TALKER} is not loaded"))
        })
        .transpose()?
        .map(|program| anyhow::Ok(aya_log::EbpfLogger::init_from_id(program.id()?)?))
        .transpose()
        .context("cannot read the debug lines of the eBPF programs")?;
    let profiles = Arc::new(Profiles {
        ports: take("PORTS")?,
        numbers: Mutex::default(),
    });
    let generations = Generations {
        addresses: take("ADDRESSES_BY_SLOT")?,
        networks: take("NETWORKS_BY_SLOT")?,
        profiles: Arc::clone(&profiles),
        free: Some(1),
    };
    Ok(Channels {
        verdicts: Verdicts {
            current: Generation {
                slot: 0,
                addresses: take("ADDRESSES")?,
                networks: take("NETWORKS")?,
            },
            own: take("OWN")?,
            profiles,
            in_force: take(".data")?,
        },
        generations: settings.live.then_some(generations),
        acts: Acts {
            ring: Map::RingBuf(take("ACTS")?).try_into()?,
            counters: Map::PerCpuArray(take("COUNTERS")?).try_into()?,
            seen: Map::LruHashMap(take("SEEN")?).try_into()?,
            traffic: Map::PerCpuHashMap(take("TRAFFIC")?).try_into()?,
            decoder: Decoder {
                epoch: SystemTime::now() - monotonic,
                audit: settings.audit,
            },
            lost: 0,
        },
        origins: Origins {
            queries: Map::LruHashMap(take("QUERIES")?).try_into()?,
        },
        log,
    })
}

fn take(maps: &mut HashMap<String, MapData>, name: &str) -> anyhow::Result<MapData> {
    maps.remove(name)
        .with_context(|| format!("the built-in eBPF object has no map {name}"))
}

/// The ring of acts, from the side that reads it.
pub struct Acts {
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    seen: aya::maps::HashMap<MapData, SeenKey, u64>,
    traffic: PerCpuHashMap<MapData, SeenKey, Traffic>,
    decoder: Decoder,
    /// Losses that were reported already.
    lost: u64,
}

impl Acts {
    /// The next event, if one is there. Never waits.
    pub fn read(&mut self) -> Option<Event> {
        while let Some(record) = self.ring.next() {
            if let Some(event) = self.decoder.decode(&record) {
                return Some(event);
            }
        }
        None
    }

    /// How often each act that was reported was repeated, at the end of a run.
    pub fn repeats(&self) -> impl Iterator<Item = Event> {
        let time = SystemTime::now();
        // An entry that vanishes while it is read is one that the map had no room for.
        self.seen.iter().flatten().filter_map(move |(key, count)| {
            let fact = self.decoder.repeats(&key, count)?;
            Some(Event { time, fact })
        })
    }

    /// What became of TCP connections that have ended, at the end of a run, as far as it was not
    /// told of at once.
    pub fn ended(&self) -> impl Iterator<Item = Event> {
        let time = SystemTime::now();
        // Nothing vanishes from that map.
        self.traffic.iter().flatten().flat_map(move |(key, sums)| {
            let mut all = Traffic::default();
            for sum in sums.iter() {
                all.established += sum.established;
                all.sent += sum.sent;
                all.received += sum.received;
                all.unanswered += sum.unanswered;
                all.waited += sum.waited;
            }
            let facts = self.decoder.traffic(&key, all).collect::<Vec<_>>();
            facts.into_iter().map(move |fact| Event { time, fact })
        })
    }

    /// What was lost since the last call, as an event.
    pub fn loss(&mut self) -> io::Result<Option<Event>> {
        let counters = self
            .counters
            .get(&COUNTER_LOST, 0)
            .map_err(io::Error::other)?;
        let total = counters.iter().sum::<u64>();
        let new = total.saturating_sub(self.lost);
        self.lost = total;
        Ok((new > 0).then(|| Event {
            time: SystemTime::now(),
            fact: Fact::Lost(new),
        }))
    }
}

/// Readable when there is something that will not wait: a refusal, or a ring half full.
impl AsFd for Acts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Acts {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// IANA protocol numbers, as wide as in a packet.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where queries were going before they were redirected.
pub struct Origins {
    queries: aya::maps::HashMap<MapData, cgfw_common::QueryKey, Endpoint>,
}

impl Origins {
    /// The server that the client of this query had asked.
    pub fn get(&self, key: &QueryKey) -> Option<SocketAddr> {
        let key = cgfw_common::QueryKey {
            protocol: match key.transport {
                Transport::Tcp => TCP,
                Transport::Udp | Transport::Other => UDP,
            },
            ipv6: key.ipv6.into(),
            port: key.port,
            id: key.id,
            reserved: 0,
        };
        let endpoint = self.queries.get(&key, 0).ok()?;
        let port = u16::try_from(endpoint.port).ok()?;
        Some(SocketAddr::new(records::address(endpoint.address), port))
    }
}
