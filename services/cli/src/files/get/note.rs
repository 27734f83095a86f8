//! Notes beside parts: small files that say of which file a part is, and in which state.
//!
//! A note is never written through what stands in its place, nor is a pipe there waited for:
//! whatever is no note is in the way, and stays as it is.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::files::flags;
use crate::files::known::Known;
use crate::limits::MAX_NOTE_BYTES;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Note {
    pub(super) url: String,
    pub(super) name: String,
    pub(super) boot: String,
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) sha256: Option<String>,
    #[serde(skip)]
    pub(super) known: Option<Known>,
}

/// Content of the place of a note.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Note(Note),
    /// Something that is no note, and a description of it.
    Other(&'static str),
}

impl Note {
    /// Makes a note of this file of this gateway, in this boot of the machine.
    pub(super) fn new(url: &str, name: &str) -> Self {
        Self {
            url: url.to_owned(),
            name: name.to_owned(),
            boot: boot(),
            ..Self::default()
        }
    }

    /// Returns true if bytes with this note are the first bytes of the file that `wanted` is about.
    pub(super) fn is_of(&self, wanted: &Self) -> bool {
        !self.boot.is_empty()
            && (&self.url, &self.name, &self.boot) == (&wanted.url, &wanted.name, &wanted.boot)
    }

    /// Writes the note as a new file. Bytes come only afterwards, so that one which is cut short
    /// says nothing wrong.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        remove(path)?;
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .custom_flags(flags(OFlags::NOFOLLOW))
            .open(path)?;
        file.write_all(&text).inspect_err(|_| {
            // The failure to write is told; a piece of a note would be in the way the next time.
            let _ = remove(path);
        })
    }
}

/// Removes a note, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path).or_else(|error| {
        if error.kind() == ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })
}

/// Looks for a note. An empty file counts as none: power cuts leave such files.
pub(super) fn find(path: &Path) -> io::Result<Found> {
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK));
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        // O_NOFOLLOW refuses symbolic links.
        Err(_) if path.is_symlink() => return Ok(Found::Other("a symbolic link")),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(Found::Other("no ordinary file"));
    }
    let mut text = Vec::new();
    file.take(MAX_NOTE_BYTES).read_to_end(&mut text)?;
    if text.is_empty() {
        return Ok(Found::Nothing);
    }
    match serde_json::from_slice::<Note>(&text) {
        Ok(note) if !note.etag.is_empty() => Ok(Found::Note(note)),
        _ => Ok(Found::Other("not the note of an unfinished download")),
    }
}

/// Returns the id of this boot of the machine; empty if unknown, and then no part is resumed.
fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    #[test]
    fn what_is_no_note_is_told_and_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note");
        assert_eq!(find(&path).unwrap(), Found::Nothing);
        for (text, is_note) in [("{", false), ("{}", false), (r#"{"etag":"e"}"#, true)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(
                matches!(find(&path).unwrap(), Found::Note(_)),
                is_note,
                "{text}"
            );
        }
        let victim = dir.path().join("victim");
        std::fs::write(&victim, r#"{"etag":"e"}"#).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert_eq!(find(&path).unwrap(), Found::Other("a symbolic link"));
        Note::new("u", "n").write(&path).unwrap();
        assert_eq!(
            std::fs::read_to_string(&victim).unwrap(),
            r#"{"etag":"e"}"#,
            "a link is not written through"
        );
        std::fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(find(&path).unwrap(), Found::Other("no ordinary file"));
    }
}
