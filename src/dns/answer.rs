//! An upstream answer, checked and written anew: what the resolver believes, and what the gate
//! caches, opens and sends.
//!
//! Nothing of upstream's message is passed on as it stands. Kept are the CNAME chain that begins
//! at the queried name, the records of the asked type at its end, and the SOA of a negative answer
//! (with DNSSEC's records for a client that asked for them). Everything else, the additional
//! section above all, is never looked at: nobody vouches for it (RFC 2181 section 5.4.1).
//!
//! Private and loopback addresses stay in the answer. What refuses them is the kernel, and its log
//! then says which name led there; taking them out would hide the attempt and break the addresses
//! an operator allowed by hand.

use crate::dns::name::{Name, suffixes};
use crate::dns::wire::build::Builder;
use crate::dns::wire::rdata::{address, negative_ttl, target};
use crate::dns::wire::{CLASS_IN, Malformed, Message, Record, Section, flag, rcode, rtype, svcb};
use std::net::IpAddr;

/// Longest CNAME chain followed.
const MAX_CHAIN: usize = 16;
/// Most records of an answer or authority section.
const MAX_RECORDS: u16 = 1024;
/// Most addresses of one answer; those beyond are left out of it, since they would stay closed.
pub const MAX_ADDRESSES: usize = 256;
/// Longest time to live handed out, seconds: no answer may outlive its element in the kernel.
pub const MAX_TTL: u32 = 86_360;
/// Longest memory of absence, seconds (RFC 2308 section 5 advises one to three hours; short, for
/// what an operator waits for to appear).
const MAX_NEGATIVE_TTL: u32 = 900;

/// What distinguishes one cached answer from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The name asked for.
    pub name: Name,
    /// The type asked for.
    pub qtype: u16,
    /// DNSSEC records wanted.
    pub dnssec_ok: bool,
    /// Validation by upstream not wanted.
    pub checking_disabled: bool,
}

/// A checked answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The reply, without EDNS and with id 0: header, question in lower case, records.
    pub message: Box<[u8]>,
    /// Where each record's time to live stands.
    pub ttls: Box<[u16]>,
    /// Response code: no error or no such name.
    pub rcode: u16,
    /// The addresses in it, hints included, and how long each is good for, seconds.
    pub addresses: Box<[(IpAddr, u32)]>,
    /// The aliases between the queried name and its records.
    pub via: Box<[Name]>,
    /// How long it may be kept, seconds.
    pub lifetime: u32,
}

impl Answer {
    /// An answer that nobody is sent: addresses resolved elsewhere, and their times to live.
    pub fn of_addresses(addresses: Box<[(IpAddr, u32)]>) -> Self {
        Self {
            message: Box::default(),
            ttls: Box::default(),
            rcode: rcode::NOERROR,
            addresses,
            via: Box::default(),
            lifetime: 0,
        }
    }
}

/// Upstream's answer is no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It breaks the format, or its chain does not end.
    Malformed,
    /// A response code that says that the server could not tell.
    Rcode(u16),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Records being collected into an [`Answer`].
struct Collector {
    builder: Builder,
    ttls: Vec<u16>,
    addresses: Vec<(IpAddr, u32)>,
    shortest: u32,
    strip_ech: bool,
}

impl Collector {
    fn push(&mut self, record: &Record<'_>) -> Result<(), Malformed> {
        let ttl = record.ttl().min(MAX_TTL);
        self.shortest = self.shortest.min(ttl);
        let stripped = match record.rtype {
            rtype::SVCB | rtype::HTTPS => {
                svcb::hints(record, |addr| self.addresses.push((addr, ttl)))?;
                if self.strip_ech {
                    svcb::without_ech(record)?
                } else {
                    None
                }
            }
            _ => {
                self.addresses
                    .extend(address(record).map(|addr| (addr, ttl)));
                None
            }
        };
        let at = match stripped {
            Some(params) => {
                let kept = record.rdata.len().saturating_sub(ech_free_tail(record)?);
                let mut data = record.rdata.get(..kept).ok_or(Malformed)?.to_vec();
                data.extend_from_slice(&params);
                self.builder.plain(&record.owner, record.rtype, ttl, &data)
            }
            None => self.builder.record(record, ttl)?,
        };
        // Beyond 64 KiB there is no message, so there is no such record either.
        self.ttls.push(u16::try_from(at).map_err(|_| Malformed)?);
        Ok(())
    }
}

/// Length of a SVCB record's parameters: what follows its priority and target.
fn ech_free_tail(record: &Record<'_>) -> Result<usize, Malformed> {
    let (_, at) = crate::dns::wire::read_name(record.message, record.rdata_at + 2)?;
    (record.rdata_at + record.rdata.len())
        .checked_sub(at)
        .ok_or(Malformed)
}

/// Checks the response to `key` and writes it anew.
///
/// # Errors
/// [`Fault`]: nothing of it may be used, or opened.
pub fn read(message: &Message<'_>, key: &Key, strip_ech: bool) -> Result<Answer, Fault> {
    let [_, answers, authorities, _] = message.counts();
    if answers > MAX_RECORDS || authorities > MAX_RECORDS {
        return Err(Fault::Malformed);
    }
    let (_, end) = message.question()?;
    let mut records = Vec::with_capacity(usize::from(answers.min(64)));
    let mut iter = message.records(end);
    let mut rcode_high = 0;
    for record in iter.by_ref() {
        let record = record?;
        match record.section {
            Section::Additional if record.rtype == rtype::OPT => {
                rcode_high = record.ttl_raw >> 24;
            }
            Section::Additional => {}
            _ if record.class == CLASS_IN => records.push(record),
            _ => {}
        }
    }
    if iter.position() != message.bytes().len() {
        return Err(Fault::Malformed);
    }
    let rcode = message.rcode() | (rcode_high as u16) << 4;
    if !matches!(rcode, rcode::NOERROR | rcode::NXDOMAIN) {
        return Err(Fault::Rcode(rcode));
    }
    write(message, key, rcode, &records, strip_ech)
}

fn write(
    message: &Message<'_>,
    key: &Key,
    rcode: u16,
    records: &[Record<'_>],
    strip_ech: bool,
) -> Result<Answer, Fault> {
    let flags = flag::QR | flag::RD | flag::RA | message.flags() & (flag::AD | flag::CD) | rcode;
    let mut out = Collector {
        builder: Builder::new(0, flags, key.name.wire(), key.qtype),
        ttls: Vec::new(),
        addresses: Vec::new(),
        shortest: MAX_TTL,
        strip_ech,
    };
    let mut via = Vec::new();
    let mut end = key.name;
    let mut found = false;
    loop {
        found |= rrset(&mut out, records, &end, key.qtype, key.dnssec_ok)?;
        if found || key.qtype == rtype::CNAME {
            break;
        }
        let Some(alias) = records.iter().find(|r| is(r, &end, rtype::CNAME)) else {
            break;
        };
        if via.len() == MAX_CHAIN {
            return Err(Fault::Malformed);
        }
        dname(&mut out, records, &end, key.dnssec_ok)?;
        out.push(alias)?;
        signatures(&mut out, records, &end, rtype::CNAME, key.dnssec_ok)?;
        end = target(alias)?;
        via.push(end);
    }
    let answers = out.ttls.len() as u16;
    let lifetime = authority(&mut out, records, key, &end, found)?;
    let authorities = out.ttls.len() as u16 - answers;
    out.builder.counts(answers, authorities, 0);
    let message = out.builder.finish();
    if message.len() > usize::from(u16::MAX) {
        return Err(Fault::Malformed);
    }
    Ok(Answer {
        message: message.into(),
        ttls: out.ttls.into(),
        rcode,
        addresses: out.addresses.into(),
        via: via.into(),
        lifetime,
    })
}

fn is(record: &Record<'_>, owner: &Name, rtype: u16) -> bool {
    record.section == Section::Answer && record.rtype == rtype && record.owner == *owner
}

/// Takes over the records of one owner and type. Whether there were any.
fn rrset(
    out: &mut Collector,
    records: &[Record<'_>],
    owner: &Name,
    rtype: u16,
    dnssec: bool,
) -> Result<bool, Malformed> {
    let before = out.ttls.len();
    for record in records.iter().filter(|r| is(r, owner, rtype)) {
        if out.addresses.len() >= MAX_ADDRESSES {
            break;
        }
        out.push(record)?;
    }
    let found = out.ttls.len() > before;
    if found {
        signatures(out, records, owner, rtype, dnssec)?;
    }
    Ok(found)
}

/// Takes over the signatures of one owner and type, for a client that wants them.
fn signatures(
    out: &mut Collector,
    records: &[Record<'_>],
    owner: &Name,
    rtype: u16,
    dnssec: bool,
) -> Result<(), Malformed> {
    let covered = rtype.to_be_bytes();
    let wanted = records
        .iter()
        .filter(|r| dnssec && is(r, owner, rtype::RRSIG) && r.rdata.get(..2) == Some(&covered[..]));
    for record in wanted {
        out.push(record)?;
    }
    Ok(())
}

/// Takes over the DNAME a CNAME of `owner` was made from (RFC 6672 section 3.1).
fn dname(
    out: &mut Collector,
    records: &[Record<'_>],
    owner: &Name,
    dnssec: bool,
) -> Result<(), Malformed> {
    let above = records.iter().find(|r| {
        r.section == Section::Answer
            && r.rtype == rtype::DNAME
            && suffixes(owner.wire()).skip(1).any(|s| s == r.owner.wire())
    });
    if let Some(record) = above {
        out.push(record)?;
        signatures(out, records, &record.owner, rtype::DNAME, dnssec)?;
    }
    Ok(())
}

/// Takes over the SOA of a negative answer and DNSSEC's proofs; returns how long the whole answer
/// may be kept.
fn authority(
    out: &mut Collector,
    records: &[Record<'_>],
    key: &Key,
    end: &Name,
    found: bool,
) -> Result<u32, Malformed> {
    let mut lifetime = if found { out.shortest } else { 0 };
    let authority = || records.iter().filter(|r| r.section == Section::Authority);
    if !found {
        let soa = authority().find(|r| r.rtype == rtype::SOA && end.is_within(&r.owner));
        if let Some(soa) = soa {
            let negative = negative_ttl(soa).unwrap_or(0).min(MAX_NEGATIVE_TTL);
            lifetime = negative.min(out.shortest);
            out.push(&Record {
                ttl_raw: negative,
                ..*soa
            })?;
        }
    }
    if key.dnssec_ok {
        let proofs = [rtype::RRSIG, rtype::NSEC, rtype::NSEC3];
        for record in authority().filter(|r| proofs.contains(&r.rtype)) {
            out.push(record)?;
        }
    }
    Ok(lifetime)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn key(text: &str, qtype: u16) -> Key {
        Key {
            name: name(text),
            qtype,
            dnssec_ok: false,
            checking_disabled: false,
        }
    }

    /// Owner, type, TTL, data.
    type Row<'a> = (&'a str, u16, u32, &'a [u8]);

    /// A response to `key` with these records (owner, type, ttl, data) in the three sections.
    fn response(key: &Key, rcode: u16, sections: [&[Row<'_>]; 3]) -> Vec<u8> {
        let mut builder = Builder::new(1, flag::QR | rcode, key.name.wire(), key.qtype);
        for (owner, rtype, ttl, data) in sections.into_iter().flatten() {
            builder.plain(&name(owner), *rtype, *ttl, data);
        }
        let [a, b, c] = sections.map(|s| s.len() as u16);
        builder.counts(a, b, c);
        builder.finish()
    }

    fn answer(key: &Key, rcode: u16, sections: [&[Row<'_>]; 3]) -> Result<Answer, Fault> {
        let bytes = response(key, rcode, sections);
        read(&Message::new(&bytes).unwrap(), key, true)
    }

    fn addresses(answer: &Answer) -> Vec<String> {
        answer
            .addresses
            .iter()
            .map(|(a, _)| a.to_string())
            .collect()
    }

    #[test]
    fn only_the_chain_from_the_queried_name_counts() {
        let key = key("a.org", rtype::A);
        let b = name("b.net");
        let got = answer(
            &key,
            0,
            [
                &[
                    ("evil.org", rtype::A, 60, &[192, 0, 2, 66]),
                    ("b.net", rtype::A, 50, &[192, 0, 2, 1]),
                    ("a.org", rtype::CNAME, 40, b.wire()),
                    ("b.net", rtype::AAAA, 50, &[0; 16]),
                ],
                &[("a.org", rtype::A, 60, &[192, 0, 2, 67])],
                &[("b.net", rtype::A, 60, &[192, 0, 2, 68])],
            ],
        )
        .unwrap();
        assert_eq!(addresses(&got), ["192.0.2.1"]);
        assert_eq!(*got.via, [b]);
        assert_eq!(got.lifetime, 40);
        let message = Message::new(&got.message).unwrap();
        assert_eq!(message.counts(), [1, 2, 0, 0]);
    }

    #[test]
    fn a_chain_that_loops_or_never_ends_is_no_answer() {
        let k = key("a.org", rtype::A);
        let (a, b) = (name("a.org"), name("b.org"));
        let looped = answer(
            &k,
            0,
            [
                &[
                    ("a.org", rtype::CNAME, 1, b.wire()),
                    ("b.org", rtype::CNAME, 1, a.wire()),
                ],
                &[],
                &[],
            ],
        );
        assert_eq!(looped, Err(Fault::Malformed));
    }

    #[test]
    fn failures_of_upstream_are_no_answers() {
        for rcode in [1, 2, 4, 5, 9] {
            let got = answer(&key("a.org", rtype::A), rcode, [&[], &[], &[]]);
            assert_eq!(got, Err(Fault::Rcode(rcode)));
        }
    }

    #[test]
    fn absence_lives_as_long_as_its_soa_says() {
        let mut soa = vec![0, 0];
        soa.extend_from_slice(&[0; 16]);
        soa.extend_from_slice(&30u32.to_be_bytes());
        let k = key("x.a.org", rtype::A);
        let got = answer(&k, 3, [&[], &[("a.org", rtype::SOA, 600, &soa)], &[]]).unwrap();
        assert_eq!((got.rcode, got.lifetime), (rcode::NXDOMAIN, 30));
        let foreign = answer(&k, 3, [&[], &[("b.org", rtype::SOA, 600, &soa)], &[]]).unwrap();
        assert_eq!(foreign.lifetime, 0, "an SOA of another zone proves nothing");
        assert_eq!(
            Message::new(&foreign.message).unwrap().counts(),
            [1, 0, 0, 0]
        );
    }

    #[test]
    fn ech_is_taken_out_and_hints_are_addresses() {
        let data = b"\0\x01\0\0\x04\0\x04\xc0\0\x02\x09\0\x05\0\x02xx";
        let k = key("a.org", rtype::HTTPS);
        let bytes = response(&k, 0, [&[("a.org", rtype::HTTPS, 300, data)], &[], &[]]);
        let message = Message::new(&bytes).unwrap();
        let stripped = read(&message, &k, true).unwrap();
        assert_eq!(addresses(&stripped), ["192.0.2.9"]);
        assert!(
            stripped
                .message
                .ends_with(b"\0\x0b\0\x01\0\0\x04\0\x04\xc0\0\x02\x09")
        );
        let kept = read(&message, &k, false).unwrap();
        assert!(kept.message.ends_with(data));
    }

    #[test]
    fn octets_after_the_last_record_make_it_malformed() {
        let k = key("a.org", rtype::A);
        let mut bytes = response(
            &k,
            0,
            [&[("a.org", rtype::A, 60, &[192, 0, 2, 1])], &[], &[]],
        );
        assert!(read(&Message::new(&bytes).unwrap(), &k, true).is_ok());
        bytes.push(0);
        assert_eq!(
            read(&Message::new(&bytes).unwrap(), &k, true),
            Err(Fault::Malformed)
        );
    }

    #[test]
    fn more_addresses_than_are_opened_are_not_told() {
        let k = key("a.org", rtype::A);
        let rows: Vec<(&str, u16, u32, [u8; 4])> = (0..300u16)
            .map(|n| ("a.org", rtype::A, 60, [192, 0, (n >> 8) as u8, n as u8]))
            .collect();
        let rows: Vec<(&str, u16, u32, &[u8])> = rows
            .iter()
            .map(|(o, t, l, d)| (*o, *t, *l, &d[..]))
            .collect();
        let got = answer(&k, 0, [&rows, &[], &[]]).unwrap();
        assert_eq!(got.addresses.len(), MAX_ADDRESSES);
        assert_eq!(
            usize::from(Message::new(&got.message).unwrap().counts()[1]),
            MAX_ADDRESSES
        );
    }
}
