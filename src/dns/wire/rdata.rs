//! Record data that holds names: which types do, and copying them out of their message.
//!
//! Names in the data may be compressed against the message they came in, so a record moves to
//! another message only with its names spelt out (RFC 3597 section 4).

use super::{Malformed, Record, read_name, rtype};
use crate::dns::name::Name;
use std::net::IpAddr;

/// How the data of a type is made: octets, then names, then octets.
struct Layout {
    prefix: usize,
    names: u8,
    /// Length of what follows the names; `None` for any.
    tail: Option<usize>,
    /// Whether a writer may compress the names (RFC 1035's types only).
    compress: bool,
}

fn layout(rtype: u16) -> Option<Layout> {
    let (prefix, names, tail, compress) = match rtype {
        // NS MD MF CNAME MB MG MR PTR
        2..=5 | 7..=9 | 12 => (0, 1, Some(0), true),
        rtype::SOA => (0, 2, Some(20), true),
        14 => (0, 2, Some(0), true),               // MINFO
        15 => (2, 1, Some(0), true),               // MX
        17 => (0, 2, Some(0), false),              // RP
        18 | 21 | 36 => (2, 1, Some(0), false),    // AFSDB RT KX
        24 | rtype::RRSIG => (18, 1, None, false), // SIG RRSIG
        26 => (2, 2, Some(0), false),              // PX
        30 | rtype::NSEC => (0, 1, None, false),   // NXT NSEC
        33 => (6, 1, Some(0), false),              // SRV
        rtype::DNAME => (0, 1, Some(0), false),
        rtype::SVCB | rtype::HTTPS => (2, 1, None, false),
        _ => return None,
    };
    Some(Layout {
        prefix,
        names,
        tail,
        compress,
    })
}

/// One piece of record data.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'a> {
    /// Octets to copy.
    Octets(&'a [u8]),
    /// A name, and whether it may be compressed.
    Name(&'a Name, bool),
}

/// Hands the pieces of the record's data to `each`, in order.
///
/// # Errors
/// [`Malformed`] where the data is not what its type prescribes.
pub fn pieces(record: &Record<'_>, mut each: impl FnMut(Piece<'_>)) -> Result<(), Malformed> {
    let data = record.rdata;
    match record.rtype {
        rtype::A if data.len() != 4 => return Err(Malformed),
        rtype::AAAA if data.len() != 16 => return Err(Malformed),
        35 => return naptr(record, each),
        _ => {}
    }
    let Some(layout) = layout(record.rtype) else {
        each(Piece::Octets(data));
        return Ok(());
    };
    each(Piece::Octets(data.get(..layout.prefix).ok_or(Malformed)?));
    let mut at = record.rdata_at + layout.prefix;
    let end = record.rdata_at + data.len();
    for _ in 0..layout.names {
        let name;
        (name, at) = read_name(record.message, at)?;
        each(Piece::Name(&name, layout.compress));
    }
    let tail = record.message.get(at..end).ok_or(Malformed)?;
    if layout.tail.is_some_and(|len| len != tail.len()) {
        return Err(Malformed);
    }
    each(Piece::Octets(tail));
    Ok(())
}

/// NAPTR (RFC 3403): two numbers, three character strings, a name.
fn naptr(record: &Record<'_>, mut each: impl FnMut(Piece<'_>)) -> Result<(), Malformed> {
    let mut at = 4;
    for _ in 0..3 {
        at += 1 + usize::from(*record.rdata.get(at).ok_or(Malformed)?);
    }
    each(Piece::Octets(record.rdata.get(..at).ok_or(Malformed)?));
    let (name, end) = read_name(record.message, record.rdata_at + at)?;
    if end != record.rdata_at + record.rdata.len() {
        return Err(Malformed);
    }
    each(Piece::Name(&name, false));
    Ok(())
}

/// The address in an A or AAAA record; `None` for other types and wrong lengths.
pub fn address(record: &Record<'_>) -> Option<IpAddr> {
    match record.rtype {
        rtype::A => Some(<[u8; 4]>::try_from(record.rdata).ok()?.into()),
        rtype::AAAA => Some(<[u8; 16]>::try_from(record.rdata).ok()?.into()),
        _ => None,
    }
}

/// The name a CNAME or DNAME record points to.
pub fn target(record: &Record<'_>) -> Result<Name, Malformed> {
    let (name, end) = read_name(record.message, record.rdata_at)?;
    if end != record.rdata_at + record.rdata.len() {
        return Err(Malformed);
    }
    Ok(name)
}

/// How long absence may be remembered, from a SOA record: the smaller of its TTL and its
/// MINIMUM field (RFC 2308 section 5).
pub fn negative_ttl(soa: &Record<'_>) -> Option<u32> {
    let at = soa.rdata.len().checked_sub(4)?;
    Some(soa.ttl().min(super::u32_at(soa.rdata, at)?))
}
