//! Cutting the flows that a deny or a quarantine ends.
//!
//! Rules let established flows through; a flow whose entry is deleted is no longer established,
//! and its next packet meets the rules as a new one. Over ctnetlink
//! (linux/netfilter/nfnetlink_conntrack.h), in the calling thread's network namespace.

use crate::nft::kernel::NetlinkError;
use crate::nft::kernel::socket::{Next, Socket};
use crate::nft::kernel::wire::{Malformed, Message, Table, Writer};
use nix::errno::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*`
const fn kind(message: u16) -> u16 {
    (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | message
}
const NEW: u16 = kind(0);
const GET: u16 = kind(1);
const DELETE: u16 = kind(2);

/// `enum ctattr_type`
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// `enum ctattr_tuple`
const TUPLE_IP: u16 = 1;
/// `enum ctattr_ip`
const V4_SRC: u16 = 1;
const V4_DST: u16 = 2;
const V6_SRC: u16 = 3;
const V6_DST: u16 = 4;

/// A flow can be confirmed by a packet that passed the old rules while we list; the next pass
/// finds it. More passes than this mean that the rules still let such flows begin.
const PASSES: u32 = 16;
/// Bytes of deletions to a datagram.
const CHUNK: usize = 16 * 1024;

/// Deletes every flow, IPv4 and IPv6, whose destination `matches`, and says how many. The
/// destination is the one its first packet had and, behind address translation, the real one.
/// Change the rules first: then nothing new can begin.
///
/// # Errors
/// Any [`NetlinkError`] of a question to the kernel; `Unsteady` if such flows keep coming up.
pub fn cut(matches: &dyn Fn(IpAddr) -> bool) -> Result<u32, NetlinkError> {
    let mut socket = Socket::open()?;
    let mut total = 0;
    for _ in 0..PASSES {
        let doomed = list(&mut socket, matches)?;
        if doomed.is_empty() {
            return Ok(total);
        }
        for chunk in &doomed {
            total += delete(&mut socket, chunk)?;
        }
    }
    Err(NetlinkError::Unsteady {
        what: "the connection table".into(),
    })
}

/// Deletes every flow but those to loopback addresses, and says how many.
///
/// # Errors
/// As [`cut`].
pub fn cut_all() -> Result<u32, NetlinkError> {
    cut(&|destination| !destination.is_loopback())
}

/// Datagrams of messages that delete the matching flows.
struct Chunk {
    bytes: Vec<u8>,
    flows: u32,
}

fn malformed() -> NetlinkError {
    NetlinkError::Malformed {
        what: "the list of flows".into(),
    }
}

fn list(socket: &mut Socket, matches: &dyn Fn(IpAddr) -> bool) -> Result<Vec<Chunk>, NetlinkError> {
    let what = "the list of flows";
    let seq = socket.take_seq(1);
    let mut request = Writer::default();
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mark = request.message(GET, flags, seq, libc::AF_UNSPEC as u8, 0);
    request.end_message(mark);
    socket.send(what, &request.buf)?;
    let mut chunks = Vec::new();
    let mut writer = Writer::default();
    let mut flows = 0;
    let done = socket.replies(what, &mut |message| {
        if message.seq != seq {
            return Err(malformed());
        }
        match i32::from(message.kind) {
            libc::NLMSG_DONE => return Ok(Next::Done),
            libc::NLMSG_ERROR => {
                return Err(match message.error() {
                    Ok(Err(errno)) => NetlinkError::Rejected {
                        what: what.into(),
                        errno: Errno::from_raw(errno),
                    },
                    _ => malformed(),
                });
            }
            _ if message.kind != NEW => return Err(malformed()),
            _ => {}
        }
        if doom(&message, matches, &mut writer).map_err(|_| malformed())? {
            flows += 1;
            if writer.buf.len() >= CHUNK {
                let bytes = std::mem::take(&mut writer.buf);
                chunks.push(Chunk { bytes, flows });
                flows = 0;
            }
        }
        Ok(Next::More)
    })?;
    if !done {
        return Err(NetlinkError::Unanswered { what: what.into() });
    }
    if flows > 0 {
        let bytes = writer.buf;
        chunks.push(Chunk { bytes, flows });
    }
    Ok(chunks)
}

/// Writes the deletion of one listed flow if it matches, and says whether it does.
fn doom(
    message: &Message<'_>,
    matches: &dyn Fn(IpAddr) -> bool,
    writer: &mut Writer,
) -> Result<bool, Malformed> {
    let (family, attributes) = message.netfilter()?;
    let flow = Table::<32>::parse(attributes)?;
    let original = flow.get(TUPLE_ORIG).ok_or(Malformed)?;
    let reply = flow.get(TUPLE_REPLY).ok_or(Malformed)?;
    let destinations = [
        address(original, V4_DST, V6_DST)?,
        address(reply, V4_SRC, V6_SRC)?,
    ];
    if !destinations.into_iter().any(matches) {
        return Ok(false);
    }
    let flags = libc::NLM_F_REQUEST as u16;
    let mark = writer.message(DELETE, flags, 0, family, 0);
    let nested = libc::NLA_F_NESTED as u16;
    writer.put(TUPLE_ORIG | nested, original);
    // With its id, only this flow is deleted, and not one that took its place since.
    for plain in [ID, ZONE] {
        if let Some(data) = flow.get(plain) {
            writer.put(plain, data);
        }
    }
    writer.end_message(mark);
    Ok(true)
}

/// An address of a tuple.
fn address(tuple: &[u8], v4: u16, v6: u16) -> Result<IpAddr, Malformed> {
    let tuple = Table::<4>::parse(tuple)?;
    let ip = Table::<5>::parse(tuple.get(TUPLE_IP).ok_or(Malformed)?)?;
    match (ip.fixed::<4>(v4)?, ip.fixed::<16>(v6)?) {
        (Some(four), None) => Ok(Ipv4Addr::from(four).into()),
        (None, Some(sixteen)) => Ok(Ipv6Addr::from(sixteen).into()),
        _ => Err(Malformed),
    }
}

/// Sends deletions; only failures are answered, and the answers are there when send returns.
/// Returns how many flows were there to be deleted.
fn delete(socket: &mut Socket, chunk: &Chunk) -> Result<u32, NetlinkError> {
    let what = "the deletion of flows";
    socket.room_for(chunk.bytes.len());
    socket.send(what, &chunk.bytes)?;
    let mut ended = 0;
    socket.replies(what, &mut |message| match message.error() {
        _ if i32::from(message.kind) != libc::NLMSG_ERROR => Err(malformed()),
        // It has ended by itself.
        Ok(Err(libc::ENOENT)) => {
            ended += 1;
            Ok(Next::More)
        }
        Ok(Err(errno)) => Err(NetlinkError::Rejected {
            what: what.into(),
            errno: Errno::from_raw(errno),
        }),
        _ => Err(malformed()),
    })?;
    Ok(chunk.flows.saturating_sub(ended))
}
