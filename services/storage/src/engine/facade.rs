//! The engine: an open disk as one value. Each method belongs to one part and is described there.

use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{Disk, Observer};
use cstore_types::{Block, BlockId, PartNo, SealSeq, SessionId, StoreUuid};

use super::audit::Audit;
use super::compactor::Compactor;
use super::counters::Counters;
use super::error::{EngineError, OpenError};
use super::for_reads::{self, ForReads};
use super::hold::Hold;
use super::holdings::Holdings;
use super::index::steps;
use super::judge::Judge;
use super::open;
use super::parts::Parts;
use super::recycler::Recycler;
use super::releaser::Releaser;
use super::verifier::Verifier;
use super::volume::mount::{DiskOptions, Identity};
use super::writer::{PutOutcome, SealOutcome};

/// A storage disk in use. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    parts: Arc<Parts>,
}

type Result<T> = std::result::Result<T, EngineError>;

#[allow(
    clippy::missing_errors_doc,
    reason = "each method belongs to a part, which says it"
)]
impl Engine {
    /// Opens the disk for this identity; formats an empty one. A disk that takes no writes is opened
    /// to be read, and [`Self::read_only`] says why. The disk is as it was after an error.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &str,
        identity: &Identity,
        options: &DiskOptions,
    ) -> std::result::Result<Self, OpenError> {
        let opened = open::open(disk.clone(), path, identity, options);
        let parts =
            opened.or_else(|refused| for_reads::open(disk, path, identity, options, refused))?;
        Ok(Self {
            parts: Arc::new(parts),
        })
    }

    /// Returns the failure after which this process can write nothing any more: only a restart heals
    /// it.
    pub fn failure(&self) -> Option<EngineError> {
        self.parts.failure()
    }

    /// Returns true if the disk took no writes when it was opened, and is open for reads only.
    pub fn is_for_reads(&self) -> bool {
        self.parts.for_reads.is_some()
    }

    /// Returns true if a disk that is open for reads takes writes now: only a restart opens it for
    /// writing. Blocks the thread.
    pub fn takes_writes_again(&self) -> bool {
        let probed = self.parts.for_reads.as_ref().map(ForReads::probe);
        if let Some(Err(error)) = &probed {
            tracing::debug!(%error, "disk takes no writes yet");
        }
        probed.is_some_and(|probed| probed.is_ok())
    }

    /// Shuts down cleanly. After an error the next start recovers all the same.
    pub fn close(&self) -> Result<()> {
        self.parts.close()
    }

    /// Returns for each id whether its block is missing, and pins the blocks that are here under
    /// `session`.
    pub fn missing_blocks(&self, session: SessionId, ids: &[BlockId]) -> Vec<bool> {
        self.parts.writer.missing_blocks(session, ids)
    }

    /// Makes blocks durable. Returns an outcome for each, in their order.
    pub async fn put_blocks(&self, session: SessionId, blocks: Vec<Block>) -> Vec<PutOutcome> {
        self.parts.writer.put_blocks(session, blocks).await
    }

    /// Puts `blocks` and seals the set of `ids`; without blocks all ids must be here.
    pub async fn put_seal(
        &self,
        session: SessionId,
        part: PartNo,
        ids: Vec<BlockId>,
        blocks: Vec<Block>,
    ) -> Result<SealOutcome> {
        self.parts.writer.put_seal(session, part, ids, blocks).await
    }

    /// Drops the pins of a session. Blocks the thread.
    pub fn unpin(&self, session: SessionId) {
        let ticket = self.parts.index.lock().end_pins(session);
        steps::drop_pins(&self.parts.index, ticket);
    }

    /// Drops the pins of a session like [`Self::unpin`], on a blocking thread if there are many.
    pub(crate) async fn unpin_aside(&self, session: SessionId) {
        let ticket = self.parts.index.lock().end_pins(session);
        steps::drop_pins_aside(&self.parts.index, ticket).await;
    }

    /// Drops the pins of uploads that are gone. Two calls MUST be further apart than an upload may
    /// be silent. Blocks the thread.
    pub fn sweep_pins(&self) {
        let ticket = self.parts.index.lock().end_silent_pins();
        steps::drop_pins(&self.parts.index, ticket);
    }

    /// Drops the blocks that a restart found without a reference set. Blocks the thread.
    pub fn forget_orphans(&self) {
        self.parts.room.forget_orphans();
    }

    /// Returns the length of each block; `None` if the block is not here. Blocks never change their
    /// length.
    pub fn block_lens(&self, ids: &[BlockId]) -> Vec<Option<usize>> {
        self.parts.blocks.lens(ids)
    }

    /// Returns the verified bytes of a block. Blocks the thread.
    pub fn read_block(&self, id: &BlockId) -> Result<Bytes> {
        self.parts.blocks.read(id)
    }

    /// Returns the verified bytes of a block if they are in memory. `None` says nothing about the block.
    /// Does not wait for the disk.
    pub(crate) fn read_cached_block(&self, id: &BlockId) -> Option<Bytes> {
        self.parts.blocks.read_cached(id)
    }

    /// Writes down which blocks are damaged, as far as that is not done. Blocks the thread.
    pub fn keep_verdicts(&self) {
        self.parts.blocks.keep_verdicts();
    }

    /// Returns the part that lets sessions go.
    pub fn releaser(&self) -> &Releaser {
        &self.parts.releaser
    }

    /// Returns the part that counts what is held.
    pub fn holdings(&self) -> &Holdings {
        &self.parts.holdings
    }

    /// Returns the part that empties segments.
    pub fn compactor(&self) -> &Compactor {
        &self.parts.compactor
    }

    /// Returns the part that reads what is unverified since a doubt.
    pub fn verifier(&self) -> &Verifier {
        &self.parts.verifier
    }

    /// Returns the part that retires dead segments.
    pub fn recycler(&self) -> &Recycler {
        &self.parts.recycler
    }

    /// Returns the part that knows what is in doubt.
    pub fn hold(&self) -> &Hold {
        &self.parts.hold
    }

    /// Returns the part that judges the master's answers.
    pub fn judge(&self) -> &Judge {
        &self.parts.judge
    }

    /// Returns the part that compares sets with the committed sessions.
    pub fn audit(&self) -> &Audit {
        &self.parts.audit
    }

    /// Returns the counters for metrics.
    pub fn counters(&self) -> &Counters {
        &self.parts.counters
    }

    /// Returns the identity of the disk.
    pub fn store(&self) -> StoreUuid {
        self.parts.volume.store()
    }

    /// Returns the highest sequence that a seal of this disk may have used. It never goes back.
    pub fn seal_seq(&self) -> SealSeq {
        SealSeq(self.parts.log.durable_seq())
    }

    /// Returns why the disk takes no writes: it was opened for reads, or after a failed write or
    /// sync, or because every segment is missing.
    pub fn read_only(&self) -> Option<String> {
        self.parts.read_only()
    }

    /// Calls `observer` for every group commit of this disk.
    pub fn observe_commits(&self, observer: Observer) {
        self.parts.log.observe(observer);
    }
}
