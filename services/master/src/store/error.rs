//! Errors of the metadata store, by what the caller can do.

use std::io;
use std::sync::Arc;

use cstore_log::{Damage, LogError};
use cstore_types::codec::CodecError;
use cstore_types::{ChunkingError, ETagError, PlacementError, UserMetadataError, error_chain};

/// The reason why metadata was not read or written. Cheap to clone: one failed sync fails many
/// batches.
///
/// Causes are sources and not part of the text: print them with `cstore_types::error_chain`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetaError {
    /// A requirement of the batch does not hold: read again and decide again.
    #[error("another change came first")]
    Conflict,
    /// The disk of the master has no room.
    #[error("metadata disk is full")]
    Full,
    /// Too many batches wait.
    #[error("too many metadata changes at once")]
    Busy,
    /// A file of the metadata folder could not be used.
    #[error("{doing}")]
    Io {
        /// The step that failed.
        doing: &'static str,
        /// The system's error.
        #[source]
        source: Arc<io::Error>,
    },
    /// The log refused a batch, or cannot be opened.
    #[error("metadata log")]
    Log(#[source] LogError),
    /// The index could not be read or written.
    #[error("metadata index")]
    Index(#[source] sled::Error),
    /// The operating system's random generator failed.
    #[error("random generator")]
    Random(#[source] getrandom::Error),
    /// Stored bytes cannot be used.
    #[error("metadata is damaged")]
    Damaged(#[source] DamageKind),
    /// The writer has ended: the store was closed, or a thread of it panicked.
    #[error("metadata writer has ended")]
    Closed,
    /// The metadata is open for reading only.
    #[error("{0}")]
    ReadOnly(Arc<ReadOnly>),
}

impl MetaError {
    /// Returns true if a later open may succeed although nobody changes the folder.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Conflict
            | Self::Full
            | Self::Busy
            | Self::Io { .. }
            | Self::Random(_)
            | Self::Closed
            // The next open rebuilds an index that does not open.
            | Self::Index(_) => true,
            Self::Log(error) => error.may_pass(),
            Self::ReadOnly(why) => why.awaits_disk(),
            // The stored bytes stay as they are.
            Self::Damaged(_) => false,
        }
    }

    /// Returns true if the index cannot be used, which snapshot and log can make anew.
    pub(super) fn is_of_index(&self) -> bool {
        matches!(
            self,
            Self::Index(_) | Self::Damaged(DamageKind::Value { .. })
        )
    }

    /// Returns true if sled found no space.
    pub(super) fn is_without_room(&self) -> bool {
        matches!(self, Self::Index(sled::Error::Io(error)) if is_full(error))
    }

    /// Returns true if the index is unusable until it is opened again: sled refuses everything after
    /// a failed write.
    pub(super) fn ends_the_index(&self) -> bool {
        match self {
            Self::Index(sled::Error::Io(error)) => !is_passing(error),
            Self::Index(_) => true,
            _ => false,
        }
    }

    /// Returns true if a part of the folder is missing or damaged, so that names may be served from
    /// the rest of it. Parts of a newer program, or of two copies that contradict each other, are
    /// refused, and a passing error says nothing about the folder.
    pub(super) fn leaves_a_rest(&self) -> bool {
        match self {
            Self::Damaged(kind) => kind.leaves_a_rest(),
            // Leave files of a later program to it.
            Self::Log(LogError::Corrupt { damage, .. }) => !matches!(damage, Damage::Version(_)),
            Self::Log(_)
            | Self::Conflict
            | Self::Full
            | Self::Busy
            | Self::Io { .. }
            | Self::Index(_)
            | Self::Random(_)
            | Self::Closed
            | Self::ReadOnly(_) => false,
        }
    }

    /// Returns true if the system refused something for a reason that does not pass by itself, such
    /// as a file system that is mounted read-only. What lies there may be whole.
    pub(super) fn is_of_the_disk(&self) -> bool {
        let is_of_the_disk = |error: &io::Error| !is_passing(error);
        match self {
            Self::Full => true,
            Self::Io { source, .. } | Self::Log(LogError::Io { source, .. }) => {
                is_of_the_disk(source)
            }
            Self::Index(sled::Error::Io(source)) => is_of_the_disk(source),
            Self::Log(LogError::Poisoned(_) | LogError::Full { .. }) => true,
            _ => false,
        }
    }

    /// Names the step in which an I/O error happened.
    pub(super) fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Io {
            doing,
            source: Arc::new(error),
        }
    }
}

/// Returns true for too few descriptors, no memory, and an interrupted call.
/// Returns true if the file system or the user's quota is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

pub(super) fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR];
    passing
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl From<DamageKind> for MetaError {
    fn from(kind: DamageKind) -> Self {
        Self::Damaged(kind)
    }
}

/// The reason why metadata is open for reading only, and how far it is served.
///
/// The text is for operators and for clients whose write is refused.
#[derive(Debug, Clone)]
pub struct ReadOnly {
    /// The reason why the folder cannot be opened for writing.
    pub(super) damage: MetaError,
    /// How far names are served.
    pub(super) extent: Extent,
}

/// How much of the metadata the rest of a folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Position up to which batches are in it.
    pub(crate) position: u64,
    /// Highest position that any part of the folder names.
    pub(crate) newest: u64,
    /// Batches behind `position` that are intact in the log. They are left out, because an earlier batch
    /// is missing or damaged.
    pub(crate) unused: u64,
    /// Nothing proves that the last batches that were acknowledged are in it: the log does not say
    /// how far it went, and the index was not closed.
    pub(crate) may_lag: bool,
    /// Damaged values.
    pub(super) damaged: u64,
}

impl Extent {
    /// Returns true if batches are missing, or may be.
    pub(crate) fn may_lack_changes(&self) -> bool {
        self.position < self.newest || self.may_lag
    }

    /// Returns true if something is known to be missing or damaged.
    pub(crate) fn is_partial(&self) -> bool {
        self.position < self.newest || self.damaged > 0
    }

    /// Returns the number of batches that are known to be missing or damaged.
    pub(crate) fn lost(&self) -> u64 {
        let behind = self.newest.saturating_sub(self.position);
        behind.saturating_sub(self.unused)
    }

    /// Writes which changes are left out.
    fn write_changes(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, newest) = (self.position + 1, self.newest);
        match newest.saturating_sub(self.position) {
            0 if self.may_lag => return f.write_str("later changes may be missing"),
            0 => return f.write_str("no change is missing"),
            1 => write!(f, "change {first} is ")?,
            _ => write!(f, "changes {first} to {newest} are ")?,
        }
        match (self.lost(), self.unused) {
            (_, 0) => f.write_str("missing or damaged")?,
            (0, _) => f.write_str("in the log and left out")?,
            (lost, unused) => write!(
                f,
                "left out: {lost} missing or damaged, {unused} whole in the log but after the first of these"
            )?,
        }
        match self.may_lag {
            true => f.write_str(", and later ones may be missing"),
            false => Ok(()),
        }
    }
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "position {}, ", self.position)?;
        self.write_changes(f)?;
        match self.damaged {
            0 => Ok(()),
            1 => f.write_str(", 1 value is damaged"),
            many => write!(f, ", {many} values are damaged"),
        }
    }
}

impl ReadOnly {
    /// Returns true if names may be missing, so that a name that is not found may be there all the
    /// same.
    pub(crate) fn may_lack_names(&self) -> bool {
        self.extent.may_lack_changes()
    }

    /// Returns true if the folder may be whole, and is not written because its disk takes no writes:
    /// a start opens it for writing when the disk does.
    pub(crate) fn awaits_disk(&self) -> bool {
        self.damage.is_of_the_disk()
    }
}

impl std::fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { damage, extent } = self;
        if self.awaits_disk() {
            return write!(
                f,
                "the master is read-only, because its disk takes no writes ({}). Names are served as of {extent}. The master \
                 ends when the disk takes writes again, so that its next start opens it for writing",
                error_chain(damage)
            );
        }
        write!(
            f,
            "the master is read-only, because its metadata is not whole ({}). Names are served as of {extent}. Put back what \
             is missing and restart the master; or stop it and write what is served to a file that another start can \
             go on from: cstore admin rescue FILE",
            error_chain(damage)
        )
    }
}

/// The kind of damage that was found in stored metadata.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DamageKind {
    /// A key or value is shorter, longer or other than this program writes.
    #[error("{0} has other bytes than this program writes")]
    Layout(&'static str),
    /// Fields that are cut off or have a rest.
    #[error("stored value")]
    Fields(#[from] CodecError),
    /// A text that is no ETag.
    #[error("stored etag")]
    ETag(#[source] ETagError),
    /// A text that is no chunking.
    #[error("stored chunking")]
    Chunking(#[source] ChunkingError),
    /// A value of a version that this program does not know.
    #[error("value has version {found}, known are {known:?}")]
    Version {
        /// The version that was found.
        found: u8,
        /// Versions that this program reads.
        known: &'static [u8],
    },
    /// User metadata beyond its bounds.
    #[error(transparent)]
    Metadata(#[from] UserMetadataError),
    /// A placement map that breaks its rules.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// Positions are missing: a file of the log was removed, or a frame of it is damaged.
    #[error(
        "log goes on with position {next} after {last}: a file of the folder log, or the snapshot, is missing, older \
         or damaged"
    )]
    Gap {
        /// The position after the gap.
        next: u64,
        /// The last position before the gap.
        last: u64,
    },
    /// A record of the log whose checksum does not match its bytes.
    #[error("record of position {position} has a wrong checksum")]
    Record {
        /// Its position.
        position: u64,
    },
    /// A record of the log that was written behind another one than the one in front of it.
    #[error(
        "record of position {position} belongs behind another one: a file of the log is of another copy"
    )]
    Chain {
        /// Its position.
        position: u64,
    },
    /// A damage that lies in a file of the log.
    #[error("log/{file}")]
    InLog {
        /// Name of the file.
        file: String,
        /// The damage.
        #[source]
        damage: Box<DamageKind>,
    },
    /// A record of a kind that this program does not know.
    #[error("log has a record of kind {0}, known are 1 and 7")]
    RecordKind(u8),
    /// A change of a kind that this program does not know.
    #[error("log has a change of kind {0}, known are 0 and 1")]
    Op(u8),
    /// A value of the index whose checksum does not match its bytes.
    #[error(
        "value of key \"{key}\" in the index has a wrong checksum; the next start makes the index anew"
    )]
    Value {
        /// The key, with escapes for bytes that are no text.
        key: String,
    },
    /// The index has applied more than snapshot and log have.
    #[error(
        "index has applied position {applied}, snapshot and log end with {last}: a file of the folder log is \
         missing or older. Put it back; or, to go on without what it had, move the folder index away"
    )]
    Behind {
        /// The position that the index has applied.
        applied: u64,
        /// The last position of snapshot and log.
        last: u64,
    },
    /// The snapshot has another magic number.
    #[error("snapshot has another magic number")]
    SnapshotMagic,
    /// The snapshot is cut off or cannot be read.
    #[error("snapshot ends too early")]
    SnapshotShort,
    /// The snapshot is not what the log was written behind.
    #[error("snapshot is of another copy than the log")]
    SnapshotForeign,
    /// Snapshot and index are of different copies, and the log has no record that says which one is
    /// right.
    #[error(
        "snapshot.bin and index are of different copies, and the log does not say which one is right: move the wrong one \
         away"
    )]
    Strangers,
    /// The snapshot has an item larger than 1 MiB.
    #[error("snapshot has an item beyond 1 MiB")]
    SnapshotItem,
    /// A checksum of the snapshot does not match.
    #[error("snapshot has a wrong checksum")]
    SnapshotChecksum,
    /// The snapshot is shorter or longer than its head says.
    #[error("snapshot has {found} bytes, its head says {expected}")]
    SnapshotSize {
        /// Bytes of the file.
        found: u64,
        /// Bytes that the head names.
        expected: u64,
    },
    /// The file `log-owner` does not have 16 bytes.
    #[error("file log-owner does not have 16 bytes")]
    LogOwner,
    /// The log has files, and the file that names their owner is missing.
    #[error(
        "file log-owner is missing although the folder log has files: put it back from the copy that they are from"
    )]
    LogOwnerMissing,
}

impl DamageKind {
    fn leaves_a_rest(&self) -> bool {
        match self {
            Self::InLog { damage, .. } => damage.leaves_a_rest(),
            // Written by a newer program.
            Self::Version { .. } | Self::RecordKind(_) | Self::Op(_) | Self::SnapshotMagic => false,
            // Only an operator knows which copy is right.
            Self::Strangers => false,
            Self::Layout(_)
            | Self::Fields(_)
            | Self::ETag(_)
            | Self::Chunking(_)
            | Self::Metadata(_)
            | Self::Placement(_)
            | Self::Gap { .. }
            | Self::Record { .. }
            | Self::Chain { .. }
            | Self::Value { .. }
            | Self::Behind { .. }
            | Self::SnapshotShort
            | Self::SnapshotForeign
            | Self::SnapshotItem
            | Self::SnapshotChecksum
            | Self::SnapshotSize { .. }
            | Self::LogOwner
            | Self::LogOwnerMissing => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_says_which_changes_are_lost_and_which_are_whole_and_left_out() {
        let extent = Extent {
            position: 64,
            newest: 81,
            unused: 16,
            may_lag: false,
            damaged: 0,
        };
        for (extent, says) in [
            (
                extent,
                "position 64, changes 65 to 81 are left out: 1 missing or damaged, 16 whole in the log but after the first of these",
            ),
            (
                Extent {
                    unused: 0,
                    may_lag: true,
                    ..extent
                },
                "position 64, changes 65 to 81 are missing or damaged, and later ones may be missing",
            ),
            (
                Extent {
                    newest: 65,
                    unused: 0,
                    damaged: 2,
                    ..extent
                },
                "position 64, change 65 is missing or damaged, 2 values are damaged",
            ),
            (
                Extent {
                    unused: 17,
                    ..extent
                },
                "position 64, changes 65 to 81 are in the log and left out",
            ),
            (
                Extent {
                    newest: 64,
                    unused: 0,
                    ..extent
                },
                "position 64, no change is missing",
            ),
            (
                Extent {
                    newest: 64,
                    unused: 0,
                    may_lag: true,
                    damaged: 1,
                    ..extent
                },
                "position 64, later changes may be missing, 1 value is damaged",
            ),
        ] {
            assert_eq!(extent.to_string(), says);
        }
    }
}
