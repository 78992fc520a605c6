//! From a posture and what the operator said to the rules: the order of authority, readable top
//! to bottom. Nothing here knows where its inputs came from.

use crate::contract::{self, log_prefix, set};
use crate::ipnet::IpNet;
use crate::nft::intervals::{self, Grant};
use crate::nft::model::{
    Base, Chain, CtState, Element, Expr, Family, Hook, Icmpx, KeyType, Policy, Reject, Rule,
    Ruleset, Set, Transport,
};
use std::fmt;
use std::net::IpAddr;

/// What the operator wants the shield to do, from strictest to laxest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Posture {
    /// Blackout: loopback only.
    Quarantine,
    /// Default deny: only what is allowed gets out.
    Up,
    /// Everything but private ranges gets out, and is logged.
    Down,
    /// Everything gets out, and is logged.
    Disengaged,
}

impl Posture {
    /// The word `status` prints and the bundle's `posture` file holds.
    pub fn word(self) -> &'static str {
        match self {
            Posture::Quarantine => "quarantine",
            Posture::Up => "up",
            Posture::Down => "down",
            Posture::Disengaged => "disengaged",
        }
    }

    /// Inverse of [`Posture::word`].
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Quarantine, Self::Up, Self::Down, Self::Disengaged]
            .into_iter()
            .find(|p| p.word() == word)
    }

    /// Whether the shield lets through what nobody allowed.
    pub fn is_bypass(self) -> bool {
        self >= Posture::Down
    }
}

impl fmt::Display for Posture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Who adds addresses to the sets while the container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learning {
    /// Nobody: names were resolved once.
    Nobody,
    /// dnsmasq's `--nftset`, into the allow sets, with the sets' default timeout.
    Dnsmasq,
    /// The DNS gate, into sets of its own, each element with its own timeout.
    Gate,
}

/// One allowed service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Destination address.
    pub addr: IpAddr,
    /// IP protocol number (6 TCP, 17 UDP).
    pub proto: u8,
    /// Destination port.
    pub port: u16,
    /// For how much longer, milliseconds; `None` is for good.
    pub remaining: Option<u64>,
}

/// Everything the rules depend on besides the posture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// Who fills the sets at run time.
    pub learning: Learning,
    /// Where DNS queries may go.
    pub forwarder: Option<IpAddr>,
    /// TCP ports of the host's loopback that the workload may reach.
    pub loopback_ports: Vec<u16>,
    /// Addresses at which the host's loopback answers.
    pub gateways: Vec<IpAddr>,
    /// What the operator's profiles and `allow` let out.
    pub allow: Vec<Grant>,
    /// What the operator's `deny` keeps in; beats every allowance.
    pub deny: Vec<IpNet>,
    /// Single services.
    pub services: Vec<Service>,
}

impl Default for Inputs {
    fn default() -> Self {
        Self {
            learning: Learning::Nobody,
            forwarder: None,
            loopback_ports: Vec::new(),
            gateways: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            services: Vec::new(),
        }
    }
}

/// The rules for this posture.
pub fn compile(posture: Posture, inputs: &Inputs) -> Ruleset {
    let (sets, output, input) = match posture {
        Posture::Quarantine => (Vec::new(), blackout(), vec![loopback_in()]),
        Posture::Up => (sets(inputs), enforcing(inputs), incoming()),
        Posture::Down => (sets(inputs), bypass(inputs, true), incoming()),
        Posture::Disengaged => (sets(inputs), bypass(inputs, false), incoming()),
    };
    let policy = if posture.is_bypass() {
        Policy::Accept
    } else {
        Policy::Drop
    };
    let chain = |name: &str, hook, policy, rules| Chain {
        name: name.into(),
        base: Some(Base {
            hook,
            priority: 0,
            policy,
        }),
        rules,
    };
    Ruleset {
        family: Family::Inet,
        table: contract::TABLE.into(),
        sets,
        chains: vec![
            chain(contract::CHAIN_OUTPUT, Hook::Output, policy, output),
            chain(contract::CHAIN_INPUT, Hook::Input, Policy::Drop, input),
        ],
    }
}

/// The enforcing output chain, in the order of authority.
fn enforcing(inputs: &Inputs) -> Vec<Rule> {
    let mut rules = vec![loopback_out()];
    if inputs.learning == Learning::Gate {
        // Before `established`: the gate's own flows to the forwarder stay in the connection
        // table for a while after its socket is gone, and a workload that bound the same port
        // would ride on them.
        rules.extend(gate_dns(inputs));
    }
    rules.push(established());
    rules.push(neighbour_discovery(&[
        ROUTER_SOLICIT,
        NEIGHBOUR_SOLICIT,
        NEIGHBOUR_ADVERT,
    ]));
    if inputs.learning != Learning::Gate {
        rules.extend(forwarder_dns(inputs));
    }
    rules.extend(host_loopback(inputs));
    rules.extend(hard_floor());
    rules.extend(operator_override());
    rules.extend(deny_sets());
    rules.extend(private_ranges());
    rules.extend(allow_sets(inputs));
    rules.push(refuse(vec![], log_prefix::BLOCKED));
    rules
}

/// The bypass output chain: refusals that hold while the shield is down, then a log of the rest.
fn bypass(inputs: &Inputs, keep_private: bool) -> Vec<Rule> {
    let mut rules = vec![
        loopback_out(),
        established(),
        neighbour_discovery(&[ROUTER_SOLICIT, NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT]),
    ];
    rules.extend(forwarder_dns(inputs));
    rules.extend(host_loopback(inputs));
    if keep_private {
        rules.extend(hard_floor());
    }
    rules.extend(operator_override());
    rules.extend(deny_sets());
    if keep_private {
        rules.extend(private_ranges());
    }
    rules.extend(allow_sets(inputs));
    rules.push(Rule(vec![log(log_prefix::BYPASS)]));
    rules
}

/// Quarantine: no established traffic either, and no answer that tells what happened.
fn blackout() -> Vec<Rule> {
    vec![
        loopback_out(),
        Rule(vec![log(log_prefix::BLOCKED), Expr::Drop]),
    ]
}

/// Everything that may come in, in `up` and `down` alike.
fn incoming() -> Vec<Rule> {
    vec![
        loopback_in(),
        established(),
        neighbour_discovery(&[ROUTER_ADVERT, NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT]),
    ]
}

fn loopback_out() -> Rule {
    Rule(vec![Expr::Oifname("lo".into()), Expr::Accept])
}

fn loopback_in() -> Rule {
    Rule(vec![Expr::Iifname("lo".into()), Expr::Accept])
}

fn established() -> Rule {
    Rule(vec![
        Expr::CtState(CtState::ESTABLISHED | CtState::RELATED),
        Expr::Accept,
    ])
}

/// ICMPv6 types of RFC 4861. The kernel itself drops those that did not come from the link.
const ROUTER_SOLICIT: u8 = 133;
const ROUTER_ADVERT: u8 = 134;
const NEIGHBOUR_SOLICIT: u8 = 135;
const NEIGHBOUR_ADVERT: u8 = 136;

fn neighbour_discovery(types: &[u8]) -> Rule {
    Rule(vec![Expr::Icmpv6Type(types.to_vec()), Expr::Accept])
}

fn daddr(addr: IpAddr) -> Expr {
    Expr::Daddr(addr.into())
}

/// DNS to the forwarder, for everybody in the container.
fn forwarder_dns(inputs: &Inputs) -> Vec<Rule> {
    let rule = |addr, transport| {
        Rule(vec![
            daddr(addr),
            Expr::Dport(transport, vec![(53, 53)]),
            Expr::Accept,
        ])
    };
    inputs
        .forwarder
        .into_iter()
        .flat_map(|addr| [rule(addr, Transport::Udp), rule(addr, Transport::Tcp)])
        .collect()
}

/// DNS to the forwarder for the gate alone, by its mark; every other DNS, plain or over TLS, is
/// refused even to an allowed address: names are how data leaves.
fn gate_dns(inputs: &Inputs) -> Vec<Rule> {
    let gate = |addr, transport| {
        Rule(vec![
            daddr(addr),
            Expr::Mark(contract::GATE_MARK),
            Expr::Dport(transport, vec![(53, 53)]),
            Expr::Accept,
        ])
    };
    let refused = |transport| {
        refuse(
            vec![Expr::Dport(transport, vec![(53, 53), (853, 853)])],
            log_prefix::BLOCKED,
        )
    };
    let both = [Transport::Udp, Transport::Tcp];
    let accepted = inputs
        .forwarder
        .into_iter()
        .flat_map(|addr| both.map(|t| gate(addr, t)));
    accepted.chain(both.map(refused)).collect()
}

/// The host's own loopback services that the operator named.
fn host_loopback(inputs: &Inputs) -> Vec<Rule> {
    let mut ports: Vec<(u16, u16)> = inputs.loopback_ports.iter().map(|&p| (p, p)).collect();
    crate::sort::sort(&mut ports);
    ports.dedup();
    if ports.is_empty() {
        return Vec::new();
    }
    let rule = |&addr: &IpAddr| {
        Rule(vec![
            daddr(addr),
            Expr::Dport(Transport::Tcp, ports.clone()),
            Expr::Accept,
        ])
    };
    inputs.gateways.iter().map(rule).collect()
}

/// Cloud metadata, absolutely.
fn hard_floor() -> impl Iterator<Item = Rule> {
    constants(&contract::HARD_FLOOR).map(|net| refuse(vec![Expr::Daddr(net)], log_prefix::PRIVATE))
}

/// One rule per private range, literally: others recognise the posture by them.
fn private_ranges() -> impl Iterator<Item = Rule> {
    constants(&contract::PRIVATE_RANGES)
        .map(|net| refuse(vec![Expr::Daddr(net)], log_prefix::PRIVATE))
}

/// The contract's own addresses; a unit test proves that each of them parses.
fn constants(list: &'static [&'static str]) -> impl Iterator<Item = IpNet> {
    list.iter().filter_map(|s| s.parse().ok())
}

/// Private destinations and single services that the operator wrote. What is denied was cut out
/// of these sets, so that they can stand before the deny sets.
fn operator_override() -> Vec<Rule> {
    let service = |v6, set: &str| {
        accept_logged(Expr::ServiceSet {
            v6,
            set: set.into(),
        })
    };
    vec![
        accept_logged(in_set(false, set::OVERRIDE_V4)),
        accept_logged(in_set(true, set::OVERRIDE_V6)),
        service(false, set::SERVICE_V4),
        service(true, set::SERVICE_V6),
    ]
}

fn deny_sets() -> [Rule; 2] {
    [(false, set::DENY_V4), (true, set::DENY_V6)]
        .map(|(v6, name)| refuse(vec![in_set(v6, name)], log_prefix::DENIED))
}

fn allow_sets(inputs: &Inputs) -> Vec<Rule> {
    let mut names = vec![(false, set::ALLOW_V4), (true, set::ALLOW_V6)];
    match inputs.learning {
        Learning::Nobody => {}
        Learning::Dnsmasq => names.extend([(false, set::STATIC_V4), (true, set::STATIC_V6)]),
        Learning::Gate => names.extend([(false, set::LEARNED_V4), (true, set::LEARNED_V6)]),
    }
    names
        .into_iter()
        .map(|(v6, name)| accept_logged(in_set(v6, name)))
        .collect()
}

fn in_set(v6: bool, name: &str) -> Expr {
    Expr::DaddrSet {
        v6,
        set: name.into(),
    }
}

fn log(prefix: &str) -> Expr {
    Expr::Log {
        prefix: prefix.into(),
        group: Some(contract::NFLOG_GROUP),
    }
}

fn accept_logged(matching: Expr) -> Rule {
    Rule(vec![matching, log(log_prefix::ALLOWED), Expr::Accept])
}

fn refuse(mut exprs: Vec<Expr>, prefix: &str) -> Rule {
    exprs.push(log(prefix));
    exprs.push(Expr::Reject(Reject::Icmpx(Icmpx::AdminProhibited)));
    Rule(exprs)
}

/// Whether this lies wholly in a private range. A network that merely reaches into one
/// (`0.0.0.0/0`) does not, and opens nothing private.
pub fn is_private(net: &IpNet) -> bool {
    constants(&contract::PRIVATE_RANGES).any(|range| range.contains(net))
}

/// Whether any address of this network is on the hard floor.
pub fn touches_hard_floor(net: &IpNet) -> bool {
    constants(&contract::HARD_FLOOR).any(|floor| net.contains(&floor))
}

/// The sets with what the operator wrote in them.
fn sets(inputs: &Inputs) -> Vec<Set> {
    let (private, public): (Vec<Grant>, Vec<Grant>) =
        inputs.allow.iter().partition(|g| is_private(&g.net));
    let mut sets = Vec::with_capacity(12);
    for ipv4 in [true, false] {
        let pick = |v4: &str, v6: &str| (if ipv4 { v4 } else { v6 }).to_string();
        let key = if ipv4 { KeyType::Ipv4 } else { KeyType::Ipv6 };
        let authored = intervals::elements(&public, &[], ipv4);
        let allow = Set {
            name: pick(set::ALLOW_V4, set::ALLOW_V6),
            key,
            interval: true,
            timeouts: true,
            default_timeout: None,
            size: None,
            elements: Vec::new(),
        };
        match inputs.learning {
            Learning::Nobody => sets.push(Set {
                elements: authored,
                ..allow
            }),
            Learning::Dnsmasq => {
                // dnsmasq can give no timeout of its own, so the set has a default one; what the
                // operator wrote lives where that cannot reach it.
                let name = pick(set::STATIC_V4, set::STATIC_V6);
                let fixed = Set {
                    name,
                    elements: authored,
                    ..allow.clone()
                };
                let default_timeout = Some(contract::LEARNED_TIMEOUT_SECS * 1000);
                sets.extend([
                    Set {
                        default_timeout,
                        ..allow
                    },
                    fixed,
                ]);
            }
            Learning::Gate => {
                let learned = Set {
                    name: pick(set::LEARNED_V4, set::LEARNED_V6),
                    interval: false,
                    size: Some(contract::LEARNED_SET_SIZE),
                    ..allow.clone()
                };
                sets.extend([
                    Set {
                        elements: authored,
                        ..allow
                    },
                    learned,
                ]);
            }
        }
        let interval = |name, timeouts, elements| Set {
            name,
            key,
            interval: true,
            timeouts,
            default_timeout: None,
            size: None,
            elements,
        };
        let denied: Vec<Grant> = inputs
            .deny
            .iter()
            .map(|&net| Grant {
                net,
                remaining: None,
            })
            .collect();
        sets.push(interval(
            pick(set::DENY_V4, set::DENY_V6),
            false,
            intervals::elements(&denied, &[], ipv4),
        ));
        sets.push(interval(
            pick(set::OVERRIDE_V4, set::OVERRIDE_V6),
            true,
            intervals::elements(&private, &inputs.deny, ipv4),
        ));
        sets.push(Set {
            name: pick(set::SERVICE_V4, set::SERVICE_V6),
            key: if ipv4 {
                KeyType::Ipv4Service
            } else {
                KeyType::Ipv6Service
            },
            interval: false,
            timeouts: true,
            default_timeout: None,
            size: None,
            elements: services(inputs, ipv4),
        });
    }
    sets
}

/// The elements for single services: what is denied is out, the longest grant of each wins.
fn services(inputs: &Inputs, ipv4: bool) -> Vec<Element> {
    let denied = |addr: IpAddr| inputs.deny.iter().any(|d| d.contains(&addr.into()));
    let mut wanted: Vec<Service> = inputs
        .services
        .iter()
        .filter(|s| s.addr.is_ipv4() == ipv4 && !denied(s.addr))
        .copied()
        .collect();
    crate::sort::sort_by_key(&mut wanted, |s| {
        (
            s.addr,
            s.proto,
            s.port,
            std::cmp::Reverse(s.remaining.unwrap_or(u64::MAX)),
        )
    });
    wanted.dedup_by_key(|s| (s.addr, s.proto, s.port));
    wanted
        .iter()
        .map(|s| Element {
            service: Some((s.proto, s.port)),
            timeout: s.remaining,
            ..Element::range(s.addr, s.addr)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(net: &str) -> Grant {
        Grant {
            net: net.parse().unwrap(),
            remaining: None,
        }
    }

    fn position(rules: &[Rule], what: &Expr) -> usize {
        rules
            .iter()
            .position(|r| r.0.contains(what))
            .unwrap_or_else(|| panic!("no {what:?}"))
    }

    #[test]
    fn every_constant_of_the_contract_is_an_address() {
        assert_eq!(
            constants(&contract::PRIVATE_RANGES).count(),
            contract::PRIVATE_RANGES.len()
        );
        assert_eq!(
            constants(&contract::HARD_FLOOR).count(),
            contract::HARD_FLOOR.len()
        );
    }

    #[test]
    fn authority_runs_floor_override_deny_private_allow_terminal() {
        let rules = enforcing(&Inputs::default());
        let net = |s: &str| Expr::Daddr(s.parse().unwrap());
        let order = [
            position(&rules, &Expr::Oifname("lo".into())),
            position(
                &rules,
                &Expr::CtState(CtState::ESTABLISHED | CtState::RELATED),
            ),
            position(&rules, &net("169.254.169.254")),
            position(&rules, &in_set(false, set::OVERRIDE_V4)),
            position(&rules, &in_set(false, set::DENY_V4)),
            position(&rules, &net("10.0.0.0/8")),
            position(&rules, &in_set(false, set::ALLOW_V4)),
        ];
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!(rules.last().unwrap(), &refuse(vec![], log_prefix::BLOCKED));
    }

    #[test]
    fn what_is_private_goes_to_the_override_sets_less_what_is_denied() {
        let inputs = Inputs {
            allow: vec![grant("10.0.0.0/30"), grant("192.0.2.1"), grant("0.0.0.0/0")],
            deny: vec!["10.0.0.0".parse().unwrap()],
            ..Inputs::default()
        };
        let made = compile(Posture::Up, &inputs);
        let firsts = |name| -> Vec<String> {
            made.set(name)
                .unwrap()
                .elements
                .iter()
                .map(|e| e.first.to_string())
                .collect()
        };
        assert_eq!(firsts(set::OVERRIDE_V4), ["10.0.0.1"]);
        assert_eq!(firsts(set::ALLOW_V4), ["0.0.0.0"]);
        assert_eq!(firsts(set::DENY_V4), ["10.0.0.0"]);
    }

    #[test]
    fn a_denied_service_is_not_in_the_service_set() {
        let service = Service {
            addr: "192.0.2.1".parse().unwrap(),
            proto: 6,
            port: 443,
            remaining: None,
        };
        let mut inputs = Inputs {
            services: vec![
                service,
                Service {
                    remaining: Some(5),
                    ..service
                },
            ],
            ..Inputs::default()
        };
        let held = compile(Posture::Up, &inputs)
            .set(set::SERVICE_V4)
            .unwrap()
            .elements
            .clone();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].timeout, None);
        inputs.deny = vec!["192.0.2.0/24".parse().unwrap()];
        assert!(
            compile(Posture::Up, &inputs)
                .set(set::SERVICE_V4)
                .unwrap()
                .elements
                .is_empty()
        );
    }

    #[test]
    fn quarantine_has_no_sets_and_no_established_traffic() {
        let made = compile(
            Posture::Quarantine,
            &Inputs {
                allow: vec![grant("192.0.2.1")],
                ..Inputs::default()
            },
        );
        assert!(made.sets.is_empty());
        for chain in &made.chains {
            assert_eq!(chain.base.unwrap().policy, Policy::Drop);
            assert!(
                chain
                    .rules
                    .iter()
                    .all(|r| !r.0.iter().any(|e| matches!(e, Expr::CtState(_))))
            );
        }
    }

    #[test]
    fn with_the_gate_every_other_dns_is_refused_before_established_traffic_is_let_through() {
        let inputs = Inputs {
            learning: Learning::Gate,
            forwarder: Some("169.254.1.1".parse().unwrap()),
            ..Inputs::default()
        };
        let rules = enforcing(&inputs);
        let refused = position(
            &rules,
            &Expr::Dport(Transport::Tcp, vec![(53, 53), (853, 853)]),
        );
        assert!(
            refused
                < position(
                    &rules,
                    &Expr::CtState(CtState::ESTABLISHED | CtState::RELATED)
                )
        );
        assert!(position(&rules, &Expr::Mark(contract::GATE_MARK)) < refused);
    }

    #[test]
    fn postures_are_ordered_from_strict_to_lax_and_keep_their_words() {
        assert!(Posture::Quarantine < Posture::Up && Posture::Up < Posture::Down);
        for p in [
            Posture::Quarantine,
            Posture::Up,
            Posture::Down,
            Posture::Disengaged,
        ] {
            assert_eq!(Posture::from_word(p.word()), Some(p));
        }
        assert_eq!(Posture::from_word("UP"), None);
    }
}
