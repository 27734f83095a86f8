//! Room on the file system of the index: sled must never meet a full disk, because it does not
//! recover from one, and deletes of all names must always go on.
//!
//! ```text
//! file                room that is allocated in it               taken by
//! index/db            R/2 behind its end                         sled
//! ballast             the next snapshot, whatever it holds       the snapshot, which begins as this file
//! log/*.ready         two files                                  frames of deletes (`cstore-log`)
//!                                                 R = reserve, an eighth, 8 to 64 MiB
//! ```
//! A new name is taken only while all three are whole. Deletes use them up: frames of deletes fill
//! the files that are ready, and then a snapshot gives the log back. It always fits, because the
//! sizes of all pairs are counted and deletes only make it smaller. sled writes pages anew for
//! deletes, in segments that it frees itself, and behind its end.
//!
//! ## Why this way
//! Room that is allocated in the file that will use it cannot be taken by others. A file that is
//! removed to make room gives it to whoever writes first.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::index;
use crate::limits::{BALLAST_SLACK, MAX_DISK_RESERVE, MIN_DISK_RESERVE};

const NAME: &str = "ballast";
/// Parts in which the room of the index is allocated.
const PIECES: u64 = 32;

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

/// Returns true if `needed` bytes can be written to the file system of `dir` without taking the last
/// of it. A file system that cannot be measured is left to its own errors.
pub(super) fn has_room(gauge: &SharedGauge, dir: &Path, needed: u64) -> bool {
    (gauge.0)(dir).map_or(true, |space| {
        space.free >= needed.saturating_add(last_of(reserve_of(space)))
    })
}

/// Returns the last bytes of a file system with this reserve, which nothing is begun with.
fn last_of(reserve: u64) -> u64 {
    reserve / 16
}

/// Returns the path of the ballast of a folder.
pub(super) fn ballast_in(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Returns the size of the ballast of a folder; 0 if there is none.
pub(super) fn ballast_bytes(dir: &Path) -> u64 {
    std::fs::metadata(ballast_in(dir)).map_or(0, |metadata| metadata.len())
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

/// The guard of the file system that holds the index.
pub(super) struct Room {
    dir: PathBuf,
    gauge: SharedGauge,
    /// False once the file system has refused to allocate room in advance.
    can_hold: bool,
    /// True if others may fill the file system within moments.
    is_close: bool,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room")
            .field("dir", &self.dir)
            .field("can_hold", &self.can_hold)
            .finish()
    }
}

impl Room {
    /// Opens the room of `dir`. Removes the ballast if less than `needed` bytes are free: opening
    /// the log and the index writes, too.
    pub(super) fn open(dir: &Path, gauge: SharedGauge, needed: u64) -> Self {
        let room = Self {
            dir: dir.to_path_buf(),
            gauge,
            can_hold: true,
            is_close: true,
        };
        if (room.gauge.0)(dir).is_ok_and(|space| space.free < needed) {
            room.cut_ballast(u64::MAX);
        }
        room
    }

    /// Returns true if the room has to be measured often.
    pub(super) fn is_close(&self) -> bool {
        self.is_close
    }

    /// Measures the room for the next group, and allocates what is missing of it in advance.
    ///
    /// `snapshot` is the size that the next snapshot will have at most; `None` while one is being
    /// written, which has taken the ballast.
    pub(super) fn headroom(&mut self, snapshot: Option<u64>) -> Headroom {
        let Ok(space) = (self.gauge.0)(&self.dir) else {
            // A file system that cannot be measured is left to its own errors.
            return Headroom::Ample;
        };
        let reserve = reserve_of(space);
        let last = last_of(reserve);
        let mut free = space.free;
        self.is_close = free < 4 * reserve;

        let for_index = reserve / 2;
        let kept = snapshot.map_or(0, |bytes| bytes + BALLAST_SLACK);
        self.give_ballast_to_index(for_index, free, kept);
        // Half of the index's room comes first, because sled does not recover. The snapshot comes
        // before the rest: it is what gives the log back.
        self.hold_for_index(for_index / 2, &mut free, 0);
        let is_ballast_whole = match snapshot {
            Some(bytes) => self.hold_for_snapshot(bytes, &mut free, last),
            None => true,
        };
        let held = self.hold_for_index(for_index, &mut free, last);

        // sled cleans its file up by writing pages anew, also when nothing is changed any more: names
        // stop long before the room for that is used up.
        //
        // Without room that is allocated in advance, all of the reserve is left free instead.
        let (lacks_all, takes_names) = match self.can_hold {
            true => (
                held + free < for_index / 8,
                held >= for_index / 8 * 7 && is_ballast_whole && free >= last,
            ),
            false => (free < last, free >= reserve),
        };
        match free {
            _ if lacks_all => Headroom::None,
            _ if !takes_names => Headroom::FreeingOnly,
            _ if free < 2 * reserve => Headroom::Tight,
            _ => Headroom::Ample,
        }
    }

    /// Gives up `bytes` of the ballast, or all of it if there are no more. Returns false if there is
    /// none.
    pub(super) fn cut_ballast(&self, bytes: u64) -> bool {
        match self.shrink_ballast(bytes) {
            Ok(0) => false,
            Ok(bytes) => {
                tracing::warn!(
                    bytes,
                    "metadata disk is nearly full: the ballast beside the index is freed"
                );
                true
            }
            Err(error) => {
                tracing::error!(%error, "ballast beside the index cannot be freed");
                false
            }
        }
    }

    /// Returns the bytes by which the ballast is smaller then.
    fn shrink_ballast(&self, bytes: u64) -> io::Result<u64> {
        let path = ballast_in(&self.dir);
        let before = ballast_bytes(&self.dir);
        let after = before.saturating_sub(bytes);
        match (before, after) {
            (0, _) => {}
            (_, 0) => std::fs::remove_file(&path)?,
            _ => OpenOptions::new().write(true).open(&path)?.set_len(after)?,
        }
        Ok(before - after)
    }

    /// Cuts the ballast if the index has little room left and nothing else is free: beyond `kept`
    /// bytes, or all of it in need, because sled does not recover from a full disk.
    ///
    /// sled cuts its file when pages at its end are free, and with it what lies behind the end. Others
    /// may have taken that. They may write at this moment, too, so the room goes over in pieces, each
    /// allocated at once.
    fn give_ballast_to_index(&mut self, wanted: u64, free: u64, kept: u64) {
        let found = self.held_by_index() + free;
        if !self.can_hold || found >= wanted / 2 {
            return;
        }
        let kept = if found < wanted / 8 { 0 } else { kept };
        let surplus = ballast_bytes(&self.dir).saturating_sub(kept);
        let mut rest = surplus.min(wanted - found);
        if rest == 0 {
            return;
        }

        let given = rest;
        while rest > 0
            && let Ok(bytes @ 1..) = self.shrink_ballast(rest.min(wanted / PIECES))
        {
            self.extend_index(bytes);
            rest = rest.saturating_sub(bytes);
        }
        tracing::warn!(
            bytes = given - rest,
            "metadata disk is nearly full: the ballast beside the index is freed"
        );
    }

    /// Returns the bytes that are allocated behind the end of the index.
    fn held_by_index(&self) -> u64 {
        std::fs::metadata(index::file_in(&self.dir)).map_or(0, |metadata| {
            (metadata.blocks() * 512).saturating_sub(metadata.len())
        })
    }

    /// Allocates room behind the end of the index until it is `wanted` bytes, or as much as is free
    /// beyond `left`. Returns the bytes that are there.
    fn hold_for_index(&mut self, wanted: u64, free: &mut u64, left: u64) -> u64 {
        let held = self.held_by_index();
        let spare = free.saturating_sub(left);
        let missing = wanted.saturating_sub(held).min(spare);
        if !self.can_hold || missing <= wanted / 16 {
            return held;
        }

        // In pieces: a file system may take all of a larger one back if others write at this moment
        // and the last of it is missing.
        let mut added = 0;
        while added < missing {
            let piece = (missing - added).min(wanted / PIECES);
            if !self.extend_index(piece) {
                break;
            }
            added += piece;
        }
        *free -= added;
        held + added
    }

    /// Allocates `bytes` more behind the end of the index. Returns false if they are not free.
    fn extend_index(&mut self, bytes: u64) -> bool {
        /// Blocks of the file system's own that count like those of the file.
        const OVERLAP: u64 = 64 << 10;

        let extend = || {
            let path = index::file_in(&self.dir);
            let file = OpenOptions::new().write(true).open(path)?;
            let metadata = file.metadata()?;
            let held = (metadata.blocks() * 512).saturating_sub(metadata.len());
            let known = held.saturating_sub(OVERLAP);
            let from = metadata.len() + known;
            fallocate(&file, FallocateFlags::KEEP_SIZE, from, held - known + bytes)?;
            Ok(())
        };
        let extended = extend();
        self.is_held(extended)
    }

    /// Makes the ballast as large as the next snapshot, if there is room. Returns true if it is.
    fn hold_for_snapshot(&mut self, snapshot: u64, free: &mut u64, last: u64) -> bool {
        let enough = snapshot + BALLAST_SLACK;
        // In steps, so that not each group makes it larger.
        let wanted = (enough + enough / 8).next_multiple_of(4 * BALLAST_SLACK);
        let before = ballast_bytes(&self.dir);
        let missing = wanted.saturating_sub(before);
        if !self.can_hold || (enough..=3 * wanted).contains(&before) {
            return before >= enough;
        }
        if *free < missing + last {
            return before >= enough;
        }

        let hold = || {
            let path = ballast_in(&self.dir);
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            file.set_len(before.min(wanted))?;
            fallocate(&file, FallocateFlags::empty(), 0, wanted)?;
            Ok(())
        };
        if !self.is_held(hold()) {
            return ballast_bytes(&self.dir) >= enough;
        }
        *free -= missing;
        true
    }

    /// Returns true if room was allocated. A file system that cannot do so is not asked again.
    fn is_held(&mut self, allocated: io::Result<()>) -> bool {
        if let Err(error) = &allocated
            && matches!(
                Errno::from_io_error(error),
                Some(Errno::OPNOTSUPP | Errno::NOSYS)
            )
        {
            // Without preallocation a file holds no room, so it would only pretend.
            tracing::warn!(%error, "no ballast can be made beside the index");
            self.can_hold = false;
            let _ = std::fs::remove_file(ballast_in(&self.dir));
        }
        allocated.is_ok()
    }
}

/// Opens the file that the next snapshot is written to, which has the room of the ballast if there
/// is one. Returns the file and the bytes that are allocated in it.
///
/// # Errors
/// Of the disk.
pub(super) fn take_ballast(dir: &Path, path: &Path) -> io::Result<(File, u64)> {
    match std::fs::rename(ballast_in(dir), path) {
        Ok(()) => {
            let file = OpenOptions::new().write(true).open(path)?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((File::create(path)?, 0)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const MIB: u64 = 1 << 20;
    /// The reserve is an eighth of it: 32 MiB, of which 16 lie behind the end of the index.
    const TOTAL: u64 = 256 * MIB;

    /// A folder with a file of an index, on a file system whose room a test decides.
    struct Folder {
        dir: tempfile::TempDir,
        free: Arc<AtomicU64>,
        room: Room,
    }

    impl Folder {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = index::file_in(dir.path());
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, vec![1; 1 << 20]).unwrap();
            let free = Arc::new(AtomicU64::new(0));
            let gauge = {
                let free = free.clone();
                SharedGauge(Arc::new(move |_| {
                    Ok(Space {
                        free: free.load(Ordering::Relaxed),
                        total: TOTAL,
                    })
                }))
            };
            let room = Room::open(dir.path(), gauge, 0);
            Self { dir, free, room }
        }

        fn at(&mut self, free: u64, snapshot: Option<u64>) -> Headroom {
            self.free.store(free, Ordering::Relaxed);
            self.room.headroom(snapshot)
        }

        /// Returns the bytes behind the end of the index.
        fn held(&self) -> u64 {
            let metadata = std::fs::metadata(index::file_in(self.dir.path())).unwrap();
            assert_eq!(metadata.len(), MIB, "the length of the file is sled's");
            (metadata.blocks() * 512).saturating_sub(metadata.len())
        }

        /// Uses `bytes` up that lie behind the end of the index, as sled does.
        fn cut_held(&self, bytes: u64) {
            let held = self.held();
            let file = OpenOptions::new()
                .write(true)
                .open(index::file_in(self.dir.path()))
                .unwrap();
            file.set_len(MIB).unwrap();
            fallocate(&file, FallocateFlags::KEEP_SIZE, MIB, held - bytes).unwrap();
        }
    }

    #[test]
    fn i12_names_are_taken_only_with_the_room_of_index_and_snapshot_allocated() {
        let mut folder = Folder::new();
        assert_eq!(folder.at(MIB, Some(0)), Headroom::None);
        assert_eq!(folder.at(10 * MIB, Some(0)), Headroom::FreeingOnly);
        let ballast = ballast_bytes(folder.dir.path());
        assert!(
            ballast > 0,
            "a snapshot that gives the log back comes before the rest"
        );
        assert!(
            folder.held() + ballast <= 9 * MIB,
            "the last 2 MiB are left"
        );

        assert_eq!(folder.at(34 * MIB, Some(9 * MIB)), Headroom::Tight);
        assert!(folder.held() >= 16 * MIB);
        assert!(ballast_bytes(folder.dir.path()) > 9 * MIB);

        // Others take the rest: what is allocated stays.
        assert_eq!(folder.at(2 * MIB, Some(9 * MIB)), Headroom::Tight);
        assert_eq!(folder.at(0, Some(9 * MIB)), Headroom::FreeingOnly);
        assert_eq!(
            folder.at(2 * MIB, Some(20 * MIB)),
            Headroom::FreeingOnly,
            "a snapshot of 20 MiB would not fit"
        );
        assert_eq!(
            folder.at(2 * MIB, None),
            Headroom::Tight,
            "one is being written"
        );
        assert_eq!(folder.at(200 * MIB, Some(20 * MIB)), Headroom::Ample);
        assert!(ballast_bytes(folder.dir.path()) > 20 * MIB);
        assert_eq!(folder.at(200 * MIB, Some(0)), Headroom::Ample);
        assert!(ballast_bytes(folder.dir.path()) <= MIB, "it shrinks again");
    }

    #[test]
    fn i12_deletes_use_up_what_is_behind_the_end_of_the_index_and_stop_before_sled_meets_a_full_disk()
     {
        let mut folder = Folder::new();
        assert_eq!(folder.at(200 * MIB, Some(0)), Headroom::Ample);
        folder.cut_held(4 * MIB);
        assert_eq!(
            folder.at(3 * MIB, Some(0)),
            Headroom::FreeingOnly,
            "beside the last 2 MiB there is only one for the index"
        );
        folder.cut_held(11 * MIB);
        assert_eq!(folder.at(MIB / 2, Some(0)), Headroom::None);
        assert_eq!(folder.at(200 * MIB, Some(0)), Headroom::Ample);
        assert!(folder.held() >= 16 * MIB);
    }

    #[test]
    fn the_ballast_becomes_the_snapshot_and_is_cut_in_pieces_otherwise() {
        let mut folder = Folder::new();
        folder.at(200 * MIB, Some(MIB));
        let dir = folder.dir.path().to_path_buf();
        let whole = ballast_bytes(&dir);
        assert!(folder.room.cut_ballast(MIB / 2));
        assert_eq!(ballast_bytes(&dir), whole - MIB / 2);

        let (file, held) = take_ballast(&dir, &dir.join("snapshot")).unwrap();
        assert_eq!(held, whole - MIB / 2);
        assert!(file.metadata().unwrap().blocks() * 512 >= held);
        assert_eq!(ballast_bytes(&dir), 0);
        assert!(!folder.room.cut_ballast(1));
        let (_, held) = take_ballast(&dir, &dir.join("another")).unwrap();
        assert_eq!(held, 0);
    }
}
