//! Folders of the operating system, as a test compares them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Returns all files and folders below `folder`, itself included, with their times of change and
/// bytes.
///
/// # Panics
/// If something cannot be read.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let changed = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    found.insert(folder.to_path_buf(), (changed(folder), Vec::new()));
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path.clone(), (changed(&path), bytes));
        }
    }
    found
}
