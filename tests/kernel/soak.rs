/*!
Everything at once, for a while: ten seconds, or as many as `CGFW_SOAK` says.

`CGFW_SOAK_SEED` repeats the order of another run.
*/

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::thread;
use std::time::{Duration, Instant};

use crate::load::{ALLOWED, BLOCKED, CLOSED, kilobytes};
use crate::support::Lab;
use crate::support::books::Books;
use crate::support::dns::POISON;

/// What cgfw may take at most, in kilobytes.
const BOUND: u64 = 128 << 10;
/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

#[test]
fn a_mixed_load_is_borne_for_as_long_as_it_lasts() {
    let Some(lab) = Lab::new() else { return };
    let seconds = number("CGFW_SOAK").unwrap_or(10);
    let seed = number("CGFW_SOAK_SEED").unwrap_or_else(|| std::process::id().into());
    println!("CGFW_SOAK={seconds} CGFW_SOAK_SEED={seed}");
    let [sniffer, poisoned] = [BLOCKED, POISON].map(|address| lab.sniff_to(address));
    // What is written in half an hour fills the lab's disk, which is memory: it is read as
    // it grows.
    let (log, log_in) = io::pipe().unwrap();
    let books = thread::spawn(|| Books::of(BufReader::new(log)));
    let (stderr, stderr_in) = io::pipe().unwrap();
    let stderr = thread::spawn(|| tail(BufReader::new(stderr)));
    let running = lab
        .sh(&format!(
            "exec cgfw run --block 198.51.100.20,github.com --audit-log /proc/self/fd/9 -- \
             soak {seconds} {seed} {ALLOWED} {CLOSED} {BLOCKED} 2>&8 8>&-"
        ))
        .fd(log_in.into(), 9)
        .fd(stderr_in.into(), 8)
        .any_status()
        .limit(Duration::from_secs(seconds + 300))
        .spawn();
    let pid = running.pid();
    let length = Duration::from_secs(seconds);
    let mut glances: Vec<Glance> = Vec::new();
    let mut warm = None;
    let started = Instant::now();
    while !running.stdout().contains("done ") {
        thread::sleep(INTERVAL);
        assert!(
            started.elapsed() < length + Duration::from_secs(200),
            "it hangs"
        );
        let glance = Glance::at(pid);
        assert!(glance.resident < BOUND, "{glance:?}");
        if running.stdout().contains("warm") {
            let warm = *warm.get_or_insert(glance);
            glances.push(glance);
            let told = glances.len().is_multiple_of(120);
            if told {
                println!("{:?}: {glance:?}, {warm:?} at first", started.elapsed());
            }
        }
        for sniffer in [&sniffer, &poisoned] {
            assert_eq!(sniffer.packets().len(), 0);
        }
    }
    // The last questions are given up.
    thread::sleep(Duration::from_secs(6));
    let (warm, end) = (warm.unwrap(), Glance::at(pid));
    let quarter = glances[glances.len() / 4];
    lab.write("go", "");
    let run = running.finish();
    let (books, stderr) = (books.join().unwrap(), stderr.join().unwrap());
    println!("{}", run.stdout);
    println!("at first {warm:?}, after a quarter {quarter:?}, at the end {end:?}");
    println!("{books:?}");
    println!("{}", stderr.lines().last().unwrap_or_default());
    assert!(run.status.success() && !run.stdout.contains("WRONG"));
    assert!(end.resident < quarter.resident + quarter.resident / 5 + (8 << 10));
    assert!(end.open_files <= warm.open_files);
    books.expect_losses_shown(&stderr);
}

/// What cgfw uses at one moment.
#[derive(Clone, Copy, Debug)]
struct Glance {
    /// In kilobytes.
    resident: u64,
    open_files: usize,
}

impl Glance {
    fn at(pid: u32) -> Self {
        Self {
            resident: kilobytes(pid, "VmRSS"),
            open_files: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        }
    }
}

/// The last lines.
fn tail(text: impl BufRead) -> String {
    let mut last = VecDeque::new();
    for line in text.lines() {
        last.push_back(line.unwrap());
        if last.len() > 100 {
            last.pop_front();
        }
    }
    Vec::from(last).join("\n")
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect(name))
}
