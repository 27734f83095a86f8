//! A file system that is mounted for reads only under a part of the installation, and for writes
//! again later, without a person who restarts anything.
//!
//! ```text
//! {all of `cstore dev`, the storage node, the master} on a tmpfs
//! files are stored ─▶ kill -9 ─▶ remount,ro ─▶ start: GET 200, PUT 503 with the reason
//!                                ─▶ remount,rw ─▶ PUT 201, every file reads back equal
//! ```
//! The part is killed first, because the system refuses `remount,ro` while files are open for
//! writing. A supervisor starts a process again that has ended by itself; `cstore dev` MUST NOT end.

use std::time::{Duration, Instant};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::{Answer, Client};
use cstore_integration_tests::small_fs::{FsKind, SmallFs};
use cstore_testkit::{random, until_within};

use crate::PROGRAM;

/// Size of the file system.
const MIB: u64 = 64;
/// Deadline of each step: starts, registrations and the pauses between two probes of a disk.
const STEP: Duration = Duration::from_secs(30);
/// Sizes of the files: below and above the size of a block.
const SIZES: [usize; 3] = [1_000, 100_000, 3_000_000];

/// A running installation with a part on the file system.
struct Trial {
    cluster: Cluster,
    /// Process whose folder lies on the file system.
    part: &'static str,
    /// A removal changes the metadata only.
    may_delete: bool,
    begun: Instant,
}

impl Trial {
    /// Starts the installation with the folder of `part` on `fs`.
    fn start(fs: &SmallFs, part: &'static str) -> Self {
        let data = fs.path().to_str().unwrap();
        let builder = Cluster::one_of_each(PROGRAM);
        let key = "CSTORE_DATA_DIR";
        let builder = match part {
            "dev" => builder.dev().env(key, data),
            part => builder.env_of(part, key, data),
        };
        Self {
            cluster: builder.start(),
            part,
            may_delete: part == "storage-1",
            begun: Instant::now(),
        }
    }

    /// Starts the part again if it has ended by itself, as a supervisor does.
    fn supervise(&self) {
        if self.cluster.ended(self.part).is_some() {
            assert_ne!(self.part, "dev", "`cstore dev` has ended");
            self.cluster.launch(self.part);
        }
    }

    /// Sends a request until its answer is accepted.
    fn until(
        &self,
        (method, name, body): (&str, &str, &[u8]),
        mut is_accepted: impl FnMut(&Answer) -> bool,
    ) {
        let path = format!("/api/files/{name}");
        let mut last = String::new();
        until_within(&format!("{method} {name} on {}", self.part), STEP, || {
            self.supervise();
            let answer = self.cluster.call(method, &path, body).ok()?;
            let told = format!("{method} {name}: {} {}", answer.status, shown(&answer));
            if told != last {
                let seconds = self.begun.elapsed().as_secs_f64();
                println!("{} {seconds:5.1} s: {told}", self.part);
                last = told;
            }
            is_accepted(&answer).then_some(())
        });
    }

    /// Waits until the gateway knows that the part takes no writes. Before that an upload may use a
    /// ticket from before the kill, and its commit is tried again for half a minute.
    fn await_notice(&self) {
        let says_so = |text: &str| text.contains("takes no writes");
        if self.part == "storage-1" {
            return until_within("a node that is not ready", STEP, || {
                let view = self.cluster.call("GET", "/api/cluster", b"").ok()?.json();
                says_so(view["waiting_for"].as_str()?).then_some(())
            });
        }
        let process = if self.part == "dev" { "dev" } else { "gateway" };
        let addr = self.cluster.admin_addr(process);
        until_within("a gateway that is not ready", STEP, || {
            let mut client = Client::connect(&addr).ok()?;
            let ready = client.call("GET", "/ready", "", b"").ok()?;
            (ready.status == 503 && says_so(&ready.text())).then_some(())
        });
    }

    /// Reads the files back, which MUST be equal.
    fn verify(&self) {
        for (n, size) in SIZES.into_iter().enumerate() {
            self.until(("GET", &format!("file-{n}"), b""), |answer| {
                let content = random(size, n as u64);
                assert!(answer.status != 200 || answer.body == content, "file-{n}");
                answer.status == 200
            });
        }
    }
}

/// Returns the beginning of a refusal.
fn shown(answer: &Answer) -> String {
    if answer.status < 400 {
        return String::new();
    }
    answer.text().chars().take(400).collect()
}

/// Returns true for the refusal of a disk that takes no writes, with the error of the system.
fn is_refused_by_disk(answer: &Answer) -> bool {
    let text = answer.text();
    answer.status == 503
        && text.contains("takes no writes")
        && text.contains("Read-only file system")
}

fn try_part(part: &'static str) {
    let fs = match SmallFs::mount(FsKind::Tmpfs, MIB) {
        Ok(fs) => fs,
        Err(why) => return println!("SKIP {part}: {why}"),
    };
    let trial = Trial::start(&fs, part);
    for (n, size) in SIZES.into_iter().enumerate() {
        let body = random(size, n as u64);
        trial.until(("PUT", &format!("file-{n}"), &body), |put| {
            put.status == 201
        });
    }
    trial.until(("PUT", "to-delete", b"content"), |put| put.status == 201);

    trial.cluster.kill(part);
    fs.remount(true).unwrap();
    trial.cluster.launch(part);
    trial.verify();
    trial.await_notice();
    let new = random(50_000, 99);
    trial.until(("PUT", "new", &new), is_refused_by_disk);
    trial.until(("DELETE", "to-delete", b""), |deleted| {
        match trial.may_delete {
            true => deleted.status == 204,
            false => is_refused_by_disk(deleted),
        }
    });
    trial.verify();

    fs.remount(false).unwrap();
    trial.until(("PUT", "new", &new), |put| put.status == 201);
    trial.until(("GET", "new", b""), |got| {
        got.status == 200 && got.body == new
    });
    if !trial.may_delete {
        trial.until(("DELETE", "to-delete", b""), |deleted| {
            deleted.status == 204
        });
    }
    trial.verify();
    // Only the disk itself may call a person.
    trial.cluster.audit(&[
        "disk takes no writes: it is opened for reads only",
        "the master is read-only, because its disk takes no writes",
        "the disk takes writes again",
    ]);
}

#[test]
fn i12_dev_serves_reads_on_a_read_only_file_system_and_takes_writes_after_it() {
    try_part("dev");
}

#[test]
fn i12_a_storage_node_serves_reads_on_a_read_only_file_system_and_takes_writes_after_it() {
    try_part("storage-1");
}

#[test]
fn i12_a_master_serves_names_on_a_read_only_file_system_and_takes_writes_after_it() {
    try_part("master");
}
