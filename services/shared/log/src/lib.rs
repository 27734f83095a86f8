//! The one durable log of C-Store: under the segments of a storage node and under the metadata of
//! the master.
//!
//! A log is a folder of files. Records are appended in groups; a frame is one group commit:
//! everything that waited, one vectored write, one `fdatasync`, then the callers are told. See
//! `docs/log-format.md` for the bytes and [`recovery`](self#recovery) for what an open does.
//!
//! # Invariants
//! * A group is told to be durable only after the sync of its frame has returned. A failed sync is
//!   never retried: the log is poisoned, reads go on.
//! * A frame is written only after the frame before it was synced, and says so (`durable_seq`). So
//!   at most one valid frame of a crashed process is unproven.
//! * All records of a group come back, or none.
//! * In a log with epochs no sequence is used twice, also if the folder was replaced by an older
//!   copy of it: each open that writes begins an epoch.
//! * File ids are never used twice, and every checksum is seeded with owner and file id: stale or
//!   misdirected bytes never validate.
//!
//! # Recovery
//! After a kill the page cache may show a frame that the disk does not have, and after a failed
//! sync a new one does not help. So the one valid frame beyond the last proven one is *copied* into
//! a new file and synced before the open returns; the copy names the frame that it replaces. Then
//! the crashed file is cut to its valid end. Every open starts a new file; an old one is never
//! appended to.

#![warn(missing_docs)]

mod committer;
mod disk;
mod error;
mod file;
mod format;
mod gather;
#[cfg(feature = "faulty")]
pub mod golden;
#[cfg(test)]
mod golden_format;
mod inventory;
pub mod limits;
mod log;
mod queue;
mod recovery;
mod types;

pub use disk::{
    Disk, DiskFile, FolderReader, Freeze, FsRoom, LockGuard, OverlayDisk, RealDisk, probe,
    read_again, remove_probe,
};
#[cfg(feature = "faulty")]
pub use disk::{Fault, FaultyDisk, Gate, Hook, HookedDisk, Verb};
pub use error::LogError;
pub use format::{
    Damage, HeaderFacts, MAX_KEY, file_name, frame_bytes, header_facts, parse_file_name,
};
pub use gather::{Gather, Wait};
pub use inventory::{Inventory, SealedFigures};
pub use log::Log;
pub use recovery::{
    ANY_SEQS, DirectoryEntry, Hole, RecoveredRecord, RecoveryReport, Standing, Unreadable,
};
pub use types::{
    Committed, Done, FileInfo, FileState, Location, NextEpoch, Observer, Options, Record, Urgency,
};
