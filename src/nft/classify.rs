//! Which posture a ruleset is.

use crate::contract::{self, log_prefix, set as set_name};
use crate::ipnet::IpNet;
use crate::nft::model::{Chain, Expr, Family, Hook, Icmpx, KeyType, Policy, Reject, Rule, Ruleset};

/// What a ruleset is, as `status` says it. That there is no table at all, `offline`, is for the
/// caller to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Enforcing.
    Up,
    /// Bypass; private ranges stay refused.
    Down,
    /// Bypass of everything.
    Disengaged,
    /// Blackout.
    Quarantine,
    /// None of these: somebody else's rules, or ours changed by somebody else.
    Error,
}

impl State {
    /// The word `status` prints.
    pub fn word(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Down => "down",
            State::Disengaged => "disengaged",
            State::Quarantine => "quarantine",
            State::Error => "error",
        }
    }
}

/// The posture that a ruleset enforces, elements left aside. Anything that is not wholly one of
/// them is an error: a protection that cannot be recognised is not vouched for.
pub fn classify(ruleset: &Ruleset) -> State {
    let (Some(output), Some(_)) = (output(ruleset), input(ruleset)) else {
        return State::Error;
    };
    let shield = Shield { ruleset, output };
    if shield.is_quarantine() {
        State::Quarantine
    } else if !shield.four_sets() {
        State::Error
    } else if shield.is_up() {
        State::Up
    } else if shield.is_bypass() {
        match shield.private_refusals() {
            Refusals::All => State::Down,
            Refusals::None => State::Disengaged,
            Refusals::Some => State::Error,
        }
    } else {
        State::Error
    }
}

/// The output chain, if the table is ours and has the two base chains and no other.
fn output(ruleset: &Ruleset) -> Option<&Chain> {
    let ours = ruleset.family == Family::Inet
        && ruleset.table == contract::TABLE
        && ruleset.chains.len() == 2;
    let chain = ruleset.chain(contract::CHAIN_OUTPUT).filter(|_| ours)?;
    let base = chain.base?;
    (base.hook == Hook::Output && base.priority == 0).then_some(chain)
}

/// The input chain, if it drops all but loopback, established traffic and neighbour discovery.
fn input(ruleset: &Ruleset) -> Option<&Chain> {
    let chain = ruleset.chain(contract::CHAIN_INPUT)?;
    let base = chain.base?;
    let harmless = |rule: &Rule| match &rule.0[..] {
        [test, Expr::Accept] => match test {
            Expr::Iifname(name) => name == "lo",
            Expr::CtState(state) => is_established(state.0),
            Expr::Icmpv6Type(types) => types.iter().all(|t| (133..=137).contains(t)),
            _ => false,
        },
        _ => !accepts(rule),
    };
    (base.hook == Hook::Input
        && base.priority == 0
        && base.policy == Policy::Drop
        && chain.rules.iter().all(harmless))
    .then_some(chain)
}

/// Established or related, and nothing else.
fn is_established(state: u32) -> bool {
    state != 0 && state & !(2 | 4) == 0
}

fn accepts(rule: &Rule) -> bool {
    rule.0.contains(&Expr::Accept)
}

fn logs(rule: &Rule, prefix: &str) -> bool {
    rule.0.iter().any(|e| {
        matches!(e, Expr::Log { prefix: p, group }
            if p == prefix && *group == Some(contract::NFLOG_GROUP))
    })
}

/// Whether the rule decides on every packet that reaches it: statements only, no match.
fn is_bare(rule: &Rule) -> bool {
    rule.0.iter().all(|e| {
        matches!(
            e,
            Expr::Log { .. } | Expr::Counter { .. } | Expr::Accept | Expr::Drop | Expr::Reject(_)
        )
    })
}

fn is_loopback(rule: &Rule) -> bool {
    matches!(&rule.0[..], [Expr::Oifname(name), Expr::Accept] if name == "lo")
}

/// `reject with icmpx admin-prohibited`, as every refusal of ours.
const REFUSE: Expr = Expr::Reject(Reject::Icmpx(Icmpx::AdminProhibited));

/// How many of the published private ranges have their refusal.
enum Refusals {
    All,
    Some,
    None,
}

/// The parts of a table that its posture is read from.
struct Shield<'a> {
    ruleset: &'a Ruleset,
    output: &'a Chain,
}

impl Shield<'_> {
    fn policy(&self) -> Option<Policy> {
        self.output.base.map(|b| b.policy)
    }

    fn four_sets(&self) -> bool {
        [
            (set_name::ALLOW_V4, KeyType::Ipv4),
            (set_name::ALLOW_V6, KeyType::Ipv6),
            (set_name::DENY_V4, KeyType::Ipv4),
            (set_name::DENY_V6, KeyType::Ipv6),
        ]
        .into_iter()
        .all(|(name, key)| self.ruleset.set(name).is_some_and(|s| s.key == key))
    }

    /// No allow sets; loopback out; everything else logged and dropped.
    fn is_quarantine(&self) -> bool {
        let no_allow = [set_name::ALLOW_V4, set_name::ALLOW_V6]
            .iter()
            .all(|name| self.ruleset.set(name).is_none());
        let Some((last, others)) = self.output.rules.split_last() else {
            return false;
        };
        let closed_in = self.ruleset.chain(contract::CHAIN_INPUT).is_some_and(|c| {
            c.rules
                .iter()
                .all(|r| !accepts(r) || matches!(&r.0[..], [Expr::Iifname(_), Expr::Accept]))
        });
        no_allow
            && closed_in
            && self.policy() == Some(Policy::Drop)
            && is_bare(last)
            && logs(last, log_prefix::BLOCKED)
            && !accepts(last)
            && others.iter().all(|r| is_loopback(r) || !accepts(r))
    }

    /// Policy drop; the published private ranges refused; the last rule a bare log and refusal;
    /// and no rule before it that lets everything out.
    fn is_up(&self) -> bool {
        let Some((last, others)) = self.output.rules.split_last() else {
            return false;
        };
        let terminal = matches!(&last.0[..], [Expr::Log { .. }, refuse] if *refuse == REFUSE)
            && logs(last, log_prefix::BLOCKED);
        self.policy() == Some(Policy::Drop)
            && terminal
            && matches!(self.private_refusals(), Refusals::All)
            && self.deny_sets_refuse()
            && others.iter().all(|r| !accepts(r) || is_narrow(r))
    }

    /// Policy accept, and a bare log of what it lets out.
    fn is_bypass(&self) -> bool {
        let bypass = |r: &Rule| logs(r, log_prefix::BYPASS);
        self.policy() == Some(Policy::Accept) && self.output.rules.iter().any(bypass)
    }

    /// Each deny set has its refusal.
    fn deny_sets_refuse(&self) -> bool {
        [(false, set_name::DENY_V4), (true, set_name::DENY_V6)]
            .into_iter()
            .all(|(v6, set)| {
                let set = set.to_string();
                self.has_refusal(&Expr::DaddrSet { v6, set })
            })
    }

    /// Whether a rule refuses whatever `matching` matches, under no further condition.
    fn has_refusal(&self, matching: &Expr) -> bool {
        self.output.rules.iter().any(|r| {
            r.0.first() == Some(matching)
                && r.0.last() == Some(&REFUSE)
                && is_bare(&Rule(r.0[1..].to_vec()))
                && !accepts(r)
        })
    }

    fn private_refusals(&self) -> Refusals {
        let (mut some, mut all) = (false, true);
        for range in &contract::PRIVATE_RANGES[..contract::PUBLISHED_RANGES] {
            let refused = range
                .parse::<IpNet>()
                .is_ok_and(|net| self.has_refusal(&Expr::Daddr(net)));
            some |= refused;
            all &= refused;
        }
        match (some, all) {
            (_, true) => Refusals::All,
            (true, false) => Refusals::Some,
            (false, false) => Refusals::None,
        }
    }
}

/// Whether an accepting rule is bound to loopback, to connections that exist, to one destination
/// or a set of them, or to neighbour discovery.
fn is_narrow(rule: &Rule) -> bool {
    rule.0.iter().any(|e| match e {
        Expr::Oifname(name) => name == "lo",
        Expr::CtState(state) => is_established(state.0),
        Expr::Daddr(net) => net.is_host(),
        Expr::DaddrSet { .. } | Expr::ServiceSet { .. } => true,
        Expr::Icmpv6Type(types) => types.iter().all(|t| (133..=137).contains(t)),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::policy::{Inputs, Learning, Posture, compile};

    const POSTURES: [(Posture, State); 4] = [
        (Posture::Up, State::Up),
        (Posture::Down, State::Down),
        (Posture::Disengaged, State::Disengaged),
        (Posture::Quarantine, State::Quarantine),
    ];

    fn inputs(learning: Learning) -> Inputs {
        Inputs {
            learning,
            forwarder: Some("169.254.1.1".parse().unwrap()),
            loopback_ports: vec![8080, 9000],
            gateways: vec!["169.254.1.2".parse().unwrap()],
            ..Inputs::default()
        }
    }

    fn up(change: impl FnOnce(&mut Ruleset)) -> State {
        let mut ruleset = compile(Posture::Up, &inputs(Learning::Nobody));
        change(&mut ruleset);
        classify(&ruleset)
    }

    #[test]
    fn every_posture_that_we_write_is_recognised() {
        for learning in [Learning::Nobody, Learning::Dnsmasq, Learning::Gate] {
            for (posture, state) in POSTURES {
                let ruleset = compile(posture, &inputs(learning));
                assert_eq!(classify(&ruleset), state, "{posture} {learning:?}");
                assert_eq!(state.word(), posture.word());
            }
        }
    }

    #[test]
    fn the_older_order_is_recognised() {
        // Allow, deny, private, terminal deny; four sets.
        let older = up(|r| {
            let output = &mut r.chains[0].rules;
            let of_set = |rule: &Rule, name: &str| matches!(&rule.0[0], Expr::DaddrSet { set, .. } if set.starts_with(name));
            let allow: Vec<Rule> = output
                .iter()
                .filter(|r| of_set(r, "allow"))
                .cloned()
                .collect();
            output.retain(|r| {
                !of_set(r, "allow")
                    && !of_set(r, "override")
                    && !matches!(r.0[0], Expr::ServiceSet { .. })
            });
            let deny = output.iter().position(|r| of_set(r, "deny")).unwrap();
            output.splice(deny..deny, allow);
            r.sets
                .retain(|s| s.name.starts_with("allow") || s.name.starts_with("deny"));
        });
        assert_eq!(older, State::Up);
    }

    #[test]
    fn a_shield_with_a_hole_is_an_error() {
        let accept = Rule(vec![Expr::Accept]);
        type Change<'a> = &'a dyn Fn(&mut Ruleset);
        let holes: [(&str, Change<'_>); 14] = [
            ("policy accept", &|r| {
                r.chains[0].base.as_mut().unwrap().policy = Policy::Accept;
            }),
            ("input accepts", &|r| {
                r.chains[1].base.as_mut().unwrap().policy = Policy::Accept;
            }),
            ("accept in front", &|r| {
                r.chains[0].rules.insert(0, accept.clone());
            }),
            ("counted accept in front", &|r| {
                let counter = Expr::Counter {
                    packets: 0,
                    bytes: 0,
                };
                r.chains[0]
                    .rules
                    .insert(0, Rule(vec![counter, Expr::Accept]));
            }),
            ("new connections accepted", &|r| {
                let state = crate::nft::model::CtState::NEW;
                r.chains[0]
                    .rules
                    .insert(0, Rule(vec![Expr::CtState(state), Expr::Accept]));
            }),
            ("half the world accepted", &|r| {
                let half = Expr::Daddr("0.0.0.0/1".parse().unwrap());
                r.chains[0].rules.insert(0, Rule(vec![half, Expr::Accept]));
            }),
            ("accept at the end", &|r| {
                r.chains[0].rules.push(accept.clone())
            }),
            ("no terminal deny", &|r| drop(r.chains[0].rules.pop())),
            ("no rules", &|r| r.chains[0].rules.clear()),
            ("a private range missing", &|r| {
                let ten = Expr::Daddr("10.0.0.0/8".parse().unwrap());
                r.chains[0].rules.retain(|rule| rule.0[0] != ten);
            }),
            ("a set missing", &|r| r.sets.retain(|s| s.name != "deny_v6")),
            ("a third chain", &|r| {
                let mut third = r.chains[1].clone();
                third.name = "third".into();
                r.chains.push(third);
            }),
            ("another priority", &|r| {
                r.chains[0].base.as_mut().unwrap().priority = -1;
            }),
            ("input lets everything in", &|r| {
                r.chains[1].rules.push(accept.clone());
            }),
        ];
        for (what, change) in holes {
            assert_eq!(up(change), State::Error, "{what}");
        }
    }

    #[test]
    fn a_quarantine_that_lets_established_traffic_through_is_an_error() {
        let mut ruleset = compile(Posture::Quarantine, &Inputs::default());
        let state = crate::nft::model::CtState::ESTABLISHED;
        let established = Rule(vec![Expr::CtState(state), Expr::Accept]);
        ruleset.chains[0].rules.insert(1, established);
        assert_eq!(classify(&ruleset), State::Error);
    }
}
