//! What the gate reads from its bundle, at start and at every reload.

use super::lists::Lists;
use crate::contract::file;
use crate::error::{Context, Error, Result};
use crate::files::Dir;
use crate::nft::policy::Posture;
use std::net::{IpAddr, SocketAddr};

/// Largest list file, octets.
const MAX_LIST: usize = 4 << 20;
/// Largest of the small files, octets.
const MAX_SMALL: usize = 4096;
/// Most upstream servers used (resolv.conf(5) knows three).
const MAX_SERVERS: usize = 3;
/// The port upstream answers on.
const PORT: u16 = 53;

/// What happens to a query for a name that nobody allowed (`dns.unlisted`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unlisted {
    /// It is refused and nothing goes upstream: DNS is no tunnel out.
    #[default]
    Refuse,
    /// It is answered, and nothing is opened.
    Resolve,
}

/// Everything the gate is told by its bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Allowed and denied names.
    pub lists: Lists,
    /// What the shield does at present.
    pub posture: Posture,
    /// Where questions go.
    pub upstream: Vec<SocketAddr>,
    /// What becomes of names nobody named.
    pub unlisted: Unlisted,
    /// Whether ECH keys are taken out of HTTPS and SVCB answers. Kept by default: the gate opens
    /// by address, and a name hidden in a handshake changes nothing about that.
    pub strip_ech: bool,
}

impl Settings {
    /// Reads the bundle.
    ///
    /// # Errors
    /// Any file that cannot be read or understood, named with its line; nothing is guessed.
    pub fn load(dir: &Dir) -> Result<Self> {
        let list = |name| Ok::<_, Error>(dir.read_text(name, MAX_LIST)?.unwrap_or_default());
        let small = |name| dir.read_text(name, MAX_SMALL);
        let profile = list(file::PROFILE_DOMAINS)?;
        let live = list(file::LIVE_DOMAINS)?;
        let denied = list(file::DENIED_DOMAINS)?;
        let lists = Lists::read(
            &[
                (file::PROFILE_DOMAINS, &profile),
                (file::LIVE_DOMAINS, &live),
            ],
            &[(file::DENIED_DOMAINS, &denied)],
        )?;
        let (unlisted, strip_ech) = read_conf(&small(file::GATE_CONF)?.unwrap_or_default())?;
        Ok(Self {
            lists,
            posture: read_posture(small(file::POSTURE)?)?,
            upstream: read_upstream(&small(file::UPSTREAM_DNS)?.unwrap_or_default())?,
            unlisted,
            strip_ech,
        })
    }
}

fn read_posture(text: Option<String>) -> Result<Posture> {
    match text {
        None => Ok(Posture::Up),
        Some(word) => Posture::from_word(word.trim()).ok_or_else(|| {
            Error::new(format!(
                "cannot read {}: use up, down, disengaged or quarantine",
                file::POSTURE
            ))
        }),
    }
}

/// An address a line; `address:port` is understood too.
fn read_upstream(text: &str) -> Result<Vec<SocketAddr>> {
    let mut servers = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let server = match line.parse::<IpAddr>() {
            Ok(address) => Some(SocketAddr::new(address, PORT)),
            Err(_) => line.parse().ok(),
        };
        servers.push(server.ok_or_else(|| {
            Error::new(format!(
                "cannot read {} line {}: not an IP address",
                file::UPSTREAM_DNS,
                n + 1
            ))
        })?);
    }
    servers.truncate(MAX_SERVERS);
    if servers.is_empty() {
        return Err(Error::new(format!(
            "cannot read {}: it names no DNS server",
            file::UPSTREAM_DNS
        )));
    }
    Ok(servers)
}

fn read_conf(text: &str) -> Result<(Unlisted, bool)> {
    let (mut unlisted, mut strip_ech) = (Unlisted::default(), false);
    for (n, line) in text.lines().enumerate() {
        match line.trim() {
            "" => {}
            "unlisted refuse" => unlisted = Unlisted::Refuse,
            "unlisted resolve" => unlisted = Unlisted::Resolve,
            "ech strip" => strip_ech = true,
            "ech keep" => strip_ech = false,
            _ => {
                return Err(Error::new(format!(
                    "cannot read {} line {}: use 'unlisted refuse|resolve' or 'ech strip|keep'",
                    file::GATE_CONF,
                    n + 1
                )));
            }
        }
    }
    Ok((unlisted, strip_ech))
}

/// The text of `gate.conf` that says this.
pub fn conf_text(unlisted: Unlisted, strip_ech: bool) -> String {
    let unlisted = match unlisted {
        Unlisted::Refuse => "refuse",
        Unlisted::Resolve => "resolve",
    };
    let ech = if strip_ech { "strip" } else { "keep" };
    format!("unlisted {unlisted}\nech {ech}\n")
}

/// Reads `gate.conf`, `upstream.dns` and the lists, to find at prepare what would fail at start.
pub fn check(dir: &Dir) -> Result<()> {
    Settings::load(dir)
        .map(drop)
        .context(|| "the DNS gate could not start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_addresses_with_or_without_a_port() {
        let servers = read_upstream("# x\n192.0.2.1\n\n[2001:db8::1]:5353\n").unwrap();
        assert_eq!(servers[0], "192.0.2.1:53".parse().unwrap());
        assert_eq!(servers[1], "[2001:db8::1]:5353".parse().unwrap());
        for bad in ["", "\n", "dns.example", "1.2.3"] {
            assert!(read_upstream(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_said_is_strict() {
        assert_eq!(read_conf("").unwrap(), (Unlisted::Refuse, false));
        let text = conf_text(Unlisted::Resolve, true);
        assert_eq!(read_conf(&text).unwrap(), (Unlisted::Resolve, true));
        assert!(read_conf("unlisted perhaps").is_err());
        assert_eq!(read_posture(None).unwrap(), Posture::Up);
        assert!(read_posture(Some("open".into())).is_err());
    }
}
