//! Rescue of the metadata of a master that does not run.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cstore_log::{FolderReader, RealDisk};

use crate::store::{self, MetaError, keys};

/// The reason why nothing was rescued.
#[derive(Debug, thiserror::Error)]
pub enum RescueError {
    /// There is no metadata in the folder.
    #[error("{} has no metadata of a master", .0.display())]
    NoMetadata(PathBuf),
    /// A master runs on the folder.
    #[error("metadata folder {} is in use by a master: stop it first", .0.display())]
    InUse(PathBuf),
    /// The file is there already.
    #[error("{} is there already, and is left as it is", .0.display())]
    Exists(PathBuf),
    /// The file system of the file has no room.
    #[error("no room beside {} for the snapshot and an index", .0.display())]
    NoRoom(PathBuf),
    /// The folder cannot be used.
    #[error("metadata folder {}", .0.display())]
    Folder(PathBuf, #[source] std::io::Error),
    /// The metadata cannot be read, or the file not be written.
    #[error("nothing is rescued")]
    Meta(#[from] MetaError),
}

/// Facts about a snapshot that was rescued.
#[derive(Debug, Clone)]
pub struct Rescued {
    /// Number of names in the file.
    pub names: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Position of the snapshot, with what is missing or damaged, as a phrase.
    pub extent: String,
    /// Number of the last change in the file.
    pub position: u64,
    /// Number of the newest change that some part of the folder names.
    pub newest: u64,
    /// Changes behind `position` that are known to be missing or damaged.
    pub lost_changes: u64,
    /// Changes behind `position` that are intact in the log. The file leaves them out, because an
    /// earlier change is missing or damaged.
    pub unused_changes: u64,
    /// True if acknowledged changes behind `newest` may be missing.
    pub may_lag: bool,
    /// Changes are known to be missing, or values were left out.
    pub is_partial: bool,
}

/// Writes all that is whole of the metadata in `dir`, the folder of a master, to the new file
/// `file`, from which another folder can start. Calls `leave_out` with what each value was of that
/// is damaged. Blocks the thread.
///
/// # Errors
/// [`RescueError`]. No file is left then, and the folder is as it was.
pub fn rescue(
    dir: &Path,
    file: &Path,
    leave_out: &mut dyn FnMut(&str),
) -> Result<Rescued, RescueError> {
    let is_there = |name: &str| dir.join(name).try_exists().unwrap_or(false);
    if !["log", "index", "snapshot.bin"].into_iter().any(is_there) {
        return Err(RescueError::NoMetadata(dir.to_path_buf()));
    }
    if std::fs::symlink_metadata(file).is_ok() {
        return Err(RescueError::Exists(file.to_path_buf()));
    }
    let unusable = |error| RescueError::Folder(dir.to_path_buf(), error);
    let disk = RealDisk::open(dir).map_err(unusable)?;
    let lock = match disk.lock("LOCK") {
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            return Err(RescueError::InUse(dir.to_path_buf()));
        }
        // No process writes to the folder.
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => None,
        Err(error) => return Err(unusable(error)),
    };
    let log = is_there("log").then(|| FolderReader::of(dir.join("log")));
    let leave_out = &mut |key: &[u8]| leave_out(&describe(key));
    let rescued = store::rescue(dir, log, file, leave_out).map_err(|error| match error {
        MetaError::Full => RescueError::NoRoom(file.to_path_buf()),
        error => error.into(),
    })?;
    drop(lock);
    let extent = rescued.extent;
    Ok(Rescued {
        names: rescued.names,
        bytes: rescued.bytes,
        extent: extent.to_string(),
        position: extent.position,
        newest: extent.newest,
        lost_changes: extent.lost(),
        unused_changes: extent.unused,
        may_lag: extent.may_lag,
        is_partial: extent.is_partial(),
    })
}

/// Says in words what a key is of, with the bytes of the key that tell it from others.
fn describe(key: &[u8]) -> String {
    let rest = key.get(1..).unwrap_or_default();
    let id = || hex::encode(rest);
    match key.first().copied() {
        Some(keys::NAMES) => {
            let mut parts = rest.splitn(2, |byte| *byte == 0);
            let tenant = String::from_utf8_lossy(parts.next().unwrap_or_default());
            let name = String::from_utf8_lossy(parts.next().unwrap_or_default());
            match &*tenant {
                "" => format!("name \"{name}\""),
                tenant => format!("name \"{name}\" of tenant {tenant}"),
            }
        }
        Some(keys::SESSIONS) => format!("upload {}", id()),
        Some(keys::ROOTS) => format!("content of upload {}", id()),
        Some(keys::RELEASES) => format!("release of upload {}", id()),
        Some(keys::STORES) => format!("disk {}", id()),
        Some(keys::LIVES) => format!("life {}", id()),
        _ => format!("key \"{}\"", key.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use cstore_types::{FileName, SessionId, Tenant};

    use super::*;

    #[test]
    fn a_key_is_said_in_words() {
        let name = FileName::new("docs/ä").unwrap();
        let of = |tenant: &str| {
            let tenant = Tenant::new(tenant).unwrap();
            describe(&keys::name_key(&tenant, &name))
        };
        assert_eq!(of("acme"), "name \"docs/ä\" of tenant acme");
        assert_eq!(describe(b"n\0docs/a"), "name \"docs/a\"");
        let session = SessionId::from_bytes([0xab; 16]);
        let id = "ab".repeat(16);
        assert_eq!(
            describe(&keys::session_key(session)),
            format!("upload {id}")
        );
        assert_eq!(
            describe(&keys::root_key(session)),
            format!("content of upload {id}")
        );
        assert_eq!(describe(b"q\x01"), "key \"q\\x01\"");
    }

    #[test]
    fn only_a_folder_of_a_master_that_does_not_run_is_rescued() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rescued");
        let rescue = |file: &Path| rescue(dir.path(), file, &mut |_| ());
        assert!(matches!(rescue(&file), Err(RescueError::NoMetadata(_))));
        std::fs::write(dir.path().join("snapshot.bin"), b"none").unwrap();
        assert!(matches!(rescue(&file), Err(RescueError::Meta(_))));
        assert!(!file.try_exists().unwrap());

        let lock = RealDisk::open(dir.path()).unwrap().lock("LOCK").unwrap();
        assert!(matches!(rescue(&file), Err(RescueError::InUse(_))));
        drop(lock);
        std::fs::write(&file, b"mine").unwrap();
        assert!(matches!(rescue(&file), Err(RescueError::Exists(_))));
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    }
}
