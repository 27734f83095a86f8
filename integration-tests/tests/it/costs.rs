//! Costs of one request in counts: syncs, allocations and system calls. No times.
//!
//! ```text
//! batch: counters ─> REQUESTS of one kind, one client ─> counters ─> difference / REQUESTS
//! ```
//! The smallest of [`BATCHES`] batches counts. Work that does not belong to a request (a heartbeat,
//! a new segment, a table that grows) can only add to a batch, so the smallest one has least of it,
//! on a busy machine too. One client sends one request at a time, so no group commit serves two
//! requests by luck, and each process has one runtime thread, so the counts do not depend on the
//! number of cores.

mod bounds;
mod counters;
mod strace;

use cstore_integration_tests::cluster::{Builder, Cluster};
use cstore_integration_tests::http::Client;
use cstore_integration_tests::tools;
use cstore_testkit::random;

use crate::PROGRAM;
use bounds::{Seen, WORKS};
use counters::Counters;
use strace::Strace;

/// Requests of one batch: enough that a heartbeat between them is a small share of each count.
const REQUESTS: usize = 100;
/// Batches of each kind of request whose counters are read.
const BATCHES: usize = 8;
/// Batches of each kind of request that strace follows. It slows the program, so they are fewer.
const TRACED: usize = 3;

/// Methods and sizes of [`WORKS`]. Each GET reads what the PUT of its size before it wrote.
const SHAPES: [(&str, usize); WORKS.len()] = [
    ("PUT", 4 << 10),
    ("GET", 4 << 10),
    ("PUT", 100 << 10),
    ("GET", 100 << 10),
];

/// Sends the requests of one batch.
fn send(client: &mut Client, batch: usize, (method, size): (&str, usize)) {
    for n in 0..REQUESTS {
        let path = format!("/api/files/{size:06}-{batch:03}-{n:04}");
        let seed = (size * 1_000_000 + batch * 1_000 + n) as u64;
        let body = if method == "PUT" {
            random(size, seed)
        } else {
            Vec::new()
        };
        let answer = client.call(method, &path, "", &body).unwrap();

        let is_good = if method == "PUT" {
            answer.status == 201
        } else {
            answer.status == 200 && answer.body == random(size, seed)
        };
        assert!(is_good, "{method} {path}: {}", answer.status);
    }
}

/// Counts syncs and allocations of all kinds of requests.
fn count(cluster: &Cluster, counters: &Counters, client: &mut Client, seen: &mut Seen) {
    for batch in 1..=BATCHES {
        for (work, shape) in SHAPES.into_iter().enumerate() {
            let before = counters.read(cluster);
            send(client, batch, shape);
            let after = counters.read(cluster);
            for ((kind, after), (_, before)) in after.into_iter().zip(before) {
                seen.add(work, kind, (after - before) / REQUESTS as f64);
            }
        }
    }
}

/// Counts system calls of all kinds of requests, or prints `SKIP` with the reason.
fn trace(cluster: &Cluster, client: &mut Client, seen: &mut Seen) {
    const WHAT: &str = "system calls per request";
    let Some(program) = tools::find_or_skip("strace", WHAT) else {
        return;
    };
    for batch in BATCHES + 1..=BATCHES + TRACED {
        for (work, shape) in SHAPES.into_iter().enumerate() {
            let strace = match Strace::attach(&program, &cluster.pids()) {
                Ok(strace) => strace,
                Err(reason) => return tools::skip(WHAT, &reason),
            };
            send(client, batch, shape);
            for (kind, calls) in strace.finish() {
                seen.add(work, kind, calls / REQUESTS as f64);
            }
        }
    }
}

/// Checks the counts of one set-up against its table of bounds.
fn check(setup: &str, builder: Builder, roles: &[&str], bounds: &[bounds::Row]) {
    let counters = Counters::new();
    let cluster = counters
        .serve(builder, roles)
        .env("TOKIO_WORKER_THREADS", "1")
        .env("CSTORE_HEARTBEAT_MS", "5000")
        .env("FS_SIZE", "1GiB")
        .start();
    let mut client = Client::connect(&cluster.gateway).unwrap();
    // First requests open connections and fill caches.
    for shape in SHAPES {
        send(&mut client, 0, shape);
    }

    let mut seen = Seen::default();
    count(&cluster, &counters, &mut client, &mut seen);
    trace(&cluster, &mut client, &mut seen);

    println!("{setup}: counts per request\n{seen}");
    let broken = seen.check(bounds);
    assert!(broken.is_empty(), "{setup}: {}", broken.join("\n"));
}

#[test]
fn requests_to_one_process_cost_no_more_than_their_bounds() {
    let dev = Cluster::builder(PROGRAM).dev();
    check("dev", dev, &["dev"], bounds::DEV);
}

#[test]
fn requests_to_four_processes_cost_no_more_than_their_bounds() {
    let four = Cluster::one_of_each(PROGRAM);
    let roles = ["gateway", "master", "storage-1", "worker-1"];
    check("four processes", four, &roles, bounds::FOUR);
}
