//! The loopback interface of the current network namespace: up, and with one more address where
//! a tier's server needs it (krun). Over rtnetlink (rtnetlink(7)).

use crate::error::{Context, Error, Result};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

/// The loopback interface is the first of every namespace (`LOOPBACK_IFINDEX` in net/flow.h).
const INDEX: u32 = 1;

/// Brings the loopback interface up.
///
/// # Errors
/// The kernel refuses.
pub fn bring_up() -> Result<()> {
    let up = libc::IFF_UP as u32;
    // struct ifinfomsg of linux/rtnetlink.h: family, pad, type, index, flags, mask of flags.
    let mut body = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
    for field in [INDEX, up, up] {
        body.extend_from_slice(&field.to_ne_bytes());
    }
    request(libc::RTM_NEWLINK, 0, &body).context(|| "cannot bring up the loopback interface")
}

/// Gives the loopback interface this address, if it does not have it.
///
/// # Errors
/// The kernel refuses.
pub fn add_address(address: Ipv4Addr) -> Result<()> {
    // struct ifaddrmsg of linux/if_addr.h: family, prefix length, flags, scope, index.
    let mut body = vec![libc::AF_INET as u8, 32, 0, libc::RT_SCOPE_HOST];
    body.extend_from_slice(&INDEX.to_ne_bytes());
    for attribute in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        body.extend_from_slice(&8u16.to_ne_bytes());
        body.extend_from_slice(&attribute.to_ne_bytes());
        body.extend_from_slice(&address.octets());
    }
    let create = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    request(libc::RTM_NEWADDR, create, &body)
        .context(|| format!("cannot put {address} on the loopback interface"))
}

/// Sends one request and waits for its acknowledgement.
fn request(kind: u16, flags: u16, body: &[u8]) -> Result<()> {
    const SEQUENCE: u32 = 1;
    /// Length of struct nlmsghdr.
    const HEADER: usize = 16;
    let socket: OwnedFd = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE is 0
    )?;
    let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&SEQUENCE.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(body);
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &kernel)?;
    let mut answer = [0; 1024];
    let (_, length) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // struct nlmsgerr: the header, then a negative error number or 0.
    let error = answer
        .get(HEADER..HEADER + 4)
        .filter(|_| length >= HEADER + 4)
        .and_then(|b| Some(i32::from_ne_bytes(b.try_into().ok()?)))
        .ok_or_else(|| Error::new("the kernel's answer is too short"))?;
    match error {
        0 => Ok(()),
        n => Err(Errno::from_raw_os_error(n.saturating_neg()).into()),
    }
}
