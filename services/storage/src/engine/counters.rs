//! Counters of the engine since the process started. The parts share them, and metrics read them
//! without a lock.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters of one disk. Clones share them.
#[derive(Debug, Clone, Default)]
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
    /// Records that compaction moved.
    pub moved_records: Counter,
    /// Their payload bytes.
    pub moved_bytes: Counter,
    /// Damaged reference sets that compaction met.
    pub damaged_sets: Counter,
}

impl Counters {
    /// Registers all counters.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            (
                "storage_stored_blocks",
                "blocks written",
                &self.stored_blocks,
            ),
            (
                "storage_stored_bytes",
                "payload bytes written",
                &self.stored_bytes,
            ),
            (
                "storage_duplicate_blocks",
                "blocks that a put found here",
                &self.duplicate_blocks,
            ),
            ("storage_seals", "reference sets written", &self.seals),
            ("storage_releases", "sessions released", &self.releases),
            (
                "storage_read_blocks",
                "blocks read and verified",
                &self.read_blocks,
            ),
            (
                "storage_read_bytes",
                "bytes read and verified",
                &self.read_bytes,
            ),
            (
                "storage_damaged_blocks",
                "blocks that failed verification",
                &self.damaged_blocks,
            ),
            (
                "storage_full",
                "requests refused because the disk is full",
                &self.full,
            ),
            (
                "storage_retired_files",
                "segment files retired",
                &self.retired_files,
            ),
            (
                "storage_compacted_files",
                "segments that compaction emptied",
                &self.compacted_files,
            ),
            (
                "storage_moved_records",
                "records that compaction moved",
                &self.moved_records,
            ),
            (
                "storage_moved_bytes",
                "their payload bytes",
                &self.moved_bytes,
            ),
            (
                "storage_damaged_sets",
                "damaged reference sets that compaction met",
                &self.damaged_sets,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}
