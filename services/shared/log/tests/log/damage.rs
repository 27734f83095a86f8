//! Damage: an open reports it and goes on; every record that it does not hit comes back.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cstore_log::{
    Disk, FaultyDisk, FileInfo, Inventory, Location, Log, Options, Record, RecoveryReport,
    SealedFigures, Standing, Urgency, parse_file_name,
};
use cstore_types::epoch::Epoch;

use crate::fixture::options;

const BLOCK: u64 = 4_096;

/// An inventory in memory, as its owner would have written it.
#[derive(Debug, Default)]
struct Listing(Mutex<BTreeMap<u32, FileInfo>>);

impl Inventory for Listing {
    fn highest(&self) -> u32 {
        0
    }
    fn superblock_seq(&self) -> u64 {
        0
    }
    fn recovered(&self, _: &RecoveryReport) {}
    fn may_read(&self, _: u32) -> bool {
        true
    }
    fn sealed_figures(&self, file: u32) -> Option<SealedFigures> {
        let files = self.0.lock().unwrap();
        let info = files.get(&file)?;
        Some(SealedFigures {
            size: info.size,
            first_seq: info.seqs?.0,
            last_seq: info.seqs?.1,
            records: info.records,
            footer_crc: info.footer_crc,
        })
    }
    fn known_holes(&self, _: u32) -> u32 {
        0
    }

    fn epoch(&self, _: u32) -> Option<Epoch> {
        None
    }
    fn rolled(&self, sealed: Option<&FileInfo>, _: Option<&FileInfo>) -> io::Result<()> {
        let sealed = sealed.into_iter().map(|file| (file.id, file.clone()));
        self.0.lock().unwrap().extend(sealed);
        Ok(())
    }
    fn leaving(&self, _: u32) -> io::Result<()> {
        Ok(())
    }
    fn may_remove(&self, _: u32, _: &BTreeSet<u64>) -> bool {
        true
    }
    fn gone(&self, _: u32) {}
}

/// A record as it was appended, and the bytes of its frame.
#[derive(Debug, Clone)]
struct Truth {
    key: Vec<u8>,
    payload: Vec<u8>,
    location: Location,
    frame: Range<u64>,
}

/// A log of four files as its process left it: two that kept their size, one that was cut when the
/// log was closed, one that was being written.
struct Left {
    contents: BTreeMap<String, Vec<u8>>,
    listing: BTreeMap<u32, FileInfo>,
    truths: Vec<Truth>,
}

fn left() -> Left {
    let faulty = FaultyDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let listing = Arc::new(Listing::default());
    let mut truths = Vec::new();
    let (log, ..) = open(&disk, &listing);
    for n in 0..18u8 {
        truths.push(append(&log, n, 8_000));
    }
    log.close().unwrap();
    let (log, ..) = open(&disk, &listing);
    for n in 18..24u8 {
        truths.push(append(&log, n, 3_000 + usize::from(n) * 100));
    }
    drop(log);
    let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
    let read = |name: String| {
        let file = disk.open(&name).unwrap();
        let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        (name, bytes)
    };
    let contents = disk.list().unwrap().into_iter().map(read).collect();
    let listing = listing.0.lock().unwrap().clone();
    Left {
        contents,
        listing,
        truths,
    }
}

impl Left {
    /// Puts the folder on a disk of its own.
    fn copy(&self) -> (FaultyDisk, Arc<dyn Disk>, Arc<Listing>) {
        let faulty = FaultyDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        for (name, bytes) in &self.contents {
            let file = disk.create(name, bytes.len() as u64).unwrap();
            file.write_all_vectored_at(&[Bytes::from(bytes.clone())], 0)
                .unwrap();
            file.sync_data().unwrap();
        }
        disk.sync_dir().unwrap();
        let listing = Arc::new(Listing(Mutex::new(self.listing.clone())));
        (faulty, disk, listing)
    }
}

fn append(log: &Log, n: u8, len: usize) -> Truth {
    let (sender, landed) = std::sync::mpsc::sync_channel(1);
    let (key, payload) = (vec![n; 32], vec![n; len]);
    let record = Record {
        kind: 1,
        key: key.clone().into(),
        payload: payload.clone().into(),
    };
    log.append(
        vec![record],
        Urgency::Normal,
        Box::new(move |landed| sender.send(landed.unwrap().locations[0]).unwrap()),
    );
    let location = landed.recv().unwrap();
    let start = u64::from(location.offset) / BLOCK * BLOCK;
    let end = u64::from(location.offset + location.len);
    Truth {
        key,
        payload,
        location,
        frame: start..end,
    }
}

type Seen = Vec<(Vec<u8>, Location, Standing)>;

fn open(disk: &Arc<dyn Disk>, listing: &Arc<Listing>) -> (Log, RecoveryReport, Seen) {
    let options = Options {
        inventory: Some(listing.clone()),
        ..options()
    };
    let mut seen = Vec::new();
    let opened = Log::open(disk.clone(), options, &mut |record| {
        seen.push((record.key.to_vec(), record.location, record.standing));
    });
    let (log, report) = opened.unwrap();
    (log, report, seen)
}

/// Damage to a block of a file.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Flip(u64),
    Zero,
    Spoil,
}

fn strike(disk: &FaultyDisk, name: &str, block: u64, blow: Blow) {
    let start = block * BLOCK;
    match blow {
        Blow::Flip(at) => disk.rot(name, start + at, 0x10).unwrap(),
        Blow::Spoil => disk.spoil(name, start..start + BLOCK).unwrap(),
        Blow::Zero => {
            let file = disk.open(name).unwrap();
            file.write_all_vectored_at(&[Bytes::from(vec![0; 4_096])], start)
                .unwrap();
            file.sync_data().unwrap();
        }
    }
}

/// Opens a struck copy twice, the second time as after a kill, and compares both opens with the
/// truth: what the blow cannot have hit comes back, verified and byte for byte.
fn check(left: &Left, name: &str, block: u64, blow: Blow) {
    let (faulty, disk, listing) = left.copy();
    strike(&faulty, name, block, blow);
    let struck = parse_file_name(name).unwrap();
    let start = block * BLOCK;
    let bytes = match blow {
        Blow::Flip(at) => start + at..start + at + 1,
        Blow::Zero | Blow::Spoil => start..start + BLOCK,
    };
    let is_hit = |truth: &Truth| {
        let in_range = truth.frame.start < bytes.end && bytes.start < truth.frame.end;
        // Bytes 44 to 64 of a frame say nothing.
        let is_padding = (44..64).contains(&bytes.start.wrapping_sub(truth.frame.start));
        truth.location.file == struck && in_range && !is_padding
    };
    let newest = &left.truths.last().unwrap().location;
    let is_listed = left.listing.contains_key(&struck);
    let hits_a_frame = left.truths.iter().any(is_hit);

    let (log, first, seen) = open(&disk, &listing);
    judge(left, &log, &seen, is_hit, (name, block, blow));
    let may_be_torn = struck == newest.file && left.truths.last().is_some_and(is_hit);
    let has_hole = match blow {
        // Unreadable bytes count as written, never as torn.
        Blow::Spoil => block > 0 && !is_listed,
        Blow::Flip(_) | Blow::Zero => hits_a_frame && !is_listed && !may_be_torn,
    };
    if !has_hole {
        // Headers and footers are told from the rest, and footers tell of frames.
        assert!(!first.is_damaged(), "{name} {block} {blow:?}: {first:?}");
    } else {
        assert_eq!(first.holes.len(), 1, "{name} {block} {blow:?}: {first:?}");
        assert_eq!(first.holes[0].file, struck);
    }
    drop(log);

    let disk: Arc<dyn Disk> = Arc::new(faulty.kill());
    let (log, second, seen) = open(&disk, &listing);
    judge(left, &log, &seen, is_hit, (name, block, blow));
    assert_eq!(first.holes, second.holes, "{name} {block} {blow:?}");
}

fn judge(
    left: &Left,
    log: &Log,
    seen: &Seen,
    is_hit: impl Fn(&Truth) -> bool,
    case: (&str, u64, Blow),
) {
    let mut keys = Vec::new();
    for (key, location, standing) in seen {
        if *standing == Standing::Damaged {
            continue;
        }
        let truth = left.truths.iter().find(|truth| truth.key == *key);
        let truth = truth.unwrap_or_else(|| panic!("{case:?}: {key:?} was never appended"));
        let payload = log.read(*location);
        assert!(
            is_hit(truth) || payload.unwrap() == truth.payload,
            "{case:?}"
        );
        keys.push(key.clone());
    }
    let missed = left
        .truths
        .iter()
        .filter(|truth| !is_hit(truth) && !keys.contains(&truth.key));
    assert_eq!(missed.count(), 0, "{case:?}: {seen:?}");
}

#[test]
fn i8_a_blow_to_any_block_costs_no_record_that_it_does_not_hit() {
    let left = left();
    assert_eq!((left.contents.len(), left.listing.len()), (4, 3));
    let mut blows = 0;
    for (name, bytes) in &left.contents {
        for block in 0..bytes.len() as u64 / BLOCK {
            let flips = [0, 9, 12, 30, 41, 50, 66, 100, 4_080, 4_094].map(Blow::Flip);
            for blow in [Blow::Zero, Blow::Spoil].into_iter().chain(flips) {
                check(&left, name, block, blow);
                blows += 1;
            }
        }
    }
    assert!(blows > 500, "{blows}");
}

#[test]
fn i12_a_damaged_footer_is_written_as_it_was() {
    let left = left();
    for id in left.listing.keys() {
        let name = cstore_log::file_name(*id);
        let before = &left.contents[&name];
        let (faulty, disk, listing) = left.copy();
        let last = before.len() as u64 / BLOCK - 1;
        strike(&faulty, &name, last, Blow::Zero);
        drop(open(&disk, &listing));
        let file = faulty.kill().open(&name).unwrap();
        let mut after = vec![0; before.len()];
        file.read_exact_at(&mut after, 0).unwrap();
        assert!(after == *before, "{name}");
    }
}

/// Each byte of a header, of a frame's header and directory, of a footer and its trailer.
#[test]
fn i8_every_flipped_byte_of_a_structure_is_noticed_or_healed() {
    let left = left();
    for name in left.contents.keys() {
        let id = parse_file_name(name).unwrap();
        for at in (0..104).chain(4_092..4_096) {
            check(&left, name, 0, Blow::Flip(at));
        }
        let frame = left.truths.iter().find(|truth| truth.location.file == id);
        let block = frame.unwrap().frame.start / BLOCK;
        for at in 0..110 {
            check(&left, name, block, Blow::Flip(at));
        }
        let last = left.contents[name].len() as u64 / BLOCK - 1;
        for at in (0..100).chain(4_080..4_096) {
            check(&left, name, last, Blow::Flip(at));
        }
    }
}

#[test]
fn i8_a_file_that_is_cut_anywhere_keeps_what_is_in_front_of_the_cut() {
    let left = left();
    for (name, bytes) in &left.contents {
        let id = parse_file_name(name).unwrap();
        for len in (0..bytes.len() as u64).step_by(2_048) {
            let (_, disk, listing) = left.copy();
            disk.open(name).unwrap().set_len(len).unwrap();
            let (log, report, seen) = open(&disk, &listing);
            let is_hit = |truth: &Truth| {
                truth.location.file == id && truth.frame.end.next_multiple_of(BLOCK) > len
            };
            judge(&left, &log, &seen, is_hit, (name, len / BLOCK, Blow::Zero));
            let loses = left.truths.iter().any(is_hit);
            // Where a file ends that was being written, nothing says.
            if left.listing.contains_key(&id) {
                assert_eq!(report.is_damaged(), loses, "{name} {len}: {report:?}");
            }
        }
    }
}

#[test]
fn i8_a_folder_in_the_place_of_a_file_hides_that_file_only() {
    let left = left();
    for name in left.contents.keys() {
        let id = parse_file_name(name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &left.contents {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        std::fs::remove_file(dir.path().join(name)).unwrap();
        std::fs::create_dir(dir.path().join(name)).unwrap();
        let disk = cstore_log::RealDisk::open(dir.path()).unwrap();
        let listing = Arc::new(Listing(Mutex::new(left.listing.clone())));
        let (log, report, seen) = open(&disk, &listing);
        let is_hit = |truth: &Truth| truth.location.file == id;
        judge(&left, &log, &seen, is_hit, (name, 0, Blow::Zero));
        let unreadable: Vec<u32> = report.unreadable.iter().map(|file| file.file).collect();
        assert_eq!(unreadable, [id]);
    }
}
