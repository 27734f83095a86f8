//! A file system with less room than FS_SIZE, or that others fill: uploads are refused, reads and
//! deletes go on, and room that comes back is used without a restart.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use cstore_log::{Disk, FaultyDisk};
use cstore_storage::EngineError;
use cstore_storage::engine::Engine;
use cstore_testkit::engine::{numbered, open_memory, store};
use cstore_testkit::session;

const MIB: u64 = 1 << 20;
const FS_SIZE: u64 = 1 << 30;
const LEN: usize = 60_000;

/// Stores blocks from `first` on until the disk is full. Returns the number behind the last one.
async fn fill(engine: &Engine, first: u64) -> u64 {
    for n in first.. {
        match store(engine, n, LEN).await {
            Ok(()) => {}
            Err(EngineError::Full { .. }) => return n,
            Err(error) => panic!("block {n}: {error:?}"),
        }
    }
    unreachable!("it never ends otherwise")
}

/// Leaves nothing free on the file system.
fn fill_by_others(disk: &FaultyDisk) {
    let room = disk.room().unwrap().unwrap();
    disk.bound(room.total, 0);
    let free = disk.room().unwrap().unwrap().free;
    disk.bound(room.total, free);
    assert_eq!(disk.room().unwrap().unwrap().free, 0);
}

fn assert_readable(engine: &Engine, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let block = numbered(n, LEN);
        assert_eq!(engine.read_block(&block.id).unwrap(), block.bytes, "{n}");
    }
}

async fn release(engine: &Engine, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let released = engine.releaser().release(session(n)).await;
        released.unwrap_or_else(|error| panic!("release of {n}: {error:?}"));
    }
    engine.sweep_pins();
    engine.sweep_pins();
    engine.recycler().reclaim();
}

#[tokio::test]
async fn i7_a_file_system_below_fs_size_is_filled_and_emptied_again_and_again() {
    for total in [12 * MIB, 24 * MIB, 100 * MIB] {
        let disk = FaultyDisk::new();
        disk.bound(total, 0);
        let engine = open_memory(&disk, FS_SIZE).unwrap();
        assert!(engine.compactor().space().capacity <= total);
        let mut first = 0;
        let mut counts = Vec::new();
        for _round in 0..3 {
            let end = fill(&engine, first).await;
            assert!(
                engine.compactor().space().free < MIB,
                "what is left is no room"
            );
            assert_readable(&engine, first..end);
            release(&engine, first..end).await;
            counts.push(end - first);
            first = end;
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 0 && least * 10 >= most * 8, "{total}: {counts:?}");
        assert!(*most * LEN as u64 > total / 3, "{total}: {counts:?}");
    }
}

#[tokio::test]
async fn i7_deletes_go_on_when_others_have_filled_the_file_system() {
    let total = 64 * MIB;
    let disk = FaultyDisk::new();
    disk.bound(total, 0);
    let engine = open_memory(&disk, FS_SIZE).unwrap();
    for n in 0..200 {
        store(&engine, n, LEN).await.unwrap();
    }
    for round in 0..3 {
        fill_by_others(&disk);
        let first = 1_000 * (round + 1);
        let end = fill(&engine, first).await;
        assert_readable(&engine, 0..200);
        release(&engine, first..end).await;
        release(&engine, round * 50..round * 50 + 50).await;
        assert_readable(&engine, 150..200);

        disk.bound(total, 0);
        store(&engine, first + 900, LEN).await.unwrap();
        store(&engine, round * 50, LEN).await.unwrap();
        for n in round * 50 + 1..round * 50 + 50 {
            store(&engine, n, LEN).await.unwrap();
        }
    }
}

/// Wherever the newest segment ends, releases have the ones that were made ready.
#[tokio::test]
async fn i7_a_release_finds_room_when_others_have_filled_the_file_system_at_once() {
    for count in 25..40 {
        let disk = FaultyDisk::new();
        disk.bound(64 * MIB, 0);
        let engine = open_memory(&disk, FS_SIZE).unwrap();
        for n in 0..count {
            store(&engine, n, LEN).await.unwrap();
        }
        fill_by_others(&disk);
        release(&engine, 0..count).await;
    }
}

/// A restart takes the segments that were ready, and a tail that nothing proves is copied into one.
#[tokio::test]
async fn i7_a_full_file_system_keeps_no_disk_from_opening() {
    let total = 24 * MIB;
    let mut disk = FaultyDisk::new();
    disk.bound(total, 0);
    let engine = open_memory(&disk, FS_SIZE).unwrap();
    let end = fill(&engine, 0).await;
    drop(engine);
    for n in 0..5 {
        fill_by_others(&disk);
        disk = disk.kill();
        let engine = open_memory(&disk, FS_SIZE).unwrap_or_else(|error| panic!("{n}: {error:?}"));
        assert_readable(&engine, 1..end);
        if n == 0 {
            // Later starts find that others have taken what each one gave back.
            release(&engine, 0..1).await;
        }
        drop(engine);
    }
}
