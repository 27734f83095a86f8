//! Moves of records from one file to another: what is needed of a file, and what a landed copy changes.
//!
//! Invariants
//! * A move is compare-and-set on the old place: whatever happened to the record meanwhile wins, and the copy is dead.
//! * The old place is given up only here, after the copy is durable. There is no moment without a durable record.
//! * A copy of a set that a move left behind is remembered until its file is gone, so that a release outlives it.

use cstore_log::Location;
use cstore_types::{BlockId, PartNo, SessionId};

use super::{BLOCK_KEY, RELEASE_KEY, SET_KEY, State};

/// What a record is, if it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Live {
    /// A block that a set, a seal or a pin holds.
    Block(BlockId),
    /// A reference set.
    Set(SessionId, PartNo),
    /// A release that keeps a set from coming back.
    Release(SessionId),
}

impl Live {
    /// Whose sets and releases must not change while this moves.
    pub(crate) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Block(_) => None,
            Self::Set(session, _) | Self::Release(session) => Some(*session),
        }
    }
}

impl State {
    /// Whether the record at `location` is the one that is needed.
    pub(crate) fn is_live(&self, live: &Live, location: Location) -> bool {
        let found = match live {
            Live::Block(id) => self.blocks.get(id).map(|block| block.location),
            Live::Set(session, part) => self.refset(*session, *part).map(|set| set.location),
            Live::Release(session) => self.releases.location(*session),
        };
        found == Some(location)
    }

    /// Whether a copy of the record may be written now. A damaged block stays where it is, for people to look at. A
    /// release does not pass sets that came after it: a restart would drop them.
    pub(crate) fn may_move(&self, live: &Live) -> bool {
        match live {
            Live::Block(id) => self.has(id),
            Live::Set(..) => true,
            Live::Release(session) => !self.refsets.contains_key(session),
        }
    }

    /// A copy of the record at `from` is durable at `to`. Answers whether it is the one that is needed now.
    pub(crate) fn relocate(&mut self, live: &Live, from: Location, to: Location) -> bool {
        if !self.is_live(live, from) {
            return false;
        }
        let key_len = match live {
            Live::Block(id) => {
                if let Some(block) = self.blocks.get_mut(id) {
                    // The bytes were verified on their way, so a read that failed meanwhile is made good.
                    (block.location, block.bad) = (to, false);
                }
                BLOCK_KEY
            }
            Live::Set(session, part) => {
                if let Some(set) = self.refsets.get_mut(session).and_then(|parts| parts.get_mut(part)) {
                    set.location = to;
                }
                self.stale_sets.entry(from.file).or_default().insert(*session);
                SET_KEY
            }
            Live::Release(session) => {
                if !self.releases.moved(*session, to) {
                    // It lies beside the only sets that it keeps away: both go together.
                    self.drop_record(from, RELEASE_KEY);
                    return true;
                }
                RELEASE_KEY
            }
        };
        self.add_record(to, key_len);
        self.drop_record(from, key_len);
        true
    }

    /// Files in which moves left copies of the session's sets behind; from now on its release remembers them.
    pub(super) fn take_stale_sets(&mut self, session: SessionId) -> Vec<u32> {
        let mut files = Vec::new();
        self.stale_sets.retain(|file, sessions| {
            if sessions.remove(&session) {
                files.push(*file);
            }
            !sessions.is_empty()
        });
        files
    }

    /// A moved record keeps its old place, as [`super::super::Flaw::StaleIndex`] has it.
    #[cfg(feature = "faulty")]
    pub(crate) fn misplace(&mut self, live: &Live, from: Location) {
        if let Live::Block(id) = live
            && let Some(block) = self.blocks.get_mut(id)
        {
            block.location = from;
        }
    }

    /// The copy that a move left behind is forgotten, as [`super::super::Flaw::ForgottenCopies`] has it.
    #[cfg(feature = "faulty")]
    pub(crate) fn forget_copies(&mut self, live: &Live, from: Location) {
        if let Live::Set(session, _) = live
            && let Some(sessions) = self.stale_sets.get_mut(&from.file)
        {
            sessions.remove(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn at(file: u32, offset: u32) -> Location {
        Location { file, offset, len: 100 }
    }

    const ID: BlockId = BlockId::from_bytes([1; 32]);
    const S: SessionId = SessionId::from_bytes([1; 16]);
    const BLOCK: Live = Live::Block(ID);
    const SET: Live = Live::Set(S, PartNo(0));
    const RELEASE: Live = Live::Release(S);

    /// A block in file 1, a set over it in file 2.
    fn sealed() -> State {
        let mut state = State::default();
        state.insert_block(ID, at(1, 0));
        assert_eq!(state.add_refs(&[ID]), 0);
        state.insert_refset(S, PartNo(0), RefSet { location: at(2, 0), seal_seq: SealSeq(7) });
        state
    }

    fn release(state: &mut State, location: Location) {
        for (_, set) in state.release(S, location) {
            state.drop_refs(&[ID]);
            state.bury(set);
        }
    }

    #[test]
    fn a_moved_record_empties_its_old_file_and_fills_the_new_one() {
        let mut state = sealed();
        let totals = state.totals();
        let bytes = state.file_use(1).bytes;
        assert!(state.relocate(&BLOCK, at(1, 0), at(5, 0)) && state.relocate(&SET, at(2, 0), at(5, 100)));
        assert!(state.is_dead(1) && state.is_dead(2) && !state.is_dead(5));
        assert_eq!(state.file_use(5).live, 2);
        assert!(state.file_use(5).bytes > bytes);
        assert_eq!(state.totals(), totals);
        assert_eq!(state.refset(S, PartNo(0)).unwrap().seal_seq, SealSeq(7));
    }

    #[test]
    fn a_copy_of_what_was_freed_or_written_again_is_dead() {
        let mut state = sealed();
        release(&mut state, at(3, 0));
        assert!(!state.relocate(&BLOCK, at(1, 0), at(5, 0)) && !state.relocate(&SET, at(2, 0), at(5, 100)));
        assert!(state.is_dead(5));
        state.insert_block(ID, at(6, 0));
        assert!(!state.relocate(&BLOCK, at(1, 0), at(5, 0)), "it has another place now");
        assert_eq!(state.block(&ID).unwrap().location, at(6, 0));
    }

    #[test]
    fn a_release_outlives_copies_of_its_sets_that_moves_left_behind() {
        let mut state = sealed();
        assert!(state.relocate(&SET, at(2, 0), at(5, 0)));
        release(&mut state, at(6, 0));
        state.retired(5);
        assert!(!state.is_dead(6), "file 2 still has a copy of the set");
        state.retired(2);
        assert!(state.is_dead(6));
    }

    #[test]
    fn a_release_in_the_file_of_its_set_is_not_needed_and_one_that_moves_out_is() {
        let mut state = sealed();
        release(&mut state, at(2, 500));
        assert!(state.is_dead(2), "both go together");
        let mut state = sealed();
        assert!(state.relocate(&SET, at(2, 0), at(5, 0)));
        release(&mut state, at(5, 500));
        assert!(state.relocate(&RELEASE, at(5, 500), at(6, 0)));
        state.retired(2);
        assert!(!state.is_dead(6), "file 5 still has the set");
        state.retired(5);
        assert!(state.is_dead(6));
    }

    #[test]
    fn a_damaged_block_and_a_release_before_new_sets_do_not_move() {
        let mut state = sealed();
        assert!(state.may_move(&BLOCK) && state.may_move(&SET));
        state.mark_bad(&ID, at(1, 0));
        assert!(!state.may_move(&BLOCK));
        release(&mut state, at(3, 0));
        assert!(state.may_move(&RELEASE));
        state.insert_refset(S, PartNo(1), RefSet { location: at(4, 0), seal_seq: SealSeq(9) });
        assert!(!state.may_move(&RELEASE));
    }
}
