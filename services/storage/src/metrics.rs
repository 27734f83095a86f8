//! Metrics of a storage node, read from the engine when they are scraped.

use std::time::Duration;

use cstore_mesh::exemplar::{TracedSeconds, observe, traced_seconds};
use cstore_node::metrics::CommitMetrics;
use cstore_types::ErrorCode;
use cstore_wire::{Opcode, ReadBudget};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::engine::Engine;
use crate::limits::READ_BUDGET;

/// Asks the engine, and the budget of its answers, at every scrape.
#[derive(Debug)]
struct EngineMetrics(Engine, ReadBudget);

/// Everything that a storage node counts, from now on.
pub(crate) fn register(registry: &mut Registry, engine: &Engine) -> FrameMetrics {
    let commits = CommitMetrics::default();
    registry.register(
        "storage_commit_seconds",
        "time to write and sync a frame",
        commits.seconds.clone(),
    );
    registry.register(
        "storage_commit_bytes",
        "size of frames on the disk",
        commits.bytes.clone(),
    );
    engine.observe_commits(Box::new(move |frame| {
        commits.observe(frame.took, frame.bytes)
    }));
    let frames = FrameMetrics::default();
    let reads = frames.reads.clone();
    registry.register_collector(Box::new(EngineMetrics(engine.clone(), reads)));
    engine.counters().register(registry);
    registry.register(
        "storage_requests",
        "requests of workers by opcode and code",
        frames.answers.clone(),
    );
    registry.register(
        "storage_request_seconds",
        "time to their answers",
        frames.seconds.clone(),
    );
    frames
}

/// Requests of workers: how many, how they ended, how long they took.
#[derive(Debug, Clone)]
pub(crate) struct FrameMetrics {
    answers: Family<Answer, Counter>,
    seconds: Family<Asked, TracedSeconds, fn() -> TracedSeconds>,
    /// Budget of the blocks that answers hold. It counts them.
    pub(crate) reads: ReadBudget,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    opcode: OpcodeLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    opcode: OpcodeLabel,
    code: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct OpcodeLabel(Opcode);

impl EncodeLabelValue for OpcodeLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        format!("{:?}", self.0).as_str().encode(encoder)
    }
}

impl Default for FrameMetrics {
    fn default() -> Self {
        let seconds = Family::new_with_constructor(traced_seconds as fn() -> TracedSeconds);
        Self {
            answers: Family::default(),
            seconds,
            reads: ReadBudget::new(READ_BUDGET),
        }
    }
}

impl FrameMetrics {
    /// Counts an answer; in the span of its request.
    pub(crate) fn answered(&self, opcode: Opcode, refused: Option<ErrorCode>, took: Duration) {
        let (opcode, code) = (OpcodeLabel(opcode), refused.map_or("ok", ErrorCode::as_str));
        self.answers.get_or_create(&Answer { opcode, code }).inc();
        observe(
            &self.seconds.get_or_create(&Asked { opcode }),
            took.as_secs_f64(),
        );
    }
}

fn as_gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Name, help, unit and value of a gauge.
type Reading = (&'static str, &'static str, Option<&'static Unit>, u64);

impl EngineMetrics {
    fn held_read(&self) -> Reading {
        let help = "blocks that answers hold until they are written";
        let held = self.1.held_bytes();
        ("storage_held_read", help, Some(&Unit::Bytes), held)
    }

    fn gauges(&self) -> [Reading; 12] {
        let totals = self.0.holdings().totals();
        let space = self.0.compactor().space();
        let compaction = self.0.compactor().stats();
        [
            (
                "storage_capacity",
                "FS_SIZE",
                Some(&Unit::Bytes),
                space.capacity,
            ),
            (
                "storage_free",
                "what new blocks could still take",
                Some(&Unit::Bytes),
                space.free,
            ),
            (
                "storage_allocated",
                "size of all segment files",
                Some(&Unit::Bytes),
                space.allocated,
            ),
            (
                "storage_unique",
                "payload of live blocks",
                Some(&Unit::Bytes),
                totals.unique_bytes,
            ),
            (
                "storage_physical",
                "live blocks with their overhead",
                Some(&Unit::Bytes),
                totals.physical_bytes,
            ),
            (
                "storage_live_blocks",
                "distinct live blocks",
                None,
                totals.blocks,
            ),
            (
                "storage_dead",
                "bytes of complete segments in which nothing is needed",
                Some(&Unit::Bytes),
                compaction.dead_bytes,
            ),
            (
                "storage_winnable",
                "what compaction would win of them when somebody waits for room",
                Some(&Unit::Bytes),
                compaction.winnable_bytes,
            ),
            (
                "storage_pinned_files",
                "segments that damage keeps from being emptied",
                None,
                compaction.pinned_files,
            ),
            (
                "storage_read_only",
                "1 if the disk takes no writes",
                None,
                self.0.read_only().is_some().into(),
            ),
            (
                "storage_on_hold",
                "1 while something is in doubt and nothing is freed",
                None,
                self.0.hold().is_held().into(),
            ),
            (
                "storage_unverified_segments",
                "segments whose blocks are read before an upload rests on them",
                None,
                self.0.verifier().unverified_segments(),
            ),
        ]
    }
}

impl Collector for EngineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, unit, value) in self.gauges().into_iter().chain([self.held_read()]) {
            let gauge = as_gauge(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        let frames = ConstCounter::new(self.0.seal_seq().0);
        let help = "group commits of this disk, one sync each";
        frames.encode(encoder.encode_descriptor(
            "storage_log_frames",
            help,
            None,
            frames.metric_type(),
        )?)?;
        Ok(())
    }
}
