//! A ruleset as a plain value: the only way rules are spoken of.
//!
//! Posture functions make it, text and kernel are its two pairs of doors, and any two of them
//! can be compared. It models one table; chains, sets and rules keep their order.

use crate::ipnet::IpNet;
use std::net::IpAddr;

/// One nftables table and all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Address family of the table.
    pub family: Family,
    /// Name of the table.
    pub table: String,
    /// Named sets, in declaration order.
    pub sets: Vec<Set>,
    /// Chains, in declaration order.
    pub chains: Vec<Chain>,
}

/// Table family (`NFPROTO_*` in linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet,
    /// IPv4 only.
    Ip,
    /// IPv6 only.
    Ip6,
}

/// A named set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Name of the set.
    pub name: String,
    /// What an element's key is made of.
    pub key: KeyType,
    /// Elements may be ranges (`flags interval`).
    pub interval: bool,
    /// Elements may carry timeouts (`flags timeout`).
    pub timeouts: bool,
    /// Default timeout of an element that names none, milliseconds.
    pub default_timeout: Option<u64>,
    /// Upper bound on the number of elements.
    pub size: Option<u32>,
    /// The elements; a set, so order carries no meaning.
    pub elements: Vec<Element>,
}

/// The type of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `ipv4_addr . inet_proto . inet_service`
    Ipv4Service,
    /// `ipv6_addr . inet_proto . inet_service`
    Ipv6Service,
}

/// One element of a set. Both ends are of the set's address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Lowest address.
    pub first: IpAddr,
    /// Highest address, equal to `first` for a single one. Ranges need an interval set.
    pub last: IpAddr,
    /// IP protocol and port, in sets whose key has them.
    pub service: Option<(u8, u16)>,
    /// How long the element lives from when it was added, milliseconds.
    pub timeout: Option<u64>,
    /// How long it still lives, milliseconds: only in what the kernel listed.
    pub expires: Option<u64>,
}

impl Element {
    /// An element that never expires.
    pub fn range(first: IpAddr, last: IpAddr) -> Self {
        Self {
            first,
            last,
            service: None,
            timeout: None,
            expires: None,
        }
    }
}

impl From<IpNet> for Element {
    fn from(net: IpNet) -> Self {
        Self::range(net.first(), net.last())
    }
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Name of the chain.
    pub name: String,
    /// Where the kernel calls it; `None` for a chain that only jumps reach.
    pub base: Option<Base>,
    /// The rules, first match first.
    pub rules: Vec<Rule>,
}

/// What makes a chain a base chain. Its type is always `filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The netfilter hook.
    pub hook: Hook,
    /// Priority; `filter` is 0.
    pub priority: i32,
    /// Verdict on packets that no rule decided.
    pub policy: Policy,
}

/// Netfilter hook (`NF_INET_*` in linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets for this host.
    Input,
    /// Packets through this host.
    Forward,
    /// Packets from this host.
    Output,
}

/// A base chain's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Let through.
    Accept,
    /// Discard.
    Drop,
}

/// One rule: expressions evaluated left to right; the first match that fails ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(pub Vec<Expr>);

/// A match or a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// `iifname "lo"`
    Iifname(String),
    /// `oifname "lo"`
    Oifname(String),
    /// `ct state established,related`
    CtState(CtState),
    /// `ip daddr 10.0.0.0/8`, `ip6 daddr fe80::/10`
    Daddr(IpNet),
    /// `ip daddr @allow_v4`: the set's key type is [`KeyType::Ipv4`] or [`KeyType::Ipv6`].
    DaddrSet {
        /// `ip6` instead of `ip`.
        v6: bool,
        /// Name of the set.
        set: String,
    },
    /// `ip daddr . meta l4proto . th dport @service_v4`
    ServiceSet {
        /// `ip6` instead of `ip`.
        v6: bool,
        /// Name of the set.
        set: String,
    },
    /// `tcp dport 443`, `udp dport { 53, 1000-2000 }`: inclusive ranges, ascending, disjoint.
    Dport(Transport, Vec<(u16, u16)>),
    /// `icmpv6 type nd-neighbor-solicit`, or an anonymous set of several, ascending.
    Icmpv6Type(Vec<u8>),
    /// `meta l4proto tcp`, or an anonymous set of several, ascending.
    L4proto(Vec<u8>),
    /// `meta mark 0x00000001`
    Mark(u32),
    /// `meta skuid 0`
    Skuid(u32),
    /// `log prefix "…" group 100`
    Log {
        /// Text before each entry, at most 127 bytes.
        prefix: String,
        /// NFLOG group; `None` is the kernel's log.
        group: Option<u16>,
    },
    /// `counter packets 0 bytes 0`
    Counter {
        /// Packets seen.
        packets: u64,
        /// Bytes seen.
        bytes: u64,
    },
    /// `accept`
    Accept,
    /// `drop`
    Drop,
    /// `reject with icmpx admin-prohibited`, `reject with tcp reset`
    Reject(Reject),
}

/// Connection tracking states, a bit mask (`NF_CT_STATE_BIT` in linux/netfilter/nf_conntrack_common.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CtState(pub u32);

impl CtState {
    /// No valid connection.
    pub const INVALID: CtState = CtState(1);
    /// A connection seen in both directions.
    pub const ESTABLISHED: CtState = CtState(2);
    /// A new connection that belongs to an existing one.
    pub const RELATED: CtState = CtState(4);
    /// The first packet of a connection.
    pub const NEW: CtState = CtState(8);
    /// A packet that is not tracked.
    pub const UNTRACKED: CtState = CtState(64);
}

impl std::ops::BitOr for CtState {
    type Output = CtState;
    fn bitor(self, other: CtState) -> CtState {
        CtState(self.0 | other.0)
    }
}

/// Transport protocol of a port match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// The ICMP or ICMPv6 unreachable message of the packet's family.
    Icmpx(Icmpx),
    /// A TCP reset.
    TcpReset,
}

/// Family-independent unreachable codes (`NFT_REJECT_ICMPX_*` in linux/netfilter/nf_tables.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Icmpx {
    /// `no-route`
    NoRoute,
    /// `port-unreachable`
    PortUnreachable,
    /// `host-unreachable`
    HostUnreachable,
    /// `admin-prohibited`
    AdminProhibited,
}

impl Ruleset {
    /// The named set, if declared.
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|s| s.name == name)
    }

    /// The named chain, if declared.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|c| c.name == name)
    }
}
