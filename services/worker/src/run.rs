//! A worker from start to stop.

use std::sync::Arc;

use cstore_mesh::member::{
    HeartbeatTrigger, Heartbeats, IdentityError, MasterLink, NodeProfile, connect_master,
    follow_view,
};
use cstore_mesh::{
    Admission, ClientOptions, Dial, GrpcServer, MAX_MESSAGE_BYTES, MeshError, MeshMetrics, RoleIo,
    RoleMetrics, ServerOptions,
};
use cstore_node::TaskGroup;
use cstore_node::admin::{PartState, Readiness};
use cstore_node::clock::{Clock, SystemClock};
use cstore_node::connections::ConnectionLimits;
use cstore_node::shutdown::Shutdown;
use cstore_proto::v1::transfer_server::TransferServer;
use cstore_proto::{Caller, Signer, Verifier, v1};
use cstore_types::ClusterSecret;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::budget::Budget;
use crate::cluster::{Stores, View};
use crate::config::Config;
use crate::grpc::Door;
use crate::limits::STOP_PATIENCE;
use crate::membership::{ViewPublisher, WorkerMember};
use crate::metrics::TransferMetrics;
use crate::session::{Active, Sessions};

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be used, or the server ended.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The answer of the master does not identify the cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
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
    let admission = Admission {
        role: "worker",
        limits: ConnectionLimits::halved(
            usize::try_from(config.max_connections).unwrap_or(usize::MAX),
        ),
        metrics: metrics.mesh.clone(),
    };
    let io = RoleIo::grpc_over_tcp(
        &config.advertise_host,
        listener,
        config.tls.as_ref(),
        admission,
    )?
    .within(config.local.clone());
    run_over(
        config,
        secret,
        io,
        Arc::new(SystemClock),
        readiness,
        metrics,
        shutdown,
    )
    .await
}

/// Runs like [`run`], over connections and a clock of the caller's: a simulated network and time
/// come in here.
///
/// # Errors
/// [`RunError`].
pub async fn run_over(
    config: Config,
    secret: ClusterSecret,
    io: RoleIo,
    clock: Arc<dyn Clock>,
    readiness: Readiness,
    metrics: RoleMetrics,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    readiness.set(
        "storage",
        PartState::NotReady("waiting for the master".to_owned()),
    );
    let RoleIo {
        addr,
        incoming,
        dial,
        dial_frames,
    } = io;
    let local = dial.local().clone();
    let link = link_to_master(&config, &secret, &addr, dial, &metrics)?;
    let master = link.client.clone();
    let Some(membership) = link.join(None, &readiness, &shutdown).await? else {
        return Ok(());
    };
    let interval = membership.heartbeat;

    // Not a child of the shutdown: uploads that end while the worker drains still need the map, the
    // links and a worker that is not lost.
    let tasks = TaskGroup::new(Shutdown::new());
    let ended = tasks.shutdown().clone();
    let (view_sender, view) = watch::channel(View::default());
    let follow = follow_view(
        master.clone(),
        v1::WatchMapRequest {
            node_id: config.node.to_string(),
        },
        config.retry_step,
        ViewPublisher(view_sender),
        ended.clone(),
    );
    drop(tasks.spawn("cluster view", follow));
    let stores = Stores::new(
        membership,
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
        master,
        ticket_key: secret.ticket_key(),
        budget: Budget::new(config.memory_budget.bytes()),
        active: active.clone(),
        clock,
        worker_id: config.node.to_string(),
    };
    let door = Door {
        sessions,
        metrics: TransferMetrics::register(&mut metrics.registry.lock()),
    };
    let server = server_of(door, &config, &secret, metrics.mesh).await?;
    let server = server.within(local, &addr);
    server.health().set_serving(true).await;
    let member = WorkerMember {
        stores,
        active,
        readiness: readiness.clone(),
        stopping: shutdown.clone(),
    };
    let heartbeats = Heartbeats::new(
        link,
        interval,
        readiness,
        HeartbeatTrigger::default(),
        member,
    );
    drop(tasks.spawn("heartbeats", heartbeats.run(ended)));
    tracing::info!(%addr, "worker serves");
    let stop = shutdown.clone();
    let served = server
        .serve_over(incoming, async move { stop.triggered().await })
        .await;
    tasks.drain(STOP_PATIENCE).await;
    Ok(served?)
}

/// The connection to the master, over which the worker registers and asks for commits.
fn link_to_master(
    config: &Config,
    secret: &ClusterSecret,
    addr: &str,
    dial: Dial,
    metrics: &RoleMetrics,
) -> Result<MasterLink, RunError> {
    let signer = Signer::new(secret, Caller::Worker);
    let options = ClientOptions {
        dial,
        ..ClientOptions::new("worker", signer, metrics.mesh.clone())
    };
    Ok(MasterLink {
        client: connect_master(&config.master.to_string(), &options)?,
        profile: NodeProfile {
            role: v1::Role::Worker,
            node: config.node.clone(),
            addr: addr.to_owned(),
            failure_domain: String::new(),
        },
        retry_step: config.retry_step,
    })
}

/// The worker's gRPC server: its service, health checks and, when asked for, reflection.
async fn server_of(
    door: Door,
    config: &Config,
    secret: &ClusterSecret,
    metrics: MeshMetrics,
) -> Result<GrpcServer, MeshError> {
    let options = ServerOptions {
        drain: config.drain_timeout,
        role: "worker",
        verifier: Verifier::new(secret),
        reflection: config.reflection,
        metrics,
    };
    let service = TransferServer::new(door)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(GrpcServer::new(options).await?.add_service(service))
}
