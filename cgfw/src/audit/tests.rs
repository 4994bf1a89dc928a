use boon::{Compiler, Schemas};
use serde_json::Value;

use super::*;

/// Of which everything that a log can have is in some line.
const SAMPLE: &str = include_str!("../formats/sample.jsonl");

fn generated() -> String {
    let schema = schemars::schema_for!(Line);
    serde_json::to_string_pretty(&schema).unwrap() + "\n"
}

#[test]
fn the_schema_is_that_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/audit/schema.json");
    if std::env::var_os("CGFW_WRITE_SCHEMA").is_some() {
        std::fs::write(path, generated()).unwrap();
        return;
    }
    assert_eq!(
        JSON_SCHEMA,
        generated(),
        "run this test with CGFW_WRITE_SCHEMA=1 to write {path:?}"
    );
}

#[test]
fn lines_are_valid_and_what_is_none_is_not() {
    let mut schemas = Schemas::new();
    let mut compiler = Compiler::new();
    let schema = serde_json::from_str(JSON_SCHEMA).unwrap();
    compiler.add_resource("urn:cgfw:audit:1", schema).unwrap();
    let schema = compiler.compile("urn:cgfw:audit:1", &mut schemas).unwrap();
    for text in SAMPLE.lines() {
        let line: Value = serde_json::from_str(text).unwrap();
        if let Err(error) = schemas.validate(&line, schema) {
            panic!("{text}\n{error:#}");
        }
        for field in ["schema", "time", "run", "event"] {
            let mut line = line.clone();
            line.as_object_mut().unwrap().remove(field);
            assert!(
                schemas.validate(&line, schema).is_err(),
                "{field} of {text}"
            );
            assert!(
                serde_json::from_value::<Line>(line).is_err(),
                "{field} of {text}"
            );
        }
        let mut later = line.clone();
        later["schema"] = 2.into();
        assert!(schemas.validate(&later, schema).is_err());
    }
}
