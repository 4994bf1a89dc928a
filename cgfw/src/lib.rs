/*!
cgfw runs a command in a filtered cgroup.

Vocabulary, pure: [`policy`], [`event`], [`ledger`], [`pins`]. Stages, which touch the
world and never import each other: [`cgroup`], [`bpf`], [`dns`], [`child`], [`host`], [`peers`],
[`sources`], [`report`], [`otlp`].
[`run`] alone knows the order, [`why`] explains, [`check`] and [`learn`] run nothing, [`cli`] is
what was typed, [`exit`] the exit codes.
*/

pub mod audit;
pub mod baseline;
pub mod bpf;
pub mod cgroup;
pub mod check;
pub mod child;
pub mod cli;
pub mod digest;
pub mod dns;
pub mod escape;
pub mod event;
pub mod exit;
pub mod formats;
pub mod host;
pub mod learn;
pub mod ledger;
pub mod logs;
pub mod otlp;
pub mod peers;
pub mod pins;
pub mod policy;
pub mod report;
pub mod run;
pub mod sources;
mod watch;
pub mod why;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::{Invocation, Stop};
use crate::digest::Digest;
use crate::formats::Style;

/// The whole program: parse, do, and say once what went wrong.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let failure = match cli::parse(args) {
        Ok(invocation) => match invoke(invocation) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => format!("{error:#}"),
        },
        Err(Stop::Told(text)) => {
            return match io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_closed) => ExitCode::from(exit::FAILED),
            };
        }
        Err(Stop::Usage(text)) => text,
    };
    exit::complain(&failure);
    ExitCode::from(exit::FAILED)
}

fn invoke(invocation: Invocation) -> anyhow::Result<u8> {
    match invocation {
        Invocation::Run(settings) => {
            log_to_stderr(&settings);
            run::run(&settings)
        }
        Invocation::Check(settings) => {
            let checked = check::check(&settings)?;
            for note in &checked.notes {
                exit::complain(note);
            }
            let fails = settings.fail_on_warning && checked.warnings > 0;
            print(&checked.report).map(|done| if fails { exit::NO } else { done })
        }
        Invocation::Learn(settings) => {
            let learned = learn::learn(&settings)?;
            for note in &learned.notes {
                exit::complain(note);
            }
            print(&learned.policy)
        }
        Invocation::Schema => print(policy::SCHEMA),
        Invocation::Report(settings) => report_on(&settings),
        Invocation::AuditSchema => print(audit::JSON_SCHEMA),
        Invocation::Diff(settings) => {
            let changes = baseline::diff(&settings)?;
            for doubt in &changes.doubts {
                exit::complain(doubt);
            }
            let style = style_of_stdout(settings.color);
            print(&changes.render(settings.format, style))
                .map(|done| if changes.any_new() { exit::NO } else { done })
        }
        Invocation::Baseline(settings) => {
            let (text, notes) = baseline::baseline(&settings)?;
            for note in &notes {
                exit::complain(note);
            }
            print(&text)
        }
        Invocation::Why(why) => why::why(&why),
    }
}

/// Make a report of logs.
fn report_on(settings: &cli::Report) -> anyhow::Result<u8> {
    let mut digest = Digest::default();
    for note in logs::read(&settings.logs, |line| digest.add(&line))? {
        exit::complain(&note);
    }
    let style = style_of_stdout(settings.color);
    print(&formats::render(settings.format, digest.runs(), style))
}

fn style_of_stdout(color: cli::Color) -> Style {
    let stdout = io::stdout();
    Style {
        color: color.is_on(stdout.is_terminal(), host::no_color()),
        width: host::terminal_width(&stdout),
    }
}

/// Write what was asked for to stdout.
fn print(text: &str) -> anyhow::Result<u8> {
    io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to stdout")?;
    Ok(0)
}

/// Our own log, and that of the eBPF programs and the libraries from -vvv on.
fn log_to_stderr(settings: &cli::Run) {
    let (own, others) = match (settings.quiet, settings.verbose) {
        (true, _) => (LevelFilter::ERROR, LevelFilter::OFF),
        (false, 0) => (LevelFilter::WARN, LevelFilter::OFF),
        (false, 1) => (LevelFilter::INFO, LevelFilter::OFF),
        (false, 2) => (LevelFilter::DEBUG, LevelFilter::OFF),
        (false, _) => (LevelFilter::TRACE, LevelFilter::DEBUG),
    };
    let filter = Targets::new().with_default(others).with_target("cgfw", own);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(
            settings
                .color
                .is_on(io::stderr().is_terminal(), host::no_color()),
        )
        .with_target(false)
        .without_time();
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .init();
}
