//! The registry that every role begins with, and the buckets that all its histograms share.
//!
//! Names are `cstore_<part>_<noun>_<unit>`: the registry adds `cstore_`, a role takes its part with
//! `registry.sub_registry_with_prefix("gateway")`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use prometheus_client::{
    metrics::{
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

/// Registry of one part of a process.
pub type SharedRegistry = Arc<Mutex<Registry>>;

/// Registries that one admin port shows, one after the other. No name may be in two of them. Clones
/// share the list.
#[derive(Debug, Clone, Default)]
pub struct Registries(Arc<Mutex<Vec<SharedRegistry>>>);

impl Registries {
    /// Shows one more registry.
    pub fn add(&self, registry: SharedRegistry) {
        self.0.lock().push(registry);
    }

    /// Returns those that are shown now.
    pub(crate) fn list(&self) -> Vec<SharedRegistry> {
        self.0.lock().clone()
    }
}

impl From<SharedRegistry> for Registries {
    fn from(registry: SharedRegistry) -> Self {
        Self(Arc::new(Mutex::new(vec![registry])))
    }
}

/// A registry with the prefix `cstore` and nothing in it.
pub fn empty_registry() -> Registry {
    Registry::with_prefix("cstore")
}

/// A registry with the prefix `cstore` and the metric `cstore_build_info{role, version}`.
pub fn registry(role: &str) -> Registry {
    let mut registry = empty_registry();
    let labels = vec![
        ("role", role.to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    registry.register(
        "build",
        "The role and the version of this process",
        Info::new(labels),
    );
    registry
}

/// 0.5 ms, doubling up to 16 s: from an answer out of a cache to a slow upload.
pub fn seconds_buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(0.0005, 2.0, 16)
}

/// 256 B, times four up to 1 GiB.
pub fn bytes_buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(256.0, 4.0, 12)
}

/// Group commits of a log: how long their syncs took and how large they were.
#[derive(Debug, Clone)]
pub struct CommitMetrics {
    /// Time to write and sync a frame.
    pub seconds: Histogram,
    /// Bytes of a frame on the disk.
    pub bytes: Histogram,
}

impl Default for CommitMetrics {
    fn default() -> Self {
        Self {
            seconds: Histogram::new(seconds_buckets()),
            bytes: Histogram::new(bytes_buckets()),
        }
    }
}

impl CommitMetrics {
    /// Counts a frame that was synced.
    pub fn observe(&self, took: Duration, bytes: u64) {
        self.seconds.observe(took.as_secs_f64());
        #[allow(
            clippy::cast_precision_loss,
            reason = "a frame has far less than 2^53 bytes"
        )]
        self.bytes.observe(bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_named() {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry("master")).unwrap();
        assert!(
            text.contains("cstore_build_info{role=\"master\",version=\"0.1.0\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn buckets_end_where_the_text_says() {
        assert!((seconds_buckets().last().unwrap() - 16.384).abs() < 1e-9);
        assert!((bytes_buckets().last().unwrap() - f64::from(1 << 30)).abs() < 1e-3);
    }
}
