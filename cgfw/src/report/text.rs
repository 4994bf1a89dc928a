//! What a person reads at the end: the summary.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::escape::{Plain, command_line, command_of};
use super::{BreakGlass, End, Fate, Losses, Style, abstract_name, proto};
use crate::event::{Outcome, Peer, Service, Verdict};
use crate::ledger::{Delegated, Target, Total, Totals};
use crate::policy::Rule;

/// Rows of each section; nobody reads a thousand.
const MAX_ROWS: usize = 100;
/// Columns of a summary's names at most; longer ones push the rest of their row aside.
const MAX_NAME_COLUMN: usize = 44;

/// Names in one clause of the verdict.
const MAX_LISTED: usize = 3;
/// Whoever else there is.
const OTHERS: &str = "others";

/// ANSI colours (ECMA-48 SGR).
#[derive(Clone, Copy)]
pub enum Paint {
    Bold,
    Red,
    Green,
    Yellow,
}

/// The summary, as whole lines.
pub(super) fn summary(
    end: &End<'_>,
    glass: Option<&BreakGlass>,
    totals: &Totals,
    losses: Losses,
    style: Style,
) -> String {
    let mut page = Page {
        text: String::new(),
        style,
    };
    let command = command_line(end.command, b"", false);
    let heading = format!(
        "cgfw: {} {} after {}",
        Plain(&command),
        ending(end.outcome),
        Elapsed(end.elapsed)
    );
    page.line(&style.paint(Paint::Bold, &style.fit(&heading)));
    page.break_glass(glass);
    page.survivors(end);
    page.moved(totals);
    let sections = Sections::of(totals);
    page.section("blocked", Paint::Red, &sections.blocked);
    page.section("would be blocked", Paint::Yellow, &sections.would_block);
    page.section("allowed", Paint::Green, &sections.allowed);
    page.section("not judged by name", Paint::Yellow, &sections.unjudged);
    page.section("through others", Paint::Yellow, &sections.delegated);
    if totals.targets().next().is_none() {
        page.line("  nothing was contacted");
    }
    let glass = glass.map(|_| "--break-glass refused nothing".to_owned());
    let faults: Vec<String> = glass
        .into_iter()
        .chain(faults(end, totals, &sections, losses))
        .collect();
    if faults.is_empty() {
        let verdict = "clean: nothing was blocked, and every contact was judged";
        page.line(&style.paint(Paint::Green, verdict));
    } else {
        let verdict = format!("not clean: {}", faults.join(", "));
        page.line(&style.paint(Paint::Yellow, &verdict));
    }
    page.text
}

/// A target's name or address, and what happened to it.
type Row<'t> = (String, &'t Total);

/// The targets by what became of them, names before addresses, in their order; what was
/// blocked by its owners first, and what has none last.
#[derive(Default)]
struct Sections<'t> {
    blocked: Vec<Row<'t>>,
    would_block: Vec<Row<'t>>,
    allowed: Vec<Row<'t>>,
    unjudged: Vec<Row<'t>>,
    /// What was done for the child by others, unseen.
    delegated: Vec<Row<'t>>,
}

impl<'t> Sections<'t> {
    fn of(totals: &'t Totals) -> Self {
        let mut sections = Self::default();
        let mut targets: Vec<_> = totals
            .targets()
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
fn faults(end: &End<'_>, totals: &Totals, sections: &Sections<'_>, losses: Losses) -> Vec<String> {
    let released = match end.fate {
        Fate::Released => end.survivors.len(),
        Fate::Ended | Fate::Awaited => 0,
    };
    let unjudged = totals.targets().filter(|(_, total)| total.unjudged).count();
    let gaps = [
        counted(
            unjudged,
            "contact was",
            "contacts were",
            "not judged by name",
        ),
        counted(
            totals.lost(),
            "observation was",
            "observations were",
            "lost",
        ),
        counted(
            totals.overflowed(),
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
            moves(totals),
            "process was",
            "processes were",
            "moved out of the cgroup",
        ),
    ];
    refusals(sections)
        .into_iter()
        .chain(gaps)
        .flatten()
        .chain(unseen(sections))
        .chain((end.outcome == Outcome::Failed).then(|| "cgfw ended the run".to_owned()))
        .chain(
            end.caveats
                .iter()
                .map(|text| Plain(text.as_bytes()).to_string()),
        )
        .collect()
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
fn moves(totals: &Totals) -> u64 {
    u64::try_from(totals.moved().len()).unwrap_or(u64::MAX) + totals.more_moved()
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
    if delegated.peers.is_empty() {
        return vec![OTHERS.to_owned()];
    }
    let comm = |peer: &Peer| Plain(&peer.comm).to_string();
    delegated.peers.iter().map(comm).collect()
}

/// How wide the columns of a section are.
#[derive(Clone, Copy)]
struct Columns {
    name: usize,
    count: usize,
}

/// The summary as it is being written.
struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn break_glass(&mut self, glass: Option<&BreakGlass>) {
        let Some(BreakGlass { reason, user, uid }) = glass else {
            return;
        };
        let reason = Plain(reason.as_bytes());
        let user = user
            .as_ref()
            .map_or_else(String::new, |user| format!("{}, ", Plain(user.as_bytes())));
        let row = format!("  BREAK-GLASS, nothing was refused: {reason} ({user}uid {uid})");
        self.line(&self.style.paint(Paint::Red, &row));
    }

    fn survivors(&mut self, end: &End<'_>) {
        if end.survivors.is_empty() {
            return;
        }
        let (fate, paint) = match end.fate {
            Fate::Ended => ("were ended", Paint::Yellow),
            Fate::Awaited => ("were waited for", Paint::Yellow),
            Fate::Released => ("go on UNFILTERED", Paint::Red),
        };
        let title = format!(
            "  outlived the command and {fate} ({})",
            end.survivors.len()
        );
        self.line(&self.style.paint(paint, &title));
        for survivor in end.survivors.iter().take(MAX_ROWS) {
            let command = command_line(&survivor.argv, &survivor.comm, false);
            let row = format!("    {}  {}", survivor.pid, Plain(&command));
            self.line(&self.style.fit(&row));
        }
        self.rest(end.survivors.len());
    }

    fn moved(&mut self, totals: &Totals) {
        if totals.moved().is_empty() {
            return;
        }
        let title = format!("  moved out of the cgroup ({})", moves(totals));
        self.line(&self.style.paint(Paint::Red, &title));
        for moved in totals.moved() {
            let fate = match (moved.is_back, &*moved.to) {
                (true, _) => "back inside",
                // Nobody is in no cgroup.
                (false, []) => "UNFILTERED until it ended",
                (false, _) => "UNFILTERED since",
            };
            let command = command_of(Some(&moved.process));
            let mut row = format!("    {}  {}  ({fate}", moved.process.pid, Plain(&command));
            if !moved.to.is_empty() {
                // Writing to a string cannot fail.
                let _infallible = write!(row, ", {}", Plain(&moved.to));
            }
            row.push(')');
            self.line(&self.style.fit(&row));
        }
    }

    fn section(&mut self, title: &str, paint: Paint, rows: &[Row<'_>]) {
        if rows.is_empty() {
            return;
        }
        let title = format!("  {title} ({})", rows.len());
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
            let row = format!(
                "{:margin$}{name:name_width$}  {count:count_width$}  {first}",
                ""
            );
            self.line(self.style.fit(&row).trim_end());
            let indent = " ".repeat(margin + name_width + 2 + count_width + 2);
            for command in commands.chain(grounds(total)) {
                self.line(&self.style.fit(&format!("{indent}{command}")));
            }
        }
    }

    /// Say how many of `total` rows had no place.
    fn rest(&mut self, total: usize) {
        if let Some(more) = total.checked_sub(MAX_ROWS).filter(|more| *more > 0) {
            self.line(&format!("    and {more} more (--audit-log has them all)"));
        }
    }
}

/// `3 lookups, 1 contact`
fn tally(total: &Total) -> String {
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
fn commands(total: &Total) -> Vec<String> {
    let mut commands: Vec<String> = total
        .processes
        .iter()
        .map(|process| Plain(&command_of(Some(process))).to_string())
        .collect();
    if total.more_processes {
        commands.push("and others".to_owned());
    }
    if total.unattributed > 0 {
        commands.push("unknown process".to_owned());
    }
    commands
}

/// Whom to ask about what was blocked, or would have been.
fn owner(total: &Total) -> Option<&str> {
    let rule = total.rule.as_deref()?;
    match total.verdict {
        Verdict::Blocked | Verdict::WouldBlock => rule.owner(),
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
    let cite = |rule: &Rule| Plain(rule.cite().as_bytes()).to_string();
    let (ground, rule) = match (total.verdict, &total.delegated) {
        (Verdict::Allowed, Some(delegated)) if !delegated.unacknowledged => (rule.map(cite), rule),
        (Verdict::Allowed, _) => (None, None),
        (_, Some(Delegated { via: None, .. })) => {
            (Some("--strict: not of this run".to_owned()), None)
        }
        (_, _) => (
            Some(rule.map_or("no rule allows it".to_owned(), cite)),
            rule,
        ),
    };
    grounds.extend(ground.map(|mut ground| {
        // Writing to a string cannot fail.
        if let Some(matched) = &total.matched {
            let _infallible = write!(ground, ", because of {matched}");
        }
        if let Some(why) = rule.and_then(Rule::reason) {
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
    if delegated.peers.is_empty() {
        return vec!["(who listens there is not known)".to_owned()];
    }
    let listener = |peer: &Peer| {
        let command = command_line(&peer.argv, &peer.comm, false);
        format!("({}, pid {})", Plain(&command), peer.pid)
    };
    delegated.peers.iter().map(listener).collect()
}

fn title(target: &Target) -> String {
    match target {
        Target::Name(name) => name.to_string(),
        Target::Address(to) => address(SocketAddr::new(to.ip, to.port), to.protocol),
        Target::Service(Service::Port {
            address: to,
            protocol,
        }) => address(*to, *protocol),
        Target::Service(Service::Path(path)) => Plain(path).to_string(),
        Target::Service(Service::Abstract(name)) => Plain(&abstract_name(name)).to_string(),
    }
}

fn address(to: SocketAddr, protocol: u8) -> String {
    let protocol = proto(protocol);
    match to.port() {
        0 => format!("{}/{protocol}", to.ip()),
        _ => format!("{to}/{protocol}"),
    }
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
fn ending(outcome: Outcome) -> String {
    match outcome {
        Outcome::Exited(0) => "succeeded".to_owned(),
        Outcome::Exited(status) => format!("exited with status {status}"),
        Outcome::Killed(signal) => match Signal::try_from(i32::from(signal)) {
            Ok(name) => format!("was ended by {name}"),
            // The kernel has more signals than have names.
            Err(_unnamed) => format!("was ended by signal {signal}"),
        },
        Outcome::TimedOut => "ran into its timeout".to_owned(),
        Outcome::NotFound => "was not found".to_owned(),
        Outcome::CannotExecute => "could not be executed".to_owned(),
        Outcome::Failed => "was ended because cgfw failed".to_owned(),
    }
}

/// A time as people say it, in the two units that matter.
struct Elapsed(Duration);

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

impl Style {
    /// `text` in that colour, if there are to be colours.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Bold => 1,
            Paint::Red => 31,
            Paint::Green => 32,
            Paint::Yellow => 33,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Cut `line` to the width of the terminal.
    fn fit(self, line: &str) -> String {
        match self.width {
            Some(width) if line.chars().count() > width => {
                let kept = line.chars().take(width.saturating_sub(1));
                kept.chain(['…']).collect()
            }
            _ => line.to_owned(),
        }
    }
}
