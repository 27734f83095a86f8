//! The segment that is being emptied, and the records of its directory.

use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{DirectoryEntry, Location};

use super::super::format::{
    FormatError, KIND_BAD, KIND_DATA, KIND_MANIFEST, KIND_REFSET, KIND_RELEASE, bad_key,
    parse_bad_key, parse_block_key, parse_refset_key, parse_release_key, refset_key,
};
use super::super::index::Live;
use crate::limits::{MAX_FENCE_WAITS, SMALLEST_COPY};

/// A record of the victim that was there when its directory was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) kind: u8,
    pub(super) live: Live,
    pub(super) location: Location,
}

impl TryFrom<&DirectoryEntry> for Entry {
    type Error = FormatError;

    fn try_from(entry: &DirectoryEntry) -> Result<Self, FormatError> {
        let live = match entry.kind {
            KIND_DATA | KIND_MANIFEST => Live::Block(parse_block_key(&entry.key)?),
            KIND_REFSET => {
                let (session, part) = parse_refset_key(&entry.key)?;
                Live::Set(session, part)
            }
            KIND_RELEASE => Live::Release(parse_release_key(&entry.key)?),
            KIND_BAD => {
                let (id, place) = parse_bad_key(&entry.key)?;
                Live::Verdict(id, place)
            }
            _ => return Err(FormatError::Damaged),
        };
        Ok(Self {
            kind: entry.kind,
            live,
            location: entry.location,
        })
    }
}

impl Entry {
    /// Returns the key of the record as it stands on the disk.
    pub(super) fn key(&self) -> Bytes {
        match &self.live {
            Live::Block(id) => Bytes::copy_from_slice(id.as_bytes()),
            Live::Set(session, part) => refset_key(*session, *part),
            Live::Release(session) => Bytes::copy_from_slice(session.as_bytes()),
            Live::Verdict(id, place) => bad_key(id, *place),
        }
    }
}

/// The segment that is being emptied.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) file: u32,
    /// Shared with the thread that verifies them: a segment may have a million.
    pub(super) entries: Arc<Vec<Entry>>,
    /// Position in `entries` where the next batch begins.
    pub(super) at: usize,
    /// Limit of the payload bytes of one group. Smaller when the room is in pieces.
    pub(super) limit: usize,
    /// Something in the segment is damaged and stays.
    pub(super) damaged: bool,
    /// All needed records were read and are good, so the copy may use compaction's own reserve.
    pub(super) verified: bool,
    /// Records that a seal, a release or another move kept when they were to move.
    pub(super) kept: Vec<Entry>,
    /// Waits for those so far.
    waits: usize,
}

/// A position in a victim.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    at: usize,
    n_kept: usize,
}

impl Victim {
    pub(super) fn new(file: u32, entries: Vec<Entry>, limit: usize) -> Self {
        Self {
            file,
            entries: Arc::new(entries),
            at: 0,
            limit,
            damaged: false,
            verified: false,
            kept: Vec::new(),
            waits: 0,
        }
    }

    pub(super) fn position(&self) -> Position {
        Position {
            at: self.at,
            n_kept: self.kept.len(),
        }
    }

    /// Goes back to a position: the batch that began there was not written and is taken again.
    pub(super) fn rewind(&mut self, position: Position) {
        self.at = position.at;
        self.kept.truncate(position.n_kept);
    }

    /// Goes on with the records that were kept. Returns false if that was done often enough.
    pub(super) fn retry_kept(&mut self) -> bool {
        self.waits += 1;
        self.entries = Arc::new(std::mem::take(&mut self.kept));
        self.at = 0;
        self.waits <= MAX_FENCE_WAITS
    }

    /// Starts again with smaller groups. Returns false if they are as small as is useful.
    pub(super) fn shrink_groups(&mut self, group_bytes: usize) -> bool {
        self.limit /= 2;
        self.at = 0;
        // The records that were kept are met again.
        self.kept.clear();
        self.limit > group_bytes / SMALLEST_COPY
    }
}

#[cfg(test)]
mod tests {
    use cstore_types::{BlockId, SessionId};

    use super::*;

    fn entry(live: Live) -> Entry {
        Entry {
            kind: 1,
            live,
            location: Location {
                file: 1,
                offset: 0,
                len: 1,
            },
        }
    }

    fn half_done() -> Victim {
        let entries = vec![entry(Live::Block(BlockId::from_bytes([1; 32]))); 3];
        let mut victim = Victim::new(1, entries, 1 << 20);
        victim.at = 2;
        victim
            .kept
            .push(entry(Live::Release(SessionId::from_bytes([1; 16]))));
        victim
    }

    /// Each would be copied twice otherwise.
    #[test]
    fn a_victim_that_starts_again_with_smaller_groups_meets_kept_records_once() {
        let mut victim = half_done();
        assert!(victim.shrink_groups(1 << 20));
        assert_eq!((victim.at, victim.kept.len()), (0, 0));
    }

    #[test]
    fn a_victim_takes_a_batch_again_that_was_not_written() {
        let begun = Victim::new(1, Vec::new(), 1 << 20).position();
        let mut victim = half_done();
        victim.rewind(begun);
        assert_eq!((victim.at, victim.kept.len()), (0, 0));
    }

    #[test]
    fn a_victim_waits_for_kept_records_a_bounded_number_of_times() {
        let mut victim = half_done();
        let n_retries = (0..).take_while(|_| victim.retry_kept()).count();
        assert_eq!(n_retries, MAX_FENCE_WAITS);
    }
}
