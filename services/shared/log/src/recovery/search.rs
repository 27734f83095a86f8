//! The search for what follows bytes that do not validate.

use cstore_types::epoch::{LAST_EPOCH, epoch_of, first_seq};

use super::found::{Found, damage_of, io_error, read_or_damage};
use super::walk::{header_at, read_frame};
use crate::error::LogError;
use crate::format::{BLOCK, Damage, FRAME_HEADER, FrameHeader, Seed, is_plausible};
use crate::limits::{FIRST_SCAN_BYTES, MAX_BAD_BLOCKS, SCAN_BYTES, SCAN_FACTOR};

/// Result of the search behind bytes that do not validate.
#[derive(Debug)]
pub(super) enum Behind {
    /// A valid frame. One in front of it is damaged, because it was written after its sync.
    Frame {
        at: u64,
        seq: u64,
        /// The header in front of it leads to it; otherwise it was searched for.
        by_length: bool,
    },
    /// A valid footer.
    Footer(u64),
    /// Nothing that is of the log.
    Nothing,
    /// The disk does not give back what is there, or it takes too long to tell.
    Unknown(Damage),
}

/// Bounds of the search for frames in one file.
#[derive(Debug)]
pub(super) struct Scan {
    /// Bytes that may still be checksummed.
    budget: u64,
    /// Blocks that may still fail to be read.
    bad_blocks: usize,
    /// Last sequence that no search has found.
    sure: Option<u64>,
}

impl Scan {
    pub(super) fn of(file: &Found) -> Self {
        Self {
            budget: file.len.saturating_mul(SCAN_FACTOR),
            bad_blocks: MAX_BAD_BLOCKS,
            sure: None,
        }
    }
}

/// Looks for the first valid frame behind the valid end of a file.
pub(super) fn frame_behind(file: &Found, scan: &mut Scan, seed: Seed) -> Result<Behind, LogError> {
    scan.sure = scan.sure.max(file.frames.last_verified());
    // A damaged frame may hold anything, also what looks like a frame: it is passed by its length
    // if its header is there.
    let mut offset = file.end;
    let damaged = header_at(file, offset)?;
    if let Some(damaged) = damaged {
        let at = offset + damaged.disk_len();
        let follows = |seq: u64| damaged.seq.checked_add(1) == Some(seq);
        if let Some((header, _)) = read_frame(file, at, seed)?
            && (header.footer || follows(header.seq))
        {
            return Ok(match header.footer {
                true => Behind::Footer(at),
                false => Behind::Frame {
                    at,
                    seq: header.seq,
                    by_length: true,
                },
            });
        }
    }

    let mut unreadable = None;
    if let Err(damage) = read_or_damage(&file.handle, file.id, offset, block_at(file, offset))? {
        unreadable = Some(damage);
    }
    offset += BLOCK;
    // Where every second frame is damaged, the next valid one is near: whole units would read most of
    // the file again for each of them.
    let mut unit = FIRST_SCAN_BYTES;
    while offset + BLOCK <= file.len {
        let len = unit.min((file.len - offset) as usize);
        unit = SCAN_BYTES.min(2 * unit);
        let chunk = read_readable(file, offset, len, scan, &mut unreadable)?;
        for (n, block) in chunk.chunks(BLOCK as usize).enumerate() {
            let at = offset + n as u64 * BLOCK;
            let Some(header) = FrameHeader::decode(block, file.id) else {
                continue;
            };
            if !may_follow(file, &header, at, scan) {
                continue;
            }
            let Some(budget) = scan.budget.checked_sub(header.content_len()) else {
                return Ok(Behind::Unknown(Damage::Frame));
            };
            scan.budget = budget;
            if let Some((header, _)) = read_frame(file, at, seed)? {
                return Ok(match header.footer {
                    true => Behind::Footer(at),
                    false => Behind::Frame {
                        at,
                        seq: header.seq,
                        by_length: false,
                    },
                });
            }
            // Nothing was written behind a frame before that was synced, so it is not torn. One whose
            // header is there is told with those behind it.
            if damaged.is_none()
                && unreadable.is_none()
                && is_directory_plausible(file, &header, at)?
            {
                unreadable = Some(Damage::FrameBeforeValid);
            }
        }
        if scan.bad_blocks == 0 {
            break;
        }
        offset += len as u64;
    }
    // Bytes that are unreadable, or lie in front of a damaged frame, were durable: they are not torn.
    Ok(unreadable.map_or(Behind::Nothing, Behind::Unknown))
}

/// Returns true if header and directory at `at` fit each other, as those of a frame do.
fn is_directory_plausible(file: &Found, header: &FrameHeader, at: u64) -> Result<bool, LogError> {
    let (start, len) = (at + FRAME_HEADER as u64, header.directory_len as usize);
    let directory = read_or_damage(&file.handle, file.id, start, len)?;
    Ok(directory.is_ok_and(|directory| is_plausible(header, at, &directory)))
}

fn block_at(file: &Found, offset: u64) -> usize {
    BLOCK.min(file.len.saturating_sub(offset)) as usize
}

/// Returns true if a header at `at`, which is not verified, can be that of a frame or footer behind
/// the frames that are known: sequences count frames, and each takes a block at least.
fn may_follow(file: &Found, header: &FrameHeader, at: u64, scan: &Scan) -> bool {
    let fits = at + header.disk_len() <= file.len;
    let frames = (at - BLOCK) / BLOCK;
    let is_near = |sure: u64| {
        let in_epoch = epoch_of(header.seq) == epoch_of(sure);
        in_epoch && header.seq >= sure && header.seq - sure <= frames + 1
    };
    // The first frame of a file follows what was durable when its header was made, or begins its
    // epoch.
    let begins_near = || {
        let Some(epoch) = file.header.epoch else {
            return epoch_of(header.seq) < LAST_EPOCH;
        };
        let begin = first_seq(epoch.number).saturating_sub(1);
        let durable = file.header.durable_seq.max(begin);
        header.seq > durable && header.seq - durable <= frames + 2
    };
    // A frame has its own sequence, and was built after the one before it was durable.
    let is_own = header.footer || scan.sure.is_none_or(|sure| header.seq > sure);
    let is_behind = header.footer || header.durable_seq < header.seq;
    fits && is_own && is_behind && scan.sure.map_or_else(begins_near, is_near)
}

/// Reads bytes; blocks of which the disk gives nothing back are zero, and noted.
fn read_readable(
    file: &Found,
    offset: u64,
    len: usize,
    scan: &mut Scan,
    unreadable: &mut Option<Damage>,
) -> Result<Vec<u8>, LogError> {
    if let Ok(bytes) = read_or_damage(&file.handle, file.id, offset, len)? {
        return Ok(bytes);
    }
    let mut bytes = vec![0; len];
    for (n, block) in bytes.chunks_mut(BLOCK as usize).enumerate() {
        let at = offset + n as u64 * BLOCK;
        if scan.bad_blocks == 0 {
            break;
        }
        match file.handle.read_exact_at(block, at) {
            Ok(()) => {}
            Err(error) => {
                let damage = damage_of(&error).ok_or_else(|| io_error(file.id, error))?;
                *unreadable = Some(damage);
                scan.bad_blocks -= 1;
                block.fill(0);
            }
        }
    }
    Ok(bytes)
}
