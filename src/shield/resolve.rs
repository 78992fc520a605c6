//! Names to addresses, the tier's way, before anything is opened for them.

use super::Container;
use super::change::Resolved;
use crate::audit::Action;
use crate::config::Tier;
use crate::contract::file;
use crate::dns::getent;
use crate::dns::name::Name;
use crate::dns::resolv_conf::Servers;
use crate::dns::resolver;
use crate::error::{Error, Result};
use crate::ipnet::IpNet;
use crate::nft::policy;
use crate::sanitize;
use crate::validate::{Domain, Host, Target};
use std::net::IpAddr;
use std::time::Duration;

/// How long all names of a container's profiles together may take.
pub const OF_PROFILES: Duration = Duration::from_secs(15);

/// How long one name may take whose verdict does not depend on the answer: a `deny` waits for it.
const OF_FOLLOWED: Duration = Duration::from_secs(4);

/// What names resolved to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Public addresses, in the order of the names, each once.
    pub nets: Vec<IpNet>,
    /// Private addresses that names resolved to: never opened for a name.
    pub private: Vec<(String, IpAddr)>,
    /// Names without an address, each with the reason.
    pub failed: Vec<(String, String)>,
}

/// Resolves the names of these domains: the name itself, and for `*.name` its parent, which is
/// all that can be asked about an unknown subdomain.
pub fn resolve(domains: &[Domain], tier: Tier, limit: Duration) -> Result<Addresses> {
    let mut out = Addresses::default();
    let mut names = Vec::with_capacity(domains.len());
    for domain in domains {
        match Name::parse(domain.name()) {
            Ok(name) => names.push(name),
            Err(e) => out.failed.push((domain.to_string(), e.to_string())),
        }
    }
    if names.is_empty() {
        return Ok(out);
    }
    let resolved = match tier {
        Tier::Getent => getent::resolve(&names, limit),
        _ => resolver::resolve(&names, &Servers::of_host()?, limit),
    };
    let mut seen = std::collections::HashSet::new();
    for (name, result) in resolved {
        match result {
            Err(why) => out.failed.push((name.to_text(), why.to_string())),
            Ok(addresses) => {
                for addr in addresses {
                    let net = IpNet::from(addr);
                    if policy::is_private(&net) || policy::touches_hard_floor(&net) {
                        out.private.push((name.to_text(), addr));
                    } else if seen.insert(net) {
                        out.nets.push(net);
                    }
                }
            }
        }
    }
    Ok(out)
}

/// The tier of a bundle; bundles of other tools may name none.
pub fn tier_of(c: &Container) -> Result<Tier> {
    let name = c.bundle.read_line(file::DNS_TIER)?;
    Ok(name
        .as_deref()
        .and_then(Tier::from_name)
        .unwrap_or(Tier::Dig))
}

/// What a verb's target stands for now. A name without any address is an error where the tier
/// cannot open it later.
pub fn resolve_target(c: &Container, target: Target) -> Result<Resolved> {
    let domain = match &target.host {
        Host::Net(net) => {
            let nets = vec![*net];
            return Ok(Resolved { target, nets });
        }
        Host::Domain(domain) => domain.clone(),
    };
    let tier = tier_of(c)?;
    let follows = matches!(tier, Tier::Gate | Tier::Dnsmasq) && target.service.is_none();
    let limit = if follows { OF_FOLLOWED } else { OF_PROFILES };
    let found = resolve(&[domain], tier, limit)?;
    for (name, addr) in &found.private {
        let note = format!("{name} resolves to the private address {addr}: not opened");
        c.log(Action::Note, Some(name), Some(&note));
    }
    if found.nets.is_empty() && !follows {
        let why = match (found.private.first(), found.failed.first()) {
            (Some((_, addr)), _) => format!("it resolves to the private address {addr}"),
            (None, Some((_, why))) => why.clone(),
            (None, None) => "it has no address".into(),
        };
        return Err(Error::new(format!(
            "cannot resolve {}: {}",
            target.host,
            sanitize::text(&why)
        )));
    }
    Ok(Resolved {
        target,
        nets: found.nets,
    })
}
