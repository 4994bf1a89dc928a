/*!
Reports: what a digest says, in a form that people or other tools read. Pure.
*/

mod finding;
mod github;
mod html;
mod json;
mod junit;
mod markdown;
mod mermaid;
mod sarif;
mod style;
mod text;

pub use self::github::github;
pub use self::html::html;
pub use self::json::json;
pub use self::junit::junit;
pub use self::markdown::{code, markdown, markdown_within};
pub use self::sarif::sarif;
pub use self::style::{Paint, Style};
pub use self::text::{Detail, text};
use crate::digest::Run;

/// What a report is written as (`--format`, `--report FORMAT=FILE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The summary, for people
    Text,
    /// One JSON document, for other programs
    Json,
    /// Markdown with a graph, as for a GitHub step summary
    Markdown,
    /// JUnit XML: each dependency a test, what was blocked a failure
    Junit,
    /// SARIF 2.1.0, as for code scanning
    Sarif,
    /// Workflow commands of GitHub Actions, which annotate the job
    Github,
    /// One file for the browser
    Html,
}

/// Lines that could not be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    pub stderr: u64,
    pub audit_log: u64,
}

/// The report on some runs, whole lines.
pub fn render(format: Format, runs: &[Run], style: Style) -> String {
    match format {
        Format::Text => {
            let summary = |run| text(run, Detail::Report, Losses::of(run), style);
            runs.iter().map(summary).collect::<Vec<_>>().join("\n")
        }
        Format::Json => json(runs),
        Format::Markdown => markdown(runs),
        Format::Junit => junit(runs),
        Format::Sarif => sarif(runs),
        Format::Github => github(runs),
        Format::Html => html(runs),
    }
}

impl Losses {
    /// What the log of a run owns up to.
    pub fn of(run: &Run) -> Self {
        Self {
            stderr: 0,
            audit_log: run.end.as_ref().map_or(0, |end| end.lines_lost),
        }
    }
}

#[cfg(test)]
mod tests;
