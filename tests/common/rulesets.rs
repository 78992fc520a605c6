//! Rulesets of every posture, size and tier, for tests that need many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use terok_shield::nft::intervals::Grant;
use terok_shield::nft::model::{Expr, Ruleset};
use terok_shield::nft::policy::{Inputs, Learning, Posture, Service, compile};

/// Every posture.
pub const POSTURES: [Posture; 4] = [
    Posture::Up,
    Posture::Down,
    Posture::Disengaged,
    Posture::Quarantine,
];

/// `count` public addresses of both families, none adjacent to another.
pub fn grants(count: u32) -> Vec<Grant> {
    (0..count)
        .map(|i| {
            let addr: IpAddr = if i % 2 == 0 {
                Ipv4Addr::from(0x0200_0000 + i * 2).into()
            } else {
                Ipv6Addr::from((0x2001_0db8 << 96) + u128::from(i) * 2).into()
            };
            Grant {
                net: addr.into(),
                remaining: None,
            }
        })
        .collect()
}

/// Inputs with something in every field.
pub fn inputs(learning: Learning, allowed: u32) -> Inputs {
    let mut allow = grants(allowed);
    for (net, remaining) in [
        ("198.51.100.0/24", None),
        ("10.1.2.0/24", None),
        ("203.0.113.7", Some(60_000)),
        ("255.255.255.0/24", None),
    ] {
        allow.push(Grant {
            net: net.parse().unwrap(),
            remaining,
        });
    }
    let service = |addr: &str, proto, port, remaining| Service {
        addr: addr.parse().unwrap(),
        proto,
        port,
        remaining,
    };
    Inputs {
        learning,
        forwarder: Some("169.254.1.1".parse().unwrap()),
        loopback_ports: vec![8080, 9000, 9001],
        gateways: vec!["169.254.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        allow,
        deny: vec![
            "198.51.100.128/25".parse().unwrap(),
            "2001:db8:1::/48".parse().unwrap(),
        ],
        services: vec![
            service("203.0.113.9", 6, 443, None),
            service("2001:db8::9", 17, 123, Some(3_600_000)),
        ],
    }
}

/// The same rules in the order of release 0.7: allow, deny, private.
pub fn older_order(mut ruleset: Ruleset) -> Ruleset {
    let is = |name: &'static str| move |r: &terok_shield::nft::model::Rule| matches!(&r.0[0], Expr::DaddrSet { set, .. } if set.starts_with(name));
    let output = &mut ruleset.chains[0].rules;
    let allow: Vec<_> = output.iter().filter(|r| is("allow")(r)).cloned().collect();
    output.retain(|r| !is("allow")(r));
    let deny = output.iter().position(is("deny")).unwrap();
    output.splice(deny..deny, allow);
    ruleset
}

/// Named rulesets: postures × tiers × ports × sizes × timeouts, and the older order.
pub fn all() -> Vec<(String, Ruleset)> {
    let mut all = Vec::new();
    for posture in POSTURES {
        for learning in [Learning::Nobody, Learning::Dnsmasq, Learning::Gate] {
            for allowed in [0, 1, 1000] {
                let name = format!("{posture} {learning:?} {allowed}");
                all.push((name, compile(posture, &inputs(learning, allowed))));
            }
        }
        all.push((
            format!("{posture} bare"),
            compile(posture, &Inputs::default()),
        ));
    }
    for allowed in [0, 1, 1000] {
        let ruleset = compile(Posture::Up, &inputs(Learning::Nobody, allowed));
        all.push((format!("older order {allowed}"), older_order(ruleset)));
    }
    all
}
