//! `cgfw why` says what a run does: the same destinations are given to both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::Value;

use crate::support::Lab;
use crate::support::command::Running;
use crate::support::dns::{self, A, AAAA, RESOLVER};

const POLICIES: u64 = 25;
const CASES: usize = 40;

/// Somebody listens there, at every address of the lab's internet.
const PORTS: [u16; 5] = [7, 9, 80, 443, 8080];

/// splitmix64: small, and the same for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    /// One to three labels below `tree`, few enough for rules and destinations to meet.
    fn name(&mut self, tree: &str) -> String {
        let count = self.of(&[1, 2, 2, 3]);
        let labels: Vec<&str> = (0..count).map(|_| self.of(&["a", "b"])).collect();
        format!("{}.{tree}", labels.join("."))
    }

    fn address(&mut self) -> IpAddr {
        let last = u8::try_from(self.below(6)).unwrap();
        match self.below(10) {
            0 => Ipv4Addr::LOCALHOST.into(),
            1 => Ipv6Addr::LOCALHOST.into(),
            // The client's own, and its neighbour's.
            2 => Ipv4Addr::new(192, 0, 2, 10).into(),
            3 => Ipv4Addr::new(192, 0, 2, 1).into(),
            4 => Ipv4Addr::new(10, 9, 0, last).into(),
            5 => Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, last.into()).into(),
            6 => Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, last.into()).into(),
            7 => HOSTS[usize::from(last) % HOSTS.len()].1.into(),
            _ => Ipv4Addr::new(203, 0, 113, 100 + last).into(),
        }
    }
}

/// In /etc/hosts, and in no zone.
const HOSTS: [(&str, Ipv4Addr); 4] = [
    ("a.hosts.example", Ipv4Addr::new(203, 0, 113, 201)),
    ("b.a.hosts.example", Ipv4Addr::new(203, 0, 113, 202)),
    ("b.hosts.example", Ipv4Addr::new(203, 0, 113, 203)),
    ("here.hosts.example", Ipv4Addr::new(192, 0, 2, 10)),
];

/// The options of a policy, and the names that a run looks up for it by itself.
struct Policy {
    options: Vec<String>,
    blocked: BTreeSet<String>,
}

impl Policy {
    fn generate(random: &mut Random, lab: &Lab) -> Self {
        let mut policy = Self {
            options: Vec::new(),
            blocked: BTreeSet::new(),
        };
        let mut lists = [String::new(), String::new()];
        for _ in 0..6 + random.below(12) {
            let action = random.below(2);
            let flag = ["--block", "--allow"][action];
            if random.one_in(4) {
                let net = network(random);
                policy
                    .options
                    .extend([flag.to_owned(), limited(random, &net)]);
                continue;
            }
            let tree = random.of(&["why.example", "target.example", "hosts.example"]);
            let name = random.name(tree);
            let scope = random.of(&["", "=", "*."]);
            if random.one_in(3) {
                writeln!(lists[action], "{scope}{name}").unwrap();
                continue;
            }
            let pattern = limited(random, &format!("{scope}{name}"));
            policy.options.extend([flag.to_owned(), pattern]);
            if action == 0 && scope != "*." {
                policy.blocked.insert(name);
            }
        }
        for (list, path) in lists.iter().zip(["block-file", "allow-file"]) {
            if !list.is_empty() {
                lab.write(path, list);
                policy
                    .options
                    .extend([format!("--{path}"), path.to_owned()]);
            }
        }
        for (option, values) in [
            ("--default", &["", "allow", "allow", "block"][..]),
            ("--direct-ip", &["", "", "allow", "private", "block"]),
        ] {
            let value = random.of(values);
            if !value.is_empty() {
                policy.options.extend([option.to_owned(), value.to_owned()]);
            }
        }
        policy
    }
}

/// A network around an address that may be asked for.
fn network(random: &mut Random) -> String {
    let address = match random.below(3) {
        0 => dns::address_of(&random.name("why.example")).into(),
        1 => dns::address_of(&random.name("target.example")).into(),
        _ => random.address(),
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = longest - random.of(&[0, 0, 1, 2, 8, 16]);
    let net = IpNet::new(address, length).unwrap().trunc();
    if address.is_ipv6() {
        format!("[{net}]")
    } else {
        net.to_string()
    }
}

/// The pattern for some ports only, often.
fn limited(random: &mut Random, pattern: &str) -> String {
    let ports = match random.below(4) {
        0 | 1 => String::new(),
        2 => format!(":{}", random.of(&PORTS)),
        _ => random.of(&[":7-80", ":80-443", ":443-65535"]).to_owned(),
    };
    format!(
        "{pattern}{ports}{}",
        random.of(&["", "", "", "/tcp", "/udp"])
    )
}

/// A destination as `why` takes it, and as the child does.
struct Case {
    destination: String,
    attempt: String,
}

impl Case {
    fn generate(random: &mut Random, policy: &Policy) -> Self {
        let host = match random.below(8) {
            0 | 1 => random.name("why.example"),
            2 | 3 => format!("alias.{}", random.name("why.example")),
            4 => format!("{}.corp.example", random.name("why.example")),
            5 => random.of(&HOSTS).0.to_owned(),
            // Known by what a run looks up by itself.
            6 => policy
                .blocked
                .iter()
                .find(|name| name.ends_with("why.example"))
                .map_or(random.address(), |name| dns::address_of(name).into())
                .to_string(),
            _ => random.address().to_string(),
        };
        if random.one_in(3) {
            return Self {
                attempt: format!("{host} - -"),
                destination: host,
            };
        }
        let (port, proto) = (random.of(&PORTS), random.of(&["tcp", "udp"]));
        let bracketed = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        Self {
            attempt: format!("{host} {port} {proto}"),
            destination: format!("{bracketed}:{port}/{proto}"),
        }
    }
}

#[test]
fn why_and_a_run_say_the_same_of_a_thousand_destinations() {
    let Some(lab) = Lab::new() else { return };
    lab.write(
        "/etc/resolv.conf",
        &format!("search corp.example\nnameserver {RESOLVER}\n"),
    );
    let mut hosts = lab.read("/etc/hosts");
    for (name, address) in HOSTS {
        writeln!(hosts, "{address} {name}").unwrap();
    }
    lab.write("/etc/hosts", &hosts);
    let mut grounds: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..POLICIES {
        let mut random = Random(seed);
        let policy = Policy::generate(&mut random, &lab);
        let cases: Vec<Case> = (0..CASES)
            .map(|_| Case::generate(&mut random, &policy))
            .collect();
        let said = said(&lab, &policy, &cases);
        let done = done(&lab, Some(&policy), &cases);
        for ((case, said), done) in cases.iter().zip(&said).zip(&done) {
            assert_eq!(
                said["verdict"], **done,
                "seed {seed}, {}: {:?}\n{said}",
                case.destination, policy.options
            );
            let ground = format!("{done}, {}", said["reason"].as_str().unwrap());
            *grounds.entry(ground).or_default() += 1;
        }
        // Without cgfw all of them can be reached.
        if seed == 0 {
            let done = self::done(&lab, None, &cases);
            assert!(done.iter().all(|verdict| verdict == "allowed"), "{done:?}");
        }
    }
    assert_eq!(grounds.values().sum::<usize>(), 1000);
    for ground in [
        "allowed, addresses",
        "allowed, default",
        "allowed, direct_ip",
        "allowed, own",
        "allowed, rule",
        "blocked, addresses",
        "blocked, alias",
        "blocked, default",
        "blocked, direct_ip",
        "blocked, rule",
        "blocked, search_suffix",
    ] {
        let count = grounds.get(ground).copied().unwrap_or(0);
        assert!(count >= 5, "{ground}: no fair sample: {grounds:?}");
    }
}

/// What `why` says of each.
fn said(lab: &Lab, policy: &Policy, cases: &[Case]) -> Vec<Value> {
    let output = lab
        .command("cgfw")
        .args(["why", "--resolve", "--format", "json"])
        .args(&policy.options)
        .args(cases.iter().map(|case| &case.destination))
        .any_status()
        .run();
    let lines: Vec<Value> = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), cases.len(), "{output}");
    let is_blocked = lines.iter().any(|line| line["verdict"] == "blocked");
    assert_eq!(output.status.code(), Some(is_blocked.into()), "{output}");
    lines
}

/// What becomes of each attempt in a run, or outside.
fn done(lab: &Lab, policy: Option<&Policy>, cases: &[Case]) -> Vec<String> {
    const LIMIT: Duration = Duration::from_mins(1);
    let before = lab.internet().questions().len();
    let attempts: Vec<&str> = cases.iter().map(|case| &*case.attempt).collect();
    let argv = ["verdicts", &RESOLVER.to_string(), "go"];
    let test = match policy {
        Some(policy) => lab.cgfw().arg("--quiet").args(&policy.options).child(argv),
        None => lab.command(argv[0]).args(&argv[1..]),
    };
    let running = test
        .stdin(&(attempts.join("\n") + "\n"))
        .limit(LIMIT)
        .spawn();
    let names = policy.map(|policy| &policy.blocked);
    wait_for_questions(lab, before, &running, names.into_iter().flatten());
    lab.write("go", "");
    let output = running.finish();
    lab.sh("rm go").run();
    let verdicts: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
    assert_eq!(verdicts.len(), cases.len(), "{output}");
    verdicts
}

/// Wait until the run has asked for what it wants to know by itself. The answers follow at
/// once, which the child needs longer to see.
fn wait_for_questions<'n>(
    lab: &Lab,
    before: usize,
    running: &Running,
    names: impl Iterator<Item = &'n String>,
) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for name in names {
        let is_asked = |qtype| {
            let questions = lab.internet().questions();
            let mut new = questions.iter().skip(before);
            new.any(|question| question.name == *name && question.qtype == qtype)
        };
        while !(is_asked(A) && is_asked(AAAA)) {
            let stderr = running.stderr();
            assert!(
                Instant::now() < deadline,
                "{name} is not looked up\n{stderr}"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}
