/*!
Block and allow lists as they are published, line by line.

A line is one of

- a pattern of ours, `github.com`, with `#` behind it or before it for a comment;
- of a hosts file: an address, whichever, and names, each of which is meant exactly;
- of dnsmasq: `address=/NAME/…`, `server=/NAME/…`, `local=/NAME/`, each name with all below it;
- of an Adblock list: `||NAME^`, with all below it, and `@@||NAME^`, the exception.

Adblock lists also hold what is not about whole hosts: parts of pages, paths, requests of some
kind only. Such lines are left out and counted, [`ListParser::left_out`], and so are addresses
where a hosts file has names. Everything else that is not understood is a [`Mistake`].

Most lines are host names of ASCII letters, which go straight to wire labels: [`plain`].
*/

use std::net::IpAddr;
use std::sync::Arc;

use super::mistake::{Mistake, shorten};
use super::rule::is_numeric;
use super::{Action, DomainError, ParseRuleError, Pattern, Place, Rule, Scope, Source};

/// The longest line, in octets: those of Adblock lists name hundreds of pages.
pub const MAX_LINE: usize = 1 << 16;

/// RFC 1035 section 2.3.4, in octets; a name without its root label.
const MAX_WIRE: usize = 254;
const MAX_LABEL: usize = 63;

/// How much of a line that is left out is kept, in characters.
const MAX_SHOWN: usize = 80;

/// What Adblock rules may have behind `$` and still be about all there is of a host, as far as
/// a resolver can tell.
const HARMLESS: [&str; 5] = ["all", "doc", "document", "important", "match-case"];

/// The names that every machine has and every hosts file begins with, as wire labels; and all
/// that begin with `ip6-`.
const LOCAL: [&[u8]; 8] = [
    b"\x05local",
    b"\x09localhost",
    b"\x09localhost\x0blocaldomain",
    b"\x0alocalhost4",
    b"\x0alocalhost4\x0clocaldomain4",
    b"\x0alocalhost6",
    b"\x0alocalhost6\x0clocaldomain6",
    b"\x0dbroadcasthost",
];

/// Reads a list, one line after the other.
#[derive(Debug)]
pub struct ListParser {
    place: Arc<Place>,
    /// What the list is for.
    action: Action,
    /// The last line that was read, from 1.
    line: u32,
    /// Whether there was a line that only Adblock lists have.
    is_adblock: bool,
    left_out: Option<LeftOut>,
    wire: [u8; MAX_WIRE],
}

/// What a line of a list says. One line may say several things.
#[derive(Debug)]
pub enum Entry<'a> {
    /// Of a name, on all its ports. Most entries are of this kind, and own nothing.
    Name {
        /// As [`super::Domain::as_wire`].
        wire: &'a [u8],
        scope: Scope,
        /// That of the list; of an exception the other one.
        action: Action,
        /// From 1.
        line: u32,
    },
    /// Whatever else a rule can be about: networks, ports, sockets.
    Rule(Rule),
}

/// Lines that say nothing about whole hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub count: u32,
    /// Where the first is, from 1.
    pub line: u32,
    /// What it says, shortened and fit for a terminal.
    pub text: String,
}

/// What ends the reading of a line before its end.
enum Stop<'t, E> {
    /// A part of the line is not understood.
    Wrong { text: &'t [u8], reason: String },
    /// Whoever receives the entries wants no more.
    Receiver(E),
}

impl<'t, E> Stop<'t, E> {
    fn wrong(text: &'t (impl AsRef<[u8]> + ?Sized), reason: impl ToString) -> Self {
        Self::Wrong {
            text: text.as_ref(),
            reason: reason.to_string(),
        }
    }
}

impl ListParser {
    /// Read the list `place`, which is for `action`.
    pub fn new(place: Arc<Place>, action: Action) -> Self {
        Self {
            place,
            action,
            line: 0,
            is_adblock: false,
            left_out: None,
            wire: [0; MAX_WIRE],
        }
    }

    /// Read the next line, with or without what ends it, and hand what it says to `receive`,
    /// whose errors are passed on.
    pub fn line<E: From<Mistake>>(
        &mut self,
        line: &[u8],
        mut receive: impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.line = self.line.saturating_add(1);
        let line = line.trim_ascii_end();
        if let Some(entry) = self.frequent(line) {
            return receive(entry);
        }
        match self.any(line, &mut receive) {
            Ok(()) => Ok(()),
            Err(Stop::Receiver(error)) => Err(error),
            Err(Stop::Wrong { text, reason }) => {
                let start = text.as_ptr().addr().saturating_sub(line.as_ptr().addr());
                let wrong = start..start + text.len();
                Err(Mistake::new(&self.place.name, self.line, line, wrong, reason).into())
            }
        }
    }

    /// How many lines were read.
    pub fn lines(&self) -> u32 {
        self.line
    }

    /// What was left out so far, if anything.
    pub fn left_out(&self) -> Option<&LeftOut> {
        self.left_out.as_ref()
    }

    /// What nearly all lines of long lists look like, without a second look at any octet.
    fn frequent(&mut self, line: &[u8]) -> Option<Entry<'_>> {
        let (name, scope) = frequent_name(line);
        if self.is_adblock && name.len() == line.len() && !name.contains(&b'.') {
            return None;
        }
        let wire = plain(name, &mut self.wire)?;
        if scope == Scope::Exact && is_local(wire) {
            return None;
        }
        self.is_adblock |= line.starts_with(b"|");
        Some(Entry::Name {
            wire,
            scope,
            action: self.action,
            line: self.line,
        })
    }

    fn any<'t, E>(
        &mut self,
        line: &'t [u8],
        receive: &mut impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), Stop<'t, E>> {
        if line.len() > MAX_LINE {
            let reason = format!("a line of a list has at most {MAX_LINE} octets");
            return Err(Stop::wrong(&line[..1], reason));
        }
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(line) if self.line == 1 => line,
            _ => line,
        };
        let line = without_comment(line.trim_ascii());
        let text = printable(line)?;
        if text.is_empty() {
            return Ok(());
        }
        if text.starts_with('!') || is_header(text) {
            self.is_adblock = true;
            return Ok(());
        }
        if text.starts_with('#') && !(self.is_adblock && is_cosmetic(text)) {
            return Ok(());
        }
        self.is_adblock |= text.starts_with("||") || text.starts_with("@@");
        // Sockets may have any name, but are no directories.
        let is_socket = text.starts_with(['/', '@']) && !is_regex(text);
        if is_socket && self.action == Action::Allow && !self.is_adblock {
            return self.pattern(text, Scope::Subtree, self.action, receive);
        }
        if let Some(names) = names_of_hosts_line(text) {
            return self.hosts(text, names, receive);
        }
        let is_adblock = is_cosmetic(text) || is_regex(text);
        if self.is_adblock || is_adblock || text.starts_with('|') || text.ends_with('^') {
            return self.adblock(text, receive);
        }
        if let Some((key, rest)) = text.split_once("=/")
            && matches!(key, "address" | "server" | "local")
        {
            return self.dnsmasq(key, rest, receive);
        }
        if text.starts_with('<') {
            return Err(Stop::wrong(
                text,
                "this looks like a web page and not like a list",
            ));
        }
        if text.contains(|c: char| c.is_ascii_whitespace()) {
            let reason = "a line holds one pattern, or an address and names as in a hosts file";
            return Err(Stop::wrong(text, reason));
        }
        self.pattern(text, Scope::Subtree, self.action, receive)
    }

    /// `NAME...` behind an address, in a line `text`.
    fn hosts<'t, E>(
        &mut self,
        text: &str,
        names: &'t str,
        receive: &mut impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), Stop<'t, E>> {
        let names = names
            .split_once('#')
            .map_or(names, |(names, _comment)| names);
        for name in names.split_ascii_whitespace() {
            if plain(name.as_bytes(), &mut self.wire).is_some_and(is_local) {
                continue;
            }
            match name.parse::<IpAddr>() {
                // Some lists begin with `0.0.0.0 0.0.0.0`.
                Ok(address) if address.is_unspecified() => {}
                Ok(_no_name) => self.leave_out(text),
                Err(_name) => self.pattern(name, Scope::Exact, self.action, receive)?,
            }
        }
        Ok(())
    }

    /// What follows `address=/`: `NAME/…`, `NAME/NAME/…`.
    fn dnsmasq<'t, E>(
        &mut self,
        key: &str,
        rest: &'t str,
        receive: &mut impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), Stop<'t, E>> {
        let Some((names, target)) = rest.rsplit_once('/') else {
            let reason = format!("there is no slash behind the name; write {key}=/{rest}/");
            return Err(Stop::wrong(rest, reason));
        };
        // dnsmasq(8): "#" means "use the standard servers", as for names of no list.
        let action = match (key, target) {
            ("server", "#") => opposite(self.action),
            _ => self.action,
        };
        for name in names.split('/') {
            self.pattern(name, Scope::Subtree, action, receive)?;
        }
        Ok(())
    }

    /// `||NAME^`, `@@||NAME^`, `|NAME^` for just that name, and all that is left out.
    fn adblock<'t, E>(
        &mut self,
        text: &'t str,
        receive: &mut impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), Stop<'t, E>> {
        let (rest, action) = match text.strip_prefix("@@") {
            Some(rest) => (rest, opposite(self.action)),
            None => (text, self.action),
        };
        let (anchored, scope) = match rest.strip_prefix("||") {
            Some(rest) => match rest.strip_prefix("*.") {
                Some(below) => (Some(below), Scope::Below),
                None => (Some(rest), Scope::Subtree),
            },
            None => (rest.strip_prefix('|'), Scope::Exact),
        };
        if let Some(host) = anchored.and_then(whole_host) {
            return self.pattern(host, scope, action, receive);
        }
        // Lists for resolvers name hosts without anchors too. Elsewhere such a text is a part
        // of a URL, which hardly ever reads like a host with its domain.
        let is_host = |text: &str| {
            text.contains(['.', ':']) && !text.starts_with(['/', '@']) && anchored.is_none()
        };
        if action == self.action && is_host(text) {
            let source = self.source();
            if let Ok(rule) = Rule::parse(text, action, source) {
                return self.rule(rule, receive).map_err(Stop::Receiver);
            }
        }
        self.leave_out(text);
        Ok(())
    }

    /// A pattern of ours; of a name it is meant as `scope` says.
    fn pattern<'t, E>(
        &mut self,
        text: &'t str,
        scope: Scope,
        action: Action,
        receive: &mut impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), Stop<'t, E>> {
        let line = self.line;
        if let Some(wire) = plain(text.as_bytes(), &mut self.wire) {
            let name = Entry::Name {
                wire,
                scope,
                action,
                line,
            };
            return receive(name).map_err(Stop::Receiver);
        }
        let parsed = match scope {
            Scope::Subtree => Rule::parse(text, action, self.source()),
            Scope::Exact => Rule::parse(&format!("={text}"), action, self.source()),
            Scope::Below => Rule::parse(&format!("*.{text}"), action, self.source()),
        };
        match parsed {
            Ok(rule) => self.rule(rule, receive).map_err(Stop::Receiver),
            Err(ParseRuleError::Domain(DomainError::Idna)) => {
                // `xn--` and no Punycode: names that people do register, and programs ask for.
                let Some(wire) = ldh(text.as_bytes(), &mut self.wire) else {
                    return Err(Stop::wrong(text, DomainError::Idna));
                };
                let name = Entry::Name {
                    wire,
                    scope,
                    action,
                    line,
                };
                receive(name).map_err(Stop::Receiver)
            }
            Err(error) => Err(Stop::wrong(text, error)),
        }
    }

    fn rule<E>(
        &self,
        rule: Rule,
        receive: &mut impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match &rule.pattern {
            Pattern::Domain { name, scope } if rule.ports.is_none() && rule.transport.is_none() => {
                receive(Entry::Name {
                    wire: name.as_wire(),
                    scope: *scope,
                    action: rule.action,
                    line: self.line,
                })
            }
            Pattern::Domain { .. } | Pattern::Network(_) | Pattern::Socket(_) => {
                receive(Entry::Rule(rule))
            }
        }
    }

    fn source(&self) -> Source {
        Source {
            place: Arc::clone(&self.place),
            line: self.line,
        }
    }

    fn leave_out(&mut self, text: &str) {
        let left_out = self.left_out.get_or_insert_with(|| LeftOut {
            count: 0,
            line: self.line,
            text: shorten(text, MAX_SHOWN),
        });
        left_out.count = left_out.count.saturating_add(1);
    }
}

fn opposite(action: Action) -> Action {
    match action {
        Action::Allow => Action::Block,
        Action::Block => Action::Allow,
    }
}

/// The one name of a line, if there is just one, and the line means what most such lines do.
fn frequent_name(line: &[u8]) -> (&[u8], Scope) {
    if let [b'|', b'|', name @ .., b'^'] = line {
        return (name, Scope::Subtree);
    }
    if let Some(name) = line.strip_prefix(b"*.") {
        return (name, Scope::Below);
    }
    for address in [&b"0.0.0.0"[..], b"127.0.0.1", b"::", b"::1"] {
        if let Some([b' ' | b'\t', name @ ..]) = line.strip_prefix(address) {
            return (name.trim_ascii_start(), Scope::Exact);
        }
    }
    for key in [&b"address=/"[..], b"local=/"] {
        if let Some(rest) = line.strip_prefix(key)
            && let Some(end) = rest.iter().position(|octet| *octet == b'/')
            && !rest[end + 1..].contains(&b'/')
        {
            return (&rest[..end], Scope::Subtree);
        }
    }
    (line, Scope::Subtree)
}

/// What stands before `#`, if that begins a word.
fn without_comment(line: &[u8]) -> &[u8] {
    let is_comment = |pair: &[u8]| pair[1] == b'#' && pair[0].is_ascii_whitespace();
    match line.windows(2).position(is_comment) {
        Some(at) => line[..at].trim_ascii_end(),
        None => line,
    }
}

/// The line as text, if it is one. Comments may be in any encoding, and are nothing.
fn printable<E>(line: &[u8]) -> Result<&str, Stop<'_, E>> {
    let is_comment = line.starts_with(b"#") || line.starts_with(b"!");
    let is_garbage = |octet: &u8| match octet {
        0 => true,
        b'\t' => false,
        _ => !is_comment && octet.is_ascii_control(),
    };
    if let Some(at) = line.iter().position(is_garbage) {
        let reason = format!("an octet {:#04x}: this does not look like a list", line[at]);
        return Err(Stop::wrong(&line[at..=at], reason));
    }
    match std::str::from_utf8(line) {
        Ok(text) => Ok(text),
        Err(_other_encoding) if line.starts_with(b"!") => Ok("!"),
        Err(_other_encoding) if is_comment => Ok("#"),
        Err(error) => {
            let at = error.valid_up_to();
            Err(Stop::wrong(
                &line[at..=at],
                "not UTF-8: this does not look like a list",
            ))
        }
    }
}

/// What follows the address that a line of a hosts file begins with; that of a link-local one
/// has a zone behind it (RFC 4007 section 11), as in `fe80::1%lo0 localhost`.
fn names_of_hosts_line(text: &str) -> Option<&str> {
    let (first, names) = text.split_once(|c: char| c.is_ascii_whitespace())?;
    let address = first
        .split_once('%')
        .map_or(first, |(address, _zone)| address);
    address.parse::<IpAddr>().is_ok().then_some(names)
}

/// `[Adblock Plus 2.0]`, and what others write there.
fn is_header(text: &str) -> bool {
    let inside = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|inside| {
        let inside = inside.to_ascii_lowercase();
        ["adblock", "adguard", "ublock"]
            .iter()
            .any(|name| inside.starts_with(name))
    })
}

/// Whether the line is about parts of pages: `##`, with one or two of `@`, `?`, `$`, `%`
/// between, or `$$`. At the start of a line `##` is also how people underline comments.
fn is_cosmetic(text: &str) -> bool {
    let is_marker = |(at, _): (usize, &str)| {
        let rest = text[at + 1..].trim_start_matches(['@', '?', '$', '%']);
        let is_selector = !rest.trim_start_matches('#').starts_with([' ', '\t', '-'])
            && !rest.bytes().all(|octet| octet == b'#');
        rest.starts_with('#') && text.len() - at - rest.len() <= 3 && (at > 0 || is_selector)
    };
    text.match_indices('#').any(is_marker) || text.contains("$$")
}

/// `/…/`, perhaps with modifiers.
fn is_regex(text: &str) -> bool {
    text.len() > 1 && text.starts_with('/') && (text.ends_with('/') || text.contains("/$"))
}

/// The host in `HOST^`, if the rule is about all of it.
fn whole_host(text: &str) -> Option<&str> {
    let (pattern, modifiers) = match text.split_once('$') {
        Some((pattern, modifiers)) => (pattern, Some(modifiers)),
        None => (text, None),
    };
    let is_harmless = modifiers.is_none_or(|modifiers| {
        modifiers
            .split(',')
            .all(|modifier| HARMLESS.contains(&modifier))
    });
    let host = pattern
        .strip_suffix('|')
        .unwrap_or(pattern)
        .strip_suffix('^')?;
    let is_host = !host.contains(['/', '*', '^', '|', '?', '=', '&', '~', ',']);
    (is_harmless && is_host).then_some(host)
}

/// Names that a hosts file gives to the machine itself.
fn is_local(wire: &[u8]) -> bool {
    const ALL: &[u8] = b"ip6-";
    match wire {
        [_, label @ ..] if label.starts_with(ALL) => wire.len() == 1 + usize::from(wire[0]),
        _ => LOCAL.contains(&wire),
    }
}

/// The wire labels of a host name, if it is one that [`super::Domain::parse`] reads letter by
/// letter.
fn plain<'w>(text: &[u8], wire: &'w mut [u8; MAX_WIRE]) -> Option<&'w [u8]> {
    let wire = ldh(text, wire)?;
    let is_plain = labels(wire).all(|label| !label.starts_with(b"xn--"));
    is_plain.then_some(wire)
}

fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first()?;
        let (label, tail) = tail.split_at(usize::from(*length));
        rest = tail;
        Some(label)
    })
}

/// The wire labels of a name that is made of letters, digits, hyphens and underscores, and is
/// no number that could be an address.
fn ldh<'w>(text: &[u8], wire: &'w mut [u8; MAX_WIRE]) -> Option<&'w [u8]> {
    let text = text.strip_suffix(b".").unwrap_or(text);
    let wire = wire.get_mut(..=text.len())?;
    // Where the length of the label is to go.
    let mut start = 0;
    for (at, octet) in text.iter().enumerate() {
        let lower = LOWER[usize::from(*octet)];
        match lower {
            0 => return None,
            b'.' => {
                wire[start] = label_length(at - start)?;
                start = at + 1;
            }
            _ => wire[at + 1] = lower,
        }
    }
    wire[start] = label_length(text.len() - start)?;
    (!is_numeric(&wire[start + 1..])).then_some(wire)
}

fn label_length(length: usize) -> Option<u8> {
    if (1..=MAX_LABEL).contains(&length) {
        u8::try_from(length).ok()
    } else {
        None
    }
}

/// In lower case, what host names are made of (and the underscore); 0 for everything else.
const LOWER: [u8; 256] = {
    let mut lower = [0; 256];
    let mut octet = 0_u8;
    loop {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.') {
            lower[octet as usize] = octet.to_ascii_lowercase();
        }
        if octet == u8::MAX {
            break lower;
        }
        octet += 1;
    }
};

#[cfg(test)]
mod tests;
