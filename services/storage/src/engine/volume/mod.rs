//! The volume: everything on the disk beside the segments. Superblock, derived cache, lock.

pub(super) mod inventory;
pub(super) mod mount;
pub(super) mod rebuild;
pub(super) mod superblock;
pub(super) mod survey;

use std::io;
use std::sync::Arc;

use cstore_log::{Disk, LockGuard};
use cstore_types::epoch::Epoch;
use cstore_types::history::Point;
use cstore_types::{SealSeq, StoreUuid};
use parking_lot::Mutex;

use super::doubts::Doubts;
use super::error::EngineError;
use super::format::{BITMAP_FILE, Bitmap, DiskEpoch, Doubt, DoubtKind, SLOTS, Superblock, VERSION};
use inventory::SegmentInventory;
use superblock::SuperblockFile;

/// The volume of an open disk.
#[derive(Debug)]
pub(super) struct Volume {
    disk: Arc<dyn Disk>,
    /// The superblock as it was last written.
    superblock: Mutex<Superblock>,
    /// File of the superblock, locked while a superblock is written. Taken BEFORE `superblock`, which
    /// is not held over the write: identity and capacity are read for every heartbeat, which must not
    /// wait for a slow disk.
    file: Mutex<SuperblockFile>,
    inventory: Arc<SegmentInventory>,
    /// Keeps other processes away; the log holds it too.
    _lock: Arc<LockGuard>,
}

impl Volume {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        superblock: Superblock,
        inventory: Arc<SegmentInventory>,
        lock: Arc<LockGuard>,
    ) -> Self {
        Self {
            file: Mutex::new(SuperblockFile::of(disk.clone())),
            disk,
            superblock: Mutex::new(superblock),
            inventory,
            _lock: lock,
        }
    }

    /// Returns the identity of the disk.
    pub(super) fn store(&self) -> StoreUuid {
        self.superblock.lock().store
    }

    /// Returns a copy of the superblock as it was last written.
    pub(super) fn superblock(&self) -> Superblock {
        self.superblock.lock().clone()
    }

    /// Writes the next superblock, with the highest sequence that a seal may have used. The
    /// sequence of a superblock never goes back, also if two callers looked at the log at different
    /// times.
    ///
    /// # Errors
    /// [`EngineError::Io`]. The previous superblock stays valid.
    pub(super) fn write_superblock(
        &self,
        seal_seq: SealSeq,
        clean: bool,
    ) -> Result<(), EngineError> {
        self.update(|superblock| {
            superblock.seal_seq = superblock.seal_seq.max(seal_seq);
            superblock.clean = clean;
        })
    }

    /// Writes the superblock of an open. A disk of an older format is written in every slot, so
    /// that no slot of the older one can count again.
    ///
    /// # Errors
    /// [`EngineError::Io`]. The open is repeated then.
    pub(super) fn begin(
        &self,
        seal_seq: SealSeq,
        epoch: Epoch,
        doubts: &Doubts,
    ) -> Result<(), EngineError> {
        let before = self.superblock();
        let is_upgrade = before.version < VERSION;
        let epoch = DiskEpoch {
            number: epoch.number,
            opens: before.epoch.opens.saturating_add(1),
            nonce: epoch.nonce,
        };
        for _ in 0..if is_upgrade { SLOTS } else { 1 } {
            self.update(|superblock| {
                superblock.seal_seq = superblock.seal_seq.max(seal_seq);
                superblock.clean = false;
                superblock.epoch = epoch;
                doubts.put_into(superblock);
            })?;
        }
        if is_upgrade {
            tracing::info!(version = VERSION, "disk upgraded");
        }
        Ok(())
    }

    /// Writes the next superblock, with the doubts of an open that has not replaced the inventory
    /// yet. The image that counts stays the one that was found: if the open dies after this, the
    /// next one compares the same.
    ///
    /// A disk of an older format is left as it is: it has no inventory, and what else is in doubt
    /// there is found again.
    ///
    /// # Errors
    /// [`EngineError::Io`]. The open is repeated then.
    pub(super) fn note_findings(&self, doubts: &Doubts) -> Result<(), EngineError> {
        let found = self.superblock();
        let is_noted = !doubts.are_open() || doubts.list() == found.doubts;
        if is_noted || found.version < VERSION {
            return Ok(());
        }
        self.write_next(|superblock| doubts.put_into(superblock))
    }

    /// Writes the next superblock, with these doubts and what counts as unverified since them.
    ///
    /// # Errors
    /// [`EngineError::Io`]. The previous superblock stays valid.
    pub(super) fn write_doubts(&self, doubts: &Doubts) -> Result<(), EngineError> {
        self.update(|superblock| doubts.put_into(superblock))
    }

    /// Writes the next superblock, with a place in the master's history.
    ///
    /// # Errors
    /// [`EngineError::Io`]. The previous superblock stays valid.
    pub(super) fn write_noted(&self, noted: Point) -> Result<(), EngineError> {
        self.update(|superblock| superblock.noted = noted)
    }

    /// Returns the epochs of the disk, oldest first, that of this open included.
    pub(super) fn epochs(&self) -> Vec<Epoch> {
        self.inventory.epochs()
    }

    /// Returns the nonce of an epoch, unless it was forgotten.
    pub(super) fn nonce_of(&self, number: u32) -> Option<u64> {
        self.inventory.nonce_of(number)
    }

    /// Forgets the epochs in front of `number`, which nobody asks for any more.
    pub(super) fn forget_epochs(&self, number: u32) {
        self.inventory.forget_epochs(number);
    }

    fn update(&self, change: impl FnOnce(&mut Superblock)) -> Result<(), EngineError> {
        self.write_next(|superblock| {
            change(superblock);
            superblock.inventory = self.inventory.mark();
        })
    }

    fn write_next(&self, change: impl FnOnce(&mut Superblock)) -> Result<(), EngineError> {
        let mut file = self.file.lock();
        let mut next = self.superblock();
        change(&mut next);
        next.version = VERSION;
        next.audits = true;
        next.seq += 1;
        file.write(&next)
            .map_err(EngineError::io("write superblock"))?;
        self.inventory.superblock_written(next.seq);
        *self.superblock.lock() = next;
        Ok(())
    }

    /// Takes a doubt about a segment as settled: one that is missing is given up for good, one that
    /// is short or damaged counts as it is.
    ///
    /// # Errors
    /// The error of the disk.
    pub(super) fn accept_file(&self, doubt: &Doubt) -> io::Result<()> {
        match doubt.kind {
            DoubtKind::Missing | DoubtKind::Foreign => self.inventory.give_up(doubt.file),
            DoubtKind::Short | DoubtKind::Damaged => self.inventory.take_as_found(doubt.file),
            _ => Ok(()),
        }
    }

    /// Reads the derived cache. Returns `None` if the cache is missing or cannot be used.
    pub(super) fn load_bitmap(&self) -> Option<Bitmap> {
        let file = self.disk.open(BITMAP_FILE).ok()?;
        let len = usize::try_from(file.size().ok()?.min(self.bitmap_allowance())).ok()?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).ok()?;
        Bitmap::decode(self.store(), &bytes).ok()
    }

    /// Replaces the derived cache. A cache that is too large for its part of the disk is left out:
    /// the next start counts references from the sets.
    ///
    /// # Errors
    /// [`EngineError::Io`]. No cache or a partial one is left, and the next start ignores a partial
    /// one.
    pub(super) fn save_bitmap(&self, bitmap: &Bitmap) -> Result<(), EngineError> {
        let bytes = bitmap.encode(self.store());
        let write = || -> io::Result<()> {
            self.remove_bitmap()?;
            if bytes.len() as u64 <= self.bitmap_allowance() {
                let file = self.disk.create(BITMAP_FILE, bytes.len() as u64)?;
                file.write_all_vectored_at(&[bytes], 0)?;
                file.sync_data()?;
            }
            self.disk.sync_dir()
        };
        write().map_err(EngineError::io("write bitmap"))
    }

    /// Removes the derived cache. From the first write on, a cache of an earlier stop MUST NOT be
    /// there.
    pub(super) fn remove_bitmap(&self) -> io::Result<()> {
        match self.disk.remove(BITMAP_FILE) {
            Ok(()) => self.disk.sync_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn bitmap_allowance(&self) -> u64 {
        bitmap_allowance(self.superblock.lock().capacity)
    }
}

/// Returns the bytes of a disk that are kept for the derived cache.
pub(super) fn bitmap_allowance(capacity: u64) -> u64 {
    (capacity / 64).max(4_096)
}

#[cfg(test)]
mod tests {
    use cstore_log::FaultyDisk;

    use super::mount::small_disk;
    use super::*;

    fn volume(disk: &Arc<dyn Disk>) -> Volume {
        let (identity, options) = small_disk();
        let superblock = mount::format(disk, &identity, &options).unwrap();
        let lock = Arc::new(disk.lock("LOCK").unwrap());
        let inventory = Arc::new(SegmentInventory::unwritten(disk.clone(), identity.store, 0));
        Volume::new(disk.clone(), superblock, inventory, lock)
    }

    #[test]
    fn i6_the_sequence_of_the_superblock_never_goes_back() {
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
        let volume = volume(&disk);
        // Two callers looked at the log, and the one that looked first writes last.
        volume.write_superblock(SealSeq(12), false).unwrap();
        volume.write_superblock(SealSeq(10), false).unwrap();
        let written = mount::peek(&disk, "memory").unwrap().unwrap();
        assert_eq!(written.seal_seq, SealSeq(12));
    }

    #[test]
    fn i4_a_superblock_is_written_by_a_process_without_descriptors() {
        let faulty = FaultyDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        let volume = volume(&disk);
        volume.write_superblock(SealSeq(1), false).unwrap();

        faulty.refuse_opens(true);
        for seal_seq in 2..9 {
            volume.write_superblock(SealSeq(seal_seq), false).unwrap();
        }
        faulty.refuse_opens(false);
        let written = mount::peek(&disk, "memory").unwrap().unwrap();
        assert_eq!(written.seal_seq, SealSeq(8));
    }

    /// The handle is kept after a failed write: Linux reports a write-back error once to each open
    /// handle, so a new handle could miss it.
    #[test]
    fn i6_a_superblock_that_was_not_written_is_written_by_the_next_call() {
        let faulty = FaultyDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        let volume = volume(&disk);
        for verb in [cstore_log::Verb::Write, cstore_log::Verb::Sync] {
            faulty.strike(verb, 1, cstore_log::Fault::Eio);
            let before = volume.superblock();
            let failed = volume.write_superblock(SealSeq(3), false);
            assert!(failed.is_err(), "{verb:?}");
            assert_eq!(volume.superblock(), before);
            volume.write_superblock(SealSeq(3), false).unwrap();
        }
        let written = mount::peek(&disk, "memory").unwrap().unwrap();
        assert_eq!(written.seal_seq, SealSeq(3));
    }
}
