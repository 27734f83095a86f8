//! The list of a log's files that its owner keeps, so that a file that is lost is missed.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;

use crate::recovery::RecoveryReport;
use crate::types::FileInfo;

/// Durable list of the files of one log.
///
/// The log tells its owner what it is about to do with files. A method that returns `Ok` promises
/// that what it was told is durable. After an error it is unknown, so the log is poisoned.
pub trait Inventory: Debug + Send + Sync {
    /// Returns the highest id that a file ever had. Ids up to it are not used again, also if their
    /// files are missing.
    fn highest(&self) -> u32;

    /// Returns the sequence of the owner's superblock, for the headers of new files. A header that
    /// names a later one than the owner has shows that the superblock is old.
    fn superblock_seq(&self) -> u64;

    /// Takes what an open has found and is about to do, BEFORE it changes anything: which epochs
    /// there are must not be forgotten with the files that name them.
    fn recovered(&self, report: &RecoveryReport);

    /// Returns true if an open may read the file. Others are left alone: they were given up, or
    /// came from elsewhere.
    fn may_read(&self, file: u32) -> bool;

    /// Notes that `sealed` is complete, with its final figures, and that `begun` takes frames from
    /// now on. Called BEFORE the first frame of `begun` is acknowledged, maybe at the same time as
    /// the sync of the footer. A clean stop begins no file.
    ///
    /// # Errors
    /// The error of the disk.
    fn rolled(&self, sealed: Option<&FileInfo>, begun: Option<&FileInfo>) -> io::Result<()>;

    /// Notes that the file is about to go, because nothing in it is needed. Called BEFORE its name
    /// changes.
    ///
    /// # Errors
    /// The error of the disk.
    fn leaving(&self, file: u32) -> io::Result<()>;

    /// Returns true if an open may remove the file, in which it found no frame: it never had any,
    /// or those that it had are among the `superseded`, whose records were copied.
    fn may_remove(&self, file: u32, superseded: &BTreeSet<u64>) -> bool;

    /// Notes, in memory, that the file can never come back.
    fn gone(&self, file: u32);
}
