//! What sessions hold here, and what would come back if some of them ended: from the reference sets, changing nothing.

use std::collections::HashMap;

use cstore_types::{BlockId, SessionId, SessionUsage, SpaceUsage};

use super::Engine;
use crate::EngineError;

/// Most distinct blocks of one question; beyond it the answer would take too much memory.
const MAX_BLOCKS: usize = 2 << 20;
/// Blocks that are looked up under one hold of the mutex.
const LOOKUP: usize = 1_024;

impl Engine {
    /// What these sessions hold, with whether each of them would end. Sessions without sets hold nothing. Blocking.
    ///
    /// The answer is of a moment: uploads and releases go on meanwhile. Pins do not count, they go by themselves.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] when they hold more than 2 Mi distinct blocks; of the disk.
    pub fn usage(&self, sessions: &[SessionUsage]) -> Result<SpaceUsage, EngineError> {
        // How often each block stands in sets that would go.
        let mut blocks: HashMap<BlockId, u32> = HashMap::new();
        for SessionUsage { session, ends } in sessions {
            for id in self.ids_of(*session)? {
                *blocks.entry(id).or_default() += u32::from(*ends);
            }
            if blocks.len() > MAX_BLOCKS {
                let text =
                    format!("these files hold more than {MAX_BLOCKS} distinct blocks on one storage node");
                return Err(EngineError::Invalid(text));
            }
        }
        let mut usage = SpaceUsage::default();
        let blocks: Vec<(BlockId, u32)> = blocks.into_iter().collect();
        for some in blocks.chunks(LOOKUP) {
            let shared = self.shared.lock();
            for (id, going) in some {
                // Released meanwhile: it holds nothing any more.
                let Some(block) = shared.state.block(id) else { continue };
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

    /// The ids in all sets of a session. A set that moves or goes while it is read is looked for again.
    fn ids_of(&self, session: SessionId) -> Result<Vec<BlockId>, EngineError> {
        let parts = self.shared.lock().state.parts(session);
        let mut ids = Vec::new();
        for (part, mut set) in parts {
            loop {
                match self.read_refset(session, part, set) {
                    Ok(found) => {
                        ids.extend(found);
                        break;
                    }
                    Err(error) => match self.shared.lock().state.refset(session, part) {
                        Some(now) if now == set => return Err(error),
                        Some(now) => set = now,
                        None => break,
                    },
                }
            }
        }
        Ok(ids)
    }
}
