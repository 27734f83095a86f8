//! Random damage: several blows to the segments of one disk, starts that are broken off, writes
//! between them, and the struck blocks back in their places.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use bytes::Bytes;
use cstore_log::{Fault, FaultyDisk, Verb};
use cstore_testkit::engine::{CAPACITY, open_memory, store};
use cstore_testkit::{seed_and_cases, session};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::hold::{
    LEN, N_FILES, contents, copy_alive, filled, frames, kinds, names, nth, segments,
};

const BLOCK: usize = 4_096;

/// A block of a segment that was struck, and its bytes before.
struct Struck {
    segment: String,
    start: usize,
    before: Vec<u8>,
}

fn block_of(segment: &[u8], rng: &mut StdRng) -> usize {
    let frames = frames(segment);
    match rng.random_range(0..4) {
        0 => 0,
        1 => segment.len() - BLOCK,
        _ => frames[rng.random_range(0..frames.len())],
    }
}

fn write(disk: &FaultyDisk, segment: &str, start: usize, bytes: &[u8]) {
    let file = segments(disk).open(segment).unwrap();
    file.write_all_vectored_at(&[Bytes::copy_from_slice(bytes)], start as u64)
        .unwrap();
    file.sync_data().unwrap();
}

/// Strikes up to three blocks. The newest frame of a killed disk is left alone: only the master
/// knows that it was there.
fn strike(disk: &FaultyDisk, was_killed: bool, rng: &mut StdRng) -> Vec<Struck> {
    let all = names(&segments(disk));
    let sources: Vec<Vec<u8>> = all
        .iter()
        .map(|name| contents(&*segments(disk), name))
        .collect();
    let mut struck = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let i = rng.random_range(0..all.len());
        let start = block_of(&sources[i], rng);
        let is_newest = i + 1 == all.len() && start >= *frames(&sources[i]).last().unwrap();
        if was_killed && is_newest {
            continue;
        }
        let path = format!("segments/{}", all[i]);
        let at = start as u64;
        match rng.random_range(0..3) {
            0 => write(disk, &all[i], start, &[0; BLOCK]),
            1 => disk.spoil(&path, at..at + BLOCK as u64).unwrap(),
            _ => disk
                .rot(&path, at + rng.random_range(0..160), 0x10)
                .unwrap(),
        }
        struck.push(Struck {
            segment: all[i].clone(),
            start,
            before: sources[i][start..start + BLOCK].to_vec(),
        });
    }
    struck
}

/// Events of one disk over all its starts.
#[derive(Default)]
struct Events {
    stored: Vec<u64>,
    /// A sync has failed. The next start reads from the page cache what no disk has, and a power loss
    /// takes that back: such a disk is in doubt about its superblock or its inventory for good.
    has_failed_sync: bool,
}

/// Opens the disk, maybe with a fault, and maybe stores a block. Returns the disk after the process
/// has ended in some way.
async fn live(disk: FaultyDisk, events: &mut Events, case: &str, rng: &mut StdRng) -> FaultyDisk {
    let is_broken_off = rng.random_range(0..3) == 0;
    if is_broken_off {
        let verbs = [Verb::Write, Verb::Sync, Verb::Name, Verb::Create];
        let verb = verbs[rng.random_range(0..verbs.len())];
        events.has_failed_sync |= verb == Verb::Sync;
        disk.strike(verb, rng.random_range(1..6), Fault::Eio);
    }
    let opened = open_memory(&disk, CAPACITY);
    disk.calm();
    match opened {
        Ok(engine) => {
            let sessions = engine.holdings().sessions();
            let is_whole = (0..N_FILES).all(|n| sessions.contains(&session(n)));
            let is_doubted = !kinds(&engine).is_empty();
            assert!(is_whole || is_doubted, "{case}: hidden without a doubt");
            let n = 100 + events.stored.len() as u64;
            if rng.random() && store(&engine, n, LEN).await.is_ok() {
                events.stored.push(n);
            }
            if rng.random_range(0..3) == 0 {
                // A stop may fail on a disk with a fault; the next start recovers.
                drop(engine.close());
            }
        }
        Err(error) => assert!(is_broken_off, "{case}: {error:?}"),
    }
    match events.has_failed_sync || rng.random() {
        true => disk.kill(),
        false => disk.power_loss(rng.random_range(0..1 << 40)),
    }
}

/// Puts struck blocks back. A header that was made anew stays.
fn put_back(disk: &FaultyDisk, struck: &[Struck], case: &str) {
    for Struck {
        segment,
        start,
        before,
    } in struck.iter().rev()
    {
        let file = segments(disk).open(segment).unwrap();
        let len = usize::try_from(file.size().unwrap()).unwrap();
        let mut found = vec![0; BLOCK];
        let is_renewed = *start == 0
            && file.read_exact_at(&mut found, 0).is_ok()
            && found.starts_with(b"CSTORLG2");
        let is_frame = before.starts_with(b"CLF2") && before[28] == 0;
        if len >= start + BLOCK && !is_renewed {
            write(disk, segment, *start, before);
        } else {
            assert!(is_renewed || !is_frame, "{case}: a frame was cut off");
        }
    }
}

#[tokio::test]
async fn i4_several_blows_hide_nothing_without_a_doubt_and_cost_nothing_for_good() {
    let (seed, cases) = seed_and_cases(1, 300);
    let killed = filled().await;
    let stopped = copy_alive(&killed);
    open_memory(&stopped, CAPACITY).unwrap().close().unwrap();
    let stopped = stopped.kill();
    for n in 0..cases {
        let case = format!("seed {seed}, case {n}");
        let mut rng = StdRng::seed_from_u64(seed * 1_000_000 + n);
        let was_killed = n % 2 == 0;
        let mut disk = copy_alive(if was_killed { &killed } else { &stopped });
        let struck = strike(&disk, was_killed, &mut rng);
        let mut events = Events::default();
        for _ in 0..rng.random_range(1..4) {
            disk = live(disk, &mut events, &case, &mut rng).await;
        }
        put_back(&disk, &struck, &case);

        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert_eq!(kinds(&engine), [], "{case}: {:?}", engine.hold().doubts());
        let sessions = engine.holdings().sessions();
        for n in (0..N_FILES).chain(events.stored) {
            let read = engine.read_block(&nth(n).id);
            assert!(read.is_ok(), "{case}: block {n}: {read:?}");
            assert!(sessions.contains(&session(n)), "{case}: set {n}");
        }
    }
}
