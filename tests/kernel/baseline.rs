//! What a run depends on, held against what it did before.

use crate::support::Lab;
use crate::support::command::Test;
use crate::support::lab::DEV;

const BEFORE: &str =
    "curl --silent http://example.com/; curl --silent --fail http://github.com/; true";
/// The same, done otherwise, and one dependency more.
const AFTER: &str = "curl --silent --user-agent other http://example.com/; \
                     curl --silent http://github.com/; curl --silent http://allowed.example/; true";

fn run(lab: &Lab) -> Test<'_> {
    lab.cgfw()
        .args(["--block", "github.com", "--audit-log", "audit.jsonl"])
}

/// Write a baseline from a run, and forget its log.
fn baseline(lab: &Lab) {
    run(lab).sh(BEFORE).run();
    lab.sh("cgfw baseline audit.jsonl > baseline.toml && mv audit.jsonl old.jsonl")
        .run();
}

#[test]
fn only_what_is_new_fails() {
    let Some(lab) = Lab::new() else { return };
    baseline(&lab);
    let text = lab.read("baseline.toml");
    for part in [
        "\n[[dependency]]\nname = \"example.com\"\nverdict = \"allowed\"\nports = [\"80/tcp\"]\n\
         commands = [\"curl\"]\n",
        "\n[[dependency]]\nname = \"github.com\"\nverdict = \"blocked\"\ncommands = [\"curl\"]\n",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let held = || run(&lab).args(["--baseline", "baseline.toml"]);
    let output = held().sh(BEFORE).run();
    assert!(!output.stderr.contains("baseline"), "{output}");
    held()
        .sh(AFTER)
        .status(121)
        .stderr_has("\n  new, not in the baseline (1)\n    allowed.example\n")
        .stderr_has(", 1 dependency is not in the baseline\n")
        .run();
    let end = lab.read("audit.jsonl");
    let end = end.lines().last().unwrap();
    assert!(end.contains("\"new\":[\"allowed.example\"]"), "{end}");
    // A failure of the command comes first, and so does what was blocked.
    held().sh(&format!("{AFTER}; exit 3")).status(3).run();
    held().arg("--fail-on-block=9").sh(AFTER).status(9).run();
    // What is refused is new as well.
    lab.cgfw()
        .args(["--block", "www.example.com", "--baseline", "baseline.toml"])
        .sh("curl --silent http://www.example.com/; true")
        .status(121)
        .run();
    // A log will do.
    lab.cgfw()
        .args(["--block", "github.com", "--baseline", "old.jsonl"])
        .sh(BEFORE)
        .run();
}

/// The same thing, which looks another each time: arguments, a port and a name that is made of
/// an address.
const ANEW: &str = "
file=$(mktemp); curl --silent --output $file http://example.com/?$$; rm $file
dig +short -x 203.0.113.$(($$ % 250)) > /dev/null
python3 -c 'import socket, random
to = (\"203.0.113.21\", random.randrange(32768, 65536))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b\"x\", to)'
";

#[test]
fn what_looks_another_each_time_is_not_new() {
    let Some(lab) = Lab::new() else { return };
    let run = || run(&lab).args(["--user", DEV.name]);
    run().sh(ANEW).run();
    lab.sh("cgfw baseline audit.jsonl > baseline.toml").run();
    let text = lab.read("baseline.toml");
    for line in [
        "name = \"example.com\"\n",
        "name = \"in-addr.arpa\"\n",
        "address = \"203.0.113.21/udp\"\nverdict = \"allowed\"\nports = [\"32768-65535/udp\"]\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!(text.matches("[[dependency]]").count(), 3, "{text}");
    let held = || run().args(["--baseline", "baseline.toml"]);
    for _ in 0..3 {
        held().sh(ANEW).run();
    }
    let more = format!("{ANEW}curl --silent http://203.0.113.99/");
    held()
        .sh(&more)
        .status(121)
        .stderr_has("\n  new, not in the baseline (1)\n    203.0.113.99:80/tcp\n")
        .run();
    lab.sh("rm audit.jsonl").run();
    run().sh(ANEW).run();
    let again = lab.command("cgfw").args(["baseline", "audit.jsonl"]).run();
    assert_eq!(again.stdout, text, "{again}");
}

#[test]
fn two_logs_are_compared() {
    let Some(lab) = Lab::new() else { return };
    baseline(&lab);
    run(&lab).sh(AFTER).run();
    let diff = |old, new| lab.command("cgfw").args(["diff", old, new]);
    diff("baseline.toml", "audit.jsonl")
        .status(1)
        .stdout(
            "+ allowed.example  allowed, 80/tcp\n    curl --silent http://allowed.example/\n\
             1 new, 0 gone, 0 changed\n",
        )
        .run();
    let back = diff("audit.jsonl", "old.jsonl").run();
    assert!(
        back.stdout
            .starts_with("- allowed.example  allowed, 80/tcp\n"),
        "{back}"
    );
    diff("old.jsonl", "baseline.toml")
        .stdout("0 new, 0 gone, 0 changed\n")
        .run();
    lab.command("cgfw")
        .args(["diff", "--format", "json", "baseline.toml", "-"])
        .stdin(&lab.read("audit.jsonl"))
        .status(1)
        .stdout_has("\"changes\":[{\"change\":\"new\",\"target\":\"allowed.example\"")
        .run();
    // Nobody knows what is behind the cut.
    lab.sh("head -n -1 audit.jsonl > cut.jsonl").run();
    diff("old.jsonl", "cut.jsonl")
        .status(1)
        .stderr_has("cgfw: cut.jsonl: the log of run ")
        .stderr_has(
            " is not complete: there may be more that is new, and what is gone may not be\n",
        )
        .run();
}

#[test]
fn the_order_of_logs_does_not_matter() {
    let Some(lab) = Lab::new() else { return };
    for (script, log) in [(BEFORE, "one.jsonl"), (AFTER, "two.jsonl")] {
        lab.cgfw()
            .args(["--block", "github.com", "--audit-log", log])
            .sh(script)
            .run();
    }
    let write = |one, other| lab.command("cgfw").args(["baseline", one, other]).run();
    let (one, other) = (
        write("one.jsonl", "two.jsonl"),
        write("two.jsonl", "one.jsonl"),
    );
    assert_eq!(one.stdout, other.stdout);
    assert_eq!(one.stdout.matches("[[dependency]]").count(), 3, "{one}");
}

#[test]
fn a_bad_baseline_is_found_out_before_anything_runs() {
    let Some(lab) = Lab::new() else { return };
    lab.write("bad.toml", "version = 1\nnonsense = 1\n");
    lab.sh("mkdir private; echo 'version = 1' > private/base.toml; chmod 700 private")
        .run();
    for (file, says) in [
        (
            "bad.toml",
            "cannot use the baseline: bad.toml:2: not a baseline: unknown field",
        ),
        (
            "missing.toml",
            "cannot use the baseline: cannot open missing.toml: No such file",
        ),
        ("-", "`-` is stdin, which belongs to the command"),
    ] {
        run(&lab)
            .args(["--baseline", file])
            .sh("touch was-run")
            .status(125)
            .stderr_has(says)
            .run();
    }
    lab.command("sudo")
        .args(["/mnt/bin/cgfw", "run", "--block", "github.com"])
        .args(["--baseline", "private/base.toml"])
        .user(&DEV)
        .sh("touch was-run")
        .status(125)
        .stderr_has("cannot open private/base.toml: Permission denied")
        .run();
    assert!(!lab.exists("was-run"));
}
