//! The frames of one file: through its footer or, without one, frame by frame. Where a frame does
//! not validate, the walk goes on at the next one that does, and notes the hole.

use std::sync::Arc;

use cstore_types::epoch::epoch_of;

use super::found::{Found, Frame, Hole, corrupt, damage_of, io_error, read_or_damage};
use crate::disk::DiskFile;
use crate::error::LogError;
use crate::format::{
    BLOCK, Damage, Entry, EntryRef, FRAME_HEADER, FrameHeader, KIND_SUPERSEDES, Seed, TRAILER,
    decode_directory, decode_trailer, footer_bytes, frame_crc, is_plausible, visit_directory,
};
use crate::limits::SCAN_BYTES;

/// Reads a sealed file through its footer. Returns false when it has none.
pub(super) fn read_footer(file: &mut Found, seed: Seed) -> Result<bool, LogError> {
    let Some((offset, header, content)) = find_footer(file, seed)? else {
        return Ok(false);
    };
    let Found {
        frames, supersedes, ..
    } = file;
    let directory = content.get(FRAME_HEADER..).unwrap_or_default();
    let note = &mut |entry: EntryRef<'_>| {
        note_superseded(supersedes, &entry);
        match frames.last_mut() {
            Some(frame) if frame.seq == entry.seq => frame.records += 1,
            _ => frames.push(Frame {
                seq: entry.seq,
                start: 0,
                disk_len: 0,
                records: 1,
                is_damaged: false,
            }),
        }
    };
    // Its checksum matches, so this is how it was written.
    visit_directory(&header, offset, directory, note).map_err(|damage| corrupt(file.id, damage))?;
    file.durable_seq = file.durable_seq.max(header.durable_seq);
    file.end = file.len;
    file.sealed = true;
    file.footer = Some(offset);
    file.footer_crc = frame_crc(&content);
    Ok(true)
}

/// Returns the footer of a file with its place and its header, if it is there and valid.
fn find_footer(file: &Found, seed: Seed) -> Result<Option<(u64, FrameHeader, Vec<u8>)>, LogError> {
    let read = |offset, len| read_or_damage(&file.handle, file.id, offset, len);
    let Some(at) = file.len.checked_sub(TRAILER as u64) else {
        return Ok(None);
    };
    let Ok(trailer) = read(at, TRAILER)? else {
        return Ok(None);
    };
    let footer_len = trailer
        .first_chunk()
        .and_then(|trailer| decode_trailer(seed, trailer));
    let offset = footer_len.and_then(|len| file.len.checked_sub(len));
    let (Some(footer_len), Some(offset)) = (footer_len, offset.filter(|at| *at >= BLOCK)) else {
        return Ok(None);
    };
    let Ok(mut footer) = read(offset, footer_len as usize)? else {
        return Ok(None);
    };
    let header = FrameHeader::decode(&footer, file.id).filter(|header| header.footer);
    let Some(header) = header else {
        return Ok(None);
    };
    footer.truncate(header.content_len() as usize);
    Ok(header
        .verify(seed, &footer)
        .then_some((offset, header, footer)))
}

/// Reads a file without footer frame by frame. Behind its last frame is the room of a file that was
/// active, or a footer that does not validate; everything else there is a hole.
pub(super) fn walk(file: &mut Found, seed: Seed) -> Result<(), LogError> {
    loop {
        if let Some((header, content)) = read_frame(file, file.end, seed)? {
            file.durable_seq = file.durable_seq.max(header.durable_seq);
            if header.footer {
                // A seal that died before it cut the file. The footer proves the frames before it,
                // but may itself be in the page cache only: the file is cut in front of it.
                file.closed = true;
                break;
            }
            push_frame(file, &header, &content)?;
        } else if let Some((next, seq)) = frame_behind(file, seed)? {
            note_hole(file, next, seq)?;
        } else {
            break;
        }
    }
    judge_end(file, seed)
}

fn push_frame(file: &mut Found, header: &FrameHeader, content: &[u8]) -> Result<(), LogError> {
    let directory = content.get(FRAME_HEADER..FRAME_HEADER + header.directory_len as usize);
    let supersedes = &mut file.supersedes;
    let note = &mut |entry: EntryRef<'_>| note_superseded(supersedes, &entry);
    // Its checksum matches, so this is how it was written.
    visit_directory(header, file.end, directory.unwrap_or_default(), note)
        .map_err(|damage| corrupt(file.id, damage))?;
    file.frames.push(Frame {
        seq: header.seq,
        start: file.end,
        disk_len: header.disk_len(),
        records: header.records.into(),
        is_damaged: false,
    });
    file.end += header.disk_len();
    Ok(())
}

fn note_superseded(supersedes: &mut Vec<u64>, entry: &EntryRef<'_>) {
    if entry.kind == KIND_SUPERSEDES
        && let Some(raw) = entry.key.first_chunk()
    {
        supersedes.push(u64::from_le_bytes(*raw));
    }
}

/// Compares the end of a file that was walked with what is known of the file.
fn judge_end(file: &mut Found, seed: Seed) -> Result<(), LogError> {
    let rest = file.len.saturating_sub(file.end);
    let last = file.last_seq();
    if let Some(figures) = file.figures {
        if last.is_none_or(|last| last < figures.last_seq) {
            let next = last.map_or(figures.first_seq, |last| last + 1);
            let damage = if rest == 0 {
                Damage::Short(file.len)
            } else {
                Damage::Frame
            };
            return tell_end(file, (next, figures.last_seq), damage, seed);
        }
        return Ok(());
    }
    if file.crashed || file.closed || rest == 0 {
        return Ok(());
    }
    if file.len < BLOCK {
        file.holes.push(Hole {
            file: file.id,
            offset: 0,
            len: file.len,
            seqs: (0, 0),
            damage: Damage::Short(file.len),
            is_told: false,
        });
        return Ok(());
    }
    let entries = entries_of(file, seed)?;
    let key_bytes = entries.iter().map(|entry| entry.key.len()).sum();
    if rest != footer_bytes(entries.len(), key_bytes) {
        let next = last.map_or(0, |last| last + 1);
        return tell_end(file, (next, next), Damage::Frame, seed);
    }
    Ok(())
}

/// Notes that frames of the sequences `seqs` are missing at the end of a file, and what their
/// directories tell, if these are there.
pub(super) fn tell_end(
    file: &mut Found,
    seqs: (u64, u64),
    damage: Damage,
    seed: Seed,
) -> Result<(), LogError> {
    let (offset, before) = (file.end, seqs.1.saturating_add(1));
    let told = tell(file, offset, file.len, before)?;
    let is_told = file.last_seq() == Some(seqs.1) && told > offset;
    let len = match is_told {
        true => told,
        false => file.len.max(offset),
    } - offset;
    file.holes.push(Hole {
        file: file.id,
        offset,
        len,
        seqs,
        damage,
        is_told,
    });
    if is_told {
        file.end = told;
        // A footer may follow.
        if let Some((header, _)) = read_frame(file, file.end, seed)? {
            file.closed = header.footer;
        }
    }
    Ok(())
}

/// Notes the hole between the end of the frames and the next valid one, at `next`.
fn note_hole(file: &mut Found, next: u64, seq: u64) -> Result<(), LogError> {
    let (offset, last) = (file.end, file.last_seq());
    let told = tell(file, offset, next, seq)?;
    let known = file.figures.map(|figures| figures.first_seq);
    let first = match last {
        Some(last) => last + 1,
        None => known
            .or_else(|| file.first_seq())
            .unwrap_or_else(|| seq.saturating_sub(1)),
    };
    file.holes.push(Hole {
        file: file.id,
        offset,
        len: next - offset,
        seqs: (first.min(seq.saturating_sub(1)), seq.saturating_sub(1)),
        damage: Damage::FrameBeforeValid,
        is_told: told == next && file.last_seq().map(|last| last + 1) == Some(seq),
    });
    file.end = next;
    Ok(())
}

/// Takes damaged frames from `offset` on whose headers and directories fit each other, the file and
/// the sequences around them. Returns where the last one ends.
fn tell(file: &mut Found, mut offset: u64, end: u64, before: u64) -> Result<u64, LogError> {
    while offset + BLOCK <= end {
        let read = |offset, len| read_or_damage(&file.handle, file.id, offset, len);
        let Ok(start) = read(offset, FRAME_HEADER)? else {
            break;
        };
        let Some(header) = FrameHeader::decode(&start, file.id) else {
            break;
        };
        let follows = match file.last_seq() {
            Some(last) => header.seq == last + 1,
            None => epoch_of(header.seq) == epoch_of(before.saturating_sub(1)),
        };
        if !follows || header.seq >= before || offset + header.disk_len() > end {
            break;
        }
        let at = offset + FRAME_HEADER as u64;
        let Ok(directory) = read(at, header.directory_len as usize)? else {
            break;
        };
        if !is_plausible(&header, offset, &directory) {
            break;
        }
        file.frames.push(Frame {
            seq: header.seq,
            start: offset,
            disk_len: header.disk_len(),
            records: header.records.into(),
            is_damaged: true,
        });
        offset += header.disk_len();
    }
    Ok(offset)
}

/// Reads a frame; `None` if there is none that validates.
fn read_frame(
    file: &Found,
    offset: u64,
    seed: Seed,
) -> Result<Option<(FrameHeader, Vec<u8>)>, LogError> {
    if offset + BLOCK > file.len {
        return Ok(None);
    }
    let read = |len| read_or_damage(&file.handle, file.id, offset, len);
    let Ok(start) = read(FRAME_HEADER)? else {
        return Ok(None);
    };
    let Some(header) = FrameHeader::decode(&start, file.id) else {
        return Ok(None);
    };
    if offset + header.disk_len() > file.len {
        return Ok(None);
    }
    let Ok(content) = read(header.content_len() as usize)? else {
        return Ok(None);
    };
    Ok(header.verify(seed, &content).then_some((header, content)))
}

/// Returns place and sequence of the first frame behind the valid end that validates. It was
/// written after the sync of the frame before it, so that one is not a torn tail but damaged.
fn frame_behind(file: &Found, seed: Seed) -> Result<Option<(u64, u64)>, LogError> {
    // A damaged frame may hold anything, also what looks like a frame: it is passed by its length
    // if its header is there.
    let mut offset = file.end;
    if let Some((behind, _)) = header_at(file, offset)?
        && let Some(seq) = valid_at(file, behind, seed)?
    {
        return Ok(Some((behind, seq)));
    }
    offset += BLOCK;
    while offset + BLOCK <= file.len {
        let len = SCAN_BYTES.min((file.len - offset) as usize);
        let chunk = read_readable(&file.handle, file.id, offset, len)?;
        for (n, block) in chunk.chunks(BLOCK as usize).enumerate() {
            let at = offset + n as u64 * BLOCK;
            let candidate = FrameHeader::decode(block, file.id).is_some_and(|h| !h.footer);
            if candidate && let Some(seq) = valid_at(file, at, seed)? {
                return Ok(Some((at, seq)));
            }
        }
        offset += len as u64;
    }
    Ok(None)
}

/// Returns where a frame would end whose header at `offset` has not been verified.
fn header_at(file: &Found, offset: u64) -> Result<Option<(u64, u64)>, LogError> {
    if offset + BLOCK > file.len {
        return Ok(None);
    }
    let read = read_or_damage(&file.handle, file.id, offset, FRAME_HEADER)?;
    let header = read.ok().and_then(|raw| FrameHeader::decode(&raw, file.id));
    Ok(header.map(|header| (offset + header.disk_len(), header.seq)))
}

/// Returns the sequence of a valid frame at `offset` that can follow those before it.
fn valid_at(file: &Found, offset: u64, seed: Seed) -> Result<Option<u64>, LogError> {
    let frame = read_frame(file, offset, seed)?;
    let seq = frame.and_then(|(header, _)| (!header.footer).then_some(header.seq));
    Ok(seq.filter(|seq| {
        file.last_seq()
            .is_none_or(|last| *seq > last && epoch_of(*seq) == epoch_of(last))
    }))
}

/// Reads bytes; blocks of which the disk gives nothing back are zero.
fn read_readable(
    handle: &Arc<dyn DiskFile>,
    file: u32,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, LogError> {
    if let Ok(bytes) = read_or_damage(handle, file, offset, len)? {
        return Ok(bytes);
    }
    let mut bytes = vec![0; len];
    for (n, block) in bytes.chunks_mut(BLOCK as usize).enumerate() {
        let at = offset + n as u64 * BLOCK;
        match handle.read_exact_at(block, at) {
            Ok(()) => {}
            Err(error) if damage_of(&error).is_some() => block.fill(0),
            Err(error) => return Err(io_error(file, error)),
        }
    }
    Ok(bytes)
}

/// Calls `visit` with each record of a file in the order of its frames, and whether it is of a
/// damaged one.
pub(super) fn visit_records(
    file: &Found,
    seed: Seed,
    visit: &mut dyn FnMut(EntryRef<'_>, bool),
) -> Result<(), LogError> {
    let damaged = |damage| corrupt(file.id, damage);
    if file.sealed {
        let footer = find_footer(file, seed)?;
        let (offset, header, content) = footer.ok_or_else(|| damaged(Damage::Frame))?;
        let directory = content.get(FRAME_HEADER..).unwrap_or_default();
        let each = &mut |entry: EntryRef<'_>| visit(entry, false);
        return visit_directory(&header, offset, directory, each).map_err(damaged);
    }
    for frame in &file.frames {
        let (header, directory) = directory_of(file, frame)?;
        let each = &mut |entry: EntryRef<'_>| visit(entry, frame.is_damaged);
        visit_directory(&header, frame.start, &directory, each).map_err(damaged)?;
    }
    Ok(())
}

/// Reads header and directory of a frame that was walked. They were checked then.
fn directory_of(file: &Found, frame: &Frame) -> Result<(FrameHeader, Vec<u8>), LogError> {
    let read = |offset, len| -> Result<Vec<u8>, LogError> {
        let mut bytes = vec![0; len];
        let read = file.handle.read_exact_at(&mut bytes, offset);
        read.map_err(|error| io_error(file.id, error))?;
        Ok(bytes)
    };
    let start = read(frame.start, FRAME_HEADER)?;
    let header = FrameHeader::decode(&start, file.id);
    let header = header.ok_or_else(|| corrupt(file.id, Damage::Frame))?;
    let at = frame.start + FRAME_HEADER as u64;
    let directory = read(at, header.directory_len as usize)?;
    Ok((header, directory))
}

/// Returns all records of a file that was walked.
pub(super) fn entries_of(file: &Found, seed: Seed) -> Result<Vec<Entry>, LogError> {
    let mut entries = Vec::new();
    visit_records(file, seed, &mut |entry, _| entries.push(entry.to_entry()))?;
    Ok(entries)
}

/// Returns the records of one frame that was walked.
pub(super) fn entries_of_frame(file: &Found, frame: &Frame) -> Result<Vec<Entry>, LogError> {
    let (header, directory) = directory_of(file, frame)?;
    decode_directory(&header, frame.start, &directory).map_err(|damage| corrupt(file.id, damage))
}
