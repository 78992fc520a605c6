//! Elements of named sets: written straight into the batch, as many to a message as fit.

use super::object;
use super::uapi::{INTERVAL_END, data, elem, list};
use super::wire::Writer;
use crate::ipnet::{from_number, to_number};
use crate::nft::model::{Element, KeyType, Set};
use std::net::IpAddr;

/// Longest element in a message: a range of v6 services with timeout and expiration takes 96
/// bytes, a v6 range with an end of its own 112.
pub const LONGEST: usize = 128;
/// Bytes of elements to a message; the attribute that holds them has a 16-bit length.
const FULL: usize = 60_000;

/// A key with its protocol and port, as registers hold it.
struct KeyBytes {
    bytes: [u8; 24],
    len: usize,
}

impl KeyBytes {
    fn new(address: IpAddr, service: Option<(u8, u16)>) -> Self {
        let mut bytes = [0; 24];
        let mut len = match address {
            IpAddr::V4(a) => {
                bytes[..4].copy_from_slice(&a.octets());
                4
            }
            IpAddr::V6(a) => {
                bytes[..16].copy_from_slice(&a.octets());
                16
            }
        };
        if let Some((protocol, port)) = service {
            bytes[len] = protocol;
            bytes[len + 4..len + 6].copy_from_slice(&port.to_be_bytes());
            len += 8;
        }
        Self { bytes, len }
    }

    fn put(&self, w: &mut Writer, attribute: u16) {
        let nest = w.nest(attribute);
        w.put(data::VALUE, &self.bytes[..self.len]);
        w.end_nest(nest);
    }
}

/// Whether `element` can be in `set`, or why not.
pub fn check(element: &Element, set: &Set) -> Result<(), String> {
    let v6 = matches!(set.key, KeyType::Ipv6 | KeyType::Ipv6Service);
    let service = matches!(set.key, KeyType::Ipv4Service | KeyType::Ipv6Service);
    let wrong = if element.first.is_ipv6() != v6 || element.last.is_ipv6() != v6 {
        "is of the other address family"
    } else if element.service.is_some() != service {
        "and the set's key differ in having a service"
    } else if element.first > element.last {
        "ends before it begins"
    } else if element.first != element.last && !set.interval {
        "is a range, and the set has single addresses only"
    } else if element.timeout.is_some() && !set.timeouts {
        "has a timeout, and the set's elements never expire"
    } else if element.timeout == Some(0) {
        "has a timeout of zero"
    } else {
        return Ok(());
    };
    Err(format!(
        "element {}-{} of set {}: it {wrong}",
        element.first, element.last, set.name
    ))
}

/// Writes the attributes of one message of `elements` of a set behind its header, and says how
/// many of them fitted; at least one does. Each must have passed [`check`].
/// An element that carries `expires` keeps just that much of its life.
pub fn put(w: &mut Writer, table: &str, set: &Set, elements: &[Element]) -> usize {
    w.put_str(list::TABLE, table);
    w.put_str(list::SET, &set.name);
    let nest = w.nest(list::ELEMENTS);
    let start = w.buf.len();
    let mut count = 0;
    for element in elements {
        if w.buf.len() - start > FULL - LONGEST {
            break;
        }
        put_one(w, set, element);
        count += 1;
    }
    w.end_nest(nest);
    count
}

/// The order of attributes is libnftnl's.
fn put_one(w: &mut Writer, set: &Set, element: &Element) {
    let first = KeyBytes::new(element.first, element.service);
    let nest = w.nest(list::ELEM);
    if let Some(timeout) = element.timeout {
        w.put_be64(elem::TIMEOUT, timeout);
    }
    if let Some(expires) = element.expires {
        w.put_be64(elem::EXPIRATION, expires);
    }
    first.put(w, elem::KEY);
    if !set.interval {
        w.end_nest(nest);
        return;
    }
    if element.service.is_some() {
        KeyBytes::new(element.last, element.service).put(w, elem::KEY_END);
        w.end_nest(nest);
        return;
    }
    // A range of plain addresses is two elements: its first address, and behind it the first
    // one outside, marked as an end. A range up to the very last address has no end.
    let Some(end) = successor(element.last) else {
        // `NFTNL_UDATA_SET_ELEM_FLAGS`: NFTNL_SET_ELEM_F_INTERVAL_OPEN
        w.put(elem::USERDATA, &[1, 4, 1, 0, 0, 0]);
        w.end_nest(nest);
        return;
    };
    w.end_nest(nest);
    let nest = w.nest(list::ELEM);
    w.put_be32(elem::FLAGS, INTERVAL_END);
    KeyBytes::new(end, None).put(w, elem::KEY);
    w.end_nest(nest);
}

/// The address behind `address`, if there is one.
pub fn successor(address: IpAddr) -> Option<IpAddr> {
    let max = if address.is_ipv4() {
        u32::MAX.into()
    } else {
        u128::MAX
    };
    let n = to_number(address);
    (n < max).then(|| from_number(n + 1, address))
}

/// Writes the elements of an anonymous set behind the header of their message.
pub fn put_anonymous(w: &mut Writer, table: &str, set: &super::op::Anonymous, id: u32) {
    w.put_str(list::TABLE, table);
    w.put_str(list::SET, "__set%d");
    w.put_be32(list::SET_ID, id);
    let nest = w.nest(list::ELEMENTS);
    let len = set.key.len();
    let mut one = |n: u16, flags: u32| {
        let element = w.nest(list::ELEM);
        if flags != 0 {
            w.put_be32(elem::FLAGS, flags);
        }
        let key = w.nest(elem::KEY);
        w.put(data::VALUE, &n.to_be_bytes()[2 - len..]);
        w.end_nest(key);
        w.end_nest(element);
    };
    let interval = set.interval();
    for &(first, last) in &set.ranges {
        one(first, 0);
        if let (true, Some(end)) = (interval, last.checked_add(1)) {
            one(end, INTERVAL_END);
        }
    }
    w.end_nest(nest);
}

/// How many bytes a message of one element takes at most, with its header and names.
pub const SMALLEST_MESSAGE: usize = LONGEST + 2 * (object::MAX_NAME + 4) + 32;
