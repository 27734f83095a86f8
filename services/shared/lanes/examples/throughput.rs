//! Prints the throughput of each backend in GB/s, for 1 to 32 blocks of several sizes.

#![allow(clippy::print_stdout, reason = "a program that prints its results")]
#![allow(
    clippy::disallowed_types,
    reason = "time is measured, and no test pauses it"
)]

use std::time::Instant;

use cstore_lanes::Backend;

/// Milliseconds for which each cell of the table is measured.
const CELL_MILLIS: u128 = 100;

fn main() {
    println!("{:>10} {:>8} {:>7}  GB/s", "backend", "bytes", "blocks");
    for len in [64, 1 << 10, 4 << 10, 64 << 10] {
        for count in [1, 2, 3, 4, 8, 12, 16, 17, 24, 32, 64] {
            let bytes: Vec<Vec<u8>> = (0..count).map(|n| vec![n; len]).collect();
            let blocks: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
            print_row(&format!("{len:>8} {count:>7}"), &blocks);
        }
    }

    // Lengths between 4 and 128 KiB, and one long block beside short ones.
    let mixed: Vec<Vec<u8>> = (1..=64).map(|n| vec![0; (n * 37 % 32 + 1) << 12]).collect();
    let skewed: Vec<Vec<u8>> = (0..16)
        .map(|n| vec![0; if n == 0 { 1 << 20 } else { 4 << 10 }])
        .collect();
    for (name, bytes) in [("mixed", mixed), ("skewed", skewed)] {
        let blocks: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        print_row(&format!("{name:>8} {:>7}", blocks.len()), &blocks);
    }
}

fn print_row(what: &str, blocks: &[&[u8]]) {
    for backend in Backend::ALL {
        let name = format!("{backend:?}").to_lowercase();
        if !backend.is_available() {
            println!("SKIP {name}: this processor has no such instructions");
            continue;
        }
        println!(
            "{name:>10} {what}  {:.2}",
            gigabytes_per_second(backend, blocks)
        );
    }
}

/// Returns the throughput of the fastest of many calls: others were interrupted.
fn gigabytes_per_second(backend: Backend, blocks: &[&[u8]]) -> f64 {
    let len: usize = blocks.iter().map(|block| block.len()).sum();
    let begun = Instant::now();
    let mut fastest = std::time::Duration::MAX;
    while begun.elapsed().as_millis() < CELL_MILLIS {
        let call = Instant::now();
        std::hint::black_box(backend.md5_many(std::hint::black_box(blocks)));
        fastest = fastest.min(call.elapsed());
    }
    len as f64 / fastest.as_secs_f64() / 1e9
}
