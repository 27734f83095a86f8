//! Opening a disk, and the assembly of the engine's parts.
//!
//! ```text
//! LOCK ─▶ superblock ─┬─ empty folder ─▶ format
//!                     ├─ FRESH_START=TRUE ─▶ no reference set, or ERASE names this store ─▶ format again
//!                     ├─ ours ─▶ log (copies an unproven tail) ─▶ blocks, sets, releases in their order
//!                     │          ─▶ reference counts from bitmap.bin if it matches, else from the sets
//!                     └─ foreign, damaged, other cluster, node or key ─▶ refused, nothing changed
//! ```

use std::io;
use std::sync::Arc;

use cstore_log::{Disk, LockGuard, Log, Options, Urgency};
use cstore_types::SealSeq;
use parking_lot::Mutex;

use super::appender::Appender;
use super::compactor::{Compactor, CompactorParts};
use super::counters::Counters;
use super::error::{EngineError, OpenError};
use super::fences::Fences;
use super::format::{Bitmap, LOCK_FILE, SLOT, SLOTS, Superblock};
use super::index::SharedIndex;
use super::locked_log::LockedLog;
use super::reader::BlockReader;
use super::recovery::{Recovery, count_references};
use super::recycler::Recycler;
use super::releaser::Releaser;
use super::room::Room;
use super::sets::SetReader;
use super::space::{Geometry, SpaceLedger};
use super::volume::mount::{self, DiskOptions, Identity, peek};
use super::volume::{Volume, bitmap_allowance};
use super::writer::Writer;
use crate::limits::{MAX_FRAME_BYTES, MAX_GROUP_BYTES, MAX_QUEUE_BYTES, MIN_CAPACITY};

/// The parts of an open disk.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) volume: Arc<Volume>,
    pub(super) log: Arc<LockedLog>,
    pub(super) index: SharedIndex,
    pub(super) counters: Counters,
    pub(super) blocks: BlockReader,
    pub(super) sets: SetReader,
    pub(super) recycler: Recycler,
    pub(super) compactor: Compactor,
    pub(super) room: Room,
    pub(super) writer: Writer,
    pub(super) releaser: Releaser,
}

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
    if options.capacity < MIN_CAPACITY {
        return Err(OpenError::Capacity {
            wanted: options.capacity,
            least: MIN_CAPACITY,
        });
    }
    let lock = disk.lock(LOCK_FILE).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::InUse(path.to_owned()),
        _ => OpenError::Io {
            doing: "lock disk",
            source: error,
        },
    })?;
    let opening = Opening {
        disk,
        path,
        identity,
        options,
        lock: Arc::new(lock),
    };

    let Some(found) = peek(&opening.disk, path)? else {
        mount::refuse_foreign(&opening.disk, path)?;
        let superblock = mount::format(&opening.disk, identity, options)?;
        return opening.recover(superblock, options.capacity);
    };
    mount::check_identity(path, &found, identity)?;
    if options.fresh_start {
        opening.format_again(found)
    } else {
        opening.recover(found, options.capacity)
    }
}

/// A disk that is locked and being opened.
struct Opening<'a> {
    disk: Arc<dyn Disk>,
    path: &'a str,
    identity: &'a Identity,
    options: &'a DiskOptions,
    lock: Arc<LockGuard>,
}

impl Opening<'_> {
    /// Erases a disk of ours, if that is allowed, and formats it.
    fn format_again(self, found: Superblock) -> Result<Parts, OpenError> {
        let store = found.store;
        // The old contents are scanned only to decide whether erasing them is allowed, so the new,
        // possibly smaller, capacity is not applied to them.
        let capacity = self.options.capacity.max(found.capacity);
        let old = self.recover(found, capacity)?;
        let sessions = old.index.lock().n_sessions();
        if sessions > 0 && self.options.erase != Some(store) {
            return Err(OpenError::HoldsFiles { sessions, store });
        }
        // Its log must have ended before its files go.
        drop(old);

        tracing::warn!(%store, sessions, "formatting the disk again: FRESH_START=TRUE");
        mount::erase(&self.disk).map_err(OpenError::io("erase disk"))?;
        let superblock = mount::format(&self.disk, self.identity, self.options)?;
        self.recover(superblock, self.options.capacity)
    }

    /// Recovers a formatted disk and puts the parts together.
    fn recover(&self, found: Superblock, capacity: u64) -> Result<Parts, OpenError> {
        let was_lowered = capacity < found.capacity;
        let was_clean = found.clean;
        let superblock = Superblock { capacity, ..found };

        let segment_bytes = superblock.segment_bytes;
        // Compaction can always copy a segment, and beside that there is room for releases.
        let reserve_bytes = segment_bytes + segment_bytes / 2;
        let log_options = Options {
            owner: *superblock.store.as_bytes(),
            file_bytes: segment_bytes,
            max_bytes: capacity - SLOTS * SLOT as u64 - bitmap_allowance(capacity),
            reserve_bytes,
            compaction_bytes: segment_bytes + segment_bytes / 4,
            max_frame_bytes: MAX_FRAME_BYTES,
            max_queue_bytes: MAX_QUEUE_BYTES,
            least_seq: superblock.seal_seq.0,
        };
        let volume = Volume::new(self.disk.clone(), superblock, self.lock.clone());

        // Every record of the log passes the recovery, in the order of the log.
        let segments = volume.segments().map_err(OpenError::io("open segments"))?;
        let mut recovery = Recovery::default();
        let opened = Log::open(segments, log_options, &mut |record| {
            recovery.take(&record);
        });
        let (log, report) = opened.map_err(EngineError::from)?;
        let log = LockedLog::new(log, self.lock.clone());

        // A disk that is full has used its reserve by right. One that was made smaller must have
        // it.
        let lacks_reserve = was_lowered && log.free_bytes(Urgency::Compaction) < reserve_bytes;
        if log.allocated_bytes() > capacity || lacks_reserve {
            return Err(too_small(capacity, log.allocated_bytes(), reserve_bytes));
        }
        tracing::info!(path = self.path, store = %volume.store(), ?report, "disk recovered");

        let geometry = Geometry {
            capacity,
            segment_bytes,
            group_bytes: usize::try_from((segment_bytes / 4).min(MAX_GROUP_BYTES))
                .unwrap_or(usize::MAX),
        };
        let index: SharedIndex = Arc::new(Mutex::new(recovery.finish()?));
        let parts = Parts::assemble(volume, log, index, geometry, self.identity);

        // References come last, because sets are read through the parts. A sequence alone does not
        // tell one log from a later one, so the cache counts only after a clean stop.
        let cache = parts.volume.load_bitmap();
        let cache = cache.filter(|cache| was_clean && cache.last_seq == report.last_seq);
        count_references(&parts.index, &parts.sets, cache)?;
        parts.index.lock().adopt_orphans();

        // From here on the disk counts as running: only a clean stop brings the mark and the cache
        // back.
        parts
            .volume
            .write_superblock(SealSeq(parts.log.durable_seq()), false)?;
        parts
            .volume
            .remove_bitmap()
            .map_err(OpenError::io("remove stale bitmap"))?;
        Ok(parts)
    }
}

fn too_small(wanted: u64, allocated: u64, reserve_bytes: u64) -> OpenError {
    let needed = allocated + reserve_bytes + SLOTS * SLOT as u64;
    let least = needed + (needed / 63).max(4_096) + 4_096;
    OpenError::TooSmall {
        wanted,
        allocated,
        least,
    }
}

impl Parts {
    /// Shuts down cleanly: drains the log, seals the active segment, writes the derived cache and
    /// the clean mark.
    ///
    /// # Errors
    /// [`EngineError`] of the disk. The next start recovers all the same.
    pub(super) fn close(&self) -> Result<(), EngineError> {
        self.log.close()?;
        let seal_seq = SealSeq(self.log.durable_seq());
        let files = self.index.lock().counts();
        self.volume.save_bitmap(&Bitmap {
            last_seq: seal_seq.0,
            files,
        })?;
        self.volume.write_superblock(seal_seq, true)
    }

    /// Gives each part what it may touch.
    fn assemble(
        volume: Volume,
        log: LockedLog,
        index: SharedIndex,
        geometry: Geometry,
        identity: &Identity,
    ) -> Self {
        // Shared by several parts.
        let volume = Arc::new(volume);
        let log = Arc::new(log);
        let counters = Counters::default();
        let fences = Fences::default();
        let ledger = SpaceLedger::new(log.clone(), geometry);
        let appender = Appender::new(log.clone());
        let sets = SetReader::new(log.clone(), index.clone());
        let blocks = BlockReader::new(
            log.clone(),
            index.clone(),
            counters.clone(),
            identity.key.clone(),
        );

        // Parts that return space.
        let recycler = Recycler::new(log.clone(), index.clone(), volume.clone(), counters.clone());
        let compactor = Compactor::new(CompactorParts {
            log: log.clone(),
            index: index.clone(),
            fences: fences.clone(),
            ledger: ledger.clone(),
            appender: appender.clone(),
            blocks: blocks.clone(),
            sets: sets.clone(),
            recycler: recycler.clone(),
            counters: counters.clone(),
        });
        let room = Room {
            log: log.clone(),
            index: index.clone(),
            ledger: ledger.clone(),
            recycler: recycler.clone(),
            compactor: compactor.clone(),
        };

        // Parts that write for requests.
        let writer = Writer {
            appender: appender.clone(),
            index: index.clone(),
            fences: fences.clone(),
            ledger,
            room: room.clone(),
            sets: sets.clone(),
            counters: counters.clone(),
            key: identity.key.clone(),
        };
        let releaser = Releaser {
            appender,
            index: index.clone(),
            fences,
            room: room.clone(),
            sets: sets.clone(),
            counters: counters.clone(),
        };
        Self {
            volume,
            log,
            index,
            counters,
            blocks,
            sets,
            recycler,
            compactor,
            room,
            writer,
            releaser,
        }
    }
}
