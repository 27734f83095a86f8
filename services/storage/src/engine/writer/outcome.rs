//! Outcomes of writes.

use cstore_types::SealSeq;

use crate::engine::error::EngineError;

/// The outcome for one block of a put.
#[derive(Debug, Clone)]
pub enum PutOutcome {
    /// Written and synced.
    Stored,
    /// Synced before, or by another put that was just writing it.
    Duplicate,
    /// Refused. The other blocks of the request are not affected.
    Refused(EngineError),
}

/// The outcome of a seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealOutcome {
    /// The reference set is durable.
    Sealed {
        /// Sequence of the seal on this disk.
        seal_seq: SealSeq,
        /// For each block that was sent along, whether it was new.
        stored: Vec<bool>,
    },
    /// Positions in the request's ids of blocks that are not here. Nothing was written.
    Missing(Vec<u32>),
    /// The part was sealed before with other ids.
    Conflict,
}
