//! What cgfw may cost, as ratios and differences of one run. Only release builds have these.

use std::time::Duration;

use crate::load::kilobytes;
use crate::support::Lab;

#[test]
fn tcp_throughput_inside_is_that_outside() {
    const GOAL: f64 = 0.95;
    let Some(lab) = Lab::new() else { return };
    let blast = ["blast", "203.0.113.99", "9", "1"];
    let (mut inside, mut outside) = (0.0, 0.0);
    // Other tests disturb every round. They disturb both sides alike, the more rounds the
    // more so; and a round is long against what cgfw does when it starts.
    for round in 0..12 {
        let bare = lab.command("env").args(blast).run();
        let filtered = lab
            .cgfw()
            .args(["--block", "github.com", "-q"])
            .child(blast)
            .run();
        let bytes = |text: &str| text.trim().parse::<f64>().unwrap();
        outside += bytes(&bare.stdout);
        inside += bytes(&filtered.stdout);
        if round >= 2 && inside >= GOAL * outside {
            println!("TCP throughput inside / outside: {:.3}", inside / outside);
            return;
        }
    }
    panic!(
        "{inside} bytes inside, {outside} outside: {}",
        inside / outside
    );
}

/// Every one of them is judged, and known by its destination: what a new contact costs on top
/// is in `load`.
#[test]
fn connects_inside_are_not_much_slower_than_outside() {
    const GOAL: f64 = 0.6;
    let Some(lab) = Lab::new() else { return };
    // Nobody listens there, and nobody is kept from it.
    let closed = ["203.0.113.99", "12345"];
    let connects = [
        "connects", "0.5", "4", closed[0], closed[1], closed[0], closed[1],
    ];
    let (mut inside, mut outside) = (0.0, 0.0);
    for round in 0..20 {
        let bare = lab.command("env").args(connects).run();
        let filtered = lab
            .cgfw()
            .args(["--block", "github.com", "-q"])
            .child(connects)
            .run();
        let count = |text: &str| {
            let numbers = text.split_whitespace().take(2);
            numbers.map(|n| n.parse::<f64>().unwrap()).sum::<f64>()
        };
        outside += count(&bare.stdout);
        inside += count(&filtered.stdout);
        if round >= 4 && inside >= GOAL * outside {
            let rounds = f64::from(round + 1);
            println!(
                "connects per second: {:.0} inside, {:.0} outside, ratio {:.2}",
                inside / rounds * 2.0,
                outside / rounds * 2.0,
                inside / outside
            );
            return;
        }
    }
    panic!("{inside} connects inside, {outside} outside");
}

/// Every fork, exec and exit of the host passes by the programs of each run. In processor time,
/// which other tests disturb less than they do a clock on the wall.
#[test]
fn processes_start_and_end_as_cheaply_as_without() {
    const OUTSIDE: f64 = 1.03;
    const INSIDE: f64 = 1.08;
    const STARTS: &str = "i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done; times";
    let Some(lab) = Lab::new() else { return };
    let mut best = [f64::MAX; 3];
    for round in 0..60 {
        let bare = processor_time(&lab.sh(STARTS).run().stdout);
        let mut running = lab
            .cgfw()
            .args(["--block", "github.com", "-q"])
            .sh(&format!(
                "echo there; while ! test -e go; do sleep 0.02; done; {STARTS}"
            ))
            .spawn();
        running.wait_for_stdout("there\n");
        let outside = processor_time(&lab.sh(STARTS).run().stdout);
        lab.write("go", "");
        let inside = processor_time(&running.finish().stdout);
        lab.sh("rm go").run();
        for (best, new) in best.iter_mut().zip([bare, outside, inside]) {
            *best = best.min(new);
        }
        let [bare, outside, inside] = best;
        if round >= 5 && outside <= OUTSIDE * bare && inside <= INSIDE * bare {
            println!(
                "fork, exec and exit beside a run / without: {:.3}; in a run / without: {:.3}",
                outside / bare,
                inside / bare
            );
            return;
        }
    }
    panic!("{best:?} seconds without, beside a run, in a run");
}

/// What times(1) of a shell says in its last line of the processes that it started, in seconds.
fn processor_time(times: &str) -> f64 {
    let line = times.lines().last().unwrap();
    let seconds = |time: &str| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
        minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    };
    line.split(' ').map(seconds).sum()
}

#[test]
fn start_up_adds_little() {
    /// In so many times as `true` alone takes.
    const GOAL: u32 = 25;
    let Some(lab) = Lab::new() else { return };
    let (mut bare, mut filtered) = (Duration::MAX, Duration::MAX);
    // On a busy machine it takes many tries until one of each is not disturbed.
    for round in 0..300 {
        bare = bare.min(lab.command("true").run().elapsed);
        let cgfw = lab.cgfw().args(["--block", "github.com", "-q"]);
        filtered = filtered.min(cgfw.child(["true"]).run().elapsed);
        if round >= 20 && filtered <= bare * GOAL {
            let added = filtered.saturating_sub(bare);
            println!("start-up: {added:?} on top of the {bare:?} of true");
            return;
        }
    }
    panic!("{filtered:?}, against {bare:?} without cgfw");
}

/// A hundred thousand events are written while the proxy answers as if there were no log.
#[test]
fn an_audit_log_does_not_slow_the_command() {
    const QUESTIONS: u32 = 100_000;
    const GOAL: f64 = 1.15;
    let Some(lab) = Lab::new() else { return };
    lab.sh(&format!(
        "seq -f 'n%.0f.load.example 203.0.113.30' {QUESTIONS} > questions"
    ))
    .run();
    let time = |options: &[&str]| {
        let run = lab
            .cgfw()
            .args(["--block", "github.com", "-q"])
            .args(options)
            .sh("asks udp 198.51.100.53 50 < questions")
            .run();
        let told: Vec<f64> = run
            .stdout
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect();
        assert_eq!(told[..2], [f64::from(QUESTIONS), 0.0], "{run}");
        told[3]
    };
    let (mut without, mut with) = (f64::MAX, f64::MAX);
    for round in 0..10 {
        without = without.min(time(&[]));
        with = with.min(time(&["--audit-log", "audit.jsonl"]));
        let log = lab.read("audit.jsonl");
        let events = log.matches("\"event\":\"dns\"").count();
        assert_eq!(
            events,
            usize::try_from(QUESTIONS).unwrap(),
            "lines are lost"
        );
        lab.sh("rm audit.jsonl").run();
        if round >= 1 && with <= without * GOAL {
            println!(
                "100,000 questions with an audit log / without: {:.2}",
                with / without
            );
            return;
        }
    }
    panic!("{with} ms with an audit log, {without} without");
}

/// What a list costs that is a hundred thousand times as long: memory, a start that is
/// measured against sorting the list, and no time for a question.
#[test]
fn a_million_names_cost_memory_and_nothing_else() {
    const LENGTHS: [u32; 4] = [10, 1_000, 100_000, 1_000_000];
    /// In kilobytes.
    const MEMORY: u64 = 40 << 10;
    /// In so many times sort(1) has done with it.
    const SORTS: u32 = 2;
    const QUESTIONS: f64 = 0.8;
    let Some(lab) = Lab::new() else { return };
    lab.sh("seq -f 'n%.0f.load.example 203.0.113.30' 3000 > questions")
        .run();
    for length in LENGTHS {
        lab.sh(&format!(
            "seq -f '0.0.0.0 h%.0f.sub.list.test' {length} > list.{length}"
        ))
        .run();
    }
    let mut costs = LENGTHS.map(|length| Cost::of(&lab, length));
    for _ in 1..12 {
        for (cost, length) in costs.iter_mut().zip(LENGTHS) {
            cost.lessen(&Cost::of(&lab, length));
        }
        let [few, .., many] = &costs;
        if many.start < few.start + many.sort * SORTS && few.questions >= QUESTIONS * many.questions
        {
            break;
        }
    }
    for (cost, length) in costs.iter().zip(LENGTHS) {
        println!("{length} names: {cost:?}");
    }
    let [few, .., many] = &costs;
    let added = many.start.saturating_sub(few.start);
    println!(
        "a million names against ten: {} kB, {:.2} of what sorting them takes, questions {:.2}",
        many.resident - few.resident,
        added.as_secs_f64() / many.sort.as_secs_f64(),
        few.questions / many.questions,
    );
    assert!(many.resident < few.resident + MEMORY, "{costs:?}");
    assert!(added < many.sort * SORTS, "{costs:?}");
    assert!(few.questions >= QUESTIONS * many.questions, "{costs:?}");
}

/// What a run with a list takes, at best.
#[derive(Debug)]
struct Cost {
    /// Of a run that does nothing.
    start: Duration,
    /// Of sort(1) on the list, for comparison.
    sort: Duration,
    /// In milliseconds, for all of them.
    questions: f64,
    /// In kilobytes, after the questions.
    resident: u64,
}

impl Cost {
    fn of(lab: &Lab, length: u32) -> Self {
        let list = format!("list.{length}");
        let cgfw = || lab.cgfw().args(["--block-file", &list, "-q"]);
        let mut running = cgfw()
            .sh("asks udp 198.51.100.53 50 < questions; while ! test -e go; do sleep 0.02; done")
            .spawn();
        running.wait_for_stdout("3000 0 ");
        let resident = kilobytes(running.pid(), "VmRSS");
        lab.write("go", "");
        let run = running.finish();
        lab.sh("rm go").run();
        let start = cgfw().child(["true"]).run().elapsed;
        let sort = lab
            .command("sort")
            .args(["--parallel=1", "--unique", "--output=/dev/null"]);
        Self {
            start,
            sort: sort.arg(&list).env("LC_ALL", "C").run().elapsed,
            questions: run
                .stdout
                .split_whitespace()
                .nth(3)
                .unwrap()
                .parse()
                .unwrap(),
            resident,
        }
    }

    fn lessen(&mut self, other: &Self) {
        self.start = self.start.min(other.start);
        self.sort = self.sort.min(other.sort);
        self.questions = self.questions.min(other.questions);
        self.resident = self.resident.min(other.resident);
    }
}
