//! When the writer takes a snapshot: what it costs, what it gives back.

use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use cstore_types::error_chain;

use super::MetaError;
use super::checkpoint::Cut;
use super::room::Headroom;
use super::writer::{Writer, end};
use crate::limits::TIGHT_SNAPSHOT_BYTES;

impl Writer {
    /// Forgets the thread of a checkpoint that has ended.
    pub(super) fn forget_finished(&mut self) {
        if self.taking.as_ref().is_some_and(JoinHandle::is_finished) {
            self.taking = None;
        }
    }

    /// Returns the size that a snapshot of the index has at most.
    pub(super) fn snapshot_bound(&self) -> u64 {
        let base = *self.checkpoint.base.lock();
        base.bytes.saturating_add_signed(self.growth - base.growth)
    }

    /// Returns the bytes of the log that a snapshot gives back.
    fn covered_bytes(&self) -> u64 {
        let files = &self.checkpoint.files;
        files.covered_bytes(&self.log, self.applied)
    }

    /// Returns true if a snapshot should be taken now: after as much log as the last snapshot was
    /// large, or earlier if the disk is nearly full, because the log that a snapshot covers gives
    /// its room back. Once batches are refused, a snapshot is due as soon as the files that it gives
    /// back are worth writing it.
    pub(super) fn is_checkpoint_due(&mut self, headroom: Headroom) -> bool {
        let is_pressed = std::mem::take(&mut self.is_pressed) || headroom <= Headroom::FreeingOnly;
        let last_bytes = self.checkpoint.last_bytes.load(Ordering::Relaxed);
        let tight = TIGHT_SNAPSHOT_BYTES.min(4 * self.file_bytes);
        let threshold = match headroom {
            Headroom::Ample => self.snapshot_bytes.max(last_bytes),
            Headroom::Tight | Headroom::FreeingOnly | Headroom::None => tight.max(last_bytes),
        };
        let is_worth_it = is_pressed && self.covered_bytes() > last_bytes / 4;
        if self.uncovered_bytes <= threshold && !is_worth_it {
            return false;
        }

        // The snapshot before stays until the new one is whole. The index must not meet a full disk
        // until then.
        self.checkpoint.has_room(self.snapshot_bound())
    }

    /// Makes room in the log by a snapshot, and waits for it. Returns false if none can help.
    pub(super) fn free_log(&mut self) -> bool {
        // One that was begun before may have given files back since the log was found full.
        if self.await_checkpoint() {
            return !self.has_ended();
        }
        let before = self.covered_bytes();
        if before == 0 || !self.checkpoint.has_room(self.snapshot_bound()) {
            return false;
        }

        // A delete waits for the snapshot: nothing else leads to room. One that fails gives nothing
        // back, and is not tried a second time.
        self.begin_checkpoint();
        self.await_checkpoint();
        !self.has_ended() && self.covered_bytes() < before
    }

    /// Waits for the checkpoint that runs. Returns false if none was begun.
    fn await_checkpoint(&mut self) -> bool {
        let taking = self.taking.take();
        taking.map(JoinHandle::join).is_some()
    }

    /// Begins a snapshot of the index as it is now.
    pub(super) fn begin_checkpoint(&mut self) {
        // Batches that are committed while the checkpoint runs count for the next one. After a
        // failure the log has to grow by as much again before the next try.
        self.uncovered_bytes = 0;
        let cut = Cut {
            position: self.applied,
            link: self.lives.last_link(),
            growth: self.growth,
        };
        self.checkpoint.walk.begin();

        let checkpoint = self.checkpoint.clone();
        let rests = !self.by_callers;
        let state = self.published.state.clone();
        let take = move || match checkpoint.take(cut, rests) {
            Ok(()) | Err(MetaError::Closed) => {}
            // Others took the room. The next one is tried when there is some.
            Err(error) if error.is_full() => checkpoint.note_lack_of_room(),
            Err(error) if error.ends_the_index() => end(&state, error),
            Err(error) => {
                let error = error_chain(&error);
                tracing::error!(%error, "snapshot of the metadata failed; the log keeps growing");
            }
        };
        if self.by_callers {
            return take();
        }
        let thread = std::thread::Builder::new().name("metadata-snapshot".to_owned());
        match thread.spawn(take) {
            Ok(handle) => self.taking = Some(handle),
            Err(error) => {
                self.checkpoint.walk.end();
                tracing::error!(%error, "snapshot of the metadata cannot start; the log keeps growing");
            }
        }
    }
}
