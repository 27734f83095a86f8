//! Membership: who takes work, who is skipped, who comes back (I1, I2, I12).

use std::collections::BTreeMap;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;

/// Uploads, and how many of them each worker took.
fn put_many(cluster: &Cluster, base: &str, count: u64, size: usize) -> BTreeMap<String, u32> {
    let mut taken = BTreeMap::new();
    for n in 0..count {
        let put = cluster.ask("PUT", &format!("/api/files/{base}/{n}"), &random(size, n));
        assert_eq!(put.status, 201, "{base}/{n}: {}", put.text());
        *taken
            .entry(put.json()["node"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    taken
}

fn read_many(cluster: &Cluster, base: &str, count: u64, size: usize) {
    for n in 0..count {
        let got = cluster.ask("GET", &format!("/api/files/{base}/{n}"), b"");
        assert!(
            got.status == 200 && got.body == random(size, n),
            "{base}/{n}: {}",
            got.status
        );
    }
}

/// Stores something and answers which worker took it.
fn put_at(cluster: &Cluster, path: &str) -> serde_json::Value {
    cluster.ask("PUT", path, &random(100_000, 1)).json()["node"].clone()
}

/// A node as `/api/cluster` shows it.
fn node(cluster: &Cluster, id: &str) -> Option<serde_json::Value> {
    let seen = cluster.fetch("/api/cluster").json();
    seen["nodes"]
        .as_array()?
        .iter()
        .find(|node| node["node_id"] == id)
        .cloned()
}

fn await_state(cluster: &Cluster, id: &str, state: &str) -> serde_json::Value {
    until_blocking(&format!("{id} to be {state}"), || {
        node(cluster, id).filter(|node| node["state"] == state)
    })
}

#[test]
fn i12_uploads_take_turns_and_a_dead_worker_is_skipped_without_an_error() {
    let cluster = Cluster::builder(PROGRAM)
        .env("CSTORE_HEARTBEAT_MS", "1000")
        .start();
    // One of them may have been ready first, and has taken the gateway's first tickets then.
    for worker in ["worker-1", "worker-2"] {
        await_state(&cluster, worker, "ready");
    }
    until_blocking("uploads to take turns", || {
        let took = || put_at(&cluster, "/api/files/first?overwrite=true");
        (took() != took()).then_some(())
    });
    let taken = put_many(&cluster, "turns", 20, 100_000);
    assert!(
        taken["worker-1"].abs_diff(taken["worker-2"]) <= 2,
        "{taken:?}"
    );
    cluster.kill("worker-1");
    // Its lease lasts five seconds: all of this happens while the master still names it.
    let small = put_many(&cluster, "small", 40, 3_000);
    let large = put_many(&cluster, "large", 10, 300_000);
    assert_eq!(
        (small["worker-2"], large["worker-2"]),
        (40, 10),
        "{small:?} {large:?}"
    );
    read_many(&cluster, "turns", 20, 100_000);
    read_many(&cluster, "small", 40, 3_000);
    await_state(&cluster, "worker-1", "lost");
    cluster.launch("worker-1");
    await_state(&cluster, "worker-1", "ready");
    until_blocking("both to take uploads again", || {
        (put_at(&cluster, "/api/files/again?overwrite=true") == "worker-1").then_some(())
    });
    cluster.audit(&[]);
}

#[test]
fn i2_a_worker_that_dies_in_mid_upload_is_a_clean_error_that_may_be_tried_again() {
    let cluster = Cluster::builder(PROGRAM).workers(1).start();
    let body = random(3 << 20, 1);
    let mut client = Client::connect(&cluster.gateway).unwrap();
    client
        .head(
            "PUT",
            "/api/files/cut",
            &format!("content-length: {}\r\n", body.len()),
        )
        .unwrap();
    client.send(&body[..2 << 20]).unwrap();
    cluster.wait_uploads_in_flight(1);
    cluster.kill("worker-1");
    // The gateway may close as soon as it has answered.
    let _ = client.send(&body[2 << 20..]);
    let answer = client.answer(false).unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(
        answer.header("retry-after").is_some() && answer.text().contains("trace_id"),
        "{answer:?}"
    );
    cluster.launch("worker-1");
    cluster.wait_ready();
    assert_eq!(
        cluster.fetch("/api/files/cut").status,
        404,
        "no part of it is visible"
    );
    assert_eq!(cluster.ask("PUT", "/api/files/cut", &body).status, 201);
    assert!(cluster.fetch("/api/files/cut").body == body);
}

#[test]
fn i12_a_storage_node_whose_disk_was_replaced_takes_work_and_heals() {
    let cluster = Cluster::builder(PROGRAM).start();
    let body = random(2 << 20, 1);
    assert_eq!(cluster.ask("PUT", "/api/files/before", &body).status, 201);
    cluster.kill("storage-2");
    std::fs::remove_dir_all(cluster.dir().join("storage-2")).unwrap();
    cluster.launch("storage-2");
    cluster.replace_disk("storage-2");
    cluster.wait_ready();
    // An error, or a body that breaks off where a block is missing.
    let mut client = Client::connect(&cluster.gateway).unwrap();
    if let Ok(lost) = client.call("GET", "/api/files/before", "", b"") {
        assert!(
            lost.status >= 500 && lost.body != body,
            "a third of its blocks is gone: {}",
            lost.status
        );
    }
    // The same bytes again: what is gone is stored anew, the rest is still there.
    let again = cluster.ask("PUT", "/api/files/again", &body);
    assert_eq!(again.status, 201, "{}", again.text());
    let new = again.json()["new_blocks"].as_u64().unwrap();
    assert!((1..32).contains(&new), "{new} new blocks of 32");
    for name in ["before", "again"] {
        let got = cluster.fetch(&format!("/api/files/{name}"));
        assert!(got.body == body, "{name}: {}", got.status);
    }
}

#[test]
fn i12_nodes_show_their_state_fill_and_why_they_are_not_ready() {
    let cluster = Cluster::builder(PROGRAM).start();
    put_many(&cluster, "fill", 4, 500_000);
    let storage = until_blocking("a storage node that has filled", || {
        let seen = node(&cluster, "storage-1")?;
        (seen["physical_bytes"].as_u64()? > 0).then_some(seen)
    });
    let [capacity, free, physical, allocated] = [
        "capacity_bytes",
        "free_bytes",
        "physical_bytes",
        "allocated_bytes",
    ]
    .map(|field| storage[field].as_u64().unwrap());
    assert_eq!(capacity, 256 << 20, "{storage}");
    assert!(
        physical <= allocated && physical <= capacity - free,
        "{storage}"
    );
    cluster.kill("storage-2");
    let lost = await_state(&cluster, "storage-2", "lost");
    assert!(
        lost["last_seen"].as_str().unwrap().ends_with(" GMT"),
        "{lost}"
    );
    for worker in ["worker-1", "worker-2"] {
        let waits = await_state(&cluster, worker, "not_ready");
        assert!(
            waits["reason"].as_str().unwrap().contains("storage-2"),
            "{waits}"
        );
    }
    let refused = cluster.ask("PUT", "/api/files/refused", &random(500_000, 9));
    assert!(
        refused.status == 503 && refused.text().contains("storage-2"),
        "{}",
        refused.text()
    );
    cluster.launch("storage-2");
    cluster.wait_ready();
    for id in ["storage-2", "worker-1", "worker-2"] {
        let healed = await_state(&cluster, id, "ready");
        assert_eq!(
            healed["reason"].as_str().unwrap_or_default(),
            "",
            "{healed}"
        );
    }
}

#[test]
fn i12_a_worker_that_comes_first_waits_with_linear_back_off() {
    let cluster = Cluster::builder(PROGRAM).start();
    for role in cluster.roles() {
        cluster.kill(&role);
    }
    cluster.launch("worker-1");
    until_blocking("tries in vain", || {
        (cluster
            .log("worker-1")
            .matches("cannot register at the master yet")
            .count()
            >= 3)
            .then_some(())
    });
    for role in cluster
        .roles()
        .into_iter()
        .filter(|role| role != "worker-1")
    {
        cluster.launch(&role);
    }
    cluster.wait_ready();
    await_state(&cluster, "worker-1", "ready");
}
