//! Opening: from the files of the log, the snapshot and the index to an index that has everything.
//!
//! Nothing is removed and no batch is written before it is known that snapshot and log are whole,
//! or that the index makes up for what they lack.

mod owner;
mod scan;
mod truth;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use cstore_log::{Disk, Log, Options};
use cstore_types::error_chain;

use super::engine::SledOptions;
use super::index::{Applied, FoundIndex, Index, Staged};
use super::links::Links;
use super::room::{SharedGauge, leaves_reserve};
use super::{DamageKind, Link, MetaError, Position, snapshot};
use crate::limits::{LOG_FRAME_BYTES, LOG_QUEUE_BYTES, MAX_LOG_RESERVE, REPLAY_GROUP};
use owner::LogOwner;
use scan::{Entry, LogScan};
use truth::{Truth, read_record};

/// Result of an open.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) position: Position,
    /// Link of the batch at the position; 0 if it has none.
    link: Link,
    truth: Truth,
    /// Bytes of log that the snapshot does not cover.
    pub(super) uncovered_bytes: u64,
    /// Size of the snapshot; 0 if there is none.
    pub(super) snapshot_bytes: u64,
}

/// Log of a folder that was opened, with what is known of it.
pub(super) struct OpenLog {
    pub(super) log: Log,
    /// Last position in each file.
    pub(super) files: HashMap<u32, Position>,
    /// Links of the newest batches.
    pub(super) links: Links,
}

/// Opens log and index of `dir` and brings the index up to the end of the log.
///
/// The log is read as a stream, a file at a time. A folder of a program before format 2 is brought
/// to this format: its index is made anew, and a snapshot of this format written, which such a
/// program refuses.
///
/// # Errors
/// [`MetaError::Damaged`] if a part of the truth is missing or cannot be used, `Full` if there is
/// no room to bring the folder to this format. Snapshot, batches and index are as they were then.
pub(super) fn recover(
    dir: &Path,
    log_disk: Arc<dyn Disk>,
    options: &SledOptions,
    gauge: &SharedGauge,
) -> Result<Recovered, MetaError> {
    let owner = LogOwner::find(dir, &*log_disk)?;
    let found = snapshot::look(dir);
    if let Err(error @ MetaError::Io { .. }) = found {
        return Err(error);
    }
    let covered = match &found {
        Ok(Some(found)) => found.position,
        _ => 0,
    };
    let mut scan = LogScan::new(covered);
    let (log, report) = Log::open(log_disk, log_options(owner.bytes, options), &mut |record| {
        scan.visit(&record);
    })
    .map_err(MetaError::Log)?;
    scan.end_frame();
    scan.note_damage(&report);
    let mut truth = Truth::read(dir, log, scan, found);

    let index = settle(dir, &mut truth, options, gauge)?;
    let recovered = Recovered::new(index, truth)?;
    let recovered = recovered.complete(dir, options)?;
    recovered.index.mark_in_use()?;
    owner.keep(dir)?;
    Ok(recovered)
}

/// Returns an index that has everything up to the end of the truth.
fn settle(
    dir: &Path,
    truth: &mut Truth,
    options: &SledOptions,
    gauge: &SharedGauge,
) -> Result<Index, MetaError> {
    let found = match Index::find(dir, options.cache_bytes) {
        Ok(found) => found,
        // A passing error of the system says nothing about the index.
        Err(error @ MetaError::Index(sled::Error::Io(_))) => return Err(error),
        Err(error) => {
            let error = error_chain(&error);
            tracing::warn!(%error, "index of the metadata does not open: it is made anew");
            return rebuild(dir, truth, options);
        }
    };
    let FoundIndex {
        index,
        applied,
        is_empty,
        is_trusted,
    } = found;
    if applied.is_current {
        truth.judge_snapshot(dir, &index, is_trusted)?;
    }
    if applied.position > truth.last() {
        return Err(truth.behind(applied.position));
    }
    if truth.is_of_first_format() || !applied.is_current {
        make_way_for_upgrade(dir, truth, gauge)?;
    }

    let has_applied = applied.position > 0;
    if has_applied && applied.is_current && is_trusted && truth.continues(&index, &applied) {
        // An index that has to make up for a hole keeps its mark until a snapshot has.
        if truth.hole().is_none() {
            index.mark_in_use()?;
        }
        replay(&index, truth, applied.position)?;
        return Ok(index);
    }
    if has_applied && applied.is_current {
        tracing::warn!(
            applied = applied.position,
            is_trusted,
            "index of the metadata is of another boot or copy, or lags behind: it is made anew"
        );
    } else if is_empty {
        truth.verify(dir)?;
        index.mark_in_use()?;
        restore(dir, &index, truth)?;
        return Ok(index);
    }
    // An index that has applied nothing and is not empty was left by a restore that did not end.
    drop(index);
    rebuild(dir, truth, options)
}

/// Makes sure that there is room to bring a folder of format 1 to this one: for a second snapshot
/// and a new index.
fn make_way_for_upgrade(dir: &Path, truth: &Truth, gauge: &SharedGauge) -> Result<(), MetaError> {
    let needed = 2 * (truth.snapshot_bytes() + truth.scan.uncovered_bytes);
    if !leaves_reserve(gauge, dir, needed) {
        tracing::error!(
            needed,
            "no room to bring the metadata to format 2; nothing was changed"
        );
        return Err(MetaError::Full);
    }
    tracing::info!("metadata of format 1: index and snapshot are made anew in format 2");
    Ok(())
}

/// Makes the index anew from snapshot and log, after all of them was verified.
fn rebuild(dir: &Path, truth: &Truth, options: &SledOptions) -> Result<Index, MetaError> {
    truth.verify(dir)?;
    let index = Index::rebuilt(dir, options.cache_bytes)?;
    restore(dir, &index, truth)?;
    Ok(index)
}

/// Fills an empty index from snapshot and log, which were verified.
fn restore(dir: &Path, index: &Index, truth: &Truth) -> Result<(), MetaError> {
    let (covered, link) = truth.covered();
    if covered > 0 {
        snapshot::read(dir, &mut |pairs| index.insert_stored(pairs))?;
    }
    index.set_applied(covered, link)?;
    replay(index, truth, covered)
}

impl Recovered {
    /// Takes an index that has everything.
    fn new(index: Index, truth: Truth) -> Result<Self, MetaError> {
        let Applied { position, link, .. } = index.applied()?;
        if position != truth.last() {
            return Err(DamageKind::Gap {
                next: truth.last(),
                last: position,
            }
            .into());
        }
        Ok(Self {
            index,
            position,
            link,
            uncovered_bytes: truth.scan.uncovered_bytes,
            snapshot_bytes: truth.snapshot_bytes(),
            truth,
        })
    }

    /// Makes a truth with a hole whole again by a snapshot of the index, and brings a folder of an
    /// earlier program to this format.
    fn complete(self, dir: &Path, options: &SledOptions) -> Result<Self, MetaError> {
        let hole = self.truth.hole();
        if let Some(hole) = &hole {
            tracing::error!(
                error = %error_chain(hole),
                "snapshot and log of the metadata lack something that the index has: a snapshot of the index is written"
            );
        } else if !self.truth.needs_snapshot() {
            return Ok(self);
        }
        let mut recovered = self;
        let mut written = recovered.write_snapshot(dir);
        if let Err(error) = &written
            && error.is_of_index()
            && hole.is_none()
        {
            recovered = recovered.rebuild(dir, options)?;
            written = recovered.write_snapshot(dir);
        }
        recovered.snapshot_bytes = written?.bytes;
        recovered.uncovered_bytes = 0;
        recovered.truth.retire_damaged()?;
        Ok(recovered)
    }

    fn write_snapshot(&self, dir: &Path) -> Result<snapshot::Written, MetaError> {
        snapshot::write_all(dir, &self.index, (self.position, self.link))
    }

    /// Makes the index anew after a value in it was found damaged.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] if snapshot and log are not whole either; the index stays then.
    pub(super) fn rebuild(self, dir: &Path, options: &SledOptions) -> Result<Self, MetaError> {
        let Self { index, truth, .. } = self;
        drop(index);
        let index = rebuild(dir, &truth, options)?;
        Self::new(index, truth)
    }

    /// Hands out the log.
    pub(super) fn into_log(self) -> OpenLog {
        let (log, scan, links) = self.truth.into_log(self.position, self.link);
        OpenLog {
            log,
            files: scan.last_of_file,
            links,
        }
    }
}

/// Replays the batches after `applied`.
fn replay(index: &Index, truth: &Truth, applied: Position) -> Result<(), MetaError> {
    let mut replay = Replay {
        index,
        log: &truth.log,
        staged: Staged::default(),
        staged_batches: 0,
        last: applied,
    };
    truth
        .scan
        .records_behind(&truth.log, applied, &mut |entry| replay.take(entry))?;
    replay.flush()
}

struct Replay<'a> {
    index: &'a Index,
    log: &'a Log,
    staged: Staged,
    staged_batches: usize,
    last: Position,
}

impl Replay<'_> {
    fn take(&mut self, entry: Entry) -> Result<(), MetaError> {
        let (next, last) = (entry.position, self.last);
        if next <= last {
            return Ok(());
        }
        if next != last + 1 {
            return Err(DamageKind::Gap { next, last }.into());
        }

        let decoded = read_record(self.log, entry)?;
        for (key, value) in decoded.changes {
            self.staged.stage(&key, value.as_deref(), next);
        }
        self.staged.advance(next, decoded.link);
        self.last = next;
        self.staged_batches += 1;
        if self.staged_batches == REPLAY_GROUP {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MetaError> {
        if std::mem::take(&mut self.staged_batches) > 0 {
            self.index.apply(std::mem::take(&mut self.staged))?;
        }
        Ok(())
    }
}

fn log_options(owner: [u8; 16], options: &SledOptions) -> Options {
    Options {
        owner,
        file_bytes: options.file_bytes,
        max_bytes: options.max_log_bytes,
        reserve_bytes: (options.max_log_bytes / 8).min(MAX_LOG_RESERVE),
        compaction_bytes: 0,
        // Room is kept beside the index (`room.rs`).
        floor_bytes: 0,
        ready_files: 0,
        max_frame_bytes: LOG_FRAME_BYTES,
        max_queue_bytes: LOG_QUEUE_BYTES,
        // Positions are kept in the records themselves.
        least_seq: 0,
        proven_seq: 0,
        epoch: None,
        inventory: None,
        absent_seqs: Vec::new(),
        is_held: false,
    }
}
