//! I6, I12: kill -9 of all roles in turn at random instants, as many as are wanted, while ten clients
//! upload, read and delete.
//!
//! ```text
//! client      upload ─▶ acknowledged files, KEPT at most ─▶ the oldest reads back equal ─▶ deleted
//! supervisor  some uploads acknowledged since the last start ─▶ random instant ─▶ kill -9 ─▶ start again
//! end         every acknowledged file reads back equal; no deleted one is listed; nothing has ended by itself
//! ```
//! The files of a client are bounded, so the disks are too, however long the run is. A supervisor
//! starts what was killed, and does nothing else: a role that ends by itself, or that needs a person,
//! fails the test.
//!
//! `cargo test` strikes ten times; `make kills` 1,000 times (`CSTORE_KILLS`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{PATIENCE, random, seed, until_blocking, until_within};
use parking_lot::Mutex;

use crate::{PROGRAM, SEED};

const CLIENTS: u64 = 10;
/// Acknowledged files that each client keeps before it deletes the oldest.
const KEPT: usize = 10;
/// Sizes of the files: a part of a block, some blocks, some requests.
const SIZES: [usize; 3] = [3_000, 200_000, 1_500_000];
/// Roles that are struck in turn.
const ROLES: [&str; 5] = ["storage-1", "master", "worker-1", "gateway", "storage-2"];
/// Uploads that succeed between a start and the next kill, beyond those that were under way.
const BETWEEN: u64 = 3;
/// Longest time from then to the kill, in milliseconds.
const INSTANT_MS: u64 = 300;
/// One kill in this many is followed by another of the same role while it starts.
const AGAIN: u64 = 8;
/// Pause of a client whose request failed, so that it does not take the processor from those who
/// start.
const PAUSE: Duration = Duration::from_millis(20);
/// Kills after which a line is printed.
const REPORT: u64 = 50;

/// Size and content of a file.
type File = (usize, u64);

/// State that all clients and the supervisor share.
struct Load<'a> {
    cluster: &'a Cluster,
    seed: u64,
    stop: AtomicBool,
    /// Files that were acknowledged and not deleted since.
    acked: Mutex<BTreeMap<String, File>>,
    /// Files whose uploads had no good end, or whose delete had none: they may be there or not.
    unsure: Mutex<BTreeMap<String, File>>,
    /// Files whose delete was acknowledged after their upload was.
    deleted: Mutex<BTreeSet<String>>,
    uploads: AtomicU64,
    reads: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
}

/// Stops the clients, also when the supervisor fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client with its connection and the files that it keeps.
struct Uploader<'a> {
    load: &'a Load<'a>,
    connection: Option<Client>,
    kept: VecDeque<String>,
    /// Names that take room and were not acknowledged.
    leftover: Vec<String>,
}

impl Uploader<'_> {
    /// Uploads, reads and deletes until the load ends.
    fn run(&mut self, client: u64) {
        for n in 0.. {
            if self.has_ended() {
                return;
            }
            let content = self.load.seed + client * 100_000_000 + n;
            self.upload(&format!("kills/{client}/{n}"), content);
            if let Some(name) = self.leftover.pop()
                && !self.remove(&name)
            {
                self.leftover.push(name);
            }
            if self.kept.len() > KEPT
                && let Some(name) = self.kept.pop_front()
            {
                self.retire(name);
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.load.stop.load(Ordering::Relaxed)
    }

    fn upload(&mut self, name: &str, content: u64) {
        let size = SIZES[(content % 3) as usize];
        let file = (size, content);
        self.load.unsure.lock().insert(name.to_owned(), file);
        if self.ask("PUT", name, &random(size, content)) == Some((201, Vec::new())) {
            self.load.acked.lock().insert(name.to_owned(), file);
            self.load.unsure.lock().remove(name);
            self.load.uploads.fetch_add(1, Ordering::Relaxed);
            self.kept.push_back(name.to_owned());
        } else {
            self.leftover.push(name.to_owned());
        }
    }

    /// Reads an acknowledged file, which must be equal, and deletes it.
    fn retire(&mut self, name: String) {
        let (size, content) = self.load.acked.lock()[&name];
        let read = self.repeat("GET", &name, 200);
        if let Some((status, body)) = read {
            if status != 200 || body != random(size, content) {
                let text = format!("{name}: status {status}, {} bytes", body.len());
                self.load.wrong.lock().push(text);
            }
            self.load.reads.fetch_add(1, Ordering::Relaxed);
        }

        // From here on the file may be gone, also if the delete fails.
        self.load.acked.lock().remove(&name);
        self.load
            .unsure
            .lock()
            .insert(name.clone(), (size, content));
        if self.repeat("DELETE", &name, 204).is_some() {
            self.load.unsure.lock().remove(&name);
            self.load.deleted.lock().insert(name);
        }
    }

    /// Deletes a file that may be there. Returns true if it is known not to be.
    fn remove(&mut self, name: &str) -> bool {
        matches!(self.ask("DELETE", name, b""), Some((204 | 404, _)))
    }

    /// Repeats a request until it is answered by `good`, or by 404; `None` if the load ends before.
    fn repeat(&mut self, method: &str, name: &str, good: u16) -> Option<(u16, Vec<u8>)> {
        until_within(&format!("{method} {name}"), PATIENCE, || {
            let answer = self.ask(method, name, b"");
            let is_answer = |answer: &(u16, Vec<u8>)| answer.0 == good || answer.0 == 404;
            match answer.filter(is_answer) {
                Some(answer) => Some(Some(answer)),
                None => self.has_ended().then_some(None),
            }
        })
    }

    /// Sends a request; failures are counted by cause.
    fn ask(&mut self, method: &str, name: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let client = match self.connection.take() {
            Some(client) => Ok(client),
            None => Client::connect(&self.load.cluster.gateway),
        };
        let path = format!("/api/files/{name}");
        let called = client.and_then(|mut client| {
            let answer = client.call(method, &path, "", body)?;
            Ok((client, answer))
        });
        match called {
            Ok((client, answer)) if answer.status < 300 || answer.status == 404 => {
                self.connection = Some(client);
                let body = match method {
                    "GET" => answer.body,
                    _ => Vec::new(),
                };
                Some((answer.status, body))
            }
            Ok((_, answer)) => {
                self.fail(&format!("{method} {}", answer.status));
                None
            }
            Err(error) => {
                self.fail(&format!("{method} {:?}", error.kind()));
                None
            }
        }
    }

    fn fail(&self, cause: &str) {
        *self.load.failed.lock().entry(cause.to_owned()).or_default() += 1;
        let begun = Instant::now();
        until_blocking("the end of a pause", || begun.elapsed() >= PAUSE);
    }
}

impl Load<'_> {
    /// Kills roles in turn. Returns how often each was killed.
    fn supervise(&self, kills: u64) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        let begun = Instant::now();
        let mut n = 0;
        while n < kills {
            let role = ROLES[(n % ROLES.len() as u64) as usize];
            let draw = draw(self.seed + n);
            let enough = self.uploads.load(Ordering::Relaxed) + CLIENTS + BETWEEN;
            until_blocking(&format!("uploads after kill {n}"), || {
                self.check_running();
                self.uploads.load(Ordering::Relaxed) >= enough
            });
            self.kill_at(role, draw % INSTANT_MS);
            n += 1;
            *counts.entry(role).or_default() += 1;
            if (draw / INSTANT_MS).is_multiple_of(AGAIN) && n < kills {
                self.kill_at(role, draw / INSTANT_MS / AGAIN % INSTANT_MS);
                n += 1;
                *counts.entry(role).or_default() += 1;
            }
            if n / REPORT > (n - 1) / REPORT {
                println!(
                    "{n} kills in {:.0?}: {} uploads acknowledged, {} files read back equal",
                    begun.elapsed(),
                    self.uploads.load(Ordering::Relaxed),
                    self.reads.load(Ordering::Relaxed)
                );
            }
            let wrong = self.wrong.lock();
            assert!(wrong.is_empty(), "{wrong:?}");
        }
        counts
    }

    /// Kills a role after some milliseconds, and starts it again.
    fn kill_at(&self, role: &str, ms: u64) {
        let begun = Instant::now();
        until_blocking("a random instant", || {
            begun.elapsed() >= Duration::from_millis(ms)
        });
        self.check_running();
        self.cluster.restart(role);
    }

    /// Checks that no role has ended by itself: the test starts only killed roles again.
    fn check_running(&self) {
        for role in ROLES {
            let ended = self.cluster.ended(role);
            assert!(ended.is_none(), "{role} has ended by itself: {ended:?}");
        }
    }

    /// Compares what the server lists and gives back with what it acknowledged.
    fn check(&self) {
        let (acked, unsure, deleted) = (self.acked.lock(), self.unsure.lock(), self.deleted.lock());
        let mut visible = BTreeSet::new();
        let mut token = String::new();
        loop {
            let path = format!("/api/files?prefix=kills/&limit=1000&page_token={token}");
            let page = self.cluster.fetch(&path).json();
            for file in page["files"].as_array().unwrap() {
                let name = file["name"].as_str().unwrap();
                assert!(!deleted.contains(name), "{name} is back after its delete");
                let known = acked.get(name).or_else(|| unsure.get(name));
                let (size, content) = known.unwrap_or_else(|| panic!("{name} was removed"));
                let got = self.cluster.fetch(&format!("/api/files/{name}"));
                let is_equal = got.body == random(*size, *content);
                assert!(got.status == 200 && is_equal, "{name}: {}", got.status);
                visible.insert(name.to_owned());
            }
            token = page["next_page_token"].as_str().unwrap().to_owned();
            if token.is_empty() {
                break;
            }
        }
        for name in acked.keys() {
            assert!(visible.contains(name), "acknowledged {name} is gone");
        }
    }
}

/// Returns a random number.
fn draw(seed: u64) -> u64 {
    let bytes = random(16, seed);
    u64::from_le_bytes(*bytes.last_chunk().unwrap())
}

/// Returns the number of kills: `CSTORE_KILLS`, or those of a slice.
fn wanted() -> u64 {
    let found = std::env::vars().find(|(key, _)| key == "CSTORE_KILLS");
    let text = found.map(|(_, text)| text).filter(|text| !text.is_empty());
    text.map_or(2 * ROLES.len() as u64, |text| text.parse().unwrap())
}

#[test]
fn i6_i12_kills_of_all_roles_lose_nothing_acknowledged_and_need_nobody() {
    let (seed, kills) = (seed(SEED), wanted());
    println!("CSTORE_KILLS={kills}");
    let cluster = Cluster::builder(PROGRAM)
        .workers(1)
        .storages(2)
        .env("FS_SIZE", "2GiB")
        .env("CSTORE_HEARTBEAT_MS", "200")
        .start();
    let load = Load {
        cluster: &cluster,
        seed,
        stop: AtomicBool::new(false),
        acked: Mutex::default(),
        unsure: Mutex::default(),
        deleted: Mutex::default(),
        uploads: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        failed: Mutex::default(),
        wrong: Mutex::default(),
    };
    let begun = Instant::now();
    let counts = std::thread::scope(|scope| {
        let _stop = Stop(&load.stop);
        for client in 0..CLIENTS {
            let mut uploader = Uploader {
                load: &load,
                connection: None,
                kept: VecDeque::new(),
                leftover: Vec::new(),
            };
            scope.spawn(move || uploader.run(client));
        }
        load.supervise(kills)
    });
    cluster.wait_ready();
    load.check();
    println!(
        "{counts:?} in {:.0?}: {} uploads acknowledged, {} read back before their delete, {} at the end; {} deletes acknowledged",
        begun.elapsed(),
        load.uploads.load(Ordering::Relaxed),
        load.reads.load(Ordering::Relaxed),
        load.acked.lock().len(),
        load.deleted.lock().len(),
    );
    println!("requests that failed: {:?}", load.failed.lock());
    cluster.audit(&[]);
}
