//! The error of a token file.

use std::io;

use crate::auth::tokens::entry::EntryError;

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It is not there, or cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Somebody else could read or change it.
    #[error("mode {0:03o} lets others use it; run chmod 600 on it")]
    Mode(u32),
    /// More than a gateway takes.
    #[error("more than 10,000 tokens or 4 MiB")]
    TooLarge,
    /// A line is none.
    #[error("line {line}: {error}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        error: EntryError,
    },
}
