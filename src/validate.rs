//! Names, domains, ports and targets as they come from people, files and annotations.
//!
//! Everything here is pure. What passes is safe where it goes next: a name is one path component
//! and one shell word, a domain is lower-case LDH and can stand in a configuration file or a DNS
//! message as it is.

use crate::error::{Error, Result};
use crate::ipnet::IpNet;
use crate::sanitize::quoted;
use std::fmt;
use std::str::FromStr;

/// Longest container or profile name: with `.txt` or a suffix of ours it still fits NAME_MAX.
const NAME_MAX: usize = 200;
/// Longest domain name in text form without the trailing dot (RFC 1035 section 2.3.4).
const DOMAIN_MAX: usize = 253;
/// Longest label of a domain name (RFC 1035 section 2.3.4).
const LABEL_MAX: usize = 63;

/// Checks a container name: `[A-Za-z0-9_][A-Za-z0-9_.-]*`, at most 200 characters.
pub fn container_name(name: &str) -> Result<&str> {
    check_name(
        name,
        "container name",
        |first| first == b'_',
        "a letter, a digit or _",
    )
}

/// Checks a profile name: `[A-Za-z0-9][A-Za-z0-9._-]*`, at most 200 characters.
pub fn profile_name(name: &str) -> Result<&str> {
    check_name(name, "profile name", |_| false, "a letter or a digit")
}

fn check_name<'a>(
    name: &'a str,
    what: &str,
    also_first: fn(u8) -> bool,
    starts: &str,
) -> Result<&'a str> {
    let bytes = name.as_bytes();
    let good = bytes.len() <= NAME_MAX
        && bytes
            .first()
            .is_some_and(|b| b.is_ascii_alphanumeric() || also_first(*b))
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good {
        return Ok(name);
    }
    Err(Error::new(format!(
        "invalid {what} {}: use letters, digits and _ . -, starting with {starts}, \
         at most {NAME_MAX} characters",
        quoted(name)
    )))
}

/// Checks a container id as podman prints it: 12 to 64 lower-case hex digits.
pub fn container_id(id: &str) -> Result<&str> {
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if (12..=64).contains(&id.len()) && id.bytes().all(hex) {
        return Ok(id);
    }
    Err(Error::new(format!(
        "invalid container id {}: use 12 to 64 lower-case hex digits",
        quoted(id)
    )))
}

/// A port: plain decimal from 1 to 65535, no sign, no leading zero.
pub fn port(text: &str) -> Result<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(port) if plain => Ok(port),
        _ => Err(Error::new(format!(
            "invalid port {}: use a number from 1 to 65535",
            quoted(text)
        ))),
    }
}

/// Which names a [`Domain`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `example.org`: the name and all its subdomains.
    Tree,
    /// `*.example.org`: the subdomains only.
    Subdomains,
    /// `=example.org`: the name only.
    Exact,
}

/// A domain name, lower-cased, without its trailing dot, and the names it stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain {
    name: String,
    scope: Scope,
}

impl Domain {
    /// The name itself, without `*.` or `=`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which names are meant.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Whether `name` (lower-case, no trailing dot) is one of those meant.
    pub fn covers(&self, name: &str) -> bool {
        let below = || {
            name.strip_suffix(self.name.as_str())
                .is_some_and(|head| head.len() > 1 && head.ends_with('.'))
        };
        match self.scope {
            Scope::Exact => name == self.name,
            Scope::Subdomains => below(),
            Scope::Tree => name == self.name || below(),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scope {
            Scope::Tree => "",
            Scope::Subdomains => "*.",
            Scope::Exact => "=",
        })?;
        f.write_str(&self.name)
    }
}

impl FromStr for Domain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (scope, rest) = if let Some(rest) = text.strip_prefix("*.") {
            (Scope::Subdomains, rest)
        } else if let Some(rest) = text.strip_prefix('=') {
            (Scope::Exact, rest)
        } else {
            (Scope::Tree, text)
        };
        let name = rest.strip_suffix('.').unwrap_or(rest);
        if let Some(why) = domain_fault(name) {
            return Err(Error::new(format!(
                "invalid domain name {}: {why}",
                quoted(text)
            )));
        }
        Ok(Self {
            name: name.to_ascii_lowercase(),
            scope,
        })
    }
}

/// What is wrong with a bare name, in words; `None` if nothing is.
fn domain_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if !name.is_ascii() {
        return Some("write it in its ASCII form (xn--...)");
    }
    if name.len() > DOMAIN_MAX {
        return Some("it is longer than 253 characters");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Some("it has an empty label");
        }
        if label.len() > LABEL_MAX {
            return Some("a label is longer than 63 characters");
        }
        let ldh = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if !label.bytes().all(ldh) {
            return Some("use letters, digits, - and _ between dots, with at most one leading *.");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some("a label may not start or end with -");
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if is_number(last) {
        // inet_aton(3) and the WHATWG host parser read 127.1, 0x7f.1 and 2130706433 as addresses;
        // a name that some programs take for an address must not pass as a domain.
        return Some(
            "it ends in a number, so it could be taken for an address; write addresses in full",
        );
    }
    None
}

/// A label that inet_aton(3) would read as a number: decimal, octal or `0x` hexadecimal.
fn is_number(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// Something one allows or denies whole: an address, a network or a domain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address or a network, canonical.
    Net(IpNet),
    /// A domain.
    Domain(Domain),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Net(net) => net.fmt(f),
            Host::Domain(domain) => domain.fmt(f),
        }
    }
}

impl FromStr for Host {
    type Err = Error;

    /// Whatever holds a `/` or a `:` can only be meant as an address, and the error says so.
    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(net) => Ok(Host::Net(net)),
            Err(_) if !text.contains(['/', ':']) => text.parse().map(Host::Domain),
            Err(why) => Err(Error::new(format!(
                "invalid address {}: {why}",
                quoted(text)
            ))),
        }
    }
}

/// Transport protocol of a single service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proto {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
}

impl Proto {
    /// The IP protocol number (`IPPROTO_*` in linux/in.h).
    pub fn number(self) -> u8 {
        match self {
            Proto::Tcp => 6,
            Proto::Udp => 17,
        }
    }

    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        }
    }
}

/// What `allow` and `deny` take: a host, or one port of it.
///
/// `host`, `host:port`, `host:port/udp`, `[2001:db8::1]:port`; without a protocol TCP is meant.
/// An unbracketed IPv6 text is always an address, never an address and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The one service meant; `None` is everything.
    pub service: Option<(Proto, u16)>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((proto, port)) = self.service else {
            return self.host.fmt(f);
        };
        match &self.host {
            Host::Net(net) if !net.is_ipv4() => write!(f, "[{net}]")?,
            host => host.fmt(f)?,
        }
        write!(f, ":{port}/{}", proto.name())
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((host, service)) = split_service(text) else {
            let host = text.parse()?;
            return Ok(Self {
                host,
                service: None,
            });
        };
        let (port_text, proto) = match service.split_once('/') {
            None | Some((_, "tcp")) => (service.split('/').next().unwrap_or(""), Proto::Tcp),
            Some((port, "udp")) => (port, Proto::Udp),
            Some((_, other)) => {
                return Err(Error::new(format!(
                    "invalid protocol {} in {}: use tcp or udp",
                    quoted(other),
                    quoted(text)
                )));
            }
        };
        let host: Host = host.parse()?;
        if matches!(&host, Host::Net(net) if !net.is_host()) {
            return Err(Error::new(format!(
                "invalid target {}: a port goes with one address or domain, not with a network",
                quoted(text)
            )));
        }
        Ok(Self {
            host,
            service: Some((proto, port(port_text)?)),
        })
    }
}

/// The host and what follows its `:`; `None` where there is no port.
fn split_service(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once("]:");
    }
    let (host, service) = text.split_once(':')?;
    (!service.contains(':')).then_some((host, service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_safe_path_component() {
        for good in ["web", "_x", "0", "a.b-c_d", &"x".repeat(200)] {
            assert_eq!(container_name(good).unwrap(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "-x",
            ".x",
            "a/b",
            "a b",
            "a\n",
            "é",
            "a\0",
            &"x".repeat(201),
        ] {
            let error = container_name(bad).unwrap_err().to_string();
            assert!(error.starts_with("invalid container name \""), "{error}");
            assert!(!error.contains('\n') && error.is_ascii(), "{error}");
        }
        assert!(profile_name("dev-standard").is_ok());
        assert!(profile_name("_x").is_err());
        assert!(profile_name("../etc").is_err());
    }

    #[test]
    fn ids_are_hex() {
        assert!(container_id("0123456789ab").is_ok());
        assert!(container_id(&"f".repeat(64)).is_ok());
        for bad in [
            "",
            "0123456789a",
            &"f".repeat(65),
            "0123456789AB",
            "0123456789a/",
        ] {
            assert!(container_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_plain_numbers() {
        assert_eq!(port("1").unwrap(), 1);
        assert_eq!(port("65535").unwrap(), 65535);
        for bad in [
            "",
            "0",
            "65536",
            "+80",
            "-1",
            "080",
            "8 0",
            "http",
            "99999999999",
        ] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn domains_are_stored_in_one_form() {
        for (given, stored) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("*.Example.org", "*.example.org"),
            ("=Example.org.", "=example.org"),
            (
                "_dmarc.xn--bcher-kva.example",
                "_dmarc.xn--bcher-kva.example",
            ),
            ("localhost", "localhost"),
            ("1.2.3.4.in-addr.arpa", "1.2.3.4.in-addr.arpa"),
            ("3com.com", "3com.com"),
        ] {
            assert_eq!(given.parse::<Domain>().unwrap().to_string(), stored);
        }
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        let long_label = format!("{}.org", "a".repeat(64));
        let long_name = format!("{}.org", "a.".repeat(130));
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.org..",
            "*",
            "*.",
            "=",
            "*.*.org",
            "a.*.org",
            "=*.org",
            "*.=org",
            "-a.org",
            "a-.org",
            "a b.org",
            "a/b",
            "a.org:443",
            "bücher.de",
            "a\n.org",
            "a;b.org",
            "127.1",
            "2130706433",
            "1.2.3.4",
            "0x7f.0x1",
            "0x7f000001",
            "a.0X7F",
            "a.0x",
            "1.2.3.4.",
            "256.256.256.256",
            &long_label,
            &long_name,
        ] {
            let error = bad.parse::<Domain>().unwrap_err().to_string();
            assert!(
                error.starts_with("invalid domain name \""),
                "{bad:?}: {error}"
            );
        }
    }

    #[test]
    fn the_length_limits_are_exact() {
        let label = "a".repeat(63);
        let name = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(name.len(), 253);
        assert!(name.parse::<Domain>().is_ok());
        assert!(format!("{name}.").parse::<Domain>().is_ok());
        assert!(format!("*.{name}").parse::<Domain>().is_ok());
        assert!(format!("{name}a").parse::<Domain>().is_err());
    }

    #[test]
    fn a_domain_covers_what_its_form_says() {
        for (domain, name, covered) in [
            ("a.org", "a.org", true),
            ("a.org", "x.a.org", true),
            ("a.org", "y.x.a.org", true),
            ("a.org", "xa.org", false),
            ("a.org", ".a.org", false),
            ("a.org", "org", false),
            ("*.a.org", "a.org", false),
            ("*.a.org", "x.a.org", true),
            ("=a.org", "a.org", true),
            ("=a.org", "x.a.org", false),
        ] {
            let parsed: Domain = domain.parse().unwrap();
            assert_eq!(parsed.covers(name), covered, "{domain} {name}");
        }
    }

    #[test]
    fn targets_are_hosts_or_single_services() {
        for (given, stored) in [
            ("10.0.0.5/24", "10.0.0.0/24"),
            ("2001:0db8::1", "2001:db8::1"),
            ("2001:db8::1:443", "2001:db8::1:443"),
            ("GitHub.com", "github.com"),
            ("github.com:443", "github.com:443/tcp"),
            ("192.0.2.1:53/udp", "192.0.2.1:53/udp"),
            ("192.0.2.1/32:53", "192.0.2.1:53/tcp"),
            ("[2001:db8::1]:22/tcp", "[2001:db8::1]:22/tcp"),
        ] {
            assert_eq!(given.parse::<Target>().unwrap().to_string(), stored);
        }
        for bad in [
            "",
            ":443",
            "a.org:",
            "a.org:0",
            "a.org:443/",
            "a.org:443/sctp",
            "a.org:443/tcp/x",
            "10.0.0.0/8:443",
            "10.0.0.0/33",
            "[::1]",
            "[::1]:",
            "[::1",
            "a.org/24",
            "1.2.3",
            "[a.org:1",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
