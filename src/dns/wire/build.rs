//! Writing messages: queries, replies, error replies, truncation.

use super::edns::{DNSSEC_OK, OPTION_COOKIE, OPTION_EDE};
use super::rdata::{Piece, pieces};
use super::{CLASS_IN, HEADER, Malformed, Record, UDP_PAYLOAD, flag, rtype, u16_at};
use crate::dns::name::{Name, suffixes};

/// Names remembered for compression; enough for a CNAME chain and its records.
const MAX_REMEMBERED: usize = 32;
/// Length of an OPT record without options.
const OPT: usize = 11;

/// A message under construction.
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
    /// Where names that later ones may point to begin.
    names: Vec<u16>,
}

impl Builder {
    /// Begins a message with one question, the name spelt as in `raw`.
    pub fn new(id: u16, flags: u16, raw: &[u8], qtype: u16) -> Self {
        let mut bytes = Vec::with_capacity(HEADER + raw.len() + 4 + 64);
        for field in [id, flags, 1, 0, 0, 0] {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        bytes.extend_from_slice(raw);
        bytes.extend_from_slice(&qtype.to_be_bytes());
        bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        let mut builder = Self {
            bytes,
            names: Vec::with_capacity(MAX_REMEMBERED),
        };
        builder.remember(HEADER, raw);
        builder
    }

    /// Length so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a message has at least its header and question.
    pub fn is_empty(&self) -> bool {
        false
    }

    fn remember(&mut self, at: usize, wire: &[u8]) {
        let mut offset = at;
        for suffix in suffixes(wire) {
            if offset >= 0x4000 || self.names.len() == MAX_REMEMBERED {
                return;
            }
            self.names.push(offset as u16);
            offset += 1 + usize::from(suffix[0]);
        }
    }

    /// Whether the name that begins at `at` in what is written equals `wire`, ignoring case.
    fn stands_at(&self, mut at: usize, wire: &[u8]) -> bool {
        // What we wrote ourselves: pointers lead backwards, so this ends.
        for suffix in suffixes(wire) {
            let len = usize::from(suffix[0]);
            while let Some(&head) = self.bytes.get(at) {
                if head < 0xc0 {
                    break;
                }
                at = usize::from(u16_at(&self.bytes, at).unwrap_or(0) & 0x3fff);
            }
            match self.bytes.get(at..at + 1 + len) {
                Some(label) if label.eq_ignore_ascii_case(&suffix[..1 + len]) => at += 1 + len,
                _ => return false,
            }
        }
        while let Some(&head) = self.bytes.get(at) {
            if head < 0xc0 {
                return head == 0;
            }
            at = usize::from(u16_at(&self.bytes, at).unwrap_or(0) & 0x3fff);
        }
        false
    }

    /// Writes a name, by reference to an earlier one where allowed and possible.
    fn name(&mut self, name: &Name, compress: bool) {
        let begin = self.bytes.len();
        if compress {
            for suffix in suffixes(name.wire()) {
                let found = self
                    .names
                    .iter()
                    .copied()
                    .find(|at| self.stands_at(usize::from(*at), suffix));
                if let Some(at) = found {
                    let head = name.wire().len() - suffix.len();
                    self.bytes.extend_from_slice(&name.wire()[..head]);
                    self.remember(begin, &name.wire()[..head]);
                    self.bytes.extend_from_slice(&(0xc000 | at).to_be_bytes());
                    return;
                }
            }
        }
        self.bytes.extend_from_slice(name.wire());
        self.remember(begin, name.wire());
    }

    /// Appends a copy of `record` with another time to live. Returns where the TTL stands.
    /// The section counter is [`Self::counts`]'s business.
    ///
    /// # Errors
    /// [`Malformed`] where the record's data is not what its type prescribes; the message is then
    /// of no use.
    pub fn record(&mut self, record: &Record<'_>, ttl: u32) -> Result<usize, Malformed> {
        let ttl_at = self.head(&record.owner, record.rtype, record.class, ttl);
        let length_at = self.bytes.len() - 2;
        pieces(record, |piece| match piece {
            Piece::Octets(octets) => self.bytes.extend_from_slice(octets),
            Piece::Name(name, compress) => self.name(name, compress),
        })?;
        self.close(length_at)?;
        Ok(ttl_at)
    }

    /// Appends a record with the data given as octets.
    pub fn plain(&mut self, owner: &Name, rtype: u16, ttl: u32, data: &[u8]) -> usize {
        let ttl_at = self.head(owner, rtype, CLASS_IN, ttl);
        let length_at = self.bytes.len() - 2;
        self.bytes.extend_from_slice(data);
        // Callers give what came out of a record, so it fits one.
        let _ = self.close(length_at);
        ttl_at
    }

    fn head(&mut self, owner: &Name, rtype: u16, class: u16, ttl: u32) -> usize {
        self.name(owner, true);
        self.bytes.extend_from_slice(&rtype.to_be_bytes());
        self.bytes.extend_from_slice(&class.to_be_bytes());
        let ttl_at = self.bytes.len();
        self.bytes.extend_from_slice(&ttl.to_be_bytes());
        self.bytes.extend_from_slice(&[0, 0]);
        ttl_at
    }

    fn close(&mut self, length_at: usize) -> Result<(), Malformed> {
        let length = self.bytes.len() - length_at - 2;
        let length = u16::try_from(length).map_err(|_| Malformed)?;
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Sets the numbers of answer, authority and additional records.
    pub fn counts(&mut self, answer: u16, authority: u16, additional: u16) {
        for (at, n) in [(6, answer), (8, authority), (10, additional)] {
            self.bytes[at..at + 2].copy_from_slice(&n.to_be_bytes());
        }
    }

    /// The finished message.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// What a query asks for beside its question.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// Send an OPT record.
    pub edns: bool,
    /// Ask for DNSSEC records (needs `edns`).
    pub dnssec_ok: bool,
    /// Ask upstream not to validate.
    pub checking_disabled: bool,
    /// Cookie option (needs `edns`): client part, then the server's.
    pub cookie: Option<([u8; 8], &'a [u8])>,
}

/// A recursive query. `raw` is the name in wire form, its letters' case as it shall be sent.
pub fn query(id: u16, raw: &[u8], qtype: u16, ask: &Ask<'_>) -> Vec<u8> {
    let cd = if ask.checking_disabled { flag::CD } else { 0 };
    let mut builder = Builder::new(id, flag::RD | cd, raw, qtype);
    if ask.edns {
        let mut options = Vec::new();
        if let Some((client, server)) = ask.cookie {
            options.extend_from_slice(&OPTION_COOKIE.to_be_bytes());
            options.extend_from_slice(&((8 + server.len()) as u16).to_be_bytes());
            options.extend_from_slice(&client);
            options.extend_from_slice(server);
        }
        let flags = if ask.dnssec_ok { DNSSEC_OK } else { 0 };
        push_opt(&mut builder.bytes, flags, &options);
        builder.counts(0, 0, 1);
    }
    builder.finish()
}

fn push_opt(bytes: &mut Vec<u8>, ttl: u32, options: &[u8]) {
    bytes.push(0);
    bytes.extend_from_slice(&rtype::OPT.to_be_bytes());
    bytes.extend_from_slice(&(UDP_PAYLOAD as u16).to_be_bytes());
    bytes.extend_from_slice(&ttl.to_be_bytes());
    bytes.extend_from_slice(&(options.len() as u16).to_be_bytes());
    bytes.extend_from_slice(options);
}

/// The EDNS part of a reply to a client that sent EDNS.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplyEdns<'a> {
    /// The client's `DO` flag, given back.
    pub dnssec_ok: bool,
    /// Extended error: INFO-CODE and a text in ASCII.
    pub error: Option<(u16, &'a str)>,
}

/// Ends a reply: appends the OPT record if the client speaks EDNS, and cuts the reply down to
/// its question with TC set where it is longer than `limit` (RFC 2181 section 9: a client must
/// ignore what a truncated reply holds anyway). `question_end` is where its question ends, and
/// `rcode` the whole response code.
pub fn seal(
    reply: &mut Vec<u8>,
    question_end: usize,
    rcode: u16,
    edns: Option<ReplyEdns<'_>>,
    limit: usize,
) {
    let mut options = Vec::new();
    if let Some((code, text)) = edns.and_then(|e| e.error) {
        let length = (2 + text.len()) as u16;
        for field in [OPTION_EDE, length, code] {
            options.extend_from_slice(&field.to_be_bytes());
        }
        options.extend_from_slice(text.as_bytes());
    }
    let opt = edns.map_or(0, |_| OPT + options.len());
    let mut flags = u16_at(reply, 2).unwrap_or(0) & !15 | rcode & 15;
    if reply.len() + opt > limit {
        reply.truncate(question_end);
        flags |= flag::TC;
        set_u16(reply, 6, 0);
        set_u16(reply, 8, 0);
        set_u16(reply, 10, 0);
    }
    set_u16(reply, 2, flags);
    if let Some(edns) = edns {
        let do_bit = if edns.dnssec_ok { DNSSEC_OK } else { 0 };
        push_opt(reply, u32::from(rcode >> 4) << 24 | do_bit, &options);
        let additional = u16_at(reply, 10).unwrap_or(0).saturating_add(1);
        set_u16(reply, 10, additional);
    }
}

/// Overwrites the 16-bit field at `at`; nothing where the message is too short.
pub fn set_u16(message: &mut [u8], at: usize, value: u16) {
    if let Some(field) = message.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// A reply without a question, to a message of which only the header could be read. `opt` adds
/// an OPT record, which BADVERS needs for the upper half of its code.
pub fn header_only(id: u16, flags: u16, rcode: u16, opt: bool) -> Vec<u8> {
    // Opcode, RD and CD are the client's (RFC 1035 section 4.1.1).
    let flags = flag::QR | flags & (0x7800 | flag::RD | flag::CD) | flag::RA | rcode & 15;
    let mut bytes = Vec::with_capacity(HEADER + OPT);
    for field in [id, flags, 0, 0, 0, 0] {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    if opt {
        push_opt(&mut bytes, u32::from(rcode >> 4) << 24, &[]);
        set_u16(&mut bytes, 10, 1);
    }
    bytes
}
