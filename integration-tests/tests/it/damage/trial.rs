//! One cell on the real program: damage, start, observation, work under the damage, and the end of
//! the damage, after which everything must be whole.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::{Answer, Client};
use cstore_testkit::{random, until_within};
use serde_json::Value;

use super::cells::{Cell, Structure};
use super::corpus::Numbers;
use super::fixture::{Fixture, MASTER, STORAGE, settings, temporary_copy};
use super::site::Choices;
use super::strike::{Strike, View};

/// Time in which a role starts or ends. One that does neither counts as refused.
const START: Duration = Duration::from_secs(25);
/// Time after which a disk that the master does not take counts as refused, and the words of the
/// refusal.
const REFUSAL: Duration = Duration::from_secs(3);
const OTHER_DISK: &str = "which is empty or another disk";
/// Time in which a file that answers 503 is asked for again.
const RETRIES: Duration = Duration::from_secs(3);
/// Time in which a doubt that was disproved ends, and releases are done.
const CALM: Duration = Duration::from_secs(15);
/// Heartbeats in which two sweeps over pins come. Each comes after 600 ticks of the same interval,
/// which are slower than heartbeats.
const BEATS: f64 = 1_500.0;
/// Metric that counts them, and their interval in cells that wait for sweeps.
const HEARTBEATS: &str = "cstore_mesh_call_seconds_count{";
const FAST_HEARTBEAT_MS: &str = "10";
/// Time in which two sweeps come on a busy machine.
const SWEEPS: Duration = Duration::from_secs(60);
/// Kept files that are deleted while the damage is there. Other kept files have blocks of each.
const DELETED: [usize; 4] = [9, 12, 24, 35];
/// Bytes of the uploads that fill the disk, and their number: more than the disk holds.
const FILLER: usize = 2 << 20;
const MAX_FILLERS: u64 = 8;
/// Lost files that are uploaded again under another name.
const AGAIN: usize = 2;

/// Observation of one cell.
#[derive(Debug, Default)]
pub(super) struct Observation {
    /// Reason why the struck role did not start.
    pub(super) refused: Option<String>,
    /// True if the log of a role that did not start has the name of the damaged file.
    pub(super) names_the_file: bool,
    /// Kinds of open doubts.
    pub(super) doubts: BTreeSet<String>,
    /// Code of the answer to the first upload, if it was refused.
    pub(super) writes_refused: Option<String>,
    /// Kept files that answer an error.
    pub(super) lost: Numbers,
    /// Kept files that answer 404.
    pub(super) gone: Numbers,
    /// Kept files with other bytes.
    pub(super) wrong: Numbers,
    pub(super) hit_payloads: Numbers,
    pub(super) hit_frames: Numbers,
    /// Everything that must hold in each cell and did not.
    pub(super) violations: Vec<String>,
}

/// A running cluster over a damaged folder.
struct Trial<'a> {
    cell: &'a Cell,
    fixture: &'a Fixture,
    cluster: Cluster,
    seen: Observation,
    /// Kept files that were deleted under the damage.
    deleted: Numbers,
    /// Files that were uploaded under the damage.
    uploaded: Vec<(String, Vec<u8>)>,
}

/// Runs a cell; `None` if it does not apply to the folder.
pub(super) fn run(fixture: &Fixture, cell: &Cell, choices: &mut Choices) -> Option<Observation> {
    let folder = temporary_copy(&fixture.folder(cell.state));
    let strike = Strike::apply(fixture, cell, folder.path(), choices)?;
    let before = disk_contents(folder.path());
    let mut cluster = settings().folder(folder);
    if cell.is_swept() {
        cluster = cluster.env("CSTORE_HEARTBEAT_MS", FAST_HEARTBEAT_MS);
    }
    if let Some(range) = &strike.eio {
        let library = fixture.eio.as_ref()?;
        let path = strike.path.display().to_string();
        for (key, value) in [
            ("LD_PRELOAD", library.display().to_string()),
            ("STRUCK_PATH", path),
            ("STRUCK_FROM", range.start.to_string()),
            ("STRUCK_TO", range.end.to_string()),
        ] {
            cluster = cluster.env_of(cell.structure.role(), key, &value);
        }
    }
    let mut trial = Trial {
        cell,
        fixture,
        cluster: cluster.start_unready(),
        seen: Observation {
            hit_payloads: strike.hit_payloads.clone(),
            hit_frames: strike.hit_frames.clone(),
            ..Observation::default()
        },
        deleted: Numbers::new(),
        uploaded: Vec::new(),
    };

    trial.observe();
    trial.seen.names_the_file = trial.names_one_of(&strike);
    if trial.seen.refused.is_none() {
        trial.work(choices);
    } else if cell.structure.role() == STORAGE && disk_contents(trial.cluster.dir()) != before {
        trial.blame("a refused start changed the disk".to_owned());
    }
    trial.undo(&strike);
    trial.audit();
    Some(trial.seen)
}

/// Contents of all files of the disk.
fn disk_contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let disk = folder.join(STORAGE);
    let mut found = Vec::new();
    for folder in [disk.join("segments"), disk] {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if let Ok(bytes) = std::fs::read(&path) {
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

/// Waits for a value. Returns `None` if `patience` ends before there is one.
fn wait<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    until_within(what, patience * 4 + START, || match look() {
        Some(value) => Some(Some(value)),
        None => (begun.elapsed() > patience).then_some(None),
    })
}

impl Trial<'_> {
    fn blame(&mut self, violation: String) {
        self.seen.violations.push(violation);
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        // A download that cannot be completed breaks the connection.
        let failed = |error: std::io::Error| Answer {
            status: 500,
            body: error.to_string().into_bytes(),
            ..Answer::default()
        };
        self.cluster.call(method, path, body).unwrap_or_else(failed)
    }

    fn nodes(&self) -> Vec<Value> {
        let seen = self.cluster.call("GET", "/api/cluster", b"").ok();
        let seen = seen.filter(|seen| seen.status == 200);
        let nodes = seen.map(|seen| seen.json()["nodes"].as_array().cloned());
        nodes.flatten().unwrap_or_default()
    }

    /// Open doubts of the disk, with their numbers.
    fn doubts(&self) -> Vec<(u64, String)> {
        let nodes = self.nodes();
        let disk = nodes.iter().find(|node| node["node_id"] == STORAGE);
        let doubts = disk.and_then(|node| node["doubts"].as_array());
        let open = doubts
            .into_iter()
            .flatten()
            .filter(|doubt| doubt["accepted"] == false);
        open.map(|doubt| {
            let kind = doubt["kind"].as_str().unwrap_or_default().to_owned();
            (doubt["number"].as_u64().unwrap_or_default(), kind)
        })
        .collect()
    }

    fn note_doubts(&mut self) {
        let kinds = self.doubts().into_iter().map(|(_, kind)| kind);
        self.seen.doubts.extend(kinds);
    }

    /// Waits until all nodes are ready. Returns why the struck role did not come so far.
    fn await_start(&self) -> Result<(), String> {
        let role = self.cell.structure.role();
        let begun = Instant::now();
        let outcome = wait("a start or its end", START, || {
            if let Some(status) = self.cluster.ended(role) {
                return Some(Err(format!(
                    "{status}: {}",
                    last_error(&self.cluster.log(role))
                )));
            }
            let nodes = self.nodes();
            let is_up = |id: &str| {
                let node = nodes.iter().find(|node| node["node_id"] == id);
                node.is_some_and(|node| matches!(node["state"].as_str(), Some("ready" | "suspect")))
            };
            if is_up(STORAGE) && is_up("worker-1") {
                return Some(Ok(()));
            }
            // The master refuses the disk for as long as it is another one.
            let said = self.cluster.log(STORAGE);
            let is_refused = begun.elapsed() > REFUSAL && said.contains(OTHER_DISK);
            is_refused.then(|| Err(format!("not ready: {}", self.readiness(role))))
        });
        outcome.unwrap_or_else(|| Err(format!("not ready: {}", self.readiness(role))))
    }

    fn readiness(&self, role: &str) -> String {
        let mut client = Client::connect(&self.cluster.admin_addr(role));
        let answer = client
            .as_mut()
            .map(|client| client.call("GET", "/ready", "", b""));
        match answer {
            Ok(Ok(answer)) => answer.text(),
            _ => last_error(&self.cluster.log(role)),
        }
    }

    /// True if the log of the struck role names a damaged file, by its name or by the number in it.
    fn names_one_of(&self, strike: &Strike) -> bool {
        let log = self.cluster.log(self.cell.structure.role());
        let is_named = |path: &Path| {
            let name = match self.cell.structure {
                Structure::Index => "index",
                Structure::Lock => "/LOCK",
                _ => path.file_stem().unwrap().to_str().unwrap(),
            };
            log.contains(name)
        };
        strike.paths().any(is_named)
    }

    fn observe(&mut self) {
        if let Err(reason) = self.await_start() {
            self.seen.refused = Some(reason);
            return;
        }
        let all = 0..self.fixture.corpus.kept.len();
        let (lost, gone, wrong) = self.read_all(all.collect());
        self.seen.lost = lost;
        self.seen.gone = gone;
        self.seen.wrong = wrong;
        self.note_doubts();
    }

    /// Reads kept files. Returns those with an error, those that are not found and those with other
    /// bytes.
    fn read_all(&self, numbers: Numbers) -> (Numbers, Numbers, Numbers) {
        let (mut gone, mut wrong) = (Numbers::new(), Numbers::new());
        let mut left = numbers;
        let mut lost = Numbers::new();
        let begun = Instant::now();
        while !left.is_empty() {
            let mut again = Numbers::new();
            for n in std::mem::take(&mut left) {
                let file = &self.fixture.corpus.kept[n];
                let got = self.ask("GET", &file.path, b"");
                match got.status {
                    200 if got.body == file.body => {}
                    200 => drop(wrong.insert(n)),
                    404 => drop(gone.insert(n)),
                    503 if begun.elapsed() < RETRIES => drop(again.insert(n)),
                    _ => drop(lost.insert(n)),
                }
            }
            left = again;
        }
        (lost, gone, wrong)
    }

    /// Does what may free something wrongly: deletes files, uploads lost ones again, fills the
    /// disk.
    fn work(&mut self, choices: &mut Choices) {
        let probe = random(20_000, choices.below(1 << 20) as u64);
        let put = self.put("probe", probe);
        self.seen.writes_refused = (put.status != 201).then(|| code(&put));
        if self.seen.writes_refused.is_none() {
            for n in DELETED {
                let file = &self.fixture.corpus.kept[n];
                if self.ask("DELETE", &file.path, b"").status == 204 {
                    self.deleted.insert(n);
                }
            }
            if !self.cell.is_swept() {
                let lost: Vec<usize> = self.seen.lost.iter().copied().take(AGAIN).collect();
                for n in lost {
                    self.upload_again(n);
                }
            } else if !self.await_sweeps() {
                // Here an upload would hold again what a sweep could free wrongly.
                self.blame("the storage node sends no heartbeats".to_owned());
            }
            for n in 0..MAX_FILLERS {
                let filler = random(FILLER, 9_000 + n);
                if self.put(&format!("filler-{n}"), filler).status != 201 {
                    break;
                }
            }
        }
        self.note_doubts();
    }

    /// Waits for two sweeps over pins: the second one frees blocks that nothing holds. Returns
    /// false if they do not come in time.
    fn await_sweeps(&self) -> bool {
        let beats = || self.cluster.metric(STORAGE, HEARTBEATS);
        let first = beats();
        let swept = wait("two sweeps over pins", SWEEPS, || {
            (beats() > first + BEATS).then_some(())
        });
        swept.is_some()
    }

    /// Uploads a file under another name. An acknowledged upload rests on its own blocks, which the
    /// client has just sent, whatever the disk has of them.
    fn upload_again(&mut self, n: usize) {
        let body = self.fixture.corpus.kept[n].body.clone();
        let name = format!("again-{n}");
        if self.put(&name, body.clone()).status == 201 {
            let got = self.ask("GET", &format!("/api/files/{name}"), b"");
            if got.status != 200 || got.body != body {
                let text = format!("file {n} was taken again and answers {}", got.status);
                self.blame(text);
            }
        }
    }

    /// Uploads a file and notes it if the upload is acknowledged.
    fn put(&mut self, name: &str, body: Vec<u8>) -> Answer {
        let path = format!("/api/files/{name}");
        let put = self.ask("PUT", &path, &body);
        if put.status == 201 {
            self.uploaded.push((path, body));
        }
        put
    }

    /// Ends the damage, starts again and demands that everything is there.
    fn undo(&mut self, strike: &Strike) {
        for role in ["gateway", "worker-1", STORAGE, MASTER] {
            self.cluster.kill(role);
        }
        let view = View {
            refused: self.seen.refused.is_some(),
            on_hold: !self.seen.doubts.is_empty(),
            is_read_only: self.seen.writes_refused.is_some(),
        };
        strike.undo(self.fixture, self.cluster.dir(), &view);
        for key in ["LD_PRELOAD", "STRUCK_PATH"] {
            self.cluster.set_env_of(self.cell.structure.role(), key, "");
        }
        for role in self.cluster.roles() {
            self.cluster.launch(&role);
        }
        if let Err(reason) = self.await_start() {
            self.blame(format!("after the undo it does not start: {reason}"));
            return;
        }
        self.end_hold();
        self.check_whole();
    }

    /// Doubts about segments end by themselves when the segments are back. Others are accepted.
    fn end_hold(&mut self) {
        let is_of_segment = |kind: &str| kind.starts_with("segment_") || kind == "set_damaged";
        let ended = wait("the end of the hold", CALM, || {
            let open = self.doubts();
            let may_end = open.iter().any(|(_, kind)| is_of_segment(kind));
            (!may_end).then_some(open)
        });
        let open = ended.unwrap_or_else(|| self.doubts());
        if open.is_empty() {
            return;
        }
        let lasting: BTreeSet<&str> = open.iter().map(|(_, kind)| kind.as_str()).collect();
        for kind in lasting.into_iter().filter(|kind| is_of_segment(kind)) {
            self.blame(format!("after the undo {kind} is still in doubt"));
        }
        self.read_remaining("before an accept");
        for (number, kind) in &open {
            let number = number.to_string();
            let output = self
                .cluster
                .admin_output(&["hold", "accept", STORAGE, &number]);
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                self.blame(format!("{kind} cannot be accepted: {}", said.trim()));
            }
        }
        let ended = wait("the end of the hold", CALM, || {
            self.doubts().is_empty().then_some(())
        });
        if ended.is_none() {
            let kinds: Vec<String> = self.doubts().into_iter().map(|(_, kind)| kind).collect();
            self.blame(format!("the hold does not end: {}", kinds.join(" ")));
        }
    }

    /// Every kept file that was not deleted is whole.
    fn read_remaining(&mut self, when: &str) {
        let all: Numbers = (0..self.fixture.corpus.kept.len()).collect();
        let (lost, gone, wrong) = self.read_all(&all - &self.deleted);
        for (numbers, what) in [(lost, "unreadable"), (gone, "gone"), (wrong, "wrong")] {
            if !numbers.is_empty() {
                self.blame(format!("{when} {what}: {numbers:?}"));
            }
        }
    }

    /// Every kept file that was not deleted is whole, and so is every upload that was acknowledged;
    /// deleted files give their space back.
    fn check_whole(&mut self) {
        self.read_remaining("after the undo");
        for (path, body) in std::mem::take(&mut self.uploaded) {
            let got = self.ask("GET", &path, b"");
            if got.status != 200 || got.body != body {
                self.blame(format!("after the undo {path} answers {}", got.status));
            }
        }
        let released = wait("the releases", CALM, || {
            let stats = self.cluster.call("GET", "/api/stats", b"").ok()?;
            (stats.status == 200 && stats.json()["pending_releases"] == 0).then_some(())
        });
        if released.is_none() {
            self.blame("deleted files do not give their space back".to_owned());
        }
        let open: Vec<String> = self.doubts().into_iter().map(|(_, kind)| kind).collect();
        if !open.is_empty() {
            self.blame(format!("in the end it is on hold: {}", open.join(" ")));
        }
    }

    /// No role panics, whatever it meets.
    fn audit(&mut self) {
        for role in self.cluster.roles() {
            let log = self.cluster.log(&role);
            if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
                self.blame(format!("{role} panicked: {line}"));
            }
        }
    }
}

/// Code of a refusal.
fn code(answer: &Answer) -> String {
    let code = serde_json::from_slice::<Value>(&answer.body)
        .ok()
        .and_then(|body| body["code"].as_str().map(str::to_owned));
    code.unwrap_or_else(|| answer.status.to_string())
}

/// Last line of a log that says why its process ended.
fn last_error(log: &str) -> String {
    let says_why = |line: &&str| line.contains("ERROR") || line.starts_with("error");
    let line = log
        .lines()
        .rev()
        .find(says_why)
        .or_else(|| log.lines().next_back());
    line.unwrap_or_default().trim().to_owned()
}
