/*!
What was typed: arguments and `CGFW_*` variables, parsed once into types that cannot be
wrong. Decides nothing and touches nothing.
*/

mod args;
mod given;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, ValueEnum};

use self::args::{Cli, PolicySubcommands, RunArgs, Subcommands};
use self::given::is_stdin;
use crate::policy::{Action, Given, OnBlock};
use crate::{baseline, formats};

/// What cgfw is asked to do.
#[derive(Debug)]
pub enum Invocation {
    Run(Box<Run>),
    Why(Why),
    Check(Check),
    Learn(Learn),
    /// `cgfw policy schema`
    Schema,
    Report(Report),
    /// `cgfw report --schema`
    AuditSchema,
    Diff(Diff),
    Baseline(Baseline),
}

/// `cgfw why`
#[derive(Debug)]
pub struct Why {
    pub policy: Given,
    pub resolve: bool,
    /// Empty: the system's resolvers.
    pub upstreams: Vec<SocketAddr>,
    pub format: Format,
    pub color: Color,
    /// As they were typed; at least one.
    pub destinations: Vec<OsString>,
}

/// `cgfw policy check`
#[derive(Debug)]
pub struct Check {
    pub policy: Given,
    pub fail_on_warning: bool,
}

/// `cgfw policy learn`
#[derive(Debug)]
pub struct Learn {
    /// Whether to allow whole domains.
    pub generalise: bool,
    /// Audit logs, at least one; `-` is stdin.
    pub logs: Vec<PathBuf>,
}

/// `cgfw report`
#[derive(Debug)]
pub struct Report {
    pub format: formats::Format,
    pub color: Color,
    /// Audit logs, at least one; `-` is stdin.
    pub logs: Vec<PathBuf>,
}

/// `cgfw diff`
#[derive(Debug)]
pub struct Diff {
    pub format: baseline::Format,
    pub color: Color,
    /// Audit logs or baselines; `-` is stdin, for one of them.
    pub old: PathBuf,
    pub new: PathBuf,
}

/// `cgfw baseline`
#[derive(Debug)]
pub struct Baseline {
    /// Audit logs, at least one; `-` is stdin.
    pub logs: Vec<PathBuf>,
}

/// `cgfw run`
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug)]
pub struct Run {
    pub policy: Given,
    /// Whether changes of the policy's files are followed.
    pub watch: bool,
    /// Implied by `break_glass`.
    pub audit: bool,
    /// Why nothing is refused although it should be (`--break-glass`).
    pub break_glass: Option<String>,
    pub on_block: OnBlock,
    /// Empty: the system's resolvers.
    pub upstreams: Vec<SocketAddr>,
    /// The exit code that replaces 0 if anything was blocked.
    pub fail_on_block: Option<u8>,
    pub audit_log: Option<PathBuf>,
    /// What to write where when the run has ended.
    pub reports: Vec<(formats::Format, PathBuf)>,
    /// Where OpenTelemetry has its collector.
    pub otlp_endpoint: Option<String>,
    /// What the run may depend on, if that is limited.
    pub baseline: Option<PathBuf>,
    pub user: Option<String>,
    pub keep_root: bool,
    /// Implied by `strict`.
    pub no_new_privs: bool,
    pub strict: bool,
    pub timeout: Option<Duration>,
    pub survivors: Survivors,
    pub color: Color,
    /// How many `-v`.
    pub verbose: u8,
    pub quiet: bool,
    /// The command and its arguments, at least one.
    pub command: Vec<OsString>,
}

/// What happens to processes that outlive the command (`--survivors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Survivors {
    /// They are asked to end, and made to
    Kill,
    /// They are waited for
    Wait,
    /// They go on, unfiltered
    Release,
}

/// What a command that answers writes (`--format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One object a line
    Json,
}

/// Whether the output is coloured (`--color`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

impl Color {
    /// Decide, told whether the output is a terminal and `NO_COLOR` is set (and not empty).
    pub fn is_on(self, terminal: bool, no_color: bool) -> bool {
        match self {
            Self::Auto => terminal && !no_color,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Why there is no [`Invocation`].
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help or the version was asked for: to be printed to stdout, a success.
    Told(String),
    /// The usage is wrong: to be printed to stderr, exit code 125.
    Usage(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Told(text) | Self::Usage(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Stop {}

/// Parse the arguments, the program's name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, Stop> {
    let matches = Cli::command().try_get_matches_from(args).map_err(stop)?;
    let cli = Cli::from_arg_matches(&matches).map_err(stop)?;
    let options = matches
        .subcommand()
        .map_or(&matches, |(_, options)| options);
    invocation(cli.subcommand, options).map_err(Stop::Usage)
}

fn invocation(subcommand: Subcommands, options: &ArgMatches) -> Result<Invocation, String> {
    Ok(match subcommand {
        Subcommands::Run(args) => Invocation::Run(Box::new(run(*args, options)?)),
        Subcommands::Why(args) => Invocation::Why(Why {
            policy: args.policy.given(options)?,
            resolve: args.resolve,
            upstreams: args.upstream_dns,
            format: args.format,
            color: args.color,
            destinations: args.destinations,
        }),
        Subcommands::Report(args) if args.schema => Invocation::AuditSchema,
        Subcommands::Report(args) => Invocation::Report(Report {
            format: args.format,
            color: args.color,
            logs: args.logs,
        }),
        Subcommands::Diff(args) if is_stdin(&args.old) && is_stdin(&args.new) => {
            return Err("OLD and NEW cannot both be stdin; give a file for one of them".to_owned());
        }
        Subcommands::Diff(args) => Invocation::Diff(Diff {
            format: args.format,
            color: args.color,
            old: args.old,
            new: args.new,
        }),
        Subcommands::Baseline(args) => Invocation::Baseline(Baseline { logs: args.logs }),
        Subcommands::Policy(PolicySubcommands::Check(args)) => {
            let lists =
                |action, paths: Vec<PathBuf>| paths.into_iter().map(move |path| (action, path));
            Invocation::Check(Check {
                policy: Given {
                    files: args.files,
                    lists: lists(Action::Block, args.block_file)
                        .chain(lists(Action::Allow, args.allow_file))
                        .collect(),
                    ..Given::default()
                },
                fail_on_warning: args.fail_on_warning,
            })
        }
        Subcommands::Policy(PolicySubcommands::Learn(args)) => Invocation::Learn(Learn {
            generalise: args.generalise,
            logs: args.logs,
        }),
        Subcommands::Policy(PolicySubcommands::Schema) => Invocation::Schema,
    })
}

/// What clap says, without its prefix and its hint at a help that users know of.
fn stop(error: clap::Error) -> Stop {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return Stop::Told(text);
    }
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = text
        .trim_end()
        .trim_end_matches("For more information, try '--help'.");
    Stop::Usage(text.trim_end().to_owned())
}

/// What is given and excludes each other.
fn exclusions(args: &RunArgs) -> Result<(), String> {
    if args.quiet && args.verbose > 0 {
        return Err("--quiet and --verbose exclude each other; give one of them".to_owned());
    }
    if args.keep_root && args.user.is_some() {
        return Err("--keep-root and --user exclude each other; give one of them".to_owned());
    }
    if args.strict && args.audit {
        return Err(
            "--strict and --audit exclude each other: --audit refuses nothing; give one of them"
                .to_owned(),
        );
    }
    if args.strict && args.break_glass.is_some() {
        return Err(
            "--strict and --break-glass exclude each other: --break-glass refuses nothing; give \
             one of them"
                .to_owned(),
        );
    }
    if args.strict && args.survivors == Survivors::Release {
        return Err(
            "--strict and --survivors release exclude each other: what is released is not \
             held; use --survivors kill or wait"
                .to_owned(),
        );
    }
    Ok(())
}

fn run(args: RunArgs, matches: &ArgMatches) -> Result<Run, String> {
    exclusions(&args)?;
    let policy = args.policy.given(matches)?;
    if let Some(path) = policy.paths().find(|path| is_stdin(path)) {
        return Err(format!(
            "`{}` is stdin, which belongs to the command; write the rules to a file",
            path.display()
        ));
    }
    if let Some(path) = args.baseline.as_deref().filter(|path| is_stdin(path)) {
        return Err(format!(
            "`{}` is stdin, which belongs to the command; write the baseline to a file",
            path.display()
        ));
    }
    if args.watch && policy.paths().next().is_none() {
        return Err(
            "--watch has nothing to watch; give a --policy, a --block-file or an --allow-file"
                .to_owned(),
        );
    }
    Ok(Run {
        policy,
        watch: args.watch,
        audit: args.audit || args.break_glass.is_some(),
        break_glass: args.break_glass,
        on_block: args.on_block,
        upstreams: args.upstream_dns,
        fail_on_block: args.fail_on_block,
        audit_log: args.audit_log,
        reports: args.report,
        otlp_endpoint: args.otlp_endpoint,
        baseline: args.baseline,
        user: args.user,
        keep_root: args.keep_root,
        no_new_privs: args.no_new_privs || args.strict,
        strict: args.strict,
        timeout: args.timeout,
        survivors: args.survivors,
        color: args.color,
        verbose: args.verbose,
        quiet: args.quiet,
        command: args.command,
    })
}

#[cfg(test)]
mod tests;
