//! Metrics of the master, read when they are scraped.

use std::sync::Arc;

use cstore_proto::v1::{NodeState, Role};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::core::Master;

/// Roles that register, and the states that they can be in: all are shown, so that an alert sees a 0 become a 1.
const ROLES: [(Role, &str); 2] = [(Role::Worker, "worker"), (Role::Storage, "storage")];
const STATES: [(NodeState, &str); 4] = [
    (NodeState::Ready, "ready"),
    (NodeState::NotReady, "not_ready"),
    (NodeState::Lost, "lost"),
    (NodeState::Suspect, "suspect"),
];

/// Everything that the master counts, from now on.
pub(crate) fn register(registry: &mut Registry, master: &Arc<Master>) {
    let commits = master.meta.commit_metrics();
    registry.register("master_commit_seconds", "time to write and sync a frame", commits.seconds.clone());
    registry.register("master_commit_bytes", "size of frames on the disk", commits.bytes.clone());
    registry.register_collector(Box::new(MasterMetrics(master.clone())));
}

/// Asks the rules at every scrape.
#[derive(Debug)]
struct MasterMetrics(Arc<Master>);

impl Collector for MasterMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (files, bytes) = self.0.usage.total();
        let gauges: [(&str, &str, u64); 5] = [
            ("master_log_frames", "group commits of the metadata log, one sync each", self.0.meta.frames()),
            ("master_files", "visible files", files),
            ("master_logical_bytes", "sum of file sizes", bytes),
            ("master_log_position", "position of the metadata log", self.0.meta.position()),
            (
                "master_release_backlog",
                "sessions whose space has not come back",
                self.0.releases.len() as u64,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = as_gauge(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let commits = ConstCounter::new(self.0.usage.commits());
        let descriptor = encoder.encode_descriptor(
            "master_published_files",
            "files published",
            None,
            commits.metric_type(),
        )?;
        commits.encode(descriptor)?;
        self.encode_nodes(&mut encoder)
    }
}

impl MasterMetrics {
    fn encode_nodes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let nodes = self.0.members.nodes(self.0.config.lease());
        let help = "nodes that registered, by role and state";
        let mut family = encoder.encode_descriptor("master_nodes", help, None, MetricType::Gauge)?;
        for (role, role_name) in ROLES {
            for (state, state_name) in STATES {
                let found = nodes.iter().filter(|node| node.role() == role && node.state() == state).count();
                let labels = [("role", role_name), ("state", state_name)];
                as_gauge(found as u64).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn as_gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
