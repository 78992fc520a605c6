//! From what the kernel holds to what is meant, in one transaction.

use super::batch::Finished;
use super::changes::{Changes, Order, Part, same_definition};
use super::error::NetlinkError;
use super::send::await_packets_under_way;
use super::{Detail, Nft};
use crate::nft::model::{Chain, Policy, Ruleset};
use nix::errno::Errno;

impl Nft {
    /// Turns `held`, which the kernel holds, into `meant`, in one transaction: a packet that both
    /// refuse never gets through, one that both allow by the same sets is never dropped, and a
    /// failure changes nothing. Flows and counters of chains whose rules stay are not touched.
    ///
    /// Elements of a set for which `keep` is true are left as they are while the set's
    /// definition stays; of other sets, those that are not meant go. A timeout in `meant` is the
    /// life an element has from now on.
    ///
    /// In these cases one transaction would let packets through, or cannot be:
    /// - A chain relies on its policy to refuse, having no last rule for everything: its policy
    ///   becomes drop in a transaction before, or accept in one behind. Our chains have the rule.
    /// - Some changes refuse more than before while others refuse less, as new rules together
    ///   with new denies: the former go first. Where one set changes in both ways, everything is
    ///   dropped while the sets change.
    /// - The transaction is larger than the kernel admits here: everything is dropped while the
    ///   table is loaded anew, in stages.
    ///
    /// A failure between two transactions leaves what is stricter than `held`.
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
        let mut changes = Changes::between(held, meant, keep);
        let Some(finished) = self.build(&changes, meant, Part::All)? else {
            return Ok(());
        };
        let size = finished.bytes.len();
        let room = self.socket.room_for(size);
        if size > room {
            self.spare = finished.bytes;
            self.close(held)?;
            return self.replace_in_stages(&with_kept(held, meant, keep), room, true);
        }
        let finished = match changes.order() {
            Order::AtOnce => finished,
            Order::NarrowFirst => {
                self.spare = finished.bytes;
                self.commit_parts(&changes, meant, &[Part::Narrowing])?;
                match self.build(&changes, meant, Part::Rest)? {
                    Some(rest) => rest,
                    None => return Ok(()),
                }
            }
            Order::Blackout => {
                self.spare = finished.bytes;
                self.close(held)?;
                changes.after_blackout();
                return self.commit_parts(&changes, meant, &[Part::Sets, Part::Rules]);
            }
        };
        let relying = |wanted| changes.relying_on_policy(wanted);
        self.set_policies(held, relying(Policy::Drop), Policy::Drop)?;
        match self.commit(finished) {
            Ok(()) => {
                if relying(Policy::Accept).next().is_some() {
                    await_packets_under_way();
                }
                self.set_policies(held, relying(Policy::Accept), Policy::Accept)
            }
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
            Err(e) => Err(e),
        }
    }

    /// Commits parts, one by one, each when no packet is under way that the one before concerns.
    fn commit_parts(
        &mut self,
        changes: &Changes<'_>,
        meant: &Ruleset,
        parts: &[Part],
    ) -> Result<(), NetlinkError> {
        for &part in parts {
            if let Some(finished) = self.build(changes, meant, part)? {
                self.commit(finished)?;
                await_packets_under_way();
            }
        }
        Ok(())
    }

    /// Drops everything, before [`Nft::replace`] takes the rules away from under packets.
    fn close(&mut self, held: &Ruleset) -> Result<(), NetlinkError> {
        let mut batch = self.begin(held.family, &held.table, 0)?;
        for chain in &held.chains {
            batch.flush_chain(&chain.name)?;
            if chain.base.is_some() {
                batch.chain(chain, Some(Policy::Drop))?;
                batch.blackout(&chain.name)?;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let finished = batch.finish();
        self.commit(finished)
    }

    /// Sets nothing but the policies of these chains.
    fn set_policies<'a>(
        &mut self,
        held: &Ruleset,
        chains: impl Iterator<Item = &'a Chain>,
        policy: Policy,
    ) -> Result<(), NetlinkError> {
        let mut batch = self.begin(held.family, &held.table, 0)?;
        for chain in chains {
            batch.chain(chain, Some(policy))?;
        }
        if batch.is_empty() {
            return Ok(());
        }
        let finished = batch.finish();
        self.commit(finished)
    }

    /// The transaction of one part of these changes; `None` if there are none.
    fn build(
        &mut self,
        changes: &Changes<'_>,
        meant: &Ruleset,
        part: Part,
    ) -> Result<Option<Finished>, NetlinkError> {
        let mut batch = self.begin(meant.family, &meant.table, 4096)?;
        changes.write(&mut batch, meant, part)?;
        Ok((!batch.is_empty()).then(|| batch.finish()))
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
