//! Compaction: what is needed of a half-dead segment is copied forward, then the segment is retired like any dead one.
//!
//! ```text
//! choose a victim ─▶ read its directory ─▶ batch by batch:
//!   look up what is needed ─▶ read and verify it ─▶ fence its sessions ─▶ one group of the log, synced
//!     ─▶ the callback moves each record by compare-and-set ─▶ nothing needed is left ─▶ the file is retired
//! ```
//! Invariants
//! * A segment is retired only when nothing in it is needed; a record stops being needed there only when its copy has
//!   been synced. A crash at any point leaves one valid copy or two equal ones, and the later one wins.
//! * No unverified byte is copied: a damaged block stays where it is, is counted and keeps its segment.
//! * In the log, a release never stands between a set and its copy: neither is appended while the other one is under
//!   way. A seal waits while a release of its session moves.
//! * The log keeps room that only compaction may take, enough for any segment that is worth it: a full disk can be
//!   compacted.

mod copy;
mod victim;

use std::collections::HashMap;
use std::time::Duration;

use cstore_log::{FileState, Location, LogError, Urgency};
use cstore_types::error_chain;

use super::Engine;
use super::state::Live;
use crate::EngineError;

pub use victim::Need;
use victim::{Candidate, Sizes};

/// Damaged or fenced segments that one step passes over.
const MAX_TRIES: usize = 8;
/// A victim with records that could not move yet is looked at again after this many others.
const FENCED_LOOKS: u64 = 16;
/// How often one victim waits for seals and releases that hold its records.
const MAX_LOOKS: usize = 64;
/// Pause of a step that finds the queue of the log full.
const BUSY: Duration = Duration::from_millis(10);
/// Steps that one caller makes for its own room.
const MAX_STEPS: usize = 4_096;
/// Segments that one caller empties without any more room than there was: others take it, or nothing is won.
const MAX_VAIN: usize = 8;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactStep {
    /// There is nothing to win.
    Idle,
    /// So many bytes were copied.
    Moved(u64),
    /// The last needed record of a segment had moved; it is retired.
    Emptied,
}

/// How far compaction is, and what it could win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactionStats {
    /// Bytes of segments, without the active one, in which nothing is needed; padding is among them.
    pub dead_bytes: u64,
    /// What compaction would win of them when somebody waits for room, without what its own reserve takes first.
    pub winnable_bytes: u64,
    /// Segments that cannot be emptied, because something in them is damaged.
    pub pinned_files: u64,
    /// What is missing of the room that is kept for compaction.
    pub missing_bytes: u64,
}

/// What is remembered between steps.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    victim: Option<Victim>,
    /// Segments that could not be emptied.
    stuck: HashMap<u32, Stuck>,
    looks: u64,
    /// When the last look found nothing: records that had died, frames of the log, what was wanted, and the room.
    fruitless: Option<(u64, u64, Need, u64)>,
}

/// Why a segment is left alone for a while.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    /// Records that it had then; with fewer it is looked at again.
    live: u64,
    /// Or after so many looks.
    until: u64,
}

/// The segment that is being emptied.
#[derive(Debug)]
struct Victim {
    file: u32,
    entries: Vec<Entry>,
    at: usize,
    /// Bytes of one group; smaller when the room is in pieces.
    limit: usize,
    /// Something in it is damaged and stays.
    damaged: bool,
    /// All that is needed of it was read and is good: its copy may use compaction's own reserve.
    verified: bool,
    /// Records that a seal, a release or an earlier move held when they were to move.
    held: Vec<Entry>,
    /// How often those were looked at again.
    again: usize,
}

/// A record of the victim that was there when its directory was read.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u8,
    live: Live,
    location: Location,
}

impl Engine {
    /// Copies one group out of the segment that is being emptied, or chooses one. Steps of several callers follow each
    /// other. A step that is dropped half-way is safe.
    ///
    /// # Errors
    /// Of the log: it is read-only or closed.
    pub async fn compact_step(&self, need: Need) -> Result<CompactStep, EngineError> {
        let mut cleaning = self.cleaning.lock().await;
        self.compact(&mut cleaning, need).await
    }

    /// As [`Self::compact_step`], for who keeps others from compacting.
    pub(super) async fn compact(
        &self,
        cleaning: &mut Cleaning,
        need: Need,
    ) -> Result<CompactStep, EngineError> {
        if cleaning.victim.is_none() {
            cleaning.victim = self.victim(cleaning, need).await;
        }
        let Some(victim) = &mut cleaning.victim else { return Ok(CompactStep::Idle) };
        if !self.may_copy(victim).await? {
            return Ok(self.finish(cleaning).await);
        }
        let begun = victim.place();
        let batch = self.gather(victim);
        if batch.is_empty() && victim.at >= victim.entries.len() {
            let may_go_on = self.await_fences(&victim.held).await && victim.look_again();
            if !may_go_on {
                return Ok(self.finish(cleaning).await);
            }
        }
        match self.copy(victim, batch).await {
            Ok(bytes) => Ok(CompactStep::Moved(bytes)),
            Err(EngineError::Full { .. }) if victim.shrink(self.group_bytes) => Ok(CompactStep::Moved(0)),
            Err(EngineError::Full { .. }) => Ok(self.finish(cleaning).await),
            Err(EngineError::Busy(_)) => {
                // Others fill the queue of the log faster than it is written: the same records again, a little later.
                victim.return_to(begun);
                tokio::time::sleep(BUSY).await;
                Ok(CompactStep::Moved(0))
            }
            Err(error) => {
                victim.return_to(begun);
                Err(error)
            }
        }
    }

    /// Whether more may be copied out of the victim. What fits the room of all is copied as it comes. Before the first
    /// byte of compaction's own reserve is taken, all that is needed is verified: a victim that damage keeps gives
    /// nothing back, and the reserve would be gone.
    async fn may_copy(&self, victim: &mut Victim) -> Result<bool, EngineError> {
        if victim.verified || self.space().free >= self.room_for(victim) {
            return Ok(true);
        }
        if victim.damaged {
            return Ok(false);
        }
        let (engine, file, entries) = (self.clone(), victim.file, victim.entries.clone());
        let verify = cstore_node::blocking(move || engine.verify(&entries));
        let good = verify.await?;
        victim.verified = good;
        victim.damaged |= !good;
        if good {
            self.log.begin_compaction(file);
        }
        Ok(good)
    }

    /// Room that the copy of what is left in the victim may take.
    fn room_for(&self, victim: &Victim) -> u64 {
        let live = self.shared.lock().state.file_use(victim.file).bytes;
        Candidate { file: victim.file, size: 0, live, age: 0 }.room(&self.sizes())
    }

    /// Compacts until `done`. Answers false when nothing is to be won, or all that is won goes to others.
    pub(super) async fn compact_until(&self, done: impl Fn() -> bool) -> bool {
        let (mut most, mut in_vain) = (self.space().free, 0);
        for _ in 0..MAX_STEPS {
            if done() {
                return true;
            }
            match self.compact_step(Need::Now).await {
                Ok(CompactStep::Moved(_)) => continue,
                Ok(CompactStep::Emptied) => {}
                Ok(CompactStep::Idle) | Err(_) => return done(),
            }
            let free = self.space().free;
            in_vain = if free > most { 0 } else { in_vain + 1 };
            most = most.max(free);
            if in_vain > MAX_VAIN {
                return done();
            }
        }
        false
    }

    /// How far compaction is.
    pub fn compaction(&self) -> CompactionStats {
        let (room, missing, sizes) = (self.room_for_copies(), self.log.missing_bytes(), self.sizes());
        let files = self.log.files();
        let shared = self.shared.lock();
        let mut stats = CompactionStats {
            pinned_files: shared.pinned.len() as u64,
            missing_bytes: missing,
            ..CompactionStats::default()
        };
        let mut candidates = Vec::new();
        for file in files.iter().filter(|file| file.state != FileState::Active) {
            let live = shared.state.file_use(file.id).bytes;
            stats.dead_bytes += file.size.saturating_sub(live);
            if !shared.pinned.contains(&file.id) {
                candidates.push(Candidate { file: file.id, size: file.size, live, age: 0 });
            }
        }
        stats.winnable_bytes = victim::winnable(&candidates, room, missing, &sizes);
        stats
    }

    /// The next victim, with its directory.
    async fn victim(&self, cleaning: &mut Cleaning, need: Need) -> Option<Victim> {
        for _ in 0..MAX_TRIES {
            self.reclaim_aside().await;
            self.log.settle_compaction();
            let file = self.choose(cleaning, need)?;
            let log = self.log.clone();
            let directory = cstore_node::blocking(move || log.directory(file)).await.ok()?;
            let damage = match directory {
                Ok(entries) => match entries.iter().map(copy::entry).collect::<Result<_, _>>() {
                    Ok(entries) => return Some(Victim::new(file, entries, self.group_bytes)),
                    Err(error) => error_chain(&error).to_string(),
                },
                // Its last record died in the meantime, and another request retired it.
                Err(LogError::NoFile(_)) => continue,
                Err(error) => error_chain(&error).to_string(),
            };
            tracing::error!(file, error = %damage, "directory of a segment is damaged: it cannot be emptied");
            self.stick(cleaning, file, u64::MAX);
        }
        None
    }

    fn choose(&self, cleaning: &mut Cleaning, need: Need) -> Option<u32> {
        let seq = self.log.durable_seq();
        let room = self.room_for_copies();
        let files = self.log.files();
        cleaning.looks += 1;
        let shared = self.shared.lock();
        let now = (shared.state.died(), seq, need, room);
        if cleaning.fruitless == Some(now) {
            return None;
        }
        let candidates = files.iter().filter(|file| file.state != FileState::Active).filter_map(|file| {
            let needed = shared.state.file_use(file.id);
            let age = seq.saturating_sub(file.seqs.map_or(0, |(_, last)| last));
            let candidate = Candidate { file: file.id, size: file.size, live: needed.bytes, age };
            (!cleaning.is_stuck(file.id, needed.live)).then_some(candidate)
        });
        let best = victim::best(candidates, need, room, &self.sizes());
        drop(shared);
        cleaning.fruitless = best.is_none().then_some(now);
        best.map(|candidate| candidate.file)
    }

    /// Of more than its own part of the reserve others may take what they want meanwhile.
    fn room_for_copies(&self) -> u64 {
        self.log.free_bytes(Urgency::Compaction).min(self.log.compaction_bytes())
    }

    fn sizes(&self) -> Sizes {
        Sizes { group: self.group_bytes as u64, segment: self.superblock.lock().segment_bytes }
    }

    /// All that could move has moved. What is left is damaged, or a seal or release holds it and it may move later.
    async fn finish(&self, cleaning: &mut Cleaning) -> CompactStep {
        let Some(victim) = cleaning.victim.take() else { return CompactStep::Moved(0) };
        self.reclaim_aside().await;
        self.log.settle_compaction();
        if !self.log.files().iter().any(|file| file.id == victim.file) {
            self.counters.compacted_files.add(1);
            return CompactStep::Emptied;
        }
        let until = if victim.damaged { u64::MAX } else { cleaning.looks + FENCED_LOOKS };
        self.stick(cleaning, victim.file, until);
        CompactStep::Moved(0)
    }

    /// Leaves a segment alone until fewer of its records are needed or `until` looks were made.
    fn stick(&self, cleaning: &mut Cleaning, file: u32, until: u64) {
        let files = self.log.files();
        cleaning.stuck.retain(|stuck, _| files.iter().any(|file| file.id == *stuck));
        let mut shared = self.shared.lock();
        let live = shared.state.file_use(file).live;
        if until == u64::MAX {
            shared.pinned.insert(file);
        }
        cleaning.stuck.insert(file, Stuck { live, until });
    }
}

impl Cleaning {
    fn is_stuck(&self, file: u32, live: u64) -> bool {
        self.stuck.get(&file).is_some_and(|stuck| stuck.live == live && self.looks < stuck.until)
    }
}

impl Victim {
    fn new(file: u32, entries: Vec<Entry>, limit: usize) -> Self {
        Self { file, entries, at: 0, limit, damaged: false, verified: false, held: Vec::new(), again: 0 }
    }

    /// Where the next batch begins, and how many records are held.
    fn place(&self) -> (usize, usize) {
        (self.at, self.held.len())
    }

    /// Takes the batch that began there again.
    fn return_to(&mut self, (at, held): (usize, usize)) {
        self.at = at;
        self.held.truncate(held);
    }

    /// Goes on with the records that were held. Answers false when that was done often enough.
    fn look_again(&mut self) -> bool {
        self.again += 1;
        self.entries = std::mem::take(&mut self.held);
        self.at = 0;
        self.again <= MAX_LOOKS
    }

    /// Goes on with smaller groups, from the start. Answers false when they are as small as is useful.
    fn shrink(&mut self, group_bytes: usize) -> bool {
        self.limit /= 2;
        self.at = 0;
        // They are met again.
        self.held.clear();
        self.limit > group_bytes / 64
    }
}

#[cfg(test)]
mod tests {
    use cstore_types::{BlockId, SessionId};

    use super::*;

    fn entry(live: Live) -> Entry {
        Entry { kind: 1, live, location: Location { file: 1, offset: 0, len: 1 } }
    }

    /// Each would be copied twice otherwise.
    #[test]
    fn a_victim_that_starts_again_with_smaller_groups_meets_held_records_once() {
        let entries = vec![entry(Live::Block(BlockId::from_bytes([1; 32]))); 3];
        let mut victim = Victim::new(1, entries, 1 << 20);
        victim.at = 2;
        victim.held.push(entry(Live::Release(SessionId::from_bytes([1; 16]))));
        assert!(victim.shrink(1 << 20));
        assert_eq!((victim.at, victim.held.len()), (0, 0));
    }

    #[test]
    fn a_victim_takes_a_batch_again_that_did_not_land() {
        let entries = vec![entry(Live::Block(BlockId::from_bytes([1; 32]))); 3];
        let mut victim = Victim::new(1, entries, 1 << 20);
        let begun = victim.place();
        victim.at = 2;
        victim.held.push(entry(Live::Release(SessionId::from_bytes([1; 16]))));
        victim.return_to(begun);
        assert_eq!((victim.at, victim.held.len()), (0, 0));
    }
}
