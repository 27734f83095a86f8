//! A folder for an index that is not the one of the metadata: a copy of it, or one made anew.
//!
//! sled writes to an index as soon as it is opened. While snapshot and log have a hole, the index
//! may be the only place that knows some names, so it is looked at in a copy. The copy is removed
//! with its last user; one that a killed process has left is removed by the next open.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::MetaError;
use super::room::{SharedGauge, leaves_reserve};

const NAME: &str = "scratch";
/// Name of the index in the folder of the metadata, and in a scratch folder.
const INDEX: &str = "index";

/// A scratch folder. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

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
        let nonce = cstore_types::nonce().map_err(MetaError::Random)?;
        Ok(std::env::temp_dir().join(format!("cstore-{NAME}-{nonce:016x}")))
    }

    /// Makes an empty scratch folder at `path`, in which `needed` bytes will be written.
    ///
    /// # Errors
    /// `Full` if the file system has no room for that, `Io`, also if something is at `path`.
    pub(super) fn create(
        path: PathBuf,
        needed: u64,
        gauge: &SharedGauge,
    ) -> Result<Self, MetaError> {
        // The index has the key to all blocks.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(MetaError::io("make the scratch folder"))?;
        let scratch = Self(path);
        if !leaves_reserve(gauge, &scratch.0, needed) {
            tracing::warn!(
                needed,
                folder = %scratch.0.display(),
                "no room for a copy of the metadata index"
            );
            return Err(MetaError::Full);
        }
        Ok(scratch)
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
        copy_folder(&from, &scratch.0.join(INDEX)).map_err(&copied)?;
        Ok(scratch)
    }

    /// Removes a scratch folder in a folder of metadata that a killed process has left. If that
    /// fails, the next one that is made here is refused.
    pub(super) fn remove_leftover(dir: &Path) {
        let _ = std::fs::remove_dir_all(Self::path_in(dir));
    }

    /// Removes the folder before it is dropped.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
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
