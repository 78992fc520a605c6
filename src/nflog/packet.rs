//! Where a logged packet was going: destination, protocol and port from its first bytes.
//!
//! The workload writes these bytes, and the copy range cuts them anywhere. Parsing is total: any
//! input gives a value or `None`, never a panic, in one pass without allocation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers (IANA, RFC 8200 section 4 for the extension headers).
pub mod proto {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302).
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DEST_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite.
    pub const UDPLITE: u8 = 136;
    /// Host identity protocol (RFC 7401).
    pub const HIP: u8 = 139;
    /// Shim6 (RFC 5533).
    pub const SHIM6: u8 = 140;
}

/// What of a packet an event speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Destination address of the IP header.
    pub dest: IpAddr,
    /// Transport protocol; the last known next-header value if the chain was cut.
    pub proto: u8,
    /// Destination port; 0 where the protocol has none or the bytes did not reach it.
    pub port: u16,
}

/// Reads the headers of an IPv4 or IPv6 packet; `None` if not even the destination is there.
pub fn parse(bytes: &[u8]) -> Option<Packet> {
    match bytes.first()? >> 4 {
        4 => parse_v4(bytes),
        6 => parse_v6(bytes),
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([b[0], b[1]]))
}

/// RFC 791 section 3.1.
fn parse_v4(bytes: &[u8]) -> Option<Packet> {
    let dest: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
    let header = usize::from(bytes[0] & 0x0f) * 4;
    let proto = bytes[9];
    let fragment_offset = be16(bytes, 6)? & 0x1fff;
    // A header length below 20 is a lie; only a first fragment carries the transport header.
    let port = if header >= 20 && fragment_offset == 0 {
        dest_port(proto, bytes, header)
    } else {
        0
    };
    Some(Packet {
        dest: Ipv4Addr::from(dest).into(),
        proto,
        port,
    })
}

/// RFC 8200 sections 3 and 4. Every header is at least 8 bytes, so the chain ends with the bytes.
fn parse_v6(bytes: &[u8]) -> Option<Packet> {
    let dest: [u8; 16] = bytes.get(24..40)?.try_into().ok()?;
    let packet = |proto, port| {
        Some(Packet {
            dest: Ipv6Addr::from(dest).into(),
            proto,
            port,
        })
    };
    let (mut proto, mut at) = (bytes[6], 40usize);
    loop {
        let (Some(&next), Some(&len)) = (bytes.get(at), bytes.get(at + 1)) else {
            return packet(proto, 0);
        };
        let size = match proto {
            proto::HOP_BY_HOP
            | proto::ROUTING
            | proto::DEST_OPTIONS
            | proto::MOBILITY
            | proto::HIP
            | proto::SHIM6 => (usize::from(len) + 1) * 8,
            proto::AH => (usize::from(len) + 2) * 4,
            proto::FRAGMENT => {
                let Some(offset) = be16(bytes, at + 2) else {
                    return packet(proto, 0);
                };
                if offset & 0xfff8 != 0 {
                    return packet(next, 0);
                }
                8
            }
            _ => return packet(proto, dest_port(proto, bytes, at)),
        };
        (proto, at) = (next, at + size);
    }
}

/// The destination port of a transport header that starts at `at`.
fn dest_port(proto: u8, bytes: &[u8], at: usize) -> u16 {
    match proto {
        proto::TCP | proto::UDP | proto::DCCP | proto::SCTP | proto::UDPLITE => {
            be16(bytes, at + 2).unwrap_or(0)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(proto: u8, options: &[u8], offset: u16, transport: &[u8]) -> Vec<u8> {
        let mut p = vec![0x45 + (options.len() / 4) as u8, 0, 0, 0, 0, 0];
        p.extend(offset.to_be_bytes());
        p.extend([64, proto, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7]);
        p.extend(options);
        p.extend(transport);
        p
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut p = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        p.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        p.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        p.extend(rest);
        p
    }

    fn got(bytes: &[u8]) -> Option<(String, u8, u16)> {
        parse(bytes).map(|p| (p.dest.to_string(), p.proto, p.port))
    }

    fn expect(dest: &str, proto: u8, port: u16) -> Option<(String, u8, u16)> {
        Some((dest.to_string(), proto, port))
    }

    const PORTS: [u8; 4] = [0x12, 0x34, 0x01, 0xbb];

    #[test]
    fn ipv4_ports_stand_behind_any_options() {
        assert_eq!(got(&v4(6, &[], 0, &PORTS)), expect("192.0.2.7", 6, 443));
        assert_eq!(
            got(&v4(17, &[1; 40], 0, &PORTS)),
            expect("192.0.2.7", 17, 443)
        );
        assert_eq!(
            got(&v4(132, &[1; 4], 0, &PORTS)),
            expect("192.0.2.7", 132, 443)
        );
        assert_eq!(got(&v4(1, &[], 0, &PORTS)), expect("192.0.2.7", 1, 0));
    }

    #[test]
    fn later_fragments_and_cut_headers_have_no_port() {
        assert_eq!(got(&v4(17, &[], 5, &PORTS)), expect("192.0.2.7", 17, 0));
        assert_eq!(
            got(&v4(17, &[], 0x2000, &PORTS)),
            expect("192.0.2.7", 17, 443),
            "a first fragment has"
        );
        assert_eq!(got(&v4(6, &[], 0, &PORTS[..3])), expect("192.0.2.7", 6, 0));
        let whole = v4(6, &[], 0, &PORTS);
        assert_eq!(got(&whole[..19]), None);
        let mut lie = whole;
        lie[0] = 0x41;
        assert_eq!(got(&lie), expect("192.0.2.7", 6, 0));
    }

    #[test]
    fn ipv6_extension_headers_are_walked() {
        let mut chain = vec![proto::DEST_OPTIONS, 0, 0, 0, 0, 0, 0, 0];
        chain.extend([proto::FRAGMENT, 1]);
        chain.extend([0; 14]);
        chain.extend([proto::AH, 0, 0, 1, 0, 0, 0, 9]);
        chain.extend([proto::TCP, 4]);
        chain.extend([0; 22]);
        chain.extend(PORTS);
        assert_eq!(
            got(&v6(proto::HOP_BY_HOP, &chain)),
            expect("2001:db8::7", 6, 443)
        );
        let later = [17, 0, 0x01, 0x00, 0, 0, 0, 9, 0x12, 0x34, 0x01, 0xbb];
        assert_eq!(
            got(&v6(proto::FRAGMENT, &later)),
            expect("2001:db8::7", 17, 0)
        );
        assert_eq!(got(&v6(58, &PORTS)), expect("2001:db8::7", 58, 0));
        assert_eq!(got(&v6(17, &PORTS)), expect("2001:db8::7", 17, 443));
        assert_eq!(got(&v6(6, &[])), expect("2001:db8::7", 6, 0));
        assert_eq!(got(&v6(6, &[])[..39]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0u8..16) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | (*first & 0x0f);
            }
            let known = parse(&bytes).is_some();
            let enough = bytes.len() >= match version { 4 => 20, 6 => 40, _ => usize::MAX };
            prop_assert_eq!(known, enough);
        }
    }
}
