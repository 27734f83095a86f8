//! Verdicts: a block whose record is damaged counts as missing until it is put again, also after
//! restarts, so that an acknowledged upload of it reads back.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;

use cstore_log::{Fault, FaultyDisk, Gate, HookedDisk, Verb};
use cstore_node::shutdown::spawn;
use cstore_storage::EngineError;
use cstore_storage::engine::{Engine, PutOutcome, SealOutcome};
use cstore_testkit::engine::{CAPACITY, numbered, open, open_memory, store};
use cstore_testkit::session;
use cstore_types::PartNo;

use crate::compaction::{compact, pad, rot};

pub(crate) const LEN: usize = 5_000;

pub(crate) fn is_damaged(engine: &Engine, n: u64) -> bool {
    match engine.read_block(&numbered(n, LEN).id) {
        Ok(bytes) => {
            assert_eq!(bytes, numbered(n, LEN).bytes);
            false
        }
        Err(EngineError::DataLoss) => true,
        Err(error) => panic!("{error:?}"),
    }
}

/// Closes the disk, or kills its process, and opens it again.
pub(crate) fn again(engine: Engine, disk: &mut FaultyDisk, is_clean: bool) -> Engine {
    if is_clean {
        engine.close().unwrap();
    }
    drop(engine);
    *disk = disk.kill();
    open_memory(disk, CAPACITY).unwrap()
}

/// Uploads the block of a number again, as the file of another session.
pub(crate) async fn upload(engine: &Engine, as_session: u64, n: u64) -> bool {
    let block = numbered(n, LEN);
    let outcome = engine
        .put_seal(
            session(as_session),
            PartNo(0),
            vec![block.id],
            vec![block.clone()],
        )
        .await;
    assert!(
        matches!(outcome, Ok(SealOutcome::Sealed { .. })),
        "{outcome:?}"
    );
    engine.read_block(&block.id).is_ok()
}

/// Scenario 15 of the design of doubt.
#[tokio::test]
async fn i8_s15_a_rotten_block_that_is_uploaded_again_reads_back_also_after_restarts() {
    for is_clean in [true, false] {
        let mut disk = FaultyDisk::new();
        let engine = open_memory(&disk, CAPACITY).unwrap();
        store(&engine, 0, LEN).await.unwrap();
        store(&engine, 1, LEN).await.unwrap();
        pad(&engine, 10).await;
        rot(&disk, 0);
        assert!(is_damaged(&engine, 0) && !is_damaged(&engine, 1));

        // Known in every later life, also when the bytes are not read first.
        let mut engine = engine;
        for _ in 0..3 {
            engine = again(engine, &mut disk, is_clean);
            let missing =
                engine.missing_blocks(session(9), &[numbered(0, LEN).id, numbered(1, LEN).id]);
            assert_eq!(missing, [true, false]);
            engine.unpin(session(9));
        }
        assert!(upload(&engine, 100, 0).await);
        for life in 0..3 {
            engine = again(engine, &mut disk, is_clean);
            assert!(!is_damaged(&engine, 0), "life {life}");
        }

        // The older name goes: the count of both was kept.
        engine.releaser().release(session(0)).await.unwrap();
        engine = again(engine, &mut disk, is_clean);
        assert!(!is_damaged(&engine, 0));
        engine.releaser().release(session(100)).await.unwrap();
        assert!(matches!(
            engine.read_block(&numbered(0, LEN).id),
            Err(EngineError::NotFound)
        ));
    }
}

#[tokio::test]
async fn i8_a_verdict_outlives_the_compaction_of_its_segment() {
    let mut disk = FaultyDisk::new();
    let mut engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, LEN).await.unwrap();
    pad(&engine, 10).await;
    rot(&disk, 0);
    assert!(is_damaged(&engine, 0));
    for round in 3..7 {
        pad(&engine, round * 20).await;
        compact(&engine).await;
        engine.recycler().reclaim();
    }
    engine = again(engine, &mut disk, false);
    let missing = engine.missing_blocks(session(9), &[numbered(0, LEN).id]);
    assert_eq!(missing, [true]);

    // Once it is healed the rotten record goes with its segment, and the verdict after it.
    assert!(upload(&engine, 100, 0).await);
    engine.unpin(session(9));
    for round in 7..10 {
        pad(&engine, round * 20).await;
        compact(&engine).await;
        engine.recycler().reclaim();
    }
    assert_eq!(engine.compactor().stats().pinned_files, 0);
    engine = again(engine, &mut disk, false);
    assert!(!is_damaged(&engine, 0));
}

#[tokio::test]
async fn i8_a_read_that_fails_once_is_no_verdict() {
    for fault in [Fault::Eio, Fault::Emfile] {
        let disk = FaultyDisk::new();
        let engine = open_memory(&disk, CAPACITY).unwrap();
        store(&engine, 0, LEN).await.unwrap();
        disk.strike(Verb::Read, 1, fault);
        assert!(!is_damaged(&engine, 0), "{fault:?}");
        assert_eq!(engine.counters().damaged_blocks.get(), 0, "{fault:?}");
    }
}

/// Without a descriptor nobody can tell whether the block is good.
#[tokio::test]
async fn i8_a_block_that_cannot_be_read_for_want_of_descriptors_is_not_damaged() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, LEN).await.unwrap();
    for nth in 1..=20 {
        disk.strike(Verb::Read, nth, Fault::Emfile);
    }
    let refused = engine.read_block(&numbered(0, LEN).id).unwrap_err();
    assert!(matches!(refused, EngineError::Busy(_)), "{refused:?}");
    disk.calm();
    assert!(!is_damaged(&engine, 0));
    assert_eq!(engine.counters().damaged_blocks.get(), 0);
}

/// A verdict that cannot be written is found again, and does no harm.
#[tokio::test]
async fn i8_a_disk_that_takes_no_writes_still_tells_damage() {
    let mut disk = FaultyDisk::with_one_thread();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, LEN).await.unwrap();
    store(&engine, 1, LEN).await.unwrap();
    pad(&engine, 10).await;
    rot(&disk, 0);
    disk.strike(Verb::Write, 1, Fault::Eio);
    assert!(is_damaged(&engine, 0) && !is_damaged(&engine, 1));
    let engine = again(engine, &mut disk, false);
    assert!(is_damaged(&engine, 0) && !is_damaged(&engine, 1));
    let block = numbered(0, LEN);
    let put = engine.put_blocks(session(5), vec![block]).await;
    assert!(matches!(put[..], [PutOutcome::Stored]));
    assert!(!is_damaged(&engine, 0));
}

/// Something is in doubt on a disk that rots: nobody has read the rotten block yet, and an upload
/// must not rest on it.
#[tokio::test]
async fn i8_an_upload_to_a_disk_in_doubt_rests_on_no_block_that_was_not_read() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, LEN).await.unwrap();
    store(&engine, 1, LEN).await.unwrap();
    pad(&engine, 10).await;
    engine.close().unwrap();
    drop(engine);
    rot(&disk, 0);

    let held = disk.kill();
    cstore_log::Disk::remove(&held, "inventory.bin").unwrap();
    let engine = open_memory(&held, CAPACITY).unwrap();
    assert!(engine.hold().is_held());
    // Sent along, it is stored anew; named only, it is asked for.
    let blocks = [numbered(0, LEN), numbered(1, LEN)];
    let ids: Vec<_> = blocks.iter().map(|block| block.id).collect();
    let named = engine.put_seal(session(100), PartNo(0), ids.clone(), Vec::new());
    let refused = named.await.unwrap();
    assert!(
        matches!(&refused, SealOutcome::Missing(which) if *which == [0]),
        "{refused:?}"
    );
    assert!(upload(&engine, 101, 0).await);
    assert!(upload(&engine, 102, 1).await);
    assert_eq!(engine.counters().damaged_blocks.get(), 1);
}

/// Twelve blocks that stay, around one that rots: their segment is there for long.
async fn rotten_among_others(disk: &FaultyDisk) -> Engine {
    let engine = open_memory(disk, CAPACITY).unwrap();
    store(&engine, 0, LEN).await.unwrap();
    for n in 1_000..1_012 {
        store(&engine, n, 20_000).await.unwrap();
    }
    pad(&engine, 10).await;
    rot(disk, 0);
    assert!(is_damaged(&engine, 0));
    engine
}

async fn churn(engine: &Engine) {
    for round in 3..7 {
        pad(engine, round * 20).await;
        compact(engine).await;
        engine.recycler().reclaim();
    }
}

/// The rotten record stays behind in its segment when its block is freed, and a restart may meet it
/// as the only one.
#[tokio::test]
async fn i8_a_verdict_outlives_its_block_as_long_as_the_rotten_record_is_there() {
    for is_healed_first in [false, true] {
        for is_clean in [true, false] {
            let mut disk = FaultyDisk::new();
            let mut engine = rotten_among_others(&disk).await;
            pad(&engine, 40).await;
            if is_healed_first {
                assert!(upload(&engine, 100, 0).await);
                engine.releaser().release(session(100)).await.unwrap();
            }
            engine.releaser().release(session(0)).await.unwrap();
            churn(&engine).await;
            engine = again(engine, &mut disk, is_clean);
            assert!(
                upload(&engine, 101, 0).await,
                "{is_healed_first}, {is_clean}"
            );
        }
    }
}

/// The bytes are there: what failed was the way to them.
#[tokio::test]
async fn i8_a_block_that_reads_well_again_is_read() {
    let mut disk = FaultyDisk::new();
    let mut engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, LEN).await.unwrap();
    pad(&engine, 10).await;
    for nth in 1..=2 {
        disk.strike(Verb::Read, nth, Fault::Eio);
    }
    assert!(is_damaged(&engine, 0));
    disk.calm();
    engine = again(engine, &mut disk, true);
    // Nobody has read it in this life: an upload is on the safe side.
    assert_eq!(
        engine.missing_blocks(session(9), &[numbered(0, LEN).id]),
        [true]
    );
    assert!(!is_damaged(&engine, 0));
    assert_eq!(
        engine.missing_blocks(session(9), &[numbered(0, LEN).id]),
        [false]
    );
}

/// A record fails, its block is uploaded again, and a download reads the record well before the new
/// one is durable. The next start would take the old record for damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_a_fresh_copy_of_a_block_counts_although_the_damaged_one_has_read_well_since() {
    let faulty = FaultyDisk::new();
    let gate = Arc::new(Gate::default());
    let engine = open(HookedDisk::gated(faulty.clone(), &gate), CAPACITY).unwrap();
    store(&engine, 0, LEN).await.unwrap();
    pad(&engine, 10).await;
    for nth in 1..=2 {
        faulty.strike(Verb::Read, nth, Fault::Eio);
    }
    assert!(is_damaged(&engine, 0));
    faulty.calm();

    gate.close(Verb::Sync);
    let writing = engine.clone();
    let put = spawn("put", async move { upload(&writing, 5_000, 0).await });
    gate.await_held(Verb::Sync);
    let reading = engine.clone();
    let reads_well = std::thread::spawn(move || !is_damaged(&reading, 0));
    assert!(reads_well.join().unwrap());
    gate.open(Verb::Sync);
    assert!(put.await.unwrap(), "it reads back");

    rot(&faulty, 0);
    assert!(!is_damaged(&engine, 0));
    for round in 3..9 {
        pad(&engine, round * 20).await;
        compact(&engine).await;
        engine.recycler().reclaim();
    }
    drop(engine);
    let engine = open_memory(&faulty.kill(), CAPACITY).unwrap();
    assert!(!is_damaged(&engine, 0));
}

/// Each verdict takes a frame of its own when blocks are read one after the other, more than a full
/// disk has room for.
#[tokio::test]
async fn i1_verdicts_that_a_full_disk_did_not_take_are_written_later_and_at_the_stop() {
    const ROTTEN: u64 = 200;
    for is_clean in [true, false] {
        let mut disk = FaultyDisk::new();
        let engine = open_memory(&disk, CAPACITY).unwrap();
        let mut n = 0;
        while store(&engine, n, LEN).await.is_ok() {
            engine.unpin(session(n));
            n += 1;
        }
        for rotten in 0..ROTTEN {
            rot(&disk, rotten);
        }
        assert!((0..ROTTEN).all(|n| is_damaged(&engine, n)));
        for freed in ROTTEN..n {
            engine.releaser().release(session(freed)).await.unwrap();
            engine.recycler().reclaim();
        }
        if !is_clean {
            // As the sweeper does at its next tick.
            engine.keep_verdicts();
        }

        let engine = again(engine, &mut disk, is_clean);
        let ids: Vec<_> = (0..ROTTEN).map(|n| numbered(n, LEN).id).collect();
        let missing = engine.missing_blocks(session(9_000), &ids);
        assert!(missing.iter().all(|is_missing| *is_missing));
        for n in 0..ROTTEN {
            assert!(upload(&engine, 10_000 + n, n).await, "block {n}");
        }
    }
}
