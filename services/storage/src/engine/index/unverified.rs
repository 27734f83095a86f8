//! Unverified segments: since a doubt nobody has read all of their blocks, so no upload rests on
//! one that was not read for it.

use std::collections::BTreeSet;

use cstore_log::Location;
use cstore_types::BlockId;

use super::Index;

/// The unverified segments of a disk.
#[derive(Debug, Default)]
pub(super) struct UnverifiedFiles {
    files: BTreeSet<u32>,
    /// Times that `files` was set. What was read in an earlier round says nothing about this one.
    round: u64,
}

impl UnverifiedFiles {
    /// Forgets a segment that is gone.
    pub(super) fn remove(&mut self, file: u32) {
        self.files.remove(&file);
    }
}

impl Index {
    /// Makes `files` the unverified segments, and no others. Begins another round.
    pub(crate) fn distrust(&mut self, files: BTreeSet<u32>) {
        self.unverified.files = files;
        self.unverified.round += 1;
    }

    /// Returns true if the record of the block lies in an unverified segment. A record that a move
    /// has written was verified by it.
    pub(crate) fn is_unverified(&self, id: &BlockId) -> bool {
        let unverified = &self.unverified.files;
        let block = Some(id).filter(|_| !unverified.is_empty());
        let block = block.and_then(|id| self.blocks.get(id));
        block.is_some_and(|block| unverified.contains(&block.location.file))
    }

    pub(crate) fn n_unverified(&self) -> usize {
        self.unverified.files.len()
    }

    /// Returns the number of the round, and the unverified segment of the lowest id.
    pub(crate) fn next_unverified(&self) -> (u64, Option<u32>) {
        let unverified = &self.unverified;
        (unverified.round, unverified.files.first().copied())
    }

    /// Trusts a segment all of whose blocks were read in `round`, unless another one has begun.
    pub(crate) fn trust(&mut self, file: u32, round: u64) {
        if self.unverified.round == round {
            self.unverified.files.remove(&file);
        }
    }

    /// Returns true if all segments were verified in `round`, which is the current one.
    pub(crate) fn is_verified_since(&self, round: u64) -> bool {
        self.unverified.round == round && self.unverified.files.is_empty()
    }

    /// Returns all blocks in the order of their places, with whether each is taken for damaged, and
    /// whether a file needs it.
    pub(crate) fn blocks_in_place_order(&self) -> Vec<(BlockId, Location, bool, bool)> {
        let mut blocks: Vec<_> = self
            .blocks
            .iter()
            .map(|(id, block)| (id, block.location, block.bad, block.refs > 0))
            .collect();
        blocks.sort_unstable_by_key(|(_, location, ..)| (location.file, location.offset));
        blocks
    }
}

#[cfg(test)]
mod tests {
    use cstore_log::Location;

    use super::*;
    use crate::engine::index::Live;

    fn at(file: u32) -> Location {
        Location {
            file,
            offset: 0,
            len: 100,
        }
    }

    const ID: BlockId = BlockId::from_bytes([1; 32]);

    fn distrusted() -> Index {
        let mut index = Index::default();
        index.insert_block(ID, at(1));
        index.distrust(BTreeSet::from([1, 2]));
        index
    }

    #[test]
    fn a_block_is_unverified_until_its_segment_was_read_or_its_record_moved() {
        let mut index = distrusted();
        assert!(index.is_unverified(&ID));
        assert!(!index.is_unverified(&BlockId::from_bytes([2; 32])));
        assert!(index.relocate(&Live::Block(ID), at(1), at(5)));
        assert!(!index.is_unverified(&ID));

        let mut index = distrusted();
        let (round, first) = index.next_unverified();
        assert_eq!(first, Some(1));
        index.trust(1, round);
        assert!(!index.is_unverified(&ID) && !index.is_verified_since(round));
        index.remove_file(2);
        assert!(index.is_verified_since(round));
    }

    #[test]
    fn what_was_read_before_another_doubt_says_nothing_about_it() {
        let mut index = distrusted();
        let (round, _) = index.next_unverified();
        index.distrust(BTreeSet::from([1]));
        index.trust(1, round);
        assert!(index.is_unverified(&ID));
        index.remove_file(1);
        assert!(!index.is_verified_since(round));
    }
}
