//! Domain names as lower-cased wire labels, the only form in which they are compared.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use super::rule::is_numeric;

/// RFC 1035 section 2.3.4, in octets, with the root label.
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
/// No name is written longer than with every octet escaped as `\DDD`. Anything longer
/// is turned away before IDNA, which takes quadratic time, looks at it.
const MAX_TEXT: usize = 4 * MAX_NAME;

/// What no host name contains (RFC 952, RFC 1123), except for the underscore, which
/// people do block: `_dmarc.example.com`. Such octets can be written as escapes.
const NOT_IN_NAMES: idna::AsciiDenyList =
    idna::AsciiDenyList::new(true, r##"!"#$%&'()*+,/:;<=>?@[\]^`{|}~"##);

/// A domain name: lower-cased labels, each behind its length octet, without the root.
///
/// A label may hold any octet (RFC 2181 section 11), dots included, so that
/// `evil\.github.com` is one label below `com` and never mistaken for `github.com`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Box<[u8]>);

/// Why a text is not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainError {
    Empty,
    Idna,
    /// A backslash that is followed by neither `DDD` nor a printable ASCII character.
    Escape,
    LabelTooLong,
    NameTooLong,
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a domain name has at least one label, and no empty ones",
            Self::Idna => "not a valid (internationalised) domain name",
            Self::Escape => r"an escape is \DDD or \ before an ASCII character",
            Self::LabelTooLong => "a label has at most 63 octets",
            Self::NameTooLong => "a domain name has at most 255 octets",
        })
    }
}

impl std::error::Error for DomainError {}

impl Domain {
    /// Parse what a person writes: any case, IDNA (UTS 46), an optional final dot.
    ///
    /// Where there is a backslash, the text is read as [`Self`] is displayed instead
    /// (RFC 1035 section 5.1), without IDNA.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        if text.len() > MAX_TEXT {
            return Err(DomainError::NameTooLong);
        }
        if text.contains('\\') {
            return Self::parse_escaped(text);
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), NOT_IN_NAMES)
            .map_err(|_opaque| DomainError::Idna)?;
        // Only now, because IDNA knows further dots, such as U+3002.
        let ascii = ascii.strip_suffix('.').unwrap_or(&ascii);
        Self::from_labels(ascii.split('.').map(str::as_bytes))
    }

    fn parse_escaped(text: &str) -> Result<Self, DomainError> {
        let mut labels = Vec::new();
        let mut label = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            let (octet, tail) = match first {
                b'.' => {
                    labels.push(std::mem::take(&mut label));
                    rest = tail;
                    continue;
                }
                b'\\' => unescape(tail).ok_or(DomainError::Escape)?,
                0x21..=0x7e => (first, tail),
                _ => return Err(DomainError::Idna),
            };
            label.push(octet);
            rest = tail;
        }
        // Empty after a final dot, which ends the name and no label.
        if !label.is_empty() {
            labels.push(label);
        }
        Self::from_labels(labels.iter().map(Vec::as_slice))
    }

    /// Build from wire labels in any case, as hickory's `Name::iter` gives them.
    pub fn from_labels<'a>(
        labels: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, DomainError> {
        let mut wire = Vec::with_capacity(32);
        for label in labels {
            let length = u8::try_from(label.len())
                .ok()
                .filter(|length| usize::from(*length) <= MAX_LABEL)
                .ok_or(DomainError::LabelTooLong)?;
            if length == 0 {
                return Err(DomainError::Empty);
            }
            wire.push(length);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        if wire.len() + 1 > MAX_NAME {
            return Err(DomainError::NameTooLong);
        }
        Ok(Self(wire.into()))
    }

    /// From what [`Self::as_wire`] gave.
    pub(super) fn from_wire(wire: &[u8]) -> Self {
        Self(wire.into())
    }

    /// The labels behind their length octets, without the root label.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels, leftmost first.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.suffixes()
            .map(|suffix| &suffix[1..=usize::from(suffix[0])])
    }

    /// The name itself, then without its first label, and so on to the last label.
    pub fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let suffix = rest;
            rest = &rest[1 + usize::from(*rest.first()?)..];
            Some(suffix)
        })
    }

    /// Whether the last label is a number: `1.2.3`, `1.2.3.400` and `0x7f000001` are mistyped
    /// or hidden addresses, which clients do not look up, since no top-level domain is one.
    pub fn ends_in_number(&self) -> bool {
        self.labels().last().is_some_and(is_numeric)
    }

    /// Whether this is `ancestor` or a name below it.
    pub fn is_within(&self, ancestor: &Self) -> bool {
        ancestor.0.is_empty() || self.suffixes().any(|suffix| suffix == &*ancestor.0)
    }

    /// This name without `suffix`, if it is a name below it.
    #[must_use]
    pub fn strip_suffix(&self, suffix: &Self) -> Option<Self> {
        let at = self.0.len().checked_sub(suffix.0.len())?;
        (at > 0 && !suffix.0.is_empty() && self.is_within(suffix))
            .then(|| Self(self.0[..at].into()))
    }
}

/// The octet that stands behind a backslash, and what follows (RFC 1035 section 5.1).
fn unescape(text: &[u8]) -> Option<(u8, &[u8])> {
    if let Some((digits, rest)) = text.split_first_chunk::<3>()
        && digits.iter().all(u8::is_ascii_digit)
    {
        let number = digits
            .iter()
            .fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
        return Some((u8::try_from(number).ok()?, rest));
    }
    let (&octet, rest) = text.split_first()?;
    (matches!(octet, 0x21..=0x7e) && !octet.is_ascii_digit()).then_some((octet, rest))
}

/// RFC 1035 section 5.1 presentation format without the final dot; the root is `.`.
/// All but what host names are made of is escaped, so that the text is fit for any
/// terminal and any log, and means the same name as a pattern. So is an `x` where IDNA
/// would make something else of the name, or nothing: `\xn--a`.
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PREFIX: &str = "xn--";
        if !self.0.windows(PREFIX.len()).any(|w| w == PREFIX.as_bytes()) {
            return self.present(f);
        }
        let mut text = String::new();
        self.present(&mut text)?;
        if Self::parse(&text).as_ref() != Ok(self) {
            text = text.replacen(PREFIX, "\\xn--", 1);
        }
        f.write_str(&text)
    }
}

impl Serialize for Domain {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// From what is displayed, the root included.
impl<'de> Deserialize<'de> for Domain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        let name = match &*text {
            "." => Self::from_labels([]),
            _ => Self::parse(&text),
        };
        name.map_err(D::Error::custom)
    }
}

impl Domain {
    fn present(&self, to: &mut impl fmt::Write) -> fmt::Result {
        if self.0.is_empty() {
            return to.write_str(".");
        }
        for (i, label) in self.labels().enumerate() {
            if i > 0 {
                to.write_str(".")?;
            }
            for &octet in label {
                match octet {
                    b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => to.write_char(octet.into())?,
                    b'.' | b'\\' => write!(to, "\\{}", char::from(octet))?,
                    _ => write!(to, "\\{octet:03}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({self})")
    }
}
