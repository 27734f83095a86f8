//! A disk that keeps every change in memory, so that a log can be opened without touching its files.
//!
//! An open of the log cuts files, copies a frame that nothing proves and removes leftovers. An open
//! of the metadata must know what the log holds BEFORE it may change anything; otherwise a refused
//! or read-only open would change the files that an operator still needs.
//!
//! A file is read from the disk below until it is changed; then all of it is held in memory. That
//! happens to the files that a crash left and to the one that takes the copied frame: two files of
//! the log, usually.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{Disk, DiskFile, LockGuard};
use parking_lot::Mutex;

/// A disk over another one, which stays as it is.
#[derive(Debug)]
pub(super) struct OverlayDisk {
    below: Arc<dyn Disk>,
    /// Files that were opened, made or renamed here; `None` for a removed one.
    changed: Mutex<HashMap<String, Option<Arc<OverlayFile>>>>,
}

impl OverlayDisk {
    pub(super) fn over(below: Arc<dyn Disk>) -> Arc<dyn Disk> {
        Arc::new(Self {
            below,
            changed: Mutex::default(),
        })
    }

    fn find(&self, name: &str) -> io::Result<Arc<OverlayFile>> {
        let mut changed = self.changed.lock();
        match changed.get(name) {
            Some(Some(file)) => Ok(file.clone()),
            Some(None) => Err(ErrorKind::NotFound.into()),
            None => {
                let file = Arc::new(OverlayFile::over(self.below.open(name)?));
                changed.insert(name.to_owned(), Some(file.clone()));
                Ok(file)
            }
        }
    }
}

impl Disk for OverlayDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        if self.list()?.iter().any(|found| found == name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(OverlayFile::of_zeros(len)?);
        let mut changed = self.changed.lock();
        changed.insert(name.to_owned(), Some(file.clone()));
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.find(name)?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.below.list()?;
        let changed = self.changed.lock();
        names.retain(|name| !changed.contains_key(name));
        let there = changed.iter().filter(|(_, file)| file.is_some());
        names.extend(there.map(|(name, _)| name.clone()));
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.find(name)?;
        self.changed.lock().insert(name.to_owned(), None);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?;
        let mut changed = self.changed.lock();
        changed.insert(from.to_owned(), None);
        changed.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn subdir(&self, _: &str) -> io::Result<Arc<dyn Disk>> {
        Err(ErrorKind::Unsupported.into())
    }

    fn lock(&self, _: &str) -> io::Result<LockGuard> {
        Err(ErrorKind::Unsupported.into())
    }

    /// The log starts no thread for a disk on which it only looks.
    fn has_one_thread(&self) -> bool {
        true
    }
}

/// Content of a file: that of the disk below, or of its own.
#[derive(Debug)]
enum Content {
    Below(Arc<dyn DiskFile>),
    Own(Vec<u8>),
}

#[derive(Debug)]
struct OverlayFile(Mutex<Content>);

impl OverlayFile {
    fn over(below: Arc<dyn DiskFile>) -> Self {
        Self(Mutex::new(Content::Below(below)))
    }

    fn of_zeros(len: u64) -> io::Result<Self> {
        Ok(Self(Mutex::new(Content::Own(vec![0; in_memory(len)?]))))
    }

    /// Changes the content, of which no more than `keep` bytes are needed.
    fn change(&self, keep: u64, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut content = self.0.lock();
        if let Content::Below(file) = &*content {
            let mut own = vec![0; in_memory(file.size()?.min(keep))?];
            file.read_exact_at(&mut own, 0)?;
            *content = Content::Own(own);
        }
        if let Content::Own(own) = &mut *content {
            change(own);
        }
        Ok(())
    }
}

impl DiskFile for OverlayFile {
    fn size(&self) -> io::Result<u64> {
        match &*self.0.lock() {
            Content::Below(file) => file.size(),
            Content::Own(own) => Ok(own.len() as u64),
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match &*self.0.lock() {
            Content::Below(file) => file.read_exact_at(buf, offset),
            Content::Own(own) => {
                let start = in_memory(offset)?;
                let found = own.get(start..).and_then(|rest| rest.get(..buf.len()));
                buf.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    fn write_all_vectored_at(&self, bufs: &[Bytes], offset: u64) -> io::Result<()> {
        let start = in_memory(offset)?;
        self.change(u64::MAX, |own| {
            let mut at = start;
            for buf in bufs {
                let end = at + buf.len();
                if own.len() < end {
                    own.resize(end, 0);
                }
                own[at..end].copy_from_slice(buf);
                at = end;
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let own_len = in_memory(len)?;
        self.change(len, |own| own.resize(own_len, 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

fn in_memory(len: u64) -> io::Result<usize> {
    usize::try_from(len).map_err(|_| ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use cstore_log::FaultyDisk;

    use super::*;

    fn read(disk: &dyn Disk, name: &str) -> Vec<u8> {
        let file = disk.open(name).unwrap();
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn names(disk: &dyn Disk) -> Vec<String> {
        let mut names = disk.list().unwrap();
        names.sort();
        names
    }

    #[test]
    fn changes_are_seen_above_and_never_below() {
        let below: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
        for name in ["a", "b", "c"] {
            let file = below.create(name, 0).unwrap();
            file.write_all_vectored_at(&[Bytes::from_static(b"below")], 0)
                .unwrap();
        }
        let above = OverlayDisk::over(below.clone());
        assert_eq!(read(&*above, "a"), b"below");

        let a = above.open("a").unwrap();
        let bufs = [Bytes::from_static(b"ab"), Bytes::from_static(b"ove")];
        a.write_all_vectored_at(&bufs, 3).unwrap();
        assert_eq!(read(&*above, "a"), b"belabove");
        a.set_len(4).unwrap();
        a.set_len(6).unwrap();
        assert_eq!(read(&*above, "a"), b"bela\0\0");
        assert!(a.read_exact_at(&mut [0; 3], 4).is_err());
        above.remove("b").unwrap();
        assert!(above.open("b").is_err());
        above.rename("c", "d").unwrap();
        let new = above.create("e", 2).unwrap();
        new.sync_data().unwrap();
        assert!(above.create("a", 1).is_err());
        assert_eq!(names(&*above), ["a", "d", "e"]);
        assert_eq!(read(&*above, "d"), b"below");

        assert_eq!(names(&*below), ["a", "b", "c"]);
        for name in ["a", "b", "c"] {
            assert_eq!(read(&*below, name), b"below");
        }
    }
}
