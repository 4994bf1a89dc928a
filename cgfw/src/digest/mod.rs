/*!
What the lines of audit logs add up to: runs, whom they contacted, and which processes did.

Pure. A run that is going on and a log that is read back give the same digest, and so the same
reports. Everything that a run can make grow is bounded, and what found no room is counted.
*/

mod processes;
mod run;
mod targets;

use std::collections::HashMap;

pub use self::processes::{Deed, Ending, Node, ProcessKey, Processes};
pub use self::run::{Kind, Moment, Run};
pub use self::targets::{
    Consequence, Delegated, Listener, Target, Targets, Total, Traffic, is_dynamic,
};
use crate::audit::Line;

/// Some runs.
#[derive(Debug, Default)]
pub struct Digest {
    runs: Vec<Run>,
    by_id: HashMap<String, usize>,
}

impl Digest {
    /// Enter a line.
    pub fn add(&mut self, line: &Line) {
        let at = self.by_id.get(&line.run).copied().unwrap_or_else(|| {
            let id = &line.run;
            self.by_id.insert(id.clone(), self.runs.len());
            self.runs.push(Run::new(id.clone()));
            self.runs.len() - 1
        });
        self.runs[at].add(line);
    }

    /// The runs in the order in which they began.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }
}
