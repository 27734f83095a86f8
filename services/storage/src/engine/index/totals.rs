//! Live totals of the store. Counters saturate: a wrong total must not stop the node.

use super::blocks::Block;
use super::records::{RefSet, SET_KEY, record_overhead};

/// Live totals, kept up to date with every change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Distinct blocks that a reference set holds.
    pub blocks: u64,
    /// Their payload bytes.
    pub unique_bytes: u64,
    /// Their payload with directory entries, and the reference sets.
    pub physical_bytes: u64,
}

impl Totals {
    pub(super) fn add_block(&mut self, block: &Block) {
        self.blocks = self.blocks.saturating_add(1);
        self.unique_bytes = self.unique_bytes.saturating_add(block.location.len.into());
        self.physical_bytes = self.physical_bytes.saturating_add(block.footprint());
    }

    pub(super) fn remove_block(&mut self, block: &Block) {
        self.blocks = self.blocks.saturating_sub(1);
        self.unique_bytes = self.unique_bytes.saturating_sub(block.location.len.into());
        self.physical_bytes = self.physical_bytes.saturating_sub(block.footprint());
    }

    pub(super) fn add_set(&mut self, set: &RefSet) {
        self.physical_bytes = self.physical_bytes.saturating_add(footprint(set));
    }

    pub(super) fn remove_set(&mut self, set: &RefSet) {
        self.physical_bytes = self.physical_bytes.saturating_sub(footprint(set));
    }
}

fn footprint(set: &RefSet) -> u64 {
    u64::from(set.location.len) + record_overhead(SET_KEY)
}
