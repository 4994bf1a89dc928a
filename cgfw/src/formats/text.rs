//! What a person reads at the end: the summary.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use super::{Losses, Paint, Style};
use crate::audit::{Fate, Glass, Outcome, RunEnd, Survivor};
use crate::digest::{Consequence, Delegated, Listener, Node, ProcessKey, Run, Target, Total};
use crate::escape::{Plain, command_line};
use crate::event::Verdict;

/// Rows of each section; nobody reads a thousand.
const MAX_ROWS: usize = 100;
/// Columns of a summary's names at most; longer ones push the rest of their row aside.
const MAX_NAME_COLUMN: usize = 44;

/// Lines of the tree of processes.
const MAX_TREE: usize = 500;
/// How deep its lines are indented.
const MAX_DEPTH: usize = 20;
/// Less time than this is not lost.
const NOTABLE: Duration = Duration::from_secs(1);

/// Names in one clause of the verdict.
const MAX_LISTED: usize = 3;
/// Whoever else there is.
const OTHERS: &str = "others";

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What fits below what the command has written itself.
    Summary,
    /// Also when it was, who did what, and what it used.
    Report,
}

/// The report on a run, as whole lines.
pub fn text(run: &Run, detail: Detail, losses: Losses, style: Style) -> String {
    let mut page = Page {
        text: String::new(),
        style,
        run,
        detail,
    };
    page.line(&style.paint(Paint::Bold, &style.fit(&heading(run))));
    page.break_glass(glass(run));
    if let Some(end) = &run.end {
        page.survivors(end);
    }
    page.moved(run);
    let sections = Sections::of(run);
    let went_on = match run.failed() {
        Some(false) => ", and the command went on",
        Some(true) | None => "",
    };
    page.section("blocked", went_on, Paint::Red, &sections.blocked);
    page.section("would be blocked", "", Paint::Yellow, &sections.would_block);
    page.section("allowed", "", Paint::Green, &sections.allowed);
    page.section("not judged by name", "", Paint::Yellow, &sections.unjudged);
    page.section("through others", "", Paint::Yellow, &sections.delegated);
    if run.targets.is_empty() {
        page.line("  nothing was contacted");
    }
    page.news(run);
    if detail == Detail::Report {
        page.processes();
        page.usage();
    }
    let faults = faults(run, &sections, losses);
    if faults.is_empty() {
        let verdict = "clean: nothing was blocked, and every contact was judged";
        page.line(&style.paint(Paint::Green, verdict));
    } else {
        let verdict = format!("not clean: {}", faults.join(", "));
        page.line(&style.paint(Paint::Yellow, &verdict));
    }
    page.text
}

pub(super) fn heading(run: &Run) -> String {
    let command = match &run.start {
        Some(start) => Plain(&command_line(&start.argv, b"", false)).to_string(),
        None => format!("run {}", Plain(run.id.as_bytes())),
    };
    match &run.end {
        Some(end) => {
            let elapsed = Duration::from_micros(end.elapsed_us);
            format!("cgfw: {command} {} after {}", ending(end), Elapsed(elapsed))
        }
        None => format!("cgfw: {command}"),
    }
}

/// Why nothing was refused, if that is so.
pub(super) fn glass(run: &Run) -> Option<&Glass> {
    run.start.as_ref()?.break_glass.as_ref()
}

/// A target's name or address, and what happened to it.
pub(super) type Row<'t> = (String, &'t Total);

/// The targets by what became of them, names before addresses, in their order; what was
/// blocked by its owners first, and what has none last.
#[derive(Default)]
pub(super) struct Sections<'t> {
    pub(super) blocked: Vec<Row<'t>>,
    pub(super) would_block: Vec<Row<'t>>,
    pub(super) allowed: Vec<Row<'t>>,
    pub(super) unjudged: Vec<Row<'t>>,
    /// What was done for the child by others, unseen.
    pub(super) delegated: Vec<Row<'t>>,
}

impl<'t> Sections<'t> {
    pub(super) fn of(run: &'t Run) -> Self {
        let mut sections = Self::default();
        let mut targets: Vec<_> = run
            .targets
            .iter()
            .map(|(target, total)| (kind(target), title(target), total))
            .collect();
        targets.sort_by(|(kind, title, _), (other_kind, other, _)| {
            (kind, title).cmp(&(other_kind, other))
        });
        for (_, title, total) in targets {
            let section = match total.verdict {
                Verdict::Blocked => &mut sections.blocked,
                Verdict::WouldBlock => &mut sections.would_block,
                Verdict::Allowed if total.delegated.is_some() => &mut sections.delegated,
                Verdict::Allowed if total.unjudged => &mut sections.unjudged,
                Verdict::Allowed => &mut sections.allowed,
            };
            section.push((title, total));
        }
        for section in [&mut sections.blocked, &mut sections.would_block] {
            section.sort_by_key(|(_, total)| {
                let owner = owner(total);
                (owner.is_none(), owner)
            });
        }
        sections
    }
}

/// Everything that keeps the run from being called clean, as clauses.
pub(super) fn faults(run: &Run, sections: &Sections<'_>, losses: Losses) -> Vec<String> {
    let glass = glass(run).map(|_| "--break-glass refused nothing".to_owned());
    let unjudged = run
        .targets
        .iter()
        .filter(|(_, total)| total.unjudged)
        .count();
    let unjudged = counted(
        unjudged,
        "contact was",
        "contacts were",
        "not judged by name",
    );
    glass
        .into_iter()
        .chain(refusals(sections).into_iter().flatten())
        .chain(counted(
            news(run).len(),
            "dependency is",
            "dependencies are",
            "not in the baseline",
        ))
        .chain(unjudged)
        .chain(losses_of(run, losses))
        .chain(unseen(sections))
        .chain(unknowns(run))
        .collect()
}

/// The clauses on what keeps the report from being complete.
pub(super) fn gaps(run: &Run, losses: Losses) -> Vec<String> {
    losses_of(run, losses).chain(unknowns(run)).collect()
}

/// The clauses on what is not known of the run as a whole.
fn unknowns(run: &Run) -> impl Iterator<Item = String> {
    let end = run.end.as_ref();
    let failed = end.is_some_and(|end| end.outcome == Outcome::Failed);
    let unknowns = [
        (failed, "cgfw ended the run"),
        (
            run.start.is_none(),
            "the log has no start of this run: what it did before is not known",
        ),
        (
            end.is_none(),
            "the log has no end of this run: what it did afterwards is not known",
        ),
    ];
    let caveats = end.map_or(&[][..], |end| &end.caveats);
    unknowns
        .into_iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, clause)| clause.to_owned())
        .chain(
            caveats
                .iter()
                .map(|text| Plain(text.as_bytes()).to_string()),
        )
}

fn news(run: &Run) -> &[String] {
    let news = run.end.as_ref().and_then(|end| end.new.as_deref());
    news.unwrap_or_default()
}

/// The clauses on what was lost, or got away.
fn losses_of(run: &Run, losses: Losses) -> impl Iterator<Item = String> {
    let released = match &run.end {
        Some(RunEnd {
            fate: Some(Fate::Released),
            survivors,
            ..
        }) => survivors.len(),
        _ => 0,
    };
    let forgotten = run.end.as_ref().map_or(0, |end| end.forgotten);
    let gaps = [
        counted(run.lost, "observation was", "observations were", "lost"),
        counted(
            run.targets.uncounted + forgotten,
            "observation was",
            "observations were",
            "too many for this summary",
        ),
        counted(
            losses.audit_log,
            "line of the audit log was",
            "lines of the audit log were",
            "lost",
        ),
        counted(losses.stderr, "line here was", "lines here were", "lost"),
        counted(released, "process goes on", "processes go on", "unfiltered"),
        counted(
            moves(run),
            "process was",
            "processes were",
            "moved out of the cgroup",
        ),
    ];
    gaps.into_iter().flatten()
}

/// The clauses on what was refused, with whom to ask.
fn refusals(sections: &Sections<'_>) -> [Option<String>; 2] {
    let (blocked, would_block) = (&sections.blocked, &sections.would_block);
    let asking = |what: &str, rows| format!("{what}{}", turn_to(rows));
    [
        counted(
            blocked.len(),
            "target was",
            "targets were",
            &asking("blocked", blocked),
        ),
        counted(
            would_block.len(),
            "target",
            "targets",
            &asking("would be blocked", would_block),
        ),
    ]
}

/// How many processes were moved out, at least.
fn moves(run: &Run) -> u64 {
    u64::try_from(run.moved.len()).unwrap_or(u64::MAX) + run.more_moved
}

/// The clause about delegation that no rule acknowledges.
fn unseen(sections: &Sections<'_>) -> Option<String> {
    let mut doers = Vec::new();
    let mut count = 0_u64;
    for (title, total) in sections.blocked.iter().chain(&sections.delegated) {
        let Some(delegated) = &total.delegated else {
            continue;
        };
        // Who was refused did nothing; but a proxy can be refused at one port and used at
        // another.
        let was_used = total.verdict == Verdict::Allowed || delegated.via.is_some();
        if !(was_used && delegated.unacknowledged) {
            continue;
        }
        count += 1;
        for doer in names_of(title, delegated) {
            if !doers.contains(&doer) {
                doers.push(doer);
            }
        }
    }
    let verb = if doers.len() == 1 && doers[0] != OTHERS {
        "does"
    } else {
        "do"
    };
    let doers = listed(doers)?;
    let what = format!("what {doers} {verb} is not seen");
    counted(count, "delegation:", "delegations:", &what)
}

/// Whom to ask about what was blocked: ` (ask team-a and team-b)`, nothing if nobody is
/// named.
fn turn_to(rows: &[Row<'_>]) -> String {
    let mut owners: Vec<&str> = rows.iter().filter_map(|(_, total)| owner(total)).collect();
    owners.dedup();
    let plain = |owner: &str| Plain(owner.as_bytes()).to_string();
    listed(owners.into_iter().map(plain).collect())
        .map_or_else(String::new, |owners| format!(" (ask {owners})"))
}

/// `a`, `a and b`, `a, b and others`: the sections have them all.
fn listed(mut names: Vec<String>) -> Option<String> {
    if names.len() > MAX_LISTED {
        names.truncate(MAX_LISTED - 1);
        names.push(OTHERS.to_owned());
    }
    let last = names.pop()?;
    Some(match &names[..] {
        [] => last,
        first => format!("{} and {last}", first.join(", ")),
    })
}

/// Who does the network for the child at this target.
fn names_of(title: &str, delegated: &Delegated) -> Vec<String> {
    if delegated.via.is_some() {
        return vec![title.to_owned()];
    }
    if delegated.listeners.is_empty() {
        return vec![OTHERS.to_owned()];
    }
    let comm = |peer: &Listener| Plain(peer.comm.as_bytes()).to_string();
    delegated.listeners.iter().map(comm).collect()
}

/// How wide the columns of a section are.
#[derive(Clone, Copy)]
struct Columns {
    name: usize,
    count: usize,
}

/// The report as it is being written.
struct Page<'r> {
    text: String,
    style: Style,
    run: &'r Run,
    detail: Detail,
}

impl Page<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn break_glass(&mut self, glass: Option<&Glass>) {
        let Some(Glass { reason, user, uid }) = glass else {
            return;
        };
        let reason = Plain(reason.as_bytes());
        let user = user
            .as_ref()
            .map_or_else(String::new, |user| format!("{}, ", Plain(user.as_bytes())));
        let row = format!("  BREAK-GLASS, nothing was refused: {reason} ({user}uid {uid})");
        self.line(&self.style.paint(Paint::Red, &row));
    }

    fn survivors(&mut self, end: &RunEnd) {
        let (fate, paint) = match end.fate {
            _ if end.survivors.is_empty() => return,
            None => return,
            Some(Fate::Ended) => ("were ended", Paint::Yellow),
            Some(Fate::Awaited) => ("were waited for", Paint::Yellow),
            Some(Fate::Released) => ("go on UNFILTERED", Paint::Red),
        };
        let title = format!(
            "  outlived the command and {fate} ({})",
            end.survivors.len()
        );
        self.line(&self.style.paint(paint, &title));
        for Survivor { pid, comm, argv } in end.survivors.iter().take(MAX_ROWS) {
            let command = command_line(argv, comm.as_bytes(), false);
            self.line(&self.style.fit(&format!("    {pid}  {}", Plain(&command))));
        }
        self.rest(end.survivors.len());
    }

    fn moved(&mut self, run: &Run) {
        if run.moved.is_empty() {
            return;
        }
        let title = format!("  moved out of the cgroup ({})", moves(run));
        self.line(&self.style.paint(Paint::Red, &title));
        for moved in &run.moved {
            let fate = match (moved.is_back, &moved.cgroup) {
                (true, _) => "back inside",
                // Nobody is in no cgroup.
                (false, None) => "UNFILTERED until it ended",
                (false, Some(_)) => "UNFILTERED since",
            };
            let process = &moved.process;
            let truncated = process.argv_truncated;
            let command = command_line(&process.argv, process.comm.as_bytes(), truncated);
            let mut row = format!("    {}  {}  ({fate}", process.pid, Plain(&command));
            if let Some(cgroup) = &moved.cgroup {
                // Writing to a string cannot fail.
                let _infallible = write!(row, ", {}", Plain(cgroup.as_bytes()));
            }
            row.push(')');
            self.line(&self.style.fit(&row));
        }
    }

    /// What is not in the baseline.
    fn news(&mut self, run: &Run) {
        let news = news(run);
        if news.is_empty() {
            return;
        }
        let title = format!("  new, not in the baseline ({})", news.len());
        self.line(&self.style.paint(Paint::Red, &title));
        for target in news.iter().take(MAX_ROWS) {
            self.line(&self.style.fit(&format!("    {}", Plain(target.as_bytes()))));
        }
        self.rest(news.len());
    }

    fn section(&mut self, title: &str, outcome: &str, paint: Paint, rows: &[Row<'_>]) {
        if rows.is_empty() {
            return;
        }
        let title = format!("  {title} ({}){outcome}", rows.len());
        self.line(&self.style.paint(paint, &title));
        let shown = &rows[..rows.len().min(MAX_ROWS)];
        let columns = Columns {
            name: column(shown.iter().map(|(name, _)| name.chars().count())),
            count: column(shown.iter().map(|(_, total)| tally(total).chars().count())),
        };
        if shown.iter().all(|(_, total)| owner(total).is_none()) {
            self.rows(shown, 4, columns);
        } else {
            let mut room = MAX_ROWS;
            for group in rows.chunk_by(|(_, one), (_, other)| owner(one) == owner(other)) {
                if room == 0 {
                    break;
                }
                let title = match owner(group[0].1) {
                    Some(owner) => format!("owner: {}", Plain(owner.as_bytes())),
                    None => "no owner".to_owned(),
                };
                let title = format!("    {title} ({})", group.len());
                self.line(&self.style.fit(&title));
                let shown = group.len().min(room);
                self.rows(&group[..shown], 6, columns);
                room -= shown;
            }
        }
        self.rest(rows.len());
    }

    fn rows(&mut self, rows: &[Row<'_>], margin: usize, columns: Columns) {
        for (name, total) in rows {
            let (name_width, count_width) = (columns.name, columns.count);
            let mut commands = commands(total).into_iter();
            let first = commands.next().unwrap_or_default();
            let count = tally(total);
            let since = match self.detail {
                Detail::Report => since(self.run, total.first),
                Detail::Summary => String::new(),
            };
            let row = format!(
                "{:margin$}{since}{name:name_width$}  {count:count_width$}  {first}",
                ""
            );
            self.line(self.style.fit(&row).trim_end());
            let indent = " ".repeat(since.len() + margin + name_width + 2 + count_width + 2);
            let grounds = grounds(total).into_iter().chain(aftermath(self.run, total));
            for command in commands.chain(grounds) {
                self.line(&self.style.fit(&format!("{indent}{command}")));
            }
        }
    }

    /// Who did what: the tree of those who acted, and of those who started them.
    fn processes(&mut self) {
        let processes = &self.run.processes;
        let mut rows = Vec::new();
        let mut open: Vec<(ProcessKey, usize)> =
            processes.roots().map(|(key, _)| (key, 0)).collect();
        open.reverse();
        // Not recursive: a log may tell of any depth.
        while let Some((key, depth)) = open.pop() {
            let Some(node) = processes.get(key) else {
                continue;
            };
            rows.extend(branch(node, depth));
            let children: Vec<_> = processes.children(key).collect();
            open.extend(children.iter().rev().map(|(key, _)| (*key, depth + 1)));
        }
        if rows.is_empty() {
            return;
        }
        let count = processes.len();
        let title = format!("  processes ({count})");
        self.line(&self.style.paint(Paint::Bold, &title));
        for (paint, row) in rows.iter().take(MAX_TREE) {
            let row = self.style.fit(row);
            match paint {
                Some(paint) => self.line(&self.style.paint(*paint, &row)),
                None => self.line(&row),
            }
        }
        let left_out = rows.len().saturating_sub(MAX_TREE);
        if left_out > 0 {
            self.line(&format!(
                "    and {left_out} more lines (the audit log has them all)"
            ));
        }
        if processes.more > 0 {
            self.line(&format!("    and {} more processes", processes.more));
        }
    }

    /// What the command has used.
    fn usage(&mut self) {
        let Some(end) = &self.run.end else {
            return;
        };
        self.line(&format!(
            "  used {} of user and {} of system time, and {} of memory at most",
            Elapsed(Duration::from_micros(end.user_us)),
            Elapsed(Duration::from_micros(end.system_us)),
            Octets(end.max_rss),
        ));
    }

    /// Say how many of `total` rows had no place.
    fn rest(&mut self, total: usize) {
        if let Some(more) = total.checked_sub(MAX_ROWS).filter(|more| *more > 0) {
            self.line(&format!("    and {more} more (--audit-log has them all)"));
        }
    }
}

/// When it was first contacted: `+0.4 s`, with room for what is longer.
fn since(run: &Run, time: SystemTime) -> String {
    let began = run.began.unwrap_or(time);
    let since = time.duration_since(began).unwrap_or_default();
    format!("{:>8}  ", format!("+{}", Elapsed(since)))
}

/// What went there, what became of the command after a refusal, and the time that was lost.
fn aftermath(run: &Run, total: &Total) -> Vec<String> {
    let mut lines = Vec::new();
    let traffic = &total.traffic;
    if traffic.connections > 0 {
        let (received, sent) = (Octets(traffic.received), Octets(traffic.sent));
        lines.push(format!("({received} in, {sent} out)"));
    }
    if let Some(through) = through(run, total) {
        lines.push(format!("(through {through})"));
    }
    match total.consequence(run) {
        Some(Consequence::Failed) => lines.push("(the command then failed)".to_owned()),
        Some(Consequence::WentOn(Some(swallower))) => {
            // That the command itself went on is said above.
            let swallower = run.processes.get(swallower);
            if let Some(node) = swallower.filter(|node| node.parent.is_some()) {
                let command = Plain(node.command.as_bytes());
                lines.push(format!("({command} succeeded all the same)"));
            }
        }
        Some(Consequence::WentOn(None)) | None => {}
    }
    if total.waited >= NOTABLE {
        lines.push(format!(
            "(waited {} without an answer)",
            Elapsed(total.waited)
        ));
    }
    lines
}

/// Those between the wrapped command and the first that was refused, if there are any.
fn through(run: &Run, total: &Total) -> Option<String> {
    let chain: Vec<_> = run.processes.chain(*total.refused.first()?).collect();
    let [_, between @ .., _] = &chain[..] else {
        return None;
    };
    let commands = between.iter().rev();
    let commands: Vec<String> = commands
        .map(|(_, node)| Plain(node.command.as_bytes()).to_string())
        .collect();
    (!commands.is_empty()).then(|| commands.join(" -> "))
}

/// The lines of a process: what it was and how it ended, and what it did.
fn branch(node: &Node, depth: usize) -> Vec<(Option<Paint>, String)> {
    let indent = 4 + 2 * depth.min(MAX_DEPTH);
    let command = Plain(node.command.as_bytes());
    let ending = node.ending.map_or(String::new(), |ending| {
        let lived = Elapsed(ending.lived);
        match (ending.status, ending.signal) {
            (Some(0), _) => format!("  ok after {lived}"),
            (Some(status), _) => format!("  status {status} after {lived}"),
            (None, Some(signal)) => format!("  {} after {lived}", signal_name(signal)),
            (None, None) => String::new(),
        }
    });
    let mut lines = vec![(None, format!("{:indent$}{command}{ending}", ""))];
    for deed in &node.deeds {
        let (verdict, paint) = match deed.verdict {
            Verdict::Blocked => ("blocked", Some(Paint::Red)),
            Verdict::WouldBlock => ("would be blocked", Some(Paint::Yellow)),
            Verdict::Allowed => ("allowed", None),
        };
        let times = match deed.count {
            0 | 1 => String::new(),
            count => format!(" ({count} times)"),
        };
        let target = title(&deed.target);
        lines.push((
            paint,
            format!("{:indent$}  - {verdict}: {target}{times}", ""),
        ));
    }
    if node.more_deeds > 0 {
        lines.push((
            None,
            format!("{:indent$}  - and {} more", "", node.more_deeds),
        ));
    }
    lines
}

/// `3 lookups, 1 contact`
pub(super) fn tally(total: &Total) -> String {
    let parts = [
        counted(total.lookups, "lookup", "lookups", ""),
        counted(total.contacts, "contact", "contacts", ""),
        // Said only where it is not all of them.
        (total.verdict != Verdict::Allowed && total.blocked < total.lookups + total.contacts)
            .then(|| format!("{} refused", total.blocked)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The commands that needed the target.
pub(super) fn commands(total: &Total) -> Vec<String> {
    let mut commands: Vec<String> = total
        .commands
        .iter()
        .map(|command| Plain(command.as_bytes()).to_string())
        .collect();
    if total.more_commands {
        commands.push("and others".to_owned());
    }
    if total.unattributed > 0 {
        commands.push("unknown process".to_owned());
    }
    commands
}

/// Whom to ask about what was blocked, or would have been.
fn owner(total: &Total) -> Option<&str> {
    match total.verdict {
        Verdict::Blocked | Verdict::WouldBlock => total.owner.as_deref(),
        Verdict::Allowed => None,
    }
}

/// Who acts for the child there, why the target was blocked, and what else it is called.
fn grounds(total: &Total) -> Vec<String> {
    let mut grounds = Vec::new();
    if let Some(delegated) = &total.delegated {
        grounds.extend(delegation(delegated));
    }
    let rule = total.rule.as_deref();
    let cite = |rule: &str| Plain(rule.as_bytes()).to_string();
    let (ground, is_ruled) = match (total.verdict, &total.delegated) {
        (Verdict::Allowed, Some(delegated)) if !delegated.unacknowledged => (rule.map(cite), true),
        (Verdict::Allowed, _) => (None, false),
        (_, Some(Delegated { via: None, .. })) => {
            (Some("--strict: not of this run".to_owned()), false)
        }
        (_, _) => (
            Some(rule.map_or("no rule allows it".to_owned(), cite)),
            true,
        ),
    };
    grounds.extend(ground.map(|mut ground| {
        // Writing to a string cannot fail.
        if let Some(matched) = &total.matched {
            let _infallible = write!(ground, ", because of {matched}");
        }
        if let Some(why) = total.rule_reason.as_ref().filter(|_| is_ruled) {
            let _infallible = write!(ground, ": {}", Plain(why.as_bytes()));
        }
        format!("({ground})")
    }));
    if !total.also.is_empty() {
        let names: Vec<String> = total.also.iter().map(ToString::to_string).collect();
        grounds.push(format!("(shares an address with {})", names.join(", ")));
    }
    grounds
}

/// Who does the network for the child there, a ground for each.
fn delegation(delegated: &Delegated) -> Vec<String> {
    if let Some(via) = &delegated.via {
        return vec![format!(
            "({}: what is reached through it is not seen)",
            Plain(via.as_bytes())
        )];
    }
    if delegated.listeners.is_empty() {
        return vec!["(who listens there is not known)".to_owned()];
    }
    let listener = |peer: &Listener| {
        let command = Plain(peer.command.as_bytes());
        format!("({command}, pid {})", peer.pid)
    };
    delegated.listeners.iter().map(listener).collect()
}

pub(super) fn title(target: &Target) -> String {
    Plain(target.to_string().as_bytes()).to_string()
}

/// Names come before addresses, and those before services.
fn kind(target: &Target) -> u8 {
    match target {
        Target::Name(_) => 0,
        Target::Address(_) => 1,
        Target::Service(_) => 2,
    }
}

fn column(widths: impl Iterator<Item = usize>) -> usize {
    widths.max().unwrap_or(0).min(MAX_NAME_COLUMN)
}

/// `1 contact was REST`, `2 contacts were REST`, nothing for 0.
fn counted<N>(count: N, one: &str, many: &str, rest: &str) -> Option<String>
where
    u64: TryFrom<N>,
{
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let noun = match count {
        0 => return None,
        1 => one,
        _ => many,
    };
    Some(format!("{count} {noun} {rest}").trim_end().to_owned())
}

/// How the run ended, after its command.
pub(super) fn ending(end: &RunEnd) -> String {
    match end.outcome {
        Outcome::Exited => match end.status.unwrap_or(0) {
            0 => "succeeded".to_owned(),
            status => format!("exited with status {status}"),
        },
        Outcome::Killed => format!("was ended by {}", signal_name(end.signal.unwrap_or(0))),
        Outcome::TimedOut => "ran into its timeout".to_owned(),
        Outcome::NotFound => "was not found".to_owned(),
        Outcome::CannotExecute => "could not be executed".to_owned(),
        Outcome::Failed => "was ended because cgfw failed".to_owned(),
    }
}

pub(super) fn signal_name(signal: u8) -> String {
    match Signal::try_from(i32::from(signal)) {
        Ok(name) => name.to_string(),
        // The kernel has more signals than have names.
        Err(_unnamed) => format!("signal {signal}"),
    }
}

/// Octets as people say them, in the unit that leaves them below a thousand.
pub(super) struct Octets(pub(super) u64);

impl fmt::Display for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = "B";
        let (mut whole, mut rest) = (self.0, 0);
        for larger in ["kB", "MB", "GB", "TB", "PB"] {
            if whole < 1000 {
                break;
            }
            (whole, rest, unit) = (whole / 1000, whole % 1000 / 100, larger);
        }
        match unit {
            "B" => write!(f, "{whole} B"),
            _ => write!(f, "{whole}.{rest} {unit}"),
        }
    }
}

/// A time as people say it, in the two units that matter.
pub(super) struct Elapsed(pub(super) Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => write!(f, "{seconds}.{} s", self.0.subsec_millis() / 100),
            60..3600 => write!(f, "{} min {:02} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        }
    }
}
