//! What has to happen to make one ruleset of another, and in which order it is harmless.

use super::batch::Batch;
use super::error::NetlinkError;
use super::same_rule;
use crate::ipnet::to_number;
use crate::nft::model::{Chain, Element, Expr, KeyType, Policy, Reject, Rule, Ruleset, Set};
use crate::sort::{sort, sort_by_key};
use std::cmp::Ordering;

/// Two lifetimes that differ by less are the same, milliseconds: deadlines are kept in whole
/// seconds, and time passes between reading and comparing.
const SAME_LIFE: u64 = 2_000;

/// Everything that has to happen, in terms of the transaction's messages.
pub struct Changes<'a> {
    sets: Vec<SetChange<'a>>,
    chains: Vec<ChainChange<'a>>,
}

/// Which changes go into a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// Sets that make the table refuse more.
    Narrowing,
    /// All but those.
    Rest,
    /// Sets, but for those that only go.
    Sets,
    /// Chains and rules, and the sets that only go.
    Rules,
}

/// In which transactions the changes are harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One.
    AtOnce,
    /// [`Part::Narrowing`], then [`Part::Rest`].
    NarrowFirst,
    /// A blackout, [`Part::Sets`], [`Part::Rules`].
    Blackout,
}

/// What the rules that look something up in a set do with the packets they find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Refuse them.
    Refuses,
    /// Let them through.
    Accepts,
    /// Both, or something that the rule alone does not tell.
    Mixed,
    /// There are none.
    Unused,
}

struct SetChange<'a> {
    name: &'a str,
    /// It is held, and no longer or otherwise meant.
    delete: bool,
    /// It is meant, and not or otherwise held.
    create: bool,
    held: Option<&'a Set>,
    meant: Option<&'a Set>,
    /// The table may refuse more packets once the set has changed.
    narrows: bool,
    /// It may let more through.
    widens: bool,
    remove: Vec<Element>,
    add: Vec<Element>,
}

struct ChainChange<'a> {
    name: &'a str,
    /// It is there.
    held: bool,
    /// Its rules go.
    flush: bool,
    /// It goes, after its rules.
    delete: bool,
    /// It is new, or its policy changes.
    declare: bool,
    /// Its rules come.
    rules: bool,
    /// Its policy changes in a transaction of its own.
    apart: bool,
    meant: Option<&'a Chain>,
}

impl<'a> Changes<'a> {
    /// What makes `held` into `meant`.
    pub fn between(held: &'a Ruleset, meant: &'a Ruleset, keep: &dyn Fn(&str) -> bool) -> Self {
        let gone = held.sets.iter().filter(|s| meant.set(&s.name).is_none());
        let mut sets: Vec<_> = gone.map(SetChange::gone).collect();
        sets.extend(
            meant
                .sets
                .iter()
                .map(|m| SetChange::between(held.set(&m.name), m, keep(&m.name))),
        );
        for set in &mut sets {
            let role = role(set.name, [held, meant]);
            (set.narrows, set.widens) = set.effect(role);
        }
        let gone = held.chains.iter();
        let gone = gone.filter(|c| meant.chain(&c.name).is_none());
        let mut chains: Vec<_> = gone
            .map(|c| ChainChange {
                name: &c.name,
                held: true,
                flush: true,
                delete: true,
                declare: false,
                rules: false,
                apart: false,
                meant: None,
            })
            .collect();
        chains.extend(meant.chains.iter().map(|m| {
            // Rules bind to a set, not to its name: they have to be made anew with it.
            let uses_new_set = |c: &Chain| {
                sets.iter()
                    .any(|s| s.delete && s.create && c.rules.iter().any(|r| looks_up(r, s.name)))
            };
            ChainChange::between((held, held.chain(&m.name)), (meant, m), uses_new_set)
        }));
        Self { sets, chains }
    }

    /// In which order nothing gets through that both old and new refuse.
    ///
    /// Since Linux 6.18, and for some kinds of sets always, the rules of a transaction come into
    /// force a moment before the elements of its sets, and one set before another: a packet meets
    /// new rules with a deny set as it was before. That is harmless where all changes refuse more
    /// than before, or all refuse less, or a single set changes.
    pub fn order(&self) -> Order {
        let rules = self.chains.iter().any(|c| c.rules || c.declare || c.delete);
        let count = |of: fn(&SetChange<'_>) -> bool| self.sets.iter().filter(|s| of(s)).count();
        let narrowing = count(|s| s.narrows);
        let widening = count(|s| s.widens);
        let both = count(|s| s.narrows && s.widens);
        if narrowing == 0 || (!rules && (widening == 0 || (narrowing, widening, both) == (1, 1, 1)))
        {
            Order::AtOnce
        } else if both == 0 && count(|s| s.narrows && s.delete) == 0 {
            Order::NarrowFirst
        } else {
            Order::Blackout
        }
    }

    /// Makes all rules anew, because a blackout took the old ones away.
    pub fn after_blackout(&mut self) {
        for chain in self.chains.iter_mut().filter(|c| c.meant.is_some()) {
            (chain.rules, chain.declare, chain.apart) = (true, true, false);
            chain.flush |= chain.held;
        }
    }

    /// Writes these changes into a transaction.
    pub fn write(
        &self,
        batch: &mut Batch<'_>,
        meant: &Ruleset,
        part: Part,
    ) -> Result<(), NetlinkError> {
        let with_chains = matches!(part, Part::All | Part::Rest | Part::Rules);
        for chain in self.chains.iter().filter(|c| c.flush && with_chains) {
            batch.flush_chain(chain.name)?;
        }
        for set in self.sets.iter().filter(|s| s.delete) {
            if set.is_in(part) {
                batch.delete_set(set.name)?;
            }
        }
        for chain in self.chains.iter().filter(|_| with_chains) {
            if chain.delete {
                batch.delete_chain(chain.name)?;
            }
            if let (true, Some(meant)) = (chain.declare, chain.meant) {
                batch.chain(meant, chain.apart.then_some(Policy::Drop))?;
            }
        }
        for set in self.sets.iter().filter(|s| s.is_in(part)) {
            set.write(batch)?;
        }
        for chain in self.chains.iter().filter(|c| c.rules && with_chains) {
            if let Some(chain) = chain.meant {
                batch.rules(chain, meant)?;
            }
        }
        Ok(())
    }

    /// Chains whose policy becomes `wanted` in a transaction of its own.
    pub fn relying_on_policy(&self, wanted: Policy) -> impl Iterator<Item = &'a Chain> {
        let apart = self.chains.iter().filter(|c| c.apart);
        let meant: Vec<&Chain> = apart.filter_map(|c| c.meant).collect();
        meant.into_iter().filter(move |c| policy(c) == Some(wanted))
    }
}

impl<'a> ChainChange<'a> {
    fn between(
        (in_held, held): (&'a Ruleset, Option<&'a Chain>),
        (in_meant, meant): (&'a Ruleset, &'a Chain),
        uses_new_set: impl Fn(&Chain) -> bool,
    ) -> Self {
        let mut change = ChainChange {
            name: &meant.name,
            held: held.is_some(),
            flush: false,
            delete: false,
            declare: true,
            rules: true,
            apart: false,
            meant: Some(meant),
        };
        let Some(held) = held else {
            return change;
        };
        let place = |c: &Chain| c.base.map(|b| (b.hook, b.priority));
        // A chain cannot move to another hook.
        change.delete = place(held) != place(meant);
        let same_rules = held.rules.len() == meant.rules.len()
            && held
                .rules
                .iter()
                .zip(&meant.rules)
                .all(|(h, m)| same_rule(h, in_held, m, in_meant));
        change.rules = change.delete || !same_rules || uses_new_set(held);
        change.flush = change.rules;
        change.declare = change.delete || held.base != meant.base;
        // Rules change with the generation, a policy a moment later: a packet can meet the rules
        // of before and the policy of after, or the other way round. That is harmless where the
        // rules decide on every packet themselves, as ours do. Where a chain relies on its policy
        // to refuse, it has to be there longer than the rules.
        let strict = if policy(held) == Some(Policy::Drop) {
            held
        } else {
            meant
        };
        change.apart = !change.delete && policy(held) != policy(meant) && !decides(strict);
        change
    }
}

fn policy(chain: &Chain) -> Option<Policy> {
    chain.base.map(|b| b.policy)
}

/// Whether the last rule decides on every packet that reaches it.
fn decides(chain: &Chain) -> bool {
    chain.rules.last().is_some_and(|rule| {
        let Some((verdict, others)) = rule.0.split_last() else {
            return false;
        };
        matches!(
            verdict,
            Expr::Accept | Expr::Drop | Expr::Reject(Reject::Icmpx(_))
        ) && others
            .iter()
            .all(|e| matches!(e, Expr::Log { .. } | Expr::Counter { .. }))
    })
}

impl<'a> SetChange<'a> {
    fn gone(held: &'a Set) -> Self {
        SetChange {
            name: &held.name,
            delete: true,
            create: false,
            held: Some(held),
            meant: None,
            narrows: false,
            widens: false,
            remove: Vec::new(),
            add: Vec::new(),
        }
    }

    fn between(held: Option<&'a Set>, meant: &'a Set, keep: bool) -> Self {
        let same = held.filter(|h| same_definition(h, meant));
        let mut change = SetChange {
            name: &meant.name,
            delete: held.is_some() && same.is_none(),
            create: same.is_none(),
            held,
            meant: Some(meant),
            narrows: false,
            widens: false,
            remove: Vec::new(),
            add: Vec::new(),
        };
        match same {
            Some(held) if !keep => (change.remove, change.add) = difference(held, meant),
            _ => {}
        }
        change
    }

    fn is_in(&self, part: Part) -> bool {
        match part {
            Part::All => true,
            Part::Narrowing => self.narrows,
            Part::Rest => !self.narrows,
            Part::Sets => self.meant.is_some(),
            Part::Rules => self.meant.is_none(),
        }
    }

    /// Whether the table may refuse more packets, or let more through, once the set has changed.
    fn effect(&self, role: Role) -> (bool, bool) {
        let Some(meant) = self.meant else {
            return (false, false); // rules that used it change too
        };
        let none = Vec::new();
        let held = self.held.map_or(&none, |h| &h.elements);
        let (gains, loses) = if self.delete || self.create {
            // Made anew: it is empty for a moment.
            (!meant.elements.is_empty(), !held.is_empty())
        } else {
            let all_in = |some: &[Element], all: &[Element]| match meant.key {
                KeyType::Ipv4 | KeyType::Ipv6 => covers(all, some),
                KeyType::Ipv4Service | KeyType::Ipv6Service => contains(all, some),
            };
            (
                !all_in(&self.add, held),
                !all_in(&self.remove, &meant.elements),
            )
        };
        match role {
            Role::Unused => (false, false),
            Role::Refuses => (gains, loses),
            Role::Accepts => (loses, gains),
            Role::Mixed => (gains || loses, gains || loses),
        }
    }

    fn write(&self, batch: &mut Batch<'_>) -> Result<(), NetlinkError> {
        let Some(meant) = self.meant else {
            return Ok(());
        };
        if self.create {
            batch.set(meant)?;
            batch.add(meant, &meant.elements, usize::MAX)?;
            return Ok(());
        }
        let (remove, add) = (&self.remove, &self.add);
        if meant.interval || meant.timeouts {
            // Adding first what is to be deleted makes sure that it is there, all of it: it may
            // have expired since it was listed, and nft leaves out the end of a range where the
            // next one begins.
            batch.add(meant, remove, usize::MAX)?;
        }
        batch.delete(meant, remove, usize::MAX)?;
        batch.add(meant, add, usize::MAX)?;
        Ok(())
    }
}

/// Whether every address of `some` is in an element of `all`, which are disjoint.
fn covers(all: &[Element], some: &[Element]) -> bool {
    if some.is_empty() {
        return true;
    }
    let range = |e: &Element| (to_number(e.first), to_number(e.last));
    let mut all: Vec<(u128, u128)> = all.iter().map(range).collect();
    sort(&mut all);
    // Neighbours together cover what spans them.
    all.dedup_by(|next, one| {
        let adjacent = next.0 <= one.1.saturating_add(1);
        if adjacent {
            one.1 = one.1.max(next.1);
        }
        adjacent
    });
    some.iter().map(range).all(|(first, last)| {
        let at = all.partition_point(|&(from, _)| from <= first);
        at.checked_sub(1).is_some_and(|i| all[i].1 >= last)
    })
}

/// Whether all of `some`, whatever their lifetimes, are elements of `all` too.
fn contains(all: &[Element], some: &[Element]) -> bool {
    let key = |e: &Element| (e.first, e.last, e.service);
    let mut all: Vec<_> = all.iter().map(key).collect();
    sort(&mut all);
    some.iter().all(|e| all.binary_search(&key(e)).is_ok())
}

/// What both rulesets do with packets they find in the set.
fn role(set: &str, rulesets: [&Ruleset; 2]) -> Role {
    let chains = rulesets.into_iter().flat_map(|r| &r.chains);
    let rules = chains.flat_map(|c| &c.rules).filter(|r| looks_up(r, set));
    let (mut refuses, mut accepts) = (false, false);
    for rule in rules {
        match rule.0.last() {
            Some(Expr::Accept) => accepts = true,
            Some(Expr::Drop | Expr::Reject(_)) => refuses = true,
            _ => return Role::Mixed,
        }
    }
    match (refuses, accepts) {
        (true, false) => Role::Refuses,
        (false, true) => Role::Accepts,
        (true, true) => Role::Mixed,
        (false, false) => Role::Unused,
    }
}

fn looks_up(rule: &Rule, set: &str) -> bool {
    rule.0.iter().any(|e| {
        matches!(e, Expr::DaddrSet { set: s, .. } | Expr::ServiceSet { set: s, .. } if s == set)
    })
}

/// Whether everything but the elements is equal.
pub fn same_definition(a: &Set, b: &Set) -> bool {
    let definition = |s: &Set| (s.key, s.interval, s.timeouts, s.default_timeout, s.size);
    definition(a) == definition(b)
}

/// What has to go from `held` and to come to make it `meant`.
fn difference(held: &Set, meant: &Set) -> (Vec<Element>, Vec<Element>) {
    let mut old: Vec<&Element> = held.elements.iter().collect();
    let mut new: Vec<&Element> = meant.elements.iter().collect();
    let key = |e: &&Element| (e.first, e.last, e.service);
    sort_by_key(&mut old, key);
    sort_by_key(&mut new, key);
    new.dedup_by_key(|e| key(e));
    let (mut remove, mut add) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return (remove, add),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(o), Some(n)) => key(o).cmp(&key(n)),
        };
        let was = if order.is_le() { old.next() } else { None };
        let will = if order.is_ge() { new.next() } else { None };
        if let (Some(was), Some(will)) = (was, will)
            && same_life(was, will, meant.default_timeout)
        {
            continue;
        }
        remove.extend(was.map(|e| Element {
            expires: None,
            ..*e
        }));
        add.extend(will);
    }
}

/// Whether what is left of a held element's life is what is meant.
fn same_life(held: &Element, meant: &Element, default: Option<u64>) -> bool {
    match (held.timeout, meant.timeout) {
        (None, None) => true,
        // Who adds such an element without a timeout of its own takes the set's, from whenever
        // it was last added; a held one with any timeout does as well.
        (Some(_), None) => default.is_some(),
        (_, Some(meant)) => {
            let left = held.expires.or(held.timeout);
            left.is_some_and(|left| left.abs_diff(meant) <= SAME_LIFE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipnet::IpNet;

    fn elements(nets: &[&str]) -> Vec<Element> {
        let net = |n: &&str| Element::from(n.parse::<IpNet>().unwrap());
        nets.iter().map(net).collect()
    }

    #[test]
    fn neighbours_cover_what_spans_them() {
        let all = elements(&[
            "10.0.0.0/25",
            "10.0.0.128/25",
            "192.0.2.1",
            "255.255.255.255",
        ]);
        for (nets, covered) in [
            (&["10.0.0.0/24"][..], true),
            (&["10.0.0.64/26", "192.0.2.1"], true),
            (&["255.255.255.255"], true),
            (&[], true),
            (&["10.0.0.0/23"], false),
            (&["9.255.255.255"], false),
            (&["192.0.2.1", "192.0.2.2"], false),
        ] {
            assert_eq!(covers(&all, &elements(nets)), covered, "{nets:?}");
        }
        assert!(!covers(&[], &elements(&["1.1.1.1"])));
    }
}
