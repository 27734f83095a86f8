//! The seam to the operating system's files: one real twin, one that lies the way disks lie.

#[cfg(feature = "faulty")]
mod faulty;
#[cfg(feature = "faulty")]
mod hooked;
mod overlay;
mod reader;
mod real;

use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::limits::READ_ATTEMPTS;
use crate::recovery::damage_of;

#[cfg(feature = "faulty")]
pub use faulty::{Fault, FaultyDisk, Verb};
#[cfg(feature = "faulty")]
pub use hooked::{Gate, Hook, HookedDisk};
pub use overlay::{Freeze, OverlayDisk};
pub use reader::FolderReader;
pub use real::RealDisk;

/// Room of the file system that a folder lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsRoom {
    /// Bytes that this process can still take.
    pub free: u64,
    /// Size of the file system in bytes.
    pub total: u64,
}

/// File that is written to see whether a disk takes writes.
const PROBE_FILE: &str = "write.probe";
const PROBE: &[u8] = &[0x5A; 4_096];

/// Writes and syncs a file, and removes it. Blocks the thread.
///
/// # Errors
/// The error for which the disk takes no writes.
pub fn probe(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(PROBE_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(PROBE_FILE, PROBE.len() as u64)?;
    file.write_all_vectored_at(&[Bytes::from_static(PROBE)], 0)?;
    file.sync_data()?;
    disk.remove(PROBE_FILE)?;
    disk.sync_dir()
}

/// Removes the file that a killed process left from a probe. Ignores errors: the next open tries again.
/// Blocks the thread.
pub fn remove_probe(disk: &dyn Disk) {
    match disk.remove(PROBE_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(%error, "file of a probe cannot be removed");
        }
        _ => {}
    }
}

/// Calls `read`, and calls it again if the medium has failed, up to `READ_ATTEMPTS` times.
///
/// A single error of the medium may pass, but damage puts a disk on hold. `read` MUST NOT change
/// anything. Blocks the thread.
///
/// # Errors
/// The error of the last call. An error that is not of the medium is returned at once.
pub fn read_again<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..READ_ATTEMPTS {
        match read() {
            Err(error) if error.raw_os_error().is_some() && damage_of(&error).is_some() => {
                tracing::debug!(%error, "medium is read again");
            }
            result => return result,
        }
    }
    read()
}

/// A folder. Names are plain file names without separators.
pub trait Disk: Send + Sync + Debug {
    /// Returns the room of the file system; `None` if it has no bound that can be told.
    ///
    /// # Errors
    /// The system's.
    fn room(&self) -> io::Result<Option<FsRoom>> {
        Ok(None)
    }

    /// Returns the device number of the file system, equal for folders on the same file system until
    /// the machine reboots; `None` if the disk has none.
    fn file_system(&self) -> Option<u64> {
        None
    }

    /// Makes a new file of `len` bytes whose space is reserved where the file system can.
    ///
    /// # Errors
    /// `AlreadyExists`, `StorageFull`, and the system's.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, and the system's.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Names of files and folders, in no order.
    ///
    /// # Errors
    /// The system's.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Removes a file; durable after [`Self::sync_dir`]. Open handles stay usable.
    ///
    /// # Errors
    /// `NotFound`, and the system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file, replacing `to`; durable after [`Self::sync_dir`].
    ///
    /// # Errors
    /// `NotFound`, and the system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes creations, removals and renames in this folder durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self) -> io::Result<()>;

    /// A folder in this one, made when it is not there.
    ///
    /// # Errors
    /// The system's.
    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Disk>>;

    /// Takes an exclusive lock that ends with the process or the guard.
    ///
    /// # Errors
    /// `WouldBlock` when somebody else holds it, and the system's.
    fn lock(&self, name: &str) -> io::Result<LockGuard>;

    /// Returns the same folder without the right to write, for a disk that takes no writes; `None` if
    /// there is no such view of it.
    fn for_reads(&self) -> Option<Arc<dyn Disk>> {
        None
    }

    /// Returns true if calls take the time of a disk, so that what nobody waits for is worth a thread
    /// of its own.
    fn takes_real_time(&self) -> bool {
        false
    }

    /// Returns true if all that is done with this disk is done by one thread, as in a simulation: a
    /// log on it has no thread of its own then, and its callers write, which costs no time.
    fn has_one_thread(&self) -> bool {
        false
    }

    /// Returns true if a log on this disk of one thread leaves its groups waiting. They are written
    /// with the first group that is appended after that. A test orders the steps of requests that
    /// run at once with it.
    fn holds_commits(&self) -> bool {
        false
    }
}

/// An open file.
pub trait DiskFile: Send + Sync + Debug {
    /// Length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof`, and the system's.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Fills `buf` from `offset` if the bytes are in memory. Returns false if the medium would have to
    /// be waited for, or the disk cannot tell; `buf` holds anything then. Does not block.
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> bool {
        let _ = (buf, offset);
        false
    }

    /// Writes all buffers, one behind the other, at `offset`.
    ///
    /// # Errors
    /// `StorageFull`, and the system's; a part may have been written then.
    fn write_all_vectored_at(&self, bufs: &[Bytes], offset: u64) -> io::Result<()>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// The system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns true if the whole file is allocated and writes overwrite its blocks in place. A file
    /// system that copies on write takes new space for each write.
    ///
    /// # Errors
    /// The system's.
    fn is_overwritten_in_place(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Makes all writes before it durable, with the length (`fdatasync`).
    ///
    /// # Errors
    /// The system's. It must not be tried again: the data may be marked clean without being on the
    /// disk.
    fn sync_data(&self) -> io::Result<()>;

    /// Returns true if the file still has a name. Writes to a file without a name are lost with its
    /// last handle.
    ///
    /// # Errors
    /// The system's.
    fn has_name(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Holds a lock until it is dropped.
pub struct LockGuard {
    _held: Box<dyn Any + Send + Sync>,
}

impl LockGuard {
    pub(crate) fn new(held: impl Any + Send + Sync) -> Self {
        Self {
            _held: Box::new(held),
        }
    }
}

impl Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockGuard")
    }
}
