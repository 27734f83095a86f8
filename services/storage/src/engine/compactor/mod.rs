//! Compaction: the needed records of a half-dead segment are copied forward, then the segment is
//! retired like any dead one.
//!
//! ```text
//! choose a victim ─▶ read its directory ─▶ batch by batch (Relocator):
//!   look up what is needed ─▶ read and verify it ─▶ fence its sessions ─▶ one group of the log, synced
//!     ─▶ the callback moves each record by compare-and-set ─▶ nothing needed is left ─▶ the file is retired
//! ```
//! Invariants
//! * A segment is retired only when nothing in it is needed. A record stops being needed there only
//!   AFTER its copy was synced. A crash at any point leaves one valid copy or two equal ones, and
//!   the later one is the current one.
//! * No unverified byte is copied: a damaged block stays where it is, is counted and keeps its
//!   segment.
//! * In the log, a release never stands between a set and its copy: neither is appended while the
//!   other one is under way. A seal waits while a release of its session moves.
//! * The log keeps room that only compaction may take, enough for any segment that is worth it: a
//!   full disk can be compacted.

mod pacer;
mod policy;
mod relocate;
mod victim;

use std::collections::HashMap;
use std::sync::Arc;

use cstore_log::{FileState, LogError, Urgency};
use cstore_types::error_chain;
use tokio::sync::{Mutex, MutexGuard};

use super::appender::Appender;
use super::counters::Counters;
use super::error::EngineError;
use super::fences::Fences;
use super::hold::Hold;
use super::index::SharedIndex;
use super::locked_log::LockedLog;
use super::reader::BlockReader;
use super::recycler::Recycler;
use super::sets::SetReader;
use super::space::{Space, SpaceLedger};
use crate::limits::{
    COMPACTION_BUSY_PAUSE, FENCED_LOOKS, MAX_FRUITLESS, MAX_PASSED_SEGMENTS, MAX_ROOM_STEPS,
};
pub(super) use pacer::pause_after;
pub use policy::Need;
use policy::{Candidate, Sizes};
use relocate::Relocator;
use victim::{Entry, Victim};

/// The outcome of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactStep {
    /// No segment is worth emptying.
    Idle,
    /// Bytes that were copied.
    Moved(u64),
    /// The last needed record of a segment had moved, and the segment is retired.
    Emptied,
}

/// The state of compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactionStats {
    /// Bytes of segments, without the active one, in which nothing is needed; padding is among
    /// them.
    pub dead_bytes: u64,
    /// Bytes of those that compaction could free for a waiting write, after its own reserve is
    /// refilled.
    pub winnable_bytes: u64,
    /// Segments that are never emptied, because something in them is damaged.
    pub pinned_files: u64,
    /// Bytes missing from the compaction reserve.
    pub missing_bytes: u64,
}

/// Progress that is remembered between steps. Locked by the caller whose step runs.
#[derive(Debug, Default)]
struct Progress {
    victim: Option<Victim>,
    /// Segments that could not be emptied.
    blocked: HashMap<u32, Blocked>,
    /// Looks for a victim so far.
    looks: u64,
    /// The situation in which the last look found nothing. It is not repeated in the same one.
    fruitless: Option<Situation>,
}

/// Everything that the choice of a victim depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Situation {
    /// Records that have died so far.
    died: u64,
    /// Frames of the log.
    seq: u64,
    need: Need,
    /// Room for copies.
    room: u64,
}

/// The reason why a segment is left alone for a while.
#[derive(Debug, Clone, Copy)]
struct Blocked {
    /// Its needed records then. With fewer the segment is looked at again.
    live: u64,
    /// Number of the look from which on the segment is looked at again.
    until: u64,
}

impl Progress {
    fn is_blocked(&self, file: u32, live: u64) -> bool {
        self.blocked
            .get(&file)
            .is_some_and(|blocked| blocked.live == live && self.looks < blocked.until)
    }
}

/// The exclusive right to compact.
#[derive(Debug)]
pub(super) struct CompactionTurn<'a> {
    progress: MutexGuard<'a, Progress>,
}

/// Empties segments. Clones share everything.
#[derive(Debug, Clone)]
pub struct Compactor {
    log: Arc<LockedLog>,
    index: SharedIndex,
    ledger: SpaceLedger,
    recycler: Recycler,
    relocator: Relocator,
    counters: Counters,
    hold: Hold,
    /// One step at a time.
    progress: Arc<Mutex<Progress>>,
}

/// The parts that compaction works with.
#[derive(Debug)]
pub(super) struct CompactorParts {
    pub(super) log: Arc<LockedLog>,
    pub(super) index: SharedIndex,
    pub(super) fences: Fences,
    pub(super) ledger: SpaceLedger,
    pub(super) appender: Appender,
    pub(super) blocks: BlockReader,
    pub(super) sets: SetReader,
    pub(super) recycler: Recycler,
    pub(super) counters: Counters,
    pub(super) hold: Hold,
}

/// Steps.
impl Compactor {
    pub(super) fn new(parts: CompactorParts) -> Self {
        let relocator = Relocator {
            appender: parts.appender,
            index: parts.index.clone(),
            fences: parts.fences,
            blocks: parts.blocks,
            sets: parts.sets,
            counters: parts.counters.clone(),
        };
        Self {
            log: parts.log,
            index: parts.index,
            ledger: parts.ledger,
            recycler: parts.recycler,
            relocator,
            counters: parts.counters,
            hold: parts.hold,
            progress: Arc::default(),
        }
    }

    /// Waits for the right to compact. No step of another caller runs as long as the turn lives.
    pub(super) async fn turn(&self) -> CompactionTurn<'_> {
        CompactionTurn {
            progress: self.progress.lock().await,
        }
    }

    /// Copies one group out of the segment that is being emptied, or chooses a segment. Steps of
    /// several callers follow each other. A step whose future is dropped half-way is safe.
    ///
    /// # Errors
    /// [`EngineError`] if the log is read-only or closed.
    pub async fn step(&self, need: Need) -> Result<CompactStep, EngineError> {
        self.step_in(&mut self.turn().await, need).await
    }

    /// Like [`Self::step`], for a caller that keeps others from compacting.
    ///
    /// # Errors
    /// The errors of [`Self::step`].
    pub(super) async fn step_in(
        &self,
        turn: &mut CompactionTurn<'_>,
        need: Need,
    ) -> Result<CompactStep, EngineError> {
        if self.hold.is_held() {
            return Ok(CompactStep::Idle);
        }
        let progress = &mut *turn.progress;
        if progress.victim.is_none() {
            progress.victim = self.next_victim(progress, need).await;
        }
        let Some(victim) = &mut progress.victim else {
            return Ok(CompactStep::Idle);
        };
        if !self.may_copy(victim).await? {
            return Ok(self.finish(progress).await);
        }

        let begun = victim.position();
        let batch = self.relocator.gather(victim);
        if batch.is_empty() && victim.at >= victim.entries.len() {
            // Everything has moved that could. Records that were kept may move once their fences
            // end.
            let may_go_on =
                self.relocator.wait_until_free(&victim.kept).await && victim.retry_kept();
            if !may_go_on {
                return Ok(self.finish(progress).await);
            }
        }

        match self.relocator.copy(victim, batch).await {
            Ok(bytes) => Ok(CompactStep::Moved(bytes)),
            Err(EngineError::Full { .. })
                if victim.shrink_groups(self.ledger.geometry.group_bytes) =>
            {
                Ok(CompactStep::Moved(0))
            }
            Err(EngineError::Full { .. }) => Ok(self.finish(progress).await),
            Err(EngineError::Busy(_)) => {
                // Writers fill the queue of the log faster than it is written: the same records
                // again, a little later.
                victim.rewind(begun);
                tokio::time::sleep(COMPACTION_BUSY_PAUSE).await;
                Ok(CompactStep::Moved(0))
            }
            Err(error) => {
                victim.rewind(begun);
                Err(error)
            }
        }
    }

    /// Returns true if more may be copied out of the victim.
    ///
    /// A copy that fits the room of all is written as it comes. BEFORE the first byte of
    /// compaction's own reserve is taken, all needed records are verified: a victim that damage
    /// keeps gives nothing back, and the reserve would be lost.
    async fn may_copy(&self, victim: &mut Victim) -> Result<bool, EngineError> {
        if victim.verified || self.ledger.space().free >= self.room_for(victim) {
            return Ok(true);
        }
        if victim.damaged {
            return Ok(false);
        }

        let relocator = self.relocator.clone();
        let entries = victim.entries.clone();
        let good = cstore_node::blocking(move || relocator.verify(&entries)).await??;
        victim.verified = good;
        victim.damaged |= !good;
        if good {
            self.log.begin_compaction(victim.file);
        }
        Ok(good)
    }

    /// Ends the victim, out of which everything has moved that could. What is left is damaged, or a
    /// seal or release keeps it and it may move later.
    async fn finish(&self, progress: &mut Progress) -> CompactStep {
        // A segment in which nothing is needed any more goes now; the room of its copy is settled
        // with it.
        let Some(victim) = progress.victim.take() else {
            return CompactStep::Moved(0);
        };
        self.recycler.reclaim_aside().await;
        self.log.settle_compaction();
        if !self.log.files().iter().any(|file| file.id == victim.file) {
            self.counters.compacted_files.inc();
            return CompactStep::Emptied;
        }

        if victim.damaged {
            self.block_damaged(progress, victim.file);
        } else {
            let until = progress.looks + FENCED_LOOKS;
            self.block(progress, victim.file, until);
        }
        CompactStep::Moved(0)
    }

    /// Compacts until `is_done`. Returns false if nothing is left to reclaim, or other writers
    /// claim all that is.
    pub(super) async fn compact_until(&self, is_done: impl Fn() -> bool) -> bool {
        let mut most_free = self.space().free;
        let mut fruitless = 0;
        for _ in 0..MAX_ROOM_STEPS {
            if is_done() {
                return true;
            }
            match self.step(Need::Now).await {
                Ok(CompactStep::Moved(_)) => continue,
                Ok(CompactStep::Emptied) => {}
                Ok(CompactStep::Idle) | Err(_) => return is_done(),
            }

            // Segments that were emptied for others do not help this caller.
            let free = self.space().free;
            fruitless = if free > most_free { 0 } else { fruitless + 1 };
            most_free = most_free.max(free);
            if fruitless > MAX_FRUITLESS {
                return is_done();
            }
        }
        false
    }
}

/// The choice of a victim.
impl Compactor {
    /// Returns the next victim, with its directory.
    async fn next_victim(&self, progress: &mut Progress, need: Need) -> Option<Victim> {
        for _ in 0..MAX_PASSED_SEGMENTS {
            self.recycler.reclaim_aside().await;
            self.log.settle_compaction();
            let file = self.choose(progress, need)?;
            let log = self.log.clone();
            // A directory may have a million entries.
            let read = move || {
                let records = log.directory(file)?;
                let entries = records.iter().map(Entry::try_from);
                Ok(entries.collect::<Result<Vec<_>, _>>())
            };
            let directory = cstore_node::blocking(read).await.ok()?;

            let damage = match directory {
                Ok(Ok(entries)) => {
                    return Some(Victim::new(file, entries, self.ledger.geometry.group_bytes));
                }
                Ok(Err(error)) => error_chain(&error).to_string(),
                // Its last record died after the choice, and another request retired the segment.
                Err(LogError::NoFile(_)) => continue,
                Err(error) => error_chain(&error).to_string(),
            };
            tracing::error!(file, error = %damage, "directory of a segment is damaged: it cannot be emptied");
            self.block_damaged(progress, file);
        }
        None
    }

    fn choose(&self, progress: &mut Progress, need: Need) -> Option<u32> {
        let seq = self.log.durable_seq();
        let room = self.room_for_copies();
        let files = self.log.files();
        progress.looks += 1;

        // In an unchanged situation the same look would find nothing again.
        let index = self.index.lock();
        let situation = Situation {
            died: index.died(),
            seq,
            need,
            room,
        };
        if progress.fruitless == Some(situation) {
            return None;
        }
        let candidates = files
            .iter()
            .filter(|file| file.state != FileState::Active)
            .filter_map(|file| {
                let needed = index.file_use(file.id);
                let age = seq.saturating_sub(file.seqs.map_or(0, |(_, last)| last));
                let candidate = Candidate {
                    file: file.id,
                    size: file.size,
                    live: needed.bytes,
                    age,
                };
                (!progress.is_blocked(file.id, needed.live)).then_some(candidate)
            });
        let candidates: Vec<Candidate> = candidates.collect();
        drop(index);
        let best = policy::best(candidates.into_iter(), need, room, &self.sizes());

        progress.fruitless = best.is_none().then_some(situation);
        best.map(|candidate| candidate.file)
    }

    /// Leaves a segment alone, until fewer of its records are needed or that many looks were made.
    fn block(&self, progress: &mut Progress, file: u32, until: u64) {
        let files = self.log.files();
        progress
            .blocked
            .retain(|blocked, _| files.iter().any(|file| file.id == *blocked));
        let live = self.index.lock().file_use(file).live;
        progress.blocked.insert(file, Blocked { live, until });
    }

    /// Leaves a segment alone in which something is damaged, until fewer of its records are needed.
    fn block_damaged(&self, progress: &mut Progress, file: u32) {
        self.index.lock().mark_file_damaged(file);
        self.block(progress, file, u64::MAX);
    }
}

/// Space and state.
impl Compactor {
    /// Returns the fill of the disk.
    pub fn space(&self) -> Space {
        self.ledger.space()
    }

    /// Returns the state of compaction.
    pub fn stats(&self) -> CompactionStats {
        let room = self.room_for_copies();
        let missing_bytes = self.log.missing_bytes();
        let sizes = self.sizes();
        let files = self.log.files();

        let index = self.index.lock();
        let mut dead_bytes = 0;
        let mut candidates = Vec::new();
        for file in files.iter().filter(|file| file.state != FileState::Active) {
            let live = index.file_use(file.id).bytes;
            dead_bytes += file.size.saturating_sub(live);
            if !index.damaged_files().contains(&file.id) {
                candidates.push(Candidate {
                    file: file.id,
                    size: file.size,
                    live,
                    age: 0,
                });
            }
        }
        let pinned_files = index.damaged_files().len() as u64;
        drop(index);
        CompactionStats {
            dead_bytes,
            winnable_bytes: policy::reclaimable(&candidates, room, missing_bytes, &sizes),
            pinned_files,
            missing_bytes,
        }
    }

    /// Returns the room that a copy can count on. Room beyond compaction's own part of the reserve
    /// may be claimed by other writers.
    fn room_for_copies(&self) -> u64 {
        self.log
            .free_bytes(Urgency::Compaction)
            .min(self.log.compaction_bytes())
    }

    /// Returns the room that the copy of the rest of the victim may take.
    fn room_for(&self, victim: &Victim) -> u64 {
        let live = self.index.lock().file_use(victim.file).bytes;
        Candidate {
            file: victim.file,
            size: 0,
            live,
            age: 0,
        }
        .room(&self.sizes())
    }

    fn sizes(&self) -> Sizes {
        let geometry = self.ledger.geometry;
        Sizes {
            group: geometry.group_bytes as u64,
            segment: geometry.segment_bytes,
        }
    }
}
