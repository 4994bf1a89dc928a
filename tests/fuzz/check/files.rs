//! Any octets as a list, and as a policy file.

use std::sync::Arc;

use cgfw::policy::{
    Action, Domain, Entry, ListParser, Mistake, Pattern, Place, PolicyFile, Rule, Source,
};

/// Judge an input: `+` for a list that allows, `-` for one that blocks, anything else for a
/// policy file that begins there.
pub fn files(input: &[u8]) {
    match input.split_first() {
        Some((b'+', list)) => read_list(list, Action::Allow),
        Some((b'-', list)) => read_list(list, Action::Block),
        _ => read_policy(input),
    }
}

fn read_list(list: &[u8], action: Action) {
    let mut parser = ListParser::new(Arc::new(Place::default()), action);
    for (line, text) in (1..).zip(list.split(|octet| *octet == b'\n')) {
        let mut said = 0;
        let read = parser.line(text, |entry| {
            said += 1;
            check_entry(entry, line, action, text);
            Ok::<(), Mistake>(())
        });
        assert_eq!(parser.lines(), line);
        let is_left_out = parser
            .left_out()
            .is_some_and(|left_out| left_out.line == line);
        match read {
            // Nothing but blanks and comments is nothing.
            Ok(()) if said == 0 && !is_left_out && parser.left_out().is_none() => {
                assert!(is_nothing(text), "{:?}", text.escape_ascii().to_string());
            }
            Ok(()) => {}
            Err(mistake) => {
                check_mistake(&mistake, line);
                return;
            }
        }
    }
}

/// Whether a line may say nothing, and need not be counted.
fn is_nothing(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = text.trim_ascii();
    let begins_as_comment = matches!(text.first(), None | Some(b'#' | b'!' | b'['));
    // Names of the machine itself, and none at all, behind an address.
    let address = |octet: &u8| octet.is_ascii_hexdigit() || matches!(octet, b'.' | b':');
    begins_as_comment || text.first().is_some_and(address)
}

/// Whatever a list says, a pattern says too.
fn check_entry(entry: Entry<'_>, at: u32, of_list: Action, text: &[u8]) {
    let text = text.escape_ascii();
    let (rule, line) = match entry {
        Entry::Name {
            wire,
            scope,
            action,
            line,
        } => {
            let pattern = Pattern::Domain {
                name: Domain::from_labels(labels(wire)).expect("the labels are those of a name"),
                scope,
            };
            let Pattern::Domain { name, .. } = &pattern else {
                unreachable!()
            };
            assert_eq!(name.as_wire(), wire, "{text}");
            (
                Rule::parse(&pattern.to_string(), action, Source::default()),
                line,
            )
        }
        Entry::Rule(rule) => (
            Rule::parse(&rule.to_string(), rule.action, Source::default()),
            rule.source.line,
        ),
    };
    assert_eq!(line, at, "{text}");
    let rule = rule.unwrap_or_else(|error| panic!("{text}: {error}"));
    let is_exception = rule.action != of_list;
    assert!(
        !is_exception || text.to_string().contains(['@', '#']),
        "{text}"
    );
}

fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first()?;
        let (label, tail) = tail.split_at_checked(usize::from(*length))?;
        rest = tail;
        Some(label)
    })
}

fn read_policy(content: &[u8]) {
    match PolicyFile::parse("", content) {
        Ok(file) => {
            let lines = content.split(|octet| *octet == b'\n').count();
            let rules = file.rules.iter().map(|rule| rule.source.line);
            let lists = file.lists.iter().map(|list| list.line);
            for line in rules.chain(lists) {
                assert!((1..=lines).contains(&(line as usize)), "{line}");
            }
            for rule in &file.rules {
                let again = Rule::parse(&rule.to_string(), rule.action, rule.source.clone());
                assert_eq!(again.as_ref(), Ok(rule));
            }
        }
        Err(mistake) => {
            let lines = content.split(|octet| *octet == b'\n').count();
            let shown = mistake.to_string();
            let line = shown.split(':').nth(1).and_then(|line| line.parse().ok());
            assert!(
                line.is_some_and(|line: usize| (1..=lines).contains(&line)),
                "{shown}"
            );
            check_mistake(
                &mistake,
                u32::try_from(line.unwrap_or(0)).expect("few lines"),
            );
        }
    }
}

/// The place and the line are shown, and nothing that a terminal acts on.
fn check_mistake(mistake: &Mistake, line: u32) {
    let shown = mistake.to_string();
    assert!(shown.starts_with(&format!(":{line}:")), "{shown}");
    assert!(shown.contains('^'), "{shown}");
    assert!(
        shown.chars().all(|c| c == '\n' || !c.is_control()),
        "{shown:?}"
    );
}
