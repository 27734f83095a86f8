//! Reading and writing the superblock file: four slots in turn, so that a torn write leaves the one before.

use std::io;
use std::sync::Arc;

use cstore_log::Disk;

use super::Engine;
use super::format::{FormatError, SLOT, SLOTS, SUPERBLOCK_FILE, Superblock};
use crate::EngineError;

/// What the superblock file holds.
#[derive(Debug)]
pub(super) enum Found {
    /// No file, or one that was never written: formatting broke off, or nothing is there.
    Nothing,
    /// The newest valid slot.
    Valid(Superblock),
    /// No valid slot, and at least one that is not empty.
    Unusable(FormatError),
}

pub(super) fn read(disk: &Arc<dyn Disk>) -> io::Result<Found> {
    let file = match disk.open(SUPERBLOCK_FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let len = file.size()?;
    let mut best: Option<Superblock> = None;
    let mut problem = None;
    for slot in 0..SLOTS {
        let offset = slot * SLOT as u64;
        if offset + SLOT as u64 > len {
            break;
        }
        let mut bytes = vec![0; SLOT];
        file.read_exact_at(&mut bytes, offset)?;
        match Superblock::decode(&bytes) {
            Ok(found) if best.as_ref().is_none_or(|best| best.seq < found.seq) => best = Some(found),
            Ok(_) | Err(FormatError::Empty) => {}
            Err(error) => problem = Some(error),
        }
    }
    Ok(match (best, problem) {
        // A newer format in any slot wins over an older valid one: the disk was upgraded.
        (_, Some(error @ (FormatError::Version(_) | FormatError::Features(_)))) => Found::Unusable(error),
        (Some(found), _) => Found::Valid(found),
        (None, Some(error)) => Found::Unusable(error),
        (None, None) => Found::Nothing,
    })
}

/// Writes the next slot and syncs it.
pub(super) fn write(disk: &Arc<dyn Disk>, superblock: &Superblock) -> io::Result<()> {
    let file = match disk.open(SUPERBLOCK_FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = disk.create(SUPERBLOCK_FILE, SLOTS * SLOT as u64)?;
            disk.sync_dir()?;
            file
        }
        Err(error) => return Err(error),
    };
    let offset = (superblock.seq % SLOTS) * SLOT as u64;
    file.write_all_vectored_at(&[superblock.encode()], offset)?;
    file.sync_data()
}

impl Engine {
    /// Writes the superblock as of now.
    pub(super) fn write_superblock(&self, clean: bool) -> Result<(), EngineError> {
        // One writer at a time, under a lock of its own: identity and capacity are read for every heartbeat and every put,
        // which must not wait for a slow disk.
        let _one = self.superblock_writes.lock();
        let known = self.superblock();
        let next = Superblock { seq: known.seq + 1, seal_seq: self.seal_seq(), clean, ..known };
        write(&self.disk, &next).map_err(EngineError::io("write superblock"))?;
        *self.superblock.lock() = next;
        Ok(())
    }
}
