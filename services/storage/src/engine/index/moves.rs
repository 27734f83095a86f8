//! Moves of records from one file to another: which records of a file are needed, and what a
//! durable copy changes.
//!
//! Invariants
//! * A move is a compare-and-set on the old place: if the record changed since it was read, the
//!   copy is dead.
//! * The old place is given up only here, AFTER the copy is durable. There is no moment without a
//!   durable record.
//! * A copy of a set that a move left behind is remembered until its file is gone, so that a
//!   release outlives it.

use cstore_log::Location;

use cstore_types::SessionId;

use super::Index;
use super::records::{BLOCK_KEY, Live, RELEASE_KEY, SET_KEY};

impl Index {
    /// Returns true if the record at `location` is the one that is needed.
    pub(crate) fn is_live(&self, live: &Live, location: Location) -> bool {
        let current = match live {
            Live::Block(id) => self.blocks.get(id).map(|block| block.location),
            Live::Set(session, part) => self.refset(*session, *part).map(|set| set.location),
            Live::Release(session) => self.releases.location(*session),
            Live::Verdict(id, place) => self.verdicts.location(id, *place),
        };
        current == Some(location)
    }

    /// Returns true if a copy of the record may be written now. A damaged block stays where it is,
    /// for people to look at. A release MUST NOT pass sets that came after it, otherwise a restart
    /// would drop them.
    pub(crate) fn may_move(&self, live: &Live) -> bool {
        match live {
            Live::Block(id) => self.has(id),
            Live::Set(..) | Live::Verdict(..) => true,
            Live::Release(session) => !self.refsets.contains_key(session),
        }
    }

    /// Takes the copy at `to`, which is durable, for the record at `from`. Returns false if the
    /// record at `from` is not needed any more; the copy is dead then.
    pub(crate) fn relocate(&mut self, live: &Live, from: Location, to: Location) -> bool {
        if !self.is_live(live, from) {
            return false;
        }

        let key_len = match live {
            Live::Block(id) => {
                self.blocks.update(id, |block| {
                    block.location = to;
                    // The bytes were verified when they were copied, so a read that failed since is
                    // repaired.
                    block.bad = false;
                });
                BLOCK_KEY
            }
            Live::Set(session, part) => {
                if let Some(set) = self
                    .refsets
                    .get_mut(session)
                    .and_then(|parts| parts.get_mut(*part))
                {
                    set.location = to;
                }
                self.note_stale_set(*session, from.file);
                SET_KEY
            }
            Live::Release(session) => {
                if !self.releases.relocate(*session, to) {
                    // The copy lies in the file of the only sets that it keeps away: that file goes
                    // as a whole.
                    self.files.drop_record(from, RELEASE_KEY);
                    return true;
                }
                RELEASE_KEY
            }
            Live::Verdict(id, place) => {
                self.place_verdict(*id, *place, to);
                return true;
            }
        };

        self.files.add(to, key_len);
        self.files.drop_record(from, key_len);
        true
    }

    /// Remembers that a move left a copy of a set behind in a file. Forgets files that are gone, so
    /// that sets that move often take no more memory than their copies do on the disk.
    pub(super) fn note_stale_set(&mut self, session: SessionId, file: u32) {
        let files = self.stale_sets.entry(session).or_default();
        files.retain(|known| *known != file && self.files.contains(*known));
        files.push(file);
    }

    /// Removes and returns the files in which moves left copies of the session's sets behind. From
    /// now on the release of the session remembers them.
    pub(super) fn take_stale_sets(&mut self, session: SessionId) -> Vec<u32> {
        let mut files = self.stale_sets.remove(&session).unwrap_or_default();
        files.retain(|file| self.files.contains(*file));
        files
    }
}

#[cfg(test)]
mod tests {
    use cstore_types::{BlockId, PartNo, SealSeq, SessionId};

    use super::*;
    use crate::engine::index::RefSet;

    fn at(file: u32, offset: u32) -> Location {
        Location {
            file,
            offset,
            len: 100,
        }
    }

    const ID: BlockId = BlockId::from_bytes([1; 32]);
    const S: SessionId = SessionId::from_bytes([1; 16]);
    const BLOCK: Live = Live::Block(ID);
    const SET: Live = Live::Set(S, PartNo(0));
    const RELEASE: Live = Live::Release(S);

    /// A block in file 1, a set over it in file 2.
    fn sealed() -> Index {
        let mut index = Index::default();
        index.insert_block(ID, at(1, 0));
        assert_eq!(index.add_refs(&[ID]), 0);
        index.insert_refset(
            S,
            PartNo(0),
            RefSet {
                location: at(2, 0),
                seal_seq: SealSeq(7),
            },
        );
        index
    }

    fn release(index: &mut Index, location: Location) {
        for (_, set) in index.release(S, location) {
            index.drop_refs(&[ID]);
            index.drop_set_record(set);
        }
    }

    #[test]
    fn a_moved_record_empties_its_old_file_and_fills_the_new_one() {
        let mut index = sealed();
        let totals = index.totals();
        let bytes = index.file_use(1).bytes;
        assert!(
            index.relocate(&BLOCK, at(1, 0), at(5, 0))
                && index.relocate(&SET, at(2, 0), at(5, 100))
        );
        assert!(index.is_dead(1) && index.is_dead(2) && !index.is_dead(5));
        assert_eq!(index.file_use(5).live, 2);
        assert!(index.file_use(5).bytes > bytes);
        assert_eq!(index.totals(), totals);
        assert_eq!(index.refset(S, PartNo(0)).unwrap().seal_seq, SealSeq(7));
    }

    #[test]
    fn a_copy_of_what_was_freed_or_written_again_is_dead() {
        let mut index = sealed();
        release(&mut index, at(3, 0));
        assert!(
            !index.relocate(&BLOCK, at(1, 0), at(5, 0))
                && !index.relocate(&SET, at(2, 0), at(5, 100))
        );
        assert!(index.is_dead(5));
        index.insert_block(ID, at(6, 0));
        assert!(
            !index.relocate(&BLOCK, at(1, 0), at(5, 0)),
            "it has another place now"
        );
        assert_eq!(index.block(&ID).unwrap().location, at(6, 0));
    }

    #[test]
    fn a_release_outlives_copies_of_its_sets_that_moves_left_behind() {
        let mut index = sealed();
        assert!(index.relocate(&SET, at(2, 0), at(5, 0)));
        release(&mut index, at(6, 0));
        index.remove_file(5);
        assert!(!index.is_dead(6), "file 2 still has a copy of the set");
        index.remove_file(2);
        assert!(index.is_dead(6));
    }

    #[test]
    fn a_release_in_the_file_of_its_set_is_not_needed_and_one_that_moves_out_is() {
        let mut index = sealed();
        release(&mut index, at(2, 500));
        assert!(index.is_dead(2), "both go together");
        let mut index = sealed();
        assert!(index.relocate(&SET, at(2, 0), at(5, 0)));
        release(&mut index, at(5, 500));
        assert!(index.relocate(&RELEASE, at(5, 500), at(6, 0)));
        index.remove_file(2);
        assert!(!index.is_dead(6), "file 5 still has the set");
        index.remove_file(5);
        assert!(index.is_dead(6));
    }

    #[test]
    fn a_damaged_block_and_a_release_before_new_sets_do_not_move() {
        let mut index = sealed();
        assert!(index.may_move(&BLOCK) && index.may_move(&SET));
        index.mark_bad(&ID, at(1, 0));
        assert!(!index.may_move(&BLOCK));
        release(&mut index, at(3, 0));
        assert!(index.may_move(&RELEASE));
        index.insert_refset(
            S,
            PartNo(1),
            RefSet {
                location: at(4, 0),
                seal_seq: SealSeq(9),
            },
        );
        assert!(!index.may_move(&RELEASE));
    }
}
