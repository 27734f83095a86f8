//! What can go wrong on a storage node, by what the caller can do.

use cstore_types::{ErrorCode, StoreUuid};

/// A failure of the engine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// No room for new blocks; reads and releases go on.
    #[error("disk is full: {needed} bytes needed, {free} bytes free")]
    Full {
        /// Bytes that the request would take.
        needed: u64,
        /// Bytes that could be written.
        free: u64,
    },
    /// A write or sync failed; the node serves reads only until it is restarted.
    #[error("disk is read-only after a failed write: {0}")]
    ReadOnly(String),
    /// Too much waits already, or the same part is being sealed; retry.
    #[error("storage is busy: {0}")]
    Busy(&'static str),
    /// No such block here.
    #[error("block is not here")]
    NotFound,
    /// The stored bytes are not what their id says.
    #[error("block is damaged on disk")]
    DataLoss,
    /// The request contradicts itself or its limits.
    #[error("{0}")]
    Invalid(String),
    /// Reading failed, or the engine is closed.
    #[error("storage disk: {0}")]
    Disk(String),
}

impl EngineError {
    /// The house's code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Full { .. } => ErrorCode::Full,
            Self::ReadOnly(_) => ErrorCode::Unavailable,
            Self::Busy(_) => ErrorCode::Overloaded,
            Self::NotFound => ErrorCode::NotFound,
            Self::DataLoss => ErrorCode::DataLoss,
            Self::Invalid(_) => ErrorCode::InvalidArgument,
            Self::Disk(_) => ErrorCode::Internal,
        }
    }
}

/// Why a disk is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("disk {0} is in use by another process")]
    InUse(String),
    /// Files that are not ours lie there.
    #[error("folder {path} is not empty and holds no C-Store disk (found {found:?}); give an empty folder")]
    Foreign {
        /// The folder.
        path: String,
        /// One of the files.
        found: String,
    },
    /// The superblock cannot be used.
    #[error("superblock of {path} {problem}; nothing was changed")]
    Superblock {
        /// The disk.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The disk belongs to another cluster, node or key.
    #[error("disk {path} belongs to {what} {found}, expected {expected}")]
    Mismatch {
        /// The disk.
        path: String,
        /// Which identity differs.
        what: &'static str,
        /// The identity on the disk.
        found: String,
        /// The identity of this process.
        expected: String,
    },
    /// FRESH_START on a disk that holds files.
    #[error(
        "FRESH_START=TRUE, but the disk holds reference sets of {sessions} uploads; to erase them for good, set \
         CSTORE_FRESH_START_ERASE={store}"
    )]
    HoldsFiles {
        /// Uploads that hold blocks.
        sessions: usize,
        /// What to name to erase it.
        store: StoreUuid,
    },
    /// FS_SIZE is below what lies there, or was lowered so far that nothing could be deleted any more.
    #[error(
        "FS_SIZE is {wanted} bytes, but {allocated} bytes are in use and deletes need some room; give at least {least}"
    )]
    TooSmall {
        /// FS_SIZE.
        wanted: u64,
        /// Bytes of the segments.
        allocated: u64,
        /// With the room that deletes and compaction need.
        least: u64,
    },
    /// FS_SIZE is too small for any disk.
    #[error("FS_SIZE is {wanted} bytes, a disk needs at least {least}")]
    Capacity {
        /// FS_SIZE.
        wanted: u64,
        /// Bytes of the smallest disk.
        least: u64,
    },
    /// The log did not open.
    #[error("segments of the disk: {0}")]
    Log(String),
    /// Input or output failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The failure.
        source: std::io::Error,
    },
}
