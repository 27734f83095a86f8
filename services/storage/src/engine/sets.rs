//! Reading reference sets back from the log. Every set is verified against its checksum.

use std::sync::Arc;

use bytes::Bytes;
use cstore_log::Location;
use cstore_types::{BlockId, PartNo, SessionId};

use super::error::EngineError;
use super::format::decode_refset;
use super::index::{RefSet, SharedIndex};
use super::locked_log::LockedLog;
use crate::limits::{MAX_READ_TRIES, SET_GAP_BYTES, SET_READ_BYTES};

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

    /// Calls `visit` with the ids of each of `sets`, or with the error of [`Self::read_twice`], in
    /// the order of their places: neighbours are read together.
    pub(super) fn read_in_place_order(
        &self,
        mut sets: Vec<(SessionId, PartNo, RefSet)>,
        visit: &mut dyn FnMut(SessionId, PartNo, RefSet, Result<Vec<BlockId>, EngineError>),
    ) {
        let end_of = |at: Location| u64::from(at.offset) + u64::from(at.len);
        sets.sort_unstable_by_key(|(.., set)| (set.location.file, set.location.offset));
        let mut rest = &sets[..];
        while let Some((.., first)) = rest.first() {
            let (file, start) = (first.location.file, u64::from(first.location.offset));
            let mut end = start;
            let together = rest.iter().take_while(|(.., set)| {
                let offset = u64::from(set.location.offset);
                let set_end = end_of(set.location);
                let is_near = set.location.file == file
                    && offset <= end + SET_GAP_BYTES
                    && set_end <= start + SET_READ_BYTES;
                end = if is_near { end.max(set_end) } else { end };
                is_near
            });
            let count = together.count().max(1);
            let (run, later) = rest.split_at(count);
            rest = later;

            let range = Location {
                file,
                offset: first.location.offset,
                len: u32::try_from(end - start).unwrap_or(0),
            };
            let bytes = self.log.read(range).unwrap_or_default();
            for (session, part, set) in run {
                let at = (u64::from(set.location.offset) - start) as usize;
                let payload = bytes.get(at..at + set.location.len as usize);
                let decoded = payload.map(|payload| decode_refset(*session, *part, payload));
                let read = match decoded {
                    Some(Ok(ids)) => Ok(ids),
                    _ => self.read_twice(*session, *part, *set),
                };
                visit(*session, *part, *set, read);
            }
        }
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
}
