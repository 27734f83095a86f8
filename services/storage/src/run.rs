//! A storage node from start to stop.
//!
//! peek at the disk ─▶ register at the master (waits for it) ─▶ open the disk with the cluster's identity ─▶ serve
//! frames, send heartbeats, compact ─▶ at shutdown: stop accepting, finish requests, close the disk

use std::sync::Arc;
use std::time::Duration;

use cstore_log::{Disk, RealDisk};
use cstore_mesh::{
    BoxIo, ClientOptions, Discovery, MasterClient, MeshError, Protocol, RoleIo, RoleMetrics, Service,
};
use cstore_node::admin::{PartState, Readiness};
use cstore_node::backoff::{Backoff, retry_until};
use cstore_node::listen::{AcceptLimits, accept_from};
use cstore_node::shutdown::{Shutdown, spawn};
use cstore_proto::{Caller, Signer, v1};
use cstore_types::{ClusterSecret, ClusterUuid, DedupKey, StoreUuid};
use cstore_wire::{ServerConfig, serve_connection};
use futures_util::stream::BoxStream;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::engine::{DiskOptions, Engine, Identity, peek};
use crate::membership::{Member, registration, report};
use crate::metrics::FrameMetrics;
use crate::server::BlockServer;
use crate::{EngineError, OpenError};

const CREDITS: u32 = 32 << 20;
const MAX_REQUESTS: usize = 256;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
const PROGRESS_DEADLINE: Duration = Duration::from_secs(30);
const IDLE_DEADLINE: Duration = Duration::from_secs(300);

/// Why a storage node ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The disk was refused.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk failed at the end.
    #[error("close disk: {0}")]
    Close(#[from] EngineError),
    /// The master's address cannot be used.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The master answered something that is no identity.
    #[error("master sent no usable cluster identity: {0}")]
    Identity(String),
    /// The listener has no address.
    #[error("listener: {0}")]
    Listener(#[from] std::io::Error),
}

/// Runs until `shutdown`.
///
/// # Errors
/// [`RunError`] when the disk is refused or fails.
pub async fn run(
    config: Config,
    secret: ClusterSecret,
    listener: TcpListener,
    readiness: Readiness,
    metrics: RoleMetrics,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let failed = |source| OpenError::Io { doing: "open disk folder", source };
    let disk = RealDisk::open(&config.disk).map_err(failed)?;
    let io = RoleIo::over_tcp(&config.advertise_host, listener, config.tls.as_ref(), Protocol::Frames)?;
    run_over(config, secret, io, disk, readiness, metrics, shutdown).await
}

/// As [`run`], over connections and a disk of the caller's: a simulated network and disk come in here.
///
/// # Errors
/// [`RunError`] when the disk is refused or fails.
pub async fn run_over(
    config: Config,
    secret: ClusterSecret,
    io: RoleIo,
    disk: Arc<dyn Disk>,
    readiness: Readiness,
    metrics: RoleMetrics,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    readiness.set("disk", PartState::NotReady("waiting for the master".to_owned()));
    let path = config.disk.display().to_string();
    let RoleIo { addr, incoming, dial, .. } = io;
    let signer = Signer::new(&secret, Caller::Storage);
    let options = ClientOptions { dial, ..ClientOptions::new("storage", signer, metrics.mesh.clone()) };
    let (service, keeper) = Service::new("master", Discovery::of(&config.master.to_string())?, &options);
    drop(spawn("endpoints of the master", keeper.run()));
    let master = MasterClient::new(&service);

    let Some((identity, interval)) = join(&config, &addr, &disk, &path, &master, &shutdown).await? else {
        return Ok(());
    };
    let disk_options = DiskOptions {
        capacity: config.capacity.bytes(),
        block_size: config.block_size.bytes(),
        fresh_start: config.fresh_start,
        erase: config.erase,
        sabotage: cstore_log::Sabotage::None,
        flaw: crate::engine::Flaw::None,
    };
    let opening = {
        let (path, identity) = (path.clone(), identity.clone());
        cstore_node::blocking(move || Engine::open(disk, &path, &identity, &disk_options))
    };
    let engine = opening.await.map_err(|error| RunError::Identity(error.to_string()))??;
    let frame_metrics = crate::metrics::register(&mut metrics.registry.lock(), &engine);
    // The identity of the disk may have changed by a fresh start: say so before workers come.
    register(&config, &addr, &engine, &master, &shutdown).await;
    readiness.set("disk", PartState::Ready);
    tracing::info!(%path, store = %engine.store(), %addr, "storage node serves");

    let member = Member::new(config.clone(), addr, engine.clone(), master, readiness.clone());
    let heartbeats = spawn("heartbeats", member.run(interval, shutdown.clone()));
    let cleaner = spawn("compaction", crate::cleaner::run(engine.clone(), shutdown.clone()));
    serve(&config, &secret, &identity, (&engine, frame_metrics), incoming, &shutdown).await;
    let _ = heartbeats.await;
    let _ = cleaner.await;
    let closing = engine.clone();
    cstore_node::blocking(move || closing.close())
        .await
        .map_err(|error| RunError::Identity(error.to_string()))??;
    Ok(())
}

/// Waits for the master and learns who the cluster is. `None` when the shutdown came first.
async fn join(
    config: &Config,
    addr: &str,
    disk: &Arc<dyn Disk>,
    path: &str,
    master: &MasterClient,
    shutdown: &Shutdown,
) -> Result<Option<(Identity, Duration)>, RunError> {
    let found = peek(disk, path)?;
    let store = match &found {
        Some(superblock) => superblock.store,
        None => StoreUuid::random().map_err(|error| RunError::Identity(error.to_string()))?,
    };
    let report = v1::StorageReport {
        store_uuid: bytes::Bytes::copy_from_slice(store.as_bytes()),
        seal_seq: found.map_or(0, |superblock| superblock.seal_seq.0),
        capacity_bytes: config.capacity.bytes(),
        ..v1::StorageReport::default()
    };
    let mut backoff = Backoff::new(config.retry_step, None);
    let ask = || master.register(registration(config, addr, report.clone()));
    let Some(answer) = retry_until("register at the master", shutdown, &mut backoff, ask).await else {
        return Ok(None);
    };
    let wrong = |what: &str| RunError::Identity(what.to_owned());
    let state = answer.state.ok_or_else(|| wrong("no state"))?;
    let cluster =
        ClusterUuid::try_from(&state.cluster_uuid[..]).map_err(|error| wrong(&error.to_string()))?;
    let key = answer.dedup_key.first_chunk().copied().ok_or_else(|| wrong("no dedup key"))?;
    let identity = Identity { store, cluster, node: config.node.clone(), key: DedupKey::from_bytes(key) };
    let interval = Duration::from_millis(answer.heartbeat_ms.clamp(10, 60_000).into());
    Ok(Some((identity, interval)))
}

async fn register(config: &Config, addr: &str, engine: &Engine, master: &MasterClient, shutdown: &Shutdown) {
    let mut backoff = Backoff::new(config.retry_step, None);
    let ask = || master.register(registration(config, addr, report(engine)));
    retry_until("register the disk", shutdown, &mut backoff, ask).await;
}

async fn serve(
    config: &Config,
    secret: &ClusterSecret,
    identity: &Identity,
    (engine, metrics): (&Engine, FrameMetrics),
    incoming: BoxStream<'static, std::io::Result<BoxIo>>,
    shutdown: &Shutdown,
) {
    let frames = Arc::new(ServerConfig {
        key: secret.frame_key(),
        cluster: identity.cluster,
        node: identity.node.clone(),
        store: engine.store(),
        credits: CREDITS,
        max_requests: MAX_REQUESTS,
        handshake_deadline: HANDSHAKE_DEADLINE,
        progress_deadline: PROGRESS_DEADLINE,
        idle_deadline: IDLE_DEADLINE,
    });
    let handler = Arc::new(BlockServer::new(engine.clone(), metrics));
    let connections = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
    let limits = AcceptLimits { connections, drain: config.drain_timeout };
    let stop = shutdown.clone();
    accept_from(incoming, limits, shutdown.clone(), move |stream| {
        let (frames, handler, stop) = (frames.clone(), handler.clone(), stop.clone());
        async move { serve_connection(stream, frames, handler, async move { stop.triggered().await }).await }
    })
    .await;
}
