//! The engine: an open disk as one value. Each method belongs to one part and is described there.

use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{Disk, Observer};
use cstore_node::shutdown::Shutdown;
use cstore_types::{
    Block, BlockId, PartNo, SealSeq, SessionId, SessionUsage, SpaceUsage, StoreUuid,
};

use super::compactor::{CompactStep, CompactionStats, Need, pacer};
use super::counters::Counters;
use super::error::{AcceptError, EngineError, OpenError};
use super::format::{Doubt, Superblock};
use super::index::Totals;
use super::open::{self, Parts};
use super::space::Space;
use super::usage;
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
    /// Opens the disk for this identity; formats an empty one. The disk is as it was after an
    /// error.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &str,
        identity: &Identity,
        options: &DiskOptions,
    ) -> std::result::Result<Self, OpenError> {
        Ok(Self {
            parts: Arc::new(open::open(disk, path, identity, options)?),
        })
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

    /// Drops the pins of a session.
    pub fn unpin(&self, session: SessionId) {
        self.parts.index.lock().unpin(session);
    }

    /// Drops the pins of uploads that are gone. Two calls MUST be further apart than an upload may
    /// be silent.
    pub fn sweep_pins(&self) {
        self.parts.index.lock().sweep_pins();
    }

    /// Drops the blocks that a restart found without a reference set.
    pub fn forget_orphans(&self) {
        self.parts.room.forget_orphans();
    }

    /// Returns the verified bytes of a block. Blocks the thread.
    pub fn read_block(&self, id: &BlockId) -> Result<Bytes> {
        self.parts.blocks.read(id)
    }

    /// Returns what sessions hold here, and what would come back if some of them ended. Blocks the
    /// thread.
    pub fn usage(&self, sessions: &[SessionUsage]) -> Result<SpaceUsage> {
        usage::usage(&self.parts.index, &self.parts.sets, sessions)
    }

    /// Returns the sessions that hold reference sets here.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.parts.index.lock().sessions().collect()
    }

    /// Removes the sessions that hold no reference sets here from `sessions`.
    pub(crate) fn retain_held(&self, sessions: &mut Vec<SessionId>) {
        let index = self.parts.index.lock();
        sessions.retain(|session| index.holds_sets(*session));
    }

    /// Drops all reference sets of a session.
    pub async fn release(&self, session: SessionId) -> Result<()> {
        self.release_all(&[session])
            .await
            .pop()
            .map_or(Ok(()), |(_, result)| result)
    }

    /// Drops all reference sets of sessions. Returns a result for each, in any order.
    pub async fn release_all(&self, sessions: &[SessionId]) -> Vec<(SessionId, Result<()>)> {
        self.parts.releaser.release_all(sessions).await
    }

    /// Takes one step of compaction.
    pub async fn compact_step(&self, need: Need) -> Result<CompactStep> {
        self.parts.compactor.step(need).await
    }

    /// Compacts until the shutdown, at a pace that follows the fill of the disk.
    pub(crate) async fn compact_in_background(self, shutdown: Shutdown) {
        pacer::run(self.parts.compactor.clone(), shutdown).await;
    }

    /// Returns the state of compaction.
    pub fn compaction(&self) -> CompactionStats {
        self.parts.compactor.stats()
    }

    /// Retires every segment in which nothing is needed. Blocks the thread.
    pub fn reclaim(&self) -> usize {
        self.parts.recycler.reclaim()
    }

    /// Like [`Self::reclaim`], but on a blocking thread.
    pub(crate) async fn reclaim_aside(&self) {
        self.parts.recycler.reclaim_aside().await;
    }

    /// Returns the fill of the disk.
    pub fn space(&self) -> Space {
        self.parts.compactor.space()
    }

    /// Returns the live totals.
    pub fn totals(&self) -> Totals {
        self.parts.index.lock().totals()
    }

    /// Returns the counters for metrics.
    pub fn counters(&self) -> &Counters {
        &self.parts.counters
    }

    /// Returns the identity of the disk.
    pub fn store(&self) -> StoreUuid {
        self.parts.volume.store()
    }

    /// Returns a copy of the superblock as it was last written.
    pub fn superblock(&self) -> Superblock {
        self.parts.volume.superblock()
    }

    /// Returns the highest sequence that a seal of this disk may have used. It never goes back.
    pub fn seal_seq(&self) -> SealSeq {
        SealSeq(self.parts.log.durable_seq())
    }

    /// Returns why the disk takes no writes: after a failed write or sync, or because every segment
    /// is missing.
    pub fn read_only(&self) -> Option<String> {
        self.parts
            .log
            .poisoned()
            .map(|cause| cstore_types::error_chain(&*cause).to_string())
            .or_else(|| self.parts.hold.read_only())
    }

    /// Returns true while something is in doubt: nothing is freed then.
    pub fn is_held(&self) -> bool {
        self.parts.hold.is_held()
    }

    /// Returns the reason of the first open doubt.
    pub fn hold_reason(&self) -> Option<String> {
        self.parts.hold.reason()
    }

    /// Returns what is in doubt on the disk, accepted doubts among it.
    pub fn doubts(&self) -> Vec<Doubt> {
        self.parts.hold.doubts()
    }

    /// Accepts a doubt on behalf of a person. Blocks the thread.
    ///
    /// # Errors
    /// [`AcceptError`]. The doubt stays open.
    pub fn accept_doubt(&self, number: u32) -> std::result::Result<Doubt, AcceptError> {
        self.parts.hold.accept(number)
    }

    /// Closes doubts that uploads have disproved since, and writes those that are in memory only.
    /// Blocks the thread.
    pub fn keep_hold(&self) -> Result<()> {
        self.parts.keep_hold()
    }

    /// Calls `observer` for every group commit of this disk.
    pub fn observe_commits(&self, observer: Observer) {
        self.parts.log.observe(observer);
    }
}
