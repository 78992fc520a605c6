//! From what the kernel holds to what is meant, in one transaction.

use super::batch::{Batch, Finished};
use super::error::NetlinkError;
use super::{Detail, Nft, same_rule};
use crate::nft::model::{Chain, Element, Ruleset, Set};
use nix::errno::Errno;
use std::cmp::Ordering;

/// Two lifetimes that differ by less are the same, milliseconds: deadlines are kept in whole
/// seconds, and time passes between reading and comparing.
const SAME_LIFE: u64 = 2_000;

impl Nft {
    /// Turns `held`, which the kernel holds, into `meant`, in one transaction: every packet
    /// meets either the one or the other, and a failure changes nothing. Flows and counters of
    /// chains whose rules stay are not touched.
    ///
    /// Elements of a set for which `keep` is true are left as they are while the set's
    /// definition stays; of other sets, those that are not meant go. A timeout in `meant` is the
    /// life an element has from now on.
    ///
    /// Where the kernel does not admit a message of that size, it goes the way of
    /// [`Nft::replace`], which drops everything for that while.
    ///
    /// # Errors
    /// [`NetlinkError::Rejected`] also where the table is no longer what `held` says.
    pub fn transition(
        &mut self,
        held: &Ruleset,
        meant: &Ruleset,
        keep: &dyn Fn(&str) -> bool,
    ) -> Result<(), NetlinkError> {
        if (held.family, &held.table) != (meant.family, &meant.table) {
            return self.replace(meant);
        }
        let changes = Changes::between(held, meant, keep);
        let Some(finished) = self.build(&changes, meant)? else {
            return Ok(());
        };
        let size = finished.bytes.len();
        if size > self.socket.room_for(size) {
            self.spare = finished.bytes;
            return self.replace(&with_kept(held, meant, keep));
        }
        match self.commit(finished) {
            Err(NetlinkError::Rejected {
                errno: Errno::ENOENT,
                what,
            }) => {
                // The whole table may have gone since: then there is nothing to keep either.
                match self.dump(meant.family, &meant.table, Detail::NoElements) {
                    Ok(None) => self.replace(meant),
                    _ => Err(NetlinkError::Rejected {
                        errno: Errno::ENOENT,
                        what,
                    }),
                }
            }
            result => result,
        }
    }

    /// The transaction of these changes; `None` if there are none.
    fn build(
        &mut self,
        changes: &Changes<'_>,
        meant: &Ruleset,
    ) -> Result<Option<Finished>, NetlinkError> {
        let mut batch = self.begin(meant.family, &meant.table, 4096)?;
        for chain in &changes.chains {
            if chain.flush {
                batch.flush_chain(chain.name)?;
            }
        }
        for set in changes.sets.iter().filter(|s| s.delete) {
            batch.delete_set(set.name)?;
        }
        for chain in &changes.chains {
            if chain.delete {
                batch.delete_chain(chain.name)?;
            }
            if let (true, Some(chain)) = (chain.declare, chain.meant) {
                batch.chain(chain, None)?;
            }
        }
        for change in &changes.sets {
            change.write(&mut batch)?;
        }
        for chain in changes.chains.iter().filter(|c| c.rules) {
            if let Some(chain) = chain.meant {
                batch.rules(chain, meant)?;
            }
        }
        Ok((!batch.is_empty()).then(|| batch.finish()))
    }
}

/// Everything that has to happen, in terms of the transaction's messages.
struct Changes<'a> {
    sets: Vec<SetChange<'a>>,
    chains: Vec<ChainChange<'a>>,
}

struct SetChange<'a> {
    name: &'a str,
    /// It is held, and no longer or otherwise meant.
    delete: bool,
    /// It is meant, and not or otherwise held.
    create: bool,
    meant: Option<&'a Set>,
    remove: Vec<Element>,
    add: Vec<Element>,
}

struct ChainChange<'a> {
    name: &'a str,
    /// Its rules go.
    flush: bool,
    /// It goes, after its rules.
    delete: bool,
    /// It is new, or its policy changes.
    declare: bool,
    /// Its rules come.
    rules: bool,
    meant: Option<&'a Chain>,
}

impl<'a> Changes<'a> {
    fn between(held: &'a Ruleset, meant: &'a Ruleset, keep: &dyn Fn(&str) -> bool) -> Self {
        let gone = held.sets.iter().filter(|s| meant.set(&s.name).is_none());
        let mut sets: Vec<_> = gone.map(SetChange::gone).collect();
        sets.extend(
            meant
                .sets
                .iter()
                .map(|m| SetChange::between(held.set(&m.name), m, keep(&m.name))),
        );
        let gone = held.chains.iter();
        let gone = gone.filter(|c| meant.chain(&c.name).is_none());
        let mut chains: Vec<_> = gone
            .map(|c| ChainChange {
                name: &c.name,
                flush: true,
                delete: true,
                declare: false,
                rules: false,
                meant: None,
            })
            .collect();
        chains.extend(meant.chains.iter().map(|m| {
            // Rules bind to a set, not to its name: they have to be made anew with it.
            let uses_new_set =
                |c: &Chain| sets.iter().any(|s| s.delete && s.create && uses(c, s.name));
            ChainChange::between((held, held.chain(&m.name)), (meant, m), uses_new_set)
        }));
        Self { sets, chains }
    }
}

/// Whether a rule of the chain looks something up in the set.
fn uses(chain: &Chain, set: &str) -> bool {
    use crate::nft::model::Expr::{DaddrSet, ServiceSet};
    chain
        .rules
        .iter()
        .flat_map(|r| &r.0)
        .any(|e| matches!(e, DaddrSet { set: s, .. } | ServiceSet { set: s, .. } if s == set))
}

impl<'a> ChainChange<'a> {
    fn between(
        (in_held, held): (&'a Ruleset, Option<&'a Chain>),
        (in_meant, meant): (&'a Ruleset, &'a Chain),
        uses_new_set: impl Fn(&Chain) -> bool,
    ) -> Self {
        let mut change = ChainChange {
            name: &meant.name,
            flush: false,
            delete: false,
            declare: true,
            rules: true,
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
        change
    }
}

impl<'a> SetChange<'a> {
    fn gone(held: &'a Set) -> Self {
        SetChange {
            name: &held.name,
            delete: true,
            create: false,
            meant: None,
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
            meant: Some(meant),
            remove: Vec::new(),
            add: Vec::new(),
        };
        match same {
            Some(held) if !keep => (change.remove, change.add) = difference(held, meant),
            _ => {}
        }
        change
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
        if meant.interval || meant.timeouts {
            // Adding first what is to be deleted makes sure that it is there, all of it: it may
            // have expired since it was listed, and nft leaves out the end of a range where the
            // next one begins.
            batch.add(meant, &self.remove, usize::MAX)?;
        }
        batch.delete(meant, &self.remove, usize::MAX)?;
        batch.add(meant, &self.add, usize::MAX)?;
        Ok(())
    }
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
    crate::sort::sort_by_key(&mut old, key);
    crate::sort::sort_by_key(&mut new, key);
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

/// `meant` with the elements that are to be kept.
fn with_kept(held: &Ruleset, meant: &Ruleset, keep: &dyn Fn(&str) -> bool) -> Ruleset {
    let mut meant = meant.clone();
    for set in meant.sets.iter_mut().filter(|s| keep(&s.name)) {
        if let Some(held) = held.set(&set.name)
            && same_definition(held, set)
        {
            set.elements.clone_from(&held.elements);
        }
    }
    meant
}
