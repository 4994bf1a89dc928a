/*!
The wiring: the only place that knows every stage, and in which order they come.

The order is the security argument. The proxy's sockets are bound, the cgroup is made
with its guardian, the programs are attached, the proxy serves, and the child, made last,
is inside from its first instruction. The end is the same in reverse: the filter goes
when nothing is left to be filtered.
*/

mod books;
mod changes;
mod ending;
mod inquiry;
mod prepare;
mod search;
mod supervise;
mod swap;

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use ipnet::IpNet;
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::books::Books;
use self::changes::{Changes, Watched};
use self::swap::Addresses;
use crate::baseline::Dependencies;
use crate::bpf::{self, Channels, Filter, Verdicts};
use crate::cgroup::{Cgroup, Members};
use crate::child::{self, Identity, OpenFiles, Signals};
use crate::cli::Run as Settings;
use crate::dns::system::System;
use crate::dns::{self, Proxy, Sockets};
use crate::host;
use crate::ledger::Ledger;
use crate::otlp::Trace;
use crate::pins::Pins;
use crate::policy::{Domain, Policy, Ports};
use crate::report::Report;
use crate::sources::{Loaded, Origins};

/// Run the command of `settings` behind its policy, and return the exit code.
pub fn run(settings: &Settings) -> anyhow::Result<u8> {
    let mut phases = Phases::begin();
    let (mut notes, caveats) = prepare::close_descriptors(settings.strict)?;
    prepare::require_rights(settings.strict)?;
    let signals = Signals::block()?;
    let open_files = OpenFiles::raise()?;
    child::adopt_orphans()?;
    let identity = child::choose_identity(settings.user.as_deref(), settings.keep_root)?;
    let identity = identity.as_ref();
    let system = dns::system::read()?;
    let (policy, origins, watched) = read_policy(settings, &system, identity, &mut notes)?;
    let baseline = prepare::baseline(settings, &mut notes)?;
    let proxies = host::proxies_in_environment();
    let go_betweens = prepare::go_betweens(identity, &proxies)?;
    let id = prepare::run_id()?;
    phases.end("look around");

    let sockets = Sockets::bind().context("cannot bind the DNS proxy to loopback")?;
    let cgroup = Cgroup::create(&id)?;
    phases.end("bind sockets, make the cgroup");
    let (mut report, trace) = prepare::open_report(settings, &policy, &id, identity)?;
    let networks = policy.networks();
    let kernel = prepare::kernel_settings(settings, &policy, &networks, &sockets, &cgroup)?;
    let (mut filter, mut channels) = put_up_filter(kernel, &cgroup, &mut phases)?;
    let unix = prepare::unix_sockets(settings, &mut filter, &cgroup, &mut channels.acts);
    let (confinement, unconfined) = prepare::confinement(settings, unix)?;
    phases.end("plan the confinement");
    let protection = prepare::protection(settings, identity, &cgroup, &filter, &confinement)?;
    prepare::tell_the_start(
        &mut report,
        settings,
        (&policy, &origins),
        identity,
        &protection,
        &trace,
    )?;

    prepare::event_loop()?.block_on(async {
        let mut ledger = Ledger::new(Arc::clone(&policy));
        ledger.know_go_betweens(go_betweens);
        let parts = Parts {
            policy,
            networks,
            watched,
            system,
            sockets,
            channels,
            members: cgroup.members(),
            trace,
        };
        let mut run = Run::start(settings, parts, ledger, report)?;
        run.baseline = baseline;
        notes.extend(identity.map(Identity::to_string));
        notes.extend(proxies.iter().map(ToString::to_string));
        run.caveats.extend(caveats.into_iter().chain(unconfined));
        run.tell(notes, &filter);
        phases.end("start the proxy");
        let finish = run
            .command(signals, open_files, &cgroup, identity, &confinement)
            .await;
        Ok(run.close(finish, cgroup, filter).await)
    })
}

/// The policy, where its rules come from, and how to know that it is another one.
fn read_policy(
    settings: &Settings,
    system: &System,
    identity: Option<&Identity>,
    notes: &mut Vec<String>,
) -> anyhow::Result<(Arc<Policy>, Origins, Watched)> {
    let author = prepare::author(settings)?;
    let mut loaded = prepare::load_policy(settings, author.as_ref())?;
    notes.append(&mut loaded.notes);
    notes.extend(prepare::contradictions(&settings.policy));
    let origins = std::mem::take(&mut loaded.origins);
    let watched = Watched {
        given: settings.policy.clone(),
        files: std::mem::take(&mut loaded.files),
        author,
        search: system.search.clone(),
    };
    notes.extend(prepare::require_policy_out_of_reach(
        settings,
        &watched.files,
        identity,
    )?);
    let policy = policy(loaded, system.search.clone())?;
    Ok((Arc::new(policy), origins, watched))
}

/// Load the programs and attach them to the cgroup.
fn put_up_filter(
    kernel: bpf::Settings,
    cgroup: &Cgroup,
    phases: &mut Phases,
) -> anyhow::Result<(Filter, Channels)> {
    let (mut filter, channels) = bpf::load(kernel)?;
    phases.end("load the eBPF programs");
    if kernel.strict {
        prepare::require_sight(&filter)?;
    }
    filter.attach(cgroup.as_fd())?;
    phases.end("attach the eBPF programs");
    Ok((filter, channels))
}

/// Says at -vv how long each part of the start took.
struct Phases(Instant);

impl Phases {
    fn begin() -> Self {
        Self(Instant::now())
    }

    fn end(&mut self, phase: &str) {
        let now = Instant::now();
        tracing::debug!("{phase}: {:?}", now - self.0);
        self.0 = now;
    }
}

/// What is made before a run starts.
struct Parts {
    policy: Arc<Policy>,
    networks: Vec<(IpNet, Ports)>,
    watched: Watched,
    system: System,
    sockets: Sockets,
    channels: Channels,
    members: Members,
    trace: Trace,
}

/// A run with everything in place but the child.
struct Run<'s> {
    settings: &'s Settings,
    started: Instant,
    books: Books,
    addresses: Addresses,
    /// Where the proxy finds the policy in force.
    policy: watch::Sender<Arc<Policy>>,
    /// The names of /etc/hosts.
    hosts: Vec<(Domain, Vec<IpAddr>)>,
    /// With `--watch`.
    changes: Option<Changes>,
    /// `None` when it is dead, which ends the run.
    proxy: Option<JoinHandle<io::Result<()>>>,
    /// The processes of this run that are waited for one by one.
    own_processes: Vec<Pid>,
    /// What keeps the report from being complete.
    caveats: Vec<String>,
    /// What the child is a part of.
    trace: Trace,
    /// The init of the child, which is no process of the command's.
    init: Option<Pid>,
    /// What the run may depend on, if that is limited.
    baseline: Option<Dependencies>,
}

impl<'s> Run<'s> {
    /// Tell the kernel what is known beforehand, and start the proxy.
    fn start(
        settings: &'s Settings,
        parts: Parts,
        ledger: Ledger,
        report: Report,
    ) -> anyhow::Result<Self> {
        let Channels {
            mut verdicts,
            generations,
            acts,
            origins,
            log,
        } = parts.channels;
        let (policy, system) = (parts.policy, parts.system);
        tell_the_kernel(&mut verdicts, &policy, &parts.networks)?;
        let (books, emit) = Books::open(acts, log, ledger, report, parts.members)
            .context("cannot watch the kernel's records")?;
        let changes = generations
            .map(|generations| Changes::watch(parts.watched, generations))
            .transpose()?;
        let pins = match changes {
            Some(_) => Pins::remembering(),
            None => Pins::default(),
        };
        let addresses = Addresses::new(pins, verdicts);
        let (policy, in_force) = watch::channel(policy);
        let chosen = &settings.upstreams;
        let proxy = Proxy {
            audit: settings.audit,
            on_block: settings.on_block,
            follow: chosen.is_empty(),
            upstreams: if chosen.is_empty() {
                system.servers
            } else {
                chosen.clone()
            },
            pin: addresses.pinner(),
            origin: Box::new(move |key| origins.get(key)),
            emit,
            policy: in_force,
        };
        proxy
            .pin_hosts(&system.hosts)
            .context("cannot tell the kernel the addresses of /etc/hosts")?;
        Ok(Self {
            settings,
            started: Instant::now(),
            books,
            addresses,
            policy,
            hosts: system.hosts,
            changes,
            proxy: Some(tokio::spawn(dns::serve(
                parts.sockets,
                proxy,
                std::future::pending(),
            ))),
            own_processes: Vec::new(),
            caveats: Vec::new(),
            trace: parts.trace,
            init: None,
            baseline: None,
        })
    }

    /// Say, before anything runs, what is special about this run and what it cannot see.
    fn tell(&mut self, notes: Vec<String>, filter: &Filter) {
        self.caveats.extend(filter.limitation.clone());
        for note in notes.iter().chain(&self.caveats) {
            self.books.report.warn(note);
        }
    }
}

/// Write what the policy knows of addresses before any name is resolved.
fn tell_the_kernel(
    verdicts: &mut Verdicts,
    policy: &Policy,
    networks: &[(IpNet, Ports)],
) -> anyhow::Result<()> {
    verdicts
        .set_networks(networks)
        .with_context(|| format!("cannot tell the kernel of {} networks", networks.len()))?;
    for address in policy.own_addresses() {
        verdicts
            .set_own(address)
            .with_context(|| format!("cannot tell the kernel that {address} is here"))?;
    }
    Ok(())
}

fn policy(loaded: Loaded, search: Vec<Domain>) -> anyhow::Result<Policy> {
    let (own, on_link) = host::addresses().context("cannot list the addresses of this host")?;
    let policy = loaded.into_policy(search);
    Ok(policy.with_host(own, on_link))
}
