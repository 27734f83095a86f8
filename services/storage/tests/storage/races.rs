//! Requests at once, in every order that a seed chooses: each await of each request is a step, and
//! so is the sync.
//!
//! The disk has one thread and holds its commits, so a request waits until the schedule writes what
//! waits. `CSTORE_SEED` picks the first schedule, `CSTORE_CASES` how many.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail loudly and prints its seed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use cstore_log::FaultyDisk;
use cstore_storage::EngineError;
use cstore_storage::engine::{Engine, Need, PutOutcome, SealOutcome};
use cstore_testkit::engine::{CAPACITY, identity, open_memory};
use cstore_testkit::{seed_and_cases, session};
use cstore_types::{Block, BlockId, BlockKind, PartNo};
use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::model::block;

/// Sessions and blocks of requests: few, so that requests meet.
const SESSIONS: u64 = 4;
const BLOCKS: u64 = 6;
const PARTS: u32 = 2;
/// Session of blocks that only fill segments or carry a commit.
const FILLER: u64 = 1_000;
/// Bound of the steps of one round. Only requests that wait for each other for ever meet it.
const MAX_STEPS: usize = 20_000;

type Set = (u64, u32);

#[derive(Debug, Clone)]
enum Request {
    Put {
        owner: u64,
        numbers: Vec<u64>,
    },
    Seal {
        set: Set,
        numbers: Vec<u64>,
        sends_blocks: bool,
    },
    Release {
        owner: u64,
    },
    Unpin {
        owner: u64,
    },
    Compact,
}

#[derive(Debug)]
enum Response {
    Put(Vec<PutOutcome>),
    Sealed(Result<SealOutcome, EngineError>),
    Released(Result<(), EngineError>),
    Done,
}

impl Request {
    fn random(rng: &mut StdRng) -> Self {
        let owner = rng.random_range(0..SESSIONS);
        let count = rng.random_range(1..4);
        let numbers = (0..count).map(|_| rng.random_range(0..BLOCKS)).collect();
        match rng.random_range(0..10) {
            0 | 1 => Self::Put { owner, numbers },
            2..=5 => {
                let set = (owner, rng.random_range(0..PARTS));
                Self::Seal {
                    set,
                    numbers,
                    sends_blocks: rng.random_bool(0.6),
                }
            }
            6 | 7 => Self::Release { owner },
            8 => Self::Unpin { owner },
            _ => Self::Compact,
        }
    }

    async fn run(self, engine: Engine) -> Response {
        match self {
            Self::Put { owner, numbers } => {
                Response::Put(engine.put_blocks(session(owner), blocks(&numbers)).await)
            }
            Self::Seal {
                set: (owner, part),
                numbers,
                sends_blocks,
            } => {
                let sent = if sends_blocks {
                    blocks(&numbers)
                } else {
                    Vec::new()
                };
                let sealed = engine.put_seal(session(owner), PartNo(part), ids(&numbers), sent);
                Response::Sealed(sealed.await)
            }
            Self::Release { owner } => {
                Response::Released(engine.releaser().release(session(owner)).await)
            }
            Self::Unpin { owner } => {
                engine.unpin(session(owner));
                Response::Done
            }
            Self::Compact => {
                for _ in 0..8 {
                    let _ = engine.compactor().step(Need::Now).await;
                }
                Response::Done
            }
        }
    }
}

fn blocks(numbers: &[u64]) -> Vec<Block> {
    numbers.iter().map(|n| block(*n)).collect()
}

fn ids(numbers: &[u64]) -> Vec<BlockId> {
    numbers.iter().map(|n| block(*n).id).collect()
}

/// A disk of one thread, and what was acknowledged on it.
struct World {
    disk: FaultyDisk,
    engine: Engine,
    sets: BTreeMap<Set, Vec<u64>>,
    n_fillers: u64,
    emptied: u64,
}

impl World {
    fn new() -> Self {
        let disk = FaultyDisk::with_one_thread();
        let engine = open_memory(&disk, CAPACITY).unwrap();
        Self {
            disk,
            engine,
            sets: BTreeMap::new(),
            n_fillers: 0,
            emptied: 0,
        }
    }

    /// A block that nothing else has.
    fn filler(&mut self, len: usize) -> Block {
        self.n_fillers += 1;
        let bytes = [&self.n_fillers.to_le_bytes()[..], &vec![9; len]].concat();
        let id = BlockId::of_many(&identity().key, &[&bytes])[0];
        Block {
            id,
            kind: BlockKind::Data,
            bytes: Bytes::from(bytes),
        }
    }

    /// Fills more than a segment with what is dead at once, so that what was written before can be
    /// compacted.
    fn pad(&mut self) {
        for _ in 0..6 {
            let filler = self.filler(35_000);
            let put = self
                .engine
                .put_blocks(session(FILLER), vec![filler])
                .now_or_never()
                .unwrap();
            assert!(matches!(put[..], [PutOutcome::Stored]), "{put:?}");
        }
        self.engine.unpin(session(FILLER));
    }

    /// Writes and syncs everything that waits, with the block that carries it.
    fn commit(&mut self) {
        let carrier = self.filler(10);
        self.disk.hold_commits(false);
        self.engine
            .put_blocks(session(FILLER), vec![carrier])
            .now_or_never()
            .unwrap();
        self.engine.unpin(session(FILLER));
        self.disk.hold_commits(true);
    }

    /// Runs requests at once. Each step of the schedule polls one of them, or commits.
    fn run(&mut self, requests: &[Request], rng: &mut StdRng) -> Vec<Response> {
        self.disk.hold_commits(true);
        let start = |request: &Request| {
            let running = request.clone().run(self.engine.clone());
            Some(Box::pin(running) as Pin<Box<dyn Future<Output = Response>>>)
        };
        let mut running: Vec<_> = requests.iter().map(start).collect();
        let mut responses: Vec<Option<Response>> = requests.iter().map(|_| None).collect();
        let mut context = Context::from_waker(Waker::noop());

        for _ in 0..MAX_STEPS {
            if running.iter().all(Option::is_none) {
                self.disk.hold_commits(false);
                return responses.into_iter().flatten().collect();
            }
            let choice = rng.random_range(0..=running.len());
            let Some(slot) = running.get_mut(choice) else {
                self.commit();
                continue;
            };
            if let Some(future) = slot
                && let Poll::Ready(response) = future.as_mut().poll(&mut context)
            {
                responses[choice] = Some(response);
                *slot = None;
            }
        }
        panic!("the requests wait for each other");
    }

    /// Takes what the responses promise. Checks the promises that are not sets.
    fn settle(&mut self, requests: &[Request], responses: &[Response]) -> Result<(), String> {
        let released: BTreeSet<u64> = requests.iter().filter_map(Request::released).collect();
        let unpins = |owner: u64| {
            let drops = |r: &Request| matches!(r, Request::Unpin { owner: o } if *o == owner);
            released.contains(&owner) || requests.iter().any(drops)
        };

        let mut candidates: BTreeMap<Set, Vec<u64>> = BTreeMap::new();
        for (request, response) in requests.iter().zip(responses) {
            match (request, response) {
                (Request::Put { owner, numbers }, Response::Put(outcomes)) => {
                    for (n, outcome) in numbers.iter().zip(outcomes) {
                        let is_kept = !matches!(outcome, PutOutcome::Refused(_)) && !unpins(*owner);
                        if is_kept && self.engine.missing_blocks(session(FILLER), &ids(&[*n]))[0] {
                            return Err(format!(
                                "block {n} was acknowledged, is pinned and is missing"
                            ));
                        }
                    }
                }
                (
                    Request::Seal { set, numbers, .. },
                    Response::Sealed(Ok(SealOutcome::Sealed { .. })),
                ) => {
                    if let Some(other) = candidates
                        .insert(*set, numbers.clone())
                        .filter(|o| o != numbers)
                        && !released.contains(&set.0)
                    {
                        return Err(format!(
                            "set {set:?} was sealed as {other:?} and as {numbers:?}"
                        ));
                    }
                }
                (Request::Release { .. }, Response::Released(Err(EngineError::Busy(_)))) => {}
                (Request::Release { .. }, Response::Released(Err(error))) => {
                    return Err(format!("release: {error}"));
                }
                _ => {}
            }
        }
        self.engine.unpin(session(FILLER));

        // A release drops the sets that came before it; those that came at the same time may be on
        // either side.
        self.sets.retain(|(owner, _), _| !released.contains(owner));
        for (set, numbers) in candidates {
            if !released.contains(&set.0) || self.is_sealed(set, &numbers) {
                self.sets.insert(set, numbers);
            }
        }
        Ok(())
    }

    fn is_sealed(&self, (owner, part): Set, numbers: &[u64]) -> bool {
        let engine = &self.engine;
        if !engine.holdings().sessions().contains(&session(owner)) {
            return false;
        }
        // No id of the pool is missing only because the question pins or writes: it sends no block.
        let sealed = engine
            .put_seal(session(owner), PartNo(part), ids(numbers), Vec::new())
            .now_or_never()
            .unwrap();
        matches!(sealed, Ok(SealOutcome::Sealed { .. }))
    }

    /// Checks every acknowledged set, and with nothing pinned that exactly their blocks are
    /// counted.
    fn check(&mut self) -> Result<(), String> {
        for owner in 0..SESSIONS {
            self.engine.unpin(session(owner));
        }
        self.engine.forget_orphans();

        for ((owner, part), numbers) in &self.sets {
            if !self.is_sealed((*owner, *part), numbers) {
                return Err(format!("set ({owner}, {part}) of {numbers:?} is gone"));
            }
            for n in numbers {
                let read = self.engine.read_block(&block(*n).id);
                if !read.as_ref().is_ok_and(|bytes| *bytes == block(*n).bytes) {
                    return Err(format!(
                        "block {n} of set ({owner}, {part}): {:?}",
                        read.map(|b| b.len())
                    ));
                }
            }
        }

        let owners: BTreeSet<_> = self.sets.keys().map(|(owner, _)| session(*owner)).collect();
        let held: BTreeSet<_> = self.engine.holdings().sessions().into_iter().collect();
        if owners != held {
            return Err(format!(
                "sessions {held:?} hold sets, {owners:?} were sealed"
            ));
        }
        let live: BTreeSet<u64> = self.sets.values().flatten().copied().collect();
        let bytes: u64 = live.iter().map(|n| block(*n).bytes.len() as u64).sum();
        let totals = self.engine.holdings().totals();
        if (totals.blocks, totals.unique_bytes) != (live.len() as u64, bytes) {
            return Err(format!(
                "totals are {totals:?}, {} blocks of {bytes} bytes are live",
                live.len()
            ));
        }
        Ok(())
    }

    fn restart(&mut self) {
        self.emptied += self.engine.counters().compacted_files.get();
        self.disk = self.disk.kill();
        self.engine = open_memory(&self.disk, CAPACITY).unwrap();
    }
}

impl Request {
    fn released(&self) -> Option<u64> {
        match self {
            Self::Release { owner } => Some(*owner),
            _ => None,
        }
    }
}

/// Rounds of requests at once on one disk, with kills in between.
fn run(seed: u64) -> Result<World, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new();
    for round in 0..6 {
        if rng.random_bool(0.5) {
            world.pad();
        }
        let requests: Vec<Request> = (0..rng.random_range(2..6))
            .map(|_| Request::random(&mut rng))
            .collect();
        let responses = world.run(&requests, &mut rng);
        let wrong =
            |found| format!("seed {seed}, round {round}: {found}; {requests:?} gave {responses:?}");
        world.settle(&requests, &responses).map_err(wrong)?;
        world.check().map_err(wrong)?;
        if rng.random_bool(0.3) {
            world.restart();
            world
                .check()
                .map_err(|found| wrong(format!("after a kill: {found}")))?;
        }
    }
    world.restart();
    Ok(world)
}

#[tokio::test]
async fn i1_i3_i4_requests_at_once_keep_their_promises_in_any_order() {
    let (first, cases) = seed_and_cases(1, 1_000);
    let mut emptied = 0;
    // Without the runtime's own yields: this test polls everything itself.
    let all = async {
        for seed in first..first + cases {
            emptied += run(seed).unwrap_or_else(|error| panic!("{error}")).emptied;
        }
    };
    tokio::task::unconstrained(all).await;
    println!("compaction emptied {emptied} segments beside them");
    assert!(emptied * 10 >= cases, "compaction moved too little");
}
