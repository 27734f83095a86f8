//! One role as a process of its own.

use anyhow::Error;
use cstore_mesh::{LocalServers, RoleMetrics, Tls};
use cstore_node::admin::Readiness;
use cstore_node::shutdown::{drain_delay, drain_timeout, spawn};
use cstore_node::telemetry::TelemetryConfig;
use cstore_node::{ByteSize, Env, HostPort, Shutdown, Source, listen, metrics};
use cstore_types::ClusterSecret;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;

use crate::exit::Failure;
use crate::limits::MASTER_PATIENCE;
use crate::open_files::{self, GATEWAY_SHARES, GRPC_SHARES, STORAGE_SHARES, bound};
use crate::paths::{DATA, PickedPath};
use crate::process::{self, Ports, Running};
use crate::{probe, secret, settings, tls};

/// The parts of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Gateway,
    Master,
    Worker,
    Storage,
}

impl Role {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Master => "master",
            Self::Worker => "worker",
            Self::Storage => "storage",
        }
    }

    /// The variable of its port, and the default.
    pub(crate) const fn port(self) -> (&'static str, u16) {
        match self {
            Self::Gateway => ("GATEWAY_PORT", 8_000),
            Self::Master => ("MASTER_PORT", 4_100),
            Self::Worker => ("WORKER_PORT", 5_000),
            Self::Storage => ("STORAGE_PORT", 4_000),
        }
    }

    pub(crate) const fn admin_port(self) -> u16 {
        match self {
            Self::Gateway => 9_100,
            Self::Master => 9_101,
            Self::Worker => 9_102,
            Self::Storage => 9_103,
        }
    }
}

/// Variable of the connections that a role takes at a time.
const CONNECTIONS: &str = "CSTORE_MAX_CONNECTIONS";

/// Returns true for an error that the next start of the role deals with: what was acknowledged is
/// recovered, and a disk that takes no writes is opened for reads.
pub(crate) fn is_healed_by_a_start(error: &Error) -> bool {
    use cstore_master::RunError as Master;
    use cstore_storage::RunError as Storage;
    let of_storage = matches!(
        error.downcast_ref(),
        Some(Storage::Disk(_) | Storage::TakesWrites)
    );
    let of_master = matches!(
        error.downcast_ref(),
        Some(Master::WriterEnded(_) | Master::TakesWrites)
    );
    of_storage || of_master
}

/// Returns true if another start may succeed without a change by a person: the failed life may still
/// hold the disk or the port, or a disk may come back late.
pub(crate) fn may_pass(error: &Error) -> bool {
    use cstore_master::RunError as Master;
    use cstore_storage::RunError as Storage;
    if let Some(error) = error.downcast_ref::<Storage>() {
        return error.may_pass();
    }
    if let Some(error) = error.downcast_ref::<Master>() {
        return error.may_pass();
    }
    match error.downcast_ref() {
        Some(listen::BindError::Taken { .. } | listen::BindError::Failed { .. }) => true,
        Some(listen::BindError::Denied { .. }) | None => false,
    }
}

/// A role with its configuration.
#[derive(Debug, Clone)]
pub(crate) enum Plan {
    Gateway(cstore_gateway::Config),
    Master(cstore_master::Config),
    Worker(cstore_worker::Config),
    Storage(cstore_storage::Config),
}

impl Plan {
    /// Reads the variables of one role; mistakes stay in `env`.
    pub(crate) fn from_env(role: Role, env: &mut Env<'_>) -> Self {
        match role {
            Role::Gateway => Self::Gateway(cstore_gateway::Config::from_env(env)),
            Role::Master => Self::Master(cstore_master::Config::from_env(env)),
            Role::Worker => Self::Worker(cstore_worker::Config::from_env(env)),
            Role::Storage => Self::Storage(cstore_storage::Config::from_env(env)),
        }
    }

    /// Lets the inner ports of the role speak TLS.
    pub(crate) fn secure(&mut self, tls: Option<Tls>) {
        match self {
            Self::Gateway(config) => config.tls = tls,
            Self::Master(config) => config.tls = tls,
            Self::Worker(config) => config.tls = tls,
            Self::Storage(config) => config.tls = tls,
        }
    }

    /// Lets the role call the other roles of this process without sockets, and be called so.
    pub(crate) fn join(&mut self, local: &LocalServers) {
        let own = match self {
            Self::Gateway(config) => &mut config.local,
            Self::Master(config) => &mut config.local,
            Self::Worker(config) => &mut config.local,
            Self::Storage(config) => &mut config.local,
        };
        *own = local.clone();
    }

    pub(crate) const fn role(&self) -> Role {
        match self {
            Self::Gateway(_) => Role::Gateway,
            Self::Master(_) => Role::Master,
            Self::Worker(_) => Role::Worker,
            Self::Storage(_) => Role::Storage,
        }
    }

    /// Number of shares of descriptors that the role has.
    pub(crate) const fn shares(&self) -> u64 {
        match self {
            Self::Gateway(_) => GATEWAY_SHARES,
            Self::Storage(_) => STORAGE_SHARES,
            Self::Master(_) | Self::Worker(_) => GRPC_SHARES,
        }
    }

    /// Bounds what clients and files may open by `share` descriptors a share. Returns a warning if
    /// that is less than was set.
    pub(crate) fn bound(&mut self, share: u64) -> Option<String> {
        let allowed = share.saturating_mul(self.shares());
        match self {
            Self::Gateway(config) => bound(&mut config.max_connections, CONNECTIONS, allowed),
            Self::Storage(config) => {
                let half = allowed / 2;
                let most = usize::try_from(half).unwrap_or(usize::MAX);
                config.open_files = config.open_files.min(most);
                bound(&mut config.max_connections, CONNECTIONS, half)
            }
            Self::Master(config) => bound(&mut config.max_connections, CONNECTIONS, allowed),
            Self::Worker(config) => bound(&mut config.max_connections, CONNECTIONS, allowed),
        }
    }

    /// Sets the capacity of a storage node whose FS_SIZE is not set.
    pub(crate) fn set_default_capacity(&mut self, capacity: Option<ByteSize>) {
        if let (Self::Storage(config), Some(capacity)) = (self, capacity)
            && config.is_capacity_default
        {
            config.capacity = capacity;
        }
    }

    /// Takes back the permission to format and erase a disk. It is for the first life of a process: what
    /// later ones find was acknowledged since.
    pub(crate) fn keep_data(&mut self) {
        if let Self::Storage(config) = self {
            config.fresh_start = false;
            config.erase = None;
        }
    }

    /// The role's work, from now until the shutdown.
    pub(crate) fn work(
        self,
        secret: ClusterSecret,
        listener: TcpListener,
        readiness: Readiness,
        metrics: RoleMetrics,
        shutdown: Shutdown,
    ) -> BoxFuture<'static, anyhow::Result<()>> {
        match self {
            Self::Gateway(config) => {
                let work =
                    cstore_gateway::run(config, secret, listener, readiness, metrics, shutdown);
                work.map(|ended| ended.map_err(Error::new)).boxed()
            }
            Self::Master(config) => {
                let work =
                    cstore_master::run(config, secret, listener, readiness, metrics, shutdown);
                work.map(|ended| ended.map_err(Error::new)).boxed()
            }
            Self::Worker(config) => {
                let work =
                    cstore_worker::run(config, secret, listener, readiness, metrics, shutdown);
                work.map(|ended| ended.map_err(Error::new)).boxed()
            }
            Self::Storage(config) => {
                let work =
                    cstore_storage::run(config, secret, listener, readiness, metrics, shutdown);
                work.map(|ended| ended.map_err(Error::new)).boxed()
            }
        }
    }
}

/// Returns the paths that a role uses.
fn picked_paths(role: Role, env: &mut Env<'_>, source: &dyn Source) -> Vec<PickedPath> {
    let mut paths = Vec::new();
    if matches!(role, Role::Master | Role::Storage) {
        let data = env.path(DATA, "./data");
        paths.push(PickedPath::data(&data, "--data", source));
    }
    let secret = secret::path(env);
    paths.push(PickedPath::secret(&secret, "--cluster-secret-file", source));
    if role == Role::Gateway {
        let tokens = cstore_gateway::tokens_file(env);
        paths.push(PickedPath::tokens(&tokens, "--api-tokens-file", source));
    }
    paths
}

/// Warns if the port at the address of the master is another one's. Looks at it only if the role is
/// not ready after [`MASTER_PATIENCE`].
async fn look_at_master(master: HostPort, is_tls: bool, readiness: Readiness) {
    tokio::time::sleep(MASTER_PATIENCE).await;
    if readiness.is_ready() {
        return;
    }
    if let Some(found) = probe::other_than_master(&master, is_tls).await {
        tracing::warn!(%master, found, "CSTORE_MASTER_ADDR leads to no master");
    }
}

/// Returns true for the error of a role that was started on a folder that another process has.
pub(crate) fn is_started_twice(error: &Error) -> bool {
    use cstore_master::RunError as Master;
    use cstore_storage::{OpenError, RunError as Storage};
    matches!(error.downcast_ref(), Some(Master::InUse(_)))
        || matches!(
            error.downcast_ref(),
            Some(Storage::Open(OpenError::InUse(_)))
        )
}

/// Opens the two ports of a role, each of which is a variable and a number.
///
/// # Errors
/// If a port cannot be opened. Both mistakes are reported, and neither port stays open.
async fn open_ports(
    host: &str,
    port: (&str, u16),
    admin_port: (&str, u16),
) -> Result<(TcpListener, TcpListener), Failure> {
    let mut ports = Ports::default();
    let listener = ports.bind(port.0, host, port.1).await;
    let admin_listener = ports.bind(admin_port.0, host, admin_port.1).await;
    match (listener, admin_listener) {
        (Some(listener), Some(admin_listener)) => Ok((listener, admin_listener)),
        _ => Err(ports.failure()),
    }
}

/// Runs one role until a signal.
pub(crate) fn run(role: Role, source: &dyn Source) -> Result<(), Failure> {
    let mut env = Env::new(source);
    settings::refuse_unknown(&mut env, source);
    let mut plan = Plan::from_env(role, &mut env);
    let tls = tls::read(&mut env);
    let is_tls = tls.is_some();
    plan.secure(tls);
    let default_master = HostPort::new("127.0.0.1", 4_100);
    let master =
        (role != Role::Master).then(|| env.host_port("CSTORE_MASTER_ADDR", default_master));
    let telemetry = TelemetryConfig::from_env(&mut env);
    let host = env.string("CSTORE_LISTEN_HOST", "127.0.0.1");
    let (variable, default) = role.port();
    let port = env.port(variable, default);
    let admin_port = env.port(process::ADMIN_PORT, role.admin_port());
    let (drain, delay) = (drain_timeout(&mut env), drain_delay(&mut env));
    let paths = picked_paths(role, &mut env, source);
    let secret = secret::read(&secret::path(&mut env));
    let secret = match (env.finish(), secret) {
        (Ok(()), Ok(secret)) => secret,
        (Err(mistakes), Ok(_)) => return Err(Failure::mistakes(&mistakes.to_string())),
        (Ok(()), Err(error)) => return Err(Failure::usage(error)),
        (Err(mistakes), Err(error)) => {
            return Err(Failure::mistakes(&format!("{mistakes}\n{error:#}")));
        }
    };
    let bounded = plan.bound(open_files::share(open_files::raise(), 1, plan.shares())?);
    process::run(role.name(), &telemetry, |shutdown| async move {
        process::log_configuration(&env);
        paths.iter().for_each(PickedPath::log);
        if let Some(warning) = bounded {
            tracing::warn!("{warning}");
        }
        let (listener, admin_listener) =
            open_ports(&host, (variable, port), (process::ADMIN_PORT, admin_port)).await?;
        let addr = listener.local_addr().map_err(Failure::failed)?;
        tracing::info!(role = role.name(), %addr, version = env!("CARGO_PKG_VERSION"), "listening");
        let readiness = Readiness::new(&[]);
        let metrics = RoleMetrics::new(metrics::registry(role.name()));
        let shutdown = process::after_notice(shutdown, delay, readiness.clone());
        let stop = shutdown.child();
        let work = plan.work(
            secret,
            listener,
            readiness.clone(),
            metrics.clone(),
            stop.clone(),
        );
        let looking = master.map(|master| {
            let looking = look_at_master(master, is_tls, readiness.clone());
            spawn("look at the master", looking)
        });
        let admin_stop = Shutdown::new();
        process::serve_admin(
            admin_listener,
            readiness,
            metrics.registry.into(),
            admin_stop.clone(),
        );
        let ended = process::supervise(
            vec![Running::start(
                role.name(),
                role.name().to_owned(),
                stop,
                work,
            )],
            drain,
            shutdown,
        )
        .await;
        if let Some(looking) = looking {
            looking.abort();
        }
        admin_stop.trigger();
        ended
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i1_a_later_life_of_a_role_formats_and_erases_nothing() {
        let set = [
            ("CSTORE_NODE_ID", "storage-1"),
            ("FRESH_START", "TRUE"),
            (
                "CSTORE_FRESH_START_ERASE",
                "7e712a5091e185bd65d4c47fd422dacd",
            ),
        ];
        let mut plan = Plan::from_env(Role::Storage, &mut Env::new(&set));
        let permissions = |plan: &Plan| match plan {
            Plan::Storage(config) => (config.fresh_start, config.erase.is_some()),
            other => panic!("{other:?}"),
        };
        assert_eq!(permissions(&plan), (true, true));
        plan.keep_data();
        assert_eq!(permissions(&plan), (false, false));
    }
}
