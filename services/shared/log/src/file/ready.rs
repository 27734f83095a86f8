//! Files that are ready before they are needed, and the names of files that hold nothing of the log.
//!
//! ```text
//! made ─▶ idle ─▶ being prepared ─▶ prepared: its header is durable, under a name that is not of the log
//!           ▲                           │ the next file of the log: its name is all that is left to do
//!           └──── header out of date ◀──┘ another file came first, or the owner's superblock went on
//!                 a file whose header cannot be written or synced is removed
//! ```

use std::sync::Arc;

use bytes::Bytes;

use super::{Files, Inner, NewFile, next_id};
use crate::disk::DiskFile;
use crate::error::LogError;
use crate::format::{BLOCK, FileHeader, file_name};
use crate::recovery::damage_of;
use crate::types::Urgency;

/// A file that can become the next one of the log.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) len: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle,
    /// Its header is being written by another thread.
    Preparing,
    Prepared(Prepared),
}

/// A file whose header is durable.
#[derive(Debug)]
pub(super) struct Prepared {
    header: FileHeader,
    bytes: Bytes,
    out: Arc<dyn DiskFile>,
}

/// A spare that was taken, or nothing, and the id of the file that it becomes.
#[derive(Debug)]
pub(super) enum Taken {
    Prepared(Spare, Prepared),
    Spare(u32, Spare),
    Nothing(u32),
}

impl Spare {
    pub(super) const fn idle(name: String, len: u64) -> Self {
        Self {
            name,
            len,
            state: State::Idle,
        }
    }

    /// Returns true if the spare is a retired file of the log.
    pub(super) fn is_recycled(&self) -> bool {
        self.name.ends_with(SPARE)
    }

    pub(super) const fn is_preparing(&self) -> bool {
        matches!(self.state, State::Preparing)
    }

    /// Returns true if the header is that of the file after `newest`.
    fn is_next(&self, newest: u32, superblock_seq: u64) -> bool {
        let State::Prepared(prepared) = &self.state else {
            return false;
        };
        let header = &prepared.header;
        // A log without epochs names neither.
        let has_epochs = header.epoch.number > 0;
        let names_both = header.file_before == newest && header.superblock_seq == superblock_seq;
        header.file > newest && (names_both || !has_epochs)
    }
}

/// Ends the preparation of a spare, also after a panic: the committer may wait for it.
struct Turn<'a> {
    files: &'a Files,
    name: &'a str,
    prepared: Option<Prepared>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut inner = self.files.inner.lock();
        let prepared = self.prepared.take();
        let spare = inner
            .spares
            .iter_mut()
            .find(|spare| spare.name == self.name);
        if let Some(spare) = spare {
            spare.state = prepared.map_or(State::Idle, State::Prepared);
        }
        self.files.prepared.notify_all();
    }
}

impl Files {
    /// Takes the spare that has room for `needed` bytes and the least left to do.
    pub(super) fn take_spare(&self, needed: u64) -> Result<Taken, LogError> {
        let superblock_seq = self.superblock_seq();
        let mut inner = self.inner.lock();
        loop {
            let newest = inner.newest;
            let fits = |spare: &Spare| spare.len >= needed;
            let find = |inner: &Inner, wanted: &dyn Fn(&Spare) -> bool| {
                let mut spares = inner.spares.iter();
                spares.position(|spare| fits(spare) && wanted(spare))
            };
            let next = find(&inner, &|spare| spare.is_next(newest, superblock_seq));
            if next.is_none() && find(&inner, &Spare::is_preparing).is_some() {
                self.prepared.wait(&mut inner);
                continue;
            }
            let at = next.or_else(|| find(&inner, &|_| true));
            let taken = at.map(|at| inner.spares.swap_remove(at));
            inner.making = taken
                .as_ref()
                .map_or(0, |spare| spare.len.saturating_sub(2 * BLOCK));
            inner.has_failed_to_prepare = false;
            return Ok(match taken {
                Some(mut spare) if next.is_some() => {
                    match std::mem::replace(&mut spare.state, State::Idle) {
                        State::Prepared(prepared) => Taken::Prepared(spare, prepared),
                        _ => Taken::Spare(next_id(&mut inner)?, spare),
                    }
                }
                Some(spare) => Taken::Spare(next_id(&mut inner)?, spare),
                None => Taken::Nothing(next_id(&mut inner)?),
            });
        }
    }

    /// Gives a prepared file its name, which is not durable yet.
    pub(super) fn use_prepared(
        &self,
        spare: &Spare,
        prepared: Prepared,
    ) -> Result<NewFile, LogError> {
        let id = prepared.header.file;
        if let Err(error) = self.disk.rename(&spare.name, &file_name(id)) {
            if self.disk.remove(&spare.name).is_ok() {
                self.inner.lock().allocated -= spare.len;
            }
            return Err(LogError::io("name log file")(error));
        }
        let file = self.insert(id, prepared.out, spare.len, &prepared.bytes);
        Ok(NewFile {
            is_recycled: spare.is_recycled(),
            ..file
        })
    }

    /// Returns true if a file can be made ready or prepared now.
    pub(crate) fn has_to_prepare(&self) -> bool {
        if self.options.ready_files == 0 {
            return false;
        }
        {
            let inner = self.inner.lock();
            if inner.has_failed_to_prepare {
                return false;
            }
            let has_idle = self.to_prepare(&inner).is_some();
            if has_idle || inner.spares.len() >= self.options.ready_files {
                return has_idle;
            }
        }
        let fs_free = self.fs_free(Urgency::Compaction);
        self.new_room(&self.inner.lock(), fs_free) >= self.options.file_bytes
    }

    /// Returns the place of the spare to prepare; `None` if one is prepared, or there is none.
    fn to_prepare(&self, inner: &Inner) -> Option<usize> {
        let is_idle = |spare: &Spare| matches!(spare.state, State::Idle);
        let is_standard = |spare: &Spare| spare.len == self.options.file_bytes;
        let mut spares = inner.spares.iter();
        let has_prepared = !inner.spares.iter().all(is_idle);
        let at = spares.position(is_standard);
        at.filter(|_| !has_prepared)
    }

    /// Writes the header of the next file, so that the change to it costs little. A file that cannot
    /// be opened is prepared when it is taken.
    pub(crate) fn prepare(&self, durable_seq: u64) {
        let (name, len, id) = {
            let mut inner = self.inner.lock();
            let at = self.to_prepare(&inner);
            let Some(at) = at.filter(|_| self.options.ready_files > 0) else {
                return;
            };
            let Ok(id) = next_id(&mut inner) else { return };
            let Some(spare) = inner.spares.get_mut(at) else {
                return;
            };
            spare.state = State::Preparing;
            (spare.name.clone(), spare.len, id)
        };
        let mut turn = Turn {
            files: self,
            name: &name,
            prepared: None,
        };
        let header = self.header(id, len, durable_seq);
        let bytes = header.encode();
        let failed = |error: std::io::Error| {
            tracing::debug!(%error, "the next file of the log cannot be prepared");
            self.inner.lock().has_failed_to_prepare = true;
        };
        let out = match self.disk.open(&name) {
            Ok(out) => out,
            Err(error) => return failed(error),
        };
        let written = out.write_all_vectored_at(std::slice::from_ref(&bytes), 0);
        match written.and_then(|()| out.sync_data()) {
            Ok(()) => turn.prepared = Some(Prepared { header, bytes, out }),
            Err(error) => {
                failed(error);
                self.remove_failed_spare(&name, len);
            }
        }
    }

    /// Removes a spare whose write or sync has failed. Its length may not be durable, and a later sync
    /// that succeeds does not prove it.
    fn remove_failed_spare(&self, name: &str, len: u64) {
        self.inner.lock().spares.retain(|spare| spare.name != name);
        if self.disk.remove(name).is_ok() {
            self.inner.lock().allocated -= len;
        }
    }

    /// Takes the files that an earlier process had ready, as far as they have room beside `others`
    /// bytes; removes the rest. They never had any content.
    ///
    /// # Errors
    /// Of the folder.
    pub(crate) fn adopt_ready(&self, names: &[String], others: u64) -> Result<(), LogError> {
        for name in names {
            let io = LogError::io("take files that are ready");
            // Sets the length again, so that the next sync of the file covers it: the sync of the
            // process that made the file may have failed.
            let sized = |file: Arc<dyn DiskFile>| {
                let len = file.size()?;
                file.set_len(len).map(|()| len)
            };
            let len = match self.disk.open(name).and_then(sized) {
                Ok(len) => len,
                // Nothing of the log lies there.
                Err(error) if damage_of(&error).is_some() => {
                    tracing::warn!(%name, %error, "a file that was ready cannot be used");
                    continue;
                }
                Err(error) => return Err(io(error)),
            };
            let mut inner = self.inner.lock();
            let used = others.saturating_add(inner.allocated).saturating_add(len);
            let fits = len == self.options.file_bytes
                && inner.spares.len() < self.options.ready_files
                && used <= self.options.max_bytes;
            if fits {
                inner.allocated += len;
                inner.spares.push(Spare::idle(name.clone(), len));
            }
            let id = stem_id(name, READY).unwrap_or(0);
            inner.next_id = inner.next_id.max(id.saturating_add(1));
            drop(inner);
            if !fits && let Err(error) = self.disk.remove(name) {
                tracing::warn!(%name, %error, "a file that was ready cannot be removed");
            }
        }
        Ok(())
    }

    /// Makes files until as many are ready as there should be, or there is no room. What fails is
    /// tried again with the next file that is taken.
    pub(crate) fn make_ready(&self) {
        let file_bytes = self.options.file_bytes;
        loop {
            let fs_free = self.fs_free(Urgency::Compaction);
            let id = {
                let mut inner = self.inner.lock();
                let is_stocked = inner.spares.len() >= self.options.ready_files;
                if is_stocked || self.new_room(&inner, fs_free) < file_bytes {
                    return;
                }
                let Ok(id) = next_id(&mut inner) else { return };
                inner.allocated += file_bytes;
                id
            };
            let name = ready_name(id);
            if let Err(error) = self.disk.create(&name, file_bytes) {
                self.inner.lock().allocated -= file_bytes;
                tracing::debug!(%error, "no file can be made ready");
                self.inner.lock().has_failed_to_prepare = true;
                return;
            }
            let len = file_bytes;
            self.inner.lock().spares.push(Spare::idle(name, len));
        }
    }
}

const SPARE: &str = ".spare";
const READY: &str = ".ready";

pub(super) fn spare_name(id: u32) -> String {
    format!("{id:08x}{SPARE}")
}

fn ready_name(id: u32) -> String {
    format!("{id:08x}{READY}")
}

/// Returns true if a name is that of a leftover that an open removes: a file that was never
/// finished, or a spare.
pub(crate) fn is_leftover(name: &str) -> bool {
    stem_id(name, ".new")
        .or_else(|| stem_id(name, SPARE))
        .is_some()
}

/// Returns true if a name is that of a file that was made before it was needed.
pub(crate) fn is_ready(name: &str) -> bool {
    stem_id(name, READY).is_some()
}

fn stem_id(name: &str, suffix: &str) -> Option<u32> {
    let stem = name.strip_suffix(suffix)?;
    (stem.len() == 8)
        .then(|| u32::from_str_radix(stem, 16).ok())
        .flatten()
}
