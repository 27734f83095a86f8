//! Opening a log: what is on the disk, what of it is proven, what must be copied.
//!
//! ```text
//! for each file          sealed (trailer at its end) ─▶ footer only
//!                        else walk frame by frame    ─▶ whole frames, checksums
//! proven = highest durable_seq seen in any valid header, frame or footer
//! an invalid frame before the end of a file that was cut before, or before another valid frame ─▶ hole
//! a sequence ≤ proven that is nowhere, next to a torn tail ─▶ hole
//! header or footer damaged, the rest whole ─▶ written anew
//! each open that writes ─▶ the next epoch: its sequences are above all others, and the files that it makes
//!                          say where the log had ended
//! frames > proven, not superseded ─▶ copied into a new file with a record that supersedes them, synced;
//!                                    written again in their places if anything is missing
//! crashed files ─▶ cut to their valid end, synced
//! ```
//! A crashed file is told from one that was cut before by its length: it still has its full
//! capacity. An open reports holes and goes on; what they mean is for the owner to say.
//!
//! Records are delivered a file at a time, so an open needs memory for the frames of the log and
//! the records of one file.

mod complete;
mod found;
mod frames;
mod heal;
mod search;
mod tail;
mod walk;

pub use complete::DirectoryEntry;
pub(crate) use complete::{damage, directory, verify};
pub use found::Hole;
pub(crate) use found::damage_of;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cstore_types::epoch::{Epoch, LAST_EPOCH, epoch_of, first_seq};

use crate::committer::Active;
use crate::disk::Disk;
use crate::error::LogError;
use crate::file::Files;
use crate::format::{Damage, Directory, Entry, EntryRef, KIND_SUPERSEDES, Seed};
use crate::types::{Location, Options};
use found::{Found, io_error, read_files};
use heal::{renew_frames, renew_header, renew_lost_footer};
use tail::{
    copy_frame, drop_superseded, drop_superseded_holes, find_tail, note_gaps, renew_last_footer,
    settle,
};
use walk::visit_records;

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
    /// Standing of the frame.
    pub standing: Standing,
    /// The payload of a record that is not verified: the owner decides what it is. `None` if it cannot
    /// be read, and for verified records.
    pub payload: Option<&'a [u8]>,
}

/// Standing of a frame: how far its bytes are proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The checksum of the frame, or of the footer, matches.
    Verified,
    /// The checksum matches, but the frame was searched for behind an untold hole. Payloads
    /// that a client has made up may look like that.
    Searched,
    /// The checksum does not match: kinds, keys and payloads may be wrong.
    Damaged,
}

/// A file of which nothing can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable {
    /// Id of the file.
    pub file: u32,
    /// What is wrong.
    pub damage: Damage,
    /// First and last sequence of its frames; all there can be if that is not known.
    pub seqs: (u64, u64),
}

/// All sequences that there can be.
pub const ANY_SEQS: (u64, u64) = (0, u64::MAX);

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
    /// Parts of files that do not validate. Nothing is removed by an open that finds one that its
    /// owner does not know of.
    pub holes: Vec<Hole>,
    /// Files of which nothing can be read.
    pub unreadable: Vec<Unreadable>,
    /// Files whose header does not validate. The header is written anew if the frames are there.
    pub damaged_headers: Vec<u32>,
    /// Files whose footer does not validate, or was never finished. The footer is written anew if
    /// that can be done; the frames say the same.
    pub damaged_footers: Vec<u32>,
    /// Whether frames are missing at the ends of files could not be told, because of files that are
    /// not there or cannot be read.
    pub are_gaps_unknown: bool,
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
    let (mut found, leftovers) = read_files(disk, files, options, &mut report)?;
    let mut superseded: BTreeSet<u64> = found
        .iter()
        .flat_map(|file| file.supersedes.iter().copied())
        .collect();
    let mut absent = options.absent_seqs.clone();
    absent.extend(report.unreadable.iter().map(|file| file.seqs));
    report.are_gaps_unknown = absent.contains(&ANY_SEQS);
    note_gaps(&mut found, options, &absent, &superseded)?;
    drop_superseded_holes(&mut found, &superseded);
    renew_lost_footers(&mut found, options, &mut report)?;
    report.holes = found
        .iter()
        .flat_map(|file| file.holes.iter().copied())
        .collect();
    let is_held = options.is_held || is_in_doubt(&found, &report, options);

    let durable = found.iter().map(|file| file.durable_seq);
    let proven = durable.max().unwrap_or(0).max(options.proven_seq);
    // Without epochs, sequences that a hole may have are not given to other frames. They are not
    // durable for that: with epochs nothing is said of them.
    let in_holes = report
        .holes
        .iter()
        .map(|hole| hole.seqs.1)
        .filter(|_| options.epoch.is_none());
    report.last_seq = found
        .iter()
        .flat_map(|file| file.frames.iter().map(|frame| frame.seq))
        .chain(superseded.iter().copied())
        .chain(in_holes)
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
    if !is_held {
        for name in &leftovers.unfinished {
            if let Err(error) = disk.remove(name) {
                tracing::warn!(%name, %error, "a leftover of the log cannot be removed");
            }
        }
    }
    let others = found.iter().map(Found::settled_size).sum();
    files.adopt_ready(&leftovers.ready, others)?;

    // The durable_seq that proves a frame may be in what is missing.
    let tail = find_tail(&found, proven, &superseded).filter(|_| !is_held);
    if tail.is_none() {
        renew_frames(&found, options, proven, &superseded)?;
    }
    drop_superseded(&mut found, &superseded);
    let mut active = None;
    if let Some((at, frame)) = tail
        && let Some(file) = found.get(at)
    {
        let seqs = (next_seq(report.last_seq, report.epoch), proven);
        match copy_frame(files, options, (file, &frame), others, seqs) {
            Ok(copy) => {
                active = Some(copy);
                report.last_seq = seqs.0;
                report.copied_frames = 1;
                superseded.insert(frame.seq);
                drop_superseded(&mut found, &superseded);
            }
            // Others have filled the file system.
            Err(LogError::Full { .. }) => renew_frames(&found, options, proven, &superseded)?,
            Err(error) => return Err(error),
        }
    }
    renew_last_footer(&found)?;

    for file in &mut found {
        renew_header(file, options);
        settle(disk, files, options, &superseded, file, is_held)?;
    }
    report.superseded = superseded;
    let copied = active.as_ref().map(|copy| (copy.file.id, copy.entries()));
    deliver(&found, copied, options, visit, &mut report)?;
    Ok(Recovered { report, active })
}

/// Writes footers anew of which the inventory says how they were, and notes the headers and footers
/// that do not validate.
fn renew_lost_footers(
    found: &mut [Found],
    options: &Options,
    report: &mut RecoveryReport,
) -> Result<(), LogError> {
    for file in found {
        let was_sealed = file.sealed;
        renew_lost_footer(file, options)?;
        let is_footer_damaged =
            was_sealed != file.sealed || file.renews_footer || file.footer_behind.is_some();
        if is_footer_damaged {
            report.damaged_footers.push(file.id);
        }
        if file.header.damage.is_some() {
            report.damaged_headers.push(file.id);
        }
    }
    Ok(())
}

/// Returns true if anything does not validate that the owner does not know of.
fn is_in_doubt(found: &[Found], report: &RecoveryReport, options: &Options) -> bool {
    let is_known = |file: &Found| {
        let inventory = options.inventory.as_ref();
        let known = inventory.map_or(0, |inventory| inventory.known_holes(file.id));
        file.holes.is_empty() || file.holes_crc() == known
    };
    !report.unreadable.is_empty() || !found.iter().all(is_known)
}

impl RecoveryReport {
    /// Returns true if anything of the log does not validate.
    pub fn is_damaged(&self) -> bool {
        !self.holes.is_empty() || !self.unreadable.is_empty()
    }
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
        .filter_map(|file| file.header.epoch)
        .filter(|epoch| epoch.number > 0)
        .map(|epoch| (epoch.number, epoch))
        .collect();
    report.epochs = epochs.into_values().collect();

    let there = found.iter().flat_map(|file| file.frames.iter());
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
    let named = found.iter().filter_map(|file| file.header.epoch);
    let named = named.map(|epoch| epoch.number).max();
    let used = named.unwrap_or(0).max(epoch_of(last_seq));
    let epoch = Epoch {
        number: next.least.max(used.saturating_add(1)),
        nonce: next.nonce,
        end_before: last_seq,
    };
    if epoch.number > LAST_EPOCH {
        return Err(LogError::LastEpoch);
    }
    let newest = found.iter().max_by_key(|file| file.last_seq());
    files.begin_epoch(epoch, newest.map_or(0, |file| file.id));
    Ok(epoch)
}

/// Delivers the records of all files in the order of the log, and those of the frame that was
/// copied.
fn deliver(
    found: &[Found],
    copied: Option<(u32, &Directory)>,
    options: &Options,
    visit: &mut dyn FnMut(RecoveredRecord<'_>),
    report: &mut RecoveryReport,
) -> Result<(), LogError> {
    let superseded = std::mem::take(&mut report.superseded);
    let mut records = 0;
    let mut show = |file: u32, entry: EntryRef<'_>, (standing, found): (_, Option<&Found>)| {
        let is_verified = standing == Standing::Verified;
        // Records of a damaged frame go to the owner, whatever their kind.
        let is_own = entry.kind == KIND_SUPERSEDES && is_verified;
        if is_own || superseded.contains(&entry.seq) {
            return;
        }
        records += 1;
        let found = found.filter(|_| !is_verified);
        let payload =
            found.and_then(|found| read_at(found, entry.offset.into(), entry.len as usize).ok());
        visit(RecoveredRecord {
            kind: entry.kind,
            key: entry.key,
            location: Location {
                file,
                offset: entry.offset,
                len: entry.len,
            },
            frame_seq: entry.seq,
            standing,
            payload: payload.as_deref(),
        });
    };

    let mut files: Vec<&Found> = found
        .iter()
        .filter(|file| !file.frames.is_empty())
        .collect();
    files.sort_by_key(|file| (file.first_seq(), file.id));
    for group in files.chunk_by(|before, next| before.last_seq() >= next.first_seq()) {
        let seed = |file: &Found| Seed::new(&options.owner, file.id);
        if let [file] = group {
            visit_records(file, seed(file), &mut |entry, standing| {
                show(file.id, entry, (standing, Some(*file)));
            })?;
            continue;
        }
        // Written by two copies of the log: their frames are told apart by nothing but their
        // sequences.
        let mut entries: Vec<(Entry, &Found, Standing)> = Vec::new();
        for file in group {
            visit_records(file, seed(file), &mut |entry, standing| {
                entries.push((entry.to_entry(), *file, standing));
            })?;
        }
        entries.sort_by_key(|(entry, ..)| entry.seq);
        for (entry, file, standing) in &entries {
            show(file.id, entry.as_ref(), (*standing, Some(*file)));
        }
    }
    let is_copied = copied.is_some();
    if let Some((file, entries)) = copied {
        for entry in entries.iter() {
            show(file, entry, (Standing::Verified, None));
        }
    }
    report.files = files.len() + usize::from(is_copied);
    report.records = records;
    report.superseded = superseded;
    Ok(())
}

fn read_at(file: &Found, offset: u64, len: usize) -> Result<Vec<u8>, LogError> {
    let mut bytes = vec![0; len];
    let read = file.handle.read_exact_at(&mut bytes, offset);
    read.map_err(|error| io_error(file.id, error))?;
    Ok(bytes)
}
