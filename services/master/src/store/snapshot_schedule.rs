//! Schedule of the snapshots: when the writer begins one, and the disk space that it reserves.
//!
//! A snapshot lets covered files of the log be removed. It is due after as much log as the last
//! snapshot is large, earlier on a nearly full disk, and at once for deletes that find no space.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use cstore_types::error_chain;

use super::MetaError;
use super::room::{Headroom, SnapshotReserve};
use super::snapshot::SnapshotWriter;
use super::writer::{Writer, end_with_the_index};
use crate::limits::{SNAPSHOT_BLOCK_BYTES, SNAPSHOT_SLACK_BYTES};

/// Outcome of a checkpoint.
#[derive(Debug)]
pub(super) enum CheckpointOutcome {
    /// A new snapshot is on the disk. `replaced` is the previous one, which has no name any more; its
    /// space is freed when the file is closed.
    Written { replaced: Option<File> },
    /// The checkpoint failed or was cancelled. The previous snapshot is unchanged.
    Failed,
}

/// A checkpoint that runs on a thread of its own.
#[derive(Debug)]
pub(super) struct RunningCheckpoint {
    thread: JoinHandle<CheckpointOutcome>,
    /// Log that the snapshot covers.
    covers: UncoveredLog,
    /// Bytes by which the snapshot may exceed the one that it replaces.
    growth: u64,
}

/// Size of the log that no snapshot covers, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UncoveredLog {
    /// Size of its frames.
    pub(super) bytes: u64,
    /// Size of the payloads in these frames.
    pub(super) payloads: u64,
}

/// The log since the last snapshot, and an estimate of the size of the next one.
#[derive(Debug)]
pub(super) struct SnapshotSchedule {
    uncovered: UncoveredLog,
    /// `uncovered.bytes` at the last attempt, which failed or still runs.
    attempted: u64,
    /// Size of a snapshot at the moment when `uncovered.payloads` was `base_payloads`.
    base_bytes: u64,
    /// See `base_bytes`.
    base_payloads: u64,
}

impl SnapshotSchedule {
    /// Makes a schedule for a log of which a snapshot of `snapshot_bytes` does not cover `uncovered`.
    pub(super) fn new(snapshot_bytes: u64, uncovered: UncoveredLog) -> Self {
        Self {
            uncovered,
            attempted: 0,
            base_bytes: snapshot_bytes,
            base_payloads: 0,
        }
    }

    /// Counts a frame of `bytes` bytes with `payloads` bytes of payload.
    pub(super) fn add(&mut self, bytes: u64, payloads: u64) {
        self.uncovered.bytes += bytes;
        self.uncovered.payloads += payloads;
    }

    /// Returns an upper bound of the size of a snapshot taken now: deleted pairs still count, and
    /// every payload since the last snapshot or recount counts as new.
    fn bound(&self) -> u64 {
        // A pair has more overhead in a snapshot than in the log. A quarter covers that of names.
        self.base_bytes + self.new_payloads() / 4 * 5 + SNAPSHOT_SLACK_BYTES
    }

    /// Returns the bytes of payload since the last snapshot or recount.
    fn new_payloads(&self) -> u64 {
        self.uncovered.payloads - self.base_payloads
    }

    /// Replaces the estimate by the exact size of all pairs, so that deleted ones no longer count.
    fn recount(&mut self, pairs: u64) {
        let checksums = pairs / SNAPSHOT_BLOCK_BYTES as u64 * 4;
        self.base_bytes = pairs + checksums;
        self.base_payloads = self.uncovered.payloads;
    }

    /// Starts an attempt. Returns the log that its snapshot will cover.
    fn start_attempt(&mut self) -> UncoveredLog {
        self.attempted = self.uncovered.bytes;
        self.uncovered
    }

    /// Subtracts the log that a new snapshot of `bytes` bytes covers.
    fn subtract_covered(&mut self, bytes: u64, covered: UncoveredLog) {
        self.uncovered.bytes -= covered.bytes;
        self.uncovered.payloads -= covered.payloads;
        self.attempted = 0;
        self.base_bytes = bytes;
        self.base_payloads = 0;
    }
}

impl Writer {
    /// Returns the disk space that the ballast MUST hold for snapshots.
    pub(super) fn snapshot_reserve(&self) -> SnapshotReserve {
        match &self.checkpointing {
            Some(running) => SnapshotReserve {
                next: 0,
                growth: running.growth,
                is_running: true,
            },
            None => SnapshotReserve {
                next: self.schedule.bound(),
                growth: self.snapshot_growth(),
                is_running: false,
            },
        }
    }

    /// Returns the bytes by which the next snapshot may exceed the last one.
    fn snapshot_growth(&self) -> u64 {
        let last_bytes = self.checkpoint.last_bytes.load(Ordering::Relaxed);
        self.schedule.bound().saturating_sub(last_bytes)
    }

    /// Starts a checkpoint if one is due and none runs.
    pub(super) fn checkpoint_if_due(&mut self, headroom: Headroom) {
        self.finish_checkpoint(JoinHandle::is_finished);
        if self.checkpointing.is_some() || self.has_ended() {
            return;
        }

        let threshold = self.snapshot_threshold(headroom);
        let uncovered = self.schedule.uncovered.bytes;
        let has_grown = uncovered - self.schedule.attempted > threshold;
        // On a full disk nothing is written that could make the log grow. Retry an attempt that lacked
        // space as soon as there is enough.
        let can_retry = self.lacked_room
            && uncovered > threshold
            && self.room.fits_snapshot(self.schedule.bound());
        if has_grown || can_retry {
            self.begin_checkpoint();
        }
    }

    /// Shortens the log by a snapshot, so that batches without new names find space: waits for the
    /// running checkpoint, or takes one now if it would free anything. Blocks the thread.
    ///
    /// Returns true if files of the log were removed.
    pub(super) fn shorten_log(&mut self) -> bool {
        let files = &self.checkpoint.files;
        let frees_files = files.has_covered(&self.log, self.applied);
        let frees_snapshot =
            self.schedule.uncovered.bytes > self.snapshot_threshold(Headroom::None);
        if self.checkpointing.is_none() && (frees_files || frees_snapshot) {
            self.begin_checkpoint();
        }

        let before = self.log.allocated_bytes();
        self.checkpoint.is_awaited.store(true, Ordering::Relaxed);
        self.finish_checkpoint(|_| true);
        self.log.allocated_bytes() < before
    }

    /// Returns the size of uncovered log above which a snapshot is due, in bytes. On a nearly full
    /// disk the threshold is small: a snapshot is worth its writes if it frees a quarter of its size.
    fn snapshot_threshold(&self, headroom: Headroom) -> u64 {
        let last_bytes = self.checkpoint.last_bytes.load(Ordering::Relaxed);
        match headroom {
            Headroom::Ample => self.snapshot_bytes.max(last_bytes),
            Headroom::Tight | Headroom::FreeingOnly | Headroom::None => {
                self.file_bytes.max(last_bytes / 4)
            }
        }
    }

    fn begin_checkpoint(&mut self) {
        // Batches that are committed during the checkpoint count for the next one. After a failure
        // the log has to grow by the threshold again before the next attempt.
        let covers = self.schedule.start_attempt();
        let growth = self.snapshot_growth();
        let Some(out) = self.create_snapshot() else {
            return;
        };
        self.lacked_room = false;
        self.walk().begin();
        self.checkpoint.is_awaited.store(false, Ordering::Relaxed);

        let checkpoint = self.checkpoint.clone();
        let rests = !self.by_callers;
        let state = self.published.state.clone();
        let take = move || match checkpoint.take(out, rests) {
            Ok(replaced) => CheckpointOutcome::Written { replaced },
            Err(MetaError::Closed) => CheckpointOutcome::Failed,
            Err(error) => {
                end_with_the_index(&state, &error);
                let error = error_chain(&error);
                tracing::error!(%error, "snapshot of the metadata failed; the log keeps growing");
                CheckpointOutcome::Failed
            }
        };
        if self.by_callers {
            let outcome = take();
            return self.apply_outcome(outcome, covers);
        }
        let thread = std::thread::Builder::new().name("metadata-snapshot".to_owned());
        match thread.spawn(take) {
            Ok(thread) => {
                self.checkpointing = Some(RunningCheckpoint {
                    thread,
                    covers,
                    growth,
                });
            }
            Err(error) => {
                self.walk().end();
                tracing::error!(%error, "snapshot of the metadata cannot start; the log keeps growing");
            }
        }
    }

    /// Creates the file of a snapshot with its space allocated. Returns `None` on failure; a lack of
    /// space is logged once, until a snapshot begins.
    fn create_snapshot(&mut self) -> Option<SnapshotWriter> {
        // Count the pairs only if that may help: the index is read for it.
        let is_worth_counting = self.schedule.new_payloads() > self.schedule.bound() / 16;
        if is_worth_counting && !self.room.fits_snapshot(self.schedule.bound()) {
            match self.index.bytes_of_pairs() {
                Ok(pairs) => self.schedule.recount(pairs),
                Err(error) => end_with_the_index(&self.published.state, &error),
            }
        }

        let needed = self.schedule.bound();
        let at = (self.applied, self.lives.last_link());
        let created = match self.room.make_way_for_snapshot(needed) {
            true => self.checkpoint.create(at, needed),
            false => Err(MetaError::Full),
        };
        match created {
            Ok(out) => Some(out),
            Err(MetaError::Full) => {
                if !std::mem::replace(&mut self.lacked_room, true) {
                    tracing::warn!(
                        needed,
                        "no room for a snapshot of the metadata; the log keeps growing"
                    );
                }
                None
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::error!(%error, "snapshot of the metadata failed; the log keeps growing");
                None
            }
        }
    }

    /// Joins the checkpoint's thread and applies the outcome, if `should_join` returns true for it.
    pub(super) fn finish_checkpoint(
        &mut self,
        should_join: impl FnOnce(&JoinHandle<CheckpointOutcome>) -> bool,
    ) {
        let finished = self
            .checkpointing
            .take_if(|running| should_join(&running.thread));
        if let Some(running) = finished {
            let joined = running.thread.join();
            let outcome = joined.unwrap_or(CheckpointOutcome::Failed);
            self.apply_outcome(outcome, running.covers);
        }
    }

    fn apply_outcome(&mut self, outcome: CheckpointOutcome, covers: UncoveredLog) {
        if let CheckpointOutcome::Written { replaced } = outcome {
            let bytes = self.checkpoint.last_bytes.load(Ordering::Relaxed);
            self.schedule.subtract_covered(bytes, covers);
            self.room.adopt_replaced(replaced);
        }
    }
}
