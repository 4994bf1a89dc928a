//! A run in which everything happens that a report can tell of.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write as _};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::audit::Line;
use crate::digest::Digest;
use crate::escape::Plain;

/// Its log.
pub(super) const SAMPLE: &str = include_str!("sample.jsonl");

/// What the lines of a log add up to.
pub(super) fn digest(log: &str) -> Digest {
    let mut digest = Digest::default();
    for line in log.lines() {
        let line: Line = serde_json::from_str(line).expect(line);
        digest.add(&line);
    }
    digest
}

/// The same log of a child that calls itself, what it runs and whom it contacts so; who wrote
/// the policy and the host do no better.
pub(super) fn hostile(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap();
    let lines = SAMPLE.lines().map(|line| {
        let mut line = line.to_owned();
        for original in [
            "./deploy.sh",
            "git",
            "tool update || true",
            "/srv/app",
            "/srv/app/deploy.sh",
            "/run/docker.sock",
            "/usr/bin/dockerd",
            "dockerd",
            "db1",
            "team-git",
            "we deploy it",
            "--block github.com",
            "policy.toml:7: updates.tool.example",
            "http_proxy is set: names behind it cannot be seen",
        ] {
            line = line.replace(&format!("\"{original}\""), &quoted);
        }
        line
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What is meant to break out of tables, code, elements, quotes and graphs.
pub(super) const HOSTILE: &[&str] = &[
    "a|b||c\\|d",
    "`code` ``` ~~~",
    "line\nbreak\r\n\n# heading\n- list",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</code></details></td></table>",
    "<!-- comment",
    "]]> ]] ]) )) }} >",
    "\"quoted\" 'single' \\\"",
    "%% comment %%{init: {}}%%",
    "end subgraph graph flowchart click style classDef",
    "click c0 href \"javascript:alert(1)\"",
    "\"]; c9[\"x",
    "[link](https://evil.example) ![i](https://evil.example/i.png)",
    "https://evil.example www.evil.example user@evil.example @everyone #1 :tada:",
    "**bold** _it_ ~~no~~ *x*",
    "&lt;script&gt; &#60; #lt; #35;quot;",
    "::error title=x::y ##[error]z %0A::stop-commands::x",
    "\u{1b}[31m\u{202e}\u{feff}\u{0}",
    "---",
    "",
];

#[test]
fn the_sample_is_read_back_as_it_was_written() {
    for text in SAMPLE.lines() {
        let line: Line = serde_json::from_str(text).expect(text);
        let written: serde_json::Value = serde_json::to_value(&line).unwrap();
        let expected: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(written, expected);
    }
}

#[test]
fn the_text_tells_of_everything() {
    let text = render(Format::Text, digest(SAMPLE).runs(), Style::default());
    let expected = include_str!("sample.txt");
    assert!(text == expected, "found:\n{text}\nexpected:\n{expected}");
}

#[test]
fn the_text_has_a_summary_for_each_run() {
    let twice = format!("{SAMPLE}{}", SAMPLE.replace("5f3a9c0d1e2b4a67", "2"));
    let text = render(Format::Text, digest(&twice).runs(), Style::default());
    assert_eq!(
        text.matches("cgfw: ./deploy.sh --fast exited with status 1")
            .count(),
        2
    );
    assert!(!text.contains('\u{1b}'), "{text}");
}

/// What a program makes of `input`, if it is installed; an error is what it complains of.
fn tool(package: &str, argv: &[&str], input: &str) -> Option<Result<String, String>> {
    let mut child = match Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("SKIP {} is not installed ({package})", argv[0]);
            return None;
        }
        child => child.unwrap(),
    };
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()).unwrap());
        child.wait_with_output().unwrap()
    });
    let text = |octets| String::from_utf8(octets).unwrap();
    Some(if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    })
}

/// The sample, and what it becomes with hostile names.
fn logs() -> impl Iterator<Item = String> {
    let hostile = HOSTILE.iter().map(|text| hostile(text));
    [SAMPLE.to_owned()].into_iter().chain(hostile)
}

#[test]
fn junit_is_what_jenkins_takes() {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/schemas/junit-10.xsd");
    let argv = ["xmllint", "--noout", "--nonet", "--schema", schema, "-"];
    for log in logs() {
        let text = junit(digest(&log).runs());
        let Some(result) = tool("libxml2-utils", &argv, &text) else {
            return;
        };
        result.unwrap_or_else(|error| panic!("{error}\n{text}"));
        let is_visible = |c| c == '\n' || crate::escape::is_visible(c);
        assert!(text.chars().all(is_visible), "{text}");
        let [failures, errors, skipped] =
            ["failure", "error", "skipped"].map(|tag| text.matches(&format!("<{tag} ")).count());
        assert_eq!((failures, errors, skipped), (2, 1, 0), "{text}");
        let tests = format!("tests=\"{}\"", text.matches("<testcase ").count());
        assert!(text.contains(&tests), "{text}");
        let broken = text.replace("<testcase ", "<case ");
        tool("libxml2-utils", &argv, &broken).unwrap().unwrap_err();
    }
}

#[test]
fn in_junit_what_would_be_blocked_is_skipped() {
    let log = SAMPLE.replace("\"blocked\"", "\"would_block\"");
    let text = junit(digest(&log).runs());
    assert_eq!(
        text.matches("<skipped type=\"would_block\"").count(),
        2,
        "{text}"
    );
    assert!(
        text.contains(" failures=\"0\" errors=\"1\" skipped=\"2\""),
        "{text}"
    );
}

/// The HTML that GitHub's own parser makes of Markdown.
fn html_of(markdown: &str) -> Option<String> {
    let extensions = [
        "table",
        "autolink",
        "strikethrough",
        "tasklist",
        "footnotes",
    ];
    let extensions = extensions.iter().flat_map(|extension| ["-e", extension]);
    let argv: Vec<_> = ["cmark-gfm", "--unsafe"]
        .into_iter()
        .chain(extensions)
        .collect();
    Some(tool("cmark-gfm", &argv, markdown)?.unwrap())
}

/// The elements of some HTML, and its text.
fn taken_apart(html: &str) -> (Vec<&str>, String) {
    let mut parts = html.split('<');
    let mut text = parts.next().unwrap_or_default().to_owned();
    let mut elements = Vec::new();
    for part in parts {
        let (element, rest) = part.split_once('>').unwrap();
        // Set between the parts of what could be taken for an address.
        if element != "wbr" {
            elements.push(element);
        }
        text.push_str(rest);
    }
    for (reference, c) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&amp;", "&"),
    ] {
        text = text.replace(reference, c);
    }
    (elements, text)
}

/// Whoever the child is, the document has the elements that it has for harmless names, and shows
/// the names as they are.
#[track_caller]
fn check_markdown(text: &str) {
    let page = |text: &str| html_of(&markdown(digest(&hostile(text)).runs()));
    let (Some(harmless), Some(found)) = (page("x"), page(text)) else {
        return;
    };
    let (elements, shown) = taken_apart(&found);
    assert_eq!(elements, taken_apart(&harmless).0, "{text:?}: {found}");
    let plain = Plain(text.as_bytes()).to_string();
    let plain: String = plain.chars().take(100).collect();
    assert!(shown.contains(&plain), "{plain:?} is not in {shown}");
}

#[test]
fn nothing_in_markdown_is_taken_for_markup() {
    for text in HOSTILE {
        check_markdown(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_text_in_markdown_is_taken_for_markup(
        text in "[-|`<>&#;:@/!*_~\\[\\](){}\"'\\\\%= .wxW1\n\u{e9}]{0,40}|.{0,40}"
    ) {
        check_markdown(&text);
    }
}

#[test]
fn markdown_is_cut_to_the_room_there_is_and_says_so() {
    let blocked = SAMPLE.lines().nth(3).unwrap();
    let log: String = (0..300)
        .map(|n| blocked.replace("\"github.com\"", &format!("\"h{n}.example\"")) + "\n")
        .collect();
    let digest = digest(&log);
    let whole = markdown(digest.runs());
    assert_eq!(
        markdown_within(digest.runs(), whole.len()),
        Some(whole.clone())
    );
    assert!(!whole.contains(" more (the audit log"), "{whole}");
    assert!(
        whole.contains(" more contacts have no place in the graph"),
        "{whole}"
    );
    let shorter = markdown_within(digest.runs(), whole.len() - 1).unwrap();
    assert!(
        shorter.contains("\nand 200 more (the audit log has them all)\n"),
        "{shorter}"
    );
    assert!(shorter.ends_with("\n</details>\n"), "{shorter}");
    assert_eq!(markdown_within(digest.runs(), 100), None);
}

#[test]
fn graphs_are_what_mermaid_takes() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/mermaid");
    let modules = format!("{directory}/node_modules");
    if !std::path::Path::new(&modules).exists() {
        println!("SKIP {modules} is not there (npm ci)");
        return;
    }
    let graph = |log: &str| {
        let text = markdown(digest(log).runs());
        let (_, graph) = text.split_once("```mermaid\n").unwrap();
        graph.split_once("```").unwrap().0.to_owned()
    };
    let harmless = graph(&hostile("x"));
    let hostile_ones = HOSTILE.iter().map(|text| graph(&hostile(text)));
    let graphs: Vec<_> = [graph(SAMPLE), harmless]
        .into_iter()
        .chain(hostile_ones)
        .collect();
    let script = format!("{directory}/check.mjs");
    let read = |graphs: &[String]| {
        let input = serde_json::to_string(graphs).unwrap();
        tool("nodejs", &["node", &script], &input)
    };
    let Some(charts) = read(&graphs) else { return };
    let charts: Vec<serde_json::Value> = serde_json::from_str(&charts.unwrap()).unwrap();
    let labels = |chart: &serde_json::Value| -> BTreeSet<String> {
        let nodes = chart["nodes"].as_array().unwrap().iter();
        nodes
            .map(|node| node[1].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(
        labels(&charts[0]).contains("sh -c 'tool update || true'"),
        "{}",
        charts[0]
    );
    let blocked = serde_json::json!(["c2", "t0", "arrow_cross", "blocked"]);
    assert!(
        charts[0]["edges"].as_array().unwrap().contains(&blocked),
        "{}",
        charts[0]
    );
    let nodes = |chart: &serde_json::Value| chart["nodes"].as_array().unwrap().len();
    for (chart, text) in charts[2..].iter().zip(HOSTILE) {
        assert_eq!(chart["edges"], charts[1]["edges"], "{text:?}");
        assert_eq!(nodes(chart), nodes(&charts[1]), "{text:?}");
        assert_eq!(chart["clicks"], 0, "{text:?}");
        // The socket's name is the text, cut.
        let plain = Plain(text.as_bytes()).to_string();
        let plain: String = plain.chars().take(59).collect();
        let shown = labels(chart);
        assert!(
            shown.iter().any(|label| label.starts_with(plain.trim())),
            "{plain:?}: {shown:?}"
        );
    }
    read(&["flowchart LR\n  c0[\"a\"b\"]\n".to_owned()])
        .unwrap()
        .unwrap_err();
}
