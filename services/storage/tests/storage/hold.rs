//! Doubt: a disk on which references may be hidden frees nothing, says why, and goes on when that
//! is disproved or accepted.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{Disk, FaultyDisk};
use cstore_storage::EngineError;
use cstore_storage::engine::{
    AcceptError, CompactStep, Doubt, DoubtKind, Engine, Identity, Need, PutOutcome, SealOutcome,
};
use cstore_testkit::engine::{CAPACITY, identity, numbered, open_memory, options, store};
use cstore_testkit::session;
use cstore_types::{Block, PartNo, StoreUuid};

pub(crate) const N_FILES: u64 = 24;
pub(crate) const LEN: usize = 40_000;
pub(crate) const INVENTORY: &str = "inventory.bin";
pub(crate) const SUPERBLOCK: &str = "superblock.bin";

pub(crate) fn nth(n: u64) -> Block {
    numbered(n, LEN)
}

/// A disk with several segments: each session holds a block of its own, and from the second on that
/// of the session before it.
pub(crate) async fn filled() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 0..N_FILES {
        let mut ids = vec![nth(n).id];
        ids.extend(n.checked_sub(1).map(|before| nth(before).id));
        let sealed = engine
            .put_seal(session(n), PartNo(0), ids, vec![nth(n)])
            .await;
        assert!(
            matches!(sealed, Ok(SealOutcome::Sealed { .. })),
            "{sealed:?}"
        );
    }
    drop(engine);
    disk.kill()
}

/// The same files on another disk. Ends the process that uses `disk`.
pub(crate) fn copy(disk: &FaultyDisk) -> FaultyDisk {
    copy_alive(&disk.kill())
}

/// The same files on another disk, as a snapshot of a disk in use has them.
pub(crate) fn copy_alive(from: &FaultyDisk) -> FaultyDisk {
    let to = FaultyDisk::new();
    for name in [INVENTORY, SUPERBLOCK] {
        put_file(&to, name, &contents(from, name));
    }
    let (from, to_folder) = (segments(from), segments(&to));
    for name in from.list().unwrap() {
        put_file(&*to_folder, &name, &contents(&*from, &name));
    }
    to.sync_dir().unwrap();
    to
}

/// Name and bytes of the first segment of a disk with another identity.
pub(crate) async fn segment_of_another_disk() -> (String, Vec<u8>) {
    let other = FaultyDisk::new();
    let identity = Identity {
        store: StoreUuid::from_bytes([0xee; 16]),
        ..identity()
    };
    let disk = Arc::new(other.clone());
    let engine = Engine::open(disk, "other", &identity, &options(CAPACITY)).unwrap();
    store(&engine, 1, LEN).await.unwrap();
    engine.close().unwrap();
    let name = names(&segments(&other)).remove(0);
    let bytes = contents(&*segments(&other), &name);
    (name, bytes)
}

/// A disk that has lost more segments than a superblock has places for doubts, and how many.
pub(crate) async fn many_segments_away() -> (FaultyDisk, usize) {
    let mut disk = FaultyDisk::new();
    // Every start leaves a segment of its own.
    for n in 0..40 {
        let engine = open_memory(&disk, CAPACITY).unwrap();
        store(&engine, n, LEN).await.unwrap();
        drop(engine);
        disk = disk.kill();
    }
    let folder = segments(&disk);
    let mut lost = names(&folder);
    lost.pop();
    for name in &lost {
        take_file(&*folder, name);
    }
    (disk, lost.len())
}

pub(crate) fn segments(disk: &FaultyDisk) -> Arc<dyn Disk> {
    disk.subdir("segments").unwrap()
}

pub(crate) fn names(folder: &Arc<dyn Disk>) -> Vec<String> {
    let mut names = folder.list().unwrap();
    names.retain(|name| !name.ends_with(".ready"));
    names.sort();
    names
}

pub(crate) fn contents(folder: &dyn Disk, name: &str) -> Vec<u8> {
    let file = folder.open(name).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

pub(crate) fn put_file(folder: &dyn Disk, name: &str, bytes: &[u8]) {
    if folder.list().unwrap().iter().any(|found| found == name) {
        folder.remove(name).unwrap();
    }
    let file = folder.create(name, bytes.len() as u64).unwrap();
    file.write_all_vectored_at(&[Bytes::copy_from_slice(bytes)], 0)
        .unwrap();
    file.sync_data().unwrap();
    folder.sync_dir().unwrap();
}

pub(crate) fn take_file(folder: &dyn Disk, name: &str) -> Vec<u8> {
    let bytes = contents(folder, name);
    folder.remove(name).unwrap();
    folder.sync_dir().unwrap();
    bytes
}

/// Where the data frames of a segment begin.
pub(crate) fn frames(segment: &[u8]) -> Vec<usize> {
    let is_data =
        |at: &usize| segment[*at..].starts_with(b"CLF2") && segment[*at + 28..*at + 32] == [0; 4];
    (0..segment.len()).step_by(4_096).filter(is_data).collect()
}

/// Everything that frees on a disk that is not on hold.
pub(crate) async fn try_to_free(engine: &Engine) {
    for n in 0..N_FILES {
        let released = engine.releaser().release(session(n)).await;
        assert!(
            matches!(released, Err(EngineError::Held(_))),
            "{n}: {released:?}"
        );
        engine.unpin(session(n));
    }
    for _ in 0..3 {
        engine.sweep_pins();
    }
    engine.forget_orphans();
    assert_eq!(engine.recycler().reclaim(), 0);
    let step = engine.compactor().step(Need::Now).await.unwrap();
    assert_eq!(step, CompactStep::Idle);
}

pub(crate) fn kinds(engine: &Engine) -> Vec<DoubtKind> {
    let doubts = engine.hold().doubts();
    let open = doubts.iter().filter(|doubt| !doubt.accepted);
    open.map(|doubt| doubt.kind).collect()
}

pub(crate) fn open_doubts(engine: &Engine) -> Vec<Doubt> {
    let mut doubts = engine.hold().doubts();
    doubts.retain(|doubt| !doubt.accepted);
    doubts
}

#[track_caller]
pub(crate) fn assert_whole(engine: &Engine) {
    assert_eq!(engine.hold().doubts(), []);
    for n in 0..N_FILES {
        let read = engine.read_block(&nth(n).id);
        assert_eq!(read.unwrap(), nth(n).bytes, "block {n}");
    }
    assert_eq!(engine.holdings().sessions().len() as u64, N_FILES);
}

/// The directory of the segment that is away knows sets whose blocks lie in others: without the
/// inventory those would be orphans, and freed.
#[tokio::test]
async fn i4_each_segment_may_be_away_for_a_while_and_nothing_is_freed() {
    let whole = filled().await;
    let all = names(&segments(&whole));
    assert!(all.len() >= 4, "{all:?}");
    for name in &all {
        for how_it_stops in ["kill", "stop"] {
            let disk = copy(&whole);
            let bytes = take_file(&*segments(&disk), name);
            let engine = open_memory(&disk, CAPACITY).unwrap();
            assert!(
                kinds(&engine).contains(&DoubtKind::Missing),
                "{name}: {:?}",
                engine.hold().doubts()
            );
            try_to_free(&engine).await;
            // Writes go on.
            store(&engine, 1_000, LEN).await.unwrap();
            assert_eq!(engine.read_block(&nth(1_000).id).unwrap(), nth(1_000).bytes);
            if how_it_stops == "stop" {
                engine.close().unwrap();
            }
            drop(engine);

            // It is still away at the next start, and then back.
            let disk = disk.kill();
            let engine = open_memory(&disk, CAPACITY).unwrap();
            try_to_free(&engine).await;
            drop(engine);
            let disk = disk.kill();
            put_file(&*segments(&disk), name, &bytes);
            let engine = open_memory(&disk, CAPACITY).unwrap();
            assert_eq!(engine.hold().doubts(), [], "{name} is back");
            engine
                .releaser()
                .release(session(1_000))
                .await
                .unwrap_or_else(|error| panic!("{name} is back: {error}"));
            assert_whole(&engine);
        }
    }
}

#[tokio::test]
async fn i4_a_segment_that_was_cut_between_two_frames_is_missed() {
    let whole = filled().await;
    // A stop ends every segment with a footer. Without it the next open takes a cut file as such.
    for is_stopped in [false, true] {
        let base = copy(&whole);
        open_memory(&base, CAPACITY).unwrap().close().unwrap();
        let base = base.kill();
        let source = if is_stopped { &base } else { &whole };
        let source = &copy(source);
        let all = names(&segments(source));
        for name in all.clone() {
            let disk = copy(source);
            let bytes = contents(&*segments(&disk), &name);
            let Some(cut) = frames(&bytes).into_iter().skip(1).next_back() else {
                continue;
            };
            let file = segments(&disk).open(&name).unwrap();
            file.set_len(cut as u64).unwrap();
            file.sync_data().unwrap();
            let disk = disk.kill();
            let engine = open_memory(&disk, CAPACITY).unwrap();
            // What the process was writing when it died is told by the master only.
            let live = !is_stopped && name == *all.last().unwrap();
            if live {
                continue;
            }
            assert!(
                kinds(&engine).contains(&DoubtKind::Short),
                "{name}: {:?}",
                engine.hold().doubts()
            );
            try_to_free(&engine).await;
            drop(engine);

            let disk = disk.kill();
            put_file(&*segments(&disk), &name, &bytes);
            assert_whole(&open_memory(&disk, CAPACITY).unwrap());
        }
    }
}

#[tokio::test]
async fn i4_a_segment_of_another_disk_is_not_taken_for_the_one_that_is_missing() {
    let disk = filled().await;
    let (name, theirs) = segment_of_another_disk().await;

    let ours = contents(&*segments(&disk), &name);
    put_file(&*segments(&disk), &name, &theirs);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(
        kinds(&engine).contains(&DoubtKind::Foreign),
        "{:?}",
        engine.hold().doubts()
    );
    try_to_free(&engine).await;
    drop(engine);
    // It was left alone.
    assert!(contents(&*segments(&disk), &name) == theirs);

    let disk = disk.kill();
    put_file(&*segments(&disk), &name, &ours);
    assert_whole(&open_memory(&disk, CAPACITY).unwrap());
}

/// A folder of segments that is empty, because another volume is not mounted there.
#[tokio::test]
async fn i4_a_disk_without_any_of_its_segments_takes_no_writes() {
    let disk = filled().await;
    let folder = segments(&disk);
    let all: Vec<_> = names(&folder)
        .into_iter()
        .map(|name| (name.clone(), take_file(&*folder, &name)))
        .collect();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert_eq!(kinds(&engine), vec![DoubtKind::Missing; all.len()]);
    let refused = store(&engine, 1_000, LEN).await.unwrap_err();
    assert!(refused.to_string().contains("mounted"), "{refused}");
    let put = engine.put_blocks(session(1_000), vec![nth(1_000)]).await;
    assert!(
        matches!(put[..], [PutOutcome::Refused(EngineError::Held(_))]),
        "{put:?}"
    );
    assert!(engine.read_only().is_some());
    engine.close().unwrap();
    drop(engine);

    let disk = disk.kill();
    for (name, bytes) in &all {
        put_file(&*segments(&disk), name, bytes);
    }
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert_whole(&engine);
    store(&engine, 1_000, LEN).await.unwrap();
}

/// One file of a disk in which block 5 lies, alone.
fn segment_of_block_5(disk: &FaultyDisk) -> String {
    let needle = &nth(5).bytes;
    let folder = segments(disk);
    let holds = |name: &String| {
        contents(&*folder, name)
            .windows(needle.len())
            .step_by(1)
            .any(|window| window[..8] == needle[..8] && window == &needle[..])
    };
    names(&folder).into_iter().find(holds).unwrap()
}

/// The count of a block that is absent is kept for it: an upload that brings it back heals all
/// files that need it, and the removal of one of them does not free it.
#[tokio::test]
async fn i4_a_lost_block_that_is_uploaded_again_is_held_by_all_who_name_it() {
    let disk = filled().await;
    let name = segment_of_block_5(&disk);
    take_file(&*segments(&disk), &name);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(
        kinds(&engine).contains(&DoubtKind::Absent),
        "{:?}",
        engine.hold().doubts()
    );
    let missing = open_doubts(&engine)
        .into_iter()
        .find(|doubt| doubt.kind == DoubtKind::Missing)
        .unwrap();
    engine.hold().accept(missing.number).unwrap();
    assert!(!kinds(&engine).is_empty(), "blocks are absent still");

    // The blocks that are missing come back under new names: the last one closes the doubt.
    for n in 0..N_FILES {
        if engine.read_block(&nth(n).id).is_err() {
            let sealed = engine
                .put_seal(session(2_000 + n), PartNo(0), vec![nth(n).id], vec![nth(n)])
                .await;
            assert!(
                matches!(sealed, Ok(SealOutcome::Sealed { .. })),
                "{sealed:?}"
            );
        }
    }
    engine.hold().keep().unwrap();
    assert_eq!(kinds(&engine), []);

    // Everybody who named it before is removed, with restarts between.
    let disk = {
        engine.close().unwrap();
        drop(engine);
        disk.kill()
    };
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert_eq!(kinds(&engine), []);
    for n in 0..N_FILES {
        engine.releaser().release(session(n)).await.unwrap();
    }
    engine.forget_orphans();
    engine.recycler().reclaim();
    while engine.compactor().step(Need::Now).await.unwrap() != CompactStep::Idle {}
    drop(engine);
    let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
    engine.forget_orphans();
    engine.recycler().reclaim();
    let read = engine.read_block(&nth(5).id).unwrap();
    assert_eq!(read, nth(5).bytes);
}

#[tokio::test]
async fn i12_s14_a_person_ends_a_hold_and_the_file_that_was_given_up_is_not_read_again() {
    let disk = filled().await;
    let name = names(&segments(&disk)).remove(1);
    let bytes = take_file(&*segments(&disk), &name);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let numbers: Vec<u32> = open_doubts(&engine)
        .iter()
        .map(|doubt| doubt.number)
        .collect();
    let refused = engine.hold().accept(77).unwrap_err();
    assert!(matches!(&refused, AcceptError::Unknown { open, .. } if *open == numbers));
    assert!(refused.to_string().contains("77"), "{refused}");
    for number in numbers {
        assert!(engine.hold().accept(number).unwrap().accepted);
    }
    assert_eq!(kinds(&engine), []);
    engine
        .releaser()
        .release(session(N_FILES - 1))
        .await
        .unwrap();
    drop(engine);

    // The file that was given up comes back: it is not read, and raises nothing that was removed.
    let disk = disk.kill();
    put_file(&*segments(&disk), &name, &bytes);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert_eq!(kinds(&engine), []);
    assert!(!engine.holdings().sessions().contains(&session(N_FILES - 1)));
    drop(engine);
    assert!(
        contents(&*segments(&disk), &name) == bytes,
        "it is left alone"
    );
}

#[tokio::test]
async fn i4_an_inventory_that_is_lost_damaged_or_older_is_doubt() {
    let young = filled().await;
    let old_image = contents(&young, INVENTORY);
    let engine = open_memory(&young, CAPACITY).unwrap();
    store(&engine, 500, LEN).await.unwrap();
    drop(engine);
    let whole = young.kill();
    for what in ["lost", "damaged", "older"] {
        let disk = copy(&whole);
        match what {
            "lost" => drop(take_file(&disk, INVENTORY)),
            "damaged" => {
                let mut bytes = contents(&disk, INVENTORY);
                bytes.fill(0xee);
                put_file(&disk, INVENTORY, &bytes);
            }
            _ => put_file(&disk, INVENTORY, &old_image),
        }
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert!(
            kinds(&engine).contains(&DoubtKind::Inventory),
            "{what}: {:?}",
            engine.hold().doubts()
        );
        try_to_free(&engine).await;
        drop(engine);
        // It was written anew, but nobody has said that it is right.
        let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
        assert_eq!(kinds(&engine), [DoubtKind::Inventory], "{what}");
        let number = open_doubts(&engine)[0].number;
        engine.hold().accept(number).unwrap();
        engine.releaser().release(session(0)).await.unwrap();
    }
}

#[tokio::test]
async fn i4_one_damaged_area_of_the_inventory_is_no_doubt() {
    let whole = filled().await;
    let bytes = contents(&whole, INVENTORY);
    for half in 0..2 {
        let disk = copy(&whole);
        let mut torn = bytes.clone();
        let area = bytes.len() / 2;
        let newest = {
            let generation =
                |at: usize| u64::from_le_bytes(bytes[at + 32..at + 40].try_into().unwrap());
            usize::from(generation(area) > generation(0))
        };
        torn[half * area + 20] ^= 0xff;
        put_file(&disk, INVENTORY, &torn);
        let engine = open_memory(&disk, CAPACITY).unwrap();
        // The newest image may be the one that the superblock names.
        let expected = if half == newest {
            engine.hold().doubts().len()
        } else {
            0
        };
        assert_eq!(
            engine.hold().doubts().len(),
            expected,
            "{:?}",
            engine.hold().doubts()
        );
    }
}

#[tokio::test]
async fn i4_s19_a_superblock_that_is_older_than_the_inventory_is_doubt() {
    let disk = filled().await;
    let old = contents(&disk, SUPERBLOCK);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 600..620 {
        store(&engine, n, LEN).await.unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    let disk = disk.kill();
    drop(open_memory(&disk, CAPACITY).unwrap());
    let disk = disk.kill();
    put_file(&disk, SUPERBLOCK, &old);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(
        kinds(&engine).contains(&DoubtKind::Superblock),
        "{:?}",
        engine.hold().doubts()
    );
    try_to_free(&engine).await;
}

/// More is wrong than the superblock has places for.
#[tokio::test]
async fn i12_more_doubts_than_fit_are_counted_and_hold_the_disk() {
    let (disk, n_missing) = many_segments_away().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let doubts = engine.hold().doubts();
    assert_eq!(doubts.len(), 31, "one place is kept: {doubts:?}");
    let missed: u32 = doubts
        .iter()
        .filter(|doubt| doubt.kind == DoubtKind::Missing)
        .map(|doubt| doubt.count)
        .sum();
    assert_eq!(missed as usize, n_missing);
    let released = engine.releaser().release(session(39)).await;
    assert!(
        matches!(released, Err(EngineError::Held(_))),
        "{released:?}"
    );
}

#[tokio::test]
async fn i10_a_full_disk_on_hold_says_why_deletes_give_no_room() {
    let disk = filled().await;
    let name = names(&segments(&disk)).remove(0);
    take_file(&*segments(&disk), &name);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let refused = loop {
        let n = engine.holdings().totals().blocks + 5_000;
        if let Err(error) = store(&engine, n, LEN).await {
            break error;
        }
    };
    let text = refused.to_string();
    assert!(
        text.contains("full") && text.contains("on hold: segment"),
        "{text}"
    );
}
