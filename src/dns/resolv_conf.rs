//! The host's resolver configuration, resolv.conf(5).

use crate::error::{Context, Result};
use crate::files::read_bounded;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// Servers used at most, as the C libraries do.
const MAX_SERVERS: usize = 3;
/// The largest file read, octets.
const MAX_FILE: usize = 1 << 20;
/// The port name servers answer on.
const PORT: u16 = 53;

/// Where and how to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    /// The servers, first the first.
    pub addresses: Vec<SocketAddr>,
    /// How long one server is waited for (`timeout:n`, at most 30 s).
    pub timeout: Duration,
    /// How many times the whole list is gone through (`attempts:n`, at most 5).
    pub attempts: u32,
    /// Begin each question with the next server (`rotate`).
    pub rotate: bool,
    /// Use EDNS (`edns0`). We do in any case until a server objects.
    pub edns: bool,
    /// Use TCP from the start (`use-vc`).
    pub tcp: bool,
}

impl Servers {
    /// Reads `/etc/resolv.conf`. Without the file, or without a server in it, the local host is
    /// asked, as resolv.conf(5) says.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn of_host() -> Result<Self> {
        let path = "/etc/resolv.conf";
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::parse("")),
            Err(e) => return Err(e).context(|| format!("cannot open {path}")),
        };
        let bytes = read_bounded(file, MAX_FILE, path)?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Reads the text of a resolv.conf. Like the C libraries it passes over what it does not
    /// understand.
    pub fn parse(text: &str) -> Self {
        let mut servers = Self {
            addresses: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            edns: true,
            tcp: false,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(parse_server);
                    if servers.addresses.len() < MAX_SERVERS {
                        servers.addresses.extend(server);
                    }
                }
                Some("options") => words.for_each(|word| servers.option(word)),
                _ => {}
            }
        }
        if servers.addresses.is_empty() {
            servers
                .addresses
                .push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
        }
        servers
    }

    fn option(&mut self, word: &str) {
        let (key, value) = word.split_once(':').unwrap_or((word, ""));
        let number = value.parse::<u32>();
        match (key, number) {
            ("timeout", Ok(n)) => self.timeout = Duration::from_secs(n.clamp(1, 30).into()),
            ("attempts", Ok(n)) => self.attempts = n.clamp(1, 5),
            ("rotate", _) => self.rotate = true,
            ("edns0", _) => self.edns = true,
            ("use-vc", _) => self.tcp = true,
            _ => {}
        }
    }
}

/// An address; IPv6 perhaps with a scope, by number or by the interface's name.
fn parse_server(word: &str) -> Option<SocketAddr> {
    let Some((address, scope)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse::<IpAddr>().ok()?, PORT));
    };
    let scope = scope
        .parse()
        .ok()
        .or_else(|| nix::net::if_::if_nametoindex(scope).ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_options_are_read_as_the_manual_says() {
        let servers = Servers::parse(
            "# comment\nsearch a b\nnameserver 192.0.2.1 # first\n  nameserver\t2001:db8::1\n\
             nameserver nonsense\nnameserver fe80::1%1\nnameserver 192.0.2.9\n\
             options timeout:1 attempts:99 rotate edns0 unknown:x\noptions use-vc ndots:3\n",
        );
        let addresses: Vec<String> = servers.addresses.iter().map(|a| a.to_string()).collect();
        assert_eq!(
            addresses,
            ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]
        );
        assert_eq!(servers.timeout, Duration::from_secs(1));
        assert_eq!(servers.attempts, 5);
        assert!(servers.rotate && servers.tcp);
    }

    #[test]
    fn without_a_server_the_local_host_is_asked() {
        let servers = Servers::parse("options timeout:x\n\0garbage");
        assert_eq!(servers.addresses, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(servers.timeout, Duration::from_secs(5));
    }
}
