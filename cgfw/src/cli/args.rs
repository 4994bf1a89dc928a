//! The arguments as clap knows them, with their help.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{
    BoolishValueParser, EnumValueParser, NonEmptyStringValueParser, PossibleValuesParser,
    TypedValueParser,
};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use super::given::{PolicyArgs, parse_path};
use super::{Color, Format, Survivors};
use crate::policy::OnBlock;
use crate::{baseline, formats};

/// Run a command in a filtered cgroup: block domains, see who asked for what.
///
/// Every option can also be given as an environment variable, CGFW_BLOCK for --block and
/// so on; an argument prevails.
#[derive(Debug, Parser)]
#[command(
    name = "cgfw",
    version,
    subcommand_required = true,
    arg_required_else_help = false
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) subcommand: Subcommands,
}

#[derive(Debug, Subcommand)]
pub(super) enum Subcommands {
    Run(Box<RunArgs>),
    Why(WhyArgs),
    Report(ReportArgs),
    Diff(DiffArgs),
    Baseline(BaselineArgs),
    /// Check, learn and describe policies
    #[command(subcommand)]
    Policy(PolicySubcommands),
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicySubcommands {
    Check(CheckArgs),
    Learn(LearnArgs),
    /// Print the JSON Schema of policy files
    Schema,
}

/// Say what the policy says of destinations, and why
///
/// A DESTINATION is a name, an address, either with a port (v6 addresses in brackets
/// then), or a URL. Each is judged by what judges in a run. The exit code is 0 if all of
/// them are allowed, 1 if one is blocked, and 125 if cgfw failed.
#[derive(Debug, Args)]
#[command(override_usage = "cgfw why [OPTIONS] DESTINATION...")]
pub(super) struct WhyArgs {
    #[command(flatten)]
    pub(super) policy: PolicyArgs,

    /// Resolve names, and judge their aliases and addresses, too
    #[arg(long, env = "CGFW_RESOLVE", value_parser = BoolishValueParser::new())]
    pub(super) resolve: bool,

    /// Ask these DNS servers
    ///
    /// Can be repeated, and takes lists with commas. By default those in resolv.conf are
    /// asked.
    #[arg(
        long,
        value_name = "IP[:PORT]",
        env = "CGFW_UPSTREAM_DNS",
        value_delimiter = ',',
        value_parser = parse_server
    )]
    pub(super) upstream_dns: Vec<SocketAddr>,

    /// Choose what is written to stdout
    #[arg(
        long,
        value_name = "FORMAT",
        env = "CGFW_FORMAT",
        value_enum,
        default_value_t = Format::Text
    )]
    pub(super) format: Format,

    /// Choose when stdout is coloured
    #[arg(
        long,
        value_name = "WHEN",
        env = "CGFW_COLOR",
        value_enum,
        default_value_t = Color::Auto,
        hide_short_help = true
    )]
    pub(super) color: Color,

    /// Names, addresses, URLs
    #[arg(required = true, value_name = "DESTINATION")]
    pub(super) destinations: Vec<OsString>,
}

/// Read policies and say what is wrong with them
///
/// Errors end it, with file, line and column. Rules that are there twice, or that another
/// rule leaves nothing to decide, are warned of. The exit code is 0 if there are no errors,
/// 1 if there are only warnings and --fail-on-warning, and 125 otherwise.
#[derive(Debug, Args)]
#[command(override_usage = "cgfw policy check [OPTIONS] FILE...")]
pub(super) struct CheckArgs {
    /// Exit with 1 if there is a warning
    #[arg(long, env = "CGFW_FAIL_ON_WARNING", value_parser = BoolishValueParser::new())]
    pub(super) fail_on_warning: bool,

    /// Read FILE as a block list, too
    #[arg(long, value_name = "FILE", value_parser = parse_path())]
    pub(super) block_file: Vec<PathBuf>,

    /// Read FILE as an allow list, too
    #[arg(long, value_name = "FILE", value_parser = parse_path())]
    pub(super) allow_file: Vec<PathBuf>,

    /// Policies in TOML; `-` is stdin
    #[arg(
        value_name = "FILE",
        required_unless_present_any = ["block_file", "allow_file"],
        value_parser = parse_path()
    )]
    pub(super) files: Vec<PathBuf>,
}

/// Write the smallest policy that would have permitted what runs did
///
/// Reads audit logs, as --audit-log writes them, and prints a policy in TOML. What was
/// blocked by a rule is left out, and said on stderr.
#[derive(Debug, Args)]
#[command(override_usage = "cgfw policy learn [OPTIONS] AUDIT.jsonl...")]
pub(super) struct LearnArgs {
    /// Allow everything below the domain of each name, instead of just the name
    ///
    /// The domain is what is below a public suffix: example.co.uk for www.example.co.uk.
    #[arg(long, env = "CGFW_GENERALISE", visible_alias = "generalize", value_parser = BoolishValueParser::new())]
    pub(super) generalise: bool,

    /// Audit logs; `-` is stdin
    #[arg(required = true, value_name = "AUDIT.jsonl", value_parser = parse_path())]
    pub(super) logs: Vec<PathBuf>,
}

/// Report on runs from their audit logs
///
/// The report of a log is that of its run. A log without an end is reported as far as it
/// goes, and not called clean.
#[derive(Debug, Args)]
#[command(override_usage = "cgfw report [OPTIONS] AUDIT.jsonl...")]
pub(super) struct ReportArgs {
    /// What to write
    #[arg(
        long,
        value_name = "FORMAT",
        env = "CGFW_FORMAT",
        default_value = "text",
        value_parser = EnumValueParser::<formats::Format>::new()
    )]
    pub(super) format: formats::Format,

    /// Colour the text
    #[arg(long, value_name = "WHEN", env = "CGFW_COLOR", default_value = "auto")]
    pub(super) color: Color,

    /// Print the JSON Schema of a line of an audit log, and nothing else
    #[arg(long, conflicts_with = "logs")]
    pub(super) schema: bool,

    /// Audit logs; `-` is stdin
    #[arg(required_unless_present = "schema", value_name = "AUDIT.jsonl", value_parser = parse_path())]
    pub(super) logs: Vec<PathBuf>,
}

/// Compare what runs depend on
///
/// OLD and NEW are audit logs or baselines. What is new is marked with +, what is gone with
/// -, and what has another verdict or other ports with ~. The exit code is 1 if anything is
/// new, and else 0.
#[derive(Debug, Args)]
#[command(override_usage = "cgfw diff [OPTIONS] OLD NEW")]
pub(super) struct DiffArgs {
    /// What to write
    #[arg(
        long,
        value_name = "FORMAT",
        env = "CGFW_FORMAT",
        default_value = "text"
    )]
    pub(super) format: baseline::Format,

    /// Colour the text
    #[arg(long, value_name = "WHEN", env = "CGFW_COLOR", default_value = "auto")]
    pub(super) color: Color,

    /// What was there before; `-` is stdin
    #[arg(value_name = "OLD", value_parser = parse_path())]
    pub(super) old: PathBuf,

    /// What is there now; `-` is stdin
    #[arg(value_name = "NEW", value_parser = parse_path())]
    pub(super) new: PathBuf,
}

/// Write what runs depend on as a baseline, to be committed to a repository
///
/// The same logs give the same baseline, in whatever order. --baseline holds later runs to
/// it, and `cgfw diff` compares.
#[derive(Debug, Args)]
#[command(override_usage = "cgfw baseline AUDIT.jsonl...")]
pub(super) struct BaselineArgs {
    /// Audit logs; `-` is stdin
    #[arg(required = true, value_name = "AUDIT.jsonl", value_parser = parse_path())]
    pub(super) logs: Vec<PathBuf>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
/// Run a command behind the filter
///
/// Everything that the command starts is behind it too, and nothing else on the host is.
/// A PATTERN is a domain, an address or a CIDR, with a port or a range of ports and a
/// protocol if it is to be limited: PATTERN[:PORT[-PORT]][/tcp|/udp].
///
///   github.com             the name and everything below it
///   =github.com            that name only
///   *.github.com           everything below it, not the name itself
///   10.0.0.0/8:22/tcp      SSH to these addresses
///   [2001:db8::/32]:443    an IPv6 network needs brackets before a port
///
/// The longest match wins; on a tie, block does. An --allow for loopback, or for a unix
/// socket by path (/run/docker.sock) or abstract name (@name), says that you know what
/// others do there for the command.
///
/// The exit code is that of the command, 128 and the signal if one ended it, 124 on
/// --timeout, 125 if cgfw failed, 126 if the command cannot be executed, 127 if it cannot
/// be found.
#[derive(Debug, Args)]
#[command(
    override_usage = "cgfw run [OPTIONS] -- COMMAND [ARG]...",
    verbatim_doc_comment
)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) policy: PolicyArgs,

    /// Follow changes of the policy's files
    ///
    /// A file that has changed is read again and holds from then on, for connections that
    /// are open too; one that is wrong is said, and the policy stays as it was. By default
    /// files are read once, at the start.
    #[arg(
        long,
        env = "CGFW_WATCH",
        value_parser = BoolishValueParser::new(),
        hide_short_help = true
    )]
    pub(super) watch: bool,

    /// Refuse nothing, report what would have been blocked
    ///
    /// The opposite, enforcing, is the default.
    #[arg(long, env = "CGFW_AUDIT", value_parser = BoolishValueParser::new())]
    pub(super) audit: bool,

    /// Refuse nothing for now, because of an emergency
    ///
    /// As --audit, and REASON is written into the audit log and the summary, with the time
    /// and the user.
    #[arg(
        long,
        value_name = "REASON",
        env = "CGFW_BREAK_GLASS",
        value_parser = parse_reason,
        hide_short_help = true
    )]
    pub(super) break_glass: Option<String>,

    /// Choose how a block looks to the command
    ///
    /// nxdomain: the name does not exist. refuse: connecting fails at once with
    /// ECONNREFUSED. drop: packets vanish, as in an outage, so that a tool which would
    /// hang shows it.
    #[arg(
        long,
        value_name = "HOW",
        env = "CGFW_ON_BLOCK",
        default_value = "nxdomain",
        value_parser = parse_on_block()
    )]
    pub(super) on_block: OnBlock,

    /// Ask these DNS servers
    ///
    /// Can be repeated, and takes lists with commas. By default those in resolv.conf are
    /// asked, or, if names are allowed by default, the server that the command asks.
    #[arg(
        long,
        value_name = "IP[:PORT]",
        env = "CGFW_UPSTREAM_DNS",
        value_delimiter = ',',
        value_parser = parse_server,
        hide_short_help = true
    )]
    pub(super) upstream_dns: Vec<SocketAddr>,

    /// Fail if anything was blocked
    ///
    /// Exit with CODE, 120 if there is none, where the command succeeded. By default the
    /// exit code is the command's whatever was blocked.
    #[arg(
        long,
        value_name = "CODE",
        env = "CGFW_FAIL_ON_BLOCK",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "120",
        value_parser = value_parser!(u8).range(1..)
    )]
    pub(super) fail_on_block: Option<u8>,

    /// Write what happens to FILE, as JSON lines
    ///
    /// Every name, connection and refusal, each with its process. By default there is no
    /// such file.
    #[arg(
        long,
        value_name = "FILE",
        env = "CGFW_AUDIT_LOG",
        visible_alias = "log-file",
        value_parser = parse_path()
    )]
    pub(super) audit_log: Option<PathBuf>,

    /// Write a report to FILE when the run has ended, as FORMAT=FILE
    ///
    /// Can be repeated. FORMAT is one that `cgfw report` knows; that makes the same of an
    /// audit log, later.
    #[arg(
        long,
        value_name = "FORMAT=FILE",
        env = "CGFW_REPORT",
        value_delimiter = ',',
        value_parser = parse_report
    )]
    pub(super) report: Vec<(formats::Format, PathBuf)>,

    /// Send the run to an OpenTelemetry collector
    ///
    /// As a trace with the lines of the audit log as log records, by OTLP over HTTP, to
    /// URL/v1/traces and URL/v1/logs. The OTEL_* variables of OpenTelemetry hold, too:
    /// OTEL_EXPORTER_OTLP_ENDPOINT alone is enough. By default nothing is sent.
    #[arg(
        long,
        value_name = "URL",
        env = "CGFW_OTLP_ENDPOINT",
        value_parser = NonEmptyStringValueParser::new(),
        hide_short_help = true
    )]
    pub(super) otlp_endpoint: Option<String>,

    /// Fail if the run depends on anything that is not in FILE
    ///
    /// FILE is what `cgfw baseline` has written, or an audit log. The exit code is 121 if
    /// the command itself succeeds and there is something new, or if observations were lost,
    /// so that nobody knows.
    #[arg(long, value_name = "FILE", env = "CGFW_BASELINE", value_parser = parse_path())]
    pub(super) baseline: Option<PathBuf>,

    /// Run the command as user NAME
    ///
    /// By default it runs as whoever called sudo, or else as the caller.
    #[arg(
        long,
        value_name = "NAME",
        env = "CGFW_USER",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub(super) user: Option<String>,

    /// Run the command as root although sudo was used
    ///
    /// By default it runs as whoever called sudo.
    #[arg(
        long,
        env = "CGFW_KEEP_ROOT",
        value_parser = BoolishValueParser::new(),
        hide_short_help = true
    )]
    pub(super) keep_root: bool,

    /// Keep the command from gaining privileges
    ///
    /// sudo and other setuid programs do not work inside then. By default they do, and
    /// the filter holds for what they start.
    #[arg(
        long,
        env = "CGFW_NO_NEW_PRIVS",
        value_parser = BoolishValueParser::new(),
        hide_short_help = true
    )]
    pub(super) no_new_privs: bool,

    /// Hold a command that is root and wants out
    ///
    /// Namespaces with an init, few capabilities, no_new_privs, seccomp, Landlock where the
    /// kernel has it, no descriptors but the standard ones; and the run fails if an
    /// observation is lost. By default root can leave the filter if it means to.
    #[arg(long, env = "CGFW_STRICT", value_parser = BoolishValueParser::new())]
    pub(super) strict: bool,

    /// End the run after TIME
    ///
    /// As in 30s, 5m or 1h 30m; a plain number means seconds. By default a run takes as
    /// long as it takes.
    #[arg(
        long,
        value_name = "TIME",
        env = "CGFW_TIMEOUT",
        allow_negative_numbers = true,
        value_parser = parse_time
    )]
    pub(super) timeout: Option<Duration>,

    /// Choose what happens to processes that outlive the command
    #[arg(
        long,
        value_name = "FATE",
        env = "CGFW_SURVIVORS",
        value_enum,
        default_value_t = Survivors::Kill,
        hide_short_help = true
    )]
    pub(super) survivors: Survivors,

    /// Choose when stderr is coloured
    #[arg(
        long,
        value_name = "WHEN",
        env = "CGFW_COLOR",
        value_enum,
        default_value_t = Color::Auto,
        hide_short_help = true
    )]
    pub(super) color: Color,

    /// Say more on stderr; repeat it for still more
    ///
    /// Once: what is allowed, too. By default only refusals and the summary are said.
    #[arg(short, long, env = "CGFW_VERBOSE", action = clap::ArgAction::Count)]
    pub(super) verbose: u8,

    /// Say nothing on stderr but errors
    ///
    /// Neither refusals nor the summary, which are said by default.
    #[arg(short, long, env = "CGFW_QUIET", value_parser = BoolishValueParser::new())]
    pub(super) quiet: bool,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

fn parse_on_block() -> impl TypedValueParser<Value = OnBlock> {
    PossibleValuesParser::new(["nxdomain", "refuse", "drop"]).map(|text| match text.as_str() {
        "refuse" => OnBlock::Refuse,
        "drop" => OnBlock::Drop,
        _ => OnBlock::NxDomain,
    })
}

/// A reason that says something.
fn parse_reason(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("a reason is words; say what the emergency is"),
        text => Ok(text.to_owned()),
    }
}

/// A DNS server: an address, or an address and a port.
fn parse_server(text: &str) -> Result<SocketAddr, String> {
    const DNS: u16 = 53;
    let text = text.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, DNS));
    }
    text.parse()
        .ok()
        .filter(|server: &SocketAddr| server.port() != 0)
        .ok_or_else(|| {
            "not an address; write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353".to_owned()
        })
}

/// A time as people write it, or a number of seconds.
fn parse_time(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let time = match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_not_plain) => humantime::parse_duration(text).ok(),
    };
    time.filter(|time| !time.is_zero())
        .ok_or_else(|| "not a time; write 30s, 5m, 1h 30m, or a number of seconds".to_owned())
}

/// `FORMAT=FILE`
fn parse_report(text: &str) -> Result<(formats::Format, PathBuf), String> {
    let known = || {
        let names = formats::Format::value_variants().iter();
        let names = names.filter_map(ValueEnum::to_possible_value);
        names
            .map(|name| name.get_name().to_owned())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let Some((format, file)) = text.split_once('=') else {
        return Err(format!("it is FORMAT=FILE, FORMAT one of {}", known()));
    };
    if file.is_empty() {
        return Err("there is no file behind `=`".to_owned());
    }
    let format = formats::Format::from_str(format, false)
        .map_err(|_unknown| format!("`{format}` is no format; there are {}", known()))?;
    Ok((format, file.into()))
}
