//! Opening: from the files of the log, the snapshot and the index to an index that has everything.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cstore_log::{Disk, FileState, Location, Log, Options, RecoveredRecord};

use super::engine::SledOptions;
use super::index::{Index, Staged};
use super::{DamageKind, MetaError, Position, batch, snapshot};
use crate::limits::{LOG_FRAME_BYTES, LOG_QUEUE_BYTES, MAX_LOG_RESERVE, REPLAY_GROUP};

/// Bytes on which frames of the log are aligned. A batch is often a frame of its own, so this is
/// what it takes at least.
const FRAME_ALIGN: u64 = 4_096;
/// Bytes of a frame beyond the payloads, roughly.
const FRAME_OVERHEAD: u64 = 128;

/// Result of an open.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) log: Log,
    pub(super) index: Index,
    pub(super) position: Position,
    /// Last position in each file of the log.
    pub(super) files: HashMap<u32, Position>,
    /// Bytes of log that the snapshot does not cover.
    pub(super) uncovered_bytes: u64,
    /// Size of the snapshot; 0 if there is none.
    pub(super) snapshot_bytes: u64,
}

/// Summary of the scanned log: a few numbers a file, and the records of the last file only.
#[derive(Debug, Default)]
struct LogScan {
    first: Option<Position>,
    last_of_file: HashMap<u32, Position>,
    /// Sequence of the frame whose records are being visited, and their payload bytes.
    frame: (u64, u64),
    newest_file: u32,
    newest_records: Vec<(Position, Location)>,
    uncovered_bytes: u64,
}

impl LogScan {
    fn visit(&mut self, record: &RecoveredRecord<'_>, covered: Position) {
        let position = position_of(record.key);
        let location = record.location;
        self.first.get_or_insert(position);
        if location.file != self.newest_file {
            self.newest_file = location.file;
            self.newest_records.clear();
        }
        self.newest_records.push((position, location));
        let last = self.last_of_file.entry(location.file).or_default();
        *last = position.max(*last);
        if position > covered {
            if record.frame_seq != self.frame.0 {
                self.end_frame();
                self.frame.0 = record.frame_seq;
            }
            self.frame.1 += u64::from(location.len);
        }
    }

    fn end_frame(&mut self) {
        let payload = std::mem::take(&mut self.frame.1);
        if payload > 0 {
            self.uncovered_bytes += (payload + FRAME_OVERHEAD).next_multiple_of(FRAME_ALIGN);
        }
    }
}

/// Opens log and index of `dir` and brings the index up to the end of the log.
///
/// The log is read as a stream, a file at a time. An index that ends before the log begins is
/// rebuilt from the snapshot.
///
/// # Errors
/// [`MetaError::Damaged`] if positions are missing, or if bytes that are needed cannot be used.
pub(super) fn recover(
    dir: &Path,
    log_disk: Arc<dyn Disk>,
    options: &SledOptions,
) -> Result<Recovered, MetaError> {
    let (covered, snapshot_bytes) = snapshot::peek(dir)?.unwrap_or_default();
    let mut scan = LogScan::default();
    let (log, _) = Log::open(log_disk, log_options(dir, options)?, &mut |record| {
        scan.visit(&record, covered);
    })
    .map_err(MetaError::Log)?;
    scan.end_frame();

    let mut index = Index::open(dir, options.cache_bytes)?;
    let mut applied = index.applied()?;
    let reaches_log = scan.first.is_some_and(|first| applied + 1 >= first);
    let is_behind = applied > 0 && !reaches_log && covered > applied;
    if is_behind {
        tracing::warn!(
            applied,
            covered,
            "index ends before the log begins: it is rebuilt from the snapshot"
        );
    }
    // An index that has applied nothing and is not empty was left by a restore that did not end.
    if is_behind || (applied == 0 && !index.is_empty()?) {
        drop(index);
        index = Index::rebuilt(dir, options.cache_bytes)?;
        applied = 0;
    }
    if applied == 0 {
        applied = restore_snapshot(&index, dir)?;
    }

    let position = replay(&index, &log, &scan, applied)?;
    let LogScan {
        last_of_file: files,
        uncovered_bytes,
        ..
    } = scan;
    Ok(Recovered {
        log,
        index,
        position,
        files,
        uncovered_bytes,
        snapshot_bytes,
    })
}

fn restore_snapshot(index: &Index, dir: &Path) -> Result<Position, MetaError> {
    let position = snapshot::read(dir, &mut |pairs| index.insert_stored(pairs))?;
    index.set_applied(position)?;
    Ok(position)
}

/// Replays the batches after `applied`; returns the last position.
fn replay(
    index: &Index,
    log: &Log,
    scan: &LogScan,
    applied: Position,
) -> Result<Position, MetaError> {
    let mut replay = Replay {
        index,
        log,
        staged: Staged::default(),
        staged_batches: 0,
        last: applied,
    };
    for file in log.files() {
        let last = scan.last_of_file.get(&file.id).copied().unwrap_or_default();
        if last <= applied || file.id == scan.newest_file || file.state == FileState::Active {
            continue;
        }
        for record in log.directory(file.id).map_err(MetaError::Log)? {
            replay.take(position_of(&record.key), record.location)?;
        }
    }
    for (position, location) in &scan.newest_records {
        replay.take(*position, *location)?;
    }
    replay.finish()
}

struct Replay<'a> {
    index: &'a Index,
    log: &'a Log,
    staged: Staged,
    staged_batches: usize,
    last: Position,
}

impl Replay<'_> {
    fn take(&mut self, next: Position, location: Location) -> Result<(), MetaError> {
        if next <= self.last {
            return Ok(());
        }
        if next != self.last + 1 {
            return Err(DamageKind::Gap {
                next,
                last: self.last,
            }
            .into());
        }

        let payload = self.log.read(location).map_err(MetaError::Log)?;
        for (key, value) in batch::decode(&payload)? {
            self.staged.stage(&key, value.as_deref(), next);
        }
        self.staged.advance(next);
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

    fn finish(mut self) -> Result<Position, MetaError> {
        self.flush()?;
        Ok(self.last)
    }
}

fn position_of(key: &[u8]) -> Position {
    key.first_chunk().map_or(0, |raw| u64::from_be_bytes(*raw))
}

/// Options of the log. Its owner is random and made once, so that files of another master's log
/// never validate.
fn log_options(dir: &Path, options: &SledOptions) -> Result<Options, MetaError> {
    Ok(Options {
        owner: log_owner(dir)?,
        file_bytes: options.file_bytes,
        max_bytes: options.max_log_bytes,
        reserve_bytes: (options.max_log_bytes / 8).min(MAX_LOG_RESERVE),
        compaction_bytes: 0,
        max_frame_bytes: LOG_FRAME_BYTES,
        max_queue_bytes: LOG_QUEUE_BYTES,
        // Positions are kept in the records themselves.
        least_seq: 0,
        proven_seq: 0,
        epoch: None,
        inventory: None,
        is_held: false,
    })
}

fn log_owner(dir: &Path) -> Result<[u8; 16], MetaError> {
    let path = dir.join("log-owner");
    match std::fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|_| DamageKind::LogOwner.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut owner = [0; 16];
            getrandom::fill(&mut owner).map_err(MetaError::Random)?;
            let unfinished = dir.join("log-owner.new");
            let write = || {
                std::fs::write(&unfinished, owner)?;
                std::fs::File::open(&unfinished)?.sync_all()?;
                std::fs::rename(&unfinished, &path)?;
                std::fs::File::open(dir)?.sync_all()
            };
            write().map_err(MetaError::io("write the owner of the log"))?;
            Ok(owner)
        }
        Err(error) => Err(MetaError::io("read the owner of the log")(error)),
    }
}
