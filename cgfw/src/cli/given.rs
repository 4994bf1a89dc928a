//! The options that make a policy, for every subcommand that has one.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use crate::policy::{Action, DirectIp, Given, Rule, Source};

#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    /// Block what matches
    ///
    /// Can be repeated, and takes lists with commas. Not blocking is the default, unless
    /// there is an --allow.
    #[arg(
        long,
        value_name = "PATTERN",
        env = "CGFW_BLOCK",
        visible_alias = "block-list",
        value_delimiter = ','
    )]
    block: Vec<OsString>,

    /// Allow what matches
    ///
    /// Can be repeated, and takes lists with commas. Unless it is an exception to a
    /// --block, everything else is blocked then; --default allow prevents that.
    #[arg(
        long,
        value_name = "PATTERN",
        env = "CGFW_ALLOW",
        visible_alias = "allow-list",
        value_delimiter = ','
    )]
    allow: Vec<OsString>,

    /// Block what FILE lists
    ///
    /// One pattern a line, with # comments; lists for hosts files, dnsmasq and ad blockers
    /// are taken as they are published. Can be repeated, and takes lists with commas.
    #[arg(
        long,
        value_name = "FILE",
        env = "CGFW_BLOCK_FILE",
        value_delimiter = ',',
        value_parser = parse_path()
    )]
    block_file: Vec<PathBuf>,

    /// Allow what FILE lists
    ///
    /// As --block-file, and with the same consequence as --allow.
    #[arg(
        long,
        value_name = "FILE",
        env = "CGFW_ALLOW_FILE",
        value_delimiter = ',',
        value_parser = parse_path()
    )]
    allow_file: Vec<PathBuf>,

    /// Take rules from FILE, a policy in TOML
    ///
    /// Can be repeated, and takes lists with commas. All rules hold together, those given
    /// as arguments too; for --default and --direct-ip an argument prevails. No file is
    /// read that is not named.
    #[arg(
        long,
        value_name = "FILE",
        env = "CGFW_POLICY",
        value_delimiter = ',',
        value_parser = parse_path()
    )]
    policy: Vec<PathBuf>,

    /// Say what happens to names that no rule matches
    ///
    /// By default they are blocked if there is an --allow that is not merely an exception
    /// to a --block, and allowed otherwise.
    #[arg(long, value_name = "VERDICT", env = "CGFW_DEFAULT", value_parser = parse_action())]
    default: Option<Action>,

    /// Say what happens to addresses that no permitted name led to
    ///
    /// private allows RFC 1918, 100.64/10, link-local, unique local and on-link ones. By
    /// default it is as --default says.
    #[arg(
        long,
        value_name = "VERDICT",
        env = "CGFW_DIRECT_IP",
        value_parser = parse_direct_ip(),
        hide_short_help = true
    )]
    direct_ip: Option<DirectIp>,
}

impl PolicyArgs {
    /// What was given, told where by clap's matches of the subcommand.
    pub(super) fn given(self, matches: &ArgMatches) -> Result<Given, String> {
        let mut rules = Vec::new();
        for (id, action, patterns) in [
            ("block", Action::Block, &self.block),
            ("allow", Action::Allow, &self.allow),
        ] {
            let origin = Origin::of(id, matches);
            for pattern in patterns {
                rules.push(rule(origin, action, pattern)?);
            }
        }
        let lists = |action, paths: Vec<PathBuf>| paths.into_iter().map(move |path| (action, path));
        Ok(Given {
            rules,
            files: self.policy,
            lists: lists(Action::Block, self.block_file)
                .chain(lists(Action::Allow, self.allow_file))
                .collect(),
            default: self.default,
            direct_ip: self.direct_ip,
        })
    }
}

/// Whether the path stands for stdin.
pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
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

pub(super) fn parse_path() -> impl TypedValueParser<Value = PathBuf> {
    NonEmptyStringValueParser::new().map(PathBuf::from)
}

fn parse_action() -> impl TypedValueParser<Value = Action> {
    PossibleValuesParser::new(["allow", "block"]).map(|text| match text.as_str() {
        "allow" => Action::Allow,
        _ => Action::Block,
    })
}

fn parse_direct_ip() -> impl TypedValueParser<Value = DirectIp> {
    PossibleValuesParser::new(["allow", "private", "block"]).map(|text| match text.as_str() {
        "allow" => DirectIp::Allow,
        "private" => DirectIp::Private,
        _ => DirectIp::Block,
    })
}
