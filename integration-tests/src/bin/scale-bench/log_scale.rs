//! Logs of many small files, without an inventory, as the master's is.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cstore_log::{Disk, Log, NextEpoch, Options, Record, Urgency};
use cstore_testkit::until_within;

use crate::counted_disk::CountedDisk;
use crate::open::BUILD_PATIENCE;
use crate::usage::{Meter, Usage};

/// Frames of a file.
pub(crate) const FRAMES: u64 = 20;
/// Unit of a file: its header, each frame and its footer take one.
const BLOCK: u64 = 4_096;
/// Groups that wait for the log while it is built.
const WAITING: u64 = 1_000;
/// Bytes of the length of the footer, at the end of a sealed file.
const LENGTH: usize = 8;

/// Returns the options of a log whose files have this many frames, of one group each.
fn options(frames: u64) -> Options {
    Options {
        owner: [7; 16],
        file_bytes: (frames + 2) * BLOCK,
        max_bytes: u64::MAX / 4,
        reserve_bytes: 0,
        compaction_bytes: 0,
        floor_bytes: 0,
        ready_files: 0,
        open_files: 256,
        callers_write: false,
        // A frame holds one group then.
        max_frame_bytes: 1,
        max_queue_bytes: 64 << 20,
        least_seq: 0,
        proven_seq: 0,
        epoch: Some(NextEpoch { least: 1, nonce: 1 }),
        inventory: None,
        absent_seqs: Vec::new(),
        is_held: false,
    }
}

/// Appends `frames` frames for each of `files` files, and ends without a stop, as a process that is
/// killed.
pub(crate) fn build(root: &Path, files: u64, frames: u64) {
    let disk: Arc<dyn Disk> = CountedDisk::unsynced(root);
    let (log, _) = Log::open(disk, options(frames), &mut |_| {}).unwrap();
    let appended = Arc::<AtomicU64>::default();
    let frames = files * frames;
    for n in 0..frames {
        let record = Record {
            kind: 1,
            key: n.to_be_bytes().to_vec().into(),
            payload: vec![n as u8; 1_000].into(),
        };
        let done = appended.clone();
        log.append(
            vec![record],
            Urgency::Normal,
            Box::new(move |result| {
                result.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }),
        );
        if n % WAITING == WAITING - 1 || n + 1 == frames {
            until_within("appends", BUILD_PATIENCE, || {
                appended.load(Ordering::Relaxed) > n
            });
        }
    }
    std::mem::forget(log);
}

/// Cuts the footer off every sealed file, as if each had been left by a process that was killed and
/// cut by the open after it.
pub(crate) fn cut_footers(root: &Path) {
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let length = bytes.last_chunk::<LENGTH>().copied().unwrap();
        let footer = u64::from_le_bytes(length);
        // The last file has no footer.
        if (1..bytes.len() as u64).contains(&footer) {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_len(bytes.len() as u64 - footer).unwrap();
        }
    }
}

/// Damages every second frame of all files: its header, or only the payload of its record.
pub(crate) fn damage(root: &Path, is_header: bool) {
    let first_byte = if is_header { 0 } else { 512 };
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let end = file.metadata().unwrap().len() - BLOCK;
        for frame in (2 * BLOCK..end).step_by(2 * BLOCK as usize) {
            file.write_all_at(&[0xff; 64], frame + first_byte).unwrap();
        }
    }
}

/// Opens the log and delivers its records. The process ends without a stop.
pub(crate) fn open(root: &Path) -> Usage {
    let (disk, reads) = CountedDisk::open(root);
    let mut records = 0;
    let meter = Meter::start();
    let (log, _) = Log::open(disk, options(FRAMES), &mut |_| records += 1).unwrap();
    let usage = meter.finish(&reads, records);
    std::mem::forget(log);
    usage
}
