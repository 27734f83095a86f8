//! Space: how much is free, and reservations before a write.
//!
//! A reservation is a token: as long as it lives its bytes do not count as free. It travels with
//! the group of records that it is for, and goes when they are durable (the log counts them then)
//! or have failed.

use std::sync::Arc;

use cstore_log::Urgency;
use parking_lot::Mutex;

use super::error::EngineError;
use super::locked_log::LockedLog;
use crate::limits::MAX_GROUP_BYTES;

/// Bytes that a group may lose to the header and padding of its frame.
pub(super) const GROUP_OVERHEAD: u64 = 4 << 10;
/// Bytes that a segment may lose to its header and footer.
const SEGMENT_OVERHEAD: u64 = 12 << 10;

/// The fill of the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// FS_SIZE, or what the file system has for this disk, if that is less.
    pub capacity: u64,
    /// Bytes that new blocks could still take, reservations deducted.
    pub free: u64,
    /// Size of all segment files.
    pub allocated: u64,
    /// Room of the file system, which other disks may share; `None` if the file system is unknown.
    pub shared: Option<SharedRoom>,
}

/// Room of a file system that disks may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedRoom {
    /// Number of the file system on this machine.
    pub file_system: u64,
    /// Free bytes of the file system.
    pub free: u64,
    /// Part of the disk's free bytes that is not allocated yet, and comes out of `free`.
    pub growth: u64,
}

/// Sizes of an open disk. They do not change while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// FS_SIZE in bytes.
    pub(super) capacity: u64,
    /// Bytes of a standard segment.
    pub(super) segment_bytes: u64,
    /// Limit of the payload bytes of one group of records, so that groups fit the segments of a
    /// small disk.
    pub(super) group_bytes: usize,
}

impl Geometry {
    /// Returns the geometry of a disk of these sizes.
    pub(super) fn of(capacity: u64, segment_bytes: u64) -> Self {
        let group_bytes = (segment_bytes / 4).min(MAX_GROUP_BYTES);
        Self {
            capacity,
            segment_bytes,
            group_bytes: usize::try_from(group_bytes).unwrap_or(usize::MAX),
        }
    }

    /// Returns the bytes that `needed` bytes of records may take at most with everything around
    /// them.
    fn bytes_with_overhead(&self, needed: u64) -> u64 {
        let group_bytes = self.group_bytes as u64;
        let groups = needed.div_ceil(group_bytes.max(1)) + 1;
        let segments = needed / self.segment_bytes.max(1) + 1;

        // The end of a segment in which a group does not fit is lost, unless it is so large that it
        // is cut off.
        let lost_end = needed
            .min(group_bytes)
            .saturating_add(SEGMENT_OVERHEAD)
            .min(self.segment_bytes / 16);

        needed.saturating_add(groups * GROUP_OVERHEAD + segments * (SEGMENT_OVERHEAD + lost_end))
    }
}

/// The free space of an open disk and the reservations of it. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct SpaceLedger {
    log: Arc<LockedLog>,
    pub(super) geometry: Geometry,
    /// Bytes promised to groups that are not durable yet.
    reserved: Arc<Mutex<u64>>,
}

impl SpaceLedger {
    pub(super) fn new(log: Arc<LockedLog>, geometry: Geometry) -> Self {
        Self {
            log,
            geometry,
            reserved: Arc::default(),
        }
    }

    /// Returns the fill of the disk.
    pub(super) fn space(&self) -> Space {
        let reserved = *self.reserved.lock();
        // A file system with less room than FS_SIZE is as large as what lies on it and what it has
        // left.
        let room = self.log.fs_room();
        let reachable = room.map(|room| self.log.allocated_bytes().saturating_add(room.free));
        let free = self
            .log
            .free_bytes(Urgency::Normal)
            .saturating_sub(reserved);
        let shared = room.zip(self.log.file_system());
        Space {
            capacity: self
                .geometry
                .capacity
                .min(reachable.unwrap_or(self.geometry.capacity)),
            free,
            allocated: self.log.allocated_bytes(),
            shared: shared.map(|(room, file_system)| SharedRoom {
                file_system,
                free: room.free,
                growth: self.log.growth_bytes().min(free),
            }),
        }
    }

    /// Returns true if records of `needed` bytes fit as the disk is now.
    pub(super) fn fits(&self, needed: u64) -> bool {
        let reserved = *self.reserved.lock();
        needed == 0 || self.has_free(needed, reserved)
    }

    /// Returns true if records of `needed` bytes fit while `reserved` bytes are reserved.
    fn has_free(&self, needed: u64, reserved: u64) -> bool {
        let bytes = self.geometry.bytes_with_overhead(needed);
        self.log
            .has_free(bytes.saturating_add(reserved), Urgency::Normal)
    }

    /// Reserves space for records of `needed` bytes and the overhead of `n_groups` groups, if
    /// [`Self::fits`] says that they fit.
    ///
    /// # Errors
    /// [`EngineError::Full`]; nothing is reserved then.
    pub(super) fn reserve(&self, needed: u64, n_groups: u64) -> Result<Reservation, EngineError> {
        let mut reserved = self.reserved.lock();
        if needed > 0 && !self.has_free(needed, *reserved) {
            let free = self.log.free_bytes(Urgency::Normal);
            return Err(EngineError::Full {
                needed,
                free: free.saturating_sub(*reserved),
                hold: None,
            });
        }
        let bytes = needed + n_groups * GROUP_OVERHEAD;
        *reserved = reserved.saturating_add(bytes);
        Ok(Reservation {
            reserved: self.reserved.clone(),
            bytes,
        })
    }
}

/// Bytes that do not count as free as long as this lives.
#[derive(Debug)]
pub(super) struct Reservation {
    reserved: Arc<Mutex<u64>>,
    bytes: u64,
}

impl Reservation {
    /// Takes `bytes` of this reservation as one of their own; at most all of it.
    pub(super) fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            reserved: self.reserved.clone(),
            bytes,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.reserved.lock();
        *reserved = reserved.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bytes_come_back_once_however_a_reservation_is_split() {
        let reserved = Arc::new(Mutex::new(100));
        let mut whole = Reservation {
            reserved: reserved.clone(),
            bytes: 70,
        };
        let part = whole.split(50);
        let rest = whole.split(50);
        assert_eq!((part.bytes, rest.bytes, whole.bytes), (50, 20, 0));
        drop(part);
        assert_eq!(*reserved.lock(), 50);
        drop(rest);
        drop(whole);
        assert_eq!(*reserved.lock(), 30);
    }

    #[test]
    fn the_overhead_covers_a_group_that_ends_a_segment_early() {
        let geometry = Geometry {
            capacity: 1 << 30,
            segment_bytes: 1 << 20,
            group_bytes: 256 << 10,
        };
        let needed = 256 << 10;
        let lost_end = (1 << 20) / 16;
        assert_eq!(
            geometry.bytes_with_overhead(needed),
            needed + 2 * GROUP_OVERHEAD + SEGMENT_OVERHEAD + lost_end
        );
    }
}
