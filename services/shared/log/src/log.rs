//! The log as its users see it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::committer::Committer;
use crate::disk::{Disk, FsRoom};
use crate::error::LogError;
use crate::file::Files;
use crate::format::{FIRST_OWN_KIND, MAX_FRAME, MAX_KEY};
use crate::queue::{Group, Observed, Queue, Shared, Stop};
use crate::recovery::{self, DirectoryEntry, Hole, RecoveredRecord, RecoveryReport};
use crate::types::{Done, FileInfo, Location, Observer, Options, Record, Urgency};

/// An open log.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    hands: Mutex<Option<Hands>>,
    /// True if callers write their groups themselves.
    by_callers: bool,
}

/// Thread that writes.
#[derive(Debug)]
enum Hands {
    Thread(JoinHandle<Result<(), LogError>>),
    /// Each caller in turn.
    Callers(Box<Committer>),
}

impl Log {
    /// Opens a folder as a log and delivers every record, in order of the log, before it returns.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when durable bytes are damaged (nothing is changed then), `Full` when
    /// an unproven tail finds no room, `Io`.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        visit: &mut dyn FnMut(RecoveredRecord<'_>),
    ) -> Result<(Self, RecoveryReport), LogError> {
        let files = Files::new(disk.clone(), options.clone());
        let recovered = recovery::recover(&disk, &files, &options, visit)?;
        let shared = Arc::new(Shared {
            files,
            options,
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            durable_seq: AtomicU64::new(recovered.report.last_seq),
            poisoned: Mutex::new(None),
            observer: Observed::default(),
        });
        let mut committer = Committer::new(
            shared.clone(),
            recovered.active,
            recovered.report.last_seq,
            recovered.report.epoch,
        );
        committer.prepare_next();
        let by_callers = disk.has_one_thread() || shared.options.callers_write;
        let hands = if by_callers {
            committer.publish_free();
            Hands::Callers(Box::new(committer))
        } else {
            let thread = std::thread::Builder::new().name("log-committer".to_owned());
            Hands::Thread(
                thread
                    .spawn(move || committer.run())
                    .map_err(LogError::io("start log committer"))?,
            )
        };
        Ok((
            Self {
                shared,
                hands: Mutex::new(Some(hands)),
                by_callers,
            },
            recovered.report,
        ))
    }

    /// Hands a group to the committer: all its records land in one frame. `done` is told the
    /// outcome.
    pub fn append(&self, records: Vec<Record>, urgency: Urgency, done: Done) {
        if let Err(error) = check(&records) {
            return done(Err(error));
        }
        let group = Group::new(records, urgency, done);
        let mut wakes = false;
        let refused = {
            let mut queue = self.shared.queue.lock();
            if queue.stop != Stop::No {
                Some((group, LogError::Closed))
            } else if let Some(why) = self.poisoned() {
                Some((group, LogError::Poisoned(why)))
            } else if queue.bytes + group.bytes() > self.shared.options.max_queue_bytes
                && queue.bytes > 0
            {
                Some((group, LogError::Busy))
            } else {
                queue.push(group);
                wakes = queue.is_enough(self.shared.options.max_frame_bytes);
                None
            }
        };
        match refused {
            Some((group, error)) => group.fail(error),
            None if self.by_callers => {
                if self.shared.files.holds_commits() {
                    return;
                }
                if let Some(Hands::Callers(committer)) = &mut *self.hands.lock() {
                    committer.turn();
                }
            }
            None => {
                if wakes {
                    self.shared.wake.notify_one();
                }
            }
        }
    }

    /// Reads a payload. The caller verifies what it says: this log checks frames at recovery only.
    ///
    /// # Errors
    /// [`LogError::NoFile`] when the file was retired, `Corrupt` if the disk does not give it back,
    /// `Io` for errors that say nothing about the disk.
    pub fn read(&self, location: Location) -> Result<Bytes, LogError> {
        let file = self.shared.files.get(location.file)?;
        let handle = match file.handle.open() {
            // The file may have been retired since the lookup.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.shared.files.get(location.file)?;
                return Err(unreadable(location)(error));
            }
            opened => opened.map_err(unreadable(location))?,
        };
        let mut payload = vec![0; location.len as usize];
        handle
            .read_exact_at(&mut payload, location.offset.into())
            .map_err(unreadable(location))?;
        Ok(payload.into())
    }

    /// Reads a payload that is in memory. Returns `None` if the disk would have to be waited for, or
    /// the payload is not there: [`Log::read`] says why. Does not block.
    pub fn read_cached(&self, location: Location) -> Option<Bytes> {
        let file = self.shared.files.get(location.file).ok()?;
        let handle = file.handle.kept()?;
        let mut payload = vec![0; location.len as usize];
        let is_read = handle.read_cached_at(&mut payload, location.offset.into());
        is_read.then(|| payload.into())
    }

    /// Reads a payload like [`Log::read`], through a handle that is opened for it: an error of the
    /// one that is kept says nothing about the file.
    ///
    /// # Errors
    /// Those of [`Log::read`].
    pub fn read_anew(&self, location: Location) -> Result<Bytes, LogError> {
        let handle = self.shared.files.open_anew(location.file)?;
        let mut payload = vec![0; location.len as usize];
        handle
            .read_exact_at(&mut payload, location.offset.into())
            .map_err(unreadable(location))?;
        Ok(payload.into())
    }

    /// All files, in order of their ids.
    pub fn files(&self) -> Vec<FileInfo> {
        self.shared.files.list()
    }

    /// Gives up a file in which the caller needs nothing any more. When this returns its content
    /// can never come back, not even after a power loss.
    ///
    /// # Errors
    /// [`LogError::NoFile`] when it is not there or active, `Io`; the file is as it was then.
    /// `Poisoned` when the sync of the folder failed: whether the file is gone shows at the next
    /// open.
    pub fn retire(&self, file: u32) -> Result<(), LogError> {
        self.shared.files.retire(file).inspect_err(|error| {
            if let LogError::Poisoned(why) = error {
                self.shared.poison(why.clone());
            }
        })
    }

    /// Returns what lies in a file that is not active, in the order of the log. A file that was
    /// sealed is asked through its footer, one that was cut is read whole. Blocks the thread.
    ///
    /// # Errors
    /// [`LogError::NoFile`] when it is not there or active, `Corrupt`, `Io`.
    pub fn directory(&self, file: u32) -> Result<Vec<DirectoryEntry>, LogError> {
        recovery::directory(&*self.shared.files.get(file)?, &self.shared.options)
    }

    /// Reads a file that is not active, payloads included, and checks every checksum. Blocks the
    /// thread.
    ///
    /// # Errors
    /// [`LogError::NoFile`] when it is not there or active, `Corrupt` with the first frame that
    /// does not validate, `Io`.
    pub fn verify(&self, file: u32) -> Result<(), LogError> {
        recovery::verify(&*self.shared.files.get(file)?, &self.shared.options)
    }

    /// Reads a file like [`Log::verify`], and returns all parts of it that do not validate. Blocks
    /// the thread.
    ///
    /// # Errors
    /// [`LogError::NoFile`] when it is not there or active, `Io`.
    pub fn damage(&self, file: u32) -> Result<Vec<Hole>, LogError> {
        recovery::damage(&*self.shared.files.get(file)?, &self.shared.options)
    }

    /// Bytes that groups of this urgency could still append: the rest of the active file, recycled
    /// files and room for new ones, without what they leave to others.
    pub fn free_bytes(&self, urgency: Urgency) -> u64 {
        self.shared.files.free(urgency)
    }

    /// Returns true if [`Self::free_bytes`] are at least `bytes`. Measures the file system only if the
    /// allocated files do not suffice.
    pub fn has_free(&self, bytes: u64, urgency: Urgency) -> bool {
        self.shared.files.has_free(bytes, urgency)
    }

    /// The part of the reserve that only compaction may use, when it has taken nothing of it.
    pub fn compaction_bytes(&self) -> u64 {
        self.shared.options.compaction_bytes
    }

    /// Groups of compaction are copied out of `file` from now on. Until it is retired others see
    /// the same room as before, because what the copies take comes back with it.
    pub fn begin_compaction(&self, file: u32) {
        self.shared.files.begin_compaction(file);
    }

    /// Returns the bytes that the part of the reserve that only compaction may use lacks; nothing,
    /// as long as every file that a copy was begun of could be retired.
    pub fn missing_bytes(&self) -> u64 {
        self.shared.files.missing()
    }

    /// The file that groups of compaction were copied out of is given up: from now on the room that
    /// they took is missed, and all of their reserve is kept again.
    pub fn settle_compaction(&self) {
        self.shared.files.settle_compaction();
    }

    /// Room of the file system; `None` if it has no bound that can be told.
    pub fn fs_room(&self) -> Option<FsRoom> {
        self.shared.files.fs_room()
    }

    /// Returns the number of the file system; see [`Disk::file_system`].
    pub fn file_system(&self) -> Option<u64> {
        self.shared.files.file_system()
    }

    /// Returns the part of [`Log::free_bytes`] for [`Urgency::Normal`] that is not allocated yet. Other
    /// writers on the file system may take these bytes first.
    pub fn growth_bytes(&self) -> u64 {
        self.shared.files.growth()
    }

    /// Size of all files together.
    pub fn allocated_bytes(&self) -> u64 {
        self.shared.files.allocated()
    }

    /// Highest frame_seq whose sync has returned; 0 in a log without frames.
    pub fn durable_seq(&self) -> u64 {
        self.shared.durable_seq.load(Ordering::Acquire)
    }

    /// Tells `observer` of every group commit from now on. A log has one: later ones are not told.
    pub fn observe(&self, observer: Observer) {
        self.shared.observer.set(observer);
    }

    /// Takes no more groups, for this reason. Called before the first one of a log that is opened
    /// to be read only.
    pub fn refuse(&self, why: LogError) {
        self.shared.poisoned.lock().get_or_insert(Arc::new(why));
    }

    /// Returns the failure after which nothing can be appended any more.
    pub fn poisoned(&self) -> Option<Arc<LogError>> {
        self.shared.poisoned.lock().clone()
    }

    /// Writes what waits, seals the active file and ends the thread. Later calls do nothing.
    ///
    /// # Errors
    /// Of the disk; the next open recovers all that was acknowledged.
    pub fn close(&self) -> Result<(), LogError> {
        self.stop(Stop::Close)
    }

    fn stop(&self, how: Stop) -> Result<(), LogError> {
        {
            let mut queue = self.shared.queue.lock();
            if queue.stop == Stop::No {
                queue.stop = how;
            }
        }
        self.shared.wake.notify_one();
        let hands = self.hands.lock().take();
        match hands {
            Some(Hands::Thread(thread)) => thread.join().unwrap_or(Err(LogError::Closed)),
            Some(Hands::Callers(mut committer)) => loop {
                if let Some(end) = committer.turn() {
                    return end;
                }
            },
            None => Ok(()),
        }
    }
}

/// Ends the log as if the process had died, but for what was being synced.
impl Drop for Log {
    fn drop(&mut self) {
        let _ = self.stop(Stop::Abandon);
    }
}

/// Returns a function for `map_err` that tells an error of the disk from one that says nothing
/// about it.
fn unreadable(location: Location) -> impl Fn(std::io::Error) -> LogError {
    move |error| match recovery::damage_of(&error) {
        Some(damage) => LogError::Corrupt {
            file: location.file,
            offset: location.offset.into(),
            damage,
        },
        None => LogError::io_of("read log record", location.file)(error),
    }
}

fn check(records: &[Record]) -> Result<(), LogError> {
    let too_large = |what, found, allowed| {
        Err(LogError::TooLarge {
            what,
            found,
            allowed,
        })
    };
    if let Some(record) = records.iter().find(|record| record.key.len() > MAX_KEY) {
        return too_large("key length", record.key.len(), MAX_KEY);
    }
    if let Some(record) = records.iter().find(|record| record.kind >= FIRST_OWN_KIND) {
        return too_large(
            "record kind",
            record.kind.into(),
            usize::from(FIRST_OWN_KIND) - 1,
        );
    }
    let bytes = records.iter().map(|record| record.payload.len()).sum();
    if records.is_empty() || bytes > MAX_FRAME {
        return too_large("size", bytes, MAX_FRAME);
    }
    Ok(())
}
