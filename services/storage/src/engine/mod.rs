//! The engine: blocks, reference sets, their places on the disk and their space. No sockets, no clock.
//!
//! ```text
//! HaveBlocks ─┐                                   ┌─ records ─▶ cstore-log ─▶ segments
//! PutBlocks  ─┤  check keyed half · reserve space │                │ synced
//! PutSeal    ─┼─▶ Shared { State, in flight, … } ─┤                ▼
//! Seal       ─┤        one mutex, never held over └─ callbacks update State, then answer the callers
//! Release    ─┘        I/O or an await
//! ```
//! What is acknowledged is synced. Nothing is trusted that a callback of the log did not report.

mod compact;
mod counters;
mod flaw;
pub(crate) mod format;
#[cfg(test)]
mod golden;
mod open;
mod put;
mod read;
mod release;
mod seal;
mod space;
mod state;
mod superblock;
mod usage;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cstore_log::{Disk, Log, Observer};
use cstore_node::commit::CommitSpans;
use cstore_types::{BlockId, CommitFacts, DedupKey, PartNo, SealSeq, SessionId, StoreUuid, error_chain};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tracing::Instrument;

pub use compact::{CompactStep, CompactionStats, Need};
pub use counters::Counters;
pub use flaw::Flaw;
pub use format::{FormatError, Superblock};
pub use open::{DiskOptions, Identity, peek};
pub use read::MAX_READ_TRIES;
pub use space::Space;
pub use state::Totals;

use crate::EngineError;
use state::State;

/// What became of one block of a put.
#[derive(Debug, Clone)]
pub enum PutOutcome {
    /// Written and synced.
    Stored,
    /// It was here, or another put was just writing it; synced.
    Duplicate,
    /// Refused; the other blocks of the request are not affected.
    Refused(crate::EngineError),
}

/// What became of a seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealOutcome {
    /// The reference set is durable.
    Sealed {
        /// Sequence of the seal on this disk.
        seal_seq: SealSeq,
        /// For each block that was sent along, whether it was new.
        stored: Vec<bool>,
    },
    /// Positions in the request's ids of blocks that are not here; nothing was written.
    Missing(Vec<u32>),
    /// The part was sealed before with other ids.
    Conflict,
}

/// A storage disk in use. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    log: Arc<Log>,
    shared: Arc<Mutex<Shared>>,
    counters: Arc<Counters>,
    commits: Arc<CommitSpans>,
    disk: Arc<dyn Disk>,
    superblock: Arc<Mutex<Superblock>>,
    /// Held while a superblock is written. Taken BEFORE `superblock`, which is not held over the write.
    superblock_writes: Arc<Mutex<()>>,
    key: DedupKey,
    /// One compaction at a time.
    cleaning: Arc<tokio::sync::Mutex<compact::Cleaning>>,
    /// One recycling of dead segments at a time, of those that wait for it.
    retiring: Arc<tokio::sync::Mutex<()>>,
    flaw: Flaw,
    /// Most payload bytes that one group of records takes, so that groups fit the segments of a small disk.
    group_bytes: usize,
    bitmap_allowance: u64,
    /// Released when the last clone is gone, so that a second process cannot open the disk before.
    _lock: Arc<cstore_log::LockGuard>,
}

/// What the mutex protects.
#[derive(Debug, Default)]
struct Shared {
    state: State,
    /// Blocks that are on their way to the disk, with who else waits for them.
    in_flight: HashMap<BlockId, Vec<oneshot::Sender<bool>>>,
    /// Parts whose reference set is on its way to the disk.
    sealing: HashSet<(SessionId, PartNo)>,
    /// Sessions whose sets or releases are being moved.
    moving: HashMap<SessionId, Move>,
    /// Sessions whose release is on its way to the disk.
    releasing: HashSet<SessionId>,
    /// Segments that hold something damaged.
    pinned: HashSet<u32>,
    /// Bytes promised to appends that have not landed.
    reserved: u64,
    /// Told when a seal, a release or a move has ended, and with it what it kept from moving.
    fences: Arc<Notify>,
}

/// A move of a session's records, and who waits for its end.
#[derive(Debug, Default)]
struct Move {
    /// Its release is among them.
    release: bool,
    waiters: Vec<oneshot::Sender<bool>>,
}

impl Shared {
    /// A block's write has ended: tell who waits.
    fn land(&mut self, id: &BlockId, durable: bool) {
        for waiter in self.in_flight.remove(id).unwrap_or_default() {
            let _ = waiter.send(durable);
        }
    }

    fn wait_for(&mut self, id: &BlockId) -> Option<oneshot::Receiver<bool>> {
        let waiters = self.in_flight.get_mut(id)?;
        let (sender, receiver) = oneshot::channel();
        waiters.push(sender);
        Some(receiver)
    }

    /// A move of the session has ended: tell who waits.
    fn moved(&mut self, session: SessionId) {
        for waiter in self.moving.remove(&session).unwrap_or_default().waiters {
            let _ = waiter.send(true);
        }
        self.fences.notify_waiters();
    }

    fn wait_for_move(&mut self, session: SessionId) -> Option<oneshot::Receiver<bool>> {
        let moving = self.moving.get_mut(&session)?;
        let (sender, receiver) = oneshot::channel();
        moving.waiters.push(sender);
        Some(receiver)
    }
}

impl Engine {
    /// Waits for a group of this request to be durable, in a span of its own.
    async fn await_commit<T>(
        &self,
        landed: oneshot::Receiver<Result<(T, CommitFacts), EngineError>>,
    ) -> Result<T, EngineError> {
        let span = self.commits.begin();
        let landed = landed.instrument(span.clone()).await;
        let (answer, frame) = landed.unwrap_or_else(|_| Err(EngineError::writer_gone()))?;
        self.commits.landed(&span, frame);
        Ok(answer)
    }

    /// Identity of the disk.
    pub fn store(&self) -> StoreUuid {
        self.superblock.lock().store
    }

    /// A copy of the superblock as it was last written.
    pub fn superblock(&self) -> Superblock {
        self.superblock.lock().clone()
    }

    /// Highest sequence that a seal of this disk may have used; never goes back while the disk is what it was.
    pub fn seal_seq(&self) -> SealSeq {
        SealSeq(self.log.durable_seq())
    }

    /// Why the node takes no writes any more, after a failed write or sync.
    pub fn read_only(&self) -> Option<String> {
        self.log.poisoned().map(|cause| error_chain(&*cause).to_string())
    }

    /// Tells `observer` of every group commit of this disk.
    pub fn observe_commits(&self, observer: Observer) {
        self.log.observe(observer);
    }

    /// Counters for metrics.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Live totals.
    pub fn totals(&self) -> Totals {
        self.shared.lock().state.totals()
    }

    /// Returns for each id whether its block is missing. Blocks that are here, synced and good, are pinned under
    /// `session`.
    pub fn missing_blocks(&self, session: SessionId, ids: &[BlockId]) -> Vec<bool> {
        let mut shared = self.shared.lock();
        let missing: Vec<bool> = ids.iter().map(|id| !shared.state.has(id)).collect();
        for (id, _) in ids.iter().zip(&missing).filter(|(_, missing)| !**missing) {
            shared.state.pin(session, *id);
        }
        missing
    }

    /// Drops the pins of a session.
    pub fn unpin(&self, session: SessionId) {
        self.shared.lock().state.unpin(session);
    }

    /// Sessions that hold reference sets here.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.shared.lock().state.sessions().collect()
    }

    /// Removes sessions that hold no reference sets here from `sessions`.
    pub(crate) fn retain_held(&self, sessions: &mut Vec<SessionId>) {
        let shared = self.shared.lock();
        sessions.retain(|session| !shared.state.parts(*session).is_empty());
    }

    /// Stops in good order: drains the log, seals the active segment, writes the derived cache and the clean mark.
    ///
    /// # Errors
    /// Of the disk. The next start recovers all the same.
    pub fn close(&self) -> Result<(), crate::EngineError> {
        self.log.close()?;
        self.save_bitmap()?;
        self.write_superblock(true)
    }
}
