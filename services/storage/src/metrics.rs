//! Metrics of a storage node, read from the engine when they are scraped.

use cstore_node::metrics::CommitMetrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::engine::Engine;

/// Asks the engine at every scrape.
#[derive(Debug)]
struct EngineMetrics(Engine);

/// Everything that a storage node counts, from now on.
pub(crate) fn register(registry: &mut Registry, engine: &Engine) {
    let commits = CommitMetrics::default();
    registry.register("storage_commit_seconds", "time to write and sync a frame", commits.seconds.clone());
    registry.register("storage_commit_bytes", "size of frames on the disk", commits.bytes.clone());
    engine.observe_commits(Box::new(move |frame| commits.observe(frame.took, frame.bytes)));
    registry.register_collector(Box::new(EngineMetrics(engine.clone())));
}

fn as_gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

impl Collector for EngineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (totals, space, counters) = (self.0.totals(), self.0.space(), self.0.counters());
        let gauges: [(&str, &str, Option<&Unit>, u64); 7] = [
            ("storage_capacity", "FS_SIZE", Some(&Unit::Bytes), space.capacity),
            ("storage_free", "what new blocks could still take", Some(&Unit::Bytes), space.free),
            ("storage_allocated", "size of all segment files", Some(&Unit::Bytes), space.allocated),
            ("storage_unique", "payload of live blocks", Some(&Unit::Bytes), totals.unique_bytes),
            (
                "storage_physical",
                "live blocks with their overhead",
                Some(&Unit::Bytes),
                totals.physical_bytes,
            ),
            ("storage_live_blocks", "distinct live blocks", None, totals.blocks),
            ("storage_read_only", "1 after a failed write", None, self.0.read_only().is_some().into()),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = as_gauge(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        let counts: [(&str, &str, u64); 11] = [
            ("storage_log_frames", "group commits of this disk, one sync each", self.0.seal_seq().0),
            ("storage_stored_blocks", "blocks written", counters.stored_blocks.get()),
            ("storage_stored_bytes", "payload bytes written", counters.stored_bytes.get()),
            ("storage_duplicate_blocks", "blocks that a put found here", counters.duplicate_blocks.get()),
            ("storage_seals", "reference sets written", counters.seals.get()),
            ("storage_releases", "sessions released", counters.releases.get()),
            ("storage_read_blocks", "blocks read and verified", counters.read_blocks.get()),
            ("storage_read_bytes", "bytes read and verified", counters.read_bytes.get()),
            ("storage_damaged_blocks", "blocks that failed verification", counters.damaged_blocks.get()),
            ("storage_full", "requests refused because the disk is full", counters.full.get()),
            ("storage_retired_files", "segment files retired", counters.retired_files.get()),
        ];
        for (name, help, value) in counts {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
