//! Crowds at the public door: sockets that only wait, and a process that has no file descriptors
//! left.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{PATIENCE, random, until_blocking};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::PROGRAM;

const WAITING: usize = 1_500;
/// Sockets with what slow and idle clients have sent so far.
fn crowd(addr: &str, n: usize) -> Vec<TcpStream> {
    let half: &[&[u8]] = &[
        b"",
        b"G",
        b"PRI * HTTP/2",
        b"GET /api/files HTTP/1.1\r\nhost: x\r\nx-slow: ",
        b"PUT /api/files/slow HTTP/1.1\r\nhost: x\r\ncontent-length: 1",
    ];
    let open = |n: usize| {
        let mut stream = TcpStream::connect(addr).ok()?;
        stream.write_all(half[n % half.len()]).ok()?;
        Some(stream)
    };
    (0..n).filter_map(open).collect()
}

fn store_and_read(cluster: &Cluster, name: &str) {
    let body = random(100_000, 7);
    let path = format!("/api/files/{name}");
    assert_eq!(cluster.ask("PUT", &path, &body).status, 201, "{name}");
    assert!(cluster.ask("GET", &path, b"").body == body, "{name}");
    assert_eq!(cluster.ask("DELETE", &path, b"").status, 204, "{name}");
}

#[test]
fn i10_a_crowd_of_slow_and_idle_sockets_keeps_nobody_out() {
    let open_files = getrlimit(Resource::Nofile);
    if open_files
        .current
        .is_some_and(|most| most < 2 * WAITING as u64)
    {
        println!(
            "SKIP crowd: this process may open {:?} files only",
            open_files.current
        );
        return;
    }
    let cluster = Cluster::builder(PROGRAM)
        .env_of("gateway", "CSTORE_HEADER_TIMEOUT_MS", "600000")
        .start();
    let begun = Instant::now();
    let crowd = crowd(&cluster.gateway, WAITING);
    assert!(crowd.len() > WAITING / 2, "only {} came in", crowd.len());
    let mut kept = Client::connect(&cluster.gateway).unwrap();
    for n in 0..5 {
        store_and_read(&cluster, &format!("beside-{n}"));
        assert_eq!(
            kept.call("GET", "/api/stats", "", b"").unwrap().status,
            200,
            "a busy connection stays"
        );
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    drop(crowd);
    assert!(cluster.peak_memory("gateway") < 200 << 20);
    cluster.audit(&[]);
}

#[test]
fn i10_without_file_descriptors_a_gateway_sends_away_who_waits_and_goes_on() {
    let cluster = Cluster::builder(PROGRAM)
        .env_of("gateway", "CSTORE_HEADER_TIMEOUT_MS", "600000")
        .start();
    let pid = Pid::from_raw(i32::try_from(cluster.pid("gateway")).unwrap()).unwrap();
    let held = std::fs::read_dir(format!("/proc/{}/fd", cluster.pid("gateway")))
        .unwrap()
        .count() as u64;
    // The gateway inherited its hard limit from this process.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = prlimit(
        Some(pid),
        Resource::Nofile,
        Rlimit {
            current: Some(held + 8),
            maximum,
        },
    );
    let before =
        before.unwrap_or_else(|error| panic!("the limit of process {pid:?} can be set: {error}"));
    let crowd = crowd(&cluster.gateway, 100);
    until_blocking("an upload beside the crowd", || {
        let mut client = Client::connect(&cluster.gateway).ok()?;
        let answer = client
            .call("PUT", "/api/files/a?overwrite=true", "", b"x")
            .ok()?;
        (answer.status < 300).then_some(())
    });
    prlimit(Some(pid), Resource::Nofile, before).unwrap();
    drop(crowd);
    store_and_read(&cluster, "after");
    let log = cluster.log("gateway");
    assert!(log.contains("cannot accept a connection"), "{log}");
    cluster.audit(&["cannot accept a connection"]);
}

#[test]
fn i10_downloads_that_nobody_takes_hold_nobody_up_and_little_memory() {
    // A budget that is too small for all of the downloads together.
    let cluster = Cluster::builder(PROGRAM)
        .workers(1)
        .env("CSTORE_MEMORY_BUDGET", "32MiB")
        .start();
    let large = random(48 << 20, 9);
    assert_eq!(cluster.ask("PUT", "/api/files/large", &large).status, 201);
    let open = |_| {
        let mut stream = TcpStream::connect(&cluster.gateway).unwrap();
        stream
            .write_all(b"GET /api/files/large HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        stream
    };
    // The number of downloads that the worker admits.
    let mut crowd: Vec<TcpStream> = (0..24).map(open).collect();
    for stream in &mut crowd {
        let mut first = [0; 12];
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    let begun = Instant::now();
    for n in 0..5 {
        store_and_read(&cluster, &format!("beside-{n}"));
    }
    let body = random(5 << 20, 10);
    assert_eq!(cluster.ask("PUT", "/api/files/b", &body).status, 201);
    assert!(
        cluster.ask("GET", "/api/files/b", b"").body == body,
        "a whole download beside them"
    );
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    for (part, most) in [("worker-1", 160 << 20), ("gateway", 200 << 20)] {
        let peak = cluster.peak_memory(part);
        println!(
            "{part}: {} MiB at most beside {} stalled downloads",
            peak >> 20,
            crowd.len()
        );
        assert!(peak < most, "{part}: {peak} bytes");
    }
    // One of them goes on, and gets every byte.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        crowd[0].read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let mut got = vec![0; large.len()];
    crowd[0].read_exact(&mut got).unwrap();
    assert!(got == large);
    drop(crowd);
    cluster.audit(&[]);
}

#[test]
fn i10_a_client_that_takes_its_answer_byte_by_byte_holds_nobody_up() {
    let cluster = Cluster::builder(PROGRAM)
        .env_of("gateway", "CSTORE_IDLE_TIMEOUT_MS", "5000")
        .start();
    let body = random(32 << 20, 9);
    assert_eq!(cluster.ask("PUT", "/api/files/large", &body).status, 201);
    let mut slow = TcpStream::connect(&cluster.gateway).unwrap();
    slow.write_all(b"GET /api/files/large HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    store_and_read(&cluster, "beside");
    // It takes nothing for longer than the bound: what it reads then is not the whole, and ends.
    until_blocking("the gateway to give it up", || {
        cluster
            .log("gateway")
            .contains("a download broke off")
            .then_some(())
            .or_else(|| {
                let mut admin = Client::connect(&cluster.admin_addr("gateway")).ok()?;
                let metrics = admin.call("GET", "/metrics", "", b"").ok()?.text();
                metrics
                    .lines()
                    .any(|line| line == "cstore_gateway_connections 0")
                    .then_some(())
            })
    });
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = Vec::new();
    let _ = slow.read_to_end(&mut got);
    assert!(got.len() < body.len(), "{} bytes", got.len());
    cluster.audit(&[]);
}
