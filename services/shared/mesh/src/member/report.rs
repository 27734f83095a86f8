//! Reports of heartbeats, and the occasions on which they are sent.

use cstore_proto::v1;

/// Reason why a heartbeat is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// The interval has passed.
    Tick,
    /// Readiness changed, or the role asked for it. What costs much to report belongs to ticks.
    Early,
}

/// The part of a heartbeat that differs between roles.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// State of a disk.
    Storage(Box<v1::StorageReport>),
    /// Uploads of a worker.
    Worker(v1::WorkerReport),
}
