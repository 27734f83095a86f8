//! Opening a disk.
//!
//! ```text
//! LOCK ─▶ superblock ─┬─ empty folder ─▶ format
//!                     ├─ lost, segments are there ─▶ made anew from them, in doubt
//!                     ├─ FRESH_START=TRUE ─▶ no reference set, or ERASE names this store ─▶ format again
//!                     ├─ ours ─▶ inventory: which segments must be there
//!                     │          ─▶ log (copies an unproven tail) ─▶ blocks, sets, releases in their order
//!                     │          ─▶ reference counts from bitmap.bin if it matches, else from the sets
//!                     │          ─▶ doubts that were found, or are disproved ─▶ inventory, superblock
//!                     └─ foreign, other cluster, node or key ─▶ refused, nothing changed
//! ```

use std::io;
use std::sync::Arc;

use cstore_log::{Disk, LockGuard, Log, NextEpoch, Options, RecoveryReport, Urgency};
use cstore_types::SealSeq;
use parking_lot::Mutex;

use super::doubts::{Doubts, Finding};
use super::error::{EngineError, OpenError};
use super::format::{Doubt, DoubtKind, LOCK_FILE, SEGMENTS_DIR, SLOT, SLOTS, Superblock};
use super::hold::{self, Hold};
use super::index::{SharedIndex, steps};
use super::locked_log::LockedLog;
use super::parts::Parts;
use super::recovery::{Recovery, count_references};
use super::sets::SetReader;
use super::space::Geometry;
use super::volume::inventory;
use super::volume::mount::{self, DiskOptions, Identity, Look, look, segment_bytes_of};
use super::volume::survey::Survey;
use super::volume::{Volume, bitmap_allowance};
use crate::limits::{
    MAX_FRAME_BYTES, MAX_FS_FLOOR, MAX_QUEUE_BYTES, MIN_CAPACITY, MIN_FS_FLOOR, READY_SEGMENTS,
};

/// Opens the disk for this identity; formats an empty one.
///
/// # Errors
/// [`OpenError`]. The disk is as it was then.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    path: &str,
    identity: &Identity,
    options: &DiskOptions,
) -> Result<Parts, OpenError> {
    open_as(disk, path, identity, options, false)
}

/// Opens a disk like [`open`], over an overlay whose changes are lost: no sequence is used, so that
/// what the node reports stands on the disk.
///
/// # Errors
/// Those of [`open`].
pub(super) fn open_for_reads(
    disk: Arc<dyn Disk>,
    path: &str,
    identity: &Identity,
    options: &DiskOptions,
) -> Result<Parts, OpenError> {
    open_as(disk, path, identity, options, true)
}

fn open_as(
    disk: Arc<dyn Disk>,
    path: &str,
    identity: &Identity,
    options: &DiskOptions,
    is_for_reads: bool,
) -> Result<Parts, OpenError> {
    if options.capacity < MIN_CAPACITY {
        return Err(OpenError::Capacity {
            wanted: options.capacity,
            least: MIN_CAPACITY,
        });
    }
    let lock = disk.lock(LOCK_FILE).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::InUse(path.to_owned()),
        _ => OpenError::Lock {
            path: format!("{path}/{LOCK_FILE}"),
            source: error,
        },
    })?;
    let opening = Opening {
        disk,
        path,
        identity,
        options,
        is_for_reads,
        knows_key: true,
        lock: Arc::new(lock),
    };

    // The lock keeps away a process that probes.
    cstore_log::remove_probe(&*opening.disk);
    let (found, is_rebuilt) = match look(&opening.disk, path)? {
        Look::Unformatted => {
            mount::refuse_foreign(&opening.disk, path)?;
            (mount::format(&opening.disk, identity, options)?, false)
        }
        Look::Disk(found) => {
            mount::check_identity(path, &found, identity)?;
            if options.fresh_start {
                return opening.format_again(*found, false);
            }
            (*found, false)
        }
        Look::WithoutSuperblock(remains) => {
            let store = remains.store;
            tracing::error!(path, %store, "superblock is lost: it is made anew from the segments");
            let rebuilt = remains.superblock(identity, options);
            if options.fresh_start {
                return opening.format_again(rebuilt, true);
            }
            (rebuilt, true)
        }
    };
    if options.is_capacity_default && is_rebuilt {
        return opening.recover_with_assumed_size(found);
    }
    // A default MUST NOT make a disk smaller, otherwise it may not open any more.
    let capacity = if options.is_capacity_default {
        options.capacity.max(found.capacity)
    } else {
        options.capacity
    };
    Ok(opening.recover(found, is_rebuilt, capacity)?.0)
}

/// Opens a disk to look at it, for the identity that it has: without the cluster's key if that is
/// not at hand. `disk` MUST be an overlay, otherwise a disk is opened by a program that cannot read
/// its blocks. Returns also the report of the log.
///
/// # Errors
/// Those of [`open`] for a disk of this identity.
pub(super) fn open_to_look(
    disk: Arc<dyn Disk>,
    path: &str,
    (found, is_rebuilt): (Superblock, bool),
    (identity, knows_key): (&Identity, bool),
    options: &DiskOptions,
) -> Result<(Parts, RecoveryReport), OpenError> {
    if knows_key {
        mount::check_identity(path, &found, identity)?;
    }
    let lock = disk.lock(LOCK_FILE).map_err(OpenError::io("lock disk"))?;
    let opening = Opening {
        disk,
        path,
        identity,
        options,
        is_for_reads: false,
        knows_key,
        lock: Arc::new(lock),
    };
    opening.recover(found, is_rebuilt, options.capacity)
}

/// A disk that is locked and being opened.
struct Opening<'a> {
    disk: Arc<dyn Disk>,
    path: &'a str,
    identity: &'a Identity,
    options: &'a DiskOptions,
    /// Changes stay in memory and are lost.
    is_for_reads: bool,
    /// False if the key of the identity is none, because nobody who looks at the disk has it.
    knows_key: bool,
    lock: Arc<LockGuard>,
}

impl Opening<'_> {
    /// Erases a disk of ours, if that is allowed, and formats it.
    fn format_again(self, found: Superblock, is_rebuilt: bool) -> Result<Parts, OpenError> {
        let store = found.store;
        // The old contents are scanned only to decide whether erasing them is allowed, so the new,
        // possibly smaller, capacity is not applied to them.
        let capacity = self.options.capacity.max(found.capacity);
        let (old, _) = self.recover(found, is_rebuilt, capacity)?;
        let sessions = old.index.lock().n_sessions();
        let may_hide = !old.hold.doubts().is_empty();
        if (sessions > 0 || may_hide) && self.options.erase != Some(store) {
            return Err(OpenError::HoldsFiles { sessions, store });
        }
        let was_erased = mount::was_erased(&self.disk, store);
        if (sessions > 0 || may_hide) && was_erased.map_err(OpenError::io("read disk folder"))? {
            // A restart has the same environment. It must not erase what was stored since.
            tracing::warn!(%store, "FRESH_START has erased this disk once and is ignored: unset it");
            return Ok(old);
        }
        // Its log must have ended before its files go.
        drop(old);

        tracing::warn!(%store, sessions, "formatting the disk again: FRESH_START=TRUE");
        mount::erase(&self.disk).map_err(OpenError::io("erase disk"))?;
        let superblock = mount::format(&self.disk, self.identity, self.options)?;
        mount::note_erase(&self.disk, store)
            .map_err(OpenError::io("note that the disk was erased"))?;
        let (parts, _) = self.recover(superblock, false, self.options.capacity)?;
        Ok(parts)
    }

    /// Recovers a disk of which nothing says how large it may be: its superblock is lost, and
    /// FS_SIZE is not set. The size is the default, or the least one that holds what lies there.
    fn recover_with_assumed_size(&self, found: Superblock) -> Result<Parts, OpenError> {
        let default = self.options.capacity;
        let (parts, capacity) = match self.recover(found.clone(), true, default) {
            Err(OpenError::TooSmall { least, .. }) => (self.recover(found, true, least)?.0, least),
            opened => (opened?.0, default),
        };
        tracing::warn!(
            path = self.path,
            capacity,
            "superblock is lost and FS_SIZE is not set: the size of the disk is assumed; set FS_SIZE to the size that it had, and restart"
        );
        Ok(parts)
    }

    /// Recovers a formatted disk and puts the parts together.
    fn recover(
        &self,
        found: Superblock,
        is_rebuilt: bool,
        capacity: u64,
    ) -> Result<(Parts, RecoveryReport), OpenError> {
        let was_lowered = capacity < found.capacity;
        let was_clean = found.clean;
        let fs_room = self.disk.room().map_err(OpenError::io("measure disk"))?;
        let fs_total = fs_room.map(|room| room.total);
        let superblock = sized(found, capacity, fs_total);

        let segments = self.disk.subdir(SEGMENTS_DIR);
        let segments = segments.map_err(OpenError::io("open segments"))?;
        let survey = Survey::begin(&self.disk, segments.clone(), (&superblock, is_rebuilt));
        let mut survey = survey.map_err(OpenError::io("compare segments with inventory"))?;

        let mut log_options = log_options(&superblock, &survey, self.options, fs_total);
        // A copy of the unproven tail in memory would have a sequence of an epoch that no later
        // open knows. The master would remember it as the head of the disk, and take the disk for
        // another copy from then on.
        log_options.is_held |= self.is_for_reads;
        let reserve_bytes = log_options.reserve_bytes;

        // Every record of the log passes the recovery, in the order of the log.
        let mut recovery = Recovery::new(self.knows_key.then(|| self.identity.key.clone()));
        let opened = Log::open(segments, log_options, &mut |record| {
            recovery.take(&record);
        });
        let (log, report) = opened.map_err(EngineError::from)?;
        let log = LockedLog::new(log, self.lock.clone());

        // A disk that is full has used its reserve by right. One that was made smaller must have
        // it.
        let lacks_reserve = was_lowered && log.free_bytes(Urgency::Compaction) < reserve_bytes;
        if log.allocated_bytes() > capacity || lacks_reserve {
            let allocated = log.allocated_bytes();
            return Err(too_small(capacity, allocated, survey.ignored_bytes));
        }
        if is_rebuilt && !recovery.is_key_right(&log) {
            return Err(mount::other_key(self.path));
        }
        let unexplained = recovery.unexplained_holes(&report.holes);
        let index: SharedIndex = Arc::new(Mutex::new(recovery.finish()?));
        let files = log.files();
        let ids = files.iter().map(|file| file.id).collect();
        index.lock().keep_verdicts_of(&ids);
        let found = survey.compare_files(&files, &report, &unexplained, &superblock);
        let found = found.to_vec();

        // What is written from now on is newer than every superblock that a segment names.
        let superblock = Superblock {
            seq: superblock.seq.max(report.superblock_seq),
            ..superblock
        };
        let volume = Volume::new(
            self.disk.clone(),
            superblock.clone(),
            survey.inventory.clone(),
            self.lock.clone(),
        );
        tracing::info!(path = self.path, store = %volume.store(), ?report, "disk recovered");

        // References come last, because sets are read through the parts. A sequence alone does not
        // tell one log from a later one, so the cache counts only after a clean stop; and only
        // without doubts, because it may be what is hidden that it counts.
        let log = Arc::new(log);
        let sets = SetReader::new(log.clone(), index.clone());
        let is_sure = found.is_empty() && !superblock.is_held();
        let cache = volume
            .load_bitmap()
            .filter(|cache| is_sure && was_clean && cache.last_seq == report.last_seq);
        let hidden = count_references(&index, &sets, cache);

        let doubts = judge(&superblock, &survey, found, hidden, log.durable_seq());

        // BEFORE the inventory is replaced: the new image has no trace of one that was lost or too
        // old, so an open that dies after it would leave nothing to doubt.
        volume.note_findings(&doubts)?;

        // From here on the disk counts as running: only a clean stop brings the mark and the cache
        // back. The inventory comes first, because a superblock names the image that counts.
        let may_free = !doubts.are_open();
        survey
            .finish(&files, &superblock, may_free)
            .map_err(OpenError::io("write inventory"))?;
        let volume = Arc::new(volume);
        volume.begin(SealSeq(log.durable_seq()), report.epoch, &doubts)?;
        volume
            .remove_bitmap()
            .map_err(OpenError::io("remove stale bitmap"))?;

        let hold = Hold::new(
            log.clone(),
            volume.clone(),
            index.clone(),
            doubts,
            survey.is_empty,
            self.options.waits_for_master,
        );
        steps::adopt_orphans(&index);
        let geometry = Geometry::of(capacity, superblock.segment_bytes);
        let parts = Parts::assemble(volume, log, index, hold, geometry, self.identity);
        Ok((parts, report))
    }
}

/// Returns the superblock of a disk that has this size from now on. The size of segments follows
/// it: it is only that of the next ones.
fn sized(found: Superblock, capacity: u64, fs_total: Option<u64>) -> Superblock {
    Superblock {
        capacity,
        segment_bytes: segment_bytes_of(capacity.min(fs_total.unwrap_or(capacity))),
        ..found
    }
}

/// Returns the bytes of a file system of this size that new blocks leave to others, as to a master.
fn floor_of(fs_total: u64) -> u64 {
    (fs_total / 16).clamp(MIN_FS_FLOOR, MAX_FS_FLOOR)
}

/// Returns the options of the log of segments.
fn log_options(
    superblock: &Superblock,
    survey: &Survey,
    options: &DiskOptions,
    fs_total: Option<u64>,
) -> Options {
    let (capacity, segment_bytes) = (superblock.capacity, superblock.segment_bytes);
    let beside_segments = SLOTS * SLOT as u64
        + bitmap_allowance(capacity)
        + inventory::allowance(capacity, segment_bytes)
        + survey.ignored_bytes;

    Options {
        owner: *superblock.store.as_bytes(),
        file_bytes: segment_bytes,
        max_bytes: capacity.saturating_sub(beside_segments),
        reserve_bytes: reserve_of(segment_bytes),
        compaction_bytes: segment_bytes + segment_bytes / 4,
        floor_bytes: fs_total.map_or(0, floor_of),
        ready_files: READY_SEGMENTS,
        open_files: options.open_files,
        max_frame_bytes: MAX_FRAME_BYTES,
        max_queue_bytes: MAX_QUEUE_BYTES,
        least_seq: survey.proven_seq(superblock.seal_seq),
        proven_seq: survey.proven_seq(superblock.seal_seq),
        epoch: Some(NextEpoch {
            least: survey
                .highest_epoch()
                .max(superblock.epoch.number)
                .saturating_add(1),
            nonce: options.nonce,
        }),
        inventory: Some(survey.inventory.clone()),
        absent_seqs: survey.absent_seqs(),
        callers_write: false,
        is_held: superblock.is_held() || survey.is_in_doubt(),
    }
}

/// Returns the doubts of a disk from now on: those that it had and that this open has not
/// disproved, and those that it `found` in the segments or that are `hidden` in the sets. The log
/// ends at `head`.
fn judge(
    superblock: &Superblock,
    survey: &Survey,
    found: Vec<Finding>,
    hidden: Vec<Finding>,
    head: u64,
) -> Doubts {
    let mut doubts = Doubts::of(superblock);
    let closed = doubts.close(|doubt| survey.disproves(doubt) || is_counted(doubt, &hidden));
    hold::log_closed(&closed);

    for finding in found.into_iter().chain(hidden) {
        doubts.enter(finding, head);
    }
    doubts.make_up(head, superblock.audits);
    for doubt in doubts.list().iter().filter(|doubt| !doubt.accepted) {
        let (number, kind) = (doubt.number, doubt.kind.name());
        tracing::error!(number, kind, "disk is on hold, nothing is freed: {doubt}");
    }
    doubts
}

/// Returns true for a doubt about references that is not in `hidden`, which this open found.
fn is_counted(doubt: &Doubt, hidden: &[Finding]) -> bool {
    let is_about_references = matches!(doubt.kind, DoubtKind::Set | DoubtKind::Absent);
    let is_found = |finding: &Finding| finding.is_of(doubt);
    is_about_references && !hidden.iter().any(is_found)
}

/// Makes the refusal of a size that has no room for the segments, their reserve and what lies
/// beside them, `ignored` bytes of files that are not read among it.
fn too_small(wanted: u64, allocated: u64, ignored: u64) -> OpenError {
    // The reserve grows with the size, by a twentieth of it: each step comes as much nearer.
    let mut least = allocated;
    loop {
        let segment_bytes = segment_bytes_of(least);
        let beside = SLOTS * SLOT as u64
            + bitmap_allowance(least)
            + inventory::allowance(least, segment_bytes)
            + reserve_of(segment_bytes)
            + ignored;
        let needed = (allocated + beside).next_multiple_of(4_096);
        if needed <= least {
            break;
        }
        least = needed;
    }
    OpenError::TooSmall {
        wanted,
        allocated,
        least,
    }
}

/// Returns the bytes that uploads leave to compaction, which copies a segment, and to releases.
const fn reserve_of(segment_bytes: u64) -> u64 {
    segment_bytes + segment_bytes / 2
}
