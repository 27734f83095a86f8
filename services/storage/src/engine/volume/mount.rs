//! Opening a disk: identity checks, formatting, recovery.
//!
//! ```text
//! LOCK ─▶ superblock ─┬─ nothing and empty folder ─▶ format
//!                     ├─ FRESH_START=TRUE ─▶ no reference set, or ERASE names this store ─▶ format again
//!                     ├─ ours ─▶ log (copies an unproven tail) ─▶ blocks, sets, releases in their order
//!                     │          ─▶ reference counts from bitmap.bin when it matches, else from the sets
//!                     └─ foreign, damaged, other cluster, node or key ─▶ refused, nothing changed
//! ```

use std::io;
use std::sync::Arc;

use cstore_log::{Disk, Log, Options, RecoveredRecord, Urgency};
use cstore_types::{ClusterUuid, DedupKey, NodeId, SealSeq, SessionId, StoreUuid};
use parking_lot::Mutex;

use super::format::{
    BITMAP_FILE, Bitmap, FormatError, KIND_DATA, KIND_MANIFEST, KIND_REFSET, KIND_RELEASE, LOCK_FILE,
    SEGMENTS_DIR, SLOT, SLOTS, SUPERBLOCK_FILE, Superblock, parse_block_key, parse_refset_key,
    parse_release_key,
};
use super::state::{RefSet, State};
use super::superblock::{self, Found};
use super::{Counters, Engine, Flaw, Shared};
use crate::{EngineError, OpenError};

const MAX_SEGMENT_BYTES: u64 = 256 << 20;
const MIN_SEGMENT_BYTES: u64 = 64 << 10;
/// Below this there is no room for segments beside the reserves.
const MIN_CAPACITY: u64 = 1 << 20;
const MAX_GROUP_BYTES: u64 = 1 << 20;
const MAX_QUEUE_BYTES: usize = 64 << 20;
const MAX_FRAME_BYTES: usize = 8 << 20;

/// How a disk is to be opened.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// FS_SIZE in bytes.
    pub capacity: u64,
    /// BLOCK_SIZE in bytes, recorded at format.
    pub block_size: u64,
    /// FRESH_START.
    pub fresh_start: bool,
    /// CSTORE_FRESH_START_ERASE.
    pub erase: Option<StoreUuid>,
    /// A defect of the log, to show that tests find it; a program can only have none.
    pub sabotage: cstore_log::Sabotage,
    /// A defect of compaction, for the same.
    pub flaw: Flaw,
}

/// Who opens it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Used when the disk is formatted.
    pub store: StoreUuid,
    /// The cluster of the master.
    pub cluster: ClusterUuid,
    /// This node.
    pub node: NodeId,
    /// The cluster's key.
    pub key: DedupKey,
}

/// The superblock of a disk, without opening it; `None` when it is not formatted.
///
/// # Errors
/// [`OpenError`] when it cannot be read or is not usable.
pub fn peek(disk: &Arc<dyn Disk>, path: &str) -> Result<Option<Superblock>, OpenError> {
    match superblock::read(disk).map_err(io_error("read superblock"))? {
        Found::Nothing => Ok(None),
        Found::Valid(superblock) => Ok(Some(superblock)),
        Found::Unusable(problem) => Err(OpenError::Superblock { path: path.to_owned(), problem }),
    }
}

impl Engine {
    /// Opens the disk for this identity, formats an empty one.
    ///
    /// # Errors
    /// [`OpenError`]; the disk is as it was.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &str,
        identity: &Identity,
        options: &DiskOptions,
    ) -> Result<Self, OpenError> {
        if options.capacity < MIN_CAPACITY {
            return Err(OpenError::Capacity { wanted: options.capacity, least: MIN_CAPACITY });
        }
        let lock = disk.lock(LOCK_FILE).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse(path.to_owned()),
            _ => OpenError::Io { doing: "lock disk", source: error },
        })?;
        let lock = Arc::new(lock);
        let Some(found) = peek(&disk, path)? else {
            refuse_foreign(&disk, path)?;
            let superblock = format_disk(&disk, identity, options)?;
            return Self::recover(disk, path, superblock, identity, options, lock);
        };
        check_identity(path, &found, identity)?;
        if !options.fresh_start {
            return Self::recover(disk, path, found, identity, options, lock);
        }
        let store = found.store;
        // What is only looked at before it goes need not fit the new size.
        let looked_at = DiskOptions { capacity: options.capacity.max(found.capacity), ..options.clone() };
        let old = Self::recover(disk.clone(), path, found, identity, &looked_at, lock.clone())?;
        let sessions = old.shared.lock().state.n_sessions();
        if sessions > 0 && options.erase != Some(store) {
            return Err(OpenError::HoldsFiles { sessions, store });
        }
        drop(old);
        tracing::warn!(%store, sessions, "formatting the disk again: FRESH_START=TRUE");
        erase(&disk).map_err(io_error("erase disk"))?;
        let superblock = format_disk(&disk, identity, options)?;
        Self::recover(disk, path, superblock, identity, options, lock)
    }

    fn recover(
        disk: Arc<dyn Disk>,
        path: &str,
        mut superblock: Superblock,
        identity: &Identity,
        options: &DiskOptions,
        lock: Arc<cstore_log::LockGuard>,
    ) -> Result<Self, OpenError> {
        let lowered = options.capacity < superblock.capacity;
        superblock.capacity = options.capacity;
        let was_clean = superblock.clean;
        let bitmap_allowance = (superblock.capacity / 64).max(4_096);
        let segments = disk.subdir(SEGMENTS_DIR).map_err(io_error("open segments"))?;
        let segment_bytes = superblock.segment_bytes;
        // Compaction can always copy a segment, and before that there is room for releases.
        let reserve_bytes = segment_bytes + segment_bytes / 2;
        let log_options = Options {
            owner: *superblock.store.as_bytes(),
            file_bytes: segment_bytes,
            max_bytes: superblock.capacity - SLOTS * SLOT as u64 - bitmap_allowance,
            reserve_bytes,
            compaction_bytes: segment_bytes + segment_bytes / 4,
            max_frame_bytes: MAX_FRAME_BYTES,
            max_queue_bytes: MAX_QUEUE_BYTES,
            least_seq: superblock.seal_seq.0,
        };
        let mut recovery = Recovery::default();
        let (log, report) =
            Log::open_with(segments, log_options, options.sabotage, &mut |record| recovery.take(&record))
                .map_err(EngineError::from)?;
        // A disk that is full has used its reserve by right; one that was made smaller must have it.
        let lacks_reserve = lowered && log.free_bytes(Urgency::Compaction) < reserve_bytes;
        if log.allocated_bytes() > superblock.capacity || lacks_reserve {
            let (wanted, allocated) = (superblock.capacity, log.allocated_bytes());
            let needed = allocated + reserve_bytes + SLOTS * SLOT as u64;
            let least = needed + (needed / 63).max(4_096) + 4_096;
            return Err(OpenError::TooSmall { wanted, allocated, least });
        }
        tracing::info!(path, store = %superblock.store, ?report, "disk recovered");
        let engine = Self {
            log: Arc::new(log),
            shared: Arc::new(Mutex::new(Shared { state: recovery.state, ..Shared::default() })),
            counters: Arc::new(Counters::default()),
            commits: Arc::default(),
            disk,
            superblock: Arc::new(Mutex::new(superblock)),
            superblock_writes: Arc::default(),
            key: identity.key.clone(),
            cleaning: Arc::default(),
            retiring: Arc::default(),
            flaw: options.flaw,
            group_bytes: usize::try_from((segment_bytes / 4).min(MAX_GROUP_BYTES)).unwrap_or(usize::MAX),
            bitmap_allowance,
            _lock: lock,
        };
        engine.restore_references(report.last_seq, recovery.unreadable, was_clean)?;
        engine.shared.lock().state.adopt_orphans();
        engine.write_superblock(false)?;
        remove_bitmap(&engine.disk).map_err(io_error("remove stale bitmap"))?;
        Ok(engine)
    }

    /// Counts references: from the derived cache when it is of exactly this log, else from the reference sets. The
    /// cache is of this log when the disk was stopped in good order and nothing was written since: a sequence alone
    /// does not tell one log from a later one.
    fn restore_references(&self, last_seq: u64, unreadable: usize, was_clean: bool) -> Result<(), OpenError> {
        if unreadable > 0 {
            return Err(OpenError::Keys(unreadable));
        }
        let mut shared = self.shared.lock();
        if was_clean
            && let Some(bitmap) = self.load_bitmap()
            && bitmap.last_seq == last_seq
            && shared.state.restore_counts(&bitmap.files)
        {
            return Ok(());
        }
        let sessions: Vec<SessionId> = shared.state.sessions().collect();
        for session in sessions {
            for (part, set) in shared.state.parts(session) {
                let ids = self.read_refset(session, part, set)?;
                let missing = shared.state.add_refs(&ids);
                if missing > 0 {
                    tracing::error!(%session, part = part.0, missing, "reference set names blocks that are not here");
                }
            }
        }
        Ok(())
    }

    fn load_bitmap(&self) -> Option<Bitmap> {
        let file = self.disk.open(BITMAP_FILE).ok()?;
        let len = usize::try_from(file.size().ok()?.min(self.bitmap_allowance)).ok()?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).ok()?;
        Bitmap::decode(self.superblock.lock().store, &bytes).ok()
    }

    /// Writes the derived cache if it is small enough; a stale one is removed.
    pub(super) fn save_bitmap(&self) -> Result<(), EngineError> {
        let files = self.shared.lock().state.counts();
        let bitmap = Bitmap { last_seq: self.log.durable_seq(), files };
        let bytes = bitmap.encode(self.superblock.lock().store);
        let write = || -> io::Result<()> {
            remove_bitmap(&self.disk)?;
            if bytes.len() as u64 <= self.bitmap_allowance {
                let file = self.disk.create(BITMAP_FILE, bytes.len() as u64)?;
                file.write_all_vectored_at(&[bytes], 0)?;
                file.sync_data()?;
            }
            self.disk.sync_dir()
        };
        write().map_err(EngineError::io("write bitmap"))
    }
}

/// From the first write on, a cache of an earlier stop says nothing.
fn remove_bitmap(disk: &Arc<dyn Disk>) -> io::Result<()> {
    match disk.remove(BITMAP_FILE) {
        Ok(()) => disk.sync_dir(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Collects what the log delivers, in its order.
#[derive(Debug, Default)]
struct Recovery {
    state: State,
    unreadable: usize,
}

impl Recovery {
    fn take(&mut self, record: &RecoveredRecord<'_>) {
        if self.try_take(record).is_err() {
            self.unreadable += 1;
        }
    }

    fn try_take(&mut self, record: &RecoveredRecord<'_>) -> Result<(), FormatError> {
        match record.kind {
            KIND_DATA | KIND_MANIFEST => {
                self.state.recover_block(parse_block_key(record.key)?, record.location);
            }
            KIND_REFSET => {
                let (session, part) = parse_refset_key(record.key)?;
                let set = RefSet { location: record.location, seal_seq: SealSeq(record.frame_seq) };
                self.state.insert_refset(session, part, set);
            }
            KIND_RELEASE => {
                let session = parse_release_key(record.key)?;
                for (_, set) in self.state.release(session, record.location) {
                    self.state.bury(set);
                }
            }
            _ => return Err(FormatError::Damaged),
        }
        Ok(())
    }
}

fn check_identity(path: &str, found: &Superblock, identity: &Identity) -> Result<(), OpenError> {
    let mismatch = |what, found: String, expected: String| {
        Err(OpenError::Mismatch { path: path.to_owned(), what, found, expected })
    };
    if found.cluster != identity.cluster {
        return mismatch("cluster", found.cluster.to_string(), identity.cluster.to_string());
    }
    if found.node != identity.node {
        return mismatch("node", found.node.to_string(), identity.node.to_string());
    }
    if found.key_check != identity.key.check_value() {
        return mismatch("another dedup key,", "check value differs".to_owned(), "the cluster's".to_owned());
    }
    Ok(())
}

/// A folder without a superblock must be empty: somebody else's files are never touched.
fn refuse_foreign(disk: &Arc<dyn Disk>, path: &str) -> Result<(), OpenError> {
    let ours = [LOCK_FILE, SUPERBLOCK_FILE, "lost+found"];
    let names = disk.list().map_err(io_error("list disk"))?;
    match names.into_iter().find(|name| !ours.contains(&name.as_str())) {
        // An interrupted format may have made the folder of segments, but no file in it.
        Some(name) if name == SEGMENTS_DIR && segments_empty(disk) => Ok(()),
        Some(found) => Err(OpenError::Foreign { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

fn segments_empty(disk: &Arc<dyn Disk>) -> bool {
    disk.subdir(SEGMENTS_DIR).and_then(|segments| segments.list()).is_ok_and(|names| names.is_empty())
}

fn format_disk(
    disk: &Arc<dyn Disk>,
    identity: &Identity,
    options: &DiskOptions,
) -> Result<Superblock, OpenError> {
    let segment_bytes = (options.capacity / 32).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES) / 4_096 * 4_096;
    let superblock = Superblock {
        store: identity.store,
        cluster: identity.cluster,
        node: identity.node.clone(),
        key_check: identity.key.check_value(),
        capacity: options.capacity,
        segment_bytes,
        block_size: options.block_size,
        seal_seq: SealSeq(0),
        seq: 1,
        clean: false,
    };
    disk.subdir(SEGMENTS_DIR).map_err(io_error("make segments folder"))?;
    disk.sync_dir().map_err(io_error("sync disk folder"))?;
    superblock::write(disk, &superblock).map_err(io_error("write superblock"))?;
    tracing::info!(store = %superblock.store, capacity = superblock.capacity, segment_bytes, "disk formatted");
    Ok(superblock)
}

/// Removes the superblock last, so that a crash in between leaves a disk that is still ours and can be erased again.
fn erase(disk: &Arc<dyn Disk>) -> io::Result<()> {
    let segments = disk.subdir(SEGMENTS_DIR)?;
    for name in segments.list()? {
        segments.remove(&name)?;
    }
    segments.sync_dir()?;
    for name in [BITMAP_FILE, SUPERBLOCK_FILE] {
        match disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    disk.sync_dir()
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { doing, source }
}
