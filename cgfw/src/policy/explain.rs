//! What becomes of every rule that matches: the matcher in its own words.

use std::sync::Arc;

use super::{Action, Domain, Judgement, Matching, Pattern, Rule, Transport};

/// A rule that matches, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'j> {
    pub rule: &'j Arc<Rule>,
    /// The name that it matches, where that is not the one that was asked for.
    pub matched: Option<&'j Domain>,
    pub standing: Standing,
    /// The rule that stands in its way, or decides with it.
    pub by: Option<&'j Arc<Rule>>,
}

/// What became of a rule that matches. In the order in which one is worth more than another
/// where a rule has several, on different ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Decides,
    /// Another rule decides, and says the same.
    Agrees,
    /// It allows what a rule for just the same name or network blocks.
    LostTie,
    /// A longer match says something of the same ports.
    Shadowed,
    /// It allows, and something else that the name leads to is blocked.
    Overruled,
    /// It allows an alias: allow rules speak of the name that is asked for.
    NoSay,
    /// It says nothing of the ports in question.
    OtherPorts,
}

impl Judgement {
    /// Every rule that matches, in the order in which they are asked, with what became of it
    /// on the port `asked`, or on any.
    pub fn candidates(&self, asked: Option<(Transport, u16)>) -> Vec<Candidate<'_>> {
        let occasions = match asked {
            Some(occasion) => vec![occasion],
            None => self.occasions().collect(),
        };
        let candidate = |matching, rule| {
            occasions
                .iter()
                .map(|(transport, port)| self.candidate(matching, rule, *transport, *port))
                .min_by_key(|candidate| candidate.standing)
        };
        self.matches
            .iter()
            .flat_map(|matching| {
                let rules = matching.rules.iter();
                rules.filter_map(move |rule| candidate(matching, rule))
            })
            .collect()
    }

    /// One of each kind of port that may be judged differently.
    fn occasions(&self) -> impl Iterator<Item = (Transport, u16)> {
        let changes = self.changes();
        [Transport::Tcp, Transport::Udp, Transport::Other]
            .into_iter()
            .flat_map(move |transport| {
                changes
                    .clone()
                    .into_iter()
                    .map(move |port| (transport, port))
            })
    }

    fn candidate<'j>(
        &'j self,
        matching: &'j Matching,
        rule: &'j Arc<Rule>,
        transport: Transport,
        port: u16,
    ) -> Candidate<'j> {
        let (standing, by) = self.standing(matching, rule, transport, port);
        Candidate {
            rule,
            matched: matching.matched.as_ref(),
            standing,
            by,
        }
    }

    fn standing<'j>(
        &'j self,
        matching: &'j Matching,
        rule: &Arc<Rule>,
        transport: Transport,
        port: u16,
    ) -> (Standing, Option<&'j Arc<Rule>>) {
        if !rule.speaks_of(transport, port) {
            return (Standing::OtherPorts, None);
        }
        let first = matching.first(transport, port);
        if let Some(first) = first.filter(|first| !Arc::ptr_eq(first, rule)) {
            let standing = match (is_as_long(first, rule), first.action == rule.action) {
                (true, true) => Standing::Agrees,
                (true, false) => Standing::LostTie,
                (false, _) => Standing::Shadowed,
            };
            return (standing, Some(first));
        }
        if rule.action == Action::Allow && matching.matched.is_some() {
            return (Standing::NoSay, None);
        }
        match self.at(transport, port).rule {
            Some(decisive) if Arc::ptr_eq(decisive, rule) => (Standing::Decides, None),
            Some(decisive) if decisive.action == rule.action => (Standing::Agrees, Some(decisive)),
            decisive => (Standing::Overruled, decisive),
        }
    }
}

/// Whether two rules that match the same are written for the same name or network.
fn is_as_long(one: &Rule, other: &Rule) -> bool {
    match (&one.pattern, &other.pattern) {
        (Pattern::Domain { name, .. }, Pattern::Domain { name: other, .. }) => name == other,
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Source};

    fn policy(rules: &[&str]) -> Policy {
        let parse = |text: &&str| {
            let (action, pattern) = match text.split_at(1) {
                ("+", pattern) => (Action::Allow, pattern),
                (_, pattern) => (Action::Block, pattern),
            };
            Rule::parse(pattern, action, Source::argument(*text)).unwrap()
        };
        let rules: Vec<Rule> = rules.iter().map(parse).collect();
        Policy::new(rules, None, None, vec![Domain::parse("corp.test").unwrap()])
    }

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    #[track_caller]
    fn check(judgement: &Judgement, port: Option<u16>, expected: &[&str]) {
        let found: Vec<String> = judgement
            .candidates(port.map(|port| (Transport::Tcp, port)))
            .iter()
            .map(|candidate| {
                let by = candidate
                    .by
                    .map_or(String::new(), |by| format!(" {}", by.cite()));
                let (rule, standing) = (candidate.rule.cite(), candidate.standing);
                format!("{rule} {standing:?}{by}")
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn longer_matches_shadow_shorter_ones_and_block_wins_ties() {
        let policy = policy(&["-test", "+a.test", "-=a.test", "-a.test", "+*.a.test"]);
        check(
            &policy.name(&domain("a.test"), &[]),
            None,
            &[
                "-=a.test Decides",
                "-a.test Agrees -=a.test",
                "+a.test LostTie -=a.test",
                "-test Shadowed -=a.test",
            ],
        );
        check(
            &policy.name(&domain("b.a.test"), &[]),
            Some(443),
            &[
                "-a.test Decides",
                "+a.test LostTie -a.test",
                "+*.a.test LostTie -a.test",
                "-test Shadowed -a.test",
            ],
        );
    }

    #[test]
    fn what_speaks_of_other_ports_is_told_apart() {
        let policy = policy(&["-a.test", "+a.test:443", "+b.a.test:22/udp"]);
        let judgement = policy.name(&domain("b.a.test"), &[]);
        check(
            &judgement,
            Some(443),
            &[
                "+b.a.test:22/udp OtherPorts",
                "-a.test Decides",
                "+a.test:443 LostTie -a.test",
            ],
        );
        check(
            &judgement,
            None,
            &[
                "+b.a.test:22/udp Decides",
                "-a.test Decides",
                "+a.test:443 LostTie -a.test",
            ],
        );
    }

    #[test]
    fn aliases_can_only_block() {
        let policy = policy(&["+a.test", "-b.test", "+c.test", "-d.test"]);
        let aliases = ["c.test", "b.test", "d.test"].map(domain);
        check(
            &policy.name(&domain("a.test"), &aliases),
            Some(443),
            &[
                "+a.test Overruled -b.test",
                "+c.test NoSay",
                "-b.test Decides",
                "-d.test Agrees -b.test",
            ],
        );
        check(
            &policy.name(&domain("b.test.corp.test"), &[]),
            Some(443),
            &["-b.test Decides"],
        );
    }

    #[test]
    fn rules_for_addresses_stand_beside_those_for_names() {
        let policy = policy(&["+a.test", "-192.0.2.0/24:22", "+192.0.2.1"]);
        let name = policy.name(&domain("a.test"), &[]);
        let address = "192.0.2.1".parse().unwrap();
        let judgement = policy
            .through_name(&domain("a.test"), &name, address)
            .unwrap();
        check(
            &judgement,
            Some(22),
            &[
                "+a.test Decides",
                "+192.0.2.1 Agrees +a.test",
                "-192.0.2.0/24:22 Shadowed +192.0.2.1",
            ],
        );
    }
}
