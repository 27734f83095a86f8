//! A disk that keeps every change in memory, so that files can be opened as for writing without
//! touching them.
//!
//! An open of the log cuts files, copies a frame that nothing proves and removes leftovers. Whoever
//! must know what an open finds BEFORE anything may be changed opens an overlay. Otherwise a
//! refused open, or a look at a damaged disk, would change the files that an operator still needs.
//!
//! A file is read from the disk below. Blocks that are written are held in memory, and only those:
//! a new file of any length takes no memory before bytes are written to it.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Disk, DiskFile, FsRoom, LockGuard};
use crate::format::BLOCK;

/// A disk over another one, which stays as it is.
#[derive(Debug)]
pub struct OverlayDisk {
    /// `None` for a folder that is not there below.
    below: Option<Arc<dyn Disk>>,
    /// Contents of files that were opened, made or renamed here; `None` for a removed one.
    changed: Mutex<HashMap<String, Option<SharedContent>>>,
    /// Folders that were opened here.
    folders: Mutex<HashMap<String, Arc<dyn Disk>>>,
    is_measured: bool,
    /// Set when nothing is changed any more, here and in all folders.
    is_frozen: Arc<AtomicBool>,
}

/// Ends the changes of an overlay.
#[derive(Debug)]
pub struct Freeze(Arc<AtomicBool>);

impl Freeze {
    /// Refuses every change from now on, as on a file system that is mounted read-only: nobody may
    /// take for durable what lies in memory.
    pub fn freeze(self) {
        self.0.store(true, Ordering::Release);
    }
}

impl OverlayDisk {
    /// Makes an overlay whose file system has no bound.
    pub fn over(below: Arc<dyn Disk>) -> Arc<dyn Disk> {
        Self::shared(Some(below), false, Arc::default())
    }

    /// Makes an overlay that can be frozen, with the room of the file system below.
    pub fn freezable(below: Arc<dyn Disk>) -> (Arc<dyn Disk>, Freeze) {
        let is_frozen = Arc::new(AtomicBool::new(false));
        let disk = Self::shared(Some(below), true, is_frozen.clone());
        (disk, Freeze(is_frozen))
    }

    /// Makes an overlay that has the room of the file system below. Files that are made in the
    /// overlay take nothing of it.
    pub fn measured_over(below: Arc<dyn Disk>) -> Arc<dyn Disk> {
        Self::shared(Some(below), true, Arc::default())
    }

    fn shared(
        below: Option<Arc<dyn Disk>>,
        is_measured: bool,
        is_frozen: Arc<AtomicBool>,
    ) -> Arc<dyn Disk> {
        Arc::new(Self {
            below,
            changed: Mutex::default(),
            folders: Mutex::default(),
            is_measured,
            is_frozen,
        })
    }

    fn may_change(&self) -> io::Result<()> {
        refuse_if(&self.is_frozen)
    }

    fn find(&self, name: &str) -> io::Result<SharedContent> {
        let mut changed = self.changed.lock();
        match changed.get(name) {
            Some(Some(content)) => Ok(content.clone()),
            Some(None) => Err(ErrorKind::NotFound.into()),
            None => {
                let below = self.below.as_ref().ok_or(ErrorKind::NotFound)?;
                let content = Content::over(name, below.open(name)?.size()?);
                changed.insert(name.to_owned(), Some(content.clone()));
                Ok(content)
            }
        }
    }

    /// Opens the file below that a content lies over. The handle is closed with the file of the
    /// overlay: whoever keeps few files open keeps few open below.
    fn file(&self, content: SharedContent) -> io::Result<Arc<dyn DiskFile>> {
        let source = content.lock().source.clone();
        let opened = source.zip(self.below.as_ref());
        let below = opened.map(|(name, disk)| disk.open(&name)).transpose()?;
        Ok(Arc::new(OverlayFile {
            content,
            below,
            is_frozen: self.is_frozen.clone(),
        }))
    }

    fn names_below(&self) -> io::Result<Vec<String>> {
        self.below
            .as_ref()
            .map_or(Ok(Vec::new()), |disk| disk.list())
    }
}

impl Disk for OverlayDisk {
    fn room(&self) -> io::Result<Option<FsRoom>> {
        match &self.below {
            Some(below) if self.is_measured => below.room(),
            _ => Ok(None),
        }
    }

    fn file_system(&self) -> Option<u64> {
        let below = self.below.as_ref().filter(|_| self.is_measured);
        below.and_then(|below| below.file_system())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.may_change()?;
        if self.list()?.iter().any(|found| found == name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let content = Content::of_zeros(len);
        let mut changed = self.changed.lock();
        changed.insert(name.to_owned(), Some(content.clone()));
        drop(changed);
        self.file(content)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(self.find(name)?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.names_below()?;
        let changed = self.changed.lock();
        let folders = self.folders.lock();
        names.retain(|name| !changed.contains_key(name) && !folders.contains_key(name));
        let there = changed.iter().filter(|(_, file)| file.is_some());
        names.extend(there.map(|(name, _)| name.clone()));
        names.extend(folders.keys().cloned());
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.may_change()?;
        self.find(name)?;
        self.changed.lock().insert(name.to_owned(), None);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.may_change()?;
        let file = self.find(from)?;
        let mut changed = self.changed.lock();
        changed.insert(from.to_owned(), None);
        changed.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.may_change()
    }

    /// Returns the overlay of a folder, always the same one. A folder that is missing below is made
    /// here only.
    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        if let Some(folder) = self.folders.lock().get(name) {
            return Ok(folder.clone());
        }
        let is_below = self.names_below()?.iter().any(|found| found == name);
        let below = self.below.as_ref().filter(|_| is_below);
        let below = below.map(|disk| disk.subdir(name)).transpose()?;
        let folder = Self::shared(below, self.is_measured, self.is_frozen.clone());
        let mut folders = self.folders.lock();
        Ok(folders.entry(name.to_owned()).or_insert(folder).clone())
    }

    /// Returns a lock that keeps nobody away: no other process sees the overlay.
    fn lock(&self, _: &str) -> io::Result<LockGuard> {
        Ok(LockGuard::new(()))
    }

    /// The log starts no thread for a disk on which it only looks.
    fn has_one_thread(&self) -> bool {
        true
    }
}

/// An open file of the overlay.
#[derive(Debug)]
struct OverlayFile {
    content: SharedContent,
    /// The file below, if the content lies over one.
    below: Option<Arc<dyn DiskFile>>,
    is_frozen: Arc<AtomicBool>,
}

fn refuse_if(is_frozen: &AtomicBool) -> io::Result<()> {
    match is_frozen.load(Ordering::Acquire) {
        true => Err(ErrorKind::ReadOnlyFilesystem.into()),
        false => Ok(()),
    }
}

/// Content that all open files of one name share.
type SharedContent = Arc<Mutex<Content>>;

/// Content of a file: blocks of its own over those of a file below.
#[derive(Debug)]
struct Content {
    /// Name of the file below.
    source: Option<String>,
    /// Bytes at the beginning that are read from the file below where no block stands.
    below_len: u64,
    len: u64,
    /// Blocks of [`BLOCK`] bytes that were written, by their number.
    blocks: BTreeMap<u64, Box<[u8]>>,
}

/// The file below a content, if there is one.
type Below<'a> = Option<&'a dyn DiskFile>;

impl Content {
    fn over(name: &str, len: u64) -> SharedContent {
        Arc::new(Mutex::new(Self {
            source: Some(name.to_owned()),
            below_len: len,
            len,
            blocks: BTreeMap::new(),
        }))
    }

    fn of_zeros(len: u64) -> SharedContent {
        Arc::new(Mutex::new(Self {
            source: None,
            below_len: 0,
            len,
            blocks: BTreeMap::new(),
        }))
    }

    /// Fills `buf` from `offset` with bytes of the file below, and with zeros behind them.
    fn read_below(&self, below: Below<'_>, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let there = self.below_len.saturating_sub(offset).min(buf.len() as u64);
        let (found, rest) = buf.split_at_mut(there as usize);
        rest.fill(0);
        match below {
            Some(below) if !found.is_empty() => below.read_exact_at(found, offset),
            _ => Ok(()),
        }
    }

    fn read(&self, below: Below<'_>, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (number, inside) = (at / BLOCK, (at % BLOCK) as usize);
            if let Some(block) = self.blocks.get(&number) {
                let len = (BLOCK as usize - inside).min(buf.len() - done);
                buf[done..done + len].copy_from_slice(&block[inside..inside + len]);
                done += len;
                continue;
            }
            // Read up to the next own block at once.
            let next = self.blocks.range(number..).next();
            let next = next.map_or(u64::MAX, |(number, _)| number * BLOCK);
            let len = (next - at).min((buf.len() - done) as u64) as usize;
            self.read_below(below, &mut buf[done..done + len], at)?;
            done += len;
        }
        Ok(())
    }

    fn write(&mut self, below: Below<'_>, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (number, inside) = (at / BLOCK, (at % BLOCK) as usize);
            let len = (BLOCK as usize - inside).min(bytes.len() - done);
            if !self.blocks.contains_key(&number) {
                let mut block = vec![0; BLOCK as usize].into_boxed_slice();
                // A block that is written as a whole is not read: a disk takes writes where it
                // gives nothing back.
                if len < block.len() {
                    self.read_below(below, &mut block, number * BLOCK)?;
                }
                self.blocks.insert(number, block);
            }
            if let Some(block) = self.blocks.get_mut(&number) {
                block[inside..inside + len].copy_from_slice(&bytes[done..done + len]);
            }
            done += len;
        }
        self.len = self.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        self.len = len;
        self.below_len = self.below_len.min(len);
        drop(self.blocks.split_off(&len.div_ceil(BLOCK)));
        // Bytes behind a cut are zeros if the file grows again.
        if let Some(block) = self.blocks.get_mut(&(len / BLOCK)) {
            block[(len % BLOCK) as usize..].fill(0);
        }
    }
}

impl DiskFile for OverlayFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.content.lock().read(self.below.as_deref(), buf, offset)
    }

    fn write_all_vectored_at(&self, bufs: &[Bytes], offset: u64) -> io::Result<()> {
        refuse_if(&self.is_frozen)?;
        let mut content = self.content.lock();
        let mut at = offset;
        for buf in bufs {
            content.write(self.below.as_deref(), buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        refuse_if(&self.is_frozen)?;
        self.content.lock().set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        refuse_if(&self.is_frozen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FaultyDisk;

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

    fn below_with(files: &[(&str, &[u8])]) -> Arc<dyn Disk> {
        let below: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
        for (name, bytes) in files {
            let file = below.create(name, 0).unwrap();
            file.write_all_vectored_at(&[Bytes::copy_from_slice(bytes)], 0)
                .unwrap();
        }
        below
    }

    #[test]
    fn changes_are_seen_above_and_never_below() {
        let below = below_with(&[("a", b"below"), ("b", b"below"), ("c", b"below")]);
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

    #[test]
    fn writes_anywhere_in_a_file_of_several_blocks_read_back() {
        let block = BLOCK as usize;
        let mut expected: Vec<u8> = (0..4 * block + 100).map(|n| (n % 251) as u8).collect();
        let below = below_with(&[("a", &expected)]);
        let above = OverlayDisk::over(below);
        let file = above.open("a").unwrap();
        for (offset, len) in [(block - 3, 6), (2 * block, block), (4 * block + 90, 60)] {
            let bytes = vec![0xEE; len];
            let end = offset + len;
            expected.resize(expected.len().max(end), 0);
            expected[offset..end].copy_from_slice(&bytes);
            file.write_all_vectored_at(&[bytes.into()], offset as u64)
                .unwrap();
        }
        assert_eq!(read(&*above, "a"), expected);

        // A cut inside of a block of the file below, and one of an own block.
        for cut in [3 * block + 7, block + 1] {
            file.set_len(cut as u64).unwrap();
            file.set_len((4 * block) as u64).unwrap();
            expected[cut..].fill(0);
            expected.resize(4 * block, 0);
            assert_eq!(read(&*above, "a"), expected);
        }
    }

    #[test]
    fn a_long_file_takes_memory_only_where_it_is_written() {
        let above = OverlayDisk::over(Arc::new(FaultyDisk::new()));
        // More than there is memory, so that an allocation of it would fail.
        let file = above.create("long", 1 << 46).unwrap();
        file.write_all_vectored_at(&[Bytes::from_static(b"end")], 1 << 45)
            .unwrap();
        let mut bytes = [1; 5];
        file.read_exact_at(&mut bytes, (1 << 45) - 1).unwrap();
        assert_eq!(&bytes, b"\0end\0");
    }

    #[test]
    fn a_block_that_cannot_be_read_takes_a_write() {
        let disk = FaultyDisk::new();
        let file = disk.create("a", 3 * BLOCK).unwrap();
        file.sync_data().unwrap();
        disk.spoil("a", BLOCK..2 * BLOCK).unwrap();
        let above = OverlayDisk::over(Arc::new(disk));
        let file = above.open("a").unwrap();
        let mut bytes = vec![1; BLOCK as usize];
        assert!(file.read_exact_at(&mut bytes, BLOCK).is_err());
        let written = Bytes::from(vec![7; BLOCK as usize]);
        file.write_all_vectored_at(std::slice::from_ref(&written), BLOCK)
            .unwrap();
        file.read_exact_at(&mut bytes, BLOCK).unwrap();
        assert_eq!(bytes, written);
    }

    #[test]
    fn folders_are_overlays_too_and_a_missing_one_is_made_above_only() {
        let below: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
        let inner = below.subdir("there").unwrap();
        inner.create("a", 1).unwrap();
        let above = OverlayDisk::measured_over(below.clone());
        above.subdir("there").unwrap().remove("a").unwrap();
        assert!(names(&*above.subdir("there").unwrap()).is_empty());
        assert_eq!(names(&*inner), ["a"]);

        above.subdir("new").unwrap().create("b", 1).unwrap();
        assert_eq!(names(&*above.subdir("new").unwrap()), ["b"]);
        assert!(names(&*above).contains(&"new".to_owned()));
        assert!(!names(&*below).contains(&"new".to_owned()));
    }
}
