//! What the DNS tier wrote down: dnsmasq's query log and the gate's feed.

use crate::dns::gate::feed::{self, Record};
use std::net::IpAddr;

/// One thing a DNS log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<'a> {
    /// The workload asked for a name.
    Query {
        /// The name.
        name: &'a str,
        /// `A`, `AAAA`, `type=65`, ...
        query_type: &'a str,
    },
    /// A name's alias chain goes on.
    Alias {
        /// The name that has an alias.
        name: &'a str,
    },
    /// A name has this address.
    Address {
        /// The name.
        name: &'a str,
        /// The address.
        address: IpAddr,
    },
}

/// Reads a line of dnsmasq's log, with or without `log-queries=extra`:
/// `Nov 23 18:00:00 dnsmasq[7]: [5 127.0.0.1/4000 ]query[A] example.com from 127.0.0.1`.
pub fn parse_dnsmasq(line: &str) -> Option<Said<'_>> {
    // The first "]: " ends the process tag; a name can only stand behind it.
    let mut rest = line.split_once("]: ")?.1.trim_start();
    if rest.starts_with(|c: char| c.is_ascii_digit()) {
        rest = rest.split_once(' ')?.1;
        rest = rest.trim_start().split_once(' ')?.1;
    }
    let mut words = rest.trim_start().splitn(4, ' ');
    let (kind, name, link, value) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if let Some(kind) = kind.strip_prefix("query[") {
        let query_type = kind.strip_suffix(']')?;
        return (link == "from").then_some(Said::Query { name, query_type });
    }
    if !matches!(kind, "reply" | "cached") || link != "is" {
        return None;
    }
    if value == "<CNAME>" {
        return Some(Said::Alias { name });
    }
    let address = value.parse().ok()?;
    Some(Said::Address { name, address })
}

/// Turns dnsmasq's lines into (address, queried name): an alias chain belongs to its first name,
/// because that is the one the workload asked for and a person recognises.
#[derive(Debug, Default)]
pub struct Answers {
    head: Option<String>,
}

impl Answers {
    /// Takes one line; the pair it completes.
    pub fn line<'a>(&'a mut self, line: &'a str) -> Option<(IpAddr, &'a str)> {
        match parse_dnsmasq(line) {
            Some(Said::Alias { name }) => {
                if self.head.is_none() {
                    // 255: the longest name there is.
                    self.head = Some(name.chars().take(255).collect());
                }
                None
            }
            Some(Said::Address { name, address }) => {
                Some((address, self.head.as_deref().unwrap_or(name)))
            }
            Some(Said::Query { .. }) => {
                self.head = None;
                None
            }
            None => None,
        }
    }
}

/// Calls `each` with every (address, queried name) of a line of the gate's feed.
pub fn feed_answers(line: &str, mut each: impl FnMut(IpAddr, &str)) {
    if let Some(Record::Answer {
        name, addresses, ..
    }) = feed::parse(line)
    {
        for address in addresses {
            each(address, name);
        }
    }
}

/// Whether a name is one of the domains or below one (`*.` in front of a domain means the same,
/// as dnsmasq reads it).
pub fn covered(name: &str, domains: &[String]) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    domains.iter().any(|domain| {
        let domain = domain.strip_prefix("*.").unwrap_or(domain);
        name.strip_suffix(domain)
            .is_some_and(|head| head.is_empty() || head.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
Nov 23 18:00:00 dnsmasq[7]: query[A] www.example.com from 127.0.0.1
Nov 23 18:00:00 dnsmasq[7]: forwarded www.example.com to 10.0.2.3
Nov 23 18:00:00 dnsmasq[7]: reply www.example.com is <CNAME>
Nov 23 18:00:00 dnsmasq[7]: reply edge.cdn.example is 192.0.2.7
Nov 23 18:00:00 dnsmasq[7]: nftset add 4 inet terok_shield allow_v4 192.0.2.7 www.example.com
Nov 23 18:00:00 dnsmasq[7]: reply edge.cdn.example is 2001:db8::7
Nov 23 18:00:01 dnsmasq[7]: 9 127.0.0.1/4000 query[AAAA] b.example from 127.0.0.1
Nov 23 18:00:01 dnsmasq[7]: 9 127.0.0.1/4000 reply b.example is 192.0.2.8
Nov 23 18:00:01 dnsmasq[7]: reply c.example is NXDOMAIN
Nov 23 18:00:01 dnsmasq[7]: config d.example is 0.0.0.0
";

    #[test]
    fn answers_carry_the_name_that_was_asked_for() {
        let mut answers = Answers::default();
        let pairs: Vec<_> = LOG
            .lines()
            .filter_map(|l| answers.line(l).map(|(a, n)| (a.to_string(), n.to_string())))
            .collect();
        let expected = [
            ("192.0.2.7", "www.example.com"),
            ("2001:db8::7", "www.example.com"),
            ("192.0.2.8", "b.example"),
        ];
        assert_eq!(pairs, expected.map(|(a, n)| (a.to_string(), n.to_string())));
    }

    #[test]
    fn queries_are_read_and_a_forged_tag_in_a_name_is_not() {
        let query = parse_dnsmasq("x dnsmasq[7]: query[type=65] a.example from 127.0.0.1");
        assert_eq!(
            query,
            Some(Said::Query {
                name: "a.example",
                query_type: "type=65"
            })
        );
        let forged = "x dnsmasq[7]: query[A] a]: reply evil.example is 192.0.2.9 from 127.0.0.1";
        assert_eq!(parse_dnsmasq(forged), None);
        for bad in [
            "",
            "]: ",
            "]: 5",
            "x]: query[A",
            "x]: query[A] a",
            "\u{202e}]: 1 ",
        ] {
            assert_eq!(parse_dnsmasq(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_domain_covers_what_is_below_it() {
        let domains = ["example.com".to_string(), "*.wild.example".to_string()];
        for name in [
            "example.com",
            "WWW.Example.com.",
            "a.wild.example",
            "wild.example",
        ] {
            assert!(covered(name, &domains), "{name}");
        }
        for name in ["badexample.com", "com", "", "example.com.evil.example"] {
            assert!(!covered(name, &domains), "{name}");
        }
    }
}
