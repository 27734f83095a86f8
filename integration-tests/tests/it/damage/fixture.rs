//! The data folders that are damaged: made once, copied for each cell.
//!
//! ```text
//! life 1   files, some deleted, snapshots of the metadata; stopped        ──▶ older
//! life 2   more files, some deleted, newer snapshots; stopped
//! life 3   more files, some deleted; stopped                              ──▶ base of the last life
//! life 4   more files, some deleted; stopped                              ──▶ stopped
//! life 4   the same on another copy; uploads run when it is killed        ──▶ older-killed, killed
//! another cluster, with the same names of nodes                           ──▶ foreign
//! ```
//! The snapshots of the second life let the first file of the master's log go, so that the log
//! alone does not have all of the metadata.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cstore_integration_tests::cluster::{Builder, Cluster};
use cstore_integration_tests::tools::{find, find_or_skip};
use cstore_testkit::{random, until_blocking};
use tempfile::TempDir;

use super::corpus::{BLOCK_SIZE, Corpus, File, Oracle};
use super::format::{LogFile, last_position, noted_position, slots};
use crate::PROGRAM;

pub(super) const STORAGE: &str = "storage-1";
pub(super) const MASTER: &str = "master";
/// Roles in the order in which they stop.
const ROLES: [&str; 4] = ["gateway", "worker-1", STORAGE, MASTER];
/// Uploads that are acknowledged under load before everything is killed, and the clients.
const LOADED: usize = 4;
const CLIENTS: u64 = 3;
/// Bytes of an upload under load: several blocks, and a size that no file of the corpus has.
const LOAD_SIZE: usize = 20_001;

/// Largest file of the last life that is uploaded right before the kill.
const MAX_SMALL: usize = 130_000;
/// Steps in which padding moves these files, together more than a segment.
const PAD: usize = 64 << 10;
const MAX_PADS: usize = 12;

/// State in which the processes left a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Stopped,
    Killed,
}

/// All folders and what is known of them.
#[derive(Debug)]
pub(super) struct Fixture {
    dir: TempDir,
    pub(super) corpus: Corpus,
    stopped: Oracle,
    killed: Oracle,
    /// The preloaded library, if this machine can make it and the program can load it.
    pub(super) eio: Option<PathBuf>,
}

/// A cluster of one of each with a small disk.
pub(super) fn settings() -> Builder {
    Cluster::one_of_each(PROGRAM)
        .env("FS_SIZE", "16MiB")
        .env("BLOCK_SIZE", &BLOCK_SIZE.to_string())
        .env("CSTORE_HEARTBEAT_MS", "100")
        .env("CSTORE_DRAIN_TIMEOUT_MS", "2000")
}

/// Paths of the files of a folder, without its folders, sorted.
pub(super) fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "bin"));
    paths.sort();
    paths
}

/// Copies a file or a folder with all that is in it. Files that vanish while a process works on the
/// folder are left out, and so are the logs of processes and the ballast, which has no content.
pub(super) fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        match std::fs::copy(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
        return;
    }
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let is_log = name.to_string_lossy().ends_with(".log");
        if !is_log && name != "ballast" {
            copy(&entry.path(), &to.join(name));
        }
    }
}

/// Copies a data folder into a temporary one, for a cluster.
pub(super) fn temporary_copy(from: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(from, folder.path());
    folder
}

impl Fixture {
    /// Makes all folders.
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let corpus = Corpus::new();
        let folder = |name: &str| dir.path().join(name);

        // A snapshot is taken only after as much log.
        let snapshots = || settings().env("CSTORE_SNAPSHOT_BYTES", "65536");
        let first = snapshots().start();
        live(&first, &corpus, 0);
        stop(first, &folder("older"));
        let second = snapshots().folder(temporary_copy(&folder("older")));
        let second = second.start();
        live(&second, &corpus, 1);
        stop(second, &folder("second"));
        let third = settings().folder(temporary_copy(&folder("second")));
        let third = third.start();
        live(&third, &corpus, 2);
        stop(third, &folder("base"));

        let last = settings().folder(temporary_copy(&folder("base"))).start();
        live(&last, &corpus, 3);
        stop(last, &folder("stopped"));
        let killed = (0..MAX_PADS)
            .map(|pad| PAD * pad)
            .find_map(|pad| last_life_killed(dir.path(), &corpus, pad));
        let killed = killed.expect("a kill leaves a segment with enough files");

        let foreign = settings().start();
        put(&foreign, &corpus.of_life(0)[..12]);
        stop(foreign, &folder("foreign"));

        let stopped = Oracle::read(&folder("stopped"), Path::new(STORAGE), &corpus);
        let eio = compile(&folder("eio.so"));
        Self {
            dir,
            corpus,
            stopped,
            killed,
            eio,
        }
    }

    /// The undamaged data folder.
    pub(super) fn folder(&self, state: State) -> PathBuf {
        self.dir.path().join(match state {
            State::Stopped => "stopped",
            State::Killed => "killed",
        })
    }

    /// The oracle of the disk of the undamaged data folder.
    pub(super) fn oracle(&self, state: State) -> &Oracle {
        match state {
            State::Stopped => &self.stopped,
            State::Killed => &self.killed,
        }
    }

    /// An older copy of a file or a folder, if there is one with other content.
    pub(super) fn older(&self, state: State, path: &Path) -> Option<PathBuf> {
        let folders: &[&str] = match state {
            State::Stopped => &["older"],
            State::Killed => &["older-killed", "older"],
        };
        let current = self.folder(state).join(path);
        let copies = folders
            .iter()
            .map(|name| self.dir.path().join(name).join(path));
        copies
            .filter(|copy| copy.try_exists().unwrap())
            .find(|copy| {
                copy.is_dir() || std::fs::read(copy).unwrap() != std::fs::read(&current).unwrap()
            })
    }

    /// The file of another cluster: of the same path, or another one of its folder.
    pub(super) fn foreign(&self, path: &Path) -> Option<PathBuf> {
        let path = self.dir.path().join("foreign").join(path);
        if path.try_exists().unwrap() {
            return Some(path);
        }
        files_of(path.parent()?).pop()
    }
}

/// Runs the last life until it is killed. `pad` bytes move the place in the segments at which its
/// small files begin. `None` if few of them lie in the segment that the kill leaves.
fn last_life_killed(dir: &Path, corpus: &Corpus, pad: usize) -> Option<Oracle> {
    let (older, killed) = (dir.join("older-killed"), dir.join("killed"));
    for folder in [&older, &killed] {
        std::fs::remove_dir_all(folder).unwrap_or_default();
    }
    let cluster = settings().folder(temporary_copy(&dir.join("base"))).start();
    let files = corpus.of_life(3).iter();
    let (small, large): (Vec<&File>, Vec<&File>) =
        files.partition(|file| file.body.len() <= MAX_SMALL);
    put(&cluster, large);
    delete(&cluster, &corpus.deleted_in_life(3));
    let padding = cluster.ask("PUT", "/api/files/padding", &random(pad, 4_000));
    assert_eq!(padding.status, 201, "{}", padding.text());

    let (early, late) = small.split_at(3);
    put(&cluster, early.iter().copied());
    for part in [STORAGE, "master/log"] {
        copy(&cluster.dir().join(part), &older.join(part));
    }
    put(&cluster, late.iter().copied());
    await_note(&cluster, &older.join("master/log"));
    kill_under_load(&cluster);
    copy(cluster.dir(), &killed);

    let oracle = Oracle::read(&killed, Path::new(STORAGE), corpus);
    let crashed = oracle
        .segments
        .iter()
        .find(|segment| segment.file.footer.is_none());
    let crashed = crashed?;
    let frames = crashed.settled_frames().iter();
    let needed = frames.filter(|frame| !oracle.files_of_frame(frame).is_empty());
    let is_enough = needed.count() >= small.len() && older.join(&crashed.path).is_file();
    is_enough.then_some(oracle)
}

/// Waits until the disk notes metadata that an older copy of the master's log lacks. Until then, at
/// most a second, the older copy passes for the right one (`docs/disk-format.md`).
fn await_note(cluster: &Cluster, log: &Path) {
    let parse = |path: &PathBuf| LogFile::parse(&std::fs::read(path).unwrap());
    let positions = files_of(log)
        .iter()
        .map(parse)
        .map(|file| last_position(&file))
        .max();
    let superblock = cluster.dir().join(STORAGE).join("superblock.bin");
    until_blocking("the disk notes newer metadata", || {
        let bytes = std::fs::read(&superblock).unwrap();
        let newest = slots(&bytes).into_iter().next();
        newest.is_some_and(|slot| Some(noted_position(&bytes[slot])) > positions)
    });
}

/// Uploads and deletes the files of one life.
fn live(cluster: &Cluster, corpus: &Corpus, life: usize) {
    put(cluster, corpus.of_life(life));
    delete(cluster, &corpus.deleted_in_life(life));
}

fn put<'a>(cluster: &Cluster, files: impl IntoIterator<Item = &'a File>) {
    for file in files {
        let put = cluster.ask("PUT", &file.path, &file.body);
        assert_eq!(put.status, 201, "{}: {}", file.path, put.text());
    }
}

/// Uploads files, deletes them, and waits until the disk has their release records.
fn delete(cluster: &Cluster, files: &[File]) {
    put(cluster, files);
    for file in files {
        assert_eq!(cluster.ask("DELETE", &file.path, b"").status, 204);
    }
    until_blocking("the removals are released", || {
        let stats = cluster.ask("GET", "/api/stats", b"").json();
        stats["pending_releases"] == 0
    });
}

/// Stops all roles cleanly and moves their data to `folder`.
fn stop(cluster: Cluster, folder: &Path) {
    for role in ROLES {
        assert!(
            cluster.stop(role).success(),
            "{role}: {}",
            cluster.log(role)
        );
    }
    copy(cluster.dir(), folder);
}

/// Kills all roles while clients upload.
fn kill_under_load(cluster: &Cluster) {
    let (stopped, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (stopped, acknowledged) = (&stopped, &acknowledged);
            scope.spawn(move || {
                for n in 0..LOADED as u64 {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let body = random(LOAD_SIZE, 5_000 + client * 100 + n);
                    let path = format!("/api/files/load/{client}/{n}");
                    if cluster
                        .call("PUT", &path, &body)
                        .is_ok_and(|put| put.status == 201)
                    {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        until_blocking("acknowledged uploads under load", || {
            acknowledged.load(Ordering::Relaxed) >= LOADED
        });
        for role in [STORAGE, MASTER, "worker-1", "gateway"] {
            cluster.kill(role);
        }
        stopped.store(true, Ordering::Relaxed);
    });
}

/// Compiles the preloaded library; `None`, with a line that says why, where that is impossible.
fn compile(library: &Path) -> Option<PathBuf> {
    const WHAT: &str = "reads that fail with EIO";
    let compiler = find("cc").or_else(|| find_or_skip("cc", WHAT))?;
    if !is_dynamic(&std::fs::read(PROGRAM).unwrap()) {
        find_or_skip("a dynamically linked program under test", WHAT);
        return None;
    }
    let source = library.with_extension("c");
    std::fs::write(&source, include_str!("eio.c")).unwrap();
    let output = Command::new(compiler)
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .args([library, &source])
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(library.to_path_buf())
}

/// True if a 64-bit ELF program asks for a dynamic loader (program header PT_INTERP).
fn is_dynamic(program: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    let half = |at: usize| usize::from(u16::from_le_bytes([program[at], program[at + 1]]));
    let table = usize::try_from(u64::from_le_bytes(program[32..40].try_into().unwrap())).unwrap();
    let (size, count) = (half(54), half(56));
    program[..4] == *b"\x7fELF"
        && (0..count).any(|n| program[table + n * size..].starts_with(&PT_INTERP))
}
