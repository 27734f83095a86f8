//! A folder that is only read: files are opened without the right to write, which a file system that
//! takes no writes would refuse.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{Disk, DiskFile, LockGuard};

/// A folder of the operating system in which nothing is changed.
#[derive(Debug)]
pub(crate) struct FolderReader(PathBuf);

impl FolderReader {
    pub(crate) fn of(folder: PathBuf) -> Arc<dyn Disk> {
        Arc::new(Self(folder))
    }
}

impl Disk for FolderReader {
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

    fn subdir(&self, _: &str) -> io::Result<Arc<dyn Disk>> {
        Err(ErrorKind::Unsupported.into())
    }

    fn lock(&self, _: &str) -> io::Result<LockGuard> {
        Err(ErrorKind::Unsupported.into())
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
