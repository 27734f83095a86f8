//! A second reader of the formats, written after `docs/log-format.md` and `docs/disk-format.md` and
//! sharing no code with the program: the oracle must not have the defects of what it judges.
//!
//! It reads undamaged folders only, so it panics on bytes that it does not understand.

use std::ops::Range;

/// Parts of a log file begin on multiples of this many bytes.
pub(super) const BLOCK: usize = 4_096;
/// Bytes of a frame header that its checksum covers. The rest of the header is zero.
pub(super) const CHECKED_HEADER: usize = 44;
const FRAME_HEADER: usize = 64;
const ENTRY: usize = 6;
const TRAILER: usize = 16;
const FLAG_FOOTER: u32 = 1;
/// Bytes of a slot of the superblock, and their number.
const SLOT: usize = 4_096;
const SLOTS: usize = 4;

/// Kinds of records in segments.
pub(super) const KIND_DATA: u8 = 1;
pub(super) const KIND_LEAF: u8 = 2;
pub(super) const KIND_SET: u8 = 3;
pub(super) const KIND_RELEASE: u8 = 4;

/// A log file: a segment of a storage node, or a file of the master's log.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) id: u32,
    pub(super) frames: Vec<Frame>,
    /// Header and directory of the footer, without padding; `None` in a file that was not sealed.
    pub(super) footer: Option<Range<usize>>,
    /// The bytes that find the footer.
    pub(super) trailer: Range<usize>,
}

/// A group of records that was synced at once.
#[derive(Debug)]
pub(super) struct Frame {
    /// Offset of the header.
    pub(super) start: usize,
    pub(super) directory: Range<usize>,
    /// Offset behind the last payload.
    pub(super) end: usize,
    pub(super) records: Vec<Record>,
}

/// A record in a frame.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) kind: u8,
    pub(super) key: Vec<u8>,
    /// Entry in the directory of the frame.
    pub(super) entry: Range<usize>,
    pub(super) payload: Range<usize>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn length_at(bytes: &[u8], at: usize) -> usize {
    u32_at(bytes, at) as usize
}

impl LogFile {
    /// Parses a whole file.
    ///
    /// # Panics
    /// If the header or the footer is not as documented.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let header = &bytes[..BLOCK];
        assert_eq!(&header[..8], b"CSTORLG2", "magic number of a log file");
        assert_eq!(
            crc32c::crc32c(&header[..BLOCK - 4]),
            u32_at(header, BLOCK - 4),
            "checksum of the header of a log file"
        );
        let id = u32_at(header, 12);
        let owner = &header[16..32];
        let seed = crc32c::crc32c_append(crc32c::crc32c(owner), &id.to_le_bytes());

        let footer = find_footer(bytes, seed);
        let frames_end = footer.as_ref().map_or(bytes.len(), |footer| footer.start);
        let mut frames = Vec::new();
        let mut at = BLOCK;
        while let Some(frame) = Frame::parse(&bytes[..frames_end], at, id, seed) {
            at = frame.end.next_multiple_of(BLOCK);
            frames.push(frame);
        }
        Self {
            id,
            frames,
            footer,
            trailer: bytes.len() - TRAILER..bytes.len(),
        }
    }

    /// Records of all frames.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.frames.iter().flat_map(|frame| &frame.records)
    }
}

/// Finds the footer of a sealed file by its trailer.
fn find_footer(bytes: &[u8], seed: u32) -> Option<Range<usize>> {
    let trailer = &bytes[bytes.len() - TRAILER..];
    if &trailer[..4] != b"CLT2" {
        return None;
    }
    assert_eq!(
        crc32c::crc32c_append(seed, &trailer[8..]),
        u32_at(trailer, 4),
        "checksum of a trailer"
    );
    let length = usize::try_from(u64_at(trailer, 8)).unwrap();
    let start = bytes.len() - length;
    let header = &bytes[start..];
    assert_eq!(&header[..4], b"CLF2", "magic number of a footer");
    assert_eq!(u32_at(header, 28) & FLAG_FOOTER, FLAG_FOOTER, "footer flag");
    Some(start..start + FRAME_HEADER + length_at(header, 32))
}

impl Frame {
    /// Parses the frame at `start`; `None` if no valid frame begins there.
    fn parse(bytes: &[u8], start: usize, file: u32, seed: u32) -> Option<Self> {
        let header = bytes.get(start..start + FRAME_HEADER)?;
        if &header[..4] != b"CLF2" || u32_at(header, 4) != file {
            return None;
        }
        // A kill while a file is sealed leaves a footer that the end of the file does not find.
        if u32_at(header, 28) & FLAG_FOOTER != 0 {
            return None;
        }
        let directory_start = start + FRAME_HEADER;
        let directory = directory_start..directory_start + length_at(header, 32);
        let end = directory.end + length_at(header, 36);
        let checked = bytes.get(directory.start..end)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &header[..40]), checked);
        if crc != u32_at(header, 40) {
            return None;
        }

        let mut records = Vec::new();
        let mut entry_at = directory.start;
        let mut payload_at = directory.end;
        for _ in 0..u32_at(header, 24) {
            let key_at = entry_at + ENTRY;
            let key_end = key_at + usize::from(bytes[entry_at + 1]);
            let payload_end = payload_at + length_at(bytes, entry_at + 2);
            records.push(Record {
                kind: bytes[entry_at],
                key: bytes[key_at..key_end].to_vec(),
                entry: entry_at..key_end,
                payload: payload_at..payload_end,
            });
            entry_at = key_end;
            payload_at = payload_end;
        }
        assert_eq!(entry_at, directory.end, "end of a directory");
        assert_eq!(payload_at, end, "end of the payloads");
        Some(Self {
            start,
            directory,
            end,
            records,
        })
    }

    /// Bytes that the frame takes, without padding.
    pub(super) fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// Ids of blocks that a leaf of a recipe names.
pub(super) fn ids_of_leaf(payload: &[u8]) -> Vec<[u8; 32]> {
    const HEADER: usize = 8;
    const ENTRY: usize = 40;
    let count = usize::from(u16::from_le_bytes([payload[2], payload[3]]));
    let entries = payload[HEADER..].chunks_exact(ENTRY);
    assert_eq!(entries.len(), count, "entries of a leaf");
    entries
        .map(|entry| entry[..32].try_into().unwrap())
        .collect()
}

/// Returns the slots of a superblock, the newest one first.
pub(super) fn slots(superblock: &[u8]) -> Vec<Range<usize>> {
    let is_valid = |slot: &&[u8]| {
        &slot[..8] == b"CSTORSB2" && crc32c::crc32c(&slot[..SLOT - 4]) == u32_at(slot, SLOT - 4)
    };
    let mut found: Vec<(u64, usize)> = superblock
        .chunks_exact(SLOT)
        .take(SLOTS)
        .enumerate()
        .filter(|(_, slot)| is_valid(slot))
        .map(|(n, slot)| (u64_at(slot, 112), n))
        .collect();
    found.sort_unstable();
    found
        .iter()
        .rev()
        .map(|(_, n)| n * SLOT..(n + 1) * SLOT)
        .collect()
}

/// Returns the images of an inventory, the newest one first.
pub(super) fn images(inventory: &[u8]) -> Vec<Range<usize>> {
    const HEAD: usize = 56;
    const ENTRY: usize = 56;
    const EPOCH: usize = 32;
    let half = inventory.len() / 2;
    let mut found = Vec::new();
    for start in [0, half] {
        let area = &inventory[start..start + half];
        if &area[..8] != b"CSTORIN3" {
            continue;
        }
        let body = HEAD + length_at(area, 12) * ENTRY + length_at(area, 44) * EPOCH;
        if crc32c::crc32c(&area[..body]) == u32_at(area, body) {
            found.push((u64_at(area, 32), start..start + body + 4));
        }
    }
    found.sort_unstable_by_key(|(generation, _)| *generation);
    found.into_iter().rev().map(|(_, range)| range).collect()
}

/// Position of the master's history that a slot of the superblock notes.
pub(super) fn noted_position(slot: &[u8]) -> u64 {
    const NOTED: usize = 192;
    // The position follows incarnation, term and life.
    u64_at(slot, NOTED + 24)
}

/// Highest position in a file of the master's log; 0 if it has no batch.
pub(super) fn last_position(log: &LogFile) -> u64 {
    const KIND_BATCH: u8 = 7;
    let batches = log.records().filter(|record| record.kind == KIND_BATCH);
    let positions = batches.map(|record| u64::from_be_bytes(record.key[..8].try_into().unwrap()));
    positions.max().unwrap_or(0)
}
