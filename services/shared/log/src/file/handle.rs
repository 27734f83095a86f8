//! Handles of the files of a log: opened when they are used, and only so many kept open, because a
//! process may have fewer descriptors than a log has files.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, read_again};
use crate::format::file_name;

/// Handles that are open, bounded by a number. One more is made room for by closing the one that
/// was not used for longest.
#[derive(Debug)]
pub(crate) struct Handles {
    disk: Arc<dyn Disk>,
    /// Handles that are kept. Readers at work hold theirs for as long as they read.
    max: usize,
    /// Uses of all handles so far.
    uses: AtomicU64,
    open: Mutex<Vec<Weak<Slot>>>,
}

/// A handle that may be open.
#[derive(Debug)]
struct Slot {
    id: u32,
    kept: Mutex<Option<Arc<dyn DiskFile>>>,
    /// Number of its last use.
    used: AtomicU64,
}

/// The handle of one file. Clones share it; it is closed with the last of them at the latest.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    slot: Arc<Slot>,
    all: Arc<Handles>,
}

impl Handles {
    pub(crate) fn new(disk: Arc<dyn Disk>, max: usize) -> Arc<Self> {
        Arc::new(Self {
            disk,
            max: max.max(1),
            uses: AtomicU64::new(0),
            open: Mutex::default(),
        })
    }

    /// Returns the handle of a file, which is not opened yet.
    pub(crate) fn of(self: &Arc<Self>, id: u32) -> Handle {
        let slot = Slot {
            id,
            kept: Mutex::default(),
            used: AtomicU64::new(0),
        };
        Handle {
            slot: Arc::new(slot),
            all: self.clone(),
        }
    }

    /// Returns the handle of a file that was opened already.
    pub(crate) fn keep(self: &Arc<Self>, id: u32, file: Arc<dyn DiskFile>) -> Handle {
        let handle = self.of(id);
        handle.touch();
        *handle.slot.kept.lock() = Some(file);
        self.admit(&handle.slot);
        handle
    }

    /// Counts a handle that was opened, and closes others if there are too many.
    fn admit(&self, slot: &Arc<Slot>) {
        let mut open = self.open.lock();
        open.retain(|other| other.strong_count() > 0);
        let too_many = (open.len() + 1).saturating_sub(self.max);
        if too_many > 0 {
            open.sort_by_cached_key(last_use);
            let mut closed = 0;
            open.retain(|other| {
                let closes = closed < too_many && close(other);
                closed += usize::from(closes);
                !closes
            });
        }
        open.push(Arc::downgrade(slot));
    }

    /// Closes all handles that nobody is just opening.
    fn close_all(&self) {
        self.open.lock().retain(|slot| !close(slot));
    }
}

fn last_use(slot: &Weak<Slot>) -> u64 {
    let slot = slot.upgrade();
    slot.map_or(0, |slot| slot.used.load(Ordering::Relaxed))
}

/// Closes a handle. Returns false for one that is in use at this moment.
fn close(slot: &Weak<Slot>) -> bool {
    let Some(slot) = slot.upgrade() else {
        return true;
    };
    let kept = slot.kept.try_lock();
    kept.map(|mut kept| *kept = None).is_some()
}

impl Handle {
    fn touch(&self) {
        let now = self.all.uses.fetch_add(1, Ordering::Relaxed);
        self.slot.used.store(now, Ordering::Relaxed);
    }

    /// Returns the open file, which stays open for as long as the caller has it. What is written
    /// MUST be synced through the same one: another one may not hear of an error of the disk.
    ///
    /// # Errors
    /// `NotFound` if the file was retired, and the system's.
    pub(crate) fn open(&self) -> io::Result<Arc<dyn DiskFile>> {
        self.touch();
        let mut kept = self.slot.kept.lock();
        if let Some(file) = &*kept {
            return Ok(file.clone());
        }
        let name = file_name(self.slot.id);
        let file = match self.all.disk.open(&name) {
            // Sockets of this process may have taken the descriptors: free ours and try once more.
            Err(error) if is_want_of_descriptors(&error) => {
                self.all.close_all();
                self.all.disk.open(&name)?
            }
            opened => opened?,
        };
        *kept = Some(file.clone());
        drop(kept);
        self.all.admit(&self.slot);
        Ok(file)
    }

    /// Returns the file if it is open and nobody is just opening or closing it. Does not block.
    pub(crate) fn kept(&self) -> Option<Arc<dyn DiskFile>> {
        self.touch();
        self.slot.kept.try_lock()?.clone()
    }

    /// Returns the length of the file, asked for again if the medium fails.
    pub(crate) fn size(&self) -> io::Result<u64> {
        read_again(|| self.open()?.size())
    }

    /// Fills `buf` from `offset`. Reads again if the medium fails.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        read_again(|| self.open()?.read_exact_at(buf, offset))
    }
}

/// Returns true for EMFILE and ENFILE of Linux (errno(3)).
fn is_want_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}
