use std::fs;

use tempfile::TempDir;

use super::*;

/// A directory with files in it, and what they are given as.
struct Files {
    dir: TempDir,
    given: Given,
}

impl Files {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            given: Given::default(),
        }
    }

    /// A file that is there, and is not given.
    fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn policy(mut self, name: &str, content: &str) -> Self {
        self.given.files.push(self.dir.path().join(name));
        self.with(name, content)
    }

    fn list(mut self, action: Action, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.given.lists.push((action, self.dir.path().join(name)));
        self.with(name, content)
    }

    /// The text, with the directory as `DIR`.
    fn shown(&self, text: &str) -> String {
        text.replace(self.dir.path().to_str().unwrap(), "DIR")
    }

    #[track_caller]
    fn load(&self) -> Loaded {
        load(&self.given).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// What is said to be wrong.
    #[track_caller]
    fn wrong(&self) -> String {
        match load(&self.given) {
            Ok(loaded) => panic!("{loaded:?}"),
            Err(error) => self.shown(&format!("{error:#}")),
        }
    }

    #[track_caller]
    fn verdict(&self, name: &str) -> (bool, Option<String>) {
        let policy = self.load().into_policy(Vec::new());
        let judgement = policy.name(&Domain::parse(name).unwrap(), &[]);
        let rule = judgement.rule.as_ref();
        (
            judgement.is_blocked(),
            rule.map(|rule| self.shown(&rule.cite())),
        )
    }
}

fn of_every_kind() -> Files {
    let mut files = Files::new()
        .policy(
            "etc/p.toml",
            "version = 1\n[[rule]]\nblock = \"github.com\"\nreason = \"we deploy it\"\nowner = \"git\"\n\
             [[rule]]\nblock_file = \"lists/ads.txt\"\nowner = \"ads\"\n",
        )
        .with("etc/lists/ads.txt", "# a list\n0.0.0.0 ads.test\n")
        .list(Action::Block, "more.txt", "||more.test^\n10.0.0.0/8:22\n")
        .list(Action::Allow, "except.txt", "ok.github.com\n");
    files.given.rules = vec![
        Rule::parse(
            "x.test",
            Action::Block,
            crate::policy::Source::argument("--block x.test"),
        )
        .unwrap(),
    ];
    files
}

#[test]
fn arguments_policies_and_lists_hold_together() {
    let files = of_every_kind();
    let cited = |text: &str| Some(text.to_owned());
    for (name, blocked, rule) in [
        ("a.github.com", true, cited("DIR/etc/p.toml:3: github.com")),
        (
            "ok.github.com",
            false,
            cited("DIR/except.txt:1: ok.github.com"),
        ),
        (
            "ads.test",
            true,
            cited("DIR/etc/lists/ads.txt:2: =ads.test"),
        ),
        ("x.ads.test", false, None),
        ("x.more.test", true, cited("DIR/more.txt:1: more.test")),
        ("x.test", true, cited("--block x.test")),
    ] {
        assert_eq!(files.verdict(name), (blocked, rule), "{name}");
    }
}

#[test]
fn every_file_is_named_and_what_its_author_says_is_kept() {
    let files = of_every_kind();
    let loaded = files.load();
    let origins: Vec<String> = loaded
        .origins
        .rules
        .iter()
        .map(|text| files.shown(text))
        .collect();
    assert_eq!(
        origins,
        [
            "--block x.test",
            "--policy DIR/etc/p.toml (1 rule)",
            "DIR/etc/p.toml:7: DIR/etc/lists/ads.txt (1 pattern)",
            "--block-file DIR/more.txt (2 patterns)",
            "--allow-file DIR/except.txt (1 pattern)",
        ]
    );
    let read: Vec<String> = loaded
        .files
        .iter()
        .map(|(path, _)| files.shown(path.to_str().unwrap()))
        .collect();
    assert_eq!(
        read,
        [
            "DIR/etc/p.toml",
            "DIR/etc/lists/ads.txt",
            "DIR/more.txt",
            "DIR/except.txt"
        ]
    );
    let policy = loaded.into_policy(Vec::new());
    let judgement = policy.name(&Domain::parse("ads.test").unwrap(), &[]);
    let place = &judgement.rule.as_ref().unwrap().source.place;
    assert_eq!(
        (place.reason.as_deref(), place.owner.as_deref()),
        (None, Some("ads"))
    );
}

#[test]
fn an_argument_decides_what_policies_leave_open_or_disagree_on() {
    let files = || {
        Files::new()
            .policy("a.toml", "version = 1\ndefault = \"block\"\n")
            .policy("b.toml", "version = 1\ndirect_ip = \"private\"\n")
    };
    let loaded = files().load();
    assert_eq!(
        (loaded.default, loaded.direct_ip),
        (Some(Action::Block), Some(DirectIp::Private))
    );
    let mut files = files().policy("c.toml", "version = 1\ndefault = \"allow\"\n");
    assert_eq!(
        files.wrong(),
        "DIR/a.toml and DIR/c.toml have different values of `default`; --default decides"
    );
    files.given.default = Some(Action::Allow);
    assert_eq!(files.load().default, Some(Action::Allow));
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let mut files = Files::new()
        .policy("p.toml", "version = 1\n[[rule]]\nblock = \"a..b\"\n")
        .list(
            Action::Block,
            "l.txt",
            "fine.test\nnot a pattern\n\nfine.example:99999\n",
        )
        .list(Action::Allow, "empty.txt", "# nothing\n");
    files
        .given
        .files
        .push(files.dir.path().join("missing.toml"));
    let wrong = files.wrong();
    for says in [
        "DIR/p.toml:3:9: ",
        "DIR/l.txt:2:",
        "DIR/l.txt:4:",
        "DIR/empty.txt: the list is empty and would allow nothing",
        "cannot open DIR/missing.toml: No such file or directory",
    ] {
        assert!(wrong.contains(says), "{says} in {wrong}");
    }
}

#[test]
fn an_empty_block_list_and_lines_about_no_host_are_told() {
    let files = Files::new().list(Action::Block, "empty.txt", "").list(
        Action::Block,
        "ads.txt",
        "[Adblock Plus 2.0]\n||a.test^\n||b.test/ads/\n##.banner\n",
    );
    let notes: Vec<String> = files
        .load()
        .notes
        .iter()
        .map(|note| files.shown(note))
        .collect();
    assert_eq!(
        notes,
        [
            "DIR/empty.txt: the list is empty and blocks nothing; leave it out if that is meant",
            "DIR/ads.txt: left out 2 lines, not about whole hosts; the first is line 3: ||b.test/ads/",
        ]
    );
}

#[test]
fn what_is_no_list_is_refused_without_reading_all_of_it() {
    let garbage: Vec<u8> = (0..100_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    let wrong = Files::new().list(Action::Block, "garbage", garbage).wrong();
    assert!(wrong.starts_with("DIR/garbage:1:"), "{wrong}");
    assert!(
        wrong.len() < 4000 && wrong.chars().all(|c| c == '\n' || !c.is_control()),
        "{wrong}"
    );
    let mut files = Files::new();
    for path in ["/dev/zero", "/dev/urandom", "/"] {
        files.given.lists = vec![(Action::Block, path.into())];
        let wrong = files.wrong();
        assert!(wrong.contains(path), "{wrong}");
        files.given.lists.clear();
        files.given.files = vec![path.into()];
        let wrong = files.wrong();
        assert!(wrong.contains(path), "{wrong}");
        files.given.files.clear();
    }
    let many = "not a pattern\n".repeat(5000);
    let wrong = Files::new().list(Action::Block, "many", many).wrong();
    assert!(
        wrong.ends_with("DIR/many: and 4990 more mistakes"),
        "{wrong}"
    );
}

#[test]
fn a_list_of_a_gigabyte_is_refused_at_once() {
    let files = Files::new().list(Action::Block, "huge", "a.test\n");
    let huge = File::options()
        .write(true)
        .open(files.dir.path().join("huge"))
        .unwrap();
    huge.set_len(1 << 30).unwrap();
    assert_eq!(
        files.wrong(),
        "DIR/huge: longer than 256 MiB; leave out what no run needs"
    );
    let mut policy = "version = 1\n".to_owned();
    policy.extend(std::iter::repeat_n(
        '#',
        usize::try_from(MAX_POLICY).unwrap(),
    ));
    let wrong = Files::new().policy("huge.toml", &policy).wrong();
    assert_eq!(
        wrong,
        "DIR/huge.toml: longer than 16 MiB; put long lists into files of their own"
    );
}

#[test]
fn a_dash_in_a_policy_is_a_file() {
    let files = Files::new()
        .policy("p.toml", "version = 1\n[[rule]]\nblock_file = \"-\"\n")
        .with("-", "a.test\n");
    assert_eq!(
        files.verdict("a.test"),
        (true, Some("DIR/-:1: a.test".to_owned()))
    );
}
