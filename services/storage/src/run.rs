//! A storage node from start to stop.
//!
//! peek at the disk ─▶ register at the master (waits for it) ─▶ open the disk with the cluster's
//! identity ─▶ serve frames, send heartbeats, compact ─▶ at shutdown: stop accepting, finish
//! requests, close the disk

use std::sync::Arc;
use std::time::Duration;

use cstore_log::{Disk, RealDisk};
use cstore_mesh::member::{
    HeartbeatTrigger, Heartbeats, IdentityError, MasterLink, NodeProfile, connect_master,
};
use cstore_mesh::{Accepted, ClientOptions, LocalServers, MeshError, RoleIo, RoleMetrics};
use cstore_node::TaskGroup;
use cstore_node::admin::{PartState, Readiness};
use cstore_node::backoff::Backoff;
use cstore_node::listen::{AcceptLimits, accept_from};
use cstore_node::shutdown::{Shutdown, spawn};
use cstore_proto::{Caller, Signer, v1};
use cstore_types::{ClusterSecret, StoreUuid};
use cstore_wire::{LocalNode, ServerConfig, serve_connection};
use futures_util::FutureExt;
use futures_util::stream::BoxStream;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle};

use crate::config::Config;
use crate::engine::{Answer, DiskOptions, Engine, Identity, Superblock, look};
use crate::engine::{EngineError, OpenError};
use crate::limits::{
    CONNECTION_CREDITS, HANDSHAKE_DEADLINE, IDLE_DEADLINE, MAX_REQUESTS, PROGRESS_DEADLINE,
};
use crate::membership::{PROTOCOL, StorageMember, report, said};
use crate::metrics::FrameMetrics;
use crate::releaser::{Releaser, Releases};
use crate::roll_call::RollCall;
use crate::server::BlockServer;

/// Why a storage node ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The disk was refused.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk failed.
    #[error("the disk failed")]
    Disk(#[from] EngineError),
    /// The disk took no writes at the start and takes them now.
    #[error(
        "the disk takes writes again: the node ends, so that its next start opens it for writing"
    )]
    TakesWrites,
    /// The work on the disk panicked, or its runtime ended.
    #[error("{doing}")]
    Task {
        /// The attempted operation, in the present tense.
        doing: &'static str,
        /// How the work ended.
        source: JoinError,
    },
    /// A node that nobody gave a name has no disk, and the cluster needs none: probably its volume
    /// is not mounted.
    #[error(
        "the cluster has its storage nodes, and this one has neither a disk nor a name: is the volume mounted at \
         {path}? Set CSTORE_NODE_ID to a new name to add a node, or to that of the node whose lost disk this one replaces"
    )]
    Nameless {
        /// Folder in which the disk would be created.
        path: String,
    },
    /// The system has no random bytes, for the identity of a new disk or for the number of an open.
    #[error("choose a random number")]
    Random(#[source] getrandom::Error),
    /// The master's address cannot be used.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The answer of the master does not identify the cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The listener has no address.
    #[error("listener: {0}")]
    Listener(#[from] std::io::Error),
}

impl RunError {
    /// Returns true if a later start may succeed although nobody changes the disk or the configuration.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Open(error) => error.may_pass(),
            // The next open recovers a disk that has failed.
            Self::Disk(_) | Self::TakesWrites => true,
            Self::Random(_) | Self::Listener(_) => true,
            // Another master, or another answer of this one, needs a person.
            Self::Task { .. } | Self::Nameless { .. } | Self::Mesh(_) | Self::Identity(_) => false,
        }
    }
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
    let failed = |source| OpenError::Io {
        doing: "open disk folder",
        source,
    };
    // The folder holds all blocks: close it to other users.
    let disk = RealDisk::open_private(&config.disk).map_err(failed)?;
    let io = RoleIo::frames_over_tcp(&config.advertise_host, listener, config.tls.as_ref())?
        .within(config.local.clone());
    let folder = config.disk.clone();
    let ended = run_over(config, secret, io, disk, readiness, metrics, shutdown).await;
    if let Err(RunError::Nameless { .. }) = ended {
        // The node draws a new name at each start; its empty folder must not stay.
        drop(std::fs::remove_dir(folder));
    }
    ended
}

/// Like [`run`], over connections and a disk of the caller's: a simulated network and disk come in
/// here.
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
    readiness.set(
        "disk",
        PartState::NotReady("waiting for the master".to_owned()),
    );
    let path = config.disk.display().to_string();
    let RoleIo {
        addr,
        incoming,
        dial,
        ..
    } = io;
    let local = dial.local().clone();
    let signer = Signer::new(&secret, Caller::Storage);
    let options = ClientOptions {
        dial,
        ..ClientOptions::new("storage", signer, metrics.mesh.clone())
    };
    let link = link_to_master(&config, &options, addr.clone())?;

    let found = look(&disk, &path)?;
    let store = match found.store() {
        Some(store) => store,
        None => StoreUuid::random().map_err(RunError::Random)?,
    };
    let first_report = report_unopened(&config, store, found.superblock());
    let Some(membership) = link.join(Some(first_report), &readiness, &shutdown).await? else {
        return Ok(());
    };
    if config.has_new_name && found.store().is_none() && membership.has_map {
        return Err(RunError::Nameless { path });
    }
    let identity = Identity {
        store,
        cluster: membership.cluster,
        node: config.node.clone(),
        key: membership.key,
    };
    let engine = open(&config, disk, &path, &identity).await?;
    let frame_metrics = crate::metrics::register(&mut metrics.registry.lock(), &engine);
    // The identity of the disk may have changed by a fresh start: say so before workers come.
    let registered = link
        .register_until_known(Some(report(&engine)), &shutdown)
        .await;
    if let Some(answer) = registered
        && !engine.is_for_reads()
    {
        judge(
            &engine,
            said(answer.seen, answer.seen_in_doubt, answer.history),
        )
        .await?;
    }
    readiness.set("disk", PartState::Ready);
    tracing::info!(%path, store = %engine.store(), %addr, "storage node serves");

    let pauses = Backoff::new(config.retry_step, None);
    let pace = (membership.heartbeat, pauses);
    let background = Background::start(&engine, link, pace, &readiness, &shutdown);
    serve(
        &config,
        &secret,
        &identity,
        (&engine, frame_metrics),
        incoming,
        (&local, &addr),
        &shutdown,
    )
    .await;
    let ended = background.end(config.drain_timeout).await;
    close(&engine).await?;
    ended
}

fn link_to_master(
    config: &Config,
    options: &ClientOptions,
    addr: String,
) -> Result<MasterLink, RunError> {
    Ok(MasterLink {
        client: connect_master(&config.master.to_string(), options)?,
        profile: NodeProfile {
            role: v1::Role::Storage,
            node: config.node.clone(),
            addr,
            failure_domain: config.failure_domain.clone(),
        },
        retry_step: config.retry_step,
    })
}

async fn close(engine: &Engine) -> Result<(), RunError> {
    let closing = engine.clone();
    let closed = cstore_node::blocking(move || closing.close()).await;
    closed.map_err(|source| RunError::Task {
        doing: "close disk",
        source,
    })??;
    Ok(())
}

/// Returns what is known of a disk before the cluster's identity is: enough to register.
fn report_unopened(
    config: &Config,
    store: StoreUuid,
    found: Option<&Superblock>,
) -> v1::StorageReport {
    v1::StorageReport {
        store_uuid: bytes::Bytes::copy_from_slice(store.as_bytes()),
        seal_seq: found.map_or(0, |superblock| superblock.seal_seq.0),
        capacity_bytes: config.capacity.bytes(),
        unopened: true,
        protocol: PROTOCOL,
        noted: found.map(|superblock| superblock.noted.into()),
        ..v1::StorageReport::default()
    }
}

/// Judges disk and master by the first answer. Before that the disk frees nothing and takes no
/// seals.
async fn judge(engine: &Engine, answer: Answer) -> Result<(), RunError> {
    let judge = engine.judge().clone();
    let judging = cstore_node::blocking(move || judge.judge(&answer));
    judging.await.map(drop).map_err(|source| RunError::Task {
        doing: "judge disk",
        source,
    })
}

async fn open(
    config: &Config,
    disk: Arc<dyn Disk>,
    path: &str,
    identity: &Identity,
) -> Result<Engine, RunError> {
    let options = DiskOptions {
        capacity: config.capacity.bytes(),
        is_capacity_default: config.is_capacity_default,
        block_size: config.block_size.bytes(),
        fresh_start: config.fresh_start,
        erase: config.erase,
        nonce: cstore_types::nonce().map_err(RunError::Random)?,
        waits_for_master: true,
        open_files: config.open_files,
    };
    let (path, identity) = (path.to_owned(), identity.clone());
    let opening = cstore_node::blocking(move || Engine::open(disk, &path, &identity, &options));
    let opened = opening.await.map_err(|source| RunError::Task {
        doing: "open disk",
        source,
    })?;
    Ok(opened?)
}

/// Everything that a storage node does beside serving frames.
#[derive(Debug)]
struct Background {
    /// Tasks that may be dropped at any await.
    tasks: TaskGroup,
    /// Tasks whose current step MUST end before the disk is closed.
    releasing: JoinHandle<()>,
    sweeping: JoinHandle<Result<(), RunError>>,
}

impl Background {
    fn start(
        engine: &Engine,
        link: MasterLink,
        (interval, pauses): (Duration, Backoff),
        readiness: &Readiness,
        shutdown: &Shutdown,
    ) -> Self {
        let tasks = TaskGroup::new(shutdown.child());
        let stop = tasks.shutdown().clone();
        let releases = Releases::default();
        let roll_call = RollCall::default();
        let trigger = HeartbeatTrigger::default();
        let freed = Arc::new(Notify::new());

        let member = StorageMember::new(
            engine.clone(),
            readiness.clone(),
            releases.clone(),
            roll_call.clone(),
        );
        let heartbeats =
            Heartbeats::new(link, interval, readiness.clone(), trigger.clone(), member);
        drop(tasks.spawn(
            "roll call",
            roll_call.clone().run(engine.clone(), stop.clone()),
        ));
        drop(tasks.spawn("heartbeats", heartbeats.run(stop.clone())));
        drop(tasks.spawn("compaction", engine.compactor().clone().run(stop.clone())));
        drop(tasks.spawn("verification", engine.verifier().clone().run(stop.clone())));

        let releaser = Releaser {
            releases,
            roll_call,
            heartbeat: trigger,
            freed: freed.clone(),
        };
        let engine_of_releases = engine.clone();
        let release = move |sessions: Vec<_>| {
            let engine = engine_of_releases.clone();
            async move { engine.releaser().release_all(&sessions).await }
        };
        let releasing = spawn("releases", releaser.run(release, stop.clone()));
        let sweeper = match engine.is_for_reads() {
            true => crate::sweeper::await_writes(engine.clone(), pauses, stop).boxed(),
            false => crate::sweeper::run(engine.clone(), interval, freed, stop).boxed(),
        };
        let ending = shutdown.clone();
        let sweeping = spawn("sweeper", async move {
            sweeper.await.inspect_err(|_| ending.trigger())
        });
        Self {
            tasks,
            releasing,
            sweeping,
        }
    }

    /// Ends all tasks. Steps that the disk depends on are waited for, however long they take.
    ///
    /// # Errors
    /// The error for which the node had to end.
    async fn end(self, deadline: Duration) -> Result<(), RunError> {
        self.tasks.drain(deadline).await;
        let _ = self.releasing.await;
        self.sweeping.await.unwrap_or(Ok(()))
    }
}

async fn serve(
    config: &Config,
    secret: &ClusterSecret,
    identity: &Identity,
    (engine, metrics): (&Engine, FrameMetrics),
    incoming: BoxStream<'static, std::io::Result<Accepted>>,
    (local, addr): (&LocalServers, &str),
    shutdown: &Shutdown,
) {
    let frames = Arc::new(ServerConfig {
        key: secret.frame_key(),
        cluster: identity.cluster,
        node: identity.node.clone(),
        store: engine.store(),
        credits: CONNECTION_CREDITS,
        max_requests: MAX_REQUESTS,
        handshake_deadline: HANDSHAKE_DEADLINE,
        progress_deadline: PROGRESS_DEADLINE,
        idle_deadline: IDLE_DEADLINE,
    });
    let handler = Arc::new(BlockServer::new(engine.clone(), metrics));
    let connections = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
    let limits = AcceptLimits {
        connections,
        drain: config.drain_timeout,
    };
    let node = LocalNode::new(frames.clone(), handler.clone());
    let _closed = node.close_on_drop();
    let published = local.publish(addr, Arc::new(node.clone()));
    let of_this_process = async {
        shutdown.triggered().await;
        drop(published);
        node.close(config.drain_timeout).await;
    };
    let stop = shutdown.clone();
    let accepting = accept_from(incoming, limits, shutdown.clone(), move |stream| {
        let (frames, handler, stop) = (frames.clone(), handler.clone(), stop.clone());
        async move {
            serve_connection(
                stream,
                frames,
                handler,
                async move { stop.triggered().await },
            )
            .await
        }
    });
    tokio::join!(accepting, of_this_process);
}
