use super::super::tests::{SAMPLE, digest};
use super::*;

/// The texts between `open` and `close`.
fn between<'t>(page: &'t str, open: &str, close: &str) -> Vec<&'t str> {
    let parts = page.split(open).skip(1);
    parts
        .map(|part| part.split(close).next().unwrap())
        .collect()
}

fn sample() -> String {
    html(digest(SAMPLE).runs())
}

#[test]
fn what_runs_is_what_the_policy_names() {
    let page = sample();
    for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
        let texts = between(&page, &format!("<{element}>"), &format!("</{element}>"));
        let [text] = texts[..] else {
            panic!("{} of {element}", texts.len())
        };
        assert!(page.contains(&format!("; {directive} '{}'; ", hash(text))));
    }
    // RFC 6234 has this digest of "abc".
    assert_eq!(
        hash("abc"),
        "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
    );
}

#[test]
fn nothing_is_asked_for() {
    let page = sample();
    let [style] = between(&page, "<style>", "</style>")[..] else {
        panic!("one style")
    };
    assert!(!style.contains("url(") && !style.contains("@import"));
    for attribute in ["src=", "srcset=", "style=", "action=", "poster="] {
        assert!(!page.contains(&format!(" {attribute}")), "{attribute}");
    }
    let hrefs = between(&page, " href=\"", "\"");
    assert!(!hrefs.is_empty());
    for href in hrefs {
        assert!(href.starts_with('#') || href == "data:,", "{href}");
    }
}

#[test]
fn text_of_others_stays_text() {
    let page = sample();
    assert!(!page.contains("<script>alert"));
    assert!(page.contains("&#60;script&#62;alert(1)&#60;/script&#62;"));
    assert!(!page.contains('\u{1b}'));
}

#[test]
fn all_that_matters_is_in_the_page() {
    let page = sample();
    for text in [
        "exited with status 1",
        "Not clean.",
        "2 targets were blocked (ask team-git)",
        "The command then failed.",
        "The command went on.",
        "team-git",
        "we deploy it",
        "policy.toml:7: updates.tool.example",
        "not answered",
        "30.0 s",
        "10.4 MB",
        "Outlived the command and were ended",
        "Moved out of the cgroup",
        "6.18.44",
        "--policy policy.toml (2 rules)",
    ] {
        assert!(page.contains(text), "no {text:?}");
    }
}

#[test]
fn a_part_of_a_log_is_a_page_too() {
    let lines: Vec<&str> = SAMPLE.lines().collect();
    let headless = html(digest(&lines[1..].join("\n")).runs());
    assert!(headless.contains("the log has no start of this run"));
    let cut = html(digest(&lines[..4].join("\n")).runs());
    assert!(cut.contains("the log has no end of this run"));
    assert!(html(&[]).contains("The log tells of no run."));
}

#[test]
fn a_clean_run_is_called_clean() {
    let lines: Vec<&str> = SAMPLE.lines().collect();
    let end = lines.last().unwrap().replace("\"lost\": 2", "\"lost\": 0");
    let end = end.replace(
        "[\"http_proxy is set: names behind it cannot be seen\"]",
        "[]",
    );
    let page = html(digest(&[lines[0], lines[1], &end].join("\n")).runs());
    assert!(page.contains("<strong>Clean.</strong>"), "{page}");
    assert!(!page.contains("What to look at"));
}

#[test]
fn every_run_has_its_place() {
    let twice = format!("{SAMPLE}{}", SAMPLE.replace("5f3a9c0d1e2b4a67", "2"));
    let page = html(digest(&twice).runs());
    assert!(page.contains("<title>cgfw: 2 runs</title>"));
    let ids = between(&page, " id=\"", "\"");
    let mut different = ids.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(ids.len(), different.len(), "{ids:?}");
    for reference in between(&page, " aria-labelledby=\"", "\"") {
        assert!(ids.contains(&reference), "{reference}");
    }
}

/// The log of a run with so many targets, each looked up by a child of the one before.
fn huge(run: &str, targets: usize) -> String {
    let lines: Vec<&str> = SAMPLE.lines().collect();
    let lookup = lines
        .iter()
        .find(|line| line.contains("\"github.com\""))
        .unwrap();
    let mut log = lines[0].replace("5f3a9c0d1e2b4a67", run);
    for index in 0..targets {
        let (parent, child) = (index + 200, index + 201);
        let (above, below) = (1_200_000_000 + index, 1_200_000_001 + index);
        let line = lookup
            .replace("5f3a9c0d1e2b4a67", run)
            .replace("\"github.com\"", &format!("\"{index}.github.com\""))
            .replace("\"pid\": 102,", &format!("\"pid\": {child},"))
            .replace("\"started\": 1200000000", &format!("\"started\": {below}"))
            .replace("\"pid\": 101,", &format!("\"pid\": {parent},"))
            .replace("\"started\": 1100000000", &format!("\"started\": {above}"))
            .replace(
                "00:00:00.9",
                &format!("00:{:02}:{:02}.9", index / 60 % 60, index % 60),
            )
            .replace("\"origin\"", &format!("\"{}\"", "<>&\\\"'".repeat(80)));
        log.push('\n');
        log.push_str(&line);
    }
    log
}

#[test]
fn a_page_is_bounded_and_says_what_it_leaves_out() {
    let page = html(digest(&huge("1", 3500)).runs());
    assert!(page.len() < 12 << 20, "{} octets", page.len());
    for left_out in [
        "and 3400 more</p>",
        "and 500 more, for which there was no room",
        "and 2500 more, for which there was no room",
        "more processes, for which there was no room",
    ] {
        assert!(page.contains(left_out), "no {left_out:?}");
    }
    let many: String = (0..60)
        .map(|run| huge(&run.to_string(), 60) + "\n")
        .collect();
    let page = html(digest(&many).runs());
    assert!(page.len() < 24 << 20, "{} octets", page.len());
    assert!(page.contains("and 10 more runs"));
}

#[test]
fn the_ticks_of_the_timeline_are_round_numbers() {
    let ticks = |seconds: u64| {
        let end = format!(
            "2026-11-23T{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        );
        let log = SAMPLE.replace("2026-11-23T00:00:32.500000000", &format!("{end}.000000000"));
        let page = html(digest(&log).runs());
        let axis = between(&page, "<div class=\"axis\"", "</div>").concat();
        between(&axis, "y=\"14\">", "</text>").join(" | ")
    };
    assert_eq!(ticks(33), "0 | 10 s | 20 s | 30 s");
    assert_eq!(ticks(50), "0 | 10 s | 20 s | 30 s | 40 s | 50 s");
    assert_eq!(
        ticks(600),
        "0 | 2 min 00 s | 4 min 00 s | 6 min 00 s | 8 min 00 s | 10 min 00 s"
    );
}
