//! A folder for an index that is not the one of the metadata: a copy of it, or one made anew.
//!
//! sled writes to an index as soon as it is opened. While snapshot and log have a hole, the index
//! may be the only place that knows some names, so it is looked at in a copy. The copy is removed
//! with its last user; one that a killed process has left is removed by the next open.
//!
//! Among the temporary files lie folders of several processes. The process that uses one holds the
//! lock of a file in it, so a folder whose lock is free is a leftover:
//!
//! ```text
//! maker     mkdir ─▶ create lock file ─▶ lock ─▶ is the lock file there still? ─▶ copy the index ─▶ …
//!             ▲            │ missing       │ taken           │ no
//!             └────────────┴───────────────┴─────────────────┘  with another name
//! cleaner   no lock file: rmdir, which removes an empty folder only
//!           lock is free: remove all, the lock held
//! ```
//! A cleaner that comes between two steps of a maker removes an empty folder only, or makes the maker
//! begin anew.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::geteuid;

use super::MetaError;
use super::room::{SharedGauge, leaves_reserve};
use crate::limits::SCRATCH_ATTEMPTS;

const NAME: &str = "scratch";
/// Name of the index in the folder of the metadata, and in a scratch folder.
const INDEX: &str = "index";
/// File in a scratch folder that is locked while the folder is used.
const IN_USE: &str = "in-use.lock";
/// Prefixes of the names of scratch folders among the temporary files. A random number of 16 hex
/// digits follows.
const SERVED: &str = "cstore-scratch-";
const INSPECTED: &str = "cstore-inspect-";

/// A scratch folder. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Held until the folder is removed.
    _in_use: File,
}

impl Scratch {
    /// Returns the path of the scratch folder in a folder of metadata.
    pub(super) fn path_in(dir: &Path) -> PathBuf {
        dir.join(NAME)
    }

    /// Returns the path of a scratch folder among the temporary files of the system, for a folder of
    /// metadata in which nothing can be written.
    ///
    /// # Errors
    /// That of the random generator.
    pub(super) fn path_elsewhere() -> Result<PathBuf, MetaError> {
        temporary(&std::env::temp_dir(), SERVED).map_err(MetaError::Random)
    }

    /// Makes an empty scratch folder at `path`, in which `needed` bytes will be written. If another
    /// process removes a folder among the temporary files while it is made, the folder has another name.
    ///
    /// # Errors
    /// `Full` if the file system has no room for that, `Io`, also if something is at `path`.
    pub(super) fn create(
        path: PathBuf,
        needed: u64,
        gauge: &SharedGauge,
    ) -> Result<Self, MetaError> {
        let scratch = Self::make(path).map_err(MetaError::io("make the scratch folder"))?;
        if !leaves_reserve(gauge, &scratch.path, needed) {
            tracing::warn!(
                needed,
                folder = %scratch.path.display(),
                "no room for a copy of the metadata index"
            );
            return Err(MetaError::Full);
        }
        Ok(scratch)
    }

    fn make(mut path: PathBuf) -> io::Result<Self> {
        for _ in 0..SCRATCH_ATTEMPTS {
            // The index has the key to all blocks.
            DirBuilder::new().mode(0o700).create(&path)?;
            if let Some(in_use) = lock_new(&path)? {
                return Ok(Self {
                    path,
                    _in_use: in_use,
                });
            }
            // A cleaner was quicker and is removing the folder.
            path = another(&path)?;
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Makes a scratch folder at `path` with a copy of the index that is in `dir`, if there is one.
    /// Nobody may have that index open.
    ///
    /// # Errors
    /// `Full` if the file system has no room for that, `Io`, also if something is at `path`.
    pub(super) fn with_index(
        path: PathBuf,
        dir: &Path,
        gauge: &SharedGauge,
    ) -> Result<Self, MetaError> {
        let copied = MetaError::io("copy the metadata index");
        let from = dir.join(INDEX);
        if !from.try_exists().map_err(&copied)? {
            return Self::create(path, 0, gauge);
        }
        let scratch = Self::create(path, size_of(&from).map_err(&copied)?, gauge)?;
        copy_folder(&from, &scratch.path.join(INDEX)).map_err(&copied)?;
        Ok(scratch)
    }

    /// Removes a scratch folder in a folder of metadata that a killed process has left. If that
    /// fails, the next one that is made here is refused.
    pub(super) fn remove_leftover(dir: &Path) {
        let _ = std::fs::remove_dir_all(Self::path_in(dir));
    }

    /// Removes the folder before it is dropped.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Returns a new path for the folder of an inspection, among the temporary files.
///
/// # Errors
/// That of the random generator.
pub(crate) fn path_of_inspection() -> Result<PathBuf, getrandom::Error> {
    temporary(&std::env::temp_dir(), INSPECTED)
}

/// Removes scratch folders of killed processes of this user from the temporary files, because each holds
/// a copy of the index with the key to all blocks. Blocks the thread.
///
/// Skips folders in use, folders of other users, links and files.
pub(crate) fn remove_leftovers() {
    remove_leftovers_in(&std::env::temp_dir());
}

fn remove_leftovers_in(temp: &Path) {
    let entries = match std::fs::read_dir(temp) {
        Ok(entries) => entries,
        // Nothing can be left in a folder that is not there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            let folder = temp.display();
            tracing::warn!(%folder, %error, "folder for temporary files cannot be searched for leftovers");
            return;
        }
    };
    for entry in entries.flatten() {
        if !is_scratch_name(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = entry.path();
        match remove_if_left(&path) {
            Ok(true) => {
                tracing::info!(folder = %path.display(), "removed the scratch folder of a killed process");
            }
            Ok(false) => {}
            Err(error) => {
                let folder = path.display();
                tracing::warn!(%folder, %error, "scratch folder of a killed process cannot be removed");
            }
        }
    }
}

/// Removes the scratch folder at `path` unless it is used, of another user, or no folder. Returns
/// true if it was removed.
fn remove_if_left(path: &Path) -> io::Result<bool> {
    // Another process that starts may remove the same folder.
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if gone(&error) => return Ok(false),
        found => found?,
    };
    // Follow no link: the target may be in use or belong to another user.
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Ok(false);
    }
    let in_use = match open_lock(path) {
        // The folder was just made, or belongs to an older program and may be in use.
        Err(error) if gone(&error) => {
            return Ok(std::fs::remove_dir(path).is_ok());
        }
        in_use => in_use?,
    };
    if !is_free(&in_use)? {
        return Ok(false);
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if gone(&error) => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// Makes the lock file of a new folder and locks it. Returns `None` if another process has taken the
/// folder for a leftover.
fn lock_new(folder: &Path) -> io::Result<Option<File>> {
    let path = folder.join(IN_USE);
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let in_use = match made {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        made => made?,
    };
    // A cleaner may have locked, removed and released the file before this lock.
    let is_kept = is_free(&in_use)? && in_use.metadata()?.nlink() > 0;
    Ok(is_kept.then_some(in_use))
}

fn open_lock(folder: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits();
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(folder.join(IN_USE))
}

/// Takes the lock of an open file. Returns false if another process has it.
fn is_free(in_use: &File) -> io::Result<bool> {
    match flock(in_use, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns true for a name that [`temporary`] makes.
fn is_scratch_name(name: &str) -> bool {
    let number = name
        .strip_prefix(SERVED)
        .or_else(|| name.strip_prefix(INSPECTED));
    let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    number.is_some_and(|number| number.len() == 16 && number.bytes().all(is_digit))
}

fn temporary(temp: &Path, prefix: &str) -> Result<PathBuf, getrandom::Error> {
    let number = cstore_types::nonce()?;
    Ok(temp.join(format!("{prefix}{number:016x}")))
}

/// Returns a new path like `path`, with another random number. Returns a path outside of the temporary
/// files unchanged, because no cleaner removes that folder.
fn another(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = [SERVED, INSPECTED].into_iter();
    let prefix = prefix.into_iter().find(|prefix| name.starts_with(prefix));
    match (prefix, path.parent()) {
        (Some(prefix), Some(temp)) => temporary(temp, prefix).map_err(io::Error::other),
        _ => Ok(path.to_path_buf()),
    }
}

/// Returns the bytes of all files in a folder.
fn size_of(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => size_of(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}

/// Copies a folder with all that is in it. File systems that can share the blocks of two files do.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// Makes a folder among the temporary files of the system as a killed inspection leaves it.
#[cfg(test)]
pub(crate) fn leave_temporary() -> PathBuf {
    let path = path_of_inspection().unwrap();
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join(IN_USE), b"").unwrap();
    std::fs::write(path.join(INDEX), b"key").unwrap();
    path
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// Makes a folder whose lock is free, as a killed process leaves it.
    fn leave(temp: &Path, prefix: &str) -> PathBuf {
        let made = Scratch::make(temporary(temp, prefix).unwrap()).unwrap();
        std::fs::create_dir(made.path.join(INDEX)).unwrap();
        std::fs::write(made.path.join(INDEX).join("db"), b"key").unwrap();
        let path = made.path.clone();
        flock(&made._in_use, FlockOperation::Unlock).unwrap();
        std::mem::forget(made);
        path
    }

    fn names(temp: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(temp).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn i13_folders_of_killed_processes_go_and_those_that_are_used_stay() {
        let temp = tempfile::tempdir().unwrap();
        let temp = temp.path();
        for prefix in [SERVED, INSPECTED] {
            let left = leave(temp, prefix);
            let used = Scratch::make(temporary(temp, prefix).unwrap()).unwrap();
            remove_leftovers_in(temp);
            assert!(!left.try_exists().unwrap());
            assert!(used.path.join(IN_USE).try_exists().unwrap());
            drop(used);
        }
        assert_eq!(names(temp), [""; 0]);
        remove_leftovers_in(&temp.join("missing"));
    }

    #[test]
    fn i13_everything_else_among_the_temporary_files_stays() {
        let temp = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let temp = temp.path();
        // A link to a folder that looks left, a file, names of other programs, a folder of an older
        // program, which has no lock and may be used.
        let target = leave(other.path(), SERVED);
        symlink(&target, temp.join(format!("{SERVED}{:016x}", 1))).unwrap();
        std::fs::write(temp.join(format!("{SERVED}{:016x}", 2)), b"file").unwrap();
        for name in ["cstore-scratch-", "cstore-scratch-xyz", "cstore-inspect-12"] {
            std::fs::create_dir(temp.join(name)).unwrap();
        }
        let older = temp.join(format!("{INSPECTED}{:016x}", 3));
        std::fs::create_dir_all(older.join(INDEX)).unwrap();
        // A lock that is a link to a free lock of somebody else.
        let linked = temp.join(format!("{INSPECTED}{:016x}", 4));
        std::fs::create_dir(&linked).unwrap();
        symlink(target.join(IN_USE), linked.join(IN_USE)).unwrap();

        // Only root can make a folder of another user.
        if geteuid().is_root() {
            std::os::unix::fs::chown(leave(temp, SERVED), Some(65_534), None).unwrap();
        }

        let before = names(temp);
        remove_leftovers_in(temp);
        assert_eq!(names(temp), before);
        assert!(target.join(INDEX).join("db").try_exists().unwrap());
    }

    /// A leftover holds links to the files of a folder of metadata.
    #[test]
    fn i1_targets_of_links_in_a_leftover_stay() {
        let temp = tempfile::tempdir().unwrap();
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("snapshot.bin"), b"names").unwrap();
        let left = leave(temp.path(), INSPECTED);
        symlink(data.path().join("snapshot.bin"), left.join("snapshot.bin")).unwrap();
        symlink(data.path(), left.join("data")).unwrap();
        remove_leftovers_in(temp.path());
        assert_eq!(names(temp.path()), [""; 0]);
        assert_eq!(names(data.path()), ["snapshot.bin"]);
    }

    /// A cleaner that comes between the steps of a maker.
    #[test]
    fn i12_a_folder_that_is_removed_while_it_is_made_is_made_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temporary(temp.path(), SERVED).unwrap();

        // The folder has no lock yet.
        std::fs::create_dir(&path).unwrap();
        remove_leftovers_in(temp.path());
        assert!(lock_new(&path).unwrap().is_none());

        // A cleaner holds the lock and removes.
        std::fs::create_dir(&path).unwrap();
        let held = lock_new(&path).unwrap().unwrap();
        assert!(!is_free(&open_lock(&path).unwrap()).unwrap());
        std::fs::remove_dir_all(&path).unwrap();
        assert_eq!(held.metadata().unwrap().nlink(), 0);

        let next = another(&path).unwrap();
        assert_ne!(next, path);
        assert!(is_scratch_name(
            &next.file_name().unwrap().to_string_lossy()
        ));
        let fixed = temp.path().join(NAME);
        assert_eq!(another(&fixed).unwrap(), fixed);
    }

    #[test]
    fn i12_makers_and_cleaners_at_once_lose_no_folder() {
        let temp = tempfile::tempdir().unwrap();
        let temp = temp.path();
        std::thread::scope(|scope| {
            let cleaners =
                [(); 2].map(|()| scope.spawn(|| (0..400).for_each(|_| remove_leftovers_in(temp))));
            for _ in 0..400 {
                let made = Scratch::make(temporary(temp, SERVED).unwrap()).unwrap();
                std::fs::write(made.path.join("db"), b"key").unwrap();
                assert_eq!(std::fs::read(made.path.join("db")).unwrap(), b"key");
            }
            for cleaner in cleaners {
                cleaner.join().unwrap();
            }
        });
        remove_leftovers_in(temp);
        assert_eq!(names(temp), [""; 0]);
    }

    /// Checks that a leftover that cannot be removed only causes a warning.
    #[test]
    fn i12_a_leftover_that_cannot_be_removed_ends_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let left = leave(temp.path(), SERVED);
        std::fs::set_permissions(&left, PermissionsExt::from_mode(0o500)).unwrap();
        remove_leftovers_in(temp.path());
        if geteuid().is_root() {
            return;
        }
        assert!(left.try_exists().unwrap());
        std::fs::set_permissions(&left, PermissionsExt::from_mode(0o700)).unwrap();
    }
}
