//! The engine against a model, over the disk that lies: kills, power loss after kills, failed
//! syncs, full disks.
//!
//! `CSTORE_SEED` picks the first sequence, `CSTORE_CASES` how many. The model knows what was
//! acknowledged: a sealed set holds its blocks until its release; nothing else is promised.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail loudly and prints its seed"
)]

use cstore_log::{Disk, Fault, Log, Options, Record, Urgency, Verb};
use cstore_storage::engine::SealOutcome;
use cstore_testkit::engine::{CAPACITY, identity};
use cstore_testkit::{seed_and_cases, session};
use cstore_types::PartNo;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::model::{World, block, run};

#[tokio::test]
async fn i1_i3_i4_i6_s16_sealed_sets_survive_kills_at_any_call_until_their_release() {
    let (first, cases) = seed_and_cases(1, 1_000);
    let (mut with_power_loss, mut emptied) = (0, 0);
    for seed in first..first + cases {
        let world = run(seed, 30, World::new())
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        with_power_loss += u64::from(world.power_losses > 0);
        emptied += u64::from(world.emptied > 0);
    }
    println!(
        "{with_power_loss} of {cases} sequences lost power, in {emptied} compaction emptied segments"
    );
    assert!(with_power_loss * 5 >= cases, "too few sequences lost power");
    assert!(emptied * 5 >= cases, "too few sequences emptied segments");
}

#[tokio::test]
async fn acknowledging_before_the_sync_is_caught() {
    let mut caught = false;
    for seed in 1..300 {
        let world = World::new();
        world.disk.ignore_syncs();
        caught |= run(seed, 25, world).await.is_err();
    }
    assert!(caught);
}

#[tokio::test]
async fn skipping_one_fsync_is_caught() {
    let mut caught = false;
    for seed in 1..60 {
        let mut world = World::new();
        let mut rng = StdRng::seed_from_u64(seed);
        world.put_and_seal(&mut rng).await;
        world.disk.strike(Verb::Sync, 1, Fault::Skip);
        world.put_and_seal(&mut rng).await;
        world.disk = world.disk.power_loss(seed);
        caught |= world.reopen().await.is_err();
    }
    assert!(caught);
}

/// The presence check of Seal is what makes a set true: without it the set names blocks that
/// nothing has.
#[tokio::test]
async fn i4_sealing_without_the_presence_check_is_caught() {
    let mut world = World::new();
    let absent = block(5);
    let answer = world
        .engine()
        .put_seal(session(0), PartNo(0), vec![absent.id], Vec::new())
        .await
        .unwrap();
    assert_eq!(answer, SealOutcome::Missing(vec![0]));
    assert!(
        world.engine().holdings().sessions().is_empty(),
        "nothing was written"
    );
    // A seal that does not look: the record goes straight into the log.
    world.engine().close().unwrap();
    world.engine = None;
    let options = Options {
        owner: *identity().store.as_bytes(),
        file_bytes: 196_608,
        max_bytes: CAPACITY,
        reserve_bytes: 0,
        compaction_bytes: 0,
        floor_bytes: 0,
        ready_files: 0,
        open_files: 2,
        callers_write: false,
        max_frame_bytes: 1 << 20,
        max_queue_bytes: 1 << 20,
        least_seq: 0,
        proven_seq: 0,
        epoch: None,
        inventory: None,
        absent_seqs: Vec::new(),
        is_held: false,
    };
    let segments = Disk::subdir(&world.disk, "segments").unwrap();
    let (log, _) = Log::open(segments, options, &mut |_| {}).unwrap();
    let ids = absent.id.as_bytes();
    let crc = [session(0).as_bytes().as_slice(), &0u32.to_le_bytes(), ids].concat();
    let payload = [
        &1u32.to_le_bytes()[..],
        &crc32c::crc32c(&crc).to_le_bytes(),
        ids,
    ]
    .concat();
    let key = [session(0).as_bytes().as_slice(), &0u32.to_le_bytes()].concat();
    let record = Record {
        kind: 3,
        key: key.into(),
        payload: payload.into(),
    };
    let (sender, landed) = std::sync::mpsc::sync_channel(1);
    log.append(
        vec![record],
        Urgency::Normal,
        Box::new(move |done| sender.send(done.is_ok()).unwrap()),
    );
    assert!(landed.recv().unwrap());
    log.close().unwrap();
    world.model.sealed.insert((0, 0), vec![5]);
    let found = world.reopen().await.unwrap_err();
    assert!(found.contains("Absent"), "{found}");
}

/// After a commit without an answer the file may be visible: a worker that released then would lose
/// it.
#[tokio::test]
async fn i4_i11_a_release_after_an_unanswered_commit_is_caught() {
    let mut world = World::new();
    let file = block(5);
    let sealed = world
        .engine()
        .put_seal(session(0), PartNo(0), vec![file.id], vec![file.clone()])
        .await
        .unwrap();
    assert!(matches!(sealed, SealOutcome::Sealed { .. }));
    world.model.sealed.insert((0, 0), vec![5]);
    world.check().await.unwrap();
    // What a worker may do, it does: it unpins, and nothing is lost.
    world.engine().unpin(session(0));
    world.check().await.unwrap();
    // What only the master may decide.
    world.engine().releaser().release(session(0)).await.unwrap();
    assert!(world.check().await.is_err());
}
