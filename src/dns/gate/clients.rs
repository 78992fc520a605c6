//! TCP clients (RFC 7766): pipelined queries, answers in whatever order they come, bounded in
//! number, size and idleness.

use super::reply::Asker;
use crate::dns::wire::{HEADER, UDP_PAYLOAD};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use std::os::fd::OwnedFd;

/// Most connections at a time; the one longest idle makes room for a new one.
const MAX_CONNECTIONS: usize = 32;
/// Longest query taken, octets. What is longer is no question of a stub resolver.
pub const MAX_QUERY: usize = UDP_PAYLOAD;
/// Unsent octets beyond which no more queries are read from a connection.
const MAX_UNSENT: usize = 16 << 10;
/// Queries of one connection on their way at a time.
const MAX_PIPELINED: u16 = 32;
/// A connection without progress is closed after this, milliseconds.
const IDLE: u64 = 10_000;

struct Connection {
    fd: OwnedFd,
    serial: u64,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// Queries not answered yet.
    waiting: u16,
    last: u64,
    /// The client has sent all it will.
    ended: bool,
}

impl Connection {
    fn wants_read(&self) -> bool {
        !self.ended && self.waiting < MAX_PIPELINED && self.output.len() - self.sent <= MAX_UNSENT
    }

    fn wants_write(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Sends what can be sent; false if the connection is broken.
    fn send(&mut self, now: u64) -> bool {
        while self.wants_write() {
            match rustix::net::send(&self.fd, &self.output[self.sent..], SendFlags::NOSIGNAL) {
                Ok(n) => {
                    self.sent += n;
                    self.last = now;
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        self.output.clear();
        self.output.shrink_to(MAX_UNSENT);
        self.sent = 0;
        true
    }

    /// Whether a query that has come may be taken now.
    fn has_query(&self) -> bool {
        let whole = |p: &[u8; 2]| self.input.len() >= 2 + usize::from(u16::from_be_bytes(*p));
        self.waiting < MAX_PIPELINED && self.input.first_chunk().is_some_and(whole)
    }

    /// Takes the next whole query out of the input. `Err` ends the connection.
    fn take(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let Some(prefix) = self.input.first_chunk::<2>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if !(HEADER..=MAX_QUERY).contains(&length) {
            return Err(());
        }
        if self.input.len() < 2 + length {
            return Ok(None);
        }
        let query = self.input[2..2 + length].to_vec();
        self.input.drain(..2 + length);
        Ok(Some(query))
    }

    /// Reads what has come; false if the connection is broken.
    fn receive(&mut self, now: u64) -> bool {
        let mut buffer = [0; 2 + MAX_QUERY];
        loop {
            match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, 0)) => {
                    self.ended = true;
                    return true;
                }
                Ok((_, n)) => {
                    self.last = now;
                    self.input.extend_from_slice(buffer.get(..n).unwrap_or(&[]));
                    // The rest stays in the kernel until these are answered.
                    return true;
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// The TCP clients.
#[derive(Default)]
pub struct Clients {
    connections: Vec<Connection>,
    serial: u64,
}

impl Clients {
    /// Takes the connections that wait at the listener.
    pub fn accept(&mut self, listener: &OwnedFd, now: u64) {
        for _ in 0..MAX_CONNECTIONS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(fd) = rustix::net::accept_with(listener, flags) else {
                return;
            };
            if self.connections.len() == MAX_CONNECTIONS {
                let oldest = (0..MAX_CONNECTIONS).min_by_key(|i| self.connections[*i].last);
                if let Some(oldest) = oldest {
                    self.connections.swap_remove(oldest);
                }
            }
            let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
            self.serial += 1;
            self.connections.push(Connection {
                fd,
                serial: self.serial,
                input: Vec::new(),
                output: Vec::new(),
                sent: 0,
                waiting: 0,
                last: now,
                ended: false,
            });
        }
    }

    /// The sockets to wait for, in the order [`Clients::advance`] expects.
    pub fn poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        for connection in &self.connections {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, connection.wants_read());
            flags.set(PollFlags::OUT, connection.wants_write());
            fds.push(PollFd::new(&connection.fd, flags));
        }
    }

    /// When the next idle connection is to be closed; at once where a query waits that its
    /// connection's other ones had kept back.
    pub fn deadline(&self) -> Option<u64> {
        let of = |c: &Connection| {
            if c.has_query() { 0 } else { c.last + IDLE }
        };
        self.connections.iter().map(of).min()
    }

    /// Sends and receives on the ready connections, closes the broken and the idle ones, and
    /// hands over the queries that are complete.
    pub fn advance(&mut self, ready: &[bool], now: u64, queries: &mut Vec<(Asker, Vec<u8>)>) {
        let mut ready = ready.iter().copied();
        self.connections.retain_mut(|connection| {
            let mut alive = now < connection.last + IDLE;
            if ready.next().unwrap_or(false) {
                alive =
                    connection.send(now) && (!connection.wants_read() || connection.receive(now));
            }
            while alive && connection.waiting < MAX_PIPELINED {
                match connection.take() {
                    Ok(Some(query)) => {
                        connection.waiting += 1;
                        queries.push((Asker::Tcp(connection.serial), query));
                    }
                    Ok(None) => break,
                    Err(()) => alive = false,
                }
            }
            alive && !(connection.ended && connection.waiting == 0 && !connection.wants_write())
        });
    }

    /// Answers a query of this connection, if it is still there. An empty reply answers nothing
    /// but makes room for the next query.
    pub fn reply(&mut self, serial: u64, reply: &[u8], now: u64) {
        let Some(at) = self.connections.iter().position(|c| c.serial == serial) else {
            return;
        };
        let connection = &mut self.connections[at];
        connection.waiting = connection.waiting.saturating_sub(1);
        if !reply.is_empty() {
            let length = reply.len().min(usize::from(u16::MAX)) as u16;
            connection.output.extend_from_slice(&length.to_be_bytes());
            connection.output.extend_from_slice(reply);
        }
        if !connection.send(now) {
            self.connections.swap_remove(at);
        }
    }
}
