//! Loss of the superblock beside other events: it stays in doubt until a person accepts it, and what is
//! made anew takes no number twice.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use bytes::Bytes;
use cstore_log::{Disk, Fault, FaultyDisk, Verb};
use cstore_storage::engine::DoubtKind;
use cstore_testkit::engine::{CAPACITY, open_memory, store};

use crate::damage_losses::{flip, open, start, stop};
use crate::hold::{
    LEN, N_FILES, SUPERBLOCK, contents, copy_alive, filled, names, segments, take_file,
};
use crate::verification::superblock;

const BLOCK: usize = 4_096;

#[tokio::test]
async fn i4_a_segment_whose_header_was_made_anew_still_tells_its_disk() {
    let mut disk = FaultyDisk::new();
    let engine = open(&disk);
    store(&engine, 1, LEN).await.unwrap();
    engine.close().unwrap();
    drop(engine);
    disk = disk.kill();
    let name = names(&segments(&disk)).remove(0);
    flip(&disk, &name, 34);
    assert_eq!(start(&mut disk), (1, vec![]));
    disk = stop(&disk);
    take_file(&disk, SUPERBLOCK);
    assert_eq!(start(&mut disk), (1, vec![DoubtKind::Superblock]));
}

/// A person accepts a doubt by its number.
#[tokio::test]
async fn i12_numbers_of_doubts_are_not_used_again_after_the_superblock_is_lost() {
    let disk = filled().await;
    let mut lost = names(&segments(&disk));
    lost.pop();
    for name in &lost {
        take_file(&*segments(&disk), name);
    }
    let engine = open(&disk);
    let before = engine.hold().doubts();
    drop(engine);
    let disk = disk.kill();
    take_file(&disk, SUPERBLOCK);
    let doubts = open(&disk).hold().doubts();
    let rebuilt = doubts
        .iter()
        .find(|doubt| doubt.kind == DoubtKind::Superblock)
        .unwrap();
    assert!(before.iter().all(|doubt| doubt.number < rebuilt.number));
}

#[tokio::test]
async fn i4_a_lost_superblock_is_doubted_after_an_open_that_was_broken_off() {
    let killed = filled().await;
    let verbs = [
        Verb::Write,
        Verb::Sync,
        Verb::Create,
        Verb::Name,
        Verb::SyncDir,
    ];
    for (verb, nth) in verbs
        .iter()
        .flat_map(|verb| (1..9).map(move |n| (*verb, n)))
    {
        for (loses_power, is_deleted) in
            [(false, true), (false, false), (true, true), (true, false)]
        {
            let mut disk = copy_alive(&killed);
            if is_deleted {
                take_file(&disk, SUPERBLOCK);
            } else {
                disk.spoil(SUPERBLOCK, 0..4 * BLOCK as u64).unwrap();
            }
            disk.strike(verb, nth, Fault::Eio);
            drop(open_memory(&disk, CAPACITY));
            disk.calm();
            disk = match loses_power {
                true => disk.power_loss(nth * 31 + 7),
                false => disk.kill(),
            };
            let found = start(&mut disk);
            let case = format!("{verb:?} {nth}, power {loses_power}, deleted {is_deleted}");
            assert_eq!(found, (N_FILES, vec![DoubtKind::Superblock]), "{case}");
        }
    }
}

#[tokio::test]
async fn i12_slots_of_a_lost_superblock_that_can_be_read_again_close_no_doubt() {
    let mut disk = copy_alive(&filled().await);
    let old = contents(&disk, SUPERBLOCK);
    disk.spoil(SUPERBLOCK, 0..4 * BLOCK as u64).unwrap();
    for round in 0..3 {
        assert_eq!(start(&mut disk).1, [DoubtKind::Superblock], "{round}");
        let file = disk.open(SUPERBLOCK).unwrap();
        for (slot, before) in old.chunks(BLOCK).enumerate() {
            let at = (slot * BLOCK) as u64;
            if file.read_exact_at(&mut vec![0; BLOCK], at).is_err() {
                file.write_all_vectored_at(&[Bytes::copy_from_slice(before)], at)
                    .unwrap();
            }
        }
        file.sync_data().unwrap();
    }
}

/// Blocks that are longer than a segment have segments of their own.
#[tokio::test]
async fn i12_a_superblock_that_was_made_anew_has_the_size_of_segments() {
    let disk = FaultyDisk::new();
    let engine = open(&disk);
    for n in 0..5 {
        store(&engine, n, 400_000).await.unwrap();
    }
    drop(engine);
    let mut disk = disk.kill();
    let before = superblock(&disk).segment_bytes;
    take_file(&disk, SUPERBLOCK);
    start(&mut disk);
    assert_eq!(superblock(&disk).segment_bytes, before);
}
