//! The truth: what snapshot and log say together, and whether all of it is there.
//!
//! ```text
//! snapshot S                     log L0 … L1
//! 1 ───────────── S   ┄┄┄┄┄┄ L0 ┄┄ S+1 ─────────────────── L1        whole: no gap behind S, no damaged record
//!                                        I                           the index may stand anywhere up to L1
//! ```
//! A truth with a hole opens only if an index that has everything up to behind the hole stands
//! beside it: then a snapshot of the index makes it whole again, before anything is written.

use std::path::Path;

use cstore_log::{FileState, Log};

use super::scan::{Entry, LogScan};
use crate::limits::MAX_LINKS;
use crate::store::index::Applied;
use crate::store::links::Links;
use crate::store::record::{self, Decoded};
use crate::store::{DamageKind, Link, MetaError, Position, snapshot};

/// Snapshot and log of a folder, opened.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) log: Log,
    pub(super) scan: LogScan,
    snapshot: Result<Option<snapshot::Found>, MetaError>,
    /// Links of the newest batches, up to the last one of the log.
    pub(super) links: Links,
    /// The last record of the newest ones that cannot be used, and why.
    damaged: Option<(Position, MetaError)>,
}

impl Truth {
    /// Reads the newest records of the log: all behind the snapshot, up to the number of links that
    /// are kept.
    pub(super) fn read(
        log: Log,
        scan: LogScan,
        snapshot: Result<Option<snapshot::Found>, MetaError>,
    ) -> Self {
        let mut truth = Self {
            log,
            scan,
            snapshot,
            links: Links::default(),
            damaged: None,
        };
        let (covered, link) = truth.covered();
        let from = truth.scan.last().saturating_sub(MAX_LINKS as u64);
        let from = from.max(covered);
        let links = Links::starting(from, if from == covered { link } else { 0 });
        let mut check = Check::new(&truth.log, links, from == covered);
        let read = truth
            .scan
            .records_behind(&truth.log, from, &mut |entry| check.note(entry));
        let Check { links, damaged, .. } = check;
        truth.links = links;
        truth.damaged = match read {
            Ok(()) => damaged,
            Err(error) => Some((truth.scan.last(), error)),
        };
        truth
    }

    /// Returns position and link of the snapshot; zeros if there is none that can be used.
    pub(super) fn covered(&self) -> (Position, Link) {
        match &self.snapshot {
            Ok(Some(found)) => (found.position, found.link),
            _ => (0, 0),
        }
    }

    /// Returns the size of the snapshot; 0 if there is none.
    pub(super) fn snapshot_bytes(&self) -> u64 {
        match &self.snapshot {
            Ok(Some(found)) => found.bytes,
            _ => 0,
        }
    }

    /// Returns the last position of snapshot and log.
    pub(super) fn last(&self) -> Position {
        self.scan.last().max(self.covered().0)
    }

    /// Returns true if the folder needs a snapshot of this format before anything is written to its
    /// log: it has none, or records that a program before format 2 would take for its own.
    pub(super) fn needs_snapshot(&self) -> bool {
        let is_current = matches!(&self.snapshot, Ok(Some(found)) if found.is_current);
        !is_current || !self.scan.unchecked_files.is_empty()
    }

    /// Returns true if a program before format 2 wrote a part of it.
    pub(super) fn is_of_first_format(&self) -> bool {
        let has_first = matches!(&self.snapshot, Ok(Some(found)) if !found.is_current);
        has_first || !self.scan.unchecked_files.is_empty()
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
    pub(super) fn hole(&self) -> Option<MetaError> {
        let (covered, _) = self.covered();
        let reached = self.scan.reach(covered);
        if let Some(next) = self.scan.next_behind(reached) {
            return Some(match &self.snapshot {
                Err(error) => error.clone(),
                Ok(_) => DamageKind::Gap {
                    next,
                    last: reached,
                }
                .into(),
            });
        }
        if let Err(error) = &self.snapshot
            && self.scan.first() != Some(1)
        {
            return Some(error.clone());
        }
        self.damaged.as_ref().map(|(_, error)| error.clone())
    }

    /// Returns true if an index that has applied this much can go on with the log.
    pub(super) fn continues(&self, applied: &Applied) -> bool {
        let at = applied.position;
        let is_reached = self.scan.next_behind(self.scan.reach(at)).is_none() && at <= self.last();
        let is_readable = self.damaged.as_ref().is_none_or(|(last, _)| *last <= at);
        is_reached && is_readable && self.has_link(applied)
    }

    /// Returns true if the index has applied the batches of this history, as far as that is known.
    pub(super) fn has_link(&self, applied: &Applied) -> bool {
        let (covered, link) = self.covered();
        let known = self
            .links
            .at(applied.position)
            .or_else(|| (covered == applied.position && link != 0).then_some(link));
        applied.link == 0 || known.is_none_or(|known| known == applied.link)
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
        for file in self.log.files() {
            let is_unchecked = self.scan.unchecked_files.contains(&file.id);
            if is_unchecked && file.state != FileState::Active {
                self.log.verify(file.id).map_err(MetaError::Log)?;
            }
        }
        let (covered, link) = self.covered();
        let mut check = Check::new(&self.log, Links::starting(covered, link), true);
        self.scan
            .records_behind(&self.log, covered, &mut |entry| check.note(entry))?;
        check.damaged.map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// Checks records in their order: each is whole and belongs behind the one before.
struct Check<'a> {
    log: &'a Log,
    links: Links,
    /// The link of the record before is known.
    is_linked: bool,
    damaged: Option<(Position, MetaError)>,
}

impl<'a> Check<'a> {
    fn new(log: &'a Log, links: Links, is_linked: bool) -> Self {
        Self {
            log,
            links,
            is_linked,
            damaged: None,
        }
    }

    fn note(&mut self, entry: Entry) -> Result<(), MetaError> {
        let position = entry.position;
        // A frame that nothing proved is there twice after a crash.
        if position <= self.links.newest() {
            return Ok(());
        }
        if position != self.links.newest() + 1 {
            self.links = Links::starting(position - 1, 0);
            self.is_linked = false;
        }
        let read = read_record(self.log, entry).and_then(|decoded| {
            let is_linked = self.is_linked;
            let before = decoded.before.filter(|_| is_linked);
            match before.is_none_or(|before| before == self.links.last()) {
                true => Ok(decoded.link),
                false => Err(DamageKind::Chain { position }.into()),
            }
        });
        self.is_linked = read.is_ok();
        let link = read.unwrap_or_else(|error| {
            self.damaged = Some((position, error));
            0
        });
        self.links.push(link);
        Ok(())
    }
}

/// Reads a record and checks it.
pub(super) fn read_record(log: &Log, entry: Entry) -> Result<Decoded, MetaError> {
    let payload = log.read(entry.location).map_err(MetaError::Log)?;
    record::decode(entry.kind, entry.position, &payload)
}
