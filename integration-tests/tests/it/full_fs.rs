//! File systems that are smaller than FS_SIZE, filled by uploads and from outside, emptied by
//! deletes and filled again, three times, without a restart.
//!
//! ```text
//! {tmpfs, ext4} x {24, 64, 200, 800 MiB} x {the whole data folder, the storage node's, the master's on it}
//! each round:  uploads until 507 ─▶ others take the rest ─▶ 507, every file reads back equal
//!              ─▶ half of the files are deleted while it is full ─▶ the others still read back equal
//!              ─▶ others leave, the rest is deleted ─▶ all is released ─▶ uploads succeed
//! ```
//! In the second round others take the rest when half as many files as in the first are stored. The
//! oracle is the list of acknowledged files: the server lists these and no others.
//!
//! `cargo test` runs the smallest tmpfs, for all data and for the storage node's.
//! `CSTORE_FULL_FS=all` (`make full-fs`) runs all cells, and any other value those whose name
//! contains it, as in `CSTORE_FULL_FS="ext4 64 MiB"`.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::{Duration, Instant};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::{Answer, Client};
use cstore_integration_tests::small_fs::{FsKind, SmallFs};
use cstore_testkit::{random, seed, until_within};

use crate::{PROGRAM, SEED};

/// Times that each file system is filled.
const ROUNDS: u64 = 3;
/// Size up to which names fill a master's file system in reasonable time. On a larger one others
/// leave them [`ROOM_OF_NAMES`] beyond the master's own reserve, an eighth of it.
const FILLED_BY_NAMES: u64 = 64;
/// See [`FILLED_BY_NAMES`].
const ROOM_OF_NAMES: u64 = 16 << 20;
/// Deadline for space to come back and for refusals that pass to pass.
const PATIENCE: Duration = Duration::from_secs(60);
/// Refusals in a row after which a file system counts as full. After a single refusal the blocks of
/// the refused upload are freed, and the next upload may fit.
const REFUSALS: usize = 3;
/// Size from which files are named when a cell fails.
const LARGE: u64 = 256 << 10;
/// Bytes by which the master's index and its reserved space may grow from the first to the last round.
/// On a file system of 24 MiB this exceeds half of the files.
const INDEX_GROWTH: usize = 4 << 20;
/// Length of the longest value of a header of metadata, and how many of them a name gets.
const METADATA: (usize, usize) = (1_000, 3);

/// Part of the installation that lies on the small file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Whole,
    Storage,
    Master,
}

/// A file system and what lies on it.
#[derive(Debug, Clone, Copy)]
struct Cell {
    kind: FsKind,
    mib: u64,
    place: Place,
}

impl Display for Cell {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::Whole => "whole",
            Place::Storage => "storage",
            Place::Master => "master",
        };
        write!(f, "{} {} MiB {place}", self.kind, self.mib)
    }
}

/// Figures of a cell.
#[derive(Debug, Default)]
struct Figures {
    /// Files that each round stored.
    stored: Vec<usize>,
    /// Uploads that were refused with 507.
    full: u64,
    /// Requests that were refused with 503 and sent again.
    unavailable: u64,
    /// Deletes that succeeded while the file system was full.
    deleted_full: u64,
}

/// A cell that is being tried: the running program and what it acknowledged.
struct Trial<'a> {
    cell: Cell,
    fs: &'a SmallFs,
    cluster: &'a Cluster,
    client: Client,
    seed: u64,
    /// Acknowledged files: size and content of each name.
    acked: BTreeMap<String, (usize, u64)>,
    figures: Figures,
}

impl Cell {
    /// Size of an upload: some dozens fill the file system, of one with only names it is small.
    fn upload_bytes(self) -> usize {
        match (self.place, self.mib) {
            (Place::Master, _) => 100,
            (_, ..=64) => 300_000,
            (_, _) => 2_000_000,
        }
    }

    /// Starts the program with the part on the file system.
    fn start(self, fs: &SmallFs) -> Cluster {
        let data = fs.path().to_str().unwrap();
        let builder = Cluster::one_of_each(PROGRAM)
            .env("FS_SIZE", "4GiB")
            .env("CSTORE_RELEASE_DELAY_MS", "100");
        let key = "CSTORE_DATA_DIR";
        match self.place {
            Place::Whole => builder.env(key, data),
            Place::Storage => builder.env_of("storage-1", key, data),
            Place::Master => builder.env_of("master", key, data),
        }
        .start()
    }
}

impl Trial<'_> {
    /// Sends a request; one that is refused with 503 is sent again, as a client does.
    fn send(&mut self, method: &str, name: &str, extra: &str, body: &[u8]) -> Answer {
        let path = format!("/api/files/{name}");
        let mut unavailable = 0;
        let answer = until_within(&format!("an answer to {method} {name}"), PATIENCE, || {
            match self.client.call(method, &path, extra, body) {
                Ok(answer) if answer.status == 503 => {
                    unavailable += 1;
                    None
                }
                Ok(answer) => Some(answer),
                // A server that refuses an upload early closes the connection.
                Err(_) => {
                    self.client = Client::connect(&self.cluster.gateway).unwrap();
                    None
                }
            }
        });
        if answer.header("connection") == Some("close") {
            self.client = Client::connect(&self.cluster.gateway).unwrap();
        }
        self.figures.unavailable += unavailable;
        answer
    }

    /// Uploads a file; returns false if it is refused because something is full.
    fn put(&mut self, name: &str, content: u64) -> bool {
        let size = self.cell.upload_bytes();
        let body = random(size, content);
        let (len, count) = METADATA;
        let extra: String = match self.cell.place {
            Place::Master => (0..count)
                .map(|n| format!("x-cstore-meta-{n}: {}\r\n", "m".repeat(len)))
                .collect(),
            _ => String::new(),
        };
        let put = self.send("PUT", &format!("{name}?overwrite=true"), &extra, &body);
        match put.status {
            200 | 201 => {
                self.acked.insert(name.to_owned(), (size, content));
                true
            }
            507 => {
                self.figures.full += 1;
                false
            }
            status => panic!("PUT {name}: {status}: {}", put.text()),
        }
    }

    /// Uploads until nothing is taken any more, or until `most` were tried. Returns true if it is
    /// full.
    fn fill(&mut self, round: u64, most: usize) -> bool {
        let mut refusals = 0;
        for n in 0..most {
            let content = self.seed + round * 1_000_000 + n as u64;
            if self.put(&format!("{round}/{n}"), content) {
                refusals = 0;
            } else {
                refusals += 1;
            }
            if refusals == REFUSALS {
                return true;
            }
        }
        false
    }

    /// Checks that each acknowledged file reads back equal, and that no other file is listed.
    fn verify(&mut self) {
        for (name, (size, content)) in self.acked.clone() {
            let got = self.send("GET", &name, "", b"");
            let is_equal = got.body == random(size, content);
            assert!(got.status == 200 && is_equal, "GET {name}: {}", got.status);
        }
        let mut listed = 0;
        let mut token = String::new();
        loop {
            let page = format!("/api/files?limit=1000&page_token={token}");
            let page = self.cluster.fetch(&page).json();
            for file in page["files"].as_array().unwrap() {
                let name = file["name"].as_str().unwrap();
                assert!(
                    self.acked.contains_key(name),
                    "{name} was not acknowledged, or was deleted"
                );
                listed += 1;
            }
            token = page["next_page_token"].as_str().unwrap().to_owned();
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, self.acked.len(), "files that are listed");
    }

    /// Deletes every `step`th file.
    fn delete(&mut self, step: usize) -> u64 {
        let names: Vec<String> = self.acked.keys().step_by(step).cloned().collect();
        for name in &names {
            let deleted = self.send("DELETE", name, "", b"");
            assert_eq!(deleted.status, 204, "DELETE {name}: {}", deleted.text());
            self.acked.remove(name);
        }
        names.len() as u64
    }

    fn round(&mut self, round: u64) {
        // A master's file system that is too large for names to fill it is filled for them.
        let bytes = self.cell.mib << 20;
        if self.cell.place == Place::Master && self.cell.mib > FILLED_BY_NAMES {
            self.fs.fill_from_outside(bytes / 8 + ROOM_OF_NAMES);
        }
        let most = match (round, self.figures.stored.first()) {
            (1, Some(first)) => first / 2,
            _ => usize::MAX,
        };
        self.fill(round, most);
        self.figures.stored.push(self.acked.len());

        self.fs.fill_from_outside(0);
        // Room that was made before others came may still take some.
        assert!(
            self.fill(round + 100, 1_000),
            "uploads go on beyond a full disk"
        );
        self.verify();
        self.figures.deleted_full += self.delete(2);
        self.verify();

        self.fs.empty_from_outside();
        self.delete(1);
        until_within("all to be released", PATIENCE, || {
            let stats = self.cluster.fetch("/api/stats").text();
            stats.contains("\"pending_releases\":0")
        });
        let content = self.seed + 500 + round;
        until_within("room again", PATIENCE, || self.put("again", content));
        self.verify();
        self.delete(1);
    }
}

/// Fills and empties the file system; returns the figures, or what went wrong.
fn try_cell(cell: Cell, fs: &SmallFs, seed: u64) -> (Figures, Result<(), String>) {
    let cluster = cell.start(fs);
    let mut trial = Trial {
        cell,
        fs,
        cluster: &cluster,
        client: Client::connect(&cluster.gateway).unwrap(),
        seed,
        acked: BTreeMap::new(),
        figures: Figures::default(),
    };
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        for round in 0..ROUNDS {
            trial.round(round);
        }
        // The master's index has grown, and on the same file system that leaves less to blocks.
        let (first, last) = (trial.figures.stored[0], trial.figures.stored[2]);
        let lost_bytes = first.saturating_sub(last) * cell.upload_bytes();
        let is_of_index = cell.place == Place::Whole && lost_bytes <= INDEX_GROWTH;
        assert!(
            last * 2 >= first || is_of_index,
            "space did not come back: {last} files after {first}"
        );
        for role in cluster.roles() {
            assert!(cluster.ended(&role).is_none(), "{role} has ended");
        }
        cluster.audit(&[]);
    }));
    let outcome = outcome.map_err(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| Some((*cause.downcast_ref::<&str>()?).to_owned()));
        println!("{cell} failed; last warnings of each role:");
        for role in cluster.roles() {
            let log = cluster.log(&role);
            let is_telling = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
            let lines: Vec<&str> = log.lines().filter(is_telling).collect();
            for line in &lines[lines.len().saturating_sub(8)..] {
                println!("  {role}: {line}");
            }
        }
        println!("  {} bytes are free; large files:", fs.free());
        list_large(fs.path());
        text.unwrap_or_else(|| "a panic without a text".to_owned())
    });
    (trial.figures, outcome)
}

/// Prints the large files of a folder.
fn list_large(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let bytes = path.metadata().map_or(0, |metadata| metadata.len());
        if path.is_dir() {
            list_large(&path);
        } else if bytes >= LARGE {
            println!("  {bytes:>12} {}", path.display());
        }
    }
}

/// Cells that the caller wants; `None` for the slice.
fn wanted() -> Option<String> {
    let found = std::env::vars().find(|(key, _)| key == "CSTORE_FULL_FS");
    found.map(|(_, text)| text).filter(|text| !text.is_empty())
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for kind in [FsKind::Tmpfs, FsKind::Ext4] {
        for mib in [24, 64, 200, 800] {
            for place in [Place::Whole, Place::Storage, Place::Master] {
                cells.push(Cell { kind, mib, place });
            }
        }
    }
    match wanted() {
        Some(all) if all == "all" => {}
        Some(part) => cells.retain(|cell| cell.to_string().contains(&part)),
        None => cells.retain(|cell| {
            cell.kind == FsKind::Tmpfs && cell.mib == 24 && cell.place != Place::Master
        }),
    }
    cells
}

#[test]
fn i7_i12_small_file_systems_are_filled_and_emptied_without_a_restart() {
    let seed = seed(SEED);
    let mut failures = Vec::new();
    println!(
        "{:<24} {:>20} {:>6} {:>6} {:>13} {:>6}  outcome",
        "file system", "files per round", "507", "503", "deleted full", "s"
    );
    for cell in cells() {
        let fs = match SmallFs::mount(cell.kind, cell.mib) {
            Ok(fs) => fs,
            Err(why) => {
                println!("SKIP {cell}: {why}");
                continue;
            }
        };
        let begun = Instant::now();
        let (figures, outcome) = try_cell(cell, &fs, seed);
        println!(
            "{:<24} {:>20} {:>6} {:>6} {:>13} {:>6}  {}",
            cell.to_string(),
            format!("{:?}", figures.stored),
            figures.full,
            figures.unavailable,
            figures.deleted_full,
            begun.elapsed().as_secs(),
            outcome.as_ref().err().map_or("ok", String::as_str),
        );
        failures.extend(outcome.err().map(|why| format!("{cell}: {why}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
