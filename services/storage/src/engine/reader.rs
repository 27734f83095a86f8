//! Reading blocks: every byte is verified before it leaves (I8).

use bytes::Bytes;
use cstore_log::Location;
use cstore_types::BlockId;

use super::Engine;
use crate::EngineError;

/// How often a read starts again because its block moved meanwhile.
pub const MAX_READ_TRIES: usize = 3;

impl Engine {
    /// The verified bytes of a block. Blocks the thread: call it from a blocking one.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] when it is not here, [`EngineError::DataLoss`] when its bytes are damaged; it then
    /// counts as missing until it is put again.
    pub fn read_block(&self, id: &BlockId) -> Result<Bytes, EngineError> {
        for _ in 0..MAX_READ_TRIES {
            let block = self.shared.lock().state.block(id).ok_or(EngineError::NotFound)?;
            if block.bad {
                return Err(EngineError::DataLoss);
            }
            match self.read_verified(id, block.location) {
                Ok(bytes) => {
                    self.counters.read_blocks.add(1);
                    self.counters.read_bytes.add(bytes.len() as u64);
                    return Ok(bytes);
                }
                Err(EngineError::DataLoss) => return Err(EngineError::DataLoss),
                // It moved meanwhile, and its old file was recycled.
                Err(_) => {}
            }
        }
        Err(EngineError::Busy("block keeps moving"))
    }

    /// The bytes at `location`, if they are the block. Otherwise the block is marked as damaged, if that is still its
    /// place.
    pub(super) fn read_verified(&self, id: &BlockId, location: Location) -> Result<Bytes, EngineError> {
        let read = self.log.read(location);
        if let Ok(bytes) = &read
            && id.matches(&self.key, bytes)
        {
            return read.map_err(EngineError::from);
        }
        // The file may have been recycled after a move. Only a record that is still the current one is damaged.
        let damaged = self.shared.lock().state.mark_bad(id, location);
        if damaged {
            self.counters.damaged_blocks.add(1);
            tracing::error!(block = ?id, ?location, "stored block is damaged");
            return Err(EngineError::DataLoss);
        }
        Err(EngineError::NotFound)
    }
}
