//! The files of a log: which there are, how large they may grow together, where the next one comes
//! from.

mod handle;
mod ready;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cstore_types::epoch::Epoch;
use parking_lot::{Condvar, Mutex};

use crate::disk::{Disk, DiskFile, FsRoom};
use crate::error::LogError;
use crate::format::{BLOCK, FileHeader, file_name, header_crc};
use crate::limits::{LARGE_FILE_SLACK, MAX_SPARE_FILES};
use crate::types::{FileInfo, FileState, Options, Urgency};
pub(crate) use handle::Handle;
use handle::Handles;
use ready::{Spare, Taken, spare_name};
pub(crate) use ready::{is_leftover, is_ready};

/// A file and what is known of it.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) id: u32,
    pub(crate) handle: Handle,
    pub(crate) info: Mutex<FileInfo>,
}

/// A file that frames may be written to.
#[derive(Debug)]
pub(crate) struct Acquired {
    pub(crate) file: NewFile,
    /// The name of the file is durable. Otherwise [`Files::sync_names`] makes it so, BEFORE a frame of
    /// the file is acknowledged or the inventory lists it.
    pub(crate) is_named: bool,
}

/// A file that was made, and the handle that frames are written through.
#[derive(Debug)]
pub(crate) struct NewFile {
    pub(crate) file: Arc<LogFile>,
    pub(crate) out: Arc<dyn DiskFile>,
    /// True if the file has the content of a retired one, so that its blocks are written.
    pub(crate) is_recycled: bool,
}

#[derive(Debug, Default)]
struct Inner {
    files: BTreeMap<u32, Arc<LogFile>>,
    spares: Vec<Spare>,
    /// A file could not be made ready or prepared. It is tried again when the next one is taken.
    has_failed_to_prepare: bool,
    next_id: u32,
    /// Epoch of the files that are made.
    epoch: Epoch,
    /// File that was made last, or that held the last frame when the log was opened.
    newest: u32,
    allocated: u64,
    /// Bytes that the active file has left.
    active_free: u64,
    /// Bytes that the file that is being made will have; it is allocated, but not active yet.
    making: u64,
    /// File that compaction empties.
    victim: Option<Victim>,
}

/// The file that groups of compaction are copied out of.
#[derive(Debug)]
struct Victim {
    file: u32,
    /// Bytes that they took so far of their part of the reserve. It comes back with the file.
    taken: u64,
}

/// All files of one log.
#[derive(Debug)]
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    handles: Arc<Handles>,
    options: Options,
    inner: Mutex<Inner>,
    /// Told when a file has been prepared.
    prepared: Condvar,
    /// The failed sync after which the folder is not synced any more.
    broken: Mutex<Option<Arc<LogError>>>,
}

impl Files {
    pub(crate) fn new(disk: Arc<dyn Disk>, options: Options) -> Self {
        let inner = Mutex::new(Inner {
            next_id: 1,
            ..Inner::default()
        });
        Self {
            handles: Handles::new(disk.clone(), options.open_files),
            disk,
            options,
            inner,
            prepared: Condvar::new(),
            broken: Mutex::default(),
        }
    }

    pub(crate) fn holds_commits(&self) -> bool {
        self.disk.holds_commits()
    }

    pub(crate) fn takes_real_time(&self) -> bool {
        self.disk.takes_real_time()
    }

    pub(crate) fn get(&self, id: u32) -> Result<Arc<LogFile>, LogError> {
        self.inner
            .lock()
            .files
            .get(&id)
            .cloned()
            .ok_or(LogError::NoFile(id))
    }

    /// Returns the handle of a file that recovery reads.
    pub(crate) fn handle_of(&self, id: u32) -> Handle {
        self.handles.of(id)
    }

    /// Opens a file once more.
    pub(crate) fn open_anew(&self, id: u32) -> Result<Arc<dyn DiskFile>, LogError> {
        self.get(id)?;
        self.disk
            .open(&file_name(id))
            .map_err(LogError::io("open log file again"))
    }

    pub(crate) fn list(&self) -> Vec<FileInfo> {
        self.inner
            .lock()
            .files
            .values()
            .map(|file| file.info.lock().clone())
            .collect()
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.inner.lock().allocated
    }

    /// Takes a file that recovery found.
    pub(crate) fn adopt(&self, handle: Handle, info: FileInfo) {
        let mut inner = self.inner.lock();
        inner.next_id = inner.next_id.max(info.id + 1);
        inner.allocated += info.size;
        let file = LogFile {
            id: info.id,
            handle,
            info: Mutex::new(info),
        };
        inner.files.insert(file.id, Arc::new(file));
    }

    /// Begins an epoch. Called before the first file is made; `newest` is the file of the last
    /// frame.
    pub(crate) fn begin_epoch(&self, epoch: Epoch, newest: u32) {
        let mut inner = self.inner.lock();
        (inner.epoch, inner.newest) = (epoch, newest);
    }

    /// Ids up to `id` were used; they are never used again.
    pub(crate) fn skip_ids(&self, id: u32) {
        let mut inner = self.inner.lock();
        inner.next_id = inner.next_id.max(id.saturating_add(1));
    }

    /// Returns the bytes that groups of this urgency can still append, in the active file or in new
    /// ones.
    pub(crate) fn free(&self, urgency: Urgency) -> u64 {
        self.free_with(urgency, self.fs_free(urgency))
    }

    /// Returns true if groups of this urgency can still append `bytes`. Measures the file system only
    /// if the allocated files do not suffice.
    pub(crate) fn has_free(&self, bytes: u64, urgency: Urgency) -> bool {
        self.free_with(urgency, 0) >= bytes || self.free(urgency) >= bytes
    }

    /// Returns the bytes that groups of this urgency can still append if new files may take `fs_free`
    /// bytes of the file system.
    fn free_with(&self, urgency: Urgency, fs_free: u64) -> u64 {
        let inner = self.inner.lock();
        let left = self.left_by(&inner, urgency);
        let room = self.room_beside(&inner, fs_free, left) + inner.active_free + inner.making;
        room.saturating_sub(left)
    }

    /// Checks that a group that takes `needed` bytes leaves the reserve of more urgent groups.
    /// `active_free` bytes of the active file count as room. Measures the file system only if the
    /// allocated files do not suffice.
    ///
    /// # Errors
    /// [`LogError::Full`].
    pub(crate) fn admit(
        &self,
        needed: u64,
        active_free: u64,
        urgency: Urgency,
    ) -> Result<(), LogError> {
        let check = |fs_free: u64| {
            let inner = self.inner.lock();
            let left = self.left_by(&inner, urgency);
            let room = self.room_beside(&inner, fs_free, left) + active_free;
            match left == 0 || room >= needed + left {
                true => Ok(()),
                false => Err(LogError::Full {
                    needed,
                    free: room.saturating_sub(left),
                }),
            }
        };
        check(0).or_else(|_| check(self.fs_free(urgency)))
    }

    /// Returns the bytes that new files may still take from the file system for groups of
    /// [`Urgency::Normal`].
    pub(crate) fn growth(&self) -> u64 {
        let fs_free = self.fs_free(Urgency::Normal);
        self.new_room(&self.inner.lock(), fs_free)
    }

    pub(crate) fn file_system(&self) -> Option<u64> {
        self.disk.file_system()
    }

    /// Returns the bytes that new files may take for groups of compaction.
    pub(crate) fn room_for_compaction(&self) -> u64 {
        let fs_free = self.fs_free(Urgency::Compaction);
        self.room_of(&self.inner.lock(), fs_free)
    }

    /// Returns the room for new files of which `left` bytes are left to others. In a log without files
    /// that are ready that is a part of `max_bytes` only, not of the file system.
    fn room_beside(&self, inner: &Inner, fs_free: u64, left: u64) -> u64 {
        let is_on_disk = self.options.ready_files > 0;
        let not_there = if is_on_disk { 0 } else { left };
        self.room_of(inner, fs_free.saturating_add(not_there))
    }

    pub(crate) fn fs_room(&self) -> Option<FsRoom> {
        self.disk.room().ok().flatten()
    }

    /// Returns the bytes that groups of this urgency may take of the file system. One that cannot be
    /// measured is left to its own errors.
    fn fs_free(&self, urgency: Urgency) -> u64 {
        let room = self.fs_room();
        let floor = match urgency {
            Urgency::Normal => self.options.floor_bytes,
            Urgency::Urgent | Urgency::Compaction => 0,
        };
        room.map_or(u64::MAX, |room| room.free.saturating_sub(floor))
    }

    /// Returns the bytes that a group leaves to others. What compaction has taken so far is not
    /// kept for it a second time: others see the same room as before it began, until its file is
    /// retired.
    fn left_by(&self, inner: &Inner, urgency: Urgency) -> u64 {
        let taken = inner
            .victim
            .as_ref()
            .map_or(0, |victim| victim.taken.min(self.options.compaction_bytes));
        match urgency {
            Urgency::Normal => self.options.reserve_bytes.saturating_sub(taken),
            Urgency::Urgent => self.options.compaction_bytes - taken,
            Urgency::Compaction => 0,
        }
    }

    /// A frame has landed: the active file has `free` left, and groups of compaction took
    /// `compacted` of it. Without a file that is being emptied nothing comes back for what they
    /// took.
    pub(crate) fn landed(&self, free: u64, compacted: u64) {
        let mut inner = self.inner.lock();
        inner.active_free = free;
        if let Some(victim) = &mut inner.victim {
            victim.taken += compacted;
        }
    }

    /// Groups of compaction are copied out of `file` from now on.
    pub(crate) fn begin_compaction(&self, file: u32) {
        let mut inner = self.inner.lock();
        inner.victim = inner
            .files
            .contains_key(&file)
            .then_some(Victim { file, taken: 0 });
    }

    /// Ends a compaction: what it took counts as taken from now on, and its whole reserve is kept
    /// again.
    pub(crate) fn settle_compaction(&self) {
        self.inner.lock().victim = None;
    }

    /// Returns the bytes that compaction's part of the reserve lacks.
    pub(crate) fn missing(&self) -> u64 {
        let fs_free = self.fs_free(Urgency::Compaction);
        let inner = self.inner.lock();
        let room = self.room_of(&inner, fs_free) + inner.active_free + inner.making;
        self.left_by(&inner, Urgency::Urgent).saturating_sub(room)
    }

    /// The active file, which may be a new one, has so much left.
    pub(crate) fn set_active_free(&self, free: u64) {
        let mut inner = self.inner.lock();
        (inner.active_free, inner.making) = (free, 0);
    }

    /// Room for new files in bytes, those that are ready or recycled among it.
    fn room_of(&self, inner: &Inner, fs_free: u64) -> u64 {
        let spares = inner.spares.iter().map(|spare| spare.len);
        self.new_room(inner, fs_free) + spares.sum::<u64>()
    }

    fn new_room(&self, inner: &Inner, fs_free: u64) -> u64 {
        let allowed = self.options.max_bytes.saturating_sub(inner.allocated);
        allowed.min(fs_free) / BLOCK * BLOCK
    }

    /// Returns a new file with room for `needed` bytes: one that is prepared, else a recycled one, else
    /// a new one.
    pub(crate) fn acquire(&self, needed: u64, durable_seq: u64) -> Result<Acquired, LogError> {
        let (file, is_named) = match self.take_spare(needed)? {
            Taken::Prepared(spare, prepared) => (self.use_prepared(&spare, prepared)?, false),
            Taken::Spare(id, spare) => (self.reuse(id, spare, durable_seq)?, true),
            Taken::Nothing(id) => (self.create(id, self.grant(needed)?, durable_seq)?, true),
        };
        Ok(Acquired { file, is_named })
    }

    /// Like [`Self::acquire`], at recovery, when the files that are there take `others` bytes and
    /// are not counted yet. What is copied was in one of them, so it is not refused; it only takes
    /// no more than it needs on a full disk.
    pub(crate) fn acquire_for_copy(
        &self,
        needed: u64,
        others: u64,
        durable_seq: u64,
    ) -> Result<NewFile, LogError> {
        let fs_free = self.fs_free(Urgency::Compaction);
        let id = match self.take_spare(needed)? {
            Taken::Prepared(spare, prepared) => {
                let file = self.use_prepared(&spare, prepared)?;
                self.sync_names()?;
                return Ok(file);
            }
            Taken::Spare(id, spare) => return self.reuse(id, spare, durable_seq),
            Taken::Nothing(id) => id,
        };
        let size = {
            let mut inner = self.inner.lock();
            let room = self.options.max_bytes.saturating_sub(others);
            let room = room.min(fs_free) / BLOCK * BLOCK;
            let size = needed.max(self.options.file_bytes.min(room));
            inner.allocated += size;
            size
        };
        self.create(id, size, durable_seq)
    }

    fn insert(&self, id: u32, out: Arc<dyn DiskFile>, size: u64, header: &Bytes) -> NewFile {
        let mut inner = self.inner.lock();
        let info = FileInfo {
            id,
            size,
            used: BLOCK,
            records: 0,
            state: FileState::Active,
            seqs: None,
            epoch: inner.epoch.number,
            header_crc: header_crc(header),
            footer_crc: 0,
            holes_crc: 0,
        };
        let file = Arc::new(LogFile {
            id,
            handle: self.handles.keep(id, out.clone()),
            info: Mutex::new(info),
        });
        inner.files.insert(id, file.clone());
        inner.newest = id;
        NewFile {
            file,
            out,
            is_recycled: false,
        }
    }

    fn superblock_seq(&self) -> u64 {
        let inventory = self.options.inventory.as_ref();
        inventory.map_or(0, |inventory| inventory.superblock_seq())
    }

    fn header(&self, file: u32, capacity: u64, durable_seq: u64) -> FileHeader {
        let (epoch, file_before) = {
            let inner = self.inner.lock();
            (inner.epoch, inner.newest)
        };
        let superblock_seq = self.superblock_seq();
        // A log without epochs has files of version 1, in which these fields are zero.
        let has_epochs = epoch.number > 0;
        FileHeader {
            file,
            owner: self.options.owner,
            capacity,
            durable_seq,
            epoch,
            file_before: if has_epochs { file_before } else { 0 },
            superblock_seq: if has_epochs { superblock_seq } else { 0 },
        }
    }

    /// The new header is durable before the name is: a file of a log name always has a valid
    /// header.
    fn reuse(&self, id: u32, spare: Spare, durable_seq: u64) -> Result<NewFile, LogError> {
        let header = self.header(id, spare.len, durable_seq).encode();
        let make = || {
            let handle = self.disk.open(&spare.name)?;
            handle.write_all_vectored_at(std::slice::from_ref(&header), 0)?;
            handle.sync_data()?;
            self.disk.rename(&spare.name, &file_name(id))?;
            Ok(handle)
        };
        let handle = make().map_err(|error| {
            // It is not tried again: what cannot be written goes, and its room comes back.
            if self.disk.remove(&spare.name).is_ok() {
                self.inner.lock().allocated -= spare.len;
            }
            LogError::io("recycle log file")(error)
        })?;
        self.sync_folder("sync folder of recycled log file")?;
        let file = self.insert(id, handle, spare.len, &header);
        Ok(NewFile {
            is_recycled: spare.is_recycled(),
            ..file
        })
    }

    /// Makes the names of new files durable.
    pub(crate) fn sync_names(&self) -> Result<(), LogError> {
        self.sync_folder("sync folder of new log file")
    }

    /// A failed sync of the folder is never tried again: which names the disk has is unknown from
    /// then on. Syncs follow each other, so that one that returns after a failed one is not taken
    /// for a success: it may have covered nothing.
    fn sync_folder(&self, doing: &'static str) -> Result<(), LogError> {
        let mut broken = self.broken.lock();
        if broken.is_none() {
            let synced = self.disk.sync_dir().map_err(LogError::io(doing));
            *broken = synced.err().map(Arc::new);
        }
        broken
            .clone()
            .map_or(Ok(()), |why| Err(LogError::Poisoned(why)))
    }

    /// Makes a file of `size` bytes that were granted.
    fn create(&self, id: u32, size: u64, durable_seq: u64) -> Result<NewFile, LogError> {
        let header = self.header(id, size, durable_seq).encode();
        let undo = |error: io::Error| {
            self.inner.lock().allocated -= size;
            let _ = self.disk.remove(&unfinished_name(id));
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::Full {
                    needed: size,
                    free: 0,
                },
                _ => LogError::io("create log file")(error),
            }
        };
        let make = || {
            let handle = self.disk.create(&unfinished_name(id), size)?;
            handle.write_all_vectored_at(std::slice::from_ref(&header), 0)?;
            handle.sync_data()?;
            self.disk.rename(&unfinished_name(id), &file_name(id))?;
            Ok(handle)
        };
        let handle = make().map_err(undo)?;
        self.sync_names()?;
        Ok(self.insert(id, handle, size, &header))
    }

    /// Decides the size of a new file and counts it. Spares that are too small make room for it.
    fn grant(&self, needed: u64) -> Result<u64, LogError> {
        let mut fs_free = self.fs_free(Urgency::Compaction);
        let mut inner = self.inner.lock();
        while self.new_room(&inner, fs_free) < needed {
            let free = self.new_room(&inner, fs_free);
            let idle = inner.spares.iter().rposition(|spare| !spare.is_preparing());
            let Some(spare) = idle.map(|at| inner.spares.swap_remove(at)) else {
                return Err(LogError::Full { needed, free });
            };
            // Nobody waits for the file system with the lock.
            drop(inner);
            let removed = self.disk.remove(&spare.name);
            fs_free = self.fs_free(Urgency::Compaction);
            inner = self.inner.lock();
            if let Err(error) = removed {
                inner.spares.push(spare);
                return Err(LogError::io("remove spare log file")(error));
            }
            inner.allocated -= spare.len;
        }
        // A file made for one large group has room for the small ones that follow it.
        let wanted = self.options.file_bytes.max(needed + LARGE_FILE_SLACK);
        let beyond_floor = fs_free.saturating_sub(self.options.floor_bytes);
        let size = needed.max(wanted.min(self.new_room(&inner, beyond_floor)));
        inner.allocated += size;
        inner.making = size.saturating_sub(2 * BLOCK);
        Ok(size)
    }

    /// A file was cut to `size`.
    pub(crate) fn shrunk(&self, file: &LogFile, size: u64) {
        let mut inner = self.inner.lock();
        let mut info = file.info.lock();
        inner.allocated -= info.size.saturating_sub(size);
        info.size = size;
    }

    /// The content of a file can never come back when this returns. After a failed sync of the
    /// folder the log is to be poisoned, and the file is gone for this process; after other errors
    /// it is as it was. A file of standard size that nobody reads is kept for the next roll, others
    /// are removed.
    pub(crate) fn retire(&self, id: u32) -> Result<(), LogError> {
        let (file, recycle) = {
            let mut inner = self.inner.lock();
            let file = inner.files.remove(&id).ok_or(LogError::NoFile(id))?;
            if file.info.lock().state == FileState::Active {
                inner.files.insert(id, file);
                return Err(LogError::NoFile(id));
            }
            let standard = file.info.lock().size == self.options.file_bytes;
            let recycle =
                standard && inner.spares.len() < MAX_SPARE_FILES && Arc::strong_count(&file) == 1;
            (file, recycle)
        };
        if let Some(inventory) = &self.options.inventory
            && let Err(error) = inventory.leaving(id)
        {
            self.inner.lock().files.insert(id, file);
            let why = LogError::io("note that a log file leaves")(error);
            return Err(LogError::Poisoned(Arc::new(why)));
        }
        let (name, spare) = (file_name(id), spare_name(id));
        let moved = if recycle {
            self.disk.rename(&name, &spare)
        } else {
            self.disk.remove(&name)
        };
        if let Err(error) = moved {
            self.inner.lock().files.insert(id, file);
            return Err(LogError::io("retire log file")(error));
        }
        self.sync_folder("sync folder of retired log file")?;
        if let Some(inventory) = &self.options.inventory {
            inventory.gone(id);
        }
        let len = file.info.lock().size;
        let mut inner = self.inner.lock();
        // At the moment in which its bytes are there again: they are not promised a second time.
        if inner
            .victim
            .as_ref()
            .is_some_and(|victim| victim.file == id)
        {
            inner.victim = None;
        }
        if recycle {
            inner.spares.push(Spare::idle(spare, len));
        } else {
            inner.allocated -= len;
        }
        Ok(())
    }
}

fn next_id(inner: &mut Inner) -> Result<u32, LogError> {
    let id = inner.next_id;
    inner.next_id = id.checked_add(1).ok_or(LogError::NoFile(id))?;
    Ok(id)
}

fn unfinished_name(id: u32) -> String {
    format!("{id:08x}.new")
}
