//! Random rulesets that nft accepts, in the form in which `nft::text::parse` gives them back.

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use terok_shield::ipnet::{self, IpNet};
use terok_shield::nft::model::*;

/// A ruleset of family inet named `t`. With `lifetimes`, elements also have `expires`, which
/// only a listing has.
pub fn ruleset(lifetimes: bool) -> impl Strategy<Value = Ruleset> {
    vec(set(lifetimes), 0..5).prop_flat_map(|mut sets| {
        for (i, set) in sets.iter_mut().enumerate() {
            set.name = format!("set_{i}.x-y");
        }
        vec(chain(sets.clone()), 0..4).prop_map(move |mut chains| {
            for (i, chain) in chains.iter_mut().enumerate() {
                chain.name = format!("chain_{i}");
            }
            Ruleset {
                family: Family::Inet,
                table: "t".into(),
                sets: sets.clone(),
                chains,
            }
        })
    })
}

/// Whole seconds: the kernel keeps time in its own ticks.
fn span() -> impl Strategy<Value = u64> {
    (1u64..10_000_000).prop_map(|s| s * 1000)
}

fn address(v6: bool) -> BoxedStrategy<IpAddr> {
    if !v6 {
        return any::<u32>().prop_map(|n| Ipv4Addr::from(n).into()).boxed();
    }
    // Few bits set, so that every way to shorten an address occurs.
    let word = prop_oneof![3 => Just(0u16), 1 => Just(0xffff), 1 => any::<u16>()];
    let words = proptest::array::uniform8(word);
    words.prop_map(|w| Ipv6Addr::from(w).into()).boxed()
}

fn net(v6: bool) -> impl Strategy<Value = IpNet> {
    let bits = if v6 { 128u8 } else { 32 };
    (address(v6), prop_oneof![Just(bits), 0..=bits])
        .prop_map(|(a, prefix)| IpNet::new(a, prefix).unwrap())
}

fn set(lifetimes: bool) -> impl Strategy<Value = Set> {
    let key = select(vec![
        KeyType::Ipv4,
        KeyType::Ipv6,
        KeyType::Ipv4Service,
        KeyType::Ipv6Service,
    ]);
    let default = option::of(span());
    let size = option::of(60_000u32..70_000);
    (key, any::<bool>(), any::<bool>(), default, size).prop_flat_map(
        move |(key, interval, timeouts, default_timeout, size)| {
            let service = matches!(key, KeyType::Ipv4Service | KeyType::Ipv6Service);
            let set = Set {
                name: String::new(),
                key,
                interval: interval && !service,
                timeouts,
                default_timeout: default_timeout.filter(|_| timeouts),
                size,
                elements: Vec::new(),
            };
            elements(&set, lifetimes).prop_map(move |elements| Set {
                elements,
                ..set.clone()
            })
        },
    )
}

fn elements(set: &Set, lifetimes: bool) -> BoxedStrategy<Vec<Element>> {
    let v6 = matches!(set.key, KeyType::Ipv6 | KeyType::Ipv6Service);
    let (interval, timeouts) = (set.interval, set.timeouts);
    let service = matches!(set.key, KeyType::Ipv4Service | KeyType::Ipv6Service);
    let like = if v6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let networks = vec((net(v6), 0u8..3, any::<u16>()), 0..12);
    let services = vec((any::<u8>(), any::<u16>()), 12);
    let lives = vec((option::of(span()), option::of(span())), 12);
    (networks, services, lives)
        .prop_map(move |(networks, services, lives)| {
            let mut elements = Vec::new();
            for (i, (net, kind, extent)) in networks.into_iter().enumerate() {
                let first = net.first();
                // A single address, a network, or a range that is mostly none.
                let last = match (interval, kind) {
                    (true, 1) => net.last(),
                    (true, 2) => {
                        let end = ipnet::to_number(first).saturating_add(extent.into());
                        let most = if v6 { u128::MAX } else { u32::MAX.into() };
                        ipnet::from_number(end.min(most), like)
                    }
                    _ => first,
                };
                let mut element = Element::range(first, last);
                element.service = Some(services[i]).filter(|_| service);
                if timeouts {
                    element.timeout = lives[i].0;
                    element.expires = lives[i].1.filter(|_| lifetimes);
                }
                elements.push(element);
            }
            elements.sort_unstable();
            let apart = |a: &Element, b: &Element| match a.service.is_some() {
                true => (a.first, a.service) != (b.first, b.service),
                false => a.last < b.first,
            };
            let mut kept: Vec<Element> = Vec::new();
            for element in elements {
                if kept.last().is_none_or(|last| apart(last, &element)) {
                    kept.push(element);
                }
            }
            kept
        })
        .boxed()
}

fn chain(sets: Vec<Set>) -> impl Strategy<Value = Chain> {
    let hook = select(vec![Hook::Input, Hook::Forward, Hook::Output]);
    let policy = select(vec![Policy::Accept, Policy::Drop]);
    let base = (hook, -400i32..400, policy).prop_map(|(hook, priority, policy)| Base {
        hook,
        priority,
        policy,
    });
    (option::of(base), vec(rule(sets), 0..8)).prop_map(|(base, rules)| Chain {
        name: String::new(),
        base,
        rules,
    })
}

/// Matches in any order, then statements, then at most one verdict.
fn rule(sets: Vec<Set>) -> impl Strategy<Value = Rule> {
    (
        vec(simple_match(), 0..3),
        option::of(destination(sets)),
        option::of(transport()),
        vec(statement(), 0..3),
        option::of(verdict()),
    )
        .prop_map(|(mut exprs, to, transport, statements, verdict)| {
            let v4 = match &to {
                Some(Expr::Daddr(net)) => net.is_ipv4(),
                Some(Expr::DaddrSet { v6, .. } | Expr::ServiceSet { v6, .. }) => !v6,
                _ => false,
            };
            let icmp = matches!(transport, Some(Expr::Icmpv6Type(_)));
            let tcp = match &transport {
                Some(Expr::Dport(transport, _)) => *transport == Transport::Tcp,
                Some(Expr::L4proto(list)) => list[..] == [6],
                _ => false,
            };
            let to_any = to.is_none();
            exprs.extend(to);
            // No IPv4 packet carries ICMPv6.
            exprs.extend(transport.filter(|_| !(icmp && v4)));
            exprs.extend(statements);
            let any_family = to_any && !icmp;
            exprs.extend(verdict.filter(|v| match v {
                Expr::Reject(Reject::TcpReset) => tcp,
                // nft lists it as a bare reject, which it reads as the one of the matched family.
                Expr::Reject(Reject::Icmpx(Icmpx::PortUnreachable)) => any_family,
                _ => true,
            }));
            if exprs.is_empty() {
                exprs.push(Expr::Accept);
            }
            Rule(exprs)
        })
}

fn simple_match() -> impl Strategy<Value = Expr> {
    let name = "[a-z][a-z0-9_.-]{0,14}";
    let states = vec![
        CtState::INVALID,
        CtState::ESTABLISHED,
        CtState::RELATED,
        CtState::NEW,
        CtState::UNTRACKED,
    ];
    let states = subsequence(states, 1..=5).prop_map(|list| {
        let all = list.into_iter().fold(CtState(0), |a, b| a | b);
        Expr::CtState(all)
    });
    prop_oneof![
        name.prop_map(Expr::Iifname),
        name.prop_map(Expr::Oifname),
        states,
        any::<u32>().prop_map(Expr::Mark),
        any::<u32>().prop_map(Expr::Skuid),
    ]
}

fn destination(sets: Vec<Set>) -> impl Strategy<Value = Expr> {
    (any::<bool>(), any::<bool>(), any::<Index>()).prop_flat_map(move |(v6, by_set, index)| {
        if !by_set || sets.is_empty() {
            return net(v6).prop_map(Expr::Daddr).boxed();
        }
        let Set { key, name, .. } = index.get(&sets);
        let (v6, service) = match key {
            KeyType::Ipv4 => (false, false),
            KeyType::Ipv6 => (true, false),
            KeyType::Ipv4Service => (false, true),
            KeyType::Ipv6Service => (true, true),
        };
        let set = name.clone();
        Just(if service {
            Expr::ServiceSet { v6, set }
        } else {
            Expr::DaddrSet { v6, set }
        })
        .boxed()
    })
}

fn transport() -> impl Strategy<Value = Expr> {
    let protocols = btree_set(prop_oneof![Just(6u8), Just(17), any::<u8>()], 1..5);
    let types = btree_set(prop_oneof![133u8..138, any::<u8>()], 1..6);
    let transport = || select(vec![Transport::Tcp, Transport::Udp]);
    let singles = (transport(), btree_set(any::<u16>(), 1..6)).prop_map(|(transport, ports)| {
        Expr::Dport(transport, ports.into_iter().map(|p| (p, p)).collect())
    });
    let ranges = (transport(), btree_set(any::<u16>(), 2..8)).prop_map(|(transport, ends)| {
        let ends: Vec<u16> = ends.into_iter().collect();
        let pairs = ends.chunks_exact(2).map(|c| (c[0], c[1]));
        let mut ports: Vec<(u16, u16)> = Vec::new();
        for (first, last) in pairs {
            match ports.last_mut() {
                Some(before) if before.1 + 1 == first => before.1 = last,
                _ => ports.push((first, last)),
            }
        }
        Expr::Dport(transport, ports)
    });
    prop_oneof![
        protocols.prop_map(|p| Expr::L4proto(p.into_iter().collect())),
        types.prop_map(|t| Expr::Icmpv6Type(t.into_iter().collect())),
        singles,
        ranges,
    ]
}

fn statement() -> impl Strategy<Value = Expr> {
    let log = ("[ -!#%-\\[\\]-~]{0,127}", option::of(any::<u16>()));
    let counter = (any::<u32>(), any::<u32>());
    prop_oneof![
        log.prop_map(|(prefix, group)| Expr::Log { prefix, group }),
        counter.prop_map(|(packets, bytes)| Expr::Counter {
            packets: packets.into(),
            bytes: bytes.into()
        }),
    ]
}

fn verdict() -> impl Strategy<Value = Expr> {
    select(vec![
        Expr::Accept,
        Expr::Drop,
        Expr::Reject(Reject::TcpReset),
        Expr::Reject(Reject::Icmpx(Icmpx::NoRoute)),
        Expr::Reject(Reject::Icmpx(Icmpx::PortUnreachable)),
        Expr::Reject(Reject::Icmpx(Icmpx::HostUnreachable)),
        Expr::Reject(Reject::Icmpx(Icmpx::AdminProhibited)),
    ])
}
