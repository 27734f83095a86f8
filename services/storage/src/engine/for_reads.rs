//! A disk that takes no writes: it is opened to be read, and looked at from time to time whether it
//! takes them again.
//!
//! The open is the same as for writing, over an overlay in memory, but for the unproven tail, which
//! stays where it is. The overlay is frozen when the open is done, so that nothing that lies in
//! memory passes for durable: every later write is refused as on a file system that is mounted
//! read-only.

use std::error::Error;
use std::io;
use std::sync::Arc;

use cstore_log::{Disk, LockGuard, LogError, OverlayDisk};
use cstore_types::error_chain;

use super::error::{OpenError, is_passing};
use super::format::LOCK_FILE;
use super::open;
use super::parts::Parts;
use super::volume::mount::{DiskOptions, Identity, Look, look};

/// A disk whose blocks are served and which takes no writes.
#[derive(Debug)]
pub(super) struct ForReads {
    disk: Arc<dyn Disk>,
    /// Keeps processes away that would write.
    _lock: Option<LockGuard>,
}

impl ForReads {
    /// Writes and syncs a file beside those of the disk. Blocks the thread.
    ///
    /// # Errors
    /// The error for which the disk takes no writes.
    pub(super) fn probe(&self) -> io::Result<()> {
        cstore_log::probe(&*self.disk)
    }
}

/// Opens a disk to be read that was not opened because it does not take writes.
///
/// # Errors
/// `refused` if it was refused for another reason, cannot be read either, or was never formatted.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    path: &str,
    identity: &Identity,
    options: &DiskOptions,
    refused: OpenError,
) -> Result<Parts, OpenError> {
    let reader = disk.for_reads().filter(|_| is_of_the_disk(&refused));
    let Some(reader) = reader.filter(|_| !options.fresh_start) else {
        return Err(refused);
    };
    if !is_formatted(&reader, path) {
        return Err(refused);
    }
    let lock = match reader.lock(LOCK_FILE) {
        Ok(lock) => Some(lock),
        // A lock file cannot be created on this file system by any process.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => return Err(refused),
    };
    let (above, freeze) = OverlayDisk::freezable(reader);
    let mut parts = match open::open_for_reads(above, path, identity, options) {
        Ok(parts) => parts,
        Err(error) => {
            let error = error_chain(&error);
            tracing::error!(path, %error, "disk cannot be opened for reads either");
            return Err(refused);
        }
    };
    freeze.freeze();
    let why = error_chain(&refused);
    tracing::error!(path, %why, "disk takes no writes: it is opened for reads only");
    parts.log.refuse(LogError::ForReads(Arc::new(refused)));
    parts.for_reads = Some(ForReads { disk, _lock: lock });
    Ok(parts)
}

/// Returns true if a disk was formatted and opened before.
///
/// Another disk MUST NOT be opened for reads: it has nothing to read, and an identity in memory is
/// lost with the process. The master would remember the identity as the disk of the node, and
/// refuse the one that the next start draws.
fn is_formatted(disk: &Arc<dyn Disk>, path: &str) -> bool {
    match look(disk, path) {
        // The superblock of a format that broke off may not be durable.
        Ok(Look::Disk(found)) => found.seq > 1,
        Ok(Look::WithoutSuperblock(_)) => true,
        Ok(Look::Unformatted) | Err(_) => false,
    }
}

/// Returns true if the system refused something, for a reason that does not pass by itself.
fn is_of_the_disk(error: &OpenError) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let shared = error.downcast_ref::<Arc<io::Error>>();
        let found = error.downcast_ref::<io::Error>();
        if let Some(found) = found.or_else(|| shared.map(|shared| &**shared)) {
            return !is_passing(found);
        }
        next = error.source();
    }
    false
}
