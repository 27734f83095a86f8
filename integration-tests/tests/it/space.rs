//! I3, I7: space returns from half-dead segments, through REST, on one storage node of 256 MiB.

use std::collections::BTreeMap;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;

/// Files by name: their size, and the seed of their bytes.
#[derive(Default)]
struct Store {
    files: BTreeMap<String, (usize, u64)>,
    next: u64,
}

impl Store {
    /// Uploads files of several sizes until one is refused; answers how many bytes were taken.
    fn fill(&mut self, cluster: &Cluster) -> usize {
        let mut taken = 0;
        loop {
            self.next += 1;
            let (size, seed) = (
                [300_000, 900_000, 2_500_000][(self.next % 3) as usize],
                self.next,
            );
            let name = format!("fill/{seed:05}");
            let put = cluster.ask("PUT", &format!("/api/files/{name}"), &random(size, seed));
            if put.status != 201 {
                assert_eq!(put.status, 507, "{}", put.text());
                return taken;
            }
            self.files.insert(name, (size, seed));
            taken += size;
        }
    }

    /// Deletes every second file and waits until the store has heard of it; answers how many bytes
    /// that were.
    fn thin(&mut self, cluster: &Cluster) -> usize {
        let names: Vec<String> = self.files.keys().step_by(2).cloned().collect();
        let mut freed = 0;
        for name in names {
            assert_eq!(
                cluster
                    .ask("DELETE", &format!("/api/files/{name}"), b"")
                    .status,
                204
            );
            freed += self.files.remove(&name).map_or(0, |(size, _)| size);
        }
        until_blocking("releases", || {
            let stats = cluster.ask("GET", "/api/stats", b"").json();
            (stats["pending_releases"] == 0).then_some(())
        });
        freed
    }

    fn check(&self, cluster: &Cluster) {
        for (name, (size, seed)) in &self.files {
            let got = cluster.fetch(&format!("/api/files/{name}"));
            assert!(
                got.body == random(*size, *seed),
                "{name}: {} and {} bytes",
                got.status,
                got.body.len()
            );
        }
    }
}

/// A counter or gauge of the storage node.
fn metric(cluster: &Cluster, name: &str) -> u64 {
    let mut client = Client::connect(&cluster.admin_addr("storage-1")).unwrap();
    let text = client.call("GET", "/metrics", "", b"").unwrap().text();
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn i3_filling_deleting_every_second_file_and_filling_again_works_five_times_on_256_mib() {
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("FS_SIZE", "256MiB")
        .start();
    let mut store = Store::default();
    let first = store.fill(&cluster);
    assert!(first > 200 << 20, "256 MiB took {first} bytes");
    for round in 0..5 {
        let freed = store.thin(&cluster);
        let taken = store.fill(&cluster);
        println!("round {round}: {first} bytes at first, {freed} freed, {taken} taken");
        assert!(
            taken * 10 >= freed * 9,
            "round {round}: {taken} taken after {freed} were freed"
        );
    }
    store.check(&cluster);
    assert!(metric(&cluster, "cstore_storage_compacted_files_total") > 0);
    let told = cluster.admin_command(&["gc", "--json", "--addr", &cluster.admin_addr("storage-1")]);
    let told: serde_json::Value = serde_json::from_str(told.trim()).unwrap();
    assert!(
        told["compacted_segments"].as_u64() > Some(0) && told["moved_bytes"].as_u64() > Some(0),
        "{told}"
    );
    let told = cluster.admin_command(&["gc", "--addr", &cluster.admin_addr("storage-1")]);
    assert!(
        told.contains("256 MiB") && told.contains("segments emptied by moving"),
        "{told}"
    );
    assert_eq!(metric(&cluster, "cstore_storage_pinned_files"), 0);
    assert_eq!(metric(&cluster, "cstore_storage_damaged_blocks_total"), 0);
    cluster.audit(&[]);
}

#[test]
fn i6_kill_in_the_middle_of_compaction_loses_nothing() {
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("FS_SIZE", "48MiB")
        .start();
    let mut store = Store::default();
    store.fill(&cluster);
    for round in 0..4 {
        let moved = metric(&cluster, "cstore_storage_moved_bytes_total");
        // The disk is nearly full: the background compacts as soon as the releases have arrived.
        let _freed = store.thin(&cluster);
        until_blocking("compaction", || {
            (metric(&cluster, "cstore_storage_moved_bytes_total") > moved).then_some(())
        });
        cluster.kill("storage-1");
        cluster.launch("storage-1");
        cluster.wait_ready();
        store.check(&cluster);
        assert!(store.fill(&cluster) > 0, "round {round}: no space returned");
    }
    store.check(&cluster);
    cluster.audit(&[]);
}
