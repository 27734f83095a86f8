//! Damage at several places, at several starts and beside other doubts: nothing is hidden without a
//! doubt, nothing in doubt is cut off, and all is there when the bytes are back.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use bytes::Bytes;
use cstore_log::{Fault, FaultyDisk, Verb};
use cstore_storage::engine::{DoubtKind, Engine};
use cstore_testkit::engine::{CAPACITY, mark, open_memory, store};
use cstore_testkit::session;

use crate::hold::{
    INVENTORY, LEN, N_FILES, contents, copy_alive, filled, frames, kinds, names, nth, open_doubts,
    put_file, segments, take_file,
};
use crate::verification::superblock;

const BLOCK: usize = 4_096;
/// Offset of a bit inside the reference set of a frame, from the start of its block.
pub(crate) const IN_SET: usize = LEN + 20;

/// The newest segment of a disk whose process was killed.
pub(crate) struct Newest {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: Vec<FrameOf>,
}

/// A frame with the block and the set of session `n`.
pub(crate) struct FrameOf {
    pub(crate) n: u64,
    pub(crate) start: usize,
    /// Where the block begins in the segment.
    pub(crate) block: usize,
}

pub(crate) fn newest(disk: &FaultyDisk) -> Newest {
    let name = names(&segments(disk)).pop().unwrap();
    let bytes = contents(&*segments(disk), &name);
    let frame_of = |n| {
        let block = find(&bytes, n)?;
        let start = block / BLOCK * BLOCK;
        Some(FrameOf { n, start, block })
    };
    let mut frames: Vec<FrameOf> = (0..N_FILES).filter_map(frame_of).collect();
    frames.sort_by_key(|frame| frame.start);
    Newest {
        name,
        bytes,
        frames,
    }
}

pub(crate) fn find(segment: &[u8], n: u64) -> Option<usize> {
    segment.windows(16).position(|found| found == mark(n))
}

pub(crate) fn flip(disk: &FaultyDisk, name: &str, at: usize) {
    disk.rot(&format!("segments/{name}"), at as u64, 1).unwrap();
}

pub(crate) fn spoil(disk: &FaultyDisk, name: &str, start: usize, len: usize) {
    let range = start as u64..(start + len) as u64;
    disk.spoil(&format!("segments/{name}"), range).unwrap();
}

pub(crate) fn zero(disk: &FaultyDisk, name: &str, start: usize) {
    write(disk, name, start, &[0; BLOCK]);
}

pub(crate) fn write(disk: &FaultyDisk, name: &str, at: usize, bytes: &[u8]) {
    let file = segments(disk).open(name).unwrap();
    file.write_all_vectored_at(&[Bytes::copy_from_slice(bytes)], at as u64)
        .unwrap();
    file.sync_data().unwrap();
}

pub(crate) fn len_of(disk: &FaultyDisk, name: &str) -> usize {
    let size = segments(disk).open(name).unwrap().size().unwrap();
    usize::try_from(size).unwrap()
}

pub(crate) fn sessions(engine: &Engine) -> u64 {
    engine.holdings().sessions().len() as u64
}

pub(crate) fn open(disk: &FaultyDisk) -> Engine {
    open_memory(disk, CAPACITY).unwrap()
}

/// Opens the disk and returns what is there and what is in doubt. Ends the process.
pub(crate) fn start(disk: &mut FaultyDisk) -> (u64, Vec<DoubtKind>) {
    let engine = open(disk);
    let found = (sessions(&engine), kinds(&engine));
    drop(engine);
    *disk = disk.kill();
    found
}

pub(crate) fn stop(disk: &FaultyDisk) -> FaultyDisk {
    open(disk).close().unwrap();
    disk.kill()
}

/// A rotten block has a verdict, which explains the hole: more damage in the same frame is not
/// explained by it.
#[tokio::test]
async fn i4_a_second_damage_in_an_explained_hole_is_doubted() {
    let mut disk = filled().await;
    let Newest { name, frames, .. } = newest(&disk);
    flip(&disk, &name, frames[0].block + 100);
    assert_eq!(start(&mut disk), (N_FILES, vec![]));
    flip(&disk, &name, frames[0].block + IN_SET);
    assert_eq!(start(&mut disk), (N_FILES - 1, vec![DoubtKind::Damaged]));
}

#[tokio::test]
async fn i4_an_accepted_hole_that_grows_is_doubted() {
    let mut disk = filled().await;
    let Newest { name, frames, .. } = newest(&disk);
    zero(&disk, &name, frames[0].start);
    let engine = open(&disk);
    assert_eq!(kinds(&engine), [DoubtKind::Damaged, DoubtKind::Absent]);
    for doubt in open_doubts(&engine) {
        engine.hold().accept(doubt.number).unwrap();
    }
    drop(engine);
    disk = disk.kill();
    zero(&disk, &name, frames[1].start);
    let (n_sessions, found) = start(&mut disk);
    assert_eq!(n_sessions, N_FILES - 2);
    assert!(found.contains(&DoubtKind::Damaged), "{found:?}");
}

#[tokio::test]
async fn i4_a_segment_with_an_explained_hole_is_not_recycled_with_what_a_second_one_hides() {
    let disk = FaultyDisk::new();
    let engine = open(&disk);
    for n in 0..N_FILES {
        store(&engine, n, LEN).await.unwrap();
    }
    drop(engine);
    let mut disk = disk.kill();
    let Newest {
        name,
        bytes,
        frames,
    } = newest(&disk);
    flip(&disk, &name, frames[0].block + 100);
    assert_eq!(start(&mut disk), (N_FILES, vec![]));

    // The header of the frame behind it cannot be read for a while.
    let hidden = &frames[1];
    spoil(&disk, &name, hidden.start, BLOCK);
    let engine = open(&disk);
    assert_eq!(sessions(&engine), N_FILES - 1);
    for frame in frames.iter().filter(|frame| frame.n != hidden.n) {
        assert!(engine.releaser().release(session(frame.n)).await.is_err());
    }
    for _ in 0..4 {
        engine.sweep_pins();
    }
    engine.forget_orphans();
    assert_eq!(engine.recycler().reclaim(), 0);
    drop(engine);

    let disk = disk.kill();
    let header = &bytes[hidden.start..hidden.start + BLOCK];
    write(&disk, &name, hidden.start, header);
    let read = open(&disk).read_block(&nth(hidden.n).id);
    assert_eq!(read.unwrap(), nth(hidden.n).bytes);
}

/// A frame is written after the sync of the one before it, so a crash tears only the last one.
#[tokio::test]
async fn i4_two_damaged_frames_at_the_end_are_not_torn() {
    let mut disk = filled().await;
    let Newest {
        name,
        bytes,
        frames,
    } = newest(&disk);
    let [.., before_last, last] = &frames[..] else {
        panic!("too few frames")
    };
    flip(&disk, &name, before_last.block + 100);
    flip(&disk, &name, last.block + 100);
    let (n_sessions, found) = start(&mut disk);
    assert!(n_sessions >= N_FILES - 1 || !found.is_empty());
    assert_eq!(len_of(&disk, &name), bytes.len());
}

#[tokio::test]
async fn i4_a_last_frame_that_cannot_be_read_for_a_while_comes_back() {
    let mut disk = filled().await;
    let Newest {
        name,
        bytes,
        frames,
    } = newest(&disk);
    let last = frames.last().unwrap();
    spoil(&disk, &name, last.start, BLOCK);
    assert_eq!(start(&mut disk), (N_FILES - 1, vec![DoubtKind::Damaged]));
    write(&disk, &name, last.start, &bytes[last.start..][..BLOCK]);
    let read = open(&disk).read_block(&nth(last.n).id);
    assert_eq!(read.unwrap(), nth(last.n).bytes);
}

/// Returns a disk after a power loss at a roll, the segment before the newest one, and the last
/// session of it. The first frame of the newest segment has reached the disk; the footer of the
/// segment before it and the image of the inventory have not.
async fn at_roll() -> (FaultyDisk, String, u64) {
    let disk = FaultyDisk::new();
    let engine = open(&disk);
    for n in 0..40 {
        let had = names(&segments(&disk));
        let before = copy_alive(&disk);
        store(&engine, n, LEN).await.unwrap();
        let is_rolled = had.len() >= 3 && names(&segments(&disk)).last() != had.last();
        if !is_rolled {
            continue;
        }
        let sealed = had.last().unwrap().clone();
        let unsealed = contents(&*segments(&before), &sealed);
        assert!(find(&unsealed, n - 1).is_some());
        let after = copy_alive(&disk);
        put_file(&*segments(&after), &sealed, &unsealed);
        put_file(&after, INVENTORY, &contents(&before, INVENTORY));
        return (after, sealed, n - 1);
    }
    panic!("no roll");
}

#[tokio::test]
async fn i4_a_proven_frame_that_is_gone_at_a_roll_stays_in_doubt() {
    let (mut disk, name, last) = at_roll().await;
    let n_sessions = last + 2;
    assert_eq!(
        start(&mut copy_alive(&disk)),
        (n_sessions, vec![]),
        "the power loss alone is no damage"
    );
    let block = find(&contents(&*segments(&disk), &name), last).unwrap();
    zero(&disk, &name, block / BLOCK * BLOCK);
    for _ in 0..3 {
        assert_eq!(start(&mut disk), (n_sessions - 1, vec![DoubtKind::Short]));
    }
}

#[tokio::test]
async fn i4_a_proven_damaged_frame_is_not_cut_off_while_another_segment_is_away() {
    let (mut disk, name, last) = at_roll().await;
    let block = find(&contents(&*segments(&disk), &name), last).unwrap();
    flip(&disk, &name, block + IN_SET);
    let first = names(&segments(&disk)).remove(0);
    let bytes = take_file(&*segments(&disk), &first);
    start(&mut disk);
    assert!(len_of(&disk, &name) > block + LEN);
    put_file(&*segments(&disk), &first, &bytes);
    assert_eq!(start(&mut disk), (last + 1, vec![DoubtKind::Short]));
}

#[tokio::test]
async fn i4_damage_is_doubted_also_by_an_older_image_of_the_inventory() {
    let mut disk = filled().await;
    let mut image = contents(&disk, INVENTORY);
    let area = image.len() / 2;
    let generation = |at: usize| u64::from_le_bytes(*image[at + 32..].first_chunk().unwrap());
    let newer = if generation(0) > generation(area) {
        0
    } else {
        area
    };
    image[newer + 20] ^= 1;
    put_file(&disk, INVENTORY, &image);
    let Newest { name, frames, .. } = newest(&disk);
    zero(&disk, &name, frames[0].start);
    let (n_sessions, found) = start(&mut disk);
    assert_eq!(n_sessions, N_FILES - 1);
    assert!(found.contains(&DoubtKind::Damaged), "{found:?}");
}

/// The log keeps records of its own to itself.
#[tokio::test]
async fn i4_a_set_whose_kind_becomes_one_of_the_log_is_doubted() {
    let mut disk = filled().await;
    let Newest {
        name,
        bytes,
        frames,
    } = newest(&disk);
    let kind = frames[0].start + 64 + 38;
    assert_eq!(bytes[kind], 3, "a set");
    write(&disk, &name, kind, &[0xf0]);
    assert_eq!(start(&mut disk), (N_FILES - 1, vec![DoubtKind::Damaged]));
}

#[tokio::test]
async fn i4_a_footer_without_its_trailer_tells_the_frames_and_is_not_cut_off() {
    let mut disk = stop(&filled().await);
    let name = names(&segments(&disk)).remove(0);
    let bytes = contents(&*segments(&disk), &name);
    flip(&disk, &name, bytes.len() - 16);
    zero(&disk, &name, frames(&bytes)[1]);
    assert_eq!(start(&mut disk), (N_FILES, vec![]));
    assert_eq!(len_of(&disk, &name), bytes.len());
}

/// A frame of one block looks like a footer by its length.
#[tokio::test]
async fn i4_a_small_last_frame_of_a_doubted_segment_is_not_cut_off() {
    let mut disk = FaultyDisk::new();
    let engine = open(&disk);
    for n in 0..4 {
        store(&engine, n, 1_000).await.unwrap();
    }
    drop(engine);
    disk = disk.kill();
    let name = names(&segments(&disk)).remove(0);
    let frames = frames(&contents(&*segments(&disk), &name));
    zero(&disk, &name, frames[1]);
    assert_eq!(start(&mut disk), (3, vec![DoubtKind::Damaged]));
    flip(&disk, &name, frames[3] + 500);
    start(&mut disk);
    assert!(len_of(&disk, &name) > frames[3]);
}

#[tokio::test]
async fn i4_a_newest_segment_that_was_emptied_is_doubted() {
    for len in [0, 4_000, BLOCK, BLOCK + 1] {
        let mut disk = filled().await;
        let Newest {
            name,
            bytes,
            frames,
        } = newest(&disk);
        if len > BLOCK {
            write(&disk, &name, 0, &vec![0; bytes.len()]);
        } else {
            let file = segments(&disk).open(&name).unwrap();
            file.set_len(len as u64).unwrap();
        }
        if len == BLOCK {
            flip(&disk, &name, 40);
        }
        let left = N_FILES - frames.len() as u64;
        assert_eq!(start(&mut disk), (left, vec![DoubtKind::Damaged]), "{len}");
    }
}

#[tokio::test]
async fn i4_a_newest_segment_that_cannot_be_read_at_one_start_comes_back() {
    for is_other_away in [false, true] {
        let mut disk = filled().await;
        let Newest { name, bytes, .. } = newest(&disk);
        let first = names(&segments(&disk)).remove(0);
        let away = is_other_away.then(|| take_file(&*segments(&disk), &first));
        spoil(&disk, &name, 0, bytes.len());
        let (_, found) = start(&mut disk);
        assert!(found.contains(&DoubtKind::Damaged), "{found:?}");
        if let Some(away) = away {
            put_file(&*segments(&disk), &first, &away);
            let (_, found) = start(&mut disk);
            assert_eq!(found, [DoubtKind::Damaged]);
        }
        put_file(&*segments(&disk), &name, &bytes);
        assert_eq!(start(&mut disk), (N_FILES, vec![]));
    }
}

#[tokio::test]
async fn i4_a_doubt_about_the_newest_segment_outlives_starts_stops_and_more_damage() {
    let mut disk = filled().await;
    let Newest { name, frames, .. } = newest(&disk);
    for frame in &frames[..3] {
        zero(&disk, &name, frame.start);
    }
    for round in 0..4 {
        if round == 1 {
            zero(&disk, &name, frames[3].start);
        }
        if round == 3 {
            disk = stop(&disk);
        }
        let (_, found) = start(&mut disk);
        assert!(found.contains(&DoubtKind::Damaged), "{round}: {found:?}");
    }
}

/// The open copies the only frame of the newest segment and removes it.
#[tokio::test]
async fn i12_a_segment_that_an_open_in_doubt_about_a_set_has_removed_is_not_missed() {
    let disk = stop(&filled().await);
    let engine = open(&disk);
    store(&engine, 500, LEN).await.unwrap();
    drop(engine);
    let mut disk = disk.kill();
    let first = names(&segments(&disk)).remove(0);
    let in_set = find(&contents(&*segments(&disk), &first), 1).unwrap() + IN_SET;
    flip(&disk, &first, in_set);
    assert_eq!(start(&mut disk).1, [DoubtKind::Set]);
    flip(&disk, &first, in_set);
    assert_eq!(start(&mut disk), (N_FILES + 1, vec![]));
}

#[tokio::test]
async fn i4_an_accept_that_was_broken_off_leaves_the_verification_owed() {
    for (verb, nth) in [Verb::Write, Verb::Sync]
        .into_iter()
        .flat_map(|verb| (1..5).map(move |n| (verb, n)))
    {
        for loses_power in [false, true] {
            let disk = filled().await;
            let Newest { name, frames, .. } = newest(&disk);
            zero(&disk, &name, frames[0].start);
            let engine = open(&disk);
            let doubts = open_doubts(&engine);
            disk.strike(verb, nth, Fault::Eio);
            for doubt in doubts {
                // Either result is right: a later start shows what is on the disk.
                drop(engine.hold().accept(doubt.number));
            }
            drop(engine);
            disk.calm();
            let mut disk = match loses_power {
                true => disk.power_loss(nth),
                false => disk.kill(),
            };
            start(&mut disk);
            assert_ne!(
                superblock(&disk).verify_below,
                0,
                "{verb:?} {nth} {loses_power}"
            );
        }
    }
}
