//! I3 and I7 with compaction: space returns from half-dead segments, a full disk recovers without a
//! restart, and puts, seals, releases, reads and compaction at once harm nobody on a real disk.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail loudly and prints its seed"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cstore_log::{FaultyDisk, RealDisk};
use cstore_node::shutdown::spawn;
use cstore_storage::EngineError;
use cstore_storage::engine::{CompactStep, Engine, Need, SealOutcome};
use cstore_testkit::engine::{numbered, open, open_memory, store};
use cstore_testkit::{cases, seed, seed_and_cases, session};
use cstore_types::{Block, BlockId, PartNo};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A disk of one block a session, filled to the last.
struct Filled {
    engine: Engine,
    len: usize,
    next: u64,
    held: Vec<u64>,
}

impl Filled {
    fn new(capacity: u64, len: usize) -> Self {
        Self {
            engine: open(Arc::new(FaultyDisk::new()), capacity).unwrap(),
            len,
            next: 0,
            held: Vec::new(),
        }
    }

    /// Stores until the disk is full; answers how many.
    async fn fill(&mut self) -> usize {
        let before = self.held.len();
        loop {
            match store(&self.engine, self.next, self.len).await {
                Ok(()) => self.held.push(self.next),
                Err(EngineError::Full { .. }) => return self.held.len() - before,
                Err(other) => panic!("{other}"),
            }
            // What a worker does at the end of its session.
            self.engine.unpin(session(self.next));
            self.next += 1;
        }
    }

    /// Releases every second one, all at once or one by one.
    async fn thin(&mut self, at_once: bool) -> usize {
        let (go, stay): (Vec<_>, Vec<_>) =
            self.held.iter().enumerate().partition(|(n, _)| n % 2 == 0);
        let go: Vec<_> = go.into_iter().map(|(_, n)| session(*n)).collect();
        self.held = stay.into_iter().map(|(_, n)| *n).collect();
        if at_once {
            let answers = self.engine.releaser().release_all(&go).await;
            assert!(
                answers.iter().all(|(_, answer)| answer.is_ok()),
                "{answers:?}"
            );
        } else {
            for session in &go {
                self.engine.releaser().release(*session).await.unwrap();
            }
        }
        go.len()
    }

    fn check(&self) {
        for n in &self.held {
            let block = numbered(*n, self.len);
            assert_eq!(
                self.engine.read_block(&block.id).unwrap(),
                block.bytes,
                "block {n}"
            );
        }
        assert_eq!(
            self.engine.holdings().totals().blocks,
            self.held.len() as u64
        );
    }
}

#[tokio::test]
async fn i3_i7_a_full_disk_takes_again_what_every_second_release_gave_back_five_times() {
    for (capacity, len) in [
        (6 << 20, 65_536),
        (6 << 20, 9_000),
        (6 << 20, 600),
        (24 << 20, 65_536),
    ] {
        for at_once in [true, false] {
            let mut disk = Filled::new(capacity, len);
            let first = disk.fill().await;
            for round in 0..5 {
                let freed = disk.thin(at_once).await;
                let taken = disk.fill().await;
                println!(
                    "{capacity} {len} {at_once} round {round}: {first} at first, {freed} freed, {taken} taken"
                );
                assert!(
                    taken * 10 >= freed * 9,
                    "{taken} taken after {freed} were freed"
                );
                disk.check();
            }
            assert!(
                disk.engine.compactor().space().allocated <= capacity,
                "FS_SIZE bounds everything"
            );
        }
    }
}

/// Several clients fill while the background compacts: neither takes the room from under the other
/// for good, and no release is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i7_clients_that_fill_beside_compaction_are_refused_only_when_the_disk_is_full() {
    for _ in 0..cases(1) {
        clients_fill_beside_compaction().await;
    }
}

async fn clients_fill_beside_compaction() {
    let engine = open(Arc::new(FaultyDisk::new()), 24 << 20).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let background = {
        let (engine, done) = (engine.clone(), done.clone());
        spawn("compaction", async move {
            while !done.load(Ordering::Relaxed) {
                if engine.compactor().step(Need::Short).await.unwrap() == CompactStep::Idle {
                    tokio::task::yield_now().await;
                }
            }
        })
    };
    let next = Arc::new(AtomicU64::new(0));
    let mut held: Vec<u64> = Vec::new();
    let mut full = 0;
    for round in 0..6 {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (engine, next) = (engine.clone(), next.clone());
                spawn("client", async move {
                    let mut stored = Vec::new();
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        match store(&engine, n, 30_000 + 400 * (n % 100) as usize).await {
                            Ok(()) => stored.push(n),
                            Err(EngineError::Full { .. }) => return stored,
                            Err(other) => panic!("{other}"),
                        }
                        engine.unpin(session(n));
                    }
                })
            })
            .collect();
        for client in clients {
            held.extend(client.await.unwrap());
        }
        let bytes = engine.holdings().totals().unique_bytes;
        println!("round {round}: {} held of {bytes} bytes", held.len());
        assert_eq!(
            engine.compactor().stats().missing_bytes,
            0,
            "round {round}: of compaction's reserve"
        );
        full = full.max(bytes);
        assert!(
            bytes * 10 >= full * 9,
            "round {round}: {bytes} bytes where {full} fit"
        );
        for n in held.extract_if(.., |n| *n % 2 == 0).collect::<Vec<_>>() {
            engine.releaser().release(session(n)).await.unwrap();
        }
        let odd = held.len();
        for n in held.drain(..odd / 4) {
            engine.releaser().release(session(n)).await.unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    background.await.unwrap();
}

/// Deletes that come one by one, spread over all segments of a full disk: each takes a frame of its
/// own before it gives anything back.
#[tokio::test]
async fn i7_a_full_disk_takes_single_releases_until_nothing_is_left() {
    let seed = seed(1);
    for (capacity, len) in [
        (6 << 20, 600),
        (6 << 20, 4_000),
        (6 << 20, 70_000),
        (24 << 20, 30_000),
    ] {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut disk = Filled::new(capacity, len);
        // Packed as tightly as it can be: nothing is to be won but what the releases give back.
        while disk.fill().await > 0 {
            while disk.engine.compactor().step(Need::Now).await.unwrap() != CompactStep::Idle {}
        }
        println!(
            "{capacity} {len}: {} held, {:?}",
            disk.held.len(),
            disk.engine.compactor().space()
        );
        for n in 0.. {
            if disk.held.is_empty() {
                break;
            }
            let at = rng.random_range(0..disk.held.len());
            let gone = disk.held.swap_remove(at);
            let answer = disk.engine.releaser().release(session(gone)).await;
            assert!(
                answer.is_ok(),
                "{capacity} {len}: release {n}: {answer:?}, {:?}",
                disk.engine.compactor().space()
            );
            // It is filled again half-way, so that the disk is full of older and newer ones.
            if n == disk.held.len() {
                disk.fill().await;
            }
        }
        disk.check();
    }
}

#[tokio::test]
async fn i7_a_full_disk_that_died_opens_and_recovers() {
    let faulty = FaultyDisk::new();
    let mut disk = Filled {
        engine: open_memory(&faulty, 6 << 20).unwrap(),
        len: 9_000,
        next: 0,
        held: Vec::new(),
    };
    disk.fill().await;
    let mut faulty = faulty;
    for round in 0..12 {
        let freed = disk.thin(true).await;
        // It dies somewhere in the compaction that makes room, or when it is full again.
        for _ in 0..round {
            let _ = disk.engine.compactor().step(Need::Now).await;
        }
        faulty = if round % 2 == 0 {
            faulty.kill()
        } else {
            faulty.power_loss(round)
        };
        disk.engine = open_memory(&faulty, 6 << 20).unwrap();
        disk.check();
        let taken = disk.fill().await;
        println!("round {round}: {freed} freed, {taken} taken");
        assert!(
            taken * 10 >= freed * 8,
            "round {round}: {taken} taken after {freed} were freed"
        );
        disk.check();
        faulty = if round % 3 == 0 {
            faulty.kill()
        } else {
            faulty.power_loss(round)
        };
        disk.engine = open_memory(&faulty, 6 << 20).unwrap();
        disk.check();
    }
}

/// State that racing tasks share: sessions of sets over a pool of blocks.
struct Race {
    engine: Engine,
    held: Mutex<BTreeSet<u64>>,
    next: AtomicU64,
    done: AtomicBool,
}

const POOL: u64 = 120;

impl Race {
    /// The blocks of a session follow from its number, so that sessions share some.
    fn blocks(n: u64) -> Vec<Block> {
        let mut rng = StdRng::seed_from_u64(n);
        (0..3)
            .map(|_| rng.random_range(0..POOL))
            .map(|n| numbered(n, 3_000 + 400 * n as usize))
            .collect()
    }

    async fn put(&self, rounds: u64) {
        for _ in 0..rounds {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let blocks = Self::blocks(n);
            let ids: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
            let mut last = None;
            for _ in 0..50 {
                let missing = self.engine.missing_blocks(session(n), &ids);
                let missing = blocks.iter().zip(missing).filter(|(_, missing)| *missing);
                let missing = missing.map(|(block, _)| block.clone()).collect();
                self.engine.put_blocks(session(n), missing).await;
                match self
                    .engine
                    .put_seal(session(n), PartNo(0), ids.clone(), Vec::new())
                    .await
                {
                    Ok(SealOutcome::Sealed { .. }) => {
                        self.held.lock().insert(n);
                        last = None;
                        break;
                    }
                    other => last = Some(other),
                }
            }
            assert!(last.is_none(), "session {n}: {last:?}");
            self.engine.unpin(session(n));
        }
    }

    async fn release(&self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        while !self.done.load(Ordering::Relaxed) {
            let chosen = {
                let mut held = self.held.lock();
                let at = rng.random_range(0..held.len().max(1));
                let chosen = held.iter().nth(at).copied().filter(|_| held.len() > 25);
                chosen.filter(|n| held.remove(n))
            };
            match chosen {
                Some(n) => self.engine.releaser().release(session(n)).await.unwrap(),
                None => tokio::task::yield_now().await,
            }
        }
    }

    async fn compact(&self) -> u64 {
        let mut emptied = 0;
        while !self.done.load(Ordering::Relaxed) {
            match self.engine.compactor().step(Need::Now).await.unwrap() {
                CompactStep::Emptied => emptied += 1,
                CompactStep::Moved(_) => {}
                CompactStep::Idle => tokio::task::yield_now().await,
            }
        }
        emptied
    }

    /// Reads what is held, over and over. What was released meanwhile may be gone; nothing may be
    /// wrong.
    fn read(&self) -> u64 {
        let mut read = 0;
        while !self.done.load(Ordering::Relaxed) {
            let sessions: Vec<u64> = self.held.lock().iter().copied().collect();
            for n in sessions {
                for block in Self::blocks(n) {
                    match self.engine.read_block(&block.id) {
                        Ok(bytes) => assert_eq!(bytes, block.bytes),
                        Err(error) => {
                            assert!(!self.held.lock().contains(&n), "session {n}: {error}");
                            assert!(
                                matches!(error, EngineError::NotFound),
                                "session {n}: {error}"
                            );
                        }
                    }
                    read += 1;
                }
            }
        }
        read
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_i4_puts_seals_releases_reads_and_compaction_at_once_harm_nobody() {
    let (seed, rounds) = seed_and_cases(1, 150);
    let dir = tempfile::tempdir().unwrap();
    let engine = open(RealDisk::open(dir.path()).unwrap(), 12 << 20).unwrap();
    let race = Arc::new(Race {
        engine,
        held: Mutex::default(),
        next: AtomicU64::new(seed * 1_000_000),
        done: AtomicBool::new(false),
    });
    let emptied = Arc::new(AtomicU64::new(0));
    let mut others = Vec::new();
    for n in 0..2 {
        let (ours, emptied) = (race.clone(), emptied.clone());
        others.push(spawn("compaction", async move {
            emptied.fetch_add(ours.compact().await, Ordering::Relaxed);
        }));
        let race = race.clone();
        others.push(spawn(
            "releases",
            async move { race.release(seed + n).await },
        ));
    }
    let reader = std::thread::spawn({
        let race = race.clone();
        move || race.read()
    });
    let puts: Vec<_> = (0..3)
        .map(|_| race.clone())
        .map(|race| spawn("puts", async move { race.put(rounds).await }))
        .collect();
    for put in puts {
        put.await.unwrap();
    }
    race.done.store(true, Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
    let (read, emptied) = (reader.join().unwrap(), emptied.load(Ordering::Relaxed));
    println!(
        "{read} blocks read, {emptied} segments emptied, {:?}",
        race.engine.compactor().stats()
    );
    assert!(read > 100 && emptied > 0);
    let held = race.held.lock().clone();
    let distinct: BTreeSet<BlockId> = held
        .iter()
        .flat_map(|n| Race::blocks(*n))
        .map(|block| block.id)
        .collect();
    assert_eq!(
        race.engine.holdings().totals().blocks,
        distinct.len() as u64
    );
    assert_eq!(race.engine.counters().damaged_blocks.get(), 0);
    drop(race);
    let engine = open(RealDisk::open(dir.path()).unwrap(), 12 << 20).unwrap();
    assert_eq!(engine.holdings().totals().blocks, distinct.len() as u64);
    for n in held {
        for block in Race::blocks(n) {
            assert_eq!(engine.read_block(&block.id).unwrap(), block.bytes);
        }
    }
}
