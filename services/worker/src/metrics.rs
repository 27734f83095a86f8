//! Metrics of a worker.

use cstore_proto::v1;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Transfers and their bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct TransferMetrics {
    uploads: Family<Outcome, Counter>,
    downloads: Family<Outcome, Counter>,
    uploaded_bytes: Counter,
    downloaded_bytes: Counter,
    new_blocks: Counter,
    new_bytes: Counter,
}

impl TransferMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("worker_uploads", "uploads by outcome", metrics.uploads.clone());
        registry.register("worker_downloads", "downloads by outcome", metrics.downloads.clone());
        registry.register(
            "worker_uploaded_bytes",
            "bytes of committed files",
            metrics.uploaded_bytes.clone(),
        );
        registry.register(
            "worker_downloaded_bytes",
            "bytes of whole downloads",
            metrics.downloaded_bytes.clone(),
        );
        registry.register(
            "worker_new_blocks",
            "blocks that no store held before",
            metrics.new_blocks.clone(),
        );
        registry.register("worker_new_bytes", "their bytes", metrics.new_bytes.clone());
        metrics
    }

    pub(crate) fn count_upload(&self, done: Option<&v1::UploadResponse>) {
        let outcome = if done.is_some() { "committed" } else { "failed" };
        self.uploads.get_or_create(&Outcome { outcome }).inc();
        if let Some(done) = done {
            self.uploaded_bytes.inc_by(done.file.as_ref().map_or(0, |file| file.size));
            self.new_blocks.inc_by(done.new_blocks);
            self.new_bytes.inc_by(done.new_bytes);
        }
    }

    pub(crate) fn count_download(&self, sent: Option<u64>) {
        let outcome = if sent.is_some() { "whole" } else { "failed" };
        self.downloads.get_or_create(&Outcome { outcome }).inc();
        self.downloaded_bytes.inc_by(sent.unwrap_or(0));
    }
}
