//! Judge: what the master's answers say about the age of this disk.
//!
//! The master remembers the newest seal of this disk on which a file rests. A disk that does not
//! hold it is an older copy, or has lost writes that were acknowledged: it is in doubt, for as long
//! as its own memory would have worn that off.

use std::sync::Arc;

use cstore_types::epoch::{self, Epoch, SealPoint};
use cstore_types::history::Place;

use super::format::{Doubt, DoubtKind};
use super::hold::{Finding, Hold};
use super::locked_log::LockedLog;
use super::volume::Volume;

/// Judges answers of the master. Clones share everything.
#[derive(Debug, Clone)]
pub struct Judge {
    log: Arc<LockedLog>,
    volume: Arc<Volume>,
    hold: Hold,
}

impl Judge {
    pub(super) fn new(log: Arc<LockedLog>, volume: Arc<Volume>, hold: Hold) -> Self {
        Self { log, volume, hold }
    }

    /// Returns the epochs of this disk, oldest first. The last one is that of this open, also if
    /// nothing was written in it yet.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.volume.epochs()
    }

    /// Returns true if [`Self::judge_seen`] would change nothing. Does not block.
    pub fn agrees(&self, seen: &SealPoint) -> bool {
        let is_about_age = |doubt: &Doubt| doubt.kind == DoubtKind::StoreOlder;
        let is_settled = !self.hold.waits() && !self.hold.doubts().iter().any(is_about_age);
        is_settled && self.holds(seen)
    }

    /// Judges the newest seal of this disk that the master has seen, BEFORE anything of its answer
    /// is used. Returns true if the disk holds it. Blocks the thread if it does not, or if it closes
    /// a doubt.
    ///
    /// Seals race with this safely: one is durable here before the master can have seen it.
    pub fn judge_seen(&self, seen: SealPoint) -> bool {
        let holds = self.holds(&seen);
        if holds {
            let is_disproved = |doubt: &Doubt| {
                doubt.kind == DoubtKind::StoreOlder
                    && (doubt.accepted || doubt.lost_seal().is_none_or(|seal| self.holds(&seal)))
            };
            self.hold.close(is_disproved);
            self.volume.forget_epochs(epoch::epoch_of(seen.seq.0));
        } else {
            let head = self.log.durable_seq();
            tracing::debug!(%seen, head, "the master has seen a seal that is not here");
            self.hold.enter(finding(&seen, head));
        }
        self.hold.begin();
        holds
    }

    fn holds(&self, point: &SealPoint) -> bool {
        let head = self.log.durable_seq();
        epoch::place(&self.volume.epochs(), head, point) == Place::Contains
    }
}

/// Makes the finding about a seal that the master has seen and that is not here.
fn finding(seen: &SealPoint, head: u64) -> Finding {
    let mut aux = [0; 16];
    if let Some(nonce) = aux.first_chunk_mut() {
        *nonce = seen.nonce.to_le_bytes();
    }
    Finding {
        seqs: (seen.seq.0, head),
        aux,
        ..Finding::new(DoubtKind::StoreOlder)
    }
}
