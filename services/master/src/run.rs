//! The master from start to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cstore_log::{Disk, LockGuard, RealDisk, probe, remove_probe};
use cstore_mesh::{
    Admission, GrpcServer, HealthHandle, MAX_MESSAGE_BYTES, MeshError, RoleIo, RoleMetrics,
    ServerOptions,
};
use cstore_node::admin::{PartState, Readiness};
use cstore_node::backoff::Backoff;
use cstore_node::clock::{Clock, SystemClock};
use cstore_node::connections::ConnectionLimits;
use cstore_node::shutdown::{Shutdown, spawn};
use cstore_proto::Verifier;
use cstore_proto::v1::cluster_server::ClusterServer;
use cstore_proto::v1::namespace_server::NamespaceServer;
use cstore_proto::v1::uploads_server::{SERVICE_NAME as UPLOADS, UploadsServer};
use cstore_types::{ClusterSecret, ErrorCode, Fault};
use tokio::net::TcpListener;
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::config::Config;
use crate::domain::{Context, Derived, Master, NodeState};
use crate::grpc::Services;
use crate::limits::{MIN_LEASE_CHECK, PROBE_INTERVAL, READS_AT_LEAST};
use crate::store::{
    Batch, MetaError, MetaStore, ReadOnlyMeta, SledMeta, SledOptions, WriterState, remove_leftovers,
};

/// File whose lock keeps a second master out of the folder.
const LOCK_FILE: &str = "LOCK";
/// Name of the metadata in the master's readiness.
const PART: &str = "metadata";

/// The reason why the master ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another master has the folder.
    #[error("metadata folder {} is in use by another master", .0.display())]
    InUse(PathBuf),
    /// Metadata cannot be opened or closed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The rules could not start.
    #[error("metadata rules")]
    Rules(#[from] Fault),
    /// A write or sync of metadata failed, so that nothing may be written until the log is opened
    /// again.
    #[error("metadata cannot be written any more")]
    WriterEnded(#[source] MetaError),
    /// The disk took no writes at the start and takes them now.
    #[error(
        "the disk takes writes again: the master ends, so that its next start opens it for writing"
    )]
    TakesWrites,
    /// The server ended.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The folder cannot be used.
    #[error("metadata folder")]
    Io(#[from] std::io::Error),
    /// The thread that opened the metadata panicked.
    #[error("open metadata")]
    Task(#[source] JoinError),
}

impl RunError {
    /// Returns true if a later start may succeed although nobody changes the folder or the
    /// configuration.
    pub fn may_pass(&self) -> bool {
        match self {
            // The other master may end, and the error of the system may pass.
            Self::InUse(_) | Self::Io(_) | Self::WriterEnded(_) | Self::TakesWrites => true,
            Self::Meta(error) => error.may_pass(),
            // Reading or writing the metadata may succeed at the next start.
            Self::Rules(fault) => fault.code == ErrorCode::Full || fault.code.is_retryable(),
            Self::Mesh(_) | Self::Task(_) => false,
        }
    }
}

/// Parts of the world that a simulation brings along.
#[derive(Debug, Clone)]
pub struct Simulated {
    /// The disk of the metadata log.
    pub log: Arc<dyn Disk>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
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
    let host = listener.local_addr()?.ip().to_string();
    let admission = Admission {
        role: "master",
        limits: ConnectionLimits::halved(
            usize::try_from(config.max_connections).unwrap_or(usize::MAX),
        ),
        metrics: metrics.mesh.clone(),
    };
    let io = RoleIo::grpc_over_tcp(&host, listener, config.tls.as_ref(), admission)?
        .within(config.local.clone());
    run_over(config, secret, io, None, readiness, metrics, shutdown).await
}

/// Runs like [`run`], over connections of the caller's and, if given, a simulated disk and clock.
///
/// # Errors
/// [`RunError`].
pub async fn run_over(
    config: Config,
    secret: ClusterSecret,
    io: RoleIo,
    simulated: Option<Simulated>,
    readiness: Readiness,
    metrics: RoleMetrics,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    readiness.set(PART, PartState::NotReady("opening".to_owned()));
    let clock: Arc<dyn Clock> = match &simulated {
        Some(simulated) => simulated.clock.clone(),
        None => Arc::new(SystemClock),
    };
    let derived = Arc::new(Derived::default());
    let opening = {
        let (config, derived) = (config.clone(), derived.clone());
        cstore_node::blocking(move || open(&config, simulated, derived))
    };
    let (store, _lock) = opening.await.map_err(RunError::Task)??;
    let limits = Arc::new(config.limits());
    let context = Context {
        store: store.clone(),
        derived,
        clock,
        limits,
    };
    let master = Arc::new(Master::open(context, secret.ticket_key()).await?);
    crate::metrics::register(&mut metrics.registry.lock(), &master);
    readiness.set(PART, PartState::Ready);

    let services = Services {
        master: master.clone(),
        shutdown: shutdown.clone(),
    };
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
        .add_service(
            NamespaceServer::new(services.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            UploadsServer::new(services.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(ClusterServer::new(services).max_decoding_message_size(MAX_MESSAGE_BYTES));
    health.set_serving(true).await;
    health.set_service_serving(UPLOADS, true).await;
    let leases = spawn("leases", watch_leases(master.clone(), shutdown.clone()));
    let writer = spawn(
        "metadata writer",
        watch_writer(master.clone(), readiness, health, shutdown.clone()),
    );
    let awaits_disk = store
        .writer_state()
        .borrow()
        .read_only()
        .is_some_and(|why| why.awaits_disk());
    let folder = awaits_disk.then(|| config.dir.clone());
    let probing = spawn("disk probe", await_writes(folder, shutdown.clone()));
    tracing::info!(cluster = %master.identity.cluster, "master serves");
    let stop = shutdown.clone();
    let served = server
        .within(io.dial.local().clone(), &io.addr)
        .serve_over(io.incoming, async move { stop.triggered().await })
        .await;
    shutdown.trigger();
    let (_, _, takes_writes) = tokio::join!(leases, writer, probing);

    let closed = store.close().await;
    if let WriterState::Ended(why) = &*store.writer_state().borrow() {
        return Err(RunError::WriterEnded(why.clone()));
    }
    closed?;
    if takes_writes.unwrap_or(false) {
        return Err(RunError::TakesWrites);
    }
    Ok(served?)
}

fn open(
    config: &Config,
    simulated: Option<Simulated>,
    derived: Arc<Derived>,
) -> Result<(Arc<dyn MetaStore>, LockGuard), RunError> {
    // The key to all blocks lies in this folder: nobody else may read it.
    let dir = RealDisk::open_private(&config.dir)?;
    let lock = lock(&dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => RunError::InUse(config.dir.clone()),
        _ => RunError::Io(error),
    })?;

    if simulated.is_none() {
        remove_leftovers();
        remove_probe(&*dir);
    }
    let mut options = SledOptions {
        snapshot_bytes: config.snapshot_bytes.bytes(),
        ..SledOptions::default()
    };
    let log = match simulated {
        Some(simulated) => {
            // The log lies in memory.
            options.file_bytes = 256 << 10;
            options.cache_bytes = 1 << 20;
            simulated.log
        }
        None => dir.subdir("log")?,
    };
    let store: Arc<dyn MetaStore> =
        match SledMeta::open(&config.dir, log.clone(), &options, derived.clone()) {
            Ok(store) => Arc::new(store),
            Err(damage) => {
                let rest = ReadOnlyMeta::open(&config.dir, log, &options, &*derived, damage)?;
                Arc::new(rest)
            }
        };
    Ok((store, lock))
}

/// Takes the lock of a folder; a shared one if the folder takes no writes.
fn lock(dir: &Arc<dyn Disk>) -> std::io::Result<LockGuard> {
    dir.lock(LOCK_FILE).or_else(|error| {
        let reader = dir.for_reads();
        let reader = reader.filter(|_| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem);
        reader.map_or(Err(error), |reader| reader.lock(LOCK_FILE))
    })
}

/// Tells watchers when a lease runs out.
async fn watch_leases(master: Arc<Master>, shutdown: Shutdown) {
    let lease = master.context.limits.lease;
    let mut ticks = tokio::time::interval((lease / 5).max(MIN_LEASE_CHECK));
    let mut before: Vec<(String, NodeState)> = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = ticks.tick() => {}
            () = shutdown.triggered() => return,
        }
        master.members.forget_workers();
        let states: Vec<(String, NodeState)> = master
            .members
            .nodes()
            .into_iter()
            .map(|view| (view.id.to_string(), view.state))
            .collect();
        if states == before {
            continue;
        }
        for (node, state) in states.iter().filter(|now| !before.contains(now)) {
            tracing::info!(%node, ?state, "node state");
        }
        before = states;
        master.context.derived.changed();
    }
}

/// Shows in readiness, health and the cluster's view whether metadata can be written, and ends the
/// role when the writer has ended.
///
/// While the writer is blocked, an empty batch is proposed from time to time: nobody may send one
/// that would unblock it, because a gateway that is not ready gets no requests.
async fn watch_writer(
    master: Arc<Master>,
    readiness: Readiness,
    health: HealthHandle,
    shutdown: Shutdown,
) {
    let mut state = master.context.store.writer_state();
    let mut view = master.context.derived.watch();
    let mut shown = None;
    loop {
        let seen = state.borrow_and_update().clone();
        readiness.set(
            PART,
            master
                .not_writable()
                .map_or(PartState::Ready, PartState::NotReady),
        );
        health
            .set_service_serving(UPLOADS, matches!(seen, WriterState::Writable))
            .await;
        // Watchers are told of the writer, and this one is a watcher.
        let reason = master.not_writable();
        if shown.replace(reason.clone()) != Some(reason) {
            master.context.derived.changed();
        }

        let probe = match seen {
            WriterState::Writable | WriterState::ReadOnly(_) => None,
            WriterState::Blocked(_) => Some(PROBE_INTERVAL),
            WriterState::Ended(_) => return shutdown.trigger(),
        };
        tokio::select! {
            biased;
            changed = state.changed() => if changed.is_err() { return },
            () = view.changed() => {}
            () = sleep_or_never(probe) => {
                // A master that may be an older copy writes nothing, not even this.
                if master.context.may_write() {
                    drop(master.context.store.commit(Batch::default()).await);
                }
            }
            () = shutdown.triggered() => return,
        }
    }
}

/// Looks from time to time whether the disk of a folder takes writes again. Returns true, and ends
/// the role, when it does; false at the shutdown. If it takes them from the beginning, the open failed
/// for a reason that a probe does not meet: names are served for [`READS_AT_LEAST`] then.
async fn await_writes(folder: Option<PathBuf>, shutdown: Shutdown) -> bool {
    let Some(folder) = folder else {
        shutdown.triggered().await;
        return false;
    };
    let mut pauses = Backoff::new(PROBE_INTERVAL, None);
    let begun = Instant::now();
    let mut was_refused = false;
    loop {
        let folder = folder.clone();
        let probe = move || RealDisk::open(&folder).and_then(|disk| probe(&*disk));
        let takes_writes = matches!(cstore_node::blocking(probe).await, Ok(Ok(())));
        if takes_writes && (was_refused || begun.elapsed() >= READS_AT_LEAST) {
            shutdown.trigger();
            return true;
        }
        was_refused |= !takes_writes;
        let pause = pauses.next_delay();
        tokio::select! {
            biased;
            () = shutdown.triggered() => return false,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn sleep_or_never(delay: Option<Duration>) {
    match delay {
        Some(delay) => tokio::time::sleep(delay).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use cstore_node::Env;

    use super::*;
    use crate::store::leave_temporary;

    #[tokio::test]
    async fn i13_a_start_removes_what_killed_processes_have_left() {
        let data = tempfile::tempdir().unwrap();
        let set = [("CSTORE_DATA_DIR", data.path().to_str().unwrap())];
        let config = Config::from_env(&mut Env::new(&set));
        std::fs::create_dir(&config.dir).unwrap();
        let probe = config.dir.join("write.probe");
        std::fs::write(&probe, b"").unwrap();
        let left = leave_temporary();

        let (store, _lock) = open(&config, None, Arc::default()).unwrap();
        assert!(!left.try_exists().unwrap());
        assert!(!probe.try_exists().unwrap());
        store.close().await.unwrap();
    }
}
