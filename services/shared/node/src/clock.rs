//! The time of day, as a parameter: rules that read it take a [`Clock`], so that tests and
//! simulations can set it.
//!
//! Intervals are measured by `tokio::time::Instant`, which tests can pause; this is for times that
//! are stored or sent.

use std::time::{SystemTime, UNIX_EPOCH};

/// A source of the time of day.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Returns the Unix time in milliseconds.
    fn now_ms(&self) -> i64;
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
    }
}
