//! Disk space of the metadata: sled MUST NOT meet a full disk, because it refuses everything after a
//! failed write, and files MUST be deletable when no other space is left.
//!
//! ```text
//! free ──▶ 2 R ─────────── R/2 ────────────── file + R/8 ──▶ 0     R = reserve, 8 to 64 MiB
//!          │ index synced   │ names refused    │ the ballast is cut by the missing bytes;
//!          │ each group     │                  │ everything is refused once the ballast is empty
//! ```
//! The ballast is a file whose space is allocated: R/2, and the space of the next snapshot, which
//! lets files of the log be removed. New names are accepted only while the ballast has its full size.
//! Deletes, tombstones, releases and snapshots cut the ballast by the bytes that they lack. Space
//! that is freed refills the ballast first.
//!
//! R/4 are allocated behind the end of the index's file, where sled writes next, so that other
//! writers cannot take that space between two measurements.
//!
//! ## Why this way
//! Free space belongs to the fastest writer; only allocated space is reserved. See ADR 18.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::error::{is_full, is_passing};
use super::index;
use crate::limits::{MAX_DISK_RESERVE, MIN_DISK_RESERVE};

const NAME: &str = "ballast";
/// Unit of `st_blocks` in bytes (POSIX `stat`, as Linux counts).
const SECTOR: u64 = 512;

/// Free and total bytes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) free: u64,
    pub(super) total: u64,
}

/// Measures the file system of a folder.
pub(super) type Gauge = dyn Fn(&Path) -> io::Result<Space> + Send + Sync;

/// A gauge that the writer and the checkpoint share.
#[derive(Clone)]
pub(super) struct SharedGauge(pub(super) Arc<Gauge>);

impl std::fmt::Debug for SharedGauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedGauge")
    }
}

/// Returns the reserve of a file system, in bytes.
fn reserve_of(space: Space) -> u64 {
    (space.total / 8).clamp(MIN_DISK_RESERVE, MAX_DISK_RESERVE)
}

/// Returns true if `needed` bytes can be written to the file system of `dir` without coming close
/// to its reserve. A file system that cannot be measured is left to its own errors.
pub(super) fn leaves_reserve(gauge: &SharedGauge, dir: &Path, needed: u64) -> bool {
    (gauge.0)(dir).map_or(true, |space| {
        space.free >= needed.saturating_add(reserve_of(space))
    })
}

/// Measures the file system by statvfs.
pub(super) fn by_statvfs() -> SharedGauge {
    SharedGauge(Arc::new(|path| {
        let found = statvfs(path)?;
        let unit = found.f_frsize;
        Ok(Space {
            free: found.f_bavail.saturating_mul(unit),
            total: found.f_blocks.saturating_mul(unit),
        })
    }))
}

/// Space that is left for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Headroom {
    /// Nothing can be written.
    None,
    /// Batches that free space can be written, but none that adds names.
    FreeingOnly,
    /// Everything can be written; the index MUST be flushed after each group, otherwise the next
    /// measurement does not see its writes.
    Tight,
    Ample,
}

/// Space that the ballast holds for snapshots, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SnapshotReserve {
    /// Size of the next snapshot; 0 while a snapshot is written, whose own file holds the space.
    pub(super) next: u64,
    /// Bytes by which the next snapshot may exceed the last one. Its successor needs them beside the
    /// space of the replaced snapshot.
    pub(super) growth: u64,
    /// True while a snapshot is written.
    pub(super) is_running: bool,
}

impl SnapshotReserve {
    fn bytes(self) -> u64 {
        self.next.saturating_add(self.growth)
    }
}

/// Part of the ballast that a measurement may cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BallastUse {
    /// All but the space of the next snapshot and of the writes beside it.
    LeaveSnapshot,
    All,
}

/// Guard of the file system that holds the index.
#[derive(Debug)]
pub(super) struct Room {
    dir: PathBuf,
    gauge: SharedGauge,
    ballast: Ballast,
    index_space: IndexSpace,
    /// Replaced snapshot, a file without a name. Its space moves to the ballast.
    replaced: Option<File>,
    /// Standard size of a file of the log.
    file_bytes: u64,
    /// True if the refusal of names was logged since there was ample space.
    is_refusal_logged: bool,
}

impl Room {
    /// Opens the ballast of `dir`, and cuts the ballast until `needed` bytes are free for the writes of
    /// the open itself. `file_bytes` is the standard size of a file of the log.
    pub(super) fn open(dir: &Path, gauge: SharedGauge, file_bytes: u64, needed: u64) -> Self {
        let mut room = Self {
            dir: dir.to_path_buf(),
            gauge,
            ballast: Ballast::open(dir),
            index_space: IndexSpace::default(),
            replaced: None,
            file_bytes,
            is_refusal_logged: false,
        };
        room.make_way(needed);
        room
    }

    /// Cuts the ballast until `needed` bytes are free, or the ballast is empty. Returns true if
    /// `needed` bytes are free, or if the file system cannot be measured.
    fn make_way(&mut self, needed: u64) -> bool {
        let Ok(space) = self.measure() else {
            return true;
        };
        let missing = needed.saturating_sub(space.free);
        self.ballast.cut(missing) >= missing
    }

    /// Returns true if free space and ballast suffice for a snapshot of `bytes` bytes and for the
    /// deletes that are committed during the snapshot.
    pub(super) fn fits_snapshot(&self, bytes: u64) -> bool {
        self.measure().map_or(true, |space| {
            let available = space.free.saturating_add(self.ballast.bytes);
            available >= bytes.saturating_add(self.beside_snapshot(space))
        })
    }

    /// Cuts the ballast until a snapshot of `bytes` bytes can be allocated, with space left for the
    /// deletes that are committed during the snapshot.
    ///
    /// Returns false if free space and ballast do not suffice. The ballast is not cut then.
    pub(super) fn make_way_for_snapshot(&mut self, bytes: u64) -> bool {
        let Ok(space) = self.measure() else {
            return true;
        };
        let needed = bytes.saturating_add(self.beside_snapshot(space));
        self.fits_snapshot(bytes) && self.make_way(needed)
    }

    /// Returns the bytes that MUST stay free beside a snapshot.
    fn beside_snapshot(&self, space: Space) -> u64 {
        let reserve = reserve_of(space);
        match self.ballast.is_unsupported {
            true => reserve,
            false => self.freeing_bytes(reserve),
        }
    }

    /// Cuts the ballast by the size of a file of the log. Returns false if the ballast is empty.
    pub(super) fn release_piece(&mut self) -> bool {
        self.ballast.cut(self.file_bytes) > 0
    }

    /// Takes the file of a replaced snapshot. The next measurement moves the space of this file to the
    /// ballast.
    pub(super) fn adopt_replaced(&mut self, replaced: Option<File>) {
        self.replaced = replaced;
    }

    /// Measures the space for the next group. Cuts the ballast if a group that adds no names would
    /// lack space, otherwise refills the ballast and the space of the index.
    pub(super) fn headroom(&mut self, snapshots: SnapshotReserve, cuts: BallastUse) -> Headroom {
        let Ok(space) = self.measure() else {
            // A file system that cannot be measured is left to its own errors.
            return Headroom::Ample;
        };
        let reserve = reserve_of(space);
        let for_freeing = self.freeing_bytes(reserve);
        let unit = reserve / 32;
        let target = (reserve / 2 + snapshots.bytes()).next_multiple_of(unit);
        let mut free = space.free;
        if !snapshots.is_running
            && let Some(replaced) = self.replaced.take()
            && free < 2 * reserve
        {
            self.ballast.move_from(&self.dir, &replaced, target, unit);
        }

        // Deletes and the index come first.
        let missing_index = self.index_space.missing(&self.dir, reserve / 4);
        let left = match cuts {
            BallastUse::LeaveSnapshot => snapshots.bytes() + for_freeing,
            BallastUse::All => 0,
        };
        let missing = (for_freeing + missing_index).saturating_sub(free);
        let available = self.ballast.bytes.saturating_sub(left);
        free += self.ballast.cut(missing.min(available));
        let spare = free.saturating_sub(for_freeing);
        free -= self.index_space.allocate(missing_index.min(spare));

        // The rest refills the ballast, or an oversized ballast is cut.
        let spare = free.saturating_sub(reserve / 2);
        if self.ballast.bytes < target {
            let missing = target - self.ballast.bytes;
            let more = match spare {
                _ if spare >= missing => missing,
                _ => spare / unit * unit,
            };
            free -= self.ballast.extend(&self.dir, more);
        } else if !snapshots.is_running && self.ballast.bytes > target + reserve / 8 {
            free += self.ballast.cut(self.ballast.bytes - target);
        }

        let names_need = match self.ballast.is_unsupported {
            false if self.ballast.bytes < target => u64::MAX,
            false => reserve / 2,
            true => reserve + snapshots.bytes(),
        };
        let headroom = match free {
            _ if free < for_freeing / 2 => Headroom::None,
            _ if free < names_need => Headroom::FreeingOnly,
            _ if free < 2 * reserve => Headroom::Tight,
            _ => Headroom::Ample,
        };
        self.log_refusal(headroom, free);
        headroom
    }

    /// Logs that names are refused: once, until there is ample space again.
    fn log_refusal(&mut self, headroom: Headroom, free: u64) {
        let refuses_names = headroom <= Headroom::FreeingOnly;
        if refuses_names && !std::mem::replace(&mut self.is_refusal_logged, true) {
            tracing::warn!(
                free,
                "metadata disk is nearly full: new names are refused, deletes go on"
            );
        }
        self.is_refusal_logged &= headroom != Headroom::Ample;
    }

    /// Returns true if less than half of the space behind the end of the index is allocated.
    pub(super) fn lacks_index_space(&mut self) -> bool {
        let Ok(space) = self.measure() else {
            return false;
        };
        self.index_space.missing(&self.dir, reserve_of(space) / 4) > 0
    }

    /// Returns the free bytes that a group without new names needs: a file of the log, and the pages
    /// that sled writes for the group.
    fn freeing_bytes(&self, reserve: u64) -> u64 {
        self.file_bytes + reserve / 8
    }

    fn measure(&self) -> io::Result<Space> {
        (self.gauge.0)(&self.dir)
    }
}

/// File without content whose allocated space is reserved for the master.
#[derive(Debug)]
struct Ballast {
    /// Open for the life of the master: cutting MUST NOT need a descriptor.
    file: Option<File>,
    bytes: u64,
    /// True if the file system cannot allocate space in advance. Not tried again.
    is_unsupported: bool,
}

impl Ballast {
    /// Opens the ballast of `dir`. Returns an empty ballast if the file is missing.
    fn open(dir: &Path) -> Self {
        let mut ballast = Self {
            file: OpenOptions::new().write(true).open(dir.join(NAME)).ok(),
            bytes: 0,
            is_unsupported: false,
        };
        ballast.read_length();
        ballast
    }

    /// Reads the length of the file. Truncates a file with holes, such as a copy of a ballast: holes
    /// reserve no space.
    fn read_length(&mut self) {
        let Some(file) = &self.file else { return };
        let Ok(metadata) = file.metadata() else {
            return;
        };
        let has_holes = metadata.blocks() * SECTOR < metadata.len();
        self.bytes = match has_holes && file.set_len(0).is_ok() {
            true => 0,
            false => metadata.len(),
        };
    }

    /// Frees up to `bytes` bytes of the ballast. Returns the bytes that were freed.
    fn cut(&mut self, bytes: u64) -> u64 {
        let bytes = bytes.min(self.bytes);
        let Some(file) = self.file.as_ref().filter(|_| bytes > 0) else {
            return 0;
        };
        match file.set_len(self.bytes - bytes) {
            Ok(()) => {
                self.bytes -= bytes;
                bytes
            }
            Err(error) => {
                tracing::error!(%error, "ballast beside the index cannot be cut");
                0
            }
        }
    }

    /// Allocates `bytes` more bytes. Returns `bytes`, or 0 if that fails.
    fn extend(&mut self, dir: &Path, bytes: u64) -> u64 {
        if bytes == 0 || self.is_unsupported {
            return 0;
        }
        match self.allocate(dir, bytes) {
            Ok(()) => {
                self.bytes += bytes;
                bytes
            }
            Err(error) => {
                // A failed allocation may have extended the file: truncate it, otherwise space stays
                // taken that `bytes` does not count.
                let _ = self.file.as_ref().map(|file| file.set_len(self.bytes));
                let may_pass = is_full(&error) || is_passing(&error);
                if !may_pass && self.bytes == 0 {
                    tracing::warn!(%error, "no ballast can be made beside the index");
                    *self = Self {
                        file: None,
                        bytes: 0,
                        is_unsupported: true,
                    };
                    let _ = std::fs::remove_file(dir.join(NAME));
                }
                0
            }
        }
    }

    /// Moves space from the file `from`, which has no name, to the ballast, until the ballast has
    /// `target` bytes or `from` is empty. At most `piece` bytes are free at a time, so that another
    /// writer can take no more.
    fn move_from(&mut self, dir: &Path, from: &File, target: u64, piece: u64) {
        // A file with a name is a copy that somebody made by a link.
        let Some(metadata) = from.metadata().ok().filter(|found| found.nlink() == 0) else {
            return;
        };
        let mut left = metadata.len();
        while left > 0 && self.bytes < target && !self.is_unsupported {
            let part = piece.min(left).min(target - self.bytes);
            left -= part;
            if from.set_len(left).is_err() {
                return;
            }
            self.extend(dir, part);
        }
    }

    fn allocate(&mut self, dir: &Path, bytes: u64) -> io::Result<()> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(false);
            self.file = Some(options.open(dir.join(NAME))?);
            self.read_length();
        }
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(fallocate(file, FallocateFlags::empty(), self.bytes, bytes)?)
    }
}

/// Space that is allocated behind the end of the index's file.
#[derive(Debug, Default)]
struct IndexSpace {
    /// The file of the index, opened at the first measurement.
    file: Option<File>,
    /// True if the file system cannot allocate space in advance. Not tried again.
    is_unsupported: bool,
}

impl IndexSpace {
    /// Returns the bytes that are missing to `wanted`; 0 while at least half of `wanted` is allocated.
    /// All of the space is freed whenever sled truncates the file.
    fn missing(&mut self, dir: &Path, wanted: u64) -> u64 {
        if self.file.is_none() {
            let file = OpenOptions::new().write(true).open(index::file_in(dir));
            self.file = file.ok();
        }
        match self.measure() {
            Some((_, allocated)) if allocated < wanted / 2 && !self.is_unsupported => {
                wanted - allocated
            }
            _ => 0,
        }
    }

    /// Allocates `bytes` more bytes. Returns `bytes`, or 0 if that fails.
    fn allocate(&mut self, bytes: u64) -> u64 {
        let Some((file, (len, allocated))) = self.file.as_ref().zip(self.measure()) else {
            return 0;
        };
        if bytes == 0 {
            return 0;
        }
        match fallocate(file, FallocateFlags::KEEP_SIZE, len, allocated + bytes) {
            Ok(()) => bytes,
            Err(error) => {
                let error = io::Error::from(error);
                self.is_unsupported = !is_full(&error) && !is_passing(&error);
                0
            }
        }
    }

    /// Returns the length of the file and the bytes that are allocated behind its end.
    fn measure(&self) -> Option<(u64, u64)> {
        let metadata = self.file.as_ref()?.metadata().ok()?;
        let allocated = metadata.blocks() * SECTOR;
        Some((metadata.len(), allocated.saturating_sub(metadata.len())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A file system of 256 MiB, the bytes that other writers have taken, and the guard under test.
    struct Fixture {
        dir: tempfile::TempDir,
        others: Arc<AtomicU64>,
        room: Room,
    }

    /// SnapshotReserve of a snapshot of that many bytes; `None` while one is taken.
    fn reserved(snapshot: Option<u64>) -> SnapshotReserve {
        SnapshotReserve {
            next: snapshot.unwrap_or(0),
            growth: 0,
            is_running: snapshot.is_none(),
        }
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let others = Arc::new(AtomicU64::new(0));
            let taken = others.clone();
            let gauge = SharedGauge(Arc::new(move |dir: &Path| {
                let ballast = std::fs::metadata(dir.join(NAME)).map_or(0, |file| file.len());
                let total = 256 * MIB;
                Ok(Space {
                    free: total - taken.load(Ordering::Relaxed) - ballast,
                    total,
                })
            }));
            let room = Room::open(dir.path(), gauge, MIB, 0);
            Self { dir, others, room }
        }

        fn ballast(&self) -> u64 {
            std::fs::metadata(self.dir.path().join(NAME)).unwrap().len() / MIB
        }

        /// Measures while other writers leave `mib` MiB for the ballast and free space together.
        fn at(&mut self, mib: u64, snapshot: Option<u64>) -> (Headroom, u64) {
            self.others.store((256 - mib) * MIB, Ordering::Relaxed);
            let headroom = self.room.headroom(reserved(snapshot), BallastUse::All);
            (headroom, self.ballast())
        }
    }

    #[test]
    fn i7_names_stop_while_the_ballast_is_whole_and_it_gives_only_what_is_missing() {
        let mut fs = Fixture::new();
        // The reserve is 32 MiB, the ballast 16 MiB; deletes need 1 + 4 MiB.
        assert_eq!(fs.at(200, Some(0)), (Headroom::Ample, 16));
        assert_eq!(fs.at(79, Some(0)), (Headroom::Tight, 16));
        assert_eq!(fs.at(31, Some(0)), (Headroom::FreeingOnly, 16));
        assert_eq!(fs.at(18, Some(0)), (Headroom::FreeingOnly, 13));
        assert_eq!(fs.at(13, Some(0)), (Headroom::FreeingOnly, 8));
        assert_eq!(fs.at(8, Some(0)), (Headroom::FreeingOnly, 3));
        assert_eq!(fs.at(3, Some(0)), (Headroom::FreeingOnly, 0));
        assert_eq!(fs.at(2, Some(0)), (Headroom::None, 0));

        // Freed space refills the ballast first.
        assert_eq!(fs.at(20, Some(0)), (Headroom::FreeingOnly, 4));
        assert_eq!(fs.at(31, Some(0)), (Headroom::FreeingOnly, 15));
        assert_eq!(fs.at(32, Some(0)), (Headroom::Tight, 16));
    }

    #[test]
    fn i7_names_are_added_only_while_the_next_snapshot_has_its_room() {
        let mut fs = Fixture::new();
        assert_eq!(fs.at(200, Some(10 * MIB)), (Headroom::Ample, 26));
        assert_eq!(fs.at(42, Some(10 * MIB)), (Headroom::Tight, 26));
        assert_eq!(fs.at(42, Some(11 * MIB)), (Headroom::FreeingOnly, 26));
        assert!(fs.room.make_way_for_snapshot(11 * MIB));
        assert_eq!(fs.ballast(), 26, "16 are free");
        fs.others.store((256 - 30) * MIB, Ordering::Relaxed);
        assert!(fs.room.make_way_for_snapshot(11 * MIB));
        assert_eq!(fs.ballast(), 14, "11 for the snapshot, 5 for deletes");
        assert!(!fs.room.make_way_for_snapshot(26 * MIB));

        // The ballast is not cut while a snapshot is written.
        assert_eq!(fs.at(200, Some(0)), (Headroom::Ample, 16));
        assert_eq!(fs.at(200, Some(30 * MIB)), (Headroom::Ample, 46));
        assert_eq!(fs.at(200, None), (Headroom::Ample, 46));
        assert_eq!(fs.at(200, Some(0)), (Headroom::Ample, 16));
    }

    #[test]
    fn i7_deletes_leave_the_room_of_the_next_snapshot_until_it_is_running() {
        let mut fs = Fixture::new();
        let snapshot = Some(10 * MIB);
        assert_eq!(fs.at(200, snapshot), (Headroom::Ample, 26));
        fs.others.store((256 - 26) * MIB, Ordering::Relaxed);
        let mut measure = |uses| fs.room.headroom(reserved(snapshot), uses);
        assert_eq!(measure(BallastUse::LeaveSnapshot), Headroom::FreeingOnly);
        assert_eq!(fs.ballast(), 21);
        fs.others.store((256 - 21) * MIB, Ordering::Relaxed);
        assert_eq!(
            fs.room
                .headroom(reserved(snapshot), BallastUse::LeaveSnapshot),
            Headroom::FreeingOnly
        );
        fs.others.store((256 - 16) * MIB, Ordering::Relaxed);
        assert_eq!(
            fs.room
                .headroom(reserved(snapshot), BallastUse::LeaveSnapshot),
            Headroom::None
        );
        assert_eq!(fs.ballast(), 15, "10 for the snapshot, 5 beside it");
        assert!(fs.room.make_way_for_snapshot(10 * MIB));
        assert_eq!(
            fs.room.headroom(reserved(None), BallastUse::LeaveSnapshot),
            Headroom::FreeingOnly
        );
    }

    #[test]
    fn i7_the_ballast_has_the_bytes_by_which_a_snapshot_grows_also_while_it_is_running() {
        let mut fs = Fixture::new();
        fs.others.store(56 * MIB, Ordering::Relaxed);
        let mut reserved = SnapshotReserve {
            next: 10 * MIB,
            growth: 4 * MIB,
            is_running: false,
        };
        fs.room.headroom(reserved, BallastUse::LeaveSnapshot);
        assert_eq!(fs.ballast(), 16 + 10 + 4);
        assert!(fs.room.make_way_for_snapshot(10 * MIB));
        (reserved.next, reserved.is_running) = (0, true);
        fs.others.store((256 - 20) * MIB, Ordering::Relaxed);
        fs.room.ballast.cut(10 * MIB);
        assert_eq!(fs.ballast(), 20);
        for left in [15, 10, 9] {
            fs.room.headroom(reserved, BallastUse::LeaveSnapshot);
            assert_eq!(fs.ballast(), left, "4 for the next one, 5 beside it");
            fs.others.store((256 - left) * MIB, Ordering::Relaxed);
        }
    }

    #[test]
    fn i7_a_copy_of_a_ballast_that_holds_no_room_is_allocated_anew() {
        let mut fs = Fixture::new();
        let copy = File::create(fs.dir.path().join(NAME)).unwrap();
        copy.set_len(16 * MIB).unwrap();
        let gauge = fs.room.gauge.clone();
        fs.room = Room::open(fs.dir.path(), gauge, MIB, 0);
        assert_eq!(fs.ballast(), 0);
        assert_eq!(fs.at(200, Some(0)), (Headroom::Ample, 16));
        assert!(copy.metadata().unwrap().blocks() * SECTOR >= 16 * MIB);
    }

    #[test]
    fn i7_a_snapshot_that_was_replaced_leaves_its_room_to_the_next_one() {
        let mut fs = Fixture::new();
        assert_eq!(fs.at(40, Some(0)), (Headroom::Tight, 16));
        let path = fs.dir.path().join("replaced");
        std::fs::write(&path, vec![1; 12 * MIB as usize]).unwrap();
        let open = || OpenOptions::new().write(true).open(&path).unwrap();
        let replaced = open();
        let left = || replaced.metadata().unwrap().len() / MIB;
        fs.room.adopt_replaced(Some(open()));
        assert_eq!(fs.at(40, Some(10 * MIB)), (Headroom::FreeingOnly, 24));
        assert_eq!(left(), 12, "a file with a name is not touched");
        assert_eq!(fs.at(40, Some(0)), (Headroom::Tight, 16));
        fs.room.adopt_replaced(Some(open()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(fs.at(17, None), (Headroom::FreeingOnly, 12));
        assert_eq!(left(), 12, "a snapshot is taken");
        let after = fs.at(17 + 10, Some(10 * MIB));
        assert_eq!(after, (Headroom::FreeingOnly, 12 + 12));
        assert_eq!(left(), 0);
    }

    #[test]
    fn i7_a_later_open_finds_the_ballast_and_cuts_it_for_its_own_writes() {
        let mut fs = Fixture::new();
        assert_eq!(fs.at(40, Some(0)), (Headroom::Tight, 16));
        fs.others.store((256 - 17) * MIB, Ordering::Relaxed);
        let gauge = fs.room.gauge.clone();
        fs.room = Room::open(fs.dir.path(), gauge, MIB, 3 * MIB);
        assert_eq!(fs.ballast(), 14);
        assert_eq!(fs.room.ballast.bytes, 14 * MIB);
    }

    #[test]
    fn i7_room_behind_the_end_of_the_index_is_allocated_again_when_sled_has_cut_its_file() {
        let mut fs = Fixture::new();
        let path = index::file_in(fs.dir.path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, vec![1; 2 * MIB as usize]).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let behind_end = || {
            let metadata = file.metadata().unwrap();
            (metadata.blocks() * 512).saturating_sub(metadata.len()) / MIB
        };
        if fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 4 * MIB).is_err() {
            println!("SKIP: this file system cannot allocate behind the end of a file");
            return;
        }
        for len in [2, 1] {
            file.set_len(len * MIB).unwrap();
            assert_eq!(behind_end(), 0);
            fs.at(200, Some(0));
            assert_eq!(behind_end(), 8, "a quarter of the reserve");
            assert_eq!(file.metadata().unwrap().len(), len * MIB);
        }
        // The other writers left no free space beside the ballast.
        file.set_len(MIB).unwrap();
        assert_eq!(fs.at(16, Some(0)), (Headroom::FreeingOnly, 3));
        assert_eq!(behind_end(), 8);
    }
}
