//! Room for a request: retires dead segments, forgets orphans and compacts until the request fits.

use std::sync::Arc;

use super::compactor::Compactor;
use super::error::EngineError;
use super::hold::Hold;
use super::index::{ORPHANS, SharedIndex, steps};
use super::locked_log::LockedLog;
use super::recycler::Recycler;
use super::space::SpaceLedger;

/// Makes room on behalf of requests. Clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Room {
    pub(super) log: Arc<LockedLog>,
    pub(super) index: SharedIndex,
    pub(super) ledger: SpaceLedger,
    pub(super) recycler: Recycler,
    pub(super) compactor: Compactor,
    pub(super) hold: Hold,
}

impl Room {
    /// Makes room for records of `needed` bytes, within bounds. Returns true if there is room now;
    /// other writers may claim it first, so whoever writes reserves it ([`SpaceLedger::reserve`]).
    pub(super) async fn make(&self, needed: u64) -> bool {
        if self.ledger.fits(needed) {
            return true;
        }
        // A log that takes no writes gives no space back either, nor a disk on hold.
        if self.log.poisoned().is_some() || self.hold.is_held() {
            return false;
        }
        self.recycler.reclaim_aside().await;
        if self.ledger.fits(needed) {
            return true;
        }

        // The dearest comes last: orphans cost an upload its blocks, compaction costs copies.
        self.forget_orphans_aside().await;
        self.recycler.reclaim_aside().await;
        self.compactor
            .compact_until(|| self.ledger.fits(needed))
            .await
    }

    /// Adds to a refusal for lack of room why deletes give none back.
    pub(super) fn explain(&self, error: EngineError) -> EngineError {
        match error {
            EngineError::Full { needed, free, .. } => EngineError::Full {
                needed,
                free,
                hold: self.hold.reason(),
            },
            other => other,
        }
    }

    /// Drops the blocks that a restart found without a reference set. An upload that still wants
    /// them sends them again. Blocks the thread.
    pub(super) fn forget_orphans(&self) {
        let ticket = self.index.lock().end_pins(ORPHANS);
        steps::drop_pins(&self.index, ticket);
    }

    /// Like [`Self::forget_orphans`], on a blocking thread if there are many. When this returns all of
    /// them are dropped, also those that another caller has begun with.
    pub(super) async fn forget_orphans_aside(&self) {
        let ticket = self.index.lock().end_pins(ORPHANS);
        steps::drop_pins_aside(&self.index, ticket).await;
    }
}
