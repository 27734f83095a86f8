//! The owner of the log: 16 random bytes that seed its checksums, so that files of another master's
//! log never validate.

use std::io;
use std::path::Path;

use cstore_log::{Disk, parse_file_name};

use crate::store::{DamageKind, MetaError};

const NAME: &str = "log-owner";
const UNFINISHED: &str = "log-owner.new";

/// The owner of a log, written to its file or not yet.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct LogOwner {
    pub(super) bytes: [u8; 16],
    is_written: bool,
}

impl LogOwner {
    /// Reads the owner of the log in `dir`, or makes one for a log that has no files yet.
    ///
    /// # Errors
    /// [`DamageKind::LogOwner`]; [`DamageKind::LogOwnerMissing`] if there are files that nobody
    /// could read with another owner; `Io`.
    pub(in crate::store) fn find(dir: &Path, log_disk: &dyn Disk) -> Result<Self, MetaError> {
        match std::fs::read(dir.join(NAME)) {
            Ok(bytes) => Ok(Self {
                bytes: bytes.try_into().map_err(|_| DamageKind::LogOwner)?,
                is_written: true,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let names = log_disk.list().map_err(MetaError::io("list the log"))?;
                if names.iter().any(|name| parse_file_name(name).is_some()) {
                    return Err(DamageKind::LogOwnerMissing.into());
                }
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).map_err(MetaError::Random)?;
                Ok(Self {
                    bytes,
                    is_written: false,
                })
            }
            Err(error) => Err(MetaError::io("read the file log-owner")(error)),
        }
    }

    /// Writes an owner that is new, BEFORE anything is written to the log.
    pub(super) fn keep(self, dir: &Path) -> Result<(), MetaError> {
        if self.is_written {
            return Ok(());
        }
        let unfinished = dir.join(UNFINISHED);
        let write = || {
            std::fs::write(&unfinished, self.bytes)?;
            std::fs::File::open(&unfinished)?.sync_all()?;
            std::fs::rename(&unfinished, dir.join(NAME))?;
            std::fs::File::open(dir)?.sync_all()
        };
        write().map_err(MetaError::io("write the file log-owner"))
    }
}
