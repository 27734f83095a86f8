//! 50 clients at once, twice; every file read back; the second run stores no new block.

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{random, seed};

use crate::{PROGRAM, SEED};

#[test]
fn stress_fifty_clients_twice_every_file_read_back() {
    let seed = seed(SEED);
    let cluster = Cluster::builder(PROGRAM).start();
    let bodies: Vec<Vec<u8>> = (0..50).map(|n| random(100 << 10, seed + n)).collect();
    for round in 0..2u64 {
        let new: u64 = std::thread::scope(|scope| {
            let clients: Vec<_> = bodies
                .iter()
                .enumerate()
                .map(|(n, body)| {
                    let cluster = &cluster;
                    scope.spawn(move || {
                        let mut client = Client::connect(&cluster.gateway).unwrap();
                        let path = format!("/api/files/stress/{round}/{n}");
                        let put = client.call("PUT", &path, "", body).unwrap();
                        assert_eq!(put.status, 201, "{}", put.text());
                        let got = client.call("GET", &path, "", b"").unwrap();
                        assert!(
                            got.status == 200 && got.body == *body,
                            "{path} came back different"
                        );
                        put.json()["new_blocks"].as_u64().unwrap()
                    })
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .sum()
        });
        assert_eq!(
            new,
            if round == 0 { 100 } else { 0 },
            "new blocks of round {round}"
        );
    }
    let listed = cluster
        .ask("GET", "/api/files?prefix=stress/&limit=1000", b"")
        .json();
    assert_eq!(listed["files"].as_array().unwrap().len(), 100);
    cluster.audit(&[]);
}
