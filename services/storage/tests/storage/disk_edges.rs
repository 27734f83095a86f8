//! Edges of the disk's life: an erase that broke off, a smaller FS_SIZE, a stale cache, reads on a
//! full disk, twins of a broken hash.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hold::take_file;
use cstore_log::{Disk, Fault, FaultyDisk, Gate, HookedDisk, Verb};
use cstore_node::shutdown::spawn;
use cstore_storage::engine::{DiskOptions, DoubtKind, Engine, peek};
use cstore_storage::{EngineError, OpenError};
use cstore_testkit::engine::{
    CAPACITY, block, identity, numbered, open, open_memory, options, store,
};
use cstore_testkit::session;
use cstore_types::{BlockId, PartNo, SealSeq};

/// Erases a disk of several segments, dies after `removals`, starts again. Answers whether it died
/// at all.
async fn erase_in_two_lives(removals: u64, loses_power: bool) -> bool {
    let meant = DiskOptions {
        fresh_start: true,
        erase: Some(identity().store),
        ..options(CAPACITY)
    };
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 0..12 {
        store(&engine, n, 100_000).await.unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    // The process dies at a removal: that one and all later ones fail.
    let removals_left = AtomicU64::new(removals);
    let mortal = HookedDisk::with_hook(disk.clone(), move |verb| {
        let take = |left: u64| {
            if verb == Verb::Name {
                left.checked_sub(1)
            } else {
                Some(left)
            }
        };
        let taken = removals_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken
            .map(drop)
            .map_err(|_| io::Error::other("this process is dead"))
    });
    let died = Engine::open(mortal, "memory", &identity(), &meant).is_err();
    let next = if loses_power {
        disk.power_loss(removals)
    } else {
        disk.kill()
    };
    let engine = Engine::open(Arc::new(next), "memory", &identity(), &meant)
        .unwrap_or_else(|error| panic!("{removals} removals, power loss {loses_power}: {error}"));
    assert!(engine.holdings().sessions().is_empty());
    died
}

#[tokio::test]
async fn an_erase_that_broke_off_is_finished_by_the_next_start() {
    for loses_power in [false, true] {
        let mut removals = 0;
        while erase_in_two_lives(removals, loses_power).await {
            removals += 1;
        }
        assert!(
            removals > 5,
            "it broke off at every segment, the bitmap and the superblock: {removals}"
        );
    }
}

#[tokio::test]
async fn a_size_below_what_is_in_use_is_refused_and_nothing_is_lost() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, 40 << 20).unwrap();
    for n in 0..10 {
        store(&engine, n, 1 << 20).await.unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    let error = open_memory(&disk, CAPACITY).unwrap_err();
    assert!(
        matches!(error, OpenError::TooSmall { wanted, .. } if wanted == CAPACITY),
        "{error}"
    );
    let engine = open_memory(&disk, 40 << 20).unwrap();
    for n in 0..10 {
        assert_eq!(
            engine.read_block(&numbered(n, 1 << 20).id).unwrap(),
            numbered(n, 1 << 20).bytes
        );
    }
}

/// Just above what is in use there would be no room for a single release.
#[tokio::test]
async fn i7_a_size_without_room_for_deletes_is_refused_with_one_that_has_it() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, 24 << 20).unwrap();
    for n in 0..300 {
        store(&engine, n, 30_000).await.unwrap();
    }
    engine.close().unwrap();
    // Two segments of a 32nd of the disk were made before they are needed. They go if need be.
    let used = engine.compactor().space().allocated - 2 * ((24 << 20) / 32);
    drop(engine);
    let Err(refused) = open_memory(&disk, used + (200 << 10)) else {
        panic!("it opens");
    };
    let OpenError::TooSmall { least, .. } = refused else {
        panic!("{refused}")
    };
    assert!(
        refused.to_string().contains(&least.to_string()),
        "{refused}"
    );
    assert!(refused.to_string().contains(&used.to_string()), "{refused}");
    let engine = open_memory(&disk, least).unwrap();
    for n in 0..300 {
        engine
            .releaser()
            .release(session(n))
            .await
            .unwrap_or_else(|error| panic!("release {n}: {error}"));
    }
    drop(engine);
    // Once it is that small, it opens again whatever its reserve is used for.
    open_memory(&disk, least).unwrap();
}

#[tokio::test]
async fn an_erase_may_make_the_disk_smaller() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, 40 << 20).unwrap();
    for n in 0..10 {
        store(&engine, n, 1 << 20).await.unwrap();
    }
    drop(engine);
    let meant = DiskOptions {
        fresh_start: true,
        erase: Some(identity().store),
        ..options(CAPACITY)
    };
    let engine = Engine::open(Arc::new(disk), "memory", &identity(), &meant).unwrap();
    assert_eq!(
        (
            engine.holdings().sessions().len(),
            engine.compactor().space().capacity
        ),
        (0, CAPACITY)
    );
}

#[tokio::test]
async fn a_bitmap_of_an_earlier_stop_is_ignored() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, 1_000).await.unwrap();
    engine.close().unwrap();
    drop(engine);
    let old = content(&disk, "bitmap.bin");
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(
        Disk::open(&disk, "bitmap.bin").is_err(),
        "an open takes it away"
    );
    // Another size: a count of the wrong one of the two must not look right.
    store(&engine, 1, 2_000).await.unwrap();
    engine.releaser().release(session(0)).await.unwrap();
    let totals = engine.holdings().totals();
    let disk = disk.kill();
    drop(engine);
    // A backup brought it back.
    put_file(&disk, "bitmap.bin", old);
    assert_eq!(
        open_memory(&disk, CAPACITY).unwrap().holdings().totals(),
        totals
    );
}

fn content(disk: &FaultyDisk, name: &str) -> Vec<u8> {
    let file = Disk::open(disk, name).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn put_file(disk: &FaultyDisk, name: &str, bytes: Vec<u8>) {
    let file = Disk::create(disk, name, bytes.len() as u64).unwrap();
    file.write_all_vectored_at(&[bytes.into()], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir().unwrap();
}

/// A clean stop at a sequence; then the newest segment goes, and as many frames as it had come
/// after it. Answers the disk after a kill at that moment, with the blocks that were sealed last.
async fn reach_the_sequence_of_the_last_stop(
    keeps_one: bool,
    frames: u64,
) -> (FaultyDisk, SealSeq) {
    let mut disk = FaultyDisk::new();
    let mut engine = open_memory(&disk, CAPACITY).unwrap();
    if keeps_one {
        store(&engine, 500, 5_000).await.unwrap();
        engine.close().unwrap();
        drop(engine);
        engine = open_memory(&disk, CAPACITY).unwrap();
    }
    for n in 0..3 {
        store(&engine, n, 5_000).await.unwrap();
    }
    for n in 0..3 {
        engine.releaser().release(session(n)).await.unwrap();
    }
    let seen = engine.seal_seq();
    engine.close().unwrap();
    drop(engine);
    engine = open_memory(&disk, CAPACITY).unwrap();
    engine.forget_orphans();
    assert_eq!(engine.recycler().reclaim(), 1);
    assert!(engine.seal_seq() >= seen);
    disk = disk.kill();
    drop(engine);
    engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(
        engine.seal_seq() >= seen,
        "{:?} after {seen:?}",
        engine.seal_seq()
    );
    for n in 10..10 + frames {
        store(&engine, n, 5_000).await.unwrap();
    }
    (disk.kill(), seen)
}

#[tokio::test]
async fn i1_i6_blocks_that_are_sealed_after_the_newest_segment_went_survive_a_kill() {
    for keeps_one in [false, true] {
        for frames in 1..8 {
            let (disk, seen) = reach_the_sequence_of_the_last_stop(keeps_one, frames).await;
            let engine = open_memory(&disk, CAPACITY).unwrap();
            assert!(engine.seal_seq() >= seen, "the sequence went back");
            engine.forget_orphans();
            engine.recycler().reclaim();
            for n in 10..10 + frames {
                let block = numbered(n, 5_000);
                assert_eq!(
                    engine.read_block(&block.id).unwrap(),
                    block.bytes,
                    "{keeps_one} {frames} {n}"
                );
            }
        }
    }
}

/// The old segment is sealed and dead, the new one has no frame yet: nothing but the superblock
/// knows the sequence.
#[tokio::test]
async fn i6_a_segment_that_goes_between_two_frames_does_not_take_its_sequence_with_it() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, 150_000).await.unwrap();
    engine.releaser().release(session(0)).await.unwrap();
    let seen = engine.seal_seq();
    // Footer of the old segment, then the frame. The header of the new one was written before, and the
    // inventory is written after it.
    disk.strike(Verb::Write, 2, Fault::Eio);
    assert!(store(&engine, 1, 150_000).await.is_err());
    assert_eq!(engine.recycler().reclaim(), 1);
    let disk = disk.power_loss(1);
    let written = peek(&(Arc::new(disk.clone()) as Arc<dyn Disk>), "memory");
    assert_eq!(written.unwrap().unwrap().seal_seq, seen);
    assert!(open_memory(&disk, CAPACITY).unwrap().seal_seq() >= seen);
}

/// The clean mark counts, not the sequence: a cache that names the right one is not believed after
/// a kill.
#[tokio::test]
async fn i1_a_bitmap_is_believed_after_a_clean_stop_only() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, 1_000).await.unwrap();
    let totals = engine.holdings().totals();
    engine.close().unwrap();
    drop(engine);
    // Magic, store and sequence of the right one, and no counts.
    let mut empty = content(&disk, "bitmap.bin");
    empty.truncate(32);
    empty.extend_from_slice(&0u32.to_le_bytes());
    empty.extend_from_slice(&crc32c::crc32c(&empty).to_le_bytes());
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let disk = disk.kill();
    drop(engine);
    put_file(&disk, "bitmap.bin", empty);
    assert_eq!(
        open_memory(&disk, CAPACITY).unwrap().holdings().totals(),
        totals
    );
}

/// One segment that cannot be removed does not keep the others.
#[tokio::test]
async fn i3_a_segment_that_cannot_be_recycled_does_not_keep_others_from_it() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 0..3 {
        store(&engine, n, 150_000).await.unwrap();
    }
    for n in 0..2 {
        engine.releaser().release(session(n)).await.unwrap();
    }
    disk.strike(Verb::Name, 1, Fault::Eio);
    assert_eq!(engine.recycler().reclaim(), 1);
    assert_eq!(engine.read_only(), None);
    assert_eq!(engine.recycler().reclaim(), 1, "it is tried again");
}

#[tokio::test]
async fn i7_a_full_disk_still_reads_everything_that_it_took() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let mut taken = 0;
    let refused = loop {
        match store(&engine, taken, 200_000).await {
            Ok(_) if taken < 100 => taken += 1,
            other => break other,
        }
    };
    assert!(
        matches!(refused, Err(EngineError::Full { .. })),
        "{refused:?}"
    );
    for n in 0..taken {
        assert_eq!(
            engine.read_block(&numbered(n, 200_000).id).unwrap(),
            numbered(n, 200_000).bytes
        );
    }
    let refused = numbered(taken, 200_000).id;
    assert!(matches!(
        engine.read_block(&refused),
        Err(EngineError::NotFound)
    ));
}

/// M. Stevens' pair of 64 bytes with one MD5; zeros behind it keep the collision.
#[tokio::test]
async fn i8_two_blocks_with_one_md5_stay_two() {
    let first = hex::decode(
        "4dc968ff0ee35c209572d4777b721587d36fa7b21bdc56b74a3dc0783e7b9518\
         afbfa200a8284bf36e8e4b55b35f427593d849676da0d1555d8360fb5f07fea2",
    );
    let second = hex::decode(
        "4dc968ff0ee35c209572d4777b721587d36fa7b21bdc56b74a3dc0783e7b9518\
         afbfa202a8284bf36e8e4b55b35f427593d849676da0d1d55d8360fb5f07fea2",
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    for zeros in [0, 65_472] {
        let twins = [&first, &second].map(|twin| block([&twin[..], &vec![0; zeros]].concat()));
        assert_eq!(
            twins[0].id.as_bytes()[..16],
            twins[1].id.as_bytes()[..16],
            "they share their MD5 half"
        );
        let engine = open_memory(&FaultyDisk::new(), CAPACITY).unwrap();
        let ids = twins.iter().map(|twin| twin.id).collect();
        engine
            .put_seal(session(0), PartNo(0), ids, twins.to_vec())
            .await
            .unwrap();
        assert_eq!(engine.holdings().totals().blocks, 2);
        for twin in &twins {
            assert_eq!(engine.read_block(&twin.id).unwrap(), twin.bytes);
        }
    }
}

/// Flips a bit of the stored set that holds only this block. The same call again undoes it.
fn rot_set(disk: &FaultyDisk, id: &BlockId) {
    let segments = Disk::subdir(disk, "segments").unwrap();
    for name in segments.list().unwrap() {
        let file = segments.open(&name).unwrap();
        let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        // Number of ids, checksum, ids.
        let is_set =
            |window: &[u8]| window[..4] == 1u32.to_le_bytes() && window[8..] == *id.as_bytes();
        if let Some(at) = bytes.windows(8 + BlockId::LEN).position(is_set) {
            return disk
                .rot(&format!("segments/{name}"), at as u64 + 4, 1)
                .unwrap();
        }
    }
    panic!("the set is not on the disk");
}

#[tokio::test]
async fn i4_a_damaged_set_puts_the_disk_on_hold_until_it_is_whole_again() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let blocks = [numbered(0, 5_000), numbered(1, 5_000)];
    for n in 0..2 {
        store(&engine, n, 5_000).await.unwrap();
    }
    // Their segment is complete: the log trusts its footer and does not read its records, so only
    // the engine can notice.
    for n in 10..20 {
        store(&engine, n, 30_000).await.unwrap();
    }
    drop(engine);

    let disk = disk.kill();
    rot_set(&disk, &blocks[0].id);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let doubts = engine.hold().doubts();
    assert!(
        matches!(doubts[..], [doubt] if doubt.kind == DoubtKind::Set && !doubt.accepted),
        "{doubts:?}"
    );
    let held = engine.releaser().release(session(10)).await;
    assert!(matches!(held, Err(EngineError::Held(_))), "{held:?}");
    engine.forget_orphans();
    engine.recycler().reclaim();
    drop(engine);

    let disk = disk.kill();
    rot_set(&disk, &blocks[0].id);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert_eq!(engine.hold().doubts(), []);
    for block in &blocks {
        assert_eq!(engine.read_block(&block.id).unwrap(), block.bytes);
    }
    assert_eq!(engine.holdings().totals().blocks, 12);
}

/// Damage is final: if the seal were refused as busy, the caller would repeat it for ever.
#[tokio::test]
async fn i8_a_repeated_seal_whose_set_is_damaged_says_so() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, 5_000).await.unwrap();
    let id = numbered(0, 5_000).id;
    rot_set(&disk, &id);
    let again = engine
        .put_seal(session(0), PartNo(0), vec![id], vec![])
        .await;
    assert!(
        matches!(&again, Err(EngineError::RefSet { session: of, .. }) if *of == session(0)),
        "{again:?}"
    );
}

/// Otherwise a second process could cut the file that the first one is still writing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_disk_stays_locked_until_its_log_has_ended() {
    let faulty = FaultyDisk::new();
    let gate = Arc::new(Gate::default());
    let engine = open(HookedDisk::gated(faulty.clone(), &gate), CAPACITY).unwrap();
    gate.close(Verb::Sync);
    let writing = engine.clone();
    let put = spawn("put", async move { store(&writing, 1, 5_000).await });
    gate.await_held(Verb::Sync);
    put.abort();
    assert!(put.await.is_err(), "it was cut off");

    // It waits for the write that hangs.
    let dropping = std::thread::spawn(move || drop(engine));
    for _ in 0..200 {
        let second = open_memory(&faulty, CAPACITY);
        assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
        std::thread::yield_now();
    }
    gate.open(Verb::Sync);
    dropping.join().unwrap();
    open_memory(&faulty, CAPACITY).unwrap();
}

/// Only the superblock and FS_SIZE say how large a disk is: the default of FS_SIZE may be less than
/// what lies there.
#[tokio::test]
async fn i12_a_lost_superblock_without_fs_size_leaves_room_for_what_lies_there() {
    const BLOCKS: u64 = 120;
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, 4 * CAPACITY).unwrap();
    for n in 0..BLOCKS {
        store(&engine, n, 100_000).await.unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    let disk = disk.kill();
    take_file(&disk, "superblock.bin");

    let open_with = |is_capacity_default| {
        let options = DiskOptions {
            is_capacity_default,
            ..options(CAPACITY)
        };
        Engine::open(Arc::new(disk.clone()), "memory", &identity(), &options)
    };
    let refused = open_with(false).unwrap_err();
    assert!(matches!(refused, OpenError::TooSmall { .. }), "{refused:?}");

    let engine = open_with(true).unwrap();
    let (space, stored) = (engine.compactor().space(), BLOCKS * 100_000);
    assert!(space.capacity > stored, "{space:?}");
    for n in 0..BLOCKS {
        let block = numbered(n, 100_000);
        assert_eq!(engine.read_block(&block.id).unwrap(), block.bytes, "{n}");
    }
}

#[tokio::test]
async fn i1_a_size_that_nobody_has_set_makes_no_disk_smaller() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, 4 * CAPACITY).unwrap();
    let larger = engine.compactor().space().capacity;
    for n in 0..120 {
        store(&engine, n, 100_000).await.unwrap();
    }
    engine.close().unwrap();
    drop(engine);

    let open_with = |is_capacity_default, capacity| {
        let options = DiskOptions {
            is_capacity_default,
            ..options(capacity)
        };
        Engine::open(Arc::new(disk.clone()), "memory", &identity(), &options)
    };
    let refused = open_with(false, CAPACITY).unwrap_err();
    assert!(matches!(refused, OpenError::TooSmall { .. }), "{refused:?}");
    let engine = open_with(true, CAPACITY).unwrap();
    assert_eq!(engine.compactor().space().capacity, larger);
    engine.close().unwrap();
    drop(engine);

    // A larger default is taken.
    let engine = open_with(true, 8 * CAPACITY).unwrap();
    assert!(engine.compactor().space().capacity > larger);
}
