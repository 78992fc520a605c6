//! Which names the operator allowed and denied. Denied beats allowed, whatever is more specific.

use crate::dns::name::{Name, suffixes};
use crate::error::{Context, Error, Result};
use crate::validate::{Domain, Scope};

/// What the lists say of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Resolve it and open its addresses.
    Allowed,
    /// The operator denied it.
    Denied,
    /// Nobody named it.
    Unlisted,
}

/// One list: names in wire form, sorted, and what of each is meant.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Domains(Vec<(Box<[u8]>, Reach)>);

/// What of a listed name is meant: itself, what lies under it, or both.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reach {
    itself: bool,
    below: bool,
}

/// Names of a list file at most; a profile has some hundred.
const MAX_DOMAINS: usize = 65_536;

impl Domains {
    fn read(texts: &[(&str, &str)]) -> Result<Self> {
        let mut list = Vec::new();
        for (file, text) in texts {
            for (n, line) in text.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let what = || format!("cannot read {file} line {}", n + 1);
                let domain: Domain = line.parse().context(what)?;
                let name = Name::parse(domain.name())
                    .map_err(|e| Error::new(e.to_string()))
                    .context(what)?;
                let reach = Reach {
                    itself: domain.scope() != Scope::Subdomains,
                    below: domain.scope() != Scope::Exact,
                };
                if list.len() == MAX_DOMAINS {
                    return Err(Error::new(format!(
                        "cannot read {file}: more than {MAX_DOMAINS} domains"
                    )));
                }
                list.push((name.wire().into(), reach));
            }
        }
        crate::sort::sort(&mut list);
        list.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1.itself |= later.1.itself;
                first.1.below |= later.1.below;
            }
            same
        });
        list.shrink_to_fit();
        Ok(Self(list))
    }

    fn covers(&self, wire: &[u8]) -> bool {
        suffixes(wire).any(|suffix| {
            let found = self.0.binary_search_by(|(name, _)| (**name).cmp(suffix));
            found.is_ok_and(|at| {
                let reach = self.0[at].1;
                if suffix.len() == wire.len() {
                    reach.itself
                } else {
                    reach.below
                }
            })
        })
    }
}

/// The allowed and the denied names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Lists {
    allowed: Domains,
    denied: Domains,
}

impl Lists {
    /// Reads the texts of list files, each given with its file name for the error message.
    ///
    /// # Errors
    /// A line that is no domain: nothing is guessed, and half a list is no list.
    pub fn read(allowed: &[(&str, &str)], denied: &[(&str, &str)]) -> Result<Self> {
        Ok(Self {
            allowed: Domains::read(allowed)?,
            denied: Domains::read(denied)?,
        })
    }

    /// What the lists say of this name.
    pub fn verdict(&self, name: &Name) -> Verdict {
        self.verdict_of_wire(name.wire())
    }

    /// As [`Lists::verdict`], for a lower-case name in wire form.
    pub fn verdict_of_wire(&self, wire: &[u8]) -> Verdict {
        if self.denied.covers(wire) {
            Verdict::Denied
        } else if self.allowed.covers(wire) {
            Verdict::Allowed
        } else {
            Verdict::Unlisted
        }
    }

    /// Numbers of allowed and denied entries.
    pub fn counts(&self) -> (usize, usize) {
        (self.allowed.0.len(), self.denied.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(allowed: &str, denied: &str, name: &str) -> Verdict {
        Lists::read(&[("a", allowed)], &[("d", denied)])
            .unwrap()
            .verdict(&Name::parse(name).unwrap())
    }

    #[test]
    fn a_plain_name_covers_itself_and_its_subdomains() {
        let list = "# comment\n\nExample.org\n";
        for (name, expected) in [
            ("example.org", Verdict::Allowed),
            ("a.b.example.org", Verdict::Allowed),
            ("badexample.org", Verdict::Unlisted),
            ("org", Verdict::Unlisted),
        ] {
            assert_eq!(verdict(list, "", name), expected, "{name}");
        }
    }

    #[test]
    fn a_star_means_below_only_and_an_equals_sign_itself_only() {
        assert_eq!(verdict("*.a.org", "", "a.org"), Verdict::Unlisted);
        assert_eq!(verdict("*.a.org", "", "x.a.org"), Verdict::Allowed);
        assert_eq!(verdict("=a.org", "", "a.org"), Verdict::Allowed);
        assert_eq!(verdict("=a.org", "", "x.a.org"), Verdict::Unlisted);
        assert_eq!(verdict("=a.org\n*.a.org", "", "x.a.org"), Verdict::Allowed);
        assert_eq!(verdict("*.a.org\n=a.org", "", "a.org"), Verdict::Allowed);
    }

    #[test]
    fn denied_wins_even_where_the_allowance_is_closer() {
        assert_eq!(verdict("x.a.org", "a.org", "x.a.org"), Verdict::Denied);
        assert_eq!(verdict("a.org", "x.a.org", "y.x.a.org"), Verdict::Denied);
        assert_eq!(verdict("a.org", "x.a.org", "a.org"), Verdict::Allowed);
        assert_eq!(verdict("a.org", "*.a.org", "a.org"), Verdict::Allowed);
    }

    #[test]
    fn a_line_that_is_no_domain_is_an_error_that_names_it() {
        let error = Lists::read(&[("live.domains", "a.org\nno domain\n")], &[]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot read live.domains line 2: "),
            "{error}"
        );
    }
}
