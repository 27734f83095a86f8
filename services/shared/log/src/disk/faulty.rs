//! A disk in memory that lies the way disks lie.
//!
//! A file has content that is durable, and writes that only the page cache has. `sync_data` makes
//! those durable.
//! * [`FaultyDisk::kill`]: the process dies, the page cache stays: everything is visible, nothing
//!   more is durable.
//! * [`FaultyDisk::power_loss`]: of each unsynced write all, some 512-byte sectors or nothing
//!   survives; of the unsynced operations on a folder a prefix survives.
//! * A failed sync marks the pages clean: they stay visible, and no later sync makes them durable.
//!
//! Handles of a dead process fail, so that its threads cannot write into the next life.

mod change;
mod fault;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Disk, DiskFile, FsRoom, LockGuard};
use change::{Change, DirChange, Inode, apply, apply_dir, lose};
use fault::error_of;
pub use fault::{Fault, Verb};

#[derive(Debug, Clone, Default)]
struct World {
    epoch: u64,
    next_inode: u64,
    inodes: HashMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<(String, DirChange)>,
    locks: HashSet<String>,
    faults: Vec<(Verb, u64, Fault)>,
    /// Fault of every call of a verb from a number on.
    lasting_fault: Option<(Verb, u64, Fault)>,
    calls: HashMap<Verb, u64>,
    ignores_syncs: bool,
    /// Every change fails.
    refuses_writes: bool,
    /// No file is opened or made: the process has no descriptor left.
    refuses_opens: bool,
    one_thread: bool,
    holds_commits: bool,
    /// Size of the file system; without one it takes everything.
    fs_total: Option<u64>,
    /// Bytes that others have put on the file system.
    fs_others: u64,
}

impl World {
    fn fs_free(&self) -> Option<u64> {
        let lens = self.names.values().filter_map(|id| self.inodes.get(id));
        let used: u64 = lens.map(|inode| inode.cache.len() as u64).sum();
        Some(self.fs_total?.saturating_sub(used + self.fs_others))
    }

    /// Counts a call and answers the fault that strikes it.
    fn strike(&mut self, verb: Verb) -> Option<Fault> {
        let count = self.calls.entry(verb).or_default();
        *count += 1;
        let nth = *count;
        if self.refuses_writes && verb.is_change() {
            return Some(Fault::Erofs);
        }
        if self.refuses_opens && matches!(verb, Verb::Open | Verb::Create) {
            return Some(Fault::Emfile);
        }
        if verb == Verb::Sync && self.ignores_syncs {
            return Some(Fault::Skip);
        }
        if let Some((v, first, fault)) = self.lasting_fault
            && v == verb
            && nth >= first
        {
            return Some(fault);
        }
        let at = self
            .faults
            .iter()
            .position(|(v, n, _)| *v == verb && *n == nth)?;
        Some(self.faults.swap_remove(at).2)
    }
}

/// A folder of the lying disk, as one process sees it.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    world: Arc<Mutex<World>>,
    epoch: u64,
    dir: String,
    /// Every change through this view is refused, as through a [`super::FolderReader`].
    is_reader: bool,
}

impl Default for FaultyDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl FaultyDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self {
            world: Arc::default(),
            epoch: 0,
            dir: String::new(),
            is_reader: false,
        }
    }

    /// An empty disk for a simulation, where the order of events must follow from a seed alone.
    pub fn with_one_thread() -> Self {
        let disk = Self::new();
        disk.world.lock().one_thread = true;
        disk
    }

    /// Sets [`Disk::holds_commits`].
    pub fn hold_commits(&self, holds: bool) {
        self.world.lock().holds_commits = holds;
    }

    /// Bounds the file system, of which others take a part.
    pub fn bound(&self, total: u64, others: u64) {
        let mut world = self.world.lock();
        (world.fs_total, world.fs_others) = (Some(total), others);
    }

    /// The `nth` call of `verb` from now on (1 is the next) meets `fault`.
    pub fn strike(&self, verb: Verb, nth: u64, fault: Fault) {
        let mut world = self.world.lock();
        let done = world.calls.get(&verb).copied().unwrap_or_default();
        world.faults.push((verb, done + nth, fault));
    }

    /// The `nth` call of `verb` from now on and every later one meet `fault`, until [`Self::calm`].
    pub fn strike_from(&self, verb: Verb, nth: u64, fault: Fault) {
        let mut world = self.world.lock();
        let done = world.calls.get(&verb).copied().unwrap_or_default();
        world.lasting_fault = Some((verb, done + nth, fault));
    }

    /// Returns a copy of the disk as it is now. Later changes of the one are not seen in the other.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self {
            world: Arc::new(Mutex::new(self.world.lock().clone())),
            ..self.clone()
        }
    }

    /// Refuses every later change, as a disk whose file system was mounted read-only after an error;
    /// or takes them again.
    pub fn refuse_writes(&self, refuses: bool) {
        self.world.lock().refuses_writes = refuses;
    }

    /// Fails every later open and creation of a file with EMFILE, as for a process without descriptors;
    /// or opens and creates files again.
    pub fn refuse_opens(&self, refuses: bool) {
        self.world.lock().refuses_opens = refuses;
    }

    /// Makes every later sync of a file return at once without effect, as on a disk that lies about
    /// its cache.
    pub fn ignore_syncs(&self) {
        self.world.lock().ignores_syncs = true;
    }

    /// Forgets faults that have not struck.
    pub fn calm(&self) {
        let mut world = self.world.lock();
        world.faults.clear();
        world.lasting_fault = None;
    }

    /// How often `verb` was called.
    pub fn calls(&self, verb: Verb) -> u64 {
        self.world
            .lock()
            .calls
            .get(&verb)
            .copied()
            .unwrap_or_default()
    }

    /// The process dies; answers the disk as the next process sees it.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut world = self.world.lock();
        world.epoch += 1;
        world.locks.clear();
        Self {
            world: self.world.clone(),
            epoch: world.epoch,
            dir: self.dir.clone(),
            is_reader: false,
        }
    }

    /// Power is lost; answers the disk as the next process sees it. What survives depends on `seed`
    /// only.
    #[must_use]
    pub fn power_loss(&self, seed: u64) -> Self {
        let next = self.kill();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = next.world.lock();
        let keep = rng.random_range(0..=world.pending_names.len());
        let survivors: Vec<DirChange> = world
            .pending_names
            .drain(..)
            .take(keep)
            .map(|(_, change)| change)
            .collect();
        let mut names = world.durable_names.clone();
        survivors
            .iter()
            .for_each(|change| apply_dir(&mut names, change));
        world.durable_names = names.clone();
        world.names = names;
        let mut order: Vec<u64> = world.inodes.keys().copied().collect();
        order.sort_unstable();
        for inode in order {
            if let Some(inode) = world.inodes.get_mut(&inode) {
                let pending = std::mem::take(&mut inode.pending);
                pending
                    .iter()
                    .for_each(|change| lose(&mut inode.durable, change, &mut rng));
                inode.cache = inode.durable.clone();
            }
        }
        drop(world);
        next
    }

    /// Flips bits of a file, in cache and on the medium, as rot does.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn rot(&self, name: &str, offset: u64, mask: u8) -> io::Result<()> {
        let mut world = self.world.lock();
        let inode = *world
            .names
            .get(&self.path(name))
            .ok_or(io::ErrorKind::NotFound)?;
        if let Some(inode) = world.inodes.get_mut(&inode) {
            for content in [&mut inode.durable, &mut inode.cache] {
                if let Some(byte) = content.get_mut(offset as usize) {
                    *byte ^= mask;
                }
            }
        }
        Ok(())
    }

    /// Makes bytes of a file unreadable: they answer EIO until they are written again, as sectors
    /// that a drive has lost.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn spoil(&self, name: &str, bytes: Range<u64>) -> io::Result<()> {
        let mut world = self.world.lock();
        let inode = *world
            .names
            .get(&self.path(name))
            .ok_or(io::ErrorKind::NotFound)?;
        if let Some(inode) = world.inodes.get_mut(&inode) {
            inode.bad.push(bytes);
        }
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.dir)
    }

    fn live(&self) -> io::Result<parking_lot::MutexGuard<'_, World>> {
        let world = self.world.lock();
        if world.epoch != self.epoch {
            return Err(io::Error::other("this process is dead"));
        }
        Ok(world)
    }

    /// Counts a call that is allowed through this view, and returns the fault that strikes it.
    fn struck(&self, world: &mut World, verb: Verb) -> Option<Fault> {
        let fault = world.strike(verb);
        match self.is_reader && verb.is_change() {
            true => Some(Fault::Erofs),
            false => fault,
        }
    }

    fn change_names(world: &mut World, dir: &str, change: DirChange) {
        apply_dir(&mut world.names, &change);
        world.pending_names.push((dir.to_owned(), change));
    }
}

impl Disk for FaultyDisk {
    fn room(&self) -> io::Result<Option<FsRoom>> {
        let mut world = self.live()?;
        if let Some(error) = self.struck(&mut world, Verb::Size).and_then(error_of) {
            return Err(error);
        }
        let room = world.fs_free().zip(world.fs_total);
        Ok(room.map(|(free, total)| FsRoom { free, total }))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.live()?;
        if let Some(error) = self.struck(&mut world, Verb::Create).and_then(error_of) {
            return Err(error);
        }
        let path = self.path(name);
        if world.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if world.fs_free().is_some_and(|free| free < len) {
            return Err(io::Error::from_raw_os_error(28));
        }
        world.next_inode += 1;
        let id = world.next_inode;
        let mut inode = Inode::default();
        apply(&mut inode.cache, &Change::SetLen(len));
        inode.pending.push(Change::SetLen(len));
        world.inodes.insert(id, inode);
        Self::change_names(&mut world, &self.dir, DirChange::Link(path, id));
        drop(world);
        Ok(Arc::new(FaultyFile {
            disk: self.clone(),
            inode: id,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.live()?;
        if let Some(error) = self.struck(&mut world, Verb::Open).and_then(error_of) {
            return Err(error);
        }
        let inode = *world
            .names
            .get(&self.path(name))
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(FaultyFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn for_reads(&self) -> Option<Arc<dyn Disk>> {
        drop(self.live().ok()?);
        Some(Arc::new(Self {
            is_reader: true,
            ..self.clone()
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut world = self.live()?;
        if let Some(error) = self.struck(&mut world, Verb::List).and_then(error_of) {
            return Err(error);
        }
        let inside = |path: &String| {
            let rest = path.strip_prefix(&self.dir)?;
            Some(rest.split('/').next().unwrap_or(rest).to_owned())
        };
        let mut names: Vec<String> = world.names.keys().filter_map(inside).collect();
        names.dedup();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.live()?;
        if let Some(error) = self.struck(&mut world, Verb::Name).and_then(error_of) {
            return Err(error);
        }
        let path = self.path(name);
        if !world.names.contains_key(&path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Self::change_names(&mut world, &self.dir, DirChange::Unlink(path));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.live()?;
        if let Some(error) = self.struck(&mut world, Verb::Name).and_then(error_of) {
            return Err(error);
        }
        let (from, to) = (self.path(from), self.path(to));
        if !world.names.contains_key(&from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Self::change_names(&mut world, &self.dir, DirChange::Rename(from, to));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut world = self.live()?;
        let fault = self.struck(&mut world, Verb::SyncDir);
        if fault == Some(Fault::Skip) {
            return Ok(());
        }
        if let Some(error) = fault.and_then(error_of) {
            // Unlike data, names are in the journal: none of them is durable now, and a later sync
            // that returns covers them, of another process too.
            return Err(error);
        }
        let pending = std::mem::take(&mut world.pending_names);
        for (dir, change) in pending {
            if dir == self.dir {
                apply_dir(&mut world.durable_names, &change);
            } else {
                world.pending_names.push((dir, change));
            }
        }
        Ok(())
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let mut world = self.live()?;
        if let Some(error) = self.struck(&mut world, Verb::Folder).and_then(error_of) {
            return Err(error);
        }
        drop(world);
        Ok(Arc::new(Self {
            dir: format!("{}{name}/", self.dir),
            ..self.clone()
        }))
    }

    fn lock(&self, name: &str) -> io::Result<LockGuard> {
        let mut world = self.live()?;
        if let Some(error) = self.struck(&mut world, Verb::Lock).and_then(error_of) {
            return Err(error);
        }
        let path = self.path(name);
        if !world.locks.insert(path.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(LockGuard::new(Held {
            disk: self.clone(),
            path,
        }))
    }

    fn has_one_thread(&self) -> bool {
        self.world.lock().one_thread
    }

    fn holds_commits(&self) -> bool {
        self.world.lock().holds_commits
    }
}

struct Held {
    disk: FaultyDisk,
    path: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Ok(mut world) = self.disk.live() {
            world.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    inode: u64,
}

impl FaultyFile {
    fn with<T>(
        &self,
        verb: Verb,
        act: impl FnOnce(&mut Inode, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut world = self.disk.live()?;
        let fault = self.disk.struck(&mut world, verb);
        let inode = world
            .inodes
            .get_mut(&self.inode)
            .ok_or(io::ErrorKind::NotFound)?;
        act(inode, fault)
    }
}

impl DiskFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        self.with(Verb::Size, |inode, fault| {
            let error = fault.and_then(error_of);
            error.map_or(Ok(inode.cache.len() as u64), Err)
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(Verb::Read, |inode, fault| {
            if let Some(error) = fault.and_then(error_of) {
                return Err(error);
            }
            let end = offset as usize + buf.len();
            let is_hit = |bad: &Range<u64>| bad.start < end as u64 && offset < bad.end;
            if inode.bad.iter().any(is_hit) {
                return Err(io::Error::from_raw_os_error(5));
            }
            let content = inode
                .cache
                .get(offset as usize..end)
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(content);
            Ok(())
        })
    }

    fn write_all_vectored_at(&self, bufs: &[Bytes], offset: u64) -> io::Result<()> {
        self.with(Verb::Write, |inode, fault| {
            let mut data = bufs.concat();
            let error = fault.and_then(error_of);
            if error.is_some() {
                // A failing write may have written a part.
                data.truncate(data.len() / 2);
            }
            let written = offset..offset + data.len() as u64;
            let bad = std::mem::take(&mut inode.bad);
            let left = |bad: Range<u64>| {
                let before = bad.start..bad.end.min(written.start);
                let behind = bad.start.max(written.end)..bad.end;
                [before, behind].into_iter().filter(|left| !left.is_empty())
            };
            inode.bad = bad.into_iter().flat_map(left).collect();
            let change = Change::Write(offset, data);
            apply(&mut inode.cache, &change);
            inode.pending.push(change);
            error.map_or(Ok(()), Err)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(Verb::SetLen, |inode, fault| {
            if let Some(error) = fault.and_then(error_of) {
                return Err(error);
            }
            apply(&mut inode.cache, &Change::SetLen(len));
            inode.pending.push(Change::SetLen(len));
            Ok(())
        })
    }

    fn is_overwritten_in_place(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(Verb::Sync, |inode, fault| {
            if fault == Some(Fault::Skip) {
                return Ok(());
            }
            let pending = std::mem::take(&mut inode.pending);
            if let Some(error) = fault.and_then(error_of) {
                return Err(error);
            }
            pending
                .iter()
                .for_each(|change| apply(&mut inode.durable, change));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(disk: &FaultyDisk) -> Vec<u8> {
        let file = disk.open("a").unwrap();
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn prepared() -> (FaultyDisk, Arc<dyn DiskFile>) {
        let disk = FaultyDisk::new();
        let file = disk.create("a", 4).unwrap();
        disk.sync_dir().unwrap();
        file.sync_data().unwrap();
        (disk, file)
    }

    #[test]
    fn unsynced_writes_survive_a_kill_but_not_every_power_loss() {
        let mut lost = 0;
        for seed in 0..32 {
            let (disk, file) = prepared();
            file.write_all_vectored_at(&[Bytes::from_static(b"abcd")], 0)
                .unwrap();
            let disk = disk.kill();
            assert_eq!(content(&disk), b"abcd");
            lost += usize::from(content(&disk.power_loss(seed)) != b"abcd");
        }
        assert!(lost > 0 && lost < 32);
    }

    #[test]
    fn after_a_failed_sync_the_data_is_visible_and_never_durable() {
        let (disk, file) = prepared();
        file.write_all_vectored_at(&[Bytes::from_static(b"abcd")], 0)
            .unwrap();
        disk.strike(Verb::Sync, 1, Fault::Eio);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(content(&disk), b"abcd");
        assert_eq!(content(&disk.power_loss(1)), [0; 4]);
    }

    #[test]
    fn a_dead_process_writes_no_more() {
        let (disk, file) = prepared();
        let _next = disk.kill();
        assert!(
            file.write_all_vectored_at(&[Bytes::from_static(b"x")], 0)
                .is_err()
        );
        assert!(disk.list().is_err());
    }
}
