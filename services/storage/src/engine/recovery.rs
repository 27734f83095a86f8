//! Recovery: the index from the records of the log, and reference counts from the derived cache or
//! from the sets.

use cstore_log::RecoveredRecord;
use cstore_types::{SealSeq, SessionId, error_chain};

use super::doubts::Finding;
use super::error::OpenError;
use super::format::{
    Bitmap, DoubtKind, FIRST_SKIPPED_KIND, FormatError, KIND_BAD, KIND_DATA, KIND_MANIFEST,
    KIND_REFSET, KIND_RELEASE, parse_bad_key, parse_block_key, parse_refset_key, parse_release_key,
};
use super::index::{Index, RefSet, SharedIndex};
use super::sets::SetReader;

/// The index of records that the log delivers in its order.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    index: Index,
    /// Records whose keys this program cannot read.
    unreadable: usize,
}

impl Recovery {
    pub(super) fn take(&mut self, record: &RecoveredRecord<'_>) {
        if self.try_take(record).is_err() {
            self.unreadable += 1;
        }
    }

    fn try_take(&mut self, record: &RecoveredRecord<'_>) -> Result<(), FormatError> {
        match record.kind {
            KIND_DATA | KIND_MANIFEST => {
                self.index
                    .recover_block(parse_block_key(record.key)?, record.location);
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
    let sessions: Vec<SessionId> = index.lock().sessions().collect();
    for session in sessions {
        let parts = index.lock().parts(session);
        for (part, set) in parts {
            match sets.read_twice(session, part, set) {
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
            }
        }
    }
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
