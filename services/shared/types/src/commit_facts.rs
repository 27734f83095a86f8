//! The facts of one group commit: written by the log, read by engines, metrics and spans.

use std::time::Duration;

/// The facts of one group commit of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitFacts {
    /// Sequence of the frame in its log.
    pub seq: u64,
    /// Records of all requests.
    pub records: usize,
    /// Bytes of the frame on the disk.
    pub bytes: u64,
    /// Requests that share the frame and its sync.
    pub requests: usize,
    /// Time to write and sync the frame.
    pub took: Duration,
}
