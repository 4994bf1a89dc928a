//! What a CI service shows of a run: GitHub Flavored Markdown, as step summaries have it.
//!
//! Untrusted text is only shown as code, in elements in which every character that could mean
//! anything to Markdown, to HTML or to GitHub is a character reference: those are text, whatever
//! stands where (GFM 0.29 section 6.2), and what GitHub links to it does not look for in code.

use std::fmt::Write as _;
use std::time::Duration;

use super::Losses;
use super::finding::{Class, Finding, findings};
use super::mermaid::flowchart;
use super::text::{Elapsed, Octets, Sections, commands, faults, glass, heading, tally};
use crate::audit::Outcome;
use crate::digest::Run;
use crate::escape::Plain;

/// Rows of a table; nobody reads a thousand.
const MAX_ROWS: usize = 500;
/// Characters of a cell.
const MAX_CELL: usize = 200;

/// The report on some runs.
pub fn markdown(runs: &[Run]) -> String {
    pages(runs, MAX_ROWS)
}

/// The same in at most `room` octets, with as many rows as fit; `None` if not even the
/// headings do.
pub fn markdown_within(runs: &[Run], room: usize) -> Option<String> {
    [MAX_ROWS, 100, 20, 5, 0]
        .into_iter()
        .map(|rows| pages(runs, rows))
        .find(|text| text.len() <= room)
}

fn pages(runs: &[Run], rows: usize) -> String {
    let pages: Vec<_> = runs.iter().map(|run| page(run, rows)).collect();
    pages.join("\n")
}

fn page(run: &Run, rows: usize) -> String {
    let sections = Sections::of(run);
    let findings = findings(run, &sections);
    let mut page = Page {
        text: String::new(),
        rows,
    };
    page.line(&format!("### {}", code(&heading(run))));
    page.line("");
    page.verdict(run, &faults(run, &sections, Losses::of(run)));
    let (refused, others): (Vec<_>, Vec<_>) = findings
        .iter()
        .partition(|finding| finding.class <= Class::WouldBlock);
    if !refused.is_empty() {
        page.refused(&refused);
    }
    if rows > 0
        && let Some((graph, left_out)) = flowchart(run)
    {
        page.graph(&graph, left_out);
    }
    if !findings.is_empty() {
        page.all(run, refused.into_iter().chain(others));
    }
    page.text
}

struct Page {
    text: String,
    /// How many a table may have.
    rows: usize,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn verdict(&mut self, run: &Run, faults: &[String]) {
        if let Some(glass) = glass(run) {
            let reason = code(&Plain(glass.reason.as_bytes()).to_string());
            self.line(&format!("**BREAK-GLASS**, nothing was refused: {reason}\n"));
        }
        let cgfw_failed = |outcome| outcome == Outcome::Failed;
        if run.end.as_ref().is_some_and(|end| cgfw_failed(end.outcome)) {
            self.line("**cgfw failed**, and the run was ended.\n");
        }
        if faults.is_empty() {
            self.line("**Clean:** nothing was blocked, and every contact was judged.");
            return;
        }
        self.line("**Not clean:**\n");
        for fault in faults {
            self.line(&format!("- {}", code(fault)));
        }
    }

    /// What somebody has to look at.
    fn refused(&mut self, findings: &[&Finding<'_>]) {
        self.line("\n| Dependency | Rule | Command | And then | Waited |");
        self.line("| --- | --- | --- | --- | --- |");
        for finding in findings.iter().take(self.rows) {
            let class = if finding.class == Class::WouldBlock {
                " would be blocked"
            } else {
                " **blocked**"
            };
            let mut rule = code(&finding.ground().unwrap_or_default());
            // Writing to a string cannot fail.
            if let Some(owner) = finding.owner() {
                let _infallible = write!(rule, "<br>owner: {}", code(&owner));
            }
            if let Some(reason) = finding.reason() {
                let _infallible = write!(rule, "<br>reason: {}", code(&reason));
            }
            let commands: Vec<_> = finding.commands().iter().map(|text| code(text)).collect();
            self.line(&format!(
                "| {}{class} | {rule} | {} | {} | {} |",
                code(finding.name),
                commands.join(" → "),
                finding.outcome().map_or(String::new(), |text| code(&text)),
                finding.waited().unwrap_or_default(),
            ));
        }
        self.rest(findings.len());
    }

    fn graph(&mut self, graph: &str, left_out: usize) {
        self.line(&format!("\n```mermaid\n{graph}```"));
        if left_out > 0 {
            self.line(&format!(
                "\n{left_out} more contacts have no place in the graph; the table has them."
            ));
        }
    }

    /// All targets, folded away.
    fn all<'r>(&mut self, run: &Run, findings: impl Iterator<Item = &'r Finding<'r>>) {
        let findings: Vec<_> = findings.collect();
        let count = findings.len();
        self.line(&format!(
            "\n<details>\n<summary>All that was contacted ({count})</summary>\n"
        ));
        self.line(
            "| Contacted | Verdict | How often | First after | Traffic | Waited | Commands |",
        );
        self.line("| --- | --- | --- | --- | --- | --- | --- |");
        for finding in findings.iter().take(self.rows) {
            let total = finding.total;
            let began = run.began.unwrap_or(total.first);
            let since: Duration = total.first.duration_since(began).unwrap_or_default();
            let traffic = total.traffic;
            let traffic = match traffic.connections {
                0 => String::new(),
                _ => format!(
                    "{} in, {} out",
                    Octets(traffic.received),
                    Octets(traffic.sent)
                ),
            };
            let commands: Vec<_> = commands(total).iter().map(|text| code(text)).collect();
            self.line(&format!(
                "| {} | {} | {} | {} | {traffic} | {} | {} |",
                code(finding.name),
                finding.class.words(),
                tally(total),
                Elapsed(since),
                finding.waited().unwrap_or_default(),
                commands.join("<br>"),
            ));
        }
        self.rest(count);
        self.line("\n</details>");
    }

    /// Say how many of `total` rows had no place.
    fn rest(&mut self, total: usize) {
        let left_out = total.saturating_sub(self.rows);
        if left_out > 0 {
            self.line(&format!(
                "\nand {left_out} more (the audit log has them all)"
            ));
        }
    }
}

/// Text that is shown as it is, cut, whatever is in it.
pub fn code(text: &str) -> String {
    let mut code = "<code>".to_owned();
    let is_cut = text.chars().count() > MAX_CELL;
    let mut last = [' '; 3];
    for c in text.chars().take(MAX_CELL) {
        let is_web = last.iter().all(|c| c.eq_ignore_ascii_case(&'w')) && c == '.';
        let is_plain = c.is_alphanumeric() || matches!(c, ' ' | '.' | ',' | '/' | '-');
        if c == '@' {
            // An element between them keeps an address from being taken for that of a mailbox.
            code.push_str("<wbr>&#64;");
        } else if is_plain && !is_web {
            code.push(c);
        } else {
            // Writing to a string cannot fail.
            let _infallible = write!(code, "&#{};", u32::from(c));
        }
        last = [last[1], last[2], c];
    }
    if is_cut {
        code.push('…');
    }
    code.push_str("</code>");
    code
}
