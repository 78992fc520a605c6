//! EDNS(0) (RFC 6891), extended errors (RFC 8914) and cookies (RFC 7873).

use super::{Malformed, Record, Section, rtype, u16_at};

/// Option code of a cookie (RFC 7873).
pub const OPTION_COOKIE: u16 = 10;
/// Option code of an extended error (RFC 8914).
pub const OPTION_EDE: u16 = 15;
/// The `DO` flag in an OPT record's TTL field (RFC 3225).
pub const DNSSEC_OK: u32 = 0x8000;

/// INFO-CODEs of extended errors that we send (RFC 8914 section 4).
pub mod ede {
    /// Anything without a code of its own.
    pub const OTHER: u16 = 0;
    /// The operator's policy forbids the name.
    pub const BLOCKED: u16 = 15;
    /// The server will not answer this kind of query.
    pub const NOT_SUPPORTED: u16 = 21;
    /// No upstream answered.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// What upstream answered is no valid answer.
    pub const INVALID_DATA: u16 = 24;
}

/// The contents of an OPT record.
#[derive(Debug, Clone, Copy)]
pub struct Edns<'a> {
    /// Largest UDP payload its sender can take, at least 512.
    pub payload: u16,
    /// Upper eight bits of the response code.
    pub rcode_high: u8,
    /// EDNS version; only 0 exists.
    pub version: u8,
    /// Whether DNSSEC records are wanted.
    pub dnssec_ok: bool,
    options: &'a [u8],
}

impl<'a> Edns<'a> {
    /// Reads an OPT record. It must stand in the additional section under the root name.
    pub fn read(record: &Record<'a>) -> Result<Self, Malformed> {
        if record.rtype != rtype::OPT
            || record.section != Section::Additional
            || !record.owner.is_root()
        {
            return Err(Malformed);
        }
        let [rcode_high, version, ..] = record.ttl_raw.to_be_bytes();
        let edns = Self {
            payload: record.class.max(512),
            rcode_high,
            version,
            dnssec_ok: record.ttl_raw & DNSSEC_OK != 0,
            options: record.rdata,
        };
        // Walked once here, so that a damaged option list is found before it is used.
        let mut options = edns.options();
        if options.by_ref().count() > 64 || !options.rest.is_empty() {
            return Err(Malformed);
        }
        Ok(edns)
    }

    /// The options: code and data.
    pub fn options(&self) -> Options<'a> {
        Options { rest: self.options }
    }

    /// The data of the first option with this code.
    pub fn option(&self, code: u16) -> Option<&'a [u8]> {
        self.options().find(|(c, _)| *c == code).map(|(_, d)| d)
    }
}

/// The options of an OPT record.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let code = u16_at(self.rest, 0)?;
        let end = 4 + usize::from(u16_at(self.rest, 2)?);
        let data = self.rest.get(4..end)?;
        self.rest = self.rest.get(end..)?;
        Some((code, data))
    }
}

/// A cookie option: eight octets of the client's, and eight to 32 of the server's or none.
pub fn split_cookie(data: &[u8]) -> Option<([u8; 8], &[u8])> {
    let (client, server) = data.split_first_chunk::<8>()?;
    matches!(server.len(), 0 | 8..=32).then_some((*client, server))
}
