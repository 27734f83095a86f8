//! Moves of sets and releases while seals and releases of their sessions are under way: in the log
//! neither passes the other. The disk holds its syncs back until everything has been appended.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::cell::Cell;
use std::sync::Arc;

use cstore_log::{FaultyDisk, Gate, HookedDisk, Verb};
use cstore_storage::EngineError;
use cstore_storage::engine::{CompactStep, Engine, Need, PutOutcome, SealOutcome};
use cstore_testkit::engine::{CAPACITY, numbered, open, open_memory};
use cstore_testkit::session;
use cstore_types::{Block, PartNo};

struct Bench {
    disk: FaultyDisk,
    gate: Arc<Gate>,
    engine: Engine,
}

async fn store(engine: &Engine, n: u64, part: u32, len: usize) {
    let block = numbered(n, len);
    let sealed = engine
        .put_seal(session(n), PartNo(part), vec![block.id], vec![block])
        .await;
    assert!(
        matches!(sealed, Ok(SealOutcome::Sealed { .. })),
        "{sealed:?}"
    );
}

async fn compact(engine: &Engine) {
    while engine.compactor().step(Need::Now).await.unwrap() != CompactStep::Idle {}
}

/// Empties one segment only: more would clean up what went wrong.
async fn compact_one(engine: &Engine) {
    while let CompactStep::Moved(_) = engine.compactor().step(Need::Now).await.unwrap() {}
}

impl Bench {
    fn new() -> Self {
        Self::sized(CAPACITY)
    }

    fn sized(capacity: u64) -> Self {
        let (disk, gate) = (FaultyDisk::new(), Arc::new(Gate::default()));
        let gated = HookedDisk::gated(disk.clone(), &gate);
        Self {
            engine: open(gated, capacity).unwrap(),
            disk,
            gate,
        }
    }

    /// More than a segment of what is released again.
    async fn pad(&self, from: u64) {
        for n in from..from + 12 {
            store(&self.engine, n, 0, 30_000).await;
        }
        for n in from..from + 12 {
            self.engine.releaser().release(session(n)).await.unwrap();
        }
        // Their segments go now: later the disk takes no syncs, and this thread must not wait.
        self.engine.recycler().reclaim();
    }

    /// Everything of this is appended before anything of it is synced, in this order.
    async fn at_once(&self, first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
        self.gate.close(Verb::Sync);
        let open = async {
            tokio::task::yield_now().await;
            self.gate.open(Verb::Sync);
        };
        tokio::join!(biased; first, second, open);
    }

    /// Returns true if the session holds sets after a kill.
    fn holds_after_kill(self, n: u64) -> bool {
        drop(self.engine);
        open_memory(&self.disk.kill(), CAPACITY)
            .unwrap()
            .holdings()
            .sessions()
            .contains(&session(n))
    }
}

/// A set whose segment is worth emptying, and a release of it that is appended first.
#[tokio::test]
async fn i3_a_set_does_not_move_while_it_is_released() {
    let bench = Bench::new();
    store(&bench.engine, 1, 0, 5_000).await;
    store(&bench.engine, 2, 0, 5_000).await;
    bench.pad(10).await;
    let release = async { bench.engine.releaser().release(session(1)).await.unwrap() };
    bench.at_once(release, compact_one(&bench.engine)).await;
    assert!(!bench.engine.holdings().sessions().contains(&session(1)));
    assert!(!bench.holds_after_kill(1), "the set moved past its release");
}

#[tokio::test]
async fn i3_a_release_waits_for_a_move_of_its_sets() {
    let bench = Bench::new();
    store(&bench.engine, 1, 0, 5_000).await;
    bench.pad(10).await;
    let release = async { bench.engine.releaser().release(session(1)).await.unwrap() };
    bench.at_once(compact_one(&bench.engine), release).await;
    assert!(
        bench.engine.read_block(&numbered(1, 5_000).id).is_err(),
        "it was freed"
    );
    bench.pad(30).await;
    compact(&bench.engine).await;
    assert!(!bench.holds_after_kill(1));
}

/// A release that must move, and a set that a late worker seals for its session.
#[tokio::test]
async fn i1_a_release_does_not_move_past_a_set_that_is_being_sealed() {
    let bench = Bench::new();
    // The dropped set stays in a segment that is full of what is needed.
    store(&bench.engine, 1, 0, 100).await;
    for (n, len) in [(2, 56_000), (3, 56_000), (4, 44_000)] {
        store(&bench.engine, n, 0, len).await;
    }
    bench.pad(10).await;
    compact(&bench.engine).await;
    bench.engine.releaser().release(session(1)).await.unwrap();
    bench.pad(30).await;
    bench.engine.recycler().reclaim();
    let late = async { store(&bench.engine, 1, 9, 3_000).await };
    bench.at_once(late, compact_one(&bench.engine)).await;
    assert!(
        bench.holds_after_kill(1),
        "the release moved past a later set"
    );
}

/// More waits for the disk than the log takes: the copy is refused, and the same segment goes on
/// when there is room.
#[tokio::test]
async fn i12_compaction_goes_on_with_its_segment_when_the_queue_was_full() {
    let bench = Bench::sized(256 << 20);
    let engine = &bench.engine;
    let len = 100_000;
    // A segment has 8 MiB.
    for n in 0..100 {
        store(engine, n, 0, len).await;
    }
    for n in 0..80 {
        engine.releaser().release(session(n)).await.unwrap();
    }
    let blocks: Vec<Block> = (1_000..1_800).map(|n| numbered(n, len)).collect();
    bench.gate.close(Verb::Sync);
    // The committer takes all that waits when it wakes. So one block keeps it in a sync before the
    // others come: otherwise it could take a part of them, and the rest would not fill the queue.
    let first = engine.put_blocks(session(900), vec![numbered(900, len)]);
    let puts = async {
        bench.gate.await_held(Verb::Sync);
        let puts = blocks
            .into_iter()
            .map(|block| engine.put_blocks(session(900), vec![block]));
        futures_util::future::join_all(puts).await
    };
    let step = async {
        let step = engine.compactor().step(Need::Now).await;
        bench.gate.open(Verb::Sync);
        step
    };
    let (first, outcomes, step) = tokio::join!(biased; first, puts, step);
    assert!(matches!(first[..], [PutOutcome::Stored]), "{first:?}");
    let busy = |outcome: &PutOutcome| matches!(outcome, PutOutcome::Refused(EngineError::Busy(_)));
    assert!(outcomes.iter().flatten().any(busy), "the queue was full");
    assert_eq!(step.unwrap(), CompactStep::Moved(0));
    let moved = |step: CompactStep| matches!(step, CompactStep::Moved(bytes) if bytes > 0);
    assert!(
        moved(engine.compactor().step(Need::Now).await.unwrap()),
        "the same records again"
    );
    compact(engine).await;
    for n in 80..100 {
        assert_eq!(
            engine.read_block(&numbered(n, len).id).unwrap(),
            numbered(n, len).bytes
        );
    }
}

/// The references of a set are counted when its blocks are found, not when it is durable: in
/// between a release of the only other set must not free them.
#[tokio::test]
async fn i4_a_release_that_ends_while_a_set_is_written_frees_none_of_its_blocks() {
    let bench = Bench::new();
    let shared = numbered(1, 5_000);
    store(&bench.engine, 1, 0, 5_000).await;
    bench.engine.unpin(session(1));
    let (engine, gate) = (&bench.engine, &bench.gate);
    let is_released = Cell::new(false);

    gate.close(Verb::Sync);
    let release = async {
        engine.releaser().release(session(1)).await.unwrap();
        is_released.set(true);
    };
    // Finds its block, and waits in a frame behind that of the release.
    let seal = async {
        gate.await_held(Verb::Sync);
        let ids = vec![shared.id];
        engine
            .put_seal(session(2), PartNo(0), ids, Vec::new())
            .await
    };
    let frames = async {
        gate.pass_one(Verb::Sync);
        while !is_released.get() {
            tokio::task::yield_now().await;
        }
        gate.open(Verb::Sync);
    };
    let ((), sealed, ()) = tokio::join!(biased; release, seal, frames);

    assert!(matches!(sealed, Ok(SealOutcome::Sealed { .. })));
    assert_eq!(bench.engine.read_block(&shared.id).unwrap(), shared.bytes);
    assert!(bench.holds_after_kill(2));
}
