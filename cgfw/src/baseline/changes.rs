//! What is different between what runs depended on before, and what they depend on now.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

use super::dependencies::{Dependencies, Dependency};
use crate::digest::Target;
use crate::escape::Plain;
use crate::event::Verdict;
use crate::formats::{Paint, Style, code};

/// What a diff is written as (`--format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line for each, for people
    Text,
    /// One JSON document
    Json,
    /// For a comment on a pull request
    Markdown,
}

/// Everything that is different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    changes: Vec<Change>,
    /// What may be different as well, and what may not, because something is not known.
    pub doubts: Vec<String>,
}

/// A dependency before and after; never the same, and never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub target: Target,
    pub old: Option<Dependency>,
    pub new: Option<Dependency>,
}

impl Changes {
    pub fn between(old: &Dependencies, new: &Dependencies) -> Self {
        let targets: BTreeSet<&Target> = old.0.keys().chain(new.0.keys()).collect();
        let changes = targets.into_iter().filter_map(|target| {
            let (old, new) = (old.0.get(target), new.0.get(target));
            let is_same = old.zip(new).is_some_and(|(old, new)| old.is_like(new));
            (!is_same).then(|| Change {
                target: target.clone(),
                old: old.cloned(),
                new: new.cloned(),
            })
        });
        let mut changes: Vec<Change> = changes.collect();
        changes.sort_by_key(Change::kind);
        Self {
            changes,
            doubts: Vec::new(),
        }
    }

    /// What is new first, and what has changed last.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter()
    }

    /// Whether there is anything that was not there before.
    pub fn any_new(&self) -> bool {
        self.iter().any(|change| change.kind() == Kind::New)
    }

    /// The changes as `format` has them, whole lines.
    pub fn render(&self, format: Format, style: Style) -> String {
        match format {
            Format::Text => self.text(style),
            Format::Json => self.json(),
            Format::Markdown => self.markdown(),
        }
    }

    fn text(&self, style: Style) -> String {
        let mut text = String::new();
        for change in &self.changes {
            let (sign, paint) = match change.kind() {
                Kind::New => ('+', Paint::Red),
                Kind::Gone => ('-', Paint::Green),
                Kind::Changed => ('~', Paint::Yellow),
            };
            let target = change.target.to_string();
            let line = format!("{sign} {}  {}", Plain(target.as_bytes()), change.what());
            text.push_str(&style.paint(paint, &line));
            text.push('\n');
            for command in change.commands() {
                // Writing to a string cannot fail.
                let _infallible = writeln!(text, "    {}", Plain(command.as_bytes()));
            }
        }
        text + &self.tally() + "\n"
    }

    fn markdown(&self) -> String {
        let mut text = format!("## Dependencies: {}\n", self.tally());
        if !self.changes.is_empty() {
            text.push_str("\n| | Dependency | Use | Commands |\n| --- | --- | --- | --- |\n");
        }
        for change in &self.changes {
            let kind = match change.kind() {
                Kind::New => "**new**",
                Kind::Gone => "gone",
                Kind::Changed => "changed",
            };
            let code = |text: &str| code(&Plain(text.as_bytes()).to_string());
            let target = code(&change.target.to_string());
            let commands: Vec<String> = change.commands().map(|one| code(one)).collect();
            // Writing to a string cannot fail.
            let _infallible = writeln!(
                text,
                "| {kind} | {target} | {} | {} |",
                code(&change.what()),
                commands.join("<br>")
            );
        }
        for doubt in &self.doubts {
            let _infallible = writeln!(text, "\n> **Not known:** {}", code(doubt));
        }
        text
    }

    /// `1 new, 0 gone, 2 changed`
    fn tally(&self) -> String {
        let count = |kind| self.iter().filter(|change| change.kind() == kind).count();
        let [new, gone, changed] = [Kind::New, Kind::Gone, Kind::Changed].map(count);
        format!("{new} new, {gone} gone, {changed} changed")
    }

    fn json(&self) -> String {
        #[derive(Serialize)]
        struct Entry<'c> {
            change: Kind,
            target: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            old: Option<&'c Dependency>,
            #[serde(skip_serializing_if = "Option::is_none")]
            new: Option<&'c Dependency>,
        }
        #[derive(Serialize)]
        struct Document<'c> {
            schema: u32,
            changes: Vec<Entry<'c>>,
            /// Empty if everything is known.
            doubts: &'c [String],
        }
        let entries = self.iter().map(|change| Entry {
            change: change.kind(),
            target: change.target.to_string(),
            old: change.old.as_ref(),
            new: change.new.as_ref(),
        });
        let document = Document {
            schema: 1,
            changes: entries.collect(),
            doubts: &self.doubts,
        };
        let text = crate::audit::encode(&document);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What has become of a dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    New,
    Gone,
    Changed,
}

impl Change {
    fn kind(&self) -> Kind {
        match (&self.old, &self.new) {
            (None, _) => Kind::New,
            (_, None) => Kind::Gone,
            (Some(_), Some(_)) => Kind::Changed,
        }
    }

    /// The verdict and the ports, and what they were if that was something else.
    fn what(&self) -> String {
        let state = |dependency: &Dependency| {
            let ports = dependency
                .ports
                .iter()
                .map(|port| Plain(port.as_bytes()).to_string());
            let ports: Vec<String> = ports.collect();
            match &ports[..] {
                [] => verdict(dependency.verdict).to_owned(),
                ports => format!("{}, {}", verdict(dependency.verdict), ports.join(" ")),
            }
        };
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => format!("{} (was {})", state(new), state(old)),
            (one, other) => one.as_ref().or(other.as_ref()).map_or(String::new(), state),
        }
    }

    /// Who needs it, or did.
    fn commands(&self) -> impl Iterator<Item = &String> {
        let dependency = self.new.as_ref().or(self.old.as_ref());
        dependency.into_iter().flat_map(|one| &one.commands)
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "allowed",
        Verdict::Blocked => "blocked",
        Verdict::WouldBlock => "would be blocked",
    }
}
