//! Tables, chains, sets and rules as the kernel lists them, into the model.

use super::error::NetlinkError;
use super::expr::{self, Refused};
use super::fold::fold;
use super::object::{self, hook_number, key, policy_number};
use super::op::{self, Anonymous};
use super::uapi::{INTERVAL_END, chain, data, datatype, elem, hook, list, rule, set, table};
use super::wire::{Attributes, Malformed, Table};
use crate::ipnet::{from_number, to_number};
use crate::nft::model::{
    Base, Chain, Element, Hook, KeyType, Policy, Rule, Ruleset, Set, Transport,
};
use crate::sort::{sort, sort_by_key};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

type Result<T> = std::result::Result<T, NetlinkError>;

fn foreign<T>(what: String) -> Result<T> {
    Err(NetlinkError::Foreign { what })
}

fn malformed(what: &str) -> impl Fn(Malformed) -> NetlinkError {
    move |_| NetlinkError::Malformed { what: what.into() }
}

/// That this is the table of this name, and that it is in force.
pub fn table(body: &[u8], name: &str) -> Result<()> {
    let bad = malformed("the table");
    let t = Table::<9>::parse(body).map_err(&bad)?;
    if t.text(table::NAME).map_err(&bad)? != Some(name) {
        return Err(bad(Malformed));
    }
    // A dormant table (NFT_TABLE_F_DORMANT) looks like any other and decides nothing.
    match t.be32(table::FLAGS).map_err(&bad)? {
        None | Some(0) => Ok(()),
        Some(flags) => foreign(format!("table {name} with flags {flags:#x}")),
    }
}

/// A chain of the table of this name, without rules; `None` if it is another table's.
pub fn chain(body: &[u8], name: &str) -> Result<Option<Chain>> {
    let bad = malformed("the list of chains");
    let t = Table::<14>::parse(body).map_err(&bad)?;
    if t.text(chain::TABLE).map_err(&bad)? != Some(name) {
        return Ok(None);
    }
    let name = t.text(chain::NAME).map_err(&bad)?.ok_or(bad(Malformed))?;
    // NFT_CHAIN_BASE (1) says only that there is a hook.
    let flags = t.be32(chain::FLAGS).map_err(&bad)?.unwrap_or(0);
    if flags & !1 != 0 || t.get(chain::COUNTERS).is_some() {
        return foreign(format!("chain {name} with counters or flags {flags:#x}"));
    }
    let Some(hook_bytes) = t.get(chain::HOOK) else {
        return Ok(Some(Chain {
            name: name.into(),
            base: None,
            rules: Vec::new(),
        }));
    };
    let h = Table::<5>::parse(hook_bytes).map_err(&bad)?;
    let number = h.be32(hook::HOOKNUM).map_err(&bad)?;
    let priority = h.be32(hook::PRIORITY).map_err(&bad)?;
    let policy = t.be32(chain::POLICY).map_err(&bad)?;
    let hook_at = [Hook::Input, Hook::Forward, Hook::Output]
        .into_iter()
        .find(|&k| Some(hook_number(k)) == number);
    let policy = [Policy::Accept, Policy::Drop]
        .into_iter()
        .find(|&p| Some(policy_number(p)) == policy);
    let kind = t.text(chain::TYPE).map_err(&bad)?;
    let base = match (hook_at, priority, policy, kind) {
        (Some(hook), Some(priority), Some(policy), Some("filter"))
            if !h.beyond(&[hook::HOOKNUM, hook::PRIORITY]) =>
        {
            Base {
                hook,
                priority: priority as i32,
                policy,
            }
        }
        _ => return foreign(format!("chain {name} of another type or hook")),
    };
    Ok(Some(Chain {
        name: name.into(),
        base: Some(base),
        rules: Vec::new(),
    }))
}

/// A rule of the table, and which of `chains` it is in.
pub fn rule(
    body: &[u8],
    frame: &Ruleset,
    chains: &[String],
    anonymous: &[AnonymousInfo],
) -> Result<Option<(usize, Rule)>> {
    let bad = malformed("the list of rules");
    let t = Table::<12>::parse(body).map_err(&bad)?;
    if t.text(rule::TABLE).map_err(&bad)? != Some(frame.table.as_str()) {
        return Ok(None);
    }
    let name = t.text(rule::CHAIN).map_err(&bad)?.ok_or(bad(Malformed))?;
    let Some(index) = chains.iter().position(|c| c == name) else {
        return foreign(format!("a rule of chain {name}, which is not listed"));
    };
    if t.get(rule::COMPAT).is_some() {
        return foreign(format!("a rule of iptables in chain {name}"));
    }
    let find = |set: &str| {
        let info = anonymous.iter().find(|s| s.name == set)?;
        Some(info.set.clone())
    };
    match expr::list(t.get(rule::EXPRESSIONS).unwrap_or(&[]), &find) {
        Err(Refused::Malformed) => Err(bad(Malformed)),
        Err(Refused::Foreign(what)) => foreign(format!("{what}, in a rule of chain {name}")),
        Ok(ops) => match fold(ops, frame) {
            Some(rule) => Ok(Some((index, rule))),
            None => foreign(format!("a combination of expressions in chain {name}")),
        },
    }
}

/// An anonymous set by the name the kernel gave it.
pub struct AnonymousInfo {
    name: String,
    set: Anonymous,
}

/// A set while its elements are being read.
pub struct SetInfo {
    kind: Kind,
    /// Where ranges end: the first addresses that are outside again.
    ends: Vec<u128>,
}

enum Kind {
    Named(Set),
    /// With the keys that begin ranges.
    Anonymous(AnonymousInfo, bool),
}

/// A set of the table of this name; `None` if it is another table's.
pub fn set(body: &[u8], name: &str) -> Result<Option<SetInfo>> {
    let bad = malformed("the list of sets");
    let t = Table::<20>::parse(body).map_err(&bad)?;
    if t.text(set::TABLE).map_err(&bad)? != Some(name) {
        return Ok(None);
    }
    let name = t.text(set::NAME).map_err(&bad)?.ok_or(bad(Malformed))?;
    let flags = t.be32(set::FLAGS).map_err(&bad)?.unwrap_or(0);
    let anonymous = flags & libc::NFT_SET_ANONYMOUS as u32 != 0;
    let interval = flags & libc::NFT_SET_INTERVAL as u32 != 0;
    let timeouts = flags & libc::NFT_SET_TIMEOUT as u32 != 0;
    let mut known = libc::NFT_SET_INTERVAL as u32;
    known |= if anonymous {
        libc::NFT_SET_ANONYMOUS as u32 | libc::NFT_SET_CONSTANT as u32
    } else {
        libc::NFT_SET_TIMEOUT as u32 | set::FLAG_CONCAT
    };
    let strange = [
        set::DATA_TYPE,
        set::DATA_LEN,
        set::OBJ_TYPE,
        set::EXPR,
        set::EXPRESSIONS,
    ];
    if flags & !known != 0 || t.any(&strange) {
        return foreign(format!("set {name} of another kind (flags {flags:#x})"));
    }
    let datatype = t.be32(set::KEY_TYPE).map_err(&bad)?;
    let length = t.be32(set::KEY_LEN).map_err(&bad)?;
    let kind = if anonymous {
        let key = anonymous_key(datatype, length).ok_or_else(|| strange_key(name))?;
        let set = Anonymous {
            key,
            ranges: Vec::new(),
        };
        let name = name.into();
        Kind::Anonymous(AnonymousInfo { name, set }, interval)
    } else {
        let key = named_key(datatype, length).ok_or_else(|| strange_key(name))?;
        let concatenation = !object::key(key).2.is_empty();
        // Ranges over concatenations, and nothing else, have this flag.
        if (flags & set::FLAG_CONCAT != 0) != (interval && concatenation) {
            return foreign(format!("set {name} of another kind (flags {flags:#x})"));
        }
        Kind::Named(Set {
            name: name.into(),
            key,
            interval,
            timeouts,
            default_timeout: t.be64(set::TIMEOUT).map_err(&bad)?.filter(|&t| t != 0),
            size: size(&t).map_err(&bad)?,
            elements: Vec::new(),
        })
    };
    Ok(Some(SetInfo {
        kind,
        ends: Vec::new(),
    }))
}

/// A named set whose elements are about to be read.
#[cfg(test)]
pub fn named(set: Set) -> SetInfo {
    SetInfo {
        kind: Kind::Named(set),
        ends: Vec::new(),
    }
}

fn strange_key(name: &str) -> NetlinkError {
    NetlinkError::Foreign {
        what: format!("set {name} with another type of key"),
    }
}

fn size(t: &Table<'_, 20>) -> std::result::Result<Option<u32>, Malformed> {
    match t.get(set::DESC) {
        None => Ok(None),
        Some(desc) => Ok(Table::<3>::parse(desc)?
            .be32(set::DESC_SIZE)?
            .filter(|&s| s != 0)),
    }
}

fn named_key(datatype: Option<u32>, length: Option<u32>) -> Option<KeyType> {
    [
        KeyType::Ipv4,
        KeyType::Ipv6,
        KeyType::Ipv4Service,
        KeyType::Ipv6Service,
    ]
    .into_iter()
    .find(|&k| {
        let (of_key, len, _) = key(k);
        (Some(of_key), Some(len)) == (datatype, length)
    })
}

fn anonymous_key(datatype: Option<u32>, length: Option<u32>) -> Option<op::Key> {
    match (datatype?, length?) {
        // Which protocol's ports they are stands in the rule.
        (datatype::INET_SERVICE, 2) => Some(op::Key::Port(Transport::Tcp)),
        (datatype::ICMP6_TYPE, 1) => Some(op::Key::Icmpv6),
        (datatype::INET_PROTOCOL, 1) => Some(op::Key::Proto),
        _ => None,
    }
}

/// Splits what has been read into named and anonymous sets.
pub fn separate(all: Vec<SetInfo>) -> (Vec<Set>, Vec<AnonymousInfo>) {
    let (mut named, mut anonymous) = (Vec::new(), Vec::new());
    for info in all {
        match info.kind {
            Kind::Named(set) => named.push(set),
            Kind::Anonymous(set, _) => anonymous.push(set),
        }
    }
    (named, anonymous)
}

impl SetInfo {
    /// The set's name.
    pub fn name(&self) -> &str {
        match &self.kind {
            Kind::Named(set) => &set.name,
            Kind::Anonymous(info, _) => &info.name,
        }
    }

    /// Whether it belongs to one rule.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.kind, Kind::Anonymous(..))
    }

    /// Takes the elements of one message.
    pub fn elements(&mut self, body: &[u8], table: &str) -> Result<()> {
        let what = "the elements of a set";
        let bad = malformed(what);
        let t = Table::<5>::parse(body).map_err(&bad)?;
        if t.text(list::TABLE).map_err(&bad)? != Some(table)
            || t.text(list::SET).map_err(&bad)? != Some(self.name())
        {
            return Err(bad(Malformed));
        }
        for attribute in Attributes(t.get(list::ELEMENTS).unwrap_or(&[])) {
            let (_, bytes) = attribute.map_err(&bad)?;
            if !self.element(bytes).map_err(&bad)? {
                return foreign(format!("an element of another kind in set {}", self.name()));
            }
        }
        Ok(())
    }

    /// Takes one element; false if it is none the model has.
    fn element(&mut self, bytes: &[u8]) -> std::result::Result<bool, Malformed> {
        let t = Table::<12>::parse(bytes)?;
        let known = [
            elem::KEY,
            elem::FLAGS,
            elem::TIMEOUT,
            elem::EXPIRATION,
            elem::USERDATA,
            elem::PAD,
            elem::KEY_END,
        ];
        let flags = t.be32(elem::FLAGS)?.unwrap_or(0);
        if flags & !INTERVAL_END != 0 || t.beyond(&known) {
            return Ok(false);
        }
        let is_end = flags == INTERVAL_END;
        let key = value(&t, elem::KEY)?.ok_or(Malformed)?;
        let key_end = value(&t, elem::KEY_END)?;
        match &mut self.kind {
            Kind::Named(set) => {
                let (first, service) = split_key(key, set.key).ok_or(Malformed)?;
                let mut last = first;
                if let Some(key_end) = key_end {
                    let (end, same) = split_key(key_end, set.key).ok_or(Malformed)?;
                    if same != service || end < first {
                        return Ok(false);
                    }
                    last = end;
                }
                if is_end {
                    self.ends.push(to_number(first));
                    return Ok(set.interval && service.is_none());
                }
                set.elements.push(Element {
                    first,
                    last,
                    service,
                    timeout: t.be64(elem::TIMEOUT)?,
                    expires: t.be64(elem::EXPIRATION)?,
                });
            }
            Kind::Anonymous(info, interval) => {
                let n = match *key {
                    [a] if info.set.key.len() == 1 => u16::from(a),
                    [a, b] if info.set.key.len() == 2 => u16::from_be_bytes([a, b]),
                    _ => return Err(Malformed),
                };
                if is_end {
                    self.ends.push(n.into());
                    return Ok(*interval);
                }
                info.set.ranges.push((n, n));
            }
        }
        Ok(true)
    }

    /// Gives every range its end, once all elements are there.
    ///
    /// Of a set of ranges the kernel lists first addresses and, in no order to rely on, the
    /// addresses where ranges end. nft leaves out an end where the next range begins at once.
    ///
    /// False if an element came twice: the kernel walks a hash table anew for each datagram,
    /// skipping as many elements as it has sent, and a table that grows meanwhile (it does so
    /// for a moment after many elements came, and without a change of generation) is in another
    /// order then. What comes twice came in place of another.
    pub fn join_ranges(&mut self) -> bool {
        let mut ends = std::mem::take(&mut self.ends);
        sort(&mut ends);
        match &mut self.kind {
            Kind::Named(set) if set.interval && object::key(set.key).2.is_empty() => {
                sort_by_key(&mut set.elements, |e| e.first);
                if !set.elements.is_sorted_by(|a, b| a.first < b.first) {
                    return false;
                }
                let v6 = set.key == KeyType::Ipv6;
                let max = if v6 { u128::MAX } else { u32::MAX.into() };
                let starts = &mut set.elements;
                for i in 0..starts.len() {
                    let first = to_number(starts[i].first);
                    let next = starts.get(i + 1).map(|e| to_number(e.first));
                    let last = last_of(first, next, &ends, max);
                    starts[i].last = from_number(last, starts[i].first);
                }
            }
            Kind::Named(set) => {
                let key = |e: &Element| (e.first, e.last, e.service);
                sort_by_key(&mut set.elements, key);
                return set.elements.is_sorted_by(|a, b| key(a) < key(b));
            }
            Kind::Anonymous(info, interval) => {
                let max = if info.set.key.len() == 1 {
                    0xff
                } else {
                    0xffff
                };
                let starts = &mut info.set.ranges;
                sort(starts);
                if !starts.is_sorted_by(|a, b| a < b) {
                    return false;
                }
                if *interval {
                    for i in 0..starts.len() {
                        let next = starts.get(i + 1).map(|&(n, _)| n.into());
                        let last = last_of(starts[i].0.into(), next, &ends, max);
                        starts[i].1 = last as u16;
                    }
                }
            }
        }
        true
    }
}

/// The last key of the range that begins at `first`, where `ends` ascend.
fn last_of(first: u128, next: Option<u128>, ends: &[u128], max: u128) -> u128 {
    let after = ends.partition_point(|&end| end <= first);
    let end = [ends.get(after).copied(), next].into_iter().flatten().min();
    end.map_or(max, |end| end.saturating_sub(1)).max(first)
}

/// The value inside an attribute of `enum nft_data_attributes`.
fn value<'a>(t: &Table<'a, 12>, kind: u16) -> std::result::Result<Option<&'a [u8]>, Malformed> {
    match t.get(kind) {
        None => Ok(None),
        Some(nested) => match Table::<3>::parse(nested)?.get(data::VALUE) {
            None => Err(Malformed),
            some => Ok(some),
        },
    }
}

/// Address and service of a key; `None` if it has another length.
fn split_key(bytes: &[u8], key_type: KeyType) -> Option<(IpAddr, Option<(u8, u16)>)> {
    if bytes.len() != key(key_type).1 as usize {
        return None;
    }
    let (address, rest): (IpAddr, &[u8]) = match key_type {
        KeyType::Ipv4 | KeyType::Ipv4Service => {
            let (a, rest) = bytes.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*a).into(), rest)
        }
        KeyType::Ipv6 | KeyType::Ipv6Service => {
            let (a, rest) = bytes.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*a).into(), rest)
        }
    };
    match *rest {
        [] => Some((address, None)),
        [protocol, _, _, _, high, low, ..] => {
            Some((address, Some((protocol, u16::from_be_bytes([high, low])))))
        }
        _ => None,
    }
}
