//! The engine against a model, over the disk that lies: kills, power loss after kills, failed syncs, full disks.
//!
//! `CSTORE_SEED` picks the first sequence, `CSTORE_CASES` how many. The model knows what was acknowledged: a sealed set
//! holds its blocks until its release; nothing else is promised.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and prints its seed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use cstore_log::{Disk, Fault, FaultyDisk, Log, Options, Record, Sabotage, Urgency, Verb};
use cstore_storage::engine::{BlockKind, DiskOptions, Engine, Identity, NewBlock, PutOutcome, SealOutcome};
use cstore_types::{BlockId, ClusterUuid, DedupKey, NodeId, PartNo, SessionId, StoreUuid};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CAPACITY: u64 = 6 << 20;

fn env(name: &str, default: u64) -> u64 {
    std::env::vars().find(|(key, _)| key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(default)
}

fn identity() -> Identity {
    Identity {
        store: StoreUuid::from_bytes([1; 16]),
        cluster: ClusterUuid::from_bytes([2; 16]),
        node: NodeId::new("storage-1").unwrap(),
        key: DedupKey::from_bytes([3; 32]),
    }
}

fn open(disk: &FaultyDisk, sabotage: Sabotage) -> Result<Engine, String> {
    let options =
        DiskOptions { capacity: CAPACITY, block_size: 64, fresh_start: false, erase: None, sabotage };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Engine::open(disk, "memory", &identity(), &options).map_err(|error| error.to_string())
}

/// Blocks follow from a number: few, so that sessions share them, made once.
fn block(n: u64) -> NewBlock {
    static BLOCKS: OnceLock<Vec<NewBlock>> = OnceLock::new();
    let blocks = BLOCKS.get_or_init(|| (0..61).map(make_block).collect());
    blocks[usize::try_from(n).unwrap()].clone()
}

fn make_block(n: u64) -> NewBlock {
    let mut rng = StdRng::seed_from_u64(n);
    let mut bytes = vec![0u8; rng.random_range(1..40_000)];
    rng.fill(&mut bytes[..]);
    let id = BlockId::of_many(&identity().key, &[&bytes])[0];
    NewBlock { id, kind: BlockKind::Data, bytes: Bytes::from(bytes) }
}

fn session(n: u64) -> SessionId {
    SessionId::from_bytes([[7; 8], n.to_le_bytes()].concat().try_into().unwrap())
}

type Key = (u64, u32);

#[derive(Default)]
struct Model {
    /// Acknowledged sets: what they hold.
    sealed: BTreeMap<Key, Vec<u64>>,
    /// Sets whose outcome is unknown.
    unknown: BTreeMap<Key, Vec<u64>>,
    /// Sessions whose release was not acknowledged.
    releasing: BTreeSet<u64>,
    next_session: u64,
}

struct World {
    disk: FaultyDisk,
    engine: Option<Engine>,
    model: Model,
    sabotage: Sabotage,
    power_losses: u64,
}

impl World {
    fn new(sabotage: Sabotage) -> Self {
        let disk = FaultyDisk::new();
        let engine = Some(open(&disk, sabotage).unwrap());
        Self { disk, engine, model: Model::default(), sabotage, power_losses: 0 }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    async fn put_and_seal(&mut self, rng: &mut StdRng) {
        let n = self.model.next_session;
        self.model.next_session += 1;
        for part in 0..rng.random_range(1..3u32) {
            // From a small pool, so that sessions share blocks.
            let numbers: Vec<u64> = (0..rng.random_range(1..8)).map(|_| rng.random_range(0..60)).collect();
            let blocks: Vec<NewBlock> = numbers.iter().map(|n| block(*n)).collect();
            let ids: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
            let engine = self.engine();
            let outcome = if rng.random_bool(0.5) {
                engine.put_seal(session(n), PartNo(part), ids, blocks).await
            } else {
                let have = engine.have_blocks(session(n), &ids);
                let missing =
                    blocks.into_iter().zip(have).filter(|(_, have)| !have).map(|(block, _)| block).collect();
                let outcomes = engine.put_blocks(session(n), missing).await;
                if outcomes.iter().any(|outcome| matches!(outcome, PutOutcome::Refused(_))) {
                    continue;
                }
                engine.seal(session(n), PartNo(part), ids).await
            };
            match outcome {
                Ok(SealOutcome::Sealed { .. }) => drop(self.model.sealed.insert((n, part), numbers)),
                Ok(other) => panic!("a new part answered {other:?}"),
                Err(cstore_storage::EngineError::Full { .. } | cstore_storage::EngineError::Busy(_)) => {}
                Err(_) => drop(self.model.unknown.insert((n, part), numbers)),
            }
        }
        if rng.random_bool(0.7) {
            self.engine().unpin(session(n));
        }
    }

    async fn release(&mut self, rng: &mut StdRng) {
        let sessions: BTreeSet<u64> = self.model.sealed.keys().map(|(n, _)| *n).collect();
        let Some(n) = sessions.iter().nth(rng.random_range(0..sessions.len().max(1))).copied() else {
            return;
        };
        if self.engine().release(session(n)).await.is_ok() {
            self.model.sealed.retain(|(owner, _), _| *owner != n);
        } else {
            self.model.releasing.insert(n);
        }
    }

    /// Everything that was acknowledged is there, and nothing has other bytes.
    async fn check(&mut self) -> Result<(), String> {
        let engine = self.engine().clone();
        for ((n, part), numbers) in &self.model.sealed {
            let ids: Vec<BlockId> = numbers.iter().map(|n| block(*n).id).collect();
            let again = engine.seal(session(*n), PartNo(*part), ids.clone()).await;
            if !matches!(again, Ok(SealOutcome::Sealed { .. })) {
                return Err(format!("set ({n}, {part}) is gone: {again:?}"));
            }
            let mut other = ids;
            other.reverse();
            other.push(block(60).id);
            let conflict = engine.seal(session(*n), PartNo(*part), other).await;
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
    fn check_totals(&self) -> Result<(), String> {
        let live: BTreeSet<u64> = self.model.sealed.values().flatten().copied().collect();
        let bytes: u64 = live.iter().map(|n| block(*n).bytes.len() as u64).sum();
        let totals = self.engine().totals();
        if (totals.blocks, totals.unique_bytes) == (live.len() as u64, bytes) {
            return Ok(());
        }
        Err(format!("totals are {totals:?}, the model has {} blocks of {bytes} bytes", live.len()))
    }

    /// Opens the disk again and learns what became of unknown outcomes.
    async fn reopen(&mut self) -> Result<(), String> {
        self.engine = None;
        self.engine = Some(open(&self.disk, self.sabotage)?);
        let held: BTreeSet<SessionId> = self.engine().sessions().into_iter().collect();
        let engine = self.engine().clone();
        for ((n, part), numbers) in std::mem::take(&mut self.model.unknown) {
            let ids: Vec<BlockId> = numbers.iter().map(|n| block(*n).id).collect();
            // Sealing it again is what a worker would do; it succeeds when the set or its blocks came through.
            if let Ok(SealOutcome::Sealed { .. }) = engine.seal(session(n), PartNo(part), ids).await {
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

    async fn step(&mut self, rng: &mut StdRng) -> Result<(), String> {
        match rng.random_range(0..24) {
            0..=2 => self.release(rng).await,
            3 => {
                self.engine().reclaim();
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
                // The page cache survives the kill; the power goes while the next process opens, or right after.
                self.disk = self.disk.kill();
                if rng.random_bool(0.5) {
                    self.reopen().await?;
                }
                self.disk = self.disk.power_loss(rng.random());
                self.power_losses += 1;
                self.reopen().await?;
            }
            7 => {
                let verb = [Verb::Sync, Verb::Write, Verb::Create][rng.random_range(0..3)];
                let fault = if rng.random_bool(0.6) { Fault::Eio } else { Fault::Enospc };
                self.disk.strike(verb, rng.random_range(1..4), fault);
                self.put_and_seal(rng).await;
                self.release(rng).await;
                self.disk.calm();
                self.disk =
                    if rng.random_bool(0.5) { self.disk.kill() } else { self.disk.power_loss(rng.random()) };
                self.reopen().await?;
            }
            _ => self.put_and_seal(rng).await,
        }
        Ok(())
    }
}

async fn run(seed: u64, steps: usize, sabotage: Sabotage) -> Result<u64, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new(sabotage);
    for step in 0..steps {
        world.step(&mut rng).await.map_err(|error| format!("seed {seed} step {step}: {error}"))?;
    }
    world.check().await.map_err(|error| format!("seed {seed} at the end: {error}"))?;
    Ok(world.power_losses)
}

#[tokio::test]
async fn i1_i3_i4_i6_sealed_sets_survive_everything_until_their_release() {
    let (first, cases) = (env("CSTORE_SEED", 1), env("CSTORE_CASES", 1_000));
    println!("CSTORE_SEED={first} CSTORE_CASES={cases}");
    let mut with_power_loss = 0;
    for seed in first..first + cases {
        with_power_loss += u64::from(run(seed, 25, Sabotage::None).await.unwrap() > 0);
    }
    println!("{with_power_loss} of {cases} sequences lost power after a kill");
    assert!(with_power_loss * 5 >= cases, "too few sequences lost power after a kill");
}

#[tokio::test]
async fn trusting_the_unsynced_tail_is_caught() {
    let mut caught = false;
    for seed in 1..300 {
        caught |= run(seed, 25, Sabotage::TrustTail).await.is_err();
    }
    assert!(caught);
}

#[tokio::test]
async fn acknowledging_before_the_sync_is_caught() {
    let mut caught = false;
    for seed in 1..300 {
        caught |= run(seed, 25, Sabotage::AcknowledgeBeforeSync).await.is_err();
    }
    assert!(caught);
}

#[tokio::test]
async fn skipping_one_fsync_is_caught() {
    let mut caught = false;
    for seed in 1..60 {
        let mut world = World::new(Sabotage::None);
        let mut rng = StdRng::seed_from_u64(seed);
        world.put_and_seal(&mut rng).await;
        world.disk.strike(Verb::Sync, 1, Fault::Skip);
        world.put_and_seal(&mut rng).await;
        world.disk = world.disk.power_loss(seed);
        caught |= world.reopen().await.is_err();
    }
    assert!(caught);
}

/// The presence check of Seal is what makes a set true: without it the set names blocks that nothing has.
#[tokio::test]
async fn i4_sealing_without_the_presence_check_is_caught() {
    let mut world = World::new(Sabotage::None);
    let absent = block(5);
    let answer = world.engine().seal(session(0), PartNo(0), vec![absent.id]).await.unwrap();
    assert_eq!(answer, SealOutcome::Missing(vec![0]));
    assert!(world.engine().sessions().is_empty(), "nothing was written");
    // A seal that does not look: the record goes straight into the log.
    world.engine().close().unwrap();
    world.engine = None;
    let options = Options {
        owner: *identity().store.as_bytes(),
        file_bytes: 196_608,
        max_bytes: CAPACITY,
        reserve_bytes: 0,
        compaction_bytes: 0,
        max_frame_bytes: 1 << 20,
        max_queue_bytes: 1 << 20,
    };
    let segments = Disk::subdir(&world.disk, "segments").unwrap();
    let (log, _) = Log::open(segments, options, &mut |_| {}).unwrap();
    let ids = absent.id.as_bytes();
    let crc = [session(0).as_bytes().as_slice(), &0u32.to_le_bytes(), ids].concat();
    let payload = [&1u32.to_le_bytes()[..], &crc32c::crc32c(&crc).to_le_bytes(), ids].concat();
    let key = [session(0).as_bytes().as_slice(), &0u32.to_le_bytes()].concat();
    let record = Record { kind: 3, key: key.into(), payload: payload.into() };
    let (sender, landed) = std::sync::mpsc::sync_channel(1);
    log.append(vec![record], Urgency::Normal, Box::new(move |done| sender.send(done.is_ok()).unwrap()));
    assert!(landed.recv().unwrap());
    log.close().unwrap();
    world.model.sealed.insert((0, 0), vec![5]);
    let found = world.reopen().await.unwrap_err();
    assert!(found.contains("block 5"), "{found}");
}

/// After a commit without an answer the file may be visible: a worker that released then would lose it.
#[tokio::test]
async fn i4_i11_a_release_after_an_unanswered_commit_is_caught() {
    let mut world = World::new(Sabotage::None);
    let file = block(5);
    let sealed =
        world.engine().put_seal(session(0), PartNo(0), vec![file.id], vec![file.clone()]).await.unwrap();
    assert!(matches!(sealed, SealOutcome::Sealed { .. }));
    world.model.sealed.insert((0, 0), vec![5]);
    world.check().await.unwrap();
    // What a worker may do, it does: it unpins, and nothing is lost.
    world.engine().unpin(session(0));
    world.check().await.unwrap();
    // What only the master may decide.
    world.engine().release(session(0)).await.unwrap();
    assert!(world.check().await.is_err());
}
