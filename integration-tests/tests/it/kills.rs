//! I6, I12: kill -9 under load, in every role.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{random, seed, until_blocking};
use parking_lot::Mutex;

use crate::{PROGRAM, SEED};

/// Time after a restart in which as many uploads succeed as did before it, on an idle machine.
const RECOVERY: Duration = Duration::from_secs(10);
/// Part of the bound that grows with the load of the machine: a multiple of the time that the
/// uploads before the kill took.
const SLOWDOWN: u32 = 10;

/// Ten clients that upload through all faults; acknowledged and attempted files by name, with size
/// and seed.
struct Load<'a> {
    cluster: &'a Cluster,
    stop: AtomicBool,
    acked: Mutex<BTreeMap<String, (usize, u64)>>,
    tried: Mutex<BTreeMap<String, (usize, u64)>>,
}

/// Stops the clients, also when the test fails between them.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<'a> Load<'a> {
    fn on(cluster: &'a Cluster) -> Self {
        Self {
            cluster,
            stop: AtomicBool::new(false),
            acked: Mutex::default(),
            tried: Mutex::default(),
        }
    }

    fn client(&self, client: u64, round: u64, seed: u64) {
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let content = seed + client * 10_000_000 + round * 100_000 + n;
            let size = [3_000, 200_000, 1_500_000][(content % 3) as usize];
            let name = format!("kill/{round}/{client}/{n}");
            self.tried.lock().insert(name.clone(), (size, content));
            let body = random(size, content);
            if self
                .cluster
                .call("PUT", &format!("/api/files/{name}"), &body)
                .is_ok_and(|a| a.status == 201)
            {
                self.acked.lock().insert(name, (size, content));
            }
        }
    }

    fn await_more(&self, count: usize) {
        let enough = self.acked.lock().len() + count;
        until_blocking(&format!("{count} more acknowledged uploads"), || {
            (self.acked.lock().len() >= enough).then_some(())
        });
    }

    /// Kills `role` under ten uploads and starts it again while the clients go on.
    fn kill(&self, role: &str, round: u64, seed: u64) {
        self.stop.store(false, Ordering::Relaxed);
        let (before, recovery) = std::thread::scope(|scope| {
            let _stop = Stop(&self.stop);
            for client in 0..10 {
                scope.spawn(move || self.client(client, round, seed));
            }
            let begun = Instant::now();
            self.await_more(10);
            let before = begun.elapsed();
            self.cluster.kill(role);
            let restarted = Instant::now();
            self.cluster.launch(role);
            // Ten answers may still have been on their way when it died.
            self.await_more(11);
            (before, restarted.elapsed())
        });
        let (acked, tried) = (self.acked.lock().len(), self.tried.lock().len());
        println!(
            "{role}: writes again within {recovery:?}; so far {acked} of {tried} acknowledged"
        );
        let bound = RECOVERY + before * SLOWDOWN;
        assert!(
            recovery < bound,
            "{role}: i12 writes came back after {recovery:?}, {before:?} before"
        );
        self.cluster.wait_ready();
    }

    /// Every acknowledged file is there and equal; every visible one is what its client was
    /// sending, whole.
    fn check(&self, prefix: &str) {
        let (acked, tried) = (self.acked.lock(), self.tried.lock());
        let mut visible = BTreeSet::new();
        let mut token = String::new();
        loop {
            let path = format!("/api/files?prefix={prefix}&page_token={token}");
            let page = self.cluster.fetch(&path).json();
            for file in page["files"].as_array().unwrap() {
                let name = file["name"].as_str().unwrap();
                let (size, content) = tried[name];
                let got = self.cluster.fetch(&format!("/api/files/{name}"));
                assert_eq!(got.status, 200, "visible {name}");
                assert!(
                    got.body == random(size, content),
                    "visible {name} is not what its client sent"
                );
                visible.insert(name.to_owned());
            }
            token = page["next_page_token"].as_str().unwrap().to_owned();
            if token.is_empty() {
                break;
            }
        }
        for name in acked.keys().filter(|name| name.starts_with(prefix)) {
            assert!(visible.contains(name), "acknowledged {name} is gone");
        }
    }
}

#[test]
fn i6_i12_kill_of_each_role_under_load_loses_nothing_acknowledged() {
    let seed = seed(SEED);
    let cluster = Cluster::builder(PROGRAM).env("FS_SIZE", "2GiB").start();
    let load = Load::on(&cluster);
    let roles = ["storage-1", "master", "worker-1", "gateway", "storage-3"];
    for (round, role) in (0..).zip(roles.iter().cycle().take(5 * roles.len())) {
        load.kill(role, round, seed);
        load.check(&format!("kill/{round}/"));
    }
    load.check("kill/");
    cluster.audit(&[]);
}

#[test]
fn i6_i12_kill_of_the_one_process_under_load_loses_nothing_acknowledged() {
    let seed = seed(SEED);
    let cluster = Cluster::builder(PROGRAM)
        .dev()
        .env("FS_SIZE", "2GiB")
        .start();
    let load = Load::on(&cluster);
    for round in 0..8 {
        load.kill("dev", round, seed);
        load.check(&format!("kill/{round}/"));
    }
    load.check("kill/");
    cluster.audit(&[]);
}

#[test]
fn i12_an_upload_in_flight_survives_a_restart_of_the_master() {
    let cluster = Cluster::builder(PROGRAM).start();
    let body = random(3 << 20, 5);
    let mut client = Client::connect(&cluster.gateway).unwrap();
    client
        .head(
            "PUT",
            "/api/files/slow",
            &format!("content-length: {}\r\n", body.len()),
        )
        .unwrap();
    client.send(&body[..2 << 20]).unwrap();
    cluster.wait_uploads_in_flight(1);
    cluster.restart("master");
    client.send(&body[2 << 20..]).unwrap();
    let answer = client.answer(false).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    cluster.wait_ready();
    assert!(cluster.fetch("/api/files/slow").body == body);
}

#[test]
fn i12_parts_may_start_in_any_order() {
    let cluster = Cluster::builder(PROGRAM).start();
    for role in cluster.roles() {
        cluster.kill(&role);
    }
    for role in [
        "gateway",
        "worker-2",
        "storage-2",
        "storage-3",
        "worker-1",
        "master",
        "storage-1",
    ] {
        cluster.launch(role);
    }
    cluster.wait_ready();
}

#[test]
fn a_stop_in_good_order_keeps_everything_and_ends_with_0() {
    let cluster = Cluster::builder(PROGRAM).start();
    let body = random(5 << 20, 3);
    assert_eq!(cluster.ask("PUT", "/api/files/kept", &body).status, 201);
    for role in [
        "gateway",
        "worker-1",
        "worker-2",
        "storage-1",
        "storage-2",
        "storage-3",
        "master",
    ] {
        assert!(
            cluster.stop(role).success(),
            "{role}: {}",
            cluster.log(role)
        );
    }
    for role in cluster.roles() {
        cluster.launch(&role);
    }
    cluster.wait_ready();
    assert!(cluster.fetch("/api/files/kept").body == body);
    cluster.audit(&[]);
}
