/*!
The cgroup of a lab: every command of the test runs in it, so that what a command leaves
behind can be told from what runs elsewhere, and ended.
*/

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Not `cgfw-`: cgfw takes those for its own, and an unlocked one for a leftover.
const PREFIX: &str = "lab-of-cgfw-";

/// Killed and removed, with all below it, when dropped.
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Make one below the cgroup of the test process.
    pub fn create() -> Self {
        static COLLECT: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let parent = own_path();
        COLLECT.call_once(|| collect(&parent));
        let pid = std::process::id();
        let started = start_time(pid).unwrap();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{PREFIX}{pid}-{started}-{count}"));
        fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The processes in it and below.
    pub fn processes(&self) -> Vec<u32> {
        let mut all = Vec::new();
        for dir in self.descendants() {
            // A cgroup that vanishes meanwhile has no processes.
            let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            all.extend(procs.lines().map(|pid| pid.parse::<u32>().unwrap()));
        }
        all
    }

    /// The cgroups below it.
    pub fn children(&self) -> Vec<PathBuf> {
        let mut all = self.descendants();
        all.retain(|dir| *dir != self.path);
        all
    }

    /// It and all below, parents first.
    fn descendants(&self) -> Vec<PathBuf> {
        let mut all = vec![self.path.clone()];
        let mut next = 0;
        while let Some(dir) = all.get(next) {
            let below: Vec<PathBuf> = match fs::read_dir(dir) {
                Ok(entries) => entries
                    .filter_map(Result::ok)
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path())
                    .collect(),
                Err(_) => Vec::new(),
            };
            all.extend(below);
            next += 1;
        }
        all
    }

    /// SIGKILL everything in it, now.
    pub fn kill(&self) {
        // Fails only if the cgroup is gone, and with it what there was to kill.
        fs::write(self.path.join("cgroup.kill"), "1").ok();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        let deadline = Instant::now() + Duration::from_secs(5);
        // A killed process leaves its cgroup a moment later, and until then it is busy.
        while self.path.exists() && Instant::now() < deadline {
            for dir in self.descendants().iter().rev() {
                fs::remove_dir(dir).ok();
            }
            thread::sleep(Duration::from_millis(1));
        }
        assert!(
            thread::panicking() || !self.path.exists(),
            "cannot remove {}",
            self.path.display()
        );
    }
}

/// Remove the labs of test processes that are dead: a pid is reused, a pid with a start
/// time is not.
fn collect(parent: &Path) {
    for entry in fs::read_dir(parent).unwrap().filter_map(Result::ok) {
        let name = entry.file_name().into_string().unwrap_or_default();
        let mut parts = name.strip_prefix(PREFIX).unwrap_or_default().split('-');
        let owner = parts.next().and_then(|pid| pid.parse().ok());
        let started = parts.next().and_then(|started| started.parse().ok());
        if let (Some(pid), Some(started)) = (owner, started)
            && start_time(pid) != Some(started)
        {
            drop(Cgroup { path: entry.path() });
        }
    }
}

/// The directory of this process's cgroup v2.
fn own_path() -> PathBuf {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mountinfo
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
        .expect("no cgroup2 file system is mounted");
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = cgroups
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap();
    Path::new(mount).join(own)
}

/// When `pid` started, in clock ticks since boot: field 22 of `proc_pid_stat(5)`.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_comm) = stat.rsplit_once(") ")?;
    after_comm.split(' ').nth(19)?.parse().ok()
}
