//! Recovery: the index from the records of the log, and reference counts from the derived cache or
//! from the sets.

use cstore_log::RecoveredRecord;
use cstore_types::{SealSeq, SessionId};

use super::error::{EngineError, OpenError};
use super::format::{
    Bitmap, FormatError, KIND_DATA, KIND_MANIFEST, KIND_REFSET, KIND_RELEASE, parse_block_key,
    parse_refset_key, parse_release_key,
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
/// reference sets.
///
/// # Errors
/// [`EngineError`] if a set cannot be read.
pub(super) fn count_references(
    index: &SharedIndex,
    sets: &SetReader,
    cache: Option<Bitmap>,
) -> Result<(), EngineError> {
    if cache.is_some_and(|cache| index.lock().restore_counts(&cache.files)) {
        return Ok(());
    }

    // Nobody else has the disk yet, so the index does not change between these looks.
    let sessions: Vec<SessionId> = index.lock().sessions().collect();
    for session in sessions {
        let parts = index.lock().parts(session);
        for (part, set) in parts {
            let ids = sets.read(session, part, set)?;
            let missing = index.lock().add_refs(&ids);
            if missing > 0 {
                tracing::error!(%session, part = part.0, missing, "reference set names blocks that are not here");
            }
        }
    }
    Ok(())
}
