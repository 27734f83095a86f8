//! Verification on a disk that fails or whose process dies: nothing unverified is forgotten.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use cstore_log::{Fault, FaultyDisk, Verb};
use cstore_storage::EngineError;
use cstore_storage::engine::{Engine, SealOutcome, VerifyStep};
use cstore_testkit::engine::{CAPACITY, identity, open_memory, options, store};

use crate::hold::{INVENTORY, copy_alive, names, open_doubts, segments, take_file};
use crate::losses::mortal;
use crate::verdicts::{LEN, again, is_damaged, upload};
use crate::verification::{
    accept_all, accepted, n_unverified, name_only, rotten, superblock, verify, verify_below,
};

/// Takes steps until one reads nothing, and returns what it said.
async fn until_it_rests(engine: &Engine) -> Result<VerifyStep, EngineError> {
    loop {
        match engine.verifier().step().await {
            Ok(VerifyStep::Read(_)) => {}
            other => return other,
        }
    }
}

/// Without descriptors nobody can tell whether a block is good.
#[tokio::test]
async fn i8_what_cannot_be_read_for_want_of_descriptors_stays_unverified() {
    let (disk, engine) = accepted().await;
    let all = n_unverified(&engine);
    for skipped in [0, 1, 5] {
        for nth in 1..=2_000 {
            disk.strike(Verb::Read, skipped + nth, Fault::Emfile);
        }
        let stuck = until_it_rests(&engine).await;
        assert!(matches!(stuck, Err(EngineError::Busy(_))), "{stuck:?}");
        assert!(n_unverified(&engine) >= all - 1);
        let refused = name_only(&engine, 100, 0).await;
        assert!(matches!(refused, Err(EngineError::Busy(_))), "{refused:?}");
        disk.calm();
    }
    verify(&engine).await;
    assert_eq!(engine.counters().damaged_blocks.get(), 1);
    let refused = name_only(&engine, 100, 0).await.unwrap();
    assert_eq!(refused, SealOutcome::Missing(vec![0]));
}

/// A pass that ended without the verdict would be forgotten with the next start.
#[tokio::test]
async fn i8_a_pass_does_not_end_before_its_verdicts_are_durable() {
    for fails_for_good in [false, true] {
        let (mut disk, mut engine) = accepted().await;
        if fails_for_good {
            // A segment is being written: it is a frame whose write fails.
            store(&engine, 500, LEN).await.unwrap();
        }
        disk.strike(Verb::Write, 1, Fault::Eio);
        let stuck = until_it_rests(&engine).await;
        assert!(matches!(stuck, Err(EngineError::Busy(_))), "{stuck:?}");
        assert_eq!(engine.read_only().is_some(), fails_for_good);
        assert!(verify_below(&disk) > 0);
        if fails_for_good {
            let rests = engine.verifier().step().await.unwrap();
            assert_eq!(rests, VerifyStep::Idle);
            engine = again(engine, &mut disk, false);
            assert!(upload(&engine, 100, 0).await);
        }
        verify(&engine).await;
        assert_eq!(verify_below(&disk), 0);
        let engine = again(engine, &mut disk, false);
        assert!(upload(&engine, 101, 0).await);
    }
}

/// The end of a pass that could not be written is tried again.
#[tokio::test]
async fn i8_the_end_of_a_pass_is_written_or_the_blocks_stay_unverified() {
    let (disk, engine) = accepted().await;
    let below = verify_below(&disk);
    while n_unverified(&engine) > 0 {
        engine.verifier().step().await.unwrap();
    }
    assert_eq!(verify_below(&disk), below);
    disk.strike(Verb::Sync, 1, Fault::Eio);
    let failed = engine.verifier().step().await;
    assert!(matches!(failed, Err(EngineError::Io { .. })), "{failed:?}");
    assert_eq!(verify(&engine).await, 1);
    assert_eq!(verify_below(&disk), 0);
}

/// Progress of a life before it died.
#[derive(Debug, Default)]
struct Deeds {
    has_accepted: bool,
    has_read_all: bool,
    has_ended: bool,
}

/// One life of a rotten disk: open, accept, verify. It dies after that number of changes
/// and syncs.
async fn live_until(disk: &FaultyDisk, changes: u64) -> Deeds {
    let mut deeds = Deeds::default();
    let mortal = mortal(disk, changes);
    let Ok(engine) = Engine::open(mortal, "memory", &identity(), &options(CAPACITY)) else {
        return deeds;
    };
    for doubt in open_doubts(&engine) {
        if engine.hold().accept(doubt.number).is_err() {
            return deeds;
        }
    }
    deeds.has_accepted = true;
    let rests = until_it_rests(&engine).await;
    deeds.has_read_all = n_unverified(&engine) == 0;
    deeds.has_ended = matches!(rests, Ok(VerifyStep::Ended));
    deeds
}

#[tokio::test]
async fn i6_no_kill_and_no_power_loss_forgets_what_is_unverified_since_an_accept() {
    let base = rotten().await;
    for is_segment_away in [false, true] {
        for power_loss in [None, Some(0), Some(1_000), Some(2_000)] {
            let mut changes = 0;
            while !dies_and_goes_on(&base, is_segment_away, changes, power_loss).await {
                changes += 1;
            }
            assert!(changes > 10, "{changes}");
        }
    }
}

/// A life that ends after that number of changes, and the next one. Returns true if the first one came to
/// the end of the pass.
async fn dies_and_goes_on(
    base: &FaultyDisk,
    is_segment_away: bool,
    changes: u64,
    power_loss: Option<u64>,
) -> bool {
    let disk = copy_rotten(base, is_segment_away);
    let deeds = live_until(&disk, changes).await;
    let what = format!("{changes} changes, power loss {power_loss:?}: {deeds:?}");
    let next = match power_loss {
        Some(seed) => disk.power_loss(seed + changes),
        None => disk.kill(),
    };
    let found = superblock(&next);
    let is_accepted = found.doubts.iter().any(|doubt| doubt.accepted);
    assert!(is_accepted || !deeds.has_accepted, "{what}");
    if is_accepted && !deeds.has_read_all {
        assert!(found.verify_below > 0, "{what}");
        assert!(found.owes_verification, "{what}");
    }
    if deeds.has_ended {
        assert_eq!(found.verify_below, 0, "{what}");
    }

    // Wherever it died, the upload must not rest on the rotten block.
    let engine = open_memory(&next, CAPACITY).unwrap_or_else(|error| panic!("{what}: {error}"));
    accept_all(&engine);
    assert!(upload(&engine, 100, 0).await, "{what}");
    drop(engine);
    let engine = open_memory(&next.kill(), CAPACITY).unwrap();
    assert!(!is_damaged(&engine, 0), "{what}");
    deeds.has_ended
}

/// A rotten disk without its inventory, or without a segment, on another disk.
fn copy_rotten(from: &FaultyDisk, is_segment_away: bool) -> FaultyDisk {
    let to = copy_alive(from);
    if is_segment_away {
        let name = names(&segments(&to)).remove(1);
        take_file(&*segments(&to), &name);
    } else {
        take_file(&to, INVENTORY);
    }
    to
}
