//! Which command needed what, as a flowchart in Mermaid's language.
//!
//! Untrusted text only goes into quoted labels, in which every character that could mean
//! anything is an entity (`#35;`).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::text::title;
use crate::digest::{Node, Run, Target};
use crate::escape::Plain;
use crate::event::Verdict;

/// Nodes beyond which nobody can read it.
const MAX_NODES: usize = 40;
/// Characters of a label.
const MAX_LABEL: usize = 60;

/// The flowchart of a run, and how many pairs of a command and a target have no place in it;
/// `None` if nobody is known to have contacted anything.
pub(super) fn flowchart(run: &Run) -> Option<(String, usize)> {
    let mut graph = Graph::default();
    let mut edges: Vec<_> = run
        .processes
        .iter()
        .flat_map(|(key, node)| node.deeds.iter().map(move |deed| (key, deed)))
        .collect();
    // What was refused is what the reader came for.
    edges.sort_by_key(|(_, deed)| deed.verdict == Verdict::Allowed);
    let mut left_out = 0;
    for (key, deed) in edges {
        let upwards = run.processes.chain(key).map(|(_, node)| node);
        let mut chain: Vec<_> = upwards.collect();
        chain.reverse();
        if !graph.add(&chain, &deed.target, deed.verdict) {
            left_out += 1;
        }
    }
    (!graph.commands.is_empty()).then(|| (graph.render(), left_out))
}

/// A command with those above it: processes that did the same share a node.
type Place = (Option<usize>, Arc<str>);

#[derive(Default)]
struct Graph<'r> {
    /// In the order in which they were added.
    commands: Vec<Place>,
    places: HashMap<Place, usize>,
    targets: Vec<(&'r Target, Verdict)>,
    numbers: HashMap<&'r Target, usize>,
    edges: Vec<(usize, usize, Verdict)>,
}

impl<'r> Graph<'r> {
    /// Whether there was room.
    fn add(&mut self, chain: &[&Node], target: &'r Target, verdict: Verdict) -> bool {
        let new = self.missing(chain) + usize::from(!self.numbers.contains_key(target));
        if self.commands.len() + self.targets.len() + new > MAX_NODES {
            return false;
        }
        let mut above = None;
        for node in chain {
            above = Some(self.command((above, Arc::clone(&node.command))));
        }
        let Some(command) = above else {
            return false;
        };
        let number = *self.numbers.entry(target).or_insert_with(|| {
            self.targets.push((target, verdict));
            self.targets.len() - 1
        });
        let worst = &mut self.targets[number].1;
        *worst = verdict.max(*worst);
        let edge = (command, number, verdict);
        if !self.edges.contains(&edge) {
            self.edges.push(edge);
        }
        true
    }

    /// How many commands of the chain have no node.
    fn missing(&self, chain: &[&Node]) -> usize {
        let mut above = None;
        for (depth, node) in chain.iter().enumerate() {
            match self.places.get(&(above, Arc::clone(&node.command))) {
                Some(number) => above = Some(*number),
                None => return chain.len() - depth,
            }
        }
        0
    }

    fn command(&mut self, place: Place) -> usize {
        *self.places.entry(place).or_insert_with_key(|place| {
            self.commands.push(place.clone());
            self.commands.len() - 1
        })
    }

    fn render(&self) -> String {
        let mut text = "flowchart LR\n".to_owned();
        // Writing to a string cannot fail.
        for (number, (above, command)) in self.commands.iter().enumerate() {
            let label = label(&Plain(command.as_bytes()).to_string());
            let _infallible = writeln!(text, "  c{number}[\"{label}\"]");
            if let Some(above) = above {
                let _infallible = writeln!(text, "  c{above} --> c{number}");
            }
        }
        for (number, (target, verdict)) in self.targets.iter().enumerate() {
            let label = label(&title(target));
            let _infallible = match verdict {
                Verdict::Blocked => writeln!(text, "  t{number}([\"{label}\"]):::blocked"),
                Verdict::WouldBlock => writeln!(text, "  t{number}([\"{label}\"]):::would"),
                Verdict::Allowed => writeln!(text, "  t{number}([\"{label}\"])"),
            };
        }
        for (command, target, verdict) in &self.edges {
            let _infallible = match verdict {
                Verdict::Blocked => writeln!(text, "  c{command} -- \"blocked\" --x t{target}"),
                Verdict::WouldBlock => {
                    writeln!(text, "  c{command} -. \"would be blocked\" .-> t{target}")
                }
                Verdict::Allowed => writeln!(text, "  c{command} --> t{target}"),
            };
        }
        text.push_str("  classDef blocked stroke:#d1242f,stroke-width:3px\n");
        text.push_str("  classDef would stroke:#bf8700,stroke-width:3px\n");
        text
    }
}

/// Text that a quoted label shows as it is, cut.
fn label(text: &str) -> String {
    if text.trim().is_empty() {
        // The grammar knows no empty label.
        return "#34;#34;".to_owned();
    }
    let mut label = String::new();
    let is_cut = text.chars().count() > MAX_LABEL;
    let room = if is_cut { MAX_LABEL - 1 } else { MAX_LABEL };
    for c in text.chars().take(room) {
        if c.is_alphanumeric() || matches!(c, ' ' | '.' | '/' | '-') {
            label.push(c);
        } else {
            // Writing to a string cannot fail.
            let _infallible = write!(label, "#{};", u32::from(c));
        }
    }
    if is_cut {
        label.push('…');
    }
    label
}
