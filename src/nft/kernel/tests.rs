//! What the kernel answers is read totally: any bytes give a value or an error. And what we
//! write is what we read, without a kernel in between.

use super::batch::Batch;
use super::object::Builder;
use super::parse::{self, SetInfo};
use super::socket::{Next, walk};
use super::uapi::kind;
use super::wire::{Attributes, Message, Messages, Table, Writer};
use super::*;
use crate::ipnet::IpNet;
use crate::nft::intervals::Grant;
use crate::nft::model::{Element, Set};
use crate::nft::policy::{Inputs, Learning, Posture, compile};
use proptest::prelude::*;

fn up() -> Ruleset {
    let grant = |s: &str| Grant {
        net: s.parse().unwrap(),
        remaining: Some(60_000),
    };
    compile(
        Posture::Up,
        &Inputs {
            learning: Learning::Gate,
            forwarder: Some("169.254.1.1".parse().unwrap()),
            loopback_ports: vec![80, 443, 8080],
            gateways: vec!["169.254.1.2".parse().unwrap()],
            allow: ["192.0.2.0/24", "203.0.113.7", "2001:db8::/32"]
                .map(grant)
                .into(),
            deny: vec!["198.51.100.0/24".parse::<IpNet>().unwrap()],
            ..Inputs::default()
        },
    )
}

/// The bytes of a transaction that loads the ruleset.
fn transaction(ruleset: &Ruleset) -> Vec<u8> {
    let mut builder = Builder::new();
    let mut batch =
        Batch::new(&mut builder, Vec::new(), 1, ruleset.family, &ruleset.table).unwrap();
    for chain in &ruleset.chains {
        batch.chain(chain, None).unwrap();
    }
    for set in &ruleset.sets {
        batch.set(set).unwrap();
        let done = batch.add(set, &set.elements, usize::MAX).unwrap();
        assert_eq!(done, set.elements.len());
    }
    for chain in &ruleset.chains {
        batch.rules(chain, ruleset).unwrap();
    }
    batch.finish().bytes
}

/// Reads a transaction as if its messages were the kernel's listing. Anonymous sets have no
/// names of their own before the kernel gave them some; rules that use one fail, and are left out.
fn read(bytes: &[u8], frame: &Ruleset) -> Result<Ruleset, NetlinkError> {
    let mut sets: Vec<SetInfo> = Vec::new();
    let mut held = Ruleset {
        sets: Vec::new(),
        chains: Vec::new(),
        ..frame.clone()
    };
    let mut rules = Vec::new();
    let malformed = |_| NetlinkError::Malformed {
        what: "test".into(),
    };
    for message in Messages(bytes) {
        let message = message.map_err(malformed)?;
        let (_, body) = message.netfilter().map_err(malformed)?;
        let is = |m: libc::c_int| message.kind == kind(m);
        if is(libc::NFT_MSG_NEWCHAIN) {
            held.chains.extend(parse::chain(body, &frame.table)?);
        } else if is(libc::NFT_MSG_NEWSET) {
            sets.extend(parse::set(body, &frame.table)?.filter(|s| !s.is_anonymous()));
        } else if is(libc::NFT_MSG_NEWSETELEM) {
            if let Some(set) = sets.last_mut() {
                // The elements of an anonymous set are no named set's.
                let _ = set.elements(body, &frame.table);
            }
        } else if is(libc::NFT_MSG_NEWRULE) {
            let chains: Vec<String> = held.chains.iter().map(|c| c.name.clone()).collect();
            rules.push(parse::rule(body, frame, &chains, &[]));
        }
    }
    for set in &mut sets {
        set.join_ranges();
    }
    held.sets = parse::separate(sets).0;
    for (chain, rule) in rules.into_iter().flatten().flatten() {
        held.chains[chain].rules.push(rule);
    }
    Ok(held)
}

fn has_anonymous_set(rule: &Rule, ruleset: &Ruleset) -> bool {
    let ops = op::compile(rule, ruleset).unwrap();
    ops.iter().any(|o| {
        matches!(
            o,
            op::Op::Lookup {
                set: op::SetRef::Anonymous(_),
                ..
            }
        )
    })
}

#[test]
fn what_we_write_we_read() {
    let meant = up();
    let held = read(&transaction(&meant), &meant).unwrap();
    assert_eq!(meant.sets.len(), held.sets.len());
    for (m, h) in meant.sets.iter().zip(&held.sets) {
        assert!(same_definition(m, h), "{m:?} {h:?}");
        let mut elements = m.elements.clone();
        elements.sort_unstable();
        assert_eq!(elements, h.elements, "{}", m.name);
    }
    for (m, h) in meant.chains.iter().zip(&held.chains) {
        assert_eq!((&m.name, m.base), (&h.name, h.base));
        let plain = m.rules.iter().filter(|r| !has_anonymous_set(r, &meant));
        assert_eq!(plain.cloned().collect::<Vec<_>>(), h.rules);
    }
}

#[test]
fn every_prefix_length_compiles_and_folds_back() {
    let mut frame = up();
    frame.chains.clear();
    for (address, bits) in [
        ("255.170.85.1", 32),
        ("aaaa:5555:aaaa:5555:aaaa:5555:aaaa:5555", 128),
    ] {
        for prefix in 0..=bits {
            let net = IpNet::new(address.parse().unwrap(), prefix).unwrap();
            let rule = Rule(vec![crate::nft::model::Expr::Daddr(net)]);
            let ops = op::compile(&rule, &frame).unwrap();
            assert_eq!(fold::fold(ops, &frame), Some(rule), "{net}");
        }
    }
}

#[test]
fn a_mask_with_holes_is_no_network() {
    let frame = up();
    let net = "10.128.0.0/9".parse().unwrap();
    let rule = Rule(vec![crate::nft::model::Expr::Daddr(net)]);
    let ops = op::compile(&rule, &frame).unwrap();
    // Every other mask with nine ones than the one of the first nine bits.
    for mask in [[0x7f, 0xc0, 0, 0], [0xff, 0, 0x80, 0], [0x55, 0x55, 1, 0]] {
        let mut ops = ops.clone();
        let holed = op::Bytes::new(&mask).unwrap();
        for op in &mut ops {
            if let op::Op::Mask { mask, .. } = op {
                *mask = holed;
            }
        }
        assert_eq!(fold::fold(ops, &frame), None, "{mask:?}");
    }
}

#[test]
fn ranges_end_where_the_next_element_says_or_begins() {
    let set = Set {
        interval: true,
        ..up().set("allow_v4").unwrap().clone()
    };
    let listed = |elements: &[(u32, bool)]| {
        let mut w = Writer::default();
        w.put_str(super::uapi::list::TABLE, "t");
        w.put_str(super::uapi::list::SET, &set.name);
        let all = w.nest(super::uapi::list::ELEMENTS);
        for &(address, end) in elements {
            let one = w.nest(super::uapi::list::ELEM);
            if end {
                w.put_be32(super::uapi::elem::FLAGS, super::uapi::INTERVAL_END);
            }
            let key = w.nest(super::uapi::elem::KEY);
            w.put_be32(super::uapi::data::VALUE, address);
            w.end_nest(key);
            w.end_nest(one);
        }
        w.end_nest(all);
        let mut info = parse::named(Set {
            elements: Vec::new(),
            ..set.clone()
        });
        info.elements(&w.buf, "t").unwrap();
        info.join_ranges().then(|| {
            let ranges = parse::separate(vec![info]).0.remove(0).elements;
            let number = |a| crate::ipnet::to_number(a) as u32;
            let ranges = ranges.iter().map(|e| (number(e.first), number(e.last)));
            ranges.collect::<Vec<_>>()
        })
    };
    let (start, end) = (false, true);
    // Descending with the null element, as Linux lists what nft loaded.
    let nft = [(20, end), (15, start), (10, start), (0, end)];
    assert_eq!(listed(&nft), Some(vec![(10, 14), (15, 19)]));
    // In any other order, and with both an end and a start at one address.
    let ours = [(10, start), (15, end), (20, end), (15, start)];
    assert_eq!(listed(&ours), Some(vec![(10, 14), (15, 19)]));
    // Up to the last address; an end whose start has expired ends nothing.
    assert_eq!(listed(&[(7, end), (9, start)]), Some(vec![(9, u32::MAX)]));
    // Twice the same start: the kernel listed inconsistently.
    assert_eq!(listed(&[(9, start), (9, start)]), None);
}

/// Any well-formed attributes, nested at random, under numbers the parsers look for.
fn attributes() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..24),
        any::<u32>().prop_map(|n| (n % 32).to_be_bytes().to_vec()),
        proptest::sample::select(vec![
            "terok_shield\0",
            "allow_v4\0",
            "output\0",
            "cmp\0",
            "meta\0",
            "payload\0",
            "lookup\0",
            "bitwise\0",
            "immediate\0",
            "log\0",
            "reject\0",
            "counter\0",
            "filter\0",
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        proptest::collection::vec((0_u16..20, inner), 0..8).prop_map(|all| {
            let mut w = Writer::default();
            for (kind, data) in all {
                w.put(kind, &data);
            }
            w.buf
        })
    })
}

/// Runs every parser over one body; only that they return counts.
fn parse_all(body: &[u8], frame: &Ruleset) {
    let chains = vec!["output".to_string()];
    let _ = parse::table(body, &frame.table);
    let _ = parse::chain(body, &frame.table);
    let _ = parse::rule(body, frame, &chains, &[]);
    if let Ok(Some(mut set)) = parse::set(body, &frame.table) {
        let _ = set.elements(body, &frame.table);
        set.join_ranges();
    }
    for set in &frame.sets {
        let mut info = parse::named(set.clone());
        let _ = info.elements(body, &frame.table);
        info.join_ranges();
    }
    let _ = expr::list(body, &|_| None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let frame = up();
        for message in Messages(&bytes).flatten() {
            let _ = message.error();
            let _ = message.netfilter();
        }
        prop_assert!(Attributes(&bytes).count() <= bytes.len());
        let _ = Table::<20>::parse(&bytes);
        let _ = walk(&bytes, "test", 0, &mut |_: Message<'_>| Ok(Next::More));
        parse_all(&bytes, &frame);
    }

    #[test]
    fn any_attributes_are_read_without_harm(bytes in attributes()) {
        parse_all(&bytes, &up());
    }

    #[test]
    fn a_damaged_listing_is_read_without_harm(
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let frame = up();
        let mut bytes = transaction(&frame);
        let i = at.index(bytes.len());
        bytes[i] = value;
        bytes.truncate(cut.index(bytes.len()) + 1);
        let _ = read(&bytes, &frame);
    }

    #[test]
    fn whatever_rules_expressions_make_they_compile_to_the_same(
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 1..12)
    ) {
        let frame = up();
        let pool: Vec<op::Op> = frame.chains.iter().flat_map(|c| &c.rules)
            .flat_map(|r| op::compile(r, &frame).unwrap()).collect();
        let ops: Vec<op::Op> = picks.iter().map(|i| pool[i.index(pool.len())].clone()).collect();
        if let Some(rule) = fold::fold(ops.clone(), &frame) {
            // Never a rule that does something else than what was there.
            let again = op::compile(&rule, &frame).unwrap();
            prop_assert_eq!(fold::fold(again, &frame), Some(rule));
        }
    }
}

#[test]
fn an_element_message_is_never_longer_than_its_length_field_can_say() {
    let ruleset = up();
    let range = |i: u128| {
        let first = std::net::Ipv6Addr::from(i << 32).into();
        Element {
            timeout: Some(1000),
            expires: Some(900),
            ..Element::range(first, std::net::Ipv6Addr::from((i << 32) + 5).into())
        }
    };
    let mut set = ruleset.set("allow_v6").unwrap().clone();
    set.elements = (0..5000).map(range).collect();
    let mut builder = Builder::new();
    let mut batch =
        Batch::new(&mut builder, Vec::new(), 1, ruleset.family, &ruleset.table).unwrap();
    assert_eq!(batch.add(&set, &set.elements, usize::MAX).unwrap(), 5000);
    let finished = batch.finish();
    let mut listed = parse::named(Set {
        elements: Vec::new(),
        ..set.clone()
    });
    for message in Messages(&finished.bytes) {
        let message = message.unwrap();
        if message.kind == kind(libc::NFT_MSG_NEWSETELEM) {
            assert!(message.body.len() < usize::from(u16::MAX));
            let (_, body) = message.netfilter().unwrap();
            listed.elements(body, &ruleset.table).unwrap();
        }
    }
    assert!(listed.join_ranges());
    assert_eq!(parse::separate(vec![listed]).0[0].elements, set.elements);
    // A batch with little room takes few, and says how many.
    let mut batch =
        Batch::new(&mut builder, Vec::new(), 1, ruleset.family, &ruleset.table).unwrap();
    let some = batch.add(&set, &set.elements, 8192).unwrap();
    assert!((40..100).contains(&some), "{some}");
    assert!(batch.finish().bytes.len() <= 8192);
}
