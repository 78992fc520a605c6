//! Whole rulesets to the kernel.

use super::batch::{Batch, Finished};
use super::error::NetlinkError;
use super::{Nft, element};
use crate::nft::model::{Family, Policy, Ruleset, Set};

impl Nft {
    /// Replaces the table, or adds it, by exactly this ruleset, in one transaction: a failure
    /// changes nothing.
    ///
    /// This is for a namespace whose workload does not run yet, or whose table is unknown. A
    /// packet on its way while old chains give way to new ones meets the policies of either,
    /// without their rules: it may be dropped where both allow it, and get through where an old
    /// policy accepts. [`Nft::transition`] keeps the chains, and lets nothing through.
    ///
    /// Where the kernel does not admit a message of that size (a rootless namespace: twice
    /// `net.core.wmem_max`), it is staged and closed at every step: first a table that drops
    /// everything and whose sets are empty, then the elements, then all rules and policies at
    /// once. A failure then leaves a table that drops everything.
    ///
    /// # Errors
    /// Any [`NetlinkError`] but `Foreign`, `Unsteady`.
    pub fn replace(&mut self, ruleset: &Ruleset) -> Result<(), NetlinkError> {
        // Deleting a table costs whoever closes the socket an RCU grace period, some 10 ms, so
        // the deletion that makes a replacement atomic is left out where there is nothing to
        // replace. Should a table appear meanwhile, the kernel refuses the batch.
        let old = self.exists(ruleset.family, &ruleset.table)?;
        let mut batch = self.begin(ruleset.family, &ruleset.table, estimate(ruleset))?;
        table(&mut batch, old)?;
        for set in &ruleset.sets {
            batch.set(set)?;
            batch.add(set, &set.elements, usize::MAX)?;
        }
        // Late: the kernel hooks a new base chain, still without rules, as soon as it reads of it.
        for chain in &ruleset.chains {
            batch.chain(chain, None)?;
        }
        for chain in &ruleset.chains {
            batch.rules(chain, ruleset)?;
        }
        let finished = batch.finish();
        let room = self.socket.room_for(finished.bytes.len());
        if finished.bytes.len() <= room {
            return self.commit(finished);
        }
        self.spare = finished.bytes;
        self.replace_in_stages(ruleset, room, old)
    }

    /// As [`Nft::replace`], in stages, closed at each of them.
    pub(super) fn replace_in_stages(
        &mut self,
        ruleset: &Ruleset,
        room: usize,
        old: bool,
    ) -> Result<(), NetlinkError> {
        let mut batch = self.begin(ruleset.family, &ruleset.table, room)?;
        table(&mut batch, old)?;
        for chain in &ruleset.chains {
            batch.chain(chain, Some(Policy::Drop))?;
            if chain.base.is_some() {
                batch.blackout(&chain.name)?;
            }
        }
        for set in &ruleset.sets {
            batch.set(set)?;
        }
        let finished = batch.finish();
        self.commit_within(finished, room)?;
        for set in &ruleset.sets {
            self.add_in_stages(ruleset, set, room)?;
        }
        await_packets_under_way();
        let mut batch = self.begin(ruleset.family, &ruleset.table, room)?;
        for chain in &ruleset.chains {
            if chain.base.is_some() {
                batch.flush_chain(&chain.name)?;
                batch.chain(chain, None)?;
            }
            batch.rules(chain, ruleset)?;
        }
        if batch.is_empty() {
            return Ok(());
        }
        let finished = batch.finish();
        self.commit_within(finished, room)
    }

    /// Adds all elements of a set, in as many transactions as it takes.
    pub(super) fn add_in_stages(
        &mut self,
        ruleset: &Ruleset,
        set: &Set,
        room: usize,
    ) -> Result<(), NetlinkError> {
        let mut rest = &set.elements[..];
        while !rest.is_empty() {
            let mut batch = self.begin(ruleset.family, &ruleset.table, room)?;
            let done = batch.add(set, rest, room)?;
            if done == 0 {
                return Err(NetlinkError::TooLarge {
                    needed: element::SMALLEST_MESSAGE,
                    allowed: room,
                });
            }
            rest = &rest[done..];
            let finished = batch.finish();
            self.commit(finished)?;
        }
        Ok(())
    }

    /// Begins a transaction of about `size` bytes.
    pub(super) fn begin<'a>(
        &'a mut self,
        family: Family,
        table: &'a str,
        size: usize,
    ) -> Result<Batch<'a>, NetlinkError> {
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.clear();
        buffer.reserve(size);
        let seq = self.socket.next_seq();
        Batch::new(&mut self.builder, buffer, seq, family, table)
    }

    /// Sends a transaction if it is small enough.
    pub(super) fn commit_within(
        &mut self,
        finished: Finished,
        room: usize,
    ) -> Result<(), NetlinkError> {
        if finished.bytes.len() > room {
            return Err(NetlinkError::TooLarge {
                needed: finished.bytes.len(),
                allowed: room,
            });
        }
        self.commit(finished)
    }

    /// Sends a transaction.
    pub(super) fn commit(&mut self, finished: Finished) -> Result<(), NetlinkError> {
        self.socket.take_seq(finished.about.len());
        self.socket.room_for(finished.bytes.len());
        let result = self.socket.transact(&finished);
        // A large buffer is given back at once: the read-back that follows needs the memory.
        if finished.bytes.capacity() <= KEEP {
            self.spare = finished.bytes;
        }
        result
    }
}

/// Largest buffer that is kept between transactions.
const KEEP: usize = 64 * 1024;

/// The table anew, in place of an `old` one if there is one.
fn table(batch: &mut Batch<'_>, old: bool) -> Result<(), NetlinkError> {
    if old {
        batch.drop_table()?;
        batch.table()
    } else {
        batch.new_table()
    }
}

/// Waits until no packet is under way that has met chains or rules as they were before.
///
/// The kernel walks rules inside RCU read-side sections, and preempts them: a packet can meet the
/// empty chain of one transaction and the policy of a later one. membarrier(2) with
/// `MEMBARRIER_CMD_GLOBAL` waits for all such sections that are open now.
pub(super) fn await_packets_under_way() {
    use rustix::thread::{MembarrierCommand, membarrier};
    if membarrier(MembarrierCommand::Global).is_err() {
        // Kernels with isolated processors have no such call. Longer than any packet is preempted.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Bytes a transaction will take, so that a large one's buffer is not copied as it grows.
fn estimate(ruleset: &Ruleset) -> usize {
    let elements: usize = ruleset.sets.iter().map(|s| s.elements.len()).sum();
    let rules: usize = ruleset.chains.iter().map(|c| c.rules.len()).sum();
    4096 + rules * 512 + elements * 48
}
