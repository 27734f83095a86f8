//! Room on the file system of the index: sled must never meet a full disk, because it does not
//! recover from one, and names must be deletable when nothing else is left.
//!
//! ```text
//! free ──▶ 2 R ─────────── R/2 ────────────── file + R/8 ──▶ 0     R = reserve, 8 to 64 MiB
//!          │ index synced   │ names refused    │ the ballast gives what is missing;
//!          │ each group     │                  │ all is refused when it has gone
//! ```
//! A ballast stands beside the index: R/2 and the bytes of the next snapshot, which gives files of
//! the log back. Names are added only while the ballast is whole. Deletes, tombstones, releases and
//! snapshots take from it, as much as each needs, and room that comes back goes to it first.
//!
//! R/4 are allocated behind the end of the index's file, where sled writes next. Others who fill
//! the disk between two measurements cannot take that room.

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
/// Bytes in which a file system counts what is allocated for a file.
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

/// The room that is left for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Headroom {
    /// Nothing can be written.
    None,
    /// Batches that free space can be written, but none that adds names.
    FreeingOnly,
    /// Everything can be written; the index MUST be flushed after each group, so that the next
    /// measurement sees it.
    Tight,
    Ample,
}

/// Bytes that the ballast has for snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Needs {
    /// The next snapshot; 0 while one is taken, which has its own.
    pub(super) snapshot: u64,
    /// Bytes by which it is larger than the one that it replaces: the one behind it will need these
    /// beside those of the replaced one.
    pub(super) growth: u64,
    pub(super) is_taken: bool,
}

impl Needs {
    fn bytes(self) -> u64 {
        self.snapshot.saturating_add(self.growth)
    }
}

/// Part of the ballast that a measurement leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    /// Room of snapshots, and of what is written beside them.
    Snapshot,
    Nothing,
}

/// The guard of the file system that holds the index.
#[derive(Debug)]
pub(super) struct Room {
    dir: PathBuf,
    gauge: SharedGauge,
    ballast: Ballast,
    hold: IndexHold,
    /// Snapshot that was replaced. It has no name any more, and its room goes to the ballast.
    replaced: Option<File>,
    /// Standard size of a file of the log.
    file_bytes: u64,
    is_told: bool,
}

impl Room {
    /// Looks for the ballast of `dir`, and cuts it until `needed` bytes are free: opening the log
    /// and the index writes, too. Files of the log have `file_bytes`.
    pub(super) fn open(dir: &Path, gauge: SharedGauge, file_bytes: u64, needed: u64) -> Self {
        let mut room = Self {
            dir: dir.to_path_buf(),
            gauge,
            ballast: Ballast::find(dir),
            hold: IndexHold::default(),
            replaced: None,
            file_bytes,
            is_told: false,
        };
        room.make_way(needed);
        room
    }

    /// Cuts the ballast until `needed` bytes are free. Returns false if they are not; a file system
    /// that cannot be measured is left to its own errors.
    pub(super) fn make_way(&mut self, needed: u64) -> bool {
        let Ok(space) = self.measure() else {
            return true;
        };
        let missing = needed.saturating_sub(space.free);
        self.ballast.cut(missing) >= missing
    }

    /// Returns true if a snapshot of `bytes` fits beside what deletes need meanwhile.
    pub(super) fn fits_snapshot(&self, bytes: u64) -> bool {
        self.measure().map_or(true, |space| {
            let room = space.free.saturating_add(self.ballast.bytes);
            room >= bytes.saturating_add(self.beside_snapshot(space))
        })
    }

    /// Cuts the ballast until a snapshot of `bytes` fits beside what deletes need meanwhile.
    /// Returns false if it does not; nothing is cut then.
    pub(super) fn make_way_for_snapshot(&mut self, bytes: u64) -> bool {
        let Ok(space) = self.measure() else {
            return true;
        };
        let needed = bytes.saturating_add(self.beside_snapshot(space));
        self.fits_snapshot(bytes) && self.make_way(needed)
    }

    fn beside_snapshot(&self, space: Space) -> u64 {
        let reserve = reserve_of(space);
        match self.ballast.cannot_hold {
            true => reserve,
            false => self.work(reserve),
        }
    }

    /// Cuts a piece off the ballast. Returns false if none is left.
    pub(super) fn give_a_piece(&mut self) -> bool {
        self.ballast.cut(self.file_bytes) > 0
    }

    /// Takes the room of a snapshot that was replaced, for the next one.
    pub(super) fn take_over(&mut self, replaced: Option<File>) {
        self.replaced = replaced;
    }

    /// Measures the room for the next group; cuts or extends the ballast as needed. What it has for
    /// snapshots is left if `keeps` says so.
    pub(super) fn headroom(&mut self, needs: Needs, keeps: Keeps) -> Headroom {
        let Ok(space) = self.measure() else {
            // A file system that cannot be measured is left to its own errors.
            return Headroom::Ample;
        };
        let reserve = reserve_of(space);
        let work = self.work(reserve);
        let unit = reserve / 32;
        let target = (reserve / 2 + needs.bytes()).next_multiple_of(unit);
        let mut free = space.free;
        if !needs.is_taken
            && let Some(replaced) = self.replaced.take()
            && free < 2 * reserve
        {
            self.ballast.move_from(&self.dir, &replaced, target, unit);
        }

        let lacks = self.hold.lacks(&self.dir, reserve / 4);
        let kept = match keeps {
            Keeps::Snapshot => needs.bytes() + work,
            Keeps::Nothing => 0,
        };
        let missing = (work + lacks).saturating_sub(free);
        free += self
            .ballast
            .cut(missing.min(self.ballast.bytes.saturating_sub(kept)));
        free -= self.hold.extend(lacks.min(free.saturating_sub(work)));

        let spare = free.saturating_sub(reserve / 2);
        if self.ballast.bytes < target {
            let missing = target - self.ballast.bytes;
            let more = match spare {
                _ if spare >= missing => missing,
                _ => spare / unit * unit,
            };
            free -= self.ballast.extend(&self.dir, more);
        } else if !needs.is_taken && self.ballast.bytes > target + reserve / 8 {
            free += self.ballast.cut(self.ballast.bytes - target);
        }

        let adds_from = match self.ballast.cannot_hold {
            false if self.ballast.bytes < target => u64::MAX,
            false => reserve / 2,
            true => reserve + needs.bytes(),
        };
        tracing::trace!(
            free,
            work,
            target,
            ballast = self.ballast.bytes,
            ?needs,
            ?keeps,
            "room"
        );
        let headroom = match free {
            _ if free < work / 2 => Headroom::None,
            _ if free < adds_from => Headroom::FreeingOnly,
            _ if free < 2 * reserve => Headroom::Tight,
            _ => Headroom::Ample,
        };
        self.tell(headroom, free);
        headroom
    }

    /// Says when names begin to be refused, once until there is ample room.
    fn tell(&mut self, headroom: Headroom, free: u64) {
        let refuses_names = headroom <= Headroom::FreeingOnly;
        if refuses_names && !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(
                free,
                "metadata disk is nearly full: new names are refused, deletes go on"
            );
        }
        self.is_told &= headroom != Headroom::Ample;
    }

    /// Returns true if room behind the end of the index is missing.
    pub(super) fn lacks_hold(&mut self) -> bool {
        self.measure()
            .is_ok_and(|space| self.hold.lacks(&self.dir, reserve_of(space) / 4) > 0)
    }

    /// Returns the free bytes that a group needs which adds no names.
    fn work(&self, reserve: u64) -> u64 {
        self.file_bytes + reserve / 8
    }

    fn measure(&self) -> io::Result<Space> {
        (self.gauge.0)(&self.dir)
    }
}

/// A file without content of its own, whose room is cut off for others.
#[derive(Debug)]
struct Ballast {
    /// Kept open: it is cut when there may be no descriptors either.
    file: Option<File>,
    bytes: u64,
    /// True if making it has failed. It is not tried again.
    cannot_hold: bool,
}

impl Ballast {
    fn find(dir: &Path) -> Self {
        let mut ballast = Self {
            file: OpenOptions::new().write(true).open(dir.join(NAME)).ok(),
            bytes: 0,
            cannot_hold: false,
        };
        ballast.take_length();
        ballast
    }

    /// Takes what is allocated of the file. A copy of it may have holes, which hold no room.
    fn take_length(&mut self) {
        let Some((file, metadata)) = self
            .file
            .as_ref()
            .and_then(|file| Some((file, file.metadata().ok()?)))
        else {
            return;
        };
        self.bytes = metadata.len();
        if metadata.blocks() * SECTOR < metadata.len() && file.set_len(0).is_ok() {
            self.bytes = 0;
        }
    }

    /// Gives up to `bytes` of it to the file system. Returns how many.
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

    /// Allocates up to `bytes` more. Returns how many.
    fn extend(&mut self, dir: &Path, bytes: u64) -> u64 {
        if bytes == 0 || self.cannot_hold {
            return 0;
        }
        match self.allocate(dir, bytes) {
            Ok(()) => {
                self.bytes += bytes;
                bytes
            }
            Err(error) => {
                // What was allocated of it before the error MUST NOT stay.
                let _ = self.file.as_ref().map(|file| file.set_len(self.bytes));
                let may_pass = is_full(&error) || is_passing(&error);
                if !may_pass && self.bytes == 0 {
                    // Without preallocation a file holds no room, so it would only pretend.
                    tracing::warn!(%error, "no ballast can be made beside the index");
                    *self = Self {
                        file: None,
                        bytes: 0,
                        cannot_hold: true,
                    };
                    let _ = std::fs::remove_file(dir.join(NAME));
                }
                0
            }
        }
    }

    /// Takes room of `from`, which is not needed, until it has `target` bytes itself: a piece at a
    /// time, so that others find no more of it free.
    fn move_from(&mut self, dir: &Path, from: &File, target: u64, piece: u64) {
        let metadata = from.metadata().ok();
        // A file that has another name is somebody's copy.
        let nameless = metadata.filter(|metadata| metadata.nlink() == 0);
        let mut left = nameless.map_or(0, |metadata| metadata.len());
        while left > 0 && self.bytes < target && !self.cannot_hold {
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
            self.take_length();
        }
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(fallocate(file, FallocateFlags::empty(), self.bytes, bytes)?)
    }
}

/// Room that is allocated behind the end of the index's file.
#[derive(Debug, Default)]
struct IndexHold {
    /// The file of the index, opened with the first measurement.
    file: Option<File>,
    /// True if allocating has failed. It is not tried again.
    cannot_hold: bool,
}

impl IndexHold {
    /// Returns the bytes that are missing of `wanted`; 0 while half of it is there. sled gives all
    /// of it back whenever it cuts its file.
    fn lacks(&mut self, dir: &Path, wanted: u64) -> u64 {
        if self.file.is_none() {
            let file = OpenOptions::new().write(true).open(index::file_in(dir));
            self.file = file.ok();
        }
        match self.measure() {
            Some((_, held)) if held < wanted / 2 && !self.cannot_hold => wanted - held,
            _ => 0,
        }
    }

    /// Allocates `bytes` more. Returns how many.
    fn extend(&mut self, bytes: u64) -> u64 {
        let Some((file, (len, held))) = self.file.as_ref().zip(self.measure()) else {
            return 0;
        };
        if bytes == 0 {
            return 0;
        }
        match fallocate(file, FallocateFlags::KEEP_SIZE, len, held + bytes) {
            Ok(()) => bytes,
            Err(error) => {
                let error = io::Error::from(error);
                self.cannot_hold = !is_full(&error) && !is_passing(&error);
                0
            }
        }
    }

    /// Returns the size of the file and the bytes that are allocated behind its end.
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

    /// A file system of 256 MiB on which others have taken some, and a room in it.
    struct Fixture {
        dir: tempfile::TempDir,
        others: Arc<AtomicU64>,
        room: Room,
    }

    /// Needs of a snapshot of that many bytes; `None` while one is taken.
    fn needs(snapshot: Option<u64>) -> Needs {
        Needs {
            snapshot: snapshot.unwrap_or(0),
            growth: 0,
            is_taken: snapshot.is_none(),
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

        /// Measures when others leave `mib` MiB to the ballast and to the rest.
        fn at(&mut self, mib: u64, snapshot: Option<u64>) -> (Headroom, u64) {
            self.others.store((256 - mib) * MIB, Ordering::Relaxed);
            let headroom = self.room.headroom(needs(snapshot), Keeps::Nothing);
            (headroom, self.ballast())
        }
    }

    #[test]
    fn i7_names_stop_while_the_ballast_is_whole_and_it_gives_only_what_is_missing() {
        let mut fs = Fixture::new();
        // The reserve is 32 MiB, the ballast 16, and what deletes need 1 + 4.
        assert_eq!(fs.at(200, Some(0)), (Headroom::Ample, 16));
        assert_eq!(fs.at(79, Some(0)), (Headroom::Tight, 16));
        assert_eq!(fs.at(31, Some(0)), (Headroom::FreeingOnly, 16));
        assert_eq!(fs.at(18, Some(0)), (Headroom::FreeingOnly, 13));
        assert_eq!(fs.at(13, Some(0)), (Headroom::FreeingOnly, 8));
        assert_eq!(fs.at(8, Some(0)), (Headroom::FreeingOnly, 3));
        assert_eq!(fs.at(3, Some(0)), (Headroom::FreeingOnly, 0));
        assert_eq!(fs.at(2, Some(0)), (Headroom::None, 0));

        // Room that comes back goes to the ballast first.
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

        // A snapshot that is taken has its room, and one that is not due needs none.
        assert_eq!(fs.at(200, Some(0)), (Headroom::Ample, 16));
        assert_eq!(fs.at(200, Some(30 * MIB)), (Headroom::Ample, 46));
        assert_eq!(fs.at(200, None), (Headroom::Ample, 46));
        assert_eq!(fs.at(200, Some(0)), (Headroom::Ample, 16));
    }

    #[test]
    fn i7_deletes_leave_the_room_of_the_next_snapshot_until_it_is_taken() {
        let mut fs = Fixture::new();
        let snapshot = Some(10 * MIB);
        assert_eq!(fs.at(200, snapshot), (Headroom::Ample, 26));
        fs.others.store((256 - 26) * MIB, Ordering::Relaxed);
        let mut measure = |keeps| fs.room.headroom(needs(snapshot), keeps);
        assert_eq!(measure(Keeps::Snapshot), Headroom::FreeingOnly);
        assert_eq!(fs.ballast(), 21);
        fs.others.store((256 - 21) * MIB, Ordering::Relaxed);
        assert_eq!(
            fs.room.headroom(needs(snapshot), Keeps::Snapshot),
            Headroom::FreeingOnly
        );
        fs.others.store((256 - 16) * MIB, Ordering::Relaxed);
        assert_eq!(
            fs.room.headroom(needs(snapshot), Keeps::Snapshot),
            Headroom::None
        );
        assert_eq!(fs.ballast(), 15, "10 for the snapshot, 5 beside it");
        assert!(fs.room.make_way_for_snapshot(10 * MIB));
        assert_eq!(
            fs.room.headroom(needs(None), Keeps::Snapshot),
            Headroom::FreeingOnly
        );
    }

    #[test]
    fn i7_the_ballast_has_the_bytes_by_which_a_snapshot_grows_also_while_it_is_taken() {
        let mut fs = Fixture::new();
        fs.others.store(56 * MIB, Ordering::Relaxed);
        let mut needs = Needs {
            snapshot: 10 * MIB,
            growth: 4 * MIB,
            is_taken: false,
        };
        fs.room.headroom(needs, Keeps::Snapshot);
        assert_eq!(fs.ballast(), 16 + 10 + 4);
        assert!(fs.room.make_way_for_snapshot(10 * MIB));
        (needs.snapshot, needs.is_taken) = (0, true);
        fs.others.store((256 - 20) * MIB, Ordering::Relaxed);
        fs.room.ballast.cut(10 * MIB);
        assert_eq!(fs.ballast(), 20);
        for left in [15, 10, 9] {
            fs.room.headroom(needs, Keeps::Snapshot);
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
        fs.room.take_over(Some(open()));
        assert_eq!(fs.at(40, Some(0)), (Headroom::Tight, 16));
        assert_eq!(left(), 12, "a file with a name is not touched");
        fs.room.take_over(Some(open()));
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
        // Others left nothing but the ballast.
        file.set_len(MIB).unwrap();
        assert_eq!(fs.at(16, Some(0)), (Headroom::FreeingOnly, 3));
        assert_eq!(behind_end(), 8);
    }
}
