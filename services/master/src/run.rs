//! The master from start to stop.

use std::fs::OpenOptions;
use std::sync::Arc;
use std::time::Duration;

use cstore_log::{Disk, LockGuard, RealDisk};
use cstore_mesh::{
    BoxIo, GrpcServer, MAX_MESSAGE_BYTES, MeshError, Protocol, RoleMetrics, ServerOptions, secured_incoming,
};
use cstore_node::admin::{PartState, Readiness};
use cstore_node::shutdown::{Shutdown, spawn};
use cstore_proto::Verifier;
use cstore_proto::v1::cluster_server::ClusterServer;
use cstore_proto::v1::namespace_server::NamespaceServer;
use cstore_proto::v1::uploads_server::UploadsServer;
use cstore_types::ClusterSecret;
use futures_util::stream::BoxStream;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::core::Master;
use crate::error::Refusal;
use crate::grpc::Doors;
use crate::meta::{MetaError, MetaStore, SledMeta, SledOptions};

/// Why the master ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another master has the folder.
    #[error("metadata folder {0} is in use by another master")]
    InUse(String),
    /// Metadata cannot be opened or closed.
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
    /// The rules could not start.
    #[error("metadata: {0}")]
    Rules(#[from] Refusal),
    /// The server ended.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The folder cannot be used.
    #[error("metadata folder: {0}")]
    Io(#[from] std::io::Error),
}

/// Runs until `shutdown`.
///
/// # Errors
/// [`RunError`].
pub async fn run(
    config: Config,
    secret: ClusterSecret,
    listener: TcpListener,
    readiness: Readiness,
    metrics: RoleMetrics,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let incoming = secured_incoming(listener, config.tls.as_ref(), Protocol::Grpc);
    run_over(config, secret, incoming, None, readiness, metrics, shutdown).await
}

/// As [`run`], over connections and, if one is given, a disk for the log of the caller's: a simulated network and disk
/// come in here.
///
/// # Errors
/// [`RunError`].
pub async fn run_over(
    config: Config,
    secret: ClusterSecret,
    incoming: BoxStream<'static, std::io::Result<BoxIo>>,
    log: Option<Arc<dyn Disk>>,
    readiness: Readiness,
    metrics: RoleMetrics,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    readiness.set("metadata", PartState::NotReady("opening".to_owned()));
    let opening = config.clone();
    let opened = cstore_node::blocking(move || open(&opening, log)).await;
    let (meta, _lock) = opened.map_err(|error| MetaError::Unavailable(error.to_string()))??;
    let meta: Arc<dyn MetaStore> = Arc::new(meta);
    let master = Arc::new(Master::open(config.clone(), meta.clone(), secret.ticket_key()).await?);
    crate::metrics::register(&mut metrics.registry.lock(), &master);
    readiness.set("metadata", PartState::Ready);

    let doors = Doors(master.clone(), shutdown.clone());
    let options = ServerOptions {
        drain: config.drain_timeout,
        role: "master",
        verifier: Verifier::new(&secret),
        reflection: config.reflection,
        metrics: metrics.mesh,
    };
    let server = GrpcServer::new(options).await?;
    let health = server.health();
    let server = server
        .add_service(NamespaceServer::new(doors.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(UploadsServer::new(doors.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(ClusterServer::new(doors).max_decoding_message_size(MAX_MESSAGE_BYTES));
    health.set_serving(true).await;
    let watcher = spawn("leases", watch_leases(master.clone(), readiness, shutdown.clone()));
    tracing::info!(cluster = %master.cluster, "master serves");
    let stop = shutdown.clone();
    let served = server.serve_over(incoming, async move { stop.triggered().await }).await;
    shutdown.trigger();
    let _ = watcher.await;
    meta.close().await?;
    Ok(served?)
}

fn open(config: &Config, log: Option<Arc<dyn Disk>>) -> Result<(SledMeta, LockGuard), RunError> {
    std::fs::create_dir_all(&config.dir)?;
    let dir = RealDisk::open(&config.dir)?;
    let lock = dir.lock("LOCK").map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => RunError::InUse(config.dir.display().to_string()),
        _ => RunError::Io(error),
    })?;
    // The key to all blocks lies in this folder: nobody else may read it.
    restrict(&config.dir)?;
    let mut options = SledOptions { snapshot_bytes: config.snapshot_bytes.bytes(), ..SledOptions::default() };
    let log = match log {
        Some(log) => {
            // It lies in memory.
            options.file_bytes = 256 << 10;
            options.cache_bytes = 1 << 20;
            log
        }
        None => dir.subdir("log")?,
    };
    Ok((SledMeta::open(&config.dir, log, &options)?, lock))
}

fn restrict(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = OpenOptions::new().read(true).open(dir)?;
    folder.set_permissions(std::fs::Permissions::from_mode(0o700))
}

/// Tells watchers when a lease runs out, and readiness when metadata cannot be written.
async fn watch_leases(master: Arc<Master>, readiness: Readiness, shutdown: Shutdown) {
    let lease = master.config.lease();
    let mut ticks = tokio::time::interval((lease / 5).max(Duration::from_millis(10)));
    let mut before = Vec::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.triggered() => return,
        }
        master.members.forget_workers(lease);
        let states: Vec<(String, i32)> =
            master.members.nodes(lease).into_iter().map(|node| (node.node_id, node.state)).collect();
        if states != before {
            for (node, state) in states.iter().filter(|now| !before.contains(now)) {
                let state = cstore_proto::v1::NodeState::try_from(*state).unwrap_or_default();
                tracing::info!(%node, ?state, "node state");
            }
            before = states;
            master.members.changed();
        }
        readiness.set(
            "metadata",
            match master.meta.failed() {
                None => PartState::Ready,
                Some(why) => PartState::NotReady(format!("metadata cannot be written: {why}")),
            },
        );
    }
}
