/*!
Who did it: each act has the process that acted, what it executed and where, and the chain of
those that it comes from, however short they lived.
*/

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::support::Lab;
use crate::support::books::Books;
use crate::support::bpf::Stopwatch;
use crate::support::command::{Output, Test};
use crate::support::lab::{DEV, WORK};

/// Blocked, port 80.
const BLOCKED: &str = "198.51.100.20";
const RESOLVER: &str = "198.51.100.53";

/// A line of the audit log, as far as it tells who did something.
#[derive(Debug, Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    qname: String,
    #[serde(default)]
    dst_ip: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    tid: u32,
    #[serde(default)]
    ppid: u32,
    uid: Option<u32>,
    #[serde(default)]
    argv: Vec<String>,
    #[serde(default)]
    argv_truncated: bool,
    exe: Option<String>,
    script: Option<String>,
    cwd: Option<String>,
    #[serde(default)]
    ancestors: Vec<Ancestor>,
    status: Option<u8>,
    signal: Option<u8>,
    lived_us: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Ancestor {
    pid: u32,
    exe: Option<String>,
    script: Option<String>,
    argv: Vec<String>,
}

impl Line {
    fn is_act(&self) -> bool {
        matches!(&*self.event, "dns" | "connect" | "packet")
    }

    /// What its ancestors executed, the last part of each path.
    fn chain(&self) -> Vec<&str> {
        fn name(ancestor: &Ancestor) -> &str {
            let path = ancestor.script.as_deref().or(ancestor.exe.as_deref());
            path.and_then(|path| path.rsplit('/').next())
                .unwrap_or_default()
        }
        self.ancestors.iter().map(name).collect()
    }
}

fn lines(lab: &Lab) -> Vec<Line> {
    let log = lab.read("audit.jsonl");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    log.lines().map(parse).collect()
}

/// A run with an audit log, in which [`BLOCKED`] is.
fn cgfw(lab: &Lab) -> Test<'_> {
    lab.cgfw()
        .args(["--block", BLOCKED, "--audit-log", "audit.jsonl"])
}

/// The one act of a run.
#[track_caller]
fn act(lab: &Lab, output: &Output) -> Line {
    let mut acts: Vec<Line> = lines(lab).into_iter().filter(Line::is_act).collect();
    assert_eq!(acts.len(), 1, "{acts:#?}\n{output}");
    acts.remove(0)
}

/// A python program that is refused once.
fn refused(before: &str, after: &str) -> String {
    format!(
        "import os, socket, sys, time, threading\n{before}\n\
         socket.socket().connect_ex(('{BLOCKED}', 80))\n{after}"
    )
}

/// The end of every interpreter of the machine, wherever it keeps them.
fn is_python(path: Option<&str>) -> bool {
    let name = path.and_then(|path| path.rsplit('/').next());
    name.is_some_and(|name| name.starts_with("python3"))
}

#[test]
fn ten_thousand_processes_of_a_millisecond_are_attributed() {
    const COUNT: u32 = 10_000;
    /// At a time. A cgfw that is not optimised is many times as slow.
    const AT_ONCE: u32 = if cfg!(debug_assertions) { 2 } else { 24 };
    let Some(lab) = Lab::new() else { return };
    lab.sh("mkdir $(seq -f d%.0f 0 15)").run();
    let [count, at_once] = [COUNT, AT_ONCE].map(|n| n.to_string());
    let run = cgfw(&lab)
        .child(["swarm", &count, &at_once, RESOLVER, BLOCKED, "80"])
        .limit(Duration::from_mins(3))
        .run();
    let books = Books::of(lab.read("audit.jsonl").as_bytes());
    assert_eq!(
        (books.lost, books.lines_lost, books.unattributed),
        (0, 0, 0)
    );
    let lines = lines(&lab);
    let root = lines.iter().find(|line| line.is_act()).unwrap().ancestors[0].pid;
    // pids may be used again in between: the number is in the arguments.
    let number = |line: &Line| line.argv.get(1)?.parse::<u32>().ok();
    let mut acts: HashMap<(u32, u32), &Line> = HashMap::new();
    for line in lines.iter().filter(|line| line.is_act()) {
        let key = (number(line).unwrap(), line.pid);
        assert!(acts.insert(key, line).is_none(), "{line:#?}");
    }
    let ends: HashMap<(u32, u32), &Line> = lines
        .iter()
        .filter(|line| line.event == "exit")
        .filter_map(|line| Some(((number(line)?, line.pid), line)))
        .collect();
    let said: Vec<Vec<u32>> = run
        .stdout
        .lines()
        .map(|line| line.split(' ').map(|word| word.parse().unwrap()).collect())
        .collect();
    assert_eq!(said.len(), COUNT as usize);
    for said in &said {
        let [number, pid, copies @ ..] = &said[..] else {
            panic!("{said:?}");
        };
        let line = acts.remove(&(*number, *pid));
        let line = line.unwrap_or_else(|| panic!("nobody did {said:?}"));
        expect_swarm(line, *number, root, copies);
        // Its own end is told, and that of who executed the program.
        let pids = [*pid].into_iter().chain(copies.last().copied());
        for pid in pids {
            let end = ends[&(*number, pid)];
            assert_eq!(end.status.map(u32::from), Some(number % 100), "{end:#?}");
        }
    }
    assert!(acts.is_empty(), "{acts:#?}");
    let mut lives: Vec<u64> = ends.values().filter_map(|end| end.lived_us).collect();
    lives.sort_unstable();
    println!(
        "10,000 acts by as many processes, all attributed; half of them lived for less than \
         {} us",
        lives[lives.len() / 2]
    );
}

#[track_caller]
fn expect_swarm(line: &Line, number: u32, root: u32, copies: &[u32]) {
    let text = number.to_string();
    assert_eq!(
        line.argv,
        ["swarm", &text, RESOLVER, BLOCKED, "80"],
        "{line:#?}"
    );
    assert_eq!(line.exe.as_deref(), Some("/mnt/bin/swarm"), "{line:#?}");
    let cwd = format!("{WORK}/d{}", number % 16);
    assert_eq!(line.cwd.as_deref(), Some(&*cwd), "{line:#?}");
    match number % 4 {
        0 | 3 => assert_eq!((&*line.event, &*line.dst_ip), ("connect", BLOCKED)),
        _ => assert_eq!(line.qname, format!("n{number}.swarm.example"), "{line:#?}"),
    }
    // From the last copy up to the one that executed the program.
    let chain: Vec<u32> = line.ancestors.iter().map(|ancestor| ancestor.pid).collect();
    let expected: Vec<u32> = [root]
        .into_iter()
        .chain(copies.iter().rev().copied())
        .collect();
    assert_eq!(chain, expected, "{line:#?}");
    for copy in &line.ancestors[1..] {
        assert_eq!(copy.argv[1], text, "{line:#?}");
    }
    assert_eq!(line.script, None);
}

/// `deploy.sh`, `make`, `sh`, and at its end whatever there is to be executed.
fn deploy(lab: &Lab, command: &str) {
    lab.script("deploy.sh", "#!/bin/sh\nmake --silent all\necho done\n");
    lab.write("Makefile", &format!("all:\n\t@{command}; true\n"));
}

fn check_deploy(test: impl Fn(Test<'_>) -> Test<'_>, uid: u32) {
    let Some(lab) = Lab::new() else { return };
    deploy(&lab, &format!("cd /usr && curl --silent http://{BLOCKED}/"));
    let run = test(cgfw(&lab))
        .child(["./deploy.sh"])
        .stdout("done\n")
        .run();
    let line = act(&lab, &run);
    assert_eq!(line.argv, ["curl", "--silent", "http://198.51.100.20/"]);
    assert_eq!(
        line.exe.as_deref().and_then(|exe| exe.rsplit('/').next()),
        Some("curl")
    );
    assert_eq!(line.cwd.as_deref(), Some("/usr"), "{line:#?}");
    assert_eq!((line.uid, line.tid), (Some(uid), line.pid), "{line:#?}");
    let chain = line.chain();
    assert_eq!((chain[0], chain[1]), ("deploy.sh", "make"), "{line:#?}");
    assert_eq!(chain.len(), 3, "{line:#?}");
    assert_eq!(line.ppid, line.ancestors[2].pid, "{line:#?}");
    let script = format!("{WORK}/deploy.sh");
    assert_eq!(
        line.ancestors[0].script.as_deref(),
        Some(&*script),
        "{line:#?}"
    );
    assert_eq!(line.ancestors[0].argv, ["/bin/sh", "./deploy.sh"]);
    // How each of them ended, the command's parent last.
    let ends: Vec<(u32, Option<u8>)> = lines(&lab)
        .iter()
        .filter(|line| line.event == "exit")
        .map(|line| (line.pid, line.status))
        .collect();
    let mut expected = vec![(line.pid, Some(7))];
    let above = line.ancestors.iter().rev();
    expected.extend(above.map(|ancestor| (ancestor.pid, Some(0))));
    assert_eq!(ends, expected, "{line:#?}");
}

#[test]
fn a_script_that_makes_something_is_the_chain_of_what_that_needs() {
    check_deploy(|test| test, 0);
}

#[test]
fn so_it_is_for_an_ordinary_user() {
    check_deploy(|test| test.args(["--user", DEV.name]), DEV.uid);
}

#[test]
fn so_it_is_with_strict() {
    check_deploy(|test| test.arg("--strict"), 0);
    check_deploy(|test| test.args(["--strict", "--user", DEV.name]), DEV.uid);
}

#[test]
fn a_daemon_comes_from_who_is_gone() {
    let Some(lab) = Lab::new() else { return };
    let script = refused(
        "if os.fork(): os.wait(); time.sleep(0.3); sys.exit()\n\
         os.setsid()\nif os.fork(): os._exit(5)\ntime.sleep(0.1)",
        "os.kill(os.getpid(), 9)",
    );
    let run = cgfw(&lab)
        .sh(&format!("python3 -c \"{script}\"; true"))
        .run();
    let line = act(&lab, &run);
    let chain = line.chain();
    assert_eq!(chain.len(), 3, "{line:#?}");
    assert!(
        chain[1..].iter().all(|name| is_python(Some(name))),
        "{line:#?}"
    );
    assert!(
        line.ancestors
            .iter()
            .all(|ancestor| ancestor.pid != line.ppid)
    );
    let lines = lines(&lab);
    let end = |pid| {
        let end = lines
            .iter()
            .find(|line| line.event == "exit" && line.pid == pid);
        end.map(|end| (end.status, end.signal))
    };
    assert_eq!(end(line.pid), Some((None, Some(9))), "{line:#?}");
    // It ended before, and is told of since one that comes from it acted.
    assert_eq!(
        end(line.ancestors[2].pid),
        Some((Some(5), None)),
        "{line:#?}"
    );
}

#[test]
fn threads_have_names_and_numbers_of_their_own() {
    let Some(lab) = Lab::new() else { return };
    let script = format!(
        "import socket, threading
def turn():
    socket.socket().connect_ex(('{BLOCKED}', 80))
    print(threading.get_native_id(), end='')
thread = threading.Thread(target=turn); thread.start(); thread.join()"
    );
    let run = cgfw(&lab).child(["python3", "-c", &script]).run();
    let line = act(&lab, &run);
    assert_eq!(line.tid.to_string(), run.stdout, "{line:#?}");
    assert_ne!(line.tid, line.pid);
    assert!(is_python(line.exe.as_deref()), "{line:#?}");
    // A thread is no process that ends.
    assert_eq!(
        lines(&lab)
            .iter()
            .filter(|line| line.event == "exit")
            .count(),
        1
    );
}

#[test]
fn what_is_executed_after_the_act_did_not_act() {
    let Some(lab) = Lab::new() else { return };
    let script = refused("", "os.execvp('sleep', ['sleep', '0.1'])");
    let run = cgfw(&lab).child(["python3", "-c", &script]).run();
    let line = act(&lab, &run);
    assert!(is_python(line.exe.as_deref()), "{line:#?}");
    assert_eq!(line.argv[2], script);
    let lines = lines(&lab);
    let end = lines.iter().find(|line| line.event == "exit").unwrap();
    assert_eq!(
        (end.pid, &end.argv[..]),
        (line.pid, &["sleep".to_owned(), "0.1".to_owned()][..])
    );
    assert!(
        end.lived_us.is_some_and(|lived| lived > 100_000),
        "{end:#?}"
    );
}

/// Go asks from many threads, with a resolver of its own.
#[test]
fn a_go_program_is_attributed() {
    let Some(lab) = Lab::new() else { return };
    let run = lab
        .cgfw()
        .args(["--block", "github.com", "--audit-log", "audit.jsonl"])
        .sh("cd /usr; golang http://github.com/; true")
        .run();
    let acts: Vec<Line> = lines(&lab).into_iter().filter(Line::is_act).collect();
    assert!(!acts.is_empty(), "{run}");
    for line in &acts {
        assert_eq!(line.exe.as_deref(), Some("/mnt/bin/golang"), "{line:#?}");
        assert_eq!(line.argv, ["golang", "http://github.com/"]);
        assert_eq!(line.cwd.as_deref(), Some("/usr"), "{line:#?}");
        assert_eq!(line.chain().len(), 1, "{line:#?}");
    }
}

/// Two copies of a program ask on the same socket.
#[test]
fn who_shares_a_socket_is_told_apart() {
    let Some(lab) = Lab::new() else { return };
    let script = format!(
        "
import os, socket
def ask(name):
    s.sendto(b'\\0' + name + b'\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1' + name + b'\\6shared\\0\\0\\1\\0\\1',
             ('{RESOLVER}', 53))
    print(name.decode(), os.getpid(), flush=True)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for name in (b'a', b'b', b'c'):
    if os.fork() == 0:
        ask(name)
        os._exit(0)
ask(b'd')
for _ in range(3): os.wait()
"
    );
    let run = cgfw(&lab).child(["python3", "-c", &script]).run();
    let mut told = String::new();
    for line in lines(&lab).iter().filter(|line| line.event == "dns") {
        let name = line.qname.strip_suffix(".shared").unwrap();
        writeln!(told, "{name} {}", line.pid).unwrap();
        assert_eq!(line.ancestors.len(), usize::from(name != "d"), "{line:#?}");
    }
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&told), sorted(&run.stdout), "{run}");
    assert_eq!(told.lines().count(), 4, "{run}");
}

/// In a PID namespace whose pids are given out again at once.
#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let Some(lab) = Lab::new() else { return };
    let script = format!(
        "
import os, socket
def turn(n):
    open('/proc/sys/kernel/ns_last_pid', 'w').write('99')
    pid = os.fork()
    if pid == 0:
        if n % 2: os.execvp('python3', ['python3', '-c',
            'import os, socket; socket.socket().connect_ex((\"{BLOCKED}\", %d))' % (1000 + n)])
        socket.socket().connect_ex(('{BLOCKED}', 1000 + n))
        os._exit(n)
    os.waitpid(pid, 0)
    return pid
print([turn(n) for n in range(8)])
"
    );
    let run = cgfw(&lab)
        .child([
            "unshare",
            "--pid",
            "--fork",
            "--mount-proc",
            "python3",
            "-c",
            &script,
        ])
        .stdout(format!("{:?}\n", [100; 8]))
        .run();
    let acts: Vec<Line> = lines(&lab).into_iter().filter(Line::is_act).collect();
    assert_eq!(acts.len(), 8, "{run}");
    for (n, line) in acts.iter().enumerate() {
        let is_executed = n % 2 == 1;
        let expected = if is_executed {
            "import os, socket; "
        } else {
            &script
        };
        assert!(line.argv[2].starts_with(expected), "{line:#?}");
        // unshare, and the one that forks.
        assert_eq!(line.chain().len(), 2, "{line:#?}");
        assert!(line.pid != 100, "{line:#?}");
    }
}

#[test]
fn where_a_process_works_is_where_it_is_at_its_act() {
    let Some(lab) = Lab::new() else { return };
    for (before, cwd) in [
        ("", Some("/mnt/work".to_owned())),
        ("os.chdir('/')", Some("/".to_owned())),
        ("os.chdir('/usr/lib')", Some("/usr/lib".to_owned())),
        // Another mount, at the end of the mounts.
        ("os.chdir('/dev/shm')", Some("/dev/shm".to_owned())),
        (
            "os.makedirs('gone/by'); os.chdir('gone/by'); os.removedirs('../../gone/by')",
            Some("/mnt/work/gone/by (deleted)".to_owned()),
        ),
        (
            "for _ in range(60): os.mkdir('deep'); os.chdir('deep')",
            Some(format!("/mnt/work{}", "/deep".repeat(60))),
        ),
    ] {
        // A moment, in which the reader can still look.
        let script = refused(before, "time.sleep(0.2)");
        let run = cgfw(&lab).child(["python3", "-c", &script]).run();
        let line = act(&lab, &run);
        assert_eq!(line.cwd, cwd, "{before}: {line:#?}");
        lab.sh("rm -rf audit.jsonl deep").run();
    }
}

/// What is executed where needs nobody to look while it is there.
#[test]
fn where_something_was_executed_is_known() {
    let Some(lab) = Lab::new() else { return };
    for (place, cwd) in [
        ("mkdir -p a/b && cd a/b", "/mnt/work/a/b"),
        ("cd /", "/"),
        ("cd /dev/shm", "/dev/shm"),
        ("mkdir x && cd x && rmdir ../x", "/mnt/work/x (deleted)"),
        (
            "for i in $(seq 60); do mkdir deep && cd deep; done",
            &format!("/mnt/work{}", "/deep".repeat(60)),
        ),
    ] {
        let script = format!("{place}; python3 -c \"{}\"; true", refused("", ""));
        let run = cgfw(&lab).sh(&script).run();
        let line = act(&lab, &run);
        assert_eq!(line.cwd.as_deref(), Some(cwd), "{line:#?}");
        assert_eq!(line.chain().len(), 1, "{line:#?}");
        lab.sh("rm -rf audit.jsonl a deep").run();
    }
}

/// Somebody who ended before anyone could look is not guessed at.
#[test]
fn where_nobody_could_look_is_left_out() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import os, socket
for n in range(200):
    os.mkdir(str(n))
    if os.fork() == 0:
        os.chdir(str(n))
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.sendto(b'x', ('203.0.113.99', 2000 + n))
        os._exit(0)
    os.wait()
";
    let run = cgfw(&lab).child(["python3", "-c", script]).run();
    let acts: Vec<Line> = lines(&lab).into_iter().filter(Line::is_act).collect();
    assert_eq!(acts.len(), 200, "{run}");
    for (n, line) in acts.iter().enumerate() {
        let cwd = format!("{WORK}/{n}");
        assert!(line.cwd.is_none() || line.cwd == Some(cwd), "{line:#?}");
        assert!(is_python(line.exe.as_deref()), "{line:#?}");
    }
}

#[test]
fn scripts_are_told_by_their_path_however_they_are_executed() {
    let Some(lab) = Lab::new() else { return };
    let python = format!("#!/usr/bin/env python3\n{}", refused("", ""));
    lab.script("turn.py", &python);
    for (command, script, argv) in [
        (
            "./turn.py now",
            Some("/mnt/work/turn.py"),
            vec!["python3", "./turn.py", "now"],
        ),
        (
            "cd /usr; /mnt/work/turn.py",
            Some("/mnt/work/turn.py"),
            vec!["python3", "/mnt/work/turn.py"],
        ),
        (
            "PATH=$PATH:/mnt/work turn.py",
            Some("/mnt/work/turn.py"),
            vec!["python3", "/mnt/work/turn.py"],
        ),
        // It is an argument, then.
        ("python3 turn.py", None, vec!["python3", "turn.py"]),
    ] {
        let run = cgfw(&lab).sh(&format!("{command}; true")).run();
        let line = act(&lab, &run);
        // env executes the interpreter in turn, which is no script.
        let known = line.script.as_deref();
        assert!(known == script || known.is_none(), "{line:#?}");
        assert_eq!(&line.argv[1..], &argv[1..], "{line:#?}");
        assert!(is_python(line.exe.as_deref()), "{line:#?}");
        lab.sh("rm audit.jsonl").run();
    }
}

/// More than fits into the record of an act.
#[test]
fn long_arguments_are_told_as_they_were_executed() {
    let Some(lab) = Lab::new() else { return };
    let long = "x".repeat(3000);
    let script = refused("", "");
    let run = cgfw(&lab).child(["python3", "-c", &script, &long]).run();
    let line = act(&lab, &run);
    assert_eq!(line.argv[3], long);
    assert!(!line.argv_truncated, "{line:#?}");
    lab.sh("rm audit.jsonl").run();
    let longer = "y".repeat(100_000);
    let run = cgfw(&lab).child(["python3", "-c", &script, &longer]).run();
    let line = act(&lab, &run);
    assert!(longer.starts_with(&*line.argv[3]) && line.argv[3].len() > 3000);
    assert!(line.argv_truncated);
}

#[test]
fn names_do_not_reach_a_terminal_raw() {
    let Some(lab) = Lab::new() else { return };
    let script = refused(
        "os.mkdir('\\x1b[31m'); os.chdir('\\x1b[31m')",
        "time.sleep(0.2)",
    );
    let run = cgfw(&lab)
        .child(["python3", "-c", &script, "\u{1b}]0;owned\u{7}"])
        .run();
    let line = act(&lab, &run);
    assert!(line.cwd.is_some_and(|cwd| cwd.ends_with("\u{1b}[31m")));
    let log = lab.read("audit.jsonl");
    for text in [&run.stderr, &log] {
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
    }
    assert!(Path::new(&line.exe.unwrap()).is_absolute());
}

/// Says when it is there, does what it is told to, and waits until it may end.
const IN_STEPS: &str = "echo there; while ! test -e go; do sleep 0.02; done; \"$@\"; \
                        echo done; while ! test -e end; do sleep 0.02; done";

/// Nanoseconds in the kernel for each fork, exec and exit: of the run, and of everybody else.
#[test]
fn forks_execs_and_ends_cost_little_and_others_next_to_nothing() {
    /// On a machine that does a dozen other things meanwhile.
    const LIMIT: u64 = 10_000;
    const LIMIT_OF_OTHERS: u64 = 2_000;
    let Some(lab) = Lab::new() else { return };
    let watch = Stopwatch::start();
    let chain = "[ $0 = 0 ] || exec sh -c \"$1\" $(($0 - 1)) \"$1\"";
    let forks = &["forks", "3000", "4", BLOCKED, "80"][..];
    let execs = &["sh", "-c", chain, "2000", chain][..];
    // The last two have one name for the kernel, which cuts it. Of either there are but few
    // while the other one is measured.
    for (program, command) in [
        ("sched_process_fork", forks),
        ("sched_process_exit", forks),
        ("sched_process_exec", execs),
    ] {
        let mut running = lab
            .cgfw()
            .args(["--block", BLOCKED, "-q"])
            .child([&["sh", "-c", IN_STEPS, "-"][..], command].concat())
            .limit(Duration::from_mins(2))
            .spawn();
        running.wait_for_stdout("there");
        let of_others = watch.measure(program, || {
            lab.command("env").args(command).any_status().run();
        });
        let own = watch.measure(program, || {
            lab.write("go", "");
            running.wait_for_stdout("done");
        });
        lab.write("end", "");
        running.finish();
        lab.sh("rm go end").run();
        println!("{program}: {own:?} of the run, {of_others:?} of others (times, ns each)");
        assert!(
            own.0 >= 2000 && of_others.0 >= 2000,
            "{own:?} {of_others:?}"
        );
        assert!(
            own.1 < LIMIT && of_others.1 < LIMIT_OF_OTHERS,
            "{own:?} {of_others:?}"
        );
    }
}
