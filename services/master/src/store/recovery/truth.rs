//! The truth: what snapshot and log say together, and whether all of it is there.
//!
//! ```text
//! snapshot S                     log L0 … L1
//! 1 ───────────── S   ┄┄┄┄┄┄ L0 ┄┄ S+1 ─────────────────── L1        whole: no gap behind S, no damaged record,
//!                                        I                           each record linked to the one before
//! ```
//! An index goes on with the log if its link at I is the one that the log has there: the record
//! behind I names it, or record or snapshot of I have it. A link that nobody knows proves nothing.
//!
//! A snapshot beyond the end of the log is linked to nothing. It is of another copy if its lives do not
//! contain the place that the log has reached, or an index that the log proves.
//!
//! A truth with a hole opens only if such an index stands beside it, which has everything up to
//! behind the hole: then a snapshot of the index makes it whole again, before anything is written.

use std::path::Path;
use std::sync::Arc;

use cstore_log::{Disk, FileState, Log, LogError, OverlayDisk, file_name};
use cstore_types::history::{Life, Point};

use super::scan::{Entry, LogScan};
use super::{LogOwner, open_log};
use crate::limits::MAX_LINKS;
use crate::store::engine::SledOptions;
use crate::store::index::{Applied, Index};
use crate::store::keys::{self, LIVES};
use crate::store::links::Links;
use crate::store::lives::Lives;
use crate::store::record::{self, Decoded};
use crate::store::{DamageKind, Link, MetaError, Position, snapshot};

/// Snapshot and log of a folder, opened.
#[derive(Debug)]
pub(in crate::store) struct Truth {
    pub(super) log: Log,
    pub(super) scan: LogScan,
    snapshot: Result<Option<snapshot::Found>, MetaError>,
    /// Links of the newest records that belong together, up to the last one of the log.
    links: Links,
    /// Records among the newest that cannot be used, or that belong behind another one.
    damaged: Vec<(Position, MetaError)>,
    /// Life of the last record, if it began within the newest records.
    life: Option<Life>,
    /// Position of the last record if that one is damaged, and the life of the record in front of
    /// it.
    damaged_end: Option<(Position, Life)>,
}

impl Truth {
    /// Opens the log without changing it, and reads its newest records.
    ///
    /// # Errors
    /// [`MetaError::Log`] if the log does not open.
    pub(in crate::store) fn open(
        dir: &Path,
        log_disk: &Arc<dyn Disk>,
        owner: &LogOwner,
        snapshot: Result<Option<snapshot::Found>, MetaError>,
        options: &SledOptions,
    ) -> Result<Self, MetaError> {
        let covered = match &snapshot {
            Ok(Some(found)) => found.position,
            _ => 0,
        };
        let (log, scan) = open_log(OverlayDisk::over(log_disk.clone()), owner, covered, options)?;
        Ok(Self::read(dir, log, scan, snapshot))
    }

    /// Reads the newest records of the log, as many as links are kept.
    fn read(
        dir: &Path,
        log: Log,
        scan: LogScan,
        snapshot: Result<Option<snapshot::Found>, MetaError>,
    ) -> Self {
        let from = scan.last().saturating_sub(MAX_LINKS as u64);
        let mut check = Check::new(&log, Links::unknown(from));
        let mut unreadable = Vec::new();
        let note_unreadable = &mut |last, error| {
            unreadable.push((last, error));
            Ok(())
        };
        let note = &mut |entry| check.note(entry);
        let read = scan.readable_behind(&log, from, note, note_unreadable);
        let Check {
            links,
            mut damaged,
            life,
            life_before,
            ..
        } = check;
        let is_at_end = |(at, _): &(Position, Life)| *at == scan.last() && unreadable.is_empty();
        let damaged_end = life_before.filter(is_at_end);
        // A later life may have begun in what cannot be read.
        let life = life.filter(|_| unreadable.is_empty());
        damaged.extend(unreadable);
        damaged.extend(scan.damages.iter().cloned());
        if let Err(error) = read {
            damaged.push((scan.last(), error));
        }
        let mut truth = Self {
            log,
            scan,
            snapshot,
            links,
            damaged,
            life,
            damaged_end,
        };
        if truth.is_snapshot_foreign() || truth.is_snapshot_of_other_life(dir) {
            truth.reject_snapshot();
        }
        truth
    }

    /// Returns true if the record behind the snapshot was written behind another one than the last
    /// one of the snapshot.
    fn is_snapshot_foreign(&self) -> bool {
        match &self.snapshot {
            Ok(Some(found)) => self.is_foreign((found.position, found.link)),
            _ => false,
        }
    }

    /// Returns true if the log was written behind another batch at `position` than the one whose
    /// link is `link`.
    pub(in crate::store) fn is_foreign(&self, (position, link): (Position, Link)) -> bool {
        let next = position.saturating_add(1);
        match self.scan.find(&self.log, next) {
            Some(entry) => read_record(&self.log, entry).is_ok_and(|next| {
                let before = next.before;
                before.is_some_and(|before| before != link)
            }),
            None if position == self.scan.last() => {
                self.links.known(position).is_some_and(|at| at != link)
            }
            None => false,
        }
    }

    /// Returns true if the snapshot goes on behind the last record of the log.
    fn is_snapshot_ahead(&self) -> bool {
        matches!(&self.snapshot, Ok(Some(found)) if found.position > self.scan.last())
    }

    /// Returns true if the snapshot goes on behind the log, and is not of the life in which the log
    /// ends.
    fn is_snapshot_of_other_life(&self, dir: &Path) -> bool {
        let end = self.end().filter(|_| self.is_snapshot_ahead());
        end.is_some_and(|end| !self.has_snapshot(dir, &end))
    }

    /// Returns the place that the log has reached, if the life of its last record is known.
    pub(in crate::store) fn end(&self) -> Option<Point> {
        self.life.map(|life| Point {
            incarnation: life.incarnation,
            term: life.term,
            life: life.life,
            position: self.scan.last(),
            chain: 0,
        })
    }

    /// Returns true if the truth begins with the first batch, or with a snapshot that can be used.
    pub(in crate::store) fn has_beginning(&self) -> bool {
        self.covered().0 > 0 || self.scan.first() == Some(1)
    }

    /// Returns true if the history of the snapshot has a place. A snapshot that cannot be read says
    /// nothing about that; [`Self::verify`] finds the damage.
    fn has_snapshot(&self, dir: &Path, place: &Point) -> bool {
        let (covered, _) = self.covered();
        Lives::of_snapshot(dir).map_or(true, |lives| lives.contains(covered, place))
    }

    fn reject_snapshot(&mut self) {
        self.snapshot = Err(DamageKind::SnapshotForeign.into());
    }

    /// Judges a snapshot that goes on behind the log by an index: one of another copy is not used
    /// any more if the log proves the index.
    ///
    /// # Errors
    /// `Strangers` if the two contradict each other, the log knows neither, and the index
    /// `is_trusted`; those of the index.
    pub(super) fn judge_snapshot(
        &mut self,
        dir: &Path,
        index: &Index,
        is_trusted: bool,
    ) -> Result<(), MetaError> {
        let applied = index.applied()?;
        if applied.position == 0 || !self.is_snapshot_ahead() {
            return Ok(());
        }
        match Lives::read(index, Links::unknown(applied.position)) {
            Ok(lives) => self.judge_snapshot_by(dir, applied, &lives, is_trusted),
            Err(_) => Ok(()),
        }
    }

    /// Judges like [`Self::judge_snapshot`], by what an index has applied and its lives.
    pub(in crate::store) fn judge_snapshot_by(
        &mut self,
        dir: &Path,
        Applied { position, link, .. }: Applied,
        lives: &Lives,
        is_trusted: bool,
    ) -> Result<(), MetaError> {
        let place = lives.head(position);
        if position == 0 || !self.is_snapshot_ahead() || self.has_snapshot(dir, &place) {
            return Ok(());
        }
        match self.links.known(position) {
            Some(known) if known == link => self.reject_snapshot(),
            // The index is of another copy than the log.
            Some(_) => {}
            None if is_trusted => return Err(DamageKind::Strangers.into()),
            None => {}
        }
        Ok(())
    }

    /// Returns position and link of the snapshot; zeros if there is none that can be used.
    pub(in crate::store) fn covered(&self) -> (Position, Link) {
        match &self.snapshot {
            Ok(Some(found)) => (found.position, found.link),
            _ => (0, 0),
        }
    }

    /// Returns why the snapshot is not used, if it is there and not used.
    pub(super) fn snapshot_error(&self) -> Option<MetaError> {
        self.snapshot.as_ref().err().cloned()
    }

    /// Returns the size of the snapshot; 0 if there is none.
    pub(super) fn snapshot_bytes(&self) -> u64 {
        match &self.snapshot {
            Ok(Some(found)) => found.bytes,
            _ => 0,
        }
    }

    /// Returns the bytes of snapshot and log, roughly.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.snapshot_bytes() + self.scan.uncovered.payloads
    }

    /// Returns the last position of snapshot and log.
    pub(in crate::store) fn last(&self) -> Position {
        self.scan.last().max(self.covered().0)
    }

    /// Returns true if the folder needs a snapshot of this format before anything is written to its
    /// log: it has none, or records that a program before format 2 would take for its own.
    pub(super) fn needs_snapshot(&self) -> bool {
        let is_current = matches!(&self.snapshot, Ok(Some(found)) if found.is_current);
        !is_current || self.has_unchecked()
    }

    /// Returns true if a program before format 2 wrote a part of it.
    pub(in crate::store) fn is_of_first_format(&self) -> bool {
        let has_first = matches!(&self.snapshot, Ok(Some(found)) if !found.is_current);
        has_first || self.has_unchecked()
    }

    fn has_unchecked(&self) -> bool {
        let (covered, _) = self.covered();
        let mut last = self.scan.unchecked_files.values();
        last.any(|last| *last > covered)
    }

    /// Returns the error of an index that has applied more than this truth has.
    pub(super) fn behind(&self, applied: Position) -> MetaError {
        let last = self.last();
        match &self.snapshot {
            Err(error) => error.clone(),
            Ok(_) => DamageKind::Behind { applied, last }.into(),
        }
    }

    /// Returns the reason why snapshot and log are not whole; `None` if they are.
    pub(in crate::store) fn hole(&self) -> Option<MetaError> {
        let (covered, _) = self.covered();
        let last = self.scan.reach(covered);
        if let Some(next) = self.scan.next_behind(last) {
            return Some(match &self.snapshot {
                Err(error) => error.clone(),
                Ok(_) => DamageKind::Gap { next, last }.into(),
            });
        }
        if let Err(error) = &self.snapshot
            && self.scan.first() != Some(1)
        {
            return Some(error.clone());
        }
        // The snapshot has what lies in front of it.
        let mut behind = self.damaged.iter().filter(|(at, _)| *at > covered);
        behind.next().map(|(_, error)| error.clone())
    }

    /// Returns true if an index that has applied this much belongs to this history and has
    /// everything that the log does not bring.
    ///
    /// If the last record is damaged, which would name its link, the index belongs to this history if
    /// it was written in the life of the record in front of it: one process writes one life.
    pub(super) fn continues(&self, index: &Index, applied: &Applied) -> bool {
        let (at, link) = (applied.position, applied.link);
        if at == self.last() {
            let is_of_life = |(end, life): (Position, Life)| {
                let lives = Lives::read(index, Links::unknown(at));
                let head = lives.map(|lives| lives.head(at));
                end == at && head.is_ok_and(|head| (head.term, head.life) == (life.term, life.life))
            };
            return match self.link_at(at) {
                Some(known) => known == link,
                None => self.damaged_end.is_some_and(is_of_life),
            };
        }
        if self.scan.reach(at) != self.last() {
            return false;
        }
        let mut check = Check::new(&self.log, Links::starting(at, link));
        let read = self
            .scan
            .records_behind(&self.log, at, &mut |entry| check.note(entry));
        read.is_ok() && check.damaged.is_empty()
    }

    /// Returns the link at `position`, if snapshot or log know it; 0 for a batch without one.
    pub(in crate::store) fn link_at(&self, position: Position) -> Option<Link> {
        let (covered, link) = self.covered();
        let of_snapshot = || (covered == position).then_some(link);
        self.links.known(position).or_else(of_snapshot)
    }

    /// Reads snapshot and log to their ends and checks all of them.
    ///
    /// # Errors
    /// The first damage.
    pub(super) fn verify(&self, dir: &Path) -> Result<(), MetaError> {
        if let Some(hole) = self.hole() {
            return Err(hole);
        }
        if self.snapshot.is_ok() {
            snapshot::verify(dir)?;
        }
        let (covered, link) = self.covered();
        for file in self.log.files() {
            let last = self.scan.unchecked_files.get(&file.id);
            let is_unchecked = last.is_some_and(|last| *last > covered);
            if is_unchecked && file.state != FileState::Active {
                self.log.verify(file.id).map_err(MetaError::Log)?;
            }
        }
        let mut check = Check::new(&self.log, Links::starting(covered, link));
        self.scan
            .records_behind(&self.log, covered, &mut |entry| check.note(entry))?;
        check
            .damaged
            .into_iter()
            .next()
            .map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Returns the last position up to which the log goes on without a gap from the batch at `from`,
    /// whose link is `link`: each record is whole and belongs behind the one before.
    pub(in crate::store) fn reach_whole(&self, (from, link): (Position, Link)) -> Position {
        let mut check = Check::new(&self.log, Links::starting(from, link));
        let mut reached = from;
        let note = &mut |entry: Entry| {
            if entry.position <= reached {
                return Ok(());
            }
            if entry.position != reached + 1 {
                let (next, last) = (entry.position, reached);
                return Err(DamageKind::Gap { next, last }.into());
            }
            check.note(entry)?;
            if let Some((_, damage)) = check.damaged.pop() {
                return Err(damage);
            }
            reached = entry.position;
            Ok(())
        };
        // The reason why it ends is told elsewhere.
        let _ = self.scan.records_behind(&self.log, from, note);
        reached
    }

    /// Returns the number of batches behind `position` that are intact in the log. Reads each of them,
    /// and blocks the thread.
    pub(in crate::store) fn n_whole_behind(&self, position: Position) -> u64 {
        let (mut n_whole, mut last) = (0, position);
        let note = &mut |entry: Entry| {
            // After a crash an unproven frame exists twice: the original and its copy.
            if entry.position > last && read_record(&self.log, entry).is_ok() {
                last = entry.position;
                n_whole += 1;
            }
            Ok(())
        };
        // Count no batch of a file whose directory is unreadable.
        let _ = self
            .scan
            .readable_behind(&self.log, position, note, &mut |_, _| Ok(()));
        n_whole
    }

    /// Hands out the links of the newest batches up to the one at `position`, whose link is `link`.
    pub(super) fn into_links(self, position: Position, link: Link) -> Links {
        let is_known = self.links.newest() == position && self.links.known(position) == Some(link);
        match is_known {
            true => self.links,
            false => Links::starting(position, link),
        }
    }
}

/// Checks records in their order: each is whole and belongs behind the one before.
struct Check<'a> {
    log: &'a Log,
    /// Links since the last record that could not be used.
    links: Links,
    damaged: Vec<(Position, MetaError)>,
    /// The last life that began, as far as no record behind it was damaged.
    life: Option<Life>,
    /// Position of the last damaged record, and the life of the record in front of it.
    life_before: Option<(Position, Life)>,
}

impl<'a> Check<'a> {
    fn new(log: &'a Log, links: Links) -> Self {
        Self {
            log,
            links,
            damaged: Vec::new(),
            life: None,
            life_before: None,
        }
    }

    fn note(&mut self, entry: Entry) -> Result<(), MetaError> {
        let position = entry.position;
        // A frame that nothing proved is there twice after a crash.
        if position <= self.links.newest() {
            return Ok(());
        }
        if position != self.links.newest() + 1 {
            self.links = Links::unknown(position - 1);
            self.life = None;
        }
        let decoded = match read_record(self.log, entry) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.links = Links::unknown(position);
                self.life_before = self.life.take().map(|life| (position, life));
                self.damaged.push((position, error));
                return Ok(());
            }
        };
        let known = self.links.known(position - 1);
        if let (Some(known), Some(before)) = (known, decoded.before)
            && known != before
        {
            self.links = Links::unknown(position - 1);
            let damage = in_log(entry, DamageKind::Chain { position });
            self.damaged.push((position, damage));
        }
        self.links.push(decoded.link);
        for (key, value) in &decoded.changes {
            if let Some(value) = value.as_ref().filter(|_| key.first() == Some(&LIVES)) {
                self.life = keys::decode_life(key, value).ok();
            }
        }
        Ok(())
    }
}

/// Reads a record and checks it.
pub(super) fn read_record(log: &Log, entry: Entry) -> Result<Decoded, MetaError> {
    let read = || log.read(entry.location).map_err(MetaError::Log);
    let payload = match read() {
        // Read again: a single read error is no damage.
        Err(MetaError::Log(LogError::Io { .. } | LogError::Corrupt { .. })) => read()?,
        other => other?,
    };
    record::decode(entry.kind, entry.position, &payload).map_err(|damage| in_log(entry, damage))
}

/// Says in which file of the log a damage lies.
fn in_log(entry: Entry, damage: DamageKind) -> MetaError {
    DamageKind::InLog {
        file: file_name(entry.location.file),
        damage: Box::new(damage),
    }
    .into()
}
