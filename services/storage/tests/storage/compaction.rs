//! Compaction: damage is not carried along, and no crash in the middle of it costs anything.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail loudly and prints its seed"
)]

use cstore_log::{Disk, Fault, FaultyDisk, Verb};
use cstore_storage::engine::{CompactStep, CompactionStats, Engine, Need, PutOutcome};
use cstore_storage::{EngineError, OpenError};
use cstore_testkit::engine::{CAPACITY, mark, numbered, open, open_memory, store};
use cstore_testkit::session;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::model::World;

/// Fills more than a segment with what is released again, so that what was written before lies in a
/// sealed one.
pub(crate) async fn pad(engine: &Engine, from: u64) {
    for n in from..from + 12 {
        store(engine, n, 30_000).await.unwrap();
    }
    for n in from..from + 12 {
        engine.releaser().release(session(n)).await.unwrap();
    }
}

pub(crate) async fn compact(engine: &Engine) -> u64 {
    let mut emptied = 0;
    loop {
        match engine.compactor().step(Need::Now).await.unwrap() {
            CompactStep::Idle => return emptied,
            CompactStep::Moved(_) => {}
            CompactStep::Emptied => emptied += 1,
        }
    }
}

/// Flips a bit of a block where it lies first.
pub(crate) fn rot(disk: &FaultyDisk, n: u64) {
    let needle = mark(n);
    let segments = Disk::subdir(disk, "segments").unwrap();
    for name in segments.list().unwrap() {
        let file = segments.open(&name).unwrap();
        let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        if let Some(at) = bytes
            .windows(needle.len())
            .position(|window| window == needle)
        {
            return disk
                .rot(&format!("segments/{name}"), at as u64 + 100, 1)
                .unwrap();
        }
    }
    panic!("block {n} is not on the disk");
}

#[tokio::test]
async fn i8_a_damaged_block_stays_where_it_is_and_keeps_its_segment_until_it_is_repaired() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, 5_000).await.unwrap();
    store(&engine, 1, 5_000).await.unwrap();
    pad(&engine, 10).await;
    rot(&disk, 0);
    compact(&engine).await;
    assert_eq!(engine.counters().damaged_blocks.get(), 1);
    assert_eq!(
        engine.compactor().stats().pinned_files,
        1,
        "{:?}",
        engine.compactor().stats()
    );
    assert!(matches!(
        engine.read_block(&numbered(0, 5_000).id),
        Err(EngineError::DataLoss)
    ));
    assert_eq!(
        engine.read_block(&numbered(1, 5_000).id).unwrap(),
        numbered(1, 5_000).bytes
    );

    rot(&disk, 0);
    let retired = engine.counters().retired_files.get();
    let again = engine
        .put_blocks(session(0), vec![numbered(0, 5_000)])
        .await;
    assert!(matches!(again[..], [PutOutcome::Stored]));
    engine.unpin(session(0));
    compact(&engine).await;
    engine.recycler().reclaim();
    assert!(engine.counters().retired_files.get() > retired);
    assert_eq!(
        engine.compactor().stats().pinned_files,
        0,
        "the repaired block let its old segment go"
    );
    assert_eq!(
        engine.read_block(&numbered(0, 5_000).id).unwrap(),
        numbered(0, 5_000).bytes
    );
}

/// A set moves out of a segment that stays because of damage; then its release outlives both moves.
#[tokio::test]
async fn i3_a_release_outlives_the_copies_of_its_sets_that_damage_keeps() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    store(&engine, 0, 5_000).await.unwrap();
    store(&engine, 1, 5_000).await.unwrap();
    pad(&engine, 10).await;
    rot(&disk, 0);
    compact(&engine).await;
    pad(&engine, 30).await;
    engine.releaser().release(session(1)).await.unwrap();
    for round in 3..8 {
        pad(&engine, round * 20).await;
        assert!(compact(&engine).await > 0);
    }
    drop(engine);
    let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
    assert!(
        !engine.holdings().sessions().contains(&session(1)),
        "a released session is back"
    );
}

/// A world with half-dead segments, the same for one seed.
async fn half_dead(seed: u64) -> (World, StdRng) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new();
    for _ in 0..14 {
        world.put_and_seal(&mut rng).await;
    }
    for _ in 0..7 {
        world.release(&mut rng).await;
    }
    (world, rng)
}

#[tokio::test]
async fn i6_an_error_or_a_crash_at_any_call_of_a_compaction_loses_nothing() {
    let mut struck = 0;
    for verb in [
        Verb::Write,
        Verb::Sync,
        Verb::Create,
        Verb::Read,
        Verb::Name,
        Verb::SyncDir,
    ] {
        for nth in 1..60 {
            let (mut world, mut rng) = half_dead(nth).await;
            let before = world.disk.calls(verb);
            world.disk.strike(verb, nth, Fault::Eio);
            world.compact(1_000).await;
            if world.disk.calls(verb) < before + nth {
                break;
            }
            struck += 1;
            world
                .die(&mut rng)
                .await
                .unwrap_or_else(|error| panic!("{verb:?} {nth}: {error}"));
            world.compact(1_000).await;
            world
                .check()
                .await
                .unwrap_or_else(|error| panic!("{verb:?} {nth}: {error}"));
            world.engine().forget_orphans();
            world.check_totals().unwrap();
        }
    }
    assert!(struck > 40, "only {struck} calls were struck");
}

#[tokio::test]
async fn i6_power_loss_after_any_step_of_a_compaction_loses_nothing() {
    for seed in 0..40 {
        for steps in 0..12 {
            let (mut world, _) = half_dead(seed).await;
            world.compact(steps).await;
            world.disk = world.disk.power_loss(seed);
            world
                .reopen()
                .await
                .unwrap_or_else(|error| panic!("seed {seed} after {steps} steps: {error}"));
        }
    }
}

#[tokio::test]
async fn an_idle_engine_copies_nothing_a_second_time() {
    let (mut world, _) = half_dead(1).await;
    world.compact(1_000).await;
    let moved = world.engine().counters().moved_bytes.get();
    assert!(moved > 0);
    for _ in 0..100 {
        assert_eq!(
            world.engine().compactor().step(Need::Now).await.unwrap(),
            CompactStep::Idle
        );
    }
    assert_eq!(world.engine().counters().moved_bytes.get(), moved);
    let fresh = open_memory(&FaultyDisk::new(), CAPACITY).unwrap();
    assert_eq!(
        fresh.compactor().step(Need::Now).await.unwrap(),
        CompactStep::Idle
    );
    assert_eq!(fresh.compactor().stats(), CompactionStats::default());
}

#[test]
fn a_disk_without_room_for_segments_is_refused_with_the_least_size() {
    let disk = std::sync::Arc::new(FaultyDisk::new());
    let error = open(disk.clone(), 4_000).unwrap_err();
    assert!(
        matches!(error, OpenError::Capacity { wanted: 4_000, .. }),
        "{error}"
    );
    assert!(disk.list().unwrap().is_empty(), "nothing was made");
}
