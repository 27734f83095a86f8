//! I7 at its edges: what could leave a full disk full for ever, whatever is released.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail loudly and prints what it did"
)]

use std::collections::HashMap;

use cstore_log::{Disk, FaultyDisk};
use cstore_storage::EngineError;
use cstore_storage::engine::{CompactStep, Engine, Need, PutOutcome};
use cstore_testkit::engine::{mark, numbered, open_memory};
use cstore_testkit::session;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

async fn store(engine: &Engine, n: u64, len: usize) -> Result<(), EngineError> {
    cstore_testkit::engine::store(engine, n, len).await?;
    engine.unpin(session(n));
    Ok(())
}

/// Stores until the disk is full; answers how many.
async fn fill(engine: &Engine, len: usize) -> u64 {
    let mut n = 0;
    while store(engine, n, len).await.is_ok() {
        n += 1;
    }
    n
}

/// Numbers below `n`, each far from the one before it.
fn spread(n: u64) -> Vec<u64> {
    let bits = 64 - n.leading_zeros();
    let reversed = (0..1u64 << bits).map(|k| k.reverse_bits() >> (64 - bits));
    reversed.filter(|k| *k < n).collect()
}

/// Releases all of these; answers the first failure.
async fn release_all(engine: &Engine, order: &[u64]) -> Result<(), String> {
    for (at, n) in order.iter().enumerate() {
        if let Err(error) = engine.releaser().release(session(*n)).await {
            return Err(format!(
                "release {at} of {}: {error}, {:?}",
                order.len(),
                engine.compactor().stats()
            ));
        }
    }
    Ok(())
}

/// Whoever looks for room retires the segment whose last record has just been copied; what comes
/// back with it is not promised a second time, so it cannot be taken from under the next copy.
#[tokio::test]
async fn i7_room_that_another_request_wins_back_is_promised_once() {
    let engine = open_memory(&FaultyDisk::new(), 24 << 20).unwrap();
    let len = 50_000;
    let mut n = fill(&engine, len).await;
    // Every segment is a seventh dead.
    let (gone, mut held): (Vec<u64>, Vec<u64>) = (0..n).partition(|n| n % 7 == 0);
    release_all(&engine, &gone).await.unwrap();
    for round in 0..6 {
        loop {
            let retired = engine.counters().retired_files.get();
            if !matches!(
                engine.compactor().step(Need::Short).await.unwrap(),
                CompactStep::Moved(_)
            ) {
                break;
            }
            engine.recycler().reclaim();
            if engine.counters().retired_files.get() > retired {
                break;
            }
        }
        // Only puts now: nobody says that the copy has come to its end.
        while engine.compactor().space().free > 140_000 && store(&engine, n, len).await.is_ok() {
            held.push(n);
            n += 1;
        }
        let _ = engine.compactor().step(Need::Now).await.unwrap();
        assert_eq!(engine.compactor().stats().missing_bytes, 0, "round {round}");
    }
    let mut rng = StdRng::seed_from_u64(cstore_testkit::seed(3));
    while !held.is_empty() {
        let n = held.swap_remove(rng.random_range(0..held.len()));
        release_all(&engine, &[n]).await.unwrap();
    }
}

/// Flips a byte of the last block of each of some segments; answers the blocks.
fn damage(disk: &FaultyDisk, segments: usize, blocks: u64) -> Vec<u64> {
    let folder = Disk::subdir(disk, "segments").unwrap();
    let mut names = folder.list().unwrap();
    names.sort();
    let starts: HashMap<[u8; 16], u64> = (0..blocks).map(|n| (mark(n), n)).collect();
    let mut hurt = Vec::new();
    for name in names.iter().skip(3).take(segments) {
        let file = folder.open(name).unwrap();
        let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let mut windows = bytes.windows(16).enumerate().rev();
        let found = windows.find_map(|(at, window)| Some((*starts.get(window)?, at)));
        let (n, at) = found.unwrap();
        disk.rot(&format!("segments/{name}"), at as u64 + 100, 1)
            .unwrap();
        hurt.push(n);
    }
    hurt
}

/// A segment that damage keeps gives nothing back, so nothing of the reserve is spent on it.
#[tokio::test]
async fn i7_damaged_blocks_on_a_full_disk_do_not_use_up_the_reserve() {
    for (segments, len) in [(1, 9_000), (2, 30_000), (4, 9_000), (4, 30_000)] {
        let disk = FaultyDisk::new();
        let engine = open_memory(&disk, 24 << 20).unwrap();
        let n = fill(&engine, len).await;
        let hurt = damage(&disk, segments, n);
        let order: Vec<u64> = spread(n)
            .into_iter()
            .filter(|n| !hurt.contains(n))
            .collect();
        let released = release_all(&engine, &order).await;
        println!(
            "{segments} segments of {len}: {n} blocks, {released:?}, {:?}",
            engine.compactor().stats()
        );
        released.unwrap();
        while engine.compactor().step(Need::Now).await.unwrap() != CompactStep::Idle {}
        assert_eq!(
            engine.compactor().stats().pinned_files,
            segments as u64,
            "compaction met the damage"
        );
        assert_eq!(engine.compactor().stats().missing_bytes, 0);
    }
}

/// Compaction verifies a segment BEFORE it spends its reserve on it, so it also finds damage that
/// no read has met yet.
#[tokio::test]
async fn i7_nothing_is_copied_out_of_a_damaged_segment_of_a_full_disk() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, 24 << 20).unwrap();
    let n = fill(&engine, 30_000).await;
    let hurt = damage(&disk, 1, n)[0];
    // The damaged block is the last one of its segment, and the blocks before it are in the same
    // one.
    let dead: Vec<u64> = (hurt - 4..hurt).collect();
    release_all(&engine, &dead).await.unwrap();
    while engine.compactor().step(Need::Now).await.unwrap() != CompactStep::Idle {}
    let stats = engine.compactor().stats();
    assert_eq!(stats.pinned_files, 1, "compaction met the damage");
    assert_eq!(stats.missing_bytes, 0);
    assert_eq!(engine.counters().moved_records.get(), 0);
}

/// Each start begins a segment of its own: with one release a life, a full disk is soon full of
/// tiny ones.
#[tokio::test]
async fn i7_the_tiny_segments_of_restarts_on_a_full_disk_are_won_back() {
    for kills in [false, true] {
        let mut disk = FaultyDisk::new();
        let mut engine = open_memory(&disk, 6 << 20).unwrap();
        let n = fill(&engine, 2_000).await;
        for (life, n) in spread(n).into_iter().take(400).enumerate() {
            if !kills {
                engine.close().unwrap();
            }
            drop(engine);
            disk = disk.kill();
            engine = open_memory(&disk, 6 << 20).unwrap();
            let released = release_all(&engine, &[n]).await;
            released.unwrap_or_else(|error| panic!("kills {kills}, life {life}: {error}"));
            assert!(
                engine.compactor().space().allocated <= 6 << 20,
                "FS_SIZE bounds everything"
            );
        }
    }
}

/// Half of what one segment holds, many times: more than a few segments must be emptied for one
/// large block.
#[tokio::test]
async fn i7_a_large_request_wins_back_as_much_as_it_needs() {
    let engine = open_memory(&FaultyDisk::new(), 24 << 20).unwrap();
    let n = fill(&engine, 50_000).await;
    let gone: Vec<u64> = (0..n).filter(|n| n % 2 == 0).collect();
    release_all(&engine, &gone).await.unwrap();
    assert!(
        engine.compactor().space().free < 4 << 20,
        "{:?}",
        engine.compactor().space()
    );
    store(&engine, 1_000_000, 4 << 20).await.unwrap();
}

/// Blocks that a restart found without a set are not kept from who must make room.
#[tokio::test]
async fn i7_a_release_that_finds_no_room_gives_up_what_no_set_holds() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, 6 << 20).unwrap();
    let mut blocks = 1_000..;
    for n in 0..40 {
        store(&engine, n, 2_000).await.unwrap();
    }
    let orphan = numbered(1_000, 40_000).id;
    loop {
        let block = blocks.next().map(|n| numbered(n, 40_000)).unwrap();
        if !matches!(
            engine.put_blocks(session(900), vec![block]).await[..],
            [PutOutcome::Stored]
        ) {
            break;
        }
    }
    let disk = disk.kill();
    drop(engine);
    let engine = open_memory(&disk, 6 << 20).unwrap();
    assert!(
        engine.read_block(&orphan).is_ok(),
        "its upload may still be running"
    );
    release_all(&engine, &(0..40).collect::<Vec<_>>())
        .await
        .unwrap();
    assert!(matches!(
        engine.read_block(&orphan),
        Err(EngineError::NotFound)
    ));
}
