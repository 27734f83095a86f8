//! Descriptors of an open disk: how many are kept, and what goes on without new ones.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::path::Path;

use cstore_log::{FaultyDisk, RealDisk};
use cstore_storage::engine::{Answer, Engine, MasterHistory};
use cstore_testkit::engine::{CAPACITY, open, open_memory, options, store};
use cstore_types::history::{Life, Point};

const LEN: usize = 60_000;
/// Files of a storage node that `ROLE_DESCRIPTORS` of the program counts as kept.
const KEPT_BESIDE_SEGMENTS: usize = 6;

/// Returns the files in a folder, or the folder itself, that this process has open.
fn open_below(folder: &Path) -> Vec<String> {
    let handles = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = handles.filter_map(|handle| std::fs::read_link(handle.unwrap().path()).ok());
    let below = targets.filter(|target| target.starts_with(folder));
    below.map(|target| target.display().to_string()).collect()
}

#[tokio::test]
async fn i12_an_open_disk_keeps_only_the_descriptors_that_its_role_counts_with() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let engine = open(RealDisk::open(&folder).unwrap(), CAPACITY).unwrap();
    for n in 0..40 {
        store(&engine, n, LEN).await.unwrap();
    }
    let kept = open_below(&folder);
    assert!(
        kept.iter().any(|path| path.ends_with("superblock.bin")),
        "{kept:?}"
    );
    let allowed = options(CAPACITY).open_files + KEPT_BESIDE_SEGMENTS;
    assert!(kept.len() <= allowed, "{kept:?}");
    engine.close().unwrap();
}

/// Checks that writes of the superblock go on after the process has used its last descriptor.
#[tokio::test]
async fn i4_a_place_in_the_history_of_the_master_is_noted_without_descriptors() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    disk.refuse_opens(true);
    for position in [10, 20, 30] {
        note(&engine, position);
    }
    drop(engine);
}

#[tokio::test]
async fn i4_a_superblock_that_is_replaced_under_a_running_node_is_written_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(RealDisk::open(folder.path()).unwrap(), CAPACITY).unwrap();
    note(&engine, 10);
    let path = folder.path().join("superblock.bin");
    let copy = folder.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    note(&engine, 20);
    assert_ne!(std::fs::read(&path).unwrap(), before);

    std::fs::remove_file(&path).unwrap();
    note(&engine, 30);
    assert!(path.try_exists().unwrap());
    engine.close().unwrap();
}

/// Notes a position of the master's history in the superblock.
fn note(engine: &Engine, position: u64) {
    let life = Life {
        term: 1,
        life: 7,
        first: 1,
        ..Life::default()
    };
    let history = MasterHistory {
        head: Point {
            term: 1,
            life: 7,
            position,
            ..Point::default()
        },
        lives: vec![life],
        accepted: None,
    };
    assert!(engine.judge().judge(&Answer {
        seen: None,
        history: Some(history),
    }));
    engine.judge().keep_noted().unwrap();
    assert!(engine.judge().is_noted_kept());
}
