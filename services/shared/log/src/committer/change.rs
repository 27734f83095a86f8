//! Rolling over to the next file. The footer of the old file, the entry in the inventory and the
//! first frame of the new file are written at the same time; the frame is acknowledged after all
//! three.

use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;

use super::{Active, Committer, Sums};
use crate::disk::DiskFile;
use crate::error::LogError;
use crate::file::LogFile;
use crate::format::{BLOCK, FramePlace, Seed, encode_footer, footer_bytes, frame_crc};
use crate::queue::Shared;
use crate::types::{FileInfo, FileState};

/// The footer of a file that is about to be sealed.
#[derive(Debug, Clone)]
pub(super) struct Seal {
    offset: u64,
    footer: Bytes,
    /// The file is cut behind the footer.
    cut: bool,
    /// Figures of the file when it is sealed.
    pub(super) info: FileInfo,
}

/// A file that takes frames from now on.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    pub(crate) info: FileInfo,
    /// Its name is durable.
    pub(crate) is_named: bool,
}

/// A change of files that is being noted, or is noted when it is finished.
#[derive(Debug)]
pub(super) struct FileChange {
    old: Active,
    sealed: FileInfo,
    begun: Begun,
    /// Thread that writes the footer.
    sealing: Option<Aside>,
    /// Thread that tells the inventory.
    noting: Option<Aside>,
}

/// A thread that writes beside the committer.
type Aside = JoinHandle<Result<(), LogError>>;

fn join(thread: Aside) -> Result<(), LogError> {
    thread.join().unwrap_or(Err(LogError::Panicked))
}

impl FileChange {
    /// Waits for the threads of a change that is not finished any more.
    pub(super) fn abandon(self) {
        let threads = [self.sealing, self.noting].into_iter().flatten();
        threads.for_each(|thread| drop(join(thread)));
    }
}

impl Committer {
    /// Goes to the next file. The old one is sealed only when the new one is there, so that a full
    /// disk goes on taking small groups; or when the end that it gives back is what the new one
    /// lacks.
    pub(super) fn roll(&mut self, first: Sums) -> Result<(), LogError> {
        self.finish_change()?;
        let needed = BLOCK + first.frame_bytes() + footer_bytes(first.records, first.key_bytes);
        let mut sealed = None;
        let acquired = match self.shared.files.acquire(needed, self.durable_seq()) {
            Err(LogError::Full { .. }) if self.has_room_behind(needed) => {
                let done = self.seal(None);
                sealed = self.or_poison(done)?;
                self.shared.files.acquire(needed, self.durable_seq())?
            }
            other => other?,
        };
        let is_named = acquired.is_named;
        let next = Active::new(acquired.file);
        // The free end of the old file counts no more: it is cut off, or lost.
        self.shared.files.set_active_free(next.free());

        let info = next.file.info.lock().clone();
        let begun = Begun { info, is_named };
        let done = match sealed {
            Some(_) => self.shared.note(None, Some(&begun)),
            None => self.seal(Some(begun)).map(drop),
        };
        self.or_poison(done)?;
        self.active = Some(next);
        Ok(())
    }

    fn or_poison<T>(&self, done: Result<T, LogError>) -> Result<T, LogError> {
        done.inspect_err(|error| self.poison(Arc::new(error.clone())))
    }

    /// Returns true if a new file of so many bytes fits when the active one is cut.
    fn has_room_behind(&self, needed: u64) -> bool {
        let files = self.shared.files.room_for_compaction();
        let cut = self.active.as_ref().filter(|active| active.wastes_much());
        cut.is_some_and(|active| files + active.free() >= needed)
    }

    /// Ends the active file, if there is one, with a synced footer, and returns its final figures.
    /// The change of files is noted in the inventory beside the first frame of the new file, which
    /// is not acknowledged before that is done; without a new one it is noted at once.
    ///
    /// The footer is synced because the file after it may be retired one day, and then nothing else
    /// would prove that this one is complete. A file that has much left is cut behind its footer;
    /// one that keeps its standard size can be recycled.
    fn seal(&mut self, begun: Option<Begun>) -> Result<Option<FileInfo>, LogError> {
        let Some(active) = self.active.take() else {
            return match begun {
                Some(begun) => self.shared.note(None, Some(&begun)).map(|()| None),
                None => Ok(None),
            };
        };
        let seal = self.plan_seal(&active, active.wastes_much());
        let sealed = seal.info.clone();
        let Some(begun) = begun else {
            self.write_seal(&active, seal)?;
            self.shared.note(Some(&sealed), None)?;
            active.end(&sealed);
            return Ok(Some(sealed));
        };

        let noting = self.begin_to_note(&sealed, &begun);
        let (sealing, written) = self.begin_to_seal(&active, seal);
        self.change = Some(FileChange {
            old: active,
            sealed: sealed.clone(),
            begun,
            sealing,
            noting,
        });
        written.map(|()| Some(sealed))
    }

    /// Begins to write a footer on a thread of its own; writes it if that takes no time, or the
    /// system has no thread to give.
    fn begin_to_seal(&self, active: &Active, seal: Seal) -> (Option<Aside>, Result<(), LogError>) {
        if self.shared.files.takes_real_time() {
            let (shared, seal) = (self.shared.clone(), seal.clone());
            let (file, out) = (active.file.clone(), active.out.clone());
            let thread = std::thread::Builder::new().name("log-footer".to_owned());
            let write = move || write_seal(&shared, (&file, &out), seal);
            if let Ok(thread) = thread.spawn(write) {
                return (Some(thread), Ok(()));
            }
        }
        (None, self.write_seal(active, seal))
    }

    /// Begins to note a change of files on a thread of its own; `None` if that takes no time, or
    /// the system has no thread to give.
    fn begin_to_note(&self, sealed: &FileInfo, begun: &Begun) -> Option<Aside> {
        if !self.shared.files.takes_real_time() {
            return None;
        }
        let (shared, sealed, begun) = (self.shared.clone(), sealed.clone(), begun.clone());
        let thread = std::thread::Builder::new().name("log-inventory".to_owned());
        let note = move || shared.note(Some(&sealed), Some(&begun));
        thread.spawn(note).ok()
    }

    /// Waits until the change to the active file is noted. The file before it may be retired from
    /// then on, and not before: an entry of a file that is gone would be missed.
    pub(super) fn finish_change(&mut self) -> Result<(), LogError> {
        let Some(change) = self.change.take() else {
            return Ok(());
        };
        let sealed = change.sealing.map_or(Ok(()), join);
        let noted = match change.noting {
            Some(thread) => join(thread),
            None => self.shared.note(Some(&change.sealed), Some(&change.begun)),
        };
        self.or_poison(sealed.and(noted))?;
        change.old.end(&change.sealed);
        Ok(())
    }

    pub(super) fn plan_seal(&self, active: &Active, cut: bool) -> Seal {
        let mut info = active.file.info.lock().clone();
        let len = footer_bytes(active.entries.len(), active.entries.key_bytes());
        let offset = if cut { active.offset } else { info.size - len };
        let place = FramePlace {
            file: info.id,
            offset,
            seq: self.last_seq,
            durable_seq: self.durable_seq(),
        };
        let seed = Seed::new(&self.shared.options.owner, info.id);
        let footer = encode_footer(seed, place, active.entries.iter());

        info.size = offset + len;
        info.state = FileState::Sealed;
        info.footer_crc = frame_crc(&footer);
        Seal {
            offset,
            footer,
            cut,
            info,
        }
    }

    pub(super) fn write_seal(&self, active: &Active, seal: Seal) -> Result<(), LogError> {
        write_seal(&self.shared, (&active.file, &active.out), seal)
    }
}

fn write_seal(
    shared: &Shared,
    (file, out): (&LogFile, &Arc<dyn DiskFile>),
    seal: Seal,
) -> Result<(), LogError> {
    let io = LogError::io("seal log file");
    out.write_all_vectored_at(&[seal.footer], seal.offset)
        .map_err(&io)?;
    out.sync_data().map_err(&io)?;
    if seal.cut {
        let io = LogError::io("cut log file");
        out.set_len(seal.info.size).map_err(&io)?;
        out.sync_data().map_err(&io)?;
        shared.files.shrunk(file, seal.info.size);
    }
    Ok(())
}
