//! I10, I11: what is wrong gets a clear answer, and leaves nothing behind.

mod cases;
mod table;

use std::io::{Read, Write};
use std::net::TcpStream;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{PATIENCE, random, until_blocking};

use crate::PROGRAM;

#[test]
fn i10_wrong_requests_get_the_code_and_the_rule() {
    let cluster = Cluster::builder(PROGRAM).start();
    let long = "x".repeat(1_025);
    for (path, rule) in [
        ("/api/files/a%0Ab", "control characters"),
        ("/api/files/a/../b", "'.' or '..'"),
        ("/api/files/a//b", "empty segment"),
        ("/api/files/%FF", "UTF-8"),
        (&format!("/api/files/{long}"), "1024 bytes"),
    ] {
        let answer = cluster.ask("PUT", path, b"x");
        assert!(
            answer.status == 400 && answer.text().contains(rule),
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
        assert_eq!(answer.json()["error"]["code"], "invalid_argument");
    }
    assert_eq!(
        cluster.ask("GET", "/api/files/unknown", b"").json()["error"]["code"],
        "not_found"
    );
    assert_eq!(cluster.ask("DELETE", "/api/files/unknown", b"").status, 404);
    assert_eq!(cluster.ask("PUT", "/api/files/taken", b"1").status, 201);
    let taken = cluster.ask("PUT", "/api/files/taken", b"2");
    assert_eq!(
        (taken.status, taken.json()["error"]["code"].clone()),
        (409, "already_exists".into())
    );
    let mut client = Client::connect(&cluster.gateway).unwrap();
    let wrong = client
        .call(
            "PUT",
            "/api/files/md5",
            "content-md5: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
            b"body",
        )
        .unwrap();
    assert!(
        wrong.status == 400 && wrong.text().contains("MD5"),
        "{}",
        wrong.text()
    );
    assert_eq!(cluster.ask("GET", "/api/files/md5", b"").status, 404);
    cluster.audit(&[]);
}

#[test]
fn i2_i10_a_body_that_breaks_off_leaves_no_file_and_gives_its_space_back() {
    let cluster = Cluster::builder(PROGRAM).start();
    for size in [10_000usize, 5 << 20] {
        let body = random(size, 3);
        let mut client = Client::connect(&cluster.gateway).unwrap();
        client
            .head(
                "PUT",
                "/api/files/broken",
                &format!("content-length: {}\r\n", size * 2),
            )
            .unwrap();
        client.send(&body).unwrap();
        drop(client);
    }
    // The large one has been begun and given up. Before that, nothing would be stored either.
    until_blocking("an upload that failed", || {
        let failed = "cstore_worker_uploads_total{outcome=\"failed\"}";
        let failures = ["worker-1", "worker-2"].map(|worker| cluster.metric(worker, failed));
        (failures.iter().sum::<f64>() >= 1.0).then_some(())
    });
    until_blocking("space of broken uploads", || {
        let stats = cluster.ask("GET", "/api/stats", b"").json();
        (stats["physical_bytes"] == 0 && stats["pending_releases"] == 0 && stats["files"] == 0)
            .then_some(())
    });
    assert_eq!(cluster.ask("GET", "/api/files/broken", b"").status, 404);
    assert_eq!(
        cluster.ask("PUT", "/api/files/broken", b"whole now").status,
        201,
        "the name is not burnt"
    );
    cluster.audit(&[]);
}

#[test]
fn i10_garbage_on_every_port_is_refused_and_memory_stays_flat() {
    let cluster = Cluster::builder(PROGRAM).start();
    let storage = cluster.addr("storage-1");
    let greedy = [0x31u8, 0xff, 0xff, 0xff, 0xff];
    let hello_too_long = [0x03u8, 0xff, 0xff, 0xff, 0x7f];
    let noise = random(4_096, 9);
    for _ in 0..50 {
        for attack in [&greedy[..], &hello_too_long, &noise, &[0x30, 0, 0, 0, 0]] {
            for addr in [
                &storage,
                &cluster.master,
                &cluster.addr("worker-1"),
                &cluster.gateway,
            ] {
                let mut stream = TcpStream::connect(addr).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let _ = stream.write_all(attack);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut answer = Vec::new();
                let _ = stream.take(64 << 10).read_to_end(&mut answer);
            }
        }
    }
    let body = random(100_000, 1);
    assert_eq!(cluster.ask("PUT", "/api/files/after", &body).status, 201);
    assert!(cluster.ask("GET", "/api/files/after", b"").body == body);
    for role in cluster.roles() {
        let peak = cluster.peak_memory(&role);
        assert!(peak < 200 << 20, "{role} took {peak} bytes");
    }
    cluster.audit(&[]);
}
