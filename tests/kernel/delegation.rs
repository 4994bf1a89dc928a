//! What others do for the child: seen, told, and acknowledged.

use crate::support::Lab;
use crate::support::command::{Output, Running};
use crate::support::lab::{DEV, skip};

/// Web servers of another process on this host: at a port of loopback, at a path and at an
/// abstract name. They answer `served`.
const SERVICE: &str = "
import http.server, os, socketserver, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # A client that is gone at once takes its view of the file system with it.
        time.sleep(0.2)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'served\\n')
    def log_message(self, *args):
        pass
class Unix(socketserver.UnixStreamServer):
    def get_request(self):
        return self.socket.accept()[0], ('unix', 0)
class Web(http.server.HTTPServer):
    pass
servers = [
    Web(('127.0.0.1', 8099), Handler),
    Unix('service.sock', Handler),
    Unix('\\0service', Handler),
]
os.chmod('service.sock', 0o777)
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
print('ready', flush=True)
threading.Event().wait()
";

/// Ends when dropped.
pub(crate) fn outside(lab: &Lab) -> Running {
    lab.write("service.py", SERVICE);
    let mut service = lab.command("python3").arg("service.py").spawn();
    service.wait_for_stdout("ready");
    service
}

/// How to reach [`SERVICE`], how that is shown, and the rules that acknowledge it.
const WAYS: [(&str, &str, &[&str]); 3] = [
    (
        "curl --silent http://127.0.0.1:8099/",
        "127.0.0.1:8099/tcp",
        &["127.0.0.1:8099", "127.0.0.1", "localhost:8099/tcp"],
    ),
    (
        "curl --silent --unix-socket /mnt/work/service.sock http://x/",
        "/mnt/work/service.sock",
        &["/mnt/work/service.sock", "/mnt//work/./service.sock"],
    ),
    (
        "curl --silent --abstract-unix-socket service http://x/",
        "@service",
        &["@service"],
    ),
];

/// [`WAYS`], as far as this kernel lets them be seen: unix sockets have hooks since 6.7.
fn ways(lab: &Lab) -> &'static [(&'static str, &'static str, &'static [&'static str])] {
    let release = lab.sh("uname -r").run().stdout;
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) >= (Some(6), Some(7)) {
        return &WAYS;
    }
    skip(&format!(
        "unix sockets are not seen before Linux 6.7, and this is {}",
        release.trim_end()
    ));
    &WAYS[..1]
}

#[track_caller]
fn last_line(output: &Output) -> &str {
    output.stderr.lines().last().unwrap_or_default()
}

#[test]
fn what_another_process_does_is_told_with_its_name() {
    let Some(lab) = Lab::new() else { return };
    let service = outside(&lab);
    for user in [None, Some(&DEV)] {
        for (command, shown, _) in ways(&lab) {
            let run = || {
                let mut cgfw = lab.cgfw().args(["--block", "github.com"]);
                if let Some(user) = user {
                    cgfw = cgfw.args(["--user", user.name]);
                }
                cgfw.sh(command).stdout("served\n").run()
            };
            // On a machine that is busy with other tests, the search may take too long.
            let output = (0..10)
                .map(|_| run())
                .find(|output| !output.stderr.contains("peerPid=?"))
                .unwrap_or_else(|| panic!("nobody is found at {shown}"));
            let (_, line) = output
                .stderr
                .split_once("WARN DELEGATION ALLOWED reason=FromDelegation ")
                .unwrap_or_else(|| panic!("{shown} is not told\n{output}"));
            let line = line.lines().next().unwrap();
            for key in [
                "blocked=false blockedAt=delegation".to_owned(),
                format!("cmd=\"{command}\""),
                format!("peerPid={} peer=\"python3 service.py\"", service.pid()),
            ] {
                assert!(line.contains(&key), "no {key} in {line}");
            }
            for part in ["  through others (1)", &format!("\n    {shown}  1 contact")] {
                assert!(output.stderr.contains(part), "no {part}\n{output}");
            }
            assert_eq!(
                last_line(&output),
                "not clean: 1 delegation: what python3 does is not seen"
            );
        }
    }
}

#[test]
fn an_allow_rule_acknowledges_what_others_do() {
    let Some(lab) = Lab::new() else { return };
    let _service = outside(&lab);
    for (command, _, rules) in ways(&lab) {
        for rule in *rules {
            let output = lab
                .cgfw()
                .args(["--allow", rule])
                // Such a rule does not make it an allow list.
                .sh(&format!("{command}; curl --silent http://example.com/"))
                .stdout("served\nhello from example.com\n")
                .stderr_lacks("DELEGATION")
                .run();
            assert!(
                last_line(&output).starts_with("clean: "),
                "{rule}\n{output}"
            );
            let grounds = format!("(--allow {rule})");
            assert!(output.stderr.contains(&grounds), "no {grounds}\n{output}");
        }
        lab.cgfw()
            .args(["--allow", "127.0.0.1:1,/mnt/work/other.sock,@other"])
            .sh(command)
            .stdout("served\n")
            .stderr_has("not clean: 1 delegation")
            .run();
    }
}

#[test]
fn what_the_command_serves_itself_is_no_delegation() {
    let Some(lab) = Lab::new() else { return };
    lab.write("service.py", SERVICE);
    for (command, ..) in ways(&lab) {
        let script = format!(
            "python3 service.py > ready & server=$!; \
             for i in $(seq 200); do grep -q ready ready && break; sleep 0.05; done; \
             {command}; kill $server; wait $server; rm service.sock"
        );
        let output = lab
            .cgfw()
            .args(["--block", "github.com"])
            .sh(&script)
            .stdout("served\n")
            .stderr_lacks("DELEGATION")
            .run();
        assert!(last_line(&output).starts_with("clean: "), "{output}");
    }
}

#[test]
fn nobody_is_no_delegation() {
    let Some(lab) = Lab::new() else { return };
    for (command, ..) in ways(&lab) {
        let output = lab
            .cgfw()
            .args(["--block", "github.com"])
            .sh(command)
            .status(7)
            .stderr_lacks("DELEGATION")
            .run();
        assert!(last_line(&output).starts_with("clean: "), "{output}");
    }
}

#[test]
fn a_proxy_of_the_environment_is_delegation_where_it_is_used() {
    let Some(lab) = Lab::new() else { return };
    let proxy = "http://example.com:8080";
    let cgfw = || {
        lab.cgfw()
            .args(["--block", "github.com"])
            .env("http_proxy", proxy)
    };
    let warning = "http_proxy is set: names that are reached through that proxy cannot be seen";
    cgfw()
        .child(["true"])
        .stderr_has(warning)
        .stderr_has("\nclean: ")
        .run();
    let output = cgfw()
        .child(["curl", "--silent", "http://github.com/"])
        .stdout("hello from github.com\n")
        .stderr_has("WARN DELEGATION ALLOWED")
        .stderr_has("via=\"http_proxy\"")
        // It is the proxy that knows the name.
        .stderr_lacks("BLOCKED")
        .stderr_has("(http_proxy: what is reached through it is not seen)")
        .run();
    assert_eq!(
        last_line(&output),
        "not clean: 1 delegation: what example.com does is not seen"
    );
    cgfw()
        .args(["--default", "allow", "--allow", "example.com:8080"])
        .child(["curl", "--silent", "http://github.com/"])
        .stdout("hello from github.com\n")
        .stderr_lacks("DELEGATION")
        .stderr_has("\nclean: ")
        .run();
}

#[test]
fn a_proxy_command_of_ssh_is_delegation() {
    let Some(lab) = Lab::new() else { return };
    lab.sh("mkdir -p home/.ssh").run();
    let config = "Host *.corp\n    ProxyCommand curl --silent --max-time %n http://%h/\n";
    lab.write("home/.ssh/config", config);
    let run = |command: &str| {
        lab.cgfw()
            .args(["--block", "github.com"])
            .env("HOME", "/mnt/work/home")
            .sh(command)
            .run()
    };
    let output = run("curl --silent --max-time 9 http://example.com/");
    let via = "via=\"ProxyCommand in /mnt/work/home/.ssh/config\"";
    assert!(output.stderr.contains(via), "{output}");
    let output = run("curl --silent http://example.com/");
    assert!(!output.stderr.contains("DELEGATION"), "{output}");
}

#[test]
fn a_jump_of_ssh_is_delegation() {
    let Some(lab) = Lab::new() else { return };
    let client = lab.sh("ssh -V").any_status().run();
    if !client.status.success() {
        skip(&format!("this machine has no ssh: {}", client.stderr));
        return;
    }
    // What answers at that port is no ssh server, and is waited for in vain.
    let output = lab
        .cgfw()
        .args(["--block", "github.com", "--timeout", "3"])
        .child(["ssh", "-F", "none", "-J", "example.com:8080", "github.com"])
        .status(124)
        .run();
    for part in [
        "via=\"ssh -W\"",
        "cmd=\"ssh ",
        "not clean: 1 delegation: what example.com does",
    ] {
        assert!(output.stderr.contains(part), "no {part}\n{output}");
    }
}

#[test]
fn the_first_line_says_what_is_enforced_and_on_whom() {
    let Some(lab) = Lab::new() else { return };
    let release = lab.sh("uname -r").run().stdout;
    let as_dev = ["--user", DEV.name];
    let leave = "can leave the cgroup on purpose (--strict prevents that)";
    for (options, privileges, can_be_left) in [
        (&[][..], format!("; the child is root: it {leave}"), true),
        (
            &as_dev,
            format!(
                "; the child can become root without a password (/etc/sudoers.d/lab): then it {leave}"
            ),
            true,
        ),
        (
            &["--user", DEV.name, "--no-new-privs"],
            "; strict: no".to_owned(),
            false,
        ),
    ] {
        let output = lab
            .cgfw()
            .args(["-v", "--block", "github.com", "--audit-log", "audit.jsonl"])
            .args(options)
            .sh("cat /proc/self/cgroup")
            .run();
        let line = output.stderr.lines().next().unwrap();
        let kernel = format!(", kernel {}; seen: ", release.trim_end());
        assert!(line.starts_with("cgfw: filter: "), "{output}");
        assert!(line.contains(" connect4/6 "), "{output}");
        assert!(line.contains(&kernel), "{output}");
        assert!(line.ends_with(&privileges), "{output}");
        let (_, cgroup) = output.stdout.split_once("0::/").unwrap();
        let cgroup = cgroup.lines().next().unwrap().rsplit('/').next().unwrap();
        assert!(line.contains(&format!("/{cgroup}, ")), "{output}");
        let start = lab.read("audit.jsonl");
        let start = start.lines().rfind(|line| line.contains("\"run_start\""));
        let start: serde_json::Value = serde_json::from_str(start.unwrap()).unwrap();
        assert_eq!(start["kernel"], release.trim_end());
        assert_eq!(start["can_be_left"], can_be_left);
        assert!(start["cgroup"].as_str().unwrap().ends_with(cgroup));
        let hooks = start["hooks"].as_array().unwrap();
        assert!(hooks.iter().any(|hook| hook == "egress"), "{start}");
        lab.sh("rm audit.jsonl").run();
    }
}

#[test]
fn strict_refuses_what_others_listen_on() {
    let Some(lab) = Lab::new() else { return };
    let _service = outside(&lab);
    for (command, shown, rules) in ways(&lab) {
        let output = lab
            .cgfw()
            .args(["--strict", "--allow", rules[0]])
            .sh(command)
            .stdout("")
            .status(7)
            .run();
        // Of unix sockets there are none to connect, or the program that judges them says no.
        if shown.starts_with("127.") {
            let refusal = output.refusal();
            assert_eq!(refusal["blockedAt"], "delegation", "{output}");
            assert_eq!(refusal["peer"], "python3 service.py", "{output}");
            let row = format!("\n    {shown}  1 contact  {command}\n");
            assert!(output.stderr.contains(&row), "{output}");
            assert_eq!(last_line(&output), "not clean: 1 target was blocked");
        }
    }
}
