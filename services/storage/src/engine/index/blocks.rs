//! The table of stored blocks. The only file that knows how the table is kept in memory, so that a
//! denser one can take its place.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use cstore_log::Location;
use cstore_types::BlockId;

use super::records::{BLOCK_KEY, record_overhead};
use crate::limits::BLOCK_SHARDS;

/// Reference count that stays as it is: the count is not known any more, so the block is never
/// freed. The next start counts again.
pub(super) const MAX_REFS: u32 = u32::MAX;

/// One stored block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// Place of its current record.
    pub(crate) location: Location,
    /// Occurrences in reference sets that are durable or on their way to the disk. Sticks at
    /// [`MAX_REFS`].
    pub(crate) refs: u32,
    /// Sessions that pin the block.
    pub(crate) pins: u32,
    /// A verification failed. The block counts as missing until it is put again.
    pub(crate) bad: bool,
}

impl Block {
    /// Returns the bytes that the block takes on the disk, with its directory entries.
    pub(super) fn footprint(&self) -> u64 {
        u64::from(self.location.len) + record_overhead(BLOCK_KEY)
    }

    pub(super) fn is_held(&self) -> bool {
        self.refs > 0 || self.pins > 0
    }
}

/// All blocks by their ids.
///
/// The table is cut into shards by the first bytes of the ids, which are hashes. A table of one
/// piece would move all of its entries at once when it grows, under the mutex of the index; and a
/// visit of all blocks could not let others in between.
#[derive(Debug)]
pub(super) struct BlockTable {
    shards: Vec<HashMap<BlockId, Block>>,
}

impl Default for BlockTable {
    fn default() -> Self {
        Self {
            shards: (0..BLOCK_SHARDS).map(|_| HashMap::new()).collect(),
        }
    }
}

fn shard_of(id: &BlockId) -> usize {
    let [first, second, ..] = *id.as_bytes();
    usize::from(u16::from_le_bytes([first, second])) % BLOCK_SHARDS
}

impl BlockTable {
    pub(super) fn get(&self, id: &BlockId) -> Option<Block> {
        self.shards[shard_of(id)].get(id).copied()
    }

    /// Adds a block if there is none of the same id; returns that one otherwise.
    pub(super) fn try_insert(&mut self, id: BlockId, block: Block) -> Option<Block> {
        match self.shards[shard_of(&id)].entry(id) {
            Entry::Vacant(vacant) => {
                vacant.insert(block);
                None
            }
            Entry::Occupied(occupied) => Some(*occupied.get()),
        }
    }

    /// Changes a block and returns it as it is then. Returns `None` if there is no such block.
    pub(super) fn update(
        &mut self,
        id: &BlockId,
        change: impl FnOnce(&mut Block),
    ) -> Option<Block> {
        let block = self.shards[shard_of(id)].get_mut(id)?;
        change(block);
        Some(*block)
    }

    /// Changes a block, returns it as it is then, and removes it if nothing holds it any more.
    pub(super) fn release(
        &mut self,
        id: BlockId,
        change: impl FnOnce(&mut Block),
    ) -> Option<Block> {
        let Entry::Occupied(mut occupied) = self.shards[shard_of(&id)].entry(id) else {
            return None;
        };
        change(occupied.get_mut());
        let block = *occupied.get();
        if !block.is_held() {
            occupied.remove();
        }
        Some(block)
    }

    /// Changes every block, in no particular order.
    pub(super) fn update_all(&mut self, change: impl FnMut(&mut Block)) {
        let shards = self.shards.iter_mut();
        shards.flat_map(HashMap::values_mut).for_each(change);
    }

    /// Visits every block, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockId, Block)> + '_ {
        let blocks = self.shards.iter().flatten();
        blocks.map(|(id, block)| (*id, *block))
    }

    /// Visits the blocks of one of the [`BLOCK_SHARDS`] shards, in no particular order.
    pub(super) fn iter_shard(&self, shard: usize) -> impl Iterator<Item = (BlockId, Block)> + '_ {
        let blocks = self.shards.get(shard).into_iter().flatten();
        blocks.map(|(id, block)| (*id, *block))
    }
}
