//! Failures of a storage node, by what the caller can do.
//!
//! Causes are sources and not part of the text: print them with `cstore_types::error_chain`.

use std::io;
use std::sync::Arc;

use cstore_log::LogError;
use cstore_types::{ErrorCode, SessionId, StoreUuid};
use rustix::io::Errno;
use tokio::task::JoinError;

use super::format::{DoubtKind, FormatError};

/// A failure of the engine. Cheap to clone: one failed sync fails many requests, so causes are
/// shared.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// No room for new blocks; reads and releases go on.
    #[error("disk is full: {needed} bytes needed, {free} bytes free{}", on_hold(.hold))]
    Full {
        /// Bytes that the request would take.
        needed: u64,
        /// Bytes that could be written.
        free: u64,
        /// Why deletes give no room back, if the disk is on hold.
        hold: Option<String>,
    },
    /// A write or sync failed, now or at the start; the node serves reads until it ends.
    #[error("disk is read-only after a failed write")]
    ReadOnly(#[source] Arc<LogError>),
    /// Too much waits already, or the same part is being sealed; retry.
    #[error("storage is busy: {0}")]
    Busy(&'static str),
    /// No such block here.
    #[error("block is not here")]
    NotFound,
    /// The stored bytes are not what their id says.
    #[error("block is damaged on disk")]
    DataLoss,
    /// The disk is on hold: nothing is freed, and what was asked would free something, or needs
    /// what may be missing.
    #[error("disk is on hold: {0}")]
    Held(String),
    /// The disk was opened, and no response of the master was judged yet.
    #[error("no answer of the master was judged since the start")]
    Unjudged,
    /// The request contradicts itself or its limits.
    #[error("{0}")]
    Invalid(String),
    /// The log failed or is closed.
    #[error("storage disk")]
    Log(#[source] LogError),
    /// Input or output beside the log failed.
    #[error("{doing}")]
    Io {
        /// The attempted operation, in the present tense.
        doing: &'static str,
        /// The operating system's error.
        #[source]
        source: Arc<io::Error>,
    },
    /// A stored reference set cannot be read.
    #[error("reference set of session {session} cannot be read")]
    RefSet {
        /// Owner of the set.
        session: SessionId,
        /// The damage.
        #[source]
        source: FormatError,
    },
    /// Work on another thread panicked: a defect. Nothing was written for the request.
    #[error("work on a blocking thread broke off")]
    Task(#[source] Arc<JoinError>),
}

/// Renders the reason why deletes give no room back.
fn on_hold(reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| {
        format!("; deletes free nothing while the disk is on hold: {reason}")
    })
}

impl EngineError {
    /// The house's code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Full { .. } => ErrorCode::Full,
            Self::ReadOnly(_) | Self::Unjudged => ErrorCode::Unavailable,
            Self::Held(_) => ErrorCode::StorageHold,
            Self::Busy(_) => ErrorCode::Overloaded,
            Self::NotFound => ErrorCode::NotFound,
            Self::DataLoss => ErrorCode::DataLoss,
            Self::Invalid(_) | Self::Log(LogError::TooLarge { .. }) => ErrorCode::InvalidArgument,
            Self::Log(_) | Self::Io { .. } | Self::RefSet { .. } | Self::Task(_) => {
                ErrorCode::Internal
            }
        }
    }

    /// Returns true if a later open may not meet the error although nobody changes the disk or the
    /// configuration.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Full { .. } | Self::ReadOnly(_) | Self::Busy(_) | Self::Io { .. } => true,
            Self::Log(error) => error.may_pass(),
            // Stored bytes do not change, and a defect repeats itself. Some of these errors never occur
            // at an open.
            Self::NotFound
            | Self::DataLoss
            | Self::Held(_)
            | Self::Unjudged
            | Self::Invalid(_)
            | Self::RefSet { .. }
            | Self::Task(_) => false,
        }
    }

    /// Makes the error of a request whose group was dropped without an outcome. The log drops a
    /// group only if the thread that writes it panicked, and is poisoned then; whether the group is
    /// durable is unknown.
    pub(crate) fn writer_gone() -> Self {
        Self::ReadOnly(Arc::new(LogError::Panicked))
    }

    /// Returns a function for `map_err` that wraps errors of the operation `doing`.
    pub(crate) fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Io {
            doing,
            source: Arc::new(error),
        }
    }
}

impl From<LogError> for EngineError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Full { needed, free } => Self::Full {
                needed,
                free,
                hold: None,
            },
            LogError::Busy => Self::Busy("too many bytes wait for the disk"),
            LogError::Poisoned(cause) => Self::ReadOnly(cause),
            other => Self::Log(other),
        }
    }
}

impl From<JoinError> for EngineError {
    fn from(error: JoinError) -> Self {
        Self::Task(Arc::new(error))
    }
}

/// Why a doubt is not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcceptError {
    /// No doubt has this number.
    #[error("no doubt has the number {number}; open are {open:?}")]
    Unknown {
        /// The number that was given.
        number: u32,
        /// Numbers of the doubts that can be accepted.
        open: Vec<u32>,
    },
    /// The doubt is between the disk and the master, and the master decides it.
    #[error("a doubt of kind {} is decided on the master", .0.name())]
    Elsewhere(DoubtKind),
    /// More blocks are absent than can be counted.
    #[error(
        "more blocks are absent than can be counted; accepting that would free blocks of other files"
    )]
    Incomplete,
    /// The disk takes no writes: the decision would be lost.
    #[error("decision cannot be written; it is taken when the disk takes writes again")]
    ForReads(#[source] Arc<LogError>),
    /// The decision could not be written.
    #[error("decision is not written")]
    Disk(#[from] EngineError),
}

/// Why a disk is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("disk {0} is in use by another process")]
    InUse(String),
    /// Files that are not ours lie there.
    #[error(
        "folder {path} is not empty and holds no C-Store disk (found {found:?}); give an empty folder"
    )]
    Foreign {
        /// The folder.
        path: String,
        /// One of the files.
        found: String,
    },
    /// The superblock cannot be used.
    #[error("superblock of {path} cannot be used and nothing was changed")]
    Superblock {
        /// The disk.
        path: String,
        /// The problem of the newest slot.
        #[source]
        problem: FormatError,
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
        "FRESH_START=TRUE, but the disk holds reference sets of {sessions} uploads, and more if something is in doubt; to erase them for good, set \
         CSTORE_FRESH_START_ERASE={store}"
    )]
    HoldsFiles {
        /// Uploads that hold blocks.
        sessions: usize,
        /// Uuid to name to erase it.
        store: StoreUuid,
    },
    /// FS_SIZE is below what lies there, or was lowered so far that nothing could be deleted any
    /// more.
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
    /// The lock of the disk cannot be taken.
    #[error("lock {path}")]
    Lock {
        /// Path of the file.
        path: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The segments, or the structures beside them, cannot be read or written.
    #[error("open segments of the disk")]
    Segments(#[from] EngineError),
    /// Records of a newer program, or of another one.
    #[error("{0} records have keys that this program cannot read")]
    Keys(usize),
    /// Input or output failed.
    #[error("{doing}")]
    Io {
        /// The attempted operation, in the present tense.
        doing: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
}

impl OpenError {
    /// Returns true if a later open may succeed although nobody changes the disk or the
    /// configuration.
    pub fn may_pass(&self) -> bool {
        match self {
            // The other process may end, and the error of the system may pass.
            Self::InUse(_) | Self::Lock { .. } | Self::Io { .. } => true,
            Self::Segments(error) => error.may_pass(),
            Self::Foreign { .. }
            | Self::Superblock { .. }
            | Self::Mismatch { .. }
            | Self::HoldsFiles { .. }
            | Self::TooSmall { .. }
            | Self::Capacity { .. }
            | Self::Keys(_) => false,
        }
    }

    /// Returns a function for `map_err` that wraps errors of the operation `doing`.
    pub(crate) fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// Returns true for an error of the system that says nothing about what is stored.
pub(super) fn is_passing(error: &std::io::Error) -> bool {
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR];
    passing
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use cstore_types::error_chain;

    use super::*;

    #[test]
    fn a_failed_write_keeps_the_error_of_the_disk_under_every_name() {
        let io = LogError::Io {
            doing: "write log frame",
            file: None,
            source: Arc::new(io::ErrorKind::StorageFull.into()),
        };
        let error = EngineError::from(LogError::Poisoned(Arc::new(io)));
        assert_eq!(error.code(), ErrorCode::Unavailable);
        let text = error_chain(&OpenError::from(error)).to_string();
        assert_eq!(
            text,
            "open segments of the disk: disk is read-only after a failed write: write log frame: no storage space"
        );
    }

    #[test]
    fn a_writer_that_is_gone_has_one_code() {
        assert_eq!(EngineError::writer_gone().code(), ErrorCode::Unavailable);
        assert!(!matches!(
            EngineError::writer_gone(),
            EngineError::Busy(_) | EngineError::Log(_)
        ));
    }
}
