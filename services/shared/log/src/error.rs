//! Failures of a log, by what the caller can do.

use std::io;
use std::sync::Arc;

use crate::format::{Damage, file_name};

/// A failure of the log. Cheap to clone: one failed sync fails many groups, so causes are shared.
///
/// Causes are sources and not part of the text: print them with `cstore_types::error_chain`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The group does not fit; others may. Retiring files helps.
    #[error("log is full: {needed} bytes needed, {free} bytes free")]
    Full {
        /// Bytes of the group's frame.
        needed: u64,
        /// Bytes that could be appended.
        free: u64,
    },
    /// Too many bytes wait for the disk already; retry.
    #[error("too many bytes wait for the log")]
    Busy,
    /// The group can never fit a frame.
    #[error("{what} of a log group is {found}, allowed are {allowed}")]
    TooLarge {
        /// Which bound.
        what: &'static str,
        /// The value that was given.
        found: usize,
        /// The bound.
        allowed: usize,
    },
    /// A write or sync failed; nothing is appended any more until the log is opened again.
    #[error("log is poisoned")]
    Poisoned(#[source] Arc<LogError>),
    /// A file cannot be used: it is of another log or of a later program, or durable bytes of it
    /// are damaged. Nothing was changed.
    #[error("log file {file:08x} is damaged at offset {offset}")]
    Corrupt {
        /// Id of the file.
        file: u32,
        /// Offset of the damage in the file.
        offset: u64,
        /// The damage.
        #[source]
        damage: Damage,
    },
    /// Input or output failed.
    #[error("{doing}{}", of_file(*.file))]
    Io {
        /// The attempted operation, in the present tense.
        doing: &'static str,
        /// Id of the file, if it is about one.
        file: Option<u32>,
        /// The operating system's error.
        #[source]
        source: Arc<io::Error>,
    },
    /// The log was opened to be read only, for this reason.
    #[error("disk takes no writes and is open for reads only")]
    ForReads(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// A thread that wrote, or a callback of a group, panicked: a defect. Whether the frame is
    /// durable is unknown.
    #[error("a thread that wrote the log or a callback panicked")]
    Panicked,
    /// Every epoch was used, after 16 million opens that wrote.
    #[error("log has used all its epochs")]
    LastEpoch,
    /// The epoch has no sequence left. The next open begins another one.
    #[error("epoch of the log has used all its sequences")]
    LastSequence,
    /// The log was closed.
    #[error("log is closed")]
    Closed,
    /// No such file.
    #[error("log has no file {0:08x}")]
    NoFile(u32),
}

impl LogError {
    /// Returns true if a later open may succeed although nobody changes the files or the configuration.
    pub fn may_pass(&self) -> bool {
        match self {
            // Free space, system resources or the disk may come back.
            Self::Full { .. }
            | Self::Busy
            | Self::Poisoned(_)
            | Self::Io { .. }
            | Self::ForReads(_)
            | Self::LastSequence
            | Self::Closed => true,
            // Stored bytes do not change, and a defect repeats itself.
            Self::TooLarge { .. }
            | Self::Corrupt { .. }
            | Self::Panicked
            | Self::LastEpoch
            | Self::NoFile(_) => false,
        }
    }

    /// Returns a function for `map_err` that wraps errors of the operation `doing`.
    pub(crate) fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Io {
            doing,
            file: None,
            source: Arc::new(error),
        }
    }

    /// Returns a function like [`Self::io`] for an operation on a file.
    pub(crate) fn io_of(doing: &'static str, file: u32) -> impl Fn(io::Error) -> Self {
        move |error| Self::Io {
            doing,
            file: Some(file),
            source: Arc::new(error),
        }
    }
}

fn of_file(file: Option<u32>) -> String {
    file.map_or_else(String::new, |file| format!(" {}", file_name(file)))
}
