//! What exactly happens to a UDP datagram: answered, refused by ICMP, or nothing.
//!
//! A connected UDP socket with `IP_RECVERR` (ip(7)) or `IPV6_RECVERR` (ipv6(7)) gets every ICMP
//! error about its packets into an error queue, with type, code and errno. No privilege is needed,
//! so this works inside a container that has none.
//!
//! A local firewall's `reject` shows twice: send(2) fails with EPERM, because the packet was
//! dropped in the output hook, and the ICMP error that the firewall made arrives through loopback.
//! So EPERM alone decides nothing: the queue is read either way.

use std::borrow::Cow;
use std::io::{ErrorKind, IoSliceMut};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use crate::error::{Context, Error, Result};
use crate::sanitize;

/// Kept short: it fits every link, and says on the wire who knocks.
const PAYLOAD: &[u8] = b"terok-shield probe\n";
/// RFC 1035 section 2.3.4 allows a name 253 characters; an address with a zone is shorter.
const HOST_MAX: usize = 255;

/// What happened to the datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came back.
    Open,
    /// An ICMP error came back, from the way or from the local firewall.
    IcmpError(IcmpError),
    /// Neither, within the time given.
    Timeout,
}

/// The ICMP error the kernel delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IcmpError {
    /// Which ICMP the numbers belong to.
    pub family: Family,
    /// ICMP type: 3 (RFC 792), for ICMPv6 1 (RFC 4443), is "destination unreachable".
    pub icmp_type: u8,
    /// ICMP code.
    pub code: u8,
    /// The errno the kernel made of it.
    pub errno: u32,
}

/// ICMP or ICMPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// RFC 792.
    V4,
    /// RFC 4443.
    V6,
}

impl IcmpError {
    /// The code's name where the type is "destination unreachable", else `code-N`.
    pub fn code_name(&self) -> Cow<'static, str> {
        let name = match (self.family, self.icmp_type, self.code) {
            // RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1.
            (Family::V4, 3, 0) => "net-unreachable",
            (Family::V4, 3, 1) => "host-unreachable",
            (Family::V4, 3, 2) => "protocol-unreachable",
            (Family::V4, 3, 3) => "port-unreachable",
            (Family::V4, 3, 4) => "fragmentation-needed",
            (Family::V4, 3, 5) => "source-route-failed",
            (Family::V4, 3, 6) => "net-unknown",
            (Family::V4, 3, 7) => "host-unknown",
            (Family::V4, 3, 9) => "net-admin-prohibited",
            (Family::V4, 3, 10) => "host-admin-prohibited",
            (Family::V4, 3, 13) => "admin-prohibited",
            // RFC 4443 section 3.1.
            (Family::V6, 1, 0) => "no-route",
            (Family::V6, 1, 1) => "admin-prohibited",
            (Family::V6, 1, 2) => "beyond-scope",
            (Family::V6, 1, 3) => "address-unreachable",
            (Family::V6, 1, 4) => "port-unreachable",
            (Family::V6, 1, 5) => "source-policy-failed",
            (Family::V6, 1, 6) => "reject-route",
            (_, _, code) => return Cow::Owned(format!("code-{code}")),
        };
        Cow::Borrowed(name)
    }
}

/// Sends one datagram to the first address of `host` that has a route and waits `patience` for
/// what comes of it.
///
/// # Errors
/// The name does not resolve, or no packet could be sent at all (no route, no socket).
pub fn probe(host: &str, port: u16, patience: Duration) -> Result<Outcome> {
    let socket = connect(host, port)?;
    match socket.send(PAYLOAD) {
        Ok(_) => {}
        // Dropped by the local firewall, or an ICMP error that is in the queue already.
        Err(e) if is_about_the_packet(e.raw_os_error()) => {}
        Err(e) => return Err(Error::from(e)).context(|| format!("cannot send to {host}")),
    }
    wait(&socket, patience)
}

fn is_about_the_packet(errno: Option<i32>) -> bool {
    matches!(
        errno.map(Errno::from_raw),
        Some(
            Errno::EPERM
                | Errno::EACCES
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
                | Errno::ECONNREFUSED
                | Errno::ENOPROTOOPT
                | Errno::EPROTO
        )
    )
}

fn connect(host: &str, port: u16) -> Result<UdpSocket> {
    let name = sanitize::text(host);
    if host.len() > HOST_MAX {
        return Err(Error::new(format!("not a host: {name}: too long")));
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    let addresses = (bare, port)
        .to_socket_addrs()
        .map_err(|_| Error::new(format!("cannot resolve {name}")))?;
    let mut last = None;
    for address in addresses {
        match open(address) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = Some(Error::new(format!("cannot reach {}: {e}", address.ip()))),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(format!("{name} has no address"))))
}

fn open(address: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => ([0u8; 4], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    // Before the packet leaves: an error that came earlier would be lost.
    // A v6 socket takes both options: a v4-mapped destination's errors are ICMP's.
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    Ok(socket)
}

fn wait(socket: &UdpSocket, patience: Duration) -> Result<Outcome> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(error) = queued_error(socket)? {
            return Ok(Outcome::IcmpError(error));
        }
        // A connected socket takes datagrams from its peer alone, so any is an answer. A pending
        // error surfaces here too, once; its detail is in the queue, read next.
        let mut byte = [0u8; 1];
        match socket.recv(&mut byte) {
            Ok(_) => return Ok(Outcome::Open),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(Outcome::Timeout);
                }
                // Rounded up, or the last millisecond would be spent spinning.
                let millis = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                match poll(&mut fds, PollTimeout::from(millis)) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Err(e) if is_about_the_packet(e.raw_os_error()) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::from(e)).context(|| "cannot receive"),
        }
    }
}

/// The first ICMP error in the socket's error queue. Entries of local origin (a message too long
/// for the link, say) are not ICMP and are passed over.
fn queued_error(socket: &UdpSocket) -> Result<Option<IcmpError>> {
    loop {
        let mut payload = [0u8; 64];
        let mut iov = [IoSliceMut::new(&mut payload)];
        let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let message = match recvmsg::<()>(
            socket.as_raw_fd(),
            &mut iov,
            Some(&mut space),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e).context(|| "cannot read the error queue"),
        };
        for control in message.cmsgs()? {
            let (ControlMessageOwned::Ipv4RecvErr(error, _)
            | ControlMessageOwned::Ipv6RecvErr(error, _)) = control
            else {
                continue;
            };
            // The origin decides, not the socket: a v4-mapped destination gets ICMP numbers.
            let family = match error.ee_origin {
                libc::SO_EE_ORIGIN_ICMP => Family::V4,
                libc::SO_EE_ORIGIN_ICMP6 => Family::V6,
                _ => continue,
            };
            return Ok(Some(IcmpError {
                family,
                icmp_type: error.ee_type,
                code: error.ee_code,
                errno: error.ee_errno,
            }));
        }
    }
}
