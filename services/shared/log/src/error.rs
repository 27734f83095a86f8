//! What can go wrong with a log, by what the caller can do.

/// A failure of the log. Cheap to clone: one failed sync fails many groups.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
        /// What was given.
        found: usize,
        /// The bound.
        allowed: usize,
    },
    /// A write or sync failed; nothing is appended any more until the log is opened again.
    #[error("log is poisoned: {0}")]
    Poisoned(String),
    /// Durable bytes are damaged. Nothing was changed.
    #[error("log file {file:08x} is damaged at offset {offset}: {what}")]
    Corrupt {
        /// The file.
        file: u32,
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// Input or output failed.
    #[error("{doing}: {why}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The operating system's words.
        why: String,
    },
    /// The log was closed.
    #[error("log is closed")]
    Closed,
    /// No such file.
    #[error("log has no file {0:08x}")]
    NoFile(u32),
}

impl LogError {
    pub(crate) fn io(doing: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::Io { doing, why: error.to_string() }
    }
}
