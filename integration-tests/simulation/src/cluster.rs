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
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::{LocalBoxFuture, try_join_all};
use rand::RngExt;
use rand::rngs::StdRng;
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

/// Distribution of the roles over the nodes of the simulated network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// A node for each role.
    Apart,
    /// One node with all roles, as `cstore dev` has them. Its network name is that of the master.
    OneProcess,
}

/// Node of the master.
const MASTER: &str = "master";

fn worker_name(n: usize) -> String {
    format!("worker-{n}")
}

fn storage_name(n: usize) -> String {
    format!("storage-{n}")
}

/// Returns the names of all nodes of the network, the master first.
pub(crate) fn nodes(setup: Setup) -> Vec<String> {
    let mut nodes = vec![MASTER.to_owned()];
    if setup == Setup::Apart {
        nodes.extend((1..=WORKERS).map(worker_name));
        nodes.extend((1..=STORAGES).map(storage_name));
    }
    nodes
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

/// Address of a role, and its dialler.
#[derive(Clone)]
struct Door {
    host: String,
    port: u16,
    dial: Dial,
    /// Servers of the process.
    local: LocalServers,
}

impl Door {
    /// Returns the door of a role on the simulated node `node`.
    fn of(node: &str, port: u16, resets: &Resets, local: &LocalServers) -> Self {
        Self {
            host: turmoil::lookup(node).to_string(),
            port,
            dial: resets.dial(node),
            local: local.clone(),
        }
    }

    async fn io(&self) -> std::io::Result<RoleIo> {
        let io = RoleIo {
            addr: format!("{}:{}", self.host, self.port),
            incoming: io::listen(self.port)
                .await?
                .map(|io| io.map(Into::into))
                .boxed(),
            dial_frames: self.dial.clone(),
            dial: self.dial.clone(),
        };
        Ok(io.within(self.local.clone()))
    }
}

/// Adds all nodes to the network. Returns the address of the master.
pub(crate) fn add(
    sim: &mut Sim<'_>,
    setup: Setup,
    dir: PathBuf,
    rng: &mut StdRng,
    resets: &Resets,
    book: &Rc<RefCell<Book>>,
) -> IpAddr {
    let log = Platter::new(rng.random());
    let disks: Vec<Platter> = (0..STORAGES).map(|_| Platter::new(rng.random())).collect();
    match setup {
        Setup::Apart => add_apart(sim, dir, &log, &disks, resets, book),
        Setup::OneProcess => add_process(sim, dir, log, disks, resets, book),
    }
    sim.lookup(MASTER)
}

/// Adds a node for each role.
fn add_apart(
    sim: &mut Sim<'_>,
    dir: PathBuf,
    log: &Platter,
    disks: &[Platter],
    resets: &Resets,
    book: &Rc<RefCell<Book>>,
) {
    let door = {
        let resets = resets.clone();
        move |node: &str, port| Door::of(node, port, &resets, &LocalServers::default())
    };
    let (own, log, to) = (book.clone(), log.clone(), door.clone());
    sim.host(MASTER, move || {
        let door = to(MASTER, MASTER_PORT);
        master(dir.clone(), log.clone(), door, own.clone())
    });
    for n in 1..=WORKERS {
        let (own, to) = (book.clone(), door.clone());
        sim.host(worker_name(n), move || {
            worker(n, to(&worker_name(n), WORKER_PORT), own.clone())
        });
    }
    for (n, disk) in (1..).zip(disks.iter().cloned()) {
        let (own, to) = (book.clone(), door.clone());
        sim.host(storage_name(n), move || {
            let door = to(&storage_name(n), STORAGE_PORT);
            storage(n, disk.clone(), door, own.clone())
        });
    }
}

/// Adds one node whose roles call each other without the network.
fn add_process(
    sim: &mut Sim<'_>,
    dir: PathBuf,
    log: Platter,
    disks: Vec<Platter>,
    resets: &Resets,
    book: &Rc<RefCell<Book>>,
) {
    let (resets, book) = (resets.clone(), book.clone());
    sim.host(MASTER, move || {
        // Each life of the process has its own list.
        let local = LocalServers::default();
        let door = |port| Door::of(MASTER, port, &resets, &local);
        let mut roles: Vec<LocalBoxFuture<'static, turmoil::Result>> = Vec::new();
        let of_master = master(dir.clone(), log.clone(), door(MASTER_PORT), book.clone());
        roles.push(of_master.boxed_local());
        for n in 1..=WORKERS {
            let port = WORKER_PORT + n as u16;
            roles.push(worker(n, door(port), book.clone()).boxed_local());
        }
        for (n, disk) in (1..).zip(&disks) {
            let port = STORAGE_PORT + n as u16;
            roles.push(storage(n, disk.clone(), door(port), book.clone()).boxed_local());
        }
        async move { try_join_all(roles).await.map(drop) }
    });
}

async fn master(
    dir: PathBuf,
    log: Platter,
    door: Door,
    book: Rc<RefCell<Book>>,
) -> turmoil::Result {
    // The index is what may be lost at any time; without it the next life replays the log.
    let _ = std::fs::remove_dir_all(dir.join("index"));
    let config = cstore_master::Config {
        tls: None,
        local: door.local.clone(),
        dir,
        chunking: Chunking::fixed(BLOCK as u64)?,
        storage_nodes: STORAGES,
        heartbeat: HEARTBEAT,
        release_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(10),
        ticket_ttl: TICKET_TTL,
        snapshot_bytes: ByteSize::from_mib(64),
        max_connections: 1_024,
        reflection: false,
    };
    let run = cstore_master::run_over(
        config,
        secret(),
        door.io().await?,
        Some(cstore_master::Simulated {
            log: log.next_life(),
            clock: Arc::new(SimulatedClock),
        }),
        Readiness::new(&[]),
        RoleMetrics::default(),
        Shutdown::new(),
    );
    ended(&book, MASTER, Box::pin(run).await)
}

pub(crate) fn master_addr(master: IpAddr) -> HostPort {
    HostPort::new(master.to_string(), MASTER_PORT)
}

async fn worker(n: usize, door: Door, book: Rc<RefCell<Book>>) -> turmoil::Result {
    let name = worker_name(n);
    let config = cstore_worker::Config {
        tls: None,
        local: door.local.clone(),
        node: NodeId::new(name.as_str())?,
        master: master_addr(turmoil::lookup(MASTER)),
        advertise_host: door.host.clone(),
        retry_step: RETRY_STEP,
        drain_timeout: Duration::from_secs(10),
        memory_budget: ByteSize::from_mib(16),
        max_connections: 1_024,
        reflection: false,
    };
    let run = cstore_worker::run_over(
        config,
        secret(),
        door.io().await?,
        Arc::new(SimulatedClock),
        Readiness::new(&[]),
        RoleMetrics::default(),
        Shutdown::new(),
    );
    ended(&book, &name, Box::pin(run).await)
}

async fn storage(n: usize, disk: Platter, door: Door, book: Rc<RefCell<Book>>) -> turmoil::Result {
    let name = storage_name(n);
    let config = cstore_storage::Config {
        has_new_name: false,
        tls: None,
        local: door.local.clone(),
        disk: PathBuf::from(&name),
        node: NodeId::new(name.as_str())?,
        master: master_addr(turmoil::lookup(MASTER)),
        advertise_host: door.host.clone(),
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
    let io = door.io().await?;
    let run = cstore_storage::run_over(
        config,
        secret(),
        io,
        disk.next_life(),
        Readiness::new(&[]),
        RoleMetrics::default(),
        Shutdown::new(),
    );
    ended(&book, &name, Box::pin(run).await)
}
