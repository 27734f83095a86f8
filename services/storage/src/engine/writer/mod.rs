//! Writing: blocks and reference sets become durable.
//!
//! ```text
//! PutBlocks ─┐                       ┌─ put:  known ─▶ pin · on its way ─▶ wait · new ─▶ claim, reserve ─┐
//! PutSeal   ─┼─ check the keyed half ─┤                                                                  ├─▶ append
//! Seal      ─┘  of every id           └─ seal: all ids here? ─▶ count references, claim the part ────────┘
//! ```
//! Invariants
//! * Nothing is acknowledged BEFORE its group is synced.
//! * A seal rests on no block that is unverified: on a disk in doubt, and for blocks from before a
//!   doubt until they were verified, the blocks are read for it.
//! * A set is appended only if all its ids are stored, or stand in the same group (the presence
//!   check of I4). Their references are counted in the same look at the index, so that no release
//!   can free them until the set is durable.

mod check;
mod outcome;
mod put;
mod seal;

use bytes::Bytes;
use cstore_log::Record;
use cstore_types::{Block, BlockId, BlockKind, DedupKey, SessionId};

use super::appender::Appender;
use super::counters::Counters;
use super::error::EngineError;
use super::fences::Fences;
use super::format::{KIND_DATA, KIND_MANIFEST};
use super::hold::Hold;
use super::index::{SharedIndex, record_overhead};
use super::reader::BlockReader;
use super::room::Room;
use super::sets::SetReader;
use super::space::SpaceLedger;
use crate::limits::INDEX_STEP;
pub use outcome::{PutOutcome, SealOutcome};

/// Writes for requests.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) appender: Appender,
    pub(super) index: SharedIndex,
    pub(super) fences: Fences,
    pub(super) ledger: SpaceLedger,
    pub(super) room: Room,
    pub(super) sets: SetReader,
    pub(super) blocks: BlockReader,
    pub(super) counters: Counters,
    pub(super) hold: Hold,
    pub(super) key: DedupKey,
}

impl Writer {
    /// Returns for each id whether its block is missing. Blocks that are here, synced and good, are
    /// pinned under `session`.
    pub(super) fn missing_blocks(&self, session: SessionId, ids: &[BlockId]) -> Vec<bool> {
        let mut missing = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(INDEX_STEP) {
            let mut index = self.index.lock();
            for id in chunk {
                let is_here = index.has(id);
                // In the same hold as the look, so that no release comes between.
                if is_here {
                    index.pin(session, *id);
                }
                missing.push(!is_here);
            }
        }
        missing
    }

    /// Reads those of the blocks that are here and not verified: an upload that rests on one of
    /// them must read back. While something is in doubt on the disk that is every block. What is
    /// damaged counts as missing from then on.
    ///
    /// # Errors
    /// [`EngineError::Busy`] if a block could not be read for a passing reason. Nothing is known of
    /// it then.
    async fn recheck(&self, ids: &[BlockId]) -> Result<(), EngineError> {
        let unverified = self.unverified(ids);
        if unverified.is_empty() {
            return Ok(());
        }
        let blocks = self.blocks.clone();
        let read = move || {
            for id in unverified {
                match blocks.read(&id) {
                    // The read marks a damaged block in the index.
                    Ok(_) | Err(EngineError::DataLoss | EngineError::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        cstore_node::blocking(read).await?
    }

    /// Returns those of the blocks that have to be read before a seal may rest on them.
    fn unverified(&self, ids: &[BlockId]) -> Vec<BlockId> {
        if self.hold.is_held() {
            return ids.to_vec();
        }
        let index = self.index.lock();
        let unverified = ids.iter().filter(|id| index.is_unverified(id));
        unverified.copied().collect()
    }

    /// Returns the bytes that those of the blocks take that are not here.
    fn bytes_of_new(&self, blocks: &[Block]) -> u64 {
        let index = self.index.lock();
        blocks
            .iter()
            .filter(|block| !index.has(&block.id))
            .map(footprint)
            .sum()
    }
}

/// Returns the record of a block, which shares the block's bytes.
fn record(block: &Block) -> Record {
    let kind = match block.kind {
        BlockKind::Data => KIND_DATA,
        BlockKind::Manifest => KIND_MANIFEST,
    };
    Record {
        kind,
        key: Bytes::copy_from_slice(block.id.as_bytes()),
        payload: block.bytes.clone(),
    }
}

/// Returns the bytes that a block takes on the disk, with its place in the directories.
fn footprint(block: &Block) -> u64 {
    block.bytes.len() as u64 + record_overhead(32)
}
