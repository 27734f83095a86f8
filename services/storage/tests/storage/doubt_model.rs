//! The engine's model with doubt: in between its steps segments are away for a while, the disk is
//! exchanged for an older copy and back, and a lost segment is accepted and comes back late.
//!
//! While a disk is in doubt work goes on, and nothing is freed: when what was missing is back,
//! everything that was acknowledged before and meanwhile is there. `CSTORE_SEED` picks the first
//! sequence, `CSTORE_CASES` how many.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail loudly and prints its seed"
)]

use std::collections::BTreeSet;

use cstore_log::FaultyDisk;
use cstore_storage::engine::{Engine, SealOutcome};
use cstore_testkit::engine::{CAPACITY, open_memory};
use cstore_testkit::{seed_and_cases, session};
use cstore_types::{BlockId, PartNo, SessionId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::hold::{copy_alive, names, put_file, segments, take_file};
use crate::model::{World, answer, block};

/// Counts of the events of all sequences.
#[derive(Debug, Default)]
struct Tally {
    returned: u64,
    rolled_back: u64,
    accepted: u64,
}

/// A segment of a disk that was taken away.
struct Taken {
    name: String,
    bytes: Vec<u8>,
}

/// Takes one of the segments away; `None` if there is none.
fn take_segment(disk: &FaultyDisk, rng: &mut StdRng) -> Option<Taken> {
    let folder = segments(disk);
    let mut names = names(&folder);
    names.retain(|name| name.ends_with(".bin"));
    let name = names.get(rng.random_range(0..names.len().max(1)))?.clone();
    let bytes = take_file(&*folder, &name);
    Some(Taken { name, bytes })
}

fn put_segment(disk: &FaultyDisk, taken: &Taken) {
    put_file(&*segments(disk), &taken.name, &taken.bytes);
}

fn has_open_doubt(engine: &Engine) -> bool {
    let doubts = engine.hold().doubts();
    doubts.iter().any(|doubt| !doubt.accepted)
}

impl World {
    /// Work while the disk is in doubt, of which nothing may be freed.
    async fn work_in_doubt(&mut self, rng: &mut StdRng) {
        for _ in 0..rng.random_range(1..6) {
            match rng.random_range(0..6) {
                0 => self.release(rng).await,
                1 => self.compact(8).await,
                2 => drop(self.engine().recycler().reclaim()),
                3 => self.engine().sweep_pins(),
                4 => self.engine().forget_orphans(),
                _ => self.put_and_seal(rng).await,
            }
        }
    }

    /// Ends the process and opens the disk again, whatever is in doubt on it. Returns true if the
    /// disk holds what the master has seen of it.
    fn reopen_in_doubt(&mut self) -> Result<bool, String> {
        self.engine = None;
        self.disk = self.disk.kill();
        let engine = open_memory(&self.disk, CAPACITY).map_err(|error| error.to_string())?;
        let holds = engine.judge().judge(&answer(self.seen));
        self.engine = Some(engine);
        Ok(holds)
    }

    /// A segment is away for some starts, and comes back. Returns false if it was not listed.
    async fn lend_a_segment(&mut self, rng: &mut StdRng) -> Result<bool, String> {
        self.engine = None;
        self.disk = self.disk.kill();
        let Some(taken) = take_segment(&self.disk, rng) else {
            self.reopen().await?;
            return Ok(false);
        };
        for _ in 0..rng.random_range(1..4) {
            self.reopen_in_doubt()?;
            if !has_open_doubt(self.engine()) {
                // A segment in which nothing was acknowledged.
                self.engine = None;
                self.disk = self.disk.kill();
                put_segment(&self.disk, &taken);
                self.reopen().await?;
                return Ok(false);
            }
            self.work_in_doubt(rng).await;
        }

        self.engine = None;
        self.disk = self.disk.kill();
        put_segment(&self.disk, &taken);
        let holds = self.reopen_in_doubt()?;
        if !holds || has_open_doubt(self.engine()) {
            let doubts = self.engine().hold().doubts();
            return Err(format!("{} is back, and in doubt: {doubts:?}", taken.name));
        }
        self.disk = self.disk.kill();
        self.reopen().await?;
        Ok(true)
    }

    /// The disk is exchanged for an older copy for some starts, and comes back. Returns false if the
    /// copy lacks nothing.
    async fn roll_back(&mut self, older: &FaultyDisk, rng: &mut StdRng) -> Result<bool, String> {
        self.engine = None;
        let right = self.disk.kill();
        self.disk = older.clone();
        let (model, seen) = (self.model.clone(), self.seen);
        if self.reopen_in_doubt()? {
            self.engine = None;
            self.disk = right;
            self.reopen().await?;
            return Ok(false);
        }

        for _ in 0..rng.random_range(1..4) {
            self.work_in_doubt(rng).await;
            self.seen = seen;
            if self.reopen_in_doubt()? || !self.engine().hold().is_held() {
                return Err(format!("an older copy holds {seen}"));
            }
        }
        self.engine = None;
        (self.disk, self.model, self.seen) = (right, model, seen);
        self.reopen().await?;
        Ok(true)
    }

    /// A segment is lost for good; a person accepts that, and the segment comes back. The disk goes
    /// on as it was accepted, and what reads then reads on.
    async fn accept_a_loss(&mut self, rng: &mut StdRng) -> Result<bool, String> {
        self.engine = None;
        self.disk = self.disk.kill();
        let Some(taken) = take_segment(&self.disk, rng) else {
            return Ok(false);
        };
        self.reopen_in_doubt()?;
        for _ in 0..2 {
            for doubt in self.engine().hold().doubts() {
                let accepted = self.engine().hold().accept(doubt.number);
                accepted.map_err(|error| error.to_string())?;
            }
            // The master takes the disk as it is.
            let engine = self.engine().clone();
            self.seen = engine.judge().seal_point(engine.seal_seq());
            if !engine.judge().judge(&answer(self.seen)) || engine.hold().is_held() {
                return Err(format!("accepted, and held: {:?}", engine.hold().doubts()));
            }
        }
        self.forget_what_is_lost().await;
        self.put_and_seal(rng).await;

        let held: BTreeSet<SessionId> = self.engine().holdings().sessions().into_iter().collect();
        self.engine = None;
        self.disk = self.disk.kill();
        put_segment(&self.disk, &taken);
        self.reopen_in_doubt()?;
        let engine = self.engine().clone();
        if has_open_doubt(&engine) {
            return Err(format!("given up, back: {:?}", engine.hold().doubts()));
        }
        let now: BTreeSet<SessionId> = engine.holdings().sessions().into_iter().collect();
        if now != held {
            return Err(format!(
                "sets of a segment that was given up: {now:?}, {held:?}"
            ));
        }
        self.check().await?;
        Ok(true)
    }

    /// Takes the sets out of the model that went with a loss, whole or in part.
    async fn forget_what_is_lost(&mut self) {
        let engine = self.engine().clone();
        for ((n, part), numbers) in std::mem::take(&mut self.model.sealed) {
            let ids: Vec<BlockId> = numbers.iter().map(|n| block(*n).id).collect();
            let is_whole = ids.iter().all(|id| engine.read_block(id).is_ok());
            if !is_whole {
                continue;
            }
            let sealed = engine.put_seal(session(n), PartNo(part), ids, Vec::new());
            if matches!(sealed.await, Ok(SealOutcome::Sealed { .. })) {
                self.model.sealed.insert((n, part), numbers);
            }
        }
    }
}

async fn sequence(seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new();
    for _ in 0..rng.random_range(4..20) {
        world.step(&mut rng).await?;
    }
    let mut older = copy_alive(&world.disk);
    for _ in 0..2 {
        for _ in 0..rng.random_range(2..8) {
            world.step(&mut rng).await?;
        }
        tally.returned += u64::from(world.lend_a_segment(&mut rng).await?);
        if rng.random_bool(0.7) {
            tally.rolled_back += u64::from(world.roll_back(&older, &mut rng).await?);
            older = copy_alive(&world.disk);
        }
    }
    for _ in 0..rng.random_range(0..4) {
        world.step(&mut rng).await?;
    }
    tally.accepted += u64::from(world.accept_a_loss(&mut rng).await?);
    Ok(())
}

#[tokio::test]
async fn i1_i4_what_was_acknowledged_survives_losses_rollbacks_and_late_returns() {
    let (first, cases) = seed_and_cases(1, 200);
    let mut tally = Tally::default();
    for seed in first..first + cases {
        let ended = sequence(seed, &mut tally).await;
        ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    println!("{tally:?} in {cases} sequences");
    let least = cases / 4;
    assert!(
        tally.returned > least && tally.rolled_back > least && tally.accepted > least,
        "{tally:?}"
    );
}
