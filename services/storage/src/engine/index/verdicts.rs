//! Verdicts: which records of blocks are known to be damaged, and where that is written down.
//!
//! A verdict is about one record, and is needed as long as the segment of that record is there:
//! when the block is put anew or freed, the damaged record stays behind in its segment, and a
//! restart may meet it as the only one of the block.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cstore_log::Location;
use cstore_types::BlockId;

use super::Index;
use super::records::BAD_KEY;
use crate::engine::format::Place;

/// Verdicts, by the place that they are about and by block: those on the records of a segment lie
/// next to each other.
#[derive(Debug, Default)]
pub(super) struct VerdictTable {
    /// Places of the verdict records.
    written: BTreeMap<(Place, BlockId), Location>,
    /// Verdicts that the disk did not take, such as a full one. No more than there are damaged
    /// blocks.
    unwritten: BTreeSet<(Place, BlockId)>,
}

/// Returns all keys of verdicts on records of a segment.
fn keys_on(file: u32) -> std::ops::RangeInclusive<(Place, BlockId)> {
    let first = ((file, 0), BlockId::from_bytes([0; 32]));
    let last = ((file, u32::MAX), BlockId::from_bytes([0xff; 32]));
    first..=last
}

impl VerdictTable {
    pub(super) fn location(&self, id: &BlockId, place: Place) -> Option<Location> {
        self.written.get(&(place, *id)).copied()
    }

    /// Returns true if there is no verdict on records of a segment.
    pub(super) fn has_none_on(&self, file: u32) -> bool {
        let written = self.written.range(keys_on(file)).next();
        let unwritten = self.unwritten.range(keys_on(file)).next();
        written.is_none() && unwritten.is_none()
    }
}

/// Returns the place of a record.
pub(crate) const fn place_of(location: Location) -> Place {
    (location.file, location.offset)
}

/// Returns true if the verdict record counts as needed. One in the segment of the record that it is
/// about goes with it.
fn counts((file, _): Place, location: Location) -> bool {
    location.file != file
}

/// Outcome of a verification that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marked {
    /// The block is marked now.
    Now,
    /// The block was marked before.
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

    /// Takes back that a block is damaged: its record at `location` was read and is good.
    pub(crate) fn mark_good(&mut self, id: &BlockId, location: Location) {
        let current = self.blocks.get(id);
        if current.is_some_and(|block| block.location == location) {
            self.blocks.update(id, |block| block.bad = false);
        }
    }

    /// Returns true if a verdict on the record at `place` is durable.
    pub(crate) fn has_verdict(&self, id: &BlockId, place: Place) -> bool {
        self.verdicts.location(id, place).is_some()
    }

    /// Remembers a verdict that the disk has not taken yet.
    pub(crate) fn owe_verdict(&mut self, id: BlockId, place: Place) {
        if !self.has_verdict(&id, place) {
            self.verdicts.unwritten.insert((place, id));
        }
    }

    /// Returns up to `max` verdicts that the disk has not taken yet.
    pub(crate) fn owed_verdicts(&self, max: usize) -> Vec<(BlockId, Place)> {
        let owed = self.verdicts.unwritten.iter();
        owed.take(max).map(|(place, id)| (*id, *place)).collect()
    }

    /// Adds a verdict that is durable at `location`. Marks the block as damaged if `place` is still
    /// the place of its record.
    pub(crate) fn note_verdict(&mut self, id: BlockId, place: Place, location: Location) {
        let block = self.blocks.get(&id);
        if block.is_some_and(|block| place_of(block.location) == place) {
            self.blocks.update(&id, |block| block.bad = true);
        }
        self.place_verdict(id, place, location);
    }

    /// Takes `location` for the place of a verdict, and gives up the one before.
    pub(super) fn place_verdict(&mut self, id: BlockId, place: Place, location: Location) {
        self.verdicts.unwritten.remove(&(place, id));
        let old = self.verdicts.written.insert((place, id), location);
        if counts(place, location) {
            self.files.add(location, BAD_KEY);
        }
        if let Some(old) = old.filter(|old| counts(place, *old)) {
            self.files.drop_record(old, BAD_KEY);
        }
    }

    /// Forgets the verdicts on records of segments that are gone: all but `files` are. Visits every
    /// verdict, for an open.
    pub(crate) fn keep_verdicts_of(&mut self, files: &HashSet<u32>) {
        let gone: BTreeSet<u32> = self
            .verdicts
            .written
            .keys()
            .chain(&self.verdicts.unwritten)
            .map(|((file, _), _)| *file)
            .filter(|file| !files.contains(file))
            .collect();
        for file in gone {
            self.drop_verdicts_on(file, usize::MAX);
        }
    }

    /// Forgets up to `max` of the verdicts on records of a segment that is gone.
    pub(super) fn drop_verdicts_on(&mut self, file: u32, max: usize) {
        let written = self.verdicts.written.range(keys_on(file));
        let written: Vec<_> = written.take(max).map(|(key, at)| (*key, *at)).collect();
        for (key, location) in &written {
            self.verdicts.written.remove(key);
            if counts(key.0, *location) {
                self.files.drop_record(*location, BAD_KEY);
            }
        }

        let unwritten = self.verdicts.unwritten.range(keys_on(file));
        let unwritten: Vec<_> = unwritten.take(max).copied().collect();
        for key in unwritten {
            self.verdicts.unwritten.remove(&key);
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

    /// A block in file 1 that is referred to, with a verdict in file 2.
    fn marked() -> Index {
        let mut index = Index::default();
        index.insert_block(ID, at(1, 0));
        index.add_refs(&[ID]);
        assert_eq!(index.mark_bad(&ID, at(9, 9)), Marked::Elsewhere);
        assert_eq!(index.mark_bad(&ID, at(1, 0)), Marked::Now);
        assert_eq!(index.mark_bad(&ID, at(1, 0)), Marked::Before);
        assert!(!index.has_verdict(&ID, (1, 0)));
        index.note_verdict(ID, (1, 0), verdict(2));
        assert!(index.has_verdict(&ID, (1, 0)));
        index
    }

    #[test]
    fn a_verdict_is_needed_until_the_segment_of_the_damaged_record_is_gone() {
        let mut healed = marked();
        assert!(!healed.is_dead(2) && !healed.has(&ID));
        healed.insert_block(ID, at(3, 0));
        assert!(healed.is_dead(1) && !healed.is_dead(2) && healed.has(&ID));
        healed.remove_file(1);
        assert!(healed.is_dead(2) && healed.has(&ID));

        let mut freed = marked();
        freed.drop_refs(&[ID]);
        assert!(freed.is_dead(1) && !freed.is_dead(2));
        freed.remove_file(1);
        assert!(freed.is_dead(2));

        // At a start the segment is not there any more.
        let mut later = marked();
        later.keep_verdicts_of(&HashSet::from([2, 3]));
        assert!(later.is_dead(2));
    }

    #[test]
    fn a_verdict_in_the_segment_of_the_damaged_record_goes_with_it() {
        let mut index = Index::default();
        index.insert_block(ID, at(1, 0));
        index.add_refs(&[ID]);
        index.note_verdict(ID, (1, 0), verdict(1));
        index.insert_block(ID, at(3, 0));
        assert!(index.is_dead(1));
        index.remove_file(1);
        assert!(!index.has_verdict(&ID, (1, 0)) && index.has(&ID));
    }

    #[test]
    fn a_verdict_about_another_place_says_nothing_of_the_block() {
        let mut index = Index::default();
        index.recover_block(ID, at(1, 0));
        index.recover_block(ID, at(3, 0));
        index.note_verdict(ID, (1, 0), verdict(4));
        assert!(index.has(&ID));
        index.note_verdict(ID, (3, 0), verdict(4));
        assert!(!index.has(&ID));
        index.mark_good(&ID, at(1, 0));
        assert!(!index.has(&ID), "another record");
        index.mark_good(&ID, at(3, 0));
        assert!(index.has(&ID));
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
