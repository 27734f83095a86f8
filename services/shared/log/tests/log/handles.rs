//! A log has more files than it may keep open.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::path::Path;

use cstore_log::{Fault, Location, Log, LogError, Options, RealDisk, Urgency, Verb};

use crate::fixture::{EIGHTH, append, memory, options};

const OPEN_FILES: usize = 3;

fn many() -> Options {
    Options {
        max_bytes: 8 << 20,
        open_files: OPEN_FILES,
        ..options()
    }
}

/// Returns the number of files of a folder that this process has open.
fn open_below(folder: &Path) -> usize {
    let handles = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = handles.filter_map(|handle| std::fs::read_link(handle.unwrap().path()).ok());
    targets
        .filter(|target| target.starts_with(folder) && target != folder)
        .count()
}

#[test]
fn i12_an_open_log_keeps_no_more_files_open_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    let (log, _) = Log::open(disk.clone(), many(), &mut |_| {}).unwrap();
    let write = |n: u8| append(&log, "k", vec![n; EIGHTH], Urgency::Normal).unwrap();
    let written: Vec<Location> = (0..100).map(write).collect();
    assert!(log.files().len() > 3 * OPEN_FILES);
    // The file that takes frames is open beside those that are kept.
    assert!(open_below(dir.path()) <= OPEN_FILES + 1);
    drop(log);

    let (log, report) = Log::open(disk, many(), &mut |_| {}).unwrap();
    assert!(report.records >= 100);
    for round in 0..2 {
        for (n, location) in written.iter().enumerate() {
            let Ok(read) = log.read(*location) else {
                // The last frame was copied.
                assert_eq!(n, 99, "round {round}");
                continue;
            };
            assert_eq!(read, vec![n as u8; EIGHTH]);
            assert!(open_below(dir.path()) <= OPEN_FILES + 1);
        }
    }
    let gone = written[0].file;
    log.retire(gone).unwrap();
    assert!(log.read(written[0]).is_err());
    let path = dir.path().join(cstore_log::file_name(gone));
    assert!(!path.try_exists().unwrap());
    assert!(
        open_below(dir.path()) <= OPEN_FILES + 1,
        "a retired file is closed"
    );
}

#[test]
fn i12_files_are_read_although_others_took_all_descriptors() {
    let (faulty, disk) = memory();
    let (log, _) = Log::open(disk, many(), &mut |_| {}).unwrap();
    let write = |n: u8| append(&log, "k", vec![n; EIGHTH], Urgency::Normal).unwrap();
    let written: Vec<Location> = (0..100).map(write).collect();
    for n in [0, 20, 40] {
        // The log closes what it has, and tries once more.
        faulty.strike(Verb::Open, 1, Fault::Emfile);
        assert_eq!(log.read(written[n]).unwrap(), vec![n as u8; EIGHTH]);
    }
    for nth in [1, 2] {
        faulty.strike(Verb::Open, nth, Fault::Emfile);
    }
    let refused = log.read(written[60]).unwrap_err();
    assert!(matches!(refused, LogError::Io { .. }), "{refused:?}");
    assert_eq!(log.read(written[60]).unwrap(), vec![60; EIGHTH]);
    append(&log, "k", vec![1; EIGHTH], Urgency::Normal).unwrap();
}
