//! Any octets as names, in rules, in a question and in the aliases of its answer.

use cgfw::dns::replay;
use cgfw::policy::{Action, Domain, Pattern, Policy, Rule, Scope, Source};

use super::reference::{Labels, longest, matched};

/// Judge an input: an octet of flags, a search suffix if they say so, as many rules as they
/// say, a name, and its aliases. Names are as on the wire (RFC 1035 section 3.1).
pub fn labels(input: &[u8]) {
    let mut input = Input(input);
    if let Some(case) = Case::read(&mut input) {
        case.check();
    }
}

/// The longest name on the wire, without the root label.
const MAX_NAME: usize = 254;

struct Case {
    default: Action,
    search: Option<Labels>,
    rules: Vec<(Labels, Scope, Action)>,
    name: Labels,
    aliases: Vec<Labels>,
}

impl Case {
    fn read(input: &mut Input<'_>) -> Option<Self> {
        let flags = input.octet()?;
        let search = match flags & 2 {
            0 => None,
            _ => Some(input.name()?),
        };
        let rules: Option<_> = (0..flags >> 2 & 7).map(|_| input.rule()).collect();
        Some(Self {
            default: action(flags),
            search,
            rules: rules?,
            name: input.name()?,
            aliases: std::iter::from_fn(|| input.name()).take(3).collect(),
        })
    }

    fn check(&self) {
        let expected = self.expected();
        let policy = self.policy();
        let name = domain(&self.name);
        let aliases: Vec<Domain> = self.aliases.iter().map(domain).collect();
        let judgement = policy.name(&name, &aliases);
        assert_eq!(judgement.ports.uniform(), Some(expected));
        // What is shown of a name is the same name as a pattern.
        if !self.name.is_empty() {
            assert_eq!(Domain::parse(&name.to_string()), Ok(name));
        }

        let query = self.query();
        let answer = replay(&policy, &query, &self.reply()).expect("the query is well-formed");
        let is_refused = answer[3] & 0x0f == 3;
        assert_eq!(is_refused, expected == Action::Block, "{answer:02x?}");
        // In the case that the client chose.
        assert_eq!(answer[12..query.len()], query[12..]);
    }

    fn expected(&self) -> Action {
        let by_rules = |name: &Labels| {
            let name = lower(name);
            longest(self.rules.iter().filter_map(|(own, scope, action)| {
                Some((matched(&lower(own), *scope, &name)?, *action))
            }))
        };
        let name = lower(&self.name);
        let bare = self.search.as_ref().and_then(|suffix| {
            let bare = name.strip_suffix(lower(suffix).as_slice())?;
            (!suffix.is_empty() && !bare.is_empty()).then(|| bare.to_vec())
        });
        let is_led_to_a_block = self
            .aliases
            .iter()
            .chain(&bare)
            .any(|other| by_rules(other) == Some(Action::Block));
        match by_rules(&self.name) {
            _ if is_led_to_a_block => Action::Block,
            Some(action) => action,
            None => self.default,
        }
    }

    fn policy(&self) -> Policy {
        let rules = self.rules.iter().map(|(labels, scope, action)| Rule {
            pattern: Pattern::Domain {
                name: domain(labels),
                scope: *scope,
            },
            ports: None,
            transport: None,
            action: *action,
            source: Source::argument("a rule"),
        });
        let search = self.search.iter().map(domain).collect();
        Policy::new(rules.collect::<Vec<_>>(), Some(self.default), None, search)
    }

    fn query(&self) -> Vec<u8> {
        let mut message = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        message.extend(wire(&self.name));
        message.extend([0, 1, 0, 1]);
        message
    }

    /// An answer in which the name is an alias of the first, that of the second, and so on.
    fn reply(&self) -> Vec<u8> {
        let mut message = self.query();
        message[2] |= 0x80;
        message[7] = u8::try_from(self.aliases.len()).expect("three at most");
        let owners = std::iter::once(&self.name).chain(&self.aliases);
        for (owner, target) in owners.zip(&self.aliases) {
            message.extend(wire(owner));
            // CNAME, IN, a minute.
            message.extend([0, 5, 0, 1, 0, 0, 0, 60]);
            let target = wire(target);
            message.extend(u16::try_from(target.len()).expect("a name").to_be_bytes());
            message.extend(target);
        }
        message
    }
}

/// What is left of the input.
struct Input<'i>(&'i [u8]);

impl Input<'_> {
    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Labels behind their lengths, up to the root label.
    fn name(&mut self) -> Option<Labels> {
        let mut labels = Labels::new();
        let mut room = MAX_NAME;
        loop {
            let length = usize::from(self.octet()?);
            if length == 0 {
                return Some(labels);
            }
            room = room.checked_sub(1 + length)?;
            let (label, rest) = self.0.split_at_checked(length).filter(|_| length < 64)?;
            self.0 = rest;
            labels.push(label.to_vec());
        }
    }

    /// An octet of flags and a name; no rule speaks of the root.
    fn rule(&mut self) -> Option<(Labels, Scope, Action)> {
        let flags = self.octet()?;
        let scope = match flags >> 1 & 3 {
            0 => Scope::Exact,
            1 => Scope::Below,
            _ => Scope::Subtree,
        };
        let labels = self.name().filter(|labels| !labels.is_empty())?;
        Some((labels, scope, action(flags)))
    }
}

fn action(flags: u8) -> Action {
    match flags & 1 {
        0 => Action::Allow,
        _ => Action::Block,
    }
}

fn domain(labels: &Labels) -> Domain {
    Domain::from_labels(labels.iter().map(Vec::as_slice)).expect("the name is not too long")
}

fn lower(labels: &Labels) -> Labels {
    // RFC 4343: only the 26 letters of ASCII have a case.
    let lower = |octet: &u8| match octet {
        0x41..=0x5a => octet + 0x20,
        _ => *octet,
    };
    labels
        .iter()
        .map(|label| label.iter().map(lower).collect())
        .collect()
}

fn wire(labels: &Labels) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in labels {
        wire.push(u8::try_from(label.len()).expect("a label has at most 63 octets"));
        wire.extend(label);
    }
    wire.push(0);
    wire
}
