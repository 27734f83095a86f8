//! Rewriting what the rest of a file proves: headers and footers, and frames that only the
//! page cache may have.

use std::collections::BTreeSet;

use super::Standing;
use super::found::{Found, io_error};
use super::walk::{entries_of, read_whole_footer, read_whole_frame};
use crate::error::LogError;
use crate::format::{Entry, FileHeader, FramePlace, Seed, encode_footer, frame_crc, header_crc};
use crate::types::Options;

/// Writes the footer of a file anew of which the inventory says how it was. Only one that comes out
/// as it was proves that nothing of the file is missing.
///
/// # Errors
/// Those of reading the file. One that cannot be written is as it was.
pub(super) fn renew_lost_footer(file: &mut Found, options: &Options) -> Result<(), LogError> {
    let Some(figures) = file.figures.filter(|figures| figures.footer_crc != 0) else {
        return Ok(());
    };
    let is_whole = !file.sealed && file.holes.is_empty();
    let Some(last) = file.last_seq().filter(|last| *last == figures.last_seq) else {
        return Ok(());
    };
    if !is_whole {
        return Ok(());
    }

    let seed = Seed::new(&options.owner, file.id);
    let entries = entries_of(file, seed)?;
    let place = FramePlace {
        file: file.id,
        offset: file.end,
        seq: last,
        durable_seq: last,
    };
    let footer = encode_footer(seed, place, entries.iter().map(Entry::as_ref));
    let offset = figures.size.checked_sub(footer.len() as u64);
    let Some(offset) = offset.filter(|offset| *offset >= file.end) else {
        return Ok(());
    };
    let footer_crc = frame_crc(&footer);
    if footer_crc != figures.footer_crc {
        return Ok(());
    }
    // Where the disk has lost the bytes it may not take them again.
    let write = || -> std::io::Result<()> {
        let mut read = vec![0; footer.len()];
        let handle = file.handle.open()?;
        handle.write_all_vectored_at(std::slice::from_ref(&footer), offset)?;
        handle.set_len(figures.size)?;
        handle.sync_data()?;
        handle.read_exact_at(&mut read, offset)?;
        match read == footer {
            true => Ok(()),
            false => Err(std::io::ErrorKind::InvalidData.into()),
        }
    };
    if let Err(error) = write() {
        tracing::warn!(file = file.id, %error, "footer of log file cannot be written anew");
        file.len = file
            .handle
            .size()
            .map_err(|error| io_error(file.id, error))?;
        return Ok(());
    }
    tracing::warn!(
        file = file.id,
        "footer of log file was damaged and is written anew"
    );
    file.len = figures.size;
    file.end = figures.size;
    file.sealed = true;
    file.footer = Some(offset);
    file.footer_crc = footer_crc;
    Ok(())
}

/// Writes a valid footer again, with its trailer, so that a sync makes it durable. If the disk does
/// not take it, the next open reads the file in the same way.
///
/// # Errors
/// `Corrupt` if it does not validate any more, `Io`.
pub(super) fn renew_footer(file: &Found, options: &Options) -> Result<(), LogError> {
    let Some(offset) = file.footer else {
        return Ok(());
    };
    let seed = Seed::new(&options.owner, file.id);
    let footer = read_whole_footer(file, seed)?;
    let write = || {
        let handle = file.handle.open()?;
        handle.write_all_vectored_at(&[footer], offset)?;
        handle.sync_data()
    };
    if let Err(error) = write() {
        tracing::warn!(file = file.id, %error, "footer of log file cannot be written again");
    }
    Ok(())
}

/// Writes the header of a file anew whose frames are there. What only the header said is lost: the
/// inventory and the frames say the same.
pub(super) fn renew_header(file: &mut Found, options: &Options) {
    let (Some(damage), Some(epoch)) = (file.header.damage, file.header.epoch) else {
        return;
    };
    if file.frames.is_empty() {
        return;
    }
    let header = FileHeader {
        file: file.id,
        owner: options.owner,
        // A file that is as long as its header says counts as one whose process died.
        capacity: if file.crashed { file.len } else { 0 },
        durable_seq: 0,
        epoch,
        file_before: 0,
        superblock_seq: 0,
    }
    .encode();
    let crc = header_crc(&header);
    let write = || {
        let handle = file.handle.open()?;
        handle.write_all_vectored_at(&[header], 0)?;
        handle.sync_data()
    };
    match write() {
        Ok(()) => {
            tracing::warn!(file = file.id, %damage, "header of log file is written anew");
            file.header.crc = crc;
        }
        Err(error) => {
            tracing::warn!(file = file.id, %error, "header of log file cannot be written anew");
        }
    }
}

/// Writes frames again that nothing proves, in their places, so that a sync makes them durable.
/// Used where they cannot be copied: something is missing, and their records must stay in their
/// order.
///
/// # Errors
/// `Io`: whether they are durable is unknown.
pub(super) fn renew_frames(
    found: &[Found],
    options: &Options,
    proven: u64,
    superseded: &BTreeSet<u64>,
) -> Result<(), LogError> {
    for file in found {
        let unproven: Vec<_> = file
            .frames
            .iter()
            .filter(|frame| {
                let is_unproven = frame.seq > proven && !superseded.contains(&frame.seq);
                let is_valid = frame.standing != Standing::Damaged;
                is_unproven && frame.start > 0 && is_valid
            })
            .collect();
        if unproven.is_empty() {
            continue;
        }
        let seed = Seed::new(&options.owner, file.id);
        let io = LogError::io_of("renew frame of log file", file.id);
        let handle = file.handle.open().map_err(&io)?;
        for frame in &unproven {
            let bytes = read_whole_frame(file, frame, seed)?;
            handle
                .write_all_vectored_at(&[bytes.into()], frame.start)
                .map_err(&io)?;
        }
        let io = LogError::io_of("sync log file", file.id);
        handle.sync_data().map_err(io)?;
    }
    Ok(())
}
