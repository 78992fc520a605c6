//! The part of a tier that runs beside the container: started, told of changes, stopped.

use super::gate::spawn;
use crate::bundle::Bundle;
use crate::contract::file;
use crate::error::{Error, Result};
use crate::nft::policy::Learning;
use std::net::{Ipv4Addr, SocketAddr};

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
