//! A worker from start to stop.

use std::time::Duration;

use cstore_mesh::{
    ClientOptions, Discovery, GrpcServer, MAX_MESSAGE_BYTES, MasterClient, MeshError, Protocol, RoleIo,
    RoleMetrics, ServerOptions, Service,
};
use cstore_node::admin::{PartState, Readiness};
use cstore_node::backoff::{Backoff, retry_until};
use cstore_node::shutdown::{Shutdown, spawn};
use cstore_proto::v1::transfer_server::TransferServer;
use cstore_proto::{Caller, Signer, Verifier};
use cstore_types::{ClusterSecret, ClusterUuid, DedupKey};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::budget::Budget;
use crate::cluster::{Identity, Stores, View};
use crate::config::Config;
use crate::grpc::Door;
use crate::membership::{Member, follow_view, registration};
use crate::metrics::TransferMetrics;
use crate::session::{Active, Sessions};

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be used, or the server ended.
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
/// [`RunError`].
pub async fn run(
    config: Config,
    secret: ClusterSecret,
    listener: TcpListener,
    readiness: Readiness,
    metrics: RoleMetrics,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let io = RoleIo::over_tcp(&config.advertise_host, listener, config.tls.as_ref(), Protocol::Grpc)?;
    run_over(config, secret, io, readiness, metrics, shutdown).await
}

/// As [`run`], over connections of the caller's: a simulated network comes in here.
///
/// # Errors
/// [`RunError`].
pub async fn run_over(
    config: Config,
    secret: ClusterSecret,
    io: RoleIo,
    readiness: Readiness,
    metrics: RoleMetrics,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    readiness.set("master", PartState::NotReady("not registered".to_owned()));
    let RoleIo { addr, incoming, dial, dial_frames } = io;
    let signer = Signer::new(&secret, Caller::Worker);
    let options = ClientOptions { dial, ..ClientOptions::new("worker", signer, metrics.mesh.clone()) };
    let (service, keeper) = Service::new("master", Discovery::of(&config.master.to_string())?, &options);
    drop(spawn("endpoints of the master", keeper.run()));
    let master = MasterClient::new(&service);
    let Some((identity, interval)) = join(&config, &addr, &master, &shutdown).await? else { return Ok(()) };
    readiness.set("master", PartState::Ready);

    // Uploads that end while the worker drains still need the map, the links and a worker that is not lost.
    let ended = Shutdown::new();
    let (view_sender, view) = watch::channel(View::default());
    let watching =
        spawn("cluster view", follow_view(master.clone(), config.clone(), view_sender, ended.clone()));
    let stores = Stores::new(
        identity,
        config.node.clone(),
        secret.frame_key(),
        config.retry_step,
        dial_frames,
        view,
        ended.clone(),
    );
    let active = Active::default();
    let sessions = Sessions {
        stores: stores.clone(),
        master: master.clone(),
        ticket_key: secret.ticket_key(),
        budget: Budget::new(config.memory_budget.bytes()),
        active: active.clone(),
        worker_id: config.node.to_string(),
    };
    let door = Door { sessions, metrics: TransferMetrics::register(&mut metrics.registry.lock()) };
    let options = ServerOptions {
        drain: config.drain_timeout,
        role: "worker",
        verifier: Verifier::new(&secret),
        reflection: config.reflection,
        metrics: metrics.mesh,
    };
    let server = GrpcServer::new(options).await?;
    let health = server.health();
    let service = TransferServer::new(door)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = server.add_service(service);
    health.set_serving(true).await;
    let stopping = shutdown.clone();
    let member =
        Member { master, config: config.clone(), addr: addr.clone(), stores, active, readiness, stopping };
    let beats = spawn("heartbeats", member.run(interval, ended.clone()));
    tracing::info!(%addr, "worker serves");
    let stop = shutdown.clone();
    let served = server.serve_over(incoming, async move { stop.triggered().await }).await;
    ended.trigger();
    let _ = tokio::join!(watching, beats);
    Ok(served?)
}

/// Waits for the master and learns who the cluster is. `None` when the shutdown came first.
async fn join(
    config: &Config,
    addr: &str,
    master: &MasterClient,
    shutdown: &Shutdown,
) -> Result<Option<(Identity, Duration)>, RunError> {
    let mut backoff = Backoff::new(config.retry_step, None);
    let ask = || master.register(registration(config, addr));
    let Some(answer) = retry_until("register at the master", shutdown, &mut backoff, ask).await else {
        return Ok(None);
    };
    let wrong = |what: &str| RunError::Identity(what.to_owned());
    let state = answer.state.ok_or_else(|| wrong("no state"))?;
    let cluster =
        ClusterUuid::try_from(&state.cluster_uuid[..]).map_err(|error| wrong(&error.to_string()))?;
    let key = answer.dedup_key.first_chunk().copied().ok_or_else(|| wrong("no dedup key"))?;
    let interval = Duration::from_millis(answer.heartbeat_ms.clamp(10, 60_000).into());
    Ok(Some((Identity { cluster, key: DedupKey::from_bytes(key) }, interval)))
}
