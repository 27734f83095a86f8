//! Use of space: a freed block is missing, a block may occur in any number of places, small blocks
//! are no files.

use cstore_integration_tests::cluster::Cluster;
use cstore_testkit::{PATIENCE, random, until_blocking};

use super::{number, stats};
use crate::PROGRAM;

/// Nothing is held, and nothing waits to be released.
fn is_empty(cluster: &Cluster) -> bool {
    let found = stats(cluster);
    number(&found, "pending_releases") == 0 && number(&found, "physical_bytes") == 0
}

#[test]
fn b06_what_was_freed_is_written_anew_and_nothing_is_taken_for_it() {
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("BLOCK_SIZE", "4096")
        .start();
    let (old, new) = (random(100_000, 1), random(100_000, 2));
    for round in 0..3 {
        assert_eq!(cluster.ask("PUT", "/api/files/old", &old).status, 201);
        assert_eq!(cluster.ask("DELETE", "/api/files/old", b"").status, 204);
        until_blocking("the space", || is_empty(&cluster).then_some(()));
        // In the room of the old blocks.
        assert_eq!(cluster.ask("PUT", "/api/files/new", &new).status, 201);
        let again = cluster.ask("PUT", "/api/files/again", &old);
        assert_eq!(
            number(&again.json(), "new_bytes"),
            old.len() as u64,
            "round {round}: nothing of it was here"
        );
        assert!(
            cluster.ask("GET", "/api/files/again", b"").body == old,
            "round {round}"
        );
        assert!(
            cluster.ask("GET", "/api/files/new", b"").body == new,
            "round {round}"
        );
        for name in ["new", "again"] {
            assert_eq!(
                cluster
                    .ask("DELETE", &format!("/api/files/{name}"), b"")
                    .status,
                204
            );
        }
        until_blocking("the space", || is_empty(&cluster).then_some(()));
    }
}

#[test]
fn b14_a_crash_neither_loses_the_index_nor_leaks_its_space() {
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("BLOCK_SIZE", "64")
        .start();
    let body = random(200_000, 14);
    assert_eq!(cluster.ask("PUT", "/api/files/kept", &body).status, 201);
    // Its blocks, and the leaves of its recipe with 1,024 of them each.
    let n = body.len().div_ceil(64);
    let settled = || {
        until_blocking("its blocks and nothing else in the statistics", || {
            let found = stats(&cluster);
            (number(&found, "blocks") == (n + n.div_ceil(1_024)) as u64)
                .then(|| number(&found, "unique_bytes"))
        })
    };
    let bytes = settled();
    for _ in 0..3 {
        cluster.restart("storage-1");
        cluster.wait_ready();
        assert!(cluster.ask("GET", "/api/files/kept", b"").body == body);
        let again = cluster.ask("PUT", "/api/files/again", &body);
        assert_eq!(
            number(&again.json(), "new_blocks"),
            0,
            "every block was found again"
        );
        assert_eq!(cluster.ask("DELETE", "/api/files/again", b"").status, 204);
    }
    assert_eq!(settled(), bytes);
}

#[test]
fn b15_small_blocks_are_no_crawl() {
    // 800 bytes a second took this half an hour. The bound is no measurement: `make bench`
    // measures.
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("BLOCK_SIZE", "64")
        .start();
    let begun = std::time::Instant::now();
    assert_eq!(
        cluster
            .ask("PUT", "/api/files/a", &random(1_500_000, 15))
            .status,
        201
    );
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn b16_blocks_are_no_files() {
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("BLOCK_SIZE", "64")
        .env("FS_SIZE", "64MiB")
        .start();
    let body = random(640_000, 16);
    assert_eq!(
        number(
            &cluster.ask("PUT", "/api/files/a", &body).json(),
            "new_blocks"
        ) / 10_000,
        1
    );
    let mut left = vec![cluster.dir().to_path_buf()];
    let (mut files, mut bytes) = (0, 0);
    while let Some(path) = left.pop() {
        let about = path.metadata().unwrap();
        if about.is_dir() {
            left.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            files += 1;
            bytes += about.len();
        }
    }
    assert!(files < 60, "{files} files for 10,000 blocks");
    assert!(bytes < 64 << 20, "{bytes} bytes for 640,000");
}

#[test]
fn b17_a_block_may_stand_in_any_number_of_places() {
    // A hard link a place ended at 65,000.
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("BLOCK_SIZE", "64")
        .start();
    let body = vec![7; 70_000 * 64];
    for name in ["a", "b"] {
        assert_eq!(
            cluster
                .ask("PUT", &format!("/api/files/{name}"), &body)
                .status,
            201
        );
    }
    let freed = cluster.ask("GET", "/api/files/a?explain=freed", b"").json();
    assert_eq!(number(&freed, "freed_bytes"), 0, "{freed}");
    assert_eq!(cluster.ask("DELETE", "/api/files/a", b"").status, 204);
    assert!(cluster.ask("GET", "/api/files/b", b"").body == body);
    assert_eq!(cluster.ask("DELETE", "/api/files/b", b"").status, 204);
    until_blocking("the space", || is_empty(&cluster).then_some(()));
}
