//! Pins: blocks that must stay while an upload may still refer to them.
//!
//! ```text
//! add ─▶ young ─ sweep ─▶ old ─ sweep ─▶ ended ─ take_ended, step by step ─▶ gone
//!          ▲                │              ▲
//!          └────── add ─────┘   end ───────┘
//! ```
//! A session may pin millions of blocks, so that its pins end in two moves. All of them leave the
//! table at once, which costs the same however many they are; the blocks are counted down later, a
//! bounded number of them in one hold of the index.
//!
//! Invariants
//! * A pin that has ended counts at its block until [`PinTable::take_ended`] has returned it. What
//!   the session pins anew in between is another pin, which counts beside it.
//! * The tables are trees: a hash table would move all of its entries at once when it grows.

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map};
use std::iter::Flatten;

use cstore_types::{BlockId, SessionId};

use super::blocks::Block;
use super::{Index, ORPHANS};
use crate::limits::{INDEX_STEP, MAX_PINS};

/// The pins of sessions, at least one of each.
type Sessions = BTreeMap<SessionId, BTreeSet<BlockId>>;

/// Pins that have ended and still count at their blocks.
type EndedPins = Flatten<btree_map::IntoValues<SessionId, BTreeSet<BlockId>>>;

/// A position in the sequence of pins that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PinTicket(u64);

/// The pins of all sessions.
#[derive(Debug, Default)]
pub(super) struct PinTable {
    /// Sessions that pinned something since the last sweep.
    young: Sessions,
    /// Sessions that pinned nothing since the last sweep, but since the one before.
    old: Sessions,
    /// Pins that have ended, in the order of their ends.
    ended: VecDeque<EndedPins>,
    /// Members that `ended` has had.
    n_ended: u64,
    /// Members of `ended` that are gone.
    n_dropped: u64,
    /// Ids over all sessions, with those in `ended`.
    n_ids: usize,
}

impl PinTable {
    /// Adds a pin, and notes that the session is active. Returns false if the session pins the
    /// block already, or the limit is reached.
    pub(super) fn add(&mut self, session: SessionId, id: BlockId) -> bool {
        if !self.young.contains_key(&session)
            && let Some(pins) = self.old.remove(&session)
        {
            self.young.insert(session, pins);
        }
        if self.n_ids >= MAX_PINS {
            return false;
        }

        let is_new = self.young.entry(session).or_default().insert(id);
        self.n_ids += usize::from(is_new);
        is_new
    }

    /// Ends the pins of a session.
    pub(super) fn end(&mut self, session: SessionId) -> PinTicket {
        let young = self.young.remove(&session);
        let pins = young.or_else(|| self.old.remove(&session));
        self.push_ended(pins.into_iter().map(|pins| (session, pins)).collect())
    }

    /// Sweeps: ends the pins of the sessions that pinned nothing since the sweep before the last
    /// one.
    pub(super) fn end_silent(&mut self) -> PinTicket {
        let young = std::mem::take(&mut self.young);
        let silent = std::mem::replace(&mut self.old, young);
        self.push_ended(silent)
    }

    fn push_ended(&mut self, sessions: Sessions) -> PinTicket {
        if !sessions.is_empty() {
            self.ended.push_back(sessions.into_values().flatten());
            self.n_ended += 1;
        }
        PinTicket(self.n_ended)
    }

    /// Takes up to `max` pins that have ended up to `ticket`, oldest first.
    pub(super) fn take_ended(&mut self, ticket: PinTicket, max: usize) -> Vec<BlockId> {
        let mut ids = Vec::new();
        while ids.len() < max && !self.is_dropped(ticket) {
            match self.ended.front_mut().and_then(Iterator::next) {
                Some(id) => ids.push(id),
                None => {
                    self.ended.pop_front();
                    self.n_dropped += 1;
                }
            }
        }
        self.n_ids = self.n_ids.saturating_sub(ids.len());
        ids
    }

    /// Returns true if all pins that have ended up to `ticket` are gone.
    pub(super) fn is_dropped(&self, ticket: PinTicket) -> bool {
        self.n_dropped >= ticket.0
    }
}

impl Index {
    /// Pins a block that is here, so that it stays while an upload may still refer to it.
    pub(crate) fn pin(&mut self, session: SessionId, id: BlockId) {
        let pins = &mut self.pins;
        self.blocks.update(&id, |block| {
            let is_new = pins.add(session, id);
            block.pins = block.pins.saturating_add(is_new.into());
        });
    }

    /// Ends all pins of a session. They count until [`Self::drop_ended_pins`] has dropped them.
    pub(crate) fn end_pins(&mut self, session: SessionId) -> PinTicket {
        self.pins.end(session)
    }

    /// Ends the pins of sessions that pinned nothing since the sweep before the last one: their
    /// uploads are gone. The pins count until [`Self::drop_ended_pins`] has dropped them.
    pub(crate) fn end_silent_pins(&mut self) -> PinTicket {
        self.pins.end_silent()
    }

    /// Drops up to [`INDEX_STEP`] pins that have ended up to `ticket`, and frees blocks that nothing
    /// else holds. Returns true if none of them is left. Whoever ended them may be gone: the next
    /// caller drops them first.
    pub(crate) fn drop_ended_pins(&mut self, ticket: PinTicket) -> bool {
        for id in self.pins.take_ended(ticket, INDEX_STEP) {
            self.release_block(id, |block| block.pins = block.pins.saturating_sub(1));
        }
        self.pins.is_dropped(ticket)
    }

    /// Pins the blocks of one of the [`BLOCK_SHARDS`] shards that nothing holds under [`ORPHANS`].
    pub(crate) fn adopt_orphans(&mut self, shard: usize) {
        let is_orphan = |block: &Block| !block.is_held();
        let orphans: Vec<BlockId> = self
            .blocks
            .iter_shard(shard)
            .filter(|(_, block)| is_orphan(block))
            .map(|(id, _)| id)
            .collect();
        for id in orphans {
            self.pin(ORPHANS, id);
            // Beyond the limit of pins the block was not pinned.
            self.release_block(id, |_| {});
        }
    }
}

/// The long work in one call, for tests.
#[cfg(test)]
impl Index {
    pub(crate) fn unpin(&mut self, session: SessionId) {
        let ticket = self.end_pins(session);
        while !self.drop_ended_pins(ticket) {}
    }

    pub(crate) fn sweep_pins(&mut self) {
        let ticket = self.end_silent_pins();
        while !self.drop_ended_pins(ticket) {}
    }

    pub(crate) fn adopt_all_orphans(&mut self) {
        (0..crate::limits::BLOCK_SHARDS).for_each(|shard| self.adopt_orphans(shard));
    }
}

#[cfg(test)]
mod tests {
    use cstore_log::Location;

    use super::*;

    const S1: SessionId = SessionId::from_bytes([1; 16]);
    const S2: SessionId = SessionId::from_bytes([2; 16]);
    /// Two whole steps and a part of one.
    const COUNT: usize = 2 * INDEX_STEP + 10;

    fn id(n: usize) -> BlockId {
        let mut raw = [0; 32];
        raw[..8].copy_from_slice(&(n as u64).to_le_bytes());
        BlockId::from_bytes(raw)
    }

    fn at(n: usize) -> Location {
        Location {
            file: 1,
            offset: u32::try_from(n).unwrap(),
            len: 100,
        }
    }

    fn n_here(index: &Index) -> usize {
        (0..COUNT).filter(|n| index.has(&id(*n))).count()
    }

    /// Blocks that `S1` pins.
    fn pinned() -> Index {
        let mut index = Index::default();
        for n in 0..COUNT {
            index.insert_block(id(n), at(n));
            index.pin(S1, id(n));
        }
        index
    }

    #[test]
    fn the_pins_of_a_session_are_dropped_a_bounded_number_in_one_hold() {
        let mut index = pinned();
        let ticket = index.end_pins(S1);
        let mut left = COUNT;
        while !index.drop_ended_pins(ticket) {
            assert_eq!(n_here(&index), left - INDEX_STEP);
            left -= INDEX_STEP;
        }
        assert_eq!((left, n_here(&index)), (10, 0));
        assert!(index.is_dead(1));
    }

    /// Each block is wanted by a request between two steps, whether its turn has come or not.
    #[test]
    fn i4_what_is_pinned_or_sealed_between_two_steps_of_an_unpin_stays() {
        let mut index = pinned();
        let ticket = index.end_pins(S1);
        assert!(!index.drop_ended_pins(ticket));
        let here: Vec<usize> = (0..COUNT).filter(|n| index.has(&id(*n))).collect();
        assert_eq!(here.len(), COUNT - INDEX_STEP);
        for n in &here {
            match n % 3 {
                // The session itself goes on, after a repeated Unpin for example.
                0 => index.pin(S1, id(*n)),
                1 => index.pin(S2, id(*n)),
                _ => assert_eq!(index.add_refs(&[id(*n)]), 0),
            }
        }
        // A put brings back one that the first step has freed.
        let gone = (0..COUNT).find(|n| !index.has(&id(*n))).unwrap();
        index.insert_block(id(gone), at(gone));
        index.pin(S1, id(gone));
        while !index.drop_ended_pins(ticket) {}
        assert_eq!(n_here(&index), here.len() + 1);

        index.unpin(S1);
        index.unpin(S2);
        let refs = here.iter().filter(|n| *n % 3 == 2).count();
        assert_eq!(n_here(&index), refs, "the later pins were not lost");
    }

    #[test]
    fn i4_a_doubt_between_two_steps_of_an_unpin_keeps_the_rest_of_the_blocks() {
        let mut index = pinned();
        let ticket = index.end_pins(S1);
        assert!(!index.drop_ended_pins(ticket));
        index.hold(true);
        while !index.drop_ended_pins(ticket) {}
        assert_eq!(n_here(&index), COUNT - INDEX_STEP);
        index.hold(false);
        index.adopt_all_orphans();
        index.unpin(ORPHANS);
        assert_eq!(n_here(&index), 0);
    }

    /// The pins of a caller that is gone are dropped by the next one, before its own.
    #[test]
    fn pins_that_ended_are_dropped_in_order_whoever_ended_them() {
        let mut index = pinned();
        index.insert_block(id(COUNT), at(COUNT));
        index.pin(S2, id(COUNT));
        let gone = index.end_pins(S1);
        let ticket = index.end_pins(S2);
        assert!(ticket > gone);
        while !index.drop_ended_pins(gone) {}
        assert!(n_here(&index) == 0 && index.has(&id(COUNT)));
        while !index.drop_ended_pins(ticket) {}
        assert!(!index.has(&id(COUNT)));
        let nothing = index.end_pins(S1);
        assert!(index.drop_ended_pins(nothing));
    }

    #[test]
    fn a_sweep_ends_pins_at_once_and_drops_them_in_steps() {
        let mut index = Index::default();
        for n in 0..COUNT {
            let mut raw = [7; 16];
            raw[..8].copy_from_slice(&(n as u64).to_le_bytes());
            index.insert_block(id(n), at(n));
            index.pin(SessionId::from_bytes(raw), id(n));
        }
        let first = index.end_silent_pins();
        assert!(index.drop_ended_pins(first), "all were young");
        let ticket = index.end_silent_pins();
        assert_eq!(n_here(&index), COUNT);
        assert!(!index.drop_ended_pins(ticket));
        assert_eq!(n_here(&index), COUNT - INDEX_STEP);
        while !index.drop_ended_pins(ticket) {}
        assert_eq!(n_here(&index), 0);
    }

    /// Pins that end in between leave room for others only when they are dropped.
    #[test]
    fn pins_that_ended_count_towards_the_limit_until_they_are_dropped() {
        let mut table = PinTable {
            n_ids: MAX_PINS - 1,
            ..PinTable::default()
        };
        assert!(table.add(S1, id(1)));
        assert!(!table.add(S2, id(2)), "full");
        assert!(
            table.young.len() == 1,
            "a session without pins takes no room"
        );
        let ticket = table.end(S1);
        assert!(!table.add(S2, id(2)));
        assert_eq!(table.take_ended(ticket, 9), [id(1)]);
        assert!(table.add(S2, id(2)));
    }
}
