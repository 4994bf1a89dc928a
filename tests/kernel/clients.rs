//! Real clients behind the filter: what is blocked fails at once, the rest works as ever.

use std::time::Duration;

use crate::support::Lab;
use crate::support::command::User;
use crate::support::lab::{DEV, PATIENCE};

/// A refusal is at once: on a machine that is busy with other tests, too, far from the
/// time after which a client gives up.
const AT_ONCE: Duration = Duration::from_secs(8);

/// Clients that fetch a page of HOST, with their exit status when the name does not exist.
const FETCHERS: [(&str, i32); 9] = [
    ("curl --silent --show-error http://HOST/", 6),
    ("curl --silent --show-error -6 http://HOST/", 6),
    ("curl --silent --show-error https://HOST/", 6),
    ("wget --quiet -O - https://HOST/", 4),
    ("busybox wget -q -O - http://HOST/", 1),
    ("musl HOST 80", 3),
    ("golang http://HOST/", 3),
    (
        "printf 'GET / HTTP/1.0\\r\\nHost: HOST\\r\\n\\r\\n' | nc -w 2 HOST 80",
        1,
    ),
    (
        "python3 -c 'import urllib.request as u; \
         print(u.urlopen(\"https://HOST/\").read().decode())'",
        1,
    ),
];

#[track_caller]
fn check_fetchers(user: Option<&'static User>) {
    let Some(lab) = Lab::new() else { return };
    let sniffer = lab.sniff();
    for (script, status) in FETCHERS {
        let cgfw = || {
            let cgfw = lab.cgfw().args(["--block", "github.com"]);
            match user {
                Some(user) => cgfw.args(["--user", user.name]),
                None => cgfw,
            }
        };
        cgfw()
            .sh(&script.replace("HOST", "allowed.example"))
            .stdout_has("hello from allowed.example")
            .stderr_lacks("BLOCKED")
            .run();
        let blocked = cgfw()
            .sh(&script.replace("HOST", "api.github.com"))
            .status(status)
            .stdout("")
            .within(AT_ONCE)
            .run();
        let refusals = blocked.refusals();
        assert!(!refusals.is_empty(), "no refusal was shown\n{blocked}");
        for refusal in refusals {
            assert_eq!(refusal["domain"], "api.github.com.", "{blocked}");
            assert!(refusal["cmd"].contains("api.github.com"), "{blocked}");
        }
    }
    let forwarded = lab.internet().questions_about("api.github.com");
    assert!(forwarded.is_empty(), "forwarded: {forwarded:?}");
    let leaked = sniffer.packets_with(b"\x03api\x06github\x03com");
    assert!(leaked.is_empty(), "on the wire: {leaked:?}");
}

#[test]
fn fetchers_as_root() {
    check_fetchers(None);
}

#[test]
fn fetchers_as_an_ordinary_user() {
    check_fetchers(Some(&DEV));
}

#[test]
fn git_clones_what_is_permitted_only() {
    let Some(lab) = Lab::new() else { return };
    lab.publish_repository();
    let cgfw = || lab.cgfw().args(["--block", "github.com"]);
    cgfw()
        .sh("git clone --quiet https://allowed.example/repository.git clone && cat clone/file")
        .stdout("a file of the lab\n")
        .run();
    let blocked = cgfw()
        .child(["git", "clone", "https://github.com/repository.git", "other"])
        .status(128)
        .stderr_has("Could not resolve host: github.com")
        .within(AT_ONCE)
        .run();
    // git leaves the network to a helper, and the helper is whom the kernel saw.
    assert!(
        blocked.refusals()[0]["cmd"].contains("https://github.com/repository.git"),
        "{blocked}"
    );
    assert!(!lab.exists("other/.git"));
}

#[test]
fn c_ares_resolves_what_is_permitted_only() {
    let Some(lab) = Lab::new() else { return };
    let cgfw = || lab.cgfw().args(["--block", "github.com"]);
    cgfw()
        .child(["ares", "allowed.example"])
        .stdout_has("203.0.113.21")
        .stdout_has("2001:db8:200::21")
        .run();
    cgfw()
        .child(["ares", "github.com"])
        .status(3)
        .stderr_has("Domain name not found")
        .within(AT_ONCE)
        .run();
}

#[test]
fn clients_work_over_ipv6_name_servers() {
    let Some(lab) = Lab::new() else { return };
    lab.nameservers(&["2001:db8:53::53"], PATIENCE);
    for client in [
        "curl --silent http://HOST/",
        "musl HOST 80",
        "golang http://HOST/",
    ] {
        let cgfw = || lab.cgfw().args(["--block", "github.com"]);
        cgfw()
            .sh(&client.replace("HOST", "allowed.example"))
            .stdout_has("hello from allowed.example")
            .run();
        let output = cgfw()
            .sh(&format!(
                "{} || exit 99",
                client.replace("HOST", "github.com")
            ))
            .status(99)
            .stdout("")
            .within(AT_ONCE)
            .run();
        assert!(!output.refusals().is_empty(), "{output}");
    }
}

#[test]
fn musl_works_with_name_servers_of_both_families() {
    let Some(lab) = Lab::new() else { return };
    // musl sends to both from one socket and drops answers from anywhere else.
    lab.nameservers(&["198.51.100.53", "2001:db8:53::53"], PATIENCE);
    let cgfw = || lab.cgfw().args(["--block", "github.com"]);
    cgfw()
        .child(["musl", "allowed.example", "80"])
        .stdout_has("hello from allowed.example")
        .within(AT_ONCE)
        .run();
    cgfw()
        .child(["musl", "github.com", "80"])
        .status(3)
        .within(AT_ONCE)
        .run();
}

#[test]
fn ping_works_and_is_filtered() {
    let Some(lab) = Lab::new() else { return };
    for user in ["root", "dev"] {
        let cgfw = || lab.cgfw().args(["--block", "github.com", "--user", user]);
        cgfw()
            .child(["ping", "-c1", "-W2", "allowed.example"])
            .run();
        cgfw()
            .child(["ping", "-6", "-c1", "-W2", "allowed.example"])
            .run();
        cgfw()
            .child(["ping", "-c1", "-W2", "github.com"])
            .status(2)
            .within(AT_ONCE)
            .run();
    }
}

#[test]
fn ping_through_a_raw_socket_works_and_is_filtered() {
    let Some(lab) = Lab::new() else { return };
    let range = "/proc/sys/net/ipv4/ping_group_range";
    // Nobody may open a ping socket, so that ping(8) falls back to a raw one.
    lab.client().run(|| std::fs::write(range, "1 0")).unwrap();
    let ping = |option: &'static str, host: &'static str| {
        lab.cgfw()
            .args(["--block", "github.com", "--block", "198.51.100.77"])
            .args(["--block", "2001:db8:100::77"])
            .child(["ping", option, "-c1", "-W1", host])
    };
    ping("-4", "allowed.example").run();
    ping("-6", "allowed.example").run();
    ping("-4", "github.com").status(2).within(AT_ONCE).run();
    let sniffer = lab.sniff();
    ping("-4", "198.51.100.77").status(1).run();
    ping("-6", "2001:db8:100::77").status(1).run();
    assert!(sniffer.packets_to([198, 51, 100, 77]).is_empty());
    let target: std::net::Ipv6Addr = "2001:db8:100::77".parse().unwrap();
    assert!(sniffer.packets_to(target).is_empty());
}

#[test]
fn dig_is_judged_over_every_transport_and_at_every_server() {
    let Some(lab) = Lab::new() else { return };
    for options in [
        "",
        "+tcp",
        "@2001:db8:53::53",
        "@2001:db8:53::53 +tcp",
        "@198.51.100.54",
        "@198.51.100.54 +tcp",
        "@2001:db8:53::54",
        "@203.0.113.200",
        "-b 0.0.0.0#5353",
    ] {
        let cgfw = || lab.cgfw().args(["--block", "github.com"]);
        let blocked = cgfw()
            .sh(&format!("dig {options} api.github.com"))
            .stdout_has("status: NXDOMAIN")
            .stdout_has("EDE: 15 (Blocked)")
            .within(AT_ONCE)
            .run();
        assert_eq!(blocked.refusal()["domain"], "api.github.com.", "{blocked}");
        if !options.contains("203.0.113.200") {
            let allowed = format!("dig +short {options} allowed.example");
            cgfw().sh(&allowed).stdout("203.0.113.21\n").run();
        }
    }
    assert!(lab.internet().questions_about("api.github.com").is_empty());
}

#[test]
fn a_child_in_its_own_network_namespace_gets_nowhere_unfiltered() {
    let Some(lab) = Lab::new() else { return };
    let sniffer = lab.sniff();
    // It cannot reach the proxy, so that it cannot resolve; and it must not get out by
    // giving its namespace a way to the internet of its own.
    lab.cgfw()
        .args(["--block", "198.51.100.10", "--block", "github.com"])
        .sh("unshare --net sh -c 'ip link set lo up; sleep 0.5; \
                 ip addr add 192.0.2.77/24 dev eth1; ip link set eth1 up; \
                 ip route add default via 192.0.2.1; \
                 curl --silent --max-time 2 http://198.51.100.10/' & \
             sleep 0.2; ip link add link eth0 name eth1 netns $! type macvlan mode bridge; \
             wait $!")
        .status(7)
        .run();
    assert!(sniffer.packets_to([198, 51, 100, 10]).is_empty());
    assert!(lab.internet().requests().is_empty());
}
