//! The part of a tier that runs beside the container: started, told of changes, stopped.

use super::gate::spawn;
use super::lo;
use super::resolv_conf::Servers;
use crate::bundle::Bundle;
use crate::contract::{self, file};
use crate::error::{Error, Result};
use crate::ipnet::IpNet;
use crate::nft::policy::Learning;
use crate::validate::{Domain, Scope};
use std::net::{IpAddr, SocketAddr};

/// The port name servers answer on.
const PORT: u16 = 53;

/// Where the container's `resolv.conf` points: 127.0.0.1 where it says nothing.
fn listen(bundle: &Bundle) -> Result<SocketAddr> {
    let text = bundle.dir().read_text(file::RESOLV_CONF, 4096)?;
    let first = Servers::parse(&text.unwrap_or_default()).addresses[0].ip();
    let krun = Some(first) == contract::KRUN_DNS.parse().ok();
    if !first.is_loopback() && !krun {
        return Err(Error::new(format!(
            "{} names {first}, which is not an address of the container's own",
            file::RESOLV_CONF
        )));
    }
    Ok(SocketAddr::new(first, PORT))
}

/// Readies the loopback interface for a server at this address: a second user namespace gets
/// its network only after the hooks, and a krun guest reaches its host at an address of its own.
fn prepare_loopback(at: SocketAddr) -> Result<()> {
    lo::bring_up()?;
    match at.ip() {
        IpAddr::V4(address) if !address.is_loopback() => lo::add_address(address),
        _ => Ok(()),
    }
}

/// Starts the tier's server in the current network namespace and confirms that it answers.
pub fn start(bundle: &Bundle) -> Result<()> {
    let start = match bundle.learning()? {
        Learning::Gate => spawn::start,
        Learning::Dnsmasq => spawn::start_dnsmasq,
        Learning::Nobody => return Ok(()),
    };
    let listen = listen(bundle)?;
    prepare_loopback(listen)?;
    start(bundle.dir(), listen).map(drop)
}

/// Stops the tier's server, by identity. One that never ran is no error.
pub fn stop(bundle: &Bundle) -> Result<()> {
    spawn::stop(bundle.dir())
}

/// Has the tier's server read the lists again, and waits until they hold.
pub fn reload(bundle: &Bundle) -> Result<()> {
    match bundle.learning()? {
        Learning::Gate | Learning::Dnsmasq => spawn::reload(bundle.dir()).map(drop),
        Learning::Nobody => Ok(()),
    }
}

/// Opens what a newly allowed name resolves to, for programs that hold an answer from before.
pub fn learn(bundle: &Bundle, domain: &Domain, nets: &[IpNet]) -> Result<()> {
    match bundle.learning()? {
        // Of `*.name` nobody can say which names it has.
        _ if domain.scope() == Scope::Subdomains => Ok(()),
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
        Learning::Nobody => None,
        _ if spawn::is_running(bundle.dir()) => Some("running"),
        _ => Some("stopped"),
    })
}
