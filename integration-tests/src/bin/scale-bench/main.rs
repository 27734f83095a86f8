//! Measures how opens grow with what is on the disk, and what a new segment costs the uploads.
//!
//! ```text
//! scale-bench open [FOLDER]    logs and storage disks of two sizes are built, then opened, each in a process
//!                              of its own: its processor time and its peak memory are those of the open
//! scale-bench roll [FOLDER]    4 KiB uploads to an engine whose segments fill often, and to one whose segment
//!                              never fills, in turn
//! scale-bench child ...        one step in a process of its own, started by the other two
//! ```
//! FOLDER is made, and removed at the end; by default `target/scale-bench`. It should lie on the
//! disk that is of interest.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `SCALE_FILES` | 10000 | files of the larger log, of 20 frames each |
//! | `SCALE_BLOCKS` | 4000000 | blocks of 64 bytes on the larger storage disk |
//! | `SCALE_OPENS` | 3 | opens of each; the median counts |
//! | `ROLL_ROLLS` | 60 | segments that the uploads of one run fill, at least |
//! | `ROLL_FS_MIB` | 64 | FS_SIZE of the disk with small segments, 32 of them |
//! | `ROLL_PAIRS` | 5 | pairs of runs |
//! | `ROLL_CLIENTS` | 16 | uploads at once |

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a measuring program may fail loudly, print, and needs the wall clock"
)]

mod counted_disk;
mod log_scale;
mod open;
mod roll;
mod storage_scale;
mod usage;

use std::path::{Path, PathBuf};

/// Folder of the data if the command line names none.
const FOLDER: &str = "target/scale-bench";

/// Returns a number from the environment.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, found {text:?}")),
        _ => default,
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["open", folder @ ..] => within(folder, open::run),
        ["roll", folder @ ..] => within(folder, roll::run),
        ["child", step @ ..] => open::step(step),
        _ => panic!("usage: scale-bench open|roll [FOLDER]"),
    }
}

/// Calls `work` with a new folder, which is removed afterwards.
fn within(folder: &[&str], work: impl FnOnce(&Path)) {
    let parent = PathBuf::from(folder.first().copied().unwrap_or(FOLDER));
    std::fs::create_dir_all(&parent).unwrap();
    let own = tempfile::tempdir_in(&parent).unwrap();
    work(own.path());
}
