//! The nouns of the log: options, records, places, files.

use bytes::Bytes;
use cstore_types::CommitFacts;

use crate::error::LogError;

/// How a log is laid out and bounded.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seeds every checksum; a log of another owner is refused.
    pub owner: [u8; 16],
    /// Standard size of a file, a multiple of 4 KiB. A group that needs more gets a larger file.
    pub file_bytes: u64,
    /// Bound of all files together.
    pub max_bytes: u64,
    /// Room that normal groups leave, wherever it lies: in the active file, in recycled ones or in new ones.
    pub reserve_bytes: u64,
    /// The part of the reserve that urgent groups leave too: only compaction may use it.
    pub compaction_bytes: u64,
    /// A frame takes groups up to this many bytes (at least one group).
    pub max_frame_bytes: usize,
    /// Bytes that may wait for the disk.
    pub max_queue_bytes: usize,
    /// Sequences up to this one were used, whatever the files say: the ones that held them may be gone. 0 when the
    /// owner keeps no record of it.
    pub least_seq: u64,
}

/// One record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Meaning, up to the user; below 0xF0.
    pub kind: u8,
    /// At most [`crate::MAX_KEY`] bytes; readable at recovery without the payload.
    pub key: Bytes,
    /// Written from where it lies, never copied.
    pub payload: Bytes,
}

/// Where a payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Location {
    /// The file; ids are never used twice.
    pub file: u32,
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// A durable group.
#[derive(Debug, Clone, Copy)]
pub struct Committed<'a> {
    /// Sequence of its frame: grows with every group commit, never goes back on one disk.
    pub frame_seq: u64,
    /// Where its payloads lie, in the order of its records.
    pub locations: &'a [Location],
    /// The frame that it shares with other groups.
    pub frame: CommitFacts,
}

/// Told of every group commit, on the committer's thread: it must not wait for anything.
pub type Observer = Box<dyn Fn(&CommitFacts) + Send + Sync>;

/// Told once, for every outcome: on the committer's thread in order of the log, or at once when refused.
pub type Done = Box<dyn FnOnce(Result<Committed<'_>, LogError>) + Send>;

/// Whether a group may use the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// New data.
    Normal,
    /// What makes room, or must work on a full disk.
    Urgent,
    /// What is copied out of a file so that it can be retired: it may take all that is left, because more comes back.
    Compaction,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// Frames are being appended.
    Active,
    /// Ends in a footer.
    Sealed,
    /// Left by a process that did not stop in good order; complete up to its end.
    Cut,
}

/// A file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Its id.
    pub id: u32,
    /// Bytes on disk.
    pub size: u64,
    /// Bytes up to the end of the last frame.
    pub used: u64,
    /// Records in it.
    pub records: u64,
    /// What it is.
    pub state: FileState,
    /// First and last frame_seq, when it has frames.
    pub seqs: Option<(u64, u64)>,
}
