/*!
Policy files, in TOML.

```toml
version = 1
default = "allow"

[[rule]]
block = ["github.com", "=objects.example"]
reason = "we deploy github.com"
owner = "team-git"

[[rule]]
block_file = "lists/ads.txt"
```

The types below are the format: serde reads it into them, and `schema.json` is generated from
them, with their comments.
*/

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{SeqAccess, Visitor};
use toml::Spanned;
use toml::de::DeTable;

use super::mistake::Mistake;
use super::{Action, DirectIp, Place, Rule, Source};

/// The one version of the format.
const VERSION: i64 = 1;

/// The longest reason or owner, in characters.
const MAX_REMARK: usize = 500;

/// The JSON Schema (2020-12) of policy files.
pub const SCHEMA: &str = include_str!("../schema.json");

/// What a policy file says.
#[derive(Debug, Default)]
pub struct PolicyFile {
    pub default: Option<Action>,
    pub direct_ip: Option<DirectIp>,
    pub rules: Vec<Rule>,
    /// In the order of the file, as are the rules.
    pub lists: Vec<ListFile>,
}

/// A list that a policy file refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFile {
    /// As it is written: if it is relative, then to where the policy file is.
    pub path: String,
    pub action: Action,
    pub reason: Option<String>,
    pub owner: Option<String>,
    /// The line of the path, from 1.
    pub line: u32,
}

impl PolicyFile {
    /// Parse the content of the file `name`.
    pub fn parse(name: &str, content: &[u8]) -> Result<Self, Mistake> {
        let text = std::str::from_utf8(content).map_err(|error| {
            let valid = error.valid_up_to();
            let reason = "not UTF-8, as TOML is";
            let text = String::from_utf8_lossy(content);
            Mistake::within(name, &text, valid..valid + 1, reason)
        })?;
        let newlines = text.match_indices('\n').map(|(at, _)| at).collect();
        File {
            name,
            text,
            newlines,
        }
        .parse()
    }
}

/// A policy for `cgfw run --policy FILE`: which names and addresses a command may reach.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(title = "cgfw policy", extend("$id" = "urn:cgfw:policy:1")))]
struct Document {
    /// The version of this format.
    #[expect(dead_code, reason = "was looked at before all else")]
    #[cfg_attr(test, schemars(with = "i64", extend("const" = VERSION)))]
    version: i64,
    /// What happens to a destination that no rule speaks of. If this is not said, it is blocked
    /// if there is a rule that allows something, save for exceptions to rules that block.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Verdict"))]
    default: Option<Verdict>,
    /// What happens to an address that no permitted name resolved to: `private` allows only
    /// private ones. If this is not said, it is what happens to a destination that no rule
    /// speaks of.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Direct"))]
    direct_ip: Option<Direct>,
    /// The rules. The longest match wins, in whatever order they are; on a tie, block does.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<RuleTable>"))]
    rule: Vec<Table>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
enum Verdict {
    Allow,
    Block,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
enum Direct {
    Allow,
    Private,
    Block,
}

/// Patterns, or files of patterns, with what to do about them: exactly one of `block`, `allow`,
/// `block_file` and `allow_file`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "rule", extend("oneOf" = tests::one_of())))]
struct RuleTable {
    /// Patterns to block: `github.com` (with all below it), `=github.com`, `*.github.com`,
    /// `192.0.2.1`, `192.0.2.0/24`, each with a port if need be: `github.com:22/tcp`.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Texts"))]
    block: Option<Spanned<Texts>>,
    /// Patterns to allow; also sockets that the command may turn to: `/run/docker.sock`.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Texts"))]
    allow: Option<Spanned<Texts>>,
    /// Lists of what to block, relative to this file: patterns, one a line, hosts files, and
    /// lists for dnsmasq or in the Adblock syntax.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Texts"))]
    block_file: Option<Spanned<Texts>>,
    /// Lists of what to allow, relative to this file.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Texts"))]
    allow_file: Option<Spanned<Texts>>,
    /// Why, for whoever runs into the rule.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "String"))]
    #[cfg_attr(test, schemars(extend("pattern" = r"\S", "maxLength" = MAX_REMARK)))]
    reason: Option<Spanned<String>>,
    /// Whom to turn to.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "String"))]
    #[cfg_attr(test, schemars(extend("pattern" = r"\S", "maxLength" = MAX_REMARK)))]
    owner: Option<Spanned<String>>,
}

type Table = Spanned<RuleTable>;

/// One or several.
enum Texts {
    One(String),
    Several(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;

        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(Texts::Several(texts))
            }
        }

        deserializer.deserialize_any(OneOrSeveral)
    }
}

/// A file that is being parsed.
struct File<'f> {
    name: &'f str,
    text: &'f str,
    /// Where the lines end.
    newlines: Vec<usize>,
}

/// Which key of a rule it was, and what is behind it.
enum Subject {
    Patterns(Action, Spanned<Texts>),
    Lists(Action, Spanned<Texts>),
}

impl File<'_> {
    fn parse(&self) -> Result<PolicyFile, Mistake> {
        let toml = |error: toml::de::Error| {
            let message = error.message().trim().replace('\n', "; ");
            self.mistake(error.span().unwrap_or_default(), message)
        };
        let table = DeTable::parse(self.text).map_err(toml)?;
        self.check_version(table.get_ref())?;
        self.check_rules(table.get_ref())?;
        let document = Document::deserialize(toml::Deserializer::from(table)).map_err(toml)?;
        let mut file = PolicyFile {
            default: document.default.map(Into::into),
            direct_ip: document.direct_ip.map(Into::into),
            ..PolicyFile::default()
        };
        for table in document.rule {
            self.rule(table, &mut file)?;
        }
        Ok(file)
    }

    /// First of all, since another version may have other keys.
    fn check_version(&self, table: &DeTable<'_>) -> Result<(), Mistake> {
        let Some(version) = table.get("version") else {
            let reason = format!("the version of the format is missing: version = {VERSION}");
            return Err(self.mistake(0..0, reason));
        };
        let number = version.get_ref().as_integer();
        let number = number.and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok());
        if number == Some(VERSION) {
            return Ok(());
        }
        let reason = format!("this cgfw knows no other version of the format than {VERSION}");
        Err(self.mistake(version.span(), reason))
    }

    /// What serde would say of `[rule]` is no help.
    fn check_rules(&self, table: &DeTable<'_>) -> Result<(), Mistake> {
        match table.get("rule") {
            Some(rules) if !rules.get_ref().is_array() => {
                let reason = "there may be several rules; begin each with [[rule]]";
                Err(self.mistake(rules.span(), reason))
            }
            _ => Ok(()),
        }
    }

    fn rule(&self, table: Table, file: &mut PolicyFile) -> Result<(), Mistake> {
        let span = table.span();
        let table = table.into_inner();
        let place = Arc::new(Place {
            name: self.name.to_owned(),
            list: None,
            reason: self.remark(table.reason)?,
            owner: self.remark(table.owner)?,
        });
        let subjects = [
            table
                .block
                .map(|texts| Subject::Patterns(Action::Block, texts)),
            table
                .allow
                .map(|texts| Subject::Patterns(Action::Allow, texts)),
            table
                .block_file
                .map(|texts| Subject::Lists(Action::Block, texts)),
            table
                .allow_file
                .map(|texts| Subject::Lists(Action::Allow, texts)),
        ];
        let mut subjects = subjects.into_iter().flatten();
        let subject = subjects.next().ok_or_else(|| {
            let reason = "the rule says nothing: give it one of block, allow, block_file, \
                          allow_file";
            self.mistake(span, reason)
        })?;
        if let Some(Subject::Patterns(_, second) | Subject::Lists(_, second)) = subjects.next() {
            let reason = "a rule has only one of block, allow, block_file, allow_file; write a \
                          [[rule]] for each";
            return Err(self.mistake(second.span(), reason));
        }
        match subject {
            Subject::Patterns(action, patterns) => {
                for pattern in self.texts(patterns)? {
                    let source = Source {
                        place: Arc::clone(&place),
                        line: self.line(&pattern),
                    };
                    let rule = Rule::parse(pattern.get_ref(), action, source)
                        .map_err(|error| self.mistake(pattern.span(), error.to_string()))?;
                    file.rules.push(rule);
                }
            }
            Subject::Lists(action, paths) => {
                for path in self.texts(paths)? {
                    file.lists.push(ListFile {
                        line: self.line(&path),
                        path: path.into_inner(),
                        action,
                        reason: place.reason.clone(),
                        owner: place.owner.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// At least one, none of them empty.
    fn texts(&self, texts: Spanned<Texts>) -> Result<Vec<Spanned<String>>, Mistake> {
        let span = texts.span();
        let texts = match texts.into_inner() {
            Texts::One(text) => vec![Spanned::new(span, text)],
            Texts::Several(texts) if texts.is_empty() => {
                let reason = "an empty list says nothing; name something in it, or leave the \
                              rule out";
                return Err(self.mistake(span, reason));
            }
            Texts::Several(texts) => texts,
        };
        match texts.iter().find(|text| text.get_ref().trim().is_empty()) {
            Some(empty) => Err(self.mistake(empty.span(), EMPTY)),
            None => Ok(texts),
        }
    }

    /// A reason or an owner: it says something, and not too much.
    fn remark(&self, text: Option<Spanned<String>>) -> Result<Option<String>, Mistake> {
        let Some(text) = text else {
            return Ok(None);
        };
        if text.get_ref().chars().count() > MAX_REMARK {
            let reason = format!(
                "a reason or an owner has at most {MAX_REMARK} characters: it is part of every \
                 line about a refusal"
            );
            return Err(self.mistake(text.span(), reason));
        }
        match text.get_ref().trim() {
            "" => Err(self.mistake(text.span(), EMPTY)),
            remark => Ok(Some(remark.to_owned())),
        }
    }

    fn line(&self, text: &Spanned<String>) -> u32 {
        let start = text.span().start;
        let before = self.newlines.partition_point(|newline| *newline < start);
        u32::try_from(before).map_or(u32::MAX, |before| before.saturating_add(1))
    }

    fn mistake(&self, span: Range<usize>, reason: impl Into<String>) -> Mistake {
        Mistake::within(self.name, self.text, span, reason)
    }
}

const EMPTY: &str = "an empty text says nothing; write something, or leave it out";

impl From<Verdict> for Action {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Block => Self::Block,
        }
    }
}

impl From<Direct> for DirectIp {
    fn from(direct: Direct) -> Self {
        match direct {
            Direct::Allow => Self::Allow,
            Direct::Private => Self::Private,
            Direct::Block => Self::Block,
        }
    }
}

#[cfg(test)]
mod tests;
