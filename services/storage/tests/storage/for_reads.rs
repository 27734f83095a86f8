//! A disk that takes no writes: what can be read is served, and nothing that lies in memory passes
//! for durable.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;

use cstore_log::{Disk, Fault, FaultyDisk, Verb};
use cstore_storage::engine::{Answer, Engine, EngineError, OpenError, peek};
use cstore_testkit::engine::{CAPACITY, numbered, open_memory, store};
use cstore_testkit::session;
use cstore_types::PartNo;

use crate::hold::{contents, names, segments, take_file};

const N_FILES: u64 = 5;
const LEN: usize = 60_000;

/// A disk with files whose process was killed.
async fn killed() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 0..N_FILES {
        store(&engine, n, LEN).await.unwrap();
    }
    drop(engine);
    disk.kill()
}

fn is_whole(engine: &Engine) -> bool {
    (0..N_FILES).all(|n| {
        let block = numbered(n, LEN);
        engine
            .read_block(&block.id)
            .is_ok_and(|bytes| bytes == block.bytes)
    })
}

fn is_clean(disk: &FaultyDisk) -> bool {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    peek(&disk, "memory").unwrap().unwrap().clean
}

/// Returns every byte of a disk.
fn bytes_of(disk: &FaultyDisk) -> Vec<(String, Vec<u8>)> {
    let below = segments(disk);
    let inside = names(&below).into_iter();
    let inside = inside.map(|name| (name.clone(), contents(&*below, &name)));
    let beside = ["superblock.bin", "inventory.bin"];
    let beside = beside.map(|name| (name.to_owned(), contents(disk, name)));
    inside.chain(beside).collect()
}

#[tokio::test]
async fn i12_a_disk_that_takes_no_writes_serves_reads_and_says_when_it_takes_them_again() {
    let disk = killed().await;
    let before = bytes_of(&disk);
    disk.refuse_writes(true);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(engine.is_for_reads());
    assert!(engine.read_only().unwrap().contains("takes no writes"));
    assert!(engine.failure().is_none(), "a restart heals nothing yet");
    assert!(is_whole(&engine));

    let refused = store(&engine, 100, LEN).await;
    assert!(
        matches!(refused, Err(EngineError::ReadOnly(_))),
        "{refused:?}"
    );
    let refused = engine.releaser().release(session(0)).await;
    assert!(refused.is_err(), "{refused:?}");
    engine.recycler().reclaim();
    assert!(is_whole(&engine));
    assert!(!engine.takes_writes_again());
    engine.close().unwrap();
    assert_eq!(bytes_of(&disk), before);

    disk.refuse_writes(false);
    assert!(engine.takes_writes_again());
    drop(engine);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(!engine.is_for_reads());
    assert!(is_whole(&engine));
    store(&engine, 100, LEN).await.unwrap();
    engine.releaser().release(session(0)).await.unwrap();
}

/// A reader holds the lock shared, which keeps a writer out.
#[tokio::test]
async fn i1_a_disk_is_opened_for_reads_by_no_second_process_that_writes() {
    let disk = killed().await;
    disk.refuse_writes(true);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    disk.refuse_writes(false);
    let second = open_memory(&disk, CAPACITY);
    assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
    drop(engine);
    assert!(is_whole(&open_memory(&disk, CAPACITY).unwrap()));
}

/// Damage is a doubt even if the superblock cannot record it.
#[tokio::test]
async fn i8_a_disk_for_reads_says_what_is_missing_at_each_open() {
    let disk = killed().await;
    let folder = segments(&disk);
    let taken = take_file(&*folder, &names(&folder)[0]);
    assert!(!taken.is_empty());
    disk.refuse_writes(true);
    for _ in 0..2 {
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert!(engine.is_for_reads());
        assert_eq!(engine.hold().doubts().len(), 1);
    }
    disk.refuse_writes(false);
    assert_eq!(
        open_memory(&disk, CAPACITY).unwrap().hold().doubts().len(),
        1
    );
}

#[tokio::test]
async fn i6_a_log_that_failed_writes_no_clean_mark_and_no_counts() {
    for verb in [Verb::Write, Verb::Sync] {
        let disk = killed().await;
        let engine = open_memory(&disk, CAPACITY).unwrap();
        store(&engine, 50, LEN).await.unwrap();
        disk.strike(verb, 1, Fault::Eio);
        let failed = store(&engine, 51, LEN).await;
        assert!(
            matches!(failed, Err(EngineError::ReadOnly(_))),
            "{failed:?}"
        );
        assert!(engine.failure().is_some(), "{verb:?}");
        engine.close().unwrap();
        assert!(!is_clean(&disk), "{verb:?}");
        let beside = Disk::list(&disk).unwrap();
        assert!(!beside.contains(&"bitmap.bin".to_owned()), "{beside:?}");
        drop(engine);
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert!(is_whole(&engine), "{verb:?}");
        engine.close().unwrap();
        assert!(is_clean(&disk));
    }
}

/// An identity that lies in memory is another one at each start, and the master would remember the
/// first.
#[test]
fn i4_an_empty_disk_that_takes_no_writes_is_not_formatted_in_memory() {
    let disk = FaultyDisk::new();
    disk.refuse_writes(true);
    assert!(open_memory(&disk, CAPACITY).is_err());
}

/// The sequence that a disk reports is what the master remembers, if a person has accepted its age.
#[tokio::test]
async fn i4_the_next_open_holds_what_a_disk_for_reads_has_reported() {
    let disk = killed().await;
    disk.refuse_writes(true);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let reported = engine.judge().seal_point(engine.seal_seq());
    drop(engine);
    disk.refuse_writes(false);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let answer = Answer {
        seen: Some(reported.into()),
        history: None,
    };
    assert!(engine.judge().judge(&answer), "{reported}");
    assert!(!engine.hold().is_held());
}

/// A seal that asked for blocks would have them refused.
#[tokio::test]
async fn i1_a_seal_on_a_disk_that_takes_no_writes_is_refused_and_asks_for_no_blocks() {
    let disk = killed().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    disk.strike(Verb::Sync, 1, Fault::Eio);
    store(&engine, 50, LEN).await.unwrap_err();
    let missing = vec![numbered(99, LEN).id];
    let refused = engine
        .put_seal(session(99), PartNo(0), missing.clone(), Vec::new())
        .await;
    assert!(
        matches!(refused, Err(EngineError::ReadOnly(_))),
        "{refused:?}"
    );
    drop(engine);

    let disk = disk.kill();
    disk.refuse_writes(true);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(engine.is_for_reads());
    let refused = engine
        .put_seal(session(99), PartNo(0), missing, Vec::new())
        .await;
    assert!(
        matches!(refused, Err(EngineError::ReadOnly(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn i12_the_file_of_a_probe_that_was_killed_is_removed_by_the_next_open() {
    let disk = killed().await;
    Disk::create(&disk, "write.probe", 4_096).unwrap();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let beside = Disk::list(&disk).unwrap();
    assert!(!beside.contains(&"write.probe".to_owned()), "{beside:?}");
    assert!(is_whole(&engine));
}
