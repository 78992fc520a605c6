//! NFLOG: one group of the current network namespace, over netlink
//! (linux/netfilter/nfnetlink_log.h).
//!
//! The kernel packs several packets into one datagram. They are read into the caller's buffer and
//! handed on in place. Each carries a sequence number, so a packet that the kernel could not
//! queue shows as a gap and is counted, exactly.

use crate::error::{Context, Error};
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of each packet the kernel copies: the longest IPv4 header and ports need 64; the rest is
/// for IPv6 extension headers.
const COPY_RANGE: u32 = 128;
/// Packets the kernel gathers before it sends in a flood: few enough for [`DATAGRAM`].
const BULK_THRESHOLD: u32 = 64;
/// How long it gathers at most, in 1/100 s; 1 is the smallest (12 ms where a jiffy is 4).
const TIMEOUT: u32 = 1;
/// Packets in one go from which on the kernel shall gather them, and below which no more.
const BULK: (u32, u32) = (64, 8);
/// The kernel's buffer for one datagram, bytes.
const DATAGRAM: u32 = 16 * 1024;
/// A receive buffer of this size takes whatever the kernel sends.
pub const BUFFER: usize = 64 * 1024;
/// Kernel memory for packets we have not read yet; the kernel doubles it for its bookkeeping.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A group to try permissions with.
const UNUSED_GROUP: u16 = 0xfe64;

const NLMSG_HEADER: usize = 16;
const NFGEN_HEADER: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const SUBSYS_ULOG: u16 = 4;
const MSG_PACKET: u16 = SUBSYS_ULOG << 8;
const MSG_CONFIG: u16 = SUBSYS_ULOG << 8 | 1;
const CFG_CMD: u16 = 1;
const CFG_MODE: u16 = 2;
const CFG_NLBUFSIZ: u16 = 3;
const CFG_TIMEOUT: u16 = 4;
const CFG_QTHRESH: u16 = 5;
const CFG_FLAGS: u16 = 6;
const CFG_CMD_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const CFG_F_SEQ: u16 = 1;
const ATTR_TYPE: u16 = 0x3fff;
const ATTR_PAYLOAD: u16 = 9;
const ATTR_PREFIX: u16 = 10;
const ATTR_SEQ: u16 = 12;

/// One logged packet, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The rule's log prefix, without its terminating zero.
    pub prefix: &'a [u8],
    /// The packet's first bytes, from the IP header on.
    pub payload: &'a [u8],
}

/// Why a group could not be bound.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// Another process listens to this group in this namespace.
    Busy,
    /// Anything else.
    Failed(Error),
}

/// What one call of [`Nflog::receive`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A datagram was read and its packets handed on.
    Datagram,
    /// Nothing is queued.
    Empty,
    /// The kernel's buffer overflowed: some packets are gone. The next gap says how many.
    Overrun,
}

/// A bound NFLOG group.
#[derive(Debug)]
pub struct Nflog {
    fd: OwnedFd,
    group: u16,
    sequence: Sequence,
    // Packets since the queue was last empty.
    run: u32,
    bulk: bool,
}

/// Counts gaps in the kernel's sequence numbers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    next: Option<u32>,
    lost: u64,
}

impl Sequence {
    /// Notes the number of a packet that arrived.
    pub fn arrived(&mut self, number: u32) {
        if let Some(expected) = self.next {
            // A step back can only be a kernel that started to count anew, not a loss.
            let gap = number.wrapping_sub(expected);
            if gap < 1 << 31 {
                self.lost += u64::from(gap);
            }
        }
        self.next = Some(number.wrapping_add(1));
    }

    /// Packets lost since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

impl Nflog {
    /// Binds a group in the current network namespace. Needs CAP_NET_ADMIN over it.
    pub fn bind(group: u16) -> Result<Self, BindError> {
        let fd = open().map_err(BindError::Failed)?;
        match configure(&fd, group) {
            Ok(()) => Ok(Self {
                fd,
                group,
                run: 0,
                bulk: false,
                sequence: Sequence {
                    // The kernel counts from 0 at every bind, so even the first loss shows.
                    next: Some(0),
                    lost: 0,
                },
            }),
            Err(Errno::BUSY) => Err(BindError::Busy),
            // The kernel says EPERM both to those who may not and to those who come second.
            Err(Errno::PERM) if may_bind() => Err(BindError::Busy),
            Err(e) => Err(BindError::Failed(Error::new(format!(
                "cannot listen to NFLOG group {group}: {}",
                Error::from(e)
            )))),
        }
    }

    /// Reads one datagram without waiting and calls `each` for every packet in it.
    /// `buffer` should hold [`BUFFER`] bytes.
    ///
    /// A lone packet is sent by the kernel at once; in a flood it gathers 64 to a datagram, which
    /// costs both sides far less, and the difference of a few milliseconds is nobody's to notice.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        mut each: impl FnMut(Entry<'_>),
    ) -> Result<Received, Error> {
        match net::recvfrom(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, len, from)) => {
                // Port 0 is the kernel; whoever else can reach this socket is not heard.
                let kernel = from
                    .and_then(|a| SocketAddrNetlink::try_from(a).ok())
                    .is_some_and(|a| a.pid() == 0);
                if kernel {
                    let datagram = buffer.get(..len).unwrap_or_default();
                    let run = &mut self.run;
                    parse_datagram(datagram, &mut self.sequence, &mut |entry| {
                        *run = run.saturating_add(1);
                        each(entry);
                    });
                }
                if self.run >= BULK.0 {
                    self.set_bulk(true);
                }
                Ok(Received::Datagram)
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                if self.run < BULK.1 {
                    self.set_bulk(false);
                }
                self.run = 0;
                Ok(Received::Empty)
            }
            Err(Errno::NOBUFS) => {
                self.set_bulk(true);
                Ok(Received::Overrun)
            }
            Err(e) => Err(e).context(|| "cannot read from NFLOG"),
        }
    }

    /// Packets the kernel could not hand over since the last call.
    pub fn take_lost(&mut self) -> u64 {
        self.sequence.take_lost()
    }

    /// Tells the kernel how many packets to gather. Without an answer: should it refuse, the old
    /// threshold serves as well.
    fn set_bulk(&mut self, bulk: bool) {
        if self.bulk == bulk {
            return;
        }
        let threshold = if bulk { BULK_THRESHOLD } else { 1 };
        let message = message(NLM_F_REQUEST, self.group, |m| {
            attr(m, CFG_QTHRESH, &threshold.to_be_bytes());
        });
        let _ = net::send(&self.fd, &message, SendFlags::DONTWAIT);
        self.bulk = bulk;
    }
}

impl AsFd for Nflog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open() -> Result<OwnedFd, Error> {
    let fd = net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(NETFILTER),
    )
    .context(|| "cannot open a netfilter socket")?;
    net::bind(&fd, &SocketAddrNetlink::new(0, 0)).context(|| "cannot bind the netfilter socket")?;
    // Beyond net.core.rmem_max only with CAP_NET_ADMIN over the whole machine.
    if sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER);
    }
    Ok(fd)
}

/// Whether we may bind groups here at all: tried with one that nobody uses, and let go at once.
fn may_bind() -> bool {
    open().is_ok_and(|fd| configure(&fd, UNUSED_GROUP).is_ok())
}

/// Sends the whole configuration as one message and waits for the kernel's answer.
fn configure(fd: &OwnedFd, group: u16) -> Result<(), Errno> {
    let message = config_message(group);
    net::send(fd, &message, SendFlags::empty())?;
    let mut answer = [0u8; 1024];
    // netlink answers before send returns; packets may already stand before the answer.
    for _ in 0..1024 {
        let (len, _) = net::recv(fd, &mut answer[..], RecvFlags::DONTWAIT)?;
        if let Some(code) = error_code(answer.get(..len).unwrap_or_default()) {
            return match code {
                0 => Ok(()),
                _ => Err(Errno::from_raw_os_error(code.saturating_neg())),
            };
        }
    }
    Err(Errno::PROTO)
}

fn config_message(group: u16) -> Vec<u8> {
    message(NLM_F_REQUEST | NLM_F_ACK, group, |m| {
        attr(m, CFG_CMD, &[CFG_CMD_BIND]);
        let [a, b, c, d] = COPY_RANGE.to_be_bytes();
        attr(m, CFG_MODE, &[a, b, c, d, COPY_PACKET, 0]);
        attr(m, CFG_NLBUFSIZ, &DATAGRAM.to_be_bytes());
        attr(m, CFG_TIMEOUT, &TIMEOUT.to_be_bytes());
        attr(m, CFG_QTHRESH, &1u32.to_be_bytes());
        attr(m, CFG_FLAGS, &CFG_F_SEQ.to_be_bytes());
    })
}

/// A configuration message for a group.
fn message(flags: u16, group: u16, attributes: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut m = Vec::with_capacity(96);
    m.extend(0u32.to_ne_bytes());
    m.extend(MSG_CONFIG.to_ne_bytes());
    m.extend(flags.to_ne_bytes());
    m.extend(1u32.to_ne_bytes());
    m.extend(0u32.to_ne_bytes());
    // nfgenmsg: family unspecified, version 0, the group in network order.
    m.extend([0, 0]);
    m.extend(group.to_be_bytes());
    attributes(&mut m);
    let len = (m.len() as u32).to_ne_bytes();
    m[..4].copy_from_slice(&len);
    m
}

fn attr(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The code of an NLMSG_ERROR message (0 acknowledges); `None` for any other message.
fn error_code(bytes: &[u8]) -> Option<i32> {
    (u16_at(bytes, 4)? == NLMSG_ERROR).then_some(())?;
    let code = bytes.get(NLMSG_HEADER..NLMSG_HEADER + 4)?;
    Some(i32::from_ne_bytes(code.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Walks the netlink messages of one datagram. Total: whatever is malformed ends the walk.
pub fn parse_datagram(mut bytes: &[u8], sequence: &mut Sequence, each: &mut impl FnMut(Entry<'_>)) {
    while let (Some(len), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let len = len as usize;
        let Some(message) = bytes.get(NLMSG_HEADER..len) else {
            return;
        };
        if kind == MSG_PACKET
            && let Some(attributes) = message.get(NFGEN_HEADER..)
        {
            let (entry, number) = parse_attributes(attributes);
            if let Some(number) = number {
                sequence.arrived(number);
            }
            each(entry);
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn parse_attributes(mut bytes: &[u8]) -> (Entry<'_>, Option<u32>) {
    let mut entry = Entry {
        prefix: &[],
        payload: &[],
    };
    let mut number = None;
    while let (Some(len), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let len = usize::from(len);
        let Some(value) = bytes.get(4..len) else {
            break;
        };
        match kind & ATTR_TYPE {
            ATTR_PAYLOAD => entry.payload = value,
            ATTR_PREFIX => entry.prefix = value.split(|&b| b == 0).next().unwrap_or_default(),
            ATTR_SEQ => number = value.try_into().ok().map(u32::from_be_bytes),
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    (entry, number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet_message(number: u32, prefix: &str, payload: &[u8]) -> Vec<u8> {
        let mut m = vec![0; 4];
        m.extend(MSG_PACKET.to_ne_bytes());
        m.resize(NLMSG_HEADER + NFGEN_HEADER, 0);
        attr(&mut m, 1, &[0; 4]);
        attr(&mut m, ATTR_PREFIX, format!("{prefix}\0").as_bytes());
        attr(&mut m, ATTR_SEQ, &number.to_be_bytes());
        attr(&mut m, ATTR_PAYLOAD, payload);
        let len = (m.len() as u32).to_ne_bytes();
        m[..4].copy_from_slice(&len);
        m
    }

    fn walk(bytes: &[u8]) -> (Vec<(String, Vec<u8>)>, u64) {
        let mut sequence = Sequence {
            next: Some(0),
            lost: 0,
        };
        let mut seen = Vec::new();
        parse_datagram(bytes, &mut sequence, &mut |e| {
            seen.push((
                String::from_utf8_lossy(e.prefix).into_owned(),
                e.payload.to_vec(),
            ))
        });
        (seen, sequence.take_lost())
    }

    #[test]
    fn every_packet_of_a_batch_is_handed_on_and_gaps_are_counted() {
        let mut batch = packet_message(0, "A: ", b"one");
        batch.extend(packet_message(1, "B: ", b"three"));
        batch.extend(packet_message(7, "", b""));
        let (seen, lost) = walk(&batch);
        assert_eq!(
            seen,
            [
                ("A: ".to_string(), b"one".to_vec()),
                ("B: ".to_string(), b"three".to_vec()),
                (String::new(), vec![])
            ]
        );
        assert_eq!(lost, 5);
    }

    #[test]
    fn sequence_numbers_wrap_and_restarts_are_no_loss() {
        let mut s = Sequence {
            next: Some(u32::MAX),
            lost: 0,
        };
        s.arrived(u32::MAX);
        s.arrived(0);
        assert_eq!(s.take_lost(), 0);
        s.arrived(3);
        assert_eq!(s.take_lost(), 2);
        assert_eq!(s.take_lost(), 0, "counted once");
        s.arrived(0);
        assert_eq!(s.take_lost(), 0);
    }

    proptest! {
        #[test]
        fn a_batch_cut_or_bent_anywhere_is_survived(at in 0usize..200, value in any::<u8>(), cut in 0usize..200) {
            let mut batch = packet_message(0, "A: ", b"payload");
            batch.extend(packet_message(1, "B: ", b"payload"));
            if let Some(b) = batch.get_mut(at) {
                *b = value;
            }
            batch.truncate(cut);
            prop_assert!(walk(&batch).0.len() <= 2);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(walk(&bytes).0.len() <= bytes.len() / NLMSG_HEADER);
        }
    }
}
