//! Faults at an open: each call of an open fails in turn, once or from then on. The disk is opened, is
//! opened for reads, or is refused; nothing is lost, and the next open has everything.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::BTreeMap;
use std::fmt;

use cstore_log::{Disk, Fault, FaultyDisk, Verb};
use cstore_storage::engine::Engine;
use cstore_testkit::engine::{CAPACITY, numbered, open_memory, store};
use cstore_testkit::session;

use crate::hold::{contents, names, segments};

const N_FILES: u64 = 6;
const LEN: usize = 60_000;

/// A fault of one call of an open.
#[derive(Clone, Copy)]
struct Strike {
    verb: Verb,
    nth: u64,
    fault: Fault,
    /// Every later call of the verb fails as well.
    lasts: bool,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verb,
            nth,
            fault,
            lasts,
        } = self;
        write!(f, "{fault:?} at {verb:?} {nth}, lasting: {lasts}")
    }
}

/// Number of opens by their outcome.
#[derive(Debug, Default)]
struct Tally {
    opened: u64,
    for_reads: u64,
    refused: u64,
}

/// Disks as an open may find them.
async fn disks() -> [(&'static str, FaultyDisk); 2] {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in 0..N_FILES / 2 {
        store(&engine, n, LEN).await.unwrap();
    }
    engine.close().unwrap();
    drop(engine);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for n in N_FILES / 2..N_FILES {
        store(&engine, n, LEN).await.unwrap();
    }
    let running = disk.copy();
    engine.close().unwrap();
    drop(engine);
    [("killed", running.kill()), ("stopped", disk.kill())]
}

/// Panics unless every stored file can be read and deleted.
fn assert_whole(engine: &Engine, strike: Strike, state: &str) {
    for n in 0..N_FILES {
        let block = numbered(n, LEN);
        let read = engine.read_block(&block.id);
        assert!(
            read.as_ref().is_ok_and(|bytes| *bytes == block.bytes),
            "{state}: {strike}: block {n}: {read:?}"
        );
    }
}

/// Returns every byte of a disk.
fn bytes_of(disk: &FaultyDisk) -> BTreeMap<String, Vec<u8>> {
    let below = segments(disk);
    let inside = names(&below).into_iter().map(|name| {
        let bytes = contents(&*below, &name);
        (format!("segments/{name}"), bytes)
    });
    let beside = Disk::list(disk).unwrap().into_iter();
    let beside = beside.filter(|name| name != "segments");
    let beside = beside.map(|name| (name.clone(), contents(disk, &name)));
    inside.chain(beside).collect()
}

/// Opens a copy of the disk with one fault, and then without. Returns false if the open made fewer
/// calls.
async fn walk_one(state: &str, before: &FaultyDisk, strike: Strike, tally: &mut Tally) -> bool {
    let disk = before.copy();
    match strike.lasts {
        true => disk.strike_from(strike.verb, strike.nth, strike.fault),
        false => disk.strike(strike.verb, strike.nth, strike.fault),
    }
    let calls_before = disk.calls(strike.verb);
    let opened = open_memory(&disk, CAPACITY);
    let is_struck = disk.calls(strike.verb) - calls_before >= strike.nth;
    // A read that fails once says nothing about what is stored.
    let is_read = matches!(strike.verb, Verb::Read | Verb::Open | Verb::Size);
    let may_doubt = strike.lasts && is_read;
    disk.calm();
    match opened {
        Ok(engine) => {
            match engine.is_for_reads() {
                true => tally.for_reads += 1,
                false => tally.opened += 1,
            }
            if !may_doubt {
                let doubts = engine.hold().doubts();
                assert!(doubts.is_empty(), "{state}: {strike}: {doubts:?}");
                assert_whole(&engine, strike, state);
            }
            if engine.is_for_reads() {
                let frozen = bytes_of(&disk);
                assert!(store(&engine, 100, LEN).await.is_err());
                engine.close().unwrap();
                assert_eq!(bytes_of(&disk), frozen, "{state}: {strike}");
            }
        }
        Err(_) => tally.refused += 1,
    }

    // The open may have recorded damage that lasted until now.
    let mut next = disk.kill();
    let engine = open_memory(&next, CAPACITY);
    let engine = engine.unwrap_or_else(|error| panic!("{state}: {strike}: {error:?}"));
    assert!(!engine.is_for_reads(), "{state}: {strike}");
    assert_whole(&engine, strike, state);
    drop(engine);
    next = next.kill();
    let engine = open_memory(&next, CAPACITY).unwrap();
    assert_whole(&engine, strike, state);
    // A doubt about the lost inventory or superblock cannot be disproved: a person accepts it.
    let doubts = engine.hold().doubts();
    assert!(
        may_doubt || doubts.is_empty(),
        "{state}: {strike}: {doubts:?}"
    );
    for doubt in doubts {
        engine.hold().accept(doubt.number).unwrap();
    }
    store(&engine, 100, LEN).await.unwrap();
    for n in 0..N_FILES {
        engine.releaser().release(session(n)).await.unwrap();
    }
    is_struck
}

/// Returns the faults that a call can meet, and whether each lasts.
fn faults_of(verb: Verb) -> Vec<(Fault, bool)> {
    let mut faults = vec![(Fault::Eio, false), (Fault::Eio, true)];
    // A file system that takes no writes gives back what it has.
    if !matches!(
        verb,
        Verb::Open | Verb::Read | Verb::Size | Verb::List | Verb::Folder
    ) {
        faults.extend([(Fault::Erofs, false), (Fault::Erofs, true)]);
    }
    if matches!(
        verb,
        Verb::Open | Verb::Create | Verb::List | Verb::Folder | Verb::Lock
    ) {
        faults.extend([(Fault::Emfile, false), (Fault::Emfile, true)]);
    }
    faults
}

#[tokio::test]
async fn i6_a_fault_at_any_call_of_an_open_loses_nothing() {
    let mut tally = Tally::default();
    for (state, before) in disks().await {
        for verb in Verb::ALL {
            for (fault, lasts) in faults_of(verb) {
                let strikes = (1..).map(|nth| Strike {
                    verb,
                    nth,
                    fault,
                    lasts,
                });
                for strike in strikes {
                    if !walk_one(state, &before, strike, &mut tally).await {
                        break;
                    }
                }
            }
        }
    }
    println!("{tally:?}");
    assert!(
        tally.opened > 0 && tally.for_reads > 0 && tally.refused > 0,
        "{tally:?}"
    );
}
