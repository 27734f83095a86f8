//! Errors of reading a token file.

use std::io;

use crate::auth::tokens::entry::EntryError;

/// A token file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file is missing or cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file's mode lets other users read or change it.
    #[error("mode {0:03o} lets others use it; run chmod 600 on it")]
    Mode(u32),
    /// The file exceeds the limits of a gateway.
    #[error("more than 10,000 tokens or 4 MiB")]
    TooLarge,
    /// A line is not a valid token entry.
    #[error("line {line}: {error}")]
    Line {
        /// Line number, counted from 1.
        line: usize,
        /// The rule that the line breaks.
        error: EntryError,
    },
}
