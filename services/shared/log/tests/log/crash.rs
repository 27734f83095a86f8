//! I6: what was acknowledged survives kill -9, power loss and failed syncs, in any order of events.
//!
//! A seeded state machine over the disk that lies. `CSTORE_SEED` picks the first sequence,
//! `CSTORE_CASES` how many.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test may fail loudly"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use bytes::Bytes;
use cstore_log::{
    Committed, Disk, Fault, FaultyDisk, FileState, Location, Log, LogError, NextEpoch, Options,
    Record, RecoveryReport, Urgency, Verb,
};
use cstore_testkit::seed_and_cases;
use cstore_types::SealSeq;
use cstore_types::epoch::{self, Epoch, SealPoint};
use cstore_types::history::Place;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn options() -> Options {
    Options {
        owner: [7; 16],
        file_bytes: 64 << 10,
        max_bytes: 2 << 20,
        reserve_bytes: 128 << 10,
        compaction_bytes: 0,
        floor_bytes: 0,
        ready_files: 0,
        open_files: 2,
        callers_write: false,
        max_frame_bytes: 128 << 10,
        max_queue_bytes: 8 << 20,
        least_seq: 0,
        proven_seq: 0,
        epoch: None,
        inventory: None,
        absent_seqs: Vec::new(),
        is_held: false,
    }
}

/// Payloads follow from the group and the position, so that a wrong byte is noticed without keeping
/// them.
fn payload(group: u32, at: u32) -> Bytes {
    let mut rng = StdRng::seed_from_u64(u64::from(group) << 32 | u64::from(at));
    let len = if rng.random_bool(0.1) {
        rng.random_range(0..90_000)
    } else {
        rng.random_range(0..3_000)
    };
    let mut bytes = vec![0u8; len];
    rng.fill(&mut bytes[..]);
    bytes.into()
}

fn records(group: u32, count: u32) -> Vec<Record> {
    let key = |at: u32| [group.to_le_bytes(), at.to_le_bytes(), count.to_le_bytes()].concat();
    (0..count)
        .map(|at| Record {
            kind: 1,
            key: key(at).into(),
            payload: payload(group, at),
        })
        .collect()
}

type Outcome = Result<Vec<Location>, LogError>;

fn append(log: &Log, group: u32, count: u32) -> Receiver<Outcome> {
    let (sender, receiver) = sync_channel(1);
    let done = move |result: Result<Committed<'_>, LogError>| {
        let _ = sender.send(result.map(|committed| committed.locations.to_vec()));
    };
    log.append(records(group, count), Urgency::Normal, Box::new(done));
    receiver
}

/// Groups that must be there, and groups that may be.
#[derive(Default)]
struct Model {
    durable: BTreeMap<u32, Vec<Location>>,
    unknown: BTreeMap<u32, u32>,
    next_group: u32,
}

struct World {
    disk: FaultyDisk,
    log: Option<Log>,
    model: Model,
    /// Opens so far, in a log with epochs.
    opens: Option<u64>,
    /// Epochs that a list beside the log would have.
    epochs: Vec<Epoch>,
    /// The last acknowledged frame.
    seen: SealPoint,
    /// Highest sequence of the log when files were given up, which a superblock would have.
    floor: u64,
}

impl World {
    fn new() -> Self {
        Self::with(None)
    }

    /// Makes a world whose log has epochs.
    fn with_epochs() -> Self {
        Self::with(Some(0))
    }

    fn with(opens: Option<u64>) -> Self {
        let mut world = Self {
            disk: FaultyDisk::new(),
            log: None,
            model: Model::default(),
            opens,
            epochs: Vec::new(),
            seen: SealPoint::default(),
            floor: 0,
        };
        world.open().unwrap();
        world
    }

    /// Opens and compares with the model. What a visit delivered must be there ever after.
    fn open(&mut self) -> Result<(), String> {
        let mut seen: BTreeMap<u32, Vec<(u32, u32, Location)>> = BTreeMap::new();
        let mut last = None;
        let visit = &mut |record: cstore_log::RecoveredRecord<'_>| {
            let field = |at: usize| u32::from_le_bytes(*record.key[at..].first_chunk().unwrap());
            seen.entry(field(0))
                .or_default()
                .push((field(4), field(8), record.location));
            assert!(last <= Some(record.frame_seq), "records are out of order");
            last = Some(record.frame_seq);
        };
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        self.opens = self.opens.map(|opens| opens + 1);
        let options = Options {
            epoch: self.opens.map(|nonce| NextEpoch {
                least: self.epochs.last().map_or(1, |last| last.number),
                nonce,
            }),
            least_seq: self.floor,
            // Run with and without prepared files.
            ready_files: self.opens.map_or(0, |opens| (opens % 3) as usize),
            ..options()
        };
        let opened = Log::open(disk, options, visit);
        let (log, report) = opened.map_err(|error| error.to_string())?;
        self.check_epochs(&report, log.durable_seq())?;
        for group in self.model.durable.keys() {
            if !seen.contains_key(group) {
                return Err(format!("acknowledged group {group} is gone"));
            }
        }
        let mut durable = BTreeMap::new();
        for (group, found) in seen {
            let count = found[0].1;
            let expected =
                self.model.durable.contains_key(&group) || self.model.unknown.contains_key(&group);
            if !expected {
                return Err(format!("group {group} came from nowhere"));
            }
            if found.iter().map(|(at, _, _)| *at).ne(0..count) {
                return Err(format!(
                    "group {group} came back in part or twice: {found:?}"
                ));
            }
            for (at, _, location) in &found {
                if log.read(*location).map_err(|error| error.to_string())? != payload(group, *at) {
                    return Err(format!("group {group} record {at} has other bytes"));
                }
            }
            durable.insert(
                group,
                found.into_iter().map(|(_, _, location)| location).collect(),
            );
        }
        self.model.durable = durable;
        self.model.unknown.clear();
        self.log = Some(log);
        Ok(())
    }

    /// Checks that the last acknowledged frame is of an epoch that the log still knows, and that
    /// its end is not in front of it.
    fn check_epochs(&mut self, report: &RecoveryReport, head: u64) -> Result<(), String> {
        if self.opens.is_none() {
            return Ok(());
        }
        for epoch in &report.epochs {
            let known = |known: &Epoch| known.number == epoch.number;
            match self.epochs.iter().find(|known_epoch| known(known_epoch)) {
                Some(known) if known.nonce == epoch.nonce => {}
                Some(known) => return Err(format!("{epoch:?} is not {known:?}")),
                None => self.epochs.push(*epoch),
            }
        }
        self.epochs
            .retain(|epoch| epoch.number < report.epoch.number);
        self.epochs.push(report.epoch);
        self.epochs.sort_by_key(|epoch| epoch.number);

        match epoch::place(&self.epochs, head, &self.seen) {
            Place::Contains => Ok(()),
            place => Err(format!(
                "{} is {place:?} of {:?}, head {head}",
                self.seen, self.epochs
            )),
        }
    }

    fn append_some(&mut self, rng: &mut StdRng) {
        let Some(log) = &self.log else { return };
        let mut waiting = Vec::new();
        for _ in 0..rng.random_range(1..6) {
            let (group, count) = (self.model.next_group, rng.random_range(1..8));
            self.model.next_group += 1;
            waiting.push((group, count, append(log, group, count)));
        }
        for (group, count, outcome) in waiting {
            match outcome.recv().unwrap() {
                Ok(locations) => {
                    self.model.durable.insert(group, locations);
                    self.seen = SealPoint {
                        seq: SealSeq(log.durable_seq()),
                        nonce: self.opens.unwrap_or(0),
                    };
                }
                Err(LogError::Full { .. } | LogError::Busy) => {}
                Err(_) => drop(self.model.unknown.insert(group, count)),
            }
        }
    }

    fn retire_some(&mut self, rng: &mut StdRng) {
        let Some(log) = &self.log else { return };
        let old: Vec<u32> = log
            .files()
            .iter()
            .filter(|file| file.state != FileState::Active)
            .map(|file| file.id)
            .collect();
        if self.opens.is_some() {
            self.floor = log.durable_seq();
        }
        let keep = rng.random_range(0..4);
        for file in old.iter().take(old.len().saturating_sub(keep)) {
            if log.retire(*file).is_ok() {
                self.model
                    .durable
                    .retain(|_, locations| locations[0].file != *file);
            }
        }
    }

    fn step(&mut self, rng: &mut StdRng) -> Result<(), String> {
        match rng.random_range(0..20) {
            0 => self.retire_some(rng),
            1 => {
                self.log
                    .take()
                    .unwrap()
                    .close()
                    .map_err(|error| error.to_string())?;
                self.open()?;
            }
            2 => {
                self.disk = self.disk.kill();
                self.log = None;
                self.open()?;
            }
            3 => {
                // The page cache survives a kill; the power is lost while the next process opens,
                // or right after.
                self.disk = self.disk.kill();
                self.log = None;
                if rng.random_bool(0.5) {
                    self.open()?;
                }
                self.disk = self.disk.power_loss(rng.random());
                self.log = None;
                self.open()?;
            }
            4 => {
                let verb = [Verb::Sync, Verb::Write, Verb::Create][rng.random_range(0..3)];
                let fault = if rng.random_bool(0.7) {
                    Fault::Eio
                } else {
                    Fault::Enospc
                };
                self.disk.strike(verb, rng.random_range(1..4), fault);
                self.append_some(rng);
                self.disk.calm();
                self.disk = if rng.random_bool(0.5) {
                    self.disk.kill()
                } else {
                    self.disk.power_loss(rng.random())
                };
                self.log = None;
                self.open()?;
            }
            _ => self.append_some(rng),
        }
        Ok(())
    }
}

fn run(seed: u64, steps: usize, mut world: World) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    for step in 0..steps {
        world
            .step(&mut rng)
            .map_err(|error| format!("seed {seed} step {step}: {error}"))?;
    }
    Ok(())
}

#[test]
fn i6_acknowledged_groups_survive_kills_power_loss_and_failed_syncs() {
    let (first, cases) = seed_and_cases(1, 300);
    for seed in first..first + cases {
        let world = match seed % 2 {
            0 => World::new(),
            _ => World::with_epochs(),
        };
        run(seed, 40, world).unwrap();
    }
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    let is_caught = |seed| {
        let world = World::new();
        world.disk.ignore_syncs();
        run(seed, 40, world).is_err()
    };
    assert!((1..200).any(is_caught));
}

#[test]
fn skipping_one_fsync_is_caught() {
    let lost = (1..60).any(|seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        for _ in 0..5 {
            world.append_some(&mut rng);
        }
        world.disk.strike(Verb::Sync, 1, Fault::Skip);
        world.append_some(&mut rng);
        world.disk = world.disk.power_loss(seed);
        world.log = None;
        world.open().is_err()
    });
    assert!(lost);
}
