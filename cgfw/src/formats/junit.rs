//! Dependencies as CI services show tests: JUnit XML, as Jenkins' schema (junit-10.xsd) has
//! it.
//!
//! A run is a suite, and a target a test that fails if it was blocked. One that would have been
//! blocked is skipped, because who asks for `--audit` asks for nothing to fail. One more test is
//! that the report is complete, which is in error where it is not.

use std::io;
use std::time::Duration;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::Losses;
use super::finding::{Class, Finding, findings};
use super::text::{Sections, gaps, heading};
use crate::audit::rfc3339;
use crate::digest::Run;
use crate::escape::Plain;

/// What the tests belong to.
const CLASS: &str = "cgfw";
/// The test that is about the report itself.
const COMPLETENESS: &str = "the report is complete";

type Xml = Writer<Vec<u8>>;

/// The document on some runs.
pub fn junit(runs: &[Run]) -> String {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    let written = document(&mut xml, runs);
    // Nothing is written but to memory.
    debug_assert!(written.is_ok(), "{written:?}");
    let mut text = String::from_utf8_lossy(&xml.into_inner()).into_owned();
    text.push('\n');
    text
}

fn document(xml: &mut Xml, runs: &[Run]) -> io::Result<()> {
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    xml.create_element("testsuites")
        .with_attribute(("name", CLASS))
        .write_inner_content(|xml| runs.iter().try_for_each(|run| suite(xml, run)))?;
    Ok(())
}

fn suite(xml: &mut Xml, run: &Run) -> io::Result<()> {
    let sections = Sections::of(run);
    let findings = findings(run, &sections);
    let gaps = gaps(run, Losses::of(run));
    let of = |class| {
        findings
            .iter()
            .filter(|finding| finding.class == class)
            .count()
    };
    let elapsed = run
        .end
        .as_ref()
        .map(|end| Duration::from_micros(end.elapsed_us));
    let id = Plain(run.id.as_bytes()).to_string();
    let mut suite = xml
        .create_element("testsuite")
        .with_attribute(("name", &*heading(run)))
        .with_attribute(("id", &*id))
        .with_attribute(("tests", &*(findings.len() + 1).to_string()))
        .with_attribute(("failures", &*of(Class::Blocked).to_string()))
        .with_attribute(("errors", if gaps.is_empty() { "0" } else { "1" }))
        .with_attribute(("skipped", &*of(Class::WouldBlock).to_string()));
    if let Some(start) = &run.start {
        let host = Plain(start.host.as_bytes()).to_string();
        suite = suite.with_attribute(("hostname", &*host));
    }
    if let Some(began) = run.began {
        suite = suite.with_attribute(("timestamp", &*rfc3339(began).to_string()));
    }
    if let Some(elapsed) = elapsed {
        suite = suite.with_attribute(("time", &*seconds(elapsed)));
    }
    suite.write_inner_content(|xml| {
        findings.iter().try_for_each(|finding| case(xml, finding))?;
        completeness(xml, &gaps)
    })?;
    Ok(())
}

/// A target.
fn case(xml: &mut Xml, finding: &Finding<'_>) -> io::Result<()> {
    let case = xml
        .create_element("testcase")
        .with_attribute(("classname", CLASS))
        .with_attribute(("name", finding.name))
        .with_attribute(("time", &*seconds(finding.total.waited)));
    let lines = finding.lines();
    let text = lines[1..].join("\n");
    match finding.class {
        Class::Blocked => case.write_inner_content(|xml| {
            outcome(xml, "failure", "blocked", &lines.join("; "), &text)
        }),
        Class::WouldBlock => case.write_inner_content(|xml| {
            outcome(xml, "skipped", "would_block", &lines.join("; "), &text)
        }),
        Class::Delegated | Class::Unjudged => case.write_inner_content(|xml| {
            xml.create_element("system-out")
                .write_text_content(BytesText::new(&lines.join("\n")))?;
            Ok(())
        }),
        Class::Allowed => case.write_empty(),
    }?;
    Ok(())
}

fn completeness(xml: &mut Xml, gaps: &[String]) -> io::Result<()> {
    let case = xml
        .create_element("testcase")
        .with_attribute(("classname", CLASS))
        .with_attribute(("name", COMPLETENESS))
        .with_attribute(("time", &*seconds(Duration::ZERO)));
    if gaps.is_empty() {
        case.write_empty()?;
    } else {
        case.write_inner_content(|xml| {
            outcome(
                xml,
                "error",
                "incomplete",
                &gaps.join(", "),
                &gaps.join("\n"),
            )
        })?;
    }
    Ok(())
}

fn outcome(xml: &mut Xml, tag: &str, kind: &str, message: &str, text: &str) -> io::Result<()> {
    xml.create_element(tag)
        .with_attribute(("type", kind))
        .with_attribute(("message", message))
        .write_text_content(BytesText::new(text))?;
    Ok(())
}

/// `32.500`
fn seconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis())
}
