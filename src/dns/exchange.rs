//! One question to one server: sent once, over UDP or TCP, and matched to its answer.
//!
//! Used by the static resolver and the gate; both own the loop, the deadlines and the retries.
//! Against forged answers: a fresh connected socket on a random port, a random id, the letters'
//! case of the name at random (draft-vixie-dnsext-dns0x20), a cookie (RFC 7873).

use super::name::Name;
use super::wire::build::{Ask, query};
use super::wire::edns::{Edns, OPTION_COOKIE, split_cookie};
use super::wire::{CLASS_IN, Message, flag, rcode, rtype};
use crate::error::{Error, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Datagrams looked at per wake-up: a flood of forged ones cannot hold the loop.
const DATAGRAMS_PER_TURN: usize = 16;

/// What is asked, of whom and how.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The name.
    pub name: &'a Name,
    /// The record type.
    pub qtype: u16,
    /// The server.
    pub server: SocketAddr,
    /// TCP instead of UDP.
    pub tcp: bool,
    /// Randomise the letters' case and demand it back.
    pub mix_case: bool,
    /// EDNS, DNSSEC, cookie.
    pub ask: Ask<'a>,
    /// Mark on every packet; needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

/// A question on its way.
#[derive(Debug)]
pub struct Exchange {
    fd: OwnedFd,
    id: u16,
    /// The name as sent, its case mixed.
    raw: Box<[u8]>,
    qtype: u16,
    mix_case: bool,
    cookie: Option<[u8; 8]>,
    stream: Option<Stream>,
}

/// The state of a TCP exchange.
#[derive(Debug)]
struct Stream {
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
}

/// What became of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Pending,
    /// The server's answer to this very question, its length in the caller's buffer.
    Answer(usize),
    /// The answer did not fit a datagram: ask again over TCP (RFC 7766).
    Truncated,
    /// The answer fits but for the letters' case: forged, or from a server that does not keep it.
    CaseChanged,
    /// The server cannot be reached, or hung up.
    Failed,
}

/// Random octets from the kernel.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(bytes)
}

/// The letters of a wire name in random case; lengths and other octets stay.
fn mix_case(wire: &[u8]) -> Result<Box<[u8]>> {
    let bits = random::<32>()?;
    let mixed = wire.iter().enumerate().map(|(i, &b)| {
        // Label lengths are below 64, so no length is ever a letter.
        if bits[i / 8 % 32] >> (i % 8) & 1 == 1 {
            b.to_ascii_uppercase()
        } else {
            b
        }
    });
    Ok(mixed.collect())
}

fn socket(request: &Request<'_>) -> Result<OwnedFd> {
    let (family, any): (_, IpAddr) = match request.server {
        SocketAddr::V4(_) => (AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let kind = if request.tcp {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, kind, flags, None)?;
    if let Some(mark) = request.mark {
        nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::Mark, &mark)?;
    }
    if request.tcp {
        sockopt::set_tcp_nodelay(&fd, true)?;
    } else {
        // The kernel's own choice is random too, but from half the ports (ip_local_port_range).
        for _ in 0..4 {
            let port = u16::from_ne_bytes(random()?);
            if port >= 1024 && rustix::net::bind(&fd, &SocketAddr::new(any, port)).is_ok() {
                break;
            }
        }
    }
    Ok(fd)
}

impl Exchange {
    /// Sends the question (UDP) or begins to connect (TCP).
    pub fn start(request: &Request<'_>) -> Result<Self> {
        let id = u16::from_ne_bytes(random()?);
        let raw = if request.mix_case {
            mix_case(request.name.wire())?
        } else {
            request.name.wire().into()
        };
        let message = query(id, &raw, request.qtype, &request.ask);
        let fd = socket(request)?;
        match rustix::net::connect(&fd, &request.server) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        let stream = if request.tcp {
            let mut out = (message.len() as u16).to_be_bytes().to_vec();
            out.extend_from_slice(&message);
            Some(Stream {
                out,
                written: 0,
                input: Vec::new(),
            })
        } else {
            rustix::net::send(&fd, &message, SendFlags::NOSIGNAL)?;
            None
        };
        Ok(Self {
            fd,
            id,
            raw,
            qtype: request.qtype,
            mix_case: request.mix_case,
            cookie: request.ask.cookie.map(|(client, _)| client),
            stream,
        })
    }

    /// Whether the socket must become writable for the exchange to go on.
    pub fn wants_write(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(|s| s.written < s.out.len())
    }

    /// Whether this exchange goes over TCP.
    pub fn is_tcp(&self) -> bool {
        self.stream.is_some()
    }

    /// Goes on after the socket became ready. An answer is left in `buffer`, which must hold the
    /// longest message: 65,535 octets.
    pub fn advance(&mut self, buffer: &mut [u8]) -> Outcome {
        match self.stream.take() {
            Some(mut stream) => {
                let outcome = self.advance_stream(&mut stream, buffer);
                self.stream = Some(stream);
                outcome
            }
            None => self.advance_datagram(buffer),
        }
    }

    fn advance_datagram(&self, buffer: &mut [u8]) -> Outcome {
        for _ in 0..DATAGRAMS_PER_TURN {
            match rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((_, len)) => match self.judge(buffer.get(..len).unwrap_or(&[])) {
                    Outcome::Pending => {}
                    Outcome::Answer(_) => return Outcome::Answer(len),
                    other => return other,
                },
                Err(Errno::AGAIN) => return Outcome::Pending,
                Err(Errno::INTR) => {}
                Err(_) => return Outcome::Failed,
            }
        }
        Outcome::Pending
    }

    fn advance_stream(&self, stream: &mut Stream, buffer: &mut [u8]) -> Outcome {
        while stream.written < stream.out.len() {
            match rustix::net::send(&self.fd, &stream.out[stream.written..], SendFlags::NOSIGNAL) {
                Ok(n) => stream.written += n,
                Err(Errno::AGAIN) => return Outcome::Pending,
                Err(Errno::INTR) => {}
                Err(_) => return Outcome::Failed,
            }
        }
        loop {
            let wanted = match stream.input.first_chunk::<2>() {
                Some(prefix) => 2 + usize::from(u16::from_be_bytes(*prefix)),
                None => 2,
            };
            let missing = wanted - stream.input.len();
            if wanted > 2 && missing == 0 {
                let message = &stream.input[2..];
                let Some(space) = buffer.get_mut(..message.len()) else {
                    return Outcome::Failed;
                };
                space.copy_from_slice(message);
                return match self.judge(message) {
                    // A stream carries answers to this question only.
                    Outcome::Pending | Outcome::Truncated => Outcome::Failed,
                    other => other,
                };
            }
            let Some(space) = buffer.get_mut(..missing) else {
                return Outcome::Failed;
            };
            match rustix::net::recv(&self.fd, &mut *space, RecvFlags::empty()) {
                Ok((_, 0)) => return Outcome::Failed,
                Ok((_, n)) => stream
                    .input
                    .extend_from_slice(space.get(..n).unwrap_or(&[])),
                Err(Errno::AGAIN) => return Outcome::Pending,
                Err(Errno::INTR) => {}
                Err(_) => return Outcome::Failed,
            }
            if stream.input == [0, 0] {
                return Outcome::Failed;
            }
        }
    }

    /// Whether `bytes` answer this question. `Pending` means they do not: wait on.
    fn judge(&self, bytes: &[u8]) -> Outcome {
        let Ok(message) = Message::new(bytes) else {
            return Outcome::Pending;
        };
        if !message.has(flag::QR) || message.opcode() != 0 || message.id() != self.id {
            return Outcome::Pending;
        }
        let ours = Outcome::Answer(bytes.len());
        let Ok((question, end)) = message.question() else {
            // Servers from before EDNS answer it with their header alone (RFC 6891 section 7).
            let old = matches!(message.rcode(), rcode::FORMERR | rcode::NOTIMP);
            return if old && message.counts()[0] == 0 {
                ours
            } else {
                Outcome::Pending
            };
        };
        if question.qtype != self.qtype
            || question.class != CLASS_IN
            || !question.raw.eq_ignore_ascii_case(&self.raw)
        {
            return Outcome::Pending;
        }
        if self.mix_case && *question.raw != *self.raw {
            return Outcome::CaseChanged;
        }
        // A truncated message may end in the middle of a record, so its cookie cannot be asked.
        if message.has(flag::TC) {
            return Outcome::Truncated;
        }
        if let (Some(ours), Some((theirs, _))) = (self.cookie, cookie_of(&message, end))
            && ours != theirs
        {
            return Outcome::Pending;
        }
        ours
    }
}

impl AsFd for Exchange {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The EDNS part of a response whose question ends at `end`.
pub fn edns_of<'a>(message: &Message<'a>, end: usize) -> Option<Edns<'a>> {
    message
        .records(end)
        .flatten()
        .find(|r| r.rtype == rtype::OPT)
        .and_then(|r| Edns::read(&r).ok())
}

/// The cookie in a response: the client's part and the server's.
pub fn cookie_of<'a>(message: &Message<'a>, end: usize) -> Option<([u8; 8], &'a [u8])> {
    edns_of(message, end)?
        .option(OPTION_COOKIE)
        .and_then(split_cookie)
}

/// Waits until one of the exchanges is ready or `timeout_ms` have passed; a signal ends it early.
pub fn poll(fds: &mut [rustix::event::PollFd<'_>], timeout_ms: u64) -> Result<()> {
    let timeout = rustix::event::Timespec {
        tv_sec: (timeout_ms / 1000) as i64,
        tv_nsec: (timeout_ms % 1000 * 1_000_000) as i64,
    };
    match rustix::event::poll(fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(Error::from(e)),
    }
}
