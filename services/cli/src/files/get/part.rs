//! What has arrived of a file, beside its final name.
//!
//! ```text
//! DEST.cstore-part         the first bytes of the file
//! DEST.cstore-part.json    of which file, in which state: gateway, name, ETag, size, SHA-256, and the boot of this machine
//! ```
//! The note is written when the part is empty and before its first byte, so bytes are always those of the note. After a
//! power cut the length of a file may count bytes that never reached the disk: a part of another boot is begun anew.
//! One process at a time has the part: it is locked.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::place::unusable;
use crate::exit::{End, Failure};
use crate::files::known::Known;

const SUFFIX: &str = ".cstore-part";
const NOTE: &str = ".json";
/// A name that is longer has no room for the suffixes in the 255 bytes of a file system.
const MAX_LAST: usize = 230;
/// Longest note that makes sense.
const MAX_NOTE: u64 = 16 << 10;

/// The first bytes of a file.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    len: u64,
    note: Note,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Note {
    url: String,
    name: String,
    boot: String,
    size: u64,
    etag: String,
    sha256: Option<String>,
    #[serde(skip)]
    known: Option<Known>,
}

/// Whether a file of this name would be taken for a part.
pub(super) fn is_reserved(last: &str) -> bool {
    last.ends_with(SUFFIX) || last.ends_with(&format!("{SUFFIX}{NOTE}"))
}

impl Part {
    /// Takes up the part that is beside `dest`, when it is of this file, or begins one.
    pub(super) fn open(dest: &Path, url: &str, name: &str) -> Result<Self, Failure> {
        let path = beside(dest);
        let failed = |error: std::io::Error| unusable(&path, &error);
        let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).custom_flags(no_link);
        let mut file = file.open(&path).map_err(failed)?;
        let busy =
            || Failure::client(End::Conflict, format!("{} is being written by another", path.display()));
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy()),
            Err(error) => return Err(failed(error.into())),
        }
        // The one who had the lock before may have given the file its final name meanwhile.
        let (held, there) =
            (file.metadata().map_err(failed)?, std::fs::symlink_metadata(&path).map_err(failed)?);
        if (held.dev(), held.ino()) != (there.dev(), there.ino()) || !held.is_file() {
            return Err(busy());
        }
        let fresh = Note { url: url.to_owned(), name: name.to_owned(), boot: boot(), ..Note::default() };
        let note = read(&note_of(&path)).filter(|note| {
            (&note.url, &note.name, &note.boot) == (&fresh.url, &fresh.name, &fresh.boot)
                && !note.boot.is_empty()
                && !note.etag.is_empty()
                && held.len() <= note.size
        });
        // Bytes come behind those that are here; when these are of no use, it is emptied first.
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let mut part = Self { file: File::from_std(file), path: path.clone(), len: 0, note: fresh };
        if let Some(mut note) = note.filter(|_| held.len() > 0) {
            let Note { size, etag, sha256, .. } = note.clone();
            note.known = Some(Known { size, etag, sha256 });
            (part.note, part.len) = (note, held.len());
        }
        Ok(part)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file in the state that the bytes are of.
    pub(super) fn known(&self) -> Option<&Known> {
        self.note.known.as_ref()
    }

    pub(super) fn missing(&self) -> u64 {
        self.known().map_or(0, |known| known.size.saturating_sub(self.len))
    }

    /// Empties the part, for a file in this state or one that is still to be learned.
    pub(super) async fn restart(&mut self, known: Option<Known>) -> Result<(), Failure> {
        let emptied = async {
            self.file.flush().await?;
            self.file.set_len(0).await?;
            self.file.rewind().await
        };
        emptied.await.map_err(|error| unusable(&self.path, &error))?;
        self.len = 0;
        if let Some(Known { size, etag, sha256 }) = known.clone() {
            let note = Note { size, etag, sha256, known, ..self.note.clone() };
            let text = serde_json::to_vec(&note).map_err(Failure::failed)?;
            let path = note_of(&self.path);
            std::fs::write(&path, text).map_err(|error| unusable(&path, &error))?;
            self.note = note;
        } else {
            self.note.known = None;
        }
        Ok(())
    }

    /// Adds bytes behind those that are here.
    pub(super) async fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.file.write_all(piece).await.map_err(|error| unusable(&self.path, &error))?;
        self.len += piece.len() as u64;
        Ok(())
    }

    /// Waits until all bytes are in the file.
    pub(super) async fn keep(&mut self) -> Result<(), Failure> {
        self.file.flush().await.map_err(|error| unusable(&self.path, &error))
    }

    /// The part becomes the file, durably.
    pub(super) async fn publish(self, dest: &Path, replace: bool) -> Result<(), Failure> {
        self.file.sync_all().await.map_err(|error| unusable(&self.path, &error))?;
        rename(&self.path, dest, replace)?;
        let _ = std::fs::remove_file(note_of(&self.path));
        let folder = dest.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| unusable(folder, &error))
    }

    pub(super) fn discard(self) {
        // What stays is only litter, and begun anew the next time.
        let _ = std::fs::remove_file(note_of(&self.path));
        let _ = std::fs::remove_file(&self.path);
    }
}

fn rename(from: &Path, to: &Path, replace: bool) -> Result<(), Failure> {
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    let renamed = match renameat_with(CWD, from, CWD, to, flags) {
        // A file system that does not know the flag: the look before the download has to do.
        Err(Errno::INVAL | Errno::NOSYS) if !replace => {
            renameat_with(CWD, from, CWD, to, RenameFlags::empty())
        }
        renamed => renamed,
    };
    renamed.map_err(|error| match error {
        Errno::EXIST => {
            Failure::client(End::Conflict, format!("{} has appeared; --force replaces it", to.display()))
        }
        error => unusable(to, &error.into()),
    })
}

fn beside(dest: &Path) -> PathBuf {
    let last = dest.file_name().unwrap_or_default();
    let mut name = OsString::from(last);
    if last.len() > MAX_LAST {
        name = blake3::hash(last.as_encoded_bytes()).to_hex().as_str().into();
    }
    name.push(SUFFIX);
    dest.with_file_name(name)
}

fn note_of(part: &Path) -> PathBuf {
    let mut path = part.as_os_str().to_owned();
    path.push(NOTE);
    path.into()
}

fn read(path: &Path) -> Option<Note> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_NOTE).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// This life of the machine; empty where it is not told, and then nothing is taken up.
fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(etag: &str, size: u64) -> Known {
        Known { size, etag: etag.to_owned(), sha256: None }
    }

    fn open(dest: &Path) -> Part {
        Part::open(dest, "http://g/", "n").unwrap()
    }

    #[tokio::test]
    async fn a_part_is_taken_up_where_it_was_left_and_only_by_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        let mut part = open(&dest);
        assert_eq!((part.len(), part.known()), (0, None));
        part.restart(Some(known("e-1", 6))).await.unwrap();
        part.write(b"abc").await.unwrap();
        part.keep().await.unwrap();
        assert!(Part::open(&dest, "http://g/", "n").is_err(), "it is locked");
        drop(part);
        for (url, name) in [("http://other/", "n"), ("http://g/", "m")] {
            assert_eq!(Part::open(&dest, url, name).unwrap().len(), 0, "{url} {name}");
        }
        let mut part = open(&dest);
        assert_eq!((part.len(), part.missing(), part.known()), (3, 3, Some(&known("e-1", 6))));
        part.write(b"def").await.unwrap();
        part.publish(&dest, false).await.unwrap();
        assert_eq!(std::fs::read(&dest).unwrap(), b"abcdef");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn a_part_of_another_boot_of_another_size_or_without_its_note_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        let make = async || {
            let mut part = open(&dest);
            part.restart(Some(known("e-1", 6))).await.unwrap();
            part.write(b"abc").await.unwrap();
            part.keep().await.unwrap();
        };
        let path = note_of(&beside(&dest));
        for change in ["boot", "size", "etag", "broken", "none", "nothing"] {
            make().await;
            let mut note: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            match change {
                "boot" => note["boot"] = "another".into(),
                "size" => note["size"] = 2.into(),
                "etag" => note["etag"] = "".into(),
                _ => {}
            }
            match change {
                "broken" => std::fs::write(&path, "{").unwrap(),
                "none" => std::fs::remove_file(&path).unwrap(),
                _ => std::fs::write(&path, note.to_string()).unwrap(),
            }
            assert_eq!(open(&dest).len(), if change == "nothing" { 3 } else { 0 }, "{change}");
        }
        // The old bytes are gone before new ones come.
        let mut part = open(&dest);
        part.restart(Some(known("e-2", 2))).await.unwrap();
        part.write(b"xy").await.unwrap();
        part.publish(&dest, false).await.unwrap();
        assert_eq!(std::fs::read(&dest).unwrap(), b"xy");
    }

    #[tokio::test]
    async fn what_has_appeared_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        let mut part = open(&dest);
        part.restart(Some(known("e-1", 1))).await.unwrap();
        part.write(b"a").await.unwrap();
        std::fs::write(&dest, "mine").unwrap();
        assert_eq!(part.publish(&dest, false).await.unwrap_err().end(), End::Conflict);
        assert_eq!(std::fs::read(&dest).unwrap(), b"mine");
        open(&dest).publish(&dest, true).await.unwrap();
        assert_eq!(std::fs::read(&dest).unwrap(), b"a");
    }

    #[test]
    fn a_link_in_place_of_the_part_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        std::fs::write(dir.path().join("victim"), "mine").unwrap();
        std::os::unix::fs::symlink("victim", beside(&dest)).unwrap();
        assert!(Part::open(&dest, "http://g/", "n").is_err());
    }

    #[test]
    fn the_longest_name_has_room_for_its_part() {
        for len in [1, 230, 231, 255] {
            let part = beside(Path::new("dir").join("x".repeat(len)).as_path());
            let last = note_of(&part).file_name().unwrap().len();
            assert!(last <= 255 && part.starts_with("dir"), "{len}: {last}");
        }
    }
}
