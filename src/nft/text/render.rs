//! A [`Ruleset`] as `nft list table` of nft 1.0.6 writes it, byte for byte.

use super::{names, timespan};
use crate::ipnet::{self, IpNet};
use crate::nft::model::{
    Chain, CtState, Element, Expr, Family, Icmpx, KeyType, Policy, Reject, Ruleset, Set, Transport,
};
use std::cmp::Ordering;
use std::fmt::Write;
use std::net::IpAddr;

/// Bytes an element takes at most without timeouts, in the common case.
const ELEMENT_LEN: usize = 24;

/// The ruleset in nft syntax, as `nft list table` prints it.
///
/// What nft's syntax has no spelling for (a quote or control character in a name or log prefix)
/// becomes `?`.
pub fn render(ruleset: &Ruleset) -> String {
    let elements: usize = ruleset.sets.iter().map(|s| s.elements.len()).sum();
    let mut out = String::with_capacity(4096 + elements.saturating_mul(ELEMENT_LEN));
    let family = match ruleset.family {
        Family::Inet => "inet",
        Family::Ip => "ip",
        Family::Ip6 => "ip6",
    };
    out.push_str("table ");
    out.push_str(family);
    out.push(' ');
    text(&mut out, &ruleset.table);
    out.push_str(" {\n");
    let mut first = true;
    let mut separate = |out: &mut String| {
        if !std::mem::take(&mut first) {
            out.push('\n');
        }
    };
    for s in &ruleset.sets {
        separate(&mut out);
        set(&mut out, s);
    }
    for c in &ruleset.chains {
        separate(&mut out);
        chain(&mut out, c);
    }
    out.push_str("}\n");
    out
}

/// Appends outside text so that it cannot leave its place.
fn text(out: &mut String, s: &str) {
    out.extend(s.chars().map(|c| match c {
        '"' => '?',
        c if c.is_control() => '?',
        c => c,
    }));
}

fn quoted(out: &mut String, s: &str) {
    out.push('"');
    text(out, s);
    out.push('"');
}

fn number(out: &mut String, n: impl Into<u64>) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{}", n.into());
}

/// `value` or `{ value, value }`.
fn list<T: Copy>(out: &mut String, values: &[T], each: fn(&mut String, T)) {
    if let [single] = values {
        return each(out, *single);
    }
    out.push_str("{ ");
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        each(out, *value);
    }
    out.push_str(" }");
}

fn set(out: &mut String, set: &Set) {
    out.push_str("\tset ");
    text(out, &set.name);
    out.push_str(" {\n\t\ttype ");
    out.push_str(match set.key {
        KeyType::Ipv4 => "ipv4_addr",
        KeyType::Ipv6 => "ipv6_addr",
        KeyType::Ipv4Service => "ipv4_addr . inet_proto . inet_service",
        KeyType::Ipv6Service => "ipv6_addr . inet_proto . inet_service",
    });
    out.push('\n');
    if let Some(size) = set.size {
        out.push_str("\t\tsize ");
        number(out, size);
        out.push('\n');
    }
    // nft holds the timeout flag to be said by a default timeout, unless it prints flags anyway.
    match (set.interval, set.timeouts, set.default_timeout) {
        (true, true, _) => out.push_str("\t\tflags interval,timeout\n"),
        (true, false, _) => out.push_str("\t\tflags interval\n"),
        (false, true, None) => out.push_str("\t\tflags timeout\n"),
        _ => {}
    }
    if let Some(ms) = set.default_timeout {
        out.push_str("\t\ttimeout ");
        timespan::write(out, ms);
        out.push('\n');
    }
    if !set.elements.is_empty() {
        elements(out, set);
    }
    out.push_str("\t}\n");
}

fn elements(out: &mut String, set: &Set) {
    let per_line = if set.key == KeyType::Ipv4 { 2 } else { 1 };
    out.push_str("\t\telements = { ");
    let mut count = 0;
    let mut each = |e: &Element| {
        if count > 0 {
            let wrap = count % per_line == 0;
            out.push_str(if wrap { ",\n\t\t\t     " } else { ", " });
        }
        count += 1;
        element(out, e);
    };
    if set.elements.is_sorted_by(|a, b| listed(a, b).is_le()) {
        set.elements.iter().for_each(&mut each);
    } else {
        let mut order: Vec<&Element> = set.elements.iter().collect();
        crate::sort::sort_by(&mut order, |a, b| listed(a, b));
        order.into_iter().for_each(&mut each);
    }
    out.push_str(" }\n");
}

/// nft's order. Addresses ascend; keys with a service are compared from their last byte, because
/// nft reads the concatenated key as a number of the host's (little-endian) byte order.
fn listed(a: &Element, b: &Element) -> Ordering {
    let (Some((proto_a, port_a)), Some((proto_b, port_b))) = (a.service, b.service) else {
        return a.cmp(b);
    };
    let reversed = |addr| match addr {
        IpAddr::V4(v4) => u128::from(u32::from(v4).swap_bytes()),
        IpAddr::V6(v6) => u128::from(v6).swap_bytes(),
    };
    (port_a.swap_bytes(), proto_a, reversed(a.first))
        .cmp(&(port_b.swap_bytes(), proto_b, reversed(b.first)))
        .then_with(|| a.cmp(b))
}

/// Appends one element as it stands in a listing.
pub fn element(out: &mut String, e: &Element) {
    key(out, e);
    if let Some(ms) = e.timeout {
        out.push_str(" timeout ");
        timespan::write(out, ms);
    }
    if let Some(ms) = e.expires {
        out.push_str(" expires ");
        timespan::write(out, ms);
    }
}

/// What an element is, without how long it lives.
pub(super) fn key(out: &mut String, e: &Element) {
    match whole_network(e) {
        Some(net) => network(out, net),
        None => {
            address(out, e.first);
            out.push('-');
            address(out, e.last);
        }
    }
    if let Some((proto, port)) = e.service {
        out.push_str(" . ");
        protocol(out, proto);
        out.push_str(" . ");
        number(out, port);
    }
}

/// The network that is exactly this range, if there is one.
fn whole_network(e: &Element) -> Option<IpNet> {
    let bits = ipnet::bits_of(e.first);
    let differing = ipnet::to_number(e.first) ^ ipnet::to_number(e.last);
    let host = u128::BITS - differing.leading_zeros();
    let net = IpNet::new(e.first, bits.checked_sub(u8::try_from(host).ok()?)?)?;
    (net.first() == e.first && net.last() == e.last).then_some(net)
}

fn network(out: &mut String, net: IpNet) {
    address(out, net.first());
    if !net.is_host() {
        out.push('/');
        number(out, net.prefix());
    }
}

/// As inet_ntop(3) writes it: unlike Rust's way, `::1.2.3.4` for the deprecated IPv4-compatible
/// addresses (RFC 4291 section 2.5.5.1).
fn address(out: &mut String, addr: IpAddr) {
    let _ = match addr {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            write!(out, "{a}.{b}.{c}.{d}")
        }
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, high, _] if high != 0 => {
                let [.., a, b, c, d] = v6.octets();
                write!(out, "::{a}.{b}.{c}.{d}")
            }
            _ => write!(out, "{v6}"),
        },
    };
}

fn protocol(out: &mut String, proto: u8) {
    match names::protocol_name(proto) {
        Some(name) => out.push_str(name),
        None => number(out, proto),
    }
}

fn chain(out: &mut String, chain: &Chain) {
    out.push_str("\tchain ");
    text(out, &chain.name);
    out.push_str(" {\n");
    if let Some(base) = &chain.base {
        out.push_str("\t\ttype filter hook ");
        out.push_str(names::hook_name(base.hook));
        out.push_str(" priority ");
        let _ = match names::priority_near(base.priority) {
            Some((name, 0)) => write!(out, "{name}"),
            Some((name, n)) if n < 0 => write!(out, "{name} - {}", -n),
            Some((name, n)) => write!(out, "{name} + {n}"),
            None => write!(out, "{}", base.priority),
        };
        out.push_str(match base.policy {
            Policy::Accept => "; policy accept;\n",
            Policy::Drop => "; policy drop;\n",
        });
    }
    for rule in &chain.rules {
        let mut before = "\t\t";
        for e in &rule.0 {
            out.push_str(std::mem::replace(&mut before, " "));
            expression(out, e);
        }
        out.push('\n');
    }
    out.push_str("\t}\n");
}

fn expression(out: &mut String, expr: &Expr) {
    match expr {
        Expr::Iifname(name) => {
            out.push_str("iifname ");
            quoted(out, name);
        }
        Expr::Oifname(name) => {
            out.push_str("oifname ");
            quoted(out, name);
        }
        Expr::CtState(mask) => ct_state(out, *mask),
        Expr::Daddr(net) => {
            destination(out, !net.is_ipv4());
            network(out, *net);
        }
        Expr::DaddrSet { v6, set } => {
            destination(out, *v6);
            out.push('@');
            text(out, set);
        }
        Expr::ServiceSet { v6, set } => {
            destination(out, *v6);
            out.push_str(". meta l4proto . th dport @");
            text(out, set);
        }
        Expr::Dport(transport, ports) => {
            out.push_str(match transport {
                Transport::Tcp => "tcp dport ",
                Transport::Udp => "udp dport ",
            });
            list(out, ports, port_range);
        }
        Expr::Icmpv6Type(types) => {
            out.push_str("icmpv6 type ");
            list(out, types, |out, n| match names::icmpv6_name(n) {
                Some(name) => out.push_str(name),
                None => number(out, n),
            });
        }
        Expr::L4proto(protocols) => {
            out.push_str("meta l4proto ");
            list(out, protocols, protocol);
        }
        Expr::Mark(mark) => {
            let _ = write!(out, "meta mark {mark:#010x}");
        }
        Expr::Skuid(uid) => {
            out.push_str("meta skuid ");
            number(out, *uid);
        }
        Expr::Log { prefix, group } => log(out, prefix, *group),
        Expr::Counter { packets, bytes } => {
            let _ = write!(out, "counter packets {packets} bytes {bytes}");
        }
        Expr::Accept => out.push_str("accept"),
        Expr::Drop => out.push_str("drop"),
        // What nft's bare reject means in an inet table.
        Expr::Reject(Reject::Icmpx(Icmpx::PortUnreachable)) => out.push_str("reject"),
        Expr::Reject(Reject::Icmpx(code)) => {
            out.push_str("reject with icmpx ");
            out.push_str(names::icmpx_name(*code));
        }
        Expr::Reject(Reject::TcpReset) => out.push_str("reject with tcp reset"),
    }
}

fn destination(out: &mut String, v6: bool) {
    out.push_str(if v6 { "ip6 daddr " } else { "ip daddr " });
}

fn port_range(out: &mut String, (first, last): (u16, u16)) {
    number(out, first);
    if first != last {
        out.push('-');
        number(out, last);
    }
}

fn ct_state(out: &mut String, mask: CtState) {
    out.push_str("ct state ");
    let mut before = "";
    for name in names::state_names(mask) {
        out.push_str(before);
        out.push_str(name);
        before = ",";
    }
    let nameless = mask.0 & !names::ALL_STATES;
    if nameless != 0 || mask.0 == 0 {
        let _ = write!(out, "{before}{nameless:#x}");
    }
}

fn log(out: &mut String, prefix: &str, group: Option<u16>) {
    out.push_str("log");
    if !prefix.is_empty() {
        out.push_str(" prefix ");
        quoted(out, prefix);
    }
    if let Some(group) = group {
        out.push_str(" group ");
        number(out, group);
    }
}
