//! Where the master's truth lives: one trait, one engine today.
//!
//! Rules produce batches; log, snapshot and index live inside of the engine.

mod batch;
#[cfg(test)]
mod golden;
pub(crate) mod keys;
mod sled_engine;
mod snapshot;

use async_trait::async_trait;
use cstore_node::metrics::CommitMetrics;

pub(crate) use batch::Batch;
pub(crate) use sled_engine::{SledMeta, SledOptions};

/// Position in the metadata log: every value carries the one at which it was written.
pub(crate) type Position = u64;

/// A value and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Versioned {
    pub(crate) version: Position,
    pub(crate) value: Vec<u8>,
}

/// Why a batch was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// A requirement does not hold: read again and decide again.
    #[error("another change came first")]
    Conflict,
    /// No room on the master's disk.
    #[error("metadata disk is full")]
    Full,
    /// Too many batches wait.
    #[error("too many metadata changes at once")]
    Busy,
    /// A write failed; whether the batch is durable is unknown until a restart.
    #[error("metadata cannot be written: {0}")]
    Unavailable(String),
    /// Stored bytes cannot be read.
    #[error("metadata is damaged: {0}")]
    Damaged(String),
}

/// The metadata engine.
#[async_trait]
pub(crate) trait MetaStore: Send + Sync + std::fmt::Debug {
    /// Applies a batch if all that it requires holds, durably, and answers its position.
    async fn commit(&self, batch: Batch) -> Result<Position, MetaError>;

    /// The value of a key.
    async fn get(&self, key: &[u8]) -> Result<Option<Versioned>, MetaError>;

    /// Up to `limit` pairs in key order, whose keys begin with `prefix` and are greater than `after`.
    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError>;

    /// Position of the last committed batch.
    fn position(&self) -> Position;

    /// Group commits so far, one sync each.
    fn frames(&self) -> u64;

    /// How long they took and how large they were.
    fn commit_metrics(&self) -> &CommitMetrics;

    /// Why nothing can be committed any more.
    fn failed(&self) -> Option<String>;

    /// Stops in good order.
    async fn close(&self) -> Result<(), MetaError>;
}
