//! A whole storage node against a master that is made up: heartbeats while releases are in work,
//! and how fast those go. Time is paused, so that intervals are exact; the disk is in memory.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;
use std::time::Duration;

use cstore_log::{Disk, Fault, FaultyDisk, Gate, HookedDisk, Verb};
use cstore_mesh::{Dial, LocalServers, RoleIo, RoleMetrics};
use cstore_node::admin::Readiness;
use cstore_node::shutdown::spawn;
use cstore_node::{ByteSize, HostPort, Shutdown};
use cstore_proto::v1;
use cstore_storage::engine::peek;
use cstore_storage::{Config, RunError};
use cstore_testkit::engine::{CAPACITY, identity, open, open_memory, store};
use cstore_testkit::fake::{FakeMaster, Reply};
use cstore_testkit::{INTERVAL, secret, session, until};
use cstore_types::{ErrorCode, SessionId};
use futures_util::{StreamExt, stream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

fn is_drained(master: &FakeMaster) -> bool {
    master.with(|state| state.releases.is_empty())
}

fn n_heartbeats(master: &FakeMaster) -> usize {
    master.count::<v1::HeartbeatRequest>()
}

fn heartbeats(master: &FakeMaster) -> Vec<(Instant, v1::HeartbeatRequest)> {
    master.timed_requests()
}

/// Returns the number of heartbeats that acknowledged a session.
fn n_acknowledged(master: &FakeMaster, session: SessionId) -> usize {
    let names = |request: &v1::HeartbeatRequest| {
        let report = request.storage.as_ref().unwrap();
        let mut released = report.released.iter();
        released.any(|raw| raw == &session.as_bytes()[..])
    };
    heartbeats(master)
        .iter()
        .filter(|(_, request)| names(request))
        .count()
}

/// Returns the longest time between two heartbeats.
fn longest_gap(master: &FakeMaster) -> Duration {
    let mut times: Vec<Instant> = heartbeats(master).iter().map(|(at, _)| *at).collect();
    times.push(Instant::now());
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default()
}

/// A running master, a disk, and the nodes that lived on it.
struct Setup {
    master: FakeMaster,
    disk: FaultyDisk,
    dial: Dial,
}

/// One life of a node.
struct Life {
    shutdown: Shutdown,
    ended: JoinHandle<Result<(), RunError>>,
}

impl Life {
    async fn stop(self) {
        self.shutdown.trigger();
        self.ended.await.unwrap().unwrap();
    }
}

impl Setup {
    /// A disk with one set of each session.
    async fn new(sessions: std::ops::Range<u64>) -> Self {
        let disk = FaultyDisk::new();
        let engine = open_memory(&disk, CAPACITY).unwrap();
        for n in sessions {
            store(&engine, n, 1_000).await.unwrap();
        }
        engine.close().unwrap();
        drop(engine);

        let master = FakeMaster::default();
        Self {
            dial: master.dial().await,
            master,
            disk,
        }
    }

    fn start(&self) -> Life {
        self.start_on(Arc::new(self.disk.kill()))
    }

    fn start_on(&self, disk: Arc<dyn Disk>) -> Life {
        let config = Config {
            has_new_name: false,
            disk: "memory".into(),
            node: identity().node,
            master: HostPort::new("127.0.0.1", 1),
            advertise_host: "127.0.0.1".to_owned(),
            failure_domain: String::new(),
            capacity: ByteSize::new(CAPACITY),
            is_capacity_default: false,
            block_size: ByteSize::new(64),
            fresh_start: false,
            erase: None,
            retry_step: Duration::from_millis(50),
            max_connections: 16,
            open_files: 4,
            drain_timeout: Duration::from_secs(1),
            tls: None,
            local: LocalServers::default(),
        };
        let io = RoleIo {
            addr: "127.0.0.1:2".to_owned(),
            incoming: stream::pending().boxed(),
            dial: self.dial.clone(),
            dial_frames: self.dial.clone(),
        };
        let shutdown = Shutdown::new();
        let run = cstore_storage::run_over(
            config,
            secret(),
            io,
            disk,
            Readiness::new(&[]),
            RoleMetrics::default(),
            shutdown.clone(),
        );
        Life {
            ended: spawn("storage", run),
            shutdown,
        }
    }

    fn release(&self, sessions: std::ops::Range<u64>) {
        let sessions = sessions.map(session);
        self.master.with(|state| state.releases.extend(sessions));
    }
}

#[tokio::test(start_paused = true)]
async fn i12_heartbeats_keep_their_interval_while_the_disk_holds_a_release_up() {
    let setup = Setup::new(0..1).await;
    let gate = Arc::new(Gate::default());
    let disk = HookedDisk::gated(setup.disk.kill(), &gate);
    let life = setup.start_on(disk);
    until("a first heartbeat", || n_heartbeats(&setup.master) > 0).await;

    gate.close(Verb::Sync);
    setup.release(0..1);
    let before = n_heartbeats(&setup.master);
    sleep(INTERVAL * 20).await;
    let heartbeats = n_heartbeats(&setup.master) - before;
    let gap = longest_gap(&setup.master);
    gate.open(Verb::Sync);
    assert!(heartbeats >= 19, "{heartbeats} heartbeats in 20 intervals");
    assert!(gap < INTERVAL * 2, "no heartbeat for {gap:?}");
    until("the release", || is_drained(&setup.master)).await;
    life.stop().await;
}

/// The report of a heartbeat must not wait for the disk.
#[tokio::test]
async fn i12_space_and_identity_can_be_read_while_the_superblock_is_written() {
    let faulty = FaultyDisk::new();
    let gate = Arc::new(Gate::default());
    let disk = HookedDisk::gated(faulty.clone(), &gate);
    let engine = open(disk, CAPACITY).unwrap();
    store(&engine, 0, 150_000).await.unwrap();
    engine.releaser().release(session(0)).await.unwrap();
    // The next segment is begun and gets no frame, so that nothing but the superblock can know the
    // highest sequence when the first segment is recycled: footer of the old segment, then the
    // frame; the header of the new one was written before, and the inventory is written after it.
    faulty.strike(Verb::Write, 2, Fault::Eio);
    assert!(store(&engine, 1, 150_000).await.is_err());

    gate.close(Verb::Sync);
    let retiring = engine.clone();
    let retired = std::thread::spawn(move || retiring.recycler().reclaim());
    let is_blocked = || gate.holds(Verb::Sync);
    let end = Instant::now() + Duration::from_secs(20);
    while !is_blocked() && Instant::now() < end {
        std::thread::yield_now();
    }
    assert!(is_blocked(), "nothing was synced");
    let (told, answer) = std::sync::mpsc::sync_channel(1);
    let asked = engine.clone();
    std::thread::spawn(move || told.send((asked.compactor().space(), asked.store())));
    let answer = answer.recv_timeout(Duration::from_secs(5));
    gate.open(Verb::Sync);
    assert!(answer.is_ok(), "the question waited for the disk");
    assert!(retired.join().unwrap() >= 1);
}

#[tokio::test(start_paused = true)]
async fn i3_a_full_batch_of_releases_is_followed_by_the_next_at_once() {
    let setup = Setup::new(0..0).await;
    setup.release(0..10_500);
    let life = setup.start();
    until("a first heartbeat", || n_heartbeats(&setup.master) > 0).await;
    sleep(INTERVAL / 2).await;
    let left = setup.master.with(|state| state.releases.len());
    assert!(
        left <= 500,
        "{left} of 10,500 releases wait for the next interval"
    );
    let early = n_heartbeats(&setup.master);
    assert!(early <= 12, "{early} heartbeats for eleven batches");
    sleep(INTERVAL * 2).await;
    assert!(
        is_drained(&setup.master),
        "the last batch is acknowledged at the tick"
    );
    sleep(INTERVAL * 10).await;
    let later = n_heartbeats(&setup.master) - early;
    assert!(
        (11..=13).contains(&later),
        "{later} heartbeats in twelve intervals without releases"
    );
    life.stop().await;
}

#[tokio::test(start_paused = true)]
async fn i11_a_release_is_told_until_the_master_has_answered_and_again_by_the_next_life() {
    let setup = Setup::new(0..2).await;
    setup.release(0..1);
    let life = setup.start();
    until("a first heartbeat", || n_heartbeats(&setup.master) > 0).await;
    setup
        .master
        .reply_to_all(Reply::refuse(ErrorCode::Internal, "away"));
    until("the release to be told twice", || {
        n_acknowledged(&setup.master, session(0)) >= 2
    })
    .await;
    life.stop().await;
    assert!(!is_drained(&setup.master));

    let told = n_acknowledged(&setup.master, session(0));
    setup.master.reply_to_all(Reply::Do);
    let life = setup.start();
    until("the master to be told", || is_drained(&setup.master)).await;
    sleep(INTERVAL * 3).await;
    assert_eq!(
        n_acknowledged(&setup.master, session(0)),
        told + 1,
        "once, when the master answers"
    );
    life.stop().await;
    let engine = open_memory(&setup.disk.kill(), CAPACITY).unwrap();
    assert_eq!(engine.holdings().sessions(), [session(1)]);
}

#[tokio::test(start_paused = true)]
async fn i4_nothing_is_released_while_the_master_suspects_the_disk() {
    let setup = Setup::new(0..1).await;
    setup.master.with(|state| state.is_suspect = true);
    setup.release(0..1);
    let life = setup.start();
    until("ten heartbeats", || n_heartbeats(&setup.master) > 10).await;
    assert_eq!(n_acknowledged(&setup.master, session(0)), 0);
    setup.master.with(|state| state.is_suspect = false);
    until("the release", || is_drained(&setup.master)).await;
    life.stop().await;
}

#[tokio::test(start_paused = true)]
async fn i8_a_node_verifies_what_an_accepted_doubt_has_left_unverified() {
    let setup = Setup::new(0..3).await;
    let disk = setup.disk.kill();
    disk.remove("inventory.bin").unwrap();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for doubt in engine.hold().doubts() {
        engine.hold().accept(doubt.number).unwrap();
    }
    engine.close().unwrap();
    drop(engine);

    let disk = disk.kill();
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let verify_below = || peek(&shared, "memory").unwrap().unwrap().verify_below;
    assert!(verify_below() > 0);
    let life = setup.start_on(shared.clone());
    until("every block is verified", || verify_below() == 0).await;
    life.stop().await;
}

/// A failed write ends the node, and its next start serves reads until the disk takes writes.
#[tokio::test(start_paused = true)]
async fn i12_a_node_whose_disk_failed_ends_serves_reads_and_writes_again_without_a_person() {
    let setup = Setup::new(0..3).await;
    let life = setup.start();
    until("a first heartbeat", || n_heartbeats(&setup.master) > 0).await;
    // The place in the master's history is on the disk: the next release goes into the log at once.
    setup.release(0..1);
    until("a release", || is_drained(&setup.master)).await;
    setup.disk.refuse_writes(true);
    setup.release(1..2);
    let ended = life.ended.await.unwrap();
    assert!(matches!(ended, Err(RunError::Disk(_))), "{ended:?}");

    let life = setup.start();
    let before = n_heartbeats(&setup.master);
    until("heartbeats of the next life", || {
        n_heartbeats(&setup.master) > before + 20
    })
    .await;
    assert!(
        !life.ended.is_finished(),
        "a start of a disk for reads lasts"
    );
    assert!(!is_drained(&setup.master), "nothing is released");

    setup.disk.refuse_writes(false);
    let ended = life.ended.await.unwrap();
    assert!(matches!(ended, Err(RunError::TakesWrites)), "{ended:?}");
    let life = setup.start();
    until("the release", || is_drained(&setup.master)).await;
    life.stop().await;
}
