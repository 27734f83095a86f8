//! Files of the folder, as they lie there. Nothing is changed here, and damage is no error: it is
//! noted, and what is left of a file is read.

use std::io;
use std::sync::Arc;

use cstore_types::epoch::{Epoch, epoch_of};

use super::frames::Frames;
use super::walk::{read_footer, walk};
use super::{ANY_SEQS, RecoveryReport, Standing, Unreadable};
use crate::disk::Disk;
use crate::error::LogError;
use crate::file::{Files, Handle, is_leftover, is_ready};
use crate::format::{BLOCK, Damage, FileHeader, Seed, header_crc, parse_file_name};
use crate::inventory::SealedFigures;
use crate::limits::SCAN_BYTES;
use crate::types::Options;

/// One file as it lies there.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: u32,
    pub(super) handle: Handle,
    pub(super) len: u64,
    /// End of the last frame.
    pub(super) end: u64,
    /// The footer is there and tells all frames.
    pub(super) sealed: bool,
    /// The process may have died while the file was active: a torn frame may follow.
    pub(super) crashed: bool,
    /// Behind its last frame is one that was torn, or damaged since: a crash leaves one at most.
    pub(super) has_torn_frame: bool,
    /// The footer was not found by its trailer: it may be in the page cache only, and the file may go on
    /// behind it.
    pub(super) renews_footer: bool,
    /// Where the frames end behind which a footer was that does not validate any more.
    pub(super) footer_behind: Option<u64>,
    /// The footer tells of frames that do not validate.
    pub(super) is_patched: bool,
    /// The frames of which only the footer tells.
    pub(super) patched: Vec<Hole>,
    /// Where the footer of a sealed file starts.
    pub(super) footer: Option<u64>,
    pub(super) header: Header,
    pub(super) footer_crc: u32,
    pub(super) durable_seq: u64,
    /// Final figures of a file that the inventory lists as complete.
    pub(super) figures: Option<SealedFigures>,
    /// Frames in their order.
    pub(super) frames: Frames,
    /// Sequences whose records frames of this file have copied.
    pub(super) supersedes: Vec<u64>,
    pub(super) holes: Vec<Hole>,
}

/// Names of files that hold nothing of the log.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Files that were never finished, and retired ones.
    pub(super) unfinished: Vec<String>,
    /// Files that were made before they were needed.
    pub(super) ready: Vec<String>,
}

/// Header of a file, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) crc: u32,
    pub(super) durable_seq: u64,
    /// Epoch of the frames; `None` if only a damaged header says it.
    pub(super) epoch: Option<Epoch>,
    pub(super) damage: Option<Damage>,
}

/// A frame, without its records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) seq: u64,
    /// Where it starts; 0 when it was read from a footer.
    pub(super) start: u64,
    /// Bytes up to the next frame; 0 when it was read from a footer.
    pub(super) disk_len: u64,
    pub(super) records: u64,
    pub(super) standing: Standing,
}

/// A part of a file that does not validate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// Id of the file.
    pub file: u32,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// First and last sequence of the frames that were there.
    pub seqs: (u64, u64),
    /// What is wrong.
    pub damage: Damage,
    /// True if the directories of all its frames can be read: their records are delivered as
    /// unverified ones.
    pub is_told: bool,
}

impl Found {
    /// Bytes that it has after an open.
    pub(super) fn settled_size(&self) -> u64 {
        match (self.frames.is_empty(), self.keeps_size()) {
            (true, _) => 0,
            (false, true) => self.len,
            (false, false) => self.end,
        }
    }

    /// Returns true if nothing of the file is cut: it is sealed, or its end is damaged.
    pub(super) fn keeps_size(&self) -> bool {
        let is_behind = |hole: &Hole| hole.offset + hole.len > self.end;
        let is_sealed = self.sealed && !self.renews_footer;
        is_sealed || self.footer_behind == Some(self.end) || self.holes.iter().any(is_behind)
    }

    pub(super) fn last_seq(&self) -> Option<u64> {
        self.frames.last_seq()
    }

    pub(super) fn first_seq(&self) -> Option<u64> {
        self.frames.first().map(|frame| frame.seq)
    }

    /// Returns a checksum of the holes and of what the disk gives back of them; 0 if there are none.
    /// Other damage has another one.
    pub(super) fn holes_crc(&self) -> u32 {
        let mut crc = 0;
        for hole in &self.holes {
            let (first, last) = hole.seqs;
            for field in [hole.offset, hole.len, first, last, hole.is_told.into()] {
                crc = crc32c::crc32c_append(crc, &field.to_le_bytes());
            }
            let end = hole.offset + hole.len;
            let mut at = hole.offset;
            while at < end {
                let mut chunk = vec![0; SCAN_BYTES.min((end - at) as usize)];
                if self.handle.read_exact_at(&mut chunk, at).is_ok() {
                    crc = crc32c::crc32c_append(crc, &chunk);
                    at += chunk.len() as u64;
                    continue;
                }
                // Each block by itself: an unreadable one says nothing about its neighbours.
                for block in chunk.chunks_mut(BLOCK as usize) {
                    crc = match self.handle.read_exact_at(block, at) {
                        Ok(()) => crc32c::crc32c_append(crc, block),
                        Err(_) => crc32c::crc32c_append(crc, b"unreadable"),
                    };
                    at += block.len() as u64;
                }
            }
        }
        match (crc, self.holes.is_empty()) {
            (_, true) => 0,
            (crc, false) => crc.max(1),
        }
    }
}

/// Reads every file of the folder.
///
/// # Errors
/// `Corrupt` for a file of a later program, or, in a log without inventory, of another log; `Io`
/// of the folder, and of a file for a passing reason.
pub(super) fn read_files(
    disk: &Arc<dyn Disk>,
    files: &Files,
    options: &Options,
    report: &mut RecoveryReport,
) -> Result<(Vec<Found>, Leftovers), LogError> {
    let io = LogError::io("read log folder");
    let mut found = Vec::new();
    let mut leftovers = Leftovers::default();
    if let Some(inventory) = &options.inventory {
        files.skip_ids(inventory.highest());
    }
    for name in disk.list().map_err(&io)? {
        if let Some(id) = parse_file_name(&name) {
            files.skip_ids(id);
            if let Some(inventory) = &options.inventory
                && !inventory.may_read(id)
            {
                tracing::warn!(%name, "a file that the inventory does not list is left alone");
                continue;
            }
            found.extend(read_file(files.handle_of(id), id, options, report)?);
        } else if is_leftover(&name) {
            leftovers.unfinished.push(name);
        } else if is_ready(&name) {
            leftovers.ready.push(name);
        } else {
            tracing::warn!(%name, "a file that is not of the log lies in its folder");
        }
    }
    found.sort_by_key(|file| (file.first_seq().unwrap_or(u64::MAX), file.id));
    Ok((found, leftovers))
}

/// Reads a file. Returns `None` for one of another log, in a log with an inventory, and for one of
/// which nothing can be read.
fn read_file(
    handle: Handle,
    id: u32,
    options: &Options,
    report: &mut RecoveryReport,
) -> Result<Option<Found>, LogError> {
    let len = match handle.size() {
        Ok(len) => len,
        Err(error) => {
            let damage = damage_of(&error).ok_or_else(|| io_error(id, error))?;
            let inventory = options.inventory.as_ref();
            let figures = inventory.and_then(|inventory| inventory.sealed_figures(id));
            let seqs = figures.map_or(ANY_SEQS, |figures| (figures.first_seq, figures.last_seq));
            report.unreadable.push(Unreadable {
                file: id,
                damage,
                seqs,
            });
            return Ok(None);
        }
    };

    let header = read_header(&handle, len, id)?;
    if let Ok((header, _)) = &header
        && (header.file != id || header.owner != options.owner)
    {
        if options.inventory.is_some() {
            report.foreign.push(id);
            return Ok(None);
        }
        return Err(corrupt(id, Damage::Foreign));
    }
    let inventory = options.inventory.as_ref();
    let figures = inventory.and_then(|inventory| inventory.sealed_figures(id));
    let may_be_torn = match &header {
        Ok((header, _)) => len == header.capacity,
        Err(_) => true,
    };
    if let Ok((header, _)) = &header {
        report.superblock_seq = report.superblock_seq.max(header.superblock_seq);
    }
    let known = header.as_ref().ok().map(|(header, _)| *header);
    let mut file = Found {
        id,
        handle,
        len,
        end: BLOCK,
        sealed: false,
        crashed: may_be_torn && figures.is_none(),
        has_torn_frame: false,
        renews_footer: false,
        footer_behind: None,
        is_patched: false,
        patched: Vec::new(),
        footer: None,
        header: Header {
            crc: header.as_ref().map_or(0, |(_, crc)| *crc),
            durable_seq: known.map_or(0, |header| header.durable_seq),
            epoch: known.map(|header| header.epoch),
            damage: header.as_ref().err().copied(),
        },
        footer_crc: 0,
        durable_seq: known.map_or(0, |header| header.durable_seq),
        figures,
        frames: Frames::default(),
        supersedes: Vec::new(),
        holes: Vec::new(),
    };
    let seed = Seed::new(&options.owner, id);
    if !read_footer(&mut file, seed)? {
        walk(&mut file, seed)?;
        report.walked_bytes += file.end;
    }
    if file.header.damage.is_some() {
        // Frames name their epoch, and the inventory knows the rest of it.
        let number = epoch_of(file.first_seq().unwrap_or(0));
        file.header.epoch = match number {
            0 => Some(Epoch::default()),
            number => inventory.and_then(|inventory| inventory.epoch(number)),
        };
    }
    Ok(Some(file))
}

/// Reads and checks the header of a file. The inner error is a damage.
fn read_header(
    handle: &Handle,
    len: u64,
    id: u32,
) -> Result<Result<(FileHeader, u32), Damage>, LogError> {
    if len < BLOCK {
        return Ok(Err(Damage::Short(len)));
    }
    let block = match read_or_damage(handle, id, 0, BLOCK as usize)? {
        Ok(block) => block,
        Err(damage) => return Ok(Err(damage)),
    };
    match FileHeader::decode(&block) {
        Ok(header) => Ok(Ok((header, header_crc(&block)))),
        // Leave files of a later program to it.
        Err(damage @ Damage::Version(_)) => Err(corrupt(id, damage)),
        Err(damage) => Ok(Err(damage)),
    }
}

pub(super) fn corrupt(file: u32, damage: Damage) -> LogError {
    LogError::Corrupt {
        file,
        offset: 0,
        damage,
    }
}

pub(super) fn io_error(file: u32, error: io::Error) -> LogError {
    LogError::io_of("read log file", file)(error)
}

/// Reads bytes; the inner error says that the disk does not give them back.
///
/// # Errors
/// `Io` for errors that say nothing about the disk, such as too few descriptors.
pub(super) fn read_or_damage(
    handle: &Handle,
    file: u32,
    offset: u64,
    len: usize,
) -> Result<Result<Vec<u8>, Damage>, LogError> {
    let mut bytes = vec![0; len];
    match handle.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Ok(bytes)),
        Err(error) => damage_of(&error)
            .map(Err)
            .ok_or_else(|| io_error(file, error)),
    }
}

/// Returns the damage that an error of the system stands for; `None` if it says nothing about what
/// is stored. The numbers are those of Linux (errno(3)).
pub(crate) fn damage_of(error: &io::Error) -> Option<Damage> {
    const EIO: i32 = 5;
    const ENXIO: i32 = 6;
    const EISDIR: i32 = 21;
    const ENODATA: i32 = 61;
    const EBADMSG: i32 = 74;
    const EILSEQ: i32 = 84;
    const EUCLEAN: i32 = 117;
    const EREMOTEIO: i32 = 121;
    let of_media = [
        EIO, ENXIO, EISDIR, ENODATA, EBADMSG, EILSEQ, EUCLEAN, EREMOTEIO,
    ];
    match error.raw_os_error() {
        Some(errno) => of_media
            .contains(&errno)
            .then_some(Damage::Unreadable(errno)),
        // The file is shorter than it was a moment ago, or than its own fields say.
        None if error.kind() == io::ErrorKind::UnexpectedEof => Some(Damage::Unreadable(EIO)),
        None => None,
    }
}
