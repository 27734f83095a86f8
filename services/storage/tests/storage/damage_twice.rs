//! Damage that meets another one, an older list or a given up segment, and that a second start
//! sees as the first one did.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use cstore_log::{Fault, FaultyDisk, Verb};
use cstore_storage::engine::DoubtKind;
use cstore_testkit::engine::{CAPACITY, open_memory, store};
use cstore_testkit::session;

use crate::damage_losses::{
    IN_SET, Newest, find, flip, len_of, newest, open, spoil, start, write, zero,
};
use crate::hold::{
    INVENTORY, LEN, N_FILES, contents, copy_alive, filled, kinds, names, open_doubts, put_file,
    segments, take_file,
};

const BLOCK: usize = 4_096;

#[tokio::test]
async fn i4_a_set_that_rots_beside_a_sector_that_is_explained_is_doubted() {
    let mut disk = filled().await;
    let Newest { name, frames, .. } = newest(&disk);
    let sector = (frames[0].block + 2 * BLOCK) / BLOCK * BLOCK;
    spoil(&disk, &name, sector, BLOCK);
    assert_eq!(start(&mut disk), (N_FILES, vec![]));
    flip(&disk, &name, frames[0].block + IN_SET);
    assert_eq!(start(&mut disk), (N_FILES - 1, vec![DoubtKind::Damaged]));
}

#[tokio::test]
async fn i1_a_synced_frame_without_header_in_front_of_a_damaged_one_is_not_torn() {
    for is_zeroed in [true, false] {
        let mut disk = filled().await;
        let Newest { name, frames, .. } = newest(&disk);
        let [.., before_last, last] = &frames[..] else {
            panic!("two frames")
        };
        match is_zeroed {
            true => zero(&disk, &name, before_last.start),
            false => flip(&disk, &name, before_last.start),
        }
        flip(&disk, &name, last.block + 100);
        let (_, doubts) = start(&mut disk);
        assert!(!doubts.is_empty() && len_of(&disk, &name) > before_last.start);
    }
}

/// A disk in the moment of a roll, and the number of the last block in the segment that was sealed
/// by it: the list does not know yet, and neither does the segment. `lag` is how many rolls the list
/// is older than that.
async fn rolled(disk: &FaultyDisk, first: u64, lag: usize) -> (FaultyDisk, String, u64) {
    let engine = open(disk);
    let mut lists: Vec<Vec<u8>> = Vec::new();
    for n in first..first + 80 {
        let had = names(&segments(disk));
        let before = copy_alive(disk);
        store(&engine, n, LEN).await.unwrap();
        if names(&segments(disk)).last() == had.last() {
            continue;
        }
        lists.push(contents(&before, INVENTORY));
        let Some(sealed) = had.last().cloned() else {
            continue;
        };
        let unsealed = contents(&*segments(&before), &sealed);
        let is_last = lists.len() > 3 && find(&unsealed, n.wrapping_sub(1)).is_some();
        if is_last {
            let after = copy_alive(disk);
            put_file(&*segments(&after), &sealed, &unsealed);
            put_file(&after, INVENTORY, &lists[lists.len() - 1 - lag]);
            return (after, sealed, n - 1);
        }
    }
    panic!("no roll");
}

fn zero_frame(disk: &FaultyDisk, name: &str, n: u64) {
    let block = find(&contents(&*segments(disk), name), n).unwrap();
    zero(disk, name, block / BLOCK * BLOCK);
}

#[tokio::test]
async fn i4_a_given_up_segment_hides_no_gap_of_later_ones() {
    let disk = filled().await;
    let name = names(&segments(&disk)).pop().unwrap();
    take_file(&*segments(&disk), &name);
    let engine = open(&disk);
    for doubt in open_doubts(&engine) {
        engine.hold().accept(doubt.number).unwrap();
    }
    drop(engine);
    let (mut disk, name, last) = rolled(&disk.kill(), 1_000, 0).await;
    let (whole, _) = start(&mut copy_alive(&disk));
    zero_frame(&disk, &name, last);
    let (found, doubts) = start(&mut disk);
    assert!(found == whole || !doubts.is_empty(), "{found} of {whole}");
}

#[tokio::test]
async fn i4_a_doubt_about_a_segment_that_the_list_lacks_stays() {
    let (mut disk, name, last) = rolled(&FaultyDisk::new(), 0, 1).await;
    zero_frame(&disk, &name, last);
    for _ in 0..3 {
        let (_, doubts) = start(&mut disk);
        let is_about_end = |kind: &DoubtKind| matches!(kind, DoubtKind::Short | DoubtKind::Damaged);
        assert!(doubts.iter().any(is_about_end), "{doubts:?}");
    }
}

#[tokio::test]
async fn i1_a_tail_that_cannot_be_read_for_a_while_comes_back_without_the_newest_list() {
    for is_lost in [true, false] {
        let mut disk = filled().await;
        let Newest {
            name,
            bytes,
            frames,
        } = newest(&disk);
        let mut image = contents(&disk, INVENTORY);
        if is_lost {
            take_file(&disk, INVENTORY);
        } else {
            let area = image.len() / 2;
            let generation =
                |at: usize| u64::from_le_bytes(*image[at + 32..].first_chunk().unwrap());
            let newer = match generation(0) > generation(area) {
                true => 0,
                false => area,
            };
            image[newer + 20] ^= 1;
            put_file(&disk, INVENTORY, &image);
        }
        let tail = frames.last().unwrap().start;
        spoil(&disk, &name, tail, bytes.len() - tail);
        for _ in 0..3 {
            let (_, doubts) = start(&mut disk);
            assert!(!doubts.is_empty());
        }
        assert_eq!(len_of(&disk, &name), bytes.len());
        write(&disk, &name, tail, &bytes[tail..]);
        assert_eq!(start(&mut disk).0, N_FILES);
    }
}

/// A bit of a release record flips, so that it names the session beside the released one.
#[tokio::test]
async fn i1_a_release_in_a_damaged_frame_releases_nothing() {
    let disk = FaultyDisk::new();
    let engine = open(&disk);
    // All in one segment, which gets no footer.
    for n in 0..4 {
        store(&engine, n, 5_000).await.unwrap();
    }
    engine.releaser().release(session(2)).await.unwrap();
    store(&engine, 5, 5_000).await.unwrap();
    drop(engine);
    let mut disk = disk.kill();

    let (name, at) = names(&segments(&disk))
        .into_iter()
        .find_map(|name| {
            let bytes = contents(&*segments(&disk), &name);
            // Kind 4, a key of 16 bytes, no payload.
            let record = [&[4, 16, 0, 0, 0, 0][..], session(2).as_bytes()].concat();
            let at = bytes.windows(record.len()).position(|at| at == record)?;
            Some((name, at + 6))
        })
        .unwrap();
    let differs = |(two, three): (&u8, &u8)| two != three;
    let (two, three) = (session(2), session(3));
    let pairs = two.as_bytes().iter().zip(three.as_bytes());
    let byte = pairs.clone().position(differs).unwrap();
    let mask = two.as_bytes()[byte] ^ three.as_bytes()[byte];
    assert_eq!(pairs.filter(|pair| differs(*pair)).count(), 1);
    disk.rot(&format!("segments/{name}"), (at + byte) as u64, mask)
        .unwrap();
    let (n_sessions, doubts) = start(&mut disk);
    assert_eq!((n_sessions, doubts), (5, vec![DoubtKind::Damaged]));
}

/// The first reads of an open are those of the superblock, then of the inventory.
#[tokio::test]
async fn i12_an_open_without_descriptors_leaves_no_doubt() {
    let disk = FaultyDisk::new();
    let engine = open(&disk);
    for n in 0..N_FILES {
        store(&engine, n, LEN).await.unwrap();
    }
    for n in 0..8 {
        engine.releaser().release(session(n)).await.unwrap();
    }
    engine.recycler().reclaim();
    drop(engine);
    let killed = disk.kill();
    let whole = start(&mut copy_alive(&killed));
    for nth in 1..12 {
        let mut disk = copy_alive(&killed);
        for at in nth..nth + 2 {
            disk.strike(Verb::Read, at, Fault::Emfile);
        }
        if let Ok(engine) = open_memory(&disk, CAPACITY) {
            assert_eq!(kinds(&engine), [], "read {nth}");
        }
        disk.calm();
        disk = disk.kill();
        assert_eq!(start(&mut disk), whole, "read {nth}");
    }
}
