//! A client's query, read and judged as a server must (RFC 1035, RFC 6891, RFC 9619).

use super::edns::Edns;
use super::{Malformed, Message, Question, flag, rcode, rtype};

/// A query that can be answered.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The client's message id.
    pub id: u16,
    /// The client's flags.
    pub flags: u16,
    /// The question.
    pub question: Question<'a>,
    /// The client's EDNS, if it speaks it.
    pub edns: Option<Edns<'a>>,
}

/// A query that cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswerable {
    /// No reply at all: not even a header, or a response (answering those would make loops).
    Drop,
    /// A reply of this response code, from what is known of the query.
    Reply(u16),
}

impl<'a> Query<'a> {
    /// Reads a client's message.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Unanswerable> {
        let message = Message::new(bytes).map_err(|_| Unanswerable::Drop)?;
        if message.has(flag::QR) {
            return Err(Unanswerable::Drop);
        }
        if message.opcode() != 0 {
            return Err(Unanswerable::Reply(rcode::NOTIMP));
        }
        let query =
            Self::read_body(&message).map_err(|Malformed| Unanswerable::Reply(rcode::FORMERR))?;
        if query.edns.is_some_and(|e| e.version != 0) {
            return Err(Unanswerable::Reply(rcode::BADVERS));
        }
        Ok(query)
    }

    fn read_body(message: &Message<'a>) -> Result<Self, Malformed> {
        let [_, answers, authorities, additionals] = message.counts();
        // Bounds the walk below: a client has an OPT to send, perhaps a signature, nothing else.
        if answers != 0 || authorities != 0 || additionals > 8 {
            return Err(Malformed);
        }
        let (question, end) = message.question()?;
        let mut edns = None;
        let mut records = message.records(end);
        for record in records.by_ref() {
            let record = record?;
            if record.rtype == rtype::OPT && edns.replace(Edns::read(&record)?).is_some() {
                return Err(Malformed);
            }
        }
        if records.position() != message.bytes().len() {
            return Err(Malformed);
        }
        Ok(Self {
            id: message.id(),
            flags: message.flags(),
            question,
            edns,
        })
    }

    /// Whether the client wants DNSSEC records.
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|e| e.dnssec_ok)
    }

    /// The largest reply the client takes over UDP, never above what we are willing to send.
    pub fn udp_limit(&self) -> usize {
        self.edns
            .map_or(512, |e| usize::from(e.payload).min(super::UDP_PAYLOAD))
    }
}
