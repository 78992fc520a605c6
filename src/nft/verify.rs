//! Whether the kernel holds what was meant; and, re-exported here, which posture that is.

pub use super::classify::{State, classify};
use crate::nft::kernel::{same_definition, same_rule};
use crate::nft::model::{Base, Chain, Element, Ruleset, Set};
use std::fmt;

/// The first thing that is not as meant, in words: `set allow_v4 lacks 192.0.2.1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference(pub String);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Difference {}

impl From<Difference> for crate::error::Error {
    fn from(d: Difference) -> Self {
        Self::new(format!("the kernel does not hold what was meant: {d}"))
    }
}

/// Two timeouts this close are equal, milliseconds: the kernel counts in ticks of at most 10.
const TICK: u64 = 20;

fn differ<T>(what: String) -> Result<T, Difference> {
    Err(Difference(what))
}

/// Whether `held`, read back from the kernel, is `meant`: the same program on the same elements,
/// whatever their order, the age of an element or what counters have counted. Sets for which
/// `learned` is true may hold any further elements, since somebody adds them at run time.
///
/// # Errors
/// The first difference.
pub fn equal(
    meant: &Ruleset,
    held: &Ruleset,
    learned: &dyn Fn(&str) -> bool,
) -> Result<(), Difference> {
    if (meant.family, &meant.table) != (held.family, &held.table) {
        return differ(format!("it is table {}, not {}", held.table, meant.table));
    }
    for set in &held.sets {
        if meant.set(&set.name).is_none() {
            return differ(format!("set {} is there, unmeant", set.name));
        }
    }
    for set in &meant.sets {
        match held.set(&set.name) {
            None => return differ(format!("set {} is missing", set.name)),
            Some(held) => equal_set(set, held, learned(&set.name))?,
        }
    }
    for chain in &held.chains {
        if meant.chain(&chain.name).is_none() {
            return differ(format!("chain {} is there, unmeant", chain.name));
        }
    }
    for chain in &meant.chains {
        match held.chain(&chain.name) {
            None => return differ(format!("chain {} is missing", chain.name)),
            Some(held_chain) => equal_chain((meant, chain), (held, held_chain))?,
        }
    }
    Ok(())
}

fn equal_chain(
    (in_meant, meant): (&Ruleset, &Chain),
    (in_held, held): (&Ruleset, &Chain),
) -> Result<(), Difference> {
    let name = &meant.name;
    if meant.base != held.base {
        return differ(format!(
            "chain {name} has {}, not {}",
            describe(held.base),
            describe(meant.base)
        ));
    }
    for (n, (m, h)) in meant.rules.iter().zip(&held.rules).enumerate() {
        if !same_rule(m, in_meant, h, in_held) {
            return differ(format!("rule {} of chain {name} is another one", n + 1));
        }
    }
    if meant.rules.len() != held.rules.len() {
        return differ(format!(
            "chain {name} has {} rules, not {}",
            held.rules.len(),
            meant.rules.len()
        ));
    }
    Ok(())
}

fn describe(base: Option<Base>) -> String {
    match base {
        None => "no hook".into(),
        Some(b) => format!(
            "hook {:?}, priority {}, policy {:?}",
            b.hook, b.priority, b.policy
        ),
    }
}

fn define(set: &Set) -> String {
    let flag = |is, word| if is { word } else { "" };
    format!(
        "{:?}{}{}, default timeout {:?} ms, size {:?}",
        set.key,
        flag(set.interval, " interval"),
        flag(set.timeouts, " timeout"),
        set.default_timeout,
        set.size
    )
}

fn equal_set(meant: &Set, held: &Set, learned: bool) -> Result<(), Difference> {
    let name = &meant.name;
    if !same_definition(meant, held) {
        return differ(format!(
            "set {name} is {}, not {}",
            define(held),
            define(meant)
        ));
    }
    // Indices instead of elements: a hundred thousand of them are not copied for a comparison.
    let (m, h) = (sorted(&meant.elements), sorted(&held.elements));
    let mut held_at = h.iter().map(|&i| &held.elements[i as usize]).peekable();
    let mut last = None;
    for &i in &m {
        let element = &meant.elements[i as usize];
        // Written twice, the kernel holds it once.
        if last == Some(key(element)) {
            continue;
        }
        last = Some(key(element));
        while let Some(extra) = held_at.next_if(|e| key(e) < key(element)) {
            if !learned {
                return differ(format!("set {name} holds {}, unmeant", show(extra)));
            }
        }
        match held_at.next_if(|e| key(e) == key(element)) {
            None => return differ(format!("set {name} lacks {}", show(element))),
            // Who learns an address again gives it a new lifetime.
            Some(held) if !learned && !same_timeout(element, held, meant) => {
                return differ(format!(
                    "set {name} holds {} with another timeout",
                    show(element)
                ));
            }
            Some(_) => {}
        }
    }
    match held_at.next() {
        Some(extra) if !learned => differ(format!("set {name} holds {}, unmeant", show(extra))),
        _ => Ok(()),
    }
}

type Key = (std::net::IpAddr, std::net::IpAddr, Option<(u8, u16)>);

fn key(e: &Element) -> Key {
    (e.first, e.last, e.service)
}

fn sorted(elements: &[Element]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..elements.len() as u32).collect();
    // Sorted runs, which both sides usually are, cost one pass.
    crate::sort::sort_by(&mut order, |&a, &b| {
        key(&elements[a as usize]).cmp(&key(&elements[b as usize]))
    });
    order
}

fn same_timeout(meant: &Element, held: &Element, set: &Set) -> bool {
    let effective = |e: &Element| e.timeout.or(set.default_timeout);
    match (effective(meant), effective(held)) {
        (None, None) => true,
        (Some(a), Some(b)) => a.abs_diff(b) <= TICK,
        _ => false,
    }
}

fn show(e: &Element) -> String {
    let mut text = e.first.to_string();
    if e.first != e.last {
        text = format!("{text}-{}", e.last);
    }
    if let Some((protocol, port)) = e.service {
        text = format!("{text} protocol {protocol} port {port}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::intervals::Grant;
    use crate::nft::model::{Expr, Policy, Rule};
    use crate::nft::policy::{Inputs, Posture, compile};

    fn meant() -> Ruleset {
        let grant = |s: &str| Grant {
            net: s.parse().unwrap(),
            remaining: None,
        };
        let allow = ["192.0.2.1", "192.0.2.128/25", "2001:db8::/32"];
        let inputs = Inputs {
            allow: allow.map(grant).into(),
            ..Inputs::default()
        };
        compile(Posture::Up, &inputs)
    }

    fn first_difference(change: impl FnOnce(&mut Ruleset)) -> String {
        let mut held = meant();
        change(&mut held);
        equal(&meant(), &held, &|_| false).unwrap_err().to_string()
    }

    fn allow(r: &mut Ruleset) -> &mut Set {
        r.sets.iter_mut().find(|s| s.name == "allow_v4").unwrap()
    }

    #[test]
    fn order_age_and_repetition_of_elements_do_not_matter() {
        let mut held = meant();
        allow(&mut held).elements.reverse();
        for set in &mut held.sets {
            for element in &mut set.elements {
                element.expires = Some(1);
            }
        }
        assert_eq!(equal(&meant(), &held, &|_| false), Ok(()));
        let mut twice = meant();
        let first = allow(&mut twice).elements[0];
        allow(&mut twice).elements.push(first);
        assert_eq!(equal(&twice, &held, &|_| false), Ok(()));
    }

    #[test]
    fn the_first_difference_is_named() {
        let lacks = first_difference(|r| {
            allow(r).elements.remove(0);
        });
        assert_eq!(lacks, "set allow_v4 lacks 192.0.2.1");
        let extra: Element = Element::range("1.1.1.1".parse().unwrap(), "1.1.1.2".parse().unwrap());
        let holds = first_difference(|r| allow(r).elements.push(extra));
        assert_eq!(holds, "set allow_v4 holds 1.1.1.1-1.1.1.2, unmeant");
        let timeout = first_difference(|r| allow(r).elements[0].timeout = Some(60_000));
        assert_eq!(timeout, "set allow_v4 holds 192.0.2.1 with another timeout");
        let defined = first_difference(|r| allow(r).interval = false);
        assert_eq!(
            defined,
            "set allow_v4 is Ipv4 timeout, default timeout None ms, size None, \
             not Ipv4 interval timeout, default timeout None ms, size None"
        );
        let missing = first_difference(|r| drop(r.sets.remove(0)));
        assert_eq!(missing, "set allow_v4 is missing");
        let rule = first_difference(|r| r.chains[0].rules[1] = Rule(vec![Expr::Accept]));
        assert_eq!(rule, "rule 2 of chain output is another one");
        let rules = first_difference(|r| r.chains[1].rules.push(Rule(vec![Expr::Accept])));
        assert_eq!(rules, "chain input has 4 rules, not 3");
        let policy = first_difference(|r| {
            r.chains[0].base.as_mut().unwrap().policy = Policy::Accept;
        });
        assert_eq!(
            policy,
            "chain output has hook Output, priority 0, policy Accept, not hook Output, \
             priority 0, policy Drop"
        );
        let chain = first_difference(|r| r.chains[1].name = "in".into());
        assert_eq!(chain, "chain in is there, unmeant");
    }

    #[test]
    fn a_learned_set_may_hold_more_but_never_less() {
        let mut held = meant();
        let extra = Element::range("9.9.9.9".parse().unwrap(), "9.9.9.9".parse().unwrap());
        allow(&mut held).elements.push(extra);
        let learned = |name: &str| name == "allow_v4";
        assert_eq!(equal(&meant(), &held, &learned), Ok(()));
        allow(&mut held).elements.remove(0);
        assert!(equal(&meant(), &held, &learned).is_err());
    }
}
