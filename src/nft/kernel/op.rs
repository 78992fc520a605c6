//! The kernel's expressions as plain values, and how a model rule compiles to them.
//!
//! One `Op` is one nf_tables expression. [`compile`] produces exactly what nft 1.0.6 does for
//! the same text; [`super::fold`] goes the other way.

use super::uapi::datatype;
use crate::ipnet::IpNet;
use crate::nft::model::{
    CtState, Expr, Family, Icmpx, KeyType, Reject, Rule, Ruleset, Set, Transport,
};
use std::net::IpAddr;

/// First 16-byte register: every single load and comparison uses it.
pub const REG: u32 = libc::NFT_REG_1 as u32;

/// One nf_tables expression with the attributes that give it its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Load packet metadata (`NFT_META_*`).
    Meta { key: u32, reg: u32 },
    /// Load a connection tracking value (`NFT_CT_*`).
    Ct { key: u32, reg: u32 },
    /// Load bytes of the packet.
    Payload {
        base: u32,
        offset: u32,
        len: u32,
        reg: u32,
    },
    /// Compare a register; the rule ends where it fails (`NFT_CMP_*`).
    Cmp { op: u32, reg: u32, data: Bytes },
    /// And with a mask, in place.
    Mask { reg: u32, mask: Bytes },
    /// Host to network order, in place.
    Hton { reg: u32, len: u32, size: u32 },
    /// Look a register up in a set; the rule ends where it is not there.
    Lookup { reg: u32, set: SetRef },
    /// Count.
    Counter { packets: u64, bytes: u64 },
    /// Log.
    Log { prefix: String, group: Option<u16> },
    /// Refuse.
    Reject { kind: u32, code: u8 },
    /// `NF_ACCEPT` or `NF_DROP`.
    Verdict(i32),
}

impl Op {
    /// Whether both do the same; what a counter has counted does not count.
    pub fn same(&self, other: &Op) -> bool {
        self == other || matches!((self, other), (Op::Counter { .. }, Op::Counter { .. }))
    }
}

/// Which set a lookup uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetRef {
    /// A set of the table, by name.
    Named(String),
    /// A set of this rule alone.
    Anonymous(Anonymous),
}

/// The anonymous set of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anonymous {
    /// What its keys are.
    pub key: Key,
    /// Inclusive ranges, ascending and disjoint, and none of them adjacent where one is wider
    /// than a single value (then it is an interval set, and nft merges).
    pub ranges: Vec<(u16, u16)>,
}

impl Anonymous {
    /// Whether any range is wider than one value.
    pub fn interval(&self) -> bool {
        self.ranges.iter().any(|(a, b)| a != b)
    }
}

/// Key of an anonymous set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A port of this protocol, two bytes.
    Port(Transport),
    /// An ICMPv6 type, one byte.
    Icmpv6,
    /// An IP protocol, one byte.
    Proto,
}

impl Key {
    /// nft's data type.
    pub fn datatype(self) -> u32 {
        match self {
            Key::Port(_) => datatype::INET_SERVICE,
            Key::Icmpv6 => datatype::ICMP6_TYPE,
            Key::Proto => datatype::INET_PROTOCOL,
        }
    }

    /// Bytes of a key.
    pub fn len(self) -> usize {
        match self {
            Key::Port(_) => 2,
            Key::Icmpv6 | Key::Proto => 1,
        }
    }
}

/// Up to 16 bytes of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes {
    len: u8,
    bytes: [u8; 16],
}

impl Bytes {
    /// `None` if `data` is longer than a register.
    pub fn new(data: &[u8]) -> Option<Self> {
        let mut bytes = [0; 16];
        bytes.get_mut(..data.len())?.copy_from_slice(data);
        Some(Self {
            len: data.len() as u8,
            bytes,
        })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    fn of(number: u32) -> Self {
        Self::padded(&number.to_ne_bytes(), 4)
    }

    /// `data`, zeros up to `len`. Both at most 16.
    fn padded(data: &[u8], len: usize) -> Self {
        let mut bytes = [0; 16];
        bytes[..data.len()].copy_from_slice(data);
        Self {
            len: len as u8,
            bytes,
        }
    }
}

/// A rule as the kernel runs it, or why it cannot be one.
pub fn compile(rule: &Rule, ruleset: &Ruleset) -> Result<Vec<Op>, String> {
    let mut compiler = Compiler {
        ruleset,
        ops: Vec::with_capacity(rule.0.len() * 3),
        network: None,
        transport: None,
    };
    for expr in &rule.0 {
        compiler.expr(expr)?;
    }
    Ok(compiler.ops)
}

/// What is known of the packet at this point of the rule, as nft's protocol context has it: a
/// match on it needs no second test.
struct Compiler<'a> {
    ruleset: &'a Ruleset,
    ops: Vec<Op>,
    network: Option<u8>,
    transport: Option<u8>,
}

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const ICMPV6: u8 = libc::IPPROTO_ICMPV6 as u8;

/// The IP protocol of a transport.
pub fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
    }
}

impl Compiler<'_> {
    fn expr(&mut self, expr: &Expr) -> Result<(), String> {
        match expr {
            Expr::Iifname(name) => self.interface(libc::NFT_META_IIFNAME, name)?,
            Expr::Oifname(name) => self.interface(libc::NFT_META_OIFNAME, name)?,
            Expr::CtState(state) => self.ct_state(*state)?,
            Expr::Daddr(net) => self.daddr(*net)?,
            Expr::DaddrSet { v6, set } => {
                let key = if *v6 { KeyType::Ipv6 } else { KeyType::Ipv4 };
                self.declared(set, key)?;
                self.need_network(*v6)?;
                self.load_daddr(*v6, if *v6 { 16 } else { 4 });
                self.lookup(SetRef::Named(set.clone()));
            }
            Expr::ServiceSet { v6, set } => self.service(*v6, set)?,
            Expr::Dport(transport, ranges) => self.dport(*transport, ranges)?,
            Expr::Icmpv6Type(types) => {
                if self.ruleset.family == Family::Inet {
                    self.need_network(true)?;
                }
                self.need_transport(ICMPV6);
                self.load(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1);
                self.one_of(Key::Icmpv6, types.iter().map(|&t| (t.into(), t.into())))?;
            }
            Expr::L4proto(protocols) => {
                self.meta(libc::NFT_META_L4PROTO);
                self.one_of(Key::Proto, protocols.iter().map(|&p| (p.into(), p.into())))?;
                if let [one] = protocols[..] {
                    self.transport = Some(one);
                }
            }
            Expr::Mark(mark) => {
                self.meta(libc::NFT_META_MARK);
                self.equal(Bytes::of(*mark));
            }
            Expr::Skuid(uid) => {
                self.meta(libc::NFT_META_SKUID);
                self.equal(Bytes::of(*uid));
            }
            Expr::Log { prefix, group } => self.log(prefix, *group)?,
            Expr::Counter { packets, bytes } => self.ops.push(Op::Counter {
                packets: *packets,
                bytes: *bytes,
            }),
            Expr::Accept => self.ops.push(Op::Verdict(libc::NF_ACCEPT)),
            Expr::Drop => self.ops.push(Op::Verdict(libc::NF_DROP)),
            Expr::Reject(reject) => self.reject(*reject)?,
        }
        Ok(())
    }

    fn meta(&mut self, key: libc::c_int) {
        self.ops.push(Op::Meta {
            key: key as u32,
            reg: REG,
        });
    }

    fn load(&mut self, base: libc::c_int, offset: u32, len: u32) {
        self.ops.push(Op::Payload {
            base: base as u32,
            offset,
            len,
            reg: REG,
        });
    }

    /// Loads the first `len` bytes of the destination address.
    fn load_daddr(&mut self, v6: bool, len: u32) {
        let offset = if v6 { 24 } else { 16 };
        self.load(libc::NFT_PAYLOAD_NETWORK_HEADER, offset, len);
    }

    fn cmp(&mut self, op: libc::c_int, data: Bytes) {
        self.ops.push(Op::Cmp {
            op: op as u32,
            reg: REG,
            data,
        });
    }

    fn equal(&mut self, data: Bytes) {
        self.cmp(libc::NFT_CMP_EQ, data);
    }

    fn declared(&self, set: &str, key: KeyType) -> Result<&Set, String> {
        match self.ruleset.set(set) {
            None => Err(format!("set {set:?} is not declared")),
            Some(s) if s.key != key => Err(format!("set {set:?} has another type of key")),
            Some(s) => Ok(s),
        }
    }

    fn lookup(&mut self, set: SetRef) {
        self.ops.push(Op::Lookup { reg: REG, set });
    }

    /// In an inet table, an address match must first know which of both families it looks at.
    fn need_network(&mut self, v6: bool) -> Result<(), String> {
        let wanted = if v6 {
            libc::NFPROTO_IPV6
        } else {
            libc::NFPROTO_IPV4
        } as u8;
        match (self.ruleset.family, v6) {
            (Family::Inet, _) => {
                if self.network != Some(wanted) {
                    self.meta(libc::NFT_META_NFPROTO);
                    self.equal(Bytes::padded(&[wanted], 1));
                    self.network = Some(wanted);
                }
                Ok(())
            }
            (Family::Ip, false) | (Family::Ip6, true) => Ok(()),
            _ => Err("an address match of the other family than the table's".into()),
        }
    }

    fn need_transport(&mut self, protocol: u8) {
        if self.transport != Some(protocol) {
            self.meta(libc::NFT_META_L4PROTO);
            self.equal(Bytes::padded(&[protocol], 1));
            self.transport = Some(protocol);
        }
    }

    /// The kernel compares all 16 bytes of IFNAMSIZ: the name and zeros.
    fn interface(&mut self, key: libc::c_int, name: &str) -> Result<(), String> {
        // nft writes and prints a trailing `*` for a prefix match, which the model does not have.
        let plain = (1..libc::IFNAMSIZ).contains(&name.len())
            && !name.ends_with('*')
            && !name.contains('\0');
        if !plain {
            return Err(format!("{name:?} is no interface name"));
        }
        self.meta(key);
        self.equal(Bytes::padded(name.as_bytes(), libc::IFNAMSIZ));
        Ok(())
    }

    fn ct_state(&mut self, state: CtState) -> Result<(), String> {
        if state.0 == 0 {
            return Err("a match on no connection state at all".into());
        }
        self.ops.push(Op::Ct {
            key: libc::NFT_CT_STATE as u32,
            reg: REG,
        });
        self.ops.push(Op::Mask {
            reg: REG,
            mask: Bytes::of(state.0),
        });
        self.cmp(libc::NFT_CMP_NEQ, Bytes::of(0));
        Ok(())
    }

    /// Whole bytes of prefix are loaded and compared as they are; others are masked first.
    fn daddr(&mut self, net: IpNet) -> Result<(), String> {
        let v6 = !net.is_ipv4();
        self.need_network(v6)?;
        let (v4, v6_octets);
        let address: &[u8] = match net.first() {
            IpAddr::V4(a) => {
                v4 = a.octets();
                &v4
            }
            IpAddr::V6(a) => {
                v6_octets = a.octets();
                &v6_octets
            }
        };
        let prefix = net.prefix() as usize;
        if prefix > 0 && prefix.is_multiple_of(8) {
            let len = prefix / 8;
            self.load_daddr(v6, len as u32);
            self.equal(Bytes::padded(&address[..len], len));
        } else {
            let len = address.len();
            self.load_daddr(v6, len as u32);
            let mask = u128::MAX.checked_shl(128 - prefix as u32).unwrap_or(0);
            let mask = Bytes::padded(&mask.to_be_bytes()[..len], len);
            self.ops.push(Op::Mask { reg: REG, mask });
            self.equal(Bytes::padded(address, len));
        }
        Ok(())
    }

    /// Address, protocol and port in consecutive registers, four bytes at least each.
    fn service(&mut self, v6: bool, set: &str) -> Result<(), String> {
        let key = if v6 {
            KeyType::Ipv6Service
        } else {
            KeyType::Ipv4Service
        };
        let interval = self.declared(set, key)?.interval;
        self.need_network(v6)?;
        self.load_daddr(v6, if v6 { 16 } else { 4 });
        // Behind a 16-byte address nft names the 16-byte register that begins there.
        let (proto, port) = if v6 {
            (libc::NFT_REG_2, libc::NFT_REG32_05)
        } else {
            (libc::NFT_REG32_01, libc::NFT_REG32_02)
        };
        self.ops.push(Op::Meta {
            key: libc::NFT_META_L4PROTO as u32,
            reg: proto as u32,
        });
        if interval {
            // A single byte has no order; nft 1.0.6 emits this for keys of interval sets anyway.
            self.ops.push(Op::Hton {
                reg: proto as u32,
                len: 1,
                size: 2,
            });
        }
        self.ops.push(Op::Payload {
            base: libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32,
            offset: 2,
            len: 2,
            reg: port as u32,
        });
        self.lookup(SetRef::Named(set.into()));
        Ok(())
    }

    fn dport(&mut self, transport: Transport, ranges: &[(u16, u16)]) -> Result<(), String> {
        self.need_transport(protocol(transport));
        self.load(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
        self.one_of(Key::Port(transport), ranges.iter().copied())
    }

    /// One value is compared, one range between two comparisons, several in an anonymous set.
    fn one_of(&mut self, key: Key, ranges: impl Iterator<Item = (u16, u16)>) -> Result<(), String> {
        let ranges = tidy(ranges.collect())?;
        let bytes = |n: u16| Bytes::padded(&n.to_be_bytes()[2 - key.len()..], key.len());
        match ranges[..] {
            [(a, b)] if a == b => self.equal(bytes(a)),
            [(a, b)] => {
                self.cmp(libc::NFT_CMP_GTE, bytes(a));
                self.cmp(libc::NFT_CMP_LTE, bytes(b));
            }
            _ => self.lookup(SetRef::Anonymous(Anonymous { key, ranges })),
        }
        Ok(())
    }

    fn log(&mut self, prefix: &str, group: Option<u16>) -> Result<(), String> {
        // NF_LOG_PREFIXLEN is 128, its zero included.
        if prefix.len() > 127 || prefix.contains('\0') {
            return Err(format!("a log prefix of {} bytes", prefix.len()));
        }
        self.ops.push(Op::Log {
            prefix: prefix.into(),
            group,
        });
        Ok(())
    }

    fn reject(&mut self, reject: Reject) -> Result<(), String> {
        let (kind, code) = match reject {
            Reject::Icmpx(_) if self.ruleset.family != Family::Inet => {
                return Err("reject with icmpx outside an inet table".into());
            }
            Reject::Icmpx(code) => (libc::NFT_REJECT_ICMPX_UNREACH as u32, icmpx_code(code)),
            Reject::TcpReset => {
                self.need_transport(TCP);
                (libc::NFT_REJECT_TCP_RST as u32, 0)
            }
        };
        self.ops.push(Op::Reject { kind, code });
        Ok(())
    }
}

/// `NFT_REJECT_ICMPX_*`
fn icmpx_code(code: Icmpx) -> u8 {
    match code {
        Icmpx::NoRoute => libc::NFT_REJECT_ICMPX_NO_ROUTE as u8,
        Icmpx::PortUnreachable => libc::NFT_REJECT_ICMPX_PORT_UNREACH as u8,
        Icmpx::HostUnreachable => libc::NFT_REJECT_ICMPX_HOST_UNREACH as u8,
        Icmpx::AdminProhibited => libc::NFT_REJECT_ICMPX_ADMIN_PROHIBITED as u8,
    }
}

/// Ranges ascending and disjoint; where one is wider than a value, adjacent ones become one, as
/// nft merges the elements of an interval set.
pub fn tidy(mut ranges: Vec<(u16, u16)>) -> Result<Vec<(u16, u16)>, String> {
    if ranges.is_empty() {
        return Err("a match on an empty list".into());
    }
    if ranges.iter().any(|(a, b)| a > b) {
        return Err("a range that ends before it begins".into());
    }
    crate::sort::sort(&mut ranges);
    let merge_adjacent = ranges.iter().any(|(a, b)| a != b);
    let mut tidy: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (a, b) in ranges {
        match tidy.last_mut() {
            Some(last) if a <= last.1 || (merge_adjacent && a == last.1 + 1) => {
                last.1 = last.1.max(b);
            }
            _ => tidy.push((a, b)),
        }
    }
    Ok(tidy)
}
