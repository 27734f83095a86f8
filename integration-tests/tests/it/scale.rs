//! Opens grow no faster than what is on the disk: a slice of `make open-bench`, by the reads and the
//! memory that it prints, which do not depend on the load of the machine.

use std::process::Command;

use crate::SCALE_BENCH;

/// Largest growth of reads, and of the bytes that they ask for, from a size to twice of it.
const MAX_GROWTH: f64 = 2.2;
/// Largest multiple of a file that an open reads of it, whatever is damaged in it.
const MAX_REREADS: f64 = 6.0;
/// Peak memory of the open of the larger log, in MiB.
const MAX_LOG_PEAK: f64 = 16.0;
/// Peak memory of the open of the larger storage disk, in MiB.
const MAX_STORAGE_PEAK: f64 = 40.0;

/// Returns the numbers at the end of a line.
fn figures(line: &str) -> Vec<f64> {
    let words = line.split_whitespace().rev().take(5);
    let mut figures: Vec<f64> = words.map(|word| word.parse().unwrap()).collect();
    figures.reverse();
    figures
}

#[test]
fn i10_opens_of_twice_as_much_read_twice_as_much_in_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(SCALE_BENCH)
        .arg("open")
        .arg(folder.path())
        .env("SCALE_FILES", "400")
        .env("SCALE_BLOCKS", "80000")
        .env("SCALE_OPENS", "1")
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{table}{errors}");
    println!("{table}");

    let rows: Vec<&str> = table.lines().skip(1).collect();
    assert_eq!(rows.len(), 18, "{table}");
    for group in rows.chunks(3) {
        let [_, whole, ratio] = group else {
            unreachable!("chunks of three rows")
        };
        let is_log = whole.contains("frames");
        let most = if is_log {
            MAX_LOG_PEAK
        } else {
            MAX_STORAGE_PEAK
        };
        assert!(figures(whole)[2] < most, "{whole}: more than {most} MiB");
        // Reads of a storage disk also depend on where its last segment ends.
        if is_log {
            let [.., reads, bytes] = figures(ratio)[..] else {
                unreachable!("five figures")
            };
            assert!(reads < MAX_GROWTH && bytes < MAX_GROWTH, "{whole}: {ratio}");
        }
        if whole.contains("damaged") {
            let frames: f64 = whole.split_whitespace().next().unwrap().parse().unwrap();
            let most = MAX_REREADS * frames * 4_096.0 / f64::from(1 << 20);
            assert!(
                figures(whole)[4] < most,
                "{whole}: more than {most} MiB read"
            );
        }
    }
}
