//! Opening: from the files of the log, the snapshot and the index to an index that has everything.
//!
//! ```text
//! survey    log (over an overlay), snapshot, index     reads only; refuses
//! recover   index, snapshot                            what the survey has decided
//! into_log  log                                        opened for writing
//! ```
//! Nothing is removed and no batch is written before it is known that snapshot and log are whole,
//! or that the index makes up for what they lack. A survey that refuses has changed no file; only
//! sled may have written to the files of an index that stands beside a whole truth.

mod owner;
mod scan;
mod truth;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use cstore_log::{Disk, Log, LogError, Options};
use cstore_types::error_chain;

use super::engine::SledOptions;
use super::index::{Applied, FoundIndex, Index, Staged};
use super::links::Links;
use super::room::{SharedGauge, leaves_reserve};
use super::scratch::Scratch;
use super::snapshot_schedule::UncoveredLog;
use super::{DamageKind, Link, MetaError, Position, snapshot};
use crate::limits::{
    LOG_FRAME_BYTES, LOG_QUEUE_BYTES, MAX_LOG_RESERVE, MAX_OPEN_LOG_FILES, REPLAY_GROUP,
};
pub(super) use owner::LogOwner;
use scan::{Entry, LogScan};
pub(super) use truth::Truth;
use truth::read_record;

/// Findings about a folder that can be opened, and what is to be done.
#[derive(Debug)]
pub(super) struct Survey {
    owner: LogOwner,
    truth: Truth,
    plan: Plan,
    /// The folder, or its index, is of a program before format 2.
    is_upgraded: bool,
}

/// Way to an index that has everything.
#[derive(Debug)]
enum Plan {
    /// The index goes on with the log from what it has applied.
    Continue(Index, Applied),
    /// The index has no key: it is filled from snapshot and log, which were verified.
    Fill(Index),
    /// The index is made anew from snapshot and log, which were verified.
    Remake,
}

/// Result of an open.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) position: Position,
    /// Link of the batch at the position; 0 if it has none.
    link: Link,
    owner: LogOwner,
    truth: Truth,
    /// Position that the snapshot covers.
    covered: Position,
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
    /// Bytes of log that the snapshot does not cover.
    pub(super) uncovered: UncoveredLog,
}

/// Reads snapshot and log of `dir`, and decides how its index gets everything.
///
/// The log is read as a stream, a file at a time.
///
/// # Errors
/// [`MetaError::Damaged`] if a part of the truth is missing or cannot be used and no index makes up
/// for it, `Log` if the log does not open.
pub(super) fn survey(
    dir: &Path,
    log_disk: &Arc<dyn Disk>,
    options: &SledOptions,
    gauge: &SharedGauge,
) -> Result<Survey, MetaError> {
    let owner = LogOwner::find(dir, &**log_disk)?;
    let found = snapshot::look(dir);
    if let Err(error @ MetaError::Io { .. }) = found {
        return Err(error);
    }
    let mut truth = Truth::open(dir, log_disk, &owner, found, options)?;

    if truth.hole().is_some()
        && let Ok(scratch) = Scratch::with_index(Scratch::path_in(dir), dir, gauge)
    {
        // Only an index that has everything is opened where it lies: sled writes to it.
        if let (Plan::Continue(index, applied), _) = plan(scratch.path(), dir, &mut truth, options)?
        {
            replay(&index, &truth, applied.position)?;
            index.for_each(&mut |_, _| Ok(()))?;
        }
    }
    let (plan, is_current) = plan(dir, dir, &mut truth, options)?;
    Ok(Survey {
        is_upgraded: truth.is_of_first_format() || !is_current,
        owner,
        truth,
        plan,
    })
}

/// Decides how the index in `index_dir` gets everything up to the end of the truth in `dir`.
/// Returns also whether the index is of this format.
fn plan(
    index_dir: &Path,
    dir: &Path,
    truth: &mut Truth,
    options: &SledOptions,
) -> Result<(Plan, bool), MetaError> {
    let found = match Index::find(index_dir, options.cache_bytes) {
        Ok(found) => found,
        // A passing error of the system says nothing about the index.
        Err(error @ MetaError::Index(sled::Error::Io(_))) => return Err(error),
        Err(error) => {
            let error = error_chain(&error);
            tracing::warn!(%error, "index of the metadata does not open: it is made anew");
            truth.verify(dir)?;
            return Ok((Plan::Remake, true));
        }
    };
    let FoundIndex {
        index,
        applied,
        is_empty,
        is_trusted,
        is_closed: _,
    } = found;
    if applied.is_current {
        truth.judge_snapshot(dir, &index, is_trusted)?;
    }
    if applied.position > truth.last() {
        return Err(truth.behind(applied.position));
    }

    let has_applied = applied.position > 0;
    if has_applied && applied.is_current && is_trusted && truth.continues(&index, &applied) {
        return Ok((Plan::Continue(index, applied), true));
    }
    if has_applied && applied.is_current {
        tracing::warn!(
            applied = applied.position,
            is_trusted,
            "index of the metadata is of another boot or copy, or lags behind: it is made anew"
        );
    }
    truth.verify(dir)?;
    // An index that has applied nothing and is not empty was left by a restore that did not end.
    if is_empty && !has_applied {
        return Ok((Plan::Fill(index), applied.is_current));
    }
    Ok((Plan::Remake, applied.is_current))
}

/// Findings of a survey, for people who look at a folder.
#[derive(Debug)]
pub(crate) struct SurveyNote {
    /// Words about the way to an index that has everything; empty if the index has it.
    pub(crate) plan: &'static str,
    /// Hole of snapshot and log that the index fills.
    pub(crate) hole: Option<MetaError>,
    /// Damage of snapshot or log that the open does not need to repair, because the rest has
    /// everything.
    pub(crate) damage: Option<MetaError>,
}

impl Survey {
    /// Returns an estimate of the bytes that making the index anew takes; 0 if the index is kept.
    pub(super) fn index_bytes(&self) -> u64 {
        match self.plan {
            Plan::Continue(..) => 0,
            Plan::Fill(_) | Plan::Remake => {
                3 * (self.truth.snapshot_bytes() + self.truth.scan.uncovered.payloads)
            }
        }
    }

    /// Returns the findings. If `verifies`, all of snapshot and log in `dir` is read.
    pub(super) fn note(self, dir: &Path, verifies: bool) -> SurveyNote {
        let plan = match (&self.plan, self.is_upgraded) {
            (_, true) => "; the metadata of an earlier program is brought to this format",
            (Plan::Continue(..), false) => "",
            (Plan::Fill(_) | Plan::Remake, false) => {
                "; the index is made anew from snapshot and log, which are whole"
            }
        };
        let verified = match verifies {
            true => self.truth.verify(dir),
            false => Ok(()),
        };
        let damage = verified.err().or_else(|| self.truth.snapshot_error());
        SurveyNote {
            plan,
            hole: self.truth.hole(),
            damage,
        }
    }

    /// Brings the index up to the end of the log, and makes snapshot and log whole again.
    ///
    /// A folder of a program before format 2 is brought to this format: its index is made anew, and
    /// a snapshot of this format written, which such a program refuses.
    ///
    /// # Errors
    /// `Full` if there is no room to bring the folder to this format: nothing was changed then.
    /// Otherwise those of the disk.
    pub(super) fn recover(
        self,
        dir: &Path,
        options: &SledOptions,
        gauge: &SharedGauge,
    ) -> Result<Recovered, MetaError> {
        let Self {
            owner,
            truth,
            plan,
            is_upgraded,
        } = self;
        if is_upgraded {
            make_way_for_upgrade(dir, &truth, gauge)?;
        }
        let index = match plan {
            Plan::Continue(index, applied) => {
                // An index that has to make up for a hole keeps its mark until a snapshot has.
                if truth.hole().is_none() {
                    index.mark_in_use()?;
                }
                replay(&index, &truth, applied.position)?;
                index
            }
            Plan::Fill(index) => {
                index.mark_in_use()?;
                restore(dir, &index, &truth)?;
                index
            }
            Plan::Remake => remake(dir, &truth, options)?,
        };
        let recovered = Recovered::new(index, owner, truth)?.complete(dir, options)?;
        recovered.index.mark_in_use()?;
        recovered.owner.keep(dir)?;
        Ok(recovered)
    }
}

/// Makes sure that there is room to bring a folder of format 1 to this one: for a second snapshot
/// and a new index.
fn make_way_for_upgrade(dir: &Path, truth: &Truth, gauge: &SharedGauge) -> Result<(), MetaError> {
    let needed = 2 * (truth.snapshot_bytes() + truth.scan.uncovered.bytes);
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

/// Makes the index anew from snapshot and log, which were verified.
fn remake(dir: &Path, truth: &Truth, options: &SledOptions) -> Result<Index, MetaError> {
    let index = Index::rebuilt(dir, options.cache_bytes)?;
    restore(dir, &index, truth)?;
    Ok(index)
}

/// Fills an empty index from snapshot and log, which were verified.
fn restore(dir: &Path, index: &Index, truth: &Truth) -> Result<(), MetaError> {
    restore_snapshot(dir, index, truth.covered())?;
    replay(index, truth, truth.covered().0)
}

/// Fills an empty index from a snapshot, which was verified.
pub(super) fn restore_snapshot(
    dir: &Path,
    index: &Index,
    (covered, link): (Position, Link),
) -> Result<(), MetaError> {
    if covered > 0 {
        snapshot::read(dir, &mut |pairs| index.insert_stored(pairs))?;
    }
    index.set_applied(covered, link)
}

impl Recovered {
    /// Takes an index that has everything.
    fn new(index: Index, owner: LogOwner, truth: Truth) -> Result<Self, MetaError> {
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
            owner,
            covered: truth.covered().0,
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
        recovered.covered = recovered.position;
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
        let Self {
            index,
            owner,
            truth,
            ..
        } = self;
        drop(index);
        truth.verify(dir)?;
        let index = remake(dir, &truth, options)?;
        Self::new(index, owner, truth)
    }

    /// Opens the log for writing.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] if it does not reach what the survey has found of it, `Log`.
    pub(super) fn into_log(
        self,
        log_disk: Arc<dyn Disk>,
        options: &SledOptions,
    ) -> Result<OpenLog, MetaError> {
        let Self {
            position,
            link,
            owner,
            truth,
            covered,
            ..
        } = self;
        let surveyed = truth.scan.last();
        let links = truth.into_links(position, link);
        let (log, mut scan) = open_log(log_disk, &owner, covered, options)?;
        if scan.last() != surveyed {
            let (applied, last) = (surveyed, scan.last());
            return Err(DamageKind::Behind { applied, last }.into());
        }
        if covered >= position {
            retire_damaged(&log, &mut scan)?;
        }
        Ok(OpenLog {
            log,
            uncovered: scan.uncovered,
            files: scan.last_of_file,
            links,
        })
    }
}

/// Gives up the files of the log that are damaged. Called when a snapshot has everything.
///
/// # Errors
/// Of the disk: the next open finds the damage again.
fn retire_damaged(log: &Log, scan: &mut LogScan) -> Result<(), MetaError> {
    for file in std::mem::take(&mut scan.damaged_files) {
        match log.retire(file) {
            Ok(()) => drop(scan.last_of_file.remove(&file)),
            Err(LogError::NoFile(_)) => {}
            Err(error) => return Err(MetaError::Log(error)),
        }
    }
    Ok(())
}

/// Opens a log and makes a summary of it. `covered` is the position that the snapshot covers.
fn open_log(
    log_disk: Arc<dyn Disk>,
    owner: &LogOwner,
    covered: Position,
    options: &SledOptions,
) -> Result<(Log, LogScan), MetaError> {
    let mut scan = LogScan::new(covered);
    let (log, report) = Log::open(log_disk, log_options(owner.bytes, options), &mut |record| {
        scan.visit(&record);
    })
    .map_err(MetaError::Log)?;
    scan.end_frame();
    scan.note_damage(&report);
    Ok((log, scan))
}

/// Replays the batches after `applied`.
fn replay(index: &Index, truth: &Truth, applied: Position) -> Result<(), MetaError> {
    let mut replay = Replay::new(index, truth, applied);
    truth
        .scan
        .records_behind(&truth.log, applied, &mut |entry| replay.take(entry))?;
    replay.flush()
}

/// Replays the batches after `applied` up to the one at `upto`. What lies behind that may be
/// damaged.
pub(super) fn replay_upto(
    index: &Index,
    truth: &Truth,
    applied: Position,
    upto: Position,
) -> Result<(), MetaError> {
    let mut replay = Replay::new(index, truth, applied);
    let take = &mut |entry: Entry| match entry.position <= upto {
        true => replay.take(entry),
        false => Ok(()),
    };
    let skip = &mut |_, _| Ok(());
    truth
        .scan
        .readable_behind(&truth.log, applied, take, skip)?;
    replay.flush()?;
    match replay.last {
        last if last == upto => Ok(()),
        last => Err(DamageKind::Gap { next: upto, last }.into()),
    }
}

struct Replay<'a> {
    index: &'a Index,
    log: &'a Log,
    staged: Staged,
    staged_batches: usize,
    last: Position,
}

impl<'a> Replay<'a> {
    fn new(index: &'a Index, truth: &'a Truth, applied: Position) -> Self {
        Self {
            index,
            log: &truth.log,
            staged: Staged::default(),
            staged_batches: 0,
            last: applied,
        }
    }

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
        open_files: MAX_OPEN_LOG_FILES,
        max_frame_bytes: LOG_FRAME_BYTES,
        max_queue_bytes: LOG_QUEUE_BYTES,
        // Positions are kept in the records themselves.
        least_seq: 0,
        proven_seq: 0,
        epoch: None,
        inventory: None,
        absent_seqs: Vec::new(),
        callers_write: true,
        is_held: false,
    }
}
