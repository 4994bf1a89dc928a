//! The lab itself: what the tests rest on, proven without cgfw.

use crate::support::command::User;
use crate::support::lab::{DEV, WORK};
use crate::support::{Lab, dns};

#[test]
fn every_client_works_unfiltered() {
    let Some(lab) = Lab::new() else { return };
    for script in [
        "curl --silent --show-error http://github.com/",
        "curl --silent --show-error -6 http://github.com/",
        "curl --silent --show-error https://github.com/",
        "wget --quiet -O - https://github.com/",
        "musl github.com 80",
        "golang http://github.com/",
        "golang https://github.com/",
        "printf 'GET / HTTP/1.0\\r\\nHost: github.com\\r\\n\\r\\n' | nc -w 2 github.com 80",
        "busybox wget -q -O - http://github.com/",
        "python3 -c 'import urllib.request as u; \
         print(u.urlopen(\"https://github.com/\").read().decode())'",
    ] {
        lab.sh(script).stdout_has("hello from github.com").run();
    }
    lab.sh("ares github.com")
        .stdout_has("198.51.100.10")
        .stdout_has("2001:db8:100::10")
        .run();
    lab.sh("ping -c 1 github.com").run();
    lab.sh("ping -6 -c 1 github.com").run();
    lab.sh("getent ahosts github.com")
        .stdout_has("198.51.100.10")
        .run();
}

#[test]
fn git_clones_over_https() {
    let Some(lab) = Lab::new() else { return };
    lab.publish_repository();
    lab.sh("git clone --quiet https://github.com/repository.git clone && cat clone/file")
        .stdout("a file of the lab\n")
        .run();
}

#[test]
fn name_servers_answer_every_type_over_every_transport() {
    let Some(lab) = Lab::new() else { return };
    for (options, expected) in [
        ("example.com A", "203.0.113.20\n"),
        ("example.com AAAA", "2001:db8:200::20\n"),
        ("+tcp example.com A", "203.0.113.20\n"),
        ("@2001:db8:53::53 example.com A", "203.0.113.20\n"),
        (
            "@2001:db8:53::54 +tcp whoami.example TXT",
            "\"2001:db8:53::54\"\n",
        ),
        ("@198.51.100.54 whoami.example TXT", "\"198.51.100.54\"\n"),
        ("example.com MX", "10 mail.example.com.\n"),
        ("_http._tcp.example.com SRV", "1 2 80 example.com.\n"),
        ("example.com TYPE65", "1 . ipv4hint=203.0.113.20\n"),
        ("example.com TYPE4711", "\\# 6 6F7061717565\n"),
        (
            "chain.example A",
            "cdn.example.\ngithub.com.\n198.51.100.10\n",
        ),
        ("forged.example A | tail -n 1", "203.0.113.24\n"),
    ] {
        lab.sh(&format!("dig +short {options}"))
            .stdout(expected)
            .run();
    }
    lab.sh("dig nxdomain.example")
        .stdout_has("status: NXDOMAIN")
        .stdout_has("SOA")
        .run();
    lab.sh("dig servfail.example")
        .stdout_has("status: SERVFAIL")
        .run();
    lab.sh("dig +ignore big.example TXT")
        .stdout_has("flags: qr tc rd ra")
        .run();
    lab.sh("dig +short big.example TXT | wc -l")
        .stdout("20\n")
        .run();
    lab.sh("dig +short +tries=1 +timeout=1 @198.51.100.70 example.com")
        .status(9)
        .run();
    lab.sh("dig +short +tries=1 +timeout=1 @198.51.100.200 example.com")
        .status(9)
        .run();
}

#[test]
fn questions_and_packets_are_on_record() {
    let Some(lab) = Lab::new() else { return };
    let sniffer = lab.sniff();
    lab.sh("dig +short +tcp GitHub.Com A; curl --silent http://203.0.113.99/path")
        .run();
    let questions = lab.internet().questions_about("github.com");
    assert_eq!(questions.len(), 1);
    assert_eq!(
        (&*questions[0].name, questions[0].tcp),
        ("GitHub.Com", true)
    );
    assert_eq!(lab.internet().requests()[0].path, "/path");
    assert!(!sniffer.packets_to(dns::RESOLVER).is_empty());
    assert!(!sniffer.packets_with(b"\x06GitHub\x03Com").is_empty());
    assert!(sniffer.packets_with(b"\x06github\x03com").is_empty());
}

#[test]
fn ordinary_users_are_ordinary_and_may_use_sudo() {
    let Some(lab) = Lab::new() else { return };
    let User { name, uid, gid, .. } = DEV;
    let id = format!("uid={uid}({name}) gid={gid}({name}) groups={gid}({name}),4243(deployers)\n");
    lab.sh("id").user(&DEV).stdout(id).run();
    lab.sh("pwd; sudo id -u; sudo -u dev id -u")
        .user(&DEV)
        .stdout(format!("{WORK}\n0\n{uid}\n"))
        .run();
}

#[test]
fn labs_do_not_see_each_other() {
    let (Some(one), Some(two)) = (Lab::new(), Lab::new()) else {
        return;
    };
    one.write("/tmp/mark", "one");
    assert!(!two.exists("/tmp/mark"));
    one.sh("rm /tmp/mark; curl --silent http://example.com/")
        .run();
    assert_eq!(one.internet().requests().len(), 1);
    assert_eq!(two.internet().requests().len(), 0);
}
