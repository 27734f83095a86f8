//! Passing trouble of the master's metadata: writes are refused, everybody says why, and nothing
//! needs a restart.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::until_blocking;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

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

/// Starts a cluster whose storage node soon notes what its master says.
fn quick_cluster() -> Cluster {
    let builder = Cluster::one_of_each(PROGRAM).env("CSTORE_HEARTBEAT_MS", "50");
    builder.start()
}

/// Files of the master's log, oldest first.
fn log_files(cluster: &Cluster) -> Vec<PathBuf> {
    let log = cluster.dir().join("master").join("log");
    let files = std::fs::read_dir(log).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Waits until master and gateway say on `/ready` why the master is read-only, and checks that
/// writes are refused with the same reason.
fn await_read_only(cluster: &Cluster, says: &[&str]) {
    let refused = |reason: &str| {
        let missing = says.iter().find(|says| !reason.contains(**says));
        reason.contains("the master is read-only") && missing.is_none()
    };
    for role in ["master", "gateway"] {
        until_blocking(&format!("{role} says {says:?}"), || {
            let mut client = Client::connect(&cluster.admin_addr(role)).ok()?;
            let answer = client.call("GET", "/ready", "", b"").ok()?;
            (answer.status == 503 && refused(&answer.text())).then_some(())
        });
    }
    let view = cluster.ask("GET", "/api/cluster", b"").json();
    let waiting_for = view["waiting_for"].as_str().unwrap();
    assert!(refused(waiting_for), "{view}");
    for (method, path, body) in [
        ("PUT", "/api/files/new", &b"new"[..]),
        ("DELETE", "/api/files/0", b""),
        ("POST", "/api/files/0:copy", br#"{"to":"1"}"#),
    ] {
        let answer = cluster.ask(method, path, body);
        assert_eq!(answer.status, 503, "{method} {path}: {}", answer.text());
        let text = answer.text();
        assert!(refused(&text), "{method} {path}: {text}");
        assert!(text.contains("cstore admin rescue FILE"), "{text}");
    }
}

/// The kinds of open doubts, as `cstore admin hold list` shows them.
fn open_doubts(cluster: &Cluster) -> Vec<(String, String)> {
    let listed = cluster.admin_command(&["hold", "list", "--json"]);
    let lines = listed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let open = lines.filter(|doubt: &Value| doubt["accepted"] == false);
    open.map(|doubt| {
        let kind = doubt["kind"].as_str().unwrap().to_owned();
        (kind, doubt["number"].to_string())
    })
    .collect()
}

/// Puts a rescued snapshot in the place of the master's folder, as the command says.
fn put_in_place(cluster: &Cluster, file: &Path) {
    let folder = cluster.dir().join("master");
    std::fs::rename(&folder, cluster.dir().join("master.damaged")).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(file, folder.join("snapshot.bin")).unwrap();
}

/// The log and its files are seen from outside, as an operator would lose them.
#[test]
fn i1_a_master_without_a_part_of_its_log_serves_names_writes_nothing_and_says_which() {
    let cluster = quick_cluster();
    for n in 0..3 {
        let put = cluster.ask("PUT", &format!("/api/files/{n}"), b"content");
        assert_eq!(put.status, 201, "{}", put.text());
    }
    assert!(cluster.stop("master").success());
    let folder = cluster.dir().join("master");
    let newest = log_files(&cluster).pop().unwrap();
    let aside = cluster.dir().join("aside");
    let assert_reads = || {
        for n in 0..3 {
            let got = cluster.fetch(&format!("/api/files/{n}"));
            assert_eq!(got.body, b"content", "{}", got.text());
        }
        let listed = cluster.ask("GET", "/api/files", b"").json();
        assert_eq!(
            listed["files"].as_array().map(Vec::len),
            Some(3),
            "{listed}"
        );
    };

    for (path, says) in [
        (&newest, "a file of the folder log is missing or older"),
        (&folder.join("log-owner"), "file log-owner is missing"),
    ] {
        std::fs::rename(path, &aside).unwrap();
        cluster.launch("master");
        await_read_only(&cluster, &[says, "no change is missing"]);
        assert_reads();
        let missing = cluster.ask("GET", "/api/files/none", b"");
        assert_eq!(missing.status, 404, "{}", missing.text());
        // The master serves until it is stopped.
        assert!(cluster.stop("master").success());
        assert!(!folder.join("scratch").try_exists().unwrap());
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
    await_read_only(&cluster, &["wrong checksum", "missing or damaged"]);
    let missing = cluster.ask("GET", "/api/files/2", b"");
    assert_eq!(missing.status, 503, "{}", missing.text());
    assert!(cluster.stop("master").success());
    bytes[at] ^= 1;
    std::fs::write(&newest, &bytes).unwrap();

    cluster.launch("master");
    cluster.wait_ready();
    assert_reads();
    // A node that has noted more than was served was in doubt; the right log ends that.
    until_blocking("no doubt is open", || open_doubts(&cluster).is_empty());
}

/// The whole way of an operator: the newest file of the log is lost, and the index has everything.
#[test]
fn i12_names_that_the_index_has_are_rescued_and_the_cluster_goes_on() {
    let cluster = quick_cluster();
    for n in 0..5 {
        let put = cluster.ask("PUT", &format!("/api/files/{n}"), b"content");
        assert_eq!(put.status, 201, "{}", put.text());
    }
    assert!(cluster.stop("master").success());
    std::fs::remove_file(log_files(&cluster).pop().unwrap()).unwrap();
    cluster.launch("master");
    await_read_only(&cluster, &["index has applied position"]);

    let file = cluster.dir().join("rescued");
    let data = cluster.dir().display().to_string();
    let to = file.display().to_string();
    let rescue = || cluster.admin_output(&["rescue", "--data", &data, &to]);
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let in_use = rescue();
    assert_eq!(in_use.status.code(), Some(1));
    assert!(said(&in_use.stderr).contains("in use"), "{in_use:?}");
    assert!(!file.try_exists().unwrap());

    assert!(cluster.stop("master").success());
    let rescued = rescue();
    assert_eq!(rescued.status.code(), Some(0), "{rescued:?}");
    let text = said(&rescued.stdout);
    assert!(
        text.contains("as of position") && text.contains("names: 5;"),
        "{text}"
    );
    assert!(text.contains("no change is missing"), "{text}");
    assert!(text.contains("snapshot.bin"), "{text}");
    let again = rescue();
    assert_eq!(again.status.code(), Some(4), "{again:?}");

    put_in_place(&cluster, &file);
    cluster.launch("master");
    cluster.wait_ready();
    for n in 0..5 {
        assert_eq!(cluster.fetch(&format!("/api/files/{n}")).body, b"content");
    }
    assert_eq!(open_doubts(&cluster), [], "no history was lost");
    assert_eq!(cluster.ask("PUT", "/api/files/5", b"more").status, 201);
    cluster.audit(&["master"]);
}

/// A file in the middle of the log and the index are lost, and names with them.
#[test]
fn i12_what_is_in_front_of_a_hole_is_rescued_and_storage_nodes_wait_for_a_person() {
    let cluster = quick_cluster();
    for n in 0..3 {
        if n > 0 {
            // Not by a kill: then the last name would be in the next file.
            assert!(cluster.stop("master").success());
            cluster.launch("master");
            cluster.wait_ready();
        }
        let put = cluster.ask("PUT", &format!("/api/files/{n}"), b"content");
        assert_eq!(put.status, 201, "{}", put.text());
    }
    assert!(cluster.stop("master").success());
    let files = log_files(&cluster);
    assert!(files.len() >= 3, "{files:?}");
    std::fs::remove_file(&files[1]).unwrap();
    std::fs::remove_dir_all(cluster.dir().join("master").join("index")).unwrap();
    cluster.launch("master");
    await_read_only(
        &cluster,
        &["log goes on with position", "missing or damaged"],
    );
    assert_eq!(cluster.fetch("/api/files/0").body, b"content");
    let missing = cluster.ask("GET", "/api/files/2", b"");
    assert_eq!(missing.status, 503, "{}", missing.text());
    until_blocking("the storage node knows that the master is older", || {
        let doubts = open_doubts(&cluster);
        doubts
            .iter()
            .any(|(kind, _)| kind == "master")
            .then_some(())
    });
    assert_eq!(
        cluster.fetch("/api/files/0").body,
        b"content",
        "reads go on"
    );
    // A read-only master takes no decision of a person either.
    let (_, number) = open_doubts(&cluster).remove(0);
    let accept = ["hold", "accept", "storage-1", &number];
    assert_eq!(cluster.admin_output(&accept).status.code(), Some(6));

    assert!(cluster.stop("master").success());
    let file = cluster.dir().join("rescued");
    let data = cluster.dir().display().to_string();
    let to = file.display().to_string();
    let rescued = cluster.admin_output(&["rescue", "--data", &data, &to]);
    assert_eq!(rescued.status.code(), Some(2), "{rescued:?}");
    let text = String::from_utf8_lossy(&rescued.stdout);
    assert!(
        text.contains("names: 1;") && text.contains("missing or damaged"),
        "{text}"
    );
    // The last file of the log is whole, and nothing of it is in the file.
    let to_second = format!("{to}.json");
    let rescued = cluster.admin_output(&["rescue", "--data", &data, "--json", &to_second]);
    assert_eq!(rescued.status.code(), Some(2), "{rescued:?}");
    let line: Value = serde_json::from_slice(&rescued.stdout).unwrap();
    let count = |key: &str| line[key].as_u64().unwrap();
    assert_eq!((count("names"), count("left_out_values")), (1, 0), "{line}");
    let behind = count("newest") - count("position");
    assert_eq!(
        count("lost_changes") + count("unused_changes"),
        behind,
        "{line}"
    );
    assert!(
        count("lost_changes") > 0 && count("unused_changes") > 0,
        "{line}"
    );
    let whole = count("unused_changes");
    let says = format!("{whole} of the changes that are left out lie whole");
    assert!(text.contains(&says), "{says}: {text}");
    let error: Value = serde_json::from_slice(&rescued.stderr).unwrap();
    assert_eq!(error["error"]["code"], "partial", "{error}");

    put_in_place(&cluster, &file);
    cluster.launch("master");
    until_blocking("uploads wait for a person", || {
        let put = cluster.ask("PUT", "/api/files/3", b"more");
        (put.status == 503 && put.text().contains("metadata_older")).then_some(())
    });
    assert_eq!(cluster.fetch("/api/files/0").body, b"content");
    let doubts = open_doubts(&cluster);
    let (_, number) = doubts.iter().find(|(kind, _)| kind == "master").unwrap();
    cluster.admin_command(&["hold", "accept", "storage-1", number]);
    cluster.wait_ready();
    assert_eq!(cluster.fetch("/api/files/0").body, b"content");
    assert_eq!(cluster.fetch("/api/files/2").status, 404);
    assert_eq!(cluster.ask("PUT", "/api/files/2", b"again").status, 201);
    assert_eq!(cluster.fetch("/api/files/2").body, b"again");
}
