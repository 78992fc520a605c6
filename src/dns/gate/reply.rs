//! Replies: who asked and how, and the message that goes back.

use crate::dns::answer::Answer;
use crate::dns::name::Name;
use crate::dns::wire::build::{Builder, ReplyEdns, seal};
use crate::dns::wire::query::Query;
use crate::dns::wire::{HEADER, flag, rtype, u32_at};
use std::net::SocketAddr;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// The client at this address, over UDP.
    Udp(SocketAddr),
    /// The TCP connection of this serial number.
    Tcp(u64),
}

/// What must be kept of a query to answer it later.
#[derive(Debug)]
pub struct Waiter {
    /// Who asked.
    pub asker: Asker,
    id: u16,
    flags: u16,
    /// The name, its letters' case as the client wrote it.
    raw: Box<[u8]>,
    qtype: u16,
    limit: usize,
    /// The client speaks EDNS, and its `DO` flag.
    edns: Option<bool>,
}

impl Waiter {
    /// Keeps what is needed of `query`.
    pub fn new(asker: Asker, query: &Query<'_>) -> Self {
        Self {
            asker,
            id: query.id,
            flags: query.flags,
            raw: query.question.raw.into(),
            qtype: query.question.qtype,
            limit: match asker {
                Asker::Udp(_) => query.udp_limit(),
                Asker::Tcp(_) => usize::from(u16::MAX),
            },
            edns: query.edns.map(|e| e.dnssec_ok),
        }
    }

    /// The type asked for.
    pub fn qtype(&self) -> u16 {
        self.qtype
    }

    /// The reply that gives this answer, `age` seconds old.
    pub fn answer(&self, answer: &Answer, age: u32) -> Vec<u8> {
        let mut reply = Vec::with_capacity(answer.message.len() + 32);
        reply.extend_from_slice(&answer.message);
        // AD is for those who asked for it, by AD or DO (RFC 6840 section 5.8).
        let mut drop = flag::RD | flag::CD;
        if self.flags & flag::AD == 0 && self.edns != Some(true) {
            drop |= flag::AD;
        }
        let kept = u16::from_be_bytes([reply[2], reply[3]]) & !drop;
        let flags = kept | self.flags & (flag::RD | flag::CD);
        reply[..2].copy_from_slice(&self.id.to_be_bytes());
        reply[2..4].copy_from_slice(&flags.to_be_bytes());
        let question_end = HEADER + self.raw.len() + 4;
        if let Some(name) = reply.get_mut(HEADER..HEADER + self.raw.len()) {
            name.copy_from_slice(&self.raw);
        }
        if age > 0 {
            for at in answer.ttls.iter().map(|at| usize::from(*at)) {
                let ttl = u32_at(&reply, at).unwrap_or(0).saturating_sub(age);
                if let Some(field) = reply.get_mut(at..at + 4) {
                    field.copy_from_slice(&ttl.to_be_bytes());
                }
            }
        }
        self.seal(reply, question_end, answer.rcode, None)
    }

    /// A reply that says no: a response code and an extended error.
    pub fn refuse(&self, rcode: u16, error: Option<(u16, &str)>) -> Vec<u8> {
        let reply = self.begin().finish();
        let question_end = reply.len();
        self.seal(reply, question_end, rcode, error)
    }

    /// A reply of our own with one record of the asked type, or none.
    pub fn local(&self, name: &Name, rcode: u16, data: Option<&[u8]>) -> Vec<u8> {
        /// How long clients may keep what never changes, seconds.
        const TTL: u32 = 3600;
        let mut builder = self.begin();
        let question_end = builder.len();
        if let Some(data) = data {
            builder.plain(name, self.qtype, TTL, data);
            builder.counts(1, 0, 0);
        }
        self.seal(builder.finish(), question_end, rcode, None)
    }

    fn begin(&self) -> Builder {
        let flags = flag::QR | flag::RA | self.flags & (flag::RD | flag::CD);
        Builder::new(self.id, flags, &self.raw, self.qtype)
    }

    fn seal(
        &self,
        mut reply: Vec<u8>,
        question_end: usize,
        rcode: u16,
        error: Option<(u16, &str)>,
    ) -> Vec<u8> {
        let edns = self.edns.map(|dnssec_ok| ReplyEdns { dnssec_ok, error });
        seal(&mut reply, question_end, rcode, edns, self.limit);
        reply
    }
}

/// Names that are answered here and by nobody else (RFC 6761): the response code, and the data
/// of the one record.
pub fn local(name: &Name, qtype: u16) -> Option<(u16, Option<&'static [u8]>)> {
    use crate::dns::wire::rcode::{NOERROR, NXDOMAIN};
    match name.labels().last()? {
        b"localhost" => Some((
            NOERROR,
            match qtype {
                rtype::A => Some(&[127, 0, 0, 1]),
                rtype::AAAA => Some(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
                _ => None,
            },
        )),
        b"invalid" => Some((NXDOMAIN, None)),
        _ => None,
    }
}
