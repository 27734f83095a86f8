//! The walk: twenty clients upload and download while each role is killed in turn, each link is
//! cut, stalled and healed, and the master restarts twice (I1, I2, I6, I12).
//!
//! Every link between parts goes through a proxy of its own. After each step all that was
//! acknowledged is read back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_integration_tests::proxy::{HOST, Proxy, Weather};
use cstore_testkit::{random, seed, until_blocking};
use parking_lot::Mutex;

use crate::{PROGRAM, SEED};

const CLIENTS: u64 = 20;
/// Time after the healing in which as many requests succeed as did before the step, on an idle
/// machine.
const RECOVERY: Duration = Duration::from_secs(10);
/// Part of the bound that grows with the load of the machine: a multiple of the time that the
/// requests before the step took.
const SLOWDOWN: u32 = 10;
/// Requests that must succeed before a step strikes, and after it.
const AROUND: u64 = 60;

/// Fault of a step. It is undone at the step's end.
#[derive(Debug, Clone, Copy)]
enum Step {
    Kill(&'static str),
    Cut(&'static str),
    Stall(&'static str),
}

const STEPS: [Step; 16] = [
    Step::Kill("storage-1"),
    Step::Kill("worker-1"),
    Step::Kill("master"),
    Step::Kill("gateway"),
    Step::Cut("worker-2"),
    Step::Cut("storage-2"),
    Step::Cut("master"),
    Step::Stall("storage-3"),
    Step::Stall("worker-1"),
    Step::Stall("master"),
    Step::Kill("worker-2"),
    Step::Kill("storage-2"),
    Step::Kill("storage-3"),
    Step::Kill("master"),
    Step::Cut("worker-1"),
    Step::Cut("storage-1"),
];

struct Walk<'a> {
    cluster: &'a Cluster,
    seed: u64,
    stop: AtomicBool,
    /// Names and what was acknowledged under them: size and content.
    acked: Mutex<BTreeMap<String, (usize, u64)>>,
    succeeded: AtomicU64,
    wrong: Mutex<Vec<String>>,
    failed: Mutex<BTreeMap<String, u64>>,
}

impl Walk<'_> {
    fn client(&self, client: u64) {
        let mut connection = None;
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let content = self.seed + client * 1_000_000 + n;
            if n % 3 == 2 {
                self.read_one(&mut connection, content);
            } else {
                self.write_one(&mut connection, &format!("walk/{client}/{n}"), content);
            }
        }
    }

    fn write_one(&self, connection: &mut Option<Client>, name: &str, content: u64) {
        let size = [2_000, 40_000, 300_000][(content % 3) as usize];
        let body = random(size, content);
        if self.ask(connection, "PUT", name, &body) == Some((201, Vec::new())) {
            self.acked.lock().insert(name.to_owned(), (size, content));
        }
    }

    fn read_one(&self, connection: &mut Option<Client>, draw: u64) {
        let picked = {
            let acked = self.acked.lock();
            let at =
                usize::try_from(draw.wrapping_mul(2_654_435_761)).unwrap_or(0) % acked.len().max(1);
            acked
                .iter()
                .nth(at)
                .map(|(name, file)| (name.clone(), *file))
        };
        let Some((name, (size, content))) = picked else {
            return;
        };
        match self.ask(connection, "GET", &name, b"") {
            Some((200, body)) if body != random(size, content) => {
                self.wrong.lock().push(format!("{name}: other bytes"));
            }
            Some((404, _)) => self.wrong.lock().push(format!("{name}: gone")),
            _ => {}
        }
    }

    /// Sends one request; failures are counted by cause. Bodies of uploads' answers are not of
    /// interest.
    fn ask(
        &self,
        connection: &mut Option<Client>,
        method: &str,
        name: &str,
        body: &[u8],
    ) -> Option<(u16, Vec<u8>)> {
        let path = format!("/api/files/{name}");
        let client = match connection {
            Some(client) => client,
            None => match Client::connect(&self.cluster.gateway) {
                Ok(client) => connection.insert(client),
                Err(error) => {
                    self.fail(method, &format!("connect: {:?}", error.kind()));
                    std::thread::yield_now();
                    return None;
                }
            },
        };
        match client.call(method, &path, "", body) {
            Ok(answer) if answer.status < 300 => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                Some((
                    answer.status,
                    if method == "GET" {
                        answer.body
                    } else {
                        Vec::new()
                    },
                ))
            }
            Ok(answer) => {
                self.fail(
                    method,
                    &format!("{} {}", answer.status, answer.json()["error"]["code"]),
                );
                *connection = None;
                Some((answer.status, Vec::new()))
            }
            Err(error) => {
                self.fail(method, &format!("broke off: {:?}", error.kind()));
                *connection = None;
                None
            }
        }
    }

    fn fail(&self, method: &str, cause: &str) {
        *self
            .failed
            .lock()
            .entry(format!("{method} {cause}"))
            .or_default() += 1;
    }

    fn await_successes(&self, count: u64) {
        let enough = self.succeeded.load(Ordering::Relaxed) + count;
        until_blocking(&format!("{count} more successes"), || {
            (self.succeeded.load(Ordering::Relaxed) >= enough).then_some(())
        });
    }

    /// Strikes, heals, and checks how long after the healing requests succeed again.
    fn step(&self, step: Step, proxies: &BTreeMap<&str, Proxy>) {
        let begun = Instant::now();
        self.await_successes(AROUND);
        let before = begun.elapsed();
        match step {
            Step::Kill(role) => {
                self.cluster.kill(role);
                self.cluster.launch(role);
            }
            Step::Cut(role) | Step::Stall(role) => {
                let proxy = &proxies[role];
                let stalls = matches!(step, Step::Stall(_));
                proxy.set(if stalls {
                    Weather::Stalled
                } else {
                    Weather::Cut
                });
                until_blocking("the weather to strike", || (proxy.hits() > 2).then_some(()));
                proxy.set(Weather::Fair);
            }
        }
        let healed = Instant::now();
        self.await_successes(AROUND + CLIENTS);
        let recovery = healed.elapsed();
        println!(
            "{step:?}: requests succeed {recovery:.2?} after it healed, {before:.2?} before it"
        );
        assert!(
            recovery < RECOVERY + before * SLOWDOWN,
            "{step:?}: {recovery:?}, {before:?} before"
        );
        self.cluster.wait_ready();
    }

    fn check_all(&self) {
        for (name, (size, content)) in self.acked.lock().iter() {
            let got = self.cluster.fetch(&format!("/api/files/{name}"));
            assert!(
                got.status == 200 && got.body == random(*size, *content),
                "{name}: {}",
                got.status
            );
        }
    }
}

#[test]
fn i1_i12_twenty_clients_walk_through_every_fault_and_lose_nothing() {
    let seed = seed(SEED);
    let parts = [
        "worker-1",
        "worker-2",
        "storage-1",
        "storage-2",
        "storage-3",
    ];
    let mut builder = Cluster::builder(PROGRAM)
        .env("FS_SIZE", "2GiB")
        .env("CSTORE_HEARTBEAT_MS", "200");
    for part in parts {
        builder = builder.env_of(part, "CSTORE_ADVERTISE_HOST", HOST);
    }
    let mut cluster = builder.start_unready();
    let mut proxies: BTreeMap<&str, Proxy> = parts
        .iter()
        .map(|part| (*part, Proxy::before(&cluster.addr(part)).unwrap()))
        .collect();
    let master = Proxy::before(&cluster.master).unwrap();
    for role in cluster.roles().into_iter().filter(|role| role != "master") {
        cluster.set_env_of(&role, "CSTORE_MASTER_ADDR", &master.addr);
        cluster.restart(&role);
    }
    proxies.insert("master", master);
    cluster.wait_ready();
    let walk = Walk {
        cluster: &cluster,
        seed,
        stop: AtomicBool::new(false),
        acked: Mutex::default(),
        succeeded: AtomicU64::new(0),
        wrong: Mutex::default(),
        failed: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let stop = Stop(&walk.stop);
        for client in 0..CLIENTS {
            let walk = &walk;
            scope.spawn(move || walk.client(client));
        }
        for step in STEPS {
            walk.step(step, &proxies);
        }
        drop(stop);
    });
    walk.check_all();
    let (acked, succeeded) = (
        walk.acked.lock().len(),
        walk.succeeded.load(Ordering::Relaxed),
    );
    let failed: u64 = walk.failed.lock().values().sum();
    println!(
        "{succeeded} requests succeeded, {failed} failed, {acked} files acknowledged and read back equal"
    );
    for (cause, count) in walk.failed.lock().iter() {
        println!("  {count:>5}  {cause}");
    }
    assert!(
        proxies.values().all(|proxy| proxy.connections() > 0),
        "a link goes around its proxy"
    );
    let wrong = walk.wrong.lock();
    assert!(wrong.is_empty(), "{wrong:?}");
    cluster.audit(&[]);
}

/// Stops the clients, also when the test fails between them.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
