//! The gate's opener for real: elements of the learned sets, over netlink, and the flows to what
//! is closed.

use super::door::Opener;
use crate::conntrack;
use crate::contract::{self, set};
use crate::error::{Error, Result};
use crate::nft::kernel::{NetlinkError, Nft};
use crate::nft::model::{Element, Family, KeyType, Set};
use std::net::IpAddr;

/// The connection to nf_tables, and the sets' definitions.
struct Kernel {
    nft: Nft,
    v4: Set,
    v6: Set,
}

/// An opener for the calling process's network namespace.
///
/// # Errors
/// No netlink socket can be had.
pub fn opener() -> Result<Box<dyn Opener>> {
    Ok(Box::new(Kernel {
        nft: Nft::open().map_err(into_error)?,
        v4: learned(set::LEARNED_V4, KeyType::Ipv4),
        v6: learned(set::LEARNED_V6, KeyType::Ipv6),
    }))
}

/// The definition of a learned set, as far as adding to it needs.
fn learned(name: &str, key: KeyType) -> Set {
    Set {
        name: name.into(),
        key,
        interval: false,
        timeouts: true,
        default_timeout: None,
        size: Some(contract::LEARNED_SET_SIZE),
        elements: Vec::new(),
    }
}

fn into_error(error: NetlinkError) -> Error {
    Error::new(error.to_string())
}

fn element(address: IpAddr, seconds: Option<u32>) -> Element {
    Element {
        timeout: seconds.map(|s| u64::from(s) * 1000),
        ..Element::range(address, address)
    }
}

impl Opener for Kernel {
    fn open(&mut self, elements: &[(IpAddr, u32)]) -> Result<u32> {
        let mut changes = 0;
        for (set, v4) in [(&self.v4, true), (&self.v6, false)] {
            let some: Vec<Element> = elements
                .iter()
                .filter(|(address, _)| address.is_ipv4() == v4)
                .map(|(address, seconds)| element(*address, Some(*seconds)))
                .collect();
            if !some.is_empty() {
                self.nft
                    .learn(Family::Inet, contract::TABLE, set, &some)
                    .map_err(into_error)?;
                changes += 1;
            }
        }
        Ok(changes)
    }

    fn close(&mut self, addresses: &[IpAddr]) -> Result<()> {
        for (set, v4) in [(&self.v4, true), (&self.v6, false)] {
            let some: Vec<Element> = addresses
                .iter()
                .filter(|address| address.is_ipv4() == v4)
                .map(|address| element(*address, None))
                .collect();
            self.nft
                .forget(Family::Inet, contract::TABLE, set, &some)
                .map_err(into_error)?;
        }
        // Established flows pass the rules unasked. One whose address is allowed otherwise too
        // is taken up again with its next packet.
        conntrack::cut(&|destination| addresses.contains(&destination)).map_err(into_error)?;
        Ok(())
    }

    fn generation(&mut self) -> Option<u32> {
        self.nft.generation().ok()
    }
}
