//! A bad network between the parts: cut, stalled, losing answers, flipping bits (I8, I11, I12).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::proxy::{HOST, Proxy, Way, Weather};
use cstore_testkit::{PATIENCE, random, until_blocking};

use crate::PROGRAM;

/// A cluster whose worker reaches its storage node only through the proxy.
fn storage_behind_a_proxy() -> (Cluster, Proxy) {
    let advertised =
        Cluster::one_of_each(PROGRAM).env_of("storage-1", "CSTORE_ADVERTISE_HOST", HOST);
    let cluster = advertised.start_unready();
    let proxy = Proxy::before(&cluster.addr("storage-1")).unwrap();
    cluster.wait_ready();
    assert!(proxy.connections() > 0, "nothing goes through the proxy");
    (cluster, proxy)
}

/// A cluster whose worker reaches the master only through the proxy.
fn master_behind_a_proxy() -> (Cluster, Proxy) {
    let mut cluster = Cluster::one_of_each(PROGRAM).start();
    let proxy = Proxy::before(&cluster.master).unwrap();
    cluster.set_env_of("worker-1", "CSTORE_MASTER_ADDR", &proxy.addr);
    cluster.restart("worker-1");
    until_blocking("a connection through the proxy", || {
        (proxy.connections() > 0).then_some(())
    });
    cluster.wait_ready();
    (cluster, proxy)
}

#[test]
fn i1_i8_a_bit_that_flips_on_the_way_is_never_stored_nor_served() {
    let (cluster, proxy) = storage_behind_a_proxy();
    let body = random(900_000, 1);
    assert_eq!(cluster.ask("PUT", "/api/files/read", &body).status, 201);
    let mut struck = 0;
    for round in 0..10u64 {
        proxy.set(Weather::Flipped(Way::Back, 4_096));
        // Broken off, refused, or tried again by the worker until it was whole: never other bytes.
        if let Ok(got) = cluster.call("GET", "/api/files/read", b"") {
            assert!(
                got.status != 200 || got.body == body,
                "round {round}: damaged bytes were served"
            );
        }
        struck += proxy.hits();
        proxy.set(Weather::Flipped(Way::There, 4_096));
        let name = format!("/api/files/written/{round}");
        let sent = random(300_000, 10 + round);
        let put = cluster
            .call("PUT", &name, &sent)
            .map_or(0, |answer| answer.status);
        struck += proxy.hits();
        proxy.set(Weather::Fair);
        let got = cluster.fetch(&name);
        match put {
            201 => assert!(
                got.status == 200 && got.body == sent,
                "round {round}: acknowledged, not equal"
            ),
            _ => assert!(
                got.status == 404 || got.body == sent,
                "round {round}: {put}, then {}",
                got.status
            ),
        }
    }
    assert!(struck >= 20, "only {struck} pieces were changed");
    assert!(cluster.fetch("/api/files/read").body == body);
}

#[test]
fn i12_writes_come_back_when_a_cut_between_worker_and_storage_heals() {
    let (cluster, proxy) = storage_behind_a_proxy();
    let body = random(400_000, 2);
    assert_eq!(cluster.ask("PUT", "/api/files/before", &body).status, 201);
    std::thread::scope(|scope| {
        proxy.set(Weather::Cut);
        let put = scope.spawn(|| cluster.ask("PUT", "/api/files/during", &body));
        until_blocking("a try to connect", || (proxy.hits() > 0).then_some(()));
        proxy.set(Weather::Fair);
        let (healed, put) = (Instant::now(), put.join().unwrap());
        assert_eq!(put.status, 201, "it waits for the node: {}", put.text());
        assert!(healed.elapsed() < PATIENCE, "{:?}", healed.elapsed());
    });
    for name in ["before", "during"] {
        let got = cluster.fetch(&format!("/api/files/{name}"));
        assert!(
            got.body == body,
            "{name}: {} with {} bytes",
            got.status,
            got.body.len()
        );
    }
    cluster.audit(&[]);
}

#[test]
fn i12_what_a_stalled_network_held_back_goes_on_when_it_moves_again() {
    let (cluster, proxy) = storage_behind_a_proxy();
    let body = random(5 << 20, 3);
    assert_eq!(cluster.ask("PUT", "/api/files/down", &body).status, 201);
    std::thread::scope(|scope| {
        proxy.set(Weather::Stalled);
        let up = scope.spawn(|| {
            cluster
                .ask("PUT", "/api/files/up", &random(5 << 20, 4))
                .status
        });
        let down = scope.spawn(|| cluster.ask("GET", "/api/files/down", b"").body == body);
        until_blocking("bytes that wait", || (proxy.hits() > 0).then_some(()));
        // Names do not need the storage node.
        assert_eq!(cluster.ask("HEAD", "/api/files/down", b"").status, 200);
        proxy.set(Weather::Fair);
        assert_eq!(up.join().unwrap(), 201);
        assert!(down.join().unwrap(), "the download came back different");
    });
    assert!(cluster.fetch("/api/files/up").body == random(5 << 20, 4));
    cluster.audit(&[]);
}

#[test]
fn i11_an_upload_whose_commit_was_answered_into_the_void_is_one_success_and_one_file() {
    let (cluster, proxy) = master_behind_a_proxy();
    for (n, size) in [(1u64, 2_000), (2, 700_000)] {
        let (name, body) = (format!("/api/files/lost/{n}"), random(size, n));
        std::thread::scope(|scope| {
            proxy.set(Weather::Swallowed(Way::Back));
            let put = scope.spawn(|| cluster.ask("PUT", &name, &body));
            // The gateway asks the master directly: the name is there, and the worker does not know
            // it.
            until_blocking("the commit", || {
                (cluster.ask("HEAD", &name, b"").status == 200).then_some(())
            });
            until_blocking("an answer that is lost", || {
                (proxy.hits() > 0).then_some(())
            });
            proxy.set(Weather::Fair);
            let put = put.join().unwrap();
            assert_eq!(put.status, 201, "{name}: {}", put.text());
        });
        assert!(cluster.fetch(&name).body == body, "{name}");
    }
    let stats = until_blocking("all stats", || {
        let stats = cluster.ask("GET", "/api/stats", b"").json();
        (stats["pending_releases"] == 0 && stats["unique_bytes"] == 702_000).then_some(stats)
    });
    assert_eq!(stats["files"], 2, "{stats}");
    cluster.audit(&[]);
}

#[test]
fn i12_with_one_storage_node_down_files_on_the_others_are_read() {
    let cluster = Cluster::one_of_each(PROGRAM).storages(2).start();
    // Where a block goes follows from the secret of the cluster: of so many, each node has some.
    let bodies: Vec<Vec<u8>> = (0..40).map(|n| random(1_000, 50 + n)).collect();
    for (n, body) in bodies.iter().enumerate() {
        assert_eq!(
            cluster.ask("PUT", &format!("/api/files/{n}"), body).status,
            201
        );
    }
    cluster.kill("storage-2");
    until_blocking("a node that is lost", || {
        cluster
            .ask("GET", "/api/cluster", b"")
            .text()
            .contains("lost")
            .then_some(())
    });
    let (read, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (cluster, read, refused) = (&cluster, &read, &refused);
        for (n, body) in bodies.iter().enumerate() {
            scope.spawn(move || {
                let begun = Instant::now();
                let got = cluster.ask("GET", &format!("/api/files/{n}"), b"");
                match got.status {
                    200 => assert!(got.body == *body, "file {n} came back different"),
                    503 => assert!(
                        got.header("retry-after").is_some() && got.text().contains("storage-2")
                    ),
                    other => panic!("file {n}: {other} {}", got.text()),
                }
                assert!(
                    begun.elapsed() < PATIENCE,
                    "file {n} took {:?}",
                    begun.elapsed()
                );
                if got.status == 200 { read } else { refused }.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    let (read, refused) = (read.into_inner(), refused.into_inner());
    assert!(
        read > 0 && refused > 0,
        "{read} of the other node were read, {refused} of this one refused"
    );
}

#[test]
fn i12_a_worker_that_lost_sight_of_the_master_takes_work_again_when_it_sees_it() {
    let (cluster, proxy) = master_behind_a_proxy();
    assert_eq!(cluster.ask("PUT", "/api/files/seen", b"before").status, 201);
    proxy.set(Weather::Cut);
    until_blocking("a gateway that knows of it", || {
        (cluster.ask("GET", "/api/files/seen", b"").status == 503).then_some(())
    });
    assert!(
        cluster
            .ask("GET", "/api/cluster", b"")
            .text()
            .contains("lost")
    );
    let refused = cluster.ask("PUT", "/api/files/nobody", b"there");
    assert_eq!(
        (refused.status, refused.header("retry-after").is_some()),
        (503, true),
        "{}",
        refused.text()
    );
    proxy.set(Weather::Fair);
    let healed = Instant::now();
    cluster.wait_ready();
    assert!(healed.elapsed() < PATIENCE, "{:?}", healed.elapsed());
    cluster.audit(&[]);
}
