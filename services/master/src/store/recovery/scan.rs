//! A summary of the log: a few numbers per file, and the records of the newest file only.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cstore_log::{
    Damage, DirectoryEntry, FileState, Location, Log, LogError, RecoveredRecord, RecoveryReport,
    Standing,
};

use crate::store::record::KIND_UNCHECKED;
use crate::store::snapshot_schedule::UncoveredLog;
use crate::store::{MetaError, Position};

/// Bytes on which frames of the log are aligned. A batch is often a frame of its own, so this is
/// what it takes at least.
const FRAME_ALIGN: u64 = 4_096;
/// Bytes of a frame beyond the payloads, roughly.
const FRAME_OVERHEAD: u64 = 128;

/// A record of the log: one batch, not read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) kind: u8,
    pub(super) location: Location,
}

/// Summary of the log, made while it opens.
#[derive(Debug, Default)]
pub(super) struct LogScan {
    /// Position that the snapshot covers.
    covered: Position,
    /// Positions without a gap between them, first and last, in order. A whole log has one run.
    runs: Vec<(Position, Position)>,
    pub(super) last_of_file: HashMap<u32, Position>,
    /// First position of each file.
    first_of_file: BTreeMap<u32, Position>,
    /// Files with records that have no checksum of their own, and the last position of those.
    pub(super) unchecked_files: BTreeMap<u32, Position>,
    /// Sequence of the frame whose records are being visited, and their payload bytes.
    frame: (u64, u64),
    newest_file: u32,
    newest_records: Vec<Entry>,
    /// Bytes of log that the snapshot does not cover.
    pub(super) uncovered: UncoveredLog,
    /// Damage of the log, each with the last position that it may have hit.
    pub(super) damages: Vec<(Position, MetaError)>,
    /// Files with damaged parts.
    pub(super) damaged_files: BTreeSet<u32>,
}

impl LogScan {
    pub(super) fn new(covered: Position) -> Self {
        Self {
            covered,
            ..Self::default()
        }
    }

    /// Takes a record of the log. One of a damaged frame counts as missing: its position may be wrong,
    /// too. One without a checksum of its own is not taken from a frame that was searched for.
    pub(super) fn visit(&mut self, record: &RecoveredRecord<'_>) {
        if !is_usable(record.standing, record.kind) {
            return;
        }
        let entry = entry(record.key, record.kind, record.location);
        let Entry {
            position,
            kind,
            location,
        } = entry;
        match self.runs.last_mut() {
            Some((_, last)) if position <= *last => {}
            Some((_, last)) if position == last.saturating_add(1) => *last = position,
            _ => self.runs.push((position, position)),
        }

        if location.file != self.newest_file {
            self.newest_file = location.file;
            self.newest_records.clear();
        }
        self.newest_records.push(entry);
        let last = self.last_of_file.entry(location.file).or_default();
        *last = position.max(*last);
        self.first_of_file.entry(location.file).or_insert(position);
        if kind == KIND_UNCHECKED {
            let last = self.unchecked_files.entry(location.file).or_default();
            *last = position.max(*last);
        }
        if position > self.covered {
            if record.frame_seq != self.frame.0 {
                self.end_frame();
                self.frame.0 = record.frame_seq;
            }
            self.frame.1 += u64::from(location.len);
            self.uncovered.payloads += u64::from(location.len);
        }
    }

    /// Takes the damage that the open has met.
    pub(super) fn note_damage(&mut self, report: &RecoveryReport) {
        self.damaged_files = report.holes.iter().map(|hole| hole.file).collect();
        let holes = report
            .holes
            .iter()
            .map(|hole| (hole.file, hole.offset, hole.damage));
        let unreadable = report
            .unreadable
            .iter()
            .map(|file| (file.file, 0, file.damage));
        for (file, offset, damage) in holes.chain(unreadable) {
            // Positions behind the last one of the file are missing only if the damage is behind
            // all frames of it that are there; and never those of the files behind it.
            let known = self.last_of_file.get(&file).copied();
            let known = known.filter(|_| damage == Damage::FrameBeforeValid);
            let behind = self.first_of_file.range(file.saturating_add(1)..).next();
            let known = known.or_else(|| behind.map(|(_, first)| first.saturating_sub(1)));
            let error = MetaError::Log(LogError::Corrupt {
                file,
                offset,
                damage,
            });
            self.damages.push((known.unwrap_or(Position::MAX), error));
        }
    }

    pub(super) fn end_frame(&mut self) {
        let payload = std::mem::take(&mut self.frame.1);
        if payload > 0 {
            self.uncovered.bytes += (payload + FRAME_OVERHEAD).next_multiple_of(FRAME_ALIGN);
        }
    }

    /// Returns the first position of the log; `None` if it is empty.
    pub(super) fn first(&self) -> Option<Position> {
        self.runs.first().map(|(first, _)| *first)
    }

    /// Returns the last position of the log; 0 if it is empty.
    pub(super) fn last(&self) -> Position {
        self.runs.last().map_or(0, |(_, last)| *last)
    }

    /// Returns the last position that the log reaches from `from` without a gap.
    pub(super) fn reach(&self, from: Position) -> Position {
        let next = from.saturating_add(1);
        let run = self
            .runs
            .iter()
            .find(|(first, last)| (*first..=*last).contains(&next));
        run.map_or(from, |(_, last)| *last)
    }

    /// Returns the first position behind `position` that the log has; `None` if there is none.
    pub(super) fn next_behind(&self, position: Position) -> Option<Position> {
        let run = self.runs.iter().find(|(_, last)| *last > position);
        run.map(|(first, _)| (*first).max(position.saturating_add(1)))
    }

    /// Returns the record at `position`, if the log has it.
    pub(super) fn find(&self, log: &Log, position: Position) -> Option<Entry> {
        let mut found = None;
        let note = &mut |entry: Entry| {
            if entry.position == position {
                found = Some(entry);
            }
            Ok(())
        };
        let before = position.checked_sub(1)?;
        // A directory that cannot be read is damage that is found elsewhere.
        let _ = self.records_behind(log, before, note);
        found
    }

    /// Calls `visit` for the records behind `from`, in order of the log.
    ///
    /// # Errors
    /// Those of `visit`, and of a file whose directory cannot be read.
    pub(super) fn records_behind(
        &self,
        log: &Log,
        from: Position,
        visit: &mut dyn FnMut(Entry) -> Result<(), MetaError>,
    ) -> Result<(), MetaError> {
        self.readable_behind(log, from, visit, &mut |_, error| Err(error))
    }

    /// Calls `visit` like [`Self::records_behind`], and `unreadable` with the last position of each
    /// file whose directory cannot be read.
    pub(super) fn readable_behind(
        &self,
        log: &Log,
        from: Position,
        visit: &mut dyn FnMut(Entry) -> Result<(), MetaError>,
        unreadable: &mut dyn FnMut(Position, MetaError) -> Result<(), MetaError>,
    ) -> Result<(), MetaError> {
        for file in log.files() {
            let last = self.last_of_file.get(&file.id).copied().unwrap_or_default();
            let is_done = file.id == self.newest_file || file.state == FileState::Active;
            if last <= from || is_done {
                continue;
            }
            let directory = match log.directory(file.id) {
                Ok(directory) => directory,
                Err(error) => {
                    unreadable(last, MetaError::Log(error))?;
                    continue;
                }
            };
            let is_usable = |record: &DirectoryEntry| is_usable(record.standing, record.kind);
            for record in directory.into_iter().filter(is_usable) {
                let DirectoryEntry {
                    kind,
                    key,
                    location,
                    ..
                } = record;
                let entry = entry(&key, kind, location);
                if entry.position > from {
                    visit(entry)?;
                }
            }
        }
        for entry in &self.newest_records {
            if entry.position > from {
                visit(*entry)?;
            }
        }
        Ok(())
    }
}

fn is_usable(standing: Standing, kind: u8) -> bool {
    match standing {
        Standing::Verified => true,
        Standing::Searched => kind != KIND_UNCHECKED,
        Standing::Damaged => false,
    }
}

fn entry(key: &[u8], kind: u8, location: Location) -> Entry {
    Entry {
        position: key.first_chunk().map_or(0, |raw| u64::from_be_bytes(*raw)),
        kind,
        location,
    }
}
