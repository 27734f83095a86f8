//! Latency of small uploads to an engine, while segments fill and while none does.
//!
//! The engine lies on real files and syncs them. Clients, worker and network are left out: they
//! would hide what a new segment costs. A small disk has small segments, 32 of them, so a run takes
//! several new disks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cstore_log::RealDisk;
use cstore_storage::engine::SealOutcome;
use cstore_testkit::session;
use cstore_types::PartNo;
use tokio::task::JoinSet;

use crate::number;
use crate::storage_scale::{blocks, engine};

/// Bytes of an upload.
const UPLOAD: usize = 4 << 10;
/// Bytes that an upload takes on the disk, with its reference set, rounded up.
const FOOTPRINT: u64 = 4_608;
/// Segments of a small disk.
const SEGMENTS: u64 = 32;
/// Segments of a small disk that a run fills: the rest is reserved.
const FILLED: u64 = 24;

/// Latencies of one run in milliseconds, sorted, and the segments that began in it.
#[derive(Debug)]
struct Run {
    latencies: Vec<f64>,
    rolls: u64,
}

impl Run {
    /// Returns the latency that a part of the uploads did not exceed.
    fn at(&self, part: f64) -> f64 {
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * part) as usize]
    }
}

/// Measures pairs of runs and prints a table.
pub(crate) fn run(folder: &Path) {
    let small = number("ROLL_FS_MIB", 64) << 20;
    let disks = number("ROLL_ROLLS", 60).div_ceil(FILLED);
    // One of its segments takes what the small disk takes. A larger one would cost more by itself:
    // segments are reserved when they are made, and their first writes are slow.
    let large = small * SEGMENTS;
    let pairs = number("ROLL_PAIRS", 5);
    let clients = number("ROLL_CLIENTS", 16);
    let uploads = small / SEGMENTS * FILLED / FOOTPRINT;
    println!(
        "{disks} disks a run, {uploads} uploads of 4 KiB to each, {clients} at once; segments of {} KiB",
        (small / SEGMENTS) >> 10
    );
    println!(
        "{:<22} {:>6} {:>8} {:>8} {:>8} {:>9} {:>8}",
        "pair", "rolls", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "PUT/s"
    );

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut ratios = Vec::new();
    for pair in 0..pairs {
        // Each goes first as often as the other: the disk may become slower with time.
        let order = if pair % 2 == 0 {
            [small, large]
        } else {
            [large, small]
        };
        let mut p99 = [0.0; 2];
        for capacity in order {
            let begun = Instant::now();
            let measured = runtime.block_on(measure(folder, capacity, disks, uploads, clients));
            let seconds = begun.elapsed().as_secs_f64();
            let name = if capacity == small {
                "segments fill"
            } else {
                "no segment fills"
            };
            println!(
                "{:<22} {:>6} {:>8.2} {:>8.2} {:>8.2} {:>9.2} {:>8.0}",
                format!("{} {name}", pair + 1),
                measured.rolls,
                measured.at(0.5),
                measured.at(0.99),
                measured.at(0.999),
                measured.at(1.0),
                measured.latencies.len() as f64 / seconds,
            );
            p99[usize::from(capacity == small)] = measured.at(0.99);
        }
        ratios.push(p99[1] / p99[0]);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "p99 with rolls / p99 without: median {:.2}, {:.2} to {:.2}",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
}

async fn measure(folder: &Path, capacity: u64, disks: u64, uploads: u64, clients: u64) -> Run {
    let mut run = Run {
        latencies: Vec::new(),
        rolls: 0,
    };
    for disk in 0..disks {
        let root = folder.join(format!("roll-{disk}"));
        run.latencies
            .extend(fill(&root, capacity, uploads, clients).await);
        let segments = std::fs::read_dir(root.join("segments")).unwrap();
        let names = segments.map(|entry| entry.unwrap().file_name());
        let begun = names.filter(|name| name.to_string_lossy().ends_with(".bin"));
        run.rolls += begun.count() as u64 - 1;
        std::fs::remove_dir_all(&root).unwrap();
    }
    run.latencies.sort_by(f64::total_cmp);
    run
}

/// Uploads to a new disk and returns the latencies in milliseconds.
async fn fill(root: &Path, capacity: u64, uploads: u64, clients: u64) -> Vec<f64> {
    let engine = engine(RealDisk::open(root).unwrap(), capacity);
    let next = Arc::<AtomicU64>::default();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (engine, next) = (engine.clone(), next.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= uploads {
                    return latencies;
                }
                let block = blocks(n..n + 1, UPLOAD);
                let begun = Instant::now();
                let put = engine.put_seal(session(n), PartNo(0), vec![block[0].id], block);
                let sealed = put.await.unwrap();
                latencies.push(begun.elapsed().as_secs_f64() * 1_000.0);
                assert!(matches!(sealed, SealOutcome::Sealed { .. }), "{sealed:?}");
                engine.unpin(session(n));
            }
        });
    }
    tasks.join_all().await.concat()
}
