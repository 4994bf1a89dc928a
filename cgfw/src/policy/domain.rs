//! Domain names as lower-cased wire labels, the only form in which they are compared.

use std::fmt;

/// RFC 1035 section 2.3.4, in octets, with the root label.
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;

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
    LabelTooLong,
    NameTooLong,
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a domain name has at least one label, and no empty ones",
            Self::Idna => "not a valid internationalised domain name",
            Self::LabelTooLong => "a label has at most 63 octets",
            Self::NameTooLong => "a domain name has at most 255 octets",
        })
    }
}

impl std::error::Error for DomainError {}

impl Domain {
    /// Parse what a person writes: any case, IDNA (UTS 46), an optional final dot.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        // STD3 rules stay off: `_dmarc.example.com` is a name that people block.
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::URL)
            .map_err(|_ignored| DomainError::Idna)?;
        Self::from_labels(ascii.split('.').map(str::as_bytes))
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

/// RFC 1035 section 5.1 presentation format without the final dot; the root is `.`.
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(".");
        }
        for (i, label) in self.labels().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            for &octet in label {
                match octet {
                    b'.' | b'\\' | b'"' | b';' | b'@' | b'$' | b'(' | b')' => {
                        write!(f, "\\{}", char::from(octet))?;
                    }
                    0x21..=0x7e => write!(f, "{}", char::from(octet))?,
                    _ => write!(f, "\\{octet:03}")?,
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
