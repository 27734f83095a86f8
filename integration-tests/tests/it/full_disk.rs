//! I7 and the disk's own settings, on a small disk.

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;

#[test]
fn i7_a_full_disk_of_64_byte_blocks_refuses_and_goes_on_and_takes_larger_blocks_later() {
    let mut cluster = Cluster::one_of_each(PROGRAM)
        .env("BLOCK_SIZE", "64")
        .env("FS_SIZE", "6291456")
        .start();
    let tree = random(500_000, 1);
    assert_eq!(cluster.ask("PUT", "/api/files/tree", &tree).status, 201);
    let full = cluster.ask("PUT", "/api/files/large", &random(12 << 20, 2));
    assert_eq!(full.status, 507, "{}", full.text());
    assert!(
        cluster.ask("GET", "/api/files/tree", b"").body == tree,
        "reads go on"
    );
    assert_eq!(
        cluster.ask("GET", "/api/files/large", b"").status,
        404,
        "nothing of the refused file is visible"
    );
    until_blocking("room again", || {
        let put = cluster.ask(
            "PUT",
            "/api/files/small?overwrite=true",
            &random(100_000, 3),
        );
        (put.status < 300).then_some(())
    });
    assert_eq!(
        cluster.ask("DELETE", "/api/files/small", b"").status,
        204,
        "deletes go on"
    );

    cluster.set_env("BLOCK_SIZE", "65536");
    for role in ["master", "storage-1"] {
        assert!(cluster.stop(role).success());
        cluster.launch(role);
    }
    cluster.wait_ready();
    let got = cluster.fetch("/api/files/tree");
    assert!(
        got.body == tree,
        "status {}, {} bytes: {:.200}",
        got.status,
        got.body.len(),
        got.text()
    );
    // Streamed: a smaller one may use a ticket that the gateway has from before the restart.
    let body = random((1 << 20) + 1, 4);
    // The space of what was deleted and refused comes back with heartbeats.
    let put = until_blocking("an upload of larger blocks", || {
        Some(cluster.ask("PUT", "/api/files/larger-blocks", &body)).filter(|put| put.status == 201)
    });
    assert_eq!(
        (put.status, put.json()["blocks"].as_u64()),
        (201, Some(17)),
        "{}",
        put.text()
    );
    assert!(cluster.fetch("/api/files/larger-blocks").body == body);
    cluster.audit(&[]);
}

#[test]
fn i7_a_disk_that_was_filled_ten_times_takes_files_after_each_delete() {
    let cluster = Cluster::one_of_each(PROGRAM).env("FS_SIZE", "8MiB").start();
    for round in 0..10u64 {
        let mut stored = Vec::new();
        for n in 0..64 {
            let body = random(512 << 10, round * 100 + n);
            let put = cluster.ask("PUT", &format!("/api/files/fill/{n}"), &body);
            if put.status != 201 {
                assert_eq!(put.status, 507, "{}", put.text());
                break;
            }
            stored.push(body);
        }
        assert!(
            stored.len() >= 6,
            "round {round} stored {} files of 512 KiB on 8 MiB",
            stored.len()
        );
        for (n, body) in stored.iter().enumerate() {
            let path = format!("/api/files/fill/{n}");
            assert!(
                cluster.ask("GET", &path, b"").body == *body,
                "round {round} file {n}"
            );
            assert_eq!(cluster.ask("DELETE", &path, b"").status, 204);
        }
        until_blocking("space back", || {
            let stats = cluster.ask("GET", "/api/stats", b"").json();
            (stats["physical_bytes"] == 0 && stats["pending_releases"] == 0).then_some(())
        });
    }
}

#[test]
fn fresh_start_on_a_disk_with_files_refuses_and_says_how_to_mean_it() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let body = random(10_000, 1);
    assert_eq!(cluster.ask("PUT", "/api/files/kept", &body).status, 201);
    assert!(cluster.stop("storage-1").success());
    let output = cluster
        .command("storage-1")
        .env("FRESH_START", "TRUE")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("CSTORE_FRESH_START_ERASE="),
        "{said}"
    );
    cluster.launch("storage-1");
    cluster.wait_ready();
    assert!(cluster.fetch("/api/files/kept").body == body);
}

#[test]
fn i8_a_damaged_block_is_never_served() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let body = random(300_000, 1);
    assert_eq!(cluster.ask("PUT", "/api/files/rot", &body).status, 201);
    assert!(cluster.stop("storage-1").success());
    let segments = cluster.dir().join("storage-1/segments");
    let needle = &body[200_000..200_064];
    for entry in std::fs::read_dir(segments).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(64).position(|window| window == needle) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    cluster.launch("storage-1");
    until_blocking("the storage node", || {
        let nodes = cluster.ask("GET", "/api/cluster", b"").text();
        (!nodes.contains("not_ready") && !nodes.contains("lost")).then_some(())
    });
    // A download that is cut off is an error of the connection, which until_blocking() sees as no
    // answer: so ask for one block.
    let damaged = until_blocking("the damaged block's answer", || {
        let mut client = Client::connect(&cluster.gateway).ok()?;
        let range = "range: bytes=200000-200063\r\n";
        client
            .call("GET", "/api/files/rot", range, b"")
            .ok()
            .filter(|answer| answer.status != 503)
    });
    assert_eq!(damaged.status, 500, "{}", damaged.text());
    if let Ok(whole) = cluster.call("GET", "/api/files/rot", b"") {
        assert!(
            whole.status >= 500,
            "status {} with {} bytes",
            whole.status,
            whole.body.len()
        );
    }
    // The next upload of the same bytes heals the file.
    cluster.wait_ready();
    let healed = until_blocking("an upload", || {
        Some(cluster.ask("PUT", "/api/files/heal", &body)).filter(|put| put.status != 503)
    });
    assert_eq!(healed.json()["new_blocks"], 1);
    assert!(cluster.fetch("/api/files/rot").body == body);
    cluster.audit(&["stored block is damaged", "code=data_loss"]);
}
