//! The end of a log that was not closed: what nothing proves is copied, and files are brought into
//! the state in which they stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cstore_types::epoch::epoch_of;

use super::found::{Found, Frame, read_at};
use crate::committer::Active;
use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::file::Files;
use crate::format::{
    BLOCK, Damage, FramePlace, KIND_SUPERSEDES, Seed, encode_frame, footer_bytes, frame_bytes,
};
use crate::types::{FileInfo, FileState, Options};

pub(super) fn superseded_by(file: &Found) -> Vec<u64> {
    let own = file
        .frames
        .iter()
        .flat_map(|frame| &frame.entries)
        .filter(|entry| entry.kind == KIND_SUPERSEDES);
    own.filter_map(|entry| entry.key.first_chunk().map(|raw| u64::from_le_bytes(*raw)))
        .collect()
}

/// A crashed file ends where the next sequence was torn, or never written. If that sequence is
/// proven, it must be somewhere: no file is retired before the crashed one is cut.
///
/// Only what proves a sequence of the same epoch counts. A later epoch is begun by an open, which
/// may have died before it cut the crashed file.
pub(super) fn check_gaps(
    found: &[Found],
    proven_by_owner: u64,
    superseded: &BTreeSet<u64>,
) -> Result<(), LogError> {
    let present: BTreeSet<u64> = found
        .iter()
        .flat_map(|file| file.frames.iter().map(|frame| frame.seq))
        .collect();
    let mut proven: BTreeMap<u32, u64> = BTreeMap::new();
    let in_files = found
        .iter()
        .flat_map(|file| [file.header_durable, file.durable_seq]);
    for seq in in_files.chain([proven_by_owner]) {
        let highest = proven.entry(epoch_of(seq)).or_default();
        *highest = seq.max(*highest);
    }
    for file in found
        .iter()
        .filter(|file| file.crashed && !file.sealed && !file.closed)
    {
        let Some(last) = file.frames.last() else {
            continue;
        };
        let next = last.seq + 1;
        let proven = proven.get(&epoch_of(next)).copied().unwrap_or(0);
        if next <= proven && !present.contains(&next) && !superseded.contains(&next) {
            let damage = Damage::Lost(next);
            return Err(LogError::Corrupt {
                file: file.id,
                offset: file.end,
                damage,
            });
        }
    }
    Ok(())
}

/// The one frame that nothing proves, with its file.
pub(super) type TailFrame = (Arc<dyn DiskFile>, Frame);

/// Takes unproven and superseded frames out of their files, whose valid ends shrink, and answers
/// the unproven one.
pub(super) fn take_tail(
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
        for frame in taken
            .into_iter()
            .filter(|frame| !superseded.contains(&frame.seq))
        {
            let (offset, seq) = (frame.start, frame.seq);
            if tail.replace((file.handle.clone(), frame)).is_some() {
                let damage = Damage::SecondTail(seq);
                return Err(LogError::Corrupt {
                    file: file.id,
                    offset,
                    damage,
                });
            }
        }
    }
    Ok(tail)
}

/// Writes the records of an unproven frame into a new file, with a record that supersedes it, and
/// syncs them. The new frame is `seqs` = (its sequence, the highest proven one); all other files
/// will take `others` bytes.
pub(super) fn copy_frame(
    files: &Files,
    options: &Options,
    (handle, frame): (&Arc<dyn DiskFile>, &Frame),
    others: u64,
    seqs: (u64, u64),
) -> Result<Active, LogError> {
    let mut records: Vec<(u8, Bytes, Bytes)> = Vec::with_capacity(frame.entries.len() + 1);
    for entry in frame
        .entries
        .iter()
        .filter(|entry| entry.kind != KIND_SUPERSEDES)
    {
        let payload = read_at(handle, entry.offset.into(), entry.len as usize)?;
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
    let file = files.acquire_for_copy(needed, others, durable_seq)?;
    let place = FramePlace {
        file: file.id,
        offset: BLOCK,
        seq,
        durable_seq,
    };
    let views = records
        .iter()
        .map(|(kind, key, payload)| (*kind, key, payload));
    let encoded = encode_frame(Seed::new(&options.owner, file.id), place, views);
    let io = LogError::io("copy unproven log frame");
    file.handle
        .write_all_vectored_at(&encoded.buffers, BLOCK)
        .map_err(&io)?;
    file.handle.sync_data().map_err(&io)?;
    let mut active = Active::new(file);
    active.advance(seq, encoded.entries, encoded.disk_len);
    Ok(active)
}

/// The footer of the newest file may be in the page cache only, when its sync failed: nothing came
/// after it that would prove it. It is written again, so that a sync makes it durable.
pub(super) fn renew_last_footer(found: &[Found]) -> Result<(), LogError> {
    let last = found
        .iter()
        .max_by_key(|file| file.frames.last().map(|frame| frame.seq));
    let Some((file, offset)) = last.and_then(|file| Some((file, file.footer?))) else {
        return Ok(());
    };
    let footer = read_at(&file.handle, offset, (file.len - offset) as usize)?;
    let io = LogError::io("renew footer of log file");
    file.handle
        .write_all_vectored_at(&[footer.into()], offset)
        .map_err(&io)?;
    file.handle.set_len(file.len).map_err(&io)?;
    file.handle.sync_data().map_err(&io)
}

/// Brings a file into the state in which it stays: cut to its valid end, or removed when nothing is
/// in it.
pub(super) fn settle<'a>(
    disk: &Arc<dyn Disk>,
    files: &Files,
    options: &Options,
    superseded: &BTreeSet<u64>,
    file: &Found,
    frames: impl Iterator<Item = &'a (u32, Frame)> + Clone,
) -> Result<(), LogError> {
    let io = LogError::io("settle log file");
    let first = frames.clone().next().map(|(_, frame)| frame.seq);
    let last = frames.clone().last().map(|(_, frame)| frame.seq);
    let Some(seqs) = first.zip(last) else {
        let inventory = options.inventory.as_ref();
        let may_remove = inventory.is_none_or(|list| list.may_remove(file.id, superseded));
        if options.is_held || !may_remove {
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
    let size = if file.sealed { file.len } else { file.end };
    if size != file.len {
        file.handle.set_len(size).map_err(&io)?;
        file.handle.sync_data().map_err(&io)?;
    }
    let state = if file.sealed {
        FileState::Sealed
    } else {
        FileState::Cut
    };
    let records = frames.map(|(_, frame)| frame.entries.len() as u64).sum();
    let info = FileInfo {
        id: file.id,
        size,
        used: size,
        records,
        state,
        seqs: Some(seqs),
        epoch: file.epoch.number,
        header_crc: file.header_crc,
        footer_crc: file.footer_crc,
    };
    files.adopt(file.handle.clone(), info);
    Ok(())
}
