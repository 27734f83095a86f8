//! The metadata store: the log is the truth, the sled index and the derived state follow it.
//!
//! ```text
//! rules ─ propose(Batch) ─▶ queue ─▶ Writer (one thread)
//!                                    │ 1 checks what each batch requires, in order
//!                                    │ 2 appends the accepted ones as one group, waits for the sync
//!                                    │ 3 publishes the position
//!                                    │ 4 applies them to the index
//!                                    │ 5 tells the observer each change (key, old, new)
//!                                    ▼ 6 answers the callers
//!                                 Checkpoint (a thread while one runs): cut of the index ─▶ snapshot.bin ─▶ retires log files
//! ```
//!
//! # Invariants
//! * A batch whose future was dropped is applied like any other: steps 1 to 5 never depend on the
//!   caller.
//! * The position is published after the sync and BEFORE the index shows the change; otherwise an
//!   answer could rest on a change that lies beyond the position that the answer carries.
//! * Index and observer have every acknowledged batch when its caller hears of it.
//! * An error before the first byte of a frame refuses the batch and changes nothing. Only a failed
//!   write or sync of promised bytes ends the writer.

mod batch;
mod checkpoint;
mod engine;
mod error;
mod examine;
#[cfg(test)]
mod golden;
mod group;
mod index;
pub(crate) mod keys;
mod links;
mod lives;
mod publication;
mod queue;
mod read_only;
mod record;
mod recovery;
mod rescue;
mod room;
mod scratch;
mod snapshot;
mod snapshot_schedule;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use cstore_node::metrics::CommitMetrics;
use cstore_types::history::Point;
use tokio::sync::watch;

pub(crate) use batch::{Batch, DoubtedSeal};
pub(crate) use engine::{SledMeta, SledOptions};
pub use error::MetaError;
pub(crate) use error::{DamageKind, ReadOnly};
pub(crate) use examine::{Examination, examine};
pub(crate) use lives::History;
pub(crate) use read_only::ReadOnlyMeta;
pub(crate) use rescue::rescue;
#[cfg(test)]
pub(crate) use scratch::leave_temporary;
pub(crate) use scratch::{path_of_inspection, remove_leftovers};

/// A place in the metadata log: the number of batches up to and including this one.
pub(crate) type Position = u64;

/// A hash over all batches up to one, in their order; 0 if it is not known. Two histories that
/// differ anywhere have different links from there on.
pub(crate) type Link = u64;

/// A value and the position at which it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Versioned {
    pub(crate) version: Position,
    pub(crate) value: Vec<u8>,
}

/// Maps the key of a pair to the key after which a scan goes on; `None` for the next key.
pub(crate) type SkipAfter = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// One change of one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) key: &'a [u8],
    /// The value before. Given only for keys that the observer follows.
    pub(crate) old: Option<&'a Versioned>,
    /// The value after; `None` if the key was deleted.
    pub(crate) new: Option<&'a Versioned>,
}

/// State that is derived from the metadata and kept up with every applied batch.
///
/// The open feeds every key of the index (with `old` unset); after it the writer feeds every change
/// of every batch, in order of the log, before the batch is answered. Both paths use
/// [`Observer::observe`], so that a restart derives the same state.
pub(crate) trait Observer: Send + Sync + std::fmt::Debug {
    /// Returns true if changes of `key` matter to this observer. The writer reads old values of
    /// these keys only.
    fn follows(&self, key: &[u8]) -> bool;

    /// Takes one change into account. MUST NOT wait for anything.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] if a value cannot be decoded; the open or the writer ends with it.
    fn observe(&self, change: Change<'_>) -> Result<(), MetaError>;

    /// Forgets every change that was observed: the index was made anew, and is fed again from its
    /// first key. Called during an open only.
    fn forget(&self);
}

/// State of the writer: whether batches can be committed.
#[derive(Debug, Clone, Default)]
pub(crate) enum WriterState {
    #[default]
    Writable,
    /// The last group was refused for a passing reason; the next batch tries again.
    Blocked(MetaError),
    /// Nothing is written any more in this process.
    Ended(MetaError),
    /// Nothing is ever written in this process: the folder is not whole, and its rest is served.
    ReadOnly(MetaError),
}

impl WriterState {
    /// Returns the reason why this process only reads, if it does.
    pub(crate) fn read_only(&self) -> Option<&Arc<ReadOnly>> {
        match self {
            Self::ReadOnly(MetaError::ReadOnly(why)) => Some(why),
            Self::ReadOnly(_) | Self::Writable | Self::Blocked(_) | Self::Ended(_) => None,
        }
    }

    /// Returns the reason why nothing can be written now, if there is one.
    pub(crate) fn reason(&self) -> Option<&MetaError> {
        match self {
            Self::Writable => None,
            Self::Blocked(why) | Self::Ended(why) | Self::ReadOnly(why) => Some(why),
        }
    }
}

/// The metadata engine.
#[async_trait]
pub(crate) trait MetaStore: Send + Sync + std::fmt::Debug {
    /// Proposes a batch: it is applied durably if all that it requires holds. Returns its position.
    ///
    /// Dropping the future neither stops nor changes what was proposed.
    async fn commit(&self, batch: Batch) -> Result<Position, MetaError>;

    /// Returns the value of a key.
    async fn get(&self, key: &[u8]) -> Result<Option<Versioned>, MetaError>;

    /// Returns up to `limit` pairs in key order, whose keys begin with `prefix` and are greater
    /// than `after`.
    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError> {
        self.scan_skipping(prefix, after, limit, None).await
    }

    /// Like [`Self::scan`], but goes on after the key that `skip` returns for a pair, so that a pair
    /// can stand for all keys up to there. Reads on a thread for blocking work, because a cold index
    /// reads from the disk.
    async fn scan_skipping(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        skip: Option<SkipAfter>,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError>;

    /// Returns the position of the last durable batch.
    fn position(&self) -> Position;

    /// Returns the place of the last durable batch.
    fn head(&self) -> Point;

    /// Returns the history of the metadata up to the last durable batch.
    fn history(&self) -> History;

    /// Returns true if the history up to the last durable batch has the place `point`. Called for
    /// every commit, so it copies nothing of the history.
    fn contains(&self, point: &Point) -> bool;

    /// Returns the link of the batch at `position`, if it is one of the newest.
    fn link_at(&self, position: Position) -> Option<Link>;

    /// Returns the number of group commits so far, one sync each.
    fn frames(&self) -> u64;

    /// Returns the histograms of group commits: duration and size.
    fn commit_metrics(&self) -> &CommitMetrics;

    /// Returns a receiver of the writer's state.
    fn writer_state(&self) -> watch::Receiver<WriterState>;

    /// Stops cleanly: writes what waits, marks the index as complete.
    async fn close(&self) -> Result<(), MetaError>;
}
