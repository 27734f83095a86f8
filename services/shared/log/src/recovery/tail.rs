//! The end of a log that was not closed: what nothing proves is copied, and files are brought into
//! the state in which they stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cstore_types::epoch::epoch_of;

use super::found::{Found, Frame, Hole};
use super::heal::renew_footer;
use super::read_at;
use super::walk::{entries_of_frame, tell_end};
use crate::committer::Active;
use crate::disk::Disk;
use crate::error::LogError;
use crate::file::Files;
use crate::format::{
    BLOCK, Damage, FramePlace, KIND_SUPERSEDES, Seed, encode_frame, footer_bytes, frame_bytes,
};
use crate::types::{FileInfo, FileState, Options};

/// A crashed file ends where the next sequence was torn, or never written. If that sequence is
/// proven, it must be somewhere: no file is retired before the crashed one is cut. One that is
/// nowhere is a hole at the end of the file.
///
/// Only what proves a sequence of the same epoch counts. A later epoch is begun by an open, which
/// may have died before it cut the crashed file.
pub(super) fn note_gaps(
    found: &mut [Found],
    options: &Options,
    absent: &[(u64, u64)],
    superseded: &BTreeSet<u64>,
) -> Result<(), LogError> {
    let present: BTreeSet<u64> = found
        .iter()
        .flat_map(|file| file.frames.iter().map(|frame| frame.seq))
        .collect();
    let holes: Vec<(u64, u64)> = found
        .iter()
        .flat_map(|file| file.holes.iter().map(|hole| hole.seqs))
        .chain(absent.iter().copied())
        .collect();
    let mut proven: BTreeMap<u32, u64> = BTreeMap::new();
    let in_files = found
        .iter()
        .flat_map(|file| [file.header.durable_seq, file.durable_seq]);
    for seq in in_files.chain([options.proven_seq]) {
        let highest = proven.entry(epoch_of(seq)).or_default();
        *highest = seq.max(*highest);
    }

    for file in found.iter_mut().filter(|file| file.crashed && !file.sealed) {
        let Some(last) = file.last_seq() else {
            continue;
        };
        let next = last + 1;
        let proven = proven.get(&epoch_of(next)).copied().unwrap_or(0);
        let is_in_hole = holes
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&next));
        let is_there = present.contains(&next) || superseded.contains(&next) || is_in_hole;
        if next <= proven && !is_there {
            // Where the log goes on, if it does.
            let behind = present.range(next..).next().map(|seq| seq - 1);
            let last = behind.unwrap_or(proven).min(proven);
            tell_end(file, (next, last), Damage::Lost(next))?;
        }
    }
    Ok(())
}

/// Drops holes of which every frame lies elsewhere, as a copy.
pub(super) fn drop_superseded_holes(found: &mut [Found], superseded: &BTreeSet<u64>) {
    let is_elsewhere = |hole: &Hole| {
        let (first, last) = hole.seqs;
        first > 0
            && first <= last
            && superseded.range(first..=last).count() as u64 == last - first + 1
    };
    for file in found {
        file.holes.retain(|hole| !is_elsewhere(hole));
    }
}

/// The frame that nothing proves, and its file's place among the found ones.
pub(super) type TailFrame = (usize, Frame);

/// Returns the frame that nothing proves; `None` if there is none, or more than the one that a crash
/// leaves.
pub(super) fn find_tail(
    found: &[Found],
    proven: u64,
    superseded: &BTreeSet<u64>,
) -> Option<TailFrame> {
    let frames = found
        .iter()
        .enumerate()
        .flat_map(|(at, file)| file.frames.iter().map(move |frame| (at, *frame)));
    let mut unproven =
        frames.filter(|(_, frame)| frame.seq > proven && !superseded.contains(&frame.seq));
    let first = unproven.next();
    first.filter(|_| unproven.next().is_none())
}

/// Takes frames out of their files whose records lie elsewhere; the valid ends shrink.
pub(super) fn drop_superseded(found: &mut [Found], superseded: &BTreeSet<u64>) {
    for file in found {
        let goes = |frame: &Frame| superseded.contains(&frame.seq);
        let taken = file.frames.extract(goes);
        let is_last = |first: &Frame| file.last_seq().is_none_or(|last| last < first.seq);
        if let Some(first) = taken.first().filter(|first| !file.sealed && is_last(first)) {
            file.end = first.start;
        }
    }
}

/// Writes the records of an unproven frame into a new file, with a record that supersedes it, and
/// syncs them. The new frame is `seqs` = (its sequence, the highest proven one); all other files
/// will take `others` bytes.
pub(super) fn copy_frame(
    files: &Files,
    options: &Options,
    (from, frame): (&Found, &Frame),
    others: u64,
    seqs: (u64, u64),
) -> Result<Active, LogError> {
    let entries = entries_of_frame(from, frame)?;
    let mut records: Vec<(u8, Bytes, Bytes)> = Vec::with_capacity(entries.len() + 1);
    for entry in entries.iter().filter(|entry| entry.kind != KIND_SUPERSEDES) {
        let payload = read_at(from, entry.offset.into(), entry.len as usize)?;
        records.push((entry.kind, entry.key.clone(), payload.into()));
    }
    records.push((
        KIND_SUPERSEDES,
        Bytes::copy_from_slice(&frame.seq.to_le_bytes()),
        Bytes::new(),
    ));
    let key_bytes = records.iter().map(|(_, key, _)| key.len()).sum();
    let payload_bytes = records.iter().map(|(_, _, payload)| payload.len()).sum();
    let needed = BLOCK
        + frame_bytes(records.len(), key_bytes, payload_bytes)
        + footer_bytes(records.len(), key_bytes);
    let (seq, durable_seq) = seqs;
    let mut active = Active::new(files.acquire_for_copy(needed, others, durable_seq)?);
    let place = FramePlace {
        file: active.file.id,
        offset: BLOCK,
        seq,
        durable_seq,
    };
    let views = records
        .iter()
        .map(|(kind, key, payload)| (*kind, key, payload));
    let encoded = encode_frame(Seed::new(&options.owner, active.file.id), place, views);
    let io = LogError::io("copy unproven log frame");
    active
        .out
        .write_all_vectored_at(&encoded.buffers, BLOCK)
        .map_err(&io)?;
    active.out.sync_data().map_err(&io)?;
    active.advance(seq, &encoded.entries, encoded.disk_len);
    Ok(active)
}

/// The footer of the newest file may be in the page cache only, when its sync failed: nothing came
/// after it that would prove it. It is written again, so that a sync makes it durable.
pub(super) fn renew_last_footer(found: &[Found]) -> Result<(), LogError> {
    let last = found.iter().max_by_key(|file| file.last_seq());
    let Some((file, offset)) = last.and_then(|file| Some((file, file.footer?))) else {
        return Ok(());
    };
    let footer = read_at(file, offset, (file.end - offset) as usize)?;
    let io = LogError::io_of("renew footer of log file", file.id);
    let handle = file.handle.open().map_err(&io)?;
    handle
        .write_all_vectored_at(&[footer.into()], offset)
        .map_err(&io)?;
    handle.set_len(file.len).map_err(&io)?;
    handle.sync_data().map_err(&io)
}

/// Brings a file into the state in which it stays: cut to its valid end, or removed when nothing is
/// in it. Nothing is removed if `is_held`, nor cut that may be a frame, and nothing of a damaged end
/// ever.
pub(super) fn settle(
    disk: &Arc<dyn Disk>,
    files: &Files,
    options: &Options,
    superseded: &BTreeSet<u64>,
    file: &Found,
    is_held: bool,
) -> Result<(), LogError> {
    let io = LogError::io_of("settle log file", file.id);
    let Some(seqs) = file.first_seq().zip(file.last_seq()) else {
        let inventory = options.inventory.as_ref();
        let may_remove = inventory.is_none_or(|list| list.may_remove(file.id, superseded));
        if is_held || !may_remove || file.header.damage.is_some() {
            return Ok(());
        }
        inventory
            .map_or(Ok(()), |inventory| inventory.leaving(file.id))
            .map_err(&io)?;
        disk.remove(&crate::format::file_name(file.id))
            .map_err(&io)?;
        disk.sync_dir().map_err(&io)?;
        if let Some(inventory) = inventory {
            inventory.gone(file.id);
        }
        return Ok(());
    };
    if file.renews_footer {
        renew_footer(file, options)?;
    }
    let keeps = file.keeps_size() || (is_held && (file.has_torn_frame || file.sealed));
    let size = if keeps { file.len } else { file.end };
    if size != file.len {
        let handle = file.handle.open().map_err(&io)?;
        handle.set_len(size).map_err(&io)?;
        handle.sync_data().map_err(&io)?;
    }
    // A footer is looked for where the file ends.
    let state = if file.sealed && size == file.end {
        FileState::Sealed
    } else {
        FileState::Cut
    };
    let info = FileInfo {
        id: file.id,
        size,
        used: size,
        records: file.frames.iter().map(|frame| frame.records).sum(),
        state,
        seqs: Some(seqs),
        epoch: epoch_of(seqs.0),
        header_crc: file.header.crc,
        footer_crc: file.footer_crc,
        holes_crc: file.holes_crc(),
    };
    files.adopt(file.handle.clone(), info);
    Ok(())
}
