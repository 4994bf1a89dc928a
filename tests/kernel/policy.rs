//! What each option of the policy means, seen from the child.

use serde_json::Value;

use crate::support::Lab;
use crate::support::command::Output;
use crate::support::lab::{DEV, WORK};

/// The lines of an audit log, each of which must be an object with the constant fields.
#[track_caller]
fn audit(lab: &Lab, file: &str) -> Vec<Value> {
    let text = lab.read(file);
    assert!(
        text.ends_with('\n'),
        "the last line is not complete:\n{text}"
    );
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        for field in ["schema", "time", "run", "event"] {
            assert!(line.get(field).is_some(), "no {field} in {line}");
        }
        let time = line["time"].as_str().unwrap();
        let (_, fraction) = time.rsplit_once('.').unwrap();
        assert_eq!(
            fraction.len(),
            "123456789Z".len(),
            "not RFC 3339 with ns: {time}"
        );
        assert_eq!(line["run"], lines[0]["run"]);
    }
    lines
}

fn fetch(host: &str) -> [String; 3] {
    [
        "curl".to_owned(),
        "--silent".to_owned(),
        format!("http://{host}/"),
    ]
}

#[track_caller]
fn check(lab: &Lab, options: &[&str], host: &str, allowed: bool) -> Output {
    let test = lab.cgfw().args(options).child(fetch(host));
    if allowed {
        let output = test.run();
        assert!(
            output.stdout.starts_with("hello from"),
            "{options:?} {host}\n{output}"
        );
        return output;
    }
    let output = test.any_status().run();
    assert_ne!(
        output.status.code(),
        Some(0),
        "{options:?} let {host} through\n{output}"
    );
    assert_eq!(
        output.stdout, "",
        "{options:?} let {host} through\n{output}"
    );
    assert!(
        !output.refusals().is_empty(),
        "{options:?}: no refusal of {host}\n{output}"
    );
    output
}

/// Options, a host, and whether they let it through.
const NAMES: &[(&[&str], &str, bool)] = &[
    (&["--block", "github.com"], "github.com", false),
    (&["--block", "github.com"], "api.github.com", false),
    (&["--block", "github.com"], "notgithub.com", true),
    (&["--block", "GitHub.COM."], "github.com", false),
    (&["--block", "github.com"], "GITHUB.com", false),
    (&["--block", "github.com"], "github.com.", false),
    (&["--block", "=github.com"], "github.com", false),
    (&["--block", "=github.com"], "api.github.com", true),
    (&["--block", "*.github.com"], "github.com", true),
    (&["--block", "*.github.com"], "api.github.com", false),
    (&["--block", "example.com,github.com"], "github.com", false),
    (&["--block-list", "github.com"], "github.com", false),
    (
        &["--block", "b\u{fc}cher.example"],
        "xn--bcher-kva.example",
        false,
    ),
    (&["--allow", "github.com"], "github.com", true),
    (&["--allow", "github.com"], "example.com", false),
    (&["--allow-list", "github.com"], "example.com", false),
    (
        &["--block", "github.com", "--allow", "api.github.com"],
        "api.github.com",
        true,
    ),
    (
        &["--block", "github.com", "--allow", "api.github.com"],
        "github.com",
        false,
    ),
    // An exception below a block rule does not turn the default round.
    (
        &["--block", "github.com", "--allow", "api.github.com"],
        "example.com",
        true,
    ),
    (
        &["--block", "github.com", "--allow", "allowed.example"],
        "example.com",
        false,
    ),
    (
        &["--allow", "github.com", "--block", "github.com"],
        "github.com",
        false,
    ),
    (&["--default", "block"], "example.com", false),
    (
        &["--default", "allow", "--allow", "github.com"],
        "example.com",
        true,
    ),
    (&["--default", "allow"], "github.com", true),
];

#[test]
fn names_are_matched_as_documented() {
    let Some(lab) = Lab::new() else { return };
    for (options, host, allowed) in NAMES {
        check(&lab, options, host, *allowed);
    }
}

/// The same for addresses and ports.
const ADDRESSES: &[(&[&str], &str, bool)] = &[
    (&["--block", "203.0.113.99"], "203.0.113.99", false),
    (&["--block", "203.0.113.99"], "203.0.113.98", true),
    (&["--block", "203.0.113.0/24"], "203.0.113.99", false),
    (&["--block", "203.0.113.0/24"], "mail.example.com", false),
    (
        &["--block", "203.0.113.0/24", "--allow", "203.0.113.99"],
        "203.0.113.99",
        true,
    ),
    (&["--block", "203.0.113.99:80"], "203.0.113.99", false),
    (&["--block", "203.0.113.99:443"], "203.0.113.99", true),
    (
        &["--block", "203.0.113.99:1-1000/tcp"],
        "203.0.113.99",
        false,
    ),
    (&["--block", "203.0.113.99/udp"], "203.0.113.99", true),
    (&["--block", "203.0.113.99"], "[::ffff:203.0.113.99]", false),
    (
        &["--block", "2001:db8:200::/64"],
        "[2001:db8:200::20]",
        false,
    ),
    (
        &["--block", "[2001:db8:200::20]:80"],
        "[2001:db8:200::20]",
        false,
    ),
    (
        &["--block", "[2001:db8:200::20]:443"],
        "[2001:db8:200::20]",
        true,
    ),
    (
        &["--block", "2001:db8:200::/64"],
        "[2001:db8:100::10]",
        true,
    ),
    (&["--block", "example.com:443"], "example.com", true),
    (&["--block", "example.com:80"], "example.com", false),
    (&["--block", "example.com:80"], "example.com:8080", true),
    (&["--allow", "203.0.113.99"], "203.0.113.99", true),
    (&["--allow", "203.0.113.99"], "203.0.113.98", false),
    (&["--allow", "example.com:80"], "example.com", true),
    (&["--allow", "example.com:80"], "example.com:8080", false),
];

#[test]
fn addresses_are_matched_as_documented() {
    let Some(lab) = Lab::new() else { return };
    for (options, host, allowed) in ADDRESSES {
        check(&lab, options, host, *allowed);
    }
}

#[test]
fn an_allow_list_blocks_addresses_that_were_never_resolved() {
    let Some(lab) = Lab::new() else { return };
    let sniffer = lab.sniff();
    for host in [
        "203.0.113.99",
        "[2001:db8:200::99]",
        "[::ffff:203.0.113.99]",
        "192.0.2.1",
    ] {
        check(&lab, &["--allow", "example.com"], host, false);
    }
    assert!(sniffer.packets_to([203, 0, 113, 99]).is_empty());
    check(
        &lab,
        &["--allow", "example.com", "--direct-ip", "allow"],
        "203.0.113.99",
        true,
    );
    check(
        &lab,
        &["--block", "github.com", "--direct-ip", "block"],
        "203.0.113.99",
        false,
    );
    check(
        &lab,
        &["--block", "github.com", "--direct-ip", "private"],
        "203.0.113.99",
        false,
    );
    check(
        &lab,
        &["--block", "github.com", "--direct-ip", "private"],
        "192.0.2.1",
        true,
    );
}

#[test]
fn loopback_and_own_addresses_are_allowed() {
    let Some(lab) = Lab::new() else { return };
    let script = "python3 -m http.server --bind ADDRESS 8099 >/dev/null 2>&1 & server=$!; \
                  for i in $(seq 100); do \
                      curl --silent --output /dev/null http://ADDRESS:8099/ && break; sleep 0.05; \
                  done; status=$?; kill $server; wait $server; exit $status";
    for address in ["127.0.0.1", "127.0.0.2", "192.0.2.10"] {
        lab.cgfw()
            .args(["--allow", "example.com"])
            .sh(&script.replace("ADDRESS", address))
            .run();
    }
}

#[test]
fn addresses_of_blocked_names_are_blocked_too() {
    let Some(lab) = Lab::new() else { return };
    // cgfw resolves the names of block rules itself, and knows /etc/hosts.
    lab.write(
        "/etc/hosts",
        "127.0.0.1 localhost\n203.0.113.44 hosts.blocked.example\n",
    );
    for host in ["198.51.100.10", "[2001:db8:100::10]"] {
        let output = lab
            .cgfw()
            .args(["--block", "github.com"])
            .sh(&format!("sleep 1; curl --silent http://{host}/"))
            .status(7)
            .run();
        assert_eq!(output.refusal()["domain"], "github.com.", "{output}");
    }
    lab.cgfw()
        .args(["--block", "blocked.example"])
        .sh("curl --silent http://hosts.blocked.example/")
        .status(7)
        .run();
    // An address shared with a permitted name: block wins.
    lab.cgfw()
        .args(["--block", "github.com"])
        .sh("sleep 1; curl --silent http://shared.example/")
        .status(7)
        .stderr_has("shared.example")
        .stderr_has("github.com")
        .run();
}

/// RFC 1918, RFC 6598, link-local, unique local, and on-link with public numbers.
const PRIVATE: [&str; 9] = [
    "10.9.0.1",
    "172.20.0.1",
    "192.168.9.1",
    "100.100.0.1",
    "169.254.169.254",
    "192.0.2.1",
    "[2001:db8:0:1::1]",
    "[fd00:9::1]",
    "[fe80::1%25eth0]",
];
const PUBLIC: [&str; 2] = ["203.0.113.99", "[2001:db8:200::99]"];

#[test]
fn private_addresses_are_subject_to_direct_ip() {
    let Some(lab) = Lab::new() else { return };
    let hosts = || PRIVATE.into_iter().chain(PUBLIC);
    let script = hosts().fold(String::new(), |script, host| {
        script
            + &format!(
                "curl --silent --globoff --max-time 5 --output /dev/null http://{host}/; echo $?; "
            )
    });
    let answered = |private: bool, public: bool| -> String {
        let code = |open| if open { "0\n" } else { "7\n" };
        code(private).repeat(PRIVATE.len()) + &code(public).repeat(PUBLIC.len())
    };
    lab.sh(&script).stdout(answered(true, true)).run();
    for (options, private, public) in [
        (&["--block", "github.com"][..], true, true),
        (&["--default", "block"], false, false),
        (&["--allow", "example.com"], false, false),
        (
            &["--default", "block", "--direct-ip", "private"],
            true,
            false,
        ),
        (&["--default", "block", "--direct-ip", "allow"], true, true),
        (
            &["--block", "github.com", "--direct-ip", "block"],
            false,
            false,
        ),
        (
            &["--block", "github.com", "--direct-ip", "private"],
            true,
            false,
        ),
    ] {
        let sniffer = lab.sniff();
        let output = lab
            .cgfw()
            .args(options)
            .sh(&script)
            .stdout(answered(private, public))
            .run();
        let unjudged = output.stderr.contains("2 contacts were not judged by name");
        assert_eq!(unjudged, public, "{options:?}\n{output}");
        let out = sniffer.packets();
        for host in hosts() {
            let host = host.trim_matches(['[', ']']).replace("%25eth0", "");
            let open = if PUBLIC.iter().any(|public| public.contains(&host)) {
                public
            } else {
                private
            };
            let is_there = out
                .iter()
                .any(|packet| packet.destination.to_string() == host);
            assert_eq!(is_there, open, "{options:?} {host}");
        }
    }
}

/// Options, how the metadata service of a cloud is asked, and whether they let that through.
const METADATA: &[(&[&str], &str, bool)] = &[
    (&["--block", "github.com"], "169.254.169.254", true),
    (&["--block", "github.com"], "metadata.example", true),
    (&["--block", "169.254.169.254"], "169.254.169.254", false),
    (&["--block", "169.254.0.0/16"], "metadata.example", false),
    (&["--block", "metadata.example"], "metadata.example", false),
    (&["--allow", "169.254.169.254"], "169.254.169.254", true),
    (&["--allow", "169.254.169.254"], "metadata.example", false),
    (&["--allow", "example"], "metadata.example", false),
    (&["--allow", "*.example"], "metadata.example", false),
    (&["--allow", "=metadata.example"], "metadata.example", true),
    (&["--allow", "metadata.example"], "metadata.example", true),
    (&["--allow", "=metadata.example"], "169.254.169.254", false),
    (&["--default", "block"], "169.254.169.254", false),
    (
        &["--allow", "*.example", "--direct-ip", "private"],
        "metadata.example",
        true,
    ),
];

#[test]
fn the_metadata_service_needs_its_address_or_an_exact_name() {
    let Some(lab) = Lab::new() else { return };
    for (options, host, allowed) in METADATA {
        let sniffer = lab.sniff();
        check(&lab, options, host, *allowed);
        let out = sniffer.packets_to([169, 254, 169, 254]);
        assert_eq!(!out.is_empty(), *allowed, "{options:?} {host}");
    }
}

#[test]
fn names_of_etc_hosts_are_judged_like_others() {
    let Some(lab) = Lab::new() else { return };
    lab.write(
        "/etc/hosts",
        "127.0.0.1 localhost\n\
         203.0.113.44 www.blocked.example innocent.example\n\
         2001:db8:200::44 www.blocked.example\n\
         10.9.0.1 db.corp\n",
    );
    for (options, host, allowed) in [
        // Their addresses are known, whoever else has them.
        (
            &["--block", "blocked.example"],
            "www.blocked.example",
            false,
        ),
        (&["--block", "blocked.example"], "203.0.113.44", false),
        (&["--block", "blocked.example"], "[2001:db8:200::44]", false),
        (&["--block", "blocked.example"], "innocent.example", false),
        (&["--block", "blocked.example"], "db.corp", true),
        (
            &["--block", "=blocked.example"],
            "www.blocked.example",
            true,
        ),
        (&["--allow", "db.corp"], "db.corp", true),
        (&["--allow", "db.corp"], "innocent.example", false),
        (&["--allow", "innocent.example"], "innocent.example", true),
        (&["--allow", "corp"], "db.corp", true),
        (&["--allow", "example.com"], "db.corp", false),
    ] {
        let output = check(&lab, options, host, allowed);
        if host == "203.0.113.44" {
            assert_eq!(
                output.refusal()["domain"],
                "www.blocked.example.",
                "{output}"
            );
        }
        if host == "db.corp" && options[0] == "--allow" && allowed {
            let row = "\n    db.corp  1 contact  curl";
            assert!(output.stderr.contains(row), "{output}");
        }
    }
}

#[test]
fn audit_refuses_nothing_and_tells() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args([
            "--audit",
            "--block",
            "github.com",
            "--block",
            "203.0.113.99",
        ])
        .args(["--audit-log", "audit.jsonl"])
        .sh(
            "curl --silent http://github.com/; curl --silent http://203.0.113.99/; \
             curl --silent http://example.com/",
        )
        .stdout("hello from github.com\nhello from 203.0.113.99\nhello from example.com\n")
        .run();
    let lines = audit(&lab, "audit.jsonl");
    let verdict = |key: &str, value: &str| {
        let line = lines.iter().find(|line| line[key] == value);
        line.unwrap_or_else(|| panic!("no {value} in {lines:#?}"))["verdict"].clone()
    };
    assert_eq!(verdict("qname", "github.com"), "would_block");
    assert_eq!(verdict("dst_ip", "203.0.113.99"), "would_block");
    assert_eq!(verdict("qname", "example.com"), "allowed");
}

#[test]
fn on_block_refuse_resolves_and_refuses() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(["--block", "github.com", "--on-block", "refuse"])
        .sh(
            "dig +short api.github.com A; dig +short api.github.com AAAA; \
             curl --silent -4 http://api.github.com/; echo $?; \
             curl --silent -6 http://api.github.com/; echo $?",
        )
        .run();
    let lines: Vec<&str> = output.stdout.lines().collect();
    let [v4, v6, "7", "7"] = lines[..] else {
        panic!("{output}")
    };
    assert!(
        v4.starts_with("198.18.") || v4.starts_with("198.19."),
        "{output}"
    );
    assert!(v6.starts_with("100::"), "{output}");
    assert!(
        output
            .refusals()
            .iter()
            .any(|refusal| refusal["blockedAt"] == "connect"
                && refusal["domain"] == "api.github.com."),
        "{output}"
    );
    assert!(lab.internet().questions_about("api.github.com").is_empty());
}

#[test]
fn on_block_refuse_gives_each_name_its_address() {
    let Some(lab) = Lab::new() else { return };
    let output = lab
        .cgfw()
        .args(["--block", "github.com", "--on-block", "refuse"])
        .sh("dig +short a.github.com; dig +short b.github.com; dig +short a.github.com")
        .run();
    let lines: Vec<&str> = output.stdout.lines().collect();
    let [first, second, again] = lines[..] else {
        panic!("{output}")
    };
    assert_ne!(first, second);
    assert_eq!(first, again);
}

#[test]
fn on_block_drop_hangs_like_an_outage() {
    let Some(lab) = Lab::new() else { return };
    let sniffer = lab.sniff();
    let output = lab
        .cgfw()
        .args(["--block", "github.com", "--on-block", "drop"])
        .child([
            "curl",
            "--silent",
            "--max-time",
            "2",
            "http://api.github.com/",
        ])
        .status(28)
        .run();
    assert!(output.elapsed.as_secs_f64() > 1.9, "{output}");
    assert!(!output.refusals().is_empty(), "{output}");
    let out = sniffer.packets();
    assert!(
        out.iter().all(
            |packet| !packet.destination.to_string().starts_with("198.1")
                || packet.destination.to_string().starts_with("198.51.")
        ),
        "{out:?}"
    );
    assert!(lab.internet().questions_about("api.github.com").is_empty());
}

#[test]
fn udp_is_judged_at_the_first_send() {
    let Some(lab) = Lab::new() else { return };
    let script = "
import errno, socket
def code(call, *args):
    try:
        call(*args)
        return 0
    except OSError as error:
        return error.errno
for family, address in [(socket.AF_INET, '198.51.100.10'),
                        (socket.AF_INET6, '::ffff:198.51.100.10'),
                        (socket.AF_INET6, '2001:db8:100::10')]:
    s = socket.socket(family, socket.SOCK_DGRAM)
    print(code(s.sendto, b'blocked', (address, 9)) in (errno.ECONNREFUSED, errno.EPERM))
    # libc sorts addresses by connecting UDP sockets: that is not a contact.
    s = socket.socket(family, socket.SOCK_DGRAM)
    print(code(s.connect, (address, 9)))
    print(code(s.send, b'blocked') in (errno.ECONNREFUSED, errno.EPERM))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(b'permitted', ('203.0.113.99', 7))
print(s.recvfrom(100))
";
    let sniffer = lab.sniff();
    let output = lab
        .cgfw()
        .args(["--block", "198.51.100.10", "--block", "2001:db8:100::10"])
        .child(["python3", "-c", script])
        .stdout("True\n0\nTrue\n".repeat(3) + "(b'permitted', ('203.0.113.99', 7))\n")
        .run();
    assert!(!output.refusals().is_empty(), "{output}");
    assert!(sniffer.packets_with(b"blocked").is_empty());
    assert!(!sniffer.packets_with(b"permitted").is_empty());
}

#[test]
fn a_udp_connect_alone_is_neither_event_nor_refusal() {
    let Some(lab) = Lab::new() else { return };
    let script = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                  s.connect(('198.51.100.10', 9))";
    lab.cgfw()
        .args(["--block", "198.51.100.10"])
        .child(["python3", "-c", script])
        .stderr_lacks("BLOCKED")
        .stderr_lacks("198.51.100.10:9")
        .run();
}

#[test]
fn fail_on_block_changes_only_success() {
    let Some(lab) = Lab::new() else { return };
    let cgfw = || lab.cgfw().args(["--block", "github.com"]);
    let blocked = "curl --silent github.com; exit";
    cgfw().sh(&format!("{blocked} 0")).status(0).run();
    cgfw()
        .arg("--fail-on-block")
        .sh(&format!("{blocked} 0"))
        .status(120)
        .run();
    cgfw()
        .arg("--fail-on-block=33")
        .sh(&format!("{blocked} 0"))
        .status(33)
        .run();
    cgfw()
        .arg("--fail-on-block")
        .sh(&format!("{blocked} 5"))
        .status(5)
        .run();
    cgfw()
        .arg("--fail-on-block")
        .sh("curl --silent example.com")
        .run();
    // A command after the option is not taken for the code.
    cgfw().arg("--fail-on-block").child(["true"]).run();
}

#[test]
fn the_audit_log_is_complete() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(["--block", "github.com", "--block", "203.0.113.99"])
        .args(["--audit-log", "audit.jsonl"])
        .sh(
            "curl --silent -4 http://alias.example/; curl --silent --user-agent 'a b' github.com; \
             curl --silent http://203.0.113.99/; true",
        )
        .run();
    let lines = audit(&lab, "audit.jsonl");
    assert_eq!(lines.first().unwrap()["event"], "run_start");
    assert_eq!(lines.last().unwrap()["event"], "run_end");
    let find = |event: &str, key: &str, value: &str| {
        lines
            .iter()
            .find(|line| line["event"] == event && line[key] == value)
            .unwrap_or_else(|| panic!("no {event} with {key}={value} in {lines:#?}"))
    };
    let allowed = lines
        .iter()
        .find(|line| line["qname"] == "alias.example" && line["qtype"] == "A")
        .unwrap();
    assert_eq!(allowed["event"], "dns");
    assert_eq!(allowed["verdict"], "allowed");
    assert_eq!(allowed["layer"], "dns");
    assert_eq!(allowed["rcode"], "NOERROR");
    assert_eq!(
        allowed["cname_chain"],
        serde_json::json!(["allowed.example"])
    );
    assert_eq!(allowed["answers"], serde_json::json!(["203.0.113.21"]));
    assert_eq!(allowed["upstream"], "198.51.100.53:53");
    assert!(allowed["latency_us"].is_u64());
    let blocked = find("dns", "qname", "github.com");
    assert_eq!(blocked["verdict"], "blocked");
    assert_eq!(blocked["rcode"], "NXDOMAIN");
    assert_eq!(blocked["rule"], "--block github.com");
    assert_eq!(
        blocked["argv"],
        serde_json::json!(["curl", "--silent", "--user-agent", "a b", "github.com"])
    );
    assert_eq!(blocked["uid"], 0);
    for field in ["pid", "ppid"] {
        assert!(
            blocked[field].as_u64().is_some_and(|pid| pid > 1),
            "{blocked}"
        );
    }
    let connect = find("connect", "dst_ip", "203.0.113.99");
    assert_eq!(connect["verdict"], "blocked");
    assert_eq!(connect["layer"], "connect");
    assert_eq!(connect["dst_port"], 80);
    assert_eq!(connect["proto"], "tcp");
    assert_eq!(connect["rule"], "--block 203.0.113.99");
    let permitted = find("connect", "dst_ip", "203.0.113.21");
    assert_eq!(permitted["verdict"], "allowed");
}

#[test]
fn files_are_opened_as_the_user_who_names_them() {
    let Some(lab) = Lab::new() else { return };
    lab.sh("echo precious > /etc/precious; mkdir /etc/private; chmod 700 /etc/private")
        .run();
    for file in ["/etc/precious", "/etc/private/log"] {
        lab.command("sudo")
            .args([
                "/mnt/bin/cgfw",
                "run",
                "--block",
                "github.com",
                "--audit-log",
                file,
            ])
            .user(&DEV)
            .sh("touch was-run")
            .status(125)
            .stderr_has(file)
            .run();
    }
    lab.sh("cat /etc/precious").stdout("precious\n").run();
    assert!(!lab.exists("was-run"), "the command ran");
    lab.command("sudo")
        .args([
            "/mnt/bin/cgfw",
            "run",
            "--block",
            "github.com",
            "--audit-log",
            "mine",
        ])
        .user(&DEV)
        .child(["true"])
        .run();
    lab.sh("stat -c %U mine").stdout("dev\n").run();
}

#[test]
fn the_audit_log_may_be_relative_to_the_working_directory() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(["--block", "github.com", "--audit-log", "audit.jsonl"])
        .child(["pwd"])
        .stdout(format!("{WORK}\n"))
        .run();
    audit(&lab, "audit.jsonl");
}

#[test]
fn options_come_from_the_environment_too() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .env("CGFW_BLOCK", "github.com,example.com")
        .child(fetch("example.com"))
        .status(6)
        .run();
    // What is typed wins over what is in the environment.
    lab.cgfw()
        .env("CGFW_BLOCK", "example.com")
        .args(["--block", "github.com"])
        .child(fetch("example.com"))
        .run();
}

#[test]
fn options_that_contradict_each_other_are_told() {
    let Some(lab) = Lab::new() else { return };
    let run = |options: &[&str]| lab.cgfw().args(options).child(["true"]);
    run(&[
        "--block",
        "github.com",
        "--allow",
        "github.com,api.github.com",
    ])
    .stderr_has("--allow github.com decides nothing: --block github.com prevails")
    .stderr_lacks("api.github.com decides nothing")
    .run();
    run(&["--block", "github.com:443", "--allow", "github.com"])
        .stderr_lacks("decides nothing")
        .run();
}

#[test]
fn an_audit_log_that_nobody_reads_does_not_hang_the_run() {
    let Some(lab) = Lab::new() else { return };
    lab.sh("mkfifo pipe").run();
    lab.cgfw()
        .args(["--block", "github.com", "--audit-log", "pipe"])
        .sh("touch was-run")
        .status(125)
        .stderr_has("pipe")
        .within(std::time::Duration::from_secs(5))
        .run();
    assert!(!lab.exists("was-run"), "the command ran");
}

#[test]
fn runs_append_to_an_audit_log() {
    let Some(lab) = Lab::new() else { return };
    for _ in 0..2 {
        lab.cgfw()
            .args(["--block", "github.com", "--audit-log", "audit.jsonl"])
            .child(["true"])
            .run();
    }
    let starts = lab.read("audit.jsonl").matches("\"run_start\"").count();
    assert_eq!(starts, 2);
}
