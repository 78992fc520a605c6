//! A domain name in wire form: length-prefixed labels, lower case, the root label last.
//!
//! The one form in which names are compared, stored and hashed. 255 octets at most and 63 a label
//! (RFC 1035 section 2.3.4); comparison is case-insensitive in ASCII only (RFC 4343).

use std::fmt;

/// Longest name in wire form, octets, root label included (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;
/// Longest label, octets.
pub const MAX_LABEL: usize = 63;

/// A domain name of at most 255 octets, kept without an allocation.
#[derive(Clone, Copy)]
pub struct Name {
    len: u8,
    bytes: [u8; MAX_NAME],
}

/// Why a text is no domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// No label, or an empty one between two dots.
    Empty,
    /// A label over 63 octets.
    LongLabel,
    /// More than 255 octets in all.
    LongName,
    /// A character that is no letter, digit, hyphen or underscore.
    Character,
    /// A label that begins or ends with a hyphen.
    Hyphen,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a label is empty",
            Self::LongLabel => "a label is longer than 63 characters",
            Self::LongName => "the name is longer than 253 characters",
            Self::Character => "only letters, digits, '-', '_' and '.' make a domain name",
            Self::Hyphen => "a label begins or ends with '-'",
        })
    }
}

impl std::error::Error for NameError {}

impl Name {
    /// The root: the name with no labels.
    pub const ROOT: Name = Name {
        len: 1,
        bytes: [0; MAX_NAME],
    };

    /// Reads a host name (`Example.org`, one trailing dot allowed) and lower-cases it. Labels
    /// are letters, digits, hyphens and underscores.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut name = Self::ROOT;
        let mut at = 0;
        for label in text.split('.') {
            let label = label.as_bytes();
            let (first, last) = match label {
                [] => return Err(NameError::Empty),
                [only] => (*only, *only),
                [first, .., last] => (*first, *last),
            };
            if label.len() > MAX_LABEL {
                return Err(NameError::LongLabel);
            }
            if !label
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            {
                return Err(NameError::Character);
            }
            if first == b'-' || last == b'-' {
                return Err(NameError::Hyphen);
            }
            if at + 1 + label.len() + 1 > MAX_NAME {
                return Err(NameError::LongName);
            }
            name.bytes[at] = label.len() as u8;
            name.bytes[at + 1..at + 1 + label.len()].copy_from_slice(label);
            at += 1 + label.len();
        }
        name.bytes[..at].make_ascii_lowercase();
        name.bytes[at] = 0;
        name.len = at as u8 + 1;
        Ok(name)
    }

    /// Takes an uncompressed wire name that fills `wire` exactly, lower-casing it.
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        if wire.len() > MAX_NAME {
            return None;
        }
        let mut at = 0;
        loop {
            let len = usize::from(*wire.get(at)?);
            if len == 0 {
                break;
            }
            if len > MAX_LABEL {
                return None;
            }
            at += 1 + len;
        }
        if at + 1 != wire.len() {
            return None;
        }
        let mut name = Self::ROOT;
        name.bytes[..wire.len()].copy_from_slice(wire);
        name.bytes[..wire.len()].make_ascii_lowercase();
        name.len = wire.len() as u8;
        Some(name)
    }

    /// The wire form, lower case.
    pub fn wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.len == 1
    }

    /// The labels, leftmost first, without the root label.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        suffixes(self.wire()).filter_map(|s| s.get(1..1 + usize::from(*s.first()?)))
    }

    /// Whether `self` is `ancestor` or lies under it.
    pub fn is_within(&self, ancestor: &Name) -> bool {
        suffixes(self.wire()).any(|s| s == ancestor.wire()) || ancestor.is_root()
    }

    /// The text form. Octets other than letters, digits, `-` and `_` become `\DDD`
    /// (RFC 1035 section 5.1), so that the result is always printable ASCII.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(usize::from(self.len));
        for label in self.labels() {
            if !text.is_empty() {
                text.push('.');
            }
            for &b in label {
                if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'*') {
                    text.push(char::from(b));
                } else {
                    text.push('\\');
                    for digit in [b / 100, b / 10 % 10, b % 10] {
                        text.push(char::from(b'0' + digit));
                    }
                }
            }
        }
        if text.is_empty() {
            text.push('.');
        }
        text
    }
}

/// A wire name and each of its ancestors, longest first, without the root.
pub fn suffixes(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let len = usize::from(*rest.first()?);
        if len == 0 || len > MAX_LABEL {
            return None;
        }
        let this = rest;
        rest = rest.get(1 + len..).unwrap_or(&[]);
        Some(this)
    })
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.wire() == other.wire()
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.wire().cmp(other.wire())
    }
}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.wire().hash(state);
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_cased_and_compare_without_case() {
        let a = Name::parse("WWW.Example.ORG.").unwrap();
        assert_eq!(a, Name::parse("www.example.org").unwrap());
        assert_eq!(a.to_text(), "www.example.org");
        assert_eq!(a.wire(), b"\x03www\x07example\x03org\x00");
        assert_eq!(Name::from_wire(b"\x03WwW\x07eXample\x03org\x00"), Some(a));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(64);
        let total = ["abcdefgh"; 29].join(".");
        for (bad, why) in [
            ("", NameError::Empty),
            ("..", NameError::Empty),
            ("a..b", NameError::Empty),
            (".a", NameError::Empty),
            (long.as_str(), NameError::LongLabel),
            (total.as_str(), NameError::LongName),
            ("a b", NameError::Character),
            ("exämple.org", NameError::Character),
            ("*.a", NameError::Character),
            ("a/b", NameError::Character),
            ("-a.org", NameError::Hyphen),
            ("a-.org", NameError::Hyphen),
        ] {
            assert_eq!(Name::parse(bad), Err(why), "{bad}");
        }
        for bad in [
            &b""[..],
            b"\x01a",
            b"\x40a\0",
            b"\0\0",
            b"\xc0\0",
            b"\x05ab\0",
        ] {
            assert_eq!(Name::from_wire(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_longest_name_fits_and_one_octet_more_does_not() {
        // 63+1 three times, 61+1, root: 255.
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(Name::parse(&longest).unwrap().wire().len(), MAX_NAME);
        assert_eq!(
            Name::parse(&format!("{longest}b")),
            Err(NameError::LongName)
        );
    }

    #[test]
    fn a_name_lies_within_its_ancestors_only() {
        let name = Name::parse("a.example.org").unwrap();
        for (ancestor, within) in [
            ("a.example.org", true),
            ("example.org", true),
            ("org", true),
            ("ample.org", false),
            ("b.example.org", false),
            ("x.a.example.org", false),
        ] {
            assert_eq!(
                name.is_within(&Name::parse(ancestor).unwrap()),
                within,
                "{ancestor}"
            );
        }
        assert!(name.is_within(&Name::ROOT));
    }

    #[test]
    fn octets_that_would_deceive_a_terminal_are_escaped() {
        let name = Name::from_wire(b"\x04a.\x1b\"\x02\xe2\x80\x00").unwrap();
        assert_eq!(name.to_text(), "a\\046\\027\\034.\\226\\128");
        assert_eq!(Name::ROOT.to_text(), ".");
    }
}
