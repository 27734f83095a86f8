//! Room on the file system of the index: sled must never meet a full disk, because it does not
//! recover from one.
//!
//! ```text
//! free ──▶ 2 R ─────────── R/2 ─────────── R/16 ───▶ 0        R = reserve, 8 to 64 MiB
//!          │ index synced   │ names refused │ all refused
//!          │ each group     │ ballast freed at R/4
//! ```
//! A ballast file of R/2 stands beside the index. Writes that add names stop while it is still
//! there; deletes, tombstones and releases then have the ballast's room to work in.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::limits::{MAX_DISK_RESERVE, MIN_DISK_RESERVE};

const NAME: &str = "ballast";

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

/// The guard of the file system that holds the index.
pub(super) struct Room {
    dir: PathBuf,
    gauge: SharedGauge,
    has_ballast: bool,
    /// True if making the ballast has failed. It is not tried again.
    cannot_hold: bool,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room")
            .field("dir", &self.dir)
            .field("has_ballast", &self.has_ballast)
            .finish()
    }
}

impl Room {
    /// Looks for the ballast of `dir`. Frees it if less than `needed` bytes are there: opening the
    /// log and the index writes, too.
    pub(super) fn open(dir: &Path, gauge: SharedGauge, needed: u64) -> Self {
        let has_ballast = dir.join(NAME).try_exists().unwrap_or(false);
        let mut room = Self {
            dir: dir.to_path_buf(),
            gauge,
            has_ballast,
            cannot_hold: false,
        };
        if has_ballast && (room.gauge.0)(dir).is_ok_and(|space| space.free < needed) {
            room.drop_ballast(0);
        }
        room
    }

    /// Frees the ballast, so that batches that free space can be written. Returns whether there was
    /// one.
    pub(super) fn free_ballast(&mut self) -> bool {
        let had = self.has_ballast;
        if had {
            self.drop_ballast(0);
        }
        had && !self.has_ballast
    }

    /// Measures the room for the next group; frees or restores the ballast as needed.
    pub(super) fn headroom(&mut self) -> Headroom {
        let Ok(space) = (self.gauge.0)(&self.dir) else {
            // A file system that cannot be measured is left to its own errors.
            return Headroom::Ample;
        };
        let reserve = reserve_of(space);
        let ballast = reserve / 2;
        let mut free = space.free;

        if self.has_ballast && free < reserve / 4 {
            free += self.drop_ballast(ballast);
        } else if !self.has_ballast && !self.cannot_hold && free > reserve + ballast {
            self.make_ballast(ballast);
        }

        let adds_from = if self.has_ballast { ballast } else { reserve };
        match free {
            _ if free < reserve / 16 => Headroom::None,
            _ if free < adds_from => Headroom::FreeingOnly,
            _ if free < 2 * reserve => Headroom::Tight,
            _ => Headroom::Ample,
        }
    }

    /// Removes the ballast; returns the bytes that came back.
    fn drop_ballast(&mut self, bytes: u64) -> u64 {
        match std::fs::remove_file(self.dir.join(NAME)) {
            Ok(()) => {
                tracing::warn!(
                    bytes,
                    "metadata disk is nearly full: the ballast beside the index is freed"
                );
                self.has_ballast = false;
                bytes
            }
            Err(error) => {
                tracing::error!(%error, "ballast beside the index cannot be freed");
                0
            }
        }
    }

    fn make_ballast(&mut self, bytes: u64) {
        let path = self.dir.join(NAME);
        let make = || {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
            Ok::<(), io::Error>(())
        };
        match make() {
            Ok(()) => self.has_ballast = true,
            Err(error) => {
                // Without preallocation a file holds no room, so it would only pretend.
                tracing::warn!(%error, "no ballast can be made beside the index");
                self.cannot_hold = true;
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn names_stop_first_then_the_ballast_goes_and_comes_back_with_the_room() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let free = Arc::new(AtomicU64::new(1 << 30));
        let gauge = {
            let free = free.clone();
            SharedGauge(Arc::new(move |_| {
                Ok(Space {
                    free: free.load(Ordering::Relaxed),
                    total: 256 * MIB,
                })
            }))
        };
        let mut room = Room::open(dir.path(), gauge, 0);
        let ballast = dir.path().join(NAME);
        let mut at = |mib: u64| {
            free.store(mib * MIB, Ordering::Relaxed);
            (room.headroom(), ballast.try_exists().unwrap())
        };

        // The reserve is an eighth of 256 MiB: 32.
        assert_eq!(at(200), (Headroom::Ample, true));
        assert_eq!(at(63), (Headroom::Tight, true));
        assert_eq!(at(15), (Headroom::FreeingOnly, true));
        assert_eq!(
            at(7),
            (Headroom::FreeingOnly, false),
            "the ballast's 16 MiB count"
        );
        assert_eq!(
            at(20),
            (Headroom::FreeingOnly, false),
            "names need the whole reserve until the ballast is back"
        );
        assert_eq!(at(1), (Headroom::None, false));
        assert_eq!(at(100), (Headroom::Ample, true));
    }
}
