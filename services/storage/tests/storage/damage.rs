//! Damage: a disk opens whatever is wrong with a block of it. What the damage cannot have hit is
//! there, nothing is freed, and all is whole again when the bytes are back.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail loudly and says what it has seen"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{Disk, FaultyDisk};
use cstore_storage::engine::{DoubtKind, Engine, Identity, Look, look};
use cstore_storage::{EngineError, OpenError};
use cstore_testkit::engine::{CAPACITY, identity, mark, open_memory, options};
use cstore_testkit::seed_and_cases;
use cstore_types::{ClusterUuid, DedupKey, StoreUuid};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::hold::{
    INVENTORY, LEN, N_FILES, SUPERBLOCK, assert_whole, contents, copy_alive, filled, frames, kinds,
    names, nth, put_file, segments, take_file, try_to_free,
};

const BLOCK: usize = 4_096;

/// Damage to a block of a file.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Flip(usize),
    Zero,
    Spoil,
}

/// A file on the disk, in its folder.
#[derive(Debug, Clone)]
struct Struck {
    in_segments: bool,
    name: String,
}

impl Struck {
    fn beside(name: &str) -> Self {
        Self {
            in_segments: false,
            name: name.to_owned(),
        }
    }

    fn folder(&self, disk: &FaultyDisk) -> Arc<dyn Disk> {
        match self.in_segments {
            true => segments(disk),
            false => Arc::new(disk.clone()),
        }
    }

    fn strike(&self, disk: &FaultyDisk, block: usize, blow: Blow) {
        let (folder, start) = (self.folder(disk), block * BLOCK);
        let mut bytes = contents(&*folder, &self.name);
        match blow {
            Blow::Flip(at) => bytes[start + at] ^= 0x10,
            Blow::Zero => bytes[start..start + BLOCK].fill(0),
            Blow::Spoil => {
                let path = match self.in_segments {
                    true => format!("segments/{}", self.name),
                    false => self.name.clone(),
                };
                let range = start as u64..(start + BLOCK) as u64;
                return disk.spoil(&path, range).unwrap();
            }
        }
        put_file(&*folder, &self.name, &bytes);
    }
}

/// The same files after a clean stop.
fn stopped(disk: &FaultyDisk) -> FaultyDisk {
    let disk = copy_alive(disk);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    engine.close().unwrap();
    drop(engine);
    disk.kill()
}

/// Blocks of files whose frames lie in the struck block, or in a part of the segment that this
/// block's frame tells of.
fn may_be_hit(segment: &[u8], block: usize) -> Vec<u64> {
    let start = block * BLOCK;
    let is_hit = |n: &u64| {
        let Some(at) = segment.windows(16).position(|found| found == mark(*n)) else {
            return false;
        };
        let frame = at / BLOCK * BLOCK;
        // A set follows its block in the same frame.
        let end = (at + LEN + 1_000).next_multiple_of(BLOCK);
        (frame..end).contains(&start)
    };
    (0..N_FILES).filter(is_hit).collect()
}

fn is_readable(engine: &Engine, n: u64) -> bool {
    match engine.read_block(&nth(n).id) {
        Ok(bytes) => {
            assert!(bytes == nth(n).bytes, "block {n} has other bytes");
            true
        }
        Err(EngineError::DataLoss | EngineError::NotFound) => false,
        Err(error) => panic!("block {n}: {error:?}"),
    }
}

/// Opens a struck disk, tries to free everything if it is on hold, puts the bytes back and opens
/// it again.
async fn check(whole: &FaultyDisk, struck: &Struck, block: usize, blow: Blow) -> Vec<DoubtKind> {
    let case = format!("{struck:?} block {block} {blow:?}");
    let disk = copy_alive(whole);
    let before = contents(&*struck.folder(&disk), &struck.name);
    let hit = match struck.in_segments {
        true => may_be_hit(&before, block),
        false => Vec::new(),
    };
    struck.strike(&disk, block, blow);
    let opened = open_memory(&disk, CAPACITY);
    let engine = opened.unwrap_or_else(|error| panic!("{case}: {error:?}"));
    let lost: Vec<u64> = (0..N_FILES).filter(|n| !is_readable(&engine, *n)).collect();
    assert!(lost.iter().all(|n| hit.contains(n)), "{case}: {lost:?}");
    assert!(lost.len() <= 1, "{case}: {lost:?}");
    let found = kinds(&engine);
    if found.is_empty() {
        let n_sessions = engine.holdings().sessions().len() as u64;
        // The last frame of a killed process is proven by nothing on the disk: the master has seen
        // its seal (`epochs.rs`).
        let is_torn = hit.contains(&(N_FILES - 1));
        assert!(
            n_sessions == N_FILES || (is_torn && n_sessions == N_FILES - 1),
            "{case}: sets are hidden without a word"
        );
    } else {
        try_to_free(&engine).await;
    }
    drop(engine);

    let disk = disk.kill();
    if struck.in_segments {
        let is_there = put_block(&disk, &struck.name, block, &before);
        // A last frame that was torn is cut off.
        if is_there || !hit.contains(&(N_FILES - 1)) {
            assert_back(&copy_alive(&disk), &case);
        }
        put_file(&*segments(&disk), &struck.name, &before);
        assert_back(&disk, &case);
    } else {
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert!((0..N_FILES).all(|n| is_readable(&engine, n)), "{case}");
    }
    found
}

/// Puts back one block of a segment. Returns false if the segment ends in front of it. A header that
/// was made anew stays.
fn put_block(disk: &FaultyDisk, name: &str, block: usize, segment: &[u8]) -> bool {
    let (file, start) = (segments(disk).open(name).unwrap(), block * BLOCK);
    if file.size().unwrap() < (start + BLOCK) as u64 {
        return false;
    }
    let mut found = vec![0; BLOCK];
    let is_read = file.read_exact_at(&mut found, start as u64).is_ok();
    if block > 0 || !is_read || !found.starts_with(b"CSTORLG2") {
        let bytes = Bytes::copy_from_slice(&segment[start..start + BLOCK]);
        file.write_all_vectored_at(&[bytes], start as u64).unwrap();
        file.sync_data().unwrap();
    }
    true
}

fn assert_back(disk: &FaultyDisk, case: &str) {
    let engine = open_memory(disk, CAPACITY).unwrap();
    assert_eq!(engine.hold().doubts(), [], "{case}");
    assert_whole(&engine);
}

#[tokio::test]
async fn i4_a_blow_to_any_block_costs_what_it_hits_and_frees_nothing() {
    let (seed, cases) = seed_and_cases(20_261_126, 120);
    let mut rng = StdRng::seed_from_u64(seed);
    let killed = filled().await;
    let stopped = stopped(&killed);
    let mut counts = BTreeMap::new();
    for n in 0..cases {
        let (state, whole) = match n % 2 {
            0 => ("killed", &killed),
            _ => ("stopped", &stopped),
        };
        let in_segments = names(&segments(&copy_alive(whole)));
        let struck = match rng.random_range(0..in_segments.len() + 2) {
            0 => Struck::beside(SUPERBLOCK),
            1 => Struck::beside(INVENTORY),
            n => Struck {
                in_segments: true,
                name: in_segments[n - 2].clone(),
            },
        };
        let bytes = contents(&*struck.folder(&copy_alive(whole)), &struck.name);
        let blocks = bytes.len() / BLOCK;
        // Headers, frames and footers are where structures are.
        let block = match (rng.random_range(0..6), struck.in_segments) {
            (0, _) => 0,
            (1, _) => blocks - 1,
            (2, true) => {
                let frames = frames(&bytes);
                frames[rng.random_range(0..frames.len())] / BLOCK
            }
            _ => rng.random_range(0..blocks),
        };
        let flip = match rng.random_range(0..4) {
            0 => rng.random_range(0..BLOCK),
            _ => rng.random_range(0..160),
        };
        let blow = match rng.random_range(0..4) {
            0 => Blow::Zero,
            1 => Blow::Spoil,
            _ => Blow::Flip(flip),
        };
        let found = check(whole, &struck, block, blow).await;
        *counts.entry((state, found)).or_insert(0) += 1;
    }
    println!("doubts after a blow: {counts:?}");
}

/// Ways to lose a superblock, by what is left of the file.
fn lose_superblock(disk: &FaultyDisk, how: &str) {
    let mut bytes = contents(disk, SUPERBLOCK);
    match how {
        "flip" => (0..4).for_each(|slot| bytes[slot * BLOCK + 200] ^= 1),
        "zero" => bytes.fill(0),
        "garbage" => bytes.fill(0xa5),
        "truncate" => bytes.clear(),
        "delete" => return drop(take_file(disk, SUPERBLOCK)),
        "spoil" => return disk.spoil(SUPERBLOCK, 0..bytes.len() as u64).unwrap(),
        _ => panic!("{how}"),
    }
    put_file(disk, SUPERBLOCK, &bytes);
}

const LOSSES: [&str; 6] = ["flip", "zero", "garbage", "truncate", "delete", "spoil"];

#[tokio::test]
async fn i4_a_lost_superblock_is_made_anew_and_doubted_until_it_is_accepted() {
    let killed = filled().await;
    for whole in [stopped(&killed), killed] {
        for how in LOSSES {
            let disk = copy_alive(&whole);
            lose_superblock(&disk, how);
            let seen = look(&(Arc::new(disk.clone()) as Arc<dyn Disk>), "memory").unwrap();
            assert!(
                matches!(seen, Look::WithoutSuperblock(_)),
                "{how}: {seen:?}"
            );
            assert_eq!(seen.store(), Some(identity().store));

            let engine = open_memory(&disk, CAPACITY).unwrap();
            assert_eq!(engine.store(), identity().store);
            assert_eq!(kinds(&engine), [DoubtKind::Superblock], "{how}");
            assert!((0..N_FILES).all(|n| is_readable(&engine, n)), "{how}");
            try_to_free(&engine).await;
            drop(engine);

            let disk = disk.kill();
            let engine = open_memory(&disk, CAPACITY).unwrap();
            let doubts = engine.hold().doubts();
            assert_eq!(kinds(&engine), [DoubtKind::Superblock], "{how}: {doubts:?}");
            engine.hold().accept(doubts[0].number).unwrap();
            assert!(!engine.hold().is_held());
            assert_eq!(engine.holdings().sessions().len() as u64, N_FILES);
            drop(engine);
            let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
            assert_eq!(kinds(&engine), [], "{how}");
            assert!((0..N_FILES).all(|n| is_readable(&engine, n)), "{how}");
        }
    }
}

#[tokio::test]
async fn i4_without_superblock_and_inventory_every_doubt_is_said() {
    let disk = filled().await;
    take_file(&disk, SUPERBLOCK);
    take_file(&disk, INVENTORY);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let found = kinds(&engine);
    assert_eq!(found, [DoubtKind::Superblock, DoubtKind::Inventory]);
    assert!((0..N_FILES).all(|n| is_readable(&engine, n)));
}

/// The identity of a disk without superblock is the cluster's, so its blocks have to prove it.
#[tokio::test]
async fn i5_a_disk_without_superblock_of_another_key_is_refused() {
    let disk = filled().await;
    lose_superblock(&disk, "delete");
    let other = Identity {
        key: DedupKey::from_bytes([0x55; 32]),
        ..identity()
    };
    let opened = Engine::open(Arc::new(disk.clone()), "memory", &other, &options(CAPACITY));
    let refused = opened.unwrap_err();
    assert!(matches!(refused, OpenError::Mismatch { .. }), "{refused}");
    drop(refused);
    let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
    assert!((0..N_FILES).all(|n| is_readable(&engine, n)));
}

#[tokio::test]
async fn i4_a_superblock_of_another_cluster_is_refused_and_nothing_is_changed() {
    let disk = filled().await;
    let other = Identity {
        cluster: ClusterUuid::from_bytes([0x44; 16]),
        store: StoreUuid::from_bytes([0x45; 16]),
        ..identity()
    };
    let foreign = FaultyDisk::new();
    let opened = Engine::open(
        Arc::new(foreign.clone()),
        "other",
        &other,
        &options(CAPACITY),
    );
    drop(opened.unwrap());
    let own = contents(&disk, SUPERBLOCK);
    put_file(&disk, SUPERBLOCK, &contents(&foreign, SUPERBLOCK));
    let refused = open_memory(&disk, CAPACITY).unwrap_err();
    assert!(matches!(refused, OpenError::Mismatch { .. }), "{refused}");
    put_file(&disk, SUPERBLOCK, &own);
    assert_whole(&open_memory(&disk.kill(), CAPACITY).unwrap());
}
