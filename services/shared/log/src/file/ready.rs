//! Files that are ready before they are needed, and the names of files that hold nothing of the log.

use super::{Files, Spare, next_id};
use crate::error::LogError;
use crate::recovery::damage_of;
use crate::types::Urgency;

impl Files {
    /// Takes the files that an earlier process had ready, as far as they have room beside `others`
    /// bytes; removes the rest. They never had any content.
    ///
    /// # Errors
    /// Of the folder.
    pub(crate) fn adopt_ready(&self, names: &[String], others: u64) -> Result<(), LogError> {
        for name in names {
            let io = LogError::io("take files that are ready");
            let len = match self.disk.open(name).and_then(|file| file.size()) {
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
                inner.spares.push(Spare {
                    name: name.clone(),
                    len,
                });
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
    /// tried again with the next frame. The floor is left to others: room that they gave up on a full
    /// disk, so that something goes on, MUST NOT be taken for files that nothing needs yet.
    pub(crate) fn make_ready(&self) {
        let file_bytes = self.options.file_bytes;
        loop {
            let fs_free = self.fs_free(Urgency::Normal);
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
                return;
            }
            let len = file_bytes;
            self.inner.lock().spares.push(Spare { name, len });
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
