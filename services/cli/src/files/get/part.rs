//! Parts: received bytes of a file, beside its final name.
//!
//! ```text
//! DEST.cstore-part         the first bytes of the file
//! DEST.cstore-part.json    of which file, in which state: gateway, name, ETag, size, SHA-256, and the boot of this machine
//! ```
//! The note is written when the part is empty and before its first byte, so bytes are always those
//! of the note. After a power cut the length of a file may count bytes that never reached the disk:
//! a part of another boot is begun anew. One process at a time has the part: it is locked. What has
//! such a name and is no part stays as it is.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::note::{self, Found, Note};
use super::place::unusable;
use crate::exit::{End, Failure};
use crate::files::flags;
use crate::files::known::Known;
use crate::limits::MAX_PART_NAME;

const SUFFIX: &str = ".cstore-part";
const NOTE: &str = ".json";

/// The first bytes of a file.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    len: u64,
    note: Note,
    of_before: bool,
    resumed: bool,
    /// True if there is a note beside the part.
    noted: bool,
    /// True if the part stays at the end: it has bytes, or was renamed.
    keeps: bool,
}

/// A part without bytes is of no use to anybody, whatever the end.
impl Drop for Part {
    fn drop(&mut self) {
        if !self.keeps {
            self.remove();
        }
    }
}

/// Returns true if a file of this name would be taken for a part.
pub(in crate::files) fn is_reserved(last: &str) -> bool {
    last.ends_with(SUFFIX) || last.ends_with(&format!("{SUFFIX}{NOTE}"))
}

impl Part {
    /// Takes up the part that is beside `dest`, when it is of this file, or begins one.
    pub(super) async fn open(dest: &Path, url: &str, name: &str) -> Result<Self, Failure> {
        let (path, fresh) = (beside(dest), Note::new(url, name));
        // The file system may block, and signals must be handled at the same time.
        let opened = tokio::task::spawn_blocking(move || Self::take_up(path, fresh)).await;
        opened.map_err(Failure::failed)?
    }

    fn take_up(path: PathBuf, fresh: Note) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| unusable(&path, &error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
            .open(&path)
            .map_err(failed)?;
        let held = file.metadata().map_err(failed)?;
        if !held.is_file() {
            return Err(in_the_way(&path, "no ordinary file"));
        }
        let busy = || {
            Failure::client(
                End::Conflict,
                format!("{} is being written by another download", path.display()),
            )
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy()),
            Err(error) => return Err(failed(error.into())),
        }
        // The process that held the lock before may have given the file its final name since.
        let (held, there) = (
            file.metadata().map_err(failed)?,
            std::fs::symlink_metadata(&path).map_err(failed)?,
        );
        if (held.dev(), held.ino()) != (there.dev(), there.ino()) {
            return Err(busy());
        }
        // Bytes come behind those that are here; when these are of no use, it is emptied first.
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let mut part = Self {
            file: File::from_std(file),
            path: path.clone(),
            len: 0,
            note: fresh,
            of_before: held.len() > 0,
            resumed: false,
            noted: false,
            keeps: held.len() > 0,
        };
        let note_path = note_of(&path);
        let note = match note::find(&note_path).map_err(|error| unusable(&note_path, &error))? {
            Found::Other(what) => return Err(in_the_way(&note_path, what)),
            Found::Nothing => None,
            Found::Note(note) => Some(note),
        };
        part.noted = note.is_some();
        let note = note.filter(|note| held.len() <= note.size);
        // Bytes without a note that fits are of others, who happen to have the name.
        if note.is_none() && held.len() > 0 {
            return Err(in_the_way(&path, "not noted as an unfinished download"));
        }
        if let Some(mut note) = note.filter(|note| held.len() > 0 && note.is_of(&part.note)) {
            let Note {
                size, etag, sha256, ..
            } = note.clone();
            note.known = Some(Known { size, etag, sha256 });
            (part.note, part.len) = (note, held.len());
        }
        Ok(part)
    }

    /// Returns true if all bytes are here.
    pub(super) fn is_whole(&self) -> bool {
        self.known().is_some_and(|known| known.size == self.len)
    }

    /// Returns true if some of the bytes are of an earlier process, and the gateway has not
    /// confirmed them.
    pub(super) fn is_of_before(&self) -> bool {
        self.of_before
    }

    /// Notes that the gateway has confirmed the bytes that are here.
    pub(super) fn confirm(&mut self) {
        self.resumed |= self.of_before;
        self.of_before = false;
    }

    /// Returns true if bytes of an earlier process are among those that are here.
    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file in the state that the bytes are of.
    pub(super) fn known(&self) -> Option<&Known> {
        self.note.known.as_ref()
    }

    pub(super) fn missing(&self) -> u64 {
        self.known()
            .map_or(0, |known| known.size.saturating_sub(self.len))
    }

    /// Empties the part, for a file in this state or one that is still to be learned.
    pub(super) async fn restart(&mut self, known: Option<Known>) -> Result<(), Failure> {
        let emptied = async {
            self.file.flush().await?;
            self.file.set_len(0).await?;
            self.file.rewind().await
        };
        emptied
            .await
            .map_err(|error| unusable(&self.path, &error))?;
        (self.len, self.keeps, self.of_before, self.resumed) = (0, false, false, false);
        if let Some(Known { size, etag, sha256 }) = known.clone() {
            let note = Note {
                size,
                etag,
                sha256,
                known,
                ..self.note.clone()
            };
            let path = note_of(&self.path);
            note.write(&path).map_err(|error| unusable(&path, &error))?;
            (self.note, self.noted) = (note, true);
        } else {
            self.note.known = None;
        }
        Ok(())
    }

    /// Adds bytes behind those that are here.
    pub(super) async fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.file
            .write_all(piece)
            .await
            .map_err(|error| unusable(&self.path, &error))?;
        self.len += piece.len() as u64;
        self.keeps = true;
        Ok(())
    }

    /// Waits until all bytes are in the file.
    pub(super) async fn keep(&mut self) -> Result<(), Failure> {
        self.file
            .flush()
            .await
            .map_err(|error| unusable(&self.path, &error))
    }

    /// Renames the part to the file, durably.
    pub(super) async fn publish(mut self, dest: &Path, replace: bool) -> Result<(), Failure> {
        self.file
            .sync_all()
            .await
            .map_err(|error| unusable(&self.path, &error))?;
        if let Err(failure) = rename(&self.path, dest, replace) {
            // A folder is never replaced, so that the part would wait for ever.
            if is_folder(dest) {
                self.discard();
            }
            return Err(failure);
        }
        self.keeps = true;
        let _ = note::remove(&note_of(&self.path));
        let folder = dest
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| unusable(folder, &error))
    }

    pub(super) fn discard(mut self) {
        self.keeps = false;
    }

    fn remove(&self) {
        // Remains do no harm: the next download begins anew.
        let _ = std::fs::remove_file(&self.path);
        if self.noted {
            let _ = note::remove(&note_of(&self.path));
        }
    }
}

fn in_the_way(path: &Path, what: &str) -> Failure {
    let message = format!(
        "{} is in the way: it is {what}; give it another name, or get under one",
        path.display()
    );
    Failure::client(End::Conflict, message)
}

fn is_folder(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn rename(from: &Path, to: &Path, replace: bool) -> Result<(), Failure> {
    let flags = if replace {
        RenameFlags::empty()
    } else {
        RenameFlags::NOREPLACE
    };
    let renamed = match renameat_with(CWD, from, CWD, to, flags) {
        // A file system that does not know the flag: the look before the download has to do.
        Err(Errno::INVAL | Errno::NOSYS) if !replace => {
            renameat_with(CWD, from, CWD, to, RenameFlags::empty())
        }
        renamed => renamed,
    };
    renamed.map_err(|error| match error {
        Errno::EXIST | Errno::ISDIR if is_folder(to) => Failure::client(
            End::Conflict,
            format!(
                "{} is a folder here, which is never replaced; get the file under another name",
                to.display()
            ),
        ),
        Errno::EXIST => Failure::client(
            End::Conflict,
            format!("{} has appeared; --force replaces it", to.display()),
        ),
        error => unusable(to, &error.into()),
    })
}

fn beside(dest: &Path) -> PathBuf {
    let last = dest.file_name().unwrap_or_default();
    let mut name = OsString::from(last);
    if last.len() > MAX_PART_NAME {
        name = blake3::hash(last.as_encoded_bytes())
            .to_hex()
            .as_str()
            .into();
    }
    name.push(SUFFIX);
    dest.with_file_name(name)
}

fn note_of(part: &Path) -> PathBuf {
    let mut path = part.as_os_str().to_owned();
    path.push(NOTE);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(etag: &str, size: u64) -> Known {
        Known {
            size,
            etag: etag.to_owned(),
            sha256: None,
        }
    }

    async fn open(dest: &Path) -> Part {
        Part::open(dest, "http://g/", "n").await.unwrap()
    }

    /// Leaves the first three bytes of a file of six.
    async fn leave(dest: &Path) {
        let mut part = open(dest).await;
        part.restart(Some(known("e-1", 6))).await.unwrap();
        part.write(b"abc").await.unwrap();
        part.keep().await.unwrap();
    }

    fn count(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[tokio::test]
    async fn a_part_is_taken_up_where_it_was_left_and_only_by_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        let mut part = open(&dest).await;
        assert_eq!((part.len(), part.known()), (0, None));
        part.restart(Some(known("e-1", 6))).await.unwrap();
        part.write(b"abc").await.unwrap();
        part.keep().await.unwrap();
        assert!(
            Part::open(&dest, "http://g/", "n").await.is_err(),
            "it is locked"
        );
        assert!(!part.is_of_before());
        drop(part);
        for (url, name) in [("http://other/", "n"), ("http://g/", "m")] {
            assert_eq!(
                Part::open(&dest, url, name).await.unwrap().len(),
                0,
                "{url} {name}"
            );
        }
        let mut part = open(&dest).await;
        assert_eq!(
            (part.len(), part.missing(), part.known()),
            (3, 3, Some(&known("e-1", 6)))
        );
        assert!(part.is_of_before() && !part.is_resumed());
        part.confirm();
        part.write(b"def").await.unwrap();
        assert!(part.is_whole() && part.is_resumed() && !part.is_of_before());
        part.publish(&dest, false).await.unwrap();
        assert_eq!(std::fs::read(&dest).unwrap(), b"abcdef");
        assert_eq!(count(dir.path()), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn a_part_of_another_boot_is_begun_anew_and_its_old_bytes_are_gone_before_new_ones_come()
    {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        let path = note_of(&beside(&dest));
        for (change, expected) in [("boot", 0), ("nothing", 3)] {
            leave(&dest).await;
            let mut note: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            if change == "boot" {
                note["boot"] = "another".into();
            }
            std::fs::write(&path, note.to_string()).unwrap();
            assert_eq!(open(&dest).await.len(), expected, "{change}");
        }
        let mut part = open(&dest).await;
        part.restart(Some(known("e-2", 2))).await.unwrap();
        part.write(b"xy").await.unwrap();
        assert!(!part.is_resumed());
        part.publish(&dest, false).await.unwrap();
        assert_eq!(std::fs::read(&dest).unwrap(), b"xy");
    }

    #[tokio::test]
    async fn bytes_that_no_note_knows_are_of_others_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        let (part, note) = (beside(&dest), note_of(&beside(&dest)));
        for change in ["broken", "none", "size", "etag"] {
            leave(&dest).await;
            match change {
                "broken" => std::fs::write(&note, "{").unwrap(),
                "none" => std::fs::remove_file(&note).unwrap(),
                "size" => std::fs::write(&note, r#"{"size":2,"etag":"e-1"}"#).unwrap(),
                _ => std::fs::write(&note, r#"{"size":6,"etag":""}"#).unwrap(),
            }
            let failure = Part::open(&dest, "http://g/", "n").await.err().unwrap();
            assert!(failure.end() == End::Conflict, "{change}: {failure}");
            assert!(
                failure.to_string().contains("another name"),
                "{change}: {failure}"
            );
            assert_eq!(std::fs::read(&part).unwrap(), b"abc", "{change}");
            std::fs::remove_file(&part).unwrap();
            let _ = std::fs::remove_file(&note);
        }
        // A note of others is no reason to leave an empty part.
        std::fs::write(&note, "mine").unwrap();
        assert!(Part::open(&dest, "http://g/", "n").await.is_err());
        assert_eq!(
            (count(dir.path()), std::fs::read(&note).unwrap()),
            (1, b"mine".to_vec())
        );
    }

    #[tokio::test]
    async fn a_part_without_bytes_is_not_left_there() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        drop(open(&dest).await);
        assert_eq!(count(dir.path()), 0);
        leave(&dest).await;
        open(&dest).await.restart(None).await.unwrap();
        assert_eq!(count(dir.path()), 0, "nor its note");
        leave(&dest).await;
        open(&dest).await.discard();
        assert_eq!(count(dir.path()), 0);
    }

    #[tokio::test]
    async fn what_has_appeared_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        let mut part = open(&dest).await;
        part.restart(Some(known("e-1", 1))).await.unwrap();
        part.write(b"a").await.unwrap();
        std::fs::write(&dest, "mine").unwrap();
        assert_eq!(
            part.publish(&dest, false).await.unwrap_err().end(),
            End::Conflict
        );
        assert_eq!(std::fs::read(&dest).unwrap(), b"mine");
        open(&dest).await.publish(&dest, true).await.unwrap();
        assert_eq!(std::fs::read(&dest).unwrap(), b"a");
        // A folder is not, even when files may be: the part would wait for ever.
        std::fs::remove_file(&dest).unwrap();
        std::fs::create_dir(&dest).unwrap();
        for replace in [false, true] {
            leave(&dest).await;
            let failure = open(&dest).await.publish(&dest, replace).await.unwrap_err();
            assert!(
                failure.end() == End::Conflict && !failure.to_string().contains("--force"),
                "{failure}"
            );
            assert_eq!(count(dir.path()), 1);
        }
    }

    #[tokio::test]
    async fn a_link_or_a_pipe_in_place_of_the_part_is_not_followed() {
        use rustix::fs::{FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("f");
        std::fs::write(dir.path().join("victim"), "mine").unwrap();
        std::os::unix::fs::symlink("victim", beside(&dest)).unwrap();
        assert!(Part::open(&dest, "http://g/", "n").await.is_err());
        std::fs::remove_file(beside(&dest)).unwrap();
        mknodat(
            CWD,
            beside(&dest),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(
            Part::open(&dest, "http://g/", "n")
                .await
                .err()
                .unwrap()
                .end(),
            End::Conflict
        );
        assert_eq!(count(dir.path()), 2, "and both stay");
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
