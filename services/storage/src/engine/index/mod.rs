//! The index: which blocks, reference sets and releases the segments hold. A value with methods: no
//! I/O, no clock, no lock.
//!
//! ```text
//! BlockTable ─ id ─▶ place, references, pins      FileTable ─ file ─▶ needed records and bytes
//! refsets ─ session, part ─▶ place, sequence      Releases  ─ session ─▶ place, files it keeps away
//! PinTable ─ session ─▶ pinned ids                VerdictTable ─ id ─▶ place of the verdict on its record
//! Totals                                          UnverifiedFiles ─ segments to be read before they are trusted
//! ```
//! Invariants
//! * `refs` of a block is the number of times that its id stands in the live reference sets, plus
//!   those of seals that are on their way to the disk. Only reference sets are the truth; the count
//!   is derived from them (I4).
//! * A block leaves the table only when nothing refers to it and nothing pins it.
//! * The use of a file counts its records that something still needs. A file with none may be
//!   retired.
//! * One call of a method visits as many entries as its caller names, or one step of them
//!   (`INDEX_STEP`, a shard of the blocks), or one entry for each segment. Those that visit more are
//!   for an open, which has the disk alone; [`steps`] has the long work of a shared index.
//! * A release record is needed until no other file holds a copy of a reference set that it
//!   dropped: otherwise a restart would bring the set back. Copies that a move left behind count
//!   ([`Index::stale_sets`]).

mod absent;
mod blocks;
mod files;
mod moves;
mod parts;
mod pins;
mod records;
mod releases;
pub(crate) mod steps;
mod totals;
mod unverified;
mod verdicts;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use cstore_log::Location;
use cstore_types::{BlockId, PartNo, SessionId};
use parking_lot::Mutex;

use super::format;
use crate::limits::INDEX_STEP;
use absent::AbsentTable;
use blocks::{Block, BlockTable, MAX_REFS};
use files::FileTable;
pub(crate) use files::FileUse;
use parts::Parts;
use pins::PinTable;
pub(crate) use pins::PinTicket;
use records::{BLOCK_KEY, RELEASE_KEY, SET_KEY};
pub(crate) use records::{Live, RefSet, record_overhead};
use releases::Releases;
pub use totals::Totals;
use unverified::UnverifiedFiles;
use verdicts::VerdictTable;
pub(crate) use verdicts::{Marked, place_of};

/// The index of an open disk, shared by the parts of the engine. The mutex is held for memory
/// accesses only, never over I/O, the log or an await.
pub(crate) type SharedIndex = Arc<Mutex<Index>>;

/// Session that pins the blocks that a restart found without a reference set. Sessions of uploads
/// are random. The upload of such a block may still be running, so it stays until space runs short
/// or enough time has passed.
pub(crate) const ORPHANS: SessionId = SessionId::from_bytes([0; 16]);

/// Everything derived from the log.
#[derive(Debug, Default)]
pub(crate) struct Index {
    blocks: BlockTable,
    /// A tree: pages of it can be visited, and growth moves no other entries.
    refsets: BTreeMap<SessionId, Parts>,
    releases: Releases,
    pins: PinTable,
    files: FileTable,
    /// For each session the files in which a move left copies of its sets behind. Some may be gone.
    stale_sets: BTreeMap<SessionId, Vec<u32>>,
    totals: Totals,
    absent: AbsentTable,
    verdicts: VerdictTable,
    unverified: UnverifiedFiles,
    /// Something is in doubt: no block leaves the table.
    is_held: bool,
}

/// Reading.
impl Index {
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn n_sessions(&self) -> usize {
        self.refsets.len()
    }

    /// Returns up to `max` sessions that hold reference sets, in order, from behind `after`.
    pub(crate) fn sessions_after(&self, after: Option<SessionId>, max: usize) -> Vec<SessionId> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let sessions = self.refsets.range((start, Bound::Unbounded));
        sessions.take(max).map(|(session, _)| *session).collect()
    }

    pub(crate) fn holds_sets(&self, session: SessionId) -> bool {
        self.refsets.contains_key(&session)
    }

    pub(crate) fn block(&self, id: &BlockId) -> Option<Block> {
        self.blocks.get(id)
    }

    /// Returns true if the block is here, synced and not known to be damaged.
    pub(crate) fn has(&self, id: &BlockId) -> bool {
        self.blocks.get(id).is_some_and(|block| !block.bad)
    }

    pub(crate) fn refset(&self, session: SessionId, part: PartNo) -> Option<RefSet> {
        self.refsets.get(&session)?.get(part).copied()
    }

    pub(crate) fn parts(&self, session: SessionId) -> Vec<(PartNo, RefSet)> {
        let parts = self.refsets.get(&session);
        parts.into_iter().flat_map(Parts::iter).collect()
    }

    /// Returns all reference sets, for an open.
    pub(crate) fn all_sets(&self) -> Vec<(SessionId, PartNo, RefSet)> {
        let sessions = self.refsets.iter();
        let sets = sessions
            .flat_map(|(session, parts)| parts.iter().map(|(part, set)| (*session, part, set)));
        sets.collect()
    }

    /// Returns how many ids reference sets name that are not here.
    pub(crate) fn n_absent(&self) -> usize {
        self.absent.len()
    }

    /// Returns true if every block that a set names is here.
    pub(crate) fn has_all_blocks(&self) -> bool {
        self.n_absent() == 0 && !self.is_absent_incomplete()
    }

    /// Returns true if more ids are absent than can be counted.
    pub(crate) fn is_absent_incomplete(&self) -> bool {
        self.absent.is_incomplete()
    }

    /// Returns the needed part of a file.
    pub(crate) fn file_use(&self, file: u32) -> FileUse {
        self.files.usage(file)
    }

    /// Returns true if nothing in the file is needed.
    pub(crate) fn is_dead(&self, file: u32) -> bool {
        self.files.usage(file).live == 0
    }

    /// Returns a number that grows whenever a record dies. Unchanged means that no file has become
    /// emptier.
    pub(crate) fn died(&self) -> u64 {
        self.files.died()
    }

    /// Returns the files that hold something damaged.
    pub(crate) fn damaged_files(&self) -> &HashSet<u32> {
        self.files.damaged()
    }

    /// Returns the blocks of one of the [`BLOCK_SHARDS`] shards whose records lie in a file.
    pub(crate) fn blocks_in(&self, shard: usize, file: u32) -> Vec<(BlockId, Location)> {
        let blocks = self.blocks.iter_shard(shard);
        let records = blocks.map(|(id, block)| (id, block.location));
        records
            .filter(|(_, location)| location.file == file)
            .collect()
    }

    /// Returns the places and reference counts of the referenced blocks, for the derived cache. Visits
    /// every block, at a stop: no request waits any more.
    pub(crate) fn counts(&self) -> Vec<(u32, format::FileCounts)> {
        let mut files: BTreeMap<u32, format::FileCounts> = BTreeMap::new();
        for (_, block) in self.blocks.iter().filter(|(_, block)| block.refs > 0) {
            files
                .entry(block.location.file)
                .or_default()
                .push((block.location.offset, block.refs));
        }
        for counts in files.values_mut() {
            counts.sort_unstable();
        }
        files.into_iter().collect()
    }
}

/// Blocks and references.
impl Index {
    /// Keeps every block from now on, whatever holds it, or ends that.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// Adds a block whose record is durable. A good block keeps its place, and the new record is
    /// dead. A damaged one is repaired for every file that refers to it, and so is one with a
    /// verdict that has read well since: the next start would take it for damaged.
    pub(crate) fn insert_block(&mut self, id: BlockId, location: Location) {
        if let Some(known) = self.add_block(id, location)
            && (known.bad || self.has_verdict(&id, place_of(known.location)))
        {
            self.replace_block(id, known, location);
        }
    }

    /// Adds a block at recovery, where the later record of an id is the current one.
    pub(crate) fn recover_block(&mut self, id: BlockId, location: Location) {
        if let Some(known) = self.add_block(id, location) {
            self.replace_block(id, known, location);
        }
    }

    /// Adds a block if there is none of the same id; returns that one otherwise.
    fn add_block(&mut self, id: BlockId, location: Location) -> Option<Block> {
        let mut block = Block {
            location,
            refs: 0,
            pins: 0,
            bad: false,
        };
        let known = self.blocks.try_insert(id, block);
        if known.is_none() {
            self.files.add(location, BLOCK_KEY);
            // Sets may have named it while it was absent.
            block.refs = self.absent.take(&id);
            if block.refs > 0 {
                self.blocks.update(&id, |new| new.refs = block.refs);
                self.totals.add_block(&block);
            }
        }
        known
    }

    fn replace_block(&mut self, id: BlockId, old: Block, location: Location) {
        self.blocks.update(&id, |block| {
            block.location = location;
            block.bad = false;
        });
        self.files.add(location, BLOCK_KEY);
        self.files.drop_record(old.location, BLOCK_KEY);
    }

    /// Counts one more reference for each id. Those of ids that are not here are kept for them;
    /// returns how many that were.
    pub(crate) fn add_refs(&mut self, ids: &[BlockId]) -> usize {
        let mut missing = 0;
        for id in ids {
            match self
                .blocks
                .update(id, |block| block.refs = block.refs.saturating_add(1))
            {
                Some(block) if block.refs == 1 => self.totals.add_block(&block),
                Some(_) => {}
                None => {
                    self.absent.add(*id);
                    missing += 1;
                }
            }
        }
        missing
    }

    /// Counts one reference less for each id and frees blocks that nothing else holds. Ids that
    /// have no reference are skipped.
    pub(crate) fn drop_refs(&mut self, ids: &[BlockId]) {
        for id in ids {
            let mut was_last = false;
            let block = self.release_block(*id, |block| {
                was_last = block.refs == 1;
                if block.refs != MAX_REFS {
                    block.refs = block.refs.saturating_sub(1);
                }
            });
            match block {
                Some(block) if was_last => self.totals.remove_block(&block),
                Some(_) => {}
                None => self.absent.drop_ref(*id),
            }
        }
    }

    /// Changes a block and frees it if nothing holds it any more, nor the disk is on hold. Returns
    /// the block as it is then. No other method takes a block out of the table.
    fn release_block(&mut self, id: BlockId, change: impl FnOnce(&mut Block)) -> Option<Block> {
        if self.is_held {
            return self.blocks.update(&id, change);
        }
        let block = self.blocks.release(id, change)?;
        if !block.is_held() {
            self.files.drop_record(block.location, BLOCK_KEY);
        }
        Some(block)
    }

    /// Takes the reference counts of the derived cache. Returns false, and counts nothing, if a
    /// place in the cache holds no block, or a count was not known any more ([`MAX_REFS`]).
    pub(crate) fn restore_counts(&mut self, files: &[(u32, format::FileCounts)]) -> bool {
        let counts: HashMap<(u32, u32), u32> = files
            .iter()
            .flat_map(|(file, counts)| {
                counts
                    .iter()
                    .map(|(offset, refs)| ((*file, *offset), *refs))
            })
            .collect();
        // Counted before anything changes: a cache of another log must leave no trace.
        let place = |block: &Block| (block.location.file, block.location.offset);
        let found = self
            .blocks
            .iter()
            .filter(|(_, block)| counts.contains_key(&place(block)))
            .count();
        if found != counts.len() || counts.values().any(|refs| *refs == MAX_REFS) {
            return false;
        }

        let totals = &mut self.totals;
        self.blocks.update_all(|block| {
            if let Some(refs) = counts.get(&place(block)) {
                block.refs = *refs;
                totals.add_block(block);
            }
        });
        true
    }
}

/// Reference sets, releases and files.
impl Index {
    /// Adds a durable reference set. Its references were counted before ([`Self::add_refs`]).
    pub(crate) fn insert_refset(&mut self, session: SessionId, part: PartNo, set: RefSet) {
        self.files.add(set.location, SET_KEY);
        self.totals.add_set(&set);
        let old = match self.refsets.entry(session) {
            Entry::Vacant(session) => {
                session.insert(Parts::One(part, set));
                None
            }
            Entry::Occupied(mut parts) => parts.get_mut().insert(part, set),
        };
        if let Some(old) = old {
            // At recovery: the set was moved. Its old copy is dead, but comes back if only that
            // file is left.
            self.totals.remove_set(&old);
            self.note_stale_set(session, old.location.file);
            self.drop_set_record(old);
        }
    }

    /// Counts the record of a set as dead. Separate from [`Self::release`], because the set is read
    /// between the two.
    pub(crate) fn drop_set_record(&mut self, set: RefSet) {
        self.files.drop_record(set.location, SET_KEY);
    }

    /// Drops the sets of `session`, whose release is durable at `location`, and returns them. Their
    /// references are still counted: the caller reads the sets and counts them down
    /// ([`Self::drop_refs`]).
    pub(crate) fn release(
        &mut self,
        session: SessionId,
        location: Location,
    ) -> Vec<(PartNo, RefSet)> {
        let parts = self.refsets.remove(&session);
        let parts: Vec<(PartNo, RefSet)> = parts.iter().flat_map(Parts::iter).collect();
        let mut graves: HashSet<u32> = parts.iter().map(|(_, set)| set.location.file).collect();
        graves.extend(self.take_stale_sets(session));
        for (_, set) in &parts {
            self.totals.remove_set(set);
        }

        let (is_needed, replaced) = self.releases.put(session, location, graves);
        if let Some(old) = replaced {
            self.files.drop_record(old, RELEASE_KEY);
        }
        if is_needed {
            self.files.add(location, RELEASE_KEY);
        }
        parts
    }

    /// Forgets a file whose contents can never come back. Release records that kept its sets away
    /// die, up to [`INDEX_STEP`] of them. Returns true if nothing of the file is left.
    ///
    /// Records that wait for a later call count as needed until then.
    pub(crate) fn remove_file(&mut self, file: u32) -> bool {
        self.unverified.remove(file);
        self.files.remove(file);
        self.drop_verdicts_on(file, INDEX_STEP);
        for location in self.releases.take_graves(file, INDEX_STEP) {
            self.files.drop_record(location, RELEASE_KEY);
        }
        self.verdicts.has_none_on(file) && self.releases.has_no_graves(file)
    }

    /// Remembers that a file holds something damaged.
    pub(crate) fn mark_file_damaged(&mut self, file: u32) {
        self.files.mark_damaged(file);
    }
}

#[cfg(test)]
mod tests {
    use cstore_types::SealSeq;

    use super::*;

    fn at(file: u32, offset: u32) -> Location {
        Location {
            file,
            offset,
            len: 100,
        }
    }

    fn id(n: u8) -> BlockId {
        BlockId::from_bytes([n; 32])
    }

    const S1: SessionId = SessionId::from_bytes([1; 16]);
    const S2: SessionId = SessionId::from_bytes([2; 16]);

    fn with_set(index: &mut Index, session: SessionId, file: u32, ids: &[BlockId]) {
        assert_eq!(index.add_refs(ids), 0);
        index.insert_refset(
            session,
            PartNo(0),
            RefSet {
                location: at(file, 900),
                seal_seq: SealSeq(1),
            },
        );
    }

    fn release(index: &mut Index, session: SessionId, file: u32, ids: &[BlockId]) {
        for (_, set) in index.release(session, at(file, 950)) {
            index.drop_refs(ids);
            index.drop_set_record(set);
        }
    }

    #[test]
    fn i4_a_block_of_two_sets_is_freed_with_the_second_release_only() {
        let mut index = Index::default();
        index.insert_block(id(1), at(1, 0));
        with_set(&mut index, S1, 1, &[id(1)]);
        with_set(&mut index, S2, 1, &[id(1)]);
        release(&mut index, S1, 2, &[id(1)]);
        assert!(index.has(&id(1)));
        release(&mut index, S2, 2, &[id(1)]);
        assert!(!index.has(&id(1)));
        assert_eq!(index.totals(), Totals::default());
    }

    /// Two sets name a block that is lost; it comes back with a third one.
    #[test]
    fn i4_a_block_that_comes_back_is_held_by_every_set_that_named_it_meanwhile() {
        let mut index = Index::default();
        assert_eq!(index.add_refs(&[id(1), id(1)]), 2);
        assert_eq!(index.n_absent(), 1);
        index.insert_block(id(1), at(2, 0));
        assert_eq!(index.n_absent(), 0);
        assert_eq!(index.totals().blocks, 1);
        with_set(&mut index, S1, 2, &[id(1)]);

        index.drop_refs(&[id(1), id(1)]);
        assert!(index.has(&id(1)), "the third one needs it");
        release(&mut index, S1, 3, &[id(1)]);
        assert!(!index.has(&id(1)));
        assert_eq!(index.totals(), Totals::default());
    }

    #[test]
    fn i4_on_hold_no_block_goes_and_those_that_nothing_holds_are_orphans_afterwards() {
        let mut index = Index::default();
        index.insert_block(id(1), at(1, 0));
        index.insert_block(id(2), at(1, 200));
        index.pin(S1, id(1));
        with_set(&mut index, S2, 1, &[id(2)]);
        index.hold(true);
        index.unpin(S1);
        index.drop_refs(&[id(2)]);
        assert!(index.has(&id(1)) && index.has(&id(2)));

        index.hold(false);
        index.adopt_all_orphans();
        assert!(index.has(&id(1)) && index.has(&id(2)));
        index.unpin(ORPHANS);
        assert!(!index.has(&id(1)) && !index.has(&id(2)));
    }

    #[test]
    fn a_pin_keeps_a_block_and_an_unpin_frees_it() {
        let mut index = Index::default();
        index.insert_block(id(1), at(1, 0));
        index.pin(S1, id(1));
        index.pin(S1, id(1));
        index.pin(S2, id(1));
        index.unpin(S1);
        assert!(index.has(&id(1)));
        index.unpin(S2);
        assert!(!index.has(&id(1)) && index.is_dead(1));
    }

    #[test]
    fn pins_of_a_session_that_fell_silent_are_swept_and_those_of_a_busy_one_are_not() {
        let mut index = Index::default();
        index.insert_block(id(1), at(1, 0));
        index.insert_block(id(2), at(1, 200));
        index.pin(S1, id(1));
        index.pin(S2, id(2));
        for _ in 0..3 {
            index.sweep_pins();
            index.pin(S2, id(2));
        }
        assert!(!index.has(&id(1)) && index.has(&id(2)));
    }

    #[test]
    fn a_damaged_block_counts_as_missing_and_is_healed_in_place() {
        let mut index = Index::default();
        index.insert_block(id(1), at(1, 0));
        with_set(&mut index, S1, 1, &[id(1)]);
        assert_eq!(index.mark_bad(&id(1), at(1, 0)), Marked::Now);
        assert_eq!(index.mark_bad(&id(1), at(9, 9)), Marked::Elsewhere);
        assert!(!index.has(&id(1)));
        index.insert_block(id(1), at(3, 0));
        let block = index.block(&id(1)).unwrap();
        assert!(!block.bad && block.refs == 1 && block.location == at(3, 0));
    }

    #[test]
    fn orphans_of_a_restart_stay_until_they_are_dropped() {
        let mut index = Index::default();
        index.recover_block(id(1), at(1, 0));
        index.recover_block(id(1), at(2, 0));
        index.adopt_all_orphans();
        assert!(index.has(&id(1)) && index.is_dead(1) && !index.is_dead(2));
        index.unpin(ORPHANS);
        assert!(!index.has(&id(1)) && index.is_dead(2));
    }

    #[test]
    fn i4_a_reference_count_that_is_full_is_never_counted_down_to_a_free_block() {
        let mut index = Index::default();
        index.insert_block(id(1), at(1, 0));
        index
            .blocks
            .update(&id(1), |block| block.refs = MAX_REFS - 1);
        assert_eq!(index.add_refs(&[id(1), id(1), id(1)]), 0);
        for _ in 0..3 {
            index.drop_refs(&[id(1)]);
        }
        assert_eq!(index.block(&id(1)).unwrap().refs, MAX_REFS);
    }

    #[test]
    fn references_that_nobody_counted_are_not_counted_down() {
        let mut index = Index::default();
        index.insert_block(id(1), at(1, 0));
        index.pin(S1, id(1));
        index.drop_refs(&[id(1), id(2)]);
        assert_eq!(index.totals(), Totals::default());
        assert!(index.has(&id(1)));
    }
}
