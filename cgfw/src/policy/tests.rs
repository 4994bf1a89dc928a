use super::*;

fn policy(block: &[&str], allow: &[&str]) -> Policy {
    let rule = |text: &&str, action| Rule::parse(text, action, (*text).to_owned()).unwrap();
    let rules = block
        .iter()
        .map(|text| rule(text, Action::Block))
        .chain(allow.iter().map(|text| rule(text, Action::Allow)))
        .collect();
    Policy::new(rules, None, None, Vec::new())
}

fn verdict(policy: &Policy, name: &str) -> Option<Action> {
    policy
        .name(&Domain::parse(name).unwrap(), &[])
        .ports
        .uniform()
}

#[test]
fn a_block_rule_reaches_everything_below_and_nothing_beside() {
    let policy = policy(&["github.com"], &[]);
    for (name, expected) in [
        ("github.com", Action::Block),
        ("api.GitHub.com.", Action::Block),
        ("notgithub.com", Action::Allow),
        ("github.com.example", Action::Allow),
        ("com", Action::Allow),
    ] {
        assert_eq!(verdict(&policy, name), Some(expected), "{name}");
    }
}
