//! Reading a file again that takes no more frames.

use bytes::Bytes;

use super::Standing;
use super::found::{Found, Header, Hole, corrupt};
use super::frames::Frames;
use super::walk::{read_footer, visit_records, walk};
use crate::error::LogError;
use crate::file::LogFile;
use crate::format::{BLOCK, Damage, EntryRef, KIND_SUPERSEDES, Seed};
use crate::types::{FileState, Location, Options};

/// A record of one file, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Kind, as it was appended.
    pub kind: u8,
    /// Key, as it was appended.
    pub key: Bytes,
    /// Where its payload lies.
    pub location: Location,
    /// Standing of the frame.
    pub standing: Standing,
}

/// Reads a file that is complete frame by frame, payloads included, and checks every checksum.
pub(crate) fn verify(file: &LogFile, options: &Options) -> Result<(), LogError> {
    match damage(file, options)?.first() {
        None => Ok(()),
        Some(hole) if hole.len > 0 => Err(LogError::Corrupt {
            file: file.id,
            offset: hole.offset,
            damage: hole.damage,
        }),
        Some(hole) => Err(corrupt(file.id, hole.damage)),
    }
}

/// Reads a file like [`verify`], and returns all parts of it that do not validate.
pub(crate) fn damage(file: &LogFile, options: &Options) -> Result<Vec<Hole>, LogError> {
    let seed = Seed::new(&options.owner, file.id);
    let mut walked = complete(file)?;
    walk(&mut walked, seed)?;
    let mut holes = std::mem::take(&mut walked.holes);
    holes.append(&mut walked.patched);

    // The walk of a sealed file ends at its footer.
    let is_sealed = file.info.lock().state == FileState::Sealed;
    let is_ended = walked.sealed == is_sealed && !walked.is_patched;
    if holes.is_empty() && !is_ended {
        holes.push(Hole {
            file: file.id,
            offset: walked.end,
            len: 0,
            seqs: (0, 0),
            damage: Damage::Frame,
            is_told: false,
        });
    }
    Ok(holes)
}

/// The records of a file that is complete, in the order of the log.
pub(crate) fn directory(
    file: &LogFile,
    options: &Options,
) -> Result<Vec<DirectoryEntry>, LogError> {
    let seed = Seed::new(&options.owner, file.id);
    let mut found = complete(file)?;
    if !read_footer(&mut found, seed)? {
        walk(&mut found, seed)?;
    }
    let mut entries = Vec::new();
    visit_records(&found, seed, &mut |entry: EntryRef<'_>, standing| {
        if entry.kind != KIND_SUPERSEDES {
            entries.push(DirectoryEntry {
                kind: entry.kind,
                key: Bytes::copy_from_slice(entry.key),
                location: Location {
                    file: file.id,
                    offset: entry.offset,
                    len: entry.len,
                },
                standing,
            });
        }
    })?;
    Ok(entries)
}

/// Returns a file that is not active, nothing of it read yet.
fn complete(file: &LogFile) -> Result<Found, LogError> {
    let info = file.info.lock().clone();
    if info.state == FileState::Active {
        return Err(LogError::NoFile(file.id));
    }
    Ok(Found {
        id: file.id,
        handle: file.handle.clone(),
        len: info.size,
        end: BLOCK,
        sealed: false,
        // In front of the footer of a sealed file may be room.
        crashed: info.state == FileState::Sealed,
        has_torn_frame: false,
        renews_footer: false,
        footer_behind: None,
        is_patched: false,
        patched: Vec::new(),
        footer: None,
        header: Header {
            crc: info.header_crc,
            durable_seq: 0,
            epoch: None,
            damage: None,
        },
        footer_crc: info.footer_crc,
        durable_seq: 0,
        figures: None,
        frames: Frames::default(),
        supersedes: Vec::new(),
        holes: Vec::new(),
    })
}
