//! Who is who: what each process has executed, from whom it comes, and how it ended.
//!
//! What the kernel side says of forks, execs and ends is in the order in which they happened,
//! and so are the acts between them. What was lost of it leaves gaps, and nothing is put into
//! them.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use super::recent::Recent;
use crate::event::{Directory, Process, ProcessId, Status};

/// Processes that are there at the same time.
const LIVING: usize = 1 << 14;
/// Processes that have ended, for acts which took their time to be completed.
const ENDED: usize = 1 << 12;
/// Directories whose paths are remembered.
const DIRECTORIES: usize = 1 << 10;
/// Processes that are remembered as they were at their last act.
const SEEN: usize = 1024;
/// In the chain of a process. Of a longer one the first is left, and those that are nearest.
const MAX_ANCESTORS: usize = 64;
/// What all that was executed may take, in octets. What there is no room for is unknown.
const MAX_OCTETS: usize = 32 << 20;

/// The processes that led to one, the wrapped command first and the one that forked it last;
/// each as it was when it forked the next one. Empty for the wrapped command itself, and where
/// they are not known.
pub type Ancestors = Arc<[Arc<Process>]>;

/// A process that acted.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) process: Arc<Process>,
    pub(super) ancestors: Ancestors,
}

/// The end of a process.
#[derive(Clone, Debug)]
pub struct Exit {
    pub time: SystemTime,
    /// What it was at its end, but for the working directory: that is known of acts.
    pub process: Arc<Process>,
    pub status: Status,
    /// How long it existed.
    pub age: Duration,
}

#[derive(Clone, Copy, Debug)]
struct End {
    time: SystemTime,
    status: Status,
    age: Duration,
}

/// What is known of a process.
#[derive(Debug, Default)]
struct Known {
    /// What it executed last, or who it is a copy of; without working directory.
    image: Option<Arc<Process>>,
    /// Where that was executed.
    place: Option<(Directory, Arc<[u8]>)>,
    ancestors: Option<Ancestors>,
    /// What its children have for ancestors, as long as it executes nothing else.
    heritage: Option<Ancestors>,
    /// Whether it acted, or one that comes from it.
    acted: bool,
    end: Option<End>,
}

/// All processes of a run.
#[derive(Debug)]
pub(super) struct Processes {
    living: Recent<ProcessId, Known>,
    ended: Recent<ProcessId, Known>,
    directories: Recent<Directory, Arc<[u8]>>,
    seen: Recent<ProcessId, Arc<Process>>,
    room: Room,
    /// Whether the wrapped command has been executed.
    begun: bool,
    /// Ends that are to be told.
    exits: Vec<Exit>,
}

impl Processes {
    pub(super) fn new() -> Self {
        Self {
            living: Recent::new(LIVING),
            ended: Recent::new(ENDED),
            directories: Recent::new(DIRECTORIES),
            seen: Recent::new(SEEN),
            room: Room::default(),
            begun: false,
            exits: Vec::new(),
        }
    }

    pub(super) fn forked(&mut self, parent: ProcessId, child: ProcessId) {
        let known = match self.living.get_mut(&parent) {
            Some(known) => Known {
                image: known.image.clone(),
                place: known.place.clone(),
                ancestors: known.heritage(parent, &mut self.room),
                ..Known::default()
            },
            // cgfw itself, or a gap.
            None => Known::default(),
        };
        self.living.insert(child, known);
    }

    pub(super) fn executed(&mut self, mut process: Process) {
        let id = process.id();
        let directory = std::mem::take(&mut process.directory);
        let path = self.found(directory, &std::mem::take(&mut process.cwd));
        let mut known = self.living.remove(&id).unwrap_or_default();
        // Nothing else is executed before the command is.
        if !std::mem::replace(&mut self.begun, true) {
            known.ancestors = Some(Ancestors::default());
        }
        known.image = self.room.take(process);
        known.place = path.map(|path| (directory, path));
        known.heritage = None;
        self.living.insert(id, known);
    }

    pub(super) fn exited(&mut self, id: ProcessId, end: (SystemTime, Status, Duration)) {
        // Two threads that end at the same time are both the last one, before 6.16.
        let Some(mut known) = self.living.remove(&id) else {
            return;
        };
        let (time, status, age) = end;
        known.end = Some(End { time, status, age });
        if known.acted {
            let process = known.itself(id, &mut self.room);
            self.tell(id, process, &known);
        }
        self.ended.insert(id, known);
    }

    /// A directory has this path, if it is known.
    pub(super) fn found(&mut self, directory: Directory, path: &[u8]) -> Option<Arc<[u8]>> {
        if directory == Directory::default() || path.is_empty() {
            return None;
        }
        let path: Arc<[u8]> = match self.directories.get(&directory) {
            Some(known) if **known == *path => Arc::clone(known),
            _ => path.into(),
        };
        self.directories.insert(directory, Arc::clone(&path));
        Some(path)
    }

    /// The path of the working directory of a process.
    pub(super) fn working_directory(&self, process: &Process) -> Option<&Arc<[u8]>> {
        self.directories.get(&process.directory).or_else(|| {
            let (directory, path) = self.known(process.id())?.place.as_ref()?;
            (*directory == process.directory).then_some(path)
        })
    }

    fn known(&self, id: ProcessId) -> Option<&Known> {
        self.living.get(&id).or_else(|| self.ended.get(&id))
    }

    /// The process with all that is known of it, and where it comes from; `None` if it is
    /// not known who acted.
    pub(super) fn acted(&mut self, mut process: Process) -> Option<Who> {
        let id = process.id();
        if id.pid == 0 {
            return None;
        }
        if let Some(path) = self.working_directory(&process) {
            process.cwd = path.to_vec();
        }
        let known = self.known(id);
        if let Some(image) = known.and_then(|known| known.image.as_deref()) {
            complete(&mut process, image);
        }
        let ancestors = known.and_then(|known| known.ancestors.clone());
        let ancestors = ancestors.unwrap_or_default();
        let process = self.shared(process);
        self.mark(id, &ancestors);
        Some(Who { process, ancestors })
    }

    /// The ends that have become of interest since the last call: of processes that acted, and
    /// of those that they come from.
    pub(super) fn exits(&mut self) -> impl Iterator<Item = Exit> {
        self.exits.drain(..)
    }

    /// The process as it was seen before, if nothing about it has changed.
    fn shared(&mut self, process: Process) -> Arc<Process> {
        let id = process.id();
        if let Some(known) = self.seen.get(&id)
            && **known == process
        {
            return Arc::clone(known);
        }
        let process = Arc::new(process);
        self.seen.insert(id, Arc::clone(&process));
        process
    }

    /// Note that a process acted, and so whose ends are of interest.
    fn mark(&mut self, actor: ProcessId, ancestors: &Ancestors) {
        let above = ancestors.iter().rev().map(|process| process.id());
        for id in std::iter::once(actor).chain(above) {
            if let Some(known) = self.living.get_mut(&id) {
                if std::mem::replace(&mut known.acted, true) {
                    // Nor are there any news above it.
                    return;
                }
            } else if let Some(known) = self.ended.get_mut(&id)
                && !std::mem::replace(&mut known.acted, true)
            {
                let (process, known) = (known.itself(id, &mut self.room), std::mem::take(known));
                self.tell(id, process, &known);
                self.ended.insert(id, known);
            }
        }
    }

    fn tell(&mut self, id: ProcessId, process: Option<Arc<Process>>, known: &Known) {
        let process = process.or_else(|| self.seen.get(&id).cloned());
        if let (Some(process), Some(end)) = (process, known.end) {
            self.exits.push(Exit {
                time: end.time,
                process,
                status: end.status,
                age: end.age,
            });
        }
    }
}

impl Known {
    /// The process as it is outside of its acts.
    fn itself(&self, id: ProcessId, room: &mut Room) -> Option<Arc<Process>> {
        let image = self.image.as_ref()?;
        if image.id() == id {
            return Some(Arc::clone(image));
        }
        let parent = self.ancestors.as_ref().and_then(|all| all.last());
        room.take(Process {
            pid: id.pid,
            tid: id.pid,
            started: id.started,
            ppid: parent.map_or(0, |parent| parent.pid),
            ..Process::clone(image)
        })
    }

    /// The ancestors of its children.
    fn heritage(&mut self, id: ProcessId, room: &mut Room) -> Option<Ancestors> {
        if self.heritage.is_none() {
            let above = self.ancestors.as_ref()?;
            let itself = self.itself(id, room)?;
            let excess = (above.len() + 1).saturating_sub(MAX_ANCESTORS);
            let first = above.iter().take(1);
            let nearest = above.iter().skip(1 + excess);
            let all = first.chain(nearest).cloned().chain([itself]);
            self.heritage = Some(all.collect());
        }
        self.heritage.clone()
    }
}

/// Add to a process, as it was seen at its act, what is known of what it executed.
fn complete(process: &mut Process, image: &Process) {
    if process.image == 0 || process.image != image.image {
        return;
    }
    process.exe.clone_from(&image.exe);
    process.script.clone_from(&image.script);
    let is_start = image.argv.join(&0).starts_with(&process.argv.join(&0));
    // A process may have written something else there since.
    if process.argv.is_empty() || process.truncated && is_start {
        process.argv.clone_from(&image.argv);
        process.truncated = image.truncated;
    }
}

/// Bounds what processes take that are kept in many places.
#[derive(Debug, Default)]
struct Room {
    kept: Vec<Weak<Process>>,
    octets: usize,
    /// Processes that were added since it was last seen who is left.
    added: usize,
}

impl Room {
    /// Between two looks at who is left.
    const INTERVAL: usize = 1024;

    /// Keep a process, if there is room for it.
    fn take(&mut self, process: Process) -> Option<Arc<Process>> {
        self.added += 1;
        let octets = octets(&process);
        if self.octets + octets > MAX_OCTETS && self.added >= Self::INTERVAL {
            self.kept.retain(|process| process.strong_count() > 0);
            self.octets = self
                .kept
                .iter()
                .filter_map(Weak::upgrade)
                .map(|process| self::octets(&process))
                .sum();
            self.added = 0;
        }
        if self.octets + octets > MAX_OCTETS {
            return None;
        }
        let process = Arc::new(process);
        self.kept.push(Arc::downgrade(&process));
        self.octets += octets;
        Some(process)
    }
}

/// What a process takes.
pub(super) fn octets(process: &Process) -> usize {
    /// What an argument takes besides its octets.
    const ARGUMENT: usize = 32;
    let arguments = process.argv.iter();
    let arguments: usize = arguments.map(|argument| ARGUMENT + argument.len()).sum();
    let names = [&process.comm, &process.exe, &process.script, &process.cwd];
    size_of::<Process>() + names.map(Vec::len).iter().sum::<usize>() + arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: SystemTime = SystemTime::UNIX_EPOCH;

    fn id(pid: u32) -> ProcessId {
        ProcessId {
            pid,
            started: u64::from(pid) * 10,
        }
    }

    fn directory(inode: u64) -> Directory {
        Directory {
            inode,
            ..Directory::default()
        }
    }

    /// A process as it acts, in the directory of that number.
    fn acting(pid: u32, image: u64, inode: u64) -> Process {
        Process {
            pid,
            tid: pid,
            started: id(pid).started,
            argv: vec![b"cut".to_vec()],
            truncated: true,
            directory: directory(inode),
            image,
            ..Process::default()
        }
    }

    /// The processes of a run, of which the first has executed `sh`.
    fn run() -> Processes {
        let mut processes = Processes::new();
        execute(&mut processes, 1, 100, "sh");
        processes
    }

    /// Execute a command with the directory `/inode`, where `inode` is the number of the image.
    fn execute(processes: &mut Processes, pid: u32, image: u64, command: &str) {
        let argv: Vec<Vec<u8>> = command.split(' ').map(Into::into).collect();
        processes.executed(Process {
            truncated: false,
            exe: format!("/bin/{}", command.split(' ').next().unwrap()).into_bytes(),
            cwd: format!("/{image}").into_bytes(),
            argv,
            ..acting(pid, image, image)
        });
    }

    fn end(processes: &mut Processes, pid: u32, code: u8) {
        let end = (TIME, Status::Code(code), Duration::from_millis(1));
        processes.exited(id(pid), end);
    }

    #[track_caller]
    fn who(processes: &mut Processes, process: Process) -> (Process, String) {
        let who = processes.acted(process).unwrap();
        let name = |process: &Arc<Process>| {
            let exe = String::from_utf8_lossy(&process.exe).into_owned();
            format!("{}{}", exe.trim_start_matches("/bin/"), process.pid)
        };
        let names: Vec<String> = who.ancestors.iter().map(name).collect();
        (Process::clone(&who.process), names.join(" "))
    }

    #[test]
    fn a_process_is_what_it_executed_last_and_comes_from_who_forked_it() {
        let mut processes = run();
        processes.forked(id(1), id(2));
        execute(&mut processes, 2, 101, "make cut");
        processes.forked(id(2), id(3));
        execute(&mut processes, 3, 102, "cut long");
        let (process, from) = who(&mut processes, acting(3, 102, 102));
        assert_eq!(process.exe, b"/bin/cut");
        assert_eq!(process.cwd, b"/102");
        assert_eq!(process.argv, [b"cut".to_vec(), b"long".to_vec()]);
        assert!(!process.truncated);
        assert_eq!(from, "sh1 make2");
        assert_eq!(who(&mut processes, acting(1, 100, 100)).1, "");
    }

    #[test]
    fn a_copy_is_what_its_parent_was() {
        let mut processes = run();
        processes.forked(id(1), id(2));
        // The parent is another one by now.
        execute(&mut processes, 1, 101, "sleep");
        processes.forked(id(2), id(3));
        let (process, from) = who(&mut processes, acting(3, 100, 100));
        assert_eq!(process.exe, b"/bin/sh");
        assert_eq!(from, "sh1 sh2");
    }

    #[test]
    fn who_ended_in_between_is_still_an_ancestor() {
        let mut processes = run();
        processes.forked(id(1), id(2));
        processes.forked(id(2), id(3));
        end(&mut processes, 2, 0);
        end(&mut processes, 1, 0);
        assert_eq!(who(&mut processes, acting(3, 100, 0)).1, "sh1 sh2");
    }

    #[test]
    fn of_another_image_nothing_is_said() {
        let mut processes = run();
        for (pid, image) in [(1, 101), (1, 0), (7, 100)] {
            let (process, from) = who(&mut processes, acting(pid, image, 0));
            assert_eq!((process.exe, from), (Vec::new(), String::new()));
            assert_eq!(process.argv, [b"cut"]);
        }
    }

    #[test]
    fn who_comes_out_of_a_gap_comes_from_nobody() {
        let mut processes = run();
        execute(&mut processes, 9, 200, "curl");
        processes.forked(id(9), id(10));
        let (process, from) = who(&mut processes, acting(10, 200, 0));
        assert_eq!((&process.exe[..], &*from), (&b"/bin/curl"[..], ""));
    }

    #[test]
    fn arguments_that_were_written_over_are_left_as_they_are() {
        let mut processes = run();
        execute(&mut processes, 1, 101, "other cut");
        let (process, _) = who(&mut processes, acting(1, 101, 0));
        assert_eq!(process.argv, [b"cut"]);
        assert!(process.truncated);
    }

    #[test]
    fn a_directory_that_nobody_described_has_no_path() {
        let mut processes = run();
        assert_eq!(who(&mut processes, acting(1, 100, 55)).0.cwd, b"");
        assert!(processes.working_directory(&acting(1, 100, 55)).is_none());
        processes.found(directory(55), b"/found");
        assert_eq!(who(&mut processes, acting(1, 100, 55)).0.cwd, b"/found");
        processes.found(directory(55), b"/renamed");
        assert_eq!(who(&mut processes, acting(1, 100, 55)).0.cwd, b"/renamed");
        // Where it was executed is remembered however many there were since.
        for n in 0..3 * u64::try_from(DIRECTORIES).unwrap() {
            processes.found(directory(1000 + n), b"/x");
        }
        assert_eq!(who(&mut processes, acting(1, 100, 100)).0.cwd, b"/100");
    }

    #[test]
    fn ends_are_told_of_those_that_acted_and_of_whom_they_come_from() {
        let mut processes = run();
        for (parent, child) in [(1, 2), (2, 3), (1, 4)] {
            processes.forked(id(parent), id(child));
        }
        who(&mut processes, acting(3, 100, 0));
        for (pid, code) in [(4, 4), (3, 3), (2, 2), (1, 1)] {
            end(&mut processes, pid, code);
            end(&mut processes, pid, code);
        }
        let exits: Vec<Exit> = processes.exits().collect();
        let told: Vec<_> = exits.iter().map(|e| (e.process.pid, e.status)).collect();
        let code = |n: u8| (u32::from(n), Status::Code(n));
        assert_eq!(told, [code(3), code(2), code(1)]);
        // An act that took its time.
        who(&mut processes, acting(4, 100, 0));
        let exits: Vec<Exit> = processes.exits().collect();
        assert_eq!(exits.len(), 1);
        assert_eq!(exits[0].process.pid, 4);
        assert_eq!(exits[0].process.exe, b"/bin/sh");
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let mut processes = run();
        processes.forked(id(1), id(2));
        execute(&mut processes, 2, 101, "make");
        end(&mut processes, 2, 0);
        let again = ProcessId {
            pid: 2,
            started: 99,
        };
        processes.forked(id(1), again);
        let process = Process {
            started: 99,
            ..acting(2, 100, 0)
        };
        assert_eq!(who(&mut processes, process).0.exe, b"/bin/sh");
        assert_eq!(who(&mut processes, acting(2, 101, 0)).0.exe, b"/bin/make");
    }

    #[test]
    fn of_a_long_chain_the_first_and_the_nearest_are_left() {
        let mut processes = run();
        for pid in 1..1000 {
            processes.forked(id(pid), id(pid + 1));
        }
        let who = processes.acted(acting(1000, 100, 0)).unwrap();
        let pids: Vec<u32> = who.ancestors.iter().map(|process| process.pid).collect();
        assert_eq!(pids.len(), MAX_ANCESTORS);
        assert_eq!((pids[0], pids[1], pids[63]), (1, 937, 999));
    }

    #[test]
    fn no_flood_of_processes_fills_the_memory() {
        let mut processes = run();
        let long = "x".repeat(4000);
        for n in 0..60_000 {
            processes.forked(id(1), id(n + 2));
            execute(&mut processes, n + 2, 101, &long);
        }
        let held = processes.room.kept.iter().filter_map(Weak::upgrade);
        let held: usize = held.map(|process| octets(&process)).sum();
        assert!(held <= MAX_OCTETS, "{held}");
        assert!(processes.room.kept.len() <= 60_000);
        // Those that end make room.
        for n in 0..60_000 {
            end(&mut processes, n + 2, 0);
        }
        for n in 0..10_000 {
            processes.forked(id(1), id(100_000 + n));
            end(&mut processes, 100_000 + n, 0);
        }
        for n in 0..2000 {
            execute(&mut processes, 200_000 + n, 102, "curl");
        }
        let (process, _) = who(&mut processes, acting(201_999, 102, 0));
        assert_eq!(process.exe, b"/bin/curl");
    }
}
