//! Verification: after a doubt was accepted, no upload rests on a block from before it that nobody
//! has read, until a whole pass has read them all.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;

use cstore_log::{Disk, FaultyDisk, Verb};
use cstore_storage::EngineError;
use cstore_storage::engine::{
    AuditPage, DoubtKind, Engine, Need, SealOutcome, Superblock, VerifyStep, peek,
};
use cstore_testkit::engine::{CAPACITY, numbered, open_memory, store};
use cstore_testkit::session;
use cstore_types::epoch::SealPoint;
use cstore_types::{PartNo, SealSeq};

use crate::compaction::{compact, pad, rot};
use crate::hold::{INVENTORY, contents, kinds, names, open_doubts, put_file, segments, take_file};
use crate::model::answer;
use crate::verdicts::{LEN, again, is_damaged, upload};

/// Blocks of a disk, in several segments.
const N: u64 = 60;

/// A disk of which a block `rots`, which nobody has read since.
async fn filled(rots: Option<u64>) -> FaultyDisk {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 0..N {
        store(&engine, n, LEN).await.unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    if let Some(n) = rots {
        rot(&disk, n);
    }
    disk.kill()
}

/// A disk whose block 0 rots.
pub(crate) async fn rotten() -> FaultyDisk {
    filled(Some(0)).await
}

/// A disk whose block `rots`, and whose inventory is gone.
async fn doubted(rots: Option<u64>) -> FaultyDisk {
    let disk = filled(rots).await;
    take_file(&disk, INVENTORY);
    disk
}

pub(crate) fn accept_all(engine: &Engine) {
    for doubt in open_doubts(engine) {
        engine.hold().accept(doubt.number).unwrap();
    }
    assert!(!engine.hold().is_held());
}

/// The engine of a rotten disk whose doubts a person has accepted.
pub(crate) async fn accepted() -> (FaultyDisk, Engine) {
    let disk = doubted(Some(0)).await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert_eq!(kinds(&engine), [DoubtKind::Inventory]);
    accept_all(&engine);
    (disk, engine)
}

pub(crate) fn superblock(disk: &FaultyDisk) -> Superblock {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    peek(&disk, "memory").unwrap().unwrap()
}

pub(crate) fn verify_below(disk: &FaultyDisk) -> u64 {
    superblock(disk).verify_below
}

pub(crate) fn n_unverified(engine: &Engine) -> u64 {
    engine.verifier().unverified_segments()
}

/// Takes steps until the pass ends, and returns how many those were.
pub(crate) async fn verify(engine: &Engine) -> usize {
    for n in 1..10_000 {
        match engine.verifier().step().await.unwrap() {
            VerifyStep::Ended => return n,
            VerifyStep::Read(_) => {}
            VerifyStep::Idle => panic!("nothing is verified"),
        }
    }
    panic!("the pass does not end");
}

/// Enters a doubt while the disk is open: the master has seen a seal that is not here.
fn enter_doubt(engine: &Engine, nonce: u64) {
    let seen = SealPoint {
        seq: SealSeq(1 << 60),
        nonce,
    };
    assert!(!engine.judge().judge(&answer(seen)));
    assert_eq!(kinds(engine), [DoubtKind::StoreOlder]);
}

/// Seals the block of a number that is here, without its bytes.
pub(crate) async fn name_only(
    engine: &Engine,
    as_session: u64,
    n: u64,
) -> Result<SealOutcome, EngineError> {
    let ids = vec![numbered(n, LEN).id];
    engine
        .put_seal(session(as_session), PartNo(0), ids, Vec::new())
        .await
}

#[tokio::test]
async fn i8_an_upload_after_an_accept_and_restarts_rests_on_no_block_that_was_not_read() {
    for is_clean in [true, false] {
        for is_sent in [true, false] {
            let (mut disk, mut engine) = accepted().await;
            let below = verify_below(&disk);
            assert!(below > 0);
            for life in 0..4 {
                engine = again(engine, &mut disk, is_clean);
                assert!(!engine.hold().is_held());
                assert_eq!(verify_below(&disk), below, "life {life}");
                assert!(n_unverified(&engine) >= 3);
            }
            if !is_sent {
                let refused = name_only(&engine, 100, 0).await.unwrap();
                assert_eq!(refused, SealOutcome::Missing(vec![0]));
            }
            assert!(upload(&engine, 101, 0).await, "{is_clean}, {is_sent}");
            assert!(
                upload(&engine, 102, 1).await,
                "a good one is not stored anew"
            );
            assert_eq!(engine.counters().damaged_blocks.get(), 1);
            assert_eq!(engine.counters().stored_blocks.get(), 1);
            for _ in 0..2 {
                engine = again(engine, &mut disk, false);
                assert!(!is_damaged(&engine, 0), "{is_clean}, {is_sent}");
            }
        }
    }
}

#[tokio::test]
async fn i8_a_whole_pass_leaves_verdicts_and_uploads_rest_on_what_is_stored_again() {
    let (mut disk, mut engine) = accepted().await;
    let missing = |engine: &Engine, n| {
        let missing = engine.missing_blocks(session(9), &[numbered(n, LEN).id]);
        engine.unpin(session(9));
        missing[0]
    };
    assert!(!missing(&engine, 0), "nobody has read it");
    verify(&engine).await;
    assert_eq!(n_unverified(&engine), 0);
    assert_eq!(engine.verifier().step().await.unwrap(), VerifyStep::Idle);
    let written = superblock(&disk);
    assert_eq!(
        (written.verify_below, written.owes_verification),
        (0, false)
    );
    assert_eq!(engine.counters().damaged_blocks.get(), 1);

    // Uploads read nothing, in this life nor in the next one.
    for life in 0..3 {
        let reads = disk.calls(Verb::Read);
        for n in 1..N {
            let sealed = name_only(&engine, 1_000 * (life + 1) + n, n).await.unwrap();
            assert!(matches!(sealed, SealOutcome::Sealed { .. }));
        }
        assert_eq!(disk.calls(Verb::Read), reads);
        assert!(missing(&engine, 0), "life {life}");
        engine = again(engine, &mut disk, life == 0);
        assert_eq!(n_unverified(&engine), 0);
    }
    assert!(upload(&engine, 100, 0).await);
    engine = again(engine, &mut disk, false);
    assert!(!is_damaged(&engine, 0));
}

#[tokio::test]
async fn i8_a_seal_over_blocks_from_after_the_doubt_reads_nothing() {
    let (mut disk, engine) = accepted().await;
    for n in 200..210 {
        store(&engine, n, LEN).await.unwrap();
    }
    let engine = again(engine, &mut disk, true);
    let reads = disk.calls(Verb::Read);
    for n in 200..210 {
        name_only(&engine, 1_000 + n, n).await.unwrap();
    }
    assert_eq!(disk.calls(Verb::Read), reads);
    name_only(&engine, 2_000, 1).await.unwrap();
    assert!(disk.calls(Verb::Read) > reads);
}

/// The pass meets segments that are gone, records that moved, and blocks that were freed.
#[tokio::test]
async fn i8_a_pass_ends_whatever_removals_and_compaction_do_in_between() {
    let (mut disk, mut engine) = accepted().await;
    let before = names(&segments(&disk));
    let mut steps = 0;
    loop {
        // Every second file is removed, and what is left of their segments is copied.
        if steps < N && steps % 2 == 1 {
            engine.releaser().release(session(steps)).await.unwrap();
            engine.recycler().reclaim();
            engine.compactor().step(Need::Now).await.unwrap();
        }
        steps += 1;
        match engine.verifier().step().await.unwrap() {
            VerifyStep::Ended => break,
            VerifyStep::Read(_) => {}
            VerifyStep::Idle => panic!("nothing is verified"),
        }
    }
    for n in (steps | 1..N).step_by(2) {
        engine.releaser().release(session(n)).await.unwrap();
    }
    pad(&engine, 300).await;
    compact(&engine).await;
    assert_ne!(names(&segments(&disk)), before);
    assert_eq!((verify_below(&disk), n_unverified(&engine)), (0, 0));
    for _ in 0..2 {
        for n in (0..N).step_by(2) {
            assert_eq!(is_damaged(&engine, n), n == 0, "{n}");
        }
        engine = again(engine, &mut disk, false);
    }
}

/// Segments that are retired before the pass comes to them.
#[tokio::test]
async fn i8_segments_that_are_gone_need_no_verification() {
    let (disk, engine) = accepted().await;
    for n in 1..N {
        engine.releaser().release(session(n)).await.unwrap();
    }
    let before = n_unverified(&engine);
    engine.recycler().reclaim();
    assert!(n_unverified(&engine) < before);
    verify(&engine).await;
    assert_eq!(verify_below(&disk), 0);
}

#[tokio::test]
async fn i8_a_disproved_doubt_ends_without_a_pass() {
    let (disk, engine) = accepted().await;
    verify(&engine).await;
    drop(engine);
    let mut disk = disk.kill();

    // A segment is away, and comes back.
    let name = names(&segments(&disk)).remove(1);
    let bytes = take_file(&*segments(&disk), &name);
    for _ in 0..2 {
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert!(kinds(&engine).contains(&DoubtKind::Missing));
        assert!(verify_below(&disk) > 0 && n_unverified(&engine) > 0);
        assert_eq!(engine.verifier().step().await.unwrap(), VerifyStep::Idle);
        drop(engine);
        disk = disk.kill();
    }
    put_file(&*segments(&disk), &name, &bytes);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert_eq!(kinds(&engine), []);
    assert_eq!((verify_below(&disk), n_unverified(&engine)), (0, 0));
    let written = superblock(&disk);
    assert!(written.doubts.iter().all(|doubt| doubt.accepted));
}

/// The same doubt is found again with every answer of the master, until the disk has what it
/// lacked.
#[tokio::test]
async fn i8_a_doubt_that_is_disproved_while_the_disk_is_open_ends_without_a_pass() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, LEN).await.unwrap();
    let next = SealSeq(engine.seal_seq().0 + 1);
    let seen = answer(engine.judge().seal_point(next));
    let below = engine.seal_seq().0;
    for _ in 0..2 {
        assert!(!engine.judge().judge(&seen));
        assert_eq!((verify_below(&disk), n_unverified(&engine)), (below, 1));
        assert_eq!(
            engine.verifier().step().await.unwrap(),
            VerifyStep::Idle,
            "it is in doubt"
        );
    }
    store(&engine, 1, LEN).await.unwrap();
    assert_eq!(verify_below(&disk), below);
    assert!(engine.judge().judge(&seen));
    assert_eq!((verify_below(&disk), n_unverified(&engine)), (0, 0));
}

/// Two doubts, of which one is disproved and the other accepted, in both orders.
#[tokio::test]
async fn i8_an_accepted_doubt_is_verified_also_when_another_one_is_disproved() {
    for is_accepted_first in [true, false] {
        let disk = doubted(Some(0)).await;
        let engine = open_memory(&disk, CAPACITY).unwrap();
        let name = names(&segments(&disk)).remove(1);
        drop(engine);
        let disk = disk.kill();
        let bytes = take_file(&*segments(&disk), &name);
        let engine = open_memory(&disk, CAPACITY).unwrap();
        let number = |engine: &Engine| {
            let open = open_doubts(engine);
            open.iter()
                .find(|doubt| doubt.kind == DoubtKind::Inventory)
                .unwrap()
                .number
        };
        if is_accepted_first {
            engine.hold().accept(number(&engine)).unwrap();
        }
        drop(engine);
        let mut disk = disk.kill();
        put_file(&*segments(&disk), &name, &bytes);
        let mut engine = open_memory(&disk, CAPACITY).unwrap();
        if !is_accepted_first {
            engine.hold().accept(number(&engine)).unwrap();
        }
        assert!(!engine.hold().is_held());
        for _ in 0..2 {
            assert!(verify_below(&disk) > 0 && n_unverified(&engine) > 0);
            engine = again(engine, &mut disk, false);
        }
        assert!(upload(&engine, 100, 0).await);
        verify(&engine).await;
        assert_eq!(verify_below(&disk), 0);
    }
}

/// Segments that were verified before the second doubt have to be verified again.
#[tokio::test]
async fn i8_a_second_doubt_during_the_pass_begins_it_anew() {
    for writes_between in [false, true] {
        let mut disk = doubted(None).await;
        let engine = open_memory(&disk, CAPACITY).unwrap();
        accept_all(&engine);
        let all = n_unverified(&engine);
        while n_unverified(&engine) > all - 2 {
            engine.verifier().step().await.unwrap();
        }
        let below = verify_below(&disk);
        if writes_between {
            store(&engine, 500, LEN).await.unwrap();
        }
        // Block 1 lies in a segment that was verified.
        rot(&disk, 1);
        enter_doubt(&engine, 1);
        assert_eq!(engine.verifier().step().await.unwrap(), VerifyStep::Idle);
        accept_all(&engine);
        assert_eq!(verify_below(&disk) > below, writes_between);
        assert_eq!(n_unverified(&engine), all + u64::from(writes_between));
        verify(&engine).await;
        assert_eq!((verify_below(&disk), n_unverified(&engine)), (0, 0));
        let engine = again(engine, &mut disk, false);
        let ids = [
            numbered(0, LEN).id,
            numbered(1, LEN).id,
            numbered(2, LEN).id,
        ];
        let missing = engine.missing_blocks(session(9), &ids);
        assert_eq!(missing, [false, true, false]);
    }
}

/// A step reads a part of a large segment. What it has read says nothing about a later doubt.
#[tokio::test]
async fn i8_a_second_doubt_in_the_middle_of_a_segment_begins_it_anew() {
    const LARGE: u64 = 128 << 20;
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, LARGE).unwrap();
    for n in 0..30 {
        store(&engine, n, 100_000).await.unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    let disk = disk.kill();
    take_file(&disk, INVENTORY);
    let engine = open_memory(&disk, LARGE).unwrap();
    accept_all(&engine);
    assert_eq!(n_unverified(&engine), 1);
    let step = engine.verifier().step().await.unwrap();
    assert_eq!(step, VerifyStep::Read(1_000_000));

    rot(&disk, 1);
    enter_doubt(&engine, 1);
    accept_all(&engine);
    assert!(verify(&engine).await > 3);
    assert_eq!(engine.counters().damaged_blocks.get(), 1);
    let missing = engine.missing_blocks(session(9), &[numbered(1, 100_000).id]);
    assert_eq!(missing, [true]);
}

/// The segment that is being written has no directory, and an idle disk does not end it.
#[tokio::test]
async fn i8_the_segment_that_is_being_written_is_verified_too() {
    let mut disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 0..3 {
        store(&engine, n, LEN).await.unwrap();
    }
    enter_doubt(&engine, 1);
    accept_all(&engine);
    rot(&disk, 1);
    assert_eq!(n_unverified(&engine), 1);
    verify(&engine).await;
    assert_eq!((verify_below(&disk), n_unverified(&engine)), (0, 0));
    // A stop ends the segment: the next open does not read its frames.
    let engine = again(engine, &mut disk, true);
    let missing = engine.missing_blocks(session(9), &[numbered(1, LEN).id]);
    assert_eq!(missing, [true]);
    assert!(upload(&engine, 100, 1).await);
}

#[tokio::test]
async fn i8_a_segment_whose_directory_rots_is_verified_by_the_index() {
    let (disk, engine) = accepted().await;
    let id = numbered(0, LEN).id;
    let name = names(&segments(&disk)).remove(0);
    let bytes = contents(&*segments(&disk), &name);
    let in_footer = bytes
        .windows(32)
        .rposition(|window| window == id.as_bytes());
    let path = format!("segments/{name}");
    disk.rot(&path, in_footer.unwrap() as u64, 0xff).unwrap();
    verify(&engine).await;
    assert_eq!(engine.counters().damaged_blocks.get(), 1);
    let missing = engine.missing_blocks(session(9), &[id]);
    assert_eq!(missing, [true]);
    engine.unpin(session(9));
    assert!(upload(&engine, 100, 0).await);
}

/// Lets a whole round of the audit see sessions of which nothing is here.
fn audit(engine: &Engine, sessions: &[u64]) {
    engine.audit().begin();
    let found = engine.audit().take(&AuditPage {
        sessions: sessions.iter().map(|n| session(*n)).collect(),
        last: None,
        is_last: true,
    });
    engine.audit().settle(&found.finding.unwrap());
}

/// A fault that took sets may have taken blocks, too, and the removal of the files disproves nothing.
#[tokio::test]
async fn i8_lost_sets_whose_files_were_removed_leave_the_blocks_unverified() {
    let disk = rotten().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    audit(&engine, &[9_000]);
    assert_eq!(kinds(&engine), [DoubtKind::LostSets]);
    assert!(verify_below(&disk) > 0 && n_unverified(&engine) > 0);
    audit(&engine, &[]);
    assert_eq!(kinds(&engine), []);
    let outcome = name_only(&engine, 7_000, 0).await.unwrap();
    assert_eq!(outcome, SealOutcome::Missing(vec![0]), "block 0 is rotten");
}

/// Lost sets are found while another doubt is open: what was written since that one is in question,
/// too.
#[tokio::test]
async fn i8_lost_sets_beside_another_open_doubt_make_what_was_written_since_unverified() {
    let disk = crate::hold::filled().await;
    let folder = segments(&disk);
    take_file(&*folder, &names(&folder)[1]);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for doubt in open_doubts(&engine) {
        if doubt.kind != DoubtKind::Absent {
            engine.hold().accept(doubt.number).unwrap();
        }
    }
    assert_eq!(kinds(&engine), [DoubtKind::Absent]);
    audit(&engine, &[]);
    let before = verify_below(&disk);
    for n in 1_000..1_060 {
        store(&engine, n, LEN).await.unwrap();
    }
    audit(&engine, &[9_000]);
    assert!(kinds(&engine).contains(&DoubtKind::LostSets));
    assert!(verify_below(&disk) > before);

    rot(&disk, 1_030);
    accept_all(&engine);
    verify(&engine).await;
    assert_eq!(verify_below(&disk), 0);
    let outcome = name_only(&engine, 7_000, 1_030).await.unwrap();
    assert_eq!(
        outcome,
        SealOutcome::Missing(vec![0]),
        "it has rotted since"
    );
}
