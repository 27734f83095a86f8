//! A removal frees what the store said that it would free.

use cstore_integration_tests::cluster::Cluster;
use cstore_testkit::{random, until_blocking};
use serde_json::Value;

use crate::PROGRAM;

const BLOCK: usize = 4_096;

fn explain(cluster: &Cluster, name: &str) -> Value {
    let answer = cluster.ask("GET", &format!("/api/files/{name}?explain=freed"), b"");
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    answer.json()
}

fn usage(cluster: &Cluster, prefix: &str) -> Value {
    cluster
        .ask("GET", &format!("/api/usage?prefix={prefix}"), b"")
        .json()
}

/// Waits until all releases have been carried out and the storage nodes hold `expected` bytes.
fn settled(cluster: &Cluster, expected: u64) {
    until_blocking(&format!("{expected} unique bytes"), || {
        let stats = cluster.ask("GET", "/api/stats", b"").json();
        (stats["pending_releases"] == 0 && stats["unique_bytes"] == expected).then_some(())
    });
}

#[test]
fn i4_what_a_removal_would_free_is_what_it_frees() {
    let cluster = Cluster::builder(PROGRAM)
        .env("BLOCK_SIZE", &BLOCK.to_string())
        .start();
    // 8 blocks of its own, 4 that two files have, 2 that stand twice in one file: a b b, b c, and a
    // copy of c.
    let (a, b, c) = (
        random(8 * BLOCK, 1),
        random(4 * BLOCK, 2),
        random(2 * BLOCK, 3),
    );
    let put = |name: &str, parts: &[&[u8]]| {
        assert_eq!(
            cluster
                .ask("PUT", &format!("/api/files/{name}"), &parts.concat())
                .status,
            201
        );
    };
    put("d/one", &[&a, &b, &b]);
    put("d/two", &[&b, &c]);
    put("three", &[&c, b"tail"]);
    assert_eq!(
        cluster
            .ask("POST", "/api/files/three:copy", br#"{"to":"four"}"#)
            .status,
        200
    );
    let block = BLOCK as u64;
    let whole = 14 * block + 4;
    settled(&cluster, whole);

    let numbers = |found: &Value| {
        ["unique_bytes", "shared_bytes", "freed_bytes", "blocks"]
            .map(|key| found[key].as_u64().unwrap())
    };
    let one = explain(&cluster, "d/one");
    assert_eq!(
        numbers(&one),
        [12 * block, 4 * block, 8 * block, 12],
        "{one}"
    );
    assert_eq!(one["size"], 16 * block);
    let two = explain(&cluster, "d/two");
    assert_eq!(numbers(&two), [6 * block, 6 * block, 0, 6], "{two}");
    let three = explain(&cluster, "three");
    assert_eq!(three["other_names"], 1);
    assert_eq!(
        numbers(&three),
        [2 * block + 4, 2 * block + 4, 0, 3],
        "{three}"
    );
    // Together the two hold everything of b.
    let folder = usage(&cluster, "d/");
    assert_eq!(
        numbers(&folder),
        [14 * block, 2 * block, 12 * block, 14],
        "{folder}"
    );
    assert_eq!(
        (&folder["files"], &folder["logical_bytes"]),
        (&2.into(), &(22 * block).into())
    );
    let all = usage(&cluster, "");
    assert_eq!(numbers(&all), [whole, 0, whole, 15], "{all}");
    assert_eq!(numbers(&usage(&cluster, "nothing")), [0; 4]);

    // And so it comes.
    let mut left = whole;
    for name in ["d/one", "d/two", "four", "three"] {
        left -= explain(&cluster, name)["freed_bytes"].as_u64().unwrap();
        assert_eq!(
            cluster
                .ask("DELETE", &format!("/api/files/{name}"), b"")
                .status,
            204
        );
        settled(&cluster, left);
    }
    assert_eq!(left, 0);
    cluster.audit(&[]);
}

#[test]
fn a_storage_node_that_is_away_makes_the_answer_wait_or_fail_and_never_wrong() {
    let cluster = Cluster::builder(PROGRAM).start();
    assert_eq!(
        cluster
            .ask("PUT", "/api/files/a", &random(5 << 20, 1))
            .status,
        201
    );
    let before = explain(&cluster, "a")["unique_bytes"].clone();
    cluster.kill("storage-2");
    let away = cluster.ask("GET", "/api/files/a?explain=freed", b"");
    assert_eq!(
        (away.status, away.json()["code"].clone()),
        (503, "unavailable".into()),
        "{}",
        away.text()
    );
    cluster.launch("storage-2");
    until_blocking("the storage node", || {
        let answer = cluster.ask("GET", "/api/files/a?explain=freed", b"");
        (answer.status == 200 && answer.json()["unique_bytes"] == before).then_some(())
    });
    cluster.audit(&[]);
}
