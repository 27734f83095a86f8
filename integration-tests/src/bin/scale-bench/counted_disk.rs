//! A disk that counts reads. On request its syncs do nothing, so that large disks are built fast.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cstore_log::{Disk, DiskFile, FsRoom, LockGuard, RealDisk};

/// Reads of all files of a disk.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Reads {
    /// Returns the number of reads and the bytes that they asked for.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.count), load(&self.bytes))
    }
}

/// A folder of the operating system.
#[derive(Debug)]
pub(crate) struct CountedDisk {
    inner: Arc<dyn Disk>,
    reads: Arc<Reads>,
    syncs: bool,
}

#[derive(Debug)]
struct CountedFile {
    inner: Arc<dyn DiskFile>,
    reads: Arc<Reads>,
    syncs: bool,
}

impl CountedDisk {
    /// Opens a folder to read and write it as the program does.
    pub(crate) fn open(root: &Path) -> (Arc<dyn Disk>, Arc<Reads>) {
        Self::with(root, true)
    }

    /// Opens a folder whose contents need not survive a power cut.
    pub(crate) fn unsynced(root: &Path) -> Arc<dyn Disk> {
        Self::with(root, false).0
    }

    fn with(root: &Path, syncs: bool) -> (Arc<dyn Disk>, Arc<Reads>) {
        let reads = Arc::<Reads>::default();
        let disk = Self {
            inner: RealDisk::open(root).unwrap(),
            reads: reads.clone(),
            syncs,
        };
        (Arc::new(disk), reads)
    }

    fn file(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(CountedFile {
            inner,
            reads: self.reads.clone(),
            syncs: self.syncs,
        })
    }
}

impl Disk for CountedDisk {
    fn room(&self) -> io::Result<Option<FsRoom>> {
        self.inner.room()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.inner.create(name, len)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.inner.open(name)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        if self.syncs {
            self.inner.sync_dir()
        } else {
            Ok(())
        }
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(Self {
            inner: self.inner.subdir(name)?,
            reads: self.reads.clone(),
            syncs: self.syncs,
        }))
    }

    fn lock(&self, name: &str) -> io::Result<LockGuard> {
        self.inner.lock(name)
    }
}

impl DiskFile for CountedFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.count.fetch_add(1, Ordering::Relaxed);
        self.reads
            .bytes
            .fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.inner.read_exact_at(buf, offset)
    }

    fn write_all_vectored_at(&self, bufs: &[Bytes], offset: u64) -> io::Result<()> {
        self.inner.write_all_vectored_at(bufs, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.syncs {
            self.inner.sync_data()
        } else {
            Ok(())
        }
    }
}
