//! Opening a log: what is on the disk, what of it is proven, what must be copied.
//!
//! ```text
//! for each file          sealed (trailer at its end) ─▶ footer only
//!                        else walk frame by frame    ─▶ whole frames, checksums
//! proven = highest durable_seq seen in any valid header, frame or footer
//! an invalid frame before the end of a file that was cut before, or before another valid frame ─▶ corrupt
//! a sequence ≤ proven that is nowhere, next to a torn tail ─▶ corrupt
//! frames > proven, not superseded ─▶ copied into a new file with a record that supersedes them, synced
//! crashed files ─▶ cut to their valid end, synced
//! ```
//! A crashed file is told from one that was cut before by its length: it still has its full capacity.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::committer::Active;
use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::file::{Files, LogFile, is_leftover};
use crate::format::{
    BLOCK, Damage, Entry, FRAME_HEADER, FileHeader, FrameHeader, FramePlace, KIND_SUPERSEDES, Seed,
    decode_directory, decode_trailer, encode_frame, footer_bytes, frame_bytes, parse_file_name,
};
use crate::types::{FileInfo, FileState, Location, Options};

/// Bytes read at once when a crashed file is searched for frames behind its valid end.
const SCAN_BYTES: usize = 1 << 20;

/// A record that the log holds.
#[derive(Debug, Clone, Copy)]
pub struct RecoveredRecord<'a> {
    /// As it was appended.
    pub kind: u8,
    /// As it was appended.
    pub key: &'a [u8],
    /// Where its payload lies.
    pub location: Location,
    /// Sequence of its frame.
    pub frame_seq: u64,
}

/// What an open found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecoveryReport {
    /// Highest frame_seq of the log, copies included; all of it is durable.
    pub last_seq: u64,
    /// Files with records.
    pub files: usize,
    /// Records delivered.
    pub records: usize,
    /// Frames that nothing proved and that were copied.
    pub copied_frames: usize,
    /// Bytes that had to be walked because their file had no footer.
    pub walked_bytes: u64,
}

/// A log that was read and made whole.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) report: RecoveryReport,
    pub(crate) active: Option<Active>,
}

/// One file as it lies there.
#[derive(Debug)]
struct Found {
    id: u32,
    handle: Arc<dyn DiskFile>,
    len: u64,
    /// End of the last valid frame.
    end: u64,
    sealed: bool,
    /// Still as long as it was made: its process died while it was active.
    crashed: bool,
    /// A footer is there, wherever the file ends: nothing comes after its frames.
    closed: bool,
    /// Where the footer of a sealed file starts.
    footer: Option<u64>,
    durable_seq: u64,
    frames: Vec<Frame>,
}

impl Found {
    /// Bytes that it has after [`settle`].
    fn settled_size(&self) -> u64 {
        match (self.frames.is_empty(), self.sealed) {
            (true, _) => 0,
            (false, true) => self.len,
            (false, false) => self.end,
        }
    }
}

/// A valid frame.
#[derive(Debug)]
struct Frame {
    seq: u64,
    /// Where it starts; 0 when it was read from a footer.
    start: u64,
    entries: Vec<Entry>,
}

pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    files: &Files,
    options: &Options,
    visit: &mut dyn FnMut(RecoveredRecord<'_>),
) -> Result<Recovered, LogError> {
    let mut report = RecoveryReport::default();
    let mut found = read_files(disk, files, options, &mut report)?;
    let proven = found.iter().map(|file| file.durable_seq).max().unwrap_or(0);
    let superseded: BTreeSet<u64> = found.iter().flat_map(superseded_by).collect();
    check_gaps(&found, proven, &superseded)?;
    report.last_seq = found
        .iter()
        .flat_map(|file| file.frames.iter().map(|frame| frame.seq))
        .chain(superseded.iter().copied())
        // The file of the highest sequence may be retired by now; its numbers are not given to other frames.
        .chain([proven, options.least_seq])
        .max()
        .unwrap_or(0);

    let mut active = None;
    let mut copied = None;
    if let Some((handle, frame)) = take_tail(&mut found, proven, &superseded)? {
        report.last_seq += 1;
        report.copied_frames = 1;
        let others = found.iter().map(Found::settled_size).sum();
        let copy = copy_frame(files, options, (&handle, &frame), others, (report.last_seq, proven))?;
        copied = Some((
            copy.file.id,
            Frame { seq: report.last_seq, start: BLOCK, entries: copy.entries().to_vec() },
        ));
        active = Some(copy);
    }
    renew_last_footer(&found)?;
    let mut frames: Vec<(u32, Frame)> = Vec::new();
    for mut file in found {
        frames.extend(std::mem::take(&mut file.frames).into_iter().map(|frame| (file.id, frame)));
        settle(disk, files, &file, frames.iter().filter(|(id, _)| *id == file.id))?;
    }
    frames.extend(copied);
    frames.sort_by_key(|(_, frame)| frame.seq);
    report.files = frames.iter().map(|(file, _)| *file).collect::<BTreeSet<u32>>().len();
    report.records = deliver(&frames, visit);
    Ok(Recovered { report, active })
}

/// Reads every file of the folder. Nothing is changed but that leftovers of an interrupted creation are removed.
fn read_files(
    disk: &Arc<dyn Disk>,
    files: &Files,
    options: &Options,
    report: &mut RecoveryReport,
) -> Result<Vec<Found>, LogError> {
    let io = LogError::io("read log folder");
    let mut found = Vec::new();
    let mut leftovers = Vec::new();
    for name in disk.list().map_err(&io)? {
        if let Some(id) = parse_file_name(&name) {
            files.skip_ids(id);
            found.push(read_file(disk, &name, id, options, report)?);
        } else if is_leftover(&name) {
            leftovers.push(name);
        } else {
            tracing::warn!(%name, "a file that is not of the log lies in its folder");
        }
    }
    for name in leftovers {
        disk.remove(&name).map_err(&io)?;
    }
    found.sort_by_key(|file| (file.frames.first().map_or(u64::MAX, |frame| frame.seq), file.id));
    Ok(found)
}

fn read_file(
    disk: &Arc<dyn Disk>,
    name: &str,
    id: u32,
    options: &Options,
    report: &mut RecoveryReport,
) -> Result<Found, LogError> {
    let io = LogError::io("read log file");
    let corrupt = |damage| LogError::Corrupt { file: id, offset: 0, damage };
    let handle = disk.open(name).map_err(&io)?;
    let len = handle.size().map_err(&io)?;
    if len < BLOCK {
        return Err(corrupt(Damage::Short(len)));
    }
    let header = FileHeader::decode(&read_at(&handle, 0, BLOCK as usize)?).map_err(corrupt)?;
    if header.file != id || header.owner != options.owner {
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
        durable_seq: header.durable_seq,
        frames: Vec::new(),
    };
    if !read_frames(&mut file, options)? {
        report.walked_bytes += file.end;
    }
    Ok(file)
}

/// Answers whether a footer told it all.
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
    /// As it was appended.
    pub kind: u8,
    /// As it was appended.
    pub key: Bytes,
    /// Where its payload lies.
    pub location: Location,
}

/// The records of a file that is complete, in the order of the log.
pub(crate) fn directory(file: &LogFile, options: &Options) -> Result<Vec<DirectoryEntry>, LogError> {
    let info = file.info.lock().clone();
    if info.state == FileState::Active {
        return Err(LogError::NoFile(file.id));
    }
    let mut found = Found {
        id: file.id,
        handle: file.handle.clone(),
        len: info.size,
        end: BLOCK,
        sealed: false,
        crashed: false,
        closed: false,
        footer: None,
        durable_seq: 0,
        frames: Vec::new(),
    };
    read_frames(&mut found, options)?;
    let entry = |entry: Entry| {
        let location = Location { file: file.id, offset: entry.offset, len: entry.len };
        DirectoryEntry { kind: entry.kind, key: entry.key, location }
    };
    let entries = found.frames.into_iter().flat_map(|frame| frame.entries);
    Ok(entries.filter(|entry| entry.kind != KIND_SUPERSEDES).map(entry).collect())
}

/// Reads a sealed file through its footer. Answers false when it has none.
fn read_footer(file: &mut Found, seed: Seed) -> Result<bool, LogError> {
    let trailer = read_at(&file.handle, file.len - 16, 16)?;
    let Some(trailer) = trailer.first_chunk() else { return Ok(false) };
    let Some(footer_len) = decode_trailer(seed, trailer) else { return Ok(false) };
    let Some(offset) = file.len.checked_sub(footer_len).filter(|offset| *offset >= BLOCK) else {
        return Ok(false);
    };
    let footer = read_at(&file.handle, offset, footer_len as usize)?;
    let Some(header) = FrameHeader::decode(&footer, file.id).filter(|header| header.footer) else {
        return Ok(false);
    };
    let content = footer.get(..header.content_len() as usize).unwrap_or_default();
    if !header.verify(seed, content) {
        return Ok(false);
    }
    let corrupt = |damage| LogError::Corrupt { file: file.id, offset, damage };
    let entries = decode_directory(&header, offset, content.get(FRAME_HEADER..).unwrap_or_default());
    for entry in entries.map_err(corrupt)? {
        match file.frames.last_mut() {
            Some(frame) if frame.seq == entry.seq => frame.entries.push(entry),
            _ => file.frames.push(Frame { seq: entry.seq, start: 0, entries: vec![entry] }),
        }
    }
    file.durable_seq = file.durable_seq.max(header.durable_seq);
    file.end = file.len;
    file.sealed = true;
    file.footer = Some(offset);
    Ok(true)
}

/// Reads a file without footer frame by frame up to the first invalid one.
fn walk(file: &mut Found, seed: Seed) -> Result<(), LogError> {
    while let Some((header, content)) = read_frame(file, file.end, seed)? {
        file.durable_seq = file.durable_seq.max(header.durable_seq);
        if header.footer {
            // A seal that died before it cut the file. The footer proves the frames before it, but may itself be in
            // the page cache only: the file is cut in front of it.
            file.closed = true;
            return Ok(());
        }
        let directory = content.get(FRAME_HEADER..FRAME_HEADER + header.directory_len as usize);
        let entries = decode_directory(&header, file.end, directory.unwrap_or_default())
            .map_err(|damage| LogError::Corrupt { file: file.id, offset: file.end, damage })?;
        file.frames.push(Frame { seq: header.seq, start: file.end, entries });
        file.end += header.disk_len();
    }
    let damaged = |damage| LogError::Corrupt { file: file.id, offset: file.end, damage };
    if !file.crashed && file.end != file.len {
        return Err(damaged(Damage::Frame));
    }
    if frame_behind(file, seed)? {
        return Err(damaged(Damage::FrameBeforeValid));
    }
    Ok(())
}

fn read_frame(file: &Found, offset: u64, seed: Seed) -> Result<Option<(FrameHeader, Vec<u8>)>, LogError> {
    if offset + BLOCK > file.len {
        return Ok(None);
    }
    let start = read_at(&file.handle, offset, FRAME_HEADER)?;
    let Some(header) = FrameHeader::decode(&start, file.id) else { return Ok(None) };
    if offset + header.disk_len() > file.len {
        return Ok(None);
    }
    let content = read_at(&file.handle, offset, header.content_len() as usize)?;
    Ok(header.verify(seed, &content).then_some((header, content)))
}

/// Whether any frame validates behind the valid end. It was written after the sync of the frame before it, so that
/// one is not a torn tail but damaged.
fn frame_behind(file: &Found, seed: Seed) -> Result<bool, LogError> {
    let mut offset = file.end;
    while offset + BLOCK <= file.len {
        let chunk = read_at(&file.handle, offset, SCAN_BYTES.min((file.len - offset) as usize))?;
        for (n, block) in chunk.chunks(BLOCK as usize).enumerate() {
            let at = offset + n as u64 * BLOCK;
            let candidate = at > file.end && FrameHeader::decode(block, file.id).is_some_and(|h| !h.footer);
            if candidate && read_frame(file, at, seed)?.is_some() {
                return Ok(true);
            }
        }
        offset += chunk.len() as u64;
    }
    Ok(false)
}

fn read_at(handle: &Arc<dyn DiskFile>, offset: u64, len: usize) -> Result<Vec<u8>, LogError> {
    let mut bytes = vec![0; len];
    handle.read_exact_at(&mut bytes, offset).map_err(LogError::io("read log file"))?;
    Ok(bytes)
}

fn superseded_by(file: &Found) -> Vec<u64> {
    let own =
        file.frames.iter().flat_map(|frame| &frame.entries).filter(|entry| entry.kind == KIND_SUPERSEDES);
    own.filter_map(|entry| entry.key.first_chunk().map(|raw| u64::from_le_bytes(*raw))).collect()
}

/// A crashed file ends where the next sequence was torn, or never written. If that sequence is proven, it must be
/// somewhere: no file is retired before the crashed one is cut.
fn check_gaps(found: &[Found], proven: u64, superseded: &BTreeSet<u64>) -> Result<(), LogError> {
    let present: BTreeSet<u64> =
        found.iter().flat_map(|file| file.frames.iter().map(|frame| frame.seq)).collect();
    for file in found.iter().filter(|file| file.crashed && !file.sealed && !file.closed) {
        let Some(last) = file.frames.last() else { continue };
        let next = last.seq + 1;
        if next <= proven && !present.contains(&next) && !superseded.contains(&next) {
            let damage = Damage::Lost(next);
            return Err(LogError::Corrupt { file: file.id, offset: file.end, damage });
        }
    }
    Ok(())
}

/// The one frame that nothing proves, with its file.
type TailFrame = (Arc<dyn DiskFile>, Frame);

/// Takes unproven and superseded frames out of their files, whose valid ends shrink, and answers the unproven one.
fn take_tail(
    found: &mut [Found],
    proven: u64,
    superseded: &BTreeSet<u64>,
) -> Result<Option<TailFrame>, LogError> {
    let mut tail = None;
    for file in found {
        let goes = |frame: &mut Frame| frame.seq > proven || superseded.contains(&frame.seq);
        let taken: Vec<Frame> = file.frames.extract_if(.., goes).collect();
        if let Some(first) = taken.first() {
            file.end = first.start;
        }
        for frame in taken.into_iter().filter(|frame| !superseded.contains(&frame.seq)) {
            let (offset, seq) = (frame.start, frame.seq);
            if tail.replace((file.handle.clone(), frame)).is_some() {
                let damage = Damage::SecondTail(seq);
                return Err(LogError::Corrupt { file: file.id, offset, damage });
            }
        }
    }
    Ok(tail)
}

/// Writes the records of an unproven frame into a new file, with a record that supersedes it, and syncs them. The
/// new frame is `seqs` = (its sequence, the highest proven one); all other files will take `others` bytes.
fn copy_frame(
    files: &Files,
    options: &Options,
    (handle, frame): (&Arc<dyn DiskFile>, &Frame),
    others: u64,
    seqs: (u64, u64),
) -> Result<Active, LogError> {
    let mut records: Vec<(u8, Bytes, Bytes)> = Vec::with_capacity(frame.entries.len() + 1);
    for entry in frame.entries.iter().filter(|entry| entry.kind != KIND_SUPERSEDES) {
        let payload = read_at(handle, entry.offset.into(), entry.len as usize)?;
        records.push((entry.kind, entry.key.clone(), payload.into()));
    }
    records.push((KIND_SUPERSEDES, Bytes::copy_from_slice(&frame.seq.to_le_bytes()), Bytes::new()));
    let key_bytes = records.iter().map(|(_, key, _)| key.len()).sum();
    let payload_bytes = records.iter().map(|(_, _, payload)| payload.len()).sum();
    let needed =
        BLOCK + frame_bytes(records.len(), key_bytes, payload_bytes) + footer_bytes(records.len(), key_bytes);
    let (seq, durable_seq) = seqs;
    let file = files.acquire_for_copy(needed, others, durable_seq)?;
    let place = FramePlace { file: file.id, offset: BLOCK, seq, durable_seq };
    let views = records.iter().map(|(kind, key, payload)| (*kind, key, payload));
    let encoded = encode_frame(Seed::new(&options.owner, file.id), place, views);
    let io = LogError::io("copy unproven log frame");
    file.handle.write_all_vectored_at(&encoded.buffers, BLOCK).map_err(&io)?;
    file.handle.sync_data().map_err(&io)?;
    let mut active = Active::new(file);
    active.advance(seq, encoded.entries, encoded.disk_len);
    Ok(active)
}

/// The footer of the newest file may be in the page cache only, when its sync failed: nothing came after it that would
/// prove it. It is written again, so that a sync makes it durable.
fn renew_last_footer(found: &[Found]) -> Result<(), LogError> {
    let last = found.iter().max_by_key(|file| file.frames.last().map(|frame| frame.seq));
    let Some((file, offset)) = last.and_then(|file| Some((file, file.footer?))) else { return Ok(()) };
    let footer = read_at(&file.handle, offset, (file.len - offset) as usize)?;
    let io = LogError::io("renew footer of log file");
    file.handle.write_all_vectored_at(&[footer.into()], offset).map_err(&io)?;
    file.handle.set_len(file.len).map_err(&io)?;
    file.handle.sync_data().map_err(&io)
}

/// Brings a file into the state in which it stays: cut to its valid end, or removed when nothing is in it.
fn settle<'a>(
    disk: &Arc<dyn Disk>,
    files: &Files,
    file: &Found,
    frames: impl Iterator<Item = &'a (u32, Frame)> + Clone,
) -> Result<(), LogError> {
    let io = LogError::io("settle log file");
    let first = frames.clone().next().map(|(_, frame)| frame.seq);
    let last = frames.clone().last().map(|(_, frame)| frame.seq);
    let Some(seqs) = first.zip(last) else {
        disk.remove(&crate::format::file_name(file.id)).map_err(&io)?;
        return disk.sync_dir().map_err(&io);
    };
    let size = if file.sealed { file.len } else { file.end };
    if size != file.len {
        file.handle.set_len(size).map_err(&io)?;
        file.handle.sync_data().map_err(&io)?;
    }
    let state = if file.sealed { FileState::Sealed } else { FileState::Cut };
    let records = frames.map(|(_, frame)| frame.entries.len() as u64).sum();
    let info = FileInfo { id: file.id, size, used: size, records, state, seqs: Some(seqs) };
    files.adopt(file.handle.clone(), info);
    Ok(())
}

fn deliver(frames: &[(u32, Frame)], visit: &mut dyn FnMut(RecoveredRecord<'_>)) -> usize {
    let mut delivered = 0;
    for (file, frame) in frames {
        for entry in frame.entries.iter().filter(|entry| entry.kind != KIND_SUPERSEDES) {
            let location = Location { file: *file, offset: entry.offset, len: entry.len };
            visit(RecoveredRecord { kind: entry.kind, key: &entry.key, location, frame_seq: frame.seq });
            delivered += 1;
        }
    }
    delivered
}
