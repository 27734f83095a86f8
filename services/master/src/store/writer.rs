//! The writer: the one place where a proposed batch becomes log, index and derived state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use bytes::Bytes;
use cstore_log::{Gather, Log, LogError, Record, Urgency};
use cstore_types::history::Life;
use cstore_types::{CommitFacts, error_chain};
use tokio::sync::{oneshot, watch};

use super::batch::{Batch, Edit, raised};
use super::checkpoint::{Checkpoint, LogFiles, Walk};
use super::group::{Accepted, AppliedChange, Overlay};
use super::index::{Index, Staged, stored};
use super::keys::{self, StoreRecord};
use super::lives::Lives;
use super::queue::{Found, JobQueue};
use super::record::KIND_BATCH;
use super::room::{BallastUse, Headroom, Room};
use super::snapshot_schedule::{RunningCheckpoint, SnapshotSchedule};
use super::{Change, Link, MetaError, Observer, Position, Versioned, WriterState};
use crate::limits::{HOLD_CHECKS, HOLD_INTERVAL, MAX_GROUP, MAX_TIGHT_GROUP};

/// Outcome of a batch: its position and the frame that it shared, or the reason of the refusal.
pub(super) type Outcome = Result<(Position, CommitFacts), MetaError>;

/// A proposed batch and the caller that waits for its outcome, who may be gone.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// State that the writer publishes.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) position: Arc<AtomicU64>,
    /// Group commits of the log.
    pub(super) frames: Arc<AtomicU64>,
    pub(super) state: watch::Sender<WriterState>,
}

/// A group whose sync has returned.
struct Durable {
    accepted: Vec<Accepted>,
    /// Links of the batches, in their order.
    links: Vec<Link>,
    /// File of the log that holds the group.
    file: u32,
    frame: CommitFacts,
}

/// The writer of one metadata folder.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) index: Index,
    pub(super) lives: Lives,
    /// Life of this process, until it has written its first batch.
    pub(super) next_life: Option<Life>,
    pub(super) log: Arc<Log>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) published: Published,
    pub(super) checkpoint: Checkpoint,
    pub(super) room: Room,
    /// Bytes of log after which a snapshot is due, unless the last snapshot was larger.
    pub(super) snapshot_bytes: u64,
    /// Standard size of a file of the log.
    pub(super) file_bytes: u64,
    pub(super) schedule: SnapshotSchedule,
    /// Position that the index has applied: the cut of the next snapshot.
    pub(super) applied: Position,
    /// True if a snapshot was due and found no room. Logged once.
    pub(super) lacked_room: bool,
    pub(super) checkpointing: Option<RunningCheckpoint>,
    /// Set when the process is to be treated as killed: nothing is marked as complete.
    pub(super) abandoned: Arc<AtomicBool>,
    /// True if checkpoints run on the caller's thread: on a disk that has one thread only.
    pub(super) by_callers: bool,
    pub(super) gather: Gather,
}

impl Writer {
    pub(super) fn walk(&self) -> &Walk {
        &self.checkpoint.walk
    }

    fn files(&self) -> &LogFiles {
        &self.checkpoint.files
    }

    /// Commits the jobs of the queue until it is closed, then closes log and index.
    pub(super) fn run(mut self, queue: &JobQueue) -> Result<(), MetaError> {
        while let Some(jobs) = self.next_jobs(queue) {
            self.turn(jobs);
        }
        self.close()
    }

    /// Waits for the next jobs; returns `None` when the queue is closed. Maintains the room for some
    /// seconds after the last job, because sled writes and truncates its file in background.
    fn next_jobs(&mut self, queue: &JobQueue) -> Option<Vec<Job>> {
        let mut checks = 0;
        loop {
            let maintains = checks < HOLD_CHECKS || self.checkpointing.is_some();
            checks += 1;
            let patience = maintains.then_some(HOLD_INTERVAL);
            match queue.take(MAX_GROUP, self.gather.plan(), patience) {
                Found::Jobs(jobs) => {
                    self.gather.taken(jobs.len());
                    return Some(jobs);
                }
                Found::Idle => self.maintain_room(),
                Found::Closed => return None,
            }
        }
    }

    /// Finishes a checkpoint that has ended, and measures the room again if space of the ballast or of
    /// the index may be missing.
    fn maintain_room(&mut self) {
        let was_running = self.checkpointing.is_some();
        self.finish_checkpoint(JoinHandle::is_finished);
        let has_ended = was_running && self.checkpointing.is_none();
        if has_ended || self.room.lacks_index_space() {
            self.room
                .headroom(self.snapshot_reserve(), BallastUse::LeaveSnapshot);
        }
    }

    /// Commits `jobs`, then begins a checkpoint if one is due.
    pub(super) fn turn(&mut self, jobs: Vec<Job>) {
        let headroom = self.commit(jobs);
        self.checkpoint_if_due(headroom);
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(&*self.published.state.borrow(), WriterState::Ended(_))
    }

    /// Ends a running checkpoint, closes the log and marks the index as complete.
    pub(super) fn close(mut self) -> Result<(), MetaError> {
        self.checkpoint.cancelled.store(true, Ordering::Relaxed);
        self.finish_checkpoint(|_| true);
        if self.abandoned.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.log.close().map_err(MetaError::Log)?;
        if self.has_ended() {
            // The log may have batches that the index lacks.
            return Ok(());
        }
        self.index.close()
    }

    /// Decides `jobs` in their order and commits those that hold. Returns the room that was found.
    fn commit(&mut self, jobs: Vec<Job>) -> Headroom {
        let mut rest = jobs;
        loop {
            let headroom = self.measure(&rest);
            if headroom == Headroom::Ample {
                self.commit_group(rest);
                return headroom;
            }

            // Nearly full: commit small groups, and flush the index BEFORE the next measurement,
            // which does not see buffered writes.
            let later = rest.split_off(rest.len().min(MAX_TIGHT_GROUP));
            self.commit_group(match self.has_ended() {
                true => rest,
                false => refuse_without_room(rest, headroom),
            });
            if !self.has_ended()
                && let Err(error) = self.index.flush()
            {
                self.end(error);
            }
            if later.is_empty() {
                return headroom;
            }
            rest = later;
        }
    }

    /// Measures the room for the next group. If nothing can be written and a job of `jobs` frees
    /// space, shortens the log and measures again.
    fn measure(&mut self, jobs: &[Job]) -> Headroom {
        let headroom = self
            .room
            .headroom(self.snapshot_reserve(), BallastUse::LeaveSnapshot);
        let is_freeing = |job: &Job| !job.batch.adds_names();
        if headroom > Headroom::None || self.has_ended() || !jobs.iter().any(is_freeing) {
            return headroom;
        }
        self.shorten_log();
        self.room.headroom(self.snapshot_reserve(), BallastUse::All)
    }

    /// Commits the jobs that hold as one group of the log.
    fn commit_group(&mut self, jobs: Vec<Job>) {
        if let WriterState::Ended(why) = &*self.published.state.borrow() {
            return answer_all(jobs, why);
        }
        let mut overlay = Overlay::default();
        let mut next = self.published.position.load(Ordering::Acquire);
        let mut accepted = Vec::with_capacity(jobs.len());
        for job in jobs {
            match self.decide(&job.batch, &mut overlay, next + 1) {
                Ok(Some(changes)) => {
                    next += 1;
                    accepted.push(Accepted {
                        position: next,
                        changes,
                        begins: None,
                        job,
                    });
                }
                Ok(None) => drop(job.answer.send(Err(MetaError::Conflict))),
                Err(error) => {
                    end_with_the_index(&self.published.state, &error);
                    drop(job.answer.send(Err(error)));
                }
            }
        }
        if let Err(error) = self.begin_life(&mut accepted, &mut overlay) {
            end_with_the_index(&self.published.state, &error);
            let jobs = accepted.into_iter().map(Accepted::into_job);
            return answer_all(jobs, &error);
        }
        if !accepted.is_empty() {
            self.write(accepted, overlay);
        }
    }

    /// Begins the life of this process with the first batch that it writes, in that batch. A group
    /// that is refused begins none: the next one tries again, at its own position.
    fn begin_life(
        &self,
        accepted: &mut [Accepted],
        overlay: &mut Overlay,
    ) -> Result<(), MetaError> {
        let (Some(life), Some(batch)) = (&self.next_life, accepted.first_mut()) else {
            return Ok(());
        };
        let life = Life {
            first: batch.position,
            chain_before: self.lives.last_link(),
            ..*life
        };
        let value = Versioned {
            version: batch.position,
            value: keys::encode_life(&life),
        };
        let surplus = self.lives.surplus().map(|oldest| (oldest, None));
        for (life, new) in [(life, Some(value))].into_iter().chain(surplus) {
            let key = keys::life_key(&life);
            overlay.read(&self.index, &key)?;
            overlay.write(&key, new.clone());
            batch.changes.push(AppliedChange {
                key,
                old: None,
                new,
            });
        }
        batch.begins = Some(life);
        Ok(())
    }

    /// Returns the changes of a batch at `position`, or `None` if a requirement does not hold.
    fn decide(
        &self,
        batch: &Batch,
        overlay: &mut Overlay,
        position: Position,
    ) -> Result<Option<Vec<AppliedChange>>, MetaError> {
        for require in &batch.require {
            if !require.holds(overlay.read(&self.index, require.key())?) {
                return Ok(None);
            }
        }

        // Every read comes BEFORE the first write to the overlay: a batch that fails must leave
        // nothing in it.
        let saves_all = self.walk().is_running();
        for (key, edit) in &batch.edits {
            let raises = matches!(edit, Edit::RaiseSeal { .. });
            if saves_all || raises || self.observer.follows(key) {
                let current = overlay.read(&self.index, key)?;
                match current {
                    None if raises => return Ok(None),
                    Some(current) if raises => drop(StoreRecord::decode(&current.value)?),
                    _ => {}
                }
            }
        }

        let mut changes = Vec::with_capacity(batch.edits.len());
        for (key, edit) in &batch.edits {
            let old = overlay.known(key).cloned();
            let value = match edit {
                Edit::Put(value) => Some(value.clone()),
                Edit::Delete => None,
                Edit::RaiseSeal { point, in_doubt } => {
                    match raised(old.as_ref(), *point, *in_doubt) {
                        Some(record) => Some(record.encode()),
                        None => continue,
                    }
                }
            };
            let new = value.map(|value| Versioned {
                version: position,
                value,
            });
            overlay.write(key, new.clone());
            changes.push(AppliedChange {
                key: key.clone(),
                old,
                new,
            });
        }
        Ok(Some(changes))
    }

    fn write(&mut self, accepted: Vec<Accepted>, overlay: Overlay) {
        let adds = |accepted: &Accepted| accepted.job.batch.adds_names();
        // Deletes and tombstones must work on a full disk.
        let urgency = if accepted.iter().any(adds) {
            Urgency::Normal
        } else {
            Urgency::Urgent
        };
        let mut links: Vec<Link> = Vec::with_capacity(accepted.len());
        let mut records = Vec::with_capacity(accepted.len());
        for accepted in &accepted {
            let before = links.last().copied();
            let before = before.unwrap_or_else(|| self.lives.last_link());
            let (payload, link) = accepted.payload(before);
            links.push(link);
            records.push(Record {
                kind: KIND_BATCH,
                key: Bytes::copy_from_slice(&accepted.position.to_be_bytes()),
                payload: payload.into(),
            });
        }

        match self.append(records, urgency) {
            Ok((file, frame)) => {
                let group = Durable {
                    accepted,
                    links,
                    file,
                    frame,
                };
                self.apply(group, overlay);
            }
            Err(LogError::Full { .. }) => self.commit_without_room(accepted),
            Err(error @ (LogError::Poisoned(_) | LogError::Closed)) => {
                let error = MetaError::Log(error);
                self.end(error.clone());
                answer_all(accepted.into_iter().map(Accepted::into_job), &error);
            }
            Err(LogError::Busy) => {
                answer_all(
                    accepted.into_iter().map(Accepted::into_job),
                    &MetaError::Busy,
                );
            }
            Err(error @ LogError::TooLarge { .. }) => {
                let mut jobs: Vec<Job> = accepted.into_iter().map(Accepted::into_job).collect();
                if jobs.len() == 1 {
                    return answer_all(jobs, &MetaError::Log(error));
                }
                let later = jobs.split_off(jobs.len() / 2);
                self.commit_group(jobs);
                self.commit_group(later);
            }
            Err(error) => {
                // Nothing of the group was written: the next one tries again.
                tracing::warn!(error = %error_chain(&error), "metadata change is refused");
                let error = MetaError::Log(error);
                self.block(error.clone());
                answer_all(accepted.into_iter().map(Accepted::into_job), &error);
            }
        }
    }

    /// Commits a group again for which the log had no space, in this order: without the batches that
    /// add names, after a snapshot has shortened the log, with a piece of the ballast, in two halves.
    /// A single batch that finds no space is refused.
    fn commit_without_room(&mut self, accepted: Vec<Accepted>) {
        let adds = |accepted: &Accepted| accepted.job.batch.adds_names();
        let (adding, freeing): (Vec<_>, Vec<_>) = accepted.into_iter().partition(adds);
        let had_adding = !adding.is_empty();
        answer_all(adding.into_iter().map(Accepted::into_job), &MetaError::Full);

        let mut jobs: Vec<Job> = freeing.into_iter().map(Accepted::into_job).collect();
        if jobs.is_empty() {
            return;
        }
        if had_adding || self.shorten_log() || self.room.release_piece() {
            return self.commit_group(jobs);
        }
        if jobs.len() == 1 {
            return answer_all(jobs, &MetaError::Full);
        }
        // A smaller group may still fit.
        let later = jobs.split_off(jobs.len() / 2);
        self.commit_group(jobs);
        self.commit_group(later);
    }

    fn append(
        &mut self,
        records: Vec<Record>,
        urgency: Urgency,
    ) -> Result<(u32, CommitFacts), LogError> {
        let payloads = records.iter().map(|record| record.payload.len() as u64);
        let payloads = payloads.sum();
        let (sender, landed) = sync_channel(1);
        let done = move |result: Result<cstore_log::Committed<'_>, LogError>| {
            let landed = result.map(|committed| {
                (
                    committed
                        .locations
                        .first()
                        .map_or(0, |location| location.file),
                    committed.frame,
                )
            });
            let _ = sender.send(landed);
        };
        self.log.append(records, urgency, Box::new(done));
        let landed = landed.recv().unwrap_or(Err(LogError::Closed))?;
        self.gather.synced(landed.1.took);
        self.schedule.add(landed.1.bytes, payloads);
        Ok(landed)
    }

    /// Applies a durable group: position, index, derived state, answers, in this order (see the
    /// module `store`).
    fn apply(&mut self, group: Durable, mut overlay: Overlay) {
        let Durable {
            accepted,
            links,
            file,
            frame,
        } = group;
        let last = accepted.last().map_or(0, |accepted| accepted.position);
        self.files().note(file, last);
        let life = accepted.iter().find_map(|accepted| accepted.begins);
        if life.is_some() {
            self.next_life = None;
        }
        self.lives.landed(life, links.iter().copied());
        self.published.position.store(last, Ordering::Release);
        self.published
            .frames
            .store(self.log.durable_seq(), Ordering::Relaxed);

        let mut staged = Staged::default();
        for (accepted, link) in accepted.iter().zip(links) {
            let Accepted {
                position, changes, ..
            } = accepted;
            // Removals come last: a part of a batch that a kill leaves behind names a file twice rather
            // than not at all.
            let removed_last = [true, false].into_iter().flat_map(|is_put| {
                let of_kind = move |change: &&AppliedChange| change.new.is_some() == is_put;
                changes.iter().filter(of_kind)
            });
            for change in removed_last {
                let value = change.new.as_ref().map(|new| new.value.as_slice());
                staged.stage(&change.key, value, *position);
            }
            staged.advance(*position, link);
        }
        let originals = overlay.original.drain().map(|(key, value)| {
            let value = value.map(|value| stored(&key, value.version, &value.value));
            (key, value)
        });
        let index = &self.index;
        if let Err(error) = self
            .checkpoint
            .walk
            .save_then(originals, || index.apply(staged))
        {
            // Durable in the log, but not visible: only a restart can show it, so nothing may be
            // built on it.
            self.end(error.clone());
            return answer_all(accepted.into_iter().map(Accepted::into_job), &error);
        }

        self.applied = last;
        if let Err(error) = self.observe(&accepted) {
            self.end(error.clone());
            return answer_all(accepted.into_iter().map(Accepted::into_job), &error);
        }
        self.unblock();
        for accepted in accepted {
            let _ = accepted.job.answer.send(Ok((accepted.position, frame)));
        }
    }

    fn observe(&self, accepted: &[Accepted]) -> Result<(), MetaError> {
        let followed = accepted
            .iter()
            .flat_map(|accepted| &accepted.changes)
            .filter(|change| self.observer.follows(&change.key));
        for AppliedChange { key, old, new } in followed {
            self.observer.observe(Change {
                key,
                old: old.as_ref(),
                new: new.as_ref(),
            })?;
        }
        Ok(())
    }

    /// Publishes that nothing can be written for a passing reason, unless the writer has ended.
    fn block(&self, why: MetaError) {
        self.published.state.send_if_modified(|state| {
            let ended = matches!(state, WriterState::Ended(_));
            if !ended {
                *state = WriterState::Blocked(why);
            }
            !ended
        });
    }

    /// Publishes that batches can be written again after a group was refused for a passing reason.
    fn unblock(&self) {
        self.published.state.send_if_modified(|state| {
            let blocked = matches!(state, WriterState::Blocked(_));
            if blocked {
                *state = WriterState::Writable;
            }
            blocked
        });
    }

    pub(super) fn end(&self, why: MetaError) {
        end(&self.published.state, why);
    }
}

/// Ends the writer if `error` makes the index unusable: sled refuses everything after its first
/// failed write.
pub(super) fn end_with_the_index(state: &watch::Sender<WriterState>, error: &MetaError) {
    if error.ends_the_index() {
        end(state, error.clone());
    }
}

/// Ends the writer for good, with the first reason.
pub(super) fn end(state: &watch::Sender<WriterState>, why: MetaError) {
    state.send_if_modified(|state| {
        if matches!(state, WriterState::Ended(_)) {
            return false;
        }
        tracing::error!(error = %error_chain(&why), "metadata writer ends: nothing is written any more in this process");
        *state = WriterState::Ended(why);
        true
    });
}

/// Refuses the jobs that find no room; returns the others.
fn refuse_without_room(jobs: Vec<Job>, headroom: Headroom) -> Vec<Job> {
    let fits = |job: &Job| match headroom {
        Headroom::None => false,
        Headroom::FreeingOnly => !job.batch.adds_names(),
        Headroom::Tight | Headroom::Ample => true,
    };
    let (fitting, refused): (Vec<_>, Vec<_>) = jobs.into_iter().partition(fits);
    answer_all(refused, &MetaError::Full);
    fitting
}

fn answer_all(jobs: impl IntoIterator<Item = Job>, error: &MetaError) {
    for job in jobs {
        let _ = job.answer.send(Err(error.clone()));
    }
}
