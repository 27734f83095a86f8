//! Segment files: how much of each is still needed.

use std::collections::{HashMap, HashSet};

use cstore_log::Location;

use super::records::record_overhead;

/// The needed part of one segment file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FileUse {
    /// Needed records.
    pub(crate) live: u64,
    /// Their bytes, with directory entries.
    pub(crate) bytes: u64,
}

/// All segment files that hold needed records.
#[derive(Debug, Default)]
pub(super) struct FileTable {
    files: HashMap<u32, FileUse>,
    /// Files that hold something damaged. They are never emptied, so that a person can look at
    /// them.
    damaged: HashSet<u32>,
    /// Records that were needed once and are not any more, since the start.
    died: u64,
}

impl FileTable {
    /// Counts a needed record whose key has `key_len` bytes.
    pub(super) fn add(&mut self, location: Location, key_len: u64) {
        let file = self.files.entry(location.file).or_default();
        file.live += 1;
        file.bytes += u64::from(location.len) + record_overhead(key_len);
    }

    /// Counts a record that is not needed any more.
    pub(super) fn drop_record(&mut self, location: Location, key_len: u64) {
        self.died += 1;
        if let Some(file) = self.files.get_mut(&location.file) {
            file.live = file.live.saturating_sub(1);
            file.bytes = file
                .bytes
                .saturating_sub(u64::from(location.len) + record_overhead(key_len));
        }
    }

    pub(super) fn usage(&self, file: u32) -> FileUse {
        self.files.get(&file).copied().unwrap_or_default()
    }

    /// Returns true if the file holds or held needed records and is not gone.
    pub(super) fn contains(&self, file: u32) -> bool {
        self.files.contains_key(&file)
    }

    pub(super) fn died(&self) -> u64 {
        self.died
    }

    pub(super) fn mark_damaged(&mut self, file: u32) {
        self.damaged.insert(file);
    }

    pub(super) fn damaged(&self) -> &HashSet<u32> {
        &self.damaged
    }

    /// Forgets a file that is gone.
    pub(super) fn remove(&mut self, file: u32) {
        self.files.remove(&file);
        self.damaged.remove(&file);
    }
}
