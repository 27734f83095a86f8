//! The nodes: real roles as hosts of the simulation, each with a disk that outlives it.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cstore_log::{Disk, FaultyDisk};
use cstore_mesh::{Dial, LocalServers, RoleIo, RoleMetrics};
use cstore_node::admin::Readiness;
use cstore_node::clock::Clock;
use cstore_node::{ByteSize, HostPort, Shutdown};
use cstore_testkit::secret;
use cstore_types::{Chunking, NodeId, error_chain};
use turmoil::Sim;

use crate::book::Book;
use crate::io::{self, Resets};

pub(crate) const WORKERS: usize = 2;
pub(crate) const STORAGES: usize = 2;
pub(crate) const BLOCK: usize = 256;
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(200);
/// The master's own rule: a node that missed so many heartbeats is lost.
pub(crate) const LEASE: Duration = Duration::from_millis(1_000);
const RETRY_STEP: Duration = Duration::from_millis(50);
/// An upload that nobody ended is given up after this.
const TICKET_TTL: Duration = Duration::from_secs(20);
const MASTER_PORT: u16 = 4_100;
const WORKER_PORT: u16 = 5_000;
const STORAGE_PORT: u16 = 4_000;

/// The time of day of the simulated world: it moves with the simulation, from a fixed beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SimulatedClock;

impl Clock for SimulatedClock {
    fn now_ms(&self) -> i64 {
        const BEGIN_MS: i64 = 1_700_000_000_000;

        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        BEGIN_MS + i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX - BEGIN_MS)
    }
}

/// Names of all nodes, the master first.
pub(crate) fn nodes() -> Vec<String> {
    let workers = (1..=WORKERS).map(|n| format!("worker-{n}"));
    let storages = (1..=STORAGES).map(|n| format!("storage-{n}"));
    std::iter::once("master".to_owned())
        .chain(workers)
        .chain(storages)
        .collect()
}

/// A disk and how it comes back from crashes.
#[derive(Clone)]
struct Platter {
    disk: Rc<RefCell<FaultyDisk>>,
    seed: u64,
    lives: Rc<RefCell<u64>>,
}

impl Platter {
    fn new(seed: u64) -> Self {
        let disk = FaultyDisk::with_one_thread();
        Self {
            disk: Rc::new(RefCell::new(disk)),
            seed,
            lives: Rc::default(),
        }
    }

    /// The disk as the next life of its node sees it: after a kill, or after a power loss.
    fn next_life(&self) -> Arc<dyn Disk> {
        let mut lives = self.lives.borrow_mut();
        *lives += 1;
        let seed = self.seed.wrapping_add(*lives);
        let next = match seed % 2 {
            0 => self.disk.borrow().kill(),
            _ => self.disk.borrow().power_loss(seed),
        };
        *self.disk.borrow_mut() = next.clone();
        Arc::new(next)
    }
}

/// A role that ends by itself has met a state that it takes for broken.
fn ended(
    book: &Rc<RefCell<Book>>,
    node: &str,
    result: Result<(), impl std::error::Error + 'static>,
) -> turmoil::Result {
    let why = result.map_or_else(
        |error| error_chain(&error).to_string(),
        |()| "without an error".to_owned(),
    );
    book.borrow_mut().violated(format!("{node} ended: {why}"));
    Ok(())
}

/// Puts the master on the network and answers its address.
pub(crate) fn add_master(
    sim: &mut Sim<'_>,
    dir: PathBuf,
    seed: u64,
    book: &Rc<RefCell<Book>>,
) -> IpAddr {
    let (platter, book) = (Platter::new(seed), book.clone());
    sim.host("master", move || {
        let (dir, platter, book) = (dir.clone(), platter.clone(), book.clone());
        async move {
            // The index is what may be lost at any time; without it the next life replays the log.
            let _ = std::fs::remove_dir_all(dir.join("index"));
            let config = cstore_master::Config {
                tls: None,
                local: LocalServers::default(),
                dir,
                chunking: Chunking::fixed(BLOCK as u64)?,
                storage_nodes: STORAGES,
                heartbeat: HEARTBEAT,
                release_delay: Duration::ZERO,
                drain_timeout: Duration::from_secs(10),
                ticket_ttl: TICKET_TTL,
                snapshot_bytes: ByteSize::from_mib(64),
                reflection: false,
            };
            // The master calls nobody.
            let io = RoleIo {
                addr: format!("master:{MASTER_PORT}"),
                incoming: io::listen(MASTER_PORT).await?,
                dial: Dial::tcp(),
                dial_frames: Dial::tcp(),
            };
            let run = cstore_master::run_over(
                config,
                secret(),
                io,
                Some(cstore_master::Simulated {
                    log: platter.next_life(),
                    clock: Arc::new(SimulatedClock),
                }),
                Readiness::new(&[]),
                RoleMetrics::default(),
                Shutdown::new(),
            );
            ended(&book, "master", Box::pin(run).await)
        }
    });
    sim.lookup("master")
}

pub(crate) fn master_addr(master: IpAddr) -> HostPort {
    HostPort::new(master.to_string(), MASTER_PORT)
}

pub(crate) fn add_worker(
    sim: &mut Sim<'_>,
    n: usize,
    master: IpAddr,
    resets: &Resets,
    book: &Rc<RefCell<Book>>,
) {
    let (name, book, resets) = (format!("worker-{n}"), book.clone(), resets.clone());
    sim.host(name.clone(), move || {
        let (name, book, dial) = (name.clone(), book.clone(), resets.dial(&name));
        async move {
            let config = cstore_worker::Config {
                tls: None,
                local: LocalServers::default(),
                node: NodeId::new(name.as_str())?,
                master: master_addr(master),
                advertise_host: turmoil::lookup(name.as_str()).to_string(),
                retry_step: RETRY_STEP,
                drain_timeout: Duration::from_secs(10),
                memory_budget: ByteSize::from_mib(16),
                reflection: false,
            };
            let addr = format!("{}:{WORKER_PORT}", config.advertise_host);
            let incoming = io::listen(WORKER_PORT).await?;
            let io = RoleIo {
                addr,
                incoming,
                dial_frames: dial.clone(),
                dial,
            };
            let (readiness, metrics) = (Readiness::new(&[]), RoleMetrics::default());
            let run = cstore_worker::run_over(
                config,
                secret(),
                io,
                Arc::new(SimulatedClock),
                readiness,
                metrics,
                Shutdown::new(),
            );
            ended(&book, &name, Box::pin(run).await)
        }
    });
}

pub(crate) fn add_storage(
    sim: &mut Sim<'_>,
    n: usize,
    master: IpAddr,
    seed: u64,
    resets: &Resets,
    book: &Rc<RefCell<Book>>,
) {
    let (name, book, resets) = (format!("storage-{n}"), book.clone(), resets.clone());
    let platter = Platter::new(seed);
    sim.host(name.clone(), move || {
        let (name, book, platter, dial) = (
            name.clone(),
            book.clone(),
            platter.clone(),
            resets.dial(&name),
        );
        async move {
            let config = cstore_storage::Config {
                has_new_name: false,
                tls: None,
                local: LocalServers::default(),
                disk: PathBuf::from(&name),
                node: NodeId::new(name.as_str())?,
                master: master_addr(master),
                advertise_host: turmoil::lookup(name.as_str()).to_string(),
                failure_domain: String::new(),
                capacity: cstore_storage::MIN_FS_SIZE,
                is_capacity_default: false,
                block_size: ByteSize::new(BLOCK as u64),
                fresh_start: false,
                erase: None,
                retry_step: RETRY_STEP,
                drain_timeout: Duration::from_secs(10),
                max_connections: 64,
                open_files: 4,
            };
            let addr = format!("{}:{STORAGE_PORT}", config.advertise_host);
            let incoming = io::listen(STORAGE_PORT).await?;
            let io = RoleIo {
                addr,
                incoming,
                dial_frames: dial.clone(),
                dial,
            };
            let (readiness, metrics) = (Readiness::new(&[]), RoleMetrics::default());
            let disk = platter.next_life();
            let run = cstore_storage::run_over(
                config,
                secret(),
                io,
                disk,
                readiness,
                metrics,
                Shutdown::new(),
            );
            ended(&book, &name, Box::pin(run).await)
        }
    });
}
