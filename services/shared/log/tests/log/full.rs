//! A log without room: what it refuses, what a retire gives back, which file is used again.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;

use cstore_log::{
    Disk, Fault, FaultyDisk, FileState, Gate, HookedDisk, Log, LogError, Options, SealedFigures,
    Urgency, Verb, frame_bytes,
};
use cstore_types::epoch::Epoch;

use crate::fixture::{EIGHTH, append, append_keys, full_files, memory, open, options};

#[test]
fn i7_a_full_log_refuses_and_goes_on_after_a_retire() {
    let (_, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    let mut kept = Vec::new();
    let full = loop {
        match append(&log, "k", vec![kept.len() as u8; 20_000], Urgency::Normal) {
            Ok(location) => kept.push(location),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, LogError::Full { .. }), "{full}");
    assert!(log.free_bytes(Urgency::Urgent) >= options().reserve_bytes);
    append(&log, "small", vec![1; 10], Urgency::Normal).unwrap();
    append(&log, "urgent", vec![1; 20_000], Urgency::Urgent).unwrap();
    assert!(log.allocated_bytes() <= options().max_bytes);
    for (n, location) in kept.iter().enumerate() {
        assert_eq!(log.read(*location).unwrap(), vec![n as u8; 20_000]);
    }
    for file in log
        .files()
        .iter()
        .filter(|file| file.state == FileState::Sealed)
        .take(3)
    {
        log.retire(file.id).unwrap();
    }
    append(&log, "again", vec![1; 20_000], Urgency::Normal).unwrap();
    assert!(matches!(log.read(kept[0]), Err(LogError::NoFile(_))));
}

#[test]
fn i7_no_space_for_a_new_file_refuses_and_does_not_poison() {
    let (faulty, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    faulty.strike(Verb::Create, 1, Fault::Enospc);
    assert!(matches!(
        append(&log, "a", vec![1; 10], Urgency::Normal),
        Err(LogError::Full { .. })
    ));
    append(&log, "a", vec![1; 10], Urgency::Normal).unwrap();
}

#[test]
fn i7_each_urgency_leaves_its_reserve_to_the_next() {
    let (_, disk) = memory();
    let options = Options {
        reserve_bytes: 96 << 10,
        compaction_bytes: 64 << 10,
        ..options()
    };
    let (log, _) = Log::open(disk, options, &mut |_| {}).unwrap();
    let fill = |urgency| {
        let mut taken = 0;
        while append(&log, "k", vec![1; 4_000], urgency).is_ok() {
            taken += 1;
        }
        taken
    };
    assert!(fill(Urgency::Normal) > 50);
    assert!(log.free_bytes(Urgency::Urgent) >= 32 << 10);
    // What an urgent group made a new file for is not there for normal ones.
    assert!(fill(Urgency::Urgent) >= 5);
    assert_eq!(fill(Urgency::Normal), 0);
    assert!(log.free_bytes(Urgency::Compaction) >= 64 << 10);
    assert!(fill(Urgency::Compaction) >= 10);
    assert!(log.allocated_bytes() <= 512 << 10);
}

/// What the allocated files do not have is asked of the file system, each time.
#[test]
fn i7_a_new_file_leaves_the_floor_of_the_file_system_to_others() {
    let (faulty, disk) = memory();
    let (total, floor) = (256 << 10, 128 << 10);
    faulty.bound(total, 0);
    let options = Options {
        reserve_bytes: 4 << 10,
        floor_bytes: floor,
        ..options()
    };
    let (log, _) = Log::open(disk, options, &mut |_| {}).unwrap();
    let fill = |urgency| while append(&log, "k", vec![1; 4_000], urgency).is_ok() {};
    fill(Urgency::Normal);
    let room = log.fs_room().unwrap();
    assert!(room.free >= floor, "{room:?}");
    assert!(!log.has_free(4_000, Urgency::Normal));
    assert!(log.has_free(4_000, Urgency::Urgent));
    fill(Urgency::Urgent);
    assert!(log.fs_room().unwrap().free < floor);
}

#[test]
fn i7_only_compaction_may_use_its_part_of_the_reserve() {
    let (_, disk) = memory();
    let options = Options {
        compaction_bytes: 48 << 10,
        ..options()
    };
    let (log, _) = Log::open(disk, options, &mut |_| {}).unwrap();
    let others = log.free_bytes(Urgency::Urgent);
    assert_eq!(
        log.free_bytes(Urgency::Compaction),
        others + log.compaction_bytes()
    );
    assert_eq!(log.compaction_bytes(), 48 << 10);
}

/// The free bytes of a file exclude the room that its footer will take.
#[test]
fn i7_the_free_bytes_of_the_last_file_can_be_appended_and_no_more() {
    let (_, disk) = memory();
    let options = Options {
        reserve_bytes: 0,
        max_bytes: options().file_bytes,
        ..options()
    };
    let (log, _) = Log::open(disk, options, &mut |_| {}).unwrap();
    let append = || append(&log, "k", vec![1; 1_000], Urgency::Normal);
    append().unwrap();
    let promised = log.free_bytes(Urgency::Normal);
    let mut taken = 0;
    while append().is_ok() {
        taken += frame_bytes(1, 1, 1_000);
    }
    assert_eq!(taken, promised);
    assert_eq!(log.free_bytes(Urgency::Normal), 0);
}

/// A file of 16 blocks: the header, 7 frames of one block and a footer of 7 blocks leave one block.
/// With an eighth frame the footer would need 8 blocks, and 17 do not fit.
#[test]
fn i7_a_file_takes_no_group_whose_keys_have_no_room_in_the_footer() {
    let (_, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    for _ in 0..8 {
        append_keys(&log, 50).unwrap();
    }
    let first = log.files().remove(0);
    assert_eq!((first.state, first.records), (FileState::Sealed, 350));
    let name = disk.list().unwrap().into_iter().min().unwrap();
    let size = disk.open(&name).unwrap().size().unwrap();
    assert_eq!((size, first.size), (options().file_bytes, size));

    log.close().unwrap();
    let (_, report, seen) = open(&disk).unwrap();
    assert_eq!((report.walked_bytes, seen.len()), (0, 400));
}

/// A file that keeps its standard size can be recycled, so a small unused end is not cut off.
#[test]
fn i7_a_sealed_file_is_cut_only_if_more_than_a_sixteenth_of_it_is_left() {
    let standard = options().file_bytes;
    let block = standard / 16;
    for (left, size) in [
        (0, standard),
        (1, standard),
        (2, standard - 2 * block),
        (3, standard - 3 * block),
    ] {
        let (_, disk) = memory();
        let (log, ..) = open(&disk).unwrap();
        // The header and the footer take a block each.
        for _ in left..14 {
            append(&log, "k", vec![1; 1_000], Urgency::Normal).unwrap();
        }
        let too_large = vec![1; left * 4_096 + 1_000];
        append(&log, "next", too_large, Urgency::Normal).unwrap();
        let sealed = log.files().remove(0);
        assert_eq!(
            (sealed.state, sealed.size),
            (FileState::Sealed, size),
            "{left} blocks left"
        );
    }
}

/// Room in two pieces, neither large enough: the end of the active file is given back for a new
/// one.
#[test]
fn i7_a_group_that_fits_no_piece_of_the_room_but_all_of_it_is_taken() {
    let (_, disk) = memory();
    let options = Options {
        reserve_bytes: 0,
        max_bytes: 96 << 10,
        ..options()
    };
    let (log, _) = Log::open(disk.clone(), options.clone(), &mut |_| {}).unwrap();
    let small = append(&log, "small", vec![1; 100], Urgency::Normal).unwrap();
    let large = append(&log, "large", vec![2; 60_000], Urgency::Normal).unwrap();
    assert!(log.allocated_bytes() <= options.max_bytes);
    let full = append(&log, "more", vec![3; 20_000], Urgency::Normal);
    assert!(matches!(full, Err(LogError::Full { .. })), "{full:?}");
    log.close().unwrap();
    let (log, _) = Log::open(disk, options, &mut |_| {}).unwrap();
    assert_eq!(log.read(small).unwrap(), vec![1; 100]);
    assert_eq!(log.read(large).unwrap(), vec![2; 60_000]);
}

#[test]
fn i7_a_crash_of_a_log_that_is_full_to_the_last_byte_opens_within_its_bound() {
    for payload in [100, 4_000, 20_000] {
        let (faulty, disk) = memory();
        let (log, ..) = open(&disk).unwrap();
        while append(&log, "k", vec![1; payload], Urgency::Compaction).is_ok() {}
        drop(log);
        let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
        let (log, report, _) = open(&disk).unwrap();
        assert_eq!(report.copied_frames, 1);
        // The copy needs a header and a footer of its own.
        assert!(
            log.allocated_bytes() <= options().max_bytes + (12 << 10),
            "{}",
            log.allocated_bytes()
        );
    }
}

#[test]
fn i6_a_failed_sync_of_the_folder_in_a_retire_poisons_and_is_never_retried() {
    for seed in 0..8 {
        let (faulty, disk) = memory();
        let (log, ..) = open(&disk).unwrap();
        let [gone, kept] = full_files(&log);
        faulty.strike(Verb::SyncDir, 1, Fault::Eio);
        assert!(matches!(log.retire(gone.file), Err(LogError::Poisoned(_))));
        assert!(log.poisoned().is_some());
        assert!(matches!(
            append(&log, "g", vec![1], Urgency::Normal),
            Err(LogError::Poisoned(_))
        ));
        let syncs = faulty.calls(Verb::SyncDir);
        let again = log.retire(gone.file);
        assert!(
            matches!(again, Err(LogError::NoFile(file)) if file == gone.file),
            "its name is another one now"
        );
        assert_eq!(faulty.calls(Verb::SyncDir), syncs);
        assert_eq!(log.read(kept).unwrap(), vec![1; EIGHTH]);
        let disk: Arc<dyn Disk> = Arc::new(faulty.power_loss(seed));
        let (log, _, seen) = open(&disk).unwrap();
        assert!(seen.len() >= 14, "{seen:?}");
        assert_eq!(log.read(kept).unwrap(), vec![1; EIGHTH]);
    }
}

#[test]
fn i7_a_spare_that_cannot_be_written_gives_its_room_back() {
    let (faulty, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    let [gone, _] = full_files(&log);
    log.retire(gone.file).unwrap();
    let allocated = log.allocated_bytes();
    assert_eq!(
        allocated,
        3 * options().file_bytes,
        "it is kept for the next one"
    );
    faulty.strike(Verb::Write, 1, Fault::Eio);
    assert!(matches!(
        append(&log, "g", vec![1; EIGHTH], Urgency::Normal),
        Err(LogError::Io { .. })
    ));
    assert_eq!(log.allocated_bytes(), allocated - options().file_bytes);
    append(&log, "g", vec![1; EIGHTH], Urgency::Normal).unwrap();
}

/// A retired file becomes the next segment. A read that began before must get the old bytes, not
/// the new ones.
#[test]
fn i8_a_file_that_is_being_read_is_not_used_again() {
    let gate = Arc::new(Gate::default());
    let disk = HookedDisk::gated(FaultyDisk::new(), &gate);
    let (log, ..) = open(&disk).unwrap();
    let [gone, _] = full_files(&log);

    std::thread::scope(|scope| {
        gate.close(Verb::Read);
        let reading = scope.spawn(|| log.read(gone).unwrap());
        gate.await_held(Verb::Read);
        log.retire(gone.file).unwrap();
        for _ in 0..14 {
            append(&log, "next", vec![3; EIGHTH], Urgency::Normal).unwrap();
        }
        gate.open(Verb::Read);
        assert!(
            reading.join().unwrap() == vec![1; EIGHTH],
            "other bytes were read"
        );
    });
}

#[derive(Debug, Default)]
struct Recorder(std::sync::Mutex<Vec<String>>);

impl cstore_log::Inventory for Recorder {
    fn sealed_figures(&self, _: u32) -> Option<SealedFigures> {
        None
    }

    fn known_holes(&self, _: u32) -> u32 {
        0
    }

    fn epoch(&self, _: u32) -> Option<Epoch> {
        None
    }

    fn highest(&self) -> u32 {
        0
    }
    fn superblock_seq(&self) -> u64 {
        0
    }
    fn recovered(&self, _: &cstore_log::RecoveryReport) {}
    fn may_read(&self, _: u32) -> bool {
        true
    }
    fn rolled(
        &self,
        sealed: Option<&cstore_log::FileInfo>,
        begun: Option<&cstore_log::FileInfo>,
    ) -> std::io::Result<()> {
        self.0.lock().unwrap().push(format!(
            "rolled {:?} {:?}",
            sealed.map(|f| f.id),
            begun.map(|f| f.id)
        ));
        Ok(())
    }
    fn leaving(&self, file: u32) -> std::io::Result<()> {
        self.0.lock().unwrap().push(format!("leaving {file}"));
        Ok(())
    }
    fn may_remove(&self, _: u32, _: &std::collections::BTreeSet<u64>) -> bool {
        true
    }
    fn gone(&self, file: u32) {
        self.0.lock().unwrap().push(format!("gone {file}"));
    }
}

#[test]
fn i4_a_file_that_may_go_is_not_listed_afterwards() {
    let gate = Arc::new(Gate::default());
    let disk = HookedDisk::gated(FaultyDisk::new(), &gate);
    let recorder = Arc::new(Recorder::default());
    let options = Options {
        reserve_bytes: 0,
        max_bytes: 96 << 10,
        inventory: Some(recorder.clone()),
        ..options()
    };
    let (log, _) = Log::open(disk, options, &mut |_| {}).unwrap();
    let small = append(&log, "small", vec![1; 100], Urgency::Normal).unwrap();
    gate.close(Verb::Create);
    std::thread::scope(|scope| {
        let large = scope.spawn(|| append(&log, "large", vec![2; 60_000], Urgency::Normal));
        gate.await_held(Verb::Create);
        // Nothing in the first file is needed: its owner gives it up.
        let _ = log.retire(small.file);
        gate.open(Verb::Create);
        large.join().unwrap().unwrap();
    });
    let calls = recorder.0.lock().unwrap().clone();
    let gone = calls.iter().position(|c| c == "gone 1");
    assert!(gone.is_none_or(|at| !calls[at..].iter().any(|c| c.starts_with("rolled Some(1)"))));
}
