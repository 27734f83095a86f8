//! Metrics of the master, read when they are scraped.

use std::sync::Arc;

use cstore_proto::v1::NodeState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::core::Master;

/// Asks the rules at every scrape.
#[derive(Debug)]
pub(crate) struct MasterMetrics(pub(crate) Arc<Master>);

impl Collector for MasterMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (files, bytes) = self.0.usage.total();
        let nodes = self.0.members.nodes(self.0.config.lease());
        let ready = nodes.iter().filter(|node| node.state() == NodeState::Ready).count() as u64;
        let gauges: [(&str, &str, u64); 7] = [
            ("master_log_frames", "group commits of the metadata log, one sync each", self.0.meta.frames()),
            ("master_files", "visible files", files),
            ("master_logical_bytes", "sum of file sizes", bytes),
            ("master_log_position", "position of the metadata log", self.0.meta.position()),
            (
                "master_release_backlog",
                "sessions whose space has not come back",
                self.0.releases.len() as u64,
            ),
            ("master_nodes", "nodes that registered", nodes.len() as u64),
            ("master_nodes_ready", "nodes that take work", ready),
        ];
        for (name, help, value) in gauges {
            let gauge: ConstGauge<i64> = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let commits = ConstCounter::new(self.0.usage.commits());
        let descriptor = encoder.encode_descriptor(
            "master_published_files",
            "files published",
            None,
            commits.metric_type(),
        )?;
        commits.encode(descriptor)
    }
}
