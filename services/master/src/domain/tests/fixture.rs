//! A master of tests: its rules, its store, its clock, and what must always hold of them.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use cstore_log::FaultyDisk;
use cstore_node::clock::Clock;
use cstore_node::metrics::CommitMetrics;
use cstore_proto::TicketClaims;
use cstore_types::epoch::SealPoint;
use cstore_types::{
    BlockId, ClusterSecret, FileName, MapVersion, NodeId, RootBuilder, SealSeq, SessionId,
    StoreUuid, Tenant, UserMetadata, WriteCondition,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::*;
use crate::store::keys::{FileRecord, SessionRecord};
use crate::store::{
    Change, MetaStore, Observer, Position, ReadOnlyMeta, SledMeta, SledOptions, Versioned,
    WriterState,
};

/// A clock that stands still until a test moves it.
#[derive(Debug)]
pub(super) struct FakeClock(AtomicI64);

impl FakeClock {
    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(millis(by), Ordering::Relaxed);
    }

    pub(super) fn jump(&self, by: Duration, is_ahead: bool) {
        let by = if is_ahead { millis(by) } else { -millis(by) };
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for FakeClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something that happens once, just before a read of the given key.
type Interruption = Box<dyn FnOnce() -> futures_util::future::BoxFuture<'static, ()> + Send>;

/// A store that can be interrupted: it suspends the caller before and after each operation, so that
/// a dropped future ends at each of these places, and it lets a test act between two reads of a
/// rule.
#[derive(Default)]
struct Interruptions {
    before_get: Mutex<Option<(Vec<u8>, Interruption)>>,
}

pub(super) struct SlowStore {
    inner: SledMeta,
    interruptions: Interruptions,
}

impl std::fmt::Debug for SlowStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl SlowStore {
    /// Runs `act` once, before the next read of `key`.
    pub(super) fn before_get(&self, key: Vec<u8>, act: Interruption) {
        *self.interruptions.before_get.lock() = Some((key, act));
    }
}

async fn suspend() {
    let mut suspended = false;
    std::future::poll_fn(move |context| {
        if std::mem::replace(&mut suspended, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[async_trait]
impl MetaStore for SlowStore {
    async fn commit(&self, batch: Batch) -> Result<Position, MetaError> {
        suspend().await;
        let result = self.inner.commit(batch).await;
        suspend().await;
        result
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Versioned>, MetaError> {
        suspend().await;
        let act = self
            .interruptions
            .before_get
            .lock()
            .take_if(|(struck, _)| struck == key);
        if let Some((_, act)) = act {
            act().await;
        }
        let result = self.inner.get(key).await;
        suspend().await;
        result
    }

    async fn scan_skipping(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        skip: Option<crate::store::SkipAfter>,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError> {
        suspend().await;
        self.inner.scan_skipping(prefix, after, limit, skip).await
    }

    fn position(&self) -> Position {
        self.inner.position()
    }

    fn head(&self) -> cstore_types::history::Point {
        self.inner.head()
    }

    fn history(&self) -> crate::store::History {
        self.inner.history()
    }

    fn contains(&self, point: &cstore_types::history::Point) -> bool {
        self.inner.contains(point)
    }

    fn link_at(&self, position: Position) -> Option<crate::store::Link> {
        self.inner.link_at(position)
    }

    fn frames(&self) -> u64 {
        self.inner.frames()
    }

    fn commit_metrics(&self) -> &CommitMetrics {
        self.inner.commit_metrics()
    }

    fn writer_state(&self) -> watch::Receiver<WriterState> {
        self.inner.writer_state()
    }

    async fn close(&self) -> Result<(), MetaError> {
        self.inner.close().await
    }
}

pub(super) const TTL: Duration = Duration::from_secs(3_600);
pub(super) const LEASE: Duration = Duration::from_secs(5);
pub(super) const RELEASE_DELAY: Duration = Duration::from_secs(60);

/// A master with two storage nodes and two workers, all ready.
pub(super) struct Fixture {
    pub(super) master: Master,
    pub(super) clock: Arc<FakeClock>,
    pub(super) store: Arc<SlowStore>,
    _dir: tempfile::TempDir,
}

pub(super) fn store_of(n: u8) -> StoreUuid {
    StoreUuid::from_bytes([n; 16])
}

pub(super) fn name(text: &str) -> FileName {
    FileName::new(text).unwrap()
}

pub(super) fn tenant() -> Tenant {
    Tenant::new("acme").unwrap()
}

pub(super) fn session(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

impl Fixture {
    pub(super) async fn new() -> Self {
        Self::on(Arc::new(FaultyDisk::with_one_thread())).await
    }

    /// A fixture whose metadata lie on `disk`.
    pub(super) async fn on(disk: Arc<dyn cstore_log::Disk>) -> Self {
        let fixture = Self::without_nodes(disk).await;
        for n in 1..=2 {
            fixture.register_storage(n, 0).await.unwrap();
            fixture.register_worker(n).await;
            fixture.beat_all(n);
        }
        fixture
    }

    /// A fixture that no node has registered at.
    pub(super) async fn without_nodes(disk: Arc<dyn cstore_log::Disk>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let derived = Arc::new(Derived::default());
        let options = SledOptions {
            cache_bytes: 1 << 20,
            file_bytes: 256 << 10,
            ..SledOptions::default()
        };
        let inner = SledMeta::open(dir.path(), disk, &options, derived.clone()).unwrap();
        let store = Arc::new(SlowStore {
            inner,
            interruptions: Interruptions::default(),
        });
        let clock = Arc::new(FakeClock(AtomicI64::new(1_700_000_000_000)));
        let limits = Limits {
            chunking: Chunking::Fixed(64),
            storage_nodes: 2,
            heartbeat: LEASE / 5,
            lease: LEASE,
            release_delay: RELEASE_DELAY,
            ticket_ttl: TTL,
        };
        let context = Context {
            store: store.clone(),
            derived,
            clock: clock.clone(),
            limits: Arc::new(limits),
        };
        let secret = ClusterSecret::generate().unwrap();
        let master = Master::open(context, secret.ticket_key()).await.unwrap();
        Self {
            master,
            clock,
            store,
            _dir: dir,
        }
    }

    /// Stops the master, and opens its folder and `disk` for reading only.
    pub(super) async fn read_only(&self, disk: Arc<dyn cstore_log::Disk>) -> Master {
        self.store.close().await.unwrap();
        self.read_only_after_kill(disk).await
    }

    /// Opens the folder and `disk` for reading only, as after a kill of the master. Waits until the
    /// index has written its buffers.
    pub(super) async fn read_only_after_kill(&self, disk: Arc<dyn cstore_log::Disk>) -> Master {
        let derived = Arc::new(Derived::default());
        let damage = crate::store::DamageKind::Gap { next: 3, last: 1 };
        let dir = self._dir.path();
        let options = SledOptions::default();
        let open = || {
            let (disk, damage) = (disk.clone(), damage.clone());
            ReadOnlyMeta::open(dir, disk, &options, &*derived, damage.into()).ok()
        };
        let store = cstore_testkit::until("an index that can be read", open).await;
        let context = Context {
            store: Arc::new(store),
            derived,
            ..self.master.context.clone()
        };
        let key = self.master.ticket_key.clone();
        Master::open(context, key).await.unwrap()
    }

    fn beat_all(&self, n: u8) {
        self.beat(&format!("storage-{n}"), NodeRole::Storage, Some(disk(n, 0)));
        self.beat(&format!("worker-{n}"), NodeRole::Worker, None);
    }

    pub(super) async fn register_storage(&self, n: u8, seal_seq: u64) -> Result<(), Fault> {
        let node = node(NodeRole::Storage, Some(disk(n, seal_seq)));
        self.master
            .members
            .register(NodeId::new(&format!("storage-{n}")).unwrap(), node)
            .await
            .map(drop)
    }

    pub(super) async fn register_worker(&self, n: u8) {
        let id = NodeId::new(&format!("worker-{n}")).unwrap();
        self.master
            .members
            .register(id, node(NodeRole::Worker, None))
            .await
            .unwrap();
    }

    pub(super) fn beat(
        &self,
        id: &str,
        role: NodeRole,
        disk: Option<DiskReport>,
    ) -> HeartbeatOutcome {
        self.master.members.heartbeat(heartbeat(id, role, disk))
    }

    pub(super) fn claims(&self, session: SessionId) -> TicketClaims {
        TicketClaims {
            session,
            cluster: self.master.identity.cluster,
            incarnation: self.master.identity.incarnation,
            worker: NodeId::new("worker-1").unwrap(),
            worker_addr: "127.0.0.1:5000".to_owned(),
            map_version: MapVersion(1),
            chunking: Chunking::Fixed(64),
            tenant: tenant(),
            expires_ms: self.clock.now_ms() + millis(TTL),
            issued: Some(self.store.head()),
        }
    }

    /// A commit of one block, sealed on both stores.
    pub(super) fn commit(
        &self,
        session: SessionId,
        file: &str,
        condition: WriteCondition,
    ) -> Commit {
        let mut id = [0; 32];
        id[..16].copy_from_slice(session.as_bytes());
        let block = BlockId::from_bytes(id);
        let mut builder = RootBuilder::new(Chunking::Fixed(64));
        builder
            .push(block, 16, &mut |_| unreachable!("one block needs no leaf"))
            .unwrap();
        let root = builder
            .finish(&mut |_| unreachable!("one block needs no leaf"))
            .unwrap();
        Commit {
            claims: self.claims(session),
            name: name(file),
            condition,
            root: root.encode(),
            etag: "9e107d9d372bb6826bd81d3542a419d6-1".parse().unwrap(),
            blocks: 1,
            content_type: "text/plain".to_owned(),
            sha256: None,
            metadata: UserMetadata::default(),
            size: 16,
            seals: (1..=2)
                .map(|n| Seal {
                    store: store_of(n),
                    point: SealPoint {
                        seq: SealSeq(1),
                        nonce: 0,
                    },
                })
                .collect(),
        }
    }

    /// Publishes `file` by a new session.
    pub(super) async fn publish(&self, n: u8, file: &str) {
        let commit = self.commit(session(n), file, WriteCondition::Any);
        self.master.uploads.commit(&commit).await.unwrap();
    }

    pub(super) async fn delete(&self, file: &str) -> Result<(), Fault> {
        self.master
            .namespace
            .delete_file(&tenant(), &name(file), "")
            .await
    }

    pub(super) fn second_name(from: &str, to: &str) -> CopyOrRename {
        let etag = String::new();
        CopyOrRename {
            tenant: tenant(),
            from: name(from),
            to: name(to),
            overwrite: true,
            etag,
        }
    }

    async fn all(&self) -> Vec<(Vec<u8>, Versioned)> {
        self.store.inner.scan(&[], None, usize::MAX).await.unwrap()
    }

    /// Panics unless the memory equals what a restart would derive, and the records agree with each
    /// other.
    pub(super) async fn check(&self, what: &str) {
        let all: Vec<_> = self
            .all()
            .await
            .into_iter()
            .filter(|(key, _)| key[0] != 0)
            .collect();
        let refolded = Derived::default();
        for (key, value) in &all {
            if refolded.follows(key) {
                refolded
                    .observe(Change {
                        key,
                        old: None,
                        new: Some(value),
                    })
                    .unwrap();
            }
        }
        assert_eq!(
            self.master.context.derived.folded(),
            refolded.folded(),
            "{what}"
        );

        let mut names: HashMap<SessionId, u32> = HashMap::new();
        let mut sessions: BTreeMap<SessionId, SessionRecord> = BTreeMap::new();
        let keys_found: Vec<&[u8]> = all.iter().map(|(key, _)| key.as_slice()).collect();
        for (key, value) in &all {
            match key[0] {
                keys::NAMES => {
                    *names
                        .entry(FileRecord::decode(&value.value).unwrap().session)
                        .or_default() += 1;
                }
                keys::SESSIONS => {
                    let session = SessionId::from_bytes(keys::uuid_of(key).unwrap());
                    sessions.insert(session, SessionRecord::decode(&value.value).unwrap());
                }
                _ => {}
            }
        }
        for (session, record) in &sessions {
            let counted = names.remove(session).unwrap_or_default();
            let has_root = keys_found.contains(&keys::root_key(*session).as_slice());
            match record {
                SessionRecord::Committed(committed) => {
                    assert_eq!(
                        (committed.names, has_root),
                        (counted, true),
                        "{what}: {session}"
                    );
                }
                SessionRecord::Ended(_) | SessionRecord::Kept => {
                    assert_eq!((counted, has_root), (0, false), "{what}: {session}")
                }
            }
        }
        assert!(
            names.is_empty(),
            "{what}: names without a committed session {names:?}"
        );
    }
}

pub(super) fn disk(n: u8, seal_seq: u64) -> DiskReport {
    let totals = DiskTotals {
        capacity_bytes: 1 << 30,
        free_bytes: 1 << 29,
        ..DiskTotals::default()
    };
    DiskReport {
        store: store_of(n),
        seal_seq: SealSeq(seal_seq),
        totals,
        room: None,
    }
}

pub(super) fn heartbeat(id: &str, role: NodeRole, disk: Option<DiskReport>) -> Heartbeat {
    Heartbeat {
        id: NodeId::new(id).unwrap(),
        role,
        ready: true,
        reason: String::new(),
        disk,
        told: Told::Sequence,
        noted: None,
        doubts: Vec::new(),
        leaving: false,
        max_small_bytes: 0,
    }
}

pub(super) fn node(role: NodeRole, disk: Option<DiskReport>) -> Node {
    Node {
        role,
        addr: "127.0.0.1:1".to_owned(),
        failure_domain: String::new(),
        version: String::new(),
        ready: false,
        reason: String::new(),
        suspect: false,
        last_seen: Instant::now(),
        last_seen_ms: 0,
        disk,
        protocol: 4,
        told: Told::Sequence,
        noted: None,
        newest_held: cstore_types::epoch::SealPoint::default(),
        max_small_bytes: 0,
        doubts: Vec::new(),
        accepting: BTreeMap::new(),
    }
}

/// Polls `future` up to `polls` times. Returns its output, or `None` if it was dropped before it
/// was ready.
pub(super) async fn poll_then_drop<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        let polled =
            std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
    }
    None
}
