//! When the writer has a snapshot taken, and the room that it takes for it.
//!
//! A snapshot gives files of the log back, so it is due after as much log as the last one was large,
//! earlier on a disk that is nearly full, and at once for deletes that find no room.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use cstore_types::error_chain;

use super::MetaError;
use super::room::{Headroom, Needs};
use super::snapshot::SnapshotWriter;
use super::writer::{Writer, end_with_the_index};
use crate::limits::{SNAPSHOT_BLOCK_BYTES, SNAPSHOT_SLACK_BYTES};

/// The result of a checkpoint: the snapshot that was replaced, if there was one; `None` if none was
/// taken.
type Outcome = Option<Option<File>>;

/// A checkpoint that runs.
#[derive(Debug)]
pub(super) struct Taking {
    /// Bytes by which its snapshot may be larger than the one before.
    growth: u64,
    thread: JoinHandle<Outcome>,
    covers: Uncovered,
}

/// Log that no snapshot covers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Uncovered {
    /// Bytes that its frames take.
    pub(super) bytes: u64,
    /// Bytes of the payloads in them.
    pub(super) payloads: u64,
}

/// Log that waits for a snapshot.
#[derive(Debug)]
pub(super) struct Due {
    uncovered: Uncovered,
    /// Bytes of it that were there at the last try, which has failed or goes on.
    tried: u64,
    /// Bytes that a snapshot would have had when the payloads had `base_payloads`.
    base_bytes: u64,
    base_payloads: u64,
}

impl Due {
    /// Begins behind a snapshot of `snapshot_bytes`.
    pub(super) fn new(snapshot_bytes: u64, uncovered: Uncovered) -> Self {
        Self {
            uncovered,
            tried: 0,
            base_bytes: snapshot_bytes,
            base_payloads: 0,
        }
    }

    /// Adds a frame of `bytes` whose payloads have `payloads`.
    pub(super) fn add(&mut self, bytes: u64, payloads: u64) {
        self.uncovered.bytes += bytes;
        self.uncovered.payloads += payloads;
    }

    /// Notes a try. Returns what its snapshot covers.
    fn begin(&mut self) -> Uncovered {
        self.tried = self.uncovered.bytes;
        self.uncovered
    }

    /// Returns the most bytes that a snapshot of now takes: all that it had before stays, and what
    /// was written since is new.
    fn bound(&self) -> u64 {
        let new = self.uncovered.payloads - self.base_payloads;
        // A snapshot has more bytes around each pair than a record of the log has.
        self.base_bytes + new / 4 * 5 + SNAPSHOT_SLACK_BYTES
    }

    /// Takes the bytes that all pairs have now. What was deleted since the last snapshot is not
    /// counted any more.
    fn recount(&mut self, pairs: u64) {
        let checksums = pairs / SNAPSHOT_BLOCK_BYTES as u64 * 4;
        self.base_bytes = pairs + checksums;
        self.base_payloads = self.uncovered.payloads;
    }

    /// Takes off what a snapshot of `bytes` covers.
    fn end(&mut self, bytes: u64, covers: Uncovered) {
        self.uncovered.bytes -= covers.bytes;
        self.uncovered.payloads -= covers.payloads;
        self.tried = 0;
        self.base_bytes = bytes;
        self.base_payloads = 0;
    }
}

impl Writer {
    /// Returns what the ballast is to have for snapshots.
    pub(super) fn needs(&self) -> Needs {
        match &self.taking {
            Some(taking) => Needs {
                growth: taking.growth,
                is_taken: true,
                ..Needs::default()
            },
            None => Needs {
                snapshot: self.due.bound(),
                growth: self.growth(),
                is_taken: false,
            },
        }
    }

    /// Returns the bytes by which the next snapshot may be larger than the last one.
    fn growth(&self) -> u64 {
        let last_bytes = self.checkpoint.last_bytes.load(Ordering::Relaxed);
        self.due.bound().saturating_sub(last_bytes)
    }

    /// Begins a checkpoint if one is due.
    pub(super) fn take_if_due(&mut self, headroom: Headroom) {
        self.finish_checkpoint(JoinHandle::is_finished);
        let threshold = self.threshold(headroom);
        let is_due = self.due.uncovered.bytes - self.due.tried > threshold
            // Room has come back since the last try.
            || (self.lacked_room
                && self.due.uncovered.bytes > threshold
                && self.room.fits_snapshot(self.due.bound()));
        if is_due && self.taking.is_none() && !self.has_ended() {
            self.begin_checkpoint();
        }
    }

    /// Takes a snapshot now, or waits for the one that runs, so that a group which adds no names
    /// finds room: that of log files, and what the snapshot is smaller than the one before. Returns
    /// false if no file of the log goes.
    pub(super) fn free_log(&mut self) -> bool {
        let files = &self.checkpoint.files;
        let is_worth_it = files.has_covered(&self.log, self.applied)
            || self.due.uncovered.bytes > self.threshold(Headroom::None);
        if self.taking.is_none() && is_worth_it {
            self.begin_checkpoint();
        }
        let before = self.log.allocated_bytes();
        self.checkpoint.hurries.store(true, Ordering::Relaxed);
        self.finish_checkpoint(|_| true);
        self.log.allocated_bytes() < before
    }

    /// Returns the bytes of log after which a snapshot is due. On a disk that is nearly full it is due
    /// as soon as it gives much of its own size back.
    fn threshold(&self, headroom: Headroom) -> u64 {
        let last_bytes = self.checkpoint.last_bytes.load(Ordering::Relaxed);
        match headroom {
            Headroom::Ample => self.snapshot_bytes.max(last_bytes),
            Headroom::Tight | Headroom::FreeingOnly | Headroom::None => {
                self.file_bytes.max(last_bytes / 4)
            }
        }
    }

    fn begin_checkpoint(&mut self) {
        // Batches that are committed while the checkpoint runs count for the next one. After a
        // failure the log has to grow by as much again before the next try.
        let covers = self.due.begin();
        let growth = self.growth();
        let Some(out) = self.begin_snapshot() else {
            return;
        };
        self.lacked_room = false;
        self.walk().begin();
        self.checkpoint.hurries.store(false, Ordering::Relaxed);

        let checkpoint = self.checkpoint.clone();
        let rests = !self.by_callers;
        let state = self.published.state.clone();
        let take = move || match checkpoint.take(out, rests) {
            Ok(replaced) => Some(replaced),
            Err(MetaError::Closed) => None,
            Err(error) => {
                end_with_the_index(&state, &error);
                let error = error_chain(&error);
                tracing::error!(%error, "snapshot of the metadata failed; the log keeps growing");
                None
            }
        };
        if self.by_callers {
            let outcome = take();
            return self.note_taken(outcome, covers);
        }
        let thread = std::thread::Builder::new().name("metadata-snapshot".to_owned());
        match thread.spawn(take) {
            Ok(thread) => {
                self.taking = Some(Taking {
                    growth,
                    thread,
                    covers,
                });
            }
            Err(error) => {
                self.walk().end();
                tracing::error!(%error, "snapshot of the metadata cannot start; the log keeps growing");
            }
        }
    }

    /// Makes the file of a snapshot, with its room. A disk without room is said once, until a
    /// snapshot was taken.
    fn begin_snapshot(&mut self) -> Option<SnapshotWriter> {
        let at = (self.applied, self.lives.last_link());
        let new = self.due.uncovered.payloads - self.due.base_payloads;
        if !self.room.fits_snapshot(self.due.bound()) && new > self.due.bound() / 16 {
            match self.index.bytes_of_pairs() {
                Ok(pairs) => self.due.recount(pairs),
                Err(error) => end_with_the_index(&self.published.state, &error),
            }
        }
        let needed = self.due.bound();
        let begun = match self.room.make_way_for_snapshot(needed) {
            true => self.checkpoint.begin(at, needed),
            false => Err(MetaError::Full),
        };
        match begun {
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

    /// Takes the result of the checkpoint that runs, if `may_wait` says so of its thread.
    pub(super) fn finish_checkpoint(
        &mut self,
        may_wait: impl FnOnce(&JoinHandle<Outcome>) -> bool,
    ) {
        if let Some(taking) = self.taking.take_if(|taking| may_wait(&taking.thread)) {
            let outcome = taking.thread.join().unwrap_or(None);
            self.note_taken(outcome, taking.covers);
        }
    }

    fn note_taken(&mut self, outcome: Outcome, covers: Uncovered) {
        if let Some(replaced) = outcome {
            let bytes = self.checkpoint.last_bytes.load(Ordering::Relaxed);
            self.due.end(bytes, covers);
            self.room.take_over(replaced);
            self.lacked_room = false;
        }
    }
}
