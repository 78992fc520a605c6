//! SVCB and HTTPS records (RFC 9460): the address hints in them, and ECH keys taken out.

use super::{Malformed, Record, read_name, u16_at};
use std::net::IpAddr;

/// SvcParamKey `mandatory`.
const MANDATORY: u16 = 0;
/// SvcParamKey `ipv4hint`.
const IPV4HINT: u16 = 4;
/// SvcParamKey `ech`.
const ECH: u16 = 5;
/// SvcParamKey `ipv6hint`.
const IPV6HINT: u16 = 6;

/// The service parameters of a record, in the ascending order the RFC demands.
#[derive(Debug, Clone)]
pub struct Params<'a> {
    rest: &'a [u8],
    last: Option<u16>,
}

impl<'a> Params<'a> {
    /// The parameters of a SVCB or HTTPS record.
    pub fn of(record: &Record<'a>) -> Result<Self, Malformed> {
        let (_, at) = read_name(record.message, record.rdata_at + 2)?;
        let end = record.rdata_at + record.rdata.len();
        Ok(Self {
            rest: record.message.get(at..end).ok_or(Malformed)?,
            last: None,
        })
    }

    /// The next key and value.
    fn take(&mut self) -> Result<Option<(u16, &'a [u8])>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = u16_at(self.rest, 0).ok_or(Malformed)?;
        let end = 4 + usize::from(u16_at(self.rest, 2).ok_or(Malformed)?);
        let value = self.rest.get(4..end).ok_or(Malformed)?;
        // Strictly ascending keys (RFC 9460 section 2.2); a repeated one is an attack or a bug.
        if self.last.is_some_and(|last| last >= key) {
            return Err(Malformed);
        }
        self.last = Some(key);
        self.rest = self.rest.get(end..).ok_or(Malformed)?;
        Ok(Some((key, value)))
    }
}

/// Hands every address hint of the record to `each`.
///
/// # Errors
/// [`Malformed`] where the record breaks RFC 9460's format.
pub fn hints(record: &Record<'_>, mut each: impl FnMut(IpAddr)) -> Result<(), Malformed> {
    let mut params = Params::of(record)?;
    while let Some((key, value)) = params.take()? {
        match key {
            IPV4HINT => chunks::<4>(value, |a| each(a.into()))?,
            IPV6HINT => chunks::<16>(value, |a| each(a.into()))?,
            _ => {}
        }
    }
    Ok(())
}

fn chunks<const N: usize>(value: &[u8], mut each: impl FnMut([u8; N])) -> Result<(), Malformed> {
    let (all, rest) = value.as_chunks::<N>();
    if all.is_empty() || !rest.is_empty() {
        return Err(Malformed);
    }
    all.iter().for_each(|a| each(*a));
    Ok(())
}

/// The record's parameters without its ECH keys, `mandatory` corrected to match; `None` where
/// there are none to take out.
pub fn without_ech(record: &Record<'_>) -> Result<Option<Vec<u8>>, Malformed> {
    let mut params = Params::of(record)?;
    let mut kept = Vec::with_capacity(params.rest.len());
    let mut found = false;
    while let Some((key, value)) = params.take()? {
        let mut put = |value: &[u8]| {
            kept.extend_from_slice(&key.to_be_bytes());
            kept.extend_from_slice(&(value.len() as u16).to_be_bytes());
            kept.extend_from_slice(value);
        };
        match key {
            ECH => found = true,
            MANDATORY => {
                let (keys, rest) = value.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err(Malformed);
                }
                let keys: Vec<u8> = keys
                    .iter()
                    .filter(|k| u16::from_be_bytes(**k) != ECH)
                    .flatten()
                    .copied()
                    .collect();
                if !keys.is_empty() {
                    put(&keys);
                }
            }
            _ => put(value),
        }
    }
    Ok(found.then_some(kept))
}
