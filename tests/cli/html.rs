//! Reports for the browser, in a browser.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::cgfw;
use crate::browser::Browser;

const SAMPLE: &str = include_str!("../../cgfw/src/formats/sample.jsonl");

/// Where the picture in the README is.
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/report.png");
/// Octets of it.
const MAX_PICTURE: u64 = 150_000;

/// What is shown, as the reader sees it.
const ROWS: &str = "[...document.querySelectorAll('.targets tbody tr')]\
    .filter(row => row.checkVisibility()).map(row => row.querySelector('th').firstChild.data)";
const COUNT: &str = "document.querySelector('.targets output').value";

/// A report on a log, in a browser; `None` if there is no browser here.
struct Shown {
    browser: Browser,
    page: PathBuf,
    _directory: tempfile::TempDir,
}

#[expect(
    clippy::print_stdout,
    reason = "this is the output of a test, and captured as such"
)]
fn show(log: &str) -> Option<Shown> {
    let mut browser = match Browser::start() {
        Ok(browser) => browser,
        Err(proof) => {
            let test = std::thread::current().name().unwrap_or("html").to_owned();
            println!("SKIP {test}: {proof}");
            return None;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let page = report(directory.path(), log);
    browser.look("light", 1280, 900);
    browser.open(&page);
    Some(Shown {
        browser,
        page,
        _directory: directory,
    })
}

fn report(directory: &Path, log: &str) -> PathBuf {
    let path = directory.join("audit.jsonl");
    fs::write(&path, log).unwrap();
    let output = cgfw()
        .args(["report", "--format", "html"])
        .arg(&path)
        .status(0)
        .run();
    let page = directory.join("report.html");
    fs::write(&page, output.stdout).unwrap();
    page
}

#[track_caller]
fn check_quiet(shown: &Shown) {
    let complaints = shown.browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let itself = format!("file://{}", shown.page.display());
    let others: Vec<&str> = shown.browser.requests();
    assert!(others.iter().all(|url| *url == itself), "{others:?}");
}

#[test]
fn targets_are_found_by_what_is_typed() {
    let Some(mut shown) = show(SAMPLE) else {
        return;
    };
    let browser = &mut shown.browser;
    assert_eq!(browser.eval(COUNT), "6 of 6");
    browser.click(".targets input[type=search]");
    browser.type_text("GIT fetch");
    assert_eq!(browser.eval(ROWS), json!(["github.com"]));
    assert_eq!(browser.eval(COUNT), "1 of 6");
    browser.press("Escape");
    assert_eq!(browser.eval(COUNT), "6 of 6");
    browser.type_text("nobody");
    assert_eq!(browser.eval(ROWS), json!([]));
    assert_eq!(browser.eval(COUNT), "0 of 6");
    check_quiet(&shown);
}

#[test]
fn targets_are_filtered_by_clicks_and_by_keys() {
    let Some(mut shown) = show(SAMPLE) else {
        return;
    };
    let browser = &mut shown.browser;
    browser.click(".filter input[value=blocked]");
    assert_eq!(
        browser.eval(ROWS),
        json!(["github.com", "updates.tool.example"])
    );
    // One stop of the tab key behind the search, and the arrows from there.
    browser.click(".targets input[type=search]");
    browser.press("Tab");
    browser.press("ArrowRight");
    assert_eq!(browser.eval(ROWS), json!(["203.0.113.7:443/tcp"]));
    browser.press("ArrowLeft");
    browser.press("ArrowLeft");
    assert_eq!(browser.eval(COUNT), "6 of 6");
    check_quiet(&shown);
}

#[test]
fn targets_are_sorted_by_clicks_and_by_keys() {
    let Some(mut shown) = show(SAMPLE) else {
        return;
    };
    let browser = &mut shown.browser;
    let first = format!("{ROWS}[0]");
    let sorted = "[...document.querySelectorAll('.targets thead th[aria-sort]')]\
        .map(head => [head.textContent, head.ariaSort])";
    assert_eq!(browser.eval(sorted), json!([]));
    browser.click(".targets th:nth-child(1) button");
    assert_eq!(browser.eval(sorted), json!([["Name", "ascending"]]));
    assert_eq!(browser.eval(&first), "/run/docker.sock");
    browser.press("Enter");
    assert_eq!(browser.eval(sorted), json!([["Name", "descending"]]));
    assert_eq!(browser.eval(&first), "updates.tool.example");
    for _ in ["Verdict", "Lookups", "Contacts"] {
        browser.press("Tab");
    }
    browser.press(" ");
    assert_eq!(browser.eval(sorted), json!([["Contacts", "descending"]]));
    assert_eq!(browser.eval(&first), "203.0.113.7:443/tcp");
    // By what the numbers mean, not by how they are written: 412 ms, 900 ms, 1.2 s.
    browser.press("Tab");
    browser.press("Tab");
    browser.press("Enter");
    assert_eq!(browser.eval(sorted), json!([["First after", "ascending"]]));
    assert_eq!(browser.eval(&first), "artifacts.example");
    browser.click(".targets th:nth-child(2) button");
    assert_eq!(browser.eval(&first), "github.com");
    check_quiet(&shown);
}

#[test]
fn the_tree_opens_and_closes_by_keys() {
    let Some(mut shown) = show(SAMPLE) else {
        return;
    };
    let browser = &mut shown.browser;
    let visible = "[...document.querySelectorAll('.tree summary, .tree .leaf')]\
        .filter(process => process.checkVisibility()).length";
    let focused = "document.activeElement.querySelector('code').textContent";
    assert_eq!(browser.eval(visible), 7);
    browser.eval("document.querySelector('.tree summary').focus()");
    browser.press("ArrowDown");
    assert_eq!(browser.eval(focused), "make release");
    browser.press("Enter");
    assert_eq!(browser.eval(visible), 6);
    browser.press("ArrowRight");
    assert_eq!(browser.eval(visible), 7);
    browser.press("ArrowLeft");
    assert_eq!(browser.eval(visible), 6);
    browser.press("ArrowLeft");
    assert_eq!(browser.eval(focused), "./deploy.sh --fast");
    browser.press(" ");
    assert_eq!(browser.eval(visible), 1);
    browser.click(".processes button[data-open=true]");
    assert_eq!(browser.eval(visible), 7);
    browser.click(".processes button[data-open=false]");
    assert_eq!(browser.eval(visible), 1);
    check_quiet(&shown);
}

#[test]
fn the_timeline_is_read_by_pointing_and_by_keys() {
    let Some(mut shown) = show(SAMPLE) else {
        return;
    };
    let browser = &mut shown.browser;
    let readout = "document.querySelector('.readout').textContent";
    browser.point_at(".mark.blocked");
    assert_eq!(
        browser.eval(readout),
        "+900 ms: lookup github.com blocked, by git fetch origin"
    );
    // The chart is one stop of the tab key.
    let stops = "document.querySelectorAll('.mark[tabindex=\"0\"]').length";
    assert_eq!(browser.eval(stops), 1);
    browser.eval("document.querySelector('.mark[tabindex=\"0\"]').focus()");
    browser.press("ArrowDown");
    assert_eq!(
        browser.eval(readout),
        "+1.2 s: lookup updates.tool.example blocked, by tool update"
    );
    for _ in 0..4 {
        browser.press("ArrowDown");
    }
    browser.press("End");
    assert_eq!(
        browser.eval(readout),
        "+32.1 s: no answer slow.example allowed after 30.0 s, \
         by curl -sSf https://artifacts.example/app.tar.gz"
    );
    assert_eq!(browser.eval(stops), 1);
    check_quiet(&shown);
}

/// The sample with such texts in place of some that the child, its host or the policy chose.
fn hostile() -> (String, Vec<&'static str>) {
    let texts = [
        ("db1", "</title><script>alert(1)</script>"),
        ("team-git", "\"><img src=x onerror=alert(2)>"),
        ("we deploy it", "</style></script><script>alert(3)</script>"),
        ("/run/docker.sock", "/run/\" onmouseover=\"alert(4)\" x=\""),
        ("./deploy.sh", "--></code></h1><svg onload=alert(5)>"),
        ("/srv/app", "/'><a href=javascript:alert(6)>{{ 7 * 6 }}</a>"),
        (
            "policy.toml:7: updates.tool.example",
            "<base href=//evil.example>&lt;&#60;",
        ),
    ];
    let mut log = SAMPLE.to_owned();
    for (from, to) in texts {
        let [from, to] = [from, to].map(|text| json!(text).to_string());
        assert!(log.contains(&from), "{from}");
        log = log.replace(&from, &to);
    }
    (log, texts.map(|(_, text)| text).to_vec())
}

#[test]
fn names_that_look_like_markup_are_text() {
    let (log, texts) = hostile();
    let Some(mut shown) = show(&log) else { return };
    let browser = &mut shown.browser;
    for selector in [
        "h1",
        ".finding",
        ".mark",
        ".tree summary",
        ".targets tbody tr",
    ] {
        browser.point_at(selector);
        browser.click(selector);
    }
    let text = browser.eval("document.body.textContent");
    let title = browser.eval("document.title");
    for wanted in texts {
        let is_there = text.as_str().unwrap().contains(wanted);
        assert!(is_there, "no {wanted:?} in\n{text}");
    }
    assert!(
        title.as_str().unwrap().contains("<svg onload=alert(5)>"),
        "{title}"
    );
    let strangers = "[...document.querySelectorAll('*')].filter(element => \
        element.matches('img, base, iframe, body script:not(:last-child), a[href^=java]') || \
        [...element.attributes].some(attribute => attribute.name.startsWith('on')))\
        .map(element => element.outerHTML)";
    assert_eq!(browser.eval(strangers), json!([]));
    assert_eq!(browser.eval("document.scripts.length"), 1);
    check_quiet(&shown);
}

#[test]
fn what_would_get_out_of_its_element_does_not_run() {
    let Some(mut shown) = show(SAMPLE) else {
        return;
    };
    check_quiet(&shown);
    let browser = &mut shown.browser;
    for (markup, is_dead) in [
        ("<img src=data:, onerror='window.ran = 1'>", "!window.ran"),
        (
            "<p id=styled style='position: fixed'></p>",
            "getComputedStyle(document.querySelector('#styled')).position === 'static'",
        ),
        (
            "<img id=far src=https://192.0.2.1/x.png>",
            "!document.querySelector('#far').naturalWidth",
        ),
    ] {
        let before = browser.complaints().len();
        browser.eval(&format!(
            "document.body.insertAdjacentHTML('beforeend', `{markup}`)"
        ));
        browser.eval("new Promise(done => setTimeout(done, 200))");
        assert_eq!(browser.eval(is_dead), true, "{markup}");
        // The checks of the other tests would see it.
        let complaints = browser.complaints();
        assert!(complaints.len() > before, "{markup}: {complaints:#?}");
    }
}

/// Every text that is shown, with how much it stands out from what is behind it (WCAG 2.2,
/// 1.4.3), if that is too little.
const FAINT: &str = r"
(() => {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = channels(color).map((c) =>
      c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { backgroundColor } = getComputedStyle(at);
      if (channels(backgroundColor)[3] !== 0) return backgroundColor;
    }
    return 'rgb(255, 255, 255)';
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [one, other] = [luminance(ink), luminance(behind(element))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) faint.push([texts.currentNode.data, contrast]);
  }
  return faint;
})()";

#[test]
fn it_is_readable_light_and_dark_wide_and_narrow() {
    let Some(mut shown) = show(&hostile().0) else {
        return;
    };
    let browser = &mut shown.browser;
    let mut pages = Vec::new();
    for scheme in ["light", "dark"] {
        for width in [320, 375, 768, 1280, 1920] {
            browser.look(scheme, width, 800);
            let wide = browser.eval("document.documentElement.scrollWidth");
            assert!(wide.as_u64() <= Some(width.into()), "{wide} at {width}");
            assert_eq!(browser.eval(FAINT), json!([]), "{scheme}, {width}");
        }
        pages.push(browser.eval("getComputedStyle(document.body).backgroundColor"));
    }
    assert_eq!(pages, ["rgb(255, 255, 255)", "rgb(15, 18, 22)"]);
    check_quiet(&shown);
}

#[test]
fn without_its_script_it_is_all_there() {
    let Some(mut shown) = show(SAMPLE) else {
        return;
    };
    let page = shown.page.clone();
    let browser = &mut shown.browser;
    let without = json!({"value": true});
    browser.call("Emulation.setScriptExecutionDisabled", without);
    browser.open(&page);
    let seen = browser.eval("document.body.innerText");
    let seen = seen.as_str().unwrap();
    for text in [
        "Not clean.",
        "The command then failed.",
        "git fetch origin",
        "10.4 MB",
    ] {
        assert!(seen.contains(text), "no {text:?} in\n{seen}");
    }
    // What would do nothing is not shown.
    for absent in ["Expand all", "6 of 6", "arrow keys"] {
        assert!(!seen.contains(absent), "{absent:?} in\n{seen}");
    }
    browser.click(".tree summary");
    let open = browser.eval("document.querySelector('.tree details').open");
    assert_eq!(open, false);
    check_quiet(&shown);
}

#[test]
fn a_screen_reader_finds_its_way() {
    let Some(mut shown) = show(SAMPLE) else {
        return;
    };
    let browser = &mut shown.browser;
    let tree = browser.call("Accessibility.getFullAXTree", json!({}));
    let nodes: Vec<(&str, &str)> = tree["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|node| node["ignored"] == false)
        .map(|node| {
            let text = |of: &str| node[of]["value"].as_str().unwrap_or_default();
            (text("role"), text("name"))
        })
        .collect();
    for wanted in [
        ("main", ""),
        ("article", "./deploy.sh --fast"),
        ("heading", "./deploy.sh --fast"),
        ("region", "What to look at"),
        ("region", "Timeline"),
        ("region", "Processes"),
        ("region", "Everything contacted"),
        ("search", ""),
        ("searchbox", "Search names and commands"),
        ("group", "Verdict"),
        ("radio", "blocked 2"),
        ("table", "Everything contacted"),
        ("button", "Expand all"),
        ("status", ""),
    ] {
        assert!(nodes.contains(&wanted), "no {wanted:?} in {nodes:#?}");
    }
    let mute = |(role, name): &&(&str, &str)| {
        name.is_empty()
            && matches!(
                *role,
                "button" | "link" | "radio" | "searchbox" | "img" | "region" | "heading"
            )
    };
    assert_eq!(nodes.iter().find(mute), None);
}

#[test]
fn each_of_several_runs_has_its_own_table() {
    let other = SAMPLE.replace("5f3a9c0d1e2b4a67", "2");
    let Some(mut shown) = show(&format!("{SAMPLE}{other}")) else {
        return;
    };
    let browser = &mut shown.browser;
    browser.click(".overview a[href='#run-2']");
    assert_eq!(browser.eval("location.hash"), "#run-2");
    browser.click("#run-2 .filter input[value=allowed]");
    let counts = "[...document.querySelectorAll('output')].map(count => count.value)";
    assert_eq!(browser.eval(counts), json!(["6 of 6", "2 of 6"]));
    browser.look("light", 375, 800);
    let wide = browser.eval("document.documentElement.scrollWidth");
    assert!(wide.as_u64() <= Some(375), "{wide}");
    check_quiet(&shown);
}

#[test]
fn on_paper_everything_is_open() {
    let Some(mut shown) = show(SAMPLE) else {
        return;
    };
    let browser = &mut shown.browser;
    let closed = "document.querySelectorAll('details:not([open])').length";
    browser.click(".processes button[data-open=false]");
    let before = browser.eval(closed);
    assert!(before.as_u64() > Some(1), "{before}");
    browser.eval("dispatchEvent(new Event('beforeprint'))");
    assert_eq!(browser.eval(closed), 0);
    browser.eval("dispatchEvent(new Event('afterprint'))");
    assert_eq!(browser.eval(closed), before);
    let paper = browser.call("Page.printToPDF", json!({}));
    assert!(paper["data"].as_str().unwrap().len() > 10_000);
    check_quiet(&shown);
}

/// The picture in the README is of a run that most people have had. This test takes it again
/// with CGFW_WRITE_PICTURE=1.
#[test]
fn the_picture_in_the_readme_can_be_shown() {
    if std::env::var_os("CGFW_WRITE_PICTURE").is_some() {
        let texts = [
            (
                r#""<script>alert(1)</script>", "\u001b]0;pwned\u0007", "a|b`c`""#,
                r#""./migrate", "--all""#,
            ),
            (r"x\u001b[2J", "migrate"),
            ("T00:00:32.", "T00:00:06."),
            (r#""waited_us": 30000000"#, r#""waited_us": 4000000"#),
            (r#""elapsed_us": 32500000"#, r#""elapsed_us": 6500000"#),
            (r#""lived_us": 31800000"#, r#""lived_us": 5800000"#),
            (r#""lived_us": 32490000"#, r#""lived_us": 6490000"#),
        ];
        let mut log: Vec<&str> = SAMPLE.lines().collect();
        log.retain(|line| {
            !["\"moved\"", "\"loss\""]
                .iter()
                .any(|event| line.contains(event))
        });
        let mut log = log.join("\n").replace("\"lost\": 2", "\"lost\": 0");
        for (from, to) in texts {
            assert!(log.contains(from), "{from}");
            log = log.replace(from, to);
        }
        let Some(mut shown) = show(&log) else { return };
        shown.browser.look("light", 1120, 1300);
        fs::write(PICTURE, shown.browser.picture()).unwrap();
    }
    let picture = fs::metadata(PICTURE).unwrap();
    assert!(picture.len() <= MAX_PICTURE, "{} octets", picture.len());
}
