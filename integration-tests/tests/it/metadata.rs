//! Passing trouble of the master's metadata: writes are refused, everybody says why, and nothing
//! needs a restart.

use std::sync::atomic::{AtomicBool, Ordering};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::until_blocking;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::PROGRAM;

/// Files that make the log of the metadata roll, at most: it is 8 MiB, and each of them takes more
/// than 8 KiB.
const MAX_FILES: usize = 2_000;

/// Sets the soft limit of descriptors of a process; returns the one before.
fn limit_descriptors(pid: u32, soft: Option<u64>) -> Option<u64> {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let now = rustix::process::getrlimit(Resource::Nofile);
    prlimit(
        Some(pid),
        Resource::Nofile,
        Rlimit {
            current: soft,
            maximum: now.maximum,
        },
    )
    .unwrap()
    .current
}

/// Connections to admin ports, open before descriptors are short: none can be opened while they
/// are.
struct AdminPorts(Vec<Client>);

impl AdminPorts {
    fn connect(cluster: &Cluster, processes: &[&str]) -> Self {
        let connect = |name: &&str| Client::connect(&cluster.admin_addr(name)).unwrap();
        Self(processes.iter().map(connect).collect())
    }

    /// Waits until `/ready` of each role has this status, and a reason that contains `reason`.
    fn await_ready(&mut self, status: u16, reason: &str) {
        until_blocking(&format!("all roles to answer {status}"), || {
            // Both are asked each time: a connection that is idle for long is closed.
            let answers_so = |client: &mut Client| {
                let answer = client.call("GET", "/ready", "", b"").unwrap();
                answer.status == status && answer.text().contains(reason)
            };
            let n_ready = self.0.iter_mut().map(answers_so).filter(|so| *so).count();
            (n_ready == self.0.len()).then_some(())
        });
    }
}

/// Stores files with large metadata, so that the log of the metadata rolls soon, until it is
/// stopped. Returns how many were stored.
fn store_until(stop: &AtomicBool, mut client: Client) -> usize {
    let entries: String = (0..3)
        .map(|n| format!("x-cstore-meta-{n}: {}\r\n", "m".repeat(1_000)))
        .collect();
    let mut stored = 0;
    for n in (0..MAX_FILES).take_while(|_| !stop.load(Ordering::Relaxed)) {
        let put = client
            .call("PUT", &format!("/api/files/f/{n}"), &entries, b"x")
            .unwrap();
        // The commit that meets the roll is repeated by its worker for 30 seconds. On a busy
        // machine that may be too short, and then the file is refused.
        assert!(matches!(put.status, 201 | 503), "{}", put.text());
        stored += usize::from(put.status == 201);
    }
    stored
}

#[test]
fn i12_a_master_that_cannot_open_its_next_log_file_says_so_and_goes_on_when_it_can() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    assert_eq!(cluster.ask("PUT", "/api/files/kept", b"kept").status, 201);
    let mut admin = AdminPorts::connect(&cluster, &["master", "gateway"]);
    admin.await_ready(200, "[]");
    let pid = cluster.pid("master");
    let before = limit_descriptors(pid, Some(3));

    let stop = AtomicBool::new(false);
    let stored = std::thread::scope(|scope| {
        let client = Client::connect(&cluster.gateway).unwrap();
        let writer = scope.spawn(|| store_until(&stop, client));
        admin.await_ready(503, "metadata cannot be written");
        let large = cluster.ask("PUT", "/api/files/large", &[7; 100_000]);
        assert_eq!(large.status, 503, "{}", large.text());
        assert_eq!(
            cluster.ask("GET", "/api/files/kept", b"").body,
            b"kept",
            "reads go on"
        );

        limit_descriptors(pid, before);
        admin.await_ready(200, "[]");
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });

    assert!(stored < MAX_FILES, "the log never rolled");
    assert_eq!(
        cluster.ask("PUT", "/api/files/large", &[7; 100_000]).status,
        201,
        "without a restart"
    );
    let stats = cluster.ask("GET", "/api/stats", b"").json();
    assert_eq!(
        stats["files"].as_u64(),
        Some(stored as u64 + 2),
        "what was refused is in no count"
    );
    cluster.audit(&[]);
}

/// All roles are one process here: none of them can open a file or take a connection, and all go on
/// when they can.
#[test]
fn i12_a_dev_process_without_descriptors_says_so_and_goes_on_when_it_has_some() {
    let cluster = Cluster::one_of_each(PROGRAM).dev().start();
    let mut admin = AdminPorts::connect(&cluster, &["dev"]);
    let mut reader = Client::connect(&cluster.gateway).unwrap();
    assert_eq!(
        reader
            .call("PUT", "/api/files/kept", "", b"kept")
            .unwrap()
            .status,
        201
    );
    admin.await_ready(200, "[]");
    let mut client = Client::connect(&cluster.gateway).unwrap();
    assert_eq!(
        client.call("GET", "/api/stats", "", b"").unwrap().status,
        200
    );
    let pid = cluster.pid("dev");
    let before = limit_descriptors(pid, Some(3));

    let stop = AtomicBool::new(false);
    let stored = std::thread::scope(|scope| {
        let writer = scope.spawn(|| store_until(&stop, client));
        admin.await_ready(503, "metadata cannot be written");
        assert_eq!(
            reader.call("GET", "/api/files/kept", "", b"").unwrap().body,
            b"kept",
            "reads go on"
        );
        limit_descriptors(pid, before);
        admin.await_ready(200, "[]");
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });

    assert!(stored < MAX_FILES, "the log never rolled");
    let stats = cluster.ask("GET", "/api/stats", b"").json();
    assert_eq!(
        stats["files"].as_u64(),
        Some(stored as u64 + 1),
        "what was refused is in no count"
    );
}

/// The log and its files are seen from outside, as an operator would lose them.
#[test]
fn i1_a_master_without_a_part_of_its_log_does_not_start_and_says_which() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    for n in 0..3 {
        let put = cluster.ask("PUT", &format!("/api/files/{n}"), b"content");
        assert_eq!(put.status, 201, "{}", put.text());
    }
    assert!(cluster.stop("master").success());
    let folder = cluster.dir().join("master");
    let log = folder.join("log");
    let mut names: Vec<_> = std::fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    let newest = log.join(names.pop().unwrap());
    let aside = cluster.dir().join("aside");

    for (path, says) in [
        (&newest, "a file of the folder log is missing or older"),
        (&folder.join("log-owner"), "file log-owner is missing"),
    ] {
        std::fs::rename(path, &aside).unwrap();
        cluster.launch("master");
        assert!(!cluster.await_end("master").success(), "{}", path.display());
        let told = cluster.log("master");
        assert!(told.contains(says), "{told}");
        std::fs::rename(&aside, path).unwrap();
    }

    // One byte of a name, and the index is gone: it is no other name.
    let mut bytes = std::fs::read(&newest).unwrap();
    let at = bytes
        .windows(10)
        .position(|at| at == b"text/plain")
        .or_else(|| bytes.windows(12).position(|at| at == b"octet-stream"));
    let at = at.unwrap();
    bytes[at] ^= 1;
    std::fs::write(&newest, &bytes).unwrap();
    let index = folder.join("index");
    std::fs::rename(&index, &aside).unwrap();
    cluster.launch("master");
    assert!(!cluster.await_end("master").success());
    let told = cluster.log("master");
    assert!(
        told.contains("wrong checksum") || told.contains("damaged"),
        "{told}"
    );
    bytes[at] ^= 1;
    std::fs::write(&newest, &bytes).unwrap();

    cluster.launch("master");
    cluster.wait_ready();
    for n in 0..3 {
        assert_eq!(cluster.fetch(&format!("/api/files/{n}")).body, b"content");
    }
}
