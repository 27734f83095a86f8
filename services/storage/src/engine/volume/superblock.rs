//! Reading and writing the superblock file: four slots in turn, so that a torn write leaves the one
//! before.

use std::io;
use std::sync::Arc;

use cstore_log::{Disk, DiskFile, read_again};

use super::super::error::is_passing;
use super::super::format::{FormatError, SLOT, SLOTS, SUPERBLOCK_FILE, Superblock};

/// The contents of the superblock file.
#[derive(Debug)]
pub(in crate::engine) enum SlotContents {
    /// No file, or one that was never written: the disk is empty, or formatting broke off.
    Unformatted,
    /// The newest valid slot.
    Valid(Box<Superblock>),
    /// No valid slot, and at least one that is not empty.
    Unusable(FormatError),
}

/// Reads all slots.
///
/// # Errors
/// The error of the disk.
pub(in crate::engine) fn read(disk: &Arc<dyn Disk>) -> io::Result<SlotContents> {
    let file = match read_again(|| disk.open(SUPERBLOCK_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(SlotContents::Unformatted);
        }
        Err(error) => return Err(error),
    };

    let len = read_again(|| file.size())?;
    let mut best: Option<Superblock> = None;
    let mut problem = None;
    let mut oldest = u16::MAX;
    for slot in 0..SLOTS {
        let offset = slot * SLOT as u64;
        if offset + SLOT as u64 > len {
            break;
        }
        let mut bytes = vec![0; SLOT];
        let decoded = match read_again(|| file.read_exact_at(&mut bytes, offset)) {
            Ok(()) => Superblock::decode(&bytes),
            Err(error) if is_passing(&error) => return Err(error),
            // The other slots are there still.
            Err(error) => {
                tracing::warn!(slot, %error, "slot of the superblock cannot be read");
                Err(FormatError::Damaged)
            }
        };
        if let Ok(found) = &decoded {
            oldest = oldest.min(found.version);
        }
        match decoded {
            Ok(found) if best.as_ref().is_none_or(|best| best.seq < found.seq) => {
                best = Some(found)
            }
            Ok(_) | Err(FormatError::Empty) => {}
            Err(error) => problem = Some(error),
        }
    }

    Ok(match (best, problem) {
        // A newer format in any slot wins over an older valid one: the disk was upgraded.
        (_, Some(error @ (FormatError::Version(_) | FormatError::Features(_)))) => {
            SlotContents::Unusable(error)
        }
        // An upgrade is done when no slot of the older version is left.
        (Some(found), _) => SlotContents::Valid(Box::new(Superblock {
            version: oldest,
            ..found
        })),
        (None, Some(error)) => SlotContents::Unusable(error),
        (None, None) => SlotContents::Unformatted,
    })
}

/// Returns how many slots are valid, and how many are neither valid nor empty.
///
/// # Errors
/// `NotFound` without the file; the error of the disk.
pub(in crate::engine) fn count_slots(disk: &Arc<dyn Disk>) -> io::Result<(usize, usize)> {
    let file = read_again(|| disk.open(SUPERBLOCK_FILE))?;
    let (mut valid, mut damaged) = (0, 0);
    for slot in 0..SLOTS {
        let mut bytes = vec![0; SLOT];
        let read = read_again(|| file.read_exact_at(&mut bytes, slot * SLOT as u64));
        match read.map(|()| Superblock::decode(&bytes)) {
            Ok(Ok(_)) => valid += 1,
            Ok(Err(FormatError::Empty)) => {}
            Ok(Err(_)) | Err(_) => damaged += 1,
        }
    }
    Ok((valid, damaged))
}

/// The superblock file of an open disk, opened at the first write and kept open.
///
/// A write MUST NOT need a new descriptor; otherwise connections and segments could take the last
/// descriptor, and a doubt or a place in the master's history could not be recorded.
#[derive(Debug)]
pub(in crate::engine) struct SuperblockFile {
    disk: Arc<dyn Disk>,
    kept: Option<Arc<dyn DiskFile>>,
}

impl SuperblockFile {
    pub(in crate::engine) fn of(disk: Arc<dyn Disk>) -> Self {
        Self { disk, kept: None }
    }

    /// Writes the slot of the superblock's sequence number and syncs it. Creates a missing file.
    ///
    /// # Errors
    /// The error of the disk. The other slots are unchanged.
    pub(in crate::engine) fn write(&mut self, superblock: &Superblock) -> io::Result<()> {
        let kept = self.kept.as_ref().filter(|file| {
            // Somebody may have replaced or removed the file under its name.
            file.has_name().unwrap_or(true)
        });
        let file = match kept {
            Some(file) => file.clone(),
            None => self.open()?,
        };
        let offset = (superblock.seq % SLOTS) * SLOT as u64;
        file.write_all_vectored_at(&[superblock.encode()], offset)?;
        file.sync_data()?;

        // Keep the handle only after a write: a read-only file system gives out handles for reads.
        self.kept = Some(file);
        Ok(())
    }

    fn open(&self) -> io::Result<Arc<dyn DiskFile>> {
        match self.disk.open(SUPERBLOCK_FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = self.disk.create(SUPERBLOCK_FILE, SLOTS * SLOT as u64)?;
                self.disk.sync_dir()?;
                Ok(file)
            }
            opened => opened,
        }
    }
}
