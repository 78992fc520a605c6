//! Random rulesets for kernels rather than for parsers: elements next to each other and at the
//! ends of their family, ranges of services.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use terok_shield::ipnet::IpNet;
use terok_shield::nft::model::{
    Base, Chain, CtState, Element, Expr, Family, Hook, Icmpx, KeyType, Policy, Reject, Rule,
    Ruleset, Set, Transport,
};

/// An inet table with any of the sets below and up to three chains.
pub fn ruleset() -> impl Strategy<Value = Ruleset> {
    let chains = vec((base(), vec(rule(), 0..8)), 1..4);
    (sets(), chains).prop_map(|(sets, chains)| Ruleset {
        family: Family::Inet,
        table: "arbitrary".into(),
        sets,
        chains: chains
            .into_iter()
            .enumerate()
            .map(|(n, (base, rules))| Chain {
                name: format!("chain{n}"),
                base,
                rules: rules.into_iter().map(Rule).collect(),
            })
            .collect(),
    })
}

/// Every set a rule below can name, each with any definition its key admits.
fn sets() -> impl Strategy<Value = Vec<Set>> {
    (
        set("plain4", KeyType::Ipv4),
        set("plain6", KeyType::Ipv6),
        set("service4", KeyType::Ipv4Service),
        set("service6", KeyType::Ipv6Service),
    )
        .prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

fn set(name: &'static str, key: KeyType) -> impl Strategy<Value = Set> {
    let definition = (
        any::<bool>(),
        any::<bool>(),
        proptest::option::of((1..10_000_u64).prop_map(|s| s * 1000)),
        proptest::option::of(select(vec![1000_u32, 65_536])),
    );
    (definition, elements(key)).prop_map(move |((interval, timeouts, default, size), all)| Set {
        name: name.into(),
        key,
        interval,
        timeouts,
        default_timeout: default.filter(|_| timeouts),
        size,
        elements: all
            .into_iter()
            .map(|e| Element {
                last: if interval { e.last } else { e.first },
                timeout: e.timeout.filter(|_| timeouts),
                ..e
            })
            .collect(),
    })
}

/// Disjoint ranges, some of them adjacent, some up to the last address.
fn elements(key: KeyType) -> impl Strategy<Value = Vec<Element>> {
    let service = matches!(key, KeyType::Ipv4Service | KeyType::Ipv6Service);
    let v6 = matches!(key, KeyType::Ipv6 | KeyType::Ipv6Service);
    let timeout = proptest::option::of((60..100_000_u64).prop_map(|s| s * 1000));
    let more = (timeout, select(vec![6_u8, 17]), 1_u16..);
    let bound = prop_oneof![
        any::<u128>(),
        // Near others, near the ends.
        (0_u128..40),
        (0_u128..40).prop_map(|n| u128::MAX - n),
        (0_u128..40).prop_map(|n| (0xc000_0200 << 96) + n),
    ];
    (btree_set(bound, 0..40), vec(more, 40)).prop_map(move |(bounds, more)| {
        let address = |n: u128| -> IpAddr {
            if v6 {
                Ipv6Addr::from(n).into()
            } else {
                // The low bits where there are no high ones, so that neighbours stay neighbours.
                let n = if n >> 96 == 0 {
                    n as u32
                } else {
                    (n >> 96) as u32 ^ (n as u32 & 63)
                };
                Ipv4Addr::from(n).into()
            }
        };
        let mut bounds: Vec<IpAddr> = bounds.into_iter().map(address).collect();
        bounds.sort_unstable();
        bounds.dedup();
        bounds
            .chunks(2)
            .zip(more)
            .map(|(ends, (timeout, protocol, port))| Element {
                timeout,
                service: service.then_some((protocol, port)),
                ..Element::range(ends[0], *ends.last().unwrap())
            })
            .collect()
    })
}

fn base() -> impl Strategy<Value = Option<Base>> {
    let hook = select(vec![Hook::Input, Hook::Forward, Hook::Output]);
    let policy = select(vec![Policy::Accept, Policy::Drop]);
    proptest::option::of(
        (hook, -400..400_i32, policy).prop_map(|(hook, priority, policy)| Base {
            hook,
            priority,
            policy,
        }),
    )
}

/// At most one test of each kind, as people write rules, some statements, a verdict.
fn rule() -> impl Strategy<Value = Vec<Expr>> {
    let tests = (
        proptest::option::of(interface()),
        proptest::option::of((1..16_u32).prop_map(|s| Expr::CtState(CtState(s)))),
        proptest::option::of(destination()),
        proptest::option::of(transport()),
        proptest::option::of(prop_oneof![
            any::<u32>().prop_map(Expr::Mark),
            any::<u32>().prop_map(Expr::Skuid),
        ]),
    );
    let statements = (
        any::<bool>().prop_map(|c| {
            c.then_some(Expr::Counter {
                packets: 0,
                bytes: 0,
            })
        }),
        proptest::option::of(log()),
        proptest::option::of(select(vec![
            Expr::Accept,
            Expr::Drop,
            Expr::Reject(Reject::Icmpx(Icmpx::AdminProhibited)),
            Expr::Reject(Reject::Icmpx(Icmpx::NoRoute)),
        ])),
    );
    (tests, statements).prop_map(|((a, b, c, d, e), (f, g, h))| {
        let mut exprs: Vec<Expr> = [a, b, c, d, e, f, g, h].into_iter().flatten().collect();
        if exprs.is_empty() {
            exprs.push(Expr::Accept);
        }
        exprs
    })
}

fn interface() -> impl Strategy<Value = Expr> {
    ("[a-z][a-z0-9]{0,14}", any::<bool>()).prop_map(|(name, input)| {
        if input {
            Expr::Iifname(name)
        } else {
            Expr::Oifname(name)
        }
    })
}

fn destination() -> impl Strategy<Value = Expr> {
    prop_oneof![
        (any::<u32>(), 0..=32_u8).prop_map(|(a, p)| net(Ipv4Addr::from(a).into(), p)),
        (any::<u128>(), 0..=128_u8).prop_map(|(a, p)| net(Ipv6Addr::from(a).into(), p)),
        any::<bool>().prop_map(|v6| Expr::DaddrSet {
            v6,
            set: if v6 { "plain6" } else { "plain4" }.into()
        }),
        any::<bool>().prop_map(|v6| Expr::ServiceSet {
            v6,
            set: if v6 { "service6" } else { "service4" }.into()
        }),
    ]
}

fn net(address: IpAddr, prefix: u8) -> Expr {
    Expr::Daddr(IpNet::new(address, prefix).unwrap())
}

fn transport() -> impl Strategy<Value = Expr> {
    let ports = btree_set(any::<u16>(), 1..9).prop_map(|bounds| {
        let bounds: Vec<u16> = bounds.into_iter().collect();
        let ranges = bounds.chunks(2).map(|c| (c[0], c[c.len() - 1]));
        ranges.collect::<Vec<_>>()
    });
    let several = btree_set(any::<u16>(), 1..9)
        .prop_map(|ports| ports.into_iter().map(|p| (p, p)).collect::<Vec<_>>());
    let protocol = select(vec![Transport::Tcp, Transport::Udp]);
    prop_oneof![
        (protocol, prop_oneof![ports, several]).prop_map(|(t, p)| Expr::Dport(t, p)),
        btree_set(select(vec![6_u8, 17, 132]), 1..4)
            .prop_map(|p| Expr::L4proto(p.into_iter().collect())),
    ]
}

fn log() -> impl Strategy<Value = Expr> {
    let prefix = "[A-Za-z_][A-Za-z0-9_:. ]{0,30}";
    (prefix, proptest::option::of(any::<u16>()))
        .prop_map(|(prefix, group)| Expr::Log { prefix, group })
}
