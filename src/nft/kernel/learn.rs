//! Single elements, for those who learn addresses while the container runs.

use super::Nft;
use super::error::NetlinkError;
use crate::nft::model::{Element, Family, Set};
use nix::errno::Errno;

impl Nft {
    /// Puts elements into a set, all or none, and returns once the kernel has them: the next
    /// packet finds them. An element that is there already lives anew for its full timeout.
    /// Of `set` only the definition counts.
    ///
    /// # Errors
    /// [`NetlinkError::Rejected`] with `ENFILE` if the set is full, `EEXIST` if an element
    /// overlaps a different range, `ENOENT` if there is no such set.
    pub fn learn(
        &mut self,
        family: Family,
        table: &str,
        set: &Set,
        elements: &[Element],
    ) -> Result<(), NetlinkError> {
        if elements.is_empty() {
            return Ok(());
        }
        let mut batch = self.begin(family, table, 0)?;
        // Adding what is there changes nothing before Linux 6.12, deleting what is not there
        // fails. This way each step finds what it needs, on every kernel.
        batch.add(set, elements, usize::MAX)?;
        batch.delete(set, elements, usize::MAX)?;
        batch.add(set, elements, usize::MAX)?;
        let finished = batch.finish();
        self.commit(finished)
    }

    /// Takes elements out of a set; those that are not in it are no error. Of `set` only the
    /// definition counts.
    ///
    /// # Errors
    /// Any refusal but that an element is not there. Elements before the refused one are gone.
    pub fn forget(
        &mut self,
        family: Family,
        table: &str,
        set: &Set,
        elements: &[Element],
    ) -> Result<(), NetlinkError> {
        if elements.is_empty() {
            return Ok(());
        }
        match self.delete(family, table, set, elements) {
            // One of them is not there, and so none has been deleted.
            Err(NetlinkError::Rejected {
                errno: Errno::ENOENT,
                ..
            }) => {}
            result => return result,
        }
        for element in elements {
            match self.delete(family, table, set, std::slice::from_ref(element)) {
                Ok(())
                | Err(NetlinkError::Rejected {
                    errno: Errno::ENOENT,
                    ..
                }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn delete(
        &mut self,
        family: Family,
        table: &str,
        set: &Set,
        elements: &[Element],
    ) -> Result<(), NetlinkError> {
        let mut batch = self.begin(family, table, 0)?;
        if set.interval {
            // nft leaves out the end of a range where the next one begins; without it, deleting
            // would find the range absent and leave it there.
            batch.add(set, elements, usize::MAX)?;
        }
        batch.delete(set, elements, usize::MAX)?;
        let finished = batch.finish();
        self.commit(finished)
    }
}
