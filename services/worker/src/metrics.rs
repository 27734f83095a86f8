//! Metrics of a worker.

use cstore_proto::v1;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

const COMMITTED: &str = "committed";
const WHOLE: &str = "whole";
const FAILED: &str = "failed";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Transfers of one direction.
#[derive(Debug, Clone, Default)]
struct Transfers {
    ended: Family<Outcome, Counter>,
    in_flight: Gauge,
}

/// Transfers and their bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct TransferMetrics {
    uploads: Transfers,
    downloads: Transfers,
    uploaded_bytes: Counter,
    downloaded_bytes: Counter,
    new_blocks: Counter,
    new_bytes: Counter,
    known_blocks: Counter,
    known_bytes: Counter,
}

impl TransferMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in [COMMITTED, FAILED] {
            drop(metrics.uploads.ended.get_or_create(&Outcome { outcome }));
        }
        for outcome in [WHOLE, FAILED] {
            drop(metrics.downloads.ended.get_or_create(&Outcome { outcome }));
        }
        let r = registry;
        r.register(
            "worker_uploads",
            "uploads by outcome",
            metrics.uploads.ended.clone(),
        );
        r.register(
            "worker_uploads_in_flight",
            "uploads that run",
            metrics.uploads.in_flight.clone(),
        );
        r.register(
            "worker_downloads",
            "downloads by outcome",
            metrics.downloads.ended.clone(),
        );
        r.register(
            "worker_downloads_in_flight",
            "downloads that run",
            metrics.downloads.in_flight.clone(),
        );
        r.register(
            "worker_uploaded_bytes",
            "bytes of committed files",
            metrics.uploaded_bytes.clone(),
        );
        r.register(
            "worker_downloaded_bytes",
            "bytes of whole downloads",
            metrics.downloaded_bytes.clone(),
        );
        r.register(
            "worker_new_blocks",
            "blocks that no store held before",
            metrics.new_blocks.clone(),
        );
        r.register("worker_new_bytes", "their bytes", metrics.new_bytes.clone());
        r.register(
            "worker_known_blocks",
            "blocks that a store held already",
            metrics.known_blocks.clone(),
        );
        r.register(
            "worker_known_bytes",
            "their bytes",
            metrics.known_bytes.clone(),
        );
        metrics
    }

    /// Counts an upload as running, and when it is dropped as failed, or as what it was told.
    pub(crate) fn upload(&self) -> Running {
        Running::new(&self.uploads)
    }

    /// Like [`Self::upload`], for a download.
    pub(crate) fn download(&self) -> Running {
        Running::new(&self.downloads)
    }

    pub(crate) fn committed(&self, running: &mut Running, done: &v1::UploadResponse) {
        running.outcome = COMMITTED;
        let (size, blocks) = done
            .file
            .as_ref()
            .map_or((0, 0), |file| (file.size, file.blocks));
        self.uploaded_bytes.inc_by(size);
        self.new_blocks.inc_by(done.new_blocks);
        self.new_bytes.inc_by(done.new_bytes);
        self.known_blocks
            .inc_by(blocks.saturating_sub(done.new_blocks));
        self.known_bytes.inc_by(size.saturating_sub(done.new_bytes));
    }

    pub(crate) fn sent(&self, running: &mut Running, bytes: u64) {
        running.outcome = WHOLE;
        self.downloaded_bytes.inc_by(bytes);
    }
}

/// A transfer that runs.
#[derive(Debug)]
pub(crate) struct Running {
    of: Transfers,
    outcome: &'static str,
}

impl Running {
    fn new(of: &Transfers) -> Self {
        of.in_flight.inc();
        Self {
            of: of.clone(),
            outcome: FAILED,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.of.in_flight.dec();
        self.of
            .ended
            .get_or_create(&Outcome {
                outcome: self.outcome,
            })
            .inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn a_transfer_counts_once_also_when_nobody_says_how_it_ended() {
        let mut registry = Registry::default();
        let metrics = TransferMetrics::register(&mut registry);
        let (mut one, other) = (metrics.upload(), metrics.upload());
        assert!(
            shown(&registry).contains("worker_uploads_in_flight 2"),
            "{}",
            shown(&registry)
        );
        let file = v1::FileInfo {
            size: 1_000,
            blocks: 10,
            ..v1::FileInfo::default()
        };
        let done = v1::UploadResponse {
            file: Some(file),
            new_blocks: 4,
            new_bytes: 400,
            ..Default::default()
        };
        metrics.committed(&mut one, &done);
        drop((one, other));
        let text = shown(&registry);
        for line in [
            "worker_uploads_total{outcome=\"committed\"} 1",
            "worker_uploads_total{outcome=\"failed\"} 1",
            "worker_uploads_in_flight 0",
            "worker_known_blocks_total 6",
            "worker_known_bytes_total 600",
            "worker_downloads_total{outcome=\"whole\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
