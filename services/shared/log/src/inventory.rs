//! The list of a log's files that its owner keeps, so that a file that is lost is missed.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;

use cstore_types::epoch::Epoch;

use crate::recovery::RecoveryReport;
use crate::types::FileInfo;

/// Final figures of a file, by which an open knows that it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedFigures {
    /// Size of the file in bytes.
    pub size: u64,
    /// First sequence of its frames.
    pub first_seq: u64,
    /// Last sequence of its frames.
    pub last_seq: u64,
    /// Number of records.
    pub records: u64,
    /// Checksum of the footer; 0 without one.
    pub footer_crc: u32,
}

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

    /// Returns the final figures of a file that takes no more frames; `None` if they are not known.
    fn sealed_figures(&self, file: u32) -> Option<SealedFigures>;

    /// Returns the checksum of the holes of a file that are known and settled (`FileInfo::holes_crc`):
    /// an open that finds just these is not in doubt because of them. 0 if there are none.
    fn known_holes(&self, file: u32) -> u32;

    /// Returns the epoch of a number, for the header of a file that is made anew; `None` if it is
    /// not known.
    fn epoch(&self, number: u32) -> Option<Epoch>;

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
