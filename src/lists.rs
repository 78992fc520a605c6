//! What the operator said, as the bundle's list files hold it, and what it adds up to.

use crate::bundle::Bundle;
use crate::contract::file;
use crate::error::{Error, Result};
use crate::ipnet::IpNet;
use crate::nft::intervals::Grant;
use crate::nft::policy::{Inputs, Learning, Service};
use crate::sanitize;
use crate::validate::{Domain, Proto};
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// All lists of a bundle. Reading, changing and writing them back is one transaction under the
/// bundle's lock.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Lists {
    /// `profile.allowed`
    pub profile_allowed: Vec<IpNet>,
    /// `profile.domains`
    pub profile_domains: Vec<Domain>,
    /// `live.allowed`
    pub live_allowed: Vec<IpNet>,
    /// `live.domains`
    pub live_domains: Vec<Domain>,
    /// `live.timed`
    pub timed: Vec<Timed>,
    /// `live.services`
    pub services: Vec<TimedService>,
    /// `deny.list`
    pub deny: Vec<IpNet>,
    /// `denied.domains`
    pub denied_domains: Vec<Domain>,
}

/// A line of `live.timed`: `<network> <deadline>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// What is allowed.
    pub net: IpNet,
    /// Until when, seconds since the epoch.
    pub deadline: u64,
}

/// A line of `live.services`: `<address> <tcp|udp> <port>[ <deadline>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedService {
    /// Destination address.
    pub addr: IpAddr,
    /// Transport protocol.
    pub proto: Proto,
    /// Destination port.
    pub port: u16,
    /// Until when, seconds since the epoch; `None` is for good.
    pub deadline: Option<u64>,
}

impl Lists {
    /// Reads the lists; a line that is wrong is an error that names it.
    pub fn read(bundle: &Bundle) -> Result<Self> {
        Ok(Self {
            profile_allowed: bundle.read_list(file::PROFILE_ALLOWED)?,
            profile_domains: bundle.read_list(file::PROFILE_DOMAINS)?,
            live_allowed: bundle.read_list(file::LIVE_ALLOWED)?,
            live_domains: bundle.read_list(file::LIVE_DOMAINS)?,
            timed: bundle.read_list(file::LIVE_TIMED)?,
            services: bundle.read_list(file::LIVE_SERVICES)?,
            deny: bundle.read_list(file::DENY_LIST)?,
            denied_domains: bundle.read_list(file::DENIED_DOMAINS)?,
        })
    }

    /// Writes the lists that differ from `before`. The caller holds the lock.
    pub fn write(&self, bundle: &Bundle, before: Option<&Self>) -> Result<()> {
        let old = before;
        write_if(
            bundle,
            file::PROFILE_ALLOWED,
            &self.profile_allowed,
            old.map(|o| &o.profile_allowed),
        )?;
        write_if(
            bundle,
            file::PROFILE_DOMAINS,
            &self.profile_domains,
            old.map(|o| &o.profile_domains),
        )?;
        write_if(
            bundle,
            file::LIVE_ALLOWED,
            &self.live_allowed,
            old.map(|o| &o.live_allowed),
        )?;
        write_if(
            bundle,
            file::LIVE_DOMAINS,
            &self.live_domains,
            old.map(|o| &o.live_domains),
        )?;
        write_if(bundle, file::LIVE_TIMED, &self.timed, old.map(|o| &o.timed))?;
        write_if(
            bundle,
            file::LIVE_SERVICES,
            &self.services,
            old.map(|o| &o.services),
        )?;
        write_if(bundle, file::DENY_LIST, &self.deny, old.map(|o| &o.deny))?;
        write_if(
            bundle,
            file::DENIED_DOMAINS,
            &self.denied_domains,
            old.map(|o| &o.denied_domains),
        )
    }

    /// effective allow = (profile.allowed ∪ live.allowed) − deny.list, profile first, first
    /// occurrence wins.
    pub fn allowed(&self) -> Vec<IpNet> {
        let mut seen: HashSet<IpNet> = self.deny.iter().copied().collect();
        let both = self.profile_allowed.iter().chain(&self.live_allowed);
        both.filter(|net| seen.insert(**net)).copied().collect()
    }

    /// (profile.domains ∪ live.domains) − denied.domains, in the same order.
    pub fn domains(&self) -> Vec<Domain> {
        let mut seen: HashSet<&Domain> = self.denied_domains.iter().collect();
        let both = self.profile_domains.iter().chain(&self.live_domains);
        both.filter(|domain| seen.insert(domain)).cloned().collect()
    }

    /// Whether anything in force at `now` ends by itself later.
    pub fn expire_later(&self, now: u64) -> bool {
        self.timed.iter().any(|t| t.deadline > now)
            || self
                .services
                .iter()
                .any(|s| s.deadline.is_some_and(|d| d > now))
    }

    /// Forgets what ended before `now`, seconds since the epoch.
    pub fn drop_expired(&mut self, now: u64) {
        self.timed.retain(|t| t.deadline > now);
        self.services.retain(|s| s.deadline.is_none_or(|d| d > now));
    }

    /// What the lists mean at `now` for the rules, with the bundle's fixed settings.
    pub fn inputs(&self, settings: &Settings, now: u64) -> Inputs {
        let left = |deadline: u64| (deadline - now).saturating_mul(1000);
        let forever = self.allowed().into_iter().map(|net| Grant {
            net,
            remaining: None,
        });
        let timed = self
            .timed
            .iter()
            .filter(|t| t.deadline > now && !self.deny.contains(&t.net))
            .map(|t| Grant {
                net: t.net,
                remaining: Some(left(t.deadline)),
            });
        Inputs {
            learning: settings.learning,
            forwarder: settings.forwarder,
            loopback_ports: settings.loopback_ports.clone(),
            gateways: settings.gateways.clone(),
            allow: forever.chain(timed).collect(),
            deny: self.deny.clone(),
            services: self
                .services
                .iter()
                .filter(|s| s.deadline.is_none_or(|d| d > now))
                .map(|s| Service {
                    addr: s.addr,
                    proto: s.proto.number(),
                    port: s.port,
                    remaining: s.deadline.map(left),
                })
                .collect(),
        }
    }
}

/// What prepare decided about a container's network and no verb changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who fills the sets at run time, by the tier in `dns.tier`.
    pub learning: Learning,
    /// `upstream.dns`
    pub forwarder: Option<IpAddr>,
    /// `loopback.ports`
    pub loopback_ports: Vec<u16>,
    /// `gateways`
    pub gateways: Vec<IpAddr>,
}

impl Settings {
    /// Reads the settings.
    pub fn read(bundle: &Bundle) -> Result<Self> {
        let forwarder = match bundle.read_line(file::UPSTREAM_DNS)? {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                Error::new(format!(
                    "{}: {} is no IP address",
                    file::UPSTREAM_DNS,
                    sanitize::quoted(&text)
                ))
            })?),
        };
        Ok(Self {
            learning: bundle.learning()?,
            forwarder,
            loopback_ports: bundle.read_list(file::LOOPBACK_PORTS)?,
            gateways: bundle.read_list(file::GATEWAYS)?,
        })
    }
}

fn write_if<T: fmt::Display + PartialEq>(
    bundle: &Bundle,
    name: &str,
    new: &[T],
    old: Option<&Vec<T>>,
) -> Result<()> {
    match old {
        Some(old) if old == new => Ok(()),
        _ => bundle.write_list(name, new),
    }
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.net, self.deadline)
    }
}

impl FromStr for Timed {
    type Err = &'static str;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (net, deadline) = line.split_once(' ')?;
            Some(Self {
                net: net.parse().ok()?,
                deadline: deadline.parse().ok()?,
            })
        };
        parse().ok_or("not `network deadline`")
    }
}

impl fmt::Display for TimedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.addr, self.proto.name(), self.port)?;
        self.deadline.map_or(Ok(()), |d| write!(f, " {d}"))
    }
}

impl FromStr for TimedService {
    type Err = &'static str;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut words = line.split(' ');
            let addr = words.next()?.parse().ok()?;
            let proto = words.next()?;
            let proto = [Proto::Tcp, Proto::Udp]
                .into_iter()
                .find(|p| p.name() == proto)?;
            let port = words.next()?.parse().ok().filter(|&p| p != 0)?;
            let deadline = words.next().map(str::parse).transpose().ok()?;
            words.next().is_none().then_some(Self {
                addr,
                proto,
                port,
                deadline,
            })
        };
        parse().ok_or("not `address tcp|udp port[ deadline]`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_round_trip_and_nonsense_does_not_pass() {
        for line in ["192.0.2.0/24 1700000000", "2001:db8::1 5"] {
            assert_eq!(line.parse::<Timed>().unwrap().to_string(), line);
        }
        for line in ["192.0.2.1 tcp 443", "2001:db8::1 udp 53 1700000000"] {
            assert_eq!(line.parse::<TimedService>().unwrap().to_string(), line);
        }
        for bad in ["", "192.0.2.1", "192.0.2.1 x", "x 5"] {
            assert!(bad.parse::<Timed>().is_err(), "{bad:?}");
        }
        for bad in [
            "192.0.2.1 tcp",
            "192.0.2.1 icmp 1",
            "192.0.2.1 tcp 0",
            "192.0.2.1 tcp 1 2 3",
            "192.0.2.0/24 tcp 1",
        ] {
            assert!(bad.parse::<TimedService>().is_err(), "{bad:?}");
        }
    }
}
