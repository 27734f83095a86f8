//! The engine's model: what was acknowledged holds, whatever happens to process and power in
//! between.
//!
//! The model knows what was acknowledged: a sealed set holds its blocks until its release; nothing
//! else is promised. Puts, seals, releases and steps of compaction come one by one and at once.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses its part and may fail loudly"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use cstore_log::{Fault, FaultyDisk, Verb};
use cstore_storage::engine::{Answer, CompactStep, Engine, Need, PutOutcome, SealOutcome};
use cstore_testkit::engine::{CAPACITY, open_memory};
use cstore_testkit::session;
use cstore_types::epoch::SealPoint;
use cstore_types::{Block, BlockId, PartNo, SessionId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Blocks follow from a number: few, so that sessions share them, made once.
pub fn block(n: u64) -> Block {
    static BLOCKS: OnceLock<Vec<Block>> = OnceLock::new();
    let blocks = BLOCKS.get_or_init(|| (0..61).map(make_block).collect());
    blocks[usize::try_from(n).unwrap()].clone()
}

fn make_block(n: u64) -> Block {
    let mut rng = StdRng::seed_from_u64(n);
    let mut bytes = vec![0u8; rng.random_range(1..40_000)];
    rng.fill(&mut bytes[..]);
    cstore_testkit::engine::block(bytes)
}

/// Returns the answer of a master that has seen `seen` of the disk.
pub fn answer(seen: SealPoint) -> Answer {
    Answer {
        seen: Some(seen.into()),
        history: None,
    }
}

type Key = (u64, u32);

#[derive(Default, Clone)]
pub struct Model {
    /// Acknowledged sets: what they hold.
    pub sealed: BTreeMap<Key, Vec<u64>>,
    /// Sets whose outcome is unknown.
    unknown: BTreeMap<Key, Vec<u64>>,
    /// Sessions whose release was not acknowledged.
    releasing: BTreeSet<u64>,
    /// Sessions that were released.
    released: Vec<u64>,
    next_session: u64,
    next_part: u32,
}

pub struct World {
    pub disk: FaultyDisk,
    pub engine: Option<Engine>,
    pub model: Model,
    pub power_losses: u64,
    /// Segments that compaction emptied.
    pub emptied: u64,
    /// One read is to fail, or has failed.
    reads_fail: bool,
    /// Newest seal, as the master remembers it.
    pub seen: SealPoint,
}

impl World {
    pub fn new() -> Self {
        let disk = FaultyDisk::new();
        let engine = Some(open_memory(&disk, CAPACITY).unwrap());
        Self {
            disk,
            engine,
            model: Model::default(),
            power_losses: 0,
            emptied: 0,
            reads_fail: false,
            seen: SealPoint::default(),
        }
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub async fn put_and_seal(&mut self, rng: &mut StdRng) {
        let n = self.model.next_session;
        self.model.next_session += 1;
        self.put_parts(rng, n, 0).await;
    }

    /// A worker that has not heard of the release yet seals more parts.
    async fn seal_late(&mut self, rng: &mut StdRng) {
        if let Some(n) = self.model.released.pop() {
            self.model.next_part += 10;
            self.put_parts(rng, n, self.model.next_part).await;
        }
    }

    async fn put_parts(&mut self, rng: &mut StdRng, n: u64, first: u32) {
        for part in first..first + rng.random_range(1..3u32) {
            // From a small pool, so that sessions share blocks.
            let numbers: Vec<u64> = (0..rng.random_range(1..8))
                .map(|_| rng.random_range(0..60))
                .collect();
            let blocks: Vec<Block> = numbers.iter().map(|n| block(*n)).collect();
            let ids: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
            let engine = self.engine().clone();
            let outcome = if rng.random_bool(0.5) {
                engine.put_seal(session(n), PartNo(part), ids, blocks).await
            } else {
                let missing = engine.missing_blocks(session(n), &ids);
                let missing = blocks
                    .into_iter()
                    .zip(missing)
                    .filter(|(_, missing)| *missing)
                    .map(|(block, _)| block)
                    .collect();
                let outcomes = engine.put_blocks(session(n), missing).await;
                if outcomes
                    .iter()
                    .any(|outcome| matches!(outcome, PutOutcome::Refused(_)))
                {
                    continue;
                }
                engine
                    .put_seal(session(n), PartNo(part), ids, Vec::new())
                    .await
            };
            match outcome {
                Ok(SealOutcome::Sealed { seal_seq, .. }) => {
                    self.seen = self.seen.max(engine.judge().seal_point(seal_seq));
                    self.model.sealed.insert((n, part), numbers);
                }
                // Compaction could not read a block between the put and the seal: a worker would
                // put it again.
                Ok(SealOutcome::Missing(_)) if self.reads_fail => {}
                Ok(other) => panic!("a new part answered {other:?}"),
                Err(
                    cstore_storage::EngineError::Full { .. } | cstore_storage::EngineError::Busy(_),
                ) => {}
                Err(_) => drop(self.model.unknown.insert((n, part), numbers)),
            }
        }
        if rng.random_bool(0.7) {
            self.engine().unpin(session(n));
        }
    }

    pub async fn release(&mut self, rng: &mut StdRng) {
        let sessions: BTreeSet<u64> = self.model.sealed.keys().map(|(n, _)| *n).collect();
        let Some(n) = sessions
            .iter()
            .nth(rng.random_range(0..sessions.len().max(1)))
            .copied()
        else {
            return;
        };
        if self.engine().releaser().release(session(n)).await.is_ok() {
            self.model.sealed.retain(|(owner, _), _| *owner != n);
            self.model.released.push(n);
        } else {
            self.model.releasing.insert(n);
        }
    }

    /// Compacts for a while. Errors are those of a struck disk; what they may not cost is checked
    /// later.
    pub async fn compact(&mut self, steps: usize) {
        self.emptied += compact(self.engine().clone(), steps).await;
    }

    /// Everything that was acknowledged is there, and nothing has other bytes.
    pub async fn check(&mut self) -> Result<(), String> {
        let engine = self.engine().clone();
        for ((n, part), numbers) in &self.model.sealed {
            let ids: Vec<BlockId> = numbers.iter().map(|n| block(*n).id).collect();
            let again = engine
                .put_seal(session(*n), PartNo(*part), ids.clone(), Vec::new())
                .await;
            if !matches!(again, Ok(SealOutcome::Sealed { .. })) {
                return Err(format!("set ({n}, {part}) is gone: {again:?}"));
            }
            let mut other = ids;
            other.reverse();
            other.push(block(60).id);
            let conflict = engine
                .put_seal(session(*n), PartNo(*part), other, Vec::new())
                .await;
            if !matches!(conflict, Ok(SealOutcome::Conflict)) {
                return Err(format!("set ({n}, {part}) took other ids: {conflict:?}"));
            }
            for number in numbers {
                let expected = block(*number);
                match engine.read_block(&expected.id) {
                    Ok(bytes) if bytes == expected.bytes => {}
                    other => {
                        return Err(format!(
                            "block {number} of set ({n}, {part}): {:?}",
                            other.map(|b| b.len())
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// I3: counted bytes are exactly those of the sets that are there.
    pub fn check_totals(&self) -> Result<(), String> {
        let live: BTreeSet<u64> = self.model.sealed.values().flatten().copied().collect();
        let bytes: u64 = live.iter().map(|n| block(*n).bytes.len() as u64).sum();
        let totals = self.engine().holdings().totals();
        if (totals.blocks, totals.unique_bytes) == (live.len() as u64, bytes) {
            return Ok(());
        }
        Err(format!(
            "totals are {totals:?}, the model has {} blocks of {bytes} bytes",
            live.len()
        ))
    }

    /// Opens the disk again and learns what became of unknown outcomes.
    pub async fn reopen(&mut self) -> Result<(), String> {
        self.engine = None;
        let engine = open_memory(&self.disk, CAPACITY).map_err(|error| error.to_string())?;
        // No crash point of a roll, a retire or an open may look like a loss.
        if !engine.hold().doubts().is_empty() {
            return Err(format!("a false hold: {:?}", engine.hold().doubts()));
        }
        // Nor may a disk that has everything look older than it was.
        if !engine.judge().judge(&answer(self.seen)) {
            let epochs = engine.judge().epochs();
            return Err(format!("a false doubt: {} in {epochs:?}", self.seen));
        }
        self.engine = Some(engine);
        let held: BTreeSet<SessionId> = self.engine().holdings().sessions().into_iter().collect();
        let sealed = self
            .model
            .sealed
            .keys()
            .chain(self.model.unknown.keys())
            .map(|(n, _)| session(*n));
        let expected: BTreeSet<SessionId> = sealed.collect();
        if let Some(risen) = held.iter().find(|session| !expected.contains(session)) {
            return Err(format!("session {risen} was released and is back"));
        }
        let engine = self.engine().clone();
        for ((n, part), numbers) in std::mem::take(&mut self.model.unknown) {
            let ids: Vec<BlockId> = numbers.iter().map(|n| block(*n).id).collect();
            // Sealing it again is what a worker would do; it succeeds when the set or its blocks
            // came through.
            if let Ok(SealOutcome::Sealed { .. }) = engine
                .put_seal(session(n), PartNo(part), ids, Vec::new())
                .await
            {
                self.model.sealed.insert((n, part), numbers);
            }
        }
        for n in std::mem::take(&mut self.model.releasing) {
            if !held.contains(&session(n)) {
                self.model.sealed.retain(|(owner, _), _| *owner != n);
            }
        }
        self.check().await
    }

    pub async fn step(&mut self, rng: &mut StdRng) -> Result<(), String> {
        match rng.random_range(0..32) {
            0..=2 => self.release(rng).await,
            3 => {
                self.engine().recycler().reclaim();
            }
            4 => {
                self.engine().close().map_err(|error| error.to_string())?;
                self.reopen().await?;
                self.engine().forget_orphans();
                self.check_totals()?;
            }
            5 => {
                self.disk = self.disk.kill();
                self.reopen().await?;
            }
            6 => {
                // The page cache survives the kill; the power goes while the next process opens, or
                // right after.
                self.disk = self.disk.kill();
                if rng.random_bool(0.5) {
                    self.reopen().await?;
                }
                self.lose_power(rng).await?;
            }
            7 => {
                let verb = [Verb::Sync, Verb::Write, Verb::Create][rng.random_range(0..3)];
                let fault = if rng.random_bool(0.6) {
                    Fault::Eio
                } else {
                    Fault::Enospc
                };
                self.disk.strike(verb, rng.random_range(1..4), fault);
                self.put_and_seal(rng).await;
                self.release(rng).await;
                self.die(rng).await?;
            }
            8..=10 => self.compact(rng.random_range(1..12)).await,
            11 | 12 => self.compact_beside_others(rng).await,
            13 => {
                // A fault, and the end of the process, in the middle of a compaction.
                let verbs = [
                    Verb::Sync,
                    Verb::Write,
                    Verb::Create,
                    Verb::Read,
                    Verb::Name,
                    Verb::SyncDir,
                ];
                let verb = verbs[rng.random_range(0..verbs.len())];
                let fault = if rng.random_bool(0.6) {
                    Fault::Eio
                } else {
                    Fault::Enospc
                };
                self.disk.strike(verb, rng.random_range(1..6), fault);
                self.reads_fail = verb == Verb::Read;
                self.compact_beside_others(rng).await;
                self.die(rng).await?;
                self.reads_fail = false;
            }
            14 => self.seal_late(rng).await,
            15 => {
                self.compact(1_000).await;
                self.lose_power(rng).await?;
            }
            _ => self.put_and_seal(rng).await,
        }
        Ok(())
    }

    async fn lose_power(&mut self, rng: &mut StdRng) -> Result<(), String> {
        self.disk = self.disk.power_loss(rng.random());
        self.power_losses += 1;
        self.reopen().await
    }

    pub async fn die(&mut self, rng: &mut StdRng) -> Result<(), String> {
        self.disk.calm();
        self.disk = if rng.random_bool(0.5) {
            self.disk.kill()
        } else {
            self.disk.power_loss(rng.random())
        };
        self.reopen().await
    }

    pub async fn compact_beside_others(&mut self, rng: &mut StdRng) {
        let engine = self.engine().clone();
        let compaction = compact(engine, rng.random_range(1..16));
        let compaction_first = rng.random_bool(0.5);
        let others = async {
            for _ in 0..3 {
                match rng.random_range(0..4) {
                    0 => self.put_and_seal(rng).await,
                    1 => self.seal_late(rng).await,
                    _ => self.release(rng).await,
                }
            }
        };
        let emptied = match compaction_first {
            true => tokio::join!(biased; compaction, others).0,
            false => tokio::join!(biased; others, compaction).1,
        };
        self.emptied += emptied;
    }
}

async fn compact(engine: Engine, steps: usize) -> u64 {
    let mut emptied = 0;
    for _ in 0..steps {
        match engine.compactor().step(Need::Now).await {
            Ok(CompactStep::Idle) | Err(_) => break,
            Ok(CompactStep::Moved(_)) => {}
            Ok(CompactStep::Emptied) => emptied += 1,
        }
    }
    emptied
}

/// One sequence; answers the world at its end.
pub async fn run(seed: u64, steps: usize, mut world: World) -> Result<World, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    for step in 0..steps {
        world
            .step(&mut rng)
            .await
            .map_err(|error| format!("seed {seed} step {step}: {error}"))?;
    }
    world
        .check()
        .await
        .map_err(|error| format!("seed {seed} at the end: {error}"))?;
    Ok(world)
}
