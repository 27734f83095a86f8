//! Holdings: what sessions hold here, and what would come back if some of them ended. Changes
//! nothing.

use std::collections::HashMap;

use cstore_types::{BlockId, SessionId, SessionUsage, SpaceUsage};

use super::error::EngineError;
use super::index::{SharedIndex, Totals, steps};
use super::sets::SetReader;
use crate::limits::{MAX_USAGE_BLOCKS, USAGE_LOOKUPS};

/// Counts what is held. Clones share everything.
#[derive(Debug, Clone)]
pub struct Holdings {
    index: SharedIndex,
    sets: SetReader,
}

impl Holdings {
    pub(super) fn new(index: SharedIndex, sets: SetReader) -> Self {
        Self { index, sets }
    }

    /// Returns the live totals.
    pub fn totals(&self) -> Totals {
        self.index.lock().totals()
    }

    /// Returns the sessions that hold reference sets here, in order. Blocks the thread.
    pub fn sessions(&self) -> Vec<SessionId> {
        steps::sessions(&self.index)
    }

    /// Removes the sessions that hold no reference sets here from `sessions`.
    pub(crate) fn retain_held(&self, sessions: &mut Vec<SessionId>) {
        steps::retain_held(&self.index, sessions);
    }

    /// Returns what these sessions hold, given which of them would end. Sessions without sets hold
    /// nothing. Blocks the thread.
    ///
    /// The result is of a moment: uploads and releases go on. Pins do not count, they expire.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] if the sessions hold more than 2 Mi distinct blocks; of the disk.
    pub fn usage(&self, sessions: &[SessionUsage]) -> Result<SpaceUsage, EngineError> {
        // For each block, its occurrences in sets that would go.
        let mut blocks: HashMap<BlockId, u32> = HashMap::new();
        for SessionUsage { session, ends } in sessions {
            let parts = self.index.lock().parts(*session);
            // Set by set: the ids of a whole session may be more than memory holds.
            for (part, set) in parts {
                let ids = self.sets.read_current(*session, part, set)?;
                for id in ids.into_iter().flatten() {
                    *blocks.entry(id).or_default() += u32::from(*ends);
                }
                if blocks.len() > MAX_USAGE_BLOCKS {
                    let text = format!(
                        "these files hold more than {MAX_USAGE_BLOCKS} distinct blocks on one storage node"
                    );
                    return Err(EngineError::Invalid(text));
                }
            }
        }

        let mut usage = SpaceUsage::default();
        let blocks: Vec<(BlockId, u32)> = blocks.into_iter().collect();
        for chunk in blocks.chunks(USAGE_LOOKUPS) {
            let index = self.index.lock();
            for (id, going) in chunk {
                // A block that was released since its set was read holds nothing any more.
                let Some(block) = index.block(id) else {
                    continue;
                };
                let bytes = u64::from(block.location.len);
                usage.blocks += 1;
                usage.bytes += bytes;
                if block.refs > *going {
                    usage.shared_blocks += 1;
                    usage.shared_bytes += bytes;
                }
            }
        }
        Ok(usage)
    }
}
