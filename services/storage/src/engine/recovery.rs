//! Recovery: the index from the records of the log, and reference counts from the derived cache or
//! from the sets.

use std::collections::BTreeSet;

use cstore_log::{Hole, Location, RecoveredRecord, Standing};
use cstore_types::{BlockId, DedupKey, PartNo, SealSeq, SessionId, error_chain};

use super::doubts::Finding;
use super::error::OpenError;
use super::format::{
    Bitmap, DoubtKind, FIRST_SKIPPED_KIND, FormatError, KIND_BAD, KIND_DATA, KIND_MANIFEST,
    KIND_REFSET, KIND_RELEASE, Place, decode_refset, parse_bad_key, parse_block_key,
    parse_refset_key, parse_release_key,
};
use super::index::{Index, RefSet, SharedIndex, place_of};
use super::locked_log::LockedLog;
use super::sets::SetReader;
use crate::limits::{KEY_SAMPLE, KEY_SAMPLE_OF_SEGMENT};

/// The index of records that the log delivers in its order.
#[derive(Debug)]
pub(super) struct Recovery {
    index: Index,
    /// `None` if nobody has it who only looks at the disk: every block of a damaged frame counts as
    /// damaged then.
    key: Option<DedupKey>,
    /// Records whose keys this program cannot read.
    unreadable: usize,
    /// Places of records of damaged frames that are no blocks and no whole sets.
    unexplained: Vec<Place>,
    /// The first blocks of the first segments.
    sample: Vec<(BlockId, Location)>,
}

impl Recovery {
    pub(super) fn new(key: Option<DedupKey>) -> Self {
        Self {
            index: Index::default(),
            key,
            unreadable: 0,
            unexplained: Vec::new(),
            sample: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, record: &RecoveredRecord<'_>) {
        if record.standing != Standing::Verified {
            self.take_unverified(record);
        } else if self.try_take(record).is_err() {
            self.unreadable += 1;
        }
    }

    /// Takes a record of a frame that is damaged, or that was searched for, for what its payload proves. A block that is damaged is
    /// known by its key, as one in a sealed segment. A release proves nothing: its sets stay, and
    /// the master names the session again.
    fn take_unverified(&mut self, record: &RecoveredRecord<'_>) {
        let place = place_of(record.location);
        let payload = record.payload;
        match record.kind {
            KIND_DATA | KIND_MANIFEST => {
                let Ok(id) = parse_block_key(record.key) else {
                    return self.unexplained.push(place);
                };
                let key = self.key.as_ref();
                if payload
                    .zip(key)
                    .is_some_and(|(payload, key)| id.matches(key, payload))
                {
                    self.index.recover_block(id, record.location);
                } else if self.index.block(&id).is_none() {
                    self.index.recover_block(id, record.location);
                    self.index.mark_bad(&id, record.location);
                    self.index.owe_verdict(id, place);
                }
            }
            KIND_REFSET => {
                let key = parse_refset_key(record.key);
                let is_whole = |(session, part)| {
                    payload.is_some_and(|payload| decode_refset(session, part, payload).is_ok())
                };
                match key {
                    Ok(key) if is_whole(key) => self.take_unverified_set(key, record),
                    _ => self.unexplained.push(place),
                }
            }
            _ => self.unexplained.push(place),
        }
    }

    /// Takes a set that only its own checksum proves, unless one is there that its frame proves: what a
    /// client has uploaded may look like a set.
    fn take_unverified_set(
        &mut self,
        (session, part): (SessionId, PartNo),
        record: &RecoveredRecord<'_>,
    ) {
        if self.index.refset(session, part).is_none() {
            let set = RefSet {
                location: record.location,
                seal_seq: SealSeq(record.frame_seq),
            };
            self.index.insert_refset(session, part, set);
        }
    }

    /// Returns false if ids of the first blocks are by another key: none is by this one, and a
    /// segment of them is as it was written. Reads that segment whole.
    pub(super) fn is_key_right(&self, log: &LockedLog) -> bool {
        let Some(key) = &self.key else { return true };
        let mut others = BTreeSet::new();
        for (id, location) in &self.sample {
            match log.read(*location) {
                Ok(bytes) if id.matches(key, &bytes) => return true,
                Ok(_) => drop(others.insert(location.file)),
                Err(_) => {}
            }
        }
        !others.iter().any(|file| log.verify(*file).is_ok())
    }

    /// Returns the holes that may hide more than blocks. In the others every record is known: blocks
    /// that are damaged have verdicts.
    pub(super) fn unexplained_holes(&self, holes: &[Hole]) -> Vec<Hole> {
        let is_unexplained = |hole: &&Hole| {
            // A record without payload may lie at the end of its frame.
            let bytes = hole.offset..=hole.offset + hole.len;
            let lies_in =
                |(file, offset): &Place| *file == hole.file && bytes.contains(&u64::from(*offset));
            !hole.is_told || self.unexplained.iter().any(lies_in)
        };
        holes.iter().filter(is_unexplained).copied().collect()
    }

    fn try_take(&mut self, record: &RecoveredRecord<'_>) -> Result<(), FormatError> {
        match record.kind {
            KIND_DATA | KIND_MANIFEST => {
                let id = parse_block_key(record.key)?;
                self.index.recover_block(id, record.location);
                let of_file =
                    |(_, known): &&(BlockId, Location)| known.file == record.location.file;
                if self.sample.len() < KEY_SAMPLE
                    && self.sample.iter().filter(of_file).count() < KEY_SAMPLE_OF_SEGMENT
                {
                    self.sample.push((id, record.location));
                }
            }
            KIND_REFSET => {
                let (session, part) = parse_refset_key(record.key)?;
                let set = RefSet {
                    location: record.location,
                    seal_seq: SealSeq(record.frame_seq),
                };
                self.index.insert_refset(session, part, set);
            }
            // The references of its sets were not counted yet, so only their records die.
            KIND_RELEASE => {
                let session = parse_release_key(record.key)?;
                for (_, set) in self.index.release(session, record.location) {
                    self.index.drop_set_record(set);
                }
            }
            KIND_BAD => {
                let (id, place) = parse_bad_key(record.key)?;
                self.index.note_verdict(id, place, record.location);
            }
            // The record is unknown, so its file MUST NOT be retired.
            FIRST_SKIPPED_KIND.. => self.index.mark_file_damaged(record.location.file),
            _ => return Err(FormatError::Damaged),
        }
        Ok(())
    }

    /// Returns the index, whose references are not counted yet.
    ///
    /// # Errors
    /// [`OpenError::Keys`] if a record could not be read.
    pub(super) fn finish(self) -> Result<Index, OpenError> {
        match self.unreadable {
            0 => Ok(self.index),
            unreadable => Err(OpenError::Keys(unreadable)),
        }
    }
}

/// Counts references: from the derived cache if `cache` is given and fits the index, else from the
/// reference sets. Returns what hides references: sets that cannot be read, and ids that sets name
/// and that are not here. A disk without findings is counted completely.
pub(super) fn count_references(
    index: &SharedIndex,
    sets: &SetReader,
    cache: Option<Bitmap>,
) -> Vec<Finding> {
    if cache.is_some_and(|cache| index.lock().restore_counts(&cache.files)) {
        return Vec::new();
    }

    // Nobody else has the disk yet, so the index does not change between these looks.
    let mut findings = Vec::new();
    let all = index.lock().all_sets();
    sets.read_in_place_order(all, &mut |session, part, set, read| match read {
        Ok(ids) => {
            let missing = index.lock().add_refs(&ids);
            if missing > 0 {
                tracing::error!(%session, part = part.0, missing, "reference set names blocks that are not here");
            }
        }
        Err(error) => {
            let error = error_chain(&error);
            tracing::error!(%session, part = part.0, %error, "reference set cannot be read");
            findings.push(Finding::of_set(session, set));
        }
    });
    findings.extend(absent_blocks(index));
    findings
}

/// Returns the finding about ids that sets name and that are not here, if there are any.
pub(super) fn absent_blocks(index: &SharedIndex) -> Option<Finding> {
    let n_absent = index.lock().n_absent();
    (n_absent > 0).then(|| Finding {
        count: u32::try_from(n_absent).unwrap_or(u32::MAX),
        ..Finding::new(DoubtKind::Absent)
    })
}
