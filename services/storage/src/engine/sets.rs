//! Reading reference sets back from the log. Every set is verified against its checksum.

use std::sync::Arc;

use bytes::Bytes;
use cstore_log::Location;
use cstore_types::{BlockId, PartNo, SessionId};

use super::error::EngineError;
use super::format::decode_refset;
use super::index::{RefSet, SharedIndex};
use super::locked_log::LockedLog;
use crate::limits::MAX_READ_TRIES;

/// Reads reference sets. Every method blocks the thread. Clones share the log and the index.
#[derive(Debug, Clone)]
pub(super) struct SetReader {
    log: Arc<LockedLog>,
    index: SharedIndex,
}

impl SetReader {
    pub(super) fn new(log: Arc<LockedLog>, index: SharedIndex) -> Self {
        Self { log, index }
    }

    /// Returns the ids of a set, in the order of its seal.
    ///
    /// # Errors
    /// [`EngineError::RefSet`] if the bytes are no set of this part, [`EngineError::Log`] if they
    /// cannot be read. The set may have moved, see [`Self::read_current`].
    pub(super) fn read(
        &self,
        session: SessionId,
        part: PartNo,
        set: RefSet,
    ) -> Result<Vec<BlockId>, EngineError> {
        let payload = self.log.read(set.location)?;
        decode_refset(session, part, &payload)
            .map_err(|source| EngineError::RefSet { session, source })
    }

    /// Reads a set like [`Self::read`], and a second time if that fails: one failed read is no
    /// verdict.
    ///
    /// # Errors
    /// The errors of [`Self::read`], of the second try.
    pub(super) fn read_twice(
        &self,
        session: SessionId,
        part: PartNo,
        set: RefSet,
    ) -> Result<Vec<BlockId>, EngineError> {
        self.read(session, part, set)
            .or_else(|_| self.read(session, part, set))
    }

    /// Returns the payload of a set after it was verified.
    ///
    /// # Errors
    /// The errors of [`Self::read`].
    pub(super) fn read_payload(
        &self,
        session: SessionId,
        part: PartNo,
        location: Location,
    ) -> Result<Bytes, EngineError> {
        let payload = self.log.read(location)?;
        decode_refset(session, part, &payload)
            .map_err(|source| EngineError::RefSet { session, source })?;
        Ok(payload)
    }

    /// Returns the ids of a set that may be moved or released while it is read; `None` if it was
    /// released.
    ///
    /// # Errors
    /// The errors of [`Self::read`] if the set is still at the location that failed;
    /// [`EngineError::Busy`] if the set keeps moving.
    pub(super) fn read_current(
        &self,
        session: SessionId,
        part: PartNo,
        mut set: RefSet,
    ) -> Result<Option<Vec<BlockId>>, EngineError> {
        let mut tries = 1;
        loop {
            let error = match self.read(session, part, set) {
                Ok(ids) => return Ok(Some(ids)),
                Err(error) => error,
            };

            // The file may have been recycled after a move: only the current place proves damage.
            match self.index.lock().refset(session, part) {
                Some(current) if current != set && tries < MAX_READ_TRIES => set = current,
                Some(current) if current != set => {
                    return Err(EngineError::Busy("reference set keeps moving"));
                }
                Some(_) => return Err(error),
                None => return Ok(None),
            }
            tries += 1;
        }
    }

    /// Returns the ids in all sets of a session.
    ///
    /// # Errors
    /// The errors of [`Self::read_current`].
    pub(super) fn ids_of(&self, session: SessionId) -> Result<Vec<BlockId>, EngineError> {
        let parts = self.index.lock().parts(session);
        let mut ids = Vec::new();
        for (part, set) in parts {
            ids.extend(self.read_current(session, part, set)?.into_iter().flatten());
        }
        Ok(ids)
    }
}
