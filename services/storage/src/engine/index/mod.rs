//! What the engine knows in memory: a value with methods, no I/O, no clock.
//!
//! Invariants
//! * `blocks[id].refs` is the number of times that `id` stands in the live reference sets, plus those of seals that
//!   are on their way to the disk. Only reference sets are the truth; this is derived from them (I4).
//! * A block leaves `blocks` only when nothing refers to it and nothing pins it.
//! * `files[f].live` counts the records of `f` that something still needs. A file whose count is 0 may be retired.
//! * A release record is needed until no other file holds a copy of a reference set that it dropped, or a restart
//!   would bring it back. Copies that a move left behind count ([`State::stale_sets`]).

mod moves;
mod releases;

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap, HashSet};

use cstore_log::Location;
use cstore_types::{BlockId, PartNo, SealSeq, SessionId};

use super::format;
pub(crate) use moves::Live;
use releases::Releases;

/// Sessions are random; this one stands for blocks that a restart found without a reference set. Their upload may
/// still be running, so they stay until space is short or long enough has passed.
pub(crate) const ORPHANS: SessionId = SessionId::from_bytes([0; 16]);

/// Bytes of the keys of records.
const BLOCK_KEY: u64 = 32;
const SET_KEY: u64 = 20;
const RELEASE_KEY: u64 = 16;

/// Most pinned ids of all sessions; beyond it a pin is left out, which only costs work.
const MAX_PINS: usize = 4 << 20;

/// Bytes of directory entries that one record costs: in its frame and in the footer of its segment.
pub(crate) const fn record_overhead(key_len: u64) -> u64 {
    2 * (6 + key_len) + 8
}

/// One stored block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) location: Location,
    pub(crate) refs: u32,
    pub(crate) pins: u32,
    /// A verification failed: treated as missing until it is put again.
    pub(crate) bad: bool,
}

impl Block {
    fn footprint(&self) -> u64 {
        u64::from(self.location.len) + record_overhead(BLOCK_KEY)
    }
}

/// One durable reference set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefSet {
    pub(crate) location: Location,
    pub(crate) seal_seq: SealSeq,
}

/// What of a file is needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FileUse {
    /// Records.
    pub(crate) live: u64,
    /// Their bytes with directory entries.
    pub(crate) bytes: u64,
}

/// Live totals, kept up with every change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Distinct blocks that a reference set holds.
    pub blocks: u64,
    /// Their payload bytes.
    pub unique_bytes: u64,
    /// Their payload with directory entries, and the reference sets.
    pub physical_bytes: u64,
}

/// What one session pins, and the sweep before which it last pinned something.
#[derive(Debug, Default)]
struct Pins {
    ids: HashSet<BlockId>,
    sweep: u64,
}

/// Everything derived from the log, behind one mutex.
#[derive(Debug, Default)]
pub(crate) struct State {
    blocks: HashMap<BlockId, Block>,
    refsets: HashMap<SessionId, HashMap<PartNo, RefSet>>,
    releases: Releases,
    pins: HashMap<SessionId, Pins>,
    n_pins: usize,
    sweep: u64,
    files: HashMap<u32, FileUse>,
    /// Files in which a move left copies of sets behind, with the sessions of those.
    stale_sets: HashMap<u32, HashSet<SessionId>>,
    /// Records that were needed and are not any more, ever.
    died: u64,
    totals: Totals,
}

impl State {
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn n_sessions(&self) -> usize {
        self.refsets.len()
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.refsets.keys().copied()
    }

    pub(crate) fn block(&self, id: &BlockId) -> Option<Block> {
        self.blocks.get(id).copied()
    }

    /// Whether the block is here, synced and not known to be damaged.
    pub(crate) fn has(&self, id: &BlockId) -> bool {
        self.blocks.get(id).is_some_and(|block| !block.bad)
    }

    pub(crate) fn refset(&self, session: SessionId, part: PartNo) -> Option<RefSet> {
        self.refsets.get(&session)?.get(&part).copied()
    }

    pub(crate) fn parts(&self, session: SessionId) -> Vec<(PartNo, RefSet)> {
        self.refsets
            .get(&session)
            .map(|parts| parts.iter().map(|(part, set)| (*part, *set)).collect())
            .unwrap_or_default()
    }

    /// Pins a block that is here, so that it stays while an upload may still refer to it.
    pub(crate) fn pin(&mut self, session: SessionId, id: BlockId) {
        let Some(block) = self.blocks.get_mut(&id) else { return };
        let pins = self.pins.entry(session).or_default();
        pins.sweep = self.sweep;
        if self.n_pins < MAX_PINS && pins.ids.insert(id) {
            block.pins += 1;
            self.n_pins += 1;
        }
    }

    /// Drops the pins of sessions that pinned nothing since the sweep before the last: whoever ran them is gone.
    pub(crate) fn sweep_pins(&mut self) {
        self.sweep += 1;
        let old: Vec<SessionId> = self
            .pins
            .iter()
            .filter(|(_, pins)| pins.sweep + 1 < self.sweep)
            .map(|(session, _)| *session)
            .collect();
        for session in old {
            self.unpin(session);
        }
    }

    /// Drops all pins of a session and frees what nothing else holds.
    pub(crate) fn unpin(&mut self, session: SessionId) {
        let Pins { ids, .. } = self.pins.remove(&session).unwrap_or_default();
        self.n_pins -= ids.len();
        for id in ids {
            if let Some(block) = self.blocks.get_mut(&id) {
                block.pins = block.pins.saturating_sub(1);
            }
            self.free_unless_held(id);
        }
    }

    /// Takes a block whose record is durable. A known good block keeps its place and the new record is dead; a
    /// damaged one is healed for every file that holds it.
    pub(crate) fn insert_block(&mut self, id: BlockId, location: Location) {
        match self.blocks.entry(id) {
            MapEntry::Vacant(vacant) => {
                vacant.insert(Block { location, refs: 0, pins: 0, bad: false });
                self.add_record(location, BLOCK_KEY);
            }
            MapEntry::Occupied(mut occupied) => {
                let block = occupied.get_mut();
                if block.bad {
                    let old = std::mem::replace(&mut block.location, location);
                    block.bad = false;
                    self.add_record(location, BLOCK_KEY);
                    self.drop_record(old, BLOCK_KEY);
                }
            }
        }
    }

    /// As [`Self::insert_block`] at recovery, where the later record of an id wins.
    pub(crate) fn recover_block(&mut self, id: BlockId, location: Location) {
        if let Some(block) = self.blocks.get_mut(&id) {
            let old = std::mem::replace(&mut block.location, location);
            self.drop_record(old, BLOCK_KEY);
            self.add_record(location, BLOCK_KEY);
        } else {
            self.insert_block(id, location);
        }
    }

    /// Marks a block as damaged, if its record is still the one that was read.
    pub(crate) fn mark_bad(&mut self, id: &BlockId, location: Location) -> bool {
        match self.blocks.get_mut(id) {
            Some(block) if block.location == location => {
                block.bad = true;
                true
            }
            _ => false,
        }
    }

    /// Counts one reference more for each id. Ids that are not here are skipped and counted in the answer.
    pub(crate) fn add_refs(&mut self, ids: &[BlockId]) -> usize {
        let mut missing = 0;
        for id in ids {
            match self.blocks.get_mut(id) {
                Some(block) => {
                    block.refs += 1;
                    if block.refs == 1 {
                        self.totals.blocks += 1;
                        self.totals.unique_bytes += u64::from(block.location.len);
                        self.totals.physical_bytes += block.footprint();
                    }
                }
                None => missing += 1,
            }
        }
        missing
    }

    /// Counts one reference less for each id and frees what nothing else holds.
    pub(crate) fn drop_refs(&mut self, ids: &[BlockId]) {
        for id in ids {
            let Some(block) = self.blocks.get_mut(id) else { continue };
            let Some(refs) = block.refs.checked_sub(1) else { continue };
            block.refs = refs;
            if refs == 0 {
                self.totals.blocks -= 1;
                self.totals.unique_bytes -= u64::from(block.location.len);
                self.totals.physical_bytes -= block.footprint();
                self.free_unless_held(*id);
            }
        }
    }

    fn free_unless_held(&mut self, id: BlockId) {
        if let MapEntry::Occupied(occupied) = self.blocks.entry(id)
            && occupied.get().refs == 0
            && occupied.get().pins == 0
        {
            let block = occupied.remove();
            self.drop_record(block.location, BLOCK_KEY);
        }
    }

    /// Takes a durable reference set. Its references were counted before (see [`Self::add_refs`]).
    pub(crate) fn insert_refset(&mut self, session: SessionId, part: PartNo, set: RefSet) {
        self.add_record(set.location, SET_KEY);
        self.totals.physical_bytes += u64::from(set.location.len) + record_overhead(SET_KEY);
        if let Some(old) = self.refsets.entry(session).or_default().insert(part, set) {
            // At recovery: the set was moved. Its old copy is dead, but comes back if only that file is left.
            self.totals.physical_bytes -= u64::from(old.location.len) + record_overhead(SET_KEY);
            self.stale_sets.entry(old.location.file).or_default().insert(session);
            self.bury(old);
        }
    }

    /// The set's record is needed no more. Separate from [`Self::release`], because the payload is read in between.
    pub(crate) fn bury(&mut self, set: RefSet) {
        self.drop_record(set.location, SET_KEY);
    }

    fn add_record(&mut self, location: Location, key_len: u64) {
        let file = self.files.entry(location.file).or_default();
        file.live += 1;
        file.bytes += u64::from(location.len) + record_overhead(key_len);
    }

    fn drop_record(&mut self, location: Location, key_len: u64) {
        self.died += 1;
        if let Some(file) = self.files.get_mut(&location.file) {
            file.live = file.live.saturating_sub(1);
            file.bytes = file.bytes.saturating_sub(u64::from(location.len) + record_overhead(key_len));
        }
    }

    /// What of the file is needed.
    pub(crate) fn file_use(&self, file: u32) -> FileUse {
        self.files.get(&file).copied().unwrap_or_default()
    }

    /// Grows whenever a record dies: unchanged means that no file has become emptier.
    pub(crate) fn died(&self) -> u64 {
        self.died
    }

    /// Whether nothing in the file is needed.
    pub(crate) fn is_dead(&self, file: u32) -> bool {
        self.files.get(&file).is_none_or(|usage| usage.live == 0)
    }

    /// Pins every block without a reference under [`ORPHANS`]; called once, at the end of recovery.
    pub(crate) fn adopt_orphans(&mut self) {
        let orphans: Vec<BlockId> =
            self.blocks.iter().filter(|(_, block)| block.refs == 0).map(|(id, _)| *id).collect();
        for id in orphans {
            self.pin(ORPHANS, id);
            self.free_unless_held(id);
        }
    }

    /// Where the referenced blocks lie and how often they are referenced, for the derived cache.
    pub(crate) fn counts(&self) -> Vec<(u32, format::FileCounts)> {
        let mut files: BTreeMap<u32, format::FileCounts> = BTreeMap::new();
        for block in self.blocks.values().filter(|block| block.refs > 0) {
            files.entry(block.location.file).or_default().push((block.location.offset, block.refs));
        }
        for counts in files.values_mut() {
            counts.sort_unstable();
        }
        files.into_iter().collect()
    }

    /// Takes the reference counts of the derived cache. Answers whether every place in it holds a block; nothing was
    /// counted when not.
    pub(crate) fn restore_counts(&mut self, files: &[(u32, format::FileCounts)]) -> bool {
        let counts: HashMap<(u32, u32), u32> = files
            .iter()
            .flat_map(|(file, counts)| counts.iter().map(|(offset, refs)| ((*file, *offset), *refs)))
            .collect();
        let place = |block: &Block| (block.location.file, block.location.offset);
        let found = self.blocks.values().filter(|block| counts.contains_key(&place(block))).count();
        if found != counts.len() {
            return false;
        }
        for block in self.blocks.values_mut() {
            if let Some(refs) = counts.get(&place(block)) {
                block.refs = *refs;
                self.totals.blocks += 1;
                self.totals.unique_bytes += u64::from(block.location.len);
                self.totals.physical_bytes += block.footprint();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: u32, offset: u32) -> Location {
        Location { file, offset, len: 100 }
    }

    fn id(n: u8) -> BlockId {
        BlockId::from_bytes([n; 32])
    }

    const S1: SessionId = SessionId::from_bytes([1; 16]);
    const S2: SessionId = SessionId::from_bytes([2; 16]);

    fn with_set(state: &mut State, session: SessionId, file: u32, ids: &[BlockId]) {
        assert_eq!(state.add_refs(ids), 0);
        state.insert_refset(session, PartNo(0), RefSet { location: at(file, 900), seal_seq: SealSeq(1) });
    }

    fn release(state: &mut State, session: SessionId, file: u32, ids: &[BlockId]) {
        for (_, set) in state.release(session, at(file, 950)) {
            state.drop_refs(ids);
            state.bury(set);
        }
    }

    #[test]
    fn i4_a_block_of_two_sets_is_freed_with_the_second_release_only() {
        let mut state = State::default();
        state.insert_block(id(1), at(1, 0));
        with_set(&mut state, S1, 1, &[id(1)]);
        with_set(&mut state, S2, 1, &[id(1)]);
        release(&mut state, S1, 2, &[id(1)]);
        assert!(state.has(&id(1)));
        release(&mut state, S2, 2, &[id(1)]);
        assert!(!state.has(&id(1)));
        assert_eq!(state.totals(), Totals::default());
    }

    #[test]
    fn a_pin_keeps_a_block_and_an_unpin_frees_it() {
        let mut state = State::default();
        state.insert_block(id(1), at(1, 0));
        state.pin(S1, id(1));
        state.pin(S1, id(1));
        state.pin(S2, id(1));
        state.unpin(S1);
        assert!(state.has(&id(1)));
        state.unpin(S2);
        assert!(!state.has(&id(1)) && state.is_dead(1));
    }

    #[test]
    fn pins_of_a_session_that_fell_silent_are_swept_and_those_of_a_busy_one_are_not() {
        let mut state = State::default();
        state.insert_block(id(1), at(1, 0));
        state.insert_block(id(2), at(1, 200));
        state.pin(S1, id(1));
        state.pin(S2, id(2));
        for _ in 0..3 {
            state.sweep_pins();
            state.pin(S2, id(2));
        }
        assert!(!state.has(&id(1)) && state.has(&id(2)));
    }

    #[test]
    fn a_damaged_block_counts_as_missing_and_is_healed_in_place() {
        let mut state = State::default();
        state.insert_block(id(1), at(1, 0));
        with_set(&mut state, S1, 1, &[id(1)]);
        assert!(state.mark_bad(&id(1), at(1, 0)));
        assert!(!state.mark_bad(&id(1), at(9, 9)));
        assert!(!state.has(&id(1)));
        state.insert_block(id(1), at(3, 0));
        let block = state.block(&id(1)).unwrap();
        assert!(!block.bad && block.refs == 1 && block.location == at(3, 0));
    }

    #[test]
    fn orphans_of_a_restart_stay_until_they_are_dropped() {
        let mut state = State::default();
        state.recover_block(id(1), at(1, 0));
        state.recover_block(id(1), at(2, 0));
        state.adopt_orphans();
        assert!(state.has(&id(1)) && state.is_dead(1) && !state.is_dead(2));
        state.unpin(ORPHANS);
        assert!(!state.has(&id(1)) && state.is_dead(2));
    }
}
