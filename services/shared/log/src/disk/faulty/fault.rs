//! Calls to a disk, and the faults that can strike them.

use std::io;

/// Kind of call that a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Making a file.
    Create,
    /// Opening a file.
    Open,
    /// Writing.
    Write,
    /// Syncing a file.
    Sync,
    /// Reading.
    Read,
    /// Renaming or removing a file.
    Name,
    /// Syncing a folder.
    SyncDir,
    /// Changing the length of a file.
    SetLen,
    /// Listing a folder.
    List,
    /// Asking for the length of a file, or for the room of the file system.
    Size,
    /// Opening a folder.
    Folder,
    /// Taking a lock.
    Lock,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 12] = [
        Self::Create,
        Self::Open,
        Self::Write,
        Self::Sync,
        Self::Read,
        Self::Name,
        Self::SyncDir,
        Self::SetLen,
        Self::List,
        Self::Size,
        Self::Folder,
        Self::Lock,
    ];

    /// Returns true for a call that changes the disk.
    pub(super) fn is_change(self) -> bool {
        match self {
            Self::Create | Self::Write | Self::Sync | Self::Name | Self::SyncDir | Self::SetLen => {
                true
            }
            // A lock of a file that is there changes nothing.
            Self::Open | Self::Read | Self::List | Self::Size | Self::Folder | Self::Lock => false,
        }
    }
}

/// Effect on the struck call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with EIO.
    Eio,
    /// It fails with ENOSPC.
    Enospc,
    /// It fails with EMFILE: the process has no descriptor left.
    Emfile,
    /// It fails with EROFS: the file system was mounted read-only.
    Erofs,
    /// It says that all is well and does nothing (syncs only).
    Skip,
}

pub(super) fn error_of(fault: Fault) -> Option<io::Error> {
    match fault {
        Fault::Eio => Some(io::Error::from_raw_os_error(5)),
        Fault::Enospc => Some(io::Error::from_raw_os_error(28)),
        Fault::Emfile => Some(io::Error::from_raw_os_error(24)),
        Fault::Erofs => Some(io::Error::from_raw_os_error(30)),
        Fault::Skip => None,
    }
}
