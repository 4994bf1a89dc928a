/*!
Rules that could as well not be there.

A rule is idle if without it, and whatever says the same again, every name, alias and address
has the verdict that it has now, on every port. It is so as

- a **duplicate**, if an earlier rule says just the same;
- **shadowed**, if others that say the opposite decide wherever it would;
- **redundant**, if another one says the same wherever it decides;
- **without effect**, if the default says the same.

Who decides is asked where no rule for a longer name or a smaller network speaks: at the name
itself, at any name below it, on the network as a whole. What holds there holds everywhere, as
longer matches decide with the rule as without it. So networks are not found that are idle only
because smaller ones together leave nothing of them.

More than verdicts hang on some rules. Not idle are those that make the default what it is, that
may acknowledge a delegation, and, unless another one is for the same name, those that let a
name have link-local addresses ([`Policy::through_name`]) or have its addresses looked up
([`Policy::blocked_names`]).
*/

use std::collections::HashMap;
use std::sync::Arc;

use super::listed::{Written, WrittenName};
use super::{
    Action, DirectIp, Matching, Pattern, Policy, Rule, Rules, Scope, Transport, nat64_network,
};

/// A rule that is idle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    pub rule: Arc<Rule>,
    pub because: Because,
}

/// What makes a rule idle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// This one, which is earlier, says just the same.
    Duplicate(Arc<Rule>),
    /// This one says the opposite, and decides.
    Shadowed(Arc<Rule>),
    /// This one says the same.
    Redundant(Arc<Rule>),
    /// What no rule speaks of is allowed anyway.
    Default,
}

/// A policy, with every rule that it was made of.
#[derive(Debug)]
pub struct Review {
    policy: Policy,
    /// But for the names of lists.
    rules: Vec<Arc<Rule>>,
    written: Written,
    /// `None` if the default was said outright.
    implied: Option<Implied>,
}

/// Why the default is what it is.
#[derive(Debug)]
enum Implied {
    /// No rule allows more than exceptions.
    Allow,
    /// Just this one does, or what says the same.
    BlockBy(Arc<Rule>),
    /// Several do.
    Block,
}

impl Review {
    /// As [`Policy::new`]. The names of lists must have been remembered
    /// ([`super::Names::remembering`]), or they are not looked at.
    pub fn new(mut rules: Rules, default: Option<Action>, direct_ip: Option<DirectIp>) -> Self {
        let written = rules.names.take_written();
        let given = rules.rules.iter().cloned().map(Arc::new).collect();
        let mut review = Self {
            policy: Policy::new(rules, default, direct_ip, Vec::new()),
            rules: given,
            written,
            implied: None,
        };
        if default.is_none() {
            review.implied = Some(review.implied());
        }
        review
    }

    fn implied(&self) -> Implied {
        let listed = self.written.names().map(|name| self.rule_of(name));
        let mut allowing = self
            .rules
            .iter()
            .cloned()
            .chain(listed)
            .filter(|rule| !self.policy.is_implied(rule));
        match allowing.next() {
            None => Implied::Allow,
            Some(rule) if allowing.all(|other| same(&rule, &other)) => Implied::BlockBy(rule),
            Some(_) => Implied::Block,
        }
    }

    /// The rules that are idle, in the order in which they were read, the names of lists last.
    pub fn idle(&self) -> impl Iterator<Item = Idle> {
        let mut said = HashMap::new();
        let given = self.rules.iter().filter_map(move |rule| {
            let meaning = (rule.action, rule.to_string());
            let first: &Arc<Rule> = said.entry(meaning).or_insert(rule);
            let earlier = (!Arc::ptr_eq(first, rule)).then_some(first);
            self.report(rule, earlier)
        });
        let listed = self.written.names().filter_map(|name| {
            if self.is_fine(name) {
                return None;
            }
            let rule = self.rule_of(name);
            let first = self.policy.first_for(name.wire, &rule);
            let earlier = first.filter(|first| first.source != rule.source);
            self.report(&rule, earlier.as_ref())
        });
        given.chain(listed)
    }

    fn report(&self, rule: &Arc<Rule>, earlier: Option<&Arc<Rule>>) -> Option<Idle> {
        let because = match earlier {
            Some(earlier) => Because::Duplicate(Arc::clone(earlier)),
            None => self.because(rule)?,
        };
        let rule = Arc::clone(rule);
        Some(Idle { rule, because })
    }

    fn rule_of(&self, name: WrittenName<'_>) -> Arc<Rule> {
        Arc::new(self.policy.listed.written(name))
    }

    /// Whether the name need not become a rule to be seen to have an effect: no other rule
    /// matches it, as is so with most of a million.
    fn is_fine(&self, name: WrittenName<'_>) -> bool {
        let has_effect = name.action() == Action::Block || !self.is_open();
        has_effect && self.policy.listed.is_alone(name) && !self.policy.has_names_above(name)
    }

    /// Whether what no rule speaks of is allowed, whichever way it is reached.
    fn is_open(&self) -> bool {
        (self.policy.default, self.policy.direct_ip) == (Action::Allow, DirectIp::Allow)
    }

    fn because(&self, rule: &Rule) -> Option<Because> {
        let makes_default =
            matches!(&self.implied, Some(Implied::BlockBy(sole)) if same(sole, rule));
        if makes_default || rule.only_acknowledges() {
            return None;
        }
        let mut deciders = Deciders::default();
        for matching in self.policy.around(&rule.pattern) {
            deciders.ask(rule, &matching, self.is_open())?;
        }
        let because = deciders.because()?;
        let other = match &because {
            Because::Redundant(other) => Some(&**other),
            Because::Default => None,
            Because::Duplicate(_) | Because::Shadowed(_) => return Some(because),
        };
        let is_idle = match rule.action {
            Action::Allow => self.allows_no_more(rule, other),
            Action::Block => other.is_some_and(|other| self.blocks_as_much(other, rule)),
        };
        is_idle.then_some(because)
    }

    /// Whether nothing but the verdict hangs on a rule that allows, or `other` does that, too.
    fn allows_no_more(&self, rule: &Rule, other: Option<&Rule>) -> bool {
        let is_for_same = other.is_some_and(|other| is_for_same(other, rule));
        match &rule.pattern {
            // It lets the name have link-local addresses, where they are not allowed anyway.
            Pattern::Domain { scope, .. } => {
                *scope == Scope::Below || is_for_same || self.policy.direct_ip == DirectIp::Allow
            }
            // It acknowledges what listens there.
            Pattern::Network(_) => is_for_same || !rule.is_single_address(),
            Pattern::Socket(_) => false,
        }
    }

    /// Whether `other` does all that hangs on a rule that blocks.
    fn blocks_as_much(&self, other: &Rule, rule: &Rule) -> bool {
        let is_given = |rule: &Rule| rule.source.place.list.is_none();
        let is_looked_up = match &rule.pattern {
            Pattern::Domain { scope, .. } => *scope != Scope::Below && is_given(rule),
            Pattern::Network(_) | Pattern::Socket(_) => false,
        };
        // What is an exception to the rule has to be one to the other.
        let keeps_default =
            !matches!(self.implied, Some(Implied::Allow)) || other.does_all_of(rule);
        keeps_default && (!is_looked_up || (is_given(other) && is_for_same(other, rule)))
    }
}

/// Whether `other` is for the very name or network, too.
fn is_for_same(other: &Rule, rule: &Rule) -> bool {
    match (&rule.pattern, &other.pattern) {
        (Pattern::Domain { name, .. }, Pattern::Domain { name: its, scope }) => {
            name == its && *scope != Scope::Below
        }
        (one, other) => one == other,
    }
}

/// Who decides where a rule matches.
#[derive(Default)]
struct Deciders {
    /// Whether the rule itself does anywhere.
    decides: bool,
    /// The first other one that says the same, and that says the opposite.
    agreeing: Option<Arc<Rule>>,
    opposed: Option<Arc<Rule>>,
}

impl Deciders {
    /// Ask on every port where the verdict may change; `None` if the rule has an effect.
    fn ask(&mut self, rule: &Rule, matching: &Matching, is_open: bool) -> Option<()> {
        for (transport, port) in changes(rule, matching) {
            let mut speaking = matching
                .rules
                .iter()
                .filter(|other| other.speaks_of(transport, port));
            let decides = same(speaking.clone().next()?, rule);
            self.decides |= decides;
            match speaking.find(|other| !same(other, rule)) {
                None if rule.action == Action::Allow && is_open => {}
                Some(other) if other.action == rule.action => {
                    self.agreeing.get_or_insert_with(|| Arc::clone(other));
                }
                Some(other) if !decides => {
                    self.opposed.get_or_insert_with(|| Arc::clone(other));
                }
                Some(_) | None => return None,
            }
        }
        Some(())
    }

    fn because(self) -> Option<Because> {
        match (self.agreeing, self.opposed) {
            (Some(other), _) => Some(Because::Redundant(other)),
            (None, _) if self.decides => Some(Because::Default),
            (None, opposed) => opposed.map(Because::Shadowed),
        }
    }
}

/// The ports that the rule speaks of and at which the verdict may be another than before.
fn changes(rule: &Rule, matching: &Matching) -> Vec<(Transport, u16)> {
    let ends = matching
        .rules
        .iter()
        .filter_map(|other| other.ports.as_ref());
    let ends = ends.flat_map(|ports| [Some(*ports.start()), ports.end().checked_add(1)]);
    let mut ports: Vec<u16> = ends.flatten().chain([0]).collect();
    ports.sort_unstable();
    ports.dedup();
    let of = |transport| ports.iter().map(move |port| (transport, *port));
    [Transport::Tcp, Transport::Udp, Transport::Other]
        .into_iter()
        .flat_map(of)
        .filter(|(transport, port)| rule.speaks_of(*transport, *port))
        .collect()
}

/// Whether both mean the same, wherever they are written.
fn same(one: &Rule, other: &Rule) -> bool {
    one.action == other.action
        && one.pattern == other.pattern
        && one.ports == other.ports
        && one.transport == other.transport
}

impl Policy {
    /// The rules on what `pattern` matches and no rule for a longer name or a smaller network
    /// does: on the name itself, and on what is below it; on the network in all its spellings.
    fn around(&self, pattern: &Pattern) -> Vec<Matching> {
        match pattern {
            Pattern::Domain { name, scope } => {
                let places: &[Scope] = match scope {
                    Scope::Subtree => &[Scope::Exact, Scope::Below],
                    Scope::Exact => &[Scope::Exact],
                    Scope::Below => &[Scope::Below],
                };
                let on = |scope: &Scope| {
                    let place = Pattern::Domain {
                        name: name.clone(),
                        scope: *scope,
                    };
                    let rules = self.rules_above(name);
                    let rules = rules.filter(|rule| rule.pattern.covers(&place)).collect();
                    Matching {
                        rules,
                        matched: None,
                    }
                };
                places.iter().map(on).collect()
            }
            Pattern::Network(net) => [Some(*net), nat64_network(*net)]
                .into_iter()
                .flatten()
                .filter_map(|net| self.matching_around(net))
                .collect(),
            Pattern::Socket(_) => Vec::new(),
        }
    }

    /// The first rule for just the name with these wire labels that says the same as `rule`.
    fn first_for(&self, wire: &[u8], rule: &Rule) -> Option<Arc<Rule>> {
        let given = self.names.get(wire).into_iter().flatten().cloned();
        let mut rules = given.chain(self.listed.rules(wire));
        rules.find(|other| same(other, rule))
    }

    /// Whether there are rules, but for the names of lists, on a name or one above it.
    fn has_names_above(&self, name: WrittenName<'_>) -> bool {
        !self.names.is_empty()
            && name
                .suffixes()
                .any(|suffix| self.names.contains_key(suffix))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Names, Place, Source};
    use super::*;

    fn place(name: &str, list: Option<Action>) -> Arc<Place> {
        Arc::new(Place {
            name: name.to_owned(),
            list,
            ..Place::default()
        })
    }

    /// Rules such as `block a.test`, each in a line, and the names of a block list.
    fn made(lines: &[&str], list: &[&str]) -> Rules {
        let mut made = Rules {
            rules: Vec::new(),
            names: Names::remembering(),
        };
        let rules = place("p", None);
        for (line, text) in (1..).zip(lines) {
            let (action, text) = text.split_once(' ').unwrap();
            let action = match action {
                "allow" => Action::Allow,
                _ => Action::Block,
            };
            let place = Arc::clone(&rules);
            let rule = Rule::parse(text, action, Source { place, line });
            made.rules.push(rule.unwrap());
        }
        made.names.begin(place("l", Some(Action::Block)));
        for (line, text) in (1..).zip(list) {
            let rule = Rule::parse(text, Action::Block, Source::default()).unwrap();
            let Pattern::Domain { name, scope } = rule.pattern else {
                unreachable!("{text} is not a name")
            };
            let names = &mut made.names;
            names
                .add(name.as_wire(), scope, Action::Block, line)
                .unwrap();
        }
        made
    }

    /// What is idle, as `p3 redundant p1`.
    fn idle(made: Rules, default: Option<Action>) -> String {
        let at = |rule: &Rule| format!("{}{}", rule.source.place.name, rule.source.line);
        let review = Review::new(made, default, None);
        let idle = review.idle().map(|idle| {
            let rule = at(&idle.rule);
            match &idle.because {
                Because::Duplicate(other) => format!("{rule} duplicate {}", at(other)),
                Because::Shadowed(other) => format!("{rule} shadowed {}", at(other)),
                Because::Redundant(other) => format!("{rule} redundant {}", at(other)),
                Because::Default => format!("{rule} default"),
            }
        });
        idle.collect::<Vec<_>>().join(", ")
    }

    const ALLOW: Option<Action> = Some(Action::Allow);
    const BLOCK: Option<Action> = Some(Action::Block);

    /// Rules, the default, and what is idle.
    type Case = (&'static [&'static str], Option<Action>, &'static str);

    #[track_caller]
    fn check(cases: &[Case]) {
        for (rules, default, expected) in cases {
            assert_eq!(idle(made(rules, &[]), *default), *expected, "{rules:?}");
        }
    }

    #[test]
    fn what_is_said_twice_is_a_duplicate() {
        check(&[
            (&["block a.test", "block A.test."], None, "p2 duplicate p1"),
            (&["allow /run/a", "allow /run//a"], None, "p2 duplicate p1"),
            (&["allow a.test", "allow a.test"], None, "p2 duplicate p1"),
            (
                &["block a.test", "block =a.test:1"],
                None,
                "p2 redundant p1",
            ),
        ]);
    }

    #[test]
    fn what_never_decides_is_shadowed() {
        check(&[
            (&["block a.test", "allow a.test"], None, "p2 shadowed p1"),
            (
                &["allow =a.test:443", "block a.test"],
                BLOCK,
                "p1 shadowed p2",
            ),
            (
                &["allow a.test", "block =a.test", "block *.a.test"],
                BLOCK,
                "p1 shadowed p2",
            ),
            (
                &["allow 192.0.2.1", "block 192.0.2.1"],
                BLOCK,
                "p1 shadowed p2",
            ),
            (&["allow a.test", "block a.test:443"], BLOCK, ""),
            (&["allow a.test", "block =a.test"], BLOCK, ""),
        ]);
    }

    #[test]
    fn what_another_rule_does_as_well_is_redundant() {
        check(&[
            (
                &["block a.test:443", "block a.test"],
                None,
                "p1 redundant p2",
            ),
            (
                &["block =a.test:1-9/tcp", "block =a.test:2-3/tcp"],
                None,
                "p2 redundant p1",
            ),
            (
                &["block *.b.a.test", "block a.test"],
                None,
                "p1 redundant p2",
            ),
            (
                &["block 192.0.2.1", "block 192.0.2.0/24"],
                None,
                "p1 redundant p2",
            ),
            (
                &["allow 192.0.2.0/25", "allow 192.0.2.0/24"],
                None,
                "p1 redundant p2",
            ),
            // What is between would decide.
            (
                &["block *.c.b.test", "allow b.test", "block test"],
                None,
                "",
            ),
            (
                &[
                    "block 192.0.2.1",
                    "allow 192.0.2.0/28",
                    "block 192.0.2.0/24",
                ],
                None,
                "",
            ),
            // Their addresses are looked up, and may be link-local, because of them.
            (&["block b.a.test", "block a.test"], None, ""),
            (&["allow b.a.test", "allow a.test"], None, ""),
            // A single address may acknowledge a delegation.
            (&["allow 192.0.2.1", "allow 192.0.2.0/24"], None, ""),
            (&["allow 127.0.0.1:80", "allow localhost"], None, ""),
        ]);
    }

    #[test]
    fn what_the_default_does_anyway_has_no_effect() {
        check(&[
            (&["allow a.test"], ALLOW, "p1 default"),
            (&["allow 192.0.2.0/24"], ALLOW, "p1 default"),
            (
                &["allow b.a.test", "block a.test", "allow c.test"],
                ALLOW,
                "p3 default",
            ),
            // It makes the default.
            (&["allow a.test"], None, ""),
            // It blocks aliases, too.
            (&["allow a.test", "block b.test"], BLOCK, ""),
        ]);
    }

    #[test]
    fn names_of_lists_are_compared_with_each_other_and_with_rules() {
        for (rules, list, expected) in [
            (
                &[][..],
                &["a.test", "b.test", "a.test"][..],
                "l3 duplicate l1",
            ),
            (&[], &["b.a.test", "c.test", "a.test"], "l1 redundant l3"),
            (
                &["block a.test"],
                &["a.test", "b.a.test"],
                "l1 duplicate p1, l2 redundant p1",
            ),
            (&["block b.a.test"], &["a.test"], ""),
            (
                &["allow a.test"],
                &["a.test", "b.a.test"],
                "p1 shadowed l1, l2 redundant l1",
            ),
            (&["allow b.a.test"], &["a.test"], ""),
            // Not: its addresses are looked up for a rule, and not for a list.
            (&["block a.test:443"], &["a.test"], ""),
        ] {
            assert_eq!(
                idle(made(rules, list), None),
                expected,
                "{rules:?} {list:?}"
            );
        }
    }
}
