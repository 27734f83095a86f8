//! Long work on a shared index, in steps: each visits a bounded number of entries in one hold of the
//! mutex, and requests get the index in between.
//!
//! Every step leaves the index as its invariants say, so whatever a request does between two steps is
//! safe by itself. What follows is why the work as a whole is:
//!
//! ```text
//! drop pins      the pins left the table BEFORE the first step; a pin of later counts beside them
//! drop refs      each id counts for itself, and its set has left the table; a seal counts its own
//! adopt orphans  a hold has ended; what loses its last holder in between is freed like any block
//! remove file    its contents are gone; releases count as needed until their turn, which frees nothing
//! ```
//! A doubt that is entered between two steps holds the index, so the next step frees no block.

use cstore_log::Location;
use cstore_types::{BlockId, SessionId};
use parking_lot::MutexGuard;

use super::{Index, PinTicket, SharedIndex};
use crate::limits::{BLOCK_SHARDS, INDEX_STEP};

/// Calls `step` until it returns true, each time in another hold of the index.
fn in_steps(index: &SharedIndex, mut step: impl FnMut(&mut Index) -> bool) {
    loop {
        let mut guard = index.lock();
        let is_done = step(&mut guard);
        // Whoever waits gets the index next. Otherwise this thread might take it over and over.
        MutexGuard::unlock_fair(guard);
        if is_done {
            return;
        }
    }
}

/// Drops the pins that have ended up to `ticket`, and frees blocks that nothing else holds. Blocks
/// the thread.
pub(crate) fn drop_pins(index: &SharedIndex, ticket: PinTicket) {
    in_steps(index, |index| index.drop_ended_pins(ticket));
}

/// Drops pins like [`drop_pins`]: one step where it is called, which is enough for most uploads, and
/// the others on a blocking thread. If the caller is gone the steps go on.
pub(crate) async fn drop_pins_aside(index: &SharedIndex, ticket: PinTicket) {
    if index.lock().drop_ended_pins(ticket) {
        return;
    }
    let index = index.clone();
    let dropping = cstore_node::blocking(move || drop_pins(&index, ticket));
    if let Err(error) = dropping.await {
        tracing::error!(%error, "drop of pins broke off; the next one goes on with it");
    }
}

/// Counts one reference less for each id, and frees blocks that nothing else holds.
pub(crate) fn drop_refs(index: &SharedIndex, ids: &[BlockId]) {
    let mut chunks = ids.chunks(INDEX_STEP);
    in_steps(index, |index| match chunks.next() {
        Some(chunk) => {
            index.drop_refs(chunk);
            false
        }
        None => true,
    });
}

/// Pins every block that nothing holds under the session of orphans: at the end of recovery, and of
/// a hold. Blocks the thread.
pub(crate) fn adopt_orphans(index: &SharedIndex) {
    let mut shards = 0..BLOCK_SHARDS;
    in_steps(index, |index| match shards.next() {
        Some(shard) => {
            index.adopt_orphans(shard);
            false
        }
        None => true,
    });
}

/// Forgets a file whose contents can never come back. Blocks the thread.
pub(crate) fn remove_file(index: &SharedIndex, file: u32) {
    in_steps(index, |index| index.remove_file(file));
}

/// Returns the blocks whose records lie in a file. Blocks the thread.
///
/// A block whose record comes into the file after its shard was visited is missing: it was written or
/// moved just then, so its bytes were verified.
pub(crate) fn blocks_in(index: &SharedIndex, file: u32) -> Vec<(BlockId, Location)> {
    let mut records = Vec::new();
    let mut shards = 0..BLOCK_SHARDS;
    in_steps(index, |index| match shards.next() {
        Some(shard) => {
            records.extend(index.blocks_in(shard, file));
            false
        }
        None => true,
    });
    records
}

/// Returns the sessions that hold reference sets, in order. One that comes or goes in between may be
/// among them or not.
pub(crate) fn sessions(index: &SharedIndex) -> Vec<SessionId> {
    let mut sessions: Vec<SessionId> = Vec::new();
    in_steps(index, |index| {
        let page = index.sessions_after(sessions.last().copied(), INDEX_STEP);
        sessions.extend(&page);
        page.len() < INDEX_STEP
    });
    sessions
}

/// Removes the sessions that hold no reference sets from `sessions`.
pub(crate) fn retain_held(index: &SharedIndex, sessions: &mut Vec<SessionId>) {
    let mut held = Vec::with_capacity(sessions.len());
    for chunk in sessions.chunks(INDEX_STEP) {
        let index = index.lock();
        held.extend(chunk.iter().filter(|session| index.holds_sets(**session)));
    }
    *sessions = held;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// The work ends only after another thread had the index: it would never end in one hold.
    #[test]
    fn others_get_the_index_between_two_steps() {
        let index = SharedIndex::default();
        let (is_begun, was_locked) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_begun.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                let _guard = index.lock();
                was_locked.store(true, Ordering::Release);
            });
            in_steps(&index, |_| {
                is_begun.store(true, Ordering::Release);
                was_locked.load(Ordering::Acquire)
            });
        });
    }

    #[test]
    fn sessions_are_listed_page_by_page_in_order() {
        let index = SharedIndex::default();
        let count = 2 * INDEX_STEP;
        let session = |n: usize| {
            let raw = [(n as u64).to_be_bytes(), [7; 8]].concat();
            SessionId::from_bytes(raw.try_into().unwrap())
        };
        for n in (0..count).rev() {
            let set = super::super::RefSet {
                location: Location::default(),
                seal_seq: cstore_types::SealSeq(1),
            };
            let mut index = index.lock();
            index.insert_refset(session(n), cstore_types::PartNo(0), set);
            assert!(index.sessions_after(None, INDEX_STEP).len() <= INDEX_STEP);
        }
        let all: Vec<SessionId> = (0..count).map(session).collect();
        assert_eq!(sessions(&index), all);

        let mut asked = vec![session(count), session(3), session(1)];
        retain_held(&index, &mut asked);
        assert_eq!(asked, [session(3), session(1)]);
    }
}
