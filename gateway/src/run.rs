//! Putting one gateway together and running it to its end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cstore_mesh::member::{connect_master, follow_view};
use cstore_mesh::{
    ClientOptions, Dial, Discovery, EndpointManager, MeshError, MeshMetrics, Protocol, RoleMetrics,
    Service, WorkerClients,
};
use cstore_node::admin::{PartState, Readiness};
use cstore_node::shutdown::spawn;
use cstore_node::{Shutdown, TaskGroup};
use cstore_proto::{Caller, Signer, v1};
use cstore_types::ClusterSecret;
use tokio::net::TcpListener;

use crate::api::router;
use crate::app::{App, BodyBudget, Shared};
use crate::auth::bearer::Auth;
use crate::auth::tokens::{TokenFile, TokenFileError};
use crate::cluster::tickets::Tickets;
use crate::cluster::view::{self, Cluster, ViewUpdater};
use crate::config::Config;
use crate::listener::server;
use crate::metrics::Metrics;

/// Why a gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the inner services cannot be called")]
    Mesh(#[source] MeshError),
    #[error("API tokens in {path}")]
    Tokens {
        path: String,
        #[source]
        error: TokenFileError,
    },
}

/// Serves until the shutdown.
///
/// # Errors
/// When the master's address is none, or the token file cannot be used. A master that is away is
/// waited for.
pub fn run(
    config: Config,
    secret: ClusterSecret,
    listener: TcpListener,
    readiness: Readiness,
    metrics: RoleMetrics,
    shutdown: Shutdown,
) -> impl Future<Output = Result<(), Error>> + Send {
    let own = Metrics::register(&mut metrics.registry.lock());
    // Before the first await, so that nobody can take a gateway for ready that has not begun.
    readiness.set(view::PART, PartState::NotReady("starting".to_owned()));
    async move {
        let tokens = tokens(&config)?;
        let auth = Auth {
            anonymous: config.anonymous,
            tokens: tokens.clone(),
        };
        let (app, manager) = connect(
            config,
            auth,
            &secret,
            (own, &metrics.mesh),
            readiness.clone(),
        )
        .map_err(Error::Mesh)?;
        let app = Arc::new(app);
        let tasks = TaskGroup::new(shutdown.child());
        // It outlives the shutdown, as that of the master: requests that drain still call. It ends
        // with the last client.
        drop(spawn("endpoints of the workers", manager.run()));
        let follow = follow_view(
            app.master.clone(),
            v1::WatchMapRequest::default(),
            app.config.retry_step,
            ViewUpdater::new(app.cluster.clone(), readiness),
            tasks.shutdown().clone(),
        );
        drop(tasks.spawn("follow the cluster", follow));
        drop(tasks.spawn(
            "follow the token file",
            tokens.follow(tasks.shutdown().clone()),
        ));
        drop(tasks.spawn(
            "wait for the cluster",
            announce(app.clone(), tasks.shutdown().clone()),
        ));
        let drain = app.config.drain_timeout;
        server::serve(listener, router::router(app.clone()), app, shutdown).await;
        tasks.drain(drain).await;
        Ok(())
    }
}

fn tokens(config: &Config) -> Result<Arc<TokenFile>, Error> {
    let refused = |error| Error::Tokens {
        path: config.tokens_file.display().to_string(),
        error,
    };
    TokenFile::open(config.tokens_file.clone())
        .map(Arc::new)
        .map_err(refused)
}

fn connect(
    config: Config,
    auth: Auth,
    secret: &ClusterSecret,
    (metrics, mesh): (Metrics, &MeshMetrics),
    readiness: Readiness,
) -> Result<(App, EndpointManager), MeshError> {
    let options = ClientOptions {
        dial: Dial::secured(config.tls.as_ref(), Protocol::Grpc).within(config.local.clone()),
        ..ClientOptions::new(
            "gateway",
            Signer::new(secret, Caller::Gateway),
            mesh.clone(),
        )
    };
    let master = connect_master(&config.master_addr.to_string(), &options)?;
    let cluster = Cluster::new();
    let members = Discovery::Members(cluster.workers());
    let (workers, manager) = Service::new("worker", members, &options);
    let app = App {
        auth,
        master,
        workers: WorkerClients::new(workers),
        cluster,
        tickets: Tickets::default(),
        bodies: BodyBudget::default(),
        metrics,
        readiness,
        started: AtomicBool::new(false),
        config,
    };
    Ok((app, manager))
}

/// Opens the door when the cluster is complete for the first time, and says so.
async fn announce(app: Shared, shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.triggered() => {}
        () = app.cluster.wait_ready() => {
            app.started.store(true, Ordering::Release);
            tracing::info!("Application startup complete");
        }
    }
}
