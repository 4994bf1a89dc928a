/*!
What was typed: arguments and `CGFW_*` variables, parsed once into types that cannot be
wrong. Decides nothing and touches nothing.
*/

mod args;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, ValueEnum};

use self::args::{Cli, RunArgs, Subcommands};
use crate::policy::{Action, DirectIp, Domain, OnBlock, Policy, Rule, Source};

/// What cgfw is asked to do.
#[derive(Debug)]
pub enum Invocation {
    Run(Box<Run>),
}

/// `cgfw run`
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug)]
pub struct Run {
    /// In the order of `--block` and then `--allow`.
    pub rules: Vec<Rule>,
    /// `None`: implied by the rules.
    pub default: Option<Action>,
    /// `None`: implied by the default.
    pub direct_ip: Option<DirectIp>,
    pub audit: bool,
    pub on_block: OnBlock,
    /// Empty: the system's resolvers.
    pub upstreams: Vec<SocketAddr>,
    /// The exit code that replaces 0 if anything was blocked.
    pub fail_on_block: Option<u8>,
    pub audit_log: Option<PathBuf>,
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

/// Whether stderr is coloured (`--color`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

impl Color {
    /// Decide, told whether stderr is a terminal and `NO_COLOR` is set (and not empty).
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

impl Run {
    /// The policy of the run, told what suffixes the resolver appends to names.
    pub fn policy(&self, search: Vec<Domain>) -> Policy {
        Policy::new(self.rules.clone(), self.default, self.direct_ip, search)
    }
}

/// Parse the arguments, the program's name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, Stop> {
    let matches = Cli::command().try_get_matches_from(args).map_err(stop)?;
    let cli = Cli::from_arg_matches(&matches).map_err(stop)?;
    match (cli.subcommand, matches.subcommand()) {
        (Subcommands::Run(args), Some((_, matches))) => {
            let run = run(*args, matches).map_err(Stop::Usage)?;
            Ok(Invocation::Run(Box::new(run)))
        }
        (Subcommands::Run(_), None) => Err(Stop::Usage("a subcommand is missing".to_owned())),
    }
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

fn run(args: RunArgs, matches: &ArgMatches) -> Result<Run, String> {
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
    if args.strict && args.survivors == Survivors::Release {
        return Err(
            "--strict and --survivors release exclude each other: what is released is not \
             held; use --survivors kill or wait"
                .to_owned(),
        );
    }
    let mut rules = Vec::new();
    for (id, action, patterns) in [
        ("block", Action::Block, &args.block),
        ("allow", Action::Allow, &args.allow),
    ] {
        let origin = Origin::of(id, matches);
        for pattern in patterns {
            rules.push(rule(origin, action, pattern)?);
        }
    }
    Ok(Run {
        rules,
        default: args.default,
        direct_ip: args.direct_ip,
        audit: args.audit,
        on_block: args.on_block,
        upstreams: args.upstream_dns,
        fail_on_block: args.fail_on_block,
        audit_log: args.audit_log,
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

/// Where a pattern was written.
#[derive(Clone, Copy)]
struct Origin {
    id: &'static str,
    from_environment: bool,
}

impl Origin {
    fn of(id: &'static str, matches: &ArgMatches) -> Self {
        Self {
            id,
            from_environment: matches.value_source(id) == Some(ValueSource::EnvVariable),
        }
    }

    /// `--block github.com` or `CGFW_BLOCK=github.com`
    fn source(self, pattern: &str) -> String {
        if self.from_environment {
            format!("CGFW_{}={pattern}", self.id.to_uppercase())
        } else {
            format!("--{} {pattern}", self.id)
        }
    }
}

fn rule(origin: Origin, action: Action, pattern: &OsStr) -> Result<Rule, String> {
    let shown = pattern.to_string_lossy();
    let source = origin.source(shown.trim());
    if shown.trim().is_empty() {
        // An empty list is a variable that was not set more often than it is meant.
        return Err(format!(
            "{}: a pattern is empty; give a domain, an address or a CIDR, or leave it out",
            source.trim_end()
        ));
    }
    let Some(pattern) = pattern.to_str() else {
        return Err(format!(
            "{source}: not UTF-8; write other octets of a name as \\DDD"
        ));
    };
    Rule::parse(pattern, action, Source::argument(source.clone()))
        .map_err(|error| format!("{source}: {error}"))
}

#[cfg(test)]
mod tests;
