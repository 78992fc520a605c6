//! A rule's kernel expressions back into the model.
//!
//! The folding below recognises; what makes it exact is its last step: the result is compiled
//! again and must give the very expressions it came from. Anything else is no rule of the model.

use super::op::{Bytes, Key, Op, SetRef, compile, protocol, tidy};
use crate::ipnet::IpNet;
use crate::nft::model::{CtState, Expr, Icmpx, Reject, Rule, Ruleset, Transport};
use std::net::IpAddr;

/// The model rule that compiles to `ops`; `frame` has the table's family and sets. `None` if
/// there is none.
pub fn fold(mut ops: Vec<Op>, frame: &Ruleset) -> Option<Rule> {
    settle(&mut ops)?;
    let mut rest = &ops[..];
    let mut exprs = Vec::new();
    let mut transport = None;
    while !rest.is_empty() {
        let (expr, left) = next(rest, &mut transport)?;
        exprs.extend(expr);
        rest = left;
    }
    let rule = Rule(exprs);
    (compile(&rule, frame).ok()? == ops).then_some(rule)
}

/// nft keeps `{ 53 }` a set of one where we compare; the meaning is one, so is the form here.
/// The protocol of a port set is not in the set but in what the rule tested before.
fn settle(ops: &mut Vec<Op>) -> Option<()> {
    let mut settled = Vec::with_capacity(ops.len());
    let mut last_proto = None;
    for op in ops.drain(..) {
        match op {
            Op::Lookup {
                reg,
                set: SetRef::Anonymous(mut set),
            } => {
                if let (Key::Port(_), Some(proto)) = (set.key, last_proto) {
                    set.key = Key::Port(transport_of(proto)?);
                }
                set.ranges = tidy(set.ranges).ok()?;
                let len = set.key.len();
                let cmp = |op: libc::c_int, n: u16| {
                    Some(Op::Cmp {
                        op: op as u32,
                        reg,
                        data: Bytes::new(&n.to_be_bytes()[2 - len..])?,
                    })
                };
                match set.ranges[..] {
                    [(a, b)] if a == b => settled.push(cmp(libc::NFT_CMP_EQ, a)?),
                    [(a, b)] => {
                        settled.push(cmp(libc::NFT_CMP_GTE, a)?);
                        settled.push(cmp(libc::NFT_CMP_LTE, b)?);
                    }
                    _ => settled.push(Op::Lookup {
                        reg,
                        set: SetRef::Anonymous(set),
                    }),
                }
            }
            op => {
                if let (Some(Op::Meta { key, .. }), Op::Cmp { data, .. }) = (settled.last(), &op)
                    && *key == libc::NFT_META_L4PROTO as u32
                {
                    last_proto = data.as_slice().first().copied();
                }
                settled.push(op);
            }
        }
    }
    *ops = settled;
    Some(())
}

fn transport_of(proto: u8) -> Option<Transport> {
    [Transport::Tcp, Transport::Udp]
        .into_iter()
        .find(|&t| protocol(t) == proto)
}

type Step<'a> = Option<(Option<Expr>, &'a [Op])>;

/// One expression off the front, or a test that only prepares the next one.
fn next<'a>(ops: &'a [Op], transport: &mut Option<u8>) -> Step<'a> {
    match ops {
        [Op::Meta { key, .. }, rest @ ..] => meta(*key as i32, rest, transport),
        [
            Op::Ct { .. },
            Op::Mask { mask, .. },
            Op::Cmp { .. },
            rest @ ..,
        ] => {
            let mask = u32::from_ne_bytes(mask.as_slice().try_into().ok()?);
            Some((Some(Expr::CtState(CtState(mask))), rest))
        }
        [Op::Payload { base, .. }, ..] if *base == libc::NFT_PAYLOAD_NETWORK_HEADER as u32 => {
            network(ops)
        }
        [Op::Payload { offset, .. }, rest @ ..] => {
            if *offset == 0 {
                let (types, rest) = small_values(rest)?;
                return Some((Some(Expr::Icmpv6Type(types)), rest));
            }
            let (ranges, rest) = values(rest)?;
            let transport = transport_of((*transport)?)?;
            Some((Some(Expr::Dport(transport, ranges)), rest))
        }
        [op, rest @ ..] => Some((Some(statement(op)?), rest)),
        [] => None,
    }
}

fn meta<'a>(key: i32, rest: &'a [Op], transport: &mut Option<u8>) -> Step<'a> {
    let expr = match (key, rest) {
        (libc::NFT_META_IIFNAME, [Op::Cmp { data, .. }, ..]) => Expr::Iifname(interface(data)?),
        (libc::NFT_META_OIFNAME, [Op::Cmp { data, .. }, ..]) => Expr::Oifname(interface(data)?),
        (libc::NFT_META_MARK, [Op::Cmp { data, .. }, ..]) => Expr::Mark(native(data)?),
        (libc::NFT_META_SKUID, [Op::Cmp { data, .. }, ..]) => Expr::Skuid(native(data)?),
        // Which family: the address match that follows says it again.
        (libc::NFT_META_NFPROTO, [Op::Cmp { .. }, rest @ ..]) => return Some((None, rest)),
        (libc::NFT_META_L4PROTO, [Op::Cmp { data, .. }, rest @ ..]) => {
            let proto = *data.as_slice().first()?;
            *transport = Some(proto);
            // A port or type match that follows says it again.
            let implied = matches!(rest, [Op::Payload { base, .. }, ..]
                if *base == libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32);
            return Some(((!implied).then(|| Expr::L4proto(vec![proto])), rest));
        }
        (libc::NFT_META_L4PROTO, _) => {
            let (protocols, rest) = small_values(rest)?;
            return Some((Some(Expr::L4proto(protocols)), rest));
        }
        _ => return None,
    };
    Some((Some(expr), rest.get(1..)?))
}

/// A destination address, alone or as the first part of a service.
fn network(ops: &[Op]) -> Step<'_> {
    let [Op::Payload { offset, .. }, rest @ ..] = ops else {
        return None;
    };
    // Offsets of `daddr` in struct iphdr and struct ipv6hdr.
    let v6 = match offset {
        16 => false,
        24 => true,
        _ => return None,
    };
    match rest {
        [
            Op::Lookup {
                set: SetRef::Named(set),
                ..
            },
            rest @ ..,
        ] => Some((
            Some(Expr::DaddrSet {
                v6,
                set: set.clone(),
            }),
            rest,
        )),
        [Op::Mask { mask, .. }, Op::Cmp { data, .. }, rest @ ..] => {
            let ones: u32 = mask.as_slice().iter().map(|b| b.count_ones()).sum();
            Some((Some(Expr::Daddr(net(v6, data, ones as u8)?)), rest))
        }
        [Op::Cmp { data, .. }, rest @ ..] => {
            let prefix = data.as_slice().len() as u8 * 8;
            Some((Some(Expr::Daddr(net(v6, data, prefix)?)), rest))
        }
        [Op::Meta { .. }, Op::Hton { .. }, rest @ ..] | [Op::Meta { .. }, rest @ ..] => {
            let [
                Op::Payload { .. },
                Op::Lookup {
                    set: SetRef::Named(set),
                    ..
                },
                rest @ ..,
            ] = rest
            else {
                return None;
            };
            Some((
                Some(Expr::ServiceSet {
                    v6,
                    set: set.clone(),
                }),
                rest,
            ))
        }
        _ => None,
    }
}

fn net(v6: bool, data: &Bytes, prefix: u8) -> Option<IpNet> {
    let mut octets = [0; 16];
    octets[..data.as_slice().len()].copy_from_slice(data.as_slice());
    let address: IpAddr = if v6 {
        octets.into()
    } else {
        let four: [u8; 4] = octets[..4].try_into().ok()?;
        four.into()
    };
    IpNet::new(address, prefix)
}

/// Inclusive ranges of ports or types.
type Ranges = Vec<(u16, u16)>;

/// What follows a load of a port: one value, one range, or an anonymous set.
fn values(ops: &[Op]) -> Option<(Ranges, &[Op])> {
    let number = |data: &Bytes| match *data.as_slice() {
        [a] => Some(u16::from(a)),
        [a, b] => Some(u16::from_be_bytes([a, b])),
        _ => None,
    };
    match ops {
        [
            Op::Cmp {
                op: from,
                data: first,
                ..
            },
            Op::Cmp { data: last, .. },
            rest @ ..,
        ] if *from == libc::NFT_CMP_GTE as u32 => {
            Some((vec![(number(first)?, number(last)?)], rest))
        }
        [Op::Cmp { data, .. }, rest @ ..] => {
            let n = number(data)?;
            Some((vec![(n, n)], rest))
        }
        [
            Op::Lookup {
                set: SetRef::Anonymous(set),
                ..
            },
            rest @ ..,
        ] => Some((set.ranges.clone(), rest)),
        _ => None,
    }
}

/// As [`values`], for one-byte keys, which the model lists singly.
fn small_values(ops: &[Op]) -> Option<(Vec<u8>, &[Op])> {
    let (ranges, rest) = values(ops)?;
    let mut all = Vec::new();
    for (a, b) in ranges {
        all.extend(u8::try_from(a).ok()?..=u8::try_from(b).ok()?);
    }
    Some((all, rest))
}

fn interface(data: &Bytes) -> Option<String> {
    let name = data.as_slice().split(|&b| b == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

fn native(data: &Bytes) -> Option<u32> {
    Some(u32::from_ne_bytes(data.as_slice().try_into().ok()?))
}

fn statement(op: &Op) -> Option<Expr> {
    Some(match op {
        Op::Counter { packets, bytes } => Expr::Counter {
            packets: *packets,
            bytes: *bytes,
        },
        Op::Log { prefix, group } => Expr::Log {
            prefix: prefix.clone(),
            group: *group,
        },
        Op::Verdict(libc::NF_ACCEPT) => Expr::Accept,
        Op::Verdict(libc::NF_DROP) => Expr::Drop,
        Op::Reject { kind, code } => Expr::Reject(match *kind as i32 {
            libc::NFT_REJECT_TCP_RST => Reject::TcpReset,
            libc::NFT_REJECT_ICMPX_UNREACH => Reject::Icmpx(icmpx(*code)?),
            _ => return None,
        }),
        _ => return None,
    })
}

fn icmpx(code: u8) -> Option<Icmpx> {
    [
        Icmpx::NoRoute,
        Icmpx::PortUnreachable,
        Icmpx::HostUnreachable,
        Icmpx::AdminProhibited,
    ]
    .get(code as usize)
    .copied()
}
