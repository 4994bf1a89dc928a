//! Everything that is looked up, checked or opened before anything is made.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::utsname::UtsName;
use nix::unistd::{Group, Uid, User, getgroups};

use crate::baseline::{self, Dependencies};
use crate::bpf::{self, Acts, Filter};
use crate::cgroup::Cgroup;
use crate::child::{self, Confinement, Identity, Unix};
use crate::cli::Run as Settings;
use crate::dns::Sockets;
use crate::event::GoBetween;
use crate::formats::Style;
use crate::host::{self, ProxyVariable, SudoUser};
use crate::otlp::{self, Trace};
use crate::policy::{Action, Because, DirectIp, Given, Idle, OnBlock, Policy, Ports, Review};
use crate::report::{BreakGlass, Privileges, Protection, Report, Start, Verbosity};
use crate::sources::{self, Loaded, Origins, Version};

/// Octets of a step summary that GitHub takes; one that is longer it does not show at all.
const MAX_STEP_SUMMARY: usize = 1 << 20;

/// What the child is not to inherit is closed. Returns what is to be said of that, and what
/// cannot be seen of what it inherits. Must come first, before there are descriptors of our
/// own.
pub(super) fn close_descriptors(strict: bool) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let mut notes = close_foreign_sockets()?;
    if strict {
        notes.extend(close_other_descriptors()?);
        return Ok((notes, Vec::new()));
    }
    let sockets = child::unix_descriptors().context("cannot list inherited descriptors")?;
    let caveats = sockets.into_iter().map(|fd| {
        format!("descriptor {fd} is a unix socket from outside: what comes over it cannot be seen")
    });
    Ok((notes, caveats.collect()))
}

/// Inherited sockets are not filtered, because the kernel goes by the cgroup in which a
/// socket was made.
fn close_foreign_sockets() -> anyhow::Result<Vec<String>> {
    let sockets = child::network_sockets()
        .context("cannot list inherited descriptors in /proc/self/fd; cgfw needs /proc mounted")?;
    if let Some(socket) = sockets.iter().find(|socket| socket.fd <= 2) {
        bail!(
            "{} is a network socket that was opened outside, so that its traffic cannot be \
             filtered; put a pipe between: cgfw run ... -- COMMAND < /dev/null | cat",
            ["stdin", "stdout", "stderr"][usize::try_from(socket.fd).unwrap_or(0)]
        );
    }
    child::close_network_sockets(&sockets).context("cannot close inherited sockets")?;
    Ok(sockets
        .iter()
        .map(|socket| {
            format!(
                "closed inherited descriptor {}, a network socket (family {}) that could not be \
                 filtered",
                socket.fd, socket.family
            )
        })
        .collect())
}

/// Under `--strict` nothing is passed on but the standard descriptors. Those may be unix
/// sockets, as services and CI runners have them, unless they reach more than their peer.
fn close_other_descriptors() -> anyhow::Result<Vec<String>> {
    let name = |fd| ["stdin", "stdout", "stderr"][usize::try_from(fd).unwrap_or(0)];
    let mut notes = Vec::new();
    for (fd, reaches_others) in child::unix_standard_descriptors() {
        if reaches_others {
            bail!(
                "{} is a unix datagram socket, through which the command could reach others; \
                 put a pipe between: cgfw run --strict ... -- COMMAND < /dev/null | cat",
                name(fd)
            );
        }
        notes.push(format!(
            "{} is a unix socket: who holds its other end can pass open sockets to the command",
            name(fd)
        ));
    }
    let closed = child::close_beyond_stderr().context("cannot close inherited descriptors")?;
    if closed > 0 {
        notes.push(format!(
            "closed {closed} inherited descriptor{}; --strict passes on stdin, stdout and stderr",
            if closed == 1 { "" } else { "s" }
        ));
    }
    Ok(notes)
}

pub(super) fn require_rights(strict: bool) -> anyhow::Result<()> {
    let missing = child::missing_capabilities(strict)?;
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "cgfw needs root, or {}, to filter a cgroup; nothing was run. Try:\n  {}",
        missing.join(" and "),
        child::sudo_command()?
    )
}

/// With `--strict` nobody has to wonder what could not be seen.
pub(super) fn require_sight(filter: &Filter) -> anyhow::Result<()> {
    match &filter.limitation {
        Some(limitation) => bail!(
            "--strict needs the kernel's BTF and eBPF programs that may read kernel memory, to \
             tell the child's listeners from others: {limitation}; nothing was run"
        ),
        None => Ok(()),
    }
}

pub(super) fn event_loop() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")
}

/// Different for every run on every host.
pub(super) fn run_id() -> anyhow::Result<String> {
    let number = getrandom::u64().context("cannot get random numbers for the run's id")?;
    Ok(format!("{number:016x}"))
}

pub(super) fn kernel_settings(
    settings: &Settings,
    policy: &Policy,
    networks: &[(IpNet, Ports)],
    sockets: &Sockets,
    cgroup: &Cgroup,
) -> anyhow::Result<bpf::Settings> {
    Ok(bpf::Settings {
        proxy_port: sockets.port(),
        unresolved: unresolved(policy),
        networks: networks.len(),
        live: settings.watch,
        audit: settings.audit,
        vanish: settings.on_block == OnBlock::Drop,
        strict: settings.strict,
        cgroup: cgroup.id().context("cannot look at the cgroup")?,
        debug: settings.verbose >= 3,
    })
}

/// The verdict on addresses of which the kernel knows nothing.
pub(super) fn unresolved(policy: &Policy) -> Action {
    match policy.direct_ip() {
        DirectIp::Allow => Action::Allow,
        DirectIp::Private | DirectIp::Block => Action::Block,
    }
}

pub(super) fn open_report(
    settings: &Settings,
    policy: &Policy,
    id: &str,
    identity: Option<&Identity>,
) -> anyhow::Result<(Report, Trace)> {
    let audit_log = settings
        .audit_log
        .as_deref()
        .map(|path| {
            let log = open_as(identity, path, File::options().append(true))
                .with_context(|| format!("cannot open the audit log {}", path.display()))?;
            Ok::<_, anyhow::Error>((path.to_owned(), log))
        })
        .transpose()?;
    let verbosity = match (settings.quiet, settings.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, 0) => Verbosity::Normal,
        (false, _) => Verbosity::Verbose,
    };
    let style = Style {
        color: settings
            .color
            .is_on(io::stderr().is_terminal(), host::no_color()),
        width: host::terminal_width(&io::stderr()),
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
    for (format, path) in &settings.reports {
        // What is there from before is no report on this run.
        let file = open_as(identity, path, File::options().write(true).truncate(true))
            .with_context(|| format!("cannot open the report {}", path.display()))?;
        report
            .leave(*format, path.clone(), file)
            .context("cannot start a report")?;
    }
    if host::is_github_action() {
        report.annotate();
        if let Some(path) = host::step_summary() {
            leave_step_summary(&mut report, path, identity)?;
        }
    }
    let trace = trace(settings, &mut report)?;
    Ok((report, trace))
}

/// The trace that the run is a part of: a new span, and the report told to send what it is
/// told, if that is wanted; or else the trace that the environment names, if it does.
fn trace(settings: &Settings, report: &mut Report) -> anyhow::Result<Trace> {
    let parent = Trace::from_environment();
    let Some(exporter) = otlp::open(settings.otlp_endpoint.as_deref(), &host_name()?)? else {
        return Ok(parent);
    };
    let (trace, follower) = exporter.start(&parent).context("cannot follow the run")?;
    report.tell_also(follower);
    Ok(trace)
}

/// Have the summary of this step of GitHub Actions written. Nobody has asked for it here, so
/// that a run does not fail for want of it.
fn leave_step_summary(
    report: &mut Report,
    path: PathBuf,
    identity: Option<&Identity>,
) -> anyhow::Result<()> {
    let opened = open_as(identity, &path, File::options().append(true))
        .and_then(|file| Ok((file.metadata()?.len(), file)));
    match opened {
        Ok((length, file)) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let room = MAX_STEP_SUMMARY.saturating_sub(length);
            report
                .leave_step_summary(path, file, room)
                .context("cannot start the step summary")
        }
        Err(error) => {
            let path = path.display();
            report.error(&format!("cannot open the step summary {path}: {error:#}"));
            Ok(())
        }
    }
}

/// Say what is enforced, now that it is.
pub(super) fn tell_the_start(
    report: &mut Report,
    settings: &Settings,
    (policy, origins): (&Policy, &Origins),
    identity: Option<&Identity>,
    protection: &Protection,
    trace: &Trace,
) -> anyhow::Result<()> {
    let cwd = std::env::current_dir().ok();
    let command = octets(settings);
    let break_glass = break_glass(settings)?;
    let host = host_name()?;
    let trace_id = trace.id();
    report.start(&Start {
        time: SystemTime::now(),
        policy,
        rules: &origins.rules,
        policy_digest: &origins.digest(),
        host: &host,
        trace_id: trace_id.as_deref(),
        audit: settings.audit,
        break_glass: break_glass.as_ref(),
        uid: uid(identity).as_raw(),
        command: &command,
        cwd: cwd.as_deref(),
        protection,
    });
    Ok(())
}

/// Why nothing is refused in this run, and who says so.
fn break_glass(settings: &Settings) -> anyhow::Result<Option<BreakGlass>> {
    let Some(reason) = settings.break_glass.clone() else {
        return Ok(None);
    };
    let (uid, user) = child::caller()?;
    Ok(Some(BreakGlass {
        reason,
        user,
        uid: uid.as_raw(),
    }))
}

/// What `--strict` does about unix sockets: LSM programs judge them, where the kernel takes
/// those and is proven to run them. `None` without `--strict`.
pub(super) fn unix_sockets(
    settings: &Settings,
    filter: &mut Filter,
    cgroup: &Cgroup,
    acts: &mut Acts,
) -> Option<Unix> {
    if !settings.strict {
        return None;
    }
    let cgroup = cgroup.as_fd();
    let guarded = filter.guard(cgroup, || child::prove_isolation(cgroup));
    // What the trial did is not the command's doing.
    while acts.read().is_some() {}
    Some(match guarded {
        Ok(()) => Unix::Judged,
        Err(reason) => Unix::Refused {
            reason: format!("{reason:#}"),
        },
    })
}

/// What holds for the child beside the filter, and what of it cannot be had.
pub(super) fn confinement(
    settings: &Settings,
    unix: Option<Unix>,
) -> anyhow::Result<(Confinement, Option<String>)> {
    match (unix, settings.audit) {
        (Some(unix), _) => Ok((Confinement::strict(unix)?, None)),
        (None, true) => Ok((Confinement::NONE, None)),
        (None, false) => Confinement::ordinary(settings.no_new_privs),
    }
}

/// What is in place once the programs are attached and the confinement is planned.
pub(super) fn protection(
    settings: &Settings,
    identity: Option<&Identity>,
    cgroup: &Cgroup,
    filter: &Filter,
    confinement: &Confinement,
) -> anyhow::Result<Protection> {
    Ok(Protection {
        kernel: uname()?.release().to_string_lossy().into_owned(),
        cgroup: cgroup.path().to_owned(),
        hooks: filter.hooks().map(str::to_owned).collect(),
        // --strict leaves none to be seen.
        sees_sockets: settings.strict || filter.sees_unix_sockets(),
        sees_processes: filter.limitation.is_none(),
        strict: confinement.measures(),
        privileges: privileges(settings, identity)?,
    })
}

fn host_name() -> anyhow::Result<String> {
    Ok(uname()?.nodename().to_string_lossy().into_owned())
}

fn uname() -> anyhow::Result<UtsName> {
    nix::sys::utsname::uname().context("cannot ask the kernel for its release")
}

fn privileges(settings: &Settings, identity: Option<&Identity>) -> anyhow::Result<Privileges> {
    let uid = uid(identity);
    if uid.is_root() {
        return Ok(Privileges::Root);
    }
    if settings.no_new_privs {
        return Ok(Privileges::Ordinary);
    }
    let user = User::from_uid(uid).with_context(|| format!("cannot look up the user {uid}"))?;
    let gids = match identity {
        Some(identity) => identity.groups.clone(),
        None => getgroups().context("cannot list groups")?,
    };
    let groups = gids
        .into_iter()
        .filter_map(|gid| Group::from_gid(gid).transpose())
        .map(|group| Ok(group?.name))
        .collect::<nix::Result<Vec<String>>>()
        .context("cannot look up the groups of the child")?;
    let file = host::sudo_without_password(SudoUser {
        name: user.as_ref().map_or("", |user| &user.name),
        uid: uid.as_raw(),
        groups: &groups,
    });
    Ok(file.map_or(Privileges::Ordinary, Privileges::Sudo))
}

/// Who is known to do the network for the child: what its ssh is configured with, and the
/// proxies that the environment names.
pub(super) fn go_betweens(
    identity: Option<&Identity>,
    proxies: &[ProxyVariable],
) -> anyhow::Result<Vec<GoBetween>> {
    let commands = match identity {
        Some(identity) => child::as_user(identity, || Ok(host::proxy_commands(&identity.home)))?,
        None => std::env::home_dir().map_or_else(Vec::new, |home| host::proxy_commands(&home)),
    };
    let proxies = proxies.iter().filter_map(|proxy| proxy.go_between.clone());
    Ok(proxies.chain(commands).collect())
}

/// The user with whose rights the files of the policy are read, who named them: sudo must not
/// lend root's, nor `--user` take them away.
pub(super) fn author(settings: &Settings) -> anyhow::Result<Option<Identity>> {
    child::choose_identity(None, settings.keep_root)
}

pub(super) fn load_policy(
    settings: &Settings,
    author: Option<&Identity>,
) -> anyhow::Result<Loaded> {
    match author {
        Some(author) => child::as_user(author, || sources::load(&settings.policy)),
        None => sources::load(&settings.policy),
    }
}

/// What the run may depend on, read with the rights of who named the file.
pub(super) fn baseline(
    settings: &Settings,
    notes: &mut Vec<String>,
) -> anyhow::Result<Option<Dependencies>> {
    let Some(path) = &settings.baseline else {
        return Ok(None);
    };
    let load = || baseline::load(path);
    let loaded = match author(settings)? {
        Some(author) => child::as_user(&author, load),
        None => load(),
    };
    let loaded = loaded.context("cannot use the baseline")?;
    notes.extend(loaded.caveats);
    Ok(Some(loaded.dependencies))
}

/// What is typed on one command line and contradicts itself, so that part of it decides
/// nothing. What files say is a matter of `cgfw policy check`.
pub(super) fn contradictions(given: &Given) -> impl Iterator<Item = String> {
    let review = Review::new(given.rules.clone().into(), given.default, given.direct_ip);
    let idle: Vec<Idle> = review.idle().collect();
    idle.into_iter().filter_map(|idle| match idle.because {
        Because::Shadowed(by) => Some(format!(
            "{} decides nothing: {} prevails",
            idle.rule.cite(),
            by.cite()
        )),
        Because::Duplicate(_) | Because::Redundant(_) | Because::Default => None,
    })
}

/// A script must not be able to weaken its own policy without anybody noticing.
pub(super) fn require_policy_out_of_reach(
    settings: &Settings,
    files: &[(PathBuf, Version)],
    identity: Option<&Identity>,
) -> anyhow::Result<Option<String>> {
    if !settings.watch {
        return Ok(None);
    }
    let is_changeable = || {
        let uid = uid(identity).as_raw();
        Ok(files
            .iter()
            .find(|(path, _)| sources::is_changeable(path, uid)))
    };
    let found = match identity {
        Some(identity) => child::as_user(identity, is_changeable)?,
        None => is_changeable()?,
    };
    let Some((path, _)) = found else {
        return Ok(None);
    };
    let path = path.display();
    if settings.strict {
        bail!(
            "the command can change {path}, and with --watch its own policy; leave --watch out, \
             or run the command as a user who cannot write there"
        );
    }
    Ok(Some(format!(
        "the command can change {path}, and so the policy that --watch holds it to"
    )))
}

fn uid(identity: Option<&Identity>) -> Uid {
    identity.map_or_else(nix::unistd::geteuid, |identity| identity.uid)
}

/// Open a file that the user named, with the user's rights: sudo must not lend root's.
fn open_as(
    identity: Option<&Identity>,
    path: &Path,
    options: &mut OpenOptions,
) -> anyhow::Result<File> {
    let mut open = || {
        let options = options
            .create(true)
            .mode(0o600)
            // A pipe that nobody reads is an error now, and not a run that never starts.
            .custom_flags(libc::O_NONBLOCK);
        Ok(options.open(path)?)
    };
    let file = match identity {
        Some(identity) => child::as_user(identity, open),
        None => open(),
    }?;
    // From here on only its own thread writes, and may wait.
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}

pub(super) fn octets(settings: &Settings) -> Vec<Vec<u8>> {
    let octets = |argument: &std::ffi::OsString| argument.as_bytes().to_vec();
    settings.command.iter().map(octets).collect()
}
