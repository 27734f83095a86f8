//! Verdicts: which records of blocks are known to be damaged, and where that is written down.

use std::collections::HashMap;

use cstore_log::Location;
use cstore_types::BlockId;

use super::Index;
use super::records::BAD_KEY;
use crate::engine::format::Place;

/// Places of the verdict records that are needed, by block.
#[derive(Debug, Default)]
pub(super) struct VerdictTable(HashMap<BlockId, Location>);

impl VerdictTable {
    pub(super) fn location(&self, id: &BlockId) -> Option<Location> {
        self.0.get(id).copied()
    }

    pub(super) fn relocate(&mut self, id: &BlockId, to: Location) {
        if let Some(location) = self.0.get_mut(id) {
            *location = to;
        }
    }
}

/// Outcome of a verification that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marked {
    /// The block is marked now.
    Now,
    /// It was marked before.
    Before,
    /// Another record is that of the block, or there is none.
    Elsewhere,
}

impl Index {
    /// Marks a block as damaged if `location` is still its place.
    pub(crate) fn mark_bad(&mut self, id: &BlockId, location: Location) -> Marked {
        let current = self.blocks.get(id);
        let Some(block) = current.filter(|block| block.location == location) else {
            return Marked::Elsewhere;
        };
        if block.bad {
            return Marked::Before;
        }
        self.blocks.update(id, |block| block.bad = true);
        Marked::Now
    }

    /// Takes in a verdict that is durable at `location`: about the record of the block at `place`.
    /// It says nothing about a record that took its place since.
    pub(crate) fn note_verdict(&mut self, id: BlockId, place: Place, location: Location) {
        let is_current = |at: Location| (at.file, at.offset) == place;
        let block = self.blocks.get(&id);
        if !block.is_some_and(|block| is_current(block.location)) {
            return;
        }
        self.blocks.update(&id, |block| block.bad = true);
        self.files.add(location, BAD_KEY);
        if let Some(old) = self.verdicts.0.insert(id, location) {
            self.files.drop_record(old, BAD_KEY);
        }
    }

    /// Forgets the verdict on a block: it was put anew, or it is gone.
    pub(super) fn drop_verdict(&mut self, id: &BlockId) {
        if let Some(location) = self.verdicts.0.remove(id) {
            self.files.drop_record(location, BAD_KEY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::index::records::Live;

    const ID: BlockId = BlockId::from_bytes([1; 32]);

    fn at(file: u32, offset: u32) -> Location {
        Location {
            file,
            offset,
            len: 100,
        }
    }

    fn verdict(file: u32) -> Location {
        Location {
            len: 0,
            ..at(file, 0)
        }
    }

    /// A pinned block in file 1 with a verdict in file 2.
    fn marked() -> Index {
        let mut index = Index::default();
        index.insert_block(ID, at(1, 0));
        index.add_refs(&[ID]);
        assert_eq!(index.mark_bad(&ID, at(9, 9)), Marked::Elsewhere);
        assert_eq!(index.mark_bad(&ID, at(1, 0)), Marked::Now);
        assert_eq!(index.mark_bad(&ID, at(1, 0)), Marked::Before);
        index.note_verdict(ID, (1, 0), verdict(2));
        index
    }

    #[test]
    fn a_verdict_is_needed_until_the_block_is_put_anew_or_gone() {
        let mut healed = marked();
        assert!(!healed.is_dead(2) && !healed.has(&ID));
        healed.insert_block(ID, at(3, 0));
        assert!(healed.is_dead(2) && healed.is_dead(1) && healed.has(&ID));

        let mut gone = marked();
        gone.drop_refs(&[ID]);
        assert!(gone.is_dead(2) && gone.is_dead(1));
    }

    #[test]
    fn a_verdict_about_another_place_says_nothing() {
        let mut index = Index::default();
        index.recover_block(ID, at(1, 0));
        index.recover_block(ID, at(3, 0));
        index.note_verdict(ID, (1, 0), verdict(4));
        assert!(index.has(&ID) && index.is_dead(4));
        index.note_verdict(BlockId::from_bytes([2; 32]), (3, 0), verdict(4));
        assert!(index.is_dead(4));
        index.note_verdict(ID, (3, 0), verdict(4));
        assert!(!index.has(&ID) && !index.is_dead(4));
    }

    #[test]
    fn a_verdict_moves_and_its_copy_counts_once() {
        let mut index = marked();
        let live = Live::Verdict(ID, (1, 0));
        assert!(index.is_live(&live, verdict(2)) && index.may_move(&live));
        assert!(index.relocate(&live, verdict(2), verdict(5)));
        assert!(index.is_dead(2) && !index.is_dead(5) && !index.has(&ID));
        assert!(!index.relocate(&live, verdict(2), verdict(6)));

        // A restart between the copy and the end of the old file meets both.
        index.note_verdict(ID, (1, 0), verdict(7));
        assert!(index.is_dead(5) && !index.is_dead(7));
        assert_eq!(index.file_use(7).live, 1);
    }
}
