//! A hard limit of open files that is small, and more idle clients than it allows.
//!
//! A role may refuse to start under a limit that its settings cannot keep: with exit code 64 and a
//! message that names the limit. One that starts must serve on, or refuse clearly, while idle
//! clients hold its descriptors, and must need no restart when they leave.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::{Answer, Client};
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;

/// Idle clients of each port.
const IDLE: usize = 256;
/// Files that are stored before the idle clients come, more than [`BESIDE`].
const BEFORE: u64 = 10;
/// Requests that are sent while they are there.
const BESIDE: u64 = 4;
/// Longest wait for a connection or an answer while they are there. A connection that waits longer
/// is a clear refusal.
const WAIT: Duration = Duration::from_secs(2);
/// Least limit under which every role must start.
const ALWAYS_ENOUGH: u64 = 512;
/// Exit code of a role whose settings cannot be kept.
const EXIT_USAGE: i32 = 64;

/// Files that were acknowledged: size and content by name.
type Files = BTreeMap<String, (usize, u64)>;

/// Waits until the cluster is ready. Returns false if a role refuses the limit.
fn starts(cluster: &Cluster, limit: u64) -> bool {
    let refused = until_blocking("a start or a refusal", || {
        for role in cluster.roles() {
            let Some(status) = cluster.ended(&role) else {
                continue;
            };
            let log = cluster.log(&role);
            assert_eq!(
                status.code(),
                Some(EXIT_USAGE),
                "{role} under {limit}: {log}"
            );
            let names_limit = log.contains(&limit.to_string());
            assert!(names_limit, "{role} does not name its limit {limit}: {log}");
            return Some(Some(log.lines().last().unwrap_or_default().to_owned()));
        }
        let put = cluster.call("PUT", "/api/files/.probe?overwrite=true", b"probe");
        put.is_ok_and(|put| put.status < 300).then_some(None)
    });
    if let Some(line) = &refused {
        println!("limit {limit} is refused: {line}");
        assert!(
            limit < ALWAYS_ENOUGH,
            "limit {limit} should be enough: {line}"
        );
        return false;
    }
    cluster.wait_ready();
    true
}

/// Connections to every port that say nothing. A port may leave some of them waiting.
fn idle_clients(cluster: &Cluster) -> Vec<TcpStream> {
    let nodes = cluster.roles();
    let nodes = nodes.iter().filter(|role| role.contains('-'));
    let mut ports: Vec<String> = nodes.map(|role| cluster.addr(role)).collect();
    ports.extend([cluster.gateway.clone(), cluster.master.clone()]);
    if ports.len() == 2 {
        // The ports of the storage node and the worker in one process.
        ports.push(cluster.addr("dev"));
    }
    let mut idle = Vec::new();
    for port in ports {
        let addr = port.parse().unwrap();
        for _ in 0..IDLE {
            // A full queue of connections is a refusal, too.
            let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(100)) else {
                break;
            };
            idle.push(stream);
        }
    }
    idle
}

/// Sends a request over a connection of its own; `None` if the connection or the answer waits.
///
/// # Panics
/// If the connection breaks off without an answer.
fn try_once(cluster: &Cluster, method: &str, path: &str, body: &[u8]) -> Option<Answer> {
    let addr = cluster.gateway.parse().unwrap();
    let stream = TcpStream::connect_timeout(&addr, WAIT);
    let client = stream.and_then(|stream| Client::over(stream, WAIT));
    match client.and_then(|mut client| client.call(method, path, "", body)) {
        Ok(answer) => Some(answer),
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => None,
        Err(error) => panic!("{method} {path}: {error}"),
    }
}

/// Uploads, reads and deletes beside the idle clients. Returns how often each outcome came.
fn work_beside(cluster: &Cluster, files: &mut Files) -> BTreeMap<String, u64> {
    let mut outcomes = BTreeMap::new();
    let mut note = |method: &str, answer: &Option<Answer>| {
        let outcome = answer
            .as_ref()
            .map_or_else(|| "waits".to_owned(), |answer| answer.status.to_string());
        *outcomes.entry(format!("{method} {outcome}")).or_insert(0) += 1;
        let is_clear = answer
            .as_ref()
            .is_none_or(|answer| answer.status < 300 || answer.status == 503);
        assert!(is_clear, "{method}: {answer:?}");
    };
    for n in 0..BESIDE {
        let (size, content) = (50_000, 1_000 + n);
        let path = format!("/api/files/beside/{n}");
        let put = try_once(cluster, "PUT", &path, &random(size, content));
        note("PUT", &put);
        if put.is_some_and(|put| put.status == 201) {
            files.insert(format!("beside/{n}"), (size, content));
        }

        let name = format!("before/{}", BEFORE - 1);
        let (size, content) = files[&name];
        let got = try_once(cluster, "GET", &format!("/api/files/{name}"), b"");
        note("GET", &got);
        if let Some(got) = got.filter(|got| got.status == 200) {
            assert!(got.body == random(size, content), "{name}");
        }

        let name = format!("before/{n}");
        let deleted = try_once(cluster, "DELETE", &format!("/api/files/{name}"), b"");
        note("DELETE", &deleted);
        // A delete without an answer may have happened.
        if deleted.is_none_or(|deleted| deleted.status == 204) {
            files.remove(&name);
        }
    }
    outcomes
}

fn idle_clients_hold_nobody_up(name: &str, cluster: &Cluster, limit: u64) {
    if !starts(cluster, limit) {
        return;
    }
    let mut files = Files::new();
    for n in 0..BEFORE {
        let name = format!("before/{n}");
        let put = cluster.ask("PUT", &format!("/api/files/{name}"), &random(50_000, n));
        assert_eq!(put.status, 201, "{}", put.text());
        files.insert(name, (50_000, n));
    }

    let idle = idle_clients(cluster);
    let outcomes = work_beside(cluster, &mut files);
    println!(
        "{name}, limit {limit}: {} idle clients came in; beside them {outcomes:?}",
        idle.len()
    );
    drop(idle);

    cluster.wait_ready();
    for (name, (size, content)) in &files {
        let got = cluster.fetch(&format!("/api/files/{name}"));
        let is_equal = got.body == random(*size, *content);
        assert!(got.status == 200 && is_equal, "{name}: {}", got.status);
        let deleted = cluster.ask("DELETE", &format!("/api/files/{name}"), b"");
        assert_eq!(deleted.status, 204, "{}", deleted.text());
    }
    for role in cluster.roles() {
        assert!(cluster.ended(&role).is_none(), "{role} has ended");
    }
    // The lack of descriptors passes, and each part may say what it could not do for it.
    cluster.audit(&["Too many open files"]);
}

#[test]
fn i10_idle_clients_beyond_the_limit_of_open_files_hold_one_process_up_only_while_they_stay() {
    for limit in [128, 256, 512] {
        let cluster = Cluster::builder(PROGRAM).dev().open_files(limit);
        idle_clients_hold_nobody_up("one process", &cluster.start_unready(), limit);
    }
}

#[test]
fn i10_idle_clients_beyond_the_limit_of_open_files_hold_roles_up_only_while_they_stay() {
    for limit in [128, 256, 512] {
        let cluster = Cluster::one_of_each(PROGRAM).open_files(limit);
        idle_clients_hold_nobody_up("a process each", &cluster.start_unready(), limit);
    }
}
