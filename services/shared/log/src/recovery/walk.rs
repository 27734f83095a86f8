//! The frames of one file: through its footer or, without one, frame by frame. Where a frame does
//! not validate, the walk goes on at the next one that does, and notes the hole.

use bytes::Bytes;
use cstore_types::epoch::epoch_of;

use super::Standing;
use super::found::{Found, Frame, Hole, corrupt, io_error, read_or_damage};
use super::frames::Frames;
use super::search::{Behind, Scan, frame_behind};
use crate::error::LogError;
use crate::format::{
    BLOCK, Damage, Entry, EntryRef, FRAME_HEADER, FrameHeader, KIND_SUPERSEDES, Seed, TRAILER,
    decode_directory, decode_trailer, frame_crc, is_plausible, is_trailer, visit_directory,
    with_trailer,
};

/// Reads a sealed file through its footer. Returns false when it has none at its end.
pub(super) fn read_footer(file: &mut Found, seed: Seed) -> Result<bool, LogError> {
    let Some((offset, header, content)) = find_footer(file, seed)? else {
        return Ok(false);
    };
    note_footer(file, offset, &header, &content)?;
    Ok(true)
}

fn note_footer(
    file: &mut Found,
    offset: u64,
    header: &FrameHeader,
    content: &[u8],
) -> Result<(), LogError> {
    let Found {
        frames, supersedes, ..
    } = file;
    let directory = content.get(FRAME_HEADER..).unwrap_or_default();
    let note = &mut |entry: EntryRef<'_>| {
        note_superseded(supersedes, &entry);
        frames.count_record(entry.seq);
    };
    // The checksum matches, so the directory is as it was written.
    visit_directory(header, offset, directory, note).map_err(|damage| corrupt(file.id, damage))?;
    file.durable_seq = file.durable_seq.max(header.durable_seq);
    file.end = offset + footer_len(header);
    file.sealed = true;
    file.footer = Some(offset);
    file.footer_crc = frame_crc(content);
    Ok(())
}

/// Returns the bytes that a footer takes with its trailer.
fn footer_len(header: &FrameHeader) -> u64 {
    (header.content_len() + TRAILER as u64).next_multiple_of(BLOCK)
}

/// Returns the footer of a file with its place and its header, if it is there and valid.
fn find_footer(file: &Found, seed: Seed) -> Result<Option<(u64, FrameHeader, Vec<u8>)>, LogError> {
    let read = |offset, len| read_or_damage(&file.handle, file.id, offset, len);
    if let Some(offset) = file.footer {
        let found = read_frame(file, offset, seed)?.filter(|(header, _)| header.footer);
        return Ok(found.map(|(header, content)| (offset, header, content)));
    }
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

/// Reads a file whose footer was not found at its end frame by frame. Behind its last frame is the
/// room of a file that was active, or a footer that does not validate; everything else there is a
/// hole.
pub(super) fn walk(file: &mut Found, seed: Seed) -> Result<(), LogError> {
    let mut scan = Scan::of(file);
    // Frames that a scan has found are followed by others that prove nothing either: what a client
    // has uploaded may look like frames.
    let mut is_scanned = false;
    loop {
        if let Some((header, content)) = read_frame(file, file.end, seed)? {
            if header.footer {
                take_footer(file, file.end, &header, &content)?;
                return Ok(());
            }
            if push_frame(file, &header, &content, is_scanned) {
                continue;
            }
        }
        match frame_behind(file, &mut scan, seed)? {
            Behind::Frame { at, seq, by_length } => {
                note_hole(file, at, seq)?;
                is_scanned |= !by_length;
            }
            Behind::Footer(at) => {
                // A footer lists the records of all frames, damaged ones included.
                if let Some((header, content)) = read_frame(file, at, seed)? {
                    take_footer(file, at, &header, &content)?;
                }
                return Ok(());
            }
            Behind::Nothing => break,
            Behind::Unknown(damage) => return note_unknown_end(file, damage),
        }
    }
    judge_end(file)
}

/// Notes that the end of a file cannot be told, unless it is known that all frames are in front of it.
fn note_unknown_end(file: &mut Found, damage: Damage) -> Result<(), LogError> {
    let last = file.last_seq();
    let next = last.map_or(0, |last| last + 1);
    match file.figures {
        Some(figures) if last.is_some_and(|last| last >= figures.last_seq) => Ok(()),
        Some(figures) => {
            let first = if last.is_none() {
                figures.first_seq
            } else {
                next
            };
            tell_end(file, (first, figures.last_seq), damage)
        }
        None => tell_end(file, (next, next), damage),
    }
}

/// Takes the directory of a valid footer at `at` for that of the file. A seal that died before it
/// cut the file may have left it in the page cache only, and its trailer may be damaged: it is
/// written again.
fn take_footer(
    file: &mut Found,
    at: u64,
    header: &FrameHeader,
    content: &[u8],
) -> Result<(), LogError> {
    let (walked, end) = (file.last_seq(), file.end);
    file.frames = Frames::default();
    file.supersedes.clear();
    let mut patched = std::mem::take(&mut file.holes);
    note_footer(file, at, header, content)?;
    if let Some(last) = file.last_seq().filter(|last| walked != Some(*last)) {
        patched.push(Hole {
            file: file.id,
            offset: end,
            len: at - end,
            seqs: (walked.map_or(0, |walked| walked + 1), last),
            damage: Damage::Frame,
            is_told: true,
        });
    }
    file.is_patched = !patched.is_empty() || walked != file.last_seq();
    file.patched = patched;
    file.renews_footer = true;
    Ok(())
}

/// Notes a valid frame at the end of the others; returns false if its directory cannot be read.
fn push_frame(file: &mut Found, header: &FrameHeader, content: &[u8], is_scanned: bool) -> bool {
    let directory = content.get(FRAME_HEADER..FRAME_HEADER + header.directory_len as usize);
    let mut supersedes = Vec::new();
    let note = &mut |entry: EntryRef<'_>| note_superseded(&mut supersedes, &entry);
    if visit_directory(header, file.end, directory.unwrap_or_default(), note).is_err() {
        return false;
    }
    if !is_scanned {
        file.durable_seq = file.durable_seq.max(header.durable_seq);
        file.supersedes.extend(supersedes);
    }
    file.frames.push(Frame {
        seq: header.seq,
        start: file.end,
        disk_len: header.disk_len(),
        records: header.records.into(),
        standing: match is_scanned {
            true => Standing::Searched,
            false => Standing::Verified,
        },
    });
    file.end += header.disk_len();
    true
}

fn note_superseded(supersedes: &mut Vec<u64>, entry: &EntryRef<'_>) {
    if entry.kind == KIND_SUPERSEDES
        && let Some(raw) = entry.key.first_chunk()
    {
        supersedes.push(u64::from_le_bytes(*raw));
    }
}

/// Compares the end of a file that was walked with what is known of the file.
fn judge_end(file: &mut Found) -> Result<(), LogError> {
    let rest = file.len.saturating_sub(file.end);
    let last = file.last_seq();
    let next = last.map_or(0, |last| last + 1);
    let is_cut_short = if rest == 0 {
        Damage::Short(file.len)
    } else {
        Damage::Frame
    };
    if let Some(figures) = file.figures {
        if last.is_none_or(|last| last < figures.last_seq) {
            let next = last.map_or(figures.first_seq, |last| last + 1);
            return tell_end(file, (next, figures.last_seq), is_cut_short);
        }
        return Ok(());
    }
    if file.frames.is_empty() && (!file.crashed || file.header.damage.is_some()) {
        // A file is cut only behind a frame, and its header is durable before its name is.
        let damage = file.header.damage.unwrap_or(is_cut_short);
        return tell_end(file, (0, 0), damage);
    }
    if file.crashed {
        return note_damaged_tail(file);
    }
    if rest == 0 {
        return Ok(());
    }
    if is_at_footer(file)? {
        file.footer_behind = Some(file.end);
        return Ok(());
    }
    tell_end(file, (next, next), is_cut_short)
}

/// Notes a hole if more than the last frame of a crashed file is damaged: a frame is written after
/// the sync of the one before it. One alone is torn.
fn note_damaged_tail(file: &mut Found) -> Result<(), LogError> {
    let (offset, own) = (file.end, file.frames.len());
    tell(file, offset, file.len, u64::MAX)?;
    let told = file.frames.split_off(own);
    file.has_torn_frame = !told.is_empty();
    if let [first, .., before_last, _] | [first @ before_last, _] = &told[..] {
        let end = before_last.start + before_last.disk_len;
        let seqs = (first.seq, before_last.seq);
        file.frames.extend(&told[..told.len() - 1]);
        file.holes.push(Hole {
            file: file.id,
            offset,
            len: end - offset,
            seqs,
            damage: Damage::FrameBeforeValid,
            is_told: true,
        });
        file.end = end;
    }
    Ok(())
}

/// Returns true if a footer begins where the frames end that was damaged since.
fn is_at_footer(file: &Found) -> Result<bool, LogError> {
    let rest = file.len.saturating_sub(file.end);
    let read = |offset, len| read_or_damage(&file.handle, file.id, offset, len);
    let trailer = read(file.len.saturating_sub(TRAILER as u64), TRAILER)?;
    if trailer.is_ok_and(|trailer| is_trailer(&trailer)) {
        return Ok(true);
    }
    let start = read(file.end, FRAME_HEADER)?;
    let header = start
        .ok()
        .and_then(|raw| FrameHeader::decode(&raw, file.id));
    Ok(header.is_some_and(|header| header.footer && footer_len(&header) == rest))
}

/// Notes that frames of the sequences `seqs` are missing at the end of a file, and what their
/// directories tell, if these are there.
pub(super) fn tell_end(file: &mut Found, seqs: (u64, u64), damage: Damage) -> Result<(), LogError> {
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
    }
    Ok(())
}

/// Notes the hole between the end of the frames and the next valid one, at `next`.
fn note_hole(file: &mut Found, next: u64, seq: u64) -> Result<(), LogError> {
    let (offset, last) = (file.end, file.last_seq());
    let told = tell(file, offset, next, seq)?;
    let known = file.figures.map(|figures| figures.first_seq);
    let before = seq.saturating_sub(1);
    let first = match last {
        Some(last) => last + 1,
        None => known.or_else(|| file.first_seq()).unwrap_or(before),
    };
    file.holes.push(Hole {
        file: file.id,
        offset,
        len: next - offset,
        seqs: (first.min(before), before),
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
            None => {
                let known = file.header.epoch.map(|epoch| epoch.number);
                let epoch = known.unwrap_or_else(|| epoch_of(before.saturating_sub(1)));
                epoch_of(header.seq) == epoch
            }
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
            standing: Standing::Damaged,
        });
        offset += header.disk_len();
    }
    Ok(offset)
}

/// Reads a frame; `None` if there is none that validates.
pub(super) fn read_frame(
    file: &Found,
    offset: u64,
    seed: Seed,
) -> Result<Option<(FrameHeader, Vec<u8>)>, LogError> {
    let Some(header) = header_at(file, offset)? else {
        return Ok(None);
    };
    let len = header.content_len() as usize;
    let Ok(content) = read_or_damage(&file.handle, file.id, offset, len)? else {
        return Ok(None);
    };
    Ok(header.verify(seed, &content).then_some((header, content)))
}

/// Returns the header at `offset`, which has not been verified, of a frame that ends in the file.
pub(super) fn header_at(file: &Found, offset: u64) -> Result<Option<FrameHeader>, LogError> {
    if offset + BLOCK > file.len {
        return Ok(None);
    }
    let read = read_or_damage(&file.handle, file.id, offset, FRAME_HEADER)?;
    let header = read.ok().and_then(|raw| FrameHeader::decode(&raw, file.id));
    Ok(header.filter(|header| offset + header.disk_len() <= file.len))
}

/// Calls `visit` with each record of a file in the order of its frames, and what is known of its
/// frame.
pub(super) fn visit_records(
    file: &Found,
    seed: Seed,
    visit: &mut dyn FnMut(EntryRef<'_>, Standing),
) -> Result<(), LogError> {
    let damaged = |damage| corrupt(file.id, damage);
    if file.sealed {
        let footer = find_footer(file, seed)?;
        let (offset, header, content) = footer.ok_or_else(|| damaged(Damage::Frame))?;
        let directory = content.get(FRAME_HEADER..).unwrap_or_default();
        let each = &mut |entry: EntryRef<'_>| visit(entry, Standing::Verified);
        return visit_directory(&header, offset, directory, each).map_err(damaged);
    }
    for frame in file.frames.iter() {
        let (header, directory) = directory_of(file, frame)?;
        let each = &mut |entry: EntryRef<'_>| visit(entry, frame.standing);
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

/// Reads a frame that was walked once more, without its padding: behind one that is none of the log
/// may lie bytes of another.
///
/// # Errors
/// `Corrupt` if it does not validate any more, `Io`.
pub(super) fn read_whole_frame(
    file: &Found,
    frame: &Frame,
    seed: Seed,
) -> Result<Vec<u8>, LogError> {
    let read = read_frame(file, frame.start, seed)?;
    let (_, content) = read.ok_or_else(|| corrupt(file.id, Damage::Frame))?;
    Ok(content)
}

/// Reads a valid footer once more and completes it by its trailer.
///
/// # Errors
/// `Corrupt` if it does not validate any more, `Io`.
pub(super) fn read_whole_footer(file: &Found, seed: Seed) -> Result<Bytes, LogError> {
    let found = find_footer(file, seed)?;
    let (_, header, content) = found.ok_or_else(|| corrupt(file.id, Damage::Frame))?;
    Ok(with_trailer(seed, content, footer_len(&header)))
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
