//! I6, I12: kill -9 under load, in every role.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::content::{random, seed};
use cstore_integration_tests::http::Client;
use cstore_integration_tests::wait::until;
use parking_lot::Mutex;

use crate::PROGRAM;

/// Ten clients upload until told to stop; acknowledged and attempted files by name with their seeds.
struct Load<'a> {
    cluster: &'a Cluster,
    stop: AtomicBool,
    acked: Mutex<BTreeMap<String, (usize, u64)>>,
    tried: Mutex<BTreeMap<String, (usize, u64)>>,
}

impl Load<'_> {
    fn client(&self, client: u64, round: u64, seed: u64) {
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let content = seed + client * 1_000_000 + round * 10_000 + n;
            let size = [3_000, 200_000, 1_500_000][(content % 3) as usize];
            let name = format!("kill/{round}/{client}/{n}");
            self.tried.lock().insert(name.clone(), (size, content));
            let body = random(size, content);
            if self.cluster.call("PUT", &format!("/api/files/{name}"), &body).is_ok_and(|a| a.status == 201) {
                self.acked.lock().insert(name, (size, content));
            }
        }
    }

    fn check(&self, round: u64) {
        for (name, (size, content)) in self.acked.lock().iter() {
            let got = self.cluster.fetch(&format!("/api/files/{name}"));
            assert!(
                got.status == 200 && got.body == random(*size, *content),
                "acknowledged {name}: {}",
                got.status
            );
        }
        let mut token = String::new();
        let (acked, tried) = (self.acked.lock(), self.tried.lock());
        loop {
            let page =
                self.cluster.fetch(&format!("/api/files?prefix=kill/{round}/&page_token={token}")).json();
            for file in page["files"].as_array().unwrap() {
                let name = file["name"].as_str().unwrap();
                if acked.contains_key(name) {
                    continue;
                }
                let (size, content) = tried[name];
                let got = self.cluster.fetch(&format!("/api/files/{name}"));
                assert!(
                    got.body == random(size, content),
                    "visible {name} is not what its client was sending"
                );
            }
            token = page["next_page_token"].as_str().unwrap().to_owned();
            if token.is_empty() {
                return;
            }
        }
    }
}

/// Kills `role` under ten uploads, starts it again, and compares everything.
fn kill_under_load(cluster: &mut Cluster, role: &str, round: u64, seed: u64) {
    let child = {
        let load =
            Load { cluster, stop: AtomicBool::new(false), acked: Mutex::default(), tried: Mutex::default() };
        std::thread::scope(|scope| {
            for client in 0..10 {
                let load = &load;
                scope.spawn(move || load.client(client, round, seed));
            }
            until("a few acknowledged uploads", Duration::from_secs(30), || {
                (load.acked.lock().len() >= 10).then_some(())
            });
            load.cluster.kill_now(role);
            load.stop.store(true, Ordering::Relaxed);
        });
        (load.acked.into_inner(), load.tried.into_inner())
    };
    cluster.kill(role);
    cluster.launch(role);
    let restarted = Instant::now();
    cluster.wait_ready();
    let recovery = restarted.elapsed();
    println!("{role}: {} of {} acknowledged, writes again after {recovery:?}", child.0.len(), child.1.len());
    assert!(recovery < Duration::from_secs(10), "{role}: i12 writes came back after {recovery:?}");
    Load { cluster, stop: AtomicBool::new(true), acked: child.0.into(), tried: child.1.into() }.check(round);
}

#[test]
fn i6_i12_kill_of_each_role_under_load_loses_nothing_acknowledged() {
    let seed = seed();
    println!("CSTORE_SEED={seed}");
    let mut cluster = Cluster::builder(PROGRAM).workers(1).storages(2).env("FS_SIZE", "1GiB").start();
    for (round, role) in
        ["storage-1", "master", "worker-1", "gateway", "storage-2", "master"].iter().enumerate()
    {
        kill_under_load(&mut cluster, role, round as u64, seed);
    }
    cluster.audit(&[]);
}

#[test]
fn i6_i12_kill_of_the_one_process_under_load_loses_nothing_acknowledged() {
    let seed = seed();
    println!("CSTORE_SEED={seed}");
    let mut cluster = Cluster::builder(PROGRAM).dev().env("FS_SIZE", "1GiB").start();
    for round in 0..3 {
        kill_under_load(&mut cluster, "dev", round, seed);
    }
    cluster.audit(&[]);
}

#[test]
fn i12_an_upload_in_flight_survives_a_restart_of_the_master() {
    let mut cluster = Cluster::builder(PROGRAM).start();
    let body = random(3 << 20, 5);
    let mut client = Client::connect(&cluster.gateway).unwrap();
    client.head("PUT", "/api/files/slow", &format!("content-length: {}\r\n", body.len())).unwrap();
    client.send(&body[..2 << 20]).unwrap();
    cluster.restart("master");
    client.send(&body[2 << 20..]).unwrap();
    let answer = client.answer(false).unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    cluster.wait_ready();
    assert!(cluster.fetch("/api/files/slow").body == body);
}

#[test]
fn i12_parts_may_start_in_any_order() {
    let mut cluster = Cluster::builder(PROGRAM).workers(2).storages(2).start();
    for role in cluster.roles() {
        cluster.kill(&role);
    }
    for role in ["gateway", "worker-2", "storage-2", "worker-1", "master", "storage-1"] {
        cluster.launch(role);
    }
    cluster.wait_ready();
}

#[test]
fn a_stop_in_good_order_keeps_everything_and_ends_with_0() {
    let mut cluster = Cluster::builder(PROGRAM).storages(2).start();
    let body = random(5 << 20, 3);
    assert_eq!(cluster.ask("PUT", "/api/files/kept", &body).status, 201);
    for role in ["gateway", "worker-1", "storage-1", "storage-2", "master"] {
        assert!(cluster.stop(role).success(), "{role}: {}", cluster.log(role));
    }
    for role in cluster.roles() {
        cluster.launch(&role);
    }
    cluster.wait_ready();
    assert!(cluster.fetch("/api/files/kept").body == body);
    cluster.audit(&[]);
}
