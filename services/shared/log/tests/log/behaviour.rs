//! A log whose disk does not lie, on a real folder and on the one in memory.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use cstore_log::{
    Disk, Fault, FaultyDisk, FileState, Location, Log, LogError, NextEpoch, Options, RealDisk,
    Record, Urgency, Verb, file_name,
};
use cstore_types::error_chain;

use crate::fixture::{EIGHTH, append, full_files, is_zeroed, memory, open, options};

#[test]
fn records_come_back_from_a_real_folder_after_a_stop_and_after_none() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    let (log, ..) = open(&disk).unwrap();
    let first = append(&log, "a", vec![1; 5_000], Urgency::Normal).unwrap();
    log.close().unwrap();
    drop(log);
    let (log, report, seen) = open(&disk).unwrap();
    assert_eq!(
        (seen.as_slice(), report.copied_frames),
        (&[(b"a".to_vec(), first)][..], 0)
    );
    append(&log, "b", vec![2; 7], Urgency::Normal).unwrap();
    drop(log);
    let (log, report, seen) = open(&disk).unwrap();
    assert_eq!((seen.len(), report.copied_frames), (2, 1));
    assert_eq!(log.read(seen[1].1).unwrap(), vec![2; 7]);
    assert_eq!(log.read(first).unwrap(), vec![1; 5_000]);
}

#[test]
fn a_stop_keeps_no_preallocated_space_and_restarts_do_not_eat_the_disk() {
    let (_, disk) = memory();
    for _ in 0..30 {
        let (log, ..) = open(&disk).unwrap();
        assert!(
            log.allocated_bytes() <= 30 * (12 << 10),
            "{}",
            log.allocated_bytes()
        );
        append(&log, "k", vec![1; 100], Urgency::Normal).unwrap();
        log.close().unwrap();
    }
}

/// Files with a footer are not read frame by frame: otherwise the open of a large log would be
/// slow.
#[test]
fn an_open_walks_only_the_file_that_has_no_footer() {
    let (faulty, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    full_files(&log);
    drop(log);
    let killed: Arc<dyn Disk> = Arc::new(faulty.kill());
    let (_, report, seen) = open(&killed).unwrap();
    assert_eq!((report.files, seen.len()), (4, 21));
    let one_file = 1..=options().file_bytes;
    assert!(
        one_file.contains(&report.walked_bytes),
        "{}",
        report.walked_bytes
    );
}

#[test]
fn i6_a_failed_sync_poisons_and_is_never_retried() {
    let (faulty, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    let kept = append(&log, "a", vec![1; 10], Urgency::Normal).unwrap();
    faulty.strike(Verb::Sync, 1, Fault::Eio);
    assert!(matches!(
        append(&log, "b", vec![1; 10], Urgency::Normal),
        Err(LogError::Poisoned(_))
    ));
    let syncs = faulty.calls(Verb::Sync);
    assert!(matches!(
        append(&log, "c", vec![1; 10], Urgency::Normal),
        Err(LogError::Poisoned(_))
    ));
    assert_eq!(faulty.calls(Verb::Sync), syncs);
    assert_eq!(log.read(kept).unwrap(), vec![1; 10]);
}

#[test]
fn the_cause_of_a_poisoned_log_is_still_the_error_of_the_disk() {
    let (faulty, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    append(&log, "a", vec![1; 10], Urgency::Normal).unwrap();
    faulty.strike(Verb::Sync, 1, Fault::Eio);
    let error = append(&log, "b", vec![1; 10], Urgency::Normal).unwrap_err();
    let LogError::Poisoned(cause) = &error else {
        panic!("{error:?}")
    };
    let LogError::Io {
        doing: "write log frame",
        source,
        ..
    } = &**cause
    else {
        panic!("{cause:?}")
    };
    let text = error_chain(&error).to_string();
    assert_eq!(text, format!("log is poisoned: write log frame: {source}"));
}

#[test]
fn a_log_of_another_owner_is_refused_and_left_alone() {
    let (_, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    append(&log, "a", vec![1; 10], Urgency::Normal).unwrap();
    log.close().unwrap();
    let other = Options {
        owner: [8; 16],
        ..options()
    };
    let error = Log::open(disk.clone(), other, &mut |_| {}).unwrap_err();
    assert!(
        error_chain(&error).to_string().contains("another log"),
        "{error}"
    );
    assert_eq!(open(&disk).unwrap().2.len(), 1);
}

#[test]
fn i10_groups_beyond_the_bounds_are_refused_with_the_bound() {
    let (_, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    let key = "k".repeat(65).leak();
    let error = append(&log, key, vec![], Urgency::Normal).unwrap_err();
    assert_eq!(
        error.to_string(),
        "key length of a log group is 65, allowed are 64"
    );
    log.close().unwrap();
    assert!(matches!(
        append(&log, "a", vec![], Urgency::Normal),
        Err(LogError::Closed)
    ));
}

#[test]
fn a_crash_of_an_interrupted_open_loses_nothing_at_any_write() {
    for nth in 1..12 {
        for verb in [Verb::Write, Verb::Sync, Verb::Create] {
            let (faulty, disk) = memory();
            let (log, ..) = open(&disk).unwrap();
            append(&log, "a", vec![1; 10], Urgency::Normal).unwrap();
            append(&log, "b", vec![2; 10], Urgency::Normal).unwrap();
            drop(log);
            let dead = faulty.kill();
            dead.strike(verb, nth, Fault::Eio);
            let whole: Arc<dyn Disk> = Arc::new(dead.clone());
            let _ = open(&whole);
            dead.calm();
            let lost: Arc<dyn Disk> = Arc::new(dead.power_loss(nth));
            assert_eq!(open(&lost).unwrap().2.len(), 2, "{verb:?} {nth}");
        }
    }
}

#[test]
fn on_a_disk_with_one_thread_callers_write_and_all_comes_back() {
    let faulty = FaultyDisk::with_one_thread();
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let (log, _, _) = open(&disk).unwrap();
    let me = std::thread::current().id();
    let (sender, receiver) = sync_channel(1);
    let record = Record {
        kind: 1,
        key: Bytes::from_static(b"a"),
        payload: Bytes::from_static(b"1"),
    };
    let done = move |result: Result<cstore_log::Committed<'_>, LogError>| {
        sender
            .send((std::thread::current().id(), result.is_ok()))
            .unwrap();
    };
    log.append(vec![record], Urgency::Normal, Box::new(done));
    assert_eq!(
        receiver.try_recv().unwrap(),
        (me, true),
        "told before append returns, by the caller itself"
    );
    drop(log);
    let disk: Arc<dyn Disk> = Arc::new(faulty.power_loss(1));
    let (log, _, seen) = open(&disk).unwrap();
    assert_eq!(seen.len(), 1);
    append(&log, "b", vec![2; 100], Urgency::Normal).unwrap();
    log.close().unwrap();
    assert!(matches!(
        append(&log, "c", vec![3], Urgency::Normal),
        Err(LogError::Closed)
    ));
    let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
    assert_eq!(open(&disk).unwrap().2.len(), 2);
}

#[test]
fn a_directory_lists_what_a_sealed_and_a_cut_file_hold() {
    let (faulty, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    let cut: Vec<Location> = ["a", "b"]
        .map(|key| append(&log, key, vec![1; 100], Urgency::Normal).unwrap())
        .to_vec();
    assert!(
        matches!(log.directory(cut[0].file), Err(LogError::NoFile(_))),
        "the active file still grows"
    );
    drop(log);
    let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
    let (log, _, seen) = open(&disk).unwrap();
    let sealed = append(&log, "c", vec![2; 40_000], Urgency::Normal).unwrap();
    append(&log, "d", vec![3; 40_000], Urgency::Normal).unwrap();
    let listed = |log: &Log| -> Vec<(Vec<u8>, Location)> {
        let files = log
            .files()
            .into_iter()
            .filter(|file| file.state != FileState::Active);
        let entries = files.flat_map(|file| log.directory(file.id).unwrap());
        entries
            .map(|entry| (entry.key.to_vec(), entry.location))
            .collect()
    };
    // "b" was not proven: it was copied into the file that then took "c".
    let expected: Vec<(Vec<u8>, Location)> = seen
        .iter()
        .cloned()
        .chain([(b"c".to_vec(), sealed)])
        .collect();
    assert_eq!(listed(&log), expected);
    assert_eq!(
        log.files()
            .iter()
            .filter(|file| file.state == FileState::Cut)
            .count(),
        1
    );
}

#[test]
fn i6_sequences_go_on_from_the_floor_when_every_file_is_gone_and_nothing_is_lost_after_that() {
    for seed in 0..24 {
        let (mut faulty, mut disk) = memory();
        let mut floor = 0;
        let mut kept = 0;
        for round in 0..6 {
            let options = Options {
                least_seq: floor,
                ..options()
            };
            let mut seen = 0;
            let (log, report) = Log::open(disk.clone(), options, &mut |_| seen += 1).unwrap();
            assert!(
                report.last_seq >= floor,
                "seed {seed} round {round}: {report:?} below {floor}"
            );
            assert_eq!(seen, kept, "seed {seed} round {round}");
            floor = log.durable_seq();
            if (seed + round) % 3 == 0 {
                let (active, others): (Vec<_>, Vec<_>) = log
                    .files()
                    .into_iter()
                    .partition(|file| file.state == FileState::Active);
                for file in others {
                    log.retire(file.id).unwrap();
                }
                // The one that a copy of the last frame lies in.
                kept = active.len();
            }
            for _ in 0..(seed + 2 * round) % 4 {
                append(&log, "k", vec![1; 3_000], Urgency::Normal).unwrap();
                kept += 1;
            }
            // Only what was written at the start is known of, as after a kill.
            drop(log);
            faulty = if seed % 2 == 0 {
                faulty.kill()
            } else {
                faulty.power_loss(seed)
            };
            disk = Arc::new(faulty.clone());
        }
    }
}

#[test]
fn i6_a_failed_sync_of_the_folder_when_a_file_is_made_poisons() {
    for recycles in [true, false] {
        let (faulty, disk) = memory();
        let (log, ..) = open(&disk).unwrap();
        let [gone, kept] = full_files(&log);
        if recycles {
            log.retire(gone.file).unwrap();
        }
        faulty.strike(Verb::SyncDir, 1, Fault::Eio);
        assert!(matches!(
            append(&log, "g", vec![1; EIGHTH], Urgency::Normal),
            Err(LogError::Poisoned(_))
        ));
        assert!(matches!(
            append(&log, "h", vec![1], Urgency::Normal),
            Err(LogError::Poisoned(_))
        ));
        let disk: Arc<dyn Disk> = Arc::new(faulty.power_loss(1));
        let (log, _, seen) = open(&disk).unwrap();
        assert_eq!(seen.len(), if recycles { 14 } else { 21 });
        assert_eq!(log.read(kept).unwrap(), vec![1; EIGHTH]);
    }
}

/// The end of a file can be lost with its footer, so that it looks like one that was being written.
/// Only a frame that nothing proves may be missing without a word, and the next file proves all of
/// them.
#[test]
fn i6_a_proven_frame_that_is_lost_with_the_end_of_its_file_is_noticed() {
    let (faulty, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    full_files(&log);
    drop(log);
    let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
    let (log, _, seen) = open(&disk).unwrap();
    let last_of_file = seen[6].1;
    assert_ne!(last_of_file.file, seen[7].1.file);
    drop(log);

    let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
    let name = disk.list().unwrap().into_iter().min().unwrap();
    let file = disk.open(&name).unwrap();
    // Frames begin at multiples of 4 KiB.
    let start = u64::from(last_of_file.offset) / 4_096 * 4_096;
    let zeros = vec![0; usize::try_from(file.size().unwrap() - start).unwrap()];
    file.write_all_vectored_at(&[zeros.into()], start).unwrap();
    let (_, report, left) = open(&disk).unwrap();
    let holes: Vec<_> = report.holes.iter().map(|hole| hole.seqs).collect();
    assert_eq!(holes, [(7, 7)]);
    assert_eq!(left.len() + 1, seen.len());
}

/// A person may restore a crashed file as it was before an open cut it. Sequences of later epochs
/// do not prove that the file had one more frame.
#[test]
fn i12_a_crashed_file_that_is_put_back_uncut_has_lost_nothing() {
    let in_epoch = |number: u32| Options {
        epoch: Some(NextEpoch {
            least: number,
            nonce: number.into(),
        }),
        ..options()
    };
    let (faulty, disk) = memory();
    let (log, _) = Log::open(disk, in_epoch(1), &mut |_| {}).unwrap();
    for key in ["a", "b", "c"] {
        append(&log, key, vec![1; 100], Urgency::Normal).unwrap();
    }
    drop(log);

    let faulty = faulty.kill();
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let name = disk.list().unwrap().remove(0);
    let file = disk.open(&name).unwrap();
    let mut uncut = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_exact_at(&mut uncut, 0).unwrap();
    let (log, _) = Log::open(disk, in_epoch(2), &mut |_| {}).unwrap();
    for key in ["d", "e"] {
        append(&log, key, vec![1; 100], Urgency::Normal).unwrap();
    }
    drop(log);

    let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
    let file = disk.open(&name).unwrap();
    assert!(file.size().unwrap() < uncut.len() as u64);
    file.write_all_vectored_at(&[uncut.into()], 0).unwrap();
    file.sync_data().unwrap();
    let mut seen = Vec::new();
    let opened = Log::open(disk, in_epoch(3), &mut |record| {
        seen.push(record.key.to_vec())
    });
    let (_, report) = opened.unwrap();
    assert!(!report.is_damaged(), "{report:?}");
    // The last frame of the file was unproven: the open of epoch 2 has copied the frame, and only
    // the copy counts.
    assert_eq!(seen.concat(), b"abcde");
}

#[test]
fn zeros_lie_behind_small_frames_and_not_behind_large_ones() {
    const BLOCK: u64 = 4_096;
    let (faulty, disk) = memory();
    let options = Options {
        file_bytes: 1 << 20,
        max_bytes: 8 << 20,
        ..options()
    };
    let (log, _) = Log::open(disk, options, &mut |_| {}).unwrap();
    let put = |len| append(&log, "k", vec![1; len], Urgency::Normal).unwrap();
    let small = || assert_eq!(put(1).len, 1);
    let large = || assert_eq!(put(100_000).len, 100_000);
    // Frames of a block each; behind the third lie as many zeros as the three have bytes.
    let file = put(1).file;
    put(1);
    assert!(is_zeroed(&faulty, file, 6 * BLOCK, small));
    assert!(!is_zeroed(&faulty, file, 40 * BLOCK, large));
    // The run of small frames begins again: one block.
    let next = u64::from(put(1).offset) / BLOCK + 2;
    assert!(!is_zeroed(&faulty, file, (next + 4) * BLOCK, small));
}

#[test]
fn a_recycled_file_keeps_its_content_behind_the_frames() {
    let (faulty, disk) = memory();
    let (log, ..) = open(&disk).unwrap();
    let [retired, _] = full_files(&log);
    log.retire(retired.file).unwrap();
    let files = || log.files().len();
    let before = files();
    let mut last = retired;
    while files() == before {
        last = append(&log, "k", vec![2; EIGHTH], Urgency::Normal).unwrap();
    }
    let handle = Disk::open(&faulty, &file_name(last.file)).unwrap();
    let mut behind = [0; EIGHTH];
    handle.read_exact_at(&mut behind, 12 << 10).unwrap();
    assert!(behind.contains(&1), "the payloads of the retired file");
}
