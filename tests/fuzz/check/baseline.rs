//! Any octets as a baseline.

use cgfw::baseline::Dependencies;

/// What is read is written so that it is read again as the same, and to the octet from then
/// on. Of what is not, the line is named, and nothing that a terminal acts on.
pub fn baseline(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let dependencies = match Dependencies::parse("FILE", text) {
        Ok(dependencies) => dependencies,
        Err(error) => return check_error(&format!("{error:#}"), text),
    };
    let written = dependencies.to_string();
    let is_fit = |c: char| c == '\n' || !c.is_control();
    assert!(written.chars().all(is_fit), "{written:?}");
    let again = Dependencies::parse("FILE", &written)
        .unwrap_or_else(|error| panic!("{error:#}\n{written}"));
    assert_eq!(again, dependencies);
    assert_eq!(again.to_string(), written);
}

fn check_error(error: &str, text: &str) {
    assert!(!error.chars().any(char::is_control), "{error:?}");
    let rest = error.strip_prefix("FILE:").expect(error);
    if rest.starts_with(" this is version ") {
        return;
    }
    let line = rest.split(':').next().and_then(|line| line.parse().ok());
    let lines = 1 + text.matches('\n').count();
    assert!(
        line.is_some_and(|line: usize| (1..=lines).contains(&line)),
        "{error}"
    );
}
