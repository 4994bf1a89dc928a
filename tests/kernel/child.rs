//! The child runs as if it ran bare: exit code, descriptors, terminal, signals, user.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::Lab;
use crate::support::lab::{DEV, WORK};
use crate::support::terminal::Terminal;

const BLOCK: [&str; 2] = ["--block", "github.com"];
/// What a child can tell neither from each other nor from running bare.
const MODES: [&[&str]; 2] = [&BLOCK, &["--block", "github.com", "--strict"]];

#[test]
fn exit_codes_are_the_documented_ones() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        for code in [0, 1, 2, 42, 126, 127, 255] {
            lab.cgfw()
                .args(options)
                .sh(&format!("exit {code}"))
                .status(code)
                .run();
        }
        for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139), ("INT", 130)] {
            lab.cgfw()
                .args(options)
                .sh(&format!("kill -{signal} $$"))
                .status(code)
                .run();
        }
        lab.cgfw()
            .args(options)
            .child(["no-such-command"])
            .status(127)
            .stderr_has("no-such-command")
            .run();
        lab.cgfw()
            .args(options)
            .child(["/no/such/file"])
            .status(127)
            .stderr_has("/no/such/file")
            .run();
        lab.cgfw()
            .args(options)
            .child(["/etc/passwd"])
            .status(126)
            .stderr_has("/etc/passwd")
            .run();
        lab.cgfw().args(options).child(["/etc"]).status(126).run();
    }
}

#[test]
fn the_exit_code_is_known_where_the_parent_ignores_sigchld() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execvp('cgfw', ['cgfw', 'run', '--block', 'github.com', '--', 'sh', '-c', 'exit 7'])";
    lab.command("python3").args(["-c", script]).status(7).run();
}

#[test]
fn a_timeout_ends_the_run_with_124() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        let output = lab
            .cgfw()
            .args(options)
            .args(["--timeout", "1"])
            .sh("sleep 60 & setsid sleep 60 & sleep 60")
            .status(124)
            .run();
        assert!(output.elapsed > Duration::from_millis(950), "{output}");
        assert!(output.elapsed < Duration::from_secs(10), "{output}");
        lab.cgfw()
            .args(options)
            .args(["--timeout", "20"])
            .sh("exit 3")
            .status(3)
            .run();
    }
}

#[test]
fn standard_descriptors_pass_through() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        let output = lab
            .cgfw()
            .args(options)
            .stdin("to be\nor not\n")
            .sh("cat; echo that is >&2; printf '\\000\\377'")
            .run();
        assert!(output.stdout.starts_with("to be\nor not\n\0"), "{output}");
        assert!(output.stderr.contains("that is\n"), "{output}");
        // Nothing of cgfw's own is in standard output, however it is used.
        lab.cgfw()
            .args(options)
            .arg("-v")
            .sh("curl --silent github.com; true")
            .stdout("")
            .run();
    }
}

#[test]
fn environment_directory_and_quoting_are_kept() {
    let Some(lab) = Lab::new() else { return };
    let bare = lab.command("env").env("STRANGE", "a  b\n'c'\"d\"").run();
    let inside = lab
        .cgfw()
        .args(BLOCK)
        .env("STRANGE", "a  b\n'c'\"d\"")
        .child(["env"])
        .run();
    assert_eq!(sorted(&bare.stdout), sorted(&inside.stdout));
    lab.sh("mkdir 'a b'").run();
    lab.cgfw()
        .args(BLOCK)
        .dir("/mnt/work/a b")
        .child(["pwd"])
        .stdout("/mnt/work/a b\n")
        .run();
    lab.cgfw()
        .args(BLOCK)
        .child([
            "printf", "<%s>", "", "a  b", "--block", "*", "$HOME", "\\n", "'\"",
        ])
        .stdout("<><a  b><--block><*><$HOME><\\n><'\">")
        .run();
    lab.cgfw()
        .args(BLOCK)
        .sh("umask; ulimit -n; nice")
        .stdout(lab.sh("umask; ulimit -n; nice").run().stdout)
        .run();
}

/// What cgfw raises is its own affair, and is raised no further than its hard limit.
#[test]
fn resource_limits_are_those_that_cgfw_was_started_with() {
    let Some(lab) = Lab::new() else { return };
    // Columns 4 and 5 are the soft and the hard limit.
    let of_cgfw = r#"awk '/^Max open files/ { print "cgfw", $4, $5 }' /proc/$PPID/limits"#;
    for (soft, hard, raised) in [(100, 8192, 4096), (100, 300, 300), (5000, 8192, 5000)] {
        let script = format!(
            "ulimit -Sn {soft} && ulimit -Hn {hard} && ulimit -l 64 && cat /proc/self/limits && \
             exec cgfw run --block github.com -- sh -c 'cat /proc/self/limits; {}'",
            of_cgfw.replace('\'', r"'\''"),
        );
        let output = lab.sh(&script).run();
        let lines: Vec<&str> = output.stdout.lines().collect();
        let (limits, cgfw) = lines.split_at(lines.len() - 1);
        let (before, inside) = limits.split_at(limits.len() / 2);
        assert_eq!(before, inside, "{output}");
        assert!(
            before.iter().any(|line| *line
                == format!("Max open files            {soft:<20} {hard:<20} files     ")),
            "{output}"
        );
        assert_eq!(cgfw, [format!("cgfw {raised} {hard}")], "{output}");
    }
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn signals_sent_to_cgfw_reach_the_child_once() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        for (signal, name) in [
            (Signal::SIGTERM, "TERM"),
            (Signal::SIGINT, "INT"),
            (Signal::SIGHUP, "HUP"),
            (Signal::SIGQUIT, "QUIT"),
            (Signal::SIGUSR1, "USR1"),
            (Signal::SIGUSR2, "USR2"),
        ] {
            let mut running = lab
                .cgfw()
                .args(options)
                .sh(&format!(
                    "trap 'echo got {name}' {name}; echo ready; \
                 for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done; exit 7"
                ))
                .status(7)
                .spawn();
            running.wait_for_stdout("ready");
            running.send(signal);
            assert_eq!(running.finish().stdout, format!("ready\ngot {name}\n"));
        }
        let mut running = lab
            .cgfw()
            .args(options)
            .sh("echo ready; exec sleep 30")
            .status(143)
            .spawn();
        running.wait_for_stdout("ready");
        running.send(Signal::SIGTERM);
        let output = running.finish();
        assert!(output.elapsed < Duration::from_secs(10), "{output}");
    }
}

#[test]
fn control_c_reaches_the_child_once() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        let test = lab.cgfw().args(options).sh(
            "trap 'echo caught $((count = count + 1))' INT; echo ready; \
         for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done; echo count=$count; exit 5",
        );
        let mut terminal = Terminal::start(&test);
        terminal.wait_for("ready");
        terminal.typed("\x03");
        terminal.wait_for("count=1");
        assert_eq!(terminal.finish().0.code(), Some(5));
    }
}

#[test]
fn control_c_ends_a_child_that_does_not_mind() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        let mut terminal =
            Terminal::start(&lab.cgfw().args(options).sh("echo ready; exec sleep 30"));
        terminal.wait_for("ready");
        terminal.typed("\x03");
        assert_eq!(terminal.finish().0.code(), Some(130));
    }
}

#[test]
fn the_terminal_belongs_to_the_child() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        let test = lab
            .cgfw()
            .args(options)
            .sh("test -t 0 && test -t 1 && stty -echo && \
         read -r line </dev/tty && echo \"read <$line>\"; stty echo");
        let mut terminal = Terminal::start(&test);
        std::thread::sleep(Duration::from_millis(500));
        terminal.typed("from the keyboard\n");
        terminal.wait_for("read <from the keyboard>");
        assert!(terminal.finish().0.success());
    }
}

#[test]
fn job_control_stops_and_continues() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        lab.script(
            "job.sh",
            "#!/bin/sh\necho started\nsleep 1\necho worked\nexit 0\n",
        );
        let mut shell = Terminal::start(&lab.command("bash").args(["--norc", "--noprofile", "-i"]));
        shell.typed("PS1='prompt> '\n");
        shell.wait_for("prompt> ");
        shell.typed(&format!("cgfw run {} -- ./job.sh\n", options.join(" ")));
        shell.wait_for("started");
        // A shell that is stopped between vfork and exec of its child would hang for good.
        std::thread::sleep(Duration::from_millis(300));
        shell.typed("\x1a");
        shell.wait_for("Stopped");
        shell.typed("jobs\n");
        shell.wait_for("prompt> ");
        std::thread::sleep(Duration::from_millis(1500));
        shell.typed("fg\n");
        let while_stopped = shell.wait_for("./job.sh");
        assert!(
            !while_stopped.contains("worked"),
            "ran on while stopped: {while_stopped}"
        );
        shell.wait_for("worked");
        shell.wait_for("prompt> ");
        shell.typed("exit\n");
        shell.finish();
    }
}

#[test]
fn a_network_socket_beyond_the_standard_ones_is_closed() {
    let Some(lab) = Lab::new() else { return };
    let tcp = lab
        .client()
        .run(|| TcpStream::connect("203.0.113.99:7").unwrap());
    let udp = lab.client().run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    lab.cgfw()
        .args(BLOCK)
        .fd(tcp.into(), 3)
        .fd(udp.into(), 9)
        .sh("[ ! -e /proc/self/fd/3 ] && [ ! -e /proc/self/fd/9 ]")
        .stderr_has("descriptor 3")
        .stderr_has("descriptor 9")
        .run();
}

#[test]
fn a_network_socket_as_standard_descriptor_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let socket = || -> OwnedFd {
        lab.client()
            .run(|| TcpStream::connect("203.0.113.99:7").unwrap())
            .into()
    };
    lab.cgfw()
        .args(BLOCK)
        .stdin_fd(socket())
        .sh("touch was-run")
        .status(125)
        .stderr_has("socket")
        .run();
    lab.cgfw()
        .args(BLOCK)
        .fd(socket(), 1)
        .sh("touch was-run")
        .status(125)
        .stderr_has("socket")
        .run();
    assert!(!lab.exists("was-run"), "the command ran");
    let listener = lab
        .client()
        .run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    lab.cgfw()
        .args(BLOCK)
        .stdin_fd(listener.into())
        .sh("touch was-run")
        .status(125)
        .run();
    assert!(!lab.exists("was-run"), "the command ran");
}

#[test]
fn other_descriptors_survive() {
    let Some(lab) = Lab::new() else { return };
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"through a pipe\n").unwrap();
    drop(writer);
    lab.cgfw()
        .args(BLOCK)
        .fd(reader.into(), 5)
        .sh("cat <&5")
        .stdout("through a pipe\n")
        .run();
    let (mut reader, writer) = std::io::pipe().unwrap();
    lab.cgfw()
        .args(BLOCK)
        .fd(writer.into(), 7)
        .sh("echo back >&7")
        .run();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "back\n");
    // Process substitution, flock, and the descriptors of make's job server.
    lab.command("bash")
        .args([
            "-c",
            "cgfw run --block github.com -- cat <(echo substituted)",
        ])
        .stdout("substituted\n")
        .run();
    lab.command("bash")
        .args([
            "-c",
            "exec 9>lock; flock 9; cgfw run --block github.com -- sh -c \
             'flock -n lock true || echo held; flock -n 9 && echo mine'",
        ])
        .stdout("held\nmine\n")
        .run();
    lab.write(
        "Makefile",
        "all:\n\t+@cgfw run --block github.com -- $(MAKE) --no-print-directory a b\na b:\n\t@echo $@\n",
    );
    let output = lab
        .command("make")
        .args(["--no-print-directory", "-j2"])
        .run();
    assert_eq!(sorted(&output.stdout), ["a", "b"]);
    assert!(!output.stderr.contains("jobserver"), "{output}");
    let file = File::open("/dev/null").unwrap();
    lab.cgfw()
        .args(BLOCK)
        .fd(file.into(), 42)
        .sh("[ -e /proc/self/fd/42 ]")
        .run();
}

#[test]
fn no_descriptor_of_cgfw_leaks_into_the_child() {
    let Some(lab) = Lab::new() else { return };
    let bare = lab.command("ls").arg("/proc/self/fd").run();
    lab.cgfw()
        .args(BLOCK)
        .child(["ls", "/proc/self/fd"])
        .stdout(bare.stdout)
        .run();
}

#[test]
fn signal_dispositions_and_mask_are_as_bare() {
    let Some(lab) = Lab::new() else { return };
    let script = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status";
    let bare = lab.sh(script).run();
    for options in MODES {
        lab.cgfw()
            .args(options)
            .sh(script)
            .stdout(bare.stdout.clone())
            .run();
    }
    // Not a number: whoever started the tests may ignore others, as posix_spawn of glibc
    // makes its children ignore the C library's own.
    let grep = "grep SigIgn /proc/self/status";
    let bare = lab.sh(&format!("trap '' HUP; exec {grep}")).run();
    assert!(bare.stdout.ends_with("1\n"), "{bare}");
    // SIGPIPE is what Rust's runtime changes, SIGCHLD what cgfw must change for itself.
    for signals in ["HUP", "PIPE", "HUP PIPE"] {
        let bare = lab.sh(&format!("trap '' {signals}; exec {grep}")).run();
        lab.sh(&format!(
            "trap '' {signals}; exec cgfw run --block github.com -- {grep}"
        ))
        .stdout(bare.stdout)
        .run();
    }
    let ignoring_children = |command: &str| {
        format!(
            "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n\
             os.execvp('sh', ['sh', '-c', '{command}'])"
        )
    };
    let bare = lab
        .command("python3")
        .args(["-c", &ignoring_children(&format!("exec {grep}"))]);
    let bare = bare.run();
    let filtered = ignoring_children(&format!("exec cgfw run --block github.com -- {grep}"));
    lab.command("python3")
        .args(["-c", &filtered])
        .stdout(bare.stdout)
        .run();
}

#[test]
fn survivors_are_ended_and_listed() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        lab.sh("rm -f up tidied done").run();
        lab.cgfw()
            .args(options)
            .sh("setsid sleep 4711 & exit 0")
            .stderr_has("sleep 4711")
            .run();
        lab.expect_gone_within(Duration::from_millis(500));
        // SIGTERM first: what wants to may tidy up. SIGKILL for what does not listen.
        let output = lab
            .cgfw()
            .args(options)
            .sh(
                "setsid sh -c 'trap \"echo tidied > tidied; exit\" TERM; echo up > up; \
                 while :; do sleep 0.05; done' & \
             setsid sh -c 'trap \"\" TERM; while :; do sleep 0.05; done' & \
             while ! [ -e up ]; do sleep 0.05; done; exit 4",
            )
            .status(4)
            .run();
        assert_eq!(lab.read("tidied"), "tidied\n", "{output}");
        lab.expect_gone_within(Duration::from_millis(500));
    }
}

#[test]
fn survivors_are_waited_for_if_asked() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        lab.sh("rm -f up tidied done").run();
        let output = lab
            .cgfw()
            .args(options)
            .args(["--survivors", "wait"])
            .sh("(sleep 1; curl --silent github.com; echo done > done) & exit 6")
            .status(6)
            .run();
        assert_eq!(lab.read("done"), "done\n");
        assert_eq!(output.refusal()["domain"], "github.com.", "{output}");
    }
}

#[test]
fn survivors_are_released_loudly_if_asked() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(BLOCK)
        .args(["--survivors", "release"])
        .sh("(sleep 1; curl --silent http://github.com/ > released) & exit 0")
        .stderr_has("unfiltered")
        .run();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(lab.read("released"), "hello from github.com\n");
    lab.expect_gone_within(Duration::from_secs(1));
}

#[test]
fn under_sudo_the_child_is_the_invoking_user() {
    let Some(lab) = Lab::new() else { return };
    let script = "id; echo $HOME $USER $LOGNAME; pwd; touch file; stat -c %U file";
    let expected = lab.sh(script).user(&DEV).run().stdout;
    lab.sh("rm file").run();
    lab.command("sudo")
        .args(["/mnt/bin/cgfw", "run", "--block", "github.com"])
        .user(&DEV)
        .sh(script)
        .stdout(expected)
        .stderr_has("dev")
        .run();
    lab.command("sudo")
        .args([
            "/mnt/bin/cgfw",
            "run",
            "--block",
            "github.com",
            "--keep-root",
        ])
        .user(&DEV)
        .sh("id -u")
        .stdout("0\n")
        .run();
    // Root who calls cgfw without sudo stays root, and another user may be named.
    lab.cgfw().args(BLOCK).sh("id -u").stdout("0\n").run();
    lab.cgfw()
        .args(BLOCK)
        .args(["--user", "dev"])
        .sh("id; echo $HOME $USER; cat /etc/shadow 2>/dev/null || echo no")
        .stdout("uid=4242(dev) gid=4242(dev) groups=4242(dev),4243(deployers)\n/mnt/home dev\nno\n")
        .run();
    // Stale variables do not make a run of root's somebody else's.
    lab.cgfw()
        .args(BLOCK)
        .env("SUDO_UID", "4242")
        .env("SUDO_GID", "4242")
        .sh("id -u")
        .stdout("0\n")
        .run();
}

#[test]
fn without_rights_the_printed_command_works() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(BLOCK)
        .user(&DEV)
        .env("STAGE", "canary 1")
        .env("PATH", "/mnt/work/tools:/mnt/bin:/usr/bin:/bin")
        .child([
            "sh",
            "-c",
            "touch was-run; id -un; echo \"$STAGE $PATH\"; exit 9",
        ])
        .status(125)
        .run();
    assert!(!lab.exists("was-run"), "the command ran");
    let sudo = output
        .stderr
        .lines()
        .find_map(|line| line.find("sudo ").map(|at| line[at..].to_owned()))
        .unwrap_or_else(|| panic!("no sudo command\n{output}"));
    lab.sh(&sudo)
        .user(&DEV)
        .env("STAGE", "canary 1")
        .env("PATH", "/mnt/work/tools:/mnt/bin:/usr/bin:/bin")
        .stdout("dev\ncanary 1 /mnt/work/tools:/mnt/bin:/usr/bin:/bin\n")
        .status(9)
        .run();
}

#[test]
fn sudo_inside_the_script_works_and_is_filtered() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .command("sudo")
        .args(["/mnt/bin/cgfw", "run", "--block", "github.com"])
        .user(&DEV)
        .sh("sudo id -u; sudo curl --silent http://github.com/; sudo curl --silent example.com")
        .stdout("0\nhello from example.com\n")
        .run();
    assert_eq!(output.refusal()["domain"], "github.com.", "{output}");
    lab.cgfw()
        .args(BLOCK)
        .args(["--user", "dev", "--no-new-privs"])
        .sh("sudo id -u")
        .status(1)
        .run();
}

#[test]
fn the_child_is_in_the_filter_from_its_first_instruction() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(["--block", "github.com"])
        .child(["cat", "/proc/self/cgroup"])
        .run();
    assert!(
        output.stdout.lines().any(|line| line.starts_with("0::")
            && line.contains("lab-of-cgfw-")
            && line.matches('/').count() >= 2),
        "not in a cgroup of its own below the caller's: {output}"
    );
    assert_eq!(lab.sh("pwd").run().stdout, format!("{WORK}\n"));
}

#[test]
fn a_child_cannot_move_itself_out_as_an_ordinary_user() {
    let Some(lab) = Lab::new() else { return };
    let outside = lab.cgroup().path().join("cgroup.procs");
    lab.cgfw()
        .args(BLOCK)
        .args(["--user", "dev"])
        .sh(&format!(
            "echo $$ > {} && echo moved; curl --silent github.com",
            outside.display()
        ))
        .stdout("")
        .status(6)
        .run();
}

#[test]
fn an_interactive_shell_has_job_control_of_its_own() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        let shell = ["bash", "--norc", "--noprofile", "-i"];
        let mut terminal = Terminal::start(&lab.cgfw().args(options).child(shell));
        terminal.typed("PS1='in''side> '\n");
        terminal.wait_for("inside> ");
        terminal.typed("sleep 50\n");
        std::thread::sleep(Duration::from_millis(300));
        terminal.typed("\x03");
        terminal.wait_for("inside> ");
        terminal.typed("sleep 51\n");
        std::thread::sleep(Duration::from_millis(300));
        terminal.typed("\x1a");
        terminal.wait_for("Stopped");
        terminal.wait_for("inside> ");
        terminal.typed("fg\n");
        terminal.wait_for("fg");
        terminal.wait_for("sleep 51");
        std::thread::sleep(Duration::from_millis(300));
        terminal.typed("\x03");
        terminal.wait_for("inside> ");
        terminal.typed("exit 7\n");
        let (status, screen) = terminal.finish();
        assert_eq!(status.code(), Some(7), "{screen}");
    }
}

#[test]
fn a_timeout_bounds_the_wait_for_survivors() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        lab.cgfw()
            .args(options)
            .args(["--timeout", "1", "--survivors", "wait"])
            .sh("sleep 60 & exit 0")
            .status(124)
            .within(Duration::from_secs(10))
            .run();
    }
}

#[test]
fn a_signal_ends_the_wait_for_survivors() {
    let Some(lab) = Lab::new() else { return };
    for options in MODES {
        let running = lab
            .cgfw()
            .args(options)
            .args(["--survivors", "wait"])
            .sh("sleep 60 & exit 0")
            .any_status()
            .within(Duration::from_secs(10))
            .spawn();
        std::thread::sleep(Duration::from_millis(1500));
        running.send(Signal::SIGTERM);
        running.finish();
    }
}

/// The kernel kills what is cloned out of a cgroup that was killed once (cgroup.kill) into one
/// that was not.
#[test]
fn a_command_starts_in_a_cgroup_that_was_killed_before() {
    let Some(lab) = Lab::new() else { return };
    let once = lab.cgroup().path().join("once");
    std::fs::create_dir(&once).unwrap();
    std::fs::write(once.join("cgroup.kill"), "1").unwrap();
    let script = format!("echo 0 >{}/cgroup.procs && exec \"$@\"", once.display());
    for options in [&["-q"][..], &["-q", "--strict"]] {
        lab.command("sh")
            .args(["-c", &script, "sh", "cgfw", "run"])
            .args(options)
            .args(["--", "sh", "-c", "echo it runs; exit 3"])
            .status(3)
            .stdout("it runs\n")
            .run();
    }
    std::fs::remove_dir(&once).unwrap();
}
