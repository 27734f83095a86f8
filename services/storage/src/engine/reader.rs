//! Reading blocks: every byte is verified before it leaves (I8).

use std::sync::Arc;

use bytes::Bytes;
use cstore_log::Location;
use cstore_types::{BlockId, DedupKey};

use super::counters::Counters;
use super::error::EngineError;
use super::index::SharedIndex;
use super::locked_log::LockedLog;
use crate::limits::MAX_READ_TRIES;

/// Reads blocks. Every method blocks the thread. Clones share the log and the index.
#[derive(Debug, Clone)]
pub(super) struct BlockReader {
    log: Arc<LockedLog>,
    index: SharedIndex,
    counters: Counters,
    key: DedupKey,
}

impl BlockReader {
    pub(super) fn new(
        log: Arc<LockedLog>,
        index: SharedIndex,
        counters: Counters,
        key: DedupKey,
    ) -> Self {
        Self {
            log,
            index,
            counters,
            key,
        }
    }

    /// Returns the verified bytes of a block.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if the block is not here, [`EngineError::DataLoss`] if its bytes
    /// are damaged: it counts as missing then until it is put again. [`EngineError::Busy`] if it
    /// keeps moving.
    pub(super) fn read(&self, id: &BlockId) -> Result<Bytes, EngineError> {
        for _ in 0..MAX_READ_TRIES {
            let block = self.index.lock().block(id).ok_or(EngineError::NotFound)?;
            // Not read again: whoever repairs it puts it anew.
            if block.bad {
                return Err(EngineError::DataLoss);
            }
            match self.read_at(id, block.location) {
                Ok(bytes) => {
                    self.counters.read_blocks.inc();
                    self.counters.read_bytes.inc_by(bytes.len() as u64);
                    return Ok(bytes);
                }
                Err(EngineError::DataLoss) => return Err(EngineError::DataLoss),
                // The block moved after the look at the index, and its old file was recycled.
                Err(_) => {}
            }
        }
        Err(EngineError::Busy("block keeps moving"))
    }

    /// Returns the bytes at `location` if they are the block. If they are not, and that is still
    /// the place of the block, the block is marked as damaged.
    ///
    /// # Errors
    /// [`EngineError::DataLoss`] if the block is damaged, [`EngineError::NotFound`] if it is not
    /// there any more.
    pub(super) fn read_at(&self, id: &BlockId, location: Location) -> Result<Bytes, EngineError> {
        if let Ok(bytes) = self.log.read(location)
            && id.matches(&self.key, &bytes)
        {
            return Ok(bytes);
        }

        // The file may have been recycled after a move: only a record that is still the current one
        // is damaged.
        if !self.index.lock().mark_bad(id, location) {
            return Err(EngineError::NotFound);
        }
        self.counters.damaged_blocks.inc();
        tracing::error!(block = ?id, ?location, "stored block is damaged");
        Err(EngineError::DataLoss)
    }
}
