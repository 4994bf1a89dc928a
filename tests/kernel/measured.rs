//! What cgfw may cost, as ratios and differences of one run. Only release builds have these.

use std::time::Duration;

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

#[test]
fn start_up_adds_little() {
    const GOAL: Duration = Duration::from_millis(15);
    let Some(lab) = Lab::new() else { return };
    let (mut bare, mut filtered) = (Duration::MAX, Duration::MAX);
    // On a busy machine it takes many tries until one of each is not disturbed.
    for round in 0..300 {
        bare = bare.min(lab.command("true").run().elapsed);
        let cgfw = lab.cgfw().args(["--block", "github.com", "-q"]);
        filtered = filtered.min(cgfw.child(["true"]).run().elapsed);
        if round >= 20 && filtered < bare + GOAL {
            let added = filtered.saturating_sub(bare);
            println!("start-up: {added:?} on top of the {bare:?} of true");
            return;
        }
    }
    panic!("{filtered:?}, against {bare:?} without cgfw");
}
