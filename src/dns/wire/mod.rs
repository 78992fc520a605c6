//! DNS messages on borrowed bytes (RFC 1035 section 4, RFC 6891).
//!
//! Total: any input gives a value or [`Malformed`], never a panic. Bounded: a compression pointer
//! must point backwards, a name ends after 255 octets or 128 pointers, and every iterator advances.

pub mod build;
pub mod edns;
pub mod query;
pub mod rdata;
pub mod svcb;

use super::name::{MAX_LABEL, MAX_NAME, Name};

/// Length of the fixed header.
pub const HEADER: usize = 12;
/// Longest UDP payload we send or ask for (the DNS flag day's figure, RFC 9715).
pub const UDP_PAYLOAD: usize = 1232;
/// Most compression pointers followed in one name: one before each possible label.
const MAX_POINTERS: u32 = 128;

/// Header flag bits, as they stand in octets 2 and 3.
pub mod flag {
    /// Response.
    pub const QR: u16 = 0x8000;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Authentic data (RFC 4035).
    pub const AD: u16 = 0x0020;
    /// Checking disabled (RFC 4035).
    pub const CD: u16 = 0x0010;
}

/// Response codes.
pub mod rcode {
    /// No error.
    pub const NOERROR: u16 = 0;
    /// The server could not read the query.
    pub const FORMERR: u16 = 1;
    /// The server failed.
    pub const SERVFAIL: u16 = 2;
    /// The name does not exist.
    pub const NXDOMAIN: u16 = 3;
    /// The server does not know this kind of query.
    pub const NOTIMP: u16 = 4;
    /// The server refuses.
    pub const REFUSED: u16 = 5;
    /// EDNS version not supported (RFC 6891).
    pub const BADVERS: u16 = 16;
    /// The server wants its own cookie back (RFC 7873).
    pub const BADCOOKIE: u16 = 23;
}

/// Record types.
pub mod rtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Canonical name.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Redirection of a subtree (RFC 6672).
    pub const DNAME: u16 = 39;
    /// EDNS pseudo-record (RFC 6891).
    pub const OPT: u16 = 41;
    /// Signature (RFC 4034).
    pub const RRSIG: u16 = 46;
    /// Proof of absence (RFC 4034).
    pub const NSEC: u16 = 47;
    /// Hashed proof of absence (RFC 5155).
    pub const NSEC3: u16 = 50;
    /// Service binding (RFC 9460).
    pub const SVCB: u16 = 64;
    /// Service binding for HTTPS (RFC 9460).
    pub const HTTPS: u16 = 65;
    /// First of the types that exist only in questions and in transit (RFC 6895 section 3.1).
    pub const META_FIRST: u16 = 128;
    /// Last of them: `ANY`.
    pub const META_LAST: u16 = 255;
}

/// The Internet class.
pub const CLASS_IN: u16 = 1;

/// The bytes are no DNS message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed DNS message")
    }
}

impl std::error::Error for Malformed {}

/// A message whose header is there; everything after it is checked as it is read.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The name, lower case.
    pub name: Name,
    /// The name as the message spells it: its letters' case is the client's to choose and ours
    /// to give back.
    pub raw: &'a [u8],
    /// Query type.
    pub qtype: u16,
    /// Query class.
    pub class: u16,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who is responsible.
    Authority,
    /// What may be of use. Nothing in it is ever believed.
    Additional,
}

/// One resource record.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Section it stands in.
    pub section: Section,
    /// Owner name, lower case.
    pub owner: Name,
    /// Type.
    pub rtype: u16,
    /// Class; the payload size in an OPT record.
    pub class: u16,
    /// Time to live, seconds, as sent; flags in an OPT record.
    pub ttl_raw: u32,
    /// The data.
    pub rdata: &'a [u8],
    /// Where the data begins in the message: names in it may point back.
    pub rdata_at: usize,
    /// The message it stands in.
    pub message: &'a [u8],
}

impl Record<'_> {
    /// Time to live, seconds. With the highest bit set it counts as 0 (RFC 2181 section 8).
    pub fn ttl(&self) -> u32 {
        if self.ttl_raw > i32::MAX as u32 {
            0
        } else {
            self.ttl_raw
        }
    }
}

impl<'a> Message<'a> {
    /// Accepts anything that has a header.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER || bytes.len() > usize::from(u16::MAX) {
            return Err(Malformed);
        }
        Ok(Self { bytes })
    }

    fn field(&self, at: usize) -> u16 {
        u16_at(self.bytes, at).unwrap_or(0)
    }

    /// The message's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Message id.
    pub fn id(&self) -> u16 {
        self.field(0)
    }

    /// Octets 2 and 3: see [`flag`].
    pub fn flags(&self) -> u16 {
        self.field(2)
    }

    /// Whether a flag of [`flag`] is set.
    pub fn has(&self, bit: u16) -> bool {
        self.flags() & bit != 0
    }

    /// Kind of query; 0 is the ordinary one.
    pub fn opcode(&self) -> u16 {
        self.flags() >> 11 & 15
    }

    /// Response code, the header's four bits only.
    pub fn rcode(&self) -> u16 {
        self.flags() & 15
    }

    /// Number of entries in the question section, then in answer, authority and additional.
    pub fn counts(&self) -> [u16; 4] {
        [self.field(4), self.field(6), self.field(8), self.field(10)]
    }

    /// The one question, and where it ends. No question or several: [`Malformed`] (RFC 9619).
    pub fn question(&self) -> Result<(Question<'a>, usize), Malformed> {
        if self.counts()[0] != 1 {
            return Err(Malformed);
        }
        // The first name of a message cannot be compressed: nothing stands before it.
        let (name, end) = read_name(self.bytes, HEADER)?;
        let raw = self.bytes.get(HEADER..end).ok_or(Malformed)?;
        let question = Question {
            name,
            raw,
            qtype: u16_at(self.bytes, end).ok_or(Malformed)?,
            class: u16_at(self.bytes, end + 2).ok_or(Malformed)?,
        };
        Ok((question, end + 4))
    }

    /// The records from `at` on, which is where the question ended.
    pub fn records(&self, at: usize) -> Records<'a> {
        let [_, answer, authority, additional] = self.counts();
        Records {
            message: self.bytes,
            at,
            left: [answer, authority, additional],
        }
    }
}

/// The records of a message, in order. After an error it ends.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: [u16; 3],
}

impl Records<'_> {
    /// Where the next record begins; behind the last one, where the message should end.
    pub fn position(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let (index, section) = [Section::Answer, Section::Authority, Section::Additional]
            .into_iter()
            .enumerate()
            .find(|(i, _)| self.left[*i] > 0)?;
        match read_record(self.message, self.at, section) {
            Ok((record, end)) => {
                self.left[index] -= 1;
                self.at = end;
                Some(Ok(record))
            }
            Err(e) => {
                self.left = [0; 3];
                Some(Err(e))
            }
        }
    }
}

fn read_record(
    message: &[u8],
    at: usize,
    section: Section,
) -> Result<(Record<'_>, usize), Malformed> {
    let (owner, at) = read_name(message, at)?;
    let fixed = message.get(at..at + 10).ok_or(Malformed)?;
    let rdata_at = at + 10;
    let end = rdata_at + usize::from(u16_at(fixed, 8).ok_or(Malformed)?);
    let record = Record {
        section,
        owner,
        rtype: u16_at(fixed, 0).ok_or(Malformed)?,
        class: u16_at(fixed, 2).ok_or(Malformed)?,
        ttl_raw: u32_at(fixed, 4).ok_or(Malformed)?,
        rdata: message.get(rdata_at..end).ok_or(Malformed)?,
        rdata_at,
        message,
    };
    Ok((record, end))
}

/// Reads the possibly compressed name at `at`; returns it and the position behind it.
pub fn read_name(message: &[u8], at: usize) -> Result<(Name, usize), Malformed> {
    let mut wire = [0u8; MAX_NAME];
    let mut len = 0;
    let mut pos = at;
    let mut end = None;
    // Each pointer must lead to before the segment it ends, so that no chain of them can loop.
    let mut floor = at;
    let mut pointers = 0;
    loop {
        let head = *message.get(pos).ok_or(Malformed)?;
        match head {
            0 => {
                let name = wire.get(..len + 1).ok_or(Malformed)?;
                let name = Name::from_wire(name).ok_or(Malformed)?;
                return Ok((name, end.unwrap_or(pos + 1)));
            }
            1..=63 => {
                let size = 1 + usize::from(head);
                debug_assert!(size <= 1 + MAX_LABEL);
                let label = message.get(pos..pos + size).ok_or(Malformed)?;
                // One octet must stay free for the root label.
                if len + size >= MAX_NAME {
                    return Err(Malformed);
                }
                wire[len..len + size].copy_from_slice(label);
                len += size;
                pos += size;
            }
            0xc0.. => {
                let target = usize::from(u16_at(message, pos).ok_or(Malformed)? & 0x3fff);
                pointers += 1;
                if target < HEADER || target >= floor || pointers > MAX_POINTERS {
                    return Err(Malformed);
                }
                end.get_or_insert(pos + 2);
                floor = target;
                pos = target;
            }
            // 0x40 and 0x80: label types that were never deployed (RFC 6891 section 5).
            _ => return Err(Malformed),
        }
    }
}

/// The big-endian number at `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(two.try_into().ok()?))
}

/// The big-endian number at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests;
