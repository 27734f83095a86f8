//! Files of the folder: each file read through its footer or, without one, frame by frame.

use std::sync::Arc;

use bytes::Bytes;
use cstore_types::epoch::Epoch;

use super::RecoveryReport;
use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::file::{Files, LogFile, is_leftover};
use crate::format::{
    BLOCK, Damage, Entry, FRAME_HEADER, FileHeader, FrameHeader, KIND_SUPERSEDES, Seed,
    decode_directory, decode_trailer, frame_crc, header_crc, parse_file_name,
};
use crate::limits::SCAN_BYTES;
use crate::types::{FileState, Location, Options};

/// One file as it lies there.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: u32,
    pub(super) handle: Arc<dyn DiskFile>,
    pub(super) len: u64,
    /// End of the last valid frame.
    pub(super) end: u64,
    pub(super) sealed: bool,
    /// Still as long as it was made: its process died while it was active.
    pub(super) crashed: bool,
    /// A footer is there, wherever the file ends: nothing comes after its frames.
    pub(super) closed: bool,
    /// Where the footer of a sealed file starts.
    pub(super) footer: Option<u64>,
    pub(super) header_crc: u32,
    /// Durable sequence that the header names.
    pub(super) header_durable: u64,
    pub(super) epoch: Epoch,
    pub(super) footer_crc: u32,
    pub(super) durable_seq: u64,
    pub(super) frames: Vec<Frame>,
}

impl Found {
    /// Bytes that it has after [`settle`].
    pub(super) fn settled_size(&self) -> u64 {
        match (self.frames.is_empty(), self.sealed) {
            (true, _) => 0,
            (false, true) => self.len,
            (false, false) => self.end,
        }
    }
}

/// A valid frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) seq: u64,
    /// Where it starts; 0 when it was read from a footer.
    pub(super) start: u64,
    pub(super) entries: Vec<Entry>,
}

/// Reads every file of the folder. Nothing is changed but that leftovers of an interrupted creation
/// are removed.
pub(super) fn read_files(
    disk: &Arc<dyn Disk>,
    files: &Files,
    options: &Options,
    report: &mut RecoveryReport,
) -> Result<Vec<Found>, LogError> {
    let io = LogError::io("read log folder");
    let mut found = Vec::new();
    let mut leftovers = Vec::new();
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
            found.extend(read_file(disk, &name, id, options, report)?);
        } else if is_leftover(&name) {
            leftovers.push(name);
        } else {
            tracing::warn!(%name, "a file that is not of the log lies in its folder");
        }
    }
    for name in leftovers.iter().filter(|_| !options.is_held) {
        disk.remove(name).map_err(&io)?;
    }
    found.sort_by_key(|file| {
        (
            file.frames.first().map_or(u64::MAX, |frame| frame.seq),
            file.id,
        )
    });
    Ok(found)
}

/// Reads a file. Returns `None` for one of another log, in a log with an inventory.
fn read_file(
    disk: &Arc<dyn Disk>,
    name: &str,
    id: u32,
    options: &Options,
    report: &mut RecoveryReport,
) -> Result<Option<Found>, LogError> {
    let io = LogError::io("read log file");
    let corrupt = |damage| LogError::Corrupt {
        file: id,
        offset: 0,
        damage,
    };
    let handle = disk.open(name).map_err(&io)?;
    let len = handle.size().map_err(&io)?;
    if len < BLOCK {
        return Err(corrupt(Damage::Short(len)));
    }
    let block = read_at(&handle, 0, BLOCK as usize)?;
    let header = FileHeader::decode(&block).map_err(corrupt)?;
    if header.file != id || header.owner != options.owner {
        if options.inventory.is_some() {
            report.foreign.push(id);
            return Ok(None);
        }
        return Err(corrupt(Damage::Foreign));
    }
    let mut file = Found {
        id,
        handle,
        len,
        end: BLOCK,
        sealed: false,
        crashed: len == header.capacity,
        closed: false,
        footer: None,
        header_crc: header_crc(&block),
        header_durable: header.durable_seq,
        epoch: header.epoch,
        footer_crc: 0,
        durable_seq: header.durable_seq,
        frames: Vec::new(),
    };
    report.superblock_seq = report.superblock_seq.max(header.superblock_seq);
    if !read_frames(&mut file, options)? {
        report.walked_bytes += file.end;
    }
    Ok(Some(file))
}

/// Returns true if a footer told it all.
fn read_frames(file: &mut Found, options: &Options) -> Result<bool, LogError> {
    let seed = Seed::new(&options.owner, file.id);
    let sealed = read_footer(file, seed)?;
    if !sealed {
        walk(file, seed)?;
    }
    Ok(sealed)
}

/// A record of one file, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Kind, as it was appended.
    pub kind: u8,
    /// Key, as it was appended.
    pub key: Bytes,
    /// Where its payload lies.
    pub location: Location,
}

/// Reads a file that is complete frame by frame, payloads included, and checks every checksum.
pub(crate) fn verify(file: &LogFile, options: &Options) -> Result<(), LogError> {
    let mut found = complete(file)?;
    walk(&mut found, Seed::new(&options.owner, file.id))
}

/// The records of a file that is complete, in the order of the log.
pub(crate) fn directory(
    file: &LogFile,
    options: &Options,
) -> Result<Vec<DirectoryEntry>, LogError> {
    let mut found = complete(file)?;
    read_frames(&mut found, options)?;
    let entry = |entry: Entry| {
        let location = Location {
            file: file.id,
            offset: entry.offset,
            len: entry.len,
        };
        DirectoryEntry {
            kind: entry.kind,
            key: entry.key,
            location,
        }
    };
    let entries = found.frames.into_iter().flat_map(|frame| frame.entries);
    Ok(entries
        .filter(|entry| entry.kind != KIND_SUPERSEDES)
        .map(entry)
        .collect())
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
        crashed: false,
        closed: false,
        footer: None,
        header_crc: 0,
        header_durable: 0,
        epoch: Epoch::default(),
        footer_crc: 0,
        durable_seq: 0,
        frames: Vec::new(),
    })
}

/// Reads a sealed file through its footer. Answers false when it has none.
fn read_footer(file: &mut Found, seed: Seed) -> Result<bool, LogError> {
    let trailer = read_at(&file.handle, file.len - 16, 16)?;
    let Some(trailer) = trailer.first_chunk() else {
        return Ok(false);
    };
    let Some(footer_len) = decode_trailer(seed, trailer) else {
        return Ok(false);
    };
    let Some(offset) = file
        .len
        .checked_sub(footer_len)
        .filter(|offset| *offset >= BLOCK)
    else {
        return Ok(false);
    };
    let footer = read_at(&file.handle, offset, footer_len as usize)?;
    let Some(header) = FrameHeader::decode(&footer, file.id).filter(|header| header.footer) else {
        return Ok(false);
    };
    let content = footer
        .get(..header.content_len() as usize)
        .unwrap_or_default();
    if !header.verify(seed, content) {
        return Ok(false);
    }
    let corrupt = |damage| LogError::Corrupt {
        file: file.id,
        offset,
        damage,
    };
    let entries = decode_directory(
        &header,
        offset,
        content.get(FRAME_HEADER..).unwrap_or_default(),
    );
    for entry in entries.map_err(corrupt)? {
        match file.frames.last_mut() {
            Some(frame) if frame.seq == entry.seq => frame.entries.push(entry),
            _ => file.frames.push(Frame {
                seq: entry.seq,
                start: 0,
                entries: vec![entry],
            }),
        }
    }
    file.durable_seq = file.durable_seq.max(header.durable_seq);
    file.end = file.len;
    file.sealed = true;
    file.footer = Some(offset);
    file.footer_crc = frame_crc(content);
    Ok(true)
}

/// Reads a file without footer frame by frame up to the first invalid one.
fn walk(file: &mut Found, seed: Seed) -> Result<(), LogError> {
    while let Some((header, content)) = read_frame(file, file.end, seed)? {
        file.durable_seq = file.durable_seq.max(header.durable_seq);
        if header.footer {
            // A seal that died before it cut the file. The footer proves the frames before it, but
            // may itself be in the page cache only: the file is cut in front of it.
            file.closed = true;
            return Ok(());
        }
        let directory = content.get(FRAME_HEADER..FRAME_HEADER + header.directory_len as usize);
        let entries = decode_directory(&header, file.end, directory.unwrap_or_default()).map_err(
            |damage| LogError::Corrupt {
                file: file.id,
                offset: file.end,
                damage,
            },
        )?;
        file.frames.push(Frame {
            seq: header.seq,
            start: file.end,
            entries,
        });
        file.end += header.disk_len();
    }
    let damaged = |damage| LogError::Corrupt {
        file: file.id,
        offset: file.end,
        damage,
    };
    if !file.crashed && file.end != file.len {
        return Err(damaged(Damage::Frame));
    }
    if frame_behind(file, seed)? {
        return Err(damaged(Damage::FrameBeforeValid));
    }
    Ok(())
}

fn read_frame(
    file: &Found,
    offset: u64,
    seed: Seed,
) -> Result<Option<(FrameHeader, Vec<u8>)>, LogError> {
    if offset + BLOCK > file.len {
        return Ok(None);
    }
    let start = read_at(&file.handle, offset, FRAME_HEADER)?;
    let Some(header) = FrameHeader::decode(&start, file.id) else {
        return Ok(None);
    };
    if offset + header.disk_len() > file.len {
        return Ok(None);
    }
    let content = read_at(&file.handle, offset, header.content_len() as usize)?;
    Ok(header.verify(seed, &content).then_some((header, content)))
}

/// Returns true if any frame validates behind the valid end. It was written after the sync of the
/// frame before it, so that one is not a torn tail but damaged.
fn frame_behind(file: &Found, seed: Seed) -> Result<bool, LogError> {
    let mut offset = file.end;
    while offset + BLOCK <= file.len {
        let chunk = read_at(
            &file.handle,
            offset,
            SCAN_BYTES.min((file.len - offset) as usize),
        )?;
        for (n, block) in chunk.chunks(BLOCK as usize).enumerate() {
            let at = offset + n as u64 * BLOCK;
            let candidate =
                at > file.end && FrameHeader::decode(block, file.id).is_some_and(|h| !h.footer);
            if candidate && read_frame(file, at, seed)?.is_some() {
                return Ok(true);
            }
        }
        offset += chunk.len() as u64;
    }
    Ok(false)
}

pub(super) fn read_at(
    handle: &Arc<dyn DiskFile>,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, LogError> {
    let mut bytes = vec![0; len];
    handle
        .read_exact_at(&mut bytes, offset)
        .map_err(LogError::io("read log file"))?;
    Ok(bytes)
}
