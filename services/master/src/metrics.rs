//! Metrics of the master, read when they are scraped.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::domain::{FileTotals, Master, Membership, NodeRole, NodeState};

/// Roles that register, and the states that they can be in: all are shown, so that an alert sees a
/// 0 become a 1.
const ROLES: [(NodeRole, &str); 2] = [(NodeRole::Worker, "worker"), (NodeRole::Storage, "storage")];
const STATES: [(NodeState, &str); 4] = [
    (NodeState::Ready, "ready"),
    (NodeState::NotReady, "not_ready"),
    (NodeState::Lost, "lost"),
    (NodeState::Suspect, "suspect"),
];

/// Everything that the master counts, from now on.
pub(crate) fn register(registry: &mut Registry, master: &Arc<Master>) {
    let commits = master.context.store.commit_metrics();
    registry.register(
        "master_commit_seconds",
        "time to write and sync a frame",
        commits.seconds.clone(),
    );
    registry.register(
        "master_commit_bytes",
        "size of frames on the disk",
        commits.bytes.clone(),
    );
    registry.register_collector(Box::new(MasterMetrics(master.clone())));
}

/// Asks the rules at every scrape.
#[derive(Debug)]
struct MasterMetrics(Arc<Master>);

impl Collector for MasterMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Master {
            context, members, ..
        } = &*self.0;
        let FileTotals {
            files,
            logical_bytes,
        } = context.derived.usage.total();
        let gauges: [(&str, &str, u64); 8] = [
            (
                "master_log_frames",
                "group commits of the metadata log, one sync each",
                context.store.frames(),
            ),
            ("master_files", "visible files", files),
            ("master_logical_bytes", "sum of file sizes", logical_bytes),
            (
                "master_log_position",
                "position of the metadata log",
                context.store.position(),
            ),
            (
                "master_release_backlog",
                "sessions whose space has not come back",
                context.derived.releases.len() as u64,
            ),
            (
                "master_unheard_stores",
                "disks that were not heard since the start: no space comes back before, unless an operator excuses them",
                members.unheard_stores() as u64,
            ),
            (
                "master_read_only",
                "1 if the metadata is not whole: names are served, and nothing is written",
                u64::from(context.read_only().is_some()),
            ),
            (
                "master_kept_sessions",
                "uploads that may have committed in a history that was given up: their blocks stay until an operator drops them",
                context.derived.n_kept(),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = as_gauge(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let commits = ConstCounter::new(context.derived.published_files());
        let descriptor = encoder.encode_descriptor(
            "master_published_files",
            "files published",
            None,
            commits.metric_type(),
        )?;
        commits.encode(descriptor)?;
        encode_nodes(members, &mut encoder)
    }
}

fn encode_nodes(
    members: &Membership,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let nodes = members.nodes();
    let help = "nodes that registered, by role and state";
    let mut family = encoder.encode_descriptor("master_nodes", help, None, MetricType::Gauge)?;
    for (role, role_name) in ROLES {
        for (state, state_name) in STATES {
            let found = nodes
                .iter()
                .filter(|view| view.node.role == role && view.state == state)
                .count();
            let labels = [("role", role_name), ("state", state_name)];
            as_gauge(found as u64).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn as_gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
