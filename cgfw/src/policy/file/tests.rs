use std::path::Path;

use boon::{Compiler, SchemaIndex, Schemas};
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::*;

const KEYS: [&str; 4] = ["block", "allow", "block_file", "allow_file"];

/// Exactly one of the keys.
pub(super) fn one_of() -> Value {
    KEYS.map(|key| json!({ "required": [key] })).to_vec().into()
}

impl JsonSchema for Texts {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "texts".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let text = json!({ "type": "string", "pattern": r"\S" });
        json_schema!({ "anyOf": [text, { "type": "array", "items": text, "minItems": 1 }] })
    }
}

fn generated() -> String {
    // TOML has no null, and a key that is missing has no value.
    let without_nulls = RecursiveTransform(|schema: &mut Schema| {
        if schema.get("default") == Some(&Value::Null) {
            schema.remove("default");
        }
    });
    let settings = SchemaSettings::draft2020_12().with_transform(without_nulls);
    let schema = settings.into_generator().into_root_schema_for::<Document>();
    format!("{:#}\n", schema.as_value())
}

/// The first line of the error, without the name of the file.
fn wrong(text: &str) -> Option<String> {
    let error = PolicyFile::parse("p", text.as_bytes()).err()?.to_string();
    let first = error.lines().next().unwrap();
    Some(first.strip_prefix("p:").unwrap().to_owned())
}

/// As people write it.
const SAMPLE: &[u8] = br#"version = 1
default = "block"
direct_ip = "private"

[[rule]]
allow = [
    "github.com", # the name and all below
    "=objects.example:443/tcp", "10.0.0.0/8",
]
reason = "we deploy github.com"
owner = "team-git"

[[rule]]
block_file = "lists/ads.txt"
owner = "team-net"

[[rule]]
block = "evil.github.com"

[[rule]]
allow_file = ["a", '/b']
"#;

#[test]
fn a_policy_is_read_with_where_everything_stands() {
    let file = PolicyFile::parse("cgfw.toml", SAMPLE).unwrap();
    assert_eq!(file.default, Some(Action::Block));
    assert_eq!(file.direct_ip, Some(DirectIp::Private));
    let cited: Vec<String> = file
        .rules
        .iter()
        .map(|rule| {
            let place = &rule.source.place;
            format!(
                "{:?} {} {:?} {:?}",
                rule.action,
                rule.cite(),
                place.reason,
                place.owner
            )
        })
        .collect();
    assert_eq!(
        cited,
        [
            r#"Allow cgfw.toml:7: github.com Some("we deploy github.com") Some("team-git")"#,
            r#"Allow cgfw.toml:8: =objects.example:443/tcp Some("we deploy github.com") Some("team-git")"#,
            r#"Allow cgfw.toml:8: 10.0.0.0/8 Some("we deploy github.com") Some("team-git")"#,
            "Block cgfw.toml:18: evil.github.com None None",
        ]
    );
    let lists: Vec<String> = file
        .lists
        .iter()
        .map(|list| {
            format!(
                "{} {:?} {} {:?} {:?}",
                list.line, list.action, list.path, list.reason, list.owner
            )
        })
        .collect();
    assert_eq!(
        lists,
        [
            r#"14 Block lists/ads.txt None Some("team-net")"#,
            "21 Allow a None None",
            "21 Allow /b None None",
        ]
    );
}

/// Policies, and what is wrong with them.
const SAMPLES: [(&str, Option<&str>); 31] = [
    ("version = 1", None),
    (
        "\u{feff}version = 1\r\n[[rule]]\r\nblock = \"a.test\"\r\n",
        None,
    ),
    (
        "version = 1\nrule = [{ block = 'a.test', reason = 'x' }]",
        None,
    ),
    ("version = 1\ndefault = 'allow'\ndirect_ip = 'block'", None),
    (
        "version = 1\n[[rule]]\nallow = ['/run/docker.sock', '@x']",
        None,
    ),
    (
        "",
        Some("1:1: the version of the format is missing: version = 1"),
    ),
    (
        "[[rule]]\nblock = 'a.test'",
        Some("1:1: the version of the format is missing: version = 1"),
    ),
    (
        "# 2\nversion = 2\nnew = 1",
        Some("2:11: this cgfw knows no other version of the format than 1"),
    ),
    (
        "version = '1'",
        Some("1:11: this cgfw knows no other version of the format than 1"),
    ),
    (
        "version = 1\ndefautl = 'block'",
        Some(
            "2:1: unknown field `defautl`, expected one of `version`, `default`, `direct_ip`, `rule`",
        ),
    ),
    (
        "version = 1\ndefault = 'deny'",
        Some("2:11: unknown variant `deny`, expected `allow` or `block`"),
    ),
    (
        "version = 1\ndefault = 'private'",
        Some("2:11: unknown variant `private`, expected `allow` or `block`"),
    ),
    ("version = 1\ndirect_ip = true", Some("")),
    (
        "version = 1\nrule = 'a.test'",
        Some("2:8: there may be several rules; begin each with [[rule]]"),
    ),
    (
        "version = 1\n[rule]\nblock = 'a.test'",
        Some("2:1: there may be several rules; begin each with [[rule]]"),
    ),
    (
        "version = 1\n[[rule]]",
        Some("2:1: the rule says nothing: give it one of block, allow, block_file, allow_file"),
    ),
    (
        "version = 1\n[[rule]]\nreason = 'x'",
        Some("2:1: the rule says nothing: give it one of block, allow, block_file, allow_file"),
    ),
    (
        "version = 1\n[[rule]]\nallow = 'a.test'\nblock = 'b.test'",
        Some(
            "3:9: a rule has only one of block, allow, block_file, allow_file; write a [[rule]] for each",
        ),
    ),
    (
        "version = 1\n[[rule]]\nblock_file = 'a'\nblock = 'b.test'",
        Some(
            "3:14: a rule has only one of block, allow, block_file, allow_file; write a [[rule]] for each",
        ),
    ),
    (
        "version = 1\n[[rule]]\nallow = []",
        Some("3:9: an empty list says nothing; name something in it, or leave the rule out"),
    ),
    (
        "version = 1\n[[rule]]\nblock_file = []",
        Some("3:14: an empty list says nothing; name something in it, or leave the rule out"),
    ),
    (
        "version = 1\n[[rule]]\nblock = ''",
        Some("3:9: an empty text says nothing; write something, or leave it out"),
    ),
    (
        "version = 1\n[[rule]]\nblock = ['a.test', ' ']",
        Some("3:20: an empty text says nothing; write something, or leave it out"),
    ),
    (
        "version = 1\n[[rule]]\nallow_file = ''",
        Some("3:14: an empty text says nothing; write something, or leave it out"),
    ),
    (
        "version = 1\n[[rule]]\nblock = 'a.test'\nreason = ''",
        Some("4:10: an empty text says nothing; write something, or leave it out"),
    ),
    (
        "version = 1\n[[rule]]\nblock = 'a.test'\nowner = 7",
        Some("4:9: invalid type: integer `7`, expected a string"),
    ),
    (
        "version = 1\n[[rule]]\nblock = 7",
        Some("3:9: invalid type: integer `7`, expected a string or a list of strings"),
    ),
    (
        "version = 1\n[[rule]]\nblock = ['a.test', 7]",
        Some("3:20: invalid type: integer `7`, expected a string"),
    ),
    (
        "version = 1\n[[rule]]\nblock = { name = 'a.test' }",
        Some("3:9: invalid type: map, expected a string or a list of strings"),
    ),
    (
        "version = 1\n[[rule]]\nblok = 'a.test'",
        Some(
            "3:1: unknown field `blok`, expected one of `block`, `allow`, `block_file`, `allow_file`, `reason`, `owner`",
        ),
    ),
    (
        "version = 1\n[[rule]]\nblock = 'a.test'\nports = [1]",
        Some(""),
    ),
];

/// What only the parser knows to be wrong: the syntax, and that of patterns.
const BEYOND_SCHEMA: [(&str, &str); 8] = [
    (
        "version = 1.0",
        "1:11: this cgfw knows no other version of the format than 1",
    ),
    (
        "version = 1\n[[rule]]\nblock = ['a.test',\n  'b*.test']",
        "4:3: `*` stands for whole labels at the start only: *.example.com",
    ),
    (
        "version = 1\n[[rule]]\nblock = '10.0.0.1/8'",
        "3:9: the address has bits set beyond its prefix; write 10.0.0.0/8 for the network",
    ),
    (
        "version = 1\n[[rule]]\nblock = 'https://a.test'",
        "3:9: a URL is not a pattern; write its host: example.com:443",
    ),
    ("version = 1\nversion = 1", ""),
    ("version = 1\n[[rule]\nblock = 'a.test'", ""),
    ("version = 1\n[[rule]]\nblock = 'a.test", ""),
    ("version = 1\n\0\x1b[2J", ""),
];

#[test]
fn mistakes_are_pointed_at() {
    for (text, expected) in SAMPLES {
        let found = wrong(text);
        match expected {
            Some("") | None => assert_eq!(found.is_some(), expected.is_some(), "{text}: {found:?}"),
            Some(_) => assert_eq!(found.as_deref(), expected, "{text}"),
        }
    }
    for (text, expected) in BEYOND_SCHEMA {
        let found = wrong(text).expect(text);
        assert!(expected.is_empty() || found == expected, "{text}: {found}");
    }
    let error = PolicyFile::parse("p", b"version = 1\n# b\xfccher")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("p:2:4: not UTF-8, as TOML is\n"),
        "{error}"
    );
}

#[test]
fn a_mistake_shows_the_line() {
    let text = b"version = 1\n[[rule]]\nblock = [\"a*.com\", \"b.test\"]\n";
    assert_eq!(
        PolicyFile::parse("dir/p.toml", text)
            .unwrap_err()
            .to_string(),
        "dir/p.toml:3:10: `*` stands for whole labels at the start only: *.example.com\n  |\n\
         3 | block = [\"a*.com\", \"b.test\"]\n  |          ^^^^^^^^"
    );
}

#[test]
fn ten_thousand_patterns_have_their_lines() {
    let patterns: Vec<String> = (0..10_000).map(|i| format!("'n{i}.test'")).collect();
    let text = format!(
        "version = 1\n[[rule]]\nblock = [\n{}]",
        patterns.join(",\n")
    );
    let file = PolicyFile::parse("p", text.as_bytes()).unwrap();
    for (rule, line) in file.rules.iter().zip(4_u32..) {
        assert_eq!(rule.source.line, line);
    }
    assert_eq!(file.rules.len(), 10_000);
}

#[test]
fn the_schema_is_that_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/schema.json");
    if std::env::var_os("CGFW_WRITE_SCHEMA").is_some() {
        std::fs::write(&path, generated()).unwrap();
        return;
    }
    assert_eq!(
        SCHEMA,
        generated(),
        "run this test with CGFW_WRITE_SCHEMA=1 to write {path:?}"
    );
}

fn compiled(schemas: &mut Schemas) -> SchemaIndex {
    let mut compiler = Compiler::new();
    let schema = serde_json::from_str(SCHEMA).unwrap();
    compiler.add_resource("urn:cgfw:policy:1", schema).unwrap();
    compiler.compile("urn:cgfw:policy:1", schemas).unwrap()
}

#[test]
fn the_schema_and_the_parser_agree() {
    let mut schemas = Schemas::new();
    let schema = compiled(&mut schemas);
    let is_valid = |text: &str| {
        let text = text.trim_start_matches('\u{feff}');
        let value: Value = toml::from_str(text).expect(text);
        schemas.validate(&value, schema).is_ok()
    };
    for (text, wrong) in SAMPLES {
        assert_eq!(is_valid(text), wrong.is_none(), "{text}");
    }
}

#[test]
fn a_remark_is_trimmed_and_not_a_book() {
    let mut schemas = Schemas::new();
    let schema = compiled(&mut schemas);
    for (characters, fits) in [(500, true), (501, false)] {
        for key in ["reason", "owner"] {
            // Two octets each.
            let remark = "\u{e9}".repeat(characters);
            let text = format!("version = 1\n[[rule]]\nblock = 'a.test'\n{key} = '{remark}'");
            let parsed = PolicyFile::parse("p.toml", text.as_bytes());
            assert_eq!(parsed.is_ok(), fits, "{key} of {characters}");
            let value: Value = toml::from_str(&text).unwrap();
            assert_eq!(schemas.validate(&value, schema).is_ok(), fits, "{key}");
            if let Err(mistake) = parsed {
                let mistake = mistake.to_string();
                assert!(mistake.contains("has at most 500 characters"), "{mistake}");
            }
        }
    }
    let text = "version = 1\n[[rule]]\nblock = 'a.test'\nowner = ' team-git\\t '";
    let text = text.replace('\'', "\"");
    let file = PolicyFile::parse("p.toml", text.as_bytes()).unwrap();
    assert_eq!(file.rules[0].owner(), Some("team-git"));
}
