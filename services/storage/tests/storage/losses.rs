//! Losses that a disk must not take for something else: each was a way to lose more, to be on hold
//! for ever, or to refuse a disk that is whole.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cstore_log::{Disk, Fault, FaultyDisk, HookedDisk, Verb};
use cstore_storage::engine::{DiskOptions, DoubtKind, Engine, Identity, SealOutcome};
use cstore_testkit::engine::{CAPACITY, identity, numbered, open_memory, options, store};
use cstore_testkit::session;
use cstore_types::{PartNo, StoreUuid};

use crate::hold::{
    INVENTORY, LEN, N_FILES, SUPERBLOCK, assert_whole, contents, copy, copy_alive, filled, kinds,
    many_segments_away, names, nth, open_doubts, put_file, segment_of_another_disk, segments,
    take_file,
};

fn damage_set(disk: &FaultyDisk, n: u64) -> String {
    let mut needle = nth(n).id.as_bytes().to_vec();
    needle.extend_from_slice(nth(n - 1).id.as_bytes());
    let folder = segments(disk);
    for name in names(&folder) {
        let mut bytes = contents(&*folder, &name);
        if let Some(at) = bytes.windows(64).position(|w| w == &needle[..]) {
            bytes[at + 5] ^= 0xff;
            put_file(&*folder, &name, &bytes);
            return name;
        }
    }
    panic!("no set");
}

#[tokio::test]
async fn i4_a_segment_that_was_cut_to_its_header_is_missed() {
    let whole = filled().await;
    let all = names(&segments(&whole));
    let mut bad = vec![];
    for name in &all[..all.len() - 1] {
        let disk = copy(&whole);
        let bytes = contents(&*segments(&disk), name);
        let file = segments(&disk).open(name).unwrap();
        file.set_len(4096).unwrap();
        file.sync_data().unwrap();
        let disk = disk.kill();
        let engine = open_memory(&disk, CAPACITY).unwrap();
        let k = kinds(&engine);
        assert!(names(&segments(&disk)).contains(name), "{name} was removed");
        drop(engine);
        let disk = disk.kill();
        put_file(&*segments(&disk), name, &bytes);
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert_eq!(
            engine.holdings().sessions().len() as u64,
            N_FILES,
            "{name} is back"
        );
        if !k.contains(&DoubtKind::Short) {
            bad.push(name.clone());
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

/// A person accepts a doubt by its number, and must not accept another one by mistake.
#[tokio::test]
async fn i12_the_number_of_a_doubt_is_not_used_again_after_a_restart() {
    let mut disk = filled().await;
    let mut numbers = Vec::new();
    for name in names(&segments(&disk)).into_iter().take(3) {
        let bytes = take_file(&*segments(&disk), &name);
        let engine = open_memory(&disk, CAPACITY).unwrap();
        let doubts = open_doubts(&engine);
        assert!(!doubts.is_empty(), "{name} is away");
        numbers.extend(doubts.iter().map(|doubt| doubt.number));
        drop(engine);

        disk = disk.kill();
        put_file(&*segments(&disk), &name, &bytes);
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert_eq!(engine.hold().doubts(), [], "{name} is back");
        drop(engine);
        disk = disk.kill();
    }
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

/// A finding that rests on the old inventory is not made again once that is replaced.
#[tokio::test]
async fn i4_an_open_that_dies_at_any_change_forgets_no_doubt() {
    let whole = filled().await;
    let engine = open_memory(&whole, CAPACITY).unwrap();
    let old_superblock = contents(&whole, SUPERBLOCK);
    engine.close().unwrap();
    drop(engine);
    let whole = whole.kill();
    // Only the inventory knows of the superblock of this open: no segment was begun.
    drop(open_memory(&whole, CAPACITY).unwrap());
    let whole = whole.kill();

    for what in [DoubtKind::Inventory, DoubtKind::Superblock] {
        for power_loss in [None, Some(0), Some(1_000)] {
            let mut n_deaths = 0;
            for changes in 0.. {
                let disk = copy(&whole);
                match what {
                    DoubtKind::Inventory => drop(take_file(&disk, INVENTORY)),
                    _ => put_file(&disk, SUPERBLOCK, &old_superblock),
                }
                let mortal = mortal(&disk, changes);
                let opened = Engine::open(mortal, "memory", &identity(), &options(CAPACITY));
                let has_died = opened.is_err();
                drop(opened);
                let next = match power_loss {
                    Some(seed) => disk.power_loss(seed + changes),
                    None => disk.kill(),
                };
                let engine = open_memory(&next, CAPACITY).unwrap();
                let kinds = kinds(&engine);
                assert!(
                    kinds.contains(&what),
                    "{changes} changes, power loss {power_loss:?}: {kinds:?}"
                );
                if !has_died {
                    break;
                }
                n_deaths += 1;
            }
            assert!(n_deaths > 5, "{n_deaths}");
        }
    }
}

/// The disk of a process that dies after that number of changes and syncs: every later call fails.
pub(crate) fn mortal(disk: &FaultyDisk, changes: u64) -> Arc<dyn Disk> {
    let left = AtomicU64::new(changes);
    HookedDisk::with_hook(disk.clone(), move |verb| {
        let take = |left: u64| match verb {
            Verb::Read => Some(left).filter(|left| *left > 0),
            _ => left.checked_sub(1),
        };
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken
            .map(drop)
            .map_err(|_| io::Error::other("this process is dead"))
    })
}

/// A segment that has given up its place is kept while the disk is in doubt, and removed
/// afterwards.
#[tokio::test]
async fn i12_a_segment_that_was_leaving_before_a_doubt_is_removed_after_it() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 0..N_FILES {
        store(&engine, n, LEN).await.unwrap();
    }
    for n in 0..N_FILES / 2 {
        engine.releaser().release(session(n)).await.unwrap();
    }
    // The inventory lists the segment as leaving; then the rename fails.
    disk.strike(Verb::Name, 1, Fault::Eio);
    engine.recycler().reclaim();
    drop(engine);

    // An open without doubt shows which segment that is.
    let disk = disk.kill();
    let without_doubt = copy_alive(&disk);
    let mut leaving = names(&segments(&without_doubt));
    drop(open_memory(&without_doubt, CAPACITY).unwrap());
    let kept = names(&segments(&without_doubt));
    leaving.retain(|name| !kept.contains(name));
    assert_eq!(leaving.len(), 1, "{leaving:?}");

    let needed = kept[0].clone();
    let bytes = take_file(&*segments(&disk), &needed);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(engine.hold().is_held());
    drop(engine);
    let disk = disk.kill();
    assert!(names(&segments(&disk)).contains(&leaving[0]));

    put_file(&*segments(&disk), &needed, &bytes);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert_eq!(engine.hold().doubts(), []);
    assert!(!names(&segments(&disk)).contains(&leaving[0]));
}

/// No other set names absent blocks: nothing is in doubt at all, and a healthy block is freed.
#[tokio::test]
async fn i4_a_segment_without_its_frames_costs_no_block_of_others() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    engine.put_blocks(session(1), vec![nth(1)]).await;
    drop(engine);
    let disk = disk.kill();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    // The tail was copied to the second file, which is filled up until the roll.
    let before = names(&segments(&disk)).len();
    let mut n = 100;
    while names(&segments(&disk)).len() == before {
        store(&engine, n, LEN).await.unwrap();
        n += 1;
    }
    // The set of block 1 comes into a newer file, alone.
    engine.close().unwrap();
    drop(engine);
    let disk = disk.kill();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let old = names(&segments(&disk));
    let sealed = engine
        .put_seal(session(1), PartNo(0), vec![nth(1).id], vec![])
        .await
        .unwrap();
    assert!(matches!(sealed, SealOutcome::Sealed { .. }));
    engine.close().unwrap();
    drop(engine);
    let disk = disk.kill();
    let name = names(&segments(&disk))
        .into_iter()
        .find(|n| !old.contains(n))
        .unwrap();
    let bytes = contents(&*segments(&disk), &name);
    let file = segments(&disk).open(&name).unwrap();
    file.set_len(4096).unwrap();
    file.sync_data().unwrap();
    let disk = disk.kill();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    drop(engine);
    let disk = disk.kill();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    engine.forget_orphans();
    assert!(engine.read_block(&nth(1).id).is_ok(), "it was freed");
    drop(engine);
    let disk = disk.kill();
    put_file(&*segments(&disk), &name, &bytes);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(
        engine.holdings().sessions().contains(&session(1)),
        "the set is back: {:?}",
        engine.hold().doubts()
    );
}

#[tokio::test]
async fn i1_a_fresh_start_of_a_disk_in_doubt_demands_the_erase() {
    let disk = filled().await;
    let folder = segments(&disk);
    let all: Vec<_> = names(&folder)
        .into_iter()
        .map(|n| (n.clone(), take_file(&*folder, &n)))
        .collect();
    let opts = DiskOptions {
        fresh_start: true,
        erase: None,
        ..options(CAPACITY)
    };
    let opened = Engine::open(
        Arc::new(disk.clone()),
        "memory",
        &Identity {
            store: StoreUuid::from_bytes([0x77; 16]),
            ..identity()
        },
        &opts,
    );
    let formatted = opened.is_ok();
    drop(opened);
    let disk = disk.kill();
    for (n, b) in &all {
        put_file(&*segments(&disk), n, b);
    }
    assert!(!formatted);
    assert_whole(&open_memory(&disk, CAPACITY).unwrap());
}

#[tokio::test]
async fn i3_a_damaged_set_that_was_accepted_can_be_released() {
    let disk = filled().await;
    open_memory(&disk, CAPACITY).unwrap().close().unwrap();
    let disk = disk.kill();
    damage_set(&disk, 7);
    let disk = disk.kill();
    // Without the cache of counts, as after a crash.
    disk.remove("bitmap.bin").unwrap();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for d in open_doubts(&engine) {
        engine.hold().accept(d.number).unwrap();
    }
    assert!(!engine.hold().is_held());
    let released = engine
        .releaser()
        .release_all(&[session(3), session(7), session(20)])
        .await;
    assert!(
        released.iter().all(|(_, result)| result.is_ok()),
        "{released:?}"
    );
    engine.releaser().release(session(12)).await.unwrap();
    assert!(!engine.hold().is_held());
}

#[tokio::test]
async fn i12_an_accepted_superblock_is_not_doubted_at_the_next_start() {
    let disk = filled().await;
    let old = contents(&disk, SUPERBLOCK);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 600..620 {
        store(&engine, n, LEN).await.unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    let mut disk = disk.kill();
    for n in 0..6 {
        let e = open_memory(&disk, CAPACITY).unwrap();
        store(&e, 900 + n, LEN).await.unwrap();
        e.close().unwrap();
        drop(e);
        disk = disk.kill();
    }
    put_file(&disk, SUPERBLOCK, &old);
    for round in 0..3 {
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert_eq!(open_doubts(&engine).is_empty(), round > 0, "round {round}");
        for doubt in open_doubts(&engine) {
            engine.hold().accept(doubt.number).unwrap();
        }
        engine.close().unwrap();
        drop(engine);
        disk = disk.kill();
    }
}

#[tokio::test]
async fn i4_a_lost_inventory_does_not_disprove_that_a_segment_is_missing() {
    let disk = filled().await;
    let name = names(&segments(&disk)).remove(1);
    take_file(&*segments(&disk), &name);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    drop(engine);
    let disk = disk.kill();
    take_file(&disk, INVENTORY);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(kinds(&engine).contains(&DoubtKind::Missing));
}

#[tokio::test]
async fn i12_an_unlisted_file_of_another_disk_is_no_doubt() {
    let disk = filled().await;
    open_memory(&disk, CAPACITY).unwrap().close().unwrap();
    let disk = disk.kill();
    let (_, theirs) = segment_of_another_disk().await;
    put_file(&*segments(&disk), "00000100.bin", &theirs);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert_whole(&engine);
    let found = contents(&*segments(&disk), "00000100.bin");
    assert!(found == theirs, "it is left alone");
}

#[tokio::test]
async fn i4_accepting_all_that_fit_the_list_does_not_accept_the_rest() {
    let (disk, n_missing) = many_segments_away().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(engine.hold().doubts().len() < n_missing);
    for d in open_doubts(&engine) {
        let r = engine.hold().accept(d.number);
        assert!(r.is_ok());
    }
    assert!(engine.hold().is_held());
}

#[tokio::test]
async fn i1_sequences_of_a_segment_that_is_foreign_are_not_used_again() {
    let disk = filled().await;
    // A fresh life that rolls, so that the newest file is Live (0, 0) in the inventory.
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let mut n = 100;
    let first = names(&segments(&disk)).len();
    while names(&segments(&disk)).len() < first + 2 {
        store(&engine, n, LEN).await.unwrap();
        n += 1;
    }
    store(&engine, 500, LEN).await.unwrap();
    store(&engine, 501, LEN).await.unwrap();
    let acked = engine.holdings().sessions().len();
    drop(engine);
    let disk = disk.kill();
    let newest = names(&segments(&disk)).pop().unwrap();
    let ours = contents(&*segments(&disk), &newest);
    let (_, theirs) = segment_of_another_disk().await;
    put_file(&*segments(&disk), &newest, &theirs);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 700, LEN).await.unwrap();
    drop(engine);
    let disk = disk.kill();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    drop(engine);
    let disk = disk.kill();
    put_file(&*segments(&disk), &newest, &ours);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert_eq!(engine.holdings().sessions().len(), acked + 1);
}

/// Returns a disk with three files, after a kill.
async fn with_three_files() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 0..3 {
        store(&engine, n, LEN).await.unwrap();
    }
    drop(engine);
    disk.kill()
}

/// A release between: set of the proven frame rises again.
#[tokio::test]
async fn i12_a_segment_that_proves_a_frame_of_another_may_be_away() {
    let disk = with_three_files().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    // The frame of session 1 is the last proven one of the first file.
    engine.releaser().release(session(1)).await.unwrap();
    drop(engine);
    let disk = disk.kill();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    drop(engine);
    let disk = disk.kill();
    let mut taken = vec![];
    for n in &names(&segments(&disk))[1..] {
        taken.push((n.clone(), take_file(&*segments(&disk), n)));
    }
    let engine = open_memory(&disk, CAPACITY).unwrap();
    drop(engine);
    let disk = disk.kill();
    for (n, b) in &taken {
        put_file(&*segments(&disk), n, b);
    }
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(
        !engine.holdings().sessions().contains(&session(1)),
        "a released session rose again"
    );
}

/// One segment is away for one start, and then back.
#[tokio::test]
async fn i12_any_segment_may_be_away_at_one_start() {
    for lives in 1..4u64 {
        let mut disk = FaultyDisk::new();
        for life in 0..lives {
            let engine = open_memory(&disk, CAPACITY).unwrap();
            for k in 0..3 {
                store(&engine, life * 10 + k, LEN).await.unwrap();
            }
            drop(engine);
            disk = disk.kill();
        }
        let all = names(&segments(&disk));
        for restarts in 1..3 {
            for name in all.clone() {
                let disk = copy(&disk);
                let bytes = take_file(&*segments(&disk), &name);
                let mut disk = disk.kill();
                for _ in 0..restarts {
                    let engine = open_memory(&disk, CAPACITY).unwrap();
                    assert!(engine.hold().is_held(), "{name} is away");
                    drop(engine);
                    disk = disk.kill();
                }
                put_file(&*segments(&disk), &name, &bytes);
                let engine = open_memory(&disk, CAPACITY).unwrap();
                assert_eq!(engine.hold().doubts(), [], "{name} is back");
                assert_eq!(engine.holdings().sessions().len() as u64, 3 * lives);
            }
        }
    }
}

/// The second file of two is away; a set that was released in it rises.
#[tokio::test]
async fn i12_a_segment_may_come_back_after_a_start_without_writes() {
    let disk = with_three_files().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    engine.releaser().release(session(1)).await.unwrap();
    store(&engine, 5, LEN).await.unwrap();
    drop(engine);
    let disk = disk.kill();
    let name = names(&segments(&disk)).pop().unwrap();
    let bytes = take_file(&*segments(&disk), &name);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    drop(engine);
    let disk = disk.kill();
    put_file(&*segments(&disk), &name, &bytes);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(
        !engine.holdings().sessions().contains(&session(1)),
        "a released session rose again"
    );
}

#[tokio::test]
async fn i12_an_accept_that_cannot_be_written_leaves_the_doubt_open() {
    let disk = filled().await;
    let name = names(&segments(&disk)).remove(1);
    take_file(&*segments(&disk), &name);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    // Only the doubts about absent blocks: no inventory write before.
    let open = open_doubts(&engine);
    let (last, others) = open.split_last().unwrap();
    for d in others {
        engine.hold().accept(d.number).unwrap();
    }
    assert_eq!(last.kind, DoubtKind::Absent);
    disk.strike(Verb::Sync, 1, Fault::Eio);
    assert!(engine.hold().accept(last.number).is_err());
    assert!(
        !open_doubts(&engine).is_empty(),
        "accepted in memory, held all the same"
    );
}

#[tokio::test]
async fn i12_a_disk_that_was_made_much_larger_opens_without_doubt() {
    let disk = FaultyDisk::new();
    let small = 1 << 20;
    drop(open_memory(&disk, small).unwrap());
    let disk = disk.kill();
    // 64 KiB segments: 2 * C / 64 KiB * 56 B > 64 MiB from C = 38 GiB on
    let large = 40 << 30;
    for _round in 0..2 {
        match open_memory(&disk, large) {
            Ok(_e) => (),
            Err(_e) => (),
        }
    }
    let engine = open_memory(&disk, large).unwrap();
    assert_eq!(kinds(&engine), []);
}

#[tokio::test]
async fn i4_no_group_is_released_after_the_doubt_of_the_one_before() {
    let cap = 64 << 20;
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, cap).unwrap();
    let shared = numbered(9_999, 300);
    let own = numbered(9_998, 300);
    for n in 0..1_100u64 {
        let r = engine
            .put_seal(
                session(n),
                PartNo(0),
                vec![own.id, shared.id],
                vec![own.clone(), shared.clone()],
            )
            .await;
        assert!(matches!(r, Ok(SealOutcome::Sealed { .. })), "{n} {r:?}");
    }
    // The set of session 0 lies in the first file, and rots.
    let mut needle = own.id.as_bytes().to_vec();
    needle.extend_from_slice(shared.id.as_bytes());
    let name = names(&segments(&disk)).remove(0);
    let bytes = contents(&*segments(&disk), &name);
    let at = bytes.windows(64).position(|w| w == &needle[..]).unwrap();
    disk.rot(&format!("segments/{name}"), at as u64 + 3, 0xff)
        .or_else(|_| disk.rot(&name, at as u64 + 3, 0xff))
        .unwrap();
    let all: Vec<_> = (0..1_100).map(session).collect();
    let results = engine.releaser().release_all(&all).await;
    let ok = results.iter().filter(|(_, r)| r.is_ok()).count();
    assert_eq!(ok, 0);
}
