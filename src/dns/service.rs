//! The part of a tier that runs beside the container: started, told of changes, stopped.

use super::gate::spawn;
use crate::bundle::Bundle;
use crate::contract::file;
use crate::error::{Error, Result};
use crate::ipnet::IpNet;
use crate::nft::policy::Learning;
use crate::validate::Domain;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where the container's resolv.conf points.
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// Starts the tier's server in the current network namespace and confirms that it answers.
pub fn start(bundle: &Bundle) -> Result<()> {
    match bundle.learning()? {
        Learning::Gate => spawn::start(bundle.dir(), LOCAL).map(drop),
        Learning::Dnsmasq => Err(Error::new(format!(
            "{}: this terok-shield cannot start dnsmasq",
            file::DNS_TIER
        ))),
        Learning::Nobody => Ok(()),
    }
}

/// Stops the tier's server, by identity. One that never ran is no error.
pub fn stop(bundle: &Bundle) -> Result<()> {
    spawn::stop(bundle.dir())
}

/// Has the tier's server read the lists again, and waits until they hold.
pub fn reload(bundle: &Bundle) -> Result<()> {
    match bundle.learning()? {
        Learning::Gate => spawn::reload(bundle.dir()).map(drop),
        Learning::Dnsmasq | Learning::Nobody => Ok(()),
    }
}

/// Opens what a newly allowed name resolves to, for programs that hold an answer from before.
pub fn learn(bundle: &Bundle, domain: &Domain, nets: &[IpNet]) -> Result<()> {
    match bundle.learning()? {
        Learning::Gate if spawn::is_running(bundle.dir()) => {
            let addresses: Vec<IpAddr> = nets.iter().map(IpNet::first).collect();
            spawn::learn(bundle.dir(), domain.name(), &addresses)
        }
        _ => Ok(()),
    }
}

/// Whether the tier's server runs, in a word; `None` where the tier has none.
pub fn health(bundle: &Bundle) -> Result<Option<&'static str>> {
    Ok(match bundle.learning()? {
        Learning::Gate if spawn::is_running(bundle.dir()) => Some("running"),
        Learning::Gate => Some("stopped"),
        Learning::Dnsmasq | Learning::Nobody => None,
    })
}
