use proptest::prelude::*;

use super::super::Domain;
use super::*;

/// What the list says: `3 block =a.test`, and what is left out of it.
fn read(list: &[u8], action: Action) -> Result<(Vec<String>, Option<LeftOut>), String> {
    let place = Place {
        name: "list".to_owned(),
        ..Place::default()
    };
    let mut parser = ListParser::new(Arc::new(place), action);
    let mut entries = Vec::new();
    for line in list.split_inclusive(|octet| *octet == b'\n') {
        let read = parser.line(line, |entry| {
            entries.push(match entry {
                Entry::Name {
                    wire,
                    scope,
                    action,
                    line,
                } => {
                    let name = Domain::from_wire(wire);
                    format!("{line} {action:?} {}", Pattern::Domain { name, scope })
                }
                Entry::Rule(rule) => format!("{} {:?} {rule}", rule.source.line, rule.action),
            });
            Ok::<_, Mistake>(())
        });
        read.map_err(|mistake| mistake.to_string())?;
    }
    assert_eq!(
        parser.lines() as usize,
        list.split_inclusive(|b| *b == b'\n').count()
    );
    Ok((entries, parser.left_out().cloned()))
}

#[track_caller]
fn says_of(action: Action, list: &str, expected: &[&str]) {
    let (entries, left_out) = read(list.as_bytes(), action).unwrap();
    assert_eq!(entries, expected);
    assert_eq!(left_out, None);
}

#[track_caller]
fn says(list: &str, expected: &[&str]) {
    says_of(Action::Block, list, expected);
}

#[track_caller]
fn leaves_out(list: &str, expected: &[&str], count: u32, line: u32, text: &str) {
    let (entries, left_out) = read(list.as_bytes(), Action::Block).unwrap();
    assert_eq!(entries, expected);
    let text = text.to_owned();
    assert_eq!(left_out, Some(LeftOut { count, line, text }));
}

#[track_caller]
fn fails(list: &[u8], expected: &str) {
    assert_eq!(
        read(list, Action::Block)
            .unwrap_err()
            .lines()
            .next()
            .unwrap(),
        expected
    );
}

#[test]
fn patterns_stand_one_in_a_line_and_comments_begin_words() {
    says(
        "\u{feff}# ours\r\n\r\n  GitHub.com\t# deploys\r\n=api.github.com #\n*.github.io.\n\
         bücher.example\n_dmarc.a.test\n10.0.0.0/8\n[2001:db8::]/32:443/tcp\nx.test:80-90\n::1\n",
        &[
            "3 Block github.com",
            "4 Block =api.github.com",
            "5 Block *.github.io",
            "6 Block xn--bcher-kva.example",
            "7 Block _dmarc.a.test",
            "8 Block 10.0.0.0/8",
            "9 Block [2001:db8::/32]:443/tcp",
            "10 Block x.test:80-90",
            "11 Block ::1",
        ],
    );
}

#[test]
fn a_list_that_allows_may_hold_sockets() {
    says_of(
        Action::Allow,
        "/run/docker.sock\n@/tmp/.X11-unix/X0 # X\n/run/my socket\n127.0.0.1:5432\n",
        &[
            "1 Allow /run/docker.sock",
            "2 Allow @/tmp/.X11-unix/X0",
            "3 Allow /run/my socket",
            "4 Allow 127.0.0.1:5432",
        ],
    );
    fails(
        b"/run/docker.sock",
        "list:1:1: a socket cannot be blocked by a rule, only its use be acknowledged by --allow; \
         --strict refuses all sockets outside of the run",
    );
}

#[test]
fn names_of_a_hosts_file_are_meant_exactly_and_those_of_the_machine_not_at_all() {
    says(
        "# Title: Hosts\n127.0.0.1 localhost\n127.0.0.1 localhost.localdomain\n127.0.0.1 local\n\
         255.255.255.255 broadcasthost\n::1 localhost\n::1 ip6-localhost ip6-loopback\n\
         fe80::1%lo0 localhost\nff00::0 ip6-mcastprefix\nff02::3 ip6-allhosts\n0.0.0.0 0.0.0.0\n\
         \n# Start\n0.0.0.0 ads.a.test\n0.0.0.0\tTracker.B.test other.b.test#why\n\
         127.0.0.1  c.test # why\n:: local.d.test\n0.0.0.0 localhost\n0.0.0.0 ip6-x.test\n",
        &[
            "14 Block =ads.a.test",
            "15 Block =tracker.b.test",
            "15 Block =other.b.test",
            "16 Block =c.test",
            "17 Block =local.d.test",
            "19 Block =ip6-x.test",
        ],
    );
    leaves_out(
        "0.0.0.0 1.2.3.4\n0.0.0.0 a.test\n",
        &["2 Block =a.test"],
        1,
        1,
        "0.0.0.0 1.2.3.4",
    );
}

#[test]
fn names_of_a_dnsmasq_file_stand_for_all_below_them() {
    says(
        "# dnsmasq\naddress=/ads.test/0.0.0.0\naddress=/a.test/b.test/::\naddress=/c.test/#\n\
         server=/d.test/\nlocal=/e.test/\nserver=/cn.test/192.0.2.1#5353\naddress=/*.f.test/\n",
        &[
            "2 Block ads.test",
            "3 Block a.test",
            "3 Block b.test",
            "4 Block c.test",
            "5 Block d.test",
            "6 Block e.test",
            "7 Block cn.test",
            "8 Block *.f.test",
        ],
    );
    says("server=/w.ads.test/#\n", &["1 Allow w.ads.test"]);
    fails(
        b"local=/a.test",
        "list:1:8: there is no slash behind the name; write local=/a.test/",
    );
    fails(
        b"address=/a..b/",
        "list:1:10: a domain name has at least one label, and no empty ones",
    );
    fails(
        b"bogus-nxdomain=1.2.3.4",
        "list:1:1: not a valid (internationalised) domain name",
    );
}

#[test]
fn hosts_of_an_adblock_list_are_found_among_what_is_no_host() {
    leaves_out(
        "[Adblock Plus 2.0]\n! Title: easy\n||ads.test^\n||Track.test^$important,document\n\
         @@||good.ads.test^\n||*.cdn.test^\n|exact.test^\n||1.2.3.4^\n||x.test:8080^|\n\
         plain.test\n! out:\n||ads.test^$third-party\n||a.test^$domain=b.test|c.test\n\
         ||a.test/ads/\n||a.*.test^\n||ads.\na.test##.ad\n##.ad-banner\n###ad\na.test#@#.ad\n\
         a.test#?#div:has(> .ad)\n/banner[0-9]+/\n-ad-300x600-\n&ad_box_\n@@|https://a.test^\n\
         /ads.js$script\na.test$$script[data=\"ad\"]\n.com/ads/\n0.0.0.0 hosts.test\n# c\n## c\n",
        &[
            "3 Block ads.test",
            "4 Block track.test",
            "5 Allow good.ads.test",
            "6 Block *.cdn.test",
            "7 Block =exact.test",
            "8 Block 1.2.3.4",
            "9 Block x.test:8080",
            "10 Block plain.test",
            "29 Block =hosts.test",
        ],
        17,
        12,
        "||ads.test^$third-party",
    );
    says_of(
        Action::Allow,
        "||a.test^\n@@||b.a.test^\n",
        &["1 Allow a.test", "2 Block b.a.test"],
    );
}

#[test]
fn what_only_adblock_lists_have_is_known_without_their_header() {
    for line in [
        "a.test##.ad",
        "a.test#$#body{}",
        "/ad[sz]/",
        "/ads/$image",
        "a.test^",
        "|a.test",
    ] {
        leaves_out(line, &[], 1, 1, line);
    }
    says("## Section\n#####\n#no-space\n", &[]);
    fails(
        b"||a..b^",
        "list:1:3: a domain name has at least one label, and no empty ones",
    );
    fails(b"||1.2.3^", "list:1:3: `1.2.3` is not an address or a CIDR");
}

#[test]
fn a_name_that_idna_refuses_is_taken_as_it_stands() {
    says(
        "xn--a.test\n0.0.0.0 XN--a.test\n",
        &[r"1 Block \xn--a.test", r"2 Block =\xn--a.test"],
    );
    fails(
        b"xn--a.2.3",
        "list:1:1: not a valid (internationalised) domain name",
    );
}

#[test]
fn nothing_is_left_out_silently() {
    fails(
        b"a.test\nb..test\n",
        "list:2:1: a domain name has at least one label, and no empty ones",
    );
    fails(
        b"  a*.test",
        "list:1:3: `*` stands for whole labels at the start only: *.example.com",
    );
    fails(
        b"https://a.test/",
        "list:1:1: a URL is not a pattern; write its host: example.com:443",
    );
    fails(
        b"10.0.0.1/8",
        "list:1:1: the address has bits set beyond its prefix; write 10.0.0.0/8 for the network",
    );
    fails(
        b"0.0.0.0 a.test b..c",
        "list:1:16: a domain name has at least one label, and no empty ones",
    );
    fails(
        b"a.test b.test",
        "list:1:1: a line holds one pattern, or an address and names as in a hosts file",
    );
    fails(
        b"<!DOCTYPE html>",
        "list:1:1: this looks like a web page and not like a list",
    );
    fails(
        b"1.2.3.400",
        "list:1:1: `1.2.3.400` is not an address or a CIDR",
    );
}

#[test]
fn garbage_is_no_list() {
    fails(
        b"\x7fELF\x02\x01\x01\0",
        "list:1:1: an octet 0x7f: this does not look like a list",
    );
    fails(
        b"a.test\n# \0",
        "list:2:3: an octet 0x00: this does not look like a list",
    );
    fails(
        b"\xff\xfea\0.\0",
        "list:1:4: an octet 0x00: this does not look like a list",
    );
    fails(
        b"b\xfccher.test",
        "list:1:2: not UTF-8: this does not look like a list",
    );
    let (entries, _) = read(b"# b\xfccher\na.test # b\xfccher\n! b\xfc\n", Action::Block).unwrap();
    assert_eq!(entries, ["2 Block a.test"]);
    let long = "a".repeat(MAX_LINE + 1);
    fails(
        long.as_bytes(),
        "list:1:1: a line of a list has at most 65536 octets",
    );
    assert!(
        read(&long.as_bytes()[..MAX_LINE], Action::Block)
            .unwrap_err()
            .contains("255 octets")
    );
}

#[test]
fn a_mistake_shows_the_line() {
    let shown = read(b"a.test\n0.0.0.0 a..b\n", Action::Block).unwrap_err();
    let expected = "\n  |\n2 | 0.0.0.0 a..b\n  |         ^^^^";
    assert!(shown.ends_with(expected), "{shown}");
}

#[test]
fn whoever_receives_may_stop() {
    #[derive(Debug)]
    struct Enough;
    impl From<Mistake> for Enough {
        fn from(mistake: Mistake) -> Self {
            panic!("{mistake}");
        }
    }
    for line in [
        "a.test",
        "0.0.0.0 a.test b.test",
        "10.0.0.0/8",
        "bücher.test",
    ] {
        let mut parser = ListParser::new(Arc::default(), Action::Block);
        let mut count = 0;
        parser
            .line(line.as_bytes(), |_| {
                count += 1;
                Err(Enough)
            })
            .unwrap_err();
        assert_eq!(count, 1, "{line}");
    }
}

/// What the one wire form of `text` is, by the long way.
fn slow(text: &str) -> Option<Vec<u8>> {
    match Rule::parse(text, Action::Block, Source::default()) {
        Ok(Rule {
            pattern:
                Pattern::Domain {
                    name,
                    scope: Scope::Subtree,
                },
            ports: None,
            transport: None,
            ..
        }) => Some(name.as_wire().to_vec()),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_fast_way_says_what_the_slow_one_says(
        text in prop_oneof![
            4 => "[a-zA-Z0-9_.-]{0,40}",
            2 => "(xn|XN|ab|--|[a-c0-9]{1,4})(--)?[a-z0-9-]{0,5}(\\.([a-z0-9-]{1,9}|0x[0-9a-g]*|xn--[a-z0-9-]{1,6})){0,3}\\.?",
            1 => "([a-z]{61,65}\\.){1,5}[a-z]{0,9}\\.?",
            1 => "\\PC{0,12}",
        ]
    ) {
        if let Some(wire) = plain(text.as_bytes(), &mut [0; MAX_WIRE]) {
            let slow = slow(&text);
            prop_assert_eq!(slow.as_deref(), Some(wire), "{:?}", text);
        } else if let Some(wire) = slow(&text) {
            // What it leaves to the slow way is rare.
            let is_rare = !text.is_ascii() || text.contains('\\') || text.to_ascii_lowercase().contains("xn--");
            prop_assert!(is_rare || text.trim() != text, "{:?} {:?}", text, wire);
        }
    }

    #[test]
    fn a_name_is_the_same_name_in_every_format(labels in prop::collection::vec("[a-z0-9_-]{1,12}", 2..5)) {
        let name = labels.join(".");
        prop_assume!(plain(name.as_bytes(), &mut [0; MAX_WIRE]).is_some());
        for (line, expected) in [
            (name.clone(), format!("1 Block {name}")),
            (format!(" {name}\t# c\r\n"), format!("1 Block {name}")),
            (format!("{name}.\n"), format!("1 Block {name}")),
            (format!("*.{name}"), format!("1 Block *.{name}")),
            (format!("0.0.0.0 {name}\r\n"), format!("1 Block ={name}")),
            (format!("::1\t {name} # c"), format!("1 Block ={name}")),
            (format!("||{name}^\n"), format!("1 Block {name}")),
            (format!("||{name}^$important"), format!("1 Block {name}")),
            (format!("@@||{name}^"), format!("1 Allow {name}")),
            (format!("address=/{name}/0.0.0.0"), format!("1 Block {name}")),
            (format!("local=/{name}/"), format!("1 Block {name}")),
        ] {
            let (entries, left_out) = read(line.as_bytes(), Action::Block).unwrap();
            prop_assert_eq!((entries, left_out), (vec![expected], None), "{:?}", line);
        }
    }

    #[test]
    fn any_octets_are_read_without_a_panic_and_shown_as_text(
        lines in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                "[|@#$^*/=.a1: \t%]{0,12}".prop_map(String::into_bytes),
            ],
            0..4,
        ),
        allow in any::<bool>(),
    ) {
        let action = if allow { Action::Allow } else { Action::Block };
        if let Err(shown) = read(&lines.join(&b'\n'), action) {
            prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
        }
    }
}
