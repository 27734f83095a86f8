//! A folder that is only read: files are opened without the right to write, which a file system that
//! takes no writes would refuse.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FlockOperation;

use super::{Disk, DiskFile, FsRoom, LockGuard};

/// A folder of the operating system in which nothing is changed. Every change is refused as on a
/// file system that is mounted read-only.
#[derive(Debug)]
pub struct FolderReader(PathBuf);

impl FolderReader {
    /// Makes a reader of a folder, which need not be there yet.
    pub fn of(folder: impl Into<PathBuf>) -> Arc<dyn Disk> {
        Arc::new(Self(folder.into()))
    }
}

impl Disk for FolderReader {
    fn room(&self) -> io::Result<Option<FsRoom>> {
        let found = rustix::fs::statvfs(&self.0)?;
        Ok(Some(FsRoom {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        }))
    }

    fn file_system(&self) -> Option<u64> {
        Some(std::fs::metadata(&self.0).ok()?.dev())
    }

    fn create(&self, _: &str, _: u64) -> io::Result<Arc<dyn DiskFile>> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(FileReader(File::open(self.0.join(name))?)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.0)?;
        names
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Returns a reader of a folder in this one. A missing folder is not made.
    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let folder = self.0.join(name);
        match std::fs::metadata(&folder)?.is_dir() {
            true => Ok(Self::of(folder)),
            false => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// Takes a shared lock of a file that is there. Several readers may hold the lock at a time; as
    /// long as one does, no process gets the lock of a [`super::RealDisk`] on the same file, and
    /// the other way round.
    fn lock(&self, name: &str) -> io::Result<LockGuard> {
        let file = File::open(self.0.join(name))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared)?;
        Ok(LockGuard::new(file))
    }
}

/// A file that is only read.
#[derive(Debug)]
struct FileReader(File);

impl DiskFile for FileReader {
    fn size(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_vectored_at(&self, _: &[Bytes], _: u64) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealDisk;

    #[test]
    fn a_lock_of_a_reader_is_shared_and_keeps_a_writer_away() {
        let dir = tempfile::tempdir().unwrap();
        let reader = FolderReader::of(dir.path());
        assert_eq!(
            reader.lock("LOCK").unwrap_err().kind(),
            ErrorKind::NotFound,
            "a reader makes no file"
        );
        let disk = RealDisk::open(dir.path()).unwrap();
        let held = disk.lock("LOCK").unwrap();
        let refused = reader.lock("LOCK").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        drop(held);
        let first = reader.lock("LOCK").unwrap();
        let second = reader.lock("LOCK").unwrap();
        drop(first);
        let refused = disk.lock("LOCK").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        drop(second);
        disk.lock("LOCK").unwrap();
    }
}
