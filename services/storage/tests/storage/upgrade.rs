//! The upgrade of a disk of format 2, cut off anywhere.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;

use cstore_log::{Disk, FaultyDisk};
use cstore_storage::engine::Engine;
use cstore_testkit::engine::{CAPACITY, identity, open_memory, options};

use crate::hold::{
    INVENTORY, N_FILES, SUPERBLOCK, contents, filled, put_file, segments, take_file,
};

/// Makes a disk of format 3 one of format 2, as the program before wrote it.
fn to_format_2(disk: &FaultyDisk) {
    let mut sb = contents(disk, SUPERBLOCK);
    for slot in sb.chunks_mut(4_096) {
        if slot.iter().all(|b| *b == 0) {
            continue;
        }
        slot[8] = 2;
        slot[10] &= 1;
        slot[192..].fill(0);
        let crc = crc32c::crc32c(&slot[..4_092]);
        slot[4_092..].copy_from_slice(&crc.to_le_bytes());
    }
    put_file(disk, SUPERBLOCK, &sb);
    let _ = take_file(disk, INVENTORY);
}

#[tokio::test]
async fn i6_an_upgrade_that_was_cut_off_is_repeated_in_every_slot() {
    let mut whole = filled().await;
    for _ in 0..4 {
        drop(open_memory(&whole, CAPACITY).unwrap());
        whole = whole.kill();
    }
    to_format_2(&whole);
    let mut bad = vec![];
    let mut left = 0;
    for seed in 0..4u64 {
        for at in 0..40 {
            let base = copy_of(&whole);
            let (hooked, slot) = crashing(&base, at, seed * 100 + at, seed > 0);
            let _ = Engine::open(hooked, "m", &identity(), &options(CAPACITY)).map(drop);
            let Some(disk) = slot.lock().unwrap().take() else {
                continue;
            };
            match open_memory(&disk, CAPACITY) {
                Ok(e) => {
                    if !e.hold().doubts().is_empty()
                        || e.holdings().sessions().len() as u64 != N_FILES
                    {
                        bad.push(format!(
                            "seed {seed} at {at} {:?} {}",
                            e.hold().doubts(),
                            e.holdings().sessions().len()
                        ));
                    }
                    let old = contents(&disk, SUPERBLOCK)
                        .chunks(4_096)
                        .filter(|s| s[8] == 2)
                        .count();
                    if old > 0 {
                        left += 1;
                    }
                }
                Err(e) => bad.push(format!("seed {seed} at {at} {e:?}")),
            }
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(left, 0, "disks with a slot of format 2 after the next open");
}

/// The same files on another disk, those that were not synced among them.
fn copy_of(disk: &FaultyDisk) -> FaultyDisk {
    let to = FaultyDisk::new();
    for name in disk.kill().list().unwrap() {
        if name.ends_with(".bin") {
            put_file(&to, &name, &contents(&disk.kill(), &name));
        }
    }
    let from = disk.kill();
    let (from, to_folder) = (segments(&from), segments(&to));
    for name in from.list().unwrap() {
        put_file(&*to_folder, &name, &contents(&*from, &name));
    }
    to.sync_dir().unwrap();
    to
}

/// A disk whose process dies at its call number `at`, by a kill or a power loss, and what is left
/// of it.
fn crashing(
    disk: &FaultyDisk,
    at: u64,
    seed: u64,
    power: bool,
) -> (Arc<dyn Disk>, Arc<std::sync::Mutex<Option<FaultyDisk>>>) {
    let slot = Arc::new(std::sync::Mutex::new(None));
    let (s, d) = (slot.clone(), disk.clone());
    let count = std::sync::atomic::AtomicU64::new(0);
    let hooked = cstore_log::HookedDisk::with_hook(disk.clone(), move |verb| {
        if verb == cstore_log::Verb::Read {
            return Ok(());
        }
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if n == at {
            *s.lock().unwrap() = Some(if power { d.power_loss(seed) } else { d.kill() });
        }
        if n >= at {
            return Err(std::io::ErrorKind::Other.into());
        }
        Ok(())
    });
    (hooked, slot)
}
