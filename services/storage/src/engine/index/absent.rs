//! Ids that reference sets name and that are not here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use cstore_types::BlockId;

use crate::limits::MAX_ABSENT;

/// Reference counts of blocks that are not here. A block that is put takes its count with it, so
/// that one upload heals every file that needs the block.
#[derive(Debug, Default)]
pub(super) struct AbsentTable {
    counts: HashMap<BlockId, u32>,
    is_incomplete: bool,
}

impl AbsentTable {
    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    /// Returns true if there were more ids than the table takes. Their counts are lost until the
    /// next start.
    pub(super) fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Counts one more reference.
    pub(super) fn add(&mut self, id: BlockId) {
        let is_full = self.counts.len() >= MAX_ABSENT;
        match self.counts.entry(id) {
            Entry::Vacant(_) if is_full => self.is_incomplete = true,
            entry => {
                let count = entry.or_default();
                *count = count.saturating_add(1);
            }
        }
    }

    /// Counts one reference less.
    pub(super) fn drop_ref(&mut self, id: BlockId) {
        if let Entry::Occupied(mut entry) = self.counts.entry(id) {
            match entry.get_mut() {
                // The count sticks: it is not known any more.
                &mut u32::MAX => {}
                0 | 1 => drop(entry.remove()),
                count => *count -= 1,
            }
        }
    }

    /// Takes the count of a block that is here now.
    pub(super) fn take(&mut self, id: &BlockId) -> u32 {
        match self.counts.is_empty() {
            true => 0,
            false => self.counts.remove(id).unwrap_or(0),
        }
    }
}
