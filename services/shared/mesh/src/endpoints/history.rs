//! History of one call's attempts, so that the next attempt goes elsewhere.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::limits::ENDPOINT_PATIENCE;
use crate::transport::io::Target;

/// Endpoints that the attempts of one call have used. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttemptHistory(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    endpoints: Vec<Target>,
    waited: bool,
}

impl AttemptHistory {
    pub(super) fn add(&self, target: &Target) {
        self.0.lock().endpoints.push(target.clone());
    }

    pub(super) fn contains(&self, target: &Target) -> bool {
        self.0.lock().endpoints.contains(target)
    }

    /// Returns how long this attempt may wait for an endpoint. Only the first attempt that asks may
    /// wait at all.
    pub(super) fn max_wait(&self) -> Duration {
        let waited = std::mem::replace(&mut self.0.lock().waited, true);
        if waited {
            Duration::ZERO
        } else {
            ENDPOINT_PATIENCE
        }
    }
}
