//! Limits of the disk under all contestants, measured beside them.

use std::io::Write;
use std::time::Instant;

use crate::processes::data_folder;

/// Writes of 1 MiB, each synced.
const LARGE: usize = 256;
/// Appends of 4 KiB, each synced.
const SMALL: usize = 2_000;

/// Write rates of the disk for one writer that waits for each sync.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// MB of 1,000,000 bytes per second, by writes of 1 MiB.
    pub(crate) large_mb_per_second: f64,
    /// Appends of 4 KiB per second.
    pub(crate) small_per_second: f64,
}

/// Measures the limits with a file in the folder of the contestants.
pub(crate) fn measure() -> Limits {
    rustix::fs::sync();
    let large = seconds(LARGE, 1 << 20);
    let small = seconds(SMALL, 4 << 10);
    Limits {
        large_mb_per_second: (LARGE << 20) as f64 / 1e6 / large,
        small_per_second: SMALL as f64 / small,
    }
}

/// Returns the time of a number of appends to a new file, each followed by fdatasync.
fn seconds(count: usize, size: usize) -> f64 {
    let mut file = tempfile::tempfile_in(data_folder()).unwrap();
    let bytes = cstore_testkit::random(size, 1);
    let begin = Instant::now();
    for _ in 0..count {
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
    }
    begin.elapsed().as_secs_f64()
}
