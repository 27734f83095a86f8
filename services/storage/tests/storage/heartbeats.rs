//! A whole storage node against a master that is made up: heartbeats while releases are in work,
//! and how fast those go. Time is paused, so that intervals are exact; the disk is in memory.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cstore_log::{Disk, Fault, FaultyDisk, Gate, HookedDisk, Verb};
use cstore_mesh::{BoxIo, Dial, GrpcServer, MeshMetrics, RoleIo, RoleMetrics, ServerOptions};
use cstore_node::admin::Readiness;
use cstore_node::shutdown::spawn;
use cstore_node::{ByteSize, HostPort, Shutdown};
use cstore_proto::v1::cluster_server::{Cluster, ClusterServer};
use cstore_proto::{Verifier, v1};
use cstore_storage::Config;
use cstore_testkit::engine::{CAPACITY, identity, open, open_memory, store};
use cstore_testkit::{secret, session, until};
use cstore_types::SessionId;
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tonic::{Request, Response, Status};

const INTERVAL: Duration = Duration::from_secs(1);
/// Sessions that one answer of the real master names at most.
const MAX_RELEASES: usize = 1_000;

#[derive(Debug, Default)]
struct Seen {
    /// The release list.
    pending: BTreeSet<SessionId>,
    is_suspect: bool,
    /// Heartbeats are refused.
    is_away: bool,
    heartbeats: Vec<(Instant, v1::StorageReport)>,
}

#[derive(Debug, Clone, Default)]
struct FakeMaster(Arc<Mutex<Seen>>);

impl FakeMaster {
    fn is_drained(&self) -> bool {
        self.0.lock().pending.is_empty()
    }

    fn n_heartbeats(&self) -> usize {
        self.0.lock().heartbeats.len()
    }

    /// Heartbeats that acknowledged a session.
    fn n_acknowledged(&self, session: SessionId) -> usize {
        let names = |report: &v1::StorageReport| {
            report
                .released
                .iter()
                .any(|raw| raw == &session.as_bytes()[..])
        };
        self.0
            .lock()
            .heartbeats
            .iter()
            .filter(|(_, report)| names(report))
            .count()
    }

    /// The longest time between two heartbeats.
    fn longest_gap(&self) -> Duration {
        let seen = self.0.lock();
        let times: Vec<Instant> = seen
            .heartbeats
            .iter()
            .map(|(at, _)| *at)
            .chain([Instant::now()])
            .collect();
        times
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or_default()
    }
}

#[tonic::async_trait]
impl Cluster for FakeMaster {
    type WatchMapStream = Pin<Box<dyn Stream<Item = Result<v1::ClusterView, Status>> + Send>>;

    async fn register(
        &self,
        _: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let cluster_uuid = Bytes::copy_from_slice(identity().cluster.as_bytes());
        Ok(Response::new(v1::RegisterResponse {
            state: Some(v1::MasterState {
                cluster_uuid,
                ..v1::MasterState::default()
            }),
            dedup_key: Bytes::copy_from_slice(identity().key.as_bytes()),
            heartbeat_ms: u32::try_from(INTERVAL.as_millis()).unwrap(),
            ..v1::RegisterResponse::default()
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let report = request.into_inner().storage.unwrap();
        let mut seen = self.0.lock();
        seen.heartbeats.push((Instant::now(), report.clone()));
        if seen.is_away {
            return Err(Status::internal("told to fail"));
        }
        for raw in &report.released {
            seen.pending.remove(&SessionId::try_from(&raw[..]).unwrap());
        }
        let named = seen.pending.iter().take(MAX_RELEASES);
        Ok(Response::new(v1::HeartbeatResponse {
            releases: named
                .map(|session| Bytes::copy_from_slice(session.as_bytes()))
                .collect(),
            suspect: seen.is_suspect,
            ..v1::HeartbeatResponse::default()
        }))
    }

    async fn watch_map(
        &self,
        _: Request<v1::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// A running master, a disk, and the nodes that lived on it.
struct Setup {
    master: FakeMaster,
    disk: FaultyDisk,
    dial: Dial,
    _serving: JoinSet<()>,
}

/// One life of a node.
struct Life {
    shutdown: Shutdown,
    ended: JoinHandle<()>,
}

impl Life {
    async fn stop(self) {
        self.shutdown.trigger();
        self.ended.await.unwrap();
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
        let (accept, mut accepted) = mpsc::channel::<BoxIo>(4);
        let options = ServerOptions {
            drain: Duration::from_secs(10),
            role: "fake",
            verifier: Verifier::new(&secret()),
            reflection: false,
            metrics: MeshMetrics::default(),
        };
        let server = GrpcServer::new(options).await.unwrap();
        server.health().set_serving(true).await;
        let server = server.add_service(ClusterServer::new(master.clone()));
        let incoming = stream::poll_fn(move |cx| accepted.poll_recv(cx))
            .map(Ok)
            .boxed();
        let mut serving = JoinSet::new();
        serving.spawn(async move { server.serve_over(incoming, pending()).await.unwrap() });
        let dial = Dial::new(move |_| {
            let accept = accept.clone();
            Box::pin(async move {
                let (ours, theirs) = tokio::io::duplex(256 << 10);
                let gone = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
                accept.send(Box::new(theirs)).await.map_err(gone)?;
                Ok(Box::new(ours) as BoxIo)
            })
        });
        Self {
            master,
            disk,
            dial,
            _serving: serving,
        }
    }

    fn start(&self) -> Life {
        self.start_on(Arc::new(self.disk.kill()))
    }

    fn start_on(&self, disk: Arc<dyn Disk>) -> Life {
        let config = Config {
            disk: "memory".into(),
            node: identity().node,
            master: HostPort::new("127.0.0.1", 1),
            advertise_host: "127.0.0.1".to_owned(),
            failure_domain: String::new(),
            capacity: ByteSize::new(CAPACITY),
            block_size: ByteSize::new(64),
            fresh_start: false,
            erase: None,
            retry_step: Duration::from_millis(50),
            max_connections: 16,
            drain_timeout: Duration::from_secs(1),
            tls: None,
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
            ended: spawn("storage", async move { run.await.unwrap() }),
            shutdown,
        }
    }

    fn release(&self, sessions: std::ops::Range<u64>) {
        self.master.0.lock().pending.extend(sessions.map(session));
    }
}

#[tokio::test(start_paused = true)]
async fn i12_heartbeats_keep_their_interval_while_the_disk_holds_a_release_up() {
    let setup = Setup::new(0..1).await;
    let gate = Arc::new(Gate::default());
    let disk = HookedDisk::gated(setup.disk.kill(), &gate);
    let life = setup.start_on(disk);
    until("a first heartbeat", || setup.master.n_heartbeats() > 0).await;

    gate.close(Verb::Sync);
    setup.release(0..1);
    let before = setup.master.n_heartbeats();
    sleep(INTERVAL * 20).await;
    let heartbeats = setup.master.n_heartbeats() - before;
    let gap = setup.master.longest_gap();
    gate.open(Verb::Sync);
    assert!(heartbeats >= 19, "{heartbeats} heartbeats in 20 intervals");
    assert!(gap < INTERVAL * 2, "no heartbeat for {gap:?}");
    until("the release", || setup.master.is_drained()).await;
    life.stop().await;
}

/// What heartbeats report of a disk must not wait for the disk.
#[tokio::test]
async fn i12_space_and_identity_can_be_read_while_the_superblock_is_written() {
    let faulty = FaultyDisk::new();
    let gate = Arc::new(Gate::default());
    let disk = HookedDisk::gated(faulty.clone(), &gate);
    let engine = open(disk, CAPACITY).unwrap();
    store(&engine, 0, 150_000).await.unwrap();
    engine.release(session(0)).await.unwrap();
    // The next segment is begun and gets no frame, so that nothing but the superblock can know the
    // highest sequence when the first segment is recycled: header of the new segment, footer of the
    // old one, then the frame.
    faulty.strike(Verb::Write, 3, Fault::Eio);
    assert!(store(&engine, 1, 150_000).await.is_err());

    gate.close(Verb::Sync);
    let retiring = engine.clone();
    let retired = std::thread::spawn(move || retiring.reclaim());
    let is_blocked = || gate.holds(Verb::Sync);
    let end = Instant::now() + Duration::from_secs(20);
    while !is_blocked() && Instant::now() < end {
        std::thread::yield_now();
    }
    assert!(is_blocked(), "nothing was synced");
    let (told, answer) = std::sync::mpsc::sync_channel(1);
    let asked = engine.clone();
    std::thread::spawn(move || told.send((asked.space(), asked.store())));
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
    until("a first heartbeat", || setup.master.n_heartbeats() > 0).await;
    sleep(INTERVAL / 2).await;
    let left = setup.master.0.lock().pending.len();
    assert!(
        left <= 500,
        "{left} of 10,500 releases wait for the next interval"
    );
    let early = setup.master.n_heartbeats();
    assert!(early <= 12, "{early} heartbeats for eleven batches");
    sleep(INTERVAL * 2).await;
    assert!(
        setup.master.is_drained(),
        "the last batch is acknowledged at the tick"
    );
    sleep(INTERVAL * 10).await;
    let later = setup.master.n_heartbeats() - early;
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
    until("a first heartbeat", || setup.master.n_heartbeats() > 0).await;
    setup.master.0.lock().is_away = true;
    until("the release to be told twice", || {
        setup.master.n_acknowledged(session(0)) >= 2
    })
    .await;
    life.stop().await;
    assert!(!setup.master.is_drained());

    let told = setup.master.n_acknowledged(session(0));
    setup.master.0.lock().is_away = false;
    let life = setup.start();
    until("the master to be told", || setup.master.is_drained()).await;
    sleep(INTERVAL * 3).await;
    assert_eq!(
        setup.master.n_acknowledged(session(0)),
        told + 1,
        "once, when the master answers"
    );
    life.stop().await;
    let engine = open_memory(&setup.disk.kill(), CAPACITY).unwrap();
    assert_eq!(engine.sessions(), [session(1)]);
}

#[tokio::test(start_paused = true)]
async fn i4_nothing_is_released_while_the_master_suspects_the_disk() {
    let setup = Setup::new(0..1).await;
    setup.master.0.lock().is_suspect = true;
    setup.release(0..1);
    let life = setup.start();
    until("ten heartbeats", || setup.master.n_heartbeats() > 10).await;
    assert_eq!(setup.master.n_acknowledged(session(0)), 0);
    setup.master.0.lock().is_suspect = false;
    until("the release", || setup.master.is_drained()).await;
    life.stop().await;
}
