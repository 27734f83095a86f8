//! Counters that the engine keeps for metrics. Plain atomics: reading them costs the hot path nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// Monotonic counters since the process started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Blocks written.
    pub stored_blocks: Counter,
    /// Their payload bytes.
    pub stored_bytes: Counter,
    /// Blocks that a put found here.
    pub duplicate_blocks: Counter,
    /// Reference sets written.
    pub seals: Counter,
    /// Sessions released.
    pub releases: Counter,
    /// Blocks read and verified.
    pub read_blocks: Counter,
    /// Their bytes.
    pub read_bytes: Counter,
    /// Blocks whose bytes were not what their id says.
    pub damaged_blocks: Counter,
    /// Requests refused because the disk is full.
    pub full: Counter,
    /// Segment files retired.
    pub retired_files: Counter,
    /// Segments that compaction emptied.
    pub compacted_files: Counter,
    /// Records that it moved.
    pub moved_records: Counter,
    /// Their payload bytes.
    pub moved_bytes: Counter,
    /// Reference sets that were found damaged when they should move.
    pub damaged_sets: Counter,
}

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
