//! Fail closed, leave nothing: whatever dies, nothing that cgfw started runs unfiltered.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Lab;
use crate::support::bpf::Objects;
use crate::support::command::Running;

/// One is the address of a blocked name, the other is what no rule speaks of.
const BLOCKED: &str = "198.51.100.10";
const UNPINNED: &str = "203.0.113.99";
/// Refuses both, and everything else that was not resolved.
const ALLOW_LIST: [&str; 4] = ["--allow", "example.com", "--block", "github.com"];
/// All of this page holds in both.
const MODES: [&[&str]; 2] = [&[], &["--strict"]];

/// The cgroup of the one run in the lab.
#[track_caller]
fn run_cgroup(lab: &Lab) -> PathBuf {
    let cgroups = lab.cgroup().children();
    let with_programs = cgroups
        .iter()
        .find(|path| !Objects::attached_to(path).programs.is_empty());
    with_programs
        .unwrap_or_else(|| panic!("no program in {cgroups:?}"))
        .clone()
}

fn start_traffic(lab: &Lab, mode: &[&str]) -> Running {
    let mut running = lab
        .cgfw()
        .args(ALLOW_LIST)
        .args(mode)
        .arg("-q")
        .child(["traffic", BLOCKED, "9", UNPINNED, "9"])
        .any_status()
        .spawn();
    running.wait_for_stdout("running");
    running
}

#[track_caller]
fn expect_objects_gone(objects: &Objects) {
    let deadline = Instant::now() + Duration::from_secs(1);
    while objects.alive() != Objects::default() {
        assert!(
            Instant::now() < deadline,
            "still there: {:?}",
            objects.alive()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn kill_9_at_any_moment_lets_nothing_out_and_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let sniffer = lab.sniff();
    let starting = [0, 1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 40].map(|delay| (false, delay));
    let running = [0, 1, 3, 10, 50].map(|delay| (true, delay));
    let moments = || starting.into_iter().chain(running);
    for ((is_running, delay), mode) in MODES
        .into_iter()
        .flat_map(|mode| moments().map(move |moment| (moment, mode)))
    {
        let mut running = lab
            .cgfw()
            .args(ALLOW_LIST)
            .args(mode)
            .arg("-q")
            .child(["traffic", BLOCKED, "9", UNPINNED, "9"])
            .signal(Signal::SIGKILL)
            .spawn();
        if is_running {
            running.wait_for_stdout("running");
        }
        thread::sleep(Duration::from_millis(delay));
        let objects: Vec<Objects> = lab
            .cgroup()
            .children()
            .iter()
            .map(|path| Objects::attached_to(path))
            .collect();
        let programs = objects.iter().map(|objects| objects.programs.len());
        assert!(
            !is_running || programs.sum::<usize>() > 0,
            "it ran without programs"
        );
        running.send(Signal::SIGKILL);
        running.finish();
        lab.expect_gone_within(Duration::from_secs(1));
        objects.iter().for_each(expect_objects_gone);
    }
    for address in [[198, 51, 100, 10], [203, 0, 113, 99]] {
        let leaked = sniffer.packets_to(address);
        assert!(
            leaked.is_empty(),
            "{} packets got out: {:?}",
            leaked.len(),
            leaked[0]
        );
    }
}

#[test]
fn the_lab_would_see_a_leak() {
    let Some(lab) = Lab::new() else { return };
    let sniffer = lab.sniff();
    let mut running = lab
        .command("traffic")
        .args([BLOCKED, "9", UNPINNED, "9"])
        .any_status()
        .spawn();
    running.wait_for_stdout("running");
    running.wait_until("packets of both protocols to both arrive", |_| {
        let packets = sniffer.packets();
        [[198, 51, 100, 10], [203, 0, 113, 99]].iter().all(|to| {
            let to = std::net::IpAddr::from(*to);
            let seen = |protocol| {
                packets
                    .iter()
                    .any(|packet| packet.destination == to && packet.protocol == protocol)
            };
            seen(6) && seen(17)
        })
    });
    lab.cgroup().kill();
    running.finish();
}

#[test]
fn a_busy_run_that_is_killed_is_gone_within_a_second() {
    let Some(lab) = Lab::new() else { return };
    for mode in MODES {
        let sniffer = lab.sniff();
        let running = start_traffic(&lab, mode);
        let cgroup = run_cgroup(&lab);
        let objects = Objects::attached_to(&cgroup);
        assert!(!objects.programs.is_empty() && !objects.maps.is_empty());
        running.send(Signal::SIGKILL);
        lab.expect_gone_within(Duration::from_secs(1));
        expect_objects_gone(&objects);
        running.finish();
        assert!(sniffer.packets_to([198, 51, 100, 10]).is_empty());
        assert!(sniffer.packets_to([203, 0, 113, 99]).is_empty());
    }
}

#[test]
fn sigterm_and_sigint_end_the_run_closed() {
    let Some(lab) = Lab::new() else { return };
    for mode in MODES {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            let mut running = lab
                .cgfw()
                .args(ALLOW_LIST)
                .args(mode)
                .sh("setsid sleep 4711 & echo ready; exec sleep 4712")
                .status(128 + signal as i32)
                .spawn();
            running.wait_for_stdout("ready");
            let objects = Objects::attached_to(&run_cgroup(&lab));
            running.send(signal);
            let output = running.finish();
            assert!(output.elapsed < Duration::from_secs(10), "{output}");
            lab.expect_gone_within(Duration::from_millis(100));
            expect_objects_gone(&objects);
        }
    }
}

#[test]
fn a_run_without_its_guardian_is_ended() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(ALLOW_LIST)
        // The guardian is the only other child of the command's parent.
        .sh("for pid in $(cat /proc/$PPID/task/$PPID/children); do \
             [ $pid = $$ ] || kill -9 $pid; done; sleep 20; echo went on")
        .status(125)
        .stderr_has("the guardian of the cgroup was killed")
        .stderr_has("not clean: cgfw ended the run")
        .run();
    assert!(!output.stdout.contains("went on"), "{output}");
    assert!(output.elapsed < Duration::from_secs(10), "{output}");
    lab.expect_gone_within(Duration::from_millis(100));
}

#[test]
fn nothing_is_left_after_an_ordinary_run() {
    let Some(lab) = Lab::new() else { return };
    let mut running = lab
        .cgfw()
        .args(ALLOW_LIST)
        .sh("curl --silent http://example.com/; while ! [ -e go ]; do sleep 0.01; done")
        .spawn();
    running.wait_for_stdout("hello");
    let objects = Objects::attached_to(&run_cgroup(&lab));
    assert!(objects.programs.len() >= 10, "{objects:?}");
    lab.write("go", "");
    running.finish();
    // Processes, cgroups, mounts and files are checked whenever a lab ends.
    expect_objects_gone(&objects);
}

#[test]
fn leftovers_of_a_run_whose_guardian_died_too_are_collected() {
    let Some(lab) = Lab::new() else { return };
    let mut live = lab
        .cgfw()
        .args(ALLOW_LIST)
        .sh("echo ready; while ! [ -e go ]; do sleep 0.01; done; curl --silent github.com")
        .status(6)
        .spawn();
    live.wait_for_stdout("ready");
    let live_cgroup = run_cgroup(&lab);
    let running = start_traffic(&lab, &[]);
    let cgroup = lab
        .cgroup()
        .children()
        .into_iter()
        .find(|path| *path != live_cgroup && !Objects::attached_to(path).programs.is_empty())
        .unwrap();
    let objects = Objects::attached_to(&cgroup);
    // Everything of cgfw's own dies at once: what is in the lab's cgroup but in no run's.
    let inside: Vec<u32> = processes_of(&cgroup);
    let supervisors = descendants_of(running.pid());
    // Stopped first, so that none can act on the death of another.
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in supervisors.iter().filter(|pid| !inside.contains(pid)) {
            kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
        }
    }
    running.finish();
    assert!(
        cgroup.exists(),
        "this test needs a guardian that can be killed in time"
    );
    // Until then the filter holds, and the next run collects this one and not the live one.
    let sniffer = lab.sniff();
    thread::sleep(Duration::from_millis(200));
    lab.cgfw().args(ALLOW_LIST).child(["true"]).run();
    assert!(!cgroup.exists(), "the dead run's cgroup is still there");
    assert!(live_cgroup.exists(), "a living run was collected");
    expect_objects_gone(&objects);
    assert!(sniffer.packets_to([203, 0, 113, 99]).is_empty());
    lab.write("go", "");
    live.finish();
}

fn processes_of(cgroup: &std::path::Path) -> Vec<u32> {
    let procs = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    procs.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// `pid` and its descendants by parent, as /proc shows them.
fn descendants_of(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let children = std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        for task in children.filter_map(Result::ok) {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(
                text.split_whitespace()
                    .map(|pid| pid.parse::<u32>().unwrap()),
            );
        }
        next += 1;
    }
    all
}

#[test]
fn many_runs_at_once_are_isolated() {
    let Some(lab) = Lab::new() else { return };
    let names = [
        "github.com",
        "example.com",
        "allowed.example",
        "notgithub.com",
    ];
    let runs: Vec<(usize, Running)> = (0..16)
        .map(|index| {
            let script = names.map(|name| {
                format!("curl --silent --max-time 20 --output /dev/null http://{name}/; echo $?;")
            });
            let running = lab
                .cgfw()
                .args(["--block", names[index % names.len()]])
                .sh(&script.concat())
                .limit(Duration::from_mins(1))
                .spawn();
            (index, running)
        })
        .collect();
    for (index, running) in runs {
        let output = running.finish();
        let expected: String = (0..names.len())
            .map(|name| {
                if name == index % names.len() {
                    "6\n"
                } else {
                    "0\n"
                }
            })
            .collect();
        assert_eq!(output.stdout, expected, "{output}");
        assert_eq!(
            output.refusal()["domain"],
            format!("{}.", names[index % names.len()])
        );
    }
}

#[test]
fn in_a_run_inside_a_run_both_policies_hold() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(["--block", "github.com", "--block", "203.0.113.99"])
        .child([
            "cgfw",
            "run",
            "--block",
            "example.com",
            "--block",
            "203.0.113.98",
        ])
        .sh(
            "for host in github.com 203.0.113.99 example.com 203.0.113.98 allowed.example; do \
                 curl --silent --max-time 10 --output /dev/null http://$host/; echo $?; done",
        )
        .stdout("6\n7\n6\n7\n0\n")
        .run();
}

#[test]
fn killing_the_outer_run_ends_the_inner_one() {
    let Some(lab) = Lab::new() else { return };
    let sniffer = lab.sniff();
    let mut running = lab
        .cgfw()
        .args(ALLOW_LIST)
        .arg("-q")
        .child(["cgfw", "run", "-q"])
        .args(ALLOW_LIST)
        .child(["traffic", BLOCKED, "9", UNPINNED, "9"])
        .signal(Signal::SIGKILL)
        .spawn();
    running.wait_for_stdout("running");
    running.send(Signal::SIGKILL);
    running.finish();
    lab.expect_gone_within(Duration::from_secs(1));
    assert!(sniffer.packets_to([203, 0, 113, 99]).is_empty());
}

#[test]
fn a_closed_stderr_does_not_stop_the_run() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(["--block", "github.com"])
        .closed(2)
        .sh("curl --silent github.com; curl --silent example.com; exit 3")
        .stdout("hello from example.com\n")
        .status(3)
        .run();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    lab.cgfw()
        .args(["--block", "github.com"])
        .fd(writer.into(), 2)
        .sh("curl --silent github.com; curl --silent example.com; exit 3")
        .stdout("hello from example.com\n")
        .status(3)
        .run();
}

#[test]
fn a_full_disk_does_not_stop_the_run_and_is_said() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(["--block", "github.com", "--audit-log", "/dev/full"])
        .sh("curl --silent github.com; curl --silent example.com; exit 3")
        .stdout("hello from example.com\n")
        .stderr_has("cannot write to the audit log /dev/full: No space left on device")
        .stderr_has("lost")
        .status(3)
        .run();
    // A terminal or pipe that nobody reads must not hold the child up either, when it is
    // full of lines.
    let (reader, writer) = std::io::pipe().unwrap();
    let script = "
import socket
for n in range(600):
    try:
        socket.getaddrinfo('n%d.github.com' % n, 80)
    except socket.gaierror:
        pass
print(socket.getaddrinfo('example.com', 80, socket.AF_INET)[0][4])
";
    lab.cgfw()
        .args(["--block", "github.com"])
        .fd(writer.into(), 2)
        .child(["python3", "-c", script])
        .stdout("('203.0.113.20', 80)\n")
        .run();
    drop(reader);
}

#[test]
fn a_flood_of_refusals_loses_no_enforcement_and_counts() {
    let Some(lab) = Lab::new() else { return };
    let sniffer = lab.sniff();
    let script = "
import socket
for n in range(20000):
    s = socket.socket()
    s.connect_ex(('203.0.%d.%d' % (113, n % 250 + 1), 1000 + n // 250))
    s.close()
";
    lab.cgfw()
        .args(["--allow", "example.com", "-q"])
        .child(["python3", "-c", script])
        .limit(Duration::from_mins(1))
        .run();
    assert!(sniffer.packets().iter().all(|packet| packet.protocol != 6));
}
