//! What logs and baselines say that is needed, without any run.

use crate::command::Test;
use crate::{Written, cgfw};

/// A run that looks up `names`, whole.
fn log(run: &str, names: &[&str]) -> String {
    let head = |event: &str| {
        format!(r#"{{"schema":1,"time":"2026-11-23T00:00:00Z","run":"{run}","event":"{event}","#)
    };
    let start = r#""version":"0.1.0","mode":"enforce","default":"allow","direct_ip":"allow","rules":[],"policy_digest":"","uid":0,"argv":["x"],"host":"h","kernel":"6.1","cgroup":"/","hooks":[],"sees_sockets":true,"sees_processes":true,"can_be_left":true}"#;
    let mut log = format!("{}{start}\n", head("run_start"));
    for name in names {
        let dns = format!(
            r#""verdict":"allowed","layer":"dns","qname":"{name}","reason":"default","count":1,"qtype":"A","rcode":"NOERROR","latency_us":1,"pid":1,"ppid":1,"uid":0,"comm":"dig","argv":["dig","\u001b[2J{name}"]}}"#
        );
        log += &[&head("dns"), &*dns, "\n"].concat();
    }
    let end = r#""outcome":"exited","status":0,"exit_code":0,"elapsed_us":1}"#;
    log + &format!("{}{end}\n", head("run_end"))
}

fn diff(old: &Written, new: &Written) -> Test<'static> {
    cgfw().args(["diff", old.path(), new.path()])
}

/// What a command writes that has nothing to complain of.
#[track_caller]
fn quietly(command: Test<'_>) -> String {
    let output = command.run();
    assert_eq!(output.stderr, "", "{output}");
    output.stdout
}

#[test]
fn a_baseline_is_written_and_compared() {
    let (one, two) = (log("1", &["b.test", "a.test"]), log("2", &["c.test"]));
    let (first, second) = (Written::new(&one), Written::new(&two));
    let both = Written::new(&format!("{two}{one}"));
    let write = |log: &Written| quietly(cgfw().args(["baseline", log.path()]));
    let baseline = write(&first);
    assert!(
        baseline.ends_with(
            "version = 1\n\
             \n[[dependency]]\nname = \"a.test\"\nverdict = \"allowed\"\ncommands = [\"dig\"]\n\
             \n[[dependency]]\nname = \"b.test\"\nverdict = \"allowed\"\ncommands = [\"dig\"]\n"
        ),
        "{baseline}"
    );
    let together = cgfw().args(["baseline", first.path(), second.path()]).run();
    assert_eq!(together.stdout, write(&both));
    let baseline = Written::new(&baseline);
    let same = quietly(diff(&baseline, &first));
    assert_eq!(same, "0 new, 0 gone, 0 changed\n");
    let more = quietly(diff(&baseline, &both).status(1));
    let expected = "+ c.test  allowed\n    dig '\\u{1b}[2Jc.test'\n1 new, 0 gone, 0 changed\n";
    assert_eq!(more, expected);
    diff(&both, &baseline)
        .stdout_has("- c.test  allowed\n")
        .run();
    diff(&baseline, &both)
        .args(["--format", "markdown"])
        .status(1)
        .stdout_has("| **new** | <code>c.test</code> |")
        .run();
    cgfw()
        .args(["diff", "--format=json", "-", both.path()])
        .stdin(&one)
        .status(1)
        .stdout_has(r#""changes":[{"change":"new","target":"c.test","new":{"verdict":"allowed""#)
        .run();
}

#[test]
fn what_a_cut_log_cannot_say_is_said() {
    let whole = log("1", &["a.test", "b.test"]);
    let cut: Vec<&str> = whole.lines().collect();
    let (whole, cut) = (
        Written::new(&whole),
        Written::new(&format!("{}\n", cut[..2].join("\n"))),
    );
    let new = format!(
        "cgfw: {}: the log of run 1 is not complete: there may be more that is new, and what is \
         gone may not be\n",
        cut.path()
    );
    let output = diff(&whole, &cut).stdout_has("1 gone").run();
    assert_eq!(output.stderr, new);
    diff(&whole, &cut)
        .args(["--format", "json"])
        .stdout_has(r#""doubts":[""#)
        .run();
    let old = format!(
        "cgfw: {}: the log of run 1 is not complete: what is new may not be\n",
        cut.path()
    );
    let output = diff(&cut, &whole).status(1).run();
    assert_eq!(output.stderr, old);
}

#[test]
fn what_is_neither_a_log_nor_a_baseline_is_named() {
    let good = Written::new("version = 1\n");
    for (bad, says) in [
        ("", " is empty: neither an audit log nor a baseline"),
        ("version = 2\n", ": this is version 2 of baselines"),
        (
            "version = 1\n[[dependency]]\nname = 1\n",
            ":3: not a baseline: ",
        ),
        ("no file of ours", ":1: not a baseline: "),
        ("{}\n", ":1: not a line of an audit log: "),
    ] {
        let bad = Written::new(bad);
        let says = format!("cgfw: {}{says}", bad.path());
        for (old, new) in [(&good, &bad), (&bad, &good)] {
            diff(old, new)
                .status(125)
                .stdout("")
                .stderr_has(&*says)
                .run();
        }
    }
    for (args, says) in [
        (&["diff", "-", "-"][..], "stdin"),
        (&["diff", "/missing.toml", "-"], "cannot open /missing.toml"),
        (&["diff", "one"], "NEW"),
        (&["baseline"], "AUDIT.jsonl"),
        (
            &["run", "--baseline", "-", "--", "true"],
            "`-` is stdin, which belongs to the command",
        ),
    ] {
        cgfw()
            .args(args.iter().copied())
            .status(125)
            .stdout("")
            .stderr_has(says)
            .run();
    }
}
