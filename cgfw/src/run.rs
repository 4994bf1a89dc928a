/*!
The wiring: the only place that knows every stage, and in which order they come.

The order is the security argument. The proxy's sockets are bound, the cgroup is made,
its guardian waits, the programs are attached, and the child, made last, is inside from
its first instruction. The end is the same in reverse: the filter goes when nothing is
left to be filtered.
*/

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use ipnet::IpNet;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::bpf::{self, Acts, Filter, Verdicts};
use crate::cgroup::Cgroup;
use crate::child::{self, Child, Command, Ended, Identity, Signals, SpawnError};
use crate::cli::{Run as Settings, Survivors};
use crate::dns::{self, Proxy, Sockets};
use crate::event::{Event, Fact, Outcome};
use crate::exit;
use crate::ledger::{Ledger, Observation};
use crate::pins::Pins;
use crate::policy::{Action, DirectIp, Domain, OnBlock, Policy, Ports};
use crate::report::{End, Fate, Report, Start, Style, Survivor, Verbosity};
use crate::watch;

/// How often records that nobody was woken for are read.
const TICK: Duration = Duration::from_millis(50);
/// Events of the proxy that wait to be entered; more are counted as lost.
const QUEUE: usize = 1 << 14;
/// What a process that outlives the command has to end by itself: the reader at the end of a
/// pipe needs a moment to see that end.
const BREATH: Duration = Duration::from_millis(250);
/// What processes have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// Run the command of `settings` behind its policy, and return the exit code.
pub fn run(settings: &Settings) -> anyhow::Result<u8> {
    refuse_foreign_stdio()?;
    require_rights()?;
    let signals = Signals::block()?;
    let identity = child::choose_identity(settings.user.as_deref(), settings.keep_root)?;
    let system = dns::system::read()?;
    let (own, on_link) = host_addresses().context("cannot list the addresses of this host")?;
    let policy = settings
        .policy(system.search.clone())
        .with_host(own, on_link);
    let policy = Arc::new(policy);
    let id = run_id()?;

    let sockets = Sockets::bind().context("cannot bind the DNS proxy to loopback")?;
    let cgroup = Cgroup::create(&id)?;
    let report = open_report(settings, &policy, &id, identity.as_ref())?;
    let (filter, channels) = bpf::load(kernel_settings(settings, &policy, sockets.port()))?;
    filter.attach(cgroup.as_fd())?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let mut run = Run::start(
            settings, policy, system, sockets, channels, report, identity,
        )?;
        run.tell_what_is_limited(&filter);
        let ended = run.command(signals, &cgroup).await;
        Ok(run.close(ended, cgroup, filter).await)
    })
}

/// A run with everything in place but the child.
struct Run<'s> {
    settings: &'s Settings,
    identity: Option<Identity>,
    started: Instant,
    acts: AsyncFd<Acts>,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    events: mpsc::Receiver<Event>,
    /// Events that found no room in `events`.
    overflow: Arc<AtomicU64>,
    proxy: JoinHandle<io::Result<()>>,
    ledger: Ledger,
    report: Report,
    caveats: Vec<String>,
    /// Whether anything was refused, or would have been.
    refused: bool,
}

/// Why the wait for the child is over.
enum Finish {
    Child(Ended),
    TimedOut,
    NotStarted(SpawnError),
    Failed(anyhow::Error),
}

impl<'s> Run<'s> {
    /// Seed the kernel's verdicts and start the proxy.
    fn start(
        settings: &'s Settings,
        policy: Arc<Policy>,
        system: dns::system::System,
        sockets: Sockets,
        channels: bpf::Channels,
        report: Report,
        identity: Option<Identity>,
    ) -> anyhow::Result<Self> {
        let mut verdicts = channels.verdicts;
        for (network, ports) in policy.networks() {
            verdicts
                .set_network(network, &ports)
                .with_context(|| format!("cannot tell the kernel the verdict on {network}"))?;
        }
        let (sender, events) = mpsc::channel(QUEUE);
        let overflow = Arc::new(AtomicU64::new(0));
        let follow = settings.upstreams.is_empty() && policy.default_action() == Action::Allow;
        let upstreams = if settings.upstreams.is_empty() {
            system.servers
        } else {
            settings.upstreams.clone()
        };
        let proxy = Proxy {
            policy: Arc::clone(&policy),
            audit: settings.audit,
            on_block: settings.on_block,
            upstreams,
            follow,
            pin: pinner(Arc::clone(&policy), verdicts),
            origin: Box::new(move |key| channels.origins.get(key)),
            emit: emitter(sender, Arc::clone(&overflow)),
        };
        proxy
            .pin_hosts(&system.hosts)
            .context("cannot tell the kernel the addresses of /etc/hosts")?;
        let proxy = tokio::spawn(dns::serve(sockets, proxy, std::future::pending()));
        Ok(Self {
            settings,
            identity,
            started: Instant::now(),
            acts: watch::readable(channels.acts).context("cannot watch the kernel's records")?,
            log: channels.log,
            events,
            overflow,
            proxy,
            ledger: Ledger::new(policy),
            report,
            caveats: Vec::new(),
            refused: false,
        })
    }

    /// Say, before anything runs, what this run cannot see and as whom it runs.
    fn tell_what_is_limited(&mut self, filter: &Filter) {
        if let Some(identity) = &self.identity {
            let message = format!(
                "running as {} (uid {}), {}",
                identity.name, identity.uid, identity.reason
            );
            self.report.warn(&message);
        }
        self.caveats.extend(filter.limitation.clone());
        self.caveats.extend(proxies_in_environment());
        for caveat in &self.caveats {
            self.report.warn(caveat);
        }
    }

    /// Start the command and see it through.
    async fn command(&mut self, signals: Signals, cgroup: &Cgroup) -> Finish {
        let child = match self.spawn(&signals, cgroup) {
            Ok(child) => child,
            Err(finish) => return finish,
        };
        let signals = match signals.listen().context("cannot wait for signals") {
            Ok(signals) => signals,
            Err(error) => return Finish::Failed(error),
        };
        let limit = self.settings.timeout;
        let with_survivors = self.settings.survivors == Survivors::Wait;
        self.pump_until(async {
            let timed_out = async {
                match limit {
                    Some(limit) => sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = wait(&child, with_survivors.then_some(cgroup)) => ended
                    .context("cannot wait for the command")
                    .map_or_else(Finish::Failed, Finish::Child),
                ended = forward_signals(&signals, &child) => ended
                    .context("cannot forward a signal")
                    .map_or_else(Finish::Failed, |signal| Finish::Child(Ended::Killed(signal))),
                () = timed_out => Finish::TimedOut,
            }
        })
        .await
        .unwrap_or_else(Finish::Failed)
    }

    fn spawn(&self, signals: &Signals, cgroup: &Cgroup) -> Result<Child, Finish> {
        let masked = child::name_service_sockets().map_err(Finish::Failed)?;
        let command = Command {
            argv: &self.settings.command,
            cgroup: cgroup.as_fd(),
            identity: self.identity.as_ref(),
            signal_mask: signals.inherited_mask(),
            masked: &masked,
            no_new_privs: self.settings.no_new_privs,
        };
        command.spawn().map_err(Finish::NotStarted)
    }

    /// Enter events until `done` is ready; fails if the proxy does, because then no name
    /// is answered any more.
    async fn pump_until<T>(&mut self, done: impl Future<Output = T>) -> anyhow::Result<T> {
        let mut done = pin!(done);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => self.enter(event),
                ready = self.acts.readable() => {
                    ready.context("cannot watch the kernel's records")?.clear_ready();
                    self.enter(None);
                }
                _ = tick.tick() => self.enter(None),
                ended = &mut self.proxy => return Err(proxy_failure(ended)),
                value = &mut done => return Ok(value),
            }
        }
    }

    /// Enter everything that waits: first what the proxy has said, because names explain
    /// addresses, then what the kernel has.
    fn enter(&mut self, first: Option<Event>) {
        let mut event = first.or_else(|| self.events.try_recv().ok());
        while let Some(next) = event {
            self.record(next);
            event = self.events.try_recv().ok();
        }
        while let Some(event) = self.acts.get_mut().read() {
            self.record(event);
        }
        let overflow = self.overflow.swap(0, Ordering::Relaxed);
        if overflow > 0 {
            self.record(Event {
                time: SystemTime::now(),
                fact: Fact::Lost(overflow),
            });
        }
        match self.acts.get_mut().loss() {
            Ok(loss) => loss.into_iter().for_each(|event| self.record(event)),
            Err(error) => self
                .report
                .error(&format!("cannot read what was lost: {error}")),
        }
        for observation in self.ledger.settle(SystemTime::now()) {
            self.observe(&observation);
        }
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    fn record(&mut self, event: Event) {
        if let Fact::Lost(count) = event.fact {
            self.report.lost(event.time, count);
        }
        for observation in self.ledger.record(event) {
            self.observe(&observation);
        }
    }

    fn observe(&mut self, observation: &Observation) {
        self.refused |= observation.verdict != crate::event::Verdict::Allowed;
        self.report.observe(observation);
    }

    /// End what is left of the run, in the reverse order of its making.
    async fn close(mut self, finish: Finish, cgroup: Cgroup, filter: Filter) -> u8 {
        let elapsed = self.started.elapsed();
        let left = self.end_processes(&finish, &cgroup).await;
        let (survivors, mut failure) = match left {
            Ok(survivors) => (survivors, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        if self.settings.survivors == Survivors::Release && !survivors.is_empty() {
            failure = failure.or(self.release(&cgroup, &filter).err());
        }
        failure = failure.or(cgroup.close().err());
        self.enter(None);
        self.enter_the_rest();
        let outcome = self.outcome(finish, failure);
        self.tell_the_end(outcome, elapsed, survivors)
    }

    /// The kernel's counts of what was repeated, and questions nobody will claim.
    fn enter_the_rest(&mut self) {
        let repeats: Vec<Event> = self.acts.get_ref().repeats().collect();
        for event in repeats {
            self.record(event);
        }
        for observation in self.ledger.finish() {
            self.observe(&observation);
        }
    }

    /// Wait for, or ask to end, what outlived the command. The cgroup's end kills the rest.
    async fn end_processes(
        &mut self,
        finish: &Finish,
        cgroup: &Cgroup,
    ) -> anyhow::Result<Vec<Survivor>> {
        if matches!(finish, Finish::Child(_))
            && self
                .pump_until(timeout(BREATH, cgroup.emptied()))
                .await?
                .is_ok()
        {
            return Ok(Vec::new());
        }
        let survivors = survivors(cgroup)?;
        let release = self.settings.survivors == Survivors::Release;
        if release && matches!(finish, Finish::Child(_)) {
            return Ok(survivors);
        }
        cgroup.signal(Signal::SIGTERM)?;
        // Past the grace the cgroup is killed; ended or not makes no difference here.
        if let Ok(emptied) = self.pump_until(timeout(GRACE, cgroup.emptied())).await? {
            emptied?;
        }
        // What a timeout or a failure ends is the command itself, and no survivor.
        Ok(if matches!(finish, Finish::Child(_)) {
            survivors
        } else {
            Vec::new()
        })
    }

    fn release(&mut self, cgroup: &Cgroup, filter: &Filter) -> anyhow::Result<()> {
        filter
            .detach(cgroup.as_fd())
            .context("cannot detach the filter")?;
        cgroup
            .release()
            .context("cannot move processes out of the cgroup")?;
        self.report
            .warn("processes that outlive the command go on UNFILTERED (--survivors release)");
        Ok(())
    }

    fn outcome(&mut self, finish: Finish, failure: Option<anyhow::Error>) -> Outcome {
        let outcome = match finish {
            Finish::Child(Ended::Exited(code)) => {
                Outcome::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
            }
            Finish::Child(Ended::Killed(signal)) => {
                Outcome::Killed(u8::try_from(signal as i32).unwrap_or(u8::MAX))
            }
            Finish::TimedOut => Outcome::TimedOut,
            Finish::NotStarted(error) => self.not_started(&error),
            Finish::Failed(error) => {
                self.report.error(&format!("{error:#}; the run was ended"));
                Outcome::Failed
            }
        };
        let Some(failure) = failure else {
            return outcome;
        };
        self.report.error(&format!("{failure:#}"));
        Outcome::Failed
    }

    fn not_started(&mut self, error: &SpawnError) -> Outcome {
        let command = self.settings.command[0].display();
        match error {
            SpawnError::NotFound(_) => {
                self.report.error(&format!("{command}: command not found"));
                Outcome::NotFound
            }
            SpawnError::CannotExecute(error) => {
                self.report
                    .error(&format!("{command}: cannot execute: {error}"));
                Outcome::CannotExecute
            }
            SpawnError::Setup { .. } => {
                self.report.error(&format!("{error}; nothing was run"));
                Outcome::Failed
            }
        }
    }

    fn tell_the_end(self, outcome: Outcome, elapsed: Duration, survivors: Vec<Survivor>) -> u8 {
        let blocked = self.settings.fail_on_block.filter(|_| self.refused);
        let exit_code = exit::code(outcome, blocked);
        let command = octets(self.settings);
        let end = End {
            time: SystemTime::now(),
            command: &command,
            outcome,
            exit_code,
            elapsed,
            survivors,
            fate: match self.settings.survivors {
                Survivors::Kill => Fate::Ended,
                Survivors::Wait => Fate::Awaited,
                Survivors::Release => Fate::Released,
            },
            caveats: self.caveats,
        };
        // Said in the summary, as far as that could be written.
        let _losses = self.report.end(&end, self.ledger.totals());
        exit_code
    }
}

/// Inherited sockets are not filtered, because the kernel goes by the cgroup in which a
/// socket was made. Must come first, before there are sockets of our own.
fn refuse_foreign_stdio() -> anyhow::Result<()> {
    let sockets = child::network_sockets().context("cannot list inherited descriptors")?;
    if let Some(socket) = sockets.iter().find(|socket| socket.fd <= 2) {
        bail!(
            "{} is a network socket that was opened outside, so that its traffic cannot be \
             filtered; put a pipe between: cgfw run ... -- COMMAND < /dev/null | cat",
            ["stdin", "stdout", "stderr"][usize::try_from(socket.fd).unwrap_or(0)]
        );
    }
    child::close_network_sockets(&sockets).context("cannot close inherited sockets")?;
    for socket in sockets {
        tracing::warn!(
            "closed inherited descriptor {}, a network socket (family {}) that could not be filtered",
            socket.fd,
            socket.family
        );
    }
    Ok(())
}

fn require_rights() -> anyhow::Result<()> {
    let missing = child::missing_capabilities()?;
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "cgfw needs root, or {}, to filter a cgroup; nothing was run. Try:\n  {}",
        missing.join(" and "),
        child::sudo_command()?
    )
}

fn kernel_settings(settings: &Settings, policy: &Policy, proxy_port: u16) -> bpf::Settings {
    bpf::Settings {
        proxy_port,
        unresolved: match policy.direct_ip() {
            DirectIp::Allow => Action::Allow,
            DirectIp::Private | DirectIp::Block => Action::Block,
        },
        networks: !policy.networks().is_empty(),
        audit: settings.audit,
        vanish: settings.on_block == OnBlock::Drop,
        debug: settings.verbose >= 3,
    }
}

/// What the proxy calls before it answers: merge, and tell the kernel what is news to it.
fn pinner(policy: Arc<Policy>, verdicts: Verdicts) -> dns::Pin {
    let state = Mutex::new((Pins::default(), verdicts));
    Box::new(move |_name: &Domain, addresses: &[IpAddr], ports: &Ports| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (pins, verdicts) = &mut *state;
        for &address in addresses {
            let Some(ports) = pins.add(&policy, address, ports) else {
                continue;
            };
            if let Err(error) = verdicts.set_address(address, &ports) {
                pins.forget(address);
                return Err(error);
            }
        }
        Ok(())
    })
}

/// Takes the proxy's events without ever making it wait.
fn emitter(sender: mpsc::Sender<Event>, overflow: Arc<AtomicU64>) -> dns::Emit {
    Box::new(move |event| {
        if sender.try_send(event).is_err() {
            overflow.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Wait for the command, and for all that it started if there is a cgroup to look at.
async fn wait(child: &Child, survivors: Option<&Cgroup>) -> io::Result<Ended> {
    let ended = child.wait().await?;
    if let Some(cgroup) = survivors {
        cgroup.emptied().await?;
    }
    Ok(ended)
}

/// Pass signals on to the child. When it is gone, and cgfw waits for those who outlived
/// it, a signal is for cgfw itself: return it.
async fn forward_signals(signals: &child::Listener, child: &Child) -> io::Result<Signal> {
    loop {
        let received = signals.next().await?;
        let to_send = (!received.from_terminal).then_some(received.signal);
        if !child.send(to_send)? {
            return Ok(received.signal);
        }
    }
}

fn proxy_failure(ended: Result<io::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    let reason = match ended {
        Ok(Ok(())) => anyhow!("it ended by itself"),
        Ok(Err(error)) => anyhow!(error),
        Err(panic) => anyhow!(panic),
    };
    reason.context("the DNS proxy is dead")
}

/// The processes in the cgroup, as /proc describes them now.
fn survivors(cgroup: &Cgroup) -> io::Result<Vec<Survivor>> {
    let describe = |pid: nix::unistd::Pid| {
        let read = |file| std::fs::read(format!("/proc/{pid}/{file}"));
        // One that has ended meanwhile did not survive.
        let comm = read("comm").ok()?;
        let argv = read("cmdline").ok()?;
        let argv = argv.strip_suffix(b"\0").unwrap_or(&argv);
        Some(Survivor {
            pid: pid.as_raw().cast_unsigned(),
            comm: comm.trim_ascii_end().to_vec(),
            argv: argv.split(|b| *b == 0).map(<[u8]>::to_vec).collect(),
        })
    };
    Ok(cgroup
        .processes()?
        .into_iter()
        .filter_map(describe)
        .collect())
}

/// Names behind a proxy are resolved by the proxy.
fn proxies_in_environment() -> Vec<String> {
    ["http_proxy", "https_proxy", "all_proxy", "ftp_proxy"]
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_ascii_uppercase()])
        .filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        .map(|name| {
            format!("{name} is set: names that are reached through that proxy cannot be seen")
        })
        .collect()
}

/// The host's own addresses, and the prefixes that are on-link.
fn host_addresses() -> nix::Result<(HashSet<IpAddr>, Vec<IpNet>)> {
    let mut own = HashSet::new();
    let mut on_link = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address.as_ref().and_then(ip) else {
            continue;
        };
        own.insert(address);
        if let Some(mask) = interface.netmask.as_ref().and_then(ip)
            && let Ok(net) = IpNet::with_netmask(address, mask)
            && !address.is_loopback()
        {
            on_link.push(net.trunc());
        }
    }
    Ok((own, on_link))
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
}

/// Different for every run on every host.
fn run_id() -> anyhow::Result<String> {
    let number = getrandom::u64().context("cannot get random numbers for the run's id")?;
    Ok(format!("{number:016x}"))
}

fn open_report(
    settings: &Settings,
    policy: &Policy,
    id: &str,
    identity: Option<&Identity>,
) -> anyhow::Result<Report> {
    let audit_log = settings
        .audit_log
        .as_deref()
        .map(|path| Ok::<_, anyhow::Error>((path.to_owned(), open_as(identity, path)?)))
        .transpose()?;
    let verbosity = match (settings.quiet, settings.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, 0) => Verbosity::Normal,
        (false, _) => Verbosity::Verbose,
    };
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let style = Style {
        color: settings.color.is_on(io::stderr().is_terminal(), no_color),
        width: terminal_width(),
    };
    let mut report = Report::new(
        id.to_owned(),
        policy.default_action(),
        verbosity,
        style,
        io::stderr(),
        audit_log,
    )
    .context("cannot start the report")?;
    let cwd = std::env::current_dir().ok();
    let command = octets(settings);
    let rules: Vec<String> = settings
        .rules
        .iter()
        .map(|rule| rule.source.clone())
        .collect();
    report.start(&Start {
        time: SystemTime::now(),
        policy,
        rules: &rules,
        audit: settings.audit,
        uid: identity
            .map_or_else(nix::unistd::geteuid, |identity| identity.uid)
            .as_raw(),
        command: &command,
        cwd: cwd.as_deref(),
    });
    Ok(report)
}

/// Columns of the terminal that stderr is, if it is one.
fn terminal_width() -> Option<usize> {
    // SAFETY: integers, for which zero is a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: `size` is valid for writes; anything but a terminal makes the call fail.
    let result = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}

/// Open a file that the user named, with the user's rights: sudo must not lend root's.
fn open_as(identity: Option<&Identity>, path: &Path) -> anyhow::Result<File> {
    let open = || {
        File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            // A pipe that nobody reads is an error now, and not a run that never starts.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .with_context(|| format!("cannot open the audit log {}", path.display()))
    };
    let file = match identity {
        Some(identity) => child::as_user(identity, open),
        None => open(),
    }?;
    // From here on only its own thread writes, and may wait.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).context("cannot set up the audit log")?;
    Ok(file)
}

fn octets(settings: &Settings) -> Vec<Vec<u8>> {
    let octets = |argument: &std::ffi::OsString| argument.as_bytes().to_vec();
    settings.command.iter().map(octets).collect()
}
