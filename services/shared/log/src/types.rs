//! Types of the log's interface: options, records, locations, files.

use std::sync::Arc;

use bytes::Bytes;
use cstore_types::CommitFacts;

use crate::error::LogError;
use crate::inventory::Inventory;

/// Layout and limits of a log.
#[derive(Debug, Clone)]
pub struct Options {
    /// Identity of the owner. Seeds every checksum, so that a log of another owner is refused.
    pub owner: [u8; 16],
    /// Standard size of a file, a multiple of 4 KiB. A group that needs more gets a larger file.
    pub file_bytes: u64,
    /// Limit of the bytes of all files together.
    pub max_bytes: u64,
    /// Bytes that [`Urgency::Normal`] groups leave free, counted over the active file, recycled
    /// files and new files.
    pub reserve_bytes: u64,
    /// Part of the reserve that [`Urgency::Urgent`] groups leave free, too: only compaction uses
    /// it.
    pub compaction_bytes: u64,
    /// Bytes of the file system that [`Urgency::Normal`] groups leave to others, if it has less room
    /// than `max_bytes` allows.
    pub floor_bytes: u64,
    /// Files of standard size that are made before they are needed, so that the reserve is on the disk
    /// whoever else fills the file system.
    pub ready_files: usize,
    /// Files that are kept open at a time. Others are opened when they are read.
    pub open_files: usize,
    /// Limit of the bytes of a frame. A frame always holds at least one group, whatever its size.
    pub max_frame_bytes: usize,
    /// Limit of the bytes that wait for the disk. Groups beyond it are refused as busy.
    pub max_queue_bytes: usize,
    /// Highest sequence that the owner knows to be used. The log continues above it, also if the
    /// files that held such sequences are gone. 0 if the owner keeps no record.
    pub least_seq: u64,
    /// Highest sequence that the owner knows to be durable: its frame is proven, also if the file
    /// that says so is missing. 0 if the owner keeps no record.
    pub proven_seq: u64,
    /// Epoch that this open begins if it writes; `None` for a log without epochs.
    pub epoch: Option<NextEpoch>,
    /// List of the files, if the owner keeps one.
    pub inventory: Option<Arc<dyn Inventory>>,
    /// Sequences, first and last, that files may have which are not there. Frames among them are not
    /// missed at the ends of others.
    pub absent_seqs: Vec<(u64, u64)>,
    /// True if an append writes and syncs its group on the thread of the caller, before it returns.
    /// Groups do not share frames then, so this is for an owner with one appending thread. If false, a
    /// thread of the log writes, and groups that wait for it share a frame.
    pub callers_write: bool,
    /// Something is in doubt: files that hold a part of the sequences may be missing, and nothing
    /// that lies in the folder is removed at the open, leftovers included. The same holds for an
    /// open that finds damage.
    pub is_held: bool,
}

/// Epoch of an open, as far as the owner knows it before the log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextEpoch {
    /// Least number that it may have. It gets a higher one if a file has that already.
    pub least: u32,
    /// Random number that tells it from the same epoch of a copy of the disk.
    pub nonce: u64,
}

/// One record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Kind of the record, defined by the owner; below 0xF0.
    pub kind: u8,
    /// At most [`crate::MAX_KEY`] bytes; readable at recovery without the payload.
    pub key: Bytes,
    /// Payload. Written from its own buffer, never copied.
    pub payload: Bytes,
}

/// Location of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Location {
    /// Id of the file. Ids are never reused.
    pub file: u32,
    /// Offset of the first byte in the file.
    pub offset: u32,
    /// Length in bytes.
    pub len: u32,
}

/// A durable group.
#[derive(Debug, Clone, Copy)]
pub struct Committed<'a> {
    /// Sequence of the frame. Grows with every group commit and never decreases on one disk.
    pub frame_seq: u64,
    /// Locations of the payloads, in the order of the group's records.
    pub locations: &'a [Location],
    /// Facts of the frame, which several groups may share.
    pub frame: CommitFacts,
}

/// Callback for every group commit. Runs on the committer's thread, so it MUST NOT block.
pub type Observer = Box<dyn Fn(&CommitFacts) + Send + Sync>;

/// Callback for the outcome of one group, called exactly once: on the committer's thread in the
/// order of the log, or inside of the append if the group is refused.
pub type Done = Box<dyn FnOnce(Result<Committed<'_>, LogError>) + Send>;

/// Share of the reserve that a group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// New data.
    Normal,
    /// Records that free space, or must be written on a full disk.
    Urgent,
    /// Copies out of a file that is to be retired. They may use all free space, because the retired
    /// file returns more.
    Compaction,
}

/// State of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// Frames are being appended.
    Active,
    /// The file ends in a footer.
    Sealed,
    /// A process left the file without shutting down cleanly. All its frames are complete.
    Cut,
}

/// A file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Id of the file.
    pub id: u32,
    /// Size on the disk in bytes.
    pub size: u64,
    /// Bytes up to the end of the last frame.
    pub used: u64,
    /// Number of records.
    pub records: u64,
    /// State of the file.
    pub state: FileState,
    /// First and last sequence of its frames; `None` if the file has no frame.
    pub seqs: Option<(u64, u64)>,
    /// Epoch of its frames; 0 in a log without epochs.
    pub epoch: u32,
    /// Checksum of the header.
    pub header_crc: u32,
    /// Checksum of the footer; 0 without one.
    pub footer_crc: u32,
    /// Checksum of its parts that are damaged and that no footer tells, as the open found them; 0 if
    /// there are none.
    pub holes_crc: u32,
}
