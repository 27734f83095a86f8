//! Opening a log: what is on the disk, what of it is proven, what must be copied.
//!
//! ```text
//! for each file          sealed (trailer at its end) ─▶ footer only
//!                        else walk frame by frame    ─▶ whole frames, checksums
//! proven = highest durable_seq seen in any valid header, frame or footer
//! an invalid frame before the end of a file that was cut before, or before another valid frame ─▶ corrupt
//! a sequence ≤ proven that is nowhere, next to a torn tail ─▶ corrupt
//! each open that writes ─▶ the next epoch: its sequences are above all others, and the files that it makes
//!                          say where the log had ended
//! frames > proven, not superseded ─▶ copied into a new file with a record that supersedes them, synced
//! crashed files ─▶ cut to their valid end, synced
//! ```
//! A crashed file is told from one that was cut before by its length: it still has its full
//! capacity.

mod found;
mod tail;

pub use found::DirectoryEntry;
pub(crate) use found::{directory, verify};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cstore_types::epoch::{Epoch, LAST_EPOCH, epoch_of, first_seq};

use crate::committer::Active;
use crate::disk::Disk;
use crate::error::LogError;
use crate::file::Files;
use crate::format::{BLOCK, KIND_SUPERSEDES};
use crate::types::{Location, Options};
use found::{Found, Frame, read_files};
use tail::{check_gaps, copy_frame, renew_last_footer, settle, superseded_by, take_tail};

/// A record that the log holds.
#[derive(Debug, Clone, Copy)]
pub struct RecoveredRecord<'a> {
    /// Kind, as it was appended.
    pub kind: u8,
    /// Key, as it was appended.
    pub key: &'a [u8],
    /// Where its payload lies.
    pub location: Location,
    /// Sequence of its frame.
    pub frame_seq: u64,
}

/// Findings of an open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
    /// Files that belong to another log. They are left alone in a log with an inventory, and
    /// refused in others.
    pub foreign: Vec<u32>,
    /// Epoch that the next frame lies in; all zero in a log without epochs.
    pub epoch: Epoch,
    /// Epochs that files with frames name, in the order of their numbers.
    pub epochs: Vec<Epoch>,
    /// Last sequence that is there of each epoch, frames that were copied since included.
    pub ends: BTreeMap<u32, u64>,
    /// Highest sequence of the owner's superblock that a file names.
    pub superblock_seq: u64,
    /// Sequences of frames whose records were copied, because nothing proved them: they lie in
    /// other files now.
    pub superseded: BTreeSet<u64>,
}

/// A log that was read and made whole.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) report: RecoveryReport,
    pub(crate) active: Option<Active>,
}

pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    files: &Files,
    options: &Options,
    visit: &mut dyn FnMut(RecoveredRecord<'_>),
) -> Result<Recovered, LogError> {
    let mut report = RecoveryReport::default();
    let mut found = read_files(disk, files, options, &mut report)?;
    let durable = found.iter().map(|file| file.durable_seq);
    let proven = durable.max().unwrap_or(0).max(options.proven_seq);
    let superseded: BTreeSet<u64> = found.iter().flat_map(superseded_by).collect();
    if !options.is_held {
        check_gaps(&found, options.proven_seq, &superseded)?;
    }
    report.last_seq = found
        .iter()
        .flat_map(|file| file.frames.iter().map(|frame| frame.seq))
        .chain(superseded.iter().copied())
        // The file of the highest sequence may be retired by now; its numbers are not given to
        // other frames.
        .chain([proven, options.least_seq])
        .max()
        .unwrap_or(0);
    note_epochs(&found, &superseded, &mut report);
    report.epoch = begin_epoch(&found, files, options, report.last_seq)?;
    if let Some(inventory) = &options.inventory {
        inventory.recovered(&report);
    }

    let mut active = None;
    let mut copied = None;
    // On hold every frame counts as proven: the durable_seq that proves it may be in a missing
    // file.
    let trusted = if options.is_held { u64::MAX } else { proven };
    if let Some((handle, frame)) = take_tail(&mut found, trusted, &superseded)? {
        report.last_seq = next_seq(report.last_seq, report.epoch);
        report.copied_frames = 1;
        let others = found.iter().map(Found::settled_size).sum();
        report.superseded.insert(frame.seq);
        let copy = copy_frame(
            files,
            options,
            (&handle, &frame),
            others,
            (report.last_seq, proven),
        )?;
        copied = Some((
            copy.file.id,
            Frame {
                seq: report.last_seq,
                start: BLOCK,
                entries: copy.entries().to_vec(),
            },
        ));
        active = Some(copy);
    }
    report.superseded.extend(superseded);
    renew_last_footer(&found)?;
    let mut frames: Vec<(u32, Frame)> = Vec::new();
    for mut file in found {
        frames.extend(
            std::mem::take(&mut file.frames)
                .into_iter()
                .map(|frame| (file.id, frame)),
        );
        settle(
            disk,
            files,
            options,
            &report.superseded,
            &file,
            frames.iter().filter(|(id, _)| *id == file.id),
        )?;
    }
    frames.extend(copied);
    frames.sort_by_key(|(_, frame)| frame.seq);
    report.files = frames
        .iter()
        .map(|(file, _)| *file)
        .collect::<BTreeSet<u32>>()
        .len();
    report.records = deliver(&frames, visit);
    Ok(Recovered { report, active })
}

/// Returns the sequence after `last` in a log that has come to `epoch`.
pub(crate) const fn next_seq(last: u64, epoch: Epoch) -> u64 {
    let first = first_seq(epoch.number);
    if last < first { first } else { last + 1 }
}

/// Reports which epochs there are, and where each of them ends.
fn note_epochs(found: &[Found], superseded: &BTreeSet<u64>, report: &mut RecoveryReport) {
    let with_frames = found.iter().filter(|file| !file.frames.is_empty());
    let epochs: BTreeMap<u32, Epoch> = with_frames
        .map(|file| (file.epoch.number, file.epoch))
        .filter(|(number, _)| *number > 0)
        .collect();
    report.epochs = epochs.into_values().collect();

    let there = found.iter().flat_map(|file| &file.frames);
    let there = there.map(|frame| frame.seq);
    for seq in there.chain(superseded.iter().copied()) {
        let end = report.ends.entry(epoch_of(seq)).or_default();
        *end = seq.max(*end);
    }
}

/// Chooses the epoch of this open: behind every one that a file names, also if it took no frame.
///
/// # Errors
/// [`LogError::LastEpoch`] if there is no number left.
fn begin_epoch(
    found: &[Found],
    files: &Files,
    options: &Options,
    last_seq: u64,
) -> Result<Epoch, LogError> {
    let Some(next) = options.epoch else {
        return Ok(Epoch::default());
    };
    let named = found.iter().map(|file| file.epoch.number).max();
    let used = named.unwrap_or(0).max(epoch_of(last_seq));
    let epoch = Epoch {
        number: next.least.max(used.saturating_add(1)),
        nonce: next.nonce,
        end_before: last_seq,
    };
    if epoch.number > LAST_EPOCH {
        return Err(LogError::LastEpoch);
    }
    let newest = found
        .iter()
        .max_by_key(|file| file.frames.last().map(|frame| frame.seq));
    files.begin_epoch(epoch, newest.map_or(0, |file| file.id));
    Ok(epoch)
}

fn deliver(frames: &[(u32, Frame)], visit: &mut dyn FnMut(RecoveredRecord<'_>)) -> usize {
    let mut delivered = 0;
    for (file, frame) in frames {
        for entry in frame
            .entries
            .iter()
            .filter(|entry| entry.kind != KIND_SUPERSEDES)
        {
            let location = Location {
                file: *file,
                offset: entry.offset,
                len: entry.len,
            };
            visit(RecoveredRecord {
                kind: entry.kind,
                key: &entry.key,
                location,
                frame_seq: frame.seq,
            });
            delivered += 1;
        }
    }
    delivered
}
