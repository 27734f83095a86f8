//! Epochs: a disk that lost its last writes, or is an older copy, is told from one that has all,
//! whatever it has written since.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;

use cstore_log::{Fault, FaultyDisk, Verb};
use cstore_storage::EngineError;
use cstore_storage::engine::{
    AcceptError, Answer, CompactStep, DiskOptions, DoubtKind, Engine, Need, SealOutcome,
};
use cstore_testkit::engine::{CAPACITY, identity, numbered, open_memory, options, store};
use cstore_testkit::session;
use cstore_types::epoch::{SealPoint, SeenSeals};
use cstore_types::{PartNo, SealSeq};

use crate::hold::{
    LEN, N_FILES, copy_alive, filled, many_segments_away, names, put_file, segments, take_file,
    try_to_free,
};
use crate::model::answer;

/// Stores the block of a number and returns the seal, as the master remembers it.
pub(crate) async fn sealed(engine: &Engine, n: u64) -> SealPoint {
    let block = numbered(n, LEN);
    let ids = vec![block.id];
    let outcome = engine
        .put_seal(session(n), PartNo(0), ids, vec![block])
        .await;
    match outcome.unwrap() {
        SealOutcome::Sealed { seal_seq, .. } => engine.judge().seal_point(seal_seq),
        other => panic!("{other:?}"),
    }
}

/// Returns a disk with `n` seals, its copies from before each of them, and the last seal.
async fn grown(n: u64) -> (FaultyDisk, Vec<FaultyDisk>, SealPoint) {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let mut copies = Vec::new();
    let mut seen = SealPoint::default();
    for n in 0..n {
        copies.push(copy_alive(&disk));
        seen = sealed(&engine, n).await;
    }
    drop(engine);
    (disk.kill(), copies, seen)
}

/// Returns true if the disk has a doubt of that kind that nobody accepted.
fn is_doubted(engine: &Engine) -> bool {
    let doubts = engine.hold().doubts();
    let mut open = doubts.iter().filter(|doubt| !doubt.accepted);
    open.any(|doubt| doubt.kind == DoubtKind::StoreOlder)
}

#[tokio::test]
async fn i4_s08_lost_writes_are_seen_for_1_to_8_frames_and_1_to_4_opens_with_a_kill_each_time() {
    let (disk, copies, seen) = grown(12).await;
    assert!(
        open_memory(&disk, CAPACITY)
            .unwrap()
            .judge()
            .judge(&answer(seen))
    );

    for lost in 1..=8 {
        for opens in 1..=4 {
            for writes in [0, 1, lost, 20] {
                let mut older = copy_alive(&copies[copies.len() - lost]);
                for open in 0..opens {
                    let engine = open_memory(&older, CAPACITY).unwrap();
                    for n in 0..writes {
                        let n = 1_000 + (open * 100 + n) as u64;
                        store(&engine, n, 100).await.unwrap();
                    }
                    drop(engine);
                    older = older.kill();
                }
                let engine = open_memory(&older, CAPACITY).unwrap();
                let what = format!("{lost} lost, {opens} opens, {writes} writes");
                assert!(!engine.judge().judge(&answer(seen)), "{what}");
                assert!(is_doubted(&engine) && engine.hold().is_held(), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn i4_the_same_is_seen_after_clean_stops_power_loss_and_compaction() {
    for seed in 0..8 {
        let disk = FaultyDisk::new();
        let engine = open_memory(&disk, CAPACITY).unwrap();
        for n in 0..10 {
            store(&engine, n, LEN).await.unwrap();
        }
        engine.close().unwrap();
        drop(engine);
        let older = copy_alive(&disk);
        // The right disk is restarted, and goes on.
        let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
        let seen = sealed(&engine, 50).await;
        drop(engine);

        let mut older = older;
        for round in 0..4 {
            let engine = open_memory(&older, CAPACITY).unwrap();
            for n in 0..6 {
                store(&engine, 100 + round * 10 + n, LEN).await.unwrap();
            }
            engine.releaser().release(session(round)).await.unwrap();
            engine.recycler().reclaim();
            older = match (seed + round) % 3 {
                0 => {
                    engine.close().unwrap();
                    older.kill()
                }
                1 => older.kill(),
                _ => older.power_loss(seed),
            };
        }
        let engine = open_memory(&older, CAPACITY).unwrap();
        assert!(!engine.judge().judge(&answer(seen)), "seed {seed}");
    }
}

#[tokio::test]
async fn i4_two_copies_that_both_write_are_no_copies_of_each_other() {
    let disk = filled().await;
    let other = copy_alive(&disk);
    let mut engines = [disk, other].map(|disk| open_memory(&disk, CAPACITY).unwrap());
    let mut seen = Vec::new();
    for engine in &engines {
        seen.push(sealed(engine, 500).await);
    }
    assert_eq!(seen[0].seq, seen[1].seq);
    engines.swap(0, 1);
    for (engine, seen) in engines.iter().zip(seen) {
        assert!(!engine.judge().judge(&answer(seen)));
        assert!(is_doubted(engine));
    }
}

#[tokio::test]
async fn i4_an_older_disk_frees_nothing_and_goes_on_with_reads_and_seals() {
    let older = filled().await;
    let right = copy_alive(&older);
    let seen = sealed(&open_memory(&right, CAPACITY).unwrap(), 500).await;

    let engine = open_memory(&older, CAPACITY).unwrap();
    assert!(!engine.judge().judge(&answer(seen)));
    try_to_free(&engine).await;
    assert_eq!(engine.holdings().sessions().len() as u64, N_FILES);
    for n in 0..N_FILES {
        engine.read_block(&numbered(n, LEN).id).unwrap();
    }
    let newer = sealed(&engine, 600).await;
    let text = engine.hold().reason().unwrap();
    assert!(
        text.contains("older than what the master has seen"),
        "{text}"
    );

    // What it seals now does not disprove the doubt, also if the master is told by mistake that it
    // has seen no more than that.
    assert!(engine.judge().judge(&answer(newer)));
    assert!(is_doubted(&engine));
    drop(engine);
    let engine = open_memory(&older.kill(), CAPACITY).unwrap();
    assert!(is_doubted(&engine), "it survives a restart");
}

#[tokio::test]
async fn i12_an_accepted_older_disk_frees_again_and_is_not_doubted_for_the_same_seal() {
    let older = filled().await;
    let right = copy_alive(&older);
    let right = open_memory(&right, CAPACITY).unwrap();
    let first = sealed(&right, 500).await;
    let second = sealed(&right, 501).await;

    let mut engine = open_memory(&older, CAPACITY).unwrap();
    assert!(!engine.judge().judge(&answer(first)));
    let wrong = engine.hold().accept(7).unwrap_err();
    assert!(matches!(wrong, AcceptError::Unknown { number: 7, .. }));
    engine.hold().accept(1).unwrap();
    for _ in 0..3 {
        // The master tells the old seal until it has heard of the accept.
        assert!(!engine.judge().judge(&answer(first)));
        assert!(!engine.hold().is_held());
        drop(engine);
        engine = open_memory(&older.kill(), CAPACITY).unwrap();
    }
    engine.releaser().release(session(0)).await.unwrap();

    // Another seal that is not here was not accepted.
    assert!(!engine.judge().judge(&answer(second)));
    assert!(engine.hold().is_held());
    let doubts = engine.hold().doubts();
    let open = doubts.iter().find(|doubt| !doubt.accepted).unwrap();
    engine.hold().accept(open.number).unwrap();

    // The master has taken the disk as it is.
    let head = sealed(&engine, 700).await;
    assert!(engine.judge().judge(&answer(head)));
    assert!(
        !engine
            .hold()
            .doubts()
            .iter()
            .any(|doubt| doubt.kind == DoubtKind::StoreOlder)
    );
    assert!(!engine.hold().is_held());
    assert!(engine.judge().agrees(&answer(head)));
}

/// The newest segment away: the disk is in doubt for two reasons, and both end by themselves.
#[tokio::test]
async fn i12_an_older_disk_is_not_in_doubt_any_more_when_what_it_lacked_is_back() {
    for opens in 1..4 {
        let disk = filled().await;
        let engine = open_memory(&disk, CAPACITY).unwrap();
        let seen = sealed(&engine, 500).await;
        drop(engine);
        let mut disk = disk.kill();
        let folder = segments(&disk);
        let newest = names(&folder).pop().unwrap();
        let bytes = take_file(&*folder, &newest);
        for n in 0..opens {
            let engine = open_memory(&disk, CAPACITY).unwrap();
            assert!(!engine.judge().judge(&answer(seen)), "{opens} opens");
            store(&engine, 600 + n, LEN).await.unwrap();
            drop(engine);
            disk = disk.kill();
        }

        put_file(&*segments(&disk), &newest, &bytes);
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert!(engine.judge().judge(&answer(seen)), "{opens} opens");
        assert_eq!(engine.hold().doubts(), [], "{opens} opens");
        assert!(!engine.hold().is_held());
    }
}

#[tokio::test]
async fn i4_a_disk_frees_and_seals_nothing_before_an_answer_of_the_master_was_judged() {
    let disk = filled().await;
    let waiting = DiskOptions {
        waits_for_master: true,
        ..options(CAPACITY)
    };
    let engine = Engine::open(Arc::new(disk), "memory", &identity(), &waiting).unwrap();
    try_to_free(&engine).await;
    assert_eq!(engine.holdings().sessions().len() as u64, N_FILES);
    let refused = store(&engine, 600, LEN).await.unwrap_err();
    assert!(matches!(refused, EngineError::Unjudged), "{refused:?}");
    engine.read_block(&numbered(0, LEN).id).unwrap();
    assert_eq!(engine.hold().doubts(), []);

    assert!(engine.judge().judge(&answer(SealPoint::default())));
    store(&engine, 600, LEN).await.unwrap();
    engine.releaser().release(session(0)).await.unwrap();
    assert!(!engine.hold().is_held());
}

/// Before that the disk may be an older copy, and references that it lacks may need these segments.
#[tokio::test]
async fn i4_dead_segments_stay_until_an_answer_of_the_master_was_judged() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 0..N_FILES {
        store(&engine, n, LEN).await.unwrap();
    }
    for n in 0..N_FILES {
        engine.releaser().release(session(n)).await.unwrap();
    }
    drop(engine);
    let waiting = DiskOptions {
        waits_for_master: true,
        ..options(CAPACITY)
    };
    let disk = Arc::new(disk.kill());
    let engine = Engine::open(disk, "memory", &identity(), &waiting).unwrap();
    assert!(engine.hold().is_held());
    engine.forget_orphans();
    assert_eq!(engine.recycler().reclaim(), 0);
    let step = engine.compactor().step(Need::Now).await.unwrap();
    assert_eq!(step, CompactStep::Idle);

    assert!(engine.judge().judge(&answer(SealPoint::default())));
    assert!(!engine.hold().is_held());
    engine.forget_orphans();
    assert!(engine.recycler().reclaim() > 0);
}

/// The list of epochs stays short: the master asks for the newest seal only.
#[tokio::test]
async fn i12_epochs_that_nobody_asks_for_are_forgotten() {
    let mut disk = FaultyDisk::new();
    for n in 0..90 {
        let engine = open_memory(&disk, CAPACITY).unwrap();
        let seen = sealed(&engine, n).await;
        assert!(engine.judge().judge(&answer(seen)));
        let listed = engine.judge().epochs().len();
        assert!(listed <= 68, "{listed} epochs after {n} opens");
        drop(engine);
        disk = disk.kill();
    }
}

/// A program before epochs at the master kept the sequence without the nonce.
#[tokio::test]
async fn i12_a_seal_whose_nonce_is_not_known_is_no_doubt() {
    let engine = open_memory(&FaultyDisk::new(), CAPACITY).unwrap();
    let seen = sealed(&engine, 1).await;
    assert!(
        engine
            .judge()
            .judge(&answer(SealPoint { nonce: 0, ..seen }))
    );
    assert_eq!(engine.hold().doubts(), []);
}

/// Others rest on what the master has seen: it must not be hidden behind many lost segments.
#[tokio::test]
async fn i4_a_full_list_of_doubts_has_a_place_for_the_one_about_the_age_of_the_disk() {
    let (disk, n_lost) = many_segments_away().await;
    assert!(n_lost > 32);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let lost = SealPoint {
        seq: SealSeq(engine.seal_seq().0 + 1),
        nonce: 7,
    };
    assert!(!engine.judge().judge(&answer(lost)));
    assert!(is_doubted(&engine));
    // The last place is kept for lost sets.
    assert_eq!(engine.hold().doubts().len(), 31);
}

#[tokio::test]
async fn i4_a_doubt_about_the_age_of_the_disk_outlives_epochs_that_are_forgotten() {
    let older = filled().await;
    let right = open_memory(&copy_alive(&older), CAPACITY).unwrap();
    let lost = sealed(&right, 500).await;
    let mut disk = older;
    for n in 0..80 {
        let engine = open_memory(&disk, CAPACITY).unwrap();
        if n == 0 {
            assert!(!engine.judge().judge(&answer(lost)));
        }
        store(&engine, 600 + n, 100).await.unwrap();
        // Told by mistake.
        let newest = engine.judge().seal_point(engine.seal_seq());
        for _ in 0..2 {
            assert!(engine.judge().judge(&answer(newest)), "open {n}");
        }
        assert!(is_doubted(&engine), "open {n}");
        drop(engine);
        disk = disk.kill();
    }
}

/// Opens that die at every call of the disk, twice in a row.
#[tokio::test]
async fn i4_lost_writes_are_seen_after_opens_that_died_at_any_call() {
    let (disk, copies, seen) = grown(6).await;
    let whole = copy_alive(&disk);
    let dying = |disk: &FaultyDisk| {
        let mut died = Vec::new();
        for verb in [Verb::Write, Verb::Sync, Verb::Create] {
            for nth in 1..12 {
                let struck = copy_alive(disk);
                struck.strike(verb, nth, Fault::Eio);
                if open_memory(&struck, CAPACITY).is_ok() {
                    break;
                }
                died.push(struck.kill());
            }
        }
        died
    };
    for (disk, holds) in [(&copies[4], false), (&whole, true)] {
        for first in dying(disk) {
            for second in dying(&first) {
                let engine = open_memory(&second, CAPACITY).unwrap();
                let epochs = engine.judge().epochs();
                let judged = engine.judge().judge(&answer(seen));
                assert_eq!(judged, holds, "{epochs:?}");
                assert_eq!(
                    engine.hold().is_held(),
                    !holds,
                    "{:?}",
                    engine.hold().doubts()
                );
            }
        }
    }
}

/// The older disk has taken uploads in doubt; the right one holds all that was seen before, and
/// lacks those.
#[tokio::test]
async fn i4_a_disk_must_hold_what_was_committed_in_doubt_as_well() {
    let older = filled().await;
    let right = open_memory(&copy_alive(&older), CAPACITY).unwrap();
    let newest = sealed(&right, 500).await;
    let older = open_memory(&older, CAPACITY).unwrap();
    assert!(!older.judge().judge(&answer(newest)));
    let in_doubt = sealed(&older, 600).await;
    let both = Answer {
        seen: Some(SeenSeals { newest, in_doubt }),
        ..answer(newest)
    };

    assert!(right.judge().agrees(&answer(newest)));
    assert!(!right.judge().agrees(&both) && !right.judge().judge(&both));
    let lost: Vec<_> = right
        .hold()
        .doubts()
        .iter()
        .filter_map(|doubt| doubt.lost_seal())
        .collect();
    assert_eq!(lost, [in_doubt]);
    try_to_free(&right).await;
    // A person goes on without the files of the older one.
    right
        .hold()
        .accept(right.hold().doubts()[0].number)
        .unwrap();
    assert!(!right.judge().judge(&both), "the master says it still");
    assert!(!right.hold().is_held());
    assert!(right.judge().judge(&answer(newest)));
    assert!(!is_doubted(&right) && right.judge().agrees(&answer(newest)));
}
