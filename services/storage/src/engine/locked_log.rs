//! The log together with the lock of its disk.

use std::ops::Deref;
use std::sync::Arc;

use cstore_log::{LockGuard, Log};

/// A log whose disk is locked as long as the log lives, in whatever part or task that is.
#[derive(Debug)]
pub(super) struct LockedLog {
    /// Dropped BEFORE the lock: its end waits for the thread that writes. Otherwise a second
    /// process could open the disk while a frame of this one is still on its way.
    log: Log,
    _lock: Arc<LockGuard>,
}

impl LockedLog {
    pub(super) fn new(log: Log, lock: Arc<LockGuard>) -> Self {
        Self { log, _lock: lock }
    }
}

impl Deref for LockedLog {
    type Target = Log;

    fn deref(&self) -> &Log {
        &self.log
    }
}
