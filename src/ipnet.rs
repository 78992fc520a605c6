//! An IP network in canonical form, and the inclusive ranges the kernel's interval sets hold.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with a prefix length, host bits zero: `10.0.0.5/24` becomes `10.0.0.0/24`.
/// A prefix of the full length is a single address and prints without the slash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpNet {
    addr: IpAddr,
    prefix: u8,
}

/// The number of bits in an address of this family.
pub fn bits_of(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// The address as a number: 32 significant bits for IPv4, 128 for IPv6.
pub fn to_number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

/// Inverse of [`to_number`] in the family of `like`; excess bits are cut.
pub fn from_number(n: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(n as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(n).into(),
    }
}

impl IpNet {
    /// The network of `prefix` bits that holds `addr`; `None` if the prefix is too long.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Self> {
        let bits = bits_of(addr);
        if prefix > bits {
            return None;
        }
        let host = bits - prefix;
        let n = to_number(addr);
        let n = if host >= 128 { 0 } else { n >> host << host };
        Some(Self {
            addr: from_number(n, addr),
            prefix,
        })
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.addr
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        let host = bits_of(self.addr) - self.prefix;
        let ones = if host >= 128 {
            u128::MAX
        } else {
            (1 << host) - 1
        };
        from_number(to_number(self.addr) | ones, self.addr)
    }

    /// Prefix length in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether this is one single address.
    pub fn is_host(&self) -> bool {
        self.prefix == bits_of(self.addr)
    }

    /// Whether this is an IPv4 network.
    pub fn is_ipv4(&self) -> bool {
        self.addr.is_ipv4()
    }

    /// Whether every address of `other` is in this network.
    pub fn contains(&self, other: &IpNet) -> bool {
        self.is_ipv4() == other.is_ipv4()
            && self.prefix <= other.prefix
            && Self::new(other.addr, self.prefix) == Some(*self)
    }
}

impl From<IpAddr> for IpNet {
    fn from(addr: IpAddr) -> Self {
        Self {
            addr,
            prefix: bits_of(addr),
        }
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addr)?;
        if self.is_host() {
            Ok(())
        } else {
            write!(f, "/{}", self.prefix)
        }
    }
}

/// Why a text is no address or network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseIpNetError;

impl fmt::Display for ParseIpNetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not an IP address or CIDR network (examples: 192.0.2.7, 192.0.2.0/24, 2001:db8::/32)",
        )
    }
}

impl std::error::Error for ParseIpNetError {}

impl FromStr for IpNet {
    type Err = ParseIpNetError;

    /// Accepts `addr` and `addr/len`, len plain decimal without sign or leading zero.
    fn from_str(s: &str) -> Result<Self, ParseIpNetError> {
        let Some((addr, len)) = s.split_once('/') else {
            return s
                .parse::<IpAddr>()
                .map(Self::from)
                .map_err(|_| ParseIpNetError);
        };
        let decimal = !len.is_empty()
            && len.len() <= 3
            && len.bytes().all(|b| b.is_ascii_digit())
            && (len.len() == 1 || !len.starts_with('0'));
        if !decimal {
            return Err(ParseIpNetError);
        }
        let addr = addr.parse().map_err(|_| ParseIpNetError)?;
        let len = len.parse().map_err(|_| ParseIpNetError)?;
        Self::new(addr, len).ok_or(ParseIpNetError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    #[test]
    fn networks_are_stored_canonically() {
        for (given, canonical) in [
            ("2001:0db8::1", "2001:db8::1"),
            ("10.0.0.5/24", "10.0.0.0/24"),
            ("10.0.0.5/32", "10.0.0.5"),
            ("::1/0", "::/0"),
            ("255.255.255.255/0", "0.0.0.0/0"),
        ] {
            assert_eq!(net(given).to_string(), canonical, "{given}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in [
            "",
            "10.0.0",
            "10.0.0.1/33",
            "::/129",
            "10.0.0.1/+8",
            "10.0.0.1/08",
            "10.0.0.1/",
            "1.2.3.4/8/8",
            "010.0.0.1",
            "fe80::1%eth0",
            " 1.2.3.4",
        ] {
            assert_eq!(bad.parse::<IpNet>(), Err(ParseIpNetError), "{bad:?}");
        }
    }

    #[test]
    fn a_network_knows_its_ends_and_contents() {
        assert_eq!(net("10.0.0.0/8").last().to_string(), "10.255.255.255");
        assert_eq!(
            net("::/0").last().to_string(),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        assert!(net("10.0.0.0/8").contains(&net("10.1.2.3")));
        assert!(net("0.0.0.0/0").contains(&net("10.0.0.0/8")));
        assert!(!net("10.0.0.0/8").contains(&net("0.0.0.0/0")));
        assert!(!net("::/0").contains(&net("10.1.2.3")));
    }
}
